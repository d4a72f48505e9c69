//! A token is put everywhere a token can be put, everything that can go wrong goes wrong, and then everything that the hub
//! has said or kept is searched (SEC-6, UPS-2, UPS-9, OBS-2). Every token begins with the same text, so one search finds any
//! of them, in clear, in base64 or in hex; the same search finds what is no secret in every one of these places.

mod places;
mod planted;
mod refused;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::support::{Hub, Receiver, until};
use places::{Told, command_line, crawl, files};
use planted::Scene;

/// Every token begins so.
const LEAK: &str = "tgleak-4711-abc";
/// What is no secret begins so.
const SHOWN: &str = "tgshown-0815-xyz";
/// What stands in stored events and is redacted, or was refused, begins so.
const HIDDEN: &str = "tghidden-2342-pq";

/// A token for one place.
fn token(place: &str) -> String {
    format!("{LEAK}-{place}-5Zq8")
}

/// The forms in which a text is looked for: as it is, in base64 wherever it stands in what was encoded, and in hex.
fn forms(text: &str) -> Vec<String> {
    let encoded = (0..3).map(|before| {
        let whole = STANDARD.encode(format!("{}{text}", "x".repeat(before)));
        // What depends on the neighbours is left out.
        let (from, to) = (before.div_ceil(3) * 4, (before + text.len()) / 3 * 4);
        whole[from..to].to_owned()
    });
    let mut all: Vec<String> = encoded.collect();
    all.extend([text.to_owned(), hex::encode(text)]);
    all
}

/// Where one of the forms stands, with what is around it.
fn found(bytes: &[u8], text: &str) -> Option<String> {
    let whole = String::from_utf8_lossy(bytes);
    let at = forms(text).iter().find_map(|form| whole.find(form.as_str()))?;
    let around = &whole.as_bytes()[at.saturating_sub(160)..whole.len().min(at + 160)];
    Some(String::from_utf8_lossy(around).into_owned())
}

#[test]
fn the_search_finds_a_token_in_clear_in_base64_and_in_hex_wherever_it_stands() {
    let password = token("password");
    for user in ["", "u", "hu", "hub", "a longer name"] {
        let pair = format!("{user}:{password}");
        for text in [pair.clone(), STANDARD.encode(&pair), hex::encode(&pair)] {
            assert!(found(format!("before {text} after").as_bytes(), LEAK).is_some(), "{text}");
            assert_eq!(found(text.as_bytes(), SHOWN), None, "{text}");
        }
    }
}

#[tokio::test]
async fn a_token_that_is_put_anywhere_is_found_nowhere() {
    let (receiver, collector) = (Receiver::start(), Receiver::start());
    let mut scene = Scene::start(receiver, collector).await;
    let mut told = Told::default();
    scene.plant_sources(&mut told).await;
    scene.plant_webhooks(&mut told).await;
    scene.plant_upstreams(&mut told).await;
    scene.plant_keys(&mut told).await;
    scene.plant_events(&mut told).await;
    scene.plant_bulk(&mut told).await;
    scene.go_wrong(&mut told).await;
    refused::all(&scene, &mut told).await;

    crawl(&scene.hub, &scene.acme, &mut told).await;
    command_line(&scene, &mut told).await;
    told.put("metrics", scene.hub.admin().get("/metrics").await.expect(200).text);
    told.put("openapi", scene.hub.admin().get("/v1/openapi.json").await.expect(200).text);
    until("spans were exported", || async { (!scene.collector.on("/v1/traces").is_empty()).then_some(()) }).await;
    assert!(scene.hub.terminate().await.success());
    for request in scene.collector.on("/v1/traces") {
        told.put("traces", format!("{:?}\n{}", request.headers, String::from_utf8_lossy(&request.body)));
    }
    told.put("log", scene.hub.log());
    files(&scene.hub.data_dir(), &mut told);
    let listing = places::verify(&scene.hub);
    told.put("verify", listing);

    let mut leaks = Vec::new();
    for (place, text) in told.all() {
        if found(text, LEAK).is_some() {
            let lines = text.split(|byte| *byte == b'\n').filter_map(|line| found(line, LEAK));
            leaks.extend(lines.take(20).map(|around| format!("a token is in {place}: {around}")));
        }
        for (what, secret) in &scene.made {
            // The file that is there to hold it.
            let own = place == "file admin.token" && *what == "admin token";
            if !own && String::from_utf8_lossy(text).contains(secret.as_str()) {
                leaks.push(format!("a {what} is in {place}"));
            }
        }
        // The log of events and what was uploaded keep the originals.
        let originals = place.starts_with("file store/") || place.starts_with("file bulk/imports/");
        let hidden = found(text, HIDDEN).filter(|_| !originals);
        leaks.extend(hidden.map(|around| format!("what is not to be told is in {place}: {around}")));
    }
    assert!(leaks.is_empty(), "{}", leaks.join("\n"));
    let stored: Vec<&str> = told.all().map(|(place, _)| place).filter(|place| place.starts_with("file ")).collect();
    assert!(found(told.of("file store/db"), HIDDEN).is_some(), "the log of events has the original");

    // The same search finds what is no secret in each of these places: it would have found a token there.
    let unseen: Vec<_> = SEARCHED.iter().filter(|place| found(told.of(place), SHOWN).is_none()).collect();
    assert!(unseen.is_empty(), "nothing is found in {unseen:?}");
    assert!(stored.iter().any(|place| place.starts_with("file bulk/exports/")), "{stored:?}");
    assert!(receiver_saw(&scene.receiver), "the tokens were sent where they belong");
}

/// Places in which something that is no secret must be found.
const SEARCHED: &[&str] = &[
    "log",
    "metrics",
    "traces",
    "answers",
    "refusals",
    "command line",
    "file store/db",
    "exported parts",
    "GET /v1/events",
    "GET /v1/events/{id}",
    "GET /v1/events/{id}/explain",
    "GET /v1/scheduled",
    "GET /v1/sources",
    "GET /v1/sources/{name}",
    "GET /v1/cdc",
    "GET /v1/links",
    "GET /v1/catalog",
    "GET /v1/catalog.html",
    "GET /v1/catalog/types/{name}",
    "GET /v1/quarantine/{id}",
    "GET /v1/webhooks",
    "GET /v1/webhooks/{id}",
    "GET /v1/webhooks/{id}/attempts",
    "GET /v1/consumers",
    "GET /v1/exports/{id}/parts/{n}",
    "GET /v1/imports/{id}/report",
    "GET /v1/dead-letters",
    "GET /v1/dead-letters/{id}",
    "GET /v1/admin/upstreams",
    "GET /v1/admin/upstreams/{id}",
    "GET /v1/admin/upstreams/health",
    "GET /v1/admin/keys",
    "GET /v1/admin/breakers",
    "GET /v1/admin/consumers",
];

/// Every kind of credential has reached the other side.
fn receiver_saw(receiver: &Receiver) -> bool {
    let all = receiver.look(|all| {
        all.iter()
            .map(|one| format!("{:?} {}", one.headers, String::from_utf8_lossy(&one.body)))
            .collect::<Vec<_>>()
            .join("\n")
    });
    let sent = ["bearer", "basic", "oauth-basic", "oauth-body", "granted", "key-header", "custom-header", "proxy"];
    let declared = ["up-bearer", "up-basic", "up-oauth", "up-granted", "up-header", "up-env", "up-file", "up-rotated"];
    let missing: Vec<&str> = sent
        .iter()
        .chain(&declared)
        .copied()
        .filter(|place| found(all.as_bytes(), &format!("{LEAK}-{place}-")).is_none())
        .collect();
    assert!(missing.is_empty(), "never sent: {missing:?}");
    true
}

/// What stands in the settings in clear is refused, and nothing of it is repeated: not by the start, not by the check.
#[tokio::test]
async fn a_token_in_the_settings_is_refused_and_not_repeated() {
    let auth = |auth| json!([{"id": "crm", "base_url": "https://crm.example", "auth": auth}]).to_string();
    let with = |place: &str| token(place);
    let settings = [
        ("UPSTREAMS", auth(json!({"kind": "bearer", "token": with("inline")}))),
        ("UPSTREAMS", auth(json!({"kind": "bearer", "token": {"vault": with("vault")}}))),
        ("UPSTREAMS", auth(json!({"kind": "bearer", "token": {"env": with("env")}}))),
        ("UPSTREAMS", auth(json!({"kind": "bearer", "token": {"file": with("file")}}))),
        (
            "UPSTREAMS",
            auth(json!({"kind": "basic", "username": format!("hub:{}", with("user")), "password": {"env": "X"}})),
        ),
        (
            "UPSTREAMS",
            json!([{"id": "crm", "base_url": format!("https://hub:{}@crm.example", with("url"))}]).to_string(),
        ),
        ("UPSTREAMS", json!([{"id": "crm", "base_url": "https://crm.example", "token": with("field")}]).to_string()),
        ("DELIVERY__PROXY", format!("http://hub:{}@proxy.example:3128", with("proxy"))),
        ("TRACE__OTLP_ENDPOINT", format!("http://hub:{}@collector.example:4318", with("collector"))),
    ];
    for (name, value) in settings {
        let hub = Hub::stopped(&[(name, &value)]);
        let mut process = hub.spawn();
        let status = until("the hub does not start", || {
            let ended = process.ended();
            async move { ended }
        })
        .await;
        assert!(!status.success(), "{name}={value}");
        until("it says why", || async { (!hub.log().is_empty()).then_some(()) }).await;
        let variable = format!("TIDEGATE__{name}");
        for form in [&["config", "check"][..], &["--json", "config", "check"]] {
            let (_, said) = places::run(&hub, &[(&variable, &value)], form);
            assert_eq!(found(said.as_bytes(), LEAK), None, "config check, {name}");
            assert!(!said.trim().is_empty(), "it says something");
        }
        assert_eq!(found(hub.log().as_bytes(), LEAK), None, "the log, {name}");
    }
}
