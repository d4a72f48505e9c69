//! The hub as a library: handlers in this process, over restarts, failures, panics and a clock that the test drives
//! (EMB-1, INB-3, INB-4, OUT-6).

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate::config::Config;
use tidegate::event::envelope::Event;
use tidegate::ground::clock::{Clock as _, ManualClock, SharedClock, SystemClock, UnixMs};
use tidegate::ground::error::ProblemKind;
use tidegate::ground::random::SystemRandom;
use tidegate::handler::{HandlerContext, HandlerError, NewEvent, handler_fn};
use tidegate::hub::{Hub, HubOptions, LetterQuery};
use tokio::sync::{Notify, mpsc};

use crate::support::{sample, until};

pub(crate) const START: UnixMs = UnixMs(1_795_248_000_000);

pub(crate) fn directory() -> TempDir {
    tempfile::Builder::new().prefix("tidegate-it-").tempdir().unwrap()
}

/// A hub over a directory, with changes to the default settings.
pub(crate) async fn open(dir: &Path, clock: SharedClock, change: impl FnOnce(&mut Config)) -> Hub {
    let mut config = Config::default();
    config.server.data_dir = dir.join("data");
    config.log.cache_bytes = 32 << 20;
    config.log.free_space_floor_bytes = 1 << 20;
    change(&mut config);
    let options = HubOptions { config, clock, random: SystemRandom::shared() };
    tokio::task::spawn_blocking(move || Hub::open(options)).await.unwrap().unwrap()
}

/// Stops a hub whose clock stands still: what is out is waited for first, because the stop waits by that clock.
pub(crate) async fn stop_settled(hub: &Hub) {
    nothing_is_out(hub).await;
    hub.stop().await;
}

/// Waits until every answer has been settled: a clock that is moved far ends the lease of what is still out.
pub(crate) async fn nothing_is_out(hub: &Hub) {
    until("nothing is out", || async {
        let consumers = hub.consumers().await;
        consumers.iter().all(|one| one["in_flight"] == 0).then_some(())
    })
    .await;
}

/// What a handler was called with, in order.
#[derive(Clone, Default)]
pub(crate) struct Calls(Arc<Mutex<Vec<(String, u32)>>>);

impl Calls {
    fn note(&self, context: &HandlerContext) {
        self.0.lock().push((context.event_id().to_owned(), context.attempt()));
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        self.0.lock().iter().map(|(id, _)| id.clone()).collect()
    }

    pub(crate) fn attempts_of(&self, wanted: &str) -> Vec<u32> {
        self.0.lock().iter().filter(|(id, _)| id == wanted).map(|(_, attempt)| *attempt).collect()
    }

    pub(crate) async fn wait(&self, id: &str, attempts: &[u32]) {
        until(&format!("{id} was tried {attempts:?}"), || async { (self.attempts_of(id) == attempts).then_some(()) })
            .await;
    }
}

/// A handler that notes its calls and fails as `fail` says.
pub(crate) async fn subscribe(
    hub: &Hub,
    pattern: &str,
    consumer: &str,
    calls: &Calls,
    fail: impl Fn(&HandlerContext) -> Result<(), HandlerError> + Send + Sync + 'static,
) {
    let calls = calls.clone();
    let handler = handler_fn(move |_: Arc<Event>, context: HandlerContext| {
        calls.note(&context);
        let answer = fail(&context);
        async move { answer }
    });
    hub.subscribe(pattern, consumer, 0, handler).await.unwrap();
}

pub(crate) fn well(_: &HandlerContext) -> Result<(), HandlerError> {
    Ok(())
}

pub(crate) async fn publish(hub: &Hub, event_type: &str, id: &str) {
    let receipt = hub.publish(&NewEvent::new(event_type).id(id).org("acme").data(json!({"id": id}))).await.unwrap();
    assert_eq!((receipt.id.as_str(), receipt.duplicate), (id, false));
}

/// Where an event stands with a handler.
pub(crate) async fn standing(hub: &Hub, id: &str, consumer: &str) -> Value {
    let text = hub.event_with_consumers(id, None).await.unwrap();
    let event: Value = serde_json::from_slice(&text).unwrap();
    let consumers = event["consumers"].as_array().unwrap();
    let named = |one: &&Value| one["consumer"].as_str().is_some_and(|name| name.ends_with(consumer));
    consumers.iter().find(named).unwrap_or_else(|| panic!("{consumer}: {event}")).clone()
}

/// Waits until an event has this status with a handler, after so many attempts.
pub(crate) async fn wait_standing(hub: &Hub, id: &str, consumer: &str, status: &str, attempts: u64) -> Value {
    until(&format!("{id} is {status} after {attempts} attempts"), || async {
        let one = standing(hub, id, consumer).await;
        (one["status"] == status && one["attempts"] == attempts).then_some(one)
    })
    .await
}

#[tokio::test]
async fn after_an_orderly_stop_a_consumer_goes_on_where_it_was_and_nothing_comes_again() {
    const EVENTS: usize = 400;
    let dir = directory();
    let calls = Calls::default();
    let hub = open(dir.path(), SystemClock::shared(), |_| {}).await;
    subscribe(&hub, "order.*", "ledger", &calls, well).await;
    for n in 0..EVENTS {
        publish(&hub, "order.paid", &format!("{n}")).await;
    }
    until("some are handled", || async { (calls.ids().len() > EVENTS / 10).then_some(()) }).await;
    hub.stop().await;
    let refused = hub.publish(&NewEvent::new("order.paid").id("too late")).await.expect_err("it is stopped");
    assert_eq!(refused.kind, ProblemKind::Overloaded);
    let before = calls.ids().len();
    drop(hub);

    let hub = open(dir.path(), SystemClock::shared(), |_| {}).await;
    // While nobody is registered, what comes waits.
    publish(&hub, "order.paid", "while away").await;
    subscribe(&hub, "order.*", "ledger", &calls, well).await;
    until("all are handled", || async { (calls.ids().len() > EVENTS).then_some(()) }).await;
    hub.stop().await;
    let ids = calls.ids();
    eprintln!("{before} before the stop, {} after it", ids.len() - before);
    assert_eq!(ids.len(), EVENTS + 1);
    assert_eq!(ids.into_iter().collect::<HashSet<_>>().len(), EVENTS + 1, "each once");
}

#[tokio::test]
async fn a_hub_that_is_dropped_without_a_stop_lets_go_of_its_directory() {
    let dir = directory();
    for n in 0..3 {
        let hub = open(dir.path(), SystemClock::shared(), |_| {}).await;
        publish(&hub, "a.b", &format!("{n}")).await;
        for earlier in 0..n {
            hub.event(&format!("{earlier}"), Some("acme")).unwrap();
        }
    }
}

#[tokio::test]
async fn a_failing_handler_is_tried_again_when_it_is_due_and_then_becomes_a_dead_letter() {
    let dir = directory();
    let clock = ManualClock::starting_at(START);
    let hub = open(dir.path(), clock.clone(), |config| config.outbox.max_attempts = 3).await;
    let calls = Calls::default();
    subscribe(&hub, "*", "ops", &calls, |context| match context.event_id() {
        "bad" => Err(HandlerError::retry(format!("no luck at attempt {}", context.attempt()))),
        "refused" => Err(HandlerError::rejected("not for me")),
        _ => Ok(()),
    })
    .await;
    publish(&hub, "a.b", "bad").await;
    // The waits are 1 s and 2 s. One millisecond before its time, others are handled and this one is not.
    let mut due = clock.now();
    for (attempt, delay_ms) in [(1, 1_000), (2, 2_000)] {
        let failed = wait_standing(&hub, "bad", "ops", "failed", attempt).await;
        due = due.plus_ms(delay_ms);
        assert_eq!(failed["available_at"], due.to_rfc3339(), "{failed}");
        assert_eq!(failed["last_error"], format!("no luck at attempt {attempt}"), "{failed}");
        clock.advance(Duration::from_millis(delay_ms - 1));
        publish(&hub, "a.b", &format!("fence-{attempt}")).await;
        wait_standing(&hub, &format!("fence-{attempt}"), "ops", "processed", 1).await;
        assert_eq!(calls.attempts_of("bad").len() as u64, attempt);
        clock.advance(Duration::from_millis(1));
    }
    wait_standing(&hub, "bad", "ops", "dead_letter", 3).await;
    assert_eq!(calls.attempts_of("bad"), [1, 2, 3]);
    clock.advance(Duration::from_millis(1));
    publish(&hub, "a.b", "refused").await;
    wait_standing(&hub, "refused", "ops", "dead_letter", 1).await;

    clock.advance(Duration::from_secs(3_600));
    publish(&hub, "a.b", "fence").await;
    wait_standing(&hub, "fence", "ops", "processed", 1).await;
    assert_eq!(calls.attempts_of("bad").len(), 3, "given up is given up");
    let letters =
        hub.blocking(|hub| hub.dead_letters(&LetterQuery { limit: 10, ..LetterQuery::default() })).await.unwrap().items;
    let told: Vec<_> = letters.iter().map(|one| (one["event_id"].clone(), one["error"]["message"].clone())).collect();
    assert_eq!(
        told,
        [(json!("refused"), json!("not for me")), (json!("bad"), json!("no luck at attempt 3"))],
        "newest first"
    );
    hub.stop().await;
}

#[tokio::test]
async fn a_failed_delivery_keeps_its_due_time_over_a_restart() {
    let dir = directory();
    let clock = ManualClock::starting_at(START);
    let calls = Calls::default();
    let fail_first = |context: &HandlerContext| match context.attempt() {
        1 => Err(HandlerError::retry("not yet")),
        _ => Ok(()),
    };
    let hub = open(dir.path(), clock.clone(), |_| {}).await;
    subscribe(&hub, "*", "ops", &calls, fail_first).await;
    publish(&hub, "a.b", "later").await;
    wait_standing(&hub, "later", "ops", "failed", 1).await;
    hub.stop().await;
    drop(hub);

    clock.advance(Duration::from_millis(999));
    let hub = open(dir.path(), clock.clone(), |_| {}).await;
    subscribe(&hub, "*", "ops", &calls, fail_first).await;
    let failed = wait_standing(&hub, "later", "ops", "failed", 1).await;
    assert_eq!(failed["available_at"], START.plus_ms(1_000).to_rfc3339(), "{failed}");
    assert_eq!(calls.attempts_of("later"), [1]);
    clock.advance(Duration::from_millis(1));
    wait_standing(&hub, "later", "ops", "processed", 2).await;
    assert_eq!(calls.attempts_of("later"), [1, 2]);
    hub.stop().await;
}

#[tokio::test]
async fn a_panicking_handler_is_a_failed_attempt_and_the_others_go_on() {
    let dir = directory();
    let clock = ManualClock::starting_at(START);
    let hub = open(dir.path(), clock.clone(), |_| {}).await;
    let (careless, careful) = (Calls::default(), Calls::default());
    subscribe(&hub, "*", "careless", &careless, |context| {
        assert!(context.attempt() > 1 || context.event_id() != "boom", "this handler panics");
        Ok(())
    })
    .await;
    subscribe(&hub, "*", "careful", &careful, well).await;
    publish(&hub, "a.b", "boom").await;
    let failed = wait_standing(&hub, "boom", "careless", "failed", 1).await;
    assert!(failed["last_error"].as_str().unwrap().contains("this handler panics"), "{failed}");
    wait_standing(&hub, "boom", "careful", "processed", 1).await;
    publish(&hub, "a.b", "next").await;
    wait_standing(&hub, "next", "careless", "processed", 1).await;
    clock.advance(Duration::from_secs(1));
    wait_standing(&hub, "boom", "careless", "processed", 2).await;
    assert_eq!(careful.ids(), ["boom", "next"]);
    hub.stop().await;
}

/// Tells when the future that holds it is dropped.
struct Dropped(mpsc::UnboundedSender<&'static str>);

impl Drop for Dropped {
    fn drop(&mut self) {
        // The test may have ended.
        self.0.send("dropped").ok();
    }
}

#[tokio::test]
async fn an_event_whose_handler_outlives_its_lease_is_given_out_again() {
    let dir = directory();
    let clock = ManualClock::starting_at(START);
    let hub = open(dir.path(), clock.clone(), |_| {}).await;
    let (told, mut tells) = mpsc::unbounded_channel();
    let handler = handler_fn(move |_, context: HandlerContext| {
        let told = told.clone();
        async move {
            if context.event_id() == "slow" && context.attempt() == 1 {
                let _guard = Dropped(told.clone());
                told.send("begun").ok();
                std::future::pending::<()>().await;
            }
            Ok(())
        }
    });
    hub.subscribe("*", "ops", 0, handler).await.unwrap();
    publish(&hub, "a.b", "slow").await;
    assert_eq!(tells.recv().await, Some("begun"));
    clock.advance(Duration::from_millis(29_999));
    publish(&hub, "a.b", "fence").await;
    wait_standing(&hub, "fence", "ops", "processed", 1).await;
    assert_eq!(standing(&hub, "slow", "ops").await["status"], "processing");
    clock.advance(Duration::from_millis(1));
    assert_eq!(tells.recv().await, Some("dropped"));
    let failed = wait_standing(&hub, "slow", "ops", "failed", 1).await;
    assert!(failed["last_error"].as_str().unwrap().contains("lease"), "{failed}");
    clock.advance(Duration::from_secs(1));
    wait_standing(&hub, "slow", "ops", "processed", 2).await;
    hub.stop().await;
}

#[tokio::test]
async fn a_handler_that_renews_its_lease_keeps_the_event() {
    let dir = directory();
    let clock = ManualClock::starting_at(START);
    let hub = open(dir.path(), clock.clone(), |_| {}).await;
    let (told, mut tells) = mpsc::unbounded_channel();
    let go_on = Arc::new(Notify::new());
    let wait = Arc::clone(&go_on);
    let handler = handler_fn(move |_, context: HandlerContext| {
        let (told, wait) = (told.clone(), Arc::clone(&wait));
        async move {
            told.send(context.lease_until()).ok();
            for _ in 0..3 {
                wait.notified().await;
                context.renew().await?;
                told.send(context.lease_until()).ok();
            }
            Ok(())
        }
    });
    hub.subscribe("long.*", "ops", 0, handler).await.unwrap();
    publish(&hub, "long.work", "long").await;
    assert_eq!(tells.recv().await, Some(START.plus_ms(30_000)));
    for round in 1..=3 {
        clock.advance(Duration::from_secs(20));
        go_on.notify_one();
        assert_eq!(tells.recv().await, Some(START.plus_ms(30_000 + round * 20_000)));
    }
    wait_standing(&hub, "long", "ops", "processed", 1).await;
    hub.stop().await;
}

#[tokio::test]
async fn a_follow_up_event_names_its_cause_and_goes_to_whoever_asked_for_it() {
    let dir = directory();
    let hub = open(dir.path(), SystemClock::shared(), |_| {}).await;
    let biller = handler_fn(|_, context: HandlerContext| async move {
        let follow_up = NewEvent::new("invoice.due").id(format!("invoice-of-{}", context.event_id()));
        match context.publish(follow_up).await {
            Ok(_) => Ok(()),
            Err(problem) => Err(HandlerError::retry(problem.to_string())),
        }
    });
    hub.subscribe("order.placed", "biller", 0, biller).await.unwrap();
    let (told, mut tells) = mpsc::unbounded_channel();
    let clerk = handler_fn(move |event: Arc<Event>, context: HandlerContext| {
        let cause = (context.causation_id(), context.correlation_id().to_owned(), event.meta.org.clone());
        told.send((event.meta.id.clone(), cause)).ok();
        async { Ok(()) }
    });
    hub.subscribe("invoice.*", "clerk", 0, clerk).await.unwrap();
    publish(&hub, "order.placed", "o-1").await;
    let cause = |id: &str, correlation: &str| (Some(id.to_owned()), correlation.to_owned(), "acme".to_owned());
    assert_eq!(tells.recv().await, Some(("invoice-of-o-1".to_owned(), cause("o-1", "o-1"))));
    let event = NewEvent::new("order.placed").id("o-2").org("acme").correlation_id("visit-7");
    hub.publish(&event).await.unwrap();
    assert_eq!(tells.recv().await, Some(("invoice-of-o-2".to_owned(), cause("o-2", "visit-7"))));
    hub.stop().await;
}

#[tokio::test]
async fn a_consumer_of_several_patterns_misses_none_of_them_over_a_restart() {
    let dir = directory();
    let hub = open(dir.path(), SystemClock::shared(), |_| {}).await;
    let calls = Calls::default();
    subscribe(&hub, "a.*", "both", &calls, well).await;
    subscribe(&hub, "b.*", "both", &calls, well).await;
    hub.stop().await;
    drop(hub);

    let hub = open(dir.path(), SystemClock::shared(), |_| {}).await;
    publish(&hub, "b.one", "b1").await;
    publish(&hub, "a.one", "a1").await;
    // The program registers its handlers one after the other; events come at any time in between.
    subscribe(&hub, "a.*", "both", &calls, well).await;
    publish(&hub, "b.one", "b2").await;
    subscribe(&hub, "b.*", "both", &calls, well).await;
    for id in ["a1", "b1", "b2"] {
        calls.wait(id, &[1]).await;
    }
    hub.stop().await;
}

#[tokio::test]
async fn an_event_whose_handler_was_taken_out_of_the_program_does_not_hold_up_the_others_for_ever() {
    let dir = directory();
    let clock = ManualClock::starting_at(START);
    let calls = Calls::default();
    let hub = open(dir.path(), clock.clone(), |_| {}).await;
    subscribe(&hub, "old.*", "ops", &calls, well).await;
    subscribe(&hub, "new.*", "ops", &calls, well).await;
    hub.stop().await;
    drop(hub);

    let hub = open(dir.path(), clock.clone(), |_| {}).await;
    subscribe(&hub, "new.*", "ops", &calls, well).await;
    clock.advance(Duration::from_secs(30));
    publish(&hub, "old.one", "nobody's").await;
    publish(&hub, "new.one", "somebody's").await;
    calls.wait("somebody's", &[1]).await;
    assert_eq!(calls.ids(), ["somebody's"]);
    hub.stop().await;
}

#[tokio::test]
async fn handlers_get_everything_while_actors_panic_under_load() {
    const TASKS: usize = 4;
    const EVENTS: usize = 150;
    let dir = directory();
    let hub = open(dir.path(), SystemClock::shared(), |config| {
        config.supervise.restarts_max = 1_000;
        config.supervise.backoff_ms = 1;
        config.supervise.backoff_cap_ms = 5;
        config.outbox.retry_base_delay_ms = 5;
    })
    .await;
    let (steady, flaky) = (Calls::default(), Calls::default());
    subscribe(&hub, "*", "steady", &steady, well).await;
    let failures: Mutex<BTreeMap<String, u32>> = Mutex::default();
    subscribe(&hub, "*", "flaky", &flaky, move |context| {
        let mut failures = failures.lock();
        let before = failures.entry(context.event_id().to_owned()).or_default();
        *before += 1;
        let sum: usize = context.event_id().bytes().map(usize::from).sum();
        if sum.is_multiple_of(7) && *before == 1 { Err(HandlerError::retry("at first")) } else { Ok(()) }
    })
    .await;
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (hub, acknowledged) = (hub.clone(), Arc::clone(&acknowledged));
            tokio::spawn(async move {
                for n in 0..EVENTS {
                    let event = NewEvent::new("a.b").id(format!("{task}-{n}")).org("acme");
                    // An answer may be lost with the actor that owed it; the same id again settles it.
                    while hub.publish(&event).await.is_err() {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let faults = ["panic-consumers", "panic-router", "panic-consumers", "panic-outbox"];
    for (n, fault) in faults.iter().cycle().take(20).enumerate() {
        let far = n * TASKS * EVENTS / 25;
        until("the load goes on", || async { (acknowledged.load(Ordering::Relaxed) >= far).then_some(()) }).await;
        assert!(hub.inject_fault(fault).is_some());
    }
    assert_eq!(hub.inject_fault("no-such"), None);
    for task in tasks {
        task.await.unwrap();
    }
    let expected: HashSet<_> = (0..TASKS).flat_map(|task| (0..EVENTS).map(move |n| format!("{task}-{n}"))).collect();
    for calls in [&steady, &flaky] {
        let what = "every acknowledged event was handled";
        until(what, || async { (calls.ids().into_iter().collect::<HashSet<_>>() == expected).then_some(()) }).await;
    }
    until("the hub is ready", || async { hub.components().iter().all(|one| one.ok).then_some(()) }).await;
    let metrics = String::from_utf8(hub.metrics_text().unwrap()).unwrap();
    for actor in ["handler", "inbox", "router", "outbox"] {
        let restarts = sample(&metrics, "tidegate_actor_restarts", &[&format!(r#"actor="{actor}""#)]);
        assert!(restarts >= Some(1.0), "{actor}: {restarts:?}");
    }
    assert_eq!(sample(&metrics, "tidegate_dead_letters", &[]), Some(0.0));
    hub.stop().await;
}

#[tokio::test]
async fn a_consumer_that_was_forgotten_leaves_nothing_to_the_next_of_its_name() {
    let dir = directory();
    let (first, second) = (Calls::default(), Calls::default());
    let clock = ManualClock::starting_at(START);
    let hub = open(dir.path(), clock.clone(), |_| {}).await;
    for round in 0..20 {
        subscribe(&hub, "order.*", "ledger", &first, |_| Err(HandlerError::retry("not now"))).await;
        let id = format!("old-{round}");
        publish(&hub, "order.paid", &id).await;
        first.wait(&id, &[1]).await;
        // Its failure may be on its way to the store at this moment.
        assert!(hub.forget_handler("ledger").await.unwrap());
    }
    assert!(!hub.forget_handler("ledger").await.unwrap());
    subscribe(&hub, "order.*", "ledger", &second, well).await;
    clock.advance(Duration::from_secs(60));
    publish(&hub, "order.paid", "new").await;
    second.wait("new", &[1]).await;
    assert_eq!(second.ids(), ["new"]);
    hub.stop().await;
}
