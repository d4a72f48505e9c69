//! `tidegate keys`: API keys of applications, over the admin listener.

use serde::Serialize;
use serde_json::{Value, json};

use super::client::{Body, Client, Door, Method, Query, Target, segment};
use super::exit::Failure;
use super::output::{Column, Output};

/// Commands about API keys.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a key; it is shown this once
    Create(Create),
    /// List keys, without the keys themselves
    List {
        /// Go on from an earlier answer
        #[arg(long)]
        cursor: Option<String>,
        /// Keys of one answer
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Change how many requests and events a second a key may send, at once
    Limit {
        /// The key's id
        id: String,
        /// `PER_SECOND`, `PER_SECOND/BURST`, or a preset: sales, erp, esignature, sms, email
        #[arg(long, value_name = "RATE", value_parser = rate, required_unless_present = "none")]
        rate_limit: Option<Value>,
        /// Any number
        #[arg(long, conflicts_with = "rate_limit")]
        none: bool,
    },
    /// End a key at once
    Revoke {
        /// The key's id
        id: String,
    },
}

/// A key to make.
#[derive(Debug, clap::Args, Serialize)]
pub struct Create {
    /// Who uses it
    #[arg(long)]
    application: String,
    /// Confine it to one tenant; without this it may name any
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    org: Option<String>,
    /// What it may do, separated by commas
    #[arg(long, value_delimiter = ',', required = true, value_enum)]
    scopes: Vec<Scope>,
    /// When it ends (RFC 3339)
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    /// Requests and events a second it may send, or a preset: sales, erp, esignature, sms, email
    #[arg(long, value_name = "RATE", value_parser = rate)]
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_limit: Option<Value>,
}

/// A rate as `PER_SECOND`, `PER_SECOND/BURST` or a preset's name; the hub checks it.
fn rate(text: &str) -> Result<Value, String> {
    let number = |text: &str| text.parse::<serde_json::Number>().map_err(|_| format!("`{text}` is no number"));
    match text.split_once('/') {
        Some((per_second, burst)) => Ok(json!({"per_second": number(per_second)?, "burst": number(burst)?})),
        None if text.starts_with(|first: char| first.is_ascii_digit()) => Ok(json!({"per_second": number(text)?})),
        None => Ok(Value::from(text)),
    }
}

/// What a key may do.
#[derive(Clone, Copy, Debug, clap::ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Scope {
    Publish,
    Consume,
    Work,
    Manage,
    Read,
}

const COLUMNS: &[Column] = &[
    ("ID", "/id"),
    ("APPLICATION", "/application"),
    ("ORG", "/org"),
    ("SCOPES", "/scopes"),
    ("CREATED", "/created_at"),
    ("EXPIRES", "/expires_at"),
];

/// Performs the command.
///
/// # Errors
/// When no hub answers, or it refuses.
pub async fn run(target: &Target, output: Output, command: Command) -> Result<(), Failure> {
    let client = Client::new(target, Door::Admin)?;
    match command {
        Command::Create(create) => {
            let body = serde_json::to_value(&create).map_err(anyhow::Error::from)?;
            output.thing(&client.call(Method::POST, "/v1/admin/keys", &Query::none(), Body::from(&body)).await?)
        }
        Command::List { cursor, limit } => {
            let query = Query::none().with("cursor", cursor).with("limit", Some(limit));
            output.list(&client.call(Method::GET, "/v1/admin/keys", &query, Body::None).await?, "items", COLUMNS)
        }
        Command::Limit { id, rate_limit, none: _ } => {
            let path = format!("/v1/admin/keys/{}", segment(&id));
            let body = json!({ "rate_limit": rate_limit });
            output.thing(&client.call(Method::PATCH, &path, &Query::none(), Body::from(&body)).await?)
        }
        Command::Revoke { id } => {
            let path = format!("/v1/admin/keys/{}", segment(&id));
            output.thing(&client.call(Method::DELETE, &path, &Query::none(), Body::None).await?)?;
            output.say("revoked")
        }
    }
}
