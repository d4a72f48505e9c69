//! The catalog from outside: types, versions and their compatibility, specimens, the list as JSON and as a page, the
//! contract of a service, and the wall between orgs (CAT-1, CAT-2, CAT-4, BLK-4).

use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Api, Hub, items};

pub(crate) fn invoice() -> Value {
    json!({
        "type": "object",
        "required": ["number", "amount"],
        "properties": {
            "number": {"type": "string", "pattern": "^inv-[0-9]+$"},
            "amount": {"type": "integer", "minimum": 0},
            "customer": {"type": "object", "properties": {"email": {"type": "string", "format": "email"}}},
        },
    })
}

/// The version of this name registered, as the hub shows it.
pub(crate) async fn register(api: &Api, name: &str, schema: &Value) -> Value {
    api.post(&format!("/v1/catalog/types/{name}/versions"), &json!({"schema": schema})).await.expect(201).json()
}

#[tokio::test]
async fn a_type_is_made_replaced_changed_listed_and_forgotten_and_outlives_a_restart() {
    let mut hub = Hub::start().await;
    let key = hub.key(&["manage", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    let said = json!({
        "service": "billing", "owner": "team-billing", "description": "It was paid.", "compatibility": "backward",
        "redactions": [{"path": "/data/customer/email", "action": "mask", "audiences": ["cdc"]}],
    });
    let made = acme.put("/v1/catalog/types/invoice.paid", &said).await.expect(201).json();
    assert_eq!((&made["org"], &made["lifecycle"], &made["versions"]), (&json!("acme"), &json!("active"), &json!([])));
    assert_eq!(made["redactions"][0]["audiences"], json!(["cdc"]));
    assert_eq!(made["created_by"]["by"].as_str().map(|by| by.starts_with("key:")), Some(true));
    let replaced = acme.put("/v1/catalog/types/invoice.paid", &json!({"service": "billing"})).await.expect(200).json();
    assert_eq!((&replaced["owner"], &replaced["redactions"]), (&Value::Null, &json!([])));
    assert_eq!(replaced["created_at"], made["created_at"]);
    let path = "/v1/catalog/types/invoice.paid";
    let changed = acme.patch(path, &json!({"owner": "team-x", "lifecycle": "deprecated"})).await.expect(200).json();
    assert_eq!((&changed["owner"], &changed["service"]), (&json!("team-x"), &json!("billing")));
    register(&acme, "invoice.paid", &invoice()).await;
    for name in ["invoice.sent", "order.placed"] {
        acme.put(&format!("/v1/catalog/types/{name}"), &json!({"service": "shop"})).await.expect(201);
    }
    hub.kill();
    hub.restart().await;
    let acme = hub.public(&key);
    let names =
        |page: &Value| items(page).iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let list = async |query: &str| acme.get(&format!("/v1/catalog/types{query}")).await.expect(200).json();
    let first = list("?limit=2").await;
    assert_eq!((names(&first), &first["has_more"]), (vec!["invoice.paid".into(), "invoice.sent".into()], &json!(true)));
    let cursor = first["next_cursor"].as_str().unwrap().replace('|', "%7C");
    assert_eq!(names(&list(&format!("?cursor={cursor}")).await), ["order.placed"]);
    assert_eq!(names(&list("?type=invoice.*").await), ["invoice.paid", "invoice.sent"]);
    assert_eq!(names(&list("?service=shop&lifecycle=active").await), ["invoice.sent", "order.placed"]);
    assert_eq!(names(&list("?lifecycle=deprecated").await), ["invoice.paid"]);
    let read = acme.get(path).await.expect(200).json();
    assert_eq!((&read["owner"], &read["newest_version"]), (&json!("team-x"), &json!("1")));
    let version = acme.get("/v1/catalog/types/invoice.paid/versions/1").await.expect(200).json();
    assert_eq!(version["schema"], invoice());
    acme.delete(path).await.expect(204);
    acme.get(path).await.expect_problem(404, "not-found");
    acme.get("/v1/catalog/types/invoice.paid/versions/1").await.expect_problem(404, "not-found");
    acme.delete(path).await.expect_problem(404, "not-found");
    acme.put(path, &json!({})).await.expect(201);
    assert_eq!(acme.get(path).await.expect(200).json()["versions"], json!([]), "the versions went with the type");
}

#[tokio::test]
async fn a_version_that_breaks_another_is_refused_with_the_place_and_the_reason() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let (one, versions) = ("/v1/catalog/types/invoice.paid", "/v1/catalog/types/invoice.paid/versions");
    acme.put(one, &json!({"compatibility": "backward"})).await.expect(201);
    let first = register(&acme, "invoice.paid", &invoice()).await;
    assert_eq!((&first["version"], &first["number"], &first["state"]), (&json!("1"), &json!(1), &json!("active")));
    let again = acme.post(versions, &json!({"schema": invoice()})).await.expect(200).json();
    assert_eq!(again["number"], 1, "the same schema again is the same version");
    let mut breaking = invoice();
    breaking["required"] = json!(["number", "amount", "currency"]);
    breaking["properties"]["amount"]["minimum"] = json!(1);
    let refused =
        acme.post(versions, &json!({"schema": breaking})).await.expect_problem(409, "incompatible-schema").json();
    let told: Vec<(&str, &str)> = refused["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| (change["pointer"].as_str().unwrap(), change["reason"].as_str().unwrap()))
        .collect();
    assert!(told.contains(&("/required", "`currency` became required")), "{refused}");
    assert!(told.contains(&("/properties/amount/minimum", "`minimum` changed from 0 to 1")), "{refused}");
    assert!(
        refused["changes"]
            .as_array()
            .unwrap()
            .iter()
            .all(|change| change["against"] == "1" && change["certain"] == true)
    );
    let mut wider = invoice();
    wider["properties"]["note"] = json!({"type": "string"});
    let dry = format!("{versions}?dry_run=true");
    assert_eq!(acme.post(&dry, &json!({"schema": wider})).await.expect(200).json()["version"], "2");
    acme.post(&dry, &json!({"schema": breaking})).await.expect_problem(409, "incompatible-schema");
    assert_eq!(items(&acme.get(versions).await.expect(200).json()).len(), 1, "a dry run writes nothing");
    let second = acme.post(versions, &json!({"schema": wider, "version": "2026-11"})).await.expect(201).json();
    assert_eq!((&second["version"], &second["number"]), (&json!("2026-11"), &json!(2)));
    acme.post(versions, &json!({"schema": invoice(), "version": "2026-11"})).await.expect_problem(409, "conflict");
    // What is not in use is not compared with: the breaking one is fine once the others are over.
    let draft = acme.post(versions, &json!({"schema": breaking, "state": "draft"})).await.expect(201).json();
    let third = format!("{versions}/{}", draft["version"].as_str().unwrap());
    acme.patch(&third, &json!({"state": "active"})).await.expect_problem(409, "incompatible-schema");
    for version in ["1", "2026-11"] {
        acme.patch(&format!("{versions}/{version}"), &json!({"state": "retired"})).await.expect(200);
    }
    assert_eq!(acme.patch(&third, &json!({"state": "active"})).await.expect(200).json()["state"], "active");
    assert_eq!(acme.get(one).await.expect(200).json()["newest_version"], "3");

    // Transitive: compared with each version in use, not with the newest alone.
    for (name, transitive, status) in [("near", false, 201), ("far", true, 409)] {
        let type_path = format!("/v1/catalog/types/{name}");
        acme.put(&type_path, &json!({"compatibility": "none", "transitive": transitive})).await.expect(201);
        register(&acme, name, &json!({"type": ["string", "null"]})).await;
        register(&acme, name, &json!({"type": "string"})).await;
        acme.patch(&type_path, &json!({"compatibility": "backward"})).await.expect(200);
        let third = json!({"schema": {"type": ["string", "integer"]}});
        let answer = acme.post(&format!("{type_path}/versions"), &third).await.expect(status);
        if status == 409 {
            assert_eq!(answer.json()["changes"][0]["against"], "1");
        }
    }
}

#[tokio::test]
async fn what_does_not_fit_a_type_or_a_schema_is_refused_by_name() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let one = "/v1/catalog/types/a.b";
    acme.put(one, &json!({})).await.expect(201);
    let field = async |answer: crate::support::Answer| {
        let problem = answer.expect_problem(400, "invalid-field").json();
        problem["field"].as_str().unwrap().to_owned()
    };
    assert_eq!(field(acme.put("/v1/catalog/types/a..b", &json!({})).await).await, "name");
    assert_eq!(field(acme.put(one, &json!({"colour": 1})).await).await, "colour");
    assert_eq!(field(acme.put(one, &json!({"lifecycle": "dead"})).await).await, "lifecycle");
    let redaction = json!({"redactions": [{"path": "/type", "action": "mask"}]});
    assert_eq!(field(acme.put(one, &redaction).await).await, "redactions[0].path");
    let versions = format!("{one}/versions");
    for (body, wanted) in [
        (json!({}), "schema"),
        (json!({"schema": 5}), "schema"),
        (json!({"schema": {}, "state": "retired"}), "state"),
        (json!({"schema": {"$ref": "https://example.org/x.json"}}), "schema/$ref"),
        (json!({"schema": {"properties": {"a": {"type": "text"}}}}), "schema/properties/a/type"),
        (json!({"schema": {"properties": {"a": {"pattern": "(?!x)"}}}}), "schema/properties/a/pattern"),
        (json!({"schema": {"description": "x".repeat(50_000)}}), "schema"),
    ] {
        assert_eq!(field(acme.post(&versions, &body).await).await, wanted);
    }
    acme.post("/v1/catalog/types/no.such/versions", &json!({"schema": {}})).await.expect_problem(404, "not-found");
    acme.post(&format!("{versions}?dry_run=perhaps"), &json!({"schema": {}}))
        .await
        .expect_problem(400, "invalid-parameter");
    acme.get("/v1/catalog/types?lifecycle=dead").await.expect_problem(400, "invalid-parameter");
    acme.get("/v1/catalog/types?colour=1").await.expect_problem(400, "invalid-parameter");
    assert_eq!(field(acme.patch("/v1/catalog/policy", &json!({"policy": "lax"})).await).await, "policy");
    let bound = json!({"quarantine": {"events_max": 0}});
    assert_eq!(field(acme.patch("/v1/catalog/policy", &bound).await).await, "quarantine.events_max");
    let order = json!({"states": ["a"], "initial": "b", "transitions": []});
    assert_eq!(field(acme.put("/v1/catalog/lifecycles/order", &order).await).await, "initial");
}

#[tokio::test]
async fn specimens_are_made_of_a_schema_and_given_ones_must_fit_it() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let one = "/v1/catalog/types/invoice.paid";
    acme.put(one, &json!({"service": "billing"})).await.expect(201);
    register(&acme, "invoice.paid", &invoice()).await;
    let made = acme.get(&format!("{one}/specimens")).await.expect(200).json();
    assert_eq!((&made["specimens"][0]["generated"], &made["specimens"][0]["version"]), (&json!(true), &json!("1")));
    // What the hub makes of a schema it takes under a strict policy.
    acme.patch("/v1/catalog/policy", &json!({"policy": "strict"})).await.expect(200);
    acme.publish(&json!({"type": "invoice.paid", "data": made["specimens"][0]["data"]})).await;
    acme.post_bytes("/v1/events", "application/cloudevents+json", made["sample"].to_string().into_bytes())
        .await
        .expect(202);
    let again = acme.get(&format!("{one}/specimens")).await.expect(200).json();
    assert_eq!(again, made, "the same schema gives the same specimen");
    let misfit = json!({"specimens": [{"name": "x", "data": {"number": "7", "amount": -1}}]});
    let refused = acme.patch(one, &misfit).await.expect_problem(400, "invalid-field").json();
    assert_eq!(refused["field"], "specimens[0].data");
    let pointers: Vec<_> = refused["violations"].as_array().unwrap().iter().map(|one| one["pointer"].clone()).collect();
    assert_eq!(pointers.len(), 2, "{refused}");
    assert!(pointers.contains(&json!("/data/number")) && pointers.contains(&json!("/data/amount")), "{refused}");
    let given = json!({"specimens": [{"name": "paid", "data": {"number": "inv-7", "amount": 5}}]});
    let told = acme.patch(one, &given).await.expect(200).json();
    assert_eq!(told["specimens"][0]["version"], "1", "it is of the version that was the newest");
    let listed = acme.get(&format!("{one}/specimens")).await.expect(200).json();
    assert_eq!(
        listed["specimens"],
        json!([{"name": "paid", "version": "1", "data": {"number": "inv-7", "amount": 5}, "generated": false}])
    );
    assert_eq!(listed["sample"]["data"], json!({"number": "inv-7", "amount": 5}));
    let sample =
        json!({"sample": {"specversion": "1.0", "id": "1", "source": "/x", "type": "invoice.paid", "data": {}}});
    let refused = acme.patch(one, &sample).await.expect_problem(400, "invalid-field").json();
    assert_eq!(refused["field"], "sample.data");
}

#[tokio::test]
async fn the_list_is_json_or_a_page_on_which_nothing_that_was_said_is_markup() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let nasty = "<script>alert(1)</script>";
    acme.put("/v1/catalog/types/a.b", &json!({"description": nasty, "owner": nasty})).await.expect(201);
    let json = acme.get("/v1/catalog").await.expect(200).json();
    assert_eq!((&json["types"][0]["name"], &json["types"][0]["owner"]), (&json!("a.b"), &json!(nasty)));
    let accept = [("accept", "text/html,application/json;q=0.9")];
    let by_accept = acme.try_send(reqwest::Method::GET, "/v1/catalog", &accept, None).await.unwrap().expect(200);
    let page = acme.get("/v1/catalog.html").await.expect(200);
    assert_eq!(by_accept.text, page.text);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").unwrap().contains("default-src 'none'"));
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    assert!(page.text.contains("a.b") && page.text.contains("&lt;script&gt;") && !page.text.contains("<script"));
}

#[tokio::test]
async fn the_contract_of_a_service_tells_types_fields_redactions_and_how_pages_follow() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let said = json!({
        "service": "billing", "description": "It was paid.",
        "redactions": [{"path": "/data/customer/email", "action": "hash", "audiences": ["export"]}],
    });
    acme.put("/v1/catalog/types/invoice.paid", &said).await.expect(201);
    acme.put("/v1/catalog/types/order.placed", &json!({"service": "shop"})).await.expect(201);
    register(&acme, "invoice.paid", &invoice()).await;
    let services = acme.get("/v1/catalog/contracts").await.expect(200).json();
    assert_eq!(services["services"], json!([{"service": "billing", "types": 1}, {"service": "shop", "types": 1}]));
    let contract = acme.get("/v1/catalog/contracts/billing").await.expect(200).json();
    assert_eq!((&contract["service"], &contract["org"]), (&json!("billing"), &json!("acme")));
    let types = contract["event_types"].as_array().unwrap();
    assert_eq!((types.len(), &types[0]["type"]), (1, &json!("invoice.paid")));
    assert_eq!(types[0]["redactions"][0]["path"], "/data/customer/email");
    let fields = types[0]["schema_versions"][0]["fields"].as_array().unwrap();
    let of = |pointer: &str| fields.iter().find(|field| field["pointer"] == pointer).unwrap();
    assert_eq!((&of("/amount")["required"], &of("/amount")["types"]), (&json!(true), &json!(["integer"])));
    assert_eq!(of("/customer/email")["format"], "email");
    assert_eq!(contract["pagination"]["limit_max"], 1_000);
    acme.get("/v1/catalog/contracts/none").await.expect_problem(404, "not-found");
}

#[tokio::test]
async fn an_org_sees_its_own_types_before_those_of_every_org_and_none_of_another() {
    let hub = Hub::start().await;
    let (admin, acme) = (hub.admin(), hub.acme().await);
    let globex = hub.public(&hub.key(&["publish", "manage", "read"], Some("globex")).await);
    let one = "/v1/catalog/types/a.b";
    admin.put(one, &json!({"owner": "everyone"})).await.expect(201);
    acme.put(one, &json!({"owner": "acme"})).await.expect(201);
    acme.put("/v1/catalog/types/own.type", &json!({})).await.expect(201);
    let owner = async |api: &Api, path: &str| api.get(path).await.expect(200).json()["owner"].clone();
    assert_eq!(owner(&acme, one).await, "acme");
    assert_eq!(owner(&globex, one).await, "everyone");
    assert_eq!(owner(&admin, &format!("{one}?org=acme")).await, "acme");
    assert_eq!(owner(&admin, one).await, "everyone");
    assert_eq!(items(&globex.get("/v1/catalog/types").await.expect(200).json()).len(), 1);
    assert_eq!(items(&admin.get("/v1/catalog/types").await.expect(200).json()).len(), 3);
    // What is of every org is not an org's to change; what is of another is not there.
    acme.put(
        "/v1/catalog/lifecycles/order",
        &json!({
            "states": ["a"], "initial": "a", "transitions": [{"from": "a", "to": "a", "event_type": "x"}],
        }),
    )
    .await
    .expect(201);
    for (method, path, body) in [
        ("PATCH", one.to_owned(), json!({"owner": "globex"})),
        ("DELETE", one.to_owned(), Value::Null),
        ("POST", format!("{one}/versions"), json!({"schema": {}})),
        ("GET", "/v1/catalog/types/own.type".to_owned(), Value::Null),
        ("GET", "/v1/catalog/types/own.type/specimens".to_owned(), Value::Null),
        ("GET", "/v1/catalog/types/own.type/versions".to_owned(), Value::Null),
        ("GET", "/v1/catalog/types/own.type/versions/1".to_owned(), Value::Null),
        ("PATCH", "/v1/catalog/types/own.type/versions/1".to_owned(), json!({"state": "retired"})),
        ("GET", "/v1/catalog/lifecycles/order".to_owned(), Value::Null),
        ("DELETE", "/v1/catalog/lifecycles/order".to_owned(), Value::Null),
        ("GET", "/v1/catalog/lifecycles/order/flags".to_owned(), Value::Null),
        ("GET", "/v1/catalog/lifecycles/order/aggregates/7".to_owned(), Value::Null),
    ] {
        globex.call(method, &path, &body).await.expect_problem(404, "not-found");
        let with_org = format!("{path}?org=acme");
        globex.call(method, &with_org, &body).await.expect_problem(403, "forbidden");
    }
    globex.get("/v1/catalog/policy?org=acme").await.expect_problem(403, "forbidden");
    globex.patch("/v1/catalog/policy?org=acme", &json!({"policy": "strict"})).await.expect_problem(403, "forbidden");
    assert_eq!(acme.get("/v1/catalog/policy").await.expect(200).json()["policy"], "open");
    let reader = hub.public(&hub.key(&["read"], Some("acme")).await);
    reader.get(one).await.expect(200);
    for (method, path, body) in [
        ("PUT", one, json!({})),
        ("PATCH", "/v1/catalog/policy", json!({"policy": "strict"})),
        ("PUT", "/v1/catalog/lifecycles/x", json!({})),
        ("POST", "/v1/quarantine/redrive", json!({})),
    ] {
        reader.call(method, path, &body).await.expect_problem(403, "forbidden");
    }
    hub.anonymous().get("/v1/catalog").await.expect_problem(401, "unauthorized");
}

/// What the command line says, and its exit code.
fn tidegate(hub: &Hub, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["--json", "--data-dir"]).arg(hub.data_dir()).args(arguments);
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn the_command_line_lists_shows_and_tries_a_schema_without_writing_it() {
    let hub = Hub::start().await;
    let admin = hub.admin();
    admin
        .put("/v1/catalog/types/invoice.paid", &json!({"compatibility": "backward", "service": "billing"}))
        .await
        .expect(201);
    register(&admin, "invoice.paid", &invoice()).await;
    let (code, text) = tidegate(&hub, &["catalog", "list", "--service", "billing"]);
    assert!(code == 0 && text.contains("\"invoice.paid\""), "{text}");
    let (code, text) = tidegate(&hub, &["catalog", "show", "invoice.paid", "--version", "1"]);
    assert!(code == 0 && text.contains("^inv-[0-9]+$"), "{text}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("schema.json");
    let mut schema = invoice();
    schema["properties"]["note"] = json!({"type": "string"});
    std::fs::write(&file, schema.to_string()).unwrap();
    let path = file.to_str().unwrap();
    let (code, text) = tidegate(&hub, &["catalog", "check", "invoice.paid", path]);
    assert_eq!(code, 0, "{text}");
    schema["required"] = json!(["number", "amount", "note"]);
    std::fs::write(&file, schema.to_string()).unwrap();
    let (code, text) = tidegate(&hub, &["catalog", "check", "invoice.paid", path]);
    assert!(code == 4 && text.contains("`note` became required"), "{code}: {text}");
    assert_eq!(items(&admin.get("/v1/catalog/types/invoice.paid/versions").await.expect(200).json()).len(), 1);
}
