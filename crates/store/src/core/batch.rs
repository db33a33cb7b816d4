//! The seam between the engine and its watchers.
//!
//! The engine hands every commit to the watch hub as an `Arc<Batch>`; a watcher that lags reads
//! [`History`] instead. Both show the same events in the same order, so a watcher can change from one to
//! the other at any revision.

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::error::Error;
use crate::types::{Event, Revision};

/// What makes a batch's events when somebody first wants them.
type MakeEvents = Box<dyn Fn() -> Vec<Arc<Event>> + Send + Sync>;

/// One commit: the events of one or more whole revisions.
pub(crate) struct Batch {
    /// The first revision in it.
    pub(crate) first: Revision,
    /// The last revision in it. Revisions in between are all in the batch.
    pub(crate) last: Revision,
    events: OnceLock<Vec<Arc<Event>>>,
    make: Option<MakeEvents>,
}

impl Batch {
    /// A batch whose events exist already.
    #[allow(dead_code, reason = "used by the tests of the watch hub")]
    pub(crate) fn ready(first: Revision, last: Revision, events: Vec<Arc<Event>>) -> Self {
        Self {
            first,
            last,
            events: OnceLock::from(events),
            make: None,
        }
    }

    /// A batch whose events are made on first use: never, when nobody watches, and otherwise on the
    /// thread that dispatches them rather than on the one that commits.
    #[allow(dead_code, reason = "used by the sequencer")]
    pub(crate) fn deferred(first: Revision, last: Revision, make: MakeEvents) -> Self {
        Self {
            first,
            last,
            events: OnceLock::new(),
            make: Some(make),
        }
    }

    /// The events in order; all of one revision are adjacent, in the order of their operations.
    ///
    /// May read the previous values from disk on the first call, so it belongs on the dispatcher.
    #[allow(dead_code, reason = "used by the watch hub")]
    pub(crate) fn events(&self) -> &[Arc<Event>] {
        self.events
            .get_or_init(|| self.make.as_ref().map_or_else(Vec::new, |make| make()))
    }
}

impl Batch {
    /// Whether somebody has asked for its events.
    pub(crate) fn is_made(&self) -> bool {
        self.events.get().is_some()
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({}..={})", self.first, self.last)
    }
}

/// Everything that has been committed and not compacted.
#[allow(dead_code, reason = "called by the watch hub")]
pub(crate) trait History: Send + Sync {
    /// The newest revision that can be read; everything up to it is durable.
    fn committed(&self) -> Revision;

    /// The compaction floor: events at or above it can be read. -1 before the first compaction.
    fn floor(&self) -> i64;

    /// The events from `from` on, in order.
    ///
    /// Gives whole revisions only, about `bytes_max` bytes of them but at least one revision, and the
    /// revision to go on with. `from` above [`History::committed`] gives nothing and `from` itself.
    /// With `prev_kv` the previous versions are filled in where compaction has left them; without it
    /// they may be there or not.
    ///
    /// # Errors
    /// [`Error::Compacted`] when `from` is below the floor, [`Error::Read`] when the log cannot be read.
    fn read(
        &self,
        from: Revision,
        bytes_max: usize,
        prev_kv: bool,
    ) -> Result<(Vec<Arc<Event>>, Revision), Error>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn deferred_events_are_made_once_and_only_on_demand() {
        let made = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&made);
        let batch = Batch::deferred(
            Revision(2),
            Revision(3),
            Box::new(move || {
                counter.fetch_add(1, Ordering::Relaxed);
                Vec::new()
            }),
        );
        assert_eq!(made.load(Ordering::Relaxed), 0);
        assert!(batch.events().is_empty() && batch.events().is_empty());
        assert_eq!(made.load(Ordering::Relaxed), 1);
    }
}
