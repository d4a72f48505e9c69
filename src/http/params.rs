//! Query parameters: known by name, bounded, each refusal naming the parameter.

use std::str::FromStr;

use actix_web::HttpRequest;
use actix_web::web::Query;

use crate::event::filter::TypePattern;
use crate::ground::clock::UnixMs;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::limits::clip;
use crate::hub::bad_cursor;

/// Items of a page when the client does not say.
pub(crate) const LIMIT_DEFAULT: usize = 100;
/// Most items of a page.
pub(crate) const LIMIT_MAX: usize = 1_000;
/// Largest parameter, in characters.
pub(crate) const CHARS_MAX: usize = 512;

/// The parameters of a request.
#[derive(Debug)]
pub(crate) struct Params(Vec<(String, String)>);

/// The refusal of a parameter.
pub(crate) fn refuse(name: &str, limit: impl Into<String>, sent: &str) -> Problem {
    Problem::field(name, limit, sent).as_kind(ProblemKind::InvalidParameter)
}

impl Params {
    /// Reads the query; parameters that are not `known` are refused.
    pub(crate) fn read(request: &HttpRequest, known: &[&str]) -> Result<Self, Problem> {
        let pairs = Query::<Vec<(String, String)>>::from_query(request.query_string())
            .map_err(|error| Problem::new(ProblemKind::InvalidParameter, error.to_string()))?
            .into_inner();
        for (at, (name, value)) in pairs.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                let limit = format!("unknown; known are {}", known.join(", "));
                return Err(Problem::unknown(clip(name, 64), limit).as_kind(ProblemKind::InvalidParameter));
            }
            if pairs[..at].iter().any(|(other, _)| other == name) {
                return Err(refuse(name, "given once", value));
            }
            if value.chars().count() > CHARS_MAX {
                return Err(refuse(name, format!("at most {CHARS_MAX} characters"), value));
            }
        }
        Ok(Self(pairs))
    }

    /// A parameter; an empty one counts as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// A parameter as owned text.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.get(name).map(str::to_owned)
    }

    /// How many items a page has.
    pub(crate) fn limit(&self) -> Result<usize, Problem> {
        self.limit_within(LIMIT_DEFAULT, LIMIT_MAX)
    }

    /// How many items a page has that is dearer than others.
    pub(crate) fn limit_within(&self, default: usize, max: usize) -> Result<usize, Problem> {
        let Some(text) = self.0.iter().find(|(known, _)| known == "limit").map(|(_, value)| value) else {
            return Ok(default);
        };
        let fits = text.parse().ok().filter(|limit| (1..=max).contains(limit));
        fits.ok_or_else(|| refuse("limit", format!("a whole number from 1 to {max}"), text))
    }

    /// A whole number within a range.
    pub(crate) fn number(&self, name: &str, min: u64, max: u64) -> Result<Option<u64>, Problem> {
        let read = |text: &str| {
            let number = text.parse().ok().filter(|number| (min..=max).contains(number));
            number.ok_or_else(|| refuse(name, format!("a whole number from {min} to {max}"), text))
        };
        self.get(name).map(read).transpose()
    }

    /// An RFC 3339 time.
    pub(crate) fn time(&self, name: &str) -> Result<Option<UnixMs>, Problem> {
        let read = |text: &str| {
            UnixMs::parse_rfc3339(text).map_err(|error| refuse(name, format!("an RFC 3339 time ({error})"), text))
        };
        self.get(name).map(read).transpose()
    }

    /// One of a closed set of words.
    pub(crate) fn choice<T: Copy>(
        &self,
        name: &str,
        all: &[T],
        word: impl Fn(T) -> &'static str,
    ) -> Result<Option<T>, Problem> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let found = all.iter().copied().find(|one| word(*one) == text);
        let words = || all.iter().map(|one| word(*one)).collect::<Vec<_>>().join(", ");
        found.map(Some).ok_or_else(|| refuse(name, format!("one of {}", words()), text))
    }

    /// A pattern of types of events.
    pub(crate) fn pattern(&self, name: &str) -> Result<Option<TypePattern>, Problem> {
        let read = |text| {
            TypePattern::parse(text).map_err(|problem| refuse(name, problem.limit.unwrap_or(problem.detail), text))
        };
        self.get(name).map(read).transpose()
    }

    /// The cursor of a list that goes on from an id with this prefix.
    pub(crate) fn cursor_of(&self, prefix: &str) -> Result<Option<String>, Problem> {
        let cursor = self.get("cursor");
        match cursor.filter(|text| !text.starts_with(prefix)) {
            Some(text) => Err(bad_cursor(text)),
            None => Ok(cursor.map(str::to_owned)),
        }
    }

    /// The cursor of a list that goes on from a number.
    pub(crate) fn cursor_number<T: FromStr>(&self) -> Result<Option<T>, Problem> {
        self.get("cursor").map(|text| text.parse().map_err(|_| bad_cursor(text))).transpose()
    }

    /// A yes or no.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(refuse(name, "true or false", other)),
        }
    }
}
