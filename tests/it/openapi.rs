//! The served OpenAPI documents (CON-3). What they say is held against the hub by a fuzzer: tests/peers/openapi.py.

use serde_json::Value;

use super::support::{Api, Hub};

async fn document(address: &str) -> Value {
    let answer = Api::anonymous(address).get("/v1/openapi.json").await.expect(200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    answer.json()
}

fn operations(document: &Value) -> usize {
    document["paths"].as_object().unwrap().values().map(|path| path.as_object().unwrap().len()).sum()
}

#[tokio::test]
async fn each_listener_serves_the_document_of_what_it_offers_without_a_key() {
    let hub = Hub::start_with(&[("LIMITS__BATCH_EVENTS_MAX", "7")]).await;
    let public = document(hub.public_address()).await;
    let admin = document(hub.admin_address()).await;
    for document in [&public, &admin] {
        assert_eq!(document["openapi"], "3.1.0");
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
        assert!(document["paths"]["/v1/events"]["post"].is_object());
    }
    assert!(public["paths"].as_object().unwrap().keys().all(|path| !path.starts_with("/v1/admin")));
    assert!(public["components"]["schemas"].get("Key").is_none());
    assert!(operations(&admin) > operations(&public));
    assert_eq!(public["paths"]["/v1/events"]["post"]["security"][0]["apiKey"][0], "publish");
    assert!(admin["paths"]["/v1/events"]["post"]["security"][0]["adminToken"].is_array());
    // A bound that is configured is told as it holds.
    let batch = &public["paths"]["/v1/events/batch"]["post"]["requestBody"]["content"]["application/json"]["schema"];
    assert_eq!(batch["maxItems"], 7);
}
