//! Events given out again beside live traffic, over kills, panics and a store that fails.

use std::sync::Arc;
use std::sync::atomic::Ordering as Atomic;

use super::ALL;
use super::life::{Disk, Life, START};
use crate::ground::ids::{ConsumerId, Seq};
use crate::inbox::actor::lane_key;
use crate::inbox::messages::{Hasten, HastenAnswer, Replay, ReplayAnswer, ReplayItem};
use crate::inbox::state::{Ordering, REPLAYS_MAX};
use crate::router::Inboxes as _;
use crate::store::records::{DeadLetterRecord, ReplayMark};
use crate::store::{ConsumerState as _, EventLog as _, StateOp};
use crate::supervise::PanicNow;

fn item(life: &Life, seq: u64) -> ReplayItem {
    let event = life.engine.get(Seq(seq)).expect("reads").expect("is there");
    ReplayItem { seq: Seq(seq), key: lane_key(&event), mark: ReplayMark::default(), letter: None }
}

/// Asks until there is an answer: the inbox may be between two lives.
async fn replay(life: &Life, consumer: &ConsumerId, items: Vec<ReplayItem>) -> Vec<ReplayAnswer> {
    for _ in 0..20_000 {
        let inbox = life.directory.start(consumer).expect("is known");
        if let Ok(Ok(answers)) = inbox.ask(Replay { items: items.clone() }).await {
            return answers;
        }
        tokio::task::yield_now().await;
        life.clock.advance(std::time::Duration::from_millis(50));
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    panic!("{consumer} does not answer");
}

#[actix::test]
async fn what_was_asked_for_again_comes_again_in_the_order_of_its_keys_beside_live_traffic() {
    let disk = Disk::new(&ALL);
    let life = disk.start();
    life.append(1..201).await;
    life.until_all_accepted(&disk, 200).await;
    for endpoint in disk.endpoints() {
        endpoint.order.lock().clear();
        endpoint.fails_every.store(7, Atomic::Relaxed);
    }
    for (consumer, _, _) in &disk.consumers {
        let answers = replay(&life, consumer, (51..151).map(|seq| item(&life, seq)).collect()).await;
        assert!(answers.iter().all(|answer| *answer == ReplayAnswer::Taken));
    }
    life.append(201..301).await;
    life.until_all_accepted(&disk, 300).await;
    for (n, endpoint) in disk.endpoints().into_iter().enumerate() {
        let again = Arc::clone(&endpoint);
        life.until("all came again", move || (51..151).all(|seq| again.accepted.lock()[&Seq(seq)] == 2)).await;
        let accepted = endpoint.accepted.lock().clone();
        assert!(accepted.iter().all(|(seq, times)| *times == if (51..151).contains(&seq.0) { 2 } else { 1 }));
        let order = endpoint.order.lock().clone();
        let groups: Vec<Vec<Seq>> = match n {
            0 => Vec::new(),
            1 => (0..5).map(|key| order.iter().copied().filter(|seq| seq.0 % 5 == key).collect()).collect(),
            _ => vec![order],
        };
        for group in groups {
            let (again, live): (Vec<Seq>, Vec<Seq>) = group.into_iter().partition(|seq| seq.0 <= 200);
            assert!(again.windows(2).all(|pair| pair[0] < pair[1]) && live.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
    life.until_everyone_follows().await;
    life.kill().await;
}

#[actix::test]
async fn rows_of_a_replay_outlive_panics_kills_and_failures_of_the_store() {
    let disk = Disk::new(&[Ordering::Key]);
    let (consumer, endpoint) = (disk.consumers[0].0.clone(), Arc::clone(disk.endpoint(0)));
    let mut life = disk.start();
    life.append(1..121).await;
    life.until_all_accepted(&disk, 120).await;
    life.until_everyone_follows().await;
    life.router.ask(crate::router::messages::CheckpointNow).await.expect("answers").expect("writes");
    for round in 0..6_u64 {
        endpoint.holds.store(true, Atomic::Relaxed);
        let range = round * 20 + 1..round * 20 + 21;
        let answers = replay(&life, &consumer, range.clone().map(|seq| item(&life, seq)).collect()).await;
        assert!(answers.iter().all(|answer| *answer == ReplayAnswer::Taken), "{answers:?}");
        let again = replay(&life, &consumer, range.clone().map(|seq| item(&life, seq)).collect()).await;
        assert!(again.iter().all(|answer| *answer == ReplayAnswer::UnderWay), "RP-1: {again:?}");
        match round % 3 {
            0 => life.directory.running(&consumer).expect("runs").hint(PanicNow),
            1 => life.engine.faults().fail_commits.store(1, Atomic::Relaxed),
            _ => {
                // What is synced after the answer carries the rows: a crash cannot take them.
                life.kill().await;
                life = disk.start();
            }
        }
        endpoint.holds.store(false, Atomic::Relaxed);
        endpoint.held.lock().clear();
        let came = Arc::clone(&endpoint);
        life.until("all came again", move || range.clone().all(|seq| came.accepted.lock()[&Seq(seq)] >= 2)).await;
        let (engine, of) = (Arc::clone(&life.engine), consumer.clone());
        life.until("no row is left", move || engine.rows(&of).is_ok_and(|rows| rows.is_empty())).await;
    }
    life.until_everyone_follows().await;
    life.kill().await;
}

#[actix::test]
async fn a_full_lane_takes_no_more_and_says_so() {
    let disk = Disk::new(&[Ordering::None]);
    let (consumer, endpoint) = (disk.consumers[0].0.clone(), Arc::clone(disk.endpoint(0)));
    let life = disk.start();
    let count = REPLAYS_MAX as u64 + 50;
    let events = life.append_silently(1..count + 1);
    life.hand_on(events).await;
    life.until_all_accepted(&disk, count).await;
    endpoint.holds.store(true, Atomic::Relaxed);
    let answers = replay(&life, &consumer, (1..count + 1).map(|seq| item(&life, seq)).collect()).await;
    let (taken, full) = answers.split_at(REPLAYS_MAX);
    assert!(taken.iter().all(|answer| *answer == ReplayAnswer::Taken));
    assert!(full.iter().all(|answer| *answer == ReplayAnswer::Full));
    endpoint.release();
    let came = Arc::clone(&endpoint);
    life.until("those taken came again", move || came.accepted.lock().values().sum::<u32>() as u64 == count + 1_000)
        .await;
    life.kill().await;
}

#[actix::test]
async fn an_event_that_the_log_has_dropped_comes_again_from_its_dead_letter() {
    let disk = Disk::new(&[Ordering::Key]);
    let (consumer, endpoint) = (disk.consumers[0].0.clone(), Arc::clone(disk.endpoint(0)));
    let life = disk.start();
    life.append(1..251).await;
    life.until_all_accepted(&disk, 250).await;
    let mut letter = DeadLetterRecord {
        id: "dlq_1".to_owned(),
        at: START,
        consumer: consumer.clone(),
        seq: Seq(3),
        event_id: "e3".to_owned(),
        event_type: "a.b".to_owned(),
        org: "acme".to_owned(),
        correlation_id: None,
        event: br#"{"id":"e3","type":"a.b","org":"acme","ordering_key":"k3","seq":3}"#.to_vec(),
        error_message: "status 500".to_owned(),
        error_kind: "status".to_owned(),
        error_code: Some(500),
        error_detail: String::new(),
        attempts: 3,
        first_attempt: None,
        last_attempt: None,
        closed: None,
        earlier: None,
    };
    let put = StateOp::PutDeadLetter(Box::new(letter.clone()));
    life.ledger.session().commit_synced(vec![put]).await.expect("writes");
    life.engine.truncate(Seq(150)).expect("truncates");
    assert!(life.engine.get(Seq(3)).expect("reads").is_none());
    letter.error_message = "closed".to_owned();
    let mark = ReplayMark { job: None, dead_letter: Some("dlq_1".to_owned()) };
    let items = vec![ReplayItem { seq: Seq(3), key: 3, mark, letter: Some(Box::new(letter.clone())) }];
    assert_eq!(replay(&life, &consumer, items).await, [ReplayAnswer::Taken]);
    assert_eq!(life.engine.dead_letter("dlq_1").expect("reads"), Some(letter), "written with the row");
    let came = Arc::clone(&endpoint);
    life.until("it came again", move || came.accepted.lock()[&Seq(3)] == 2).await;
    // One that neither the log nor a dead letter has is given up, and the others go on.
    let lost = ReplayItem { seq: Seq(4), key: 4, mark: ReplayMark::default(), letter: None };
    assert_eq!(replay(&life, &consumer, vec![lost, item(&life, 200)]).await, [ReplayAnswer::Taken; 2]);
    let came = Arc::clone(&endpoint);
    life.until("the other came again", move || came.accepted.lock()[&Seq(200)] == 2).await;
    let (engine, of) = (Arc::clone(&life.engine), consumer.clone());
    life.until("no row is left", move || engine.rows(&of).is_ok_and(|rows| rows.is_empty())).await;
    assert_eq!(endpoint.accepted.lock()[&Seq(4)], 1);
    life.kill().await;
}

#[actix::test]
async fn a_failed_event_is_tried_before_its_time_when_somebody_asks() {
    let mut disk = Disk::new(&[Ordering::None]);
    let delays_ms = vec![24 * 3_600_000];
    disk.consumers[0].1.retry = crate::retry::RetryPolicy::Fixed { attempts_max: 9, delays_ms, jitter: 0.0 };
    let (consumer, endpoint) = (disk.consumers[0].0.clone(), Arc::clone(disk.endpoint(0)));
    endpoint.fails_every.store(2, Atomic::Relaxed);
    let life = disk.start();
    life.append(1..3).await;
    let tried = Arc::clone(&endpoint);
    life.until("both were tried", move || tried.attempts.lock().len() == 2).await;
    let inbox = life.directory.start(&consumer).expect("is known");
    inbox.ask(crate::inbox::messages::Publish).await.expect("answers").expect("writes");
    let rows = life.engine.rows(&consumer).expect("reads");
    assert_eq!(rows.len(), 1);
    let mut asked = rows.clone();
    asked.push((Seq(1), rows[0].1.clone()));
    let answers = inbox.ask(Hasten { rows: asked }).await.expect("answers").expect("writes");
    assert_eq!(answers, [HastenAnswer::Due, HastenAnswer::Settled]);
    let tried = Arc::clone(&endpoint);
    life.until("it was tried again", move || tried.attempts.lock().len() == 3).await;
    assert!(crate::ground::clock::Clock::now(&*life.clock).since_ms(START) < 24 * 3_600_000);
    life.kill().await;
}
