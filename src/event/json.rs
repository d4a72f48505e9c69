//! JSON as text: what the hub asks of it without building values, so that what it keeps stays byte for byte as it came.
//!
//! Everything here walks text that a JSON parser has accepted already; on other text the answers mean nothing, but
//! nothing panics. Nothing recurses, so nesting costs no stack. Two strings are the same when their decoded characters
//! are, however they are escaped; an unpaired surrogate escape is kept as itself.

mod same;
mod structure;
pub mod tree;

pub(super) use same::digest;
pub use same::same_json;
pub use structure::{StructureFault, StructureScan};

use std::borrow::Cow;
use std::ops::Range;

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
