//! A consumer with nothing to do costs nothing: its actors end, and come back with the next event.

use serde_json::json;

use crate::support::{Api, Hub, Receiver, retry, sample, until};

/// Waits until this many inboxes are in memory, and as many delivery and breaker actors run.
async fn wait_active(admin: &Api, count: f64) {
    until(&format!("{count} active consumers"), || async {
        let metrics = admin.get("/metrics").await.expect(200).text;
        let actors = |kind: &str| sample(&metrics, "tidegate_actors", &[&format!(r#"actor="{kind}""#)]);
        let found =
            [sample(&metrics, "tidegate_inboxes_active", &[]), actors("inbox"), actors("delivery"), actors("breaker")];
        (found == [Some(count); 4]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_actors_of_an_idle_consumer_end_and_come_back_with_the_next_event() {
    const WEBHOOKS: usize = 5;
    const ROUNDS: usize = 5;
    let hub = Hub::start_with(&[("INBOX__IDLE_MS", "100"), ("INBOX__CHECKPOINT_MS", "20")]).await;
    let receiver = Receiver::start();
    let (acme, admin) = (hub.acme().await, hub.admin());
    for n in 0..WEBHOOKS {
        let wanted = json!({"url": receiver.url(&format!("/{n}")), "org": "acme", "event_types": ["idle.*"]});
        acme.webhook(&wanted).await;
    }
    wait_active(&admin, 0.0).await;
    for round in 1..=ROUNDS {
        acme.publish(&json!({"id": format!("e{round}"), "type": "idle.end"})).await;
        for n in 0..WEBHOOKS {
            receiver.wait_for(&format!("/{n}"), round).await;
        }
        wait_active(&admin, 0.0).await;
        // Nobody is woken by what nobody has asked for.
        acme.publish(&json!({"type": "other.thing"})).await;
        let stats = admin.get("/v1/admin/stats").await.expect(200).json();
        assert_eq!(stats["processed"], WEBHOOKS * round, "{stats}");
    }
    for n in 0..WEBHOOKS {
        let ids: Vec<_> = receiver.on(&format!("/{n}")).iter().map(|one| one.id().to_owned()).collect();
        assert_eq!(ids, (1..=ROUNDS).map(|round| format!("e{round}")).collect::<Vec<_>>(), "each once, in order");
    }
}

#[tokio::test]
async fn a_load_that_comes_and_goes_loses_and_repeats_nothing_while_inboxes_end_and_begin() {
    const EVENTS: usize = 300;
    let hub = Hub::start_with(&[("INBOX__IDLE_MS", "100"), ("INBOX__CHECKPOINT_MS", "1")]).await;
    let receiver = Receiver::start();
    let acme = hub.acme().await.pooled();
    let wanted = json!({"url": receiver.url("/hook"), "org": "acme", "event_types": ["*"], "ordering": "strict"});
    acme.webhook(&wanted).await;
    for n in 0..EVENTS {
        acme.publish(&json!({"id": format!("{n}"), "type": "a.b"})).await;
        if n % 10 == 0 {
            // About as long as an inbox stays: some of these find one that is just ending.
            tokio::time::sleep(std::time::Duration::from_millis(95 + n as u64 / 20)).await;
        }
    }
    let came = receiver.wait_for("/hook", EVENTS).await;
    let ids: Vec<_> = came.iter().map(|one| one.id().to_owned()).collect();
    assert_eq!(ids, (0..EVENTS).map(|n| n.to_string()).collect::<Vec<_>>());
    wait_active(&hub.admin(), 0.0).await;
}

#[tokio::test]
async fn an_event_that_waits_for_its_retry_outlives_the_idle_time_of_its_consumer() {
    let hub = Hub::start_with(&[("INBOX__IDLE_MS", "100"), ("INBOX__CHECKPOINT_MS", "20")]).await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    receiver.script("/hook", [crate::support::Reply::Status(500)]);
    let wanted = json!({"url": receiver.url("/hook"), "org": "acme", "event_types": ["*"], "retry": retry(&[700])});
    let id = acme.webhook(&wanted).await["id"].as_str().unwrap().to_owned();
    acme.publish(&json!({"id": "late", "type": "a.b"})).await;
    acme.wait_status("late", &id, "failed").await;
    acme.wait_status("late", &id, "processed").await;
    assert_eq!(receiver.on("/hook").len(), 2);
    wait_active(&hub.admin(), 0.0).await;
}
