//! A lean HTTP/1.1 load generator: some connections, each sending its next request when the last was answered, or
//! at its share of a fixed rate. Loopback only, bounded by count and by time.
//!
//! At a fixed rate a request's clock starts when it was due if its connection was still busy then, so a stall is seen
//! in the percentiles and not hidden by the requests it kept from being sent.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::request::{Answer, Template, parse_answer};
use crate::ground::clock::SharedClock;

/// Most connections of a load.
pub const CONNECTIONS_MAX: usize = 1_024;
/// Most threads of a load.
pub const THREADS_MAX: usize = 8;
/// Failed exchanges after which a connection gives up.
const ERRORS_MAX: u64 = 100;
/// How long after the end of the load an answer is still waited for.
const GRACE: Duration = Duration::from_secs(5);
/// Pause before a refused request is sent again.
const REFUSED_PAUSE: Duration = Duration::from_millis(20);
/// Pause before a broken connection is opened again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(10);
/// Longest latency told apart.
const LATENCY_NS_MAX: u64 = 120_000_000_000;

/// When the next request of a connection is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// When the last one was answered.
    Closed,
    /// At so many requests per second over all connections.
    PerSecond(f64),
}

/// What happens with a request that was answered, but not with 2xx.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is counted; the next one follows.
    Count,
    /// It is counted and sent again after a short pause, so that every number is accepted once.
    Resend,
}

/// One load.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    /// Where to; a loopback address.
    pub target: SocketAddr,
    /// What is sent.
    pub template: Template,
    /// Connections, 1 to [`CONNECTIONS_MAX`].
    pub connections: usize,
    /// Threads, 1 to [`THREADS_MAX`]; connections are dealt out evenly.
    pub threads: usize,
    /// When the next request is sent.
    pub pace: Pace,
    /// What happens with a refused request.
    pub refused: Refused,
    /// Most requests.
    pub requests_max: u64,
    /// Number of the first event.
    pub first_number: u64,
    /// No request is sent later than this.
    pub time_max: Duration,
    /// When set: place `number - first_number` gets the monotonic time its request was sent, in nanoseconds.
    pub starts: Option<Arc<[AtomicU64]>>,
    /// Set by whoever has seen enough: nothing more is sent then.
    pub enough: Option<Arc<AtomicBool>>,
}

/// What a load saw.
#[derive(Debug)]
pub struct LoadReport {
    /// Requests answered with 2xx.
    pub accepted_requests: u64,
    /// Events in them.
    pub accepted_events: u64,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Exchanges that ended without an answer.
    pub errors: u64,
    /// The first error or refusal, in words.
    pub first_trouble: Option<String>,
    /// Monotonic time of the first request, in nanoseconds.
    pub started_ns: u64,
    /// Monotonic time of the last answer, in nanoseconds.
    pub ended_ns: u64,
    /// Nanoseconds from a request to its 2xx answer.
    pub latency: Histogram<u64>,
}

impl LoadReport {
    /// Accepted events per second, from the first request to the last answer.
    #[must_use]
    pub fn events_per_second(&self) -> f64 {
        per_second(self.accepted_events, self.started_ns, self.ended_ns)
    }

    /// A percentile of the latency in milliseconds; none when nothing was accepted.
    #[must_use]
    pub fn latency_ms(&self, percentile: f64) -> Option<f64> {
        percentile_ms(&self.latency, percentile)
    }

    /// Fails unless every request got a 2xx answer.
    ///
    /// # Errors
    /// When nothing was accepted, or something was refused or broke; the text has the first case.
    pub fn all_accepted(&self) -> anyhow::Result<()> {
        let refused: u64 =
            self.statuses.iter().filter(|(status, _)| !is_success(**status)).map(|(_, count)| count).sum();
        let trouble = self.first_trouble.as_deref().unwrap_or("none");
        anyhow::ensure!(
            self.accepted_requests > 0 && refused == 0 && self.errors == 0,
            "{} accepted, {refused} refused, {} broken; first trouble: {trouble}",
            self.accepted_requests,
            self.errors,
        );
        Ok(())
    }
}

/// Things per second between two monotonic times in nanoseconds; zero when no time has passed.
#[must_use]
pub fn per_second(count: u64, started_ns: u64, ended_ns: u64) -> f64 {
    let nanoseconds = ended_ns.saturating_sub(started_ns);
    if nanoseconds == 0 { 0.0 } else { count as f64 * 1e9 / nanoseconds as f64 }
}

/// A percentile of a histogram of nanoseconds, in milliseconds; none when it is empty.
#[must_use]
pub fn percentile_ms(histogram: &Histogram<u64>, percentile: f64) -> Option<f64> {
    (!histogram.is_empty()).then(|| histogram.value_at_percentile(percentile) as f64 / 1e6)
}

/// An empty histogram of nanoseconds.
///
/// # Errors
/// Never with these bounds; the library checks them at run time.
pub fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1_000, LATENCY_NS_MAX, 3)?)
}

/// Whether the status is 2xx.
#[must_use]
pub fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

struct Tally {
    accepted: u64,
    statuses: BTreeMap<u16, u64>,
    errors: u64,
    first_trouble: Option<String>,
    ended_ns: u64,
    latency: Histogram<u64>,
}

impl Tally {
    fn new(started_ns: u64) -> anyhow::Result<Self> {
        Ok(Self {
            accepted: 0,
            statuses: BTreeMap::new(),
            errors: 0,
            first_trouble: None,
            ended_ns: started_ns,
            latency: histogram()?,
        })
    }

    fn answered(&mut self, answer: Answer, body: &[u8], sent_ns: u64, now_ns: u64) {
        *self.statuses.entry(answer.status).or_default() += 1;
        self.ended_ns = self.ended_ns.max(now_ns);
        if is_success(answer.status) {
            self.accepted += 1;
            self.latency.saturating_record(now_ns.saturating_sub(sent_ns));
        } else if self.first_trouble.is_none() {
            let text = String::from_utf8_lossy(&body[..body.len().min(300)]);
            self.first_trouble = Some(format!("status {}: {text}", answer.status));
        }
    }

    fn broke(&mut self, error: &io::Error) {
        self.errors += 1;
        if self.first_trouble.is_none() {
            self.first_trouble = Some(error.to_string());
        }
    }

    fn absorb(&mut self, other: &Self) -> anyhow::Result<()> {
        self.accepted += other.accepted;
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        self.errors += other.errors;
        if self.first_trouble.is_none() {
            self.first_trouble.clone_from(&other.first_trouble);
        }
        self.ended_ns = self.ended_ns.max(other.ended_ns);
        self.latency.add(&other.latency)?;
        Ok(())
    }
}

struct Shared {
    plan: LoadPlan,
    clock: SharedClock,
    next: AtomicU64,
    started_ns: u64,
    deadline_ns: u64,
}

/// Runs the load on its own threads and waits for its end, at most `time_max` and a few seconds.
///
/// # Errors
/// When the target is not loopback, the plan is out of bounds, or the connections cannot be opened.
pub fn run(clock: &SharedClock, plan: LoadPlan) -> anyhow::Result<LoadReport> {
    anyhow::ensure!(plan.target.ip().is_loopback(), "the load goes to loopback addresses only, not to {}", plan.target);
    anyhow::ensure!((1..=CONNECTIONS_MAX).contains(&plan.connections), "connections: 1 to {CONNECTIONS_MAX}");
    anyhow::ensure!((1..=THREADS_MAX).contains(&plan.threads), "threads: 1 to {THREADS_MAX}");
    if let Pace::PerSecond(rate) = plan.pace {
        anyhow::ensure!(rate.is_finite() && rate > 0.0, "rate: above zero");
    }
    let threads = plan.threads.min(plan.connections);
    // Opened before the clock starts, so that connecting is no part of the measure.
    let mut lanes: Vec<Vec<(usize, std::net::TcpStream)>> = (0..threads).map(|_| Vec::new()).collect();
    for index in 0..plan.connections {
        let stream = std::net::TcpStream::connect(plan.target)?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        lanes[index % threads].push((index, stream));
    }
    let started_ns = clock.monotonic_ns();
    let deadline_ns = started_ns.saturating_add(u64::try_from(plan.time_max.as_nanos())?);
    let events = plan.template.events();
    let shared = Arc::new(Shared { plan, clock: Arc::clone(clock), next: AtomicU64::new(0), started_ns, deadline_ns });
    let handles = lanes
        .into_iter()
        .map(|lane| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name("bench-load".to_owned()).spawn(move || run_lane(&shared, lane))
        })
        .collect::<io::Result<Vec<_>>>()?;
    let mut total = Tally::new(started_ns)?;
    for handle in handles {
        let tally = handle.join().map_err(|_| anyhow::anyhow!("a load thread panicked"))??;
        total.absorb(&tally)?;
    }
    Ok(LoadReport {
        accepted_requests: total.accepted,
        accepted_events: total.accepted * events,
        statuses: total.statuses,
        errors: total.errors,
        first_trouble: total.first_trouble,
        started_ns,
        ended_ns: total.ended_ns,
        latency: total.latency,
    })
}

fn run_lane(shared: &Arc<Shared>, lane: Vec<(usize, std::net::TcpStream)>) -> anyhow::Result<Tally> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tally = Arc::new(Mutex::new(Tally::new(shared.started_ns)?));
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for (index, stream) in lane {
            let stream = TcpStream::from_std(stream)?;
            let (shared, tally) = (Arc::clone(shared), Arc::clone(&tally));
            tasks.spawn(async move { drive(&shared, index, Line::new(stream), &tally).await });
        }
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(shared.plan.time_max + GRACE, all).await.is_err() {
            tally.lock().broke(&io::Error::new(io::ErrorKind::TimedOut, "answers were still missing at the end"));
        }
        Ok::<(), io::Error>(())
    })?;
    drop(runtime);
    let tally = Arc::into_inner(tally).ok_or_else(|| anyhow::anyhow!("a connection outlived its thread"))?;
    Ok(tally.into_inner())
}

/// One connection's turn of the load, until the count or the time is used up or too much has failed.
async fn drive(shared: &Shared, index: usize, line: Line, tally: &Mutex<Tally>) {
    let plan = &shared.plan;
    let mut line = Some(line);
    let mut bytes = plan.template.bytes();
    let mut resend = None;
    let mut turn = 0_u64;
    let mut errors = 0_u64;
    let enough = || plan.enough.as_ref().is_some_and(|enough| enough.load(Ordering::Relaxed));
    while errors < ERRORS_MAX && !enough() && shared.clock.monotonic_ns() < shared.deadline_ns {
        let sent_ns = match due_ns(shared, index, turn) {
            None => shared.clock.monotonic_ns(),
            Some(due_ns) if due_ns >= shared.deadline_ns => return,
            Some(due_ns) => wait_until(shared, due_ns).await,
        };
        turn += 1;
        let Some(request) = resend.take().or_else(|| claim(shared)) else { return };
        let first = plan.first_number + request * plan.template.events();
        plan.template.stamp(&mut bytes, first);
        note_start(plan, request, sent_ns);
        let mut open = match line.take() {
            Some(line) => line,
            None => match TcpStream::connect(plan.target).await {
                Ok(stream) => Line::new(stream),
                Err(error) => {
                    tally.lock().broke(&error);
                    errors += 1;
                    resend = Some(request);
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                    continue;
                }
            },
        };
        match open.exchange(&bytes).await {
            Ok(answer) => {
                let body = &open.buffer[answer.head_bytes..answer.head_bytes + answer.body_bytes];
                tally.lock().answered(answer, body, sent_ns, shared.clock.monotonic_ns());
                open.buffer.advance(answer.head_bytes + answer.body_bytes);
                line = answer.keep_alive.then_some(open);
                if plan.refused == Refused::Resend && !is_success(answer.status) {
                    resend = Some(request);
                    tokio::time::sleep(REFUSED_PAUSE).await;
                }
            }
            Err(error) => {
                tally.lock().broke(&error);
                errors += 1;
            }
        }
    }
}

/// The next request's place in the load; none when all were given out.
fn claim(shared: &Shared) -> Option<u64> {
    let request = shared.next.fetch_add(1, Ordering::Relaxed);
    (request < shared.plan.requests_max).then_some(request)
}

fn due_ns(shared: &Shared, index: usize, turn: u64) -> Option<u64> {
    match shared.plan.pace {
        Pace::Closed => None,
        Pace::PerSecond(rate) => {
            let place = index as u64 + turn * shared.plan.connections as u64;
            Some(shared.started_ns + (place as f64 * 1e9 / rate) as u64)
        }
    }
}

/// Waits for the due time and says when the request's clock starts: now after a wait, the due time when it has passed.
async fn wait_until(shared: &Shared, due_ns: u64) -> u64 {
    let now_ns = shared.clock.monotonic_ns();
    if due_ns <= now_ns {
        return due_ns;
    }
    tokio::time::sleep(Duration::from_nanos(due_ns - now_ns)).await;
    shared.clock.monotonic_ns()
}

fn note_start(plan: &LoadPlan, request: u64, sent_ns: u64) {
    let Some(starts) = &plan.starts else { return };
    let first = usize::try_from(request * plan.template.events()).unwrap_or(usize::MAX);
    let events = usize::try_from(plan.template.events()).unwrap_or(usize::MAX);
    for place in starts.iter().skip(first).take(events) {
        place.store(sent_ns, Ordering::Relaxed);
    }
}

struct Line {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Line {
    fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: BytesMut::with_capacity(16 << 10) }
    }

    /// Sends a request and reads its answer, which then starts the buffer.
    async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.stream.write_all(request).await?;
        loop {
            if let Some(answer) = parse_answer(&self.buffer).map_err(io::Error::other)?
                && self.buffer.len() >= answer.head_bytes + answer.body_bytes
            {
                return Ok(answer);
            }
            self.buffer.reserve(4 << 10);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the connection was closed before the answer",
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::receiver::{Receiver, ReceiverOptions};
    use crate::bench::request::{Shape, event_json};
    use crate::ground::clock::SystemClock;

    fn plan(target: SocketAddr, path: &str, events: usize) -> LoadPlan {
        let shape = if events == 1 { Shape::One } else { Shape::Array };
        let bodies = vec![event_json("bench.event", "", 256); events];
        LoadPlan {
            target,
            template: Template::post(target, path, &[("webhook-id", "bench")], &bodies, shape),
            connections: 4,
            threads: 2,
            pace: Pace::Closed,
            refused: Refused::Count,
            requests_max: 50,
            first_number: 0,
            time_max: Duration::from_secs(30),
            starts: None,
            enough: None,
        }
    }

    #[test]
    fn a_load_sends_exactly_its_count_and_every_answer_is_counted() {
        let clock = SystemClock::shared();
        let receiver = Receiver::start(ReceiverOptions::new(&clock)).expect("receiver");
        let report = run(&clock, plan(receiver.addr(), "/ok", 3)).expect("load");
        report.all_accepted().expect("all accepted");
        assert_eq!(report.accepted_requests, 50);
        assert_eq!(report.accepted_events, 150);
        assert_eq!(report.latency.len(), 50);
        assert!(report.events_per_second() > 0.0);
        assert_eq!(receiver.counts("/ok").requests, 50);
    }

    #[test]
    fn a_paced_load_notes_when_each_event_was_sent() {
        let clock = SystemClock::shared();
        let receiver = Receiver::start(ReceiverOptions::new(&clock)).expect("receiver");
        let starts: Arc<[AtomicU64]> = (0..20).map(|_| AtomicU64::new(0)).collect();
        let paced = LoadPlan {
            pace: Pace::PerSecond(1_000.0),
            requests_max: 20,
            starts: Some(Arc::clone(&starts)),
            ..plan(receiver.addr(), "/ok", 1)
        };
        let report = run(&clock, paced).expect("load");
        assert_eq!(report.accepted_requests, 20);
        assert!(starts.iter().all(|start| start.load(Ordering::Relaxed) >= report.started_ns));
    }

    #[test]
    fn refusals_are_counted_and_named() {
        let clock = SystemClock::shared();
        let receiver = Receiver::start(ReceiverOptions::new(&clock)).expect("receiver");
        let report = run(&clock, plan(receiver.addr(), "/fail", 1)).expect("load");
        assert_eq!(report.accepted_requests, 0);
        assert_eq!(report.statuses.get(&500), Some(&50));
        let error = report.all_accepted().expect_err("refused").to_string();
        assert!(error.contains("status 500"), "{error}");
    }

    #[test]
    fn a_connection_that_is_reset_again_and_again_gives_up() {
        let clock = SystemClock::shared();
        let receiver = Receiver::start(ReceiverOptions::new(&clock)).expect("receiver");
        let report =
            run(&clock, LoadPlan { requests_max: 10_000, ..plan(receiver.addr(), "/reset", 1) }).expect("load");
        assert_eq!(report.accepted_requests, 0);
        assert_eq!(report.errors, 4 * ERRORS_MAX);
    }

    #[test]
    fn a_target_that_is_not_loopback_is_refused() {
        let clock = SystemClock::shared();
        let target = SocketAddr::from(([192, 0, 2, 1], 80));
        let error = run(&clock, plan(target, "/ok", 1)).expect_err("refused").to_string();
        assert!(error.contains("loopback"), "{error}");
    }
}
