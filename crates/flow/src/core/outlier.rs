//! Which endpoints are left out for a while because they fail more than others.
//!
//! Two reasons: so many failures in a row, or, over an interval, a share of successes far below that of all endpoints
//! (gRFC A50, as Envoy does it). Each ejection lasts longer than the one before; quiet intervals shorten the next one.
//! Never more than a share of all endpoints is left out, and never the only one.

use std::time::Duration;

use tokio::time::Instant;

/// When endpoints are left out.
#[derive(Clone, Debug, PartialEq)]
pub struct OutlierPolicy {
    /// Failures in a row that eject (5); 0 never does.
    pub consecutive_failures: u32,
    /// How often shares of successes are compared (10 s).
    pub interval: Duration,
    /// How long the first ejection lasts; the n-th lasts n times as long (30 s).
    pub ejection_base: Duration,
    /// No ejection lasts longer (300 s).
    pub ejection_max: Duration,
    /// The share of all endpoints that may be out at a time, in percent (50).
    pub ejected_percent_max: u8,
    /// Calls in an interval from which on an endpoint's share of successes says something (100).
    pub calls_min: u32,
    /// Endpoints with so many calls that there must be to compare them (3).
    pub endpoints_min: usize,
    /// How many standard deviations below the mean share is too far (1.9).
    pub deviations: f64,
}

impl Default for OutlierPolicy {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            interval: Duration::from_secs(10),
            ejection_base: Duration::from_secs(30),
            ejection_max: Duration::from_secs(300),
            ejected_percent_max: 50,
            calls_min: 100,
            endpoints_min: 3,
            deviations: 1.9,
        }
    }
}

impl OutlierPolicy {
    /// Whether one more of `total` may be left out while `ejected` are.
    #[must_use]
    pub fn may_eject(&self, ejected: usize, total: usize) -> bool {
        (ejected + 1) * 100 <= usize::from(self.ejected_percent_max) * total && ejected + 1 < total
    }
}

/// What is known of one endpoint.
#[derive(Clone, Debug, Default)]
pub struct Health {
    failures_in_a_row: u32,
    tally: Tally,
    ejected_until: Option<Instant>,
    /// Ejections that quiet intervals have not paid off.
    ejections: u32,
}

/// Calls of one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls that the endpoint answered.
    pub succeeded: u32,
    /// Calls that failed because of the endpoint.
    pub failed: u32,
}

impl Health {
    /// Takes the end of a call into account. True: the endpoint has failed too often in a row.
    pub fn record(&mut self, succeeded: bool, policy: &OutlierPolicy) -> bool {
        if succeeded {
            self.failures_in_a_row = 0;
            self.tally.succeeded = self.tally.succeeded.saturating_add(1);
            return false;
        }
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        self.tally.failed = self.tally.failed.saturating_add(1);
        policy.consecutive_failures > 0 && self.failures_in_a_row >= policy.consecutive_failures
    }

    /// Leaves the endpoint out from now on. Returns for how long.
    pub fn eject(&mut self, policy: &OutlierPolicy, now: Instant) -> Duration {
        self.ejections = self.ejections.saturating_add(1);
        self.failures_in_a_row = 0;
        let lasts = policy
            .ejection_base
            .saturating_mul(self.ejections)
            .min(policy.ejection_max);
        self.ejected_until = Some(now + lasts);
        lasts
    }

    /// Whether the endpoint is left out.
    #[must_use]
    pub fn is_ejected(&self, now: Instant) -> bool {
        self.ejected_until.is_some_and(|until| now < until)
    }

    /// Ends an interval: its calls; one that was not left out during it pays off an ejection.
    pub fn end_interval(&mut self, now: Instant) -> Tally {
        if !self.is_ejected(now) && self.ejected_until.take().is_none() {
            self.ejections = self.ejections.saturating_sub(1);
        }
        std::mem::take(&mut self.tally)
    }
}

/// The indices of endpoints whose share of successes is too far below the others'.
#[must_use]
pub fn outliers(tallies: &[Tally], policy: &OutlierPolicy) -> Vec<usize> {
    let shares: Vec<(usize, f64)> = tallies
        .iter()
        .enumerate()
        .filter(|(_, tally)| tally.succeeded.saturating_add(tally.failed) >= policy.calls_min.max(1))
        .map(|(index, tally)| {
            let all = f64::from(tally.succeeded) + f64::from(tally.failed);
            (index, f64::from(tally.succeeded) / all)
        })
        .collect();
    if shares.len() < policy.endpoints_min.max(1) {
        return Vec::new();
    }
    let count = shares.len() as f64;
    let mean = shares.iter().map(|(_, share)| share).sum::<f64>() / count;
    let variance = shares
        .iter()
        .map(|(_, share)| (share - mean).powi(2))
        .sum::<f64>()
        / count;
    let least = mean - policy.deviations * variance.sqrt();
    shares
        .into_iter()
        .filter(|(_, share)| *share < least)
        .map(|(index, _)| index)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(succeeded: u32, failed: u32) -> Tally {
        Tally { succeeded, failed }
    }

    #[test]
    fn failures_in_a_row_eject_and_a_success_between_them_does_not() {
        let policy = OutlierPolicy::default();
        let mut health = Health::default();
        for _ in 0..20 {
            for _ in 0..4 {
                assert!(!health.record(false, &policy));
            }
            health.record(true, &policy);
        }
        let last: Vec<_> = (0..5).map(|_| health.record(false, &policy)).collect();
        assert_eq!(last, [false, false, false, false, true]);
    }

    #[test]
    fn each_ejection_lasts_longer_and_quiet_intervals_pay_it_off() {
        let policy = OutlierPolicy::default();
        let (mut health, mut now) = (Health::default(), Instant::now());
        for seconds in [30, 60, 90] {
            assert_eq!(health.eject(&policy, now).as_secs(), seconds);
            assert!(health.is_ejected(now + Duration::from_secs(seconds) - Duration::from_millis(1)));
            now += Duration::from_secs(seconds);
            assert!(!health.is_ejected(now));
        }
        // The first interval after it was out is not yet a quiet one.
        for _ in 0..3 {
            health.end_interval(now);
            now += policy.interval;
        }
        assert_eq!(health.eject(&policy, now).as_secs(), 60);
        for _ in 0..50 {
            health.eject(&policy, now);
        }
        assert_eq!(health.eject(&policy, now).as_secs(), 300);
    }

    #[test]
    fn at_most_the_share_is_out_and_never_the_only_one() {
        let policy = OutlierPolicy::default();
        let most = |total| (0..=total).find(|ejected| !policy.may_eject(*ejected, total));
        assert_eq!([1, 2, 3, 4, 10].map(most), [0, 1, 1, 2, 5].map(Some));
        let all = OutlierPolicy {
            ejected_percent_max: 100,
            ..policy
        };
        assert!(all.may_eject(1, 3) && !all.may_eject(2, 3));
    }

    #[test]
    fn an_endpoint_far_below_the_others_is_an_outlier() {
        let policy = OutlierPolicy::default();
        let good = tally(990, 10);
        assert_eq!(outliers(&[good, good, good, good, tally(500, 500)], &policy), [4]);
        assert!(outliers(&[good; 5], &policy).is_empty());
        // All fail alike: it is not the endpoint.
        assert!(outliers(&[tally(10, 990); 5], &policy).is_empty());
        // Too few calls, too few endpoints.
        assert!(outliers(&[good, good, good, tally(1, 9)], &policy).is_empty());
        assert!(outliers(&[good, tally(0, 1_000)], &policy).is_empty());
    }
}
