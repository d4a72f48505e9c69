use serde_json::{Value, json};

use super::*;
use crate::event::filter::subject::Subject;
use crate::event::filter::{Clause, Decision, TypePattern};
use crate::upstream::publish::samples::{event, timeline};

#[test]
fn a_rule_is_shown_as_it_was_sent_with_its_defaults_and_survives_a_document() {
    let rules = read_rules(json!([timeline()]), Some("acme")).expect("reads");
    let shown = rules[0].to_json();
    for (name, value) in timeline().as_object().expect("an object") {
        if name != "call" && name != "retry" {
            assert_eq!(&shown[name], value, "{name}");
        }
    }
    assert_eq!((&shown["org"], &shown["ordering"], &shown["paused"]), (&json!("acme"), &json!("key"), &json!(false)));
    assert_eq!(shown["retry"]["attempts_max"], 3, "the preset is shown with its numbers");
    // What is shown can be sent again.
    assert_eq!(read_rules(json!([shown]), Some("acme")).expect("reads again"), rules);
}

#[test]
fn the_stored_form_of_a_rule_is_read_again_also_where_it_says_little() {
    let rules = read_rules(json!([timeline()]), Some("acme")).expect("reads");
    let stored = serde_json::to_string(&rules[0]).expect("writes");
    insta::assert_snapshot!(stored);
    assert_eq!(serde_json::from_str::<PublishRule>(&stored).expect("reads"), rules[0]);
    let least = r#"{"name":"r","filter":{"org":null,"event_types":["a.*"],"channel":null,"facility":null,"service":null},
        "about":{"external_id":"aggregate_id"},"call":{"method":"POST","path":"/x"}}"#;
    let read: PublishRule = serde_json::from_str(least).expect("an older document reads");
    assert_eq!((read.ordering, read.paused, read.call.format), (Ordering::None, false, BodyForm::Json));
}

#[test]
fn an_event_without_what_a_rule_requires_is_passed_over_with_the_reason() {
    let rule = &read_rules(json!([timeline()]), None).expect("reads")[0];
    let with = |data: &str| event("booking.created", data);
    let decided = |event: &crate::event::envelope::Event| rule.filter.decide(event);
    assert_eq!(decided(&with(r#"{"contactId":"c-1"}"#)), Decision::Match);
    for (data, reason) in [
        ("{}", "the event has no `data.contactId`"),
        (r#"{"contactId":null}"#, "the event has no `data.contactId`"),
        (r#"{"contactId":" "}"#, "`data.contactId` of the event is empty"),
    ] {
        let event = with(data);
        assert_eq!(decided(&event), Decision::NoMatch(Clause::Requires), "{data}");
        assert_eq!(rule.filter.reason(Clause::Requires, &Subject::new(&event)), reason);
    }
    assert_eq!(decided(&event("booking.moved", r#"{"contactId":"c-1"}"#)), Decision::NoMatch(Clause::Type));
    assert_eq!(rule.filter.event_types.len(), 4);
    assert_eq!(rule.filter.event_types[0], TypePattern::Exact("booking.created".to_owned()));
}

fn refused(change: impl FnOnce(&mut Value)) -> Problem {
    let mut second = timeline();
    second["name"] = json!("second");
    change(&mut second);
    read_rules(json!([timeline(), second]), Some("acme")).expect_err("refused")
}

#[test]
fn what_does_not_fit_is_named_with_the_place_of_its_rule() {
    type Change = fn(&mut Value);
    let cases: &[(&str, &str, Change)] = &[
        ("publishes[1].name", "publishes[0]", |rule| rule["name"] = json!("timeline")),
        ("publishes[1].name", "required", |rule| rule["name"] = Value::Null),
        ("publishes[1].name", "a-z", |rule| rule["name"] = json!("Time Line")),
        ("publishes[1].event_types", "required", |rule| rule["event_types"] = Value::Null),
        ("publishes[1].event_types[0]", "", |rule| rule["event_types"] = json!(["a..b"])),
        ("publishes[1].org", "acme", |rule| rule["org"] = json!("globex")),
        ("publishes[1].when", "line 1", |rule| rule["when"] = json!("data.amount >")),
        ("publishes[1].when", "a text", |rule| rule["when"] = json!(7)),
        ("publishes[1].requires[1]", "begins with", |rule| rule["requires"] = json!(["data.a", "colour"])),
        ("publishes[1].requires", "at most 20", |rule| rule["requires"] = json!(vec!["data.a"; 21])),
        ("publishes[1].ordering", "none, key, strict", |rule| rule["ordering"] = json!("random")),
        ("publishes[1].concurrency", "1 to 64", |rule| rule["concurrency"] = json!(0)),
        ("publishes[1].retry", "", |rule| rule["retry"] = json!("sometimes")),
        ("publishes[1].paused", "true or false", |rule| rule["paused"] = json!("yes")),
        ("publishes[1].about.contact_id", "begins with", |rule| rule["about"] = json!({"contact_id": "x.y"})),
        ("publishes[1].about.colour", "unknown", |rule| rule["about"] = json!({"colour": "x"})),
        ("publishes[1].call", "required", |rule| rule["call"] = Value::Null),
        ("publishes[1].call", "an object", |rule| rule["call"] = json!("POST /x")),
        ("publishes[1].call.method", "POST, PUT, PATCH, DELETE", |rule| rule["call"]["method"] = json!("GET")),
        ("publishes[1].call.method", "POST", |rule| rule["call"]["method"] = json!("BREW")),
        ("publishes[1].call.path", "required", |rule| rule["call"]["path"] = Value::Null),
        ("publishes[1].call.path", "begins with one", |rule| rule["call"]["path"] = json!("api/v1")),
        ("publishes[1].call.path", "begins with one", |rule| rule["call"]["path"] = json!("//evil.example/x")),
        ("publishes[1].call.path", "begins with one", |rule| rule["call"]["path"] = json!("{data.x}/y")),
        ("publishes[1].call.path", "dot segments", |rule| rule["call"]["path"] = json!("/a/../b")),
        ("publishes[1].call.path", "dot segments", |rule| rule["call"]["path"] = json!("/a/%2E%2e/b")),
        ("publishes[1].call.path", "RFC 3986", |rule| rule["call"]["path"] = json!("/a b")),
        ("publishes[1].call.path", "character 4", |rule| rule["call"]["path"] = json!("/a/{data.x")),
        ("publishes[1].call.headers", "an object", |rule| rule["call"]["headers"] = json!([])),
        ("publishes[1].call.headers.x y", "header name", |rule| rule["call"]["headers"] = json!({"x y": "1"})),
        ("publishes[1].call.headers.Authorization", "`auth`", |rule| {
            rule["call"]["headers"] = json!({"Authorization": "Bearer hunter2"});
        }),
        ("publishes[1].call.headers.x", "visible", |rule| rule["call"]["headers"] = json!({"x": "é"})),
        ("publishes[1].call.format", "json, cloudevents", |rule| rule["call"]["format"] = json!("xml")),
        ("publishes[1].call.body", "line 1", |rule| rule["call"]["body"] = json!("{{ data.x")),
        ("publishes[1].call.body", "a text", |rule| rule["call"]["body"] = json!({"a": 1})),
        ("publishes[1].call.body", "DELETE", |rule| rule["call"]["method"] = json!("DELETE")),
        ("publishes[1].call.colour", "unknown", |rule| rule["call"]["colour"] = json!(1)),
        ("publishes[1].evnt_types", "event_types", |rule| rule["evnt_types"] = json!([])),
    ];
    for (field, told, change) in cases {
        let problem = refused(change);
        assert_eq!(problem.field.as_deref(), Some(*field), "{problem}");
        assert!(problem.limit.as_deref().is_some_and(|limit| limit.contains(told)), "{field}: {problem:?}");
        assert!(problem.detail.starts_with(field), "{problem}");
        assert!(!problem.to_json().to_string().contains("hunter2"));
    }
    for (sent, field) in [(json!({}), "publishes"), (json!([7]), "publishes[0]"), (json!(vec![0; 51]), "publishes")] {
        assert_eq!(read_rules(sent, None).expect_err("refused").field.as_deref(), Some(field));
    }
    let mistake = refused(|rule| rule["when"] = json!("data.amount >"));
    assert_eq!((&mistake.extra["line"], mistake.extra.contains_key("column")), (&json!(1), true));
}
