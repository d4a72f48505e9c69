//! Signatures of deliveries after Standard Webhooks (WHK-2): `v1,` and the base64 HMAC-SHA256 of
//! `{id}.{timestamp}.{body}` under the bytes of a `whsec_` secret.
//! Source: <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::ground::clock::UnixMs;
use crate::ground::random::Random;
use crate::ground::secret::Secret;

/// What a secret starts with.
pub const SECRET_PREFIX: &str = "whsec_";
/// Shortest key, in bytes.
pub const KEY_BYTES_MIN: usize = 24;
/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 64;
/// How far the timestamp of a delivery may lie from the receiver's clock, in seconds.
pub const TOLERANCE_S: u64 = 300;
/// Signatures of one header that a receiver looks at.
const SIGNATURES_MAX: usize = 16;

/// Why a text is no signing secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It does not start with `whsec_`.
    #[error("a signing secret starts with `whsec_`")]
    Prefix,
    /// What follows is not base64.
    #[error("a signing secret is base64 after `whsec_`")]
    Encoding,
    /// The key is too short or too long.
    #[error("a signing key has 24 to 64 bytes, not {0}")]
    Length(usize),
}

/// Why a delivery was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The timestamp is no count of seconds.
    #[error("the timestamp is no number of seconds")]
    Timestamp,
    /// The timestamp lies too far in the past.
    #[error("the timestamp is more than {TOLERANCE_S} s old")]
    TooOld,
    /// The timestamp lies too far in the future.
    #[error("the timestamp is more than {TOLERANCE_S} s ahead")]
    TooNew,
    /// No signature of the header fits.
    #[error("no signature fits")]
    NoMatch,
}

/// A key ready to sign: the HMAC has taken it in, which is half the cost of a short signature.
#[derive(Clone)]
pub struct SigningKey {
    keyed: Hmac<Sha256>,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(***)")
    }
}

impl SigningKey {
    /// A new secret, `whsec_` and 24 random bytes in base64.
    #[must_use]
    pub fn generate(random: &dyn Random) -> Secret {
        let mut key = Zeroizing::new([0_u8; KEY_BYTES_MIN]);
        random.fill(key.as_mut_slice());
        let encoded = Zeroizing::new(STANDARD.encode(key.as_slice()));
        Secret::new(format!("{SECRET_PREFIX}{}", *encoded))
    }

    /// The key of a `whsec_` secret.
    ///
    /// # Errors
    /// When the text is not that; the error repeats nothing of it.
    pub fn from_secret(secret: &Secret) -> Result<Self, KeyError> {
        let encoded = secret.expose().strip_prefix(SECRET_PREFIX).ok_or(KeyError::Prefix)?;
        let key = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| KeyError::Encoding)?);
        if !(KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&key.len()) {
            return Err(KeyError::Length(key.len()));
        }
        let keyed = Hmac::new_from_slice(&key).map_err(|_| KeyError::Length(key.len()))?;
        Ok(Self { keyed })
    }

    /// The signature of a delivery: `v1,…`. `timestamp_s` is in seconds since 1970.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp_s: u64, body: &[u8]) -> String {
        let mut out = String::with_capacity(48);
        out.push_str("v1,");
        STANDARD.encode_string(self.mac(id, timestamp_s, body), &mut out);
        out
    }

    /// Checks the headers `webhook-id`, `webhook-timestamp` and `webhook-signature` (one or more signatures with spaces
    /// between) of a delivery, as a receiver does.
    ///
    /// # Errors
    /// What does not fit.
    pub fn verify(
        &self,
        id: &str,
        timestamp: &str,
        signatures: &str,
        body: &[u8],
        now: UnixMs,
    ) -> Result<(), VerifyError> {
        let timestamp_s: u64 = timestamp.parse().map_err(|_| VerifyError::Timestamp)?;
        let now_s = now.0 / 1_000;
        if timestamp_s.saturating_add(TOLERANCE_S) < now_s {
            return Err(VerifyError::TooOld);
        }
        if timestamp_s > now_s.saturating_add(TOLERANCE_S) {
            return Err(VerifyError::TooNew);
        }
        let wanted = self.sign(id, timestamp_s, body);
        let fits = |found: &str| bool::from(found.as_bytes().ct_eq(wanted.as_bytes()));
        if signatures.split(' ').take(SIGNATURES_MAX).any(fits) { Ok(()) } else { Err(VerifyError::NoMatch) }
    }

    fn mac(&self, id: &str, timestamp_s: u64, body: &[u8]) -> [u8; 32] {
        let mut mac = self.keyed.clone();
        mac.update(id.as_bytes());
        mac.update(b".");
        mac.update(timestamp_s.to_string().as_bytes());
        mac.update(b".");
        mac.update(body);
        mac.finalize().into_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::random::SeededRandom;

    const ID: &str = "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk";
    const TIMESTAMP_S: u64 = 1_649_367_553;
    const NOW: UnixMs = UnixMs(TIMESTAMP_S * 1_000 + 999);
    const BODY: &[u8] = br#"{"email":"test@example.com","username":"test_user"}"#;
    const SIGNATURE: &str = "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=";

    fn key() -> SigningKey {
        SigningKey::from_secret(&Secret::new("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")).expect("a key")
    }

    #[test]
    fn the_published_example_is_signed_as_published() {
        assert_eq!(key().sign(ID, TIMESTAMP_S, BODY), SIGNATURE);
        assert_eq!(key().sign(ID, TIMESTAMP_S, BODY), key().clone().sign(ID, TIMESTAMP_S, BODY));
    }

    #[test]
    fn a_delivery_with_anything_changed_is_refused() {
        let verify = |id: &str, timestamp: &str, signatures: &str, body: &[u8]| {
            key().verify(id, timestamp, signatures, body, NOW)
        };
        let timestamp = TIMESTAMP_S.to_string();
        assert_eq!(verify(ID, &timestamp, SIGNATURE, BODY), Ok(()));
        assert_eq!(verify(ID, &timestamp, &format!("v1a,x v1,{} {SIGNATURE}", &SIGNATURE[4..]), BODY), Ok(()));
        assert_eq!(verify("other", &timestamp, SIGNATURE, BODY), Err(VerifyError::NoMatch));
        assert_eq!(verify(ID, "1649367554", SIGNATURE, BODY), Err(VerifyError::NoMatch));
        assert_eq!(verify(ID, &timestamp, SIGNATURE, b"{}"), Err(VerifyError::NoMatch));
        assert_eq!(verify(ID, &timestamp, &SIGNATURE[..20], BODY), Err(VerifyError::NoMatch));
        assert_eq!(verify(ID, &timestamp, "", BODY), Err(VerifyError::NoMatch));
        assert_eq!(verify(ID, "soon", SIGNATURE, BODY), Err(VerifyError::Timestamp));
        let other = SigningKey::from_secret(&SigningKey::generate(&*SeededRandom::shared(1))).expect("a key");
        assert_eq!(other.verify(ID, &timestamp, SIGNATURE, BODY, NOW), Err(VerifyError::NoMatch));
    }

    #[test]
    fn a_timestamp_is_taken_up_to_five_minutes_off() {
        let at = |now_s: u64| key().verify(ID, &TIMESTAMP_S.to_string(), SIGNATURE, BODY, UnixMs(now_s * 1_000));
        assert_eq!(at(TIMESTAMP_S + 300), Ok(()));
        assert_eq!(at(TIMESTAMP_S + 301), Err(VerifyError::TooOld));
        assert_eq!(at(TIMESTAMP_S - 300), Ok(()));
        assert_eq!(at(TIMESTAMP_S - 301), Err(VerifyError::TooNew));
    }

    #[test]
    fn a_made_secret_is_a_key_and_no_two_are_the_same() {
        let random = SeededRandom::shared(3);
        let (one, two) = (SigningKey::generate(&*random), SigningKey::generate(&*random));
        assert!(SigningKey::from_secret(&one).is_ok());
        assert_eq!(one.expose().len(), SECRET_PREFIX.len() + 32);
        assert!(one != two);
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        let refused = |text: &str| SigningKey::from_secret(&Secret::new(text)).expect_err("is refused");
        let bytes = |count: usize| format!("whsec_{}", STANDARD.encode(vec![7; count]));
        assert_eq!(refused("C2FVsBQIhrscChlQIMV+b5sSYspob7oD"), KeyError::Prefix);
        assert_eq!(refused("whsec_!"), KeyError::Encoding);
        assert_eq!(refused("whsec_"), KeyError::Length(0));
        assert_eq!(refused(&bytes(23)), KeyError::Length(23));
        assert_eq!(refused(&bytes(65)), KeyError::Length(65));
        assert!(SigningKey::from_secret(&Secret::new(bytes(64))).is_ok());
        assert_eq!(format!("{:?}", key()), "SigningKey(***)");
    }
}
