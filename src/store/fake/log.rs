//! The log in memory.

use std::sync::Arc;

use super::{Call, Content, FakeStore};
use crate::event::envelope::Event;
use crate::event::parse::same_json;
use crate::ground::ids::Seq;
use crate::store::log_record::Prepared;
use crate::store::{AppendUnit, Appended, DroppedSegment, EventLog, ReadLimits, SegmentInfo, StoreError};

impl Content {
    fn append(&mut self, unit: AppendUnit, segment_events: u64) -> Vec<Appended> {
        let before = unit.atomic.then(|| self.clone());
        let answers: Vec<Appended> =
            unit.events.into_iter().map(|event| self.append_one(event, segment_events)).collect();
        let conflict = answers.iter().any(|answer| matches!(answer, Appended::Conflict(_)));
        let Some(before) = before.filter(|_| conflict) else { return answers };
        *self = before;
        let withheld = |answer| match answer {
            Appended::Conflict(seq) => Appended::Conflict(seq),
            Appended::New(_) | Appended::Duplicate(_) | Appended::Withheld => Appended::Withheld,
        };
        answers.into_iter().map(withheld).collect()
    }

    fn append_one(&mut self, event: Prepared, segment_events: u64) -> Appended {
        let key = (event.meta.org.clone(), event.meta.id.clone());
        if let Some((seq, there)) = self.ids.get(&key).and_then(|seq| Some((*seq, self.events.get(seq)?))) {
            return if same_json(&there.body, event.body()) {
                Appended::Duplicate(seq)
            } else {
                Appended::Conflict(seq)
            };
        }
        self.head = self.head.next();
        let full = self.segments.last().is_none_or(|first| self.head.0 - first.0 >= segment_events);
        if full {
            self.segments.push(self.head);
        }
        self.ids.insert(key, self.head);
        let event = event.into_event(self.head);
        self.events.insert(self.head, Arc::clone(&event));
        Appended::New(event)
    }

    fn earliest(&self) -> Seq {
        self.segments.first().copied().unwrap_or(self.head.next())
    }

    fn infos(&self) -> Vec<SegmentInfo> {
        let last_of = |at: usize| self.segments.get(at + 1).map_or(self.head, |next| next.prev());
        let info = |(at, first): (usize, &Seq)| {
            let held = || self.events.range(*first..=last_of(at)).map(|(_, event)| event);
            SegmentInfo {
                first: *first,
                last: last_of(at),
                bytes: held().map(|event| event.body.len() as u64).sum(),
                newest_ms: held().map(|event| event.received_at.0).max().unwrap_or(0),
            }
        };
        self.segments.iter().enumerate().map(info).collect()
    }
}

impl EventLog for FakeStore {
    fn append(&self, group: Vec<AppendUnit>) -> Result<Vec<Vec<Appended>>, StoreError> {
        self.write(Call::Append, |content| {
            Ok(group.into_iter().map(|unit| content.append(unit, self.segment_events)).collect())
        })
    }

    fn read(&self, from: Seq, limits: ReadLimits) -> Result<Vec<Arc<Event>>, StoreError> {
        let read = self.write(Call::Read, |content| {
            let (mut out, mut bytes) = (Vec::new(), 0);
            for (seq, event) in content.events.range(from..) {
                if *seq > limits.upto {
                    break;
                }
                bytes += event.body.len();
                out.push(Arc::clone(event));
                if out.len() >= limits.events || bytes >= limits.bytes {
                    break;
                }
            }
            Ok(out)
        });
        read.inspect(|events| self.state.lock().events_read += events.len())
    }

    fn get(&self, seq: Seq) -> Result<Option<Arc<Event>>, StoreError> {
        self.look(|content| content.events.get(&seq).cloned())
    }

    fn find(&self, org: &str, id: &str) -> Result<Option<Seq>, StoreError> {
        self.look(|content| content.ids.get(&(org.to_owned(), id.to_owned())).copied())
    }

    fn find_all(&self, id: &str, limit: usize) -> Result<Vec<Seq>, StoreError> {
        self.look(|content| {
            let mut found: Vec<Seq> =
                content.ids.iter().filter(|((_, one), _)| one == id).map(|(_, seq)| *seq).collect();
            found.sort_unstable_by(|a, b| b.cmp(a));
            found.truncate(limit);
            found
        })
    }

    fn head(&self) -> Seq {
        self.state.lock().content.head
    }

    fn earliest(&self) -> Seq {
        self.state.lock().content.earliest()
    }

    fn truncate(&self, before: Seq) -> Result<Vec<DroppedSegment>, StoreError> {
        self.write(Call::Commit, |content| {
            let infos = content.infos();
            let full = &infos[..infos.len().saturating_sub(1)];
            let gone: Vec<SegmentInfo> = full.iter().take_while(|one| one.last < before).copied().collect();
            content.segments.drain(..gone.len());
            let earliest = content.earliest();
            content.events.retain(|seq, _| *seq >= earliest);
            content.ids.retain(|_, seq| *seq >= earliest);
            Ok(gone.into_iter().map(|one| DroppedSegment { first: one.first, last: one.last }).collect())
        })
    }

    fn segments(&self) -> Vec<SegmentInfo> {
        self.state.lock().content.infos()
    }
}
