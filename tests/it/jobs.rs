//! Jobs as clients see them: listed, shown, cancelled, kept over a restart; and who may.

use serde_json::{Value, json};

use crate::support::{Api, Hub, Receiver, items, sample, until};

/// A paused webhook of `acme` over a log of `events` events, none of which it matches: what is replayed into it waits.
async fn paused_webhook(hub: &Hub, acme: &Api, receiver: &Receiver, events: usize) -> String {
    let wanted = json!({"url": receiver.url("/hook"), "org": "acme", "event_types": ["none.such"]});
    let webhook = acme.webhook(&wanted).await["id"].as_str().unwrap().to_owned();
    acme.act(&format!("/v1/webhooks/{webhook}/pause")).await.expect(200);
    for from in (0..events).step_by(500) {
        let batch: Vec<_> =
            (from..(from + 500).min(events)).map(|n| json!({"id": format!("e{n}"), "type": "a.b"})).collect();
        acme.post("/v1/events/batch", &Value::from(batch)).await.expect(202);
    }
    assert!(hub.admin().get("/v1/jobs").await.expect(200).json()["items"].as_array().unwrap().is_empty());
    webhook
}

pub async fn wait_job(api: &Api, id: &str, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    until(&format!("job {id} {what}"), || async {
        let job = api.get(&format!("/v1/jobs/{id}")).await.expect(200).json();
        fits(&job).then_some(job)
    })
    .await
}

#[tokio::test]
async fn a_job_waits_for_room_is_seen_doing_so_and_goes_on_after_a_restart_until_it_is_cancelled() {
    let mut hub = Hub::start().await;
    let acme = hub.acme().await;
    let receiver = Receiver::start();
    let webhook = paused_webhook(&hub, &acme, &receiver, 1_500).await;
    let wanted = json!({"match": "all"});
    let made = acme.post(&format!("/v1/webhooks/{webhook}/replay"), &wanted).await.expect(202).json();
    let id = made["id"].as_str().unwrap().to_owned();
    assert_eq!((&made["kind"], &made["consumer"], &made["org"]), (&json!("replay"), &json!(webhook), &json!("acme")));
    assert_eq!(made["progress"]["total"], 1_500, "{made}");
    let held = |job: &Value| job["waits_for"].as_str().is_some_and(|text| text.contains("replayed events"));
    let job = wait_job(&acme, &id, "waits for room", held).await;
    assert_eq!((&job["state"], &job["progress"]["handed_on"]), (&json!("running"), &json!(1_000)), "{job}");
    let page = acme.get("/v1/jobs?state=running&kind=replay").await.expect(200).json();
    assert_eq!(items(&page).len(), 1, "{page}");
    let metrics = hub.admin().get("/metrics").await.expect(200).text;
    assert_eq!(sample(&metrics, "tidegate_jobs", &["state=\"running\""]), Some(1.0));
    assert_eq!(sample(&metrics, "tidegate_job_events_total", &["kind=\"replay\""]), Some(1_000.0));

    hub.kill();
    hub.restart().await;
    let (acme, id) = (acme.at(hub.public_address()), id.as_str());
    let job = wait_job(&acme, id, "waits for room again", held).await;
    assert_eq!(job["progress"]["handed_on"], 1_000, "what is under way is not doubled: {job}");
    let cancelled = acme.act(&format!("/v1/jobs/{id}/cancel")).await.expect(200).json();
    assert_eq!(cancelled["state"], "cancelled");
    assert!(cancelled["updated_by"].as_str().unwrap().starts_with("key:"), "{cancelled}");
    acme.act(&format!("/v1/jobs/{id}/cancel")).await.expect_problem(409, "conflict");
    assert!(hub.terminate().await.success());
    hub.restart().await;
    let acme = acme.at(hub.public_address());
    assert_eq!(acme.get(&format!("/v1/jobs/{id}")).await.expect(200).json()["state"], "cancelled");
}

#[tokio::test]
async fn a_job_of_one_org_is_not_there_for_another() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let receiver = Receiver::start();
    let webhook = paused_webhook(&hub, &acme, &receiver, 3).await;
    let made = acme.post(&format!("/v1/webhooks/{webhook}/replay"), &json!({})).await.expect(202).json();
    let id = made["id"].as_str().unwrap();
    let globex = hub.public(&hub.key(&["publish", "consume", "work", "manage", "read"], Some("globex")).await);
    for (method, path, body) in [
        ("GET", format!("/v1/jobs/{id}"), Value::Null),
        ("POST", format!("/v1/jobs/{id}/cancel"), json!({})),
        ("POST", format!("/v1/webhooks/{webhook}/replay"), json!({})),
        ("POST", format!("/v1/consumers/{webhook}/replay"), json!({})),
        ("POST", format!("/v1/webhooks/{webhook}/recover"), json!({"since": "2020-01-01T00:00:00Z"})),
        ("POST", format!("/v1/webhooks/{webhook}/deliveries/e0/retry"), json!({})),
    ] {
        globex.call(method, &path, &body).await.expect_problem(404, "not-found");
    }
    assert!(items(&globex.get("/v1/jobs").await.expect(200).json()).is_empty());
    globex.get("/v1/jobs?org=acme").await.expect_problem(403, "forbidden");
    assert_eq!(items(&hub.admin().get("/v1/jobs?org=acme").await.expect(200).json()).len(), 1);
    // Only those that may manage.
    let reader = hub.public(&hub.key(&["publish", "consume", "work", "read"], Some("acme")).await);
    for (method, path) in [("GET", "/v1/jobs".to_owned()), ("POST", format!("/v1/jobs/{id}/cancel"))] {
        reader.call(method, &path, &json!({})).await.expect_problem(403, "forbidden");
    }
    acme.get("/v1/jobs/job_nothing").await.expect_problem(404, "not-found");
}

#[tokio::test]
async fn a_bad_parameter_of_the_list_is_refused_by_its_name() {
    let hub = Hub::start().await;
    for (name, value) in [("state", "asleep"), ("cursor", "7"), ("limit", "0"), ("limit", "1001"), ("colour", "red")] {
        let problem = hub.admin().get(&format!("/v1/jobs?{name}={value}")).await;
        let problem = problem.expect_problem(400, "invalid-parameter").json();
        // What stands under an unknown name is not repeated: it may be a credential.
        let sent = if name == "colour" { "***" } else { value };
        assert_eq!((&problem["field"], &problem["sent"]), (&json!(name), &json!(sent)), "{problem}");
    }
    let long = "k".repeat(33);
    hub.admin().get(&format!("/v1/jobs?kind={long}")).await.expect_problem(400, "invalid-parameter");
}

#[tokio::test]
async fn a_job_that_panics_goes_on() {
    let hub = Hub::start_with(&[("FAULTS__ENABLED", "true")]).await;
    let acme = hub.acme().await;
    let receiver = Receiver::start();
    let webhook = paused_webhook(&hub, &acme, &receiver, 1_200).await;
    let made = acme.post(&format!("/v1/webhooks/{webhook}/replay"), &json!({"match": "all", "rate": 2_000})).await;
    let id = made.expect(202).json()["id"].as_str().unwrap().to_owned();
    for _ in 0..3 {
        hub.admin().act("/v1/admin/faults/panic-jobs").await.expect(202);
    }
    acme.act(&format!("/v1/webhooks/{webhook}/resume")).await.expect(200);
    let job = wait_job(&acme, &id, "is done", |job| job["state"] == "done").await;
    assert_eq!(job["progress"]["looked_at"], 1_200, "{job}");
    receiver.wait_for("/hook", 1_200).await;
}
