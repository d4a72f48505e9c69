//! How a request proves who sent it, provider by provider.
//!
//! Sources: GitHub "Validating webhook deliveries"; Stripe "Verify webhook signatures manually"; Slack "Verifying requests
//! from Slack"; Shopify "Verify webhook deliveries"; Standard Webhooks, its specification; RFC 6750 and RFC 7617.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512};
use subtle::ConstantTimeEq as _;

use crate::ground::clock::UnixMs;
use crate::ground::secret::Secret;
use crate::webhook::sign::SigningKey;

/// How far a signed timestamp may lie from the hub's clock unless a source says otherwise, in seconds.
pub const TOLERANCE_S_DEFAULT: u64 = 300;
/// Signatures of one header that are looked at.
const SIGNATURES_MAX: usize = 16;

/// A hash of generic HMAC signatures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// SHA-256.
    #[default]
    Sha256,
    /// SHA-512.
    Sha512,
    /// SHA-1, for providers that have nothing better: as an HMAC it is not broken (RFC 6194, section 3.3).
    Sha1,
}

impl Algorithm {
    /// Every one, by name.
    pub const NAMES: [&str; 3] = ["sha256", "sha512", "sha1"];
}

/// How a generic HMAC signature is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// Hexadecimal, in either case.
    #[default]
    Hex,
    /// Base64, padded.
    Base64,
}

/// How requests of a source are verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Verification {
    /// Standard Webhooks: `webhook-id`, `webhook-timestamp`, `webhook-signature`.
    StandardWebhooks,
    /// `X-Hub-Signature-256`.
    Github,
    /// `Stripe-Signature`, with a timestamp.
    Stripe {
        /// Seconds the timestamp may be off.
        tolerance_s: u64,
    },
    /// `X-Slack-Signature` and `X-Slack-Request-Timestamp`.
    Slack {
        /// Seconds the timestamp may be off.
        tolerance_s: u64,
    },
    /// `X-Shopify-Hmac-Sha256`.
    Shopify,
    /// An HMAC of the body in a header.
    Hmac {
        /// The header.
        header: String,
        /// The hash.
        algorithm: Algorithm,
        /// How it is written.
        encoding: Encoding,
        /// What stands before it, such as `sha256=`.
        prefix: String,
    },
    /// `Authorization: Bearer`, the token being the secret.
    Bearer,
    /// `Authorization: Basic`, the password being the secret.
    Basic {
        /// The user's name.
        username: String,
    },
    /// Nothing: whoever knows the name may send.
    None,
}

/// Why a request is not taken for genuine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A header that the verification needs is missing.
    #[error("the header that proves the sender is missing")]
    Missing,
    /// A header is not of the form it must have.
    #[error("the header that proves the sender is not of its form")]
    Malformed,
    /// The signed time is too far from now.
    #[error("the signed timestamp is too far from the hub's clock")]
    Stale,
    /// No signature fits the body under a secret of the source.
    #[error("the signature does not fit")]
    Mismatch,
}

/// A request as verification looks at it.
#[derive(Clone, Copy)]
pub struct Received<'a> {
    /// A header's text by its name in lower case.
    pub header: &'a dyn Fn(&str) -> Option<&'a str>,
    /// The body as it came.
    pub body: &'a [u8],
    /// When it came.
    pub now: UnixMs,
}

impl Verification {
    /// Its name, bounded for labels.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::StandardWebhooks => "standard_webhooks",
            Self::Github => "github",
            Self::Stripe { .. } => "stripe",
            Self::Slack { .. } => "slack",
            Self::Shopify => "shopify",
            Self::Hmac { .. } => "hmac",
            Self::Bearer => "bearer",
            Self::Basic { .. } => "basic",
            Self::None => "none",
        }
    }

    /// Whether it needs a secret.
    #[must_use]
    pub fn needs_secret(&self) -> bool {
        *self != Self::None
    }

    /// Checks a request against the secrets of its source, of which any may fit.
    ///
    /// # Errors
    /// [`Refusal`]; it repeats nothing of what was sent.
    pub fn check(&self, secrets: &[Secret], received: &Received<'_>) -> Result<(), Refusal> {
        let required = |name: &str| (received.header)(name).ok_or(Refusal::Missing);
        match self {
            Self::None => Ok(()),
            Self::StandardWebhooks => {
                let (id, timestamp) = (required("webhook-id")?, required("webhook-timestamp")?);
                let signatures = required("webhook-signature")?;
                any(secrets, |secret| {
                    let key = SigningKey::from_secret(secret).map_err(|_| Refusal::Mismatch)?;
                    key.verify(id, timestamp, signatures, received.body, received.now).map_err(|error| {
                        use crate::webhook::sign::VerifyError;
                        match error {
                            VerifyError::Timestamp => Refusal::Malformed,
                            VerifyError::TooOld | VerifyError::TooNew => Refusal::Stale,
                            VerifyError::NoMatch => Refusal::Mismatch,
                        }
                    })
                })
            }
            Self::Github => {
                let text = required("x-hub-signature-256")?.strip_prefix("sha256=").ok_or(Refusal::Malformed)?;
                let given = hex::decode(text).map_err(|_| Refusal::Malformed)?;
                any(secrets, |secret| same(&sha256(secret, &[received.body]), &given))
            }
            Self::Stripe { tolerance_s } => {
                let header = required("stripe-signature")?;
                let parts = || header.split(',').filter_map(|part| part.trim().split_once('='));
                let timestamp = parts().find(|(name, _)| *name == "t").ok_or(Refusal::Malformed)?.1;
                fresh(timestamp, *tolerance_s, received.now)?;
                let signatures: Vec<Vec<u8>> = parts()
                    .filter(|(name, _)| *name == "v1")
                    .take(SIGNATURES_MAX)
                    .filter_map(|(_, text)| hex::decode(text).ok())
                    .collect();
                any(secrets, |secret| {
                    let wanted = sha256(secret, &[timestamp.as_bytes(), b".", received.body]);
                    let fitting = signatures.iter().filter(|given| same(&wanted, given).is_ok()).count();
                    if fitting > 0 { Ok(()) } else { Err(Refusal::Mismatch) }
                })
            }
            Self::Slack { tolerance_s } => {
                let timestamp = required("x-slack-request-timestamp")?;
                let text = required("x-slack-signature")?.strip_prefix("v0=").ok_or(Refusal::Malformed)?;
                fresh(timestamp, *tolerance_s, received.now)?;
                let given = hex::decode(text).map_err(|_| Refusal::Malformed)?;
                any(secrets, |secret| {
                    same(&sha256(secret, &[b"v0:", timestamp.as_bytes(), b":", received.body]), &given)
                })
            }
            Self::Shopify => {
                let given = STANDARD.decode(required("x-shopify-hmac-sha256")?).map_err(|_| Refusal::Malformed)?;
                any(secrets, |secret| same(&sha256(secret, &[received.body]), &given))
            }
            Self::Hmac { header, algorithm, encoding, prefix } => {
                let text = required(header)?.strip_prefix(prefix.as_str()).ok_or(Refusal::Malformed)?;
                let given = match encoding {
                    Encoding::Hex => hex::decode(text).map_err(|_| Refusal::Malformed)?,
                    Encoding::Base64 => STANDARD.decode(text).map_err(|_| Refusal::Malformed)?,
                };
                any(secrets, |secret| match algorithm {
                    Algorithm::Sha256 => same(&sha256(secret, &[received.body]), &given),
                    Algorithm::Sha512 => same(&sha512(secret, received.body), &given),
                    Algorithm::Sha1 => same(&sha1(secret, received.body), &given),
                })
            }
            Self::Bearer => {
                let token = credentials(required("authorization")?, "bearer").ok_or(Refusal::Malformed)?;
                any(secrets, |secret| same_text(secret.expose(), token))
            }
            Self::Basic { username } => {
                let text = credentials(required("authorization")?, "basic").ok_or(Refusal::Malformed)?;
                let text = STANDARD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
                let text = text.ok_or(Refusal::Malformed)?;
                let (user, password) = text.split_once(':').ok_or(Refusal::Malformed)?;
                let user = same_text(username, user);
                any(secrets, |secret| same_text(secret.expose(), password).and(user))
            }
        }
    }
}

/// Tries every secret, so that how long it takes does not tell which one fits.
fn any(secrets: &[Secret], check: impl Fn(&Secret) -> Result<(), Refusal>) -> Result<(), Refusal> {
    let mut told = Err(Refusal::Mismatch);
    for secret in secrets {
        let checked = check(secret);
        if told.is_err() {
            told = checked;
        }
    }
    told
}

fn same(wanted: &[u8], given: &[u8]) -> Result<(), Refusal> {
    if bool::from(wanted.ct_eq(given)) { Ok(()) } else { Err(Refusal::Mismatch) }
}

/// Texts are compared by their hashes: the lengths may be those of secrets.
fn same_text(wanted: &str, given: &str) -> Result<(), Refusal> {
    same(&Sha256::digest(wanted.as_bytes()), &Sha256::digest(given.as_bytes()))
}

fn sha256(secret: &Secret, parts: &[&[u8]]) -> Vec<u8> {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()).expect("any key");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().to_vec()
}

fn sha512(secret: &Secret, body: &[u8]) -> Vec<u8> {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
    let mut mac = Hmac::<Sha512>::new_from_slice(secret.expose().as_bytes()).expect("any key");
    mac.update(body);
    mac.finalize().into_bytes().to_vec()
}

fn sha1(secret: &Secret, body: &[u8]) -> Vec<u8> {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.expose().as_bytes()).expect("any key");
    mac.update(body);
    mac.finalize().into_bytes().to_vec()
}

fn fresh(timestamp: &str, tolerance_s: u64, now: UnixMs) -> Result<(), Refusal> {
    let given: u64 = timestamp.parse().map_err(|_| Refusal::Malformed)?;
    if given.abs_diff(now.0 / 1_000) <= tolerance_s { Ok(()) } else { Err(Refusal::Stale) }
}

fn credentials<'a>(header: &'a str, scheme: &str) -> Option<&'a str> {
    let (given, rest) = header.split_once(' ')?;
    given.eq_ignore_ascii_case(scheme).then(|| rest.trim())
}
