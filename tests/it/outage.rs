//! An endpoint that is dead for a whole day, by the clock of the test, while events go on coming (BRK-1, BRK-4, INB-6).
//! How many is `OUTAGE_EVENTS`; unset, as many as a debug build takes in well under a minute.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tidegate::event::parse::parse_event;
use tidegate::ground::clock::{Clock as _, ManualClock, UnixMs};
use tidegate::ground::context::WriteContext;
use tidegate::ground::fields::Fields;
use tidegate::hub::{Accepted, Hub, LetterQuery};
use tidegate::store::Appended;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::embed::{START, directory, open, stop_settled};
use crate::support::{DEADLINE, sample, until};

const EVENTS_DEFAULT: u64 = 6_000;
const KEYS: u64 = 1_000;
const DAY_MS: u64 = 24 * 3_600_000;
const BATCH: u64 = 250;
/// Answers after the recovery that take a while, so that what is sent at once overlaps.
const SLOW_ANSWERS: u64 = 300;
/// Memory that may come while the day goes by and the log grows: pages of the store, mostly.
const GROWTH_BYTES_MAX: u64 = 160 << 20;

/// What the endpoint has seen. It keeps counts and no requests, so that a million of them weigh nothing.
#[derive(Default)]
struct Seen {
    alive: AtomicBool,
    /// Requests while it was dead.
    refused: AtomicU64,
    started: AtomicU64,
    answered: AtomicU64,
    most_at_once: AtomicU64,
    /// The last number of each key.
    last: Mutex<HashMap<u64, u64>>,
    wrong: Mutex<Vec<String>>,
}

impl Seen {
    fn take(&self, id: &str) {
        let started = self.started.fetch_add(1, Ordering::SeqCst) + 1;
        let answered = self.answered.load(Ordering::SeqCst);
        let at_once = started.saturating_sub(answered);
        self.most_at_once.fetch_max(at_once, Ordering::SeqCst);
        let mut wrong = self.wrong.lock();
        // One at first, and one more for each that was taken: what the hub knows of answers is never ahead of this.
        if at_once > answered + 1 {
            wrong.push(format!("{at_once} at once after {answered} answers"));
        }
        let (key, n) = id.split_once('-').unwrap();
        let (key, n): (u64, u64) = (key.parse().unwrap(), n.parse().unwrap());
        let before = self.last.lock().insert(key, n);
        if before.map_or(n != 0, |before| before + 1 != n) {
            wrong.push(format!("{id} came after {before:?} of its key"));
        }
        wrong.truncate(20);
    }
}

/// The endpoint, on a thread of its own: its URL.
fn endpoint(seen: &Arc<Seen>) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let seen = seen.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let seen = seen.clone();
                // A connection that breaks is what a dead endpoint is for.
                tokio::spawn(async move { serve(stream, &seen).await.ok() });
            }
        });
    });
    url
}

async fn serve(mut stream: TcpStream, seen: &Seen) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let (id, whole) = loop {
            let mut headers = [httparse::EMPTY_HEADER; 32];
            let mut request = httparse::Request::new(&mut headers);
            if let Ok(httparse::Status::Complete(head)) = request.parse(&buffer) {
                let header = |name: &str| {
                    let found = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
                    found.map_or("", |header| std::str::from_utf8(header.value).unwrap()).to_owned()
                };
                break (header("webhook-id"), head + header("content-length").parse::<usize>().unwrap());
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        while buffer.len() < whole {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
        buffer.drain(..whole);
        if !seen.alive.load(Ordering::SeqCst) {
            seen.refused.fetch_add(1, Ordering::SeqCst);
            return stream.set_zero_linger();
        }
        seen.take(&id);
        if seen.answered.load(Ordering::SeqCst) < SLOW_ANSWERS {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        seen.answered.fetch_add(1, Ordering::SeqCst);
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await?;
    }
}

/// Appends the events of these numbers; event n is number n / KEYS of key n % KEYS.
async fn append(hub: &Hub, numbers: std::ops::Range<u64>) {
    let mut next = numbers.start;
    while next < numbers.end {
        let end = (next + BATCH).min(numbers.end);
        let drafts = (next..end).map(|n| {
            let (key, at) = (n % KEYS, n / KEYS);
            let body = json!({"id": format!("{key}-{at}"), "type": "load.event", "org": "acme",
                "ordering_key": format!("{key}"), "data": {"n": n, "filling": "x".repeat(300)}});
            parse_event(&Bytes::from(body.to_string()), &hub.parse_rules(None, None)).unwrap()
        });
        let receipts = hub.accept(drafts.collect(), false, WriteContext::default).await.unwrap();
        assert!(receipts.iter().all(|one| matches!(one, Accepted::Log(Appended::New(_)))));
        next = end;
    }
}

fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1_024
}

async fn consumer(hub: &Hub, id: &str) -> Value {
    let all = hub.consumers().await;
    all.into_iter().find(|one| one["id"] == id).unwrap()
}

async fn breaker(hub: &Hub, id: &str) -> Value {
    let all = hub.breakers().await.unwrap();
    all.into_iter().find(|one| one["id"] == id).unwrap()
}

/// Where an open breaker stands: when it lets a probe through, and how often it has opened.
async fn open_until(hub: &Hub, id: &str, opened_before: u64) -> (UnixMs, u64) {
    until("the breaker opens", || async {
        let one = breaker(hub, id).await;
        let opened = one["times_opened"].as_u64().unwrap();
        let at = one["until"].as_str().filter(|_| opened > opened_before)?;
        let quiet = consumer(hub, id).await["in_flight"] == 0;
        quiet.then(|| (UnixMs::parse_rfc3339(at).unwrap(), opened))
    })
    .await
}

#[tokio::test]
async fn a_day_of_a_dead_endpoint_costs_probes_and_no_memory_and_ends_ramped_and_in_order() {
    let events = std::env::var("OUTAGE_EVENTS").map_or(EVENTS_DEFAULT, |text| text.parse().unwrap());
    let dir = directory();
    let clock = ManualClock::starting_at(START);
    let seen = Arc::new(Seen::default());
    let url = endpoint(&seen);
    let hub = open(dir.path(), clock.clone(), |config| {
        config.delivery.allow_private_networks = true;
        // Time goes by in leaps here: no lease may end while an answer is on its way.
        config.delivery.total_timeout_ms = 600_000;
    })
    .await;
    let window = hub.config().inbox.window_events as u64;
    let wanted = json!({"url": url, "org": "acme", "event_types": ["load.*"], "ordering": "key"});
    let context = WriteContext { by: "test".into(), at: clock.now(), ..WriteContext::default() };
    let fields = Fields::parse(wanted.to_string().as_bytes()).unwrap();
    let id = hub.create_webhook(fields, None, context).await.unwrap().0.id.clone();

    // The day: whenever the breaker lets a probe through, one goes out, fails, and it is open again. Events go on coming.
    let share = (events / 160).max(1);
    let mut appended = share.min(events);
    append(&hub, 0..appended).await;
    let (mut probe_at, mut opened) = open_until(&hub, &id, 0).await;
    let first_failures = seen.refused.load(Ordering::SeqCst);
    let (mut probes, mut most_rows, mut base_bytes) = (0, 0, 0);
    while clock.now().since_ms(START) < DAY_MS {
        let more = share.min(events - appended);
        append(&hub, appended..appended + more).await;
        appended += more;
        let before = seen.refused.load(Ordering::SeqCst);
        clock.advance(Duration::from_millis(probe_at.since_ms(clock.now()).saturating_sub(1)));
        let resting = consumer(&hub, &id).await;
        assert_eq!((&resting["in_flight"], seen.refused.load(Ordering::SeqCst)), (&json!(0), before), "{resting}");
        clock.advance(Duration::from_millis(1));
        (probe_at, opened) = open_until(&hub, &id, opened).await;
        probes += seen.refused.load(Ordering::SeqCst) - before;
        let resting = consumer(&hub, &id).await;
        assert!(resting["window"].as_u64().unwrap() <= window, "{resting}");
        most_rows = most_rows.max(resting["exception_rows"].as_u64().unwrap());
        if base_bytes == 0 && appended > events / 5 {
            base_bytes = resident_bytes();
        }
    }
    append(&hub, appended..events).await;
    let end_bytes = resident_bytes();
    // From 30 s doubling to 10 min: about 150 openings in a day, one probe each.
    assert_eq!(probes, opened - 1, "one probe for each time it opened, and nothing else");
    assert!((100..=200).contains(&probes), "{probes}");
    assert!(most_rows <= first_failures + probes, "{most_rows} rows of {first_failures} + {probes} failures");
    assert!(end_bytes <= base_bytes + GROWTH_BYTES_MAX, "{base_bytes} bytes grew to {end_bytes}");
    let metrics = String::from_utf8(hub.metrics_text().unwrap()).unwrap();
    let failed = sample(&metrics, "tidegate_delivery_attempts_total", &[r#"outcome="connect""#]).unwrap();
    assert_eq!(failed as u64, seen.refused.load(Ordering::SeqCst), "each request was an attempt, and nothing else was");

    // It is back. What waits goes out, one at first; then what had failed, when it is due.
    seen.alive.store(true, Ordering::SeqCst);
    clock.advance(Duration::from_millis(probe_at.since_ms(clock.now())));
    let mut answered = 0;
    while answered < events {
        let progressed = tokio::time::timeout(DEADLINE, async {
            loop {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let now = seen.answered.load(Ordering::SeqCst);
                if now > answered {
                    return now;
                }
                if consumer(&hub, &id).await["in_flight"] == 0 {
                    clock.advance(Duration::from_secs(60));
                }
            }
        });
        let Ok(now) = progressed.await else {
            panic!("{answered} of {events} came: {}, {}", consumer(&hub, &id).await, breaker(&hub, &id).await);
        };
        answered = now;
    }
    until("everything is settled", || async {
        let one = consumer(&hub, &id).await;
        (one["processed"] == events && one["exception_rows"] == 0 && one["lag"] == 0).then_some(())
    })
    .await;
    assert_eq!(*seen.wrong.lock(), Vec::<String>::new());
    let most_at_once = seen.most_at_once.load(Ordering::SeqCst);
    assert!((2..=16).contains(&most_at_once), "{most_at_once} at once");
    assert_eq!(seen.started.load(Ordering::SeqCst), events, "each came once");
    assert!(
        hub.blocking(|hub| hub.dead_letters(&LetterQuery { limit: 1, ..LetterQuery::default() }))
            .await
            .unwrap()
            .items
            .is_empty()
    );
    eprintln!(
        "{events} events, {first_failures} failures to open, {probes} probes in the day, at most {most_rows} rows, {} MiB at \
         a fifth and {} MiB at the end, {most_at_once} at once after it",
        base_bytes >> 20,
        end_bytes >> 20,
    );
    stop_settled(&hub).await;
}
