//! `tidegate events`: look-ups in the log.

use serde_json::Value;

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
    /// Say for every consumer why it got an event or not, and where the delivery stands
    Explain {
        /// The event's id
        id: String,
        /// Its org, where ids of several orgs are the same
        #[arg(long)]
        org: Option<String>,
        /// This consumer alone
        #[arg(long)]
        consumer: Option<String>,
        /// Go on from an earlier answer
        #[arg(long)]
        cursor: Option<String>,
        /// Consumers of one answer
        #[arg(long, default_value_t = 50)]
        limit: u32,
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

const EXPLAINED: &[Column] = &[
    ("CONSUMER", "/consumer"),
    ("MATCHED", "/matched"),
    ("STATUS", "/status"),
    ("ATTEMPTS", "/attempts"),
    ("WHY", "/why"),
];

/// An explanation with one sentence for each consumer.
fn in_words(answer: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut answer: Value = serde_json::from_slice(answer).map_err(anyhow::Error::from)?;
    for one in answer["consumers"].as_array_mut().into_iter().flatten() {
        let why = why(one);
        one["why"] = Value::from(why);
    }
    Ok(answer.to_string().into_bytes())
}

fn why(one: &Value) -> String {
    let delivery = &one["delivery"];
    let text = |value: &Value| match value {
        Value::Null => "?".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let word = |name: &str| text(&delivery[name]);
    let mut why = match delivery["state"].as_str().unwrap_or_default() {
        "not_matched" => format!("{}: {}", text(&one["decided_by"]), text(&one["detail"])),
        "before_start" => format!("the consumer began after it, at {}", word("from")),
        "gap" => "retention dropped it before it was read".to_owned(),
        "not_reached" => format!("not reached: the consumer is at {}, {} behind", word("reached"), word("behind")),
        "paused" => "the consumer is paused".to_owned(),
        "breaker_open" => format!("the breaker is {} until {}", word("phase"), word("until")),
        "rate_limited" => format!("the endpoint takes no more until {}", word("until")),
        "waiting_behind_key" => format!("waits behind {} (at {}) of its key", word("id"), word("seq")),
        "queued" => "is next".to_owned(),
        "next_try_at" => format!("tried again at {}", word("at")),
        "in_flight" => format!("out, attempt {}, lease until {}", word("attempt"), word("lease_until")),
        "delivered" => format!("delivered at {}, attempt {}", word("at"), word("attempt")),
        "dead" => format!("given up at {}, dead letter {}", word("at"), word("dead_letter_id")),
        "settled" => "settled; no attempt is kept".to_owned(),
        other => other.to_owned(),
    };
    if let Some(error) = one["last_error"].as_str() {
        why.push_str(&format!("; last error: {error}"));
    }
    why
}

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
        Command::Explain { id, org, consumer, cursor, limit } => {
            let path = format!("/v1/events/{}/explain", segment(&id));
            let query = Query::none()
                .with("org", org)
                .with("consumer", consumer)
                .with("cursor", cursor)
                .with("limit", Some(limit));
            let answer = client.call(Method::GET, &path, &query, Body::None).await?;
            match output {
                Output::Json => output.list(&answer, "consumers", EXPLAINED),
                Output::Human => output.list(&in_words(&answer)?, "consumers", EXPLAINED),
            }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_state_of_a_delivery_is_a_sentence() {
        let at = "2026-11-21T08:00:00.000Z";
        let told: Vec<String> = [
            json!({"decided_by": "channel", "detail": "wanted shop, the event has web", "delivery": {"state": "not_matched"}}),
            json!({"delivery": {"state": "before_start", "from": 7}}),
            json!({"delivery": {"state": "gap"}}),
            json!({"delivery": {"state": "not_reached", "reached": 3, "behind": 4}}),
            json!({"delivery": {"state": "paused"}, "last_error": "status 500"}),
            json!({"delivery": {"state": "breaker_open", "phase": "open", "until": at}}),
            json!({"delivery": {"state": "rate_limited", "until": at}}),
            json!({"delivery": {"state": "waiting_behind_key", "seq": 5, "id": "e-5"}}),
            json!({"delivery": {"state": "queued"}}),
            json!({"delivery": {"state": "next_try_at", "at": at}, "last_error": "status 503"}),
            json!({"delivery": {"state": "in_flight", "attempt": 2, "lease_until": null}}),
            json!({"delivery": {"state": "delivered", "at": at, "attempt": 1}}),
            json!({"delivery": {"state": "dead", "at": at, "dead_letter_id": "dlq_1"}}),
            json!({"delivery": {"state": "settled"}}),
        ]
        .iter()
        .map(why)
        .collect();
        insta::assert_snapshot!(told.join("\n"));
    }
}
