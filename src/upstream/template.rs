//! Paths with parameters: `/api/v1/contacts/{externalId}`.
//!
//! A value is percent-encoded as RFC 3986 has it, all but the unreserved characters, so that it stays within its
//! segment. What would be `.` or `..` as a whole segment is refused: encoded or not, it means another path.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ground::error::Problem;

/// Longest template, in characters.
pub const PATH_CHARS_MAX: usize = 512;
/// Most parameters of a path and its query.
pub const PARAMETERS_MAX: usize = 16;
/// Longest name of a parameter, in characters.
pub const NAME_CHARS_MAX: usize = 64;
/// Longest value of a parameter, in characters.
pub const VALUE_CHARS_MAX: usize = 256;

/// A piece of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    /// As it stands.
    Text(String),
    /// The value of a parameter.
    Parameter(String),
}

/// A path or a value of a query with parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Template {
    text: String,
    pieces: Vec<Piece>,
}

impl TryFrom<String> for Template {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<Template> for String {
    fn from(template: Template) -> Self {
        template.text
    }
}

fn unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Percent-encodes all but the unreserved characters of RFC 3986.
#[must_use]
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if unreserved(byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn is_name(text: &str) -> bool {
    text.len() <= NAME_CHARS_MAX
        && text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

impl Template {
    /// Reads a template: a text without control characters, with parameters in braces.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.chars().count() > PATH_CHARS_MAX {
            return Err(format!("at most {PATH_CHARS_MAX} characters"));
        }
        if text.chars().any(char::is_control) {
            return Err("no control characters".to_owned());
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, brace) = rest.split_at(at);
            let inner = brace.strip_prefix('{').and_then(|brace| brace.split_once('}'));
            let Some((name, after)) = inner.filter(|(name, _)| is_name(name)) else {
                return Err("parameters as {name}: a letter first, then letters, digits, _ or -".to_owned());
            };
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            pieces.push(Piece::Parameter(name.to_owned()));
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Self { text: text.to_owned(), pieces })
    }

    /// Reads the template of a path.
    ///
    /// # Errors
    /// A problem that names `field`.
    pub fn parse_path(field: &str, text: &str) -> Result<Self, Problem> {
        let refuse = |limit: String| Problem::field(field, limit, text.escape_debug());
        let template = Self::parse(text).map_err(refuse)?;
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(refuse("visible ASCII characters; others percent-encoded".to_owned()));
        }
        if !text.starts_with('/') || text.starts_with("//") {
            return Err(refuse("a path with one `/` first".to_owned()));
        }
        if text.contains(['?', '#', '\\']) {
            return Err(refuse("a path alone; the query stands in `query`".to_owned()));
        }
        if text.split('/').any(is_dots) {
            return Err(refuse("no segment `.` or `..`".to_owned()));
        }
        Ok(template)
    }

    /// The text it was read from.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The names of its parameters, in order, each as often as it stands there.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Parameter(name) => Some(name.as_str()),
            Piece::Text(_) => None,
        })
    }

    /// The value of a query with these values, all of it percent-encoded.
    ///
    /// # Errors
    /// A problem that names the parameter: it is missing, empty or too long.
    pub fn fill_value(&self, values: &BTreeMap<String, String>) -> Result<String, Problem> {
        self.fill_with(values, encode)
    }

    /// The path with these values, percent-encoded; what is no parameter stands there as it was written.
    ///
    /// # Errors
    /// A problem that names the parameter: it is missing, empty, too long or no part of a path.
    pub fn fill(&self, values: &BTreeMap<String, String>) -> Result<String, Problem> {
        let out = self.fill_with(values, str::to_owned)?;
        match self.parameters().next() {
            Some(name) if out.split('/').any(is_dots) => {
                Err(Problem::field(name, "no `.` or `..` as a part of a path", out.escape_debug()))
            }
            Some(_) | None => Ok(out),
        }
    }

    fn fill_with(&self, values: &BTreeMap<String, String>, fixed: fn(&str) -> String) -> Result<String, Problem> {
        let mut out = String::with_capacity(self.text.len() + 32);
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(&fixed(text)),
                Piece::Parameter(name) => {
                    let value = values.get(name).ok_or_else(|| Problem::field(name, "required", "nothing"))?;
                    check_value(name, value)?;
                    out.push_str(&encode(value));
                }
            }
        }
        Ok(out)
    }
}

/// Whether a segment means this folder or the one above, in any spelling that a URL parser knows.
fn is_dots(segment: &str) -> bool {
    let plain = segment.to_ascii_lowercase().replace("%2e", ".");
    plain == "." || plain == ".."
}

fn check_value(name: &str, value: &str) -> Result<(), Problem> {
    if value.is_empty() || value.chars().count() > VALUE_CHARS_MAX || value.chars().any(char::is_control) {
        let limit = format!("1 to {VALUE_CHARS_MAX} characters, none of them control characters");
        return Err(Problem::field(name, limit, value.escape_debug()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fill(template: &str, values: &[(&str, &str)]) -> Result<String, Problem> {
        let values = values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Template::parse_path("path", template)?.fill(&values)
    }

    #[test]
    fn values_are_encoded_and_stay_in_their_segment() {
        let filled = fill("/api/v1/contacts/{id}/klantbeeld", &[("id", "a/b?c#d e%2Fé")]).expect("fits");
        assert_eq!(filled, "/api/v1/contacts/a%2Fb%3Fc%23d%20e%252F%C3%A9/klantbeeld");
        assert_eq!(fill("/x/{a}-{b}", &[("a", ".."), ("b", "~")]).expect("fits"), "/x/..-~");
        assert_eq!(fill("/x", &[]).expect("fits"), "/x");
    }

    #[test]
    fn what_would_be_another_path_is_refused() {
        for value in [".", ".."] {
            assert_eq!(fill("/x/{a}/y", &[("a", value)]).expect_err("refused").field.as_deref(), Some("a"));
        }
        assert!(fill("/x/.{a}", &[("a", ".")]).is_err());
        for (values, field) in [(vec![], "a"), (vec![("a", "")], "a"), (vec![("a", "x\ny")], "a")] {
            assert_eq!(fill("/x/{a}", &values).expect_err("refused").field.as_deref(), Some(field));
        }
        assert!(fill("/x/{a}", &[("a", &"é".repeat(256))]).is_ok());
        assert!(fill("/x/{a}", &[("a", &"é".repeat(257))]).is_err());
        for bad in [
            "",
            "x",
            "//x",
            "/x?y",
            "/x#y",
            "/../x",
            "/%2e%2E/x",
            "/./x",
            "/{",
            "/}",
            "/{}",
            "/{1a}",
            "/{a b}",
            "/é",
            "/a b",
            "/\\x",
        ] {
            assert_eq!(fill(bad, &[]).expect_err(bad).field.as_deref(), Some("path"), "{bad}");
        }
        assert!(fill(&format!("/{}", "a".repeat(512)), &[]).is_err());
    }

    proptest! {
        #[test]
        fn no_value_changes_the_rest_of_the_url(value in "[^\\p{Cc}]{1,40}") {
            if let Ok(path) = fill("/a/{v}/z", &[("v", &value)]) {
                let url = url::Url::parse(&format!("https://crm.example/base{path}")).expect("a URL");
                prop_assert_eq!(url.host_str(), Some("crm.example"));
                let segments: Vec<_> = url.path().split('/').collect();
                prop_assert_eq!(segments.len(), 5);
                prop_assert_eq!((segments[1], segments[2], segments[4]), ("base", "a", "z"));
                prop_assert!(url.query().is_none() && url.fragment().is_none());
            } else {
                prop_assert!(value == "." || value == "..");
            }
        }
    }
}
