//! The customer bridge (contracts/customer-bridge.md), outcome by outcome, log line by log line, series by series, against a
//! stand-in that misbehaves on cue. By a clock that the test drives: nothing waits for a backoff.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tidegate::ground::clock::Clock as _;
use tidegate::upstream::AdapterContext;
use tidegate::upstream::reading::Question;
use tracing::Level;

use crate::embed::stop_settled;
use crate::publishes::{Scene, TOKEN, example};
use crate::support::{Delivery, Reply, lines, until};

const TIMELINE: &str = "/api/v1/timeline";
/// The other headers of a bridge's series are told apart by `adapter_id`.
const PREFIX: &str = "integration_bridge_";

/// The bridge as it is shipped, under an id of its own: the log of this process is shared with other tests.
async fn bridge(id: &str) -> Scene {
    lines::keep();
    Scene::start(|receiver| {
        let mut upstream = example("customer-bridge.toml", receiver);
        upstream["id"] = json!(id);
        upstream
    })
    .await
}

fn booking(id: &str, event_type: &str) -> Value {
    json!({"id": id, "type": event_type, "org": "acme", "source": "desk", "aggregate_type": "booking",
        "aggregate_id": format!("B-{id}"), "occurred_at": "2026-11-21T09:00:00.999+01:00",
        "data": {"contactId": "c-1", "metadata": {"room": "12a"}}})
}

/// A line in short: level, sentence, and these fields.
fn told(line: &lines::Line, names: &[&str]) -> (Level, String, Vec<Value>) {
    (line.level, line.message.clone(), names.iter().map(|name| line.field(name).clone()).collect())
}

/// The lines about one event.
fn about(scene: &Scene, external_id: &str) -> Vec<lines::Line> {
    let mut lines = lines::of(&scene.id);
    lines.retain(|line| line.level != Level::DEBUG && line.field("external_id") == external_id);
    lines
}

/// The counters and gauges of publishes, by name.
fn series(scene: &Scene) -> BTreeMap<&'static str, f64> {
    let of = |name: &'static str, label: &str| scene.series(&format!("{PREFIX}{name}"), label).unwrap_or(0.0);
    BTreeMap::from([
        ("success", of("publish_success_total", "")),
        ("deferred", of("publish_deferred_total", "")),
        ("auth", of("permanent_failure_total", "reason=\"auth\"")),
        ("dead_letter", of("permanent_failure_total", "reason=\"dead_letter\"")),
        ("retries", of("retry_attempts_total", "")),
        ("depth", of("retry_depth_max", "")),
        ("dead", of("dead_letters", "")),
        ("circuit", of("circuit_state", "")),
    ])
}

fn expect(scene: &Scene, wanted: &[(&'static str, f64)]) {
    let mut all: BTreeMap<&str, f64> = series(scene).keys().map(|name| (*name, 0.0)).collect();
    all.extend(wanted.iter().copied());
    assert_eq!(series(scene), all);
}

fn one_key(deliveries: &[Delivery]) -> bool {
    deliveries.windows(2).all(|pair| pair[0].header("x-idempotency-key") == pair[1].header("x-idempotency-key"))
}

#[tokio::test]
async fn a_booking_that_is_made_confirmed_cancelled_or_completed_is_put_on_the_timeline() {
    let scene = bridge("cb-success").await;
    let types = ["booking.created", "booking.confirmed", "booking.cancelled", "booking.completed"];
    for (n, event_type) in types.iter().enumerate() {
        let mut event = booking(&n.to_string(), event_type);
        if n > 0 {
            event["data"]["previousStatus"] = json!("requested");
            event["data"]["status"] = json!("next");
        }
        event["request_context"] = json!({"correlation_id": format!("co-{n}")});
        scene.publish(&event).await;
        scene.wait_status(&n.to_string(), "timeline", "processed").await;
    }
    for (n, (came, event_type)) in scene.receiver.on(TIMELINE).iter().zip(types).enumerate() {
        assert_eq!((came.method.as_str(), came.header("content-type")), ("POST", "application/json"));
        assert_eq!(came.header("authorization"), format!("Bearer {TOKEN}"));
        assert_eq!(came.header("x-correlation-id"), format!("co-{n}"));
        assert_eq!(came.header("x-idempotency-key").len(), 32);
        let wanted = json!({"type": event_type, "externalId": format!("B-{n}"), "timestamp": "2026-11-21T08:00:00Z",
            "contactId": "c-1", "metadata": {"room": "12a"}});
        assert_eq!(came.json(), wanted);
        let lines = about(&scene, &format!("B-{n}"));
        assert_eq!(lines.len(), 1, "{lines:?}");
        let names = ["type", "contact_id", "attempt", "status"];
        let wanted = vec![json!(event_type), json!("c-1"), json!(1), json!(came.status)];
        assert_eq!(told(&lines[0], &names), (Level::INFO, "published to the upstream".to_owned(), wanted));
    }
    expect(&scene, &[("success", 4.0)]);
    stop_settled(&scene.hub).await;
}

#[tokio::test]
async fn without_a_contact_or_a_change_of_status_there_is_nothing_to_tell_and_nothing_fails() {
    let scene = bridge("cb-skip").await;
    let mut nobody = booking("nobody", "booking.created");
    nobody["data"]["contactId"] = json!("");
    let mut same = booking("same", "booking.confirmed");
    same["data"]["previousStatus"] = json!("confirmed");
    same["data"]["status"] = json!("confirmed");
    for event in [&nobody, &same, &booking("moved", "booking.moved"), &booking("told", "booking.created")] {
        scene.publish(event).await;
    }
    scene.wait_status("told", "timeline", "processed").await;
    for (id, clause, detail) in [
        ("nobody", "requires", "`data.contactId` of the event is empty"),
        ("same", "filter", "data.previousStatus != data.status` is false"),
        ("moved", "event_types", "the event has booking.moved"),
    ] {
        let explained = scene.explained(id, "timeline").await;
        assert_eq!(
            (&explained["status"], &explained["decided_by"]),
            (&json!("skipped"), &json!(clause)),
            "{explained}"
        );
        assert!(explained["detail"].as_str().unwrap().ends_with(detail), "{explained}");
        assert!(about(&scene, &format!("B-{id}")).is_empty(), "{id} is told of in no line");
    }
    assert_eq!(scene.receiver.on(TIMELINE).len(), 1);
    expect(&scene, &[("success", 1.0)]);
    stop_settled(&scene.hub).await;
}

#[tokio::test]
async fn what_fails_for_now_waits_in_the_durable_queue_and_the_producer_does_not_notice() {
    let scene = bridge("cb-defer").await;
    // An answer that says so, and a connection that breaks.
    for (n, (reply, status)) in [(Reply::Status(503), json!(503)), (Reply::Reset, Value::Null)].into_iter().enumerate()
    {
        let id = n.to_string();
        scene.receiver.script(TIMELINE, [reply]);
        scene.publish(&booking(&id, "booking.created")).await;
        scene.wait_status(&id, "timeline", "failed").await;
        let lines = about(&scene, &format!("B-{id}"));
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert_eq!((lines[0].level, lines[0].field("transient")), (Level::WARN, &json!(true)), "{lines:?}");
        let place = json!(format!("{}{TIMELINE}", scene.receiver.address()));
        assert_eq!((lines[0].field("method"), lines[0].field("host_path")), (&json!("POST"), &place), "{lines:?}");
        assert_eq!((lines[0].field("attempt"), lines[0].field("status")), (&json!(1), &status), "{lines:?}");
        let (level, message, fields) = told(&lines[1], &["type", "contact_id"]);
        assert_eq!((level, message.as_str()), (Level::WARN, "publish deferred to the durable queue"));
        assert_eq!(fields, [json!("booking.created"), json!("c-1")]);
        assert!(lines[1].field("until").as_str().unwrap().starts_with("2026-11-21T08:00:0"), "{lines:?}");
        // The preset waits a second.
        scene.advance(999);
        assert_eq!(scene.explained(&id, "timeline").await["status"], "failed");
        scene.advance(1);
        scene.wait_status(&id, "timeline", "processed").await;
        let lines = about(&scene, &format!("B-{id}"));
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert_eq!((lines[2].level, lines[2].field("attempt")), (Level::INFO, &json!(2)));
    }
    let came = scene.receiver.on(TIMELINE);
    assert_eq!(came.len(), 4);
    assert!(one_key(&came[..2]) && one_key(&came[2..]));
    expect(&scene, &[("success", 2.0), ("deferred", 2.0), ("retries", 2.0), ("depth", 1.0)]);
    stop_settled(&scene.hub).await;
}

#[tokio::test]
async fn a_refused_credential_is_an_error_at_once_and_is_not_tried_again() {
    let scene = bridge("cb-auth").await;
    scene.receiver.script(TIMELINE, [Reply::With(401, Vec::new(), format!("bad token {TOKEN}").into_bytes())]);
    scene.publish(&booking("x", "booking.created")).await;
    scene.wait_status("x", "timeline", "dead_letter").await;
    scene.advance(3_600_000);
    let lines = about(&scene, "B-x");
    assert_eq!(lines.len(), 2, "{lines:?}");
    for line in &lines {
        assert_eq!(
            (line.level, line.field("transient"), line.field("status")),
            (Level::ERROR, &json!(false), &json!(401))
        );
    }
    let wanted =
        (Level::ERROR, "publish refused: the upstream does not accept the credential".to_owned(), vec![json!("auth")]);
    assert_eq!(told(&lines[1], &["reason"]), wanted);
    assert_eq!(scene.receiver.on(TIMELINE).len(), 1, "it is not tried again");
    expect(&scene, &[("auth", 1.0), ("dead", 1.0)]);
    let letters = scene.letters("timeline").await;
    assert_eq!((&letters[0]["error"]["kind"], &letters[0]["attempts"]), (&json!("auth"), &json!(1)), "{letters:?}");
    assert!(!format!("{letters:?}{:?}", lines::of(&scene.id)).contains(TOKEN), "the credential is shown nowhere");
    stop_settled(&scene.hub).await;
}

#[tokio::test]
async fn when_the_retries_are_used_up_the_event_is_a_dead_letter_that_can_be_redriven_after_a_restart() {
    let scene = bridge("cb-spent").await;
    scene.receiver.script(TIMELINE, [500, 502, 504].map(Reply::Status));
    scene.publish(&booking("x", "booking.cancelled")).await;
    for (made, wait_ms) in [(1, 1_000), (2, 2_000)] {
        until("the attempt was made", || async {
            let told = scene.explained("x", "timeline").await;
            (told["attempts"] == made && told["status"] == "failed").then_some(())
        })
        .await;
        scene.advance(wait_ms);
    }
    scene.wait_status("x", "timeline", "dead_letter").await;
    let lines = about(&scene, "B-x");
    let levels: Vec<(Level, Value)> = lines.iter().map(|line| (line.level, line.field("attempt").clone())).collect();
    let wanted = [(Level::WARN, 1), (Level::WARN, 1), (Level::WARN, 2), (Level::WARN, 3), (Level::ERROR, 3)];
    assert_eq!(levels, wanted.map(|(level, attempt)| (level, json!(attempt))), "{lines:?}");
    let last = lines.last().unwrap();
    assert_eq!(last.message, "publish given up: the retry budget is exhausted");
    assert_eq!((last.field("reason"), last.field("status")), (&json!("dead_letter"), &json!(504)), "{last:?}");
    expect(&scene, &[("deferred", 1.0), ("dead_letter", 1.0), ("retries", 2.0), ("depth", 1.0), ("dead", 1.0)]);

    let scene = scene.reopen().await;
    expect(&scene, &[("dead", 1.0)]);
    // Attempts are told apart by their time.
    scene.advance(1_000);
    scene.redrive("timeline").await;
    scene.wait_status("x", "timeline", "processed").await;
    let came = scene.receiver.on(TIMELINE);
    assert_eq!(came.len(), 4);
    assert!(one_key(&came), "after a restart and a redrive, too");
    expect(&scene, &[("success", 1.0)]);
    stop_settled(&scene.hub).await;
}

#[tokio::test]
async fn an_open_breaker_spends_no_attempt_and_is_open_after_a_restart() {
    let scene = bridge("cb-breaker").await;
    scene.receiver.always(TIMELINE, Reply::Status(503));
    // Failures in a row that open the breaker of the preset: 5.
    for n in 0..5 {
        scene.publish(&booking(&n.to_string(), "booking.created")).await;
        scene.receiver.wait_for(TIMELINE, n + 1).await;
    }
    until("the breaker is open", || async { (series(&scene)["circuit"] == 2.0).then_some(()) }).await;
    let came = scene.receiver.on(TIMELINE).len();
    scene.publish(&booking("waits", "booking.created")).await;
    until("it is deferred", || async {
        let lines = about(&scene, "B-waits");
        (!lines.is_empty()).then_some(())
    })
    .await;
    let lines = about(&scene, "B-waits");
    let (level, message, fields) = told(&lines[0], &["reason", "attempt"]);
    assert_eq!((level, message.as_str()), (Level::WARN, "publish deferred to the durable queue"));
    assert_eq!(fields, [json!("circuit_open"), json!(1)]);
    scene.advance(60_000);
    let explained = scene.explained("waits", "timeline").await;
    assert_eq!((&explained["status"], &explained["attempts"]), (&json!("pending"), &json!(0)), "{explained}");
    assert_eq!(scene.receiver.on(TIMELINE).len(), came, "nothing is sent while it is open");
    let breaker: Vec<_> = lines::of(&scene.id).into_iter().filter(|line| line.fields.contains_key("to")).collect();
    assert_eq!(told(&breaker[0], &["from", "to"]).2, [json!("closed"), json!("open")], "{breaker:?}");
    assert_eq!(breaker[0].level, Level::WARN);

    let scene = scene.reopen().await;
    scene.advance(1_000);
    until("it is open after the restart", || async { (series(&scene)["circuit"] == 2.0).then_some(()) }).await;
    assert_eq!(scene.receiver.on(TIMELINE).len(), came);
    scene.receiver.always(TIMELINE, Reply::Status(200));
    for id in ["0", "1", "2", "3", "4", "waits"] {
        until(&format!("{id} is published"), || async {
            if scene.explained(id, "timeline").await["status"] == "processed" {
                return Some(());
            }
            // A call that is out has 3 s: the clock moves by less, and only while none is out.
            if scene.hub.consumers().await.iter().all(|one| one["in_flight"] == 0) {
                scene.advance(2_000);
            }
            None
        })
        .await;
    }
    let came = scene.receiver.on(TIMELINE);
    let of = |id: &str| -> Vec<Delivery> {
        came.iter().filter(|one| one.json()["externalId"] == format!("B-{id}")).cloned().collect()
    };
    assert!(["0", "1", "2", "3", "4", "waits"].iter().all(|id| one_key(&of(id))));
    assert_eq!(series(&scene)["circuit"], 0.0);
    stop_settled(&scene.hub).await;
}

#[tokio::test]
async fn as_a_cloud_event_an_entry_has_an_id_that_is_made_of_what_it_says() {
    lines::keep();
    let scene = Scene::start(|receiver| {
        let mut upstream = example("customer-bridge.toml", receiver);
        upstream["id"] = json!("cb-cloud");
        upstream["publishes"][0]["call"]["format"] = json!("cloudevents");
        upstream
    })
    .await;
    scene.publish(&booking("7", "booking.confirmed")).await;
    let came = &scene.receiver.wait_for(TIMELINE, 1).await[0];
    assert_eq!(came.header("content-type"), "application/cloudevents+json");
    let whole = came.json();
    assert_eq!(whole["id"], "booking.confirmed:B-7:2026-11-21T08:00:00Z");
    assert_eq!((&whole["time"], &whole["data"]["contactId"]), (&json!("2026-11-21T08:00:00Z"), &json!("c-1")));
    scene.wait_status("7", "timeline", "processed").await;
    stop_settled(&scene.hub).await;
}

#[tokio::test]
async fn an_entry_without_an_external_id_is_given_up_without_a_call() {
    let scene = bridge("cb-empty").await;
    let mut event = booking("x", "booking.created");
    event.as_object_mut().unwrap().remove("aggregate_id");
    event.as_object_mut().unwrap().remove("aggregate_type");
    scene.publish(&event).await;
    scene.wait_status("x", "timeline", "dead_letter").await;
    assert!(scene.receiver.on(TIMELINE).is_empty());
    let letters = scene.letters("timeline").await;
    assert_eq!(letters[0]["error"]["message"], "`externalId` of the body must not be empty");
    expect(&scene, &[("dead_letter", 1.0), ("dead", 1.0)]);
    stop_settled(&scene.hub).await;
}

/// The bridge with one attempt a read: how often it tries again is told above.
async fn reader(id: &str) -> Scene {
    lines::keep();
    Scene::start(|receiver| {
        let mut upstream = example("customer-bridge.toml", receiver);
        upstream["id"] = json!(id);
        upstream["retry"] = json!({"kind": "fixed", "delays_ms": [], "jitter": 0});
        upstream
    })
    .await
}

async fn ask(
    scene: &Scene,
    name: &str,
    parameters: &[(&str, &str)],
) -> Result<Value, tidegate::ground::error::Problem> {
    let of = |wanted: &str| parameters.iter().find(|(name, _)| *name == wanted).map(|(_, value)| (*value).to_owned());
    let mut question = Question { limit: of("limit"), offset: of("offset"), ..Question::default() };
    let values = parameters.iter().filter(|(name, _)| !["limit", "offset"].contains(name));
    question.values = values.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let context = AdapterContext::new(Some("acme"), scene.clock.now());
    scene.hub.read_upstream(&scene.id, name, &question, context).await
}

async fn contact(scene: &Scene, id: &str) -> Value {
    ask(scene, "contact", &[("externalId", id)]).await.unwrap()
}

fn said(body: &Value) -> Reply {
    Reply::With(200, vec![("content-type", "application/json".to_owned())], body.to_string().into_bytes())
}

/// The lines about a contact since the last time: level and sentence.
fn new_lines(scene: &Scene, id: &str, seen: &mut usize) -> Vec<(Level, String)> {
    let all: Vec<_> = lines::of(&scene.id).into_iter().filter(|line| line.field("external_id") == id).collect();
    let new = all[*seen..].iter().map(|line| (line.level, line.message.clone())).collect();
    *seen = all.len();
    new
}

#[tokio::test]
async fn a_contact_is_found_kept_missing_malformed_or_old_and_each_is_told_and_counted() {
    let scene = reader("cb-contact").await;
    let of = |name: &str, label: &str| scene.series(&format!("{PREFIX}{name}"), label).unwrap_or(0.0);
    let path = |id: &str| format!("/api/v1/contacts/{id}");
    let bakker = json!({"legalName": "Bakker", "email": "a@b.example", "phone": "", "address": "", "kvkNumber": "", "found": true, "stale": false});
    let nobody = json!({"legalName": "", "email": "", "phone": "", "address": "", "kvkNumber": "", "found": false, "stale": false});
    let line = |level: Level, text: &str| vec![(level, text.to_owned())];

    let mut seen = 0;
    scene.receiver.script(&path("c-1"), [said(&json!({"legalName": "Bakker", "email": "a@b.example", "phone": null}))]);
    assert_eq!(contact(&scene, "c-1").await, bakker);
    assert_eq!(new_lines(&scene, "c-1", &mut seen), line(Level::DEBUG, "an upstream has answered"));
    assert_eq!(contact(&scene, "c-1").await, bakker);
    assert_eq!(new_lines(&scene, "c-1", &mut seen), line(Level::DEBUG, "the cache has answered a read"));
    assert_eq!((of("contact_success_total", ""), of("cache_hit_total", "")), (1.0, 1.0));

    scene.receiver.script(&path("c-2"), [Reply::Status(404)]);
    assert_eq!(contact(&scene, "c-2").await, nobody);
    assert_eq!(contact(&scene, "c-2").await, nobody);
    assert_eq!(scene.receiver.on(&path("c-2")).len(), 1, "that there is none is kept like a hit");
    assert_eq!((of("contact_fallback_total", "not_found"), of("cache_hit_total", "")), (1.0, 2.0));

    let mut torn = 0;
    scene.receiver.script(&path("c-3"), [Reply::With(200, Vec::new(), b"{\"legalName\": \"Ba".to_vec())]);
    assert_eq!(contact(&scene, "c-3").await, nobody);
    assert_eq!(new_lines(&scene, "c-3", &mut torn), line(Level::WARN, "an upstream's answer is malformed"));
    assert_eq!(of("contact_fallback_total", "malformed"), 1.0);

    // 300 s later the answer is old; it is given while the upstream is down, also once the breaker is open.
    scene.advance(300_001);
    scene.receiver.always(&path("c-1"), Reply::Status(503));
    let mut old = bakker.clone();
    old["stale"] = json!(true);
    for n in 1..=5 {
        assert_eq!(contact(&scene, "c-1").await, old);
        let told: Vec<_> =
            new_lines(&scene, "c-1", &mut seen).into_iter().filter(|one| one.0 != Level::DEBUG).collect();
        let texts: Vec<_> = told.iter().map(|(level, text)| (*level, text.as_str())).collect();
        let down = "an old answer was served: the upstream is down";
        assert!(texts.contains(&(Level::WARN, "an attempt at an upstream has failed")), "{texts:?}");
        assert!(texts.contains(&(Level::WARN, down)), "{texts:?}");
        assert_eq!(of("cache_stale_total", ""), f64::from(n));
    }
    until("the breaker is open", || async { (of("circuit_state", "") == 2.0).then_some(()) }).await;
    let asked = scene.receiver.on(&path("c-1")).len();
    assert_eq!(contact(&scene, "c-1").await, old);
    assert_eq!(scene.receiver.on(&path("c-1")).len(), asked, "an open breaker asks nothing");
    assert_eq!((of("cache_stale_total", ""), of("contact_success_total", "")), (6.0, 1.0));

    scene.hub.reset_upstream_counters(&scene.id).unwrap();
    for name in ["contact_success_total", "cache_hit_total", "cache_stale_total", "publish_success_total"] {
        assert_eq!(of(name, ""), 0.0, "{name}");
    }
    assert_eq!(of("circuit_state", ""), 2.0, "a state is no counter");
    stop_settled(&scene.hub).await;
}

#[tokio::test]
async fn a_history_is_always_answered_within_its_bounds_and_never_with_an_error() {
    let scene = reader("cb-history").await;
    let path = |limit: u64, offset: u64| format!("/api/v1/contacts/c-1/klantbeeld?limit={limit}&offset={offset}");
    let history = async |limit: &str, offset: &str| {
        ask(&scene, "history", &[("id", "c-1"), ("limit", limit), ("offset", offset)]).await.unwrap()
    };
    scene.receiver.always(&path(100, 0), said(&json!({"transactions": [{"n": 1}]})));
    let told = history("1000", "-7").await;
    assert_eq!(told, json!({"transactions": [{"n": 1}], "limit": 100, "offset": 0, "unavailable": false}));
    let unavailable = json!({"transactions": [], "limit": 1, "offset": 3, "unavailable": true});
    for reply in [Reply::Status(500), Reply::Status(503), Reply::Reset, Reply::Status(401)] {
        scene.receiver.script(&path(1, 3), [reply.clone()]);
        assert_eq!(history("0", "3").await, unavailable, "{reply:?}");
    }
    stop_settled(&scene.hub).await;
}

#[tokio::test]
async fn the_health_check_tells_reachable_from_refused_and_down_and_never_shows_the_token() {
    let scene = reader("cb-health").await;
    let refused = Reply::With(401, Vec::new(), format!("no such token: {TOKEN}").into_bytes());
    scene.receiver.script("/api/v1/health", [Reply::Status(200), refused, Reply::Status(503), Reply::Reset]);
    for wanted in ["reachable", "auth_rejected", "down", "down"] {
        let report = serde_json::to_value(scene.hub.test_upstream(&scene.id, None).await.unwrap()).unwrap();
        assert_eq!(report["outcome"], wanted, "{report}");
        assert!(report["latency_ms"].is_u64() && !report.to_string().contains(TOKEN), "{report}");
    }
    assert_eq!(scene.receiver.on("/api/v1/health")[0].header("authorization"), format!("Bearer {TOKEN}"));
    assert!(!format!("{:?}", lines::of(&scene.id)).contains(TOKEN));
    stop_settled(&scene.hub).await;
}
