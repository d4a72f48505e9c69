//! Declared reads (UPS-3, UPS-4): how they are asked, and what their answers become. Pure.
//!
//! A read is a GET with parameters. Its answer is one of three:
//! - without a mapping `{found, stale, data}`, `data` being what the upstream said;
//! - with `fields` an object of those fields, `""` where the upstream has none, with `found` and `stale` beside them;
//! - with `page` an envelope that is always there: `{available, items, total, next}`, or under the names of `shape`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::adapter::check_id;
use super::template::{self, NAME_CHARS_MAX, PARAMETERS_MAX, Template, encode};
use crate::ground::error::Problem;
use crate::ground::fields::Fields;

/// Most reads of an upstream.
pub const READS_MAX: usize = 50;
/// Most fields of a mapping.
pub const FIELDS_MAX: usize = 100;
/// Longest name or pointer of a mapping, in characters.
pub const POINTER_CHARS_MAX: usize = 255;
/// How long an answer is used unless the read says otherwise, in milliseconds: 5 minutes.
pub const CACHE_MS_DEFAULT: u64 = 300_000;
/// How long after that it is still given while the upstream is down, in milliseconds: a day.
pub const STALE_MS_DEFAULT: u64 = 24 * 3_600_000;
/// Longest time of either, in milliseconds: 7 days.
pub const CACHE_MS_MAX: u64 = 7 * 24 * 3_600_000;
/// Most items of a page.
pub const PAGE_LIMIT_MAX: u64 = 100;
/// Items of a page when neither the caller nor the read says.
pub const PAGE_LIMIT_DEFAULT: u64 = 20;
/// Largest offset.
pub const PAGE_OFFSET_MAX: u64 = 1_000_000_000;

/// The words that a page's envelope can hold.
pub const PAGE_WORDS: [&str; 8] = ["available", "unavailable", "items", "total", "next", "limit", "offset", "stale"];
/// The names that callers cannot give to fields: the hub writes them.
const RESERVED_FIELDS: [&str; 2] = ["found", "stale"];

/// A declared read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// Its path below the base URL.
    pub path: Template,
    /// Its query, by name.
    #[serde(default)]
    pub query: BTreeMap<String, Template>,
    /// What the answer becomes, field by field: a JSON pointer into it for each.
    #[serde(default)]
    pub fields: Option<BTreeMap<String, String>>,
    /// How its pages are asked and told.
    #[serde(default)]
    pub page: Option<Paging>,
    /// How long an answer is used; 0 means that none is kept.
    pub cache_ms: u64,
    /// How long after that it is given while the upstream is down.
    pub stale_ms: u64,
}

/// A read that answers in pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paging {
    /// Where the items are in the upstream's answer: a JSON pointer to a list.
    pub items: String,
    /// Where the number of all items is, if it says.
    #[serde(default)]
    pub total: Option<String>,
    /// The query's name for how many.
    pub limit_parameter: String,
    /// The query's name for from where on.
    pub offset_parameter: String,
    /// How many when the caller does not say.
    pub limit_default: u64,
    /// The envelope: which word stands under which name.
    pub shape: BTreeMap<String, String>,
}

/// Which part of a list is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// How many.
    pub limit: u64,
    /// From where on.
    pub offset: u64,
}

/// A read with its parameters: what is asked, and under which key its answer is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Path and query, percent-encoded.
    pub path: String,
    /// The same for the same question, and for no other.
    pub key: String,
}

/// The answer is not what the mapping needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer is not {0}")]
pub struct Malformed(pub &'static str);

fn pointer(field: &str, value: Value) -> Result<String, Problem> {
    match value {
        Value::String(text)
            if text.chars().count() <= POINTER_CHARS_MAX && (text.is_empty() || text.starts_with('/')) =>
        {
            Ok(text)
        }
        other => Err(Problem::field(field, "a JSON pointer such as /data/name (RFC 6901)", other)),
    }
}

fn field_name(field: &str, name: &str) -> Result<(), Problem> {
    if name.is_empty() || name.chars().count() > NAME_CHARS_MAX || name.chars().any(char::is_control) {
        let limit = format!("1 to {NAME_CHARS_MAX} characters, none of them control characters");
        return Err(Problem::field(field, limit, name.escape_debug()));
    }
    Ok(())
}

/// `fields`: an object of pointers, or a list of names that are the upstream's own.
fn read_fields(path: &str, value: Value) -> Result<BTreeMap<String, String>, Problem> {
    let pairs: Vec<(String, Value)> = match value {
        Value::Object(map) => map.into_iter().collect(),
        Value::Array(names) => {
            let pair = |(at, name): (usize, Value)| match name {
                Value::String(name) => {
                    let pointer = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
                    Ok((name, Value::from(pointer)))
                }
                other => Err(Problem::field(format!("{path}[{at}]"), "a field's name", other)),
            };
            names.into_iter().enumerate().map(pair).collect::<Result<_, _>>()?
        }
        other => return Err(Problem::field(path, "an object of JSON pointers, or a list of names", other)),
    };
    if !(1..=FIELDS_MAX).contains(&pairs.len()) {
        return Err(Problem::field(path, format!("1 to {FIELDS_MAX} fields"), pairs.len()));
    }
    let mut out = BTreeMap::new();
    for (name, value) in pairs {
        let here = format!("{path}.{name}");
        field_name(&here, &name)?;
        if RESERVED_FIELDS.contains(&name.as_str()) {
            return Err(Problem::field(here, "not one that the hub writes: found, stale", name));
        }
        let value = pointer(&here, value)?;
        out.insert(name, value);
    }
    Ok(out)
}

/// The members of an object, taken out one by one under their own path.
fn members(path: &str, value: Value) -> Result<Map<String, Value>, Problem> {
    match value {
        Value::Object(map) => Ok(map),
        other => Err(Problem::field(path, "an object", other)),
    }
}

fn take_text(map: &mut Map<String, Value>, path: &str, name: &str) -> Result<Option<String>, Problem> {
    match map.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(Problem::field(format!("{path}.{name}"), "a text", other)),
    }
}

fn take_number(
    map: &mut Map<String, Value>,
    path: &str,
    name: &str,
    min: u64,
    max: u64,
) -> Result<Option<u64>, Problem> {
    let Some(value) = map.remove(name).filter(|value| !value.is_null()) else { return Ok(None) };
    match value.as_u64().filter(|number| (min..=max).contains(number)) {
        Some(number) => Ok(Some(number)),
        None => Err(Problem::field(format!("{path}.{name}"), format!("a whole number from {min} to {max}"), value)),
    }
}

fn nothing_left(map: Map<String, Value>, path: &str, known: &str) -> Result<(), Problem> {
    match map.keys().next() {
        Some(name) => Err(Problem::unknown(format!("{path}.{name}"), format!("unknown field; known are {known}"))),
        None => Ok(()),
    }
}

impl Paging {
    fn from_json(path: &str, value: Value) -> Result<Self, Problem> {
        let mut map = members(path, value)?;
        let take_pointer = |map: &mut Map<String, Value>, name: &str| match map.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => pointer(&format!("{path}.{name}"), value).map(Some),
        };
        let items = take_pointer(&mut map, "items")?.ok_or_else(|| {
            Problem::field(format!("{path}.items"), "required: a JSON pointer to the list", "nothing")
        })?;
        let total = take_pointer(&mut map, "total")?;
        let mut parameter = |name: &str, default: &str| -> Result<String, Problem> {
            let text = take_text(&mut map, path, name)?.unwrap_or_else(|| default.to_owned());
            field_name(&format!("{path}.{name}"), &text)?;
            Ok(text)
        };
        let limit_parameter = parameter("limit_parameter", "limit")?;
        let offset_parameter = parameter("offset_parameter", "offset")?;
        let limit_default =
            take_number(&mut map, path, "limit_default", 1, PAGE_LIMIT_MAX)?.unwrap_or(PAGE_LIMIT_DEFAULT);
        let shape = match map.remove("shape") {
            None | Some(Value::Null) => {
                ["available", "items", "total", "next"].map(|word| (word.to_owned(), word.to_owned())).into()
            }
            Some(value) => Self::read_shape(&format!("{path}.shape"), value)?,
        };
        nothing_left(map, path, "items, total, limit_parameter, offset_parameter, limit_default, shape")?;
        if limit_parameter == offset_parameter {
            return Err(Problem::field(format!("{path}.offset_parameter"), "another name", offset_parameter));
        }
        Ok(Self { items, total, limit_parameter, offset_parameter, limit_default, shape })
    }

    fn read_shape(path: &str, value: Value) -> Result<BTreeMap<String, String>, Problem> {
        let map = members(path, value)?;
        let mut shape = BTreeMap::new();
        for (name, word) in map {
            let here = format!("{path}.{name}");
            field_name(&here, &name)?;
            let known = word.as_str().filter(|word| PAGE_WORDS.contains(word));
            let known =
                known.ok_or_else(|| Problem::field(&here, format!("one of {}", PAGE_WORDS.join(", ")), &word))?;
            shape.insert(name, known.to_owned());
        }
        let has = |wanted: &str| shape.values().any(|word| word == wanted);
        if !has("items") || !(has("available") || has("unavailable")) {
            let limit = "a name for `items`, and one for `available` or `unavailable`";
            return Err(Problem::field(path, limit, shape.into_keys().collect::<Vec<_>>().join(", ")));
        }
        Ok(shape)
    }

    /// The part that a caller asks for, within bounds: what is no number counts as not said (UPS-4).
    #[must_use]
    pub fn span(&self, limit: Option<&str>, offset: Option<&str>) -> Span {
        let number = |text: &str| text.trim().parse::<i128>().ok();
        let within = |number: i128, min: u64, max: u64| {
            u64::try_from(number.clamp(i128::from(min), i128::from(max))).unwrap_or(min)
        };
        Span {
            limit: limit.and_then(number).map_or(self.limit_default, |number| within(number, 1, PAGE_LIMIT_MAX)),
            offset: offset.and_then(number).map_or(0, |number| within(number, 0, PAGE_OFFSET_MAX)),
        }
    }

    /// The envelope of a page; without an answer the one that says so.
    #[must_use]
    pub fn envelope(&self, answer: Option<&PageAnswer>, span: Span, stale: bool) -> Value {
        let (items, total) = answer.map_or((Vec::new(), None), |page| (page.items.clone(), page.total));
        let seen = span.offset.saturating_add(items.len() as u64);
        let more = match total {
            Some(total) => seen < total && !items.is_empty(),
            // Without a total a full page may have another one behind it.
            None => items.len() as u64 >= span.limit,
        };
        let mut out = Map::new();
        for (name, word) in &self.shape {
            let value = match word.as_str() {
                "available" => Value::from(answer.is_some()),
                "unavailable" => Value::from(answer.is_none()),
                "items" => Value::from(items.clone()),
                "total" => total.map_or(Value::Null, Value::from),
                "next" => {
                    if more {
                        Value::from(seen)
                    } else {
                        Value::Null
                    }
                }
                "limit" => Value::from(span.limit),
                "offset" => Value::from(span.offset),
                // A shape holds the words above and this one only.
                _ => Value::from(stale),
            };
            out.insert(name.clone(), value);
        }
        Value::Object(out)
    }

    /// The page in an upstream's answer. More items than were asked for are left out.
    ///
    /// # Errors
    /// When there is no list where the items should be.
    pub fn page(&self, body: &Value, span: Span) -> Result<PageAnswer, Malformed> {
        let items =
            body.pointer(&self.items).and_then(Value::as_array).ok_or(Malformed("a page with a list of items"))?;
        let total = self.total.as_ref().and_then(|pointer| body.pointer(pointer)).and_then(Value::as_u64);
        let most = usize::try_from(span.limit).unwrap_or(usize::MAX);
        Ok(PageAnswer { items: items.iter().take(most).cloned().collect(), total })
    }
}

/// A page as the upstream gave it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PageAnswer {
    /// The items.
    pub items: Vec<Value>,
    /// How many there are in all, if it says.
    pub total: Option<u64>,
}

impl Read {
    /// Reads a declaration from an operator's JSON.
    ///
    /// # Errors
    /// A problem that names the field under `path`.
    pub fn from_json(path: &str, value: Value) -> Result<Self, Problem> {
        let mut map = members(path, value)?;
        let at = |name: &str| format!("{path}.{name}");
        let text = take_text(&mut map, path, "path")?
            .ok_or_else(|| Problem::field(at("path"), "required: such as /contacts/{id}", "nothing"))?;
        let template = Template::parse_path(&at("path"), &text)?;
        let mut query = BTreeMap::new();
        if let Some(value) = map.remove("query").filter(|value| !value.is_null()) {
            for (name, value) in members(&at("query"), value)? {
                let here = format!("{path}.query.{name}");
                field_name(&here, &name)?;
                let Value::String(text) = value else { return Err(Problem::field(here, "a text", value)) };
                let template =
                    Template::parse(&text).map_err(|limit| Problem::field(&here, limit, text.escape_debug()))?;
                query.insert(name, template);
            }
        }
        let take = |map: &mut Map<String, Value>, name: &str| map.remove(name).filter(|value| !value.is_null());
        let fields = take(&mut map, "fields").map(|value| read_fields(&at("fields"), value)).transpose()?;
        let page = take(&mut map, "page").map(|value| Paging::from_json(&at("page"), value)).transpose()?;
        if fields.is_some() && page.is_some() {
            return Err(Problem::field(at("page"), "not together with `fields`", "both"));
        }
        let cache_default = if page.is_some() { 0 } else { CACHE_MS_DEFAULT };
        let cache_ms = take_number(&mut map, path, "cache_ms", 0, CACHE_MS_MAX)?.unwrap_or(cache_default);
        let stale_ms = take_number(&mut map, path, "stale_ms", 0, CACHE_MS_MAX)?.unwrap_or(STALE_MS_DEFAULT);
        nothing_left(map, path, "path, query, fields, page, cache_ms, stale_ms")?;
        let read = Self { path: template, query, fields, page, cache_ms, stale_ms };
        let parameters: BTreeSet<_> = read.parameters().collect();
        if parameters.len() > PARAMETERS_MAX || read.query.len() > PARAMETERS_MAX {
            return Err(Problem::field(path, format!("at most {PARAMETERS_MAX} parameters"), parameters.len()));
        }
        if parameters.contains("org") {
            return Err(Problem::field(path, "no parameter `org`: that is who asks", "org"));
        }
        if let Some(paging) = &read.page {
            let own = [paging.limit_parameter.as_str(), paging.offset_parameter.as_str()];
            if let Some(name) = read.query.keys().find(|name| own.contains(&name.as_str())) {
                return Err(Problem::field(format!("{path}.query.{name}"), "not one that the page sets", name));
            }
            if let Some(name) = parameters.iter().find(|name| matches!(**name, "limit" | "offset")) {
                return Err(Problem::field(at("path"), "no parameter `limit` or `offset`: the page has them", name));
            }
        }
        Ok(read)
    }

    /// The names of its parameters.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.path.parameters().chain(self.query.values().flat_map(Template::parameters))
    }

    /// The read with these values.
    ///
    /// # Errors
    /// A problem that names the parameter.
    pub fn prepare(&self, values: &BTreeMap<String, String>, span: Option<Span>) -> Result<Prepared, Problem> {
        let mut path = self.path.fill(values)?;
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (name, template) in &self.query {
            pairs.push((encode(name), template.fill_value(values)?));
        }
        if let (Some(paging), Some(span)) = (&self.page, span) {
            pairs.push((encode(&paging.limit_parameter), span.limit.to_string()));
            pairs.push((encode(&paging.offset_parameter), span.offset.to_string()));
        }
        for (at, (name, value)) in pairs.iter().enumerate() {
            path.push(if at == 0 { '?' } else { '&' });
            path.push_str(name);
            path.push('=');
            path.push_str(value);
        }
        // The encoded question itself: what differs in it is another question.
        Ok(Prepared { key: path.clone(), path })
    }

    /// The answer to who asked for what the upstream said; none when it has no such thing.
    ///
    /// # Errors
    /// When it is not what the fields need.
    pub fn answer(&self, body: Option<&Value>, stale: bool) -> Result<Value, Malformed> {
        let Some(fields) = &self.fields else {
            return Ok(json!({ "found": body.is_some(), "stale": stale, "data": body }));
        };
        if body.is_some_and(|body| !body.is_object()) {
            return Err(Malformed("an object"));
        }
        let mut out = Map::new();
        for (name, pointer) in fields {
            let value = body.and_then(|body| body.pointer(pointer)).filter(|value| !value.is_null());
            out.insert(name.clone(), value.cloned().unwrap_or_else(|| Value::from("")));
        }
        out.insert("found".into(), Value::from(body.is_some()));
        out.insert("stale".into(), Value::from(stale));
        Ok(Value::Object(out))
    }
}

/// Reads `reads`: an object of declarations by name.
///
/// # Errors
/// A problem that names what does not fit.
pub fn read_all(fields: &mut Fields) -> Result<Option<BTreeMap<String, Read>>, Problem> {
    let Some(value) = fields.take("reads") else { return Ok(None) };
    let map = members("reads", value)?;
    if map.len() > READS_MAX {
        return Err(Problem::field("reads", format!("at most {READS_MAX}"), map.len()));
    }
    let mut reads = BTreeMap::new();
    for (name, value) in map {
        let path = format!("reads.{name}");
        check_id(&path, &name)?;
        reads.insert(name, Read::from_json(&path, value)?);
    }
    Ok(Some(reads))
}

/// Longest value of a parameter, for the documentation.
pub const PARAMETER_CHARS_MAX: usize = template::VALUE_CHARS_MAX;

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
