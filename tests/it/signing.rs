//! How deliveries are signed: three modes, and rotation with an overlap that survives a kill (WHK-2, WHK-3).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Verifier as _, VerifyingKey};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use tidegate::ground::clock::{Clock as _, ManualClock};
use tidegate::ground::context::WriteContext;
use tidegate::ground::fields::Fields;
use tidegate::store::Registry as _;

use crate::embed::{START, directory, open, publish, stop_settled};
use crate::support::{Delivery, Hub, Receiver, assert_signed, retry, until};

fn hook(receiver: &Receiver, path: &str, signing: &str) -> Value {
    json!({"url": receiver.url(path), "org": "acme", "event_types": ["*"], "retry": retry(&[50]), "signing": signing})
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("{name}: {value}"))
}

/// Whether one of the delivery's signatures is that of this secret.
fn signed_by(delivery: &Delivery, secret: &str) -> bool {
    std::panic::catch_unwind(|| assert_signed(delivery, secret)).is_ok()
}

fn plain(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}

fn verified(delivery: &Delivery, public: &str) -> bool {
    let bytes = STANDARD.decode(public.strip_prefix("whpk_").unwrap()).unwrap();
    let key = VerifyingKey::from_bytes(&bytes.try_into().unwrap()).unwrap();
    let mut signed = format!("{}.{}.", delivery.id(), delivery.header("webhook-timestamp")).into_bytes();
    signed.extend_from_slice(&delivery.body);
    delivery.header("webhook-signature").split(' ').any(|one| {
        let bytes = STANDARD.decode(one.strip_prefix("v1a,").unwrap()).unwrap();
        key.verify(&signed, &Signature::from_slice(&bytes).unwrap()).is_ok()
    })
}

#[tokio::test]
async fn with_a_key_pair_receivers_need_the_public_key_alone() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    let webhook = acme.webhook(&hook(&receiver, "/hook", "ed25519")).await;
    assert!(webhook.get("signing_secret").is_none(), "a private key is told to nobody: {webhook}");
    let path = format!("/v1/webhooks/{}", text(&webhook, "id"));
    let shown = acme.get(&path).await.expect(200).json();
    assert_eq!((&shown["public_key"], &shown["signing"]), (&webhook["public_key"], &json!("ed25519")));
    acme.publish(&json!({"id": "one", "type": "a.b"})).await;
    let first = receiver.wait_event("/hook", "one").await;
    assert!(verified(&first, text(&webhook, "public_key")), "{first:?}");

    let rotated = acme.post(&format!("{path}/rotate-secret"), &json!({})).await.expect(200).json();
    assert!(rotated.get("signing_secret").is_none(), "{rotated}");
    assert_eq!(rotated["previous_secret"]["public_key"], webhook["public_key"], "{rotated}");
    assert_ne!(rotated["public_key"], webhook["public_key"]);
    acme.publish(&json!({"id": "two", "type": "a.b"})).await;
    let second = receiver.wait_event("/hook", "two").await;
    assert!(verified(&second, text(&webhook, "public_key")) && verified(&second, text(&rotated, "public_key")));
    assert!(!verified(&first, text(&rotated, "public_key")));
}

#[tokio::test]
async fn the_plain_mode_signs_the_body_and_a_rotation_breaks_no_receiver_of_one_secret() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    let webhook = acme.webhook(&hook(&receiver, "/hook", "hmac_sha256_hex")).await;
    let old = text(&webhook, "signing_secret");
    acme.publish(&json!({"id": "one", "type": "a.b"})).await;
    let first = receiver.wait_event("/hook", "one").await;
    assert_eq!(first.header("x-signature"), plain(old, &first.body));
    assert!(!first.headers.contains_key("webhook-signature") && !first.headers.contains_key("x-signature-next"));

    let path = format!("/v1/webhooks/{}", text(&webhook, "id"));
    let rotated = acme.post(&format!("{path}/rotate-secret"), &json!({"overlap_ms": 3_600_000})).await;
    let rotated = rotated.expect(200).json();
    acme.publish(&json!({"id": "two", "type": "a.b"})).await;
    let second = receiver.wait_event("/hook", "two").await;
    assert_eq!(second.header("x-signature"), plain(old, &second.body));
    assert_eq!(second.header("x-signature-next"), plain(text(&rotated, "signing_secret"), &second.body));
    // Without an overlap the old one is gone at once.
    let last = acme.post(&format!("{path}/rotate-secret"), &json!({"overlap_ms": 0})).await.expect(200).json();
    assert_eq!(last["previous_secret"], Value::Null, "{last}");
    acme.publish(&json!({"id": "three", "type": "a.b"})).await;
    let third = receiver.wait_event("/hook", "three").await;
    assert_eq!(third.header("x-signature"), plain(text(&last, "signing_secret"), &third.body));
    assert!(!third.headers.contains_key("x-signature-next"));
}

#[tokio::test]
async fn a_rotation_that_was_acknowledged_holds_after_a_kill() {
    let mut hub = Hub::start().await;
    let receiver = Receiver::start();
    let key = hub.key(&["publish", "manage", "read"], Some("acme")).await;
    let webhook = hub.public(&key).webhook(&hook(&receiver, "/hook", "standard")).await;
    let path = format!("/v1/webhooks/{}", text(&webhook, "id"));
    let mut secrets = vec![text(&webhook, "signing_secret").to_owned()];
    for round in 0..4 {
        let acme = hub.public(&key);
        let rotated = acme.act(&format!("{path}/rotate-secret")).await.expect(200).json();
        hub.kill();
        secrets.push(text(&rotated, "signing_secret").to_owned());
        hub.restart().await;
        let acme = hub.public(&key);
        let shown = acme.get(&path).await.expect(200);
        assert!(
            secrets.iter().all(|secret| !shown.text.contains(secret.trim_start_matches("whsec_"))),
            "{}",
            shown.text
        );
        let (new, old) = (&secrets[round + 1], &secrets[round]);
        assert_eq!(shown.json()["secret_last4"], new[new.len() - 4..]);
        assert_eq!(shown.json()["previous_secret"]["secret_last4"], old[old.len() - 4..]);
        let id = acme.publish(&json!({"id": format!("r-{round}"), "type": "a.b"})).await;
        let delivery = receiver.wait_event("/hook", &id).await;
        let by: Vec<_> = secrets.iter().map(|secret| signed_by(&delivery, secret)).collect();
        let mut wanted = vec![false; round + 2];
        wanted[round..].fill(true);
        assert_eq!(by, wanted, "the last two secrets sign, no older one");
    }
}

#[tokio::test]
async fn when_the_overlap_ends_the_old_secret_signs_no_more_and_leaves_the_store() {
    let dir = directory();
    let clock = ManualClock::starting_at(START);
    let receiver = Receiver::start();
    let private = |config: &mut tidegate::config::Config| config.delivery.allow_private_networks = true;
    let hub = open(dir.path(), clock.clone(), private).await;
    let fields = |value: Value| Fields::parse(value.to_string().as_bytes()).unwrap();
    let context = || WriteContext { by: "test".into(), at: clock.now(), ..WriteContext::default() };
    let wanted = fields(hook(&receiver, "/hook", "standard"));
    let (record, old) = hub.create_webhook(wanted, Some("acme"), context()).await.unwrap();
    let hour = fields(json!({"overlap_ms": 3_600_000}));
    let (rotated, new) = hub.rotate_webhook_secret(&record.id, None, hour, context()).await.unwrap();
    let sealed_old = record.sealed_secret.clone();
    assert_eq!(rotated.previous.as_ref().map(|previous| &previous.sealed_secret), Some(&sealed_old));

    clock.advance(Duration::from_millis(3_599_999));
    publish(&hub, "a.b", "during").await;
    let during = receiver.wait_event("/hook", "during").await;
    assert!(signed_by(&during, old.secret.expose()) && signed_by(&during, new.secret.expose()));
    clock.advance(Duration::from_millis(1));
    publish(&hub, "a.b", "after").await;
    let after = receiver.wait_event("/hook", "after").await;
    assert!(!signed_by(&after, old.secret.expose()) && signed_by(&after, new.secret.expose()));

    let kind = "webhook";
    until("the old secret leaves the store", || async {
        // Whoever looks once a minute may have gone to sleep after the last move of the clock.
        clock.advance(Duration::from_secs(60));
        let document = hub.engine().get(kind, &record.id).unwrap().unwrap();
        let stored = String::from_utf8(document.bytes).unwrap();
        assert!(stored.contains(&rotated.sealed_secret), "the new one stays");
        (!stored.contains(&sealed_old)).then_some(())
    })
    .await;
    until("and memory", || async { hub.webhook(&record.id, None).unwrap().previous.is_none().then_some(()) }).await;
    stop_settled(&hub).await;
}

#[tokio::test]
async fn a_rotation_or_mode_that_does_not_fit_is_refused_by_its_field() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    let webhook = acme.webhook(&hook(&receiver, "/hook", "standard")).await;
    let path = format!("/v1/webhooks/{}", text(&webhook, "id"));
    for (field, body) in [
        ("overlap_ms", json!({"overlap_ms": 604_800_001_u64})),
        ("overlap_ms", json!({"overlap_ms": -1})),
        ("overlap_ms", json!({"overlap_ms": "1h"})),
        ("overlap", json!({"overlap": 1})),
        ("body", json!([1])),
    ] {
        let answer = acme.post(&format!("{path}/rotate-secret"), &body).await;
        let problem = answer.expect_problem(400, "invalid-field").json();
        assert_eq!(problem["field"], field, "{problem}");
    }
    acme.act("/v1/webhooks/whk_nothing/rotate-secret").await.expect_problem(404, "not-found");
    let problem = acme.patch(&path, &json!({"signing": "ed25519"})).await.expect_problem(400, "invalid-field").json();
    assert_eq!(problem["field"], "signing", "{problem}");
    acme.patch(&path, &json!({"signing": "standard"})).await.expect(200);
    let problem = acme.post("/v1/webhooks", &hook(&receiver, "/hook", "md5")).await;
    assert_eq!(problem.expect_problem(400, "invalid-field").json()["field"], "signing");
    // Nothing of it has changed the secret.
    let shown = acme.get(&path).await.expect(200).json();
    assert_eq!((&shown["secret_last4"], &shown["previous_secret"]), (&webhook["secret_last4"], &Value::Null));
}
