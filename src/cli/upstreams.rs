//! `tidegate upstreams`: systems that the hub calls.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::client::{Body, Client, Door, Method, Query, Target, segment};
use super::exit::Failure;
use super::output::{Column, Output};

/// Commands about upstreams.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List upstreams: where they are, whether they answer
    List {
        /// Go on from an earlier answer
        #[arg(long)]
        cursor: Option<String>,
        /// Upstreams of one answer
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Show one upstream, without its credentials
    Show {
        /// The upstream's id
        id: String,
    },
    /// Declare an upstream, as a document of the admin API says; its credential may be in it
    Create(Document),
    /// Change what the document names, keep the rest
    Update {
        /// The upstream's id
        id: String,
        #[command(flatten)]
        document: Document,
    },
    /// Delete an upstream; one that the settings declare stays
    Delete {
        /// The upstream's id
        id: String,
    },
    /// Ask an upstream whether it is there and takes the credential
    Test {
        /// The upstream's id
        id: String,
        /// With the credential of this tenant
        #[arg(long)]
        org: Option<String>,
    },
    /// Ask every upstream
    Health,
    /// Read of an upstream, through the cache
    Read {
        /// The upstream's id
        id: String,
        /// The read's name
        read: String,
        /// A parameter of it
        #[arg(value_name = "NAME=VALUE", value_parser = pair)]
        parameters: Vec<(String, String)>,
        /// For this tenant
        #[arg(long)]
        org: Option<String>,
    },
    /// Forget the answers of reads that are kept
    ClearCache {
        /// The upstream's id
        id: String,
    },
    /// Set the counters of the bridge's series to zero
    ResetCounters {
        /// The upstream's id
        id: String,
    },
    /// Replace a credential; without a file those that lie elsewhere are read again
    RotateCredential {
        /// The upstream's id
        id: String,
        /// That of this tenant
        #[arg(long)]
        org: Option<String>,
        /// A file with the credential as JSON; `-` reads it from stdin. Never an argument: those are seen by others
        #[arg(long, value_name = "FILE")]
        auth_file: Option<PathBuf>,
    },
}

/// Where a document is.
#[derive(Debug, clap::Args)]
pub struct Document {
    /// A file with the document as JSON; `-` reads it from stdin
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
}

const COLUMNS: &[Column] = &[
    ("ID", "/id"),
    ("ORG", "/org"),
    ("STATUS", "/status"),
    ("CIRCUIT", "/circuit"),
    ("AUTH", "/auth/kind"),
    ("ORIGIN", "/origin"),
    ("URL", "/base_url"),
];
const HEALTH: &[Column] = &[
    ("ID", "/id"),
    ("STATUS", "/status"),
    ("OUTCOME", "/outcome"),
    ("MS", "/latency_ms"),
    ("CHECKED", "/checked_at"),
    ("ERROR", "/error"),
];

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => Err("NAME=VALUE".to_owned()),
    }
}

/// The JSON of a file. What it holds may be secret: a mistake is told by its place alone.
pub(super) fn json_of(path: &Path) -> Result<Value, Failure> {
    let text =
        if path == Path::new("-") { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(path) };
    let text = text.map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
    serde_json::from_str(&text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        Failure::Usage(format!("{}: no JSON at line {line} column {column}", path.display()))
    })
}

/// Performs the command.
///
/// # Errors
/// When no hub answers, or it refuses; for a file that holds no JSON.
pub async fn run(target: &Target, output: Output, command: Command) -> Result<(), Failure> {
    let path = |id: &str| format!("/v1/admin/upstreams/{}", segment(id));
    let none = Query::none();
    let (method, path, body) = match command {
        Command::Read { id, read, parameters, org } => {
            let path = format!("/v1/upstreams/{}/reads/{}", segment(&id), segment(&read));
            let query = parameters
                .into_iter()
                .fold(Query::none().with("org", org), |query, (name, value)| query.with_named(name, value));
            let answer = Client::new(target, Door::Any)?.call(Method::GET, &path, &query, Body::None).await?;
            return output.thing(&answer);
        }
        Command::List { cursor, limit } => {
            let query = Query::none().with("cursor", cursor).with("limit", Some(limit));
            let client = Client::new(target, Door::Admin)?;
            let answer = client.call(Method::GET, "/v1/admin/upstreams", &query, Body::None).await?;
            return output.list(&answer, "items", COLUMNS);
        }
        Command::Health => {
            let client = Client::new(target, Door::Admin)?;
            let answer = client.call(Method::GET, "/v1/admin/upstreams/health", &none, Body::None).await?;
            output.list(&answer, "items", HEALTH)?;
            let whole: Value = serde_json::from_slice(&answer).unwrap_or_default();
            return output.say(whole["status"].as_str().unwrap_or_default());
        }
        Command::Delete { id } => {
            let client = Client::new(target, Door::Admin)?;
            output.thing(&client.call(Method::DELETE, &path(&id), &none, Body::None).await?)?;
            return output.say("deleted");
        }
        Command::Show { id } => (Method::GET, path(&id), Body::None),
        Command::Create(document) => {
            (Method::POST, "/v1/admin/upstreams".to_owned(), Body::from(&json_of(&document.file)?))
        }
        Command::Update { id, document } => (Method::PATCH, path(&id), Body::from(&json_of(&document.file)?)),
        Command::Test { id, org } => {
            (Method::POST, format!("{}/test", path(&id)), named(&[("org", org.map(Value::from))]))
        }
        Command::ClearCache { id } => (Method::POST, format!("{}/clear-cache", path(&id)), Body::None),
        Command::ResetCounters { id } => (Method::POST, format!("{}/reset-counters", path(&id)), Body::None),
        Command::RotateCredential { id, org, auth_file } => {
            let auth = auth_file.as_deref().map(json_of).transpose()?;
            let body = named(&[("org", org.map(Value::from)), ("auth", auth)]);
            (Method::POST, format!("{}/rotate-credential", path(&id)), body)
        }
    };
    output.thing(&Client::new(target, Door::Admin)?.call(method, &path, &none, body).await?)
}

/// A document of what was named and nothing else.
fn named(members: &[(&str, Option<Value>)]) -> Body {
    let given = members.iter().filter_map(|(name, value)| Some(((*name).to_owned(), value.clone()?)));
    Body::from(&Value::Object(given.collect::<Map<_, _>>()))
}
