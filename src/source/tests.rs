use bytes::Bytes;
use serde_json::{Value, json};

use super::mapping::{Delivered, Mapping, at_pointer, challenge, envelope};
use super::record::{SourceRecord, read_change, read_new};
use super::verify::{Algorithm, Encoding, Received, Refusal, Verification};
use crate::ground::clock::UnixMs;
use crate::ground::context::WriteContext;
use crate::ground::error::Problem;
use crate::ground::fields::Fields;
use crate::ground::secret::Secret;

/// A request and the secrets it is checked against.
struct Case {
    verification: Verification,
    secrets: Vec<&'static str>,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    now_s: u64,
}

impl Case {
    fn check(&self) -> Result<(), Refusal> {
        let secrets: Vec<Secret> = self.secrets.iter().map(|text| Secret::new(*text)).collect();
        let header = |name: &str| self.headers.iter().find(|(known, _)| *known == name).map(|(_, text)| text.as_str());
        let received = Received { header: &header, body: &self.body, now: UnixMs(self.now_s * 1_000) };
        self.verification.check(&secrets, &received)
    }
}

fn case(verification: Verification, secret: &'static str, headers: &[(&'static str, &str)], body: &str) -> Case {
    let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    Case { verification, secrets: vec![secret], headers, body: body.into(), now_s: 0 }
}

/// The published example of each provider; where there is none, one made with another implementation (Python's `hmac`).
fn examples() -> Vec<Case> {
    // GitHub, "Validating webhook deliveries", testing the webhook payload validation.
    let github = case(
        Verification::Github,
        "It's a Secret to Everybody",
        &[("x-hub-signature-256", "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17")],
        "Hello, World!",
    );
    // Slack, "Verifying requests from Slack", the step by step walk-through.
    let slack = Case {
        now_s: 1_531_420_618 + 200,
        ..case(
            Verification::Slack { tolerance_s: 300 },
            "8f742231b10e8888abcd99yyyzzz85a5",
            &[
                ("x-slack-request-timestamp", "1531420618"),
                ("x-slack-signature", "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"),
            ],
            "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c",
        )
    };
    // Stripe publishes the scheme: `t.body` under the whole secret, in hex; further schemes are passed over.
    let stripe = Case {
        now_s: 1_492_774_577,
        ..case(
            Verification::Stripe { tolerance_s: 300 },
            "whsec_test_secret",
            &[(
                "stripe-signature",
                "t=1492774577,v1=0000000000000000000000000000000000000000000000000000000000000000,v1=afe98927a22f76afe0567d7d2ef4dec2c6ff8df0d74f3a7da6d16888ffd99ca0,v0=6ffbb59b2300aae63f272406069a9788598b792a944a07aba816edb039989a39",
            )],
            STRIPE_EVENT,
        )
    };
    let shopify = case(
        Verification::Shopify,
        "hush",
        &[("x-shopify-hmac-sha256", "qT8gIgcbW82AVkR2HkLf+hUng2v07ch9A1OeLw3IaKY=")],
        SHOPIFY_ORDER,
    );
    // Standard Webhooks, the vector of its libraries.
    let standard = Case {
        now_s: 1_649_367_553,
        ..case(
            Verification::StandardWebhooks,
            "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            &[
                ("webhook-id", "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk"),
                ("webhook-timestamp", "1649367553"),
                ("webhook-signature", "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw="),
            ],
            r#"{"email":"test@example.com","username":"test_user"}"#,
        )
    };
    let hmac = case(
        Verification::Hmac {
            header: "x-signature".to_owned(),
            algorithm: Algorithm::Sha512,
            encoding: Encoding::Hex,
            prefix: "sha512=".to_owned(),
        },
        "key",
        &[(
            "x-signature",
            "sha512=b42af09057bac1e2d41708e48a902e09b5ff7f12ab428a4fe86653c73dd248fb82f948a549f7b791a5b41915ee4d1ec3935357e4e2317250d0372afa2ebeeb3a",
        )],
        "The quick brown fox jumps over the lazy dog",
    );
    let sha1 = |encoding, headers| {
        let (header, prefix) = ("x-hub-signature".to_owned(), "sha1=".to_owned());
        let verification = Verification::Hmac { header, algorithm: Algorithm::Sha1, encoding, prefix };
        case(verification, "key", headers, "The quick brown fox jumps over the lazy dog")
    };
    let sha1_hex = sha1(Encoding::Hex, &[("x-hub-signature", "sha1=de7c9b85b8b78aa6bc8a7a36f70a90701c9db4d9")]);
    let sha1_base64 = sha1(Encoding::Base64, &[("x-hub-signature", "sha1=3nybhbi3iqa8ino29wqQcBydtNk=")]);
    let bearer = case(Verification::Bearer, "t0ken", &[("authorization", "bearer t0ken")], "x");
    let basic = Verification::Basic { username: "Aladdin".to_owned() };
    // RFC 7617, section 2.
    let basic = case(basic, "open sesame", &[("authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")], "x");
    vec![github, slack, stripe, shopify, standard, hmac, sha1_hex, sha1_base64, bearer, basic]
}

const STRIPE_EVENT: &str = r#"{"id":"evt_1","object":"event","type":"invoice.paid","created":1492774577,"data":{"object":{"id":"in_1","amount":12345678901234567890}}}"#;
const SHOPIFY_ORDER: &str = r#"{"id":820982911946154508,"total":"199.00"}"#;

#[test]
fn the_example_of_every_provider_verifies() {
    for case in examples() {
        assert_eq!(case.check(), Ok(()), "{:?}", case.verification);
    }
    assert_eq!(case(Verification::None, "", &[], "x").check(), Ok(()));
}

#[test]
fn nothing_verifies_with_another_secret_body_or_header() {
    for at in 0..examples().len() {
        let change = |change: &dyn Fn(&mut Case)| {
            let mut case = examples().remove(at);
            change(&mut case);
            let kind = case.verification.kind();
            (kind, case.check())
        };
        let (kind, refusal) = change(&|case| case.secrets = vec!["whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]);
        assert_eq!(refusal, Err(Refusal::Mismatch), "{kind}");
        let (_, refusal) = change(&|case| case.secrets = Vec::new());
        assert_eq!(refusal, Err(Refusal::Mismatch), "{kind}: no secret lets nobody in");
        let signed = !matches!(kind, "bearer" | "basic");
        if signed {
            let (_, refusal) = change(&|case| case.body.push(b' '));
            assert_eq!(refusal, Err(Refusal::Mismatch), "{kind}");
        }
        for header in 0..examples()[at].headers.len() {
            let (_, refusal) = change(&|case| drop(case.headers.remove(header)));
            assert_eq!(refusal, Err(Refusal::Missing), "{kind}");
            for bad in ["", "v1", "sha256=zz", "v0=", "t=,v1=", "Basic !", "t=1", "\u{fc}"] {
                let (_, refusal) = change(&|case| case.headers[header].1 = bad.to_owned());
                assert!(refusal.is_err(), "{kind}: {bad}");
            }
        }
        // One character of what proves the sender: the last, or the one before the padding or another scheme.
        let (_, refusal) = change(&|case| {
            let last = case.headers.last_mut().map(|(_, text)| text).expect("a header");
            let end = last.find(",v0=").unwrap_or(last.trim_end_matches('=').len());
            let other = if &last[end - 2..end - 1] == "0" { "1" } else { "0" };
            last.replace_range(end - 2..end - 1, other);
        });
        // What a changed base64 stands for need not even be text.
        let wanted: &[Refusal] =
            if kind == "basic" { &[Refusal::Mismatch, Refusal::Malformed] } else { &[Refusal::Mismatch] };
        assert!(refusal.is_err_and(|refusal| wanted.contains(&refusal)), "{kind}");
    }
}

#[test]
fn a_second_secret_verifies_beside_the_first() {
    for mut case in examples() {
        let right = case.secrets[0];
        let wrong = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        case.secrets = vec![wrong, right];
        assert_eq!(case.check(), Ok(()), "{:?}", case.verification);
        case.secrets = vec![right, wrong];
        assert_eq!(case.check(), Ok(()), "{:?}", case.verification);
    }
}

#[test]
fn a_signed_time_may_be_off_by_its_tolerance_and_no_more() {
    for mut case in examples() {
        if !matches!(case.verification.kind(), "slack" | "stripe" | "standard_webhooks") {
            continue;
        }
        let header = if case.verification.kind() == "slack" { 1_531_420_618 } else { case.now_s };
        for (off, wanted) in [(-301, Err(Refusal::Stale)), (-300, Ok(())), (300, Ok(())), (301, Err(Refusal::Stale))] {
            case.now_s = u64::try_from(i64::try_from(header).expect("small") + off).expect("after 1970");
            assert_eq!(case.check(), wanted, "{}: {off}", case.verification.kind());
        }
    }
}

fn envelope_of(verification: &Verification, mapping: &Mapping, headers: &[(&str, &str)], body: &[u8]) -> String {
    let header = |name: &str| headers.iter().find(|(known, _)| *known == name).map(|(_, text)| *text);
    let body = Bytes::copy_from_slice(body);
    let delivered = Delivered { header: &header, content_type: header("content-type"), body: &body };
    envelope("src", verification.kind(), Some("acme"), mapping, &delivered)
}

fn preset(verification: &Verification, headers: &[(&str, &str)], body: &str) -> String {
    envelope_of(verification, &Mapping::preset(verification), headers, body.as_bytes())
}

#[test]
fn what_every_provider_sends_becomes_an_event() {
    let github = [("x-github-event", "pull_request"), ("x-github-delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958")];
    let slack = r#"{"type":"event_callback","event_id":"Ev1","event_time":1531420618,"team_id":"T1","event":{"type":"app_mention"}}"#;
    let shopify = [
        ("x-shopify-topic", "orders/create"),
        ("x-shopify-webhook-id", "b54557e4"),
        ("x-shopify-shop-domain", "x.myshopify.com"),
        ("x-shopify-triggered-at", "2023-03-29T18:00:27.877041743Z"),
    ];
    let standard = r#"{"type":"user.created","timestamp":"2022-11-03T20:26:10.344522Z","data":{"n":1.10}}"#;
    let texts = [
        preset(&Verification::Github, &github, r#"{"repository":{"full_name":"a/b"},"n":1.10}"#),
        preset(&Verification::Stripe { tolerance_s: 300 }, &[], STRIPE_EVENT),
        preset(&Verification::Slack { tolerance_s: 300 }, &[], slack),
        preset(
            &Verification::Slack { tolerance_s: 300 },
            &[("content-type", "application/x-www-form-urlencoded")],
            "a=1&b=2",
        ),
        preset(&Verification::Shopify, &shopify, SHOPIFY_ORDER),
        preset(&Verification::StandardWebhooks, &[("webhook-id", "msg_1")], standard),
        preset(&Verification::None, &[], "not JSON"),
        envelope_of(&Verification::None, &Mapping::default(), &[("content-type", "image/png")], b"\x89PNG"),
        envelope_of(&Verification::None, &Mapping::default(), &[], b""),
    ];
    for text in &texts {
        serde_json::from_str::<Value>(text).expect("JSON");
    }
    insta::assert_snapshot!(texts.join("\n"));
}

#[test]
fn what_does_not_fit_an_event_is_made_to_fit() {
    let mapping = json!({
        "type": {"pointer": "/kind", "prefix": "shop."}, "id": {"pointer": "/id"},
        "subject": {"pointer": "/s"}, "occurred_at": {"pointer": "/at"}, "data": "/list/1",
    });
    let mapping: Mapping = serde_json::from_value(mapping).expect("a mapping");
    let body = |kind: &str, id: &str, at: &str| {
        format!(r#"{{"kind":{kind},"id":"{id}","at":{at},"s":"{}","list":[0,{{"n":1.10}}]}}"#, "s".repeat(300))
    };
    let read = |body: String| -> Value {
        let text = envelope_of(&Verification::None, &mapping, &[], body.as_bytes());
        assert!(text.ends_with(r#""data":{"n":1.10}}"#), "{text}");
        serde_json::from_str(&text).expect("JSON")
    };
    let one = read(body(r#""Order paid! ..ü.""#, &"i".repeat(200), "1700000000000"));
    assert_eq!(one["type"], "shop.Order_paid__._");
    assert!(one["id"].as_str().is_some_and(|id| id.starts_with("sha256-") && id.len() == 71), "{one}");
    assert_eq!(
        (one["occurred_at"].as_str(), one["subject"].as_str().map(str::len)),
        (Some("2023-11-14T22:13:20.000Z"), Some(256))
    );
    let two = read(body("{}", "7", r#""yesterday""#));
    assert_eq!(
        (two["type"].as_str(), two["id"].as_str(), two.get("occurred_at")),
        (Some("src.received"), Some("7"), None)
    );
}

#[test]
fn a_pointer_finds_what_rfc_6901_says() {
    let json = r#" {"foo":["bar","baz"],"":0,"a/b":1,"m~n":8,"k\"l":6,"x":{"y":[{"z":1.0}]}} "#;
    for (pointer, found) in [
        ("", Some(json.trim())),
        ("/foo", Some(r#"["bar","baz"]"#)),
        ("/foo/0", Some(r#""bar""#)),
        ("/", Some("0")),
        ("/a~1b", Some("1")),
        ("/m~0n", Some("8")),
        ("/k\"l", Some("6")),
        ("/x/y/0/z", Some("1.0")),
        ("/foo/2", None),
        ("/foo/x", None),
        ("/none", None),
        ("/x/y/0/z/w", None),
    ] {
        assert_eq!(at_pointer(json, pointer), found, "{pointer}");
    }
}

#[test]
fn only_slack_is_answered_its_challenge() {
    let body = Bytes::from_static(br#"{"token":"t","challenge":"3eZbrw1aB","type":"url_verification"}"#);
    let slack = Verification::Slack { tolerance_s: 300 };
    assert_eq!(challenge(&slack, &body).as_deref(), Some("3eZbrw1aB"));
    assert_eq!(challenge(&Verification::Github, &body), None);
    assert_eq!(challenge(&slack, &Bytes::from_static(br#"{"type":"event_callback"}"#)), None);
    assert_eq!(challenge(&slack, &Bytes::from_static(b"a=1")), None);
}

fn new(document: &Value) -> Result<super::record::SourceWish, Problem> {
    read_new(Fields::parse(document.to_string().as_bytes()).expect("an object"), None)
}

#[test]
fn a_source_asked_for_with_wrong_fields_is_refused_by_their_names() {
    let long = "x".repeat(600);
    for (field, document) in [
        ("verification", json!({})),
        ("verification", json!({"verification": "github"})),
        ("verification.kind", json!({"verification": {"kind": "gitlab"}})),
        ("verification.colour", json!({"verification": {"kind": "none", "colour": 1}})),
        ("verification.tolerance_s", json!({"verification": {"kind": "stripe", "tolerance_s": 0}, "secret": "x"})),
        ("verification.tolerance_s", json!({"verification": {"kind": "github", "tolerance_s": 5}, "secret": "x"})),
        ("verification.header", json!({"verification": {"kind": "hmac"}, "secret": "x"})),
        ("verification.header", json!({"verification": {"kind": "hmac", "header": "a b"}, "secret": "x"})),
        ("verification.algorithm", json!({"verification": {"kind": "hmac", "header": "a", "algorithm": "md5"}})),
        ("verification.encoding", json!({"verification": {"kind": "hmac", "header": "a", "encoding": 5}})),
        ("verification.username", json!({"verification": {"kind": "basic"}, "secret": "x"})),
        ("secret", json!({"verification": {"kind": "github"}})),
        ("secret", json!({"verification": {"kind": "github"}, "secret": 5})),
        ("secret", json!({"verification": {"kind": "github"}, "secret": long})),
        ("secret", json!({"verification": {"kind": "standard_webhooks"}, "secret": "not-whsec"})),
        ("secret", json!({"verification": {"kind": "github"}, "secret": "a\nb"})),
        ("second_secret", json!({"verification": {"kind": "github"}, "secret": "x", "second_secret": ""})),
        ("name", json!({"verification": {"kind": "none"}, "name": "With Space"})),
        ("name", json!({"verification": {"kind": "none"}, "name": "-a"})),
        ("mapping", json!({"verification": {"kind": "none"}, "mapping": []})),
        ("mapping.type", json!({"verification": {"kind": "none"}, "mapping": {"type": "a.b"}})),
        ("mapping.type", json!({"verification": {"kind": "none"}, "mapping": {"type": {}}})),
        ("mapping.id", json!({"verification": {"kind": "none"}, "mapping": {"id": {"pointer": "/a", "header": "b"}}})),
        ("mapping.id.pointer", json!({"verification": {"kind": "none"}, "mapping": {"id": {"pointer": "a"}}})),
        ("mapping.id.header", json!({"verification": {"kind": "none"}, "mapping": {"id": {"header": "a b"}}})),
        ("mapping.id.header", json!({"verification": {"kind": "none"}, "mapping": {"id": {"header": "a".repeat(65)}}})),
        (
            "mapping.id.colour",
            json!({"verification": {"kind": "none"}, "mapping": {"id": {"constant": "a", "colour": 1}}}),
        ),
        ("mapping.data", json!({"verification": {"kind": "none"}, "mapping": {"data": "x"}})),
        ("mapping.colour", json!({"verification": {"kind": "none"}, "mapping": {"colour": 1}})),
        ("colour", json!({"verification": {"kind": "none"}, "colour": 1})),
    ] {
        let problem = new(&document).expect_err("is refused");
        assert_eq!(problem.field.as_deref(), Some(field), "{document}: {problem:?}");
        let text = problem.to_json().to_string();
        assert!(!text.contains("not-whsec") && !text.contains("xxxx"), "a secret is not repeated: {text}");
    }
}

#[test]
fn the_stored_form_of_a_source_is_read_again_and_shows_no_secret() {
    let wish =
        new(&json!({"verification": {"kind": "hmac", "header": "X-Sig", "prefix": "v1="}, "secret": "topsecret"}));
    let wish = wish.expect("fits");
    let record = SourceRecord {
        name: "shop".to_owned(),
        org: Some("acme".to_owned()),
        verification: wish.verification.expect("given"),
        mapping: Mapping::preset(&Verification::Github),
        description: None,
        secret: None,
        second_secret: None,
        created: WriteContext::default(),
        updated: WriteContext::default(),
    };
    let text = serde_json::to_string(&record).expect("encodes");
    insta::assert_snapshot!(text);
    assert_eq!(serde_json::from_str::<SourceRecord>(&text).expect("decodes"), record);
    let change = Fields::parse(br#"{"description":"x"}"#).expect("an object");
    let refused = read_change(change, &record).expect_err("it has no secret yet");
    assert_eq!(refused.field.as_deref(), Some("secret"));
}
