//! Bytes as lines. A line that is too long holds no memory.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::path::Path;

use bytes::{Bytes, BytesMut};

use super::unpack::Unpack;
use crate::bulk::Compression;

/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawLine {
    /// Its text without the line break; none when it is too long.
    pub(super) text: Option<Bytes>,
    /// Where the next line begins, in bytes of the content.
    pub(super) end: u64,
}

/// The lines of a content, from a place on.
pub(super) struct Lines {
    source: Box<dyn Read + Send>,
    buffer: BytesMut,
    /// Bytes of the buffer in which there is no line break.
    searched: usize,
    at: u64,
    line_bytes_max: usize,
    ended: bool,
    /// What ended the reading before its end; told again when asked again.
    fault: Option<String>,
}

/// Why no further line comes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LinesError {
    /// The content is damaged there, in words.
    #[error("{0}")]
    Damaged(String),
    /// The file system failed: it may pass.
    #[error("{0}")]
    Io(String),
}

impl Lines {
    /// Opens the first `bytes` bytes of the content at a place, which is the beginning of a line. What is packed is unpacked
    /// up to there.
    pub(super) fn open(
        path: &Path,
        bytes: u64,
        compression: Compression,
        at: u64,
        line_bytes_max: usize,
    ) -> Result<Self, LinesError> {
        let io_error = |error: io::Error| error_of(&error);
        let mut file = File::open(path).map_err(io_error)?;
        let source: Box<dyn Read + Send> = match compression {
            Compression::None => {
                file.seek(SeekFrom::Start(at)).map_err(io_error)?;
                Box::new(file.take(bytes.saturating_sub(at)))
            }
            Compression::Zstd => {
                let mut unpack = Unpack::new(BufReader::new(file.take(bytes))).map_err(io_error)?;
                let passed = io::copy(&mut Read::by_ref(&mut unpack).take(at), &mut io::sink()).map_err(io_error)?;
                if passed < at {
                    return Err(LinesError::Damaged(format!("the content has {passed} bytes, {at} were read before")));
                }
                Box::new(unpack)
            }
        };
        Ok(Self::over(source, at, line_bytes_max))
    }

    fn over(source: Box<dyn Read + Send>, at: u64, line_bytes_max: usize) -> Self {
        Self { source, buffer: BytesMut::new(), searched: 0, at, line_bytes_max, ended: false, fault: None }
    }

    /// Where the next line begins.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// The next line; none at the end. A last line needs no line break.
    pub(super) fn next_line(&mut self) -> Result<Option<RawLine>, LinesError> {
        // Bytes of a line that is too long and were passed over.
        let mut passed = 0_u64;
        loop {
            let found = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
            if let Some(found) = found {
                let length = self.searched + found;
                return Ok(Some(self.take(length, 1, passed)));
            }
            self.searched = self.buffer.len();
            if passed > 0 || self.buffer.len() > self.line_bytes_max {
                passed += self.buffer.len() as u64;
                self.buffer.clear();
                self.searched = 0;
            }
            if self.ended {
                if let Some(fault) = &self.fault {
                    // A line that the damage cut off is none.
                    return Err(LinesError::Damaged(fault.clone()));
                }
                let rest = self.buffer.len();
                return Ok((rest > 0 || passed > 0).then(|| self.take(rest, 0, passed)));
            }
            self.fill()?;
        }
    }

    fn take(&mut self, length: usize, line_break: usize, passed: u64) -> RawLine {
        let mut line = self.buffer.split_to(length + line_break);
        line.truncate(length);
        self.searched = 0;
        self.at += passed + (length + line_break) as u64;
        let text = (passed == 0 && length <= self.line_bytes_max).then(|| line.freeze());
        RawLine { text, end: self.at }
    }

    fn fill(&mut self) -> Result<(), LinesError> {
        let before = self.buffer.len();
        self.buffer.resize(before + READ_BYTES, 0);
        let read = self.source.read(&mut self.buffer[before..]);
        self.buffer.truncate(before + read.as_ref().map_or(0, |read| *read));
        match read {
            Ok(0) => self.ended = true,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => match error_of(&error) {
                LinesError::Damaged(fault) => {
                    self.ended = true;
                    self.fault = Some(fault);
                }
                other => return Err(other),
            },
        }
        Ok(())
    }
}

fn error_of(error: &io::Error) -> LinesError {
    match error.kind() {
        io::ErrorKind::InvalidData => LinesError::Damaged(error.to_string()),
        io::ErrorKind::NotFound => LinesError::Damaged("the content is no longer there".to_owned()),
        _ => LinesError::Io(format!("the content: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &'static str, from: usize) -> Vec<(String, u64)> {
        let mut lines = Lines::over(Box::new(&text.as_bytes()[from..]), from as u64, 8);
        let mut out = Vec::new();
        while let Some(line) = lines.next_line().expect("reads") {
            let text = line.text.map_or("too long".to_owned(), |text| String::from_utf8_lossy(&text).into_owned());
            out.push((text, line.end));
            assert_eq!(lines.at(), line.end);
        }
        out
    }

    #[test]
    fn lines_come_with_their_ends_from_any_of_them_on() {
        let text = "{}\n\n12345678\n123456789\n{\"a\":1}\r\nlast";
        let all = told(text, 0);
        let named: Vec<&str> = all.iter().map(|(text, _)| text.as_str()).collect();
        assert_eq!(named, ["{}", "", "12345678", "too long", "{\"a\":1}\r", "last"]);
        assert_eq!(all.last().map(|(_, end)| *end), Some(text.len() as u64));
        for at in 0..all.len() {
            let from = all[at].1 as usize;
            assert_eq!(told(text, from), all[at + 1..]);
        }
    }

    #[test]
    fn a_long_line_holds_no_memory() {
        let text: Vec<u8> = [vec![b'x'; 40 << 20], b"\n{}\n".to_vec()].concat();
        let mut lines = Lines::over(Box::new(io::Cursor::new(text)), 0, 1_000);
        assert_eq!(lines.next_line().expect("reads"), Some(RawLine { text: None, end: (40 << 20) + 1 }));
        assert!(lines.buffer.capacity() < 4 << 20, "{}", lines.buffer.capacity());
        assert_eq!(lines.next_line().expect("reads").and_then(|line| line.text), Some(Bytes::from_static(b"{}")));
        assert_eq!(lines.next_line().expect("reads"), None);
    }

    #[test]
    fn lines_before_the_damage_come_and_then_the_damage_is_told_again_and_again() {
        let text: String = (0..60_000).map(|n| format!("{{\"n\":{n}}}\n")).collect();
        let packed = zstd::stream::encode_all(text.as_bytes(), 3).expect("packs");
        let cut = packed[..packed.len() - 1].to_vec();
        let mut lines = Lines::over(Box::new(Unpack::new(io::Cursor::new(cut)).expect("opens")), 0, 1_000);
        let mut count = 0;
        let error = loop {
            match lines.next_line() {
                Ok(Some(_)) => count += 1,
                Ok(None) => panic!("the damage is not told"),
                Err(error) => break error,
            }
        };
        assert!(count > 0);
        assert!(matches!(&error, LinesError::Damaged(text) if text.contains("cut off")), "{error}");
        assert_eq!(lines.next_line(), Err(error));
    }
}
