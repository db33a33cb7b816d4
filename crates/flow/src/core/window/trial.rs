//! A smaller window is tried before it is believed in: what a receiver knows of the round trip may be wrong.

use std::time::Duration;

use super::{Estimator, Fill, SHRINK_AFTER_MIN, Span};

/// A smaller window has to bring so much of the rate before, or the larger one is kept for a while.
const TRIAL_RATE: f64 = 0.94;
pub(super) const KEEP_MIN: Duration = Duration::from_secs(10);
const KEEP_MAX: Duration = Duration::from_secs(300);

/// A smaller window, until it is seen that the link stays full with it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trial {
    /// The window before, and what came with it, in bytes a second.
    pub(super) from: u32,
    pub(super) rate: f64,
    /// What comes with the smaller one.
    pub(super) span: Span,
}

impl Estimator {
    /// Sees whether a smaller window keeps the link full.
    pub(super) fn judge(&mut self, bytes: u64, now: Duration) {
        let Some(trial) = &mut self.trial else {
            return;
        };
        if now < trial.span.since {
            return;
        }
        trial.span.bytes += bytes;
        let took = now - trial.span.since;
        if took < (self.rtt.get().unwrap_or_default() * 4).max(SHRINK_AFTER_MIN) {
            return;
        }
        let rate = trial.span.bytes as f64 / took.as_secs_f64();
        if rate >= TRIAL_RATE * trial.rate {
            self.keep_for = KEEP_MIN;
        } else {
            self.kept = (trial.from, now + self.keep_for);
            self.keep_for = (self.keep_for * 2).min(KEEP_MAX);
            self.window = self.window.max(trial.from);
            self.fill = Fill::default();
        }
        self.trial = None;
    }
}
