use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::event::envelope::{Draft, Event};
use crate::event::parse::{ParseRules, parse_event, same_json};
use crate::ground::clock::UnixMs;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::ids::Seq;
use crate::ground::random::SeededRandom;

const NOW: UnixMs = UnixMs(1_795_248_000_123);

fn with_rules<T>(read: impl FnOnce(&ParseRules<'_>) -> T) -> T {
    let random = SeededRandom::shared(7);
    read(&ParseRules {
        default_org: Some("acme"),
        confined_to: None,
        event_bytes_max: 8_192,
        now: NOW,
        random: &*random,
    })
}

fn structured(body: &str) -> Result<Draft, Problem> {
    with_rules(|rules| read_structured(&Bytes::copy_from_slice(body.as_bytes()), rules))
}

fn binary(headers: &[(String, String)], body: &[u8]) -> Result<Draft, Problem> {
    let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    with_rules(|rules| read_binary(headers, &Bytes::copy_from_slice(body), rules))
}

fn headers(more: &[(&str, &str)]) -> Vec<(String, String)> {
    let core = [("ce-specversion", "1.0"), ("ce-id", "1"), ("CE-Source", "/s"), ("ce-type", "a.b")];
    core.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn event(draft: Draft) -> Arc<Event> {
    Event::new(Seq(9), draft.received_at, draft.meta, draft.body)
}

fn text(event: &Event) -> String {
    String::from_utf8(render_structured(event).to_vec()).expect("text")
}

fn body_of(draft: &Draft) -> String {
    String::from_utf8(draft.body.to_vec()).expect("text")
}

#[test]
fn the_example_of_the_json_format_becomes_an_envelope() {
    // JSON Event Format, section 3.2, with the scopes of the hub beside it.
    let draft = structured(
        r#"{ "specversion" : "1.0", "type" : "com.example.someevent", "source" : "/mycontext", "subject": null,
             "id" : "C234-1234-1234", "time" : "2018-04-05T17:31:00Z", "comexampleextension1" : "value",
             "comexampleothervalue" : 5, "datacontenttype" : "application/json", "facility": "north",
             "aggregatetype": "order", "aggregateid": 42, "correlationid": "c-1", "causationid": "e-0",
             "data" : { "b" : 1.10, "a": 12345678901234567890 } }"#,
    )
    .expect("is taken");
    insta::assert_snapshot!(body_of(&draft));
    let meta = &draft.meta;
    assert_eq!((meta.id.as_str(), meta.org.as_str()), ("C234-1234-1234", "acme"));
    assert_eq!(meta.source.as_deref(), Some("/mycontext"));
    assert_eq!(meta.occurred_at.as_deref(), Some("2018-04-05T17:31:00Z"));
    assert_eq!((meta.aggregate_id.as_deref(), meta.ordering_key.as_deref()), (Some("42"), Some("order/42")));
    assert_eq!(meta.correlation_id.as_deref(), Some("c-1"));
    assert!(draft.id_given);
    insta::assert_snapshot!(text(&event(draft)));
}

#[test]
fn headers_and_body_become_the_same_envelope_as_one_object() {
    let sent = headers(&[
        ("Content-Type", "application/json; charset=utf-8"),
        ("ce-time", "2018-04-05T17:31:00Z"),
        ("ce-subject", "Euro%20%E2%82%AC%20%F0%9F%98%80"),
        ("ce-comexample", "\"a \\\"b\\\" 100%25\""),
        ("ce-partitionkey", "k-1"),
        ("x-other", "passed over"),
    ]);
    let draft = binary(&sent, br#" {"b": 1.10, "a": 12345678901234567890} "#).expect("is taken");
    let same = structured(
        r#"{"specversion":"1.0","id":"1","source":"/s","type":"a.b","time":"2018-04-05T17:31:00Z",
            "datacontenttype":"application/json; charset=utf-8","subject":"Euro € 😀","comexample":"a \"b\" 100%",
            "partitionkey":"k-1","data":{"b": 1.10, "a": 12345678901234567890}}"#,
    )
    .expect("is taken");
    assert!(same_json(&draft.body, &same.body), "{}\n{}", body_of(&draft), body_of(&same));
    assert_eq!(draft.meta.ordering_key.as_deref(), Some("k-1"));
    let span = draft.meta.data.expect("data");
    assert_eq!(&draft.body[span.start as usize..span.end as usize], br#"{"b": 1.10, "a": 12345678901234567890}"#);
}

#[test]
fn data_of_any_type_comes_out_as_the_same_bytes() {
    let cases: [(Option<&str>, &[u8], &str); 8] = [
        (Some("text/plain"), "süß \"x\"\n".as_bytes(), r#""data":"süß \"x\"\n""#),
        (Some("application/xml"), b"<a/>", r#""data":"<a/>""#),
        (Some("text/plain; charset=ISO-8859-1"), b"abc", r#""data_base64":"YWJj""#),
        (Some("text/plain"), b"\xff\xfe", r#""data_base64":"//4=""#),
        (Some("application/octet-stream"), b"abc", r#""data_base64":"YWJj""#),
        (Some("application/vnd.x+json"), b"[1, 2]", r#""data":[1, 2]"#),
        (None, b"[1, 2]", r#""data":[1, 2]"#),
        (None, b"no JSON", r#""data_base64":"bm8gSlNPTg==""#),
    ];
    for (content_type, body, wanted) in cases {
        let typed: Vec<_> = content_type.map(|text| ("content-type", text)).into_iter().collect();
        let event = event(binary(&headers(&typed), body).expect("is taken"));
        let text = text(&event);
        assert!(text.contains(wanted), "{content_type:?}: {text}");
        let (out, out_body) = render_binary(&event);
        assert_eq!(out_body, body, "{content_type:?}");
        let told = out.iter().find(|(name, _)| name == "content-type").map(|(_, value)| value.as_str());
        let untyped = if text.contains("base64") { "application/octet-stream" } else { "application/json" };
        assert_eq!(told, Some(content_type.unwrap_or(untyped)));
        let again = structured(&text).expect("is taken again");
        assert_eq!(again.meta.id, event.meta.id);
        assert_eq!(render_structured(&super::tests::event(again)), text.as_bytes(), "{content_type:?}");
    }
}

#[test]
fn no_data_and_null_are_different_things() {
    let none = event(binary(&headers(&[("content-type", "text/plain")]), b"").expect("is taken"));
    assert!(!text(&none).contains("data\":"), "{}", text(&none));
    assert_eq!(render_binary(&none).1, b"".as_slice());
    let null = event(binary(&headers(&[]), b"null").expect("is taken"));
    assert!(text(&null).ends_with(r#","data":null}"#));
    assert_eq!(render_binary(&null).1, b"null".as_slice());
}

#[test]
fn any_other_event_is_rendered_with_its_scopes() {
    let native = |body: &'static str| {
        event(with_rules(|rules| parse_event(&Bytes::from_static(body.as_bytes()), rules)).expect("is taken"))
    };
    let full = native(
        r#"{"id":"e 1","type":"order.paid","source":"shop süd","aggregate_type":"order","aggregate_id":"7",
            "channel":"web","facility":"north","subject":"a\"b%","reason_code":"late","schema_version":3,
            "traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "request_context":{"correlation_id":"c","causation_id":"d","user_id":"u"},"metadata":{"k":{"x":1}},
            "source_refs":[{"system":"erp","type":"doc","id":"7"}],"data":{"z":1e400,"a":-0}}"#,
    );
    insta::assert_snapshot!("native_structured", text(&full));
    let (headers, body) = render_binary(&full);
    let lines: Vec<String> = headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    insta::assert_snapshot!("native_binary", format!("{}\n\n{}", lines.join("\n"), String::from_utf8_lossy(&body)));

    let bare = native(r#"{"id":"1","type":"a.b","subject":"","metadata":{"cloudevents":[1]}}"#);
    assert_eq!(
        text(&bare),
        r#"{"specversion":"1.0","id":"1","source":"/tidegate/acme","type":"a.b","time":"2026-11-21T08:00:00.123Z","org":"acme"}"#
    );
    assert_eq!(render_binary(&bare).1, b"".as_slice());
    // Whoever writes the member by hand cannot make the event say what it is not.
    let forged = native(
        r#"{"id":"1","type":"a.b","metadata":{"cloudevents":
            {"id":"2","org":"other","source":"/x","Bad-Name":"x","data":"x","list":[1],"time":5,"fine":"x","dataschema":7}}}"#,
    );
    assert_eq!(
        text(&forged),
        r#"{"specversion":"1.0","id":"1","source":"/tidegate/acme","type":"a.b","time":"2026-11-21T08:00:00.123Z","org":"acme","fine":"x"}"#
    );
}

#[track_caller]
fn refused(outcome: Result<Draft, Problem>, field: &str, limit: &str) {
    let problem = outcome.expect_err("is refused");
    assert_eq!(problem.field.as_deref(), Some(field), "{problem:?}");
    assert!(problem.limit.as_deref().is_some_and(|text| text.contains(limit)), "{problem:?}");
    assert!(problem.detail.starts_with(field), "{problem:?}");
    assert!(problem.sent.is_some(), "{problem:?}");
}

#[test]
fn what_is_no_cloud_event_is_refused_by_name() {
    let with =
        |more: &str| structured(&format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"a.b"{more}}}"#));
    for missing in ["specversion", "id", "source", "type"] {
        let members = [("specversion", "1.0"), ("id", "1"), ("source", "/s"), ("type", "a.b")];
        let object = |value: &dyn Fn(&str, &str) -> Option<String>| {
            let parts: Vec<String> = members
                .iter()
                .filter_map(|(name, text)| value(name, text).map(|text| format!(r#""{name}":{text}"#)))
                .collect();
            format!("{{{}}}", parts.join(","))
        };
        let quoted = |text: &str| Some(format!("{text:?}"));
        refused(structured(&object(&|name, text| quoted(text).filter(|_| name != missing))), missing, "required");
        let null = |name: &str, text: &str| if name == missing { Some("null".to_owned()) } else { quoted(text) };
        refused(structured(&object(&null)), missing, "required");
        let empty = |name: &str, text: &str| quoted(if name == missing { "" } else { text });
        refused(structured(&object(&empty)), missing, "not empty");
        let number = |name: &str, text: &str| if name == missing { Some("1.0".to_owned()) } else { quoted(text) };
        refused(structured(&object(&number)), missing, "a string");
        let left: Vec<_> = headers(&[]).into_iter().filter(|(name, _)| !name.ends_with(missing)).collect();
        let left: Vec<_> =
            left.into_iter().filter(|(name, _)| !name.eq_ignore_ascii_case(&format!("ce-{missing}"))).collect();
        refused(binary(&left, b""), &format!("ce-{missing}"), "required");
    }
    refused(structured(r#"{"specversion":"0.3","id":"1","source":"/s","type":"a.b"}"#), "specversion", "`1.0`");
    refused(with(r#","time":"yesterday""#), "time", "RFC 3339");
    refused(with(r#","Upper":"x""#), "Upper", "lower-case");
    refused(with(r#","with_line":"x""#), "with_line", "lower-case");
    refused(with(r#","ext":{}"#), "ext", "a string, a number or a boolean");
    refused(with(r#","ext":1,"ext":2"#), "ext", "given once");
    refused(with(r#","data":1,"data":2"#), "data", "given once");
    refused(with(r#","data":1,"data_base64":"AA==""#), "data_base64", "not beside");
    refused(with(r#","data_base64":"AA""#), "data_base64", "base64");
    refused(with(r#","data_base64":5"#), "data_base64", "base64");
    refused(with(r#","ext":"\ud800""#), "ext", "whole");
    refused(with(&format!(r#","aggregatetype":"{}""#, "x".repeat(128))), "aggregatetype", "127");
    refused(with(&format!(r#","partitionkey":"{}""#, "x".repeat(257))), "partitionkey", "256");
    refused(with(&format!(r#","correlationid":"{}""#, "x".repeat(257))), "correlationid", "256");
    refused(with(r#","data":{"a":1,"a":2}"#), "data.a", "given once");
    let long = format!(r#"{{"specversion":"1.0","id":"1","source":"/{}","type":"a.b"}}"#, "s".repeat(127));
    refused(structured(&long), "source", "at most 127 characters");
    let many: String = (0..130).map(|at| format!(r#","e{at}":1"#)).collect();
    refused(with(&many), "e124", "at most 128 attributes");
    refused(structured(&format!("{{\"data\":\"{}\"}}", "x".repeat(9_000))), "body", "8192 bytes");
    for (body, kind) in [("", ProblemKind::NotJson), ("[]", ProblemKind::InvalidField), ("{", ProblemKind::NotJson)] {
        assert_eq!(structured(body).expect_err("is refused").kind, kind, "{body}");
    }

    refused(binary(&headers(&[("ce-time", "yesterday")]), b""), "ce-time", "RFC 3339");
    refused(binary(&headers(&[("ce-id", "2")]), b""), "ce-id", "given once");
    refused(binary(&headers(&[("ce-x", "%ff")]), b""), "ce-x", "UTF-8");
    refused(binary(&headers(&[("ce-x_y", "1")]), b""), "ce-x_y", "letters and digits");
    refused(binary(&headers(&[("ce-datacontenttype", "text/plain")]), b"x"), "ce-datacontenttype", "content-type");
    let refusal = binary(&headers(&[("content-type", "application/json")]), b"{oops").expect_err("is refused");
    assert_eq!(refusal.kind, ProblemKind::NotJson);
}

#[test]
fn an_org_that_the_key_does_not_speak_for_is_forbidden() {
    let random = SeededRandom::shared(7);
    let rules = ParseRules {
        default_org: Some("acme"),
        confined_to: Some("acme"),
        event_bytes_max: 8_192,
        now: NOW,
        random: &*random,
    };
    let body = Bytes::from_static(br#"{"specversion":"1.0","id":"1","source":"/s","type":"a.b","org":"other"}"#);
    let problem = read_structured(&body, &rules).expect_err("is refused");
    assert_eq!((problem.kind, problem.field.as_deref()), (ProblemKind::Forbidden, Some("org")));
}

fn characters() -> impl Strategy<Value = String> {
    // Anything a value may hold: no control characters, quotes, percent signs and the rest of Unicode among them.
    "[ -~¡-\u{d7ff}\u{e000}-\u{fffd}\u{10000}-\u{10ffff}]{1,24}"
}

fn extensions() -> impl Strategy<Value = Vec<(String, serde_json::Value)>> {
    let value = prop_oneof![
        characters().prop_map(serde_json::Value::from),
        any::<i32>().prop_map(serde_json::Value::from),
        any::<bool>().prop_map(serde_json::Value::from),
    ];
    prop::collection::btree_map("x[a-z0-9]{0,12}", value, 0..6).prop_map(|map| map.into_iter().collect())
}

/// The attributes and the data of a rendered event, by name.
fn object(bytes: &[u8]) -> serde_json::Map<String, serde_json::Value> {
    serde_json::from_slice(bytes).expect("an object")
}

proptest! {
    #[test]
    fn a_structured_event_comes_out_as_it_went_in(
        id in characters(), subject in characters(), key in characters(), extensions in extensions(),
        data in prop_oneof![
            Just(None),
            characters().prop_map(|text| Some(("data", serde_json::json!({"t": text, "n": [1, null]})))),
            Just(Some(("data_base64", serde_json::json!("//4AAQ==")))),
        ],
    ) {
        let mut sent = serde_json::json!({
            "specversion": "1.0", "id": id, "source": "/söme/source", "type": "a.b", "subject": subject,
            "time": "2018-04-05T17:31:00.123456789+02:00", "org": "acme", "orderingkey": key,
            "dataschema": "https://example.com/schema",
        });
        let map = sent.as_object_mut().expect("an object");
        map.extend(extensions);
        map.extend(data.map(|(name, value)| (name.to_owned(), value)));
        let draft = structured(&sent.to_string()).expect("is taken");
        let out = render_structured(&event(draft));
        prop_assert_eq!(&object(&out), sent.as_object().expect("an object"));
        // And once more: what is rendered reads as the same event.
        let again = render_structured(&event(structured(std::str::from_utf8(&out).expect("text")).expect("is taken")));
        prop_assert_eq!(again, out);
    }

    #[test]
    fn a_binary_event_comes_out_as_it_went_in(
        subject in characters(), name in characters(), extension in characters(), body in any::<Vec<u8>>(),
        content_type in prop_oneof![Just("text/plain"), Just("image/png"), Just("application/xml; charset=utf-8")],
    ) {
        let value = |text: &str| super::header::encode(text);
        let sent = headers(&[
            ("content-type", content_type),
            ("ce-subject", &value(&subject)),
            ("ce-aggregatetype", &value(&name)),
            ("ce-time", "2018-04-05T17:31:00Z"),
            ("ce-xextension", &value(&extension)),
        ]);
        // HTTP takes the space around a value for no part of it, so it is encoded.
        prop_assert!(sent.iter().all(|(_, value)| value.is_ascii()));
        let draft = binary(&sent, &body).expect("is taken");
        prop_assert_eq!(draft.meta.subject.as_deref(), Some(subject.as_str()));
        let (mut out, out_body) = render_binary(&event(draft));
        prop_assert_eq!(&out_body[..], &body[..]);
        // Beside what was sent there is what the hub filled in.
        out.retain(|(name, _)| !matches!(name.as_str(), "ce-org" | "ce-orderingkey"));
        let mut wanted: Vec<_> = sent.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
        wanted.sort();
        out.sort();
        prop_assert_eq!(out, wanted);
    }

    #[test]
    fn no_input_makes_the_reader_panic(bytes in any::<Vec<u8>>(), name in ".{0,12}", value in any::<Vec<u8>>()) {
        let body = Bytes::from(bytes);
        let header = format!("ce-{name}");
        let sent = [("ce-specversion", b"1.0".as_slice()), (header.as_str(), &value), ("content-type", &value)];
        // Whatever it answers.
        with_rules(|rules| {
            let told = (read_structured(&body, rules).is_ok(), read_binary(sent.iter().copied(), &body, rules).is_ok());
            std::hint::black_box(told);
        });
    }
}
