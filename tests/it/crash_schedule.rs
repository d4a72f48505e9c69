//! The hub is killed again and again while events are scheduled, cancelled and fall due. In the end every acknowledged one
//! is in the log exactly once and not before its time, and none that was cancelled ever is (SC-1 to SC-4).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use reqwest::Method;
use serde_json::json;
use tidegate::ground::clock::UnixMs;

use crate::support::{Api, Hub, Kills, Prey, items, until};

const KILLS: usize = 24;
const PRODUCERS: u64 = 3;
/// Past this many events the producers rest until the next kill.
const EVENTS_PER_RUN: u64 = 120;

struct Load {
    prey: Prey,
    /// Acknowledged events and when they are due.
    acknowledged: Mutex<BTreeMap<String, UnixMs>>,
    /// Those whose cancelling was acknowledged, and those where that is not known.
    cancelled: Mutex<BTreeSet<String>>,
    uncertain: Mutex<BTreeSet<String>>,
}

impl Load {
    /// Sends an event until it is acknowledged.
    async fn schedule(&self, api: &Api, id: &str, delay_ms: u64) {
        let body = json!({"id": id, "type": "crash.scheduled", "delay": format!("{delay_ms}ms")});
        let receipt = self.prey.insist(api, "/v1/events", &[], &body, &[200, 202]).await;
        // A repeat that is answered late finds it in the log already.
        let due = receipt["deliver_at"].as_str().map_or(UnixMs(0), |text| UnixMs::parse_rfc3339(text).unwrap());
        self.acknowledged.lock().insert(id.to_owned(), due);
        self.prey.count();
    }

    /// Asks once to cancel; what is not answered is uncertain.
    async fn cancel(&self, api: &Api, id: &str) {
        if !self.prey.is_reachable() {
            return;
        }
        match self.prey.send(api, Method::DELETE, &format!("/v1/scheduled/{id}"), &[], None).await {
            Some(answer) if answer.status == 204 => {
                self.cancelled.lock().insert(id.to_owned());
            }
            Some(answer) if answer.status == 409 => {}
            Some(answer) => {
                assert_eq!(answer.status, 503, "{}", answer.text);
                self.uncertain.lock().insert(id.to_owned());
            }
            None => {
                self.uncertain.lock().insert(id.to_owned());
            }
        }
    }
}

async fn produce(load: Arc<Load>, producer: u64) {
    let api = load.prey.client();
    let mut n = 0;
    while !load.prey.is_stopping() {
        n += 1;
        let id = format!("p{producer}-{n}");
        load.schedule(&api, &id, 20 + (n * 37) % 700).await;
        if n % 3 == 0 {
            load.cancel(&api, &id).await;
        }
    }
}

#[tokio::test]
async fn killed_again_and_again_every_scheduled_event_comes_once_and_no_cancelled_one() {
    let kills = Kills::new(500);
    let mut hub = Hub::start().await;
    let key = hub.key(&["publish", "read"], Some("acme")).await;
    let load = Arc::new(Load {
        prey: Prey::new(&hub, &key, EVENTS_PER_RUN),
        acknowledged: Mutex::default(),
        cancelled: Mutex::default(),
        uncertain: Mutex::default(),
    });
    let producers: Vec<_> = (0..PRODUCERS).map(|n| tokio::spawn(produce(load.clone(), n))).collect();
    for _ in 0..KILLS {
        kills.strike(&mut hub, &load.prey, async || {}).await;
    }
    load.prey.stop();
    for producer in producers {
        producer.await.unwrap();
    }

    let acme = hub.public(&key);
    until("nothing waits", || async {
        let page = acme.get("/v1/scheduled").await.expect(200).json();
        items(&page).is_empty().then_some(())
    })
    .await;
    let mut logged: BTreeMap<String, UnixMs> = BTreeMap::new();
    let mut cursor = String::new();
    loop {
        let page = acme.get(&format!("/v1/events?limit=1000&cursor={cursor}")).await.expect(200).json();
        for event in items(&page) {
            let received_at = UnixMs::parse_rfc3339(event["received_at"].as_str().unwrap()).unwrap();
            let before = logged.insert(event["id"].as_str().unwrap().to_owned(), received_at);
            assert_eq!(before, None, "twice in the log: {event}");
        }
        cursor = page["next_cursor"].as_str().unwrap_or_default().to_owned();
        if page["has_more"] != true {
            break;
        }
    }
    let (acknowledged, cancelled) = (load.acknowledged.lock().clone(), load.cancelled.lock().clone());
    let uncertain = load.uncertain.lock().clone();
    eprintln!(
        "{} scheduled, {} cancelled, {} perhaps, {} in the log, over {KILLS} kills",
        acknowledged.len(),
        cancelled.len(),
        uncertain.len(),
        logged.len()
    );
    assert!(acknowledged.len() > KILLS && !cancelled.is_empty(), "there was a load");
    for (id, due_at) in &acknowledged {
        match logged.get(id) {
            Some(received_at) => {
                assert!(received_at >= due_at, "{id} was due at {due_at} and came at {received_at}");
                assert!(!cancelled.contains(id), "{id} was cancelled and came");
            }
            None => assert!(cancelled.contains(id) || uncertain.contains(id), "{id} was acknowledged and never came"),
        }
    }
    assert!(hub.terminate().await.success());
}
