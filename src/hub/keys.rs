//! API keys (SEC-1): made once and shown once, kept as a hash, found by it.
//!
//! When a key was last used is noted in memory by each request and written by the clock: once a minute and at the stop,
//! those that were used since, many in one commit. A crash loses the last minute of it and nothing else.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use dashmap::DashMap;
use parking_lot::Mutex;
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
use crate::ratelimit::{Bucket, RateLimit, Taken};

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
    /// Every scope.
    pub const ALL: [Self; 5] = [Self::Publish, Self::Consume, Self::Work, Self::Manage, Self::Read];

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
    /// How many requests and events a second it may send; none for any number.
    #[serde(default)]
    pub rate_limit: Option<RateLimit>,
    /// How it was made.
    pub created: WriteContext,
    /// How it was changed last.
    #[serde(default)]
    pub updated: Option<WriteContext>,
}

/// A key in use.
#[derive(Debug)]
pub struct Key {
    /// As it is kept.
    pub record: KeyRecord,
    /// What is left of its rate.
    bucket: Mutex<Bucket>,
    last_used_ms: AtomicU64,
    /// What the store has of it.
    saved_ms: AtomicU64,
}

/// When a key was last used, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyUse {
    /// The key's id.
    pub id: String,
    /// When.
    pub at: UnixMs,
}

impl Key {
    fn new(record: KeyRecord, last_used: UnixMs, bucket: Bucket) -> Self {
        Self {
            record,
            bucket: Mutex::new(bucket),
            last_used_ms: AtomicU64::new(last_used.0),
            saved_ms: AtomicU64::new(last_used.0),
        }
    }

    /// Takes so many requests or events from the key's rate, when it has one: the rate, and what became of the wish.
    pub fn take(&self, count: u32, now: UnixMs) -> Option<(RateLimit, Taken)> {
        let limit = self.record.rate_limit?;
        Some((limit, self.bucket.lock().take(&limit, now, count)))
    }

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
            "updated_at": record.updated.as_ref().map(|updated| updated.at.to_rfc3339()),
            "updated_by": record.updated.as_ref().map(WriteContext::to_json),
            "expires_at": record.expires_at.map(UnixMs::to_rfc3339),
            "rate_limit": record.rate_limit,
            "last_used_at": (used > 0).then(|| UnixMs(used).to_rfc3339()),
        })
    }
}

/// Most keys of a hub.
const KEYS_MAX: usize = 100_000;
/// Uses written in one commit.
const USES_WRITTEN_MAX: usize = 1_000;

/// Every key, found by its hash.
pub struct Keys {
    documents: Documents<KeyRecord>,
    uses: Documents<KeyUse>,
    by_hash: DashMap<[u8; 32], Arc<Key>>,
    /// Changes of keys take turns, so that none is lost to another.
    changing: Mutex<()>,
    /// Uses are written by one at a time, so that an older one never follows a newer one.
    saving: Mutex<()>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("keys", &self.by_hash.len()).finish_non_exhaustive()
    }
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
    pub fn load(documents: Documents<KeyRecord>, uses: Documents<KeyUse>) -> Result<Self, Problem> {
        let mut last_used: HashMap<String, UnixMs> =
            uses.list()?.into_iter().map(|(one, _)| (one.id, one.at)).collect();
        let by_hash = DashMap::new();
        for (record, _) in documents.list()? {
            let used = last_used.remove(&record.id).unwrap_or_default();
            if let Some(hash) = stored_hash(&record) {
                by_hash.insert(hash, Arc::new(Key::new(record, used, Bucket::default())));
            }
        }
        // Of keys that were revoked while their use was being written.
        for id in last_used.keys() {
            uses.delete(id)?;
        }
        Ok(Self { documents, uses, by_hash, changing: Mutex::new(()), saving: Mutex::new(()) })
    }

    /// Writes when keys were last used, of those that were used since the last time. Blocks.
    ///
    /// # Errors
    /// When the store fails; what was not written is written the next time.
    pub fn save_uses(&self) -> Result<(), Problem> {
        let _one_at_a_time = self.saving.lock();
        let used = |key: &Arc<Key>| {
            let used_ms = key.last_used_ms.load(Ordering::Relaxed);
            (used_ms > key.saved_ms.load(Ordering::Relaxed)).then(|| (Arc::clone(key), UnixMs(used_ms)))
        };
        let due: Vec<_> = self.by_hash.iter().filter_map(|entry| used(entry.value())).collect();
        for some in due.chunks(USES_WRITTEN_MAX) {
            let uses = some.iter().map(|(key, at)| {
                let id = key.record.id.clone();
                (id.clone(), KeyUse { id, at: *at })
            });
            self.uses.put_all(&uses.collect::<Vec<_>>())?;
            for (key, at) in some {
                key.saved_ms.store(at.0, Ordering::Relaxed);
            }
        }
        Ok(())
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

    /// Whether a key that was found before is still valid: neither revoked nor expired.
    #[must_use]
    pub fn is_live(&self, key: &Key, now: UnixMs) -> bool {
        let mut hash = [0; 32];
        hex::decode_to_slice(&key.record.hash, &mut hash).is_ok()
            && self.by_hash.contains_key(&hash)
            && key.record.expires_at.is_none_or(|end| end > now)
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
        let expires_at = expiry(&mut fields, context.at)?;
        let rate_limit = RateLimit::read(&mut fields, "rate_limit")?;
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
            rate_limit,
            created: context,
            updated: None,
        };
        self.documents.put(&record.id, &record, None)?;
        let key = Arc::new(Key::new(record, UnixMs::default(), Bucket::default()));
        self.by_hash.insert(hash, Arc::clone(&key));
        Ok((key, text))
    }

    /// Changes the rate limit or the end of a key, at once; null takes either away. Blocks.
    ///
    /// # Errors
    /// When no key has this id, a field does not fit, or the store fails; nothing has changed then.
    pub fn change(&self, id: &str, mut fields: Fields, context: WriteContext) -> Result<Arc<Key>, Problem> {
        let _one_at_a_time = self.changing.lock();
        let found = self.by_hash.iter().find(|entry| entry.value().record.id == id);
        let found = found.map(|entry| (*entry.key(), Arc::clone(entry.value())));
        let (hash, before) = found.ok_or_else(|| Problem::not_found("key", id))?;
        let mut record = before.record.clone();
        if let Some(value) = fields.sent("rate_limit") {
            let given = Some(value).filter(|value| !value.is_null());
            record.rate_limit = given.map(|value| RateLimit::from_json(&value, "rate_limit")).transpose()?;
        }
        if fields.has("expires_at") {
            record.expires_at = expiry(&mut fields, context.at)?;
        }
        fields.finish()?;
        record.updated = Some(context);
        let revision = self.documents.get(id)?.map(|(_, revision)| revision);
        // A key that was revoked meanwhile must not come back.
        let revision = revision.ok_or_else(|| Problem::not_found("key", id))?;
        self.documents.put(id, &record, Some(revision))?;
        let used = UnixMs(before.last_used_ms.load(Ordering::Relaxed));
        let changed = Arc::new(Key::new(record, used, Bucket::default()));
        self.by_hash.insert(hash, Arc::clone(&changed));
        Ok(changed)
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
        let _one_at_a_time = self.changing.lock();
        let hash = self.by_hash.iter().find(|entry| entry.value().record.id == id).map(|entry| *entry.key());
        let Some(hash) = hash else { return Ok(false) };
        self.by_hash.remove(&hash);
        let was = self.documents.delete(id)?;
        self.uses.delete(id)?;
        Ok(was)
    }
}

/// When a key ends, read from a request.
fn expiry(fields: &mut Fields, now: UnixMs) -> Result<Option<UnixMs>, Problem> {
    let Some(text) = fields.text("expires_at", 64)? else { return Ok(None) };
    let time = UnixMs::parse_rfc3339(&text)
        .map_err(|error| Problem::field("expires_at", format!("an RFC 3339 time ({error})"), &text))?;
    if time <= now {
        return Err(Problem::field("expires_at", "a time to come", text));
    }
    Ok(Some(time))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ground::random::SeededRandom;
    use crate::store::Registry;
    use crate::store::fake::{Call, FakeStore, Fault};

    fn load(store: &Arc<FakeStore>) -> Keys {
        let registry: Arc<dyn Registry> = Arc::clone(store) as Arc<dyn Registry>;
        let (documents, uses) = (Documents::new(Arc::clone(&registry), "key"), Documents::new(registry, "key-use"));
        Keys::load(documents, uses).expect("loads")
    }

    fn make(keys: &Keys) -> (Arc<Key>, Secret) {
        let wanted = json!({"application": "shop", "scopes": ["read"]});
        let fields = Fields::parse(wanted.to_string().as_bytes()).expect("an object");
        let context = WriteContext { by: "admin".into(), at: UnixMs(1), ..WriteContext::default() };
        keys.create(fields, context, &*SeededRandom::shared(7)).expect("made")
    }

    fn revisions(store: &FakeStore) -> Vec<u64> {
        store.list("key-use").expect("lists").iter().map(|document| document.revision).collect()
    }

    #[test]
    fn the_last_use_is_written_once_however_often_a_key_is_used_and_is_known_after_a_restart() {
        let store = FakeStore::new(10);
        let keys = load(&store);
        let (key, text) = make(&keys);
        assert_eq!(key.to_json()["last_used_at"], json!(null));
        keys.save_uses().expect("saves");
        assert!(revisions(&store).is_empty(), "a key that was never used costs nothing");
        for at in 1_000..2_000 {
            keys.find(text.expose(), UnixMs(at)).expect("known");
        }
        keys.save_uses().expect("saves");
        keys.save_uses().expect("saves");
        assert_eq!(revisions(&store), [1], "written once, and not again while it is not used");
        let again = load(&store);
        assert_eq!(again.list()[0].to_json()["last_used_at"], UnixMs(1_999).to_rfc3339());
        again.save_uses().expect("saves");
        assert_eq!(revisions(&store), [1]);
    }

    #[test]
    fn a_use_that_could_not_be_written_is_written_the_next_time_and_goes_with_its_key() {
        let store = FakeStore::new(10);
        let keys = load(&store);
        let (key, text) = make(&keys);
        keys.find(text.expose(), UnixMs(5_000)).expect("known");
        store.plan(Call::Put, 1, Fault::Error);
        keys.save_uses().expect_err("the store fails");
        store.reopen();
        keys.save_uses().expect("saves");
        assert_eq!(revisions(&store), [1]);
        assert!(keys.revoke(&key.record.id).expect("revokes"));
        assert!(revisions(&store).is_empty());
    }
}
