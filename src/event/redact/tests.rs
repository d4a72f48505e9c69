use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::json;

use super::key::OrgKey;
use super::*;
use crate::event::cloudevents::{render_binary, render_structured};
use crate::event::envelope::BodyFormat;
use crate::event::parse::{ParseRules, parse_event};
use crate::event::render;
use crate::ground::clock::UnixMs;
use crate::ground::ids::Seq;
use crate::ground::random::SeededRandom;

fn hub_key() -> RedactionKey {
    RedactionKey::of(&crate::ground::secret::Sealer::new(&[7; 32]))
}

fn redaction(path: &str, action: RedactAction, audiences: &[Audience]) -> Redaction {
    Redaction { path: path.to_owned(), action, audiences: audiences.to_vec() }
}

fn for_all(rules: &[(&str, RedactAction)]) -> Redactions {
    let list: Vec<_> = rules.iter().map(|(path, action)| redaction(path, *action, &Audience::ALL)).collect();
    Redactions::compile("redactions", &list, &hub_key()).expect("compiles")
}

fn applied(rules: &[(&str, RedactAction)], text: &str) -> String {
    String::from_utf8(for_all(rules).apply("acme", text.as_bytes(), Audience::Cdc).into_owned()).expect("text")
}

use RedactAction::{Drop, Hash, Mask};

#[test]
fn a_mask_hides_whatever_stood_there_and_the_rest_stays_byte_for_byte() {
    let body =
        r#"{ "type":"a.b" , "data" : {"n": 1.10, "card" : {"no":"4111"} ,"x":12345678901234567890,"c":"\u00e9"} }"#;
    let wanted = r#"{ "type":"a.b" , "data" : {"n": 1.10, "card" : "***" ,"x":12345678901234567890,"c":"\u00e9"} }"#;
    assert_eq!(applied(&[("/data/card", Mask)], body), wanted);
    for value in ["1", "true", "null", "[]", "\"a long text that says much\"", "{\"a\":[{}]}"] {
        assert_eq!(
            applied(&[("/data/v", Mask)], &format!("{{\"data\":{{\"v\":{value}}}}}")),
            r#"{"data":{"v":"***"}}"#
        );
    }
}

#[test]
fn a_dropped_member_takes_one_comma_with_it_wherever_it_stood() {
    let drop = |names: &[&str], text: &str| {
        let paths: Vec<_> = names.iter().map(|name| (format!("/data/{name}"), Drop)).collect();
        let paths: Vec<_> = paths.iter().map(|(path, action)| (path.as_str(), *action)).collect();
        applied(&paths, text)
    };
    let text = r#"{"data":{ "a":1 , "b":2 , "c":3 }}"#;
    assert_eq!(drop(&["a"], text), r#"{"data":{ "b":2 , "c":3 }}"#);
    assert_eq!(drop(&["b"], text), r#"{"data":{ "a":1 , "c":3 }}"#);
    assert_eq!(drop(&["c"], text), r#"{"data":{ "a":1 , "b":2 }}"#);
    assert_eq!(drop(&["a", "b"], text), r#"{"data":{ "c":3 }}"#);
    assert_eq!(drop(&["a", "c"], text), r#"{"data":{ "b":2 }}"#);
    assert_eq!(drop(&["b", "c"], text), r#"{"data":{ "a":1 }}"#);
    assert_eq!(drop(&["a", "b", "c"], text), r#"{"data":{  }}"#);
    assert_eq!(drop(&["*"], text), r#"{"data":{  }}"#);
    assert_eq!(applied(&[("/data", Drop)], r#"{"type":"t","data":[1]}"#), r#"{"type":"t"}"#);
}

#[test]
fn a_dropped_element_leaves_null_so_that_the_others_keep_their_places() {
    let text = r#"{"data":[1,{"k":2},[3]]}"#;
    assert_eq!(applied(&[("/data/0", Drop)], text), r#"{"data":[null,{"k":2},[3]]}"#);
    assert_eq!(applied(&[("/data/*", Drop)], text), r#"{"data":[null,null,null]}"#);
    assert_eq!(applied(&[("/data/*/k", Drop)], text), r#"{"data":[1,{},[3]]}"#);
    assert_eq!(
        applied(&[("/data/2/0", Mask), ("/data/00", Mask), ("/data/-", Mask)], text),
        r#"{"data":[1,{"k":2},["***"]]}"#
    );
}

#[test]
fn a_name_is_found_however_it_is_spelled() {
    let text = r#"{"d\u0061ta":{"a/b":1,"\u0061\/b":2,"m~n":3,"*":4,"0":5}}"#;
    let rules = [("/data/a~1b", Mask), ("/data/m~0n", Mask), ("/data/0", Mask)];
    assert_eq!(applied(&rules, text), r#"{"d\u0061ta":{"a/b":"***","\u0061\/b":"***","m~n":"***","*":4,"0":"***"}}"#);
}

#[test]
fn of_several_redactions_the_one_that_tells_least_counts() {
    let text = r#"{"data":{"a":{"b":1}}}"#;
    assert_eq!(applied(&[("/data/a/b", Hash), ("/data/*/b", Mask)], text), r#"{"data":{"a":{"b":"***"}}}"#);
    assert_eq!(applied(&[("/data/a/b", Drop), ("/data/a/*", Mask)], text), r#"{"data":{"a":{}}}"#);
    assert_eq!(applied(&[("/data/a/b", Drop), ("/data/a", Mask)], text), r#"{"data":{"a":"***"}}"#);
}

#[test]
fn an_audience_that_has_no_redaction_borrows_the_text() {
    let list = [redaction("/data/a", Mask, &[Audience::Cdc]), redaction("/metadata/m", Drop, &[Audience::Console])];
    let rules = Redactions::compile("redactions", &list, &hub_key()).expect("compiles");
    let text = br#"{"data":{"a":1},"metadata":{"m":2}}"#;
    assert!(matches!(rules.apply("acme", text, Audience::Webhook), Cow::Borrowed(_)));
    assert_eq!(rules.apply("acme", text, Audience::Cdc).as_ref(), br#"{"data":{"a":"***"},"metadata":{"m":2}}"#);
    assert_eq!(rules.apply("acme", text, Audience::Console).as_ref(), br#"{"data":{"a":1},"metadata":{}}"#);
    let event = event(r#"{"type":"a.b","id":"1","data":{"a":1}}"#);
    assert!(Arc::ptr_eq(&rules.event(&event, Audience::Export), &event));
    // A rule that meets nothing copies nothing either.
    assert!(matches!(rules.apply("acme", br#"{"data":{"b":1}}"#, Audience::Cdc), Cow::Borrowed(_)));
}

#[test]
fn a_hash_joins_the_same_value_within_an_org_alone() {
    let (acme, other) = (hub_key().org("acme"), hub_key().org("other"));
    let hash = |key: &OrgKey, text: &str| String::from_utf8(key.hashed(text.as_bytes())).expect("text");
    let one = hash(&acme, r#"{"mail":"é@x","n":1.0}"#);
    assert_eq!(one, hash(&acme, " {\"n\":1.0, \"mail\":\"\\u00e9@x\"}"));
    assert_ne!(one, hash(&acme, r#"{"mail":"é@x","n":1}"#));
    assert_ne!(one, hash(&other, r#"{"mail":"é@x","n":1.0}"#));
    assert_eq!(one.len(), "\"hash:\"".len() + 40);
    // The key outlives the process: the same store key gives the same hash.
    assert_eq!(hash(&acme, "\"a@b.c\""), r#""hash:cd7104d6b5eb3249d0068c521983ee0663b129ff""#);
    // Its own hashes are known, those of others and what only looks like one are values.
    assert_eq!(hash(&acme, &one), one);
    assert_ne!(hash(&other, &one), one);
    let forged = format!("\"hash:{}\"", "0".repeat(40));
    assert_ne!(hash(&acme, &forged), forged);
    assert_ne!(hash(&acme, &one.to_uppercase()), one.to_uppercase());
}

#[test]
fn a_part_that_stands_alone_is_redacted_by_the_paths_into_it() {
    let rules = for_all(&[("/data/a", Mask), ("/metadata", Drop), ("/request_context/ip", Drop)]);
    let part = |root, text: &str| {
        String::from_utf8(rules.apply_part("acme", root, text.as_bytes(), Audience::Cdc).into_owned()).expect("text")
    };
    assert_eq!(part(Root::Data, r#"{"a":1,"data":{"a":2}}"#), r#"{"a":"***","data":{"a":2}}"#);
    assert_eq!(part(Root::Data, "7"), "7");
    assert_eq!(part(Root::Metadata, r#"{"a":1}"#), "null");
    assert_eq!(part(Root::RequestContext, r#"{"ip":"10.0.0.1","correlation_id":"c"}"#), r#"{"correlation_id":"c"}"#);
}

#[test]
fn what_is_no_json_comes_out_as_nothing() {
    let rules = for_all(&[("/data/a/b", Mask)]);
    for text in ["", "{", r#"{"data":{"a":{"b"#, r#"{"data":{"a""#, "}", r#"{"data":{"a":{"b":"secret"#, "{1:2}"] {
        let out = rules.apply("acme", text.as_bytes(), Audience::Cdc);
        assert!(!String::from_utf8_lossy(&out).contains("secret"), "{text}");
        assert_eq!(out.as_ref(), b"null", "{text}");
    }
}

fn event(body: &str) -> Arc<Event> {
    let random = SeededRandom::shared(1);
    let rules = ParseRules {
        default_org: Some("acme"),
        confined_to: None,
        event_bytes_max: 1 << 20,
        now: UnixMs(1_795_248_000_123),
        random: &*random,
    };
    let draft = parse_event(&Bytes::copy_from_slice(body.as_bytes()), &rules).expect("is taken");
    Event::new(Seq(9), draft.received_at, draft.meta, draft.body)
}

#[test]
fn every_form_of_an_event_is_redacted_and_shared_while_it_is_held() {
    let event = event(
        r#"{"metadata":{"m":"SECRET","k":1},"type":"a.b","id":"1","data":{"a":"SECRET","b":2.50},"source_refs":[],
            "request_context":{"ip":"SECRET","correlation_id":"c"},"aggregate_type":"order","aggregate_id":"7"}"#,
    );
    let rules = for_all(&[("/data/a", Hash), ("/metadata/m", Drop), ("/request_context/ip", Mask)]);
    let shown = rules.event(&event, Audience::Webhook);
    let forms = [
        shown.rendered(BodyFormat::Standard).to_vec(),
        shown.rendered(BodyFormat::Raw).to_vec(),
        render::envelope(&shown),
        render_structured(&shown).to_vec(),
        format!("{:?}", render_binary(&shown)).into_bytes(),
    ];
    for form in &forms {
        let text = String::from_utf8_lossy(form);
        assert!(!text.contains("SECRET") && text.contains("2.50"), "{text}");
    }
    assert_eq!(shown.meta.correlation_id.as_deref(), Some("c"));
    let text = |span: Option<Span>| span.map(|span| String::from_utf8_lossy(shown.text(span)).into_owned());
    assert_eq!(text(shown.meta.metadata).as_deref(), Some(r#"{"k":1}"#));
    assert_eq!(text(shown.meta.source_refs).as_deref(), Some("[]"));
    assert!(Arc::ptr_eq(&shown, &rules.event(&event, Audience::Webhook)));
    assert!(!Arc::ptr_eq(&shown, &rules.event(&event, Audience::Cdc)));
    // Other redactions of the type are not mistaken for the ones before.
    let changed = for_all(&[("/data", Drop)]).event(&event, Audience::Webhook);
    assert_eq!(changed.meta.data, None);
    assert!(String::from_utf8_lossy(&changed.rendered(BodyFormat::Standard)).contains("\"data\":null"));
}

#[test]
fn masked_data_that_was_base64_is_still_a_cloud_event() {
    let event = event(
        r#"{"type":"a.b","id":"1","data":"AAEC","metadata":{"cloudevents":{"specversion":"1.0","data_base64":true}}}"#,
    );
    assert!(String::from_utf8_lossy(&render_structured(&event)).contains("\"data_base64\":\"AAEC\""));
    let shown = for_all(&[("/data", Mask)]).event(&event, Audience::Webhook);
    assert!(String::from_utf8_lossy(&render_structured(&shown)).contains("\"data\":\"***\""));
}

#[test]
fn bad_redactions_are_refused_with_field_and_bound() {
    let refused = |sent: serde_json::Value| {
        let problem = Redactions::read("redactions", &sent).expect_err("is refused");
        (problem.field.unwrap_or_default(), problem.limit.unwrap_or_default())
    };
    let path = |path: &str, action: &str| refused(json!([{ "path": path, "action": action }]));
    assert_eq!(refused(json!({})).0, "redactions");
    assert_eq!(refused(json!([1])).0, "redactions[0]");
    assert_eq!(refused(json!([{ "action": "mask" }])), ("redactions[0].path".into(), "required".into()));
    assert_eq!(refused(json!([{ "path": "/data" }])), ("redactions[0].action".into(), "required".into()));
    assert_eq!(refused(json!([{ "path": "/data", "action": "hide" }])).1, "one of mask, hash, drop");
    assert_eq!(refused(json!([{ "path": "/data", "action": "mask", "audience": [] }])).0, "redactions[0].audience");
    let audiences = |sent| refused(json!([{ "path": "/data", "action": "mask", "audiences": sent }])).0;
    assert_eq!(audiences(json!([])), "redactions[0].audiences");
    assert_eq!(audiences(json!("cdc")), "redactions[0].audiences");
    assert_eq!(audiences(json!(["cdc", "all"])), "redactions[0].audiences[1]");
    assert_eq!(audiences(json!(["cdc", "cdc"])), "redactions[0].audiences[1]");
    for bad in [
        "",
        "data",
        "/",
        "/*",
        "/id",
        "/type",
        "/org",
        "/seq",
        "/subject",
        "/data/~2",
        "/data/~",
        "/request_context",
        "/request_context/*",
        "/request_context/correlation_id",
        "/request_context/causation_id/x",
    ] {
        assert_eq!(path(bad, "drop").0, "redactions[0].path", "{bad}");
    }
    assert!(path("/metadata", "mask").1.contains("only be dropped"));
    assert!(path("/source_refs", "hash").1.contains("only be dropped"));
    for (bad, action) in [("/source_refs/0", "mask"), ("/source_refs/*/id", "drop"), ("/source_refs/*/id/x", "mask")] {
        assert_eq!(path(bad, action).0, "redactions[0].path", "{bad}");
    }
    for_all(&[
        ("/source_refs", Drop),
        ("/source_refs/*/id", Hash),
        ("/metadata", Drop),
        ("/request_context/user_id", Mask),
    ]);
    assert_eq!(path(&format!("/data/{}", "x".repeat(600)), "mask").1, "at most 512 characters");
    assert_eq!(path(&format!("/data{}", "/*".repeat(40)), "mask").1, "at most 32 steps");
    let many = vec![json!({ "path": "/data", "action": "mask" }); REDACTIONS_MAX + 1];
    assert_eq!(refused(json!(many)).1, "at most 64 redactions");
    let taken = Redactions::read("redactions", &json!([{ "path": "/data/a", "action": "hash" }])).expect("is taken");
    assert_eq!(taken, [redaction("/data/a", Hash, &Audience::ALL)]);
}

/// A value as the model sees it.
#[derive(Clone, Debug)]
enum Model {
    Leaf(String),
    List(Vec<Model>),
    Map(Vec<(String, Model)>),
}

impl Model {
    fn write(&self, space: &str) -> String {
        let comma = format!("{space},{space}");
        match self {
            Self::Leaf(text) => text.clone(),
            Self::List(items) => {
                let items: Vec<_> = items.iter().map(|item| item.write(space)).collect();
                format!("[{space}{}{space}]", items.join(&comma))
            }
            Self::Map(members) => {
                let members: Vec<_> = members
                    .iter()
                    .map(|(name, value)| format!("\"{name}\"{space}:{space}{}", value.write(space)))
                    .collect();
                format!("{{{space}{}{space}}}", members.join(&comma))
            }
        }
    }

    /// The redacted value, the slow way; none when it is dropped.
    fn redacted(&self, rules: &[(Vec<String>, RedactAction)], way: &mut Vec<String>, key: &OrgKey) -> Option<Self> {
        let meets =
            |path: &[String]| path.len() == way.len() && path.iter().zip(way.iter()).all(|(a, b)| a == "*" || a == b);
        match rules.iter().filter(|(path, _)| meets(path)).map(|(_, action)| *action).max() {
            Some(Drop) => return None,
            Some(Mask) => return Some(Self::Leaf(MASK.to_owned())),
            Some(Hash) => {
                let hash = key.hashed(self.write("").as_bytes());
                return Some(Self::Leaf(String::from_utf8(hash).expect("text")));
            }
            None => {}
        }
        let mut below = |step: String, value: &Self| {
            way.push(step);
            let redacted = value.redacted(rules, way, key);
            way.pop();
            redacted
        };
        Some(match self {
            Self::Leaf(text) => Self::Leaf(text.clone()),
            Self::List(items) => Self::List(
                items
                    .iter()
                    .enumerate()
                    .map(|(at, item)| below(at.to_string(), item).unwrap_or_else(|| Self::Leaf("null".to_owned())))
                    .collect(),
            ),
            Self::Map(members) => Self::Map(
                members.iter().filter_map(|(name, value)| Some((name.clone(), below(name.clone(), value)?))).collect(),
            ),
        })
    }
}

fn model() -> impl Strategy<Value = Model> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("1.10".to_owned()),
        Just("12345678901234567890".to_owned()),
        "\"[a-z,:{}\\[\\]]{0,6}\"",
        Just(r#""\"\\""#.to_owned()),
    ]
    .prop_map(Model::Leaf);
    leaf.prop_recursive(4, 32, 5, |inner| {
        let map = prop::collection::btree_map("[ab0-2]", inner.clone(), 0..5);
        prop_oneof![
            prop::collection::vec(inner, 0..5).prop_map(Model::List),
            map.prop_map(|members| Model::Map(members.into_iter().collect())),
        ]
    })
}

fn paths() -> impl Strategy<Value = Vec<(Vec<String>, RedactAction)>> {
    let action = prop_oneof![Just(Hash), Just(Mask), Just(Drop)];
    let path = prop::collection::vec("[ab0-2*]", 0..4).prop_map(|mut steps: Vec<String>| {
        steps.insert(0, "data".to_owned());
        steps
    });
    prop::collection::vec((path, action), 1..6)
}

proptest! {
    #[test]
    fn redacting_is_what_a_plain_walk_over_values_does_and_is_idempotent(data in model(), rules in paths(), space in "[ \n]{0,2}") {
        let envelope = Model::Map(vec![
            ("type".to_owned(), Model::Leaf("\"a.b\"".to_owned())),
            ("data".to_owned(), data),
            ("id".to_owned(), Model::Leaf("1".to_owned())),
        ]);
        let written: Vec<_> = rules.iter().map(|(path, action)| (format!("/{}", path.join("/")), *action)).collect();
        let compiled = for_all(&written.iter().map(|(path, action)| (path.as_str(), *action)).collect::<Vec<_>>());
        let wanted = envelope.redacted(&rules, &mut Vec::new(), &hub_key().org("acme")).expect("the root stays").write("");
        let text = envelope.write("");
        let out = compiled.apply("acme", text.as_bytes(), Audience::Cdc).into_owned();
        prop_assert_eq!(String::from_utf8_lossy(&out), wanted.as_str());
        let again = compiled.apply("acme", &out, Audience::Cdc);
        prop_assert_eq!(again.as_ref(), out.as_slice());
        let spaced = compiled.apply("acme", envelope.write(&space).as_bytes(), Audience::Cdc).into_owned();
        let parsed: serde_json::Value = serde_json::from_slice(&spaced).expect("JSON");
        prop_assert_eq!(parsed, serde_json::from_str::<serde_json::Value>(&wanted).expect("JSON"));
    }

    #[test]
    fn nothing_of_what_is_redacted_comes_out_and_the_rest_stays(secret in "[A-Z]{12}", deep in 0_usize..6, action in prop_oneof![Just(Hash), Just(Mask), Just(Drop)]) {
        let (open, close) = ("{\"a\": [".repeat(deep), "]}".repeat(deep));
        let (before, after) = ("{\"data\" : {\"x\":1e400, \"s\": ", ", \"y\" : -0 } , \"id\":\"7\"}");
        let text = format!("{before}{open}\"{secret}\"{close}{after}");
        let out = applied(&[("/data/s", action)], &text);
        prop_assert!(!out.contains(&secret));
        prop_assert!(!secret.as_bytes().windows(6).any(|part| out.as_bytes().windows(6).any(|shown| shown == part)));
        if action == Drop {
            prop_assert_eq!(out, "{\"data\" : {\"x\":1e400, \"y\" : -0 } , \"id\":\"7\"}");
        } else {
            prop_assert!(out.starts_with(before) && out.ends_with(after));
        }
    }

    #[test]
    fn any_text_is_redacted_without_a_panic(text in "[\\[\\]{}\",:\\\\ab*0-9 ]{0,60}") {
        std::hint::black_box(applied(&[("/data/*/a", Drop), ("/data/*", Hash), ("/data/0/*/b", Mask)], &text));
    }
}
