//! How a webhook shows its endpoint who is calling, and by which way (WHK-4): tokens, passwords, certificates, proxies.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, Stream};
use serde_json::{Value, json};
use tidegate::ground::clock::{Clock as _, ManualClock};
use tidegate::ground::context::WriteContext;
use tidegate::ground::fields::Fields;

use crate::embed::{START, directory, open, publish, stop_settled};
use crate::support::{Hub, Receiver, Reply, items, retry, until};

fn hook(receiver: &Receiver, path: &str, more: Value) -> Value {
    let mut wanted = json!({"url": receiver.url(path), "org": "acme", "event_types": ["*"], "retry": retry(&[50, 50])});
    for (name, value) in more.as_object().unwrap() {
        wanted[name] = value.clone();
    }
    wanted
}

/// Answers requests for tokens with `token-N`, N counting them.
fn token_endpoint(receiver: &Receiver, path: &str, expires_in: Value) {
    let count = AtomicUsize::new(0);
    receiver.answer(path, move |_| {
        let n = count.fetch_add(1, Ordering::SeqCst) + 1;
        let body = json!({"access_token": format!("token-{n}"), "token_type": "Bearer", "expires_in": expires_in});
        Reply::With(200, vec![("content-type", "application/json".to_owned())], body.to_string().into_bytes())
    });
}

fn oauth(receiver: &Receiver, more: Value) -> Value {
    let mut auth = json!({"kind": "oauth2", "token_url": receiver.url("/token"), "client_id": "hub", "client_secret": "p@ss wörd"});
    for (name, value) in more.as_object().unwrap() {
        auth[name] = value.clone();
    }
    json!({"auth": auth})
}

#[tokio::test]
async fn tokens_and_passwords_go_out_with_each_delivery_and_are_never_shown() {
    let mut hub = Hub::start().await;
    let receiver = Receiver::start();
    let key = hub.key(&["publish", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    let bearer = json!({"auth": {"kind": "bearer", "token": "token-0123456789"}});
    let basic = json!({"auth": {"kind": "basic", "username": "Aladdin", "password": "open sesame"}});
    let made = acme.webhook(&hook(&receiver, "/bearer", bearer)).await;
    assert_eq!(made["auth"], json!({"kind": "bearer", "token_last4": "6789"}), "{made}");
    let path = format!("/v1/webhooks/{}", made["id"].as_str().unwrap());
    let shown = acme.webhook(&hook(&receiver, "/basic", basic)).await;
    assert_eq!(shown["auth"], json!({"kind": "basic", "username": "Aladdin"}), "{shown}");
    acme.publish(&json!({"id": "one", "type": "a.b"})).await;
    assert_eq!(receiver.wait_event("/bearer", "one").await.header("authorization"), "Bearer token-0123456789");
    let basic = receiver.wait_event("/basic", "one").await;
    assert_eq!(basic.header("authorization"), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    // What is not named stays, over changes and kills; null takes it away.
    acme.patch(&path, &json!({"concurrency": 2})).await.expect(200);
    hub.kill();
    hub.restart().await;
    let acme = hub.public(&key);
    acme.publish(&json!({"id": "two", "type": "a.b"})).await;
    assert_eq!(receiver.wait_event("/bearer", "two").await.header("authorization"), "Bearer token-0123456789");
    assert_eq!(acme.patch(&path, &json!({"auth": null})).await.expect(200).json()["auth"], Value::Null);
    acme.publish(&json!({"id": "three", "type": "a.b"})).await;
    assert_eq!(receiver.wait_event("/bearer", "three").await.header("authorization"), "");
}

#[tokio::test]
async fn a_token_is_asked_for_once_for_all_who_need_it() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    token_endpoint(&receiver, "/token", json!(3_600));
    let more = oauth(&receiver, json!({"scope": "events write", "audience": "https://api.example"}));
    let made = acme.webhook(&hook(&receiver, "/hook", more)).await;
    assert_eq!((&made["auth"]["client_id"], &made["auth"]["client_secret"]), (&json!("hub"), &Value::Null), "{made}");
    acme.webhook(&hook(&receiver, "/body", oauth(&receiver, json!({"client_auth": "body"})))).await;
    for n in 0..40 {
        acme.publish(&json!({"id": format!("{n}"), "type": "a.b"})).await;
    }
    let came = receiver.wait_for("/hook", 40).await;
    receiver.wait_for("/body", 40).await;
    let tokens = receiver.on("/token");
    assert_eq!(tokens.len(), 2, "one for each webhook: {tokens:?}");
    let used = came[0].header("authorization");
    assert!(used.starts_with("Bearer token-") && came.iter().all(|one| one.header("authorization") == used));
    let (by_header, by_body): (Vec<_>, Vec<_>) =
        tokens.into_iter().partition(|one| !one.header("authorization").is_empty());
    // `hub:p@ss wörd`, each part form-urlencoded first (RFC 6749, 2.3.1).
    assert_eq!(by_header[0].header("authorization"), "Basic aHViOnAlNDBzcyt3JUMzJUI2cmQ=");
    let form = std::str::from_utf8(&by_header[0].body).unwrap();
    assert_eq!(form, "grant_type=client_credentials&scope=events+write&audience=https%3A%2F%2Fapi.example");
    let form = std::str::from_utf8(&by_body[0].body).unwrap();
    assert_eq!(form, "grant_type=client_credentials&client_id=hub&client_secret=p%40ss+w%C3%B6rd");
    assert_eq!(by_body[0].header("content-type"), "application/x-www-form-urlencoded");
}

#[tokio::test]
async fn a_token_is_replaced_before_its_end() {
    let dir = directory();
    let clock = ManualClock::starting_at(START);
    let receiver = Receiver::start();
    token_endpoint(&receiver, "/token", json!("3600"));
    let hub = open(dir.path(), clock.clone(), |config| config.delivery.allow_private_networks = true).await;
    let wanted = hook(&receiver, "/hook", oauth(&receiver, json!({})));
    let context = WriteContext { by: "test".into(), at: clock.now(), ..WriteContext::default() };
    hub.create_webhook(Fields::parse(wanted.to_string().as_bytes()).unwrap(), None, context).await.unwrap();
    for (advance_s, id, token) in [(0, "new", "token-1"), (3_539, "kept", "token-1"), (1, "replaced", "token-2")] {
        clock.advance(Duration::from_secs(advance_s));
        publish(&hub, "a.b", id).await;
        let used = receiver.wait_event("/hook", id).await;
        assert_eq!(used.header("authorization"), format!("Bearer {token}"), "{id}");
    }
    assert_eq!(receiver.on("/token").len(), 2);
    stop_settled(&hub).await;
}

#[tokio::test]
async fn a_token_that_is_refused_is_replaced_once_and_then_the_endpoint_has_refused() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    token_endpoint(&receiver, "/token", json!(3_600));
    // The endpoint takes the first two tokens for one delivery each, and then none.
    let allowed = Mutex::new(vec!["Bearer token-1".to_owned(), "Bearer token-2".to_owned()]);
    receiver.answer("/hook", move |one| {
        let mut allowed = allowed.lock();
        let fits = allowed.first().is_some_and(|token| one.header("authorization") == token);
        if fits {
            allowed.remove(0);
        }
        Reply::Status(if fits { 200 } else { 401 })
    });
    let webhook = acme.webhook(&hook(&receiver, "/hook", oauth(&receiver, json!({})))).await;
    let id = webhook["id"].as_str().unwrap();
    for (event, status) in [("one", "processed"), ("two", "processed"), ("three", "dead_letter")] {
        acme.publish(&json!({"id": event, "type": "a.b"})).await;
        assert_eq!(acme.wait_status(event, id, status).await["attempts"], 1, "{event}");
    }
    let used: Vec<_> =
        receiver.on("/hook").iter().map(|one| format!("{} {}", one.id(), one.header("authorization"))).collect();
    let wanted = [
        "one Bearer token-1",
        "two Bearer token-1",
        "two Bearer token-2",
        "three Bearer token-2",
        "three Bearer token-3",
    ];
    assert_eq!(used, wanted);
    let letter = acme.wait_dead_letters(id, 1).await.remove(0);
    assert_eq!(letter["error"]["kind"], "auth", "{letter}");
}

#[tokio::test]
async fn a_token_endpoint_in_trouble_is_asked_again_and_one_that_refuses_is_not() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    let refusal = json!({"error": "invalid_client", "error_description": "your secret is hunter2"}).to_string();
    receiver.script("/token", [Reply::Status(503), Reply::Reset, Reply::With(401, vec![], refusal.into_bytes())]);
    let mut wanted = hook(&receiver, "/hook", oauth(&receiver, json!({})));
    wanted["ordering"] = json!("strict");
    let webhook = acme.webhook(&wanted).await;
    let id = webhook["id"].as_str().unwrap();
    acme.publish(&json!({"id": "one", "type": "a.b"})).await;
    acme.wait_status("one", id, "dead_letter").await;
    let mut attempts = acme.wait_attempts(id, 3).await;
    attempts.sort_by_key(|one| one["attempt"].as_u64());
    let told: Vec<_> = attempts.iter().map(|one| (one["outcome"].clone(), one["status"].clone())).collect();
    assert_eq!(told, [(json!("connect"), Value::Null), (json!("connect"), Value::Null), (json!("auth"), Value::Null)]);
    let errors: Vec<_> = attempts.iter().map(|one| one["error"].as_str().unwrap()).collect();
    assert!(errors.iter().all(|error| error.starts_with("the token endpoint")), "{errors:?}");
    assert_eq!(errors[2], "the token endpoint answered 401 (invalid_client)");
    assert!(receiver.on("/hook").is_empty(), "nothing goes out without its token");
}

#[tokio::test]
async fn a_token_endpoint_inside_is_refused_like_an_endpoint() {
    let hub = Hub::start_with(&[("DELIVERY__ALLOW_PRIVATE_NETWORKS", "false")]).await;
    let acme = hub.acme().await;
    let wanted =
        |auth: Value| json!({"url": "https://example.com/", "org": "acme", "event_types": ["*"], "auth": auth});
    for (field, host) in
        [("auth.token_url", "127.0.0.1"), ("auth.token_url", "169.254.169.254"), ("auth.token_url", "localhost")]
    {
        let auth =
            json!({"kind": "oauth2", "token_url": format!("http://{host}/"), "client_id": "a", "client_secret": "b"});
        let problem = acme.post("/v1/webhooks", &wanted(auth)).await.expect_problem(400, "invalid-field").json();
        assert_eq!(problem["field"], field, "{problem}");
    }
    let mut inside = wanted(Value::Null);
    inside["proxy"] = json!({"url": "http://10.0.0.1:3128"});
    let problem = acme.post("/v1/webhooks", &inside).await.expect_problem(400, "invalid-field").json();
    assert_eq!(problem["field"], "proxy.url", "{problem}");
    assert!(items(&acme.get("/v1/webhooks").await.expect(200).json()).is_empty());
}

#[tokio::test]
async fn deliveries_go_through_the_proxy_of_the_webhook_or_of_the_operator() {
    let (own, operators) = (Receiver::start(), Receiver::start());
    let hub = Hub::start_with(&[("DELIVERY__PROXY", &operators.url(""))]).await;
    let acme = hub.acme().await;
    // Nobody but a proxy can find these.
    let base =
        json!({"url": "http://endpoint.invalid/hook", "org": "acme", "event_types": ["*"], "retry": retry(&[50])});
    acme.webhook(&base).await;
    let mut by_own = base.clone();
    by_own["proxy"] = json!({"url": own.url("/"), "username": "hub", "password": "pr0xy-secret"});
    let made = acme.webhook(&by_own).await;
    assert_eq!(made["proxy"], json!({"url": own.url("/"), "username": "hub"}), "{made}");
    acme.publish(&json!({"id": "one", "type": "a.b"})).await;
    let through = own.wait_event("http://endpoint.invalid/hook", "one").await;
    assert_eq!(through.header("proxy-authorization"), "Basic aHViOnByMHh5LXNlY3JldA==");
    assert_eq!(through.header("host"), "endpoint.invalid");
    let through = operators.wait_event("http://endpoint.invalid/hook", "one").await;
    assert_eq!(through.header("proxy-authorization"), "");
    let path = format!("/v1/webhooks/{}", made["id"].as_str().unwrap());
    acme.patch(&path, &json!({"proxy": null})).await.expect(200);
    acme.publish(&json!({"id": "two", "type": "a.b"})).await;
    operators
        .wait_until("both go through the operator's", |all| all.iter().filter(|one| one.id() == "two").count() == 2)
        .await;
}

/// An authority and what it has signed.
struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    fn sign(&self, name: &str) -> (Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }
}

/// An https endpoint that takes only clients with a certificate of `clients`. Gives its URL and the certificates it saw.
fn tls_endpoint(server: &Authority, clients: &Authority) -> (String, Arc<Mutex<Vec<Vec<u8>>>>) {
    let mut roots = RootCertStore::empty();
    roots.add(clients.certificate.der().clone()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build().unwrap();
    let (certificate, key) = server.sign("127.0.0.1");
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/hook", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (config, noted) = (config.clone(), noted.clone());
            std::thread::spawn(move || serve_tls(stream, config, &noted));
        }
    });
    (url, seen)
}

/// One request of a connection; a client without the right certificate gets none through.
fn serve_tls(mut stream: std::net::TcpStream, config: Arc<ServerConfig>, seen: &Mutex<Vec<Vec<u8>>>) {
    let mut connection = ServerConnection::new(config).unwrap();
    let mut request = Vec::new();
    let mut chunk = [0; 4_096];
    while !request.windows(4).any(|four| four == b"\r\n\r\n") {
        match Stream::new(&mut connection, &mut stream).read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(count) => request.extend_from_slice(&chunk[..count]),
        }
    }
    let certificates = connection.peer_certificates().unwrap_or_default();
    seen.lock().extend(certificates.iter().map(|one: &CertificateDer<'_>| one.to_vec()));
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    // The test looks at what was seen.
    Stream::new(&mut connection, &mut stream).write_all(answer).ok();
}

#[tokio::test]
async fn with_a_certificate_the_endpoint_knows_who_calls_in_the_handshake() {
    let (servers, clients, strangers) =
        (Authority::new("servers"), Authority::new("clients"), Authority::new("strangers"));
    let (url, seen) = tls_endpoint(&servers, &clients);
    let dir = directory();
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, servers.certificate.pem()).unwrap();
    let hub = Hub::start_with(&[("DELIVERY__EXTRA_CA_FILE", ca_file.to_str().unwrap())]).await;
    let acme = hub.acme().await;
    let wanted = |auth: Value| json!({"url": url, "org": "acme", "event_types": ["*"], "retry": {"kind": "fixed", "attempts_max": 1, "delays_ms": []}, "auth": auth});
    let mtls = |certificate: &Certificate, key: &KeyPair| json!({"kind": "mtls", "certificate": certificate.pem(), "key": key.serialize_pem()});
    let (certificate, key) = clients.sign("hub");
    let (stranger, strangers_key) = strangers.sign("hub");
    let known = acme.webhook(&wanted(mtls(&certificate, &key))).await;
    assert_eq!(known["auth"], json!({"kind": "mtls", "certificate": certificate.pem()}), "{known}");
    let unknown = acme.webhook(&wanted(mtls(&stranger, &strangers_key))).await;
    let bare = acme.webhook(&wanted(Value::Null)).await;
    acme.publish(&json!({"id": "one", "type": "a.b"})).await;
    let id = |webhook: &Value| webhook["id"].as_str().unwrap().to_owned();
    acme.wait_status("one", &id(&known), "processed").await;
    for refused in [&unknown, &bare] {
        let entry = acme.wait_status("one", &id(refused), "dead_letter").await;
        assert!(!entry["last_error"].as_str().unwrap().contains("PRIVATE"), "{entry}");
    }
    assert_eq!(*seen.lock(), [certificate.der().to_vec()]);
    // A key of another certificate is refused when it is given.
    let answer = acme.post("/v1/webhooks", &wanted(mtls(&certificate, &strangers_key))).await;
    let problem = answer.expect_problem(400, "invalid-field").json();
    assert_eq!((&problem["field"], &problem["sent"]), (&json!("auth.key"), &json!("***")), "{problem}");
}

#[tokio::test]
async fn without_the_extra_authorities_an_unknown_server_is_a_tls_failure() {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let (url, seen) = tls_endpoint(&servers, &clients);
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let webhook =
        acme.webhook(&json!({"url": url, "org": "acme", "event_types": ["*"], "retry": retry(&[600_000])})).await;
    acme.publish(&json!({"id": "one", "type": "a.b"})).await;
    let attempt = acme.wait_attempts(webhook["id"].as_str().unwrap(), 1).await.remove(0);
    assert_eq!(attempt["outcome"], "tls", "{attempt}");
    assert!(seen.lock().is_empty());
    let wrong = Hub::stopped(&[("DELIVERY__EXTRA_CA_FILE", "/nonexistent.pem")]);
    let mut process = wrong.spawn();
    let status = until("a hub without its file ends", || {
        let ended = process.ended();
        async move { ended }
    })
    .await;
    assert!(!status.success() && wrong.log().contains("/nonexistent.pem"), "{}", wrong.log());
}
