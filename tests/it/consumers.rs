//! Pull consumers over HTTP: their life, long polls, leases, answers, order, bounds (INB-5).

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Api, Hub, items, retry, sample, until};

/// Makes a consumer of `acme` for every event.
async fn make(acme: &Api, name: &str, more: Value) -> Value {
    let mut wanted = json!({"name": name, "event_types": ["*"]});
    wanted.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    acme.post("/v1/consumers", &wanted).await.expect(201).json()
}

/// Waits for up to `max` deliveries.
async fn pull(api: &Api, name: &str, max: usize) -> Vec<Value> {
    let wanted = json!({"max": max, "wait_ms": 20_000});
    let answer = api.post(&format!("/v1/consumers/{name}/pull"), &wanted).await.expect(200).json();
    answer["deliveries"].as_array().unwrap().clone()
}

/// Asks once, without waiting for what is not there.
async fn look(api: &Api, name: &str) -> Vec<Value> {
    let answer = api.post(&format!("/v1/consumers/{name}/pull"), &json!({"max": 100})).await.expect(200).json();
    answer["deliveries"].as_array().unwrap().clone()
}

/// Takes deliveries until there are so many.
async fn pull_all(api: &Api, name: &str, count: usize) -> Vec<Value> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(pull(api, name, count - all.len()).await);
    }
    all
}

fn ids(deliveries: &[Value]) -> Vec<&str> {
    deliveries.iter().map(|one| one["event"]["id"].as_str().unwrap()).collect()
}

fn tokens(deliveries: &[Value]) -> Value {
    deliveries.iter().map(|one| one["token"].clone()).collect()
}

async fn say(api: &Api, name: &str, verb: &str, deliveries: &[Value], more: Value) -> Vec<Value> {
    let mut body = json!({"tokens": tokens(deliveries)});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let answer = api.post(&format!("/v1/consumers/{name}/{verb}"), &body).await.expect(200).json();
    answer["results"].as_array().unwrap().clone()
}

async fn publish(api: &Api, ids: &[&str]) {
    let batch: Vec<Value> = ids.iter().map(|id| json!({"id": id, "type": "a.b", "data": {"id": id}})).collect();
    api.post("/v1/events/batch", &Value::from(batch)).await.expect(202);
}

#[tokio::test]
async fn a_consumer_lives_through_create_list_change_pause_and_delete() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let made =
        make(&acme, "billing", json!({"ordering": "key", "lease_ms": 5_000, "retry": "erp", "description": "x"})).await;
    assert!(made["id"].as_str().unwrap().starts_with("con_"), "{made}");
    assert_eq!((&made["name"], &made["org"], &made["status"]), (&json!("billing"), &json!("acme"), &json!("active")));
    assert_eq!(
        (&made["max_attempts"], &made["ephemeral"], &made["start"]),
        (&json!(6), &json!(false), &json!("latest"))
    );
    assert!(made["created_by"]["by"].as_str().unwrap().starts_with("key:"), "{made}");
    acme.post("/v1/consumers", &json!({"name": "billing", "event_types": ["*"]})).await.expect_problem(409, "conflict");
    make(&acme, "audit", json!({})).await;
    let page = acme.get("/v1/consumers").await.expect(200).json();
    let names: BTreeSet<&str> = items(&page).iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, BTreeSet::from(["audit", "billing"]));

    let changed =
        acme.patch("/v1/consumers/billing", &json!({"lease_ms": 700, "max_attempts": 2})).await.expect(200).json();
    assert_eq!((&changed["lease_ms"], &changed["retry"]["attempts_max"]), (&json!(700), &json!(2)), "{changed}");
    let problem =
        acme.patch("/v1/consumers/billing", &json!({"ordering": "none"})).await.expect_problem(400, "invalid-field");
    assert_eq!(problem.json()["field"], "ordering");

    let paused = acme.act("/v1/consumers/billing/pause").await.expect(200).json();
    assert_eq!(paused["status"], "paused");
    publish(&acme, &["held"]).await;
    assert!(look(&acme, "billing").await.is_empty(), "a paused consumer gives out nothing");
    acme.act("/v1/consumers/billing/resume").await.expect(200);
    assert_eq!(ids(&pull(&acme, "billing", 5).await), ["held"]);
    let shown = acme.get("/v1/consumers/billing").await.expect(200).json();
    assert_eq!((&shown["in_flight"], &shown["waiting_clients"]), (&json!(1), &json!(0)), "{shown}");
    assert!(shown["lag"].is_number() && shown["gaps"] == 0, "{shown}");

    acme.delete("/v1/consumers/billing").await.expect(204);
    for (method, path) in
        [("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/pull"), ("POST", "/pause"), ("GET", "/stream")]
    {
        let answer = acme.call(method, &format!("/v1/consumers/billing{path}"), &json!({})).await;
        answer.expect_problem(404, "not-found");
    }
    // The name is free, and another consumer of it has nothing of the first one.
    make(&acme, "billing", json!({})).await;
    assert!(look(&acme, "billing").await.is_empty());
}

#[tokio::test]
async fn a_consumer_begins_where_it_was_told_to_also_after_a_kill() {
    let mut hub = Hub::start().await;
    let key = hub.key(&["publish", "consume", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    publish(&acme, &["e1", "e2"]).await;
    publish(&acme, &["e3"]).await;
    let third = acme.get("/v1/events/e3").await.expect(200).json();
    let other = hub.public(&hub.key(&["publish"], Some("globex")).await);
    publish(&other, &["x1", "x2"]).await;
    let time = third["received_at"].as_str().unwrap();
    for (name, start) in [
        ("earliest", json!("earliest")),
        ("latest", json!("latest")),
        ("seq", json!({"seq": third["seq"].as_u64().unwrap() - 1})),
        ("time", json!({"time": time})),
        ("later", json!({"time": "2999-01-01T00:00:00Z"})),
    ] {
        make(&acme, name, json!({"start": start})).await;
    }
    // Killed before anything was pulled: where they begin is on disk.
    hub.kill();
    hub.restart().await;
    let acme = hub.public(&key);
    publish(&acme, &["e4"]).await;
    for (name, wanted) in [
        ("earliest", &["e1", "e2", "e3", "e4"][..]),
        ("latest", &["e4"]),
        ("seq", &["e2", "e3", "e4"]),
        ("later", &["e4"]),
    ] {
        let came = pull_all(&acme, name, wanted.len()).await;
        assert_eq!(ids(&came), wanted, "{name}");
        say(&acme, name, "ack", &came, json!({})).await;
    }
    let page = acme.get(&format!("/v1/events?from={time}")).await.expect(200).json();
    let since: Vec<_> = items(&page).iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert!(since.ends_with(&["e3", "e4"]), "{since:?}");
    assert_eq!(ids(&pull_all(&acme, "time", since.len()).await), since);
    let past = acme.post("/v1/consumers", &json!({"name": "far", "event_types": ["*"], "start": {"seq": 9_999}})).await;
    assert_eq!(past.expect_problem(400, "invalid-field").json()["field"], "start.seq");
}

#[tokio::test]
async fn a_poll_waits_for_the_event_and_an_answer_ends_its_delivery() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let made = make(&acme, "billing", json!({"lease_ms": 60_000})).await;
    let waiting = tokio::spawn({
        let acme = acme.clone();
        async move { pull(&acme, "billing", 5).await }
    });
    let admin = hub.admin();
    until("the poll waits", || async {
        let metrics = admin.get("/metrics").await.expect(200).text;
        (sample(&metrics, "tidegate_pull_clients", &[r#"client="poll""#]) == Some(1.0)).then_some(())
    })
    .await;
    let event = json!({"id": "e-1", "type": "a.b", "ordering_key": "k", "data": {"n": 12345678901234567890_u64}});
    acme.publish(&event).await;
    let came = waiting.await.unwrap();
    assert_eq!(ids(&came), ["e-1"]);
    assert_eq!((&came[0]["attempt"], &came[0]["event"]["data"]), (&json!(1), &event["data"]), "{came:?}");
    assert!(came[0]["event"]["seq"].is_number() && came[0]["lease_until"].is_string(), "{came:?}");
    let consumer = made["id"].as_str().unwrap();
    let standing = acme.wait_status("e-1", consumer, "processing").await;
    assert_eq!(standing["name"], "billing", "{standing}");
    let results = say(&acme, "billing", "ack", &came, json!({})).await;
    assert_eq!((&results[0]["status"], &results[0]["token"]), (&json!("acked"), &came[0]["token"]));
    acme.wait_status("e-1", consumer, "processed").await;
    let again = json!({"tokens": tokens(&came)});
    acme.post("/v1/consumers/billing/ack", &again).await.expect_problem(409, "stale-token");
    assert!(look(&acme, "billing").await.is_empty());

    let listed = hub.admin().get("/v1/admin/consumers").await.expect(200).json();
    let entry = items(&listed).iter().find(|one| one["id"] == made["id"]).unwrap().clone();
    assert_eq!((&entry["kind"], &entry["name"], &entry["processed"]), (&json!("pull"), &json!("billing"), &json!(1)));
    let metrics = admin.get("/metrics").await.expect(200).text;
    assert_eq!(sample(&metrics, "tidegate_consumers", &[r#"consumer_kind="pull""#]), Some(1.0));
    assert_eq!(sample(&metrics, "tidegate_delivery_attempts_total", &["pull", "delivered"]), Some(1.0));
}

#[tokio::test]
async fn a_delivery_that_is_not_answered_comes_again_and_its_old_token_counts_no_longer() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let made = make(&acme, "billing", json!({"lease_ms": 150, "max_attempts": 3})).await;
    publish(&acme, &["e-1"]).await;
    let first = pull(&acme, "billing", 1).await;
    let second = pull(&acme, "billing", 1).await;
    assert_eq!((ids(&first), ids(&second)), (vec!["e-1"], vec!["e-1"]));
    assert_eq!((&first[0]["attempt"], &second[0]["attempt"]), (&json!(1), &json!(2)));
    let late = json!({"tokens": tokens(&first)});
    for verb in ["ack", "nak", "term", "extend"] {
        acme.post(&format!("/v1/consumers/billing/{verb}"), &late).await.expect_problem(409, "stale-token");
    }
    let third = pull(&acme, "billing", 1).await;
    assert_eq!(third[0]["attempt"], 3);
    let letter = acme.wait_dead_letters(made["id"].as_str().unwrap(), 1).await;
    assert_eq!((&letter[0]["event_id"], &letter[0]["attempts"]), (&json!("e-1"), &json!(3)), "{letter:?}");
    assert_eq!(letter[0]["error"]["kind"], "lease_expired", "{letter:?}");
    // One that counts among others that do not.
    publish(&acme, &["e-2"]).await;
    let fresh = pull(&acme, "billing", 1).await;
    let mixed = [first[0].clone(), fresh[0].clone()];
    let statuses: Vec<_> =
        say(&acme, "billing", "ack", &mixed, json!({})).await.iter().map(|one| one["status"].clone()).collect();
    assert_eq!(statuses, ["stale", "acked"]);
}

#[tokio::test]
async fn an_extended_lease_outlives_the_first_one() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    make(&acme, "billing", json!({"lease_ms": 300})).await;
    publish(&acme, &["e-1"]).await;
    let came = pull(&acme, "billing", 1).await;
    let extended = say(&acme, "billing", "extend", &came, json!({"lease_ms": 3_600_000})).await;
    assert_eq!(extended[0]["status"], "extended");
    assert!(extended[0]["lease_until"].as_str() > came[0]["lease_until"].as_str(), "{extended:?} {came:?}");
    // A second event with the first lease comes and comes again, while the first is still its holder's.
    publish(&acme, &["e-2"]).await;
    for _ in 0..3 {
        assert_eq!(ids(&pull(&acme, "billing", 5).await), ["e-2"]);
    }
    let results = say(&acme, "billing", "ack", &came, json!({})).await;
    assert_eq!(results[0]["status"], "acked");
    let bad = json!({"tokens": tokens(&came), "lease_ms": 999_999_999_999_u64});
    let problem = acme.post("/v1/consumers/billing/extend", &bad).await.expect_problem(400, "invalid-field");
    assert_eq!(problem.json()["field"], "lease_ms");
}

#[tokio::test]
async fn a_refused_delivery_comes_again_when_it_is_due_and_a_given_up_one_becomes_a_dead_letter() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let made = make(&acme, "billing", json!({"max_attempts": 3})).await;
    let consumer = made["id"].as_str().unwrap();
    publish(&acme, &["later", "soon", "never"]).await;
    let came = pull_all(&acme, "billing", 3).await;
    let of = |id: &str| came.iter().filter(|one| one["event"]["id"] == id).cloned().collect::<Vec<_>>();

    let results =
        say(&acme, "billing", "nak", &of("later"), json!({"delay_ms": 86_400_000, "reason": "closed today"})).await;
    assert_eq!(results[0]["status"], "retry");
    let entry = acme.wait_status("later", consumer, "failed").await;
    assert_eq!((&entry["attempts"], &entry["last_error"]), (&json!(1), &json!("closed today")), "{entry}");
    assert_eq!(entry["available_at"], results[0]["due_at"], "{entry}");
    let waits = |entry: &Value| {
        let at = |value: &Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        at(&entry["available_at"]).as_millisecond() - at(&entry["updated_at"]).as_millisecond()
    };
    // Counted from the answer, which is noted a moment later.
    assert!((86_399_000..=86_401_000).contains(&waits(&entry)), "the delay is the one that was asked for: {entry}");

    let results = say(&acme, "billing", "nak", &of("soon"), json!({"delay_ms": 0})).await;
    assert_eq!(results[0]["status"], "retry");
    let again = pull(&acme, "billing", 5).await;
    assert_eq!((ids(&again), &again[0]["attempt"]), (vec!["soon"], &json!(2)));
    say(&acme, "billing", "ack", &again, json!({})).await;

    let results = say(&acme, "billing", "term", &of("never"), json!({"reason": "no such customer"})).await;
    assert_eq!(results[0]["status"], "dead_letter");
    let letters = acme.wait_dead_letters(consumer, 1).await;
    assert_eq!(
        (&letters[0]["event_id"], &letters[0]["error"]["message"]),
        (&json!("never"), &json!("no such customer"))
    );
    assert_eq!((&letters[0]["error"]["kind"], &letters[0]["attempts"]), (&json!("rejected"), &json!(1)));
    acme.wait_status("never", consumer, "dead_letter").await;

    // The last attempt of three that is refused is the end of it, whatever delay it asks for.
    publish(&acme, &["worn"]).await;
    for attempt in 1..=3 {
        let came = pull(&acme, "billing", 1).await;
        assert_eq!((ids(&came), &came[0]["attempt"]), (vec!["worn"], &json!(attempt)));
        let results = say(&acme, "billing", "nak", &came, json!({"delay_ms": 1})).await;
        assert_eq!(results[0]["status"], if attempt < 3 { "retry" } else { "dead_letter" });
    }
    let letters = acme.wait_dead_letters(consumer, 2).await;
    assert!(letters.iter().any(|one| one["event_id"] == "worn" && one["error"]["kind"] == "nak"), "{letters:?}");
}

#[tokio::test]
async fn after_a_restart_old_tokens_are_stale_and_what_was_acknowledged_does_not_come_again() {
    for graceful in [true, false] {
        let mut hub = Hub::start().await;
        let key = hub.key(&["publish", "consume", "manage", "read"], Some("acme")).await;
        let acme = hub.public(&key);
        make(&acme, "billing", json!({})).await;
        publish(&acme, &["done", "refused", "held"]).await;
        let came = pull_all(&acme, "billing", 3).await;
        say(&acme, "billing", "ack", &came[..1], json!({})).await;
        say(&acme, "billing", "nak", &came[1..2], json!({"delay_ms": 0})).await;
        // A claim that is out must not hold up the end.
        if graceful {
            assert!(hub.terminate().await.success());
        } else {
            hub.kill();
        }
        hub.restart().await;
        let acme = hub.public(&key);
        let late = json!({"tokens": tokens(&came)});
        acme.post("/v1/consumers/billing/ack", &late).await.expect_problem(409, "stale-token");
        let again = pull_all(&acme, "billing", 2).await;
        let attempts: Vec<_> =
            again.iter().map(|one| (one["event"]["id"].as_str().unwrap(), one["attempt"].as_u64().unwrap())).collect();
        let wanted = BTreeSet::from([("refused", 2), ("held", 1)]);
        assert_eq!(attempts.into_iter().collect::<BTreeSet<_>>(), wanted, "graceful: {graceful}");
        acme.post("/v1/consumers/billing/ack", &late).await.expect_problem(409, "stale-token");
        say(&acme, "billing", "ack", &again, json!({})).await;
        assert!(look(&acme, "billing").await.is_empty());
    }
}

#[tokio::test]
async fn within_a_key_and_in_strict_order_the_next_comes_after_the_answer() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    make(&acme, "by-key", json!({"ordering": "key"})).await;
    make(&acme, "strict", json!({"ordering": "strict"})).await;
    for (id, key) in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("a3", "a")] {
        acme.publish(&json!({"id": id, "type": "a.b", "ordering_key": key})).await;
    }
    let first = pull_all(&acme, "by-key", 2).await;
    assert_eq!(ids(&first).into_iter().collect::<BTreeSet<_>>(), BTreeSet::from(["a1", "b1"]));
    assert!(look(&acme, "by-key").await.is_empty(), "the rest of the key waits");
    let a1: Vec<_> = first.into_iter().filter(|one| one["event"]["id"] == "a1").collect();
    say(&acme, "by-key", "nak", &a1, json!({"delay_ms": 0})).await;
    let a1 = pull(&acme, "by-key", 9).await;
    assert_eq!(ids(&a1), ["a1"], "a refused one is still the first of its key");
    say(&acme, "by-key", "ack", &a1, json!({})).await;
    assert_eq!(ids(&pull(&acme, "by-key", 9).await), ["a2"]);

    for id in ["a1", "a2", "b1", "a3"] {
        let came = pull(&acme, "strict", 9).await;
        assert_eq!(ids(&came), [id]);
        assert!(look(&acme, "strict").await.is_empty());
        say(&acme, "strict", "ack", &came, json!({})).await;
    }
}

#[tokio::test]
async fn many_clients_share_the_work_and_none_of_it_comes_twice() {
    const EVENTS: usize = 400;
    const CLIENTS: usize = 8;
    let hub = Hub::start().await;
    let acme = hub.acme().await.pooled();
    make(&acme, "billing", json!({"max_in_flight": 40})).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let acme = acme.clone();
        clients.push(tokio::spawn(async move {
            let mut mine = Vec::new();
            loop {
                let came = pull(&acme, "billing", 10).await;
                if came.is_empty() {
                    return mine;
                }
                say(&acme, "billing", "ack", &came, json!({})).await;
                let stop = came.iter().any(|one| one["event"]["type"] == "the.end");
                mine.extend(came.into_iter().map(|one| one["event"]["id"].as_str().unwrap().to_owned()));
                if stop {
                    return mine;
                }
            }
        }));
    }
    let batch: Vec<_> = (0..EVENTS).map(|n| json!({"id": format!("n{n}"), "type": "a.b"})).collect();
    acme.post("/v1/events/batch", &Value::from(batch)).await.expect(202);
    let admin = hub.admin();
    until("all are settled", || async {
        let stats = admin.get("/v1/admin/stats").await.expect(200).json();
        (stats["processed"] == EVENTS).then_some(())
    })
    .await;
    for _ in 0..CLIENTS {
        acme.publish(&json!({"type": "the.end"})).await;
    }
    let mut all = Vec::new();
    for client in clients {
        all.extend(client.await.unwrap().into_iter().filter(|id| id.starts_with('n')));
    }
    let distinct: BTreeSet<_> = all.iter().collect();
    assert_eq!((all.len(), distinct.len()), (EVENTS, EVENTS), "each came once");
}

#[tokio::test]
async fn a_client_that_goes_away_while_it_waits_takes_nothing_with_it() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    make(&acme, "billing", json!({"lease_ms": 3_600_000})).await;
    let admin = hub.admin();
    let waiting = async |wanted: f64| {
        until(&format!("{wanted} polls wait"), || async {
            let metrics = admin.get("/metrics").await.expect(200).text;
            (sample(&metrics, "tidegate_pull_clients", &[r#"client="poll""#]).unwrap_or(0.0) == wanted).then_some(())
        })
        .await;
    };
    for round in 0..3 {
        let gone = tokio::spawn({
            let acme = acme.clone();
            async move { pull(&acme, "billing", 10).await }
        });
        waiting(1.0).await;
        gone.abort();
        waiting(0.0).await;
        publish(&acme, &[&format!("e{round}")]).await;
        // With a lease of an hour, one that was claimed for who has gone would not come.
        let came = pull(&acme, "billing", 10).await;
        assert_eq!((ids(&came), &came[0]["attempt"]), (vec![&*format!("e{round}")], &json!(1)));
        say(&acme, "billing", "ack", &came, json!({})).await;
    }
}

#[tokio::test]
async fn nothing_is_leased_that_nobody_waits_for() {
    let hub = Hub::start_with(&[("INBOX__IDLE_MS", "100"), ("INBOX__CHECKPOINT_MS", "20")]).await;
    let acme = hub.acme().await;
    let made = make(&acme, "billing", json!({})).await;
    publish(&acme, &["e1", "e2", "e3", "e4"]).await;
    let consumer = made["id"].as_str().unwrap();
    acme.wait_status("e1", consumer, "pending").await;
    let first = pull(&acme, "billing", 1).await;
    assert_eq!(ids(&first), ["e1"]);
    let shown = acme.get("/v1/consumers/billing").await.expect(200).json();
    assert_eq!(shown["in_flight"], 1, "one was asked for: {shown}");
    assert_eq!(shown["lag"], 4, "{shown}");
    let rest = pull_all(&acme, "billing", 3).await;
    say(&acme, "billing", "ack", &[&first[..], &rest].concat(), json!({})).await;
    // With nothing left to do it costs nothing.
    let admin = hub.admin();
    until("no actor is left", || async {
        let metrics = admin.get("/metrics").await.expect(200).text;
        let left = |kind: &str| sample(&metrics, "tidegate_actors", &[&format!(r#"actor="{kind}""#)]);
        (left("inbox") == Some(0.0) && left("pull") == Some(0.0)).then_some(())
    })
    .await;
    publish(&acme, &["e5"]).await;
    assert_eq!(ids(&pull(&acme, "billing", 1).await), ["e5"]);
}

#[tokio::test]
async fn panics_of_every_actor_lose_nothing_and_waits_go_on() {
    let hub = Hub::start_with(&[("FAULTS__ENABLED", "true"), ("SUPERVISE__RESTARTS_MAX", "1000")]).await;
    let acme = hub.acme().await.pooled();
    make(&acme, "billing", json!({"lease_ms": 400})).await;
    let admin = hub.admin();
    let (mut left, mut unknown): (BTreeSet<String>, BTreeSet<String>) = Default::default();
    for round in 0.. {
        if round < 6 {
            let batch: Vec<_> = (0..20).map(|n| json!({"id": format!("r{round}-{n}"), "type": "a.b"})).collect();
            left.extend(batch.iter().map(|one| one["id"].as_str().unwrap().to_owned()));
            acme.post("/v1/events/batch", &Value::from(batch)).await.expect(202);
            let fault = if round % 2 == 0 { "panic-consumers" } else { "panic-router" };
            admin.act(&format!("/v1/admin/faults/{fault}")).await.expect(202);
        } else if left.is_subset(&unknown) {
            break;
        }
        let came = pull(&acme, "billing", 15).await;
        if came.is_empty() {
            continue;
        }
        let answer = acme.post("/v1/consumers/billing/ack", &json!({"tokens": tokens(&came)})).await;
        let answer = answer.expect_any(&[200, 409, 503]);
        if answer.status == 503 {
            // It may count or not: then these come again or never.
            unknown.extend(ids(&came).into_iter().map(str::to_owned));
        }
        let results =
            if answer.status == 200 { answer.json()["results"].as_array().unwrap().clone() } else { Vec::new() };
        for (result, one) in results.iter().zip(&came) {
            let id = one["event"]["id"].as_str().unwrap();
            if result["status"] == "acked" {
                assert!(left.remove(id), "{one} came again after its answer");
            }
        }
    }
}

#[tokio::test]
async fn two_orgs_may_use_one_name_and_a_token_of_one_means_nothing_to_the_other() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let globex = hub.public(&hub.key(&["publish", "consume", "manage", "read"], Some("globex")).await);
    let any_org = hub.public(&hub.key(&["consume", "manage", "read"], None).await);
    make(&acme, "billing", json!({})).await;
    make(&acme, "second", json!({})).await;
    make(&globex, "billing", json!({})).await;
    publish(&acme, &["acme-1"]).await;
    publish(&globex, &["globex-1"]).await;
    let of_acme = pull(&acme, "billing", 5).await;
    let of_globex = pull(&globex, "billing", 5).await;
    assert_eq!((ids(&of_acme), ids(&of_globex)), (vec!["acme-1"], vec!["globex-1"]));
    let stolen = json!({"tokens": tokens(&of_acme)});
    globex.post("/v1/consumers/billing/ack", &stolen).await.expect_problem(409, "stale-token");
    acme.post("/v1/consumers/second/ack", &stolen).await.expect_problem(409, "stale-token");
    globex.post("/v1/consumers/second/ack", &stolen).await.expect_problem(404, "not-found");
    globex.post("/v1/consumers/billing/ack?org=acme", &stolen).await.expect_problem(403, "forbidden");
    let unclear = any_org.post("/v1/consumers/billing/ack", &stolen).await.expect_problem(400, "invalid-parameter");
    assert_eq!(unclear.json()["field"], "org");
    any_org.post("/v1/consumers/billing/ack?org=acme", &stolen).await.expect(200);
    any_org.get("/v1/consumers/second").await.expect(200);
    let mut changed = of_globex[0]["token"].as_str().unwrap().to_owned().into_bytes();
    changed[20] = if changed[20] == b'A' { b'B' } else { b'A' };
    let changed = json!({"tokens": [String::from_utf8(changed).unwrap()]});
    globex.post("/v1/consumers/billing/ack", &changed).await.expect_problem(409, "stale-token");
    say(&globex, "billing", "ack", &of_globex, json!({})).await;
}

#[tokio::test]
async fn what_does_not_fit_is_refused_by_its_name() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    make(&acme, "billing", json!({})).await;
    let base = json!({"name": "x", "event_types": ["*"]});
    for (field, with) in [
        ("name", json!({"name": "a/b"})),
        ("event_types", json!({"event_types": []})),
        ("event_types[0]", json!({"event_types": ["a..b"]})),
        ("start", json!({"start": "whenever"})),
        ("start.time", json!({"start": {"time": "today"}})),
        ("lease_ms", json!({"lease_ms": 5})),
        ("max_in_flight", json!({"max_in_flight": 0})),
        ("retry", json!({"retry": "sometimes"})),
        ("expires_after_ms", json!({"expires_after_ms": 10_000})),
        ("max_atempts", json!({"max_atempts": 3})),
    ] {
        let mut body = base.clone();
        body.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
        let problem = acme.post("/v1/consumers", &body).await.expect_problem(400, "invalid-field").json();
        assert_eq!(problem["field"], field, "{body}");
    }
    for (path, body, field) in [
        ("pull", json!({"max": 0}), "max"),
        ("pull", json!({"max": 257}), "max"),
        ("pull", json!({"wait_ms": 60_001}), "wait_ms"),
        ("pull", json!({"wait": 5}), "wait"),
        ("ack", json!({}), "tokens"),
        ("ack", json!({"tokens": []}), "tokens"),
        ("ack", json!({"tokens": "x"}), "tokens"),
        ("ack", json!({"tokens": ["nonsense"]}), "tokens[0]"),
        ("ack", json!({"tokens": vec!["x"; 257]}), "tokens"),
        ("ack", json!({"tokens": ["x"], "delay_ms": 5}), "delay_ms"),
        ("nak", json!({"tokens": ["x"], "delay_ms": -1}), "delay_ms"),
        ("nak", json!({"tokens": ["x"], "delay_ms": 604_800_001}), "delay_ms"),
        ("term", json!({"tokens": ["x"], "reason": "x".repeat(1_024)}), "reason"),
        ("extend", json!({"tokens": ["x"], "lease_ms": 1}), "lease_ms"),
    ] {
        let answer = acme.post(&format!("/v1/consumers/billing/{path}"), &body).await;
        assert_eq!(answer.expect_problem(400, "invalid-field").json()["field"], field, "{path} {body}");
    }
    acme.post_bytes("/v1/consumers/billing/pull", "application/json", b"{".to_vec())
        .await
        .expect_problem(400, "not-json");
    acme.get("/v1/consumers/billing/stream?max=0").await.expect_problem(400, "invalid-parameter");
    acme.get("/v1/consumers/billing/stream?format=xml").await.expect_problem(400, "invalid-parameter");
    acme.get("/v1/consumers/billing/ws").await.expect_problem(400, "invalid-field");
}

#[tokio::test]
async fn clients_past_the_bound_are_told_of_it() {
    let hub = Hub::start_with(&[("PULL__CONSUMER_CLIENTS_MAX", "2"), ("PULL__CLIENTS_MAX", "3")]).await;
    let acme = hub.acme().await;
    for name in ["one", "two"] {
        make(&acme, name, json!({})).await;
    }
    let wait = |name: &'static str| {
        let acme = acme.clone();
        tokio::spawn(async move { pull(&acme, name, 1).await })
    };
    let admin = hub.admin();
    let waiting = async |wanted: f64| {
        until(&format!("{wanted} polls wait"), || async {
            let metrics = admin.get("/metrics").await.expect(200).text;
            (sample(&metrics, "tidegate_pull_clients", &[r#"client="poll""#]).unwrap_or(0.0) == wanted).then_some(())
        })
        .await;
    };
    let clients = [wait("one"), wait("one")];
    waiting(2.0).await;
    let answer = acme.post("/v1/consumers/one/pull", &json!({})).await.expect_problem(503, "overloaded");
    assert!(answer.text.contains("at most 2") && answer.header("retry-after").is_some(), "{}", answer.text);
    let other = wait("two");
    waiting(3.0).await;
    let answer = acme.post("/v1/consumers/two/pull", &json!({})).await.expect_problem(503, "overloaded");
    assert!(answer.text.contains("at most 3"), "{}", answer.text);
    publish(&acme, &["e1", "e2"]).await;
    for client in clients.into_iter().chain([other]) {
        assert_eq!(client.await.unwrap().len(), 1);
    }
    look(&acme, "one").await;
}

#[tokio::test]
async fn a_poll_that_waits_does_not_hold_up_the_end() {
    let mut hub = Hub::start_with(&[("SERVER__SHUTDOWN_MS", "3600000")]).await;
    let acme = hub.acme().await;
    make(&acme, "billing", json!({"lease_ms": 3_600_000})).await;
    publish(&acme, &["held"]).await;
    assert_eq!(pull(&acme, "billing", 1).await.len(), 1);
    let waiting = tokio::spawn({
        let acme = acme.clone();
        async move {
            let wanted = json!({"max": 1, "wait_ms": 60_000}).to_string().into_bytes();
            let headers = [("content-type", "application/json")];
            acme.try_send(Method::POST, "/v1/consumers/billing/pull", &headers, Some(wanted)).await.unwrap()
        }
    });
    let admin = hub.admin();
    until("the poll waits", || async {
        let metrics = admin.get("/metrics").await.expect(200).text;
        (sample(&metrics, "tidegate_pull_clients", &[r#"client="poll""#]) == Some(1.0)).then_some(())
    })
    .await;
    assert!(hub.terminate().await.success(), "{}", hub.log());
    let answer = waiting.await.unwrap();
    assert_eq!((answer.status, answer.json()), (200, json!({"deliveries": []})));
}

#[tokio::test]
async fn an_ephemeral_consumer_goes_when_nobody_comes_and_stays_while_somebody_is_there() {
    let mut hub = Hub::start().await;
    let key = hub.key(&["publish", "consume", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    let short = json!({"ephemeral": true, "expires_after_ms": 1_000});
    let made = make(&acme, "left", short.clone()).await;
    assert_eq!((&made["ephemeral"], &made["expires_after_ms"]), (&json!(true), &json!(1_000)));
    make(&acme, "watched", short.clone()).await;
    make(&acme, "stays", json!({})).await;
    let gone = async |acme: &Api, name: &str| {
        until(&format!("{name} is gone"), || async {
            let answer = acme.get(&format!("/v1/consumers/{name}")).await;
            (answer.status == 404).then_some(())
        })
        .await;
    };
    let watching = tokio::spawn({
        let acme = acme.clone();
        async move { pull(&acme, "watched", 1).await }
    });
    gone(&acme, "left").await;
    acme.get("/v1/consumers/watched").await.expect(200);
    publish(&acme, &["e-1"]).await;
    assert_eq!(watching.await.unwrap().len(), 1);
    gone(&acme, "watched").await;
    // One whose client was killed with the hub goes, too.
    make(&acme, "orphan", short).await;
    hub.kill();
    hub.restart().await;
    let acme = hub.public(&key);
    gone(&acme, "orphan").await;
    acme.get("/v1/consumers/stays").await.expect(200);
}

#[tokio::test]
async fn large_events_come_in_answers_of_bounded_size_and_all_of_them_come() {
    const EVENTS: usize = 24;
    let hub = Hub::start().await;
    let acme = hub.acme().await.pooled();
    make(&acme, "billing", json!({})).await;
    let filling = "x".repeat(800_000);
    for n in 0..EVENTS {
        acme.publish(&json!({"id": format!("n{n:02}"), "type": "a.b", "data": filling})).await;
    }
    let mut seen = Vec::new();
    while seen.len() < EVENTS {
        let came = pull(&acme, "billing", 100).await;
        assert!(came.len() <= 7, "{} at once", came.len());
        seen.extend(ids(&came).into_iter().map(str::to_owned));
        say(&acme, "billing", "ack", &came, json!({})).await;
    }
    assert_eq!(seen, (0..EVENTS).map(|n| format!("n{n:02}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn who_pulls_now_and_then_gets_everything_that_came_meanwhile() {
    let hub = Hub::start_with(&[("INBOX__WINDOW_EVENTS", "16")]).await;
    let acme = hub.acme().await.pooled();
    make(&acme, "billing", json!({"retry": retry(&[1]), "max_attempts": 2})).await;
    let batch = |from: usize| -> Value {
        (from..from + 50).map(|n| json!({"id": format!("n{n:03}"), "type": "a.b"})).collect()
    };
    for round in 0..3 {
        acme.post("/v1/events/batch", &batch(round * 50)).await.expect(202);
        // Longer than an inbox keeps in memory what nobody asks for.
        if round == 1 {
            tokio::time::sleep(Duration::from_millis(5_500)).await;
        }
        let mut got: Vec<String> = Vec::new();
        while got.len() < 50 {
            let came = pull(&acme, "billing", 50).await;
            got.extend(ids(&came).into_iter().map(str::to_owned));
            say(&acme, "billing", "ack", &came, json!({})).await;
        }
        got.sort_unstable();
        assert_eq!(got, (round * 50..round * 50 + 50).map(|n| format!("n{n:03}")).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn the_owner_of_a_consumer_sees_its_attempts_newest_first_and_page_by_page() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    make(&acme, "billing", json!({"max_attempts": 3, "ordering": "strict", "retry": retry(&[1, 1])})).await;
    publish(&acme, &["e-1", "e-2"]).await;
    let came = pull(&acme, "billing", 1).await;
    say(&acme, "billing", "nak", &came, json!({"delay_ms": 0, "reason": "not now"})).await;
    for _ in 0..2 {
        let came = pull(&acme, "billing", 1).await;
        say(&acme, "billing", "ack", &came, json!({})).await;
    }
    let path = "/v1/consumers/billing/attempts";
    let attempts = until("three attempts", || async {
        let page = acme.get(path).await.expect(200).json();
        (items(&page).len() == 3).then(|| items(&page).clone())
    })
    .await;
    let told: Vec<_> = attempts.iter().map(|one| (one["event_id"].as_str().unwrap(), one["attempt"].clone())).collect();
    assert_eq!(told, [("e-2", json!(1)), ("e-1", json!(2)), ("e-1", json!(1))]);
    assert_eq!(attempts[0]["outcome"], "delivered");
    assert!(attempts[2]["error"].as_str().unwrap().contains("not now"), "{}", attempts[2]);

    let first = acme.get(&format!("{path}?limit=2")).await.expect(200).json();
    assert_eq!((items(&first).len(), &first["has_more"]), (2, &json!(true)));
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = acme.get(&format!("{path}?limit=2&cursor={cursor}")).await.expect(200).json();
    assert_eq!(items(&second), &attempts[2..]);
    acme.get(&format!("{path}?cursor=nonsense")).await.expect_problem(400, "invalid-parameter");
    acme.get(&format!("{path}?limit=0")).await.expect_problem(400, "invalid-parameter");
    acme.get("/v1/consumers/none/attempts").await.expect_problem(404, "not-found");
    let consume = hub.public(&hub.key(&["consume"], Some("acme")).await);
    consume.get(path).await.expect(200);
    hub.public(&hub.key(&["read"], Some("acme")).await).get(path).await.expect_problem(403, "forbidden");
    hub.public(&hub.key(&["consume"], Some("beta")).await).get(path).await.expect_problem(404, "not-found");
}
