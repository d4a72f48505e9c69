//! An endpoint for webhooks that answers by script and remembers what it was sent.
//!
//! It runs on a thread of its own, so that a test that is busy or waits for a process does not slow it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

use super::{DEADLINE, until};

/// How a request is answered.
#[derive(Clone, Debug)]
pub enum Reply {
    /// This status and a short body.
    Status(u16),
    /// This status, headers and body.
    With(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// 200, so much later.
    Slow(Duration),
    /// A 200 that stays unanswered until the receiver lets go of what it holds.
    Hold,
    /// The same with this JSON.
    HoldJson(Value),
    /// The connection is reset instead of an answer.
    Reset,
}

impl Reply {
    /// Come back in so many seconds.
    pub fn retry_after(status: u16, seconds: u64) -> Self {
        Self::With(status, vec![("retry-after", seconds.to_string())], Vec::new())
    }

    /// Look elsewhere.
    pub fn redirect(location: String) -> Self {
        Self::With(302, vec![("location", location)], Vec::new())
    }

    fn status(&self) -> Option<u16> {
        match self {
            Self::Status(status) | Self::With(status, ..) => Some(*status),
            Self::Slow(_) | Self::Hold | Self::HoldJson(_) => Some(200),
            Self::Reset => None,
        }
    }
}

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub path: String,
    pub method: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    /// The status it is answered with; none when the connection is reset.
    pub status: Option<u16>,
    /// Which run of the hub sent it, as counted by [`Receiver::next_run`].
    pub run: u64,
}

impl Delivery {
    /// A header; empty when it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The event's id.
    pub fn id(&self) -> &str {
        self.header("webhook-id")
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

type Rule = Box<dyn Fn(&Delivery) -> Reply + Send + Sync>;

#[derive(Default)]
struct Script {
    next: VecDeque<Reply>,
    rule: Option<Rule>,
}

struct Shared {
    scripts: Mutex<HashMap<String, Script>>,
    deliveries: Mutex<Vec<Delivery>>,
    count: watch::Sender<usize>,
    released: watch::Sender<bool>,
    run: AtomicU64,
    open: AtomicUsize,
    keep_bodies: AtomicBool,
}

/// The receiver; it ends when dropped.
pub struct Receiver {
    address: String,
    shared: Arc<Shared>,
    _stop: oneshot::Sender<()>,
}

/// The path of the request that [`Receiver::next_run`] sends to itself.
const FENCE: &str = "/fence";

impl Receiver {
    /// A receiver on a free port that answers 200 to everything it has no script for.
    pub fn start() -> Self {
        let shared = Arc::new(Shared {
            scripts: Mutex::default(),
            deliveries: Mutex::default(),
            count: watch::Sender::new(0),
            released: watch::Sender::new(false),
            run: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            keep_bodies: AtomicBool::new(true),
        });
        let (stop, stopped) = oneshot::channel::<()>();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let accepting = shared.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = accept(listener, accepting) => {}
                    // The sender is dropped, never used.
                    _ = stopped => {}
                }
            });
        });
        Self { address, shared, _stop: stop }
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The next requests on this path are answered so, one reply each, before any rule.
    pub fn script(&self, path: &str, replies: impl IntoIterator<Item = Reply>) {
        self.shared.scripts.lock().entry(path.to_owned()).or_default().next.extend(replies);
    }

    /// Every request on this path is answered as the rule says.
    pub fn answer(&self, path: &str, rule: impl Fn(&Delivery) -> Reply + Send + Sync + 'static) {
        self.shared.scripts.lock().entry(path.to_owned()).or_default().rule = Some(Box::new(rule));
    }

    /// Every request on this path is answered so.
    pub fn always(&self, path: &str, reply: Reply) {
        self.answer(path, move |_| reply.clone());
    }

    /// Answers everything that is held, now and later.
    pub fn release(&self) {
        self.shared.released.send_replace(true);
    }

    /// Forgets bodies from now on, for long loads.
    pub fn forget_bodies(&self) {
        self.shared.keep_bodies.store(false, Ordering::Relaxed);
    }

    /// What came so far, in order of arrival.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.shared.deliveries.lock().clone()
    }

    /// What came so far on this path.
    pub fn on(&self, path: &str) -> Vec<Delivery> {
        self.shared.deliveries.lock().iter().filter(|delivery| delivery.path == path).cloned().collect()
    }

    /// Looks at what came without copying it.
    pub fn look<T>(&self, look: impl FnOnce(&[Delivery]) -> T) -> T {
        look(&self.shared.deliveries.lock())
    }

    /// Waits until what came fits.
    pub async fn wait_until(&self, what: &str, fits: impl Fn(&[Delivery]) -> bool) {
        let mut count = self.shared.count.subscribe();
        let fitting = async {
            loop {
                count.borrow_and_update();
                if fits(&self.shared.deliveries.lock()) {
                    return;
                }
                count.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(DEADLINE, fitting).await.is_err() {
            let came = self.look(|all| {
                let lines =
                    all.iter().rev().take(40).map(|one| format!("{} {} -> {:?}", one.path, one.id(), one.status));
                lines.collect::<Vec<_>>().join("\n")
            });
            panic!("waited {DEADLINE:?} in vain for: {what}; the last that came:\n{came}");
        }
    }

    /// Waits for `count` requests on this path and gives all that came there.
    pub async fn wait_for(&self, path: &str, count: usize) -> Vec<Delivery> {
        let what = format!("{count} requests on {path}");
        self.wait_until(&what, |all| all.iter().filter(|one| one.path == path).count() >= count).await;
        self.on(path)
    }

    /// Waits for a request on this path about this event.
    pub async fn wait_event(&self, path: &str, event_id: &str) -> Delivery {
        let here = |one: &Delivery| one.path == path && one.id() == event_id;
        self.wait_until(&format!("event {event_id} on {path}"), |all| all.iter().any(here)).await;
        self.deliveries().into_iter().find(here).unwrap()
    }

    /// To be called once a hub is dead: waits until everything it had sent is recorded, then counts the next run.
    ///
    /// The listener accepts in order, so when a connection made now is accepted, all of the dead hub's were; and each of
    /// them ends when its data is read, because its other side is gone.
    pub async fn next_run(&self) {
        let mut fence = TcpStream::connect(&self.address).await.unwrap();
        let request = format!("GET {FENCE} HTTP/1.1\r\nhost: receiver\r\nconnection: close\r\n\r\n");
        fence.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        fence.read_to_end(&mut answer).await.unwrap();
        drop(fence);
        until("the dead hub's connections end", || async {
            (self.shared.open.load(Ordering::SeqCst) == 0).then_some(())
        })
        .await;
        self.shared.run.fetch_add(1, Ordering::SeqCst);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        shared.open.fetch_add(1, Ordering::SeqCst);
        let shared = shared.clone();
        tokio::spawn(async move {
            // A connection that breaks is the sender's business: tests look at what arrived.
            serve(stream, &shared).await.ok();
            shared.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn serve(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    while let Some(mut delivery) = read_request(&mut stream, &mut buffer).await? {
        if delivery.path == FENCE {
            return write_answer(&mut stream, 200, &[("connection", "close".to_owned())], b"").await;
        }
        delivery.run = shared.run.load(Ordering::SeqCst);
        let reply = reply_to(&delivery, shared);
        delivery.status = reply.status();
        if !shared.keep_bodies.load(Ordering::Relaxed) {
            delivery.body = Vec::new();
        }
        shared.deliveries.lock().push(delivery);
        shared.count.send_modify(|count| *count += 1);
        match reply {
            Reply::Status(status) => write_answer(&mut stream, status, &[], b"answered by script").await?,
            Reply::With(status, headers, body) => write_answer(&mut stream, status, &headers, &body).await?,
            Reply::Slow(delay) => {
                tokio::time::sleep(delay).await;
                write_answer(&mut stream, 200, &[], b"at last").await?;
            }
            Reply::Hold | Reply::HoldJson(_) => {
                let body = match reply {
                    Reply::HoldJson(value) => value.to_string(),
                    _ => "released".to_owned(),
                };
                let mut released = shared.released.subscribe();
                tokio::select! {
                    // The sender lives as long as the receiver does.
                    _ = released.wait_for(|released| *released) => {}
                    // The hub sends nothing more on this connection, so this is its end.
                    _ = stream.read_u8() => return Ok(()),
                }
                write_answer(&mut stream, 200, &[], body.as_bytes()).await?;
            }
            Reply::Reset => return stream.set_zero_linger(),
        }
    }
    Ok(())
}

fn reply_to(delivery: &Delivery, shared: &Shared) -> Reply {
    let mut scripts = shared.scripts.lock();
    let Some(script) = scripts.get_mut(&delivery.path) else { return Reply::Status(200) };
    match (script.next.pop_front(), &script.rule) {
        (Some(reply), _) => reply,
        (None, Some(rule)) => rule(delivery),
        (None, None) => Reply::Status(200),
    }
}

/// The next request of a connection; none at its end.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<Delivery>> {
    loop {
        if let Some((mut delivery, head_bytes, body_bytes)) = parse_head(buffer)? {
            let whole = head_bytes + body_bytes;
            while buffer.len() < whole {
                if stream.read_buf(buffer).await? == 0 {
                    return Ok(None);
                }
            }
            let rest = buffer.split_off(whole);
            delivery.body = buffer.split_off(head_bytes);
            *buffer = rest;
            return Ok(Some(delivery));
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

/// A request's head when it is complete, its length, and that of the body.
fn parse_head(buffer: &[u8]) -> io::Result<Option<(Delivery, usize, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let head_bytes = match request.parse(buffer).map_err(io::Error::other)? {
        httparse::Status::Complete(bytes) => bytes,
        httparse::Status::Partial => return Ok(None),
    };
    let headers: BTreeMap<String, String> = request
        .headers
        .iter()
        .map(|header| (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned()))
        .collect();
    let body_bytes = headers.get("content-length").map_or(Ok(0), |text| text.parse()).map_err(io::Error::other)?;
    let delivery = Delivery {
        path: request.path.unwrap_or_default().to_owned(),
        method: request.method.unwrap_or_default().to_owned(),
        headers,
        body: Vec::new(),
        status: None,
        run: 0,
    };
    Ok(Some((delivery, head_bytes, body_bytes)))
}

async fn write_answer(stream: &mut TcpStream, status: u16, headers: &[(&str, String)], body: &[u8]) -> io::Result<()> {
    let mut answer = format!("HTTP/1.1 {status} Scripted\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        answer.push_str(&format!("{name}: {value}\r\n"));
    }
    answer.push_str("\r\n");
    stream.write_all(answer.as_bytes()).await?;
    stream.write_all(body).await
}
