//! A very lean HTTP/1.1 receiver on loopback: an endpoint for webhooks that answers well, slowly, badly or never.
//!
//! The first part of the path says how: `/ok`, `/hang` (never answers), `/slow?ms=250`, `/big` (10 MB), `/fail` (500),
//! `/reset` (the connection is reset). What follows it (`/ok/7`) tells endpoints apart: counts are kept by the whole
//! request target. It runs on one thread of its own and keeps no bodies; its records are bounded.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, oneshot};

use super::arrivals::{Arrivals, Counts, hash};
use crate::ground::clock::SharedClock;

/// Most connections at once; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 4_096;
/// Most request targets with counts of their own.
const PATHS_MAX: usize = 16_384;
/// Longest request target, in bytes.
const TARGET_BYTES_MAX: usize = 256;
/// Largest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Largest body of a request, in bytes.
const BODY_BYTES_MAX: usize = 20 << 20;
/// Headers of a request.
const HEADERS_MAX: usize = 64;
/// Ids kept per path unless told otherwise.
const IDS_MAX: usize = 2_000_000;
/// Bytes of the answer of `/big`.
const BIG_BYTES: usize = 10_000_000;
/// Longest `/slow`, and how long `/hang` holds a connection.
const HOLD_MAX: Duration = Duration::from_secs(600);

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const FAIL: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 11\r\n\r\nfail: asked";
const NOT_FOUND: &[u8] = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
const BIG_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 10000000\r\n\r\n";

/// How a path answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// 200 with an empty body.
    Ok,
    /// Never answers.
    Hang,
    /// 200 after a wait.
    Slow(Duration),
    /// 200 with a body of 10 MB.
    Big,
    /// 500.
    Fail,
    /// The connection is reset.
    Reset,
    /// 404.
    NotFound,
}

impl Behaviour {
    /// What a request target asks for.
    #[must_use]
    pub fn of(target: &str) -> Self {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        match path.split('/').nth(1).unwrap_or_default() {
            "ok" => Self::Ok,
            "hang" => Self::Hang,
            "slow" => {
                let ms = query.split('&').find_map(|pair| pair.strip_prefix("ms="));
                let wait = Duration::from_millis(ms.and_then(|ms| ms.parse().ok()).unwrap_or(1_000));
                Self::Slow(wait.min(HOLD_MAX))
            }
            "big" => Self::Big,
            "fail" => Self::Fail,
            "reset" => Self::Reset,
            _ => Self::NotFound,
        }
    }
}

/// A request as an observer sees it.
#[derive(Clone, Debug)]
pub struct Received {
    /// Path and query.
    pub target: String,
    /// Names in lower case, in the order they came.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

impl Received {
    /// The first header of this name, given in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// Called on the receiver's thread with each request, before it is answered; must be quick.
pub type Observer = Arc<dyn Fn(&Received) + Send + Sync>;

/// How a receiver is started.
pub struct ReceiverOptions {
    clock: SharedClock,
    port: u16,
    ids_max: usize,
    observer: Option<Observer>,
}

impl ReceiverOptions {
    /// Any free port, up to two million ids a path, no observer.
    #[must_use]
    pub fn new(clock: &SharedClock) -> Self {
        Self { clock: Arc::clone(clock), port: 0, ids_max: IDS_MAX, observer: None }
    }

    /// Listens on this port of 127.0.0.1.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Keeps at most so many ids per path.
    #[must_use]
    pub fn ids_max(mut self, ids_max: usize) -> Self {
        self.ids_max = ids_max;
        self
    }

    /// Shows each request to `observer`.
    #[must_use]
    pub fn observer(mut self, observer: Observer) -> Self {
        self.observer = Some(observer);
        self
    }
}

struct Endpoint {
    target: Box<str>,
    behaviour: Behaviour,
    arrivals: Mutex<Arrivals>,
}

struct Shared {
    clock: SharedClock,
    ids_max: usize,
    observer: Option<Observer>,
    endpoints: Mutex<HashMap<Box<str>, Arc<Endpoint>>>,
}

impl Shared {
    /// The endpoint of a target; none when there are too many already.
    fn endpoint(&self, target: &str) -> Option<Arc<Endpoint>> {
        let mut endpoints = self.endpoints.lock();
        if let Some(found) = endpoints.get(target) {
            return Some(Arc::clone(found));
        }
        if endpoints.len() >= PATHS_MAX || target.len() > TARGET_BYTES_MAX {
            return None;
        }
        let endpoint = Arc::new(Endpoint {
            target: target.into(),
            behaviour: Behaviour::of(target),
            arrivals: Mutex::new(Arrivals::new(self.ids_max)),
        });
        endpoints.insert(target.into(), Arc::clone(&endpoint));
        Some(endpoint)
    }
}

/// A running receiver. Dropping it closes every connection and waits for its thread.
pub struct Receiver {
    addr: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("addr", &self.addr).finish_non_exhaustive()
    }
}

impl Receiver {
    /// Listens on 127.0.0.1 and serves on a thread of its own.
    ///
    /// # Errors
    /// When the port is taken or the thread cannot be started.
    pub fn start(options: ReceiverOptions) -> io::Result<Self> {
        let ReceiverOptions { clock, port, ids_max, observer } = options;
        let shared = Arc::new(Shared { clock, ids_max, observer, endpoints: Mutex::new(HashMap::new()) });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _entered = runtime.enter();
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind(SocketAddr::from(([127, 0, 0, 1], port)))?;
            socket.listen(1_024)?
        };
        let addr = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("receiver".to_owned()).spawn(move || {
            runtime.block_on(async move {
                tokio::select! {
                    () = accept(listener, serving) => {}
                    // Dropped or told: the same.
                    _stopped = stopped => {}
                }
            });
        })?;
        Ok(Self { addr, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The URL of a target such as `/ok/7`.
    #[must_use]
    pub fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.addr)
    }

    /// What arrived at a target.
    #[must_use]
    pub fn counts(&self, target: &str) -> Counts {
        let endpoint = self.shared.endpoints.lock().get(target).map(Arc::clone);
        endpoint.map(|endpoint| endpoint.arrivals.lock().counts()).unwrap_or_default()
    }

    /// When the first request with this `webhook-id` arrived at a target, in monotonic nanoseconds of the clock.
    #[must_use]
    pub fn arrived_ns(&self, target: &str, id: &str) -> Option<u64> {
        let endpoint = self.shared.endpoints.lock().get(target).map(Arc::clone)?;
        let arrivals = endpoint.arrivals.lock();
        arrivals.arrived_ns(id.as_bytes())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the receiver's thread panicked");
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    let ended = serve(stream, &shared).await;
                    if let Err(error) = ended {
                        tracing::trace!(%error, "a connection of the receiver ended");
                    }
                    drop(permit);
                });
            }
            // Out of file descriptors, say: the next one may work.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

struct Head {
    head_bytes: usize,
    body_bytes: usize,
    id: Option<u64>,
    expects_continue: bool,
    keep_alive: bool,
}

/// Serves one connection until it closes or sends what is not a request with a stated length.
async fn serve(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = BytesMut::with_capacity(8 << 10);
    let mut last: Option<Arc<Endpoint>> = None;
    loop {
        let (head, endpoint) = loop {
            if let Some(found) = read_head(&buffer, shared, last.as_ref())? {
                break found;
            }
            if fill(&mut stream, &mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let whole = head.head_bytes + head.body_bytes;
        if head.expects_continue && buffer.len() < whole {
            stream.write_all(CONTINUE).await?;
        }
        while buffer.len() < whole {
            buffer.reserve(whole - buffer.len());
            if fill(&mut stream, &mut buffer).await? == 0 {
                return Ok(());
            }
        }
        endpoint.arrivals.lock().note(head.id, shared.clock.monotonic_ns());
        if let Some(observer) = &shared.observer {
            observer(&received(&buffer, &head)?);
        }
        buffer.advance(whole);
        if buffer.is_empty() && buffer.capacity() > 1 << 20 {
            buffer = BytesMut::with_capacity(8 << 10);
        }
        if !answer(&mut stream, endpoint.behaviour).await? || !head.keep_alive {
            return Ok(());
        }
        last = Some(endpoint);
    }
}

async fn fill(stream: &mut TcpStream, buffer: &mut BytesMut) -> io::Result<usize> {
    buffer.reserve(2 << 10);
    stream.read_buf(buffer).await
}

/// Answers as the endpoint behaves; false when the connection is to be closed.
async fn answer(stream: &mut TcpStream, behaviour: Behaviour) -> io::Result<bool> {
    match behaviour {
        Behaviour::Ok => stream.write_all(OK).await?,
        Behaviour::Fail => stream.write_all(FAIL).await?,
        Behaviour::NotFound => stream.write_all(NOT_FOUND).await?,
        Behaviour::Slow(wait) => {
            tokio::time::sleep(wait).await;
            stream.write_all(OK).await?;
        }
        Behaviour::Big => {
            static CHUNK: [u8; 64 << 10] = [b'x'; 64 << 10];
            stream.write_all(BIG_HEAD).await?;
            let mut left = BIG_BYTES;
            while left > 0 {
                let part = left.min(CHUNK.len());
                stream.write_all(&CHUNK[..part]).await?;
                left -= part;
            }
        }
        Behaviour::Hang => {
            let mut rest = [0_u8; 1_024];
            let closed = async { while stream.read(&mut rest).await.is_ok_and(|bytes| bytes > 0) {} };
            // Closed by the other side or held long enough: the connection ends either way.
            if tokio::time::timeout(HOLD_MAX, closed).await.is_err() {
                tracing::trace!("a hanging connection was held to the end");
            }
            return Ok(false);
        }
        Behaviour::Reset => {
            stream.set_zero_linger()?;
            return Ok(false);
        }
    }
    Ok(true)
}

/// Reads a request's head; none when more bytes are needed. `last` spares the look-up when the target stays the same.
fn read_head(
    buffer: &[u8],
    shared: &Shared,
    last: Option<&Arc<Endpoint>>,
) -> io::Result<Option<(Head, Arc<Endpoint>)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let head_bytes = match request.parse(buffer).map_err(io::Error::other)? {
        httparse::Status::Complete(bytes) => bytes,
        httparse::Status::Partial if buffer.len() > HEAD_BYTES_MAX => return Err(invalid("the head is too large")),
        httparse::Status::Partial => return Ok(None),
    };
    let mut head =
        Head { head_bytes, body_bytes: 0, id: None, expects_continue: false, keep_alive: request.version == Some(1) };
    for header in request.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            let bytes = std::str::from_utf8(header.value).ok().and_then(|text| text.trim().parse::<usize>().ok());
            head.body_bytes = bytes.ok_or_else(|| invalid("content-length is no number"))?;
        } else if header.name.eq_ignore_ascii_case("webhook-id") {
            head.id = Some(hash(header.value));
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(invalid("a body without content-length is not read"));
        } else if header.name.eq_ignore_ascii_case("expect") {
            head.expects_continue = true;
        } else if header.name.eq_ignore_ascii_case("connection") && header.value.eq_ignore_ascii_case(b"close") {
            head.keep_alive = false;
        }
    }
    if head.body_bytes > BODY_BYTES_MAX {
        return Err(invalid("the body is too large"));
    }
    let target = request.path.unwrap_or("/");
    let endpoint = match last {
        Some(last) if *last.target == *target => Arc::clone(last),
        Some(_) | None => shared.endpoint(target).ok_or_else(|| invalid("too many or too long targets"))?,
    };
    Ok(Some((head, endpoint)))
}

fn received(buffer: &[u8], head: &Head) -> io::Result<Received> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    request.parse(buffer).map_err(io::Error::other)?;
    Ok(Received {
        target: request.path.unwrap_or("/").to_owned(),
        headers: request
            .headers
            .iter()
            .map(|header| (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned()))
            .collect(),
        body: Bytes::copy_from_slice(&buffer[head.head_bytes..head.head_bytes + head.body_bytes]),
    })
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::clock::SystemClock;
    use std::io::{Read, Write};

    fn exchange(receiver: &Receiver, request: &str) -> io::Result<String> {
        let mut stream = std::net::TcpStream::connect(receiver.addr())?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(request.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    fn post(target: &str, id: &str) -> String {
        format!(
            "POST {target} HTTP/1.1\r\nhost: x\r\nWebhook-Id: {id}\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}"
        )
    }

    #[test]
    fn a_target_says_how_it_behaves() {
        assert_eq!(Behaviour::of("/ok/7?x=1"), Behaviour::Ok);
        assert_eq!(Behaviour::of("/slow?ms=20"), Behaviour::Slow(Duration::from_millis(20)));
        assert_eq!(Behaviour::of("/slow/1?ms=999999999"), Behaviour::Slow(HOLD_MAX));
        assert_eq!(Behaviour::of("/hang"), Behaviour::Hang);
        assert_eq!(Behaviour::of("/"), Behaviour::NotFound);
    }

    #[test]
    fn arrivals_are_counted_by_target_and_id() {
        let clock = SystemClock::shared();
        let receiver = Receiver::start(ReceiverOptions::new(&clock)).expect("receiver");
        for id in ["a", "b", "a"] {
            let text = exchange(&receiver, &post("/ok/1", id)).expect("answer");
            assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        }
        let counts = receiver.counts("/ok/1");
        assert_eq!((counts.requests, counts.distinct, counts.duplicates), (3, 2, 1));
        assert_eq!(receiver.counts("/ok/2"), Counts::default());
        assert!(receiver.arrived_ns("/ok/1", "a") < receiver.arrived_ns("/ok/1", "b"));
        assert_eq!(receiver.arrived_ns("/ok/1", "c"), None);
    }

    #[test]
    fn failing_slow_and_big_endpoints_answer_as_they_should() {
        let clock = SystemClock::shared();
        let receiver = Receiver::start(ReceiverOptions::new(&clock)).expect("receiver");
        assert!(exchange(&receiver, &post("/fail", "a")).expect("answer").starts_with("HTTP/1.1 500"));
        assert!(exchange(&receiver, &post("/slow?ms=1", "a")).expect("answer").starts_with("HTTP/1.1 200"));
        let big = exchange(&receiver, &post("/big", "a")).expect("answer");
        assert_eq!(big.len(), BIG_HEAD.len() + BIG_BYTES);
    }

    #[test]
    fn a_reset_endpoint_closes_without_an_answer() {
        let clock = SystemClock::shared();
        let receiver = Receiver::start(ReceiverOptions::new(&clock)).expect("receiver");
        let error = exchange(&receiver, &post("/reset", "a")).expect_err("reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(receiver.counts("/reset").requests, 1);
    }

    #[test]
    fn an_observer_sees_headers_and_body() {
        let clock = SystemClock::shared();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        let observer: Observer = Arc::new(move |received| sink.lock().push(received.clone()));
        let receiver = Receiver::start(ReceiverOptions::new(&clock).observer(observer)).expect("receiver");
        exchange(&receiver, &post("/ok", "evt-1")).expect("answer");
        let seen = seen.lock();
        assert_eq!(seen[0].header("webhook-id"), Some("evt-1"));
        assert_eq!(seen[0].body, "{}");
        assert_eq!(seen[0].target, "/ok");
    }

    #[test]
    fn a_receiver_with_a_hanging_connection_still_stops() {
        let clock = SystemClock::shared();
        let receiver = Receiver::start(ReceiverOptions::new(&clock)).expect("receiver");
        let mut stream = std::net::TcpStream::connect(receiver.addr()).expect("connection");
        stream.write_all(post("/hang", "a").as_bytes()).expect("sent");
        drop(receiver);
        let mut rest = Vec::new();
        // Closed or reset, but not left hanging.
        assert!(stream.read_to_end(&mut rest).is_err() || rest.is_empty());
    }
}
