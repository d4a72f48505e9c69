//! What expressions say, beside what the `cel` crate's own evaluation says of the same text and event.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::expression::Expression;
use super::*;
use crate::event::envelope::Event;
use crate::event::json::tree::Json;
use crate::event::parse::{ParseRules, parse_event};
use crate::ground::clock::UnixMs;
use crate::ground::ids::Seq;
use crate::ground::random::SeededRandom;

const EVENT: &str = r#"{
    "id": "e-1", "type": "order.created", "org": "acme", "source": "billing", "channel": "web",
    "metadata": {"region": "eu"}, "source_refs": [{"system": "crm", "type": "deal", "id": "7"}],
    "data": {
        "amount": 150, "small": -3, "price": 19.99, "whole": 150.0, "big": 12345678901234567890,
        "huge": 123456789012345678901234567890, "name": "Ad\u00e4", "empty": "", "none": null, "yes": true, "no": false,
        "tags": ["a", "b", "vip"], "nothing": [],
        "items": [{"sku": "x", "qty": 2}, {"sku": "y", "qty": 5}, {"sku": "z"}],
        "customer": {"tier": "gold", "address": {"city": "Berlin"}}, "odd key": 1, "numbers": [1, 2.0, 3]
    }
}"#;

fn event(body: impl Into<Bytes>) -> Arc<Event> {
    let random = SeededRandom::shared(1);
    let rules = ParseRules {
        default_org: None,
        confined_to: None,
        event_bytes_max: 16 << 20,
        now: UnixMs(1_795_248_000_123),
        random: &*random,
    };
    let draft = parse_event(&body.into(), &rules).expect("is taken");
    Event::new(Seq(9), draft.received_at, draft.meta, draft.body)
}

fn ours(text: &str, event: &Event) -> Result<bool, Fault> {
    Expression::parse(text).unwrap_or_else(|problem| unreachable!("{text}: {problem}")).holds(&Subject::new(event))
}

/// The value as the `cel` crate has it.
fn value(json: &Json<'_>) -> cel::Value {
    match json {
        Json::Null => cel::Value::Null,
        Json::Bool(value) => cel::Value::Bool(*value),
        Json::Int(value) => cel::Value::Int(*value),
        Json::UInt(value) => cel::Value::UInt(*value),
        Json::Double(value) => cel::Value::Float(*value),
        Json::Text(text) => cel::Value::from(text.as_ref()),
        Json::List(items) => cel::Value::from(items.iter().map(value).collect::<Vec<_>>()),
        Json::Map(members) => {
            let members = members.iter().map(|(name, member)| (name.to_owned(), value(member)));
            cel::Value::from(members.collect::<HashMap<_, _>>())
        }
    }
}

/// What the `cel` crate says; none when it fails or gives no truth value.
fn theirs(text: &str, event: &Event) -> Option<bool> {
    let env = Arc::new(cel::Env::stdlib());
    let mut context = cel::Context::with_env(Arc::clone(&env));
    let subject = Subject::new(event);
    context.add_variable_from_value("data", value(subject.data()));
    let meta = &event.meta;
    let mut fields = HashMap::from([
        ("id".to_owned(), cel::Value::from(meta.id.as_str())),
        ("type".to_owned(), cel::Value::from(meta.event_type.as_str())),
        ("org".to_owned(), cel::Value::from(meta.org.as_str())),
        ("seq".to_owned(), cel::Value::UInt(event.seq.0)),
    ]);
    for (name, text) in [("source", &meta.source), ("channel", &meta.channel), ("facility", &meta.facility)] {
        fields.extend(text.as_deref().map(|text| (name.to_owned(), cel::Value::from(text))));
    }
    fields.extend(subject.metadata().map(|json| ("metadata".to_owned(), value(json))));
    fields.extend(subject.source_refs().map(|json| ("source_refs".to_owned(), value(json))));
    context.add_variable_from_value("event", fields);
    match env.compile(text).expect("compiles").execute(&context) {
        Ok(cel::Value::Bool(value)) => Some(value),
        Ok(_) | Err(_) => None,
    }
}

/// Expressions that hold, those that do not, and those that give no answer.
const TRUE: &[&str] = &[
    r#"data.amount > 100 && event.source == "billing""#,
    "data.amount == 150.0 && data.whole == 150 && data.amount == 150u",
    "data.big > 12345678901234567889u && data.big < 12345678901234567891u",
    "data.huge > 18446744073709551615u && data.huge > 1.0e29",
    "data.price * 2.0 > 39.0 && data.price < 20",
    "data.amount + data.small == 147 && data.amount - 1 == 149 && data.amount * 2 == 300",
    "data.amount / 4 == 37 && data.amount % 4 == 2 && -data.small == 3",
    r#"data.name + "!" == "Adä!" && size(data.name) == 3 && data.name.size() == 3"#,
    r#"data.name.startsWith("A") && data.name.endsWith("ä") && data.name.contains("dä")"#,
    r#"data.name.matches("^A.ä$") && matches(event.type, "^order\\.")"#,
    r#""vip" in data.tags && !("x" in data.tags) && "tier" in data.customer && !(1 in data.customer)"#,
    r#"event.type in ["order.created", "order.changed"] && data.amount in [1, 150.0]"#,
    "2 in data.numbers && data.numbers == [1, 2, 3.0]",
    r#"data.tags[0] == "a" && data["odd key"] == 1 && data.items[1].qty == 5 && data.tags[2u] == "vip""#,
    "has(data.amount) && !has(data.missing) && has(event.channel) && !has(event.facility)",
    r#"has(data.customer.address.city) && data.customer.address == data["customer"]["address"]"#,
    "data.items.exists(i, i.qty > 4) && !data.items.all(i, has(i.qty) && i.qty > 4)",
    r#"data.items.exists_one(i, i.sku == "x") && data.tags.all(t, size(t) > 0)"#,
    r#"data.items.filter(i, has(i.qty)).size() == 2 && data.tags.map(t, t + t)[0] == "aa""#,
    r#"data.items.map(i, has(i.qty), i.qty * 2) == [4, 10] && data.customer.exists(k, k == "tier")"#,
    "data.items.exists(i, has(i.qty) && data.tags.exists(t, size(t) > i.qty))",
    "data.missing > 1 || data.yes",
    "data.yes || data.missing > 1",
    "!(data.missing > 1 && data.no)",
    "data.items.exists(i, i.qty == 2)",
    "!data.items.all(i, i.qty == 2)",
    "data.none == null && data.amount != null && data.name != 1 && data.tags != data.name",
    "data.amount > 100 ? data.yes : data.missing",
    r#"int("12") == 12 && int(2.9) == 2 && uint(3) == 3u && double("1.5") == 1.5 && string(12) == "12""#,
    r#""a" < "b" && false < true && "Z" < "a""#,
    r#"event.metadata.region == "eu" && event.source_refs[0].system == "crm" && event.seq == 9u"#,
    "data.nothing.all(x, x > 1) && !data.nothing.exists(x, true) && data.nothing == []",
    "data == data && data.items != data.tags",
];
const FALSE: &[&str] = &[
    "data.amount > 100 && event.source == 'crm'",
    "data.no && data.missing",
    "data.missing && data.no",
    "data.amount == '150'",
    "data.tags == ['a', 'b']",
    "data.big == 12345678901234567891u",
    "data.items.exists(i, has(i.qty) && i.qty > 5)",
];
const NO_ANSWER: &[&str] = &[
    "data.missing > 1",
    "data.missing.deeper == 1",
    "data.name.first == 1",
    "event.facility == 'x'",
    "data.amount && true",
    "data.name > 1",
    "data.amount + 1.5 > 1.0",
    "data.amount / 0 > 1",
    "data.amount % 0 > 1",
    "9223372036854775807 + data.amount > 1",
    "data.tags[3] == 'x'",
    "data.tags[-1] == 'x'",
    "data.tags['x'] == 'x'",
    "has(data.name.x)",
    "data.items.exists(i, i.qty > 100)",
    "data.items.exists_one(i, i.qty == 2)",
    "data.amount.exists(x, true)",
    "size(data.amount) > 1",
    "int(data.name) > 1",
    "1 in data.name",
    "data.name",
    "data.amount",
    "data.amount.startsWith('1')",
    "data.amount ? true : false",
    "!data.amount",
    "-data.name == 1",
];

#[test]
fn what_expressions_say_is_what_the_crate_says() {
    let event = event(EVENT);
    for (texts, wanted) in [(TRUE, Some(true)), (FALSE, Some(false)), (NO_ANSWER, None)] {
        for text in texts {
            let ours = ours(text, &event);
            assert_eq!(ours.clone().ok(), wanted, "{text}: {ours:?}");
            assert_eq!(theirs(text, &event), wanted, "the crate on {text}");
        }
    }
}

#[test]
fn a_fault_says_what_is_missing_or_does_not_fit() {
    let event = event(EVENT);
    for (text, wanted) in [
        ("data.customer.missing.x == 1", "there is no field `data.customer.missing`"),
        ("event.metadata.colour == 'x'", "there is no field `event.metadata.colour`"),
        ("event.facility == 'x'", "there is no field `event.facility`"),
        ("data.items.all(i, i.qty > 1)", "there is no field `i.qty`"),
        ("data.name > 1", "`>` does not take string and int"),
        ("data.amount + 1.5 > 1.0", "`+` does not take int and double"),
        ("data.amount / 0 > 1", "`/` by zero"),
        ("data.tags[7] == 'x'", "the list has no element 7"),
        ("data.amount", "it gives a value of type int, not true or false"),
        ("-9223372036854775807 - data.amount < 1", "`-` passes the range of whole numbers"),
        ("int(data.name) > 1", "`int` cannot convert this value"),
    ] {
        assert_eq!(ours(text, &event).expect_err(text).to_string(), wanted, "{text}");
    }
}

#[test]
fn an_event_without_data_has_null_there() {
    let event = event(r#"{"type":"a.b","id":"1","org":"acme"}"#);
    assert_eq!(ours("data == null", &event), Ok(true));
    assert!(ours("data.x == 1", &event).is_err() && ours("has(event.metadata)", &event) == Ok(false));
    assert_eq!(ours("event.occurred_at == event.received_at && !has(event.request_context)", &event), Ok(true));
}

#[test]
fn only_what_is_asked_for_is_parsed() {
    let event = event(EVENT);
    let subject = Subject::new(&event);
    let holds = |text: &str| Expression::parse(text).expect("compiles").holds(&subject);
    assert_eq!(holds("event.source == 'billing' && event.metadata.region == 'eu'"), Ok(true));
    assert!(!subject.has_parsed_data());
    assert_eq!(holds("event.source == 'crm' && data.amount > 1"), Ok(false));
    assert!(!subject.has_parsed_data(), "the first condition decided");
    assert_eq!(holds("data.amount > 1"), Ok(true));
    assert!(subject.has_parsed_data());
}

#[test]
fn work_is_bounded_whatever_the_event_holds() {
    let many = vec!["12"; 20_000].join(",");
    let event = event(format!(r#"{{"type":"a.b","id":"1","data":{{"n":[{many}],"t":"{}"}}}}"#, "x".repeat(900_000)));
    for text in [
        "data.n.all(x, x == 12)",
        "data.n.exists(x, data.n.exists(y, x + y == 25))",
        "data.n.all(x, x == 13 || x == 12) || true",
        "data.n.filter(x, x > 1).size() == 20000",
        "data.t + data.t + data.t == data.t",
        "['0123456789abcdef'].map(x, x+x+x+x+x+x+x+x).map(x, x+x+x+x+x+x+x+x).map(x, x+x+x+x+x+x+x+x)\
         .map(x, x+x+x+x+x+x+x+x).map(x, x+x+x+x+x+x+x+x).map(x, x+x+x+x+x+x+x+x).size() == 1",
        "data.t.matches('(a|b|x)*y')",
        "[data.t, data.t, data.t, data.t].all(t, t.contains('y') == false)",
    ] {
        assert_eq!(ours(text, &event), Err(Fault::Budget), "{text}");
    }
    assert_eq!(ours("data.n.exists(x, x == 12) && data.t.contains('y') == false", &event), Ok(true));
}

/// A random expression over the data of [`EVENT`].
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "data.amount",
        "data.small",
        "data.price",
        "data.whole",
        "data.big",
        "data.huge",
        "data.name",
        "data.none",
        "data.yes",
        "data.no",
        "data.tags",
        "data.items",
        "data.customer",
        "data.missing",
        "data.numbers",
        "event.type",
        "event.seq",
        "event.facility",
        "0",
        "1",
        "150",
        "-3",
        "2u",
        "150.0",
        "0.5",
        "true",
        "false",
        "null",
        "'a'",
        "'Ada'",
        "'150'",
        "[]",
        "[1, 2, 3]",
        "['a', 'b']",
    ])
    .prop_map(str::to_owned);
    leaf.prop_recursive(5, 40, 3, |inner| {
        let two = (inner.clone(), inner.clone());
        let op = prop::sample::select(vec!["==", "!=", "<", "<=", ">", ">=", "&&", "||", "in", "-", "*", "/", "%"]);
        let call = prop::sample::select(vec!["size", "int", "uint", "double"]);
        let method = prop::sample::select(vec!["contains", "startsWith", "endsWith"]);
        let walk = prop::sample::select(vec!["all", "exists", "exists_one", "filter"]);
        prop_oneof![
            6 => (op, two.clone()).prop_map(|(op, (a, b))| format!("({a} {op} {b})")),
            1 => (call, inner.clone()).prop_map(|(call, of)| format!("{call}({of})")),
            1 => (method, two.clone()).prop_map(|(method, (of, part))| format!("({of}).{method}({part})")),
            1 => inner.clone().prop_map(|of| format!("!({of})")),
            1 => inner.clone().prop_map(|of| format!("-({of})")),
            1 => two.clone().prop_map(|(of, at)| format!("({of})[{at}]")),
            1 => inner.clone().prop_map(|of| format!("({of}).qty")),
            1 => inner.clone().prop_map(|of| format!("has(({of}).qty)")),
            1 => (inner.clone(), two.clone()).prop_map(|(a, (b, c))| format!("({a} ? {b} : {c})")),
            2 => (walk, two, prop::sample::select(vec!["x", "x.qty", "x + 1"]))
                .prop_map(|(walk, (of, with), of_x)| format!("({of}).{walk}(x, {of_x} == {with})")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]
    #[test]
    fn any_expression_says_what_the_crate_says(text in expression()) {
        let event = event(EVENT);
        // What surely gives no truth value, or has no fitting number of values, is refused here and fails there.
        let ours = Expression::parse(&text).ok().and_then(|one| one.holds(&Subject::new(&event)).ok());
        prop_assert_eq!(ours, theirs(&text, &event), "{}", text);
    }
}
