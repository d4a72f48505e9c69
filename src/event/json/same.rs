//! Whether two texts stand for the same value.

use sha2::{Digest as _, Sha256};

use super::{Token, Tokens};
use crate::ground::limits;

/// Whether two JSON texts stand for the same value: white space, the order of members and the spelling of strings
/// aside. Numbers are the same when their text is, so that none is rounded on the way. Texts nested deeper than an event
/// may be are the same only byte for byte.
#[must_use]
pub fn same_json(a: &[u8], b: &[u8]) -> bool {
    if a == b {
        return true;
    }
    match (digest(a), digest(b)) {
        (Some(a), Some(b)) => a == b,
        (Some(_) | None, Some(_) | None) => false,
    }
}

/// A container being digested.
struct Open {
    /// What has been read of the array, or of the object's present member.
    hash: Sha256,
    /// The object's present key.
    key: Option<Vec<u8>>,
    /// The object's members so far; none for an array.
    members: Option<Vec<(Vec<u8>, [u8; 32])>>,
}

impl Open {
    fn end_member(&mut self) {
        if let (Some(members), Some(key)) = (&mut self.members, self.key.take()) {
            members.push((key, std::mem::take(&mut self.hash).finalize().into()));
        }
    }

    fn finish(mut self) -> ([u8; 32], u8) {
        self.end_member();
        let Some(mut members) = self.members else {
            return (self.hash.finalize().into(), b'[');
        };
        members.sort_unstable();
        let mut hash = Sha256::new();
        for (key, value) in &members {
            feed(&mut hash, b'k', key);
            hash.update(value);
        }
        (hash.finalize().into(), b'{')
    }
}

fn feed(hash: &mut Sha256, tag: u8, bytes: &[u8]) {
    hash.update([tag]);
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

/// A digest of the value a JSON text stands for: one pass, memory for the keys of the open objects. None for text that
/// is nested too deep.
pub(in crate::event) fn digest(text: &[u8]) -> Option<[u8; 32]> {
    let mut root = Sha256::new();
    let mut open: Vec<Open> = Vec::new();
    let mut key_next = false;
    let mut tokens = Tokens::new(text);
    while let Some((token, range)) = tokens.next() {
        match token {
            Token::Text { escaped } if key_next => {
                key_next = false;
                if let Some(top) = open.last_mut() {
                    top.key = Some(tokens.string(range, escaped).into_owned());
                }
            }
            Token::Text { escaped } => {
                let string = tokens.string(range, escaped);
                feed(open.last_mut().map_or(&mut root, |top| &mut top.hash), b's', &string);
            }
            Token::Scalar => feed(open.last_mut().map_or(&mut root, |top| &mut top.hash), b'n', &text[range]),
            Token::Comma => {
                if let Some(top) = open.last_mut() {
                    key_next = top.members.is_some();
                    top.end_member();
                }
            }
            Token::OpenObject | Token::OpenArray => {
                if open.len() == limits::NESTING_MAX {
                    return None;
                }
                key_next = token == Token::OpenObject;
                open.push(Open { hash: Sha256::new(), key: None, members: key_next.then(Vec::new) });
            }
            Token::CloseObject | Token::CloseArray => {
                key_next = false;
                let (digest, tag) = open.pop()?.finish();
                feed(open.last_mut().map_or(&mut root, |top| &mut top.hash), tag, &digest);
            }
        }
    }
    Some(root.finalize().into())
}
