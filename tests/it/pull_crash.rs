//! Pull consumers under load while the hub is killed at random moments: an answer that was confirmed is never undone, and
//! whatever comes again had no confirmed answer.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::Method;
use serde_json::{Value, json};
use tidegate::ground::random::SeededRandom;

use crate::support::{Api, Hub, Kills, Prey, until};

const KILLS: usize = 16;
const CLIENTS: usize = 3;
const CONSUMERS: [&str; 3] = ["none", "key", "strict"];
/// Keys of the events.
const KEYS: u64 = 5;

#[derive(Default)]
struct Seen {
    /// Events whose acknowledgement was answered 200.
    confirmed: HashSet<String>,
    /// Events that were acknowledged, answered or not: a kill may come between the two.
    asked: HashSet<String>,
    /// Deliveries of an event after that.
    undone: Vec<String>,
    deliveries: u64,
    refused: u64,
    /// Events by key, in the order in which each came first. A client notes a delivery before it answers it.
    order: HashMap<u64, Vec<u64>>,
    came: HashSet<String>,
}

struct Load {
    prey: Prey,
    acknowledged: Mutex<BTreeMap<String, u64>>,
    seen: HashMap<&'static str, Mutex<Seen>>,
    events: AtomicU64,
    enough: AtomicBool,
}

impl Load {
    /// The answer; none while the hub is down or when the connection broke.
    async fn send(&self, api: &Api, path: &str, body: &Value) -> Option<(u16, Value)> {
        let answer = self.prey.send(api, Method::POST, path, &[], Some(body)).await?;
        Some((answer.status, serde_json::from_str(&answer.text).ok()?))
    }
}

async fn produce(load: Arc<Load>) {
    let api = load.prey.client();
    while !load.enough.load(Ordering::Relaxed) {
        let n = load.events.fetch_add(5, Ordering::Relaxed);
        let batch: Value = (n..n + 5)
            .map(|n| json!({"id": format!("{n}"), "type": "a.b", "ordering_key": format!("{}", n % KEYS)}))
            .collect();
        let answer = load.prey.insist(&api, "/v1/events/batch", &[], &batch, &[202]).await;
        let results = answer["results"].as_array().unwrap().iter();
        load.acknowledged
            .lock()
            .extend(results.map(|one| (one["id"].as_str().unwrap().to_owned(), one["seq"].as_u64().unwrap())));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Pulls and answers: most are acknowledged, some refused, some extended first, some forgotten.
async fn consume(load: Arc<Load>, name: &'static str, client: u64) {
    let api = load.prey.client();
    let random = SeededRandom::shared(client);
    while !load.prey.is_stopping() {
        let pulled = load.send(&api, &format!("/v1/consumers/{name}/pull"), &json!({"max": 8, "wait_ms": 300})).await;
        let Some((status, answer)) = pulled else { continue };
        if status != 200 {
            assert_eq!(status, 503, "{answer}");
            continue;
        }
        for one in answer["deliveries"].as_array().unwrap() {
            let id = one["event"]["id"].as_str().unwrap().to_owned();
            {
                let mut seen = load.seen[name].lock();
                seen.deliveries += 1;
                if seen.came.insert(id.clone()) {
                    let n: u64 = id.parse().unwrap();
                    seen.order.entry(n % KEYS).or_default().push(n);
                }
                if seen.confirmed.contains(&id) {
                    seen.undone.push(id.clone());
                }
            }
            let tokens = json!({"tokens": [one["token"]]});
            let chance = random.fraction();
            if chance < 0.03 {
                continue;
            }
            if chance < 0.1 {
                let refused = json!({"tokens": [one["token"]], "delay_ms": 10});
                load.send(&api, &format!("/v1/consumers/{name}/nak"), &refused).await;
                load.seen[name].lock().refused += 1;
                continue;
            }
            if chance < 0.2 {
                load.send(&api, &format!("/v1/consumers/{name}/extend"), &tokens).await;
            }
            load.seen[name].lock().asked.insert(id.clone());
            if let Some((200, _)) = load.send(&api, &format!("/v1/consumers/{name}/ack"), &tokens).await {
                load.seen[name].lock().confirmed.insert(id);
            }
        }
    }
}

#[tokio::test]
async fn killed_under_load_the_hub_undoes_no_answer_that_it_has_confirmed() {
    let kills = Kills::new(500);
    let mut hub = Hub::start().await;
    let key = hub.key(&["publish", "consume", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    for name in CONSUMERS {
        let wanted =
            json!({"name": name, "event_types": ["*"], "ordering": name, "lease_ms": 400, "max_attempts": 100});
        acme.post("/v1/consumers", &wanted).await.expect(201);
    }
    let load = Arc::new(Load {
        prey: Prey::new(&hub, &key, u64::MAX),
        acknowledged: Mutex::default(),
        seen: CONSUMERS.into_iter().map(|name| (name, Mutex::default())).collect(),
        events: AtomicU64::new(0),
        enough: AtomicBool::new(false),
    });
    let mut tasks = vec![tokio::spawn(produce(Arc::clone(&load)))];
    for name in CONSUMERS {
        for client in 0..CLIENTS as u64 {
            tasks.push(tokio::spawn(consume(Arc::clone(&load), name, kills.seed ^ client)));
        }
    }
    for _ in 0..KILLS {
        kills.strike(&mut hub, &load.prey, async || {}).await;
    }
    // No more events; what there is comes to its end.
    load.enough.store(true, Ordering::Relaxed);
    tasks.remove(0).await.unwrap();
    let acknowledged: HashSet<String> = load.acknowledged.lock().keys().cloned().collect();
    let acme = hub.public(&key);
    for name in CONSUMERS {
        until(&format!("{name} has nothing left"), || async {
            let shown = acme.get(&format!("/v1/consumers/{name}")).await.expect(200).json();
            let left = ["lag", "in_flight", "exception_rows"].map(|count| shown[count].as_u64().unwrap());
            (left == [0; 3] && acknowledged.is_subset(&load.seen[name].lock().asked)).then_some(())
        })
        .await;
    }
    load.prey.stop();
    for task in tasks {
        task.await.unwrap();
    }
    assert!(acknowledged.len() > KILLS, "there was a load");
    for name in CONSUMERS {
        let seen = load.seen[name].lock();
        let confirmed = seen.confirmed.len();
        eprintln!("{name}: {confirmed} confirmed of {} deliveries, {} refused", seen.deliveries, seen.refused);
        assert_eq!(seen.undone, Vec::<String>::new(), "{name}: came again after its answer was confirmed");
        if name != "none" {
            for (key, order) in &seen.order {
                assert!(order.windows(2).all(|pair| pair[0] < pair[1]), "{name}, key {key}: {order:?}");
            }
        }
    }
    let page = acme.get("/v1/dead-letters").await.expect(200).json();
    assert!(page["items"].as_array().unwrap().is_empty(), "{page}");
    assert!(hub.terminate().await.success());
}
