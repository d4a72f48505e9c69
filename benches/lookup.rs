//! What the index of the log costs: a block's row built and probed, a group summarised.
//! `cargo bench --bench lookup`.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tidegate::event::envelope::{Event, EventMeta};
use tidegate::event::filter::TypePattern;
use tidegate::ground::clock::UnixMs;
use tidegate::ground::ids::Seq;
use tidegate::lookup::{Block, Column, Summary, Wanted, build};
use tidegate::store::{IndexLevel, IndexRow};

const ROW: IndexRow = IndexRow { level: IndexLevel::Block, number: 1_000 };

/// A block of a busy hub: 100 orgs, 20 types, 5 sources, an aggregate of its own for nearly every event.
fn events() -> Vec<Arc<Event>> {
    let event = |seq: u64| {
        let meta = EventMeta {
            id: format!("0190a3c4-7b1e-7c3a-9f00-{seq:012}"),
            event_type: format!("{}.step-{}", ["order", "invoice", "stock", "user"][(seq % 4) as usize], seq % 5),
            org: format!("org-{}", seq * 31 % 100),
            source: Some(format!("service-{}", seq % 5)),
            aggregate_type: Some(["order", "invoice", "stock", "user"][(seq % 4) as usize].to_owned()),
            aggregate_id: Some(format!("A-{}", seq * 31 % 900_001)),
            ..EventMeta::default()
        };
        Event::new(Seq(seq), UnixMs(1_795_248_000_000 + seq / 20), meta, Bytes::from_static(b"{}"))
    };
    (ROW.first().0..=ROW.last().0).map(event).collect()
}

fn lookups(c: &mut Criterion) {
    let events = events();
    let record = build(ROW, &events);
    eprintln!("a block's row: {} bytes", record.len());
    let mut group = c.benchmark_group("lookup");
    group.throughput(Throughput::Elements(events.len() as u64));
    group.bench_function("build a block", |b| b.iter(|| build(ROW, black_box(&events))));

    let org = || Wanted::default().with(Column::Org, Some("org-21"));
    let exact = TypePattern::parse("order.step-4").into_iter().collect::<Vec<_>>();
    let wanted = [
        ("an org", org()),
        ("an org that is not there", Wanted::default().with(Column::Org, Some("nobody"))),
        ("an org and a type", org().with_types(&exact)),
        ("an aggregate", org().with(Column::AggregateType, Some("order")).with(Column::AggregateId, Some("A-70000"))),
    ];
    for (name, wanted) in wanted {
        group.bench_function(format!("probe a block for {name}"), |b| {
            b.iter(|| Block::read(black_box(&record)).map(|block| block.count(&wanted)));
        });
    }
    group.bench_function("summarise 64 blocks", |b| {
        b.iter(|| {
            let mut summary = Summary::default();
            for _ in 0..64 {
                Block::read(black_box(&record)).into_iter().for_each(|block| summary.add(&block));
            }
            summary
        });
    });
    group.finish();
}

criterion_group!(benches, lookups);
criterion_main!(benches);
