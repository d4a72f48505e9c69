//! Time, injected. Rules take `now` as an argument; actors ask their [`Clock`].
//!
//! Due times are stored as wall-clock milliseconds. A timer is only a hint to look again, so a clock that jumps
//! makes work early or late, never lost.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMs(pub u64);

impl UnixMs {
    /// This time plus `ms` milliseconds, saturating at the end of time.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this time; zero when `earlier` is later.
    #[must_use]
    pub fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Reads an RFC 3339 time. Sub-millisecond digits are cut.
    ///
    /// # Errors
    /// When the text is no RFC 3339 time with an offset, or lies before 1970.
    pub fn parse_rfc3339(text: &str) -> Result<Self, String> {
        let stamp: jiff::Timestamp = text.parse().map_err(|error: jiff::Error| error.to_string())?;
        u64::try_from(stamp.as_millisecond()).map(Self).map_err(|_| "lies before 1970-01-01T00:00:00Z".to_owned())
    }

    /// RFC 3339 in UTC with millisecond digits, `2026-11-21T08:00:00.000Z`.
    #[must_use]
    pub fn to_rfc3339(self) -> String {
        let ms = i64::try_from(self.0).unwrap_or(i64::MAX);
        match jiff::Timestamp::from_millisecond(ms) {
            Ok(stamp) => format!("{stamp:.3}"),
            Err(_) => "9999-12-30T22:00:00.000Z".to_owned(),
        }
    }
}

/// An RFC 3339 time in UTC and to the second, `2026-11-21T08:00:00Z`; what is less than a second is cut. None for a text that is
/// no such time.
#[must_use]
pub fn utc_seconds(text: &str) -> Option<String> {
    let stamp: jiff::Timestamp = text.parse().ok()?;
    let second = i64::try_from(stamp.as_nanosecond().div_euclid(1_000_000_000)).ok()?;
    let whole = jiff::Timestamp::from_second(second).ok()?;
    Some(format!("{whole:.0}"))
}

impl fmt::Display for UnixMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_rfc3339())
    }
}

/// A future that ends when the clock has reached a time.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where the hub reads time.
pub trait Clock: Send + Sync + 'static {
    /// Wall-clock time.
    fn now(&self) -> UnixMs;
    /// Nanoseconds since an arbitrary point, never going back. For latencies only.
    fn monotonic_ns(&self) -> u64;
    /// Ends once `now()` has moved by `duration`. Cancel-safe.
    fn sleep(&self, duration: Duration) -> Sleep;
}

/// A clock shared by every actor of a hub.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    started: std::time::Instant,
}

impl SystemClock {
    /// A shared handle on the machine's clock.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    pub fn shared() -> SharedClock {
        Arc::new(Self { started: std::time::Instant::now() })
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    fn now(&self) -> UnixMs {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        UnixMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn monotonic_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// A clock that stands still until a test moves it. Sleepers wake when it has passed their time.
#[derive(Debug)]
pub struct ManualClock {
    now: Mutex<UnixMs>,
    moved: Arc<Notify>,
    me: std::sync::Weak<ManualClock>,
}

impl ManualClock {
    /// A clock standing at `now`.
    #[must_use]
    pub fn starting_at(now: UnixMs) -> Arc<Self> {
        Arc::new_cyclic(|me| Self { now: Mutex::new(now), moved: Arc::new(Notify::new()), me: me.clone() })
    }

    /// Moves the clock on and wakes every sleeper whose time has come.
    pub fn advance(&self, by: Duration) {
        {
            let mut now = self.now.lock();
            *now = now.plus_ms(u64::try_from(by.as_millis()).unwrap_or(u64::MAX));
        }
        self.moved.notify_waiters();
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UnixMs {
        *self.now.lock()
    }

    fn monotonic_ns(&self) -> u64 {
        self.now.lock().0.saturating_mul(1_000_000)
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        let until = self.now().plus_ms(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        let moved = Arc::clone(&self.moved);
        let me = self.me.clone();
        Box::pin(async move {
            loop {
                let notified = moved.notified();
                tokio::pin!(notified);
                notified.as_mut().enable();
                match me.upgrade() {
                    Some(clock) if clock.now() < until => {}
                    Some(_) | None => return,
                }
                notified.await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_survives_the_way_to_text_and_back() {
        let time = UnixMs(1_795_248_000_123);
        assert_eq!(time.to_rfc3339(), "2026-11-21T08:00:00.123Z");
        assert_eq!(UnixMs::parse_rfc3339("2026-11-21T09:00:00.123456+01:00"), Ok(time));
        assert!(UnixMs::parse_rfc3339("2026-11-21").is_err());
        assert!(UnixMs::parse_rfc3339("1969-12-31T23:59:59Z").is_err());
    }

    #[tokio::test]
    async fn a_sleeper_wakes_when_the_manual_clock_has_passed_its_time() {
        let clock = ManualClock::starting_at(UnixMs(1_000));
        let sleep = clock.sleep(Duration::from_secs(5));
        let sleeper = tokio::spawn(sleep);
        tokio::task::yield_now().await;
        clock.advance(Duration::from_secs(4));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        clock.advance(Duration::from_secs(1));
        sleeper.await.expect("the sleeper ends");
    }
}
