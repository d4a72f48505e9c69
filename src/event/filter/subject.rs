//! An event as filters look at it.

use std::cell::OnceCell;

use crate::event::envelope::{Event, Span};
use crate::event::json::tree::Json;

/// One event, under the eyes of any number of filters: each part of its JSON is parsed when the first of them asks for
/// it, once, and forgotten with the subject. Where no filter asks, nothing is parsed.
#[derive(Debug)]
pub struct Subject<'a> {
    /// The event.
    pub event: &'a Event,
    data: OnceCell<Json<'a>>,
    metadata: OnceCell<Json<'a>>,
    source_refs: OnceCell<Json<'a>>,
    request_context: OnceCell<Json<'a>>,
}

impl<'a> Subject<'a> {
    /// The event as a subject of filters.
    #[must_use]
    pub fn new(event: &'a Event) -> Self {
        Self {
            event,
            data: OnceCell::new(),
            metadata: OnceCell::new(),
            source_refs: OnceCell::new(),
            request_context: OnceCell::new(),
        }
    }

    /// `data`; null when the event has none.
    pub fn data(&self) -> &Json<'a> {
        self.data.get_or_init(|| self.event.meta.data.map_or(Json::Null, |span| self.read(span)))
    }

    /// `metadata`, when there is one.
    pub fn metadata(&self) -> Option<&Json<'a>> {
        self.part(self.event.meta.metadata, &self.metadata)
    }

    /// `source_refs`, when there are any.
    pub fn source_refs(&self) -> Option<&Json<'a>> {
        self.part(self.event.meta.source_refs, &self.source_refs)
    }

    /// `request_context`, when there is one.
    pub fn request_context(&self) -> Option<&Json<'a>> {
        self.part(self.event.meta.request_context, &self.request_context)
    }

    /// Whether the data has been parsed.
    #[must_use]
    pub fn has_parsed_data(&self) -> bool {
        self.data.get().is_some()
    }

    fn read(&self, span: Span) -> Json<'a> {
        let event: &'a Event = self.event;
        Json::read(event.text(span))
    }

    fn part<'s>(&'s self, span: Option<Span>, place: &'s OnceCell<Json<'a>>) -> Option<&'s Json<'a>> {
        span.map(|span| place.get_or_init(|| self.read(span)))
    }
}
