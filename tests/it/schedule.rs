//! Scheduled events: held back until they are due, listed, shown, cancelled; one event an id whatever comes when; bad
//! input by name (ING-7). What a kill does to them is in `crash_schedule`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::ground::clock::{ManualClock, SystemClock};
use tidegate::ground::error::ProblemKind;
use tidegate::handler::NewEvent;

use crate::embed::{Calls, START, directory, open, subscribe};
use crate::support::{Api, Hub, Receiver, items, until};

async fn listed(api: &Api) -> Vec<String> {
    let page = api.get("/v1/scheduled").await.expect(200).json();
    items(&page).iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn an_event_is_held_back_until_it_is_due_and_delivered_then() {
    let mut hub = Hub::start().await;
    let receiver = Receiver::start();
    let key = hub.key(&["publish", "read", "manage"], Some("acme")).await;
    let acme = hub.public(&key);
    acme.webhook(&json!({"url": receiver.url("/all"), "org": "acme", "event_types": ["*"]})).await;
    let event = json!({"id": "soon", "type": "a.b", "delay": "1500ms", "data": {"n": 12_345_678_901_234_567_890_u64}});
    let receipt = acme.post("/v1/events", &event).await.expect(202).json();
    assert_eq!((&receipt["id"], &receipt["seq"], &receipt["duplicate"]), (&json!("soon"), &Value::Null, &json!(false)));
    assert_eq!(receipt["scheduled"], true);
    let again = acme.post("/v1/events", &event).await;
    // By now it may have been released.
    assert_eq!(again.expect(200).json()["duplicate"], true);
    let far = json!({"id": "far", "type": "a.b", "deliver_at": "2027-01-02T03:04:05+01:00"});
    let receipt = acme.post("/v1/events", &far).await.expect(202).json();
    assert_eq!(receipt["deliver_at"], "2027-01-02T02:04:05.000Z");
    let past = json!({"id": "past", "type": "a.b", "deliver_at": "2001-01-01T00:00:00Z"});
    let receipt = acme.post("/v1/events", &past).await.expect(202).json();
    assert!(receipt["seq"].is_u64() && receipt.get("scheduled").is_none(), "{receipt}");

    for delivery in receiver.wait_for("/all", 2).await {
        assert!(["soon", "past"].contains(&delivery.id()), "{}", delivery.id());
    }
    let event = acme.get("/v1/events/soon").await.expect(200).json();
    assert_eq!(event["data"]["n"], 12_345_678_901_234_567_890_u64);
    assert!(receipt["seq"].as_u64() < event["seq"].as_u64(), "its place is that of its release: {event}");
    acme.get("/v1/events/far").await.expect_problem(404, "not-found");

    // What waits outlives the process.
    assert!(hub.terminate().await.success());
    hub.restart().await;
    let acme = hub.public(&key);
    assert_eq!(listed(&acme).await, ["far"]);
    let shown = acme.get("/v1/scheduled/far").await.expect(200).json();
    assert_eq!(shown["event"], far);
    assert_eq!((&shown["org"], &shown["type"]), (&json!("acme"), &json!("a.b")));
    assert!(shown["created"]["by"].as_str().unwrap().starts_with("key:"), "{shown}");
}

#[tokio::test]
async fn a_cancelled_event_is_gone_and_a_released_one_cannot_be_cancelled() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    acme.post("/v1/events", &json!({"id": "c-1", "type": "a.b", "delay": 3_600})).await.expect(202);
    acme.delete("/v1/scheduled/c-1").await.expect(204);
    acme.delete("/v1/scheduled/c-1").await.expect_problem(404, "not-found");
    acme.get("/v1/scheduled/c-1").await.expect_problem(404, "not-found");
    // The id is free again, for now as for later.
    acme.post("/v1/events", &json!({"id": "c-1", "type": "other.type"})).await.expect(202);
    acme.delete("/v1/scheduled/c-1").await.expect_problem(409, "conflict");
    acme.get("/v1/scheduled/c-1").await.expect_problem(409, "conflict");
    assert!(listed(&acme).await.is_empty());
}

#[tokio::test]
async fn an_id_is_one_event_whether_it_waits_or_not() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let waits = json!({"id": "one", "type": "a.b", "deliver_at": "2027-01-02T03:04:05Z"});
    acme.post("/v1/events", &waits).await.expect(202);
    let again = acme.post("/v1/events", &waits).await.expect(200).json();
    assert_eq!((&again["duplicate"], &again["scheduled"]), (&json!(true), &json!(true)));
    for other in [json!({"id": "one", "type": "a.b"}), json!({"id": "one", "type": "a.b", "delay": 9})] {
        acme.post("/v1/events", &other).await.expect_problem(409, "id-conflict");
        let batch = acme.post("/v1/events/batch", &json!([other, {"type": "a.b"}])).await.expect(202).json();
        assert_eq!(batch["results"][0]["error"]["field"], "id", "{batch}");
        assert!(batch["results"][1]["seq"].is_u64(), "{batch}");
        acme.post("/v1/events/batch?atomic=true", &json!([{"type": "x.y"}, other])).await.expect_any(&[400, 409]);
    }
    acme.post("/v1/events", &json!({"id": "two", "type": "a.b"})).await.expect(202);
    let late = json!({"id": "two", "type": "a.b", "delay": 9});
    acme.post("/v1/events", &late).await.expect_problem(409, "id-conflict");
    // The same id in another org is another event.
    let any = hub.public(&hub.key(&["publish", "read"], None).await);
    let globex = json!({"id": "one", "type": "a.b", "org": "globex", "delay": 3_600});
    any.post("/v1/events", &globex).await.expect(202);
    any.get("/v1/scheduled/one").await.expect_problem(400, "invalid-parameter");
    any.delete("/v1/scheduled/one").await.expect_problem(400, "invalid-parameter");
    let shown = any.get("/v1/scheduled/one?org=globex").await.expect(200).json();
    assert_eq!(shown["org"], "globex");
    any.delete("/v1/scheduled/one?org=globex").await.expect(204);
    assert_eq!(listed(&any).await, ["one"]);
}

#[tokio::test]
async fn batches_streams_and_cloud_events_schedule_as_well() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let batch = json!([{"id": "b-1", "type": "a.b", "delay": "2h"}, {"id": "b-2", "type": "a.b"},
        {"id": "b-3", "type": "a.b", "delay": "never"}, {"id": "b-1", "type": "a.b", "delay": "2h"}]);
    let answer = acme.post("/v1/events/batch", &batch).await.expect(202).json();
    assert_eq!((&answer["accepted"], &answer["rejected"]), (&json!(3), &json!(1)), "{answer}");
    let results = answer["results"].as_array().unwrap();
    assert_eq!((&results[0]["scheduled"], &results[0]["duplicate"]), (&json!(true), &json!(false)));
    assert!(results[1]["seq"].is_u64(), "{answer}");
    assert_eq!(results[2]["error"]["field"], "delay");
    assert_eq!((&results[3]["scheduled"], &results[3]["duplicate"]), (&json!(true), &json!(true)));

    let lines = "{\"id\":\"s-1\",\"type\":\"a.b\",\"delay\":7200}\n{\"id\":\"s-2\",\"type\":\"a.b\"}\n";
    let answer = acme.post_bytes("/v1/events/stream", "application/x-ndjson", lines.into()).await.expect(200);
    let results: Vec<Value> = answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&results[0]["scheduled"], &results[1]["duplicate"]), (&json!(true), &json!(false)));

    let structured = json!({"specversion": "1.0", "id": "ce-1", "source": "/s", "type": "a.b", "delay": 7_200});
    let type_of = "application/cloudevents+json";
    acme.post_bytes("/v1/events", type_of, structured.to_string().into()).await.expect(202);
    assert_eq!(listed(&acme).await, ["b-1", "s-1", "ce-1"]);
    acme.post("/v1/events/batch?atomic=true", &batch).await.expect_problem(400, "invalid-field");
}

#[tokio::test]
async fn a_list_is_cut_into_pages_in_the_order_of_time() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let event = |n: u64| json!({"id": format!("p-{n}"), "type": "a.b", "delay": 10_000 - n});
    let batch: Vec<Value> = (0..25).map(event).collect();
    acme.post("/v1/events/batch", &json!(batch)).await.expect(202);
    let (mut ids, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = acme.get(&format!("/v1/scheduled?limit=10&cursor={cursor}")).await.expect(200).json();
        ids.extend(items(&page).iter().map(|one| one["id"].as_str().unwrap().to_owned()));
        cursor = page["next_cursor"].as_str().unwrap().to_owned();
        if page["has_more"] == false {
            break;
        }
    }
    assert_eq!(ids, (0..25).rev().map(|n| format!("p-{n}")).collect::<Vec<_>>());
    for bad in ["limit=0", "limit=x", "cursor=x", "cursor=1.x", "colour=1"] {
        acme.get(&format!("/v1/scheduled?{bad}")).await.expect_problem(400, "invalid-parameter");
    }
}

#[tokio::test]
async fn what_does_not_fit_is_refused_with_its_bound() {
    let hub = Hub::start_with(&[("SCHEDULE__EVENTS_MAX", "3"), ("SCHEDULE__AHEAD_MS_MAX", "86400000")]).await;
    let acme = hub.acme().await;
    for (field, event) in [
        ("deliver_at", json!({"type": "a.b", "deliver_at": "soon"})),
        ("deliver_at", json!({"type": "a.b", "deliver_at": 5})),
        ("deliver_at", json!({"type": "a.b", "deliver_at": "9999-01-01T00:00:00Z"})),
        ("deliver_at", json!({"type": "a.b", "delay": "2d"})),
        ("delay", json!({"type": "a.b", "delay": -1})),
        ("delay", json!({"type": "a.b", "delay": "1 fortnight"})),
        ("delay", json!({"type": "a.b", "delay": 1, "deliver_at": "2026-12-01T00:00:00Z"})),
    ] {
        let problem = acme.post("/v1/events", &event).await.expect_problem(400, "invalid-field").json();
        assert_eq!(problem["field"], field, "{problem}");
        assert!(problem["limit"].is_string() && problem["sent"].is_string(), "{problem}");
    }
    for n in 0..3 {
        acme.post("/v1/events", &json!({"id": format!("f-{n}"), "type": "a.b", "delay": 3_600})).await.expect(202);
    }
    let full = acme.post("/v1/events", &json!({"type": "a.b", "delay": 3_600})).await;
    let full = full.expect_problem(503, "overloaded");
    assert_eq!(full.json()["bound"], "schedule.events_max");
    assert_eq!(full.header("retry-after"), Some("60"));
    acme.post("/v1/events", &json!({"type": "a.b"})).await.expect(202);
    acme.delete("/v1/scheduled/f-1").await.expect(204);
    acme.post("/v1/events", &json!({"type": "a.b", "delay": 3_600})).await.expect(202);
    let metrics = hub.admin().get("/metrics").await.expect(200).text;
    assert!(metrics.contains("tidegate_scheduled_events 3\n"), "{metrics}");
    assert!(metrics.contains("tidegate_schedule_ended_total{outcome=\"cancelled\"} 1\n"), "{metrics}");
}

#[tokio::test]
async fn on_a_clock_that_the_test_drives_nothing_comes_before_its_time() {
    let dir = directory();
    let clock = ManualClock::starting_at(START);
    let hub = open(dir.path(), clock.clone(), |_| {}).await;
    let calls = Calls::default();
    subscribe(&hub, "*", "all", &calls, |_| Ok(())).await;
    let event = |id: &str, ms: u64| NewEvent::new("a.b").id(id).org("acme").deliver_at(START.plus_ms(ms).to_rfc3339());
    for (id, ms) in [("year", 300 * 86_400_000), ("hour", 3_600_000), ("minute", 60_000)] {
        let receipt = hub.publish(&event(id, ms)).await.unwrap();
        assert_eq!((receipt.deliver_at, receipt.seq.0), (Some(START.plus_ms(ms)), 0));
    }
    let refused = hub.publish(&event("too far", 367 * 86_400_000)).await.unwrap_err();
    assert_eq!((refused.kind, refused.field.as_deref()), (ProblemKind::InvalidField, Some("deliver_at")));
    clock.advance(Duration::from_millis(59_999));
    hub.publish(&NewEvent::new("a.b").id("now").org("acme")).await.unwrap();
    calls.wait("now", &[1]).await;
    assert_eq!(calls.ids(), ["now"]);
    clock.advance(Duration::from_millis(1));
    calls.wait("minute", &[1]).await;
    clock.advance(Duration::from_secs(3_600));
    calls.wait("hour", &[1]).await;
    // Over a stop and a start, and on a clock that went on meanwhile.
    hub.stop().await;
    drop(hub);
    clock.advance(Duration::from_secs(300 * 86_400));
    let hub = open(dir.path(), clock.clone(), |config| config.log.retention_ms = u64::MAX / 4).await;
    subscribe(&hub, "*", "all", &calls, |_| Ok(())).await;
    calls.wait("year", &[1]).await;
    assert_eq!(calls.ids(), ["now", "minute", "hour", "year"]);
    hub.stop().await;
}

/// The interleaving to fear: an event on its way to the log while another with its id is being scheduled. Both taken would
/// mean that one is acknowledged and never comes.
#[tokio::test]
async fn of_many_at_once_with_one_id_exactly_one_is_taken() {
    let dir = directory();
    let hub = open(dir.path(), SystemClock::shared(), |_| {}).await;
    let due = hub.clock().now().plus_ms(3_600_000).to_rfc3339();
    for round in 0..150 {
        let tasks: Vec<_> = (0..8)
            .map(|n| {
                let hub = hub.clone();
                let event = NewEvent::new("a.b").id(format!("race-{round}")).org("acme").data(json!({"n": n}));
                let event = if n % 2 == 0 { event } else { event.deliver_at(due.clone()) };
                tokio::spawn(async move { hub.publish(&event).await })
            })
            .collect();
        let mut taken = 0;
        for task in tasks {
            match task.await.unwrap() {
                Ok(receipt) => {
                    assert!(!receipt.duplicate, "every body is another");
                    taken += 1;
                }
                Err(problem) => assert_eq!(problem.kind, ProblemKind::IdConflict, "{problem}"),
            }
        }
        assert_eq!(taken, 1, "round {round}");
    }
    hub.stop().await;
}

/// Publishing for now while the schedule has the id and lets go of it: never both, never neither.
#[tokio::test]
async fn an_event_that_meets_a_cancelling_is_a_conflict_or_taken() {
    let dir = directory();
    let hub = Arc::new(open(dir.path(), SystemClock::shared(), |_| {}).await);
    for round in 0..60 {
        let id = format!("cancel-{round}");
        let later = NewEvent::new("a.b").id(&id).org("acme").deliver_at("2027-06-01T00:00:00Z");
        hub.publish(&later).await.unwrap();
        let (cancelling, publishing) = (hub.clone(), hub.clone());
        let (cancel_id, publish_id) = (id.clone(), id.clone());
        let cancel = tokio::spawn(async move { cancelling.cancel_scheduled(&cancel_id, Some("acme")).await });
        let now = NewEvent::new("a.b").id(publish_id).org("acme");
        let publish = tokio::spawn(async move { publishing.publish(&now).await });
        cancel.await.unwrap().unwrap();
        match publish.await.unwrap() {
            Ok(receipt) => assert!(receipt.seq.0 > 0 && !receipt.duplicate),
            Err(problem) => assert_eq!(problem.kind, ProblemKind::IdConflict, "{problem}"),
        }
    }
    hub.stop().await;
}

#[tokio::test]
async fn the_schedule_goes_on_after_panics() {
    let settings = [
        ("FAULTS__ENABLED", "true"),
        ("SUPERVISE__RESTARTS_MAX", "1000"),
        ("SUPERVISE__BACKOFF_MS", "1"),
        ("SUPERVISE__BACKOFF_CAP_MS", "5"),
    ];
    let hub = Hub::start_with(&settings).await;
    let acme = hub.acme().await;
    for n in 0..40 {
        if n % 5 == 0 {
            hub.admin().act("/v1/admin/faults/panic-schedule").await.expect_any(&[200, 202, 204]);
        }
        let event = json!({"id": format!("e-{n}"), "type": "a.b", "delay": "100ms"});
        until("it is taken", || async {
            let answer = acme.post("/v1/events", &event).await.expect_any(&[200, 202, 503]);
            (answer.status != 503).then_some(())
        })
        .await;
    }
    until("all are in the log", || async {
        let page = acme.get("/v1/events?limit=1000").await.expect(200).json();
        (items(&page).len() == 40).then_some(())
    })
    .await;
    until("nothing waits", || async { listed(&acme).await.is_empty().then_some(()) }).await;
}
