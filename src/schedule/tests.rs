use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::oneshot;

use super::*;
use crate::config::Config;
use crate::event::envelope::{Draft, EventMeta};
use crate::ground::clock::{ManualClock, UnixMs};
use crate::ground::context::WriteContext;
use crate::ground::error::{Problem, ProblemKind};
use crate::metrics::Metrics;
use crate::outbox::{Intake, OutboxActor, OutboxParts, RetentionRules, SharedGate, Tail};
use crate::store::fake::{Call, FakeStore, Fault};
use crate::store::{Appended, EventLog, Prepared, ReadLimits, ScheduleKey, ScheduleStore as _};
use crate::supervise::{ActorKind, Handle, Health, PanicNow, RestartBudget, supervise};

const START: UnixMs = UnixMs(1_795_248_000_000);

/// A schedule over a fake store, with a writer as the hub has it.
struct Scene {
    store: Arc<FakeStore>,
    clock: Arc<ManualClock>,
    book: Arc<Book>,
    gate: Arc<SharedGate>,
    schedule: Handle<ScheduleActor>,
    _outbox: Handle<OutboxActor>,
}

fn scene_with(events_max: usize) -> Scene {
    let store = FakeStore::new(1_000);
    let clock = ManualClock::starting_at(START);
    let metrics = Arc::new(Metrics::new().expect("series"));
    let budget = RestartBudget { restarts_max: 100, window_ms: 1_000, backoff_ms: 1, backoff_cap_ms: 1 };
    let health = Arc::new(Health::new(budget, clock.clone()));
    let intake = Arc::new(Intake::new());
    let outbox_parts = OutboxParts {
        log: store.clone(),
        state: store.clone(),
        tail: Arc::new(Tail::new(1 << 20)),
        metrics: Arc::clone(&metrics),
        clock: clock.clone(),
        group_events_max: 64,
        retention: RetentionRules {
            age_ms: u64::MAX,
            bytes: 0,
            max_consumer_lag_ms: u64::MAX,
            attempts_ms: u64::MAX,
            dead_letters_ms: u64::MAX,
        },
        intake: Arc::clone(&intake),
        writing: Arc::default(),
    };
    let arbiter = actix::Arbiter::current();
    let outbox = supervise(&arbiter, ActorKind::Outbox, &health, move || OutboxActor::new(outbox_parts.clone()));
    let book = Book::open(&*store, Bounds { events_max, bytes_max: 1 << 20 }).expect("opens");
    let gate = Arc::new(SharedGate::new(1 << 20));
    let parts = ScheduleParts {
        store: store.clone(),
        log: store.clone(),
        book: Arc::clone(&book),
        intake,
        gate: gate.clone(),
        settings: Arc::new(ArcSwap::from_pointee(Config::default().outbox)),
        clock: clock.clone(),
        metrics,
        turn: Arc::default(),
    };
    let schedule = supervise(&arbiter, ActorKind::Schedule, &health, move || ScheduleActor::new(parts.clone()));
    Scene { store, clock, book, gate, schedule, _outbox: outbox }
}

fn event(id: &str, body: &str) -> Prepared {
    let meta =
        EventMeta { id: id.to_owned(), event_type: "a.b".to_owned(), org: "acme".to_owned(), ..EventMeta::default() };
    let body = Bytes::copy_from_slice(body.as_bytes());
    Prepared::new(Draft { meta, body, id_given: true, received_at: START, deliver_at: None }).expect("prepares")
}

fn told(asked: &Asked) -> String {
    match asked {
        Asked::Scheduled { deliver_at, duplicate: false } => format!("for {}", deliver_at.since_ms(START)),
        Asked::Scheduled { deliver_at, duplicate: true } => format!("again for {}", deliver_at.since_ms(START)),
        Asked::Conflict => "conflict".to_owned(),
        Asked::Logged(Appended::Duplicate(seq)) => format!("in the log at {seq}"),
        Asked::Logged(Appended::Conflict(seq)) => format!("conflict with {seq}"),
        Asked::Logged(other) => panic!("{other:?}"),
        Asked::Refused(problem) => format!("{}", problem.extra["bound"]),
        Asked::Free(_) => "free".to_owned(),
    }
}

impl Scene {
    /// Asks for events; a due time is milliseconds after the start, none is now.
    async fn ask(&self, events: &[(&str, &str, Option<u64>)]) -> Result<Vec<String>, Problem> {
        let events: Vec<_> =
            events.iter().map(|(id, body, ms)| (event(id, body), ms.map(|ms| START.plus_ms(ms)))).collect();
        loop {
            let (reply, answer) = oneshot::channel();
            let permit = self.gate.enter("acme", 1).expect("fits");
            let request = Request { events: events.clone(), context: WriteContext::default(), permit, reply };
            // Between two lives nobody is there.
            if self.schedule.tell(Schedule(request)).is_ok()
                && let Ok(answer) = answer.await
            {
                return answer.map(|asked| asked.iter().map(told).collect());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn schedule(&self, id: &str, ms: u64) -> String {
        self.ask(&[(id, "{}", Some(ms))]).await.expect("is answered").remove(0)
    }

    async fn cancel(&self, id: &str) -> Result<Cancelled, Problem> {
        let key = self.book.find(Some("acme"), id).first().map_or(ScheduleKey::MIN, |one| one.key);
        let (reply, answer) = oneshot::channel();
        self.schedule.tell(Cancel { key, reply }).expect("runs");
        answer.await.expect("is answered")
    }

    /// The ids in the log, once `count` are there.
    async fn logged(&self, count: usize) -> Vec<(String, u64)> {
        let limits = ReadLimits { events: 1_000, bytes: usize::MAX, upto: crate::ground::ids::Seq(u64::MAX) };
        loop {
            let read = self.store.read(crate::ground::ids::Seq(1), limits);
            let found = read.unwrap_or_default();
            if found.len() >= count {
                return found.iter().map(|one| (one.meta.id.clone(), one.received_at.since_ms(START))).collect();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn until_empty(&self) {
        while self.book.size().0 > 0 || !self.book.look().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn advance(&self, ms: u64) {
        self.clock.advance(Duration::from_millis(ms));
    }
}

fn at(id: &str, ms: u64) -> (String, u64) {
    (id.to_owned(), ms)
}

#[actix::test]
async fn events_come_into_the_log_when_they_are_due_in_the_order_of_their_time() {
    let scene = scene_with(100);
    assert_eq!(scene.schedule("late", 5_000).await, "for 5000");
    assert_eq!(scene.schedule("early", 1_000).await, "for 1000");
    assert_eq!(scene.schedule("early-2", 1_000).await, "for 1000");
    assert_eq!(scene.logged(0).await, []);
    scene.advance(999);
    // Whatever the actor does with its turn, nothing is due.
    assert_eq!(scene.schedule("early", 1_000).await, "again for 1000");
    assert_eq!(scene.logged(0).await, []);
    scene.advance(1);
    assert_eq!(scene.logged(2).await, [at("early", 1_000), at("early-2", 1_000)]);
    scene.advance(60_000);
    assert_eq!(scene.logged(3).await[2], at("late", 61_000));
    scene.until_empty().await;
    assert_eq!(scene.store.scheduled_from(ScheduleKey::MIN, 9, 9_999).expect("reads"), []);
}

#[actix::test]
async fn an_id_is_one_event_among_what_waits_and_the_log() {
    let scene = scene_with(100);
    let first = [("a", r#"{"n":1}"#, Some(1_000)), ("a", r#"{"n": 1}"#, Some(2_000)), ("a", "{}", Some(1_000))];
    assert_eq!(scene.ask(&first).await.expect("is answered"), ["for 1000", "again for 1000", "conflict"]);
    let again = [("a", r#"{"n":1}"#, None), ("a", "{}", None), ("b", "{}", None)];
    assert_eq!(scene.ask(&again).await.expect("is answered"), ["again for 1000", "conflict", "free"]);
    scene.advance(1_000);
    assert_eq!(scene.logged(1).await, [at("a", 1_000)]);
    scene.until_empty().await;
    let late = [("a", r#"{"n":1}"#, Some(9_000)), ("a", "{}", Some(9_000)), ("a", "{}", None)];
    assert_eq!(scene.ask(&late).await.expect("is answered"), ["in the log at 1", "conflict with 1", "free"]);
}

#[actix::test]
async fn what_is_cancelled_never_comes_and_its_id_is_free_again() {
    let scene = scene_with(100);
    scene.schedule("a", 1_000).await;
    scene.schedule("b", 1_000).await;
    assert_eq!(scene.cancel("a").await, Ok(Cancelled::Yes));
    assert_eq!(scene.cancel("a").await, Ok(Cancelled::Absent));
    scene.advance(1_000);
    assert_eq!(scene.logged(1).await, [at("b", 1_000)]);
    scene.until_empty().await;
    assert_eq!(scene.ask(&[("a", r#"{"other":1}"#, Some(3_000))]).await.expect("is answered"), ["for 3000"]);
    scene.advance(2_000);
    assert_eq!(scene.logged(2).await[1], at("a", 3_000));
}

#[actix::test]
async fn a_full_schedule_names_its_bound_and_takes_events_again_when_there_is_room() {
    let scene = scene_with(2);
    let big = format!(r#"{{"x":"{}"}}"#, "x".repeat(1 << 20));
    assert_eq!(scene.ask(&[("big", &big, Some(9))]).await.expect("answered"), [r#""schedule.bytes_max""#]);
    let three = [("a", "{}", Some(1_000)), ("b", "{}", Some(1_000)), ("c", "{}", Some(1_000))];
    let full = r#""schedule.events_max""#;
    assert_eq!(scene.ask(&three).await.expect("is answered"), ["for 1000", "for 1000", full]);
    assert_eq!(scene.schedule("c", 1_000).await, full);
    assert_eq!(scene.cancel("a").await, Ok(Cancelled::Yes));
    assert_eq!(scene.schedule("c", 1_000).await, "for 1000");
}

#[actix::test]
async fn a_crash_between_the_log_and_the_removal_leaves_one_event() {
    let scene = scene_with(100);
    scene.schedule("a", 1_000).await;
    scene.schedule("b", 1_000).await;
    // The removal after the release fails, in both ways it can.
    for (fault, ms) in [(Fault::Error, 1_000), (Fault::Torn, 2_000)] {
        scene.store.plan(Call::Schedule, 1, fault);
        scene.schedule.hint(PanicNow);
        scene.advance(1_000);
        while !scene.store.has_failed() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        scene.store.reopen();
        scene.until_empty().await;
        assert_eq!(scene.logged(0).await.iter().filter(|(id, _)| id == "a").count(), 1);
        if fault == Fault::Error {
            assert_eq!(scene.schedule("c", ms + 1_000).await, format!("for {}", ms + 1_000));
        }
    }
    let ids: Vec<_> = scene.logged(3).await.into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, ["a", "b", "c"]);
}

#[actix::test]
async fn what_was_released_before_a_crash_cannot_be_cancelled_after_it() {
    let scene = scene_with(100);
    scene.schedule("a", 1_000).await;
    // As after a crash: the log has it, and the schedule still has it, too.
    let unit = crate::store::AppendUnit { events: vec![event("a", "{}")], atomic: false };
    scene.store.append(vec![unit]).expect("appends");
    assert_eq!(scene.cancel("a").await, Ok(Cancelled::Absent));
    scene.until_empty().await;
    assert_eq!(scene.logged(1).await, [at("a", 0)]);
}

#[actix::test]
async fn a_scheduling_whose_outcome_is_unknown_can_be_sent_again() {
    for fault in [Fault::Error, Fault::Torn] {
        let scene = scene_with(100);
        assert_eq!(scene.schedule("before", 1_000).await, "for 1000");
        scene.store.plan(Call::Schedule, 1, fault);
        let refused = scene.ask(&[("a", "{}", Some(1_000))]).await.expect_err("fails");
        assert_eq!(refused.kind, ProblemKind::Overloaded);
        scene.store.reopen();
        let again = scene.schedule("a", 1_000).await;
        assert_eq!(again, if fault == Fault::Torn { "again for 1000" } else { "for 1000" });
        scene.advance(1_000);
        let mut ids: Vec<_> = scene.logged(2).await.into_iter().map(|(id, _)| id).collect();
        ids.sort();
        assert_eq!(ids, ["a", "before"], "{fault:?}");
        scene.until_empty().await;
    }
}

#[actix::test]
async fn whenever_the_actor_panics_nothing_is_lost_or_doubled() {
    let scene = scene_with(1_000);
    for n in 0..60_u64 {
        if n % 7 == 0 {
            scene.schedule.hint(PanicNow);
        }
        assert!(scene.schedule(&format!("e{n:02}"), 100 + n * 10).await.contains("for"));
        scene.advance(7);
    }
    scene.schedule.hint(PanicNow);
    scene.advance(10_000);
    let mut ids: Vec<_> = scene.logged(60).await.into_iter().map(|(id, _)| id).collect();
    ids.sort();
    assert_eq!(ids, (0..60).map(|n| format!("e{n:02}")).collect::<Vec<_>>());
    scene.until_empty().await;
}
