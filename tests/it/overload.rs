//! More than the hub can take: slow clients, idle clients, more bytes than the queue holds (ING-5, SEC-7).

use futures_util::StreamExt as _;
use futures_util::stream;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{DEADLINE, Hub, Receiver, Reply, retry, until};

/// Everything the hub sends until it closes the connection.
async fn read_to_end(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset closes it as well.
    tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("the hub closes it").ok();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_client_that_sends_its_body_or_its_head_too_slowly_is_let_go() {
    let hub = Hub::start_with(&[("SERVER__BODY_TIMEOUT_MS", "300"), ("SERVER__SLOW_REQUEST_MS", "2000")]).await;
    let key = hub.key(&["publish", "read"], Some("acme")).await;
    let half = r#"{"id":"slow","type":"#;
    for path in ["/v1/events", "/v1/events/batch", "/v1/events/stream"] {
        let mut stream = TcpStream::connect(hub.public_address()).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: hub\r\nx-api-key: {key}\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{half}"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = read_to_end(stream).await;
        let refused = answer.is_empty() || !answer.starts_with("HTTP/1.1 2") || path.ends_with("stream");
        assert!(refused && !answer.contains(r#""seq""#), "{path}: {answer}");
        if path == "/v1/events" && !answer.is_empty() {
            assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("request-timeout"), "{answer}");
        }
    }
    let mut stream = TcpStream::connect(hub.public_address()).await.unwrap();
    stream.write_all(b"POST /v1/events HTTP/1.1\r\nhost: hub\r\nx-api").await.unwrap();
    let answer = read_to_end(stream).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    hub.public(&key).get("/v1/events/slow").await.expect(404);
}

#[tokio::test]
async fn thousands_of_idle_connections_do_not_keep_others_out() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(1 << 20);
    // Both sides are held by processes of this machine; a small limit makes a small test, and it says so.
    let count = usize::try_from(limit).unwrap().saturating_sub(600).min(10_000);
    eprintln!("{count} idle connections");
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let address = hub.public_address();
    let mut idle: Vec<TcpStream> = Vec::with_capacity(count);
    for _ in 0..count {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    for n in 0..50 {
        acme.publish(&json!({"id": format!("busy-{n}"), "type": "a.b"})).await;
    }
    acme.get("/v1/events/busy-49").await.expect(200);
    hub.admin().get("/readyz").await.expect(200);
    let memory = hub.peak_memory_bytes();
    assert!(memory < 600 << 20, "{memory} bytes with {count} idle connections");
    drop(idle);
}

#[tokio::test]
async fn past_the_queue_producers_are_told_to_come_back_and_nothing_acknowledged_is_lost() {
    const BODY_BYTES: usize = 700_000;
    let settings = [
        ("LOG__INGEST_QUEUE_BYTES", "1048576"),
        ("LIMITS__BATCH_BYTES_MAX", "1048576"),
        ("LOG__TAIL_RING_BYTES", "4194304"),
    ];
    let hub = Hub::start_with(&settings).await;
    let receiver = Receiver::start();
    receiver.forget_bodies();
    receiver.always("/hang", Reply::Hold);
    let key = hub.key(&["publish", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key).pooled();
    for path in ["/hook", "/hang"] {
        let wanted = json!({"url": receiver.url(path), "org": "acme", "event_types": ["*"], "retry": retry(&[50; 5])});
        acme.webhook(&wanted).await;
    }
    let filling = "x".repeat(BODY_BYTES);
    let (mut acknowledged, mut shed, mut wave) = (Vec::new(), 0, 0);
    while shed == 0 || acknowledged.is_empty() {
        wave += 1;
        assert!(wave <= 20, "{} large events at once filled no queue of 1 MiB", 48);
        let answers: Vec<_> = stream::iter(0..48)
            .map(|n| {
                let body = format!(r#"{{"id":"w{wave}-{n}","type":"a.b","data":"{filling}"}}"#).into_bytes();
                let (acme, headers) = (acme.clone(), [("content-type", "application/json")]);
                async move { (n, acme.try_send(Method::POST, "/v1/events", &headers, Some(body)).await) }
            })
            .buffer_unordered(48)
            .collect()
            .await;
        for (n, answer) in answers {
            let id = format!("w{wave}-{n}");
            // A hub that sheds may close the connection before it has read what it will not take.
            let Ok(answer) = answer else { continue };
            match answer.status {
                202 => acknowledged.push(id),
                503 => {
                    shed += 1;
                    let seconds = answer.header("retry-after").and_then(|text| text.parse::<u64>().ok());
                    assert!(seconds.is_some_and(|seconds| seconds >= 1), "{:?}", answer.headers);
                    let problem = answer.expect_problem(503, "overloaded").json();
                    assert_eq!(problem["retryable"], true, "{problem}");
                }
                other => panic!("{other}: {}", answer.text),
            }
        }
    }
    eprintln!("{} acknowledged, {shed} told to come back", acknowledged.len());
    for id in &acknowledged {
        let event = acme.get(&format!("/v1/events/{id}")).await.expect(200);
        assert!(event.text.len() > BODY_BYTES, "{id} is whole");
        receiver.wait_event("/hook", id).await;
    }
    let memory = hub.peak_memory_bytes();
    assert!(memory < 700 << 20, "{memory} bytes");
    // It recovers by itself.
    until("the hub takes events again", || async {
        let answer = acme.post("/v1/events", &json!({"id": "after", "type": "a.b"})).await;
        [200, 202].contains(&answer.status).then_some(())
    })
    .await;
    hub.anonymous().get("/readyz").await.expect(200);
}

#[tokio::test]
async fn one_org_that_floods_is_told_to_come_back_and_another_never_is() {
    const BODY_BYTES: usize = 400_000;
    let hub = Hub::start_with(&[("LOG__INGEST_QUEUE_BYTES", "2097152"), ("LIMITS__BATCH_BYTES_MAX", "1048576")]).await;
    let flood = hub.public(&hub.key(&["publish"], Some("flood")).await).pooled();
    let quiet = hub.public(&hub.key(&["publish", "read"], Some("quiet")).await);
    let filling = "x".repeat(BODY_BYTES);
    let mut shed = 0;
    for wave in 0..20 {
        let flooding = stream::iter(0..48).map(|n| {
            let body = format!(r#"{{"id":"w{wave}-{n}","type":"a.b","data":"{filling}"}}"#).into_bytes();
            let (flood, headers) = (flood.clone(), [("content-type", "application/json")]);
            async move { flood.try_send(Method::POST, "/v1/events", &headers, Some(body)).await }
        });
        let flooding = flooding.buffer_unordered(48).collect::<Vec<_>>();
        let going_on = async {
            for n in 0..20 {
                let event = json!({"id": format!("q{wave}-{n}"), "type": "a.b"});
                quiet.post("/v1/events", &event).await.expect(202);
            }
        };
        let (answers, ()) = tokio::join!(flooding, going_on);
        for answer in answers.into_iter().flatten() {
            match answer.status {
                202 => {}
                503 => {
                    shed += 1;
                    let problem = answer.expect_problem(503, "overloaded").json();
                    let detail = problem["detail"].as_str().unwrap_or_default();
                    assert!(detail.contains("share"), "what is full is its own share: {detail}");
                }
                other => panic!("{other}: {}", answer.text),
            }
        }
        if shed > 0 {
            break;
        }
    }
    assert!(shed > 0, "the flood was never told to come back");
}
