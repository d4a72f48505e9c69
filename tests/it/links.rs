//! Links between entities: over HTTP, from the library, from handlers, and over kills (LNK-1, INB-4, EMB-1).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::Method;
use serde_json::{Value, json};
use tidegate::event::envelope::Event;
use tidegate::ground::clock::SystemClock;
use tidegate::ground::error::ProblemKind;
use tidegate::ground::random::{SeededRandom, SystemRandom};
use tidegate::handler::{HandlerContext, HandlerError, NewEvent, handler_fn};
use tidegate::hub::verify;
use tidegate::link::{Direction, Entity, LinkId, LinkQuery, LinkType, NewLink, WalkQuery};

use crate::embed::{directory, open};
use crate::support::{Api, Hub, items, until};

fn body(from: &str, to: &str) -> Value {
    json!({
        "source_module": "crm", "source_type": "contact", "source_id": from,
        "target_module": "erp", "target_type": "customer", "target_id": to, "link_type": "reference",
    })
}

fn with(mut body: Value, change: Value) -> Value {
    for (name, value) in change.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

const FROM_17: &str = "source_module=crm&source_type=contact&source_id=17";
const TO_C9: &str = "target_module=erp&target_type=customer&target_id=C-9";

fn ids(page: &Value) -> BTreeSet<String> {
    items(page).iter().map(|link| link["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_link_is_made_once_found_from_both_ends_and_gone_when_deleted() {
    let mut hub = Hub::start().await;
    let key = hub.key(&["publish", "read"], Some("acme")).await;
    let acme = hub.public(&key);
    let text = r#"{"source_module":"crm","source_type":"contact","source_id":"17","target_module":"erp",
        "target_type":"customer","target_id":"C-9","link_type":"reference","metadata":{"n": 1.10,"big":12345678901234567890}}"#;
    let headers = [("content-type", "application/json"), ("x-correlation-id", "conv-1")];
    let made = acme.try_send(Method::POST, "/v1/links", &headers, Some(text.into())).await.unwrap().expect(201);
    let kept = r#""metadata":{"n": 1.10,"big":12345678901234567890}"#;
    assert!(made.text.contains(kept), "{}", made.text);
    let link = made.json();
    assert_eq!(link["org"], "acme");
    assert_eq!(link["source_id"], "17");
    assert_eq!(link["target_type"], "customer");
    assert_eq!(link["created"]["correlation_id"], "conv-1");
    assert!(link["created"]["by"].as_str().unwrap().starts_with("key:") && link["created"]["at"].is_string());

    let again = with(body("17", "C-9"), json!({"metadata": {"big": 12_345_678_901_234_567_890_u64, "n": 1.5}}));
    let conflict = acme.post("/v1/links", &again).await.expect_problem(409, "conflict").json();
    assert_eq!((&conflict["field"], &conflict["link_id"]), (&json!("metadata"), &link["id"]));
    let spaced = text.replace("{\"n\": 1.10,", "{ \"n\":1.10 , ");
    let again = acme.post_bytes("/v1/links", "application/json", spaced.into_bytes()).await.expect(200);
    assert_eq!(again.json(), link, "the link that is there, with the context it was made in");

    let cascade =
        acme.post("/v1/links", &with(body("17", "C-9"), json!({"link_type": "cascade"}))).await.expect(201).json();
    let back = json!({
        "source_module": "erp", "source_type": "customer", "source_id": "C-9",
        "target_module": "crm", "target_type": "contact", "target_id": "17", "link_type": "aggregate_root",
    });
    let back = acme.post("/v1/links", &back).await.expect(201).json();
    let other = acme.post("/v1/links", &body("17", "C-10")).await.expect(201).json();
    let id = |link: &Value| link["id"].as_str().unwrap().to_owned();
    let find = async |query: &str| ids(&acme.get(&format!("/v1/links?{query}")).await.expect(200).json());
    let set = |links: &[&Value]| links.iter().map(|link| id(link)).collect::<BTreeSet<_>>();
    assert_eq!(find(FROM_17).await, set(&[&link, &cascade, &other]));
    assert_eq!(find(TO_C9).await, set(&[&link, &cascade]));
    assert_eq!(find(&format!("{FROM_17}&link_type=cascade")).await, set(&[&cascade]));
    assert_eq!(find("link_type=aggregate_root").await, set(&[&back]));
    assert_eq!(find("").await, set(&[&link, &cascade, &back, &other]));
    assert_eq!(find(&format!("{FROM_17}&{TO_C9}")).await, set(&[&link, &cascade]));
    assert_eq!(find(&format!("{FROM_17}&{TO_C9}&both_ways=true")).await, set(&[&link, &cascade, &back]));
    assert_eq!(find(&format!("{FROM_17}&{TO_C9}&both_ways=true&link_type=aggregate_root")).await, set(&[&back]));

    acme.delete(&format!("/v1/links/{}", id(&cascade))).await.expect(204);
    acme.delete(&format!("/v1/links/{}", id(&cascade))).await.expect_problem(404, "not-found");
    hub.kill();
    hub.restart().await;
    let acme = hub.public(&key);
    acme.get(&format!("/v1/links/{}", id(&cascade))).await.expect_problem(404, "not-found");
    assert_eq!(acme.get(&format!("/v1/links/{}", id(&link))).await.expect(200).json(), link);
    let left = acme.get(&format!("/v1/links?{TO_C9}")).await.expect(200).json();
    assert_eq!(ids(&left), set(&[&link]));
}

#[tokio::test]
async fn pages_give_every_link_once_and_a_cursor_keeps_its_question() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let mut made = BTreeSet::new();
    for n in 0..25 {
        let kind = if n % 2 == 0 { "reference" } else { "cascade" };
        let link =
            acme.post("/v1/links", &with(body("17", &n.to_string()), json!({"link_type": kind}))).await.expect(201);
        made.insert(link.json()["id"].as_str().unwrap().to_owned());
    }
    let (mut read, mut cursor, mut pages) = (BTreeSet::new(), String::new(), 0);
    loop {
        let page = acme.get(&format!("/v1/links?{FROM_17}&limit=7&cursor={cursor}")).await.expect(200).json();
        let found = ids(&page);
        assert!(found.len() <= 7 && read.is_disjoint(&found));
        read.extend(found);
        cursor = page["next_cursor"].as_str().unwrap().to_owned();
        pages += 1;
        if page["has_more"] != true {
            break;
        }
    }
    assert_eq!((read, pages), (made, 4));
    for other in ["source_module=crm&source_type=contact&source_id=18", "link_type=cascade", TO_C9] {
        let refused = acme.get(&format!("/v1/links?{other}&cursor={cursor}")).await;
        assert_eq!(refused.expect_problem(400, "invalid-parameter").json()["field"], "cursor");
    }
}

#[tokio::test]
async fn a_walk_follows_links_to_its_depth_and_says_when_it_was_cut() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let node = |id: &str| json!({"module": "m", "type": "t", "id": id});
    for (from, to, kind) in [
        ("a", "b", "reference"),
        ("b", "c", "cascade"),
        ("c", "a", "reference"),
        ("c", "d", "reference"),
        ("x", "a", "reference"),
    ] {
        let link = json!({
            "source_module": "m", "source_type": "t", "source_id": from, "link_type": kind,
            "target_module": "m", "target_type": "t", "target_id": to, "metadata": {"big": "x"},
        });
        acme.post("/v1/links", &link).await.expect(201);
    }
    let walk =
        async |query: &str| acme.get(&format!("/v1/links/walk?module=m&type=t&id=a{query}")).await.expect(200).json();
    let reached = |walked: &Value| {
        let nodes = walked["nodes"].as_array().unwrap().iter();
        nodes
            .map(|one| (one["id"].as_str().unwrap().to_owned(), one["depth"].as_u64().unwrap()))
            .collect::<BTreeMap<_, _>>()
    };
    let map =
        |nodes: &[(&str, u64)]| nodes.iter().map(|(id, depth)| ((*id).to_owned(), *depth)).collect::<BTreeMap<_, _>>();
    let whole = walk("").await;
    assert_eq!(reached(&whole), map(&[("a", 0), ("b", 1), ("c", 2), ("d", 3)]));
    assert_eq!(whole["nodes"][0], with(node("a"), json!({"depth": 0})));
    assert_eq!(whole["cut"], Value::Null);
    let links = whole["links"].as_array().unwrap();
    assert!(
        links.len() == 4 && links.iter().all(|link| link.get("metadata").is_none() && link["id"].is_string()),
        "{whole}"
    );
    assert_eq!(reached(&walk("&depth=1").await), map(&[("a", 0), ("b", 1)]));
    assert_eq!(reached(&walk("&direction=inbound&depth=1").await), map(&[("a", 0), ("c", 1), ("x", 1)]));
    assert_eq!(reached(&walk("&direction=both&depth=1").await), map(&[("a", 0), ("b", 1), ("c", 1), ("x", 1)]));
    assert_eq!(reached(&walk("&link_type=reference").await), map(&[("a", 0), ("b", 1)]));
    let cut = walk("&direction=both&limit=2").await;
    assert_eq!((reached(&cut).len(), &cut["cut"]), (2, &json!("nodes")));
}

#[tokio::test]
async fn what_does_not_fit_is_refused_by_name() {
    let hub = Hub::start_with(&[("LINKS__PER_ORG_MAX", "2")]).await;
    let acme = hub.acme().await;
    for (field, change) in [
        ("source_id", json!({"source_id": ""})),
        ("source_module", json!({"source_module": null})),
        ("target_type", json!({"target_type": 7})),
        ("target_id", json!({"target_id": "x".repeat(129)})),
        ("source_module", json!({"source_module": "a\u{0}b"})),
        ("link_type", json!({"link_type": "friend"})),
        ("metadata", json!({"metadata": "text"})),
        ("metadata", json!({"metadata": {"x": "y".repeat(17_000)}})),
        ("colour", json!({"colour": 1})),
        ("target_id", json!({"target_module": "crm", "target_type": "contact", "target_id": "17"})),
    ] {
        let refused = acme.post("/v1/links", &with(body("17", "C-9"), change)).await;
        let problem = refused.expect_problem(400, "invalid-field").json();
        assert_eq!(problem["field"], field, "{problem}");
        assert!(problem["limit"].is_string(), "{problem}");
    }
    acme.post_bytes("/v1/links", "application/json", b"{".to_vec()).await.expect_problem(400, "not-json");
    acme.post_bytes("/v1/links", "text/plain", b"{}".to_vec()).await.expect_problem(415, "unsupported-media-type");
    for (field, query) in [
        ("source_id", "/v1/links?source_module=crm&source_type=contact"),
        ("target_module", "/v1/links?target_id=1"),
        ("link_type", "/v1/links?link_type=friend"),
        ("both_ways", "/v1/links?both_ways=perhaps"),
        ("both_ways", "/v1/links?both_ways=true"),
        ("cursor", "/v1/links?cursor=AAAA"),
        ("limit", "/v1/links?limit=0"),
        ("colour", "/v1/links?colour=1"),
        ("source_module", &format!("/v1/links?source_module={}&source_type=t&source_id=1", "x".repeat(200))),
        ("module", "/v1/links/walk"),
        ("id", "/v1/links/walk?module=m&type=t"),
        ("depth", "/v1/links/walk?module=m&type=t&id=1&depth=17"),
        ("limit", "/v1/links/walk?module=m&type=t&id=1&limit=1001"),
        ("direction", "/v1/links/walk?module=m&type=t&id=1&direction=up"),
    ] {
        let problem = acme.get(query).await.expect_problem(400, "invalid-parameter").json();
        assert_eq!(problem["field"], field, "{query}: {problem}");
    }
    acme.get("/v1/links/none").await.expect_problem(404, "not-found");
    acme.get("/v1/links/lnk_00000000000000000000000000000000").await.expect_problem(404, "not-found");
    // An org has its bound; what is there can still be made again.
    acme.post("/v1/links", &body("1", "1")).await.expect(201);
    let second = acme.post("/v1/links", &body("1", "2")).await.expect(201).json();
    let full = acme.post("/v1/links", &body("1", "3")).await.expect_problem(409, "conflict").json();
    assert!(full["detail"].as_str().unwrap().contains("links.per_org_max"), "{full}");
    acme.post("/v1/links", &body("1", "1")).await.expect(200);
    acme.delete(&format!("/v1/links/{}", second["id"].as_str().unwrap())).await.expect(204);
    acme.post("/v1/links", &body("1", "3")).await.expect(201);
    // Who may speak for any org names one.
    let any = hub.public(&hub.key(&["publish", "read"], None).await);
    assert_eq!(
        any.post("/v1/links", &body("1", "1")).await.expect_problem(400, "invalid-field").json()["field"],
        "org"
    );
    for query in ["/v1/links", "/v1/links/walk?module=m&type=t&id=1"] {
        assert_eq!(any.get(query).await.expect_problem(400, "invalid-parameter").json()["field"], "org");
    }
    any.post("/v1/links", &with(body("1", "1"), json!({"org": "globex"}))).await.expect(201);
    assert_eq!(items(&hub.admin().get("/v1/links?org=globex").await.expect(200).json()).len(), 1);
}

#[tokio::test]
async fn links_of_another_org_are_neither_seen_nor_touched() {
    let hub = Hub::start().await;
    let acme = hub.acme().await;
    let made =
        acme.post("/v1/links", &with(body("17", "C-9"), json!({"metadata": {"private": 1}}))).await.expect(201).json();
    let one = format!("/v1/links/{}", made["id"].as_str().unwrap());
    let globex = hub.public(&hub.key(&["publish", "consume", "work", "manage", "read"], Some("globex")).await);
    let walk = "/v1/links/walk?module=crm&type=contact&id=17";
    let calls = [
        ("POST", "/v1/links", with(body("17", "C-9"), json!({"org": "acme"})), 403),
        ("GET", "/v1/links?org=acme", Value::Null, 403),
        ("GET", &format!("{walk}&org=acme"), Value::Null, 403),
        ("GET", &one, Value::Null, 404),
        ("DELETE", &one, Value::Null, 404),
    ];
    for (method, path, body, status) in &calls {
        let answer = globex.call(method, path, body).await;
        assert_eq!(answer.status, *status, "{method} {path}: {}", answer.text);
        assert!(!answer.text.contains("private") && !answer.text.contains("C-9"), "{}", answer.text);
        hub.anonymous().call(method, path, body).await.expect_problem(401, "unauthorized");
    }
    for query in ["", FROM_17, TO_C9, &format!("{FROM_17}&{TO_C9}&both_ways=true")] {
        assert!(items(&globex.get(&format!("/v1/links?{query}")).await.expect(200).json()).is_empty(), "{query}");
    }
    assert_eq!(globex.get(walk).await.expect(200).json()["links"], json!([]));
    // The same link in another org is another link.
    let theirs = globex.post("/v1/links", &body("17", "C-9")).await.expect(201).json();
    assert_ne!(theirs["id"], made["id"]);
    for (scope, method, path) in
        [("read", "POST", "/v1/links"), ("publish", "GET", "/v1/links"), ("manage", "DELETE", &*one)]
    {
        let api = hub.public(&hub.key(&[scope], Some("acme")).await);
        api.call(method, path, &body("17", "C-9")).await.expect_problem(403, "forbidden");
    }
    acme.get(&one).await.expect(200);
}

fn contact(id: &str) -> Entity {
    Entity::new("crm", "contact", id)
}

fn customer(id: &str) -> Entity {
    Entity::new("erp", "customer", id)
}

#[tokio::test]
async fn the_library_makes_finds_and_walks_links() {
    let dir = directory();
    let hub = open(dir.path(), SystemClock::shared(), |_| {}).await;
    let links = hub.links("acme");
    let wanted: Vec<_> = (0..500)
        .map(|n| NewLink::new(contact("17"), customer(&n.to_string()), LinkType::Reference).metadata(json!({ "n": n })))
        .collect();
    let made = links.create_all(wanted.clone()).await.unwrap();
    assert!(made.iter().all(|one| one.as_ref().is_ok_and(|created| created.new)));
    let again = links.create_all(wanted).await.unwrap();
    assert!(again.iter().all(|one| one.as_ref().is_ok_and(|created| !created.new)));
    assert_eq!(links.outbound(&contact("17")).await.unwrap().len(), 500);
    assert_eq!(links.inbound(&customer("3")).await.unwrap().len(), 1);
    assert_eq!(links.targets(&contact("17"), LinkType::Cascade).await.unwrap(), []);
    links.create(NewLink::new(customer("3"), contact("17"), LinkType::AggregateRoot)).await.unwrap();
    let between = links.between(&contact("17"), &customer("3")).await.unwrap();
    assert_eq!(
        between.iter().map(|link| link.link_type).collect::<Vec<_>>(),
        [LinkType::Reference, LinkType::AggregateRoot]
    );
    let page = links.find(LinkQuery { limit: 100, ..LinkQuery::default() }).await.unwrap();
    assert!(page.links.len() == 100 && page.has_more);
    let query = WalkQuery { direction: Direction::Both, nodes_max: 1_000, ..WalkQuery::from(customer("499")) };
    assert_eq!(links.walk(query).await.unwrap().nodes.len(), 501);
    assert_eq!(hub.links("other").outbound(&contact("17")).await.unwrap(), []);
    let link = &between[0];
    assert_eq!(link.created.by, "program");
    hub.links("other").delete(&link.id().to_string()).await.expect_err("not theirs");
    links.delete(&link.id().to_string()).await.unwrap();
    assert_eq!(links.get(&link.id().to_string()).await.unwrap_err().kind, ProblemKind::NotFound);
    hub.stop().await;
    drop((hub, links));
    let hub = open(dir.path(), SystemClock::shared(), |_| {}).await;
    assert_eq!(hub.links("acme").outbound(&contact("17")).await.unwrap().len(), 499);
    hub.stop().await;
}

#[tokio::test]
async fn a_handler_makes_links_in_the_name_of_its_event() {
    let dir = directory();
    let hub = open(dir.path(), SystemClock::shared(), |_| {}).await;
    let ended = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&ended);
    let handler = move |event: Arc<Event>, context: HandlerContext| {
        let count = Arc::clone(&count);
        async move {
            let data: Value = serde_json::from_slice(event.text(event.meta.data.unwrap())).unwrap();
            let link = NewLink::new(contact("17"), customer(data["customer"].as_str().unwrap()), LinkType::Reference);
            context.links().create(link).await.map_err(|problem| HandlerError::Retry(problem.to_string()))?;
            count.fetch_add(1, Ordering::Relaxed);
            match context.attempt() {
                1 => Err(HandlerError::Retry("once more".to_owned())),
                _ => Ok(()),
            }
        }
    };
    hub.subscribe("customer.created", "linker", 0, handler_fn(handler)).await.unwrap();
    let event = NewEvent::new("customer.created").org("acme").id("e-1").correlation_id("conv-7");
    hub.publish(&event.data(json!({"customer": "C-9"}))).await.unwrap();
    let made =
        until("the link is there", || async { hub.links("acme").inbound(&customer("C-9")).await.unwrap().pop() }).await;
    assert_eq!(made.created.by, "handler:linker");
    assert_eq!(made.created.correlation_id.as_deref(), Some("conv-7"));
    until("the second attempt has made its link", || async { (ended.load(Ordering::Relaxed) == 2).then_some(()) })
        .await;
    assert_eq!(hub.links("acme").inbound(&customer("C-9")).await.unwrap(), [made], "made again it is the same");
    hub.stop().await;
}

const KILLS: u64 = 8;
const WRITERS: u64 = 4;

/// What the writers were told.
#[derive(Default)]
struct Told {
    address: Mutex<Option<String>>,
    made: Mutex<BTreeSet<(u64, u64)>>,
    deleted: Mutex<BTreeSet<(u64, u64)>>,
    /// Sent without an answer: there or not, but whole.
    open: Mutex<BTreeSet<(u64, u64)>>,
    stop: AtomicBool,
}

fn crash_link(writer: u64, n: u64) -> (Entity, Entity) {
    (contact(&format!("w{writer}")), customer(&format!("w{writer}-{n}")))
}

async fn write_links(told: Arc<Told>, key: String, writer: u64) {
    let api = Api::with_key("", &key).pooled();
    let headers = [("content-type", "application/json")];
    let mut n = 0;
    while !told.stop.load(Ordering::Relaxed) {
        let Some(address) = told.address.lock().clone() else {
            tokio::time::sleep(Duration::from_millis(2)).await;
            continue;
        };
        let api = api.at(&address);
        n += 1;
        let (source, target) = crash_link(writer, n);
        let body = body(&source.id, &target.id).to_string().into_bytes();
        match api.try_send(Method::POST, "/v1/links", &headers, Some(body)).await {
            Ok(answer) if answer.status == 201 => {
                told.made.lock().insert((writer, n));
            }
            _ => {
                told.open.lock().insert((writer, n));
                continue;
            }
        }
        if n % 3 == 0 {
            let id = LinkId::of("acme", &source, &target, LinkType::Reference);
            match api.try_send(Method::DELETE, &format!("/v1/links/{id}"), &[], None).await {
                Ok(answer) if answer.status == 204 => told.deleted.lock().insert((writer, n)),
                _ => told.open.lock().insert((writer, n)),
            };
        }
    }
}

#[tokio::test]
async fn killed_while_links_are_made_and_deleted_both_indexes_agree_with_what_was_acknowledged() {
    let seed = match std::env::var("CRASH_SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => (SystemRandom::shared().fraction() * 1e15) as u64,
    };
    eprintln!("CRASH_SEED={seed}");
    let random = SeededRandom::shared(seed);
    let mut hub = Hub::start().await;
    let key = hub.key(&["publish", "read"], Some("acme")).await;
    let told = Arc::new(Told::default());
    let writers: Vec<_> = (0..WRITERS).map(|n| tokio::spawn(write_links(told.clone(), key.clone(), n))).collect();
    for _ in 0..KILLS {
        let before = told.made.lock().len();
        *told.address.lock() = Some(hub.public_address().to_owned());
        until("links are being made", || async { (told.made.lock().len() > before + 5).then_some(()) }).await;
        // The moment of the kill is chance; nothing below depends on how much happened before it.
        tokio::time::sleep(Duration::from_millis((random.fraction() * 150.0) as u64)).await;
        hub.kill();
        *told.address.lock() = None;
        let report = verify(&hub.data_dir(), &mut |_, _| {}).expect("the store opens");
        assert_eq!(report.faults, Vec::<String>::new());
        hub.restart().await;
    }
    told.stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let acme = hub.public(&key);
    let (made, deleted, open) = (told.made.lock().clone(), told.deleted.lock().clone(), told.open.lock().clone());
    eprintln!("{} made, {} deleted, {} perhaps, over {KILLS} kills", made.len(), deleted.len(), open.len());
    assert!(made.len() as u64 > KILLS && !deleted.is_empty());
    let mut there = BTreeSet::new();
    for writer in 0..WRITERS {
        let mut cursor = String::new();
        loop {
            let query = format!("source_module=crm&source_type=contact&source_id=w{writer}&limit=1000&cursor={cursor}");
            let page = acme.get(&format!("/v1/links?{query}")).await.expect(200).json();
            there.extend(items(&page).iter().map(|link| link["target_id"].as_str().unwrap().to_owned()));
            cursor = page["next_cursor"].as_str().unwrap().to_owned();
            if page["has_more"] != true {
                break;
            }
        }
    }
    for (writer, n) in made.difference(&open) {
        let target = crash_link(*writer, *n).1.id;
        let wanted = !deleted.contains(&(*writer, *n));
        assert_eq!(there.contains(&target), wanted, "{target}");
    }
    assert!(hub.terminate().await.success());
    let report = verify(&hub.data_dir(), &mut |_, _| {}).expect("the store opens");
    assert_eq!((report.faults, report.links), (Vec::new(), there.len() as u64));
}

/// Links of the run that looks at memory; a million is `LINKS_COUNT=1000000`.
const COUNT_DEFAULT: usize = 10_000;

#[tokio::test]
async fn a_page_of_one_entity_costs_the_same_however_many_links_there_are() {
    let count = std::env::var("LINKS_COUNT").map_or(COUNT_DEFAULT, |text| text.parse().unwrap());
    let dir = directory();
    let hub = open(dir.path(), SystemClock::shared(), |config| config.links.per_org_max = 10_000_000).await;
    let links = hub.links("acme");
    let began = SystemClock::shared().now();
    for chunk in (0..count).collect::<Vec<_>>().chunks(1_000) {
        // Every link at one hub of the graph, and each target with links of its own.
        let new = |n: &usize| NewLink::new(contact("hub"), customer(&n.to_string()), LinkType::Reference);
        let made = links.create_all(chunk.iter().map(new).collect()).await.unwrap();
        assert!(made.iter().all(Result::is_ok));
    }
    eprintln!("{count} links in {} ms", SystemClock::shared().now().since_ms(began));
    assert_eq!(hub.link_book().count("acme").unwrap(), count as u64);
    for n in [0, count / 2, count - 1] {
        assert_eq!(links.between(&contact("hub"), &customer(&n.to_string())).await.unwrap().len(), 1);
        assert_eq!(links.inbound(&customer(&n.to_string())).await.unwrap().len(), 1);
    }
    let walked = links.walk(WalkQuery { nodes_max: 1_000, ..WalkQuery::from(contact("hub")) }).await.unwrap();
    assert_eq!((walked.nodes.len(), walked.cut.map(|cut| cut.as_str())), (1_000, Some("nodes")));
    let mut cursor = None;
    let mut read = 0;
    loop {
        let query = LinkQuery { source: Some(contact("hub")), limit: 1_000, cursor, ..LinkQuery::default() };
        let page = links.find(query).await.unwrap();
        read += page.links.len();
        cursor = Some(page.next);
        if !page.has_more {
            break;
        }
    }
    assert_eq!(read, count);
    hub.stop().await;
}
