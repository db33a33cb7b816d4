//! A round trip that no queue of ours can have made longer.
//!
//! What a PING or some credit took may be time in a queue before the link. But a sender that had used up its window was
//! silent until there was credit again, and what it then sent met no queue. Here that is a pause in what arrives, and after it
//! the first byte that needed the credit. A receiver that was late itself sees such a pause as well; then what came
//! meanwhile is there all at once, and there was none.
//!
//! ```text
//! 100 Mbit/s, 100 ms, window 1 MiB     0 to 84 ms    1 MiB arrives; from 3 ms on credit is given
//!                                      84 to 103 ms  nothing
//!                                      103 ms        the first byte that needed credit of 3 ms: the path takes 100 ms
//! ```

use std::time::Duration;

use super::Span;

/// The shortest pause that shows anything, and what part of the round trip it has to be.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_PART: u32 = 32;
/// Proven is what is so near to it, as a part.
pub(super) const NEAR_PART: u32 = 16;

/// Looks for pauses that prove a round trip.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Proof {
    /// All that arrived, from the first byte on, and when the last did.
    all: Span,
    last: Duration,
    /// How long credit took that was used just now.
    took: Option<Duration>,
    least: Option<Duration>,
}

impl Proof {
    /// Credit was used, after so long, by what arrives now.
    pub(super) fn credit_used(&mut self, took: Duration) {
        self.took = Some(self.took.map_or(took, |other| other.min(took)));
    }

    /// `bytes` arrive; `rate` is what the link gives, as far as that is known.
    pub(super) fn received(&mut self, bytes: u64, rate: f64, now: Duration) {
        if self.all.bytes == 0 {
            self.all.since = now;
        }
        let pause = now.saturating_sub(self.last);
        if let Some(took) = self.took.take()
            && pause >= PAUSE_MIN.max(took / PAUSE_PART)
            && (bytes as f64) < self.rate(rate) * pause.as_secs_f64() / 2.0
        {
            self.least = Some(took);
        }
        self.all.bytes += bytes;
        self.last = now;
    }

    /// Whether a round trip of that was seen without a queue.
    pub(super) fn covers(&self, rtt: Duration) -> bool {
        self.least
            .is_some_and(|least| least.abs_diff(rtt) <= rtt / NEAR_PART)
    }

    fn rate(&self, known: f64) -> f64 {
        if known > 0.0 {
            return known;
        }
        let span = self.last.saturating_sub(self.all.since);
        if span.is_zero() {
            return 0.0;
        }
        self.all.bytes as f64 / span.as_secs_f64()
    }
}
