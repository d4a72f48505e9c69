//! Policies of the catalog on every way in, and the quarantine of what they refuse (ING-6).

use reqwest::Method;
use serde_json::{Value, json};
use tidegate::ground::clock::ManualClock;
use tidegate::ground::error::ProblemKind;
use tidegate::handler::NewEvent;

use crate::catalog::{invoice, register};
use crate::embed::{START, directory, open};
use crate::support::{Api, Hub, items, sample, until};

fn fits(id: &str) -> Value {
    json!({"id": id, "type": "invoice.paid", "data": {"number": "inv-7", "amount": 5}})
}

fn misfit(id: &str) -> Value {
    json!({"id": id, "type": "invoice.paid", "data": {"number": "7", "amount": "s3cret-amount"}})
}

async fn with_policy(hub: &Hub, policy: &Value) -> Api {
    let acme = hub.acme().await;
    acme.put("/v1/catalog/types/invoice.paid", &json!({"service": "billing"})).await.expect(201);
    register(&acme, "invoice.paid", &invoice()).await;
    acme.patch("/v1/catalog/policy", policy).await.expect(200);
    acme
}

fn pointers(problem: &Value) -> Vec<String> {
    let mut all: Vec<String> = problem["violations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["pointer"].as_str().unwrap().to_owned())
        .collect();
    all.sort();
    all
}

#[tokio::test]
async fn a_strict_org_refuses_on_every_way_in_and_lists_each_violation() {
    let hub = Hub::start().await;
    let acme = with_policy(&hub, &json!({"policy": "strict"})).await;
    acme.publish(&fits("good")).await;
    let refused = acme.post("/v1/events", &misfit("bad")).await.expect_problem(422, "schema-violation");
    let problem = refused.json();
    assert_eq!((&problem["finding"], &problem["more_violations"]), (&json!("schema"), &json!(0)));
    assert_eq!(pointers(&problem), ["/data/amount", "/data/number"]);
    assert_eq!(
        problem["violations"][0]["schema_path"].as_str().map(|path| path.starts_with("/properties/")),
        Some(true)
    );
    assert!(!refused.text.contains("s3cret"), "{}", refused.text);
    let unknown =
        acme.post("/v1/events", &json!({"type": "invoice.lost"})).await.expect_problem(422, "schema-violation").json();
    assert_eq!((&unknown["finding"], &unknown["field"]), (&json!("unknown_type"), &json!("type")));
    let named = json!({"type": "invoice.paid", "schema_version": "9", "data": {}});
    assert_eq!(
        acme.post("/v1/events", &named).await.expect_problem(422, "schema-violation").json()["finding"],
        "unknown_version"
    );

    let batch = json!([fits("b1"), misfit("b2"), {"type": "invoice.lost"}, fits("b3")]);
    let results = acme.post("/v1/events/batch", &batch).await.expect(202).json();
    assert_eq!((&results["accepted"], &results["rejected"]), (&json!(2), &json!(2)));
    assert_eq!(results["results"][1]["error"]["status"], 422);
    assert_eq!(results["results"][3]["id"], "b3");
    let atomic = acme.post("/v1/events/batch?atomic=true", &json!([fits("a1"), misfit("a2")])).await;
    let field = atomic.expect_problem(422, "schema-violation").json()["field"].as_str().unwrap().to_owned();
    assert!(field.starts_with("[1].data."), "{field}");
    acme.get("/v1/events/a1").await.expect_problem(404, "not-found");

    let lines = format!("{}\n{}\n{}\n", fits("s1"), misfit("s2"), fits("s3"));
    let stream = acme.post_bytes("/v1/events/stream", "application/x-ndjson", lines.into_bytes()).await.expect(200);
    let told: Vec<Value> = stream.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (&told[0]["id"], &told[1]["error"]["status"], &told[2]["id"]),
        (&json!("s1"), &json!(422), &json!("s3"))
    );

    let cloud =
        json!({"specversion": "1.0", "id": "c1", "source": "/x", "type": "invoice.paid", "data": {"number": 1}});
    let structured =
        acme.post_bytes("/v1/events", "application/cloudevents+json", cloud.to_string().into_bytes()).await;
    assert_eq!(pointers(&structured.expect_problem(422, "schema-violation").json()), ["/data", "/data/number"]);
    let binary = [
        ("ce-specversion", "1.0"),
        ("ce-id", "c2"),
        ("ce-source", "/x"),
        ("ce-type", "invoice.paid"),
        ("content-type", "application/json"),
    ];
    let body = Some(br#"{"number":"inv-1","amount":-1}"#.to_vec());
    let answer = acme.try_send(Method::POST, "/v1/events", &binary, body).await.unwrap();
    assert_eq!(pointers(&answer.expect_problem(422, "schema-violation").json()), ["/data/amount"]);

    let mut later = misfit("later");
    later["delay"] = json!("1h");
    acme.post("/v1/events", &later).await.expect_problem(422, "schema-violation");
    acme.get("/v1/scheduled/later").await.expect_problem(404, "not-found");
    let source =
        json!({"name": "shop", "verification": {"kind": "none"}, "mapping": {"type": {"constant": "invoice.paid"}}});
    acme.post("/v1/sources", &source).await.expect(201);
    let third = hub.anonymous().post("/v1/sources/shop", &json!({"number": "x", "amount": 1})).await;
    assert_eq!(pointers(&third.expect_problem(422, "schema-violation").json()), ["/data/number"]);

    // What is in the log stays taken: the same event again is a duplicate, whatever is said of it now.
    acme.patch("/v1/catalog/policy", &json!({"policy": "open"})).await.expect(200);
    acme.publish(&misfit("old")).await;
    acme.patch("/v1/catalog/policy", &json!({"policy": "strict"})).await.expect(200);
    assert_eq!(acme.post("/v1/events", &misfit("old")).await.expect(200).json()["duplicate"], true);
    // Another org goes by its own policy.
    let globex = hub.public(&hub.key(&["publish"], Some("globex")).await);
    globex.publish(&misfit("theirs")).await;
    let metrics = hub.admin().get("/metrics").await.expect(200).text;
    let refused = sample(&metrics, "tidegate_catalog_findings_total", &["finding=\"schema\"", "outcome=\"refused\""]);
    assert_eq!(refused, Some(8.0));
    assert!(!hub.log().contains("s3cret"));
}

#[tokio::test]
async fn a_warned_org_takes_what_does_not_fit_and_says_so_in_the_answer() {
    let hub = Hub::start().await;
    let acme = with_policy(&hub, &json!({"policy": "warn"})).await;
    let answer = acme.post("/v1/events", &misfit("m1")).await.expect(202);
    assert_eq!(answer.header("x-catalog-warning"), Some("schema"));
    let receipt = answer.json();
    assert_eq!(receipt["seq"], 1);
    assert_eq!(receipt["warnings"][0]["code"], "schema");
    assert_eq!(pointers(&receipt["warnings"][0]), ["/data/amount", "/data/number"]);
    let again = acme.post("/v1/events", &misfit("m1")).await.expect(200);
    assert_eq!((again.header("x-catalog-warning"), again.json()["duplicate"].clone()), (Some("schema"), json!(true)));
    let clean = acme.post("/v1/events", &fits("f1")).await.expect(202);
    assert_eq!(clean.header("x-catalog-warning"), None);
    assert!(clean.json().get("warnings").is_none());
    acme.patch("/v1/catalog/types/invoice.paid", &json!({"lifecycle": "deprecated"})).await.expect(200);
    let batch = json!([fits("f2"), misfit("m2"), {"id": "u", "type": "invoice.lost"}]);
    let results = acme.post("/v1/events/batch", &batch).await.expect(202).json();
    assert_eq!(results["accepted"], 3);
    let codes = |at: usize| -> Vec<String> {
        let warnings = results["results"][at]["warnings"].as_array().unwrap();
        warnings.iter().map(|one| one["code"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(
        (codes(0), codes(1), codes(2)),
        (vec!["deprecated_type".into()], vec!["deprecated_type".into(), "schema".into()], vec!["unknown_type".into()])
    );
    let mut later = fits("later");
    later["delay"] = json!("1h");
    let scheduled = acme.post("/v1/events", &later).await.expect(202);
    assert_eq!(
        (scheduled.header("x-catalog-warning"), &scheduled.json()["scheduled"]),
        (Some("deprecated_type"), &json!(true))
    );
    let conflict = json!({"id": "m1", "type": "invoice.paid", "data": {"number": 1}});
    acme.post("/v1/events", &conflict).await.expect_problem(409, "id-conflict");
    let together = json!([fits("f5"), conflict]);
    acme.post("/v1/events/batch?atomic=true", &together).await.expect_problem(409, "id-conflict");
    // A strict org takes what is deprecated, and no more what is retired.
    acme.patch("/v1/catalog/policy", &json!({"policy": "strict"})).await.expect(200);
    let deprecated = acme.post("/v1/events", &fits("f3")).await.expect(202);
    assert_eq!(deprecated.header("x-catalog-warning"), Some("deprecated_type"));
    acme.patch("/v1/catalog/types/invoice.paid", &json!({"lifecycle": "retired"})).await.expect(200);
    assert_eq!(
        acme.post("/v1/events", &fits("f4")).await.expect_problem(422, "schema-violation").json()["finding"],
        "retired_type"
    );
    let metrics = hub.admin().get("/metrics").await.expect(200).text;
    let flagged = sample(&metrics, "tidegate_catalog_findings_total", &["finding=\"schema\"", "outcome=\"flagged\""]);
    assert_eq!(flagged, Some(5.0));
    let lines = hub.log().lines().filter(|line| line.contains("an event is not as the catalog says")).count();
    assert!((1..=9).contains(&lines), "logged, and not each: {lines}");
}

async fn quarantined(api: &Api, query: &str) -> Vec<Value> {
    items(&api.get(&format!("/v1/quarantine{query}")).await.expect(200).json()).clone()
}

#[tokio::test]
async fn a_refused_event_is_kept_and_comes_in_once_when_it_is_redriven_or_is_let_go_with_a_reason() {
    let mut hub = Hub::start().await;
    let rules = json!({"policy": "strict", "quarantine": {"enabled": true, "events_max": 4}});
    let acme = with_policy(&hub, &rules).await;
    let globex = hub.public(&hub.key(&["publish", "manage", "read"], Some("globex")).await);
    let mut ids = Vec::new();
    for id in ["q1", "q2", "q3"] {
        let problem = acme.post("/v1/events", &misfit(id)).await.expect_problem(422, "schema-violation").json();
        assert_eq!(problem["quarantine"], "kept");
        ids.push(problem["quarantine_id"].as_str().unwrap().to_owned());
    }
    let again = acme.post("/v1/events", &misfit("q1")).await.expect_problem(422, "schema-violation").json();
    assert_eq!(again["quarantine_id"], ids[0], "the same event is kept once");
    // Long ones, without an id of their own, in a batch: one place is left.
    let long = json!({"type": "invoice.paid", "data": {"number": "x".repeat(200_000)}, "aggregate_id": "7"});
    let results = acme.post("/v1/events/batch", &json!([long, long])).await.expect(202).json();
    let outcome = |at: usize| results["results"][at]["error"]["quarantine"].clone();
    assert_eq!((outcome(0), outcome(1)), (json!("kept"), json!("full")));
    let long_id = results["results"][0]["error"]["quarantine_id"].as_str().unwrap().to_owned();

    hub.kill();
    hub.restart().await;
    let (acme, globex) = (acme.at(hub.public_address()), globex.at(hub.public_address()));
    let page = acme.get("/v1/quarantine?limit=3").await.expect(200).json();
    assert_eq!((items(&page).len(), &page["has_more"]), (3, &json!(true)));
    let cursor = page["next_cursor"].as_str().unwrap();
    assert_eq!(quarantined(&acme, &format!("?cursor={cursor}")).await[0]["id"], json!(long_id));
    let kept = acme.get(&format!("/v1/quarantine/{}", ids[0])).await.expect(200).json();
    assert_eq!((&kept["event_id"], &kept["state"], &kept["finding"]), (&json!("q1"), &json!("open"), &json!("schema")));
    assert_eq!(pointers(&kept), ["/data/amount", "/data/number"]);
    assert_eq!(kept["event"], misfit("q1"), "the envelope as it was sent");

    for (method, path, body) in [
        ("GET", format!("/v1/quarantine/{}", ids[0]), Value::Null),
        ("POST", format!("/v1/quarantine/{}/redrive", ids[0]), json!({})),
        ("POST", format!("/v1/quarantine/{}/discard", ids[0]), json!({"reason": "stolen"})),
        ("GET", "/v1/quarantine/qrt_none".to_owned(), Value::Null),
    ] {
        globex.call(method, &path, &body).await.expect_problem(404, "not-found");
    }
    assert!(quarantined(&globex, "").await.is_empty());
    globex.get("/v1/quarantine?org=acme").await.expect_problem(403, "forbidden");
    globex.post("/v1/quarantine/redrive", &json!({"org": "acme"})).await.expect_problem(403, "forbidden");

    let redrive = format!("/v1/quarantine/{}/redrive", ids[0]);
    let problem = acme.act(&redrive).await.expect_problem(422, "schema-violation").json();
    assert_eq!(problem["quarantine_id"], ids[0], "it still does not fit, and stays");
    let loose = json!({"schema": {"type": "object"}});
    acme.post("/v1/catalog/types/invoice.paid/versions", &loose).await.expect(201);
    let done = acme.act(&redrive).await.expect(200).json();
    assert_eq!(
        (&done["event_id"], &done["duplicate"], &done["state"]),
        (&json!("q1"), &json!(false), &json!("redriven"))
    );
    let event = acme.get("/v1/events/q1").await.expect(200).json();
    assert_eq!((&event["seq"], &event["data"]), (&done["seq"], &misfit("q1")["data"]));
    acme.act(&redrive).await.expect_problem(409, "conflict");
    let discard = format!("/v1/quarantine/{}/discard", ids[1]);
    acme.post(&discard, &json!({})).await.expect_problem(400, "invalid-field");
    let gone = acme.post(&discard, &json!({"reason": "a test"})).await.expect(200).json();
    assert_eq!((&gone["state"], &gone["reason"]), (&json!("discarded"), &json!("a test")));
    acme.post(&discard, &json!({"reason": "again"})).await.expect_problem(409, "conflict");
    let read = acme.get(&format!("/v1/quarantine/{}", ids[1])).await.expect(200).json();
    assert_eq!((&read["event"], read["closed_by"]["by"].is_string()), (&Value::Null, true));
    acme.get("/v1/events/q2").await.expect_problem(404, "not-found");
    let many = acme.post("/v1/quarantine/redrive", &json!({"type": "invoice.paid"})).await.expect(200).json();
    assert_eq!((&many["redriven"], &many["refused"], &many["has_more"]), (&json!(2), &json!(0), &json!(false)));
    assert!(quarantined(&acme, "?state=open").await.is_empty());
    assert_eq!(quarantined(&acme, "?state=redriven").await.len(), 3);
    let long = &quarantined(&acme, "?state=redriven").await[2];
    assert_eq!(long["bytes"].as_u64().map(|bytes| bytes > 200_000), Some(true));
    acme.get(&format!("/v1/events/{}", long["event_id"].as_str().unwrap())).await.expect(200);
    acme.get("/v1/quarantine?state=lost").await.expect_problem(400, "invalid-parameter");
    acme.get("/v1/quarantine?cursor=lost").await.expect_problem(400, "invalid-parameter");
    acme.post("/v1/quarantine/redrive", &json!({"limit": 0})).await.expect_problem(400, "invalid-field");
    let metrics = hub.admin().get("/metrics").await.expect(200).text;
    assert_eq!(sample(&metrics, "tidegate_quarantine_events", &[]), Some(0.0));
}

#[tokio::test]
async fn the_library_is_checked_like_everyone_and_old_quarantined_events_go() {
    let dir = directory();
    let clock = ManualClock::starting_at(START);
    let hub = open(dir.path(), clock.clone(), |_| ()).await;
    let fields = |value: Value| tidegate::ground::fields::Fields::parse(value.to_string().as_bytes()).unwrap();
    let context = || tidegate::ground::context::WriteContext::default();
    let (policy, schema) = (
        fields(json!({"policy": "warn", "quarantine": {"enabled": true, "age_ms": 3_600_000}})),
        fields(json!({"schema": {"type": "object"}})),
    );
    let said = fields(json!({}));
    hub.blocking(move |hub| {
        hub.put_type("a.b", None, said, context())?;
        hub.register_version("a.b", None, schema, tidegate::hub::Write::Really, context())?;
        hub.change_org_policy(None, policy, context())
    })
    .await
    .unwrap();
    let receipt = hub.publish(&NewEvent::new("a.b").data(7)).await.unwrap();
    assert_eq!(receipt.warnings.len(), 1, "{receipt:?}");
    let strict = fields(json!({"policy": "strict"}));
    hub.blocking(move |hub| hub.change_org_policy(None, strict, context())).await.unwrap();
    let problem = hub.publish(&NewEvent::new("a.b").id("e1").data(7)).await.unwrap_err();
    assert_eq!((problem.kind, problem.extra["quarantine"].clone()), (ProblemKind::SchemaViolation, json!("kept")));
    assert_eq!(hub.publish(&NewEvent::new("a.b").data(json!({}))).await.unwrap().warnings, Vec::<String>::new());
    let open_ones = async || {
        let listing = tidegate::catalog::quarantine::Listing::default();
        hub.blocking(move |hub| hub.quarantined(&listing, 9)).await.unwrap().items.len()
    };
    clock.advance(std::time::Duration::from_secs(3_500));
    tokio::task::yield_now().await;
    assert_eq!(open_ones().await, 1);
    until("the old one goes", || async {
        clock.advance(std::time::Duration::from_secs(60));
        (open_ones().await == 0).then_some(())
    })
    .await;
    hub.stop().await;
}
