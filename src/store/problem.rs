//! Failures of the store as clients are told of them.

use super::StoreError;
use crate::ground::error::{Problem, ProblemKind};

/// What a client is told of a failure of the store: inside text goes to the log.
#[must_use]
pub fn store_problem(error: &StoreError) -> Problem {
    match error {
        StoreError::DiskFull { free, floor } => {
            Problem::new(ProblemKind::DiskFull, format!("{free} bytes are free, the floor is {floor}")).retry_after(30)
        }
        StoreError::Unavailable => Problem::new(ProblemKind::Overloaded, "the store is not open now"),
        StoreError::Engine(_) => {
            Problem::new(ProblemKind::Overloaded, "the store failed and is being opened again; nothing is promised")
        }
        StoreError::Revision { .. } => Problem::new(ProblemKind::Conflict, "it was changed meanwhile; read it again"),
        StoreError::Corrupt { .. } => {
            tracing::error!(%error, "a stored record is damaged");
            Problem::new(ProblemKind::Internal, "a stored record is damaged; the log of the hub names it")
        }
    }
}
