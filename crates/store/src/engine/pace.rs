//! The pace of what goes on in the background: short turns, and a rest after each that is as long.
//!
//! Whoever computes without a pause keeps a core for milliseconds before the kernel gives it to a thread that woke up
//! meanwhile, and a disk that is given one piece after the other has commits wait behind each of them. So the work is done
//! in turns that nobody has to wait long for, and others have at least half of the time.
//!
//! Long readings on behalf of clients ([`Courtesy`]) do the same, but only beside writes: where nobody writes they are as
//! fast as they can be.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::shared::Shared;
use crate::point;

/// A turn that has lasted so long is over.
const TURN: Duration = Duration::from_micros(400);
/// The same of a reading: what it reads is written to its client by a thread that answers writers too.
const READING_TURN: Duration = Duration::from_micros(200);
/// A reading rests no longer than this at a time. Its turn counts from its last rest, and may have waited for its client.
const READING_REST_MAX: Duration = Duration::from_millis(1);

/// Turns and rests of one piece of work.
pub(super) struct Pace<'a> {
    shared: &'a Shared,
    began: Instant,
}

impl<'a> Pace<'a> {
    /// The first turn begins.
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            began: Instant::now(),
        }
    }

    /// Rests if the turn has lasted long enough. No lock may be held.
    pub(super) fn breathe(&mut self) {
        if self.began.elapsed() >= TURN {
            self.rest();
        }
    }

    /// Rests for as long as the turn has lasted; whether the store stops. Once it does, and while writes are refused
    /// until there is room on the disk, there are no rests.
    pub(super) fn rest(&mut self) -> bool {
        let hurry = self.shared.no_space.load(Ordering::Acquire);
        let rest = if hurry {
            Duration::ZERO
        } else {
            self.began.elapsed()
        };
        let stops = self.shared.stop.wait(rest);
        self.began = Instant::now();
        stops
    }
}

/// Turns of a long reading, which rests for as long as each has lasted while there are writes.
pub(crate) struct Courtesy {
    began: Instant,
    committed: i64,
}

impl Courtesy {
    /// The first turn begins.
    pub(crate) fn new(shared: &Shared) -> Self {
        Self {
            began: Instant::now(),
            committed: shared.committed(),
        }
    }

    /// Rests if the turn has lasted long enough and somebody has written meanwhile, or waits to. No lock may be held.
    pub(crate) fn breathe(&mut self, shared: &Shared) {
        // There is no time to share in a simulation, and what takes how long there must not matter.
        if point::is_simulated() {
            return;
        }
        let now = Instant::now();
        let rest = self.ends(now, shared.committed(), shared.queue.len() > 0);
        if !rest.is_zero() {
            // Whether the store stops is seen by whoever answers.
            shared.stop.wait(rest);
            self.began = Instant::now();
        }
    }

    /// Ends the turn, if it has lasted long enough; how long to rest then.
    fn ends(&mut self, now: Instant, committed: i64, writer_waits: bool) -> Duration {
        let lasted = now.saturating_duration_since(self.began);
        if lasted < READING_TURN {
            return Duration::ZERO;
        }
        self.began = now;
        let written = std::mem::replace(&mut self.committed, committed) != committed;
        if written || writer_waits {
            lasted.min(READING_REST_MAX)
        } else {
            Duration::ZERO
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: fn(u64) -> Duration = Duration::from_micros;

    #[test]
    fn a_reading_rests_as_long_as_its_turn_beside_writes_and_never_without() {
        let start = Instant::now();
        let mut courtesy = Courtesy {
            began: start,
            committed: 7,
        };
        // Microseconds since the start, the store's revision, whether a proposal waits, and the rest.
        for (at, committed, waits, rest) in [
            (150, 8, true, 0),
            (250, 8, false, 250),
            (400, 9, true, 0),
            (500, 9, false, 250),
            (800, 9, false, 0),
            (1_000, 9, true, 200),
            (9_000, 10, false, 1_000),
            (9_300, 10, false, 0),
        ] {
            let rests = courtesy.ends(start + US(at), committed, waits);
            assert_eq!(rests, US(rest), "at {at}");
        }
    }
}
