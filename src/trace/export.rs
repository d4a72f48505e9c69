//! The bounded queue of ended spans, and the thread that sends them (TR-2).

use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use prometheus::IntCounter;
use reqwest::StatusCode;
use reqwest::header::CONTENT_TYPE;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::oneshot;
use url::Url;

use super::otlp;
use super::span::SpanData;
use crate::config::Trace;
use crate::metrics::Metrics;

/// Where a collector takes traces, below its address.
const PATH: &str = "/v1/traces";
/// Spans of one request.
const BATCH_MAX: usize = 512;
/// A span waits this long for others to be sent with it.
const BATCH_WAIT: Duration = Duration::from_millis(500);
/// Before each further try of a request that may work later.
const RETRY_WAITS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];
/// At the stop, what is left must be sent within this.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Why traces cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The setting names no place, or holds a credential. It is not repeated.
    #[error("trace.otlp_endpoint: it is no http or https URL, or has credentials")]
    Endpoint,
    /// The client cannot be made.
    #[error("the client of the trace exporter: {0}")]
    Client(reqwest::Error),
    /// The system gives no thread.
    #[error("the thread of the trace exporter: {0}")]
    Thread(std::io::Error),
}

enum Message {
    Span(Box<SpanData>),
    /// Send what is there and say when that is done.
    Flush(oneshot::Sender<()>),
}

/// The way into the queue. Cheap to clone; the thread ends with the last one.
#[derive(Clone, Debug)]
pub(super) struct Exporter {
    queue: Sender<Message>,
    dropped: IntCounter,
}

/// The collector's address of traces.
pub(crate) fn endpoint(text: &str) -> Result<Url, TraceError> {
    let mut url = Url::parse(text).map_err(|_| TraceError::Endpoint)?;
    let has_credentials = !url.username().is_empty() || url.password().is_some();
    if !matches!(url.scheme(), "http" | "https") || url.cannot_be_a_base() || has_credentials {
        return Err(TraceError::Endpoint);
    }
    if !url.path().ends_with(PATH) {
        let path = format!("{}{PATH}", url.path().trim_end_matches('/'));
        url.set_path(&path);
    }
    Ok(url)
}

/// The cryptography of TLS is installed by then: the hub makes its delivery clients first.
fn client(timeout: Duration) -> Result<reqwest::Client, TraceError> {
    let builder = || reqwest::Client::builder().timeout(timeout).redirect(reqwest::redirect::Policy::none()).no_proxy();
    match builder().build() {
        Ok(client) => Ok(client),
        // A machine without root certificates can still send to plain http.
        Err(_) => builder().tls_certs_only([]).build().map_err(TraceError::Client),
    }
}

impl Exporter {
    /// Starts the thread.
    pub(super) fn start(settings: &Trace, instance: String, metrics: &Metrics) -> Result<Self, TraceError> {
        let endpoint = endpoint(&settings.otlp_endpoint)?;
        let spans = |outcome: &str| metrics.trace_spans.with_label_values(&[outcome]);
        let (queue, waiting) = mpsc::channel(settings.queue_spans_max);
        let worker = Worker {
            endpoint,
            client: client(Duration::from_millis(settings.timeout_ms))?,
            instance,
            exported: spans("exported"),
            failed: spans("export_failed"),
        };
        let (started, ready) = std_mpsc::channel();
        std::thread::Builder::new()
            .name("trace-export".into())
            .spawn(move || match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => {
                    // Who waits for it is there.
                    started.send(Ok(())).ok();
                    runtime.block_on(worker.run(waiting));
                }
                Err(error) => {
                    started.send(Err(error)).ok();
                }
            })
            .map_err(TraceError::Thread)?;
        ready.recv().map_err(|error| TraceError::Thread(std::io::Error::other(error)))?.map_err(TraceError::Thread)?;
        Ok(Self { queue, dropped: spans("queue_full") })
    }

    /// Queues a span, or drops it when the queue is full. Never waits.
    pub(super) fn send(&self, span: SpanData) {
        if self.queue.try_send(Message::Span(Box::new(span))).is_err() {
            self.dropped.inc();
        }
    }

    /// Has what is queued sent, within a limit.
    pub(super) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        let flush = async {
            if self.queue.send(Message::Flush(done)).await.is_ok() {
                // Fails when the thread has ended: then there is nothing to wait for.
                flushed.await.ok();
            }
        };
        if tokio::time::timeout(FLUSH_LIMIT, flush).await.is_err() {
            tracing::warn!("the last traces were not sent in time");
        }
    }
}

struct Worker {
    endpoint: Url,
    client: reqwest::Client,
    instance: String,
    exported: IntCounter,
    failed: IntCounter,
}

impl Worker {
    /// Sends what is queued, in batches, until the queue ends.
    async fn run(self, mut queue: Receiver<Message>) {
        let mut batch = Vec::new();
        while let Some(first) = queue.recv().await {
            let mut flushed = self.take(first, &mut batch);
            let gather = async {
                while flushed.is_none() && batch.len() < BATCH_MAX {
                    let Some(next) = queue.recv().await else { return };
                    flushed = self.take(next, &mut batch);
                }
            };
            // Late is as good as full: what was gathered is sent.
            tokio::time::timeout(BATCH_WAIT, gather).await.ok();
            self.send(std::mem::take(&mut batch)).await;
            if let Some(flushed) = flushed {
                // Who asked may have stopped waiting.
                flushed.send(()).ok();
            }
        }
    }

    fn take(&self, message: Message, batch: &mut Vec<SpanData>) -> Option<oneshot::Sender<()>> {
        match message {
            Message::Span(span) => {
                batch.push(*span);
                None
            }
            Message::Flush(flushed) => Some(flushed),
        }
    }

    async fn send(&self, batch: Vec<SpanData>) {
        if batch.is_empty() {
            return;
        }
        let body = otlp::request(&batch, &self.instance).to_string();
        let mut waits = RETRY_WAITS.iter();
        let why = loop {
            match self.post(body.clone()).await {
                Ok(()) => {
                    self.exported.inc_by(batch.len() as u64);
                    return;
                }
                Err((why, Again::Never)) => break why,
                Err((why, Again::Later)) => match waits.next() {
                    Some(wait) => tokio::time::sleep(*wait).await,
                    None => break why,
                },
            }
        };
        self.failed.inc_by(batch.len() as u64);
        tracing::warn!(spans = batch.len(), error = why, "traces could not be exported and are dropped");
    }

    async fn post(&self, body: String) -> Result<(), (String, Again)> {
        let request = self.client.post(self.endpoint.clone()).header(CONTENT_TYPE, "application/json").body(body);
        let answer = request.send().await.map_err(|error| (error.without_url().to_string(), Again::Later))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let again = match status {
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Again::Later,
            _ => Again::Never,
        };
        Err((format!("the collector answered {status}"), again))
    }
}

/// Whether a request that failed is worth another try (OTLP/HTTP, retryable response codes).
enum Again {
    Later,
    Never,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_traces_is_added_to_the_collectors_address() {
        for (given, wanted) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces"),
            ("https://collector.example/otlp", "https://collector.example/otlp/v1/traces"),
            ("http://127.0.0.1:4318/v1/traces", "http://127.0.0.1:4318/v1/traces"),
        ] {
            assert_eq!(endpoint(given).expect(given).as_str(), wanted);
        }
        for bad in ["collector:4318", "ftp://x", "/v1/traces", "http://", "http://u:p@collector:4318"] {
            assert!(matches!(endpoint(bad), Err(TraceError::Endpoint)), "{bad}");
        }
    }
}
