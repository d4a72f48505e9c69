//! Events: in singly and in batches, out by id and as a list (ING-1, ING-3, OUT-3).

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use serde_json::{Value, json};

use super::answer::{Answer, json as json_answer, text};
use super::auth::{Principal, authorize, write_context};
use super::caller::Call;
use super::cloud_events::{Form, form_of, form_of_elements, read};
use super::idempotency::name_event;
use super::params::Params;
use super::{App, Shared, body};
use crate::catalog::policy::Warning;
use crate::event::envelope::Draft;
use crate::event::parse::{ParseRules, not_reserved, parse_event, split_array};
use crate::event::redact::Audience;
use crate::event::render;
use crate::ground::clock::UnixMs;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::ids::Seq;
use crate::hub::{Accepted, EventQuery, ExplainQuery, Scope, id_conflict};
use crate::store::Appended;
use crate::trace::{TraceContext, read_tracestate};

/// Consumers of one explanation when the client does not say.
pub(super) const EXPLAINED_DEFAULT: usize = 50;
/// Most consumers of one explanation: each may cost a few look-ups.
pub(super) const EXPLAINED_MAX: usize = 200;

/// The header that names what an org's policy says of the event of this answer.
pub(super) const WARNING_HEADER: &str = "x-catalog-warning";

/// Reads one envelope for a principal; a refusal is counted.
pub(super) fn parse(
    app: &App,
    principal: &Principal,
    trace: Option<&RequestTrace>,
    body: &Bytes,
) -> Result<Draft, Problem> {
    parse_with(app, principal, trace, |rules| parse_event(body, rules))
}

/// The trace that a request is part of.
#[derive(Clone, Debug)]
pub(super) struct RequestTrace {
    context: TraceContext,
    state: Option<String>,
}

/// The trace that a request is part of, for events that name none. A header that is not valid, or is there twice, counts
/// as absent; a trace state may be cut into several headers (W3C Trace Context).
pub(super) fn trace_of(request: &HttpRequest) -> Option<RequestTrace> {
    let mut given = request.headers().get_all("traceparent");
    let header = given.next()?.to_str().ok()?;
    let context = given.next().is_none().then(|| TraceContext::parse(header)).flatten()?;
    let states: Result<Vec<&str>, _> = request.headers().get_all("tracestate").map(|state| state.to_str()).collect();
    let state = states.ok().and_then(|states| read_tracestate(&states.join(",")));
    Some(RequestTrace { context, state })
}

/// Reads one event of any form for a principal; a refusal is counted.
fn parse_with(
    app: &App,
    principal: &Principal,
    trace: Option<&RequestTrace>,
    read: impl FnOnce(&ParseRules<'_>) -> Result<Draft, Problem>,
) -> Result<Draft, Problem> {
    let read = read(&app.hub.parse_rules(principal.org(), principal.org()));
    let read = read.and_then(|draft| not_reserved(&draft.meta).map(|()| draft));
    let mut draft = read.inspect_err(|problem| {
        app.hub.metrics().events_refused.with_label_values(&[problem.kind.slug()]).inc();
    })?;
    if let (None, Some(trace)) = (&draft.meta.traceparent, trace) {
        draft.meta.traceparent = Some(trace.context.to_header());
        draft.meta.tracestate.clone_from(&trace.state);
    }
    Ok(draft)
}

fn receipt(out: &mut Vec<u8>, id: &str, seq: Seq, duplicate: bool) {
    out.extend_from_slice(b"{\"id\":");
    // A text cannot fail to be written into memory.
    out.extend_from_slice(&serde_json::to_vec(id).unwrap_or_default());
    out.extend_from_slice(format!(",\"seq\":{seq},\"duplicate\":{duplicate}}}").as_bytes());
}

fn scheduled_receipt(out: &mut Vec<u8>, id: &str, deliver_at: UnixMs, duplicate: bool) {
    let deliver_at = deliver_at.to_rfc3339();
    let receipt = json!({"id": id, "seq": null, "duplicate": duplicate, "scheduled": true, "deliver_at": deliver_at});
    out.extend_from_slice(receipt.to_string().as_bytes());
}

/// One event's result as JSON text; true when it was accepted.
pub(super) fn result(out: &mut Vec<u8>, id: &str, accepted: &Accepted) -> bool {
    match accepted {
        Accepted::Log(Appended::New(event)) => receipt(out, id, event.seq, false),
        Accepted::Log(Appended::Duplicate(seq)) => receipt(out, id, *seq, true),
        Accepted::Scheduled { deliver_at, duplicate } => scheduled_receipt(out, id, *deliver_at, *duplicate),
        Accepted::Flagged(accepted, warnings) => {
            let taken = result(out, id, accepted);
            if taken {
                warn(out, warnings);
            }
            return taken;
        }
        Accepted::Log(Appended::Conflict(seq)) => {
            error_result(out, &id_conflict(id, *seq));
            return false;
        }
        Accepted::Log(Appended::Withheld) => {
            error_result(out, &Problem::new(ProblemKind::Conflict, "another event of the atomic batch was refused"));
            return false;
        }
        Accepted::Refused(problem) => {
            error_result(out, problem);
            return false;
        }
    }
    true
}

/// Adds what an org's policy says of an event to its receipt.
fn warn(out: &mut Vec<u8>, warnings: &[Warning]) {
    out.pop();
    out.extend_from_slice(b",\"warnings\":");
    // What is told of it cannot fail to be written into memory.
    out.extend_from_slice(&serde_json::to_vec(warnings).unwrap_or_else(|_| b"[]".to_vec()));
    out.push(b'}');
}

/// A refused event's result as JSON text.
pub(super) fn error_result(out: &mut Vec<u8>, problem: &Problem) {
    out.extend_from_slice(json!({ "error": problem.to_json() }).to_string().as_bytes());
}

/// `POST /v1/events`: an envelope, or a `CloudEvent` in any of its modes.
pub(crate) async fn publish(app: Shared, request: HttpRequest, mut payload: web::Payload) -> Answer {
    let principal = authorize(&app, &request, Scope::Publish)?;
    let form = form_of(&request)?;
    if form == Form::Batch {
        return take_batch(&app, &principal, &request, payload, form).await;
    }
    // One event is taken whole or not at all, whatever is said of it; but what is said must fit.
    if !request.query_string().is_empty() {
        Params::read(&request, &["atomic"])?.flag("atomic")?;
    }
    let limit = app.hub.config().limits.event_bytes_max;
    let bytes = body::read(&app, &request, &mut payload, limit).await?;
    let mut draft =
        parse_with(&app, &principal, trace_of(&request).as_ref(), |rules| read(form, &request, &bytes, rules))?;
    name_event(&request, 0, &mut draft);
    let id = draft.meta.id.clone();
    let context = || write_context(&app, &request, &principal);
    let accepted = app.hub.accept(vec![draft], false, context).await?.pop();
    answer_of(&id, accepted)
}

/// The answer to one event that was to be taken in.
pub(super) fn answer_of(id: &str, accepted: Option<Accepted>) -> Answer {
    let mut out = Vec::with_capacity(96);
    match accepted {
        Some(Accepted::Log(Appended::New(event))) => {
            receipt(&mut out, id, event.seq, false);
            Ok(text(StatusCode::ACCEPTED, out))
        }
        Some(Accepted::Log(Appended::Duplicate(seq))) => {
            receipt(&mut out, id, seq, true);
            Ok(text(StatusCode::OK, out))
        }
        Some(Accepted::Scheduled { deliver_at, duplicate }) => {
            scheduled_receipt(&mut out, id, deliver_at, duplicate);
            Ok(text(if duplicate { StatusCode::OK } else { StatusCode::ACCEPTED }, out))
        }
        Some(Accepted::Flagged(accepted, warnings)) => {
            let status = match &*accepted {
                Accepted::Log(Appended::New(_)) | Accepted::Scheduled { duplicate: false, .. } => StatusCode::ACCEPTED,
                Accepted::Log(Appended::Duplicate(_)) | Accepted::Scheduled { duplicate: true, .. } => StatusCode::OK,
                Accepted::Log(Appended::Conflict(_) | Appended::Withheld)
                | Accepted::Refused(_)
                | Accepted::Flagged(..) => return answer_of(id, Some(*accepted)),
            };
            result(&mut out, id, &accepted);
            warn(&mut out, &warnings);
            let mut answer = text(status, out);
            let codes: Vec<&str> = warnings.iter().map(|warning| warning.code.as_str()).collect();
            if let Ok(value) = HeaderValue::from_str(&codes.join(", ")) {
                answer.headers_mut().insert(HeaderName::from_static(WARNING_HEADER), value);
            }
            Ok(answer)
        }
        Some(Accepted::Log(Appended::Conflict(seq))) => Err(id_conflict(id, seq).into()),
        Some(Accepted::Refused(problem)) => Err(problem.into()),
        Some(Accepted::Log(Appended::Withheld)) | None => {
            Err(Problem::new(ProblemKind::Internal, "no receipt for the event").into())
        }
    }
}

/// `POST /v1/events/batch`: an invalid element rejects itself only, unless `?atomic=true`.
pub(crate) async fn publish_batch(app: Shared, request: HttpRequest, payload: web::Payload) -> Answer {
    let principal = authorize(&app, &request, Scope::Publish)?;
    let form = form_of_elements(&request)?;
    take_batch(&app, &principal, &request, payload, form).await
}

async fn take_batch(
    app: &App,
    principal: &Principal,
    request: &HttpRequest,
    mut payload: web::Payload,
    form: Form,
) -> Answer {
    let atomic = Params::read(request, &["atomic"])?.flag("atomic")?;
    let trace = trace_of(request);
    let limits = &app.hub.config().limits;
    let bytes = body::read(app, request, &mut payload, limits.batch_bytes_max).await?;
    let elements = split_array(&bytes, limits.batch_events_max)?;
    // The request itself has been counted.
    if elements.len() > 1 {
        principal.charge(app, request, elements.len() - 1)?;
    }
    let mut drafts = Vec::with_capacity(elements.len());
    let mut parsed = Vec::with_capacity(elements.len());
    for (at, element) in elements.iter().enumerate() {
        match parse_with(app, principal, trace.as_ref(), |rules| read(form, request, element, rules)) {
            Ok(mut draft) => {
                name_event(request, at, &mut draft);
                parsed.push(Ok(draft.meta.id.clone()));
                drafts.push(draft);
            }
            Err(mut problem) if atomic => {
                problem.field = Some(format!("[{at}].{}", problem.field.as_deref().unwrap_or("event")));
                return Err(problem.into());
            }
            Err(problem) => parsed.push(Err(problem)),
        }
    }
    let context = || write_context(app, request, principal);
    let accepted_all = if drafts.is_empty() { Vec::new() } else { app.hub.accept(drafts, atomic, context).await? };
    let conflict = |one: &Accepted| matches!(one, Accepted::Log(Appended::Conflict(_)));
    let withheld = |one: &Accepted| matches!(one, Accepted::Log(Appended::Withheld));
    if atomic && accepted_all.iter().any(|one| conflict(one) || withheld(one)) {
        let at = accepted_all.iter().position(conflict).unwrap_or(0);
        let id = parsed.get(at).and_then(|one| one.as_ref().ok()).map_or("", String::as_str);
        let mut problem = id_conflict(id, Seq::ZERO);
        problem.field = Some(format!("[{at}].id"));
        return Err(problem.into());
    }
    let mut out = Vec::with_capacity(64 + parsed.len() * 80);
    out.extend_from_slice(b"{\"results\":[");
    let (mut accepted, mut rejected) = (0_usize, 0_usize);
    let mut results = accepted_all.iter();
    for (at, one) in parsed.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        let fine = match one {
            Ok(id) => results.next().is_some_and(|accepted| result(&mut out, id, accepted)),
            Err(problem) => {
                error_result(&mut out, problem);
                false
            }
        };
        if fine { accepted += 1 } else { rejected += 1 }
    }
    out.extend_from_slice(format!("],\"accepted\":{accepted},\"rejected\":{rejected}}}").as_bytes());
    Ok(text(StatusCode::ACCEPTED, out))
}

/// `GET /v1/events/{id}`
pub(crate) async fn show(call: Call, id: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Read)?;
    let org = caller.org_asked()?;
    Ok(text(StatusCode::OK, caller.hub().event_with_consumers(&id, org.as_deref()).await?))
}

/// `GET /v1/events/{id}/explain`
pub(crate) async fn explain(call: Call, id: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Read)?;
    let params = caller.params(&["org", "consumer", "cursor", "limit"])?;
    let org = caller.org_within(&params)?;
    let query = ExplainQuery {
        consumer: params.text("consumer"),
        after: params.text("cursor"),
        limit: params.limit_within(EXPLAINED_DEFAULT, EXPLAINED_MAX)?,
    };
    Ok(json_answer(StatusCode::OK, &caller.hub().explain(&id, org.as_deref(), query).await?))
}

/// `GET /v1/events`
pub(crate) async fn list(call: Call) -> Answer {
    let caller = call.by(Scope::Read)?;
    let known = ["org", "type", "source", "aggregate_type", "aggregate_id", "from", "to", "cursor", "limit"];
    let params = caller.params(&known)?;
    let query = EventQuery {
        org: caller.org_within(&params)?,
        event_type: params.pattern("type")?,
        source: params.text("source"),
        aggregate_type: params.text("aggregate_type"),
        aggregate_id: params.text("aggregate_id"),
        from: params.time("from")?,
        to: params.time("to")?,
        after: params.cursor_number()?.map(Seq),
        limit: params.limit()?,
    };
    let page = caller.hub().blocking(move |hub| hub.events(&query)).await?;
    let mut out = Vec::with_capacity(page.items.len() * 512 + 64);
    out.extend_from_slice(b"{\"events\":[");
    for (at, event) in page.items.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&render::envelope(&caller.hub().redactor().shown(event, Audience::Console)));
    }
    let rest = json!({"next_cursor": page.next, "has_more": page.has_more});
    out.extend_from_slice(b"],");
    out.extend_from_slice(&tail_of(&rest));
    Ok(text(StatusCode::OK, out))
}

/// The members of an object with its closing brace: for putting after members that are written by hand.
fn tail_of(object: &Value) -> Vec<u8> {
    object.to_string().into_bytes().split_off(1)
}

/// An answer whose body is produced bit by bit.
pub(super) fn streaming(
    content_type: &str,
    stream: impl futures_util::Stream<Item = Result<Bytes, actix_web::Error>> + 'static,
) -> HttpResponse {
    HttpResponse::Ok().content_type(content_type).streaming(stream)
}
