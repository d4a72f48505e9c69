//! `tidegate rules`: which events become calls to an upstream.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::client::{Body, Client, Door, Method, Query, Target, segment};
use super::exit::Failure;
use super::output::{Column, Output};
use super::upstreams::json_of;

/// Commands about publish rules.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List the rules of every upstream, or of one
    List {
        /// Of this upstream
        #[arg(long, value_name = "ID")]
        upstream: Option<String>,
    },
    /// Show one rule
    Show(Named),
    /// Show what a rule would send for an event; nothing is sent
    Preview {
        #[command(flatten)]
        rule: Named,
        /// An event of the log, by its id
        #[arg(long, value_name = "ID", required_unless_present = "file", conflicts_with = "file")]
        event: Option<String>,
        /// The event's tenant
        #[arg(long, requires = "event")]
        org: Option<String>,
        /// A file with an event that nobody has published, as JSON; `-` reads it from stdin
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Take a rule away with what waits for it; its dead letters stay
    Discard(Named),
}

/// Which rule.
#[derive(Debug, clap::Args)]
pub struct Named {
    /// The upstream's id
    upstream: String,
    /// The rule's name
    rule: String,
}

const COLUMNS: &[Column] = &[
    ("UPSTREAM", "/upstream"),
    ("RULE", "/name"),
    ("EVENTS", "/event_types"),
    ("ORG", "/org"),
    ("METHOD", "/call/method"),
    ("PATH", "/call/path"),
    ("PAUSED", "/paused"),
    ("CONSUMER", "/consumer"),
];
/// Upstreams that are asked for at once.
const PAGE: u32 = 100;

/// The rules of an upstream, each with whose it is and the consumer under which it is found elsewhere.
fn rules_of(upstream: &Value) -> Vec<Value> {
    let id = upstream["id"].as_str().unwrap_or_default();
    let with_names = |rule: &Value| {
        let mut rule = rule.clone();
        rule["consumer"] = format!("publish:{id}:{}", rule["name"].as_str().unwrap_or_default()).into();
        rule["upstream"] = id.into();
        rule
    };
    upstream["publishes"].as_array().into_iter().flatten().map(with_names).collect()
}

fn parse(answer: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(answer).map_err(|error| anyhow::anyhow!("the answer is not JSON: {error}").into())
}

async fn upstream(client: &Client, id: &str) -> Result<Value, Failure> {
    let path = format!("/v1/admin/upstreams/{}", segment(id));
    parse(&client.call(Method::GET, &path, &Query::none(), Body::None).await?)
}

async fn all(client: &Client) -> Result<Vec<Value>, Failure> {
    let (mut rules, mut cursor) = (Vec::new(), None);
    loop {
        let query = Query::none().with("cursor", cursor.take()).with("limit", Some(PAGE));
        let page = parse(&client.call(Method::GET, "/v1/admin/upstreams", &query, Body::None).await?)?;
        rules.extend(page["items"].as_array().into_iter().flatten().flat_map(rules_of));
        match page["next_cursor"].as_str() {
            Some(next) if page["has_more"] == true => cursor = Some(next.to_owned()),
            Some(_) | None => return Ok(rules),
        }
    }
}

/// Performs the command.
///
/// # Errors
/// When no hub answers, or it refuses; when the upstream has no rule of this name.
pub async fn run(target: &Target, output: Output, command: Command) -> Result<(), Failure> {
    let client = Client::new(target, Door::Admin)?;
    let path =
        |named: &Named| format!("/v1/admin/upstreams/{}/publishes/{}", segment(&named.upstream), segment(&named.rule));
    match command {
        Command::List { upstream: id } => {
            let rules = match id {
                Some(id) => rules_of(&upstream(&client, &id).await?),
                None => all(&client).await?,
            };
            output.list(json!({ "items": rules }).to_string().as_bytes(), "items", COLUMNS)
        }
        Command::Show(named) => {
            let rules = rules_of(&upstream(&client, &named.upstream).await?);
            let rule = rules.into_iter().find(|rule| rule["name"] == named.rule.as_str());
            let rule = rule.ok_or_else(|| Failure::Refused {
                status: 404,
                problem: json!({ "detail": "the upstream has no rule of this name", "sent": named.rule }),
            })?;
            output.thing(rule.to_string().as_bytes())
        }
        Command::Preview { rule, event, org, file } => {
            let body = match (event, file) {
                (Some(event), _) => json!({ "event_id": event, "org": org }),
                (None, Some(file)) => json!({ "event": json_of(&file)? }),
                (None, None) => return Err(Failure::Usage("--event or --file".to_owned())),
            };
            let path = format!("{}/preview", path(&rule));
            output.thing(&client.call(Method::POST, &path, &Query::none(), Body::from(&body)).await?)
        }
        Command::Discard(rule) => {
            output.thing(&client.call(Method::DELETE, &path(&rule), &Query::none(), Body::None).await?)
        }
    }
}
