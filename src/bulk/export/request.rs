//! What a client asks of an export, checked: each refusal names the field, the bound and what was sent.

use crate::bulk::Compression;
use crate::event::filter::EventFilter;
use crate::event::filter::fields::read_clauses;
use crate::ground::error::Problem;
use crate::ground::fields::Fields;
use crate::ground::limits::SCOPE_CHARS_MAX;
use crate::replay::{Bound, read_bound};

/// Smallest part that may be asked for, in bytes before they are packed.
pub const PART_BYTES_MIN: u64 = 64 << 10;
/// Largest.
pub const PART_BYTES_MAX: u64 = 1 << 30;
/// Longest cursor, in characters.
const CURSOR_CHARS_MAX: usize = 512;

/// An export as a client asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportRequest {
    /// What fits; its org is the one named.
    pub filter: EventFilter,
    /// Where it begins: this position, or what was received at or after this time.
    pub from: Option<Bound>,
    /// Where it ends: this position, or what was received before this time.
    pub to: Option<Bound>,
    /// Where an earlier export ended.
    pub cursor: Option<String>,
    /// How the parts are packed.
    pub compression: Compression,
    /// Bytes of a part, before they are packed.
    pub part_bytes: Option<u64>,
}

/// Reads the body of an export.
///
/// # Errors
/// When a field does not fit.
pub fn read_export(mut fields: Fields) -> Result<ExportRequest, Problem> {
    let mut filter = EventFilter { org: fields.text("org", SCOPE_CHARS_MAX)?, ..EventFilter::default() };
    read_clauses(&mut fields, &mut filter)?;
    let request = ExportRequest {
        filter,
        from: read_bound(&mut fields, "from")?,
        to: read_bound(&mut fields, "to")?,
        cursor: fields.text("cursor", CURSOR_CHARS_MAX)?,
        compression: fields.choice("compression", "none, zstd")?.unwrap_or_default(),
        part_bytes: fields.number("part_bytes", PART_BYTES_MIN, PART_BYTES_MAX)?,
    };
    fields.finish()?;
    if request.cursor.is_some() && request.from.is_some() {
        return Err(Problem::field("cursor", "not together with `from`: it says where to go on", "both"));
    }
    match (request.from, request.to) {
        (Some(Bound::Seq(from)), Some(Bound::Seq(to))) if from > to => {
            Err(Problem::field("from", format!("at most `to`, which is {to}"), from))
        }
        (Some(Bound::Time(from)), Some(Bound::Time(to))) if from >= to => {
            Err(Problem::field("from", format!("before `to`, which is {to}"), from))
        }
        _ => Ok(request),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::clock::UnixMs;
    use crate::ground::ids::Seq;

    fn read(text: &str) -> Result<ExportRequest, Problem> {
        read_export(Fields::parse(text.as_bytes()).expect("an object"))
    }

    #[test]
    fn an_export_is_read_with_its_filter_its_range_and_its_form() {
        let request = read(
            r#"{"org":"acme","event_types":["a.*"],"channel":"web","filter":"data.n > 1","from":7,
                "to":"2026-11-21T08:00:00Z","compression":"zstd","part_bytes":65536}"#,
        );
        let request = request.expect("is taken");
        assert_eq!(request.filter.org.as_deref(), Some("acme"));
        assert!(request.filter.expression.is_some() && request.filter.event_types.len() == 1);
        assert_eq!(
            (request.from, request.to),
            (Some(Bound::Seq(Seq(7))), Some(Bound::Time(UnixMs(1_795_248_000_000))))
        );
        assert_eq!((request.compression, request.part_bytes), (Compression::Zstd, Some(65_536)));
        assert_eq!(read("{}").expect("is taken"), ExportRequest::default());
    }

    #[test]
    fn what_does_not_fit_is_refused_by_its_name() {
        for (field, text) in [
            ("org", r#"{"org":""}"#),
            ("event_types", r#"{"event_types":[]}"#),
            ("filter", r#"{"filter":"type =="}"#),
            ("from", r#"{"from":0}"#),
            ("from", r#"{"from":9,"to":8}"#),
            ("to", r#"{"to":"soon"}"#),
            ("cursor", r#"{"cursor":"x","from":1}"#),
            ("compression", r#"{"compression":"gzip"}"#),
            ("part_bytes", r#"{"part_bytes":65535}"#),
            ("part_bytes", r#"{"part_bytes":1073741825}"#),
            ("path", r#"{"path":"../x"}"#),
        ] {
            let problem = read(text).expect_err(text);
            assert_eq!(problem.field.as_deref(), Some(field), "{problem}");
        }
    }
}
