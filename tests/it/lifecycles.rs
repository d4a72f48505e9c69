//! Declared orders of aggregates from outside: what breaks them is flagged in the event and its explanation, listed and
//! counted, and never refused; a restart judges nothing again (CAT-3).

use serde_json::{Value, json};

use crate::support::{Api, Hub, items, sample, until};

fn order() -> Value {
    json!({
        "states": ["none", "open", "paid"],
        "initial": "none",
        "transitions": [
            {"from": "none", "to": "open", "event_type": "order.placed"},
            {"from": "open", "to": "paid", "event_type": "order.paid"},
        ],
    })
}

async fn publish(api: &Api, id: &str, event_type: &str, order: &str) {
    api.publish(&json!({"id": id, "type": event_type, "aggregate_type": "order", "aggregate_id": order})).await;
}

/// The ids of the flagged events once there are so many.
async fn flagged(api: &Api, count: usize) -> Vec<String> {
    until(&format!("{count} flagged events"), || async {
        let page = api.get("/v1/catalog/lifecycles/order/flags").await.expect(200).json();
        let ids: Vec<_> = items(&page).iter().map(|flag| flag["event_id"].as_str().unwrap().to_owned()).collect();
        (ids.len() >= count).then_some(ids)
    })
    .await
}

async fn state(api: &Api, id: &str) -> Value {
    api.get(&format!("/v1/catalog/lifecycles/order/aggregates/{id}")).await.expect(200).json()["state"].clone()
}

async fn broken(hub: &Hub) -> Option<f64> {
    sample(&hub.admin().get("/metrics").await.expect(200).text, "tidegate_lifecycle_broken_total", &[])
}

#[tokio::test]
async fn an_event_that_breaks_the_order_is_taken_flagged_listed_and_counted() {
    let mut hub = Hub::start().await;
    let key = hub.key(&["publish", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    publish(&acme, "before", "order.paid", "1").await;
    let made = acme.put("/v1/catalog/lifecycles/order", &order()).await.expect(201).json();
    assert_eq!((&made["org"], &made["since_seq"]), (&json!("acme"), &json!(1)));
    assert_eq!(acme.put("/v1/catalog/lifecycles/order", &order()).await.expect(200).json(), made);
    publish(&acme, "placed", "order.placed", "7").await;
    publish(&acme, "paid", "order.paid", "7").await;
    publish(&acme, "early", "order.paid", "8").await;
    publish(&acme, "viewed", "order.viewed", "8").await;
    publish(&acme, "again", "order.placed", "7").await;
    assert_eq!(flagged(&acme, 3).await, ["before", "early", "again"]);
    // What came before the declaration is flagged and not counted.
    until("two events are counted", || async { (broken(&hub).await == Some(2.0)).then_some(()) }).await;
    assert_eq!(
        (state(&acme, "7").await, state(&acme, "8").await, state(&acme, "9").await),
        (json!("open"), json!("paid"), json!("none"))
    );
    let event = acme.get("/v1/events/early").await.expect(200).json();
    assert_eq!(event["lifecycle"]["flagged"], true);
    assert_eq!(
        (&event["lifecycle"]["state"], &event["lifecycle"]["expected"]),
        (&json!("none"), &json!(["order.placed"]))
    );
    let explained = acme.get("/v1/events/again/explain").await.expect(200).json();
    assert_eq!(
        (&explained["lifecycle"]["state"], &explained["lifecycle"]["state_after"]),
        (&json!("paid"), &json!("open"))
    );
    assert_eq!(acme.get("/v1/events/paid/explain").await.expect(200).json()["lifecycle"], Value::Null);
    assert!(acme.get("/v1/events/paid").await.expect(200).json().get("lifecycle").is_none());
    let page = acme.get("/v1/catalog/lifecycles/order/flags?limit=2").await.expect(200).json();
    assert_eq!((items(&page).len(), &page["has_more"]), (2, &json!(true)));
    let next = page["next_cursor"].as_str().unwrap();
    let rest = acme.get(&format!("/v1/catalog/lifecycles/order/flags?cursor={next}")).await.expect(200).json();
    assert_eq!((items(&rest).len(), &items(&rest)[0]["event_id"]), (1, &json!("again")));

    hub.kill();
    hub.restart().await;
    let acme = hub.public(&key);
    publish(&acme, "late", "order.placed", "8").await;
    assert_eq!(flagged(&acme, 4).await, ["before", "early", "again", "late"]);
    assert_eq!(state(&acme, "7").await, "open", "a restart judges nothing again");
    let long = acme.get(&format!("/v1/catalog/lifecycles/order/aggregates/{}", "0".repeat(129))).await;
    assert_eq!(long.expect_problem(400, "invalid-parameter").json()["field"], "id");

    // Another order is followed anew from the first event; what the old one said counts no longer.
    let mut changed = order();
    changed["transitions"]
        .as_array_mut()
        .unwrap()
        .push(json!({"from": "none", "to": "paid", "event_type": "order.paid"}));
    acme.put("/v1/catalog/lifecycles/order", &changed).await.expect(200);
    until("the new order has been followed", || async {
        let page = acme.get("/v1/catalog/lifecycles/order/flags").await.expect(200).json();
        let ids: Vec<_> = items(&page).iter().map(|flag| flag["event_id"].as_str().unwrap().to_owned()).collect();
        (ids == ["again", "late"]).then_some(())
    })
    .await;
    acme.delete("/v1/catalog/lifecycles/order").await.expect(204);
    assert!(acme.get("/v1/events/late").await.expect(200).json().get("lifecycle").is_none());
    assert_eq!(items(&acme.get("/v1/catalog/lifecycles").await.expect(200).json()).len(), 0);
}
