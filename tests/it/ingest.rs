//! Events coming in: one, many, a stream; the same again; and everything that must be refused with a name for what is
//! wrong and nothing stored (ING-1, ING-3, EVT-1..3).

use serde_json::{Value, json};

use crate::support::{Api, Hub, Receiver, items, until};

const JSON: &str = "application/json";

/// The ids of the listed events of a type, once there are as many as expected.
async fn listed(api: &Api, event_type: &str, count: usize) -> Vec<String> {
    until(&format!("{count} events of type {event_type} are listed"), || async {
        let page = api.get(&format!("/v1/events?type={event_type}&limit=1000")).await.expect(200).json();
        let ids: Vec<_> = items(&page).iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect();
        (ids.len() >= count).then_some(ids)
    })
    .await
}

#[tokio::test]
async fn an_event_is_acknowledged_with_its_place_and_can_be_read_back() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let event = json!({"id": "e-1", "type": "invoice.paid", "source": "billing", "aggregate_type": "invoice",
        "aggregate_id": "17", "channel": "web", "facility": "north", "subject": "s", "data": {"n": [1, null]},
        "metadata": {"k": "v"}, "occurred_at": "2026-01-02T03:04:05Z", "reason_code": "R1", "schema_version": "2",
        "source_refs": [{"system": "erp", "type": "invoice", "id": "x"}],
        "request_context": {"correlation_id": "c-1", "user_id": "u-1"},
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"});
    let receipt = acme.post("/v1/events", &event).await.expect(202).json();
    assert_eq!(receipt["id"], "e-1");
    assert_eq!(receipt["duplicate"], false);
    assert!(receipt["seq"].as_u64().unwrap() >= 1, "{receipt}");

    let read = acme.get("/v1/events/e-1").await.expect(200).json();
    for (name, value) in event.as_object().unwrap() {
        assert_eq!(&read[name], value, "{name}");
    }
    assert_eq!(read["org"], "acme");
    assert_eq!(read["ordering_key"], "invoice/17");
    assert_eq!(read["seq"], receipt["seq"]);
    assert!(read["received_at"].is_string(), "{read}");
    assert!(read["consumers"].is_array(), "{read}");
}

#[tokio::test]
async fn an_event_without_an_id_gets_one_and_later_events_get_later_places() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let first = acme.post("/v1/events", &json!({"type": "a.b"})).await.expect(202).json();
    let second = acme.post("/v1/events", &json!({"type": "a.b"})).await.expect(202).json();
    assert_eq!(first["id"].as_str().unwrap().len(), 36, "{first}");
    assert_ne!(first["id"], second["id"]);
    assert!(second["seq"].as_u64() > first["seq"].as_u64(), "{first} {second}");
}

#[tokio::test]
async fn the_same_event_again_is_a_duplicate_also_after_a_restart_and_another_body_is_a_conflict() {
    let mut hub = Hub::start().await;
    let key = hub.key(&["publish", "read"], Some("acme")).await;
    let event = json!({"id": "twice", "type": "a.b", "data": {"n": 1}});
    let first = hub.public(&key).post("/v1/events", &event).await.expect(202).json();
    for restarted in [false, true] {
        if restarted {
            assert!(hub.terminate().await.success());
            hub.restart().await;
        }
        let acme = hub.public(&key);
        let again = acme.post("/v1/events", &event).await.expect(200).json();
        assert_eq!(again["duplicate"], true);
        assert_eq!(again["seq"], first["seq"]);
        let other = json!({"id": "twice", "type": "a.b", "data": {"n": 2}});
        acme.post("/v1/events", &other).await.expect_problem(409, "id-conflict");
        let kept = acme.get("/v1/events/twice").await.expect(200).json();
        assert_eq!(kept["data"], json!({"n": 1}));
    }
}

#[tokio::test]
async fn the_same_id_in_another_org_is_another_event() {
    let hub = Hub::start().await;
    let any_org = hub.public(&hub.key(&["publish"], None).await);
    let in_org = |org: &str| json!({"id": "shared", "type": "a.b", "org": org});
    any_org.post("/v1/events", &in_org("acme")).await.expect(202);
    any_org.post("/v1/events", &in_org("globex")).await.expect(202);
    any_org.post("/v1/events", &in_org("acme")).await.expect(200);
}

#[tokio::test]
async fn a_batch_takes_what_fits_and_names_what_does_not() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let batch = json!([{"id": "b-1", "type": "batch.x"}, {"id": "b-2"}, {"id": "b-3", "type": "batch.x"},
        {"id": "b-1", "type": "batch.x"}]);
    let answer = acme.post("/v1/events/batch", &batch).await.expect(202).json();
    assert_eq!(answer["accepted"], 3, "{answer}");
    assert_eq!(answer["rejected"], 1, "{answer}");
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results[0]["id"], "b-1");
    assert_eq!(results[0]["duplicate"], false);
    assert_eq!(results[1]["error"]["field"], "type", "{answer}");
    assert_eq!(results[2]["id"], "b-3");
    assert_eq!(results[3]["duplicate"], true, "{answer}");
    assert_eq!(results[3]["seq"], results[0]["seq"]);
    let ids = listed(&acme, "batch.x", 2).await;
    assert_eq!(ids.len(), 2, "{ids:?}");
}

#[tokio::test]
async fn an_atomic_batch_with_one_bad_event_stores_none() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let batch = json!([{"id": "t-1", "type": "atomic.x"}, {"id": "t-2", "type": 5}]);
    acme.post("/v1/events/batch?atomic=true", &batch).await.expect_problem(400, "invalid-field");
    acme.get("/v1/events/t-1").await.expect_problem(404, "not-found");
    let good = json!([{"id": "t-1", "type": "atomic.x"}, {"id": "t-2", "type": "atomic.x"}]);
    let answer = acme.post("/v1/events/batch?atomic=true", &good).await.expect(202).json();
    assert_eq!(answer["accepted"], 2, "{answer}");
}

#[tokio::test]
async fn a_batch_of_too_many_is_refused_whole() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let many: Vec<_> = (0..1_001).map(|n| json!({"id": format!("m-{n}"), "type": "many.x"})).collect();
    acme.post("/v1/events/batch", &Value::from(many.clone())).await.expect_problem(413, "too-large");
    acme.post("/v1/events/batch", &json!({"type": "a"})).await.expect_problem(400, "invalid-field");
    acme.get("/v1/events/m-0").await.expect(404);
    let answer = acme.post("/v1/events/batch", &Value::from(many[..1_000].to_vec())).await.expect(202).json();
    assert_eq!(answer["accepted"], 1_000);
}

#[tokio::test]
async fn a_stream_answers_a_line_for_every_line() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let mut lines: Vec<String> =
        (0..2_500).map(|n| json!({"id": format!("s-{n}"), "type": "stream.x"}).to_string()).collect();
    lines[7] = "{not json".to_owned();
    lines[1_200] = json!({"id": "no-type"}).to_string();
    lines[2_400] = lines[3].clone();
    let body = lines.join("\n").into_bytes();
    let answer = acme.post_bytes("/v1/events/stream", "application/x-ndjson", body).await.expect_any(&[200, 202]);
    let results: Vec<Value> = answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(results.len(), lines.len());
    for (n, result) in results.iter().enumerate() {
        match n {
            7 | 1_200 => assert!(result["error"].is_object(), "line {n}: {result}"),
            2_400 => assert_eq!((&result["id"], &result["duplicate"]), (&json!("s-3"), &json!(true)), "line {n}"),
            _ => {
                assert_eq!((&result["id"], &result["duplicate"]), (&json!(format!("s-{n}")), &json!(false)), "line {n}")
            }
        }
    }
    assert_eq!(results[1_200]["error"]["field"], "type");
    acme.get("/v1/events/s-2499").await.expect(200);
}

#[tokio::test]
async fn numbers_and_key_order_come_out_as_they_went_in() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    acme.webhook(&json!({"url": receiver.url("/hook"), "org": "acme", "event_types": ["exact.*"]})).await;
    let data = r#"{"zeta":123456789012345678901234567890,"alpha":0.10000000000000000000000000000001,"m":1E400,"neg":-0.0,"exp":1.50e+3,"u":"\u00e9é","list":[9007199254740993,{"b":1,"a":2}]}"#;
    let metadata = r#"{"y":18446744073709551616,"x":1.0}"#;
    let event = format!(r#"{{"type":"exact.numbers","id":"n-1","data":{data},"metadata":{metadata}}}"#);
    acme.post_bytes("/v1/events", JSON, event.clone().into_bytes()).await.expect(202);
    let read = acme.get("/v1/events/n-1").await.expect(200).text;
    assert!(read.starts_with(event.trim_end_matches('}')), "the producer's own text stands first: {read}");
    let delivered = String::from_utf8(receiver.wait_event("/hook", "n-1").await.body).unwrap();
    assert!(delivered.contains(&format!(r#""data":{data}"#)), "{delivered}");
    assert!(delivered.contains(&format!(r#""metadata":{metadata}"#)), "{delivered}");
}

#[tokio::test]
async fn a_large_event_of_exactly_the_limit_is_taken_and_comes_out_whole() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    acme.webhook(&json!({"url": receiver.url("/hook"), "org": "acme", "event_types": ["*"]})).await;
    let (head, tail) = (r#"{"id":"large","type":"a.b","data":""#, r#""}"#);
    let filling = "é".repeat(((1 << 20) - head.len() - tail.len()) / 2);
    let mut body = format!("{head}{filling}{tail}");
    body.push_str(&" ".repeat((1 << 20) - body.len()));
    acme.post_bytes("/v1/events", JSON, body.clone().into_bytes()).await.expect(202);
    let delivery = receiver.wait_event("/hook", "large").await;
    assert_eq!(delivery.json()["data"], filling);
    let read = acme.get("/v1/events/large").await.expect(200).json();
    assert_eq!(read["data"], filling);
    body.push(' ');
    acme.post_bytes("/v1/events", JSON, body.into_bytes()).await.expect_problem(413, "too-large");
}

/// Objects inside each other, the envelope counted.
fn nested(levels: usize) -> String {
    let data = format!("{}1{}", "[".repeat(levels - 1), "]".repeat(levels - 1));
    format!(r#"{{"id":"bad","type":"bad.x","data":{data}}}"#)
}

#[tokio::test]
async fn what_does_not_fit_is_refused_by_the_name_of_its_field_and_nothing_is_stored() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let with = |field: &str, value: Value| {
        let mut event = json!({"id": "bad", "type": "bad.x"});
        event[field] = value;
        event.to_string()
    };
    let long = |chars: usize| Value::from("é".repeat(chars));
    let fields: Vec<(&str, String)> = vec![
        ("body", "[]".to_owned()),
        ("body", "\"text\"".to_owned()),
        ("body", "null".to_owned()),
        ("type", r#"{"id":"bad"}"#.to_owned()),
        ("type", with("type", json!(5))),
        ("type", with("type", json!(null))),
        ("type", with("type", json!(""))),
        ("type", with("type", long(256))),
        ("id", with("id", json!(7))),
        ("id", with("id", json!("x".repeat(129)))),
        ("source", with("source", long(128))),
        ("source", with("source", json!({}))),
        ("aggregate_type", with("aggregate_type", long(128))),
        ("aggregate_id", with("aggregate_id", long(129))),
        ("channel", with("channel", json!([1]))),
        ("facility", with("facility", long(128))),
        ("metadata", with("metadata", json!("text"))),
        ("metadata", with("metadata", json!([1]))),
        ("occurred_at", with("occurred_at", json!("yesterday"))),
        ("occurred_at", with("occurred_at", json!(1_700_000_000))),
        ("source_refs", with("source_refs", json!("x"))),
        ("request_context", with("request_context", json!(true))),
        ("traceparent", with("traceparent", json!("00-zz"))),
        ("colour", with("colour", json!("red"))),
        ("seq", with("seq", json!(1))),
        ("type", r#"{"id":"bad","type":"bad.x","type":"bad.x"}"#.to_owned()),
        ("data", r#"{"id":"bad","type":"bad.x","data":{"a":1,"a":2}}"#.to_owned()),
        ("data", nested(65)),
    ];
    for (field, body) in &fields {
        let shown: String = body.chars().take(120).collect();
        let answer = acme.post_bytes("/v1/events", JSON, body.clone().into_bytes()).await;
        assert_eq!(answer.status, 400, "{shown}: {}", answer.text);
        let problem = answer.expect_problem(400, "invalid-field").json();
        let named = problem["field"].as_str().unwrap_or_default();
        let inside = named.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
        assert!(inside, "{shown}: the problem names {named:?}, not {field}: {problem}");
        assert!(problem["limit"].is_string(), "{shown}: {problem}");
    }

    let metadata = with("metadata", json!({"k": "x".repeat(16 << 10)}));
    let problem = acme.post_bytes("/v1/events", JSON, metadata.into_bytes()).await.expect_any(&[400, 413]).json();
    assert_eq!(problem["field"], "metadata", "{problem}");

    let not_json: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"{".to_vec(),
        b"type=bad.x".to_vec(),
        br#"{"id":"bad","type":"bad.x"} {}"#.to_vec(),
        br#"{"id":"bad","type":"bad.x","data":NaN}"#.to_vec(),
        br#"{"id":"bad","type":"bad.x","data":Infinity}"#.to_vec(),
        br#"{"id":"bad","type":"bad.x","data":01}"#.to_vec(),
        br#"{'id':'bad','type':'bad.x'}"#.to_vec(),
        b"{\"id\":\"bad\",\"type\":\"bad.x\",\"data\":\"\xff\xfe\"}".to_vec(),
        b"{\"id\":\"bad\",\"type\":\"bad.x\",\"data\":\"\xed\xa0\x80\"}".to_vec(),
        b"\xef\xbb\xbf{\"id\":\"bad\",\"type\":\"bad.x\"}".to_vec(),
    ];
    for body in not_json {
        let shown = String::from_utf8_lossy(&body).into_owned();
        let answer = acme.post_bytes("/v1/events", JSON, body).await;
        assert_eq!(answer.status, 400, "{shown}: {}", answer.text);
        answer.expect_problem(400, "not-json");
    }

    let too_large = format!(r#"{{"id":"bad","type":"bad.x","data":"{}"}}"#, "x".repeat(1 << 20));
    acme.post_bytes("/v1/events", JSON, too_large.into_bytes()).await.expect_problem(413, "too-large");
    let event = br#"{"id":"bad","type":"bad.x"}"#;
    for content_type in ["text/plain", "application/xml", "application/x-www-form-urlencoded"] {
        let answer = acme.post_bytes("/v1/events", content_type, event.to_vec()).await;
        answer.expect_problem(415, "unsupported-media-type");
    }
    for (query, field) in [("atomic=perhaps", "atomic"), ("atomc=true", "atomc")] {
        let answer = acme.post_bytes(&format!("/v1/events?{query}"), JSON, event.to_vec()).await;
        assert_eq!(answer.expect_problem(400, "invalid-parameter").json()["field"], field);
    }
    let refused = acme.call("DELETE", "/v1/events", &Value::Null).await.expect_problem(405, "method-not-allowed");
    assert_eq!(refused.header("allow"), Some("POST, GET"));
    acme.get("/v1/nowhere").await.expect_problem(404, "not-found");

    // The one good event comes after all the bad ones; when it is listed, they would be.
    acme.publish(&json!({"id": "good", "type": "good.x"})).await;
    assert_eq!(listed(&acme, "good.x", 1).await, ["good"]);
    assert_eq!(listed(&acme, "bad.x", 0).await, Vec::<String>::new());
    acme.get("/v1/events/bad").await.expect_problem(404, "not-found");
    // Nothing above took a place in the log either.
    let read = acme.get("/v1/events/good").await.expect(200).json();
    assert_eq!(read["seq"], 1, "{read}");
}

#[tokio::test]
async fn the_deepest_and_longest_that_fit_are_taken() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    acme.post_bytes("/v1/events", JSON, nested(64).into_bytes()).await.expect(202);
    let event = json!({"id": "é".repeat(128), "type": "x".repeat(255), "source": "é".repeat(127),
        "aggregate_type": "é".repeat(127), "aggregate_id": "é".repeat(128), "channel": "c".repeat(127)});
    acme.post("/v1/events", &event).await.expect(202);
    acme.post_bytes("/v1/events", "application/json; charset=utf-8", br#"{"type":"a.b"}"#.to_vec()).await.expect(202);
}

#[tokio::test]
async fn a_list_is_cut_into_pages_that_miss_and_repeat_nothing() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let batch: Vec<_> = (0..25).map(|n| json!({"id": format!("p-{n:02}"), "type": "page.x"})).collect();
    acme.post("/v1/events/batch", &Value::from(batch)).await.expect(202);
    let mut all = listed(&acme, "page.x", 25).await;
    let mut paged = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = acme.get(&format!("/v1/events?type=page.x&limit=10{cursor}")).await.expect(200).json();
        assert!(items(&page).len() <= 10, "{page}");
        paged.extend(items(&page).iter().map(|event| event["id"].as_str().unwrap().to_owned()));
        if page["has_more"] == false {
            break;
        }
        assert!(paged.len() < 25, "more pages than events");
        cursor = format!("&cursor={}", page["next_cursor"].as_str().unwrap());
    }
    assert_eq!(paged, all);
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 25);
    acme.get("/v1/events?limit=0").await.expect_problem(400, "invalid-parameter");
    acme.get("/v1/events?cursor=nonsense").await.expect_problem(400, "invalid-parameter");
}
