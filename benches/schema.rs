//! What checking an event's data against its schema costs, beside reading the event at all.
//! `cargo bench --bench schema`.

#![expect(clippy::expect_used, reason = "a bench that cannot prepare its work stops and says why")]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde_json::Value;
use tidegate::bench::schema::{event, schema};
use tidegate::catalog::compat::changes;
use tidegate::catalog::record::Compatibility;
use tidegate::catalog::schema::Compiled;
use tidegate::catalog::specimen::specimen;
use tidegate::event::parse::{ParseRules, parse_event};
use tidegate::ground::clock::UnixMs;
use tidegate::ground::random::SystemRandom;

fn checks(criterion: &mut Criterion) {
    let body = Bytes::from(event(1_024).replace("@@@@@@@@@@@@", "000000000042"));
    let random = SystemRandom::shared();
    let rules = ParseRules {
        default_org: Some("acme"),
        confined_to: None,
        event_bytes_max: 1 << 20,
        now: UnixMs(1_795_248_000_123),
        random: &*random,
    };
    let draft = parse_event(&body, &rules).expect("an event");
    let span = draft.meta.data.expect("data");
    let data = &draft.body[span.start as usize..span.end as usize];
    let compiled = Compiled::new(schema()).expect("a schema");
    let value: Value = serde_json::from_slice(data).expect("JSON");
    let mut group = criterion.benchmark_group("schema");
    group.throughput(Throughput::Elements(1));
    group.bench_function("parse_event", |bencher| bencher.iter(|| parse_event(black_box(&body), &rules)));
    group.bench_function("check_20_fields", |bencher| bencher.iter(|| compiled.check(Some(black_box(data)))));
    group.bench_function("of_which_validating", |bencher| bencher.iter(|| compiled.fits(black_box(&value))));
    group.bench_function("a_refusal", |bencher| bencher.iter(|| compiled.check(Some(black_box(br#"{"number":1}"#)))));
    group.finish();

    let mut group = criterion.benchmark_group("catalog");
    group.bench_function("compile", |bencher| bencher.iter(|| Compiled::new(black_box(schema()))));
    group.bench_function("specimen", |bencher| bencher.iter(|| specimen(black_box(&compiled))));
    let mut changed = schema();
    changed["properties"]["city"]["maxLength"] = 100.into();
    group.bench_function("compare", |bencher| {
        bencher.iter(|| changes(Compatibility::Full, black_box(&schema()), black_box(&changed)))
    });
    group.finish();
}

criterion_group!(benches, checks);
criterion_main!(benches);
