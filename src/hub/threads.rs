//! The threads of a hub: an actor system of its own, so that a hub can be used from any runtime.

use actix::{Arbiter, ArbiterHandle};
use tokio::sync::oneshot;

/// The threads of a hub.
pub(super) struct Threads {
    pub(super) core: ArbiterHandle,
    pub(super) lanes: Vec<ArbiterHandle>,
    pub(super) life: ThreadsLife,
}

/// Ends the threads when it is dropped.
pub(super) struct ThreadsLife {
    end: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl ThreadsLife {
    /// Ends the threads, with every actor on them, and waits until they have.
    pub(super) async fn end(self) {
        // Fails when the threads have ended, which is what is wanted.
        self.end.send(()).ok();
        self.ended.await.ok();
    }
}

/// Starts an actor system on a thread of its own, with one arbiter for outbox and router and one per delivery lane.
pub(super) fn start_threads(lanes: usize) -> std::io::Result<Threads> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let (end, asked) = oneshot::channel::<()>();
    let (done, ended) = oneshot::channel::<()>();
    std::thread::Builder::new().name("hub".into()).spawn(move || {
        actix::System::new().block_on(async move {
            let core = Arbiter::new();
            let lanes: Vec<Arbiter> = (0..lanes).map(|_| Arbiter::new()).collect();
            let handles = (core.handle(), lanes.iter().map(Arbiter::handle).collect::<Vec<_>>());
            if sender.send(handles).is_ok() {
                // Ends when the hub stops, or when its last handle is dropped.
                asked.await.ok();
            }
            for arbiter in lanes.into_iter().chain([core]) {
                arbiter.stop();
                if arbiter.join().is_err() {
                    tracing::error!("a thread of the hub ended with a panic");
                }
            }
        });
        // Whoever stopped the hub may not wait.
        done.send(()).ok();
    })?;
    let (core, lanes) = receiver.recv().map_err(std::io::Error::other)?;
    Ok(Threads { core, lanes, life: ThreadsLife { end, ended } })
}
