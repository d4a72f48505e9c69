//! Which state of a job follows which: pure.

use super::record::JobState;

/// What happens to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// It is its turn.
    Start,
    /// The process ended while it ran, or it gave its place up: it waits again.
    PutBack,
    /// Its last step is taken.
    Finish,
    /// It cannot go on.
    Fail,
    /// Somebody ends it.
    Cancel,
}

impl Input {
    /// Every input.
    pub const ALL: [Self; 5] = [Self::Start, Self::PutBack, Self::Finish, Self::Fail, Self::Cancel];
}

/// What was asked does not fit the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a job that is {} takes no {input:?}", .state.as_str())]
pub struct Illegal {
    /// Where the job stands.
    pub state: JobState,
    /// What was asked.
    pub input: Input,
}

/// The state that follows.
///
/// # Errors
/// [`Illegal`] when nothing does.
pub fn next_state(state: JobState, input: Input) -> Result<JobState, Illegal> {
    match (state, input) {
        (JobState::Queued, Input::Start) => Ok(JobState::Running),
        (JobState::Queued | JobState::Running, Input::PutBack) => Ok(JobState::Queued),
        (JobState::Running, Input::Finish) => Ok(JobState::Done),
        (JobState::Queued | JobState::Running, Input::Fail) => Ok(JobState::Failed),
        (JobState::Queued | JobState::Running, Input::Cancel) => Ok(JobState::Cancelled),
        (JobState::Queued, Input::Finish)
        | (JobState::Running, Input::Start)
        | (
            JobState::Done | JobState::Failed | JobState::Cancelled,
            Input::Start | Input::PutBack | Input::Finish | Input::Fail | Input::Cancel,
        ) => Err(Illegal { state, input }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_state_and_input_is_as_written_here() {
        let row = |state: JobState| {
            let next = |input| next_state(state, input).map_or("-", JobState::as_str);
            format!("{:9} {}", state.as_str(), Input::ALL.map(next).join(" "))
        };
        let table = JobState::ALL.map(row).join("\n");
        insta::assert_snapshot!(table, @r"
        queued    running queued - failed cancelled
        running   - queued done failed cancelled
        done      - - - - -
        failed    - - - - -
        cancelled - - - - -
        ");
    }

    #[test]
    fn a_job_that_has_ended_stays_so() {
        for state in JobState::ALL {
            let moves = Input::ALL.iter().any(|input| next_state(state, *input).is_ok());
            assert_eq!(moves, !state.has_ended(), "{state:?}");
            assert_eq!(JobState::of(state.as_str()), Some(state));
        }
    }
}
