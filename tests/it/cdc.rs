//! The change feed: pages, server-sent events and NDJSON, what a cursor holds to, restarts and gaps (CDC-1..3).

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Api, DEADLINE, Hub, items, until};

/// One thing that a stream told.
#[derive(Debug)]
struct Told {
    cursor: String,
    /// `event`, `gap`, or nothing for a sign of life.
    kind: String,
    data: Value,
}

impl Told {
    fn id(&self) -> &str {
        self.data["id"].as_str().unwrap_or_default()
    }
}

/// A stream of the feed being read.
struct Stream {
    response: reqwest::Response,
    buffer: String,
    sse: bool,
}

const SSE: &str = "text/event-stream";
const NDJSON: &str = "application/x-ndjson";

impl Stream {
    async fn open(api: &Api, query: &str, accept: &str, last_id: Option<&str>) -> Self {
        let mut headers = vec![("accept", accept)];
        headers.extend(last_id.map(|id| ("last-event-id", id)));
        let response = api.open(&format!("/v1/cdc?{query}"), &headers).await;
        assert_eq!(response.status(), 200, "{query}");
        assert_eq!(response.headers()["content-type"], accept);
        assert_eq!(response.headers()["cache-control"], "no-store");
        Self { response, buffer: String::new(), sse: accept == SSE }
    }

    /// The next thing told; none at the end of the stream.
    async fn next(&mut self) -> Option<Told> {
        let end = if self.sse { "\n\n" } else { "\n" };
        loop {
            if let Some((block, rest)) = self.buffer.split_once(end) {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.buffer = rest;
                match if self.sse { of_block(&block) } else { of_line(&block) } {
                    Some(told) => return Some(told),
                    None => continue,
                }
            }
            let piece = tokio::time::timeout(DEADLINE, self.response.chunk()).await.expect("the stream says something");
            self.buffer.push_str(std::str::from_utf8(&piece.ok()??).unwrap());
        }
    }

    /// The next so many events, signs of life passed over.
    async fn events(&mut self, count: usize) -> Vec<Told> {
        let mut events = Vec::new();
        while events.len() < count {
            let told = self.next().await.expect("the stream goes on");
            match told.kind.as_str() {
                "event" => events.push(told),
                "" => {}
                other => panic!("{other} among the events: {told:?}"),
            }
        }
        events
    }
}

fn of_block(block: &str) -> Option<Told> {
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
    let data = field("data: ").map_or(Value::Null, |data| serde_json::from_str(&data).unwrap());
    // The advice of when to come back has no id.
    Some(Told { cursor: field("id: ")?, kind: field("event: ").unwrap_or_default(), data })
}

fn of_line(line: &str) -> Option<Told> {
    let line: Value = serde_json::from_str(line).unwrap();
    let (kind, data) = match (&line["event"], &line["gap"]) {
        (Value::Null, Value::Null) => ("", Value::Null),
        (Value::Null, gap) => ("gap", gap.clone()),
        (event, _) => ("event", event.clone()),
    };
    Some(Told { cursor: line["cursor"].as_str().unwrap().to_owned(), kind: kind.to_owned(), data })
}

async fn publish(api: &Api, org: &str, ids: impl IntoIterator<Item = String>) {
    let events: Vec<Value> =
        ids.into_iter().map(|id| json!({"id": id, "type": "order.created", "org": org, "source": "shop"})).collect();
    for part in events.chunks(500) {
        let answer = api.post("/v1/events/batch", &json!(part)).await.expect(202).json();
        assert_eq!(answer["rejected"], 0, "{answer}");
    }
}

fn ids_of(page: &Value) -> Vec<String> {
    items(page).iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect()
}

fn names(prefix: &str, range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("{prefix}-{n}")).collect()
}

async fn page(api: &Api, query: &str) -> Value {
    api.get(&format!("/v1/cdc?{query}")).await.expect(200).json()
}

#[tokio::test]
async fn pages_have_the_envelopes_as_stored_of_the_org_alone_and_go_on_over_a_restart() {
    let mut hub = Hub::start().await;
    let key = hub.key(&["publish", "consume"], None).await;
    let any = hub.public(&key);
    for n in 0..30 {
        publish(&any, "acme", [format!("a-{n}")]).await;
        publish(&any, "globex", [format!("g-{n}")]).await;
    }
    let first = page(&any, "org=acme&limit=7").await;
    assert_eq!((ids_of(&first), &first["has_more"]), (names("a", 0..7), &json!(true)));
    let event = &items(&first)[1];
    assert_eq!((&event["seq"], &event["org"], &event["source"]), (&json!(3), &json!("acme"), &json!("shop")));
    assert!(event["received_at"].is_string(), "{event}");

    let mut cursor = first["next_cursor"].as_str().unwrap().to_owned();
    hub.kill();
    hub.restart().await;
    let any = hub.public(&key);
    let mut found = ids_of(&first);
    loop {
        let next = page(&any, &format!("org=acme&limit=7&cursor={cursor}")).await;
        found.extend(ids_of(&next));
        cursor = next["next_cursor"].as_str().unwrap().to_owned();
        if next["has_more"] == false {
            break;
        }
    }
    assert_eq!(found, names("a", 0..30));
    let end = page(&any, &format!("org=acme&cursor={cursor}")).await;
    assert_eq!((ids_of(&end).len(), &end["has_more"], &end["next_cursor"]), (0, &json!(false), &json!(cursor)));
    publish(&any, "acme", ["a-late".to_owned()]).await;
    assert_eq!(ids_of(&page(&any, &format!("org=acme&cursor={cursor}")).await), ["a-late"]);

    // An operator may leave the org out.
    assert_eq!(ids_of(&page(&hub.admin(), "limit=1000").await).len(), 61);
}

#[tokio::test]
async fn a_feed_begins_and_narrows_as_it_is_told() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let event = |id: &str, event_type: &str, more: Value| {
        let mut event = json!({"id": id, "type": event_type, "data": {"b": 1.10, "a": 12345678901234567890_u64}});
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event
    };
    acme.publish(&event("e1", "order.created", json!({"source": "shop", "channel": "web"}))).await;
    acme.publish(&event("e2", "order.line.added", json!({"source": "shop", "facility": "berlin"}))).await;
    acme.publish(&event("e3", "invoice.paid", json!({"source": "billing", "channel": "web"}))).await;
    let received = items(&page(&acme, "").await)[2]["received_at"].as_str().unwrap().to_owned();
    until("time goes on", || async {
        acme.publish(&event("e4", "order.created", json!({}))).await;
        let last = items(&page(&acme, "start=seq:4").await)[0]["received_at"].as_str().unwrap().to_owned();
        (last > received).then_some(())
    })
    .await;
    for (query, wanted) in [
        ("org=acme", &["e1", "e2", "e3", "e4"][..]),
        ("type=order.*", &["e1", "e2", "e4"]),
        ("type=order.created", &["e1", "e4"]),
        ("type=order.line.*,invoice.paid", &["e2", "e3"]),
        ("type=*&service=shop", &["e1", "e2"]),
        ("channel=web", &["e1", "e3"]),
        ("channel=web&service=billing", &["e3"]),
        ("facility=berlin", &["e2"]),
        ("start=earliest", &["e1", "e2", "e3", "e4"]),
        ("start=latest", &[]),
        ("start=seq:3", &["e3", "e4"]),
        ("start=seq:99", &[]),
        ("start=time:2020-01-01T00:00:00Z", &["e1", "e2", "e3", "e4"]),
        ("start=time:2120-01-01T00:00:00Z", &[]),
        ("from=2120-01-01T00:00:00Z", &[]),
        ("to=2020-01-01T00:00:00Z", &[]),
    ] {
        assert_eq!(ids_of(&page(&acme, query).await), wanted, "{query}");
    }
    let before = ids_of(&page(&acme, &format!("to={received}")).await).len();
    let since = ids_of(&page(&acme, &format!("from={received}")).await);
    assert_eq!(before + since.len(), 4, "a time cuts the feed in two");
    assert!(since.contains(&"e4".to_owned()));
    assert_eq!(ids_of(&page(&acme, &format!("start=time:{received}")).await), since);
    let text = acme.get("/v1/cdc?limit=1").await.expect(200).text;
    assert!(text.contains(r#""data":{"#) && text.contains("12345678901234567890"), "{text}");
}

#[tokio::test]
async fn what_does_not_fit_is_refused_by_name() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    publish(&acme, "acme", names("a", 0..3)).await;
    let first = page(&acme, "limit=1&channel=web&type=order.*").await;
    let cursor = first["next_cursor"].as_str().unwrap();
    page(&acme, &format!("channel=web&type=order.*&limit=5&cursor={cursor}")).await;
    let changed = format!("{}{}", if cursor.starts_with('A') { "B" } else { "A" }, &cursor[1..]);
    for (query, field) in [
        (format!("channel=shop&type=order.*&cursor={cursor}"), "channel"),
        (format!("channel=web&cursor={cursor}"), "type"),
        (format!("channel=web&type=order.*&service=x&cursor={cursor}"), "service"),
        (format!("channel=web&type=order.*&from=2020-01-01T00:00:00Z&cursor={cursor}"), "from"),
        (format!("channel=web&type=order.*&cursor={changed}"), "cursor"),
        ("cursor=7".to_owned(), "cursor"),
        ("limit=0".to_owned(), "limit"),
        ("limit=1001".to_owned(), "limit"),
        ("start=first".to_owned(), "start"),
        ("start=seq:0".to_owned(), "start"),
        ("start=time:noon".to_owned(), "start"),
        ("from=noon".to_owned(), "from"),
        ("type=a..b".to_owned(), "type"),
        ("type=a,".to_owned(), "type"),
        (format!("type={}", vec!["a"; 21].join(",")), "type"),
        ("follow=true".to_owned(), "follow"),
        ("colour=red".to_owned(), "colour"),
    ] {
        let problem = acme.get(&format!("/v1/cdc?{query}")).await.expect_problem(400, "invalid-parameter").json();
        assert_eq!(problem["field"], field, "{query}: {problem}");
    }
    let response = acme.open("/v1/cdc?follow=perhaps", &[("accept", SSE)]).await;
    assert_eq!(response.status(), 400);
    let response = acme.open("/v1/cdc", &[("accept", SSE), ("last-event-id", "x")]).await;
    assert_eq!(response.status(), 400);

    let any = hub.public(&hub.key(&["consume"], None).await);
    let problem = any.get("/v1/cdc").await.expect_problem(400, "invalid-parameter").json();
    assert_eq!(problem["field"], "org", "{problem}");
    assert_eq!(ids_of(&page(&any, "org=acme").await).len(), 3);
    let globex = hub.public(&hub.key(&["consume"], Some("globex")).await);
    assert!(ids_of(&page(&globex, "").await).is_empty());
    globex.get("/v1/cdc?org=acme").await.expect_problem(403, "forbidden");
    let problem = globex.get(&format!("/v1/cdc?channel=web&type=order.*&cursor={cursor}")).await;
    assert_eq!(problem.expect_problem(400, "invalid-parameter").json()["field"], "org");
    let reader = hub.public(&hub.key(&["read", "publish"], Some("acme")).await);
    reader.get("/v1/cdc").await.expect_problem(403, "forbidden");
    hub.anonymous().get("/v1/cdc?org=acme").await.expect_problem(401, "unauthorized");
}

#[tokio::test]
async fn both_streams_tell_what_is_there_and_then_what_comes_and_resume_where_they_broke() {
    let hub = Hub::start().await;
    let any = hub.public(&hub.key(&["publish", "consume"], None).await);
    for (accept, org, query) in [(SSE, "acme", "org=acme"), (NDJSON, "initech", "org=initech&follow=true")] {
        publish(&any, org, names("a", 0..300)).await;
        publish(&any, "globex", [format!("other-{accept}")]).await;
        let mut stream = Stream::open(&any, query, accept, None).await;
        let told = stream.events(300).await;
        let ids: Vec<_> = told.iter().map(Told::id).collect();
        assert_eq!(ids, names("a", 0..300));
        publish(&any, "globex", [format!("g-{accept}")]).await;
        publish(&any, org, [format!("live-{accept}")]).await;
        let live = stream.events(1).await;
        assert_eq!(live[0].id(), format!("live-{accept}"));
        drop(stream);

        // From the middle, by the cursor of an event; then by that of the last one.
        let resumed = match accept {
            SSE => Stream::open(&any, query, accept, Some(&told[99].cursor)).await,
            _ => Stream::open(&any, &format!("{query}&cursor={}", told[99].cursor), accept, None).await,
        };
        let mut stream = resumed;
        let ids: Vec<_> = stream.events(200).await.iter().map(|told| told.id().to_owned()).collect();
        assert_eq!(ids, names("a", 100..300));
        drop(stream);
        let mut stream = Stream::open(&any, &format!("{query}&cursor={}", live[0].cursor), accept, None).await;
        publish(&any, org, [format!("after-{accept}")]).await;
        assert_eq!(stream.events(1).await[0].id(), format!("after-{accept}"));
        drop(stream);
    }
    // Of both a cursor and a last id the browser's is the newer one.
    let all = page(&any, "org=acme&limit=1000").await;
    let (first, last) = (page(&any, "org=acme&limit=1").await, all["next_cursor"].as_str().unwrap());
    let query = format!("org=acme&start=earliest&cursor={}", first["next_cursor"].as_str().unwrap());
    let mut stream = Stream::open(&any, &query, SSE, Some(last)).await;
    publish(&any, "acme", ["newest".to_owned()]).await;
    assert_eq!(stream.events(1).await[0].id(), "newest");
}

#[tokio::test]
async fn a_stream_that_does_not_follow_ends_at_the_head_with_a_cursor_to_go_on_from() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    publish(&acme, "acme", names("a", 0..600)).await;
    let mut stream = Stream::open(&acme, "", NDJSON, None).await;
    let ids: Vec<_> = stream.events(600).await.iter().map(|told| told.id().to_owned()).collect();
    assert_eq!(ids, names("a", 0..600));
    let end = stream.next().await.expect("the place to go on from");
    assert_eq!(end.kind, "");
    assert!(stream.next().await.is_none());
    publish(&acme, "acme", ["late".to_owned()]).await;
    assert_eq!(ids_of(&page(&acme, &format!("cursor={}", end.cursor)).await), ["late"]);
    let mut stream = Stream::open(&acme, "follow=false&start=seq:600", SSE, None).await;
    assert_eq!(stream.events(2).await[0].id(), "a-599");
    assert_eq!(stream.next().await.expect("the place to go on from").kind, "");
    assert!(stream.next().await.is_none());
    // Nothing that is received from now on fits, so there is nothing to wait for.
    let mut stream = Stream::open(&acme, "to=2020-01-01T00:00:00Z", SSE, None).await;
    stream.next().await.expect("the place to go on from");
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn a_silent_stream_gives_signs_of_life_that_move_its_place() {
    let hub = Hub::start_with(&[("CDC__HEARTBEAT_MS", "100")]).await;
    let any = hub.public(&hub.key(&["publish", "consume"], None).await);
    publish(&any, "globex", names("g", 0..5)).await;
    for (accept, query) in [(SSE, "org=acme&start=latest"), (NDJSON, "org=acme&start=latest&follow=true")] {
        let mut stream = Stream::open(&any, query, accept, None).await;
        let told = stream.next().await.expect("a sign of life");
        assert_eq!((told.kind.as_str(), &told.data), ("", &Value::Null));
        publish(&any, "acme", [format!("one-{accept}")]).await;
        let ids = ids_of(&page(&any, &format!("org=acme&cursor={}", told.cursor)).await);
        assert_eq!(ids, [format!("one-{accept}")]);
    }
}

#[tokio::test]
async fn a_reader_that_resumes_by_cursor_misses_nothing_and_sees_nothing_twice_while_the_hub_is_killed() {
    const EVENTS: usize = 600;
    let mut hub = Hub::start().await;
    let key = hub.key(&["publish", "consume"], Some("acme")).await;
    let mut acme = hub.public(&key);
    let (mut seen, mut cursor): (Vec<String>, Option<String>) = (Vec::new(), None);
    for round in 0..4 {
        // What was acknowledged before the kill is durable; the stream is cut wherever it is.
        publish(&acme, "acme", names("e", round * 150..(round + 1) * 150)).await;
        let query = cursor.as_ref().map_or(String::new(), |cursor| format!("cursor={cursor}"));
        let mut stream = Stream::open(&acme, &query, SSE, None).await;
        for _ in 0..100 {
            let told = stream.next().await.expect("the stream goes on");
            cursor = Some(told.cursor.clone());
            if told.kind == "event" {
                seen.push(told.id().to_owned());
            }
        }
        hub.kill();
        drop(stream);
        hub.restart().await;
        acme = hub.public(&key);
    }
    let mut stream = Stream::open(&acme, "", SSE, cursor.as_deref()).await;
    while seen.len() < EVENTS {
        seen.push(stream.events(1).await[0].id().to_owned());
    }
    assert_eq!(seen, names("e", 0..EVENTS));
}

#[tokio::test]
async fn a_cursor_older_than_the_log_is_gone_and_a_running_stream_tells_its_gap() {
    const SEGMENT: usize = 1_000;
    let hub = Hub::start_with(&[
        ("LOG__SEGMENT_EVENTS", "1000"),
        ("LOG__RETENTION_MS", "1000"),
        ("LOG__RETENTION_CHECK_MS", "100"),
        ("LOG__MAX_CONSUMER_LAG_MS", "1000"),
        ("LOG__TAIL_RING_BYTES", "1048576"),
    ])
    .await;
    let any = hub.public(&hub.key(&["publish", "consume"], None).await).pooled();
    publish(&any, "acme", names("old", 0..10)).await;
    let cursor = page(&any, "org=acme&limit=3").await["next_cursor"].as_str().unwrap().to_owned();
    // A reader that takes the first piece and then nothing more.
    let fill = |round: usize| {
        let filling = "x".repeat(4_000);
        (0..SEGMENT).map(move |n| {
            json!({"id": format!("f{round}-{n}"), "type": "a.b", "org": "acme", "data": {"filling": filling.clone()}})
        })
    };
    let mut stalled = Stream::open(&any, "org=acme", SSE, None).await;
    let first = stalled.events(1).await;
    assert_eq!(first[0].id(), "old-0");
    for round in 0..12 {
        let events: Vec<Value> = fill(round).collect();
        for part in events.chunks(200) {
            any.post("/v1/events/batch", &json!(part)).await.expect(202);
        }
    }
    let earliest = until("old events are gone", || async {
        let stats = hub.admin().get("/v1/admin/stats").await.expect(200).json();
        stats["log"]["earliest"].as_u64().filter(|earliest| *earliest > 9_000)
    })
    .await;

    let problem = any.get(&format!("/v1/cdc?org=acme&cursor={cursor}")).await.expect_problem(410, "gone").json();
    assert!(problem["earliest_seq"].as_u64() >= Some(earliest), "{problem}");
    assert_eq!((&problem["asked_seq"], &problem["retryable"]), (&json!(4), &json!(false)), "{problem}");
    let earliest_cursor = problem["earliest_cursor"].as_str().unwrap();
    let next = page(&any, &format!("org=acme&limit=1&cursor={earliest_cursor}")).await;
    assert!(items(&next)[0]["seq"].as_u64() >= problem["earliest_seq"].as_u64(), "{next}");
    any.get("/v1/cdc?org=acme&start=seq:4").await.expect_problem(410, "gone");
    let response = any.open("/v1/cdc?org=acme", &[("accept", SSE), ("last-event-id", &cursor)]).await;
    assert_eq!(response.status(), 410);
    assert!(!ids_of(&page(&any, "org=acme&start=earliest&limit=1").await).is_empty());

    // The stalled reader goes on: every position it was not told of stands in a gap.
    let mut expected = first[0].data["seq"].as_u64().unwrap() + 1;
    let mut gaps = 0;
    while expected <= 12_000 {
        let told = stalled.next().await.expect("the stream goes on");
        match told.kind.as_str() {
            "event" => {
                assert_eq!(told.data["seq"].as_u64(), Some(expected), "nothing is left out untold");
                expected += 1;
            }
            "gap" => {
                assert_eq!(told.data["from"].as_u64(), Some(expected));
                expected = told.data["to"].as_u64().unwrap() + 1;
                gaps += 1;
            }
            _ => {}
        }
    }
    assert!(gaps >= 1, "retention has passed the reader");
}

#[tokio::test]
async fn open_streams_are_bounded_end_with_their_key_and_do_not_hold_up_the_stop() {
    let mut hub = Hub::start_with(&[("CDC__STREAMS_MAX", "2"), ("CDC__HEARTBEAT_MS", "100")]).await;
    let acme = hub.acme().await;
    let made = json!({"application": "it", "scopes": ["consume"], "org": "acme"});
    let made = hub.admin().post("/v1/admin/keys", &made).await.expect(201).json();
    let revoked = hub.public(made["key"].as_str().unwrap());
    let mut first = Stream::open(&acme, "", SSE, None).await;
    let mut second = Stream::open(&revoked, "", SSE, None).await;
    let response = acme.open("/v1/cdc", &[("accept", NDJSON)]).await;
    assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (503, "5"));
    page(&acme, "").await;

    hub.admin().delete(&format!("/v1/admin/keys/{}", made["id"].as_str().unwrap())).await.expect_any(&[200, 204]);
    while second.next().await.is_some() {}
    until("a place is free", || async {
        let response = acme.open("/v1/cdc", &[("accept", NDJSON)]).await;
        (response.status() == 200).then_some(())
    })
    .await;
    first.next().await.expect("the other one goes on");
    let metrics = hub.admin().get("/metrics").await.expect(200).text;
    assert!(metrics.contains("tidegate_cdc_streams 1"), "{metrics}");

    let reading = tokio::spawn(async move { while first.next().await.is_some() {} });
    assert!(hub.terminate().await.success());
    tokio::time::timeout(Duration::from_secs(30), reading).await.expect("the stream has ended").unwrap();
    assert!(!hub.log().contains("the stop took too long"), "{}", hub.log());
}

/// `tidegate` with these arguments against this hub, its output by lines.
fn cli(hub: &Hub, args: &[&str]) -> (Child, std::sync::mpsc::Receiver<String>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(args).arg("--data-dir").arg(hub.data_dir()).current_dir(hub.data_dir());
    command.env_remove("TIDEGATE_URL").env_remove("TIDEGATE_KEY").env_remove("TIDEGATE_ADMIN_URL");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (told, lines) = std::sync::mpsc::channel();
    let out = BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| told.send(line)));
    (child, lines)
}

#[tokio::test]
async fn the_command_line_follows_the_feed_over_a_restart_and_ends_at_the_head_when_told() {
    let mut hub = Hub::start().await;
    let key = hub.key(&["publish", "consume"], None).await;
    let any = hub.public(&key);
    publish(&any, "acme", names("a", 0..3)).await;
    publish(&any, "globex", names("g", 0..3)).await;

    let (mut ended, lines) = cli(&hub, &["tail", "--no-follow", "--org", "acme", "--json"]);
    let events: Vec<Value> = lines.iter().map(|line| serde_json::from_str(&line).unwrap()).collect();
    assert!(ended.wait().unwrap().success());
    let ids: Vec<_> = events.iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert_eq!(ids, names("a", 0..3));

    // Every org, as an operator, while the hub comes and goes.
    let (mut following, lines) = cli(&hub, &["tail", "--start", "seq:4", "--event-types", "order.*,x", "--json"]);
    let next = || lines.recv_timeout(DEADLINE).map(|line| serde_json::from_str::<Value>(&line).unwrap()["id"].clone());
    for id in names("g", 0..3) {
        assert_eq!(next().unwrap(), json!(id));
    }
    publish(&any, "acme", ["live".to_owned()]).await;
    assert_eq!(next().unwrap(), "live");
    hub.terminate().await;
    hub.restart().await;
    publish(&hub.public(&key), "acme", ["back".to_owned()]).await;
    assert_eq!(next().unwrap(), "back", "at the hub's new address, from the last cursor, nothing twice");
    following.kill().unwrap();
    following.wait().unwrap();

    let (mut refused, lines) = cli(&hub, &["tail", "--start", "someday"]);
    assert!(lines.iter().next().is_none());
    assert_eq!(refused.wait().unwrap().code(), Some(4));
}
