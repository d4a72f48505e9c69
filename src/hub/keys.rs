//! API keys (SEC-1): made once and shown once, kept as a hash, found by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use dashmap::DashMap;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::documents::Documents;
use crate::ground::clock::UnixMs;
use crate::ground::context::WriteContext;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::fields::Fields;
use crate::ground::ids::prefixed;
use crate::ground::limits::SCOPE_CHARS_MAX;
use crate::ground::random::Random;
use crate::ground::secret::Secret;

/// What a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Send events.
    Publish,
    /// Pull events.
    Consume,
    /// Run jobs.
    Work,
    /// Make and change webhooks and consumers.
    Manage,
    /// Look things up.
    Read,
}

impl Scope {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Consume => "consume",
            Self::Work => "work",
            Self::Manage => "manage",
            Self::Read => "read",
        }
    }
}

const SCOPE_WORDS: &str = "publish, consume, work, manage, read";

/// A key as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Its id, `key_…`.
    pub id: String,
    /// The application it belongs to.
    pub application: String,
    /// The org it is confined to; none means any.
    pub org: Option<String>,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// SHA-256 of the key, in hex.
    pub hash: String,
    /// The last characters, to tell keys apart.
    pub last4: String,
    /// Not valid from then on.
    #[serde(default)]
    pub expires_at: Option<UnixMs>,
    /// How it was made.
    pub created: WriteContext,
}

/// A key in use.
#[derive(Debug)]
pub struct Key {
    /// As it is kept.
    pub record: KeyRecord,
    last_used_ms: AtomicU64,
}

impl Key {
    /// The key as operators see it.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let record = &self.record;
        let used = self.last_used_ms.load(Ordering::Relaxed);
        serde_json::json!({
            "id": record.id,
            "application": record.application,
            "org": record.org,
            "scopes": record.scopes,
            "last4": record.last4,
            "created_at": record.created.at.to_rfc3339(),
            "created_by": record.created.to_json(),
            "expires_at": record.expires_at.map(UnixMs::to_rfc3339),
            "last_used_at": (used > 0).then(|| UnixMs(used).to_rfc3339()),
        })
    }
}

/// Most keys of a hub.
const KEYS_MAX: usize = 100_000;

/// Every key, found by its hash.
#[derive(Debug)]
pub struct Keys {
    documents: Documents<KeyRecord>,
    by_hash: DashMap<[u8; 32], Arc<Key>>,
}

fn hash_of(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

fn stored_hash(record: &KeyRecord) -> Option<[u8; 32]> {
    hex::decode(&record.hash).ok()?.try_into().ok()
}

impl Keys {
    /// Reads every key. Blocks.
    ///
    /// # Errors
    /// When the store fails.
    pub fn load(documents: Documents<KeyRecord>) -> Result<Self, Problem> {
        let by_hash = DashMap::new();
        for (record, _) in documents.list()? {
            if let Some(hash) = stored_hash(&record) {
                by_hash.insert(hash, Arc::new(Key { record, last_used_ms: AtomicU64::new(0) }));
            }
        }
        Ok(Self { documents, by_hash })
    }

    /// The key with this text, when it is valid now. The look-up goes by hash, so its time tells nothing of the text.
    #[must_use]
    pub fn find(&self, text: &str, now: UnixMs) -> Option<Arc<Key>> {
        let key = Arc::clone(&*self.by_hash.get(&hash_of(text))?);
        if key.record.expires_at.is_some_and(|end| end <= now) {
            return None;
        }
        key.last_used_ms.store(now.0, Ordering::Relaxed);
        Some(key)
    }

    /// Makes a key from a request. Blocks. Returns it with its text, which is not kept.
    ///
    /// # Errors
    /// When a field does not fit, or the store fails.
    pub fn create(
        &self,
        mut fields: Fields,
        context: WriteContext,
        random: &dyn Random,
    ) -> Result<(Arc<Key>, Secret), Problem> {
        let application = fields.required_text("application", SCOPE_CHARS_MAX)?;
        let org = fields.text("org", SCOPE_CHARS_MAX)?;
        let names = fields.texts("scopes", 16, 16)?;
        let expires_at = match fields.text("expires_at", 64)? {
            Some(text) => {
                let time = UnixMs::parse_rfc3339(&text)
                    .map_err(|error| Problem::field("expires_at", format!("an RFC 3339 time ({error})"), &text))?;
                if time <= context.at {
                    return Err(Problem::field("expires_at", "a time to come", text));
                }
                Some(time)
            }
            None => None,
        };
        fields.finish()?;
        let names = names.filter(|names| !names.is_empty());
        let names =
            names.ok_or_else(|| Problem::field("scopes", format!("at least one of {SCOPE_WORDS}"), "nothing"))?;
        let mut scopes: Vec<Scope> = Vec::with_capacity(names.len());
        for (at, name) in names.into_iter().enumerate() {
            let scope = serde_json::from_value(serde_json::Value::String(name.clone()))
                .map_err(|_| Problem::field(format!("scopes[{at}]"), format!("one of {SCOPE_WORDS}"), &name))?;
            if !scopes.contains(&scope) {
                scopes.push(scope);
            }
        }
        if self.by_hash.len() >= KEYS_MAX {
            return Err(Problem::new(ProblemKind::Conflict, format!("a hub has at most {KEYS_MAX} keys")));
        }
        let mut bytes = [0_u8; 32];
        random.fill(&mut bytes);
        let text = Secret::new(format!("tgk_{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)));
        let hash = hash_of(text.expose());
        let record = KeyRecord {
            id: prefixed("key", context.at, random),
            application,
            org,
            scopes,
            hash: hex::encode(hash),
            last4: text.last4(),
            expires_at,
            created: context,
        };
        self.documents.put(&record.id, &record, None)?;
        let key = Arc::new(Key { record, last_used_ms: AtomicU64::new(0) });
        self.by_hash.insert(hash, Arc::clone(&key));
        Ok((key, text))
    }

    /// Every key, by id.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Key>> {
        let mut keys: Vec<Arc<Key>> = self.by_hash.iter().map(|entry| Arc::clone(entry.value())).collect();
        keys.sort_by(|a, b| a.record.id.cmp(&b.record.id));
        keys
    }

    /// Ends a key at once. Blocks. False when there is none with this id.
    ///
    /// # Errors
    /// When the store fails; the key is refused all the same until a restart.
    pub fn revoke(&self, id: &str) -> Result<bool, Problem> {
        let hash = self.by_hash.iter().find(|entry| entry.value().record.id == id).map(|entry| *entry.key());
        let Some(hash) = hash else { return Ok(false) };
        self.by_hash.remove(&hash);
        self.documents.delete(id)
    }
}
