//! How many calls at a time a service can serve, found out from how long they take.
//!
//! Little's law: a service of `c` workers that takes `S` for a call does `c / S` calls a second. With fewer than `c` in
//! flight it idles, with more they wait and each takes longer, and nothing else changes. So the limit goes up while calls
//! take no longer than *at rest*, and down when they do. Four laws say how; all look at the same windows of calls.
//!
//! ```text
//! c = 8, S = 20 ms          limit  8   a call takes 20 ms    400/s     no queue: up
//!                           limit 12                30 ms    400/s     1.5 times as long: enough
//!                           limit 64               160 ms    400/s     down
//! ```
//!
//! What a call takes at rest is the one thing all depends on, and a long average of all calls is not it: during a lasting
//! overload it follows the overload. Here it is learnt from windows in which the limit was not reached, and from *probes*:
//! for two windows half as many are let in. When calls then take about half as long, they still queued, and half of that
//! is tried; when not, what they took is the time at rest. Probes happen every ten seconds while the limit binds, and soon
//! after the limit has sunk, since then the service itself may have become slower.

mod baseline;
mod law;
mod window;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::time::Duration;

use baseline::{Baseline, Probe, Step};
use window::{Seen, Window};

pub use law::Law;

/// How a limit behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// How the limit is found.
    pub law: Law,
    /// Calls at a time before anything is known (20); the one number of [`Law::Fixed`].
    pub initial: u32,
    /// Never fewer (4): below that one slow call stops everybody.
    pub min: u32,
    /// Never more (1,000).
    pub max: u32,
    /// How many times as long as at rest calls may take before the limit goes down (1.5).
    pub tolerance: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            law: Law::Gradient2,
            initial: 20,
            min: 4,
            max: 1_000,
            tolerance: 1.5,
        }
    }
}

/// What was seen of one call at its end.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// How long it took, without waiting to be admitted.
    pub rtt: Duration,
    /// Calls that were in flight with it, itself included.
    pub in_flight: u32,
    /// It was given up by the server because it took too long.
    pub dropped: bool,
}

/// A limit that learns. Time is counted from any moment that stays the same.
#[derive(Debug)]
pub struct Limit {
    settings: Settings,
    limit: f64,
    window: Window,
    rest: Baseline,
    probe: Probe,
    last: Option<f64>,
}

impl Limit {
    /// A limit about which nothing is known yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let initial = f64::from(settings.initial);
        let limit = match settings.law {
            Law::Fixed => initial,
            _ => initial.clamp(f64::from(settings.min), f64::from(settings.max)),
        };
        Self {
            settings,
            limit,
            window: Window::default(),
            rest: Baseline::default(),
            probe: Probe::default(),
            last: None,
        }
    }

    /// Goes on under other settings with what was learnt.
    pub fn change(&mut self, settings: Settings) {
        if settings.law == Law::Fixed || self.settings.law == Law::Fixed {
            *self = Self::new(settings);
            return;
        }
        self.settings = settings;
        self.limit = self.clamp(self.limit);
        self.probe = Probe::default();
    }

    /// Calls that may be in flight now, at least 1.
    #[must_use]
    pub fn limit(&self) -> u32 {
        let limit = self.probe.level().unwrap_or(self.limit);
        // Clamped to u32's range by the settings.
        (limit as u32).max(1)
    }

    /// How the limit is found.
    #[must_use]
    pub fn law(&self) -> Law {
        self.settings.law
    }

    /// What calls took lately.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.last.map(Duration::from_secs_f64)
    }

    /// What calls take at rest, as far as it is known.
    #[must_use]
    pub fn rest(&self) -> Option<Duration> {
        self.rest.seconds().map(Duration::from_secs_f64)
    }

    /// A call is over.
    pub fn sample(&mut self, sample: Sample, now: Duration) {
        let Some(seen) = self.window.add(sample, self.last, now) else {
            return;
        };
        self.last = Some(seen.rtt);
        if self.settings.law == Law::Fixed {
            self.rest.lower(seen.rtt);
            return;
        }
        let saturated = seen.in_flight.saturating_mul(2) >= self.limit();
        if self.probe.is_on() {
            self.go_on_probing(seen, now);
        } else if saturated {
            self.adapt(seen, now);
        } else {
            self.rest_or_shrink(seen, now);
        }
    }

    /// The limit does not bind: what calls take is the time at rest, unless it is far from it.
    fn rest_or_shrink(&mut self, seen: Seen, now: Duration) {
        let slow = self
            .rest
            .seconds()
            .is_some_and(|rest| seen.rtt > self.settings.tolerance * rest);
        if slow {
            // They queue although the limit is not reached: it had grown in better times. With the limit at what is
            // there, the law and probes tell a queue from a service that has become slower.
            let floor = f64::from(self.settings.initial.max(seen.in_flight));
            self.limit = self.limit.min(self.clamp(floor));
            if self.limit() > seen.in_flight.saturating_mul(2) {
                self.rest.learn(seen);
            }
        } else {
            self.rest.learn(seen);
            self.probe.rested(now, self.limit);
        }
    }

    fn adapt(&mut self, seen: Seen, now: Duration) {
        let known = self.rest.seconds().is_some();
        if self.rest.is_guess() || !known {
            self.rest.guess(seen.rtt);
        }
        let rest = self.rest.seconds().unwrap_or(seen.rtt);
        let next = self
            .settings
            .law
            .next(self.limit, rest, seen, self.settings.tolerance);
        self.limit = self.clamp(next);
        self.rest.lower(seen.rtt);
        // The first window of all has the calls that found nobody before them.
        if known && self.probe.is_due(self.limit, self.rest.is_guess(), now) {
            let min = f64::from(self.settings.min);
            self.probe.begin(self.limit, seen.rtt, min);
        }
    }

    fn go_on_probing(&mut self, seen: Seen, now: Duration) {
        let min = f64::from(self.settings.min);
        if let Step::Found { rest, needed } = self.probe.step(seen, min) {
            self.rest.set(rest);
            self.limit = self.clamp(self.limit.min(self.settings.tolerance * needed));
            self.probe.end(self.limit, now);
        }
    }

    fn clamp(&self, limit: f64) -> f64 {
        limit.clamp(f64::from(self.settings.min), f64::from(self.settings.max))
    }
}
