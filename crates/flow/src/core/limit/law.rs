//! The laws: what the next limit is.
//!
//! Gradient2, Vegas and AIMD are those of Netflix's concurrency-limits in their numbers; the time at rest is ours (see
//! the module above), their queues are a part of the limit where that is small, and all grow by a tenth a window while
//! calls take no longer than at rest: a limit that is far too low would otherwise take minutes.

use serde::Deserialize;

use super::window::Seen;

/// Calls that take at most this many times as long as at rest do not queue.
const UNQUEUED: f64 = 1.1;
/// By how much a limit grows while nothing queues.
const GROWTH: f64 = 1.1;
/// How much of a new limit of Gradient2 counts.
const SMOOTHING: f64 = 0.2;
/// What a limit shrinks to when calls were dropped.
const BACKOFF: f64 = 0.9;
/// Gradient2's queue: calls that may wait, at least; the root of the limit when that is more.
const QUEUE: f64 = 4.0;
/// And this part of the limit at most, so that a small service is not all queue.
const QUEUE_SHARE: f64 = 0.15;
/// Vegas' queue lies between this many calls, times the logarithm of the limit,
const ALPHA: f64 = 3.0;
/// and this many,
const BETA: f64 = 6.0;
/// and each at most this part of the limit.
const ALPHA_SHARE: f64 = 0.2;
const BETA_SHARE: f64 = 0.4;

/// How a limit is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Law {
    /// It is given.
    Fixed,
    /// In proportion to how much longer calls take than at rest; quick and even.
    #[default]
    Gradient2,
    /// By how many calls seem to queue, a step at a time; keeps the shortest queue on large limits.
    Vegas,
    /// One more while calls are quick, a tenth less when they are slow; the simplest to foresee.
    Aimd,
}

impl Law {
    /// What metrics and pages call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Gradient2 => "gradient2",
            Self::Vegas => "vegas",
            Self::Aimd => "aimd",
        }
    }

    /// The limit after a window in which it was reached, in calls; `rest` in seconds.
    pub(super) fn next(self, limit: f64, rest: f64, seen: Seen, tolerance: f64) -> f64 {
        let slower = (seen.rtt / rest).max(0.01);
        if self == Self::Fixed {
            return limit;
        }
        if seen.dropped {
            return limit * BACKOFF;
        }
        if slower < UNQUEUED {
            return (limit * GROWTH).max(limit + 1.0);
        }
        match self {
            Self::Fixed => limit,
            Self::Gradient2 => {
                let gradient = (tolerance / slower).clamp(0.5, 1.0);
                let queue = QUEUE.max(limit.sqrt()).min(QUEUE_SHARE * limit);
                limit + SMOOTHING * (limit * gradient + queue - limit)
            }
            Self::Vegas => {
                let queue = limit * (1.0 - 1.0 / slower.max(1.0));
                let step = limit.log10().max(1.0);
                if queue <= step {
                    limit + (BETA * step).min(BETA_SHARE * limit)
                } else if queue < (ALPHA * step).min(ALPHA_SHARE * limit) {
                    limit + step
                } else if queue > (BETA * step).min(BETA_SHARE * limit) {
                    limit - step
                } else {
                    limit
                }
            }
            Self::Aimd if slower > tolerance => limit * BACKOFF,
            Self::Aimd => limit + 1.0,
        }
    }
}
