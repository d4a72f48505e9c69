//! The actor of one upstream: it takes calls and has each made as a task of its own, on the thread whose connections they
//! use. It holds nothing that a restart would lose: bucket, breaker and series are beside it.

use std::sync::Arc;

use actix::{Actor, Context, Handler, Message};
use tokio::sync::oneshot;

use super::adapter::AdapterContext;
use super::call::{Answer, Call, CallError};
use super::health::{Report, check};
use super::perform::Core;

/// Make this call.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Perform {
    /// What is asked.
    pub call: Call,
    /// In which context.
    pub context: AdapterContext,
    /// Who waits for the answer; it may have gone away.
    pub reply: oneshot::Sender<Result<Answer, CallError>>,
}

/// See whether it is there.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Check {
    /// In which context.
    pub context: AdapterContext,
    /// Who waits for the answer; it may have gone away.
    pub reply: oneshot::Sender<Report>,
}

/// Calls one upstream.
pub struct UpstreamActor {
    core: Arc<Core>,
}

impl UpstreamActor {
    /// Nothing is called before a message comes.
    #[must_use]
    pub fn new(core: Arc<Core>) -> Self {
        Self { core }
    }
}

impl Actor for UpstreamActor {
    type Context = Context<Self>;
}

impl Handler<Perform> for UpstreamActor {
    type Result = ();

    fn handle(&mut self, Perform { call, context, reply }: Perform, _: &mut Self::Context) {
        let core = Arc::clone(&self.core);
        actix::spawn(async move {
            // Who asked may have gone away; what was begun is ended all the same.
            reply.send(core.perform(call, context).await).ok();
        });
    }
}

impl Handler<Check> for UpstreamActor {
    type Result = ();

    fn handle(&mut self, Check { context, reply }: Check, _: &mut Self::Context) {
        let core = Arc::clone(&self.core);
        actix::spawn(async move {
            reply.send(check(&core, context).await).ok();
        });
    }
}

crate::supervised!(UpstreamActor);
