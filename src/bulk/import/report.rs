//! What an import did not take: a JSON document a line, in the order of the lines.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::bulk::folder::{Tally, make_dir};
use crate::ground::error::Problem;
use crate::ground::limits::clip;

/// Lines that a report has; further ones are counted only.
pub const REPORT_LINES_MAX: u64 = 100_000;
/// Characters of a reason.
const REASON_CHARS_MAX: usize = 500;
/// Violations of a schema that a line tells of; further ones are counted only.
const VIOLATIONS_MAX: usize = 10;
/// Bytes read for one page.
const PAGE_BYTES_MAX: u64 = 4 << 20;

/// The file of a report.
#[must_use]
pub fn report_path(dir: &Path) -> PathBuf {
    dir.join("rejected.ndjson")
}

/// One line of the report: the number of the line of the content, and why it was not taken.
pub(super) fn row(line: u64, problem: &Problem) -> Vec<u8> {
    let mut row = json!({
        "line": line,
        "kind": problem.kind.slug(),
        "reason": clip(&problem.detail, REASON_CHARS_MAX),
        "field": problem.field,
        "limit": problem.limit.as_deref().map(|limit| clip(limit, REASON_CHARS_MAX)),
        "sent": problem.sent,
    });
    for name in ["first_seq", "finding", "quarantine", "quarantine_id"] {
        if let Some(value) = problem.extra.get(name) {
            row[name] = value.clone();
        }
    }
    if let Some(Value::Array(violations)) = problem.extra.get("violations") {
        let listed = violations.len().min(VIOLATIONS_MAX);
        let more = problem.extra.get("more_violations").and_then(Value::as_u64).unwrap_or_default();
        row["violations"] = violations[..listed].into();
        row["more_violations"] = (more + (violations.len() - listed) as u64).into();
    }
    let mut bytes = row.to_string().into_bytes();
    bytes.push(b'\n');
    bytes
}

/// Adds lines to the report, which had so many bytes; gives how many it has now, all on disk.
pub(super) fn add_rows(dir: &Path, report_bytes: u64, rows: &[u8]) -> io::Result<u64> {
    make_dir(dir)?;
    let mut report = Tally::open(&report_path(dir), report_bytes)?;
    report.add(rows)?;
    report.sync()?;
    Ok(report.length())
}

/// A page of a report.
#[derive(Clone, Debug, PartialEq)]
pub struct ReportPage {
    /// Its lines.
    pub items: Vec<Value>,
    /// Where the next page begins.
    pub next: u64,
    /// Whether there is more.
    pub has_more: bool,
}

/// Reads a page of the first `report_bytes` bytes of a report, from `at` on, which is the beginning of a line.
///
/// # Errors
/// When the file system fails, or no line begins there.
pub fn read_report(dir: &Path, report_bytes: u64, at: u64, limit: usize) -> io::Result<ReportPage> {
    let mut page = ReportPage { items: Vec::new(), next: at, has_more: false };
    if at >= report_bytes {
        return Ok(page);
    }
    let mut file = File::open(report_path(dir))?;
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    file.take((report_bytes - at).min(PAGE_BYTES_MAX)).read_to_end(&mut bytes)?;
    for line in bytes.split_inclusive(|byte| *byte == b'\n').take(limit) {
        let Some(text) = line.strip_suffix(b"\n") else { break };
        page.items.push(serde_json::from_slice(text).map_err(io::Error::other)?);
        page.next += line.len() as u64;
    }
    page.has_more = page.next < report_bytes;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::error::ProblemKind;

    #[test]
    fn a_report_is_read_page_by_page_and_what_no_cursor_counts_is_not_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut bytes = 0;
        for line in 1..=5 {
            let problem = Problem::field("type", "required", "nothing");
            bytes = add_rows(dir.path(), bytes, &row(line, &problem)).expect("added");
        }
        let conflict = Problem::new(ProblemKind::IdConflict, "x".repeat(9_000)).with("first_seq", 7);
        // A crash came before this was counted.
        add_rows(dir.path(), bytes, &row(6, &conflict)).expect("added");
        let first = read_report(dir.path(), bytes, 0, 3).expect("reads");
        let lines = |page: &ReportPage| page.items.iter().map(|item| item["line"].as_u64()).collect::<Vec<_>>();
        assert_eq!((lines(&first), first.has_more), (vec![Some(1), Some(2), Some(3)], true));
        assert_eq!(first.items[0]["field"], "type");
        let second = read_report(dir.path(), bytes, first.next, 3).expect("reads");
        assert_eq!((lines(&second), second.has_more, second.next), (vec![Some(4), Some(5)], false, bytes));
        let all = add_rows(dir.path(), bytes, &row(6, &conflict)).expect("added");
        let last = read_report(dir.path(), all, bytes, 3).expect("reads");
        assert_eq!(last.items[0]["first_seq"], 7);
        assert_eq!(last.items[0]["reason"].as_str().map(str::len), Some(REASON_CHARS_MAX));
        assert!(read_report(dir.path(), all, 3, 3).is_err(), "no line begins there");
    }
}
