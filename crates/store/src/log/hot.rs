//! The newest part of the log, in memory: the buffers that were written are the copy that is read.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{RwLock, RwLockReadGuard};

use crate::core::batch::Batch;
use crate::core::index::Location;
use crate::types::{Event, Revision};

/// Bytes of an event that was made from a commit, beside key and value.
const EVENT_COST: usize = 384;
/// Bytes of a commit beside what was written, and of what it keeps for each event that overwrites something.
const BATCH_COST: usize = 256;
const PREV_COST: usize = 64;
/// Bytes that the newest commits give up for each key of the index, down to [`least`]: with many keys the memory of the
/// store is the index's.
const KEY_COST: u64 = 24;
/// Commits whose events are looked at together.
const LOOK: usize = 256;

/// One commit as it was written.
pub(crate) struct HotBatch {
    /// Number of the file it is in.
    pub(crate) file: u32,
    /// Where it begins there.
    pub(crate) start: u32,
    pub(crate) bytes: Bytes,
    /// Its events, if it has any.
    pub(crate) batch: Option<Arc<Batch>>,
    /// How many.
    pub(crate) events: usize,
    /// How many of them overwrite something.
    pub(crate) prevs: usize,
    /// Whether somebody will want its events now.
    pub(crate) watched: bool,
}

#[derive(Default)]
struct Inner {
    /// In the order of the log; file numbers only grow.
    batches: VecDeque<HotBatch>,
    /// Where each begins, by itself: what is searched is small.
    starts: VecDeque<u64>,
    /// The events of those of them that have any.
    eventful: VecDeque<Eventful>,
    bytes: usize,
}

/// Events, which take memory only once they are made: as a rule, when somebody watches.
struct Eventful {
    batch: Arc<Batch>,
    events: usize,
    counted: bool,
}

/// The last commits, up to a number of bytes.
pub(crate) struct Hot {
    inner: RwLock<Inner>,
    bytes_max: usize,
    /// Keys in the index.
    keys: AtomicU64,
}

impl Hot {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            inner: RwLock::default(),
            bytes_max,
            keys: AtomicU64::new(0),
        }
    }

    /// Says how many keys there are in the index.
    pub(crate) fn beside(&self, keys: u64) {
        self.keys.store(keys, Ordering::Relaxed);
    }

    /// What all commits may take now.
    fn room(&self) -> usize {
        let given = self.keys.load(Ordering::Relaxed).saturating_mul(KEY_COST);
        let given = usize::try_from(given).unwrap_or(usize::MAX);
        self.bytes_max.saturating_sub(given).max(least(self.bytes_max))
    }

    /// Adds a commit and lets the oldest go. The newest always stays.
    pub(crate) fn push(&self, batch: HotBatch) {
        let mut inner = self.inner.write();
        inner.bytes += cost(&batch);
        if let Some(events) = &batch.batch {
            let events = Eventful {
                batch: Arc::clone(events),
                events: batch.events,
                counted: batch.watched,
            };
            inner.bytes += events.cost();
            inner.eventful.push_back(events);
        }
        inner.starts.push_back(place(batch.file, batch.start));
        inner.batches.push_back(batch);
        let old = inner.forget(self.room());
        drop(inner);
        // Freed outside the lock.
        drop(old);
    }

    /// The bytes at a place, if they are in memory.
    pub(crate) fn get(&self, at: Location) -> Option<Bytes> {
        let inner = self.inner.read();
        let (whole, part) = inner.find(at)?;
        Some(whole.slice(part))
    }

    /// For many looks at one moment. Short ones: commits wait meanwhile.
    pub(crate) fn read(&self) -> HotRead<'_> {
        HotRead(self.inner.read())
    }

    /// Events from `from` on, if everything from there is in memory; see
    /// [`History::read`](crate::core::batch::History::read).
    pub(crate) fn events(
        &self,
        from: Revision,
        until: Revision,
        bytes_max: usize,
    ) -> Option<(Vec<Arc<Event>>, Revision)> {
        let mut batches = Vec::new();
        {
            let inner = self.inner.read();
            if inner
                .eventful
                .front()
                .is_none_or(|first| first.batch.first > from)
            {
                return None;
            }
            // A batch is cut below; what is taken here only bounds how long the lock is held.
            let found = inner.eventful.range(inner.at(from)..).take(LOOK);
            batches.extend(found.map(|events| Arc::clone(&events.batch)));
        }
        let made = batches.iter().any(|batch| !batch.is_made());
        let events = cut(&batches, from, until, bytes_max);
        if made {
            self.count_made(from);
        }
        events
    }

    /// Counts events from `from` on that have been made since they were looked at.
    fn count_made(&self, from: Revision) {
        let mut inner = self.inner.write();
        let n = inner.at(from);
        let mut more = 0;
        for events in inner.eventful.range_mut(n..).take(LOOK) {
            if !events.counted && events.batch.is_made() {
                events.counted = true;
                more += events.cost();
            }
        }
        inner.bytes += more;
        let old = inner.forget(self.room());
        drop(inner);
        drop(old);
    }
}

/// See [`Hot::read`].
pub(crate) struct HotRead<'a>(RwLockReadGuard<'a, Inner>);

impl HotRead<'_> {
    /// The commit that holds a place, and which part of it that is, if it is in memory.
    pub(crate) fn find(&self, at: Location) -> Option<(&Bytes, Range<usize>)> {
        self.0.find(at)
    }
}

impl Inner {
    fn find(&self, at: Location) -> Option<(&Bytes, Range<usize>)> {
        let place = place(at.file, at.offset);
        let n = self.starts.partition_point(|start| *start <= place);
        let batch = self.batches.get(n.checked_sub(1)?)?;
        let from = (at.offset - batch.start.min(at.offset)) as usize;
        let to = from + at.len as usize;
        (batch.file == at.file && to <= batch.bytes.len()).then_some((&batch.bytes, from..to))
    }

    /// Where the events of a revision are, or would be.
    fn at(&self, revision: Revision) -> usize {
        self.eventful
            .partition_point(|events| events.batch.last < revision)
    }

    /// Lets the oldest go that are too much.
    fn forget(&mut self, bytes_max: usize) -> Vec<HotBatch> {
        let mut old = Vec::new();
        while self.bytes > bytes_max && self.batches.len() > 1 {
            let Some(oldest) = self.batches.pop_front() else {
                break;
            };
            self.starts.pop_front();
            self.bytes -= cost(&oldest);
            if oldest.batch.is_some()
                && let Some(events) = self.eventful.pop_front()
            {
                self.bytes -= events.cost();
            }
            old.push(oldest);
        }
        old
    }
}

impl Eventful {
    fn cost(&self) -> usize {
        if self.counted { self.events * EVENT_COST } else { 0 }
    }
}

/// What the newest commits may take however many keys there are.
fn least(bytes_max: usize) -> usize {
    bytes_max / 5 * 2
}

/// The order of the log in one number.
fn place(file: u32, offset: u32) -> u64 {
    u64::from(file) << 32 | u64::from(offset)
}

fn cost(batch: &HotBatch) -> usize {
    batch.bytes.len() + BATCH_COST + batch.prevs * PREV_COST
}

/// Whole revisions of the batches from `from` to `until`, about `bytes_max` bytes.
fn cut(
    batches: &[Arc<Batch>],
    from: Revision,
    until: Revision,
    bytes_max: usize,
) -> Option<(Vec<Arc<Event>>, Revision)> {
    let (mut events, mut bytes, mut next) = (Vec::new(), 0, from);
    for event in batches.iter().flat_map(|batch| batch.events()) {
        let revision = event.kv.mod_revision;
        if revision < from {
            continue;
        }
        if revision > until || (bytes >= bytes_max && revision >= next) {
            break;
        }
        next = revision.next();
        bytes += event.kv.key.len() + event.kv.value.len() + 64;
        events.push(Arc::clone(event));
    }
    (next > from).then_some((events, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(n: u32, bytes: usize, watched: bool) -> HotBatch {
        let revision = Revision(i64::from(n) + 2);
        let make = move || {
            vec![Arc::new(Event {
                kind: crate::types::EventKind::Put,
                kv: crate::core::select::kv(
                    Bytes::new(),
                    Bytes::new(),
                    &crate::core::index::Version {
                        modified: revision.0,
                        ..Default::default()
                    },
                ),
                prev_kv: None,
                trace: None,
                encoded: Default::default(),
            })]
        };
        HotBatch {
            file: 1,
            start: n * bytes as u32,
            bytes: vec![n as u8; bytes].into(),
            batch: Some(Arc::new(Batch::deferred(revision, revision, Box::new(make)))),
            events: 1,
            prevs: 0,
            watched,
        }
    }

    fn hot(watched: bool) -> Hot {
        let hot = Hot::new(100 * (1_000 + BATCH_COST));
        for n in 0..200 {
            hot.push(batch(n, 1_000, watched));
        }
        hot
    }

    fn kept(hot: &Hot) -> usize {
        let at = |n: u32| Location {
            file: 1,
            offset: n * 1_000 + 10,
            len: 20,
            crc: 0,
        };
        let kept = (0..200).filter(|n| {
            let found = hot.get(at(*n));
            assert!(found.iter().all(|bytes| bytes[..] == [*n as u8; 20]));
            found.is_some()
        });
        kept.count()
    }

    #[test]
    fn events_that_nobody_has_asked_for_take_no_room() {
        assert_eq!(kept(&hot(false)), 100);
        let watched = kept(&hot(true));
        assert_eq!(
            watched,
            100 * (1_000 + BATCH_COST) / (1_000 + BATCH_COST + EVENT_COST)
        );
    }

    #[test]
    fn many_keys_leave_less_room_but_some() {
        for (keys, expect) in [(0, 100), (100 * 1_256 / 24 / 4, 75), (u64::MAX, 40)] {
            let hot = hot(false);
            hot.beside(keys);
            hot.push(batch(200, 1_000, false));
            let kept = hot.inner.read().batches.len();
            assert!(kept.abs_diff(expect) <= 1, "{keys} keys: {kept}");
        }
    }

    #[test]
    fn events_that_were_made_for_a_late_reader_take_room_from_then_on() {
        let hot = hot(false);
        let read = |from| hot.events(Revision(from), Revision(1_000), usize::MAX);
        assert!(read(101).is_none(), "the first half is gone");
        let (events, next) = read(102).unwrap();
        assert_eq!((events.len(), next), (100, Revision(202)));
        let left = kept(&hot);
        assert!((70..80).contains(&left), "{left}");
        let (before, bytes) = (left, hot.inner.read().bytes);
        // Counted once.
        read(190).unwrap();
        assert_eq!((kept(&hot), hot.inner.read().bytes), (before, bytes));
        for n in 200..500 {
            hot.push(batch(n, 1_000, false));
        }
        let inner = hot.inner.read();
        assert_eq!(inner.bytes, inner.batches.iter().map(cost).sum::<usize>());
    }
}
