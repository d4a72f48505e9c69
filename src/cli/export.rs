//! `tidegate export`: a job that writes events to files, and the download of its parts.
//!
//! A download that breaks off goes on where it was: what is not whole has the suffix `.partial`, and is taken up again by
//! `--resume`. Each part is checked against its SHA-256.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::anyhow;
use indicatif::ProgressBar;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::client::{Body, Client, Door, Method, Query, Target, segment};
use super::exit::Failure;
use super::output::{Output, printable};

/// How often the job is asked for.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// A download that brings nothing for this long is begun again.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Times a download is begun again without a byte in between.
const TRIES_MAX: u32 = 10;
/// First and longest wait before that.
const WAIT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// Parts listed at once.
const PAGE: u32 = 1_000;

const EXIT: &str = "\
Exit codes beside the general ones:
  1  also when the export failed, or is not complete: retention had dropped events, or there was no room
     (what there is has been downloaded)";

/// What is exported, and where to.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = EXIT)]
pub struct Args {
    /// Tenant; not needed on the admin listener, nor with a key that has one
    #[arg(long)]
    org: Option<String>,
    /// Event types, exact or prefix.*, separated by commas
    #[arg(long = "type", alias = "event-types", value_delimiter = ',', value_name = "TYPES")]
    event_types: Vec<String>,
    /// Module or service that spoke
    #[arg(long, alias = "source")]
    service: Option<String>,
    /// Channel
    #[arg(long)]
    channel: Option<String>,
    /// Facility
    #[arg(long)]
    facility: Option<String>,
    /// A condition on envelope and data, in CEL
    #[arg(long, value_name = "EXPRESSION")]
    filter: Option<String>,
    /// From this position, or from what was received at this time (RFC 3339)
    #[arg(long, value_name = "SEQ|TIME")]
    from: Option<String>,
    /// To this position, or to what was received before this time (RFC 3339)
    #[arg(long, value_name = "SEQ|TIME")]
    to: Option<String>,
    /// Go on where an earlier export of the same filter ended
    #[arg(long, conflicts_with = "from")]
    cursor: Option<String>,
    /// Pack the parts with zstd
    #[arg(long)]
    zstd: bool,
    /// Bytes of a part before it is packed
    #[arg(long, value_name = "BYTES")]
    part_bytes: Option<u64>,
    /// Into this file, or into a folder as one file a part [default: ID.ndjson or ID.ndjson.zst]
    #[arg(long, short, value_name = "FILE|DIR")]
    out: Option<PathBuf>,
    /// Take up an export that was begun before
    #[arg(long, value_name = "ID", conflicts_with_all = ["event_types", "from", "to", "cursor", "zstd", "part_bytes"])]
    resume: Option<String>,
    /// Delete the export on the hub when everything is downloaded
    #[arg(long)]
    delete: bool,
}

/// A number stays one; anything else is a time.
fn bound(text: &str) -> Value {
    text.parse::<u64>().map_or_else(|_| Value::from(text), Value::from)
}

impl Args {
    /// The document to send: what was named and nothing else.
    fn document(&self) -> Value {
        let mut document = Map::new();
        let texts = [
            ("org", &self.org),
            ("service", &self.service),
            ("channel", &self.channel),
            ("facility", &self.facility),
            ("filter", &self.filter),
            ("cursor", &self.cursor),
        ];
        for (name, text) in texts {
            document.extend(text.as_ref().map(|text| (name.to_owned(), Value::from(text.as_str()))));
        }
        for (name, text) in [("from", &self.from), ("to", &self.to)] {
            document.extend(text.as_ref().map(|text| (name.to_owned(), bound(text))));
        }
        if !self.event_types.is_empty() {
            document.insert("event_types".to_owned(), self.event_types.clone().into());
        }
        if self.zstd {
            document.insert("compression".to_owned(), "zstd".into());
        }
        document.extend(self.part_bytes.map(|bytes| ("part_bytes".to_owned(), bytes.into())));
        Value::Object(document)
    }
}

fn read_json(answer: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(answer).map_err(|error| anyhow!("the answer is not JSON: {error}").into())
}

fn text<'a>(value: &'a Value, name: &str) -> Result<&'a str, Failure> {
    value[name].as_str().ok_or_else(|| anyhow!("the answer has no `{name}`").into())
}

fn number(value: &Value, name: &str) -> Result<u64, Failure> {
    value[name].as_u64().ok_or_else(|| anyhow!("the answer has no `{name}`").into())
}

/// Performs the command.
///
/// # Errors
/// When no hub answers, it refuses, the job does not come to its end, or a file cannot be written.
pub async fn run(target: &Target, output: Output, args: Args) -> Result<(), Failure> {
    let client = Client::new(target, Door::Any)?;
    let answer = match &args.resume {
        Some(id) => client.call(Method::GET, &path_of(id), &Query::none(), Body::None).await?,
        None => client.call(Method::POST, "/v1/exports", &Query::none(), Body::from(&args.document())).await?,
    };
    let id = text(&read_json(&answer)?, "id")?.to_owned();
    if args.resume.is_none() && output == Output::Human {
        output.remark(&format!("export {id}"));
    }
    let export = follow(&client, output, &id).await?;
    let parts = list_parts(&client, &id).await?;
    let place = Place::of(args.out.as_deref(), &id, text(&export, "compression")? == "zstd");
    let pieces = place.pieces(&parts)?;
    download(target, output, &id, &pieces).await?;
    let files = place.finish(&pieces)?;
    if args.delete {
        client.call(Method::DELETE, &path_of(&id), &Query::none(), Body::None).await?;
    }
    tell(output, &export, &files)
}

fn path_of(id: &str) -> String {
    format!("/v1/exports/{}", segment(id))
}

/// Waits for the end of the job.
async fn follow(client: &Client, output: Output, id: &str) -> Result<Value, Failure> {
    let bar = output.bar("{elapsed_precise} [{bar:30}] {pos}/{len} {msg}");
    loop {
        let export = read_json(&client.call(Method::GET, &path_of(id), &Query::none(), Body::None).await?)?;
        let progress = &export["progress"];
        bar.set_length(progress["total"].as_u64().unwrap_or(0));
        bar.set_position(progress["looked_at"].as_u64().unwrap_or(0));
        let waits = export["waits_for"].as_str().map(|reason| format!("; waiting: {}", printable(reason)));
        bar.set_message(format!("{} events{}", progress["events"], waits.unwrap_or_default()));
        match export["state"].as_str() {
            Some("queued" | "running") => tokio::time::sleep(LOOK_EVERY).await,
            Some("done") => {
                bar.finish_and_clear();
                return Ok(export);
            }
            state => {
                bar.finish_and_clear();
                let reason = export["error"].as_str().map(|text| format!(": {}", printable(text)));
                let state = state.unwrap_or("unknown");
                return Err(anyhow!("the export is {state}{}", reason.unwrap_or_default()).into());
            }
        }
    }
}

/// A part as the hub tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    number: u64,
    name: String,
    bytes: u64,
    sha256: String,
}

async fn list_parts(client: &Client, id: &str) -> Result<Vec<Part>, Failure> {
    let mut parts = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let query = Query::none().with("cursor", cursor.take()).with("limit", Some(PAGE));
        let path = format!("{}/parts", path_of(id));
        let page = read_json(&client.call(Method::GET, &path, &query, Body::None).await?)?;
        for item in page["items"].as_array().into_iter().flatten() {
            parts.push(Part {
                number: number(item, "part")?,
                name: text(item, "file")?.to_owned(),
                bytes: number(item, "bytes")?,
                sha256: text(item, "sha256")?.to_owned(),
            });
        }
        if page["has_more"] != true {
            return Ok(parts);
        }
        cursor = Some(text(&page, "next_cursor")?.to_owned());
    }
}

/// Where the parts go.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// All into one file, one after the other.
    File(PathBuf),
    /// Each into a file of its own.
    Folder(PathBuf),
}

/// Where one part goes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    part: Part,
    /// Written under this name until it is whole.
    partial: PathBuf,
    whole: PathBuf,
    /// Bytes of the file before the part.
    from: u64,
}

fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}

impl Place {
    fn of(out: Option<&Path>, id: &str, packed: bool) -> Self {
        match out {
            None => Self::File(PathBuf::from(format!("{id}.ndjson{}", if packed { ".zst" } else { "" }))),
            Some(path) if path.is_dir() || path.as_os_str().to_string_lossy().ends_with('/') => {
                Self::Folder(path.to_owned())
            }
            Some(path) => Self::File(path.to_owned()),
        }
    }

    fn pieces(&self, parts: &[Part]) -> Result<Vec<Piece>, Failure> {
        let mut from = 0;
        let piece = |part: &Part| match self {
            Self::File(path) => {
                let piece = Piece { part: part.clone(), partial: partial(path), whole: path.clone(), from };
                from += part.bytes;
                Ok(piece)
            }
            Self::Folder(dir) => {
                // The name is the hub's; it must not lead out of the folder.
                if part.name.contains(['/', '\\']) || part.name.starts_with('.') {
                    return Err(anyhow!("the hub names a part {}", printable(&part.name)).into());
                }
                let whole = dir.join(&part.name);
                Ok(Piece { part: part.clone(), partial: partial(&whole), whole, from: 0 })
            }
        };
        if let Self::Folder(dir) = self {
            fs::create_dir_all(dir)?;
        }
        parts.iter().map(piece).collect()
    }

    /// Gives what is whole its name.
    fn finish(&self, pieces: &[Piece]) -> Result<Vec<PathBuf>, Failure> {
        let mut files: Vec<PathBuf> = Vec::new();
        for piece in pieces {
            if files.last() != Some(&piece.whole) {
                if piece.partial.exists() {
                    fs::rename(&piece.partial, &piece.whole)?;
                }
                files.push(piece.whole.clone());
            }
        }
        Ok(files)
    }
}

async fn download(target: &Target, output: Output, id: &str, pieces: &[Piece]) -> Result<(), Failure> {
    let bar = output.bar("{elapsed_precise} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {msg}");
    bar.set_length(pieces.iter().map(|piece| piece.part.bytes).sum());
    let mut done = 0;
    for piece in pieces {
        bar.set_message(format!("part {} of {}", piece.part.number, pieces.len()));
        // In a folder, a part that is whole was checked before it got its name.
        let is_whole =
            piece.from == 0 && !piece.partial.exists() && piece.whole.exists() && check(&piece.whole, piece)?;
        if !is_whole {
            fetch(target, output, id, piece, &bar, done).await?;
        }
        done += piece.part.bytes;
        bar.set_position(done);
    }
    bar.finish_and_clear();
    Ok(())
}

/// Downloads one part, from where an earlier try ended.
async fn fetch(
    target: &Target,
    output: Output,
    id: &str,
    piece: &Piece,
    bar: &ProgressBar,
    done: u64,
) -> Result<(), Failure> {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&piece.partial)?;
    let there = file.metadata()?.len();
    if there < piece.from {
        return Err(anyhow!("{} is shorter than the parts before", piece.partial.display()).into());
    }
    let mut have = (there - piece.from).min(piece.part.bytes);
    let mut tries = 0;
    while have < piece.part.bytes {
        let before = have;
        let broken = match some(target, id, piece, &mut file, &mut have, bar, done).await {
            Ok(()) => continue,
            Err(Failure::Unreachable { reason, .. }) => reason,
            Err(Failure::Refused { status: 429 | 503, .. }) => "the hub cannot answer now".to_owned(),
            Err(failure) => return Err(failure),
        };
        tries = if have > before { 0 } else { tries + 1 };
        if tries >= TRIES_MAX {
            return Err(anyhow!("part {}: {broken}; take it up again with --resume {id}", piece.part.number).into());
        }
        output.remark(&format!("{}; going on at byte {have} of part {}", printable(&broken), piece.part.number));
        tokio::time::sleep((WAIT.0 * 2_u32.pow(tries.min(6))).min(WAIT.1)).await;
    }
    file.sync_all()?;
    if check(&piece.partial, piece)? {
        return Ok(());
    }
    file.set_len(piece.from)?;
    Err(anyhow!(
        "part {} has not the SHA-256 that it should have; take it up again with --resume {id}",
        piece.part.number
    )
    .into())
}

/// One request: what comes of it is written.
async fn some(
    target: &Target,
    id: &str,
    piece: &Piece,
    file: &mut File,
    have: &mut u64,
    bar: &ProgressBar,
    done: u64,
) -> Result<(), Failure> {
    // A hub that was restarted may have other addresses.
    let client = Client::new(target, Door::Any)?;
    let path = format!("{}/parts/{}", path_of(id), piece.part.number);
    let etag = format!("\"{}\"", piece.part.sha256);
    let from = (*have > 0).then_some((*have, etag.as_str()));
    let mut answer = client.open_from(&path, &Query::none(), "*/*", from).await?;
    if answer.status().as_u16() != 206 {
        *have = 0;
    }
    file.set_len(piece.from + *have)?;
    file.seek(SeekFrom::Start(piece.from + *have))?;
    let broken = |reason: String| Failure::Unreachable { url: client.base().to_string(), reason };
    while *have < piece.part.bytes {
        match tokio::time::timeout(SILENCE_MAX, answer.chunk()).await {
            Ok(Ok(Some(bytes))) => {
                file.write_all(&bytes)?;
                *have += bytes.len() as u64;
                bar.set_position(done + *have);
            }
            Ok(Ok(None)) => return Err(broken("the answer broke off".to_owned())),
            Ok(Err(error)) => return Err(broken(error.without_url().to_string())),
            Err(_) => return Err(broken(format!("the hub was silent for {} s", SILENCE_MAX.as_secs()))),
        }
    }
    Ok(())
}

/// Whether the part in this file has its hash.
fn check(path: &Path, piece: &Piece) -> Result<bool, Failure> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(piece.from))?;
    let mut sha = Sha256::new();
    let mut file = file.take(piece.part.bytes);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(hex::encode(sha.finalize()) == piece.part.sha256);
        }
        sha.update(&buffer[..read]);
    }
}

fn tell(output: Output, export: &Value, files: &[PathBuf]) -> Result<(), Failure> {
    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    if output == Output::Json {
        output.line(&json!({ "export": export, "files": files }).to_string())?;
    } else {
        let (events, parts, bytes) = (&export["events"], &export["parts"], &export["bytes"]);
        output.line(&format!("{events} events in {parts} parts, {bytes} bytes: {}", files.join(", ")))?;
        output.line(&format!("go on later: --cursor {}", printable(text(export, "cursor")?)))?;
    }
    if export["complete"] == true {
        return Ok(());
    }
    let mut reasons = Vec::new();
    for gap in export["gaps"].as_array().into_iter().flatten() {
        reasons.push(format!("retention had dropped the positions {} to {}", gap["from"], gap["to"]));
    }
    if let Some(stopped) = export["stopped"].as_str() {
        reasons.push(format!("it ended early: {}", printable(stopped)));
    }
    Err(anyhow!("the export is not complete: {}", reasons.join("; ")).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_holds_what_was_named_and_positions_are_numbers() {
        let args = Args {
            org: Some("acme".to_owned()),
            event_types: vec!["a.*".to_owned()],
            from: Some("7".to_owned()),
            to: Some("2026-11-21T08:00:00Z".to_owned()),
            zstd: true,
            part_bytes: Some(70_000),
            ..Args::default()
        };
        let wanted = json!({"org": "acme", "event_types": ["a.*"], "from": 7, "to": "2026-11-21T08:00:00Z",
            "compression": "zstd", "part_bytes": 70_000});
        assert_eq!(args.document(), wanted);
        assert_eq!(Args::default().document(), json!({}));
    }

    fn part(number: u64, bytes: u64) -> Part {
        Part { number, name: format!("part-{number:06}.ndjson"), bytes, sha256: String::new() }
    }

    #[test]
    fn parts_go_into_one_file_one_after_the_other_or_into_a_folder_each() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = Place::of(Some(&dir.path().join("all.ndjson")), "job_1", false);
        let pieces = file.pieces(&[part(1, 10), part(2, 5)]).expect("placed");
        assert_eq!((pieces[0].from, pieces[1].from), (0, 10));
        assert_eq!(pieces[1].partial, dir.path().join("all.ndjson.partial"));
        fs::write(&pieces[0].partial, b"x").expect("written");
        assert_eq!(file.finish(&pieces).expect("named"), [dir.path().join("all.ndjson")]);
        let folder = Place::of(Some(dir.path()), "job_1", false);
        let pieces = folder.pieces(&[part(1, 10), part(2, 5)]).expect("placed");
        assert_eq!((pieces[1].from, &pieces[1].whole), (0, &dir.path().join("part-000002.ndjson")));
        let bad = Part { name: "../x".to_owned(), ..part(1, 1) };
        assert!(folder.pieces(&[bad]).is_err());
        assert_eq!(Place::of(None, "job_1", true), Place::File("job_1.ndjson.zst".into()));
    }
}
