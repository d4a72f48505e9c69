//! `tidegate schedule`: events that wait until they are due.

use super::client::{Body, Client, Door, Method, Query, Target, segment};
use super::exit::Failure;
use super::output::{Column, Output};

/// Commands about scheduled events.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List what waits, in the order of its time
    List {
        /// Tenant
        #[arg(long)]
        org: Option<String>,
        /// Go on from an earlier answer
        #[arg(long)]
        cursor: Option<String>,
        /// Events of one answer
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Show one event that waits
    Get(One),
    /// Take an event back: it is never delivered
    Cancel(One),
}

/// Which event.
#[derive(Debug, clap::Args)]
pub struct One {
    /// The event's id
    id: String,
    /// Its org, where ids of several orgs are the same
    #[arg(long)]
    org: Option<String>,
}

const COLUMNS: &[Column] = &[
    ("DUE", "/deliver_at"),
    ("TYPE", "/type"),
    ("ORG", "/org"),
    ("ID", "/id"),
    ("SCHEDULED", "/created/at"),
    ("BY", "/created/by"),
];

/// Performs the command.
///
/// # Errors
/// When no hub answers, or it refuses.
pub async fn run(target: &Target, output: Output, command: Command) -> Result<(), Failure> {
    let client = Client::new(target, Door::Any)?;
    let path = |id: &str| format!("/v1/scheduled/{}", segment(id));
    match command {
        Command::List { org, cursor, limit } => {
            let query = Query::none().with("org", org).with("cursor", cursor).with("limit", Some(limit));
            output.list(&client.call(Method::GET, "/v1/scheduled", &query, Body::None).await?, "items", COLUMNS)
        }
        Command::Get(One { id, org }) => {
            output.thing(&client.call(Method::GET, &path(&id), &Query::none().with("org", org), Body::None).await?)
        }
        Command::Cancel(One { id, org }) => {
            client.call(Method::DELETE, &path(&id), &Query::none().with("org", org), Body::None).await?;
            output.say("cancelled")
        }
    }
}
