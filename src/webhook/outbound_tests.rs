use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::*;
use crate::ground::clock::{ManualClock, SystemClock, UnixMs};
use crate::retry::classify::Verdict;

const OPEN: AddressPolicy = AddressPolicy { allow_private: true, allowed: Vec::new() };

/// Reads one request from the stream: its head and as much body as its length says. `None` at the end.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let count = stream.read(&mut chunk).await.ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&chunk[..count]);
        let text = String::from_utf8_lossy(&bytes).to_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.split_once("content-length: ").map_or("0", |(_, rest)| rest.lines().next().unwrap_or("0"));
        if body.len() >= length.parse::<usize>().expect("a length") {
            return Some(text);
        }
    }
}

struct Server {
    url: Url,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

/// A server that gives the same answer to every request and keeps connections open.
async fn answering(answer: impl Into<Vec<u8>>) -> Server {
    let answer = Arc::new(answer.into());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = url_of(&listener);
    let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let server = Server { url, connections: Arc::clone(&connections), requests: Arc::clone(&requests) };
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.fetch_add(1, Ordering::SeqCst);
            let (answer, requests) = (Arc::clone(&answer), Arc::clone(&requests));
            tokio::spawn(async move {
                while read_request(&mut stream).await.is_some() {
                    requests.fetch_add(1, Ordering::SeqCst);
                    if stream.write_all(&answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    server
}

fn url_of(listener: &TcpListener) -> Url {
    let port = listener.local_addr().expect("bound").port();
    Url::parse(&format!("http://127.0.0.1:{port}/hook?token=s3cret")).expect("a URL")
}

fn quick() -> OutboundSettings {
    OutboundSettings { connect_timeout_ms: 2_000, total_timeout_ms: 200, ..OutboundSettings::default() }
}

fn outbound(settings: OutboundSettings) -> Outbound {
    Outbound::new(OPEN, settings).expect("a client")
}

async fn post(outbound: &Outbound, url: &Url) -> Answer {
    outbound.post(request(url), &*SystemClock::shared()).await
}

fn request(url: &Url) -> Request<'_> {
    let body = Bytes::from_static(b"{\"a\":1}");
    Request { method: Method::POST, url, headers: HeaderMap::new(), body, timeout_ms: None, hide: &[] }
}

/// The kind and the message of a failure.
fn failed(answer: &Answer) -> (FailureKind, &str) {
    match &answer.result {
        AttemptResult::Failed { kind, message, .. } => (*kind, message),
        AttemptResult::Delivered { status } => panic!("delivered with {status}"),
    }
}

#[tokio::test]
async fn a_2xx_is_delivered_and_its_body_kept() {
    let server = answering("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nall\nfine!").await;
    let answer = post(&outbound(OutboundSettings::default()), &server.url).await;
    assert_eq!(answer.result, AttemptResult::Delivered { status: 200 });
    assert_eq!((answer.status, answer.snippet.as_str()), (Some(200), "all fine!"));
}

#[tokio::test]
async fn the_request_is_sent_as_it_was_given() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = url_of(&listener);
    let (sender, receiver) = oneshot::channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accepts");
        let request = read_request(&mut stream).await.expect("a request");
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("writes");
        sender.send(request).expect("the test waits");
    });
    let mut headers = HeaderMap::new();
    headers.insert("webhook-id", header::HeaderValue::from_static("evt_1"));
    let clock = SystemClock::shared();
    let answer = outbound(OutboundSettings::default())
        .post(Request { headers, body: Bytes::from_static(b"{}"), ..request(&url) }, &*clock)
        .await;
    assert_eq!(answer.result, AttemptResult::Delivered { status: 204 });
    let request = receiver.await.expect("the server saw it");
    assert!(request.starts_with("post /hook?token=s3cret http/1.1\r\n"), "{request}");
    assert!(request.contains("webhook-id: evt_1\r\n"), "{request}");
    assert!(request.contains(concat!("user-agent: tidegate/", env!("CARGO_PKG_VERSION"), "\r\n")), "{request}");
    assert!(request.ends_with("\r\n\r\n{}"), "{request}");
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let server = answering("HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\nno").await;
    let outbound = outbound(OutboundSettings::default());
    for _ in 0..5 {
        let answer = post(&outbound, &server.url).await;
        assert_eq!(failed(&answer), (FailureKind::Status, "the endpoint answered 500"));
        assert_eq!(answer.result.verdict(), Verdict::Retry);
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    assert_eq!(server.requests.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn a_429_says_how_long_to_wait_in_seconds_or_as_a_date() {
    let clock = ManualClock::starting_at(UnixMs(784_111_777_000));
    for (value, expected_ms) in [("30", 30_000), ("Sun, 06 Nov 1994 08:50:37 GMT", 60_000)] {
        let server = answering(format!("HTTP/1.1 429 Slow\r\nretry-after: {value}\r\ncontent-length: 0\r\n\r\n")).await;
        let answer = outbound(OutboundSettings::default()).post(request(&server.url), &*clock).await;
        let AttemptResult::Failed { retry_after_ms, status, .. } = answer.result else { panic!("429 is a failure") };
        assert_eq!((status, retry_after_ms), (Some(429), Some(expected_ms)));
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let target = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    for status in [301, 302, 307, 308] {
        let head = format!("HTTP/1.1 {status} Elsewhere\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", target.url);
        let server = answering(head).await;
        let answer = post(&outbound(OutboundSettings::default()), &server.url).await;
        assert_eq!((failed(&answer).0, answer.status), (FailureKind::Redirect, Some(status)));
        assert_eq!(answer.result.verdict(), Verdict::GiveUp);
    }
    assert_eq!(target.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_huge_body_is_left_unread_and_the_2xx_still_counts() {
    const BODY_BYTES: usize = 10 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = url_of(&listener);
    let (sender, receiver) = oneshot::channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accepts");
        read_request(&mut stream).await.expect("a request");
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {BODY_BYTES}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("writes");
        let mut written = 0;
        while written < BODY_BYTES && stream.write_all(&[b'x'; 8192]).await.is_ok() {
            written += 8192;
        }
        sender.send(written).expect("the test waits");
    });
    let answer = post(&outbound(OutboundSettings::default()), &url).await;
    assert_eq!(answer.result, AttemptResult::Delivered { status: 200 });
    assert_eq!(answer.snippet, "x".repeat(SNIPPET_CHARS_MAX));
    assert!(receiver.await.expect("the server ends") < BODY_BYTES);
}

#[tokio::test]
async fn a_connection_that_breaks_is_a_failure_to_connect() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = url_of(&listener);
    tokio::spawn(async move {
        // Closing with the request unread makes the kernel send a reset.
        while let Ok((stream, _)) = listener.accept().await {
            stream.readable().await.expect("a request comes");
            drop(stream);
        }
    });
    let answer = post(&outbound(OutboundSettings::default()), &url).await;
    assert_eq!((failed(&answer).0, answer.status), (FailureKind::Connect, None));
    assert!(!failed(&answer).1.contains("s3cret"), "{answer:?}");
}

#[tokio::test]
async fn nobody_listening_is_a_failure_to_connect() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = url_of(&listener);
    drop(listener);
    let answer = post(&outbound(OutboundSettings::default()), &url).await;
    let (kind, message) = failed(&answer);
    assert_eq!(kind, FailureKind::Connect);
    assert!(message.starts_with("could not connect: Connection refused"), "{message}");
}

#[tokio::test]
async fn what_is_no_http_is_a_failure_to_connect() {
    let server = answering("SSH-2.0-OpenSSH_9.2\r\n\r\n").await;
    let answer = post(&outbound(OutboundSettings::default()), &server.url).await;
    assert_eq!(failed(&answer).0, FailureKind::Connect);
}

#[tokio::test]
async fn an_endpoint_that_never_answers_times_out() {
    let server = answering("").await;
    let answer = post(&outbound(quick()), &server.url).await;
    assert_eq!(failed(&answer), (FailureKind::Timeout, "no complete answer within 200 ms"));
    assert_eq!(answer.status, None);
}

#[tokio::test]
async fn a_body_that_never_ends_times_out_and_the_status_is_kept() {
    let server = answering("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart").await;
    let answer = post(&outbound(quick()), &server.url).await;
    assert_eq!(failed(&answer).0, FailureKind::Timeout);
    assert_eq!((answer.status, answer.snippet.as_str()), (Some(200), "part"));
}

#[tokio::test]
async fn a_failure_stays_what_its_status_says_when_its_body_breaks_off() {
    let server = answering("HTTP/1.1 410 Gone\r\ncontent-length: 100\r\n\r\npart").await;
    let answer = post(&outbound(quick()), &server.url).await;
    assert_eq!((failed(&answer).0, answer.result.verdict()), (FailureKind::Gone, Verdict::GiveUpAndDisable));
}

#[tokio::test]
async fn a_server_without_tls_fails_https_as_tls() {
    let server = answering("HTTP/1.1 400 Bad\r\ncontent-length: 0\r\n\r\n").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let mut url = server.url.clone();
    url.set_scheme("https").expect("https");
    url.set_port(Some(listener.local_addr().expect("bound").port())).expect("a port");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.readable().await.expect("a hello comes");
            stream.write_all(b"HTTP/1.1 400 Bad\r\n\r\n").await.expect("writes");
            // The hello is read to its end, so that the answer is not lost in a reset.
            while stream.read(&mut [0; 4096]).await.is_ok_and(|count| count > 0) {}
        }
    });
    let answer = post(&outbound(OutboundSettings::default()), &url).await;
    assert_eq!(failed(&answer).0, FailureKind::Tls, "{answer:?}");
}

#[tokio::test]
async fn forbidden_literal_addresses_are_never_connected_to() {
    let server = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let port = server.url.port().expect("a port");
    let guarded = Outbound::new(AddressPolicy::default(), OutboundSettings::default()).expect("a client");
    for host in ["127.0.0.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "localhost", "[::1]", "0.0.0.0"] {
        let url = Url::parse(&format!("http://{host}:{port}/?token=s3cret")).expect("a URL");
        let answer = post(&guarded, &url).await;
        let (kind, message) = failed(&answer);
        assert_eq!(kind, FailureKind::Refused, "{host}");
        assert!(message.contains("is not allowed") && !message.contains("s3cret"), "{message}");
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 0);
}

/// A client for which every name has these addresses.
fn looking_up(policy: AddressPolicy, found: &[&str]) -> Outbound {
    let found: Vec<SocketAddr> = found.iter().map(|ip| SocketAddr::new(ip.parse().expect("an address"), 0)).collect();
    let lookup = move |_: String| -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        let found = found.clone();
        Box::pin(async move { Ok(found) })
    };
    Outbound::with_lookup(policy, OutboundSettings::default(), Arc::new(lookup)).expect("a client")
}

#[tokio::test]
async fn a_name_that_points_inside_is_refused() {
    let server = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let mut url = server.url.clone();
    url.set_host(Some("hooks.example")).expect("a host");
    for inside in [&["127.0.0.1"][..], &["::ffff:127.0.0.1"], &["169.254.169.254", "127.0.0.1"]] {
        let answer = post(&looking_up(AddressPolicy::default(), inside), &url).await;
        assert_eq!(failed(&answer).0, FailureKind::Refused, "{inside:?}: {answer:?}");
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn of_several_addresses_only_the_allowed_are_tried() {
    let server = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let mut url = server.url.clone();
    url.set_host(Some("hooks.example")).expect("a host");
    let policy = AddressPolicy { allow_private: false, allowed: vec!["127.0.0.1/32".parse().expect("a network")] };
    let answer = post(&looking_up(policy, &["10.0.0.1", "127.0.0.1", "0.0.0.0"]), &url).await;
    assert_eq!(answer.result, AttemptResult::Delivered { status: 200 });
}

#[tokio::test]
async fn a_name_without_an_address_is_a_dns_failure() {
    let url = Url::parse("http://hooks.example/?token=s3cret").expect("a URL");
    let nothing = looking_up(OPEN, &[]);
    let failing = |_: String| -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        Box::pin(async { Err(io::Error::other("Name or service not known")) })
    };
    let failing = Outbound::with_lookup(OPEN, OutboundSettings::default(), Arc::new(failing)).expect("a client");
    for outbound in [nothing, failing] {
        let answer = post(&outbound, &url).await;
        let (kind, message) = failed(&answer);
        assert_eq!(kind, FailureKind::Dns);
        assert!(message.starts_with("the name hooks.example has no address: "), "{message}");
    }
}

#[tokio::test]
async fn the_machines_own_look_up_is_guarded() {
    let resolver =
        GuardedResolver { policy: Arc::new(AddressPolicy::default()), lookup: Arc::new(system_lookup), exempt: None };
    let error = resolver.resolve("localhost".parse().expect("a name")).await.err().expect("loopback is refused");
    assert!(error.downcast_ref::<AddressRefused>().is_some(), "{error}");
}

#[test]
fn a_user_agent_that_is_no_header_makes_no_client() {
    let settings = OutboundSettings { user_agent: "a\nb".to_owned(), ..OutboundSettings::default() };
    assert!(Outbound::new(OPEN, settings).is_err());
}

#[test]
fn a_snippet_holds_500_visible_characters() {
    assert_eq!(visible("ä\u{1b}[31m\r\n\0\u{7f}\u{202e}x".as_bytes(), &[]), "ä␛[31m  ␀␡\u{fffd}x");
    let token = [Secret::new("token-4711"), Secret::new("a")];
    assert_eq!(visible(b"you sent token-4711, a fine one", &token), "you sent ***, a fine one");
    assert_eq!(visible(format!("{}token-4711", "x".repeat(495)).as_bytes(), &token), format!("{}***", "x".repeat(495)));
    // What was read ends within a secret: what is there of it is hidden, too.
    assert_eq!(visible(b"you sent token-4711, token-47", &token), "you sent ***, ***");
    assert_eq!(visible(b"a token", &token), "a token", "too short to tell it from a word");
    assert_eq!(visible(&[0xff, b'a', 0xc3], &[]), "\u{fffd}a\u{fffd}");
    assert_eq!(visible("😀".repeat(600).as_bytes(), &[]).chars().count(), SNIPPET_CHARS_MAX);
}
