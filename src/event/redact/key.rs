//! Keyed hashes of redacted values.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::event::json::digest;
use crate::ground::secret::Sealer;

/// What a hash starts with, within its quotes.
const PREFIX: &str = "hash:";
/// Bytes of a hash that tell values apart.
const HASH_BYTES: usize = 16;
/// Bytes behind them by which the hub knows its own.
const TAG_BYTES: usize = 4;

/// The key of the hub, from which those of its orgs come.
#[derive(Clone)]
pub struct RedactionKey(Zeroizing<[u8; 32]>);

impl RedactionKey {
    /// The key that goes with the hub's store key: the same in every life of the hub.
    #[must_use]
    pub fn of(sealer: &Sealer) -> Self {
        Self(sealer.derived_key("tidegate redaction v1"))
    }

    /// The key of an org.
    #[must_use]
    pub(super) fn org(&self, org: &str) -> OrgKey {
        let key = Zeroizing::new(OrgKey::new(&self.0).mac(b"o", org.as_bytes()));
        OrgKey::new(&key)
    }
}

impl fmt::Debug for RedactionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedactionKey(***)")
    }
}

/// The key of an org, ready to hash.
#[derive(Clone)]
pub(super) struct OrgKey(Hmac<Sha256>);

impl fmt::Debug for OrgKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OrgKey(***)")
    }
}

impl OrgKey {
    fn new(key: &[u8; 32]) -> Self {
        #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
        Self(Hmac::new_from_slice(key).expect("a key"))
    }

    fn mac(&self, label: &[u8], bytes: &[u8]) -> [u8; 32] {
        let mut mac = self.0.clone();
        mac.update(label);
        mac.update(bytes);
        mac.finalize().into_bytes().into()
    }

    /// What stands in the place of this JSON text: a JSON text itself. A hash of this key stays as it is.
    pub(super) fn hashed(&self, value: &[u8]) -> Vec<u8> {
        if self.is_own(value) {
            return value.to_vec();
        }
        let mac = match digest(value) {
            Some(digest) => self.mac(b"v", &digest),
            // Nested deeper than an event may be.
            None => self.mac(b"t", value),
        };
        let hash = &mac[..HASH_BYTES];
        format!("\"{PREFIX}{}{}\"", hex::encode(hash), hex::encode(&self.mac(b"c", hash)[..TAG_BYTES])).into_bytes()
    }

    fn is_own(&self, value: &[u8]) -> bool {
        let inner = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
        let Some(digits) = inner.and_then(|inner| inner.strip_prefix(PREFIX.as_bytes())) else { return false };
        let mut bytes = [0_u8; HASH_BYTES + TAG_BYTES];
        if digits.iter().any(u8::is_ascii_uppercase) || hex::decode_to_slice(digits, &mut bytes).is_err() {
            return false;
        }
        let (hash, tag) = bytes.split_at(HASH_BYTES);
        tag == &self.mac(b"c", hash)[..TAG_BYTES]
    }
}
