//! Reading a client's JSON object field by field, so that every refusal names the field, the bound and what was sent.

use serde_json::{Map, Value};

use super::error::{Problem, ProblemKind};
use super::limits::clip;

/// An object whose fields are taken out one by one; what is left over at the end is unknown.
#[derive(Debug)]
pub struct Fields {
    map: Map<String, Value>,
    known: Vec<&'static str>,
}

impl Fields {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// When it is not a JSON object.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(map)) => Ok(Self { map, known: Vec::new() }),
            Ok(other) => Err(Problem::field("body", "a JSON object", kind(&other))),
            Err(error) => Err(Problem::new(ProblemKind::NotJson, error.to_string())),
        }
    }

    /// Reads an object within a request.
    ///
    /// # Errors
    /// When it is none; `field` names it.
    pub fn within(value: Value, field: &str) -> Result<Self, Problem> {
        match value {
            Value::Object(map) => Ok(Self { map, known: Vec::new() }),
            other => Err(Problem::field(field, "an object", other)),
        }
    }

    /// Takes a field out; null counts as absent.
    pub fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.map.remove(name).filter(|value| !value.is_null())
    }

    /// Whether the client has sent a field, null included.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    /// A field that the client has sent, null included: for changes, where null takes a value away.
    pub fn sent(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.map.remove(name)
    }

    /// A text of 1 to `chars_max` characters without control characters.
    ///
    /// # Errors
    /// When the field is something else.
    pub fn text(&mut self, name: &'static str, chars_max: usize) -> Result<Option<String>, Problem> {
        self.take(name).map(|value| text(name, value, chars_max)).transpose()
    }

    /// The same for a text that may hold a credential, such as a URL: a refusal repeats nothing of it.
    ///
    /// # Errors
    /// When the field is something else.
    pub fn private_text(&mut self, name: &'static str, chars_max: usize) -> Result<Option<String>, Problem> {
        self.text(name, chars_max).map_err(|problem| Problem { sent: Some("***".to_owned()), ..problem })
    }

    /// A text that must be there.
    ///
    /// # Errors
    /// When it is missing or something else.
    pub fn required_text(&mut self, name: &'static str, chars_max: usize) -> Result<String, Problem> {
        self.text(name, chars_max)?.ok_or_else(|| Problem::field(name, "required", "nothing"))
    }

    /// A whole number within a range.
    ///
    /// # Errors
    /// When the field is something else.
    pub fn number(&mut self, name: &'static str, min: u64, max: u64) -> Result<Option<u64>, Problem> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.as_u64().filter(|number| (min..=max).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(Problem::field(name, format!("a whole number from {min} to {max}"), value)),
        }
    }

    /// A list of texts.
    ///
    /// # Errors
    /// When the field is something else or has more than `entries_max` entries.
    pub fn texts(
        &mut self,
        name: &'static str,
        entries_max: usize,
        chars_max: usize,
    ) -> Result<Option<Vec<String>>, Problem> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let Value::Array(entries) = value else {
            return Err(Problem::field(name, "a list of texts", value));
        };
        if entries.len() > entries_max {
            return Err(Problem::field(name, format!("at most {entries_max} entries"), entries.len()));
        }
        let read = |(at, entry)| text(&format!("{name}[{at}]"), entry, chars_max);
        entries.into_iter().enumerate().map(read).collect::<Result<_, _>>().map(Some)
    }

    /// One of a closed set of words.
    ///
    /// # Errors
    /// When the field is something else; the problem lists the words.
    pub fn choice<T: serde::de::DeserializeOwned>(
        &mut self,
        name: &'static str,
        words: &str,
    ) -> Result<Option<T>, Problem> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match T::deserialize(&value) {
            Ok(choice) => Ok(Some(choice)),
            Err(_) => Err(Problem::field(name, format!("one of {words}"), value)),
        }
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// When a field is left over.
    pub fn finish(self) -> Result<(), Problem> {
        let Some(name) = self.map.keys().next() else { return Ok(()) };
        let near = self
            .known
            .iter()
            .filter(|known| strsim::jaro_winkler(known, name) > 0.8)
            .max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
        let limit = match near {
            Some(known) => format!("unknown field; did you mean `{known}`?"),
            None => format!("unknown field; known are {}", self.known.join(", ")),
        };
        Err(Problem::unknown(clip(name, 64), limit))
    }
}

/// What a value is, where the value itself is not repeated.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn text(name: &str, value: Value, chars_max: usize) -> Result<String, Problem> {
    let Value::String(text) = value else {
        return Err(Problem::field(name, "a text", value));
    };
    if text.is_empty() || text.chars().count() > chars_max {
        return Err(Problem::field(name, format!("1 to {chars_max} characters"), text));
    }
    if text.chars().any(char::is_control) {
        return Err(Problem::field(name, "no control characters", text.escape_debug()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_field_is_named_with_what_was_meant() {
        let mut fields = Fields::parse(br#"{"event_type":["a"]}"#).expect("an object");
        assert_eq!(fields.texts("event_types", 10, 10), Ok(None));
        let problem = fields.finish().expect_err("unknown");
        assert_eq!(problem.field.as_deref(), Some("event_type"));
        assert!(problem.limit.is_some_and(|limit| limit.contains("event_types")));
    }

    #[test]
    fn wrong_types_and_bounds_are_named() {
        let mut fields = Fields::parse(br#"{"a":1,"b":"xyz","c":0,"d":["",2]}"#).expect("an object");
        assert_eq!(fields.text("a", 5).expect_err("a number").field.as_deref(), Some("a"));
        assert_eq!(fields.text("b", 2).expect_err("long").limit.as_deref(), Some("1 to 2 characters"));
        assert!(fields.number("c", 1, 5).is_err());
        assert_eq!(fields.texts("d", 5, 5).expect_err("empty").field.as_deref(), Some("d[0]"));
        assert!(Fields::parse(b"[]").is_err());
        assert!(Fields::parse(b"{").is_err());
    }
}
