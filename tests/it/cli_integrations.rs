//! Upstreams, publish rules and links on the command line.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Hub, Receiver, Reply, items, retry};

/// Runs `tidegate` beside a hub; gives what it said, and its exit code.
fn tidegate(hub: &Hub, arguments: &[&str]) -> (String, String, Option<i32>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(arguments).arg("--data-dir").arg(hub.data_dir()).stdin(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEGATE")) {
        command.env_remove(name);
    }
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code())
}

/// The same with `--json`, when it succeeds.
#[track_caller]
fn told(hub: &Hub, arguments: &[&str]) -> Value {
    let (said, wrong, code) = tidegate(hub, &[arguments, &["--json"]].concat());
    assert_eq!(code, Some(0), "{arguments:?}: {said}{wrong}");
    serde_json::from_str(said.trim()).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {said}"))
}

const TOKEN: &str = "token-of-the-command-line";

fn crm(receiver: &Receiver) -> Value {
    json!({
        "id": "crm", "base_url": receiver.url(""), "health_path": "/health", "retry": retry(&[]),
        "auth": {"kind": "bearer", "token": TOKEN},
        "reads": {"contact": {"path": "/contacts/{id}", "fields": ["name"]}},
        "publishes": [{
            "name": "made", "event_types": ["order.made"], "requires": ["data.contact"], "retry": retry(&[]),
            "call": {"method": "POST", "path": "/orders/{data.contact}", "body": "{{ data_json }}"},
        }],
    })
}

#[tokio::test]
async fn upstreams_are_declared_shown_asked_read_changed_and_deleted() {
    let (hub, receiver) = (Hub::start().await, Receiver::start());
    let file = hub.data_dir().join("upstream.json");
    let path = file.to_str().unwrap();
    std::fs::write(&file, crm(&receiver).to_string()).unwrap();
    let made = told(&hub, &["upstreams", "create", "--file", path]);
    assert_eq!((&made["id"], &made["auth"]["kind"]), (&json!("crm"), &json!("bearer")));
    let (said, _, _) = tidegate(&hub, &["upstreams", "list"]);
    assert!(said.contains("CIRCUIT") && said.contains("crm") && said.contains(&receiver.url("")), "{said}");
    assert_eq!(items(&told(&hub, &["upstreams", "list"])).len(), 1);
    let (shown, _, _) = tidegate(&hub, &["upstreams", "show", "crm"]);
    assert!(shown.contains("base_url") && !shown.contains(TOKEN), "{shown}");

    receiver.script("/health", [Reply::Status(401), Reply::Status(200), Reply::Status(200)]);
    assert_eq!(told(&hub, &["upstreams", "test", "crm"])["outcome"], "auth_rejected");
    assert_eq!(told(&hub, &["upstreams", "test", "crm", "--org", "acme"])["outcome"], "reachable");
    let (said, _, _) = tidegate(&hub, &["upstreams", "health"]);
    assert!(said.contains("OUTCOME") && said.trim_end().ends_with("healthy"), "{said}");

    let answer = |name: &str| Reply::With(200, Vec::new(), json!({"name": name}).to_string().into_bytes());
    receiver.script("/contacts/a%2F7", [answer("Bakker"), answer("Smid")]);
    let read = ["upstreams", "read", "crm", "contact", "id=a/7", "--org", "acme"];
    for name in ["Bakker", "Bakker"] {
        assert_eq!(told(&hub, &read)["name"], name, "from the cache, the second time");
    }
    assert_eq!(told(&hub, &["upstreams", "clear-cache", "crm"])["cleared"], 1);
    assert_eq!(told(&hub, &read)["name"], "Smid");
    assert_eq!(told(&hub, &["upstreams", "reset-counters", "crm"])["reset"], true);

    std::fs::write(&file, json!({"kind": "bearer", "token": "the-next-token-4712"}).to_string()).unwrap();
    let rotate = ["upstreams", "rotate-credential", "crm", "--org", "acme", "--auth-file", path];
    let (said, wrong, code) = tidegate(&hub, &rotate);
    assert_eq!(code, Some(0), "{wrong}");
    assert!(!said.contains("the-next-token"), "{said}");
    told(&hub, &["upstreams", "test", "crm", "--org", "acme"]);
    let sent = receiver.on("/health").pop().unwrap();
    assert_eq!(sent.header("authorization"), "Bearer the-next-token-4712");
    std::fs::write(&file, json!({"description": "ours"}).to_string()).unwrap();
    assert_eq!(told(&hub, &["upstreams", "update", "crm", "--file", path])["description"], "ours");

    // Refusals come with the code that says so, and repeat no credential.
    std::fs::write(&file, format!("{{\"auth\": {{\"token\": \"{TOKEN}\"")).unwrap();
    let (_, wrong, code) = tidegate(&hub, &["upstreams", "update", "crm", "--file", path]);
    assert_eq!(code, Some(2), "{wrong}");
    assert!(wrong.contains("line 1") && !wrong.contains(TOKEN), "{wrong}");
    std::fs::write(&file, json!({"id": "erp", "base_url": "https://erp.example", "token": TOKEN}).to_string()).unwrap();
    let (_, wrong, code) = tidegate(&hub, &["upstreams", "create", "--file", path]);
    assert_eq!(code, Some(4), "{wrong}");
    assert!(wrong.contains("token") && !wrong.contains(TOKEN), "{wrong}");
    assert_eq!(tidegate(&hub, &["upstreams", "create", "--file", "/no/such/file"]).2, Some(2));
    assert_eq!(tidegate(&hub, &["upstreams", "read", "crm", "contact", "id"]).2, Some(2));
    assert_eq!(tidegate(&hub, &["upstreams", "show", "erp"]).2, Some(3));
    assert_eq!(tidegate(&hub, &["upstreams", "delete", "crm"]).2, Some(0));
    assert_eq!(tidegate(&hub, &["upstreams", "delete", "crm"]).2, Some(3));
}

#[tokio::test]
async fn rules_are_listed_shown_previewed_and_discarded() {
    let (hub, receiver) = (Hub::start().await, Receiver::start());
    hub.admin().post("/v1/admin/upstreams", &crm(&receiver)).await.expect(201);
    for n in 0..101 {
        let other = json!({"id": format!("other-{n:03}"), "base_url": receiver.url("")});
        hub.admin().post("/v1/admin/upstreams", &other).await.expect(201);
    }
    let mut last = crm(&receiver);
    last["id"] = json!("zeta");
    hub.admin().post("/v1/admin/upstreams", &last).await.expect(201);
    let all = told(&hub, &["rules", "list"]);
    let of: Vec<&str> = items(&all).iter().map(|rule| rule["upstream"].as_str().unwrap()).collect();
    assert_eq!(of, ["crm", "zeta"], "those of every page");
    assert_eq!(items(&all)[0]["consumer"], "publish:crm:made");
    let (said, _, _) = tidegate(&hub, &["rules", "list", "--upstream", "crm"]);
    assert!(said.contains("RULE") && said.contains("order.made") && said.contains("/orders/{data.contact}"), "{said}");
    assert!(!said.contains("zeta"), "{said}");
    assert_eq!(told(&hub, &["rules", "show", "crm", "made"])["requires"], json!(["data.contact"]));
    assert_eq!(tidegate(&hub, &["rules", "show", "crm", "none"]).2, Some(3));
    assert_eq!(tidegate(&hub, &["rules", "list", "--upstream", "none"]).2, Some(3));

    let acme = hub.acme().await;
    receiver.always("/orders/c-1", Reply::Status(422));
    acme.publish(&json!({"id": "o-1", "type": "order.made", "data": {"contact": "c-1"}})).await;
    let shown = told(&hub, &["rules", "preview", "crm", "made", "--event", "o-1", "--org", "acme"]);
    assert_eq!((&shown["matched"], &shown["call"]["path"]), (&json!(true), &json!("/orders/c-1")), "{shown}");
    let file = hub.data_dir().join("event.json");
    let event = json!({"type": "order.made", "org": "acme", "data": {"contact": ""}});
    std::fs::write(&file, event.to_string()).unwrap();
    let shown = told(&hub, &["rules", "preview", "crm", "made", "--file", file.to_str().unwrap()]);
    assert_eq!((&shown["matched"], &shown["decided_by"]), (&json!(false), &json!("requires")), "{shown}");
    assert_eq!(tidegate(&hub, &["rules", "preview", "crm", "made"]).2, Some(2));
    assert_eq!(tidegate(&hub, &["rules", "preview", "crm", "made", "--event", "none"]).2, Some(3));
    acme.wait_status("o-1", "publish:crm:made", "dead_letter").await;
    assert_eq!(told(&hub, &["rules", "discard", "crm", "made"])["name"], "made");
    assert!(items(&told(&hub, &["rules", "list", "--upstream", "crm"])).is_empty());
    assert_eq!(tidegate(&hub, &["rules", "discard", "crm", "made"]).2, Some(3));
}

#[tokio::test]
async fn links_are_made_found_walked_and_deleted() {
    let hub = Hub::start().await;
    let make = |from: &str, to: &str| {
        told(&hub, &["links", "create", "--org", "acme", "--from", from, "--to", to, "--metadata", "{\"n\":1.10}"])
    };
    let first = make("crm/contact/a/7", "erp/customer/C-9");
    assert_eq!((&first["source_id"], &first["link_type"]), (&json!("a/7"), &json!("reference")), "{first}");
    assert_eq!(make("crm/contact/a/7", "erp/customer/C-9")["id"], first["id"], "once");
    make("erp/customer/C-9", "sales/order/1");
    let list = |more: &[&str]| items(&told(&hub, &[&["links", "list", "--org", "acme"], more].concat())).len();
    assert_eq!(
        [
            list(&[]),
            list(&["--from", "crm/contact/a/7"]),
            list(&["--to", "erp/customer/C-9"]),
            list(&["--from", "erp/customer/C-9", "--to", "crm/contact/a/7"]),
            list(&["--from", "erp/customer/C-9", "--to", "crm/contact/a/7", "--both-ways"]),
            list(&["--type", "cascade"]),
        ],
        [2, 1, 1, 0, 1, 0]
    );
    let (said, _, _) = tidegate(&hub, &["links", "list", "--org", "acme"]);
    assert!(said.contains("FROM") && said.contains("customer") && said.contains("C-9"), "{said}");
    let walked = told(&hub, &["links", "walk", "crm/contact/a/7", "--org", "acme", "--depth", "2"]);
    let reached: Vec<&str> =
        walked["nodes"].as_array().unwrap().iter().map(|node| node["id"].as_str().unwrap()).collect();
    assert!(reached.contains(&"C-9") && reached.contains(&"1"), "{walked}");
    let id = first["id"].as_str().unwrap();
    assert_eq!(told(&hub, &["links", "show", id])["metadata"], json!({"n": 1.10}));
    assert_eq!(tidegate(&hub, &["links", "delete", id]).2, Some(0));
    assert_eq!(tidegate(&hub, &["links", "show", id]).2, Some(3));
    assert_eq!(tidegate(&hub, &["links", "walk", "crm/contact"]).2, Some(2));
    assert_eq!(tidegate(&hub, &["links", "list"]).2, Some(4), "an org is needed");
}
