//! The pace of what goes on in the background: short turns, and a rest after each that is as long.
//!
//! Whoever computes without a pause keeps a core for milliseconds before the kernel gives it to a thread that woke up
//! meanwhile, and a disk that is given one piece after the other has commits wait behind each of them. So the work is done
//! in turns that nobody has to wait long for, and others have at least half of the time.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::shared::Shared;

/// A turn that has lasted so long is over.
const TURN: Duration = Duration::from_micros(400);

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
