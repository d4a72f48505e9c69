//! In which form an event is sent (WHK-4).
//!
//! | format | body | content type |
//! | --- | --- | --- |
//! | `standard` | `{type, timestamp, data, id, org, …}` | `application/json` |
//! | `cloudevents` | a `CloudEvent` in structured mode | `application/cloudevents+json` |
//! | `cloudevents_binary` | the data; the attributes are `ce-` headers | the data's own |
//! | `raw` | the data, byte for byte | `application/json` |
//! | `template` | what the webhook's template makes of it | the template's |

use std::sync::Arc;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::template::{self, SOURCE_BYTES_MAX, Template, TemplateFault};
use crate::event::cloudevents::{STRUCTURED, render_binary, render_structured};
use crate::event::envelope::{BodyFormat, Event};
use crate::ground::error::Problem;

/// The formats, for refusals.
pub const FORMATS: &str = "standard, cloudevents, cloudevents_binary, raw, template";
/// What a template's body is unless it says otherwise.
const CONTENT_TYPE_DEFAULT: &str = "application/json";
/// Longest content type, in characters.
pub const CONTENT_TYPE_CHARS_MAX: usize = 127;

/// In which form an event is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// As Standard Webhooks recommends.
    #[default]
    Standard,
    /// A `CloudEvent` in structured mode.
    Cloudevents,
    /// A `CloudEvent` in binary mode.
    CloudeventsBinary,
    /// The data alone.
    Raw,
    /// As the webhook's template says.
    Template,
}

/// The template of a webhook as its owner wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateSettings {
    /// The template.
    pub body: String,
    /// What it makes.
    pub content_type: String,
}

impl TemplateSettings {
    /// Reads a template from a client's JSON: `{body, content_type?}`. It is compiled once to see that it does.
    ///
    /// # Errors
    /// A problem naming the member, the line and what is wrong.
    pub fn from_json(value: Value) -> Result<Self, Problem> {
        let Value::Object(mut sent) = value else {
            return Err(Problem::field("template", "{body, content_type?}", value));
        };
        let text = |sent: &mut Map<String, Value>, name: &str| match sent.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(Problem::field(format!("template.{name}"), "a text", other)),
        };
        let body = text(&mut sent, "body")?.ok_or_else(|| {
            Problem::field("template.body", format!("required: 1 to {SOURCE_BYTES_MAX} bytes"), "nothing")
        })?;
        let content_type = text(&mut sent, "content_type")?.unwrap_or_else(|| CONTENT_TYPE_DEFAULT.to_owned());
        if let Some(name) = sent.keys().next() {
            return Err(Problem::field(
                format!("template.{name}"),
                "unknown field; known are body, content_type",
                name,
            ));
        }
        let fits = content_type.len() <= CONTENT_TYPE_CHARS_MAX
            && content_type.split_once('/').is_some_and(|(kind, rest)| !kind.is_empty() && !rest.is_empty())
            && content_type.bytes().all(|byte| (0x20..=0x7e).contains(&byte));
        if !fits {
            let limit = format!("a media type of up to {CONTENT_TYPE_CHARS_MAX} visible ASCII characters");
            return Err(Problem::field("template.content_type", limit, content_type));
        }
        Template::compile(&body, &content_type, "template.body")?;
        Ok(Self { body, content_type })
    }
}

/// A form, ready to write events.
#[derive(Clone, Debug)]
pub enum Form {
    /// See [`Format::Standard`].
    Standard,
    /// See [`Format::Cloudevents`].
    Cloudevents,
    /// See [`Format::CloudeventsBinary`].
    CloudeventsBinary,
    /// See [`Format::Raw`].
    Raw,
    /// See [`Format::Template`]; with its content type.
    Template(Arc<Template>, HeaderValue),
}

impl Form {
    /// The form of a webhook.
    ///
    /// # Errors
    /// When the format needs a template and there is none that compiles.
    pub fn of(format: Format, template: Option<&TemplateSettings>) -> Result<Self, Problem> {
        Ok(match format {
            Format::Standard => Self::Standard,
            Format::Cloudevents => Self::Cloudevents,
            Format::CloudeventsBinary => Self::CloudeventsBinary,
            Format::Raw => Self::Raw,
            Format::Template => {
                let needed = || Problem::field("template", "required by the format `template`", "nothing");
                let TemplateSettings { body, content_type } = template.ok_or_else(needed)?;
                let compiled = Template::compile(body, content_type, "template.body")?;
                let value = HeaderValue::from_str(content_type)
                    .map_err(|_| Problem::field("template.content_type", "a header value", content_type))?;
                Self::Template(Arc::new(compiled), value)
            }
        })
    }

    /// Writes an event: sets the headers that belong to the form and returns the body.
    ///
    /// # Errors
    /// When the template fails on this event.
    pub async fn write(&self, event: &Arc<Event>, headers: &mut HeaderMap) -> Result<Bytes, TemplateFault> {
        let json = HeaderValue::from_static("application/json");
        let (body, content_type) = match self {
            Self::Standard => (event.rendered(BodyFormat::Standard), json),
            Self::Raw => (event.rendered(BodyFormat::Raw), json),
            Self::Cloudevents => (render_structured(event), HeaderValue::from_static(STRUCTURED)),
            Self::Template(compiled, content_type) => {
                (template::render(Arc::clone(compiled), Arc::clone(event)).await?, content_type.clone())
            }
            Self::CloudeventsBinary => {
                let (attributes, body) = render_binary(event);
                for (name, value) in attributes {
                    // Names are of lower-case letters and digits, values percent-encoded.
                    if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                        headers.insert(name, value);
                    }
                }
                return Ok(body);
            }
        };
        headers.insert(CONTENT_TYPE, content_type);
        Ok(body)
    }
}
