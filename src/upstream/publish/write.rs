//! The call that an event becomes: the rule's patterns and template filled, with the two headers every write carries (UPS-6).
//!
//! - `PW-1` The idempotency key is made of the upstream, the rule, and the event's org and id alone: it is the same on every
//!   attempt, after a restart, after a redrive, and after the rule was changed.
//! - `PW-2` The correlation id is the event's own, or made of its org and id.
//! - `PW-3` Nothing is sent whose body is no JSON or has an empty member that must be filled.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::pattern::{Unfilled, visible};
use super::rule::{BodyForm, PublishRule};
use crate::event::cloudevents::{STRUCTURED, source_of};
use crate::event::envelope::{BodyFormat, Event};
use crate::event::filter::path::FieldPath;
use crate::event::filter::subject::Subject;
use crate::ground::error::Problem;
use crate::upstream::call::{About, Attempts, Call, Expects, Method, Payload};
use crate::webhook::template::{self, Template};

/// Longest correlation id that goes out, in bytes.
const CORRELATION_BYTES_MAX: usize = 512;

/// Why an event makes no call. Another attempt makes none either.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WriteFault(String);

impl From<Unfilled> for WriteFault {
    fn from(unfilled: Unfilled) -> Self {
        Self(unfilled.0)
    }
}

/// A rule, ready to make calls.
#[derive(Clone, Debug)]
pub struct Writer {
    upstream: String,
    rule: PublishRule,
    body: Option<Arc<Template>>,
}

/// A call and what it is part of.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// The call.
    pub call: Call,
    /// Sent as `X-Correlation-ID`.
    pub correlation_id: String,
}

impl Writer {
    /// A rule of this upstream.
    ///
    /// # Errors
    /// When its template does not compile: it was compiled when the rule was made.
    pub fn new(upstream: &str, rule: &PublishRule) -> Result<Self, Problem> {
        let compile = |body: &String| Template::compile(body, "application/json", "call.body").map(Arc::new);
        let body = rule.call.body.as_ref().map(compile).transpose()?;
        Ok(Self { upstream: upstream.to_owned(), rule: rule.clone(), body })
    }

    /// The rule.
    #[must_use]
    pub fn rule(&self) -> &PublishRule {
        &self.rule
    }

    /// What an event is about, in the upstream's terms.
    #[must_use]
    pub fn about(&self, event: &Event) -> About {
        let subject = Subject::new(event);
        let text = |path: &FieldPath| path.find(&subject).into_text();
        About {
            event_type: Some(event.meta.event_type.clone()),
            external_id: text(&self.rule.about.external_id),
            contact_id: self.rule.about.contact_id.as_ref().and_then(text),
            withheld: false,
        }
    }

    /// The call that an event becomes. Templates are filled where that harms nobody.
    ///
    /// # Errors
    /// When the event does not fill a place, or what comes out may not be sent (PW-3).
    pub async fn write(&self, event: &Arc<Event>) -> Result<Write, WriteFault> {
        let about = self.about(event);
        let (path, headers) = self.head(event)?;
        let body = self.body(event).await?;
        let payload = match (body, self.rule.call.format) {
            (None, _) => Payload::Nothing,
            (Some(body), BodyForm::Json) => {
                check_filled(&body, &self.rule.call.filled)?;
                Payload::Text { content_type: "application/json".to_owned(), body }
            }
            (Some(body), BodyForm::Cloudevents) => {
                check_filled(&body, &self.rule.call.filled)?;
                let body = cloud_event(event, &about, &body)?;
                Payload::Text { content_type: STRUCTURED.to_owned(), body }
            }
        };
        let call = Call {
            operation: self.rule.name.clone(),
            method: self.rule.call.method,
            path,
            headers,
            payload,
            idempotency_key: Some(idempotency_key(&self.upstream, &self.rule.name, event)),
            expects: Expects::Anything,
            attempts: Attempts::Once,
            about,
        };
        Ok(Write { call, correlation_id: correlation_id(event) })
    }

    async fn body(&self, event: &Arc<Event>) -> Result<Option<Bytes>, WriteFault> {
        match (&self.body, self.rule.call.method) {
            (Some(compiled), _) => {
                let rendered = template::render(Arc::clone(compiled), Arc::clone(event)).await;
                rendered.map(Some).map_err(|fault| WriteFault(fault.to_string()))
            }
            (None, Method::Delete | Method::Get) => Ok(None),
            (None, Method::Post | Method::Put | Method::Patch) => Ok(Some(event.rendered(BodyFormat::Raw))),
        }
    }

    fn head(&self, event: &Event) -> Result<(String, Vec<(String, String)>), WriteFault> {
        let subject = Subject::new(event);
        let path = self.rule.call.path.path(&subject)?;
        let mut headers = Vec::with_capacity(self.rule.call.headers.len());
        for (name, pattern) in &self.rule.call.headers {
            headers.push((name.clone(), pattern.header(&subject)?));
        }
        Ok((path, headers))
    }
}

/// Refuses a body in which a member that must be filled is missing, null or empty.
fn check_filled(body: &[u8], members: &[String]) -> Result<(), WriteFault> {
    if members.is_empty() {
        return Ok(());
    }
    let value: Value =
        serde_json::from_slice(body).map_err(|error| WriteFault(format!("the body is no JSON: {error}")))?;
    for name in members {
        let found = name.split('.').try_fold(&value, |at, part| at.get(part));
        let empty = match found {
            None | Some(Value::Null) => true,
            Some(Value::String(text)) => text.trim().is_empty(),
            Some(Value::Array(entries)) => entries.is_empty(),
            Some(Value::Object(members)) => members.is_empty(),
            Some(Value::Bool(_) | Value::Number(_)) => false,
        };
        if empty {
            return Err(WriteFault(format!("`{name}` of the body must not be empty")));
        }
    }
    Ok(())
}

/// The body as the data of a `CloudEvent` whose id says what happened to what, and when: who has taken it once knows it again.
fn cloud_event(event: &Event, about: &About, data: &Bytes) -> Result<Bytes, WriteFault> {
    let subject = Subject::new(event);
    let at = FieldPath::parse("timestamp", "timestamp").map(|path| path.find(&subject).into_text());
    let at = at.ok().flatten().unwrap_or_default();
    let Some(external_id) = &about.external_id else {
        return Err(WriteFault("a CloudEvent needs the external id of the event for its own id".to_owned()));
    };
    let event_type = &event.meta.event_type;
    let head = json!({
        "specversion": "1.0",
        "id": format!("{event_type}:{external_id}:{at}"),
        "source": source_of(event),
        "type": event_type,
        "subject": external_id,
        "time": at,
        "datacontenttype": "application/json",
    });
    let mut out = head.to_string().into_bytes();
    // The data goes in as it was made, number for number.
    out.pop();
    out.extend_from_slice(b",\"data\":");
    out.extend_from_slice(data);
    out.push(b'}');
    Ok(Bytes::from(out))
}

fn digest(purpose: &str, texts: &[&str]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for text in [purpose].iter().chain(texts) {
        // The length before each text: no two lists of texts make the same bytes.
        hasher.update((text.len() as u64).to_be_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.finalize().into()
}

/// The key under which the upstream knows this write again (PW-1): 32 hex digits.
#[must_use]
pub fn idempotency_key(upstream: &str, rule: &str, event: &Event) -> String {
    let made = digest("tidegate publish", &[upstream, rule, &event.meta.org, &event.meta.id]);
    hex::encode(&made[..16])
}

/// What the write is part of (PW-2): the event's correlation id, else a UUID (version 8) made of the event.
#[must_use]
pub fn correlation_id(event: &Event) -> String {
    let given = event.meta.correlation_id.as_deref().map(str::trim).filter(|text| !text.is_empty());
    if let Some(given) = given.map(visible).filter(|text| text.len() <= CORRELATION_BYTES_MAX) {
        return given;
    }
    let made = digest("tidegate correlation", &[&event.meta.org, &event.meta.id]);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&made[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::upstream::publish::rule::read_rules;
    use crate::upstream::publish::samples::{envelope, event, timeline};

    fn writer(change: impl FnOnce(&mut Value)) -> Writer {
        let mut rule = timeline();
        change(&mut rule);
        let rules = read_rules(json!([rule]), None).expect("reads");
        Writer::new("crm", &rules[0]).expect("compiles")
    }

    async fn body(writer: &Writer, event: &Arc<Event>) -> (String, Value) {
        match writer.write(event).await.expect("writes").call.payload {
            Payload::Text { content_type, body } => (content_type, serde_json::from_slice(&body).expect("JSON")),
            other => panic!("a body: {other:?}"),
        }
    }

    #[tokio::test]
    async fn a_booking_becomes_the_timeline_entry_of_the_contract() {
        let event = envelope(
            r#"{"id":"e-1","type":"booking.confirmed","org":"acme","aggregate_type":"booking","aggregate_id":"B-7",
            "occurred_at":"2026-11-21T09:00:00.999+01:00","data":{"contactId":"c-1","metadata":{"room":"12\"a"}}}"#,
        );
        let writer = writer(|_| {});
        let Write { call, .. } = writer.write(&event).await.expect("writes");
        assert_eq!((call.method, call.path.as_str()), (Method::Post, "/api/v1/timeline"));
        assert_eq!((call.operation.as_str(), call.attempts), ("timeline", Attempts::Once));
        let about =
            (call.about.event_type.as_deref(), call.about.external_id.as_deref(), call.about.contact_id.as_deref());
        assert_eq!(about, (Some("booking.confirmed"), Some("B-7"), Some("c-1")));
        let wanted = json!({"type": "booking.confirmed", "externalId": "B-7", "timestamp": "2026-11-21T08:00:00Z",
            "contactId": "c-1", "metadata": {"room": "12\"a"}});
        assert_eq!(body(&writer, &event).await, ("application/json".to_owned(), wanted));
    }

    #[tokio::test]
    async fn an_entry_with_an_empty_member_is_not_sent() {
        let bare = envelope(r#"{"type":"booking.created","org":"acme","data":{"contactId":"c-1"}}"#);
        let fault = writer(|_| {}).write(&bare).await.expect_err("no external id");
        assert_eq!(fault.to_string(), "`externalId` of the body must not be empty");
        let deep = writer(|rule| rule["call"]["filled"] = json!(["metadata.room"]));
        assert!(deep.write(&event("booking.created", r#"{"contactId":"c"}"#)).await.is_err());
        let there = event("booking.created", r#"{"contactId":"c","metadata":{"room":0}}"#);
        assert!(deep.write(&there).await.is_ok());
    }

    #[tokio::test]
    async fn as_a_cloud_event_its_id_says_what_happened_to_what_and_when() {
        let writer = writer(|rule| rule["call"]["format"] = json!("cloudevents"));
        let booked = event("booking.created", r#"{"contactId":"c-1"}"#);
        let (content_type, whole) = body(&writer, &booked).await;
        assert_eq!(content_type, "application/cloudevents+json");
        assert_eq!(whole["id"], "booking.created:B-7:2026-11-21T08:00:00Z");
        assert_eq!((&whole["specversion"], &whole["type"]), (&json!("1.0"), &json!("booking.created")));
        assert_eq!((&whole["source"], &whole["subject"]), (&json!("desk"), &json!("B-7")));
        assert_eq!(whole["data"]["externalId"], "B-7");
        let nameless = envelope(r#"{"type":"booking.created","org":"acme","data":{"contactId":"c-1"}}"#);
        let mut loose = writer.clone();
        loose.rule.call.filled.clear();
        assert!(loose.write(&nameless).await.expect_err("no id").to_string().contains("external id"));
    }

    #[tokio::test]
    async fn paths_and_headers_are_filled_and_without_a_template_the_data_goes_out_as_it_came() {
        let rule = |method: &str| json!({"method": method, "path": "/v1/orders/{data.id}?by={org}", "headers": {"X-Of": "n-{data.id}"}});
        let put = writer(|one| one["call"] = rule("PUT"));
        let placed = event("booking.created", r#"{"id": "a/1", "n": 12345678901234567890123, "contactId": "c"}"#);
        let call = put.write(&placed).await.expect("writes").call;
        assert_eq!(call.path, "/v1/orders/a%2F1?by=acme");
        assert_eq!(call.headers, [("x-of".to_owned(), "n-a/1".to_owned())]);
        let Payload::Text { body, .. } = call.payload else { panic!("a body") };
        assert_eq!(body, r#"{"id": "a/1", "n": 12345678901234567890123, "contactId": "c"}"#.as_bytes());
        let delete = writer(|one| one["call"] = rule("DELETE"));
        assert_eq!(delete.write(&placed).await.expect("writes").call.payload, Payload::Nothing);
        let lacking = event("booking.created", r#"{"contactId":"c"}"#);
        let fault = put.write(&lacking).await.expect_err("no id").to_string();
        assert!(fault.contains("the event has no `data.id`"), "{fault}");
    }

    #[tokio::test]
    async fn a_template_that_fails_on_an_event_says_why() {
        let writer = writer(|rule| rule["call"]["body"] = json!("{\"a\": \"{{ data.contactId }}\"}"));
        let fault = writer.write(&event("booking.created", r#"{"contactId":"\"x"}"#)).await.expect_err("breaks out");
        assert!(fault.to_string().contains("no JSON"), "{fault}");
    }

    #[test]
    fn the_key_is_of_the_event_and_the_rule_and_of_nothing_else() {
        let one = event("booking.created", "{}");
        let key = idempotency_key("crm", "timeline", &one);
        // Receivers hold keys for days: what makes them must not change from one version to the next.
        assert_eq!(key, "2af521864700c2dcd4c02a3d81ed9353");
        assert_eq!(key, idempotency_key("crm", "timeline", &event("booking.other", "[1]")), "the id decides");
        assert_ne!(key, idempotency_key("crm", "other", &one));
        assert_ne!(key, idempotency_key("crm2", "timeline", &one));
        let of = |id: &str, org: &str| envelope(&format!(r#"{{"id":"{id}","type":"a.b","org":"{org}"}}"#));
        assert_ne!(idempotency_key("c", "r", &of("1", "acme")), idempotency_key("c", "r", &of("1", "globex")));
        assert_ne!(idempotency_key("c", "r", &of("12", "a")), idempotency_key("c", "r", &of("2", "a1")));
    }

    #[test]
    fn the_correlation_id_is_the_events_own_or_made_of_it() {
        let of =
            |context: &str| correlation_id(&envelope(&format!(r#"{{"id":"e-1","type":"a.b","org":"acme"{context}}}"#)));
        assert_eq!(of(r#","request_context":{"correlation_id":"co-1"}"#), "co-1");
        assert_eq!(of(r#","request_context":{"correlation_id":"grün"}"#), "gr%C3%BCn");
        let made = of("");
        assert_eq!(made, of(r#","data":1"#));
        assert!(uuid::Uuid::parse_str(&made).is_ok_and(|uuid| uuid.get_version_num() == 8), "{made}");
    }
}
