//! One line: a header, or an event as a producer would send it or as an export has it. Pure.
//!
//! An exported line has `seq` and `received_at`, which only the hub sets. They are cut out of its text, and the rest is
//! read by the rules of every event: what comes in is byte for byte what went out. Such an event was released when it was
//! exported, so what its envelope says of `deliver_at` and `delay` holds it back no longer.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;

use crate::bulk::{CONTRACT_VERSION, FORMAT, HEADER_MARK};
use crate::event::envelope::{Draft, Event};
use crate::event::json::{members, same_json};
use crate::event::parse::{ParseRules, not_reserved, parse_event};
use crate::event::render;
use crate::ground::clock::UnixMs;
use crate::ground::error::Problem;

/// Bytes that the hub may have added to an event when it was exported: its id, org, times and ordering key.
pub(super) const ADDED_BYTES_MAX: usize = 8 << 10;

#[derive(Deserialize)]
struct HeaderLine {
    tidegate_export: Header,
}

#[derive(Deserialize)]
struct Header {
    contract_version: u32,
    format: String,
}

/// Why a header is not taken: nothing of the file may be read by other rules than its own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct BadHeader(String);

/// Whether a line says that it is a header.
pub(super) fn is_header(line: &[u8]) -> bool {
    line.trim_ascii_start().starts_with(HEADER_MARK.as_bytes())
}

/// Checks a header line.
pub(super) fn read_header(line: &[u8]) -> Result<(), BadHeader> {
    let header: HeaderLine =
        serde_json::from_slice(line).map_err(|error| BadHeader(format!("the header line does not read: {error}")))?;
    let Header { contract_version, format } = header.tidegate_export;
    if format != FORMAT || contract_version != CONTRACT_VERSION {
        let text = format!(
            "the header line names {format} in version {contract_version}; this hub reads {FORMAT} in version {CONTRACT_VERSION}"
        );
        return Err(BadHeader(text));
    }
    Ok(())
}

/// Reads a line that is neither blank nor a header. `id` is that of an event that names none.
///
/// # Errors
/// Why it is not taken.
pub(super) fn read_event(line: &Bytes, rules: &ParseRules<'_>, id: impl FnOnce() -> String) -> Result<Draft, Problem> {
    let (text, exported) = without_own(line)?;
    let more = if exported { ADDED_BYTES_MAX } else { 0 };
    let rules = ParseRules { event_bytes_max: rules.event_bytes_max.saturating_add(more), ..*rules };
    let mut draft = match text {
        Cow::Borrowed(_) => parse_event(line, &rules)?,
        Cow::Owned(text) => parse_event(&Bytes::from(text), &rules)?,
    };
    if !draft.id_given {
        draft.meta.id = id();
        // A repeat of this line is to be known by it.
        draft.id_given = true;
    }
    not_reserved(&draft.meta)?;
    if exported {
        draft.deliver_at = None;
    }
    Ok(draft)
}

/// The text without what the hub has set, and whether there was any of it. Nothing else of the text changes, so that what
/// is no JSON stays none.
fn without_own(line: &[u8]) -> Result<(Cow<'_, [u8]>, bool), Problem> {
    let mut cuts: Vec<Range<usize>> = Vec::new();
    let mut exported = false;
    let mut empty_org = None;
    for member in members(line) {
        let value = &line[member.value.clone()];
        match member.name.as_ref() {
            b"seq" => {
                if serde_json::from_slice::<u64>(value).is_err() {
                    return Err(Problem::field("seq", "a position, as an export writes it", text_of(value)));
                }
            }
            b"received_at" => {
                let time = serde_json::from_slice::<String>(value).ok();
                if time.and_then(|time| UnixMs::parse_rfc3339(&time).ok()).is_none() {
                    return Err(Problem::field(
                        "received_at",
                        "an RFC 3339 time, as an export writes it",
                        text_of(value),
                    ));
                }
            }
            b"org" if value == b"\"\"" => {
                empty_org = Some(member.whole);
                continue;
            }
            _ => continue,
        }
        exported = true;
        cuts.push(member.whole);
    }
    if !exported {
        return Ok((Cow::Borrowed(line), false));
    }
    // An event without an org is exported with an empty one.
    cuts.extend(empty_org);
    cuts.sort_by_key(|cut| cut.start);
    Ok((Cow::Owned(cut_members(line, &cuts)), true))
}

/// The text without these members, each with one of the commas beside it. One that does not stand as it should stays, so
/// that the text stays none of JSON.
fn cut_members(line: &[u8], cuts: &[Range<usize>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(line.len());
    let mut at = 0;
    for cut in cuts {
        out.extend_from_slice(&line[at..cut.start]);
        at = cut.start;
        let after = line[cut.end..].trim_ascii_start();
        let follows = after.strip_prefix(b",").map(<[u8]>::trim_ascii_start).filter(|next| next.first() == Some(&b'"'));
        let before = out.trim_ascii_end();
        match (follows, before.last()) {
            (Some(next), _) => at = line.len() - next.len(),
            (None, Some(b',')) => {
                let kept = before.len() - 1;
                out.truncate(kept);
                at = cut.end;
            }
            (None, Some(b'{')) if after.starts_with(b"}") => at = cut.end,
            (None, _) => {}
        }
    }
    out.extend_from_slice(&line[at..]);
    out
}

fn text_of(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

/// Whether a body that was read from an export is that of an event of the log: with what the hub has added to either, they
/// say the same.
pub(super) fn says_the_same(stored: &Event, body: &[u8]) -> bool {
    let envelope = render::envelope(stored);
    match without_own(&envelope) {
        Ok((text, _)) => same_json(&text, body),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ground::error::ProblemKind;
    use crate::ground::ids::Seq;
    use crate::ground::random::SeededRandom;

    const NOW: UnixMs = UnixMs(1_795_248_000_123);

    fn read_as(line: &str, default_org: Option<&str>, confined_to: Option<&str>) -> Result<Draft, Problem> {
        let random = SeededRandom::shared(1);
        let rules = ParseRules { default_org, confined_to, event_bytes_max: 4_096, now: NOW, random: &*random };
        read_event(&Bytes::copy_from_slice(line.as_bytes()), &rules, || "imp_1-7".to_owned())
    }

    fn read(line: &str) -> Result<Draft, Problem> {
        read_as(line, Some("acme"), None)
    }

    fn stored(draft: &Draft) -> Arc<Event> {
        Event::new(Seq(9), draft.received_at, draft.meta.clone(), draft.body.clone())
    }

    #[test]
    fn an_exported_line_comes_in_as_it_went_out() {
        for line in [
            r#"{"type":"a.b"}"#,
            r#"{"org":"own","data":{"seq":1,"b":1.10,"a":12345678901234567890,"received_at":null},"type":"a.b"}"#,
            r#"{ "id" : "x" , "type":"a.b", "occurred_at":"2026-11-21T09:00:00+01:00" , "metadata":{"k":1e400} }"#,
            r#"{"type":"a.b","deliver_at":"2036-11-21T09:00:00Z"}"#,
            r#"{"type":"a.b","delay":"10m","aggregate_type":"order"}"#,
        ] {
            let first = read(line).expect("is taken");
            let out = render::envelope(&stored(&first));
            let second = read(&String::from_utf8(out.clone()).expect("text")).expect("is taken again");
            assert_eq!(second.deliver_at, None);
            assert_eq!((&second.meta.id, &second.meta.org), (&first.meta.id, &first.meta.org));
            assert_eq!(second.meta.ordering_key, first.meta.ordering_key);
            let again = render::envelope(&stored(&second));
            assert!(same_json(&again, &out), "{line}");
            assert!(says_the_same(&stored(&first), &second.body), "{line}");
            assert!(says_the_same(&stored(&second), &second.body), "{line}");
        }
        let other = read(r#"{"type":"a.c","id":"imp_1-7","seq":1}"#).expect("is taken");
        assert!(!says_the_same(&stored(&read(r#"{"type":"a.b"}"#).expect("is taken")), &other.body));
    }

    #[test]
    fn an_event_that_names_no_id_has_one_of_its_line_and_one_of_a_producer_keeps_its_time() {
        let draft = read(r#"{"type":"a.b","delay":"10m"}"#).expect("is taken");
        assert_eq!((draft.meta.id.as_str(), draft.id_given), ("imp_1-7", true));
        assert_eq!(draft.deliver_at, Some(NOW.plus_ms(600_000)));
    }

    #[test]
    fn an_event_without_an_org_comes_back_without_one() {
        let first = read_as(r#"{"type":"a.b","id":"x"}"#, None, None).expect("is taken");
        let out = String::from_utf8(render::envelope(&stored(&first))).expect("text");
        assert_eq!(read_as(&out, None, None).expect("is taken").meta.org, "");
        assert_eq!(read(r#"{"type":"a.b","org":""}"#).expect_err("refused").field.as_deref(), Some("org"));
    }

    #[test]
    fn cutting_makes_no_json_of_what_is_none() {
        for line in [
            r#"{"seq":1,}"#,
            r#"{"seq":1 "type":"a.b"}"#,
            r#"{"type":"a.b" "seq":1}"#,
            r#"{"type":"a.b","seq":1,}"#,
            r#"{"type":"a.b" "seq":1,"id":"x"}"#,
            r#"{"type":"a.b","seq":1,,"id":"x"}"#,
            r#"{,"seq":1,"type":"a.b"}"#,
            r#"{"type":"a.b","seq":1} {"#,
            r#"{"type":"a.b","seq":1"#,
        ] {
            assert_eq!(read(line).expect_err(line).kind, ProblemKind::NotJson, "{line}");
        }
        for (field, line) in [
            ("seq", r#"{"type":"a.b","seq":"x"}"#),
            ("seq", r#"{"type":"a.b","seq":-1}"#),
            ("received_at", r#"{"type":"a.b","received_at":7}"#),
            ("type", r#"{"seq":1,"received_at":"2026-11-21T08:00:00Z"}"#),
            ("colour", r#"{"type":"a.b","seq":1,"colour":2}"#),
            ("type", r#"{"type":"tidegate.webhook.paused","seq":1}"#),
        ] {
            assert_eq!(read(line).expect_err(line).field.as_deref(), Some(field), "{line}");
        }
    }

    #[test]
    fn a_line_of_another_org_is_refused_when_the_key_has_one() {
        let problem = read_as(r#"{"type":"a.b","org":"globex"}"#, None, Some("acme")).expect_err("refused");
        assert_eq!((problem.kind, problem.field.as_deref()), (ProblemKind::Forbidden, Some("org")));
        assert_eq!(read_as(r#"{"type":"a.b"}"#, None, Some("acme")).expect("is taken").meta.org, "acme");
    }

    #[test]
    fn a_header_of_another_version_is_no_header_of_ours() {
        let header = |version: u32, format: &str| {
            format!(r#"{{"tidegate_export":{{"contract_version":{version},"format":"{format}","part":1}}}}"#)
        };
        let own = header(CONTRACT_VERSION, FORMAT);
        assert!(is_header(own.as_bytes()) && !is_header(br#"{"type":"a.b"}"#));
        assert_eq!(read_header(own.as_bytes()), Ok(()));
        assert!(read_header(header(99, FORMAT).as_bytes()).expect_err("refused").0.contains("version 99"));
        assert!(read_header(header(1, "other").as_bytes()).is_err());
        assert!(read_header(br#"{"tidegate_export":1}"#).is_err());
    }
}
