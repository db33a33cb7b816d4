//! Bounded exponential waiting.

use std::time::Duration;

/// How long to wait between attempts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BackoffPolicy {
    /// The first wait. client-go's reflector starts at 800 ms.
    pub base: Duration,
    /// No wait is longer than this, jitter aside.
    pub max: Duration,
    /// Growth per attempt, at least 1.
    pub factor: f64,
    /// Random share added on top: a wait `d` becomes a value in `[d, d * (1 + jitter))`.
    pub jitter: f64,
}

impl BackoffPolicy {
    /// client-go's reflector: 800 ms doubling to 30 s, jitter 1.0 (`tools/cache/reflector.go`).
    pub const REFLECTOR: Self = Self {
        base: Duration::from_millis(800),
        max: Duration::from_secs(30),
        factor: 2.0,
        jitter: 1.0,
    };
}

/// The state of one retry loop.
#[derive(Clone, Debug)]
pub struct Backoff {
    policy: BackoffPolicy,
    attempts: u32,
    rng: fastrand::Rng,
}

impl Backoff {
    /// A loop that has not failed yet. The seed makes the jitter repeatable.
    #[must_use]
    pub fn new(policy: BackoffPolicy, seed: u64) -> Self {
        Self {
            policy,
            attempts: 0,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// The wait before the next attempt; each call counts one failure.
    pub fn next_wait(&mut self) -> Duration {
        let exponent = i32::try_from(self.attempts.min(64)).unwrap_or(64);
        self.attempts = self.attempts.saturating_add(1);
        let grown = self.policy.base.as_secs_f64() * self.policy.factor.powi(exponent);
        let capped = grown.min(self.policy.max.as_secs_f64());
        Duration::from_secs_f64(capped * (1.0 + self.policy.jitter * self.rng.f64()))
    }

    /// Failures since the last success.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// A success: the next wait starts at the base again.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_restart_after_a_success() {
        let policy = BackoffPolicy {
            base: Duration::from_millis(100),
            max: Duration::from_millis(350),
            factor: 2.0,
            jitter: 0.0,
        };
        let mut backoff = Backoff::new(policy, 1);
        let waits: Vec<_> = (0..4).map(|_| backoff.next_wait().as_millis()).collect();
        assert_eq!(waits, [100, 200, 350, 350]);
        backoff.reset();
        assert_eq!(backoff.next_wait().as_millis(), 100);
    }

    #[test]
    fn jitter_stays_below_twice_the_wait() {
        let mut backoff = Backoff::new(BackoffPolicy::REFLECTOR, 7);
        for _ in 0..100 {
            let wait = backoff.next_wait();
            assert!(
                wait >= BackoffPolicy::REFLECTOR.base && wait < Duration::from_secs(60),
                "{wait:?}"
            );
        }
    }
}
