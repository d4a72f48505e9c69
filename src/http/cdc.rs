//! `GET /v1/cdc`: the change feed, by pages, as server-sent events and as NDJSON (CDC-1..3).
//!
//! A stream is read only as fast as its client takes it: the next piece is made when the last one has gone out, and in
//! between the stream is a place in the log. It wakes when the log grows, and ends when the hub stops, when its key is
//! revoked, or when nothing more can come.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{ACCEPT, CACHE_CONTROL, HeaderName};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::watch;

use super::answer::{Answer, text};
use super::auth::{Principal, authorize};
use super::params::{LIMIT_DEFAULT, LIMIT_MAX, Params, refuse};
use super::{Listener, Shared};
use crate::cdc::cursor::Cursor;
use crate::cdc::feed::{Reading, StreamPlace, gone};
use crate::cdc::filter::FeedFilter;
use crate::cdc::start::Start;
use crate::cdc::wire::{self, Form};
use crate::event::filter::{EventFilter, TypePattern};
use crate::ground::context::scoped_org;
use crate::ground::error::Problem;
use crate::ground::ids::Seq;
use crate::hub::{Scope, store_problem};
use crate::store::{EventLog as _, StoreError};

/// The parameters of the feed.
pub(super) const PARAMETERS: &[&str] =
    &["org", "service", "channel", "facility", "type", "from", "to", "start", "cursor", "limit", "follow"];
/// Most type patterns of a feed.
const TYPES_MAX: usize = 20;
/// Pause before a store that is being opened again is asked again.
const STORE_PAUSE: Duration = Duration::from_millis(200);

/// The form that the client accepts; none for a page.
fn form(request: &HttpRequest) -> Option<Form> {
    let accepted = request.headers().get(ACCEPT)?.to_str().ok()?.to_ascii_lowercase();
    let takes = |kind: &str| accepted.split(',').any(|one| one.split(';').next().is_some_and(|one| one.trim() == kind));
    if takes("text/event-stream") {
        Some(Form::Sse)
    } else if takes("application/x-ndjson") || takes("application/ndjson") || takes("application/jsonl") {
        Some(Form::Ndjson)
    } else {
        None
    }
}

/// Patterns separated by commas.
fn event_types(text: &str) -> Result<Vec<TypePattern>, Problem> {
    let patterns = text.split(',').map(|pattern| {
        TypePattern::parse(pattern).map_err(|problem| refuse("type", problem.limit.unwrap_or(problem.detail), pattern))
    });
    let patterns: Vec<_> = patterns.collect::<Result<_, _>>()?;
    if patterns.len() > TYPES_MAX {
        return Err(refuse("type", format!("at most {TYPES_MAX} patterns"), text));
    }
    Ok(patterns)
}

fn filter(app: &Shared, params: &Params, principal: &Principal) -> Result<FeedFilter, Problem> {
    let org = scoped_org(params.text("org"), principal.org())?;
    if org.is_none() && app.listener == Listener::Public {
        return Err(refuse("org", "required: which tenant's events", "nothing"));
    }
    let events = EventFilter {
        org,
        event_types: params.get("type").map(event_types).transpose()?.unwrap_or_default(),
        channel: params.text("channel"),
        facility: params.text("facility"),
        service: params.text("service"),
        ..EventFilter::default()
    };
    Ok(FeedFilter::new(events, params.time("from")?, params.time("to")?))
}

/// Where the client goes on or begins; true when it named the place itself, so that nothing may be missing there.
async fn place(
    app: &Shared,
    request: &HttpRequest,
    params: &Params,
    filter: &FeedFilter,
    form: Option<Form>,
) -> Result<(Seq, bool), Problem> {
    let last_id = request.headers().get(HeaderName::from_static("last-event-id"));
    let last_id =
        last_id.filter(|_| form == Some(Form::Sse)).and_then(|id| id.to_str().ok()).filter(|id| !id.is_empty());
    if let Some(text) = last_id.or(params.get("cursor")) {
        return Ok((Cursor::read(text, filter)?.next, true));
    }
    let start = params.get("start").map(Start::parse).transpose()?.unwrap_or_default();
    let at = app.hub.feed().place(start).await.map_err(|error| store_problem(&error))?;
    Ok((at, matches!(start, Start::Seq(_))))
}

/// `GET /v1/cdc`
pub(crate) async fn feed(app: Shared, request: HttpRequest) -> Answer {
    let principal = authorize(&app, &request, Scope::Consume)?;
    let params = Params::read(&request, PARAMETERS)?;
    let form = form(&request);
    let filter = Arc::new(filter(&app, &params, &principal)?);
    let limit = params.limit_within(LIMIT_DEFAULT, LIMIT_MAX)?;
    let follow = match (form, params.get("follow")) {
        (None, Some(sent)) => {
            return Err(refuse("follow", "for streams: accept text/event-stream or NDJSON", sent).into());
        }
        (Some(Form::Sse), None) => true,
        (Some(_), Some(_)) => params.flag("follow")?,
        (Some(Form::Ndjson) | None, None) => false,
    };
    let (at, named) = place(&app, &request, &params, &filter, form).await?;
    let earliest = app.hub.engine().earliest();
    if named && at < earliest {
        return Err(gone(at, earliest, &filter).into());
    }
    match form {
        None => page(&app, &filter, at, named, limit).await,
        Some(form) => {
            let place = app.hub.feed().open_stream()?;
            Ok(Follower::new(&app, principal, filter, at, form, follow, place).answer())
        }
    }
}

async fn page(app: &Shared, filter: &Arc<FeedFilter>, at: Seq, named: bool, limit: usize) -> Answer {
    let chunk = app.hub.feed().read(filter, at, Reading::Page(limit)).await.map_err(|error| store_problem(&error))?;
    let chunk = chunk.redacted(app.hub.redactor());
    match chunk.gap_to {
        Some(gap_to) if named => Err(gone(at, gap_to, filter).into()),
        Some(_) | None => {
            app.hub.metrics().cdc_events.with_label_values(&["page"]).inc_by(chunk.events.len() as u64);
            Ok(text(StatusCode::OK, wire::page(&chunk, filter)))
        }
    }
}

/// One stream.
struct Follower {
    app: Shared,
    principal: Principal,
    filter: Arc<FeedFilter>,
    form: Form,
    follow: bool,
    next: Seq,
    growth: watch::Receiver<Seq>,
    ending: watch::Receiver<bool>,
    begun: bool,
    ended: bool,
    /// When the client last heard something.
    told_ns: u64,
    _place: StreamPlace,
}

/// What woke a stream that had nothing to tell.
enum Woken {
    Growth,
    Silence,
    End,
}

impl Follower {
    fn new(
        app: &Shared,
        principal: Principal,
        filter: Arc<FeedFilter>,
        next: Seq,
        form: Form,
        follow: bool,
        place: StreamPlace,
    ) -> Self {
        Self {
            principal,
            filter,
            form,
            follow,
            next,
            growth: app.hub.feed().growth(),
            ending: app.ending.clone(),
            begun: false,
            ended: false,
            told_ns: app.hub.clock().monotonic_ns(),
            app: app.clone(),
            _place: place,
        }
    }

    fn answer(self) -> HttpResponse {
        let form = self.form;
        let pieces = stream::unfold(self, |mut follower| async move {
            let piece = follower.piece().await?;
            Some((Ok::<_, actix_web::Error>(piece), follower))
        });
        HttpResponse::Ok()
            .content_type(form.content_type())
            .insert_header((CACHE_CONTROL, "no-store"))
            .insert_header((HeaderName::from_static("x-accel-buffering"), "no"))
            .streaming(pieces)
    }

    fn heartbeat(&mut self) -> Bytes {
        self.told_ns = self.app.hub.clock().monotonic_ns();
        self.form.heartbeat(self.next, &self.filter)
    }

    fn is_silent(&self) -> bool {
        let silent = self.app.hub.clock().monotonic_ns().saturating_sub(self.told_ns);
        Duration::from_nanos(silent) >= self.app.hub.feed().heartbeat()
    }

    /// The next bytes of the stream; none at its end.
    async fn piece(&mut self) -> Option<Bytes> {
        if !std::mem::replace(&mut self.begun, true) && !self.form.prelude().is_empty() {
            return Some(self.form.prelude());
        }
        loop {
            if self.ended || *self.ending.borrow() || !self.principal.may_go_on(&self.app) {
                return None;
            }
            // Before reading, so that what comes meanwhile wakes the next wait.
            self.growth.borrow_and_update();
            let chunk = match self.app.hub.feed().read(&self.filter, self.next, Reading::Piece).await {
                Ok(chunk) => chunk.redacted(self.app.hub.redactor()),
                Err(StoreError::Unavailable | StoreError::Engine(_)) => {
                    self.app.hub.clock().sleep(STORE_PAUSE).await;
                    continue;
                }
                Err(error) => {
                    tracing::error!(%error, at = self.next.0, "a stream of the change feed ends early");
                    return None;
                }
            };
            let from = self.next;
            self.next = chunk.next;
            if !chunk.events.is_empty() || chunk.gap_to.is_some() {
                let label = if self.form == Form::Sse { "sse" } else { "ndjson" };
                let metrics = self.app.hub.metrics();
                metrics.cdc_events.with_label_values(&[label]).inc_by(chunk.events.len() as u64);
                self.told_ns = self.app.hub.clock().monotonic_ns();
                return Some(self.form.piece(&chunk, from, &self.filter));
            }
            if chunk.has_more {
                if self.is_silent() {
                    return Some(self.heartbeat());
                }
                tokio::task::yield_now().await;
                continue;
            }
            if !self.follow || self.filter.is_over(self.app.hub.clock().now()) {
                self.ended = true;
                return Some(self.heartbeat());
            }
            match self.wait().await {
                Woken::Growth if self.is_silent() => return Some(self.heartbeat()),
                Woken::Growth => {}
                Woken::Silence => return Some(self.heartbeat()),
                Woken::End => return None,
            }
        }
    }

    async fn wait(&mut self) -> Woken {
        let silence = self.app.hub.clock().sleep(self.app.hub.feed().heartbeat());
        tokio::select! {
            grown = self.growth.changed() => if grown.is_ok() { Woken::Growth } else { Woken::End },
            () = silence => Woken::Silence,
            _ = self.ending.changed() => Woken::End,
        }
    }
}
