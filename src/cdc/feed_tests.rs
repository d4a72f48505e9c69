//! Feeds over a log in memory that counts what is read.

use bytes::Bytes;

use super::*;
use crate::config::Config;
use crate::event::envelope::{Draft, EventMeta};
use crate::event::filter::EventFilter;
use crate::lookup::tests::index;
use crate::store::fake::FakeStore;
use crate::store::{AppendUnit, EventLog as _, IndexLevel, Prepared};

const BLOCK: u64 = IndexLevel::Block.events();

/// A log of so many events: event `n` is of org `org_of(n)`, received at `n` milliseconds.
fn store(events: u64, org_of: impl Fn(u64) -> String) -> Arc<FakeStore> {
    let store = FakeStore::new(10_000);
    for n in 1..=events {
        let meta = EventMeta {
            id: format!("e{n}"),
            org: org_of(n),
            event_type: "order.created".to_owned(),
            channel: (n % 3 == 0).then(|| "web".to_owned()),
            ..EventMeta::default()
        };
        let body = Bytes::from_static(b"{\"type\":\"order.created\"}");
        let draft = Draft { meta, body, id_given: true, received_at: UnixMs(n), deliver_at: None };
        let unit = AppendUnit { events: vec![Prepared::new(draft).expect("prepares")], atomic: false };
        store.append(vec![unit]).expect("appends");
    }
    store
}

fn feed(store: &Arc<FakeStore>) -> Feed {
    Feed::new(Finder::new(store.clone(), store.clone()), Arc::new(Tail::new(1)), &Config::default().cdc)
}

fn of_org(org: &str) -> Arc<FeedFilter> {
    let events = EventFilter { org: Some(org.to_owned()), ..EventFilter::default() };
    Arc::new(FeedFilter::new(events, None, None))
}

/// Every position of a feed from a place on, by readings of this sort, and the gaps as (from, up to).
async fn read_all(feed: &Feed, filter: &Arc<FeedFilter>, from: u64, reading: Reading) -> (Vec<u64>, Vec<(u64, u64)>) {
    let (mut seqs, mut gaps, mut at) = (Vec::new(), Vec::new(), Seq(from));
    loop {
        let chunk = feed.read(filter, at, reading).await.expect("reads");
        gaps.extend(chunk.gap_to.map(|gap_to| (at.0, gap_to.0)));
        assert!(chunk.next >= at && chunk.events.iter().all(|event| event.seq >= at && event.seq < chunk.next));
        seqs.extend(chunk.events.iter().map(|event| event.seq.0));
        at = chunk.next;
        if !chunk.has_more {
            return (seqs, gaps);
        }
    }
}

#[tokio::test]
async fn a_page_of_one_org_reads_its_own_events_however_many_the_others_have() {
    // 100 orgs in turns; then the same org among ten times as many; then alone.
    for (orgs, events) in [(100_u64, 50_000_u64), (1_000, 200_000), (1, 3_000)] {
        let store = store(events, |n| format!("org-{}", n % orgs));
        index(&store);
        let feed = feed(&store);
        let filter = of_org("org-0");
        for limit in [1, 10, 25] {
            let before = store.events_read();
            let chunk = feed.read(&filter, Seq(1), Reading::Page(limit)).await.expect("reads");
            let read = store.events_read() - before;
            assert_eq!(chunk.events.len(), limit);
            assert!(chunk.events.iter().zip(1..).all(|(event, nth)| event.seq.0 == nth * orgs));
            assert!(read <= limit + 1, "a page of {limit} of one org among {orgs} reads {read} events");
        }
    }
}

#[tokio::test]
async fn an_org_that_is_seldom_seen_is_found_without_reading_what_lies_between() {
    let store = store(200_000, |n| if n % 99_000 == 0 { "rare".to_owned() } else { format!("org-{}", n % 50) });
    index(&store);
    let before = store.events_read();
    let (seqs, gaps) = read_all(&feed(&store), &of_org("rare"), 1, Reading::Page(100)).await;
    assert_eq!((seqs, gaps), (vec![99_000, 198_000], Vec::new()));
    let read = (store.events_read() - before) as u64;
    assert!(read <= 2 + BLOCK, "{read} events read: its own, and the newest block, which is not in the index yet");
}

#[tokio::test]
async fn pages_of_any_size_and_streams_have_every_event_of_the_filter_once_and_in_order() {
    let store = store(5_000, |n| format!("org-{}", n % 7));
    for indexed in [false, true] {
        if indexed {
            index(&store);
        }
        let feed = feed(&store);
        let wanted: Vec<u64> = (1..=5_000).filter(|n| n % 7 == 3).collect();
        for reading in [Reading::Page(1), Reading::Page(7), Reading::Page(1_000), Reading::Piece] {
            assert_eq!(read_all(&feed, &of_org("org-3"), 1, reading).await, (wanted.clone(), Vec::new()));
        }
        let events =
            EventFilter { org: Some("org-3".to_owned()), channel: Some("web".to_owned()), ..EventFilter::default() };
        let narrow = Arc::new(FeedFilter::new(events, Some(UnixMs(1_000)), Some(UnixMs(2_000))));
        let wanted: Vec<u64> = (1_000..2_000).filter(|n| n % 7 == 3 && n % 3 == 0).collect();
        assert_eq!(read_all(&feed, &narrow, 1, Reading::Page(10)).await, (wanted, Vec::new()));
    }
}

#[tokio::test]
async fn what_retention_has_dropped_is_a_gap_once_and_the_refusal_names_where_to_go_on() {
    let store = store(35_000, |n| format!("org-{}", n % 7));
    index(&store);
    store.truncate(Seq(25_000)).expect("truncates");
    assert_eq!(store.earliest(), Seq(20_001));
    let filter = of_org("org-3");
    let wanted: Vec<u64> = (20_001..=35_000).filter(|n| n % 7 == 3).collect();
    let (seqs, gaps) = read_all(&feed(&store), &filter, 100, Reading::Piece).await;
    assert_eq!((seqs, gaps), (wanted, vec![(100, 20_001)]));
    let problem = gone(Seq(100), Seq(20_001), &filter);
    assert_eq!((problem.kind.status(), &problem.extra["earliest_seq"]), (410, &20_001.into()));
    let cursor = problem.extra["earliest_cursor"].as_str().expect("a text");
    assert_eq!(Cursor::read(cursor, &filter), Ok(Cursor { next: Seq(20_001) }));
}

#[tokio::test]
async fn a_feed_begins_where_it_was_told_to() {
    let store = store(30_000, |n| format!("org-{}", n % 7));
    index(&store);
    store.truncate(Seq(15_000)).expect("truncates");
    let feed = feed(&store);
    for (start, wanted) in [
        (Start::Earliest, 10_001),
        (Start::Latest, 30_001),
        (Start::Seq(Seq(12)), 12),
        (Start::Seq(Seq(99_999)), 99_999),
        (Start::Time(UnixMs(0)), 10_001),
        (Start::Time(UnixMs(23_456)), 23_456),
        (Start::Time(UnixMs(29_999)), 29_999),
        (Start::Time(UnixMs(40_000)), 30_001),
    ] {
        assert_eq!(feed.place(start).await.expect("reads"), Seq(wanted), "{start:?}");
    }
    let ahead = feed.read(&of_org("org-1"), Seq(99_999), Reading::Piece).await.expect("reads");
    assert_eq!((ahead.events.len(), ahead.next, ahead.has_more), (0, Seq(99_999), false));
}

#[tokio::test]
async fn the_newest_events_come_from_memory_and_a_piece_is_bounded() {
    let store = store(1, |_| "acme".to_owned());
    let tail = Arc::new(Tail::new(64 << 20));
    let meta = EventMeta { org: "acme".to_owned(), ..EventMeta::default() };
    let body = Bytes::from(vec![b' '; 100 << 10]);
    tail.push((2..=301).map(|n| Event::new(Seq(n), UnixMs(n), meta.clone(), body.clone())));
    let feed = Feed::new(Finder::new(store.clone(), store.clone()), tail, &Config::default().cdc);
    let before = store.events_read();
    let chunk = feed.read(&of_org("acme"), Seq(2), Reading::Piece).await.expect("reads");
    assert_eq!((chunk.events.len(), chunk.next), (3, Seq(5)), "256 KiB, begun with the third event");
    assert_eq!(store.events_read(), before);
}

#[test]
fn streams_are_bounded_and_a_place_is_free_again_when_its_stream_ends() {
    let store = store(1, |_| "acme".to_owned());
    let settings = Cdc { streams_max: 2, ..Config::default().cdc };
    let feed = Feed::new(Finder::new(store.clone(), store), Arc::new(Tail::new(1)), &settings);
    let first = feed.open_stream().expect("a place");
    let second = feed.open_stream().expect("a place");
    let problem = feed.open_stream().expect_err("full");
    assert_eq!((problem.kind.status(), problem.retry_after_s), (503, Some(5)));
    assert_eq!(feed.open_streams(), 2);
    drop(first);
    assert_eq!(feed.open_streams(), 1);
    assert!(feed.open_stream().is_ok());
    drop(second);
}
