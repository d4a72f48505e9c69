//! Exports and imports under a catalog: what is redacted for exports is in no part and comes back nowhere (EVT-4, BLK-4);
//! what the policy of an org refuses is told of line by line, and kept aside where the policy says so (ING-6, BLK-2).

use serde_json::{Value, json};

use crate::bulk::{download, events_of, export, import};
use crate::catalog::{invoice, register};
use crate::support::{Api, Hub, items};

/// Stands in everything that exports redact.
const SECRET: &str = "never-exported";

async fn declare(api: &Api, audiences: &Value) {
    let redactions: Value = [
        ("/data/card", "mask"),
        ("/data/mail", "hash"),
        ("/data/note", "drop"),
        ("/metadata/agent", "drop"),
        ("/source_refs/*/id", "hash"),
    ]
    .map(|(path, action)| json!({"path": path, "action": action, "audiences": audiences}))
    .into_iter()
    .collect();
    let kind = json!({"service": "billing", "redactions": redactions});
    api.put("/v1/catalog/types/paid", &kind).await.expect_any(&[200, 201]);
}

fn paid(id: &str, n: u64) -> Value {
    json!({
        "id": id, "type": "paid", "source": "billing", "aggregate_type": "invoice", "aggregate_id": "7",
        "data": {"card": {"no": SECRET}, "mail": format!("{SECRET}@example.com"), "note": SECRET, "n": n},
        "metadata": {"agent": SECRET, "kept": true},
        "source_refs": [{"system": "crm", "type": "contact", "id": SECRET}],
    })
}

#[tokio::test]
async fn what_is_redacted_for_exports_is_in_no_part_and_comes_back_by_no_import() {
    let hub = Hub::start().await;
    let acme = hub.acme().await.pooled();
    declare(&acme, &json!(["export"])).await;
    for n in 0..5 {
        acme.publish(&paid(&format!("p-{n}"), n)).await;
    }
    acme.publish(&json!({"id": "free", "type": "other", "data": {"card": "free-to-go"}})).await;

    let mut exports = Vec::new();
    for compression in ["none", "zstd"] {
        let done = export(&acme, &json!({"compression": compression})).await;
        let text = download(&acme, &done).await;
        assert!(!text.contains(SECRET), "{text}");
        assert!(text.contains("free-to-go"), "what is not redacted is there: {text}");
        let header: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(header["tidegate_export"]["audience"], "export", "{header}");
        exports.push(text);
    }
    assert_eq!(events_of(&exports[0]), events_of(&exports[1]));
    let first = exports[0].lines().find(|line| line.contains("\"p-0\"")).unwrap();
    let first: Value = serde_json::from_str(first).unwrap();
    let data = &first["data"];
    assert_eq!((&data["card"], &data["note"], &data["n"]), (&json!("***"), &Value::Null, &json!(0)), "{first}");
    assert_eq!(first["metadata"], json!({"kept": true}));
    let (mail, contact) = (data["mail"].as_str().unwrap(), first["source_refs"][0]["id"].as_str().unwrap());
    assert!(mail.starts_with("hash:") && contact.starts_with("hash:") && mail != contact, "{first}");
    // The contract says so before anyone exports.
    let contract = acme.get("/v1/catalog/contracts/billing").await.expect(200).text;
    assert!(contract.contains("/data/card") && contract.contains("\"mask\""), "{contract}");

    // Another hub has what was exported, and no more.
    let other = Hub::start().await;
    let there = other.acme().await.pooled();
    let done = import(&there, &json!({}), exports[0].clone().into_bytes()).await;
    assert_eq!((&done["accepted"], &done["rejected"]), (&json!(6), &json!(0)), "{done}");
    let shown = there.get("/v1/events/p-0").await.expect(200);
    assert_eq!((&shown.json()["data"], &shown.json()["source_refs"]), (data, &first["source_refs"]));
    let again = download(&there, &export(&there, &json!({})).await).await;
    assert_eq!(events_of(&again), events_of(&exports[0]), "out of there the same goes");
    for path in ["/v1/events?type=paid", "/v1/cdc?start=earliest", "/v1/events/p-4"] {
        let told = there.get(path).await.expect(200).text;
        assert!(told.contains("p-4") && !told.contains(SECRET), "{path}: {told}");
    }

    // The hub they are from knows its own events and does not let go of what it has.
    let done = import(&acme, &json!({}), exports[0].clone().into_bytes()).await;
    let counts = ["accepted", "conflicts", "duplicates"].map(|name| done[name].as_u64().unwrap());
    assert_eq!(counts, [0, 5, 1], "a redacted event is another one than the one in the log: {done}");
    let kept = acme.get("/v1/events/p-0").await.expect(200).json();
    assert_eq!(kept["data"], paid("p-0", 0)["data"]);
    let report = acme.get(&format!("/v1/imports/{}/report", done["id"].as_str().unwrap())).await.expect(200);
    assert!(!report.text.contains(SECRET), "{}", report.text);

    // An export shows what the redactions of its own time leave.
    declare(&acme, &json!(["webhook"])).await;
    let text = download(&acme, &export(&acme, &json!({})).await).await;
    assert!(text.contains(SECRET), "it was redacted for webhooks alone");
}

fn line(id: &str, event_type: &str, data: &Value) -> String {
    json!({"id": id, "type": event_type, "data": data}).to_string()
}

#[tokio::test]
async fn an_import_into_a_strict_org_tells_of_each_line_that_does_not_fit_and_takes_the_others() {
    let mut hub = Hub::start().await;
    let key = hub.key(&["publish", "consume", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key).pooled();
    acme.put("/v1/catalog/types/invoice.paid", &json!({"service": "billing"})).await.expect(201);
    register(&acme, "invoice.paid", &invoice()).await;
    let policy = |more: Value| {
        let mut policy = json!({"policy": "strict"});
        policy.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        policy
    };
    acme.patch("/v1/catalog/policy", &policy(json!({}))).await.expect(200);
    let good = json!({"number": "inv-1", "amount": 5});
    let lines = [
        line("g1", "invoice.paid", &good),
        line("b1", "invoice.paid", &json!({"number": "7", "amount": "s3cret-amount"})),
        line("b2", "invoice.lost", &json!({})),
        line("g2", "invoice.paid", &good),
        line("b3", "invoice.paid", &json!({"amount": 1})),
        line("g3", "invoice.paid", &good),
    ];
    let content = lines.join("\n");
    let done = import(&acme, &json!({}), content.clone().into_bytes()).await;
    let counts = ["lines", "accepted", "rejected", "report_lines"].map(|name| done[name].as_u64().unwrap());
    assert_eq!((counts, &done["state"]), ([6, 3, 3, 3], &json!("done")), "{done}");
    let report = async |done: &Value| {
        let path = format!("/v1/imports/{}/report", done["id"].as_str().unwrap());
        acme.get(&path).await.expect(200)
    };
    let told = report(&done).await;
    assert!(!told.text.contains("s3cret"), "what does not fit is not repeated: {}", told.text);
    let told = told.json();
    let found: Vec<(u64, &str, &str)> = items(&told)
        .iter()
        .map(|row| (row["line"].as_u64().unwrap(), row["kind"].as_str().unwrap(), row["finding"].as_str().unwrap()))
        .collect();
    let kind = "schema-violation";
    assert_eq!(found, [(2, kind, "schema"), (3, kind, "unknown_type"), (5, kind, "schema")], "{told}");
    let pointers = |row: &Value| -> Vec<String> {
        let all = row["violations"].as_array().unwrap();
        let mut all: Vec<String> = all.iter().map(|one| one["pointer"].as_str().unwrap().to_owned()).collect();
        all.sort();
        all
    };
    assert_eq!(pointers(&items(&told)[0]), ["/data/amount", "/data/number"], "each violation by its place");
    assert_eq!(items(&told)[0]["more_violations"], 0);
    for (id, status) in [("g1", 200), ("g2", 200), ("g3", 200), ("b1", 404), ("b2", 404), ("b3", 404)] {
        acme.get(&format!("/v1/events/{id}")).await.expect(status);
    }
    assert!(items(&acme.get("/v1/quarantine").await.expect(200).json()).is_empty(), "nobody asked to keep them");

    // Where the policy says so, they are kept aside, and come in by a redrive.
    acme.patch("/v1/catalog/policy", &policy(json!({"quarantine": {"enabled": true}}))).await.expect(200);
    let done = import(&acme, &json!({}), content.into_bytes()).await;
    let counts = ["accepted", "duplicates", "rejected"].map(|name| done[name].as_u64().unwrap());
    assert_eq!(counts, [0, 3, 3], "{done}");
    let told = report(&done).await.json();
    let kept: Vec<String> = items(&told).iter().map(|row| row["quarantine_id"].as_str().unwrap().to_owned()).collect();
    assert!(items(&told).iter().all(|row| row["quarantine"] == "kept"), "{told}");
    hub.kill();
    hub.restart().await;
    let acme = acme.at(hub.public_address());
    let listed = acme.get("/v1/quarantine").await.expect(200).json();
    let ids: Vec<&str> = items(&listed).iter().map(|one| one["event_id"].as_str().unwrap()).collect();
    assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>(), ["b1", "b2", "b3"].iter().collect());
    let loose = json!({"schema": {"type": "object"}});
    acme.post("/v1/catalog/types/invoice.paid/versions", &loose).await.expect(201);
    acme.act(&format!("/v1/quarantine/{}/redrive", kept[0])).await.expect(200);
    assert_eq!(acme.get("/v1/events/b1").await.expect(200).json()["data"]["number"], "7");

    // Under `open` the same lines are all taken.
    acme.patch("/v1/catalog/policy", &json!({"policy": "open"})).await.expect(200);
    let done = import(&acme, &json!({}), lines.join("\n").into_bytes()).await;
    let counts = ["accepted", "duplicates", "rejected"].map(|name| done[name].as_u64().unwrap());
    assert_eq!(counts, [2, 4, 0], "{done}");
}
