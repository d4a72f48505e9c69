//! A place in a feed, bound to the feed's filter (CDC-2).
//!
//! As text: base64 (URL alphabet, no padding) of `version: u8 | next position: u64 BE | a mark per clause, u32 BE |
//! crc32c of all before: u32 BE`. It grants nothing: whoever shows it needs a key for the org that it names by its mark.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::filter::{CLAUSES, FeedFilter};
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::ids::Seq;

const VERSION: u8 = 1;
const BYTES: usize = 1 + 8 + CLAUSES.len() * 4 + 4;

/// Before this position everything in the feed was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The first position that was not looked at.
    pub next: Seq,
}

fn refuse(field: &str, limit: String, sent: &str) -> Problem {
    Problem::field(field, limit, sent).as_kind(ProblemKind::InvalidParameter)
}

impl Cursor {
    /// Its text, for a feed of this filter.
    #[must_use]
    pub fn to_text(self, filter: &FeedFilter) -> String {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.next.0.to_be_bytes());
        filter.marks().iter().for_each(|mark| bytes.extend_from_slice(&mark.to_be_bytes()));
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_be_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a text that a feed of this filter has given out.
    ///
    /// # Errors
    /// [`ProblemKind::InvalidParameter`]: of `cursor` when it is none of ours or was changed; of the clause that differs
    /// when it belongs to a feed of another filter.
    pub fn read(text: &str, filter: &FeedFilter) -> Result<Self, Problem> {
        let parts = Self::parts(text);
        let (next, marks) =
            parts.ok_or_else(|| refuse("cursor", "one that this feed has given out, unchanged".to_owned(), text))?;
        let differs = CLAUSES.iter().zip(marks.iter().zip(filter.marks())).find(|(_, (then, now))| **then != *now);
        if let Some((clause, _)) = differs {
            let limit = format!("the cursor belongs to a feed with another `{clause}`; a cursor keeps its filter");
            return Err(refuse(clause, limit, text));
        }
        Ok(Self { next })
    }

    fn parts(text: &str) -> Option<(Seq, [u32; CLAUSES.len()])> {
        let bytes: [u8; BYTES] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        let (content, sum) = bytes.split_last_chunk::<4>()?;
        let (version, content) = content.split_first()?;
        let (next, marks) = content.split_first_chunk::<8>()?;
        let sound = crc32c::crc32c(&bytes[..BYTES - 4]).to_be_bytes() == *sum && *version == VERSION;
        let mut read = [0; CLAUSES.len()];
        for (mark, bytes) in read.iter_mut().zip(marks.as_chunks::<4>().0) {
            *mark = u32::from_be_bytes(*bytes);
        }
        sound.then(|| (Seq(u64::from_be_bytes(*next)), read))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::filter::{EventFilter, TypePattern};
    use crate::ground::clock::UnixMs;

    fn full() -> (EventFilter, Option<UnixMs>, Option<UnixMs>) {
        let text = |text: &str| Some(text.to_owned());
        let events = EventFilter {
            org: text("acme"),
            event_types: vec![TypePattern::parse("order.*").expect("a pattern")],
            channel: text("web"),
            facility: text("berlin"),
            service: text("billing"),
            ..EventFilter::default()
        };
        (events, Some(UnixMs(1)), Some(UnixMs(2)))
    }

    fn filter((events, from, to): (EventFilter, Option<UnixMs>, Option<UnixMs>)) -> FeedFilter {
        FeedFilter::new(events, from, to)
    }

    #[test]
    fn a_cursor_comes_back_with_its_filter_and_lies_as_it_always_did() {
        let cursor = Cursor { next: Seq(12_345_678_901) };
        let text = cursor.to_text(&filter(full()));
        insta::assert_snapshot!(text);
        assert_eq!(Cursor::read(&text, &filter(full())), Ok(cursor));
    }

    #[test]
    fn another_filter_is_refused_by_the_name_of_the_clause() {
        let text = Cursor { next: Seq(7) }.to_text(&filter(full()));
        let none = EventFilter::default;
        for (clause, other) in [
            ("org", FeedFilter::new(EventFilter { org: Some("globex".to_owned()), ..full().0 }, full().1, full().2)),
            ("service", FeedFilter::new(EventFilter { service: None, ..full().0 }, full().1, full().2)),
            (
                "channel",
                FeedFilter::new(EventFilter { channel: Some("web2".to_owned()), ..full().0 }, full().1, full().2),
            ),
            ("facility", FeedFilter::new(EventFilter { facility: None, ..full().0 }, full().1, full().2)),
            ("type", FeedFilter::new(EventFilter { event_types: Vec::new(), ..full().0 }, full().1, full().2)),
            ("from", FeedFilter::new(full().0, None, full().2)),
            ("to", FeedFilter::new(full().0, full().1, Some(UnixMs(3)))),
            ("org", FeedFilter::new(none(), None, None)),
        ] {
            let problem = Cursor::read(&text, &other).expect_err(clause);
            assert_eq!((problem.kind, problem.field.as_deref()), (ProblemKind::InvalidParameter, Some(clause)));
        }
    }

    #[test]
    fn a_text_that_was_changed_anywhere_is_refused() {
        let text = Cursor { next: Seq(7) }.to_text(&filter(full()));
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("text");
            let problem = Cursor::read(&changed, &filter(full())).expect_err(&changed);
            assert_eq!(problem.field.as_deref(), Some("cursor"), "{changed}");
        }
        for other in ["", "7", "x y", "=", &text[1..], &format!("{text}A"), &format!("{text}=")] {
            assert_eq!(Cursor::read(other, &filter(full())).expect_err(other).field.as_deref(), Some("cursor"));
        }
    }
}
