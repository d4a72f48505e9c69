//! The hub is killed while requests under idempotency keys run: between the effect and its answer, and again and again under
//! load. Secrets of recorded answers are in no file.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use reqwest::Method;
use serde_json::{Value, json};

use crate::idempotency::{keyed, try_keyed};
use crate::support::{Api, Hub, Kills, Prey, items, sample, until};

/// A lock of a second: what a crash leaves held is free soon.
const SETTINGS: &[(&str, &str)] =
    &[("FAULTS__ENABLED", "true"), ("IDEMPOTENCY__LOCK_MS", "1000"), ("IDEMPOTENCY__WAIT_MS", "10000")];

const HOOK: &str = "http://127.0.0.1:9/hook";

fn hook() -> Value {
    json!({"url": HOOK, "org": "acme", "event_types": ["never.*"]})
}

#[tokio::test]
async fn killed_between_effect_and_answer_an_event_is_there_once_and_anything_else_runs_again() {
    let mut hub = Hub::start_with(SETTINGS).await;
    let key = hub.key(&["publish", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    let event = json!({"type": "order.placed", "data": {"amount": 12}});
    let batch = json!([{"type": "order.paid", "data": 1}, {"type": "order.paid", "data": 2}]);
    let count = async |api: &Api, path: &str| items(&api.get(path).await.expect(200).json()).len();

    // From now on effects are there, and their answers are not recorded.
    hub.admin().act("/v1/admin/faults/hold-answers").await.expect(202);
    let requests = [("/v1/events", event.clone()), ("/v1/events/batch", batch.clone()), ("/v1/webhooks", hook())];
    let cut: Vec<_> = requests
        .iter()
        .map(|(path, body)| {
            let (acme, path, body) = (acme.clone(), *path, body.clone());
            tokio::spawn(async move { try_keyed(&acme, Method::POST, path, "k", &body).await })
        })
        .collect();
    until("the effects are there", || async {
        let events = count(&acme, "/v1/events?type=order.*").await;
        (events == 3 && count(&acme, "/v1/webhooks").await == 1).then_some(())
    })
    .await;
    hub.kill();
    for one in cut {
        assert!(one.await.unwrap().is_err(), "nobody was answered");
    }

    hub.restart().await;
    let acme = hub.public(&key);
    // Each waits until the lock of the holder that was killed is over, and runs again.
    let placed = keyed(&acme, Method::POST, "/v1/events", "k", &event).await.expect(200).json();
    assert_eq!(placed["duplicate"], true, "the log knows it by the id that was made of the key");
    let paid = keyed(&acme, Method::POST, "/v1/events/batch", "k", &batch).await.expect(202).json();
    assert!(paid["results"].as_array().unwrap().iter().all(|one| one["duplicate"] == true), "{paid}");
    assert_eq!(count(&acme, "/v1/events?type=order.*").await, 3);
    let made = keyed(&acme, Method::POST, "/v1/webhooks", "k", &hook()).await.expect(201);
    assert_eq!(count(&acme, "/v1/webhooks").await, 2, "it was made once before the kill and once after");
    // From here on there is one answer, whatever is killed.
    hub.kill();
    hub.restart().await;
    let again = keyed(&hub.public(&key), Method::POST, "/v1/webhooks", "k", &hook()).await.expect(201);
    assert_eq!((again.text, again.headers.contains_key("idempotency-replayed")), (made.text, true));
    let other = json!({"url": HOOK, "org": "acme", "event_types": ["other.*"]});
    keyed(&hub.public(&key), Method::POST, "/v1/webhooks", "k", &other)
        .await
        .expect_problem(422, "idempotency-mismatch");
}

#[tokio::test]
async fn a_stop_does_not_wait_for_who_waits_for_a_holder_that_is_gone() {
    let settings = [("FAULTS__ENABLED", "true"), ("IDEMPOTENCY__WAIT_MS", "300000")];
    let mut hub = Hub::start_with(&settings).await;
    let key = hub.key(&["publish", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    hub.admin().act("/v1/admin/faults/hold-answers").await.expect(202);
    let first = tokio::spawn(async move { try_keyed(&acme, Method::POST, "/v1/webhooks", "k", &hook()).await });
    let acme = hub.public(&key);
    until("the effect is there", || async {
        (items(&acme.get("/v1/webhooks").await.expect(200).json()).len() == 1).then_some(())
    })
    .await;
    hub.kill();
    assert!(first.await.unwrap().is_err());
    hub.restart().await;
    let acme = hub.public(&key);
    let waiting = tokio::spawn(async move { keyed(&acme, Method::POST, "/v1/webhooks", "k", &hook()).await });
    until("it waits", || async {
        let metrics = hub.admin().get("/metrics").await.expect(200).text;
        (sample(&metrics, "tidegate_idempotency_waiting", &[]) == Some(1.0)).then_some(())
    })
    .await;
    assert!(hub.terminate().await.success());
    let told = waiting.await.unwrap().expect_problem(503, "overloaded");
    assert!(told.text.contains("stopping"), "{}", told.text);
}

/// What the producers and the one who kills share.
struct Load {
    prey: Prey,
    /// The first answer of each key.
    answers: Mutex<BTreeMap<String, Value>>,
}

/// Publishes events without an id, each under a key of its own, over as many runs of the hub as that takes, then once more.
async fn produce(load: Arc<Load>, producer: usize) {
    let api = load.prey.client();
    let mut n = 0;
    while !load.prey.is_stopping() {
        n += 1;
        let key = format!("p{producer}-{n}");
        let body = json!({"type": "load.keyed", "data": {"key": key}});
        for _ in 0..2 {
            let headers = [("idempotency-key", key.as_str())];
            let receipt = load.prey.insist(&api, "/v1/events", &headers, &body, &[200, 202]).await;
            let first = load.answers.lock().entry(key.clone()).or_insert_with(|| receipt.clone()).clone();
            assert_eq!((&first["id"], &first["seq"]), (&receipt["id"], &receipt["seq"]), "{key}");
        }
        load.prey.count();
    }
}

#[tokio::test]
async fn killed_again_and_again_every_keyed_event_is_there_once() {
    const KILLS: usize = 10;
    let kills = Kills::new(400);
    let mut hub = Hub::start_with(SETTINGS).await;
    let key = hub.key(&["publish", "read"], Some("acme")).await;
    let load = Arc::new(Load { prey: Prey::new(&hub, &key, 300), answers: Mutex::default() });
    let producers: Vec<_> = (0..4).map(|n| tokio::spawn(produce(Arc::clone(&load), n))).collect();
    for _ in 0..KILLS {
        kills.strike(&mut hub, &load.prey, async || {}).await;
    }
    load.prey.stop();
    for producer in producers {
        producer.await.unwrap();
    }
    let answers = load.answers.lock().clone();
    eprintln!("{} keys over {KILLS} kills", answers.len());
    let ids: HashSet<&str> = answers.values().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), answers.len(), "each key has an event of its own");

    // Every event of the log is the one of a key: none is there twice.
    let acme = hub.public(&key).pooled();
    let (mut found, mut cursor) = (BTreeMap::new(), String::new());
    loop {
        let page = acme.get(&format!("/v1/events?type=load.keyed&limit=1000{cursor}")).await.expect(200).json();
        for event in items(&page) {
            let key = event["data"]["key"].as_str().unwrap().to_owned();
            let before = found.insert(key.clone(), event["id"].clone());
            assert_eq!(before, None, "{key} is there twice");
        }
        if page["has_more"] != true {
            break;
        }
        cursor = format!("&cursor={}", page["next_cursor"].as_str().unwrap());
    }
    let wanted: BTreeMap<_, _> = answers.iter().map(|(key, answer)| (key.clone(), answer["id"].clone())).collect();
    assert_eq!(found, wanted);
    assert!(hub.terminate().await.success());
}

fn assert_in_no_file(dir: &Path, needle: &str) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            assert_in_no_file(&path, needle);
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let found = bytes.windows(needle.len()).any(|part| part == needle.as_bytes());
        assert!(!found, "a secret is in {}", path.display());
    }
}

#[tokio::test]
async fn the_secrets_of_recorded_answers_are_in_no_file_and_in_no_log() {
    let mut hub = Hub::start_with(&[("LOGGING__LEVEL", "info,tidegate=trace")]).await;
    let acme = hub.acme().await;
    let made = keyed(&acme, Method::POST, "/v1/webhooks", "hook", &hook()).await.expect(201);
    let wanted = json!({"application": "shop", "org": "acme", "scopes": ["read"]});
    let admin = hub.admin();
    let key = keyed(&admin, Method::POST, "/v1/admin/keys", "key", &wanted).await.expect(201);
    let again = keyed(&admin, Method::POST, "/v1/admin/keys", "key", &wanted).await.expect(201);
    assert_eq!(key.text, again.text, "who lost the answer finds the key in the recorded one");
    assert!(hub.terminate().await.success());
    for (answer, member) in [(&made, "signing_secret"), (&key, "key")] {
        let secret = answer.json()[member].as_str().unwrap().to_owned();
        assert!(secret.len() > 20);
        assert_in_no_file(&hub.data_dir(), &secret);
        assert!(!hub.log().contains(&secret), "{member} is in the log");
        // A part of it would tell as much.
        assert_in_no_file(&hub.data_dir(), &secret[8..20]);
    }
}
