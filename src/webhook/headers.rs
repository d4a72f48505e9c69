//! Headers that a client sets for requests of the hub: names that HTTP knows, none that the hub sets itself, and values that
//! stand in a header as they are. A value may be a credential, so no refusal repeats one.

use std::collections::BTreeMap;

use reqwest::header::HeaderName;
use serde_json::Value;

use crate::ground::error::Problem;

/// Which headers may be set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeaderRules {
    /// How many.
    pub(crate) headers_max: usize,
    /// Those that may not, in lower case.
    pub(crate) reserved: &'static [&'static str],
    /// What is said of one of those.
    pub(crate) reserved_limit: &'static str,
}

/// Whether a text may be the value of a header: visible ASCII and spaces. HTTP lets other bytes through, but no two sides
/// need to agree on what they mean (RFC 9110, section 5.5).
pub(crate) fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
}

/// Reads the `headers` of a client's JSON, names in lower case. `value` reads one value; it is given the name of the field.
///
/// # Errors
/// A problem naming the header.
pub(crate) fn read_headers<T>(
    sent: Value,
    rules: HeaderRules,
    value: impl Fn(&str, String) -> Result<T, Problem>,
) -> Result<BTreeMap<String, T>, Problem> {
    let Value::Object(map) = sent else {
        return Err(Problem::field("headers", "an object of texts", "another type"));
    };
    if map.len() > rules.headers_max {
        return Err(Problem::field("headers", format!("at most {}", rules.headers_max), map.len()));
    }
    let mut out = BTreeMap::new();
    for (name, sent) in map {
        let field = format!("headers.{name}");
        let name = name.to_ascii_lowercase();
        if HeaderName::from_bytes(name.as_bytes()).is_err() {
            return Err(Problem::field(field, "a header name (RFC 9110)", name));
        }
        if rules.reserved.contains(&name.as_str()) {
            return Err(Problem::field(field, rules.reserved_limit, name));
        }
        let Value::String(text) = sent else {
            return Err(Problem::field(field, "a text", "another type"));
        };
        out.insert(name, value(&field, text)?);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(sent: Value) -> Result<BTreeMap<String, String>, Problem> {
        let rules = HeaderRules { headers_max: 2, reserved: &["host"], reserved_limit: "not one of the hub" };
        read_headers(sent, rules, |field, text| match is_visible(&text) {
            true => Ok(text),
            false => Err(Problem::field(field, "visible ASCII", "***")),
        })
    }

    #[test]
    fn a_header_is_read_by_its_name_in_lower_case() {
        let read = read(json!({ "X-Team": "blue ~!", "x-empty": "" })).expect("fits");
        assert_eq!(read, BTreeMap::from([("x-team".into(), "blue ~!".into()), ("x-empty".into(), String::new())]));
    }

    #[test]
    fn what_no_header_may_be_is_refused_by_its_field() {
        for (field, sent) in [
            ("headers", json!([])),
            ("headers", json!({ "a": "1", "b": "2", "c": "3" })),
            ("headers.a b", json!({ "a b": "1" })),
            ("headers.Host", json!({ "Host": "1" })),
            ("headers.x", json!({ "x": 1 })),
            ("headers.x", json!({ "x": "caf\u{e9} 4711" })),
            ("headers.x", json!({ "x": "4711\u{7f}" })),
            ("headers.x", json!({ "x": "a\t4711" })),
        ] {
            let problem = read(sent.clone()).expect_err("does not fit");
            assert_eq!(problem.field.as_deref(), Some(field), "{sent}");
            assert!(!format!("{problem:?}").contains("4711"), "a value may be a credential: {problem:?}");
        }
    }
}
