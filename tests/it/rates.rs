//! How fast a webhook is called, and when its breaker stops that: rates and presets of its own (BRK-2, BRK-5).

use std::time::Duration;

use serde_json::{Value, json};
use tidegate::ground::clock::{Clock as _, ManualClock};
use tidegate::ground::context::WriteContext;
use tidegate::ground::fields::Fields;

use crate::embed::{START, directory, nothing_is_out, open, publish, stop_settled};
use crate::support::{Hub, Receiver, Reply, items, retry, sample, until};

fn fields(value: &Value) -> Fields {
    Fields::parse(value.to_string().as_bytes()).unwrap()
}

#[tokio::test]
async fn a_rate_lets_the_burst_through_and_then_so_many_a_second_without_spending_attempts() {
    let dir = directory();
    let clock = ManualClock::starting_at(START);
    let receiver = Receiver::start();
    let hub = open(dir.path(), clock.clone(), |config| config.delivery.allow_private_networks = true).await;
    let context = WriteContext { by: "test".into(), at: clock.now(), ..WriteContext::default() };
    let wanted = json!({"url": receiver.url("/hook"), "org": "acme", "event_types": ["*"],
        "rate_limit": {"per_second": 2, "burst": 3}});
    let (webhook, _) = hub.create_webhook(fields(&wanted), None, context).await.unwrap();
    for n in 0..9 {
        publish(&hub, "a.b", &format!("{n}")).await;
    }
    let mut wanted = 3;
    receiver.wait_for("/hook", wanted).await;
    while wanted < 9 {
        // Held until the next token, and it says so.
        let held = until("the webhook waits for its rate", || async {
            let all = hub.consumers().await;
            let one = all.iter().find(|one| one["id"] == webhook.id.as_str()).unwrap().clone();
            (one["hold"]["reason"] == "rate_limited").then_some(one)
        })
        .await;
        assert_eq!(held["hold"]["until"], clock.now().plus_ms(500).to_rfc3339(), "{held}");
        clock.advance(Duration::from_millis(499));
        publish(&hub, "c.d", &format!("fence-{wanted}")).await;
        assert_eq!(receiver.on("/hook").len(), wanted, "none before its time");
        clock.advance(Duration::from_millis(1));
        wanted += 1;
        receiver.wait_for("/hook", wanted).await;
        assert_eq!(receiver.on("/hook").len(), wanted);
    }
    let metrics = String::from_utf8(hub.metrics_text().unwrap()).unwrap();
    let deferred = sample(&metrics, "tidegate_deliveries_deferred_total", &[r#"reason="rate_limited""#]);
    assert!(deferred.is_some_and(|count| count >= 6.0), "{deferred:?}");
    until("each request was an attempt, and nothing else was", || async {
        let metrics = String::from_utf8(hub.metrics_text().unwrap()).unwrap();
        let attempts = sample(&metrics, "tidegate_delivery_attempts_total", &[r#"outcome="delivered""#]).unwrap();
        (attempts as usize == receiver.on("/hook").len()).then_some(())
    })
    .await;
    stop_settled(&hub).await;
}

#[tokio::test]
async fn a_rate_can_be_named_changed_and_taken_away() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    let mut wanted =
        json!({"url": receiver.url("/hook"), "org": "acme", "event_types": ["*"], "rate_limit": "esignature"});
    let webhook = acme.webhook(&wanted).await;
    assert_eq!(webhook["rate_limit"], json!({"per_second": 2.0, "burst": 20}), "{webhook}");
    let path = format!("/v1/webhooks/{}", webhook["id"].as_str().unwrap());
    let slow = json!({"rate_limit": {"per_second": 0.001, "burst": 1}});
    let changed = acme.patch(&path, &slow).await.expect(200).json();
    assert_eq!(changed["rate_limit"], json!({"per_second": 0.001, "burst": 1}));
    for n in 0..4 {
        acme.publish(&json!({"id": format!("{n}"), "type": "a.b"})).await;
    }
    receiver.wait_for("/hook", 1).await;
    acme.wait_status("3", webhook["id"].as_str().unwrap(), "pending").await;
    // Without a rate everything that waited for it goes at once.
    let free = acme.patch(&path, &json!({"rate_limit": null})).await.expect(200).json();
    assert_eq!(free["rate_limit"], Value::Null);
    receiver.wait_for("/hook", 4).await;
    for (field, sent) in [
        ("rate_limit", json!("fast")),
        ("rate_limit.per_second", json!({"burst": 1})),
        ("rate_limit.per_second", json!({"per_second": 0})),
        ("rate_limit.burst", json!({"per_second": 1, "burst": 0})),
        ("rate_limit.capacity", json!({"per_second": 1, "capacity": 5})),
    ] {
        wanted["rate_limit"] = sent;
        let problem = acme.post("/v1/webhooks", &wanted).await.expect_problem(400, "invalid-field").json();
        assert_eq!(problem["field"], field, "{problem}");
    }
}

#[tokio::test]
async fn a_breaker_of_its_own_opens_and_closes_by_its_own_numbers() {
    let dir = directory();
    let clock = ManualClock::starting_at(START);
    let receiver = Receiver::start();
    let hub = open(dir.path(), clock.clone(), |config| config.delivery.allow_private_networks = true).await;
    let context = || WriteContext { by: "test".into(), at: clock.now(), ..WriteContext::default() };
    let hook = |path: &str, breaker: Value| {
        json!({"url": receiver.url(path), "org": "acme", "event_types": [format!("t{}.*", path.replace('/', "-"))],
            "ordering": "strict", "retry": retry(&[1; 20]), "breaker": breaker})
    };
    // erp: 3 failures open it, 2 successes close it, 120 s of cooldown.
    receiver.script("/erp", [Reply::Status(500), Reply::Status(500), Reply::Status(500)]);
    let (webhook, _) = hub.create_webhook(fields(&hook("/erp", json!("erp"))), None, context()).await.unwrap();
    let phase = |wanted: &'static str| {
        let (hub, id) = (hub.clone(), webhook.id.clone());
        async move {
            until(&format!("the breaker is {wanted}"), || async {
                let all = hub.breakers().await.unwrap();
                let one = all.iter().find(|one| one["id"] == id.as_str()).unwrap().clone();
                (one["state"] == wanted).then_some(one)
            })
            .await
        }
    };
    for n in 0..3 {
        publish(&hub, "t-erp.x", &format!("{n}")).await;
    }
    for attempts in 1..=3 {
        receiver.wait_for("/erp", attempts).await;
        if attempts < 3 {
            until("the retry is due", || async {
                clock.advance(Duration::from_millis(1));
                (receiver.on("/erp").len() > attempts).then_some(())
            })
            .await;
        }
    }
    let open = phase("open").await;
    let due = tidegate::ground::clock::UnixMs::parse_rfc3339(open["until"].as_str().unwrap()).unwrap();
    assert!(due.since_ms(clock.now()) > 110_000, "the cooldown of the preset: {open}");
    nothing_is_out(&hub).await;
    clock.advance(Duration::from_millis(due.since_ms(clock.now())));
    until("two probes close it", || async {
        // In steps so small that no lease ends while a slow machine answers.
        clock.advance(Duration::from_millis(5));
        (receiver.on("/erp").len() >= 6).then_some(())
    })
    .await;
    phase("closed").await;
    let came: Vec<_> = receiver.on("/erp").iter().map(|one| one.id().to_owned()).collect();
    assert_eq!(came, ["0", "0", "0", "0", "1", "2"]);
    stop_settled(&hub).await;
}

#[tokio::test]
async fn breakers_are_named_or_numbered_within_bounds_and_changed_while_they_run() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    let mut wanted =
        json!({"url": receiver.url("/hook"), "org": "acme", "event_types": ["*"], "retry": retry(&[5; 50])});
    for (name, failures, successes, call_ms, cooldown_ms) in [
        ("sales", 5, 2, 30_000, 60_000),
        ("erp", 3, 2, 45_000, 120_000),
        ("esignature", 5, 3, 60_000, 300_000),
        ("communication", 10, 3, 15_000, 30_000),
        ("bridge", 5, 1, 3_000, 300_000),
    ] {
        wanted["breaker"] = json!(name);
        let breaker = acme.webhook(&wanted).await["breaker"].clone();
        let numbers =
            ["failure_threshold", "success_threshold", "call_timeout_ms", "cooldown_ms"].map(|name| &breaker[name]);
        assert_eq!(numbers, [&json!(failures), &json!(successes), &json!(call_ms), &json!(cooldown_ms)], "{name}");
    }
    for (field, sent) in [
        ("breaker", json!("swift")),
        ("breaker", json!(7)),
        ("breaker.failure_threshold", json!({"failure_threshold": 0})),
        ("breaker.cooldown_cap_ms", json!({"cooldown_ms": 5_000, "cooldown_cap_ms": 4_000})),
        ("breaker.call_timeout_ms", json!({"call_timeout_ms": 600_001})),
        ("breaker.colour", json!({"colour": 1})),
    ] {
        wanted["breaker"] = sent;
        let problem = acme.post("/v1/webhooks", &wanted).await.expect_problem(400, "invalid-field").json();
        assert_eq!(problem["field"], field, "{problem}");
    }
    // A number that is changed holds for the breaker that runs.
    receiver.always("/changed", Reply::Status(500));
    wanted["url"] = json!(receiver.url("/changed"));
    wanted["event_types"] = json!(["changed.*"]);
    wanted["breaker"] = json!({"failure_threshold": 10_000});
    let webhook = acme.webhook(&wanted).await;
    acme.publish(&json!({"type": "changed.x"})).await;
    receiver.wait_for("/changed", 8).await;
    let path = format!("/v1/webhooks/{}", webhook["id"].as_str().unwrap());
    acme.patch(&path, &json!({"breaker": {"failure_threshold": 2}})).await.expect(200);
    until("the breaker opens", || async {
        let all = hub.admin().get("/v1/admin/breakers").await.expect(200).json();
        let one = items(&all).iter().find(|one| one["id"] == webhook["id"]).unwrap().clone();
        (one["state"] == "open").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_call_that_takes_longer_than_its_breakers_limit_has_failed() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    receiver.always("/hook", Reply::Hold);
    let wanted = json!({"url": receiver.url("/hook"), "org": "acme", "event_types": ["*"], "retry": retry(&[600_000]),
        "breaker": {"call_timeout_ms": 150}});
    let webhook = acme.webhook(&wanted).await;
    acme.publish(&json!({"type": "a.b"})).await;
    let attempt = acme.wait_attempts(webhook["id"].as_str().unwrap(), 1).await.remove(0);
    assert_eq!(attempt["outcome"], "timeout", "{attempt}");
    assert!(attempt["error"].as_str().unwrap().contains("150 ms"), "{attempt}");
}
