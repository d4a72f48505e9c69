//! An expression after compiling: what is left to do when an event comes.

use regex::Regex;

use crate::event::json::tree::Json;

/// A field of the envelope that expressions may name: `event.NAME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Id,
    Type,
    Org,
    Source,
    AggregateType,
    AggregateId,
    Channel,
    Facility,
    Subject,
    OccurredAt,
    ReceivedAt,
    ReasonCode,
    SchemaVersion,
    OrderingKey,
    Traceparent,
    Seq,
    Metadata,
    SourceRefs,
    RequestContext,
}

impl Field {
    pub(super) const ALL: [(&'static str, Self); 19] = [
        ("id", Self::Id),
        ("type", Self::Type),
        ("org", Self::Org),
        ("source", Self::Source),
        ("aggregate_type", Self::AggregateType),
        ("aggregate_id", Self::AggregateId),
        ("channel", Self::Channel),
        ("facility", Self::Facility),
        ("subject", Self::Subject),
        ("occurred_at", Self::OccurredAt),
        ("received_at", Self::ReceivedAt),
        ("reason_code", Self::ReasonCode),
        ("schema_version", Self::SchemaVersion),
        ("ordering_key", Self::OrderingKey),
        ("traceparent", Self::Traceparent),
        ("seq", Self::Seq),
        ("metadata", Self::Metadata),
        ("source_refs", Self::SourceRefs),
        ("request_context", Self::RequestContext),
    ];

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, field)| *field)
    }

    pub(super) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, field)| *field == self).map_or("", |(name, _)| name)
    }
}

/// An operator on two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

impl Op {
    pub(super) fn sign(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::In => "in",
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Remainder => "%",
        }
    }
}

/// A function. The receiver of a method is its first argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Size,
    Contains,
    StartsWith,
    EndsWith,
    Int,
    UInt,
    Double,
    String,
}

impl Function {
    pub(super) const ALL: [(&'static str, Self, usize); 8] = [
        ("size", Self::Size, 1),
        ("contains", Self::Contains, 2),
        ("startsWith", Self::StartsWith, 2),
        ("endsWith", Self::EndsWith, 2),
        ("int", Self::Int, 1),
        ("uint", Self::UInt, 1),
        ("double", Self::Double, 1),
        ("string", Self::String, 1),
    ];

    pub(super) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, function, _)| *function == self).map_or("", |(name, _, _)| name)
    }
}

/// A walk over the elements of a list, or the names of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Walk {
    All,
    Exists,
    ExistsOne,
    Filter,
    Map,
}

impl Walk {
    pub(super) const ALL: [(&'static str, Self); 6] = [
        ("all", Self::All),
        ("exists", Self::Exists),
        ("exists_one", Self::ExistsOne),
        ("existsOne", Self::ExistsOne),
        ("filter", Self::Filter),
        ("map", Self::Map),
    ];

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, walk)| *walk)
    }

    pub(super) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, walk)| *walk == self).map_or("", |(name, _)| name)
    }
}

/// A step of a program.
#[derive(Debug)]
pub(super) enum Node {
    Const(Json<'static>),
    List(Vec<Node>),
    Data,
    Envelope(Field),
    /// The variable of the walk at this depth, from the outside.
    Variable(usize),
    /// `path` is the field as the author wrote it, for the reason.
    Select {
        of: Box<Node>,
        field: Box<str>,
        path: Box<str>,
    },
    HasEnvelope(Field),
    Has {
        of: Box<Node>,
        field: Box<str>,
        path: Box<str>,
    },
    Index(Box<[Node; 2]>),
    Not(Box<Node>),
    Negate(Box<Node>),
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    If(Box<[Node; 3]>),
    Binary(Op, Box<[Node; 2]>),
    Call(Function, Vec<Node>),
    Matches(Box<Node>, Box<Regex>),
    Walk {
        walk: Walk,
        over: Box<Node>,
        /// What must hold of an element; of `map`, which elements are taken.
        condition: Option<Box<Node>>,
        /// What `map` makes of an element.
        into: Option<Box<Node>>,
    },
}
