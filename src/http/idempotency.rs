//! `Idempotency-Key` on the operations that write (IDM-1): a request that names one is done once, and the same request again
//! gets the same answer.
//!
//! It is middleware around all routes and costs a request without the header one look. A key belongs to the application and
//! the org of the API key, to the method and the path. A request is the same when query, content type, `ce-*` headers and
//! body are.
//!
//! What runs under a key runs to its end, also when its client goes away: the retry gets the answer. Answers below 500 are
//! recorded, but not those that say nothing of the request itself: 401, 403, 408, 429. An answer is shown again only to keys
//! that have a scope with which the first request was allowed.

use std::cell::RefCell;
use std::future::{Ready, ready};
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::body::{BoxBody, MessageBody as _};
use actix_web::dev::{Payload, Service, ServiceRequest, ServiceResponse, Transform};
use actix_web::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::{Error, HttpMessage as _, HttpRequest, HttpResponse, ResponseError as _, web};
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{Either, LocalBoxFuture};
use futures_util::stream;
use sha2::{Digest as _, Sha256};

use super::answer::Refusal;
use super::auth::{self, Principal, authorize_any};
use super::server::InFlight;
use super::{Listener, Shared, body, table};
use crate::event::envelope::Draft;
use crate::ground::clock::UnixMs;
use crate::ground::error::{Problem, ProblemKind};
use crate::hub::{Scope, key_problem};
use crate::idempotency::{Answer, Ask, Claim, Fingerprint, KeyId, Permit, Recorded, check_key};

/// The header, as it is told.
pub(crate) const NAME: &str = "Idempotency-Key";
static KEY: HeaderName = HeaderName::from_static("idempotency-key");
static REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// What an operation makes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// It is done once under it.
    Once,
    /// It takes none; the reason.
    Refused(&'static str),
    /// It passes over it; the reason. So does every operation that only reads.
    Ignored(&'static str),
}

/// The operations that write and are not done once under a key.
static EXCEPTIONS: &[(Method, &str, Rule)] = &[
    (
        Method::POST,
        "/v1/events/stream",
        Rule::Refused(
            "its body and its answer have no end; give the events ids, which tell repeats for the whole retention",
        ),
    ),
    (
        Method::PATCH,
        "/v1/imports/{id}/content",
        Rule::Refused("its body may be of any length; its offset tells a repeat"),
    ),
    (
        Method::POST,
        "/v1/consumers/{name}/pull",
        Rule::Refused(
            "what it gives out is leased anew each time; what is not answered comes again when the lease ends",
        ),
    ),
    (
        Method::POST,
        "/v1/sources/{name}",
        Rule::Ignored("it is the provider's, who has no API key; the ids of its events tell repeats"),
    ),
];

/// What an operation makes of a key.
pub(crate) fn rule(method: &Method, path: &str) -> Rule {
    if !matches!(*method, Method::POST | Method::PUT | Method::PATCH | Method::DELETE) {
        return Rule::Ignored("it only reads");
    }
    let exception = EXCEPTIONS.iter().find(|(on, at, _)| on == method && *at == path);
    exception.map_or(Rule::Once, |(_, _, rule)| *rule)
}

/// With which scopes the handler has allowed the request, any one of them.
#[derive(Debug, Default)]
pub(crate) struct Allowed(RefCell<Vec<Scope>>);

/// Notes that a handler has allowed a request, for the answer that may be shown again.
pub(super) fn note_allowed(request: &HttpRequest, scopes: &[Scope]) {
    if let Some(allowed) = request.extensions().get::<Rc<Allowed>>() {
        *allowed.0.borrow_mut() = scopes.to_vec();
    }
}

/// Ids for events that came without one under a key: made of the key, so that the log knows them again.
#[derive(Clone, Copy, Debug)]
struct EventIds {
    key: KeyId,
    first: UnixMs,
}

/// Gives the event at this place of the request an id of its key, when it has none.
pub(super) fn name_event(request: &HttpRequest, at: usize, draft: &mut Draft) {
    if draft.id_given {
        return;
    }
    let Some(EventIds { key, first }) = request.extensions().get::<EventIds>().copied() else { return };
    let hash = Sha256::new().chain_update(key.0).chain_update((at as u64).to_be_bytes()).finalize();
    let mut tail = [0; 10];
    tail.copy_from_slice(&hash[..10]);
    draft.meta.id = uuid::Builder::from_unix_timestamp_millis(first.0, &tail).into_uuid().to_string();
    draft.id_given = true;
}

/// The middleware.
pub(super) struct Idempotent {
    pub(super) app: Shared,
}

/// The middleware around its routes.
pub(super) struct Around<S> {
    app: Shared,
    routes: Rc<S>,
}

impl<S> Transform<S, ServiceRequest> for Idempotent
where
    S: Service<ServiceRequest, Response = ServiceResponse<BoxBody>, Error = Error> + 'static,
    S::Future: 'static,
{
    type Response = ServiceResponse<BoxBody>;
    type Error = Error;
    type Transform = Around<S>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, ()>>;

    fn new_transform(&self, routes: S) -> Self::Future {
        ready(Ok(Around { app: self.app.clone(), routes: Rc::new(routes) }))
    }
}

impl<S> Service<ServiceRequest> for Around<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<BoxBody>, Error = Error> + 'static,
    S::Future: 'static,
{
    type Response = ServiceResponse<BoxBody>;
    type Error = Error;
    type Future = Either<S::Future, LocalBoxFuture<'static, Result<Self::Response, Error>>>;

    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.routes.poll_ready(context)
    }

    fn call(&self, request: ServiceRequest) -> Self::Future {
        if !request.headers().contains_key(&KEY) {
            return Either::Left(self.routes.call(request));
        }
        let (app, routes) = (self.app.clone(), Rc::clone(&self.routes));
        Either::Right(
            async move {
                match prepare(&app, request).await {
                    Prepared::Plain(request) => routes.call(request).await,
                    Prepared::Answered(answer) => Ok(answer),
                    Prepared::Run(request, permit, ask) => {
                        // On its own: it goes on when the client has gone.
                        let running = actix_web::rt::spawn(run(app, routes, request, permit, ask));
                        running.await.unwrap_or_else(|_| {
                            Err(Refusal(Problem::new(ProblemKind::Internal, "the request was not answered")).into())
                        })
                    }
                }
            }
            .boxed_local(),
        )
    }
}

/// What a request with the header comes to.
enum Prepared {
    /// The key means nothing here.
    Plain(ServiceRequest),
    /// It needs not run, or may not.
    Answered(ServiceResponse),
    /// It runs.
    Run(ServiceRequest, Permit, Ask),
}

/// Refuses before the routes are reached. It counts against the key's rate all the same.
fn refuse(app: &Shared, principal: &Principal, request: ServiceRequest, problem: Problem) -> Prepared {
    let problem = principal.charge(app, request.request(), 1).err().unwrap_or(problem);
    Prepared::Answered(request.into_response(Refusal(problem).error_response()))
}

/// The operation that a request is for.
fn route_of(request: &ServiceRequest, listener: Listener) -> Option<&'static table::Route> {
    let pattern = request.match_pattern()?;
    let fits = |route: &&table::Route| route.path == pattern && route.method == *request.method();
    table::TABLE.iter().find(fits).filter(|route| route.is_on(listener))
}

/// The one key of a request.
fn key_of(request: &ServiceRequest) -> Result<HeaderValue, Problem> {
    let mut given = request.headers().get_all(&KEY);
    let key = given.next().cloned().unwrap_or_else(|| HeaderValue::from_static(""));
    if given.next().is_some() {
        return Err(Problem::field(NAME, "once in a request", "several times"));
    }
    check_key(NAME, key.as_bytes())?;
    Ok(key)
}

/// Whose keys these are: those of an application in an org do not meet those of another.
fn owner_of(principal: &Principal) -> [Vec<u8>; 3] {
    match principal {
        Principal::Admin => [b"admin".to_vec(), Vec::new(), Vec::new()],
        Principal::Key(key) => {
            let kind = if key.record.org.is_some() { "key of an org" } else { "key" };
            let org = key.record.org.clone().unwrap_or_default();
            [kind.into(), key.record.application.clone().into_bytes(), org.into_bytes()]
        }
    }
}

/// What tells the request from another one.
fn fingerprint_of(request: &ServiceRequest, body: &[u8]) -> Fingerprint {
    let headers = request.headers();
    let content_type = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    // The attributes of a CloudEvent in binary mode are headers.
    let mut attributes: Vec<(&str, &[u8])> = headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("ce-"))
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .collect();
    attributes.sort_unstable();
    let mut parts = vec![request.query_string().as_bytes(), content_type, body];
    parts.extend(attributes.iter().flat_map(|(name, value)| [name.as_bytes(), value]));
    Fingerprint::of(&parts)
}

/// Reads the request and claims its key.
async fn prepare(app: &Shared, mut request: ServiceRequest) -> Prepared {
    // What is not there, and whom nobody knows, is told by the routes.
    let Some(route) = route_of(&request, app.listener) else { return Prepared::Plain(request) };
    let rule = rule(&route.method, route.path);
    if matches!(rule, Rule::Ignored(_)) {
        return Prepared::Plain(request);
    }
    let Some(principal) = auth::identify(app, request.request()) else { return Prepared::Plain(request) };
    let key = match key_of(&request) {
        Ok(key) => key,
        Err(problem) => return refuse(app, &principal, request, problem),
    };
    if let Rule::Refused(reason) = rule {
        let sent = String::from_utf8_lossy(key.as_bytes()).into_owned();
        let problem = Problem::field(NAME, format!("none here: {reason}"), sent);
        return refuse(app, &principal, request, problem);
    }
    let limit = app.hub.config().limits.batch_bytes_max.max(body::DOCUMENT_BYTES_MAX);
    let bytes = match request.extract::<web::Payload>().await {
        Ok(mut payload) => body::read(app, request.request(), &mut payload, limit).await,
        Err(_) => Err(Problem::new(ProblemKind::Internal, "the request has no body to read")),
    };
    let bytes = match bytes {
        Ok(bytes) => bytes,
        Err(problem) => return refuse(app, &principal, request, problem),
    };
    let [kind, application, org] = owner_of(&principal);
    let method = route.method.as_str().as_bytes();
    let id = KeyId::of(&[b"http", &kind, &application, &org, method, request.path().as_bytes(), key.as_bytes()]);
    let org = String::from_utf8(org).unwrap_or_default();
    let ask = Ask { id, fingerprint: fingerprint_of(&request, &bytes), org };
    let mut ending = app.ending.clone();
    let claimed = tokio::select! {
        biased;
        claimed = app.hub.idempotency().claim(&ask) => claimed,
        // A stop does not wait for who only waits. The sender is there as long as the listeners are.
        _ended = ending.wait_for(|ending| *ending) => {
            Err(Problem::new(ProblemKind::Overloaded, "the hub is stopping").retry_after(5).into())
        }
    };
    match claimed {
        Ok(Claim::Run(permit)) => {
            request.set_payload(payload_of(bytes));
            Prepared::Run(request, permit, ask)
        }
        Ok(Claim::Done(answer)) => {
            let answer = replay(app, request.request(), &answer);
            Prepared::Answered(request.into_response(answer))
        }
        Err(error) => refuse(app, &principal, request, key_problem(error)),
    }
}

fn payload_of(bytes: Bytes) -> Payload {
    Payload::Stream { payload: Box::pin(stream::once(ready(Ok(bytes)))) }
}

/// A recorded answer, for whoever may see it.
fn replay(app: &Shared, request: &HttpRequest, answer: &Answer) -> HttpResponse {
    let scopes: Vec<Scope> =
        Scope::ALL.into_iter().filter(|scope| answer.note.split(',').any(|one| one == scope.as_str())).collect();
    if !scopes.is_empty()
        && let Err(problem) = authorize_any(app, request, &scopes)
    {
        return Refusal(problem).error_response();
    }
    let mut response = match &answer.body {
        Some(body) => {
            let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let mut response = HttpResponse::build(status);
            if !answer.content_type.is_empty() {
                response.insert_header((CONTENT_TYPE, answer.content_type.as_str()));
            }
            response.body(body.clone())
        }
        None => {
            let text = "the request was done; its answer was larger than idempotency.answer_bytes_max, or had no room";
            let problem = Problem::new(ProblemKind::IdempotencyDone, text).with("original_status", answer.status);
            Refusal(problem).error_response()
        }
    };
    response.headers_mut().insert(REPLAYED.clone(), HeaderValue::from_static("true"));
    response
}

/// Whether an answer is what the request comes to, and not what stood in its way.
fn is_kept(status: StatusCode) -> bool {
    status.as_u16() < 500
        && !matches!(
            status,
            StatusCode::UNAUTHORIZED
                | StatusCode::FORBIDDEN
                | StatusCode::REQUEST_TIMEOUT
                | StatusCode::TOO_MANY_REQUESTS
        )
}

/// Runs a request under its key and records the answer.
async fn run<S>(
    app: Shared,
    routes: Rc<S>,
    request: ServiceRequest,
    permit: Permit,
    ask: Ask,
) -> Result<ServiceResponse, Error>
where
    S: Service<ServiceRequest, Response = ServiceResponse<BoxBody>, Error = Error>,
{
    let _answering = InFlight::begin(&app.in_flight);
    let allowed = Rc::new(Allowed::default());
    request.extensions_mut().insert(Rc::clone(&allowed));
    request.extensions_mut().insert(EventIds { key: permit.id(), first: permit.first() });
    let response = match AssertUnwindSafe(routes.call(request)).catch_unwind().await {
        Ok(Ok(response)) if is_kept(response.status()) => response,
        // What was done, if anything, is told by no answer: the retry runs.
        Ok(answered) => {
            permit.give_back();
            return answered;
        }
        Err(cause) => {
            permit.give_back();
            tracing::error!(panic = crate::supervise::panic_text(&*cause), "a request panicked");
            return Err(Refusal(Problem::new(ProblemKind::Internal, "the request was not answered")).into());
        }
    };
    let (request, response) = response.into_parts();
    let (head, body) = response.into_parts();
    let (body, kept) = match body.try_into_bytes() {
        Ok(bytes) => (BoxBody::new(bytes.clone()), Some(bytes)),
        Err(body) => (body, None),
    };
    let content_type = head.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let note: Vec<&str> = allowed.0.borrow().iter().map(|scope| scope.as_str()).collect();
    let answer = Answer {
        status: head.status().as_u16(),
        note: note.join(","),
        content_type: content_type.to_owned(),
        body: kept,
    };
    let response = match permit.record(&answer).await {
        Ok(Recorded::Kept) => head.set_body(body),
        Ok(Recorded::TakenOver) => match app.hub.newer_answer(&ask).await {
            Ok(newer) => replay(&app, &request, &newer),
            Err(problem) => Refusal(problem).error_response(),
        },
        Err(error) => Refusal(key_problem(error)).error_response(),
    };
    Ok(ServiceResponse::new(request, response))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exception_is_an_operation() {
        for (method, path, _) in EXCEPTIONS {
            let known = table::TABLE.iter().any(|route| route.method == *method && route.path == *path);
            assert!(known, "{method} {path}");
        }
    }

    #[test]
    fn operations_that_write_are_done_once_and_those_that_read_pass_over_keys() {
        assert_eq!(rule(&Method::POST, "/v1/webhooks"), Rule::Once);
        assert_eq!(rule(&Method::DELETE, "/v1/webhooks/{id}"), Rule::Once);
        assert!(matches!(rule(&Method::GET, "/v1/webhooks"), Rule::Ignored(_)));
        assert!(matches!(rule(&Method::POST, "/v1/events/stream"), Rule::Refused(_)));
    }

    #[test]
    fn answers_that_say_nothing_of_the_request_are_not_kept() {
        let kept = |status| is_kept(StatusCode::from_u16(status).expect("a status"));
        assert!([200, 201, 202, 204, 400, 404, 409, 413, 422].into_iter().all(kept));
        assert!(![401, 403, 408, 429, 500, 503].into_iter().any(kept));
    }
}
