//! How soon the safety net behind the notifier looks again (OUT-4): often while there is work, seldom while there is none.

use std::time::Duration;

use crate::config::OutboxSettings;

/// Whether there is work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Something is unsettled or not read yet.
    Working,
    /// Nothing is.
    Idle,
}

impl Pace {
    /// The time to the next look. A hub at work is never looked after less often than an idle one: the end of the work
    /// is seen only at the next look.
    pub(super) fn interval(self, settings: &OutboxSettings) -> Duration {
        Duration::from_millis(match self {
            Self::Working => settings.polling_interval_ms.min(settings.idle_polling_interval_ms),
            Self::Idle => settings.idle_polling_interval_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_hub_at_work_is_looked_after_every_five_seconds_and_an_idle_one_every_thirty() {
        let settings = Config::default().outbox;
        assert_eq!(Pace::Working.interval(&settings), Duration::from_secs(5));
        assert_eq!(Pace::Idle.interval(&settings), Duration::from_secs(30));
        let often_idle = OutboxSettings { idle_polling_interval_ms: 100, ..settings };
        assert_eq!(Pace::Working.interval(&often_idle), Duration::from_millis(100));
    }
}
