//! Why an event did or did not reach a consumer, and where its delivery stands (WHK-9).

use serde_json::{Value, json};

use crate::support::{Api, Hub, Receiver, Reply, retry, until};

const HOUR_MS: u64 = 3_600_000;

fn id_of(thing: &Value) -> String {
    thing["id"].as_str().unwrap().to_owned()
}

/// The answer for one consumer.
async fn explained(api: &Api, event: &str, consumer: &str) -> Value {
    let answer = api.get(&format!("/v1/events/{event}/explain?consumer={consumer}")).await.expect(200).json();
    let consumers = answer["consumers"].as_array().unwrap();
    assert_eq!(consumers.len(), 1, "{answer}");
    consumers[0].clone()
}

/// The answer for one consumer once its delivery is in this state.
async fn wait_state(api: &Api, event: &str, consumer: &str, state: &str) -> Value {
    until(&format!("{event} is {state}"), || async {
        let told = explained(api, event, consumer).await;
        (told["delivery"]["state"] == state).then_some(told)
    })
    .await
}

#[tokio::test]
async fn the_clause_that_decided_is_named_with_what_was_wanted_and_what_was_found() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    let hook = |more: Value| {
        let mut hook = json!({"url": receiver.url("/hook"), "org": "acme", "event_types": ["*"]});
        hook.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        hook
    };
    let cases = [
        (json!({"event_types": ["order.*", "a"]}), "event_types", "wanted order.*, a, the event has invoice.paid"),
        (json!({"channel": "web"}), "channel", "wanted web, the event has shop"),
        (json!({"facility": "berlin"}), "facility", "wanted berlin, the event has none"),
        (json!({"service": "crm"}), "service", "wanted crm, the event has billing"),
        (json!({"filter": "data.amount > 100"}), "filter", "`data.amount > 100` is false"),
        (
            json!({"filter": "data.total > 100"}),
            "filter",
            "expression_error: there is no field `data.total`; in `data.total > 100`",
        ),
    ];
    let mut made = Vec::new();
    for (more, clause, detail) in &cases {
        made.push((id_of(&acme.webhook(&hook(more.clone())).await), clause, detail));
    }
    let event = json!({"id": "e-1", "type": "invoice.paid", "source": "billing", "channel": "shop",
        "data": {"amount": 7}});
    acme.publish(&event).await;
    for (webhook, clause, detail) in made {
        let told = explained(&acme, "e-1", &webhook).await;
        assert_eq!((&told["matched"], &told["kind"]), (&json!(false), &json!("webhook")), "{told}");
        assert_eq!((&told["decided_by"], &told["detail"]), (&json!(clause), &json!(detail)), "{told}");
        assert_eq!((&told["status"], &told["delivery"]), (&json!("skipped"), &json!({"state": "not_matched"})));
    }
    let late = id_of(&acme.webhook(&hook(json!({}))).await);
    let told = explained(&acme, "e-1", &late).await;
    assert_eq!((&told["matched"], &told["delivery"]["state"]), (&json!(true), &json!("before_start")), "{told}");
}

#[tokio::test]
async fn where_a_delivery_stands_is_told_from_the_first_attempt_to_the_dead_letter_and_over_a_restart() {
    let mut hub = Hub::start().await;
    let receiver = Receiver::start();
    let key = hub.key(&["publish", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    receiver.answer("/hook", |one| match one.id() {
        "ok" => Reply::Status(200),
        "later" => Reply::Status(500),
        "hang" => Reply::Hold,
        _ => Reply::Status(400),
    });
    let webhook = id_of(
        &acme
            .webhook(&json!({"url": receiver.url("/hook"), "org": "acme", "event_types": ["*"], "ordering": "key",
                "retry": retry(&[HOUR_MS])}))
            .await,
    );
    for (id, key) in [("ok", "a"), ("bad", "b"), ("later", "c"), ("behind", "c"), ("hang", "d")] {
        acme.publish(&json!({"id": id, "type": "t.one", "ordering_key": key})).await;
    }
    let told = wait_state(&acme, "ok", &webhook, "delivered").await;
    assert_eq!((&told["status"], &told["delivery"]["attempt"]), (&json!("processed"), &json!(1)), "{told}");
    assert!(told["delivery"]["at"].is_string() && told["decided_by"].is_null(), "{told}");

    let told = wait_state(&acme, "bad", &webhook, "dead").await;
    assert_eq!((&told["status"], &told["attempts"]), (&json!("dead_letter"), &json!(1)), "{told}");
    let letters = acme.wait_dead_letters(&webhook, 1).await;
    let letter = until("the dead letter is named", || async {
        let told = explained(&acme, "bad", &webhook).await;
        told["delivery"]["dead_letter_id"].as_str().map(str::to_owned)
    })
    .await;
    assert_eq!(letters[0]["id"], letter);
    assert!(told["last_error"].as_str().unwrap().contains("400"), "{told}");

    let told = wait_state(&acme, "later", &webhook, "next_try_at").await;
    assert_eq!((&told["status"], &told["attempts"]), (&json!("failed"), &json!(1)), "{told}");
    assert_eq!(told["delivery"]["at"], told["next_try_at"], "{told}");
    assert!(told["last_error"].as_str().unwrap().contains("500"), "{told}");

    let told = wait_state(&acme, "behind", &webhook, "waiting_behind_key").await;
    let seq = &acme.get("/v1/events/later").await.expect(200).json()["seq"];
    assert_eq!((&told["delivery"]["id"], &told["delivery"]["seq"]), (&json!("later"), seq), "{told}");

    let told = wait_state(&acme, "hang", &webhook, "in_flight").await;
    assert_eq!((&told["status"], &told["delivery"]["attempt"]), (&json!("processing"), &json!(1)), "{told}");
    assert!(told["delivery"]["lease_until"].is_string(), "{told}");

    let same = acme.get("/v1/events/later").await.expect(200).json();
    assert_eq!(same["consumers"][0]["status"], "failed", "both answers go by the same facts: {same}");

    hub.kill();
    receiver.release();
    hub.restart().await;
    let acme = hub.public(&key);
    wait_state(&acme, "later", &webhook, "next_try_at").await;
    wait_state(&acme, "behind", &webhook, "waiting_behind_key").await;
    wait_state(&acme, "hang", &webhook, "delivered").await;
    let told = wait_state(&acme, "bad", &webhook, "dead").await;
    // What was given up after the last checkpoint may have been tried again, and given up again.
    let letters = acme.wait_dead_letters(&webhook, 1).await;
    assert!(letters.iter().any(|one| one["id"] == told["delivery"]["dead_letter_id"]), "{told}");
}

#[tokio::test]
async fn what_keeps_a_whole_consumer_is_named() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    receiver.answer("/throttled", |_| Reply::retry_after(429, 3_600));
    let hook = |path: &str| {
        json!({"url": receiver.url(path), "org": "acme", "event_types": ["*"], "ordering": "strict",
            "retry": retry(&[HOUR_MS, HOUR_MS])})
    };
    let paused = id_of(&acme.webhook(&hook("/paused")).await);
    acme.act(&format!("/v1/webhooks/{paused}/pause")).await.expect(200);
    let broken = id_of(&acme.webhook(&hook("/broken")).await);
    hub.admin().act(&format!("/v1/admin/breakers/{broken}/open")).await.expect(200);
    let throttled = id_of(&acme.webhook(&hook("/throttled")).await);
    acme.publish(&json!({"id": "e-1", "type": "t.one"})).await;
    receiver.wait_event("/throttled", "e-1").await;
    acme.publish(&json!({"id": "e-2", "type": "t.one"})).await;

    let told = wait_state(&acme, "e-2", &paused, "paused").await;
    assert_eq!((&told["status"], &told["attempts"]), (&json!("pending"), &json!(0)), "{told}");
    let told = wait_state(&acme, "e-2", &broken, "breaker_open").await;
    assert_eq!((&told["delivery"]["phase"], &told["attempts"]), (&json!("forced_open"), &json!(0)), "{told}");
    let told = wait_state(&acme, "e-2", &throttled, "rate_limited").await;
    assert!(told["delivery"]["until"].is_string(), "{told}");

    acme.act(&format!("/v1/webhooks/{paused}/resume")).await.expect(200);
    wait_state(&acme, "e-2", &paused, "delivered").await;
    hub.admin().act(&format!("/v1/admin/breakers/{broken}/reset")).await.expect(200);
    wait_state(&acme, "e-2", &broken, "delivered").await;
}

#[tokio::test]
async fn consumers_are_paged_and_every_one_stands_on_one_page() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    let mut made = Vec::new();
    for n in 0..7 {
        let filter = format!("data.n > {n}");
        let hook = json!({"url": receiver.url("/hook"), "org": "acme", "event_types": ["*"], "filter": filter});
        made.push(id_of(&acme.webhook(&hook).await));
    }
    let globex = hub.public(&hub.key(&["publish", "manage", "read"], Some("globex")).await);
    let foreign =
        id_of(&globex.webhook(&json!({"url": receiver.url("/globex"), "org": "globex", "event_types": ["*"]})).await);
    acme.publish(&json!({"id": "e-1", "type": "t.one", "data": {"n": 3}})).await;
    made.sort();
    for limit in [1, 3, 7, 200] {
        let (mut found, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/events/e-1/explain?limit={limit}&cursor={cursor}");
            let page = acme.get(&path).await.expect(200).json();
            let consumers = page["consumers"].as_array().unwrap();
            assert!(consumers.len() <= limit);
            found.extend(consumers.iter().map(|one| one["consumer"].as_str().unwrap().to_owned()));
            cursor = page["next_cursor"].as_str().unwrap().to_owned();
            if page["has_more"] == false {
                break;
            }
        }
        assert_eq!(found, made, "pages of {limit}; {foreign} is another org's");
    }
    let answer = acme.get("/v1/events/e-1/explain").await.expect(200).json();
    let event = &answer["event"];
    assert_eq!((&event["id"], &event["org"], &event["type"]), (&json!("e-1"), &json!("acme"), &json!("t.one")));
    let matched = answer["consumers"].as_array().unwrap().iter().filter(|one| one["matched"] == true).count();
    assert_eq!(matched, 3);

    for query in ["limit=0", "limit=201", "limit=x", "unknown=1", "limit=1&limit=2"] {
        acme.get(&format!("/v1/events/e-1/explain?{query}")).await.expect_problem(400, "invalid-parameter");
    }
    acme.get("/v1/events/nothing/explain").await.expect_problem(404, "not-found");
    acme.get(&format!("/v1/events/e-1/explain?consumer={foreign}")).await.expect_problem(404, "not-found");
    globex.get("/v1/events/e-1/explain").await.expect_problem(404, "not-found");
    globex.get("/v1/events/e-1/explain?org=acme").await.expect_problem(403, "forbidden");
    let writer = hub.public(&hub.key(&["publish"], Some("acme")).await);
    writer.get("/v1/events/e-1/explain").await.expect_problem(403, "forbidden");
}
