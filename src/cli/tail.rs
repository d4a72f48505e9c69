//! `tidegate tail`: new events as they arrive.
//!
//! Asks for what came after the last answer, at once while there is more and else after a pause. A hub that goes away is
//! waited for; what it accepts meanwhile is shown when it is back.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::client::{Body, Client, Door, Method, Target};
use super::events::Scope;
use super::exit::Failure;
use super::output::{Output, printable};
use crate::ground::clock::SystemClock;

/// Events of one answer.
const PAGE_EVENTS: u32 = 200;
/// Longest wait for a hub that went away.
const AWAY_WAIT_MAX: Duration = Duration::from_secs(10);

/// Flags of `tail`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    scope: Scope,
    /// Begin with events received at or after this time (RFC 3339) [default: now]
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// End after so many events
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Pause between two looks when there is nothing new, in milliseconds
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(50..=60_000))]
    interval_ms: u64,
}

/// An answer, with each event as it came.
#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    events: Vec<&'a RawValue>,
    next_cursor: Option<String>,
    #[serde(default)]
    has_more: bool,
}

/// How far the output is.
#[derive(Debug, Default)]
struct Place {
    cursor: Option<String>,
    seq: Option<u64>,
    shown: u64,
}

impl Place {
    /// Whether an event is new. An answer without a cursor makes the hub tell its last events again.
    fn admits(&mut self, seq: Option<u64>) -> bool {
        let new = seq.is_none() || seq > self.seq;
        if new {
            self.seq = seq.or(self.seq);
            self.shown += 1;
        }
        new
    }
}

/// Follows until Ctrl-C, or `--count` events.
///
/// # Errors
/// When no hub answers the first time, or it refuses.
pub async fn run(target: &Target, output: Output, args: Args) -> Result<(), Failure> {
    let client = Client::new(target, Door::Any)?;
    let since = args.since.unwrap_or_else(|| SystemClock::shared().now().to_rfc3339());
    let query = args.scope.query().with("from", Some(since)).with("limit", Some(PAGE_EVENTS));
    let pause = Duration::from_millis(args.interval_ms);
    let mut place = Place::default();
    let mut away = None;
    let mut answered = false;
    loop {
        let asked = query.clone().with("cursor", place.cursor.as_ref());
        let wait = match client.call(Method::GET, "/v1/events", &asked, Body::None).await {
            Ok(answer) => {
                answered = true;
                if away.take().is_some() {
                    output.remark("the hub is back");
                }
                let more = show(output, &answer, &mut place, args.count)?;
                if args.count.is_some_and(|count| place.shown >= count) {
                    return Ok(());
                }
                if more { Duration::ZERO } else { pause }
            }
            Err(failure @ Failure::Unreachable { .. }) if answered => {
                if away.is_none() {
                    output.remark(&format!("{failure}; waiting for it"));
                }
                let next = away.map_or(pause, |wait: Duration| (wait * 2).min(AWAY_WAIT_MAX));
                away = Some(next);
                next
            }
            Err(failure) => return Err(failure),
        };
        tokio::time::sleep(wait).await;
    }
}

/// Shows the new events of an answer, and says whether more are waiting.
fn show(output: Output, answer: &[u8], place: &mut Place, count: Option<u64>) -> Result<bool, Failure> {
    let page: Page<'_> = serde_json::from_slice(answer).map_err(anyhow::Error::from)?;
    let mut moved = false;
    for raw in page.events {
        if count.is_some_and(|count| place.shown >= count) {
            return Ok(false);
        }
        let event: Value = serde_json::from_str(raw.get()).map_err(anyhow::Error::from)?;
        if !place.admits(event["seq"].as_u64()) {
            continue;
        }
        moved = true;
        match output {
            Output::Json => output.line(raw.get())?,
            Output::Human => output.line(&row(&event))?,
        }
    }
    // More without a move would ask the same thing again at once, for ever.
    let more = page.has_more && (moved || page.next_cursor.is_some() && page.next_cursor != place.cursor);
    place.cursor = page.next_cursor.or(place.cursor.take());
    Ok(more)
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

    fn answer(seqs: &[u64], next_cursor: Option<&str>, has_more: bool) -> Vec<u8> {
        let events: Vec<Value> = seqs.iter().map(|seq| json!({"seq": seq, "type": "a.b"})).collect();
        json!({"events": events, "next_cursor": next_cursor, "has_more": has_more}).to_string().into_bytes()
    }

    #[test]
    fn an_event_is_shown_once_whether_or_not_the_hub_gives_a_cursor() {
        let mut place = Place::default();
        assert!(!show(Output::Json, &answer(&[5, 7], None, false), &mut place, None).expect("shown"));
        assert!(!show(Output::Json, &answer(&[5, 7, 9], None, false), &mut place, None).expect("shown"));
        assert_eq!((place.shown, place.seq), (3, Some(9)));
        show(Output::Json, &answer(&[], Some("c9"), false), &mut place, None).expect("shown");
        show(Output::Json, &answer(&[], None, false), &mut place, None).expect("shown");
        assert_eq!(place.cursor.as_deref(), Some("c9"));
    }

    #[test]
    fn more_is_asked_for_at_once_only_after_a_move() {
        let mut place = Place::default();
        assert!(show(Output::Json, &answer(&[1], Some("c1"), true), &mut place, None).expect("shown"));
        assert!(show(Output::Json, &answer(&[], Some("c2"), true), &mut place, None).expect("shown"));
        assert!(!show(Output::Json, &answer(&[], Some("c2"), true), &mut place, None).expect("shown"));
    }

    #[test]
    fn the_output_ends_at_the_count_that_was_asked_for() {
        let mut place = Place::default();
        show(Output::Json, &answer(&[1, 2, 3], Some("c3"), true), &mut place, Some(2)).expect("shown");
        assert_eq!((place.shown, place.seq), (2, Some(2)));
    }

    #[test]
    fn a_row_has_time_type_org_and_id() {
        let event =
            json!({"received_at": "2026-11-21T08:00:00.000Z", "type": "invoice.paid", "org": "acme", "id": "e-1"});
        insta::assert_snapshot!(row(&event), @"2026-11-21T08:00:00.000Z  invoice.paid                      acme              e-1");
    }
}
