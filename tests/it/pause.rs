//! The pause of the whole hub: events are taken and nothing is delivered, also over a start, until it is resumed (OPS-2).

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Api, Hub, Receiver, Reply, items, retry, sample, until};

/// Runs `tidegate ORDER` against a hub, as an operator beside it would.
fn order(hub: &Hub, order: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg(order).arg("--data-dir").arg(hub.data_dir()).current_dir(hub.data_dir()).stdin(Stdio::null());
    let foreign = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEGATE"));
    for (name, _) in foreign {
        command.env_remove(name);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

async fn consumer(hub: &Hub, id: &str) -> Value {
    let page = hub.admin().get("/v1/admin/consumers").await.expect(200).json();
    items(&page).iter().find(|one| one["id"] == id).unwrap().clone()
}

/// The consumer's inbox is in memory, knows of work, and says that the hub's pause is why it does nothing.
async fn until_held(hub: &Hub, id: &str) {
    until("the inbox is held by the pause", || async {
        let one = consumer(hub, id).await;
        (one["in_memory"] == true && one["hold"]["reason"] == "hub_paused" && one["lag"] != 0).then_some(())
    })
    .await;
}

/// How often each event came.
fn times(receiver: &Receiver) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for delivery in receiver.on("/hook") {
        *times.entry(delivery.id().to_owned()).or_default() += 1;
    }
    times
}

/// A test delivery goes past the inbox. When it has come, whatever an inbox had given out before it has come, too: both
/// go over the same client, and the inbox was seen to be held before.
async fn test_event(api: &Api, webhook: &str, receiver: &Receiver) -> String {
    let told = api.act(&format!("/v1/webhooks/{webhook}/test")).await.expect(200).json();
    assert_eq!(told["delivered"], true, "{told}");
    let id = told["event_id"].as_str().unwrap().to_owned();
    receiver.wait_event("/hook", &id).await;
    id
}

#[tokio::test]
async fn a_hub_that_starts_paused_delivers_nothing_of_what_was_pending_until_it_is_resumed_and_then_all_of_it() {
    let mut hub = Hub::start().await;
    let receiver = Receiver::start();
    let key = hub.key(&["publish", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    let wanted = json!({"url": receiver.url("/hook"), "org": "acme", "event_types": ["*"], "retry": retry(&[3_000])});
    let id = acme.webhook(&wanted).await["id"].as_str().unwrap().to_owned();
    receiver.script("/hook", [Reply::Status(500)]);
    acme.publish(&json!({"id": "again", "type": "a.b"})).await;
    acme.wait_status("again", &id, "failed").await;

    let told = hub.admin().act("/v1/admin/pause").await.expect(200).json();
    assert_eq!(told, json!({"paused": true}));
    for number in 0..20 {
        acme.publish(&json!({"id": format!("p-{number}"), "type": "a.b"})).await;
    }
    until_held(&hub, &id).await;
    assert_eq!(times(&receiver).len(), 1, "nothing but the first attempt has come");

    hub.set("TIDEGATE__SERVER__PAUSED", "true");
    hub.kill();
    hub.restart().await;
    let acme = hub.public(&key);
    for number in 20..25 {
        acme.publish(&json!({"id": format!("p-{number}"), "type": "a.b"})).await;
    }
    until_held(&hub, &id).await;
    let test = test_event(&acme, &id, &receiver).await;
    let mut came = times(&receiver);
    came.remove(&test);
    assert_eq!(came, BTreeMap::from([("again".to_owned(), 1)]), "paused, and it delivers");
    let entry = acme.wait_status("p-3", &id, "pending").await;
    assert_eq!(entry["attempts"], 0);

    assert!(order(&hub, "resume").contains("resumed"));
    receiver.wait_event("/hook", "p-24").await;
    for number in 0..25 {
        acme.wait_status(&format!("p-{number}"), &id, "processed").await;
    }
    acme.wait_status("again", &id, "processed").await;
    let mut came = times(&receiver);
    came.remove(&test);
    assert_eq!(came.remove("again"), Some(2));
    assert_eq!(came.len(), 25);
    assert!(came.values().all(|times| *times == 1), "{came:?}");
    assert_eq!(consumer(&hub, &id).await["hold"], Value::Null);
}

#[tokio::test]
async fn a_pause_is_shown_does_not_make_the_hub_unready_and_ends_with_a_restart() {
    let mut hub = Hub::start_with(&[("SERVER__PAUSED", "true")]).await;
    let shown = async |hub: &Hub| {
        let ready = hub.anonymous().get("/readyz").await.expect(200).json();
        let stats = hub.admin().get("/v1/admin/stats").await.expect(200).json();
        let metrics = hub.admin().get("/metrics").await.expect(200).text;
        assert_eq!(ready["status"], "ready");
        assert_eq!(ready["paused"], stats["paused"]);
        assert_eq!(sample(&metrics, "tidegate_paused", &[]), Some(if stats["paused"] == true { 1.0 } else { 0.0 }));
        stats["paused"] == true
    };
    assert!(shown(&hub).await);
    for _ in 0..2 {
        hub.admin().act("/v1/admin/resume").await.expect(200);
        assert!(!shown(&hub).await);
    }
    assert!(order(&hub, "pause").contains("paused"));
    assert!(shown(&hub).await);
    hub.anonymous().act("/v1/admin/resume").await.expect_problem(404, "not-found");
    Api::anonymous(hub.admin_address()).act("/v1/admin/resume").await.expect_problem(401, "unauthorized");
    assert!(shown(&hub).await);

    hub.set("TIDEGATE__SERVER__PAUSED", "false");
    hub.terminate().await;
    hub.restart().await;
    assert!(!shown(&hub).await, "a pause is not kept: a hub starts as it is told");
}

#[tokio::test]
async fn what_is_under_way_when_the_hub_is_paused_is_finished() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    receiver.script("/hook", [Reply::Hold]);
    let wanted = json!({"url": receiver.url("/hook"), "org": "acme", "event_types": ["*"], "ordering": "strict"});
    let id = acme.webhook(&wanted).await["id"].as_str().unwrap().to_owned();
    acme.publish(&json!({"id": "out", "type": "a.b"})).await;
    acme.publish(&json!({"id": "next", "type": "a.b"})).await;
    receiver.wait_event("/hook", "out").await;
    hub.admin().act("/v1/admin/pause").await.expect(200);
    receiver.release();
    let entry = acme.wait_status("out", &id, "processed").await;
    assert_eq!(entry["attempts"], 1);
    until_held(&hub, &id).await;
    test_event(&acme, &id, &receiver).await;
    assert!(!times(&receiver).contains_key("next"));
    hub.admin().act("/v1/admin/resume").await.expect(200);
    receiver.wait_event("/hook", "next").await;
}
