//! A hub with a token in every place that takes one, and what goes wrong with it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};

use super::places::Told;
use super::{HIDDEN, SHOWN, token};
use crate::bulk;
use crate::support::{Api, Delivery, Hub, Receiver, Reply, retry};

/// What every webhook, rule and upstream is told of.
const EVENT: &str = "tgshown-0815-xyz-event";

/// The hub, those it talks to, and what it made by itself that is secret.
pub(super) struct Scene {
    pub(super) hub: Hub,
    pub(super) receiver: Receiver,
    pub(super) collector: Receiver,
    pub(super) acme: Api,
    /// Made by the hub or by the test's libraries: these do not begin as tokens do.
    pub(super) made: Vec<(&'static str, String)>,
    webhooks: Vec<String>,
    upstreams: Vec<String>,
}

/// Everything that came, and the credential so often that it is cut off somewhere.
fn echo(status: u16) -> impl Fn(&Delivery) -> Reply {
    move |one| {
        let all: Vec<String> = one.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let secret: String =
            ["authorization", "proxy-authorization", "x-own-key"].map(|name| one.header(name)).concat();
        let whole = format!("{} {} {}", all.join(" "), String::from_utf8_lossy(&one.body), secret.repeat(1_000));
        Reply::With(status, Vec::new(), whole.into_bytes())
    }
}

/// Nothing but the credential, without end.
fn dense(one: &Delivery) -> Reply {
    let token = one.header("authorization").rsplit(' ').next().unwrap_or_default().to_owned();
    Reply::With(500, Vec::new(), token.repeat(1_000).into_bytes())
}

fn granted(place: &str) -> Reply {
    let body = json!({"access_token": token(place), "token_type": "bearer", "expires_in": 3600}).to_string();
    Reply::With(200, vec![("content-type", "application/json".to_owned())], body.into_bytes())
}

impl Scene {
    pub(super) async fn start(receiver: Receiver, collector: Receiver) -> Self {
        for (path, status) in [("/echo", 500), ("/torn", 200), ("/refuse", 401), ("/health", 401), ("/no-token", 400)] {
            receiver.answer(path, echo(status));
        }
        receiver.answer("/dense", dense);
        receiver.always("/token", granted("granted"));
        receiver.always("/up-token", granted("up-granted"));
        receiver.always("/hold", Reply::Hold);
        receiver.always("/reset", Reply::Reset);
        receiver.answer("http://endpoint.invalid/hook", echo(500));
        let mut hub = Hub::stopped(&[
            ("LOGGING__LEVEL", "trace"),
            ("TRACE__OTLP_ENDPOINT", &collector.url("")),
            ("BREAKER__FAILURE_THRESHOLD", "10000"),
        ]);
        let secret = hub.data_dir().with_extension("secret");
        std::fs::write(&secret, token("up-file")).unwrap();
        hub.set("CRM_TOKEN", &token("up-env"));
        let declared = |id: &str, place: Value| upstream(&receiver, id, json!({"kind": "bearer", "token": place}));
        let declared = json!([
            declared("tgshown-0815-xyz-env", json!({"env": "CRM_TOKEN"})),
            declared("tgshown-0815-xyz-file", json!({"file": secret})),
        ]);
        hub.set("TIDEGATE__UPSTREAMS", &declared.to_string());
        hub.restart().await;
        let admin_token = hub.admin_token();
        // It may be shown once, at the very first start.
        hub.terminate().await;
        hub.clear_log();
        hub.restart().await;
        let key = hub.key(&["publish", "consume", "work", "manage", "read"], Some("acme")).await;
        let acme = hub.public(&key);
        let made = vec![("admin token", admin_token), ("API key", key)];
        let upstreams = ["tgshown-0815-xyz-env", "tgshown-0815-xyz-file"].map(str::to_owned).to_vec();
        Self { hub, receiver, collector, acme, made, webhooks: Vec::new(), upstreams }
    }

    /// Sources with every kind of secret; third parties come with the right one and with wrong ones.
    pub(super) async fn plant_sources(&mut self, told: &mut Told) {
        let whsec = |place: &str| format!("whsec_{}", STANDARD.encode(token(place)));
        let kinds = [
            ("bearer", json!({"kind": "bearer"})),
            ("basic", json!({"kind": "basic", "username": "hub"})),
            ("hmac", json!({"kind": "hmac", "header": "x-sig"})),
            ("github", json!({"kind": "github"})),
            ("stripe", json!({"kind": "stripe"})),
            ("slack", json!({"kind": "slack"})),
            ("shopify", json!({"kind": "shopify"})),
            ("standard_webhooks", json!({"kind": "standard_webhooks"})),
        ];
        for (kind, verification) in kinds {
            let secret = |place: &str| {
                let place = format!("{place}-{kind}");
                if kind == "standard_webhooks" { whsec(&place) } else { token(&place) }
            };
            let name = format!("{SHOWN}-{}", kind.replace('_', "-"));
            let wanted = json!({"name": name, "verification": verification, "secret": secret("source")});
            told.put("answers", self.acme.post("/v1/sources", &wanted).await.expect(201).text);
            let path = format!("/v1/sources/{name}");
            let change = json!({"second_secret": secret("second")});
            told.put("answers", self.acme.patch(&path, &change).await.expect(200).text);
            told.put("answers", self.acme.patch(&path, &json!({"secret": secret("rotated")})).await.expect(200).text);
            let basic = STANDARD.encode(format!("hub:{}", token("guess")));
            for given in [format!("Bearer {}", token("guess")), format!("Basic {basic}"), token("guess")] {
                for header in ["authorization", "x-sig", "x-hub-signature-256", "stripe-signature", "webhook-signature"]
                {
                    let headers = [(header, given.as_str()), ("content-type", "application/json")];
                    let answer =
                        self.hub.anonymous().try_send(Method::POST, &path, &headers, Some(b"{}".to_vec())).await;
                    told.put("refusals", answer.unwrap().expect_problem(401, "unauthorized").text);
                }
            }
        }
        let right = format!("Bearer {}", token("rotated-bearer"));
        let headers = [("authorization", right.as_str()), ("content-type", "application/json")];
        let path = format!("/v1/sources/{SHOWN}-bearer");
        let taken = self.hub.anonymous().try_send(Method::POST, &path, &headers, Some(b"{}".to_vec())).await.unwrap();
        told.put("answers", taken.expect(202).text);
    }

    /// Webhooks with every kind of credential, towards endpoints that fail in every way and repeat what they were sent.
    pub(super) async fn plant_webhooks(&mut self, told: &mut Told) {
        let oauth = |place: &str, url: &str, by: &str| {
            json!({"kind": "oauth2", "token_url": self.receiver.url(url), "client_id": "hub",
                "client_secret": token(place), "client_auth": by})
        };
        let identity = rcgen::generate_simple_self_signed(vec!["hub".to_owned()]).unwrap();
        let pem = identity.signing_key.serialize_pem();
        let line = pem.lines().nth(1).unwrap().to_owned();
        let mtls = json!({"kind": "mtls", "certificate": identity.cert.pem(), "key": pem});
        let bearer = json!({"kind": "bearer", "token": token("bearer")});
        let (echo, tls) = (self.receiver.url("/echo"), format!("https://{}/tls", self.receiver.address()));
        let wanted = [
            (echo.clone(), bearer.clone()),
            (self.receiver.url("/dense"), json!({"kind": "bearer", "token": token("dense")})),
            (echo.clone(), json!({"kind": "basic", "username": "hub", "password": token("basic")})),
            (echo.clone(), oauth("oauth-basic", "/token", "basic")),
            (echo.clone(), oauth("oauth-body", "/token", "body")),
            (echo.clone(), oauth("oauth-refused", "/no-token", "body")),
            (echo, json!({"kind": "header", "name": "X-Own-Key", "value": format!("Key {}", token("key-header"))})),
            (self.receiver.url("/refuse"), bearer.clone()),
            (self.receiver.url("/hold"), bearer.clone()),
            (self.receiver.url("/reset"), bearer.clone()),
            ("http://127.0.0.1:1/".to_owned(), bearer.clone()),
            (tls.clone(), bearer),
            (tls, mtls),
        ];
        let mut all: Vec<Value> = wanted.into_iter().map(|(url, auth)| json!({"url": url, "auth": auth})).collect();
        all.push(json!({"url": "http://endpoint.invalid/hook", "proxy": {
            "url": self.receiver.url("/"), "username": "hub", "password": token("proxy"),
        }}));
        all[0]["headers"] = json!({"x-endpoint": format!("Token {}", token("custom-header"))});
        self.made.push(("private key", line));
        for mut wanted in all {
            for (name, value) in [
                ("org", json!("acme")),
                ("event_types", json!(["told.*"])),
                ("retry", retry(&[20])),
                ("breaker", json!({"call_timeout_ms": 200})),
                ("description", json!(SHOWN)),
            ] {
                wanted[name] = value;
            }
            let key = token("idempotency");
            let headers = [("idempotency-key", key.as_str()), ("content-type", "application/json")];
            let number = self.webhooks.len();
            let headers = if number == 0 { &headers[..] } else { &headers[1..] };
            let body = wanted.to_string().into_bytes();
            let made = self.acme.try_send(Method::POST, "/v1/webhooks", headers, Some(body)).await.unwrap();
            let made = made.expect(201).json();
            let path = format!("/v1/webhooks/{}", made["id"].as_str().unwrap());
            let again = self.acme.act(&format!("{path}/rotate-secret")).await.expect(200).json();
            for shown in [&made, &again] {
                let secret = shown["signing_secret"].as_str().unwrap();
                self.made.push(("signing secret", secret.trim_start_matches("whsec_").to_owned()));
            }
            told.put("answers", self.acme.patch(&path, &json!({"concurrency": 3})).await.expect(200).text);
            self.webhooks.push(path);
        }
        let rotated = json!({"auth": {"kind": "bearer", "token": token("patched")}});
        told.put("answers", self.acme.patch(&self.webhooks[0], &rotated).await.expect(200).text);
        let back = json!({"auth": {"kind": "bearer", "token": token("bearer")}});
        told.put("answers", self.acme.patch(&self.webhooks[0], &back).await.expect(200).text);
    }

    /// Upstreams with every kind of credential, made and rotated over the admin API, with reads and rules.
    pub(super) async fn plant_upstreams(&mut self, told: &mut Told) {
        let oauth = |place: &str, url: &str| json!({"kind": "oauth2", "token_url": self.receiver.url(url), "client_id": "hub", "client_secret": token(place)});
        let bearer = json!({"kind": "bearer", "token": token("up-bearer")});
        let kinds = [
            ("bearer", bearer.clone()),
            ("basic", json!({"kind": "basic", "username": "hub", "password": token("up-basic")})),
            ("oauth", oauth("up-oauth", "/up-token")),
            ("oauth-refused", oauth("up-oauth-refused", "/no-token")),
            ("header", json!({"kind": "header", "name": "X-Own-Key", "value": token("up-header")})),
            ("unreachable", bearer.clone()),
            ("tls", bearer),
        ];
        let admin = self.hub.admin();
        for (kind, auth) in kinds {
            let id = format!("{SHOWN}-{kind}");
            let mut wanted = upstream(&self.receiver, &id, auth);
            match kind {
                "unreachable" => wanted["base_url"] = json!("http://127.0.0.1:1"),
                "tls" => wanted["base_url"] = json!(format!("https://{}", self.receiver.address())),
                _ => {}
            }
            told.put("answers", admin.post("/v1/admin/upstreams", &wanted).await.expect(201).text);
            self.upstreams.push(id);
        }
        let path = format!("/v1/admin/upstreams/{SHOWN}-bearer/rotate-credential");
        for org in ["globex", "acme-2"] {
            let auth = json!({"kind": "bearer", "token": token("up-rotated")});
            told.put("answers", admin.post(&path, &json!({"org": org, "auth": auth})).await.expect(200).text);
        }
    }

    /// A key that is made under a key of idempotency, whose answer is kept.
    pub(super) async fn plant_keys(&mut self, told: &mut Told) {
        let admin = self.hub.admin();
        let once = token("idempotency-of-a-key");
        let headers = [("idempotency-key", once.as_str()), ("content-type", "application/json")];
        let wanted = json!({"application": SHOWN, "scopes": ["read"], "org": "acme"}).to_string().into_bytes();
        let make = || admin.try_send(Method::POST, "/v1/admin/keys", &headers, Some(wanted.clone()));
        let (first, again) = (make().await.unwrap().expect(201).json(), make().await.unwrap().expect(201));
        assert_eq!((again.header("idempotency-replayed"), &again.json()["key"]), (Some("true"), &first["key"]));
        self.made.push(("API key", first["key"].as_str().unwrap().to_owned()));
        let settings = admin.patch("/v1/admin/settings", &json!({"batch_size": 11})).await.expect(200);
        told.put("answers", settings.text);
    }

    /// Events of every kind that is listed: delivered, redacted, scheduled, linked, out of order, for pull consumers.
    pub(super) async fn plant_events(&mut self, told: &mut Told) {
        let acme = &self.acme;
        let redactions = json!([{"path": "/data/secret", "action": "mask"}]);
        let kind = json!({"service": SHOWN, "description": SHOWN, "redactions": redactions});
        told.put("answers", acme.put("/v1/catalog/types/told.hidden", &kind).await.expect(201).text);
        let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}});
        let versions = "/v1/catalog/types/told.hidden/versions";
        told.put("answers", acme.post(versions, &json!({"schema": schema})).await.expect(201).text);
        let lifecycle = json!({"states": ["a", "b"], "initial": "a",
            "transitions": [{"from": "a", "to": "b", "event_type": "told.moved"}]});
        told.put("answers", acme.put(&format!("/v1/catalog/lifecycles/{SHOWN}"), &lifecycle).await.expect(201).text);
        let consumer = json!({"name": format!("{SHOWN}-pull"), "event_types": ["told.*"]});
        told.put("answers", acme.post("/v1/consumers", &consumer).await.expect(201).text);
        let link = json!({"source_module": "sales", "source_type": "order", "source_id": SHOWN, "link_type": "reference",
            "target_module": "erp", "target_type": "invoice", "target_id": "7"});
        told.put("answers", acme.post("/v1/links", &link).await.expect_any(&[200, 201]).text);

        let pair = STANDARD.encode(format!("hub:{SHOWN}"));
        let event = |id: &str, more: Value| {
            let mut event = json!({"id": id, "type": "told.of", "aggregate_type": SHOWN,
                "aggregate_id": format!("{SHOWN}-aggregate"), "data": {"shown": SHOWN, "pair": pair}});
            event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            event
        };
        acme.publish(&event(EVENT, json!({}))).await;
        let hidden = json!({"type": "told.hidden", "data": {"secret": format!("{HIDDEN}-event"), "shown": SHOWN}});
        acme.publish(&event(&format!("{SHOWN}-hidden"), hidden)).await;
        acme.publish(&event(&format!("{SHOWN}-moved"), json!({"type": "told.moved"}))).await;
        acme.publish(&event(&format!("{SHOWN}-later"), json!({"delay": "7d"}))).await;
        let pull = format!("/v1/consumers/{SHOWN}-pull/pull");
        let pulled = acme.post(&pull, &json!({"max": 10, "wait_ms": 10_000})).await.expect(200);
        told.put("answers", pulled.text);
    }

    /// An export, and an import whose lines are refused.
    pub(super) async fn plant_bulk(&mut self, told: &mut Told) {
        let done = bulk::export(&self.acme, &json!({"event_types": ["told.*"]})).await;
        told.put("exported parts", bulk::download(&self.acme, &done).await);
        let lines = [
            format!("{{\"type\":\"a.b\",\"authorization\":\"Bearer {HIDDEN}\"}}"),
            format!("{{\"type\":\"a.b\",\"data\":\"{HIDDEN}"),
            format!("\"{HIDDEN}\""),
            format!("{{\"id\":\"{SHOWN}-imported\",\"type\":\"a.b\",\"{SHOWN}\":1}}"),
            format!("{{\"id\":\"{SHOWN}-taken\",\"type\":\"a.b\"}}"),
        ];
        let done = bulk::import(&self.acme, &json!({}), lines.join("\n").into_bytes()).await;
        assert_eq!((&done["accepted"], &done["rejected"]), (&json!(1), &json!(4)), "{done}");
        told.put("answers", done.to_string());
    }

    /// Waits until everything was tried and has failed; then asks by every way for more of it.
    pub(super) async fn go_wrong(&mut self, told: &mut Told) {
        for path in &self.webhooks {
            let id = path.rsplit('/').next().unwrap();
            self.acme.wait_status(EVENT, id, "dead_letter").await;
            told.put("answers", self.acme.act(&format!("{path}/test")).await.text);
        }
        let admin = self.hub.admin();
        for id in &self.upstreams {
            for rule in ["echo", "refuse"] {
                self.acme.wait_status(EVENT, &format!("publish:{id}:{rule}"), "dead_letter").await;
                let path = format!("/v1/admin/upstreams/{id}/publishes/{rule}/preview");
                let asked = json!({"event_id": EVENT, "org": "acme"});
                told.put("answers", admin.post(&path, &asked).await.expect(200).text);
            }
            for read in ["echo", "dense", "torn", "refuse", "pages", "hold", "reset"] {
                for org in ["acme", "globex"] {
                    let path = format!("/v1/upstreams/{id}/reads/{read}?org={org}");
                    told.put("answers", admin.get(&path).await.text);
                }
            }
            let path = format!("/v1/admin/upstreams/{id}");
            told.put("answers", admin.act(&format!("{path}/test")).await.expect(200).text);
            told.put("answers", admin.act(&format!("{path}/clear-cache")).await.expect(200).text);
        }
        // What strict refuses is kept aside.
        let policy = json!({"policy": "strict", "quarantine": {"enabled": true}});
        told.put("answers", self.acme.patch("/v1/catalog/policy", &policy).await.expect(200).text);
        let misfit = json!({"id": format!("{SHOWN}-misfit"), "type": "told.hidden",
            "data": {"n": "x", "secret": HIDDEN, "shown": SHOWN}});
        told.put("refusals", self.acme.post("/v1/events", &misfit).await.expect(422).text);
        self.acme.patch("/v1/catalog/policy", &json!({"policy": "open"})).await.expect(200);
        let letters = self.acme.get("/v1/dead-letters?limit=1").await.expect(200).json();
        let letter = format!("/v1/dead-letters/{}", letters["items"][0]["id"].as_str().unwrap());
        told.put("answers", self.acme.act(&format!("{letter}/redrive")).await.text);
    }
}

/// An upstream with a read for each way of failing, and two rules.
fn upstream(receiver: &Receiver, id: &str, auth: Value) -> Value {
    let mut reads = serde_json::Map::new();
    for path in ["echo", "dense", "refuse", "hold", "reset"] {
        reads.insert(path.to_owned(), json!({"path": format!("/{path}"), "cache_ms": 0}));
    }
    reads.insert("torn".to_owned(), json!({"path": "/torn", "fields": ["a"]}));
    reads.insert("pages".to_owned(), json!({"path": "/refuse", "page": {"items": ""}}));
    let rule = |name: &str| {
        json!({"name": name, "event_types": ["told.*"], "retry": retry(&[]),
            "call": {"path": format!("/{name}"), "body": "{{ data_json }}"}})
    };
    json!({
        "id": id, "base_url": receiver.url(""), "health_path": "/health", "retry": retry(&[]), "auth": auth,
        "total_timeout_ms": 500, "breaker": {"failure_threshold": 10_000}, "reads": reads,
        "publishes": [rule("echo"), rule("refuse")],
    })
}
