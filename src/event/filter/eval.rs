//! Evaluating an expression: CEL's rules, with a bound on the work.
//!
//! As in CEL: `&&` and `||` have their answer as soon as one side decides it, even when the other side fails; `==` of
//! different types is false, but numbers are numbers whatever their types; arithmetic takes two of one type; integers
//! do not wrap. Every step and every 64 bytes of text looked at cost one unit of the budget; an evaluation that would
//! take more ends with [`Fault::Budget`], so that no expression and no event can hold the router up.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::program::{Field, Function, Node, Op, Walk};
use super::subject::Subject;
use super::value::{Val, order};

/// Units of work that one evaluation may take.
pub const STEPS_MAX: usize = 50_000;
/// Bytes of text that are one unit of work.
const BYTES_A_STEP: usize = 64;

/// Why an expression gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The event has not what the expression looks at.
    #[error("there is no field `{0}`")]
    NoField(Box<str>),
    /// An operator or function got values that it is not for.
    #[error("`{what}` does not take {types}")]
    Types {
        /// The operator or function.
        what: &'static str,
        /// What it got.
        types: String,
    },
    /// A list has no element there.
    #[error("the list has no element {0}")]
    NoElement(i128),
    /// A whole number would pass its range.
    #[error("`{0}` passes the range of whole numbers")]
    Overflow(&'static str),
    /// A division of whole numbers by zero.
    #[error("`{0}` by zero")]
    ByZero(&'static str),
    /// A text is no number, or a number does not fit.
    #[error("`{0}` cannot convert this value")]
    Conversion(&'static str),
    /// The evaluation took too long.
    #[error("it takes more than {STEPS_MAX} steps on this event")]
    Budget,
    /// The answer is neither true nor false.
    #[error("it gives a value of type {0}, not true or false")]
    NotBool(&'static str),
    /// The stored text does not compile with this version of the hub.
    #[error("the expression does not compile: {0}")]
    NotCompiled(String),
    /// A defect of the hub; its log has more.
    #[error("the evaluation failed")]
    Panicked,
}

type Answer<'s> = Result<Val<'s>, Fault>;

/// Whether the program holds of the subject.
pub(super) fn holds(program: &Node, subject: &Subject<'_>) -> Result<bool, Fault> {
    let mut run = Run { subject, steps: STEPS_MAX, variables: Vec::new() };
    match run.eval(program)? {
        Val::Bool(value) => Ok(value),
        other => Err(Fault::NotBool(other.kind())),
    }
}

struct Run<'s, 'a> {
    subject: &'s Subject<'a>,
    steps: usize,
    variables: Vec<Val<'s>>,
}

fn types(what: &'static str, values: &[&Val<'_>]) -> Fault {
    Fault::Types { what, types: values.iter().map(|value| value.kind()).collect::<Vec<_>>().join(" and ") }
}

fn truth(answer: Answer<'_>, what: &'static str) -> Result<bool, Fault> {
    match answer? {
        Val::Bool(value) => Ok(value),
        other => Err(types(what, &[&other])),
    }
}

impl<'s> Run<'s, '_> {
    fn pay(&mut self, steps: usize) -> Result<(), Fault> {
        self.steps = self.steps.checked_sub(steps).ok_or(Fault::Budget)?;
        Ok(())
    }

    fn pay_bytes(&mut self, bytes: usize) -> Result<(), Fault> {
        self.pay(bytes / BYTES_A_STEP)
    }

    fn eval(&mut self, node: &'s Node) -> Answer<'s> {
        self.pay(1)?;
        match node {
            Node::Const(value) => Ok(Val::from(value)),
            Node::List(nodes) => {
                let values: Vec<_> = nodes.iter().map(|node| self.eval(node)).collect::<Result<_, _>>()?;
                Ok(Val::Made(values.into()))
            }
            Node::Data => Ok(Val::from(self.subject.data())),
            Node::Envelope(field) => self.envelope(*field).ok_or_else(|| no_envelope_field(*field)),
            Node::HasEnvelope(field) => Ok(Val::Bool(self.envelope(*field).is_some())),
            Node::Variable(at) => Ok(self.variables.get(*at).cloned().unwrap_or(Val::Null)),
            Node::Select { of, field, path } => match self.eval(of)? {
                Val::Map(members) => members.get(field).map(Val::from).ok_or_else(|| Fault::NoField(path.clone())),
                _ => Err(Fault::NoField(path.clone())),
            },
            Node::Has { of, field, path } => match self.eval(of)? {
                Val::Map(members) => Ok(Val::Bool(members.get(field).is_some())),
                _ => Err(Fault::NoField(path.clone())),
            },
            Node::Index(parts) => {
                let (of, at) = (self.eval(&parts[0])?, self.eval(&parts[1])?);
                index(&of, &at)
            }
            Node::Not(of) => Ok(Val::Bool(!truth(self.eval(of), "!")?)),
            Node::Negate(of) => match self.eval(of)? {
                Val::Int(value) => value.checked_neg().map(Val::Int).ok_or(Fault::Overflow("-")),
                Val::Double(value) => Ok(Val::Double(-value)),
                other => Err(types("-", &[&other])),
            },
            Node::And(parts) => self.either(parts, false),
            Node::Or(parts) => self.either(parts, true),
            Node::If(parts) => {
                let [condition, then, otherwise] = &**parts;
                if truth(self.eval(condition), "?:")? { self.eval(then) } else { self.eval(otherwise) }
            }
            Node::Binary(op, parts) => {
                let (a, b) = (self.eval(&parts[0])?, self.eval(&parts[1])?);
                self.binary(*op, &a, &b)
            }
            Node::Call(function, args) => {
                let args: Vec<_> = args.iter().map(|arg| self.eval(arg)).collect::<Result<_, _>>()?;
                self.call(*function, &args)
            }
            Node::Matches(of, regex) => match self.eval(of)? {
                Val::Text(text) => {
                    // A pattern looks at every byte once, but at a higher price than a comparison.
                    self.pay(text.len() / 8)?;
                    Ok(Val::Bool(regex.is_match(&text)))
                }
                other => Err(types("matches", &[&other])),
            },
            Node::Walk { walk, over, condition, into } => {
                let over = self.eval(over)?;
                self.walk(*walk, &over, condition.as_deref(), into.as_deref())
            }
        }
    }

    /// `&&` and `||`: `decides` is the answer that one side is enough for.
    fn either(&mut self, parts: &'s [Node; 2], decides: bool) -> Answer<'s> {
        let what = if decides { "||" } else { "&&" };
        let left = truth(self.eval(&parts[0]), what);
        match left {
            Ok(value) if value == decides => return Ok(Val::Bool(decides)),
            Err(Fault::Budget) => return Err(Fault::Budget),
            Ok(_) | Err(_) => {}
        }
        match (left, truth(self.eval(&parts[1]), what)) {
            (_, Ok(value)) if value == decides => Ok(Val::Bool(decides)),
            (_, Err(Fault::Budget)) => Err(Fault::Budget),
            (Err(fault), _) | (_, Err(fault)) => Err(fault),
            (Ok(_), Ok(_)) => Ok(Val::Bool(!decides)),
        }
    }

    fn envelope(&self, field: Field) -> Option<Val<'s>> {
        let event = self.subject.event;
        let meta = &event.meta;
        let text = |text: &'s str| Val::Text(Cow::Borrowed(text));
        let optional = |field: &'s Option<String>| field.as_deref().map(text);
        match field {
            Field::Id => Some(text(&meta.id)),
            Field::Type => Some(text(&meta.event_type)),
            Field::Org => Some(text(&meta.org)),
            Field::Source => optional(&meta.source),
            Field::AggregateType => optional(&meta.aggregate_type),
            Field::AggregateId => optional(&meta.aggregate_id),
            Field::Channel => optional(&meta.channel),
            Field::Facility => optional(&meta.facility),
            Field::Subject => optional(&meta.subject),
            Field::OccurredAt => match &meta.occurred_at {
                Some(at) => Some(text(at)),
                None => Some(Val::Text(Cow::Owned(event.received_at.to_rfc3339()))),
            },
            Field::ReceivedAt => Some(Val::Text(Cow::Owned(event.received_at.to_rfc3339()))),
            Field::ReasonCode => optional(&meta.reason_code),
            Field::SchemaVersion => optional(&meta.schema_version),
            Field::OrderingKey => optional(&meta.ordering_key),
            Field::Traceparent => optional(&meta.traceparent),
            Field::Seq => Some(Val::UInt(event.seq.0)),
            Field::Metadata => self.subject.metadata().map(Val::from),
            Field::SourceRefs => self.subject.source_refs().map(Val::from),
            Field::RequestContext => self.subject.request_context().map(Val::from),
        }
    }

    fn binary(&mut self, op: Op, a: &Val<'s>, b: &Val<'s>) -> Answer<'s> {
        match op {
            Op::Equal => self.equal(a, b).map(Val::Bool),
            Op::NotEqual => self.equal(a, b).map(|equal| Val::Bool(!equal)),
            Op::Less => self.compare(op, a, b).map(|order| Val::Bool(order == Ordering::Less)),
            Op::LessOrEqual => self.compare(op, a, b).map(|order| Val::Bool(order != Ordering::Greater)),
            Op::Greater => self.compare(op, a, b).map(|order| Val::Bool(order == Ordering::Greater)),
            Op::GreaterOrEqual => self.compare(op, a, b).map(|order| Val::Bool(order != Ordering::Less)),
            Op::In => self.contains(b, a).map(Val::Bool),
            Op::Add => self.add(a, b),
            Op::Subtract | Op::Multiply | Op::Divide | Op::Remainder => arithmetic(op, a, b),
        }
    }

    fn equal(&mut self, a: &Val<'_>, b: &Val<'_>) -> Result<bool, Fault> {
        self.pay(1)?;
        match (a, b) {
            (Val::Null, Val::Null) => Ok(true),
            (Val::Bool(a), Val::Bool(b)) => Ok(a == b),
            (Val::Text(a), Val::Text(b)) => {
                self.pay_bytes(a.len().min(b.len()))?;
                Ok(a == b)
            }
            (Val::Map(a), Val::Map(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                for ((name, value), (other_name, other)) in a.iter().zip(b.iter()) {
                    if name != other_name || !self.equal(&Val::from(value), &Val::from(other))? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            (Val::List(_) | Val::Made(_), Val::List(_) | Val::Made(_)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                let mut at = 0;
                while let (Some(one), Some(other)) = (a.element(at), b.element(at)) {
                    if !self.equal(&one, &other)? {
                        return Ok(false);
                    }
                    at += 1;
                }
                Ok(true)
            }
            (a, b) => Ok(order(a, b) == Some(Ordering::Equal)),
        }
    }

    fn compare(&mut self, op: Op, a: &Val<'_>, b: &Val<'_>) -> Result<Ordering, Fault> {
        match (a, b) {
            (Val::Text(a), Val::Text(b)) => {
                self.pay_bytes(a.len().min(b.len()))?;
                Ok(a.cmp(b))
            }
            (Val::Bool(a), Val::Bool(b)) => Ok(a.cmp(b)),
            (a, b) => order(a, b).ok_or_else(|| types(op.sign(), &[a, b])),
        }
    }

    fn contains(&mut self, list: &Val<'_>, value: &Val<'_>) -> Result<bool, Fault> {
        match (list, value) {
            (Val::Map(members), Val::Text(name)) => Ok(members.get(name).is_some()),
            (Val::Map(_), Val::Bool(_) | Val::Int(_) | Val::UInt(_) | Val::Double(_)) => Ok(false),
            (Val::List(_) | Val::Made(_), _) => {
                let mut at = 0;
                while let Some(element) = list.element(at) {
                    if self.equal(&element, value)? {
                        return Ok(true);
                    }
                    at += 1;
                }
                Ok(false)
            }
            (list, value) => Err(types("in", &[value, list])),
        }
    }

    fn add(&mut self, a: &Val<'s>, b: &Val<'s>) -> Answer<'s> {
        match (a, b) {
            (Val::Text(a), Val::Text(b)) => {
                // Making a text costs memory too.
                self.pay((a.len() + b.len()) / 8)?;
                Ok(Val::Text(Cow::Owned([a.as_ref(), b.as_ref()].concat())))
            }
            (a, b) => arithmetic(Op::Add, a, b),
        }
    }

    fn call(&mut self, function: Function, args: &[Val<'s>]) -> Answer<'s> {
        let name = function.name();
        match (function, args) {
            (Function::Size, [Val::Text(text)]) => {
                self.pay_bytes(text.len())?;
                whole(text.chars().count())
            }
            (Function::Size, [of]) => of.len().map_or_else(|| Err(types(name, &[of])), whole),
            (Function::Contains, [Val::Text(text), Val::Text(part)]) => {
                self.pay_bytes(text.len() + part.len())?;
                Ok(Val::Bool(text.contains(part.as_ref())))
            }
            (Function::StartsWith, [Val::Text(text), Val::Text(part)]) => {
                self.pay_bytes(part.len())?;
                Ok(Val::Bool(text.starts_with(part.as_ref())))
            }
            (Function::EndsWith, [Val::Text(text), Val::Text(part)]) => {
                self.pay_bytes(part.len())?;
                Ok(Val::Bool(text.ends_with(part.as_ref())))
            }
            (Function::Int | Function::UInt | Function::Double | Function::String, [of]) => convert(function, of),
            (_, args) => Err(types(name, &args.iter().collect::<Vec<_>>())),
        }
    }

    fn walk(&mut self, walk: Walk, over: &Val<'s>, condition: Option<&'s Node>, into: Option<&'s Node>) -> Answer<'s> {
        if over.len().is_none() {
            return Err(types(walk.name(), &[over]));
        }
        let decides = walk == Walk::Exists;
        let (mut found, mut made, mut pending) = (0_usize, Vec::new(), None);
        let mut at = 0;
        while let Some(element) = over.element(at) {
            at += 1;
            self.pay(1)?;
            self.variables.push(element);
            let holds = condition.map_or(Ok(true), |condition| truth(self.eval(condition), walk.name()));
            let kept = match (walk, &holds, into) {
                (Walk::Map, Ok(true), Some(into)) => Some(self.eval(into)),
                (Walk::Filter, Ok(true), _) => self.variables.last().cloned().map(Ok),
                _ => None,
            };
            self.variables.pop();
            match (walk, holds) {
                (_, Err(Fault::Budget)) => return Err(Fault::Budget),
                (Walk::All | Walk::Exists, Ok(value)) if value == decides => return Ok(Val::Bool(decides)),
                (Walk::All | Walk::Exists, Ok(_)) => {}
                // As with `&&` and `||`, a later element may decide all the same.
                (Walk::All | Walk::Exists, Err(fault)) => pending = Some(fault),
                (Walk::ExistsOne | Walk::Filter | Walk::Map, Err(fault)) => return Err(fault),
                (Walk::ExistsOne, Ok(value)) => found += usize::from(value),
                (Walk::Filter | Walk::Map, Ok(_)) => {}
            }
            made.extend(kept.transpose()?);
        }
        match (walk, pending) {
            (_, Some(fault)) => Err(fault),
            (Walk::All | Walk::Exists, None) => Ok(Val::Bool(!decides)),
            (Walk::ExistsOne, None) => Ok(Val::Bool(found == 1)),
            (Walk::Filter | Walk::Map, None) => Ok(Val::Made(made.into())),
        }
    }
}

fn no_envelope_field(field: Field) -> Fault {
    Fault::NoField(format!("event.{}", field.name()).into())
}

fn whole<'s>(number: usize) -> Answer<'s> {
    i64::try_from(number).map(Val::Int).map_err(|_| Fault::Overflow("size"))
}

fn index<'s>(of: &Val<'s>, at: &Val<'s>) -> Answer<'s> {
    match (of, at) {
        (Val::Map(members), Val::Text(name)) => {
            members.get(name).map(Val::from).ok_or_else(|| Fault::NoField(name.as_ref().into()))
        }
        (list, at) if list.is_list() => {
            let place = match at {
                Val::Int(at) => i128::from(*at),
                Val::UInt(at) => i128::from(*at),
                Val::Double(at) if at.fract() == 0.0 => *at as i128,
                _ => return Err(types("[]", &[list, at])),
            };
            let element = usize::try_from(place).ok().and_then(|at| list.element(at));
            element.ok_or(Fault::NoElement(place))
        }
        (of, at) => Err(types("[]", &[of, at])),
    }
}

fn arithmetic<'s>(op: Op, a: &Val<'s>, b: &Val<'s>) -> Answer<'s> {
    let sign = op.sign();
    let overflow = Fault::Overflow(sign);
    match (a, b) {
        (Val::Int(_), Val::Int(0)) | (Val::UInt(_), Val::UInt(0)) if matches!(op, Op::Divide | Op::Remainder) => {
            Err(Fault::ByZero(sign))
        }
        (Val::Int(a), Val::Int(b)) => match op {
            Op::Add => a.checked_add(*b),
            Op::Subtract => a.checked_sub(*b),
            Op::Multiply => a.checked_mul(*b),
            Op::Divide => a.checked_div(*b),
            Op::Remainder => a.checked_rem(*b),
            _ => None,
        }
        .map(Val::Int)
        .ok_or(overflow),
        (Val::UInt(a), Val::UInt(b)) => match op {
            Op::Add => a.checked_add(*b),
            Op::Subtract => a.checked_sub(*b),
            Op::Multiply => a.checked_mul(*b),
            Op::Divide => a.checked_div(*b),
            Op::Remainder => a.checked_rem(*b),
            _ => None,
        }
        .map(Val::UInt)
        .ok_or(overflow),
        (Val::Double(x), Val::Double(y)) => match op {
            Op::Add => Ok(Val::Double(x + y)),
            Op::Subtract => Ok(Val::Double(x - y)),
            Op::Multiply => Ok(Val::Double(x * y)),
            Op::Divide => Ok(Val::Double(x / y)),
            _ => Err(types(sign, &[a, b])),
        },
        (a, b) => Err(types(sign, &[a, b])),
    }
}

/// 2^63, the first double past `i64`.
const I64_END: f64 = 9_223_372_036_854_775_808.0;
/// 2^64, the first double past `u64`.
const U64_END: f64 = 18_446_744_073_709_551_616.0;

fn convert<'s>(function: Function, of: &Val<'s>) -> Answer<'s> {
    let name = function.name();
    let fails = || Fault::Conversion(name);
    match (function, of) {
        (Function::Int, Val::Int(_))
        | (Function::UInt, Val::UInt(_))
        | (Function::Double, Val::Double(_))
        | (Function::String, Val::Text(_)) => Ok(of.clone()),
        (Function::Int, Val::UInt(value)) => i64::try_from(*value).map(Val::Int).map_err(|_| fails()),
        (Function::Int, Val::Double(value)) if *value > -I64_END && *value < I64_END => Ok(Val::Int(*value as i64)),
        (Function::Int, Val::Text(text)) => text.parse().map(Val::Int).map_err(|_| fails()),
        (Function::UInt, Val::Int(value)) => u64::try_from(*value).map(Val::UInt).map_err(|_| fails()),
        (Function::UInt, Val::Double(value)) if *value >= 0.0 && *value < U64_END => Ok(Val::UInt(*value as u64)),
        (Function::UInt, Val::Text(text)) => text.parse().map(Val::UInt).map_err(|_| fails()),
        (Function::Double, Val::Int(value)) => Ok(Val::Double(*value as f64)),
        (Function::Double, Val::UInt(value)) => Ok(Val::Double(*value as f64)),
        (Function::Double, Val::Text(text)) => text.parse().map(Val::Double).map_err(|_| fails()),
        (Function::String, Val::Int(value)) => Ok(Val::Text(Cow::Owned(value.to_string()))),
        (Function::String, Val::UInt(value)) => Ok(Val::Text(Cow::Owned(value.to_string()))),
        (Function::String, Val::Double(value)) => Ok(Val::Text(Cow::Owned(value.to_string()))),
        (Function::String, Val::Bool(value)) => Ok(Val::Text(Cow::Owned(value.to_string()))),
        (Function::Int | Function::UInt, Val::Double(_)) => Err(fails()),
        (_, of) => Err(types(name, &[of])),
    }
}

#[cfg(test)]
#[path = "eval_tests.rs"]
mod tests;
