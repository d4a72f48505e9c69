//! `Idempotency-Key` on the operations that write, and operations of a program that are done once (IDM-1).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tidegate::ground::clock::ManualClock;
use tidegate::ground::error::{Problem, ProblemKind};
use tidegate::hub::{Hub as Embedded, OnceKey};
use tidegate::store::IdempotencyStore as _;
use tokio::sync::Notify;

use crate::embed::{START, directory, open};
use crate::support::{Answer, Api, Hub, Receiver, Reply, items, sample, until};

/// A request under a key.
pub(crate) async fn keyed(api: &Api, method: Method, path: &str, key: &str, body: &Value) -> Answer {
    try_keyed(api, method, path, key, body).await.unwrap()
}

pub(crate) async fn try_keyed(
    api: &Api,
    method: Method,
    path: &str,
    key: &str,
    body: &Value,
) -> Result<Answer, reqwest::Error> {
    let headers = [("content-type", "application/json"), ("idempotency-key", key)];
    let body = (!body.is_null()).then(|| body.to_string().into_bytes());
    api.try_send(method, path, &headers, body).await
}

async fn post(api: &Api, path: &str, key: &str, body: &Value) -> Answer {
    keyed(api, Method::POST, path, key, body).await
}

/// The same answer once more: status, body and content type, and the mark of a replay.
#[track_caller]
fn assert_replayed(first: &Answer, again: &Answer) {
    assert_eq!(first.header("idempotency-replayed"), None, "{first:?}");
    assert_eq!(again.header("idempotency-replayed"), Some("true"), "{again:?}");
    assert_eq!((first.status, &first.text), (again.status, &again.text));
    assert_eq!(first.header("content-type"), again.header("content-type"));
}

fn webhook_to(receiver: &Receiver, path: &str) -> Value {
    json!({"url": receiver.url(path), "org": "acme", "event_types": ["order.*"]})
}

async fn webhooks(api: &Api) -> usize {
    items(&api.get("/v1/webhooks").await.expect(200).json()).len()
}

#[tokio::test]
async fn the_same_request_under_a_key_gets_the_first_answer_and_is_done_once() {
    let hub = Hub::start().await;
    let (acme, receiver) = (hub.acme().await, Receiver::start());

    // An event without an id: without the key it would be another one each time.
    let event = json!({"type": "order.placed", "data": {"amount": 12}});
    let first = post(&acme, "/v1/events", "order-1", &event).await.expect(202);
    let again = post(&acme, "/v1/events", "order-1", &event).await;
    assert_replayed(&first, &again);
    assert_eq!(items(&acme.get("/v1/events?type=order.placed").await.expect(200).json()).len(), 1);

    let batch = json!([{"type": "order.paid"}, {"type": ""}, {"type": "order.paid"}]);
    let first = post(&acme, "/v1/events/batch", "batch-1", &batch).await.expect(202);
    assert_replayed(&first, &post(&acme, "/v1/events/batch", "batch-1", &batch).await);
    assert_eq!(items(&acme.get("/v1/events?type=order.paid").await.expect(200).json()).len(), 2);

    // The secret of a webhook is shown once; to who lost that answer it is shown again.
    let wanted = webhook_to(&receiver, "/hook");
    let first = post(&acme, "/v1/webhooks", "hook-1", &wanted).await.expect(201);
    assert!(first.json()["signing_secret"].is_string());
    assert_replayed(&first, &post(&acme, "/v1/webhooks", "hook-1", &wanted).await);
    assert_eq!(webhooks(&acme).await, 1);
    let path = format!("/v1/webhooks/{}", first.json()["id"].as_str().unwrap());

    // Each method and each path has keys of its own: the same text is another key there.
    let change = json!({"event_types": ["order.paid"]});
    let patched = keyed(&acme, Method::PATCH, &path, "hook-1", &change).await.expect(200);
    assert_replayed(&patched, &keyed(&acme, Method::PATCH, &path, "hook-1", &change).await);
    let gone = keyed(&acme, Method::DELETE, &path, "hook-1", &Value::Null).await.expect(204);
    assert_replayed(&gone, &keyed(&acme, Method::DELETE, &path, "hook-1", &Value::Null).await);
    acme.delete(&path).await.expect(404);

    // What was refused for what it is stays refused.
    let bad = json!({"url": "nonsense", "org": "acme", "event_types": ["*"]});
    let refused = post(&acme, "/v1/webhooks", "hook-2", &bad).await.expect(400);
    assert_replayed(&refused, &post(&acme, "/v1/webhooks", "hook-2", &bad).await);

    let metrics = hub.admin().get("/metrics").await.expect(200).text;
    let outcome = |name: &str| {
        sample(&metrics, "tidegate_idempotency_requests_total", &[&format!("outcome=\"{name}\"")]).unwrap_or_default()
    };
    assert_eq!((outcome("run"), outcome("replayed")), (6.0, 6.0));
    assert_eq!(sample(&metrics, "tidegate_idempotency_keys", &[]), Some(6.0));
}

#[tokio::test]
async fn another_request_under_the_key_is_refused() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let event = json!({"id": "e-1", "type": "order.placed"});
    post(&acme, "/v1/events", "k", &event).await.expect(202);
    let other = post(&acme, "/v1/events", "k", &json!({"id": "e-2", "type": "order.placed"})).await;
    let problem = other.expect_problem(422, "idempotency-mismatch").json();
    assert_eq!(problem["field"], "Idempotency-Key");
    post(&acme, "/v1/events?atomic=true", "k", &event).await.expect_problem(422, "idempotency-mismatch");
    acme.get("/v1/events/e-2").await.expect(404);

    // The attributes of a CloudEvent in binary mode are in its headers.
    let binary = async |kind: &str, key: &str| {
        let headers = [
            ("ce-specversion", "1.0"),
            ("ce-id", "ce-1"),
            ("ce-source", "/shop"),
            ("ce-type", kind),
            ("content-type", "application/json"),
            ("idempotency-key", key),
        ];
        acme.try_send(Method::POST, "/v1/events", &headers, Some(b"{}".to_vec())).await.unwrap()
    };
    binary("order.sent", "ce").await.expect(202);
    binary("order.sent", "ce").await.expect(202);
    binary("order.lost", "ce").await.expect_problem(422, "idempotency-mismatch");
}

#[tokio::test]
async fn a_key_that_does_not_fit_or_has_no_place_is_refused_by_name() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let event = json!({"id": "e-1", "type": "order.placed"});
    let long = "x".repeat(256);
    for key in ["", " ", "two words", "a\tb", long.as_str()] {
        let problem = post(&acme, "/v1/events", key, &event).await.expect_problem(400, "invalid-field").json();
        assert_eq!(problem["field"], "Idempotency-Key", "{problem}");
        assert!(problem["limit"].as_str().unwrap().contains("255"), "{problem}");
    }
    let headers = [("content-type", "application/json"), ("idempotency-key", "a"), ("idempotency-key", "b")];
    let twice = acme.try_send(Method::POST, "/v1/events", &headers, Some(event.to_string().into_bytes())).await;
    twice.unwrap().expect_problem(400, "invalid-field");
    acme.get("/v1/events/e-1").await.expect(404);
    post(&acme, "/v1/events", &"x".repeat(255), &event).await.expect(202);

    // No place for a key: told, not passed over in silence.
    let consumer = json!({"name": "c", "org": "acme", "event_types": ["*"]});
    acme.post("/v1/consumers", &consumer).await.expect(201);
    for (path, body) in [("/v1/events/stream", event.clone()), ("/v1/consumers/c/pull", json!({"max": 1}))] {
        let problem = post(&acme, path, "k", &body).await.expect_problem(400, "invalid-field").json();
        assert_eq!(problem["field"], "Idempotency-Key", "{path}: {problem}");
    }
    // What only reads passes over it.
    keyed(&acme, Method::GET, "/v1/events", "", &Value::Null).await.expect(200);
    // Nobody learns anything without a key of the API.
    post(&hub.anonymous(), "/v1/events", "", &event).await.expect_problem(401, "unauthorized");
    post(&acme, "/v1/no-such-path", "k", &event).await.expect(404);
    keyed(&acme, Method::PUT, "/v1/events", "k", &event).await.expect(405);
}

#[tokio::test]
async fn fifty_duplicates_at_once_have_one_effect_and_fifty_equal_answers() {
    let hub = Hub::start().await;
    let (acme, receiver) = (hub.acme().await.pooled(), Receiver::start());
    let wanted = webhook_to(&receiver, "/hook");
    let event = json!({"type": "order.placed", "data": {"filling": "x".repeat(3_000)}});
    for (path, key, body) in [("/v1/webhooks", "hook", &wanted), ("/v1/events", "event", &event)] {
        let all = futures_util::future::join_all((0..50).map(|_| post(&acme, path, key, body))).await;
        let texts: HashSet<_> = all.iter().map(|one| (one.status, one.text.clone())).collect();
        assert_eq!(texts.len(), 1, "{path}: {texts:?}");
        let fresh = all.iter().filter(|one| one.header("idempotency-replayed").is_none()).count();
        assert_eq!(fresh, 1, "{path}: one has done it");
    }
    assert_eq!(webhooks(&acme).await, 1);
    assert_eq!(items(&acme.get("/v1/events?type=order.placed").await.expect(200).json()).len(), 1);
}

#[tokio::test]
async fn a_key_of_another_application_or_org_is_another_key() {
    let hub = Hub::start().await;
    let key_of = async |application: &str, org: Option<&str>, scopes: &[&str]| {
        let mut wanted = json!({"application": application, "scopes": scopes});
        if let Some(org) = org {
            wanted["org"] = json!(org);
        }
        let made = hub.admin().post("/v1/admin/keys", &wanted).await.expect(201).json();
        hub.public(made["key"].as_str().unwrap())
    };
    let everything = ["publish", "manage", "read", "consume"];
    let shop = key_of("shop", Some("acme"), &everything).await;
    let shop_again = key_of("shop", Some("acme"), &everything).await;
    let others = [
        key_of("till", Some("acme"), &everything).await,
        key_of("shop", Some("beta"), &everything).await,
        key_of("shop", None, &everything).await,
        hub.admin(),
    ];
    let first = post(&shop, "/v1/events", "k", &json!({"type": "a.b", "org": "acme", "data": 0})).await.expect(202);
    for (n, other) in others.iter().enumerate() {
        // Another body under the same text: were it the same key, it would be refused, and so tell of it.
        let org = if n == 1 { "beta" } else { "acme" };
        let event = json!({"type": "a.b", "org": org, "data": n + 1});
        let answer = post(other, "/v1/events", "k", &event).await.expect(202);
        assert_eq!(answer.header("idempotency-replayed"), None, "{n}");
        assert_ne!(answer.json()["id"], first.json()["id"], "{n}");
    }
    // Another key of the same application in the same org asks for the same.
    let again = post(&shop_again, "/v1/events", "k", &json!({"type": "a.b", "org": "acme", "data": 0})).await;
    assert_replayed(&first, &again);

    // But what it may not do it may not be told of either.
    let wanted = json!({"url": "http://127.0.0.1:9/", "org": "acme", "event_types": ["*"]});
    let made = post(&shop, "/v1/webhooks", "hook", &wanted).await.expect(201);
    let secret = made.json()["signing_secret"].as_str().unwrap().to_owned();
    let reader = key_of("shop", Some("acme"), &["read", "publish"]).await;
    let refused = post(&reader, "/v1/webhooks", "hook", &wanted).await.expect_problem(403, "forbidden");
    assert!(!refused.text.contains(&secret));
    assert_replayed(&made, &post(&shop_again, "/v1/webhooks", "hook", &wanted).await);
}

#[tokio::test]
async fn what_is_refused_or_replayed_counts_against_the_rate_of_the_key() {
    let hub = Hub::start().await;
    let wanted = json!({"application": "shop", "org": "acme", "scopes": ["publish"],
        "rate_limit": {"per_second": 0.01, "burst": 4}});
    let made = hub.admin().post("/v1/admin/keys", &wanted).await.expect(201).json();
    let shop = hub.public(made["key"].as_str().unwrap());
    let event = json!({"type": "order.placed"});
    let first = post(&shop, "/v1/events", "k", &event).await.expect(202);
    let again = post(&shop, "/v1/events", "k", &event).await;
    assert_replayed(&first, &again);
    assert!(again.header("ratelimit").unwrap().contains("r=2"), "{again:?}");
    post(&shop, "/v1/events", "k", &json!({"type": "order.paid"})).await.expect_problem(422, "idempotency-mismatch");
    post(&shop, "/v1/events", "", &event).await.expect_problem(400, "invalid-field");
    for (key, body) in [("k", &event), ("other", &event), ("", &event), ("k", &json!({}))] {
        post(&shop, "/v1/events", key, body).await.expect_problem(429, "rate-limited");
    }
}

#[tokio::test]
async fn what_stood_in_the_way_is_not_kept() {
    let hub = Hub::start_with(&[("FAULTS__ENABLED", "true")]).await;
    let wanted = json!({"application": "shop", "org": "acme", "scopes": ["read"]});
    let made = hub.admin().post("/v1/admin/keys", &wanted).await.expect(201).json();
    let reader = hub.public(made["key"].as_str().unwrap());
    let event = json!({"type": "order.placed"});
    post(&reader, "/v1/events", "k", &event).await.expect_problem(403, "forbidden");
    let wanted = json!({"application": "shop", "org": "acme", "scopes": ["read", "publish"]});
    let made = hub.admin().post("/v1/admin/keys", &wanted).await.expect(201).json();
    let shop = hub.public(made["key"].as_str().unwrap());
    post(&shop, "/v1/events", "k", &event).await.expect(202);

    // A commit that fails is answered with 503; the retry runs, and there is one event.
    hub.admin().act("/v1/admin/faults/fail-commit").await.expect(202);
    let paid = json!({"type": "order.paid"});
    let failed = post(&shop, "/v1/events", "paid", &paid).await;
    assert_eq!(failed.status, 503, "{}", failed.text);
    until("the retry is taken", || async {
        let answer = post(&shop, "/v1/events", "paid", &paid).await;
        [200, 202].contains(&answer.status).then_some(())
    })
    .await;
    assert_eq!(items(&shop.get("/v1/events?type=order.paid").await.expect(200).json()).len(), 1);
}

#[tokio::test]
async fn who_waits_too_long_is_told_to_come_back_and_the_work_outlives_its_client() {
    let hub = Hub::start_with(&[("IDEMPOTENCY__WAIT_MS", "50")]).await;
    let (acme, receiver) = (hub.acme().await, Receiver::start());
    receiver.always("/slow", Reply::Hold);
    let wanted = json!({"url": receiver.url("/slow"), "org": "acme", "event_types": ["never.*"]});
    let path = format!("/v1/webhooks/{}/test", acme.webhook(&wanted).await["id"].as_str().unwrap());
    // The client goes away while its request is being answered.
    let first = {
        let (acme, path) = (acme.clone(), path.clone());
        tokio::spawn(async move { try_keyed(&acme, Method::POST, &path, "t", &Value::Null).await })
    };
    receiver.wait_for("/slow", 1).await;
    let busy = post(&acme, &path, "t", &Value::Null).await.expect_problem(409, "idempotency-busy");
    assert_eq!(busy.header("retry-after"), Some("1"));
    assert_eq!(busy.json()["retryable"], true);
    first.abort();
    first.await.unwrap_err();
    receiver.release();
    let answer = until("the answer is there", || async {
        let answer = post(&acme, &path, "t", &Value::Null).await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert_eq!(answer.header("idempotency-replayed"), Some("true"), "{}", answer.text);
    receiver.look(|all| assert_eq!(all.len(), 1, "it was done once"));
}

#[tokio::test]
async fn an_answer_over_the_bound_is_recorded_as_done_and_not_kept() {
    let hub = Hub::start_with(&[("IDEMPOTENCY__ANSWER_BYTES_MAX", "100")]).await;
    let acme = hub.acme().await;
    let event = json!({"type": "order.placed", "id": "e-1"});
    let small = post(&acme, "/v1/events", "small", &event).await.expect(202);
    assert_replayed(&small, &post(&acme, "/v1/events", "small", &event).await);
    let batch = json!([{"type": "order.paid"}, {"type": "order.paid"}]);
    post(&acme, "/v1/events/batch", "large", &batch).await.expect(202);
    let again = post(&acme, "/v1/events/batch", "large", &batch).await.expect_problem(409, "idempotency-done");
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!((&again.json()["original_status"], &again.json()["retryable"]), (&json!(202), &json!(false)));
    assert_eq!(items(&acme.get("/v1/events?type=order.paid").await.expect(200).json()).len(), 2);
}

#[tokio::test]
async fn what_is_kept_is_bounded_per_org_and_the_oldest_go() {
    let bounds = [("IDEMPOTENCY__ORG_KEYS_MAX", "3"), ("IDEMPOTENCY__KEEP_AT_LEAST_MS", "0")];
    let hub = Hub::start_with(&bounds).await;
    let acme = hub.acme().await;
    let beta = hub.public(&hub.key(&["publish"], Some("beta")).await);
    let event = |n: u64| json!({"type": "order.placed", "data": n});
    let kept = post(&beta, "/v1/events", "k", &event(0)).await.expect(202);
    for n in 0..5 {
        post(&acme, "/v1/events", &format!("k{n}"), &event(n)).await.expect(202);
    }
    assert_replayed(&kept, &post(&beta, "/v1/events", "k", &event(0)).await);
    for n in 2..5 {
        let again = post(&acme, "/v1/events", &format!("k{n}"), &event(n)).await;
        assert_eq!(again.header("idempotency-replayed"), Some("true"), "{n}");
    }
    // The oldest was forgotten: another request may have its key.
    post(&acme, "/v1/events", "k0", &event(99)).await.expect(202);
    let metrics = hub.admin().get("/metrics").await.expect(200).text;
    assert_eq!(sample(&metrics, "tidegate_idempotency_evicted_total", &[]), Some(3.0));
    assert_eq!(sample(&metrics, "tidegate_idempotency_keys", &[]), Some(4.0));

    // None that is younger than the time within which clients retry.
    let hub = Hub::start_with(&[("IDEMPOTENCY__ORG_KEYS_MAX", "3")]).await;
    let acme = hub.acme().await;
    for n in 0..3 {
        post(&acme, "/v1/events", &format!("k{n}"), &event(n)).await.expect(202);
    }
    let full = post(&acme, "/v1/events", "k3", &event(3)).await.expect_problem(429, "idempotency-full");
    let wait_s: u64 = full.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=600).contains(&wait_s), "{wait_s}");
    acme.post("/v1/events", &event(3)).await.expect(202);
}

/// A hub in this process whose clock the test drives, and how often its operation was done.
struct Driven {
    hub: Embedded,
    clock: Arc<ManualClock>,
    done: Arc<AtomicUsize>,
    _dir: tempfile::TempDir,
}

impl Driven {
    async fn start() -> Self {
        let (dir, clock) = (directory(), ManualClock::starting_at(START));
        let hub = open(dir.path(), clock.clone(), |_| {}).await;
        Self { hub, clock, done: Arc::default(), _dir: dir }
    }

    /// Counts, and answers how often it has.
    async fn count(done: Arc<AtomicUsize>) -> Result<usize, Problem> {
        Ok(done.fetch_add(1, Ordering::SeqCst) + 1)
    }

    async fn once(&self, key: &OnceKey) -> (usize, bool) {
        let once = self.hub.idempotent(key, Self::count(Arc::clone(&self.done))).await.unwrap();
        (once.answer, once.replayed)
    }

    fn keys(&self) -> usize {
        self.hub.idempotency().size().0
    }
}

#[tokio::test]
async fn an_operation_of_the_program_is_done_once_and_forgotten_after_a_day() {
    let driven = Driven::start().await;
    let key = OnceKey::new("billing", "order-7").org("acme").request(b"12");
    assert_eq!(driven.once(&key).await, (1, false));
    assert_eq!(driven.once(&key).await, (1, true));
    let other = driven.hub.idempotent(&key.clone().request(b"13"), Driven::count(Arc::clone(&driven.done))).await;
    assert_eq!(other.unwrap_err().kind, ProblemKind::IdempotencyMismatch);
    for (n, another) in [
        OnceKey::new("billing", "order-7").request(b"12"),
        OnceKey::new("billing", "order-7").org("beta").request(b"12"),
        OnceKey::new("shipping", "order-7").org("acme").request(b"12"),
        OnceKey::new("billing", "order-8").org("acme").request(b"12"),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(driven.once(&another).await, (n + 2, false));
    }
    assert_eq!(driven.keys(), 5);

    driven.clock.advance(Duration::from_secs(24 * 3_600 - 1));
    assert_eq!(driven.once(&key).await, (1, true));
    driven.clock.advance(Duration::from_secs(1));
    assert_eq!(driven.once(&key).await, (6, false), "its time was over");
    // The others are forgotten without being asked for.
    until("what is over is swept away", || async {
        driven.clock.advance(Duration::from_secs(60));
        (driven.keys() == 1).then_some(())
    })
    .await;
    // From the disk, too.
    let rows = || {
        let mut rows = 0;
        driven.hub.engine().keys(&mut |_| rows += 1).unwrap();
        rows
    };
    until("the rows are gone", || async {
        driven.clock.advance(Duration::from_secs(60));
        (rows() == 1).then_some(())
    })
    .await;
    driven.hub.stop().await;
}

#[tokio::test]
async fn what_an_operation_answered_is_there_after_a_restart() {
    let (dir, clock) = (directory(), ManualClock::starting_at(START));
    let key = OnceKey::new("billing", "order-7");
    let hub = open(dir.path(), clock.clone(), |_| {}).await;
    let first = hub.idempotent(&key, async { Ok(json!({"receipt": 7})) }).await.unwrap();
    hub.stop().await;
    drop(hub);
    let hub = open(dir.path(), clock.clone(), |_| {}).await;
    let again = hub.idempotent(&key, async { Ok(json!({"receipt": 8})) }).await.unwrap();
    assert_eq!((again.answer, again.replayed), (first.answer, true));
    hub.stop().await;
    drop(hub);
    // The stretch it lies in is dropped a day later, whatever the hub did meanwhile.
    clock.advance(Duration::from_secs(25 * 3_600));
    let hub = open(dir.path(), clock.clone(), |_| {}).await;
    assert_eq!(hub.idempotency().size(), (0, 0));
    let later = hub.idempotent(&key, async { Ok(json!({"receipt": 9})) }).await.unwrap();
    assert_eq!((later.answer, later.replayed), (json!({"receipt": 9}), false));
    hub.stop().await;
}

#[tokio::test]
async fn a_failure_and_a_panic_are_not_recorded() {
    let driven = Driven::start().await;
    let key = OnceKey::new("billing", "order-7");
    let failed = driven.hub.idempotent::<u64>(&key, async { Err(Problem::new(ProblemKind::Conflict, "no")) }).await;
    assert_eq!(failed.unwrap_err().kind, ProblemKind::Conflict);
    let (hub, same) = (driven.hub.clone(), key.clone());
    let panicked = tokio::spawn(async move { hub.idempotent::<u64>(&same, async { panic!("a mistake") }).await });
    assert!(panicked.await.unwrap_err().is_panic());
    assert_eq!(driven.once(&key).await, (1, false));
    let bad = driven.hub.idempotent(&OnceKey::new("billing", "two words"), async { Ok(1) }).await.unwrap_err();
    assert_eq!((bad.kind, bad.field.as_deref()), (ProblemKind::InvalidField, Some("key")));
    driven.hub.stop().await;
}

#[tokio::test]
async fn a_holder_whose_lock_was_taken_over_cannot_replace_the_newer_answer() {
    let driven = Driven::start().await;
    let key = OnceKey::new("billing", "order-7");
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = {
        let (hub, key, begun, go) = (driven.hub.clone(), key.clone(), Arc::clone(&begun), Arc::clone(&go));
        tokio::spawn(async move {
            let operation = async {
                begun.notify_one();
                go.notified().await;
                Ok(1_000)
            };
            hub.idempotent(&key, operation).await
        })
    };
    begun.notified().await;
    driven.clock.advance(Duration::from_millis(299_999));
    // One millisecond before its end the lock holds: the call waits, and takes over at the end.
    let next = {
        let (hub, key, done) = (driven.hub.clone(), key.clone(), Arc::clone(&driven.done));
        tokio::spawn(async move { hub.idempotent(&key, Driven::count(done)).await })
    };
    until("it takes over", || async {
        driven.clock.advance(Duration::from_millis(1));
        next.is_finished().then_some(())
    })
    .await;
    let next = next.await.unwrap().unwrap();
    assert_eq!((next.answer, next.replayed), (1, false));
    go.notify_one();
    let late = slow.await.unwrap().unwrap();
    assert_eq!((late.answer, late.replayed), (1, true), "its own answer is given up");
    assert_eq!(driven.once(&key).await, (1, true));
    driven.hub.stop().await;
}

#[tokio::test]
async fn the_lock_of_a_call_that_was_dropped_lasts_and_who_waits_is_told_how_long() {
    let driven = Driven::start().await;
    let key = OnceKey::new("billing", "order-7");
    let begun = Arc::new(Notify::new());
    let dropped = {
        let (hub, key, begun) = (driven.hub.clone(), key.clone(), Arc::clone(&begun));
        tokio::spawn(async move {
            let operation = async {
                begun.notify_one();
                std::future::pending::<Result<usize, Problem>>().await
            };
            hub.idempotent(&key, operation).await
        })
    };
    begun.notified().await;
    dropped.abort();
    dropped.await.unwrap_err();
    let waiting = {
        let (hub, key, done) = (driven.hub.clone(), key.clone(), Arc::clone(&driven.done));
        tokio::spawn(async move { hub.idempotent(&key, Driven::count(done)).await })
    };
    let mut passed_s = 0;
    until("it has waited long enough", || {
        driven.clock.advance(Duration::from_secs(1));
        passed_s += 1;
        let finished = waiting.is_finished();
        async move { finished.then_some(()) }
    })
    .await;
    let busy = waiting.await.unwrap().unwrap_err();
    assert_eq!(busy.kind, ProblemKind::IdempotencyBusy);
    let wait_s = busy.retry_after_s.unwrap();
    assert!((300 - passed_s..=300).contains(&wait_s), "{wait_s} after {passed_s}");
    driven.clock.advance(Duration::from_secs(300));
    assert_eq!(driven.once(&key).await, (1, false));
    driven.hub.stop().await;
}

#[tokio::test]
async fn fifty_calls_at_once_do_it_once() {
    let driven = Driven::start().await;
    let calls = (0..50).map(|n| {
        let (hub, done) = (driven.hub.clone(), Arc::clone(&driven.done));
        tokio::spawn(async move {
            let key = OnceKey::new("billing", format!("order-{}", n % 5)).org("acme");
            let operation = async {
                tokio::task::yield_now().await;
                Driven::count(done).await
            };
            (n % 5, hub.idempotent(&key, operation).await.unwrap())
        })
    });
    let mut answers: HashMap<usize, HashSet<usize>> = HashMap::new();
    let mut fresh = 0;
    for call in futures_util::future::join_all(calls).await {
        let (key, once) = call.unwrap();
        answers.entry(key).or_default().insert(once.answer);
        fresh += usize::from(!once.replayed);
    }
    assert_eq!(fresh, 5);
    assert_eq!(driven.done.load(Ordering::SeqCst), 5);
    assert!(answers.len() == 5 && answers.values().all(|one| one.len() == 1), "{answers:?}");
    driven.hub.stop().await;
}
