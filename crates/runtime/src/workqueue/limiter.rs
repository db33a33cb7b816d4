//! How long a failed key waits.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// Limits of retries.
#[derive(Clone, Debug)]
pub struct LimiterOptions {
    /// The first wait of a key. Default 5 ms (client-go).
    pub base: Duration,
    /// No key waits longer for its own failures. Default 1000 s (client-go).
    pub max: Duration,
    /// Retries of all keys together, or `None` for no such limit. Default 10 per second, burst 100
    /// (client-go `DefaultTypedControllerRateLimiter`).
    pub bucket: Option<Bucket>,
}

impl Default for LimiterOptions {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(5),
            max: Duration::from_secs(1000),
            bucket: Some(Bucket {
                per_second: 10.0,
                burst: 100,
            }),
        }
    }
}

/// A token bucket over all keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// Tokens added per second.
    pub per_second: f64,
    /// Tokens it can hold.
    pub burst: u32,
}

#[derive(Debug)]
struct Failures {
    count: u32,
    /// When the latest backoff ends.
    until: Instant,
}

/// Exponential backoff per key under a common token bucket (client-go `default_rate_limiters.go`), except
/// that only a backoff which has elapsed counts: a key that other events bring back early, and which
/// fails again, keeps the wait it already has (upstream advances the count: kubernetes/kubernetes#132805).
#[derive(Debug)]
pub struct Limiter<K> {
    options: LimiterOptions,
    failures: HashMap<K, Failures>,
    /// Tokens left; negative when reserved ahead. Refilled lazily.
    tokens: f64,
    refilled: Option<Instant>,
}

impl<K: Clone + Eq + Hash> Limiter<K> {
    /// A limiter that has seen no failure; its bucket is full.
    #[must_use]
    pub fn new(options: LimiterOptions) -> Self {
        Self {
            tokens: options.bucket.map_or(0.0, |bucket| f64::from(bucket.burst)),
            options,
            failures: HashMap::new(),
            refilled: None,
        }
    }

    /// Counts a failure of the key at `now` and says how long it waits.
    pub fn wait(&mut self, key: &K, now: Instant) -> Duration {
        self.backoff(key, now).max(self.reserve(now))
    }

    /// Forgets the failures of a key.
    pub fn forget(&mut self, key: &K) {
        self.failures.remove(key);
    }

    /// Failures counted since the key was last forgotten.
    #[must_use]
    pub fn failures(&self, key: &K) -> u32 {
        self.failures.get(key).map_or(0, |failures| failures.count)
    }

    /// Keys with failures: what this holds memory for.
    #[must_use]
    pub fn tracked(&self) -> usize {
        self.failures.len()
    }

    fn backoff(&mut self, key: &K, now: Instant) -> Duration {
        let options = &self.options;
        let failures = self
            .failures
            .entry(key.clone())
            .or_insert(Failures { count: 0, until: now });
        if failures.until > now {
            return failures.until - now;
        }
        let exponent = failures.count.min(62);
        failures.count = failures.count.saturating_add(1);
        let wait = Duration::try_from_secs_f64(options.base.as_secs_f64() * (1_u64 << exponent) as f64)
            .unwrap_or(options.max)
            .min(options.max);
        failures.until = now + wait;
        wait
    }

    fn reserve(&mut self, now: Instant) -> Duration {
        let Some(bucket) = self.options.bucket else {
            return Duration::ZERO;
        };
        let since = self
            .refilled
            .map_or(Duration::ZERO, |then| now.saturating_duration_since(then));
        self.refilled = Some(now);
        self.tokens =
            (self.tokens + since.as_secs_f64() * bucket.per_second).min(f64::from(bucket.burst)) - 1.0;
        if self.tokens >= 0.0 {
            return Duration::ZERO;
        }
        Duration::try_from_secs_f64(-self.tokens / bucket.per_second)
            .unwrap_or(self.options.max)
            .min(self.options.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(base_ms: u64, max_ms: u64, expect_ms: &[u128]) {
        let mut limiter = Limiter::new(LimiterOptions {
            base: Duration::from_millis(base_ms),
            max: Duration::from_millis(max_ms),
            bucket: None,
        });
        let mut now = Instant::now();
        let waits: Vec<_> = (0..expect_ms.len())
            .map(|_| {
                let wait = limiter.wait(&"key", now);
                now += wait;
                wait.as_millis()
            })
            .collect();
        assert_eq!(waits, expect_ms);
    }

    // TestItemExponentialFailureRateLimiter, TestWithMaxWaitRateLimiter
    #[test]
    fn waits_double_up_to_the_cap() {
        check(1, 8, &[1, 2, 4, 8, 8]);
    }

    // TestItemExponentialFailureRateLimiterOverFlow
    #[test]
    fn a_thousand_failures_do_not_overflow() {
        let mut expect = vec![1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];
        expect.resize(1000, 1024);
        check(1, 1024, &expect);
    }

    #[test]
    fn a_failure_before_the_backoff_has_elapsed_does_not_count() {
        let mut limiter = Limiter::new(LimiterOptions {
            bucket: None,
            ..LimiterOptions::default()
        });
        let now = Instant::now();
        assert_eq!(limiter.wait(&"key", now), Duration::from_millis(5));
        let early = now + Duration::from_millis(2);
        assert_eq!(limiter.wait(&"key", early), Duration::from_millis(3));
        assert_eq!(limiter.failures(&"key"), 1);
    }

    // TestMaxOfRateLimiter
    #[test]
    fn an_empty_bucket_makes_even_a_first_failure_wait() {
        let mut limiter = Limiter::new(LimiterOptions {
            bucket: Some(Bucket {
                per_second: 10.0,
                burst: 2,
            }),
            ..LimiterOptions::default()
        });
        let now = Instant::now();
        let waits: Vec<_> = (0..4).map(|key| limiter.wait(&key, now).as_millis()).collect();
        assert_eq!(waits, [5, 5, 100, 200]);
    }
}
