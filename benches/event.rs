//! What one event costs on its way through the pure rules: read, matched, rendered, signed.
//! `cargo bench --bench event`.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tidegate::event::envelope::{Event, EventMeta};
use tidegate::event::filter::expression::Expression;
use tidegate::event::filter::subject::Subject;
use tidegate::event::filter::{EventFilter, TypePattern};
use tidegate::event::parse::{ParseRules, parse_event, same_json, split_array};
use tidegate::event::render;
use tidegate::ground::clock::UnixMs;
use tidegate::ground::ids::Seq;
use tidegate::ground::limits;
use tidegate::ground::random::{Random, SystemRandom};
use tidegate::router::index::SubscriptionIndex;
use tidegate::webhook::sign::SigningKey;

const NOW: UnixMs = UnixMs(1_795_248_000_123);

/// An order of about 1 KiB, as a shop would send it.
fn order() -> Bytes {
    let line = |at: u32| {
        format!(
            r#"{{"sku":"SKU-{at:05}","quantity":{},"price":{{"amount":"{at}9.90","currency":"EUR"}},"note":"left at the door"}}"#,
            at + 1
        )
    };
    let lines: Vec<_> = (0..5).map(line).collect();
    let body = format!(
        concat!(
            r#"{{"id":"0190a3c4-7b1e-7c3a-9f00-5a1b2c3d4e5f","type":"order.created","source":"shop","org":"org-500","#,
            r#""aggregate_type":"order","aggregate_id":"A-1000234","channel":"web","#,
            r#""occurred_at":"2026-11-21T08:00:00.000Z","data":{{"customer":{{"id":77123,"name":"Ada Example","#,
            r#""email":"ada@example.com"}},"lines":[{}],"total":"99.50","open":true}},"#,
            r#""metadata":{{"region":"eu-central","attempt":1}},"#,
            r#""request_context":{{"correlation_id":"7f7c0f5e-52fe-4b6f-9d2c-6f3b1f8c1a11","user_id":"u-12"}}}}"#
        ),
        lines.join(",")
    );
    Bytes::from(body)
}

fn subscriptions() -> SubscriptionIndex<u32> {
    let mut index = SubscriptionIndex::new();
    let types =
        ["order.created", "order.*", "invoice.*", "invoice.paid", "*", "order.line.*", "stock.low", "a", "b", "c"];
    for slot in 0..10_000_u32 {
        let event_type = types[slot as usize % types.len()];
        let filter = EventFilter {
            org: Some(format!("org-{}", slot / 10)),
            event_types: TypePattern::parse(event_type).into_iter().collect(),
            ..EventFilter::default()
        };
        index.insert(slot, &filter);
    }
    index
}

fn rules(random: &dyn Random) -> ParseRules<'_> {
    ParseRules { default_org: None, confined_to: None, event_bytes_max: limits::EVENT_BYTES_MAX, now: NOW, random }
}

fn parsing(c: &mut Criterion) {
    let random = SystemRandom::shared();
    let rules = rules(&*random);
    let body = order();
    let mut group = c.benchmark_group("parse");
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("order", |b| b.iter(|| parse_event(black_box(&body), &rules)));
    let spaced = Bytes::from([b" ", body.as_ref()].concat());
    group.bench_function("same_json", |b| b.iter(|| same_json(black_box(&body), black_box(&spaced))));
    group.finish();
    let mut batch = vec![b'['];
    for at in 0..1_000 {
        batch.extend_from_slice(if at == 0 { b"" } else { b"," });
        batch.extend_from_slice(&body);
    }
    batch.push(b']');
    let batch = Bytes::from(batch);
    let mut group = c.benchmark_group("split");
    group.throughput(Throughput::Bytes(batch.len() as u64));
    group.bench_function("batch of 1,000", |b| b.iter(|| split_array(black_box(&batch), 1_000)));
    group.finish();
}

fn after_parsing(c: &mut Criterion) {
    let random = SystemRandom::shared();
    let rules = rules(&*random);
    let Ok(draft) = parse_event(&order(), &rules) else { return };
    let stranger = EventMeta { org: "nobody".to_owned(), ..draft.meta.clone() };
    let stranger = Event::new(Seq(1), draft.received_at, stranger, draft.body.clone());
    let event = Event::new(Seq(1), draft.received_at, draft.meta, draft.body);
    let index = subscriptions();
    let mut matched = Vec::new();
    c.bench_function("match against 10,000 subscriptions of 1,000 orgs", |b| {
        b.iter(|| {
            matched.clear();
            index.matches(black_box(&event), &mut matched);
            matched.len()
        });
    });
    c.bench_function("match of an org without subscriptions", |b| {
        b.iter(|| {
            matched.clear();
            index.matches(black_box(&stranger), &mut matched);
            matched.len()
        });
    });
    c.bench_function("render the standard body", |b| b.iter(|| render::standard(black_box(&event))));
    c.bench_function("render the envelope", |b| b.iter(|| render::envelope(black_box(&event))));
    let Ok(key) = SigningKey::from_secret(&SigningKey::generate(&*random)) else { return };
    let body = render::standard(&event);
    c.bench_function("sign the standard body", |b| {
        b.iter(|| key.sign(&event.meta.id, NOW.0 / 1_000, black_box(&body)))
    });
}

fn expressions(c: &mut Criterion) {
    let random = SystemRandom::shared();
    let rules = rules(&*random);
    let Ok(draft) = parse_event(&order(), &rules) else { return };
    let event = Event::new(Seq(1), draft.received_at, draft.meta, draft.body);
    let mut group = c.benchmark_group("expression");
    for (name, text) in [
        ("of the envelope", "event.source == 'shop' && event.type.startsWith('order.')"),
        ("of the data", "data.customer.id > 1000 && data.total == '99.50'"),
        ("over a list", "data.lines.exists(line, line.quantity > 100)"),
    ] {
        let Ok(expression) = Expression::parse(text) else { continue };
        group.bench_function(format!("{name}, parsing included"), |b| {
            b.iter(|| expression.holds(&Subject::new(black_box(&event))))
        });
        let subject = Subject::new(&event);
        group.bench_function(name, |b| b.iter(|| expression.holds(black_box(&subject))));
    }
    group.bench_function("compiled", |b| b.iter(|| Expression::parse(black_box("data.customer.id > 100"))));
    let mut index = SubscriptionIndex::new();
    for slot in 0..1_000_u32 {
        let expression = Expression::parse(&format!("data.customer.id > {slot} && event.source == 'shop'")).ok();
        index.insert(slot, &EventFilter { org: Some(event.meta.org.clone()), expression, ..EventFilter::default() });
    }
    let mut matched = Vec::new();
    group.bench_function("1,000 of one org", |b| {
        b.iter(|| {
            matched.clear();
            index.matches(black_box(&event), &mut matched);
            matched.len()
        });
    });
    group.finish();
}

criterion_group!(benches, parsing, after_parsing, expressions);
criterion_main!(benches);
