//! What of a breaker is kept over a restart: its state and how many transitions it has made (BRK-3).
//!
//! Probes under way and the window are not: a restart ends every call, and the window fills again.

use serde::{Deserialize, Serialize};

use super::settings::BreakerSettings;
use super::state::{Breaker, BreakerState};
use crate::ground::codec::{self, CodecError};

/// The version of the record below.
const VERSION: u8 = 1;

#[derive(Serialize, Deserialize)]
struct BreakerRecord {
    state: BreakerState,
    generation: u64,
}

/// The breaker as bytes for the store.
///
/// # Errors
/// None that a sound program meets; see [`codec::encode`].
pub fn encode(breaker: &Breaker) -> Result<Vec<u8>, CodecError> {
    codec::encode(VERSION, &BreakerRecord { state: breaker.state().clone(), generation: breaker.generation() })
}

/// The breaker of these bytes, going by `settings`, in a generation of its own: a result of a call that began before
/// does not count.
///
/// # Errors
/// When the bytes are no breaker of this version.
pub fn decode(bytes: &[u8], settings: BreakerSettings) -> Result<Breaker, CodecError> {
    let record: BreakerRecord = codec::decode(VERSION, bytes)?;
    Ok(Breaker::restore(settings, record.state, record.generation.wrapping_add(1)))
}

#[cfg(test)]
mod tests {
    use super::super::state::{Admission, CallResult, Command};
    use super::*;
    use crate::ground::clock::UnixMs;

    const NOW: UnixMs = UnixMs(1_795_248_000_000);

    fn each_state() -> Vec<BreakerState> {
        vec![
            BreakerState::Closed { consecutive_failures: 3, times_opened: 2, since: NOW },
            BreakerState::Open { until: NOW, times_opened: 4 },
            BreakerState::HalfOpen { successes: 1, times_opened: 4 },
            BreakerState::ForcedOpen,
            BreakerState::Disabled,
        ]
    }

    #[test]
    fn version_1_lies_on_disk_as_it_always_did() {
        let lines: Vec<String> = each_state()
            .into_iter()
            .map(|state| hex::encode(encode(&Breaker::restore(BreakerSettings::default(), state, 7)).expect("encodes")))
            .collect();
        insta::assert_snapshot!(lines.join("\n"), @"
        01b77426fe000302fd008c1efda101000007
        011a2f9c6e01fd008c1efda10100000407
        0151ad05fd02010407
        0176fd08250307
        013334655f0407
        ");
    }

    #[test]
    fn every_state_survives_a_restart() {
        for state in each_state() {
            let breaker = Breaker::restore(BreakerSettings::default(), state.clone(), 7);
            let back = decode(&encode(&breaker).expect("encodes"), BreakerSettings::default()).expect("decodes");
            assert_eq!((back.state(), back.generation()), (&state, 8));
        }
    }

    #[test]
    fn a_result_from_before_the_restart_does_not_count() {
        let settings = BreakerSettings { failure_threshold: 1, ..BreakerSettings::default() };
        let mut breaker = Breaker::new(settings.clone());
        let Admission::Admitted { permit, .. } = breaker.admit(NOW) else { panic!("closed") };
        let mut back = decode(&encode(&breaker).expect("encodes"), settings).expect("decodes");
        assert_eq!(back.record(permit, CallResult::Failure, 1, NOW), None);
    }

    #[test]
    fn probes_of_before_do_not_hold_their_places() {
        let mut breaker =
            Breaker::restore(BreakerSettings::default(), BreakerState::HalfOpen { successes: 0, times_opened: 1 }, 2);
        assert!(matches!(breaker.admit(NOW), Admission::Admitted { .. }));
        assert!(matches!(breaker.admit(NOW), Admission::Refused { .. }));
        let mut back = decode(&encode(&breaker).expect("encodes"), BreakerSettings::default()).expect("decodes");
        assert!(matches!(back.admit(NOW), Admission::Admitted { .. }));
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let mut breaker = Breaker::new(BreakerSettings::default());
        breaker.command(Command::ForceOpen, NOW);
        let mut bytes = encode(&breaker).expect("encodes");
        bytes[6] ^= 1;
        assert!(decode(&bytes, BreakerSettings::default()).is_err());
    }
}
