//! The forms in which an event is sent (WHK-4, EVT-3).

use serde_json::{Value, json};

use crate::support::{Api, Delivery, Hub, Receiver, assert_signed, items, retry};

/// Data whose text does not survive being read and written again.
const DATA: &str = r#"{"b": 1.10, "a": 12345678901234567890123, "ü": "€ \u00e9", "c": [1e400]}"#;

struct Scene {
    hub: Hub,
    receiver: Receiver,
    acme: Api,
}

async fn scene() -> Scene {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    Scene { hub, receiver: Receiver::start(), acme }
}

impl Scene {
    async fn webhook(&self, path: &str, more: Value) -> Value {
        let mut wanted =
            json!({"url": self.receiver.url(path), "org": "acme", "event_types": ["*"], "retry": retry(&[50])});
        for (name, value) in more.as_object().unwrap() {
            wanted[name] = value.clone();
        }
        self.acme.webhook(&wanted).await
    }

    async fn publish(&self, id: &str, data: &str) {
        let body = format!(
            r#"{{"id":"{id}","type":"invoice.paid","source":"billing","subject":"s 1","data":{data},
                "occurred_at":"2026-01-02T03:04:05.678Z","metadata":{{"k":1}}}}"#
        );
        self.acme.post_bytes("/v1/events", "application/json", body.into_bytes()).await.expect(202);
    }
}

fn text(delivery: &Delivery) -> &str {
    std::str::from_utf8(&delivery.body).unwrap()
}

#[tokio::test]
async fn each_format_is_signed_says_what_it_is_and_keeps_the_datas_text() {
    let scene = scene().await;
    let template =
        json!({"format": "template", "template": {"body": "{\"copy\": {{ data_json }}, \"of\": {{ id|tojson }}}"}});
    let mut secrets = Vec::new();
    for (path, more) in [
        ("/standard", json!({})),
        ("/cloudevents", json!({"format": "cloudevents"})),
        ("/binary", json!({"format": "cloudevents_binary"})),
        ("/raw", json!({"format": "raw"})),
        ("/template", template),
    ] {
        let webhook = scene.webhook(path, more).await;
        secrets.push((path, webhook["signing_secret"].as_str().unwrap().to_owned()));
    }
    scene.publish("e-1", DATA).await;
    for (path, secret) in &secrets {
        let delivery = scene.receiver.wait_event(path, "e-1").await;
        assert_signed(&delivery, secret);
        assert!(text(&delivery).contains(DATA), "{path}: {}", text(&delivery));
    }
    let of = |path: &str| scene.receiver.on(path).remove(0);
    for (path, content_type) in [
        ("/standard", "application/json"),
        ("/cloudevents", "application/cloudevents+json"),
        ("/binary", "application/json"),
        ("/raw", "application/json"),
        ("/template", "application/json"),
    ] {
        assert_eq!(of(path).header("content-type"), content_type, "{path}");
    }
    assert_eq!(text(&of("/raw")), DATA);
    assert_eq!(text(&of("/template")), format!(r#"{{"copy": {DATA}, "of": "e-1"}}"#));
    let binary = of("/binary");
    assert_eq!(text(&binary), DATA);
    let attributes =
        ["ce-id", "ce-type", "ce-source", "ce-specversion", "ce-time", "ce-subject"].map(|name| binary.header(name));
    assert_eq!(attributes, ["e-1", "invoice.paid", "billing", "1.0", "2026-01-02T03:04:05.678Z", "s%201"]);
    // Where numbers are within what JSON readers take, the structured form reads as an event of the same attributes.
    scene.publish("e-2", "{\"n\": 1}").await;
    let structured = scene.receiver.wait_event("/cloudevents", "e-2").await.json();
    assert_eq!((&structured["id"], &structured["data"]), (&json!("e-2"), &json!({"n": 1})), "{structured}");
    // The test-send goes in the same form.
    for (path, _) in &secrets {
        let page = scene.acme.get("/v1/webhooks").await.expect(200).json();
        let webhook = items(&page).iter().find(|one| one["url"].as_str().unwrap().ends_with(path)).unwrap().clone();
        let answer = scene.acme.act(&format!("/v1/webhooks/{}/test", webhook["id"].as_str().unwrap())).await;
        let answer = answer.expect(200).json();
        assert_eq!(answer["delivered"], true, "{path}: {answer}");
        let sent = scene.receiver.wait_event(path, answer["event_id"].as_str().unwrap()).await;
        assert_eq!(sent.header("content-type"), of(path).header("content-type"), "{path}");
    }
}

#[tokio::test]
async fn a_template_makes_any_text_and_can_be_changed() {
    let scene = scene().await;
    let body =
        "{{ type }}: {% for one in data.lines %}{{ one.name|upper }} {% endfor %}({{ data.total|default('free') }})";
    let more = json!({"format": "template", "template": {"body": body, "content_type": "text/plain; charset=utf-8"}});
    let webhook = scene.webhook("/hook", more).await;
    scene.publish("e-1", r#"{"lines": [{"name": "ink"}, {"name": "paper"}]}"#).await;
    let delivery = scene.receiver.wait_event("/hook", "e-1").await;
    assert_eq!(text(&delivery), "invoice.paid: INK PAPER (free)");
    assert_eq!(delivery.header("content-type"), "text/plain; charset=utf-8");
    let path = format!("/v1/webhooks/{}", webhook["id"].as_str().unwrap());
    let changed = scene.acme.patch(&path, &json!({"template": {"body": "[{{ seq }}]"}})).await.expect(200).json();
    assert_eq!(changed["template"], json!({"body": "[{{ seq }}]", "content_type": "application/json"}));
    scene.publish("e-2", "1").await;
    assert_eq!(text(&scene.receiver.wait_event("/hook", "e-2").await), "[2]");
    scene.acme.patch(&path, &json!({"format": "standard"})).await.expect(200);
    scene.publish("e-3", "1").await;
    assert_eq!(scene.receiver.wait_event("/hook", "e-3").await.json()["id"], "e-3");
}

#[tokio::test]
async fn an_event_its_template_cannot_write_fails_once_and_says_why() {
    let scene = scene().await;
    let more = json!({"format": "template", "template": {"body": "{\"text\": \"{{ data.text }}\",\n\"by\": {{ data.by.name|tojson }}}"}});
    let id = scene.webhook("/hook", more).await["id"].as_str().unwrap().to_owned();
    for (event, data, told) in [
        ("missing", r#"{"text": "a"}"#, "line 2"),
        ("breaks-out", r#"{"text": "a\"b", "by": {"name": "x"}}"#, "no JSON"),
    ] {
        scene.publish(event, data).await;
        let entry = scene.acme.wait_status(event, &id, "dead_letter").await;
        assert_eq!(entry["attempts"], 1, "trying again helps nobody: {entry}");
        assert!(entry["last_error"].as_str().unwrap().contains(told), "{entry}");
    }
    let letters = scene.acme.wait_dead_letters(&id, 2).await;
    assert!(letters.iter().all(|letter| letter["error"]["kind"] == "template"), "{letters:?}");
    scene.publish("fine", r#"{"text": "a", "by": {"name": "x"}}"#).await;
    assert_eq!(scene.receiver.wait_event("/hook", "fine").await.json(), json!({"text": "a", "by": "x"}));
    assert_eq!(scene.receiver.on("/hook").len(), 1, "nothing was sent of the others");
}

#[tokio::test]
async fn a_template_that_does_not_fit_is_refused_with_its_line() {
    let scene = scene().await;
    let wanted = |more: Value| {
        let mut wanted =
            json!({"url": scene.receiver.url("/hook"), "org": "acme", "event_types": ["*"], "format": "template"});
        for (name, value) in more.as_object().unwrap() {
            wanted[name] = value.clone();
        }
        wanted
    };
    for (field, more) in [
        ("template", json!({})),
        ("template", json!({"template": "text"})),
        ("template.body", json!({"template": {}})),
        ("template.body", json!({"template": {"body": ""}})),
        ("template.body", json!({"template": {"body": 5}})),
        ("template.body", json!({"template": {"body": "x".repeat(16_385)}})),
        ("template.body", json!({"template": {"body": "a\n{{ data."}})),
        ("template.body", json!({"template": {"body": "a\n{% set x = data ~ data %}"}})),
        ("template.content_type", json!({"template": {"body": "x", "content_type": "text"}})),
        ("template.content_type", json!({"template": {"body": "x", "content_type": "text/x\r\nx: y"}})),
        ("template.language", json!({"template": {"body": "x", "language": "jinja"}})),
        ("format", json!({"format": "xml"})),
    ] {
        let answer = scene.acme.post("/v1/webhooks", &wanted(more)).await;
        let problem = answer.expect_problem(400, "invalid-field").json();
        assert_eq!(problem["field"], field, "{problem}");
        if problem["limit"].as_str().unwrap().starts_with("line ") {
            assert_eq!(problem["line"], 2, "{problem}");
        }
    }
    assert!(items(&scene.hub.admin().get("/v1/webhooks").await.expect(200).json()).is_empty());
}
