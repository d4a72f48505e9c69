//! A hash whose number may be written to disk: the same text gives the same number in every life of the process, on
//! every machine, in every version. The standard library's hashers promise none of that.

use std::hash::Hasher as _;

use fnv::FnvHasher;

/// The FNV-1a hash, 64 bits, of some texts in order.
///
/// Each text is followed by the byte `0xff`, which UTF-8 never holds: `["ab", "c"]` and `["a", "bc"]` differ. Fit for
/// lanes and indexes; not for secrets, and not against somebody who wants texts to collide.
///
/// Source: <http://www.isthe.com/chongo/tech/comp/fnv/>.
#[must_use]
pub fn stable_hash(texts: &[&str]) -> u64 {
    let mut hasher = FnvHasher::default();
    for text in texts {
        hasher.write(text.as_bytes());
        hasher.write(&[0xff]);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_text_never_changes() {
        // FNV-1a of the empty text, of "a" and of "foobar", as its authors publish them, each with 0xff behind it.
        let published = |hash: u64| (hash ^ 0xff).wrapping_mul(0x0100_0000_01b3);
        assert_eq!(stable_hash(&[]), 0xcbf2_9ce4_8422_2325);
        assert_eq!(stable_hash(&[""]), published(0xcbf2_9ce4_8422_2325));
        assert_eq!(stable_hash(&["a"]), published(0xaf63_dc4c_8601_ec8c));
        assert_eq!(stable_hash(&["foobar"]), published(0x8594_4171_f739_67e8));
        // What rows on disk hold for the key "order-7" of the org "acme".
        assert_eq!(stable_hash(&["acme", "order-7"]), 0x9bb8_05fe_05fa_9785);
    }

    #[test]
    fn where_one_text_ends_makes_a_difference() {
        assert_ne!(stable_hash(&["ab", "c"]), stable_hash(&["a", "bc"]));
    }
}
