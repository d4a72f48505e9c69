//! `tidegate demo`: the life of an event, shown on this machine with nothing else installed.
//!
//! A real hub and a local receiver are started. Webhooks, key and events go through the hub's HTTP surface as anyone's
//! would; a handler takes the same events inside the process; one endpoint answers 500 until its delivery is a dead letter.
//! Only what was seen to arrive is told, and what does not arrive in time is an error. Then the hub goes on running, and
//! deliveries are told as they come, until a signal or, with `--exit`, at once.

mod happening;

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::client::{Body, Client, Door, Method, Query, Target};
use super::exit::Failure;
use super::output::Output;
use super::serve::SettingFlags;
use crate::bench::receiver::{Received, Receiver, ReceiverOptions};
use crate::config::{Config, Loaded};
use crate::event::envelope::Event;
use crate::ground::clock::{SharedClock, SystemClock};
use crate::ground::random::{Random as _, SystemRandom};
use crate::ground::secret::Secret;
use crate::handler::{HandlerContext, handler_fn};
use crate::hub::Hub;
use crate::logging::LogHandle;
use crate::serve::{Running, Signals};
use crate::webhook::sign::SigningKey;
use happening::Happening;

/// Everything is shown by then, or the demo has failed.
const SHOW_TIMEOUT: Duration = Duration::from_secs(60);
/// How often the dead letters are looked at until there is one.
const POLL: Duration = Duration::from_millis(50);
/// Arrivals that wait to be told; further ones are not told.
const ARRIVALS_MAX: usize = 1_024;
/// Ids kept to count attempts by; past it counting begins anew.
const COUNTED_MAX: usize = 10_000;
/// Errors only, without the one that the demo itself tells: a delivery was given up.
const LOG_LEVEL: &str = "error,tidegate::inbox::actor=off";
/// The tenant of the demo.
const ORG: &str = "demo";
/// What webhook and handler ask for.
const PATTERN: &str = "order.*";
/// What is published.
const EVENT_TYPES: [&str; 3] = ["order.placed", "order.paid", "order.shipped"];
/// What the failing endpoint asks for.
const FAILING_TYPE: &str = "order.paid";
/// The consumer of the in-process handler.
const HANDLER: &str = "demo-ledger";
/// Waits of the failing webhook, in milliseconds; attempts = waits + 1.
const DELAYS_MS: [u64; 2] = [200, 200];

/// Flags of `demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Stop the hub after the show; the exit code is 0 only if everything was really seen
    #[arg(long)]
    exit: bool,
    #[command(flatten)]
    settings: SettingFlags,
}

/// Shows an event's life.
///
/// # Errors
/// When settings, log or hub do not start, or something to be shown did not happen in time.
pub fn run(target: &Target, output: Output, args: &Args) -> Result<(), Failure> {
    let place = Place::new(target.data_dir.clone())?;
    let loaded = settings(target, args, &place.dir)?;
    let log = crate::logging::init(&loaded.config.logging).map_err(anyhow::Error::from)?;
    actix::System::new().block_on(perform(output, args.exit, &place, &loaded, &log))
}

/// The settings of the demo's hub: free ports of loopback, deliveries to loopback allowed, a quiet log; flags override.
fn settings(target: &Target, args: &Args, dir: &Path) -> Result<Loaded, Failure> {
    let mut wanted = args.settings.load_args(target);
    let own = [
        ("server.data_dir", dir.display().to_string()),
        ("server.public", "127.0.0.1:0".to_owned()),
        ("server.admin", "127.0.0.1:0".to_owned()),
        ("delivery.allow_private_networks", "true".to_owned()),
        ("logging.level", LOG_LEVEL.to_owned()),
    ];
    // The last one of a key wins.
    wanted.overrides.splice(0..0, own.map(|(key, value)| (key.to_owned(), value)));
    Ok(Config::load(wanted)?)
}

/// The data directory; one that the demo made goes with it.
struct Place {
    dir: PathBuf,
    own: bool,
}

impl Place {
    fn new(given: Option<PathBuf>) -> Result<Self, Failure> {
        if let Some(dir) = given {
            return Ok(Self { dir, own: false });
        }
        let dir = std::env::temp_dir().join(format!("tidegate-demo-{}", nonce()));
        std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
        Ok(Self { dir, own: true })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.own
            && let Err(error) = std::fs::remove_dir_all(&self.dir)
        {
            tracing::warn!(dir = %self.dir.display(), %error, "the directory of the demo was not removed");
        }
    }
}

/// Eight characters that no other run has.
fn nonce() -> String {
    let mut bytes = [0_u8; 4];
    SystemRandom.fill(&mut bytes);
    hex::encode(bytes)
}

async fn perform(output: Output, exit: bool, place: &Place, loaded: &Loaded, log: &LogHandle) -> Result<(), Failure> {
    let mut signals = Signals::catch()?;
    // Its token is in the data directory, and standard output is for what happens.
    let running = Running::start(&loaded.config, |_| {}).await?;
    let shown = tokio::select! {
        shown = tokio::time::timeout(SHOW_TIMEOUT, Demo::show(output, &running, place)) => match shown {
            Ok(shown) => shown,
            Err(_) => Err(anyhow::anyhow!("not everything happened within {} s", SHOW_TIMEOUT.as_secs()).into()),
        },
        () = signals.end() => Err(anyhow::anyhow!("stopped before everything was shown").into()),
    };
    let outcome = match shown {
        Ok(mut demo) => {
            let told = match exit {
                true => output.say("The hub stops now, as --exit asks."),
                false => demo.go_on(&mut signals, loaded, log, &running.hub).await,
            };
            told.and(demo.leave().await)
        }
        Err(failure) => Err(failure),
    };
    running.stop(&mut signals).await;
    outcome
}

/// What came to the receiver or the handler.
enum Arrival {
    Request(Received),
    Handled(Happening),
}

/// Passes on what came. What finds no room is not told; the show misses it then and fails, for nothing is supposed.
fn hand_on(sender: &mpsc::Sender<Arrival>, arrival: Arrival) {
    if sender.try_send(arrival).is_err() {
        tracing::debug!("an arrival at the demo was not told");
    }
}

/// A webhook of the demo, as its receiver knows it.
struct Endpoint {
    id: String,
    target: String,
    key: SigningKey,
}

/// The show while it runs.
struct Demo {
    output: Output,
    clock: SharedClock,
    arrivals: mpsc::Receiver<Arrival>,
    admin: Client,
    well: Endpoint,
    failing: Endpoint,
    /// Attempts at the failing endpoint by event id.
    attempts: HashMap<String, u32>,
    /// Listens as long as this lives.
    _receiver: Receiver,
}

impl Demo {
    /// Shows everything, in order.
    async fn show(output: Output, running: &Running, place: &Place) -> Result<Self, Failure> {
        let data_dir = running.hub.config().server.data_dir.as_path();
        let local = Target { data_dir: Some(data_dir.to_owned()), ..Target::default() };
        let token = Some(running.token.expose().to_owned());
        let admin = Client::new(&Target { admin_token: token, ..local.clone() }, Door::Admin)?;
        let key = text(&create_key(&admin).await?, "key")?;
        let public = Client::new(&Target { key: Some(key.clone()), ..local }, Door::Any)?;
        Happening::HubStarted {
            public: bare(&public),
            admin: bare(&admin),
            data_dir: data_dir.display().to_string(),
            kept: !place.own || place.dir != data_dir,
        }
        .tell(output)?;

        let mut demo = Self::set_up(output, &running.hub, admin).await?;
        let mut published = Vec::new();
        for event_type in EVENT_TYPES {
            published.push((event_type, demo.publish(&public, event_type).await?));
        }
        demo.see_arrivals(&published).await?;
        let letter = demo.see_dead_letter(&public, &published).await?;
        demo.ready(&public, &key, &letter)?;
        Ok(demo)
    }

    /// Starts the receiver, makes both webhooks and registers the handler.
    async fn set_up(output: Output, hub: &Hub, admin: Client) -> Result<Self, Failure> {
        let clock = SystemClock::shared();
        let (sender, arrivals) = mpsc::channel(ARRIVALS_MAX);
        let handled = sender.clone();
        let options = ReceiverOptions::new(&clock)
            .observer(Arc::new(move |received| hand_on(&sender, Arrival::Request(received.clone()))));
        let receiver = Receiver::start(options)?;
        Happening::ReceiverStarted { url: receiver.url("/") }.tell(output)?;

        // A webhook that an earlier, broken-off run left behind has another path.
        let run = nonce();
        let well = json!({ "event_types": [PATTERN] });
        let well = create_webhook(output, &admin, &receiver, format!("/ok/{run}"), well).await?;
        let retry = json!({ "kind": "fixed", "delays_ms": DELAYS_MS, "jitter": 0 });
        let failing = json!({ "event_types": [FAILING_TYPE], "retry": retry });
        let failing = create_webhook(output, &admin, &receiver, format!("/fail/{run}"), failing).await?;

        let handler = handler_fn(move |event: Arc<Event>, context: HandlerContext| {
            let happening = Happening::HandlerCalled {
                event_id: event.meta.id.to_string(),
                event_type: event.meta.event_type.to_string(),
                attempt: context.attempt(),
            };
            hand_on(&handled, Arrival::Handled(happening));
            async { Ok(()) }
        });
        hub.subscribe(PATTERN, HANDLER, 0, handler).await.map_err(|problem| anyhow::anyhow!("{problem}"))?;
        Happening::HandlerRegistered { consumer: HANDLER.to_owned(), event_types: PATTERN.to_owned() }.tell(output)?;
        Ok(Self { output, clock, arrivals, admin, well, failing, attempts: HashMap::new(), _receiver: receiver })
    }

    /// Publishes one event over the public listener, and gives its id.
    async fn publish(&self, public: &Client, event_type: &str) -> Result<String, Failure> {
        let event = json!({ "type": event_type, "data": { "order": 1042 } });
        let answer = ask(public, Method::POST, "/v1/events", &Query::none(), Body::from(&event)).await?;
        let id = text(&answer, "id")?;
        let seq = answer["seq"].as_u64().ok_or_else(|| anyhow::anyhow!("the answer has no seq"))?;
        Happening::EventPublished { id: id.clone(), event_type: event_type.to_owned(), seq }.tell(self.output)?;
        Ok(id)
    }

    /// Tells what arrives until every event was at webhook and handler, and every attempt at the failing endpoint.
    async fn see_arrivals(&mut self, published: &[(&str, String)]) -> Result<(), Failure> {
        let mut at_webhook: HashSet<&str> = published.iter().map(|(_, id)| id.as_str()).collect();
        let mut at_handler = at_webhook.clone();
        let mut failures: HashSet<(String, u32)> = published
            .iter()
            .filter(|(event_type, _)| *event_type == FAILING_TYPE)
            .flat_map(|(_, id)| (1..).take(DELAYS_MS.len() + 1).map(|attempt| (id.clone(), attempt)))
            .collect();
        while !(at_webhook.is_empty() && at_handler.is_empty() && failures.is_empty()) {
            let ended = || anyhow::anyhow!("receiver and handler have ended");
            let happening = self.next().await.ok_or_else(ended)?;
            happening.tell(self.output)?;
            match &happening {
                Happening::WebhookDelivered { event_id, signature_verified: true, .. } => {
                    at_webhook.remove(event_id.as_str());
                }
                Happening::HandlerCalled { event_id, .. } => {
                    at_handler.remove(event_id.as_str());
                }
                Happening::AttemptFailed { event_id, attempt, signature_verified: true, .. } => {
                    failures.remove(&(event_id.clone(), *attempt));
                }
                Happening::SignatureRefused { event_id, reason } => {
                    return Err(
                        anyhow::anyhow!("the delivery of {event_id} was not signed as it must be: {reason}").into()
                    );
                }
                other => return Err(anyhow::anyhow!("not an arrival: {other:?}").into()),
            }
        }
        Ok(())
    }

    /// The next thing that arrived, once it was looked at; nothing when nothing can arrive any more. Requests to other
    /// paths are nobody's.
    async fn next(&mut self) -> Option<Happening> {
        loop {
            match self.arrivals.recv().await? {
                Arrival::Handled(happening) => return Some(happening),
                Arrival::Request(received) => {
                    if let Some(happening) = self.look_at(&received) {
                        return Some(happening);
                    }
                }
            }
        }
    }

    fn look_at(&mut self, received: &Received) -> Option<Happening> {
        let endpoint = [&self.well, &self.failing].into_iter().find(|endpoint| endpoint.target == received.target)?;
        let header = |name: &str| received.header(name).unwrap_or_default();
        let event_id = header("webhook-id").to_owned();
        let (timestamp, signature) = (header("webhook-timestamp"), header("webhook-signature"));
        let verified = endpoint.key.verify(&event_id, timestamp, signature, &received.body, self.clock.now());
        if let Err(error) = verified {
            return Some(Happening::SignatureRefused { event_id, reason: error.to_string() });
        }
        let body: Value = serde_json::from_slice(&received.body).unwrap_or_default();
        let event_type = body["type"].as_str().unwrap_or("?").to_owned();
        if endpoint.target == self.well.target {
            return Some(Happening::WebhookDelivered { event_id, event_type, signature_verified: true });
        }
        if self.attempts.len() >= COUNTED_MAX {
            self.attempts.clear();
        }
        let attempt = self.attempts.entry(event_id.clone()).or_default();
        *attempt += 1;
        Some(Happening::AttemptFailed { event_id, event_type, attempt: *attempt, signature_verified: true })
    }

    /// Waits until the hub has the dead letter, and gives its id.
    async fn see_dead_letter(&self, public: &Client, published: &[(&str, String)]) -> Result<String, Failure> {
        let query = Query::none().with("consumer", Some(&self.failing.id));
        let letter = loop {
            let page = ask(public, Method::GET, "/v1/dead-letters", &query, Body::None).await?;
            match page["items"].get(0) {
                Some(letter) => break letter.clone(),
                None => self.clock.sleep(POLL).await,
            }
        };
        let event_id = text(&letter, "event_id")?;
        let attempts = letter["attempts"].as_u64().unwrap_or_default();
        let expected = published.iter().any(|(event_type, id)| *event_type == FAILING_TYPE && *id == event_id);
        if !expected || attempts != DELAYS_MS.len() as u64 + 1 {
            return Err(anyhow::anyhow!("an unexpected dead letter: {letter}").into());
        }
        let id = text(&letter, "id")?;
        let error = letter["error"]["message"].as_str().unwrap_or_default().to_owned();
        Happening::DeadLettered { id: id.clone(), consumer: self.failing.id.clone(), event_id, attempts, error }
            .tell(self.output)?;
        Ok(id)
    }

    fn ready(&self, public: &Client, key: &str, letter: &str) -> Result<(), Failure> {
        let (public, admin) = (bare(public), bare(&self.admin));
        let publish = format!(
            "curl -sS {public}/v1/events -H 'X-API-Key: {key}' -H 'Content-Type: application/json' \
             -d '{{\"type\":\"order.placed\",\"data\":{{\"order\":1043}}}}'"
        );
        let dead_letter = format!("curl -sS {public}/v1/dead-letters/{letter} -H 'X-API-Key: {key}'");
        let dead_letters = format!("tidegate dlq list --url {public} --key {key}");
        Happening::Ready { public, admin, key: key.to_owned(), publish, dead_letter, dead_letters }.tell(self.output)
    }

    /// Tells what arrives until a signal.
    async fn go_on(
        &mut self,
        signals: &mut Signals,
        loaded: &Loaded,
        log: &LogHandle,
        hub: &Hub,
    ) -> Result<(), Failure> {
        self.output.say("Deliveries are shown as they come. Ctrl-C stops the hub.")?;
        let end = signals.end_or_reload(loaded, log, hub);
        tokio::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => return Ok(()),
                Some(happening) = self.next() => happening.tell(self.output)?,
            }
        }
    }

    /// Takes the webhooks away: their receiver ends with the demo, the directory may stay.
    async fn leave(&self) -> Result<(), Failure> {
        for endpoint in [&self.well, &self.failing] {
            let path = format!("/v1/webhooks/{}", endpoint.id);
            self.admin.call(Method::DELETE, &path, &Query::none(), Body::None).await?;
        }
        Ok(())
    }
}

async fn create_key(admin: &Client) -> Result<Value, Failure> {
    let wanted = json!({ "application": "demo", "org": ORG, "scopes": ["publish", "consume", "manage", "read"] });
    ask(admin, Method::POST, "/v1/admin/keys", &Query::none(), Body::from(&wanted)).await
}

async fn create_webhook(
    output: Output,
    admin: &Client,
    receiver: &Receiver,
    target: String,
    mut wanted: Value,
) -> Result<Endpoint, Failure> {
    let url = receiver.url(&target);
    wanted["url"] = Value::from(url.as_str());
    wanted["org"] = Value::from(ORG);
    let event_types = wanted["event_types"][0].as_str().unwrap_or_default().to_owned();
    let made = ask(admin, Method::POST, "/v1/webhooks", &Query::none(), Body::from(&wanted)).await?;
    let id = text(&made, "id")?;
    let secret = Secret::new(text(&made, "signing_secret")?);
    let key = SigningKey::from_secret(&secret).map_err(anyhow::Error::from)?;
    Happening::WebhookCreated { id: id.clone(), url, event_types }.tell(output)?;
    Ok(Endpoint { id, target, key })
}

async fn ask(client: &Client, method: Method, path: &str, query: &Query, body: Body) -> Result<Value, Failure> {
    let answer = client.call(method, path, query, body).await?;
    Ok(serde_json::from_slice(&answer).map_err(|error| anyhow::anyhow!("the answer of {path}: {error}"))?)
}

fn text(value: &Value, name: &str) -> Result<String, Failure> {
    let found = value[name].as_str().map(str::to_owned);
    Ok(found.ok_or_else(|| anyhow::anyhow!("the answer of the hub has no {name}"))?)
}

/// A client's URL without the slash at its end.
fn bare(client: &Client) -> String {
    client.base().as_str().trim_end_matches('/').to_owned()
}
