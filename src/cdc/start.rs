//! Where a feed begins without a cursor (CDC-3).

use crate::ground::clock::UnixMs;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::ids::Seq;

/// Where a feed begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With the first event that is still there.
    #[default]
    Earliest,
    /// With what comes next.
    Latest,
    /// With this position.
    Seq(Seq),
    /// With the first event received at this time or later.
    Time(UnixMs),
}

impl Start {
    /// Reads `earliest`, `latest`, `seq:N` or `time:T`.
    ///
    /// # Errors
    /// [`ProblemKind::InvalidParameter`] of `start`.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let refuse = |limit: &str| Problem::field("start", limit, text).as_kind(ProblemKind::InvalidParameter);
        match text.split_once(':') {
            None if text == "earliest" => Ok(Self::Earliest),
            None if text == "latest" => Ok(Self::Latest),
            Some(("seq", number)) => match number.parse() {
                Ok(0) | Err(_) => Err(refuse("seq:N with a whole number from 1")),
                Ok(number) => Ok(Self::Seq(Seq(number))),
            },
            Some(("time", time)) => match UnixMs::parse_rfc3339(time) {
                Ok(time) => Ok(Self::Time(time)),
                Err(error) => Err(refuse(&format!("time:T with an RFC 3339 time ({error})"))),
            },
            Some(_) | None => Err(refuse("earliest, latest, seq:N or time:T")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_start_is_read_and_what_is_none_is_refused_with_what_it_may_be() {
        assert_eq!(Start::parse("earliest"), Ok(Start::Earliest));
        assert_eq!(Start::parse("latest"), Ok(Start::Latest));
        assert_eq!(Start::parse("seq:17"), Ok(Start::Seq(Seq(17))));
        assert_eq!(Start::parse("time:2026-11-21T08:00:00Z"), Ok(Start::Time(UnixMs(1_795_248_000_000))));
        for text in ["", "first", "seq", "seq:", "seq:0", "seq:-1", "seq:x", "time:", "time:yesterday", "latest:1"] {
            let problem = Start::parse(text).expect_err(text);
            assert_eq!((problem.kind, problem.field.as_deref()), (ProblemKind::InvalidParameter, Some("start")));
        }
    }
}
