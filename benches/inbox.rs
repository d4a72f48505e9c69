//! What one delivery costs in the inbox's machine. `cargo bench --bench inbox`.
#![expect(clippy::expect_used, reason = "a bench that cannot do its work stops and says why")]

use std::collections::VecDeque;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tidegate::ground::clock::UnixMs;
use tidegate::ground::ids::Seq;
use tidegate::inbox::state::{Claim, InboxRules, InboxState, Offered, Ordering, Settlement};
use tidegate::store::Position;

const NOW: UnixMs = UnixMs(1_795_248_000_123);
const WINDOW_EVENTS: usize = 1_000;
const EVENT_BYTES: usize = 1 << 10;
const KEYS: u64 = 100;

/// An inbox under load: its window full but for one event, its claims out.
struct Busy {
    inbox: InboxState,
    next: u64,
    out: VecDeque<Claim>,
}

impl Busy {
    fn new(ordering: Ordering) -> Self {
        let rules = InboxRules {
            ordering,
            concurrency: 64,
            window_events: WINDOW_EVENTS,
            window_bytes: WINDOW_EVENTS * EVENT_BYTES,
            parked_max: 100_000,
            lease_ms: 60_000,
        };
        let inbox = InboxState::restore(rules, Position::at(Seq::ZERO), [], 1, false);
        let mut busy = Self { inbox, next: 0, out: VecDeque::new() };
        (1..WINDOW_EVENTS).for_each(|_| busy.offer());
        busy.out.extend(busy.inbox.claim(NOW));
        busy
    }

    fn offer(&mut self) {
        self.next += 1;
        let offered = self.inbox.offer(Seq(self.next), self.next % KEYS, EVENT_BYTES);
        assert_eq!(offered, Offered::Taken);
    }

    /// The next event comes in, the oldest claim is answered, what that frees is given out.
    fn step(&mut self, settlement: Settlement) {
        self.offer();
        let Claim { seq, epoch, attempt: _ } = self.out.pop_front().expect("a claim is out");
        black_box(self.inbox.settle(seq, epoch, settlement, NOW).expect("the claim counts"));
        self.out.extend(self.inbox.claim(NOW));
    }
}

/// From offer to success with a window of 1,000, in each order: what every delivery of a consumer pays, besides sending.
fn delivered(c: &mut Criterion) {
    let mut group = c.benchmark_group("offer, claim, settle");
    group.throughput(Throughput::Elements(1));
    for (name, ordering) in [("none", Ordering::None), ("key", Ordering::Key), ("strict", Ordering::Strict)] {
        let mut busy = Busy::new(ordering);
        group.bench_function(name, |b| b.iter(|| busy.step(Settlement::Processed)));
    }
    group.finish();
}

/// The position that a full window reports when every other of its 64 claims is settled: 32 ranges ahead of the cursor.
fn position(c: &mut Criterion) {
    let mut busy = Busy::new(Ordering::None);
    for turn in 0..WINDOW_EVENTS {
        let Some(claim) = busy.out.pop_front() else { break };
        let settlement = if turn % 2 == 0 { Settlement::Deferred } else { Settlement::Processed };
        busy.inbox.settle(claim.seq, claim.epoch, settlement, NOW).expect("the claim counts");
    }
    c.bench_function("position with 32 ranges ahead", |b| b.iter(|| busy.inbox.position()));
}

criterion_group!(benches, delivered, position);
criterion_main!(benches);
