//! Tokens: the name of one claim, as its client holds it. Opaque, and good for the consumer it was made for alone: the
//! code at its end is an HMAC under a key that lives as long as the process.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use crate::ground::clock::UnixMs;
use crate::ground::ids::{ConsumerId, Epoch, Seq};
use crate::ground::random::Random;
use crate::inbox::messages::ClaimName;

const VERSION: u8 = 1;
/// Version, position, epoch, time.
const BODY_BYTES: usize = 1 + 8 + 8 + 8;
const CODE_BYTES: usize = 12;
/// Characters of a token.
pub const TOKEN_CHARS: usize = 50;

/// What a text stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// A claim of this consumer.
    Claim(ClaimName),
    /// A token of another consumer, of another life of the hub, or one that was changed.
    Foreign,
}

/// Makes and reads the tokens of one life of the hub.
#[derive(Clone)]
pub struct TokenKey(Hmac<Sha256>);

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey(***)")
    }
}

impl TokenKey {
    /// A new key.
    #[must_use]
    pub fn generate(random: &dyn Random) -> Self {
        let mut key = zeroize::Zeroizing::new([0_u8; 32]);
        random.fill(key.as_mut_slice());
        #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
        Self(Hmac::new_from_slice(key.as_slice()).expect("any length"))
    }

    fn code(&self, consumer: &ConsumerId, body: &[u8]) -> [u8; CODE_BYTES] {
        let mut mac = self.0.clone();
        mac.update(consumer.as_str().as_bytes());
        // No text in UTF-8 holds this byte, so that the end of the name is where it is.
        mac.update(&[0xff]);
        mac.update(body);
        let mut code = [0; CODE_BYTES];
        code.copy_from_slice(&mac.finalize().into_bytes()[..CODE_BYTES]);
        code
    }

    /// The token of a claim.
    #[must_use]
    pub fn token(&self, consumer: &ConsumerId, claim: ClaimName) -> String {
        let ClaimName { seq, epoch, claimed_at } = claim;
        let mut bytes = [0_u8; BODY_BYTES + CODE_BYTES];
        bytes[0] = VERSION;
        bytes[1..9].copy_from_slice(&seq.0.to_be_bytes());
        bytes[9..17].copy_from_slice(&epoch.0.to_be_bytes());
        bytes[17..25].copy_from_slice(&claimed_at.0.to_be_bytes());
        let code = self.code(consumer, &bytes[..BODY_BYTES]);
        bytes[BODY_BYTES..].copy_from_slice(&code);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a token; none when it never was one.
    #[must_use]
    pub fn read(&self, consumer: &ConsumerId, text: &str) -> Option<Token> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (body, code) = bytes.split_at_checked(BODY_BYTES)?;
        if body[0] != VERSION || code.len() != CODE_BYTES {
            return None;
        }
        if !bool::from(self.code(consumer, body).ct_eq(code)) {
            return Some(Token::Foreign);
        }
        let number = |at: usize| body[at..at + 8].iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        Some(Token::Claim(ClaimName { seq: Seq(number(1)), epoch: Epoch(number(9)), claimed_at: UnixMs(number(17)) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::random::SeededRandom;

    const CLAIM: ClaimName = ClaimName { seq: Seq(7), epoch: Epoch(1 << 61), claimed_at: UnixMs(1_795_248_000_123) };

    #[test]
    fn a_token_is_read_by_its_consumer_alone_and_with_no_character_changed() {
        let (a, b) = (ConsumerId::new("con_a"), ConsumerId::new("con_b"));
        let key = TokenKey::generate(&*SeededRandom::shared(1));
        let token = key.token(&a, CLAIM);
        assert_eq!(token.len(), TOKEN_CHARS);
        assert_eq!(key.read(&a, &token), Some(Token::Claim(CLAIM)));
        assert_eq!(key.read(&b, &token), Some(Token::Foreign));
        assert_eq!(TokenKey::generate(&*SeededRandom::shared(2)).read(&a, &token), Some(Token::Foreign));
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'B' { b'C' } else { b'B' };
            let read = key.read(&a, &String::from_utf8(changed).expect("ASCII"));
            assert!(matches!(read, None | Some(Token::Foreign)), "character {at} was changed unseen");
        }
        for text in ["", "x", "not a token at all", &token[1..], &format!("{token}AAAA")] {
            assert_eq!(key.read(&a, text), None, "{text}");
        }
    }
}
