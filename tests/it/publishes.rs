//! Publish rules: events that become calls to an upstream (UPS-5, UPS-6, UPS-8). The five examples that are shipped run
//! here against a stand-in, unchanged but for the address and the credential.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate::config::UpstreamTable;
use tidegate::ground::clock::{Clock as _, ManualClock};
use tidegate::ground::context::WriteContext;
use tidegate::ground::fields::Fields;
use tidegate::hub::{ExplainQuery, Hub as Embedded, LetterQuery, LetterState};

use crate::embed::{START, directory, open, stop_settled};
use crate::support::{Delivery, Hub, Receiver, Reply, items, retry, sample, until};

/// A credential that must not be found anywhere.
pub(crate) const TOKEN: &str = "tok-9f2b-never-shown-4711";

/// An example as it is shipped: its upstream, with another address and credential.
pub(crate) fn example(file: &str, receiver: &Receiver) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config/examples").join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    let whole: toml::Table = toml::from_str(&text).unwrap();
    let upstreams = serde_json::to_value(&whole["upstreams"]).unwrap();
    assert_eq!(whole.len(), 1, "an example holds upstreams and nothing else");
    let mut upstream = upstreams.as_array().unwrap()[0].clone();
    upstream["base_url"] = json!(receiver.url(""));
    let auth = &mut upstream["auth"];
    let secret = match auth["kind"].as_str().unwrap() {
        "bearer" => "token",
        "basic" => "password",
        "header" => "value",
        "oauth2" => {
            auth["token_url"] = json!(receiver.url("/oauth/token"));
            let token = json!({"access_token": TOKEN, "token_type": "Bearer", "expires_in": 86_400}).to_string();
            let headers = vec![("content-type", "application/json".to_owned())];
            receiver.always("/oauth/token", Reply::With(200, headers, token.into_bytes()));
            "client_secret"
        }
        other => panic!("no example uses {other}"),
    };
    auth[secret] = json!(TOKEN);
    upstream
}

/// A hub in this process by a clock that the test drives, with a stand-in for the upstream.
pub(crate) struct Scene {
    dir: TempDir,
    pub(crate) hub: Embedded,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) receiver: Receiver,
    /// The upstream's id.
    pub(crate) id: String,
}

async fn open_hub(dir: &TempDir, clock: &Arc<ManualClock>, declared: &[Value]) -> Embedded {
    let tables = declared.iter().map(|one| UpstreamTable(one.as_object().unwrap().clone())).collect();
    open(dir.path(), clock.clone(), |config| {
        config.upstreams = tables;
        config.delivery.allow_private_networks = true;
        config.delivery.overload_rest_ms = 0;
        config.inbox.idle_ms = 3_600_000;
    })
    .await
}

impl Scene {
    /// With this upstream, once the stand-in's address is known.
    pub(crate) async fn start(upstream: impl FnOnce(&Receiver) -> Value) -> Self {
        let (dir, clock, receiver) = (directory(), ManualClock::starting_at(START), Receiver::start());
        let hub = open_hub(&dir, &clock, &[]).await;
        let upstream = upstream(&receiver);
        let id = upstream["id"].as_str().unwrap().to_owned();
        let scene = Self { dir, hub, clock, receiver, id };
        scene.hub.create_upstream(scene.fields(&upstream), scene.context()).await.unwrap();
        scene
    }

    fn fields(&self, value: &Value) -> Fields {
        Fields::parse(value.to_string().as_bytes()).unwrap()
    }

    pub(crate) fn context(&self) -> WriteContext {
        WriteContext { by: "test".into(), at: self.clock.now(), ..WriteContext::default() }
    }

    /// Ends the hub and opens it again on what it has left.
    pub(crate) async fn reopen(self) -> Self {
        self.reopen_with(&[]).await
    }

    /// The same with these upstreams in its settings.
    async fn reopen_with(self, declared: &[Value]) -> Self {
        let Self { dir, hub, clock, receiver, id } = self;
        stop_settled(&hub).await;
        drop(hub);
        let hub = open_hub(&dir, &clock, declared).await;
        Self { dir, hub, clock, receiver, id }
    }

    pub(crate) fn consumer(&self, rule: &str) -> String {
        format!("publish:{}:{rule}", self.id)
    }

    pub(crate) async fn publish(&self, event: &Value) {
        self.hub.publish_json(Bytes::from(event.to_string())).await.unwrap();
    }

    pub(crate) fn advance(&self, ms: u64) {
        self.clock.advance(Duration::from_millis(ms));
    }

    /// How an event stands with a rule.
    pub(crate) async fn explained(&self, event: &str, rule: &str) -> Value {
        let query = ExplainQuery { consumer: Some(self.consumer(rule)), after: None, limit: 1 };
        self.hub.explain(event, None, query).await.unwrap()["consumers"][0].clone()
    }

    /// Waits until an event has this status with a rule.
    pub(crate) async fn wait_status(&self, event: &str, rule: &str, status: &str) -> Value {
        until(&format!("{event} is {status} for {rule}"), || async {
            let told = self.explained(event, rule).await;
            (told["status"] == status).then_some(told)
        })
        .await
    }

    /// The open dead letters of a rule.
    pub(crate) async fn letters(&self, rule: &str) -> Vec<Value> {
        let query = LetterQuery {
            consumer: Some(self.consumer(rule)),
            state: Some(LetterState::Open),
            limit: 100,
            ..LetterQuery::default()
        };
        self.hub.blocking(move |hub| hub.dead_letters(&query)).await.unwrap().items
    }

    pub(crate) async fn redrive(&self, rule: &str) {
        for letter in self.letters(rule).await {
            let id = letter["id"].as_str().unwrap();
            self.hub.redrive_letter(id, None, self.context()).await.unwrap();
        }
    }

    /// A series of the upstream.
    pub(crate) fn series(&self, name: &str, label: &str) -> Option<f64> {
        let text = String::from_utf8(self.hub.metrics_text().unwrap()).unwrap();
        sample(&text, name, &[&format!("adapter_id=\"{}\"", self.id), label])
    }
}

/// What one rule of an example does with one event.
struct Case {
    file: &'static str,
    rule: &'static str,
    event: Value,
    /// The same event without what the rule requires.
    without: fn(&mut Value),
    why_skipped: &'static str,
    path: &'static str,
    method: &'static str,
    /// What the body must be, for those that have one.
    body: Value,
    /// Longest wait before the second attempt.
    wait_ms: u64,
    attempts: u64,
}

fn cases() -> Vec<Case> {
    let booking = json!({"type": "booking.created", "org": "acme", "aggregate_type": "booking", "aggregate_id": "B-7",
        "occurred_at": "2026-11-21T09:00:00.250+01:00", "data": {"contactId": "c-1", "metadata": {"room": 12}}});
    let order = json!({"type": "order.placed", "org": "acme", "occurred_at": "2026-11-21T08:00:00Z", "data": {
        "orderId": "O/1", "customer": {"id": "c-9", "name": "Bakker"}, "lines": [
            {"sku": "ink", "quantity": 2, "price": 12.50}, {"sku": "paper", "quantity": 1, "price": 3}]}});
    let cancelled = json!({"type": "order.cancelled", "org": "acme", "data": {"orderId": "O-2"}});
    let invoice = json!({"type": "invoice.paid", "org": "acme", "occurred_at": "2026-11-21T08:00:00Z",
        "data": {"invoiceId": "I-1", "amount": 99.95, "debtor": "D-1"}});
    let contract = json!({"type": "contract.ready", "org": "acme", "source": "contracts",
        "occurred_at": "2026-11-21T08:00:00Z", "data": {"contractId": "K-1",
        "document": {"url": "https://files.example.com/k-1.pdf"}, "signer": {"name": "An", "email": "an@example.com"}}});
    let message = |channel: &str| {
        json!({"type": "notification.requested", "org": "acme", "data": {"notificationId": "N-1", "channel": channel,
            "text": "Your room is ready", "to": {"id": "c-1", "phone": "+31600000000", "email": "an@example.com"}}})
    };
    vec![
        Case {
            file: "customer-bridge.toml",
            rule: "timeline",
            event: booking,
            without: |event| event["data"]["contactId"] = Value::Null,
            why_skipped: "the event has no `data.contactId`",
            path: "/api/v1/timeline",
            method: "POST",
            body: json!({"type": "booking.created", "externalId": "B-7", "timestamp": "2026-11-21T08:00:00Z",
                "contactId": "c-1", "metadata": {"room": 12}}),
            wait_ms: 1_000,
            attempts: 3,
        },
        Case {
            file: "sales-order-intake.toml",
            rule: "orders",
            event: order,
            without: |event| event["data"]["customer"]["id"] = json!(""),
            why_skipped: "`data.customer.id` of the event is empty",
            path: "/v2/orders/O%2F1",
            method: "PUT",
            body: json!({"orderNumber": "O/1", "orderedAt": "2026-11-21T08:00:00Z", "currency": "EUR",
                "customer": {"id": "c-9", "name": "Bakker"}, "lines": [
                    {"sku": "ink", "quantity": 2, "price": 12.50}, {"sku": "paper", "quantity": 1, "price": 3}]}),
            wait_ms: 1_100,
            attempts: 4,
        },
        Case {
            file: "sales-order-intake.toml",
            rule: "cancellations",
            event: cancelled,
            without: |event| event["data"] = json!({}),
            why_skipped: "the event has no `data.orderId`",
            path: "/v2/orders/O-2",
            method: "DELETE",
            body: Value::Null,
            wait_ms: 1_100,
            attempts: 4,
        },
        Case {
            file: "erp-posting.toml",
            rule: "postings",
            event: invoice,
            without: |event| event["data"] = json!({"invoiceId": "I-1"}),
            why_skipped: "the event has no `data.amount`",
            path: "/ledger/acme/postings",
            method: "POST",
            body: json!({"document": "I-1", "kind": "receipt", "bookedOn": "2026-11-21T08:00:00Z", "amount": 99.95,
                "currency": "EUR", "debtor": "D-1", "reference": "ok"}),
            wait_ms: 2_400,
            attempts: 6,
        },
        Case {
            file: "e-signature.toml",
            rule: "requests",
            event: contract,
            without: |event| event["data"]["signer"] = json!({"name": "An"}),
            why_skipped: "the event has no `data.signer.email`",
            path: "/v1/envelopes",
            method: "POST",
            body: json!({"specversion": "1.0", "id": "contract.ready:K-1:2026-11-21T08:00:00Z", "source": "contracts",
                "type": "contract.ready", "subject": "K-1", "time": "2026-11-21T08:00:00Z",
                "datacontenttype": "application/json", "data": {"contract": "K-1",
                "document": "https://files.example.com/k-1.pdf",
                "signer": {"name": "An", "email": "an@example.com"}, "expiresInDays": 14}}),
            wait_ms: 1_100,
            attempts: 4,
        },
        Case {
            file: "message-gateway.toml",
            rule: "sms",
            event: message("sms"),
            without: |event| event["data"]["to"]["phone"] = Value::Null,
            why_skipped: "the event has no `data.to.phone`",
            path: "/sms",
            method: "POST",
            body: json!({"to": "+31600000000", "text": "Your room is ready", "clientReference": "ok"}),
            wait_ms: 575,
            attempts: 6,
        },
        Case {
            file: "message-gateway.toml",
            rule: "email",
            event: message("email"),
            without: |event| event["data"]["to"]["email"] = json!("  "),
            why_skipped: "`data.to.email` of the event is empty",
            path: "/email",
            method: "POST",
            body: json!({"to": ["an@example.com"], "subject": "A message for you", "text": "Your room is ready"}),
            wait_ms: 575,
            attempts: 6,
        },
    ]
}

/// The event under another id.
fn named(event: &Value, id: &str) -> Value {
    let mut event = event.clone();
    event["id"] = json!(id);
    event
}

fn keys(deliveries: &[Delivery]) -> Vec<String> {
    let mut keys: Vec<String> = deliveries.iter().map(|one| one.header("x-idempotency-key").to_owned()).collect();
    keys.dedup();
    keys
}

/// Success; a failure and then success; a permanent failure and its redrive; retries used up and their redrive; a skip.
async fn run(case: Case) {
    let Case { file, rule, event, without, why_skipped, path, method, body, wait_ms, attempts } = case;
    let scene = Scene::start(|receiver| example(file, receiver)).await;
    let receiver = &scene.receiver;
    let came = |count| receiver.wait_for(path, count);

    scene.publish(&named(&event, "ok")).await;
    let first = &came(1).await[0];
    assert_eq!(first.method, method, "{file}");
    assert_eq!(if first.body.is_empty() { Value::Null } else { first.json() }, body, "{file}");
    assert!(!first.header("x-correlation-id").is_empty(), "{file}: {first:?}");
    assert_eq!(first.header("x-idempotency-key").len(), 32, "{file}: {first:?}");
    let secret = format!("{:?}", first.headers);
    assert!(secret.contains(TOKEN) || secret.contains("Basic "), "{file}: the credential goes out: {secret}");
    assert_eq!(scene.wait_status("ok", rule, "processed").await["attempts"], 1);

    receiver.script(path, [Reply::Status(503)]);
    scene.publish(&named(&event, "later")).await;
    let told = scene.wait_status("later", rule, "failed").await;
    assert_eq!((&told["attempts"], &told["delivery"]["state"]), (&json!(1), &json!("next_try_at")), "{file}: {told}");
    scene.advance(wait_ms);
    scene.wait_status("later", rule, "processed").await;
    let all = came(3).await;
    assert_eq!(keys(&all[1..]).len(), 1, "{file}: a retry has the key of the first attempt");
    assert_ne!(all[0].header("x-idempotency-key"), all[1].header("x-idempotency-key"));
    assert_eq!(all[1].header("x-correlation-id"), all[2].header("x-correlation-id"));

    receiver.script(path, [Reply::Status(422)]);
    scene.publish(&named(&event, "bad")).await;
    assert_eq!(scene.wait_status("bad", rule, "dead_letter").await["attempts"], 1, "{file}: 422 is not tried again");
    let letters = scene.letters(rule).await;
    assert_eq!((letters.len(), &letters[0]["error"]["code"]), (1, &json!(422)), "{file}: {letters:?}");
    scene.redrive(rule).await;
    let all = came(5).await;
    assert_eq!(keys(&all[3..]).len(), 1, "{file}: a redrive has the key of the first attempt");
    scene.wait_status("bad", rule, "processed").await;

    receiver.script(path, (0..attempts).map(|_| Reply::Status(500)));
    scene.publish(&named(&event, "spent")).await;
    for made in 1..attempts {
        until("an attempt was made", || async {
            let told = scene.explained("spent", rule).await;
            (told["attempts"] == made && told["status"] == "failed").then_some(())
        })
        .await;
        // The breaker of a touchy upstream rests in between; its rest is over, too.
        scene.advance(700_000);
    }
    let told = scene.wait_status("spent", rule, "dead_letter").await;
    assert_eq!(told["attempts"], attempts, "{file}: {told}");
    assert_eq!(scene.series("integration_bridge_dead_letters", ""), Some(1.0), "{file}");
    scene.advance(3_600_000);
    scene.redrive(rule).await;
    scene.wait_status("spent", rule, "processed").await;
    assert_eq!(scene.series("integration_bridge_dead_letters", ""), Some(0.0), "{file}");
    let last = receiver.on(path);
    assert_eq!(keys(&last[5..]).len(), 1, "{file}: every attempt of one event has one key");

    let mut lacking = named(&event, "lacking");
    without(&mut lacking);
    let before = receiver.on(path).len();
    scene.publish(&lacking).await;
    scene.publish(&named(&event, "after")).await;
    scene.wait_status("after", rule, "processed").await;
    let told = scene.explained("lacking", rule).await;
    assert_eq!((&told["status"], &told["decided_by"]), (&json!("skipped"), &json!("requires")), "{file}: {told}");
    assert_eq!(told["detail"], why_skipped, "{file}");
    assert_eq!(receiver.on(path).len(), before + 1, "{file}: a skipped event makes no call");
    stop_settled(&scene.hub).await;
}

#[tokio::test]
async fn the_customer_bridge_sales_and_erp_examples_run_as_they_are_shipped() {
    for case in cases().into_iter().take(4) {
        run(case).await;
    }
}

#[tokio::test]
async fn the_signature_and_message_examples_run_as_they_are_shipped() {
    for case in cases().into_iter().skip(4) {
        run(case).await;
    }
}

#[test]
fn every_example_that_is_shipped_is_run() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config/examples");
    let mut shipped: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|one| one.unwrap().file_name().into_string().unwrap()).collect();
    shipped.sort();
    let mut run: Vec<String> = cases().iter().map(|case| case.file.to_owned()).collect();
    run.sort();
    run.dedup();
    assert_eq!(shipped, run);
}

/// An upstream with one rule, whose waits a test need not sit out.
fn crm(receiver: &Receiver) -> Value {
    json!({
        "id": "crm",
        "base_url": receiver.url("/base"),
        "auth": {"kind": "bearer", "token": TOKEN},
        "retry": retry(&[50, 50]),
        "publishes": [{
            "name": "bookings",
            "event_types": ["booking.*"],
            "requires": ["data.contact"],
            "about": {"external_id": "aggregate_id", "contact_id": "data.contact"},
            "call": {"path": "/entries/{data.contact}", "body": "{\"of\": {{ id|tojson }}, \"n\": {{ data.n|default(0)|tojson }}}"},
        }],
    })
}

const CONSUMER: &str = "publish:crm:bookings";
const PATH: &str = "/base/entries/c";

fn booking(id: &str) -> Value {
    json!({"id": id, "type": "booking.made", "org": "acme", "aggregate_type": "booking", "aggregate_id": "B-1", "data": {"contact": "c"}})
}

#[tokio::test]
async fn a_rule_is_part_of_its_upstream_and_its_changes_hold_at_once() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let (admin, acme) = (hub.admin(), hub.acme().await);
    let made = admin.post("/v1/admin/upstreams", &crm(&receiver)).await.expect(201).json();
    assert_eq!(made["publishes"][0]["call"]["path"], "/entries/{data.contact}", "{made}");
    assert_eq!(made["publishes"][0]["ordering"], "none");
    acme.publish(&booking("one")).await;
    assert_eq!(receiver.wait_for(PATH, 1).await[0].json(), json!({"of": "one", "n": 0}));
    acme.wait_status("one", CONSUMER, "processed").await;

    let listed = admin.get("/v1/admin/consumers").await.expect(200).json();
    let entry = items(&listed).iter().find(|one| one["id"] == CONSUMER).unwrap().clone();
    assert_eq!((&entry["kind"], &entry["name"]), (&json!("publish"), &json!("bookings")), "{entry}");
    assert_eq!((&entry["processed"], &entry["paused"]), (&json!(1), &json!(false)), "{entry}");
    let metrics = admin.get("/metrics").await.expect(200).text;
    assert_eq!(sample(&metrics, "tidegate_consumers", &["consumer_kind=\"publish\""]), Some(1.0));

    let mut changed = made["publishes"].clone();
    changed[0]["call"]["path"] = json!("/other");
    changed[0]["paused"] = json!(true);
    admin.patch("/v1/admin/upstreams/crm", &json!({"publishes": changed})).await.expect(200);
    acme.publish(&booking("two")).await;
    let told = acme.get(&format!("/v1/events/two/explain?consumer={CONSUMER}")).await;
    // A rule without an org is the operator's: an org's key sees where its own events stand with it.
    assert_eq!(told.expect(200).json()["consumers"][0]["delivery"]["state"], "paused");
    changed[0]["paused"] = json!(false);
    admin.patch("/v1/admin/upstreams/crm", &json!({"publishes": changed})).await.expect(200);
    assert_eq!(receiver.wait_for("/base/other", 1).await[0].json()["of"], "two", "what waited goes the new way");
    assert_eq!(receiver.on(PATH).len(), 1);
    acme.wait_status("two", CONSUMER, "processed").await;

    admin.patch("/v1/admin/upstreams/crm", &json!({"publishes": []})).await.expect(200);
    let listed = admin.get("/v1/admin/consumers").await.expect(200).json();
    assert!(items(&listed).iter().all(|one| one["id"] != CONSUMER), "{listed}");
    acme.publish(&booking("three")).await;
    let answer = acme.get(&format!("/v1/events/three/explain?consumer={CONSUMER}")).await;
    answer.expect_problem(404, "not-found");
}

#[tokio::test]
async fn a_rule_for_which_something_waits_is_not_taken_away_unsaid() {
    let mut hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    receiver.always(PATH, Reply::Status(503));
    let mut upstream = crm(&receiver);
    upstream["publishes"][0]["retry"] = retry(&[3_600_000]);
    hub.admin().post("/v1/admin/upstreams", &upstream).await.expect(201);
    acme.publish(&booking("waits")).await;
    acme.wait_status("waits", CONSUMER, "failed").await;
    for attempt in 0..2 {
        let problem = hub.admin().patch("/v1/admin/upstreams/crm", &json!({"publishes": []})).await;
        let problem = problem.expect_problem(409, "conflict").json();
        assert!(problem["unsettled"].as_u64() >= Some(1), "{problem}");
        hub.admin().delete("/v1/admin/upstreams/crm").await.expect_problem(409, "conflict");
        if attempt == 0 {
            hub.kill();
            hub.restart().await;
        }
    }
    let acme = acme.at(hub.public_address());
    acme.wait_status("waits", CONSUMER, "failed").await;

    let path = "/v1/admin/upstreams/crm/publishes/bookings";
    let gone = hub.admin().delete(path).await.expect(200).json();
    assert!(gone["name"] == "bookings" && gone["discarded"].as_u64() >= Some(1), "{gone}");
    assert!(hub.log().contains("taken away with what waited"), "it is said in the log");
    let left = hub.admin().get("/v1/admin/upstreams/crm").await.expect(200).json();
    assert_eq!(left["publishes"], json!([]), "{left}");
    hub.admin().delete(path).await.expect_problem(404, "not-found");
    hub.admin().delete("/v1/admin/upstreams/crm").await.expect(204);
    // A rule that comes back under the name begins anew.
    hub.admin().post("/v1/admin/upstreams", &crm(&receiver)).await.expect(201);
    acme.publish(&booking("new")).await;
    receiver
        .wait_until("the new one is tried", |all| all.iter().any(|one| one.path == PATH && one.json()["of"] == "new"))
        .await;
    let told = acme.get(&format!("/v1/events/waits/explain?consumer={CONSUMER}")).await.expect(200).json();
    assert_eq!(told["consumers"][0]["delivery"]["state"], "before_start", "{told}");
}

#[tokio::test]
async fn a_preview_shows_the_call_and_makes_none() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let (admin, acme) = (hub.admin(), hub.acme().await);
    let mut upstream = crm(&receiver);
    upstream["publishes"][0]["when"] = json!("data.n > 1");
    admin.post("/v1/admin/upstreams", &upstream).await.expect(201);
    let path = "/v1/admin/upstreams/crm/publishes/bookings/preview";
    let with = |n: u64| {
        let mut event = booking("e-1");
        event["data"]["n"] = json!(n);
        event
    };
    let shown = admin.post(path, &json!({"event": with(7)})).await.expect(200);
    assert!(!shown.text.contains(TOKEN), "{}", shown.text);
    let shown = shown.json();
    assert_eq!((&shown["matched"], &shown["fault"]), (&json!(true), &Value::Null), "{shown}");
    let call = &shown["call"];
    assert_eq!((&call["method"], &call["path"]), (&json!("POST"), &json!("/entries/c")), "{call}");
    assert_eq!(call["body"], json!({"of": "e-1", "n": 7}));
    let key = call["headers"]["x-idempotency-key"].as_str().unwrap();

    let refused = admin.post(path, &json!({"event": with(1)})).await.expect(200).json();
    assert_eq!((&refused["matched"], &refused["decided_by"]), (&json!(false), &json!("when")), "{refused}");
    assert_eq!(refused["detail"], "`data.n > 1` is false");
    let other = json!({"type": "order.made", "org": "acme"});
    let refused = admin.post(path, &json!({"event": other})).await.expect(200).json();
    assert_eq!(refused["decided_by"], "event_types", "{refused}");
    assert_eq!(refused["call"], Value::Null);
    assert!(refused["fault"].as_str().unwrap().contains("`data.contact`"), "{refused}");

    assert_eq!(receiver.deliveries().len(), 0, "nothing was sent");
    acme.publish(&with(7)).await;
    let sent = &receiver.wait_for(PATH, 1).await[0];
    assert_eq!(sent.header("x-idempotency-key"), key, "what is sent is what was shown");
    assert_eq!(sent.header("x-correlation-id"), call["headers"]["x-correlation-id"]);
    let again = admin.post(path, &json!({"event_id": "e-1", "org": "acme"})).await.expect(200).json();
    assert_eq!(again["call"], *call, "an event of the log");

    for (body, field) in [
        (json!({}), "event_id"),
        (json!({"event_id": "e-1", "event": with(1)}), "event"),
        (json!({"event": {"org": "acme"}}), "event.type"),
        (json!({"event": 7}), "event"),
        (json!({"evnt": 7}), "evnt"),
    ] {
        let problem = admin.post(path, &body).await.expect(400).json();
        assert!(problem["field"].as_str().unwrap_or_default().starts_with(field), "{body}: {problem}");
    }
    admin.post(path, &json!({"event_id": "no-such"})).await.expect_problem(404, "not-found");
    let unknown = "/v1/admin/upstreams/crm/publishes/none/preview";
    admin.post(unknown, &json!({"event_id": "e-1"})).await.expect_problem(404, "not-found");
}

#[tokio::test]
async fn what_is_redacted_for_people_is_sent_and_neither_logged_nor_previewed() {
    const HIDDEN: &str = "contact-nobody-may-read";
    let (hub, receiver) = (Hub::start().await, Receiver::start());
    let (admin, acme) = (hub.admin(), hub.acme().await);
    let redactions = json!([{"path": "/data/contactId", "action": "mask", "audiences": ["console"]}]);
    admin.put("/v1/catalog/types/booking.made?org=acme", &json!({"redactions": redactions})).await.expect(201);
    let rule = json!({
        "name": "made", "event_types": ["booking.made"], "requires": ["data.contactId"], "retry": retry(&[]),
        "about": {"contact_id": "data.contactId"},
        "call": {"method": "POST", "path": "/contacts/{data.contactId}", "body": "{\"contact\": {{ data.contactId | tojson }}}"},
    });
    let upstream = json!({"id": "crm", "base_url": receiver.url(""), "publishes": [rule]});
    admin.post("/v1/admin/upstreams", &upstream).await.expect(201);
    let path = format!("/contacts/{HIDDEN}");
    let echo = format!("no such contact: {HIDDEN}").into_bytes();
    receiver.script(&path, [Reply::With(422, Vec::new(), echo), Reply::Status(200)]);
    for (id, status) in [("refused", "dead_letter"), ("taken", "processed")] {
        acme.publish(&json!({"id": id, "type": "booking.made", "data": {"contactId": HIDDEN}})).await;
        acme.wait_status(id, "publish:crm:made", status).await;
    }
    assert!(
        receiver.on(&path).iter().all(|one| one.json() == json!({"contact": HIDDEN})),
        "the upstream gets the original"
    );
    let preview = "/v1/admin/upstreams/crm/publishes/made/preview";
    let preview = admin.post(preview, &json!({"event_id": "taken", "org": "acme"})).await.expect(200);
    assert!(preview.text.contains("***") && !preview.text.contains(HIDDEN), "{}", preview.text);
    for place in ["/v1/dead-letters?consumer=publish:crm:made", "/v1/events/refused", "/v1/events/refused/explain"] {
        let shown = admin.get(place).await.expect(200).text;
        assert!(!shown.contains(HIDDEN), "{place}: {shown}");
    }
    let log = hub.log();
    assert!(log.contains("an upstream does not take the call"), "{log}");
    assert!(!log.contains(HIDDEN), "{log}");
}

#[tokio::test]
async fn a_rule_that_does_not_fit_is_refused_by_its_place_and_nothing_is_kept_of_it() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let admin = hub.admin();
    type Change = fn(&mut Value);
    let cases: &[(&str, Change)] = &[
        ("publishes", |one| one["publishes"] = json!({})),
        ("publishes[0]", |one| one["publishes"] = json!(["x"])),
        ("publishes[0].name", |one| one["publishes"][0]["name"] = json!("A b")),
        ("publishes[0].event_types[0]", |one| one["publishes"][0]["event_types"] = json!(["a..b"])),
        ("publishes[0].when", |one| one["publishes"][0]["when"] = json!("data.n >")),
        ("publishes[0].requires[0]", |one| one["publishes"][0]["requires"] = json!(["colour"])),
        ("publishes[0].call.path", |one| one["publishes"][0]["call"]["path"] = json!("http://elsewhere/")),
        ("publishes[0].call.body", |one| one["publishes"][0]["call"]["body"] = json!("{{ data.n")),
        ("publishes[0].call.headers.authorization", |one| {
            one["publishes"][0]["call"]["headers"] = json!({"authorization": "Bearer x"});
        }),
        ("publishes[0].retry", |one| one["publishes"][0]["retry"] = json!("often")),
        ("publishes[0].colour", |one| one["publishes"][0]["colour"] = json!("red")),
    ];
    for (field, change) in cases {
        let mut upstream = crm(&receiver);
        change(&mut upstream);
        let problem = admin.post("/v1/admin/upstreams", &upstream).await.expect_problem(400, "invalid-field").json();
        assert_eq!(problem["field"], *field, "{problem}");
        admin.get("/v1/admin/upstreams/crm").await.expect_problem(404, "not-found");
    }
    admin.post("/v1/admin/upstreams", &crm(&receiver)).await.expect(201);
    for (field, change) in cases {
        let mut upstream = crm(&receiver);
        change(&mut upstream);
        let change = json!({"publishes": upstream["publishes"]});
        let problem = admin.patch("/v1/admin/upstreams/crm", &change).await.expect_problem(400, "invalid-field").json();
        assert_eq!(problem["field"], *field, "{problem}");
    }
    let kept = admin.get("/v1/admin/upstreams/crm").await.expect(200).json();
    assert_eq!(kept["publishes"].as_array().map(Vec::len), Some(1), "{kept}");
}

#[tokio::test]
async fn a_rule_of_one_org_takes_no_event_of_another() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let mut upstream = crm(&receiver);
    upstream["org"] = json!("acme");
    hub.admin().post("/v1/admin/upstreams", &upstream).await.expect(201);
    let globex = hub.public(&hub.key(&["publish", "read", "manage"], Some("globex")).await);
    let mut foreign = booking("theirs");
    foreign["org"] = json!("globex");
    globex.publish(&foreign).await;
    hub.acme().await.publish(&booking("ours")).await;
    assert_eq!(receiver.wait_for(PATH, 1).await[0].json()["of"], "ours");
    let answer = globex.get(&format!("/v1/events/theirs/explain?consumer={CONSUMER}")).await;
    answer.expect_problem(404, "not-found");
    globex.post(&format!("/v1/consumers/{CONSUMER}/replay"), &json!({})).await.expect_problem(404, "not-found");
    assert_eq!(receiver.on(PATH).len(), 1);
}

#[tokio::test]
async fn what_waits_for_a_rule_of_the_settings_outlives_its_declaration() {
    const TIMELINE: &str = "/api/v1/timeline";
    let (dir, clock, receiver) = (directory(), ManualClock::starting_at(START), Receiver::start());
    let mut upstream = example("customer-bridge.toml", &receiver);
    let secret = dir.path().join("token");
    std::fs::write(&secret, TOKEN).unwrap();
    upstream["auth"]["token"] = json!({"file": secret});
    let declared = [upstream];
    let hub = open_hub(&dir, &clock, &declared).await;
    let scene = Scene { dir, hub, clock, receiver, id: "customer-bridge".to_owned() };
    scene.receiver.script(TIMELINE, [Reply::Status(503)]);
    scene.publish(&named(&cases()[0].event, "waits")).await;
    scene.wait_status("waits", "timeline", "failed").await;

    // The operator takes the upstream out of the settings: nothing is lost by that, and nothing is sent.
    let scene = scene.reopen().await;
    scene.advance(60_000);
    until("it is held by the pause", || async {
        (scene.explained("waits", "timeline").await["delivery"]["state"] == "paused").then_some(())
    })
    .await;
    assert_eq!(scene.receiver.on(TIMELINE).len(), 1);
    let consumers = scene.hub.consumers().await;
    let entry = consumers.iter().find(|one| one["id"] == scene.consumer("timeline").as_str()).unwrap();
    assert_eq!(entry["paused"], json!(true), "{entry}");

    let scene = scene.reopen_with(&declared).await;
    scene.wait_status("waits", "timeline", "processed").await;
    let came = scene.receiver.on(TIMELINE);
    assert_eq!((came.len(), keys(&came).len()), (2, 1), "published in the end, under the same key");
    let refused = scene.hub.discard_publish("customer-bridge", "timeline", scene.context()).await.unwrap_err();
    assert!(refused.detail.contains("declared in the settings"), "{refused}");

    // With nothing waiting it is forgotten.
    let scene = scene.reopen().await;
    let consumers = scene.hub.consumers().await;
    assert!(consumers.iter().all(|one| one["kind"] != "publish"), "{consumers:?}");
    stop_settled(&scene.hub).await;
}

/// Killed between the deferral and the publish, again and again: every event is published, and every one that comes twice
/// comes under the same key.
#[tokio::test]
async fn killed_between_deferral_and_publish_the_hub_publishes_every_event_under_one_key() {
    const KILLS: usize = 5;
    const EVENTS_PER_RUN: usize = 40;
    let mut hub = Hub::start_with(&[("INBOX__CHECKPOINT_MS", "50")]).await;
    let receiver = Receiver::start();
    let key = hub.key(&["publish", "read"], Some("acme")).await;
    let mut upstream = crm(&receiver);
    upstream["retry"] = retry(&[250; 99]);
    // Failures are many here; the breaker is another test's.
    upstream["breaker"] = json!({"failure_threshold": 10_000});
    upstream["publishes"][0]["call"]["path"] = json!("/entries");
    hub.admin().post("/v1/admin/upstreams", &upstream).await.expect(201);
    let path = "/base/entries";
    // Every event fails at first, so that each goes through the durable queue; while the switch is down, all do.
    let open = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen: parking_lot::Mutex<HashMap<String, u32>> = parking_lot::Mutex::default();
    let gate = Arc::clone(&open);
    receiver.answer(path, move |one| {
        let mut seen = seen.lock();
        let times = seen.entry(one.json()["of"].as_str().unwrap().to_owned()).or_default();
        *times += 1;
        Reply::Status(if *times > 1 && gate.load(std::sync::atomic::Ordering::SeqCst) { 200 } else { 503 })
    });
    let mut sent = Vec::new();
    for run in 0..KILLS {
        let api = hub.public(&key);
        for n in 0..EVENTS_PER_RUN {
            let id = format!("e-{run}-{n}");
            api.publish(&booking(&id)).await;
            sent.push(id);
        }
        // The last of them was tried, so those before it are deferred or on their way; some runs let some of them through.
        let last = sent.last().unwrap().clone();
        receiver
            .wait_until("the last one was tried", |all| {
                all.iter().any(|one| one.path == path && one.json()["of"] == last)
            })
            .await;
        open.store(run % 2 == 1, std::sync::atomic::Ordering::SeqCst);
        if run % 2 == 1 {
            receiver
                .wait_until("some were taken", |all| all.iter().filter(|one| one.status == Some(200)).count() > run * 5)
                .await;
        }
        hub.kill();
        receiver.next_run().await;
        hub.restart().await;
    }
    open.store(true, std::sync::atomic::Ordering::SeqCst);
    receiver
        .wait_until("every event is taken", |all| {
            let taken: std::collections::HashSet<String> = all
                .iter()
                .filter(|one| one.path == path && one.status == Some(200))
                .map(|one| one.json()["of"].as_str().unwrap().to_owned())
                .collect();
            sent.iter().all(|id| taken.contains(id))
        })
        .await;
    let mut of: BTreeMap<String, Vec<Delivery>> = BTreeMap::new();
    for one in receiver.on(path) {
        of.entry(one.json()["of"].as_str().unwrap().to_owned()).or_default().push(one);
    }
    let mut used = std::collections::HashSet::new();
    for (id, deliveries) in &of {
        let keys = keys(deliveries);
        assert_eq!(keys.len(), 1, "{id} came under {keys:?}");
        assert!(used.insert(keys[0].clone()), "{id} shares its key with another event");
        let correlations: std::collections::HashSet<&str> =
            deliveries.iter().map(|one| one.header("x-correlation-id")).collect();
        assert_eq!(correlations.len(), 1, "{id}");
        // Taken twice in one run would be a duplicate that no kill explains.
        let runs: Vec<u64> = deliveries.iter().filter(|one| one.status == Some(200)).map(|one| one.run).collect();
        assert!(runs.windows(2).all(|pair| pair[0] < pair[1]), "{id} was taken twice in one run: {runs:?}");
    }
    assert_eq!(of.len(), sent.len());
    let api = hub.public(&key);
    let page = api.get(&format!("/v1/dead-letters?consumer={CONSUMER}")).await.expect(200).json();
    assert!(items(&page).is_empty(), "{page}");
    assert!(!hub.log().contains(TOKEN), "the credential is in no line of the log");
}
