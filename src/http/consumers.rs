//! Pull consumers over HTTP: their life, long polls, answers (INB-5).

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::web;
use serde_json::{Value, json};

use super::App;
use super::answer::{Answer, done, json, page_of, text};
use super::caller::Call;
use super::deliveries::attempts_of;
use crate::ground::clock::UnixMs;
use crate::ground::error::Problem;
use crate::ground::fields::Fields;
use crate::ground::ids::ConsumerId;
use crate::ground::limits::{ERROR_CHARS_MAX, RETRY_DELAY_MS_MAX};
use crate::hub::{DeliveryForm, PULL_MAX, Scope, TOKENS_MAX};
use crate::inbox::messages::{Judged, Verdict};
use crate::pull::record::{LEASE_MS_MAX, LEASE_MS_MIN};
use crate::pull::{ClientKind, PullRecord, PullStatus};

/// Longest wait of a poll.
pub(crate) const WAIT_MS_MAX: u64 = 60_000;
/// A poll that does not wait gives its consumer this long to look into the log.
const LOOK_MS: u64 = 200;
/// Deliveries of a poll that does not say.
pub(crate) const POLL_DEFAULT: usize = 10;
/// Longest text that may be a token.
const TOKEN_TEXT_MAX: usize = 128;
/// Who may look at consumers.
const LOOKERS: &[Scope] = &[Scope::Consume, Scope::Manage];

/// `POST /v1/consumers`
pub(crate) async fn create(call: Call) -> Answer {
    let mut caller = call.by(Scope::Manage)?;
    let (fields, context) = caller.write().await?;
    let record = caller.hub().create_consumer(fields, caller.org(), context).await?;
    Ok(json(StatusCode::CREATED, &record.to_json()))
}

/// `GET /v1/consumers`
pub(crate) async fn list(call: Call) -> Answer {
    let caller = call.by_any(LOOKERS)?;
    let params = caller.params(&["org", "cursor", "limit"])?;
    let org = caller.org_within(&params)?;
    let mut records = caller.hub().pull_consumers(org.as_deref());
    records.sort_by(|a, b| a.id.cmp(&b.id));
    page_of(records, &params, |record| &record.id, |record| record.to_json())
}

/// `GET /v1/consumers/{name}`
pub(crate) async fn show(call: Call, name: web::Path<String>) -> Answer {
    let caller = call.by_any(LOOKERS)?;
    let org = caller.org_asked()?;
    let record = caller.hub().consumer(&name, org.as_deref())?;
    Ok(json(StatusCode::OK, &caller.hub().consumer_with_standing(&record).await))
}

/// `GET /v1/consumers/{name}/attempts`, newest first
pub(crate) async fn attempts(call: Call, name: web::Path<String>) -> Answer {
    let caller = call.by_any(LOOKERS)?;
    let params = caller.params(&["org", "cursor", "limit"])?;
    let org = caller.org_within(&params)?;
    let consumer = ConsumerId::new(&caller.hub().consumer(&name, org.as_deref())?.id);
    attempts_of(&caller, consumer, &params).await
}

/// `PATCH /v1/consumers/{name}`
pub(crate) async fn change(call: Call, name: web::Path<String>) -> Answer {
    let mut caller = call.by(Scope::Manage)?;
    let org = caller.org_asked()?;
    let (fields, context) = caller.write().await?;
    let record = caller.hub().change_consumer(&name, org.as_deref(), fields, context).await?;
    Ok(json(StatusCode::OK, &record.to_json()))
}

/// `DELETE /v1/consumers/{name}`
pub(crate) async fn delete(call: Call, name: web::Path<String>) -> Answer {
    let caller = call.by(Scope::Manage)?;
    let org = caller.org_asked()?;
    caller.hub().delete_consumer(&name, org.as_deref()).await?;
    Ok(done())
}

async fn set_status(call: Call, name: &str, status: PullStatus) -> Answer {
    let caller = call.by(Scope::Manage)?;
    let org = caller.org_asked()?;
    let context = caller.context();
    let record = caller.hub().set_consumer_status(name, org.as_deref(), status, context).await?;
    Ok(json(StatusCode::OK, &record.to_json()))
}

/// `POST /v1/consumers/{name}/pause`
pub(crate) async fn pause(call: Call, name: web::Path<String>) -> Answer {
    set_status(call, &name, PullStatus::Paused).await
}

/// `POST /v1/consumers/{name}/resume`
pub(crate) async fn resume(call: Call, name: web::Path<String>) -> Answer {
    set_status(call, &name, PullStatus::Active).await
}

/// `POST /v1/consumers/{name}/pull`: waits up to `wait_ms` for up to `max` deliveries, and answers with the first that come.
pub(crate) async fn pull(call: Call, name: web::Path<String>) -> Answer {
    let mut caller = call.by(Scope::Consume)?;
    let org = caller.org_asked()?;
    let record = caller.hub().consumer(&name, org.as_deref())?;
    let mut fields = caller.fields().await?;
    let most = fields.number("max", 1, PULL_MAX as u64)?;
    let wait_ms = fields.number("wait_ms", 0, WAIT_MS_MAX)?.unwrap_or(0);
    fields.finish()?;
    let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(POLL_DEFAULT);
    let consuming = caller.hub().consume(&record, ClientKind::Poll)?;
    let timeout = caller.hub().clock().sleep(Duration::from_millis(wait_ms.max(LOOK_MS)));
    let mut handed = consuming.poll(most, timeout).await;
    handed.sort_by_key(|one| one.event.seq);
    let mut out = Vec::with_capacity(handed.iter().map(|one| one.event.weight()).sum::<usize>() + 64);
    out.extend_from_slice(b"{\"deliveries\":[");
    for (at, one) in handed.into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&consuming.render(&one, DeliveryForm::Envelope));
        // From here on it is the client's: when the answer does not arrive, the lease ends.
        one.ticket.abandon();
    }
    out.extend_from_slice(b"]}");
    Ok(text(StatusCode::OK, out))
}

/// What a client may say of deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Ack,
    Nak,
    Term,
    Extend,
}

impl Verb {
    pub(crate) const ALL: [Self; 4] = [Self::Ack, Self::Nak, Self::Term, Self::Extend];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Nak => "nak",
            Self::Term => "term",
            Self::Extend => "extend",
        }
    }

    /// The verdict with what goes with it, taken out of the fields.
    pub(crate) fn verdict(self, fields: &mut Fields) -> Result<Verdict, Problem> {
        Ok(match self {
            Self::Ack => Verdict::Ack,
            Self::Nak => Verdict::Nak {
                delay_ms: fields.number("delay_ms", 0, RETRY_DELAY_MS_MAX)?,
                reason: fields.text("reason", ERROR_CHARS_MAX)?,
            },
            Self::Term => Verdict::Term { reason: fields.text("reason", ERROR_CHARS_MAX)? },
            Self::Extend => Verdict::Extend { lease_ms: fields.number("lease_ms", LEASE_MS_MIN, LEASE_MS_MAX)? },
        })
    }
}

/// The tokens of a request.
pub(crate) fn tokens(fields: &mut Fields, name: &'static str) -> Result<Vec<String>, Problem> {
    let tokens = fields.texts(name, TOKENS_MAX, TOKEN_TEXT_MAX)?.filter(|tokens| !tokens.is_empty());
    tokens.ok_or_else(|| Problem::field(name, format!("1 to {TOKENS_MAX} tokens"), "nothing"))
}

/// Answers deliveries; one result a token.
pub(crate) async fn answered(
    app: &App,
    record: &PullRecord,
    tokens: Vec<String>,
    verdict: Verdict,
) -> Result<Value, Problem> {
    let judged = app.hub.answer_deliveries(record, &tokens, verdict).await?;
    let result = |(token, judged): (String, Judged)| {
        let (status, due_at, lease_until) = match judged {
            Judged::Acked => ("acked", None, None),
            Judged::Retried { due_at } => ("retry", Some(due_at), None),
            Judged::GivenUp => ("dead_letter", None, None),
            Judged::Extended { lease_until } => ("extended", None, Some(lease_until)),
            Judged::Stale => ("stale", None, None),
        };
        json!({
            "token": token,
            "status": status,
            "due_at": due_at.map(UnixMs::to_rfc3339),
            "lease_until": lease_until.map(UnixMs::to_rfc3339),
        })
    };
    Ok(tokens.into_iter().zip(judged).map(result).collect())
}

async fn say(call: Call, name: &str, verb: Verb) -> Answer {
    let mut caller = call.by(Scope::Consume)?;
    let org = caller.org_asked()?;
    let record = caller.hub().consumer(name, org.as_deref())?;
    let mut fields = caller.fields().await?;
    let tokens = tokens(&mut fields, "tokens")?;
    let verdict = verb.verdict(&mut fields)?;
    fields.finish()?;
    let results = answered(&caller.app, &record, tokens, verdict).await?;
    Ok(json(StatusCode::OK, &json!({ "results": results })))
}

/// `POST /v1/consumers/{name}/ack`
pub(crate) async fn ack(call: Call, name: web::Path<String>) -> Answer {
    say(call, &name, Verb::Ack).await
}

/// `POST /v1/consumers/{name}/nak`
pub(crate) async fn nak(call: Call, name: web::Path<String>) -> Answer {
    say(call, &name, Verb::Nak).await
}

/// `POST /v1/consumers/{name}/term`
pub(crate) async fn term(call: Call, name: web::Path<String>) -> Answer {
    say(call, &name, Verb::Term).await
}

/// `POST /v1/consumers/{name}/extend`
pub(crate) async fn extend(call: Call, name: web::Path<String>) -> Answer {
    say(call, &name, Verb::Extend).await
}
