//! `tidegate tail`: events as they arrive, from the change feed.
//!
//! One stream (NDJSON) that the hub writes to when there is something new. A hub that goes away is waited for, and the
//! stream goes on from the last cursor: what it accepts meanwhile is shown when it is back, nothing twice.

use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::client::{Client, Door, Query, Target};
use super::exit::Failure;
use super::output::{Output, printable};

/// A stream that says nothing for this long is given up: the hub gives a sign of life far more often.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// First and longest wait for a hub that went away.
const AWAY_WAIT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// Longest line that is taken: an event of the largest size, with room for its envelope.
const LINE_BYTES_MAX: usize = 20 << 20;

/// Flags of `tail`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Tenant; not needed on the admin listener, nor with a key that has one
    #[arg(long)]
    org: Option<String>,
    /// Event types, exact or prefix.*, separated by commas
    #[arg(long, alias = "type", value_name = "TYPES")]
    event_types: Option<String>,
    /// Module or service that spoke
    #[arg(long, alias = "source")]
    service: Option<String>,
    /// Channel
    #[arg(long)]
    channel: Option<String>,
    /// Facility
    #[arg(long)]
    facility: Option<String>,
    /// Only events received at or after this time (RFC 3339)
    #[arg(long, alias = "since", value_name = "TIME")]
    from: Option<String>,
    /// Where to begin: earliest, latest, seq:N or time:T [default: latest, or earliest with --from or --no-follow]
    #[arg(long)]
    start: Option<String>,
    /// Go on from a cursor of an earlier run
    #[arg(long)]
    cursor: Option<String>,
    /// Go on with what arrives; this is the default
    #[arg(long, overrides_with = "no_follow")]
    follow: bool,
    /// End when everything that is there was shown
    #[arg(long)]
    no_follow: bool,
    /// End after so many events
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

impl Args {
    fn query(&self, cursor: Option<&String>) -> Query {
        let query = Query::none()
            .with("org", self.org.as_ref())
            .with("type", self.event_types.as_ref())
            .with("service", self.service.as_ref())
            .with("channel", self.channel.as_ref())
            .with("facility", self.facility.as_ref())
            .with("from", self.from.as_ref())
            .with("follow", Some(!self.no_follow));
        if cursor.is_some() {
            return query.with("cursor", cursor);
        }
        let all = self.from.is_some() || self.no_follow;
        query.with("start", Some(self.start.as_deref().unwrap_or(if all { "earliest" } else { "latest" })))
    }
}

/// A line of the stream, the event as it came.
#[derive(Debug, Deserialize)]
struct Line<'a> {
    cursor: &'a str,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    gap: Option<Gap>,
}

/// Positions that retention had dropped before they were read.
#[derive(Debug, Deserialize)]
struct Gap {
    from: u64,
    to: u64,
}

/// Pieces of a stream, cut into lines.
#[derive(Debug, Default)]
struct Lines(BytesMut);

impl Lines {
    fn next(&mut self) -> Option<BytesMut> {
        let end = self.0.iter().position(|byte| *byte == b'\n')?;
        let line = self.0.split_to(end);
        self.0.advance(1);
        Some(line)
    }
}

/// How far the output is.
#[derive(Debug, Default)]
struct Place {
    cursor: Option<String>,
    shown: u64,
}

impl Place {
    /// Shows what a line tells, and moves on.
    fn take(&mut self, output: Output, line: &[u8]) -> Result<(), Failure> {
        let line: Line<'_> = serde_json::from_slice(line).map_err(anyhow::Error::from)?;
        if let Some(Gap { from, to }) = line.gap {
            output.remark(&format!("the positions {from} to {to} are no longer in the log"));
        }
        if let Some(event) = line.event {
            match output {
                Output::Json => output.line(event.get())?,
                Output::Human => output.line(&row(&serde_json::from_str(event.get()).map_err(anyhow::Error::from)?))?,
            }
            self.shown += 1;
        }
        self.cursor = Some(line.cursor.to_owned());
        Ok(())
    }

    fn is_full(&self, count: Option<u64>) -> bool {
        count.is_some_and(|count| self.shown >= count)
    }
}

/// How a stream ended.
enum End {
    /// Everything that was asked for was shown.
    Done,
    /// The hub, or the way to it, broke off.
    Broken(String),
}

/// Opens the stream. A hub that was restarted may have other addresses, so they are looked up each time.
async fn open(target: &Target, query: &Query) -> Result<reqwest::Response, Failure> {
    Client::new(target, Door::Any)?.open("/v1/cdc", query, "application/x-ndjson").await
}

/// Follows until Ctrl-C, `--count` events, or the end of the log with `--no-follow`.
///
/// # Errors
/// When no hub answers the first time, or it refuses.
pub async fn run(target: &Target, output: Output, args: Args) -> Result<(), Failure> {
    let mut place = Place { cursor: args.cursor.clone(), shown: 0 };
    let mut answered = false;
    let mut away = None;
    loop {
        let broken = match open(target, &args.query(place.cursor.as_ref())).await {
            Ok(stream) => {
                answered = true;
                if away.take().is_some() {
                    output.remark("the hub is back");
                }
                match show(stream, output, &args, &mut place).await? {
                    End::Done => return Ok(()),
                    End::Broken(reason) => reason,
                }
            }
            Err(Failure::Refused { status: 410, problem }) if answered => {
                output.remark(&format!("{}; going on from there", problem["detail"].as_str().unwrap_or_default()));
                place.cursor = problem["earliest_cursor"].as_str().map(str::to_owned);
                continue;
            }
            Err(failure @ (Failure::Unreachable { .. } | Failure::Refused { status: 503, .. })) if answered => {
                failure.to_string()
            }
            Err(failure) => return Err(failure),
        };
        if away.is_none() {
            output.remark(&format!("{broken}; waiting for the hub"));
        }
        let wait = away.map_or(AWAY_WAIT.0, |wait: Duration| (wait * 2).min(AWAY_WAIT.1));
        away = Some(wait);
        tokio::time::sleep(wait).await;
    }
}

/// Shows a stream to its end.
async fn show(mut stream: reqwest::Response, output: Output, args: &Args, place: &mut Place) -> Result<End, Failure> {
    let mut lines = Lines::default();
    loop {
        while let Some(line) = lines.next() {
            if place.is_full(args.count) {
                return Ok(End::Done);
            }
            place.take(output, &line)?;
        }
        if place.is_full(args.count) {
            return Ok(End::Done);
        }
        if lines.0.len() > LINE_BYTES_MAX {
            return Err(anyhow::anyhow!("the hub sent a line of more than {LINE_BYTES_MAX} bytes").into());
        }
        match tokio::time::timeout(SILENCE_MAX, stream.chunk()).await {
            Ok(Ok(Some(piece))) => lines.0.extend_from_slice(&piece),
            // A line that was cut off comes again with the last cursor.
            Ok(Ok(None)) if args.no_follow && lines.0.is_empty() => return Ok(End::Done),
            Ok(Ok(None)) => return Ok(End::Broken("the hub has ended the stream".to_owned())),
            Ok(Err(error)) => return Ok(End::Broken(error.without_url().to_string())),
            Err(_) => return Ok(End::Broken(format!("the hub was silent for {} s", SILENCE_MAX.as_secs()))),
        }
    }
}

/// Time, type, org and id in columns that line up for usual lengths.
fn row(event: &Value) -> String {
    let text = |name: &str| event[name].as_str().map_or_else(|| "-".to_owned(), printable);
    let time = if event["received_at"].is_string() { "received_at" } else { "occurred_at" };
    let line = format!("{:<24}  {:<32}  {:<16}  {}", text(time), text("type"), text("org"), text("id"));
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pieces_become_lines_wherever_they_are_cut() {
        let text = b"{\"a\":1}\n{\"b\":2}\n{\"c\"";
        for size in 1..text.len() {
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            for piece in text.chunks(size) {
                lines.0.extend_from_slice(piece);
                found.extend(std::iter::from_fn(|| lines.next()));
            }
            assert_eq!(found, [&b"{\"a\":1}"[..], b"{\"b\":2}"]);
            assert_eq!(&lines.0[..], b"{\"c\"");
        }
    }

    #[test]
    fn each_line_moves_the_place_and_events_alone_are_counted() {
        let mut place = Place::default();
        for (line, cursor, shown) in [
            (json!({"cursor": "c1", "event": {"seq": 1, "type": "a.b"}}), "c1", 1),
            (json!({"cursor": "c2"}), "c2", 1),
            (json!({"cursor": "c3", "gap": {"from": 2, "to": 9}}), "c3", 1),
            (json!({"cursor": "c4", "event": {"seq": 10, "type": "a.b"}}), "c4", 2),
        ] {
            place.take(Output::Json, line.to_string().as_bytes()).expect("shown");
            assert_eq!((place.cursor.as_deref(), place.shown), (Some(cursor), shown));
        }
        assert!(place.is_full(Some(2)) && !place.is_full(Some(3)) && !place.is_full(None));
        assert!(place.take(Output::Json, b"nonsense").is_err());
    }

    #[test]
    fn a_row_has_time_type_org_and_id() {
        let event =
            json!({"received_at": "2026-11-21T08:00:00.000Z", "type": "invoice.paid", "org": "acme", "id": "e-1"});
        insta::assert_snapshot!(row(&event), @"2026-11-21T08:00:00.000Z  invoice.paid                      acme              e-1");
    }
}
