//! Which event of a segment has which id.
//!
//! An id costs the append no row of its own: the segment being written keeps a keyed hash per event in memory, with a
//! table over them, and every [`BLOCK_EVENTS`] a row of hashes is laid aside, so that opening need not read all events. A
//! full segment gets its hashes sorted, in rows of [`TABLE_ENTRIES`], and keeps only a filter in memory that tells which
//! are surely not there. What a hash leads to is a candidate: the event itself says whether it has the id.
//!
//! These rows have a tree of their own beside the segment's: the engine writes a whole leaf of sixteen rows now and then,
//! and large rows in the leaf of the newest events would be written with them again and again (measured: a third of the
//! rate of batches).
//!
//! The rows of blocks and tables are made from the events, so they are never the only place of anything: what is missing
//! after a crash is made again. The hash is keyed, because ids come from producers, who could otherwise make them meet.

use std::hash::Hasher as _;
use std::ops::RangeInclusive;

use fastbloom::BloomFilter;
use hashbrown::HashTable;
use siphasher::sip::SipHasher13;

use crate::ground::codec;
use crate::ground::ids::Seq;
use crate::store::StoreError;

/// First byte of the key of a block's row.
const BLOCK_PREFIX: u8 = 1;
/// First byte of the key of a table's row.
const TABLE_PREFIX: u8 = 2;
/// Version of both kinds of rows.
const VERSION: u8 = 1;
/// Events of a block: 8 KiB of hashes.
pub(super) const BLOCK_EVENTS: usize = 1_024;
/// Entries of a table's row: 3 KiB, so that a look-up that misses the cache reads little.
const TABLE_ENTRIES: usize = 256;
/// Bytes of an entry: hash and offset.
const ENTRY_BYTES: usize = 12;
/// Hashes per key; with [`BITS_PER_KEY`] about one in 800 of the ids that are not there is looked up in vain.
const HASHES: u32 = 8;
const BITS_PER_KEY: usize = 14;
/// Part of the persisted form: never changes.
const SEED: u128 = 0x7469_6465_6761_7465;

/// Bits of a hash that the org decides; the others are of the id alone, so that an id can be looked up in every org, while
/// a look-up in one org does not meet the same id of ten thousand others.
const ORG_BITS: u32 = 24;

/// The keyed hash of an event's id and org.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct IdHash(pub(super) u64);

/// The key of a store's hashes.
#[derive(Clone, Copy)]
pub(super) struct IdKey([u8; 16]);

impl IdKey {
    pub(super) fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub(super) fn hash(&self, org: &str, id: &str) -> IdHash {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write(id.as_bytes());
        let of_id = hasher.finish() << ORG_BITS;
        // Neither part has control characters.
        hasher.write(&[0]);
        hasher.write(org.as_bytes());
        IdHash(of_id | (hasher.finish() >> (u64::BITS - ORG_BITS)))
    }

    /// The hashes that an id may have, whatever its org.
    pub(super) fn in_any_org(&self, id: &str) -> RangeInclusive<IdHash> {
        let IdHash(hash) = self.hash("", id);
        let lowest = hash >> ORG_BITS << ORG_BITS;
        IdHash(lowest)..=IdHash(lowest | ((1 << ORG_BITS) - 1))
    }
}

/// The ids of one segment.
pub(super) enum Ids {
    /// Of the segment that is written to.
    Open(OpenIds),
    /// Of a full one, whose table is in its tree: what is surely not in it.
    Sealed(BloomFilter),
}

/// Where a look-up goes on.
pub(super) enum Look {
    /// These positions, newest first.
    Found(Vec<Seq>),
    /// The table of the segment.
    InTable,
}

impl Ids {
    /// Where events with one of these hashes may be. One hash is looked for in the table or the filter; of several, which
    /// only an operator's look-up in every org asks for, each is compared.
    pub(super) fn look(&self, first: Seq, hashes: &RangeInclusive<IdHash>) -> Look {
        let one = (hashes.start() == hashes.end()).then_some(*hashes.start());
        match (self, one) {
            (Self::Open(open), Some(hash)) => Look::Found(open.places(first, hash)),
            (Self::Open(open), None) => Look::Found(open.places_of_any(first, hashes)),
            (Self::Sealed(filter), Some(hash)) if !filter.contains(&hash.0) => Look::Found(Vec::new()),
            (Self::Sealed(_), _) => Look::InTable,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }
}

/// A hash per event, in order, and a table over them.
#[derive(Default)]
pub(super) struct OpenIds {
    hashes: Vec<IdHash>,
    table: HashTable<u32>,
}

impl OpenIds {
    /// Adds the next event's hash. Gives the row of the block that it completes.
    pub(super) fn push(&mut self, hash: IdHash) -> Option<Row> {
        // A segment holds a million events at most, and one group more.
        let offset = u32::try_from(self.hashes.len()).unwrap_or(u32::MAX);
        self.hashes.push(hash);
        let hashes = &self.hashes;
        self.table.insert_unique(hash.0, offset, |offset| hashes[*offset as usize].0);
        self.hashes.len().is_multiple_of(BLOCK_EVENTS).then(|| self.block(self.hashes.len() / BLOCK_EVENTS - 1))
    }

    pub(super) fn len(&self) -> usize {
        self.hashes.len()
    }

    fn places(&self, first: Seq, hash: IdHash) -> Vec<Seq> {
        let mut places: Vec<Seq> = self
            .table
            .iter_hash(hash.0)
            .filter(|offset| self.hashes[**offset as usize] == hash)
            .map(|offset| Seq(first.0 + u64::from(*offset)))
            .collect();
        places.sort_unstable_by(|a, b| b.cmp(a));
        places
    }

    fn places_of_any(&self, first: Seq, hashes: &RangeInclusive<IdHash>) -> Vec<Seq> {
        let all = self.hashes.iter().enumerate().rev();
        all.filter(|(_, hash)| hashes.contains(hash)).map(|(at, _)| Seq(first.0 + at as u64)).collect()
    }

    /// The row of a complete block.
    pub(super) fn block(&self, n: usize) -> Row {
        let hashes = &self.hashes[n * BLOCK_EVENTS..(n + 1) * BLOCK_EVENTS];
        let payload: Vec<u8> = hashes.iter().flat_map(|hash| hash.0.to_le_bytes()).collect();
        Row { key: block_key(n), value: codec::frame(VERSION, &payload) }
    }

    /// The rows of the table, and the filter, of a segment that is full.
    pub(super) fn seal(&self) -> (Vec<Row>, BloomFilter) {
        let mut entries: Vec<(IdHash, u32)> = self.hashes.iter().copied().zip(0..).collect();
        entries.sort_unstable();
        let rows = entries.chunks(TABLE_ENTRIES).map(table_row).collect();
        let bits = (entries.len() * BITS_PER_KEY).max(1_024);
        let mut filter = BloomFilter::with_num_bits(bits).seed(&SEED).hashes(HASHES);
        for (hash, _) in &entries {
            filter.insert(&hash.0);
        }
        (rows, filter)
    }
}

/// A row to be written.
pub(super) struct Row {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
}

/// The filter of a sealed segment, as its seal keeps it.
pub(super) fn filter_of(words: Vec<u64>) -> BloomFilter {
    BloomFilter::from_vec(words).seed(&SEED).hashes(HASHES)
}

fn block_key(n: usize) -> Vec<u8> {
    let mut key = vec![BLOCK_PREFIX];
    key.extend_from_slice(&u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes());
    key
}

/// The key of a table's row: its first entry, which no other row has.
fn table_key((hash, offset): (IdHash, u32)) -> Vec<u8> {
    let mut key = vec![TABLE_PREFIX];
    key.extend_from_slice(&hash.0.to_be_bytes());
    key.extend_from_slice(&offset.to_be_bytes());
    key
}

fn table_row(entries: &[(IdHash, u32)]) -> Row {
    let mut payload = Vec::with_capacity(entries.len() * ENTRY_BYTES);
    for (hash, offset) in entries {
        payload.extend_from_slice(&hash.0.to_le_bytes());
        payload.extend_from_slice(&offset.to_le_bytes());
    }
    let key = table_key(entries.first().copied().unwrap_or((IdHash(0), 0)));
    Row { key, value: codec::frame(VERSION, &payload) }
}

fn corrupt(key: &[u8], source: codec::CodecError) -> StoreError {
    StoreError::Corrupt { what: format!("ids row {}", hex::encode(key)), source }
}

/// The positions that a sealed segment's table has for these hashes, newest first.
pub(super) fn look_in_table(
    tree: &sled::Tree,
    first: Seq,
    hashes: &RangeInclusive<IdHash>,
) -> Result<Vec<Seq>, StoreError> {
    let mut places = Vec::new();
    for row in tree.range(vec![TABLE_PREFIX]..=table_key((*hashes.end(), u32::MAX))).rev() {
        let (key, value) = row?;
        let payload = codec::unframe(VERSION, &value).map_err(|source| corrupt(&key, source))?;
        let mut starts_before = false;
        for (hash, offset) in payload.chunks_exact(ENTRY_BYTES).filter_map(read_entry) {
            starts_before |= hash < *hashes.start();
            if hashes.contains(&hash) {
                places.push(Seq(first.0 + u64::from(offset)));
            }
            if hash > *hashes.end() {
                break;
            }
        }
        // What is looked for may fill several rows.
        if starts_before {
            break;
        }
    }
    places.sort_unstable_by(|a, b| b.cmp(a));
    Ok(places)
}

fn read_entry(bytes: &[u8]) -> Option<(IdHash, u32)> {
    let hash = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    let offset = u32::from_le_bytes(bytes.get(8..ENTRY_BYTES)?.try_into().ok()?);
    Some((IdHash(hash), offset))
}

/// The hashes that a segment's blocks hold, from its first event on, up to the first block that is missing or damaged.
pub(super) fn read_blocks(tree: &sled::Tree) -> Result<Vec<IdHash>, StoreError> {
    let mut hashes = Vec::new();
    for (n, row) in tree.scan_prefix([BLOCK_PREFIX]).enumerate() {
        let (key, value) = row?;
        if *key != *block_key(n) {
            break;
        }
        match codec::unframe(VERSION, &value) {
            Ok(payload) if payload.len() == BLOCK_EVENTS * 8 => {
                let words = payload.as_chunks::<8>().0.iter();
                hashes.extend(words.map(|word| IdHash(u64::from_le_bytes(*word))));
            }
            Ok(_) | Err(_) => {
                tracing::warn!(row = hex::encode(&key), "a block of ids is damaged; reading the events instead");
                break;
            }
        }
    }
    Ok(hashes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> (tempfile::TempDir, sled::Db) {
        let dir = tempfile::tempdir().expect("a directory");
        let db = sled::open(dir.path()).expect("opens");
        (dir, db)
    }

    /// As many hashes as a few blocks and table rows hold, of which some meet.
    fn hashes() -> Vec<IdHash> {
        let key = IdKey::new([7; 16]);
        let mut hashes: Vec<IdHash> = (0..9_000).map(|n: u32| key.hash("acme", &format!("e{}", n % 8_500))).collect();
        hashes.extend([IdHash(u64::MAX / 2); 1_000]);
        hashes.extend([IdHash(0), IdHash(u64::MAX), IdHash(1)]);
        hashes
    }

    fn open(hashes: &[IdHash]) -> (OpenIds, Vec<Row>) {
        let mut open = OpenIds::default();
        let blocks = hashes.iter().filter_map(|hash| open.push(*hash)).collect();
        (open, blocks)
    }

    #[test]
    fn a_full_segment_finds_what_the_open_one_found() {
        let hashes = hashes();
        let (open, _) = open(&hashes);
        let (rows, filter) = open.seal();
        assert!(rows.len() > 3);
        let (_dir, db) = tree();
        for row in rows {
            db.insert(row.key, row.value).expect("inserts");
        }
        let first = Seq(1_001);
        for hash in hashes.iter().step_by(97).chain(&hashes[9_990..]) {
            let places = open.places(first, *hash);
            let mut wanted: Vec<Seq> =
                (first.0..).zip(&hashes).filter(|(_, one)| *one == hash).map(|(at, _)| Seq(at)).collect();
            wanted.reverse();
            assert_eq!(places, wanted);
            assert_eq!(look_in_table(&db, first, &(*hash..=*hash)).expect("looks"), wanted);
            assert!(filter.contains(&hash.0));
        }
        for absent in [2, u64::MAX - 1, u64::MAX / 2 + 1, u64::MAX / 2 - 1] {
            assert!(open.places(first, IdHash(absent)).is_empty());
            assert!(look_in_table(&db, first, &(IdHash(absent)..=IdHash(absent))).expect("looks").is_empty());
        }
        let in_vain = (0..10_000_u64).filter(|n| filter.contains(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).count();
        assert!(in_vain < 50, "{in_vain} of 10,000 looked up in vain");
    }

    #[test]
    fn an_id_of_many_orgs_is_one_place_in_each_and_all_of_them_together() {
        let key = IdKey::new([7; 16]);
        let hashes: Vec<IdHash> = (0..3_000).map(|n| key.hash(&format!("org-{n}"), "1")).collect();
        let (open, _) = open(&hashes);
        let (_dir, db) = tree();
        for row in open.seal().0 {
            db.insert(row.key, row.value).expect("inserts");
        }
        for hash in hashes.iter().step_by(50) {
            // Two of 3,000 orgs meet in 24 bits once in a while, many never.
            assert!(open.places(Seq(1), *hash).len() <= 3);
            assert_eq!(look_in_table(&db, Seq(1), &(*hash..=*hash)).expect("looks"), open.places(Seq(1), *hash));
        }
        let any = key.in_any_org("1");
        assert!(hashes.iter().all(|hash| any.contains(hash)));
        assert_eq!(open.places_of_any(Seq(1), &any), (1..=3_000).rev().map(Seq).collect::<Vec<_>>());
        assert_eq!(look_in_table(&db, Seq(1), &any).expect("looks"), open.places_of_any(Seq(1), &any));
        assert!(open.places_of_any(Seq(1), &key.in_any_org("2")).is_empty());
    }

    #[test]
    fn blocks_are_read_up_to_the_first_that_is_missing_or_damaged() {
        let hashes = hashes();
        let (_, blocks) = open(&hashes);
        assert_eq!(blocks.len(), hashes.len() / BLOCK_EVENTS);
        let (_dir, db) = tree();
        assert!(read_blocks(&db).expect("reads").is_empty());
        for row in &blocks {
            db.insert(row.key.as_slice(), row.value.as_slice()).expect("inserts");
        }
        assert_eq!(read_blocks(&db).expect("reads"), hashes[..blocks.len() * BLOCK_EVENTS]);
        let mut damaged = blocks[2].value.clone();
        damaged[100] ^= 1;
        db.insert(blocks[2].key.as_slice(), damaged).expect("inserts");
        assert_eq!(read_blocks(&db).expect("reads"), hashes[..2 * BLOCK_EVENTS]);
        db.remove(&blocks[1].key).expect("removes");
        assert_eq!(read_blocks(&db).expect("reads"), hashes[..BLOCK_EVENTS]);
    }

    #[test]
    fn a_damaged_table_is_an_error_and_no_answer() {
        let (open, _) = open(&[IdHash(5), IdHash(9)]);
        let (rows, _) = open.seal();
        let (_dir, db) = tree();
        let mut damaged = rows[0].value.clone();
        damaged[9] ^= 1;
        db.insert(rows[0].key.as_slice(), damaged).expect("inserts");
        assert!(look_in_table(&db, Seq(1), &(IdHash(9)..=IdHash(9))).is_err());
    }

    #[test]
    fn the_bytes_of_ids_are_as_they_always_were() {
        let key = IdKey::new(*b"0123456789abcdef");
        let (open, _) = open(&[key.hash("acme", "evt_1"), key.hash("acme", "evt_2"), key.hash("", "evt_1")]);
        let (rows, filter) = open.seal();
        let mut text: String =
            rows.iter().map(|row| format!("{}\n{}\n", hex::encode(&row.key), hex::encode(&row.value))).collect();
        text += &format!("{:016x?}\n{}", filter.as_slice(), hex::encode(block_key(7)));
        insta::assert_snapshot!(text);
    }
}
