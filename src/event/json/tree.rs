//! JSON as values, for rules that look into the data. Texts without escapes are borrowed from the source.

use std::borrow::Cow;

use super::{Token, Tokens};

/// A JSON value.
///
/// A number without fraction and exponent is an [`Int`](Self::Int) when it fits 64 bits with a sign, else a
/// [`UInt`](Self::UInt) when it fits 64 bits without; every other number is the nearest [`Double`](Self::Double).
#[derive(Clone, Debug, PartialEq)]
pub enum Json<'a> {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number past the range of `Int`.
    UInt(u64),
    /// Any other number.
    Double(f64),
    /// A text. An unpaired surrogate is shown as U+FFFD.
    Text(Cow<'a, str>),
    /// An array.
    List(Vec<Json<'a>>),
    /// An object.
    Map(Members<'a>),
}

/// The members of an object, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Members<'a>(Vec<(Cow<'a, str>, Json<'a>)>);

impl<'a> Members<'a> {
    fn new(mut members: Vec<(Cow<'a, str>, Json<'a>)>) -> Self {
        members.sort_by(|a, b| a.0.cmp(&b.0));
        Self(members)
    }

    /// The member of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Json<'a>> {
        let at = self.0.binary_search_by(|(known, _)| known.as_ref().cmp(name)).ok()?;
        self.0.get(at).map(|(_, value)| value)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The name of the member at this place, in the order of the names.
    #[must_use]
    pub fn name(&self, at: usize) -> Option<&str> {
        self.0.get(at).map(|(name, _)| name.as_ref())
    }

    /// Every member, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Json<'a>)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value))
    }
}

/// A container being read.
enum Open<'a> {
    List(Vec<Json<'a>>),
    Map { members: Vec<(Cow<'a, str>, Json<'a>)>, key: Option<Cow<'a, str>> },
}

impl<'a> Json<'a> {
    /// The value of a text that a JSON parser has accepted. Nothing recurses.
    #[must_use]
    pub fn read(text: &'a [u8]) -> Self {
        let mut tokens = Tokens::new(text);
        let mut open: Vec<Open<'a>> = Vec::new();
        while let Some((token, range)) = tokens.next() {
            let value = match token {
                Token::OpenObject => {
                    open.push(Open::Map { members: Vec::new(), key: None });
                    continue;
                }
                Token::OpenArray => {
                    open.push(Open::List(Vec::new()));
                    continue;
                }
                Token::Comma => continue,
                Token::Text { escaped } => {
                    let text = characters(tokens.string(range, escaped));
                    if let Some(Open::Map { key: key @ None, .. }) = open.last_mut() {
                        *key = Some(text);
                        continue;
                    }
                    Self::Text(text)
                }
                Token::Scalar => scalar(text.get(range).unwrap_or_default()),
                Token::CloseObject | Token::CloseArray => match open.pop() {
                    Some(Open::List(items)) => Self::List(items),
                    Some(Open::Map { members, .. }) => Self::Map(Members::new(members)),
                    None => Self::Null,
                },
            };
            match open.last_mut() {
                None => return value,
                Some(Open::List(items)) => items.push(value),
                Some(Open::Map { members, key }) => members.extend(key.take().map(|key| (key, value))),
            }
        }
        Self::Null
    }
}

fn characters(bytes: Cow<'_, [u8]>) -> Cow<'_, str> {
    match bytes {
        Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
        Cow::Owned(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Cow::Owned(text),
            Err(error) => Cow::Owned(String::from_utf8_lossy(error.as_bytes()).into_owned()),
        },
    }
}

fn scalar<'a>(text: &[u8]) -> Json<'a> {
    match text {
        b"null" => return Json::Null,
        b"true" => return Json::Bool(true),
        b"false" => return Json::Bool(false),
        _ => {}
    }
    let Ok(text) = std::str::from_utf8(text) else { return Json::Null };
    if let Ok(int) = text.parse() {
        return Json::Int(int);
    }
    if let Ok(uint) = text.parse() {
        return Json::UInt(uint);
    }
    text.parse().map_or(Json::Null, Json::Double)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn same(ours: &Json<'_>, theirs: &Value) -> bool {
        match (ours, theirs) {
            (Json::Null, Value::Null) => true,
            (Json::Bool(ours), Value::Bool(theirs)) => ours == theirs,
            (Json::Int(ours), Value::Number(theirs)) => theirs.as_i64() == Some(*ours),
            (Json::UInt(ours), Value::Number(theirs)) => theirs.as_u64() == Some(*ours),
            (Json::Double(ours), Value::Number(theirs)) => theirs.is_f64() && theirs.as_f64() == Some(*ours),
            (Json::Text(ours), Value::String(theirs)) => ours == theirs,
            (Json::List(ours), Value::Array(theirs)) => {
                ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| same(ours, theirs))
            }
            (Json::Map(ours), Value::Object(theirs)) => {
                ours.len() == theirs.len()
                    && theirs.iter().all(|(name, value)| ours.get(name).is_some_and(|ours| same(ours, value)))
            }
            _ => false,
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-1e30..1e30_f64).prop_map(Value::from),
            "[a-z\"\\\\\u{e9}\u{1F600}\n]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec(("[a-z\\\\]{0,3}", inner), 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_value_reads_as_another_parser_reads_it(value in json(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            let text = text.expect("writes");
            prop_assert!(same(&Json::read(text.as_bytes()), &value), "{}", text);
        }
    }

    #[test]
    fn numbers_are_whole_where_they_fit_and_doubles_elsewhere() {
        let read = |text: &'static str| Json::read(text.as_bytes());
        assert_eq!(read("-9223372036854775808"), Json::Int(i64::MIN));
        assert_eq!(read("9223372036854775808"), Json::UInt(1 << 63));
        assert_eq!(read("18446744073709551616"), Json::Double(18_446_744_073_709_551_616.0));
        assert_eq!(read("1.0"), Json::Double(1.0));
        assert_eq!(read("1e2"), Json::Double(100.0));
        assert_eq!(read("-0"), Json::Int(0));
        assert_eq!(read("1e400"), Json::Double(f64::INFINITY));
    }

    #[test]
    fn what_no_utf_8_text_can_hold_is_replaced_and_other_text_panics_nowhere() {
        assert_eq!(Json::read(br#""a\ud800b""#), Json::Text("a\u{fffd}\u{fffd}\u{fffd}b".into()));
        for broken in ["", "]", "}", "{", "[", "{\"a\"", "{\"a\":", "[1,", "\"", "{]", "nul", "{1:2}", ",,"] {
            assert!(Json::read(broken.as_bytes()) == Json::read(broken.as_bytes()), "{broken}");
        }
    }
}
