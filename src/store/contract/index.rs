//! The index of the log.

use super::*;
use crate::store::{IndexLevel, IndexRow};

contract!(index_rows_come_back_as_they_were_written_and_go_from_the_old_end,);

fn index_rows_come_back_as_they_were_written_and_go_from_the_old_end(store: &mut dyn Subject) {
    const BLOCK: u64 = IndexLevel::Block.events();
    let row = |level, number| IndexRow { level, number };
    let large = vec![7; crate::ground::limits::ROW_BYTES_MAX];
    for level in IndexLevel::ALL {
        assert_eq!(store.index().newest_row(level).expect("reads"), None);
        assert_eq!(store.index().row(row(level, 0)).expect("reads"), None);
        for number in [0, 1, 2, 300] {
            store.index().put_row(row(level, number), &number.to_be_bytes()).expect("writes");
        }
        store.index().put_row(row(level, 2), &large).expect("writes again");
        assert_eq!(store.index().newest_row(level).expect("reads"), Some(row(level, 300)));
    }
    let blocks = IndexLevel::Block;
    assert_eq!(store.index().drop_rows(blocks, Seq(BLOCK)).expect("drops"), 1);
    assert_eq!(
        store.index().drop_rows(blocks, Seq(2 * BLOCK - 1)).expect("drops"),
        0,
        "the last of it is still needed"
    );
    assert_eq!(store.index().drop_rows(blocks, Seq(2 * BLOCK)).expect("drops"), 1);
    assert_eq!(store.index().row(row(blocks, 1)).expect("reads"), None);
    assert_eq!(store.index().row(row(blocks, 2)).expect("reads"), Some(large));
    assert_eq!(store.index().row(row(IndexLevel::Group, 1)).expect("reads"), Some(1_u64.to_be_bytes().to_vec()));
}

#[test]
fn after_an_opening_no_index_row_is_past_the_head() {
    const BLOCK: u64 = IndexLevel::Block.events();
    let mut store = OnEngine::new();
    let events = (1..=2 * BLOCK).map(|n| event(&format!("e{n}"), "{}")).collect();
    append(&store, vec![loose(events)]);
    for level in IndexLevel::ALL {
        for number in 0..5 {
            store.index().put_row(IndexRow { level, number }, b"row").expect("writes");
        }
    }
    store.restart();
    let newest = store.index().newest_row(IndexLevel::Block).expect("reads");
    assert_eq!(newest, Some(IndexRow { level: IndexLevel::Block, number: 1 }), "the third block is not complete");
    assert_eq!(store.index().newest_row(IndexLevel::Group).expect("reads"), None);
}
