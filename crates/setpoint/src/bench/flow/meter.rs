//! What passes a link, over time.

use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;
use setpoint_flow::impair::Proxy;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Where the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Way {
    /// To the server: its windows decide
    Up,
    /// To the client: its windows decide
    Down,
}

impl Way {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// Between two looks.
const STEP: Duration = Duration::from_millis(5);

/// Bytes that have come out of a link by each moment.
#[derive(Debug, Default)]
pub(super) struct Trace {
    samples: Vec<(Duration, u64)>,
}

impl Trace {
    /// Looks at what reaches the receiver for `time`.
    pub(super) async fn watch(proxy: &Proxy, way: Way, time: Duration) -> Self {
        let passed = || match way {
            Way::Up => proxy.traffic().up_bytes,
            Way::Down => proxy.traffic().down_bytes,
        };
        let start = Instant::now();
        let before = passed();
        let mut ticks = interval(STEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut samples = vec![(Duration::ZERO, 0)];
        while start.elapsed() < time {
            ticks.tick().await;
            samples.push((start.elapsed(), passed() - before));
        }
        Self { samples }
    }

    /// How long it was watched.
    pub(super) fn length(&self) -> Duration {
        self.samples.last().map_or(Duration::ZERO, |(at, _)| *at)
    }

    /// Bytes by then, between two looks in proportion.
    fn bytes_by(&self, at: Duration) -> f64 {
        let after = self.samples.partition_point(|(sampled, _)| *sampled < at);
        match (
            after.checked_sub(1).and_then(|before| self.samples.get(before)),
            self.samples.get(after),
        ) {
            (Some((from, low)), Some((to, high))) => {
                let part = (at - *from).as_secs_f64() / (*to - *from).as_secs_f64().max(1e-9);
                *low as f64 + (*high - *low) as f64 * part
            }
            (_, Some((_, bytes))) | (Some((_, bytes)), None) => *bytes as f64,
            (None, None) => 0.0,
        }
    }

    /// Megabits per second between two moments.
    pub(super) fn mbit(&self, from: Duration, to: Duration) -> f64 {
        let seconds = (to.saturating_sub(from)).as_secs_f64().max(1e-9);
        (self.bytes_by(to) - self.bytes_by(from)) * 8.0 / 1e6 / seconds
    }

    /// When at least `mbit` passed for the first time, over `window`.
    pub(super) fn reaches(&self, mbit: f64, window: Duration) -> Option<Duration> {
        let mut moments = self.samples.iter().map(|(at, _)| *at);
        moments.find(|at| *at + window <= self.length() && self.mbit(*at, *at + window) >= mbit)
    }

    /// Megabits per second in each stretch of `width`.
    pub(super) fn series(&self, width: Duration) -> Vec<f64> {
        let count = (self.length().as_secs_f64() / width.as_secs_f64()) as u32;
        let stretch = |n: u32| self.mbit(width * n, width * (n + 1));
        (0..count).map(|n| (stretch(n) * 100.0).round() / 100.0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Nothing for 100 ms, then 1,000 bytes a millisecond: 8 Mbit/s.
    fn trace() -> Trace {
        let bytes = |ms: u64| ms.saturating_sub(100) * 1_000;
        Trace {
            samples: (0..=80).map(|n| (MS * 5 * n as u32, bytes(n * 5))).collect(),
        }
    }

    #[test]
    fn rates_are_bytes_over_time() {
        let trace = trace();
        assert!((trace.mbit(MS * 200, MS * 400) - 8.0).abs() < 0.01);
        assert!((trace.mbit(MS * 50, MS * 150) - 4.0).abs() < 0.01);
        assert_eq!(trace.series(MS * 100), [0.0, 8.0, 8.0, 8.0]);
    }

    #[test]
    fn a_rate_is_reached_when_it_holds_for_the_window() {
        let trace = trace();
        let at = trace.reaches(7.2, MS * 50).unwrap();
        assert!(at >= MS * 90 && at <= MS * 100, "{at:?}");
        assert_eq!(trace.reaches(9.0, MS * 50), None);
    }
}
