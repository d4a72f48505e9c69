//! Which jobs run, which wait, which are forgotten: pure.

use super::record::{JobRecord, JobState};
use crate::ground::clock::UnixMs;

/// The bounds of all jobs together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Jobs that run at once.
    pub(super) running_max: usize,
    /// Jobs kept that have ended.
    pub(super) finished_max: usize,
    /// How long they are kept.
    pub(super) finished_ms: u64,
}

/// Jobs that wait or run at most.
pub(super) const OPEN_MAX: usize = 1_000;
/// Of one org.
pub(super) const OPEN_OF_ORG_MAX: usize = 100;

/// Why no further job is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crowded {
    /// This org has as many as it may.
    Org,
    /// There are as many as there may be.
    Hub,
}

/// Whether a further job of this org is taken.
pub(super) fn admit<'a>(jobs: impl Iterator<Item = &'a JobRecord>, org: Option<&str>) -> Result<(), Crowded> {
    let (mut all, mut own) = (0, 0);
    for job in jobs.filter(|job| !job.state.has_ended()) {
        all += 1;
        own += usize::from(job.org.as_deref() == org);
    }
    match (all >= OPEN_MAX, org.is_some() && own >= OPEN_OF_ORG_MAX) {
        (_, true) => Err(Crowded::Org),
        (true, false) => Err(Crowded::Hub),
        (false, false) => Ok(()),
    }
}

/// The jobs to be started now, oldest first: as many as there is room for, and no more than half of the places for one
/// org.
pub(super) fn to_start<'a>(jobs: impl Iterator<Item = &'a JobRecord> + Clone, bounds: Bounds) -> Vec<String> {
    let of_org_max = (bounds.running_max / 2).max(1);
    let mut running: Vec<Option<&str>> =
        jobs.clone().filter(|job| job.state == JobState::Running).map(|job| job.org.as_deref()).collect();
    let mut queued: Vec<&JobRecord> = jobs.filter(|job| job.state == JobState::Queued).collect();
    queued.sort_by(|a, b| a.id.cmp(&b.id));
    let mut start = Vec::new();
    for job in queued {
        if running.len() >= bounds.running_max {
            break;
        }
        let org = job.org.as_deref();
        if running.iter().filter(|one| **one == org).count() < of_org_max {
            running.push(org);
            start.push(job.id.clone());
        }
    }
    start
}

/// The jobs to be forgotten: ended longest ago, too many or too long ago.
pub(super) fn to_forget<'a>(jobs: impl Iterator<Item = &'a JobRecord>, bounds: Bounds, now: UnixMs) -> Vec<String> {
    let mut ended: Vec<&JobRecord> = jobs.filter(|job| job.state.has_ended()).collect();
    ended.sort_by(|a, b| (b.updated.at, &b.id).cmp(&(a.updated.at, &a.id)));
    let old = |job: &JobRecord| now.since_ms(job.updated.at) > bounds.finished_ms;
    let stays = |(at, job): &(usize, &&JobRecord)| *at < bounds.finished_max && !old(job);
    ended.iter().enumerate().filter(|one| !stays(one)).map(|(_, job)| job.id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::context::WriteContext;
    use crate::job::NewJob;

    const BOUNDS: Bounds = Bounds { running_max: 4, finished_max: 3, finished_ms: 1_000 };

    fn job(n: u64, org: &str, state: JobState) -> JobRecord {
        let org = (!org.is_empty()).then(|| org.to_owned());
        let new = NewJob { kind: "test", org, spec: serde_json::Value::Null, rate: None, total: None };
        let context = WriteContext { at: UnixMs(10_000 + n), ..WriteContext::default() };
        JobRecord { state, ..JobRecord::new(format!("job_{n:04}"), new, context) }
    }

    #[test]
    fn jobs_start_in_their_order_and_one_org_has_half_of_the_places() {
        let (queued, running) = (JobState::Queued, JobState::Running);
        let mut jobs: Vec<JobRecord> = (1..=5).map(|n| job(n, "acme", queued)).collect();
        jobs.extend([job(6, "globex", queued), job(7, "", queued), job(8, "initech", queued)]);
        assert_eq!(to_start(jobs.iter(), BOUNDS), ["job_0001", "job_0002", "job_0006", "job_0007"]);
        jobs[0].state = running;
        jobs[5].state = JobState::Done;
        assert_eq!(to_start(jobs.iter(), BOUNDS), ["job_0002", "job_0007", "job_0008"]);
        jobs.iter_mut().for_each(|job| job.state = running);
        assert!(to_start(jobs.iter(), BOUNDS).is_empty());
        let one = Bounds { running_max: 1, ..BOUNDS };
        assert_eq!(to_start([job(1, "acme", queued), job(2, "acme", queued)].iter(), one), ["job_0001"]);
    }

    #[test]
    fn what_has_ended_is_forgotten_when_it_is_old_or_there_are_many() {
        let jobs: Vec<JobRecord> =
            (1..=6).map(|n| job(n, "", if n == 2 { JobState::Running } else { JobState::Done })).collect();
        assert_eq!(to_forget(jobs.iter(), BOUNDS, UnixMs(10_006)), ["job_0003", "job_0001"]);
        assert_eq!(to_forget(jobs.iter(), BOUNDS, UnixMs(11_005)), ["job_0004", "job_0003", "job_0001"]);
    }

    #[test]
    fn an_org_cannot_take_every_place() {
        let mut jobs: Vec<JobRecord> = (1..=OPEN_OF_ORG_MAX as u64).map(|n| job(n, "acme", JobState::Queued)).collect();
        assert_eq!(admit(jobs.iter(), Some("acme")), Err(Crowded::Org));
        assert_eq!(admit(jobs.iter(), Some("globex")), Ok(()));
        jobs[0].state = JobState::Done;
        assert_eq!(admit(jobs.iter(), Some("acme")), Ok(()));
        jobs.extend((101..=1_001).map(|n| job(n, "", JobState::Queued)));
        assert_eq!(admit(jobs.iter(), None), Err(Crowded::Hub));
    }
}
