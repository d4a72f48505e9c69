//! Nothing secret in the log, in an answer, in the metrics, or in clear on the disk (SEC-1, SEC-6).

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde_json::{Value, json};

use crate::support::{Api, Hub, Receiver, Reply, retry};

pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

pub(crate) fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[tokio::test]
async fn no_secret_is_in_the_log_the_metrics_or_in_clear_on_the_disk() {
    // Everything the hub itself can say.
    let mut hub =
        Hub::start_with(&[("LOGGING__LEVEL", "info,tidegate=trace"), ("BREAKER__FAILURE_THRESHOLD", "1000")]).await;
    let receiver = Receiver::start();
    let token = hub.admin_token();
    // The token may be shown once, at the very first start.
    assert!(hub.terminate().await.success());
    hub.clear_log();
    hub.restart().await;

    let key = hub.key(&["publish", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    let header = "Bearer the-endpoints-own-token-4711";
    for (path, reply) in [("/ok", Reply::Status(200)), ("/auth", Reply::Status(401)), ("/reset", Reply::Reset)] {
        receiver.always(path, reply);
    }
    let mut secrets = Vec::new();
    for path in ["/ok", "/auth", "/reset"] {
        let wanted = json!({"url": receiver.url(path), "org": "acme", "event_types": ["*"], "retry": retry(&[30]),
            "headers": {"x-endpoint-token": header}});
        let webhook = acme.webhook(&wanted).await;
        secrets.push(webhook["signing_secret"].as_str().unwrap().to_owned());
        acme.get(&format!("/v1/webhooks/{}", webhook["id"].as_str().unwrap())).await.expect(200);
    }
    for n in 0..5 {
        acme.publish(&json!({"id": format!("s-{n}"), "type": "a.b", "data": n})).await;
    }
    receiver.wait_for("/ok", 5).await;
    receiver.wait_for("/reset", 10).await;
    // Refusals must not repeat what was sent as a credential.
    let wrong = format!("{}x", &key);
    let refused = hub.public(&wrong).get("/v1/events/s-0").await.expect(401);
    assert!(!refused.text.contains(&wrong), "{}", refused.text);
    Api::with_bearer(hub.admin_address(), &format!("{token}x")).get("/v1/admin/keys").await.expect_any(&[401, 403]);
    acme.post("/v1/webhooks", &json!({"url": "https://u:hunter2@example.com/", "org": "acme", "event_types": ["*"]}))
        .await
        .expect(400);
    let metrics = hub.admin().get("/metrics").await.expect(200).text;
    let keys = hub.admin().get("/v1/admin/keys").await.expect(200).text;

    hub.kill();
    hub.restart().await;
    hub.public(&key).publish(&json!({"id": "after", "type": "a.b"})).await;
    receiver.wait_event("/ok", "after").await;
    assert!(hub.terminate().await.success());

    let log = hub.log();
    assert!(!log.is_empty());
    let mut needles = vec![
        ("API key", key.clone()),
        ("admin token", token.clone()),
        ("header", header.to_owned()),
        ("password", "hunter2".to_owned()),
    ];
    for secret in &secrets {
        needles.push(("signing secret", secret.trim_start_matches("whsec_").to_owned()));
    }
    for (what, needle) in &needles {
        for (place, text) in [("log", &log), ("metrics", &metrics), ("list of keys", &keys)] {
            let line = text.lines().find(|line| line.contains(needle.as_str()));
            assert!(line.is_none(), "the {place} shows the {what}: {line:?}");
        }
    }

    let mut on_disk: Vec<(&str, Vec<u8>)> = vec![("API key", key.clone().into_bytes())];
    for secret in &secrets {
        let text = secret.trim_start_matches("whsec_");
        on_disk.push(("signing secret", text.as_bytes().to_vec()));
        on_disk.push(("signing secret's bytes", base64::engine::general_purpose::STANDARD.decode(text).unwrap()));
    }
    let found = files(&hub.data_dir());
    assert!(found.len() > 2, "{found:?}");
    for file in &found {
        let bytes = fs::read(file).unwrap();
        for (what, needle) in &on_disk {
            assert!(!contains(&bytes, needle), "{} holds the {what} in clear", file.display());
        }
        if file.file_name().is_none_or(|name| name != "admin.token") {
            assert!(!contains(&bytes, token.as_bytes()), "{} holds the admin token", file.display());
        }
    }
}

#[tokio::test]
async fn credentials_of_webhooks_are_kept_sealed_and_never_repeated_not_even_from_an_answer_that_does() {
    let mut hub = Hub::start_with(&[("LOGGING__LEVEL", "info,tidegate=trace")]).await;
    let receiver = Receiver::start();
    let key = hub.key(&["publish", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    // An endpoint that tells in its answer whatever it was sent.
    receiver.answer("/echo", |one| {
        let told: Vec<_> = one.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        Reply::With(500, Vec::new(), told.join(" ").into_bytes())
    });
    let token = json!({"access_token": "granted-token-4711", "token_type": "bearer", "expires_in": 3600}).to_string();
    receiver.always("/token", Reply::With(200, Vec::new(), token.into_bytes()));
    let refusal = json!({"error": "oauth-secret-4713", "x": "oauth-secret-4713"}).to_string();
    receiver.always("/no-token", Reply::With(400, Vec::new(), refusal.into_bytes()));
    let oauth = |path: &str| json!({"kind": "oauth2", "token_url": receiver.url(path), "client_id": "hub", "client_secret": "oauth-secret-4713"});
    let mut paths = Vec::new();
    for auth in [
        json!({"kind": "bearer", "token": "bearer-token-4714"}),
        json!({"kind": "basic", "username": "hub", "password": "basic-secret-4715"}),
        oauth("/token"),
        oauth("/no-token"),
    ] {
        let wanted = json!({"url": receiver.url("/echo"), "org": "acme", "event_types": ["*"], "retry": retry(&[20]),
            "headers": {"x-endpoint-key": "Token header-key-4716"}, "auth": auth});
        let webhook = acme.webhook(&wanted).await;
        let path = format!("/v1/webhooks/{}", webhook["id"].as_str().unwrap());
        acme.act(&format!("{path}/rotate-secret")).await.expect(200);
        paths.push(path);
    }
    let mut proxied =
        json!({"url": "http://endpoint.invalid/echo", "org": "acme", "event_types": ["*"], "retry": retry(&[20])});
    proxied["proxy"] = json!({"url": receiver.url("/"), "username": "hub", "password": "proxy-secret-4717"});
    receiver.answer("http://endpoint.invalid/echo", |one| {
        Reply::With(500, Vec::new(), one.header("proxy-authorization").as_bytes().to_vec())
    });
    paths.push(format!("/v1/webhooks/{}", acme.webhook(&proxied).await["id"].as_str().unwrap()));
    acme.publish(&json!({"id": "s-1", "type": "a.b"})).await;

    let mut told = String::new();
    for path in &paths {
        let id = path.rsplit('/').next().unwrap();
        acme.wait_status("s-1", id, "dead_letter").await;
        acme.wait_attempts(id, 1).await;
        for answer in [
            acme.get(path).await,
            acme.get(&format!("{path}/attempts")).await,
            acme.get(&format!("/v1/dead-letters?consumer={id}")).await,
            acme.act(&format!("{path}/test")).await,
        ] {
            told.push_str(&answer.expect(200).text);
        }
    }
    told.push_str(&hub.admin().get("/metrics").await.expect(200).text);
    told.push_str(&acme.get("/v1/events/s-1").await.expect(200).text);
    assert!(told.contains("***"), "the answers were kept, without what they repeated");
    assert!(hub.terminate().await.success());
    told.push_str(&hub.log());
    let encoded = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let secrets = [
        "granted-token-4711".to_owned(),
        "oauth-secret-4713".to_owned(),
        "bearer-token-4714".to_owned(),
        "basic-secret-4715".to_owned(),
        "header-key-4716".to_owned(),
        "proxy-secret-4717".to_owned(),
        encoded("hub:basic-secret-4715"),
        encoded("hub:oauth-secret-4713"),
        encoded("hub:proxy-secret-4717"),
    ];
    for secret in &secrets {
        let line = told.lines().find(|line| line.contains(secret.as_str()));
        assert!(line.is_none(), "{secret} is told: {line:?}");
        for file in files(&hub.data_dir()) {
            assert!(!contains(&fs::read(&file).unwrap(), secret.as_bytes()), "{} holds {secret}", file.display());
        }
    }
}

#[cfg(unix)]
#[tokio::test]
async fn files_that_hold_secrets_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let hub = Hub::start().await;
    for name in ["admin.token", "store.key"] {
        let mode = fs::metadata(hub.data_dir().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_token_from_the_environment_is_used_and_not_written() {
    let mut hub = Hub::stopped(&[]);
    hub.set("TIDEGATE_ADMIN_TOKEN", "a-token-from-the-environment-0123456789");
    hub.restart().await;
    assert!(!hub.data_dir().join("admin.token").exists());
    let admin = Api::with_bearer(hub.admin_address(), "a-token-from-the-environment-0123456789");
    let settings: Value = admin.get("/v1/admin/settings").await.expect(200).json();
    assert!(settings.is_object());
    assert!(!hub.log().contains("a-token-from-the-environment"), "{}", hub.log());
}
