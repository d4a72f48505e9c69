//! `tidegate import`: an upload that goes on where it was, and the job that appends it.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use bytes::Bytes;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::client::{Body, Client, Door, Method, Query, Refusal, Target, segment};
use super::exit::Failure;
use super::output::{Output, printable};

/// Bytes of one request.
const PIECE_BYTES: u64 = 8 << 20;
/// How often the job is asked for.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// Times a piece is sent without any progress.
const TRIES_MAX: u32 = 10;
/// First and longest wait before it is sent again.
const WAIT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// What a file that is packed with zstd begins with.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Lines that were not taken and are shown.
const SHOWN: u32 = 10;

const EXIT: &str = "\
Exit codes beside the general ones:
  1  also when the job failed; what it has appended before stays
  4  also when lines were not taken; the report says which and why";

/// What is imported.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT)]
pub struct Args {
    /// Files of NDJSON, one after the other: those of an export, or of events a line; all packed with zstd, or none
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Tenant of lines that name none
    #[arg(long)]
    org: Option<String>,
    /// Events a second at most
    #[arg(long, value_name = "EVENTS")]
    rate: Option<u32>,
    /// Take up an import that was begun before, with the same files
    #[arg(long, value_name = "ID", conflicts_with_all = ["org", "rate"])]
    resume: Option<String>,
}

/// Files read as one.
struct Source {
    files: Vec<(File, u64)>,
    packed: bool,
}

impl Source {
    fn open(paths: &[PathBuf]) -> Result<Self, Failure> {
        let mut files = Vec::with_capacity(paths.len());
        let mut packed = None;
        for path in paths {
            let named = |error: std::io::Error| Failure::Usage(format!("{}: {error}", path.display()));
            let mut file = File::open(path).map_err(named)?;
            let bytes = file.metadata().map_err(named)?.len();
            if bytes == 0 {
                continue;
            }
            let mut begin = [0; 4];
            let is_packed = file.read_exact(&mut begin).is_ok() && begin == ZSTD_MAGIC;
            if packed.is_some_and(|packed| packed != is_packed) {
                return Err(Failure::Usage(format!("{}: either all files are packed or none", path.display())));
            }
            packed = Some(is_packed);
            files.push((file, bytes));
        }
        Ok(Self { files, packed: packed.unwrap_or(false) })
    }

    fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Up to so many bytes from an offset on; they may be fewer at the end of a file.
    fn read_at(&mut self, offset: u64, most: u64) -> Result<Bytes, Failure> {
        let mut before = 0;
        for (file, bytes) in &mut self.files {
            if offset < before + *bytes {
                let at = offset - before;
                let mut piece = vec![0; usize::try_from(most.min(*bytes - at)).map_err(anyhow::Error::from)?];
                file.seek(SeekFrom::Start(at))?;
                file.read_exact(&mut piece)?;
                return Ok(piece.into());
            }
            before += *bytes;
        }
        Ok(Bytes::new())
    }

    fn sha256(&mut self) -> Result<String, Failure> {
        let (mut sha, mut at) = (Sha256::new(), 0);
        loop {
            let piece = self.read_at(at, PIECE_BYTES)?;
            if piece.is_empty() {
                return Ok(hex::encode(sha.finalize()));
            }
            at += piece.len() as u64;
            sha.update(&piece);
        }
    }
}

fn read_json(answer: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(answer).map_err(|error| anyhow!("the answer is not JSON: {error}").into())
}

fn path_of(id: &str) -> String {
    format!("/v1/imports/{}", segment(id))
}

fn received(import: &Value) -> Result<u64, Failure> {
    import["received_bytes"].as_u64().ok_or_else(|| anyhow!("the answer has no `received_bytes`").into())
}

/// Performs the command.
///
/// # Errors
/// When a file does not read, no hub answers, it refuses, the job fails, or lines were not taken.
pub async fn run(target: &Target, output: Output, args: Args) -> Result<(), Failure> {
    let mut source = Source::open(&args.files)?;
    let client = Client::new(target, Door::Any)?;
    let sha256 = source.sha256()?;
    let answer = match &args.resume {
        Some(id) => client.call(Method::GET, &path_of(id), &Query::none(), Body::None).await?,
        None => {
            let mut document = Map::new();
            document.extend(args.org.map(|org| ("org".to_owned(), Value::from(org))));
            document.extend(args.rate.map(|rate| ("rate".to_owned(), Value::from(rate))));
            document.insert("expected_bytes".to_owned(), source.bytes().into());
            document.insert("sha256".to_owned(), sha256.into());
            document.insert("compression".to_owned(), if source.packed { "zstd" } else { "none" }.into());
            client.call(Method::POST, "/v1/imports", &Query::none(), Body::from(&Value::Object(document))).await?
        }
    };
    let import = read_json(&answer)?;
    let id = import["id"].as_str().ok_or_else(|| anyhow!("the answer has no `id`"))?.to_owned();
    if args.resume.is_none() && output == Output::Human {
        output.remark(&format!("import {id}"));
    }
    if import["state"] == "uploading" {
        upload(target, output, &id, &mut source, received(&import)?).await?;
    }
    let commit = Body::Json(Bytes::from_static(b"{}"));
    client.call(Method::POST, &format!("{}/commit", path_of(&id)), &Query::none(), commit).await?;
    let answer = follow(&client, output, &id, &source).await?;
    tell(&client, output, &id, &answer).await
}

/// Sends what the hub has not yet.
async fn upload(target: &Target, output: Output, id: &str, source: &mut Source, from: u64) -> Result<(), Failure> {
    let bar = output.bar("{elapsed_precise} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} uploaded");
    bar.set_length(source.bytes());
    let (mut at, mut tries) = (from, 0);
    while at < source.bytes() {
        bar.set_position(at);
        let piece = source.read_at(at, PIECE_BYTES)?;
        let next = match send(target, id, at, piece).await {
            Ok(next) => next,
            Err(refusal) => {
                let Some(reason) = passes(&refusal.failure) else { return Err(refusal.failure) };
                tries += 1;
                if tries >= TRIES_MAX {
                    return Err(anyhow!("{reason}; take it up again with --resume {id}").into());
                }
                let wait = refusal.retry_after.unwrap_or(WAIT.0 * 2_u32.pow(tries.min(7))).clamp(WAIT.0, WAIT.1);
                output.remark(&format!("{}; going on in {} s", printable(&reason), wait.as_secs_f32()));
                tokio::time::sleep(wait).await;
                // Where it is then, if it can be asked.
                where_it_is(target, id).await.unwrap_or(at)
            }
        };
        if next > at {
            tries = 0;
        }
        at = next;
    }
    bar.finish_and_clear();
    Ok(())
}

/// What a failure says that may pass; none when it does not.
fn passes(failure: &Failure) -> Option<String> {
    match failure {
        Failure::Unreachable { reason, .. } => Some(reason.clone()),
        Failure::Refused { status: 408 | 429 | 503, problem } => {
            Some(problem["detail"].as_str().unwrap_or("the hub cannot take this now").to_owned())
        }
        // Another offset, or a request of ours that the hub has not given up yet.
        Failure::Refused { status: 409, problem } if problem["offset"].is_u64() => {
            Some(problem["detail"].as_str().unwrap_or("the hub is at another offset").to_owned())
        }
        _ => None,
    }
}

/// A hub that was restarted may have other addresses, so they are looked up each time.
async fn send(target: &Target, id: &str, at: u64, piece: Bytes) -> Result<u64, Refusal> {
    let plain = |failure| Refusal { failure, retry_after: None };
    let client = Client::new(target, Door::Any).map_err(plain)?;
    let (path, query) = (format!("{}/content", path_of(id)), Query::none().with("offset", Some(at)));
    let body = Body::Raw("application/octet-stream", piece);
    let answer = client.attempt(Method::PATCH, &path, &query, body).await?;
    read_json(&answer).and_then(|import| received(&import)).map_err(plain)
}

async fn where_it_is(target: &Target, id: &str) -> Result<u64, Failure> {
    let client = Client::new(target, Door::Any)?;
    received(&read_json(&client.call(Method::GET, &path_of(id), &Query::none(), Body::None).await?)?)
}

/// Waits for the end of the job; gives the last answer.
async fn follow(client: &Client, output: Output, id: &str, source: &Source) -> Result<Bytes, Failure> {
    let bar = output.bar("{elapsed_precise} [{bar:30}] {bytes}/{total_bytes} {msg}");
    // How far a packed content will grow is not known.
    if !source.packed {
        bar.set_length(source.bytes());
    }
    loop {
        let answer = client.call(Method::GET, &path_of(id), &Query::none(), Body::None).await?;
        let import = read_json(&answer)?;
        bar.set_position(import["content_at"].as_u64().unwrap_or(0));
        let waits = import["waits_for"].as_str().map(|reason| format!("; waiting: {}", printable(reason)));
        bar.set_message(format!("{} lines, {} new{}", import["lines"], import["accepted"], waits.unwrap_or_default()));
        if matches!(import["state"].as_str(), Some("queued" | "running" | "committed" | "uploading")) {
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        }
        bar.finish_and_clear();
        return Ok(answer);
    }
}

/// Tells what became of the lines.
async fn tell(client: &Client, output: Output, id: &str, answer: &[u8]) -> Result<(), Failure> {
    let import = read_json(answer)?;
    let count = |name: &str| import[name].as_u64().unwrap_or(0);
    match output {
        Output::Json => output.thing(answer)?,
        Output::Human => output.line(&format!(
            "{} lines: {} new, {} scheduled, {} known, {} conflicts, {} rejected",
            count("lines"),
            count("accepted"),
            count("scheduled"),
            count("duplicates"),
            count("conflicts"),
            count("rejected")
        ))?,
    }
    let refused = count("conflicts") + count("rejected");
    if refused > 0 && output == Output::Human {
        let (path, query) = (format!("{}/report", path_of(id)), Query::none().with("limit", Some(SHOWN)));
        let page = read_json(&client.call(Method::GET, &path, &query, Body::None).await?)?;
        for item in page["items"].as_array().into_iter().flatten() {
            let reason = item["reason"].as_str().unwrap_or("not taken");
            output.remark(&format!("line {}: {}", item["line"], printable(reason)));
        }
        if page["has_more"] == true {
            output.remark(&format!("more: GET {path}"));
        }
    }
    match import["state"].as_str() {
        Some("done") if refused > 0 => Err(Failure::PartlyRefused { refused, sent: count("lines") }),
        Some("done") => Ok(()),
        state => {
            let reason = import["error"].as_str().map(|text| format!(": {}", printable(text)));
            Err(anyhow!("the import is {}{}", state.unwrap_or("unknown"), reason.unwrap_or_default()).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_one_from_any_offset_on() {
        let dir = tempfile::tempdir().expect("a folder");
        let paths: Vec<PathBuf> = ["a", "b", "c"].iter().map(|name| dir.path().join(name)).collect();
        for (path, content) in paths.iter().zip(["{\"a\":1}\n", "", "{\"b\":2}\n"]) {
            std::fs::write(path, content).expect("written");
        }
        let mut source = Source::open(&paths).expect("opens");
        let whole = b"{\"a\":1}\n{\"b\":2}\n";
        assert_eq!((source.bytes(), source.packed), (whole.len() as u64, false));
        for from in 0..=whole.len() {
            let (mut at, mut read) = (from as u64, Vec::new());
            loop {
                let piece = source.read_at(at, 3).expect("reads");
                if piece.is_empty() {
                    break;
                }
                at += piece.len() as u64;
                read.extend_from_slice(&piece);
            }
            assert_eq!(read, &whole[from..]);
        }
        assert_eq!(source.sha256().expect("hashes"), hex::encode(Sha256::digest(whole)));
        std::fs::write(&paths[1], zstd::stream::encode_all(&b"{}\n"[..], 3).expect("packs")).expect("written");
        assert_eq!(Source::open(&paths).err().map(|failure| failure.code()), Some(2));
        assert!(Source::open(&paths[1..2]).expect("opens").packed);
    }

    #[test]
    fn a_refusal_with_an_offset_passes_and_others_do_not() {
        let refused = |status, problem| Failure::Refused { status, problem };
        assert!(passes(&refused(409, serde_json::json!({"offset": 7}))).is_some());
        assert!(passes(&refused(503, Value::Null)).is_some());
        assert!(passes(&refused(409, serde_json::json!({"detail": "committed"}))).is_none());
        assert!(passes(&refused(413, Value::Null)).is_none());
    }
}
