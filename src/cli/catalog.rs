//! `tidegate catalog`: event types, their schemas, and whether a schema in a file would do.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::client::{Body, Client, Door, Method, Query, Target, segment};
use super::exit::Failure;
use super::output::{Column, Output};

/// Commands about the catalog.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List event types
    List {
        /// Tenant
        #[arg(long)]
        org: Option<String>,
        /// Of this service
        #[arg(long)]
        service: Option<String>,
        /// Exact, `prefix.*` or `*`
        #[arg(long = "type", value_name = "PATTERN")]
        event_type: Option<String>,
        /// Go on from an earlier answer
        #[arg(long)]
        cursor: Option<String>,
        /// Types of one answer
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Show an event type with its versions, or one version with its schema
    Show {
        /// The type's name
        name: String,
        /// Tenant
        #[arg(long)]
        org: Option<String>,
        /// This version, with its schema
        #[arg(long)]
        version: Option<String>,
    },
    /// Say whether the schema in a file could be registered as the next version; nothing is written
    Check {
        /// The type's name
        name: String,
        /// The file with the schema
        file: PathBuf,
        /// Tenant
        #[arg(long)]
        org: Option<String>,
    },
}

const COLUMNS: &[Column] = &[
    ("TYPE", "/name"),
    ("ORG", "/org"),
    ("SERVICE", "/service"),
    ("OWNER", "/owner"),
    ("LIFECYCLE", "/lifecycle"),
    ("NEWEST", "/newest_version"),
];

/// Performs the command.
///
/// # Errors
/// When no hub answers, or it refuses; for a file that holds no JSON.
pub async fn run(target: &Target, output: Output, command: Command) -> Result<(), Failure> {
    let client = Client::new(target, Door::Any)?;
    let path = |name: &str| format!("/v1/catalog/types/{}", segment(name));
    match command {
        Command::List { org, service, event_type, cursor, limit } => {
            let query = Query::none().with("org", org).with("service", service).with("type", event_type);
            let query = query.with("cursor", cursor).with("limit", Some(limit));
            output.list(&client.call(Method::GET, "/v1/catalog/types", &query, Body::None).await?, "items", COLUMNS)
        }
        Command::Show { name, org, version } => {
            let path = match version {
                Some(version) => format!("{}/versions/{}", path(&name), segment(&version)),
                None => path(&name),
            };
            output.thing(&client.call(Method::GET, &path, &Query::none().with("org", org), Body::None).await?)
        }
        Command::Check { name, file, org } => {
            let schema = read(&file)?;
            let query = Query::none().with("org", org).with("dry_run", Some(true));
            let body = Body::from(&json!({ "schema": schema }));
            let answer = client.call(Method::POST, &format!("{}/versions", path(&name)), &query, body).await?;
            output.thing(&answer)?;
            output.say("it could be registered")
        }
    }
}

fn read(file: &PathBuf) -> Result<Value, Failure> {
    let text = std::fs::read(file).map_err(|error| anyhow::anyhow!("{}: {error}", file.display()))?;
    Ok(serde_json::from_slice(&text).map_err(|error| anyhow::anyhow!("{}: {error}", file.display()))?)
}
