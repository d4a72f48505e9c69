//! Texts with places that an event fills: `/api/v1/orders/{data.orderId}`. `{{` and `}}` stand for braces.
//!
//! - `PT-1` What fills a path is percent-encoded: it stays within its segment, and it is never `.` or `..`.
//! - `PT-2` What fills a header is visible ASCII: everything else of it is percent-encoded.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::event::filter::path::{FieldPath, Found};
use crate::event::filter::subject::Subject;
use crate::ground::error::Problem;

/// Longest pattern, in characters.
pub const PATTERN_CHARS_MAX: usize = 2_048;
/// Longest path that a pattern may make, in bytes.
pub const PATH_BYTES_MAX: usize = 4_096;
/// Longest header value that a pattern may make, in bytes.
pub const HEADER_BYTES_MAX: usize = 4_096;

/// Why an event does not fill a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unfilled(pub String);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Place(FieldPath),
}

/// A text with places.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern {
    text: String,
    pieces: Vec<Piece>,
}

impl Pattern {
    /// Reads a pattern; a refusal names `field` and the character where the place begins.
    ///
    /// # Errors
    /// When it is empty or too long, a brace is open, or a place names no field.
    pub fn parse(text: &str, field: &str) -> Result<Self, Problem> {
        if text.is_empty() || text.chars().count() > PATTERN_CHARS_MAX {
            return Err(Problem::field(field, format!("1 to {PATTERN_CHARS_MAX} characters"), text));
        }
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut characters = text.chars().enumerate().peekable();
        while let Some((at, character)) = characters.next() {
            let doubled = characters.peek().is_some_and(|(_, next)| *next == character);
            match character {
                '{' | '}' if doubled => {
                    characters.next();
                    plain.push(character);
                }
                '{' => {
                    let name: String =
                        characters.by_ref().map(|(_, next)| next).take_while(|next| *next != '}').collect();
                    // `take_while` has taken the closing brace, unless the text ended first.
                    let closed = text.chars().nth(at + 1 + name.chars().count()) == Some('}');
                    let place = if closed { FieldPath::parse(&name, field) } else { Err(unclosed(field, text)) };
                    let place = place.map_err(|problem| positioned(problem, at, field))?;
                    if !plain.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut plain)));
                    }
                    pieces.push(Piece::Place(place));
                }
                '}' => {
                    let limit = "a closing brace without an opening one; write `}}` for a brace";
                    return Err(positioned(Problem::field(field, limit, text), at, field));
                }
                other => plain.push(other),
            }
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Self { text: text.to_owned(), pieces })
    }

    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the text begins with this, before any place.
    #[must_use]
    pub fn begins_with(&self, start: &str) -> bool {
        matches!(self.pieces.first(), Some(Piece::Text(text)) if text.starts_with(start))
    }

    /// The texts between the places.
    pub fn plain(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Text(text) => Some(text.as_str()),
            Piece::Place(_) => None,
        })
    }

    fn fill(&self, subject: &Subject<'_>, put: impl Fn(&mut String, &str)) -> Result<String, Unfilled> {
        let mut out = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Place(path) => match path.find(subject) {
                    Found::Text(text) => put(&mut out, &text),
                    Found::Nested => {
                        return Err(Unfilled(format!("`{path}` of the event is a list or an object, not a text")));
                    }
                    Found::Missing | Found::Empty => {
                        let lacking = path.lacking(subject).unwrap_or_default();
                        return Err(Unfilled(format!("{lacking}, and `{}` needs it", self.text)));
                    }
                },
            }
        }
        Ok(out)
    }

    /// The path that an event makes of the pattern (PT-1).
    ///
    /// # Errors
    /// When a place stays empty, or the path is too long.
    pub fn path(&self, subject: &Subject<'_>) -> Result<String, Unfilled> {
        let path = self.fill(subject, push_encoded)?;
        if path.len() > PATH_BYTES_MAX {
            return Err(Unfilled(format!("the path has {} bytes, more than {PATH_BYTES_MAX}", path.len())));
        }
        let before_query = path.split(['?', '#']).next().unwrap_or_default();
        if before_query.split('/').any(|segment| segment == "." || segment == "..") {
            return Err(Unfilled(format!("`{}` makes a path with a dot segment of this event", self.text)));
        }
        Ok(path)
    }

    /// The header value that an event makes of the pattern (PT-2).
    ///
    /// # Errors
    /// When a place stays empty, or the value is too long.
    pub fn header(&self, subject: &Subject<'_>) -> Result<String, Unfilled> {
        let value = self.fill(subject, |out, text| out.push_str(&visible(text)))?;
        if value.len() > HEADER_BYTES_MAX {
            return Err(Unfilled(format!("`{}` makes a header of more than {HEADER_BYTES_MAX} bytes", self.text)));
        }
        Ok(value)
    }
}

/// A text as a header may carry it: what is not visible ASCII or a space is percent-encoded.
#[must_use]
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            0x20..=0x7e => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// Appends a text of which everything but the unreserved characters is percent-encoded (RFC 3986).
fn push_encoded(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

fn unclosed(field: &str, text: &str) -> Problem {
    Problem::field(field, "a place is open: `{` without `}`; write `{{` for a brace", text)
}

fn positioned(problem: Problem, at: usize, field: &str) -> Problem {
    let limit = problem.limit.clone().unwrap_or_default();
    let sent = problem.sent.clone().unwrap_or_default();
    Problem::field(field, format!("character {}: {limit}", at + 1), sent).with("column", at as u64 + 1)
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.text).finish()
    }
}

impl TryFrom<String> for Pattern {
    type Error = Problem;

    fn try_from(text: String) -> Result<Self, Problem> {
        Self::parse(&text, "pattern")
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::upstream::publish::samples::event;

    fn path(pattern: &str, data: &str) -> Result<String, String> {
        let event = event("order.placed", data);
        let pattern = Pattern::parse(pattern, "path").expect("a pattern");
        pattern.path(&Subject::new(&event)).map_err(|unfilled| unfilled.to_string())
    }

    #[test]
    fn places_are_filled_and_what_fills_them_stays_within_its_segment() {
        let data = r#"{"id":"a/b?c#d é%","n":17,"up":".."}"#;
        assert_eq!(path("/v1/{data.n}/x", data).as_deref(), Ok("/v1/17/x"));
        assert_eq!(path("/v1/{data.id}", data).as_deref(), Ok("/v1/a%2Fb%3Fc%23d%20%C3%A9%25"));
        assert_eq!(
            path("/v1/{{x}}/{org}?at={timestamp}", data).as_deref(),
            Ok("/v1/{x}/acme?at=2026-11-21T08%3A00%3A00Z")
        );
        assert!(path("/v1/{data.up}/x", data).expect_err("a dot segment").contains("dot segment"));
        assert_eq!(path("/v1/x{data.up}", data).as_deref(), Ok("/v1/x.."));
    }

    #[test]
    fn an_event_that_does_not_fill_a_place_is_told_which() {
        let lacking = path("/v1/{data.order}", "{}").expect_err("nothing there");
        assert_eq!(lacking, "the event has no `data.order`, and `/v1/{data.order}` needs it");
        assert!(path("/v1/{data.order}", r#"{"order":[]}"#).expect_err("a list").contains("not a text"));
        let long = format!(r#"{{"order":"{}"}}"#, "x".repeat(PATH_BYTES_MAX));
        assert!(path("/v1/{data.order}", &long).expect_err("long").contains("4096"));
    }

    #[test]
    fn a_wrong_pattern_is_refused_with_its_place() {
        let long = "x".repeat(PATTERN_CHARS_MAX + 1);
        for (text, told) in [
            ("", "1 to 2048"),
            ("/a/{data.x", "character 4"),
            ("/a/}", "character 4"),
            ("/é/{colour}", "character 4: a path that begins with one of id"),
            ("/a/{}", "character 4"),
            (&long, "1 to 2048"),
        ] {
            let problem = Pattern::parse(text, "publishes[0].call.path").expect_err(text);
            assert_eq!(problem.field.as_deref(), Some("publishes[0].call.path"));
            let limit = problem.limit.unwrap_or_default();
            assert!(limit.contains(told), "{text}: {limit}");
        }
        let stored = serde_json::to_value(Pattern::parse("/a/{id}", "x").expect("a pattern")).expect("writes");
        assert_eq!(serde_json::from_value::<Pattern>(stored).expect("reads").text(), "/a/{id}");
    }

    proptest! {
        #[test]
        fn whatever_fills_a_header_is_visible_and_whatever_fills_a_path_is_one_segment(text in "\\PC{1,20}") {
            prop_assume!(!text.trim().is_empty());
            let data = serde_json::json!({"x": text}).to_string();
            let event = event("order.placed", &data);
            let subject = Subject::new(&event);
            let header = Pattern::parse("a {data.x}", "h").expect("a pattern").header(&subject).expect("fills");
            prop_assert!(header.bytes().all(|byte| (0x20..=0x7e).contains(&byte)), "{}", header);
            if let Ok(path) = Pattern::parse("/a/{data.x}/b", "p").expect("a pattern").path(&subject) {
                prop_assert_eq!(path.matches('/').count(), 3);
                prop_assert!(!path.contains(['?', '#']));
            }
        }

        #[test]
        fn no_text_makes_the_reading_panic(text in "[a-z{}.é]{0,24}") {
            if let Ok(pattern) = Pattern::parse(&text, "p") {
                prop_assert_eq!(pattern.text(), text);
            }
        }
    }
}
