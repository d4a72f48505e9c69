//! Actors that panic under load, again and again: what was acknowledged is delivered, in order, and the hub is ready again
//! (OPS-4).

use std::collections::{BTreeMap, HashSet};

use parking_lot::Mutex;
use serde_json::json;

use crate::support::{Api, Delivery, Hub, Load, Receiver, Reply, assert_stored, key_of, retry, sample, until};

/// Rounds of panics; in each, every kind of actor is hit.
const ROUNDS: usize = 25;
const PRODUCERS: u64 = 6;

/// Fault injection on, restarts at once and as many as one likes, no breaker that opens.
const SETTINGS: &[(&str, &str)] = &[
    ("FAULTS__ENABLED", "true"),
    ("SUPERVISE__RESTARTS_MAX", "1000"),
    ("SUPERVISE__BACKOFF_MS", "1"),
    ("SUPERVISE__BACKOFF_CAP_MS", "5"),
    ("BREAKER__FAILURE_THRESHOLD", "10000"),
    ("LOG__SEGMENT_EVENTS", "1000"),
];

/// One delivery in ten fails at first, fixed by the event's id.
fn flaky(receiver: &Receiver, path: &str) {
    let failed: Mutex<HashSet<String>> = Mutex::default();
    receiver.answer(path, move |one| {
        let sum: usize = one.id().bytes().map(usize::from).sum();
        let fail = sum.is_multiple_of(10) && failed.lock().insert(one.id().to_owned());
        Reply::Status(if fail { 500 } else { 200 })
    });
}

async fn webhook(acme: &Api, receiver: &Receiver, path: &str, ordering: &str) {
    let wanted = json!({"url": receiver.url(path), "org": "acme", "event_types": ["load.*"], "ordering": ordering,
        "retry": retry(&[20; 50])});
    acme.webhook(&wanted).await;
}

/// The ids that were taken on a path, in order of arrival.
fn taken(all: &[Delivery], path: &str) -> Vec<String> {
    let here = all.iter().filter(|one| one.path == path && one.status == Some(200));
    here.map(|one| one.id().to_owned()).collect()
}

/// Fails unless the first deliveries of each key came in the order of the log.
fn assert_order(taken: &[String], path: &str) {
    let mut seen = HashSet::new();
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    for id in taken.iter().filter(|id| seen.insert(*id)) {
        let (key, n) = key_of(id);
        let before = last.insert(key.clone(), n);
        assert!(before.is_none_or(|before| before < n), "{path}: {id} of {key} came after number {before:?}");
    }
}

#[tokio::test]
async fn whatever_panics_under_load_every_acknowledged_event_is_delivered_in_order() {
    let hub = Hub::start_with(SETTINGS).await;
    let receiver = Receiver::start();
    receiver.forget_bodies();
    let acme = hub.acme().await;
    for (path, ordering) in [("/free", "none"), ("/keyed", "key"), ("/flaky", "none"), ("/flaky-keyed", "key")] {
        webhook(&acme, &receiver, path, ordering).await;
    }
    flaky(&receiver, "/flaky");
    flaky(&receiver, "/flaky-keyed");

    let load = Load::start(&acme, PRODUCERS);
    let admin = hub.admin().pooled();
    for _ in 0..ROUNDS {
        for fault in ["panic-outbox", "panic-router", "panic-consumers"] {
            load.grow(15).await;
            admin.act(&format!("/v1/admin/faults/{fault}")).await.expect(202);
        }
    }
    load.grow(50).await;
    let acknowledged = load.stop().await;
    eprintln!("{} events acknowledged over {ROUNDS} rounds of panics", acknowledged.len());

    let places: HashSet<u64> = acknowledged.values().copied().collect();
    assert_eq!(places.len(), acknowledged.len(), "no two events have one place");
    assert_stored(&acme, &acknowledged).await;
    for path in ["/free", "/keyed", "/flaky", "/flaky-keyed"] {
        let what = format!("every acknowledged event on {path}");
        receiver
            .wait_until(&what, |all| {
                let taken: HashSet<_> = taken(all, path).into_iter().collect();
                acknowledged.keys().all(|id| taken.contains(id))
            })
            .await;
    }
    for path in ["/keyed", "/flaky-keyed"] {
        receiver.look(|all| assert_order(&taken(all, path), path));
    }

    until("the hub is ready again", || async { (admin.get("/readyz").await.status == 200).then_some(()) }).await;
    let metrics = admin.get("/metrics").await.expect(200).text;
    for actor in ["outbox", "router", "inbox", "delivery", "breaker"] {
        let restarts = sample(&metrics, "tidegate_actor_restarts", &[&format!(r#"actor="{actor}""#)]);
        assert!(restarts >= Some(1.0), "{actor}: {restarts:?}");
    }
    let dead = sample(&metrics, "tidegate_dead_letters", &[]);
    assert_eq!(dead, Some(0.0), "a panic of the hub's own uses no attempt up");
}

#[tokio::test]
async fn a_kind_of_actor_that_panics_too_often_turns_readiness_red_until_it_has_been_quiet() {
    let settings = [
        ("FAULTS__ENABLED", "true"),
        ("SUPERVISE__RESTARTS_MAX", "2"),
        ("SUPERVISE__WINDOW_MS", "2000"),
        ("SUPERVISE__BACKOFF_MS", "1"),
        ("SUPERVISE__BACKOFF_CAP_MS", "5"),
    ];
    let hub = Hub::start_with(&settings).await;
    let acme = hub.acme().await;
    let admin = hub.admin();
    let restarts = || async {
        let metrics = admin.get("/metrics").await.expect(200).text;
        sample(&metrics, "tidegate_actor_restarts", &[r#"actor="router""#]).unwrap_or_default()
    };
    // A fault that comes while the router is being restarted hits nobody, so it is asked for until there were enough.
    until("the router was restarted three times", || async {
        admin.act("/v1/admin/faults/panic-router").await.expect(202);
        (restarts().await >= 3.0).then_some(())
    })
    .await;
    until("readiness is red, and says why", || async {
        let answer = admin.get("/readyz").await;
        (answer.status == 503 && answer.json()["failing"] == json!(["actors"])).then_some(())
    })
    .await;
    // The rest of the hub works on.
    acme.publish(&json!({"id": "meanwhile", "type": "a.b"})).await;
    acme.get("/v1/events/meanwhile").await.expect(200);
    until("readiness is green again", || async { (admin.get("/readyz").await.status == 200).then_some(()) }).await;
}

#[tokio::test]
async fn faults_are_injected_only_where_that_is_switched_on() {
    let hub = Hub::start().await;
    hub.admin().act("/v1/admin/faults/panic-router").await.expect_problem(403, "forbidden");
    let hub = Hub::start_with(SETTINGS).await;
    hub.admin().act("/v1/admin/faults/no-such").await.expect_problem(404, "not-found");
    let acme = hub.acme().await;
    acme.act("/v1/admin/faults/panic-router").await.expect_any(&[403, 404]);
}

/// What is done now and then is begun anew when it panics, and what was being done is done: owners are told of what happened
/// meanwhile, ephemeral consumers end.
#[tokio::test]
async fn housekeeping_that_panics_goes_on_where_it_was() {
    let hub = Hub::start_with(SETTINGS).await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    let admin = hub.admin().pooled();
    receiver.always("/down", Reply::Status(500));
    let owner = json!({"url": receiver.url("/owner"), "org": "acme", "event_types": ["tidegate.*"]});
    acme.webhook(&owner).await;
    let panic = async || {
        let told = admin.act("/v1/admin/faults/panic-house").await.expect(202).json();
        assert!(told["actors"].as_u64() >= Some(1), "{told}");
    };
    let mut failing = Vec::new();
    for n in 0..20 {
        let wanted = json!({"url": receiver.url("/down"), "org": "acme", "event_types": ["a.b"],
            "retry": retry(&[1, 1]), "health": {"failing_after": 1, "pause_after_failures": 2}});
        failing.push(acme.webhook(&wanted).await["id"].as_str().unwrap().to_owned());
        acme.publish(&json!({"id": format!("e-{n}"), "type": "a.b"})).await;
        panic().await;
    }
    // Each is told to fail, is paused, and its owner is told so, once.
    for webhook in &failing {
        for what in ["failing", "paused"] {
            let kind = format!("tidegate.webhook.{what}");
            let of = |all: &[Delivery]| {
                let fits = |one: &&Delivery| {
                    one.path == "/owner"
                        && one.json()["type"] == kind.as_str()
                        && one.json()["data"]["webhook"] == webhook.as_str()
                };
                all.iter().filter(fits).map(|one| one.id().to_owned()).collect::<HashSet<_>>().len()
            };
            receiver.wait_until(&format!("{webhook} is told to be {what}"), |all| of(all) >= 1).await;
            receiver.look(|all| assert_eq!(of(all), 1, "{webhook} {what}"));
        }
        until("it is paused", || async {
            let shown = acme.get(&format!("/v1/webhooks/{webhook}")).await.expect(200).json();
            (shown["status"] == "paused").then_some(())
        })
        .await;
    }
    let ephemeral = json!({"name": "brief", "event_types": ["*"], "ephemeral": true, "expires_after_ms": 1_000});
    acme.post("/v1/consumers", &ephemeral).await.expect(201);
    panic().await;
    until("it is gone", || async { (acme.get("/v1/consumers/brief").await.status == 404).then_some(()) }).await;
    let metrics = admin.get("/metrics").await.expect(200).text;
    let house = |name: &str| sample(&metrics, name, &[r#"actor="house""#]);
    assert!(house("tidegate_actor_restarts") >= Some(20.0), "{:?}", house("tidegate_actor_restarts"));
    assert_eq!(house("tidegate_actors"), Some(7.0));
    until("the hub is ready", || async { (admin.get("/readyz").await.status == 200).then_some(()) }).await;
}

#[tokio::test]
async fn housekeeping_that_panics_too_often_turns_readiness_red() {
    let settings = [
        ("FAULTS__ENABLED", "true"),
        ("SUPERVISE__RESTARTS_MAX", "2"),
        ("SUPERVISE__WINDOW_MS", "60000"),
        ("SUPERVISE__BACKOFF_MS", "1"),
    ];
    let hub = Hub::start_with(&settings).await;
    hub.admin().act("/v1/admin/faults/panic-house").await.expect(202);
    until("readiness is red, and says why", || async {
        let answer = hub.admin().get("/readyz").await;
        (answer.status == 503 && answer.json()["failing"] == json!(["actors"])).then_some(())
    })
    .await;
    let acme = hub.acme().await;
    acme.publish(&json!({"id": "meanwhile", "type": "a.b"})).await;
}
