//! Redactions at every way out, by audience (EVT-4): a secret stands wherever one can be redacted, and is looked for in
//! everything that the hub says.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;

use futures_util::{SinkExt as _, StreamExt as _};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tidegate::event::envelope::Event;
use tidegate::ground::clock::SystemClock;
use tidegate::ground::context::WriteContext;
use tidegate::ground::fields::Fields;
use tidegate::handler::{HandlerContext, HandlerError, NewEvent, handler_fn};
use tidegate::hub::LetterQuery;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::embed::{directory, open};
use crate::support::{Api, DEADLINE, Delivery, Hub, Receiver, Reply, items, retry, until};

const AUDIENCES: [&str; 4] = ["webhook", "cdc", "export", "console"];
/// Stands in every text that is redacted.
const SECRET: &str = "topsecret";
/// And this is a number that is.
const NUMBER: &str = "91827364554637281";
/// What is not redacted, as it came in.
const KEPT: &str = "12345678901234567890";

fn leaks(text: &str) -> bool {
    text.contains(SECRET) || text.contains(NUMBER)
}

/// An event of the type whose redactions are for this audience.
fn event(audience: &str, id: &str) -> String {
    format!(
        r#"{{"type":"only.{audience}","id":"{id}","data":{{"card":{{"no":"{SECRET}-1"}},"list":["{SECRET}-2","{SECRET}-3"],
        "number":{NUMBER},"keep":{KEPT},"deep":[{{"people":[{{"name":"{SECRET}-4"}}]}}]}},"metadata":{{"m":"{SECRET}-5"}},
        "source_refs":[{{"system":"crm","type":"contact","id":"{SECRET}-6"}}],"ordering_key":"k-1",
        "request_context":{{"user_id":"{SECRET}-7","ip":"{SECRET}-8","user_agent":"{SECRET}-9","tenant_id":"{SECRET}-10",
        "correlation_id":"conv-1"}}}}"#
    )
}

fn redactions(audience: &str) -> Value {
    let paths = [
        ("/data/card", "mask"),
        ("/data/list/*", "hash"),
        ("/data/number", "drop"),
        ("/data/deep/*/people/*/name", "hash"),
        ("/metadata/m", "drop"),
        ("/source_refs/*/id", "hash"),
        ("/request_context/user_id", "mask"),
        ("/request_context/ip", "drop"),
        ("/request_context/user_agent", "hash"),
        ("/request_context/tenant_id", "mask"),
    ];
    paths.map(|(path, action)| json!({"path": path, "action": action, "audiences": [audience]})).into_iter().collect()
}

async fn declare(api: &Api, name: &str, redactions: Value) {
    let headers = [("content-type", "application/json")];
    let body = json!({ "redactions": redactions }).to_string().into_bytes();
    let path = format!("/v1/catalog/types/{name}");
    api.try_send(reqwest::Method::PUT, &path, &headers, Some(body)).await.unwrap().expect_any(&[200, 201]);
}

async fn publish(api: &Api, text: String) {
    api.post_bytes("/v1/events", "application/json", text.into_bytes()).await.expect(202);
}

fn id_of(audience: &str) -> String {
    format!("e-{audience}")
}

/// What came out by one way, by the audience whose redactions the event has.
type Told = BTreeMap<&'static str, String>;

/// The way is one of `audience`: its redactions are applied there, and no others.
#[track_caller]
fn assert_way(way: &str, audience: &str, told: &Told) {
    for (of, text) in told {
        assert_eq!(leaks(text), *of != audience, "{way} is for {audience}; events redacted for {of}: {text}");
    }
}

#[track_caller]
fn assert_kept(way: &str, told: &Told) {
    assert!(told.values().all(|text| text.contains(KEPT)), "{way}: {told:?}");
}

fn as_text(delivery: &Delivery) -> String {
    format!("{:?} {}", delivery.headers, String::from_utf8_lossy(&delivery.body))
}

/// The text about each event, from what gives it for one.
async fn each<F: AsyncFn(&str) -> String>(of: F) -> Told {
    let mut told = Told::new();
    for audience in AUDIENCES {
        told.insert(audience, of(&id_of(audience)).await);
    }
    told
}

/// The member of a list about each event.
fn of_list(list: &[Value], id: impl Fn(&Value) -> Option<&str>) -> Told {
    let text = |audience: &str| {
        let wanted = id_of(audience);
        list.iter().filter(|one| id(one) == Some(&wanted)).map(Value::to_string).collect::<String>()
    };
    AUDIENCES.into_iter().map(|audience| (audience, text(audience))).collect()
}

struct Scene {
    hub: Hub,
    receiver: Receiver,
    collector: Receiver,
    acme: Api,
    key: String,
}

async fn scene() -> Scene {
    let (receiver, collector) = (Receiver::start(), Receiver::start());
    let settings = [("TRACE__OTLP_ENDPOINT", collector.url("")), ("LOGGING__LEVEL", "info,tidegate=debug".to_owned())];
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let hub = Hub::start_with(&settings).await;
    let key = hub.key(&["publish", "consume", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    for audience in AUDIENCES {
        declare(&acme, &format!("only.{audience}"), redactions(audience)).await;
    }
    Scene { hub, receiver, collector, acme, key }
}

impl Scene {
    async fn publish_all(&self) {
        for audience in AUDIENCES {
            publish(&self.acme, event(audience, &id_of(audience))).await;
        }
    }

    async fn webhook(&self, path: &str, more: Value) -> String {
        let mut wanted = json!({
            "url": self.receiver.url(path), "org": "acme", "event_types": ["only.*"], "ordering": "key",
            "retry": retry(&[10]),
        });
        wanted.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.acme.webhook(&wanted).await["id"].as_str().unwrap().to_owned()
    }

    async fn delivered(&self, path: &str) -> Told {
        let came = self.receiver.wait_for(path, AUDIENCES.len()).await;
        let of =
            |audience: &str| came.iter().filter(|one| one.id() == id_of(audience)).map(as_text).collect::<String>();
        AUDIENCES.into_iter().map(|audience| (audience, of(audience))).collect()
    }
}

#[tokio::test]
async fn a_secret_in_every_place_that_can_be_redacted_leaves_by_no_way_of_its_audience() {
    let scene = scene().await;
    let forms = [
        ("/standard", json!({})),
        ("/structured", json!({"format": "cloudevents"})),
        ("/binary", json!({"format": "cloudevents_binary"})),
        ("/raw", json!({"format": "raw"})),
        (
            "/template",
            json!({"format": "template", "template": {"body": "{{ data_json }} {{ metadata }} {{ data.card }}", "content_type": "text/plain"}}),
        ),
    ];
    for (path, more) in &forms {
        scene.webhook(path, more.clone()).await;
    }
    scene.receiver.answer("/echo", |delivery| Reply::With(400, Vec::new(), delivery.body.clone()));
    let echo = scene.webhook("/echo", json!({})).await;
    let guess = format!("data.card.no == '{SECRET}-guess'");
    let guesser = scene.webhook("/guess", json!({ "filter": guess })).await;
    for name in ["poll", "sse", "listen", "ws"] {
        scene.acme.post("/v1/consumers", &json!({"name": name, "event_types": ["only.*"]})).await.expect(201);
    }
    scene.publish_all().await;
    for audience in AUDIENCES {
        let later = event(audience, &format!("later-{audience}")).replacen('{', r#"{"delay":"7d","#, 1);
        publish(&scene.acme, later).await;
    }

    // Consumers.
    for (path, _) in &forms {
        let told = scene.delivered(path).await;
        assert_way(path, "webhook", &told);
        assert_kept(path, &told);
    }
    for (way, told) in pulled(&scene).await {
        assert_way(way, "webhook", &told);
        assert_kept(way, &told);
    }

    // The change feed.
    for (accept, query) in
        [("application/json", ""), ("application/x-ndjson", ""), ("text/event-stream", "&follow=false")]
    {
        let answer =
            scene.acme.open(&format!("/v1/cdc?start=earliest&type=only.*{query}"), &[("accept", accept)]).await;
        let text = answer.text().await.unwrap();
        let told = by_event(&text);
        assert_way(accept, "cdc", &told);
        assert_kept(accept, &told);
    }
    let told = by_event(&tail(&scene));
    assert_way("tail", "cdc", &told);

    // People.
    let get = async |path: String| scene.acme.get(&path).await.expect(200).text;
    let told = each(async |id| get(format!("/v1/events/{id}")).await).await;
    assert_way("an event", "console", &told);
    assert_kept("an event", &told);
    let page = scene.acme.get("/v1/events?type=only.*").await.expect(200).json();
    assert_way("the events", "console", &of_list(items(&page), |one| one["id"].as_str()));
    let told = each(async |id| get(format!("/v1/scheduled/{}", id.replacen('e', "later", 1))).await).await;
    assert_way("a scheduled event", "console", &told);
    let letters = scene.acme.wait_dead_letters(&echo, AUDIENCES.len()).await;
    assert_way("dead letters", "console", &of_list(&letters, |one| one["event_id"].as_str()));
    let told = each(async |id| {
        let letter = letters.iter().find(|one| one["event_id"] == *id).unwrap();
        get(format!("/v1/dead-letters/{}", letter["id"].as_str().unwrap())).await
    });
    assert_way("a dead letter", "console", &told.await);
    let told = each(async |id| get(format!("/v1/events/{id}/explain?consumer={guesser}")).await).await;
    assert_way("why a condition does not hold", "console", &told);
    // What an endpoint answered repeats what it was sent: of the one audience it was not sent, of the other it is not kept.
    let attempts = scene.acme.wait_attempts(&echo, AUDIENCES.len()).await;
    for (of, text) in of_list(&attempts, |one| one["event_id"].as_str()) {
        assert_eq!(leaks(&text), ["cdc", "export"].contains(&of), "{of}: {text}");
        assert_eq!(text.contains("withheld"), of == "console", "{of}: {text}");
    }

    // Events that were refused and are kept aside.
    scene
        .acme
        .patch("/v1/catalog/policy", &json!({"policy": "strict", "quarantine": {"enabled": true}}))
        .await
        .expect(200);
    let mut aside = Told::new();
    for audience in AUDIENCES {
        let schema = json!({"type": "object", "properties": {"number": {"type": "string"}, "list": {"maxItems": 1}}});
        let versions = format!("/v1/catalog/types/only.{audience}/versions");
        scene.acme.post(&versions, &json!({"schema": schema})).await.expect(201);
        let misfit = event(audience, &format!("misfit-{audience}")).into_bytes();
        let refused = scene.acme.post_bytes("/v1/events", "application/json", misfit).await;
        assert!(refused.status >= 400 && !leaks(&refused.text), "{}", refused.text);
        let id = refused.json()["quarantine_id"].as_str().unwrap_or_else(|| panic!("{}", refused.text)).to_owned();
        aside.insert(audience, get(format!("/v1/quarantine/{id}")).await);
    }
    assert_way("quarantine", "console", &aside);
    assert_kept("quarantine", &aside);

    // Nobody.
    let duplicate =
        scene.acme.post_bytes("/v1/events", "application/json", event("console", "e-console").into_bytes()).await;
    let conflict = event("console", "e-console").replace("-1\"", "-other\"");
    let conflict = scene.acme.post_bytes("/v1/events", "application/json", conflict.into_bytes()).await;
    assert!(!leaks(&duplicate.expect(200).text) && !leaks(&conflict.expect(409).text));
    let metrics = scene.hub.admin().get("/metrics").await.expect(200).text;
    let stats = scene.hub.admin().get("/v1/admin/consumers").await.expect(200).text;
    until("spans were exported", || async { (!scene.collector.on("/v1/traces").is_empty()).then_some(()) }).await;
    let traces: String = scene.collector.on("/v1/traces").iter().map(as_text).collect();
    let log = scene.hub.log();
    assert!(log.contains("delivery given up"), "the log says something: {log}");
    for (place, text) in [("metrics", metrics), ("consumers", stats), ("traces", traces), ("log", log)] {
        let at = text.find(SECRET).or_else(|| text.find(NUMBER));
        assert_eq!(at.map(|at| &text[at.saturating_sub(200)..at]), None, "{place}");
    }
}

/// What came to each kind of client of a pull consumer.
async fn pulled(scene: &Scene) -> Vec<(&'static str, Told)> {
    let id = |one: &Value| one["event"]["id"].as_str().map(str::to_owned);
    let told = |deliveries: &[Value]| {
        let text = |audience: &str| {
            deliveries.iter().filter(|one| id(one) == Some(id_of(audience))).map(Value::to_string).collect::<String>()
        };
        AUDIENCES.into_iter().map(|audience| (audience, text(audience))).collect::<Told>()
    };
    let mut polled = Vec::new();
    while polled.len() < AUDIENCES.len() {
        let asked = json!({"max": 10, "wait_ms": 10_000});
        let page = scene.acme.post("/v1/consumers/poll/pull", &asked).await.expect(200).json();
        assert_ne!(page["deliveries"], json!([]), "{} came", polled.len());
        polled.extend(page["deliveries"].as_array().unwrap().clone());
    }
    let mut out = vec![("poll", told(&polled))];
    for (name, query) in [("sse", ""), ("listen", "?format=standard")] {
        let mut stream = scene.acme.open(&format!("/v1/consumers/{name}/stream{query}"), &[]).await;
        let (mut text, mut came) = (String::new(), Vec::new());
        while came.len() < AUDIENCES.len() {
            let piece =
                tokio::time::timeout(DEADLINE, stream.chunk()).await.expect("the stream goes on").unwrap().unwrap();
            text.push_str(std::str::from_utf8(&piece).unwrap());
            let data = text.split("\n\n").map(|block| {
                block.lines().filter_map(|line| line.strip_prefix("data: ")).collect::<Vec<_>>().join("\n")
            });
            let read = data.filter_map(|data| serde_json::from_str::<Value>(&data).ok());
            came = read.filter(|one| id(one).is_some()).collect();
        }
        out.push((name, told(&came)));
    }
    let address = scene.hub.public_address();
    let mut request = format!("ws://{address}/v1/consumers/ws/ws").into_client_request().unwrap();
    request.headers_mut().insert("x-api-key", scene.key.parse().unwrap());
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    socket.send(Message::text(json!({"pull": AUDIENCES.len()}).to_string())).await.unwrap();
    let mut came = Vec::new();
    while came.len() < AUDIENCES.len() {
        let message = tokio::time::timeout(DEADLINE, socket.next()).await.expect("a frame").expect("open").unwrap();
        if let Message::Text(text) = message {
            let frame: Value = serde_json::from_str(&text).unwrap();
            came.extend(frame["delivery"].is_object().then_some(frame));
        }
    }
    let text = |audience: &str| {
        let wanted = format!("\"{}\"", id_of(audience));
        came.iter().map(Value::to_string).filter(|text| text.contains(&wanted)).collect::<String>()
    };
    out.push(("ws", AUDIENCES.into_iter().map(|audience| (audience, text(audience))).collect()));
    out
}

/// The pieces of a text that are about each event: from its type to the next one.
fn by_event(text: &str) -> Told {
    let parts: Vec<_> = text.split("\"type\":\"only.").skip(1).collect();
    let of = |audience: &str| parts.iter().filter(|part| part.starts_with(audience)).copied().collect::<String>();
    AUDIENCES.into_iter().map(|audience| (audience, of(audience))).collect()
}

fn tail(scene: &Scene) -> String {
    let url = format!("http://{}/", scene.hub.public_address());
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["--json", "tail", "--url", &url, "--key", &scene.key, "--start", "earliest", "--no-follow"]);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEGATE")) {
        command.env_remove(name);
    }
    let out = command.output().expect("the binary runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[tokio::test]
async fn a_replay_shows_what_the_redactions_of_its_time_leave_and_the_log_keeps_the_original() {
    let scene = scene().await;
    declare(&scene.acme, "made", json!([{"path": "/data/name", "action": "mask"}])).await;
    let webhook = scene.webhook("/hook", json!({"event_types": ["made"]})).await;
    let body = json!({"type": "made", "id": "m-1", "data": {"name": SECRET, "n": 1}});
    publish(&scene.acme, body.to_string()).await;
    let first = scene.receiver.wait_for("/hook", 1).await.remove(0);
    assert_eq!(first.json()["data"], json!({"name": "***", "n": 1}));
    let replayed = async |count: usize| {
        scene.acme.post(&format!("/v1/webhooks/{webhook}/replay"), &json!({"event_ids": ["m-1"]})).await.expect(202);
        scene.receiver.wait_for("/hook", count).await.pop().unwrap().json()["data"].clone()
    };
    declare(&scene.acme, "made", json!([{"path": "/data/n", "action": "drop", "audiences": ["webhook"]}])).await;
    assert_eq!(replayed(2).await, json!({"name": SECRET}));
    let shown = scene.acme.get("/v1/events/m-1").await.expect(200).json();
    assert_eq!(shown["data"], json!({"name": SECRET, "n": 1}), "the log has all of it");
    declare(&scene.acme, "made", json!([])).await;
    assert_eq!(replayed(3).await, json!({"name": SECRET, "n": 1}));
}

#[tokio::test]
async fn conditions_see_the_original_and_a_hash_joins_within_an_org() {
    let scene = scene().await;
    let hidden = json!([{"path": "/data/mail", "action": "hash"}, {"path": "/metadata/contact", "action": "hash"}]);
    declare(&scene.acme, "mailed", hidden.clone()).await;
    let globex = scene.hub.public(&scene.hub.key(&["publish", "manage", "read"], Some("globex")).await);
    declare(&globex, "mailed", hidden).await;
    scene.webhook("/hook", json!({"event_types": ["mailed"], "filter": "data.mail == 'a@b.c'"})).await;
    for (id, mail) in [("1", "a@b.c"), ("2", "x@y.z"), ("3", "a@b.c")] {
        let body = json!({"type": "mailed", "id": id, "data": {"mail": mail}, "metadata": {"contact": mail}});
        publish(&scene.acme, body.to_string()).await;
        publish(&globex, body.to_string()).await;
    }
    let came = scene.receiver.wait_for("/hook", 2).await;
    let mut ids: Vec<_> = came.iter().map(Delivery::id).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["1", "3"], "the condition saw what the endpoint does not");
    let mail = |api: Api, id: &'static str| async move {
        let event = api.get(&format!("/v1/events/{id}")).await.expect(200).json();
        assert_eq!(event["data"]["mail"], event["metadata"]["contact"], "the same wherever it stands");
        event["data"]["mail"].as_str().unwrap().to_owned()
    };
    let hash = came[0].json()["data"]["mail"].as_str().unwrap().to_owned();
    assert!(hash.starts_with("hash:") && !hash.contains('@'), "{hash}");
    assert_eq!(mail(scene.acme.clone(), "1").await, hash);
    assert_eq!(mail(scene.acme.clone(), "3").await, hash);
    assert_ne!(mail(scene.acme.clone(), "2").await, hash);
    assert_ne!(mail(globex.clone(), "1").await, hash, "another org has another key");
}

#[tokio::test]
async fn a_handler_sees_the_original_and_what_it_says_of_it_is_not_kept() {
    let dir = directory();
    let hub = open(dir.path(), SystemClock::shared(), |config| config.outbox.max_attempts = 1).await;
    let context = WriteContext { by: "program".to_owned(), ..WriteContext::default() };
    let fields =
        Fields::parse(br#"{"redactions":[{"path":"/data/name","action":"mask","audiences":["console"]}]}"#).unwrap();
    hub.blocking(move |hub| hub.put_type("made", Some("acme"), fields, context)).await.unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let handler = move |event: Arc<Event>, _: HandlerContext| {
        let data = String::from_utf8_lossy(event.text(event.meta.data.unwrap())).into_owned();
        noted.lock().push(data.clone());
        let kind = event.meta.event_type.clone();
        async move {
            Err::<(), _>(HandlerError::Rejected(if kind == "made" {
                format!("no room for {data}")
            } else {
                "no room".to_owned()
            }))
        }
    };
    hub.subscribe("*", "rooms", 0, handler_fn(handler)).await.unwrap();
    for (id, event_type) in [("m-1", "made"), ("m-2", "made"), ("o-1", "other")] {
        hub.publish(&NewEvent::new(event_type).org("acme").id(id).data(json!({"name": SECRET}))).await.unwrap();
    }
    let letters = until("the dead letters are there", || async {
        let query = LetterQuery { limit: 10, ..LetterQuery::default() };
        let letters = hub.blocking(move |hub| hub.dead_letters(&query)).await.unwrap().items;
        (letters.len() == 3).then_some(letters)
    })
    .await;
    assert!(seen.lock().iter().all(|data| data.contains(SECRET)) && seen.lock().len() == 3);
    for letter in &letters {
        let (text, other) = (letter.to_string(), letter["type"] == "other");
        assert_eq!(leaks(&text), other, "{text}");
        let message = letter["error"]["message"].as_str().unwrap();
        assert!(if other { message.contains("no room") } else { message.contains("withheld") }, "{message}");
    }
    let event = hub.event_with_consumers("m-1", Some("acme")).await.unwrap();
    assert!(!leaks(&String::from_utf8_lossy(&event)));
    let explained = hub.event("m-1", Some("acme")).unwrap();
    assert!(leaks(&String::from_utf8_lossy(&explained.body)), "the program sees what is in the log");
    hub.stop().await;
}
