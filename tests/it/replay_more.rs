//! Jobs that give dead letters out again, killed on their way; replays into in-process handlers and into pull consumers
//! (WHK-8, RTY-4, CDC-4).

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::ground::clock::{SystemClock, UnixMs};
use tidegate::ground::context::WriteContext;
use tidegate::ground::fields::Fields;
use tidegate::hub::Hub as Embedded;

use crate::embed::{Calls, directory, open, publish, stop_settled, subscribe, well};
use crate::jobs::wait_job;
use crate::support::{Api, Hub, Receiver, Reply, items, retry, until};

const LETTERS: usize = 600;

/// A webhook with so many dead letters, whose endpoint is well now.
async fn given_up(hub: &Hub, acme: &Api, receiver: &Receiver) -> String {
    receiver.always("/hook", Reply::Status(400));
    let wanted = json!({"url": receiver.url("/hook"), "org": "acme", "event_types": ["*"], "retry": retry(&[1])});
    let webhook = acme.webhook(&wanted).await["id"].as_str().unwrap().to_owned();
    hub.admin().act(&format!("/v1/admin/breakers/{webhook}/disable")).await.expect(200);
    let events: Vec<Value> = (0..LETTERS).map(|n| json!({"id": format!("e{n}"), "type": "a.b"})).collect();
    acme.post("/v1/events/batch", &Value::from(events)).await.expect(202);
    let count = || async {
        let page = acme.get(&format!("/v1/dead-letters?consumer={webhook}&limit=1000")).await.expect(200).json();
        (items(&page).len() == LETTERS).then_some(())
    };
    until("all are given up", count).await;
    receiver.always("/hook", Reply::Status(200));
    webhook
}

/// Kills the hub again and again while a job goes on; in the end the job is done, every letter is closed, and every event
/// has come, no more often than the kills explain.
async fn killed_on_its_way(path: impl Fn(&str) -> String, wanted: Value, kind: &str) {
    const KILLS: usize = 4;
    let mut hub = Hub::start().await;
    let receiver = Receiver::start();
    let key = hub.key(&["publish", "manage", "read"], Some("acme")).await;
    let mut acme = hub.public(&key);
    let webhook = given_up(&hub, &acme, &receiver).await;
    let made = acme.post(&path(&webhook), &wanted).await.expect(202).json();
    assert_eq!(made["kind"], kind, "{made}");
    let id = made["id"].as_str().unwrap().to_owned();
    let taken = |receiver: &Receiver| receiver.on("/hook").iter().filter(|one| one.status == Some(200)).count();
    for kill in 1..=KILLS {
        let goal = LETTERS * kill / (KILLS + 2);
        until("the job goes on", || async { (taken(&receiver) >= goal).then_some(()) }).await;
        hub.kill();
        receiver.next_run().await;
        hub.restart().await;
    }
    acme = hub.public(&key);
    let job = wait_job(&acme, &id, "is done", |job| job["state"] == "done").await;
    until("every event has come", || async {
        let came: HashSet<String> =
            receiver.on("/hook").iter().filter(|one| one.status == Some(200)).map(|one| one.id().to_owned()).collect();
        (came.len() == LETTERS).then_some(())
    })
    .await;
    let open = acme.get(&format!("/v1/dead-letters?consumer={webhook}&state=open")).await.expect(200).json();
    assert!(items(&open).is_empty(), "{kind}: {open}");
    let closed = format!("/v1/dead-letters?consumer={webhook}&state=redriven&limit=1000");
    assert_eq!(items(&acme.get(&closed).await.expect(200).json()).len(), LETTERS, "{job}");
    let mut times: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for one in receiver.on("/hook").iter().filter(|one| one.status == Some(200)) {
        times.entry(one.id().to_owned()).or_default().push(one.run);
    }
    for (id, runs) in times {
        assert!(runs.windows(2).all(|pair| pair[0] < pair[1]), "{kind}: {id} came twice in one run: {runs:?}");
    }
    assert!(hub.terminate().await.success());
}

#[tokio::test]
async fn a_recovery_that_is_killed_again_and_again_recovers_everything() {
    let wanted = json!({"since": "2020-01-01T00:00:00Z", "rate": 400});
    killed_on_its_way(|webhook| format!("/v1/webhooks/{webhook}/recover"), wanted, "recover").await;
}

#[tokio::test]
async fn a_redrive_that_is_killed_again_and_again_redrives_every_letter() {
    killed_on_its_way(|_| "/v1/dead-letters/redrive".to_owned(), json!({"rate": 400}), "redrive").await;
}

fn by_a_test() -> WriteContext {
    WriteContext { by: "test".to_owned(), at: UnixMs(1), ..WriteContext::default() }
}

/// Replays into a consumer and waits until the job is done.
async fn replay(hub: &Embedded, consumer: &str, wanted: &Value) -> Value {
    let consumer = hub.consumer_named(consumer, None).unwrap();
    let fields = Fields::parse(wanted.to_string().as_bytes()).unwrap();
    let before: HashSet<String> = jobs(hub).iter().map(id_of).collect();
    hub.replay(&consumer, fields, by_a_test()).await.unwrap();
    until("the job is done", || async {
        let all = jobs(hub);
        all.into_iter().find(|job| !before.contains(&id_of(job)) && job["state"] == "done")
    })
    .await
}

fn id_of(job: &Value) -> String {
    job["id"].as_str().unwrap().to_owned()
}

fn jobs(hub: &Embedded) -> Vec<Value> {
    hub.jobs(&tidegate::job::JobFilter { limit: 100, ..tidegate::job::JobFilter::default() }).items
}

#[tokio::test]
async fn a_replay_gives_events_to_an_in_process_handler_again() {
    let dir = directory();
    let hub = open(dir.path(), SystemClock::shared(), |_| {}).await;
    let (ledger, audit) = (Calls::default(), Calls::default());
    subscribe(&hub, "order.*", "ledger", &ledger, well).await;
    subscribe(&hub, "order.*", "audit", &audit, well).await;
    for n in 0..20 {
        publish(&hub, if n % 2 == 0 { "order.paid" } else { "stock.low" }, &format!("e{n:02}")).await;
    }
    let paid: Vec<String> = (0..20).step_by(2).map(|n| format!("e{n:02}")).collect();
    until("all were handled", || async { (ledger.ids().len() == 10 && audit.ids().len() == 10).then_some(()) }).await;

    let job = replay(&hub, "handler:ledger", &json!({"from": 1, "to": 10})).await;
    assert_eq!(job["progress"]["handed_on"], 5, "{job}");
    until("they came again", || async { (ledger.ids().len() == 15).then_some(()) }).await;
    let mut again = ledger.ids().split_off(10);
    again.sort();
    assert_eq!(again, paid[..5]);
    // Also over a restart: what was settled is not given out a third time, by itself.
    stop_settled(&hub).await;
    drop(hub);
    let hub = open(dir.path(), SystemClock::shared(), |_| {}).await;
    subscribe(&hub, "order.*", "ledger", &ledger, well).await;
    subscribe(&hub, "order.*", "audit", &audit, well).await;
    publish(&hub, "order.paid", "last").await;
    until("the last was handled", || async { ledger.ids().contains(&"last".to_owned()).then_some(()) }).await;
    assert_eq!(ledger.ids().len(), 16);
    assert_eq!(audit.ids().iter().filter(|id| *id != "last").count(), 10, "the other handler is given nothing");
    hub.stop().await;
}

#[tokio::test]
async fn a_replay_gives_events_to_a_pull_consumer_again_also_when_the_hub_is_killed_on_the_way() {
    const EVENTS: usize = 200;
    let mut hub = Hub::start().await;
    let key = hub.key(&["publish", "consume", "manage", "read"], Some("acme")).await;
    let mut acme = hub.public(&key).pooled();
    let wanted = json!({"name": "billing", "event_types": ["order.*"], "lease_ms": 2_000, "max_attempts": 100});
    acme.post("/v1/consumers", &wanted).await.expect(201);
    let kind = |n: usize| if n.is_multiple_of(2) { "order.paid" } else { "stock.low" };
    let events: Vec<Value> = (0..EVENTS).map(|n| json!({"id": format!("e{n}"), "type": kind(n)})).collect();
    acme.post("/v1/events/batch", &Value::from(events)).await.expect(202);
    let wanted: HashSet<String> = (0..EVENTS).step_by(2).map(|n| format!("e{n}")).collect();
    assert_eq!(take(&acme, wanted.len()).await, wanted);

    let range = json!({"from": 1, "to": EVENTS, "rate": 100});
    let made = acme.post("/v1/consumers/billing/replay", &range).await.expect(202).json();
    let first = take(&acme, 20).await;
    hub.kill();
    hub.restart().await;
    acme = hub.public(&key).pooled();
    let mut again = first;
    // What was acknowledged before the kill does not come again: it takes the others to have all.
    again.extend(take(&acme, wanted.len() - again.len()).await);
    assert_eq!(again, wanted);
    let job = wait_job(&acme, made["id"].as_str().unwrap(), "is done", |job| job["state"] == "done").await;
    assert_eq!(job["progress"]["looked_at"], EVENTS, "{job}");
    let none = acme.post("/v1/consumers/billing/pull", &json!({"max": 10})).await.expect(200).json();
    assert_eq!(none["deliveries"], json!([]));
}

/// Pulls and acknowledges until so many different events came; none of them may come twice.
async fn take(api: &Api, count: usize) -> HashSet<String> {
    let mut seen = HashSet::new();
    let all = tokio::time::timeout(Duration::from_secs(60), async {
        while seen.len() < count {
            let wanted = json!({"max": count - seen.len(), "wait_ms": 5_000});
            let answer = api.post("/v1/consumers/billing/pull", &wanted).await.expect(200).json();
            let came = answer["deliveries"].as_array().unwrap();
            if came.is_empty() {
                continue;
            }
            let tokens: Vec<&Value> = came.iter().map(|one| &one["token"]).collect();
            api.post("/v1/consumers/billing/ack", &json!({"tokens": tokens})).await.expect(200);
            for one in came {
                let id = one["event"]["id"].as_str().unwrap().to_owned();
                assert!(seen.insert(id.clone()), "{id} was acknowledged and came again");
            }
        }
    });
    all.await.expect("every event comes");
    seen
}
