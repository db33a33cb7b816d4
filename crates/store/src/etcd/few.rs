//! Room for answers of few keys that wait for their clients.
//!
//! They are refused when there is none, as nobody waits for it. A connection always has an eighth of the room, and beyond that
//! no more than it leaves to others, as with requests that [arrive](super::arriving): one that takes nothing of what it asks
//! for is refused before others are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::arriving::exceeded;
use super::room::{Held, Share};

/// The room for answers of few keys, in bytes.
pub(super) struct Few {
    bytes_max: usize,
    taken: Arc<AtomicUsize>,
}

impl Few {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            taken: Arc::default(),
        }
    }

    /// Room for an answer of one connection, if there is some. One may be larger than all there is, if it is alone.
    pub(super) fn take(&self, share: &Share, bytes: usize) -> Option<OfFew> {
        let bytes = bytes.min(self.bytes_max);
        let of_one = bytes + share.few.fetch_add(bytes, Ordering::Relaxed);
        let all = bytes + self.taken.fetch_add(bytes, Ordering::Relaxed);
        let taken = OfFew {
            share: Arc::clone(share),
            taken: Arc::clone(&self.taken),
            bytes,
        };
        exceeded(of_one, all, self.bytes_max, bytes)
            .is_none()
            .then_some(taken)
    }
}

/// Some of the room, until it is dropped.
pub(super) struct OfFew {
    share: Share,
    taken: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for OfFew {
    fn drop(&mut self) {
        self.share.few.fetch_sub(self.bytes, Ordering::Relaxed);
        self.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The room that an answer has until it has been sent.
#[derive(Default)]
pub(super) enum Hold {
    /// It needs none.
    #[default]
    Nothing,
    /// Among those of few keys.
    Few(#[expect(dead_code, reason = "it is given back when it is dropped")] OfFew),
    /// Among the wide ones.
    Wide(#[expect(dead_code, reason = "it is given back when it is dropped")] Held),
}

#[cfg(test)]
mod tests {
    use super::super::room::Room;
    use super::*;

    #[test]
    fn a_connection_that_takes_nothing_is_refused_before_others_are() {
        let (room, few) = (Room::new(1 << 20), Few::new(800));
        let (greedy, other, third) = (room.share(), room.share(), room.share());
        let mut kept: Vec<_> = std::iter::from_fn(|| few.take(&greedy, 50)).collect();
        assert_eq!(kept.len(), 8, "alone it may have half");
        let others: Vec<_> = std::iter::from_fn(|| few.take(&other, 50)).collect();
        assert_eq!(others.len(), 4, "half of what it left");
        assert!(few.take(&third, 100).is_some(), "an eighth in any case");
        kept.clear();
        assert!(few.take(&other, 50).is_some(), "what was given back");
        drop(others);
        assert_eq!(few.taken.load(Ordering::Relaxed), 0);
        assert!(few.take(&third, 5_000).is_some(), "one alone, however large");
    }
}
