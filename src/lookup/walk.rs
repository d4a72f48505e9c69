//! Reading along the index: the events of a stretch of the log that fit, with bounds on what is read for them, and what
//! retention has dropped told as a gap.

use std::sync::Arc;

use super::search::Finder;
use super::wanted::Wanted;
use crate::event::envelope::Event;
use crate::ground::ids::Seq;
use crate::store::{EventLog, ReadLimits, StoreError};

/// Events read at once, when more than one is wanted.
const READ_EVENTS: usize = 256;

/// Bytes of bodies read at once.
const READ_BYTES: usize = 8 << 20;

/// How much one walk may do. At least one event is looked at when there is one.
#[derive(Clone, Copy, Debug)]
pub struct WalkLimits {
    /// Most events that fit.
    pub found: usize,
    /// Most events read.
    pub events: usize,
    /// Most bytes of bodies read.
    pub bytes: usize,
    /// Most rows of the index looked at.
    pub rows: usize,
}

/// What a walk has found.
#[derive(Debug)]
pub struct Walked {
    /// The events that fit, in order.
    pub events: Vec<Arc<Event>>,
    /// Everything up to here was looked at.
    pub upto: Seq,
    /// Positions that retention has dropped: from where the walk began up to this one, exclusive.
    pub gap_to: Option<Seq>,
}

/// What a walk may still do.
struct Room {
    found: usize,
    events: usize,
    bytes: usize,
}

impl Room {
    fn is_left(&self) -> bool {
        self.found > 0 && self.events > 0 && self.bytes > 0
    }
}

impl Finder {
    /// Looks at the log from `from` to at most `upto`, along its index. `wanted` must not leave out what `fits`. Blocks.
    ///
    /// # Errors
    /// When the store fails or a record is damaged.
    pub fn walk(
        &self,
        wanted: Wanted,
        from: Seq,
        upto: Seq,
        limits: WalkLimits,
        mut fits: impl FnMut(&Event) -> bool,
    ) -> Result<Walked, StoreError> {
        let log = self.log();
        let upto = upto.min(log.head());
        let start = from.max(log.earliest());
        let gap_to = (start > from).then_some(start);
        let mut walked = Walked { events: Vec::new(), upto: start.prev(), gap_to };
        let mut room = Room { found: limits.found, events: limits.events, bytes: limits.bytes };
        let mut search = self.search(wanted, start, upto);
        while room.is_left() && search.probes() < limits.rows {
            let Some(stretch) = search.next_stretch()? else { break };
            for span in stretch.spans {
                let mut at = span.from;
                while at <= span.upto {
                    if !room.is_left() {
                        return Ok(walked);
                    }
                    // A span is candidates, so about as many are read as may still fit.
                    let events = room.events.min(READ_EVENTS).min(room.found.saturating_add(1));
                    let events =
                        log.read(at, ReadLimits { events, bytes: room.bytes.min(READ_BYTES), upto: span.upto })?;
                    if events.first().is_none_or(|first| first.seq != at) {
                        // Retention has gone on meanwhile. What was found so far comes first; the next walk begins with
                        // the gap.
                        if at == start {
                            return gap(&**log, start, upto);
                        }
                        walked.upto = at.prev();
                        return Ok(walked);
                    }
                    for event in events {
                        if !room.is_left() {
                            return Ok(walked);
                        }
                        walked.upto = event.seq;
                        at = event.seq.next();
                        room.events -= 1;
                        room.bytes = room.bytes.saturating_sub(event.body.len());
                        if fits(&event) {
                            room.found -= 1;
                            walked.events.push(event);
                        }
                    }
                }
            }
            walked.upto = stretch.upto;
        }
        Ok(walked)
    }
}

/// The positions from `start` on are gone; those up to the first event that is still there are a gap.
fn gap(log: &dyn EventLog, start: Seq, upto: Seq) -> Result<Walked, StoreError> {
    let first = log.read(start, ReadLimits { events: 1, bytes: 1, upto: log.head() })?;
    let gap_to = first.first().map_or(upto.next(), |first| first.seq.min(upto.next()));
    Ok(Walked { events: Vec::new(), upto: gap_to.prev(), gap_to: Some(gap_to) })
}
