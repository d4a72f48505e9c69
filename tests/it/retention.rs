//! Old events go, what a consumer still needs stays until its own limit, and what is lost past that is told (OUT-9).

use serde_json::{Value, json};

use crate::support::{Api, Hub, Receiver, items, until};

/// One segment.
const SEGMENT: usize = 1_000;

fn settings(max_consumer_lag_ms: &'static str) -> Vec<(&'static str, &'static str)> {
    vec![
        ("LOG__SEGMENT_EVENTS", "1000"),
        ("LOG__RETENTION_MS", "1000"),
        ("LOG__RETENTION_CHECK_MS", "100"),
        ("LOG__MAX_CONSUMER_LAG_MS", max_consumer_lag_ms),
        ("LOG__TAIL_RING_BYTES", "1048576"),
        ("INBOX__CHECKPOINT_MS", "20"),
        // Where a consumer stands must be told when it moves, not when its inbox ends.
        ("INBOX__IDLE_MS", "600000"),
    ]
}

/// Publishes a segment's worth of events of about a kibibyte; their ids are `NAME-0000` and so on.
async fn fill(acme: &Api, name: &str) {
    let event =
        |n: usize| json!({"id": format!("{name}-{n:04}"), "type": "old.news", "data": {"filling": "x".repeat(1_000)}});
    for from in (0..SEGMENT).step_by(250) {
        let batch: Vec<_> = (from..from + 250).map(event).collect();
        let answer = acme.post("/v1/events/batch", &Value::from(batch)).await.expect(202).json();
        assert_eq!(answer["accepted"], 250, "{answer}");
    }
}

async fn stats(admin: &Api) -> Value {
    admin.get("/v1/admin/stats").await.expect(200).json()
}

async fn wait_earliest(admin: &Api, from: u64) {
    let what = format!("the log begins at {from} or later");
    until(&what, || async { (stats(admin).await["log"]["earliest"].as_u64() >= Some(from)).then_some(()) }).await;
}

async fn consumer(admin: &Api, id: &str) -> Value {
    let page = admin.get("/v1/admin/consumers").await.expect(200).json();
    items(&page).iter().find(|one| one["id"] == id).unwrap_or_else(|| panic!("{id}: {page}")).clone()
}

async fn webhook(acme: &Api, receiver: &Receiver) -> String {
    let wanted = json!({"url": receiver.url("/hook"), "org": "acme", "event_types": ["*"], "concurrency": 64});
    acme.webhook(&wanted).await["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn old_events_go_and_the_disk_stays_bounded() {
    const ROUNDS: usize = 12;
    const SEGMENTS: usize = 4;
    let mut hub = Hub::start_with(&settings("1000")).await;
    let (acme, admin) = (hub.acme().await.pooled(), hub.admin());
    let mut sizes = Vec::new();
    for round in 1..=ROUNDS {
        for part in 1..=SEGMENTS {
            fill(&acme, &format!("r{round}.{part}")).await;
        }
        // The newest segment always stays.
        wait_earliest(&admin, ((round * SEGMENTS - 1) * SEGMENT + 1) as u64).await;
        sizes.push(stats(&admin).await["log"]["store_bytes"].as_u64().unwrap());
    }
    acme.get("/v1/events/r1.1-0000").await.expect_problem(404, "not-found");
    acme.get(&format!("/v1/events/r{ROUNDS}.{SEGMENTS}-0000")).await.expect(200);
    let page = acme.get("/v1/events?limit=1").await.expect(200).json();
    let first = items(&page)[0]["seq"].as_u64().unwrap();
    assert_eq!(Some(first), stats(&admin).await["log"]["earliest"].as_u64());
    // What is deleted is used again: three times as many events as after a quarter of the rounds take no more room.
    eprintln!("store sizes: {sizes:?}");
    let early = sizes[ROUNDS / 4 - 1];
    let most = sizes.iter().max().unwrap();
    assert!(*most <= early * 2, "the store grows with what was deleted: {sizes:?}");

    assert!(hub.terminate().await.success());
    hub.restart().await;
    let stats = stats(&hub.admin()).await;
    assert_eq!(stats["log"]["earliest"].as_u64(), Some(first), "{stats}");
    assert_eq!(stats["log"]["head"], ROUNDS * SEGMENTS * SEGMENT, "{stats}");
    // An id that went with its event is free again; places go on.
    let acme = acme.at(hub.public_address());
    let again = acme.post("/v1/events", &json!({"id": "r1.1-0000", "type": "new.news"})).await.expect(202).json();
    assert_eq!(
        (again["duplicate"].as_bool(), again["seq"].as_u64()),
        (Some(false), Some((ROUNDS * SEGMENTS * SEGMENT + 1) as u64))
    );
}

#[tokio::test]
async fn what_a_paused_webhook_needs_is_kept() {
    let hub = Hub::start_with(&settings("600000")).await;
    let receiver = Receiver::start();
    receiver.forget_bodies();
    let (acme, admin) = (hub.acme().await.pooled(), hub.admin());
    let id = webhook(&acme, &receiver).await;
    fill(&acme, "done").await;
    receiver.wait_for("/hook", SEGMENT).await;
    acme.act(&format!("/v1/webhooks/{id}/pause")).await.expect(200);
    fill(&acme, "kept").await;
    fill(&acme, "newest").await;
    // What it has had goes, what it has not had stays, however old.
    wait_earliest(&admin, SEGMENT as u64 + 1).await;
    acme.get("/v1/events/done-0000").await.expect(404);
    let age = acme.get("/v1/events/newest-0000").await.expect(200).json();
    assert_eq!(age["seq"], 2 * SEGMENT + 1);
    // All of it is older than the limit by now, by more than retention takes to look again.
    until("what waits is old", || async {
        (stats(&admin).await["oldest_pending_age_ms"].as_u64() >= Some(2_500)).then_some(())
    })
    .await;
    assert_eq!(stats(&admin).await["log"]["earliest"], SEGMENT + 1);
    acme.act(&format!("/v1/webhooks/{id}/resume")).await.expect(200);
    let came = receiver.wait_for("/hook", 3 * SEGMENT).await;
    let mut ids: Vec<_> = came.iter().map(|one| one.id().to_owned()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!((came.len(), ids.len()), (3 * SEGMENT, 3 * SEGMENT), "each once");
    assert_eq!(consumer(&admin, &id).await["gaps"], 0);
    wait_earliest(&admin, 2 * SEGMENT as u64 + 1).await;
}

#[tokio::test]
async fn past_its_own_limit_a_paused_webhook_loses_events_and_is_told_how_many() {
    let hub = Hub::start_with(&settings("2000")).await;
    let receiver = Receiver::start();
    receiver.forget_bodies();
    let (acme, admin) = (hub.acme().await.pooled(), hub.admin());
    let id = webhook(&acme, &receiver).await;
    acme.act(&format!("/v1/webhooks/{id}/pause")).await.expect(200);
    fill(&acme, "lost").await;
    fill(&acme, "lost-too").await;
    // These push the others out of memory, and are the newest segment, which stays.
    fill(&acme, "kept").await;
    wait_earliest(&admin, 2 * SEGMENT as u64 + 1).await;
    until("the hub says what it dropped", || async {
        hub.log().contains("events it had not settled are gone").then_some(())
    })
    .await;
    acme.act(&format!("/v1/webhooks/{id}/resume")).await.expect(200);
    receiver.wait_event("/hook", "kept-0999").await;
    let came = receiver.wait_for("/hook", SEGMENT).await;
    assert!(came.iter().all(|one| one.id().starts_with("kept-")), "nothing that was dropped is delivered");
    until("the gap is counted", || async { (consumer(&admin, &id).await["gaps"] == 2 * SEGMENT).then_some(()) }).await;
    assert!(hub.log().contains("retention has dropped events before this consumer read them"), "{}", hub.log());
}
