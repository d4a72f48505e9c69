//! One segment of the log: its events, a row each (long ones in parts), in one tree, and which of them has which id in
//! another ([`super::ids`]). Nothing is deleted from either, which are dropped as a whole.

use std::ops::RangeInclusive;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::ids::{self, BLOCK_EVENTS, IdHash, IdKey, Ids, Look, OpenIds};
use crate::event::envelope::Event;
use crate::ground::codec;
use crate::ground::ids::Seq;
use crate::store::log_record::{self, Joiner};
use crate::store::{SegmentInfo, StoreError};

/// Version of [`Seal`]. The filter of version 1 was over other keys; such a seal is made anew.
const SEAL_VERSION: u8 = 2;
/// First byte of the key of a row that led from an id to its event, one an event, in the tree of the events, before there
/// were tables: `prefix | id | 0 | org`, the value beginning with the position. Rows of events begin with the position's
/// first byte, which stays below for 10^19 events.
const OLD_ID_PREFIX: u8 = 0xff;
/// Stands for the id of an event that cannot be read.
const UNKNOWN: IdHash = IdHash(u64::MAX);

/// What is known of a full segment, kept so that opening need not read it.
#[derive(Serialize, Deserialize)]
struct Seal {
    last: Seq,
    bytes: u64,
    newest_ms: u64,
    filter: Vec<u64>,
}

/// What changes while a segment is written.
struct Content {
    last: Seq,
    bytes: u64,
    newest_ms: u64,
    ids: Ids,
}

/// A segment.
pub(super) struct Segment {
    pub(super) first: Seq,
    pub(super) tree: sled::Tree,
    ids: sled::Tree,
    content: Mutex<Content>,
}

/// What a commit has added to a segment.
pub(super) struct Added<'a> {
    pub(super) last: Seq,
    pub(super) bytes: u64,
    pub(super) newest_ms: u64,
    /// A hash per event, in order.
    pub(super) hashes: &'a [IdHash],
}

/// The position in the first eight bytes of a row's key.
pub(super) fn seq_of_key(key: &[u8]) -> Option<Seq> {
    Some(Seq(u64::from_be_bytes(key.get(..8)?.try_into().ok()?)))
}

impl Segment {
    pub(super) fn log_name(first: Seq) -> String {
        format!("log-{first:020}", first = first.0)
    }

    pub(super) fn ids_name(first: Seq) -> String {
        format!("ids-{first:020}", first = first.0)
    }

    /// Opens the segment that starts at `first`, from its seal or by reading its ids.
    pub(super) fn open(db: &sled::Db, seals: &sled::Tree, first: Seq, key: &IdKey) -> Result<Arc<Self>, StoreError> {
        let tree = db.open_tree(Self::log_name(first))?;
        let ids = db.open_tree(Self::ids_name(first))?;
        let content = match read_seal(seals, first)? {
            Some(Seal { last, bytes, newest_ms, filter }) => {
                Content { last, bytes, newest_ms, ids: Ids::Sealed(ids::filter_of(filter)) }
            }
            None => Self::read_content(&tree, &ids, first, key)?,
        };
        Ok(Arc::new(Self { first, tree, ids, content: Mutex::new(content) }))
    }

    fn read_content(tree: &sled::Tree, ids: &sled::Tree, first: Seq, key: &IdKey) -> Result<Content, StoreError> {
        let last = match tree.range(..[OLD_ID_PREFIX]).next_back().transpose()? {
            Some((key, _)) => seq_of_key(&key).unwrap_or(first.prev()),
            None => first.prev(),
        };
        let newest_ms = newest_ms(tree, first, last)?;
        let events = last.0.saturating_sub(first.prev().0);
        // The true figure was in memory only; a kibibyte an event is close enough for the retention by bytes.
        Ok(Content {
            last,
            bytes: events.saturating_mul(1_024),
            newest_ms,
            ids: Ids::Open(read_ids(tree, ids, [first, last], key)?),
        })
    }

    /// Keeps what is known of this segment, now that it is full: the table of its ids first, then the seal that says so.
    pub(super) fn seal(&self, seals: &sled::Tree) -> Result<(), StoreError> {
        let mut content = self.content.lock();
        let Ids::Open(open) = &content.ids else { return Ok(()) };
        let (rows, filter) = open.seal();
        for row in rows {
            self.ids.insert(row.key, row.value)?;
        }
        let seal = Seal {
            last: content.last,
            bytes: content.bytes,
            newest_ms: content.newest_ms,
            filter: filter.as_slice().to_vec(),
        };
        let record = codec::encode(SEAL_VERSION, &seal)
            .map_err(|source| StoreError::Corrupt { what: "segment seal".into(), source })?;
        let mut batch = sled::Batch::default();
        log_record::cut(&record, |suffix, value| {
            let mut key = self.first.to_key().to_vec();
            key.extend_from_slice(suffix);
            batch.insert(key, value);
        });
        seals.apply_batch(batch)?;
        content.ids = Ids::Sealed(filter);
        Ok(())
    }

    pub(super) fn info(&self) -> SegmentInfo {
        let content = self.content.lock();
        SegmentInfo { first: self.first, last: content.last, bytes: content.bytes, newest_ms: content.newest_ms }
    }

    /// Whether it is written to: a full one that has its table is not, whatever is configured since.
    pub(super) fn is_open(&self) -> bool {
        self.content.lock().ids.is_open()
    }

    /// The positions of the events that may have an id with one of these hashes, newest first.
    pub(super) fn candidates(&self, hashes: &RangeInclusive<IdHash>) -> Result<Vec<Seq>, StoreError> {
        let look = self.content.lock().ids.look(self.first, hashes);
        match look {
            Look::Found(places) => Ok(places),
            Look::InTable => ids::look_in_table(&self.ids, self.first, hashes),
        }
    }

    /// Notes what a commit has added. The row of a block that this completes goes to disk with the next commit; one that
    /// fails to be written is made again when the store is opened.
    pub(super) fn added(&self, added: Added<'_>) {
        let mut content = self.content.lock();
        content.last = added.last;
        content.bytes += added.bytes;
        content.newest_ms = content.newest_ms.max(added.newest_ms);
        // Only an open segment is added to.
        let Ids::Open(open) = &mut content.ids else { return };
        let blocks: Vec<_> = added.hashes.iter().filter_map(|hash| open.push(*hash)).collect();
        drop(content);
        for block in blocks {
            if let Err(error) = self.ids.insert(block.key, block.value) {
                tracing::warn!(%error, "a block of ids was not written");
            }
        }
    }
}

/// When the newest event that can be read was received; zero when there is none.
fn newest_ms(tree: &sled::Tree, first: Seq, last: Seq) -> Result<u64, StoreError> {
    for seq in (first.0..=last.0).rev() {
        match read_event(tree, Seq(seq)) {
            Ok(Some(event)) => return Ok(event.received_at.0),
            // A damaged one is told of where it is read.
            Ok(None) | Err(StoreError::Corrupt { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(0)
}

/// The hashes of a segment's ids: from its blocks, from rows as they once were, and from the events themselves. Blocks
/// that are missing are written.
fn read_ids(tree: &sled::Tree, own: &sled::Tree, [first, last]: [Seq; 2], key: &IdKey) -> Result<OpenIds, StoreError> {
    let mut hashes = ids::read_blocks(own)?;
    let blocks = hashes.len() / BLOCK_EVENTS;
    if hashes.is_empty() {
        hashes = read_old_ids(tree, first, key)?;
    }
    let mut records = Records::from(tree, Seq(first.0 + hashes.len() as u64));
    loop {
        match records.next_event() {
            Ok(None) => break,
            Ok(Some(event)) => {
                // Each at its place, also behind one that cannot be read: its id is not known any more.
                let at = usize::try_from(event.seq.0 - first.0).unwrap_or(usize::MAX);
                hashes.resize(at, UNKNOWN);
                hashes.push(key.hash(&event.meta.org, &event.meta.id));
            }
            Err(error @ StoreError::Corrupt { .. }) => {
                tracing::error!(%error, "an event of the log is damaged; its id is not known any more");
            }
            Err(error) => return Err(error),
        }
    }
    // Positions go on behind the last row, whether it can be read or not.
    let events = usize::try_from(last.0.saturating_sub(first.prev().0)).unwrap_or(usize::MAX);
    hashes.resize(events, UNKNOWN);
    let mut open = OpenIds::default();
    for hash in hashes {
        let completed = open.push(hash);
        if let Some(block) = completed.filter(|_| open.len() > blocks * BLOCK_EVENTS) {
            own.insert(block.key, block.value)?;
        }
    }
    Ok(open)
}

/// The hashes of the events that have a row from their id, as far as every event has one.
fn read_old_ids(tree: &sled::Tree, first: Seq, key: &IdKey) -> Result<Vec<IdHash>, StoreError> {
    let mut found = Vec::new();
    for row in tree.scan_prefix([OLD_ID_PREFIX]) {
        let (row, value) = row?;
        let parts = std::str::from_utf8(&row[1..]).ok().and_then(|text| text.split_once('\0'));
        found.extend(parts.zip(seq_of_key(&value)).map(|((id, org), seq)| (seq, key.hash(org, id))));
    }
    found.sort_unstable();
    let unbroken = found.iter().zip(first.0..).take_while(|((seq, _), wanted)| seq.0 == *wanted);
    Ok(unbroken.map(|((_, hash), _)| *hash).collect())
}

/// Removes the seal of a segment.
pub(super) fn remove_seal(seals: &sled::Tree, first: Seq) -> Result<(), StoreError> {
    for row in seals.scan_prefix(first.to_key()) {
        seals.remove(row?.0)?;
    }
    Ok(())
}

/// A seal that is missing, damaged or of an older version is only work to do again: the segment is read instead.
fn read_seal(seals: &sled::Tree, first: Seq) -> Result<Option<Seal>, StoreError> {
    let mut rows = seals.scan_prefix(first.to_key());
    let Some(head) = rows.next() else { return Ok(None) };
    let record = match Joiner::start(&head?.1) {
        Ok(record) => record,
        Err(mut joiner) => {
            while joiner.wants_more() {
                let Some(row) = rows.next() else { break };
                joiner.push(&row?.1);
            }
            joiner.finish()
        }
    };
    match codec::decode(SEAL_VERSION, &record) {
        Ok(seal) => Ok(Some(seal)),
        Err(codec::CodecError::Version { found: 1, .. }) => {
            tracing::info!(segment = %first, "making the table of a log segment's ids");
            Ok(None)
        }
        Err(error) => {
            tracing::warn!(%error, segment = %first, "the seal of a log segment is damaged; reading the segment instead");
            Ok(None)
        }
    }
}

/// Reads the rows of one tree in order and puts records together.
pub(super) struct Records {
    rows: sled::Iter,
}

impl Records {
    pub(super) fn from(tree: &sled::Tree, from: Seq) -> Self {
        Self { rows: tree.range(from.to_key().to_vec()..vec![OLD_ID_PREFIX]) }
    }

    /// The next event.
    pub(super) fn next_event(&mut self) -> Result<Option<Arc<Event>>, StoreError> {
        let Some(head) = self.rows.next() else { return Ok(None) };
        let (key, value) = head?;
        let corrupt = |source| StoreError::Corrupt { what: format!("log row {}", hex::encode(&key)), source };
        let seq = seq_of_key(&key).ok_or_else(|| corrupt(codec::CodecError::Short(key.len())))?;
        let record = match Joiner::start(&value) {
            Ok(record) => record,
            Err(mut joiner) => {
                while joiner.wants_more() {
                    match self.rows.next() {
                        Some(row) => joiner.push(&row?.1),
                        None => return Err(corrupt(codec::CodecError::Short(value.len()))),
                    }
                }
                joiner.finish()
            }
        };
        log_record::decode(seq, record).map(Some).map_err(corrupt)
    }
}

/// The event at this position of a segment.
pub(super) fn read_event(tree: &sled::Tree, seq: Seq) -> Result<Option<Arc<Event>>, StoreError> {
    let event = Records::from(tree, seq).next_event()?;
    Ok(event.filter(|event| event.seq == seq))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::event::envelope::{Draft, EventMeta};
    use crate::ground::clock::UnixMs;
    use crate::store::engine::EngineOptions;
    use crate::store::{AppendUnit, Appended, Engine, EventLog as _, Prepared};

    fn event(n: u64) -> Prepared {
        let meta =
            EventMeta { id: format!("e{n}"), event_type: "a.b".into(), org: "acme".into(), ..EventMeta::default() };
        let body = Bytes::from(format!(r#"{{"n":{n}}}"#));
        let draft = Draft { meta, body, id_given: true, received_at: UnixMs(1_795_248_000_000), deliver_at: None };
        Prepared::new(draft).expect("prepares")
    }

    fn append(engine: &Engine, events: impl Iterator<Item = u64>) -> Vec<Appended> {
        let unit = AppendUnit { events: events.map(event).collect(), atomic: false };
        engine.append(vec![unit]).expect("appends").remove(0)
    }

    fn open(dir: &std::path::Path, segment_events: u64) -> Arc<Engine> {
        let data_dir = dir.to_owned();
        Engine::open(EngineOptions { data_dir, cache_bytes: 64 << 20, segment_events, free_space_floor_bytes: 0 })
            .expect("opens")
    }

    /// Changes the closed store.
    fn change(dir: &std::path::Path, work: impl FnOnce(&sled::Db)) {
        let path = dir.join("store");
        let config = sled::Config::new().path(path).segment_size(8 << 20);
        let db = (0..200)
            .find_map(|_| {
                std::thread::sleep(std::time::Duration::from_millis(10));
                config.open().ok()
            })
            .expect("opens");
        work(&db);
        db.flush().expect("flushes");
    }

    fn all_are_known(engine: &Engine, upto: u64) {
        for n in (1..=upto).step_by(37).chain([upto]) {
            assert_eq!(engine.find("acme", &format!("e{n}")).expect("finds"), Some(Seq(n)));
            assert!(matches!(append(engine, n..=n)[..], [Appended::Duplicate(seq)] if seq == Seq(n)), "{n}");
        }
        assert_eq!(engine.find("acme", &format!("e{}", upto + 1)).expect("finds"), None);
    }

    #[test]
    fn ids_are_known_after_openings_with_and_without_blocks() {
        let dir = tempfile::tempdir().expect("a directory");
        let upto = BLOCK_EVENTS as u64 * 2 + 500;
        let engine = open(dir.path(), 1_000_000);
        for start in (1..=upto).step_by(1_000) {
            append(&engine, start..=(start + 999).min(upto));
        }
        drop(engine);
        let engine = open(dir.path(), 1_000_000);
        all_are_known(&engine, upto);
        drop(engine);
        let blocks = |db: &sled::Db| {
            let tree = db.open_tree(Segment::ids_name(Seq(1))).expect("opens");
            let keys: Vec<_> = tree.iter().keys().map(|key| key.expect("reads")).collect();
            (tree, keys)
        };
        change(dir.path(), |db| {
            let (tree, keys) = blocks(db);
            assert_eq!(keys.len(), 2);
            keys.iter().for_each(|key| drop(tree.remove(key).expect("removes")));
        });
        all_are_known(&open(dir.path(), 1_000_000), upto);
        change(dir.path(), |db| assert_eq!(blocks(db).1.len(), 2, "they were made again"));
    }

    #[test]
    fn a_full_segment_without_its_seal_gets_it_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let engine = open(dir.path(), 1_000);
        for start in (1..=2_500).step_by(500) {
            append(&engine, start..=start + 499);
        }
        drop(engine);
        change(dir.path(), |db| db.open_tree("seals").expect("opens").clear().expect("clears"));
        all_are_known(&open(dir.path(), 1_000), 2_500);
        change(dir.path(), |db| assert!(db.open_tree("seals").expect("opens").len() >= 2));
        all_are_known(&open(dir.path(), 1_000), 2_500);
    }

    #[test]
    fn a_damaged_event_holds_up_neither_the_opening_nor_those_beside_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let engine = open(dir.path(), 1_000);
        append(&engine, 1..=20);
        drop(engine);
        change(dir.path(), |db| {
            let tree = db.open_tree(Segment::log_name(Seq(1))).expect("opens");
            for n in [7, 20] {
                let mut row = tree.get(Seq(n).to_key()).expect("reads").expect("is there").to_vec();
                row[30] ^= 1;
                tree.insert(Seq(n).to_key(), row).expect("inserts");
            }
        });
        let engine = open(dir.path(), 1_000);
        assert_eq!(engine.head(), Seq(20), "its position is not given out again");
        assert_ne!(engine.segments()[0].newest_ms, 0, "the age is that of the newest that can be read");
        for n in [6, 8, 19] {
            assert_eq!(engine.find("acme", &format!("e{n}")).expect("finds"), Some(Seq(n)));
        }
        assert!(matches!(
            append(&engine, 7..=9)[..],
            [Appended::New(_), Appended::Duplicate(Seq(8)), Appended::Duplicate(_)]
        ));
        assert_eq!(engine.find("acme", "e7").expect("finds"), Some(Seq(21)));
        assert!(engine.get(Seq(7)).is_err(), "it is told where it is read");
    }

    /// A crash can come between the table of a full segment and the first event of the next, and then the settings change.
    #[test]
    fn a_full_segment_is_not_written_to_when_more_fits_into_one_since() {
        let dir = tempfile::tempdir().expect("a directory");
        let engine = open(dir.path(), 1_000);
        append(&engine, 1..=1_000);
        append(&engine, 1_001..=1_001);
        drop(engine);
        change(dir.path(), |db| {
            db.drop_tree(Segment::log_name(Seq(1_001))).expect("drops");
            db.drop_tree(Segment::ids_name(Seq(1_001))).expect("drops");
        });
        let engine = open(dir.path(), 5_000);
        append(&engine, 1_001..=1_100);
        all_are_known(&engine, 1_100);
        assert_eq!(engine.segments().len(), 2);
    }

    /// As the first version wrote them: a row from each id, and a seal with a filter over those rows' keys.
    #[test]
    fn segments_of_the_first_version_are_read_and_go_on() {
        let dir = tempfile::tempdir().expect("a directory");
        drop(open(dir.path(), 1_000));
        change(dir.path(), |db| {
            for first in [1, 1_001] {
                let tree = db.open_tree(Segment::log_name(Seq(first))).expect("opens");
                for n in first..first + 1_000 - 200 * u64::from(first > 1) {
                    tree.insert(Seq(n).to_key(), event(n).record()).expect("inserts");
                    let key = [&[OLD_ID_PREFIX], format!("e{n}").as_bytes(), &[0], b"acme"].concat();
                    let value = [&Seq(n).to_key()[..], &[9; 14]].concat();
                    tree.insert(key, value).expect("inserts");
                }
            }
            let seal = Seal { last: Seq(1_000), bytes: 1 << 20, newest_ms: 1, filter: vec![0; 200] };
            let record = codec::encode(1, &seal).expect("encodes");
            db.open_tree("seals").expect("opens").insert(Seq(1).to_key(), record).expect("inserts");
        });
        let engine = open(dir.path(), 1_000);
        assert_eq!(engine.head(), Seq(1_800));
        all_are_known(&engine, 1_800);
        append(&engine, 1_801..=2_100);
        all_are_known(&engine, 2_100);
        drop(engine);
        let engine = open(dir.path(), 1_000);
        all_are_known(&engine, 2_100);
        let read = engine.read(Seq(1), crate::store::ReadLimits { events: 9_999, bytes: 1 << 30, upto: Seq(9_999) });
        assert_eq!(read.expect("reads").len(), 2_100, "rows of ids are no events");
    }
}
