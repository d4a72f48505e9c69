//! A JSON object as text: for envelopes that are made from something else, whose parts stay byte for byte as they came.

/// An object being written. Names are the program's own and hold nothing that JSON escapes.
#[derive(Debug)]
pub struct Object(String);

impl Default for Object {
    fn default() -> Self {
        Self::new()
    }
}

impl Object {
    /// An object without members.
    #[must_use]
    pub fn new() -> Self {
        Self("{".to_owned())
    }

    /// Whether it has no member yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.len() == 1
    }

    /// Adds a member whose value is this JSON text.
    pub fn put(&mut self, name: &str, raw: &str) {
        if !self.is_empty() {
            self.0.push(',');
        }
        self.0.push('"');
        self.0.push_str(name);
        self.0.push_str("\":");
        self.0.push_str(raw);
    }

    /// Adds a member whose value is this string, if there is one.
    pub fn put_text(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.put(name, &json_string(text));
        }
    }

    /// The text of the object.
    #[must_use]
    pub fn close(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// The text as a JSON string.
#[must_use]
pub fn json_string(text: &str) -> String {
    // A text cannot fail to be written into memory.
    serde_json::to_string(text).unwrap_or_default()
}
