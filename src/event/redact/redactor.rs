//! Redaction at the ways out: whoever shows an event, or keeps what others say of one, asks a [`Redactor`].

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::{Audience, Redactions};
use crate::event::envelope::Event;
use crate::event::json::{Token, Tokens};

/// Where the redactions of types come from.
pub trait RedactionSource: Send + Sync {
    /// The redactions of events of this org and type; none when nothing of them is redacted. Asked on hot paths.
    fn redactions(&self, org: &str, event_type: &str) -> Option<Arc<Redactions>>;
}

/// What stands in place of a text that repeats what is redacted.
pub const WITHHELD: &str = "withheld: it repeats what is redacted";
/// What stands in place of an answer to an event of which something is redacted.
pub const ANSWER_WITHHELD: &str = "withheld: events of this type are redacted";

/// Shows events as an audience may see them. Cheap to clone.
#[derive(Clone, Default)]
pub struct Redactor(Option<Arc<dyn RedactionSource>>);

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Redactor").field(&self.0.is_some()).finish()
    }
}

impl Redactor {
    /// One that asks this source.
    #[must_use]
    pub fn new(source: Arc<dyn RedactionSource>) -> Self {
        Self(Some(source))
    }

    /// One that redacts nothing: for programs that were given redacted events.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// The redactions of a type that this audience meets.
    fn rules(&self, org: &str, event_type: &str, audience: Audience) -> Option<Arc<Redactions>> {
        self.0.as_ref()?.redactions(org, event_type).filter(|rules| rules.touch(audience))
    }

    /// Whether something of events of this type is redacted for this audience.
    #[must_use]
    pub fn touches(&self, org: &str, event_type: &str, audience: Audience) -> bool {
        self.rules(org, event_type, audience).is_some()
    }

    /// The event as this audience may see it; the same `Arc` when that is all of it.
    #[must_use]
    pub fn shown(&self, event: &Arc<Event>, audience: Audience) -> Arc<Event> {
        match self.rules(&event.meta.org, &event.meta.event_type, audience) {
            Some(rules) => rules.event(event, audience),
            None => Arc::clone(event),
        }
    }

    /// An envelope that is kept as text, as this audience may see it.
    #[must_use]
    pub fn envelope<'a>(&self, org: &str, event_type: &str, envelope: &'a [u8], audience: Audience) -> Cow<'a, [u8]> {
        match self.rules(org, event_type, audience) {
            Some(rules) => rules.apply(org, envelope, audience),
            None => Cow::Borrowed(envelope),
        }
    }

    /// What a consumer said of an event (why it failed, what it answered), fit to be kept, logged and shown to people.
    ///
    /// Where something of the event is redacted for the console, an answer is not kept at all, since it may repeat the
    /// event in any form and cut anywhere, and of a message nothing when it repeats a redacted value. Without the event
    /// nobody can tell; then both go as soon as there are redactions.
    #[must_use]
    pub fn cleared(&self, event: Option<&Event>, message: Option<String>, answer: String) -> (Option<String>, String) {
        let said = message.is_some() || !answer.is_empty();
        let (Some(_), true) = (&self.0, said) else { return (message, answer) };
        let withheld = |text: &str| if text.is_empty() { String::new() } else { ANSWER_WITHHELD.to_owned() };
        let Some(event) = event else {
            return (message.map(|_| WITHHELD.to_owned()), withheld(&answer));
        };
        let Some(rules) = self.rules(&event.meta.org, &event.meta.event_type, Audience::Console) else {
            return (message, answer);
        };
        let repeats =
            |text: &String| rules.hidden(&event.body, Audience::Console).iter().any(|one| contains(text, one));
        let message = message.map(|text| if repeats(&text) { WITHHELD.to_owned() } else { text });
        (message, withheld(&answer))
    }
}

/// Shorter values are looked for as words of their own.
const WORD_BYTES: usize = 4;

fn contains(text: &str, value: &str) -> bool {
    if value.len() >= WORD_BYTES {
        return text.contains(value);
    }
    text.split(|char: char| !char.is_alphanumeric()).any(|word| word == value)
}

impl Redactions {
    /// The texts and numbers, names of members too, within what is redacted for this audience; as they are and as JSON
    /// spells them.
    fn hidden(&self, envelope: &[u8], audience: Audience) -> Vec<String> {
        let mut values = Vec::new();
        for range in super::apply::hidden(self, envelope, self.by_audience[audience as usize]) {
            let mut tokens = Tokens::new(&envelope[range.clone()]);
            while let Some((token, at)) = tokens.next() {
                match token {
                    Token::Text { escaped } => {
                        let plain = tokens.string(at.clone(), escaped);
                        values.push(String::from_utf8_lossy(&plain).into_owned());
                        if escaped {
                            let inner = &envelope[range.start + at.start + 1..range.start + at.end - 1];
                            values.push(String::from_utf8_lossy(inner).into_owned());
                        }
                    }
                    Token::Scalar => {
                        let text = String::from_utf8_lossy(&envelope[range.start + at.start..range.start + at.end]);
                        if !matches!(&*text, "true" | "false" | "null") {
                            values.push(text.into_owned());
                        }
                    }
                    Token::OpenObject | Token::CloseObject | Token::OpenArray | Token::CloseArray | Token::Comma => {}
                }
            }
        }
        values.retain(|value| !value.is_empty());
        values
    }
}
