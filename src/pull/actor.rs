//! The pull actor: hands the claims of one consumer's inbox to the clients that wait for them.
//!
//! It holds nothing that a restart would lose: who waits learns that nobody answers and asks again, and tickets that are
//! dropped give their claims back.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use actix::{Actor, ActorContext as _, AsyncContext as _, Context, Handler, Message};
use tokio::sync::{mpsc, oneshot};

use super::state::{Room, TakerId, Taking};
use crate::event::envelope::Event;
use crate::ground::ids::{Epoch, Seq};
use crate::inbox::demand::Demand;
use crate::inbox::messages::{Deliver, Ticket};

/// Deliveries held for one client that it has not taken yet, at most.
pub const HELD_EVENTS_MAX: usize = 256;
/// Bytes of them, besides at least one.
pub const HELD_BYTES_MAX: usize = 4 << 20;
/// Credit of one client that asks for each delivery.
pub const CREDIT_MAX: usize = 256;

/// One delivery on its way to its client. Dropped, it is given back.
#[derive(Debug)]
pub struct Handed {
    /// The right and duty to answer it.
    pub ticket: Ticket,
    /// The event.
    pub event: Arc<Event>,
}

/// What is held for one stream.
#[derive(Debug, Default)]
pub struct Held {
    events: AtomicUsize,
    bytes: AtomicUsize,
    /// The actor was told that it is too much, and waits to hear of room.
    told_full: AtomicBool,
}

impl Held {
    fn add(&self, bytes: usize) {
        self.events.fetch_add(1, Ordering::SeqCst);
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
    }

    /// Whether it is too much now; then the client tells of room. Looked at twice: the client may take the last of it
    /// between the look and the note.
    fn note_full(&self) -> bool {
        if !self.is_full() {
            return false;
        }
        self.told_full.store(true, Ordering::SeqCst);
        self.is_full() || !self.told_full.swap(false, Ordering::SeqCst)
    }

    /// The client has taken one. True when the actor must be told that there is room.
    #[must_use]
    pub fn take(&self, bytes: usize) -> bool {
        self.events.fetch_sub(1, Ordering::SeqCst);
        self.bytes.fetch_sub(bytes, Ordering::SeqCst);
        !self.is_full() && self.told_full.swap(false, Ordering::SeqCst)
    }

    fn is_full(&self) -> bool {
        self.events.load(Ordering::SeqCst) >= HELD_EVENTS_MAX || self.bytes.load(Ordering::SeqCst) >= HELD_BYTES_MAX
    }
}

/// Where a client's deliveries go.
#[derive(Debug)]
pub enum Outlet {
    /// All at once, to a poll.
    Poll(oneshot::Sender<Vec<Handed>>),
    /// One by one, to a stream, with the count of what it has not taken.
    Stream(mpsc::UnboundedSender<Handed>, Arc<Held>),
}

/// Client → actor: deliver to me.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Enter {
    /// Its name.
    pub id: TakerId,
    /// How it takes.
    pub taking: Taking,
    /// How many.
    pub wants: usize,
    /// Where to.
    pub outlet: Outlet,
}

/// Client → actor: I have gone.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Leave(pub TakerId);

/// Client → actor: so many more.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Grant {
    /// Who.
    pub id: TakerId,
    /// How many.
    pub more: usize,
}

/// Client → actor: I have room again.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Drained(pub TakerId);

/// Inbox → actor: this claim counts no longer.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Ended {
    /// The event.
    pub seq: Seq,
    /// The claim.
    pub epoch: Epoch,
}

/// Inbox → actor: no claim of before counts.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Begun;

/// Wakes the consumer's inbox, when it runs.
pub type Nudge = Arc<dyn Fn() + Send + Sync>;

/// Hands deliveries to those who wait.
pub struct PullActor {
    room: Room,
    outlets: HashMap<TakerId, Outlet>,
    demand: Arc<Demand>,
    nudge: Nudge,
    idle_after: Duration,
    /// Counts changes of who is there; a planned end sees by it whether somebody came.
    changes: u64,
}

impl PullActor {
    /// An actor that nobody waits at yet. It ends when nobody has been there for `idle_after`.
    #[must_use]
    pub fn new(demand: Arc<Demand>, nudge: Nudge, idle_after: Duration) -> Self {
        demand.set(0);
        Self { room: Room::default(), outlets: HashMap::new(), demand, nudge, idle_after, changes: 0 }
    }

    /// Says what is wanted now; the inbox looks when that is something.
    fn tell_demand(&self) {
        let wanted = self.room.wanted();
        self.demand.set(wanted);
        if wanted > 0 {
            (self.nudge)();
        }
    }

    fn remove(&mut self, id: TakerId, ctx: &mut Context<Self>) {
        self.room.leave(id);
        self.outlets.remove(&id);
        self.changes += 1;
        if self.room.is_empty() {
            let seen = self.changes;
            ctx.run_later(self.idle_after, move |actor, ctx| {
                if actor.changes == seen {
                    ctx.stop();
                }
            });
        }
    }

    /// Puts each delivery to whose turn it is. Returns what nobody wants.
    fn assign(&mut self, work: Vec<(Ticket, Arc<Event>)>) -> (HashMap<TakerId, Vec<Handed>>, Vec<Ticket>) {
        let mut given: HashMap<TakerId, Vec<Handed>> = HashMap::new();
        let mut polled_bytes: HashMap<TakerId, usize> = HashMap::new();
        let mut left = Vec::new();
        for (ticket, event) in work {
            let claim = ticket.claim();
            let Some(id) = self.room.assign(claim.seq, claim.epoch) else {
                left.push(ticket);
                continue;
            };
            match self.outlets.get(&id) {
                Some(Outlet::Stream(_, held)) => {
                    held.add(event.weight());
                    if held.note_full() {
                        self.room.set_full(id, true);
                    }
                }
                Some(Outlet::Poll(_)) | None => {
                    let bytes = polled_bytes.entry(id).or_default();
                    *bytes += event.weight();
                    if *bytes >= HELD_BYTES_MAX {
                        self.room.set_full(id, true);
                    }
                }
            }
            given.entry(id).or_default().push(Handed { ticket, event });
        }
        (given, left)
    }
}

impl Actor for PullActor {
    type Context = Context<Self>;
}

impl Drop for PullActor {
    fn drop(&mut self) {
        // Whoever waited is told by the loss of its channel; nothing more is claimed for them.
        self.demand.set(0);
    }
}

impl Handler<Deliver> for PullActor {
    type Result = ();

    fn handle(&mut self, Deliver { work }: Deliver, ctx: &mut Self::Context) {
        let (given, left) = self.assign(work);
        let served = self.room.take_served();
        // Said before anything counts as arrived or is given back, so that none is claimed twice (PU-1).
        self.demand.set(self.room.wanted());
        let mut gone = Vec::new();
        for (id, mut handed) in given {
            handed.iter_mut().for_each(|one| one.ticket.arrived());
            match self.outlets.get(&id) {
                Some(Outlet::Stream(out, _)) => {
                    let taken = handed.into_iter().all(|one| out.send(one).is_ok());
                    gone.extend((!taken).then_some(id));
                }
                Some(Outlet::Poll(_)) => {
                    if let Some(Outlet::Poll(reply)) = self.outlets.remove(&id) {
                        // Whoever asked may have gone: what comes back gives the claims back (PU-2).
                        drop(reply.send(handed));
                    }
                }
                None => {}
            }
        }
        drop(left);
        gone.into_iter().chain(served).for_each(|id| self.remove(id, ctx));
        self.tell_demand();
    }
}

impl Handler<Enter> for PullActor {
    type Result = ();

    fn handle(&mut self, Enter { id, taking, wants, outlet }: Enter, _: &mut Self::Context) {
        self.changes += 1;
        self.room.enter(id, taking, wants);
        self.outlets.insert(id, outlet);
        self.tell_demand();
    }
}

impl Handler<Leave> for PullActor {
    type Result = ();

    fn handle(&mut self, Leave(id): Leave, ctx: &mut Self::Context) {
        if self.outlets.contains_key(&id) {
            self.remove(id, ctx);
            self.demand.set(self.room.wanted());
        }
    }
}

impl Handler<Grant> for PullActor {
    type Result = ();

    fn handle(&mut self, Grant { id, more }: Grant, _: &mut Self::Context) {
        self.room.grant(id, more, CREDIT_MAX);
        self.tell_demand();
    }
}

impl Handler<Drained> for PullActor {
    type Result = ();

    fn handle(&mut self, Drained(id): Drained, _: &mut Self::Context) {
        self.room.set_full(id, false);
        self.tell_demand();
    }
}

impl Handler<Ended> for PullActor {
    type Result = ();

    fn handle(&mut self, Ended { seq, epoch }: Ended, _: &mut Self::Context) {
        self.room.ended(seq, epoch);
        self.tell_demand();
    }
}

impl Handler<Begun> for PullActor {
    type Result = ();

    fn handle(&mut self, _: Begun, _: &mut Self::Context) {
        self.room.all_ended();
        self.tell_demand();
    }
}

crate::supervised!(PullActor);
