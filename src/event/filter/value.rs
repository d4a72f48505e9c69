//! Values while an expression is evaluated. What stands in the event or in the expression is borrowed.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::rc::Rc;

use crate::event::json::tree::{Json, Members};

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Val<'s> {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Double(f64),
    Text(Cow<'s, str>),
    List(&'s [Json<'s>]),
    Map(&'s Members<'s>),
    /// A list that the expression has made.
    Made(Rc<[Val<'s>]>),
}

impl<'s> From<&'s Json<'s>> for Val<'s> {
    fn from(json: &'s Json<'s>) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::Int(value) => Self::Int(*value),
            Json::UInt(value) => Self::UInt(*value),
            Json::Double(value) => Self::Double(*value),
            Json::Text(text) => Self::Text(Cow::Borrowed(text)),
            Json::List(items) => Self::List(items),
            Json::Map(members) => Self::Map(members),
        }
    }
}

impl<'s> Val<'s> {
    /// The name of its type, as CEL calls it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::UInt(_) => "uint",
            Self::Double(_) => "double",
            Self::Text(_) => "string",
            Self::List(_) | Self::Made(_) => "list",
            Self::Map(_) => "map",
        }
    }

    /// How many elements a list or members an object has; none for what is neither.
    pub(super) fn len(&self) -> Option<usize> {
        match self {
            Self::List(items) => Some(items.len()),
            Self::Made(items) => Some(items.len()),
            Self::Map(members) => Some(members.len()),
            Self::Null | Self::Bool(_) | Self::Int(_) | Self::UInt(_) | Self::Double(_) | Self::Text(_) => None,
        }
    }

    /// The element of a list, or the name of an object's member, at this place.
    pub(super) fn element(&self, at: usize) -> Option<Self> {
        match self {
            Self::List(items) => items.get(at).map(Self::from),
            Self::Made(items) => items.get(at).cloned(),
            Self::Map(members) => members.name(at).map(|name| Self::Text(Cow::Borrowed(name))),
            Self::Null | Self::Bool(_) | Self::Int(_) | Self::UInt(_) | Self::Double(_) | Self::Text(_) => None,
        }
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self, Self::List(_) | Self::Made(_))
    }
}

/// How two numbers stand to each other, as numbers, whatever their types; none for what is no number, and beside NaN.
pub(super) fn order(a: &Val<'_>, b: &Val<'_>) -> Option<Ordering> {
    match (a, b) {
        (Val::Int(a), Val::Int(b)) => Some(a.cmp(b)),
        (Val::UInt(a), Val::UInt(b)) => Some(a.cmp(b)),
        (Val::Double(a), Val::Double(b)) => a.partial_cmp(b),
        (Val::Int(a), Val::UInt(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Val::UInt(a), Val::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Val::Int(a), Val::Double(b)) => whole_to_double(i128::from(*a), *b),
        (Val::UInt(a), Val::Double(b)) => whole_to_double(i128::from(*a), *b),
        (Val::Double(a), Val::Int(b)) => whole_to_double(i128::from(*b), *a).map(Ordering::reverse),
        (Val::Double(a), Val::UInt(b)) => whole_to_double(i128::from(*b), *a).map(Ordering::reverse),
        _ => None,
    }
}

/// A whole number of 64 bits beside a double, without rounding either.
fn whole_to_double(whole: i128, double: f64) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    // Past 64 bits the cast holds its sign and its side: both ends of i128 lie beyond every 64-bit number.
    let floor = double.floor();
    Some(whole.cmp(&(floor as i128)).then(if double > floor { Ordering::Less } else { Ordering::Equal }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_different_types_compare_as_numbers_without_rounding() {
        let near = 9_007_199_254_740_992_f64;
        for (a, b, wanted) in [
            (Val::Int(9_007_199_254_740_993), Val::Double(near), Some(Ordering::Greater)),
            (Val::Int(9_007_199_254_740_992), Val::Double(near), Some(Ordering::Equal)),
            (Val::Int(-1), Val::UInt(u64::MAX), Some(Ordering::Less)),
            (Val::UInt(u64::MAX), Val::Double(18_446_744_073_709_551_616.0), Some(Ordering::Less)),
            (Val::Int(i64::MAX), Val::Double(f64::INFINITY), Some(Ordering::Less)),
            (Val::Int(i64::MIN), Val::Double(f64::NEG_INFINITY), Some(Ordering::Greater)),
            (Val::Int(-1), Val::Double(-0.5), Some(Ordering::Less)),
            (Val::Int(-1), Val::Double(-1.5), Some(Ordering::Greater)),
            (Val::Int(1), Val::Double(1.5), Some(Ordering::Less)),
            (Val::Int(1), Val::Double(f64::NAN), None),
        ] {
            assert_eq!(order(&a, &b), wanted, "{a:?} {b:?}");
            assert_eq!(order(&b, &a), wanted.map(Ordering::reverse), "{b:?} {a:?}");
        }
    }
}
