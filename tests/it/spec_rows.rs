//! What the specification says of upstreams, idempotency, the catalog and bulk jobs, where no other file of the tests holds
//! it: presets by name, the adapter's context, series, keys on every write, modes of compatibility, cancelling.

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use reqwest::Method;
use serde_json::{Value, json};
use tidegate::ground::clock::{Clock as _, ManualClock};
use tidegate::hub::AdapterOptions;
use tidegate::upstream::call::{Attempts, Call, Payload, Reply as Replied};
use tidegate::upstream::{Adapter, AdapterContext, Answer, CallError};

use crate::bulk::{append, wait_import};
use crate::embed::{START, directory, open};
use crate::support::{Hub, Receiver, Reply, items, retry, sample, until};

fn exponential(retries: u64, base_ms: u64, cap_ms: u64, jitter: f64) -> Value {
    json!({"kind": "exponential", "attempts_max": retries + 1, "base_ms": base_ms, "multiplier": 2.0, "cap_ms": cap_ms,
        "jitter": jitter})
}

/// RTY-1, BRK-2, BRK-5, UPS-2.
#[tokio::test]
async fn every_preset_has_the_numbers_of_its_name() {
    let hub = Hub::start().await;
    let admin = hub.admin();
    let bridge = json!({"kind": "fixed", "attempts_max": 3, "delays_ms": [1_000, 2_000, 4_000], "jitter": 0.0});
    let presets = [
        ("sales", exponential(3, 1_000, 30_000, 0.1), [5, 2, 30_000, 60_000], Some((100, 10.0))),
        ("erp", exponential(5, 2_000, 60_000, 0.2), [3, 2, 45_000, 120_000], Some((50, 5.0))),
        ("esignature", exponential(3, 1_000, 30_000, 0.1), [5, 3, 60_000, 300_000], Some((20, 2.0))),
        ("communication", exponential(5, 500, 10_000, 0.15), [10, 3, 15_000, 30_000], None),
        ("bridge", bridge, [5, 1, 3_000, 300_000], None),
    ];
    for (name, retry, [failures, successes, call_timeout_ms, cooldown_ms], rate) in presets {
        let wanted = json!({"id": name, "base_url": "http://127.0.0.1:9", "preset": name});
        let made = admin.post("/v1/admin/upstreams", &wanted).await.expect(201).json();
        assert_eq!(made["retry"], retry, "{name}");
        let breaker = &made["breaker"];
        let told = ["failure_threshold", "success_threshold", "call_timeout_ms", "cooldown_ms"];
        assert_eq!(told.map(|one| breaker[one].as_u64().unwrap()), [failures, successes, call_timeout_ms, cooldown_ms]);
        assert_eq!(made["total_timeout_ms"], call_timeout_ms, "{name}: the time of a call is that of the breaker");
        match rate {
            Some((burst, per_second)) => {
                assert_eq!(made["rate_limit"], json!({"burst": burst, "per_second": per_second}), "{name}");
            }
            None => assert_eq!(made["rate_limit"], Value::Null, "{name}"),
        }
    }
    let bare = json!({"id": "bare", "base_url": "http://127.0.0.1:9"});
    let made = admin.post("/v1/admin/upstreams", &bare).await.expect(201).json();
    assert_eq!((&made["connect_timeout_ms"], &made["total_timeout_ms"]), (&json!(3_000), &json!(3_000)));
    for (name, burst, per_second) in [("sms", 50, 10.0), ("email", 100, 20.0)] {
        let changed = admin.patch("/v1/admin/upstreams/bare", &json!({"rate_limit": name})).await.expect(200).json();
        assert_eq!(changed["rate_limit"], json!({"burst": burst, "per_second": per_second}), "{name}");
    }
    let hours = [2, 5, 10, 14, 20, 24].map(|hours| hours * 3_600_000);
    let delays = [&[5_000, 300_000, 1_800_000][..], &hours].concat();
    for (name, policy) in [
        ("handler", exponential(2, 1_000, 60_000, 0.0)),
        ("webhook", json!({"kind": "fixed", "attempts_max": 10, "delays_ms": delays, "jitter": 0.2})),
    ] {
        let changed = admin.patch("/v1/admin/upstreams/bare", &json!({"retry": name})).await.expect(200).json();
        assert_eq!(changed["retry"], policy, "{name}");
    }
}

/// Notes what it is asked, in order.
struct Noting {
    notes: Arc<Mutex<Vec<String>>>,
    seen: Arc<Mutex<Vec<AdapterContext>>>,
}

impl Adapter for Noting {
    fn id(&self) -> &str {
        "noting"
    }

    fn version(&self) -> &str {
        "2.3.4"
    }

    fn validate(&self, call: &Call, _: &AdapterContext) -> Result<(), CallError> {
        self.notes.lock().push(format!("validate {}", call.operation));
        if call.operation == "bad" { Err(CallError::validation("not this")) } else { Ok(()) }
    }

    fn execute<'a>(&'a self, call: &'a Call, context: &'a AdapterContext) -> BoxFuture<'a, Result<Replied, CallError>> {
        async move {
            self.notes.lock().push(format!("execute {}", call.operation));
            self.seen.lock().push(context.clone());
            Ok(Replied::json(200, &json!({"raw": 7})))
        }
        .boxed()
    }

    fn transform(&self, call: &Call, reply: Replied, _: &AdapterContext) -> Result<Answer, CallError> {
        self.notes.lock().push(format!("transform {}", call.operation));
        let mut answer = reply.read(call)?;
        answer.body = json!({"doubled": answer.body["raw"].as_u64().unwrap_or_default() * 2});
        Ok(answer)
    }

    fn health_check<'a>(&'a self, _: &'a AdapterContext) -> BoxFuture<'a, Result<(), CallError>> {
        async move {
            self.notes.lock().push("health".to_owned());
            Ok(())
        }
        .boxed()
    }
}

/// UPS-1, UPS-7.
#[tokio::test]
async fn an_adapter_is_asked_in_order_knows_the_whole_context_and_makes_its_own_answer() {
    let (dir, clock) = (directory(), ManualClock::starting_at(START));
    let hub = open(dir.path(), clock.clone(), |_| {}).await;
    let (notes, seen) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
    let adapter = Noting { notes: Arc::clone(&notes), seen: Arc::clone(&seen) };
    hub.register_adapter(adapter, AdapterOptions::preset("bridge").unwrap()).unwrap();
    let mut context = AdapterContext::new(Some("acme"), clock.now());
    context.correlation_id = "order-17".to_owned();
    context.user = Some("key:key_1".to_owned());
    context.metadata.insert("reason".to_owned(), "a test".to_owned());
    let call = |operation: &str| Call {
        operation: operation.into(),
        payload: Payload::Json(json!({})),
        attempts: Attempts::Once,
        ..Call::default()
    };
    let answer = hub.call_upstream("noting", call("do"), context.clone()).await.unwrap();
    assert_eq!(answer.body, json!({"doubled": 14}));
    assert_eq!(*notes.lock(), ["validate do", "execute do", "transform do"]);
    assert_eq!(*seen.lock(), std::slice::from_ref(&context), "what was given, and no attempt before it");
    notes.lock().clear();
    let mut nameless = context.clone();
    nameless.correlation_id = String::new();
    hub.call_upstream("noting", call("do"), nameless).await.unwrap();
    assert!(!seen.lock()[1].correlation_id.is_empty(), "one is made where none is given");
    notes.lock().clear();
    hub.call_upstream("noting", call("bad"), context).await.unwrap_err();
    assert_eq!(*notes.lock(), ["validate bad"], "what does not fit is not sent");
    notes.lock().clear();
    let report = hub.test_upstream("noting", Some("acme")).await.unwrap();
    assert_eq!((report.id.as_str(), notes.lock().clone()), ("noting", vec!["health".to_owned()]));
    hub.stop().await;
}

/// OBS-1: names, labels, buckets, and the three states of a breaker.
#[tokio::test]
async fn the_series_of_an_upstream_are_those_of_the_contract() {
    let (hub, receiver) = (Hub::start().await, Receiver::start());
    let admin = hub.admin();
    let upstream = json!({"id": "crm", "org": "acme", "base_url": receiver.url(""), "retry": retry(&[]),
        "breaker": {"failure_threshold": 1, "cooldown_ms": 1}, "total_timeout_ms": 60_000,
        "reads": {"it": {"path": "/it", "cache_ms": 0}}});
    admin.post("/v1/admin/upstreams", &upstream).await.expect(201);
    let acme = hub.acme().await;
    let ok = || Reply::With(200, Vec::new(), b"{\"a\":1}".to_vec());
    receiver.script("/it", [ok(), Reply::Status(500), Reply::HoldJson(json!({"a": 2}))]);
    let read = "/v1/upstreams/crm/reads/it";
    let state = async || {
        let metrics = admin.get("/metrics").await.expect(200).text;
        sample(&metrics, "integration_circuit_breaker_state", &["adapter_id=\"crm\""])
    };
    acme.get(read).await.expect(200);
    assert_eq!(state().await, Some(0.0), "closed");
    acme.get(read).await.expect(503);
    assert_eq!(state().await, Some(2.0), "open");
    // The probe is out, and nothing else is let through.
    let asking = acme.clone();
    let probe = tokio::spawn(async move {
        until("a probe is let through", || async {
            let answer = asking.get(read).await;
            (answer.status == 200).then_some(())
        })
        .await;
    });
    receiver.wait_for("/it", 3).await;
    until("it is half open", || async { (state().await == Some(1.0)).then_some(()) }).await;
    receiver.release();
    probe.await.unwrap();
    until("it is closed", || async { (state().await == Some(0.0)).then_some(()) }).await;

    let metrics = admin.get("/metrics").await.expect(200).text;
    let of = |name: &str| metrics.lines().filter(|line| line.starts_with(name)).collect::<Vec<_>>();
    let buckets: Vec<&str> = of("integration_request_duration_seconds_bucket{")
        .iter()
        .map(|line| line.split("le=\"").nth(1).unwrap().split('"').next().unwrap())
        .collect();
    assert_eq!(buckets, ["0.1", "0.5", "1", "2", "5", "10", "30", "+Inf"]);
    for (name, kind, labels) in [
        ("integration_requests_total", "counter", &["adapter_id", "status"][..]),
        ("integration_request_duration_seconds", "histogram", &["adapter_id"]),
        ("integration_errors_total", "counter", &["adapter_id", "error_type"]),
        ("integration_circuit_breaker_state", "gauge", &["adapter_id"]),
        ("integration_retries_total", "counter", &["adapter_id"]),
    ] {
        assert!(metrics.contains(&format!("# TYPE {name} {kind}\n")), "{name} is a {kind}");
        let series = of(name);
        assert!(!series.is_empty(), "{name} is there");
        for line in series {
            let inner = line.split(['{', '}']).nth(1).unwrap();
            let mut names: Vec<&str> = inner.split(',').map(|label| label.split('=').next().unwrap()).collect();
            names.retain(|name| *name != "le");
            assert_eq!(names, labels, "{line}");
        }
    }
    for name in [
        "contact_success_total",
        "contact_fallback_total",
        "cache_hit_total",
        "cache_stale_total",
        "publish_success_total",
        "publish_deferred_total",
        "permanent_failure_total",
        "retry_attempts_total",
        "retry_depth_max",
        "dead_letters",
        "circuit_state",
    ] {
        assert!(metrics.contains(&format!("# TYPE integration_bridge_{name} ")), "{name}");
    }
}

/// IDM-1: every operation that writes takes a key, or its description says why it does not.
#[tokio::test]
async fn every_operation_that_writes_is_done_once_under_a_key() {
    let hub = Hub::start_with(&[("FAULTS__ENABLED", "true")]).await;
    let (admin, acme) = (hub.admin(), hub.acme().await);
    let (mut once, mut others) = (0, Vec::new());
    for (listener, api) in [("admin", &admin), ("public", &acme)] {
        let document = api.get("/v1/openapi.json").await.expect(200).json();
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                if !["post", "put", "patch", "delete"].contains(&method.as_str()) {
                    continue;
                }
                let described = operation["description"].as_str().unwrap_or_default();
                let takes = operation["parameters"].to_string().contains("IdempotencyKey");
                if !takes {
                    assert!(described.contains("An Idempotency-Key is "), "{method} {path} says nothing of keys");
                    others.push(format!("{method} {path}"));
                    continue;
                }
                // Nothing of this name is there, so most are refused: that, too, is an answer that is kept.
                let mut at = path.clone();
                while let (Some(from), Some(to)) = (at.find('{'), at.find('}')) {
                    at.replace_range(from..=to, "none");
                }
                let key = format!("{listener}-{method}-{path}");
                let send = async |body: &str| {
                    let headers = [("idempotency-key", key.as_str()), ("content-type", "application/json")];
                    let method: Method = method.to_uppercase().parse().unwrap();
                    api.try_send(method, &at, &headers, Some(body.as_bytes().to_vec())).await.unwrap()
                };
                let first = send("{\"colour\":1}").await;
                if [401, 403, 408, 429].contains(&first.status) || first.status >= 500 {
                    panic!("{method} {at}: {} {}", first.status, first.text);
                }
                assert_eq!(first.header("idempotency-replayed"), None, "{method} {at}");
                let again = send("{\"colour\":1}").await;
                assert_eq!(again.header("idempotency-replayed"), Some("true"), "{method} {at}: {}", again.text);
                assert_eq!((again.status, &again.text), (first.status, &first.text), "{method} {at}");
                send("{\"colour\":2}").await.expect_problem(422, "idempotency-mismatch");
                once += 1;
            }
        }
    }
    assert!(once > 80, "{once} operations take a key");
    others.sort();
    others.dedup();
    let wanted = [
        "patch /v1/imports/{id}/content",
        "post /v1/consumers/{name}/pull",
        "post /v1/events/stream",
        "post /v1/sources/{name}",
    ];
    assert_eq!(others, wanted, "and no others do not");
}

/// CAT-2: each mode refuses what it is there to refuse, and names it.
#[tokio::test]
async fn each_mode_of_compatibility_refuses_its_own_changes() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let schema = |required: &[&str], note: Value| json!({"type": "object", "required": required, "properties": {"n": {"type": "integer"}, "note": note}});
    let text = json!({"type": "string"});
    let first = schema(&["n"], text.clone());
    // What newly written data need not have, old readers miss; what it must have, old data lacks.
    let drops_required = schema(&[], text.clone());
    let adds_required = schema(&["n", "note"], text);
    for (mode, dropped, added) in
        [("none", 200, 200), ("backward", 200, 409), ("forward", 409, 200), ("full", 409, 409)]
    {
        let path = format!("/v1/catalog/types/of.{mode}");
        acme.put(&path, &json!({"compatibility": mode})).await.expect(201);
        acme.post(&format!("{path}/versions"), &json!({"schema": first})).await.expect(201);
        for (schema, status, field) in [(&drops_required, dropped, "`n`"), (&adds_required, added, "`note`")] {
            let tried = acme.post(&format!("{path}/versions?dry_run=true"), &json!({"schema": schema})).await;
            let told = tried.expect(status);
            if status == 409 {
                let change = &told.json()["changes"][0];
                assert!(change["reason"].as_str().unwrap_or_default().contains(field), "{mode}: {}", told.text);
                assert_eq!(change["pointer"], "/required", "{mode}: {}", told.text);
            }
        }
    }
    let refused = acme.put("/v1/catalog/types/of.other", &json!({"compatibility": "sideways"})).await;
    assert_eq!(refused.expect_problem(400, "invalid-field").json()["field"], "compatibility");
}

/// BLK-2: an import that runs tells how far it is and ends when it is told to; what it has appended stays.
#[tokio::test]
async fn an_import_that_runs_is_watched_and_cancelled_and_what_it_appended_stays() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let content: Vec<u8> =
        (0..50_000).flat_map(|n| format!("{{\"id\":\"i-{n}\",\"type\":\"a.b\"}}\n").into_bytes()).collect();
    let made = acme.post("/v1/imports", &json!({"rate": 100})).await.expect(201).json();
    let id = made["id"].as_str().unwrap().to_owned();
    append(&acme, &id, 0, content).await.expect(200);
    let job = acme.post(&format!("/v1/imports/{id}/commit"), &json!({})).await.expect(202).json();
    let job = format!("/v1/jobs/{}", job["job"].as_str().unwrap());
    // Live events are taken beside it.
    until("it has begun", || async {
        let shown = acme.get(&format!("/v1/imports/{id}")).await.expect(200).json();
        (shown["accepted"].as_u64() > Some(0)).then_some(())
    })
    .await;
    acme.publish(&json!({"id": "live", "type": "live.event"})).await;
    let progress = acme.get(&job).await.expect(200).json();
    assert_eq!((&progress["state"], &progress["kind"]), (&json!("running"), &json!("import")), "{progress}");
    assert_eq!(acme.act(&format!("{job}/cancel")).await.expect(200).json()["state"], "cancelled");
    let ended = wait_import(&acme, &id).await;
    assert_eq!(ended["state"], "cancelled", "{ended}");
    let taken = ended["accepted"].as_u64().unwrap();
    assert!((1..50_000).contains(&taken), "{ended}");
    acme.get("/v1/events/i-0").await.expect(200);
    acme.get("/v1/events/i-49999").await.expect(404);
    acme.act(&format!("{job}/cancel")).await.expect_problem(409, "conflict");
    let listed = acme.get("/v1/imports").await.expect(200).json();
    assert_eq!(items(&listed)[0]["state"], "cancelled", "{listed}");
}

/// BLK-2: an import takes what live traffic leaves. With a queue that two of its batches would fill, no live event of the
/// same org is told to come back, and they come into the log among the imported ones.
#[tokio::test]
async fn an_import_at_full_speed_leaves_room_for_the_live_events_of_its_org() {
    const LINES: u64 = 3_000;
    let settings = [("LIMITS__BATCH_BYTES_MAX", "1048576"), ("LOG__INGEST_QUEUE_BYTES", "1048576")];
    let hub = Hub::start_with(&settings).await;
    let key = hub.key(&["publish", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key).pooled();
    let line = |n| format!("{{\"id\":\"i-{n}\",\"type\":\"a.b\",\"data\":\"{}\"}}\n", "x".repeat(1_000));
    let made = acme.post("/v1/imports", &json!({})).await.expect(201).json();
    let id = made["id"].as_str().unwrap().to_owned();
    append(&acme, &id, 0, (0..LINES).map(line).collect::<String>().into_bytes()).await.expect(200);

    let ended = std::sync::atomic::AtomicBool::new(false);
    let live = |producer: u64| {
        let (acme, ended) = (&acme, &ended);
        async move {
            let mut places = Vec::new();
            while !ended.load(std::sync::atomic::Ordering::SeqCst) {
                let n = places.len();
                let event =
                    json!({"id": format!("l-{producer}-{n}"), "type": "live.event", "data": "y".repeat(80_000)});
                let receipt = acme.post("/v1/events", &event).await.expect(202).json();
                places.push(receipt["seq"].as_u64().unwrap());
            }
            places
        }
    };
    let importing = async {
        acme.post(&format!("/v1/imports/{id}/commit"), &json!({})).await.expect(202);
        let import = wait_import(&acme, &id).await;
        ended.store(true, std::sync::atomic::Ordering::SeqCst);
        import
    };
    let (import, live) = tokio::join!(importing, futures_util::future::join_all((0..4).map(live)));
    assert_eq!((&import["state"], &import["accepted"]), (&json!("done"), &json!(LINES)), "{import}");
    let place_of = async |n: u64| {
        let event = acme.get(&format!("/v1/events/i-{n}")).await.expect(200).json();
        event["seq"].as_u64().unwrap()
    };
    let (first, last) = (place_of(0).await, place_of(LINES - 1).await);
    let among = live.iter().flatten().filter(|place| (first..last).contains(*place)).count();
    assert!(among > 0, "of {} live events none came in between {first} and {last}", live.iter().flatten().count());
}
