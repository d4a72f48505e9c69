//! Webhooks: their life, what they are sent, and what every kind of answer leads to (WHK-1..3, WHK-5, WHK-6, WHK-8, RTY).

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Hub, Receiver, Reply, assert_signed, items, retry, until};

/// A webhook of `acme` on this path for all events, without waits that a test would have to sit out.
fn hook(receiver: &Receiver, path: &str) -> Value {
    json!({"url": receiver.url(path), "org": "acme", "event_types": ["*"], "retry": retry(&[50, 50])})
}

fn id_of(webhook: &Value) -> String {
    webhook["id"].as_str().unwrap_or_else(|| panic!("a webhook has an id: {webhook}")).to_owned()
}

#[tokio::test]
async fn a_retry_policy_may_be_named_and_is_shown_with_its_numbers() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    let exponential = |attempts_max: u32, base_ms: u64, cap_ms: u64, jitter: f64| {
        json!({"kind": "exponential", "attempts_max": attempts_max, "base_ms": base_ms, "multiplier": 2.0,
            "cap_ms": cap_ms, "jitter": jitter})
    };
    let hours = [2, 5, 10, 14, 20, 24].map(|hours| hours * 3_600_000);
    let delays_ms = [&[5_000, 300_000, 1_800_000][..], &hours].concat();
    let cases = [
        ("sales", exponential(4, 1_000, 30_000, 0.1)),
        ("erp", exponential(6, 2_000, 60_000, 0.2)),
        ("esignature", exponential(4, 1_000, 30_000, 0.1)),
        ("communication", exponential(6, 500, 10_000, 0.15)),
        ("bridge", json!({"kind": "fixed", "attempts_max": 3, "delays_ms": [1_000, 2_000, 4_000], "jitter": 0.0})),
        ("handler", exponential(3, 1_000, 60_000, 0.0)),
        ("webhook", json!({"kind": "fixed", "attempts_max": 10, "delays_ms": delays_ms, "jitter": 0.2})),
    ];
    let mut wanted = hook(&receiver, "/hook");
    for (name, policy) in cases {
        wanted["retry"] = json!(name);
        let made = acme.webhook(&wanted).await;
        assert_eq!(made["retry"], policy, "{name}");
        let changed = acme.patch(&format!("/v1/webhooks/{}", id_of(&made)), &json!({"retry": name})).await;
        assert_eq!(changed.expect(200).json()["retry"], policy, "{name}");
    }
    wanted["retry"] = json!("sometimes");
    let problem = acme.post("/v1/webhooks", &wanted).await.expect_problem(400, "invalid-field").json();
    assert_eq!((&problem["field"], &problem["sent"]), (&json!("retry"), &json!("sometimes")), "{problem}");
}

#[tokio::test]
async fn a_delivery_is_signed_and_says_what_happened() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    let webhook = acme.webhook(&hook(&receiver, "/hook")).await;
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let event = json!({"id": "e-1", "type": "invoice.paid", "source": "billing", "aggregate_type": "invoice",
        "aggregate_id": "17", "data": {"amount": 12.5, "text": "grün \"x\""}, "metadata": {"k": 1},
        "occurred_at": "2026-01-02T03:04:05.678Z", "traceparent": traceparent});
    acme.publish(&event).await;
    let delivery = receiver.wait_event("/hook", "e-1").await;
    assert_eq!(delivery.method, "POST");
    assert_eq!(delivery.header("content-type"), "application/json");
    // The same trace, a span of the hub's own.
    assert_eq!(delivery.header("traceparent").get(..35), traceparent.get(..35));
    assert_signed(&delivery, webhook["signing_secret"].as_str().unwrap());
    let body = delivery.json();
    assert_eq!(body["type"], "invoice.paid");
    assert_eq!(body["timestamp"], "2026-01-02T03:04:05.678Z");
    assert_eq!(body["id"], "e-1");
    assert_eq!(body["org"], "acme");
    for name in ["data", "metadata", "source", "aggregate_type", "aggregate_id"] {
        assert_eq!(body[name], event[name], "{name}");
    }

    let entry = acme.wait_status("e-1", &id_of(&webhook), "processed").await;
    assert_eq!(entry["attempts"], 1, "{entry}");
    assert!(entry["processed_at"].is_string() && entry["last_error"].is_null(), "{entry}");
    let attempt = &acme.wait_attempts(&id_of(&webhook), 1).await[0];
    assert_eq!(
        (&attempt["event_id"], &attempt["attempt"], &attempt["status"]),
        (&json!("e-1"), &json!(1), &json!(200))
    );
    assert!(attempt["at"].is_string() && attempt["latency_ms"].is_number(), "{attempt}");
    assert_eq!(attempt["response_snippet"], "answered by script", "{attempt}");
    assert!(attempt["next_try_at"].is_null(), "{attempt}");
}

#[tokio::test]
async fn the_secret_is_told_once_and_then_only_its_end() {
    let mut hub = Hub::start().await;
    let receiver = Receiver::start();
    let key = hub.key(&["publish", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    let webhook = acme.webhook(&hook(&receiver, "/hook")).await;
    let secret = webhook["signing_secret"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("whsec_"), "{secret}");
    let path = format!("/v1/webhooks/{}", id_of(&webhook));
    let bare = secret.trim_start_matches("whsec_");
    for answer in [
        acme.get(&path).await.expect(200),
        acme.get("/v1/webhooks").await.expect(200),
        acme.patch(&path, &json!({"concurrency": 2})).await.expect(200),
        acme.act(&format!("{path}/pause")).await.expect(200),
        acme.act(&format!("{path}/resume")).await.expect(200),
        hub.admin().get(&path).await.expect(200),
    ] {
        assert!(!answer.text.contains(bare) && !answer.text.contains("signing_secret"), "{}", answer.text);
        assert!(
            answer.text.contains(&format!(r#""secret_last4":"{}""#, &secret[secret.len() - 4..])),
            "{}",
            answer.text
        );
    }
    // It still signs, also when it had to be read from the store.
    hub.kill();
    hub.restart().await;
    hub.public(&key).publish(&json!({"id": "later", "type": "a.b"})).await;
    assert_signed(&receiver.wait_event("/hook", "later").await, &secret);
}

#[tokio::test]
async fn a_webhook_lives_through_create_list_update_and_delete() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    let mut wanted = hook(&receiver, "/hook");
    wanted["event_types"] = json!(["first.*"]);
    wanted["ordering"] = json!("key");
    wanted["concurrency"] = json!(3);
    let webhook = acme.webhook(&wanted).await;
    let id = id_of(&webhook);
    let path = format!("/v1/webhooks/{id}");
    let read = acme.get(&path).await.expect(200).json();
    for name in ["url", "org", "event_types", "ordering", "concurrency"] {
        assert_eq!(read[name], wanted[name], "{name}: {read}");
    }
    assert_eq!((&read["status"], &read["format"]), (&json!("active"), &json!("standard")), "{read}");
    assert!(
        read["created_at"].is_string() && read["updated_at"].is_string() && !read["created_by"].is_null(),
        "{read}"
    );
    let page = acme.get("/v1/webhooks").await.expect(200).json();
    assert_eq!(items(&page).iter().map(|one| one["id"].as_str().unwrap()).collect::<Vec<_>>(), [&id]);
    assert_eq!(page["has_more"], false, "{page}");

    acme.publish(&json!({"id": "one", "type": "first.x"})).await;
    receiver.wait_event("/hook", "one").await;
    let changed = acme.patch(&path, &json!({"event_types": ["second.*"]})).await.expect(200).json();
    assert_eq!(changed["event_types"], json!(["second.*"]), "{changed}");
    assert_eq!(changed["concurrency"], 3, "what is not named stays: {changed}");
    acme.publish(&json!({"id": "two", "type": "first.x"})).await;
    acme.publish(&json!({"id": "three", "type": "second.x"})).await;
    receiver.wait_event("/hook", "three").await;
    for bad in [json!({"concurrency": 0}), json!({"colour": 1}), json!({"event_types": []}), json!({"url": "ftp://x/"})]
    {
        acme.patch(&path, &bad).await.expect_problem(400, "invalid-field");
    }

    acme.delete(&path).await.expect_any(&[200, 204]);
    acme.get(&path).await.expect_problem(404, "not-found");
    acme.delete(&path).await.expect_problem(404, "not-found");
    assert!(items(&acme.get("/v1/webhooks").await.expect(200).json()).is_empty());
    let other = acme.webhook(&hook(&receiver, "/other")).await;
    acme.publish(&json!({"id": "four", "type": "second.x"})).await;
    receiver.wait_event("/other", "four").await;
    acme.wait_status("four", &id_of(&other), "processed").await;
    let came: Vec<_> = receiver.on("/hook").iter().map(|one| one.id().to_owned()).collect();
    assert_eq!(came, ["one", "three"]);
}

#[tokio::test]
async fn filters_let_through_what_they_name_and_nothing_else() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    let filters = [
        ("/exact", json!({"event_types": ["invoice.paid"]}), &["e1", "e5"][..]),
        ("/prefix", json!({"event_types": ["invoice.*"]}), &["e1", "e2", "e5"][..]),
        ("/two", json!({"event_types": ["order.created", "invoice.void"]}), &["e2", "e3"][..]),
        ("/all", json!({"event_types": ["*"]}), &["e1", "e2", "e3", "e4", "e5"][..]),
        ("/channel", json!({"event_types": ["*"], "channel": "web"}), &["e1", "e3"][..]),
        ("/facility", json!({"event_types": ["*"], "facility": "north"}), &["e2", "e5"][..]),
        ("/service", json!({"event_types": ["invoice.*"], "service": "billing"}), &["e1", "e5"][..]),
        ("/narrow", json!({"event_types": ["invoice.*"], "service": "billing", "facility": "north"}), &["e5"][..]),
    ];
    let mut webhooks = Vec::new();
    for (path, filter, _) in &filters {
        let mut wanted = hook(&receiver, path);
        for (name, value) in filter.as_object().unwrap() {
            wanted[name] = value.clone();
        }
        webhooks.push(id_of(&acme.webhook(&wanted).await));
    }
    for event in [
        json!({"id": "e1", "type": "invoice.paid", "source": "billing", "channel": "web"}),
        json!({"id": "e2", "type": "invoice.void", "source": "archive", "facility": "north"}),
        json!({"id": "e3", "type": "order.created", "source": "sales", "channel": "web"}),
        // A prefix ends at its dot.
        json!({"id": "e4", "type": "invoices.paid", "channel": "Web"}),
        json!({"id": "e5", "type": "invoice.paid", "source": "billing", "facility": "north"}),
    ] {
        acme.publish(&event).await;
    }
    for (path, _, expected) in &filters {
        let mut came: Vec<_> =
            receiver.wait_for(path, expected.len()).await.iter().map(|one| one.id().to_owned()).collect();
        came.sort_unstable();
        assert_eq!(&came, expected, "{path}");
    }
    let all = acme.consumers_of("e4", "e4 went to one", |entries| !entries.is_empty()).await;
    let matched: Vec<_> = all.iter().filter(|entry| entry["status"] != "skipped").collect();
    assert_eq!(matched.len(), 1, "{all:?}");
    assert_eq!(matched[0]["consumer"].as_str(), Some(webhooks[3].as_str()));
}

#[tokio::test]
async fn a_failed_delivery_is_tried_again_with_the_same_id_until_it_is_taken() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    receiver.script("/hook", [Reply::Status(500), Reply::Reset]);
    let webhook = acme.webhook(&hook(&receiver, "/hook")).await;
    let id = id_of(&webhook);
    acme.publish(&json!({"id": "again", "type": "a.b"})).await;
    let came = receiver.wait_for("/hook", 3).await;
    for delivery in &came {
        assert_eq!(delivery.id(), "again");
        assert_signed(delivery, webhook["signing_secret"].as_str().unwrap());
        assert_eq!(delivery.body, came[0].body);
    }
    let entry = acme.wait_status("again", &id, "processed").await;
    assert_eq!(entry["attempts"], 3, "{entry}");
    let mut attempts = acme.wait_attempts(&id, 3).await;
    attempts.sort_by_key(|attempt| attempt["attempt"].as_u64());
    let summary: Vec<_> = attempts.iter().map(|one| (one["attempt"].clone(), one["status"].clone())).collect();
    assert_eq!(summary, [(json!(1), json!(500)), (json!(2), Value::Null), (json!(3), json!(200))]);
    assert!(attempts[0]["next_try_at"].is_string() && attempts[1]["error"].is_string(), "{attempts:?}");
}

#[tokio::test]
async fn a_delivery_that_fails_every_time_becomes_a_dead_letter_with_the_whole_event() {
    let mut hub = Hub::start().await;
    let receiver = Receiver::start();
    let key = hub.key(&["publish", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    receiver.answer("/hook", |one| Reply::Status(if one.id() == "doomed" { 503 } else { 200 }));
    let id = id_of(&acme.webhook(&hook(&receiver, "/hook")).await);
    let event = json!({"id": "doomed", "type": "a.b", "data": {"n": 1}, "request_context": {"correlation_id": "c-9"}});
    acme.publish(&event).await;
    acme.publish(&json!({"id": "fine", "type": "a.b"})).await;
    let letters = acme.wait_dead_letters(&id, 1).await;
    acme.wait_status("fine", &id, "processed").await;
    let entry = acme.wait_status("doomed", &id, "dead_letter").await;
    assert_eq!(entry["attempts"], 3, "{entry}");
    assert!(entry["last_error"].as_str().unwrap().contains("503"), "{entry}");
    assert_eq!(receiver.on("/hook").iter().filter(|one| one.id() == "doomed").count(), 3);

    let path = format!("/v1/dead-letters/{}", letters[0]["id"].as_str().unwrap());
    let letter = acme.get(&path).await.expect(200).json();
    assert_eq!((&letter["event_id"], &letter["consumer"]), (&json!("doomed"), &json!(id)), "{letter}");
    assert_eq!((&letter["type"], &letter["org"]), (&json!("a.b"), &json!("acme")), "{letter}");
    assert_eq!(letter["attempts"], 3, "{letter}");
    for name in ["message", "code", "kind"] {
        assert!(!letter["error"][name].is_null(), "error.{name}: {letter}");
    }
    assert!(letter["first_attempt"].as_str().unwrap() <= letter["last_attempt"].as_str().unwrap(), "{letter}");
    for (name, value) in event.as_object().unwrap() {
        assert_eq!(&letter["event"][name], value, "event.{name}");
    }
    // It is still there after a kill. Given up within the last checkpoint's time, the event may be tried once more.
    hub.kill();
    hub.restart().await;
    let acme = hub.public(&key);
    assert_eq!(acme.get(&path).await.expect(200).json()["event"], letter["event"]);
    let kept = acme.wait_dead_letters(&id, 1).await;
    assert!(kept.iter().all(|one| one["event_id"] == "doomed") && kept.contains(&letters[0]), "{kept:?}");
    assert!(items(&acme.get("/v1/dead-letters?type=other.x").await.expect(200).json()).is_empty());
    acme.get("/v1/dead-letters/nonsense").await.expect_problem(404, "not-found");
}

#[tokio::test]
async fn answers_that_will_not_change_are_not_asked_for_twice() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    for (name, reply, kind) in [
        ("400", Reply::Status(400), None),
        ("404", Reply::Status(404), None),
        ("401", Reply::Status(401), Some("auth")),
        ("403", Reply::Status(403), Some("auth")),
        ("302", Reply::redirect(receiver.url("/elsewhere")), None),
    ] {
        let path = format!("/{name}");
        receiver.always(&path, reply);
        let mut wanted = hook(&receiver, &path);
        wanted["event_types"] = json!([format!("permanent.{name}")]);
        let id = id_of(&acme.webhook(&wanted).await);
        acme.publish(&json!({"type": format!("permanent.{name}")})).await;
        let letter = acme.wait_dead_letters(&id, 1).await.remove(0);
        assert_eq!(letter["attempts"], 1, "{name}: {letter}");
        if let Some(kind) = kind {
            assert_eq!(letter["error"]["kind"], kind, "{name}: {letter}");
        }
        assert_eq!(acme.wait_attempts(&id, 1).await.len(), 1, "{name}");
        assert_eq!(receiver.on(&path).len(), 1, "{name}");
    }
    assert!(receiver.on("/elsewhere").is_empty(), "a redirect is not followed");
}

#[tokio::test]
async fn answers_that_may_change_are_asked_for_again() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    for status in [408, 425, 429, 500, 502, 503, 504] {
        let path = format!("/{status}");
        receiver.script(&path, [Reply::Status(status)]);
        let mut wanted = hook(&receiver, &path);
        wanted["event_types"] = json!([format!("passing.{status}")]);
        let id = id_of(&acme.webhook(&wanted).await);
        let event = acme.publish(&json!({"type": format!("passing.{status}")})).await;
        let entry = acme.wait_status(&event, &id, "processed").await;
        assert_eq!(entry["attempts"], 2, "{status}: {entry}");
    }
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_disabled() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    receiver.script("/hook", [Reply::Status(410)]);
    let id = id_of(&acme.webhook(&hook(&receiver, "/hook")).await);
    let witness = id_of(&acme.webhook(&hook(&receiver, "/witness")).await);
    acme.publish(&json!({"id": "first", "type": "a.b"})).await;
    until("the webhook is disabled", || async {
        let webhook = acme.get(&format!("/v1/webhooks/{id}")).await.expect(200).json();
        (webhook["status"] == "disabled").then_some(())
    })
    .await;
    acme.publish(&json!({"id": "second", "type": "a.b"})).await;
    acme.wait_status("second", &witness, "processed").await;
    assert_eq!(receiver.on("/hook").len(), 1);
    acme.act(&format!("/v1/webhooks/{id}/resume")).await.expect(200);
    acme.publish(&json!({"id": "third", "type": "a.b"})).await;
    receiver.wait_event("/hook", "third").await;
}

#[tokio::test]
async fn an_endpoint_that_says_when_to_come_back_is_left_alone_until_then() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    receiver.script("/hook", [Reply::retry_after(429, 2)]);
    let id = id_of(&acme.webhook(&hook(&receiver, "/hook")).await);
    acme.publish(&json!({"id": "throttled", "type": "a.b"})).await;
    acme.wait_status("throttled", &id, "processed").await;
    let mut attempts = acme.wait_attempts(&id, 2).await;
    attempts.sort_by_key(|attempt| attempt["attempt"].as_u64());
    let time = |value: &Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let told = time(&attempts[0]["next_try_at"]).duration_since(time(&attempts[0]["at"]));
    assert!(told >= jiff::SignedDuration::from_secs(2), "the schedule alone would say 50 ms: {attempts:?}");
    let waited = time(&attempts[1]["at"]).duration_since(time(&attempts[0]["at"]));
    assert!(waited >= jiff::SignedDuration::from_secs(2), "{attempts:?}");
}

#[tokio::test]
async fn a_huge_answer_is_cut_and_does_not_matter() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    receiver.always("/ok", Reply::With(200, Vec::new(), vec![b'x'; 10 << 20]));
    receiver.script("/bad", [Reply::With(500, Vec::new(), "ü".repeat(5 << 20).into_bytes())]);
    let ok = id_of(&acme.webhook(&hook(&receiver, "/ok")).await);
    let bad = id_of(&acme.webhook(&hook(&receiver, "/bad")).await);
    let event = acme.publish(&json!({"type": "a.b"})).await;
    acme.wait_status(&event, &ok, "processed").await;
    acme.wait_status(&event, &bad, "processed").await;
    for (id, count, letter) in [(ok, 1, 'x'), (bad, 2, 'ü')] {
        let attempts = acme.wait_attempts(&id, count).await;
        let first = attempts.iter().find(|attempt| attempt["attempt"] == 1).unwrap();
        let snippet = first["response_snippet"].as_str().unwrap();
        assert_eq!(snippet.chars().count(), 500);
        assert!(snippet.chars().all(|one| one == letter), "{snippet}");
    }
}

#[tokio::test]
async fn an_endpoint_that_never_answers_runs_into_the_time_limit() {
    let hub = Hub::start_with(&[("DELIVERY__TOTAL_TIMEOUT_MS", "300"), ("DELIVERY__CONNECT_TIMEOUT_MS", "300")]).await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    receiver.script("/hook", [Reply::Hold]);
    let id = id_of(&acme.webhook(&hook(&receiver, "/hook")).await);
    let event = acme.publish(&json!({"type": "a.b"})).await;
    let entry = acme.wait_status(&event, &id, "processed").await;
    assert_eq!(entry["attempts"], 2, "{entry}");
    let attempts = acme.wait_attempts(&id, 2).await;
    let first = attempts.iter().find(|attempt| attempt["attempt"] == 1).unwrap();
    assert!(first["status"].is_null() && first["error"].is_string(), "{first}");
}

#[tokio::test]
async fn endpoints_that_hang_or_fail_do_not_hold_up_another() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    receiver.always("/hang", Reply::Hold);
    receiver.always("/slow", Reply::Slow(Duration::from_secs(3)));
    receiver.always("/reset", Reply::Reset);
    receiver.always("/huge", Reply::With(500, Vec::new(), vec![b'x'; 10 << 20]));
    for path in ["/hang", "/slow", "/reset", "/huge"] {
        acme.webhook(&hook(&receiver, path)).await;
    }
    let id = id_of(&acme.webhook(&hook(&receiver, "/well")).await);
    let batch: Vec<_> = (0..300).map(|n| json!({"id": format!("h-{n}"), "type": "a.b"})).collect();
    acme.post("/v1/events/batch", &Value::from(batch)).await.expect(202);
    let came = receiver.wait_for("/well", 300).await;
    assert_eq!(came.len(), 300);
    acme.wait_status("h-299", &id, "processed").await;
    // All the while the other one held what it had got, and got no more than it may have at a time.
    let held = receiver.on("/hang").len();
    assert!((1..=16).contains(&held), "{held} are held");
    receiver.release();
    receiver.wait_for("/hang", 300).await;
}

#[tokio::test]
async fn a_paused_webhook_gets_what_it_missed_when_it_resumes() {
    let mut hub = Hub::start().await;
    let receiver = Receiver::start();
    let key = hub.key(&["publish", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    let id = id_of(&acme.webhook(&hook(&receiver, "/hook")).await);
    let witness = id_of(&acme.webhook(&hook(&receiver, "/witness")).await);
    let paused = acme.act(&format!("/v1/webhooks/{id}/pause")).await.expect(200).json();
    assert_eq!(paused["status"], "paused", "{paused}");
    for n in 0..30 {
        acme.publish(&json!({"id": format!("p-{n}"), "type": "a.b"})).await;
    }
    acme.wait_status("p-29", &witness, "processed").await;
    assert!(receiver.on("/hook").is_empty());
    acme.wait_status("p-0", &id, "pending").await;
    // Paused it stays over a restart.
    assert!(hub.terminate().await.success());
    hub.restart().await;
    let acme = hub.public(&key);
    acme.publish(&json!({"id": "p-30", "type": "a.b"})).await;
    acme.wait_status("p-30", &witness, "processed").await;
    assert!(receiver.on("/hook").is_empty());
    acme.act(&format!("/v1/webhooks/{id}/resume")).await.expect(200);
    let mut came: Vec<_> = receiver.wait_for("/hook", 31).await.iter().map(|one| one.id().to_owned()).collect();
    came.sort_unstable();
    came.dedup();
    assert_eq!(came.len(), 31);
}

#[tokio::test]
async fn a_test_delivery_is_signed_and_stands_in_no_log() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    let mut wanted = hook(&receiver, "/hook");
    wanted["event_types"] = json!(["something.else"]);
    let webhook = acme.webhook(&wanted).await;
    acme.act(&format!("/v1/webhooks/{}/test", id_of(&webhook))).await.expect_any(&[200, 202]);
    let delivery = receiver.wait_for("/hook", 1).await.remove(0);
    assert_signed(&delivery, webhook["signing_secret"].as_str().unwrap());
    acme.act("/v1/webhooks/whk_nothing/test").await.expect_problem(404, "not-found");
}

#[tokio::test]
async fn webhooks_that_do_not_fit_are_refused_by_the_name_of_the_field() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let url = |url: &str| json!({"url": url, "org": "acme", "event_types": ["*"]});
    let with = |name: &str, value: Value| {
        let mut wanted = url("https://example.com/hook");
        wanted[name] = value;
        wanted
    };
    for (field, wanted) in [
        ("url", json!({"org": "acme", "event_types": ["*"]})),
        ("url", url("")),
        ("url", url("not a url")),
        ("url", url("/relative")),
        ("url", url("ftp://example.com/")),
        ("url", url("file:///etc/passwd")),
        ("url", url("javascript:alert(1)")),
        ("url", url("https://user:password@example.com/")),
        ("url", url("https://user@example.com/")),
        ("url", with("url", json!(5))),
        ("url", url(&format!("https://example.com/{}", "x".repeat(10_000)))),
        ("event_types", json!({"url": "https://example.com/", "org": "acme"})),
        ("event_types", with("event_types", json!([]))),
        ("event_types", with("event_types", json!("invoice.*"))),
        ("event_types", with("event_types", json!([5]))),
        ("event_types", with("event_types", json!(["x".repeat(256)]))),
        ("ordering", with("ordering", json!("sometimes"))),
        ("format", with("format", json!("xml"))),
        ("concurrency", with("concurrency", json!(0))),
        ("concurrency", with("concurrency", json!(100_000))),
        ("retry", with("retry", json!({"kind": "never"}))),
        ("retry", with("retry", json!({"kind": "fixed", "delays_ms": [-1]}))),
        ("headers", with("headers", json!({"webhook-id": "mine"}))),
        ("headers", with("headers", json!({"x": "a\r\nb: c"}))),
        ("colour", with("colour", json!(1))),
    ] {
        let answer = acme.post("/v1/webhooks", &wanted).await;
        assert_eq!(answer.status, 400, "{wanted}: {}", answer.text);
        let problem = answer.expect_problem(400, "invalid-field").json();
        assert!(problem["field"].as_str().unwrap_or_default().starts_with(field), "{wanted}: {problem}");
        assert!(!problem.to_string().contains("password"), "{problem}");
    }
    assert!(items(&acme.get("/v1/webhooks").await.expect(200).json()).is_empty());
}

#[tokio::test]
async fn headers_that_are_not_visible_ascii_are_refused_by_name_and_not_repeated() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let wanted = json!({"url": "https://example.com/hook", "org": "acme", "event_types": ["*"]});
    let id = acme.post("/v1/webhooks", &wanted).await.expect(201).json()["id"].as_str().unwrap().to_owned();
    for (field, name, value) in [
        ("headers.x-team", "headers", json!({"x-team": "caf\u{e9} 4711"})),
        ("headers.x-team", "headers", json!({"x-team": "4711\u{2028}"})),
        ("headers.x-team", "headers", json!({"x-team": "4711\tblue"})),
        ("auth.value", "auth", json!({"kind": "header", "name": "x-key", "value": "caf\u{e9} 4711"})),
    ] {
        let mut made = wanted.clone();
        made[name] = value.clone();
        for answer in [
            acme.post("/v1/webhooks", &made).await,
            acme.patch(&format!("/v1/webhooks/{id}"), &json!({ name: value })).await,
        ] {
            let problem = answer.expect_problem(400, "invalid-field").json();
            assert_eq!(problem["field"], field, "{problem}");
            assert!(problem["limit"].as_str().is_some_and(|limit| limit.contains("visible ASCII")), "{problem}");
            assert!(!problem.to_string().contains("4711"), "{problem}");
        }
    }
    assert_eq!(items(&acme.get("/v1/webhooks").await.expect(200).json()).len(), 1);
}

#[tokio::test]
async fn addresses_inside_are_refused_however_they_are_written() {
    let hub = Hub::start_with(&[("DELIVERY__ALLOW_PRIVATE_NETWORKS", "false")]).await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    let port = receiver.address().rsplit(':').next().unwrap();
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "[fe80::1]",
        "[fd00::1]",
        "[::ffff:10.0.0.1]",
        "[64:ff9b::7f00:1]",
        "255.255.255.255",
    ] {
        let wanted = json!({"url": format!("http://{host}:{port}/"), "org": "acme", "event_types": ["*"]});
        let answer = acme.post("/v1/webhooks", &wanted).await;
        assert_eq!(answer.status, 400, "{host}: {}", answer.text);
        let problem = answer.expect_problem(400, "invalid-field").json();
        assert_eq!(problem["field"], "url", "{host}: {problem}");
    }
    // A name may be taken at first; where it leads is looked at when something is sent.
    let wanted = json!({"url": format!("http://localhost:{port}/"), "org": "acme", "event_types": ["*"],
        "retry": retry(&[50])});
    let answer = acme.post("/v1/webhooks", &wanted).await.expect_any(&[201, 400]);
    if answer.status == 201 {
        let id = id_of(&answer.json());
        acme.publish(&json!({"type": "a.b"})).await;
        let attempt = acme.wait_attempts(&id, 1).await.remove(0);
        assert!(attempt["status"].is_null(), "{attempt}");
    }
    assert!(receiver.deliveries().is_empty(), "nothing may reach an address inside");
}

#[tokio::test]
async fn a_network_that_is_allowed_is_reached_although_it_is_inside() {
    let settings = [("DELIVERY__ALLOW_PRIVATE_NETWORKS", "false"), ("DELIVERY__ALLOWED_NETWORKS", "[\"127.0.0.0/8\"]")];
    let hub = Hub::start_with(&settings).await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    acme.webhook(&hook(&receiver, "/hook")).await;
    acme.publish(&json!({"id": "in", "type": "a.b"})).await;
    receiver.wait_event("/hook", "in").await;
    let wanted = json!({"url": "http://10.0.0.1/", "org": "acme", "event_types": ["*"]});
    acme.post("/v1/webhooks", &wanted).await.expect_problem(400, "invalid-field");
}

#[tokio::test]
async fn raw_format_sends_the_data_alone_with_the_webhooks_own_headers() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    let mut wanted = hook(&receiver, "/hook");
    wanted["format"] = json!("raw");
    wanted["headers"] = json!({"x-team": "blue"});
    let webhook = acme.webhook(&wanted).await;
    acme.post_bytes("/v1/events", "application/json", br#"{"id":"r","type":"a.b","data":{"b":1.0, "a":2}}"#.to_vec())
        .await
        .expect(202);
    let delivery = receiver.wait_event("/hook", "r").await;
    assert_eq!(delivery.body, br#"{"b":1.0, "a":2}"#);
    assert_eq!(delivery.header("x-team"), "blue");
    assert_signed(&delivery, webhook["signing_secret"].as_str().unwrap());
}
