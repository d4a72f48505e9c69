//! Chance, injected: jitter and identifiers take it from here, so a test can fix it.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

/// A source of random bytes and fractions.
pub trait Random: Send + Sync + fmt::Debug + 'static {
    /// Fills `out` with random bytes fit for keys and secrets.
    fn fill(&self, out: &mut [u8]);

    /// A fraction in `[0, 1)`.
    fn fraction(&self) -> f64 {
        let mut bytes = [0_u8; 8];
        self.fill(&mut bytes);
        // 53 bits are what an f64 holds exactly.
        (u64::from_le_bytes(bytes) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Chance shared by every actor of a hub.
pub type SharedRandom = Arc<dyn Random>;

/// The thread's cryptographically secure generator.
#[derive(Debug)]
pub struct SystemRandom;

impl SystemRandom {
    /// A shared handle.
    #[must_use]
    pub fn shared() -> SharedRandom {
        Arc::new(Self)
    }
}

impl Random for SystemRandom {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's randomness")]
    fn fill(&self, out: &mut [u8]) {
        use rand::Rng as _;
        rand::rng().fill_bytes(out);
    }
}

/// A repeatable sequence for tests (splitmix64).
#[derive(Debug)]
pub struct SeededRandom(Mutex<u64>);

impl SeededRandom {
    /// The sequence of this seed.
    #[must_use]
    pub fn shared(seed: u64) -> SharedRandom {
        Arc::new(Self(Mutex::new(seed)))
    }
}

impl Random for SeededRandom {
    fn fill(&self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let mut state = self.0.lock();
            *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = *state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^= z >> 31;
            chunk.copy_from_slice(&z.to_le_bytes()[..chunk.len()]);
        }
    }
}
