//! `CloudEvents` coming in by content type: structured, binary and in batches; the same event in another mode is the same
//! event; and everything that is none is refused by the name its sender knows (ING-2).

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Api, Hub, Receiver};

const STRUCTURED: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";

async fn send(api: &Api, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    api.try_send(Method::POST, "/v1/events", headers, Some(body.to_vec())).await.unwrap()
}

fn binary<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut headers = vec![("ce-specversion", "1.0"), ("ce-id", "b-1"), ("ce-source", "/s"), ("ce-type", "a.b")];
    headers.retain(|(name, _)| !more.iter().any(|(other, _)| other == name));
    headers.extend_from_slice(more);
    headers.retain(|(_, value)| !value.is_empty());
    headers
}

#[tokio::test]
async fn a_structured_event_is_stored_with_its_data_as_written_and_delivered() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    acme.webhook(&json!({"url": receiver.url("/all"), "org": "acme", "event_types": ["com.example.*"]})).await;
    let body = r#"{"specversion":"1.0","id":"s-1","source":"/orders","type":"com.example.paid","subject":"o-7",
        "time":"2026-01-02T03:04:05Z","facility":"north","comexampleflag":true,"comexampletext":"ü",
        "data":{"z":1.10,"a":12345678901234567890}}"#;
    let answer = acme.post_bytes("/v1/events", "application/cloudevents+json; charset=UTF-8", body.into()).await;
    let receipt = answer.expect(202).json();
    assert_eq!((&receipt["id"], &receipt["duplicate"]), (&json!("s-1"), &json!(false)));

    let read = acme.get("/v1/events/s-1").await.expect(200);
    assert!(read.text.contains(r#""data":{"z":1.10,"a":12345678901234567890}"#), "{}", read.text);
    let event = read.json();
    assert_eq!(event["source"], "/orders");
    assert_eq!(event["occurred_at"], "2026-01-02T03:04:05Z");
    assert_eq!(event["facility"], "north");
    let kept = json!({"specversion": "1.0", "comexampleflag": true, "comexampletext": "ü"});
    assert_eq!(event["metadata"]["cloudevents"], kept);
    let delivery = receiver.wait_for("/all", 1).await.remove(0);
    assert_eq!(delivery.json()["type"], "com.example.paid");

    let again = acme.post_bytes("/v1/events", STRUCTURED, body.into()).await.expect(200).json();
    assert_eq!((&again["duplicate"], &again["seq"]), (&json!(true), &receipt["seq"]));
    let other = body.replace("o-7", "o-8");
    acme.post_bytes("/v1/events", STRUCTURED, other.into()).await.expect_problem(409, "id-conflict");
}

#[tokio::test]
async fn the_same_event_in_binary_mode_is_a_duplicate() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let headers = binary(&[("content-type", "application/json"), ("ce-subject", "Euro%20%E2%82%AC")]);
    let first = send(&acme, &headers, br#"{"n": 1.10}"#).await.expect(202).json();
    assert_eq!(first["id"], "b-1");
    let body = json!({"specversion": "1.0", "id": "b-1", "source": "/s", "type": "a.b", "subject": "Euro €",
        "datacontenttype": "application/json"});
    let body = body.to_string().replace('}', r#","data":{"n":1.10}}"#);
    let again = acme.post_bytes("/v1/events", STRUCTURED, body.into()).await.expect(200).json();
    assert_eq!(again, json!({"id": "b-1", "seq": first["seq"], "duplicate": true}));
    let event = acme.get("/v1/events/b-1").await.expect(200).json();
    assert_eq!(event["subject"], "Euro €");
}

#[tokio::test]
async fn data_that_is_no_json_is_kept_as_text_or_in_base64() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    for (id, content_type, body, data, is_base64) in [
        ("t-1", "text/plain", "grüß".as_bytes(), "grüß", Value::Null),
        ("t-2", "application/xml", b"<a/>".as_slice(), "<a/>", Value::Null),
        ("t-3", "image/png", b"\x89PNG".as_slice(), "iVBORw==", json!(true)),
    ] {
        send(&acme, &binary(&[("content-type", content_type), ("ce-id", id)]), body).await.expect(202);
        let event = acme.get(&format!("/v1/events/{id}")).await.expect(200).json();
        assert_eq!(event["data"], data);
        assert_eq!(event["metadata"]["cloudevents"]["datacontenttype"], content_type);
        assert_eq!(event["metadata"]["cloudevents"]["data_base64"], is_base64);
    }
}

#[tokio::test]
async fn a_batch_is_taken_on_both_paths_event_by_event() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let event = |id: &str| json!({"specversion": "1.0", "id": id, "source": "/s", "type": "a.b", "data": id});
    let batch = json!([event("x-1"), {"specversion": "1.0", "id": "x-2", "source": "/s"}, event("x-1")]).to_string();
    for (path, duplicate) in [("/v1/events", false), ("/v1/events/batch", true)] {
        let answer = acme.post_bytes(path, BATCH, batch.clone().into()).await.expect(202).json();
        assert_eq!((&answer["accepted"], &answer["rejected"]), (&json!(2), &json!(1)), "{answer}");
        assert_eq!(answer["results"][0]["duplicate"], duplicate);
        assert_eq!(answer["results"][1]["error"]["field"], "type");
        assert_eq!(answer["results"][2]["duplicate"], true);
    }
    let atomic = json!([event("x-3"), {"specversion": "1.0"}]).to_string();
    for path in ["/v1/events?atomic=true", "/v1/events/batch?atomic=true"] {
        let answer = acme.post_bytes(path, BATCH, atomic.clone().into()).await.expect_problem(400, "invalid-field");
        assert_eq!(answer.json()["field"], "[1].id");
    }
    acme.get("/v1/events/x-3").await.expect_problem(404, "not-found");
    acme.post_bytes("/v1/events", BATCH, b"[]".to_vec()).await.expect(202);
    acme.post_bytes("/v1/events", BATCH, b"{}".to_vec()).await.expect_problem(400, "invalid-field");
}

#[tokio::test]
async fn what_is_no_cloud_event_is_refused_by_the_name_its_sender_knows() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    for (headers, field) in [
        (binary(&[("ce-specversion", "")]), "ce-specversion"),
        (binary(&[("ce-specversion", "0.3")]), "ce-specversion"),
        (binary(&[("ce-id", "")]), "ce-id"),
        (binary(&[("ce-source", "")]), "ce-source"),
        (binary(&[("ce-type", "no spaces%20here")]), "ce-type"),
        (binary(&[("ce-time", "yesterday")]), "ce-time"),
        (binary(&[("ce-my_ext", "x")]), "ce-my_ext"),
        (binary(&[("ce-datacontenttype", "text/plain")]), "ce-datacontenttype"),
    ] {
        let problem = send(&acme, &headers, b"").await.expect_problem(400, "invalid-field").json();
        assert_eq!(problem["field"], field, "{problem}");
        assert!(problem["limit"].is_string() && problem["sent"].is_string(), "{problem}");
    }
    let long = format!("/{}", "s".repeat(127));
    let answer = send(&acme, &binary(&[("ce-source", &long)]), b"").await.expect_problem(400, "invalid-field");
    assert_eq!(answer.json()["limit"], "at most 127 characters");
    let typed = binary(&[("content-type", "application/json")]);
    send(&acme, &typed, b"{oops").await.expect_problem(400, "not-json");
    for content_type in
        ["application/cloudevents+xml", "application/cloudevents", "application/cloudevents+json; charset=latin1"]
    {
        let answer = acme.post_bytes("/v1/events", content_type, b"{}".to_vec()).await;
        answer.expect_problem(415, "unsupported-media-type");
    }
    acme.post_bytes("/v1/events/batch", STRUCTURED, b"{}".to_vec()).await.expect_problem(415, "unsupported-media-type");
    let big = "x".repeat(1 << 20);
    send(&acme, &binary(&[("content-type", "image/png")]), big.as_bytes()).await.expect_problem(413, "too-large");
    assert!(acme.get("/v1/events").await.expect(200).json()["events"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn a_cloud_event_needs_a_key_and_stays_in_its_org() {
    let hub = Hub::start().await;
    let event = json!({"specversion": "1.0", "id": "o-1", "source": "/s", "type": "a.b", "org": "acme"}).to_string();
    let globex = hub.public(&hub.key(&["publish", "read"], Some("globex")).await);
    let reader = hub.public(&hub.key(&["read"], Some("acme")).await);
    let bodies = [(STRUCTURED, event.clone()), (BATCH, format!("[{event}]"))];
    for (content_type, body) in &bodies {
        let send = async |api: &Api| api.post_bytes("/v1/events?atomic=true", content_type, body.clone().into()).await;
        send(&hub.anonymous()).await.expect_problem(401, "unauthorized");
        send(&reader).await.expect_problem(403, "forbidden");
        send(&globex).await.expect_problem(403, "forbidden");
    }
    let headers = binary(&[("ce-org", "acme")]);
    send(&hub.anonymous(), &headers, b"").await.expect_problem(401, "unauthorized");
    let problem = send(&globex, &headers, b"").await.expect_problem(403, "forbidden").json();
    assert_eq!(problem["field"], "ce-org");
}
