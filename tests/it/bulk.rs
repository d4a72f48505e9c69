//! Exports and imports over HTTP: parts, ranges, gaps, uploads at an offset, reports, bad inputs, other orgs' keys
//! (BLK-1, BLK-2).

use std::collections::BTreeMap;
use std::io::BufRead;
use std::time::Duration;

use reqwest::Method;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tidegate::ground::hash::stable_hash;

use crate::support::{Answer, Api, DEADLINE, Hub, items, until};

/// Publishes events of one org in every style: with and without id, odd numbers, odd key order, odd white space.
pub(crate) async fn fill(api: &Api, prefix: &str, events: std::ops::Range<u64>) {
    let event = |n: u64| match n % 4 {
        0 => format!(
            "{{\"type\":\"a.b\",\"data\":{{\"n\":{n}.50,\"big\":12345678901234567890{n},\"text\":\"\\u00e9\\n\"}}}}"
        ),
        1 => format!(
            "{{\"data\":[{n},1e400],\"id\":\"{prefix}-{n}\",\"occurred_at\":\"2026-11-21T09:00:00+01:00\",\"type\":\"b.c\"}}"
        ),
        2 => format!(
            "{{ \"type\" : \"a.b\",\n \"aggregate_type\":\"order\",\"aggregate_id\":\"{n}\", \"metadata\":{{\"seq\":{n}}},\r\n\"source\":null }}"
        ),
        _ => {
            format!("{{\"id\":\"{prefix}-{n}\",\"type\":\"a.d\",\"channel\":\"web\",\"data\":\"{}\"}}", "x".repeat(200))
        }
    };
    let numbers: Vec<u64> = events.collect();
    for chunk in numbers.chunks(500) {
        let batch: Vec<String> = chunk.iter().map(|n| event(*n)).collect();
        let body = format!("[{}]", batch.join(",")).into_bytes();
        let answer = api.post_bytes("/v1/events/batch", "application/json", body).await.expect(202).json();
        assert_eq!(answer["accepted"], chunk.len(), "{answer}");
    }
}

/// How many events the large tests have: `BULK_EVENTS`, or few.
pub(crate) fn many(default: u64) -> u64 {
    std::env::var("BULK_EVENTS").map_or(default, |text| text.parse().unwrap())
}

/// Waits as [`until`] does, longer when there are many events.
pub(crate) async fn until_done<T, Fut: Future<Output = Option<T>>>(what: &str, look: impl Fn() -> Fut) -> T {
    let patience = DEADLINE + Duration::from_millis(many(0));
    let found = tokio::time::timeout(patience, async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("waited {patience:?} in vain for: {what}"))
}

/// Makes an export and waits for its end.
pub(crate) async fn export(api: &Api, wanted: &Value) -> Value {
    let made = api.post("/v1/exports", wanted).await.expect(202).json();
    wait_export(api, made["id"].as_str().unwrap()).await
}

pub(crate) async fn wait_export(api: &Api, id: &str) -> Value {
    let ended = until_done("the export ends", || async {
        let export = api.get(&format!("/v1/exports/{id}")).await.expect(200).json();
        (!["queued", "running"].contains(&export["state"].as_str().unwrap())).then_some(export)
    })
    .await;
    assert_eq!(ended["state"], "done", "{ended}");
    ended
}

pub(crate) async fn list_parts(api: &Api, id: &str) -> Vec<Value> {
    let (mut parts, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.get(&format!("/v1/exports/{id}/parts?limit=1000{cursor}")).await.expect(200).json();
        parts.extend(items(&page).clone());
        match page["next_cursor"].as_str() {
            Some(next) if page["has_more"] == true => cursor = format!("&cursor={next}"),
            _ => return parts,
        }
    }
}

async fn bytes_of(api: &Api, path: &str, headers: &[(&str, &str)]) -> (u16, Vec<u8>) {
    let answer = api.open(path, headers).await;
    let status = answer.status().as_u16();
    (status, answer.bytes().await.unwrap().to_vec())
}

/// Every part of an export, unpacked, one after the other; each has the size and the hash that are told of it.
pub(crate) async fn download(api: &Api, export: &Value) -> String {
    let id = export["id"].as_str().unwrap();
    let mut all = Vec::new();
    for part in list_parts(api, id).await {
        let (status, bytes) = bytes_of(api, &format!("/v1/exports/{id}/parts/{}", part["part"]), &[]).await;
        assert_eq!(status, 200);
        assert_eq!(part["bytes"], bytes.len(), "{part}");
        assert_eq!(part["sha256"], hex::encode(Sha256::digest(&bytes)), "{part}");
        let plain = if export["compression"] == "zstd" { zstd::stream::decode_all(&*bytes).unwrap() } else { bytes };
        assert_eq!(part["plain_bytes"], plain.len(), "{part}");
        assert_eq!(part["lines"], plain.iter().filter(|byte| **byte == b'\n').count(), "{part}");
        assert!(plain.len() as u64 <= export["part_bytes"].as_u64().unwrap() || part["events"] == 1, "{part}");
        all.extend(plain);
    }
    String::from_utf8(all).unwrap()
}

/// The events of a file by id, each by its members' text; `seq` and `received_at` aside. Each is there once.
pub(crate) fn events_of(text: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut events = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with("{\"tidegate_export\":")) {
        let members: BTreeMap<String, Box<RawValue>> = serde_json::from_str(line).unwrap();
        let mut members: BTreeMap<String, String> =
            members.into_iter().map(|(name, value)| (name, value.get().to_owned())).collect();
        assert!(members.remove("seq").is_some() && members.remove("received_at").is_some(), "{line}");
        let id = members["id"].clone();
        assert!(events.insert(id, members).is_none(), "twice: {line}");
    }
    events
}

/// The events of a file by id, each as one number: for so many of them that their texts would not fit.
pub(crate) fn marks_of(lines: impl BufRead) -> BTreeMap<String, u64> {
    let mut marks = BTreeMap::new();
    for line in lines.lines() {
        for (id, members) in events_of(&line.unwrap()) {
            let texts: Vec<&str> = members.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]).collect();
            assert!(marks.insert(id.clone(), stable_hash(&texts)).is_none(), "{id} is there twice");
        }
    }
    marks
}

/// Makes an import of this content and waits for its end.
pub(crate) async fn import(api: &Api, wanted: &Value, content: Vec<u8>) -> Value {
    let id = upload(api, wanted, content).await;
    api.post(&format!("/v1/imports/{id}/commit"), &json!({})).await.expect(202);
    wait_import(api, &id).await
}

async fn upload(api: &Api, wanted: &Value, content: Vec<u8>) -> String {
    let made = api.post("/v1/imports", wanted).await.expect(201).json();
    let id = made["id"].as_str().unwrap().to_owned();
    let length = content.len();
    let answer = append(api, &id, 0, content).await.expect(200).json();
    assert_eq!(answer["received_bytes"], length, "{answer}");
    id
}

pub(crate) async fn append(api: &Api, id: &str, offset: u64, content: Vec<u8>) -> Answer {
    let headers = [("content-type", "application/x-ndjson")];
    let path = format!("/v1/imports/{id}/content?offset={offset}");
    api.try_send(Method::PATCH, &path, &headers, Some(content)).await.unwrap()
}

pub(crate) async fn wait_import(api: &Api, id: &str) -> Value {
    until_done("the import ends", || async {
        let import = api.get(&format!("/v1/imports/{id}")).await.expect(200).json();
        ["done", "failed", "cancelled"].contains(&import["state"].as_str().unwrap()).then_some(import)
    })
    .await
}

#[tokio::test]
async fn an_export_has_what_fits_once_in_parts_and_a_later_one_goes_on_where_it_ended() {
    let hub = Hub::start().await;
    let acme = hub.acme().await.pooled();
    fill(&acme, "e", 0..1_500).await;
    for compression in ["none", "zstd"] {
        let wanted = json!({"compression": compression, "part_bytes": 65_536});
        let done = export(&acme, &wanted).await;
        assert_eq!((&done["org"], &done["events"], &done["complete"]), (&json!("acme"), &json!(1_500), &json!(true)));
        assert!(done["parts"].as_u64().unwrap() > 3, "{done}");
        let text = download(&acme, &done).await;
        assert_eq!(events_of(&text).len(), 1_500);
        let headers: Vec<Value> = text
            .lines()
            .filter(|line| line.starts_with("{\"tidegate_export\":"))
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["tidegate_export"].clone())
            .collect();
        assert_eq!(headers.len() as u64, done["parts"].as_u64().unwrap());
        let header = &headers[1];
        assert_eq!(
            (&header["contract_version"], &header["part"], &header["org"]),
            (&json!(1), &json!(2), &json!("acme"))
        );
        let seqs: Vec<u64> = text
            .lines()
            .filter_map(|line| serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(line).unwrap().remove("seq"))
            .map(|seq| seq.get().parse().unwrap())
            .collect();
        assert!(seqs.windows(2).all(|pair| pair[0] < pair[1]), "in the order of the log");
    }
    let filtered = json!({"event_types": ["a.*"], "channel": "web", "from": 1, "to": 400});
    let done = export(&acme, &filtered).await;
    let events = events_of(&download(&acme, &done).await);
    assert_eq!(events.len(), 100);
    assert!(events.values().all(|event| event["channel"] == "\"web\""));

    let filter = json!({"event_types": ["b.*"]});
    let done = export(&acme, &filter).await;
    assert_eq!(done["events"], 375);
    fill(&acme, "later", 0..40).await;
    let mut more = filter.clone();
    more["cursor"] = done["cursor"].clone();
    let next = export(&acme, &more).await;
    let events = events_of(&download(&acme, &next).await);
    assert_eq!(events.len(), 10, "{next}");
    assert!(events.keys().all(|id| id.starts_with("\"later-")), "{events:?}");
    let other = json!({"event_types": ["a.*"], "cursor": done["cursor"]});
    let problem = acme.post("/v1/exports", &other).await.expect_problem(400, "invalid-field").json();
    assert_eq!(problem["field"], "event_types", "{problem}");
    let listed = acme.get("/v1/exports?state=done&limit=2").await.expect(200).json();
    assert_eq!((items(&listed).len(), &items(&listed)[0]["id"]), (2, &next["id"]), "newest first: {listed}");
}

#[tokio::test]
async fn a_part_is_given_out_by_ranges_that_put_together_are_the_part() {
    let hub = Hub::start().await;
    let acme = hub.acme().await.pooled();
    fill(&acme, "e", 0..300).await;
    let done = export(&acme, &json!({})).await;
    let path = format!("/v1/exports/{}/parts/1", done["id"].as_str().unwrap());
    let answer = acme.get(&path).await.expect(200);
    let (whole, etag) = (answer.text.clone(), answer.header("etag").unwrap().to_owned());
    assert_eq!(answer.header("accept-ranges"), Some("bytes"));
    assert!(answer.header("content-disposition").unwrap().ends_with("-part-000001.ndjson\""));
    let mut joined = Vec::new();
    while joined.len() < whole.len() {
        let range = format!("bytes={}-{}", joined.len(), joined.len() + 20_000);
        let headers = [("range", range.as_str()), ("if-range", etag.as_str())];
        let (status, bytes) = bytes_of(&acme, &path, &headers).await;
        assert_eq!(status, 206);
        joined.extend(bytes);
    }
    assert_eq!(joined, whole.as_bytes());
    let headers = [("range", "bytes=-10")];
    let answer = acme.try_send(Method::GET, &path, &headers, None).await.unwrap().expect(206);
    let length = whole.len();
    let told = format!("bytes {}-{}/{length}", length - 10, length - 1);
    assert_eq!((answer.text.as_str(), answer.header("content-range")), (&whole[length - 10..], Some(told.as_str())));
    // The range is of another part than this one.
    let headers = [("range", "bytes=5-"), ("if-range", "\"other\"")];
    assert_eq!(bytes_of(&acme, &path, &headers).await, (200, whole.clone().into_bytes()));
    let range = format!("bytes={length}-");
    let outside = acme.try_send(Method::GET, &path, &[("range", range.as_str())], None).await.unwrap();
    let problem = outside.expect_problem(416, "range-not-satisfiable").json();
    assert_eq!((&problem["field"], &problem["bytes"]), (&json!("range"), &json!(length)));
    for part in ["0", "2", "x", "99999999999"] {
        let path = format!("/v1/exports/{}/parts/{part}", done["id"].as_str().unwrap());
        acme.get(&path).await.expect_problem(404, "not-found");
    }
}

#[tokio::test]
async fn what_retention_has_dropped_is_a_gap_that_the_export_tells() {
    let settings = [
        ("LOG__SEGMENT_EVENTS", "1000"),
        ("LOG__RETENTION_MS", "1000"),
        ("LOG__MAX_CONSUMER_LAG_MS", "1000"),
        ("LOG__RETENTION_CHECK_MS", "100"),
        ("INBOX__CHECKPOINT_MS", "20"),
    ];
    let hub = Hub::start_with(&settings).await;
    let acme = hub.acme().await.pooled();
    fill(&acme, "e", 0..1_200).await;
    until("the log has dropped its first segment", || async {
        let stats = hub.admin().get("/v1/admin/stats").await.expect(200).json();
        (stats["log"]["earliest"].as_u64() >= Some(1_001)).then_some(())
    })
    .await;
    let done = export(&acme, &json!({"from": 1})).await;
    assert_eq!(done["gaps"], json!([{"from": 1, "to": 1_000}]), "{done}");
    assert_eq!((&done["positions_lost"], &done["complete"]), (&json!(1_000), &json!(false)));
    assert_eq!(events_of(&download(&acme, &done).await).len(), 200);
    // Who does not say from where takes what there is.
    let done = export(&acme, &json!({})).await;
    assert_eq!((&done["gaps"], &done["complete"]), (&json!([]), &json!(true)));
}

fn folders(hub: &Hub, what: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(hub.data_dir().join("bulk").join(what)) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[tokio::test]
async fn a_deleted_export_and_one_that_was_cancelled_leave_no_files() {
    let hub = Hub::start().await;
    let acme = hub.acme().await.pooled();
    fill(&acme, "e", 0..400).await;
    let done = export(&acme, &json!({"part_bytes": 65_536})).await;
    let id = done["id"].as_str().unwrap();
    assert_eq!(folders(&hub, "exports"), [id]);
    acme.delete(&format!("/v1/exports/{id}")).await.expect(204);
    acme.get(&format!("/v1/exports/{id}")).await.expect_problem(404, "not-found");
    acme.get(&format!("/v1/jobs/{id}")).await.expect_problem(404, "not-found");
    let other = acme.post("/v1/exports", &json!({})).await.expect(202).json();
    // It may have ended before.
    acme.act(&format!("/v1/jobs/{}/cancel", other["id"].as_str().unwrap())).await.expect_any(&[200, 409]);
    acme.delete(&format!("/v1/exports/{}", other["id"].as_str().unwrap())).await.expect(204);
    until("their files are removed", || async { folders(&hub, "exports").is_empty().then_some(()) }).await;
    let import = import(&acme, &json!({}), b"{\"type\":\"a.b\"}\n".to_vec()).await;
    acme.delete(&format!("/v1/imports/{}", import["id"].as_str().unwrap())).await.expect(204);
    until("its files are removed", || async { folders(&hub, "imports").is_empty().then_some(()) }).await;
}

#[tokio::test]
async fn finished_exports_go_when_they_are_more_than_there_may_be_or_old() {
    let hub = Hub::start_with(&[("BULK__EXPORTS_BYTES_MAX", "1048576"), ("BULK__EXPORTS_MS", "600000")]).await;
    let acme = hub.acme().await.pooled();
    fill(&acme, "e", 0..2_000).await;
    let first = export(&acme, &json!({})).await;
    let bytes = first["bytes"].as_u64().unwrap();
    assert!(bytes > 300_000 && bytes < 524_288, "{first}");
    for _ in 0..3 {
        export(&acme, &json!({})).await;
    }
    let path = format!("/v1/exports/{}", first["id"].as_str().unwrap());
    until("the first one goes", || async { (acme.get(&path).await.expect(200).json()["kept"] == false).then_some(()) })
        .await;
    acme.get(&format!("{path}/parts")).await.expect_problem(410, "gone");
    acme.get(&format!("{path}/parts/1")).await.expect_problem(410, "gone");
}

#[tokio::test]
async fn an_upload_goes_on_at_its_offset_also_after_a_restart_and_is_taken_once() {
    let mut hub = Hub::start().await;
    let key = hub.key(&["publish", "read", "consume"], Some("acme")).await;
    let acme = hub.public(&key).pooled();
    let content: Vec<u8> =
        (0..200).flat_map(|n| format!("{{\"id\":\"i{n}\",\"type\":\"a.b\"}}\n").into_bytes()).collect();
    let sum = hex::encode(Sha256::digest(&content));
    let wanted = json!({"expected_bytes": content.len(), "sha256": sum});
    let id = acme.post("/v1/imports", &wanted).await.expect(201).json()["id"].as_str().unwrap().to_owned();
    append(&acme, &id, 0, content[..1_000].to_vec()).await.expect(200);
    for offset in [0, 999, 1_001] {
        let problem = append(&acme, &id, offset, b"x".to_vec()).await.expect_problem(409, "conflict").json();
        assert_eq!((&problem["field"], &problem["offset"]), (&json!("offset"), &json!(1_000)), "{problem}");
    }
    acme.post(&format!("/v1/imports/{id}/commit"), &json!({})).await.expect_problem(409, "conflict");
    hub.kill();
    hub.restart().await;
    let acme = hub.public(&key).pooled();
    let known = acme.get(&format!("/v1/imports/{id}")).await.expect(200).json();
    assert_eq!((&known["received_bytes"], &known["state"]), (&json!(1_000), &json!("uploading")));
    append(&acme, &id, 1_000, content[1_000..].to_vec()).await.expect(200);
    append(&acme, &id, content.len() as u64, b"x".to_vec()).await.expect_problem(413, "too-large");
    let path = format!("/v1/imports/{id}/commit");
    let other = json!({"sha256": "00".repeat(32)});
    acme.post(&path, &other).await.expect_problem(400, "invalid-field");
    let first = acme.post(&path, &json!({"sha256": sum})).await.expect(202).json();
    let again = acme.post(&path, &json!({})).await.expect(202).json();
    assert_eq!(first["job"], again["job"]);
    append(&acme, &id, content.len() as u64, b"x".to_vec()).await.expect_problem(409, "conflict");
    let done = wait_import(&acme, &id).await;
    assert_eq!(
        (&done["accepted"], &done["lines"], &done["state"]),
        (&json!(200), &json!(200), &json!("done")),
        "{done}"
    );
    let again = import(&acme, &json!({}), content).await;
    assert_eq!((&again["accepted"], &again["duplicates"]), (&json!(0), &json!(200)), "{again}");
}

#[tokio::test]
async fn every_line_that_is_not_taken_is_reported_with_its_number_and_why() {
    let hub = Hub::start_with(&[("LIMITS__EVENT_BYTES_MAX", "2048")]).await;
    let acme = hub.acme().await.pooled();
    acme.publish(&json!({"id": "known", "type": "a.b", "data": 1})).await;
    let long = format!("{{\"type\":\"a.b\",\"data\":\"{}\"}}", "x".repeat(20_000));
    let lines = [
        r#"{"tidegate_export":{"contract_version":1,"format":"tidegate.events.ndjson"}}"#,
        r#"{"type":"a.b","id":"one"}"#,
        "",
        r#"{"type":"a.b""#,
        r#"{"type":"a.b","colour":"red"}"#,
        r#"{"type":"a.b","org":"globex"}"#,
        r#"{"type":"tidegate.webhook.paused"}"#,
        &long,
        r#"{"id":"known","type":"a.b","data":2}"#,
        r#"{"id":"known","type":"a.b","data":1}"#,
        r#"{"id":"later","type":"a.b","delay":"7d"}"#,
        r#"{"type":"a.b","org":"acme"}"#,
    ];
    // The last line has no line break.
    let done = import(&acme, &json!({}), lines.join("\n").into_bytes()).await;
    let counts = ["lines", "headers", "accepted", "scheduled", "duplicates", "conflicts", "rejected", "report_lines"];
    let told: Vec<u64> = counts.iter().map(|name| done[*name].as_u64().unwrap()).collect();
    assert_eq!(told, [12, 1, 2, 1, 1, 1, 5, 6], "{done}");
    let id = done["id"].as_str().unwrap();
    let page = acme.get(&format!("/v1/imports/{id}/report?limit=4")).await.expect(200).json();
    let rest = format!("/v1/imports/{id}/report?cursor={}", page["next_cursor"].as_str().unwrap());
    let rest = acme.get(&rest).await.expect(200).json();
    assert_eq!((&page["has_more"], &rest["has_more"]), (&json!(true), &json!(false)));
    let all: Vec<&Value> = items(&page).iter().chain(items(&rest)).collect();
    let told: Vec<(u64, &str, Option<&str>)> = all
        .iter()
        .map(|item| (item["line"].as_u64().unwrap(), item["kind"].as_str().unwrap(), item["field"].as_str()))
        .collect();
    let wanted = [
        (4, "not-json", None),
        (5, "invalid-field", Some("colour")),
        (6, "forbidden", Some("org")),
        (7, "invalid-field", Some("type")),
        (8, "too-large", Some("body")),
        (9, "id-conflict", Some("id")),
    ];
    assert_eq!(told, wanted);
    assert_eq!(all[5]["first_seq"], 1, "{}", all[5]);
    let headers = [("accept", "application/x-ndjson")];
    let whole = acme.try_send(Method::GET, &format!("/v1/imports/{id}/report"), &headers, None).await.unwrap();
    assert_eq!(whole.expect(200).text.lines().count(), 6);
    acme.get(&format!("/v1/imports/{id}/report?cursor=3")).await.expect_problem(400, "invalid-parameter");
    // A line without an id has one made of the import's and its number.
    acme.get(&format!("/v1/events/{id}-12")).await.expect(200);
    acme.get("/v1/scheduled/later").await.expect(200);
}

#[tokio::test]
async fn a_hub_takes_its_own_export_for_what_it_has() {
    let hub = Hub::start().await;
    let acme = hub.acme().await.pooled();
    fill(&acme, "e", 0..400).await;
    let done = export(&acme, &json!({})).await;
    let text = download(&acme, &done).await;
    let back = import(&acme, &json!({}), text.into_bytes()).await;
    assert_eq!(
        (&back["duplicates"], &back["accepted"], &back["conflicts"]),
        (&json!(400), &json!(0), &json!(0)),
        "{back}"
    );
}

#[tokio::test]
async fn damaged_content_fails_with_its_place_and_what_came_before_stays() {
    let hub = Hub::start().await;
    let acme = hub.acme().await.pooled();
    let content: Vec<u8> = (0..9_000)
        .flat_map(|n| format!("{{\"id\":\"z{n}\",\"type\":\"a.b\",\"data\":{}}}\n", n * 7_919).into_bytes())
        .collect();
    let packed = zstd::stream::encode_all(&*content, 3).unwrap();
    let cut = packed[..packed.len() - 2].to_vec();
    let failed = import(&acme, &json!({"compression": "zstd"}), cut.clone()).await;
    assert_eq!(failed["state"], "failed", "{failed}");
    assert!(failed["error"].as_str().unwrap().contains(&format!("cut off at byte {}", cut.len())), "{failed}");
    let taken = failed["accepted"].as_u64().unwrap();
    assert!(taken > 0 && taken == failed["lines"].as_u64().unwrap(), "{failed}");
    let again = import(&acme, &json!({"compression": "zstd"}), packed).await;
    assert_eq!((&again["duplicates"], &again["accepted"]), (&json!(taken), &json!(9_000 - taken)), "{again}");
    let plain = import(&acme, &json!({"compression": "zstd"}), b"{\"type\":\"a.b\"}\n".to_vec()).await;
    assert!(plain["error"].as_str().unwrap().contains("damaged"), "{plain}");
    let wrong = import(&acme, &json!({"sha256": "00".repeat(32)}), b"{\"type\":\"a.b\"}\n".to_vec()).await;
    assert!(wrong["error"].as_str().unwrap().contains("SHA-256") && wrong["lines"] == 0, "{wrong}");
}

#[tokio::test]
async fn what_is_asked_wrongly_is_refused_by_its_name() {
    let hub = Hub::start_with(&[("BULK__IMPORTS_MAX", "3"), ("BULK__IMPORT_BYTES_MAX", "2000")]).await;
    let acme = hub.acme().await;
    let any = hub.public(&hub.key(&["consume", "publish"], None).await);
    let problem = any.post("/v1/exports", &json!({})).await.expect_problem(400, "invalid-field").json();
    assert_eq!(problem["field"], "org", "{problem}");
    hub.admin().post("/v1/exports", &json!({})).await.expect(202);
    for (path, field, body) in [
        ("/v1/exports", "compression", json!({"compression": "gzip"})),
        ("/v1/exports", "part_bytes", json!({"part_bytes": 1})),
        ("/v1/exports", "from", json!({"from": 9, "to": 3})),
        ("/v1/exports", "cursor", json!({"cursor": "x"})),
        ("/v1/exports", "filter", json!({"filter": "data.n >"})),
        ("/v1/exports", "path", json!({"path": "../../etc/passwd"})),
        ("/v1/imports", "expected_bytes", json!({"expected_bytes": 2_001})),
        ("/v1/imports", "sha256", json!({"sha256": "xyz"})),
        ("/v1/imports", "rate", json!({"rate": 0})),
        ("/v1/imports", "file", json!({"file": "/etc/passwd"})),
    ] {
        let problem = acme.post(path, &body).await.expect_problem(400, "invalid-field").json();
        assert_eq!(problem["field"], field, "{body}: {problem}");
    }
    for path in ["/v1/exports?state=asleep", "/v1/exports?cursor=x", "/v1/imports?cursor=x", "/v1/imports?limit=0"] {
        acme.get(path).await.expect_problem(400, "invalid-parameter");
    }
    let id = acme.post("/v1/imports", &json!({})).await.expect(201).json()["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/imports/{id}/content");
    let patch = async |query: &str, kind: &str, body: Vec<u8>| {
        let headers = [("content-type", kind)];
        acme.try_send(Method::PATCH, &format!("{path}{query}"), &headers, Some(body)).await.unwrap()
    };
    let ndjson = "application/x-ndjson";
    for query in ["", "?offset=", "?offset=-1", "?offset=x", "?offset=0&colour=1"] {
        patch(query, ndjson, b"{}\n".to_vec()).await.expect_problem(400, "invalid-parameter");
    }
    patch("?offset=0", "text/html", b"{}\n".to_vec()).await.expect_problem(415, "unsupported-media-type");
    patch("?offset=0", ndjson, vec![b' '; 2_001]).await.expect_problem(413, "too-large");
    for nothing in ["/v1/imports/imp_0", "/v1/imports/..%2F..%2Fx", "/v1/exports/job_0", "/v1/exports/%2e%2e/parts/1"] {
        acme.get(nothing).await.expect_problem(404, "not-found");
    }
    for _ in 0..2 {
        acme.post("/v1/imports", &json!({})).await.expect(201);
    }
    let problem = acme.post("/v1/imports", &json!({})).await.expect_problem(409, "conflict").json();
    assert_eq!(problem["bound"], "bulk.imports_max");
}

#[tokio::test]
async fn another_orgs_key_and_another_scope_reach_neither_exports_nor_imports() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    acme.publish(&json!({"id": "a1", "type": "a.b", "data": "private"})).await;
    let export = export(&acme, &json!({})).await["id"].as_str().unwrap().to_owned();
    let import = upload(&acme, &json!({}), b"{\"type\":\"private\"}\n".to_vec()).await;
    let globex = hub.public(&hub.key(&["publish", "consume", "manage", "read"], Some("globex")).await);
    let reader = hub.public(&hub.key(&["read", "manage"], Some("acme")).await);
    let calls = [
        ("GET", format!("/v1/exports/{export}")),
        ("GET", format!("/v1/exports/{export}/parts")),
        ("GET", format!("/v1/exports/{export}/parts/1")),
        ("DELETE", format!("/v1/exports/{export}")),
        ("GET", format!("/v1/imports/{import}")),
        ("PATCH", format!("/v1/imports/{import}/content?offset=19")),
        ("POST", format!("/v1/imports/{import}/commit")),
        ("GET", format!("/v1/imports/{import}/report")),
        ("DELETE", format!("/v1/imports/{import}")),
    ];
    for (method, path) in &calls {
        globex.call(method, path, &json!({})).await.expect_problem(404, "not-found");
        reader.call(method, path, &json!({})).await.expect_problem(403, "forbidden");
    }
    for list in ["/v1/exports", "/v1/imports"] {
        assert!(items(&globex.get(list).await.expect(200).json()).is_empty());
        assert_eq!(items(&acme.get(list).await.expect(200).json()).len(), 1);
        globex.get(&format!("{list}?org=acme")).await.expect_problem(403, "forbidden");
        globex.post(list, &json!({"org": "acme"})).await.expect_problem(403, "forbidden");
    }
    acme.get(&format!("/v1/exports/{export}/parts/1")).await.expect(200);
    // Neither kind of job is the other.
    acme.get(&format!("/v1/exports/{import}")).await.expect_problem(404, "not-found");
    acme.get(&format!("/v1/imports/{export}")).await.expect_problem(404, "not-found");
}
