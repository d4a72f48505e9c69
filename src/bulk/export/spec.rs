//! What an export does and how far it has come, as it is kept with the job; the header line of its parts.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::bulk::{CONTRACT_VERSION, Compression, FORMAT};
use crate::cdc::cursor::Cursor;
use crate::cdc::filter::FeedFilter;
use crate::event::envelope::Event;
use crate::event::filter::{Decision, EventFilter};
use crate::ground::clock::UnixMs;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::ids::Seq;
use crate::lookup::Wanted;

/// An export of a range of the log. A clause that is not given does not narrow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportSpec {
    /// What fits.
    pub filter: EventFilter,
    /// The first position.
    pub from: Seq,
    /// The last position.
    pub to: Seq,
    /// Received at or after.
    pub from_time: Option<UnixMs>,
    /// Received before.
    pub to_time: Option<UnixMs>,
    /// How the parts are packed.
    pub compression: Compression,
    /// Bytes of a part before they are packed, besides at least one event.
    pub part_bytes: u64,
}

impl ExportSpec {
    /// Whether an event of the range fits.
    #[must_use]
    pub fn fits(&self, event: &Event) -> bool {
        self.from_time.is_none_or(|from| event.received_at >= from)
            && self.to_time.is_none_or(|to| event.received_at < to)
            && self.filter.decide(event) == Decision::Match
    }

    /// What the index of the log is asked for.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        Wanted::from(&self.filter).within(self.from_time, self.to_time)
    }

    /// Positions to look at.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.to.0.saturating_sub(self.from.prev().0)
    }

    /// The clauses as clients see them.
    #[must_use]
    pub fn filter_json(&self) -> Value {
        let EventFilter { org, event_types, channel, facility, service, expression } = &self.filter;
        json!({
            "org": org, "event_types": event_types, "channel": channel, "facility": facility, "service": service,
            "filter": expression.as_ref().map(|one| one.text()),
        })
    }

    /// The header line of a part, without its line break. `after` is the last position before the part.
    #[must_use]
    pub fn header(&self, export: &str, part: u32, after: Seq, now: UnixMs) -> Vec<u8> {
        let time = |time: Option<UnixMs>| time.map(UnixMs::to_rfc3339);
        let header = json!({ "tidegate_export": {
            "contract_version": CONTRACT_VERSION,
            "format": FORMAT,
            "audience": "export",
            "export": export,
            "part": part,
            "org": self.filter.org,
            "filter": self.filter_json(),
            "first_seq": self.from.0,
            "last_seq": self.to.0,
            "from": time(self.from_time),
            "to": time(self.to_time),
            "after_seq": after.0,
            "made_at": now.to_rfc3339(),
            "hub_version": env!("CARGO_PKG_VERSION"),
        }});
        header.to_string().into_bytes()
    }
}

/// Positions that retention had dropped before they were read, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The first.
    pub from: Seq,
    /// The last.
    pub to: Seq,
}

/// Why an export ended before its range did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stopped {
    /// It has as many bytes as one export may have, or there is no room for more of them.
    NoRoom,
    /// It has as many parts as one export may have.
    PartsMax,
}

/// Gaps that are kept one by one.
const GAPS_MAX: usize = 100;

/// How far an export has come: everything up to `at` is in parts that count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportPlace {
    /// The last position looked at.
    pub at: Seq,
    /// Parts that count.
    pub parts: u32,
    /// Bytes of the list of parts.
    pub list_bytes: u64,
    /// Events in the parts.
    pub events: u64,
    /// Bytes of the parts.
    pub bytes: u64,
    /// What was no longer there.
    pub gaps: Vec<Gap>,
    /// Further gaps, counted only.
    pub gaps_more: u64,
    /// Positions in all gaps.
    pub positions_lost: u64,
    /// Why it ended early.
    pub stopped: Option<Stopped>,
}

impl ExportPlace {
    /// The place of a job's cursor.
    ///
    /// # Errors
    /// When the text is none of ours.
    pub fn read(cursor: Option<&str>, spec: &ExportSpec) -> Result<Self, serde_json::Error> {
        match cursor {
            Some(text) => serde_json::from_str(text),
            None => Ok(Self { at: spec.from.prev(), ..Self::default() }),
        }
    }

    /// Adds a gap; one that follows the last is one with it.
    pub fn add_gap(&mut self, gap: Gap) {
        self.positions_lost += gap.to.0.saturating_sub(gap.from.0) + 1;
        let is_full = self.gaps.len() >= GAPS_MAX;
        match self.gaps.last_mut() {
            Some(last) if last.to.next() == gap.from => last.to = gap.to,
            Some(_) if is_full => self.gaps_more += 1,
            Some(_) | None => self.gaps.push(gap),
        }
    }
}

fn feed_filter(filter: &EventFilter) -> FeedFilter {
    FeedFilter::new(EventFilter { expression: None, ..filter.clone() }, None, None)
}

fn mark(filter: &EventFilter) -> Option<String> {
    filter.expression.as_ref().map(|one| format!("{:08x}", crc32c::crc32c(one.text().as_bytes())))
}

/// Where an export of this filter goes on: bound to its clauses, as a cursor of the change feed is.
#[must_use]
pub fn continuation(next: Seq, filter: &EventFilter) -> String {
    let text = Cursor { next }.to_text(&feed_filter(filter));
    mark(filter).map_or_else(|| text.clone(), |mark| format!("{text}.{mark}"))
}

/// The position at which an export of this filter goes on.
///
/// # Errors
/// When the text is none of ours, or belongs to an export of another filter.
pub fn read_continuation(text: &str, filter: &EventFilter) -> Result<Seq, Problem> {
    let (cursor, given) = text.split_once('.').map_or((text, None), |(cursor, mark)| (cursor, Some(mark)));
    let as_field = |problem: Problem| {
        // The clause is called `type` in the parameters of a feed.
        let field = problem.field.as_deref().map(|field| if field == "type" { "event_types" } else { field });
        Problem { field: field.map(str::to_owned), ..problem }.as_kind(ProblemKind::InvalidField)
    };
    let next = Cursor::read(cursor, &feed_filter(filter)).map_err(as_field)?.next;
    if mark(filter).as_deref() != given {
        let limit = "the cursor belongs to an export with another `filter`; a cursor keeps its filter";
        return Err(Problem::field("filter", limit, text));
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::filter::TypePattern;
    use crate::event::filter::expression::Expression;

    fn filter(expression: Option<&str>) -> EventFilter {
        EventFilter {
            org: Some("acme".to_owned()),
            event_types: vec![TypePattern::parse("a.*").expect("a pattern")],
            expression: expression.map(|text| Expression::parse(text).expect("compiles")),
            ..EventFilter::default()
        }
    }

    #[test]
    fn a_continuation_is_bound_to_every_clause_of_its_filter() {
        for own in [None, Some("data.n > 1")] {
            let text = continuation(Seq(42), &filter(own));
            assert_eq!(read_continuation(&text, &filter(own)), Ok(Seq(42)));
            let other = filter(Some("data.n > 2"));
            assert_eq!(read_continuation(&text, &other).expect_err("another").field.as_deref(), Some("filter"));
            let types = EventFilter { event_types: Vec::new(), ..filter(own) };
            assert_eq!(read_continuation(&text, &types).expect_err("another").field.as_deref(), Some("event_types"));
        }
        assert_eq!(read_continuation("x", &filter(None)).expect_err("none").field.as_deref(), Some("cursor"));
    }

    #[test]
    fn gaps_that_follow_each_other_are_one_and_all_are_counted() {
        let mut place = ExportPlace::default();
        place.add_gap(Gap { from: Seq(1), to: Seq(5) });
        place.add_gap(Gap { from: Seq(6), to: Seq(6) });
        for n in 0..150_u64 {
            place.add_gap(Gap { from: Seq(10 + n * 2), to: Seq(10 + n * 2) });
        }
        assert_eq!(place.gaps[0], Gap { from: Seq(1), to: Seq(6) });
        assert_eq!((place.gaps.len(), place.gaps_more, place.positions_lost), (100, 51, 156));
    }

    #[test]
    fn a_header_line_begins_with_its_mark_and_names_the_contract() {
        let spec = ExportSpec {
            filter: filter(Some("data.n > 1")),
            from: Seq(1),
            to: Seq(9),
            from_time: None,
            to_time: Some(UnixMs(1_795_248_000_000)),
            compression: Compression::None,
            part_bytes: 1,
        };
        let line = spec.header("job_1", 3, Seq(7), UnixMs(1_795_248_000_000));
        assert!(line.starts_with(crate::bulk::HEADER_MARK.as_bytes()));
        insta::assert_snapshot!(String::from_utf8(line).expect("text"));
        assert_eq!(spec.total(), 9);
    }
}
