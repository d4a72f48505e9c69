//! Who may do what: no key, unknown keys, scopes, and the wall between orgs on every endpoint (SEC-1, SEC-3).

use serde_json::{Value, json};

use crate::support::{Api, Hub, Receiver, Reply, items, retry};

/// Every endpoint of the public listener, with a body that would do where one is needed.
fn endpoints(event: &str, webhook: &str, letter: &str) -> Vec<(&'static str, String, Value)> {
    let new_event = json!({"type": "a.b", "org": "acme"});
    let new_webhook = json!({"url": "http://127.0.0.1:9/", "org": "acme", "event_types": ["*"]});
    vec![
        ("POST", "/v1/events".to_owned(), new_event.clone()),
        ("POST", "/v1/events/batch?atomic=true".to_owned(), json!([new_event])),
        ("GET", format!("/v1/events/{event}"), Value::Null),
        ("GET", format!("/v1/events/{event}/explain"), Value::Null),
        ("GET", "/v1/events".to_owned(), Value::Null),
        ("GET", "/v1/cdc".to_owned(), Value::Null),
        ("GET", "/v1/scheduled".to_owned(), Value::Null),
        ("GET", "/v1/scheduled/acme-later".to_owned(), Value::Null),
        ("DELETE", "/v1/scheduled/acme-later".to_owned(), Value::Null),
        ("POST", "/v1/webhooks".to_owned(), new_webhook),
        ("GET", "/v1/webhooks".to_owned(), Value::Null),
        ("GET", format!("/v1/webhooks/{webhook}"), Value::Null),
        ("PATCH", format!("/v1/webhooks/{webhook}"), json!({"event_types": ["stolen.*"]})),
        ("POST", format!("/v1/webhooks/{webhook}/pause"), json!({})),
        ("POST", format!("/v1/webhooks/{webhook}/resume"), json!({})),
        ("POST", format!("/v1/webhooks/{webhook}/rotate-secret"), json!({"overlap_ms": 0})),
        ("POST", format!("/v1/webhooks/{webhook}/test"), json!({})),
        ("GET", format!("/v1/webhooks/{webhook}/attempts"), Value::Null),
        ("GET", format!("/v1/webhooks/{webhook}/deliveries"), Value::Null),
        ("DELETE", format!("/v1/webhooks/{webhook}"), Value::Null),
        ("POST", "/v1/consumers".to_owned(), json!({"name": "own", "org": "acme", "event_types": ["*"]})),
        ("GET", "/v1/consumers".to_owned(), Value::Null),
        ("GET", "/v1/consumers/pulled".to_owned(), Value::Null),
        ("PATCH", "/v1/consumers/pulled".to_owned(), json!({"event_types": ["stolen.*"]})),
        ("GET", "/v1/consumers/pulled/attempts".to_owned(), Value::Null),
        ("POST", "/v1/consumers/pulled/pause".to_owned(), json!({})),
        ("POST", "/v1/consumers/pulled/resume".to_owned(), json!({})),
        ("POST", "/v1/consumers/pulled/pull".to_owned(), json!({"max": 1})),
        ("POST", "/v1/consumers/pulled/ack".to_owned(), json!({"tokens": [TOKEN]})),
        ("POST", "/v1/consumers/pulled/nak".to_owned(), json!({"tokens": [TOKEN]})),
        ("POST", "/v1/consumers/pulled/term".to_owned(), json!({"tokens": [TOKEN]})),
        ("POST", "/v1/consumers/pulled/extend".to_owned(), json!({"tokens": [TOKEN]})),
        ("GET", "/v1/consumers/pulled/stream".to_owned(), Value::Null),
        ("GET", "/v1/consumers/pulled/ws".to_owned(), Value::Null),
        ("DELETE", "/v1/consumers/pulled".to_owned(), Value::Null),
        ("POST", format!("/v1/webhooks/{webhook}/replay"), json!({})),
        ("POST", format!("/v1/webhooks/{webhook}/recover"), json!({"since": "2020-01-01T00:00:00Z"})),
        ("POST", format!("/v1/webhooks/{webhook}/deliveries/{event}/retry"), json!({})),
        ("POST", format!("/v1/consumers/{webhook}/replay"), json!({})),
        ("POST", format!("/v1/dead-letters/{letter}/redrive"), json!({})),
        ("POST", format!("/v1/dead-letters/{letter}/discard"), json!({"reason": "stolen"})),
        ("POST", "/v1/dead-letters/redrive".to_owned(), json!({"org": "acme"})),
        ("GET", "/v1/jobs".to_owned(), Value::Null),
        ("GET", "/v1/jobs/job_any".to_owned(), Value::Null),
        ("POST", "/v1/jobs/job_any/cancel".to_owned(), json!({})),
        ("POST", "/v1/exports".to_owned(), json!({"org": "acme"})),
        ("GET", "/v1/exports".to_owned(), Value::Null),
        ("GET", "/v1/exports/job_any".to_owned(), Value::Null),
        ("GET", "/v1/exports/job_any/parts".to_owned(), Value::Null),
        ("GET", "/v1/exports/job_any/parts/1".to_owned(), Value::Null),
        ("DELETE", "/v1/exports/job_any".to_owned(), Value::Null),
        ("POST", "/v1/imports".to_owned(), json!({"org": "acme"})),
        ("GET", "/v1/imports".to_owned(), Value::Null),
        ("GET", "/v1/imports/imp_any".to_owned(), Value::Null),
        ("PATCH", "/v1/imports/imp_any/content?offset=0".to_owned(), json!({})),
        ("POST", "/v1/imports/imp_any/commit".to_owned(), json!({})),
        ("GET", "/v1/imports/imp_any/report".to_owned(), Value::Null),
        ("DELETE", "/v1/imports/imp_any".to_owned(), Value::Null),
        ("GET", "/v1/dead-letters".to_owned(), Value::Null),
        ("GET", format!("/v1/dead-letters/{letter}"), Value::Null),
    ]
}

/// A text of the form of a token.
const TOKEN: &str = "AQAAAAAAAAAHIAAAAAAAAAAAAAGiBYVkewAAAAAAAAAAAAAAAA";

const ADMIN: &[(&str, &str)] = &[
    ("GET", "/v1/admin/keys"),
    ("POST", "/v1/admin/keys"),
    ("GET", "/v1/admin/settings"),
    ("PATCH", "/v1/admin/settings"),
    ("GET", "/v1/admin/stats"),
    ("GET", "/v1/admin/consumers"),
    ("GET", "/v1/admin/consumers/whk_any/rows"),
    ("GET", "/v1/admin/breakers"),
    ("POST", "/v1/admin/upstreams/crm/publishes/any/preview"),
    ("DELETE", "/v1/admin/upstreams/crm/publishes/any"),
];

struct Scene {
    hub: Hub,
    receiver: Receiver,
    acme: Api,
    event: String,
    webhook: String,
    letter: String,
}

/// Org `acme` with an event, a webhook and a dead letter.
async fn scene() -> Scene {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    receiver.script("/acme", [Reply::Status(400)]);
    let made = json!({"url": receiver.url("/acme"), "org": "acme", "event_types": ["a.*"], "retry": retry(&[50])});
    let webhook = acme.webhook(&made).await["id"].as_str().unwrap().to_owned();
    let pulled = json!({"name": "pulled", "event_types": ["a.*"]});
    acme.post("/v1/consumers", &pulled).await.expect(201);
    let event = acme.publish(&json!({"id": "acme-1", "type": "a.b", "data": {"private": true}})).await;
    acme.publish(&json!({"id": "acme-later", "type": "a.b", "delay": "7d", "data": {"private": true}})).await;
    let letters = acme.wait_dead_letters(&webhook, 1).await;
    let letter = letters[0]["id"].as_str().unwrap().to_owned();
    Scene { hub, receiver, acme, event, webhook, letter }
}

#[tokio::test]
async fn without_a_known_key_every_endpoint_answers_401() {
    let scene = scene().await;
    let address = scene.hub.public_address();
    let strangers = [
        Api::anonymous(address),
        Api::with_key(address, "tg_unknown"),
        Api::with_key(address, ""),
        Api::with_bearer(address, "no-such-key"),
        // The administrator's token is a key of the other listener.
        Api::with_key(address, &scene.hub.admin_token()),
    ];
    for stranger in strangers {
        for (method, path, body) in endpoints(&scene.event, &scene.webhook, &scene.letter) {
            let answer = stranger.call(method, &path, &body).await;
            assert_eq!(answer.status, 401, "{method} {path}: {}", answer.text);
            answer.expect_problem(401, "unauthorized");
        }
    }
    let by_bearer = scene.hub.key(&["read"], Some("acme")).await;
    Api::with_bearer(address, &by_bearer).get("/v1/events/acme-1").await.expect(200);
}

#[tokio::test]
async fn another_orgs_key_reaches_nothing_and_changes_nothing() {
    let scene = scene().await;
    let key = scene.hub.key(&["publish", "consume", "work", "manage", "read"], Some("globex")).await;
    let globex = scene.hub.public(&key);
    for (method, path, body) in endpoints(&scene.event, &scene.webhook, &scene.letter) {
        let answer = globex.call(method, &path, &body).await;
        let lists = [
            "/v1/events",
            "/v1/cdc",
            "/v1/scheduled",
            "/v1/webhooks",
            "/v1/consumers",
            "/v1/dead-letters",
            "/v1/jobs",
            "/v1/exports",
            "/v1/imports",
        ];
        if method == "GET" && lists.contains(&path.as_str()) {
            assert!(items(&answer.expect(200).json()).is_empty(), "{method} {path} shows what is not globex's");
            continue;
        }
        assert!([403, 404].contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.text);
        assert!(!answer.text.contains("private"), "{method} {path}: {}", answer.text);
    }
    for path in [
        "/v1/events?org=acme",
        "/v1/cdc?org=acme",
        "/v1/scheduled?org=acme",
        "/v1/webhooks?org=acme",
        "/v1/consumers?org=acme",
        "/v1/dead-letters?org=acme",
    ] {
        let answer = globex.get(path).await;
        if answer.status == 200 {
            assert!(items(&answer.json()).is_empty(), "{path} shows what is not globex's");
        } else {
            answer.expect_any(&[400, 403]);
        }
    }
    let kept = scene.acme.get(&format!("/v1/webhooks/{}", scene.webhook)).await.expect(200).json();
    assert_eq!(kept["status"], "active", "{kept}");
    assert_eq!(kept["event_types"], json!(["a.*"]), "{kept}");
    scene.acme.get("/v1/scheduled/acme-later").await.expect(200);
    // Only the first delivery ever came: no test-send by a stranger.
    assert_eq!(scene.receiver.on("/acme").len(), 1);
}

#[tokio::test]
async fn an_event_of_one_org_never_reaches_the_webhook_of_another() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let any_org = hub.public(&hub.key(&["publish", "manage", "read"], None).await);
    for org in ["acme", "globex"] {
        let made = json!({"url": receiver.url(&format!("/{org}")), "org": org, "event_types": ["*"]});
        any_org.webhook(&made).await;
    }
    for n in 0..20 {
        let org = if n % 2 == 0 { "acme" } else { "globex" };
        any_org.publish(&json!({"id": format!("{org}-{n}"), "type": "a.b", "org": org})).await;
    }
    for org in ["acme", "globex"] {
        for delivery in receiver.wait_for(&format!("/{org}"), 10).await {
            assert!(delivery.id().starts_with(org), "{} came to {org}", delivery.id());
            assert_eq!(delivery.json()["org"], org);
        }
    }
}

#[tokio::test]
async fn a_key_does_only_what_its_scopes_say() {
    let scene = scene().await;
    let forbidden = [
        ("publish", &["GET /v1/events", "GET /v1/webhooks", "POST /v1/webhooks", "GET /v1/dead-letters"][..]),
        ("read", &["POST /v1/events", "POST /v1/webhooks", "DELETE /v1/webhooks/{}", "POST /v1/webhooks/{}/pause"][..]),
        ("manage", &["POST /v1/events", "POST /v1/consumers/pulled/pull", "GET /v1/consumers/pulled/stream"][..]),
        (
            "consume",
            &[
                "POST /v1/events",
                "POST /v1/webhooks",
                "DELETE /v1/webhooks/{}",
                "POST /v1/consumers",
                "DELETE /v1/consumers/pulled",
                "POST /v1/consumers/pulled/pause",
            ][..],
        ),
    ];
    for (scope, calls) in forbidden {
        let key = scene.hub.key(&[scope], Some("acme")).await;
        let api = scene.hub.public(&key);
        for call in calls {
            let (method, path) = call.split_once(' ').unwrap();
            let path = path.replace("{}", &scene.webhook);
            let body = json!({"type": "a.b", "url": "http://127.0.0.1:9/", "org": "acme", "event_types": ["*"]});
            let answer = api.call(method, &path, &body).await;
            assert_eq!(answer.status, 403, "a {scope} key, {call}: {}", answer.text);
            answer.expect_problem(403, "forbidden");
        }
    }
}

#[tokio::test]
async fn the_admin_api_opens_to_the_administrator_alone() {
    let scene = scene().await;
    let all = scene.hub.key(&["publish", "consume", "work", "manage", "read"], None).await;
    let body = json!({"application": "evil", "scopes": ["manage"]});
    for (method, path) in ADMIN {
        for stranger in [
            Api::anonymous(scene.hub.admin_address()),
            Api::with_key(scene.hub.admin_address(), &all),
            Api::with_bearer(scene.hub.admin_address(), &all),
            Api::with_bearer(scene.hub.admin_address(), "wrong"),
        ] {
            stranger.call(method, path, &body).await.expect_any(&[401, 403]);
        }
        // And not at all where the producers are.
        let on_public = Api::with_bearer(scene.hub.public_address(), &scene.hub.admin_token());
        on_public.call(method, path, &body).await.expect_any(&[401, 403, 404]);
        scene.hub.public(&all).call(method, path, &body).await.expect_any(&[401, 403, 404]);
    }
}

#[tokio::test]
async fn a_revoked_key_and_an_expired_one_open_nothing() {
    let mut hub = Hub::start().await;
    let wanted = json!({"application": "it", "org": "acme", "scopes": ["publish"]});
    let made = hub.admin().post("/v1/admin/keys", &wanted).await.expect(201).json();
    let (id, key) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    hub.public(key).publish(&json!({"type": "a.b"})).await;
    let page = hub.admin().get("/v1/admin/keys").await.expect(200);
    assert!(page.text.contains(id) && !page.text.contains(key), "a list shows ids, not keys: {}", page.text);

    hub.admin().delete(&format!("/v1/admin/keys/{id}")).await.expect_any(&[200, 204]);
    hub.public(key).post("/v1/events", &json!({"type": "a.b"})).await.expect_problem(401, "unauthorized");
    let expired = json!({"application": "it", "scopes": ["publish"], "expires_at": "2020-01-01T00:00:00Z"});
    let answer = hub.admin().post("/v1/admin/keys", &expired).await.expect_any(&[201, 400]);
    if answer.status == 201 {
        let key = answer.json()["key"].as_str().unwrap().to_owned();
        hub.public(&key).post("/v1/events", &json!({"type": "a.b"})).await.expect_problem(401, "unauthorized");
    }
    hub.kill();
    hub.restart().await;
    hub.public(key).post("/v1/events", &json!({"type": "a.b"})).await.expect_problem(401, "unauthorized");
}

#[tokio::test]
async fn when_a_key_was_last_used_is_known_after_a_restart() {
    let mut hub = Hub::start().await;
    let wanted = json!({"application": "it", "org": "acme", "scopes": ["read"]});
    let used = hub.admin().post("/v1/admin/keys", &wanted).await.expect(201).json();
    let unused = hub.admin().post("/v1/admin/keys", &wanted).await.expect(201).json();
    let revoked = hub.admin().post("/v1/admin/keys", &wanted).await.expect(201).json();
    for key in [&used, &revoked] {
        hub.public(key["key"].as_str().unwrap()).get("/v1/events").await.expect(200);
    }
    hub.admin().delete(&format!("/v1/admin/keys/{}", revoked["id"].as_str().unwrap())).await.expect(204);
    let last_used = async |hub: &Hub| {
        let page = hub.admin().get("/v1/admin/keys").await.expect(200).json();
        let of =
            |key: &Value| items(&page).iter().find(|one| one["id"] == key["id"]).map(|one| one["last_used_at"].clone());
        [of(&used), of(&unused), of(&revoked)]
    };
    let before = last_used(&hub).await;
    assert!(before[0].as_ref().is_some_and(Value::is_string), "{before:?}");
    assert_eq!(before[1..], [Some(Value::Null), None]);
    for _ in 0..2 {
        hub.terminate().await;
        hub.restart().await;
        assert_eq!(last_used(&hub).await, before);
    }
}

#[tokio::test]
async fn a_key_asked_for_with_wrong_fields_is_refused_by_their_names() {
    let hub = Hub::start().await;
    for (field, body) in [
        ("application", json!({"scopes": ["publish"]})),
        ("scopes", json!({"application": "it"})),
        ("scopes", json!({"application": "it", "scopes": ["everything"]})),
        ("expires_at", json!({"application": "it", "scopes": ["read"], "expires_at": "soon"})),
        ("colour", json!({"application": "it", "scopes": ["read"], "colour": 1})),
    ] {
        let problem = hub.admin().post("/v1/admin/keys", &body).await.expect_problem(400, "invalid-field").json();
        assert!(problem["field"].as_str().unwrap_or_default().starts_with(field), "{body}: {problem}");
    }
}
