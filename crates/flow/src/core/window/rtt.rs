//! The round trip: the least that PINGs took, until they all take longer, and credit with them.

use std::time::Duration;

/// Rounds in a row that have to disagree before a minimum is given up.
const DOUBTS: u8 = 2;

/// The shortest round trip of the present path.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RoundTrip {
    least: Option<Duration>,
    /// The least of the rounds that took clearly longer, since one did not.
    longer: Option<Duration>,
    doubts: u8,
    /// When the first of them left, or else the last round did.
    left: Duration,
    /// The least that credit took which was given since then.
    credit: Option<Duration>,
}

impl RoundTrip {
    pub(super) fn get(&self) -> Option<Duration> {
        self.least
    }

    /// Whether the last round took longer than it should: another one will tell.
    pub(super) fn is_doubted(&self) -> bool {
        self.doubts > 0
    }

    /// Whether our own bytes may be why a round took so long; `queue` is how long they may have kept it, if they could.
    pub(super) fn is_explained(&self, took: Duration, queue: Option<Duration>) -> bool {
        queue.is_some_and(|queue| took <= queue * 5 / 4)
    }

    /// A better minimum, or what the path is when nothing queues.
    pub(super) fn is(&mut self, took: Duration) {
        self.least = Some(took);
        (self.longer, self.doubts) = (None, 0);
    }

    /// A round leaves.
    pub(super) fn leaves(&mut self, now: Duration) {
        if self.doubts == 0 {
            (self.left, self.credit) = (now, None);
        }
    }

    /// Credit that was given at `since` has been used, so the path was no longer than `took`.
    pub(super) fn credit_used(&mut self, since: Duration, took: Duration) {
        if since >= self.left {
            self.credit = Some(self.credit.map_or(took, |least| least.min(took)));
        }
    }

    /// Takes a round. `queue` is how long our own bytes may have kept it, if they could. Whether the round trip has
    /// changed by a quarter or more.
    pub(super) fn sample(&mut self, took: Duration, queue: Option<Duration>) -> bool {
        let Some(least) = self.least else {
            self.is(took);
            return true;
        };
        if took <= least {
            self.is(took);
            return took < least * 3 / 4;
        }
        // Credit that came back sooner meanwhile shows that these were late, and the path is as it was.
        let longer = [self.longer, self.credit]
            .into_iter()
            .flatten()
            .fold(took, Duration::min);
        if longer <= least * 5 / 4 || self.is_explained(took, queue) {
            (self.longer, self.doubts) = (None, 0);
            return false;
        }
        self.doubts += 1;
        if self.doubts < DOUBTS {
            self.longer = Some(longer);
            return false;
        }
        self.is(longer);
        true
    }
}
