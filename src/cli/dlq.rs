//! `tidegate dlq`: deliveries that were given up.

use serde_json::{Map, Value, json};

use super::client::{Body, Client, Door, Method, Query, Target, segment};
use super::exit::Failure;
use super::output::{Column, Output};
use super::replay::{Follow, show_or_follow};

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
    /// Give one to its consumer again, or all open ones that fit, as a job
    Redrive(Redrive),
    /// Say that nobody wants one, and why
    Discard {
        /// The dead letter's id
        id: String,
        /// Why
        #[arg(long)]
        reason: String,
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
    /// In this state
    #[arg(long, value_parser = ["open", "redriven", "discarded"])]
    state: Option<String>,
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

/// Which dead letters are redriven.
#[derive(Debug, clap::Args)]
pub struct Redrive {
    /// This one
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    id: Option<String>,
    /// All open ones that fit
    #[arg(long)]
    all: bool,
    /// Of this consumer
    #[arg(long, requires = "all")]
    consumer: Option<String>,
    /// Of this org
    #[arg(long, requires = "all")]
    org: Option<String>,
    /// Of events of this type
    #[arg(long = "type", value_name = "TYPE", requires = "all")]
    event_type: Option<String>,
    /// With this kind of error
    #[arg(long, requires = "all")]
    error_kind: Option<String>,
    /// Given up at or after this time (RFC 3339)
    #[arg(long, value_name = "TIME", requires = "all")]
    from: Option<String>,
    /// Given up before this time (RFC 3339)
    #[arg(long, value_name = "TIME", requires = "all")]
    to: Option<String>,
    /// Events a second at most
    #[arg(long, value_name = "EVENTS", requires = "all")]
    rate: Option<u32>,
    /// Only tell what would be redriven
    #[arg(long, requires = "all")]
    dry_run: bool,
    #[command(flatten)]
    follow: Follow,
}

impl Redrive {
    /// The document to send: what was named and nothing else.
    fn document(self) -> Value {
        let mut document = Map::new();
        let texts = [
            ("consumer", self.consumer),
            ("org", self.org),
            ("type", self.event_type),
            ("error_kind", self.error_kind),
            ("from", self.from),
            ("to", self.to),
        ];
        document.extend(texts.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?.into()))));
        document.extend(self.rate.map(|rate| ("rate".to_owned(), rate.into())));
        if self.dry_run {
            document.insert("dry_run".to_owned(), true.into());
        }
        Value::Object(document)
    }
}

const COLUMNS: &[Column] = &[
    ("ID", "/id"),
    ("CONSUMER", "/consumer"),
    ("TYPE", "/type"),
    ("EVENT", "/event_id"),
    ("STATE", "/state"),
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
                .with("state", filter.state)
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
        Command::Redrive(redrive) => {
            let (follow, id) = (redrive.follow, redrive.id.clone());
            let Some(id) = id else {
                let body = Body::from(&redrive.document());
                let answer = client.call(Method::POST, "/v1/dead-letters/redrive", &Query::none(), body).await?;
                return show_or_follow(&client, output, &answer, follow).await;
            };
            let path = format!("/v1/dead-letters/{}/redrive", segment(&id));
            output.thing(&client.call(Method::POST, &path, &Query::none(), Body::None).await?)
        }
        Command::Discard { id, reason } => {
            let path = format!("/v1/dead-letters/{}/discard", segment(&id));
            let body = Body::from(&json!({ "reason": reason }));
            output.thing(&client.call(Method::POST, &path, &Query::none(), body).await?)
        }
    }
}
