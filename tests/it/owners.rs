//! What owners are told of their endpoints, and when deliveries to those stop (WHK-6, WHK-7, RTY-4).

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::ground::clock::{Clock as _, ManualClock, UnixMs};
use tidegate::ground::context::WriteContext;
use tidegate::ground::fields::Fields;
use tidegate::handler::{HandlerError, NewEvent};
use tidegate::hub::LetterQuery;
use tidegate::webhook::record::WebhookStatus;

use crate::embed::{Calls, START, directory, open, publish, stop_settled, subscribe};
use crate::support::{Api, Hub, Receiver, Reply, items, retry, until};

const DAY: Duration = Duration::from_secs(24 * 3_600);

fn fields(value: &Value) -> Fields {
    Fields::parse(value.to_string().as_bytes()).unwrap()
}

fn hook(receiver: &Receiver, path: &str, types: &str, more: Value) -> Value {
    let mut wanted = json!({"url": receiver.url(path), "org": "acme", "event_types": [types]});
    for (name, value) in more.as_object().unwrap() {
        wanted[name] = value.clone();
    }
    wanted
}

/// A webhook of an embedded hub.
async fn webhook(hub: &tidegate::hub::Hub, wanted: &Value) -> String {
    let context = WriteContext { by: "test".into(), at: hub.clock().now(), ..WriteContext::default() };
    hub.create_webhook(fields(wanted), None, context).await.unwrap().0.id.clone()
}

async fn embedded(dir: &std::path::Path, clock: &Arc<ManualClock>) -> tidegate::hub::Hub {
    open(dir, clock.clone(), |config| {
        config.delivery.allow_private_networks = true;
        // Not what is looked at here.
        config.breaker.failure_threshold = 10_000;
    })
    .await
}

/// What came to the owner, by type, in order; what came again counts once: a clock that moves ends the lease of what is out.
fn told(receiver: &Receiver) -> BTreeMap<String, Vec<Value>> {
    let mut told: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut seen = HashSet::new();
    for one in receiver.on("/owner").iter().filter(|one| seen.insert(one.id())) {
        let body = one.json();
        told.entry(body["type"].as_str().unwrap().to_owned()).or_default().push(body);
    }
    told
}

fn counts(receiver: &Receiver) -> BTreeMap<String, usize> {
    told(receiver).into_iter().map(|(name, all)| (name, all.len())).collect()
}

#[tokio::test]
async fn an_endpoint_that_takes_everything_and_fails_always_makes_few_events_and_no_loop() {
    let dir = directory();
    let clock = ManualClock::starting_at(START);
    let receiver = Receiver::start();
    let hub = embedded(dir.path(), &clock).await;
    webhook(&hub, &hook(&receiver, "/owner", "tidegate.*", json!({}))).await;
    receiver.always("/sick", Reply::Status(400));
    let everything = json!({"event_types": ["*", "tidegate.*"]});
    let sick = webhook(&hub, &hook(&receiver, "/sick", "*", everything)).await;
    // `*` alone does not mean the hub's own events.
    webhook(&hub, &hook(&receiver, "/unasked", "*", json!({}))).await;
    for n in 0..40 {
        publish(&hub, "a.b", &format!("{n}")).await;
    }
    let letters = |least: usize| {
        let hub = hub.clone();
        async move {
            until(&format!("{least} dead letters"), || async {
                let all = LetterQuery { limit: 1_000, ..LetterQuery::default() };
                let found = hub.blocking(move |hub| hub.dead_letters(&all)).await.unwrap().items;
                (found.len() >= least).then_some(found)
            })
            .await
        }
    };
    // The events of the hub go to the sick endpoint, too, and fail there like all others.
    receiver.wait_until("the owner is told", |all| all.iter().filter(|one| one.path == "/owner").count() >= 2).await;
    letters(42).await;
    // An hour of minutes: what waited to be told is told, and then nothing more.
    for _ in 0..60 {
        clock.advance(Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    until("all dead letters are told of", || async {
        clock.advance(Duration::from_secs(60));
        let told = told(&receiver);
        let exhausted = told.get("tidegate.webhook.exhausted")?;
        let count: u64 = exhausted.iter().map(|one| one["data"]["count"].as_u64().unwrap()).sum();
        (count == 40).then_some(())
    })
    .await;
    let exhausted = counts(&receiver)["tidegate.webhook.exhausted"];
    assert!((2..=10).contains(&exhausted), "{exhausted}");
    assert_eq!(counts(&receiver)["tidegate.webhook.failing"], 1);
    letters(40 + 1 + exhausted).await;
    for _ in 0..30 {
        clock.advance(Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    publish(&hub, "other.type", "fence").await;
    receiver.wait_event("/sick", "fence").await;
    // The fence itself may have been told of.
    let now = counts(&receiver);
    assert!((exhausted..=exhausted + 1).contains(&now["tidegate.webhook.exhausted"]), "{now:?}");
    assert_eq!((now["tidegate.webhook.failing"], now.len()), (1, 2), "{now:?}");
    receiver.wait_event("/unasked", "fence").await;
    assert!(receiver.on("/unasked").iter().all(|one| !one.json()["type"].as_str().unwrap().starts_with("tidegate.")));
    let told = told(&receiver);
    let failing = &told["tidegate.webhook.failing"][0];
    assert_eq!((&failing["org"], &failing["data"]["webhook"]), (&json!("acme"), &json!(sick)), "{failing}");
    assert_eq!((&failing["data"]["url_host"], &failing["data"]["failures"]), (&json!("127.0.0.1"), &json!(5)));
    assert!(!failing.to_string().contains("/sick"), "no more of the URL than its host: {failing}");
    let first = &told["tidegate.webhook.exhausted"][0]["data"];
    assert_eq!((&first["severity"], &first["kind"]), (&json!("high"), &json!("status")), "{first}");
    stop_settled(&hub).await;
}

#[tokio::test]
async fn five_days_of_nothing_but_failures_pause_it_also_over_restarts_and_resuming_begins_anew() {
    let dir = directory();
    let clock = ManualClock::starting_at(START);
    let receiver = Receiver::start();
    let mut hub = embedded(dir.path(), &clock).await;
    webhook(&hub, &hook(&receiver, "/owner", "tidegate.*", json!({}))).await;
    receiver.always("/dead", Reply::Status(500));
    let daily = json!({"kind": "fixed", "attempts_max": 30, "delays_ms": [86_400_000], "jitter": 0});
    let dead = webhook(&hub, &hook(&receiver, "/dead", "a.*", json!({"retry": daily}))).await;
    for n in 0..6 {
        publish(&hub, "a.b", &format!("{n}")).await;
    }
    for day in 0..=5 {
        receiver.wait_for("/dead", 6 * (day + 1)).await;
        until("every attempt is settled", || async {
            let all = hub.consumers().await;
            let one = all.iter().find(|one| one["id"] == dead.as_str()).unwrap();
            (one["in_flight"] == 0 && one["waiting_for_retry"] == 6).then_some(())
        })
        .await;
        if day == 3 {
            // What was counted is known after a restart: the failures began on the first day.
            clock.advance(Duration::from_secs(60));
            until("the counts are stored", || async {
                use tidegate::store::Registry as _;
                let document = hub.engine().get("webhook-health", &dead).unwrap()?;
                let stored: Value = serde_json::from_slice(&document.bytes).unwrap();
                (stored["health"]["failures"] == 24).then_some(())
            })
            .await;
            stop_settled(&hub).await;
            drop(hub);
            hub = embedded(dir.path(), &clock).await;
        }
        if day < 5 {
            assert_eq!(hub.webhook(&dead, None).unwrap().status, WebhookStatus::Active, "day {day}");
            clock.advance(DAY);
        }
    }
    until("it is paused", || async {
        (hub.webhook(&dead, None).unwrap().status == WebhookStatus::Paused).then_some(())
    })
    .await;
    let reason = hub.webhook(&dead, None).unwrap().status_reason.clone().unwrap();
    assert_eq!(reason, format!("nothing but failures since {}", START.to_rfc3339()));
    until("the owner is told", || async { counts(&receiver).contains_key("tidegate.webhook.paused").then_some(()) })
        .await;
    // Paused it stays, whatever time goes by; nothing is sent.
    clock.advance(2 * DAY);
    publish(&hub, "a.b", "while paused").await;
    assert_eq!(receiver.on("/dead").len(), 36);

    // Resumed, it may fail again for as long as ever.
    let context = WriteContext { by: "test".into(), at: clock.now(), ..WriteContext::default() };
    hub.set_webhook_status(&dead, None, WebhookStatus::Active, None, context).await.unwrap();
    receiver.wait_for("/dead", 43).await;
    assert_eq!(hub.webhook(&dead, None).unwrap().status, WebhookStatus::Active);
    receiver.always("/dead", Reply::Status(200));
    until("the first success is a recovery", || async {
        // Not while something is out: its lease would end.
        if hub.consumers().await.iter().all(|one| one["in_flight"] == 0) {
            clock.advance(DAY);
        }
        counts(&receiver).contains_key("tidegate.webhook.recovered").then_some(())
    })
    .await;
    let told = counts(&receiver);
    for (name, count) in [("failing", 1), ("paused", 1), ("recovered", 1)] {
        assert_eq!(told[&format!("tidegate.webhook.{name}")], count, "{told:?}");
    }
    stop_settled(&hub).await;
}

/// The ids of the hub's own events of this type.
async fn own_events(api: &Api, event_type: &str) -> Vec<String> {
    let page = api.get(&format!("/v1/events?type={event_type}")).await.expect(200).json();
    items(&page).iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn failures_in_a_row_pause_it_once_and_a_kill_neither_loses_nor_doubles_what_is_told() {
    let mut hub = Hub::start_with(&[("BREAKER__FAILURE_THRESHOLD", "10000")]).await;
    let receiver = Receiver::start();
    let key = hub.key(&["publish", "manage", "read"], Some("acme")).await;
    let mut acme = hub.public(&key);
    let more = json!({"retry": retry(&[1; 60]), "health": {"failing_after": 3, "pause_after_failures": 12}});
    let mut webhooks = Vec::new();
    for round in 0..5 {
        let path = format!("/dead-{round}");
        receiver.always(&path, Reply::Status(500));
        let webhook = acme.webhook(&hook(&receiver, &path, &format!("round{round}.*"), more.clone())).await;
        assert_eq!(webhook["health"]["pause_after_failures"], 12, "{webhook}");
        webhooks.push(webhook["id"].as_str().unwrap().to_owned());
        acme.publish(&json!({"type": format!("round{round}.x")})).await;
        // Killed at another moment each time: while it fails, when it is about to be paused, when it is.
        receiver.wait_for(&path, [3, 6, 11, 12, 12][round]).await;
        hub.kill();
        hub.restart().await;
        acme = hub.public(&key);
    }
    for webhook in &webhooks {
        until("it is paused", || async {
            let shown = acme.get(&format!("/v1/webhooks/{webhook}")).await.expect(200).json();
            (shown["status"] == "paused").then_some(shown)
        })
        .await;
    }
    until("each is told once", || async {
        let paused = own_events(&acme, "tidegate.webhook.paused").await;
        let count = |webhook: &String| paused.iter().filter(|id| id.starts_with(webhook.as_str())).count();
        assert!(webhooks.iter().all(|webhook| count(webhook) <= 1), "{paused:?}");
        webhooks.iter().all(|webhook| count(webhook) == 1).then_some(())
    })
    .await;
    hub.kill();
    hub.restart().await;
    let acme = hub.public(&key);
    acme.publish(&json!({"id": "fence", "type": "fence.x"})).await;
    assert_eq!(own_events(&acme, "tidegate.webhook.paused").await.len(), webhooks.len());
    let failing = own_events(&acme, "tidegate.webhook.failing").await;
    assert!(failing.len() <= webhooks.len(), "{failing:?}");
    // Resumed, the counts begin anew: a few failures pause nothing, and a success is a recovery.
    let path = format!("/v1/webhooks/{}", webhooks[0]);
    let before = receiver.on("/dead-0").len();
    acme.act(&format!("{path}/resume")).await.expect(200);
    receiver.wait_for("/dead-0", before + 4).await;
    receiver.always("/dead-0", Reply::Status(200));
    until("its recovery is told", || async {
        (own_events(&acme, "tidegate.webhook.recovered").await.len() == 1).then_some(())
    })
    .await;
    assert_eq!(acme.get(&path).await.expect(200).json()["status"], "active");
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_told_of_once() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    receiver.always("/gone", Reply::Status(410));
    let id = acme.webhook(&hook(&receiver, "/gone", "a.*", json!({}))).await["id"].as_str().unwrap().to_owned();
    for n in 0..10 {
        acme.publish(&json!({"id": format!("{n}"), "type": "a.b"})).await;
    }
    until("its owner is told", || async {
        (own_events(&acme, "tidegate.webhook.paused").await.len() == 1).then_some(())
    })
    .await;
    let told = acme.get(&format!("/v1/events/{id}-paused-1")).await.expect(200).json();
    assert_eq!(
        (&told["data"]["status"], &told["data"]["reason"]),
        (&json!("disabled"), &json!("the endpoint answered 410 Gone"))
    );
    assert_eq!(acme.get(&format!("/v1/webhooks/{id}")).await.expect(200).json()["status"], "disabled");
    // The change feed tells everything; `*` means the events of producers, there as everywhere.
    let fed = async |query: &str| {
        let page = acme.get(&format!("/v1/cdc?limit=1000{query}")).await.expect(200).json();
        page["events"].as_array().unwrap().iter().filter(|one| one["type"] == "tidegate.webhook.paused").count()
    };
    assert_eq!((fed("").await, fed("&type=*").await, fed("&type=tidegate.*").await), (1, 0, 1));
}

#[tokio::test]
async fn an_overloaded_endpoint_rests_as_long_as_it_says_or_for_the_floor_and_spends_no_attempts() {
    let dir = directory();
    let clock = ManualClock::starting_at(START);
    let receiver = Receiver::start();
    let hub = embedded(dir.path(), &clock).await;
    let short = json!({"retry": retry(&[1; 20]), "ordering": "strict"});
    let id = webhook(&hub, &hook(&receiver, "/hook", "*", short)).await;
    let rests = [
        (Reply::Status(503), 60_000),
        (Reply::Status(429), 60_000),
        (Reply::retry_after(503, 7), 7_000),
        (Reply::retry_after(429, 120), 120_000),
    ];
    receiver.script("/hook", rests.iter().map(|(reply, _)| reply.clone()));
    for n in 0..5 {
        publish(&hub, "a.b", &format!("{n}")).await;
    }
    for (at, (_, rest_ms)) in rests.iter().enumerate() {
        receiver.wait_for("/hook", at + 1).await;
        let held = until("it rests", || async {
            let all = hub.consumers().await;
            let one = all.iter().find(|one| one["id"] == id.as_str()).unwrap();
            let held = one["hold"].clone();
            (held["reason"] == "suspended").then_some(held)
        })
        .await;
        let end = UnixMs::parse_rfc3339(held["until"].as_str().unwrap()).unwrap();
        assert_eq!(end, clock.now().plus_ms(*rest_ms), "{at}: {held}");
        clock.advance(Duration::from_millis(rest_ms - 1));
        publish(&hub, "a.b", &format!("fence-{at}")).await;
        assert_eq!(receiver.on("/hook").len(), at + 1, "not before its time");
        // A retry is due when its own wait is over, too.
        clock.advance(Duration::from_millis(1));
        until("the rest is over", || async {
            if receiver.on("/hook").len() > at + 1 {
                return Some(());
            }
            clock.advance(Duration::from_millis(1));
            None
        })
        .await;
    }
    receiver.wait_for("/hook", 4 + 9).await;
    let came: Vec<_> = receiver.on("/hook").iter().map(|one| one.id().to_owned()).collect();
    assert_eq!(came[..6], ["0", "0", "0", "0", "0", "1"], "in order, whatever the rests");
    stop_settled(&hub).await;
}

#[tokio::test]
async fn dead_letters_of_handlers_raise_alerts_too() {
    let dir = directory();
    let clock = ManualClock::starting_at(START);
    let receiver = Receiver::start();
    let hub = embedded(dir.path(), &clock).await;
    webhook(&hub, &hook(&receiver, "/owner", "tidegate.*", json!({}))).await;
    let calls = Calls::default();
    for pattern in ["*", "tidegate.*"] {
        subscribe(&hub, pattern, "ledger", &calls, |_| Err(HandlerError::rejected("not for me"))).await;
    }
    for org in ["acme", "globex"] {
        hub.publish(&NewEvent::new("a.b").org(org)).await.unwrap();
    }
    let alert = until("the alert comes to its org", || async {
        told(&receiver).remove("tidegate.dead_letter.created").map(|mut all| all.remove(0))
    })
    .await;
    assert_eq!((&alert["org"], &alert["data"]["consumer"]), (&json!("acme"), &json!("handler:ledger")), "{alert}");
    assert_eq!((&alert["data"]["count"], &alert["data"]["severity"]), (&json!(1), &json!("high")), "{alert}");
    // The handler has taken and refused that event as well, and nothing came of it.
    until("the handler has seen the alerts", || async {
        (calls.ids().iter().filter(|id| id.starts_with("alert-")).count() == 2).then_some(())
    })
    .await;
    clock.advance(Duration::from_secs(600));
    publish(&hub, "a.b", "fence").await;
    receiver.wait_for("/owner", 2).await;
    assert_eq!(
        counts(&receiver)["tidegate.dead_letter.created"],
        2,
        "one for each minute in which something was refused"
    );
    stop_settled(&hub).await;
}

#[tokio::test]
async fn rules_of_health_are_refused_by_their_field() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    for (field, sent) in [
        ("health", json!(5)),
        ("health.failing_after", json!({"failing_after": 0})),
        ("health.pause_after_ms", json!({"pause_after_ms": 1})),
        ("health.pause_after_failures", json!({"pause_after_failures": "many"})),
        ("health.colour", json!({"colour": 1})),
    ] {
        let wanted = hook(&receiver, "/hook", "*", json!({"health": sent}));
        let problem = acme.post("/v1/webhooks", &wanted).await.expect_problem(400, "invalid-field").json();
        assert_eq!(problem["field"], field, "{problem}");
    }
    let made = acme.webhook(&hook(&receiver, "/hook", "*", json!({"health": {"pause_after_ms": 0}}))).await;
    let path = format!("/v1/webhooks/{}", made["id"].as_str().unwrap());
    assert_eq!(made["health"], json!({"failing_after": null, "pause_after_ms": 0, "pause_after_failures": null}));
    assert_eq!(acme.patch(&path, &json!({"health": null})).await.expect(200).json()["health"], Value::Null);
}
