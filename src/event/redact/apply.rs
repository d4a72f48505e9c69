//! The walk over the text. Each open container knows, as bits, which rules have matched the way to it; so a rule is
//! compared once for every name on a way it may go, and nothing below a place that no rule can reach is looked at.

use std::borrow::Cow;
use std::cell::{OnceCell, RefCell};
use std::ops::Range;

use super::key::OrgKey;
use super::{MASK, RedactAction, Redactions, Root, Step};
use crate::event::json::{Token, Tokens};

/// Where a value stands in its container.
enum Place<'a> {
    Name(&'a [u8]),
    Index(usize),
}

/// An open container.
struct Frame {
    /// The rules that have matched the way to it and go on.
    live: u64,
    object: bool,
    /// The element to come.
    index: usize,
    /// Whether a member has been written.
    kept: bool,
    /// One past the last member, written or dropped.
    last_end: usize,
    /// Where the members start that were dropped before any was written.
    dropped_from: Option<usize>,
}

impl Frame {
    fn new(live: u64, object: bool) -> Self {
        Self { live, object, index: 0, kept: false, last_end: 0, dropped_from: None }
    }

    fn keep(&mut self, end: usize) {
        self.kept = true;
        self.last_end = end;
    }
}

/// The text with parts replaced. Nothing is copied before the first change.
struct Edits<'a> {
    text: &'a [u8],
    out: Vec<u8>,
    copied: usize,
}

impl<'a> Edits<'a> {
    fn new(text: &'a [u8]) -> Self {
        Self { text, out: Vec::new(), copied: 0 }
    }

    fn replace(&mut self, range: Range<usize>, with: &[u8]) {
        self.out.extend_from_slice(&self.text[self.copied..range.start]);
        self.out.extend_from_slice(with);
        self.copied = range.end;
    }

    fn finish(mut self) -> Cow<'a, [u8]> {
        if self.copied == 0 {
            return Cow::Borrowed(self.text);
        }
        self.out.extend_from_slice(&self.text[self.copied..]);
        Cow::Owned(self.out)
    }
}

impl Redactions {
    /// Of the rules `live`, those whose step at `depth` leads to `place`.
    fn leading(&self, live: u64, depth: usize, place: &Place<'_>) -> u64 {
        let mut left = live;
        let mut leading = 0;
        while left != 0 {
            let at = left.trailing_zeros();
            left &= left - 1;
            let fits = match (self.rules[at as usize].steps.get(depth), place) {
                (None, _) => false,
                (Some(Step::Any), _) => true,
                (Some(Step::Named { name, .. }), Place::Name(given)) => name.as_ref() == *given,
                (Some(Step::Named { index, .. }), Place::Index(given)) => *index == Some(*given),
            };
            leading |= u64::from(fits) << at;
        }
        leading
    }

    /// What becomes of a value that `depth` steps lead to, if one of the rules `live` ends there.
    fn action(&self, mut live: u64, depth: usize) -> Option<RedactAction> {
        let mut action = None;
        while live != 0 {
            let rule = &self.rules[live.trailing_zeros() as usize];
            live &= live - 1;
            if rule.steps.len() == depth {
                action = action.max(Some(rule.action));
            }
        }
        action
    }
}

/// The rules as they are applied to one text.
#[derive(Clone, Copy)]
struct Work<'a> {
    rules: &'a Redactions,
    org: &'a str,
    /// Made at the first hash.
    key: &'a OnceCell<OrgKey>,
    /// Where the redacted values stood, when somebody asks.
    met: Option<&'a RefCell<Vec<Range<usize>>>>,
}

impl Work<'_> {
    fn replacement(&self, action: RedactAction, value: &[u8]) -> Cow<'static, [u8]> {
        match action {
            RedactAction::Hash => Cow::Owned(self.key.get_or_init(|| self.rules.key.org(self.org)).hashed(value)),
            RedactAction::Mask => Cow::Borrowed(MASK.as_bytes()),
            RedactAction::Drop => Cow::Borrowed(b"null"),
        }
    }
}

/// Redacts an envelope.
pub(super) fn envelope<'a>(rules: &Redactions, org: &str, text: &'a [u8], live: u64) -> Cow<'a, [u8]> {
    walk(Work { rules, org, key: &OnceCell::new(), met: None }, text, live, 0)
}

/// Where what is redacted stands in an envelope. In text that is no JSON nothing is found.
pub(super) fn hidden(rules: &Redactions, text: &[u8], live: u64) -> Vec<Range<usize>> {
    let met = RefCell::default();
    let work = Work { rules, org: "", key: &OnceCell::new(), met: Some(&met) };
    // Only the places are asked for.
    edit(work, &mut Edits::new(text), live, 0).unwrap_or_default();
    met.into_inner()
}

/// Redacts a part that stands alone.
pub(super) fn part<'a>(rules: &Redactions, org: &str, root: Root, text: &'a [u8], live: u64) -> Cow<'a, [u8]> {
    let work = Work { rules, org, key: &OnceCell::new(), met: None };
    let live = rules.leading(live, 0, &Place::Name(root.name().as_bytes()));
    match (rules.action(live, 1), live) {
        (Some(action), _) => work.replacement(action, text),
        (None, 0) => Cow::Borrowed(text),
        (None, live) => walk(work, text, live, 1),
    }
}

/// Redacts a container that `base` steps lead to, by the rules `live`.
fn walk<'a>(work: Work<'_>, text: &'a [u8], live: u64, base: usize) -> Cow<'a, [u8]> {
    let mut edits = Edits::new(text);
    match edit(work, &mut edits, live, base) {
        Some(()) => edits.finish(),
        // The text broke off: rather nothing than what a rule might have meant.
        None => Cow::Borrowed(b"null"),
    }
}

/// Makes the changes; none when the text is no JSON.
fn edit(work: Work<'_>, edits: &mut Edits<'_>, live: u64, base: usize) -> Option<()> {
    let (rules, text) = (work.rules, edits.text);
    let mut tokens = Tokens::new(text);
    let mut open = Vec::new();
    match tokens.next()?.0 {
        Token::OpenObject => open.push(Frame::new(live, true)),
        Token::OpenArray => open.push(Frame::new(live, false)),
        // No rule leads into a text or a number.
        Token::Text { .. } | Token::Scalar => return Some(()),
        Token::CloseObject | Token::CloseArray | Token::Comma => return None,
    }
    while !open.is_empty() {
        let depth = base + open.len();
        let frame = open.last_mut()?;
        let (token, range) = tokens.next()?;
        let live = match (token, frame.object) {
            (Token::Comma, _) => continue,
            (Token::CloseObject | Token::CloseArray, _) => {
                if let Some(from) = frame.dropped_from {
                    edits.replace(from..frame.last_end, b"");
                }
                open.pop();
                if let Some(outer) = open.last_mut() {
                    outer.keep(range.end);
                }
                continue;
            }
            (Token::Text { escaped }, true) => {
                if let Some(from) = frame.dropped_from.take() {
                    edits.replace(from..range.start, b"");
                }
                rules.leading(frame.live, depth - 1, &Place::Name(&tokens.string(range.clone(), escaped)))
            }
            (Token::OpenObject | Token::OpenArray | Token::Scalar, true) => return None,
            (Token::OpenObject | Token::OpenArray | Token::Scalar | Token::Text { .. }, false) => {
                tokens.back_to(range.start);
                frame.index += 1;
                rules.leading(frame.live, depth - 1, &Place::Index(frame.index - 1))
            }
        };
        if let Some(action) = rules.action(live, depth) {
            let value = tokens.skip_value()?;
            if let Some(met) = work.met {
                met.borrow_mut().push(value.clone());
                frame.keep(value.end);
                continue;
            }
            if action == RedactAction::Drop && frame.object {
                drop_member(edits, frame, range.start, value.end);
            } else {
                edits.replace(value.clone(), &work.replacement(action, &text[value.clone()]));
                frame.keep(value.end);
            }
            continue;
        }
        if live == 0 {
            frame.keep(tokens.skip_value()?.end);
            continue;
        }
        match tokens.next()? {
            (Token::OpenObject, _) => open.push(Frame::new(live, true)),
            (Token::OpenArray, _) => open.push(Frame::new(live, false)),
            (Token::Text { .. } | Token::Scalar, range) => frame.keep(range.end),
            (Token::CloseObject | Token::CloseArray | Token::Comma, _) => return None,
        }
    }
    Some(())
}

/// Takes a member out, with the comma before it, or the one behind it when it is the first that stays.
fn drop_member(edits: &mut Edits<'_>, frame: &mut Frame, start: usize, end: usize) {
    if frame.kept {
        edits.replace(frame.last_end..end, b"");
    } else {
        frame.dropped_from = Some(start);
    }
    frame.last_end = end;
}
