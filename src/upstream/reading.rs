//! Reads as they are answered (UPS-3, UPS-4): from the cache, from the upstream, from an old answer, or in a page that says
//! that there is none.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::adapter::AdapterContext;
use super::cache::{Entry, Fetched, Keep, key};
use super::call::{About, Attempts, Call, CallError, CallErrorKind};
use super::read::{Malformed, Prepared, Read, Span};
use super::series::{Fallback, Permanent, Series};
use super::service::{Registered, Upstreams};
use super::told::{self, Line};
use crate::ground::error::Problem;

/// What is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// The values of the read's parameters.
    pub values: BTreeMap<String, String>,
    /// How many items of a page, as it was sent.
    pub limit: Option<String>,
    /// From where on, as it was sent.
    pub offset: Option<String>,
}

/// Why a read has no answer.
#[derive(Clone, Debug, PartialEq)]
pub enum ReadError {
    /// The question does not fit.
    Question(Problem),
    /// The upstream gave none.
    Call(CallError),
}

/// An answer for the caller, and how it was come by.
enum Outcome {
    Fresh(Arc<Entry>),
    Hit(Arc<Entry>),
    Stale(Arc<Entry>),
}

impl Outcome {
    /// The answer, and whether it is an old one; it is counted as what it is.
    fn counted(self, series: &Series) -> (Arc<Entry>, bool) {
        match self {
            Self::Fresh(entry) => {
                if entry.body.is_some() {
                    series.found();
                } else {
                    series.fell_back(Fallback::NotFound);
                }
                (entry, false)
            }
            Self::Hit(entry) => {
                series.hit();
                (entry, false)
            }
            Self::Stale(entry) => {
                series.served_stale();
                (entry, true)
            }
        }
    }
}

/// Which of the parameters the log may name.
fn about(read: &Read, values: &BTreeMap<String, String>) -> About {
    let of = |name: &str| values.get(name).cloned();
    let first = || read.path.parameters().next().and_then(of);
    About {
        event_type: None,
        external_id: of("externalId").or_else(first),
        contact_id: of("contactId"),
        withheld: false,
    }
}

impl Upstreams {
    /// Answers a read of an upstream.
    ///
    /// # Errors
    /// When the question does not fit, or the upstream gives no answer and there is no old one. A page has no error of
    /// the upstream: it says that it is not available.
    pub async fn read(
        &self,
        upstream: &Arc<Registered>,
        name: &str,
        read: &Arc<Read>,
        question: &Question,
        context: AdapterContext,
    ) -> Result<Value, ReadError> {
        let span = read.page.as_ref().map(|page| page.span(question.limit.as_deref(), question.offset.as_deref()));
        let prepared = read.prepare(&question.values, span).map_err(ReadError::Question)?;
        let mut call = Call::get(name, prepared.path.clone());
        call.attempts = Attempts::Policy;
        call.about = about(read, &question.values);
        let outcome = self.answer(upstream, name, read, &prepared, span, &call, context).await;
        match (&read.page, span) {
            (Some(page), Some(span)) => Ok(self.page(upstream, page, span, outcome)),
            (Some(_) | None, _) => self.single(upstream, read, outcome),
        }
    }

    fn single(
        &self,
        upstream: &Registered,
        read: &Read,
        outcome: Result<Outcome, CallError>,
    ) -> Result<Value, ReadError> {
        let series = &upstream.core.series;
        let (entry, stale) = match outcome {
            Ok(outcome) => {
                let (entry, stale) = outcome.counted(series);
                (Some(entry), stale)
            }
            Err(error) if error.kind == CallErrorKind::Malformed => {
                series.fell_back(Fallback::Malformed);
                (None, false)
            }
            Err(error) => {
                if error.kind == CallErrorKind::Auth {
                    series.gave_up(Permanent::Auth);
                }
                return Err(ReadError::Call(error));
            }
        };
        let body = entry.as_ref().and_then(|entry| entry.body.as_ref());
        let malformed = |Malformed(what)| ReadError::Call(CallError::malformed(format!("the answer is not {what}")));
        read.answer(body, stale).map_err(malformed)
    }

    fn page(
        &self,
        upstream: &Registered,
        page: &super::read::Paging,
        span: Span,
        outcome: Result<Outcome, CallError>,
    ) -> Value {
        let series = &upstream.core.series;
        let (entry, stale) = match outcome {
            Ok(outcome) => outcome.counted(series),
            Err(error) => {
                if error.kind == CallErrorKind::Auth {
                    series.gave_up(Permanent::Auth);
                }
                let malformed = error.kind == CallErrorKind::Malformed;
                series.fell_back(if malformed { Fallback::Malformed } else { Fallback::Unavailable });
                return page.envelope(None, span, false);
            }
        };
        // What is kept was a page when it was fetched; what the upstream has not is an empty one.
        let answer =
            entry.body.as_ref().map_or_else(|| Ok(super::read::PageAnswer::default()), |body| page.page(body, span));
        page.envelope(answer.ok().as_ref(), span, stale)
    }

    #[expect(clippy::too_many_arguments, reason = "one caller; each is a part of the one question")]
    async fn answer(
        &self,
        upstream: &Arc<Registered>,
        name: &str,
        read: &Arc<Read>,
        prepared: &Prepared,
        span: Option<Span>,
        call: &Call,
        context: AdapterContext,
    ) -> Result<Outcome, CallError> {
        let served = upstream.core.served.load_full();
        // An upstream of one tenant has one set of answers; one that serves several keeps them apart (UP-4).
        let tenant = if served.org.is_some() { None } else { Some(context.tenant.clone().unwrap_or_default()) };
        let key = key(&upstream.core.id, name, tenant.as_deref(), upstream.generation(), &prepared.key);
        let place = served.adapter.place(call);
        let line = Line { app: &upstream.core.id, call, place: &place, attempt: 0 };
        let now = self.parts.clock.now();
        let before = self.cache.get(&key).await;
        if let Some(entry) = before.as_ref().filter(|entry| entry.age_ms(now) < read.cache_ms) {
            told::hit(line, entry.age_ms(now));
            return Ok(Outcome::Hit(Arc::clone(entry)));
        }
        let keep = if read.cache_ms > 0 { Keep::Yes } else { Keep::No };
        let fetch =
            Self::fetch(self.clone(), Arc::clone(upstream), Arc::clone(read), span, key.clone(), call.clone(), context);
        match self.cache.fetch(&key, &upstream.arbiter, keep, fetch).await {
            Ok(entry) => Ok(Outcome::Fresh(entry)),
            Err(error) if error.kind.is_down() => {
                let now = self.parts.clock.now();
                let old_enough = read.cache_ms.saturating_add(read.stale_ms);
                let usable = before.filter(|entry| entry.age_ms(now) < old_enough);
                let Some(entry) = usable else { return Err(error) };
                told::served_stale(line, entry.age_ms(now), &error);
                Ok(Outcome::Stale(entry))
            }
            Err(error) => Err(error),
        }
    }

    /// Asks the upstream. What cannot become the read's answer is malformed and is not kept.
    async fn fetch(
        self,
        upstream: Arc<Registered>,
        read: Arc<Read>,
        span: Option<Span>,
        key: String,
        call: Call,
        context: AdapterContext,
    ) -> Fetched {
        let now = self.parts.clock.now();
        // Another fetch may have ended between the look and this one (RC-1).
        if let Some(entry) = self.cache.get(&key).await.filter(|entry| entry.age_ms(now) < read.cache_ms) {
            return Ok(entry);
        }
        let answer = match upstream.ask(call.clone(), context).await {
            Ok(answer) => answer,
            Err(error) if error.kind == CallErrorKind::NotFound => {
                return Ok(Arc::new(Entry::new(None, self.parts.clock.now())));
            }
            Err(error) => return Err(error),
        };
        let fits = match (&read.page, span) {
            (Some(page), Some(span)) => page.page(&answer.body, span).map(|_| ()),
            (Some(_) | None, _) => read.answer(Some(&answer.body), false).map(|_| ()),
        };
        if let Err(malformed) = fits {
            let place = upstream.core.served.load().adapter.place(&call);
            let line = Line { app: &upstream.core.id, call: &call, place: &place, attempt: answer.attempts };
            told::malformed(line, Some(answer.status), &malformed.to_string(), "");
            return Err(CallError::malformed(malformed.to_string()).with_status(answer.status));
        }
        Ok(Arc::new(Entry::new(Some(answer.body), self.parts.clock.now())))
    }
}
