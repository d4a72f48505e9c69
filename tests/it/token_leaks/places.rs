//! Where the hub says or keeps something.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::planted::Scene;
use super::token;
use crate::secrets;
use crate::support::{Api, Hub, find};

/// Everything that was said or kept, by place.
#[derive(Default)]
pub(super) struct Told(BTreeMap<String, Vec<u8>>);

impl Told {
    pub(super) fn put(&mut self, place: &str, text: impl AsRef<[u8]>) {
        let all = self.0.entry(place.to_owned()).or_default();
        all.extend_from_slice(text.as_ref());
        all.push(b'\n');
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &Vec<u8>)> {
        self.0.iter().map(|(place, text)| (place.as_str(), text))
    }

    pub(super) fn of(&self, place: &str) -> &[u8] {
        self.0.get(place).unwrap_or_else(|| panic!("nothing was said in {place}: {:?}", self.0.keys()))
    }
}

/// Reads every file of the data directory.
pub(super) fn files(dir: &Path, told: &mut Told) {
    for path in secrets::files(dir) {
        let name = path.strip_prefix(dir).unwrap().display().to_string();
        told.put(&format!("file {name}"), fs::read(&path).unwrap());
    }
}

/// Asks for everything that the documents of both listeners tell of: each GET, for each thing that its list has.
pub(super) async fn crawl(hub: &Hub, acme: &Api, told: &mut Told) {
    let admin = hub.admin();
    for api in [&admin, acme] {
        let document = api.get("/v1/openapi.json").await.expect(200).json();
        let paths = document["paths"].as_object().unwrap();
        for (path, operations) in paths.iter().filter(|(_, operations)| operations.get("get").is_some()) {
            // They go on until somebody ends them.
            if path.ends_with("/stream") || path.ends_with("/ws") {
                continue;
            }
            let scoped = find(&operations["get"], "parameters").into_iter().flat_map(|list| list.as_array().unwrap());
            let names: Vec<String> = scoped.map(|one| one.to_string()).collect();
            let by_org = names.iter().any(|text| text.contains("\"org\"") || text.contains("/org\""));
            let query = match path.as_str() {
                // These have to be asked for something.
                "/v1/links/walk" => "?org=acme&module=sales&type=order&id=tgshown-0815-xyz",
                _ if by_org => "?org=acme",
                _ => "",
            };
            let all = filled(&admin, api, path, query).await;
            assert!(!all.is_empty(), "nothing is known to ask {path} for");
            for filled in all {
                let answer = api.get(&format!("{filled}{query}")).await;
                let read = path.starts_with("/v1/upstreams/");
                assert!(answer.status == 200 || read, "{filled}{query}: {} {}", answer.status, answer.text);
                told.put(&format!("GET {path}"), format!("{:?}\n{}", answer.headers, answer.text));
            }
        }
    }
}

/// The paths with their parameters filled in from the lists that stand before them.
async fn filled(admin: &Api, api: &Api, path: &str, query: &str) -> Vec<String> {
    let Some((before, rest)) = path.split_once("/{") else { return vec![path.to_owned()] };
    let (name, after) = rest.split_once('}').unwrap();
    // Only operators see upstreams listed.
    let (api, list) = if before == "/v1/upstreams" { (admin, "/v1/admin/upstreams") } else { (api, before) };
    let scoped = api.get(&format!("{list}?org=acme")).await;
    let answer = if scoped.status == 200 { scoped } else { api.get(list).await };
    let listed = answer.json();
    let items = ["items", "events", "services"].iter().find_map(|name| listed[*name].as_array()).cloned();
    let mut all = Vec::new();
    for item in items.unwrap_or_default() {
        let value =
            item.as_str().or_else(|| [name, "id", "name", "service"].iter().find_map(|name| item[*name].as_str()));
        let Some(value) = value else { panic!("{list} has no {name}: {item}") };
        let begun = format!("{before}/{value}");
        match after.split_once("/{") {
            None => all.push(format!("{begun}{after}")),
            Some((middle, _)) => all.extend(second(api, &begun, middle, query, &item).await),
        }
    }
    all
}

/// The paths with two parameters.
async fn second(api: &Api, begun: &str, middle: &str, query: &str, item: &Value) -> Vec<String> {
    let values: Vec<String> = match middle {
        "/versions" | "/parts" => {
            let listed = api.get(&format!("{begun}{middle}{query}")).await.json();
            let of = |one: &Value| one["version"].as_str().map(str::to_owned).or(Some(one["part"].to_string()));
            listed["items"].as_array().into_iter().flatten().filter_map(of).collect()
        }
        "/reads" => item["reads"].as_object().unwrap().keys().cloned().collect(),
        "/aggregates" => vec!["tgshown-0815-xyz-aggregate".to_owned()],
        other => panic!("{other} has values that this test does not know"),
    };
    values.into_iter().map(|value| format!("{begun}{middle}/{value}")).collect()
}

/// Runs the command line with these variables: whether it succeeded, and everything it said.
pub(super) fn run(hub: &Hub, variables: &[(&str, &str)], arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(arguments).current_dir(hub.data_dir()).stdin(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEGATE")) {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied());
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), format!("{}\n{}", text(&output.stdout), text(&output.stderr)))
}

/// Variables and arguments of one run.
type Run<'a> = (Vec<(&'a str, &'a str)>, Vec<&'a str>);

/// What the command line says of all this, to people and to programs; and when it is given what does not fit.
pub(super) async fn command_line(scene: &Scene, told: &mut Told) {
    let dir = scene.hub.data_dir();
    let dir = dir.to_str().unwrap();
    let admin = Hub::admin(&scene.hub);
    let first = async |path: &str, name: &str| {
        let listed = admin.get(path).await.expect(200).json();
        listed["items"][0][name].as_str().unwrap_or_else(|| panic!("{path}: {listed}")).to_owned()
    };
    let (webhook, source) = (first("/v1/webhooks", "id").await, first("/v1/sources", "name").await);
    let letter = first("/v1/dead-letters", "id").await;
    let lines: Vec<Vec<&str>> = vec![
        vec!["webhooks", "list"],
        vec!["webhooks", "get", &webhook],
        vec!["webhooks", "attempts", &webhook],
        vec!["sources", "list"],
        vec!["sources", "show", &source],
        vec!["keys", "list"],
        vec!["upstreams", "list"],
        vec!["upstreams", "show", "tgshown-0815-xyz-basic"],
        vec!["upstreams", "test", "tgshown-0815-xyz-basic"],
        vec!["rules", "list"],
        vec!["links", "list", "--org", "acme"],
        vec!["dlq", "list"],
        vec!["dlq", "show", &letter],
        vec!["events", "list"],
        vec!["catalog", "list", "--org", "acme"],
        vec!["config", "check"],
    ];
    for line in lines {
        for more in [&[][..], &["--json"]] {
            let (good, said) = run(&scene.hub, &[], &[&line[..], &["--data-dir", dir], more].concat());
            assert!(good, "{line:?}: {said}");
            told.put("command line", said);
        }
    }
    let url = format!("http://{}/", scene.hub.public_address());
    let with = |place: &str| format!("http://hub:{}@{}/", token(place), scene.hub.public_address());
    let nowhere = format!("http://hub:{}@127.0.0.1:1/", token("cli-nowhere"));
    let (key, user_info) = (token("cli-key"), with("cli-url"));
    let to = with("cli-to");
    let wrong: [Run<'_>; 5] = [
        (vec![("TIDEGATE_URL", &url), ("TIDEGATE_KEY", &key)], vec!["webhooks", "list"]),
        (vec![("TIDEGATE_URL", &nowhere), ("TIDEGATE_KEY", &key)], vec!["webhooks", "list"]),
        (vec![("TIDEGATE_URL", &user_info), ("TIDEGATE_KEY", &key)], vec!["webhooks", "list"]),
        (vec![("TIDEGATE_ADMIN_TOKEN", &key)], vec!["keys", "list", "--data-dir", dir]),
        (vec![("TIDEGATE_URL", &url), ("TIDEGATE_KEY", &key)], vec!["listen", "--to", &to]),
    ];
    for (variables, line) in wrong {
        for more in [&[][..], &["--json"]] {
            let (good, said) = run(&scene.hub, &variables, &[&line[..], more].concat());
            assert!(!good, "{line:?}: {said}");
            told.put("command line, refused", said);
        }
    }
}

/// What the offline check says.
pub(super) fn verify(hub: &Hub) -> String {
    let dir = hub.data_dir();
    let (good, said) = run(hub, &[], &["verify", "--quiet", "--data-dir", dir.to_str().unwrap()]);
    assert!(good, "{said}");
    said
}
