//! The rate cap of a job: pure, on the clock that is passed in.

use crate::ground::clock::UnixMs;

/// What a job may hand on, now and over time. Credit grows with the clock up to a fifth of a second's worth, so that
/// neither a pause nor a restart is made up for by a burst; it is spent a tenth of a second's worth at a time or more.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Events a second; none means no cap.
    rate: Option<u32>,
    /// Thousandths of an event.
    credit: u64,
    at: UnixMs,
}

impl Pace {
    /// A pace that begins with room for one event.
    #[must_use]
    pub fn new(rate: Option<u32>, now: UnixMs) -> Self {
        Self { rate, credit: 1_000, at: now }
    }

    /// Events that may be handed on now; zero means wait.
    pub fn room(&mut self, now: UnixMs) -> usize {
        let Some(rate) = self.rate else { return usize::MAX };
        let most = u64::from((rate / 5).max(1)) * 1_000;
        let gained = now.since_ms(self.at).saturating_mul(u64::from(rate));
        self.credit = self.credit.saturating_add(gained).min(most);
        self.at = now;
        if self.credit < step(rate) {
            return 0;
        }
        usize::try_from(self.credit / 1_000).unwrap_or(usize::MAX)
    }

    /// Takes note of events that were handed on.
    pub fn spend(&mut self, events: u64) {
        if self.rate.is_some() {
            self.credit = self.credit.saturating_sub(events.saturating_mul(1_000));
        }
    }

    /// Milliseconds until there is room again.
    #[must_use]
    pub fn wait_ms(&self) -> u64 {
        match self.rate {
            Some(rate) => step(rate).saturating_sub(self.credit).div_ceil(u64::from(rate.max(1))).max(1),
            None => 0,
        }
    }
}

/// The least credit that a step begins with: a tenth of a second's worth, and at least one event.
fn step(rate: u32) -> u64 {
    u64::from((rate / 10).max(1)) * 1_000
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: UnixMs = UnixMs(1_795_248_000_000);

    #[test]
    fn without_a_cap_there_is_always_room() {
        let mut pace = Pace::new(None, START);
        pace.spend(1_000_000);
        assert_eq!((pace.room(START), pace.wait_ms()), (usize::MAX, 0));
    }

    #[test]
    fn a_long_pause_is_not_made_up_for() {
        let mut pace = Pace::new(Some(100), START);
        let day = START.plus_ms(24 * 3_600_000);
        assert_eq!(pace.room(day), 20);
        pace.spend(20);
        assert_eq!(pace.room(day), 0);
        assert_eq!(pace.room(day.plus_ms(pace.wait_ms())), 10);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn over_any_time_no_more_is_handed_on_than_the_rate_and_it_is_reached(
            rate in 1_u32..5_000,
            late in prop::collection::vec(0_u64..40, 50..400),
        ) {
            let (mut pace, mut now, mut sum) = (Pace::new(Some(rate), START), START, 0_u64);
            for late_ms in &late {
                let room = pace.room(now).min(256) as u64;
                pace.spend(room);
                sum += room;
                let spent_ms = now.since_ms(START);
                prop_assert!(sum * 1_000 <= spent_ms * u64::from(rate) + u64::from((rate / 5).max(1)) * 1_000 + 1_000);
                now = now.plus_ms(pace.wait_ms() + late_ms % 3);
            }
            // A step hands on 256 events at most, so a higher rate needs more of them.
            if rate <= 1_000 {
                let owed = now.since_ms(START) * u64::from(rate) / 1_000;
                prop_assert!(sum * 10 >= owed * 8, "{sum} of {owed}");
            }
        }
    }
}
