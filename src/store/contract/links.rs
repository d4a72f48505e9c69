//! Links between entities.

use super::*;
use crate::ground::context::WriteContext;
use crate::store::StoreError;
use crate::store::links::{Entity, Link, LinkPlace, LinkSpot, LinkType, LinkWindow, PutLink};

contract!(
    a_link_is_there_once_and_found_from_both_ends_also_after_a_restart,
    what_is_removed_is_gone_from_every_order,
    pages_give_every_link_once_in_order,
    an_org_has_no_more_links_than_it_may_and_sees_only_its_own,
    a_link_whose_writing_failed_is_there_as_a_whole_or_not_at_all,
);

const MAX: u64 = 1_000;
const ALL_LINKS: LinkWindow = LinkWindow { link_type: None, after: None, limit: usize::MAX, bytes: usize::MAX };

fn entity(id: &str) -> Entity {
    Entity::new("crm", "contact", id)
}

fn link(org: &str, from: &str, to: &str, link_type: LinkType) -> Link {
    let created = WriteContext { by: "key:k".to_owned(), at: UnixMs(NOW), ..WriteContext::default() };
    Link { org: org.to_owned(), source: entity(from), target: entity(to), link_type, metadata: None, created }
}

fn reference(from: &str, to: &str) -> Link {
    link("acme", from, to, LinkType::Reference)
}

fn put(store: &dyn Subject, links: &[Link]) -> Vec<PutLink> {
    store.links().put_links(links, MAX).expect("writes")
}

fn found(store: &dyn Subject, org: &str, place: LinkPlace, window: LinkWindow) -> Vec<Link> {
    store.links().links(org, &place, window).expect("reads").0
}

fn ends(links: &[Link]) -> Vec<String> {
    let mut ends: Vec<_> = links.iter().map(|link| format!("{}>{}", link.source.id, link.target.id)).collect();
    ends.sort();
    ends
}

fn a_link_is_there_once_and_found_from_both_ends_also_after_a_restart(store: &mut dyn Subject) {
    let links = [reference("a", "b"), reference("a", "c"), reference("b", "a"), reference("aa", "b")];
    assert_eq!(put(store, &links), [const { PutLink::New }; 4]);
    let other = Link { created: WriteContext::default(), ..links[0].clone() };
    assert_eq!(put(store, &[other.clone(), other]), vec![PutLink::There(Box::new(links[0].clone())); 2]);
    let twice = [reference("x", "y"), reference("x", "y")];
    assert_eq!(put(store, &twice), [PutLink::New, PutLink::There(Box::new(twice[0].clone()))]);
    store.restart();
    let at = |place| ends(&found(store, "acme", place, ALL_LINKS));
    assert_eq!(at(LinkPlace::From(entity("a"))), ["a>b", "a>c"]);
    assert_eq!(at(LinkPlace::To(entity("b"))), ["a>b", "aa>b"]);
    assert_eq!(at(LinkPlace::Org), ["a>b", "a>c", "aa>b", "b>a", "x>y"]);
    assert_eq!(at(LinkPlace::From(entity("c"))), Vec::<String>::new());
    assert_eq!(store.links().link(links[0].id()).expect("reads"), Some(links[0].clone()));
    assert_eq!(store.links().link_count("acme").expect("reads"), 5);
}

fn what_is_removed_is_gone_from_every_order(store: &mut dyn Subject) {
    let links = [reference("a", "b"), link("acme", "a", "b", LinkType::Cascade)];
    put(store, &links);
    assert!(store.links().remove_link(links[0].id()).expect("removes"));
    assert!(!store.links().remove_link(links[0].id()).expect("looks"));
    store.restart();
    for place in [LinkPlace::Org, LinkPlace::From(entity("a")), LinkPlace::To(entity("b"))] {
        assert_eq!(found(store, "acme", place, ALL_LINKS), [links[1].clone()]);
    }
    assert_eq!(store.links().link(links[0].id()).expect("reads"), None);
    assert_eq!(store.links().link_count("acme").expect("reads"), 1);
    assert_eq!(put(store, &links[..1]), [PutLink::New]);
    assert!(links.iter().all(|link| store.links().remove_link(link.id()).expect("removes")));
    assert_eq!(store.links().link_count("acme").expect("reads"), 0);
}

fn pages_give_every_link_once_in_order(store: &mut dyn Subject) {
    let kinds = LinkType::ALL;
    let mut links: Vec<Link> = (0..30).map(|at| link("acme", "hub", &at.to_string(), kinds[at % 3])).collect();
    for (at, link) in links.iter_mut().enumerate() {
        link.metadata = Some(format!("{{\"at\":{at:04}}}"));
    }
    put(store, &links);
    links.sort_by_key(LinkSpot::of);
    for place in [LinkPlace::From(entity("hub")), LinkPlace::Org] {
        for link_type in [None, Some(LinkType::Reference), Some(LinkType::AggregateRoot)] {
            let wanted: Vec<_> =
                links.iter().filter(|link| link_type.is_none_or(|kind| kind == link.link_type)).collect();
            for (limit, bytes) in [(1, usize::MAX), (7, usize::MAX), (usize::MAX, 25), (usize::MAX, 0), (30, 1 << 20)] {
                let (mut read, mut after) = (Vec::new(), None);
                loop {
                    let window = LinkWindow { link_type, after, limit, bytes };
                    let (page, more) = store.links().links("acme", &place, window).expect("reads");
                    assert!(!page.is_empty() && page.len() <= limit);
                    after = page.last().map(LinkSpot::of);
                    read.extend(page);
                    if !more {
                        break;
                    }
                }
                assert_eq!(read.iter().collect::<Vec<_>>(), wanted);
            }
        }
    }
    // A place that was removed since is no hindrance.
    store.links().remove_link(links[10].id()).expect("removes");
    let window = LinkWindow { after: Some(LinkSpot::of(&links[10])), limit: 1, ..ALL_LINKS };
    assert_eq!(found(store, "acme", LinkPlace::Org, window), [links[11].clone()]);
}

fn an_org_has_no_more_links_than_it_may_and_sees_only_its_own(store: &mut dyn Subject) {
    let of = |org, to: &str| link(org, "a", to, LinkType::Reference);
    let wanted = [of("acme", "1"), of("acme", "2"), of("acme", "3"), of("acme", "1"), of("acme-2", "1")];
    let put = store.links().put_links(&wanted, 2).expect("writes");
    let there = PutLink::There(Box::new(wanted[0].clone()));
    assert_eq!(put, [PutLink::New, PutLink::New, PutLink::Full, there, PutLink::New]);
    store.restart();
    assert_eq!(ends(&found(store, "acme", LinkPlace::From(entity("a")), ALL_LINKS)), ["a>1", "a>2"]);
    assert_eq!(ends(&found(store, "acme-2", LinkPlace::Org, ALL_LINKS)), ["a>1"]);
    assert_eq!(store.links().put_links(&[of("acme", "3")], 2).expect("answers"), [PutLink::Full]);
    store.links().remove_link(wanted[0].id()).expect("removes");
    assert_eq!(store.links().put_links(&[of("acme", "3")], 2).expect("writes"), [PutLink::New]);
}

fn a_link_whose_writing_failed_is_there_as_a_whole_or_not_at_all(store: &mut dyn Subject) {
    put(store, &[reference("a", "b")]);
    store.tear_next_link();
    let torn = reference("a", "torn");
    let failed = store.links().put_links(std::slice::from_ref(&torn), MAX).expect_err("fails");
    assert!(matches!(failed, StoreError::Engine(_)));
    store.wait_until_open();
    let there = store.links().link(torn.id()).expect("reads").is_some();
    let listed = |place| found(store, "acme", place, ALL_LINKS).contains(&torn);
    assert_eq!(listed(LinkPlace::From(entity("a"))), there);
    assert_eq!(listed(LinkPlace::To(entity("torn"))), there);
    assert_eq!(listed(LinkPlace::Org), there);
    assert_eq!(store.links().link_count("acme").expect("reads"), 1 + u64::from(there));
    let again = put(store, std::slice::from_ref(&torn)).pop().expect("an answer");
    assert_eq!(again == PutLink::New, !there);
    store.restart();
    assert_eq!(ends(&found(store, "acme", LinkPlace::Org, ALL_LINKS)), ["a>b", "a>torn"]);
}

#[test]
fn many_who_write_at_once_agree() {
    let store = OnEngine::new();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for at in 0..25 {
                    // Each link is written by two of them.
                    put(store, &[reference(&format!("{}", writer / 2), &at.to_string())]);
                    if at % 5 == 4 {
                        store
                            .links()
                            .remove_link(reference(&format!("{}", writer / 2), &(at - 1).to_string()).id())
                            .expect("removes");
                    }
                }
            });
        }
    });
    let (links, faults) = store.engine().check_links().expect("reads");
    assert_eq!(faults, Vec::<String>::new());
    assert_eq!(links, store.links().link_count("acme").expect("reads"));
}

#[test]
fn a_check_names_what_does_not_agree() {
    let store = OnEngine::new();
    put(&store, &[reference("a", "b"), reference("a", "c")]);
    store.engine().damage_links(reference("a", "b").id()).expect("damages");
    let (links, faults) = store.engine().check_links().expect("reads");
    let named = |text: &str| faults.iter().any(|fault| fault.contains(text));
    assert_eq!(links, 2);
    assert!(named("is missing in links-in") && named("links-in has 1 rows for 2 links"), "{faults:?}");
}
