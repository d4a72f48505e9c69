//! What an upstream is to the hub (UPS-1).

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;

use super::call::{Answer, Call, CallError, Reply};
use crate::ground::clock::UnixMs;
use crate::ground::error::Problem;

/// Longest id of an adapter, in characters.
pub const ID_CHARS_MAX: usize = 64;
/// Longest version, in characters.
pub const VERSION_CHARS_MAX: usize = 64;

/// A system that the hub can call. Its futures run on a thread of the hub that serves other upstreams, too: work that
/// blocks belongs on a thread of its own.
///
/// ```
/// use futures_util::future::{BoxFuture, FutureExt as _};
/// use tidegate::upstream::call::{Call, CallError, Payload, Reply};
/// use tidegate::upstream::{Adapter, AdapterContext};
///
/// /// Adds up what it is sent.
/// struct Sums;
///
/// impl Adapter for Sums {
///     fn id(&self) -> &str {
///         "sums"
///     }
///
///     fn version(&self) -> &str {
///         "1.2.0"
///     }
///
///     fn validate(&self, call: &Call, _: &AdapterContext) -> Result<(), CallError> {
///         match &call.payload {
///             Payload::Json(value) if value.is_array() => Ok(()),
///             _ => Err(CallError::validation("a list of numbers")),
///         }
///     }
///
///     fn execute<'a>(&'a self, call: &'a Call, _: &'a AdapterContext) -> BoxFuture<'a, Result<Reply, CallError>> {
///         async move {
///             let Payload::Json(numbers) = &call.payload else { return Err(CallError::validation("a list")) };
///             let sum: i64 = numbers.as_array().into_iter().flatten().filter_map(|one| one.as_i64()).sum();
///             Ok(Reply::json(200, &serde_json::json!({ "sum": sum })))
///         }
///         .boxed()
///     }
///
///     fn health_check<'a>(&'a self, _: &'a AdapterContext) -> BoxFuture<'a, Result<(), CallError>> {
///         async { Ok(()) }.boxed()
///     }
/// }
/// ```
pub trait Adapter: Send + Sync + 'static {
    /// Its id, unique in the hub: `a-z 0-9 - _`, a letter or digit first, at most [`ID_CHARS_MAX`] characters.
    fn id(&self) -> &str;

    /// Its semantic version, such as `1.4.0`.
    fn version(&self) -> &str;

    /// Whether it can be asked this. Called once, before anything else.
    ///
    /// # Errors
    /// [`CallError::validation`] when it cannot; nothing is called then.
    fn validate(&self, call: &Call, context: &AdapterContext) -> Result<(), CallError>;

    /// Makes one attempt. Dropped when its time is over.
    fn execute<'a>(&'a self, call: &'a Call, context: &'a AdapterContext) -> BoxFuture<'a, Result<Reply, CallError>>;

    /// What the reply means to who asked. Reads it as the call expects unless it says otherwise.
    ///
    /// # Errors
    /// [`CallError::malformed`] when it makes no sense.
    fn transform(&self, call: &Call, reply: Reply, _: &AdapterContext) -> Result<Answer, CallError> {
        reply.read(call)
    }

    /// Where a call goes, for the log: host and path, without a query.
    fn place(&self, call: &Call) -> String {
        call.operation.clone()
    }

    /// Whether it can be reached and takes the credential.
    fn health_check<'a>(&'a self, context: &'a AdapterContext) -> BoxFuture<'a, Result<(), CallError>>;
}

/// In which context a call is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdapterContext {
    /// What the call is part of; the call path makes one when it is empty.
    pub correlation_id: String,
    /// The tenant it is made for: it gets that tenant's credential.
    pub tenant: Option<String>,
    /// Who asked: `admin`, `key:ID`, or the name of a rule.
    pub user: Option<String>,
    /// When it was asked.
    pub timestamp: UnixMs,
    /// Attempts that were made before this one, those of a durable queue included.
    pub retry_count: u32,
    /// The trace it is part of (W3C Trace Context).
    pub traceparent: Option<String>,
    /// What else there is to know.
    pub metadata: BTreeMap<String, String>,
}

impl AdapterContext {
    /// A context of this tenant and time.
    #[must_use]
    pub fn new(tenant: Option<&str>, timestamp: UnixMs) -> Self {
        Self { tenant: tenant.map(str::to_owned), timestamp, ..Self::default() }
    }
}

/// Checks the id of an adapter or a read.
///
/// # Errors
/// A problem that names `field`.
pub fn check_id(field: &str, id: &str) -> Result<(), Problem> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let fits = id.len() <= ID_CHARS_MAX
        && id.bytes().next().is_some_and(plain)
        && id.bytes().all(|byte| plain(byte) || matches!(byte, b'-' | b'_'));
    if fits {
        return Ok(());
    }
    let limit = format!("1 to {ID_CHARS_MAX} of a-z 0-9 - _, a letter or digit first");
    Err(Problem::field(field, limit, id.escape_debug()))
}

/// Checks a semantic version (semver.org, 2.0.0).
///
/// # Errors
/// A problem that names `field`.
pub fn check_version(field: &str, version: &str) -> Result<(), Problem> {
    let refuse = || Problem::field(field, "a semantic version, such as 1.4.0", version.escape_debug());
    if version.len() > VERSION_CHARS_MAX {
        return Err(refuse());
    }
    let number = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'))
    };
    let word = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    // A number among the identifiers of a pre-release has no zero before it.
    let pre = |text: &str| word(text) && (!text.bytes().all(|byte| byte.is_ascii_digit()) || number(text));
    let (rest, build) = version.split_once('+').map_or((version, None), |(rest, build)| (rest, Some(build)));
    let (core, release) = rest.split_once('-').map_or((rest, None), |(core, release)| (core, Some(release)));
    let fits = core.split('.').count() == 3
        && core.split('.').all(number)
        && release.is_none_or(|text| text.split('.').all(pre))
        && build.is_none_or(|text| text.split('.').all(word));
    if fits { Ok(()) } else { Err(refuse()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_of_semver() {
        for fits in ["0.0.0", "1.4.0", "10.20.30", "1.0.0-alpha.1", "1.0.0-0a+001", "1.0.0+build.5", "1.0.0--"] {
            assert_eq!(check_version("version", fits), Ok(()), "{fits}");
        }
        for bad in ["", "1", "1.2", "01.2.3", "1.2.3.4", "1.2.x", "1.0.0-", "1.0.0-01", "1.0.0+", "v1.0.0", "1.0.0-a_b"]
        {
            assert_eq!(check_version("version", bad).expect_err("refused").field.as_deref(), Some("version"), "{bad}");
        }
        assert!(check_version("version", &format!("1.0.0-{}", "a".repeat(80))).is_err());
    }

    #[test]
    fn ids_are_short_words() {
        for fits in ["crm", "0crm", "a-b_c", &"a".repeat(64)] {
            assert_eq!(check_id("id", fits), Ok(()), "{fits}");
        }
        for bad in ["", "-a", "_a", "A", "a b", "a/b", "a.b", "é", "a\n", &"a".repeat(65)] {
            assert!(check_id("id", bad).is_err(), "{bad}");
        }
    }
}
