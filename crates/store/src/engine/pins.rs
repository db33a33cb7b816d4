//! Revisions that readers are in the middle of.
//!
//! What a reader of a compacted revision still sees is not pruned until it is done. One whose client takes the answer
//! bit by bit is given a time for that: without one a client that takes a byte now and then would have everything kept
//! that is overwritten meanwhile, until there is no space. When its time is over, what it sees may be pruned, and from then
//! on it is told that its revision is compacted. A snapshot has all the time it takes: it is what a disaster is survived
//! with, and two of them at most are made at a time.

use std::collections::BTreeMap;
use std::ops::Deref;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::shared::Shared;
use crate::error::Error;
use crate::types::Revision;

/// Who holds what.
#[derive(Debug, Default)]
pub(crate) struct Pins(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    /// By revision, and a number of its own: until when, if not to its end.
    pins: BTreeMap<(i64, u64), Option<Instant>>,
    next: u64,
    /// Versions that no read at this revision sees may be gone.
    pruned: i64,
}

impl Pins {
    fn hold(&self, revision: i64, until: Option<Instant>) -> u64 {
        let mut held = self.0.lock();
        held.next += 1;
        let number = held.next;
        held.pins.insert((revision, number), until);
        number
    }

    /// How far may be pruned now, `floor` at most. It is then taken to be pruned.
    pub(super) fn prunable(&self, floor: i64, now: Instant) -> i64 {
        let mut held = self.0.lock();
        let prunable = held.prunable(floor, now);
        held.pruned = held.pruned.max(prunable);
        prunable
    }

    /// As [`Pins::prunable`], for somebody who wants to know whether there is something to do.
    pub(super) fn would_be_prunable(&self, floor: i64, now: Instant) -> i64 {
        self.0.lock().prunable(floor, now)
    }

    /// Whether some of what a read at `revision` sees may be gone.
    fn is_pruned(&self, revision: i64) -> bool {
        revision < self.0.lock().pruned
    }
}

impl Held {
    fn prunable(&self, floor: i64, now: Instant) -> i64 {
        let mut holding = self
            .pins
            .iter()
            .filter(|(_, until)| until.is_none_or(|until| now < until));
        holding
            .next()
            .map_or(floor, |(&(oldest, _), _)| floor.min(oldest))
    }
}

/// See [`Shared::pin`].
pub(crate) struct Pin<S: Deref<Target = Shared>> {
    shared: S,
    revision: i64,
    number: u64,
}

impl<S: Deref<Target = Shared>> Pin<S> {
    /// Keeps what a read at `revision` sees from being pruned, for good or until then.
    pub(super) fn new(shared: S, revision: i64, until: Option<Instant>) -> Self {
        let number = shared.pins.hold(revision, until);
        Self {
            shared,
            revision,
            number,
        }
    }

    pub(crate) fn shared(&self) -> &S {
        &self.shared
    }

    pub(crate) fn revision(&self) -> i64 {
        self.revision
    }

    /// Whether all that it was to keep is still there. To be asked under the lock of the index under which it is looked
    /// at.
    ///
    /// # Errors
    /// [`Error::Compacted`] when its time was over and some of it may be gone.
    pub(super) fn check(&self) -> Result<(), Error> {
        if !self.shared.pins.is_pruned(self.revision) {
            return Ok(());
        }
        self.shared.metrics.reads_outlived.inc();
        Err(Error::Compacted {
            asked: Revision(self.revision),
            floor: Revision(self.shared.floor()),
        })
    }
}

impl<S: Deref<Target = Shared>> Drop for Pin<S> {
    fn drop(&mut self) {
        self.shared
            .pins
            .0
            .lock()
            .pins
            .remove(&(self.revision, self.number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_read_holds_history_until_its_time_is_over_and_a_snapshot_to_its_end() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let pins = Pins::default();
        assert_eq!(pins.prunable(5, at(0)), 5);
        pins.hold(7, Some(at(60)));
        pins.hold(9, Some(at(90)));
        let snapshot = pins.hold(12, None);
        assert_eq!(pins.prunable(20, at(59)), 7);
        assert!(!pins.is_pruned(7));
        assert_eq!(pins.prunable(20, at(60)), 9);
        assert!(pins.is_pruned(7) && !pins.is_pruned(9));
        assert_eq!(pins.prunable(20, at(90)), 12);
        assert_eq!(pins.prunable(20, at(9_000)), 12);
        pins.0.lock().pins.remove(&(12, snapshot));
        assert_eq!(pins.prunable(20, at(9_000)), 20);
        assert!(pins.is_pruned(12) && !pins.is_pruned(20));
    }
}
