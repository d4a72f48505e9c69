//! Third parties post their webhooks: verified, mapped, taken once; refused and stored nowhere when they do not verify;
//! secrets that never come out (ING-4).

use std::process::{Command, Stdio};

use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::support::{Answer, Api, Hub, Receiver, items};

const SECRET: &str = "It's a Secret to Everybody";

fn github_signature(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}

async fn post(hub: &Hub, name: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let path = format!("/v1/sources/{name}");
    hub.anonymous().try_send(Method::POST, &path, headers, Some(body.to_vec())).await.unwrap()
}

async fn push(hub: &Hub, secret: &str, delivery: &str, body: &[u8]) -> Answer {
    let signature = github_signature(secret, body);
    let headers = [
        ("content-type", "application/json"),
        ("x-github-event", "push"),
        ("x-github-delivery", delivery),
        ("x-hub-signature-256", signature.as_str()),
    ];
    post(hub, "github", &headers, body).await
}

async fn github(api: &Api) {
    let source = json!({"name": "github", "verification": {"kind": "github"}, "secret": SECRET});
    api.post("/v1/sources", &source).await.expect(201);
}

#[tokio::test]
async fn a_verified_request_becomes_an_event_of_the_sources_org_and_a_repeat_a_duplicate() {
    let mut hub = Hub::start().await;
    let receiver = Receiver::start();
    let key = hub.key(&["publish", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    acme.webhook(&json!({"url": receiver.url("/all"), "org": "acme", "event_types": ["github.*"]})).await;
    github(&acme).await;
    let body = br#"{"repository":{"full_name":"a/b"},"org":"globex","n":12345678901234567890,"m":1.10}"#;
    let receipt = push(&hub, SECRET, "d-1", body).await.expect(202).json();
    assert_eq!((&receipt["id"], &receipt["duplicate"]), (&json!("d-1"), &json!(false)));
    let read = acme.get("/v1/events/d-1").await.expect(200);
    assert!(
        read.text
            .contains(r#""data":{"repository":{"full_name":"a/b"},"org":"globex","n":12345678901234567890,"m":1.10}"#)
    );
    let event = read.json();
    assert_eq!((&event["type"], &event["org"]), (&json!("github.push"), &json!("acme")));
    assert_eq!((&event["source"], &event["subject"]), (&json!("github"), &json!("a/b")));
    assert_eq!(receiver.wait_for("/all", 1).await[0].id(), "d-1");
    assert_eq!(push(&hub, SECRET, "d-1", body).await.expect(200).json()["duplicate"], true);
    push(&hub, SECRET, "d-1", b"{}").await.expect_problem(409, "id-conflict");
    // Its secret outlives the process.
    hub.kill();
    hub.restart().await;
    push(&hub, SECRET, "d-2", body).await.expect(202);
}

#[tokio::test]
async fn what_does_not_verify_is_stored_nowhere_and_counted() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    github(&acme).await;
    push(&hub, "another secret", "d-1", b"{}").await.expect_problem(401, "unauthorized");
    post(&hub, "github", &[("x-github-event", "push")], b"{}").await.expect_problem(401, "unauthorized");
    let bad = [("x-hub-signature-256", "sha256=zz")];
    post(&hub, "github", &bad, b"{}").await.expect_problem(401, "unauthorized");
    // A key of the hub is no signature.
    acme.post("/v1/sources/github", &json!({})).await.expect_problem(401, "unauthorized");
    post(&hub, "unknown", &[], b"{}").await.expect_problem(404, "not-found");
    let big = vec![b' '; (1 << 20) + 1];
    push(&hub, SECRET, "d-1", &big).await.expect_problem(413, "too-large");
    assert!(items(&acme.get("/v1/events").await.expect(200).json()).is_empty());
    let metrics = hub.admin().get("/metrics").await.expect(200).text;
    let counted = "tidegate_source_requests_total{kind=\"github\",outcome=\"unverified\"} 4\n";
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn secrets_never_come_out_and_are_rotated_with_a_second_one() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    github(&acme).await;
    let shown = acme.get("/v1/sources/github").await.expect(200).json();
    assert_eq!((&shown["secret_last4"], &shown["second_secret_last4"]), (&json!("body"), &Value::Null));
    let (old, new) = (SECRET, "the next one, as secret");
    let change = async |body: Value| acme.patch("/v1/sources/github", &body).await.expect(200).json();
    change(json!({"second_secret": new})).await;
    push(&hub, old, "r-1", b"{}").await.expect(202);
    push(&hub, new, "r-2", b"{}").await.expect(202);
    change(json!({"secret": new, "second_secret": null})).await;
    push(&hub, old, "r-3", b"{}").await.expect_problem(401, "unauthorized");
    push(&hub, new, "r-4", b"{}").await.expect(202);
    let mut seen = acme.get("/v1/sources").await.expect(200).text;
    seen.push_str(&acme.get("/v1/sources/github").await.expect(200).text);
    seen.push_str(&hub.log());
    assert!(!seen.contains(old) && !seen.contains(new), "{seen}");
    let store = std::fs::read(hub.data_dir().join("store").join("db")).unwrap();
    for secret in [old, new] {
        assert!(!store.windows(secret.len()).any(|part| part == secret.as_bytes()), "a secret is in the store");
    }
}

#[tokio::test]
async fn a_mapping_of_ones_own_reads_pointers_headers_and_constants() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let source = json!({
        "name": "shop", "verification": {"kind": "hmac", "header": "X-Sig", "prefix": "sha256="}, "secret": "s",
        "mapping": {"type": {"pointer": "/kind", "prefix": "shop."}, "id": {"header": "X-Request-Id"},
            "subject": {"constant": "orders"}, "occurred_at": {"pointer": "/at"}, "data": "/order"},
    });
    acme.post("/v1/sources", &source).await.expect(201);
    let body = br#"{"kind":"paid","at":1700000000,"order":{"total":1.10}}"#;
    let signature = github_signature("s", body);
    let headers = [("x-sig", signature.as_str()), ("x-request-id", "q-1")];
    post(&hub, "shop", &headers, body).await.expect(202);
    let read = acme.get("/v1/events/q-1").await.expect(200);
    assert!(read.text.contains(r#""data":{"total":1.10}"#), "{}", read.text);
    let event = read.json();
    assert_eq!((&event["type"], &event["subject"]), (&json!("shop.paid"), &json!("orders")));
    assert_eq!(event["occurred_at"], "2023-11-14T22:13:20.000Z");
}

#[tokio::test]
async fn a_challenge_is_given_back_and_stored_nowhere() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let source = json!({"name": "slack", "verification": {"kind": "slack", "tolerance_s": 300}, "secret": "s"});
    acme.post("/v1/sources", &source).await.expect(201);
    let body = br#"{"challenge":"3eZbrw1aB","type":"url_verification"}"#;
    let now_s = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    for (at_s, status) in [(now_s, 200), (now_s - 400, 401)] {
        let mut mac = Hmac::<Sha256>::new_from_slice(b"s").unwrap();
        mac.update(format!("v0:{at_s}:").as_bytes());
        mac.update(body);
        let signature = format!("v0={}", hex::encode(mac.finalize().into_bytes()));
        let at = at_s.to_string();
        let headers = [("x-slack-request-timestamp", at.as_str()), ("x-slack-signature", signature.as_str())];
        let answer = post(&hub, "slack", &headers, body).await.expect(status);
        if status == 200 {
            assert_eq!(answer.json(), json!({"challenge": "3eZbrw1aB"}));
        }
    }
    assert!(items(&acme.get("/v1/events").await.expect(200).json()).is_empty());
}

#[tokio::test]
async fn sources_are_made_listed_changed_and_deleted_within_their_org() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let globex = hub.public(&hub.key(&["publish", "manage", "read"], Some("globex")).await);
    github(&acme).await;
    let made = acme.post("/v1/sources", &json!({"verification": {"kind": "none"}})).await.expect(201).json();
    let name = made["name"].as_str().unwrap().to_owned();
    assert!(name.starts_with("src_") && made["path"] == format!("/v1/sources/{name}"), "{made}");
    post(&hub, &name, &[], b"plain").await.expect(202);
    let page = acme.get("/v1/sources?limit=1").await.expect(200).json();
    assert_eq!((&items(&page)[0]["name"], &page["has_more"]), (&json!("github"), &json!(true)));
    let page = acme.get("/v1/sources?limit=1&cursor=github").await.expect(200).json();
    assert_eq!((&items(&page)[0]["name"], &page["has_more"]), (&json!(name), &json!(false)));

    let taken = json!({"name": "github", "verification": {"kind": "none"}});
    globex.post("/v1/sources", &taken).await.expect_problem(409, "conflict");
    globex.post("/v1/sources", &json!({"org": "acme", "verification": {"kind": "none"}})).await.expect(403);
    for (method, body) in [("GET", Value::Null), ("PATCH", json!({"description": "x"})), ("DELETE", Value::Null)] {
        globex.call(method, "/v1/sources/github", &body).await.expect_problem(404, "not-found");
    }
    assert!(items(&globex.get("/v1/sources").await.expect(200).json()).is_empty());
    let reader = hub.public(&hub.key(&["publish", "read"], Some("acme")).await);
    for (method, path) in [
        ("GET", "/v1/sources"),
        ("POST", "/v1/sources"),
        ("GET", "/v1/sources/github"),
        ("DELETE", "/v1/sources/github"),
    ] {
        reader.call(method, path, &json!({})).await.expect_problem(403, "forbidden");
        hub.anonymous().call(method, path, &json!({})).await.expect_problem(401, "unauthorized");
    }
    let refused = acme.patch("/v1/sources/github", &json!({"org": "globex"})).await;
    assert_eq!(refused.expect_problem(400, "invalid-field").json()["field"], "org");
    let changed = acme.patch("/v1/sources/github", &json!({"verification": {"kind": "bearer"}})).await.expect(200);
    assert_eq!(changed.json()["mapping"]["type"], Value::Null, "the rules were the provider's");
    let bearer = [("authorization", format!("Bearer {SECRET}"))];
    let headers: Vec<_> = bearer.iter().map(|(name, value)| (*name, value.as_str())).collect();
    post(&hub, "github", &headers, b"{}").await.expect(202);
    acme.delete("/v1/sources/github").await.expect(204);
    post(&hub, "github", &headers, b"{}").await.expect_problem(404, "not-found");
}

/// Runs `tidegate sources …` beside a hub; gives what it said, and its exit code.
fn sources(hub: &Hub, arguments: &[&str]) -> (String, String, Option<i32>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("sources").args(arguments).arg("--data-dir").arg(hub.data_dir());
    command.current_dir(hub.data_dir()).stdin(Stdio::null());
    let foreign = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEGATE"));
    for (name, _) in foreign {
        command.env_remove(name);
    }
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code())
}

#[tokio::test]
async fn sources_are_made_shown_changed_and_deleted_on_the_command_line() {
    let hub = Hub::start().await;
    let file = hub.data_dir().join("secret");
    std::fs::write(&file, format!("{SECRET}\n")).unwrap();
    let file = file.to_str().unwrap();
    let create = ["create", "--name", "github", "--org", "acme", "--verification", "github", "--secret-file", file];
    let (said, wrong, code) = sources(&hub, &[&create[..], &["--json"]].concat());
    assert_eq!(code, Some(0), "{wrong}");
    let made: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&made["name"], &made["path"]), (&json!("github"), &json!("/v1/sources/github")));
    assert!(!said.contains(SECRET), "{said}");
    // It is a source like any other.
    push(&hub, SECRET, "d-1", b"{}").await.expect(202);

    let (said, _, _) = sources(&hub, &["list"]);
    assert!(said.contains("NAME") && said.contains("github") && said.contains("acme"), "{said}");
    let (said, _, _) = sources(&hub, &["list", "--org", "acme", "--json"]);
    assert_eq!(items(&serde_json::from_str(&said).unwrap()).len(), 1);
    std::fs::write(file, "the next one\n").unwrap();
    let (said, wrong, code) = sources(&hub, &["update", "github", "--second-secret-file", file, "--json"]);
    assert_eq!(code, Some(0), "{wrong}");
    let changed: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(changed["second_secret_last4"], " one", "{said}");
    push(&hub, "the next one", "d-2", b"{}").await.expect(202);
    let (said, _, _) = sources(&hub, &["update", "github", "--no-second-secret", "--description", "ours", "--json"]);
    let changed: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&changed["second_secret_last4"], &changed["description"]), (&Value::Null, &json!("ours")));
    let (said, _, _) = sources(&hub, &["show", "github", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap(), changed);

    // Refusals come with the code that says so, and tell what is wrong.
    let (_, wrong, code) = sources(&hub, &["create", "--name", "UPPER", "--verification", "none"]);
    assert_eq!(code, Some(4), "{wrong}");
    assert!(wrong.contains("name"), "{wrong}");
    assert_eq!(sources(&hub, &["show", "none"]).2, Some(3));
    assert_eq!(sources(&hub, &["create", "--verification", "nonsense"]).2, Some(2));
    assert_eq!(sources(&hub, &["delete", "github"]).2, Some(0));
    assert_eq!(sources(&hub, &["show", "github"]).2, Some(3));
}
