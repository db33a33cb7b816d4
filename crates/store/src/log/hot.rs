//! The newest part of the log, in memory: the buffers that were written are the copy that is read.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use crate::core::batch::Batch;
use crate::core::index::Location;
use crate::types::{Event, Revision};

/// Bytes of an event that was made from a commit, beside key and value.
const EVENT_COST: usize = 384;

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
}

#[derive(Default)]
struct Inner {
    /// In the order of the log; file numbers only grow.
    batches: VecDeque<HotBatch>,
    /// Those of them that have events.
    eventful: VecDeque<Arc<Batch>>,
    bytes: usize,
}

/// The last commits, up to a number of bytes.
pub(crate) struct Hot {
    inner: RwLock<Inner>,
    bytes_max: usize,
}

impl Hot {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            inner: RwLock::default(),
            bytes_max,
        }
    }

    /// Adds a commit and lets the oldest go. The newest always stays.
    pub(crate) fn push(&self, batch: HotBatch) {
        let mut old = Vec::new();
        let mut inner = self.inner.write();
        inner.bytes += cost(&batch);
        inner.eventful.extend(batch.batch.clone());
        inner.batches.push_back(batch);
        while inner.bytes > self.bytes_max && inner.batches.len() > 1 {
            let Some(oldest) = inner.batches.pop_front() else {
                break;
            };
            inner.bytes -= cost(&oldest);
            if oldest.batch.is_some() {
                inner.eventful.pop_front();
            }
            old.push(oldest);
        }
        drop(inner);
        // Freed outside the lock.
        drop(old);
    }

    /// The bytes at a place, if they are in memory.
    pub(crate) fn get(&self, at: Location) -> Option<Bytes> {
        let inner = self.inner.read();
        let n = inner
            .batches
            .partition_point(|batch| (batch.file, batch.start) <= (at.file, at.offset));
        let batch = inner.batches.get(n.checked_sub(1)?)?;
        let from = (at.offset - batch.start.min(at.offset)) as usize;
        let to = from + at.len as usize;
        (batch.file == at.file && to <= batch.bytes.len()).then(|| batch.bytes.slice(from..to))
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
            let n = inner.eventful.partition_point(|batch| batch.last < from);
            if inner.eventful.front().is_none_or(|first| first.first > from) {
                return None;
            }
            // A batch is cut below; what is taken here only bounds how long the lock is held.
            batches.extend(inner.eventful.range(n..).take(256).cloned());
        }
        cut(&batches, from, until, bytes_max)
    }
}

fn cost(batch: &HotBatch) -> usize {
    batch.bytes.len() + 256 + batch.events * EVENT_COST
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
