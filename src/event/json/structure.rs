//! The structure of values: duplicate keys, and how deep containers lie.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::{Token, Tokens};
use crate::ground::limits;

/// What is wrong with the structure of a value, and where: `data.items[3].sku`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StructureFault {
    /// An object names the same member twice.
    Duplicate {
        /// The member.
        path: String,
    },
    /// A container lies too deep.
    TooDeep {
        /// The container.
        path: String,
    },
}

/// An open container.
enum Frame {
    /// Its keys are those from here on.
    Object { keys_from: usize },
    /// The element being read.
    Array { index: usize },
}

/// Looks through values for duplicate keys and for nesting. Its memory is one entry a key of the open objects; it is
/// kept from value to value.
#[derive(Default)]
pub struct StructureScan<'a> {
    frames: Vec<Frame>,
    keys: Vec<Cow<'a, [u8]>>,
}

/// Open containers that are made room for at once.
const USUAL_DEPTH: usize = 8;

/// Objects up to this many keys are compared key by key, larger ones by sorting.
const PAIRWISE_KEYS_MAX: usize = 16;

impl<'a> StructureScan<'a> {
    /// Looks through one value called `name`, whose containers may be nested `depth_max` deep.
    ///
    /// # Errors
    /// The first fault found.
    pub fn check(&mut self, name: &str, value: &'a [u8], depth_max: usize) -> Result<(), StructureFault> {
        if !matches!(value.first(), Some(b'{' | b'[')) {
            return Ok(());
        }
        self.frames.clear();
        self.keys.clear();
        self.frames.reserve(USUAL_DEPTH);
        self.keys.reserve(PAIRWISE_KEYS_MAX);
        let mut tokens = Tokens::new(value);
        let mut key_next = false;
        while let Some((token, range)) = tokens.next() {
            match token {
                Token::Text { escaped } if key_next => {
                    self.keys.push(tokens.string(range, escaped));
                    key_next = false;
                }
                Token::Text { .. } | Token::Scalar => {}
                Token::Comma => match self.frames.last_mut() {
                    Some(Frame::Object { .. }) => key_next = true,
                    Some(Frame::Array { index }) => *index += 1,
                    None => {}
                },
                Token::OpenObject | Token::OpenArray => {
                    if self.frames.len() == depth_max {
                        return Err(StructureFault::TooDeep { path: self.path(name, self.frames.len()) });
                    }
                    key_next = token == Token::OpenObject;
                    let keys_from = self.keys.len();
                    self.frames.push(if key_next { Frame::Object { keys_from } } else { Frame::Array { index: 0 } });
                }
                Token::CloseObject | Token::CloseArray => {
                    key_next = false;
                    if let Some(Frame::Object { keys_from }) = self.frames.pop() {
                        if let Some(key) = duplicate(&mut self.keys[keys_from..]) {
                            self.keys.truncate(keys_from);
                            let mut path = self.path(name, self.frames.len());
                            push_member(&mut path, &key);
                            return Err(StructureFault::Duplicate { path });
                        }
                        self.keys.truncate(keys_from);
                    }
                }
            }
        }
        Ok(())
    }

    /// The path to what stands in the innermost of the first `depth` open containers.
    fn path(&self, name: &str, depth: usize) -> String {
        let mut path = name.to_owned();
        let mut frames = self.frames[..depth].iter().peekable();
        while let Some(frame) = frames.next() {
            match *frame {
                Frame::Array { index } => {
                    // A String takes any text.
                    write!(path, "[{index}]").unwrap_or_default();
                }
                Frame::Object { keys_from } => {
                    // The member being read is the object's last key: the one before the next open object's first.
                    let inner = frames.clone().find_map(|frame| match frame {
                        Frame::Object { keys_from } => Some(*keys_from),
                        Frame::Array { .. } => None,
                    });
                    let end = inner.unwrap_or(self.keys.len()).max(keys_from);
                    if let Some(key) = self.keys[keys_from..end].last() {
                        push_member(&mut path, key);
                    }
                }
            }
        }
        path
    }
}

/// Characters of a key that a path repeats.
const PATH_KEY_CHARS_MAX: usize = 64;

fn push_member(path: &mut String, key: &[u8]) {
    let key = String::from_utf8_lossy(key);
    let key = limits::clip(&key, PATH_KEY_CHARS_MAX);
    let plain = !key.is_empty() && key.chars().all(|char| char.is_alphanumeric() || char == '_' || char == '-');
    // A String takes any text.
    if plain { write!(path, ".{key}") } else { write!(path, "[{key:?}]") }.unwrap_or_default();
}

/// A key that stands among `keys` twice. The order of the keys is lost.
fn duplicate<'a>(keys: &mut [Cow<'a, [u8]>]) -> Option<Cow<'a, [u8]>> {
    if keys.len() <= PAIRWISE_KEYS_MAX {
        let twice = |at: usize| keys[..at].contains(&keys[at]);
        return (1..keys.len()).find(|&at| twice(at)).map(|at| keys[at].clone());
    }
    keys.sort_unstable();
    keys.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0].clone())
}
