//! A store that fails, and a disk that is nearly full: nothing is promised that is not kept (ST-3, ING-5).

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::support::{Api, Hub, Load, Receiver, assert_stored, retry, sample, until};

/// Asks for the readiness again and again; counts how often it was red because of the store.
fn watch_readiness(admin: &Api) -> (Arc<AtomicUsize>, Arc<AtomicBool>, tokio::task::JoinHandle<()>) {
    let (red, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (counted, stopped, admin) = (Arc::clone(&red), Arc::clone(&stop), admin.clone());
    let watcher = tokio::spawn(async move {
        while !stopped.load(Ordering::Relaxed) {
            let answer = admin.get("/readyz").await;
            let failing = answer.json()["failing"].clone();
            if answer.status == 503 && failing.as_array().is_some_and(|names| names.contains(&json!("store"))) {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    (red, stop, watcher)
}

#[tokio::test]
async fn a_commit_that_fails_is_not_acknowledged_and_the_hub_recovers_by_itself() {
    const FAILURES: usize = 8;
    let hub = Hub::start_with(&[("FAULTS__ENABLED", "true"), ("LOG__SEGMENT_EVENTS", "1000")]).await;
    let receiver = Receiver::start();
    receiver.forget_bodies();
    let acme = hub.acme().await;
    let wanted =
        json!({"url": receiver.url("/hook"), "org": "acme", "event_types": ["load.*"], "retry": retry(&[20; 50])});
    acme.webhook(&wanted).await;
    let admin = hub.admin().pooled();
    let (red, stop, watcher) = watch_readiness(&admin);

    let load = Load::start(&acme, 6);
    for n in 1..=FAILURES {
        load.grow(40).await;
        admin.act("/v1/admin/faults/fail-commit").await.expect(202);
        until("the store was opened again", || async {
            let metrics = admin.get("/metrics").await.expect(200).text;
            let reopened = sample(&metrics, "tidegate_store_reopened", &[]);
            assert!(reopened <= Some(n as f64), "once a failure, not more: {reopened:?} after {n}");
            (reopened == Some(n as f64)).then_some(())
        })
        .await;
    }
    load.grow(40).await;
    assert!(load.refused().len() >= FAILURES, "someone was in each group that failed: {:?}", load.refused());
    assert!(load.refused().iter().all(|slug| slug == "overloaded"), "{:?}", load.refused());
    let acknowledged = load.stop().await;
    until("the hub is ready again", || async { (admin.get("/readyz").await.status == 200).then_some(()) }).await;
    stop.store(true, Ordering::Relaxed);
    watcher.await.unwrap();
    assert!(red.load(Ordering::Relaxed) > 0, "readiness was red while the store was away");

    let places: HashSet<u64> = acknowledged.values().copied().collect();
    assert_eq!(places.len(), acknowledged.len(), "no two events have one place");
    assert_stored(&acme, &acknowledged).await;
    receiver
        .wait_until("every acknowledged event", |all| {
            let taken: HashSet<_> = all.iter().map(|one| one.id().to_owned()).collect();
            acknowledged.keys().all(|id| taken.contains(id))
        })
        .await;
}

#[tokio::test]
async fn below_the_free_space_floor_the_hub_starts_refuses_writes_and_answers_reads() {
    let mut hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    let wanted = json!({"url": receiver.url("/hook"), "org": "acme", "event_types": ["*"]});
    let webhook = acme.webhook(&wanted).await["id"].as_str().unwrap().to_owned();
    acme.publish(&json!({"id": "before", "type": "a.b"})).await;
    acme.wait_status("before", &webhook, "processed").await;
    assert!(hub.terminate().await.success());

    hub.set("TIDEGATE__LOG__FREE_SPACE_FLOOR_BYTES", &(1_u64 << 40).to_string());
    let running = hub.spawn();
    hub.adopt_unready(running).await;
    let admin = hub.admin();
    let readiness = admin.get("/readyz").await.expect(503).json();
    assert_eq!(readiness["failing"], json!(["disk"]), "{readiness}");
    admin.get("/healthz").await.expect(200);
    let acme = acme.at(hub.public_address());
    // Every time, not only once in so many appends.
    for n in 0..3 {
        let refused = acme.post("/v1/events", &json!({"id": format!("refused-{n}"), "type": "a.b"})).await;
        let refused = refused.expect_problem(503, "disk-full");
        assert!(refused.header("retry-after").is_some(), "{refused:?}");
        acme.get(&format!("/v1/events/refused-{n}")).await.expect(404);
    }
    acme.post("/v1/webhooks", &wanted).await.expect_problem(503, "disk-full");
    let batch = acme.post("/v1/events/batch", &json!([{"id": "refused-batch", "type": "a.b"}])).await;
    batch.expect_problem(503, "disk-full");
    let event = acme.get("/v1/events/before").await.expect(200).json();
    assert_eq!(event["consumers"][0]["status"], "processed", "{event}");
    let page = acme.get("/v1/events").await.expect(200).json();
    assert_eq!(crate::support::items(&page).len(), 1, "{page}");
    assert!(hub.terminate().await.success());

    hub.set("TIDEGATE__LOG__FREE_SPACE_FLOOR_BYTES", "1048576");
    hub.restart().await;
    let acme = acme.at(hub.public_address());
    acme.publish(&json!({"id": "after", "type": "a.b"})).await;
    receiver.wait_event("/hook", "after").await;
    let delivered: Vec<Value> = receiver.on("/hook").iter().map(|one| Value::from(one.id())).collect();
    assert_eq!(delivered, [json!("before"), json!("after")], "nothing comes twice, nothing refused comes at all");
}
