//! Upstreams under a clock that the test drives: how long answers are kept, when calls are tried again, what waits for a
//! bucket and what is given up (UPS-1, UPS-3, RTY-5, BRK-5); with adapters that are code of the program.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tidegate::config::UpstreamTable;
use tidegate::ground::clock::{Clock as _, ManualClock, UnixMs};
use tidegate::ground::error::ProblemKind;
use tidegate::hub::{AdapterOptions, Hub};
use tidegate::ratelimit::RateLimit;
use tidegate::upstream::call::{Attempts, Call, CallErrorKind, Payload, Reply};
use tidegate::upstream::reading::Question;
use tidegate::upstream::{Adapter, AdapterContext, Answer, CallError};
use tidegate::webhook::auth::SECRET_CHARS_MAX;

use crate::embed::{START, directory, open};
use crate::support::{Receiver, Reply as Scripted, until};
use crate::upstreams::answer;

/// What a scripted adapter does next.
enum Next {
    Answer(Value),
    Fail(CallError),
    Hang,
    Panic,
}

/// An adapter that does what it is told and notes when it was called.
struct ScriptedAdapter {
    clock: Arc<ManualClock>,
    next: Arc<Mutex<VecDeque<Next>>>,
    calls: Arc<Mutex<Vec<(UnixMs, u32)>>>,
}

#[derive(Clone, Default)]
struct Script {
    next: Arc<Mutex<VecDeque<Next>>>,
    calls: Arc<Mutex<Vec<(UnixMs, u32)>>>,
}

impl Script {
    fn adapter(&self, clock: &Arc<ManualClock>) -> ScriptedAdapter {
        ScriptedAdapter { clock: Arc::clone(clock), next: Arc::clone(&self.next), calls: Arc::clone(&self.calls) }
    }

    fn then(&self, next: impl IntoIterator<Item = Next>) {
        self.next.lock().extend(next);
    }

    /// When it was called, in milliseconds from the first call on, and the retry count of each.
    fn calls(&self) -> Vec<(u64, u32)> {
        let calls = self.calls.lock();
        calls.iter().map(|(at, count)| (at.since_ms(calls[0].0), *count)).collect()
    }
}

impl Adapter for ScriptedAdapter {
    fn id(&self) -> &str {
        "scripted"
    }

    fn version(&self) -> &str {
        "0.1.0"
    }

    fn validate(&self, call: &Call, _: &AdapterContext) -> Result<(), CallError> {
        match call.payload {
            Payload::Json(_) => Ok(()),
            Payload::Nothing | Payload::Text { .. } => Err(CallError::validation("JSON")),
        }
    }

    fn execute<'a>(&'a self, _: &'a Call, context: &'a AdapterContext) -> BoxFuture<'a, Result<Reply, CallError>> {
        async move {
            self.calls.lock().push((self.clock.now(), context.retry_count));
            let next = self.next.lock().pop_front();
            match next {
                Some(Next::Answer(value)) => Ok(Reply::json(200, &value)),
                Some(Next::Fail(error)) => Err(error),
                Some(Next::Hang) => std::future::pending().await,
                Some(Next::Panic) => panic!("planned"),
                None => Ok(Reply::json(200, &json!("by default"))),
            }
        }
        .boxed()
    }

    fn health_check<'a>(&'a self, _: &'a AdapterContext) -> BoxFuture<'a, Result<(), CallError>> {
        async { Ok(()) }.boxed()
    }
}

fn call() -> Call {
    Call { operation: "do".into(), payload: Payload::Json(json!({})), ..Call::default() }
}

fn ask(hub: &Hub, call: Call) -> tokio::task::JoinHandle<Result<Answer, CallError>> {
    let (hub, context) = (hub.clone(), AdapterContext::new(Some("acme"), hub.clock().now()));
    tokio::spawn(async move { hub.call_upstream("scripted", call, context).await })
}

/// Moves the clock on in small steps until the call has ended.
async fn drive<T: Send + 'static>(clock: &ManualClock, task: tokio::task::JoinHandle<T>) -> T {
    until("the call ends as the clock goes on", || async {
        clock.advance(Duration::from_millis(100));
        task.is_finished().then_some(())
    })
    .await;
    task.await.unwrap()
}

fn transient() -> Next {
    Next::Fail(CallError::new(CallErrorKind::Transient, "not now"))
}

#[tokio::test]
async fn a_call_is_tried_again_as_the_policy_says_and_by_the_clock() {
    let dir = directory();
    let clock = ManualClock::starting_at(START);
    let hub = open(dir.path(), clock.clone(), |_| {}).await;
    let script = Script::default();
    let bridge = || AdapterOptions::preset("bridge").unwrap().for_org("acme");
    hub.register_adapter(script.adapter(&clock), bridge()).unwrap();
    let taken = hub.register_adapter(script.adapter(&clock), bridge()).unwrap_err();
    assert_eq!(taken.kind, ProblemKind::Conflict);

    script.then([transient(), transient(), Next::Answer(json!({"n": 3}))]);
    let answer = drive(&clock, ask(&hub, call())).await.unwrap();
    assert_eq!((answer.body, answer.attempts), (json!({"n": 3}), 3));
    let calls = script.calls();
    assert_eq!(calls.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(calls[1].0 >= 1_000 && calls[2].0 >= calls[1].0 + 2_000, "{calls:?}");

    // One attempt when the caller has a queue of its own; none when the adapter does not take it, or there is none such.
    script.then([transient()]);
    let error = drive(&clock, ask(&hub, Call { attempts: Attempts::Once, ..call() })).await.unwrap_err();
    assert_eq!((error.kind, error.attempts), (CallErrorKind::Transient, 1));
    let refused = ask(&hub, Call { payload: Payload::Nothing, ..call() }).await.unwrap().unwrap_err();
    assert_eq!((refused.kind, script.calls().len()), (CallErrorKind::Validation, 4));
    let context = || AdapterContext::new(Some("globex"), clock.now());
    let other = hub.call_upstream("scripted", call(), context()).await.unwrap_err();
    assert_eq!(other.kind, CallErrorKind::Unknown, "another tenant's upstream is not there");
    assert_eq!(hub.call_upstream("none", call(), context()).await.unwrap_err().kind, CallErrorKind::Unknown);

    // A permanent failure is not tried again.
    script.then([Next::Fail(CallError::new(CallErrorKind::Permanent, "never"))]);
    assert_eq!(ask(&hub, call()).await.unwrap().unwrap_err().attempts, 1);
    hub.remove_adapter("scripted").await.unwrap();
    assert_eq!(ask(&hub, call()).await.unwrap().unwrap_err().kind, CallErrorKind::Unknown);
    hub.stop().await;
}

#[tokio::test]
async fn a_call_that_hangs_is_given_up_in_its_time_and_one_that_panics_harms_nobody() {
    let dir = directory();
    let clock = ManualClock::starting_at(START);
    let hub = open(dir.path(), clock.clone(), |_| {}).await;
    let script = Script::default();
    hub.register_adapter(script.adapter(&clock), AdapterOptions::preset("bridge").unwrap()).unwrap();
    script.then([Next::Hang, Next::Panic, Next::Answer(json!(1))]);
    let once = || Call { attempts: Attempts::Once, ..call() };
    let hangs = drive(&clock, ask(&hub, once())).await.unwrap_err();
    assert_eq!((hangs.kind, hangs.message.as_str()), (CallErrorKind::Timeout, "no complete answer within 3000 ms"));
    let panics = ask(&hub, once()).await.unwrap().unwrap_err();
    assert_eq!((panics.kind, panics.message.as_str()), (CallErrorKind::Internal, "the adapter panicked: planned"));
    assert_eq!(ask(&hub, once()).await.unwrap().unwrap().body, json!(1));
    hub.stop().await;
}

#[tokio::test]
async fn an_open_breaker_uses_no_attempt_up_and_closes_by_a_probe() {
    let dir = directory();
    let clock = ManualClock::starting_at(START);
    let hub = open(dir.path(), clock.clone(), |_| {}).await;
    let script = Script::default();
    hub.register_adapter(script.adapter(&clock), AdapterOptions::preset("bridge").unwrap()).unwrap();
    let once = || Call { attempts: Attempts::Once, ..call() };
    script.then((0..5).map(|_| transient()));
    for _ in 0..5 {
        assert_eq!(ask(&hub, once()).await.unwrap().unwrap_err().kind, CallErrorKind::Transient);
    }
    let open = ask(&hub, call()).await.unwrap().unwrap_err();
    assert_eq!((open.kind, open.attempts, script.calls().len()), (CallErrorKind::CircuitOpen, 0, 5));
    assert_eq!(open.retry_after_ms, Some(300_000), "the cooldown of the preset");
    clock.advance(Duration::from_secs(300));
    assert_eq!(ask(&hub, once()).await.unwrap().unwrap().body, json!("by default"));
    until("the breaker is closed", || async {
        (hub.upstream("scripted").unwrap()["circuit"] == "closed").then_some(())
    })
    .await;
    hub.stop().await;
}

#[tokio::test]
async fn calls_wait_their_turn_for_the_bucket_and_are_told_to_come_back_when_that_is_long() {
    let dir = directory();
    let clock = ManualClock::starting_at(START);
    let hub = open(dir.path(), clock.clone(), |_| {}).await;
    let script = Script::default();
    let mut options = AdapterOptions::default();
    options.rules.rate_limit = Some(RateLimit { per_second: 0.5, burst: 1 });
    hub.register_adapter(script.adapter(&clock), options).unwrap();
    ask(&hub, call()).await.unwrap().unwrap();
    let waiting: Vec<_> = (0..3).map(|_| ask(&hub, call())).collect();
    for task in waiting {
        drive(&clock, task).await.unwrap();
    }
    let calls = script.calls();
    assert!(calls.windows(2).all(|pair| pair[1].0 - pair[0].0 >= 2_000), "{calls:?}");
    // More than can be served within the longest wait.
    let waiting: Vec<_> = (0..12).map(|_| ask(&hub, call())).collect();
    let mut kinds = Vec::new();
    for task in waiting {
        kinds.push(drive(&clock, task).await.map_err(|error| (error.kind, error.attempts)));
    }
    let refused = kinds.iter().filter(|one| **one == Err((CallErrorKind::RateLimited, 0))).count();
    assert!(
        refused >= 5 && kinds.iter().all(|one| one.is_ok() || *one == Err((CallErrorKind::RateLimited, 0))),
        "{kinds:?}"
    );
    hub.stop().await;
}

/// A declaration of the settings.
fn table(value: Value) -> UpstreamTable {
    let Value::Object(map) = value else { panic!("an object") };
    UpstreamTable(map)
}

#[tokio::test]
async fn an_answer_is_young_for_its_time_then_old_for_another_and_then_gone() {
    let receiver = Receiver::start();
    let dir = directory();
    let clock = ManualClock::starting_at(START);
    let read = json!({"path": "/c/{id}", "fields": ["name"], "stale_ms": 600_000});
    let crm = json!({
        "id": "crm", "org": "acme", "base_url": receiver.url(""), "reads": {"contact": read},
        "retry": {"kind": "fixed", "delays_ms": [], "jitter": 0},
    });
    let declared = table(crm.clone());
    let hub = open(dir.path(), clock.clone(), |config| {
        config.delivery.allow_private_networks = true;
        config.upstreams = vec![declared];
    })
    .await;
    let ask = || {
        let values = [("id".to_owned(), "1".to_owned())].into();
        let (hub, now) = (hub.clone(), clock.now());
        async move {
            let question = Question { values, ..Question::default() };
            hub.read_upstream("crm", "contact", &question, AdapterContext::new(Some("acme"), now)).await
        }
    };
    let told = |answer: Result<Value, _>| {
        let answer: Value = answer.map_err(|problem: tidegate::ground::error::Problem| problem.kind).unwrap();
        (answer["name"].as_str().unwrap().to_owned(), answer["stale"] == true)
    };
    receiver.script("/c/1", [answer(200, &json!({"name": "first"})), answer(200, &json!({"name": "second"}))]);
    receiver.always("/c/1", Scripted::Status(503));
    assert_eq!(told(ask().await), ("first".into(), false));
    clock.advance(Duration::from_millis(299_999));
    assert_eq!(told(ask().await), ("first".into(), false), "five minutes are not over");
    assert_eq!(receiver.on("/c/1").len(), 1);
    clock.advance(Duration::from_millis(1));
    assert_eq!(told(ask().await), ("second".into(), false), "they are");
    clock.advance(Duration::from_secs(300));
    assert_eq!(told(ask().await), ("second".into(), true), "it is down, and the old answer serves");
    clock.advance(Duration::from_millis(599_999));
    assert_eq!(told(ask().await), ("second".into(), true));
    clock.advance(Duration::from_millis(1));
    assert_eq!(ask().await.unwrap_err().kind, ProblemKind::UpstreamUnavailable, "too old to serve");
    assert_eq!(receiver.on("/c/1").len(), 5);

    // The settings are read again: what changed holds, what is gone is gone, what does not fit changes nothing.
    let mut moved = crm.clone();
    moved["base_url"] = json!(receiver.url("/moved"));
    receiver.always("/moved/c/1", answer(200, &json!({"name": "third"})));
    let erp = json!({"id": "erp", "base_url": receiver.url("")});
    hub.declare_upstreams(&[table(moved.clone()), table(erp)]).await.unwrap();
    assert_eq!(told(ask().await), ("third".into(), false));
    assert_eq!(hub.upstream_list().len(), 2);
    moved["retry"] = json!("never");
    assert!(hub.declare_upstreams(&[table(moved)]).await.unwrap_err().detail.starts_with("upstreams[0]: retry"));
    let mut clear = crm.clone();
    clear["auth"] = json!({"kind": "bearer", "token": "x".repeat(SECRET_CHARS_MAX)});
    assert_eq!(hub.declare_upstreams(&[table(clear)]).await.unwrap_err().field.as_deref(), Some("auth.token"));
    assert_eq!(hub.upstream_list().len(), 2);
    hub.declare_upstreams(&[]).await.unwrap();
    assert_eq!(ask().await.unwrap_err().kind, ProblemKind::NotFound);
    assert_eq!(hub.upstream_list().len(), 0);
    hub.stop().await;
}
