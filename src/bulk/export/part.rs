//! One part being written, and the list of the parts that count.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{part_file, part_name};
use crate::bulk::Compression;
use crate::bulk::folder::{Tally, create, names, remove_file, sync_dir};
use crate::ground::ids::Seq;

/// The list of the parts that count, a line each.
const LIST: &str = "parts.ndjson";
/// The part being written.
const OPEN: &str = "part.open";
/// Bytes gathered before they are written.
const BUFFER_BYTES: usize = 256 << 10;
/// How hard zstd tries: its own default.
const LEVEL: i32 = 3;

/// A part that counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRecord {
    /// Its number, from 1.
    pub part: u32,
    /// Bytes of the file.
    pub bytes: u64,
    /// Bytes before they were packed.
    pub plain_bytes: u64,
    /// Lines, the header's included.
    pub lines: u64,
    /// Events.
    pub events: u64,
    /// SHA-256 of the file, in hex.
    pub sha256: String,
    /// Position of the first event; zero when there is none.
    pub first_seq: Seq,
    /// Position of the last.
    pub last_seq: Seq,
}

impl PartRecord {
    /// The part as clients see it.
    #[must_use]
    pub fn to_json(&self, compression: Compression) -> Value {
        let Self { part, bytes, plain_bytes, lines, events, sha256, first_seq, last_seq } = self;
        json!({
            "part": part, "file": part_name(*part, compression), "bytes": bytes, "plain_bytes": plain_bytes,
            "lines": lines, "events": events, "sha256": sha256, "first_seq": first_seq.0, "last_seq": last_seq.0,
        })
    }
}

/// A file that is hashed while it is written.
struct Hashed {
    file: BufWriter<File>,
    sha: Sha256,
    bytes: u64,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.sha.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

enum Sink {
    Plain(Hashed),
    Zstd(Box<zstd::stream::write::Encoder<'static, Hashed>>),
}

/// A part being written. What was written is removed when it is dropped before its end.
pub(super) struct PartWriter {
    dir: PathBuf,
    compression: Compression,
    part: u32,
    sink: Option<Sink>,
    plain_bytes: u64,
    lines: u64,
    events: u64,
    first: Seq,
    last: Seq,
}

impl PartWriter {
    /// Begins a part with its header line.
    pub(super) fn begin(dir: &Path, part: u32, compression: Compression, header: &[u8]) -> io::Result<Self> {
        let file = BufWriter::with_capacity(BUFFER_BYTES, create(&dir.join(OPEN))?);
        let hashed = Hashed { file, sha: Sha256::new(), bytes: 0 };
        let sink = match compression {
            Compression::None => Sink::Plain(hashed),
            Compression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(hashed, LEVEL)?;
                encoder.include_checksum(true)?;
                Sink::Zstd(Box::new(encoder))
            }
        };
        let mut writer = Self {
            dir: dir.to_owned(),
            compression,
            part,
            sink: Some(sink),
            plain_bytes: 0,
            lines: 0,
            events: 0,
            first: Seq::ZERO,
            last: Seq::ZERO,
        };
        writer.line(header)?;
        Ok(writer)
    }

    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        let out: &mut dyn Write = match &mut self.sink {
            Some(Sink::Plain(hashed)) => hashed,
            Some(Sink::Zstd(encoder)) => encoder,
            None => return Err(io::Error::other("the part has ended")),
        };
        out.write_all(line)?;
        out.write_all(b"\n")?;
        self.plain_bytes += line.len() as u64 + 1;
        self.lines += 1;
        Ok(())
    }

    /// Adds an event's line.
    pub(super) fn event(&mut self, seq: Seq, line: &[u8]) -> io::Result<()> {
        self.line(line)?;
        self.events += 1;
        self.last = seq;
        if self.first == Seq::ZERO {
            self.first = seq;
        }
        Ok(())
    }

    /// Events so far.
    pub(super) fn events(&self) -> u64 {
        self.events
    }

    /// Bytes so far, before they are packed.
    pub(super) fn plain_bytes(&self) -> u64 {
        self.plain_bytes
    }

    /// Ends the part: on disk under its name when this returns. It counts when it is in the list.
    pub(super) fn finish(mut self) -> io::Result<PartRecord> {
        let mut hashed = match self.sink.take() {
            Some(Sink::Plain(hashed)) => hashed,
            Some(Sink::Zstd(encoder)) => encoder.finish()?,
            None => return Err(io::Error::other("the part has ended")),
        };
        hashed.flush()?;
        hashed.file.get_ref().sync_all()?;
        fs::rename(self.dir.join(OPEN), part_file(&self.dir, self.part, self.compression))?;
        sync_dir(&self.dir)?;
        Ok(PartRecord {
            part: self.part,
            bytes: hashed.bytes,
            plain_bytes: self.plain_bytes,
            lines: self.lines,
            events: self.events,
            sha256: hex::encode(hashed.sha.finalize()),
            first_seq: self.first,
            last_seq: self.last,
        })
    }
}

impl Drop for PartWriter {
    fn drop(&mut self) {
        if self.sink.is_some()
            && let Err(error) = remove_file(&self.dir.join(OPEN))
        {
            // It is written over, or goes with its folder.
            tracing::debug!(%error, dir = %self.dir.display(), "a part that was not finished stays for now");
        }
    }
}

/// Adds a part to the list, which had so many bytes; gives how many it has now. The part counts when that is saved.
pub(super) fn list_part(dir: &Path, list_bytes: u64, record: &PartRecord) -> io::Result<u64> {
    let mut list = Tally::open(&dir.join(LIST), list_bytes)?;
    let mut line = serde_json::to_vec(record).map_err(io::Error::other)?;
    line.push(b'\n');
    list.add(&line)?;
    list.sync()?;
    Ok(list.length())
}

/// Removes what a crash has left beside the first `parts` parts.
pub(super) fn settle(dir: &Path, parts: u32, compression: Compression) -> io::Result<()> {
    let counts: Vec<String> = (1..=parts).map(|part| part_name(part, compression)).collect();
    for name in names(dir)? {
        if name != LIST && !counts.contains(&name) {
            remove_file(&dir.join(name))?;
        }
    }
    sync_dir(dir)
}

/// The parts of the first `list_bytes` bytes of the list: `limit` of them after the part `after`.
///
/// # Errors
/// When the list is not there or does not read.
pub fn parts_of(dir: &Path, list_bytes: u64, after: u32, limit: usize) -> io::Result<Vec<PartRecord>> {
    let file = match File::open(dir.join(LIST)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && list_bytes == 0 => return Ok(Vec::new()),
        other => other?,
    };
    let list = BufReader::new(io::Read::take(file, list_bytes));
    let mut found = Vec::new();
    for line in list.lines() {
        let record: PartRecord = serde_json::from_str(&line?).map_err(io::Error::other)?;
        if record.part > after {
            found.push(record);
        }
        if found.len() >= limit {
            break;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, part: u32, compression: Compression) -> PartRecord {
        let mut writer = PartWriter::begin(dir, part, compression, b"{\"head\":1}").expect("begins");
        for n in 1..=3 {
            writer.event(Seq(n * 10), format!("{{\"n\":{n}}}").as_bytes()).expect("added");
        }
        writer.finish().expect("ends")
    }

    #[test]
    fn a_part_has_the_bytes_and_the_hash_that_are_told_of_it() {
        let dir = tempfile::tempdir().expect("a folder");
        for compression in Compression::ALL {
            let record = write(dir.path(), 1, compression);
            let bytes = fs::read(part_file(dir.path(), 1, compression)).expect("reads");
            assert_eq!(record.bytes, bytes.len() as u64);
            assert_eq!(record.sha256, hex::encode(Sha256::digest(&bytes)));
            let plain = match compression {
                Compression::None => bytes,
                Compression::Zstd => zstd::stream::decode_all(&*bytes).expect("unpacks"),
            };
            assert_eq!(String::from_utf8(plain).expect("text"), "{\"head\":1}\n{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n");
            assert_eq!((record.lines, record.events, record.plain_bytes), (4, 3, 35));
            assert_eq!((record.first_seq, record.last_seq), (Seq(10), Seq(30)));
        }
    }

    #[test]
    fn what_no_cursor_names_is_removed_and_what_it_names_stays() {
        let dir = tempfile::tempdir().expect("a folder");
        let first = write(dir.path(), 1, Compression::None);
        let listed = list_part(dir.path(), 0, &first).expect("listed");
        let second = write(dir.path(), 2, Compression::None);
        list_part(dir.path(), listed, &second).expect("listed");
        // The end came before the cursor of the second was saved, and within a third.
        std::mem::forget(PartWriter::begin(dir.path(), 3, Compression::None, b"{}").expect("begins"));
        settle(dir.path(), 1, Compression::None).expect("settles");
        let mut left = names(dir.path()).expect("looks");
        left.sort();
        assert_eq!(left, ["part-000001.ndjson", "parts.ndjson"]);
        assert_eq!(parts_of(dir.path(), listed, 0, 10).expect("reads"), std::slice::from_ref(&first));
        let again = write(dir.path(), 2, Compression::None);
        let both = list_part(dir.path(), listed, &again).expect("listed");
        assert_eq!(parts_of(dir.path(), both, 0, 10).expect("reads"), [first, again.clone()]);
        assert_eq!(parts_of(dir.path(), both, 1, 10).expect("reads"), [again]);
        assert!(parts_of(dir.path(), both, 0, 1).expect("reads").len() == 1);
    }

    #[test]
    fn a_part_that_is_given_up_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        drop(PartWriter::begin(dir.path(), 1, Compression::Zstd, b"{}").expect("begins"));
        assert!(names(dir.path()).expect("looks").is_empty());
    }
}
