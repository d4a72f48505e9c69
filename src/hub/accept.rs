//! Taking events in: those for now into the log, those for later into the schedule, no id into both (SC-2).

use tokio::sync::oneshot;

use super::{Hub, id_conflict};
use crate::catalog::policy::Warning;
use crate::event::envelope::Draft;
use crate::ground::clock::UnixMs;
use crate::ground::context::WriteContext;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::ids::Seq;
use crate::outbox::AppendReply;
use crate::schedule::{Asked, Request, Schedule};
use crate::store::{Appended, Prepared};
use crate::trace::Received;

/// What became of an event that was taken in.
#[derive(Clone, Debug)]
pub enum Accepted {
    /// What the log says of it.
    Log(Appended),
    /// It waits until it is due; a duplicate did before.
    Scheduled {
        /// When it is due.
        deliver_at: UnixMs,
        /// Whether it was scheduled already.
        duplicate: bool,
    },
    /// It was taken (any of the above but a conflict), and its org's policy says this of it.
    Flagged(Box<Accepted>, Vec<Warning>),
    /// It was not taken.
    Refused(Problem),
}

impl Accepted {
    /// Whether the event is the hub's now.
    pub(super) fn is_taken(&self) -> bool {
        match self {
            Self::Log(Appended::New(_) | Appended::Duplicate(_)) | Self::Scheduled { .. } | Self::Flagged(..) => true,
            Self::Log(Appended::Conflict(_) | Appended::Withheld) | Self::Refused(_) => false,
        }
    }

    /// The same for the event's trace.
    fn received(&self) -> Received {
        match self {
            Self::Log(Appended::New(event)) => Received::New(event.seq),
            Self::Log(Appended::Duplicate(seq)) => Received::Duplicate(*seq),
            Self::Log(Appended::Conflict(_)) => Received::Refused("its id belongs to another event".to_owned()),
            Self::Log(Appended::Withheld) => Received::Refused("another event of the batch was refused".to_owned()),
            Self::Scheduled { .. } => Received::Scheduled,
            Self::Flagged(accepted, _) => accepted.received(),
            Self::Refused(problem) => Received::Refused(problem.to_string()),
        }
    }
}

/// As whose events go to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Those of the org of the first one.
    Org,
    /// Those of imports, which take turns with the orgs as one of them (BK-4).
    Bulk,
}

/// The tenant that imports are at the gate. No org has a control character in its name.
pub(super) const BULK_TENANT: &str = "\u{0}bulk";

/// An event on its way: its place in the request, itself, and when it is due if that is later.
type Item = (usize, Prepared, Option<UnixMs>);

/// Times an event for now is looked at again, because what had its id in the schedule went away meanwhile.
const LOOKS_MAX: u32 = 4;

/// The records of drafts.
pub(super) fn prepare(drafts: Vec<Draft>) -> Result<Vec<Prepared>, Problem> {
    let prepare = |draft| {
        Prepared::new(draft)
            .map_err(|error| Problem::new(ProblemKind::Internal, format!("the event does not encode: {error}")))
    };
    drafts.into_iter().map(prepare).collect()
}

impl Hub {
    /// Takes events in: durable when this answers, one answer per event. What is due later is scheduled (ING-7). When
    /// `atomic`, a conflict keeps all of them out, and none may be for later. `context` says who schedules.
    ///
    /// # Errors
    /// When the hub cannot take them now. The outcome may be unknown then: send again with the same ids.
    pub async fn accept(
        &self,
        mut drafts: Vec<Draft>,
        atomic: bool,
        context: impl FnOnce() -> WriteContext,
    ) -> Result<Vec<Accepted>, Problem> {
        let tracer = &self.inner.tracer;
        let Some(spans) = tracer.ingest(&mut drafts) else {
            return self.check_in(drafts, atomic, Lane::Org, context).await;
        };
        let accepted = self.check_in(drafts, atomic, Lane::Org, context).await;
        tracer.ingested(spans, accepted.as_deref(), Accepted::received);
        accepted
    }

    /// Checks events by the policies of their orgs and takes in what is fit to be.
    pub(super) async fn check_in(
        &self,
        drafts: Vec<Draft>,
        atomic: bool,
        lane: Lane,
        context: impl FnOnce() -> WriteContext,
    ) -> Result<Vec<Accepted>, Problem> {
        match self.sort_by_policy(drafts) {
            Ok(drafts) => self.take_in(drafts, atomic, lane, context).await,
            Err(sorted) => {
                self.check_takes_events()?;
                self.take_sorted(sorted, atomic, lane, context()).await
            }
        }
    }

    /// Takes in events that have been checked.
    pub(super) async fn take_in(
        &self,
        drafts: Vec<Draft>,
        atomic: bool,
        lane: Lane,
        context: impl FnOnce() -> WriteContext,
    ) -> Result<Vec<Accepted>, Problem> {
        self.check_takes_events()?;
        // Most requests hold nothing for later, and most hubs nothing that waits: they do not look further than this.
        if drafts.iter().all(|draft| draft.deliver_at.is_none()) {
            let events = prepare(drafts)?;
            return match self.send_unless_held(events, atomic, lane)? {
                Sent::All(answer) => Ok(self.receipts(answer).await?.into_iter().map(Accepted::Log).collect()),
                Sent::None(events) => {
                    let items = events.into_iter().enumerate().map(|(at, event)| (at, event, None)).collect();
                    self.accept_some_later(items, Vec::new(), atomic, context()).await
                }
            };
        }
        let now = self.inner.clock.now();
        let latest = now.plus_ms(self.inner.config.schedule.ahead_ms_max);
        let (mut items, mut refused) = (Vec::with_capacity(drafts.len()), Vec::new());
        for (at, draft) in drafts.into_iter().enumerate() {
            let due_at = draft.deliver_at.filter(|due_at| *due_at > now);
            match due_at {
                Some(due_at) if due_at > latest => refused.push((at, too_far(due_at, latest))),
                Some(_) if atomic => return Err(not_atomic(at)),
                Some(_) | None => {
                    items.extend(prepare(vec![draft])?.into_iter().map(|event| (at, event, due_at)));
                }
            }
        }
        if atomic && let Some((at, mut problem)) = refused.pop() {
            problem.field = Some(format!("[{at}].deliver_at"));
            return Err(problem);
        }
        self.accept_some_later(items, refused, atomic, context()).await
    }

    /// Sends events to the log, all of them or, when the schedule has the id of one, none.
    fn send_unless_held(&self, events: Vec<Prepared>, atomic: bool, lane: Lane) -> Result<Sent, Problem> {
        let book = self.inner.book.look();
        let held = |event: &Prepared| event.id_given && book.holds(&event.meta.org, &event.meta.id);
        if !book.is_empty() && events.iter().any(held) {
            return Ok(Sent::None(events));
        }
        // Under the look: who reserves an id after it waits for the passage of this event.
        self.send(events, atomic, lane, book.passage()).map(Sent::All)
    }

    async fn accept_some_later(
        &self,
        mut items: Vec<Item>,
        refused: Vec<(usize, Problem)>,
        atomic: bool,
        context: WriteContext,
    ) -> Result<Vec<Accepted>, Problem> {
        let mut out: Vec<(usize, Accepted)> =
            refused.into_iter().map(|(at, problem)| (at, Accepted::Refused(problem))).collect();
        for _ in 0..LOOKS_MAX {
            let (places, answer, lane) = self.send_free(items, atomic)?;
            let asked = self.ask_schedule(lane, &context);
            let (appended, asked) = futures_util::future::join(
                async {
                    match answer {
                        Some(answer) => self.receipts(answer).await,
                        None => Ok(Vec::new()),
                    }
                },
                asked,
            )
            .await;
            out.extend(places.into_iter().zip(appended?.into_iter().map(Accepted::Log)));
            items = Vec::new();
            for (at, id, asked) in asked? {
                match asked {
                    Asked::Scheduled { deliver_at, duplicate } => {
                        out.push((at, Accepted::Scheduled { deliver_at, duplicate }));
                    }
                    Asked::Conflict => out.push((at, Accepted::Refused(id_conflict(&id, Seq::ZERO)))),
                    Asked::Logged(appended) => out.push((at, Accepted::Log(appended))),
                    Asked::Refused(problem) => out.push((at, Accepted::Refused(problem))),
                    Asked::Free(event) => items.push((at, *event, None)),
                }
            }
            if items.is_empty() {
                out.sort_by_key(|(at, _)| *at);
                return Ok(out.into_iter().map(|(_, accepted)| accepted).collect());
            }
        }
        Err(Problem::new(ProblemKind::Overloaded, "an event with this id is scheduled and cancelled all the time"))
    }

    /// Sends what is for now, and whose id the schedule has not, to the log. Gives their places, where the log answers, and
    /// what is for the schedule.
    #[expect(clippy::type_complexity, reason = "three results of one step under one look, used in one place")]
    fn send_free(
        &self,
        items: Vec<Item>,
        atomic: bool,
    ) -> Result<(Vec<usize>, Option<oneshot::Receiver<AppendReply>>, Vec<Item>), Problem> {
        let book = self.inner.book.look();
        let (lane, log): (Vec<Item>, Vec<Item>) = items.into_iter().partition(|(_, event, due_at)| {
            due_at.is_some() || (event.id_given && book.holds(&event.meta.org, &event.meta.id))
        });
        if atomic && let Some((at, event, _)) = lane.first() {
            let mut problem = Problem::new(ProblemKind::Conflict, "an event with this id is scheduled");
            problem.field = Some(format!("[{at}].id"));
            problem.sent = Some(event.meta.id.clone());
            return Err(problem);
        }
        if log.is_empty() {
            return Ok((Vec::new(), None, lane));
        }
        let (places, events): (Vec<usize>, Vec<Prepared>) = log.into_iter().map(|(at, event, _)| (at, event)).unzip();
        Ok((places, Some(self.send(events, atomic, Lane::Org, book.passage())?), lane))
    }

    /// The schedule's answers, with the place and the id of each event.
    async fn ask_schedule(
        &self,
        items: Vec<Item>,
        context: &WriteContext,
    ) -> Result<Vec<(usize, String, Asked)>, Problem> {
        if items.is_empty() {
            return Ok(Vec::new());
        }
        let permit = self.enter(Lane::Org, items.iter().map(|(_, event, _)| event))?;
        let ids: Vec<(usize, String)> = items.iter().map(|(at, event, _)| (*at, event.meta.id.clone())).collect();
        let events = items.into_iter().map(|(_, event, due_at)| (event, due_at)).collect();
        let (reply, answer) = oneshot::channel();
        let request = Request { events, context: context.clone(), permit, reply };
        let away = || Problem::new(ProblemKind::Overloaded, "the schedule is being restarted; send it again");
        self.inner.schedule.tell(Schedule(request)).map_err(|_| away())?;
        let unknown =
            || Problem::new(ProblemKind::Overloaded, "the outcome is unknown; send it again with the same id");
        let asked = answer.await.map_err(|_| unknown())??;
        Ok(ids.into_iter().zip(asked).map(|((at, id), asked)| (at, id, asked)).collect())
    }
}

/// What became of a sending.
enum Sent {
    /// The log answers here.
    All(oneshot::Receiver<AppendReply>),
    /// The events, as they were.
    None(Vec<Prepared>),
}

fn too_far(due_at: UnixMs, latest: UnixMs) -> Problem {
    Problem::field("deliver_at", format!("not after {latest} (schedule.ahead_ms_max)"), due_at)
}

fn not_atomic(at: usize) -> Problem {
    Problem::field(
        format!("[{at}].deliver_at"),
        "no time to come: an atomic batch goes to the log at once",
        "a later time",
    )
}
