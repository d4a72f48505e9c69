//! How deliveries are signed: one mode a webhook, and during a rotation with two secrets (WHK-2, WHK-3).
//!
//! | mode | header | secret |
//! | --- | --- | --- |
//! | `standard` | `webhook-signature: v1,<base64 HMAC-SHA256>` | `whsec_…`, told once |
//! | `ed25519` | `webhook-signature: v1a,<base64 Ed25519>` | `whsk_…`, never told; receivers have the public key `whpk_…` |
//! | `hmac_sha256_hex` | `X-Signature: sha256=<hex>` over the body alone | its text is the key, told once |
//!
//! While two secrets hold, the first two modes send both signatures in one header, the new one first. A receiver of the
//! third compares one text with one header, so there `X-Signature` stays with the old secret to the end of the overlap,
//! and `X-Signature-Next` has the new one's: who knows only the old secret, and who knows only the new one and looks at
//! both headers, loses nothing.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::Signer as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::sign::{KeyError, SigningKey};
use crate::ground::clock::UnixMs;
use crate::ground::random::Random;
use crate::ground::secret::Secret;

/// What an Ed25519 private key starts with.
const PRIVATE_PREFIX: &str = "whsk_";
/// What an Ed25519 public key starts with.
const PUBLIC_PREFIX: &str = "whpk_";
/// Bytes of a plain HMAC key's text: 32 random bytes in hex.
const PLAIN_KEY_BYTES: usize = 32;

/// How a webhook signs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SigningMode {
    /// Standard Webhooks with a shared secret.
    #[default]
    Standard,
    /// Standard Webhooks with a key pair.
    Ed25519,
    /// A plain HMAC of the body.
    HmacSha256Hex,
}

/// A secret as it was made.
#[derive(Debug)]
pub struct Made {
    /// What is kept sealed.
    pub secret: Secret,
    /// What receivers verify with, in the mode that has a key pair.
    pub public_key: Option<String>,
}

impl Made {
    /// The end of what the receiver holds: of the secret, or of the public key.
    #[must_use]
    pub fn last4(&self) -> String {
        match &self.public_key {
            Some(public) => Secret::new(public.as_str()).last4(),
            None => self.secret.last4(),
        }
    }
}

/// One secret, ready to sign.
#[derive(Clone)]
pub enum Signer {
    /// See [`SigningMode::Standard`].
    Standard(SigningKey),
    /// See [`SigningMode::Ed25519`].
    Ed25519(Box<ed25519_dalek::SigningKey>),
    /// See [`SigningMode::HmacSha256Hex`].
    HmacSha256Hex(Hmac<Sha256>),
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer(***)")
    }
}

impl Signer {
    /// A new secret for this mode.
    #[must_use]
    pub fn generate(mode: SigningMode, random: &dyn Random) -> Made {
        let mut seed = Zeroizing::new([0_u8; PLAIN_KEY_BYTES]);
        match mode {
            SigningMode::Standard => Made { secret: SigningKey::generate(random), public_key: None },
            SigningMode::Ed25519 => {
                random.fill(seed.as_mut_slice());
                let encoded = Zeroizing::new(STANDARD.encode(seed.as_slice()));
                let key = ed25519_dalek::SigningKey::from_bytes(&seed);
                let public = format!("{PUBLIC_PREFIX}{}", STANDARD.encode(key.verifying_key().as_bytes()));
                Made { secret: Secret::new(format!("{PRIVATE_PREFIX}{}", *encoded)), public_key: Some(public) }
            }
            SigningMode::HmacSha256Hex => {
                random.fill(seed.as_mut_slice());
                Made { secret: Secret::new(hex::encode(seed.as_slice())), public_key: None }
            }
        }
    }

    /// The signer of a secret of this mode.
    ///
    /// # Errors
    /// When the secret is not one of this mode; the error repeats nothing of it.
    pub fn from_secret(mode: SigningMode, secret: &Secret) -> Result<Self, KeyError> {
        match mode {
            SigningMode::Standard => SigningKey::from_secret(secret).map(Self::Standard),
            SigningMode::Ed25519 => {
                let encoded = secret.expose().strip_prefix(PRIVATE_PREFIX).ok_or(KeyError::Prefix)?;
                let bytes = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| KeyError::Encoding)?);
                let seed: &[u8; 32] = bytes.as_slice().try_into().map_err(|_| KeyError::Length(bytes.len()))?;
                Ok(Self::Ed25519(Box::new(ed25519_dalek::SigningKey::from_bytes(seed))))
            }
            SigningMode::HmacSha256Hex => {
                let key = secret.expose().as_bytes();
                Hmac::new_from_slice(key).map(Self::HmacSha256Hex).map_err(|_| KeyError::Length(key.len()))
            }
        }
    }

    /// The signature as it stands in its header.
    #[must_use]
    pub fn signature(&self, id: &str, timestamp_s: u64, body: &[u8]) -> String {
        match self {
            Self::Standard(key) => key.sign(id, timestamp_s, body),
            Self::Ed25519(key) => {
                let mut signed = format!("{id}.{timestamp_s}.").into_bytes();
                signed.extend_from_slice(body);
                format!("v1a,{}", STANDARD.encode(key.sign(&signed).to_bytes()))
            }
            Self::HmacSha256Hex(keyed) => {
                let mut mac = keyed.clone();
                mac.update(body);
                format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
            }
        }
    }

    fn is_plain(&self) -> bool {
        match self {
            Self::Standard(_) | Self::Ed25519(_) => false,
            Self::HmacSha256Hex(_) => true,
        }
    }
}

/// The secrets of a webhook: the one that holds, and during a rotation the one before it.
#[derive(Clone, Debug)]
pub struct Signers {
    /// The one that holds.
    pub current: Signer,
    /// The one before it, until then.
    pub previous: Option<(Signer, UnixMs)>,
}

static WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
static X_SIGNATURE: HeaderName = HeaderName::from_static("x-signature");
static X_SIGNATURE_NEXT: HeaderName = HeaderName::from_static("x-signature-next");

impl Signers {
    /// Puts the signatures of a delivery at `now` into its headers.
    pub fn sign(&self, headers: &mut HeaderMap, id: &str, now: UnixMs, body: &[u8]) {
        let timestamp_s = now.0 / 1_000;
        let current = self.current.signature(id, timestamp_s, body);
        let previous = self.previous.as_ref().filter(|(_, until)| now < *until);
        let previous = previous.map(|(signer, _)| signer.signature(id, timestamp_s, body));
        let all = match (self.current.is_plain(), previous) {
            (false, None) => vec![(&WEBHOOK_SIGNATURE, current)],
            (false, Some(previous)) => vec![(&WEBHOOK_SIGNATURE, format!("{current} {previous}"))],
            (true, None) => vec![(&X_SIGNATURE, current)],
            (true, Some(previous)) => vec![(&X_SIGNATURE, previous), (&X_SIGNATURE_NEXT, current)],
        };
        for (name, text) in all {
            // Base64, hex and a few marks: never anything that is no header.
            if let Ok(value) = HeaderValue::try_from(text) {
                headers.insert(name.clone(), value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signature, Verifier as _, VerifyingKey};

    use super::*;
    use crate::ground::random::SeededRandom;

    const NOW: UnixMs = UnixMs(1_649_367_553_250);
    const MODES: [SigningMode; 3] = [SigningMode::Standard, SigningMode::Ed25519, SigningMode::HmacSha256Hex];

    fn made(mode: SigningMode, seed: u64) -> (Signer, Made) {
        let made = Signer::generate(mode, &*SeededRandom::shared(seed));
        (Signer::from_secret(mode, &made.secret).expect("a secret of its mode"), made)
    }

    fn signed(signers: &Signers, now: UnixMs) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        signers.sign(&mut headers, "e-1", now, b"{}");
        let text = |value: &HeaderValue| value.to_str().expect("text").to_owned();
        headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
    }

    #[test]
    fn a_public_key_verifies_what_its_private_key_signed_and_nothing_else() {
        let (signer, made) = made(SigningMode::Ed25519, 1);
        let public = made.public_key.clone().expect("a pair");
        let bytes = STANDARD.decode(public.strip_prefix("whpk_").expect("prefix")).expect("base64");
        let key = VerifyingKey::from_bytes(&bytes.try_into().expect("32 bytes")).expect("a key");
        let signature = signer.signature("e-1", 1_649_367_553, b"{}");
        let bytes = STANDARD.decode(signature.strip_prefix("v1a,").expect("v1a")).expect("base64");
        let signature = Signature::from_slice(&bytes).expect("64 bytes");
        assert!(key.verify(b"e-1.1649367553.{}", &signature).is_ok());
        assert!(key.verify(b"e-1.1649367553.{} ", &signature).is_err());
        assert_eq!(made.last4(), public[public.len() - 4..]);
    }

    #[test]
    fn the_plain_mode_is_the_published_hmac_of_the_body() {
        // The example of GitHub's documentation, "Testing the webhook payload validation".
        let secret = Secret::new("It's a Secret to Everybody");
        let signer = Signer::from_secret(SigningMode::HmacSha256Hex, &secret).expect("any text");
        assert_eq!(
            signer.signature("x", 1, b"Hello, World!"),
            "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
        );
    }

    #[test]
    fn both_secrets_sign_until_the_overlap_ends_and_not_after() {
        for mode in MODES {
            let ((old, _), (new, _)) = (made(mode, 1), made(mode, 2));
            let sign = |signer: &Signer| signer.signature("e-1", NOW.0 / 1_000, b"{}");
            let both = Signers { current: new.clone(), previous: Some((old.clone(), NOW.plus_ms(1))) };
            let alone = Signers { current: new.clone(), previous: None };
            let name = if mode == SigningMode::HmacSha256Hex { "x-signature" } else { "webhook-signature" };
            assert_eq!(signed(&alone, NOW), [(name.to_owned(), sign(&new))]);
            assert_eq!(signed(&both, NOW.plus_ms(1)), signed(&alone, NOW));
            let mut during = signed(&both, NOW);
            during.sort();
            if mode == SigningMode::HmacSha256Hex {
                let next = ("x-signature-next".to_owned(), sign(&new));
                assert_eq!(during, [(name.to_owned(), sign(&old)), next]);
            } else {
                assert_eq!(during, [(name.to_owned(), format!("{} {}", sign(&new), sign(&old)))]);
            }
        }
    }

    #[test]
    fn a_secret_of_another_mode_is_refused_and_none_is_printed() {
        let (signer, pair) = made(SigningMode::Ed25519, 3);
        assert_eq!(format!("{signer:?}"), "Signer(***)");
        assert!(!format!("{pair:?}").contains("whsk_"));
        let refused = |text: &str| Signer::from_secret(SigningMode::Ed25519, &Secret::new(text)).expect_err("refused");
        assert_eq!(refused("whsec_AAAA"), KeyError::Prefix);
        assert_eq!(refused("whsk_!"), KeyError::Encoding);
        assert_eq!(refused("whsk_AAAA"), KeyError::Length(3));
        assert!(Signer::from_secret(SigningMode::Standard, &pair.secret).is_err());
    }
}
