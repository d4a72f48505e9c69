//! `tidegate listen`: live deliveries for a program on this machine, over one outbound connection.
//!
//! Makes an ephemeral pull consumer, opens its stream, and posts each event to a local address as a webhook would get it.
//! The consumer is deleted at the end, and removed by the hub when this process is killed.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use reqwest::Response;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::client::{Body, Client, Door, Method, Query, Target, segment};
use super::exit::Failure;
use super::output::{Output, printable};
use crate::breaker::BreakerSettings;
use crate::event::envelope::Event;
use crate::event::redact::Redactor;
use crate::event::restore::restore;
use crate::ground::clock::{SharedClock, SystemClock};
use crate::ground::ids::Seq;
use crate::ground::random::{Random as _, SystemRandom};
use crate::ground::secret::Secret;
use crate::retry::AttemptResult;
use crate::webhook::access::Access;
use crate::webhook::delivery::{Caller, Target as Endpoint};
use crate::webhook::format::Form;
use crate::webhook::guard::AddressPolicy;
use crate::webhook::outbound::{Answer, Outbound, OutboundSettings};
use crate::webhook::sign::SigningKey;
use crate::webhook::signer::{Signer, Signers};

/// The consumer is removed when this process has been gone for so long.
const EXPIRES_AFTER_MS: u64 = 60_000;
/// An event that is not answered by then comes again.
const LEASE_MS: u64 = 60_000;
/// First and longest pause before a stream that ended is opened again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// A stream that says nothing for so long is taken for broken.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// Largest event of a stream.
const BLOCK_BYTES_MAX: usize = 64 << 20;

/// Flags of `listen`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where events are posted to, such as http://127.0.0.1:3000/hooks
    #[arg(long, value_name = "URL")]
    to: String,
    /// Event types: exact, prefix.* or *
    #[arg(long, value_name = "TYPES", value_delimiter = ',', default_value = "*")]
    event_types: Vec<String>,
    /// Tenant; left out, that of the key
    #[arg(long)]
    org: Option<String>,
    /// Expression that events must fulfil
    #[arg(long, value_name = "EXPRESSION")]
    filter: Option<String>,
    /// Signing secret (whsec_…); left out, one is made and shown
    #[arg(long, value_name = "SECRET", env = "TIDEGATE_LISTEN_SECRET", hide_env_values = true)]
    secret: Option<String>,
    /// Post each event once, whatever comes of it
    #[arg(long)]
    no_retry: bool,
    /// Events posted at once
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    concurrency: u16,
    /// End after so many events were posted
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

/// A delivery as the stream has it.
#[derive(Deserialize)]
struct Delivery {
    event: Box<RawValue>,
    token: String,
    attempt: u32,
}

/// One block of a stream of server-sent events.
#[derive(Debug, Default, PartialEq, Eq)]
struct Block {
    event: String,
    data: String,
}

/// Cuts a stream into its blocks.
#[derive(Debug, Default)]
struct Blocks {
    buffer: Vec<u8>,
    /// Up to here there is no end of a block.
    looked: usize,
}

impl Blocks {
    fn push(&mut self, piece: &[u8]) -> Result<(), Failure> {
        self.buffer.extend_from_slice(piece);
        if self.buffer.len() > BLOCK_BYTES_MAX {
            return Err(anyhow::anyhow!("the stream has an event of more than {BLOCK_BYTES_MAX} bytes").into());
        }
        Ok(())
    }

    /// The next block that has data.
    fn next(&mut self) -> Option<Block> {
        loop {
            let from = self.looked.saturating_sub(1);
            let Some(at) = self.buffer[from..].windows(2).position(|pair| pair == b"\n\n") else {
                self.looked = self.buffer.len();
                return None;
            };
            let rest = self.buffer.split_off(from + at + 2);
            let text = std::mem::replace(&mut self.buffer, rest);
            self.looked = 0;
            let text = String::from_utf8_lossy(&text);
            let field = |name: &str| {
                let lines: Vec<&str> =
                    text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).collect();
                lines.join("\n")
            };
            let block = Block { event: field("event"), data: field("data") };
            if !block.data.is_empty() {
                return Some(block);
            }
        }
    }
}

/// What the process works with.
struct Listener {
    client: Client,
    output: Output,
    args: Args,
    name: String,
    caller: Caller,
    clock: SharedClock,
}

/// Why a stream is not read any more.
enum Ended {
    /// Everything that was asked for is done.
    Done,
    /// It broke off or was ended by the hub.
    Broken(String),
}

/// Listens until Ctrl-C, SIGTERM, or `--count` events.
///
/// # Errors
/// When no hub answers the first time, or it refuses.
pub async fn run(target: &Target, output: Output, args: Args) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = Listener::new(target, output, args)?;
    listener.make_consumer().await?;
    output.remark(&format!("listening; Ctrl-C ends. Events go to {}", listener.args.to));
    let outcome = tokio::select! {
        outcome = listener.listen() => outcome,
        _ = tokio::signal::ctrl_c() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    let gone = listener.client.call(Method::DELETE, &listener.path(""), &listener.scope(), Body::None).await;
    if let Err(failure) = gone {
        output.remark(&format!("the consumer is left to expire: {failure}"));
    }
    outcome
}

impl Listener {
    fn new(target: &Target, output: Output, args: Args) -> Result<Self, Failure> {
        // A local program is what this is for.
        let policy = AddressPolicy { allow_private: true, ..AddressPolicy::default() };
        let usage = |name: &str, why: &dyn std::fmt::Display| Failure::Usage(format!("--{name}: {why}"));
        let url = policy.check_url(&args.to).map_err(|problem| usage("to", &problem.detail))?;
        let secret = match &args.secret {
            Some(secret) => Secret::new(secret.as_str()),
            None => {
                let secret = SigningKey::generate(&SystemRandom);
                output.remark(&format!("signing secret: {}", secret.expose()));
                secret
            }
        };
        let key = SigningKey::from_secret(&secret).map_err(|error| usage("secret", &error))?;
        let endpoint = Endpoint {
            url,
            signers: Signers { current: Signer::Standard(key), previous: None },
            form: Form::Standard,
            headers: reqwest::header::HeaderMap::new(),
            timeout_ms: None,
            breaker: BreakerSettings::default(),
            access: Access::None,
            own: None,
            hide: Vec::new(),
        };
        let user_agent = concat!("Tidegate/", env!("CARGO_PKG_VERSION")).to_owned();
        let settings = OutboundSettings { user_agent, ..OutboundSettings::default() };
        let outbound = Outbound::new(policy, settings).map_err(anyhow::Error::from)?;
        let clock = SystemClock::shared();
        let caller = Caller {
            target: Arc::new(ArcSwap::from_pointee(endpoint)),
            outbound,
            redactor: Redactor::none(),
            clock: Arc::clone(&clock),
        };
        let mut bytes = [0_u8; 8];
        SystemRandom.fill(&mut bytes);
        let name = format!("listen-{}", hex::encode(bytes));
        Ok(Self { client: Client::new(target, Door::Any)?, output, args, name, caller, clock })
    }

    fn path(&self, rest: &str) -> String {
        format!("/v1/consumers/{}{rest}", segment(&self.name))
    }

    /// One org, where it was named: the administrator may see every one.
    fn scope(&self) -> Query {
        Query::none().with("org", self.args.org.as_ref())
    }

    async fn make_consumer(&self) -> Result<(), Failure> {
        let wanted = json!({
            "name": self.name,
            "org": self.args.org,
            "event_types": self.args.event_types,
            "filter": self.args.filter,
            "start": "latest",
            "ephemeral": true,
            "expires_after_ms": EXPIRES_AFTER_MS,
            "lease_ms": LEASE_MS,
            "description": "tidegate listen",
        });
        let made = self.client.call(Method::POST, "/v1/consumers", &Query::none(), Body::from(&wanted)).await;
        made.map(|_| ())
    }

    /// Reads the stream, again and again when it breaks off.
    async fn listen(&self) -> Result<(), Failure> {
        let mut posted = 0;
        let mut pause = PAUSES.0;
        loop {
            let before = posted;
            match self.open().await {
                Ok(stream) => match self.read(stream, &mut posted).await? {
                    Ended::Done => return Ok(()),
                    Ended::Broken(reason) => {
                        self.output.remark(&format!("the stream ended: {reason}; opening it again"))
                    }
                },
                Err(Failure::Refused { status: 404, .. }) => {
                    self.output.remark("the consumer is gone; making another one, from now on");
                    self.make_consumer().await?;
                }
                Err(Failure::Refused { status: 503, problem }) => {
                    self.output.remark(&format!("the hub is busy: {}", printable(&problem["detail"].to_string())));
                }
                Err(failure @ Failure::Unreachable { .. }) => self.output.remark(&format!("{failure}; waiting for it")),
                Err(failure) => return Err(failure),
            }
            pause = if posted > before { PAUSES.0 } else { (pause * 2).min(PAUSES.1) };
            tokio::time::sleep(pause).await;
        }
    }

    async fn open(&self) -> Result<Response, Failure> {
        let query = self.scope().with("max", Some(self.args.concurrency));
        self.client.open(&self.path("/stream"), &query, "text/event-stream").await
    }

    async fn read(&self, mut stream: Response, posted: &mut u64) -> Result<Ended, Failure> {
        let mut blocks = Blocks::default();
        let mut under_way = FuturesUnordered::new();
        loop {
            while let Some(block) = blocks.next() {
                if block.event == "end" {
                    let reason: Value = serde_json::from_str(&block.data).unwrap_or_default();
                    return Ok(Ended::Broken(printable(reason["reason"].as_str().unwrap_or("the hub ended it"))));
                }
                let delivery: Delivery = serde_json::from_str(&block.data).map_err(anyhow::Error::from)?;
                under_way.push(self.forward(delivery));
            }
            tokio::select! {
                Some(done) = under_way.next(), if !under_way.is_empty() => {
                    done?;
                    *posted += 1;
                    if self.args.count.is_some_and(|count| *posted >= count) {
                        return Ok(Ended::Done);
                    }
                }
                piece = tokio::time::timeout(SILENCE_MAX, stream.chunk()) => match piece {
                    Ok(Ok(Some(piece))) => blocks.push(&piece)?,
                    Ok(Ok(None)) => return Ok(Ended::Broken("the connection was closed".to_owned())),
                    Ok(Err(error)) => return Ok(Ended::Broken(error.without_url().to_string())),
                    Err(_) => return Ok(Ended::Broken("nothing was heard of the hub".to_owned())),
                },
            }
        }
    }

    /// Posts one event, shows what came of it, and answers its delivery.
    async fn forward(&self, delivery: Delivery) -> Result<(), Failure> {
        let Delivery { event, token, attempt } = delivery;
        let now = self.clock.now();
        let seq = serde_json::from_str::<Value>(event.get()).ok().and_then(|event| event["seq"].as_u64());
        let event = restore(event.get().as_bytes(), Seq(seq.unwrap_or_default()), now, &SystemRandom)
            .map_err(|problem| anyhow::anyhow!("the hub sent an event that does not read: {problem}"))?;
        let answer = self.caller.call(&event, event.meta.traceparent.as_deref()).await;
        self.show(&event, attempt, &answer)?;
        let (verb, body) = match &answer.result {
            AttemptResult::Failed { message, .. } if !self.args.no_retry => {
                ("/nak", json!({ "tokens": [token], "reason": message }))
            }
            AttemptResult::Failed { .. } | AttemptResult::Delivered { .. } => ("/ack", json!({ "tokens": [token] })),
        };
        let told = self.client.call(Method::POST, &self.path(verb), &self.scope(), Body::from(&body)).await;
        if let Err(failure) = told {
            // It comes again when its lease is over.
            self.output.remark(&format!("{}: the answer was not taken: {failure}", printable(&event.meta.id)));
        }
        Ok(())
    }

    fn show(&self, event: &Event, attempt: u32, answer: &Answer) -> Result<(), Failure> {
        let at = self.clock.now().to_rfc3339();
        let error = match &answer.result {
            AttemptResult::Delivered { .. } => None,
            AttemptResult::Failed { message, .. } => Some(message.as_str()),
        };
        let Answer { status, latency_ms, .. } = answer;
        match self.output {
            Output::Json => self.output.line(
                &json!({
                    "at": at,
                    "type": event.meta.event_type,
                    "id": event.meta.id,
                    "seq": event.seq.0,
                    "attempt": attempt,
                    "delivered": error.is_none(),
                    "status": status,
                    "latency_ms": latency_ms,
                    "error": error,
                })
                .to_string(),
            ),
            Output::Human => {
                let status = status.map_or_else(|| "-".to_owned(), |status| status.to_string());
                let (event_type, id) = (printable(&event.meta.event_type), printable(&event.meta.id));
                let line = format!("{at}  {event_type:<32}  {id:<36}  {status:>3}  {latency_ms:>6} ms");
                let told = error.map_or_else(String::new, |error| format!("  {}", printable(error)));
                self.output.line(&format!("{line}{told}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_cut_however_the_pieces_come() {
        let text =
            "retry: 1000\n\n: alive\n\nid: 7\ndata: {\ndata:  \"a\": 1}\n\nevent: end\ndata: {}\n\nid: 9\ndata: cut";
        for size in [1, 2, 3, 7, 100] {
            let mut blocks = Blocks::default();
            let mut found = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                blocks.push(piece).expect("fits");
                while let Some(block) = blocks.next() {
                    found.push(block);
                }
            }
            let wanted = [("", "{\n \"a\": 1}"), ("end", "{}")];
            let wanted = wanted.map(|(event, data)| Block { event: event.to_owned(), data: data.to_owned() });
            assert_eq!(found, wanted, "pieces of {size}");
        }
    }
}
