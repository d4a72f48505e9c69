//! Traces: the context of a publish request reaches every delivery, and the spans between are exported over OTLP (OBS-3).

use serde_json::{Value, json};

use crate::support::{Api, Hub, Receiver, Reply, retry, sample, until};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

fn header() -> String {
    format!("00-{TRACE}-{CALLER}-01")
}

/// Publishes one event with headers of one's own.
async fn publish(api: &Api, event: &Value, headers: &[(&str, &str)]) {
    let headers: Vec<_> = [("content-type", "application/json")].into_iter().chain(headers.iter().copied()).collect();
    let body = Some(event.to_string().into_bytes());
    let answer = api.try_send(reqwest::Method::POST, "/v1/events", &headers, body).await.unwrap();
    answer.expect(202);
}

async fn webhook(api: &Api, receiver: &Receiver, delays_ms: &[u64]) -> String {
    let wanted = json!({"url": receiver.url("/hook"), "org": "acme", "event_types": ["*"], "retry": retry(delays_ms)});
    api.webhook(&wanted).await["id"].as_str().unwrap().to_owned()
}

/// Every span that a collector got, with its attributes by name.
pub(crate) fn spans(collector: &Receiver) -> Vec<Value> {
    let mut out = Vec::new();
    for request in collector.on("/v1/traces") {
        assert_eq!(request.header("content-type"), "application/json");
        let body = request.json();
        for resource in body["resourceSpans"].as_array().unwrap() {
            assert_eq!(resource["resource"]["attributes"][0]["value"]["stringValue"], "tidegate");
            for scope in resource["scopeSpans"].as_array().unwrap() {
                out.extend(scope["spans"].as_array().unwrap().iter().cloned());
            }
        }
    }
    out
}

pub(crate) fn attribute(span: &Value, name: &str) -> Option<String> {
    let found = span["attributes"].as_array()?.iter().find(|one| one["key"] == name)?;
    let value = &found["value"];
    value["stringValue"].as_str().or_else(|| value["intValue"].as_str()).map(str::to_owned)
}

/// The spans of this name about this event, once there are so many.
async fn wait_spans(collector: &Receiver, name: &str, event: &str, count: usize) -> Vec<Value> {
    until(&format!("{count} spans {name} of {event}"), || async {
        let mut found = spans(collector);
        found.retain(|span| span["name"] == name && attribute(span, "tidegate.event.id").as_deref() == Some(event));
        (found.len() >= count).then_some(found)
    })
    .await
}

async fn counted(hub: &Hub, outcome: &str) -> f64 {
    let metrics = hub.admin().get("/metrics").await.expect(200).text;
    sample(&metrics, "tidegate_trace_spans_total", &[&format!("outcome=\"{outcome}\"")]).unwrap_or(0.0)
}

#[tokio::test]
async fn one_trace_goes_from_the_publish_request_to_every_attempt() {
    let (collector, receiver) = (Receiver::start(), Receiver::start());
    let hub = Hub::start_with(&[("TRACE__OTLP_ENDPOINT", &collector.url(""))]).await;
    let acme = hub.acme().await;
    let id = webhook(&acme, &receiver, &[10]).await;
    receiver.script("/hook", [Reply::Status(500)]);
    publish(&acme, &json!({"id": "e-1", "type": "a.b"}), &[("traceparent", &header())]).await;
    acme.wait_status("e-1", &id, "processed").await;

    let ingest = wait_spans(&collector, "ingest", "e-1", 1).await.remove(0);
    let append = wait_spans(&collector, "append", "e-1", 1).await.remove(0);
    let mut attempts = wait_spans(&collector, "attempt", "e-1", 2).await;
    attempts.sort_by_key(|span| attribute(span, "tidegate.attempt"));
    for span in [&ingest, &append, &attempts[0], &attempts[1]] {
        assert_eq!(span["traceId"], TRACE);
        assert_eq!(attribute(span, "tidegate.seq").as_deref(), Some("1"));
        let time = |name: &str| span[name].as_str().unwrap().parse::<u64>().unwrap();
        assert!(time("startTimeUnixNano") <= time("endTimeUnixNano"), "{span}");
    }
    assert_eq!((&ingest["parentSpanId"], &ingest["kind"]), (&json!(CALLER), &json!(2)));
    assert_eq!((&append["parentSpanId"], &append["kind"]), (&ingest["spanId"], &json!(1)));
    for (number, (span, status)) in attempts.iter().zip(["500", "200"]).enumerate() {
        assert_eq!((&span["parentSpanId"], &span["kind"]), (&append["spanId"], &json!(3)));
        assert_eq!(attribute(span, "tidegate.consumer"), Some(id.clone()));
        assert_eq!(attribute(span, "tidegate.attempt"), Some((number + 1).to_string()));
        assert_eq!(attribute(span, "http.response.status_code").as_deref(), Some(status));
    }
    assert_eq!(attempts[0]["status"]["code"], 2);
    assert_eq!(attempts[1].get("status"), None);
    // What the endpoint sees is the attempt that calls it.
    let seen: Vec<String> = receiver.on("/hook").iter().map(|one| one.header("traceparent").to_owned()).collect();
    let told = |span: &Value| format!("00-{TRACE}-{}-01", span["spanId"].as_str().unwrap());
    assert_eq!(seen, [told(&attempts[0]), told(&attempts[1])]);
}

#[tokio::test]
async fn an_event_without_a_trace_begins_one_and_one_that_is_not_sampled_is_not_recorded() {
    let (collector, receiver) = (Receiver::start(), Receiver::start());
    let hub = Hub::start_with(&[("TRACE__OTLP_ENDPOINT", &collector.url(""))]).await;
    let acme = hub.acme().await;
    webhook(&acme, &receiver, &[]).await;
    let unsampled = header().replace("-01", "-00");
    publish(&acme, &json!({"id": "quiet", "type": "a.b"}), &[("traceparent", &unsampled)]).await;
    publish(&acme, &json!({"id": "own", "type": "a.b", "traceparent": header()}), &[("traceparent", &unsampled)]).await;
    publish(&acme, &json!({"id": "new", "type": "a.b"}), &[]).await;
    let new = wait_spans(&collector, "attempt", "new", 1).await.remove(0);
    let ingest = wait_spans(&collector, "ingest", "new", 1).await.remove(0);
    assert_eq!(ingest["traceId"], new["traceId"]);
    assert_ne!(new["traceId"], TRACE);
    assert_eq!(ingest.get("parentSpanId"), None);
    // What the envelope says goes before the header.
    assert_eq!(wait_spans(&collector, "ingest", "own", 1).await[0]["parentSpanId"], CALLER);
    wait_spans(&collector, "attempt", "own", 1).await;
    let quiet = receiver.wait_event("/hook", "quiet").await;
    let told = quiet.header("traceparent");
    assert!(told.starts_with(&format!("00-{TRACE}-")) && told.ends_with("-00") && !told.contains(CALLER), "{told}");
    assert!(spans(&collector).iter().all(|span| attribute(span, "tidegate.event.id").as_deref() != Some("quiet")));
}

#[tokio::test]
async fn without_a_collector_the_trace_is_carried_all_the_same_and_a_bad_header_counts_as_none() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    webhook(&acme, &receiver, &[10]).await;
    receiver.script("/hook", [Reply::Status(500)]);
    publish(&acme, &json!({"id": "traced", "type": "a.b"}), &[("traceparent", &header())]).await;
    let mut seen: Vec<String> =
        receiver.wait_for("/hook", 2).await.iter().map(|one| one.header("traceparent").to_owned()).collect();
    assert!(seen.iter().all(|one| one.starts_with(&format!("00-{TRACE}-")) && one.ends_with("-01")), "{seen:?}");
    seen.push(header());
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 3, "each attempt has an id of its own");
    for (number, bad) in
        ["garbage", &header().to_uppercase(), &header().replace(TRACE, &"0".repeat(32))].iter().enumerate()
    {
        publish(&acme, &json!({"id": format!("bad-{number}"), "type": "a.b"}), &[("traceparent", bad)]).await;
        assert_eq!(receiver.wait_event("/hook", &format!("bad-{number}")).await.header("traceparent"), "");
    }
    let two = [("traceparent", &*header()), ("traceparent", &*header())];
    publish(&acme, &json!({"id": "twice", "type": "a.b"}), &two).await;
    assert_eq!(receiver.wait_event("/hook", "twice").await.header("traceparent"), "");
}

#[tokio::test]
async fn a_collector_that_hangs_stops_nothing_and_what_finds_the_queue_full_is_counted() {
    let (collector, receiver) = (Receiver::start(), Receiver::start());
    collector.always("/v1/traces", Reply::Hold);
    let settings = [("TRACE__OTLP_ENDPOINT", &*collector.url("")), ("TRACE__QUEUE_SPANS_MAX", "8")];
    let mut hub = Hub::start_with(&settings).await;
    let acme = hub.acme().await;
    let id = webhook(&acme, &receiver, &[]).await;
    publish(&acme, &json!({"id": "first", "type": "a.b"}), &[]).await;
    collector.wait_for("/v1/traces", 1).await;
    let events: Vec<Value> = (0..200).map(|n| json!({"id": format!("e-{n}"), "type": "a.b"})).collect();
    acme.post("/v1/events/batch", &json!(events)).await.expect(202);
    for number in [0, 100, 199] {
        acme.wait_status(&format!("e-{number}"), &id, "processed").await;
    }
    assert!(counted(&hub, "queue_full").await > 100.0);
    assert_eq!(hub.terminate().await.code(), Some(0), "a collector that hangs does not hold up the stop");
}

#[tokio::test]
async fn spans_that_the_collector_refuses_are_counted_and_what_is_queued_at_the_stop_is_sent() {
    let (collector, receiver) = (Receiver::start(), Receiver::start());
    collector.script("/v1/traces", [Reply::Status(400)]);
    let mut hub = Hub::start_with(&[("TRACE__OTLP_ENDPOINT", &collector.url(""))]).await;
    let acme = hub.acme().await;
    webhook(&acme, &receiver, &[]).await;
    publish(&acme, &json!({"id": "refused", "type": "a.b"}), &[]).await;
    until("spans are counted as not exported", || async {
        (counted(&hub, "export_failed").await >= 1.0).then_some(())
    })
    .await;
    publish(&acme, &json!({"id": "last", "type": "a.b"}), &[]).await;
    receiver.wait_event("/hook", "last").await;
    assert_eq!(hub.terminate().await.code(), Some(0));
    let told = spans(&collector);
    let last = told.iter().filter(|span| attribute(span, "tidegate.event.id").as_deref() == Some("last"));
    assert_eq!(last.count(), 3, "ingest, append and attempt were sent at the stop");
}

#[tokio::test]
async fn what_the_systems_of_a_trace_say_of_it_goes_on_beside_it_and_not_without_it() {
    let hub = Hub::start().await;
    let (acme, receiver) = (hub.acme().await, Receiver::start());
    webhook(&acme, &receiver, &[]).await;
    acme.post("/v1/consumers", &json!({"name": "pulled", "event_types": ["*"]})).await.expect(201);
    let trace = header();
    let parent = ("traceparent", trace.as_str());
    let seen = async |id: &str| receiver.wait_event("/hook", id).await.header("tracestate").to_owned();

    // In several headers, with the space that a list may have.
    let headers = [parent, ("tracestate", "rojo=00f067aa0ba902b7 , congo=t61rcWkgMzE"), ("tracestate", "1t@sys=x")];
    publish(&acme, &json!({"id": "by-header", "type": "a.b"}), &headers).await;
    assert_eq!(seen("by-header").await, "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE,1t@sys=x");
    // What the envelope says counts before what the request says, the two together.
    let event = json!({"id": "own", "type": "a.b", "traceparent": trace, "tracestate": "own=1"});
    publish(&acme, &event, &headers).await;
    assert_eq!(seen("own").await, "own=1");
    let event = json!({"id": "bare", "type": "a.b", "traceparent": trace});
    publish(&acme, &event, &headers).await;
    assert_eq!(seen("bare").await, "");
    // Without a trace it means nothing; what is not valid counts as absent in a header and is refused in an envelope.
    publish(&acme, &json!({"id": "alone", "type": "a.b"}), &headers[1..]).await;
    assert_eq!(seen("alone").await, "");
    publish(&acme, &json!({"id": "bad", "type": "a.b"}), &[parent, ("tracestate", "A=1")]).await;
    assert_eq!(seen("bad").await, "");
    assert!(receiver.wait_event("/hook", "bad").await.header("traceparent").contains(TRACE));
    let bad = json!({"type": "a.b", "traceparent": trace, "tracestate": "A=1"});
    let problem = acme.post("/v1/events", &bad).await.expect_problem(400, "invalid-field").json();
    assert_eq!(problem["field"], "tracestate");

    // The same of a CloudEvent, in and out, also after a restart.
    let cloud_event = json!({"specversion": "1.0", "id": "ce", "source": "/s", "type": "a.b", "traceparent": trace,
        "tracestate": "rojo=1,quoted=a\"b"});
    let text = cloud_event.to_string().into_bytes();
    acme.post_bytes("/v1/events", "application/cloudevents+json", text).await.expect(202);
    assert_eq!(seen("ce").await, "rojo=1,quoted=a\"b");
    let wanted = json!({"url": receiver.url("/ce"), "org": "acme", "event_types": ["*"], "format": "cloudevents"});
    acme.webhook(&wanted).await;
    let event = json!({"id": "to-ce", "type": "a.b", "traceparent": trace, "tracestate": "rojo=1"});
    publish(&acme, &event, &[]).await;
    assert_eq!(receiver.wait_event("/ce", "to-ce").await.json()["tracestate"], "rojo=1");

    let form = json!({"max": 50, "wait_ms": 1_000});
    let pulled = acme.post("/v1/consumers/pulled/pull", &form).await.expect(200).json();
    let of = |id: &str| pulled["deliveries"].as_array().unwrap().iter().find(|one| one["event"]["id"] == id).cloned();
    assert_eq!(of("ce").unwrap()["event"]["tracestate"], "rojo=1,quoted=a\"b");
}
