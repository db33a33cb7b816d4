//! What a call takes at rest, and how it is found out when there is no rest.

use std::time::Duration;

use super::window::Seen;

/// Calls that the average goes back over.
const CALLS: f64 = 600.0;
/// One window is never more of the average than this.
const SHARE_MAX: f64 = 0.5;
/// A window under load that is faster than rest moves it by this much.
const LOWER_SHARE: f64 = 0.2;
/// Time between two probes.
const PROBE_EVERY: Duration = Duration::from_secs(10);
/// The same when the limit has sunk or grown.
const PROBE_AGAIN: Duration = Duration::from_millis(500);
/// A limit has sunk when it is below this part of what it was at most: the service may have become slower.
const SUNK: f64 = 0.6;
/// It has grown when it is this many times what it was: the service may have become faster, and a queue is taken for rest.
const GROWN: f64 = 1.5;
/// With half as many in flight, calls that queue take half as long; well above this they did not queue.
const STILL_QUEUED: f64 = 0.7;

/// The time at rest, in seconds.
#[derive(Debug, Default)]
pub(super) struct Baseline {
    seconds: Option<f64>,
    /// It is from a window under load: better than nothing, until a probe.
    guess: bool,
}

impl Baseline {
    pub(super) fn seconds(&self) -> Option<f64> {
        self.seconds
    }

    pub(super) fn is_guess(&self) -> bool {
        self.guess
    }

    /// A window at rest.
    pub(super) fn learn(&mut self, seen: Seen) {
        let calls = f64::from(seen.calls);
        let share = (2.0 * calls / (CALLS + 1.0)).min(SHARE_MAX);
        match self.seconds {
            Some(rest) if !self.guess => self.seconds = Some(rest + share * (seen.rtt - rest)),
            _ => self.set(seen.rtt),
        }
    }

    /// A window under load, when there is nothing better.
    pub(super) fn guess(&mut self, rtt: f64) {
        (self.seconds, self.guess) = (Some(rtt), true);
    }

    /// A window that was not at rest: if it was faster all the same, so is rest.
    pub(super) fn lower(&mut self, rtt: f64) {
        match self.seconds {
            Some(rest) if rtt < rest => self.seconds = Some(rest + LOWER_SHARE * (rtt - rest)),
            None => self.seconds = Some(rtt),
            _ => (),
        }
    }

    pub(super) fn set(&mut self, rtt: f64) {
        (self.seconds, self.guess) = (Some(rtt), false);
    }
}

/// Looks for the time at rest by letting fewer in.
#[derive(Debug, Default)]
pub(super) struct Probe {
    stage: Option<Stage>,
    /// When the last one ended, or there was a rest.
    known_at: Duration,
    /// The limit then, and the highest since.
    then: f64,
    high: f64,
}

#[derive(Clone, Copy, Debug)]
struct Stage {
    /// The limit, and what calls took, when the probe began: as many calls a second as can be done.
    limit: f64,
    rtt: f64,
    level: f64,
    /// What calls took with twice as many in flight.
    before: f64,
    /// The first window has calls that began before.
    drained: bool,
}

/// How far a probe is.
pub(super) enum Step {
    GoesOn,
    Found {
        /// What calls take at rest.
        rest: f64,
        /// How many were needed in flight for as many calls a second as there were.
        needed: f64,
    },
}

impl Probe {
    /// The limit while it is on.
    pub(super) fn level(&self) -> Option<f64> {
        self.stage.map(|stage| stage.level)
    }

    pub(super) fn is_on(&self) -> bool {
        self.stage.is_some()
    }

    /// There was a rest: no need to look for one soon.
    pub(super) fn rested(&mut self, now: Duration, limit: f64) {
        (self.known_at, self.then, self.high) = (now, limit, limit);
    }

    pub(super) fn is_due(&mut self, limit: f64, guess: bool, now: Duration) -> bool {
        self.high = self.high.max(limit);
        let since = now.saturating_sub(self.known_at);
        let moved = limit < SUNK * self.high || limit > GROWN * self.then;
        guess || since >= PROBE_EVERY || (since >= PROBE_AGAIN && moved)
    }

    pub(super) fn begin(&mut self, limit: f64, rtt: f64, min: f64) {
        self.stage = Some(Stage {
            limit,
            rtt,
            level: (limit / 2.0).max(min.min(limit)),
            before: rtt,
            drained: false,
        });
    }

    pub(super) fn step(&mut self, seen: Seen, min: f64) -> Step {
        let Some(stage) = &mut self.stage else {
            return Step::GoesOn;
        };
        if !stage.drained {
            stage.drained = true;
            return Step::GoesOn;
        }
        if seen.rtt < STILL_QUEUED * stage.before && stage.level > min {
            *stage = Stage {
                level: (stage.level / 2.0).max(min),
                before: seen.rtt,
                drained: false,
                ..*stage
            };
            return Step::GoesOn;
        }
        Step::Found {
            rest: seen.rtt,
            needed: (stage.limit * seen.rtt / stage.rtt).max(stage.level),
        }
    }

    pub(super) fn end(&mut self, limit: f64, now: Duration) {
        *self = Self {
            stage: None,
            known_at: now,
            then: limit,
            high: limit,
        };
    }
}
