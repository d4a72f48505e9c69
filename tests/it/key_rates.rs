//! What a key may send in a second (BRK-5, SEC-1): counted, told in headers, changed at run time, kept over a restart.

use serde_json::{Value, json};

use crate::support::{Api, Hub};

/// A key of `acme` with a rate, and its id.
async fn limited(hub: &Hub, rate: Value) -> (Api, String) {
    let wanted = json!({"application": "shop", "org": "acme", "scopes": ["publish", "read"], "rate_limit": rate});
    let made = hub.admin().post("/v1/admin/keys", &wanted).await.expect(201).json();
    (hub.public(made["key"].as_str().unwrap()), made["id"].as_str().unwrap().to_owned())
}

fn event(id: &str) -> Value {
    json!({"id": id, "type": "a.b"})
}

#[tokio::test]
async fn past_its_rate_a_key_is_told_when_to_come_back_and_others_are_not_held_up() {
    let hub = Hub::start().await;
    // A token in a hundred seconds: within the test none comes in.
    let (acme, _) = limited(&hub, json!({"per_second": 0.01, "burst": 3})).await;
    for (n, left) in [(0, 2), (1, 1), (2, 0)] {
        let answer = acme.post("/v1/events", &event(&n.to_string())).await.expect(202);
        assert_eq!(answer.header("ratelimit-policy"), Some("\"key\";q=3;w=300"));
        let told = answer.header("ratelimit").unwrap();
        assert!(told.starts_with(&format!("\"key\";r={left};t=")), "{told}");
    }
    let refused = acme.post("/v1/events", &event("3")).await.expect_problem(429, "rate-limited");
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=100).contains(&seconds), "{seconds}");
    assert_eq!(refused.header("ratelimit-policy"), Some("\"key\";q=3;w=300"));
    assert_eq!(refused.json()["retryable"], true);
    // Everything a key asks for counts.
    acme.get("/v1/events/0").await.expect_problem(429, "rate-limited");
    let other = hub.acme().await;
    let answer = other.get("/v1/events/0").await.expect(200);
    assert_eq!(answer.header("ratelimit"), None, "a key without a limit is told of none");
    other.get("/v1/events/3").await.expect(404);
    let metrics = hub.admin().get("/metrics").await.expect(200).text;
    assert!(metrics.contains("tidegate_rate_limited_total{whose=\"key\"} 2"), "{metrics}");
}

#[tokio::test]
async fn a_batch_counts_by_its_events_and_a_stream_waits_instead() {
    let hub = Hub::start().await;
    let (acme, _) = limited(&hub, json!({"per_second": 0.01, "burst": 5})).await;
    let batch =
        |name: &str, events: usize| Value::from((0..events).map(|n| event(&format!("{name}-{n}"))).collect::<Vec<_>>());
    acme.post("/v1/events/batch", &batch("first", 4)).await.expect(202);
    acme.post("/v1/events/batch", &batch("second", 4)).await.expect_problem(429, "rate-limited");
    let other = hub.acme().await;
    other.get("/v1/events/first-3").await.expect(200);
    other.get("/v1/events/second-0").await.expect(404);

    let (fast, _) = limited(&hub, json!({"per_second": 2_000, "burst": 1})).await;
    let lines: String = (0..600).map(|n| format!("{}\n", event(&format!("line-{n}")))).collect();
    let answer = fast.post_bytes("/v1/events/stream", "application/x-ndjson", lines.into_bytes()).await.expect(200);
    assert_eq!(answer.text.matches("\"seq\":").count(), 600, "{}", answer.text);
}

#[tokio::test]
async fn a_limit_changes_at_once_and_holds_over_a_restart() {
    let mut hub = Hub::start().await;
    let (acme, id) = limited(&hub, json!({"per_second": 0.01, "burst": 1})).await;
    acme.post("/v1/events", &event("0")).await.expect(202);
    acme.post("/v1/events", &event("1")).await.expect(429);
    let path = format!("/v1/admin/keys/{id}");
    let changed = hub.admin().patch(&path, &json!({"rate_limit": "erp"})).await.expect(200).json();
    assert_eq!(changed["rate_limit"], json!({"per_second": 5.0, "burst": 50}));
    assert_eq!(changed["updated_by"]["by"], "admin");
    acme.post("/v1/events", &event("2")).await.expect(202);
    hub.restart().await;
    let (acme, admin) = (acme.at(hub.public_address()), hub.admin());
    let answer = acme.post("/v1/events", &event("3")).await.expect(202);
    assert_eq!(answer.header("ratelimit-policy"), Some("\"key\";q=50;w=10"));
    admin.patch(&path, &json!({"rate_limit": null})).await.expect(200);
    assert_eq!(acme.post("/v1/events", &event("4")).await.expect(202).header("ratelimit"), None);
    for (change, field) in [
        (json!({"rate_limit": {"per_second": 0}}), "rate_limit.per_second"),
        (json!({"rate_limit": "none"}), "rate_limit"),
        (json!({"scopes": ["read"]}), "scopes"),
        (json!({"expires_at": "2001-01-01T00:00:00Z"}), "expires_at"),
    ] {
        let problem = admin.patch(&path, &change).await.expect_problem(400, "invalid-field").json();
        assert_eq!(problem["field"], field, "{problem}");
    }
    admin.patch("/v1/admin/keys/key_nobody", &json!({})).await.expect_problem(404, "not-found");
    acme.patch(&path, &json!({})).await.expect(404);
}
