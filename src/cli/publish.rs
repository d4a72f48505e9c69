//! `tidegate publish`: one event from flags, or many from stdin, one JSON envelope a line.
//!
//! Lines are sent in batches of what has arrived while the last batch was under way, so that a slow source is not held
//! back and a fast one is not sent line by line. Each line has one named outcome: new, duplicate or refused.

use std::io::{BufRead as _, Read as _};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::client::{Body, Client, Door, Method, Query, Target};
use super::exit::Failure;
use super::output::Output;
use crate::ground::limits;

/// Lines of one batch.
const BATCH_LINES_MAX: usize = 500;
/// Bytes of one batch, unless a single line is longer.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Lines read ahead.
const AHEAD_LINES_MAX: usize = 2 * BATCH_LINES_MAX;
/// Times a batch is sent while the hub says that it cannot take it now.
const TRIES_MAX: u32 = 10;
/// Longest wait before the next try.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Flags of `publish`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Type of the one event, such as invoice.paid; without it events are read from stdin
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    #[command(flatten)]
    envelope: Envelope,
    /// Data as JSON; @FILE reads it from a file, @- from stdin
    #[arg(long, value_name = "JSON", requires = "event_type")]
    data: Option<String>,
    /// Metadata as a JSON object; @FILE as above
    #[arg(long, value_name = "JSON", requires = "event_type")]
    metadata: Option<String>,
}

/// Further fields of the one event.
#[derive(Debug, Default, clap::Args, Serialize)]
pub struct Envelope {
    /// Id that makes a repeat harmless; made by the hub when missing
    #[arg(long, requires = "event_type")]
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// Tenant
    #[arg(long, requires = "event_type")]
    #[serde(skip_serializing_if = "Option::is_none")]
    org: Option<String>,
    /// Module or service that speaks
    #[arg(long, requires = "event_type")]
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    /// What the event is about, within the source
    #[arg(long, requires = "event_type")]
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    /// Kind of thing the event is about
    #[arg(long, requires = "event_type")]
    #[serde(skip_serializing_if = "Option::is_none")]
    aggregate_type: Option<String>,
    /// Which thing
    #[arg(long, requires = "event_type")]
    #[serde(skip_serializing_if = "Option::is_none")]
    aggregate_id: Option<String>,
    /// Narrower scope
    #[arg(long, requires = "event_type")]
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<String>,
    /// Narrower scope
    #[arg(long, requires = "event_type")]
    #[serde(skip_serializing_if = "Option::is_none")]
    facility: Option<String>,
    /// Events with the same key can be asked to stay in order
    #[arg(long, requires = "event_type")]
    #[serde(skip_serializing_if = "Option::is_none")]
    ordering_key: Option<String>,
    /// When it happened (RFC 3339)
    #[arg(long, value_name = "TIME", requires = "event_type")]
    #[serde(skip_serializing_if = "Option::is_none")]
    occurred_at: Option<String>,
    /// Hold it back until then (RFC 3339)
    #[arg(long, value_name = "TIME", requires = "event_type")]
    #[serde(skip_serializing_if = "Option::is_none")]
    deliver_at: Option<String>,
    /// Hold it back for so long: seconds, or 90s, 10m, 2h, 7d, PT1H30M
    #[arg(long, value_name = "TIME", requires = "event_type", conflicts_with = "deliver_at")]
    #[serde(skip_serializing_if = "Option::is_none")]
    delay: Option<String>,
}

/// Publishes.
///
/// # Errors
/// When no hub answers, or it refuses one event or more.
pub async fn run(target: &Target, output: Output, args: Args) -> Result<(), Failure> {
    let client = Client::new(target, Door::Any)?;
    match &args.event_type {
        Some(event_type) => {
            let body = one(event_type, &args)?;
            output.thing(&send(&client, output, "/v1/events", body).await?)
        }
        None => many(&client, output, std::io::stdin()).await,
    }
}

/// The envelope of the one event. Data and metadata go as they are written, so that numbers keep their text.
fn one(event_type: &str, args: &Args) -> Result<Bytes, Failure> {
    #[derive(Serialize)]
    struct Whole<'a> {
        r#type: &'a str,
        #[serde(flatten)]
        envelope: &'a Envelope,
    }
    let raw = |name: &str, text: &Option<String>| text.as_deref().map(|text| raw_json(name, text)).transpose();
    let head =
        serde_json::to_string(&Whole { r#type: event_type, envelope: &args.envelope }).map_err(anyhow::Error::from)?;
    let mut text = head.strip_suffix('}').unwrap_or(&head).to_owned();
    for (name, given) in [("data", &args.data), ("metadata", &args.metadata)] {
        if let Some(value) = raw(name, given)? {
            text.push_str(&format!(",\"{name}\":{value}"));
        }
    }
    text.push('}');
    Ok(text.into())
}

fn raw_json(name: &str, given: &str) -> Result<Box<RawValue>, Failure> {
    let text = match given.strip_prefix('@') {
        Some("-") => read_all(std::io::stdin())?,
        Some(path) => read_all(std::fs::File::open(path).map_err(|error| usage(name, &format!("{path}: {error}")))?)?,
        None => given.to_owned(),
    };
    serde_json::from_str(&text).map_err(|error| usage(name, &format!("not JSON: {error}")))
}

fn read_all(source: impl std::io::Read) -> Result<String, Failure> {
    let mut text = String::new();
    source.take(limits::EVENT_BYTES_CEILING as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}

fn usage(name: &str, what: &str) -> Failure {
    Failure::Usage(format!("--{name}: {what}"))
}

/// Sends, and sends again while the hub says that it cannot take it now: such a refusal has stored nothing.
async fn send(client: &Client, output: Output, path: &str, body: Bytes) -> Result<Bytes, Failure> {
    let mut tries = 1;
    loop {
        let refusal = match client.attempt(Method::POST, path, &Query::none(), Body::Json(body.clone())).await {
            Ok(answer) => return Ok(answer),
            Err(refusal) => refusal,
        };
        let busy = matches!(refusal.failure, Failure::Refused { status: 429 | 503, .. });
        let Some(wait) = refusal.retry_after.filter(|_| busy && tries < TRIES_MAX) else {
            return Err(refusal.failure);
        };
        let wait = wait.clamp(Duration::from_millis(100), WAIT_MAX);
        output.remark(&format!("the hub cannot take this now, next try in {} s", wait.as_secs_f32()));
        tokio::time::sleep(wait).await;
        tries += 1;
    }
}

/// A line of the input: its number from 1, and its text.
type Line = (u64, String);

/// What became of the lines.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    new: u64,
    duplicate: u64,
    refused: u64,
}

impl Tally {
    fn sent(&self) -> u64 {
        self.new + self.duplicate + self.refused
    }

    /// Counts a result, and gives it with its line number and whether it is a refusal.
    fn take(&mut self, number: u64, result: &Value) -> (Value, bool) {
        let refused = result.get("error").is_some_and(|error| !error.is_null());
        match (refused, result["duplicate"].as_bool().unwrap_or(false)) {
            (true, _) => self.refused += 1,
            (false, true) => self.duplicate += 1,
            (false, false) => self.new += 1,
        }
        let mut told = json!({ "line": number });
        if let (Some(told), Some(result)) = (told.as_object_mut(), result.as_object()) {
            told.extend(result.clone());
        }
        (told, refused)
    }
}

async fn many(client: &Client, output: Output, source: impl std::io::Read + Send + 'static) -> Result<(), Failure> {
    let (sender, mut lines) = mpsc::channel(AHEAD_LINES_MAX);
    // Reading stdin blocks, so it has a thread of its own; the bounded channel holds it back.
    let reader = std::thread::spawn(move || read_lines(source, &sender));
    let mut tally = Tally::default();
    let mut kept = None;
    while let Some(batch) = next_batch(&mut lines, &mut kept).await {
        publish_batch(client, output, batch, &mut tally).await?;
    }
    match reader.join() {
        Ok(outcome) => outcome?,
        Err(_) => return Err(anyhow::anyhow!("reading the input failed").into()),
    }
    output.say(&format!("{} new, {} duplicate, {} refused", tally.new, tally.duplicate, tally.refused))?;
    match tally.refused {
        0 => Ok(()),
        refused => Err(Failure::PartlyRefused { refused, sent: tally.sent() }),
    }
}

fn read_lines(source: impl std::io::Read, sender: &mpsc::Sender<Line>) -> std::io::Result<()> {
    let mut source = std::io::BufReader::new(source);
    let mut number = 0;
    loop {
        let mut line = String::new();
        // A line past the ceiling is cut there; what is cut is no JSON and is refused by its number.
        let read = source.by_ref().take(limits::EVENT_BYTES_CEILING as u64 + 1).read_line(&mut line)?;
        if read == 0 {
            return Ok(());
        }
        number += 1;
        let blank = line.trim().is_empty();
        if !blank && sender.blocking_send((number, line)).is_err() {
            return Ok(());
        }
    }
}

/// Waits for one line and takes those that are there already, up to the bounds of a batch.
async fn next_batch(lines: &mut mpsc::Receiver<Line>, kept: &mut Option<Line>) -> Option<Vec<Line>> {
    let first = match kept.take() {
        Some(line) => line,
        None => lines.recv().await?,
    };
    let mut bytes = first.1.len();
    let mut batch = vec![first];
    while batch.len() < BATCH_LINES_MAX {
        let Ok(line) = lines.try_recv() else { break };
        bytes += line.1.len();
        if bytes > BATCH_BYTES_MAX {
            *kept = Some(line);
            break;
        }
        batch.push(line);
    }
    Some(batch)
}

async fn publish_batch(client: &Client, output: Output, batch: Vec<Line>, tally: &mut Tally) -> Result<(), Failure> {
    let mut sent = Vec::with_capacity(batch.len());
    let mut told = Vec::new();
    for (number, line) in batch {
        // One line that is no JSON would spoil the whole batch.
        match serde_json::from_str::<&RawValue>(&line) {
            Ok(_) => sent.push((number, line)),
            Err(error) => {
                let detail = format!("not JSON: {error}");
                told.push(tally.take(number, &json!({ "error": { "detail": detail } })));
            }
        }
    }
    if !sent.is_empty() {
        let texts: Vec<&str> = sent.iter().map(|(_, line)| line.trim()).collect();
        let body = Bytes::from(format!("[{}]", texts.join(",")));
        let answer = send(client, output, "/v1/events/batch", body).await?;
        let answer: Value = serde_json::from_slice(&answer).map_err(anyhow::Error::from)?;
        let results = answer["results"].as_array().map(Vec::as_slice).unwrap_or_default();
        if results.len() != sent.len() {
            return Err(anyhow::anyhow!("{} events were sent, {} results came back", sent.len(), results.len()).into());
        }
        told.extend(sent.iter().zip(results).map(|((number, _), result)| tally.take(*number, result)));
    }
    told.sort_by_key(|(line, _)| line["line"].as_u64());
    told.iter().try_for_each(|(line, refused)| tell(output, line, *refused))
}

fn tell(output: Output, line: &Value, refused: bool) -> Result<(), Failure> {
    match (output, refused) {
        (Output::Json, _) => output.line(&line.to_string()),
        (Output::Human, false) => Ok(()),
        (Output::Human, true) => {
            let error = &line["error"];
            let words = error["detail"].as_str().or(error["title"].as_str()).unwrap_or("refused");
            output.remark(&format!("line {}: {}", line["line"], super::output::printable(words)));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(event_type: &str) -> Args {
        Args { event_type: Some(event_type.to_owned()), envelope: Envelope::default(), data: None, metadata: None }
    }

    #[test]
    fn an_envelope_holds_what_was_named_and_data_as_it_was_written() {
        let mut given = args("a.b");
        assert_eq!(one("a.b", &given).expect("built"), r#"{"type":"a.b"}"#);
        given.envelope.org = Some("acme}".to_owned());
        given.data = Some(r#"{ "n": 123456789012345678901234567890.10 }"#.to_owned());
        assert_eq!(
            one("a.b", &given).expect("built"),
            r#"{"type":"a.b","org":"acme}","data":{ "n": 123456789012345678901234567890.10 }}"#
        );
        given.data = Some("{".to_owned());
        assert_eq!(one("a.b", &given).expect_err("refused").code(), 2);
    }

    #[tokio::test]
    async fn a_batch_takes_the_lines_that_are_there_and_ends_at_its_bounds() {
        let (sender, mut lines) = mpsc::channel(AHEAD_LINES_MAX);
        let text = "1\n\n2\n".to_owned() + &"3\n".repeat(BATCH_LINES_MAX);
        read_lines_in_thread(text, sender).await;
        let mut kept = None;
        let batch = next_batch(&mut lines, &mut kept).await.expect("a batch");
        assert_eq!(batch.len(), BATCH_LINES_MAX);
        assert_eq!((batch[0].0, batch[1].0), (1, 3));
        assert_eq!(next_batch(&mut lines, &mut kept).await.expect("a batch").len(), 2);
        assert!(next_batch(&mut lines, &mut kept).await.is_none());

        let (sender, mut lines) = mpsc::channel(AHEAD_LINES_MAX);
        let long = "x".repeat(BATCH_BYTES_MAX / 2 + 1);
        read_lines_in_thread(format!("{long}\n{long}\n"), sender).await;
        assert_eq!(next_batch(&mut lines, &mut kept).await.expect("a batch").len(), 1);
        assert_eq!(next_batch(&mut lines, &mut kept).await.expect("a batch").len(), 1);
    }

    async fn read_lines_in_thread(text: String, sender: mpsc::Sender<Line>) {
        let reading = tokio::task::spawn_blocking(move || read_lines(text.as_bytes(), &sender));
        reading.await.expect("joined").expect("read");
    }

    #[tokio::test]
    async fn lines_are_sent_as_a_batch_again_when_the_hub_is_busy_and_a_bad_line_refuses_itself_only() {
        let (client, hub) = super::super::client::script::hub(&[
            (503, "retry-after: 0\r\n", "{}"),
            (202, "", r#"{"results":[{"id":"a","seq":1,"duplicate":false},{"error":{"detail":"type: missing"}}]}"#),
        ]);
        let input = "{\"type\":\"a.b\",\"n\":1.0}\nnot json\n{}\n";
        // Read to the end first: what one batch holds would else depend on the pace of the reader.
        let (sender, mut lines) = mpsc::channel(AHEAD_LINES_MAX);
        read_lines_in_thread(input.to_owned(), sender).await;
        let batch = next_batch(&mut lines, &mut None).await.expect("a batch");
        let mut tally = Tally::default();
        publish_batch(&client, Output::Json, batch, &mut tally).await.expect("sent");
        assert_eq!(tally, Tally { new: 1, duplicate: 0, refused: 2 });
        let requests = hub.join().expect("served");
        assert!(requests[1].starts_with("POST /v1/events/batch "), "{}", requests[1]);
        assert!(requests[1].ends_with("\r\n\r\n[{\"type\":\"a.b\",\"n\":1.0},{}]"), "{}", requests[1]);
    }

    #[test]
    fn every_result_is_counted_once_and_told_with_its_line() {
        let mut tally = Tally::default();
        let (told, refused) = tally.take(7, &json!({"id": "a", "seq": 1, "duplicate": false}));
        assert_eq!((told, refused), (json!({"line": 7, "id": "a", "seq": 1, "duplicate": false}), false));
        tally.take(8, &json!({"id": "a", "seq": 1, "duplicate": true}));
        assert!(tally.take(9, &json!({"error": {"status": 400}})).1);
        assert_eq!(tally, Tally { new: 1, duplicate: 1, refused: 1 });
    }
}
