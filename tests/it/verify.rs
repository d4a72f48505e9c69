//! `tidegate verify` over everything that a hub keeps: each damaged row and each damaged file is named, and nothing else
//! (OPS-3).

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use reqwest::Method;
use serde_json::{Value, json};
use tidegate::ground::codec;

use crate::bulk::{append, export, import};
use crate::support::{Hub, Receiver, Reply, items, retry, sample, until};

/// A hub that has something of everything, and has ended.
async fn filled() -> Hub {
    let mut hub = Hub::start().await;
    let receiver = Receiver::start();
    receiver.always("/refuse", Reply::Status(422));
    receiver.always("/busy", Reply::Status(500));
    let (admin, acme) = (hub.admin(), hub.acme().await);
    let rule = json!({"name": "made", "event_types": ["order.*"], "retry": retry(&[]), "call": {"path": "/refuse"}});
    let upstream = json!({"id": "crm", "base_url": receiver.url(""), "publishes": [rule],
        "auth": {"kind": "bearer", "token": "token-4711"}});
    admin.post("/v1/admin/upstreams", &upstream).await.expect(201);
    let webhook = json!({"url": receiver.url("/busy"), "event_types": ["order.*"], "retry": retry(&[3_600_000])});
    let webhook = acme.webhook(&webhook).await["id"].as_str().unwrap().to_owned();
    let lifecycle = json!({"states": ["new", "paid"], "initial": "new",
        "transitions": [{"from": "new", "to": "paid", "event_type": "order.paid"}]});
    acme.put("/v1/catalog/lifecycles/order", &lifecycle).await.expect(201);
    for id in ["first", "second"] {
        let event = json!({"id": id, "type": "order.paid", "aggregate_type": "order", "aggregate_id": "o-7"});
        acme.publish(&event).await;
        acme.wait_status(id, "publish:crm:made", "dead_letter").await;
    }
    acme.wait_attempts(&webhook, 1).await;
    until("the second payment is flagged", || async {
        let page = acme.get("/v1/catalog/lifecycles/order/flags").await.expect(200).json();
        (!items(&page).is_empty()).then_some(())
    })
    .await;
    let link = json!({"source_module": "crm", "source_type": "contact", "source_id": "17", "link_type": "reference",
        "target_module": "erp", "target_type": "customer", "target_id": "C-9"});
    let headers = [("idempotency-key", "once"), ("content-type", "application/json")];
    let body = Some(link.to_string().into_bytes());
    acme.try_send(Method::POST, "/v1/links", &headers, body).await.unwrap().expect(201);
    let done = export(&acme, &json!({"event_types": ["order.*"]})).await;
    assert_eq!(done["events"], 2);
    let done = import(&acme, &json!({}), b"no JSON\nnone either\n{\"type\":\"order.paid\"}\n".to_vec()).await;
    assert_eq!(done["rejected"], 2, "{done}");
    let open = acme.post("/v1/imports", &json!({})).await.expect(201).json();
    append(&acme, open["id"].as_str().unwrap(), 0, vec![b' '; 100]).await.expect(200);
    let policy = json!({"policy": "strict", "quarantine": {"enabled": true}});
    acme.patch("/v1/catalog/policy", &policy).await.expect(200);
    let misfit = json!({"id": "misfit", "type": "unheard.of", "data": "x".repeat(100)});
    acme.post("/v1/events", &misfit).await.expect(422);
    let metrics = admin.get("/metrics").await.expect(200).text;
    assert_eq!(sample(&metrics, "tidegate_quarantine_events", &[]), Some(1.0));
    admin.act("/v1/admin/breakers/crm/open").await.expect(200);
    acme.wait_status("first", &webhook, "failed").await;
    assert!(hub.terminate().await.success());
    hub
}

/// What the check says of this directory: its exit code and its report.
fn verify(data_dir: &Path) -> (Option<i32>, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["--json", "verify", "--data-dir"]).arg(data_dir).stdin(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEGATE")) {
        command.env_remove(name);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let report = serde_json::from_str(said.trim()).unwrap_or_else(|error| {
        panic!("{error}: {said} {}", String::from_utf8_lossy(&output.stderr));
    });
    (output.status.code(), report)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// What is done to a row: its new value, or none to take it away.
type Change = fn(Vec<u8>) -> Option<Vec<u8>>;

/// Changes the first row of a tree whose key begins so and has at least so many bytes. A tree's name may be cut at its
/// number.
fn damage(data_dir: &Path, tree: &str, (key, key_bytes_min): (&str, usize), change: Change) {
    let config = sled::Config::new().path(data_dir.join("store")).segment_size(8 << 20);
    let db = config.open().unwrap();
    let fits = |name: &[u8]| name == tree.as_bytes() || (tree.ends_with('-') && name.starts_with(tree.as_bytes()));
    for name in db.tree_names().into_iter().filter(|name| fits(name)) {
        let rows = db.open_tree(name).unwrap();
        let row = rows.scan_prefix(key).find(|row| row.as_ref().unwrap().0.len() >= key_bytes_min);
        let Some(row) = row else { continue };
        let (key, value) = row.unwrap();
        match change(value.to_vec()) {
            Some(value) => drop(rows.insert(key, value).unwrap()),
            None => drop(rows.remove(key).unwrap()),
        }
        db.flush().unwrap();
        return;
    }
    panic!("no row of {tree} fits {key:?}");
}

/// One bit of the last byte is another one.
fn flip(mut value: Vec<u8>) -> Option<Vec<u8>> {
    *value.last_mut().unwrap() ^= 1;
    Some(value)
}

fn gone(_: Vec<u8>) -> Option<Vec<u8>> {
    None
}

fn cut(mut value: Vec<u8>) -> Option<Vec<u8>> {
    value.truncate(value.len() - 1);
    Some(value)
}

fn half(mut value: Vec<u8>) -> Option<Vec<u8>> {
    value.truncate(value.len() / 2);
    Some(value)
}

/// A whole record of a document that is none of its kind.
fn other(_: Vec<u8>) -> Option<Vec<u8>> {
    Some(codec::encode(1, &(1_u64, br#"{"colour":"red"}"#.to_vec())).unwrap())
}

#[tokio::test]
async fn a_damaged_row_of_every_kind_is_named_and_the_rest_is_read() {
    let hub = filled().await;
    let sound = hub.data_dir();
    let (code, report) = verify(&sound);
    assert_eq!((code, &report["faults"]), (Some(0), &json!([])), "{report}");
    let read = [
        "events",
        "exception_rows",
        "attempt_pages",
        "dead_letters",
        "links",
        "idempotency_keys",
        "quarantined",
        "lifecycle_places",
        "lifecycle_flags",
        "bulk_files",
    ];
    for name in read {
        assert!(report[name].as_u64() > Some(0), "{name} of {report}");
    }
    for kind in ["upstream", "publish", "webhook", "key", "job", "import", "policy", "lifecycle", "breaker"] {
        assert!(report["documents"][kind].as_u64() > Some(0), "{kind} of {report}");
    }

    let any = ("", 0);
    let cases: &[(&str, (&str, usize), Change, &str)] = &[
        ("quarantine-", any, flip, "quarantined event qrt_"),
        ("quarantine-", ("", 17), cut, "its envelope: "),
        ("quarantine-", ("", 17), gone, "its envelope: "),
        ("quarantine-", any, gone, "a part of an envelope in quarantine belongs to no event"),
        ("lifecycle-places", ("", 9), flip, "the place of aggregate o-7"),
        ("lifecycle-places", ("c", 0), flip, "lifecycle projection, its cursors"),
        ("lifecycle-flags", any, flip, "the flag of event "),
        ("registry", ("upstream\0", 0), flip, "registry document upstream/crm"),
        ("registry", ("upstream\0", 0), other, "upstream crm: its document does not decode"),
        ("registry", ("publish\0", 0), flip, "registry document publish/"),
        ("registry", ("publish\0", 0), other, "its document does not decode: missing field"),
        ("registry", ("job\0", 0), flip, "registry document job/job_"),
        ("registry", ("job\0", 0), other, "its document does not decode"),
        ("registry", ("import\0", 0), flip, "registry document import/imp_"),
        ("registry", ("lifecycle\0", 0), other, "its document does not decode"),
        ("registry", ("breaker\0", 0), other, "its document does not decode"),
        ("links", any, flip, "link "),
        ("links-out", any, gone, "is missing in links-out"),
        ("links-in", any, gone, "is missing in links-in"),
        ("idempotency-keys-", any, flip, "idempotency key "),
        ("idempotency-answers-", any, flip, "its answer"),
        ("idempotency-answers-", any, gone, "its answer is not what was recorded"),
        ("dead", any, flip, "dlq_"),
        ("attempts-", any, flip, "a page of attempts"),
        ("rows-", any, flip, "the exception row of event"),
        ("checkpoints", ("\0", 0), cut, "the router's cursor is no position"),
    ];
    for (tree, row, change, wanted) in cases {
        let folder = tempfile::tempdir().unwrap();
        copy(&sound, folder.path());
        damage(folder.path(), tree, *row, *change);
        expect_fault(folder.path(), wanted, tree);
    }
}

fn expect_fault(dir: &Path, wanted: &str, what: &str) {
    let (code, report) = verify(dir);
    let faults = report["faults"].as_array().unwrap();
    assert_eq!(code, Some(1), "{what}: {report}");
    assert!(faults.iter().any(|fault| fault.as_str().unwrap().contains(wanted)), "{what}: {wanted:?} in {faults:?}");
    assert!(faults.len() <= 3, "what is sound is not blamed: {faults:?}");
    assert!(report["events"].as_u64() > Some(0), "the rest was read: {report}");
}

#[tokio::test]
async fn a_file_of_an_export_or_import_that_is_not_what_was_written_is_named() {
    let hub = filled().await;
    let sound = hub.data_dir();
    let find = |dir: &Path, name: &str| {
        let all = crate::secrets::files(&dir.join("bulk"));
        // The content of an import that has ended goes in its own time: that of the open one is meant.
        let fits = |path: &std::path::PathBuf| {
            path.file_name().unwrap() == name && (name != "content" || fs::metadata(path).unwrap().len() == 100)
        };
        all.into_iter().find(fits).unwrap_or_else(|| panic!("no {name}"))
    };
    let cases: &[(&str, Change, &str)] = &[
        ("part-000001.ndjson", flip, "part 1 has the SHA-256"),
        ("part-000001.ndjson", cut, "part 1 has"),
        ("part-000001.ndjson", gone, "part 1: "),
        ("parts.ndjson", half, "export job_"),
        ("parts.ndjson", gone, "export job_"),
        ("rejected.ndjson", cut, "its report has"),
        (
            "rejected.ndjson",
            |mut value| {
                value[0] = b'x';
                Some(value)
            },
            "import job_",
        ),
        ("content", cut, "its content has 99 bytes of 100"),
        ("content", gone, "its content has 0 bytes of 100"),
    ];
    for (name, change, wanted) in cases {
        let folder = tempfile::tempdir().unwrap();
        copy(&sound, folder.path());
        let path = find(folder.path(), name);
        match change(fs::read(&path).unwrap()) {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        expect_fault(folder.path(), wanted, name);
    }
}
