//! Identifiers and positions. Each is its own type, so that none can stand where another belongs.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::clock::UnixMs;
use super::random::Random;

/// A position in the log. The first event has 1; 0 stands before everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl Seq {
    /// Before the first event.
    pub const ZERO: Self = Self(0);

    /// The position after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The position before this one; zero stays zero.
    #[must_use]
    pub fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// Big-endian bytes, which sort as the numbers do.
    #[must_use]
    pub fn to_key(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Fencing token of one claim of one delivery: a later claim of the same event has a larger one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// Who receives events under a name: a webhook (`whk_…`), an in-process handler (`handler:NAME`), a publish
/// rule (`publish:UPSTREAM:RULE`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConsumerId(pub Arc<str>);

impl ConsumerId {
    /// The id of a webhook consumer or any other whose text is complete already.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(Arc::from(text))
    }

    /// The id of the in-process consumer called `name`.
    #[must_use]
    pub fn handler(name: &str) -> Self {
        Self(Arc::from(format!("handler:{name}")))
    }

    /// The id of the consumer that a publish rule of an upstream is. Neither name has a colon.
    #[must_use]
    pub fn publish(upstream: &str, rule: &str) -> Self {
        Self(Arc::from(format!("{PUBLISH}{upstream}:{rule}")))
    }

    /// The upstream and the rule, when it is a publish rule.
    #[must_use]
    pub fn of_publish(&self) -> Option<(&str, &str)> {
        self.0.strip_prefix(PUBLISH)?.split_once(':')
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What the ids of publish rules begin with.
const PUBLISH: &str = "publish:";

impl fmt::Display for ConsumerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A `UUIDv7` (RFC 9562): sorts by the time it was made, which keeps index inserts sequential.
#[must_use]
pub fn uuid_v7(now: UnixMs, random: &dyn Random) -> Uuid {
    let mut bytes = [0_u8; 10];
    random.fill(&mut bytes);
    uuid::Builder::from_unix_timestamp_millis(now.0, &bytes).into_uuid()
}

/// The lowest id that [`prefixed`] can have made at this time: those made before sort below it, the others do not.
#[must_use]
pub fn prefixed_from(prefix: &str, at: UnixMs) -> String {
    format!("{prefix}_{}", uuid::Builder::from_unix_timestamp_millis(at.0, &[0; 10]).into_uuid().simple())
}

/// `prefix_` and a `UUIDv7` without hyphens, such as `whk_0190…`.
#[must_use]
pub fn prefixed(prefix: &str, now: UnixMs, random: &dyn Random) -> String {
    format!("{prefix}_{}", uuid_v7(now, random).simple())
}
