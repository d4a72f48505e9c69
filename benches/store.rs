//! What the store costs: a durable group, and the records that go into it. `cargo bench --bench store`.
#![expect(clippy::expect_used, reason = "a bench that cannot prepare its work stops and says why")]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tidegate::event::envelope::{Draft, EventMeta};
use tidegate::ground::clock::UnixMs;
use tidegate::ground::codec;
use tidegate::ground::ids::{Seq, uuid_v7};
use tidegate::ground::random::{Random, SystemRandom};
use tidegate::store::engine::EngineOptions;
use tidegate::store::records::{RowRecord, RowState};
use tidegate::store::{AppendUnit, Engine, EventLog as _, Position, Prepared, log_record};

const NOW: UnixMs = UnixMs(1_795_248_000_123);
const BODY_BYTES: usize = 1 << 10;

/// An event of 1 KiB with an id its producer made, as a request brings it.
fn draft(random: &dyn Random) -> Draft {
    let meta = EventMeta {
        id: uuid_v7(NOW, random).to_string(),
        event_type: "order.created".to_owned(),
        org: "org-500".to_owned(),
        ordering_key: Some("order:A-1000234".to_owned()),
        ..EventMeta::default()
    };
    let body = format!(r#"{{"type":"order.created","data":"{}"}}"#, "x".repeat(BODY_BYTES - 34));
    Draft { meta, body: Bytes::from(body), id_given: true, received_at: NOW, deliver_at: None }
}

/// One durable group as the writer thread commits it, sync included, on the disk that holds the target folder: of one
/// event as a lone producer sends it, of 16 and 64 as so many connections do.
fn append(c: &mut Criterion) {
    let random = SystemRandom::shared();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let options = EngineOptions {
        data_dir: dir.path().to_owned(),
        cache_bytes: 64 << 20,
        segment_events: 100_000,
        free_space_floor_bytes: 0,
    };
    let engine = Engine::open(options).expect("opens");
    let mut group = c.benchmark_group("append");
    for events in [1, 16, 64] {
        let unit = || {
            let event = Prepared::new(draft(&*random)).expect("prepares");
            AppendUnit { events: vec![event], atomic: false }
        };
        group.throughput(Throughput::Elements(events));
        group.bench_function(format!("group of {events}"), |b| {
            b.iter_batched(
                || (0..events).map(|_| unit()).collect::<Vec<_>>(),
                |units| engine.append(units).expect("appends"),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// The log record of an event: built on the thread that took the request, read again by whoever is behind.
fn event_record(c: &mut Criterion) {
    let random = SystemRandom::shared();
    let one = draft(&*random);
    let record = Bytes::copy_from_slice(Prepared::new(one.clone()).expect("prepares").record());
    let mut group = c.benchmark_group("log record");
    group.throughput(Throughput::Bytes(record.len() as u64));
    group.bench_function("encode", |b| b.iter_batched(|| one.clone(), Prepared::new, BatchSize::SmallInput));
    group.bench_function("decode", |b| b.iter(|| log_record::decode(Seq(1), black_box(&record).clone())));
    group.finish();
}

/// What a consumer's state costs: the row of a failed delivery, and the position of a checkpoint with ten ranges.
fn state_records(c: &mut Criterion) {
    let row = RowRecord {
        state: RowState::Retry { due_at: NOW },
        attempts: 3,
        key: 0x9bb8_05fe_05fa_9785,
        epoch: NOW.0 << 20,
        first_attempt: Some(NOW),
        last_attempt: Some(NOW),
        last_error: Some("status 503".to_owned()),
        replay: None,
    };
    let ahead = (1..=10).map(|n| (Seq(1_000_000 + n * 10), Seq(1_000_005 + n * 10))).collect();
    let position = Position { cursor: Seq(1_000_000), ahead };
    let row_bytes = codec::encode(1, &row).expect("encodes");
    let position_bytes = codec::encode(1, &position).expect("encodes");
    let mut group = c.benchmark_group("row");
    group.bench_function("encode", |b| b.iter(|| codec::encode(1, black_box(&row))));
    group.bench_function("decode", |b| b.iter(|| codec::decode::<RowRecord>(1, black_box(&row_bytes))));
    group.finish();
    let mut group = c.benchmark_group("checkpoint");
    group.bench_function("encode", |b| b.iter(|| codec::encode(1, black_box(&position))));
    group.bench_function("decode", |b| b.iter(|| codec::decode::<Position>(1, black_box(&position_bytes))));
    group.finish();
}

criterion_group!(benches, append, event_record, state_records);
criterion_main!(benches);
