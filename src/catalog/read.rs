//! What a client says of a type, a version or a policy, field by field.

use serde_json::Value;

use super::policy::{
    Mode, OrgPolicy, QUARANTINE_AGE_MS_MAX, QUARANTINE_AGE_MS_MIN, QUARANTINE_BYTES_MAX, QUARANTINE_EVENTS_MAX,
    QuarantineRules,
};
use super::record::{Compatibility, Lifecycle, Specimen, TypeRecord, VersionState};
use crate::event::parse::check_type_name;
use crate::event::redact::{Redaction, Redactions};
use crate::ground::context::WriteContext;
use crate::ground::error::Problem;
use crate::ground::fields::Fields;
use crate::ground::limits::{CODE_CHARS_MAX, EVENT_TYPE_CHARS_MAX, SCOPE_CHARS_MAX, clip};

/// Largest description, in characters.
pub const DESCRIPTION_CHARS_MAX: usize = 2_000;
/// Most specimens of a type.
pub const SPECIMENS_MAX: usize = 20;
/// Largest specimens of a type together, in bytes of JSON: a row of the store is not much larger.
pub const SPECIMENS_BYTES_MAX: usize = 24 << 10;
/// Largest sample, in bytes of JSON.
pub const SAMPLE_BYTES_MAX: usize = 8 << 10;

/// Checks the name of a type.
///
/// # Errors
/// `InvalidField` of `name`.
pub fn check_name(name: &str) -> Result<(), Problem> {
    if name.is_empty() || name.chars().count() > EVENT_TYPE_CHARS_MAX {
        return Err(Problem::field("name", format!("1 to {EVENT_TYPE_CHARS_MAX} characters"), name));
    }
    check_type_name("name", name)
}

/// What a client asks for: what is none stays as it is, or is as a new type has it.
#[derive(Debug, Default)]
pub struct TypeWish {
    service: Option<Option<String>>,
    description: Option<Option<String>>,
    owner: Option<Option<String>>,
    lifecycle: Option<Lifecycle>,
    compatibility: Option<Compatibility>,
    transitive: Option<bool>,
    specimens: Option<Vec<Specimen>>,
    redactions: Option<Vec<Redaction>>,
    sample: Option<Option<Value>>,
}

/// A text that is set, or taken away with null.
fn settable(fields: &mut Fields, name: &'static str, chars_max: usize) -> Result<Option<Option<String>>, Problem> {
    let sent = fields.has(name);
    let text = fields.text(name, chars_max)?;
    Ok(sent.then_some(text))
}

fn flag(fields: &mut Fields, name: &'static str) -> Result<Option<bool>, Problem> {
    let Some(value) = fields.take(name) else { return Ok(None) };
    value.as_bool().map(Some).ok_or_else(|| Problem::field(name, "true or false", value))
}

fn bytes_of(value: &Value) -> usize {
    value.to_string().len()
}

impl TypeWish {
    /// Reads what a client says of the type `name`.
    ///
    /// # Errors
    /// When a field does not fit.
    pub fn read(mut fields: Fields, name: &str) -> Result<Self, Problem> {
        check_name(name)?;
        if let Some(given) = fields.text("name", EVENT_TYPE_CHARS_MAX)?
            && given != name
        {
            return Err(Problem::field("name", "the name in the path", given));
        }
        let wish = Self {
            service: settable(&mut fields, "service", SCOPE_CHARS_MAX)?,
            description: settable(&mut fields, "description", DESCRIPTION_CHARS_MAX)?,
            owner: settable(&mut fields, "owner", SCOPE_CHARS_MAX)?,
            lifecycle: fields.choice("lifecycle", "draft, active, deprecated, retired")?,
            compatibility: fields.choice("compatibility", "none, backward, forward, full")?,
            transitive: flag(&mut fields, "transitive")?,
            specimens: fields.take("specimens").map(read_specimens).transpose()?,
            redactions: fields.take("redactions").map(|value| Redactions::read("redactions", &value)).transpose()?,
            sample: match fields.sent("sample") {
                None => None,
                Some(Value::Null) => Some(None),
                Some(sample) => Some(Some(read_sample(sample, name)?)),
            },
        };
        fields.finish()?;
        Ok(wish)
    }

    /// The type as it is to be: what the wish does not name is as in `record`.
    #[must_use]
    pub fn apply(self, mut record: TypeRecord) -> TypeRecord {
        let Self { service, description, owner, lifecycle, compatibility, transitive, specimens, redactions, sample } =
            self;
        record.service = service.unwrap_or(record.service);
        record.description = description.unwrap_or(record.description);
        record.owner = owner.unwrap_or(record.owner);
        record.lifecycle = lifecycle.unwrap_or(record.lifecycle);
        record.compatibility = compatibility.unwrap_or(record.compatibility);
        record.transitive = transitive.unwrap_or(record.transitive);
        record.specimens = specimens.unwrap_or(record.specimens);
        record.redactions = redactions.unwrap_or(record.redactions);
        record.sample = sample.unwrap_or(record.sample);
        record
    }
}

/// A type that nothing was said of yet.
#[must_use]
pub fn blank(org: Option<&str>, name: &str, context: &WriteContext) -> TypeRecord {
    TypeRecord {
        name: name.to_owned(),
        org: org.map(str::to_owned),
        service: None,
        description: None,
        owner: None,
        lifecycle: Lifecycle::default(),
        compatibility: Compatibility::default(),
        transitive: false,
        specimens: Vec::new(),
        redactions: Vec::new(),
        sample: None,
        created: context.clone(),
        updated: context.clone(),
    }
}

fn read_specimens(value: Value) -> Result<Vec<Specimen>, Problem> {
    let Value::Array(entries) = value else { return Err(Problem::field("specimens", "a list", value)) };
    if entries.len() > SPECIMENS_MAX {
        return Err(Problem::field("specimens", format!("at most {SPECIMENS_MAX} entries"), entries.len()));
    }
    let bytes: usize = entries.iter().map(bytes_of).sum();
    if bytes > SPECIMENS_BYTES_MAX {
        let limit = format!("at most {SPECIMENS_BYTES_MAX} bytes of JSON together");
        return Err(Problem::field("specimens", limit, format!("{bytes} bytes")));
    }
    let mut out: Vec<Specimen> = Vec::with_capacity(entries.len());
    for (at, entry) in entries.into_iter().enumerate() {
        let specimen = read_specimen(&format!("specimens[{at}]"), entry)?;
        if out.iter().any(|other| other.name == specimen.name) {
            return Err(Problem::field(format!("specimens[{at}].name"), "each name once", specimen.name));
        }
        out.push(specimen);
    }
    Ok(out)
}

fn read_specimen(field: &str, value: Value) -> Result<Specimen, Problem> {
    let Value::Object(mut map) = value else { return Err(Problem::field(field, "an object", value)) };
    let mut text = |name: &str, chars_max: usize| match map.remove(name).filter(|value| !value.is_null()) {
        None => Ok(None),
        Some(Value::String(text))
            if !text.is_empty() && text.chars().count() <= chars_max && !text.chars().any(char::is_control) =>
        {
            Ok(Some(text))
        }
        Some(other) => {
            Err(Problem::field(format!("{field}.{name}"), format!("a text of 1 to {chars_max} characters"), other))
        }
    };
    let (name, version) = (text("name", SCOPE_CHARS_MAX)?, text("version", CODE_CHARS_MAX)?);
    let name = name.ok_or_else(|| Problem::field(format!("{field}.name"), "required", "nothing"))?;
    let data = map.remove("data").ok_or_else(|| Problem::field(format!("{field}.data"), "required", "nothing"))?;
    match map.keys().next() {
        Some(other) => {
            let place = format!("{field}.{}", clip(other, 64));
            Err(Problem::unknown(place, "unknown; known are name, version, data"))
        }
        None => Ok(Specimen { name, version, data }),
    }
}

fn read_sample(sample: Value, name: &str) -> Result<Value, Problem> {
    let text = |member: &str| sample.get(member).and_then(Value::as_str).filter(|text| !text.is_empty());
    if text("specversion") != Some("1.0") {
        let sent = sample.get("specversion").cloned().unwrap_or_default();
        return Err(Problem::field("sample.specversion", "a CloudEvent of version 1.0", sent));
    }
    for member in ["id", "source"] {
        if text(member).is_none() {
            return Err(Problem::field(format!("sample.{member}"), "required, a text", "nothing of that"));
        }
    }
    if text("type") != Some(name) {
        let sent = sample.get("type").cloned().unwrap_or_default();
        return Err(Problem::field("sample.type", format!("the type's own name, {name}"), sent));
    }
    let bytes = bytes_of(&sample);
    if bytes > SAMPLE_BYTES_MAX {
        let limit = format!("at most {SAMPLE_BYTES_MAX} bytes of JSON");
        return Err(Problem::field("sample", limit, format!("{bytes} bytes")));
    }
    Ok(sample)
}

/// What a client says of a new version.
#[derive(Debug)]
pub struct VersionWish {
    /// What events call it; none for its number.
    pub version: Option<String>,
    /// Where it begins its life.
    pub state: VersionState,
    /// Its schema.
    pub schema: Value,
}

impl VersionWish {
    /// Reads what a client says of a new version.
    ///
    /// # Errors
    /// When a field does not fit.
    pub fn read(mut fields: Fields) -> Result<Self, Problem> {
        let version = fields.text("version", CODE_CHARS_MAX)?;
        let state: Option<VersionState> = fields.choice("state", "draft, active")?;
        if state == Some(VersionState::Retired) {
            return Err(Problem::field("state", "draft or active for a new version", "retired"));
        }
        let schema = fields.take("schema").ok_or_else(|| Problem::field("schema", "required", "nothing"))?;
        fields.finish()?;
        Ok(Self { version, state: state.unwrap_or_default(), schema })
    }
}

/// The state a client wants a version in.
///
/// # Errors
/// When a field does not fit.
pub fn read_state(mut fields: Fields) -> Result<VersionState, Problem> {
    let state = fields.choice("state", "draft, active, retired")?;
    fields.finish()?;
    state.ok_or_else(|| Problem::field("state", "required", "nothing"))
}

/// The policy as it is to be, after what a client says of it.
///
/// # Errors
/// When a field does not fit.
pub fn read_policy(
    mut fields: Fields,
    org: Option<&str>,
    before: Option<&OrgPolicy>,
    context: WriteContext,
) -> Result<OrgPolicy, Problem> {
    let mode: Option<Mode> = fields.choice("policy", "open, warn, strict")?;
    let mut quarantine = before.map(|policy| policy.quarantine).unwrap_or_default();
    if let Some(value) = fields.take("quarantine") {
        quarantine = read_quarantine(value, quarantine)?;
    }
    fields.finish()?;
    let mode = mode.or(before.map(|policy| policy.mode)).unwrap_or_default();
    Ok(OrgPolicy { org: org.map(str::to_owned), mode, quarantine, updated: context })
}

fn read_quarantine(value: Value, mut rules: QuarantineRules) -> Result<QuarantineRules, Problem> {
    let Value::Object(map) = value else { return Err(Problem::field("quarantine", "an object", value)) };
    for (name, value) in map {
        let field = format!("quarantine.{}", clip(&name, 64));
        let number = |min: u64, max: u64| {
            let fits = value.as_u64().filter(|number| (min..=max).contains(number));
            fits.ok_or_else(|| Problem::field(field.clone(), format!("a whole number from {min} to {max}"), &value))
        };
        match name.as_str() {
            "enabled" => {
                rules.enabled =
                    value.as_bool().ok_or_else(|| Problem::field(field.clone(), "true or false", &value))?;
            }
            "events_max" => rules.events_max = number(1, QUARANTINE_EVENTS_MAX)?,
            "bytes_max" => rules.bytes_max = number(1, QUARANTINE_BYTES_MAX)?,
            "age_ms" => rules.age_ms = number(QUARANTINE_AGE_MS_MIN, QUARANTINE_AGE_MS_MAX)?,
            _ => {
                let limit = "unknown; known are enabled, events_max, bytes_max, age_ms";
                return Err(Problem::unknown(field, limit));
            }
        }
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(value: &Value) -> Option<String> {
        let fields = Fields::parse(value.to_string().as_bytes()).expect("an object");
        TypeWish::read(fields, "a.b").expect_err("refused").field
    }

    #[test]
    fn what_does_not_fit_a_type_is_named() {
        for (value, field) in [
            (json!({"name": "a.c"}), "name"),
            (json!({"owner": ""}), "owner"),
            (json!({"lifecycle": "dead"}), "lifecycle"),
            (json!({"compatibility": "both"}), "compatibility"),
            (json!({"transitive": "yes"}), "transitive"),
            (json!({"specimens": {}}), "specimens"),
            (json!({"specimens": [{"data": 1}]}), "specimens[0].name"),
            (json!({"specimens": [{"name": "x"}]}), "specimens[0].data"),
            (json!({"specimens": [{"name": "x", "data": 1, "why": 2}]}), "specimens[0].why"),
            (json!({"specimens": [{"name": "x", "data": 1}, {"name": "x", "data": 2}]}), "specimens[1].name"),
            (json!({"specimens": [{"name": "x", "data": "y".repeat(SPECIMENS_BYTES_MAX)}]}), "specimens"),
            (json!({"redactions": [{"path": "x", "action": "mask"}]}), "redactions[0].path"),
            (json!({"sample": {"specversion": "0.3"}}), "sample.specversion"),
            (json!({"sample": {"specversion": "1.0", "id": "1", "source": "/s", "type": "x"}}), "sample.type"),
            (json!({"sample": {"specversion": "1.0", "id": "1", "type": "a.b"}}), "sample.source"),
            (json!({"colour": 1}), "colour"),
        ] {
            assert_eq!(refused(&value).as_deref(), Some(field), "{}", clip(&value.to_string(), 100));
        }
        let fields = || Fields::parse(b"{}").expect("an object");
        assert!(TypeWish::read(fields(), "a..b").is_err());
        assert!(TypeWish::read(fields(), "").is_err());
    }

    #[test]
    fn a_change_leaves_what_it_does_not_name_and_null_takes_away() {
        let context = WriteContext::default();
        let read = |value: Value| {
            let fields = Fields::parse(value.to_string().as_bytes()).expect("an object");
            TypeWish::read(fields, "a.b").expect("fits")
        };
        let first = read(json!({"owner": "team", "lifecycle": "draft", "transitive": true}))
            .apply(blank(None, "a.b", &context));
        let second = read(json!({"owner": null, "lifecycle": "active"})).apply(first);
        assert_eq!((second.owner, second.lifecycle, second.transitive), (None, Lifecycle::Active, true));
    }

    #[test]
    fn a_policy_keeps_what_is_not_named() {
        let context = WriteContext::default;
        let read = |value: Value, before: Option<&OrgPolicy>| {
            let fields = Fields::parse(value.to_string().as_bytes()).expect("an object");
            read_policy(fields, Some("acme"), before, context())
        };
        let first =
            read(json!({"policy": "strict", "quarantine": {"enabled": true, "events_max": 5}}), None).expect("fits");
        let second = read(json!({"quarantine": {"age_ms": 60_000}}), Some(&first)).expect("fits");
        assert_eq!(second.mode, Mode::Strict);
        assert_eq!(
            (second.quarantine.enabled, second.quarantine.events_max, second.quarantine.age_ms),
            (true, 5, 60_000)
        );
        for (value, field) in [
            (json!({"policy": "lax"}), "policy"),
            (json!({"quarantine": {"events_max": 0}}), "quarantine.events_max"),
            (json!({"quarantine": {"age_ms": 1}}), "quarantine.age_ms"),
            (json!({"quarantine": {"enabled": 1}}), "quarantine.enabled"),
            (json!({"quarantine": {"size": 1}}), "quarantine.size"),
        ] {
            assert_eq!(read(value, None).expect_err("refused").field.as_deref(), Some(field));
        }
    }
}
