//! What came of the handlers of one claim, and what attempt that makes: pure.

use std::fmt;

use crate::ground::limits::{ERROR_CHARS_MAX, clip};
use crate::retry::{AttemptResult, FailureKind};

/// Why a handler did not take an event. Any error turns into [`HandlerError::Retry`] with `?`, its causes included.
///
/// It is no `std::error::Error` itself: that is what makes the conversion possible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandlerError {
    /// Another attempt may do better.
    Retry(String),
    /// No attempt will: the event becomes a dead letter at once.
    Rejected(String),
}

impl HandlerError {
    /// Another attempt may do better.
    pub fn retry(message: impl Into<String>) -> Self {
        Self::Retry(message.into())
    }

    /// No attempt will do better.
    pub fn rejected(message: impl Into<String>) -> Self {
        Self::Rejected(message.into())
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retry(message) | Self::Rejected(message) => f.write_str(message),
        }
    }
}

impl<E: std::error::Error> From<E> for HandlerError {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause.filter(|_| message.len() < ERROR_CHARS_MAX) {
            message.push_str(": ");
            message.push_str(&inner.to_string());
            cause = inner.source();
        }
        Self::Retry(message)
    }
}

/// How one handler failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandlerFailure {
    /// It returned an error.
    Error(HandlerError),
    /// It panicked with this text.
    Panic(String),
}

impl HandlerFailure {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Error(HandlerError::Retry(_)) => FailureKind::Handler,
            Self::Error(HandlerError::Rejected(_)) => FailureKind::Rejected,
            Self::Panic(_) => FailureKind::Panic,
        }
    }

    fn message(&self) -> &str {
        match self {
            Self::Error(HandlerError::Retry(message) | HandlerError::Rejected(message)) => message,
            Self::Panic(text) => text,
        }
    }
}

/// The attempt that `handlers` handlers made, of which these failed. A failure that may pass decides before one that will
/// not; among equals the first.
#[must_use]
pub fn attempt_result(handlers: usize, failures: &[HandlerFailure]) -> AttemptResult {
    let passing = failures.iter().find(|failure| failure.kind().retryable(None));
    let Some(told) = passing.or(failures.first()) else { return AttemptResult::Delivered { status: 200 } };
    let message = clip(told.message(), ERROR_CHARS_MAX);
    if failures.len() < 2 {
        return AttemptResult::failed(told.kind(), message);
    }
    AttemptResult::failed(told.kind(), format!("{} of {handlers} handlers failed: {message}", failures.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retry::Verdict;

    fn retry() -> HandlerFailure {
        HandlerFailure::Error(HandlerError::retry("busy"))
    }

    fn rejected() -> HandlerFailure {
        HandlerFailure::Error(HandlerError::rejected("no such thing"))
    }

    #[test]
    fn an_attempt_without_failures_is_delivered() {
        assert_eq!(attempt_result(2, &[]), AttemptResult::Delivered { status: 200 });
    }

    #[test]
    fn only_rejections_alone_give_an_event_up() {
        let panic = HandlerFailure::Panic("boom".to_owned());
        let cases = [
            (vec![retry()], Verdict::Retry, "handler"),
            (vec![panic.clone()], Verdict::Retry, "panic"),
            (vec![rejected()], Verdict::GiveUp, "rejected"),
            (vec![rejected(), rejected()], Verdict::GiveUp, "rejected"),
            (vec![rejected(), retry()], Verdict::Retry, "handler"),
            (vec![rejected(), panic], Verdict::Retry, "panic"),
        ];
        for (failures, verdict, kind) in cases {
            let result = attempt_result(3, &failures);
            assert_eq!((result.verdict(), result.as_str()), (verdict, kind), "{failures:?}");
        }
    }

    #[test]
    fn the_message_is_the_handlers_own_and_counts_when_several_fail() {
        let text = |failures: &[HandlerFailure]| match attempt_result(3, failures) {
            AttemptResult::Failed { message, .. } => message,
            AttemptResult::Delivered { .. } => String::new(),
        };
        assert_eq!(text(&[retry()]), "busy");
        assert_eq!(text(&[rejected(), retry()]), "2 of 3 handlers failed: busy");
    }

    #[test]
    fn any_error_is_one_to_retry_with_its_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("the ledger did not answer")]
        struct Outer(#[source] std::num::ParseIntError);

        fn work() -> Result<(), HandlerError> {
            "x".parse::<u8>().map_err(Outer)?;
            Ok(())
        }
        let expected = "the ledger did not answer: invalid digit found in string";
        assert_eq!(work(), Err(HandlerError::retry(expected)));
    }
}
