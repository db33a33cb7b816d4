//! A smaller window is tried before it is believed in: what a receiver knows of the round trip may be wrong.

use std::time::Duration;

use super::look::DRAIN_MAX;
use super::{Estimator, Fill, SHRINK_AFTER_MIN, Span};

/// A smaller window has to bring so much of the rate before, or the larger one is kept for a while.
const TRIAL_RATE: f64 = 0.94;
pub(super) const KEEP_MIN: Duration = Duration::from_secs(1);
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
    /// Makes the window smaller, until it is seen whether it brings as much as the larger one: from `rate` on. What was sent
    /// under the larger one comes first.
    pub(super) fn tries(&mut self, window: u32, rate: f64, now: Duration) {
        let rtt = self.rtt.get().unwrap_or_default();
        let drains = Duration::from_secs_f64((f64::from(self.window) / self.link().max(1.0)).min(DRAIN_MAX));
        self.larger = (self.window, now + drains + rtt);
        self.trial = Some(Trial {
            from: self.window,
            rate,
            span: Span::at(now + drains + rtt * 2),
        });
        self.window = window;
        self.too_large = None;
        self.fill = Fill::default();
    }

    /// The largest window by which something was sent that came before what left here at `since`.
    pub(super) fn in_force(&self, since: Duration) -> u32 {
        let (larger, until) = self.larger;
        if since < until {
            self.window.max(larger)
        } else {
            self.window
        }
    }

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
