//! Claims and recordings on a store that stalls and fails as planned, and over restarts.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::config::Config;
use crate::ground::clock::{ManualClock, UnixMs};
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::random::SeededRandom;
use crate::ground::secret::Sealer;
use crate::metrics::Metrics;
use crate::store::fake::{Call, FakeStore, Fault};

const START: UnixMs = UnixMs(1_795_248_000_000);

struct Scene {
    store: Arc<FakeStore>,
    clock: Arc<ManualClock>,
}

impl Scene {
    fn new() -> Self {
        Self { store: FakeStore::new(10), clock: ManualClock::starting_at(START) }
    }

    /// A life of the process on the store.
    fn life(&self) -> Arc<Idempotency> {
        let metrics = Arc::new(Metrics::new().expect("series"));
        let settings = Config::default().idempotency;
        let store = Arc::clone(&self.store);
        Idempotency::load(store, settings, Sealer::new(&[7; 32]), SeededRandom::shared(1), self.clock.clone(), metrics)
            .expect("loads")
    }
}

fn ask() -> Ask {
    Ask { id: KeyId::of(&[b"a key"]), fingerprint: Fingerprint::of(&[b"a request"]), org: "acme".to_owned() }
}

fn answer(text: &'static str) -> Answer {
    Answer { status: 201, note: "manage".to_owned(), content_type: "text/plain".to_owned(), body: Some(text.into()) }
}

async fn run(keys: &Arc<Idempotency>) -> Permit {
    match keys.claim(&ask()).await.expect("claims") {
        Claim::Run(permit) => permit,
        Claim::Done(answer) => panic!("it is done: {answer:?}"),
    }
}

async fn done(keys: &Arc<Idempotency>) -> Answer {
    match keys.claim(&ask()).await.expect("claims") {
        Claim::Done(answer) => answer,
        Claim::Run(_) => panic!("it is not done"),
    }
}

#[tokio::test]
async fn a_request_dropped_while_its_claim_is_committed_gives_the_key_back() {
    let scene = Scene::new();
    let keys = scene.life();
    scene.store.plan(Call::Keys, 1, Fault::Stall);
    let claiming = tokio::spawn({
        let keys = Arc::clone(&keys);
        async move { keys.claim(&ask()).await.map(|_| ()) }
    });
    while !scene.store.is_stalled() {
        tokio::task::yield_now().await;
    }
    claiming.abort();
    claiming.await.expect_err("aborted");
    scene.store.release();
    // At once, without the clock: nothing was begun under the lock.
    run(&keys).await.record(&answer("one")).await.expect("records");
    assert_eq!(done(&keys).await, answer("one"));
}

#[tokio::test]
async fn a_recording_that_failed_gives_the_key_back_as_it_was() {
    let scene = Scene::new();
    for fault in [Fault::Error, Fault::Torn] {
        let keys = scene.life();
        scene.clock.advance(Duration::from_secs(2 * 24 * 3_600));
        let permit = run(&keys).await;
        let first = permit.first();
        scene.clock.advance(Duration::from_secs(10));
        scene.store.plan(Call::Keys, 1, fault);
        let failed = permit.record(&answer("lost")).await.expect_err("fails");
        assert!(matches!(&failed, KeyError::Refused(Problem { kind: ProblemKind::Overloaded, .. })), "{failed}");
        // As long as the store is away nothing runs.
        keys.claim(&ask()).await.expect_err("the store is away");
        scene.store.reopen();
        let permit = run(&keys).await;
        assert_eq!(permit.first(), first, "what was made of the key is made of it again");
        permit.record(&answer("kept")).await.expect("records");
        assert_eq!(done(&keys).await, answer("kept"));
        assert_eq!(done(&scene.life()).await, answer("kept"));
    }
}

#[tokio::test]
async fn after_a_restart_a_lock_lasts_and_then_the_next_request_runs() {
    let scene = Scene::new();
    let before = run(&scene.life()).await;
    let (first, epoch_before) = (before.first(), format!("{before:?}"));
    scene.clock.advance(Duration::from_secs(299));
    let keys = scene.life();
    let waiting = tokio::spawn({
        let keys = Arc::clone(&keys);
        async move { run(&keys).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    let mut passed = Duration::ZERO;
    while !waiting.is_finished() {
        scene.clock.advance(Duration::from_millis(100));
        passed += Duration::from_millis(100);
        tokio::task::yield_now().await;
        // The writer's thread answers in its own time.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(passed >= Duration::from_secs(1), "{passed:?}");
    let permit = waiting.await.expect("runs");
    assert_eq!(permit.first(), first);
    assert_ne!(format!("{permit:?}"), epoch_before, "a token of its own");
    permit.record(&answer("kept")).await.expect("records");
    assert_eq!(done(&scene.life()).await, answer("kept"));
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_recorded_without_its_body_over_restarts() {
    let scene = Scene::new();
    let large = Answer { body: Some(Bytes::from(vec![b'x'; 300_000])), ..answer("") };
    assert_eq!(run(&scene.life()).await.record(&large).await.expect("records"), Recorded::Kept);
    let kept = done(&scene.life()).await;
    assert_eq!((kept.status, kept.note.as_str(), kept.body), (201, "manage", None));
}

#[test]
fn a_key_is_visible_ascii_of_a_bounded_length() {
    let long = "x".repeat(KEY_CHARS_MAX);
    for fits in ["a", "!~", "8e03978e-40d5-43dd-bc93-6894a57f9324", &long] {
        check_key("key", fits.as_bytes()).expect(fits);
    }
    let longer = "x".repeat(KEY_CHARS_MAX + 1);
    for other in ["", " ", "a b", "a\n", "é", &longer] {
        assert_eq!(check_key("key", other.as_bytes()).expect_err(other).field.as_deref(), Some("key"));
    }
}
