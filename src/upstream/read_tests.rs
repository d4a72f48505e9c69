use super::*;

fn contact() -> Read {
    let declared = json!({
        "path": "/api/v1/contacts/{externalId}",
        "fields": ["legalName", "email", "phone", "address", "kvkNumber"],
    });
    Read::from_json("reads.contact", declared).expect("fits")
}

fn history() -> Read {
    let declared = json!({
        "path": "/api/v1/contacts/{id}/klantbeeld",
        "page": {"items": "/transactions", "total": "/total", "shape": {
            "transactions": "items", "limit": "limit", "offset": "offset", "unavailable": "unavailable",
        }},
    });
    Read::from_json("reads.history", declared).expect("fits")
}

fn values(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_contact_has_all_its_fields_and_says_whether_it_was_found() {
    let read = contact();
    let said = json!({"legalName": "Bakker", "phone": null, "address": {"city": "Delft"}, "more": 1});
    let answer = read.answer(Some(&said), false).expect("an object");
    let wanted = json!({
        "legalName": "Bakker", "email": "", "phone": "", "address": {"city": "Delft"}, "kvkNumber": "",
        "found": true, "stale": false,
    });
    assert_eq!(answer, wanted);
    let none = read.answer(None, true).expect("nothing to map");
    assert_eq!((&none["found"], &none["legalName"], &none["stale"]), (&json!(false), &json!(""), &json!(true)));
    for bad in [json!([]), json!("x"), json!(5), Value::Null] {
        assert!(read.answer(Some(&bad), false).is_err(), "{bad}");
    }
    assert_eq!((read.cache_ms, read.stale_ms), (300_000, 86_400_000));
}

#[test]
fn a_read_without_a_mapping_hands_on_what_the_upstream_said() {
    let read = Read::from_json("reads.x", json!({"path": "/x"})).expect("fits");
    assert_eq!(read.answer(Some(&json!([1])), true).expect("any"), json!({"found": true, "stale": true, "data": [1]}));
    assert_eq!(read.answer(None, false).expect("any"), json!({"found": false, "stale": false, "data": null}));
}

#[test]
fn another_question_has_another_key() {
    let declared = json!({"path": "/x/{a}", "query": {"b": "{b}", "view": "full & more"}});
    let read = Read::from_json("reads.x", declared).expect("fits");
    let key = |a: &str, b: &str| read.prepare(&values(&[("a", a), ("b", b)]), None).expect("fits").key;
    assert_eq!(key("1", "2"), "/x/1?b=2&view=full%20%26%20more");
    let joined = json!({"path": "/x", "query": {"q": "kind:{kind} & more"}});
    let joined = Read::from_json("reads.x", joined).expect("fits");
    let path = joined.prepare(&values(&[("kind", "a=b&c")]), None).expect("fits").path;
    assert_eq!(path, "/x?q=kind%3Aa%3Db%26c%20%26%20more");
    assert_ne!(key("1?b=2&view=full%20%26%20more", "2"), key("1", "2"));
    assert_ne!(key("1", "2&view=x"), key("1", "2"));
    let refused = read.prepare(&values(&[("a", "1")]), None).expect_err("b is missing");
    assert_eq!(refused.field.as_deref(), Some("b"));
    let span = Span { limit: 5, offset: 10 };
    let page = history().prepare(&values(&[("id", "7")]), Some(span)).expect("fits");
    assert_eq!(page.path, "/api/v1/contacts/7/klantbeeld?limit=5&offset=10");
}

#[test]
fn the_part_that_is_asked_for_is_within_bounds_whatever_is_sent() {
    let paging = history().page.expect("pages");
    let span = |limit, offset| {
        let Span { limit, offset } = paging.span(limit, offset);
        (limit, offset)
    };
    assert_eq!(span(None, None), (20, 0));
    assert_eq!(span(Some("0"), Some("-5")), (1, 0));
    assert_eq!(span(Some("1000"), Some("7")), (100, 7));
    assert_eq!(span(Some("-1"), Some("99999999999999999999999999")), (1, PAGE_OFFSET_MAX));
    assert_eq!(span(Some("many"), Some("1.5")), (20, 0));
    assert_eq!(span(Some(""), Some("")), (20, 0));
}

#[test]
fn the_envelope_is_always_there_and_has_the_names_of_the_shape() {
    let paging = history().page.expect("pages");
    let span = Span { limit: 2, offset: 4 };
    let body = json!({"transactions": [1, 2, 3], "total": 9});
    let page = paging.page(&body, span).expect("a list");
    assert_eq!(page, PageAnswer { items: vec![json!(1), json!(2)], total: Some(9) });
    let told = paging.envelope(Some(&page), span, false);
    assert_eq!(told, json!({"transactions": [1, 2], "limit": 2, "offset": 4, "unavailable": false}));
    let none = paging.envelope(None, span, false);
    assert_eq!(none, json!({"transactions": [], "limit": 2, "offset": 4, "unavailable": true}));
    for bad in [json!({}), json!({"transactions": 1}), json!([]), Value::Null] {
        assert!(paging.page(&bad, span).is_err(), "{bad}");
    }

    let plain = Read::from_json("reads.x", json!({"path": "/x", "page": {"items": "", "limit_default": 3}}));
    let plain = plain.expect("fits").page.expect("pages");
    let span = plain.span(None, None);
    let full = plain.page(&json!([1, 2, 3, 4]), span).expect("a list");
    let told = plain.envelope(Some(&full), span, false);
    assert_eq!(told, json!({"available": true, "items": [1, 2, 3], "total": null, "next": 3}));
    let last = PageAnswer { items: vec![json!(1)], total: Some(4) };
    assert_eq!(plain.envelope(Some(&last), Span { limit: 3, offset: 3 }, false)["next"], Value::Null);
    assert_eq!(plain.envelope(None, span, false)["available"], json!(false));
}

#[test]
fn what_does_not_fit_is_named() {
    let cases = [
        (json!([]), "r"),
        (json!({}), "r.path"),
        (json!({"path": 5}), "r.path"),
        (json!({"path": "x"}), "r.path"),
        (json!({"path": "/{a"}), "r.path"),
        (json!({"path": "/x", "query": []}), "r.query"),
        (json!({"path": "/x", "query": {"a": 1}}), "r.query.a"),
        (json!({"path": "/x", "query": {"a": "{"}}), "r.query.a"),
        (json!({"path": "/x", "fields": {}}), "r.fields"),
        (json!({"path": "/x", "fields": {"a": "x"}}), "r.fields.a"),
        (json!({"path": "/x", "fields": ["found"]}), "r.fields.found"),
        (json!({"path": "/x", "fields": [1]}), "r.fields[0]"),
        (json!({"path": "/x", "fields": ["a"], "page": {"items": ""}}), "r.page"),
        (json!({"path": "/x", "page": {}}), "r.page.items"),
        (json!({"path": "/x", "page": {"items": "x"}}), "r.page.items"),
        (json!({"path": "/x", "page": {"items": "", "limit_default": 101}}), "r.page.limit_default"),
        (json!({"path": "/x", "page": {"items": "", "shape": {"a": "b"}}}), "r.page.shape.a"),
        (json!({"path": "/x", "page": {"items": "", "shape": {"a": "items"}}}), "r.page.shape"),
        (json!({"path": "/x", "page": {"items": "", "offset_parameter": "limit"}}), "r.page.offset_parameter"),
        (json!({"path": "/x", "page": {"items": "", "colour": 1}}), "r.page.colour"),
        (json!({"path": "/x/{org}"}), "r"),
        (json!({"path": "/x/{limit}", "page": {"items": ""}}), "r.path"),
        (json!({"path": "/x", "query": {"limit": "5"}, "page": {"items": ""}}), "r.query.limit"),
        (json!({"path": "/x", "cache_ms": -1}), "r.cache_ms"),
        (json!({"path": "/x", "stale_ms": CACHE_MS_MAX + 1}), "r.stale_ms"),
        (json!({"path": "/x", "ttl": 1}), "r.ttl"),
    ];
    for (sent, field) in cases {
        let problem = Read::from_json("r", sent.clone()).expect_err("refused");
        assert_eq!(problem.field.as_deref(), Some(field), "{sent}");
    }
    let many: String = (0..17).map(|n| format!("/{{p{n}}}")).collect();
    assert_eq!(Read::from_json("r", json!({"path": many})).expect_err("too many").field.as_deref(), Some("r"));
}

#[test]
fn a_declaration_comes_back_from_the_store_as_it_was() {
    for read in [contact(), history()] {
        let text = serde_json::to_string(&read).expect("encodes");
        assert_eq!(serde_json::from_str::<Read>(&text).expect("decodes"), read);
    }
}
