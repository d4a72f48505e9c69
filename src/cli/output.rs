//! The one place that writes to the terminal: tables for people, JSON for programs.

use std::io::{IsTerminal as _, Write as _};

use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use super::exit::Failure;

/// Whether people or programs read the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Tables and sentences.
    Human,
    /// JSON, as the hub sent it.
    Json,
}

/// A column: its heading, and where the value stands in an item, as a JSON pointer.
pub type Column = (&'static str, &'static str);

impl Output {
    /// Writes a line.
    ///
    /// # Errors
    /// When the output is closed.
    pub fn line(self, text: &str) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{text}")?;
        out.flush()?;
        Ok(())
    }

    /// Writes a line for people only.
    ///
    /// # Errors
    /// When the output is closed.
    pub fn say(self, text: &str) -> Result<(), Failure> {
        match self {
            Self::Human => self.line(text),
            Self::Json => Ok(()),
        }
    }

    /// Writes a remark beside the output, on stderr.
    pub fn remark(self, text: &str) {
        // Without a stderr there is nobody to tell.
        drop(writeln!(std::io::stderr(), "{text}"));
    }

    /// Writes a list answer: the bytes as they came, or a table of its items and how to go on.
    ///
    /// # Errors
    /// When the answer is no list, or the output is closed.
    pub fn list(self, body: &[u8], items: &str, columns: &[Column]) -> Result<(), Failure> {
        let text = text_of(body)?;
        if self == Self::Json {
            return self.line(text);
        }
        let answer = parse(text)?;
        let items = answer[items].as_array().map(Vec::as_slice).unwrap_or_default();
        self.line(&table(items, columns))?;
        match answer["next_cursor"].as_str() {
            Some(cursor) if answer["has_more"] == true => {
                self.remark(&format!("more: --cursor {}", printable(cursor)));
                Ok(())
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Writes one thing: the bytes as they came, or its fields one a line.
    ///
    /// # Errors
    /// When the answer is no JSON, or the output is closed.
    pub fn thing(self, body: &[u8]) -> Result<(), Failure> {
        let text = text_of(body)?;
        if self == Self::Json || text.is_empty() {
            return if text.is_empty() { Ok(()) } else { self.line(text) };
        }
        self.line(&fields(text)?)
    }

    /// A progress bar of bytes or of things, on stderr; hidden for programs.
    #[must_use]
    pub fn bar(self, template: &str) -> ProgressBar {
        let bar = ProgressBar::no_length();
        if self == Self::Json {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        // The templates are fixed and correct; without one the bar has its plain look.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar
    }

    /// Tells why a command failed, on stderr.
    pub fn failure(self, failure: &Failure) {
        if matches!(failure, Failure::OutputClosed) {
            return;
        }
        match self {
            Self::Human => {
                let (on, off) = if colour() { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
                self.remark(&format!("{on}error:{off} {failure}"));
            }
            Self::Json => self.remark(&failure.to_json().to_string()),
        }
    }
}

/// Colour on a terminal, unless `NO_COLOR` is set to anything (no-color.org).
fn colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn text_of(body: &[u8]) -> Result<&str, Failure> {
    std::str::from_utf8(body).map(str::trim_end).map_err(|_| anyhow::anyhow!("the answer is not text").into())
}

fn parse(text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text).map_err(|error| anyhow::anyhow!("the answer is not JSON: {error}").into())
}

/// Text from outside with its control characters shown, so that it cannot drive the terminal.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

/// A value in a cell: text bare, lists joined, nothing as a dash.
fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => printable(text),
        Some(Value::Array(items)) if items.iter().all(Value::is_string) => {
            items.iter().map(|item| cell(Some(item))).collect::<Vec<_>>().join(",")
        }
        Some(other) => printable(&other.to_string()),
    }
}

fn bare() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table
}

/// Items as a table with one heading line, two spaces between columns, none at the edges.
#[must_use]
pub fn table(items: &[Value], columns: &[Column]) -> String {
    let mut table = bare();
    table.set_header(columns.iter().map(|(heading, _)| *heading));
    for item in items {
        table.add_row(columns.iter().map(|(_, pointer)| cell(item.pointer(pointer))));
    }
    trimmed(&table)
}

/// The members of an object one a line, nested ones as the text they came as.
fn fields(text: &str) -> Result<String, Failure> {
    // Raw values keep number text and the order of keys as the hub sent them.
    let Ok(members) = serde_json::from_str::<Members>(text) else { return Ok(printable(text)) };
    let mut table = bare();
    for (name, raw) in members.0 {
        let shown = match serde_json::from_str::<Value>(raw.get()) {
            Ok(value @ (Value::String(_) | Value::Null)) => cell(Some(&value)),
            Ok(Value::Array(items)) if !items.is_empty() && items.iter().all(Value::is_string) => {
                cell(Some(&Value::Array(items)))
            }
            Ok(_) | Err(_) => printable(raw.get()),
        };
        table.add_row([printable(&name), shown]);
    }
    Ok(trimmed(&table))
}

fn trimmed(table: &Table) -> String {
    let text = table.to_string();
    let lines = text.lines().map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end());
    lines.collect::<Vec<_>>().join("\n")
}

/// An object's members in their order.
struct Members(Vec<(String, Box<serde_json::value::RawValue>)>);

impl<'de> serde::Deserialize<'de> for Members {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Members;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_has_a_heading_and_a_dash_for_what_is_missing() {
        let items = [json!({"id": "a", "n": 1, "types": ["x", "y"]}), json!({"id": "b\u{1b}[31m", "last": {"at": 5}})];
        let columns = [("ID", "/id"), ("TYPES", "/types"), ("N", "/n"), ("AT", "/last/at")];
        insta::assert_snapshot!(table(&items, &columns), @r"
        ID           TYPES  N  AT
        a            x,y    1  -
        b\u{1b}[31m  -      -  5
        ");
    }

    #[test]
    fn a_thing_keeps_the_order_and_the_number_text_of_its_members() {
        let shown =
            fields(r#"{"seq":7,"data":{"n":123456789012345678901234567890},"org":null,"id":"x"}"#).expect("shown");
        insta::assert_snapshot!(shown, @r#"
        seq   7
        data  {"n":123456789012345678901234567890}
        org   -
        id    x
        "#);
    }
}
