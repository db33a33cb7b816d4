//! The token bucket, as the generic cell rate algorithm: one number a bucket.
//!
//! The number is the *theoretical arrival time*: when the bucket would be full again if nobody came any more. A permit
//! moves it by one period; it is refused when that would put it further ahead of now than the burst allows. A bucket
//! whose time has passed is full, and so is one that was never made: forgetting it changes nothing.
//!
//! ```text
//! 10/s, burst 2 (period 100 ms)      time is  now + 0     admit → +100
//!                                             now + 100   admit → +200
//!                                             now + 200   refuse, wait 100 ms
//! ```
//!
//! Time is a wrapping counter of 1/256 ns. A bucket cannot be further ahead than its burst; one that seems to be was
//! idle for so long that the counter went round (two years), and is full.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::rate::{FILL_TICKS_MAX, Rate, duration};

/// Rate and burst of buckets of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    period: u64,
    tolerance: u64,
}

impl Quota {
    /// `burst` permits at once, then `rate`. `None` when the burst is 0 or would take over 100 days to fill up.
    #[must_use]
    pub fn new(rate: Rate, burst: u32) -> Option<Self> {
        let period = rate.period_ticks();
        let tolerance = period.checked_mul(u64::from(burst))?;
        (burst > 0 && tolerance <= FILL_TICKS_MAX).then_some(Self { period, tolerance })
    }
}

/// One bucket. Full at first.
#[derive(Debug, Default)]
pub struct Bucket {
    /// 0 is a bucket that nobody has used.
    time: AtomicU64,
}

impl Bucket {
    /// Takes a permit, or says how long until there is one. Lock-free; any number of threads may ask.
    ///
    /// # Errors
    /// The time after which asking again can succeed.
    pub fn take(&self, quota: Quota, now: u64) -> Result<(), Duration> {
        let mut time = self.time.load(Ordering::Relaxed);
        loop {
            let after = ahead(time, now, quota) + quota.period;
            if after > quota.tolerance {
                return Err(duration(after - quota.tolerance));
            }
            // Nothing else is published with the number, so no ordering is needed.
            let next = now.wrapping_add(after);
            match self
                .time
                .compare_exchange_weak(time, next, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return Ok(()),
                Err(seen) => time = seen,
            }
        }
    }

    /// Gives a permit back that was taken for something that was then refused elsewhere.
    pub fn give_back(&self, quota: Quota) {
        self.time.fetch_sub(quota.period, Ordering::Relaxed);
    }

    /// Goes on under another quota with the same number of permits taken, so that a change of the rate is no gift.
    pub fn change(&self, from: Quota, to: Quota, now: u64) {
        let scale = |time: u64| {
            let taken = u128::from(ahead(time, now, from)) * u128::from(to.period) / u128::from(from.period);
            let ahead = u64::try_from(taken).unwrap_or(u64::MAX).min(to.tolerance);
            Some(now.wrapping_add(ahead))
        };
        // Somebody who takes a permit meanwhile makes it try again; the closure never refuses.
        let _ = self
            .time
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, scale);
    }

    /// Whether the bucket is full: it can be forgotten.
    #[must_use]
    pub fn is_full(&self, quota: Quota, now: u64) -> bool {
        ahead(self.time.load(Ordering::Relaxed), now, quota) == 0
    }
}

/// How far a bucket's time is ahead of now, in ticks.
fn ahead(time: u64, now: u64, quota: Quota) -> u64 {
    let ahead = time.wrapping_sub(now);
    // Behind now, it wraps to something huge.
    if time == 0 || ahead > quota.tolerance {
        0
    } else {
        ahead
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::rate::ticks;
    use proptest::prelude::*;

    fn quota(rate: &str, burst: u32) -> Quota {
        Quota::new(rate.parse().unwrap(), burst).unwrap()
    }

    fn at(micros: u64) -> u64 {
        ticks(Duration::from_micros(micros)) + 1
    }

    #[track_caller]
    fn check(rate: &str, burst: u32, at_micros: &[u64], expect: &[bool]) {
        let (bucket, quota) = (Bucket::default(), quota(rate, burst));
        let got: Vec<_> = at_micros
            .iter()
            .map(|micros| bucket.take(quota, at(*micros)).is_ok())
            .collect();
        assert_eq!(got, expect);
    }

    #[test]
    fn a_full_bucket_admits_its_burst_at_once() {
        check("1/s", 2, &[0, 0, 0], &[true, true, false]);
    }

    #[test]
    fn an_empty_bucket_admits_again_after_one_period() {
        check(
            "10/s",
            1,
            &[0, 99_999, 100_000, 150_000],
            &[true, false, true, false],
        );
    }

    #[test]
    fn who_waits_as_long_as_told_is_admitted() {
        let (bucket, quota) = (Bucket::default(), quota("700000/s", 3));
        let mut now = at(5);
        for _ in 0..1_000 {
            if let Err(wait) = bucket.take(quota, now) {
                now += ticks(wait);
                assert_eq!(bucket.take(quota, now), Ok(()));
            }
        }
    }

    #[test]
    fn a_flood_of_a_minute_gets_its_burst_and_its_rate() {
        for (rate, burst, expect) in [("100/s", 200, 6_200.0), ("10/s", 5, 605.0)] {
            let (bucket, quota) = (Bucket::default(), quota(rate, burst));
            let admitted = (0..60_000_u64)
                .filter(|millis| bucket.take(quota, at(millis * 1_000)).is_ok())
                .count();
            assert!(
                (admitted as f64 / expect - 1.0).abs() < 0.01,
                "{rate}: {admitted}"
            );
        }
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let (bucket, quota) = (Bucket::default(), quota("1/s", 1));
        bucket.take(quota, at(0)).unwrap();
        bucket.give_back(quota);
        assert!(bucket.is_full(quota, at(0)));
        bucket.take(quota, at(0)).unwrap();
        assert!(!bucket.is_full(quota, at(0)));
    }

    #[test]
    fn a_bucket_survives_the_clock_going_round() {
        let (bucket, quota) = (Bucket::default(), quota("10/s", 1));
        bucket.take(quota, u64::MAX - 5).unwrap();
        assert!(bucket.take(quota, 3).is_err());
        bucket.take(quota, at(200_000)).unwrap();
    }

    #[test]
    fn another_quota_goes_on_with_what_was_taken() {
        let (fast, slow) = (quota("10/s", 5), quota("1/s", 5));
        for (taken, from, to, left) in [
            (3, fast, slow, 2),
            (5, fast, slow, 0),
            (2, slow, fast, 3),
            (0, fast, slow, 5),
        ] {
            let bucket = Bucket::default();
            (0..taken).for_each(|_| bucket.take(from, at(9)).unwrap());
            bucket.change(from, to, at(9));
            let admitted = (0..9).filter(|_| bucket.take(to, at(9)).is_ok()).count();
            assert_eq!(admitted, left);
        }
        // A smaller burst is used up, and no more than used up.
        let (bucket, small) = (Bucket::default(), quota("1/s", 1));
        (0..5).for_each(|_| bucket.take(fast, at(0)).unwrap());
        bucket.change(fast, small, at(0));
        assert_eq!(bucket.take(small, at(0)), Err(Duration::from_secs(1)));
    }

    #[test]
    fn impossible_quotas_are_none() {
        assert_eq!(Quota::new("1/s".parse().unwrap(), 0), None);
        assert_eq!(Quota::new("1/4000000000s".parse().unwrap(), 1_000), None);
    }

    proptest! {
        /// In no interval more than burst + rate × interval + 1.
        #[test]
        fn no_interval_gets_more_than_its_due(
            permits in prop_oneof![1_u32..1_000, 1_000_u32..2_000_000],
            burst in 1_u32..50,
            gaps in prop::collection::vec(0_u64..40_000, 1..120),
        ) {
            let (bucket, quota) = (Bucket::default(), Quota::new(Rate::per_second(permits).unwrap(), burst).unwrap());
            let (mut now, mut admitted) = (0, Vec::new());
            for gap in gaps {
                now += gap;
                if bucket.take(quota, at(now)).is_ok() {
                    admitted.push(now);
                }
            }
            for (n, from) in admitted.iter().enumerate() {
                for (m, to) in admitted.iter().enumerate().skip(n) {
                    let due = f64::from(burst) + f64::from(permits) * (to - from) as f64 / 1e6 + 1.0;
                    prop_assert!((m - n + 1) as f64 <= due, "{} in {} µs", m - n + 1, to - from);
                }
            }
        }

        /// Over a long time, the rate is what was asked for.
        #[test]
        fn in_the_long_run_the_rate_is_exact(permits in 1_u32..2_000_000) {
            let quota = Quota::new(Rate::per_second(permits).unwrap(), 1).unwrap();
            let seconds = 1e6 / f64::from(permits);
            let error = (quota.period as f64 * 1e6 / 256e9) / seconds - 1.0;
            prop_assert!(error.abs() < 1e-3, "{error}");
        }
    }
}
