//! The row of one block.
//!
//! Payload of the record: `oldest: u64 LE | newest: u64 LE | present | six columns`. A set of positions such as `present`
//! is 128 bytes, a bit per event. A column is `count: u16 LE | count keys, u32 LE, ascending | planes`: the event's place
//! among the keys, cut into bits, plane `n` holding bit `n` of every event. So a key is found by halving, and the events
//! that have it by a few operations on 128 bytes per plane, with nothing decoded. A column with so many keys that this
//! would be longer holds the 1,024 keys one after the other instead; its count is [`PLAIN`].

use std::sync::Arc;

use super::wanted::{COLUMNS, Column, Key, Wanted, keys_of};
use crate::event::envelope::Event;
use crate::ground::clock::UnixMs;
use crate::ground::codec::{self, CodecError};
use crate::store::{IndexLevel, IndexRow};

/// Version of the record.
const VERSION: u8 = 1;
/// Events of a block.
pub(super) const EVENTS: usize = IndexLevel::Block.events() as usize;
const WORDS: usize = EVENTS / 64;
const SET_BYTES: usize = EVENTS / 8;
const KEY_BYTES: usize = 4;
/// In place of the count of keys: a key per event follows.
const PLAIN: u16 = u16::MAX;

/// A set of the events of a block, by their place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Places([u64; WORDS]);

impl Places {
    pub(super) const NONE: Self = Self([0; WORDS]);

    fn add(&mut self, place: usize) {
        self.0[place / 64] |= 1 << (place % 64);
    }

    /// The places, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().zip(0_u64..).flat_map(|(word, at)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros();
                left &= left.checked_sub(1)?;
                Some(at * 64 + u64::from(bit))
            })
        })
    }

    fn combine(&mut self, other: &Self, with: impl Fn(u64, u64) -> u64) {
        for (mine, other) in self.0.iter_mut().zip(other.0) {
            *mine = with(*mine, other);
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        self.0.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
    }

    fn read(bytes: &[u8]) -> Self {
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        Self(words)
    }
}

/// Bits that tell so many keys apart.
fn width(keys: usize) -> usize {
    keys.saturating_sub(1).checked_ilog2().map_or(0, |bits| bits as usize + 1)
}

/// The record of a block. `events` are those of its positions that are in the log; events of other blocks are left out.
#[must_use]
pub fn build(row: IndexRow, events: &[Arc<Event>]) -> Vec<u8> {
    let mut keys = [[Key::NONE; EVENTS]; COLUMNS];
    let (mut oldest, mut newest, mut present) = (u64::MAX, 0, Places::NONE);
    for event in events.iter().filter(|event| IndexRow::holding(row.level, event.seq) == row) {
        let place = (event.seq.0 % IndexLevel::Block.events()) as usize;
        present.add(place);
        oldest = oldest.min(event.received_at.0);
        newest = newest.max(event.received_at.0);
        for (column, key) in keys.iter_mut().zip(keys_of(&event.meta)) {
            column[place] = key;
        }
    }
    let mut payload = Vec::with_capacity(8 << 10);
    payload.extend_from_slice(&oldest.to_le_bytes());
    payload.extend_from_slice(&newest.to_le_bytes());
    present.write(&mut payload);
    keys.iter().for_each(|column| write_column(&mut payload, column, &present));
    codec::frame(VERSION, &payload)
}

fn write_column(out: &mut Vec<u8>, keys: &[Key; EVENTS], present: &Places) {
    let mut distinct: Vec<Key> = present.iter().map(|place| keys[place as usize]).collect();
    distinct.sort_unstable();
    distinct.dedup();
    if distinct.len() * KEY_BYTES + width(distinct.len()) * SET_BYTES > EVENTS * KEY_BYTES {
        out.extend_from_slice(&PLAIN.to_le_bytes());
        keys.iter().for_each(|key| out.extend_from_slice(&key.0.to_le_bytes()));
        return;
    }
    // There are at most 1,024 keys.
    out.extend_from_slice(&u16::try_from(distinct.len()).unwrap_or(PLAIN).to_le_bytes());
    distinct.iter().for_each(|key| out.extend_from_slice(&key.0.to_le_bytes()));
    let mut planes = vec![Places::NONE; width(distinct.len())];
    for place in present.iter().map(|place| place as usize) {
        let code = distinct.partition_point(|key| *key < keys[place]);
        for (bit, plane) in planes.iter_mut().enumerate() {
            if code >> bit & 1 == 1 {
                plane.add(place);
            }
        }
    }
    planes.iter().for_each(|plane| plane.write(out));
}

/// A column as it lies in the record.
#[derive(Clone, Copy, Debug)]
enum ColumnView<'a> {
    Dictionary { keys: &'a [[u8; KEY_BYTES]], planes: &'a [[u8; SET_BYTES]] },
    Plain { keys: &'a [[u8; KEY_BYTES]] },
}

fn key(bytes: [u8; KEY_BYTES]) -> Key {
    Key(u32::from_le_bytes(bytes))
}

impl ColumnView<'_> {
    /// The events that have this key; of those that are not there nothing is said.
    fn places(&self, wanted: Key) -> Places {
        let mut found = Places::NONE;
        match self {
            Self::Dictionary { keys, planes } => {
                let Ok(code) = keys.binary_search_by_key(&wanted, |bytes| key(*bytes)) else { return found };
                found = Places([u64::MAX; WORDS]);
                for (bit, plane) in planes.iter().enumerate() {
                    let plane = Places::read(plane);
                    if code >> bit & 1 == 1 {
                        found.combine(&plane, |mine, plane| mine & plane);
                    } else {
                        found.combine(&plane, |mine, plane| mine & !plane);
                    }
                }
            }
            Self::Plain { keys } => {
                let having = keys.iter().enumerate().filter(|(_, bytes)| key(**bytes) == wanted);
                having.for_each(|(place, _)| found.add(place));
            }
        }
        found
    }
}

/// The row of a block, read where it lies.
#[derive(Debug)]
pub struct Block<'a> {
    pub(super) oldest: UnixMs,
    pub(super) newest: UnixMs,
    present: Places,
    columns: [ColumnView<'a>; COLUMNS],
}

impl<'a> Block<'a> {
    /// Reads a record that [`build`] has made.
    ///
    /// # Errors
    /// When the bytes are not such a record.
    pub fn read(record: &'a [u8]) -> Result<Self, CodecError> {
        let mut left = codec::unframe(VERSION, record)?;
        let oldest = UnixMs(u64::from_le_bytes(*take(&mut left)?));
        let newest = UnixMs(u64::from_le_bytes(*take(&mut left)?));
        let present = Places::read(take::<SET_BYTES>(&mut left)?);
        let mut columns = [ColumnView::Plain { keys: &[] }; COLUMNS];
        for column in &mut columns {
            *column = match u16::from_le_bytes(*take(&mut left)?) {
                PLAIN => ColumnView::Plain { keys: take_many(&mut left, EVENTS)? },
                count => ColumnView::Dictionary {
                    keys: take_many(&mut left, count.into())?,
                    planes: take_many(&mut left, width(count.into()))?,
                },
            };
        }
        if !left.is_empty() {
            return Err(CodecError::Payload(format!("{} bytes left over", left.len())));
        }
        Ok(Self { oldest, newest, present, columns })
    }

    /// The places of the events that may be wanted.
    pub(super) fn candidates(&self, wanted: &Wanted) -> Places {
        if !wanted.overlaps(self.oldest, self.newest) {
            return Places::NONE;
        }
        let mut found = self.present;
        for clause in &wanted.clauses {
            let mut any = Places::NONE;
            for (column, key) in clause {
                any.combine(&self.columns[column.index()].places(*key), |mine, other| mine | other);
            }
            found.combine(&any, |mine, other| mine & other);
        }
        found
    }

    /// How many events may be wanted.
    #[must_use]
    pub fn count(&self, wanted: &Wanted) -> usize {
        self.candidates(wanted).iter().count()
    }

    /// The keys of a column, some of them perhaps more than once.
    pub(super) fn keys(&self, column: Column) -> impl Iterator<Item = Key> + '_ {
        let (ColumnView::Dictionary { keys, .. } | ColumnView::Plain { keys }) = self.columns[column.index()];
        keys.iter().map(|bytes| key(*bytes))
    }
}

fn take<'a, const N: usize>(left: &mut &'a [u8]) -> Result<&'a [u8; N], CodecError> {
    let (first, rest) = left.split_first_chunk().ok_or(CodecError::Short(left.len()))?;
    *left = rest;
    Ok(first)
}

fn take_many<'a, const N: usize>(left: &mut &'a [u8], count: usize) -> Result<&'a [[u8; N]], CodecError> {
    let (bytes, rest) = left.split_at_checked(count * N).ok_or(CodecError::Short(left.len()))?;
    *left = rest;
    Ok(bytes.as_chunks().0)
}
