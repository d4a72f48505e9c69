//! The types that begin with `tidegate.` are the hub's own: no way in takes them from a producer.

use reqwest::Method;
use serde_json::{Value, json};
use tidegate::ground::clock::SystemClock;
use tidegate::ground::error::ProblemKind;
use tidegate::handler::NewEvent;

use crate::embed::{directory, open};
use crate::support::{Answer, Hub, items};

const OWN: &str = "tidegate.webhook.paused";

#[track_caller]
fn assert_refused(problem: &Value) {
    assert_eq!(problem["type"], "urn:tidegate:problem:invalid-field", "{problem}");
    assert_eq!((&problem["sent"], &problem["status"]), (&json!(OWN), &json!(400)), "{problem}");
    assert!(problem["field"].as_str().unwrap().ends_with("type"), "{problem}");
    assert!(problem["limit"].as_str().unwrap().contains("tidegate."), "{problem}");
}

#[tokio::test]
async fn no_way_in_takes_an_event_of_the_hubs_own_types() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let own = json!({"id": "own", "type": OWN, "org": "acme"});
    let fine = json!({"id": "fine", "type": "tidegates.are.fine", "org": "acme"});
    for api in [&acme, &hub.admin()] {
        let refused = async |answer: Answer| assert_refused(&answer.expect(400).json());
        refused(api.post("/v1/events", &own).await).await;
        let later = json!({"id": "own", "type": OWN, "org": "acme", "delay": "1h"});
        refused(api.post("/v1/events", &later).await).await;
        refused(api.post("/v1/events/batch?atomic=true", &json!([fine, own])).await).await;
        let structured = json!({"specversion": "1.0", "id": "own", "source": "/s", "type": OWN, "org": "acme"});
        let text = structured.to_string().into_bytes();
        refused(api.post_bytes("/v1/events", "application/cloudevents+json", text).await).await;
        let binary =
            [("ce-specversion", "1.0"), ("ce-id", "own"), ("ce-source", "/s"), ("ce-type", OWN), ("ce-org", "acme")];
        refused(api.try_send(Method::POST, "/v1/events", &binary, Some(Vec::new())).await.unwrap()).await;
    }
    // Of a batch or a stream it is the one that is refused.
    let answer = acme.post("/v1/events/batch", &json!([own, fine])).await.expect(202).json();
    assert_refused(&answer["results"][0]["error"]);
    assert_eq!((&answer["accepted"], &answer["rejected"]), (&json!(1), &json!(1)));
    let lines = format!("{own}\n{fine}\n").into_bytes();
    let told = acme.post_bytes("/v1/events/stream", "application/x-ndjson", lines).await.expect(200).text;
    let told: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_refused(&told[0]["error"]);
    assert_eq!((&told[1]["id"], &told[1]["duplicate"]), (&json!("fine"), &json!(true)));

    // What a third party sends becomes none either, whatever it names itself.
    let source = json!({"name": "any", "org": "acme", "verification": {"kind": "none"},
        "mapping": {"type": {"pointer": "/type"}, "id": {"pointer": "/id"}}});
    acme.post("/v1/sources", &source).await.expect(201);
    assert_refused(&hub.anonymous().post("/v1/sources/any", &own).await.expect(400).json());

    assert_eq!(items(&acme.get("/v1/events").await.expect(200).json()).len(), 1);
    assert!(items(&acme.get("/v1/scheduled").await.expect(200).json()).is_empty());
    acme.get("/v1/events/own").await.expect(404);
}

#[tokio::test]
async fn nor_does_the_library_from_the_program_around_it() {
    let dir = directory();
    let hub = open(dir.path(), SystemClock::shared(), |_| {}).await;
    let refused = hub.publish(&NewEvent::new(OWN).org("acme")).await.unwrap_err();
    assert_eq!((refused.kind, refused.field.as_deref()), (ProblemKind::InvalidField, Some("type")));
    hub.stop().await;
}
