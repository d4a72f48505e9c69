use proptest::prelude::*;

use super::super::envelope::{BodyFormat, Event};
use super::*;
use crate::ground::ids::Seq;
use crate::ground::random::{SeededRandom, SharedRandom};

const NOW: UnixMs = UnixMs(1_795_248_000_123);

fn random() -> SharedRandom {
    SeededRandom::shared(7)
}

fn parse_bytes(body: &[u8]) -> Result<Draft, Problem> {
    let random = random();
    let rules = ParseRules { default_org: None, confined_to: None, event_bytes_max: 4_096, now: NOW, random: &*random };
    parse_event(&Bytes::copy_from_slice(body), &rules)
}

fn parse(body: &str) -> Result<Draft, Problem> {
    parse_bytes(body.as_bytes())
}

/// The field and the kind of the refusal of an event with these members beside its type.
#[track_caller]
fn refused(members: &str) -> (ProblemKind, String, String) {
    let problem = parse(&format!("{{\"type\":\"a.b\",{members}}}")).expect_err("is refused");
    assert!(problem.sent.is_some(), "{problem:?} says what was sent");
    (problem.kind, problem.field.expect("a field"), problem.limit.expect("a limit"))
}

#[track_caller]
fn invalid(members: &str, field: &str, limit: &str) {
    let (kind, found_field, found_limit) = refused(members);
    assert_eq!((kind, found_field.as_str()), (ProblemKind::InvalidField, field), "{members}: {found_limit}");
    assert!(found_limit.contains(limit), "{members}: {found_limit}");
}

fn part(draft: &Draft, span: Option<Span>) -> &str {
    let span = span.expect("given");
    std::str::from_utf8(&draft.body[span.start as usize..span.end as usize]).expect("text")
}

#[test]
fn an_event_says_when_it_is_due_by_time_or_by_delay() {
    let due = |member: &str| parse(&format!("{{\"type\":\"a.b\",{member}}}")).expect("is taken").deliver_at;
    assert_eq!(due(r#""id":"1""#), None);
    assert_eq!(due(r#""deliver_at":null,"delay":null"#), None);
    assert_eq!(due(r#""deliver_at":"2026-11-21T10:00:00+01:00""#), Some(UnixMs(1_795_251_600_000)));
    assert_eq!(due(r#""deliver_at":"2001-11-21T10:00:00Z""#), Some(UnixMs(1_006_336_800_000)));
    for (delay, ms) in [
        ("0", 0),
        ("90", 90_000),
        ("\"90\"", 90_000),
        ("\"250ms\"", 250),
        ("\"10m\"", 600_000),
        ("\"2h\"", 7_200_000),
        ("\"7d\"", 604_800_000),
        ("\"3s\"", 3_000),
        ("\"PT90S\"", 90_000),
        ("\"PT1H30M\"", 5_400_000),
        ("\"PT0.25S\"", 250),
        ("\"P1DT12H\"", 129_600_000),
        ("\"P2W\"", 1_209_600_000),
    ] {
        assert_eq!(due(&format!("\"delay\":{delay}")), Some(NOW.plus_ms(ms)), "{delay}");
    }
    for delay in [
        "-1",
        "1.5",
        "1e3",
        "true",
        "[]",
        "\"\"",
        "\"m\"",
        "\"1.5h\"",
        "\"10 m\"",
        "\"1w\"",
        "\"P1Y\"",
        "\"P1M\"",
        "\"P\"",
        "\"PT\"",
        "\"-PT1H\"",
        "\"PT-1H\"",
        "\"pt1h\"",
        "\"PT1H \"",
        "\"PT99999999999999999999S\"",
        "18446744073709551615",
        "99999999999999999999",
    ] {
        invalid(&format!("\"delay\":{delay}"), "delay", "seconds as a whole number");
    }
    invalid(r#""deliver_at":"tomorrow""#, "deliver_at", "RFC 3339");
    invalid(r#""deliver_at":1795251600"#, "deliver_at", "a string");
    invalid(r#""deliver_at":"2026-11-21T10:00:00Z","delay":1"#, "delay", "not beside");
}

#[test]
fn a_full_envelope_is_read_field_by_field() {
    let body = r#"
        { "id": "evt-1", "type": "invoice.paid", "source": "billing", "aggregate_type": "invoice",
          "aggregate_id": "42", "org": "acme", "channel": "web", "facility": "berlin", "subject": "s\u0075b",
          "data": {"amount": 12345678901234567890.10}, "metadata": {"k": [1]},
          "occurred_at": "2026-11-21T08:00:00.5+01:00", "reason_code": "late",
          "source_refs": [{"system": "erp", "type": "doc", "id": "7"}], "schema_version": 3,
          "request_context": {"correlation_id": "c-1", "user_id": null, "extra": 1},
          "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
          "tracestate": "rojo=00f067aa0ba902b7" }
        "#;
    let draft = parse(body).expect("is taken");
    assert_eq!(draft.body, body.trim());
    assert!(draft.id_given);
    assert_eq!(draft.received_at, NOW);
    assert_eq!(part(&draft, draft.meta.data), r#"{"amount": 12345678901234567890.10}"#);
    assert_eq!(part(&draft, draft.meta.metadata), r#"{"k": [1]}"#);
    assert_eq!(part(&draft, draft.meta.source_refs), r#"[{"system": "erp", "type": "doc", "id": "7"}]"#);
    assert!(part(&draft, draft.meta.request_context).starts_with(r#"{"correlation_id": "c-1""#));
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        EventMeta { data: None, metadata: None, source_refs: None, request_context: None, ..draft.meta },
        EventMeta {
            id: "evt-1".to_owned(),
            event_type: "invoice.paid".to_owned(),
            org: "acme".to_owned(),
            source: text("billing"),
            aggregate_type: text("invoice"),
            aggregate_id: text("42"),
            channel: text("web"),
            facility: text("berlin"),
            subject: text("sub"),
            occurred_at: text("2026-11-21T08:00:00.5+01:00"),
            reason_code: text("late"),
            schema_version: text("3"),
            ordering_key: text("invoice/42"),
            traceparent: text("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            correlation_id: text("c-1"),
            data: None,
            metadata: None,
            source_refs: None,
            request_context: None,
            tracestate: text("rojo=00f067aa0ba902b7"),
        }
    );
}

#[test]
fn only_the_type_is_required_and_null_counts_as_absent() {
    let draft = parse(r#"{"type":"a.b","id":null,"org":null,"metadata":null,"traceparent":null,"source_refs":null}"#)
        .expect("is taken");
    assert!(!draft.id_given);
    assert_eq!(draft.meta.id.len(), 36);
    assert_eq!(draft.meta.id.as_bytes()[14], b'7', "a UUIDv7");
    assert_eq!(draft.meta.org, "");
    assert_eq!((draft.meta.metadata, draft.meta.data, draft.meta.ordering_key), (None, None, None));
    let null = parse(r#"{"type":"a.b","data":null}"#).expect("is taken");
    assert_eq!(part(&null, null.meta.data), "null");
}

#[test]
fn the_ordering_key_falls_back_to_the_aggregate() {
    let key = |members: &str| parse(&format!("{{\"type\":\"a\",{members}}}")).expect("is taken").meta.ordering_key;
    assert_eq!(key(r#""aggregate_type":"t","aggregate_id":"1""#).as_deref(), Some("t/1"));
    assert_eq!(key(r#""aggregate_type":"t""#).as_deref(), Some("t/"));
    assert_eq!(key(r#""aggregate_id":"1""#).as_deref(), Some("/1"));
    assert_eq!(key(r#""aggregate_id":"1","ordering_key":"mine""#).as_deref(), Some("mine"));
    assert_eq!(key(r#""source":"s""#), None);
}

#[test]
fn the_org_is_the_envelopes_then_the_keys_and_never_another_than_the_keys_own() {
    let random = random();
    let org = |body: &str, default_org, confined_to| {
        let rules = ParseRules { default_org, confined_to, event_bytes_max: 4_096, now: NOW, random: &*random };
        parse_event(&Bytes::copy_from_slice(body.as_bytes()), &rules).map(|draft| draft.meta.org)
    };
    let (bare, acme) = (r#"{"type":"a"}"#, r#"{"type":"a","org":"acme"}"#);
    assert_eq!(org(acme, Some("other"), None).as_deref(), Ok("acme"));
    assert_eq!(org(bare, Some("other"), None).as_deref(), Ok("other"));
    assert_eq!(org(bare, None, Some("own")).as_deref(), Ok("own"));
    assert_eq!(org(acme, Some("acme"), Some("acme")).as_deref(), Ok("acme"));
    let problem = org(acme, Some("own"), Some("own")).expect_err("is refused");
    assert_eq!((problem.kind, problem.field.as_deref()), (ProblemKind::Forbidden, Some("org")));
    assert_eq!(problem.sent.as_deref(), Some("acme"));
}

#[test]
fn what_is_not_json_is_refused_with_its_place() {
    for (body, place) in [
        ("", "line 1 column 0"),
        ("  \n", "column 0"),
        ("{\"type\":\"a\",\n \"data\": NaN}", "line 2 column 10"),
        ("{\"type\":\"a\",\"data\":Infinity}", "line 1 column 20"),
        ("{\"type\":\"a\",\"data\":-Infinity}", "line 1 column 21"),
        ("{\"type\":\"a\"} x", "line 1 column 14"),
        ("{\"type\":\"a\"}{\"type\":\"b\"}", "line 1 column 13"),
        ("{\"type\":\"a\"", "line 1 column 11"),
        ("{\"type\":\"a\",}", "line 1 column 13"),
        ("{\"type\":\"a\",\"data\":01}", "line 1 column 21"),
        ("{\"type\":\"a\",\"data\":\"\n\"}", "control character"),
        ("{'type':'a'}", "line 1 column 2"),
        ("\u{feff}{\"type\":\"a\"}", "byte order mark"),
        ("nonsense", "line 1 column"),
    ] {
        let problem = parse(body).expect_err("is refused");
        assert_eq!(problem.kind, ProblemKind::NotJson, "{body}: {problem}");
        assert!(problem.detail.contains(place), "{body}: {problem}");
    }
    let problem = parse_bytes(b"{\"type\":\"a\xff\"}").expect_err("is refused");
    assert_eq!(problem.kind, ProblemKind::NotJson);
    assert!(problem.detail.contains("offset 10"), "{problem}");
}

#[test]
fn json_that_is_no_object_is_refused() {
    for (body, kind) in [
        ("[]", "a list"),
        ("[{\"type\":\"a\"}]", "a list"),
        ("\"a\"", "a text"),
        ("1", "a number"),
        ("null", "null"),
        ("true", "a truth value"),
    ] {
        let problem = parse(body).expect_err("is refused");
        assert_eq!((problem.kind, problem.field.as_deref()), (ProblemKind::InvalidField, Some("body")), "{body}");
        assert_eq!(problem.sent.as_deref(), Some(kind), "the text itself is not repeated");
    }
}

#[test]
fn a_missing_or_misshapen_type_is_refused() {
    for (body, limit) in [
        ("{}", "required"),
        ("{\"type\":null}", "required"),
        ("{\"type\":\"\"}", "not empty"),
        ("{\"type\":7}", "a string"),
        ("{\"type\":\"a b\"}", "dotted name"),
        ("{\"type\":\"a.*\"}", "dotted name"),
        ("{\"type\":\"caf\u{e9}\"}", "dotted name"),
        ("{\"type\":\"a\\u0000\"}", "control"),
        ("{\"type\":\".a\"}", "empty part"),
        ("{\"type\":\"a.\"}", "empty part"),
        ("{\"type\":\"a..b\"}", "empty part"),
    ] {
        let problem = parse(body).expect_err("is refused");
        assert_eq!((problem.kind, problem.field.as_deref()), (ProblemKind::InvalidField, Some("type")), "{body}");
        assert!(problem.limit.expect("a limit").contains(limit), "{body}");
    }
    let long = format!("{{\"type\":\"{}\"}}", "a".repeat(256));
    assert_eq!(parse(&long).expect_err("is refused").limit.as_deref(), Some("at most 255 characters"));
    assert!(parse(&format!("{{\"type\":\"{}\"}}", "a".repeat(255))).is_ok());
}

#[test]
fn a_field_of_the_wrong_sort_or_size_is_refused_by_name() {
    invalid(r#""id":"""#, "id", "not empty");
    invalid(r#""id":5"#, "id", "a string");
    invalid("\"id\":\"a\\nb\"", "id", "control");
    invalid(&format!("\"id\":\"{}\"", "x".repeat(129)), "id", "at most 128 characters");
    invalid(r#""org":"""#, "org", "not empty");
    invalid("\"org\":\"a\\u007fb\"", "org", "control");
    invalid(&format!("\"source\":\"{}\"", "x".repeat(128)), "source", "at most 127 characters");
    invalid(&format!("\"aggregate_id\":\"{}\"", "x".repeat(129)), "aggregate_id", "at most 128 characters");
    invalid(r#""channel":["a"]"#, "channel", "a string");
    invalid(r#""subject":"\ud800""#, "subject", "whole characters");
    invalid(r#""metadata":[1]"#, "metadata", "a JSON object");
    invalid(r#""metadata":"x""#, "metadata", "a JSON object");
    invalid(r#""schema_version":1.5"#, "schema_version", "a string or an integer");
    invalid(r#""schema_version":1e3"#, "schema_version", "a string or an integer");
    invalid(r#""schema_version":true"#, "schema_version", "a string or an integer");
    invalid(r#""request_context":"x""#, "request_context", "a JSON object");
    invalid(r#""request_context":{"user_id":5}"#, "request_context.user_id", "a string");
    invalid("\"request_context\":{\"correlation_id\":\"a\\r\"}", "request_context.correlation_id", "control");
    // 128 characters of two bytes each are 128 characters.
    assert!(parse(&format!("{{\"type\":\"a\",\"id\":\"{}\"}}", "\u{e9}".repeat(128))).is_ok());
}

#[test]
fn a_time_that_is_not_rfc_3339_is_refused() {
    for time in [
        "\"yesterday\"",
        "\"2026-11-21\"",
        "\"2026-11-21T08:00:00\"",
        "\"2026-11-21 08:00:00Z\"",
        "\"20261121T080000Z\"",
        "\"2026-13-21T08:00:00Z\"",
        "\"2026-02-30T08:00:00Z\"",
        "\"2026-11-21T25:00:00Z\"",
        "\"2026-11-21T08:00:00.Z\"",
        "\"2026-11-21T08:00:00+01:00[Europe/Berlin]\"",
        "\"1969-12-31T23:59:59Z\"",
        "\"\"",
        "1795248000",
    ] {
        let (kind, field, _) = refused(&format!("\"occurred_at\":{time}"));
        assert_eq!((kind, field.as_str()), (ProblemKind::InvalidField, "occurred_at"), "{time}");
    }
    for time in ["2026-11-21T08:00:00Z", "2026-11-21t08:00:00.123456789z", "2026-11-21T08:00:00-05:30"] {
        let draft = parse(&format!("{{\"type\":\"a\",\"occurred_at\":\"{time}\"}}")).expect("is taken");
        assert_eq!(draft.meta.occurred_at.as_deref(), Some(time));
    }
}

#[test]
fn a_traceparent_must_have_the_w3c_shape() {
    let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    for good in [format!("00-{trace}-{parent}-01"), format!("cc-{trace}-{parent}-01-later")] {
        assert!(parse(&format!("{{\"type\":\"a\",\"traceparent\":\"{good}\"}}")).is_ok(), "{good}");
    }
    let zeros = "0".repeat(32);
    for bad in [
        String::new(),
        format!("00-{trace}-{parent}"),
        format!("00-{trace}-{parent}-01-more"),
        format!("ff-{trace}-{parent}-01"),
        format!("00-{}-{parent}-01", trace.to_uppercase()),
        format!("00-{zeros}-{parent}-01"),
        format!("00-{trace}-{}-01", &zeros[..16]),
        format!("00-{}-{parent}-01", &trace[1..]),
    ] {
        invalid(&format!("\"traceparent\":\"{bad}\""), "traceparent", "W3C");
    }
}

#[test]
fn source_references_must_be_a_list_of_three_strings_each() {
    invalid(r#""source_refs":{}"#, "source_refs", "a list");
    invalid(r#""source_refs":[1]"#, "source_refs[0]", "an object");
    invalid(r#""source_refs":[{"system":"a","type":"b"}]"#, "source_refs[0].id", "required");
    invalid(r#""source_refs":[{"system":"a","type":"b","id":1}]"#, "source_refs[0].id", "a string");
    invalid(r#""source_refs":[{"system":"a","type":"b","id":"c","x":1}]"#, "source_refs[0].x", "no part");
    let many = vec![r#"{"system":"a","type":"b","id":"c"}"#; 101].join(",");
    invalid(&format!("\"source_refs\":[{many}]"), "source_refs", "at most 100 entries");
}

#[test]
fn an_unknown_field_is_refused_with_what_was_probably_meant() {
    invalid(r#""typ":"x""#, "typ", "did you mean `type`?");
    invalid(r#""aggregateId":"x""#, "aggregateId", "did you mean `aggregate_id`?");
    invalid(r#""occured_at":"x""#, "occured_at", "did you mean `occurred_at`?");
    invalid(r#""Data":1"#, "Data", "did you mean `data`?");
    invalid(r#""payload":1"#, "payload", "did you mean `data`?");
    invalid(r#""zebra":1"#, "zebra", "belongs into `data` or `metadata`");
    invalid(r#""seq":1"#, "seq", "set by the hub");
    invalid(r#""received_at":"x""#, "received_at", "set by the hub");
}

#[test]
fn a_name_given_twice_is_refused_at_any_depth() {
    invalid(r#""id":"a","id":"a""#, "id", "once");
    invalid(r#""id":"a","\u0069d":"b""#, "id", "once");
    invalid(r#""data":{"a":{"b":[0,{"c":1,"c":1}]}}"#, "data.a.b[1].c", "once");
    invalid(r#""metadata":{"x":1,"\u0078":2}"#, "metadata.x", "once");
    invalid(r#""request_context":{"user_id":"a","user_id":"b"}"#, "request_context.user_id", "once");
    invalid(r#""source_refs":[{"system":"a","type":"b","id":"c","id":"d"}]"#, "source_refs[0].id", "once");
}

#[test]
fn nesting_past_the_limit_is_refused_and_at_the_limit_taken() {
    let nested = |depth: usize| format!("{{\"type\":\"a\",\"data\":{}1{}}}", "[".repeat(depth), "]".repeat(depth));
    assert!(parse(&nested(limits::NESTING_MAX - 1)).is_ok());
    for depth in [limits::NESTING_MAX, limits::NESTING_MAX + 1, 1_500] {
        let problem = parse(&nested(depth)).expect_err("is refused");
        assert_eq!(problem.kind, ProblemKind::InvalidField);
        assert_eq!(problem.limit.as_deref(), Some("at most 64 levels of nesting"));
    }
    let open = format!("{{\"type\":\"a\",\"data\":{}", "[{\"a\":".repeat(600));
    assert_eq!(parse(&open).expect_err("is refused").kind, ProblemKind::NotJson);
}

#[test]
fn what_is_too_large_is_refused_naming_the_limit() {
    let body = |len: usize| format!("{{\"type\":\"a\",\"data\":\"{}\"}}", "x".repeat(len - 22));
    assert!(parse(&body(4_096)).is_ok());
    let problem = parse(&body(4_097)).expect_err("is refused");
    assert_eq!((problem.kind, problem.field.as_deref()), (ProblemKind::TooLarge, Some("body")));
    assert_eq!(problem.limit.as_deref(), Some("at most 4096 bytes"));
    assert_eq!(problem.sent.as_deref(), Some("4097 bytes"));
    let random = random();
    let rules = ParseRules {
        default_org: None,
        confined_to: None,
        event_bytes_max: limits::EVENT_BYTES_MAX,
        now: NOW,
        random: &*random,
    };
    for (field, bytes_max) in
        [("metadata", limits::METADATA_BYTES_MAX), ("request_context", limits::REQUEST_CONTEXT_BYTES_MAX)]
    {
        let with = |len: usize| {
            let body = format!("{{\"type\":\"a\",\"{field}\":{{\"k\":\"{}\"}}}}", "x".repeat(len - 8));
            parse_event(&Bytes::from(body), &rules)
        };
        assert!(with(bytes_max).is_ok());
        let problem = with(bytes_max + 1).expect_err("is refused");
        assert_eq!((problem.kind, problem.field.as_deref()), (ProblemKind::TooLarge, Some(field)));
        assert_eq!(problem.limit, Some(format!("at most {bytes_max} bytes")));
    }
}

#[test]
fn an_array_is_split_into_the_text_of_its_elements() {
    let body = Bytes::from_static(b" [ {\"type\":\"a\"} , 1,\n\"x,]\",[2, 3],null ] ");
    let parts = split_array(&body, 5).expect("is an array");
    assert_eq!(parts, ["{\"type\":\"a\"}", "1", "\"x,]\"", "[2, 3]", "null"]);
    assert_eq!(split_array(&Bytes::from_static(b"[]"), 5), Ok(Vec::new()));
    let problem = split_array(&body, 4).expect_err("is refused");
    assert_eq!(problem.kind, ProblemKind::TooLarge);
    assert_eq!(problem.limit.as_deref(), Some("at most 4 events in a batch"));
    assert_eq!(problem.sent.as_deref(), Some("5 events"));
    for bad in ["[1,]", "[1", "", "[1] x", "[1 2]"] {
        let problem = split_array(&Bytes::from_static(bad.as_bytes()), 5).expect_err("is refused");
        assert_eq!(problem.kind, ProblemKind::NotJson, "{bad}");
    }
    let problem = split_array(&Bytes::from_static(b"{}"), 5).expect_err("is refused");
    assert_eq!((problem.kind, problem.field.as_deref()), (ProblemKind::InvalidField, Some("body")));
}

/// JSON text, spelled in many ways.
fn json_text() -> impl Strategy<Value = String> {
    let number = prop_oneof![
        "-?(0|[1-9][0-9]{0,40})",
        "-?(0|[1-9][0-9]{0,5})\\.[0-9]{1,30}",
        "-?[1-9](\\.[0-9]{1,3})?[eE][+-]?[0-9]{1,4}",
        Just("-0".to_owned()),
        Just("1e400".to_owned()),
    ];
    let string = prop_oneof![
        any::<String>().prop_map(|text| serde_json::to_string(&text).expect("a string")),
        "\"(\\\\u[0-9a-fA-F]{4}|\\\\[\"/bfnrt\\\\]|[a-z\u{e9}\u{1f600}]){0,12}\"",
    ];
    let literal = prop_oneof![Just("null".to_owned()), Just("true".to_owned()), Just("false".to_owned())];
    let space = || "[ \n\r\t]{0,2}";
    prop_oneof![number, string, literal].prop_recursive(5, 60, 8, move |inner| {
        let elements = prop::collection::vec((space(), inner.clone(), space()), 0..8);
        let members = prop::collection::vec((space(), "[a-z\u{fc}]{0,6}", space(), inner), 0..8);
        prop_oneof![
            elements.prop_map(|elements| {
                let elements: Vec<_> =
                    elements.into_iter().map(|(before, value, after)| before + &value + &after).collect();
                format!("[{}]", elements.join(","))
            }),
            members.prop_map(|members| {
                let members: Vec<_> = members
                    .into_iter()
                    .enumerate()
                    .map(|(at, (before, key, after, value))| {
                        format!("{before}\"{key}{at}\"{after}:{before}{value}{after}")
                    })
                    .collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn any_json_comes_out_byte_for_byte_as_it_went_in(data in json_text(), before in "[ \n]{0,3}", after in "[ \n]{0,3}") {
        let body = format!("{before}{{\"data\":{before}{data}{after},\"type\":\"a.b\",\"id\":\"i\"}}{after}");
        let random = random();
        let rules = ParseRules {
            default_org: None, confined_to: None, event_bytes_max: limits::EVENT_BYTES_MAX, now: NOW, random: &*random,
        };
        let draft = parse_event(&Bytes::from(body), &rules).expect("is taken");
        prop_assert_eq!(part(&draft, draft.meta.data), data.as_str());
        let event = Event::new(Seq(1), draft.received_at, draft.meta, draft.body);
        prop_assert_eq!(event.rendered(BodyFormat::Raw), data.as_bytes());
        let standard = event.rendered(BodyFormat::Standard);
        let member = super::super::json::members(&standard).find(|member| member.name.as_ref() == b"data").expect("data");
        prop_assert_eq!(&standard[member.value], data.as_bytes());
    }

    #[test]
    fn any_json_is_the_same_as_itself_respelled(data in json_text()) {
        let (spaced, wrapped) = (format!("\n {data}\t"), format!("[{data}]"));
        prop_assert!(same_json(data.as_bytes(), spaced.as_bytes()));
        prop_assert!(!same_json(data.as_bytes(), wrapped.as_bytes()));
    }

    #[test]
    fn any_bytes_are_taken_or_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[\\[\\]{}\",:\\\\u0-9a-f ]{0,60}") {
        for body in [bytes, text.into_bytes()] {
            std::hint::black_box((parse_bytes(&body).is_ok(), has_member(&body, "id"), same_json(&body, b"{}")));
        }
    }
}
