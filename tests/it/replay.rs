//! Events given out again: replays, recovery, single retries (WHK-8, CDC-4).

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};
use tidegate::ground::clock::SystemClock;
use tidegate::ground::random::SystemRandom;

use crate::jobs::wait_job;
use crate::support::{Api, Delivery, Hub, Receiver, Reply, find, items, retry, until};

const DAY_MS: u64 = 24 * 3_600_000;

async fn webhook(acme: &Api, receiver: &Receiver, path: &str, more: &Value) -> String {
    let mut wanted = json!({"url": receiver.url(path), "org": "acme", "event_types": ["*"]});
    wanted.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    acme.webhook(&wanted).await["id"].as_str().unwrap().to_owned()
}

async fn publish(acme: &Api, events: impl Iterator<Item = Value>) {
    let events: Vec<Value> = events.collect();
    for batch in events.chunks(500) {
        let answer = acme.post("/v1/events/batch", &Value::from(batch.to_vec())).await.expect(202).json();
        assert_eq!(answer["rejected"], 0, "{answer}");
    }
}

/// Asks for a replay and waits until the job is done.
async fn replay(acme: &Api, webhook: &str, wanted: &Value) -> Value {
    let made = acme.post(&format!("/v1/webhooks/{webhook}/replay"), wanted).await.expect(202).json();
    wait_job(acme, made["id"].as_str().unwrap(), "is done", |job| job["state"] == "done").await
}

fn ids(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(|one| one.id().to_owned()).collect()
}

fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort();
    ids
}

/// Ten events of two types, sources and aggregates, delivered to a webhook that takes `order.*` only.
struct Scene {
    hub: Hub,
    receiver: Receiver,
    acme: Api,
    webhook: String,
}

async fn scene() -> Scene {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    let webhook = webhook(&acme, &receiver, "/hook", &json!({"event_types": ["order.*"]})).await;
    let event = |n: usize| {
        json!({"id": format!("e{n}"), "type": if n.is_multiple_of(2) { "order.paid" } else { "stock.low" },
            "source": format!("s{}", n % 3), "aggregate_type": "order", "aggregate_id": format!("{}", n % 4)})
    };
    publish(&acme, (0..10).map(event)).await;
    receiver.wait_for("/hook", 5).await;
    acme.wait_status("e8", &webhook, "processed").await;
    Scene { hub, receiver, acme, webhook }
}

#[tokio::test]
async fn a_replay_gives_out_again_what_matches_and_tells_how_much() {
    let scene = scene().await;
    for (wanted, expected) in [
        (json!({}), vec!["e0", "e2", "e4", "e6", "e8"]),
        (json!({"match": "delivered", "from": 2}), vec!["e2", "e4", "e6", "e8"]),
        (json!({"from": 4, "to": 7}), vec!["e4", "e6"]),
        (json!({"match": "all", "from": 9}), vec!["e8", "e9"]),
        (json!({"match": "all", "event_types": ["stock.*"], "source": "s1"}), vec!["e1", "e7"]),
        (json!({"match": "all", "aggregate_type": "order", "aggregate_id": "3"}), vec!["e3", "e7"]),
        (json!({"event_ids": ["e6", "e1", "e2"]}), vec!["e2", "e6"]),
        (json!({"event_ids": ["e6", "e1"], "match": "all"}), vec!["e1", "e6"]),
        (json!({"from": "2020-01-01T00:00:00Z", "to": "2021-01-01T00:00:00Z"}), vec![]),
        (json!({"from": "2020-01-01T00:00:00Z", "source": "s0"}), vec!["e0", "e6"]),
        (json!({"match": "all", "channel": "web"}), vec![]),
        (json!({"filter": "event.aggregate_id == '2'"}), vec!["e2", "e6"]),
    ] {
        let before = scene.receiver.on("/hook").len();
        let mut dry = wanted.clone();
        dry["dry_run"] = json!(true);
        let path = format!("/v1/webhooks/{}/replay", scene.webhook);
        let preview = scene.acme.post(&path, &dry).await.expect(200).json();
        assert_eq!((&preview["would_match"], &preview["complete"]), (&json!(expected.len()), &json!(true)), "{wanted}");
        assert_eq!(preview["examples"], json!(expected), "{wanted}");
        let job = replay(&scene.acme, &scene.webhook, &wanted).await;
        let progress = &job["progress"];
        assert_eq!(progress["handed_on"], expected.len(), "{wanted}: {job}");
        assert_eq!((&progress["skipped"], &progress["failed"]), (&json!(0), &json!(0)), "{job}");
        assert_eq!(progress["looked_at"], progress["total"], "{job}");
        let came = scene.receiver.wait_for("/hook", before + expected.len()).await;
        assert_eq!(sorted(ids(&came[before..])), expected, "{wanted}");
        until("the replay is settled", || async {
            let page = scene.acme.get(&format!("/v1/webhooks/{}/deliveries", scene.webhook)).await.expect(200).json();
            items(&page).is_empty().then_some(())
        })
        .await;
    }
    // A dry run makes no job and delivers nothing.
    assert_eq!(items(&scene.acme.get("/v1/jobs").await.expect(200).json()).len(), 12);
    // The same event id on every delivery, and its attempts are recorded as any others are.
    let event = scene.acme.get("/v1/events/e2").await.expect(200).json();
    assert_eq!(find(&event, "status"), Some(&json!("processed")), "{event}");
    let page = scene.acme.get(&format!("/v1/webhooks/{}/attempts", scene.webhook)).await.expect(200).json();
    let of_e2 = items(&page).iter().filter(|one| one["event_id"] == "e2").count();
    assert_eq!(of_e2, 5, "first, whole, delivered, listed, by its aggregate: {page}");
}

#[tokio::test]
async fn a_filter_that_was_changed_counts_as_it_is_now_and_a_fresh_consumer_gets_the_past() {
    let scene = scene().await;
    let path = format!("/v1/webhooks/{}", scene.webhook);
    scene.acme.patch(&path, &json!({"event_types": ["stock.*"]})).await.expect(200);
    replay(&scene.acme, &scene.webhook, &json!({})).await;
    let came = scene.receiver.wait_for("/hook", 10).await;
    assert_eq!(sorted(ids(&came[5..])), ["e1", "e3", "e5", "e7", "e9"]);
    // Made after all of them, and given them all the same.
    let fresh = webhook(&scene.acme, &scene.receiver, "/fresh", &json!({})).await;
    replay(&scene.acme, &fresh, &json!({"from": 1, "to": 10})).await;
    let came = scene.receiver.wait_for("/fresh", 10).await;
    assert_eq!(sorted(ids(&came)), (0..10).map(|n| format!("e{n}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_operator_replays_into_any_consumer_by_its_name() {
    let scene = scene().await;
    let path = format!("/v1/consumers/{}/replay", scene.webhook);
    let made = scene.hub.admin().post(&path, &json!({"from": 1, "to": 1})).await.expect(202).json();
    wait_job(&scene.hub.admin(), made["id"].as_str().unwrap(), "is done", |job| job["state"] == "done").await;
    scene.receiver.wait_for("/hook", 6).await;
    scene.hub.admin().post("/v1/consumers/nobody/replay", &json!({})).await.expect_problem(404, "not-found");
}

#[tokio::test]
async fn what_does_not_fit_is_refused_by_its_name() {
    let scene = scene().await;
    let path = format!("/v1/webhooks/{}/replay", scene.webhook);
    for (field, body) in [
        ("from", json!({"from": 0})),
        ("from", json!({"from": "yesterday"})),
        ("from", json!({"from": 9, "to": 8})),
        ("to", json!({"to": true})),
        ("event_types[0]", json!({"event_types": ["*.a"]})),
        ("filter", json!({"filter": "type =="})),
        ("event_ids", json!({"event_ids": []})),
        ("event_ids[1]", json!({"event_ids": ["e1", "unknown"]})),
        ("event_ids", json!({"event_ids": ["e1"], "to": 4})),
        ("match", json!({"match": "some"})),
        ("rate", json!({"rate": 0})),
        ("rate", json!({"rate": 100_001})),
        ("dry_run", json!({"dry_run": 1})),
        ("colour", json!({"colour": "red"})),
    ] {
        let problem = scene.acme.post(&path, &body).await.expect_problem(400, "invalid-field").json();
        assert_eq!(problem["field"], field, "{body}: {problem}");
        assert!(problem["limit"].is_string() && problem["sent"].is_string(), "{problem}");
    }
    let recover = format!("/v1/webhooks/{}/recover", scene.webhook);
    for (field, body) in [("since", json!({})), ("since", json!({"since": "soon"})), ("x", json!({"x": 1}))] {
        let problem = scene.acme.post(&recover, &body).await.expect_problem(400, "invalid-field").json();
        assert_eq!(problem["field"], field, "{body}: {problem}");
    }
    scene.acme.post("/v1/webhooks/whk_nothing/replay", &json!({})).await.expect_problem(404, "not-found");
    scene.acme.post_bytes(&path, "text/plain", b"{}".to_vec()).await.expect_problem(415, "unsupported-media-type");
    scene.acme.post_bytes(&path, "application/json", b"[".to_vec()).await.expect_problem(400, "not-json");
    assert!(items(&scene.acme.get("/v1/jobs").await.expect(200).json()).is_empty());
    assert_eq!(scene.receiver.on("/hook").len(), 5);
}

#[tokio::test]
async fn a_paused_webhook_and_an_open_breaker_hold_replayed_events_without_an_attempt() {
    let scene = scene().await;
    let admin = scene.hub.admin();
    let rows = async || {
        let page = admin.get(&format!("/v1/admin/consumers/{}/rows", scene.webhook)).await.expect(200).json();
        items(&page).clone()
    };
    scene.acme.act(&format!("/v1/webhooks/{}/pause", scene.webhook)).await.expect(200);
    replay(&scene.acme, &scene.webhook, &json!({"from": 1, "to": 3})).await;
    let held = rows().await;
    assert_eq!(held.len(), 2, "{held:?}");
    assert!(held.iter().all(|row| row["attempts"] == 0), "{held:?}");
    // What is under way is not doubled.
    let again = replay(&scene.acme, &scene.webhook, &json!({"from": 1, "to": 5})).await;
    assert_eq!((&again["progress"]["handed_on"], &again["progress"]["skipped"]), (&json!(1), &json!(2)), "{again}");

    admin.act(&format!("/v1/admin/breakers/{}/open", scene.webhook)).await.expect(200);
    scene.acme.act(&format!("/v1/webhooks/{}/resume", scene.webhook)).await.expect(200);
    until("the inbox rests", || async {
        let page = admin.get("/v1/admin/consumers").await.expect(200).json();
        let one = items(&page).iter().find(|one| one["id"] == scene.webhook).cloned()?;
        (one["hold"]["reason"] == "suspended" && one["replay_rows"] == 3).then_some(())
    })
    .await;
    assert!(rows().await.iter().all(|row| row["attempts"] == 0));
    assert_eq!(scene.receiver.on("/hook").len(), 5, "nothing was sent");
    admin.act(&format!("/v1/admin/breakers/{}/reset", scene.webhook)).await.expect(200);
    let came = scene.receiver.wait_for("/hook", 8).await;
    assert_eq!(sorted(ids(&came[5..])), ["e0", "e2", "e4"]);
}

#[tokio::test]
async fn one_delivery_is_tried_again_now_wherever_it_stands() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    receiver.script("/hook", [Reply::Status(500)]);
    let webhook = webhook(&acme, &receiver, "/hook", &json!({"retry": retry(&[DAY_MS]), "concurrency": 1})).await;
    let path = |event: &str| format!("/v1/webhooks/{webhook}/deliveries/{event}/retry");
    acme.publish(&json!({"id": "failed", "type": "a.b"})).await;
    acme.wait_status("failed", &webhook, "failed").await;
    let answer = acme.act(&path("failed")).await.expect(202).json();
    assert_eq!(answer["outcome"], "due_now", "{answer}");
    acme.wait_status("failed", &webhook, "processed").await;

    // Delivered: it comes again.
    let answer = acme.act(&path("failed")).await.expect(202).json();
    assert_eq!(answer["outcome"], "replayed", "{answer}");
    receiver.wait_for("/hook", 3).await;

    // Given up: it comes again, and its dead letter is closed.
    receiver.script("/hook", [Reply::Status(400)]);
    acme.publish(&json!({"id": "dead", "type": "a.b"})).await;
    let letter = acme.wait_dead_letters(&webhook, 1).await.remove(0);
    let answer = acme.act(&path("dead")).await.expect(202).json();
    assert_eq!(answer["outcome"], "replayed", "{answer}");
    acme.wait_status("dead", &webhook, "processed").await;
    let id = letter["id"].as_str().unwrap();
    let letter = acme.get(&format!("/v1/dead-letters/{id}")).await.expect(200).json();
    assert_eq!(letter["state"], "redriven", "{letter}");

    // Out: its outcome is waited for. Behind it: it is next anyway.
    receiver.always("/hook", Reply::Hold);
    acme.publish(&json!({"id": "out", "type": "a.b"})).await;
    receiver.wait_event("/hook", "out").await;
    acme.publish(&json!({"id": "next", "type": "a.b"})).await;
    acme.wait_status("next", &webhook, "pending").await;
    acme.act(&path("out")).await.expect_problem(409, "conflict");
    assert_eq!(acme.act(&path("next")).await.expect(202).json()["outcome"], "under_way");
    receiver.release();
    acme.wait_status("next", &webhook, "processed").await;

    acme.act(&path("nothing")).await.expect_problem(404, "not-found");
    acme.act("/v1/webhooks/whk_nothing/deliveries/dead/retry").await.expect_problem(404, "not-found");
}

#[tokio::test]
async fn after_an_outage_everything_that_failed_since_comes_again() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    // Some are given up at once, some wait for a day.
    receiver.answer("/hook", |one| Reply::Status(if one.id().starts_with("dead") { 400 } else { 500 }));
    let webhook = webhook(&acme, &receiver, "/hook", &json!({"retry": retry(&[DAY_MS])})).await;
    hub.admin().act(&format!("/v1/admin/breakers/{webhook}/disable")).await.expect(200);
    let before = acme.publish(&json!({"id": "dead-before", "type": "a.b"})).await;
    acme.wait_dead_letters(&webhook, 1).await;
    acme.wait_status(&before, &webhook, "dead_letter").await;
    // From the next millisecond on.
    let (clock, given_up) = (SystemClock::shared(), SystemClock::shared().now());
    until("the time has moved", || async { (clock.now() > given_up).then_some(()) }).await;
    let since = clock.now().to_rfc3339();
    publish(&acme, (0..20).map(|n| json!({"id": format!("dead-{n}"), "type": "a.b"}))).await;
    publish(&acme, (0..20).map(|n| json!({"id": format!("late-{n}"), "type": "a.b"}))).await;
    acme.wait_dead_letters(&webhook, 21).await;
    for n in 0..20 {
        acme.wait_status(&format!("late-{n}"), &webhook, "failed").await;
    }
    let so_far = receiver.on("/hook").len();
    receiver.always("/hook", Reply::Status(200));
    let made = acme.post(&format!("/v1/webhooks/{webhook}/recover"), &json!({"since": since})).await.expect(202).json();
    let job = wait_job(&acme, made["id"].as_str().unwrap(), "is done", |job| job["state"] == "done").await;
    assert_eq!(job["progress"]["handed_on"], 40, "{job}");
    let came = receiver.wait_for("/hook", so_far + 40).await;
    let mut wanted: Vec<String> = (0..20).flat_map(|n| [format!("dead-{n}"), format!("late-{n}")]).collect();
    wanted.sort();
    assert_eq!(sorted(ids(&came[so_far..])), wanted);
    let open = acme.get(&format!("/v1/dead-letters?consumer={webhook}&state=open")).await.expect(200).json();
    assert_eq!(items(&open).len(), 1, "the one from before stays: {open}");
}

#[tokio::test]
async fn replayed_events_keep_the_order_of_their_key() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    let webhook = webhook(&acme, &receiver, "/hook", &json!({"ordering": "key", "retry": retry(&[10; 20])})).await;
    let event = |n: usize| json!({"id": format!("{:04}", n), "type": "a.b", "ordering_key": format!("k{}", n % 7)});
    publish(&acme, (0..700).map(event)).await;
    receiver.wait_for("/hook", 700).await;
    acme.wait_status("0699", &webhook, "processed").await;
    // One in nine fails once when it comes again.
    let failed: parking_lot::Mutex<std::collections::HashSet<String>> = parking_lot::Mutex::default();
    receiver.answer("/hook", move |one| {
        let n: usize = one.id().parse().unwrap_or(0);
        Reply::Status(if n.is_multiple_of(9) && failed.lock().insert(one.id().to_owned()) { 500 } else { 200 })
    });
    hub.admin().act(&format!("/v1/admin/breakers/{webhook}/disable")).await.expect(200);
    replay(&acme, &webhook, &json!({"from": 101, "to": 600})).await;
    let accepted = |all: &[Delivery]| all.iter().skip(700).filter(|one| one.status == Some(200)).count();
    receiver.wait_until("every one again", |all| accepted(all) >= 500).await;
    let mut by_key: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for one in receiver.on("/hook").iter().skip(700).filter(|one| one.status == Some(200)) {
        let n: usize = one.id().parse().unwrap();
        by_key.entry(n % 7).or_default().push(n);
    }
    for (key, order) in by_key {
        assert!(order.windows(2).all(|pair| pair[0] < pair[1]), "key {key}: {order:?}");
    }
}

#[tokio::test]
async fn an_event_that_fails_again_in_a_replay_leaves_a_dead_letter() {
    let scene = scene().await;
    scene.receiver.always("/hook", Reply::Status(400));
    replay(&scene.acme, &scene.webhook, &json!({"event_ids": ["e4"]})).await;
    let letter = scene.acme.wait_dead_letters(&scene.webhook, 1).await.remove(0);
    assert_eq!((&letter["event_id"], &letter["attempts"]), (&json!("e4"), &json!(1)), "{letter}");
    assert_eq!(letter["earlier"], Value::Null, "{letter}");
}

/// The hub is killed again and again while it replays. Every event of the range comes again, the job comes to its end, and
/// no more comes twice than the kills explain: what was out or not yet written at each of them.
#[tokio::test]
async fn killed_again_and_again_a_replay_leaves_nothing_out_and_explains_what_comes_twice() {
    const EVENTS: usize = 4_000;
    const KILLS: usize = 8;
    /// Events of one step of a job.
    const STEP: usize = 256;
    /// Rows that may be delivered and not yet written as such.
    const ROWS: usize = 1_000;
    let mut hub = Hub::start().await;
    let receiver = Receiver::start();
    receiver.forget_bodies();
    let acme = hub.acme().await.pooled();
    let webhook = webhook(&acme, &receiver, "/hook", &json!({"event_types": ["none.such"], "concurrency": 32})).await;
    publish(
        &acme,
        (0..EVENTS).map(|n| json!({"id": format!("e{n}"), "type": "a.b", "ordering_key": format!("{}", n % 9)})),
    )
    .await;
    let wanted = json!({"match": "all", "from": 1, "to": EVENTS, "rate": 1_500});
    let made = acme.post(&format!("/v1/webhooks/{webhook}/replay"), &wanted).await.expect(202).json();
    let id = made["id"].as_str().unwrap().to_owned();
    let random = SystemRandom::shared();
    let mut kills = 0;
    for kill in 1..=KILLS {
        let so_far = receiver.on("/hook").len();
        let goal = (EVENTS * kill / (KILLS + 2)).max(so_far + 20);
        let came = |all: &[Delivery]| all.iter().filter(|one| one.path == "/hook").count();
        receiver.wait_until("the replay goes on", |all| came(all) >= goal.min(EVENTS)).await;
        tokio::time::sleep(std::time::Duration::from_millis((random.fraction() * 40.0) as u64)).await;
        hub.kill();
        receiver.next_run().await;
        kills += 1;
        hub.restart().await;
    }
    let acme = acme.at(hub.public_address());
    let job = wait_job(&acme, &id, "is done", |job| job["state"] == "done").await;
    assert_eq!(job["progress"]["looked_at"].as_u64(), Some(EVENTS as u64), "{job}");
    let counts = |all: &[Delivery]| -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        for one in all.iter().filter(|one| one.path == "/hook") {
            *counts.entry(one.id().to_owned()).or_default() += 1;
        }
        counts
    };
    receiver.wait_until("every event of the range", |all| counts(all).len() == EVENTS).await;
    until("nothing is left", || async {
        let page = hub.admin().get("/v1/admin/consumers").await.expect(200).json();
        let one = items(&page).iter().find(|one| one["id"] == webhook.as_str()).cloned()?;
        (one["replay_rows"] == 0 && one["in_flight"] == 0).then_some(())
    })
    .await;
    let came = receiver.look(counts);
    let twice: usize = came.values().map(|count| count - 1).sum();
    eprintln!("{twice} of {EVENTS} came again over {kills} kills; {}", job["progress"]);
    assert!(twice <= kills * (STEP + ROWS), "{twice} came again over {kills} kills");
    for (id, count) in came {
        assert!(count <= 1 + kills, "{id} came {count} times over {kills} kills");
    }
    assert!(hub.terminate().await.success());
}
