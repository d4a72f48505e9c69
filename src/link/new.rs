//! A link that somebody wants, and what is checked of it.

use serde::Serialize;

use super::{Entity, Link, LinkType};
use crate::event::json::{StructureFault, StructureScan, members};
use crate::ground::context::{WriteContext, scoped_org};
use crate::ground::error::Problem;
use crate::ground::fields::Fields;
use crate::ground::limits::{AGGREGATE_ID_CHARS_MAX, METADATA_BYTES_MAX, NESTING_MAX, SCOPE_CHARS_MAX};

/// The types of links, in words.
pub const TYPE_WORDS: &str = "reference, cascade, aggregate_root";

/// A link to make. It is checked when it is made.
#[derive(Clone, Debug, PartialEq)]
pub struct NewLink {
    org: Option<String>,
    source: Entity,
    target: Entity,
    link_type: LinkType,
    metadata: Option<String>,
    /// What could not be written as JSON; told when the link is made.
    fault: Option<Problem>,
}

impl NewLink {
    /// A link of this type from one entity to another.
    #[must_use]
    pub fn new(source: Entity, target: Entity, link_type: LinkType) -> Self {
        Self { org: None, source, target, link_type, metadata: None, fault: None }
    }

    /// The tenant. A handler's links belong to the org of its event where nothing is said.
    #[must_use]
    pub fn org(mut self, org: impl Into<String>) -> Self {
        self.org = Some(org.into());
        self
    }

    /// What is to be known of the link: an object of up to 16 KiB.
    #[must_use]
    pub fn metadata(mut self, metadata: impl Serialize) -> Self {
        match serde_json::to_string(&metadata) {
            Ok(text) => self.metadata = Some(text),
            Err(error) => self.fault = Some(Problem::field("metadata", "fit for JSON", error)),
        }
        self
    }

    /// Reads the body of a request.
    ///
    /// # Errors
    /// When a field does not fit; its name is that of the request.
    pub fn read(body: &[u8]) -> Result<Self, Problem> {
        let mut fields = Fields::parse(body)?;
        let org = fields.text("org", SCOPE_CHARS_MAX)?;
        let source = Entity {
            module: fields.required_text("source_module", SCOPE_CHARS_MAX)?,
            entity_type: fields.required_text("source_type", SCOPE_CHARS_MAX)?,
            id: fields.required_text("source_id", AGGREGATE_ID_CHARS_MAX)?,
        };
        let target = Entity {
            module: fields.required_text("target_module", SCOPE_CHARS_MAX)?,
            entity_type: fields.required_text("target_type", SCOPE_CHARS_MAX)?,
            id: fields.required_text("target_id", AGGREGATE_ID_CHARS_MAX)?,
        };
        let link_type = fields.choice("link_type", TYPE_WORDS)?;
        let link_type = link_type
            .ok_or_else(|| Problem::field("link_type", format!("required: one of {TYPE_WORDS}"), "nothing"))?;
        let given = fields.take("metadata").is_some();
        fields.finish()?;
        let metadata = if given { raw_member(body, "metadata") } else { None };
        Ok(Self { org, source, target, link_type, metadata, fault: None })
    }

    /// The link, checked, for a principal that is confined to an org or not.
    ///
    /// # Errors
    /// When a field does not fit.
    pub fn checked(self, confined_to: Option<&str>, created: WriteContext) -> Result<Link, Problem> {
        let Self { org, source, target, link_type, metadata, fault } = self;
        if let Some(fault) = fault {
            return Err(fault);
        }
        let org = scoped_org(org, confined_to)?.ok_or_else(|| Problem::field("org", "required", "nothing"))?;
        check_text("org", &org, SCOPE_CHARS_MAX)?;
        check_entity("source_", &source)?;
        check_entity("target_", &target)?;
        if source == target {
            return Err(Problem::field("target_id", "another entity than the source", &target));
        }
        if let Some(metadata) = &metadata {
            check_metadata(metadata)?;
        }
        Ok(Link { org, source, target, link_type, metadata, created })
    }
}

/// The text of a member of a body that has been parsed; of two of one name the last, as the parser takes it.
fn raw_member(body: &[u8], name: &str) -> Option<String> {
    let member = members(body).filter(|member| member.name.as_ref() == name.as_bytes()).last()?;
    Some(String::from_utf8_lossy(&body[member.value]).into_owned())
}

/// Checks a text that names something.
///
/// # Errors
/// When it is empty, too long, or holds control characters.
pub(super) fn check_text(field: &str, text: &str, chars_max: usize) -> Result<(), Problem> {
    if text.is_empty() || text.chars().count() > chars_max {
        return Err(Problem::field(field, format!("1 to {chars_max} characters"), text));
    }
    if text.chars().any(char::is_control) {
        return Err(Problem::field(field, "no control characters", text.escape_debug()));
    }
    Ok(())
}

/// Checks an entity whose fields have names that begin with `prefix`.
///
/// # Errors
/// When one does not fit.
pub(super) fn check_entity(prefix: &str, entity: &Entity) -> Result<(), Problem> {
    check_text(&format!("{prefix}module"), &entity.module, SCOPE_CHARS_MAX)?;
    check_text(&format!("{prefix}type"), &entity.entity_type, SCOPE_CHARS_MAX)?;
    check_text(&format!("{prefix}id"), &entity.id, AGGREGATE_ID_CHARS_MAX)
}

fn check_metadata(metadata: &str) -> Result<(), Problem> {
    if !metadata.starts_with('{') {
        return Err(Problem::field("metadata", "a JSON object", metadata));
    }
    if metadata.len() > METADATA_BYTES_MAX {
        return Err(Problem::field(
            "metadata",
            format!("at most {METADATA_BYTES_MAX} bytes"),
            format!("{} bytes", metadata.len()),
        ));
    }
    match StructureScan::default().check("metadata", metadata.as_bytes(), NESTING_MAX) {
        Ok(()) => Ok(()),
        Err(StructureFault::Duplicate { path }) => Err(Problem::field(path, "named once", "a second time")),
        Err(StructureFault::TooDeep { path }) => {
            Err(Problem::field(path, format!("at most {NESTING_MAX} levels of nesting"), "more"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn body() -> Value {
        json!({
            "org": "acme", "source_module": "crm", "source_type": "contact", "source_id": "17",
            "target_module": "erp", "target_type": "customer", "target_id": "C-9", "link_type": "cascade",
        })
    }

    fn read(body: &str) -> Result<Link, Problem> {
        NewLink::read(body.as_bytes())?.checked(None, WriteContext::default())
    }

    #[test]
    fn a_link_is_read_and_its_metadata_kept_as_it_came() {
        let text = body().to_string().replace('}', r#","metadata":{"b": 1.10,"a":12345678901234567890}}"#);
        let link = read(&text).expect("is taken");
        assert_eq!(link.source, Entity::new("crm", "contact", "17"));
        assert_eq!(link.target, Entity::new("erp", "customer", "C-9"));
        assert_eq!(link.link_type, LinkType::Cascade);
        assert_eq!(link.metadata.as_deref(), Some(r#"{"b": 1.10,"a":12345678901234567890}"#));
        assert_eq!(read(&body().to_string()).expect("is taken").metadata, None);
    }

    #[test]
    fn every_field_that_does_not_fit_is_named() {
        let refused = |change: Value| {
            let mut body = body();
            for (name, value) in change.as_object().expect("an object") {
                body[name] = value.clone();
            }
            read(&body.to_string()).expect_err("is refused").field.expect("names a field")
        };
        for name in
            ["source_module", "source_type", "source_id", "target_module", "target_type", "target_id", "link_type"]
        {
            assert_eq!(refused(json!({ (name): null })), name);
            assert_eq!(refused(json!({ (name): "" })), name);
            assert_eq!(refused(json!({ (name): 7 })), name);
            assert_eq!(refused(json!({ (name): "x".repeat(300) })), name);
            assert_eq!(refused(json!({ (name): "a\u{0}b" })), name);
        }
        assert_eq!(refused(json!({ "org": null })), "org");
        assert_eq!(refused(json!({ "link_type": "friend" })), "link_type");
        assert_eq!(refused(json!({ "colour": 1 })), "colour");
        assert_eq!(refused(json!({ "metadata": [1] })), "metadata");
        assert_eq!(refused(json!({ "metadata": { "x": "y".repeat(17_000) } })), "metadata");
        assert_eq!(
            refused(json!({ "target_module": "crm", "target_type": "contact", "target_id": "17" })),
            "target_id"
        );
        let deep = format!("{}{}", "{\"a\":".repeat(80), format!("1{}", "}".repeat(80)));
        let text = body().to_string().replace('}', &format!(",\"metadata\":{deep}}}"));
        assert!(read(&text).expect_err("is refused").limit.is_some_and(|limit| limit.contains("64")));
        let twice = body().to_string().replace('}', r#","metadata":{"a":1,"a":2}}"#);
        assert_eq!(read(&twice).expect_err("is refused").field.as_deref(), Some("metadata.a"));
    }

    #[test]
    fn the_program_is_held_to_the_same_bounds() {
        let new = |id: &str| {
            NewLink::new(Entity::new("crm", "contact", id), Entity::new("erp", "c", "1"), LinkType::Reference)
        };
        let fault = |new: NewLink| new.checked(Some("acme"), WriteContext::default()).expect_err("is refused").field;
        assert_eq!(fault(new("")).as_deref(), Some("source_id"));
        assert_eq!(fault(new("a\nb")).as_deref(), Some("source_id"));
        assert_eq!(fault(new("1").org("other")).as_deref(), Some("org"));
        assert_eq!(fault(new("1").metadata(7)).as_deref(), Some("metadata"));
        let link =
            new("1").metadata(json!({ "a": 1 })).checked(Some("acme"), WriteContext::default()).expect("is taken");
        assert_eq!((link.org.as_str(), link.metadata.as_deref()), ("acme", Some(r#"{"a":1}"#)));
    }
}
