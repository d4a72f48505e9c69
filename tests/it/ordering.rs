//! Order: none, within a key, or of everything; also through failures (INB-6).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::support::{Api, Delivery, Hub, Receiver, Reply, retry};

/// Failures in a row are what these tests make, so the breaker must not open.
const PATIENT: &[(&str, &str)] = &[("BREAKER__FAILURE_THRESHOLD", "10000")];

async fn webhook(acme: &Api, receiver: &Receiver, ordering: &str) -> String {
    let wanted = json!({"url": receiver.url("/hook"), "org": "acme", "event_types": ["*"], "ordering": ordering,
        "retry": retry(&[40; 90]), "concurrency": 16});
    acme.webhook(&wanted).await["id"].as_str().unwrap().to_owned()
}

/// A rule that fails the event `sick` until the switch is set.
fn fail_until(receiver: &Receiver, sick: &'static str) -> Arc<AtomicBool> {
    let well = Arc::new(AtomicBool::new(false));
    let switch = well.clone();
    receiver.answer("/hook", move |one| {
        let failing = one.id() == sick && !switch.load(Ordering::SeqCst);
        Reply::Status(if failing { 500 } else { 200 })
    });
    well
}

fn taken(all: &[Delivery]) -> Vec<String> {
    all.iter().filter(|one| one.status == Some(200)).map(|one| one.id().to_owned()).collect()
}

#[tokio::test]
async fn a_failing_key_waits_alone() {
    let hub = Hub::start_with(PATIENT).await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    let well = fail_until(&receiver, "k1-a");
    let id = webhook(&acme, &receiver, "key").await;
    for (event, key) in [("k1-a", "k1"), ("k1-b", "k1"), ("k2-a", "k2"), ("k1-c", "k1"), ("k2-b", "k2"), ("free", "")] {
        let mut event = json!({"id": event, "type": "a.b"});
        if !key.is_empty() {
            event["ordering_key"] = json!(key);
        }
        acme.publish(&event).await;
    }
    for id in ["k2-a", "k2-b", "free"] {
        receiver.wait_event("/hook", id).await;
    }
    receiver
        .wait_until("the sick one was tried three times", |all| {
            all.iter().filter(|one| one.id() == "k1-a").count() >= 3
        })
        .await;
    let early = receiver.on("/hook");
    assert!(!early.iter().any(|one| ["k1-b", "k1-c"].contains(&one.id())), "the key waits: {:?}", taken(&early));
    well.store(true, Ordering::SeqCst);
    acme.wait_status("k1-c", &id, "processed").await;
    let order: Vec<_> = taken(&receiver.on("/hook")).into_iter().filter(|id| id.starts_with("k1")).collect();
    assert_eq!(order, ["k1-a", "k1-b", "k1-c"]);
}

#[tokio::test]
async fn strict_order_sends_one_at_a_time_and_waits_for_it() {
    let hub = Hub::start_with(PATIENT).await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    let well = fail_until(&receiver, "s-03");
    let id = webhook(&acme, &receiver, "strict").await;
    let batch: Vec<_> =
        (0..20).map(|n| json!({"id": format!("s-{n:02}"), "type": "a.b", "ordering_key": format!("{n}")})).collect();
    acme.post("/v1/events/batch", &Value::from(batch)).await.expect(202);
    receiver
        .wait_until("the sick one was tried three times", |all| {
            all.iter().filter(|one| one.id() == "s-03").count() >= 3
        })
        .await;
    assert_eq!(taken(&receiver.on("/hook")), ["s-00", "s-01", "s-02"]);
    well.store(true, Ordering::SeqCst);
    acme.wait_status("s-19", &id, "processed").await;
    let expected: Vec<_> = (0..20).map(|n| format!("s-{n:02}")).collect();
    assert_eq!(taken(&receiver.on("/hook")), expected);
}

#[tokio::test]
async fn without_order_a_failing_event_holds_up_nothing() {
    let hub = Hub::start_with(PATIENT).await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    let well = fail_until(&receiver, "n-00");
    let id = webhook(&acme, &receiver, "none").await;
    let batch: Vec<_> =
        (0..200).map(|n| json!({"id": format!("n-{n:02}"), "type": "a.b", "ordering_key": "one"})).collect();
    acme.post("/v1/events/batch", &Value::from(batch)).await.expect(202);
    receiver.wait_until("all but one are taken", |all| taken(all).len() >= 199).await;
    well.store(true, Ordering::SeqCst);
    acme.wait_status("n-00", &id, "processed").await;
}

#[tokio::test]
async fn every_key_keeps_its_order_while_one_in_five_deliveries_fails_and_the_hub_is_killed() {
    const KEYS: usize = 25;
    const PER_KEY: usize = 20;
    let mut hub = Hub::start_with(PATIENT).await;
    let receiver = Receiver::start();
    let key = hub.key(&["publish", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    let tries: Mutex<HashMap<String, usize>> = Mutex::default();
    receiver.answer("/hook", move |one| {
        let mut tries = tries.lock();
        let count = tries.entry(one.id().to_owned()).or_default();
        *count += 1;
        // Which ones fail is fixed by the id, so a run can be repeated.
        let sum: usize = one.id().bytes().map(usize::from).sum();
        Reply::Status(if sum.is_multiple_of(5) && *count <= 2 { 500 } else { 200 })
    });
    webhook(&acme, &receiver, "key").await;
    for n in 0..PER_KEY {
        let batch: Vec<_> = (0..KEYS)
            .map(|k| json!({"id": format!("k{k:02}.{n:02}"), "type": "a.b", "aggregate_type": "thing", "aggregate_id": format!("{k}")}))
            .collect();
        acme.post("/v1/events/batch", &Value::from(batch)).await.expect(202);
    }
    receiver.wait_until("a third is taken", |all| taken(all).len() >= KEYS * PER_KEY / 3).await;
    hub.kill();
    receiver.next_run().await;
    hub.restart().await;
    receiver
        .wait_until("all are taken", |all| taken(all).into_iter().collect::<HashSet<_>>().len() == KEYS * PER_KEY)
        .await;
    // A kill may repeat what was in flight; the first time each one is taken must be in order.
    let mut firsts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut seen = HashSet::new();
    for id in taken(&receiver.on("/hook")) {
        if seen.insert(id.clone()) {
            let (key, n) = id.split_once('.').unwrap();
            firsts.entry(key.to_owned()).or_default().push(n.to_owned());
        }
    }
    let expected: Vec<_> = (0..PER_KEY).map(|n| format!("{n:02}")).collect();
    for (key, order) in firsts {
        assert_eq!(order, expected, "{key}");
    }
}
