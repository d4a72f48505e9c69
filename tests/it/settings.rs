//! Run-time settings have their effect at once, in every later life of the actors concerned, and after a restart (OUT-4,
//! OUT-5, OUT-7); what is written by the clock is written without a stop (SEC-1).

use std::time::Duration;

use serde_json::{Value, json};
use tidegate::event::parse::parse_event;
use tidegate::ground::clock::{Clock as _, ManualClock, SystemClock};
use tidegate::ground::context::WriteContext;
use tidegate::ground::fields::Fields;
use tidegate::handler::HandlerError;
use tidegate::hub::LetterQuery;
use tidegate::store::{AppendUnit, EventLog as _, Prepared, Registry as _};

use crate::embed::{Calls, START, directory, open, publish, standing, subscribe, wait_standing, well};
use crate::support::{Hub, sample, until};

const HOUR_MS: u64 = 3_600_000;

fn patch(hub: &tidegate::hub::Hub, changes: &Value) {
    hub.patch_settings(changes.as_object().unwrap()).unwrap();
}

async fn restarts(hub: &Hub, actor: &str) -> f64 {
    let metrics = hub.admin().get("/metrics").await.expect(200).text;
    sample(&metrics, "tidegate_actor_restarts", &[&format!(r#"actor="{actor}""#)]).unwrap_or_default()
}

/// Panics the outbox and waits until its next life takes what it is given.
async fn panic_outbox(hub: &Hub) {
    let before = restarts(hub, "outbox").await;
    hub.admin().act("/v1/admin/faults/panic-outbox").await.expect(202);
    until("the outbox was built anew", || async { (restarts(hub, "outbox").await > before).then_some(()) }).await;
    until("the hub is ready", || async { (hub.admin().get("/readyz").await.status == 200).then_some(()) }).await;
}

#[tokio::test]
async fn an_outbox_switched_off_stays_off_over_a_panic_and_a_kill_until_it_is_switched_on() {
    let settings = [("FAULTS__ENABLED", "true"), ("SUPERVISE__RESTARTS_MAX", "100"), ("SUPERVISE__BACKOFF_MS", "1")];
    let mut hub = Hub::start_with(&settings).await;
    let key = hub.key(&["publish", "read"], Some("acme")).await;
    let refused = async |hub: &Hub| {
        let answer = hub.public(&key).post("/v1/events", &json!({"id": "off", "type": "a.b"})).await;
        let problem = answer.expect_problem(503, "overloaded").json();
        assert!(problem["detail"].as_str().unwrap().contains("outbox.enabled"), "{problem}");
        hub.public(&key).get("/v1/events/off").await.expect(404);
    };
    hub.admin().patch("/v1/admin/settings", &json!({"enabled": false})).await.expect(200);
    refused(&hub).await;
    panic_outbox(&hub).await;
    refused(&hub).await;
    hub.kill();
    hub.restart().await;
    refused(&hub).await;

    hub.admin().patch("/v1/admin/settings", &json!({"enabled": true})).await.expect(200);
    hub.public(&key).publish(&json!({"id": "on", "type": "a.b"})).await;
    panic_outbox(&hub).await;
    hub.public(&key).publish(&json!({"id": "still-on", "type": "a.b"})).await;
}

#[tokio::test]
async fn a_processor_switched_off_stays_off_over_a_panic_and_what_it_does_with_failures_changes_at_run_time() {
    let dir = directory();
    let hub = open(dir.path(), SystemClock::shared(), |config| config.supervise.backoff_ms = 1).await;
    let calls = Calls::default();
    let fail = |_: &_| Err(HandlerError::retry("never works"));
    subscribe(&hub, "bad.*", "bad", &calls, fail).await;
    subscribe(&hub, "good.*", "good", &calls, well).await;

    patch(&hub, &json!({"processor_enabled": false, "max_attempts": 2, "retry_base_delay_ms": 1}));
    publish(&hub, "good.one", "waits").await;
    wait_standing(&hub, "waits", "good", "pending", 0).await;
    assert!(hub.inject_fault("panic-consumers") > Some(0));
    publish(&hub, "good.one", "waits-too").await;
    wait_standing(&hub, "waits-too", "good", "pending", 0).await;
    assert!(calls.ids().is_empty(), "{:?}", calls.ids());
    patch(&hub, &json!({"processor_enabled": true}));
    wait_standing(&hub, "waits", "good", "processed", 1).await;
    wait_standing(&hub, "waits-too", "good", "processed", 1).await;

    let all = || LetterQuery { limit: 10, ..LetterQuery::default() };
    let dead = async || hub.blocking(move |hub| hub.dead_letters(&all())).await.unwrap().items.len();
    publish(&hub, "bad.one", "twice").await;
    until("two attempts, then a dead letter", || async { (dead().await == 1).then_some(()) }).await;
    assert_eq!(calls.attempts_of("twice"), [1, 2]);
    patch(&hub, &json!({"dead_letter_enabled": false, "max_attempts": 1}));
    publish(&hub, "bad.one", "once").await;
    let given_up = |consumers: &[Value]| consumers.iter().any(|one| one["given_up"] == 2);
    until("given up after one attempt", || async { given_up(&hub.consumers().await).then_some(()) }).await;
    assert_eq!(calls.attempts_of("once"), [1]);
    assert_eq!(dead().await, 1, "without a dead letter");
    hub.stop().await;
}

/// Appends past the outbox, so that nobody is told: only the safety net finds it.
async fn append_unannounced(hub: &tidegate::hub::Hub, event_type: &str, id: &str) {
    let body = json!({"id": id, "type": event_type, "org": "acme"}).to_string();
    let draft = parse_event(&body.into(), &hub.parse_rules(None, None)).unwrap();
    let unit = AppendUnit { events: vec![Prepared::new(draft).unwrap()], atomic: false };
    let engine = hub.engine().clone();
    tokio::task::spawn_blocking(move || engine.append(vec![unit])).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_safety_net_looks_as_often_as_is_set_now_at_work_and_idle_and_after_a_panic_of_the_router() {
    let dir = directory();
    let hub = open(dir.path(), SystemClock::shared(), |config| {
        config.outbox.polling_interval_ms = HOUR_MS;
        config.outbox.idle_polling_interval_ms = 24 * HOUR_MS;
        config.outbox.retry_base_delay_ms = HOUR_MS;
        config.supervise.backoff_ms = 1;
    })
    .await;
    let calls = Calls::default();
    subscribe(&hub, "good.*", "good", &calls, well).await;
    subscribe(&hub, "bad.*", "bad", &calls, |_| Err(HandlerError::retry("later"))).await;

    append_unannounced(&hub, "good.one", "idle").await;
    patch(&hub, &json!({"idle_polling_interval_ms": 100}));
    calls.wait("idle", &[1]).await;
    wait_standing(&hub, "idle", "good", "processed", 1).await;
    append_unannounced(&hub, "good.one", "idle-again").await;
    calls.wait("idle-again", &[1]).await;

    // With a delivery that waits for its retry there is work, and the other interval holds.
    patch(&hub, &json!({"idle_polling_interval_ms": 24 * HOUR_MS}));
    publish(&hub, "bad.one", "fails").await;
    wait_standing(&hub, "fails", "bad", "failed", 1).await;
    append_unannounced(&hub, "good.one", "working").await;
    patch(&hub, &json!({"polling_interval_ms": 100}));
    calls.wait("working", &[1]).await;

    assert_eq!(hub.inject_fault("panic-router"), Some(1));
    // The next life reads the log when it begins: once it has handed this on, only its timer finds what follows.
    append_unannounced(&hub, "good.one", "begins").await;
    calls.wait("begins", &[1]).await;
    append_unannounced(&hub, "good.one", "after-the-panic").await;
    calls.wait("after-the-panic", &[1]).await;
    hub.stop().await;
}

/// Ids of the consumers whose inbox is in memory.
async fn in_memory(hub: &tidegate::hub::Hub) -> Vec<String> {
    let all = hub.consumers().await;
    let here = all.iter().filter(|one| one["in_memory"] == true);
    here.map(|one| one["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn what_was_pending_at_the_end_is_picked_up_at_the_start_batch_by_batch_or_when_the_safety_net_looks() {
    const CONSUMERS: usize = 12;
    let dir = directory();
    let slow = |config: &mut tidegate::config::Config| {
        config.outbox.retry_base_delay_ms = HOUR_MS;
        config.outbox.polling_interval_ms = HOUR_MS;
        config.outbox.startup_drain_batch_size = 5;
    };
    let hub = open(dir.path(), SystemClock::shared(), slow).await;
    let calls = Calls::default();
    for n in 0..CONSUMERS {
        subscribe(&hub, "bad.*", &format!("c{n}"), &calls, |_| Err(HandlerError::retry("later"))).await;
    }
    publish(&hub, "bad.one", "pending").await;
    for n in 0..CONSUMERS {
        wait_standing(&hub, "pending", &format!("c{n}"), "failed", 1).await;
    }
    hub.stop().await;
    drop(hub);

    let hub = open(dir.path(), SystemClock::shared(), slow).await;
    until("all are picked up", || async { (in_memory(&hub).await.len() == CONSUMERS).then_some(()) }).await;
    patch(&hub, &json!({"startup_drain_enabled": false}));
    hub.stop().await;
    drop(hub);

    // The setting is kept: nobody is started until the safety net looks, which takes a batch each time.
    let hub = open(dir.path(), SystemClock::shared(), slow).await;
    assert!(in_memory(&hub).await.is_empty());
    assert_eq!(standing(&hub, "pending", "c0").await["attempts"], 1);
    patch(&hub, &json!({"polling_interval_ms": 100}));
    until("all are picked up", || async { (in_memory(&hub).await.len() == CONSUMERS).then_some(()) }).await;
    hub.stop().await;
    drop(hub);

    // Switched on while they wait, the drain begins at once.
    let hub = open(dir.path(), SystemClock::shared(), slow).await;
    patch(&hub, &json!({"startup_drain_enabled": true, "polling_interval_ms": HOUR_MS}));
    until("all are picked up", || async { (in_memory(&hub).await.len() == CONSUMERS).then_some(()) }).await;
    hub.stop().await;
}

#[tokio::test]
async fn when_a_key_was_last_used_is_written_once_a_minute_without_a_stop() {
    let dir = directory();
    let clock = ManualClock::starting_at(START);
    let hub = open(dir.path(), clock.clone(), |_| {}).await;
    let wanted = json!({"application": "it", "scopes": ["read"]}).to_string();
    let fields = Fields::parse(wanted.as_bytes()).unwrap();
    let context = WriteContext { by: "admin".into(), at: START, ..WriteContext::default() };
    let (_, text) = hub.blocking(|hub| hub.create_key(fields, context)).await.unwrap();
    let written = || hub.engine().list("key-use").unwrap();
    for minute in 1..=3 {
        hub.keys().find(text.expose(), clock.now()).unwrap();
        until("the last use is written", || async {
            // A sleeper that has not begun to wait yet is woken by the next step.
            clock.advance(Duration::from_secs(60));
            written().first().is_some_and(|one| one.revision == minute).then_some(())
        })
        .await;
    }
    hub.stop().await;
}
