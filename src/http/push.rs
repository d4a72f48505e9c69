//! `GET /v1/consumers/{name}/stream`: deliveries of a pull consumer as server-sent events (INB-5).
//!
//! Each event has the position as its id and the delivery as its data. Answers go over the POST endpoints; each one makes
//! room for another delivery. A comment now and then says that the stream is alive. The last event, `end`, says why it ends.

use std::pin::pin;
use std::time::Duration;

use actix_web::http::header::{CACHE_CONTROL, HeaderName};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::stream::poll_fn;
use serde_json::json;
use tokio::sync::mpsc;

use super::Shared;
use super::answer::Answer;
use super::auth::{Principal, authorize};
use super::params::Params;
use crate::ground::context::scoped_org;
use crate::ground::error::{Problem, ProblemKind};
use crate::hub::{Consuming, DeliveryForm, PULL_MAX, Scope};
use crate::pull::state::Taking;
use crate::pull::{ClientKind, Handed};

/// Unanswered deliveries of a stream that does not say.
pub(crate) const MAX_DEFAULT: usize = 32;
/// What the client is told to wait before it comes again.
const RECONNECT: &str = "retry: 1000\n\n";

/// What one stream works with.
struct Feed {
    app: Shared,
    principal: Principal,
    consuming: Consuming,
    most: usize,
    form: DeliveryForm,
    out: mpsc::Sender<Bytes>,
}

/// `GET /v1/consumers/{name}/stream`
pub(crate) async fn stream(app: Shared, request: HttpRequest, name: web::Path<String>) -> Answer {
    let principal = authorize(&app, &request, Scope::Consume)?;
    let params = Params::read(&request, &["org", "max", "format"])?;
    let org = scoped_org(params.text("org"), principal.org())?;
    let most = params.number("max", 1, PULL_MAX as u64)?;
    let form = match params.get("format") {
        None | Some("envelope") => DeliveryForm::Envelope,
        Some("standard") => DeliveryForm::Standard,
        Some(other) => {
            let problem = Problem::field("format", "envelope or standard", other);
            return Err(problem.as_kind(ProblemKind::InvalidParameter).into());
        }
    };
    let record = app.hub.consumer(&name, org.as_deref())?;
    let consuming = app.hub.consume(&record, ClientKind::Sse)?;
    let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(MAX_DEFAULT);
    // One piece at a time: what the client does not take stays where it can be given back.
    let (out, mut pieces) = mpsc::channel(1);
    actix_web::rt::spawn(Feed { app, principal, consuming, most, form, out }.run());
    let body = poll_fn(move |context| pieces.poll_recv(context).map(|piece| piece.map(Ok::<Bytes, actix_web::Error>)));
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((HeaderName::from_static("x-accel-buffering"), "no"))
        .streaming(body))
}

/// An event of the stream. A line break within JSON text is space between its parts, and begins a line of its own here.
fn event(head: &str, data: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(head.len() + data.len() + 16);
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(b"data: ");
    for byte in data {
        match byte {
            b'\r' => {}
            b'\n' => out.extend_from_slice(b"\ndata: "),
            other => out.push(*other),
        }
    }
    out.extend_from_slice(b"\n\n");
    Bytes::from(out)
}

impl Feed {
    async fn run(self) {
        let hub = self.app.hub.clone();
        let heartbeat = Duration::from_millis(hub.config().pull.heartbeat_ms);
        let mut closing = pin!(hub.feeds_closed());
        let mut deliveries = self.consuming.stream(Taking::Replenished, self.most);
        let mut alive = self.send(Bytes::from_static(RECONNECT.as_bytes())).await;
        while alive {
            tokio::select! {
                biased;
                () = &mut closing => return self.end("the hub is stopping").await,
                () = self.out.closed() => return,
                handed = deliveries.next() => match handed {
                    Some(handed) => alive = self.deliver(handed).await,
                    None => return self.end("the consumer was deleted or is being restarted").await,
                },
                () = hub.clock().sleep(heartbeat) => {
                    if !self.principal.may_go_on(&self.app) {
                        return self.end("the key is not valid any more").await;
                    }
                    alive = self.send(Bytes::from_static(b": alive\n\n")).await;
                }
            }
        }
    }

    /// True when the client has taken it; else it is given back.
    async fn deliver(&self, handed: Handed) -> bool {
        let text = self.consuming.render(&handed, self.form);
        let taken = self.send(event(&format!("id: {}\n", handed.event.seq), &text)).await;
        if taken {
            handed.ticket.abandon();
        }
        taken
    }

    async fn end(&self, reason: &str) {
        let told = self.send(event("event: end\n", json!({ "reason": reason }).to_string().as_bytes())).await;
        tracing::debug!(reason, told, "a stream of deliveries ends");
    }

    /// False when the client has gone, or takes nothing for too long.
    async fn send(&self, piece: Bytes) -> bool {
        let timeout = Duration::from_millis(self.app.hub.config().pull.send_timeout_ms);
        tokio::select! {
            sent = self.out.send(piece) => sent.is_ok(),
            () = self.app.hub.clock().sleep(timeout) => {
                tracing::info!("a client does not take its deliveries; its stream ends");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_data_are_lines_of_the_event() {
        let text = event("id: 7\n", b"{\r\n \"a\": 1}\n");
        assert_eq!(&text[..], b"id: 7\ndata: {\ndata:  \"a\": 1}\ndata: \n\n");
    }
}
