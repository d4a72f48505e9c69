use super::*;
use crate::ground::clock::UnixMs;

const PUBLIC: AddressPolicy = AddressPolicy { allow_private: false, allowed: Vec::new() };

fn read(value: &Value, origin: Origin) -> Result<Declared, Problem> {
    let breaker = BreakerSettings::default();
    let fields = Fields::parse(value.to_string().as_bytes())?;
    read_new(fields, Ground { policy: &PUBLIC, breaker: &breaker, origin })
}

fn crm() -> Value {
    json!({
        "id": "crm",
        "base_url": "https://crm.example/base/",
        "preset": "bridge",
        "auth": {"kind": "bearer", "token": "hunter2-4711"},
        "reads": {"contact": {"path": "/api/v1/contacts/{externalId}", "fields": ["legalName"]}},
    })
}

#[test]
fn a_declaration_has_the_numbers_of_its_preset_and_the_defaults_of_the_rest() {
    let Declared { id, settings, auth } = read(&crm(), Origin::Api).expect("fits");
    assert_eq!((id.as_str(), settings.base_url.as_str()), ("crm", "https://crm.example/base"));
    assert_eq!((settings.connect_timeout_ms, settings.attempt_ms()), (3_000, 3_000));
    assert_eq!(Some(&settings.retry), RetryPolicy::preset("bridge").as_ref());
    assert_eq!(Some(&settings.breaker), BreakerSettings::preset("bridge").as_ref());
    assert_eq!(settings.rate_limit, None);
    assert!(matches!(auth, AuthWish::Set(_)));

    let bare = read(&json!({"id": "a", "base_url": "https://a.example"}), Origin::Api).expect("fits").settings;
    assert_eq!((bare.connect_timeout_ms, bare.attempt_ms(), bare.version.as_str()), (3_000, 3_000, "1.0.0"));
    let sales = json!({"id": "a", "base_url": "https://a.example", "preset": "sales", "retry": "erp", "rate_limit": {"per_second": 3}});
    let sales = read(&sales, Origin::Api).expect("fits").settings;
    assert_eq!((sales.attempt_ms(), sales.retry.attempts_max()), (30_000, 6));
    assert_eq!(sales.rate_limit.map(|limit| limit.burst), Some(3));
}

#[test]
fn private_networks_are_named_in_the_settings_of_the_hub_alone() {
    let inside = json!({"id": "a", "base_url": "http://10.1.2.3:8080"});
    assert_eq!(read(&inside, Origin::Api).expect_err("private").field.as_deref(), Some("base_url"));
    assert_eq!(read(&inside, Origin::Config).expect_err("not allowed there").field.as_deref(), Some("base_url"));
    let mut allowed = inside;
    allowed["allowed_networks"] = json!(["10.1.0.0/16"]);
    assert_eq!(read(&allowed, Origin::Api).expect_err("the API").field.as_deref(), Some("allowed_networks"));
    let settings = read(&allowed, Origin::Config).expect("allowed explicitly").settings;
    assert!(settings.policy(&PUBLIC).check_ip([10, 1, 9, 9].into()).is_ok());
    assert!(settings.policy(&PUBLIC).check_ip([10, 2, 0, 1].into()).is_err());
    assert_eq!(read(&crm(), Origin::Config).expect_err("in clear").field.as_deref(), Some("auth.token"));
}

#[test]
fn what_does_not_fit_is_named() {
    let with = |name: &str, value: Value| {
        let mut one = crm();
        one[name] = value;
        one
    };
    let cases = [
        (with("id", json!("A")), "id"),
        (with("id", json!("health")), "id"),
        (with("id", json!(null)), "id"),
        (with("base_url", json!(null)), "base_url"),
        (with("base_url", json!("ftp://a.example")), "base_url"),
        (with("base_url", json!("https://u:p@a.example")), "base_url"),
        (with("base_url", json!("https://a.example?key=1")), "base_url"),
        (with("base_url", json!("http://127.0.0.1")), "base_url"),
        (with("version", json!("one")), "version"),
        (with("health_path", json!("/x/{a}")), "health_path"),
        (with("health_path", json!("x")), "health_path"),
        (with("preset", json!("sms")), "preset"),
        (with("retry", json!("slow")), "retry"),
        (with("breaker", json!({"failure_threshold": 0})), "breaker.failure_threshold"),
        (with("rate_limit", json!({"per_second": 0})), "rate_limit.per_second"),
        (with("concurrency", json!(0)), "concurrency"),
        (with("total_timeout_ms", json!(5)), "total_timeout_ms"),
        (with("connect_timeout_ms", json!(600_001)), "connect_timeout_ms"),
        (with("reads", json!([])), "reads"),
        (with("reads", json!({"A b": {"path": "/x"}})), "reads.A b"),
        (with("reads", json!({"a": {"path": "x"}})), "reads.a.path"),
        (with("description", json!("x".repeat(501))), "description"),
        (with("auth", json!({"kind": "digest"})), "auth.kind"),
        (with("org", json!("")), "org"),
        (with("colour", json!("red")), "colour"),
    ];
    for (sent, field) in cases {
        let problem = read(&sent, Origin::Api).expect_err("refused");
        assert_eq!(problem.field.as_deref(), Some(field), "{problem}");
        assert!(!problem.to_json().to_string().contains("hunter2"), "{problem}");
    }
    let many: serde_json::Map<String, Value> = (0..51).map(|n| (format!("r{n}"), json!({"path": "/x"}))).collect();
    assert_eq!(read(&with("reads", many.into()), Origin::Api).expect_err("many").field.as_deref(), Some("reads"));
}

#[test]
fn a_change_keeps_what_it_does_not_name_and_null_takes_away() {
    let before = read(&crm(), Origin::Api).expect("fits").settings;
    let breaker = BreakerSettings::default();
    let ground = Ground { policy: &PUBLIC, breaker: &breaker, origin: Origin::Api };
    let change = |value: Value| {
        let fields = Fields::parse(value.to_string().as_bytes()).expect("an object");
        read_change(fields, &before, ground)
    };
    assert_eq!(change(json!({})).expect("fits"), (before.clone(), AuthWish::Keep));
    let (after, auth) = change(json!({"breaker": {"cooldown_ms": 5}, "auth": null})).expect("fits");
    assert_eq!((after.breaker.cooldown_ms, after.breaker.success_threshold), (5, before.breaker.success_threshold));
    assert_eq!(auth, AuthWish::Remove);
    assert_eq!(change(json!({"org": "acme"})).expect_err("fixed").field.as_deref(), Some("org"));
    assert_eq!(change(json!({"id": "b"})).expect_err("fixed").field.as_deref(), Some("id"));
}

#[test]
fn the_stored_form_of_an_upstream_is_read_again_and_shows_no_secret() {
    let Declared { id, settings, .. } = read(&crm(), Origin::Api).expect("fits");
    let at = WriteContext { by: "admin".into(), at: UnixMs(1_795_248_000_000), ..WriteContext::default() };
    let sealed = SealedCredential { sealed: "00ff".into(), shown: json!({"kind": "bearer", "source": "store"}) };
    let credentials = [(String::new(), sealed.clone()), ("acme".to_owned(), sealed)].into();
    let record = UpstreamRecord { id, settings, credentials, created: at.clone(), updated: at };
    let text = serde_json::to_string(&record).expect("encodes");
    insta::assert_snapshot!(text);
    assert_eq!(serde_json::from_str::<UpstreamRecord>(&text).expect("decodes"), record);
    let shown = record.to_json(Origin::Api).to_string();
    assert!(!shown.contains("00ff") && shown.contains("tenant_auth"), "{shown}");
}
