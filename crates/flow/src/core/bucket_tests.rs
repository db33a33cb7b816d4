//! The bucket, alone. What threads do to it at once is in `loom/`, which compiles the same file.

use std::time::Duration;

use super::bucket::{Bucket, Quota};
use super::rate::{Rate, ticks};
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
fn who_comes_with_an_older_time_gets_nothing_extra() {
    let (bucket, quota) = (Bucket::default(), quota("10/s", 3));
    (0..3).for_each(|_| bucket.take(quota, at(5_000)).unwrap());
    for behind in [4_999, 4_000, 0] {
        assert!(bucket.take(quota, at(behind)).is_err(), "{behind} µs");
    }
    assert!(bucket.take(quota, at(5_000)).is_err());
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
