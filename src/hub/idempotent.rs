//! Operations of the program around the hub that are done once under a key (IDM-1).

use std::panic::AssertUnwindSafe;

use bytes::Bytes;
use futures_util::FutureExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Hub, store_problem};
use crate::ground::error::{Problem, ProblemKind};
use crate::idempotency::{Answer, Ask, Claim, Fingerprint, KeyError, KeyId, Recorded, check_key};

/// Under which key an operation is done, for whom, and what is asked of it.
#[derive(Clone, Debug)]
pub struct OnceKey {
    application: String,
    org: Option<String>,
    key: String,
    fingerprint: Fingerprint,
}

impl OnceKey {
    /// A key of an application: 1 to 255 characters of visible ASCII. Keys of applications and orgs do not mix, and none
    /// meets those of HTTP clients.
    pub fn new(application: impl Into<String>, key: impl Into<String>) -> Self {
        Self { application: application.into(), org: None, key: key.into(), fingerprint: Fingerprint::of(&[]) }
    }

    /// The tenant, on whose account the key is kept.
    #[must_use]
    pub fn org(mut self, org: impl Into<String>) -> Self {
        self.org = Some(org.into());
        self
    }

    /// What is asked, in bytes: another request under the key is refused.
    #[must_use]
    pub fn request(mut self, request: &[u8]) -> Self {
        self.fingerprint = Fingerprint::of(&[request]);
        self
    }

    fn ask(&self) -> Result<Ask, Problem> {
        check_key("key", self.key.as_bytes())?;
        let org = self.org.as_deref();
        let confined: &[u8] = if org.is_some() { b"org" } else { b"any" };
        let org = org.unwrap_or_default();
        let parts = [b"program", self.application.as_bytes(), confined, org.as_bytes(), self.key.as_bytes()];
        Ok(Ask { id: KeyId::of(&parts), fingerprint: self.fingerprint, org: org.to_owned() })
    }
}

/// The one answer of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Once<T> {
    /// It.
    pub answer: T,
    /// Whether it was recorded before: this call did nothing.
    pub replayed: bool,
}

/// What a client is told of a key that cannot be claimed.
pub(crate) fn key_problem(error: KeyError) -> Problem {
    match error {
        KeyError::Refused(problem) => problem,
        KeyError::Store(error) => store_problem(&error),
    }
}

fn read<T: DeserializeOwned>(answer: &Answer) -> Result<Once<T>, Problem> {
    let Some(body) = &answer.body else {
        let text = "its answer was over idempotency.answer_bytes_max and is not kept";
        return Err(Problem::new(ProblemKind::IdempotencyDone, text));
    };
    let answer = serde_json::from_slice(body).map_err(|error| {
        Problem::new(ProblemKind::Internal, format!("the recorded answer is not of the type asked for: {error}"))
    })?;
    Ok(Once { answer, replayed: true })
}

impl Hub {
    /// Does an operation once under a key, and gives every later call with the key and the same request its answer, for
    /// `idempotency.keep_ms` (24 h), over restarts too. `operation` is polled only when this call is the one that does it.
    ///
    /// ```no_run
    /// use tidegate::hub::{Hub, OnceKey};
    ///
    /// # async fn charge(amount: u64) -> Result<String, tidegate::ground::error::Problem> { Ok(format!("paid {amount}")) }
    /// # async fn example(hub: &Hub) -> Result<(), tidegate::ground::error::Problem> {
    /// let key = OnceKey::new("billing", "order-77").org("acme").request(b"amount=12");
    /// let paid = hub.idempotent(&key, charge(12)).await?;
    /// println!("{} (done before: {})", paid.answer, paid.replayed);
    /// # Ok(()) }
    /// ```
    ///
    /// What is guaranteed: answers are recorded, synced and sealed, before they are given, and there is one per key. An
    /// operation that fails or panics is not recorded; the next call does it again. So does the next call after
    /// `idempotency.lock_ms` (5 min) when the process was killed in between, this call was dropped, or the operation
    /// takes longer than that: the effect of an operation may come twice then, and an answer that comes too late is given
    /// up for the newer one.
    ///
    /// # Errors
    /// That of the operation. [`ProblemKind::IdempotencyMismatch`] when the key was used for another request;
    /// [`ProblemKind::IdempotencyBusy`] when the call that does it takes longer than `idempotency.wait_ms`;
    /// [`ProblemKind::IdempotencyDone`] when it was done and its answer was too large to be kept;
    /// [`ProblemKind::IdempotencyFull`] when there is no room for a key; else when the store fails, and then the outcome
    /// may be unknown.
    pub async fn idempotent<T>(
        &self,
        key: &OnceKey,
        operation: impl Future<Output = Result<T, Problem>>,
    ) -> Result<Once<T>, Problem>
    where
        T: Serialize + DeserializeOwned,
    {
        let keys = &self.inner.idempotency;
        let ask = key.ask()?;
        let permit = match keys.claim(&ask).await.map_err(key_problem)? {
            Claim::Done(answer) => return read(&answer),
            Claim::Run(permit) => permit,
        };
        let done = match AssertUnwindSafe(operation).catch_unwind().await {
            Ok(Ok(done)) => done,
            Ok(Err(problem)) => {
                permit.give_back();
                return Err(problem);
            }
            Err(cause) => {
                permit.give_back();
                std::panic::resume_unwind(cause);
            }
        };
        let body = match serde_json::to_vec(&done) {
            Ok(body) => Bytes::from(body),
            Err(error) => {
                permit.give_back();
                return Err(Problem::new(ProblemKind::Internal, format!("the answer does not encode: {error}")));
            }
        };
        let answer =
            Answer { status: 0, note: String::new(), content_type: "application/json".to_owned(), body: Some(body) };
        match permit.record(&answer).await.map_err(key_problem)? {
            Recorded::Kept => Ok(Once { answer: done, replayed: false }),
            Recorded::TakenOver => read(&self.newer_answer(&ask).await?),
        }
    }

    /// The answer of who has taken over.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) async fn newer_answer(&self, ask: &Ask) -> Result<Answer, Problem> {
        match self.inner.idempotency.claim(ask).await.map_err(key_problem)? {
            Claim::Done(answer) => Ok(answer),
            Claim::Run(permit) => {
                // It has been done here, and there is no other answer: whoever asks next does it again.
                permit.give_back();
                let text = "it took longer than idempotency.lock_ms and its answer was given up; send it again";
                Err(Problem::new(ProblemKind::IdempotencyBusy, text).retry_after(1))
            }
        }
    }
}
