//! Reading events from the outside.

/// Whether the JSON object `body` has a member of this name at its top level.
#[must_use]
pub fn has_member(body: &[u8], name: &str) -> bool {
    serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(body).is_ok_and(|map| map.contains_key(name))
}

/// Whether two texts are the same JSON value.
#[must_use]
pub fn same_json(a: &[u8], b: &[u8]) -> bool {
    a == b
}
