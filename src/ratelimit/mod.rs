//! Token buckets (BRK-5): how many a second, and how many at once.
//!
//! - [`Rate`]: what was asked for: numbers or a preset
//! - [`Bucket`]: what is left of it, on the hub's clock (the generic cell rate algorithm of `governor`)
//!
//! A bucket is full when it is made: a restart gives everyone a fresh one. What comes of a refusal is the caller's: a
//! producer is told when to come back, a delivery waits.

mod rate;

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock as TimeSource, Reference as _};
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use crate::ground::clock::SharedClock;

pub use rate::{BURST_MAX, PER_SECOND_MAX, PER_SECOND_MIN, Rate};

/// The hub's monotonic clock, as `governor` asks for it.
#[derive(Clone)]
struct HubTime(SharedClock);

impl TimeSource for HubTime {
    type Instant = Duration;

    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.monotonic_ns())
    }
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, HubTime, StateInformationMiddleware>;

/// What became of a wish for tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// They were there.
    Yes {
        /// Tokens left.
        left: u32,
    },
    /// They were not; nothing was taken.
    No {
        /// Until as many have come in, if nobody else takes them.
        wait: Duration,
    },
}

/// A bucket of tokens. Shared by reference; taking from it needs no lock.
pub struct Bucket {
    rate: Rate,
    burst: NonZeroU32,
    clock: HubTime,
    limiter: Limiter,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket").field("rate", &self.rate).finish_non_exhaustive()
    }
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn new(rate: Rate, clock: SharedClock) -> Self {
        let burst = NonZeroU32::new(rate.burst).unwrap_or(NonZeroU32::MIN);
        // The bounds of a rate keep the period between one nanosecond and the length of a day.
        let period = Duration::from_secs_f64(1.0 / rate.per_second.clamp(PER_SECOND_MIN, PER_SECOND_MAX));
        let quota = Quota::with_period(period).unwrap_or(Quota::per_second(burst)).allow_burst(burst);
        let clock = HubTime(clock);
        let limiter = RateLimiter::direct_with_clock(quota, clock.clone()).with_middleware();
        Self { rate, burst, clock, limiter }
    }

    /// Its rate.
    #[must_use]
    pub fn rate(&self) -> &Rate {
        &self.rate
    }

    /// Takes `count` tokens, or none. What is larger than the whole bucket takes the whole bucket.
    pub fn take(&self, count: u32) -> Taken {
        let count = NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN).min(self.burst);
        match self.limiter.check_n(count) {
            Ok(Ok(state)) => Taken::Yes { left: state.remaining_burst_capacity() },
            Ok(Err(not_until)) => {
                let now = self.clock.now();
                Taken::No { wait: not_until.earliest_possible().duration_since(now).into() }
            }
            // `count` is at most the capacity.
            Err(_) => Taken::No { wait: Duration::from_secs_f64(f64::from(self.burst.get()) / self.rate.per_second) },
        }
    }

    /// How long it takes until the bucket is full again when it holds `left` tokens.
    #[must_use]
    pub fn full_after(&self, left: u32) -> Duration {
        let missing = f64::from(self.burst.get().saturating_sub(left));
        Duration::from_secs_f64(missing / self.rate.per_second.clamp(PER_SECOND_MIN, PER_SECOND_MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ground::clock::{ManualClock, UnixMs};

    fn bucket(per_second: f64, burst: u32) -> (std::sync::Arc<ManualClock>, Bucket) {
        let clock = ManualClock::starting_at(UnixMs(1_000_000));
        let bucket = Bucket::new(Rate { per_second, burst }, clock.clone());
        (clock, bucket)
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let (clock, bucket) = bucket(10.0, 3);
        assert_eq!([bucket.take(1), bucket.take(1)], [Taken::Yes { left: 2 }, Taken::Yes { left: 1 }]);
        assert_eq!(bucket.take(1), Taken::Yes { left: 0 });
        assert_eq!(bucket.take(1), Taken::No { wait: Duration::from_millis(100) });
        clock.advance(Duration::from_millis(60));
        assert_eq!(bucket.take(1), Taken::No { wait: Duration::from_millis(40) });
        clock.advance(Duration::from_millis(40));
        assert_eq!(bucket.take(1), Taken::Yes { left: 0 });
        clock.advance(Duration::from_secs(3_600));
        assert_eq!(bucket.take(2), Taken::Yes { left: 1 }, "never more than its burst");
        assert_eq!(bucket.full_after(1), Duration::from_millis(200));
    }

    #[test]
    fn what_is_larger_than_the_bucket_takes_all_of_it_and_a_refusal_takes_nothing() {
        let (clock, bucket) = bucket(0.5, 4);
        assert_eq!(bucket.take(1_000), Taken::Yes { left: 0 });
        assert_eq!(bucket.take(1_000), Taken::No { wait: Duration::from_secs(8) });
        clock.advance(Duration::from_secs(2));
        assert_eq!(bucket.take(2), Taken::No { wait: Duration::from_secs(2) });
        assert_eq!(bucket.take(1), Taken::Yes { left: 0 });
    }

    proptest! {
        #[test]
        fn over_any_stretch_no_more_passes_than_burst_and_rate_allow(
            burst in 1_u32..50, per_second in 1_u32..1_000, steps in prop::collection::vec((0_u64..500, 1_u32..20), 1..200)
        ) {
            let (clock, bucket) = bucket(f64::from(per_second), burst);
            let (mut passed, mut ms) = (0_u64, 0_u64);
            for (pause_ms, count) in steps {
                clock.advance(Duration::from_millis(pause_ms));
                ms += pause_ms;
                if let Taken::Yes { .. } = bucket.take(count) {
                    passed += u64::from(count.min(burst));
                }
                let allowed = u64::from(burst) + ms * u64::from(per_second) / 1_000 + 1;
                prop_assert!(passed <= allowed, "{passed} passed, {allowed} allowed after {ms} ms");
            }
        }
    }
}
