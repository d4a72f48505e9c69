//! What is told of deliveries whose attempts all end in one millisecond: under a clock that stands still (WHK-9, RTY-4).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tidegate::ground::clock::ManualClock;
use tidegate::ground::context::WriteContext;
use tidegate::handler::HandlerError;
use tidegate::hub::{ExplainQuery, Hub, LetterQuery, LetterState};

use crate::embed::{Calls, START, directory, open, publish, stop_settled, subscribe, wait_standing};
use crate::support::until;

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("a text: {value}")).to_owned()
}

/// The ids of the open dead letters, by event.
async fn open_letters(hub: &Hub) -> BTreeMap<String, String> {
    let query = LetterQuery { state: Some(LetterState::Open), limit: 100, ..LetterQuery::default() };
    let letters = hub.blocking(move |hub| hub.dead_letters(&query)).await.unwrap().items;
    letters.iter().map(|one| (text(&one["event_id"]), text(&one["id"]))).collect()
}

async fn redrive(hub: &Hub, letter: &str) {
    let context = WriteContext { by: "a test".into(), at: hub.clock().now(), ..WriteContext::default() };
    hub.redrive_letter(letter, None, context).await.unwrap();
}

/// What is told of an event and the one consumer there is.
async fn delivery(hub: &Hub, event: &str) -> Value {
    let told = hub.explain(event, None, ExplainQuery { consumer: None, after: None, limit: 10 }).await.unwrap();
    assert_eq!(told["consumers"].as_array().map(Vec::len), Some(1), "{told}");
    told["consumers"][0]["delivery"].clone()
}

#[tokio::test]
async fn an_event_that_is_redriven_well_in_the_millisecond_in_which_it_was_given_up_is_delivered() {
    let dir = directory();
    let clock = ManualClock::starting_at(START);
    let hub = open(dir.path(), clock.clone(), |config| config.outbox.max_attempts = 2).await;
    let (calls, mended) = (Calls::default(), Arc::new(AtomicBool::new(false)));
    let works = Arc::clone(&mended);
    subscribe(&hub, "*", "ops", &calls, move |_| {
        if works.load(Ordering::Acquire) { Ok(()) } else { Err(HandlerError::retry("not yet")) }
    })
    .await;
    publish(&hub, "a.b", "x").await;
    wait_standing(&hub, "x", "ops", "failed", 1).await;
    clock.advance(Duration::from_secs(1));
    wait_standing(&hub, "x", "ops", "dead_letter", 2).await;
    let letter = open_letters(&hub).await["x"].clone();
    assert_eq!(delivery(&hub, "x").await["dead_letter_id"], letter);

    mended.store(true, Ordering::Release);
    redrive(&hub, &letter).await;
    calls.wait("x", &[1, 2, 1]).await;
    wait_standing(&hub, "x", "ops", "processed", 1).await;
    let told = delivery(&hub, "x").await;
    assert_eq!((&told["state"], &told["attempt"]), (&"delivered".into(), &1.into()), "{told}");
    stop_settled(&hub).await;
}

#[tokio::test]
async fn of_two_dead_letters_that_one_event_left_in_one_millisecond_the_second_is_told() {
    const EVENTS: usize = 16;
    let dir = directory();
    let hub = open(dir.path(), ManualClock::starting_at(START), |_| {}).await;
    let calls = Calls::default();
    subscribe(&hub, "*", "ops", &calls, |_| Err(HandlerError::rejected("never"))).await;
    for n in 0..EVENTS {
        publish(&hub, "a.b", &format!("{n}")).await;
    }
    let letters = async |hub: &Hub| {
        let letters = open_letters(hub).await;
        (letters.len() == EVENTS).then_some(letters)
    };
    let first = until("every event is given up", || letters(&hub)).await;
    for letter in first.values() {
        redrive(&hub, letter).await;
    }
    let second = until("every event is given up again", || async {
        letters(&hub).await.filter(|letters| letters.iter().all(|(event, id)| first[event] != *id))
    })
    .await;
    for (event, letter) in &second {
        let told = delivery(&hub, event).await;
        assert_eq!((&told["state"], &told["dead_letter_id"]), (&"dead".into(), &letter.as_str().into()), "{told}");
    }
    stop_settled(&hub).await;
}
