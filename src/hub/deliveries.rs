//! Deliveries of one consumer that are not settled: what failed and waits, what waits behind it, what is out; by status
//! and due time (OUT-3).
//!
//! What failed or waits behind it stands in exception rows, which are read from the store once everything that the inbox
//! has handed in is there; what is out is asked of the inbox. New events that are merely next are in the log, not here.
//!
//! - `DL-1` A page has the lowest places, by due time and then position, after its cursor. All rows of the consumer (at
//!   most `inbox.parked_max`) are looked through for it, in pieces, and no more than one page of them is kept.
//! - `DL-2` A delivery that changes between two pages may be on both or on neither; the others are on exactly one.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::{Hub, Page, bad_cursor, store_problem};
use crate::ground::clock::UnixMs;
use crate::ground::error::{Problem, ProblemKind};
use crate::ground::ids::{ConsumerId, Seq};
use crate::inbox::state::Claim;
use crate::store::records::RowState;
use crate::store::{ConsumerState as _, EventLog as _, RowRecord};

/// Rows read at once.
const ROWS_READ: usize = 2_000;

/// Where a delivery stands that is not settled (OUT-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryStatus {
    /// Set aside behind an earlier event of its ordering key.
    Pending,
    /// Given out.
    Processing,
    /// Failed, tried again when it is due.
    Failed,
}

impl DeliveryStatus {
    /// Every status.
    pub const ALL: [Self; 3] = [Self::Pending, Self::Processing, Self::Failed];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Processing => "processing",
            Self::Failed => "failed",
        }
    }

    /// Reads a name.
    ///
    /// # Errors
    /// When it is none of them.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        Self::ALL.into_iter().find(|one| one.as_str() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::as_str).join(", ");
            Problem::field("status", format!("one of {names}"), text).as_kind(ProblemKind::InvalidParameter)
        })
    }
}

/// A place in the list. What has no due time comes last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeliveryPlace {
    due_ms: u64,
    seq: Seq,
}

impl DeliveryPlace {
    const NEVER_DUE: u64 = u64::MAX;

    fn new(due_at: Option<UnixMs>, seq: Seq) -> Self {
        Self { due_ms: due_at.map_or(Self::NEVER_DUE, |due_at| due_at.0), seq }
    }

    fn due_at(self) -> Option<UnixMs> {
        (self.due_ms != Self::NEVER_DUE).then_some(UnixMs(self.due_ms))
    }

    /// Reads a cursor.
    ///
    /// # Errors
    /// When it is none that this list has given out.
    pub fn from_cursor(text: &str) -> Result<Self, Problem> {
        let read = |text: &str| {
            let (due_ms, seq) = text.split_once('.')?;
            Some(Self { due_ms: due_ms.parse().ok()?, seq: Seq(seq.parse().ok()?) })
        };
        read(text).ok_or_else(|| bad_cursor(text))
    }

    fn to_cursor(self) -> String {
        format!("{}.{}", self.due_ms, self.seq)
    }
}

/// What a look-up of deliveries asks for. A clause that is not given does not narrow; one about the due time leaves out
/// what has none.
#[derive(Clone, Copy, Debug)]
pub struct DeliveryQuery {
    /// Where they stand.
    pub status: Option<DeliveryStatus>,
    /// Due before this.
    pub due_before: Option<UnixMs>,
    /// Due after this.
    pub due_after: Option<UnixMs>,
    /// After this place.
    pub after: Option<DeliveryPlace>,
    /// Most deliveries.
    pub limit: usize,
}

impl DeliveryQuery {
    fn admits(&self, place: DeliveryPlace, status: DeliveryStatus) -> bool {
        let due_at = place.due_at();
        self.after.is_none_or(|after| place > after)
            && self.status.is_none_or(|wanted| wanted == status)
            && self.due_before.is_none_or(|before| due_at.is_some_and(|due_at| due_at < before))
            && self.due_after.is_none_or(|after| due_at.is_some_and(|due_at| due_at > after))
    }
}

/// One delivery that is not settled.
#[derive(Clone, Debug)]
struct Delivery {
    status: DeliveryStatus,
    /// Attempts made; while it is out, this one included.
    attempts: u32,
    /// None while it is out for the first time.
    row: Option<RowRecord>,
}

/// The deliveries of one page, found in any order.
struct Lowest<'a> {
    query: &'a DeliveryQuery,
    found: BTreeMap<DeliveryPlace, Delivery>,
}

impl Lowest<'_> {
    fn offer(&mut self, place: DeliveryPlace, delivery: Delivery) {
        if !self.query.admits(place, delivery.status) {
            return;
        }
        self.found.insert(place, delivery);
        // One more than the page, which tells that there is another page.
        if self.found.len() > self.query.limit + 1 {
            self.found.pop_last();
        }
    }

    /// The page, and whether there is more.
    fn finish(mut self) -> (Vec<(DeliveryPlace, Delivery)>, bool) {
        let has_more = self.found.len() > self.query.limit;
        if has_more {
            self.found.pop_last();
        }
        (self.found.into_iter().collect(), has_more)
    }
}

/// The place and standing of a row, given whether it is out.
fn of_row(seq: Seq, row: RowRecord, out: Option<(Claim, UnixMs)>) -> (DeliveryPlace, Delivery) {
    if let Some((claim, lease_until)) = out {
        return of_claim(claim, lease_until, Some(row));
    }
    let (due_at, status) = match row.state {
        RowState::Retry { due_at } => (Some(due_at), DeliveryStatus::Failed),
        RowState::Held => (None, DeliveryStatus::Pending),
    };
    (DeliveryPlace::new(due_at, seq), Delivery { status, attempts: row.attempts, row: Some(row) })
}

/// The place of what is out: it is given out again when its lease ends.
fn of_claim(claim: Claim, lease_until: UnixMs, row: Option<RowRecord>) -> (DeliveryPlace, Delivery) {
    let delivery = Delivery { status: DeliveryStatus::Processing, attempts: claim.attempt, row };
    (DeliveryPlace::new(Some(lease_until), claim.seq), delivery)
}

impl Hub {
    /// The deliveries of a consumer that are not settled, by due time, then position.
    ///
    /// # Errors
    /// [`ProblemKind::NotFound`] when there is no such consumer; else when the store fails.
    pub async fn deliveries(&self, consumer: &ConsumerId, query: DeliveryQuery) -> Result<Page<Value>, Problem> {
        let known = self.inner.directory.get(consumer);
        let known = known.ok_or_else(|| Problem::not_found("consumer", consumer.as_str()))?;
        self.publish_attempts(consumer).await;
        let out = self.view(&known, Vec::new()).await.map(|view| view.out).unwrap_or_default();
        let consumer = consumer.clone();
        self.blocking(move |hub| hub.unsettled(&consumer, out, &query)).await
    }

    /// The page of rows and claims. Blocks.
    fn unsettled(
        &self,
        consumer: &ConsumerId,
        out: Vec<(Claim, UnixMs)>,
        query: &DeliveryQuery,
    ) -> Result<Page<Value>, Problem> {
        let engine = &self.inner.engine;
        let mut out: HashMap<Seq, (Claim, UnixMs)> = out.into_iter().map(|one| (one.0.seq, one)).collect();
        let mut lowest = Lowest { query, found: BTreeMap::new() };
        let mut after = Seq::ZERO;
        loop {
            let rows = engine.rows_after(consumer, after, ROWS_READ).map_err(|error| store_problem(&error))?;
            let Some((last, _)) = rows.last() else { break };
            after = *last;
            for (seq, row) in rows {
                let claim = out.remove(&seq);
                let (place, delivery) = of_row(seq, row, claim);
                lowest.offer(place, delivery);
            }
        }
        for (claim, lease_until) in out.into_values() {
            let (place, delivery) = of_claim(claim, lease_until, None);
            lowest.offer(place, delivery);
        }
        let (found, has_more) = lowest.finish();
        let next = found.last().map(|(place, _)| *place).or(query.after);
        let items = found.into_iter().map(|(place, delivery)| self.delivery_json(place, delivery));
        let items = items.collect::<Result<_, _>>()?;
        Ok(Page { items, next: next.map(DeliveryPlace::to_cursor).unwrap_or_default(), has_more })
    }

    fn delivery_json(&self, place: DeliveryPlace, delivery: Delivery) -> Result<Value, Problem> {
        // None when retention has dropped the event meanwhile.
        let event = self.inner.engine.get(place.seq).map_err(|error| store_problem(&error))?;
        let meta = event.as_ref().map(|event| &event.meta);
        let Delivery { status, attempts, row } = delivery;
        let time = |time: Option<UnixMs>| time.map(UnixMs::to_rfc3339);
        Ok(json!({
            "seq": place.seq.0,
            "event_id": meta.map(|meta| &meta.id),
            "type": meta.map(|meta| &meta.event_type),
            "org": meta.map(|meta| &meta.org),
            "status": status.as_str(),
            "waits_behind_key": status == DeliveryStatus::Pending,
            "attempts": attempts,
            "due_at": time(place.due_at()),
            "first_attempt": time(row.as_ref().and_then(|row| row.first_attempt)),
            "last_attempt": time(row.as_ref().and_then(|row| row.last_attempt)),
            "last_error": row.and_then(|row| row.last_error),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::ids::Epoch;

    const ALL: DeliveryQuery =
        DeliveryQuery { status: None, due_before: None, due_after: None, after: None, limit: 1_000 };

    fn row(state: RowState) -> RowRecord {
        RowRecord {
            state,
            attempts: 2,
            key: 0,
            epoch: 1,
            first_attempt: None,
            last_attempt: None,
            last_error: None,
            replay: None,
        }
    }

    /// Rows 1 to 20: every fifth is held, every seventh is out, the others are due in threes at a time, later ones sooner.
    fn list(query: &DeliveryQuery) -> (Vec<(u64, &'static str)>, bool, Option<DeliveryPlace>) {
        let mut lowest = Lowest { query, found: BTreeMap::new() };
        for seq in 1..=20 {
            let state = match seq % 5 {
                0 => RowState::Held,
                _ => RowState::Retry { due_at: UnixMs(1_000 - seq / 3) },
            };
            let claim = Claim { seq: Seq(seq), epoch: Epoch(1), attempt: 3 };
            let out = (seq % 7 == 0).then_some((claim, UnixMs(500)));
            let (place, delivery) = of_row(Seq(seq), row(state), out);
            lowest.offer(place, delivery);
        }
        let (found, has_more) = lowest.finish();
        let last = found.last().map(|(place, _)| *place);
        (found.iter().map(|(place, one)| (place.seq.0, one.status.as_str())).collect(), has_more, last)
    }

    #[test]
    fn the_list_goes_by_due_time_then_position_and_ends_with_what_has_no_due_time() {
        let (all, has_more, _) = list(&ALL);
        let seqs: Vec<u64> = all.iter().map(|(seq, _)| *seq).collect();
        assert_eq!(seqs, [7, 14, 18, 19, 16, 17, 12, 13, 9, 11, 6, 8, 3, 4, 1, 2, 5, 10, 15, 20]);
        assert!(!has_more);
        assert_eq!((all[0].1, all[2].1, all[19].1), ("processing", "failed", "pending"));
    }

    #[test]
    fn pages_of_any_size_show_each_delivery_once_and_in_order() {
        let (all, _, _) = list(&ALL);
        for limit in 1..=21 {
            let (mut pages, mut query) = (Vec::new(), DeliveryQuery { limit, ..ALL });
            loop {
                let (page, has_more, last) = list(&query);
                assert!(page.len() == limit || !has_more);
                pages.extend(page);
                let Some(last) = last.filter(|_| has_more) else { break };
                let read = DeliveryPlace::from_cursor(&last.to_cursor()).expect("our own");
                assert_eq!(read, last);
                query.after = Some(read);
            }
            assert_eq!(pages, all, "pages of {limit}");
        }
    }

    #[test]
    fn status_and_due_time_narrow_and_what_has_no_due_time_is_not_due() {
        let seqs = |query: DeliveryQuery| list(&query).0.into_iter().map(|(seq, _)| seq).collect::<Vec<_>>();
        assert_eq!(seqs(DeliveryQuery { status: Some(DeliveryStatus::Pending), ..ALL }), [5, 10, 15, 20]);
        assert_eq!(seqs(DeliveryQuery { status: Some(DeliveryStatus::Processing), ..ALL }), [7, 14]);
        assert_eq!(seqs(DeliveryQuery { due_before: Some(UnixMs(995)), ..ALL }), [7, 14, 18, 19]);
        assert_eq!(seqs(DeliveryQuery { due_after: Some(UnixMs(998)), ..ALL }), [3, 4, 1, 2]);
        let between = DeliveryQuery { due_after: Some(UnixMs(994)), due_before: Some(UnixMs(996)), ..ALL };
        assert_eq!(seqs(between), [16, 17]);
        assert_eq!(seqs(DeliveryQuery { status: Some(DeliveryStatus::Pending), ..between }), [0_u64; 0]);
    }

    #[test]
    fn no_more_than_a_page_and_one_is_kept() {
        let query = DeliveryQuery { limit: 3, ..ALL };
        let mut lowest = Lowest { query: &query, found: BTreeMap::new() };
        for seq in 1..=1_000 {
            let (place, delivery) = of_row(Seq(seq), row(RowState::Held), None);
            lowest.offer(place, delivery);
            assert!(lowest.found.len() <= 4);
        }
    }

    #[test]
    fn a_cursor_of_another_list_and_an_unknown_status_are_refused_by_name() {
        for text in ["", "x", "1", "1.", ".1", "1.2.3", "-1.2", "99999999999999999999.1"] {
            let problem = DeliveryPlace::from_cursor(text).expect_err(text);
            assert_eq!(problem.field.as_deref(), Some("cursor"));
        }
        let problem = DeliveryStatus::parse("held").expect_err("no status");
        assert_eq!(problem.field.as_deref(), Some("status"));
        assert_eq!(problem.limit.as_deref(), Some("one of pending, processing, failed"));
    }
}
