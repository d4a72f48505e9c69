//! Look-ups of events by org, type, source, aggregate and time answer what a filter over everything answers, whatever the
//! index of the log has or has not (OUT-3).

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Api, Hub, Kills, items, sample, until};

/// Events of a block of the index.
const BLOCK: u64 = 1_024;
const BATCH: u64 = 500;

/// The nth event: of one of a dozen orgs, or of one that comes three times in all.
fn event(n: u64) -> Value {
    let org = if n % 2_500 == 1_700 { "rare".to_owned() } else { format!("org-{}", n * n % 23) };
    let mut event = json!({"id": format!("e{n:05}"), "org": org, "type": format!("{}.done-{}", ["order", "stock"][(n % 2) as usize], n % 7),
        "aggregate_type": format!("thing-{}", n % 3), "aggregate_id": format!("{}", n % 400)});
    if !n.is_multiple_of(4) {
        event["source"] = json!(format!("source-{}", n / 1_000));
    }
    event
}

/// Every event that a query finds, page by page, and how many pages it took.
async fn find(api: &Api, query: &str, limit: usize) -> (Vec<Value>, usize) {
    let (mut found, mut pages, mut cursor) = (Vec::new(), 0, String::new());
    loop {
        let from = if cursor.is_empty() { String::new() } else { format!("&cursor={cursor}") };
        let page = api.get(&format!("/v1/events?limit={limit}{from}&{query}")).await.expect(200).json();
        assert!(items(&page).len() <= limit, "{query}");
        found.extend(items(&page).iter().cloned());
        pages += 1;
        if page["has_more"] != true {
            return (found, pages);
        }
        cursor = page["next_cursor"].as_str().unwrap().to_owned();
    }
}

fn ids<'a>(events: impl IntoIterator<Item = &'a Value>) -> Vec<&'a str> {
    events.into_iter().map(|event| event["id"].as_str().unwrap()).collect()
}

/// Waits until every block that is complete has its row.
async fn wait_index(admin: &Api) {
    until("the index has reached the newest complete block", || async {
        let metrics = admin.get("/metrics").await.expect(200).text;
        let at = |name: &str| sample(&metrics, name, &[]).map(|seq| seq as u64);
        let head = at("tidegate_log_head_seq")?;
        (at("tidegate_log_index_cursor_seq") >= Some((head + 1) / BLOCK * BLOCK - 1)).then_some(())
    })
    .await;
}

/// Asks every question of this test and compares with a filter over all events of the log.
async fn compare(api: &Api, all: &[Value], what: &str) {
    let middle = |share: usize| all[all.len() * share / 10]["received_at"].as_str().unwrap();
    let (from, to) = (middle(4), middle(6));
    let is = |name: &'static str, wanted: &'static str| {
        (format!("{name}={wanted}"), Box::new(move |one: &Value| one[name] == wanted) as Box<dyn Fn(&Value) -> bool>)
    };
    let questions = [
        vec![is("org", "org-4")],
        vec![is("org", "rare")],
        vec![is("org", "nobody")],
        vec![is("type", "order.done-4")],
        vec![(
            "type=stock.*".to_owned(),
            Box::new(|one: &Value| one["type"].as_str().unwrap().starts_with("stock.")) as Box<dyn Fn(&Value) -> bool>,
        )],
        vec![is("org", "org-9"), is("type", "order.done-2")],
        vec![is("org", "org-9"), is("source", "source-3"), is("aggregate_type", "thing-1")],
        vec![is("aggregate_type", "thing-2"), is("aggregate_id", "77")],
        vec![is("org", "org-1"), is("aggregate_id", "300")],
        vec![
            (format!("from={from}"), Box::new(move |one| one["received_at"].as_str().unwrap() >= from)),
            is("org", "org-2"),
        ],
        vec![
            (format!("from={from}"), Box::new(move |one| one["received_at"].as_str().unwrap() >= from)),
            (format!("to={to}"), Box::new(move |one| one["received_at"].as_str().unwrap() < to)),
        ],
    ];
    for clauses in questions {
        let query: Vec<&str> = clauses.iter().map(|(text, _)| text.as_str()).collect();
        let query = query.join("&");
        let expected: Vec<&Value> = all.iter().filter(|one| clauses.iter().all(|(_, holds)| holds(one))).collect();
        for limit in [37, 1_000] {
            let (found, pages) = find(api, &query, limit).await;
            assert_eq!(ids(&found), ids(expected.iter().copied()), "{what}: {query}");
            assert!(pages <= expected.len() / limit + 1, "{what}: {query} took {pages} pages");
        }
    }
}

#[tokio::test]
async fn a_look_up_finds_what_a_filter_over_everything_finds_over_restarts_failures_and_retention() {
    const EVENTS: u64 = 7_500;
    let settings = [
        ("LOG__SEGMENT_EVENTS", "1500"),
        ("LOG__RETENTION_CHECK_MS", "100"),
        ("FAULTS__ENABLED", "true"),
        ("SUPERVISE__RESTARTS_MAX", "1000"),
    ];
    let mut hub = Hub::start_with(&settings).await;
    let key = hub.key(&["publish", "read"], None).await;
    let (api, admin) = (hub.public(&key).pooled(), hub.admin().pooled());
    for first in (0..EVENTS).step_by(BATCH as usize) {
        let batch: Vec<_> = (first..first + BATCH).map(event).collect();
        let fault = ["panic-indexer", "fail-commit"].get((first / BATCH % 5) as usize);
        if let Some(fault) = fault {
            admin.act(&format!("/v1/admin/faults/{fault}")).await.expect(202);
        }
        until("the batch is taken", || async {
            let answer = api.post("/v1/events/batch", &json!(batch)).await.expect_any(&[202, 503]);
            (answer.status == 202 && answer.json()["rejected"] == 0).then_some(())
        })
        .await;
    }
    let (all, _) = find(&api, "", 1_000).await;
    let expected: Vec<_> = (0..EVENTS).map(event).collect();
    assert_eq!(ids(&all), ids(&expected), "everything is there in order");
    compare(&api, &all, "as soon as it is written").await;
    wait_index(&admin).await;
    compare(&api, &all, "with the index").await;

    assert!(hub.terminate().await.success());
    hub.restart().await;
    compare(&api.at(hub.public_address()), &all, "after a restart").await;

    // Old segments go: their bytes are counted as a kibibyte an event after a restart.
    hub.set("TIDEGATE__LOG__RETENTION_BYTES", "4000000");
    assert!(hub.terminate().await.success());
    hub.restart().await;
    let (api, admin) = (api.at(hub.public_address()), hub.admin());
    let earliest = until("old segments are dropped", || async {
        let stats = admin.get("/v1/admin/stats").await.expect(200).json();
        stats["log"]["earliest"].as_u64().filter(|earliest| *earliest > 1)
    })
    .await;
    assert!(earliest <= EVENTS, "the newest segment stays");
    let (all, _) = find(&api, "", 1_000).await;
    assert_eq!(all[0]["seq"], earliest);
    compare(&api, &all, "after old segments were dropped").await;
    api.post("/v1/events/batch", &json!((EVENTS..EVENTS + BATCH).map(event).collect::<Vec<_>>())).await.expect(202);
    let (all, _) = find(&api, "", 1_000).await;
    compare(&api, &all, "with new events after the dropped ones").await;

    // A key of one org sees nothing of another one, whatever it asks for.
    let own = hub.public(&hub.key(&["read"], Some("org-4")).await);
    let (found, _) = find(&own, "type=order.*", 1_000).await;
    assert!(!found.is_empty() && found.iter().all(|one| one["org"] == "org-4"), "{found:?}");
    own.get("/v1/events?org=org-9").await.expect_problem(403, "forbidden");
}

#[tokio::test]
async fn killed_while_the_index_is_written_every_look_up_tells_the_truth() {
    const KILLS: u64 = 10;
    const BATCHES: u64 = 6;
    let kills = Kills::new(500);

    let mut hub = Hub::start_with(&[("LOG__SEGMENT_EVENTS", "3000")]).await;
    let key = hub.key(&["publish", "read"], None).await;
    let mut acknowledged: BTreeMap<u64, Value> = BTreeMap::new();
    for round in 0..KILLS {
        let api = hub.public(&key).pooled();
        let sending: Vec<_> = (0..BATCHES)
            .map(|batch| {
                let (api, first) = (api.clone(), (round * BATCHES + batch) * BATCH);
                let body = json!((first..first + BATCH).map(event).collect::<Vec<_>>()).to_string().into_bytes();
                tokio::spawn(async move {
                    let headers = [("content-type", "application/json")];
                    api.try_send(Method::POST, "/v1/events/batch", &headers, Some(body)).await
                })
            })
            .collect();
        // The moment of the kill is chance; nothing below depends on how much happened before it.
        tokio::time::sleep(Duration::from_millis(kills.below(500))).await;
        hub.kill();
        for sent in sending {
            // Answered or not: the same ids again tell where each event is.
            sent.await.unwrap().ok();
        }
        hub.restart().await;
        let api = hub.public(&key).pooled();
        for first in (0..BATCHES).map(|batch| (round * BATCHES + batch) * BATCH) {
            let batch: Vec<_> = (first..first + BATCH).map(event).collect();
            let answer = api.post("/v1/events/batch", &json!(batch)).await.expect(202).json();
            for (event, receipt) in batch.into_iter().zip(answer["results"].as_array().unwrap()) {
                let before = acknowledged.insert(receipt["seq"].as_u64().unwrap(), event);
                assert_eq!(before, None, "no two events have one place");
            }
        }
        assert_eq!(acknowledged.len() as u64, (round + 1) * BATCHES * BATCH);
        if round == KILLS - 1 {
            wait_index(&hub.admin()).await;
        }
        let everything: Vec<_> = find(&api, "", 1_000).await.0;
        assert_eq!(ids(&everything), ids(acknowledged.values()), "round {round}");
        let orgs: Vec<String> = (0..23).map(|n| format!("org-{n}")).chain(["rare".to_owned()]).collect();
        for (query, field, wanted) in orgs
            .iter()
            .map(|org| (format!("org={org}"), "org", org.clone()))
            .chain((0..7).map(|n| (format!("type=order.done-{n}"), "type", format!("order.done-{n}"))))
            .chain([(format!("aggregate_id={round}"), "aggregate_id", round.to_string())])
        {
            let expected: Vec<_> = acknowledged.values().filter(|one| one[field] == wanted.as_str()).collect();
            let (found, _) = find(&api, &query, 1_000).await;
            assert_eq!(ids(&found), ids(expected), "round {round}: {query}");
        }
    }
    assert!(hub.terminate().await.success());
}
