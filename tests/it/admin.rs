//! The operator's side: health, version, metrics, settings, statistics, consumers, breakers (OBS-1, OBS-4, OUT-7, OUT-8, BRK).

use serde_json::{Value, json};

use crate::support::{Api, Hub, Receiver, Reply, find, items, retry, sample, until};

#[tokio::test]
async fn health_readiness_and_version_answer_on_both_listeners_without_a_key() {
    let hub = Hub::start().await;
    for address in [hub.public_address(), hub.admin_address()] {
        let anyone = Api::anonymous(address);
        anyone.get("/healthz").await.expect(200);
        anyone.get("/readyz").await.expect(200);
        let version = anyone.get("/version").await.expect(200).json();
        assert_eq!(version["version"], env!("CARGO_PKG_VERSION"), "{version}");
        assert!(version.get("commit").is_some(), "{version}");
    }
}

#[tokio::test]
async fn the_metrics_count_what_happened() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    receiver.script("/hook", [Reply::Status(500)]);
    let wanted = json!({"url": receiver.url("/hook"), "org": "acme", "event_types": ["*"], "retry": retry(&[50])});
    let id = acme.webhook(&wanted).await["id"].as_str().unwrap().to_owned();
    let event = acme.publish(&json!({"type": "a.b"})).await;
    acme.wait_status(&event, &id, "processed").await;
    // Metrics are the administrator's or anyone's who reaches the admin listener, never the public's.
    hub.anonymous().get("/metrics").await.expect_any(&[401, 403, 404]);
    until("the metrics show two requests, one of them an error", || async {
        let answer = hub.admin().get("/metrics").await.expect(200);
        assert!(answer.header("content-type").unwrap_or_default().starts_with("text/plain"), "{:?}", answer.headers);
        let attempts = |outcome: &str| {
            let labels = [r#"consumer_kind="webhook""#, &format!(r#"outcome="{outcome}""#)];
            sample(&answer.text, "tidegate_delivery_attempts_total", &labels)
        };
        let timed = sample(&answer.text, "tidegate_delivery_duration_seconds_count", &[]);
        let appended = sample(&answer.text, "tidegate_events_appended_total", &[]);
        let process = sample(&answer.text, "process_resident_memory_bytes", &[]).is_some();
        let counted = attempts("delivered") == Some(1.0) && attempts("status") == Some(1.0);
        let good = counted && timed == Some(2.0) && appended == Some(1.0);
        (good && process).then_some(())
    })
    .await;
}

#[tokio::test]
async fn settings_change_at_run_time_and_stay_over_a_restart() {
    let mut hub = Hub::start().await;
    let settings = hub.admin().get("/v1/admin/settings").await.expect(200).json();
    for (name, value) in [
        ("polling_interval_ms", json!(5_000)),
        ("idle_polling_interval_ms", json!(30_000)),
        ("batch_size", json!(10)),
        ("max_attempts", json!(3)),
        ("processing_lease_ms", json!(30_000)),
        ("retry_base_delay_ms", json!(1_000)),
        ("startup_drain_enabled", json!(true)),
        ("dead_letter_enabled", json!(true)),
        ("startup_drain_batch_size", json!(50)),
    ] {
        assert_eq!(find(&settings, name), Some(&value), "{name}: {settings}");
    }
    hub.admin().patch("/v1/admin/settings", &json!({"batch_size": 25, "max_attempts": 5})).await.expect(200);
    for bad in [json!({"batch_size": 0}), json!({"batch_size": "many"}), json!({"max_attempts": 9, "batch_size": -1})] {
        let problem = hub.admin().patch("/v1/admin/settings", &bad).await.expect_problem(400, "invalid-field").json();
        assert!(problem["field"].as_str().unwrap().ends_with("batch_size"), "{problem}");
        assert!(problem["limit"].as_str().unwrap().contains("1 to 1000"), "the range is told: {problem}");
    }
    hub.admin().patch("/v1/admin/settings", &json!({"colour": 1})).await.expect_problem(400, "invalid-field");
    for _ in 0..2 {
        let settings = hub.admin().get("/v1/admin/settings").await.expect(200).json();
        assert_eq!(find(&settings, "batch_size"), Some(&json!(25)), "{settings}");
        assert_eq!(find(&settings, "max_attempts"), Some(&json!(5)), "{settings}");
        hub.kill();
        hub.restart().await;
    }
}

#[tokio::test]
async fn with_the_outbox_off_events_are_refused_and_with_it_on_again_taken() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    hub.admin().patch("/v1/admin/settings", &json!({"enabled": false})).await.expect(200);
    let refused = acme.post("/v1/events", &json!({"id": "off", "type": "a.b"})).await.expect(503);
    assert!(refused.header("retry-after").is_some(), "{:?}", refused.headers);
    acme.get("/v1/events/off").await.expect(404);
    hub.admin().patch("/v1/admin/settings", &json!({"enabled": true})).await.expect(200);
    acme.publish(&json!({"id": "off", "type": "a.b"})).await;
}

#[tokio::test]
async fn statistics_and_consumers_say_where_the_deliveries_stand() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    receiver.always("/bad", Reply::Status(400));
    let hook =
        |path: &str| json!({"url": receiver.url(path), "org": "acme", "event_types": ["*"], "retry": retry(&[50])});
    let good = acme.webhook(&hook("/good")).await["id"].as_str().unwrap().to_owned();
    let bad = acme.webhook(&hook("/bad")).await["id"].as_str().unwrap().to_owned();
    let paused = acme.webhook(&hook("/paused")).await["id"].as_str().unwrap().to_owned();
    acme.act(&format!("/v1/webhooks/{paused}/pause")).await.expect(200);
    for _ in 0..3 {
        acme.publish(&json!({"type": "a.b"})).await;
    }
    acme.wait_dead_letters(&bad, 3).await;
    receiver.wait_for("/good", 3).await;
    until("the statistics count three dead letters", || async {
        let stats = hub.admin().get("/v1/admin/stats").await.expect(200).json();
        for name in ["pending", "processing", "processed", "failed"] {
            assert!(find(&stats, name).is_some_and(Value::is_number), "{name}: {stats}");
        }
        let dead = find(&stats, "dead_letter").or_else(|| find(&stats, "dead_letters"));
        (dead == Some(&json!(3))).then_some(())
    })
    .await;
    // By the three at least: what the hub itself says of the dead letters is on the log as well.
    until("the paused one lags by three", || async {
        let page = hub.admin().get("/v1/admin/consumers").await.expect(200).json();
        let of = |id: &str| {
            let found = items(&page).iter().find(|one| one.as_object().unwrap().values().any(|value| value == id));
            found.unwrap_or_else(|| panic!("{id} is listed: {page}"))
        };
        (of(&paused)["lag"].as_u64() >= Some(3) && of(&good)["lag"] == 0 && of(&bad)["lag"] == 0).then_some(())
    })
    .await;
}

async fn breaker_state(hub: &Hub, id: &str) -> Value {
    let page = hub.admin().get("/v1/admin/breakers").await.expect(200).json();
    let found = items(&page).iter().find(|one| one["id"] == id);
    found.unwrap_or_else(|| panic!("{id} is listed: {page}"))["state"].clone()
}

#[tokio::test]
async fn a_breaker_forced_open_stops_one_webhook_spends_no_attempt_and_stays_open_over_a_kill() {
    let mut hub = Hub::start().await;
    let receiver = Receiver::start();
    let key = hub.key(&["publish", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    let hook =
        |path: &str| json!({"url": receiver.url(path), "org": "acme", "event_types": ["*"], "retry": retry(&[50])});
    let sick = acme.webhook(&hook("/sick")).await["id"].as_str().unwrap().to_owned();
    let well = acme.webhook(&hook("/well")).await["id"].as_str().unwrap().to_owned();
    assert_eq!(breaker_state(&hub, &sick).await, "closed");
    hub.admin().act(&format!("/v1/admin/breakers/{sick}/open")).await.expect(200);
    for restarted in [false, true] {
        if restarted {
            hub.kill();
            hub.restart().await;
        }
        assert_eq!(breaker_state(&hub, &sick).await, "forced_open");
        let acme = hub.public(&key);
        let event = acme.publish(&json!({"id": format!("b-{restarted}"), "type": "a.b"})).await;
        acme.wait_status(&event, &well, "processed").await;
        let attempts = acme.get(&format!("/v1/webhooks/{sick}/attempts")).await.expect(200).json();
        assert!(items(&attempts).is_empty(), "{attempts}");
        assert!(receiver.on("/sick").is_empty());
    }
    hub.admin().act(&format!("/v1/admin/breakers/{sick}/reset")).await.expect(200);
    let acme = hub.public(&key);
    for event in ["b-false", "b-true"] {
        let entry = acme.wait_status(event, &sick, "processed").await;
        assert_eq!(entry["attempts"], 1, "{entry}");
    }
    assert_eq!(breaker_state(&hub, &sick).await, "closed");
    hub.admin().act("/v1/admin/breakers/whk_nothing/open").await.expect_problem(404, "not-found");
}

#[tokio::test]
async fn failures_in_a_row_open_the_breaker_and_a_good_probe_closes_it_without_an_attempt_lost() {
    let settings =
        [("BREAKER__FAILURE_THRESHOLD", "3"), ("BREAKER__COOLDOWN_MS", "200"), ("BREAKER__COOLDOWN_CAP_MS", "200")];
    let hub = Hub::start_with(&settings).await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    receiver.script("/hook", (0..3).map(|_| Reply::Status(500)));
    let wanted = json!({"url": receiver.url("/hook"), "org": "acme", "event_types": ["*"], "retry": retry(&[20; 10]),
        "ordering": "strict"});
    let id = acme.webhook(&wanted).await["id"].as_str().unwrap().to_owned();
    let event = acme.publish(&json!({"id": "probe", "type": "a.b"})).await;
    let entry = acme.wait_status(&event, &id, "processed").await;
    assert_eq!(entry["attempts"], 4, "three failures and the probe: {entry}");
    until("the breaker is closed again", || async { (breaker_state(&hub, &id).await == "closed").then_some(()) }).await;
    until("both transitions stand in the log", || async {
        let log = hub.log();
        let told = |line: &&str| line.contains("\"WARN\"") && line.contains("\"from\"") && line.contains("\"to\"");
        (log.lines().filter(told).count() >= 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_administrator_sees_and_does_everything_of_every_org() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    let wanted = json!({"url": receiver.url("/hook"), "org": "acme", "event_types": ["*"]});
    let id = acme.webhook(&wanted).await["id"].as_str().unwrap().to_owned();
    let admin = hub.admin();
    admin.post("/v1/events", &json!({"id": "by-admin", "type": "a.b", "org": "acme"})).await.expect(202);
    receiver.wait_event("/hook", "by-admin").await;
    assert_eq!(admin.get("/v1/events/by-admin").await.expect(200).json()["org"], "acme");
    admin.act(&format!("/v1/webhooks/{id}/pause")).await.expect(200);
    assert_eq!(acme.get(&format!("/v1/webhooks/{id}")).await.expect(200).json()["status"], "paused");
}
