//! JSON as text: what the hub asks of it without building values, so that what it keeps stays byte for byte as it came.
//!
//! Everything here walks text that a JSON parser has accepted already; on other text the answers mean nothing, but
//! nothing panics. Nothing recurses, so nesting costs no stack. Two strings are the same when their decoded characters
//! are, however they are escaped; an unpaired surrogate escape is kept as itself.

pub mod tree;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::ops::Range;

use sha2::{Digest as _, Sha256};

use crate::ground::limits;

/// What a piece of JSON text is. Colons and white space are skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    OpenObject,
    CloseObject,
    OpenArray,
    CloseArray,
    Comma,
    Text { escaped: bool },
    Scalar,
}

/// The tokens of a text, one after the other.
pub(super) struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// Goes back to a token that was read already.
    pub(super) fn back_to(&mut self, at: usize) {
        self.at = at;
    }

    /// The next token and where it lies.
    #[inline(always)]
    pub(super) fn next(&mut self) -> Option<(Token, Range<usize>)> {
        loop {
            let start = self.at;
            let token = match *self.text.get(start)? {
                b' ' | b'\n' | b'\r' | b'\t' | b':' => {
                    self.at += 1;
                    continue;
                }
                b'"' => {
                    let (end, escaped) = string_end(self.text, start + 1);
                    self.at = end;
                    return Some((Token::Text { escaped }, start..end));
                }
                b'{' => Token::OpenObject,
                b'}' => Token::CloseObject,
                b'[' => Token::OpenArray,
                b']' => Token::CloseArray,
                b',' => Token::Comma,
                _ => {
                    let rest = &self.text[start..];
                    let ends = |byte: &u8| matches!(*byte, b',' | b']' | b'}' | b' ' | b'\n' | b'\r' | b'\t');
                    let len = rest.iter().position(ends).unwrap_or(rest.len());
                    self.at = start + len;
                    return Some((Token::Scalar, start..self.at));
                }
            };
            self.at += 1;
            return Some((token, start..self.at));
        }
    }

    /// Skips one value and says where it lies.
    pub(super) fn skip_value(&mut self) -> Option<Range<usize>> {
        let mut depth = 0_usize;
        let mut start = None;
        loop {
            let (token, range) = self.next()?;
            let start = *start.get_or_insert(range.start);
            match token {
                Token::OpenObject | Token::OpenArray => depth += 1,
                Token::CloseObject | Token::CloseArray => depth = depth.saturating_sub(1),
                Token::Comma | Token::Text { .. } | Token::Scalar => {}
            }
            if depth == 0 {
                return Some(start..range.end);
            }
        }
    }

    /// The characters of a string token.
    #[inline]
    pub(super) fn string(&self, range: Range<usize>, escaped: bool) -> Cow<'a, [u8]> {
        let inner = self.text.get(range.start + 1..range.end.saturating_sub(1)).unwrap_or_default();
        if escaped { Cow::Owned(unescape(inner)) } else { Cow::Borrowed(inner) }
    }
}

/// One past the closing quote of the string whose first character stands at `at`, and whether it holds an escape.
/// Looks at eight bytes at a time: strings are most of what an event is.
#[inline]
fn string_end(text: &[u8], mut at: usize) -> (usize, bool) {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = ONES << 7;
    // The lowest set bit marks the first zero byte exactly; higher ones may be wrong, and are not used.
    let zero_bytes = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    let mut escaped = false;
    while at < text.len() {
        if let Some(chunk) = text.get(at..at + 8).and_then(|chunk| <[u8; 8]>::try_from(chunk).ok()) {
            let word = u64::from_le_bytes(chunk);
            let hits = zero_bytes(word ^ (ONES * b'"' as u64)) | zero_bytes(word ^ (ONES * b'\\' as u64));
            if hits == 0 {
                at += 8;
                continue;
            }
            at += hits.trailing_zeros() as usize / 8;
        }
        match text[at] {
            b'"' => return (at + 1, escaped),
            b'\\' => {
                escaped = true;
                at += 2;
            }
            _ => at += 1,
        }
    }
    (text.len(), escaped)
}

/// The characters that the inside of a JSON string stands for, in UTF-8 (an unpaired surrogate as its three bytes).
fn unescape(inner: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let Some((&byte, tail)) = rest.split_first() {
        if byte != b'\\' {
            out.push(byte);
            rest = tail;
            continue;
        }
        let Some((&kind, tail)) = tail.split_first() else { break };
        rest = tail;
        match kind {
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'u' => {
                let Some(first) = hex4(rest) else { break };
                rest = &rest[4..];
                let second = rest.strip_prefix(b"\\u").and_then(hex4).filter(|low| (0xDC00..0xE000).contains(low));
                match second {
                    Some(low) if (0xD800..0xDC00).contains(&first) => {
                        push_code_point(&mut out, 0x1_0000 + ((first - 0xD800) << 10) + (low - 0xDC00));
                        rest = &rest[6..];
                    }
                    Some(_) | None => push_code_point(&mut out, first),
                }
            }
            other => out.push(other),
        }
    }
    out
}

fn hex4(text: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(text.get(..4)?).ok()?;
    u32::from_str_radix(digits, 16).ok()
}

fn push_code_point(out: &mut Vec<u8>, code: u32) {
    match char::from_u32(code) {
        Some(char) => out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
        None => out.extend_from_slice(&[
            0xE0 | (code >> 12) as u8,
            0x80 | (code >> 6 & 0x3F) as u8,
            0x80 | (code & 0x3F) as u8,
        ]),
    }
}

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

/// A member of an object: its name, and where its parts lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// The name, decoded.
    pub name: Cow<'a, [u8]>,
    /// The whole member, from the opening quote of its name to the end of its value.
    pub whole: Range<usize>,
    /// The value.
    pub value: Range<usize>,
}

/// The members of the JSON object `body` at its top level, in order; none when it is something else.
pub fn members(body: &[u8]) -> impl Iterator<Item = Member<'_>> {
    let mut tokens = Tokens::new(body);
    let mut open = matches!(tokens.next(), Some((Token::OpenObject, _)));
    std::iter::from_fn(move || {
        while open {
            match tokens.next() {
                Some((Token::Text { escaped }, range)) => {
                    let name = tokens.string(range.clone(), escaped);
                    let value = tokens.skip_value()?;
                    return Some(Member { name, whole: range.start..value.end, value });
                }
                Some((Token::Comma, _)) => {}
                Some((
                    Token::OpenObject | Token::CloseObject | Token::OpenArray | Token::CloseArray | Token::Scalar,
                    _,
                ))
                | None => open = false,
            }
        }
        None
    })
}

/// Whether the JSON object `body` has a member of this name at its top level, be its value `null` or not.
#[must_use]
pub fn has_member(body: &[u8], name: &str) -> bool {
    members(body).any(|member| member.name.as_ref() == name.as_bytes())
}

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
pub(super) fn digest(text: &[u8]) -> Option<[u8; 32]> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> Option<StructureFault> {
        StructureScan::default().check("data", text.as_bytes(), 8).err()
    }

    fn duplicate_at(path: &str) -> Option<StructureFault> {
        Some(StructureFault::Duplicate { path: path.to_owned() })
    }

    #[test]
    fn a_duplicate_key_is_found_at_any_depth_and_its_path_named() {
        assert_eq!(fault(r#"{"a":1,"b":2,"a":3}"#), duplicate_at("data.a"));
        assert_eq!(fault(r#"{"items":[{"x":1},{"sku":1,"sku":2}]}"#), duplicate_at("data.items[1].sku"));
        assert_eq!(fault(r#"[[],[0,{"q":{"z":{},"z":[]}}]]"#), duplicate_at("data[1][1].q.z"));
        assert_eq!(fault(r#"{"a.b":{"":1,"":2}}"#), duplicate_at(r#"data["a.b"][""]"#));
        assert_eq!(fault(r#"{"a":{"a":{"a":1}},"b":[{"a":1},{"a":1}],"c":"a"}"#), None);
    }

    #[test]
    fn an_escaped_spelling_of_a_key_is_the_same_key() {
        assert_eq!(fault(r#"{"a":1,"\u0061":2}"#), duplicate_at("data.a"));
        assert_eq!(fault(r#"{"😀":1,"\uD83D\ude00":2}"#), duplicate_at(r#"data["😀"]"#));
        assert_eq!(fault(r#"{"a/b":1,"a\/b":2}"#), duplicate_at(r#"data["a/b"]"#));
        assert_eq!(fault(r#"{"\ud83d":1,"\ud83e":2}"#), None);
        assert!(fault(r#"{"\ud83d":1,"\uD83D":2}"#).is_some());
        assert_eq!(fault(r#"{"\\":1,"\"":2,"\"\\":3}"#), None);
    }

    #[test]
    fn a_duplicate_among_many_keys_is_found() {
        let keys = |count: usize| (0..count).map(|at| format!("\"key{at}\":{at}")).collect::<Vec<_>>().join(",");
        assert_eq!(fault(&format!("{{{}}}", keys(5_000))), None);
        assert_eq!(fault(&format!("{{{},\"key77\":0}}", keys(5_000))), duplicate_at("data.key77"));
    }

    #[test]
    fn nesting_is_bounded_and_the_container_named() {
        assert_eq!(fault(&format!("{}{}", "[".repeat(8), "]".repeat(8))), None);
        let path = format!("data.a{}", "[0]".repeat(7));
        assert_eq!(
            fault(&format!("{{\"a\":{}{}}}", "[".repeat(8), "]".repeat(8))),
            Some(StructureFault::TooDeep { path })
        );
    }

    #[test]
    fn members_are_found_at_the_top_level_alone() {
        let body = br#" { "id" : "a\"}" , "data" : {"org":[1,{"x":"]"}]} , "\u006frg":null,"n":-1e5}"#;
        let names: Vec<_> = members(body).map(|m| String::from_utf8(m.name.into_owned()).expect("text")).collect();
        assert_eq!(names, ["id", "data", "org", "n"]);
        let values: Vec<_> = members(body).map(|m| String::from_utf8_lossy(&body[m.value]).into_owned()).collect();
        assert_eq!(values, [r#""a\"}""#, r#"{"org":[1,{"x":"]"}]}"#, "null", "-1e5"]);
        assert!(has_member(body, "org") && !has_member(body, "x") && !has_member(b"[\"id\"]", "id"));
        assert!(!has_member(b"", "id") && !has_member(b"{}", "id") && !has_member(b"{\"id\"", "id"));
    }

    #[test]
    fn texts_are_the_same_when_their_values_are() {
        let same = |a: &str, b: &str| same_json(a.as_bytes(), b.as_bytes());
        assert!(same(r#"{"a":1,"b":[true,null,"x"]}"#, " {\"b\": [true, null, \"\\u0078\"] ,\n\"a\":1}"));
        assert!(same(r#"[{"a":{},"b":[]}]"#, r#"[{"b":[],"a":{}}]"#));
        assert!(!same(r#"{"a":9007199254740993}"#, r#"{"a":9007199254740992}"#));
        assert!(!same("[1,2]", "[2,1]"));
        assert!(!same("[1,2]", "[12]"));
        assert!(!same("[[1],2]", "[[1,2]]"));
        assert!(!same(r#"{"a":{"b":1}}"#, r#"{"a":1,"b":{}}"#));
        assert!(!same(r#"{"a":"1"}"#, r#"{"a":1}"#));
        assert!(!same("[{}]", "[[]]"));
        assert!(!same(r#"{"a":"null"}"#, r#"{"a":null}"#));
    }
}
