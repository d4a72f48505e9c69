//! Filter expressions on webhooks: what they let through, what is refused with its place, what holds over a restart
//! (WHK-1).

use serde_json::{Value, json};

use crate::support::{Hub, Receiver, retry};

fn hook(receiver: &Receiver, path: &str, filter: &Value) -> Value {
    json!({"url": receiver.url(path), "org": "acme", "event_types": ["*"], "ordering": "strict",
        "retry": retry(&[50]), "filter": filter})
}

/// The ids that came to a path, each once, in order.
fn came(receiver: &Receiver, path: &str) -> Vec<String> {
    receiver.on(path).iter().map(|delivery| delivery.id().to_owned()).collect()
}

fn order(id: &str, amount: Value) -> Value {
    json!({"id": id, "type": "order.created", "source": "billing", "data": {"amount": amount, "lines": [{"sku": id}]}})
}

#[tokio::test]
async fn a_webhook_gets_what_its_expression_says_also_after_a_restart_and_a_change() {
    let mut hub = Hub::start().await;
    let receiver = Receiver::start();
    let key = hub.key(&["publish", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    let text = r#"data.amount > 100 && event.source == "billing" && data.lines.exists(l, l.sku != "skip")"#;
    let made = acme.webhook(&hook(&receiver, "/large", &json!(text))).await;
    assert_eq!((&made["filter"], &made["filter_error"]), (&json!(text), &Value::Null));
    let path = format!("/v1/webhooks/{}", made["id"].as_str().unwrap());
    acme.webhook(&hook(&receiver, "/all", &Value::Null)).await;
    // No number, no amount at all, no data, another source: no match, and nothing fails.
    let others = [
        order("small", json!(100)),
        order("skip", json!(500)),
        order("text", json!("500")),
        json!({"id": "bare", "type": "order.created", "source": "billing"}),
        json!({"id": "list", "type": "order.created", "source": "billing", "data": [500]}),
        json!({"id": "crm", "type": "order.created", "source": "crm", "data": {"amount": 500, "lines": []}}),
    ];
    for event in &others {
        acme.publish(event).await;
    }
    acme.publish(&order("whole", json!(101))).await;
    acme.publish(&order("decimal", json!(100.01))).await;
    receiver.wait_event("/large", "decimal").await;
    receiver.wait_event("/all", "decimal").await;
    assert_eq!(came(&receiver, "/large"), ["whole", "decimal"]);
    assert_eq!(came(&receiver, "/all").len(), 8);
    let listed = acme.get("/v1/events/small").await.expect(200).json()["consumers"].clone();
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");

    hub.terminate().await;
    hub.restart().await;
    let acme = hub.public(&key);
    assert_eq!(acme.get(&path).await.expect(200).json()["filter"], text);
    acme.publish(&order("small-2", json!(7))).await;
    acme.publish(&order("large-2", json!(700))).await;
    receiver.wait_event("/large", "large-2").await;
    assert_eq!(came(&receiver, "/large"), ["whole", "decimal", "large-2"]);

    let changed = acme.patch(&path, &json!({"filter": "data.amount < 10"})).await.expect(200).json();
    assert_eq!(changed["filter"], "data.amount < 10");
    acme.publish(&order("large-3", json!(700))).await;
    acme.publish(&order("small-3", json!(7))).await;
    receiver.wait_event("/large", "small-3").await;
    let kept = acme.patch(&path, &json!({"description": "small ones"})).await.expect(200).json();
    assert_eq!(kept["filter"], "data.amount < 10", "what is not sent stays");
    let taken_away = acme.patch(&path, &json!({"filter": null})).await.expect(200).json();
    assert_eq!(taken_away["filter"], Value::Null);
    acme.publish(&order("large-4", json!(700))).await;
    receiver.wait_event("/large", "large-4").await;
    assert_eq!(came(&receiver, "/large"), ["whole", "decimal", "large-2", "small-3", "large-4"]);
}

#[tokio::test]
async fn a_webhook_that_begins_in_the_middle_of_a_backlog_filters_it_too() {
    let mut hub = Hub::start().await;
    let receiver = Receiver::start();
    let key = hub.key(&["publish", "manage", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    let made = acme.webhook(&hook(&receiver, "/odd", &json!("data.n % 2 == 1"))).await;
    let path = format!("/v1/webhooks/{}", made["id"].as_str().unwrap());
    acme.act(&format!("{path}/pause")).await.expect(200);
    for n in 0..40 {
        acme.publish(&json!({"id": format!("n-{n}"), "type": "n", "data": {"n": n}})).await;
    }
    hub.kill();
    hub.restart().await;
    let acme = hub.public(&key);
    acme.act(&format!("{path}/resume")).await.expect(200);
    receiver.wait_event("/odd", "n-39").await;
    let odd: Vec<_> = (0..40).filter(|n| n % 2 == 1).map(|n| format!("n-{n}")).collect();
    assert_eq!(came(&receiver, "/odd"), odd);
}

#[tokio::test]
async fn a_wrong_expression_is_refused_with_line_column_and_what_is_wrong() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    let long = format!("data.x == '{}'", "x".repeat(2_048));
    let deep = format!("{}1{} == 1", "(".repeat(400), ")".repeat(400));
    let cases = [
        (json!("data.amount >"), Some((1, 14)), "mismatched input"),
        (json!("data.amount > 1 &&\n  dta.x == 2"), Some((2, 3)), "unknown name `dta`"),
        (json!("event.sorce == 'x'"), Some((1, 6)), "the envelope has no field `sorce`"),
        (json!("data.x.matches('(')"), Some((1, 16)), "not a regular expression"),
        (json!("data.x.all(a, a.all(b, b.all(c, true)))"), Some((1, 29)), "nest at most 2 deep"),
        (json!("data.a + data.b"), Some((1, 8)), "not true or false"),
        (json!(deep), Some((1, 34)), "nested more than 32 deep"),
        (json!(long), None, "1 to 2048 characters"),
        (json!(""), None, "1 to 2048 characters"),
        (json!(7), None, "as a text"),
        (json!(["data.x == 1"]), None, "as a text"),
    ];
    let made = acme.webhook(&hook(&receiver, "/hook", &json!("data.x == 1"))).await;
    let path = format!("/v1/webhooks/{}", made["id"].as_str().unwrap());
    for (filter, place, wrong) in cases {
        let created = acme.post("/v1/webhooks", &hook(&receiver, "/hook", &filter)).await;
        let changed = acme.patch(&path, &json!({"filter": filter})).await;
        for answer in [created, changed] {
            let problem = answer.expect_problem(400, "invalid-field").json();
            assert_eq!(problem["field"], "filter", "{problem}");
            assert!(problem["detail"].as_str().unwrap().contains(wrong), "{wrong}: {problem}");
            let found = problem["line"].as_u64().zip(problem["column"].as_u64());
            assert_eq!(found, place, "{problem}");
        }
    }
    assert_eq!(acme.get(&path).await.expect(200).json()["filter"], "data.x == 1", "a refused change changes nothing");
}

#[tokio::test]
async fn an_expression_that_would_take_too_long_matches_nothing_and_the_router_goes_on() {
    let hub = Hub::start().await;
    let receiver = Receiver::start();
    let acme = hub.acme().await;
    acme.webhook(&hook(&receiver, "/slow", &json!("data.n.all(a, data.n.all(b, a + b > -1))"))).await;
    acme.webhook(&hook(&receiver, "/all", &Value::Null)).await;
    let many: Vec<u32> = (0..20_000).collect();
    acme.publish(&json!({"id": "many", "type": "n", "data": {"n": many}})).await;
    acme.publish(&json!({"id": "few", "type": "n", "data": {"n": [1, 2, 3]}})).await;
    receiver.wait_event("/slow", "few").await;
    receiver.wait_event("/all", "few").await;
    assert_eq!(came(&receiver, "/slow"), ["few"]);
    assert_eq!(came(&receiver, "/all"), ["many", "few"]);
}
