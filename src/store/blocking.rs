//! Store work off the async threads.

use super::StoreError;
use crate::ground::codec::CodecError;

/// Runs store work off the async threads: a flush beside it can take hundreds of milliseconds.
///
/// # Errors
/// Those of the work; [`StoreError::Engine`] when it panicked.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            Err(StoreError::Corrupt { what: "store work".to_owned(), source: CodecError::Payload(error.to_string()) })
        }
    }
}
