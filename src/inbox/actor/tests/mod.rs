//! Router, inboxes, ledger and engine together, on one thread, with a scripted deliverer and a clock that the test moves:
//! whatever is stopped, panics or fails under load, every event is settled, and it is delivered again only where a
//! crash explains it.

mod crossings;
mod endpoint;
mod life;
mod replays;

use std::sync::Arc;
use std::sync::atomic::Ordering as Atomic;
use std::time::Duration;

use life::{Disk, START};

use crate::ground::clock::Clock as _;
use crate::ground::ids::Seq;
use crate::inbox::state::Ordering;
use crate::router::messages::CheckpointNow;
use crate::store::{ConsumerState as _, EventLog as _, Position};
use crate::supervise::PanicNow;

const ALL: [Ordering; 3] = [Ordering::None, Ordering::Key, Ordering::Strict];

#[actix::test]
async fn who_falls_behind_catches_up_and_gets_every_event_once() {
    let disk = Disk::new(&ALL);
    for endpoint in disk.endpoints() {
        endpoint.fails_every.store(11, Atomic::Relaxed);
    }
    let life = disk.start();
    life.append(1..401).await;
    life.until_all_accepted(&disk, 400).await;
    for endpoint in disk.endpoints() {
        assert_eq!(endpoint.doubled(), []);
        let failed = (1..=400).filter(|seq: &u64| seq.is_multiple_of(11)).count();
        assert_eq!(endpoint.attempts.lock().len(), 400 + 2 * failed, "each failure was tried again twice");
    }
    let order = |n: usize| disk.endpoint(n).order.lock().clone();
    assert!(order(2).windows(2).all(|pair| pair[0] < pair[1]), "strict order");
    for key in 0..5 {
        let of_key: Vec<Seq> = order(1).into_iter().filter(|seq| seq.0 % 5 == key).collect();
        assert!(of_key.windows(2).all(|pair| pair[0] < pair[1]), "order within the key {key}");
    }
    life.until_everyone_follows().await;
    life.kill().await;
}

#[actix::test]
async fn after_an_orderly_end_nothing_is_delivered_again() {
    let disk = Disk::new(&ALL);
    let life = disk.start();
    life.append(1..101).await;
    life.until_all_accepted(&disk, 100).await;
    life.until_everyone_follows().await;
    life.router.ask(CheckpointNow).await.expect("answers").expect("writes");
    life.kill().await;

    let life = disk.start();
    assert!(life.directory.running.lock().is_empty(), "who has nothing to do is not started");
    life.append(101..151).await;
    life.until_all_accepted(&disk, 150).await;
    for endpoint in disk.endpoints() {
        assert_eq!(endpoint.doubled(), []);
    }
    life.kill().await;
}

#[actix::test]
async fn what_was_unsettled_at_a_kill_is_delivered_by_the_next_life() {
    let disk = Disk::new(&ALL);
    disk.endpoint(0).fails_every.store(3, Atomic::Relaxed);
    for round in 0..6 {
        let life = disk.start();
        let first = round * 60 + 1;
        life.append(first..first + 60).await;
        // Killed at some point of the work, different each time.
        let at = round * 60 + round * 9;
        let endpoint = Arc::clone(disk.endpoint(0));
        life.until("some are accepted", move || endpoint.accepted.lock().len() as u64 >= at).await;
        life.kill().await;
    }
    let life = disk.start();
    life.until_all_accepted(&disk, 360).await;
    life.until_everyone_follows().await;
    life.kill().await;
}

#[actix::test]
async fn panics_under_load_lose_nothing() {
    let disk = Disk::new(&ALL);
    disk.endpoint(1).fails_every.store(4, Atomic::Relaxed);
    let life = disk.start();
    for round in 0..12 {
        let first = round * 30 + 1;
        life.append(first..first + 30).await;
        let running: Vec<_> = life.directory.running.lock().values().cloned().collect();
        match round % 3 {
            0 => running.iter().for_each(|inbox| inbox.hint(PanicNow)),
            1 => life.router.hint(PanicNow),
            _ => {
                life.router.hint(PanicNow);
                running.iter().for_each(|inbox| inbox.hint(PanicNow));
            }
        }
        for _ in 0..round {
            tokio::task::yield_now().await;
        }
    }
    life.until_all_accepted(&disk, 360).await;
    life.until_everyone_follows().await;
    life.kill().await;
}

#[actix::test]
async fn a_store_that_fails_under_load_loses_nothing() {
    let disk = Disk::new(&ALL);
    for endpoint in disk.endpoints() {
        endpoint.fails_every.store(5, Atomic::Relaxed);
    }
    let life = disk.start();
    for round in 0..4 {
        let first = round * 40 + 1;
        life.append(first..first + 20).await;
        life.engine.faults().fail_commits.store(1, Atomic::Relaxed);
        life.append(first + 20..first + 40).await;
    }
    let count = life.engine.head().0;
    assert!((160..=164).contains(&count), "an append that failed may be in the log");
    assert_eq!(life.engine.reopened(), 4);
    life.until_all_accepted(&disk, count).await;
    life.until_everyone_follows().await;
    life.kill().await;
}

#[actix::test]
async fn a_long_rest_ends_by_itself_and_doubles_nothing() {
    let disk = Disk::new(&[Ordering::None]);
    let life = disk.start();
    life.append(1..11).await;
    life.until_all_accepted(&disk, 10).await;
    disk.endpoint(0).busy_ms.store(60_000, Atomic::Relaxed);
    life.append(11..61).await;
    life.until_all_accepted(&disk, 60).await;
    assert!(life.clock.now().since_ms(START) >= 60_000, "the endpoint was left alone as long as it asked");
    assert_eq!(disk.endpoint(0).doubled(), []);
    life.until_everyone_follows().await;
    life.kill().await;
}

#[actix::test]
async fn an_idle_inbox_ends_and_the_next_event_makes_another_one() {
    let disk = Disk::new(&[Ordering::Key]);
    let life = disk.start_with(Duration::from_millis(3), Duration::from_millis(500));
    for round in 0..5 {
        let first = round * 10 + 1;
        life.append(first..first + 10).await;
        life.until_all_accepted(&disk, first + 9).await;
        let directory = Arc::clone(&life.directory);
        life.until("the inbox has ended", move || directory.running.lock().is_empty()).await;
    }
    assert_eq!(disk.endpoint(0).doubled(), []);
    life.kill().await;
}

#[actix::test]
async fn a_position_that_was_cleared_and_is_needed_again_is_in_the_next_checkpoint() {
    let disk = Disk::new(&[Ordering::None]);
    let endpoint = disk.endpoint(0);
    let life = disk.start_with(Duration::from_secs(3_600), Duration::from_secs(3_600));
    let checkpoint = || async { life.router.ask(CheckpointNow).await.expect("answers").expect("writes") };
    endpoint.holds.store(true, Atomic::Relaxed);
    life.append(1..2).await;
    let held = Arc::clone(endpoint);
    life.until("the first is out", move || held.held.lock().len() == 1).await;
    checkpoint().await;
    endpoint.release();
    life.until_everyone_follows().await;
    endpoint.holds.store(true, Atomic::Relaxed);
    life.append(2..3).await;
    let held = Arc::clone(endpoint);
    life.until("the second is out", move || held.held.lock().len() == 1).await;
    checkpoint().await;
    let kept = life.engine.checkpoints().expect("reads");
    assert_eq!(kept.router, Some(Seq(2)));
    assert_eq!(kept.consumers, [(disk.consumers[0].0.clone(), Position::at(Seq(1)))], "the second is not settled");
    endpoint.release();
    life.until_everyone_follows().await;
    checkpoint().await;
    assert_eq!(life.engine.checkpoints().expect("reads").consumers, []);
    life.kill().await;
}
