//! Exports: what fits of the log, in parts (BLK-1).
//!
//! - `request`: what a client asks for, checked
//! - `spec`: what a job does, how far it has come, the header line
//! - `part`: one part being written, and the list of those that count
//! - `work`: the job
//!
//! A part is a file of bounded size: a header line with the version of the contract, then one envelope a line, as the log
//! has it. A job writes one part at a time, from the cursor that it saved with the last one.

mod part;
mod request;
mod spec;
mod work;

pub use part::{PartRecord, parts_of};
pub use request::{ExportRequest, PART_BYTES_MAX, PART_BYTES_MIN, read_export};
pub use spec::{ExportPlace, ExportSpec, Gap, Stopped, continuation, read_continuation};
pub use work::{ExportWork, Live};

use std::path::{Path, PathBuf};

use super::Compression;

/// The file of a part.
#[must_use]
pub fn part_file(dir: &Path, part: u32, compression: Compression) -> PathBuf {
    dir.join(part_name(part, compression))
}

/// The name of a part's file.
#[must_use]
pub fn part_name(part: u32, compression: Compression) -> String {
    let suffix = match compression {
        Compression::None => "ndjson",
        Compression::Zstd => "ndjson.zst",
    };
    format!("part-{part:06}.{suffix}")
}
