//! The hub is killed at random moments under load, also while it recovers, again and again on the same directory. In the
//! end every acknowledged event was delivered, everything stored can be read, and every delivery that came twice is
//! explained by a kill between the two.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use parking_lot::Mutex;
use reqwest::Method;
use serde_json::{Value, json};
use tidegate::ground::random::{SeededRandom, SystemRandom};

use crate::support::{Api, Delivery, Hub, Receiver, Reply, items, retry, until};

/// How often the hub is killed. A quarter of the kills hit it before it is ready.
const KILLS: usize = 36;
const PRODUCERS: usize = 4;
/// Past this many acknowledged events the producers rest until the next kill: what the end checks stays bounded.
const EVENTS_PER_RUN: u64 = 600;

/// What the producers and the one who kills share.
struct Load {
    /// Where the hub listens; none while it is down.
    address: Mutex<Option<String>>,
    key: String,
    /// Acknowledged events and their places.
    acknowledged: Mutex<BTreeMap<String, u64>>,
    /// Events acknowledged since the hub was last started.
    in_this_run: AtomicU64,
    stop: AtomicBool,
}

impl Load {
    fn acknowledge(&self, receipt: &Value) {
        let (id, seq) = (receipt["id"].as_str().unwrap().to_owned(), receipt["seq"].as_u64().unwrap());
        self.in_this_run.fetch_add(1, Ordering::Relaxed);
        let before = self.acknowledged.lock().insert(id.clone(), seq);
        assert!(before.is_none_or(|before| before == seq), "{id} was acknowledged at {before:?} and at {seq}");
    }

    /// Sends a body until it is acknowledged, over as many runs of the hub as that takes. What was sent before a kill and
    /// not answered may be stored or not; the same ids again settle it.
    async fn send(&self, api: &Api, path: &str, body: &Value) {
        let body = body.to_string().into_bytes();
        let headers = [("content-type", "application/json")];
        loop {
            let address = self.address.lock().clone();
            let resting = self.in_this_run.load(Ordering::Relaxed) >= EVENTS_PER_RUN;
            let stopping = self.stop.load(Ordering::Relaxed);
            if let Some(address) = address.filter(|_| !resting || stopping) {
                match api.at(&address).try_send(Method::POST, path, &headers, Some(body.clone())).await {
                    Ok(answer) if [200, 202].contains(&answer.status) => {
                        let receipt = answer.json();
                        match receipt["results"].as_array() {
                            Some(results) => results.iter().for_each(|one| self.acknowledge(one)),
                            None => self.acknowledge(&receipt),
                        }
                        return;
                    }
                    // Told to come back, or the connection broke.
                    Ok(answer) => assert_eq!(answer.status, 503, "{}", answer.text),
                    Err(_) => {}
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// One producer: single events and small batches, ids of its own.
async fn produce(load: Arc<Load>, producer: usize) {
    let api = Api::with_key("", &load.key).pooled();
    let event = |n: u64| {
        json!({"id": format!("p{producer}-{n}"), "type": "crash.load", "aggregate_type": "thing",
            "aggregate_id": format!("{}", n % 7), "data": {"n": n, "filling": "x".repeat(200)}})
    };
    let mut n = 0;
    while !load.stop.load(Ordering::Relaxed) {
        n += 10;
        let batch: Vec<_> = (n..n + 4).map(event).collect();
        load.send(&api, "/v1/events/batch", &Value::from(batch)).await;
        for n in n + 4..n + 10 {
            load.send(&api, "/v1/events", &event(n)).await;
        }
    }
}

/// How one in twenty deliveries fails at first, fixed by the event's id.
fn flaky(receiver: &Receiver, path: &str) {
    let failed: Mutex<HashSet<String>> = Mutex::default();
    receiver.answer(path, move |one| {
        let sum: usize = one.id().bytes().map(usize::from).sum();
        let fail = sum.is_multiple_of(20) && failed.lock().insert(one.id().to_owned());
        Reply::Status(if fail { 500 } else { 200 })
    });
}

/// The moments of the kills: those of `CRASH_SEED`, or new ones.
fn seed() -> u64 {
    match std::env::var("CRASH_SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => {
            let mut bytes = [0_u8; 8];
            SystemRandom::shared().fill(&mut bytes);
            u64::from_le_bytes(bytes)
        }
    }
}

#[tokio::test]
async fn killed_again_and_again_the_hub_loses_nothing_and_explains_every_duplicate() {
    let seed = seed();
    eprintln!("CRASH_SEED={seed}");
    let random = SeededRandom::shared(seed);
    let below = |bound: u64| (random.fraction() * bound as f64) as u64;

    let settings =
        [("BREAKER__COOLDOWN_MS", "100"), ("BREAKER__COOLDOWN_CAP_MS", "200"), ("LOG__SEGMENT_EVENTS", "1000")];
    let mut hub = Hub::start_with(&settings).await;
    let receiver = Receiver::start();
    receiver.forget_bodies();
    flaky(&receiver, "/flaky");
    let key = hub.key(&["publish", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    let mut webhooks = Vec::new();
    for (path, ordering) in [("/steady", "none"), ("/flaky", "key")] {
        let wanted = json!({"url": receiver.url(path), "org": "acme", "event_types": ["crash.*"], "ordering": ordering,
            "retry": retry(&[20; 50])});
        webhooks.push(acme.webhook(&wanted).await["id"].as_str().unwrap().to_owned());
    }

    let load = Arc::new(Load {
        address: Mutex::new(Some(hub.public_address().to_owned())),
        key: key.clone(),
        acknowledged: Mutex::default(),
        in_this_run: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    });
    let producers: Vec<_> = (0..PRODUCERS).map(|n| tokio::spawn(produce(load.clone(), n))).collect();

    let mut during_recovery = 0;
    for _ in 0..KILLS {
        // The moment of the kill is chance; nothing below depends on how much happened before it.
        if below(4) == 0 {
            hub.kill();
            *load.address.lock() = None;
            receiver.next_run().await;
            let recovering = hub.spawn();
            tokio::time::sleep(Duration::from_millis(below(150))).await;
            recovering.kill();
            during_recovery += 1;
        } else {
            tokio::time::sleep(Duration::from_millis(30 + below(400))).await;
            hub.kill();
        }
        *load.address.lock() = None;
        receiver.next_run().await;
        hub.restart().await;
        load.in_this_run.store(0, Ordering::Relaxed);
        *load.address.lock() = Some(hub.public_address().to_owned());
    }
    load.stop.store(true, Ordering::Relaxed);
    for producer in producers {
        producer.await.unwrap();
    }

    let acknowledged = load.acknowledged.lock().clone();
    eprintln!(
        "{} events acknowledged over {KILLS} kills, {during_recovery} of them before the hub was ready",
        acknowledged.len()
    );
    assert!(acknowledged.len() > KILLS, "there was a load");
    let places: HashSet<u64> = acknowledged.values().copied().collect();
    assert_eq!(places.len(), acknowledged.len(), "no two events have one place");

    // Every acknowledged event is there, at its place, and goes to both webhooks.
    let acme = hub.public(&key).pooled();
    stream::iter(&acknowledged)
        .for_each_concurrent(16, |(id, seq)| {
            let acme = &acme;
            async move {
                let event = acme.get(&format!("/v1/events/{id}")).await.expect(200).json();
                assert_eq!(event["seq"].as_u64(), Some(*seq), "{event}");
            }
        })
        .await;
    for (path, webhook) in ["/steady", "/flaky"].into_iter().zip(&webhooks) {
        let taken = |all: &[Delivery]| -> HashSet<String> {
            let here = all.iter().filter(|one| one.path == path && one.status == Some(200));
            here.map(|one| one.id().to_owned()).collect()
        };
        until(&format!("every acknowledged event on {path}"), || async {
            let taken = receiver.look(taken);
            acknowledged.keys().all(|id| taken.contains(id)).then_some(())
        })
        .await;
        // What was delivered was stored, acknowledged or not.
        let unanswered: Vec<_> = receiver.look(taken).into_iter().filter(|id| !acknowledged.contains_key(id)).collect();
        assert!(unanswered.is_empty(), "every producer sent until it was answered: {unanswered:?}");
        let page = acme.get(&format!("/v1/dead-letters?consumer={webhook}")).await.expect(200).json();
        assert!(items(&page).is_empty(), "{page}");

        // Twice in one run would be a delivery that no kill explains.
        let runs: HashMap<String, Vec<u64>> = receiver.look(|all| {
            let mut runs: HashMap<String, Vec<u64>> = HashMap::new();
            for one in all.iter().filter(|one| one.path == path && one.status == Some(200)) {
                runs.entry(one.id().to_owned()).or_default().push(one.run);
            }
            runs
        });
        let mut repeated = 0;
        for (id, runs) in &runs {
            repeated += runs.len() - 1;
            assert!(runs.windows(2).all(|pair| pair[0] < pair[1]), "{id} came twice in one run of the hub: {runs:?}");
        }
        eprintln!("{path}: {} delivered, {repeated} of them again after a kill", runs.len());
    }

    assert!(hub.terminate().await.success());
}
