//! Requests that are refused, each with a token in the wrong place: what is said of them repeats none of it.

use reqwest::Method;
use serde_json::{Value, json};

use super::places::Told;
use super::planted::Scene;
use super::{SHOWN, token};
use crate::support::Api;

/// Sends all of them.
pub(super) async fn all(scene: &Scene, told: &mut Told) {
    documents(scene, told).await;
    torn(scene, told).await;
    credentials(scene, told).await;
}

/// Credentials that fit no kind.
fn auths() -> Vec<Value> {
    let of = || token("refused-auth");
    vec![
        json!(of()),
        json!([of()]),
        json!({"token": of()}),
        json!({"kind": "bearer", "secret": of()}),
        json!({"kind": "bearer", "token": [of()]}),
        json!({"kind": "bearer", "token": format!("{} with spaces", of())}),
        json!({"kind": "bearer", "token": of().repeat(200)}),
        json!({"kind": "bearer", "token": {"vault": of()}}),
        json!({"kind": "bearer", "token": {"env": of()}}),
        json!({"kind": "bearer", "token": {"file": of()}}),
        json!({"kind": "basic", "password": of()}),
        json!({"kind": "basic", "username": format!("hub:{}", of()), "password": "x"}),
        json!({"kind": "basic", "username": "hub", "password": format!("{}\n", of())}),
        json!({"kind": "oauth2", "client_id": "hub", "client_secret": of()}),
        json!({"kind": "oauth2", "client_id": "hub", "client_secret": of(), "token_url": "no url"}),
        json!({"kind": "oauth2", "client_id": "hub", "client_secret": "x",
            "token_url": format!("http://hub:{}@127.0.0.1/", of())}),
        json!({"kind": "header", "value": of()}),
        json!({"kind": "header", "name": "host", "value": of()}),
        json!({"kind": "mtls", "certificate": of(), "key": of()}),
    ]
}

/// URLs that hold a credential.
fn urls() -> Vec<Value> {
    let of = token("refused-url");
    vec![
        json!(format!("https://hub:{of}@example.com/")),
        json!(format!("https://{of}@example.com/")),
        json!(format!("https://hub:{of}@exa mple.com/")),
        json!(format!("https://hub:{of}@example.com/\n")),
        json!(format!("https://hub:{of}@example.com/{}", "x".repeat(3_000))),
        json!(format!("ftp://hub:{of}@example.com/")),
        json!([of]),
    ]
}

async fn refused(api: &Api, method: &str, path: &str, body: &Value, told: &mut Told) {
    let answer = api.call(method, path, body).await;
    assert!((400..500).contains(&answer.status), "{method} {path} {body}: {} {}", answer.status, answer.text);
    told.put("refusals", answer.text);
}

async fn documents(scene: &Scene, told: &mut Told) {
    let (admin, acme) = (scene.hub.admin(), &scene.acme);
    let webhook = json!({"url": "https://example.com/", "event_types": ["*"]});
    let upstream = json!({"id": "refused", "base_url": "https://example.com"});
    let with = |base: &Value, name: &str, value: Value| {
        let mut one = base.clone();
        one[name] = value;
        one
    };
    let kept = format!("/v1/admin/upstreams/{SHOWN}-basic");
    for auth in auths() {
        // Where a secret is, only an upstream can say.
        refused(acme, "POST", "/v1/webhooks", &with(&webhook, "auth", auth.clone()), told).await;
        refused(&admin, "POST", "/v1/admin/upstreams", &with(&upstream, "auth", auth.clone()), told).await;
        refused(&admin, "PATCH", &kept, &json!({"auth": auth}), told).await;
        refused(&admin, "POST", &format!("{kept}/rotate-credential"), &json!({"org": "acme", "auth": auth}), told)
            .await;
    }
    for url in urls() {
        refused(acme, "POST", "/v1/webhooks", &with(&webhook, "url", url.clone()), told).await;
        refused(acme, "POST", "/v1/webhooks", &with(&webhook, "proxy", json!({"url": url})), told).await;
        refused(&admin, "POST", "/v1/admin/upstreams", &with(&upstream, "base_url", url), told).await;
    }
    let of = token("refused");
    let by_query = json!(format!("https://example.com/?key={of}"));
    refused(&admin, "POST", "/v1/admin/upstreams", &with(&upstream, "base_url", by_query), told).await;
    let source = |more: Value| {
        let mut one = json!({"verification": {"kind": "bearer"}});
        one.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        one
    };
    let cases: Vec<(&Api, &str, &str, Value)> = vec![
        (acme, "POST", "/v1/webhooks", with(&webhook, "headers", json!({"x-a": [of]}))),
        (acme, "POST", "/v1/webhooks", with(&webhook, "headers", json!({"x-a": format!("{of}\n")}))),
        (acme, "POST", "/v1/webhooks", with(&webhook, "headers", json!({"x-a": of.repeat(100)}))),
        (acme, "POST", "/v1/webhooks", with(&webhook, "headers", json!(of))),
        (acme, "POST", "/v1/webhooks", with(&webhook, "token", json!(of))),
        (acme, "POST", "/v1/webhooks", with(&webhook, "signing_secret", json!(of))),
        (acme, "POST", "/v1/webhooks", with(&webhook, "proxy", json!(of))),
        (acme, "POST", "/v1/webhooks", with(&webhook, "proxy", json!({"url": "http://127.0.0.1:1", "token": of}))),
        (acme, "POST", "/v1/webhooks", with(&webhook, "proxy", json!({"url": "http://127.0.0.1:1", "password": of}))),
        (acme, "POST", "/v1/webhooks", with(&webhook, "breaker", json!({"token": of}))),
        (acme, "POST", "/v1/sources", source(json!({"secrets": of}))),
        (acme, "POST", "/v1/sources", source(json!({"secret": [of]}))),
        (acme, "POST", "/v1/sources", source(json!({"secret": of.repeat(20)}))),
        (acme, "POST", "/v1/sources", json!({"verification": of})),
        (acme, "POST", "/v1/sources", json!({"verification": {"kind": "bearer", "token": of}})),
        (acme, "POST", "/v1/sources", source(json!({"secret": "x", "mapping": {"type": {"token": of}}}))),
        (acme, "POST", "/v1/sources", source(json!({"secret": "x", "mapping": {"token": of}}))),
        (&admin, "POST", "/v1/admin/upstreams", with(&upstream, "token", json!(of))),
        (&admin, "POST", "/v1/admin/upstreams", with(&upstream, "reads", json!({"x": {"path": "/x", "token": of}}))),
        (&admin, "POST", "/v1/admin/upstreams", with(&upstream, "publishes", json!([{"name": "x", "token": of}]))),
        (
            &admin,
            "POST",
            "/v1/admin/upstreams",
            with(
                &upstream,
                "publishes",
                json!([{"name": "x", "event_types": ["*"],
                    "call": {"path": "/x", "headers": {"authorization": format!("Bearer {of}")}}}]),
            ),
        ),
        (&admin, "POST", "/v1/admin/keys", json!({"application": "x", "scopes": ["read"], "key": of})),
        (&admin, "PATCH", "/v1/admin/settings", json!({"admin_token": of})),
        (acme, "POST", "/v1/events", json!({"type": "a.b", "authorization": of})),
        (acme, "POST", "/v1/events", json!({"type": "a.b", SHOWN: of})),
        (acme, "POST", "/v1/events/batch?atomic=true", json!([{"type": "a.b", "authorization": of}])),
        (acme, "POST", "/v1/consumers", json!({"name": "x", "event_types": ["*"], "token": of})),
        (acme, "POST", "/v1/links", json!({"source_module": "a", "token": of})),
        (acme, "PUT", "/v1/catalog/types/x.y", json!({"token": of})),
        (
            acme,
            "PUT",
            "/v1/catalog/types/x.y",
            json!({"redactions": [{"path": "/data/a", "action": "mask", "token": of}]}),
        ),
        (acme, "PUT", "/v1/catalog/lifecycles/x", json!({"token": of})),
        (acme, "PATCH", "/v1/catalog/policy", json!({"quarantine": {"token": of}})),
        (acme, "POST", "/v1/exports", json!({"token": of})),
        (acme, "POST", "/v1/imports", json!({"token": of})),
        (acme, "POST", "/v1/dead-letters/redrive", json!({"token": of})),
    ];
    for (api, method, path, body) in cases {
        refused(api, method, path, &body, told).await;
    }
}

/// Bodies that are no object, or no JSON.
async fn torn(scene: &Scene, told: &mut Told) {
    let of = token("refused-body");
    let bodies = [
        format!("{{\"auth\":{{\"kind\":\"bearer\",\"token\":\"{of}\""),
        format!("{{\"auth\":{{\"kind\":\"bearer\",\"token\":\"{of}\"}}}} {of}"),
        format!("\"{of}\""),
        format!("[\"{of}\"]"),
        of,
    ];
    let admin = scene.hub.admin();
    let paths = ["/v1/webhooks", "/v1/sources", "/v1/consumers", "/v1/links", "/v1/admin/upstreams", "/v1/admin/keys"];
    for path in paths {
        for body in &bodies {
            let api = if path.contains("/admin/") { &admin } else { &scene.acme };
            let answer = api.post_bytes(path, "application/json", body.clone().into_bytes()).await;
            assert_eq!(answer.status, 400, "{path} {body}: {}", answer.text);
            told.put("refusals", answer.text);
        }
    }
}

/// Credentials of the hub itself: wrong ones, and right ones in the wrong place.
async fn credentials(scene: &Scene, told: &mut Told) {
    let (public, admin) = (scene.hub.public_address(), scene.hub.admin_address());
    let wrong = token("refused-key");
    let basic = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("hub:{wrong}"));
    let basic = format!("Basic {basic}");
    let mut clients = Vec::new();
    for key in scene.made.iter().filter(|(what, _)| *what != "private key").map(|(_, key)| key).chain([&wrong]) {
        clients.extend([Api::with_key(admin, key), Api::with_bearer(admin, &format!("{key}x"))]);
        clients.extend([Api::with_key(public, &format!("{key}x")), Api::with_bearer(public, &format!("x{key}"))]);
    }
    for client in &clients {
        for path in ["/v1/webhooks", "/v1/admin/keys", "/v1/events/none"] {
            let answer = client.get(path).await;
            assert!([401, 404].contains(&answer.status), "{}", answer.text);
            told.put("refusals", answer.text);
        }
    }
    for address in [public, admin] {
        let headers = [("authorization", basic.as_str())];
        let answer = Api::anonymous(address).try_send(Method::GET, "/v1/webhooks", &headers, None).await.unwrap();
        told.put("refusals", answer.expect(401).text);
    }
    // In the query, of those who are known and of those who are not.
    let key = &scene.made.iter().find(|(what, _)| *what == "API key").unwrap().1;
    for given in [&wrong, key] {
        for path in
            ["/v1/events", "/v1/webhooks", "/v1/cdc", "/v1/links", "/v1/jobs", "/v1/dead-letters", "/v1/exports"]
        {
            for name in ["api_key", "token"] {
                let path = format!("{path}?{name}={given}");
                told.put("refusals", scene.acme.get(&path).await.expect(400).text);
                told.put("refusals", Api::anonymous(public).get(&path).await.expect(401).text);
            }
        }
        let read = format!("/v1/upstreams/{SHOWN}-basic/reads/echo?token={given}");
        told.put("refusals", scene.acme.get(&read).await.expect(400).text);
    }
    // A key of idempotency that fits nothing.
    let long = wrong.repeat(20);
    for given in [format!("{wrong} {wrong}"), long] {
        let headers = [("idempotency-key", given.as_str()), ("content-type", "application/json")];
        let answer =
            scene.acme.try_send(Method::POST, "/v1/events", &headers, Some(b"{\"type\":\"a.b\"}".to_vec())).await;
        told.put("refusals", answer.unwrap().expect(400).text);
    }
}
