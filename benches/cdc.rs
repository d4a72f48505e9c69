//! What a page of the change feed costs, by how many orgs share the log. `cargo bench --bench cdc`; the number of events
//! is `TIDEGATE_BENCH_EVENTS`, a million when it is not given.
#![expect(clippy::expect_used, reason = "a bench that cannot prepare its work stops and says why")]

use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tidegate::cdc::feed::{Feed, Reading};
use tidegate::cdc::filter::FeedFilter;
use tidegate::config::Config;
use tidegate::event::envelope::{Draft, EventMeta};
use tidegate::event::filter::EventFilter;
use tidegate::ground::clock::UnixMs;
use tidegate::ground::ids::Seq;
use tidegate::lookup::{Block, Finder, Summary, build};
use tidegate::outbox::Tail;
use tidegate::store::engine::EngineOptions;
use tidegate::store::{AppendUnit, Engine, EventLog as _, IndexLevel, IndexRow, LogIndex as _, Prepared, ReadLimits};

const PAGE: usize = 100;

fn events() -> u64 {
    std::env::var("TIDEGATE_BENCH_EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000)
}

/// A log of so many events, of so many orgs in turns, with its index.
fn log(dir: &std::path::Path, events: u64, orgs: u64) -> Arc<Engine> {
    let options = EngineOptions {
        data_dir: dir.to_owned(),
        cache_bytes: 64 << 20,
        segment_events: 100_000,
        free_space_floor_bytes: 0,
    };
    let engine = Engine::open(options).expect("opens");
    let body = Bytes::from(format!(r#"{{"type":"order.created","data":"{}"}}"#, "x".repeat(256)));
    for from in (1..=events).step_by(1_000) {
        let unit = |n: u64| {
            let meta = EventMeta {
                id: format!("event-{n}"),
                event_type: "order.created".to_owned(),
                org: format!("org-{}", n % orgs),
                ..EventMeta::default()
            };
            let draft = Draft { meta, body: body.clone(), id_given: true, received_at: UnixMs(n), deliver_at: None };
            AppendUnit { events: vec![Prepared::new(draft).expect("prepares")], atomic: false }
        };
        engine.append((from..from + 1_000).map(unit).collect()).expect("appends");
    }
    write_index(&engine);
    engine
}

fn write_index(engine: &Engine) {
    let mut summary = Summary::default();
    let mut row = IndexRow { level: IndexLevel::Block, number: 0 };
    while row.last() <= engine.head() {
        let limits = ReadLimits { events: 2_048, bytes: usize::MAX, upto: row.last() };
        let record = build(row, &engine.read(row.first().max(Seq(1)), limits).expect("reads"));
        engine.put_row(row, &record).expect("writes");
        summary.add(&Block::read(&record).expect("reads"));
        let group = IndexRow::holding(IndexLevel::Group, row.last());
        if group.last() == row.last() {
            let record = std::mem::take(&mut summary).encode().expect("encodes");
            engine.put_row(group, &record).expect("writes");
        }
        row = row.next();
    }
}

fn pages(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut group = c.benchmark_group("cdc");
    group.throughput(Throughput::Elements(PAGE as u64));
    for orgs in [1, 100, 1_000] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let engine = log(dir.path(), events(), orgs);
        let feed =
            Feed::new(Finder::new(engine.clone(), engine.clone()), Arc::new(Tail::new(1)), &Config::default().cdc);
        let events = EventFilter { org: Some("org-0".to_owned()), ..EventFilter::default() };
        let filter = Arc::new(FeedFilter::new(events, None, None));
        // From the middle of the log, where neither end helps.
        let from = Seq(engine.head().0 / 2);
        group.bench_function(format!("a page of one org of {orgs}"), |b| {
            b.iter(|| runtime.block_on(feed.read(&filter, from, Reading::Page(PAGE))).expect("reads").events.len());
        });
    }
    group.finish();
}

criterion_group!(benches, pages);
criterion_main!(benches);
