//! `GET /v1/consumers/{name}/ws`: deliveries of a pull consumer over a WebSocket (INB-5).
//!
//! Frames are JSON texts. The client asks: `{"pull": n}` for so many more deliveries, `{"ack": [tokens]}`, `nak`, `term`,
//! `extend` with what goes with them, and a `ref` of its own that the answer repeats. The hub sends `{"delivery": …}`,
//! `{"results": […]}` and `{"error": problem}`. Nothing is sent that was not asked for, so a slow client holds up itself
//! alone; one that takes nothing for too long is let go.

use std::pin::pin;
use std::time::Duration;

use actix_web::http::header::UPGRADE;
use actix_web::{HttpRequest, web};
use actix_ws::{AggregatedMessage, AggregatedMessageStream, CloseCode, CloseReason, ProtocolError, Session};
use serde_json::{Value, json};

use super::Shared;
use super::answer::Answer;
use super::auth::{Principal, authorize};
use super::consumers::{Verb, answered, tokens};
use super::params::Params;
use crate::ground::clock::UnixMs;
use crate::ground::context::scoped_org;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::fields::Fields;
use crate::hub::{Consuming, Deliveries, DeliveryForm, Scope};
use crate::pull::actor::CREDIT_MAX;
use crate::pull::state::Taking;
use crate::pull::{ClientKind, Handed, PullRecord};

/// Largest frame of a client.
const FRAME_BYTES_MAX: usize = 64 << 10;
/// Frames that do not fit before the connection is closed.
const BAD_FRAMES_MAX: u32 = 16;
/// Longest `ref`.
const REF_CHARS_MAX: usize = 64;

/// Why a conversation ends, as its client is told; none when the client has gone.
type End = Option<CloseReason>;

fn end(code: CloseCode, words: &str) -> End {
    Some(CloseReason { code, description: Some(words.to_owned()) })
}

/// One connection.
struct Talk {
    app: Shared,
    principal: Principal,
    record: std::sync::Arc<PullRecord>,
    consuming: Consuming,
    session: Session,
    bad_frames: u32,
    last_heard: UnixMs,
}

/// `GET /v1/consumers/{name}/ws`
pub(crate) async fn open(app: Shared, request: HttpRequest, name: web::Path<String>, payload: web::Payload) -> Answer {
    let principal = authorize(&app, &request, Scope::Consume)?;
    let org = scoped_org(Params::read(&request, &["org"])?.text("org"), principal.org())?;
    let record = app.hub.consumer(&name, org.as_deref())?;
    let no_handshake = |sent: &str| Problem::field("upgrade", "a WebSocket handshake (RFC 6455)", sent);
    if !request.headers().contains_key(UPGRADE) {
        return Err(no_handshake("nothing").into());
    }
    let consuming = app.hub.consume(&record, ClientKind::Socket)?;
    let (response, session, messages) =
        actix_ws::handle(&request, payload).map_err(|error| no_handshake(&error.to_string()))?;
    let messages =
        messages.max_frame_size(FRAME_BYTES_MAX).aggregate_continuations().max_continuation_size(FRAME_BYTES_MAX);
    let last_heard = app.hub.clock().now();
    let talk = Talk { app, principal, record, consuming, session, bad_frames: 0, last_heard };
    actix_web::rt::spawn(talk.run(messages));
    Ok(response)
}

impl Talk {
    async fn run(mut self, messages: AggregatedMessageStream) {
        let reason = self.converse(messages).await;
        tracing::debug!(?reason, "a WebSocket of deliveries ends");
        let timeout = self.app.hub.clock().sleep(self.send_timeout());
        // The client may have gone, or take nothing.
        tokio::select! {
            closed = self.session.close(reason) => drop(closed),
            () = timeout => {}
        }
    }

    async fn converse(&mut self, mut messages: AggregatedMessageStream) -> End {
        let hub = self.app.hub.clone();
        let heartbeat = Duration::from_millis(hub.config().pull.heartbeat_ms);
        let mut closing = pin!(hub.feeds_closed());
        let mut deliveries = self.consuming.stream(Taking::Granted, 0);
        let mut tick = hub.clock().sleep(heartbeat);
        loop {
            let outcome = tokio::select! {
                biased;
                () = &mut closing => Err(end(CloseCode::Away, "the hub is stopping")),
                message = messages.recv() => self.hear(message, &deliveries).await,
                handed = deliveries.next() => match handed {
                    Some(handed) => self.deliver(handed).await,
                    None => Err(end(CloseCode::Away, "the consumer was deleted or is being restarted")),
                },
                () = &mut tick => {
                    tick = hub.clock().sleep(heartbeat);
                    self.beat().await
                }
            };
            if let Err(reason) = outcome {
                return reason;
            }
        }
    }

    fn send_timeout(&self) -> Duration {
        Duration::from_millis(self.app.hub.config().pull.send_timeout_ms)
    }

    /// Sends a text within the time for it.
    async fn send(&mut self, text: String) -> Result<(), End> {
        let timeout = self.app.hub.clock().sleep(self.send_timeout());
        tokio::select! {
            sent = self.session.text(text) => sent.map_err(|_| None),
            () = timeout => {
                tracing::info!("a client does not take its deliveries; its connection ends");
                Err(end(CloseCode::Policy, "what was sent is not taken"))
            }
        }
    }

    async fn deliver(&mut self, handed: Handed) -> Result<(), End> {
        let delivery = self.consuming.render(&handed, DeliveryForm::Envelope);
        let mut text = String::with_capacity(delivery.len() + 16);
        text.push_str("{\"delivery\":");
        text.push_str(&String::from_utf8_lossy(&delivery));
        text.push('}');
        // Dropped unsent, the delivery is given back.
        self.send(text).await?;
        handed.ticket.abandon();
        Ok(())
    }

    /// Pings; lets go of who is silent for long or has lost its key.
    async fn beat(&mut self) -> Result<(), End> {
        let now = self.app.hub.clock().now();
        if now.since_ms(self.last_heard) >= 3 * self.app.hub.config().pull.heartbeat_ms {
            return Err(end(CloseCode::Policy, "nothing was heard of the client"));
        }
        if !self.principal.may_go_on(&self.app) {
            return Err(end(CloseCode::Policy, "the key is not valid any more"));
        }
        let timeout = self.app.hub.clock().sleep(self.send_timeout());
        tokio::select! {
            sent = self.session.ping(b"") => sent.map_err(|_| None),
            () = timeout => Err(end(CloseCode::Policy, "what was sent is not taken")),
        }
    }

    async fn hear(
        &mut self,
        message: Option<Result<AggregatedMessage, ProtocolError>>,
        deliveries: &Deliveries,
    ) -> Result<(), End> {
        self.last_heard = self.app.hub.clock().now();
        match message {
            None => Err(None),
            Some(Err(ProtocolError::Overflow)) => Err(end(CloseCode::Size, "a frame is too large")),
            Some(Err(error)) => Err(end(CloseCode::Protocol, &error.to_string())),
            Some(Ok(AggregatedMessage::Text(text))) => {
                // Frames count against the rate of the key as requests do; a fast client is slowed down.
                self.principal.wait_for(&self.app, 1).await;
                self.take(text.as_bytes(), deliveries).await
            }
            Some(Ok(AggregatedMessage::Binary(bytes))) => {
                let limit = "a text of JSON";
                self.refuse(&Problem::field("frame", limit, format!("{} bytes, binary", bytes.len())), None).await
            }
            Some(Ok(AggregatedMessage::Ping(bytes))) => self.session.pong(&bytes).await.map_err(|_| None),
            Some(Ok(AggregatedMessage::Pong(_))) => Ok(()),
            Some(Ok(AggregatedMessage::Close(reason))) => Err(reason),
        }
    }

    async fn take(&mut self, text: &[u8], deliveries: &Deliveries) -> Result<(), End> {
        let mut reference = None;
        match self.perform(text, deliveries, &mut reference).await {
            Ok(None) => Ok(()),
            Ok(Some(results)) => {
                self.bad_frames = 0;
                self.send(json!({ "results": results, "ref": reference }).to_string()).await
            }
            Err(problem) => self.refuse(&problem, reference).await,
        }
    }

    /// Does what a frame asks for. Returns the results, where there are any.
    async fn perform(
        &self,
        text: &[u8],
        deliveries: &Deliveries,
        reference: &mut Option<String>,
    ) -> Result<Option<Value>, Problem> {
        let mut fields = Fields::parse(text)?;
        *reference = fields.text("ref", REF_CHARS_MAX)?;
        let asked: Vec<Verb> = Verb::ALL.into_iter().filter(|verb| fields.has(verb.as_str())).collect();
        match (fields.has("pull"), asked.as_slice()) {
            (true, []) => {
                let more = fields.number("pull", 1, CREDIT_MAX as u64)?;
                fields.finish()?;
                deliveries.grant(more.and_then(|more| usize::try_from(more).ok()).unwrap_or(0));
                Ok(None)
            }
            (false, [verb]) => {
                let tokens = tokens(&mut fields, verb.as_str())?;
                let verdict = verb.verdict(&mut fields)?;
                fields.finish()?;
                answered(&self.app, &self.record, tokens, verdict).await.map(Some)
            }
            _ => Err(Problem::field("frame", "one of pull, ack, nak, term, extend", String::from_utf8_lossy(text))),
        }
    }

    /// Tells what was wrong with a frame; too many of them end the connection.
    async fn refuse(&mut self, problem: &Problem, reference: Option<String>) -> Result<(), End> {
        self.send(json!({ "error": problem.to_json(), "ref": reference }).to_string()).await?;
        let of_frame = matches!(problem.kind, ProblemKind::InvalidField | ProblemKind::NotJson);
        self.bad_frames += u32::from(of_frame);
        if self.bad_frames >= BAD_FRAMES_MAX {
            return Err(end(CloseCode::Policy, "too many frames that do not fit"));
        }
        Ok(())
    }
}
