//! A token bucket as the generic cell rate algorithm has it (ITU-T I.371): one number says it all, namely when the
//! bucket will be full again. Nothing has to run while nobody takes.
//!
//! - `RL-1` In any stretch of time no more go through than `burst`, plus `per_second` for each second of it.
//! - `RL-2` A refusal takes nothing and says when the next try will do.
//! - `RL-3` A clock set back keeps nobody waiting for longer than the bucket takes to fill.

use super::RateLimit;
use crate::ground::clock::UnixMs;

const NS_PER_MS: u64 = 1_000_000;

/// A bucket; full when new. The limit comes with each call, so a changed limit holds at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Nanoseconds since 1970.
    full_at_ns: u64,
}

/// What a bucket answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Whether the tokens were taken: all that were asked for, or none.
    pub allowed: bool,
    /// Tokens left.
    pub remaining: u32,
    /// When as many as were asked for can be taken next; now when they could be taken again at once.
    pub next_at: UnixMs,
    /// When the bucket is full again.
    pub full_at: UnixMs,
}

/// The numbers of a limit in nanoseconds.
struct Pace {
    /// From one token to the next.
    interval: u64,
    /// From empty to full.
    capacity: u64,
}

impl Pace {
    fn of(limit: &RateLimit) -> Self {
        let interval = ((1e9 / limit.per_second).round() as u64).max(1);
        Self { interval, capacity: interval.saturating_mul(u64::from(limit.burst)) }
    }

    fn tokens(&self, ns: u64) -> u32 {
        u32::try_from(ns / self.interval).unwrap_or(u32::MAX)
    }
}

impl Bucket {
    /// How much of the bucket is used, in nanoseconds until it is full.
    fn used(self, pace: &Pace, now_ns: u64) -> u64 {
        // Never more than all of it: a longer time means that the clock was set back, or the limit was lowered.
        self.full_at_ns.saturating_sub(now_ns).min(pace.capacity)
    }

    /// Tokens that could be taken now.
    #[must_use]
    pub fn available(self, limit: &RateLimit, now: UnixMs) -> u32 {
        let pace = Pace::of(limit);
        pace.tokens(pace.capacity - self.used(&pace, ns(now)))
    }

    /// Takes `tokens` when they are there. More than the bucket can ever hold count as all of it.
    pub fn take(&mut self, limit: &RateLimit, now: UnixMs, tokens: u32) -> Taken {
        let pace = Pace::of(limit);
        let now_ns = ns(now);
        let cost = pace.interval.saturating_mul(u64::from(tokens.min(limit.burst)));
        let used = self.used(&pace, now_ns);
        let allowed = used.saturating_add(cost) <= pace.capacity;
        let used = if allowed { used + cost } else { used };
        self.full_at_ns = now_ns.saturating_add(used);
        let wait_ns = used.saturating_add(cost).saturating_sub(pace.capacity);
        Taken {
            allowed,
            remaining: pace.tokens(pace.capacity - used),
            next_at: now.plus_ms(wait_ns.div_ceil(NS_PER_MS)),
            full_at: now.plus_ms(used.div_ceil(NS_PER_MS)),
        }
    }
}

fn ns(time: UnixMs) -> u64 {
    time.0.saturating_mul(NS_PER_MS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: UnixMs = UnixMs(1_795_248_000_000);

    fn limit(per_second: f64, burst: u32) -> RateLimit {
        RateLimit { per_second, burst }
    }

    #[test]
    fn a_full_bucket_gives_its_burst_and_then_its_rate() {
        let limit = limit(10.0, 3);
        let mut bucket = Bucket::default();
        let remaining: Vec<_> =
            (0..3).map(|_| bucket.take(&limit, START, 1)).map(|one| (one.allowed, one.remaining)).collect();
        assert_eq!(remaining, [(true, 2), (true, 1), (true, 0)]);
        let refused = bucket.take(&limit, START, 1);
        assert_eq!(
            refused,
            Taken { allowed: false, remaining: 0, next_at: START.plus_ms(100), full_at: START.plus_ms(300) }
        );
        assert!(!bucket.take(&limit, START.plus_ms(99), 1).allowed);
        assert!(bucket.take(&limit, START.plus_ms(100), 1).allowed);
        assert_eq!(bucket.available(&limit, START.plus_ms(10_000)), 3, "never more than the burst");
    }

    #[test]
    fn a_refusal_takes_nothing() {
        let limit = limit(1.0, 5);
        let mut bucket = Bucket::default();
        assert!(bucket.take(&limit, START, 3).allowed);
        for _ in 0..10 {
            assert!(!bucket.take(&limit, START, 3).allowed);
        }
        assert_eq!(bucket.take(&limit, START, 3).next_at, START.plus_ms(1_000));
        assert!(bucket.take(&limit, START, 2).allowed);
    }

    #[test]
    fn slow_rates_and_large_demands_keep_to_the_bucket() {
        let slow = limit(0.001, 1);
        let mut bucket = Bucket::default();
        assert!(bucket.take(&slow, START, 1).allowed);
        assert_eq!(bucket.take(&slow, START, 1).next_at, START.plus_ms(1_000_000));
        let mut bucket = Bucket::default();
        let all = bucket.take(&limit(1.0, 5), START, 50);
        assert!(all.allowed && all.remaining == 0, "more than it holds is all of it");
    }

    #[test]
    fn a_clock_set_back_and_a_lowered_limit_hold_nobody_for_longer_than_a_refill() {
        let fast = limit(10.0, 10);
        let mut bucket = Bucket::default();
        bucket.take(&fast, START, 10);
        let before = UnixMs(START.0 - 86_400_000);
        assert_eq!(bucket.take(&fast, before, 1).next_at, before.plus_ms(100));
        let mut bucket = Bucket::default();
        bucket.take(&limit(0.01, 100), START, 100);
        let refused = bucket.take(&fast, START, 1);
        assert_eq!((refused.allowed, refused.next_at), (false, START.plus_ms(100)), "not the hours of the old limit");
        assert!(bucket.take(&fast, refused.next_at, 1).allowed);
    }

    proptest! {
        #[test]
        fn no_stretch_of_time_lets_more_through_than_burst_and_rate(
            per_second in 0.1_f64..500.0, burst in 1_u32..50,
            steps in prop::collection::vec((0_u64..400, 1_u32..6), 1..200),
        ) {
            let limit = limit(per_second, burst);
            let mut bucket = Bucket::default();
            let (mut now, mut taken) = (START, Vec::new());
            for (pause_ms, tokens) in steps {
                now = now.plus_ms(pause_ms);
                let available = bucket.available(&limit, now);
                let answer = bucket.take(&limit, now, tokens);
                let tokens = tokens.min(burst);
                prop_assert_eq!(answer.allowed, available >= tokens);
                if answer.allowed {
                    prop_assert_eq!(answer.remaining, available - tokens);
                    taken.push((now, tokens));
                } else {
                    let mut later = bucket;
                    prop_assert!(later.take(&limit, answer.next_at, tokens).allowed, "it does at the time that was told");
                }
            }
            for (at, (from, _)) in taken.iter().enumerate() {
                let mut sum = 0_u64;
                for (then, tokens) in &taken[at..] {
                    sum += u64::from(*tokens);
                    let most = f64::from(burst) + per_second * then.since_ms(*from) as f64 / 1e3;
                    prop_assert!(sum as f64 <= most + 1e-3, "{} in {} ms", sum, then.since_ms(*from));
                }
            }
        }
    }
}
