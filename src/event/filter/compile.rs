//! Compiling an expression. The `cel` crate reads the text; what comes out is checked against our bounds and turned into
//! a [`Node`].
//!
//! What is offered of CEL is what can be bounded: no maps, messages, bytes, timestamps; patterns of `matches` are
//! literals, so that they are compiled once and refused here. The crate's own evaluation is not used: its work cannot be
//! bounded (`[s].map(x, x + x).map(x, x + x)…` doubles a text as often as it stands there).

use cel::common::ast::{CallExpr, Expr, LiteralValue, SelectExpr, SourceInfo, operators};
use cel::{Env, IdedExpr};
use regex::RegexBuilder;

use super::expression::Mistake;
use super::program::{Field, Function, Node, Op, Walk};
use crate::event::json::tree::Json;
use crate::ground::limits::clip;

/// Most nodes of an expression.
pub(super) const NODES_MAX: usize = 512;
/// Deepest nesting of an expression.
pub(super) const DEPTH_MAX: usize = 32;
/// Deepest nesting of walks (`all`, `exists`, …) in each other.
pub(super) const WALKS_NESTED_MAX: usize = 2;
/// Most patterns of an expression.
const PATTERNS_MAX: usize = 8;
/// Bytes that a compiled pattern may take.
const PATTERN_BYTES_MAX: usize = 256 << 10;
/// Characters kept of what the parser says.
const MESSAGE_CHARS_MAX: usize = 240;
/// Stack of the thread that compiles: the parser recurses, and a long chain such as `1+1+1+…` nests by its length.
const STACK_BYTES: usize = 16 << 20;

/// Compiles on a thread of its own, so that neither depth nor a panic of the parser reaches the caller.
pub(super) fn compile(text: &str) -> Result<Node, Mistake> {
    let text = text.to_owned();
    let thread = std::thread::Builder::new().name("filter".to_owned()).stack_size(STACK_BYTES);
    let compiled = thread.spawn(move || read(&text)).map(std::thread::JoinHandle::join);
    match compiled {
        Ok(Ok(compiled)) => compiled,
        Ok(Err(_)) => Err(Mistake::new(1, 1, "the expression cannot be read")),
        Err(error) => Err(Mistake::new(1, 1, format!("no thread to read it with: {error}"))),
    }
}

fn read(text: &str) -> Result<Node, Mistake> {
    // Without macros the parser leaves `exists` and its like as the calls that they are written as.
    let env = Env::default().with_optional_support(false);
    let depth = u16::try_from(DEPTH_MAX).unwrap_or(u16::MAX);
    let parsed = env.parser().max_recursion_depth(depth).parse_with_source_info(text);
    let (expression, source) = parsed.map_err(|errors| syntax(&errors))?;
    let mut compiler = Compiler { source: &source, text, variables: Vec::new(), nodes: 0, depth: 0, patterns: 0 };
    let node = compiler.node(&expression)?;
    match never_bool(&node) {
        Some(kind) => Err(compiler.mistake(&expression, format!("it gives {kind}, not true or false"))),
        None => Ok(node),
    }
}

/// The first complaint of the parser.
fn syntax(errors: &cel::ParseErrors) -> Mistake {
    let number = |at: isize| u32::try_from(at).unwrap_or(0).max(1);
    let first = errors.errors.iter().find(|error| error.pos.0 > 0);
    let Some(first) = first.or(errors.errors.first()) else { return Mistake::new(1, 1, "it cannot be read") };
    let message = first.msg.trim_start_matches("Syntax error: ");
    let message = if message.contains("Recursion limit") {
        format!("nested more than {DEPTH_MAX} deep")
    } else {
        clip(message, MESSAGE_CHARS_MAX).to_owned()
    };
    Mistake::new(number(first.pos.0), number(first.pos.1), message)
}

/// What a node gives that is surely no truth value.
fn never_bool(node: &Node) -> Option<&'static str> {
    match node {
        Node::Const(Json::Bool(_)) => None,
        Node::Const(_) => Some("a constant"),
        Node::List(_) => Some("a list"),
        Node::Envelope(_) => Some("a field of the envelope"),
        Node::Negate(_) => Some("a number"),
        Node::Binary(Op::Add | Op::Subtract | Op::Multiply | Op::Divide | Op::Remainder, _) => {
            Some("a number or a text")
        }
        Node::Call(Function::Size | Function::Int | Function::UInt | Function::Double, _) => Some("a number"),
        Node::Call(Function::String, _) => Some("a text"),
        Node::Walk { walk: Walk::Filter | Walk::Map, .. } => Some("a list"),
        Node::If(parts) => never_bool(&parts[1]).and(never_bool(&parts[2])),
        Node::Binary(
            Op::Equal | Op::NotEqual | Op::Less | Op::LessOrEqual | Op::Greater | Op::GreaterOrEqual | Op::In,
            _,
        )
        | Node::Call(Function::Contains | Function::StartsWith | Function::EndsWith, _)
        | Node::Walk { walk: Walk::All | Walk::Exists | Walk::ExistsOne, .. }
        | Node::Data
        | Node::Variable(_)
        | Node::Select { .. }
        | Node::HasEnvelope(_)
        | Node::Has { .. }
        | Node::Index(_)
        | Node::Not(_)
        | Node::And(_)
        | Node::Or(_)
        | Node::Matches(..) => None,
    }
}

struct Compiler<'t> {
    source: &'t SourceInfo,
    text: &'t str,
    variables: Vec<String>,
    nodes: usize,
    depth: usize,
    patterns: usize,
}

impl Compiler<'_> {
    /// A mistake at a node; the parser counts characters.
    fn mistake(&self, at: &IdedExpr, message: impl Into<String>) -> Mistake {
        let chars = self.source.offset_for(at.id).map_or(0, |(start, _)| start as usize);
        let (mut line, mut column) = (1, 1);
        for char in self.text.chars().take(chars) {
            if char == '\n' {
                (line, column) = (line + 1, 1);
            } else {
                column += 1;
            }
        }
        Mistake::new(line, column, message)
    }

    fn node(&mut self, at: &IdedExpr) -> Result<Node, Mistake> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(self.mistake(at, format!("too long: more than {NODES_MAX} values and operators")));
        }
        if self.depth == DEPTH_MAX {
            return Err(self.mistake(at, format!("nested more than {DEPTH_MAX} deep")));
        }
        self.depth += 1;
        let node = self.kind(at);
        self.depth -= 1;
        node
    }

    fn kind(&mut self, at: &IdedExpr) -> Result<Node, Mistake> {
        match &at.expr {
            Expr::Literal(literal) => self.literal(at, literal),
            Expr::Ident(name) => self.name(at, name),
            Expr::Select(select) => self.select(at, select),
            Expr::Call(call) => self.call(at, call),
            Expr::List(list) => {
                let nodes: Vec<_> = list.elements.iter().map(|element| self.node(element)).collect::<Result<_, _>>()?;
                Ok(list_of(nodes))
            }
            Expr::Map(_) | Expr::Struct(_) => Err(self.mistake(at, "maps and messages are not offered in filters")),
            Expr::Comprehension(_) | Expr::Unspecified => Err(self.mistake(at, "not offered in filters")),
        }
    }

    fn literal(&self, at: &IdedExpr, literal: &LiteralValue) -> Result<Node, Mistake> {
        Ok(Node::Const(match literal {
            LiteralValue::Boolean(value) => Json::Bool(*value.inner()),
            LiteralValue::Int(value) => Json::Int(*value.inner()),
            LiteralValue::UInt(value) => Json::UInt(*value.inner()),
            LiteralValue::Double(value) => Json::Double(*value.inner()),
            LiteralValue::String(value) => Json::Text(value.inner().to_owned().into()),
            LiteralValue::Null => Json::Null,
            LiteralValue::Bytes(_) => return Err(self.mistake(at, "bytes are not offered in filters")),
        }))
    }

    fn name(&self, at: &IdedExpr, name: &str) -> Result<Node, Mistake> {
        if let Some(variable) = self.variables.iter().rposition(|known| known == name) {
            return Ok(Node::Variable(variable));
        }
        match name {
            "data" => Ok(Node::Data),
            "event" => Err(self.mistake(at, "`event` stands with one of its fields: `event.source`")),
            _ => Err(self.mistake(at, format!("unknown name `{name}`; known are `event` and `data`"))),
        }
    }

    fn is_event(&self, at: &IdedExpr) -> bool {
        matches!(&at.expr, Expr::Ident(name) if name == "event")
    }

    fn envelope(&self, at: &IdedExpr, name: &str) -> Result<Field, Mistake> {
        Field::named(name).ok_or_else(|| {
            let names: Vec<_> = Field::ALL.iter().map(|(name, _)| *name).collect();
            self.mistake(at, format!("the envelope has no field `{name}`; it has {}", names.join(", ")))
        })
    }

    fn select(&mut self, at: &IdedExpr, select: &SelectExpr) -> Result<Node, Mistake> {
        if self.is_event(&select.operand) {
            return self.envelope(at, &select.field).map(Node::Envelope);
        }
        let of = self.node(&select.operand)?;
        let path = self.path(&of, &select.field);
        Ok(Node::Select { of: Box::new(of), field: select.field.as_str().into(), path })
    }

    fn path(&self, of: &Node, field: &str) -> Box<str> {
        let of = match of {
            Node::Data => "data",
            Node::Envelope(envelope) => return format!("event.{}.{field}", envelope.name()).into(),
            Node::Variable(variable) => self.variables.get(*variable).map_or("", String::as_str),
            Node::Select { path, .. } => path,
            Node::Const(_)
            | Node::List(_)
            | Node::HasEnvelope(_)
            | Node::Has { .. }
            | Node::Index(_)
            | Node::Not(_)
            | Node::Negate(_)
            | Node::And(_)
            | Node::Or(_)
            | Node::If(_)
            | Node::Binary(..)
            | Node::Call(..)
            | Node::Matches(..)
            | Node::Walk { .. } => "…",
        };
        format!("{of}.{field}").into()
    }

    fn call(&mut self, at: &IdedExpr, call: &CallExpr) -> Result<Node, Mistake> {
        if call.target.is_none()
            && let Some(node) = self.operator(&call.func_name, &call.args)?
        {
            return Ok(node);
        }
        match (call.func_name.as_str(), call.target.as_deref(), call.args.as_slice()) {
            ("has", None, [field]) => self.has(field),
            ("matches", Some(text), [pattern]) | ("matches", None, [text, pattern]) => self.matches(text, pattern),
            (name, Some(over), args) if Walk::named(name).is_some() => self.walk(at, name, over, args),
            (name, target, args) => {
                let given = args.len() + usize::from(target.is_some());
                let known = Function::ALL.iter().find(|(known, _, _)| *known == name);
                let Some((_, function, takes)) = known else {
                    return Err(self.mistake(at, format!("unknown function `{name}`; known are {}", functions())));
                };
                if given != *takes {
                    return Err(self.mistake(at, format!("`{name}` takes {takes} values, not {given}")));
                }
                let nodes = target.into_iter().chain(args).map(|arg| self.node(arg));
                Ok(Node::Call(*function, nodes.collect::<Result<_, _>>()?))
            }
        }
    }

    fn pair(&mut self, args: &[IdedExpr; 2]) -> Result<Box<[Node; 2]>, Mistake> {
        Ok(Box::new([self.node(&args[0])?, self.node(&args[1])?]))
    }

    /// The operator of this name, as the parser calls it; none when it is none.
    fn operator(&mut self, name: &str, args: &[IdedExpr]) -> Result<Option<Node>, Mistake> {
        let op = match (name, args) {
            (operators::CONDITIONAL, [condition, then, otherwise]) => {
                let parts = [self.node(condition)?, self.node(then)?, self.node(otherwise)?];
                return Ok(Some(Node::If(Box::new(parts))));
            }
            (operators::LOGICAL_NOT, [of]) => return Ok(Some(Node::Not(Box::new(self.node(of)?)))),
            (operators::NEGATE, [of]) => return Ok(Some(Node::Negate(Box::new(self.node(of)?)))),
            (operators::EQUALS, [_, _]) => Op::Equal,
            (operators::NOT_EQUALS, [_, _]) => Op::NotEqual,
            (operators::LESS, [_, _]) => Op::Less,
            (operators::LESS_EQUALS, [_, _]) => Op::LessOrEqual,
            (operators::GREATER, [_, _]) => Op::Greater,
            (operators::GREATER_EQUALS, [_, _]) => Op::GreaterOrEqual,
            (operators::IN, [_, _]) => Op::In,
            (operators::ADD, [_, _]) => Op::Add,
            (operators::SUBSTRACT, [_, _]) => Op::Subtract,
            (operators::MULTIPLY, [_, _]) => Op::Multiply,
            (operators::DIVIDE, [_, _]) => Op::Divide,
            (operators::MODULO, [_, _]) => Op::Remainder,
            (operators::LOGICAL_AND, args) => return self.two(args, Node::And),
            (operators::LOGICAL_OR, args) => return self.two(args, Node::Or),
            (operators::INDEX, args) => return self.two(args, Node::Index),
            _ => return Ok(None),
        };
        self.two(args, |pair| Node::Binary(op, pair))
    }

    fn two(&mut self, args: &[IdedExpr], node: impl FnOnce(Box<[Node; 2]>) -> Node) -> Result<Option<Node>, Mistake> {
        match args.first_chunk() {
            Some(args) => Ok(Some(node(self.pair(args)?))),
            None => Ok(None),
        }
    }

    fn has(&mut self, field: &IdedExpr) -> Result<Node, Mistake> {
        let Expr::Select(select) = &field.expr else {
            return Err(self.mistake(field, "`has` takes a field: `has(data.amount)`"));
        };
        if self.is_event(&select.operand) {
            return self.envelope(field, &select.field).map(Node::HasEnvelope);
        }
        let of = self.node(&select.operand)?;
        let path = self.path(&of, &select.field);
        Ok(Node::Has { of: Box::new(of), field: select.field.as_str().into(), path })
    }

    fn matches(&mut self, text: &IdedExpr, pattern: &IdedExpr) -> Result<Node, Mistake> {
        let Expr::Literal(LiteralValue::String(literal)) = &pattern.expr else {
            return Err(self.mistake(pattern, "the pattern of `matches` is a text that stands here"));
        };
        self.patterns += 1;
        if self.patterns > PATTERNS_MAX {
            return Err(self.mistake(pattern, format!("more than {PATTERNS_MAX} patterns")));
        }
        let node = self.node(text)?;
        let mut regex = RegexBuilder::new(literal.inner());
        regex.size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_BYTES_MAX);
        match regex.build() {
            Ok(regex) => Ok(Node::Matches(Box::new(node), Box::new(regex))),
            Err(regex::Error::CompiledTooBig(_)) => {
                Err(self.mistake(pattern, format!("the pattern takes more than {PATTERN_BYTES_MAX} bytes compiled")))
            }
            Err(error) => {
                // The crate draws a picture over several lines; the last one says what is wrong.
                let text = error.to_string();
                let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                Err(self.mistake(pattern, format!("not a regular expression: {last}")))
            }
        }
    }

    fn walk(&mut self, at: &IdedExpr, name: &str, over: &IdedExpr, args: &[IdedExpr]) -> Result<Node, Mistake> {
        let walk = Walk::named(name).unwrap_or(Walk::All);
        let (variable, condition, into) = match (walk, args) {
            (Walk::Map, [variable, into]) => (variable, None, Some(into)),
            (Walk::Map, [variable, condition, into]) => (variable, Some(condition), Some(into)),
            (Walk::All | Walk::Exists | Walk::ExistsOne | Walk::Filter, [variable, condition]) => {
                (variable, Some(condition), None)
            }
            (Walk::All | Walk::Exists | Walk::ExistsOne | Walk::Filter | Walk::Map, _) => {
                let takes = "takes the name of a variable and what is asked of it: `list.exists(x, x > 1)`";
                return Err(self.mistake(at, format!("`{name}` {takes}")));
            }
        };
        let variable = match &variable.expr {
            Expr::Ident(name) if name == "data" || name == "event" => {
                return Err(self.mistake(variable, format!("`{name}` has a meaning already; name the variable else")));
            }
            Expr::Ident(name) => name.clone(),
            _ => return Err(self.mistake(variable, "the name of a variable stands here")),
        };
        let over = Box::new(self.node(over)?);
        if self.variables.len() == WALKS_NESTED_MAX {
            let limit = format!("`all`, `exists` and their like nest at most {WALKS_NESTED_MAX} deep");
            return Err(self.mistake(at, limit));
        }
        self.variables.push(variable);
        let mut part =
            |part: Option<&IdedExpr>| part.map(|part| self.node(part)).transpose().map(|node| node.map(Box::new));
        let (condition, into) = (part(condition)?, part(into)?);
        self.variables.pop();
        Ok(Node::Walk { walk, over, condition, into })
    }
}

/// A list; one of constants is a constant.
fn list_of(nodes: Vec<Node>) -> Node {
    if !nodes.iter().all(|node| matches!(node, Node::Const(_))) {
        return Node::List(nodes);
    }
    let value = |node| match node {
        Node::Const(value) => Some(value),
        _ => None,
    };
    Node::Const(Json::List(nodes.into_iter().filter_map(value).collect()))
}

/// Every name that can be called.
fn functions() -> String {
    let plain = Function::ALL.iter().map(|(name, _, _)| *name);
    let walks = Walk::ALL.iter().map(|(name, _)| *name);
    plain.chain(["has", "matches"]).chain(walks).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[path = "compile_tests.rs"]
mod tests;
