//! `tidegate replay`: events given out again, and the jobs that do it.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value};

use super::client::{Body, Client, Door, Method, Query, Target, segment};
use super::exit::Failure;
use super::output::{Column, Output, printable};

/// How often a job that is followed is asked for.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Commands about replays and their jobs.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Give events of the log to a consumer again
    Create(Box<Create>),
    /// List jobs, newest first
    List(List),
    /// Show a job and how far it has come
    Show {
        /// The job's id
        id: String,
        #[command(flatten)]
        follow: Follow,
    },
    /// End a job; what it has handed on stays so
    Cancel {
        /// The job's id
        id: String,
    },
}

/// Whether to wait for the end of a job.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Follow {
    /// Show its progress until it has ended
    #[arg(long)]
    pub follow: bool,
}

/// What is replayed, and into what.
#[derive(Debug, clap::Args)]
pub struct Create {
    /// Into this webhook
    #[arg(long, value_name = "ID", required_unless_present = "consumer", conflicts_with = "consumer")]
    webhook: Option<String>,
    /// Into this consumer, by its name
    #[arg(long, value_name = "NAME")]
    consumer: Option<String>,
    /// From this position, or from what was received at this time (RFC 3339)
    #[arg(long, value_name = "SEQ|TIME")]
    from: Option<String>,
    /// To this position, or to what was received before this time (RFC 3339)
    #[arg(long, value_name = "SEQ|TIME")]
    to: Option<String>,
    /// Events of these types, separated by commas: invoice.paid, invoice.*
    #[arg(long, value_delimiter = ',', value_name = "TYPES")]
    event_types: Vec<String>,
    /// Events of this source
    #[arg(long)]
    source: Option<String>,
    /// Events of this channel
    #[arg(long)]
    channel: Option<String>,
    /// Events of this facility
    #[arg(long)]
    facility: Option<String>,
    /// Events of aggregates of this type
    #[arg(long)]
    aggregate_type: Option<String>,
    /// Events of this aggregate
    #[arg(long)]
    aggregate_id: Option<String>,
    /// These events, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "IDS")]
    event_ids: Vec<String>,
    /// Which of them: those its filter matches now, all of its org, or those it was given before
    #[arg(long = "match", value_parser = ["current", "all", "delivered"])]
    matching: Option<String>,
    /// Events a second at most
    #[arg(long, value_name = "EVENTS")]
    rate: Option<u32>,
    /// Only tell what would be replayed
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    follow: Follow,
}

/// A part of the list of jobs.
#[derive(Debug, clap::Args)]
pub struct List {
    /// Jobs of this org
    #[arg(long)]
    org: Option<String>,
    /// Jobs in this state
    #[arg(long, value_parser = ["queued", "running", "done", "failed", "cancelled"])]
    state: Option<String>,
    /// Jobs of this kind
    #[arg(long)]
    kind: Option<String>,
    /// Go on from an earlier answer
    #[arg(long)]
    cursor: Option<String>,
    /// Jobs of one answer
    #[arg(long, default_value_t = 50)]
    limit: u32,
}

const COLUMNS: &[Column] = &[
    ("ID", "/id"),
    ("KIND", "/kind"),
    ("STATE", "/state"),
    ("CONSUMER", "/consumer"),
    ("HANDED ON", "/progress/handed_on"),
    ("LOOKED AT", "/progress/looked_at"),
    ("TOTAL", "/progress/total"),
    ("CREATED", "/created_at"),
];

/// A number stays one; anything else is a time.
fn bound(text: String) -> Value {
    text.parse::<u64>().map_or(Value::String(text), Value::from)
}

impl Create {
    fn path(&self) -> String {
        match (&self.webhook, &self.consumer) {
            (Some(id), _) => format!("/v1/webhooks/{}/replay", segment(id)),
            (None, name) => format!("/v1/consumers/{}/replay", segment(name.as_deref().unwrap_or_default())),
        }
    }

    /// The document to send: what was named and nothing else.
    fn document(self) -> Value {
        let mut document = Map::new();
        document.extend(self.from.map(|from| ("from".to_owned(), bound(from))));
        document.extend(self.to.map(|to| ("to".to_owned(), bound(to))));
        let texts = [
            ("source", self.source),
            ("channel", self.channel),
            ("facility", self.facility),
            ("aggregate_type", self.aggregate_type),
            ("aggregate_id", self.aggregate_id),
            ("match", self.matching),
        ];
        document.extend(texts.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?.into()))));
        for (name, list) in [("event_types", self.event_types), ("event_ids", self.event_ids)] {
            if !list.is_empty() {
                document.insert(name.to_owned(), list.into());
            }
        }
        document.extend(self.rate.map(|rate| ("rate".to_owned(), rate.into())));
        if self.dry_run {
            document.insert("dry_run".to_owned(), true.into());
        }
        Value::Object(document)
    }
}

/// Performs the command.
///
/// # Errors
/// When no hub answers, it refuses, or a job that is followed does not come to its end.
pub async fn run(target: &Target, output: Output, command: Command) -> Result<(), Failure> {
    let client = Client::new(target, Door::Any)?;
    let none = Query::none();
    match command {
        Command::Create(create) => {
            let (path, follow) = (create.path(), create.follow);
            let answer = client.call(Method::POST, &path, &none, Body::from(&create.document())).await?;
            show_or_follow(&client, output, &answer, follow).await
        }
        Command::List(List { org, state, kind, cursor, limit }) => {
            let query = none
                .with("org", org)
                .with("state", state)
                .with("kind", kind)
                .with("cursor", cursor)
                .with("limit", Some(limit));
            output.list(&client.call(Method::GET, "/v1/jobs", &query, Body::None).await?, "items", COLUMNS)
        }
        Command::Show { id, follow } => {
            let path = format!("/v1/jobs/{}", segment(&id));
            let answer = client.call(Method::GET, &path, &none, Body::None).await?;
            show_or_follow(&client, output, &answer, follow).await
        }
        Command::Cancel { id } => {
            let path = format!("/v1/jobs/{}/cancel", segment(&id));
            output.thing(&client.call(Method::POST, &path, &none, Body::None).await?)
        }
    }
}

/// Shows a job, or follows it to its end and shows it then.
///
/// # Errors
/// When no hub answers, it refuses, or the job does not come to its end.
pub(super) async fn show_or_follow(
    client: &Client,
    output: Output,
    answer: &[u8],
    Follow { follow }: Follow,
) -> Result<(), Failure> {
    let job: Value =
        serde_json::from_slice(answer).map_err(|error| anyhow::anyhow!("the answer is not JSON: {error}"))?;
    match job["id"].as_str().filter(|_| follow) {
        Some(id) => follow_to_end(client, output, id).await,
        None => output.thing(answer),
    }
}

async fn follow_to_end(client: &Client, output: Output, id: &str) -> Result<(), Failure> {
    let path = format!("/v1/jobs/{}", segment(id));
    let bar = bar(output);
    loop {
        let answer = client.call(Method::GET, &path, &Query::none(), Body::None).await?;
        let job: Value =
            serde_json::from_slice(&answer).map_err(|error| anyhow::anyhow!("the answer is not JSON: {error}"))?;
        let count = |name: &str| job["progress"][name].as_u64();
        if let Some(total) = count("total") {
            bar.set_length(total);
        }
        bar.set_position(count("looked_at").unwrap_or(0));
        bar.set_message(words(&job));
        match job["state"].as_str() {
            Some("queued" | "running") => tokio::time::sleep(LOOK_EVERY).await,
            state => {
                bar.finish_and_clear();
                output.thing(&answer)?;
                let reason = job["error"].as_str().map(|text| format!(": {}", printable(text))).unwrap_or_default();
                return match state {
                    Some("done") => Ok(()),
                    other => Err(anyhow::anyhow!("the job is {}{reason}", other.unwrap_or("unknown")).into()),
                };
            }
        }
    }
}

/// What a job is doing, in a few words.
fn words(job: &Value) -> String {
    let handed_on = job["progress"]["handed_on"].as_u64().unwrap_or(0);
    match job["waits_for"].as_str() {
        Some(reason) => format!("{handed_on} handed on; waiting: {}", printable(reason)),
        None => format!("{handed_on} handed on"),
    }
}

fn bar(output: Output) -> ProgressBar {
    let bar = ProgressBar::no_length();
    if output == Output::Json {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    // The template is fixed and correct; without it the bar has its plain look.
    if let Ok(style) = ProgressStyle::with_template("{elapsed_precise} [{bar:30}] {pos}/{len} {msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::client::script;
    use super::*;

    fn create() -> Create {
        Create {
            webhook: Some("whk/1".to_owned()),
            consumer: None,
            from: Some("17".to_owned()),
            to: Some("2026-11-21T08:00:00Z".to_owned()),
            event_types: vec!["invoice.*".to_owned()],
            source: None,
            channel: None,
            facility: None,
            aggregate_type: Some("order".to_owned()),
            aggregate_id: None,
            event_ids: Vec::new(),
            matching: Some("all".to_owned()),
            rate: Some(50),
            dry_run: true,
            follow: Follow { follow: false },
        }
    }

    #[test]
    fn a_document_holds_what_was_named_and_positions_are_numbers() {
        assert_eq!(create().path(), "/v1/webhooks/whk%2F1/replay");
        assert_eq!(
            create().document(),
            json!({"from": 17, "to": "2026-11-21T08:00:00Z", "event_types": ["invoice.*"], "aggregate_type": "order",
                "match": "all", "rate": 50, "dry_run": true})
        );
        let named = Create { webhook: None, consumer: Some("handler:ops".to_owned()), ..create() };
        assert_eq!(named.path(), "/v1/consumers/handler%3Aops/replay");
    }

    #[tokio::test]
    async fn a_job_is_followed_until_it_has_ended_and_one_that_failed_is_a_failure() {
        let (client, hub) = script::hub(&[
            (200, "", r#"{"id":"job_1","state":"running","progress":{"looked_at":1,"handed_on":1,"total":9}}"#),
            (200, "", r#"{"id":"job_1","state":"done","progress":{"looked_at":9,"handed_on":4,"total":9}}"#),
            (200, "", r#"{"id":"job_2","state":"failed","error":"the consumer is gone","progress":{}}"#),
        ]);
        let follow = Follow { follow: true };
        show_or_follow(&client, Output::Json, br#"{"id":"job_1"}"#, follow).await.expect("done");
        let failure = show_or_follow(&client, Output::Json, br#"{"id":"job_2"}"#, follow).await.expect_err("failed");
        assert_eq!(failure.to_string(), "the job is failed: the consumer is gone");
        let requests = hub.join().expect("served");
        assert!(requests.iter().all(|request| request.starts_with("GET /v1/jobs/job_")), "{requests:?}");
    }
}
