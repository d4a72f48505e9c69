//! Secrets: a type that cannot be printed, and the cipher that keeps them on disk (SEC-6).

use std::fmt;
use std::path::Path;

use base64::Engine as _;
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::random::Random;

/// Text that must not reach a log, an error or an answer. It is wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text in.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text itself. Call it only where the text is used up at once.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The last four characters, which may be shown; all stars when the text is too short to hide behind them.
    #[must_use]
    pub fn last4(&self) -> String {
        let count = self.0.chars().count();
        if count < 12 { "****".to_owned() } else { self.0.chars().skip(count - 4).collect() }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Why a secret could not be kept or read back.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The key is not 32 bytes of base64.
    #[error("the store key is not 32 bytes in base64")]
    BadKey,
    /// The key file could not be read or made.
    #[error("store key file {path}: {source}")]
    KeyFile {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The bytes were not sealed with this key for this use.
    #[error("sealed bytes do not open with this key")]
    Unsealable,
}

/// Seals and opens secrets with XChaCha20-Poly1305 under one key. The `context` (such as the webhook's id) is
/// authenticated with the secret, so that sealed bytes cannot be moved to another record.
#[derive(Clone)]
pub struct Sealer {
    cipher: XChaCha20Poly1305,
    derive: Hmac<Sha256>,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(***)")
    }
}

const NONCE_BYTES: usize = 24;

impl Sealer {
    /// A sealer under this key.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
        let derive = Hmac::new_from_slice(key).expect("a key");
        Self { cipher: XChaCha20Poly1305::new(&Key::from(*key)), derive }
    }

    /// A key of its own for another use: the same for the same `purpose` in every life of the hub, and of no help to
    /// find out this key or that of another purpose.
    #[must_use]
    pub fn derived_key(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        let mut derive = self.derive.clone();
        derive.update(purpose.as_bytes());
        Zeroizing::new(derive.finalize().into_bytes().into())
    }

    /// A sealer under a key of 32 bytes in base64.
    ///
    /// # Errors
    /// When the text is not that.
    pub fn from_base64(text: &Secret) -> Result<Self, SecretError> {
        let bytes = Zeroizing::new(
            base64::engine::general_purpose::STANDARD.decode(text.expose().trim()).map_err(|_| SecretError::BadKey)?,
        );
        let key: &[u8; 32] = bytes.as_slice().try_into().map_err(|_| SecretError::BadKey)?;
        Ok(Self::new(key))
    }

    /// A sealer under the key in `path`, which is made (mode 0600, synced) when it does not exist.
    ///
    /// # Errors
    /// When the file cannot be read or made, or holds no key.
    pub fn from_file(path: &Path, random: &dyn Random) -> Result<Self, SecretError> {
        let fail = |source| SecretError::KeyFile { path: path.display().to_string(), source };
        match std::fs::read_to_string(path) {
            Ok(text) => Self::from_base64(&Secret::new(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let mut key = Zeroizing::new([0_u8; 32]);
                random.fill(key.as_mut_slice());
                let text = Secret::new(base64::engine::general_purpose::STANDARD.encode(key.as_slice()));
                write_private(path, text.expose()).map_err(fail)?;
                Ok(Self::new(&key))
            }
            Err(error) => Err(fail(error)),
        }
    }

    /// Seals `secret` for `context`.
    #[must_use]
    pub fn seal(&self, secret: &Secret, context: &str, random: &dyn Random) -> Vec<u8> {
        self.seal_bytes(secret.expose().as_bytes(), context, random)
    }

    /// Seals bytes that may hold secrets for `context`.
    #[must_use]
    pub fn seal_bytes(&self, bytes: &[u8], context: &str, random: &dyn Random) -> Vec<u8> {
        let mut nonce = [0_u8; NONCE_BYTES];
        random.fill(&mut nonce);
        let payload = Payload { msg: bytes, aad: context.as_bytes() };
        let mut out = nonce.to_vec();
        #[expect(clippy::expect_used, reason = "encryption into a growing Vec fails only past 256 GiB")]
        out.extend(self.cipher.encrypt(&XNonce::from(nonce), payload).expect("a secret is short"));
        out
    }

    /// Opens what [`Sealer::seal`] made for the same `context`.
    ///
    /// # Errors
    /// When key, context or bytes are others.
    pub fn open(&self, sealed: &[u8], context: &str) -> Result<Secret, SecretError> {
        let bytes = self.open_bytes(sealed, context)?;
        String::from_utf8(bytes).map(Secret::new).map_err(|_| SecretError::Unsealable)
    }

    /// Opens what [`Sealer::seal_bytes`] made for the same `context`.
    ///
    /// # Errors
    /// When key, context or bytes are others.
    pub fn open_bytes(&self, sealed: &[u8], context: &str) -> Result<Vec<u8>, SecretError> {
        let (nonce, cipher_text) = sealed.split_at_checked(NONCE_BYTES).ok_or(SecretError::Unsealable)?;
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().map_err(|_| SecretError::Unsealable)?;
        let payload = Payload { msg: cipher_text, aad: context.as_bytes() };
        self.cipher.decrypt(&XNonce::from(nonce), payload).map_err(|_| SecretError::Unsealable)
    }
}

/// Writes a file that only its owner may read, complete or not at all: temporary file, sync, rename, sync of the folder.
///
/// # Errors
/// What the system said.
pub fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let temporary = path.with_extension("tmp");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::random::SeededRandom;
    use super::*;

    #[test]
    fn a_secret_prints_as_stars() {
        let secret = Secret::new("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD");
        assert_eq!(format!("{secret} {secret:?}"), "*** Secret(***)");
        assert_eq!(secret.last4(), "b7oD");
        assert_eq!(Secret::new("short").last4(), "****");
    }

    #[test]
    fn a_sealed_secret_opens_only_with_its_key_and_context() {
        let random = SeededRandom::shared(1);
        let sealer = Sealer::new(&[7; 32]);
        let sealed = sealer.seal(&Secret::new("token-123"), "whk_1", &*random);
        assert!(!sealed.windows(9).any(|part| part == b"token-123"));
        assert_eq!(sealer.open(&sealed, "whk_1").expect("opens").expose(), "token-123");
        assert!(sealer.open(&sealed, "whk_2").is_err());
        assert!(Sealer::new(&[8; 32]).open(&sealed, "whk_1").is_err());
        assert!(sealer.open(&sealed[..10], "whk_1").is_err());
    }

    #[test]
    fn a_derived_key_is_the_same_for_the_same_key_and_purpose_alone() {
        let sealer = Sealer::new(&[7; 32]);
        assert_eq!(sealer.derived_key("a"), Sealer::new(&[7; 32]).derived_key("a"));
        assert_ne!(sealer.derived_key("a"), sealer.derived_key("b"));
        assert_ne!(sealer.derived_key("a"), Sealer::new(&[8; 32]).derived_key("a"));
        assert_ne!(*sealer.derived_key("a"), [7; 32]);
    }

    #[test]
    fn the_key_file_is_made_once_and_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.key");
        let random = SeededRandom::shared(2);
        let first = Sealer::from_file(&path, &*random).expect("made");
        let sealed = first.seal(&Secret::new("again"), "x", &*random);
        assert_eq!(std::fs::metadata(&path).expect("exists").permissions().mode() & 0o777, 0o600);
        let second = Sealer::from_file(&path, &*random).expect("read");
        assert_eq!(second.open(&sealed, "x").expect("opens").expose(), "again");
    }
}
