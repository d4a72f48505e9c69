//! `tidegate events`: look-ups in the log.

use super::client::{Body, Client, Door, Method, Query, Target, segment};
use super::exit::Failure;
use super::output::{Column, Output};

/// Commands about events.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show one event and where it stands with each consumer
    Get {
        /// The event's id
        id: String,
        /// Its org, where ids of several orgs are the same
        #[arg(long)]
        org: Option<String>,
    },
    /// List events
    List(Filter),
}

/// Which events.
#[derive(Debug, clap::Args)]
pub struct Filter {
    #[command(flatten)]
    scope: Scope,
    /// Received at or after this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Received before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Go on from an earlier answer
    #[arg(long)]
    cursor: Option<String>,
    /// Events of one answer
    #[arg(long, default_value_t = 50)]
    limit: u32,
}

/// What events are about.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Scope {
    /// Event type, such as invoice.paid
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Tenant
    #[arg(long)]
    org: Option<String>,
    /// Module or service that spoke
    #[arg(long)]
    source: Option<String>,
    /// Kind of thing the event is about
    #[arg(long)]
    aggregate_type: Option<String>,
    /// Which thing
    #[arg(long)]
    aggregate_id: Option<String>,
}

impl Scope {
    /// As query parameters.
    #[must_use]
    pub fn query(&self) -> Query {
        Query::none()
            .with("type", self.event_type.as_ref())
            .with("org", self.org.as_ref())
            .with("source", self.source.as_ref())
            .with("aggregate_type", self.aggregate_type.as_ref())
            .with("aggregate_id", self.aggregate_id.as_ref())
    }
}

const COLUMNS: &[Column] = &[
    ("SEQ", "/seq"),
    ("RECEIVED", "/received_at"),
    ("TYPE", "/type"),
    ("ORG", "/org"),
    ("ID", "/id"),
    ("SOURCE", "/source"),
];

/// Performs the command.
///
/// # Errors
/// When no hub answers, or it refuses.
pub async fn run(target: &Target, output: Output, command: Command) -> Result<(), Failure> {
    let client = Client::new(target, Door::Any)?;
    match command {
        Command::Get { id, org } => {
            let path = format!("/v1/events/{}", segment(&id));
            output.thing(&client.call(Method::GET, &path, &Query::none().with("org", org), Body::None).await?)
        }
        Command::List(filter) => {
            let query = filter
                .scope
                .query()
                .with("from", filter.from)
                .with("to", filter.to)
                .with("cursor", filter.cursor)
                .with("limit", Some(filter.limit));
            output.list(&client.call(Method::GET, "/v1/events", &query, Body::None).await?, "events", COLUMNS)
        }
    }
}
