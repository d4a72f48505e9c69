//! Handlers against the inbox's own rules, on one thread, with a clock that stands still.

use std::sync::Arc;
use std::time::Duration;

use actix::Arbiter;
use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::*;
use crate::event::envelope::Event;
use crate::event::filter::{EventFilter, TypePattern};
use crate::event::parse::{ParseRules, parse_event};
use crate::event::redact::Redactor;
use crate::ground::clock::{Clock as _, ManualClock, UnixMs};
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::ids::Seq;
use crate::ground::random::SeededRandom;
use crate::ground::random::SystemRandom;
use crate::inbox::messages::{Answers, Deferred, Deliver, Deliverer as _, LeaseLost, Renew, Settled, Ticket};
use crate::inbox::spec::{ConsumerKind, ConsumerSpec};
use crate::inbox::state::{InboxRules, InboxState, Ordering, Settlement};
use crate::link::LinkBook;
use crate::retry::{AttemptResult, FailureKind, RetryPolicy};
use crate::store::Position;
use crate::store::fake::FakeStore;
use crate::supervise::{ActorKind, Handle, Health, PanicNow, RestartBudget, supervise};
use crate::trace::Tracer;

const LEASE: Duration = Duration::from_millis(30_000);
const NOW: UnixMs = UnixMs(1_795_248_000_000);

/// What came back to the inbox.
#[derive(Debug, PartialEq)]
enum Answer {
    Settled(AttemptResult),
    Deferred,
    Refused,
}

/// The inbox's rules behind the port that tickets use.
struct FakeInbox {
    state: Mutex<InboxState>,
    clock: Arc<ManualClock>,
    answers: mpsc::UnboundedSender<Answer>,
}

impl FakeInbox {
    fn take(&self, seq: Seq, epoch: crate::ground::ids::Epoch, settlement: Settlement, answer: Answer) {
        let settled = self.state.lock().settle(seq, epoch, settlement, self.clock.now());
        let told = if settled.is_ok() { answer } else { Answer::Refused };
        self.answers.send(told).expect("the test listens");
    }

    /// What the inbox does when it looks at its leases.
    fn expire(&self) -> usize {
        let now = self.clock.now();
        let expired = self.state.lock().expired_leases(now);
        for claim in &expired {
            let retry = Settlement::Retry { due_at: now, error: String::new() };
            self.state.lock().settle(claim.seq, claim.epoch, retry, now).expect("the claim counts");
        }
        expired.len()
    }
}

impl Answers for FakeInbox {
    fn settled(&self, Settled { seq, epoch, result, .. }: Settled) {
        self.take(seq, epoch, Settlement::Processed, Answer::Settled(result));
    }

    fn deferred(&self, Deferred { seq, epoch, .. }: Deferred) {
        self.take(seq, epoch, Settlement::Deferred, Answer::Deferred);
    }

    fn renew(&self, Renew { seq, epoch }: Renew) -> BoxFuture<'static, Result<(), LeaseLost>> {
        let renewed = self.state.lock().renew(seq, epoch, self.clock.now()).map_err(|_| LeaseLost);
        Box::pin(async move { renewed })
    }
}

#[derive(Default)]
struct FakePublisher(Mutex<Vec<Bytes>>);

impl Publisher for FakePublisher {
    fn publish(&self, body: Bytes) -> BoxFuture<'static, Result<Receipt, Problem>> {
        let mut published = self.0.lock();
        published.push(body);
        let receipt = Receipt {
            id: "made".to_owned(),
            seq: Seq(100 + published.len() as u64),
            duplicate: false,
            deliver_at: None,
        };
        Box::pin(async move { Ok(receipt) })
    }
}

/// One consumer called `ops`, with its actor and the inbox's side of it.
struct Scene {
    registry: Arc<HandlerRegistry>,
    clock: Arc<ManualClock>,
    inbox: Arc<FakeInbox>,
    answers: mpsc::UnboundedReceiver<Answer>,
    published: Arc<FakePublisher>,
    actor: Handle<HandlerActor>,
    events: u64,
}

impl Scene {
    fn new() -> Self {
        let clock = ManualClock::starting_at(NOW);
        let rules = InboxRules {
            ordering: Ordering::None,
            concurrency: 16,
            window_events: 64,
            window_bytes: 1 << 20,
            parked_max: 64,
            lease_ms: 30_000,
        };
        let filter =
            EventFilter { event_types: vec![TypePattern::Prefix("order".to_owned())], ..EventFilter::default() };
        let spec = ConsumerSpec {
            kind: ConsumerKind::Handler,
            filter: Arc::new(filter),
            rules,
            retry: RetryPolicy::webhook(),
            rate_limit: None,
            health: None,
            overload_rest_ms: 0,
            paused: false,
            dead_letters: true,
            from: Seq::ZERO,
        };
        let (sender, answers) = mpsc::unbounded_channel();
        let state = Mutex::new(InboxState::restore(rules, Position::default(), [], 1, false));
        let inbox = Arc::new(FakeInbox { state, clock: Arc::clone(&clock), answers: sender });
        let (registry, published) = (HandlerRegistry::new(), Arc::new(FakePublisher::default()));
        let parts = HandlerParts {
            consumer: Arc::from("ops"),
            registry: Arc::clone(&registry),
            spec: Arc::new(ArcSwap::from_pointee(spec)),
            publisher: Arc::clone(&published) as Arc<dyn Publisher>,
            redactor: Redactor::none(),
            links: Arc::new(LinkBook::new(FakeStore::new(10), 100)),
            tracer: Tracer::off(Arc::clone(&clock) as Arc<dyn crate::ground::clock::Clock>, SeededRandom::shared(3)),
            clock: Arc::clone(&clock) as Arc<dyn crate::ground::clock::Clock>,
            since: NOW,
        };
        let budget = RestartBudget { restarts_max: 5, window_ms: 1_000, backoff_ms: 0, backoff_cap_ms: 0 };
        let health = Arc::new(Health::new(budget, Arc::clone(&parts.clock)));
        let actor =
            supervise(&Arbiter::current(), ActorKind::Handler, &health, move || HandlerActor::new(parts.clone()));
        Self { registry, clock, inbox, answers, published, actor, events: 0 }
    }

    fn on(&self, pattern: &str, priority: i32, handler: impl EventHandler) -> HandlerId {
        self.registry.register(pattern, "ops", priority, handler).expect("registers")
    }

    /// Claims whatever can be claimed and hands it to the actor; returns how many claims that were.
    fn give_out(&self, event: &Arc<Event>) -> usize {
        let claims = self.inbox.state.lock().claim(self.clock.now());
        let inbox = Arc::clone(&self.inbox) as Arc<dyn Answers>;
        let work: Vec<_> =
            claims.into_iter().map(|claim| (Ticket::new(claim, Arc::clone(&inbox)), Arc::clone(event))).collect();
        let claimed = work.len();
        self.actor.deliver(Deliver { work });
        claimed
    }

    /// A new event arrives and is given out.
    fn deliver(&mut self, body: &str) -> Arc<Event> {
        self.events += 1;
        let rules = ParseRules {
            default_org: Some("acme"),
            confined_to: None,
            event_bytes_max: 1 << 20,
            now: NOW,
            random: &SystemRandom,
        };
        let draft = parse_event(&Bytes::copy_from_slice(body.as_bytes()), &rules).expect("an event");
        let event = Event::new(Seq(self.events), NOW, draft.meta, draft.body);
        self.inbox.state.lock().offer(event.seq, event.seq.0, 1);
        assert_eq!(self.give_out(&event), 1);
        event
    }

    async fn answer(&mut self) -> Answer {
        self.answers.recv().await.expect("an answer")
    }
}

fn failed(kind: FailureKind, message: &str) -> Answer {
    Answer::Settled(AttemptResult::failed(kind, message))
}

const DELIVERED: Answer = Answer::Settled(AttemptResult::Delivered { status: 200 });

/// Tells when it is dropped.
struct Tell(mpsc::UnboundedSender<&'static str>);

impl Drop for Tell {
    fn drop(&mut self) {
        self.0.send("dropped").unwrap_or_default();
    }
}

#[actix::test]
async fn handlers_of_a_consumer_run_one_after_the_other_by_priority() {
    let mut scene = Scene::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    for (name, pattern, priority) in [("late", "order.*", 10), ("early", "order.paid", -5), ("other", "order.sent", 0)]
    {
        let seen = Arc::clone(&seen);
        scene.on(pattern, priority, move |event: Arc<Event>, _: HandlerContext| {
            let seen = Arc::clone(&seen);
            async move {
                seen.lock().push((name, "begins", event.seq.0));
                tokio::task::yield_now().await;
                seen.lock().push((name, "ends", event.seq.0));
                Ok(())
            }
        });
    }
    scene.deliver(r#"{"type":"order.paid"}"#);
    assert_eq!(scene.answer().await, DELIVERED);
    let expected = [("early", "begins", 1), ("early", "ends", 1), ("late", "begins", 1), ("late", "ends", 1)];
    assert_eq!(*seen.lock(), expected);
}

#[actix::test]
async fn a_handler_that_panics_is_a_failed_attempt_and_the_others_still_run() {
    let mut scene = Scene::new();
    let (told, mut ran) = mpsc::unbounded_channel();
    struct PanicsAtOnce;
    impl EventHandler for PanicsAtOnce {
        fn handle(&self, _: Arc<Event>, _: HandlerContext) -> BoxFuture<'static, Result<(), HandlerError>> {
            panic!("in the call")
        }
    }
    let first = scene.on("order.*", 0, PanicsAtOnce);
    scene.on("order.*", 2, move |_: Arc<Event>, _: HandlerContext| {
        let told = told.clone();
        async move { Ok(told.send("ran")?) }
    });
    scene.deliver(r#"{"type":"order.paid"}"#);
    assert_eq!(scene.answer().await, failed(FailureKind::Panic, "in the call"));
    assert_eq!(ran.recv().await, Some("ran"));

    scene.registry.remove(first);
    scene.on(
        "order.*",
        1,
        handler_fn(|event, _| async move {
            tokio::task::yield_now().await;
            assert!(event.seq == Seq::ZERO, "in the future");
            Ok(())
        }),
    );
    scene.deliver(r#"{"type":"order.paid"}"#);
    assert_eq!(scene.answer().await, failed(FailureKind::Panic, "in the future"));
    assert_eq!(ran.recv().await, Some("ran"));
    assert!(scene.actor.is_running(), "a handler's panic is not the actor's");
}

#[actix::test]
async fn an_error_is_tried_again_and_a_rejection_is_not() {
    let mut scene = Scene::new();
    let busy = scene.on("order.*", 0, handler_fn(|_, _| async { Err(HandlerError::retry("busy")) }));
    let never = scene.on("order.*", 1, handler_fn(|_, _| async { Err(HandlerError::rejected("never")) }));
    scene.deliver(r#"{"type":"order.paid"}"#);
    assert_eq!(scene.answer().await, failed(FailureKind::Handler, "2 of 2 handlers failed: busy"));
    scene.registry.remove(busy);
    scene.deliver(r#"{"type":"order.paid"}"#);
    assert_eq!(scene.answer().await, failed(FailureKind::Rejected, "never"));
    scene.registry.remove(never);
}

#[actix::test]
async fn a_renewal_keeps_a_claim_alive_past_its_lease() {
    let mut scene = Scene::new();
    let (told, mut heard) = mpsc::unbounded_channel();
    let (go, gone) = oneshot::channel::<()>();
    let gone = Mutex::new(Some(gone));
    let clock = Arc::clone(&scene.clock);
    scene.on("order.*", 0, move |_: Arc<Event>, context: HandlerContext| {
        let (told, gone, clock) = (told.clone(), gone.lock().take(), Arc::clone(&clock));
        async move {
            let before = context.lease_until();
            clock.sleep(LEASE * 2 / 3).await;
            context.renew().await?;
            told.send((before, context.lease_until()))?;
            gone.ok_or_else(|| HandlerError::retry("called twice"))?.await?;
            Ok(())
        }
    });
    scene.deliver(r#"{"type":"order.paid"}"#);
    settle_down().await;
    scene.clock.advance(LEASE * 2 / 3);
    let (before, after) = heard.recv().await.expect("the handler renews");
    assert_eq!((before, after), (NOW.plus_ms(30_000), NOW.plus_ms(50_000)));

    scene.clock.advance(LEASE * 2 / 3);
    settle_down().await;
    assert_eq!(scene.inbox.expire(), 0, "40 s into a lease of 30 s that was renewed at 20 s");
    go.send(()).expect("the handler still waits");
    assert_eq!(scene.answer().await, DELIVERED);
}

/// Lets every task of this thread run until it waits.
async fn settle_down() {
    for _ in 0..16 {
        tokio::task::yield_now().await;
    }
}

#[actix::test]
async fn a_handler_that_outlives_its_lease_is_stopped_and_answers_nothing() {
    let mut scene = Scene::new();
    let (told, mut heard) = mpsc::unbounded_channel();
    scene.on("order.*", 0, move |_: Arc<Event>, context: HandlerContext| {
        let told = told.clone();
        async move {
            told.send(if context.attempt() == 1 { "first" } else { "second" })?;
            if context.attempt() == 1 {
                let _stopped = Tell(told);
                std::future::pending::<()>().await;
            }
            Ok(())
        }
    });
    let event = scene.deliver(r#"{"type":"order.paid"}"#);
    assert_eq!(heard.recv().await, Some("first"));
    scene.clock.advance(LEASE);
    assert_eq!(heard.recv().await, Some("dropped"));
    assert!(scene.answers.is_empty(), "a claim given back would count no attempt");

    assert_eq!(scene.inbox.expire(), 1);
    assert_eq!(scene.give_out(&event), 1);
    assert_eq!(heard.recv().await, Some("second"));
    assert_eq!(scene.answer().await, DELIVERED);
}

#[actix::test]
async fn a_holder_whose_claim_was_taken_away_is_told_so_and_its_answer_is_refused() {
    let mut scene = Scene::new();
    let (told, mut heard) = mpsc::unbounded_channel();
    let (go, gone) = oneshot::channel::<()>();
    let gone = Mutex::new(Some(gone));
    scene.on("order.*", 0, move |_: Arc<Event>, context: HandlerContext| {
        let (told, gone) = (told.clone(), gone.lock().take());
        async move {
            told.send(Ok(()))?;
            gone.ok_or_else(|| HandlerError::retry("called twice"))?.await?;
            told.send(context.renew().await)?;
            Ok(())
        }
    });
    scene.deliver(r#"{"type":"order.paid"}"#);
    assert_eq!(heard.recv().await, Some(Ok(())));
    let claim = scene.inbox.state.lock().expired_leases(UnixMs(u64::MAX))[0];
    scene.inbox.take(claim.seq, claim.epoch, Settlement::GivenUp, Answer::Deferred);
    assert_eq!(scene.answer().await, Answer::Deferred);
    go.send(()).expect("the handler waits");
    assert_eq!(heard.recv().await, Some(Err(LeaseLost)));
    assert_eq!(scene.answer().await, Answer::Refused);
}

#[actix::test]
async fn an_event_waits_for_a_handler_that_is_asked_for_and_not_for_one_that_was_removed() {
    let mut scene = Scene::new();
    scene.deliver(r#"{"type":"order.paid"}"#);
    assert_eq!(scene.answer().await, Answer::Deferred, "the consumer's filter asks for orders");
    let claim = scene.inbox.state.lock().claim(NOW);
    assert_eq!(claim.len(), 1);
    scene.deliver(r#"{"type":"invoice.paid"}"#);
    assert_eq!(scene.answer().await, DELIVERED, "nothing asks for invoices");
}

#[actix::test]
async fn a_claim_that_comes_while_the_actor_restarts_is_given_back() {
    let mut scene = Scene::new();
    scene.on("order.*", 0, handler_fn(|_, _| async { Ok(()) }));
    scene.actor.hint(PanicNow);
    scene.deliver(r#"{"type":"order.paid"}"#);
    assert_eq!(scene.answer().await, Answer::Deferred);
}

#[actix::test]
async fn a_follow_up_event_names_its_cause_and_stays_in_the_conversation() {
    let mut scene = Scene::new();
    scene.on(
        "order.*",
        0,
        handler_fn(|event, context| async move {
            assert_eq!((context.consumer(), context.event_id(), context.seq()), ("ops", "e-1", event.seq));
            assert_eq!((context.correlation_id(), context.causation_id().as_deref()), ("c-1", Some("e-0")));
            context.publish(NewEvent::new("mail.wanted").id("e-1/mail").data([1, 2])).await?;
            let own = NewEvent::new("mail.wanted").org("other").correlation_id("c-9").causation_id("e-9");
            let receipt = context.publish(own.aggregate("mail", "m1")).await?;
            assert_eq!(receipt.seq, Seq(102));
            Ok(())
        }),
    );
    scene.deliver(
        r#"{"type":"order.paid","id":"e-1","request_context":{"causation_id":"e-0","correlation_id":"c-1"},
            "traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}"#,
    );
    assert_eq!(scene.answer().await, DELIVERED);
    let published: Vec<_> =
        scene.published.0.lock().iter().map(|body| String::from_utf8_lossy(body).into_owned()).collect();
    let first = r#"{"type":"mail.wanted","id":"e-1/mail","org":"acme","traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","request_context":{"correlation_id":"c-1","causation_id":"e-1"},"data":[1,2]}"#;
    let second = r#"{"type":"mail.wanted","org":"other","aggregate_type":"mail","aggregate_id":"m1","traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","request_context":{"correlation_id":"c-9","causation_id":"e-9"}}"#;
    assert_eq!(published, [first, second]);
}

#[actix::test]
async fn an_event_without_a_correlation_id_begins_a_conversation() {
    let mut scene = Scene::new();
    scene.on(
        "order.*",
        0,
        handler_fn(|_, context| async move {
            assert_eq!((context.correlation_id(), context.causation_id()), ("e-1", None));
            context.publish(NewEvent::new("mail.wanted")).await?;
            Ok(())
        }),
    );
    scene.deliver(r#"{"type":"order.paid","id":"e-1"}"#);
    assert_eq!(scene.answer().await, DELIVERED);
    let body = scene.published.0.lock()[0].clone();
    let json: serde_json::Value = serde_json::from_slice(&body).expect("json");
    assert_eq!(json["request_context"]["correlation_id"], "e-1");
}

#[test]
fn data_that_is_no_json_is_refused_when_it_is_published() {
    let keys = std::collections::HashMap::from([(vec![1], 2)]);
    let problem = NewEvent::new("a").data(keys).to_body().expect_err("is refused");
    assert_eq!((problem.kind, problem.field.as_deref()), (ProblemKind::InvalidField, Some("data")));
}
