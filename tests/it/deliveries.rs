//! Deliveries that are not settled, looked up by status and due time: by a webhook's owner and by an operator (OUT-3).

use reqwest::Url;
use serde_json::{Value, json};

use crate::support::{Api, Hub, Receiver, Reply, items, retry, until};

const HOUR_MS: u64 = 3_600_000;

struct Scene {
    hub: Hub,
    receiver: Receiver,
    acme: Api,
    webhook: String,
}

/// A webhook in order of key, with a small window: of key `a` one has failed and the others wait behind it, one of key
/// `b` has failed, one of key `c` is out.
async fn scene() -> Scene {
    let hub = Hub::start_with(&[("INBOX__WINDOW_EVENTS", "4")]).await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    receiver.answer("/hook", |one| match one.id() {
        "a1" | "b1" => Reply::Status(500),
        "c1" => Reply::Hold,
        _ => Reply::Status(200),
    });
    let wanted = json!({"url": receiver.url("/hook"), "org": "acme", "event_types": ["*"], "ordering": "key",
        "retry": retry(&[HOUR_MS])});
    let webhook = acme.webhook(&wanted).await["id"].as_str().unwrap().to_owned();
    for id in ["a1", "b1"] {
        acme.publish(&json!({"id": id, "type": "t.one", "ordering_key": &id[..1]})).await;
        acme.wait_status(id, &webhook, "failed").await;
    }
    acme.publish(&json!({"id": "c1", "type": "t.two", "ordering_key": "c"})).await;
    receiver.wait_event("/hook", "c1").await;
    for n in 2..=8 {
        acme.publish(&json!({"id": format!("a{n}"), "type": "t.one", "ordering_key": "a"})).await;
    }
    Scene { hub, receiver, acme, webhook }
}

fn ids(page: &Value) -> Vec<&str> {
    items(page).iter().map(|one| one["event_id"].as_str().unwrap()).collect()
}

async fn list(api: &Api, path: &str, query: &[(&str, &str)]) -> Value {
    // The base is only there to have the query encoded.
    let url = Url::parse_with_params(&format!("http://h{path}"), query).unwrap();
    api.get(&format!("{path}?{}", url.query().unwrap_or_default())).await.expect(200).json()
}

#[tokio::test]
async fn what_failed_what_waits_behind_it_and_what_is_out_is_listed_by_status_and_due_time() {
    let mut scene = scene().await;
    let path = format!("/v1/webhooks/{}/deliveries", scene.webhook);
    let parked = until("events are set aside behind the failed one", || async {
        let page = list(&scene.acme, &path, &[("status", "pending")]).await;
        (items(&page).len() >= 3).then_some(page)
    })
    .await;
    assert_eq!(ids(&parked)[..3], ["a2", "a3", "a4"]);
    let first = &items(&parked)[0];
    assert_eq!((&first["waits_behind_key"], &first["due_at"]), (&json!(true), &Value::Null), "{first}");
    assert_eq!((&first["attempts"], &first["last_error"]), (&json!(0), &Value::Null), "{first}");

    let failed = list(&scene.acme, &path, &[("status", "failed")]).await;
    assert_eq!(ids(&failed), ["a1", "b1"], "in order of their due times");
    let one = &items(&failed)[0];
    for (name, value) in [
        ("seq", json!(1)),
        ("type", json!("t.one")),
        ("org", json!("acme")),
        ("status", json!("failed")),
        ("attempts", json!(1)),
    ] {
        assert_eq!(one[name], value, "{name}: {one}");
    }
    assert!(one["last_error"].as_str().unwrap().contains("500"), "{one}");
    let entry = scene.acme.wait_status("a1", &scene.webhook, "failed").await;
    assert_eq!(one["due_at"], entry["available_at"]);
    assert!(one["first_attempt"].is_string() && one["first_attempt"] == one["last_attempt"], "{one}");

    let out = list(&scene.acme, &path, &[("status", "processing")]).await;
    assert_eq!(ids(&out), ["c1"]);
    assert_eq!((&items(&out)[0]["attempts"], &items(&out)[0]["type"]), (&json!(1), &json!("t.two")));
    assert!(items(&out)[0]["due_at"].is_string(), "the end of its lease: {out}");

    // By due time: what is out is due first, and what waits for another is not due at all.
    assert_eq!(ids(&list(&scene.acme, &path, &[("due_after", "2020-01-01T00:00:00Z")]).await), ["c1", "a1", "b1"]);
    assert!(ids(&list(&scene.acme, &path, &[("due_before", "2020-01-01T00:00:00Z")]).await).is_empty());
    let b1_due = items(&failed)[1]["due_at"].as_str().unwrap();
    assert_eq!(ids(&list(&scene.acme, &path, &[("status", "failed"), ("due_before", b1_due)]).await), ["a1"]);

    // Page by page it is the same list, and the operator sees it too.
    let operators = format!("/v1/admin/consumers/{}/rows", scene.webhook);
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = list(&scene.hub.admin(), &operators, &[("limit", "2"), ("cursor", &cursor)]).await;
        paged.extend(items(&page).clone());
        cursor = page["next_cursor"].as_str().unwrap().to_owned();
        if page["has_more"] == false {
            break;
        }
    }
    assert_eq!(paged, *items(&list(&scene.acme, &path, &[]).await));

    // The rows are still there after a kill; what was out comes again and is settled.
    scene.hub.kill();
    scene.receiver.release();
    scene.hub.restart().await;
    let admin = scene.hub.admin();
    until("only what failed and what waits behind it is left", || async {
        let page = list(&admin, &operators, &[("due_after", "2020-01-01T00:00:00Z")]).await;
        (ids(&page) == ["a1", "b1"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_consumer_without_failures_has_an_empty_list_and_an_unknown_one_none() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    let wanted = json!({"url": receiver.url("/hook"), "org": "acme", "event_types": ["*"]});
    let webhook = acme.webhook(&wanted).await["id"].as_str().unwrap().to_owned();
    let event = acme.publish(&json!({"type": "a.b"})).await;
    acme.wait_status(&event, &webhook, "processed").await;
    let page = list(&acme, &format!("/v1/webhooks/{webhook}/deliveries"), &[]).await;
    assert_eq!(page, json!({"items": [], "next_cursor": "", "has_more": false}));
    acme.get("/v1/webhooks/whk_nothing/deliveries").await.expect_problem(404, "not-found");
    hub.admin().get("/v1/admin/consumers/whk_nothing/rows").await.expect_problem(404, "not-found");
    acme.get(&format!("/v1/admin/consumers/{webhook}/rows")).await.expect(404);
}

#[tokio::test]
async fn a_bad_parameter_is_refused_by_its_name() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    let wanted = json!({"url": receiver.url("/hook"), "org": "acme", "event_types": ["*"]});
    let webhook = acme.webhook(&wanted).await["id"].as_str().unwrap().to_owned();
    for (name, value) in [
        ("status", "dead"),
        ("due_before", "tomorrow"),
        ("due_after", "2020-01-01"),
        ("cursor", "7"),
        ("cursor", "1.2.3"),
        ("limit", "0"),
        ("limit", "1001"),
        ("org", "acme"),
    ] {
        let query = format!("?{name}={value}");
        let paths = [
            acme.get(&format!("/v1/webhooks/{webhook}/deliveries{query}")).await,
            hub.admin().get(&format!("/v1/admin/consumers/{webhook}/rows{query}")).await,
        ];
        for answer in paths {
            let problem = answer.expect_problem(400, "invalid-parameter").json();
            // What stands under an unknown name is not repeated: it may be a credential.
            let sent = if name == "org" { "***" } else { value };
            assert_eq!((&problem["field"], &problem["sent"]), (&json!(name), &json!(sent)), "{problem}");
            assert!(problem["limit"].is_string(), "{problem}");
        }
    }
}
