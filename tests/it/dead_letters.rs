//! Dead letters redriven one by one and many at a time, discarded, and counted (RTY-4).

use serde_json::{Value, json};

use crate::jobs::wait_job;
use crate::support::{Api, Hub, Receiver, Reply, items, retry, sample, until};

struct Scene {
    hub: Hub,
    receiver: Receiver,
    acme: Api,
    webhook: String,
}

/// A webhook that has given up `count` deliveries.
async fn scene(count: usize) -> Scene {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    receiver.always("/hook", Reply::Status(400));
    let wanted = json!({"url": receiver.url("/hook"), "org": "acme", "event_types": ["*"], "retry": retry(&[10])});
    let webhook = acme.webhook(&wanted).await["id"].as_str().unwrap().to_owned();
    let kind = |n: usize| if n.is_multiple_of(2) { "even.one" } else { "odd.one" };
    for n in 0..count {
        acme.publish(&json!({"id": format!("e{n}"), "type": kind(n), "data": {"n": n}})).await;
    }
    acme.wait_dead_letters(&webhook, count).await;
    Scene { hub, receiver, acme, webhook }
}

impl Scene {
    async fn list(&self, query: &str) -> Vec<Value> {
        let page =
            self.acme.get(&format!("/v1/dead-letters?consumer={}{query}", self.webhook)).await.expect(200).json();
        items(&page).clone()
    }

    async fn letter_of(&self, event: &str) -> String {
        let all = self.list("").await;
        let letter = all.iter().find(|one| one["event_id"] == event).unwrap();
        letter["id"].as_str().unwrap().to_owned()
    }

    async fn gauge(&self) -> f64 {
        let metrics = self.hub.admin().get("/metrics").await.expect(200).text;
        sample(&metrics, "tidegate_dead_letters", &[]).unwrap()
    }
}

#[tokio::test]
async fn a_redriven_dead_letter_is_delivered_marked_and_no_longer_open() {
    let mut scene = scene(3).await;
    assert_eq!(scene.gauge().await, 3.0);
    let first = scene.receiver.on("/hook").into_iter().find(|one| one.id() == "e1").unwrap();
    scene.receiver.always("/hook", Reply::Status(200));
    let id = scene.letter_of("e1").await;
    let answer = scene.acme.act(&format!("/v1/dead-letters/{id}/redrive")).await.expect(202).json();
    assert_eq!((&answer["state"], &answer["job"]), (&json!("redriven"), &Value::Null), "{answer}");
    assert!(answer["redriven_at"].is_string(), "{answer}");
    assert!(answer["closed_by"].as_str().unwrap().starts_with("key:"), "{answer}");
    scene.acme.wait_status("e1", &scene.webhook, "processed").await;
    let again = scene.receiver.on("/hook").pop().unwrap();
    assert_eq!((again.id(), &again.body), ("e1", &first.body), "the same event under the same id");
    assert_eq!(scene.gauge().await, 2.0);
    let problem =
        scene.acme.act(&format!("/v1/dead-letters/{id}/redrive")).await.expect_problem(409, "conflict").json();
    assert_eq!(problem["state"], "redriven", "{problem}");
    let states = async |state: &str| scene.list(&format!("&state={state}")).await.len();
    assert_eq!((states("open").await, states("redriven").await, states("discarded").await), (2, 1, 0));

    scene.hub.kill();
    scene.hub.restart().await;
    scene.acme = scene.acme.at(scene.hub.public_address());
    assert_eq!(scene.gauge().await, 2.0, "counted anew at the start");
    let letter = scene.acme.get(&format!("/v1/dead-letters/{id}")).await.expect(200).json();
    assert_eq!(letter["state"], "redriven");
}

#[tokio::test]
async fn a_redrive_that_fails_again_leaves_another_dead_letter_that_names_the_earlier_one() {
    let scene = scene(1).await;
    let id = scene.letter_of("e0").await;
    scene.acme.act(&format!("/v1/dead-letters/{id}/redrive")).await.expect(202);
    let letters = scene.acme.wait_dead_letters(&scene.webhook, 2).await;
    assert_eq!((&letters[0]["earlier"], &letters[0]["state"]), (&json!(id), &json!("open")), "{letters:?}");
    assert_eq!((&letters[1]["id"], &letters[1]["state"]), (&json!(id), &json!("redriven")), "{letters:?}");
    assert_eq!(letters[0]["event"]["data"], json!({"n": 0}));
    until("one is open", || async { (scene.gauge().await == 1.0).then_some(()) }).await;
    scene.acme.wait_status("e0", &scene.webhook, "dead_letter").await;
}

#[tokio::test]
async fn an_event_that_retention_has_dropped_is_redriven_byte_for_byte_from_its_dead_letter() {
    let settings = [("LOG__SEGMENT_EVENTS", "1000"), ("LOG__RETENTION_MS", "1000"), ("LOG__RETENTION_CHECK_MS", "100")];
    let mut hub = Hub::start_with(&settings).await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    receiver.script("/hook", [Reply::Status(400)]);
    let wanted = json!({"url": receiver.url("/hook"), "org": "acme", "event_types": ["kept.*"]});
    let webhook = acme.webhook(&wanted).await["id"].as_str().unwrap().to_owned();
    acme.publish(
        &json!({"id": "old", "type": "kept.long", "data": {"n": 1.50, "text": "\u{e9}"}, "aggregate_type": "order",
        "aggregate_id": "7", "metadata": {"seq": 1}}),
    )
    .await;
    let letter = acme.wait_dead_letters(&webhook, 1).await.remove(0);
    for from in (0..2_000).step_by(500) {
        let batch: Vec<_> = (from..from + 500).map(|n| json!({"id": format!("f{n}"), "type": "filling"})).collect();
        acme.post("/v1/events/batch", &Value::from(batch)).await.expect(202);
    }
    until("the log has dropped it", || async { (acme.get("/v1/events/old").await.status == 404).then_some(()) }).await;
    // Paused meanwhile and killed: the row and the dead letter are enough.
    acme.act(&format!("/v1/webhooks/{webhook}/pause")).await.expect(200);
    let id = letter["id"].as_str().unwrap();
    acme.act(&format!("/v1/dead-letters/{id}/redrive")).await.expect(202);
    hub.kill();
    hub.restart().await;
    let acme = acme.at(hub.public_address());
    acme.act(&format!("/v1/webhooks/{webhook}/resume")).await.expect(200);
    let came = receiver.wait_for("/hook", 2).await;
    assert_eq!((came[1].id(), &came[1].body), ("old", &came[0].body));
    assert_eq!(acme.get(&format!("/v1/dead-letters/{id}")).await.expect(200).json()["state"], "redriven");
}

#[tokio::test]
async fn a_discarded_dead_letter_is_kept_with_the_reason_and_counts_no_more() {
    let scene = scene(2).await;
    let id = scene.letter_of("e0").await;
    let path = format!("/v1/dead-letters/{id}/discard");
    for (field, body) in [
        ("reason", json!({})),
        ("reason", json!({"reason": ""})),
        ("reason", json!({"reason": "x".repeat(501)})),
        ("reason", json!({"reason": 7})),
        ("why", json!({"reason": "known", "why": 1})),
    ] {
        let problem = scene.acme.post(&path, &body).await.expect_problem(400, "invalid-field").json();
        assert_eq!(problem["field"], field, "{problem}");
    }
    let answer = scene.acme.post(&path, &json!({"reason": "a test order"})).await.expect(200).json();
    assert_eq!((&answer["state"], &answer["reason"]), (&json!("discarded"), &json!("a test order")), "{answer}");
    assert!(answer["discarded_at"].is_string() && answer["redriven_at"].is_null(), "{answer}");
    let problem = scene.acme.post(&path, &json!({"reason": "again"})).await.expect_problem(409, "conflict").json();
    assert_eq!(problem["state"], "discarded");
    scene.acme.act(&format!("/v1/dead-letters/{id}/redrive")).await.expect_problem(409, "conflict");
    assert_eq!(scene.gauge().await, 1.0);
    let shown = scene.acme.get(&format!("/v1/dead-letters/{id}")).await.expect(200).json();
    assert_eq!(shown, answer);
    assert_eq!(scene.receiver.on("/hook").len(), 2, "nothing was sent");
}

#[tokio::test]
async fn many_are_redriven_by_a_filter_as_a_job_and_none_in_a_circle() {
    let scene = scene(12).await;
    let filter = json!({"consumer": scene.webhook, "type": "even.*"});
    let mut dry = filter.clone();
    dry["dry_run"] = json!(true);
    let preview = scene.acme.post("/v1/dead-letters/redrive", &dry).await.expect(200).json();
    assert_eq!((&preview["would_match"], &preview["complete"]), (&json!(6), &json!(true)), "{preview}");
    assert_eq!(preview["examples"].as_array().unwrap().len(), 6);
    let made = scene.acme.post("/v1/dead-letters/redrive", &filter).await.expect(202).json();
    let id = made["id"].as_str().unwrap();
    assert_eq!((&made["kind"], &made["org"]), (&json!("redrive"), &json!("acme")), "{made}");
    let job = wait_job(&scene.acme, id, "is done", |job| job["state"] == "done").await;
    assert_eq!(job["progress"]["handed_on"], 6, "{job}");
    // They fail again: new ones, which the job does not take.
    let open = until("as many are open as before", || async {
        let open = scene.list("&state=open").await;
        (open.len() == 12).then_some(open)
    })
    .await;
    assert_eq!(open.iter().filter(|one| one["earlier"].is_string()).count(), 6);
    let redriven = scene.list("&state=redriven").await;
    assert!(redriven.len() == 6 && redriven.iter().all(|one| one["job"] == id && one["type"] == "even.one"));
    assert_eq!(scene.gauge().await, 12.0);

    scene.receiver.always("/hook", Reply::Status(200));
    let made = scene.acme.post("/v1/dead-letters/redrive", &json!({"rate": 1_000})).await.expect(202).json();
    let job = wait_job(&scene.acme, made["id"].as_str().unwrap(), "is done", |job| job["state"] == "done").await;
    assert_eq!(job["progress"]["handed_on"], 12, "{job}");
    for n in 0..12 {
        scene.acme.wait_status(&format!("e{n}"), &scene.webhook, "processed").await;
    }
    assert!(scene.list("&state=open").await.is_empty());
    assert_eq!(scene.gauge().await, 0.0);
}

#[tokio::test]
async fn a_dead_letter_whose_consumer_is_gone_cannot_be_redriven_and_stays_open() {
    let scene = scene(2).await;
    let id = scene.letter_of("e0").await;
    scene.acme.delete(&format!("/v1/webhooks/{}", scene.webhook)).await.expect(204);
    scene.acme.act(&format!("/v1/dead-letters/{id}/redrive")).await.expect_problem(409, "conflict");
    let made = scene.acme.post("/v1/dead-letters/redrive", &json!({})).await.expect(202).json();
    let job = wait_job(&scene.acme, made["id"].as_str().unwrap(), "is done", |job| job["state"] == "done").await;
    assert_eq!((&job["progress"]["failed"], &job["progress"]["handed_on"]), (&json!(2), &json!(0)), "{job}");
    assert_eq!(scene.list("&state=open").await.len(), 2);
}

#[tokio::test]
async fn dead_letters_of_one_org_are_out_of_reach_for_another() {
    let scene = scene(2).await;
    let id = scene.letter_of("e0").await;
    let globex = scene.hub.public(&scene.hub.key(&["manage", "read"], Some("globex")).await);
    globex.act(&format!("/v1/dead-letters/{id}/redrive")).await.expect_problem(404, "not-found");
    globex
        .post(&format!("/v1/dead-letters/{id}/discard"), &json!({"reason": "x"}))
        .await
        .expect_problem(404, "not-found");
    globex.post("/v1/dead-letters/redrive", &json!({"org": "acme"})).await.expect_problem(403, "forbidden");
    let made = globex.post("/v1/dead-letters/redrive", &json!({"consumer": scene.webhook})).await.expect(202).json();
    let job = wait_job(&globex, made["id"].as_str().unwrap(), "is done", |job| job["state"] == "done").await;
    assert_eq!(job["progress"]["matched"], 0, "{job}");
    let preview = globex.post("/v1/dead-letters/redrive", &json!({"dry_run": true})).await.expect(200).json();
    assert_eq!((&preview["would_match"], &preview["examples"]), (&json!(0), &json!([])), "{preview}");
    let reader = scene.hub.public(&scene.hub.key(&["read"], Some("acme")).await);
    reader.act(&format!("/v1/dead-letters/{id}/redrive")).await.expect_problem(403, "forbidden");
    assert_eq!(scene.list("&state=open").await.len(), 2);
}

#[tokio::test]
async fn the_list_is_narrowed_by_state_type_and_time_page_by_page() {
    let scene = scene(7).await;
    let all = scene.list("").await;
    let times: Vec<&str> = all.iter().map(|one| one["at"].as_str().unwrap()).collect();
    let later = scene.list(&format!("&from={}", times[3])).await;
    assert_eq!(later.len(), times.iter().filter(|time| **time >= times[3]).count());
    let before = scene.list(&format!("&to={}", times[3])).await;
    assert_eq!(before.len(), times.iter().filter(|time| **time < times[3]).count());
    assert_eq!(scene.list("&type=odd.*").await.len(), 3);
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = scene.acme.get(&format!("/v1/dead-letters?limit=2&cursor={cursor}")).await.expect(200).json();
        paged.extend(items(&page).clone());
        cursor = page["next_cursor"].as_str().unwrap().to_owned();
        if page["has_more"] == false {
            break;
        }
    }
    assert_eq!(paged, all);
    for (name, value) in [("state", "shut"), ("from", "soon"), ("to", "2020"), ("cursor", "7"), ("type", "*.a")] {
        let problem = scene.acme.get(&format!("/v1/dead-letters?{name}={value}")).await;
        assert_eq!(problem.expect_problem(400, "invalid-parameter").json()["field"], name);
    }
    for (field, body) in [
        ("type", json!({"type": "*.a"})),
        ("from", json!({"from": "soon"})),
        ("rate", json!({"rate": 0})),
        ("colour", json!({"colour": 1})),
    ] {
        let problem =
            scene.acme.post("/v1/dead-letters/redrive", &body).await.expect_problem(400, "invalid-field").json();
        assert_eq!(problem["field"], field, "{problem}");
    }
    scene.acme.act("/v1/dead-letters/dlq_nothing/redrive").await.expect_problem(404, "not-found");
}
