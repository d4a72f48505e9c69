//! Reading redactions: what a client may ask for, and the paths.

use serde::Deserialize as _;
use serde_json::Value;

use super::{Audience, PATH_CHARS_MAX, PATH_STEPS_MAX, REDACTIONS_MAX, RedactAction, Redaction, Root, Rule, Step};
use crate::ground::error::Problem;

/// Members of `request_context` that travel in headers and answers, and cannot be redacted.
const TRACED: [&[u8]; 2] = [b"correlation_id", b"causation_id"];

pub(super) fn check_count(field: &str, count: usize) -> Result<(), Problem> {
    if count > REDACTIONS_MAX {
        return Err(Problem::field(field, format!("at most {REDACTIONS_MAX} redactions"), count));
    }
    Ok(())
}

pub(super) fn redactions(field: &str, sent: &Value) -> Result<Vec<Redaction>, Problem> {
    let Value::Array(entries) = sent else {
        return Err(Problem::field(field, "a list of {path, action, audiences}", sent));
    };
    check_count(field, entries.len())?;
    entries.iter().enumerate().map(|(at, entry)| redaction(&format!("{field}[{at}]"), entry)).collect()
}

fn redaction(field: &str, sent: &Value) -> Result<Redaction, Problem> {
    let Value::Object(members) = sent else {
        return Err(Problem::field(field, "an object of path, action and audiences", sent));
    };
    for name in members.keys() {
        if !matches!(name.as_str(), "path" | "action" | "audiences") {
            let limit = "unknown field; known are path, action, audiences";
            return Err(Problem::unknown(format!("{field}.{}", crate::ground::limits::clip(name, 64)), limit));
        }
    }
    let member = |name: &str| members.get(name).filter(|value| !value.is_null());
    let path = match member("path") {
        Some(Value::String(path)) => path.clone(),
        Some(other) => return Err(Problem::field(format!("{field}.path"), "a JSON pointer", other)),
        None => return Err(Problem::field(format!("{field}.path"), "required", "nothing")),
    };
    let sent_action =
        member("action").ok_or_else(|| Problem::field(format!("{field}.action"), "required", "nothing"))?;
    let action = RedactAction::deserialize(sent_action)
        .map_err(|_| Problem::field(format!("{field}.action"), "one of mask, hash, drop", sent_action))?;
    let audiences = match member("audiences") {
        Some(sent) => audiences(&format!("{field}.audiences"), sent)?,
        None => Audience::ALL.to_vec(),
    };
    let redaction = Redaction { path, action, audiences };
    rule(field, &redaction)?;
    Ok(redaction)
}

fn audiences(field: &str, sent: &Value) -> Result<Vec<Audience>, Problem> {
    let Value::Array(entries) = sent else {
        return Err(Problem::field(field, "a list of webhook, cdc, export, console", sent));
    };
    let mut audiences = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        let audience = Audience::deserialize(entry)
            .map_err(|_| Problem::field(format!("{field}[{at}]"), "one of webhook, cdc, export, console", entry))?;
        if audiences.contains(&audience) {
            return Err(Problem::field(format!("{field}[{at}]"), "each audience once", entry));
        }
        audiences.push(audience);
    }
    audiences.sort_unstable();
    Ok(audiences)
}

/// Compiles one redaction.
pub(super) fn rule(field: &str, redaction: &Redaction) -> Result<Rule, Problem> {
    if redaction.audiences.is_empty() {
        return Err(Problem::field(format!("{field}.audiences"), "at least one audience", "none"));
    }
    let steps =
        steps(&redaction.path).map_err(|limit| Problem::field(format!("{field}.path"), limit, &redaction.path))?;
    check_place(&steps, redaction.action)
        .map_err(|limit| Problem::field(format!("{field}.path"), limit, &redaction.path))?;
    Ok(Rule { steps: steps.into(), action: redaction.action })
}

fn steps(path: &str) -> Result<Vec<Step>, String> {
    if path.chars().count() > PATH_CHARS_MAX {
        return Err(format!("at most {PATH_CHARS_MAX} characters"));
    }
    let Some(inner) = path.strip_prefix('/') else {
        return Err("a JSON pointer: it starts with `/`".to_owned());
    };
    let steps: Vec<Step> = inner.split('/').map(step).collect::<Result<_, _>>()?;
    if steps.len() > PATH_STEPS_MAX {
        return Err(format!("at most {PATH_STEPS_MAX} steps"));
    }
    Ok(steps)
}

fn step(text: &str) -> Result<Step, String> {
    if text == "*" {
        return Ok(Step::Any);
    }
    let mut name = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(char) = rest.next() {
        match char {
            '~' => match rest.next() {
                Some('0') => name.push('~'),
                Some('1') => name.push('/'),
                Some(_) | None => return Err("a JSON pointer: `~` is written `~0`, `/` within a name `~1`".to_owned()),
            },
            other => name.push(other),
        }
    }
    let number = name == "0" || (name.bytes().all(|byte| byte.is_ascii_digit()) && !name.starts_with('0'));
    let index = if number { name.parse().ok() } else { None };
    Ok(Step::Named { name: name.into_bytes().into(), index })
}

/// Whether a redaction may point there.
fn check_place(steps: &[Step], action: RedactAction) -> Result<(), &'static str> {
    const ROOTS: &str =
        "within /data, /metadata, /source_refs or /request_context; what identifies an event cannot be redacted";
    const WHOLE: &str = "the whole of /metadata and of /source_refs can only be dropped: their form is given";
    let root = match steps.first() {
        Some(Step::Named { name, .. }) => Root::ALL.into_iter().find(|root| root.name().as_bytes() == name.as_ref()),
        Some(Step::Any) | None => None,
    };
    let dropped = action == RedactAction::Drop;
    match (root.ok_or(ROOTS)?, steps.get(1), steps.len()) {
        (Root::Data, ..) | (Root::Metadata, Some(_), _) => Ok(()),
        (Root::Metadata | Root::SourceRefs, None, _) => {
            if dropped {
                Ok(())
            } else {
                Err(WHOLE)
            }
        }
        (Root::SourceRefs, Some(_), 3) if !dropped => Ok(()),
        (Root::SourceRefs, Some(_), _) => {
            Err("a member of the entries, as /source_refs/*/id, to be masked or hashed: their form is given")
        }
        (Root::RequestContext, Some(Step::Named { name, .. }), _) if !TRACED.contains(&name.as_ref()) => Ok(()),
        (Root::RequestContext, ..) => {
            Err("a named member of /request_context other than correlation_id and causation_id")
        }
    }
}
