//! The recent past of one resource: what watches are served from.
//!
//! Bounded in events and bytes. A watch is a position in it; one that falls behind reads the store's
//! history and comes back ([`Ring::position`]), so that a full ring never cuts anybody off.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use setpoint_apimachinery::encoded::Encoded;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It came into being.
    Added,
    /// It has a new version.
    Modified,
    /// It is gone.
    Deleted,
}

impl Change {
    /// The `type` of a watch event.
    pub(crate) fn wire(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One change of one object, shared by every watch that sees it.
#[derive(Debug)]
pub(crate) struct CacheEvent {
    /// The revision of the write.
    pub(crate) revision: u64,
    /// What happened.
    pub(crate) change: Change,
    /// The object afterwards; of a deletion the last state, with the deletion's revision.
    pub(crate) object: Encoded,
    /// The object before, for selectors.
    pub(crate) prev: Option<Encoded>,
    /// The watch line in the common representations, made by the first watch that needs it:
    /// plain JSON, and JSON with the trace.
    pub(crate) lines: [OnceLock<Bytes>; 2],
}

impl CacheEvent {
    /// An event whose lines are not made yet.
    pub(crate) fn new(revision: u64, change: Change, object: Encoded, prev: Option<Encoded>) -> Self {
        Self {
            revision,
            change,
            object,
            prev,
            lines: [OnceLock::new(), OnceLock::new()],
        }
    }

    /// What it may cost in memory: the body and one line.
    fn cost(&self) -> usize {
        2 * self.object.json_len() + 256
    }
}

/// The bounded queue of events.
#[derive(Debug)]
pub(crate) struct Ring {
    events: VecDeque<Arc<CacheEvent>>,
    /// Sequence number of the first event kept.
    first: u64,
    /// All events above this revision are kept.
    floor: u64,
    bytes: usize,
    events_max: usize,
    bytes_max: usize,
}

impl Ring {
    /// An empty ring that knows everything after `floor`.
    pub(crate) fn new(floor: u64, events_max: usize, bytes_max: usize) -> Self {
        Self {
            events: VecDeque::new(),
            first: 0,
            floor,
            bytes: 0,
            events_max,
            bytes_max,
        }
    }

    /// Adds the newest event, drops the oldest ones over the bounds.
    pub(crate) fn push(&mut self, event: Arc<CacheEvent>) {
        self.bytes += event.cost();
        self.events.push_back(event);
        while self.events.len() > self.events_max || (self.bytes > self.bytes_max && self.events.len() > 1) {
            let Some(oldest) = self.events.pop_front() else {
                break;
            };
            self.bytes -= oldest.cost();
            self.floor = oldest.revision;
            self.first += 1;
        }
    }

    /// Forgets everything up to `floor`, because events in between were not seen.
    pub(crate) fn reset(&mut self, floor: u64) {
        self.first += self.events.len() as u64;
        self.events.clear();
        self.bytes = 0;
        self.floor = floor;
    }

    /// The sequence number after the newest event.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// The sequence number of the first event above `revision`; `None` when the ring no longer has them all.
    pub(crate) fn position(&self, revision: u64) -> Option<u64> {
        (revision >= self.floor)
            .then(|| self.first + self.events.partition_point(|event| event.revision <= revision) as u64)
    }

    /// At least one and at most about `max` events from a sequence number on, whole revisions only;
    /// `None` when the ring has dropped some of them.
    pub(crate) fn read(&self, from: u64, max: usize) -> Option<Vec<Arc<CacheEvent>>> {
        let start = usize::try_from(from.checked_sub(self.first)?).ok()?;
        let mut end = self.events.len().min(start.saturating_add(max));
        while end > start
            && end < self.events.len()
            && self.events[end].revision == self.events[end - 1].revision
        {
            end += 1;
        }
        Some(self.events.range(start.min(end)..end).cloned().collect())
    }
}
