//! `tidegate dlq`: deliveries that were given up.

use super::client::{Body, Client, Door, Method, Query, Target, segment};
use super::exit::Failure;
use super::output::{Column, Output};

/// Commands about dead letters.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List dead letters
    List(Filter),
    /// Show one: the event, the error, the attempts
    Show {
        /// The dead letter's id
        id: String,
    },
}

/// Which dead letters.
#[derive(Debug, clap::Args)]
pub struct Filter {
    /// Of this consumer
    #[arg(long)]
    consumer: Option<String>,
    /// Of events of this type
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Given up at or after this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Given up before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Go on from an earlier answer
    #[arg(long)]
    cursor: Option<String>,
    /// Dead letters of one answer
    #[arg(long, default_value_t = 50)]
    limit: u32,
}

const COLUMNS: &[Column] = &[
    ("ID", "/id"),
    ("CONSUMER", "/consumer"),
    ("TYPE", "/type"),
    ("EVENT", "/event_id"),
    ("ATTEMPTS", "/attempts"),
    ("LAST", "/last_attempt"),
    ("ERROR", "/error/message"),
];

/// Performs the command.
///
/// # Errors
/// When no hub answers, or it refuses.
pub async fn run(target: &Target, output: Output, command: Command) -> Result<(), Failure> {
    let client = Client::new(target, Door::Any)?;
    match command {
        Command::List(filter) => {
            let query = Query::none()
                .with("consumer", filter.consumer)
                .with("type", filter.event_type)
                .with("from", filter.from)
                .with("to", filter.to)
                .with("cursor", filter.cursor)
                .with("limit", Some(filter.limit));
            output.list(&client.call(Method::GET, "/v1/dead-letters", &query, Body::None).await?, "items", COLUMNS)
        }
        Command::Show { id } => {
            let path = format!("/v1/dead-letters/{}", segment(&id));
            output.thing(&client.call(Method::GET, &path, &Query::none(), Body::None).await?)
        }
    }
}
