//! `tidegate listen`: live deliveries for a local program, and nothing left behind.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{Api, Delivery, Hub, Receiver, Reply, assert_signed, items, until};

/// A listener at work; killed when dropped.
struct Listening(Child);

impl Listening {
    async fn start(hub: &Hub, acme: &Api, key: &str, receiver: &Receiver, more: &[&str]) -> Self {
        let url = format!("http://{}/", hub.public_address());
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["--json", "listen", "--url", &url, "--key", key, "--to", &receiver.url("/local")]).args(more);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEGATE")) {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let listening = Self(command.spawn().expect("the binary starts"));
        until("somebody listens", || async {
            let page = acme.get("/v1/consumers").await.expect(200).json();
            let name = items(&page).first()?["name"].as_str()?.to_owned();
            let shown = acme.get(&format!("/v1/consumers/{name}")).await.expect(200).json();
            (shown["waiting_clients"] == 1).then_some(())
        })
        .await;
        listening
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Ends it by a signal: what it said on its output and beside it.
    async fn end(mut self, signal: Signal) -> (Vec<Value>, String) {
        self.signal(signal);
        let status = until("the listener ends", || {
            let ended = self.0.try_wait().unwrap();
            async move { ended }
        })
        .await;
        assert!(status.success() || signal == Signal::KILL, "{status}");
        let lines = BufReader::new(self.0.stdout.take().unwrap()).lines();
        let lines = lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
        let mut remarks = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut remarks).unwrap();
        (lines, remarks)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // It may have ended, which is what is wanted.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

async fn consumers(acme: &Api) -> Vec<Value> {
    items(&acme.get("/v1/consumers").await.expect(200).json()).clone()
}

#[tokio::test]
async fn events_go_to_the_local_address_as_a_webhook_would_get_them() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let key = hub.key(&["publish", "consume", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    acme.publish(&json!({"id": "before", "type": "invoice.paid"})).await;
    let wanted = json!({"url": receiver.url("/hook"), "org": "acme", "event_types": ["invoice.*"]});
    acme.webhook(&wanted).await;
    let secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let more = ["--event-types", "invoice.*", "--secret", secret];
    let listening = Listening::start(&hub, &acme, &key, &receiver, &more).await;
    let made = &consumers(&acme).await[0];
    assert_eq!((&made["ephemeral"], &made["event_types"]), (&json!(true), &json!(["invoice.*"])), "{made}");
    receiver.script("/local", [Reply::Status(500)]);
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let body = format!(
        r#"{{"id":"e-1","type":"invoice.paid","traceparent":"{traceparent}","data":{{ "b": 1.10,  "a": 12345678901234567890 }}}}"#
    );
    acme.post_bytes("/v1/events", "application/json", body.into_bytes()).await.expect(202);
    acme.publish(&json!({"id": "other", "type": "order.made"})).await;
    // Refused once, it comes again.
    let came = receiver.wait_for("/local", 2).await;
    let hook = receiver.wait_event("/hook", "e-1").await;
    for one in &came {
        assert_eq!((one.id(), &one.body), ("e-1", &hook.body), "the body of a webhook, byte for byte");
        assert_signed(one, secret);
        let names =
            |one: &Delivery| one.headers.keys().filter(|name| *name != "user-agent").cloned().collect::<Vec<_>>();
        assert_eq!(names(one), names(&hook));
        assert_eq!(one.header("content-type"), hook.header("content-type"));
    }
    until("both results are taken", || async {
        let stats = hub.admin().get("/v1/admin/stats").await.expect(200).json();
        (stats["processed"] == 2).then_some(())
    })
    .await;
    let (lines, remarks) = listening.end(Signal::INT).await;
    let told: Vec<_> = lines
        .iter()
        .map(|line| {
            (
                line["id"].as_str().unwrap(),
                line["attempt"].as_u64(),
                line["status"].as_u64(),
                line["delivered"].as_bool(),
            )
        })
        .collect();
    assert_eq!(told, [("e-1", Some(1), Some(500), Some(false)), ("e-1", Some(2), Some(200), Some(true))]);
    assert!(lines[0]["latency_ms"].is_u64() && lines[0]["type"] == "invoice.paid", "{lines:?}");
    assert!(!remarks.contains("signing secret"), "a secret that was given is not shown: {remarks}");
    assert!(consumers(&acme).await.is_empty(), "nothing is left behind");
}

#[tokio::test]
async fn without_retries_each_event_is_posted_once_and_a_secret_is_made() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let key = hub.key(&["publish", "consume", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    receiver.script("/local", [Reply::Status(500), Reply::Reset, Reply::Status(400)]);
    let listening = Listening::start(&hub, &acme, &key, &receiver, &["--no-retry", "--concurrency", "1"]).await;
    for n in 0..4 {
        acme.publish(&json!({"id": format!("e-{n}"), "type": "a.b"})).await;
    }
    until("all are settled", || async {
        let stats = hub.admin().get("/v1/admin/stats").await.expect(200).json();
        (stats["processed"] == 4).then_some(())
    })
    .await;
    let (lines, remarks) = listening.end(Signal::TERM).await;
    let told: Vec<_> = lines.iter().map(|line| (line["id"].as_str().unwrap(), line["status"].as_u64())).collect();
    assert_eq!(told, [("e-0", Some(500)), ("e-1", None), ("e-2", Some(400)), ("e-3", Some(200))]);
    let secret = remarks.lines().find_map(|line| line.strip_prefix("signing secret: ")).expect("a secret");
    assert_signed(&receiver.wait_event("/local", "e-3").await, secret);
}

#[tokio::test]
async fn a_listener_outlives_its_hub_and_goes_on_where_it_was() {
    let mut hub = Hub::start().await;
    let receiver = Receiver::start();
    let key = hub.key(&["publish", "consume", "manage", "read"], Some("acme")).await;
    let address = hub.public_address().to_owned();
    let acme = hub.public(&key);
    let listening = Listening::start(&hub, &acme, &key, &receiver, &[]).await;
    acme.publish(&json!({"id": "e-1", "type": "a.b"})).await;
    receiver.wait_event("/local", "e-1").await;
    hub.terminate().await;
    hub.restart_at(&address).await;
    let acme = hub.public(&key);
    acme.publish(&json!({"id": "e-2", "type": "a.b"})).await;
    receiver.wait_event("/local", "e-2").await;
    let (_, remarks) = listening.end(Signal::INT).await;
    assert!(remarks.contains("the stream ended"), "{remarks}");
    assert!(consumers(&acme).await.is_empty());
}

#[tokio::test]
async fn what_a_listener_cannot_do_it_says() {
    let hub = Hub::start().await;
    let key = hub.key(&["consume", "manage"], Some("acme")).await;
    let url = format!("http://{}/", hub.public_address());
    for (args, code, words) in [
        (vec!["--to", "ftp://x/", "--key", &key], 2, "--to"),
        (vec!["--to", "http://127.0.0.1:9/", "--secret", "weak", "--key", &key], 2, "--secret"),
        (vec!["--to", "http://127.0.0.1:9/", "--event-types", "a..b", "--key", &key], 4, "event_types"),
        (vec!["--to", "http://127.0.0.1:9/", "--key", "tgk_none"], 4, "401"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        let output = command.args(["listen", "--url", &url]).args(&args).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
        assert!(told.contains(words), "{args:?}: {told}");
    }
}
