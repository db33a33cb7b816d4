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
//! Time is a wrapping counter of 1/256 ns. A bucket cannot be further ahead than its burst and what clocks differ by; one
//! that seems to be was idle for so long that the counter went round (two years), and is full.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::atomic::AtomicU64;
use super::rate::{FILL_TICKS_MAX, Rate, TICKS_PER_NANO, duration};

/// Threads read the clock before they come here, so one may come with a time that is behind what others came with.
const SKEW_TICKS: u64 = 10_000_000_000 * TICKS_PER_NANO;

/// Rate and burst of buckets of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    pub(super) period: u64,
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

/// How far a bucket's time is ahead of now, in ticks; more than the burst only for a thread whose clock is behind.
fn ahead(time: u64, now: u64, quota: Quota) -> u64 {
    let ahead = time.wrapping_sub(now);
    // Behind now, it wraps to something huge.
    if time == 0 || ahead > quota.tolerance.saturating_add(SKEW_TICKS) {
        0
    } else {
        ahead
    }
}
