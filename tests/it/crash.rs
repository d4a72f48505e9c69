//! The hub is killed at random moments under load, also while it recovers, again and again on the same directory. In the
//! end every acknowledged event was delivered, everything stored can be read, and every delivery that came twice is
//! explained by a kill between the two.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::support::{Api, Delivery, Hub, Kill, Kills, Prey, Receiver, Reply, items, retry, until};

/// How often the hub is killed. A quarter of the kills hit it before it is ready.
const KILLS: usize = 36;
const PRODUCERS: usize = 4;
/// Past this many acknowledged events the producers rest until the next kill: what the end checks stays bounded.
const EVENTS_PER_RUN: u64 = 600;

/// What the producers and the one who kills share.
struct Load {
    prey: Prey,
    /// Acknowledged events and their places.
    acknowledged: Mutex<BTreeMap<String, u64>>,
}

impl Load {
    fn acknowledge(&self, receipt: &Value) {
        let (id, seq) = (receipt["id"].as_str().unwrap().to_owned(), receipt["seq"].as_u64().unwrap());
        self.prey.count();
        let before = self.acknowledged.lock().insert(id.clone(), seq);
        assert!(before.is_none_or(|before| before == seq), "{id} was acknowledged at {before:?} and at {seq}");
    }

    /// Sends a body until it is acknowledged. What was sent before a kill and not answered may be stored or not; the same
    /// ids again settle it.
    async fn send(&self, api: &Api, path: &str, body: &Value) {
        let receipt = self.prey.insist(api, path, &[], body, &[200, 202]).await;
        match receipt["results"].as_array() {
            Some(results) => results.iter().for_each(|one| self.acknowledge(one)),
            None => self.acknowledge(&receipt),
        }
    }
}

/// One producer: single events, and batches of which every other is atomic; ids of its own.
async fn produce(load: Arc<Load>, producer: usize) {
    let api = load.prey.client();
    let event = |n: u64| {
        json!({"id": format!("p{producer}-{n}"), "type": "crash.load", "aggregate_type": "thing",
            "aggregate_id": format!("{}", n % 7), "data": {"n": n, "filling": "x".repeat(200)}})
    };
    let mut n = 0;
    while !load.prey.is_stopping() {
        n += 10;
        let batch: Vec<_> = (n..n + 4).map(event).collect();
        let path = if atomic(n) { "/v1/events/batch?atomic=true" } else { "/v1/events/batch" };
        load.send(&api, path, &Value::from(batch)).await;
        for n in n + 4..n + 10 {
            load.send(&api, "/v1/events", &event(n)).await;
        }
    }
}

/// Whether the batch that begins with this number is atomic.
fn atomic(n: u64) -> bool {
    n.is_multiple_of(20)
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

#[tokio::test]
async fn killed_again_and_again_the_hub_loses_nothing_and_explains_every_duplicate() {
    let kills = Kills::new(400);
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

    let load = Arc::new(Load { prey: Prey::new(&hub, &key, EVENTS_PER_RUN), acknowledged: Mutex::default() });
    let producers: Vec<_> = (0..PRODUCERS).map(|n| tokio::spawn(produce(load.clone(), n))).collect();

    let mut during_recovery = 0;
    for _ in 0..KILLS {
        let kill = kills.strike(&mut hub, &load.prey, async || receiver.next_run().await).await;
        during_recovery += usize::from(kill == Kill::Recovering);
    }
    load.prey.stop();
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

    // No kill has cut an atomic batch in two: what it left would have come in apart from the rest, sent again.
    let mut atomic_batches = 0;
    for producer in 0..PRODUCERS {
        for n in (10..).step_by(10).take_while(|n| acknowledged.contains_key(&format!("p{producer}-{n}"))) {
            let places: Vec<u64> =
                (n..n + 4).filter_map(|n| acknowledged.get(&format!("p{producer}-{n}")).copied()).collect();
            if atomic(n) && places.len() == 4 {
                atomic_batches += 1;
                assert!(places.windows(2).all(|pair| pair[0] + 1 == pair[1]), "p{producer}-{n}: {places:?}");
            }
        }
    }
    assert!(atomic_batches > 0);

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
