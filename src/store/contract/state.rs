//! What is kept of consumers, and documents.

use super::*;
use crate::ground::context::WriteContext;
use crate::ground::ids::ConsumerId;
use crate::store::records::{AttemptRecord, Closed, Closing, PageKey};
use crate::store::{AttemptPage, DeadLetterRecord, Expired, Position, StoreError};

contract!(
    rows_are_kept_per_consumer_and_in_order,
    a_checkpoint_sets_and_clears_positions,
    attempts_come_newest_first_page_by_page,
    attempts_go_on_from_a_page_though_all_were_written_in_one_millisecond,
    dead_letters_come_newest_first_and_expire,
    a_document_changes_only_from_the_revision_that_is_known,
    documents_are_written_together_whatever_their_revision,
);

fn rows_are_kept_per_consumer_and_in_order(store: &mut dyn Subject) {
    let (a, b) = (ConsumerId::new("whk_a"), ConsumerId::handler("b"));
    commit(
        store,
        vec![
            StateOp::PutRow(a.clone(), Seq(300), row(1)),
            StateOp::PutRow(a.clone(), Seq(2), row(2)),
            StateOp::PutRow(b.clone(), Seq(2), row(3)),
            StateOp::DeleteRow(b.clone(), Seq(2)),
            StateOp::PutRow(a.clone(), Seq(2), row(4)),
        ],
    );
    store.restart();
    let rows = store.state().rows(&a).expect("reads");
    assert_eq!(rows, [(Seq(2), row(4)), (Seq(300), row(1))], "the last word on a row counts");
    let some = |after, limit| store.state().rows_after(&a, Seq(after), limit).expect("reads");
    assert_eq!(some(0, 1), [(Seq(2), row(4))]);
    assert_eq!(some(2, 9), [(Seq(300), row(1))]);
    assert_eq!(some(300, 9), []);
    assert_eq!(store.state().rows_after(&b, Seq::ZERO, 9).expect("reads"), []);
    assert_eq!(store.state().rows(&b).expect("reads"), []);
    assert_eq!(store.state().consumers_with_rows().expect("reads"), std::slice::from_ref(&a));
    commit(store, vec![StateOp::DropConsumer(a.clone()), StateOp::PutRow(a.clone(), Seq(9), row(1))]);
    assert_eq!(store.state().rows(&a).expect("reads"), [(Seq(9), row(1))], "what comes after the end is a beginning");
    commit(store, vec![StateOp::DropConsumer(a.clone())]);
    assert_eq!(store.state().rows(&a).expect("reads"), []);
    assert!(store.state().consumers_with_rows().expect("reads").is_empty());
}

fn a_checkpoint_sets_and_clears_positions(store: &mut dyn Subject) {
    let (a, b, c) = (ConsumerId::new("whk_a"), ConsumerId::new("whk_b"), ConsumerId::new("whk_c"));
    assert_eq!(store.state().checkpoints().expect("reads").router, None);
    let ahead = Position { cursor: Seq(4), ahead: vec![(Seq(6), Seq(8))] };
    let set = vec![(a.clone(), ahead.clone()), (b.clone(), Position::at(Seq(5))), (c.clone(), Position::at(Seq(6)))];
    commit(store, vec![StateOp::Checkpoint { router: Seq(9), set, clear: Vec::new() }]);
    commit(store, vec![StateOp::Checkpoint { router: Seq(12), set: Vec::new(), clear: vec![b] }]);
    commit(store, vec![StateOp::DropConsumer(c)]);
    store.restart();
    let there = store.state().checkpoints().expect("reads");
    assert_eq!((there.router, there.consumers), (Some(Seq(12)), vec![(a, ahead)]));
}

fn page(at_ms: u64, seqs: std::ops::Range<u64>) -> AttemptPage {
    let attempt = |seq| AttemptRecord {
        seq: Seq(seq),
        event_id: format!("e{seq}"),
        attempt: 1,
        at: UnixMs(at_ms),
        latency_ms: 3,
        outcome: "delivered".to_owned(),
        status: Some(200),
        error: None,
        snippet: String::new(),
        next_try_at: None,
    };
    AttemptPage { attempts: seqs.map(attempt).collect() }
}

fn attempts_go_on_from_a_page_though_all_were_written_in_one_millisecond(store: &mut dyn Subject) {
    let (a, b) = (ConsumerId::new("whk_a"), ConsumerId::new("whk_b"));
    for n in 1..=5 {
        commit(store, vec![StateOp::Attempts(a.clone(), page(NOW, n..n + 1))]);
    }
    commit(store, vec![StateOp::Attempts(b, page(NOW, 90..91)), StateOp::Attempts(a.clone(), page(NOW + 1, 6..7))]);
    store.restart();
    let (mut from, mut seqs) = (PageKey { at_ms: NOW, part: 0 }, Vec::new());
    loop {
        let pages = store.state().attempts_since(&a, from, 2).expect("reads");
        assert!(pages.is_sorted_by(|(one, _), (other, _)| one < other), "{pages:?}");
        let Some((last, _)) = pages.last() else { break };
        from = last.next();
        seqs.extend(pages.iter().flat_map(|(_, page)| page.attempts.iter().map(|attempt| attempt.seq.0)));
    }
    assert_eq!(seqs, [1, 2, 3, 4, 5, 6], "each once");
}

fn attempts_come_newest_first_page_by_page(store: &mut dyn Subject) {
    const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
    let (a, b) = (ConsumerId::new("whk_a"), ConsumerId::new("whk_ab"));
    commit(
        store,
        vec![
            StateOp::Attempts(a.clone(), page(NOW, 1..3)),
            StateOp::Attempts(a.clone(), page(NOW, 3..5)),
            StateOp::Attempts(b.clone(), page(NOW, 90..91)),
        ],
    );
    store.restart();
    commit(store, vec![StateOp::Attempts(a.clone(), page(NOW, 5..6))]);
    commit(store, vec![StateOp::Attempts(a.clone(), page(NOW + DAY_MS, 6..7))]);
    let firsts = |store: &dyn Subject, before, pages| -> (Vec<u64>, Option<PageKey>) {
        let found = store.state().attempts(&a, before, pages).expect("reads");
        let last = found.last().map(|(key, _)| *key);
        (found.iter().map(|(_, page)| page.attempts[0].seq.0).collect(), last)
    };
    let (newest, last) = firsts(store, PageKey::MAX, 2);
    assert_eq!(newest, [6, 5], "the same time after a new opening overwrites nothing");
    assert_eq!(firsts(store, last.expect("a page"), 9).0, [3, 1]);
    store.state().expire(NOW + DAY_MS / 2, 0).expect("expires");
    assert_eq!(firsts(store, PageKey::MAX, 9).0, [6]);
}

fn dead_letter(n: u64, bytes: usize) -> DeadLetterRecord {
    DeadLetterRecord {
        id: format!("dlq_{n:04}"),
        at: UnixMs(NOW + n),
        consumer: ConsumerId::new(if n.is_multiple_of(2) { "whk_a" } else { "whk_b" }),
        seq: Seq(n),
        event_id: format!("e{n}"),
        event_type: "a.b".to_owned(),
        org: "acme".to_owned(),
        correlation_id: None,
        event: vec![b'x'; bytes],
        error_message: "status 500".to_owned(),
        error_kind: "status".to_owned(),
        error_code: Some(500),
        error_detail: String::new(),
        attempts: 3,
        first_attempt: None,
        last_attempt: None,
        closed: None,
        earlier: None,
    }
}

fn dead_letters_come_newest_first_and_expire(store: &mut dyn Subject) {
    let sizes = [10, 200_000, 10, 1 << 20, 10];
    let letters: Vec<DeadLetterRecord> = sizes.iter().zip(1..).map(|(size, n)| dead_letter(n, *size)).collect();
    commit(store, letters.iter().map(|one| StateOp::PutDeadLetter(Box::new(one.clone()))).collect());
    store.restart();
    let ids = |store: &dyn Subject, before: Option<&str>, limit| -> Vec<String> {
        store.state().dead_letters(before, limit).expect("reads").into_iter().map(|one| one.id).collect()
    };
    assert_eq!(ids(store, None, 2), ["dlq_0005", "dlq_0004"]);
    assert_eq!(ids(store, Some("dlq_0004"), 9), ["dlq_0003", "dlq_0002", "dlq_0001"]);
    assert_eq!(store.state().dead_letter("dlq_0004").expect("reads").as_ref(), Some(&letters[3]));
    assert_eq!(store.state().dead_letter("dlq_").expect("reads"), None);
    let counts = store.state().dead_letter_counts().expect("reads");
    assert_eq!(counts, [(ConsumerId::new("whk_a"), 2), (ConsumerId::new("whk_b"), 3)]);
    let after = |after: &str, limit, bytes| -> Vec<String> {
        let found = store.state().dead_letters_after(after, limit, bytes).expect("reads");
        found.into_iter().map(|one| one.id).collect()
    };
    assert_eq!(after("", 2, usize::MAX), ["dlq_0001", "dlq_0002"]);
    assert_eq!(after("dlq_0002", 9, usize::MAX), ["dlq_0003", "dlq_0004", "dlq_0005"]);
    assert_eq!(after("dlq_0001", 9, 100_000), ["dlq_0002"], "one at least, and none once the bytes are passed");
    assert!(after("dlq_0005", 9, usize::MAX).is_empty());
    let context = WriteContext { by: "admin".into(), ..WriteContext::default() };
    let closed = Some(Closed { how: Closing::Discarded { reason: "known".into() }, context });
    let discarded = DeadLetterRecord { closed, ..letters[1].clone() };
    commit(store, vec![StateOp::PutDeadLetter(Box::new(discarded.clone()))]);
    assert_eq!(store.state().dead_letter("dlq_0002").expect("reads"), Some(discarded));
    let counts = store.state().dead_letter_counts().expect("reads");
    assert_eq!(counts, [(ConsumerId::new("whk_a"), 1), (ConsumerId::new("whk_b"), 3)], "open ones");
    let open = [(letters[0].consumer.clone(), 1)].into();
    assert_eq!(store.state().expire(0, NOW + 3).expect("expires"), Expired { dead_letters: 2, open });
    assert_eq!(ids(store, None, 9), ["dlq_0005", "dlq_0004", "dlq_0003"]);
    assert_eq!(store.state().dead_letter("dlq_0004").expect("reads").as_ref(), Some(&letters[3]));
}

fn a_document_changes_only_from_the_revision_that_is_known(store: &mut dyn Subject) {
    let registry = store.registry();
    assert_eq!(registry.put("webhook", "b", b"1", None).expect("is new"), 1);
    assert_eq!(registry.put("webhook", "a", b"2", None).expect("is new"), 1);
    assert_eq!(registry.put("webhooks", "a", b"3", None).expect("another kind"), 1);
    assert_eq!(registry.put("webhook", "b", b"4", Some(1)).expect("is known"), 2);
    for expected in [None, Some(1), Some(3)] {
        let refused = registry.put("webhook", "b", b"5", expected).expect_err("is not known");
        assert!(matches!(refused, StoreError::Revision { found: Some(2), expected: of } if of == expected));
    }
    let refused = registry.put("webhook", "c", b"5", Some(1)).expect_err("is not there");
    assert!(matches!(refused, StoreError::Revision { found: None, expected: Some(1) }));
    store.restart();
    let registry = store.registry();
    let listed: Vec<(String, u64, Vec<u8>)> =
        registry.list("webhook").expect("lists").into_iter().map(|one| (one.key, one.revision, one.bytes)).collect();
    assert_eq!(listed, [("a".to_owned(), 1, b"2".to_vec()), ("b".to_owned(), 2, b"4".to_vec())]);
    assert!(registry.delete("webhook", "b").expect("deletes"));
    assert!(!registry.delete("webhook", "b").expect("is gone"));
    assert_eq!(registry.get("webhook", "b").expect("reads"), None);
    assert_eq!(registry.put("webhook", "b", b"6", None).expect("is new again"), 1);
}

fn documents_are_written_together_whatever_their_revision(store: &mut dyn Subject) {
    let registry = store.registry();
    let all = |bytes: &[u8]| ["a", "b"].map(|key| (key.to_owned(), bytes.to_vec()));
    assert_eq!(registry.put("note", "b", b"0", None).expect("is new"), 1);
    registry.put_all("note", &all(b"1")).expect("writes");
    registry.put_all("note", &all(b"2")).expect("writes");
    registry.put_all("note", &[]).expect("writes nothing");
    store.restart();
    let found: Vec<_> = store.registry().list("note").expect("lists");
    let found: Vec<_> = found.iter().map(|one| (one.key.as_str(), one.revision, one.bytes.as_slice())).collect();
    assert_eq!(found, [("a", 2, &b"2"[..]), ("b", 3, &b"2"[..])]);
}
