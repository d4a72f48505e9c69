//! Producers that send until they are told to stop, and remember what was acknowledged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{Api, until};

/// Ordering keys of one producer.
const KEYS: u64 = 3;

/// A load of single events of type `load.event`. Each producer sends one at a time, an event again and again until it is
/// acknowledged, so the events of a key are in the log in the order of their numbers.
pub struct Load {
    shared: Arc<Shared>,
    producers: Vec<JoinHandle<()>>,
}

struct Shared {
    acknowledged: Mutex<BTreeMap<String, u64>>,
    refused: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl Load {
    /// Starts so many producers.
    pub fn start(api: &Api, producers: u64) -> Self {
        let shared = Arc::new(Shared {
            acknowledged: Mutex::default(),
            refused: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let api = api.clone().pooled();
        let producers = (0..producers).map(|n| tokio::spawn(produce(Arc::clone(&shared), api.clone(), n))).collect();
        Self { shared, producers }
    }

    /// How many events were acknowledged so far.
    pub fn count(&self) -> usize {
        self.shared.acknowledged.lock().len()
    }

    /// Waits until so many more events are acknowledged.
    pub async fn grow(&self, by: usize) {
        let wanted = self.count() + by;
        until("more events are acknowledged", || async { (self.count() >= wanted).then_some(()) }).await;
    }

    /// The slugs of the problems that were answered so far, one an answer.
    pub fn refused(&self) -> Vec<String> {
        self.shared.refused.lock().clone()
    }

    /// Ends the load; gives the acknowledged events and their places.
    pub async fn stop(self) -> BTreeMap<String, u64> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for producer in self.producers {
            producer.await.unwrap();
        }
        self.shared.acknowledged.lock().clone()
    }
}

/// The ordering key of an event of a load, and its number among those of its key.
pub fn key_of(id: &str) -> (String, u64) {
    let (producer, n) = id.split_once('-').unwrap();
    let n: u64 = n.parse().unwrap();
    (format!("{producer}.{}", n % KEYS), n / KEYS)
}

async fn produce(shared: Arc<Shared>, api: Api, producer: u64) {
    let headers = [("content-type", "application/json")];
    for n in 0_u64.. {
        let id = format!("p{producer}-{n:06}");
        let event = json!({"id": id, "type": "load.event", "ordering_key": key_of(&id).0, "data": {"n": n}});
        let body = event.to_string().into_bytes();
        loop {
            if shared.stop.load(Ordering::Relaxed) {
                return;
            }
            let answer = api.try_send(Method::POST, "/v1/events", &headers, Some(body.clone())).await.unwrap();
            let json = answer.json();
            if [200, 202].contains(&answer.status) {
                acknowledge(&shared, &id, &json);
                break;
            }
            assert_eq!(answer.status, 503, "{}", answer.text);
            shared.refused.lock().push(json["type"].as_str().unwrap().replace("urn:tidegate:problem:", ""));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

fn acknowledge(shared: &Shared, id: &str, receipt: &Value) {
    let seq = receipt["seq"].as_u64().unwrap();
    let before = shared.acknowledged.lock().insert(id.to_owned(), seq);
    assert!(before.is_none(), "{id} was acknowledged at {before:?} and at {seq}");
}

/// Every event in the log with its place.
pub async fn stored(api: &Api) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let mut cursor = String::new();
    loop {
        let page = api.get(&format!("/v1/events?limit=1000&cursor={cursor}")).await.expect(200).json();
        for event in super::items(&page) {
            found.insert(event["id"].as_str().unwrap().to_owned(), event["seq"].as_u64().unwrap());
        }
        if page["has_more"] != true {
            return found;
        }
        cursor = page["next_cursor"].as_str().unwrap().to_owned();
    }
}

/// Fails unless every acknowledged event is in the log, at the place its receipt names.
pub async fn assert_stored(api: &Api, acknowledged: &BTreeMap<String, u64>) {
    let stored = stored(api).await;
    let lost: Vec<_> = acknowledged.iter().filter(|(id, seq)| stored.get(*id) != Some(*seq)).take(20).collect();
    assert!(lost.is_empty(), "of {} acknowledged events are not where they were put: {lost:?}", acknowledged.len());
}
