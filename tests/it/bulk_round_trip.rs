//! Out of one hub and into an empty one: the same events, `seq` and `received_at` aside, also when the process is killed
//! in the middle of either (BLK-3). How many is `BULK_EVENTS`; unset, as many as a debug build takes in a few seconds.

use std::io::BufReader;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::ground::random::{SeededRandom, SystemRandom};

use crate::bulk::{append, download, export, fill, many, marks_of, until_done, wait_export, wait_import};
use crate::support::{Api, Hub};

const EVENTS_DEFAULT: u64 = 4_000;
/// Memory that may come over an export and an import of many events.
const GROWTH_BYTES_MAX: u64 = 150 << 20;
/// From this many events on memory is looked at.
const MANY: u64 = 500_000;

fn events() -> u64 {
    many(EVENTS_DEFAULT)
}

fn below(bound: u64) -> u64 {
    (SystemRandom::shared().fraction() * bound as f64) as u64
}

/// Runs a command of the CLI against a hub.
async fn tidegate(hub: &Hub, key: &str, args: &[&str], dir: &Path) -> Output {
    let url = format!("http://{}/", hub.public_address());
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEGATE")) {
        command.env_remove(name);
    }
    command.args(["--url", &url, "--key", key]).args(args).current_dir(dir);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[track_caller]
fn expect_code(output: &Output, code: i32) -> String {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    said
}

fn rate(what: &str, events: u64, from: &Value, to: &Value) {
    let ms = |value: &Value| {
        let time = tidegate::ground::clock::UnixMs::parse_rfc3339(value.as_str().unwrap()).unwrap();
        time.0
    };
    let spent_ms = ms(to).saturating_sub(ms(from)).max(1);
    eprintln!("{what}: {events} events in {spent_ms} ms, {} a second", events * 1_000 / spent_ms);
}

#[tokio::test]
async fn the_command_line_takes_events_out_of_one_hub_and_into_another_and_they_are_the_same() {
    let (from, to) = (Hub::start().await, Hub::start().await);
    let dir = tempfile::tempdir().unwrap();
    let scopes = ["publish", "consume", "read"];
    let (from_key, to_key) = (from.key(&scopes, Some("acme")).await, to.key(&scopes, Some("acme")).await);
    let (old, new) = (from.public(&from_key).pooled(), to.public(&to_key).pooled());
    fill(&old, "e", 0..events()).await;
    let before = (from.peak_memory_bytes(), to.peak_memory_bytes());

    let args = ["--json", "export", "--zstd", "--out", "all.ndjson.zst"];
    let said = expect_code(&tidegate(&from, &from_key, &args, dir.path()).await, 0);
    let out: Value = serde_json::from_str(&said).unwrap();
    rate("export", events(), &out["export"]["created_at"], &out["export"]["finished_at"]);
    assert_eq!((&out["export"]["events"], &out["files"]), (&json!(events()), &json!(["all.ndjson.zst"])));
    let said = expect_code(&tidegate(&to, &to_key, &["--json", "import", "all.ndjson.zst"], dir.path()).await, 0);
    let import: Value = serde_json::from_str(&said).unwrap();
    rate("import", events(), &import["updated_at"], &import["finished_at"]);
    assert_eq!((&import["accepted"], &import["rejected"]), (&json!(events()), &json!(0)), "{import}");

    let again = export(&new, &json!({})).await;
    let packed = std::fs::File::open(dir.path().join("all.ndjson.zst")).unwrap();
    let wanted = marks_of(BufReader::new(zstd::stream::Decoder::new(packed).unwrap()));
    assert_eq!(wanted.len() as u64, events());
    assert!(marks_of(download(&new, &again).await.as_bytes()) == wanted, "the events are not the same");
    if events() >= MANY {
        let grown = (from.peak_memory_bytes() - before.0, to.peak_memory_bytes() - before.1);
        eprintln!("memory grew by {} MiB and {} MiB", grown.0 >> 20, grown.1 >> 20);
        assert!(grown.0.max(grown.1) < GROWTH_BYTES_MAX, "{grown:?}");
    }
}

#[tokio::test]
async fn the_command_line_says_what_it_did_and_its_exit_code_says_how_it_went() {
    let hub = Hub::start().await;
    let dir = tempfile::tempdir().unwrap();
    let key = hub.key(&["publish", "consume"], Some("acme")).await;
    fill(&hub.public(&key).pooled(), "e", 0..900).await;
    std::fs::create_dir(dir.path().join("parts")).unwrap();
    let args = ["export", "--type", "a.*", "--part-bytes", "65536", "--out", "parts", "--delete"];
    let said = expect_code(&tidegate(&hub, &key, &args, dir.path()).await, 0);
    assert!(said.contains("675 events in "), "{said}");
    let mut files: Vec<_> =
        std::fs::read_dir(dir.path().join("parts")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 1 && files[0].ends_with("part-000001.ndjson"), "{files:?}");
    let cursor = said.lines().find_map(|line| line.strip_prefix("go on later: --cursor ")).unwrap();
    let args = ["export", "--type", "a.*", "--cursor", cursor, "--out", "more.ndjson"];
    assert!(expect_code(&tidegate(&hub, &key, &args, dir.path()).await, 0).contains("0 events in 1 parts"));

    // All of it is known, and there is one line that is none.
    std::fs::write(dir.path().join("bad.ndjson"), "{\"type\":\n").unwrap();
    let mut args = vec!["import".to_owned()];
    args.extend(files.iter().map(|file| file.display().to_string()));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let said = expect_code(&tidegate(&hub, &key, &args, dir.path()).await, 0);
    assert!(said.contains("0 new, 0 scheduled, 675 known, 0 conflicts, 0 rejected"), "{said}");
    let output = tidegate(&hub, &key, &[&args[..], &["bad.ndjson"]].concat(), dir.path()).await;
    expect_code(&output, 4);
    assert!(String::from_utf8_lossy(&output.stderr).contains(": the body is not valid JSON"), "{output:?}");
    std::fs::write(dir.path().join("cut.zst"), &zstd::stream::encode_all(&b"{}\n"[..], 3).unwrap()[..8]).unwrap();
    let output = tidegate(&hub, &key, &["import", "cut.zst"], dir.path()).await;
    expect_code(&output, 1);
    assert!(String::from_utf8_lossy(&output.stderr).contains("the import is failed"), "{output:?}");
    expect_code(&tidegate(&hub, &key, &["import", "nowhere.ndjson"], dir.path()).await, 2);
    expect_code(&tidegate(&hub, &key, &["export", "--resume", "job_0"], dir.path()).await, 3);
    expect_code(&tidegate(&hub, &key, &["export", "--org", "globex"], dir.path()).await, 4);
}

#[tokio::test]
async fn an_export_that_is_killed_again_and_again_has_every_event_once() {
    const KILLS: u32 = 4;
    let mut hub = Hub::start().await;
    let key = hub.key(&["publish", "consume"], Some("acme")).await;
    fill(&hub.public(&key).pooled(), "e", 0..events()).await;
    // The moment of a kill is chance: what comes between two of them grows with the size.
    let (mut in_the_middle, mut runs) = (0, 0);
    while in_the_middle < KILLS.min(2) && runs < 12 {
        runs += 1;
        let acme = hub.public(&key);
        let made = acme.post("/v1/exports", &json!({"part_bytes": 65_536})).await.expect(202).json();
        let id = made["id"].as_str().unwrap().to_owned();
        for _ in 0..KILLS {
            tokio::time::sleep(Duration::from_millis(below(30 + events() / 100))).await;
            hub.kill();
            hub.restart().await;
            let known = hub.public(&key).get(&format!("/v1/exports/{id}")).await.expect(200).json();
            in_the_middle += u32::from(known["state"] != "done" && known["parts"] != 0);
        }
        let acme = hub.public(&key).pooled();
        let done = wait_export(&acme, &id).await;
        assert_eq!((&done["events"], &done["complete"]), (&json!(events()), &json!(true)), "{done}");
        assert_eq!(marks_of(download(&acme, &done).await.as_bytes()).len() as u64, events());
        acme.delete(&format!("/v1/exports/{id}")).await.expect(204);
    }
    eprintln!("{runs} exports, {in_the_middle} kills between two parts");
}

/// Waits until the import has taken more lines than before, or has ended.
async fn wait_progress(acme: &Api, id: &str, lines: u64) -> Value {
    until_done("the import goes on", || async {
        let import = acme.get(&format!("/v1/imports/{id}")).await.expect(200).json();
        let moved = import["lines"].as_u64() > Some(lines) || import["state"] == "done";
        moved.then_some(import)
    })
    .await
}

#[tokio::test]
async fn an_import_that_is_killed_again_and_again_takes_every_line_once_and_what_came_twice_is_a_duplicate() {
    const KILLS: usize = 4;
    let seed = below(u64::MAX);
    eprintln!("seed {seed}");
    let random = SeededRandom::shared(seed);
    let from = Hub::start().await;
    let old = from.acme().await.pooled();
    fill(&old, "e", 0..events()).await;
    let exported = export(&old, &json!({"part_bytes": 262_144})).await;
    let text = download(&old, &exported).await;
    let mut hub = Hub::start().await;
    let key = hub.key(&["publish", "consume", "read"], Some("acme")).await;
    // So slow that there is a middle.
    let rate = (events() / 2).clamp(1, 100_000);
    let wanted = json!({"rate": rate, "expected_bytes": text.len()});
    let acme = hub.public(&key);
    let id = acme.post("/v1/imports", &wanted).await.expect(201).json()["id"].as_str().unwrap().to_owned();
    // The upload is killed, too: what was acknowledged is there, and it goes on after it.
    let mut at = 0;
    for piece in text.as_bytes().chunks(text.len().div_ceil(3)) {
        append(&hub.public(&key), &id, at, piece.to_vec()).await.expect(200);
        at += piece.len() as u64;
        hub.kill();
        hub.restart().await;
        let known = hub.public(&key).get(&format!("/v1/imports/{id}")).await.expect(200).json();
        assert_eq!(known["received_bytes"], at, "{known}");
    }
    hub.public(&key).post(&format!("/v1/imports/{id}/commit"), &json!({})).await.expect(202);
    let mut lines = 0;
    for _ in 0..KILLS {
        let import = wait_progress(&hub.public(&key), &id, lines).await;
        lines = import["lines"].as_u64().unwrap();
        tokio::time::sleep(Duration::from_millis((random.fraction() * 100.0) as u64)).await;
        hub.kill();
        hub.restart().await;
        let known = hub.public(&key).get(&format!("/v1/imports/{id}")).await.expect(200).json();
        assert!(known["lines"].as_u64().unwrap() >= lines, "what was told before the kill holds: {known}");
    }
    let acme = hub.public(&key).pooled();
    let done = wait_import(&acme, &id).await;
    let count = |name: &str| done[name].as_u64().unwrap();
    assert_eq!(
        (count("accepted") + count("duplicates"), count("rejected"), count("conflicts")),
        (events(), 0, 0),
        "{done}"
    );
    eprintln!("{} of {} events were appended again after a kill, and known", count("duplicates"), events());
    let again = export(&acme, &json!({})).await;
    let same = marks_of(download(&acme, &again).await.as_bytes()) == marks_of(text.as_bytes());
    assert!(same, "the events are not the same");
}
