//! Offline check of the files of exports and imports: what jobs and uploads name must be there, and be what was written.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::export::{ExportPlace, ExportSpec, PartRecord, part_file, parts_of};
use super::import::{ImportPlace, ImportRecord, ImportSpec, content_path, read_report, report_path};
use super::{EXPORT, IMPORT};
use crate::job::{JobRecord, JobState};

/// Rows of a report that are read at once.
const REPORT_ROWS: usize = 1_000;
/// Bytes of a part that are hashed at once.
const READ_BYTES: usize = 256 << 10;

type Faults<'a> = &'a mut dyn FnMut(String);

/// Reads the files under `root`; gives how many there are. A folder that is gone was tidied away with its age.
pub(crate) fn check_files(root: &Path, jobs: &[JobRecord], imports: &[ImportRecord], fault: Faults<'_>) -> u64 {
    let mut files = 0;
    for job in jobs {
        let checked = match job.kind.as_str() {
            EXPORT => check_export(&root.join("exports").join(&job.id), job, fault),
            IMPORT => check_import_job(root, job, fault),
            _ => continue,
        };
        match checked {
            Ok(count) => files += count,
            Err(error) => fault(format!("{} {}: {error}", job.kind, job.id)),
        }
    }
    for record in imports {
        let job = jobs.iter().find(|job| job.kind == IMPORT && job.spec["import"] == record.id.as_str());
        // The content goes when its import has ended.
        if record.ended.is_some() || job.is_some_and(|job| job.state.has_ended()) {
            continue;
        }
        let content = content_path(&root.join("imports").join(&record.id));
        let there = fs::metadata(&content).map_or(0, |meta| meta.len());
        if there < record.received_bytes {
            fault(format!("import {}: its content has {there} bytes of {}", record.id, record.received_bytes));
        }
        files += u64::from(content.exists());
    }
    files
}

fn check_export(dir: &Path, job: &JobRecord, fault: Faults<'_>) -> io::Result<u64> {
    let spec: ExportSpec = serde_json::from_value(job.spec.clone()).map_err(io::Error::other)?;
    let place = ExportPlace::read(job.cursor.as_deref(), &spec).map_err(io::Error::other)?;
    if place.parts == 0 || job.state == JobState::Cancelled || (job.state.has_ended() && !dir.exists()) {
        return Ok(0);
    }
    let listed = parts_of(dir, place.list_bytes, 0, usize::MAX)?;
    if listed.len() != place.parts as usize {
        fault(format!("export {}: its list has {} parts of {}", job.id, listed.len(), place.parts));
    }
    for PartRecord { part, bytes, sha256, .. } in &listed {
        let path = part_file(dir, *part, spec.compression);
        match hash(&path) {
            Ok((found, _)) if found != *bytes => {
                fault(format!("export {}: part {part} has {found} bytes of {bytes}", job.id));
            }
            Ok((_, found)) if found != *sha256 => {
                fault(format!("export {}: part {part} has the SHA-256 {found}, not {sha256}", job.id));
            }
            Ok(_) => {}
            Err(error) => fault(format!("export {}: part {part}: {error}", job.id)),
        }
    }
    Ok(listed.len() as u64)
}

fn hash(path: &Path) -> io::Result<(u64, String)> {
    let (mut file, mut sha, mut bytes) = (File::open(path)?, Sha256::new(), 0);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((bytes, hex::encode(sha.finalize())));
        }
        sha.update(&buffer[..read]);
        bytes += read as u64;
    }
}

fn check_import_job(root: &Path, job: &JobRecord, fault: Faults<'_>) -> io::Result<u64> {
    let spec: ImportSpec = serde_json::from_value(job.spec.clone()).map_err(io::Error::other)?;
    let dir = root.join("imports").join(&spec.import);
    let place: ImportPlace = match &job.cursor {
        Some(text) => serde_json::from_str(text).map_err(io::Error::other)?,
        None => ImportPlace::default(),
    };
    // A deleted import has no folder, and its job is kept for a while.
    if place.report_bytes == 0 || !dir.exists() {
        return Ok(0);
    }
    let there = fs::metadata(report_path(&dir)).map_or(0, |meta| meta.len());
    if there < place.report_bytes {
        fault(format!("import {}: its report has {there} bytes of {}", spec.import, place.report_bytes));
        return Ok(1);
    }
    let (mut at, mut rows) = (0, 0);
    loop {
        let page = read_report(&dir, place.report_bytes, at, REPORT_ROWS)?;
        rows += page.items.len() as u64;
        at = page.next;
        if !page.has_more || page.items.is_empty() {
            break;
        }
    }
    if rows != place.report_lines {
        fault(format!("import {}: its report has {rows} lines of {}", spec.import, place.report_lines));
    }
    Ok(1)
}
