//! Push of a pull consumer's deliveries: server-sent events and WebSockets (INB-5).

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::Response;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::support::{Api, DEADLINE, Hub, sample, until};

async fn make(acme: &Api, more: Value) -> Value {
    let mut wanted = json!({"name": "billing", "event_types": ["*"]});
    wanted.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    acme.post("/v1/consumers", &wanted).await.expect(201).json()
}

async fn publish(acme: &Api, from: usize, count: usize) {
    let batch: Vec<Value> =
        (from..from + count).map(|n| json!({"id": format!("n{n:03}"), "type": "a.b", "data": n})).collect();
    acme.post("/v1/events/batch", &Value::from(batch)).await.expect(202);
}

async fn answer(acme: &Api, verb: &str, tokens: &[&Value]) {
    acme.post(&format!("/v1/consumers/billing/{verb}"), &json!({"tokens": tokens})).await.expect(200);
}

async fn wait_clients(admin: &Api, kind: &str, wanted: f64) {
    until(&format!("{wanted} clients by {kind}"), || async {
        let metrics = admin.get("/metrics").await.expect(200).text;
        let label = format!(r#"client="{kind}""#);
        (sample(&metrics, "tidegate_pull_clients", &[&label]).unwrap_or(0.0) == wanted).then_some(())
    })
    .await;
}

/// A stream of server-sent events.
struct Events {
    answer: Response,
    buffer: String,
}

impl Events {
    async fn open(hub: &Hub, key: &str, query: &str) -> Self {
        let url = format!("http://{}/v1/consumers/billing/stream{query}", hub.public_address());
        let answer = reqwest::Client::new().get(url).header("x-api-key", key).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self { answer, buffer: String::new() }
    }

    /// The next block between two empty lines; none at the end.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.buffer.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.buffer = rest;
                return Some(block);
            }
            let piece =
                tokio::time::timeout(DEADLINE, self.answer.chunk()).await.expect("the stream goes on").unwrap()?;
            self.buffer.push_str(std::str::from_utf8(&piece).unwrap());
        }
    }

    /// The next event: its name, its id, its data. Comments and the like are passed over.
    async fn next(&mut self) -> Option<(String, String, Value)> {
        loop {
            let block = self.block().await?;
            let field = |name: &str| {
                let lines: Vec<&str> =
                    block.lines().filter_map(|line| line.strip_prefix(&format!("{name}: "))).collect();
                lines.join("\n")
            };
            let data = field("data");
            if !data.is_empty() {
                return Some((field("event"), field("id"), serde_json::from_str(&data).unwrap()));
            }
        }
    }

    async fn delivery(&mut self) -> Value {
        let (name, id, delivery) = self.next().await.expect("a delivery");
        assert_eq!((name.as_str(), id), ("", delivery["event"]["seq"].to_string()));
        delivery
    }
}

fn id(delivery: &Value) -> &str {
    delivery["event"]["id"].as_str().unwrap()
}

#[tokio::test]
async fn events_are_pushed_up_to_the_bound_and_each_answer_makes_room() {
    let hub = Hub::start_with(&[("PULL__HEARTBEAT_MS", "50")]).await;
    let key = hub.key(&["publish", "consume", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    make(&acme, json!({"lease_ms": 3_600_000})).await;
    let mut events = Events::open(&hub, &key, "?max=3").await;
    publish(&acme, 0, 8).await;
    let mut came = Vec::new();
    for _ in 0..3 {
        came.push(events.delivery().await);
    }
    // What comes next is a sign of life, not a fourth delivery.
    while let Some(block) = events.block().await {
        assert!(!block.contains("data:"), "{block}");
        if block.starts_with(':') {
            break;
        }
    }
    let shown = acme.get("/v1/consumers/billing").await.expect(200).json();
    assert_eq!((&shown["in_flight"], &shown["waiting_clients"]), (&json!(3), &json!(1)), "{shown}");
    for n in 3..8 {
        let verb = if n == 5 { "term" } else { "ack" };
        answer(&acme, verb, &[&came[n - 3]["token"]]).await;
        came.push(events.delivery().await);
    }
    let order: Vec<&str> = came.iter().map(id).collect();
    assert_eq!(order, ["n000", "n001", "n002", "n003", "n004", "n005", "n006", "n007"]);
    drop(events);
    wait_clients(&hub.admin(), "sse", 0.0).await;
}

#[tokio::test]
async fn a_stream_in_the_standard_format_has_the_body_of_a_webhook() {
    let hub = Hub::start().await;
    let key = hub.key(&["publish", "consume", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    make(&acme, json!({})).await;
    let mut events = Events::open(&hub, &key, "?format=standard").await;
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let body = format!(
        "{{\n  \"id\": \"e-1\",\n  \"type\": \"a.b\", \"traceparent\": \"{traceparent}\",\n  \"data\": {{\r\n \"n\": 1.10 }}}}"
    );
    acme.post_bytes("/v1/events", "application/json", body.into_bytes()).await.expect(202);
    let delivery = events.delivery().await;
    assert_eq!((&delivery["event"]["type"], &delivery["event"]["data"]), (&json!("a.b"), &json!({"n": 1.10})));
    assert!(delivery["event"]["timestamp"].is_string() && delivery["traceparent"] == traceparent, "{delivery}");
}

#[tokio::test]
async fn what_a_stream_has_not_answered_when_it_ends_comes_to_the_next_one_after_its_lease() {
    let hub = Hub::start().await;
    let key = hub.key(&["publish", "consume", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    make(&acme, json!({"lease_ms": 300})).await;
    let mut first = Events::open(&hub, &key, "?max=10").await;
    publish(&acme, 0, 4).await;
    let taken = first.delivery().await;
    answer(&acme, "ack", &[&taken["token"]]).await;
    drop(first);
    wait_clients(&hub.admin(), "sse", 0.0).await;
    let mut second = Events::open(&hub, &key, "?max=10").await;
    let mut left = BTreeSet::from(["n001", "n002", "n003"].map(str::to_owned));
    while !left.is_empty() {
        let delivery = second.delivery().await;
        assert_ne!(id(&delivery), "n000", "it was acknowledged");
        answer(&acme, "ack", &[&delivery["token"]]).await;
        left.remove(id(&delivery));
    }
}

#[tokio::test]
async fn leases_that_end_make_room_in_a_stream_whose_client_never_answers() {
    let hub = Hub::start().await;
    let key = hub.key(&["publish", "consume", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    make(&acme, json!({"lease_ms": 100, "max_attempts": 3})).await;
    let mut events = Events::open(&hub, &key, "?max=2").await;
    publish(&acme, 0, 2).await;
    let mut attempts = Vec::new();
    for _ in 0..6 {
        attempts.push(events.delivery().await["attempt"].as_u64().unwrap());
    }
    attempts.sort_unstable();
    assert_eq!(attempts, [1, 1, 2, 2, 3, 3]);
}

#[tokio::test]
async fn a_stream_ends_with_its_hub_its_consumer_and_its_key_and_says_so() {
    let mut hub = Hub::start_with(&[("SERVER__SHUTDOWN_MS", "3600000"), ("PULL__HEARTBEAT_MS", "50")]).await;
    let made = json!({"application": "it", "org": "acme", "scopes": ["consume"]});
    let made = hub.admin().post("/v1/admin/keys", &made).await.expect(201).json();
    let key = hub.key(&["publish", "consume", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    let reason = async |events: &mut Events| {
        let (name, _, data) = events.next().await.expect("a last event");
        assert_eq!(name, "end");
        assert!(events.block().await.is_none(), "nothing comes after the end");
        data["reason"].as_str().unwrap().to_owned()
    };
    make(&acme, json!({})).await;
    let mut events = Events::open(&hub, &key, "").await;
    wait_clients(&hub.admin(), "sse", 1.0).await;
    acme.delete("/v1/consumers/billing").await.expect(204);
    assert!(reason(&mut events).await.contains("deleted"));

    make(&acme, json!({})).await;
    let mut revoked = Events::open(&hub, made["key"].as_str().unwrap(), "").await;
    hub.admin().delete(&format!("/v1/admin/keys/{}", made["id"].as_str().unwrap())).await.expect(204);
    assert!(reason(&mut revoked).await.contains("key"));

    let mut events = Events::open(&hub, &key, "").await;
    let (mut socket, _) = connect(&hub, &key).await;
    wait_clients(&hub.admin(), "websocket", 1.0).await;
    hub.ask_to_stop();
    assert!(reason(&mut events).await.contains("stopping"));
    let close = loop {
        match socket.next().await {
            Some(Ok(Message::Close(frame))) => break frame.expect("a reason"),
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(u16::from(close.code), 1001, "{close:?}");
    assert!(hub.wait_end().await.success(), "{}", hub.log());
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_let_go_and_holds_up_nobody() {
    let settings = [("PULL__SEND_TIMEOUT_MS", "300"), ("PULL__HEARTBEAT_MS", "100")];
    let hub = Hub::start_with(&settings).await;
    let key = hub.key(&["publish", "consume", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key).pooled();
    make(&acme, json!({"lease_ms": 1_000, "max_attempts": 100, "max_in_flight": 1_000})).await;
    let mut stuck = TcpStream::connect(hub.public_address()).await.unwrap();
    let head = format!("GET /v1/consumers/billing/stream?max=256 HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\n\r\n");
    stuck.write_all(head.as_bytes()).await.unwrap();
    let mut first = [0_u8; 64];
    stuck.read_exact(&mut first).await.unwrap();
    wait_clients(&hub.admin(), "sse", 1.0).await;
    let before = hub.peak_memory_bytes();
    let filling = "x".repeat(200_000);
    for n in 0..100 {
        acme.publish(&json!({"id": format!("n{n}"), "type": "a.b", "data": filling})).await;
    }
    // Its socket is full; nothing is read from it.
    wait_clients(&hub.admin(), "sse", 0.0).await;
    let mut left: BTreeSet<String> = (0..100).map(|n| format!("n{n}")).collect();
    while !left.is_empty() {
        let pulled =
            acme.post("/v1/consumers/billing/pull", &json!({"max": 50, "wait_ms": 20_000})).await.expect(200).json();
        for one in pulled["deliveries"].as_array().unwrap() {
            acme.post("/v1/consumers/billing/ack", &json!({"tokens": [one["token"]]})).await.expect_any(&[200, 409]);
            left.remove(id(one));
        }
    }
    let grown = hub.peak_memory_bytes().saturating_sub(before);
    assert!(grown < 256 << 20, "{grown} bytes more");
    drop(stuck);
}

type Socket = WebSocketStream<TcpStream>;

async fn connect(hub: &Hub, key: &str) -> (Socket, u16) {
    let address = hub.public_address();
    let mut request = format!("ws://{address}/v1/consumers/billing/ws").into_client_request().unwrap();
    request.headers_mut().insert("x-api-key", key.parse().unwrap());
    let stream = TcpStream::connect(address).await.unwrap();
    let (socket, answer) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    (socket, answer.status().as_u16())
}

async fn say(socket: &mut Socket, frame: Value) {
    socket.send(Message::text(frame.to_string())).await.unwrap();
}

/// The next frame of JSON; pings are answered underneath.
async fn hear(socket: &mut Socket) -> Value {
    loop {
        let message = tokio::time::timeout(DEADLINE, socket.next()).await.expect("a frame").expect("open").unwrap();
        if let Message::Text(text) = message {
            return serde_json::from_str(&text).unwrap();
        }
    }
}

async fn close_code(socket: &mut Socket) -> Option<u16> {
    loop {
        match tokio::time::timeout(DEADLINE, socket.next()).await.expect("an end") {
            Some(Ok(Message::Close(frame))) => return frame.map(|frame| frame.code.into()),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return None,
        }
    }
}

#[tokio::test]
async fn over_a_websocket_deliveries_come_as_they_are_asked_for_and_are_answered_on_it() {
    let hub = Hub::start_with(&[("PULL__HEARTBEAT_MS", "100")]).await;
    let key = hub.key(&["publish", "consume", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    let made = make(&acme, json!({"lease_ms": 3_600_000})).await;
    let (mut socket, status) = connect(&hub, &key).await;
    assert_eq!(status, 101);
    publish(&acme, 0, 6).await;
    say(&mut socket, json!({"pull": 2})).await;
    let (first, second) = (hear(&mut socket).await, hear(&mut socket).await);
    let (first, second) = (&first["delivery"], &second["delivery"]);
    assert_eq!((id(first), id(second)), ("n000", "n001"));
    // Not asked for, not sent: the answers are all that comes.
    say(&mut socket, json!({"ack": [first["token"]], "ref": "a"})).await;
    let answer = hear(&mut socket).await;
    assert_eq!((&answer["results"][0]["status"], &answer["ref"]), (&json!("acked"), &json!("a")), "{answer}");
    say(&mut socket, json!({"ack": [first["token"]], "ref": "b"})).await;
    let answer = hear(&mut socket).await;
    assert_eq!(
        (&answer["error"]["type"], &answer["ref"]),
        (&json!("urn:tidegate:problem:stale-token"), &json!("b")),
        "{answer}"
    );
    say(&mut socket, json!({"extend": [second["token"]], "lease_ms": 5_000})).await;
    assert_eq!(hear(&mut socket).await["results"][0]["status"], "extended");
    say(&mut socket, json!({"nak": [second["token"]], "delay_ms": 0})).await;
    assert_eq!(hear(&mut socket).await["results"][0]["status"], "retry");
    say(&mut socket, json!({"pull": 5})).await;
    let mut rest = BTreeSet::new();
    for _ in 0..5 {
        let frame = hear(&mut socket).await;
        let one = &frame["delivery"];
        rest.insert((id(one).to_owned(), one["attempt"].as_u64().unwrap()));
        let verb = if id(one) == "n005" { "term" } else { "ack" };
        acme.post(&format!("/v1/consumers/billing/{verb}"), &json!({"tokens": [one["token"]]})).await.expect(200);
    }
    let wanted = [("n001", 2), ("n002", 1), ("n003", 1), ("n004", 1), ("n005", 1)];
    assert_eq!(rest, wanted.into_iter().map(|(id, attempt)| (id.to_owned(), attempt)).collect());
    acme.wait_dead_letters(made["id"].as_str().unwrap(), 1).await;
    socket.close(None).await.unwrap();
    wait_clients(&hub.admin(), "websocket", 0.0).await;
}

#[tokio::test]
async fn frames_that_do_not_fit_are_told_what_is_wrong_and_too_many_end_the_connection() {
    let hub = Hub::start().await;
    let key = hub.key(&["publish", "consume", "manage"], Some("acme")).await;
    let acme = hub.public(&key);
    make(&acme, json!({})).await;
    let (mut socket, _) = connect(&hub, &key).await;
    for (frame, field) in [
        ("[]", "body"),
        ("{}", "frame"),
        (r#"{"pull":1,"ack":["x"]}"#, "frame"),
        (r#"{"pull":0}"#, "pull"),
        (r#"{"pull":100000}"#, "pull"),
        (r#"{"ack":[]}"#, "ack"),
        (r#"{"ack":["nonsense"]}"#, "tokens[0]"),
        (r#"{"nak":["x"],"delay":5}"#, "delay"),
        (r#"{"pull":1,"ref":7}"#, "ref"),
    ] {
        socket.send(Message::text(frame)).await.unwrap();
        let answer = hear(&mut socket).await;
        assert_eq!(
            (&answer["error"]["status"], &answer["error"]["field"]),
            (&json!(400), &json!(field)),
            "{frame}: {answer}"
        );
    }
    socket.send(Message::binary(vec![1, 2, 3])).await.unwrap();
    assert_eq!(hear(&mut socket).await["error"]["field"], "frame");
    for _ in 0..6 {
        socket.send(Message::text("{")).await.unwrap();
        assert_eq!(hear(&mut socket).await["error"]["type"], "urn:tidegate:problem:not-json");
    }
    assert_eq!(close_code(&mut socket).await, Some(1008));

    let (mut socket, _) = connect(&hub, &key).await;
    socket.send(Message::text("x".repeat(100_000))).await.unwrap();
    assert!(matches!(close_code(&mut socket).await, Some(1009) | None));
    wait_clients(&hub.admin(), "websocket", 0.0).await;
}

#[tokio::test]
async fn a_silent_client_of_a_websocket_is_let_go() {
    let hub = Hub::start_with(&[("PULL__HEARTBEAT_MS", "50")]).await;
    let key = hub.key(&["publish", "consume", "manage"], Some("acme")).await;
    let acme = hub.public(&key);
    make(&acme, json!({"lease_ms": 200})).await;
    let mut silent = TcpStream::connect(hub.public_address()).await.unwrap();
    let head = format!(
        "GET /v1/consumers/billing/ws HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    silent.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0_u8; 12];
    silent.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 101");
    wait_clients(&hub.admin(), "websocket", 0.0).await;
    // It answers no ping, so the hub has ended the connection.
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(30), silent.read_to_end(&mut rest)).await.expect("an end").ok();
}
