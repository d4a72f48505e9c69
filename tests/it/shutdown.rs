//! A graceful end: what is in flight is finished and remembered, what is acknowledged is kept, the exit is 0 (OPS-2).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use reqwest::Method;
use serde_json::json;

use crate::support::{Api, Hub, Receiver, Reply, retry, until};

/// A webhook whose endpoint has been sent one event and does not answer: a key of its org, and its id.
async fn one_in_flight(hub: &Hub, receiver: &Receiver, event: &str) -> (String, String) {
    let key = hub.key(&["publish", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    receiver.script("/hook", [Reply::Hold]);
    let wanted = json!({"url": receiver.url("/hook"), "org": "acme", "event_types": ["*"], "retry": retry(&[50])});
    let id = acme.webhook(&wanted).await["id"].as_str().unwrap().to_owned();
    acme.publish(&json!({"id": event, "type": "a.b"})).await;
    receiver.wait_event("/hook", event).await;
    (key, id)
}

#[tokio::test]
async fn an_idle_hub_ends_at_once_with_exit_0_and_starts_again() {
    let mut hub = Hub::start().await;
    for _ in 0..3 {
        let status = hub.terminate().await;
        assert_eq!(status.code(), Some(0), "{}", hub.log());
        hub.restart().await;
    }
}

#[tokio::test]
async fn a_delivery_in_flight_is_finished_and_not_sent_again() {
    let mut hub = Hub::start().await;
    let receiver = Receiver::start();
    let (key, id) = one_in_flight(&hub, &receiver, "held").await;
    hub.ask_to_stop();
    let anyone = hub.anonymous();
    until("the hub takes nothing new", || async {
        let answer = anyone.try_send(Method::GET, "/readyz", &[], None).await;
        answer.map_or(Some(()), |answer| (answer.status != 200).then_some(()))
    })
    .await;
    receiver.release();
    let status = hub.wait_end().await;
    assert_eq!(status.code(), Some(0), "{}", hub.log());

    hub.restart().await;
    let acme = hub.public(&key);
    acme.publish(&json!({"id": "next", "type": "a.b"})).await;
    acme.wait_status("next", &id, "processed").await;
    let entry = acme.wait_status("held", &id, "processed").await;
    assert_eq!(entry["attempts"], 1, "{entry}");
    let came: Vec<_> = receiver.on("/hook").iter().map(|one| one.id().to_owned()).collect();
    assert_eq!(came, ["held", "next"]);
}

#[tokio::test]
async fn a_delivery_that_does_not_end_is_given_up_at_the_limit_and_sent_again_later() {
    let mut hub = Hub::start_with(&[("SERVER__SHUTDOWN_MS", "300")]).await;
    let receiver = Receiver::start();
    let (key, id) = one_in_flight(&hub, &receiver, "stuck").await;
    assert_eq!(hub.terminate().await.code(), Some(0), "{}", hub.log());
    hub.restart().await;
    hub.public(&key).wait_status("stuck", &id, "processed").await;
    assert_eq!(receiver.on("/hook").len(), 2);
}

#[tokio::test]
async fn what_was_acknowledged_while_the_hub_was_told_to_stop_is_there_after_it() {
    let mut hub = Hub::start().await;
    let receiver = Receiver::start();
    let key = hub.key(&["publish", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    let wanted = json!({"url": receiver.url("/hook"), "org": "acme", "event_types": ["*"], "retry": retry(&[50; 5])});
    acme.webhook(&wanted).await;
    let (acknowledged, down) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
    let producers: Vec<_> = (0..4)
        .map(|producer| {
            let (acknowledged, down) = (acknowledged.clone(), down.clone());
            let api = Api::with_key(hub.public_address(), &key).pooled();
            tokio::spawn(async move {
                for n in 0..100_000 {
                    let body = format!(r#"{{"id":"g{producer}-{n}","type":"a.b"}}"#).into_bytes();
                    let headers = [("content-type", "application/json")];
                    match api.try_send(Method::POST, "/v1/events", &headers, Some(body)).await {
                        Ok(answer) if answer.status == 202 => acknowledged.lock().push(format!("g{producer}-{n}")),
                        Ok(answer) => assert_eq!(answer.status, 503, "{}", answer.text),
                        Err(_) => {}
                    }
                    if down.load(Ordering::Relaxed) {
                        return;
                    }
                }
            })
        })
        .collect();
    until("there is a load", || async { (acknowledged.lock().len() > 200).then_some(()) }).await;
    let status = hub.terminate().await;
    down.store(true, Ordering::Relaxed);
    for producer in producers {
        producer.await.unwrap();
    }
    assert_eq!(status.code(), Some(0), "{}", hub.log());
    receiver.next_run().await;
    hub.restart().await;
    let acme = hub.public(&key).pooled();
    let acknowledged = acknowledged.lock().clone();
    for id in &acknowledged {
        acme.get(&format!("/v1/events/{id}")).await.expect(200);
    }
    until("all of them are delivered", || async {
        receiver.look(|all| {
            let came: std::collections::HashSet<_> = all.iter().map(|one| one.id()).collect();
            acknowledged.iter().all(|id| came.contains(id.as_str())).then_some(())
        })
    })
    .await;
    // A graceful end remembers what it settled: nothing comes twice.
    let doubled = receiver.look(|all| {
        let mut seen = std::collections::HashSet::new();
        all.iter().filter(|one| !seen.insert(one.id().to_owned())).map(|one| one.id().to_owned()).collect::<Vec<_>>()
    });
    assert!(doubled.is_empty(), "{doubled:?}");
}
