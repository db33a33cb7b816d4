//! Waiting between attempts to reach a server.

use std::time::Duration;

/// How long to wait before attempt `n` (0 is the first after a failure).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReconnectPolicy {
    /// Anything between nothing and `min(max, base * 2^n)`: a crowd that lost its server together does not come
    /// back together.
    FullJitter {
        /// The first ceiling.
        base: Duration,
        /// No ceiling is higher.
        max: Duration,
    },
    /// `min(max, base * 2^n + random below jitter)`.
    Additive {
        /// The first wait, jitter aside.
        base: Duration,
        /// No wait is longer.
        max: Duration,
        /// The random part is below this.
        jitter: Duration,
    },
}

impl ReconnectPolicy {
    /// 50 ms to 5 s, full jitter: the default.
    pub const FAST: Self = Self::FullJitter {
        base: Duration::from_millis(50),
        max: Duration::from_secs(5),
    };
    /// `min(30 s, 1 s * 2^n + random below 1 s)`: gentle to a server that many wait for.
    pub const GENTLE: Self = Self::Additive {
        base: Duration::from_secs(1),
        max: Duration::from_secs(30),
        jitter: Duration::from_secs(1),
    };

    /// The wait before attempt `n`; `random` is in `[0, 1)`.
    #[must_use]
    pub fn wait(&self, n: u32, random: f64) -> Duration {
        // Beyond 2^32 every maximum that fits a Duration's use here is long reached.
        let grow = |base: Duration| base.saturating_mul(1_u32.checked_shl(n).unwrap_or(u32::MAX));
        match *self {
            Self::FullJitter { base, max } => grow(base).min(max).mul_f64(random),
            Self::Additive { base, max, jitter } => {
                grow(base).saturating_add(jitter.mul_f64(random)).min(max)
            }
        }
    }
}

/// The failures of one stream in a row.
#[derive(Debug)]
pub(crate) struct Attempts {
    policy: ReconnectPolicy,
    failed: u32,
    rng: fastrand::Rng,
}

impl Attempts {
    pub(crate) fn new(policy: ReconnectPolicy, seed: u64) -> Self {
        Self {
            policy,
            failed: 0,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// Counts a failure; the wait before the next attempt.
    pub(crate) fn failed(&mut self) -> Duration {
        let wait = self.policy.wait(self.failed, self.rng.f64());
        self.failed = self.failed.saturating_add(1);
        wait
    }

    /// In `[0, 1)`, for waits that are counted elsewhere.
    pub(crate) fn random(&mut self) -> f64 {
        self.rng.f64()
    }

    pub(crate) fn succeeded(&mut self) {
        self.failed = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(policy: ReconnectPolicy, random: f64) -> Vec<u128> {
        (0..8).map(|n| policy.wait(n, random).as_millis()).collect()
    }

    #[test]
    fn the_gentle_series_doubles_from_a_second_to_thirty_and_adds_less_than_one() {
        let series = [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000];
        assert_eq!(millis(ReconnectPolicy::GENTLE, 0.0), series);
        let series = [1_500, 2_500, 4_500, 8_500, 16_500, 30_000, 30_000, 30_000];
        assert_eq!(millis(ReconnectPolicy::GENTLE, 0.5), series);
        assert_eq!(
            ReconnectPolicy::GENTLE.wait(u32::MAX, 0.9),
            Duration::from_secs(30)
        );
    }

    #[test]
    fn the_fast_series_is_spread_over_all_of_a_ceiling_that_doubles_to_five_seconds() {
        assert_eq!(millis(ReconnectPolicy::FAST, 0.0), [0; 8]);
        let ceilings = [50, 100, 200, 400, 800, 1_600, 3_200, 5_000];
        let half: Vec<u128> = ceilings.iter().map(|ceiling| ceiling / 2).collect();
        assert_eq!(millis(ReconnectPolicy::FAST, 0.5), half);
    }

    #[test]
    fn a_success_starts_the_series_again() {
        let mut attempts = Attempts::new(ReconnectPolicy::GENTLE, 1);
        for floor in [1, 2, 4] {
            let wait = attempts.failed();
            let floor = Duration::from_secs(floor);
            assert!(wait >= floor && wait < floor + Duration::from_secs(1), "{wait:?}");
        }
        attempts.succeeded();
        assert!(attempts.failed() < Duration::from_secs(2));
    }
}
