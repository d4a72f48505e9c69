//! A condition on an event's envelope and data, written in CEL (WHK-1): `data.amount > 100 && event.source == "billing"`.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::compile::compile;
use super::eval::{Fault, holds};
use super::program::Node;
use super::subject::Subject;
use crate::ground::error::Problem;

/// Largest expression, in characters.
pub const EXPRESSION_CHARS_MAX: usize = 2_048;

/// What is wrong with an expression, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The line, from 1 on.
    pub line: u32,
    /// The character in the line, from 1 on.
    pub column: u32,
    /// What is wrong.
    pub message: String,
}

impl Mistake {
    pub(super) fn new(line: u32, column: u32, message: impl Into<String>) -> Self {
        Self { line, column, message: message.into() }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.message)
    }
}

/// A compiled expression. Clones share it; what is stored is its text.
#[derive(Clone, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Expression(Arc<Inner>);

struct Inner {
    text: String,
    program: Result<Node, Mistake>,
}

impl Expression {
    /// Compiles an expression.
    ///
    /// # Errors
    /// `InvalidField` of `filter` with line, column and what is wrong there.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        const FIELD: &str = "filter";
        let chars = text.chars().count();
        if text.trim().is_empty() || chars > EXPRESSION_CHARS_MAX {
            return Err(Problem::field(
                FIELD,
                format!("an expression of 1 to {EXPRESSION_CHARS_MAX} characters"),
                text,
            ));
        }
        let expression = Self::from(text.to_owned());
        match &expression.0.program {
            Ok(_) => Ok(expression),
            Err(mistake) => Err(Problem::field(FIELD, mistake.to_string(), text)
                .with("line", mistake.line)
                .with("column", mistake.column)),
        }
    }

    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// What is wrong with a stored expression that this version of the hub cannot compile. It matches nothing.
    #[must_use]
    pub fn mistake(&self) -> Option<&Mistake> {
        self.0.program.as_ref().err()
    }

    /// Whether it holds of the subject. Does not panic.
    ///
    /// # Errors
    /// Why there is no answer; for a filter that is no match.
    pub fn holds(&self, subject: &Subject<'_>) -> Result<bool, Fault> {
        match &self.0.program {
            Ok(program) => guarded(|| holds(program, subject)),
            Err(mistake) => Err(Fault::NotCompiled(mistake.to_string())),
        }
    }
}

/// A defect here must not end the router, which would meet the same event again.
fn guarded(evaluate: impl FnOnce() -> Result<bool, Fault>) -> Result<bool, Fault> {
    catch_unwind(AssertUnwindSafe(evaluate)).unwrap_or(Err(Fault::Panicked))
}

impl From<String> for Expression {
    /// Compiles a stored text; one that no longer compiles keeps its mistake.
    fn from(text: String) -> Self {
        let program = compile(&text);
        Self(Arc::new(Inner { text, program }))
    }
}

impl From<Expression> for String {
    fn from(expression: Expression) -> Self {
        expression.0.text.clone()
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.0.text == other.0.text
    }
}

impl Eq for Expression {}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.0.text).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::panic, reason = "the panic is what is tested")]
    fn a_panic_in_an_evaluation_is_a_fault() {
        assert_eq!(guarded(|| panic!("for the test")), Err(Fault::Panicked));
    }

    #[test]
    fn a_stored_expression_that_no_longer_compiles_is_kept_and_says_so() {
        let stored: Expression = serde_json::from_str("\"data.amount >\"").expect("reads");
        assert_eq!(stored.text(), "data.amount >");
        assert!(stored.mistake().is_some());
        assert_eq!(serde_json::to_string(&stored).expect("writes"), "\"data.amount >\"");
    }
}
