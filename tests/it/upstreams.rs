//! Upstreams through the public surface: declared, called, read, cached, checked, rotated; against a stand-in that misbehaves
//! on cue (UPS-1..4, UPS-7, UPS-9, OBS-1, OBS-2, OBS-3).

use serde_json::{Value, json};

use crate::support::{Api, Hub, Receiver, Reply, retry, sample, until};

const TOKEN: &str = "crm-token-4711-0815";
const DEBUG: (&str, &str) = ("LOGGING__LEVEL", "info,tidegate::upstream=debug");

pub(crate) fn answer(status: u16, body: &Value) -> Reply {
    Reply::With(status, vec![("content-type", "application/json".to_owned())], body.to_string().into_bytes())
}

fn raw(status: u16, body: &str) -> Reply {
    Reply::With(status, Vec::new(), body.as_bytes().to_vec())
}

/// The customer bridge of org `acme`, with one attempt a call and answers that are old at once.
fn crm(receiver: &Receiver) -> Value {
    json!({
        "id": "crm",
        "org": "acme",
        "base_url": receiver.url("/base/"),
        "preset": "bridge",
        "retry": retry(&[]),
        "auth": {"kind": "bearer", "token": TOKEN},
        "health_path": "/health",
        "reads": {
            "contact": {
                "path": "/api/v1/contacts/{externalId}",
                "fields": ["legalName", "email", "phone", "address", "kvkNumber"],
            },
            "fleeting": {"path": "/api/v1/contacts/{externalId}", "fields": ["legalName"], "cache_ms": 1},
            "plain": {"path": "/plain/{id}", "query": {"view": "{view}", "fixed": "a b"}, "cache_ms": 0},
            "history": {
                "path": "/api/v1/contacts/{id}/klantbeeld",
                "page": {"items": "/transactions", "total": "/total", "shape": {
                    "transactions": "items", "limit": "limit", "offset": "offset", "unavailable": "unavailable",
                }},
            },
            "pages": {"path": "/list", "page": {"items": ""}},
        },
    })
}

async fn declare(hub: &Hub, upstream: &Value) -> Value {
    hub.admin().post("/v1/admin/upstreams", upstream).await.expect(201).json()
}

async fn metric(hub: &Hub, name: &str, labels: &[&str]) -> f64 {
    let metrics = hub.admin().get("/metrics").await.expect(200).text;
    sample(&metrics, name, labels).unwrap_or_else(|| panic!("{name} {labels:?} in\n{metrics}"))
}

/// The lines of the log with this text, once there is one.
async fn lines(hub: &Hub, text: &str) -> Vec<Value> {
    so_many_lines(hub, text, 1).await
}

/// The lines of the log with this text, once there are so many.
async fn so_many_lines(hub: &Hub, text: &str, count: usize) -> Vec<Value> {
    until(&format!("the log says {text:?}"), || async {
        let found: Vec<Value> = hub
            .log()
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|line| line.to_string().contains(text))
            .collect();
        (found.len() >= count).then_some(found)
    })
    .await
}

fn field<'a>(line: &'a Value, name: &str) -> &'a Value {
    crate::support::find(line, name).unwrap_or_else(|| panic!("{name} in {line}"))
}

#[tokio::test]
async fn a_contact_is_read_once_and_then_from_the_cache_also_when_there_is_none() {
    let receiver = Receiver::start();
    let hub = Hub::start_with(&[DEBUG]).await;
    declare(&hub, &crm(&receiver)).await;
    let acme = hub.acme().await;
    let said = json!({"legalName": "Bakker B.V.", "email": "info@bakker.example", "phone": null, "other": 1});
    receiver.always("/base/api/v1/contacts/c%2F1", answer(200, &said));
    receiver.always("/base/api/v1/contacts/none", Reply::Status(404));
    receiver.always("/base/api/v1/contacts/torn", raw(200, "{\"legalName\": \"Bak"));
    receiver.always("/base/api/v1/contacts/list", answer(200, &json!(["Bakker"])));

    let read = "/v1/upstreams/crm/reads/contact?externalId=";
    let wanted = json!({
        "legalName": "Bakker B.V.", "email": "info@bakker.example", "phone": "", "address": "", "kvkNumber": "",
        "found": true, "stale": false,
    });
    for _ in 0..3 {
        assert_eq!(acme.get(&format!("{read}c%2F1")).await.expect(200).json(), wanted);
    }
    let asked = receiver.on("/base/api/v1/contacts/c%2F1");
    assert_eq!(asked.len(), 1, "the others came from the cache");
    assert_eq!((asked[0].method.as_str(), asked[0].header("authorization")), ("GET", &*format!("Bearer {TOKEN}")));
    assert!(asked[0].header("x-correlation-id").starts_with("cor_"), "{:?}", asked[0].headers);

    for id in ["none", "none", "torn", "torn", "list"] {
        let told = acme.get(&format!("{read}{id}")).await.expect(200).json();
        assert_eq!(
            (&told["found"], &told["legalName"], &told["stale"]),
            (&json!(false), &json!(""), &json!(false)),
            "{id}"
        );
    }
    assert_eq!(receiver.on("/base/api/v1/contacts/none").len(), 1, "that there is none is kept");
    assert_eq!(receiver.on("/base/api/v1/contacts/torn").len(), 2, "what makes no sense is not");

    let crm = r#"adapter_id="crm""#;
    assert_eq!(metric(&hub, "integration_bridge_contact_success_total", &[crm]).await, 1.0);
    assert_eq!(metric(&hub, "integration_bridge_cache_hit_total", &[crm]).await, 3.0);
    let fallback = "integration_bridge_contact_fallback_total";
    assert_eq!(metric(&hub, fallback, &[crm, r#"reason="not_found""#]).await, 1.0);
    assert_eq!(metric(&hub, fallback, &[crm, r#"reason="malformed""#]).await, 3.0);
    assert_eq!(metric(&hub, "integration_requests_total", &[crm, r#"status="success""#]).await, 2.0);
    assert_eq!(metric(&hub, "integration_errors_total", &[crm, r#"error_type="not_found""#]).await, 1.0);
    assert_eq!(metric(&hub, "integration_request_duration_seconds_count", &[crm]).await, 5.0);

    let hit = lines(&hub, "the cache has answered a read").await.remove(0);
    assert_eq!((field(&hit, "level"), field(&hit, "external_id")), (&json!("DEBUG"), &json!("c/1")));
    let answered = lines(&hub, "an upstream has answered").await.remove(0);
    assert_eq!((field(&answered, "level"), field(&answered, "status")), (&json!("DEBUG"), &json!(200)));
    assert_eq!(field(&answered, "host_path"), &json!(format!("{}/base/api/v1/contacts/c%2F1", receiver.address())));
    let malformed = so_many_lines(&hub, "an upstream's answer is malformed", 3).await;
    assert!(malformed.iter().all(|line| field(line, "level") == "WARN"), "{malformed:?}");
    assert_eq!(malformed.len(), 3, "one for each answer");

    let cleared = hub.admin().act("/v1/admin/upstreams/crm/clear-cache").await.expect(200).json();
    assert_eq!(cleared, json!({"id": "crm", "cleared": 2}));
    acme.get(&format!("{read}c%2F1")).await.expect(200);
    assert_eq!(receiver.on("/base/api/v1/contacts/c%2F1").len(), 2);
    hub.admin().act("/v1/admin/upstreams/crm/reset-counters").await.expect(200);
    assert_eq!(metric(&hub, "integration_bridge_contact_success_total", &[crm]).await, 0.0);
    assert_eq!(metric(&hub, fallback, &[crm, r#"reason="malformed""#]).await, 0.0);
    assert_eq!(metric(&hub, "integration_requests_total", &[crm, r#"status="success""#]).await, 3.0);
}

#[tokio::test]
async fn an_old_answer_serves_while_the_upstream_is_down_and_the_breaker_outlives_a_restart() {
    let receiver = Receiver::start();
    let mut hub = Hub::start_with(&[DEBUG]).await;
    let mut wanted = crm(&receiver);
    wanted["breaker"] = json!({"preset": "bridge", "failure_threshold": 3});
    declare(&hub, &wanted).await;
    let key = hub.key(&["read"], Some("acme")).await;
    let path = "/base/api/v1/contacts/c-1";
    receiver.script(path, [answer(200, &json!({"legalName": "Bakker"}))]);
    receiver.always(path, raw(503, &format!("overloaded; you sent {TOKEN} {}", "x".repeat(2_000))));
    let read = "/v1/upstreams/crm/reads/fleeting?externalId=c-1";
    let fresh = hub.public(&key).get(read).await.expect(200).json();
    assert_eq!(fresh, json!({"legalName": "Bakker", "found": true, "stale": false}));
    until("the answer is old", || async {
        (receiver.on(path).len() > 1 || hub.public(&key).get(read).await.json()["stale"] == true).then_some(())
    })
    .await;
    while receiver.on(path).len() < 4 {
        let stale = hub.public(&key).get(read).await.expect(200).json();
        assert_eq!(stale, json!({"legalName": "Bakker", "found": true, "stale": true}));
    }
    // Open now: nothing is asked any more, and the old answer still serves.
    let crm = r#"adapter_id="crm""#;
    until("the breaker is open", || async {
        (metric(&hub, "integration_circuit_breaker_state", &[crm]).await == 2.0).then_some(())
    })
    .await;
    assert_eq!(hub.public(&key).get(read).await.expect(200).json()["stale"], true);
    assert_eq!(receiver.on(path).len(), 4);
    assert_eq!(metric(&hub, "integration_bridge_circuit_state", &[crm]).await, 2.0);
    assert!(metric(&hub, "integration_bridge_cache_stale_total", &[crm]).await >= 4.0);
    assert_eq!(metric(&hub, "integration_errors_total", &[crm, r#"error_type="transient""#]).await, 3.0);
    let nothing = hub.public(&key).get("/v1/upstreams/crm/reads/fleeting?externalId=other").await;
    let nothing = nothing.expect_problem(503, "upstream-unavailable");
    assert!(nothing.header("retry-after").is_some(), "{nothing:?}");
    assert_eq!(nothing.json()["error_type"], "circuit_open");

    let moved = lines(&hub, "breaker changed state").await.remove(0);
    assert_eq!((field(&moved, "level"), field(&moved, "breaker")), (&json!("WARN"), &json!("crm")));
    assert_eq!((field(&moved, "from"), field(&moved, "to")), (&json!("closed"), &json!("open")));
    let failed = lines(&hub, "an attempt at an upstream has failed").await.remove(0);
    assert_eq!((field(&failed, "level"), field(&failed, "transient")), (&json!("WARN"), &json!(true)));
    assert_eq!((field(&failed, "status"), field(&failed, "attempt")), (&json!(503), &json!(1)));
    let body = field(&failed, "body").as_str().unwrap();
    assert!(body.starts_with("overloaded; you sent *** xxx") && body.chars().count() == 500, "{body}");
    let stale = lines(&hub, "an old answer was served").await.remove(0);
    assert_eq!(field(&stale, "level"), "WARN");

    hub.kill();
    hub.restart().await;
    until("the breaker is still open", || async {
        (metric(&hub, "integration_circuit_breaker_state", &[crm]).await == 2.0).then_some(())
    })
    .await;
    let shown = hub.admin().get("/v1/admin/upstreams/crm").await.expect(200).json();
    assert_eq!((&shown["circuit"], &shown["status"]), (&json!("open"), &json!("fail")));
    hub.public(&key).get(read).await.expect_problem(503, "upstream-unavailable");
    assert_eq!(receiver.on(path).len(), 4);
    hub.admin().act("/v1/admin/breakers/crm/reset").await.expect(200);
    receiver.always(path, answer(200, &json!({"legalName": "Smid"})));
    assert_eq!(hub.public(&key).get(read).await.expect(200).json()["legalName"], "Smid");
    assert_eq!(metric(&hub, "integration_circuit_breaker_state", &[crm]).await, 0.0);
}

#[tokio::test]
async fn a_page_is_always_answered_and_its_bounds_hold_whatever_is_asked() {
    let receiver = Receiver::start();
    let hub = Hub::start().await;
    declare(&hub, &crm(&receiver)).await;
    let acme = hub.acme().await;
    let read = "/v1/upstreams/crm/reads/history?id=7";
    let path = |limit: u64, offset: u64| format!("/base/api/v1/contacts/7/klantbeeld?limit={limit}&offset={offset}");
    receiver.always(&path(100, 0), answer(200, &json!({"transactions": [{"n": 1}], "total": 1})));
    for query in ["&limit=1000", "&limit=100&offset=-3", "&limit=100&offset=x"] {
        let told = acme.get(&format!("{read}{query}")).await.expect(200).json();
        assert_eq!(
            told,
            json!({"transactions": [{"n": 1}], "limit": 100, "offset": 0, "unavailable": false}),
            "{query}"
        );
    }
    for (query, limit, offset) in
        [("&limit=0", 1, 0), ("&limit=-5&offset=3", 1, 3), ("", 20, 0), ("&limit=&offset=", 20, 0)]
    {
        let told = acme.get(&format!("{read}{query}")).await.expect(200).json();
        assert_eq!((&told["limit"], &told["offset"]), (&json!(limit), &json!(offset)), "{query}");
        receiver.wait_for(&path(limit, offset), 1).await;
    }
    let unavailable = json!({"transactions": [], "limit": 7, "offset": 0, "unavailable": true});
    let shut = || async { hub.admin().act("/v1/admin/breakers/crm/reset").await.expect(200) };
    let torn = raw(200, "[1");
    for reply in [Reply::Status(500), Reply::Status(401), Reply::Status(400), Reply::Reset, torn, raw(302, "")] {
        receiver.script(&path(7, 0), [reply.clone()]);
        assert_eq!(acme.get(&format!("{read}&limit=7")).await.expect(200).json(), unavailable, "{reply:?}");
        shut().await;
    }
    receiver.script(&path(7, 0), [Reply::Status(404)]);
    assert_eq!(acme.get(&format!("{read}&limit=7")).await.expect(200).json()["unavailable"], false, "it has none");
    hub.admin().act("/v1/admin/breakers/crm/open").await.expect(200);
    assert_eq!(acme.get(&format!("{read}&limit=7")).await.expect(200).json(), unavailable, "the breaker is open");
    shut().await;

    receiver.always("/base/list?limit=2&offset=0", answer(200, &json!([1, 2])));
    let told = acme.get("/v1/upstreams/crm/reads/pages?limit=2").await.expect(200).json();
    assert_eq!(told, json!({"available": true, "items": [1, 2], "total": null, "next": 2}));
    let reasons = metric(&hub, "integration_bridge_contact_fallback_total", &[r#"reason="unavailable""#]).await;
    assert_eq!(reasons, 6.0, "five that failed and one that was not asked");
}

#[tokio::test]
async fn those_who_ask_at_once_for_the_same_thing_cause_one_call() {
    let receiver = Receiver::start();
    let hub = Hub::start().await;
    declare(&hub, &crm(&receiver)).await;
    let acme = hub.acme().await;
    let path = "/base/api/v1/contacts/c-1";
    receiver.always(path, Reply::HoldJson(json!({"legalName": "Bakker"})));
    let ask = || {
        let acme = acme.clone();
        tokio::spawn(async move { acme.get("/v1/upstreams/crm/reads/contact?externalId=c-1").await })
    };
    let first = ask();
    receiver.wait_for(path, 1).await;
    let others: Vec<_> = (0..8).map(|_| ask()).collect();
    until("nine requests are being answered, and this one", || async {
        let health = hub.admin().get("/v1/admin/health").await.expect(200).json();
        (health["requests_in_flight"].as_u64() >= Some(10)).then_some(())
    })
    .await;
    receiver.release();
    for one in others.into_iter().chain([first]) {
        assert_eq!(one.await.unwrap().expect(200).json()["legalName"], "Bakker");
    }
    assert_eq!(receiver.on(path).len(), 1);
}

#[tokio::test]
async fn the_test_action_says_whether_it_is_there_and_takes_the_credential() {
    let receiver = Receiver::start();
    let hub = Hub::start_with(&[DEBUG]).await;
    declare(&hub, &crm(&receiver)).await;
    let admin = hub.admin();
    let test = || async { admin.act("/v1/admin/upstreams/crm/test").await.expect(200).json() };
    receiver.script("/base/health", [Reply::Status(200), Reply::Status(401), Reply::Status(503), Reply::Reset]);
    let mut told = Vec::new();
    for wanted in [("pass", "reachable"), ("fail", "auth_rejected"), ("fail", "down"), ("fail", "down")] {
        let report = test().await;
        assert_eq!((report["status"].as_str().unwrap(), report["outcome"].as_str().unwrap()), wanted, "{report}");
        assert!(report["latency_ms"].is_u64() && report["checked_at"].is_string(), "{report}");
        told.push(report.to_string());
    }
    assert_eq!(receiver.on("/base/health")[0].header("authorization"), format!("Bearer {TOKEN}"));
    assert!(!told.concat().contains(TOKEN));

    let mut bare = json!({"id": "erp", "base_url": receiver.url(""), "retry": retry(&[])});
    declare(&hub, &bare).await;
    receiver.always("/", Reply::Status(404));
    bare["id"] = json!("gone");
    bare["base_url"] = json!("http://127.0.0.1:1");
    declare(&hub, &bare).await;
    receiver.always("/base/health", Reply::Status(204));
    let health = admin.get("/v1/admin/upstreams/health").await.expect(200).json();
    let grades: Vec<_> = health["items"].as_array().unwrap().iter().map(|one| (&one["id"], &one["status"])).collect();
    let [crm, erp, gone, pass, fail] = ["crm", "erp", "gone", "pass", "fail"].map(|word| json!(word));
    assert_eq!(
        grades,
        [(&crm, &pass), (&erp, &pass), (&gone, &fail)],
        "a base URL that has nothing is there all the same"
    );
    assert_eq!(health["status"], "degraded");
    admin.act("/v1/admin/breakers/erp/open").await.expect(200);
    admin.delete("/v1/admin/upstreams/gone").await.expect(204);
    let health = admin.get("/v1/admin/upstreams/health").await.expect(200).json();
    assert_eq!((&health["status"], &health["items"][1]["status"]), (&json!("degraded"), &json!("warn")));
    let detail = admin.get("/v1/admin/health").await.expect(200).json();
    let component = detail["components"].as_array().unwrap().iter().find(|one| one["name"] == "upstreams").unwrap();
    assert_eq!((&component["ok"], detail["status"].as_str()), (&json!(true), Some("ok")));
    assert_eq!(component["detail"], "degraded: 1 pass, 0 warn, 1 fail");
    assert_eq!(admin.get("/readyz").await.status, 200, "a system that is down makes no hub unready");
}

#[tokio::test]
async fn a_refused_credential_is_an_error_that_is_not_tried_again() {
    let receiver = Receiver::start();
    let hub = Hub::start_with(&[DEBUG]).await;
    let mut wanted = crm(&receiver);
    wanted["retry"] = json!("bridge");
    declare(&hub, &wanted).await;
    let acme = hub.acme().await;
    receiver.always("/base/api/v1/contacts/c-1", Reply::Status(401));
    let answer = acme.get("/v1/upstreams/crm/reads/contact?externalId=c-1").await;
    let answer = answer.expect_problem(502, "upstream-failed");
    assert_eq!((answer.json()["error_type"].as_str(), answer.json()["upstream"].as_str()), (Some("auth"), Some("crm")));
    assert_eq!(receiver.on("/base/api/v1/contacts/c-1").len(), 1);
    let line = lines(&hub, "an upstream does not take the credential").await.remove(0);
    assert_eq!((field(&line, "level"), field(&line, "transient")), (&json!("ERROR"), &json!(false)));
    assert_eq!((field(&line, "app"), field(&line, "status")), (&json!("crm"), &json!(401)));
    let labels = [r#"adapter_id="crm""#, r#"reason="auth""#];
    assert_eq!(metric(&hub, "integration_bridge_permanent_failure_total", &labels).await, 1.0);
}

#[tokio::test]
async fn a_call_is_tried_as_often_as_its_policy_says_and_what_uses_that_up_is_an_error() {
    let receiver = Receiver::start();
    let hub = Hub::start_with(&[DEBUG]).await;
    let mut wanted = crm(&receiver);
    wanted["retry"] = retry(&[1, 1]);
    declare(&hub, &wanted).await;
    let acme = hub.acme().await;
    receiver.always("/base/api/v1/contacts/c-1", Reply::Status(500));
    let read = "/v1/upstreams/crm/reads/contact?externalId=c-1";
    acme.get(read).await.expect_problem(503, "upstream-unavailable");
    assert_eq!(receiver.on("/base/api/v1/contacts/c-1").len(), 3);
    let failed = so_many_lines(&hub, "an attempt at an upstream has failed", 3).await;
    let attempts: Vec<_> = failed.iter().map(|line| field(line, "attempt").clone()).collect();
    assert_eq!(attempts, [1, 2, 3]);
    let last = lines(&hub, "the retries at an upstream are used up").await.remove(0);
    assert_eq!((field(&last, "level"), field(&last, "attempt")), (&json!("ERROR"), &json!(3)));
    assert_eq!(metric(&hub, "integration_retries_total", &[r#"adapter_id="crm""#]).await, 2.0);
}

#[tokio::test]
async fn every_kind_of_credential_is_sent_and_each_tenant_has_its_own() {
    let receiver = Receiver::start();
    let mut hub = Hub::stopped(&[]);
    hub.set("CRM_KEY", "key-of-the-environment-1");
    hub.restart().await;
    let file = hub.data_dir().join("crm.secret");
    std::fs::write(&file, "file-token-1\n").unwrap();
    let token = json!({"access_token": "granted-1", "token_type": "bearer", "expires_in": 3600});
    receiver.always("/token", answer(200, &token));
    receiver.answer("/x", |one| answer(200, &json!({"auth": one.header("authorization"), "key": one.header("x-key")})));
    let read = json!({"it": {"path": "/x", "cache_ms": 0}});
    let shared = json!({"id": "shared", "base_url": receiver.url(""), "reads": read, "auth": {"kind": "basic", "username": "hub", "password": "open sesame"}});
    declare(&hub, &shared).await;
    let admin = hub.admin();
    let rotate = |org: &'static str, auth: Value| {
        let admin = admin.clone();
        async move {
            let body = json!({"org": org, "auth": auth});
            admin.post("/v1/admin/upstreams/shared/rotate-credential", &body).await.expect(200).json()
        }
    };
    rotate("acme", json!({"kind": "bearer", "token": {"file": file}})).await;
    rotate(
        "globex",
        json!({"kind": "oauth2", "token_url": receiver.url("/token"), "client_id": "hub", "client_secret": "s-1"}),
    )
    .await;
    let shown = rotate("umbrella", json!({"kind": "header", "name": "X-Key", "value": {"env": "CRM_KEY"}})).await;
    assert_eq!(
        shown["tenant_auth"]["umbrella"],
        json!({"kind": "header", "name": "x-key", "source": {"env": "CRM_KEY"}})
    );
    assert_eq!(shown["auth"], json!({"kind": "basic", "username": "hub", "source": "store"}));

    let key = hub.key(&["read"], None).await;
    let anyone = hub.public(&key);
    let sent = |org: &'static str| {
        let anyone = anyone.clone();
        async move {
            anyone.get(&format!("/v1/upstreams/shared/reads/it?org={org}")).await.expect(200).json()["data"].clone()
        }
    };
    assert_eq!(sent("initech").await["auth"], "Basic aHViOm9wZW4gc2VzYW1l");
    assert_eq!(sent("acme").await["auth"], "Bearer file-token-1");
    assert_eq!(sent("globex").await["auth"], "Bearer granted-1");
    assert_eq!(sent("umbrella").await, json!({"auth": "", "key": "key-of-the-environment-1"}));

    // The file has another token: asked to, or when the old one is refused, the hub reads it again.
    std::fs::write(&file, "file-token-2\n").unwrap();
    assert_eq!(sent("acme").await["auth"], "Bearer file-token-1", "it was read a moment ago");
    admin.post("/v1/admin/upstreams/shared/rotate-credential", &json!({})).await.expect(200);
    assert_eq!(sent("acme").await["auth"], "Bearer file-token-2");
    std::fs::write(&file, "file-token-3\n").unwrap();
    receiver.script("/x", [Reply::Status(401)]);
    assert_eq!(sent("acme").await["auth"], "Bearer file-token-3");

    rotate("acme", json!({"kind": "bearer", "token": "stored-token-4"})).await;
    assert_eq!(sent("acme").await["auth"], "Bearer stored-token-4");
    let shown = rotate("acme", Value::Null).await;
    assert_eq!(shown["tenant_auth"].as_object().unwrap().len(), 2);
    assert_eq!(sent("acme").await["auth"], "Basic aHViOm9wZW4gc2VzYW1l");
    admin.patch("/v1/admin/upstreams/shared", &json!({"auth": null})).await.expect(200);
    let none = anyone.get("/v1/upstreams/shared/reads/it?org=acme").await.expect_problem(502, "upstream-failed");
    assert_eq!(none.json()["error_type"], "auth", "where others have credentials, none is not enough");
    assert_eq!(sent("globex").await["auth"], "Bearer granted-1");

    hub.kill();
    hub.restart().await;
    let key = hub.key(&["read"], Some("globex")).await;
    let told = hub.public(&key).get("/v1/upstreams/shared/reads/it").await.expect(200).json();
    assert_eq!(told["data"]["auth"], "Bearer granted-1", "kept over a restart");
}

#[tokio::test]
async fn what_one_tenant_has_read_is_not_given_to_another() {
    let receiver = Receiver::start();
    let hub = Hub::start().await;
    let mut shared = crm(&receiver);
    shared["id"] = json!("shared");
    shared.as_object_mut().unwrap().remove("org");
    declare(&hub, &shared).await;
    declare(&hub, &crm(&receiver)).await;
    let path = "/base/api/v1/contacts/c-1";
    receiver.script(path, ["Acme's", "Globex's"].map(|name| answer(200, &json!({"legalName": name}))));
    let globex = hub.public(&hub.key(&["read", "manage"], Some("globex")).await);
    let acme = hub.acme().await;
    let read = "/v1/upstreams/shared/reads/contact?externalId=c-1";
    for _ in 0..2 {
        assert_eq!(acme.get(read).await.expect(200).json()["legalName"], "Acme's");
        assert_eq!(globex.get(read).await.expect(200).json()["legalName"], "Globex's");
    }
    assert_eq!(receiver.on(path).len(), 2);
    // Another org's upstream is not there, and nothing of it is told.
    for path in [
        "/v1/upstreams/crm/reads/contact?externalId=c-1",
        "/v1/upstreams/crm/reads/none",
        "/v1/upstreams/none/reads/x?a=b",
    ] {
        globex.get(path).await.expect_problem(404, "not-found");
    }
    globex.get("/v1/upstreams/shared/reads/contact?externalId=c-1&org=acme").await.expect_problem(403, "forbidden");
    let anyone = hub.public(&hub.key(&["read"], None).await);
    anyone.get("/v1/upstreams/crm/reads/contact?externalId=c-1&org=globex").await.expect_problem(404, "not-found");
    assert_eq!(hub.admin().get(&format!("{read}&org=acme")).await.expect(200).json()["legalName"], "Acme's");
    let publisher = hub.public(&hub.key(&["publish"], Some("acme")).await);
    publisher.get(read).await.expect_problem(403, "forbidden");
    hub.anonymous().get(read).await.expect_problem(401, "unauthorized");
    // The admin API is not on the public listener.
    globex.get("/v1/admin/upstreams").await.expect(404);
    globex.act("/v1/admin/upstreams/crm/test").await.expect(404);
}

#[tokio::test]
async fn what_does_not_fit_is_refused_by_name() {
    let receiver = Receiver::start();
    let hub = Hub::start().await;
    let admin = hub.admin();
    declare(&hub, &crm(&receiver)).await;
    let with = |name: &str, value: Value| {
        let mut one = crm(&receiver);
        one["id"] = json!("other");
        one[name] = value;
        one
    };
    let cases = [
        (with("id", json!("no spaces")), "id"),
        (with("id", json!("health")), "id"),
        (with("base_url", json!("ftp://crm.example")), "base_url"),
        (with("base_url", json!("https://u:hunter2@crm.example")), "base_url"),
        (with("base_url", json!("http://0.0.0.0")), "base_url"),
        (with("preset", json!("fast")), "preset"),
        (with("retry", json!({"kind": "fixed"})), "retry"),
        (with("auth", json!({"kind": "bearer", "token": {"env": "TIDEGATE_TEST_UNSET"}})), "auth"),
        (with("auth", json!({"kind": "bearer", "token": {"file": "/nonexistent/hunter2"}})), "auth"),
        (with("auth", json!({"kind": "bearer", "token": ["hunter2"]})), "auth.token"),
        (with("reads", json!({"x": {"path": "/{"}})), "reads.x.path"),
        (with("allowed_networks", json!(["10.0.0.0/8"])), "allowed_networks"),
        (with("colour", json!("red")), "colour"),
    ];
    for (sent, field) in cases {
        let problem = admin.post("/v1/admin/upstreams", &sent).await.expect_problem(400, "invalid-field").json();
        assert_eq!(problem["field"], field, "{problem}");
        let shown = problem.to_string().replace("/nonexistent/hunter2", "");
        assert!(!shown.contains("hunter2"), "{problem}");
    }
    admin.post("/v1/admin/upstreams", &crm(&receiver)).await.expect_problem(409, "conflict");
    for path in ["/v1/admin/upstreams/none", "/v1/admin/upstreams/%20"] {
        admin.get(path).await.expect_problem(404, "not-found");
        admin.patch(path, &json!({})).await.expect_problem(404, "not-found");
        admin.delete(path).await.expect_problem(404, "not-found");
        for action in ["test", "clear-cache", "reset-counters", "rotate-credential"] {
            admin.act(&format!("{path}/{action}")).await.expect_problem(404, "not-found");
        }
    }
    let path = "/v1/admin/upstreams/crm";
    let refused = admin.patch(path, &json!({"org": "globex"})).await.expect_problem(400, "invalid-field").json();
    assert_eq!(refused["field"], "org");
    let rotate = format!("{path}/rotate-credential");
    for (body, field) in [
        (json!({"auth": {"kind": "mtls"}}), "auth.kind"),
        (json!({"auth": "hunter2"}), "auth"),
        (json!({"org": "globex", "auth": null}), "org"),
        (json!({"token": "hunter2"}), "token"),
    ] {
        let problem = admin.post(&rotate, &body).await.expect_problem(400, "invalid-field").json();
        assert_eq!(problem["field"], field, "{problem}");
        assert!(!problem.to_string().contains("hunter2"), "{problem}");
    }
    let acme = hub.acme().await;
    let long = "x".repeat(257);
    for (query, field) in [
        ("", "externalId"),
        ("?externalId=", "externalId"),
        ("?externalId=..", "externalId"),
        (&*format!("?externalId={long}"), "externalId"),
        ("?externalId=a%0Ab", "externalId"),
        ("?externalId=a&limit=5", "limit"),
        ("?externalId=a&externalId=b", "externalId"),
    ] {
        let told = acme.get(&format!("/v1/upstreams/crm/reads/contact{query}")).await;
        let told = told.expect_problem(400, "invalid-parameter").json();
        assert_eq!(told["field"], field, "{told}");
    }
    acme.get("/v1/upstreams/crm/reads/none").await.expect_problem(404, "not-found");
    assert_eq!(receiver.deliveries().len(), 0, "nothing was asked");
}

#[tokio::test]
async fn a_private_address_is_called_only_where_the_operator_allows_it() {
    let receiver = Receiver::start();
    let closed = ("DELIVERY__ALLOW_PRIVATE_NETWORKS", "false");
    let declared = |networks: Value| {
        json!([{"id": "crm", "base_url": receiver.url(""), "allowed_networks": networks, "reads": {"it": {"path": "/x"}}}]).to_string()
    };
    let hub = Hub::start_with(&[closed, ("UPSTREAMS", &declared(json!(["127.0.0.0/8"])))]).await;
    receiver.always("/x", answer(200, &json!({"a": 1})));
    let acme = hub.acme().await;
    assert_eq!(acme.get("/v1/upstreams/crm/reads/it").await.expect(200).json()["data"], json!({"a": 1}));
    let admin = hub.admin();
    for url in [
        receiver.url(""),
        "http://localhost:9".into(),
        "http://[::ffff:10.0.0.1]".into(),
        "http://169.254.169.254".into(),
    ] {
        let sent = json!({"id": "inside", "base_url": url});
        let problem = admin.post("/v1/admin/upstreams", &sent).await.expect_problem(400, "invalid-field").json();
        assert_eq!(problem["field"], "base_url", "{problem}");
    }
    // What the settings declare is changed there.
    let shown = admin.get("/v1/admin/upstreams/crm").await.expect(200).json();
    assert_eq!((&shown["origin"], &shown["allowed_networks"]), (&json!("config"), &json!(["127.0.0.0/8"])));
    admin.patch("/v1/admin/upstreams/crm", &json!({"description": "x"})).await.expect_problem(409, "conflict");
    admin.delete("/v1/admin/upstreams/crm").await.expect_problem(409, "conflict");

    let refused = Hub::stopped(&[closed, ("UPSTREAMS", &declared(json!([])))]);
    let mut running = refused.spawn();
    until("the hub does not start", || {
        let ended = running.ended();
        async move { ended }
    })
    .await;
    until("it says why", || async { refused.log().contains("upstreams[0]: base_url").then_some(()) }).await;
}

#[tokio::test]
async fn upstreams_of_the_settings_are_read_again_at_sighup() {
    let receiver = Receiver::start();
    let mut hub = Hub::stopped(&[]);
    let file = hub.data_dir().with_extension("toml");
    let declared = |path: &str, more: &str| {
        format!(
            "[[upstreams]]\nid = \"crm\"\nbase_url = \"{}\"\nreads.it = {{ path = \"{path}\" }}\n\
             auth = {{ kind = \"bearer\", token = {{ env = \"CRM_TOKEN\" }} }}\n{more}",
            receiver.url("")
        )
    };
    std::fs::write(&file, declared("/one", "")).unwrap();
    hub.set("TIDEGATE_CONFIG", file.to_str().unwrap());
    hub.set("CRM_TOKEN", "token-of-the-environment");
    hub.restart().await;
    for (path, n) in [("/one", 1), ("/two", 2)] {
        receiver.always(path, answer(200, &json!({"n": n})));
    }
    let acme = hub.acme().await;
    let read = || async { acme.get("/v1/upstreams/crm/reads/it").await.expect(200).json()["data"]["n"].clone() };
    assert_eq!(read().await, 1);
    assert_eq!(receiver.on("/one")[0].header("authorization"), "Bearer token-of-the-environment");
    let reload = |text: String| {
        std::fs::write(&file, text).unwrap();
        hub.ask_to_reload();
    };
    reload(declared("/two", ""));
    until("the new path holds", || async { (read().await == 2).then_some(()) }).await;
    reload(declared("/one", "colour = \"red\"\n"));
    lines(&hub, "the declared upstreams do not fit").await;
    assert_eq!(read().await, 2, "what does not fit changes nothing");
    reload(String::new());
    until("it is gone", || async { (hub.admin().get("/v1/admin/upstreams/crm").await.status == 404).then_some(()) })
        .await;
    let shown = hub.admin().get("/v1/admin/upstreams").await.expect(200).json();
    assert_eq!(shown["items"], json!([]));
}

#[tokio::test]
async fn changes_hold_from_the_next_call_on_and_a_deleted_upstream_leaves_nothing() {
    let receiver = Receiver::start();
    let mut hub = Hub::start().await;
    declare(&hub, &crm(&receiver)).await;
    let (admin, acme) = (hub.admin(), hub.acme().await);
    for (path, name) in
        [("/base/api/v1/contacts/c-1", "old"), ("/new/api/v1/contacts/c-1", "new"), ("/new/other/c-1", "other")]
    {
        receiver.always(path, answer(200, &json!({"legalName": name})));
    }
    let read = "/v1/upstreams/crm/reads/contact?externalId=c-1";
    let name = || async { acme.get(read).await.expect(200).json()["legalName"].as_str().unwrap().to_owned() };
    assert_eq!(name().await, "old");
    let path = "/v1/admin/upstreams/crm";
    let changed =
        admin.patch(path, &json!({"base_url": receiver.url("/new"), "description": "moved"})).await.expect(200).json();
    assert_eq!((&changed["description"], &changed["auth"]["kind"]), (&json!("moved"), &json!("bearer")));
    assert_eq!(name().await, "new", "what was read at the old address is forgotten");
    admin.patch(path, &json!({"rate_limit": "sales", "breaker": "erp"})).await.expect(200);
    assert_eq!(name().await, "new");
    assert_eq!(receiver.on("/new/api/v1/contacts/c-1").len(), 1, "other changes leave it");
    admin
        .patch(path, &json!({"reads": {"contact": {"path": "/other/{externalId}", "fields": ["legalName"]}}}))
        .await
        .expect(200);
    assert_eq!(name().await, "other");
    acme.get("/v1/upstreams/crm/reads/history?id=7").await.expect_problem(404, "not-found");
    hub.kill();
    hub.restart().await;
    let (admin, acme) = (hub.admin(), hub.acme().await);
    assert_eq!(acme.get(read).await.expect(200).json()["legalName"], "other");
    let all = admin.get("/v1/admin/upstreams").await.expect(200).json();
    assert_eq!((&all["items"][0]["id"], &all["items"][0]["rate_limit"]["burst"]), (&json!("crm"), &json!(100)));
    admin.delete(path).await.expect(204);
    admin.get(path).await.expect_problem(404, "not-found");
    acme.get(read).await.expect_problem(404, "not-found");
    let metrics = admin.get("/metrics").await.expect(200).text;
    assert!(!metrics.contains("adapter_id=\"crm\""), "its labels are gone");
    declare(&hub, &crm(&receiver)).await;
    assert_eq!(acme.get(read).await.expect(200).json()["legalName"], "old", "nothing of its past is left");
}

#[tokio::test]
async fn an_answer_that_was_under_way_when_the_upstream_changed_is_kept_by_nobody() {
    let receiver = Receiver::start();
    let hub = Hub::start().await;
    declare(&hub, &crm(&receiver)).await;
    let (admin, acme) = (hub.admin(), hub.acme().await);
    let (old, new) = ("/base/api/v1/contacts/c-1", "/new/api/v1/contacts/c-1");
    receiver.always(old, Reply::HoldJson(json!({"legalName": "old"})));
    receiver.always(new, answer(200, &json!({"legalName": "new"})));
    let read = "/v1/upstreams/crm/reads/contact?externalId=c-1";
    let asking = acme.clone();
    let under_way = tokio::spawn(async move { asking.get(read).await });
    receiver.wait_for(old, 1).await;
    admin.patch("/v1/admin/upstreams/crm", &json!({"base_url": receiver.url("/new")})).await.expect(200);
    receiver.release();
    assert_eq!(under_way.await.unwrap().expect(200).json()["legalName"], "old", "it was asked before");
    for _ in 0..2 {
        assert_eq!(acme.get(read).await.expect(200).json()["legalName"], "new");
    }
    assert_eq!(receiver.on(new).len(), 1);
}

#[tokio::test]
async fn a_panic_of_an_upstreams_actors_costs_at_most_an_answer() {
    let receiver = Receiver::start();
    let settings = [
        ("FAULTS__ENABLED", "true"),
        ("SUPERVISE__RESTARTS_MAX", "1000"),
        ("SUPERVISE__BACKOFF_MS", "1"),
        ("SUPERVISE__BACKOFF_CAP_MS", "5"),
    ];
    let hub = Hub::start_with(&settings).await;
    declare(&hub, &crm(&receiver)).await;
    let (admin, acme) = (hub.admin(), hub.acme().await);
    receiver.answer("/base/plain/1?fixed=a%20b&view=x", |_| answer(200, &json!({"a": 1})));
    let read = "/v1/upstreams/crm/reads/plain?id=1&view=x";
    for _ in 0..5 {
        acme.get(read).await.expect(200);
        admin.act("/v1/admin/faults/panic-upstreams").await.expect(202);
        until("it answers again", || async {
            (acme.get(read).await.expect_any(&[200, 503]).status == 200).then_some(())
        })
        .await;
    }
    let restarts = metric(&hub, "tidegate_actor_restarts", &[r#"actor="upstream""#]).await;
    assert!(restarts >= 5.0, "{restarts}");
}

#[tokio::test]
async fn no_token_is_told_by_log_metrics_errors_answers_or_store() {
    let receiver = Receiver::start();
    let mut hub =
        Hub::start_with(&[("LOGGING__LEVEL", "info,tidegate=trace"), ("BREAKER__FAILURE_THRESHOLD", "1000")]).await;
    // A stand-in that repeats whatever it was sent, as an error and as an answer that is no JSON.
    for (path, status) in [("/echo", 500), ("/torn", 200), ("/refuse", 401), ("/health", 401), ("/no-token", 400)] {
        receiver.answer(path, move |one| {
            let told: Vec<_> = one.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
            raw(status, &format!("{} {}", told.join(" "), String::from_utf8_lossy(&one.body)))
        });
    }
    receiver.always("/token", answer(200, &json!({"access_token": "granted-token-4711", "expires_in": 3600})));
    let oauth = |path: &str| json!({"kind": "oauth2", "token_url": receiver.url(path), "client_id": "hub", "client_secret": "oauth-secret-4712", "client_auth": "body"});
    let reads = json!({"echo": {"path": "/echo"}, "torn": {"path": "/torn", "fields": ["a"]}, "refuse": {"path": "/refuse"}, "pages": {"path": "/refuse", "page": {"items": ""}}});
    let acme = hub.acme().await;
    let admin = hub.admin();
    let mut told = String::new();
    for (id, auth) in [
        ("a-bearer", json!({"kind": "bearer", "token": "bearer-token-4713"})),
        ("b-basic", json!({"kind": "basic", "username": "hub", "password": "basic-secret-4714"})),
        ("c-oauth", oauth("/token")),
        ("d-oauth", oauth("/no-token")),
        ("e-header", json!({"kind": "header", "name": "X-Api-Key", "value": "Token header-key-4715"})),
    ] {
        let wanted = json!({"id": id, "org": "acme", "base_url": receiver.url(""), "health_path": "/health", "retry": retry(&[]), "auth": auth, "reads": reads});
        told.push_str(&admin.post("/v1/admin/upstreams", &wanted).await.expect(201).text);
        for read in ["echo", "torn", "refuse", "pages"] {
            told.push_str(&acme.get(&format!("/v1/upstreams/{id}/reads/{read}")).await.text);
        }
        let path = format!("/v1/admin/upstreams/{id}");
        told.push_str(&admin.act(&format!("{path}/test")).await.expect(200).text);
        told.push_str(&admin.get(&path).await.expect(200).text);
        told.push_str(&admin.patch(&path, &json!({"description": "x"})).await.expect(200).text);
        let rotated = json!({"org": "acme", "auth": {"kind": "bearer", "token": "rotated-token-4716"}});
        told.push_str(&admin.post(&format!("{path}/rotate-credential"), &rotated).await.expect(200).text);
        told.push_str(&acme.get(&format!("/v1/upstreams/{id}/reads/echo")).await.text);
        let bad = json!({"auth": {"kind": "bearer", "token": "bad token-4717"}});
        told.push_str(&admin.patch(&path, &bad).await.expect(400).text);
    }
    told.push_str(&admin.get("/v1/admin/upstreams").await.expect(200).text);
    told.push_str(&admin.get("/v1/admin/upstreams/health").await.expect(200).text);
    told.push_str(&admin.get("/metrics").await.expect(200).text);
    assert!(receiver.on("/echo").len() >= 8);
    assert!(hub.terminate().await.success());
    let log = hub.log();
    assert!(log.contains("***"), "what the stand-in said was logged, without what it repeated");
    told.push_str(&log);
    let encoded = |text: &str| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
    for secret in [
        "granted-token-4711",
        "oauth-secret-4712",
        "bearer-token-4713",
        "basic-secret-4714",
        "header-key-4715",
        "rotated-token-4716",
        "token-4717",
        &encoded("hub:basic-secret-4714"),
    ] {
        let line = told.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{secret} is told: {line:?}");
        for file in crate::secrets::files(&hub.data_dir()) {
            let bytes = std::fs::read(&file).unwrap();
            assert!(!crate::secrets::contains(&bytes, secret.as_bytes()), "{} holds {secret}", file.display());
        }
    }
}

#[tokio::test]
async fn a_call_is_one_span_with_the_names_of_the_contract() {
    let (collector, receiver) = (Receiver::start(), Receiver::start());
    let hub = Hub::start_with(&[("TRACE__OTLP_ENDPOINT", &collector.url(""))]).await;
    let mut wanted = crm(&receiver);
    wanted["version"] = json!("3.1.4");
    wanted["retry"] = retry(&[1]);
    declare(&hub, &wanted).await;
    let acme: Api = hub.acme().await;
    let path = "/base/api/v1/contacts/c-1";
    receiver.script(path, [Reply::Status(503), answer(200, &json!({"legalName": "x"}))]);
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let header = format!("00-{trace}-b7ad6b7169203331-01");
    let headers = [("traceparent", header.as_str()), ("x-correlation-id", "order-17")];
    let read = "/v1/upstreams/crm/reads/contact?externalId=c-1";
    acme.try_send(reqwest::Method::GET, read, &headers, None).await.unwrap().expect(200);
    let spans = until("the span is exported", || async {
        let mut spans = crate::traces::spans(&collector);
        spans.retain(|span| span["name"] == "integration.execute");
        (!spans.is_empty()).then_some(spans)
    })
    .await;
    assert_eq!(spans.len(), 1, "one, whatever its attempts");
    let span = &spans[0];
    let of = |name: &str| crate::traces::attribute(span, name);
    assert_eq!(span["traceId"], trace);
    assert_eq!((of("adapter.id").as_deref(), of("adapter.version").as_deref()), (Some("crm"), Some("3.1.4")));
    assert_eq!((of("correlation.id").as_deref(), of("tenant.id").as_deref()), (Some("order-17"), Some("acme")));
    let asked = receiver.on(path);
    assert_eq!(asked.len(), 2);
    for one in &asked {
        assert_eq!(one.header("traceparent"), format!("00-{trace}-{}-01", span["spanId"].as_str().unwrap()));
        assert_eq!(one.header("x-correlation-id"), "order-17");
    }
    assert_eq!(metric(&hub, "integration_retries_total", &[r#"adapter_id="crm""#]).await, 1.0);
}
