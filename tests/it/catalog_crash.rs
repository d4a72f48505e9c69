//! The hub is killed again and again while refused events are kept and redriven, and while aggregates are followed. In the
//! end every event that was told to be kept is in the log exactly once, none of them is open, and each event that broke
//! the order of its aggregate is flagged, no other one (QU-1, QU-4, AL-1).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::Method;
use serde_json::{Value, json};
use tidegate::ground::random::{SeededRandom, SystemRandom};

use crate::support::{Answer, Api, Hub, items, until};

const KILLS: usize = 16;
const AGGREGATES: u64 = 3;

#[derive(Default)]
struct Load {
    address: Mutex<Option<String>>,
    /// Refused events that were told to be kept.
    kept: Mutex<BTreeSet<String>>,
    /// Acknowledged events of aggregates: their places, aggregates and types.
    taken: Mutex<BTreeMap<u64, (String, u64, &'static str)>>,
    stop: AtomicBool,
}

impl Load {
    /// Asks until there is an answer that is not one of a hub that goes or comes.
    async fn ask(&self, api: &Api, path: &str, body: &Value) -> Option<Answer> {
        let headers = [("content-type", "application/json")];
        loop {
            let address = self.address.lock().clone();
            if let Some(address) = address {
                let body = Some(body.to_string().into_bytes());
                match api.at(&address).try_send(Method::POST, path, &headers, body).await {
                    Ok(answer) if answer.status != 503 => return Some(answer),
                    Ok(_) | Err(_) => {}
                }
            } else if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Sends events that do not fit, and has kept ones redriven as if their type took them now.
async fn refuse_and_redrive(load: Arc<Load>, api: Api) {
    let mut n = 0;
    while !load.stop.load(Ordering::Relaxed) {
        n += 1;
        let id = format!("refused-{n}");
        let event = json!({"id": id, "type": "strange.type", "data": {"n": n}});
        let Some(answer) = load.ask(&api, "/v1/events", &event).await else { return };
        // In a round in which the type is known it is taken at once.
        if answer.status == 422 {
            let problem = answer.json();
            assert_eq!(problem["quarantine"], "kept", "{problem}");
            load.kept.lock().insert(id);
        }
        if n % 4 == 0 {
            load.ask(&api, "/v1/quarantine/redrive", &json!({"limit": 3})).await;
        }
    }
}

/// Moves aggregates, now and then out of order.
async fn move_aggregates(load: Arc<Load>, api: Api) {
    let mut n = 0;
    while !load.stop.load(Ordering::Relaxed) {
        n += 1;
        let event_type = ["order.placed", "order.paid", "order.paid", "order.placed", "order.paid"][n % 5];
        let (id, aggregate) = (format!("moved-{n}"), n as u64 % AGGREGATES);
        let event =
            json!({"id": id, "type": event_type, "aggregate_type": "order", "aggregate_id": aggregate.to_string()});
        let Some(answer) = load.ask(&api, "/v1/events", &event).await else { return };
        let receipt = answer.expect_any(&[200, 202]).json();
        load.taken.lock().insert(receipt["seq"].as_u64().unwrap(), (id, aggregate, event_type));
    }
}

/// The ids of the events that break the order, by a walk over all that was taken.
fn expected(taken: &BTreeMap<u64, (String, u64, &'static str)>) -> BTreeSet<String> {
    let mut states: BTreeMap<u64, &str> = BTreeMap::new();
    let mut broken = BTreeSet::new();
    for (id, aggregate, event_type) in taken.values() {
        let state = states.entry(*aggregate).or_insert("none");
        let (from, to) = if *event_type == "order.placed" { ("none", "open") } else { ("open", "paid") };
        if *state != from {
            broken.insert(id.clone());
        }
        *state = to;
    }
    broken
}

#[tokio::test]
async fn killed_again_and_again_what_was_kept_comes_in_once_and_each_break_is_flagged_once() {
    let seed = std::env::var("CRASH_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| {
        let mut bytes = [0_u8; 8];
        SystemRandom::shared().fill(&mut bytes);
        u64::from_le_bytes(bytes)
    });
    eprintln!("CRASH_SEED={seed}");
    let random = SeededRandom::shared(seed);
    let below = |bound: u64| (random.fraction() * bound as f64) as u64;
    let mut hub = Hub::start().await;
    let key = hub.key(&["publish", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    for event_type in ["order.placed", "order.paid"] {
        acme.put(&format!("/v1/catalog/types/{event_type}"), &json!({})).await.expect(201);
    }
    let order = json!({"states": ["none", "open", "paid"], "initial": "none", "transitions": [
        {"from": "none", "to": "open", "event_type": "order.placed"},
        {"from": "open", "to": "paid", "event_type": "order.paid"},
    ]});
    acme.put("/v1/catalog/lifecycles/order", &order).await.expect(201);
    acme.patch("/v1/catalog/policy", &json!({"policy": "strict", "quarantine": {"enabled": true}})).await.expect(200);
    let load = Arc::new(Load::default());
    *load.address.lock() = Some(hub.public_address().to_owned());
    let api = Api::with_key("", &key).pooled();
    let workers = [
        tokio::spawn(refuse_and_redrive(Arc::clone(&load), api.clone())),
        tokio::spawn(move_aggregates(Arc::clone(&load), api.clone())),
    ];
    for round in 0..KILLS {
        // In every other round the strange type is known: what was kept fits, and is redriven under the kill.
        let acme = hub.public(&key);
        if round % 2 == 1 {
            acme.put("/v1/catalog/types/strange.type", &json!({})).await.expect_any(&[200, 201]);
        } else {
            acme.delete("/v1/catalog/types/strange.type").await.expect_any(&[204, 404]);
        }
        tokio::time::sleep(Duration::from_millis(40 + below(250))).await;
        hub.kill();
        *load.address.lock() = None;
        if below(4) == 0 {
            let recovering = hub.spawn();
            tokio::time::sleep(Duration::from_millis(below(150))).await;
            recovering.kill();
        }
        hub.restart().await;
        *load.address.lock() = Some(hub.public_address().to_owned());
    }
    load.stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }

    let acme = hub.public(&key);
    acme.put("/v1/catalog/types/strange.type", &json!({})).await.expect_any(&[200, 201]);
    until("nothing is open", || async {
        let done = acme.post("/v1/quarantine/redrive", &json!({"limit": 1_000})).await.expect(200).json();
        assert_eq!((&done["refused"], &done["failed"]), (&json!(0), &json!(0)), "{done}");
        let open = acme.get("/v1/quarantine?state=open").await.expect(200).json();
        items(&open).is_empty().then_some(())
    })
    .await;
    let (mut logged, mut taken): (BTreeMap<String, u64>, _) = (BTreeMap::new(), BTreeMap::new());
    let mut cursor = String::new();
    loop {
        let page = acme.get(&format!("/v1/events?limit=1000&cursor={cursor}")).await.expect(200).json();
        for event in items(&page) {
            let (id, seq) = (event["id"].as_str().unwrap().to_owned(), event["seq"].as_u64().unwrap());
            assert_eq!(logged.insert(id.clone(), seq), None, "twice in the log: {event}");
            if event["aggregate_type"] == "order" {
                let kind = if event["type"] == "order.placed" { "order.placed" } else { "order.paid" };
                let aggregate = event["aggregate_id"].as_str().unwrap().parse().unwrap();
                taken.insert(seq, (id, aggregate, kind));
            }
        }
        cursor = page["next_cursor"].as_str().unwrap_or_default().to_owned();
        if page["has_more"] != true {
            break;
        }
    }
    let kept = load.kept.lock().clone();
    for id in &kept {
        assert!(logged.contains_key(id), "{id} was told to be kept and never came in");
    }
    for (seq, (id, ..)) in load.taken.lock().iter() {
        assert_eq!(logged.get(id), Some(seq), "{id} was acknowledged");
    }
    let wanted = expected(&taken);
    eprintln!("{} kept, {} moved, {} out of order, over {KILLS} kills", kept.len(), taken.len(), wanted.len());
    assert!(kept.len() > KILLS / 2 && !wanted.is_empty() && wanted.len() < taken.len(), "there was a load");
    let flagged = until("the projection has come to the end", || async {
        let mut flagged = Vec::new();
        let mut cursor = "0".to_owned();
        loop {
            let path = format!("/v1/catalog/lifecycles/order/flags?limit=1000&cursor={cursor}");
            let page = acme.get(&path).await.expect(200).json();
            flagged.extend(items(&page).iter().map(|flag| flag["event_id"].as_str().unwrap().to_owned()));
            cursor = page["next_cursor"].as_str().unwrap().to_owned();
            if page["has_more"] != true {
                break;
            }
        }
        (flagged.len() >= wanted.len()).then_some(flagged)
    })
    .await;
    assert_eq!(flagged.len(), wanted.len());
    assert_eq!(flagged.into_iter().collect::<BTreeSet<_>>(), wanted);
    assert!(hub.terminate().await.success());
}
