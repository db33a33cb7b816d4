//! Every order in which threads can meet at one bucket, by loom.
//!
//! The bucket's own file is compiled here with loom's atomics in place of the processor's, so that nothing about the
//! product's build changes. Run as `docs/testing.md` says;
//! `LOOM_LOG=trace` shows the order in which a failure happened.
#![allow(dead_code, unreachable_pub, reason = "the files are the product's, which uses all of them")]

use std::time::Duration;

use bucket::{Bucket, Quota};
use loom::sync::Arc;
use loom::thread;

mod atomic {
    pub(super) use loom::sync::atomic::AtomicU64;
}
#[path = "../src/core/bucket.rs"]
mod bucket;
#[path = "../src/core/rate.rs"]
mod rate;

const NOW: u64 = 1 << 20;

fn quota(rate: &str, burst: u32) -> Quota {
    Quota::new(rate.parse().unwrap(), burst).unwrap()
}

/// How many permits can be taken at once.
fn left(bucket: &Bucket, quota: Quota) -> usize {
    (0..100).take_while(|_| bucket.take(quota, NOW).is_ok()).count()
}

#[test]
fn two_that_ask_at_once_never_get_the_same_permit() {
    loom::model(|| {
        let (bucket, quota) = (Arc::new(Bucket::default()), quota("1/s", 3));
        let other = {
            let bucket = Arc::clone(&bucket);
            thread::spawn(move || (0..2).filter(|_| bucket.take(quota, NOW).is_ok()).count())
        };
        let mine = (0..2).filter(|_| bucket.take(quota, NOW).is_ok()).count();
        assert_eq!(mine + other.join().unwrap(), 3);
        assert_eq!(bucket.take(quota, NOW), Err(Duration::from_secs(1)));
    });
}

#[test]
fn what_is_given_back_is_there_once() {
    loom::model(|| {
        let (bucket, quota) = (Arc::new(Bucket::default()), quota("1/s", 2));
        let other = {
            let bucket = Arc::clone(&bucket);
            thread::spawn(move || {
                if bucket.take(quota, NOW).is_ok() {
                    bucket.give_back(quota);
                }
            })
        };
        let mine = usize::from(bucket.take(quota, NOW).is_ok());
        other.join().unwrap();
        assert_eq!(mine, 1, "there were two, and the other took one at most");
        assert_eq!(left(&bucket, quota), 1);
    });
}

#[test]
fn a_change_of_the_rate_loses_no_permit_that_is_taken_meanwhile() {
    loom::model(|| {
        let (from, to) = (quota("1/s", 4), quota("1/2s", 4));
        let bucket = Arc::new(Bucket::default());
        bucket.take(from, NOW).unwrap();
        let changing = {
            let bucket = Arc::clone(&bucket);
            thread::spawn(move || bucket.change(from, to, NOW))
        };
        bucket.take(from, NOW).unwrap();
        changing.join().unwrap();
        // Taken before the change, it counts in full; after it, the old rate's half of a permit has been taken.
        assert_eq!(left(&bucket, to), 2);
    });
}

#[test]
fn a_clock_that_differs_between_threads_admits_no_more() {
    loom::model(|| {
        let (bucket, quota) = (Arc::new(Bucket::default()), quota("1/s", 1));
        let behind = NOW - 1_000;
        let other = {
            let bucket = Arc::clone(&bucket);
            thread::spawn(move || bucket.take(quota, behind).is_ok())
        };
        let mine = bucket.take(quota, NOW).is_ok();
        let other = other.join().unwrap();
        assert!(mine || other);
        // A thread that is behind may find a time that is ahead of its own by more than the burst.
        assert!(!(mine && other), "one permit");
    });
}
