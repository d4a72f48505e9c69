//! Exports and imports over a log in memory, ended at any moment: whatever is lost between two steps, each event of the
//! range is in one part or in a told gap, and each line of the content is in the log or in the report, once.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::export::{ExportPlace, ExportSpec, ExportWork, Stopped, part_file, parts_of};
use super::import::{ImportPlace, ImportSpec, ImportWork, Pressure, Taken, Taking, content_path, read_report};
use super::*;
use crate::config::Config;
use crate::event::envelope::{Draft, Event, EventMeta};
use crate::event::filter::{EventFilter, TypePattern};
use crate::event::parse::same_json;
use crate::event::redact::{Audience, RedactAction, Redaction, RedactionKey, RedactionSource, Redactions, Redactor};
use crate::ground::clock::{ManualClock, UnixMs};
use crate::ground::context::WriteContext;
use crate::ground::ids::Seq;
use crate::ground::random::SeededRandom;
use crate::ground::secret::Sealer;
use crate::job::{Next, StepOutcome};
use crate::store::fake::FakeStore;
use crate::store::{AppendUnit, EventLog as _, Prepared};

const NOW: UnixMs = UnixMs(1_795_248_000_000);

fn bulk(dir: &Path, store: &Arc<FakeStore>, change: impl FnOnce(&mut Config)) -> Arc<Bulk> {
    bulk_that_shows(dir, store, Redactor::none(), change)
}

fn bulk_that_shows(
    dir: &Path,
    store: &Arc<FakeStore>,
    redactor: Redactor,
    change: impl FnOnce(&mut Config),
) -> Arc<Bulk> {
    let mut config = Config::default();
    config.server.data_dir = dir.to_owned();
    config.log.free_space_floor_bytes = 0;
    change(&mut config);
    let finder = Finder::new(store.clone(), store.clone());
    Bulk::new(&config, finder, redactor, ManualClock::starting_at(NOW), SeededRandom::shared(1))
}

/// A log of so many events; every third is of another type.
fn log(events: u64) -> Arc<FakeStore> {
    let store = FakeStore::new(50);
    append(&store, 1..=events);
    store
}

fn append(store: &FakeStore, numbers: std::ops::RangeInclusive<u64>) {
    for n in numbers {
        let event_type = if n.is_multiple_of(3) { "b.c" } else { "a.b" };
        let meta = EventMeta {
            id: format!("e{n}"),
            org: "acme".to_owned(),
            event_type: event_type.to_owned(),
            ..EventMeta::default()
        };
        let body = format!("{{\"type\":\"{event_type}\",\n \"id\":\"e{n}\",\"org\":\"acme\",\"data\":{n}.0}}");
        let draft = Draft { meta, body: Bytes::from(body), id_given: true, received_at: NOW, deliver_at: None };
        let unit = AppendUnit { events: vec![Prepared::new(draft).expect("prepares")], atomic: false };
        store.append(vec![unit]).expect("appends");
    }
}

fn spec(from: u64, to: u64, part_bytes: u64, compression: Compression) -> ExportSpec {
    let filter = EventFilter {
        org: Some("acme".to_owned()),
        event_types: vec![TypePattern::parse("a.*").expect("a pattern")],
        ..EventFilter::default()
    };
    ExportSpec { filter, from: Seq(from), to: Seq(to), from_time: None, to_time: None, compression, part_bytes }
}

/// The positions in the parts that a place counts, in their order.
fn exported(bulk: &Bulk, spec: &ExportSpec, place: &ExportPlace) -> Vec<u64> {
    let dir = bulk.export_dir("job_1");
    let parts = parts_of(&dir, place.list_bytes, 0, usize::MAX).expect("reads");
    assert_eq!(parts.len(), place.parts as usize);
    let mut seqs = Vec::new();
    for part in &parts {
        let bytes = std::fs::read(part_file(&dir, part.part, spec.compression)).expect("reads");
        assert_eq!(part.bytes, bytes.len() as u64);
        let plain = match spec.compression {
            Compression::None => bytes,
            Compression::Zstd => zstd::stream::decode_all(&*bytes).expect("unpacks"),
        };
        assert!(part.events <= 1 || part.plain_bytes <= spec.part_bytes, "{part:?}");
        let text = String::from_utf8(plain).expect("text");
        let mut lines = text.lines();
        assert!(lines.next().expect("a header").starts_with(HEADER_MARK));
        for line in lines {
            let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
            seqs.push(event["seq"].as_u64().expect("a position"));
        }
    }
    seqs
}

#[tokio::test]
async fn an_export_that_is_ended_at_any_moment_has_each_event_in_one_part_or_in_a_told_gap() {
    for seed in 0..12 {
        let dir = tempfile::tempdir().expect("a folder");
        let store = log(600);
        let bulk = bulk(dir.path(), &store, |_| {});
        let random = SeededRandom::shared(seed);
        let below = |bound: u64| (random.fraction() * bound as f64) as u64;
        let compression = Compression::ALL[seed as usize % 2];
        let spec = spec(1, 600, 2_000, compression);
        let open = || ExportWork::new(Arc::clone(&bulk), "job_1".to_owned(), spec.clone());
        let (mut work, mut saved, mut dropped) = (open(), None::<String>, Seq(1));
        loop {
            if seed > 3 && below(8) == 0 {
                dropped = Seq(1 + below(500));
                store.truncate(dropped).expect("truncates");
            }
            let outcome = work.step(saved.as_deref(), 256).await;
            let lost = below(3) == 0;
            match (outcome, lost) {
                (_, true) => {
                    // The process has ended before the cursor was saved; what was open stays on disk.
                    std::mem::forget(std::mem::replace(&mut work, open()));
                }
                (Ok(StepOutcome { cursor, next, .. }), false) => {
                    saved = cursor;
                    if next == Next::Done {
                        break;
                    }
                }
                (Err(error), false) => panic!("{error}"),
            }
        }
        let place = ExportPlace::read(saved.as_deref(), &spec).expect("reads");
        let seqs = exported(&bulk, &spec, &place);
        let in_gap = |seq: u64| place.gaps.iter().any(|gap| gap.from.0 <= seq && seq <= gap.to.0);
        let wanted: Vec<u64> = (1..=600).filter(|n| n % 3 != 0 && !in_gap(*n)).collect();
        assert_eq!(seqs, wanted, "seed {seed}, dropped before {dropped}");
        assert!(seed > 3 || place.gaps.is_empty());
        assert_eq!((place.stopped, place.at), (None, Seq(600)));
    }
}

#[tokio::test]
async fn an_export_of_nothing_is_one_part_with_a_header() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = log(3);
    let bulk = bulk(dir.path(), &store, |_| {});
    for (from, to) in [(4, 3), (3, 3)] {
        let spec = spec(from, to, 2_000, Compression::None);
        let mut work = ExportWork::new(Arc::clone(&bulk), "job_1".to_owned(), spec.clone());
        let outcome = work.step(None, 256).await.expect("a step");
        assert_eq!(outcome.next, Next::Done);
        let place = ExportPlace::read(outcome.cursor.as_deref(), &spec).expect("reads");
        assert_eq!((place.parts, place.events), (1, 0));
        assert!(exported(&bulk, &spec, &place).is_empty());
    }
}

#[tokio::test]
async fn an_export_that_finds_no_room_ends_with_what_it_has_and_says_so() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = log(600);
    let bulk = bulk(dir.path(), &store, |config| config.bulk.exports_bytes_max = 10_000);
    let spec = spec(1, 600, 2_000, Compression::None);
    let mut work = ExportWork::new(Arc::clone(&bulk), "job_1".to_owned(), spec.clone());
    let mut saved = None;
    for _ in 0..1_000 {
        let outcome = work.step(saved.as_deref(), 256).await.expect("a step");
        saved = outcome.cursor;
        if outcome.next == Next::Done {
            break;
        }
    }
    let place = ExportPlace::read(saved.as_deref(), &spec).expect("reads");
    assert_eq!(place.stopped, Some(Stopped::NoRoom));
    assert!(place.bytes >= 5_000 && place.bytes < 10_000, "{place:?}");
    let seqs = exported(&bulk, &spec, &place);
    assert_eq!(seqs.last().copied(), Some(place.at.0), "the cursor is right after what is there");
}

/// Hides the data of one type.
struct Hides(Arc<Redactions>);

impl RedactionSource for Hides {
    fn redactions(&self, _: &str, event_type: &str) -> Option<Arc<Redactions>> {
        (event_type == "a.b").then(|| Arc::clone(&self.0))
    }
}

#[tokio::test]
async fn what_is_redacted_for_exports_is_in_no_part() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = log(30);
    for (audience, hidden) in [(Audience::Export, true), (Audience::Webhook, false)] {
        let rule = Redaction { path: "/data".to_owned(), action: RedactAction::Mask, audiences: vec![audience] };
        let key = RedactionKey::of(&Sealer::new(&[7; 32]));
        let rules = Redactions::compile("redactions", &[rule], &key).expect("compiles");
        let redactor = Redactor::new(Arc::new(Hides(Arc::new(rules))));
        let bulk = bulk_that_shows(dir.path(), &store, redactor, |_| {});
        let spec = spec(1, 30, 100_000, Compression::None);
        let mut work = ExportWork::new(Arc::clone(&bulk), "job_1".to_owned(), spec.clone());
        assert_eq!(work.step(None, 256).await.expect("a step").next, Next::Done);
        let file = part_file(&bulk.export_dir("job_1"), 1, Compression::None);
        let text = std::fs::read_to_string(file).expect("reads");
        assert_eq!(text.lines().count(), 21, "a header and every event");
        assert_eq!(text.matches("\"data\":\"***\"").count(), if hidden { 20 } else { 0 });
        assert_eq!(text.contains("\"data\":29.0"), !hidden);
    }
}

/// A log in memory that sometimes fails, before or after it has appended.
#[derive(Default)]
struct Log {
    events: Mutex<HashMap<(String, String), Bytes>>,
    appended: Mutex<Vec<String>>,
    pressed: AtomicU32,
    fails: Mutex<Option<Arc<dyn crate::ground::random::Random>>>,
}

impl Log {
    fn take_one(&self, draft: Draft) -> Taken {
        assert!(draft.id_given, "a repeat is to be known");
        let key = (draft.meta.org.clone(), draft.meta.id.clone());
        let mut events = self.events.lock();
        match events.get(&key) {
            Some(body) if same_json(body, &draft.body) => Taken::Duplicate,
            Some(body) => Taken::Conflict(Some(Event::new(Seq(7), NOW, draft.meta.clone(), body.clone()))),
            None => {
                self.appended.lock().push(draft.meta.id.clone());
                events.insert(key, draft.body);
                Taken::New
            }
        }
    }
}

impl Taking for Arc<Log> {
    fn take(&self, drafts: Vec<Draft>, _: WriteContext) -> BoxFuture<'static, Result<Vec<Taken>, StepError>> {
        let log = Arc::clone(self);
        Box::pin(async move {
            let chance = log.fails.lock().as_ref().map_or(1.0, |random| random.fraction());
            let failed = || StepError::Again("not now".to_owned());
            if chance < 0.1 {
                return Err(failed());
            }
            let taken = drafts.into_iter().map(|draft| log.take_one(draft)).collect();
            if chance < 0.2 { Err(failed()) } else { Ok(taken) }
        })
    }

    fn pressure(&self) -> Pressure {
        let left = self.pressed.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left.is_ok() { Pressure::Much } else { Pressure::None }
    }
}

/// Line `n` of a content, and what is to become of it.
fn line(n: u64) -> (String, &'static str) {
    match n % 10 {
        0 => (
            format!("{{\"tidegate_export\":{{\"contract_version\":1,\"format\":\"{FORMAT}\",\"part\":{n}}}}}"),
            "header",
        ),
        1 => (String::new(), "blank"),
        2 => (format!("{{\"type\":\"a.b\",\"org\":\"acme\",\"data\":{n}}}"), "new"),
        3 => (format!("{{\"type\":\"a.b\",\"org\":\"acme\",\"id\":\"x{n}\",\"colour\":1}}"), "rejected"),
        4 => ("{\"type\":".to_owned(), "rejected"),
        7 => (format!("{{\"type\":\"a.b\",\"org\":\"acme\",\"id\":\"e{}\",\"data\":{0}}}", n - 1), "duplicate"),
        _ => (format!("{{\"type\":\"a.b\",\"org\":\"acme\",\"id\":\"e{n}\",\"data\":{n}}}"), "new"),
    }
}

fn write_content(bulk: &Bulk, lines: u64, compression: Compression) -> u64 {
    let dir = bulk.import_dir("imp_1");
    std::fs::create_dir_all(&dir).expect("made");
    let text: String = (0..lines).map(|n| line(n).0 + "\n").collect();
    let bytes = match compression {
        Compression::None => text.into_bytes(),
        Compression::Zstd => {
            let half = text.len() / 2;
            let pack = |part: &[u8]| zstd::stream::encode_all(part, 3).expect("packs");
            [pack(&text.as_bytes()[..half]), pack(&text.as_bytes()[half..])].concat()
        }
    };
    std::fs::write(content_path(&dir), &bytes).expect("written");
    bytes.len() as u64
}

fn import_spec(bytes: u64, compression: Compression) -> ImportSpec {
    ImportSpec { import: "imp_1".to_owned(), compression, bytes, sha256: None, org: None, confined_to: None }
}

fn open_import(bulk: &Arc<Bulk>, log: &Arc<Log>, spec: &ImportSpec) -> ImportWork {
    let taking: Arc<dyn Taking> = Arc::new(Arc::clone(log));
    ImportWork::new(Arc::clone(bulk), taking, spec.clone(), WriteContext::default())
}

#[tokio::test]
async fn an_import_that_is_ended_at_any_moment_takes_each_line_once_and_tells_of_each_other_once() {
    const LINES: u64 = 3_000;
    for seed in 0..12 {
        let dir = tempfile::tempdir().expect("a folder");
        let bulk = bulk(dir.path(), &FakeStore::new(10), |_| {});
        let log = Arc::new(Log::default());
        let random = SeededRandom::shared(seed);
        *log.fails.lock() = (seed > 1).then(|| SeededRandom::shared(seed + 100));
        let below = |bound: u64| (random.fraction() * bound as f64) as u64;
        let compression = Compression::ALL[seed as usize % 2];
        let spec = import_spec(write_content(&bulk, LINES, compression), compression);
        let (mut work, mut saved) = (open_import(&bulk, &log, &spec), None::<String>);
        let mut ends = 0;
        loop {
            let room = 1 + below(600) as usize;
            let outcome = work.step(saved.as_deref(), room).await;
            let lost = seed > 0 && below(4) == 0;
            match (outcome, lost) {
                (_, true) => {
                    ends += 1;
                    work = open_import(&bulk, &log, &spec);
                }
                (Ok(StepOutcome { cursor, next, .. }), false) => {
                    saved = cursor;
                    if next == Next::Done {
                        break;
                    }
                }
                (Err(StepError::Again(_)), false) => {}
                (Err(error @ StepError::Fatal(_)), false) => panic!("{error}"),
            }
        }
        let place: ImportPlace = serde_json::from_str(saved.as_deref().expect("a place")).expect("reads");
        let counts = place.counts;
        let count = |what: &str| (0..LINES).filter(|n| line(*n).1 == what).count() as u64;
        assert_eq!((counts.lines, counts.headers), (LINES, count("header")));
        assert_eq!(counts.accepted + counts.duplicates, count("new") + count("duplicate"), "seed {seed}");
        if seed == 0 {
            assert_eq!(counts.duplicates, count("duplicate"));
        }
        assert_eq!((counts.rejected, counts.conflicts, counts.scheduled), (count("rejected"), 0, 0));
        let mut appended = log.appended.lock().clone();
        appended.sort();
        let id = |n: u64| if n % 10 == 2 { format!("imp_1-{}", n + 1) } else { format!("e{n}") };
        let mut wanted: Vec<String> = (0..LINES).filter(|n| line(*n).1 == "new").map(id).collect();
        wanted.sort();
        assert_eq!(appended, wanted, "seed {seed}, ended {ends} times");
        let report = read_report(&bulk.import_dir("imp_1"), place.report_bytes, 0, usize::MAX).expect("reads");
        let told: Vec<u64> = report.items.iter().filter_map(|item| item["line"].as_u64()).collect();
        let rejected: Vec<u64> = (0..LINES).filter(|n| line(*n).1 == "rejected").map(|n| n + 1).collect();
        assert_eq!(told, rejected);
    }
}

#[tokio::test]
async fn an_import_gives_way_to_live_traffic_and_does_not_starve() {
    let dir = tempfile::tempdir().expect("a folder");
    let bulk = bulk(dir.path(), &FakeStore::new(10), |_| {});
    let log = Arc::new(Log::default());
    let spec = import_spec(write_content(&bulk, 100, Compression::None), Compression::None);
    let mut work = open_import(&bulk, &log, &spec);
    log.pressed.store(7, Ordering::SeqCst);
    for _ in 0..7 {
        let outcome = work.step(None, 256).await.expect("a step");
        assert_eq!(outcome.next, Next::Wait { reason: "live events go first" });
        assert!(log.appended.lock().is_empty());
    }
    assert_eq!(work.step(None, 256).await.expect("a step").next, Next::Done);
    log.events.lock().clear();
    log.appended.lock().clear();
    // Live traffic never rests: after a while a batch goes all the same.
    log.pressed.store(u32::MAX, Ordering::SeqCst);
    let mut waits = 0;
    while log.appended.lock().is_empty() {
        work.step(None, 256).await.expect("a step");
        waits += 1;
        assert!(waits < 100, "it starves");
    }
    assert!(waits > 10, "{waits}");
}

#[tokio::test]
async fn content_with_another_hash_is_not_begun_and_damage_ends_an_import_after_the_lines_before() {
    let dir = tempfile::tempdir().expect("a folder");
    let bulk = bulk(dir.path(), &FakeStore::new(10), |_| {});
    let log = Arc::new(Log::default());
    let bytes = write_content(&bulk, 500, Compression::None);
    let other = ImportSpec { sha256: Some("00".repeat(32)), ..import_spec(bytes, Compression::None) };
    let error = open_import(&bulk, &log, &other).step(None, 256).await.expect_err("refused");
    assert!(matches!(&error, StepError::Fatal(text) if text.contains("SHA-256")), "{error}");
    assert!(log.appended.lock().is_empty());

    let spec = import_spec(write_content(&bulk, 20_000, Compression::Zstd), Compression::Zstd);
    let path = content_path(&bulk.import_dir("imp_1"));
    let whole = std::fs::read(&path).expect("reads");
    std::fs::write(&path, &whole[..whole.len() - 3]).expect("written");
    let mut work = open_import(&bulk, &log, &spec);
    let mut saved = None;
    let error = loop {
        match work.step(saved.as_deref(), 4_096).await {
            Ok(outcome) => saved = outcome.cursor,
            Err(error) => break error,
        }
    };
    let wanted = format!("cut off at byte {}", whole.len() - 3);
    assert!(matches!(&error, StepError::Fatal(text) if text.contains(&wanted)), "{error}");
    let place: ImportPlace = serde_json::from_str(saved.as_deref().expect("a place")).expect("reads");
    assert!(place.counts.accepted > 5_000, "{place:?}");
    assert_eq!(log.appended.lock().len() as u64, place.counts.accepted);

    std::fs::write(&path, "{\"tidegate_export\":{\"contract_version\":9,\"format\":\"other\"}}\n{\"type\":\"a.b\"}\n")
        .expect("written");
    let error =
        open_import(&bulk, &log, &import_spec(999, Compression::None)).step(None, 9).await.expect_err("refused");
    assert!(matches!(&error, StepError::Fatal(text) if text.contains("line 1: ")), "{error}");
}

#[tokio::test]
async fn bytes_that_were_never_acknowledged_are_not_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let bulk = bulk(dir.path(), &FakeStore::new(10), |_| {});
    let path = content_path(&bulk.import_dir("imp_1"));
    for compression in Compression::ALL {
        let bytes = write_content(&bulk, 100, compression);
        let mut content = std::fs::read(&path).expect("reads");
        let sum = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&content));
        content.extend_from_slice(b"{\"type\":\"a.b\",\"id\":\"torn\"}\n\0\0\0");
        std::fs::write(&path, content).expect("written");
        let spec = ImportSpec { sha256: Some(sum), ..import_spec(bytes, compression) };
        let log = Arc::new(Log::default());
        let mut work = open_import(&bulk, &log, &spec);
        let mut saved = None;
        loop {
            let outcome = work.step(saved.as_deref(), 4_096).await.expect("a step");
            saved = outcome.cursor;
            if outcome.next == Next::Done {
                break;
            }
        }
        let place: ImportPlace = serde_json::from_str(saved.as_deref().expect("a place")).expect("reads");
        assert_eq!(place.counts.lines, 100);
        assert!(!log.appended.lock().iter().any(|id| id == "torn"));
    }
    let log = Arc::new(Log::default());
    let nothing = open_import(&bulk, &log, &import_spec(0, Compression::None)).step(None, 9).await.expect("a step");
    assert_eq!(nothing.next, Next::Done);
}
