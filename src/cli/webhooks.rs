//! `tidegate webhooks`: endpoints that events are delivered to.

use serde_json::{Map, Value, json};

use super::client::{Body, Client, Door, Method, Query, Target, segment};
use super::exit::Failure;
use super::output::{Column, Output};
use super::replay::{Follow, show_or_follow};
use crate::webhook::record::OVERLAP_MS_MAX;

/// Commands about webhooks.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a webhook; its signing secret is shown this once
    Create {
        /// Where events are posted to
        #[arg(long = "endpoint", value_name = "URL")]
        endpoint: String,
        #[command(flatten)]
        fields: Fields,
    },
    /// List webhooks
    List(Page),
    /// Show one webhook
    Get {
        /// The webhook's id
        id: String,
    },
    /// Change what is named, keep the rest
    Update {
        /// The webhook's id
        id: String,
        /// Where events are posted to
        #[arg(long = "endpoint", value_name = "URL")]
        endpoint: Option<String>,
        #[command(flatten)]
        fields: Fields,
    },
    /// Hold deliveries back; events wait in the log
    Pause {
        /// The webhook's id
        id: String,
    },
    /// Deliver again, from where it stopped
    Resume {
        /// The webhook's id
        id: String,
    },
    /// End a webhook and forget what it has not delivered
    Delete {
        /// The webhook's id
        id: String,
    },
    /// Give it a new signing secret, shown this once; the old one signs too for a while
    RotateSecret {
        /// The webhook's id
        id: String,
        /// How long both sign, in milliseconds; 0 ends the old one at once [default: 24 hours]
        #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(0..=OVERLAP_MS_MAX))]
        overlap_ms: Option<u64>,
    },
    /// Send a test event to the endpoint and show its answer
    Test {
        /// The webhook's id
        id: String,
    },
    /// Show deliveries that are not settled: failed, waiting behind a failed one, or out; those due first
    Deliveries {
        /// The webhook's id
        id: String,
        #[command(flatten)]
        filter: DeliveryFilter,
        #[command(flatten)]
        page: Page,
    },
    /// Redrive the dead letters of a webhook since a time, and try at once what has failed since: a job
    Recover {
        /// The webhook's id
        id: String,
        /// What failed at or after this time (RFC 3339)
        #[arg(long, value_name = "TIME")]
        since: String,
        /// Events a second at most
        #[arg(long, value_name = "EVENTS")]
        rate: Option<u32>,
        #[command(flatten)]
        follow: Follow,
    },
    /// Try one delivery again now
    Retry {
        /// The webhook's id
        id: String,
        /// The event's id
        event: String,
    },
    /// Show the latest attempts
    Attempts {
        /// The webhook's id
        id: String,
        #[command(flatten)]
        page: Page,
    },
}

/// Which deliveries.
#[derive(Debug, clap::Args)]
pub struct DeliveryFilter {
    /// Where they stand
    #[arg(long, value_parser = ["pending", "processing", "failed"])]
    status: Option<String>,
    /// Due before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    due_before: Option<String>,
    /// Due after this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    due_after: Option<String>,
}

/// A part of a list.
#[derive(Debug, clap::Args)]
pub struct Page {
    /// Go on from an earlier answer
    #[arg(long)]
    cursor: Option<String>,
    /// Items of one answer
    #[arg(long, default_value_t = 50)]
    limit: u32,
}

impl Page {
    fn query(self) -> Query {
        Query::none().with("cursor", self.cursor).with("limit", Some(self.limit))
    }
}

/// What can be said of a webhook.
#[derive(Debug, Default, clap::Args)]
pub struct Fields {
    /// Tenant whose events it takes
    #[arg(long)]
    org: Option<String>,
    /// Types it takes, separated by commas: invoice.paid, invoice.*, *
    #[arg(long, value_delimiter = ',', value_name = "TYPES")]
    event_types: Vec<String>,
    /// Only events of this channel
    #[arg(long)]
    channel: Option<String>,
    /// Only events of this facility
    #[arg(long)]
    facility: Option<String>,
    /// Only events of this service
    #[arg(long)]
    service: Option<String>,
    /// Order of deliveries
    #[arg(long, value_parser = ["none", "key", "strict"])]
    ordering: Option<String>,
    /// How deliveries are signed
    #[arg(long, value_parser = ["standard", "ed25519", "hmac_sha256_hex"])]
    signing: Option<String>,
    /// Deliveries a second: a preset (sales, erp, esignature, sms, email), or RATE[/BURST]
    #[arg(long, value_name = "RATE", value_parser = rate)]
    rate_limit: Option<Value>,
    /// The breaker's preset
    #[arg(long, value_parser = ["sales", "erp", "esignature", "communication", "bridge"])]
    breaker: Option<String>,
    /// Form of the body
    #[arg(long, value_parser = ["standard", "cloudevents", "cloudevents_binary", "raw", "template"])]
    format: Option<String>,
    /// The template of the body, in the language of Jinja: a file
    #[arg(long, value_name = "FILE", value_parser = file)]
    template: Option<String>,
    /// What the template makes [default: application/json]
    #[arg(long, value_name = "TYPE", requires = "template")]
    content_type: Option<String>,
    /// Deliveries in flight at most
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=512))]
    concurrency: Option<u32>,
    /// A header to send, may be repeated
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = super::serve::pair)]
    headers: Vec<(String, String)>,
    /// Credentials towards the endpoint: a file with the JSON object {"kind": bearer|basic|oauth2|mtls, …}
    #[arg(long, value_name = "FILE", value_parser = object_file)]
    auth: Option<Map<String, Value>>,
    /// The proxy on the way to it
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// Further fields as a JSON object, such as {"rate_limit":…,"retry":…}
    #[arg(long, value_name = "JSON", value_parser = object)]
    with: Option<Map<String, Value>>,
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("not a JSON object: {error}"))
}

/// The text of a file.
fn file(path: &str) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))
}

fn object_file(path: &str) -> Result<Map<String, Value>, String> {
    object(&file(path)?)
}

/// A rate as the hub reads it; what is no number is left for it to know.
fn rate(text: &str) -> Result<Value, String> {
    let (rate, burst) = text.split_once('/').map_or((text, None), |(rate, burst)| (rate, Some(burst)));
    let Ok(rate) = rate.parse::<f64>() else { return Ok(text.into()) };
    let mut limit = json!({"per_second": rate});
    if let Some(burst) = burst {
        limit["burst"] = burst.parse::<u32>().map_err(|_| "the burst is a whole number")?.into();
    }
    Ok(limit)
}

impl Fields {
    /// The document to send: what was named and nothing else.
    fn document(self, endpoint: Option<String>) -> Value {
        let mut document = self.with.unwrap_or_default();
        let texts = [
            ("url", endpoint),
            ("org", self.org),
            ("channel", self.channel),
            ("facility", self.facility),
            ("service", self.service),
            ("ordering", self.ordering),
            ("format", self.format),
            ("signing", self.signing),
            ("breaker", self.breaker),
        ];
        document.extend(texts.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?.into()))));
        if !self.event_types.is_empty() {
            document.insert("event_types".to_owned(), self.event_types.into());
        }
        if let Some(template) = self.template {
            let mut made = json!({"body": template});
            if let Some(content_type) = self.content_type {
                made["content_type"] = content_type.into();
            }
            document.insert("template".to_owned(), made);
        }
        if let Some(auth) = self.auth {
            document.insert("auth".to_owned(), auth.into());
        }
        if let Some(url) = self.proxy {
            document.insert("proxy".to_owned(), json!({"url": url}));
        }
        if let Some(limit) = self.rate_limit {
            document.insert("rate_limit".to_owned(), limit);
        }
        if let Some(concurrency) = self.concurrency {
            document.insert("concurrency".to_owned(), concurrency.into());
        }
        if !self.headers.is_empty() {
            let headers: Map<String, Value> =
                self.headers.into_iter().map(|(name, value)| (name, value.into())).collect();
            document.insert("headers".to_owned(), headers.into());
        }
        Value::Object(document)
    }
}

const COLUMNS: &[Column] = &[
    ("ID", "/id"),
    ("STATUS", "/status"),
    ("ORG", "/org"),
    ("TYPES", "/event_types"),
    ("URL", "/url"),
    ("CREATED", "/created_at"),
];

const DELIVERY_COLUMNS: &[Column] = &[
    ("DUE", "/due_at"),
    ("STATUS", "/status"),
    ("SEQ", "/seq"),
    ("EVENT", "/event_id"),
    ("TYPE", "/type"),
    ("ATTEMPTS", "/attempts"),
    ("LAST", "/last_attempt"),
    ("ERROR", "/last_error"),
];

const ATTEMPT_COLUMNS: &[Column] = &[
    ("AT", "/at"),
    ("EVENT", "/event_id"),
    ("ATTEMPT", "/attempt"),
    ("OUTCOME", "/outcome"),
    ("STATUS", "/status"),
    ("MS", "/latency_ms"),
    ("ERROR", "/error"),
];

/// Performs the command.
///
/// # Errors
/// When no hub answers, or it refuses.
pub async fn run(target: &Target, output: Output, command: Command) -> Result<(), Failure> {
    let client = Client::new(target, Door::Any)?;
    let none = Query::none();
    let path = |id: &str, rest: &str| format!("/v1/webhooks/{}{rest}", segment(id));
    let (method, path, body) = match command {
        Command::List(page) => {
            let answer = client.call(Method::GET, "/v1/webhooks", &page.query(), Body::None).await?;
            return output.list(&answer, "items", COLUMNS);
        }
        Command::Attempts { id, page } => {
            let answer = client.call(Method::GET, &path(&id, "/attempts"), &page.query(), Body::None).await?;
            return output.list(&answer, "items", ATTEMPT_COLUMNS);
        }
        Command::Deliveries { id, filter, page } => {
            let query = page
                .query()
                .with("status", filter.status)
                .with("due_before", filter.due_before)
                .with("due_after", filter.due_after);
            let answer = client.call(Method::GET, &path(&id, "/deliveries"), &query, Body::None).await?;
            return output.list(&answer, "items", DELIVERY_COLUMNS);
        }
        Command::Delete { id } => {
            output.thing(&client.call(Method::DELETE, &path(&id, ""), &none, Body::None).await?)?;
            return output.say("deleted");
        }
        Command::Create { endpoint, fields } => {
            (Method::POST, "/v1/webhooks".to_owned(), Body::from(&fields.document(Some(endpoint))))
        }
        Command::Update { id, endpoint, fields } => {
            (Method::PATCH, path(&id, ""), Body::from(&fields.document(endpoint)))
        }
        Command::Recover { id, since, rate, follow } => {
            let mut wanted = serde_json::json!({ "since": since });
            if let Some(rate) = rate {
                wanted["rate"] = rate.into();
            }
            let answer = client.call(Method::POST, &path(&id, "/recover"), &none, Body::from(&wanted)).await?;
            return show_or_follow(&client, output, &answer, follow).await;
        }
        Command::Retry { id, event } => {
            (Method::POST, path(&id, &format!("/deliveries/{}/retry", segment(&event))), Body::None)
        }
        Command::Get { id } => (Method::GET, path(&id, ""), Body::None),
        Command::Pause { id } => (Method::POST, path(&id, "/pause"), Body::None),
        Command::Resume { id } => (Method::POST, path(&id, "/resume"), Body::None),
        Command::RotateSecret { id, overlap_ms } => {
            let body = overlap_ms.map_or_else(|| json!({}), |overlap_ms| json!({"overlap_ms": overlap_ms}));
            (Method::POST, path(&id, "/rotate-secret"), Body::from(&body))
        }
        Command::Test { id } => (Method::POST, path(&id, "/test"), Body::None),
    };
    output.thing(&client.call(method, &path, &none, body).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_name_or_numbers() {
        assert_eq!(rate("sms"), Ok(json!("sms")));
        assert_eq!(rate("2.5"), Ok(json!({"per_second": 2.5})));
        assert_eq!(rate("10/50"), Ok(json!({"per_second": 10.0, "burst": 50})));
        assert!(rate("10/x").is_err());
    }

    #[test]
    fn a_document_holds_what_was_named_and_flags_win_over_further_fields() {
        let fields = Fields {
            event_types: vec!["invoice.*".to_owned()],
            headers: vec![("x-a".to_owned(), "1".to_owned())],
            org: Some("acme".to_owned()),
            with: json!({"org": "other", "rate_limit": {"capacity": 5}}).as_object().cloned(),
            ..Fields::default()
        };
        assert_eq!(
            fields.document(Some("https://h/x".to_owned())),
            json!({"url": "https://h/x", "org": "acme", "event_types": ["invoice.*"], "headers": {"x-a": "1"}, "rate_limit": {"capacity": 5}})
        );
        assert_eq!(Fields::default().document(None), json!({}));
    }
}
