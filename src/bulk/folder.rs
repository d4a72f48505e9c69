//! Files that count only when they are whole and on disk: written aside, synced, renamed, and the folder synced.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Who may look into the folders and files: the hub alone.
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Makes a folder with those above it; its entry is durable when this returns. One that is there is left alone.
pub(super) fn make_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(DIR_MODE).create(path)?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Makes what was renamed or removed in a folder durable.
pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Removes a folder with what is in it; one that is not there is as good as removed.
pub(super) fn remove_dir(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => path.parent().map_or(Ok(()), sync_dir),
    }
}

/// Removes a file; one that is not there is as good as removed.
pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The names in a folder; none when it is not there.
pub(super) fn names(path: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// Bytes of the files in a folder.
pub(super) fn bytes_in(path: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for name in names(path)? {
        // One that goes meanwhile counts nothing.
        bytes += fs::metadata(path.join(name)).map_or(0, |meta| meta.len());
    }
    Ok(bytes)
}

/// A new file, empty whatever was there.
pub(super) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(path)
}

/// A file whose first `length` bytes count: what stands after them is cut off. It is made when it is not there.
#[derive(Debug)]
pub(super) struct Tally {
    file: File,
    length: u64,
}

impl Tally {
    /// Opens the file.
    pub(super) fn open(path: &Path, length: u64) -> io::Result<Self> {
        let is_new = !path.exists();
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(FILE_MODE).open(path)?;
        let there = file.metadata()?.len();
        if there < length {
            let text = format!("{} has {there} bytes of {length}", path.display());
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        file.set_len(length)?;
        file.seek(SeekFrom::Start(length))?;
        if is_new {
            path.parent().map_or(Ok(()), sync_dir)?;
        }
        Ok(Self { file, length })
    }

    /// Bytes that were added, synced or not.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Adds bytes; they are on disk after [`Tally::sync`]. After an error the file must be opened again.
    pub(super) fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Makes what was added durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_after_the_bytes_that_count_is_cut_off_and_what_is_missing_is_told() {
        let dir = tempfile::tempdir().expect("a folder");
        let inner = dir.path().join("a/b");
        make_dir(&inner).expect("made");
        make_dir(&inner).expect("there");
        let path = inner.join("tally");
        let mut tally = Tally::open(&path, 0).expect("opens");
        tally.add(b"one\n").expect("added");
        tally.add(b"two\n").expect("added");
        tally.sync().expect("synced");
        let mut again = Tally::open(&path, 4).expect("opens");
        again.add(b"three\n").expect("added");
        assert_eq!(again.length(), 10);
        assert_eq!(fs::read(&path).expect("reads"), b"one\nthree\n");
        assert_eq!(bytes_in(&inner).expect("counts"), 10);
        assert!(Tally::open(&path, 11).is_err());
        remove_dir(&inner).expect("removed");
        remove_dir(&inner).expect("gone");
        assert!(names(&inner).expect("looks").is_empty());
    }
}
