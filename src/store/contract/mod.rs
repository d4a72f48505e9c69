//! What every store keeps to. The same tests run on the embedded engine and on the fake.
//!
//! - `log`: positions, dedup, reading, retention
//! - `state`: rows, checkpoints, attempts, dead letters, documents
//! - `index`: rows of the log's index
//! - `links`: links between entities
//! - `schedule`: events that wait for their time
//! - `idempotency`: what is known of idempotency keys
//! - `failures`: what a failed commit, a full disk and a planned fault leave behind
//! - here: the two stores under test, and what tests of more than one concern use

/// Runs each test on the engine and on the fake.
macro_rules! contract {
    ($($name:ident),+ $(,)?) => {
        mod engine {
            $(#[test] fn $name() { super::$name(&mut super::OnEngine::new()); })+
        }
        mod fake {
            $(#[test] fn $name() { super::$name(&mut super::OnFake::new()); })+
        }
    };
}

mod failures;
mod idempotency;
mod index;
mod links;
mod log;
mod schedule;
mod state;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::engine::EngineOptions;
use super::fake::{Call, FakeStore, Fault};
use super::records::RowState;
use super::{
    AppendUnit, Appended, ConsumerState, Durability, Engine, EventLog, IdempotencyStore, LinkStore, LogIndex, Prepared,
    ReadLimits, Registry, RowRecord, ScheduleStore, StateOp,
};
use crate::event::envelope::{Draft, EventMeta};
use crate::ground::clock::UnixMs;
use crate::ground::ids::Seq;

const SEGMENT_EVENTS: u64 = 10;
const NOW: u64 = 1_795_248_000_000;

/// A store under test.
trait Subject {
    fn log(&self) -> &dyn EventLog;
    fn state(&self) -> &dyn ConsumerState;
    fn registry(&self) -> &dyn Registry;
    fn index(&self) -> &dyn LogIndex;
    fn schedule(&self) -> &dyn ScheduleStore;
    fn idempotency(&self) -> &dyn IdempotencyStore;
    fn links(&self) -> &dyn LinkStore;
    /// The next append is written and reported as failed.
    fn tear_next_append(&self);
    /// The next scheduling is written and reported as failed.
    fn tear_next_schedule(&self);
    /// The next commit of idempotency keys is written and reported as failed.
    fn tear_next_keys(&self);
    /// The next link is written and reported as failed.
    fn tear_next_link(&self);
    /// Waits until the store is open again after a failure.
    fn wait_until_open(&self);
    /// Closes the store and opens it again.
    fn restart(&mut self);
}

struct OnEngine {
    engine: Option<Arc<Engine>>,
    dir: tempfile::TempDir,
}

impl OnEngine {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let engine = Engine::open(options(dir.path(), 0)).expect("opens");
        Self { engine: Some(engine), dir }
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("open")
    }
}

fn options(dir: &std::path::Path, floor: u64) -> EngineOptions {
    EngineOptions {
        data_dir: dir.to_owned(),
        cache_bytes: 16 << 20,
        segment_events: SEGMENT_EVENTS,
        free_space_floor_bytes: floor,
    }
}

impl Subject for OnEngine {
    fn log(&self) -> &dyn EventLog {
        self.engine()
    }

    fn state(&self) -> &dyn ConsumerState {
        self.engine()
    }

    fn registry(&self) -> &dyn Registry {
        self.engine()
    }

    fn index(&self) -> &dyn LogIndex {
        self.engine()
    }

    fn schedule(&self) -> &dyn ScheduleStore {
        self.engine()
    }

    fn idempotency(&self) -> &dyn IdempotencyStore {
        self.engine()
    }

    fn links(&self) -> &dyn LinkStore {
        self.engine()
    }

    fn tear_next_link(&self) {
        self.tear_next_append();
    }

    fn tear_next_schedule(&self) {
        self.tear_next_append();
    }

    fn tear_next_keys(&self) {
        self.tear_next_append();
    }

    fn tear_next_append(&self) {
        self.engine().faults().fail_commits.store(1, std::sync::atomic::Ordering::Relaxed);
    }

    fn wait_until_open(&self) {
        while !self.engine().is_available() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn restart(&mut self) {
        self.engine = None;
        self.engine = Some(Engine::open(options(self.dir.path(), 0)).expect("opens again"));
    }
}

struct OnFake(Arc<FakeStore>);

impl OnFake {
    fn new() -> Self {
        Self(FakeStore::new(SEGMENT_EVENTS))
    }
}

impl Subject for OnFake {
    fn log(&self) -> &dyn EventLog {
        &*self.0
    }

    fn state(&self) -> &dyn ConsumerState {
        &*self.0
    }

    fn registry(&self) -> &dyn Registry {
        &*self.0
    }

    fn index(&self) -> &dyn LogIndex {
        &*self.0
    }

    fn schedule(&self) -> &dyn ScheduleStore {
        &*self.0
    }

    fn idempotency(&self) -> &dyn IdempotencyStore {
        &*self.0
    }

    fn links(&self) -> &dyn LinkStore {
        &*self.0
    }

    fn tear_next_link(&self) {
        self.0.plan(Call::Links, 1, Fault::Torn);
    }

    fn tear_next_schedule(&self) {
        self.0.plan(Call::Schedule, 1, Fault::Torn);
    }

    fn tear_next_keys(&self) {
        self.0.plan(Call::Keys, 1, Fault::Torn);
    }

    fn tear_next_append(&self) {
        self.0.plan(Call::Append, 1, Fault::Torn);
    }

    fn wait_until_open(&self) {
        self.0.reopen();
    }

    fn restart(&mut self) {}
}

fn event_of(org: &str, id: &str, body: &str) -> Prepared {
    let meta =
        EventMeta { id: id.to_owned(), event_type: "a.b".to_owned(), org: org.to_owned(), ..EventMeta::default() };
    let body = Bytes::copy_from_slice(body.as_bytes());
    Prepared::new(Draft { meta, body, id_given: true, received_at: UnixMs(NOW), deliver_at: None }).expect("prepares")
}

fn event(id: &str, body: &str) -> Prepared {
    event_of("acme", id, body)
}

fn append(store: &dyn Subject, units: Vec<AppendUnit>) -> Vec<Vec<String>> {
    let told = store.log().append(units).expect("appends");
    told.iter().map(|unit| unit.iter().map(text).collect()).collect()
}

fn text(answer: &Appended) -> String {
    match answer {
        Appended::New(event) => format!("new {}", event.seq),
        Appended::Duplicate(seq) => format!("duplicate of {seq}"),
        Appended::Conflict(seq) => format!("conflict with {seq}"),
        Appended::Withheld => "withheld".to_owned(),
    }
}

fn loose(events: Vec<Prepared>) -> AppendUnit {
    AppendUnit { events, atomic: false }
}

fn append_one(store: &dyn Subject, event: Prepared) -> String {
    append(store, vec![loose(vec![event])]).remove(0).remove(0)
}

/// Appends events `e1`, `e2` … up to this one, each in a group of its own.
fn fill(store: &dyn Subject, upto: u64) {
    for n in store.log().head().0 + 1..=upto {
        assert_eq!(append_one(store, event(&format!("e{n}"), &body(n))), format!("new {n}"));
    }
}

fn body(n: u64) -> String {
    format!(r#"{{"n":{n}}}"#)
}

fn read(store: &dyn Subject, from: u64, limits: ReadLimits) -> Vec<u64> {
    store.log().read(Seq(from), limits).expect("reads").iter().map(|event| event.seq.0).collect()
}

const ALL: ReadLimits = ReadLimits { events: usize::MAX, bytes: usize::MAX, upto: Seq(u64::MAX) };

fn row(attempts: u32) -> RowRecord {
    RowRecord {
        state: RowState::Retry { due_at: UnixMs(NOW) },
        attempts,
        key: 7,
        epoch: 3,
        first_attempt: Some(UnixMs(NOW)),
        last_attempt: None,
        last_error: Some("status 500".to_owned()),
        replay: None,
    }
}

fn commit(store: &dyn Subject, ops: Vec<StateOp>) {
    store.state().commit(ops, Durability::Synced).expect("commits");
}
