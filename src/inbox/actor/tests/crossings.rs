//! Messages that cross: one life of an actor has sent them, another one takes them.

use std::sync::Arc;
use std::sync::atomic::Ordering as Atomic;
use std::time::Duration;

use super::life::{Disk, Life};
use crate::ground::ids::{ConsumerId, Seq};
use crate::inbox::actor::InboxActor;
use crate::inbox::messages::Offer;
use crate::inbox::state::Ordering;
use crate::router::messages::CheckpointNow;
use crate::store::StateOp;
use crate::store::records::{RowRecord, RowState};
use crate::supervise::{Handle, PanicNow, Stop};

const NEVER: Duration = Duration::from_secs(3_600);

fn the_inbox(life: &Life) -> Handle<InboxActor> {
    life.directory.running.lock().values().next().cloned().expect("it runs")
}

/// Gives the ledger so much to write that whoever starts now reads its state a good while later.
fn keep_the_ledger_busy(life: &Life) {
    let nobody = ConsumerId::new("nobody");
    let row = RowRecord {
        state: RowState::Held,
        attempts: 0,
        key: 0,
        epoch: 0,
        first_attempt: None,
        last_attempt: None,
        last_error: None,
        replay: None,
    };
    let rows = (1..50_000).map(|seq| StateOp::PutRow(nobody.clone(), Seq(seq), row.clone()));
    life.ledger.session().commit(rows.collect());
}

#[actix::test]
async fn an_offer_from_before_a_panic_of_the_router_hides_nothing_that_lies_before_it() {
    let mut disk = Disk::new(&[Ordering::None]);
    disk.poll_every = NEVER;
    let life = disk.start_with(NEVER, NEVER);
    life.append(1..11).await;
    life.until_all_accepted(&disk, 10).await;
    life.until_everyone_follows().await;
    life.router.ask(CheckpointNow).await.expect("answers").expect("writes");
    // The router's next life begins at 10, and so many events later that the tail no longer holds the next ones.
    life.append(11..311).await;
    life.until_all_accepted(&disk, 310).await;
    life.until_everyone_follows().await;

    let (lost, stale) = (life.append_silently(311..316), life.append_silently(316..321));
    let inbox = the_inbox(&life);
    keep_the_ledger_busy(&life);
    inbox.hint(PanicNow);
    while inbox.is_running() {
        tokio::task::yield_now().await;
    }
    life.hand_on(lost).await;
    while !inbox.is_running() {
        tokio::task::yield_now().await;
    }
    // The inbox's next life finds these in its mailbox when it has read its state.
    life.hand_on(stale).await;
    life.router.hint(PanicNow);
    life.until_all_accepted(&disk, 320).await;
    life.until_everyone_follows().await;
    life.kill().await;
}

#[actix::test]
async fn an_offer_that_leaves_something_out_makes_the_inbox_read_the_log() {
    let mut disk = Disk::new(&[Ordering::Key]);
    disk.poll_every = NEVER;
    let life = disk.start();
    life.append(1..11).await;
    life.until_all_accepted(&disk, 10).await;
    life.until_everyone_follows().await;
    let events = life.append_silently(11..16);
    the_inbox(&life).hint(Offer { after: Seq(14), events: vec![Arc::clone(&events[4])], permit: None });
    life.hand_on(events).await;
    life.until_all_accepted(&disk, 15).await;
    assert_eq!(disk.endpoint(0).doubled(), []);
    life.until_everyone_follows().await;
    life.kill().await;
}

#[actix::test]
async fn an_inbox_that_ended_with_something_unsettled_is_started_again() {
    let disk = Disk::new(&[Ordering::Strict]);
    let life = disk.start();
    disk.endpoint(0).holds.store(true, Atomic::Relaxed);
    life.append(1..4).await;
    let held = Arc::clone(disk.endpoint(0));
    life.until("the first is out", move || held.held.lock().len() == 1).await;
    let inbox = the_inbox(&life);
    inbox.hint(Stop);
    life.until("it has ended", move || inbox.has_stopped()).await;
    disk.endpoint(0).held.lock().clear();
    disk.endpoint(0).holds.store(false, Atomic::Relaxed);
    life.until_all_accepted(&disk, 3).await;
    life.until_everyone_follows().await;
    life.kill().await;
}
