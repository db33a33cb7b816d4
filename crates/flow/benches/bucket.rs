//! What a permit costs: alone, and with 16 threads at one bucket. `cargo bench -p setpoint-flow`.
#![allow(clippy::print_stdout, reason = "a benchmark prints")]

use std::hint::black_box;
use std::time::Duration;

use setpoint_flow::core::bucket::{Bucket, Quota};
use setpoint_flow::{Ask, Limits, Per, Rule, Rules, Scope};
use tokio::time::Instant;

const ROUNDS: u64 = 2_000_000;

fn main() {
    let quota = Quota::new("4000000000/s".parse().expect("a rate"), u32::MAX).expect("a quota");
    let bucket = Bucket::default();
    let alone = nanos(ROUNDS, || {
        for n in 0..ROUNDS {
            bucket.take(quota, black_box(n)).expect("room for all");
        }
    });
    println!("bucket, one thread: {alone:.1} ns");
    let shared = nanos(ROUNDS, || {
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for n in 0..ROUNDS / 16 {
                        bucket.take(quota, black_box(n)).expect("room for all");
                    }
                });
            }
        });
    });
    println!("bucket, 16 threads: {shared:.1} ns a permit (all cores together)");
    let rule = |name: &str, per| Rule {
        name: name.to_owned(),
        methods: vec!["/etcdserverpb.KV/*".to_owned()],
        per,
        rate: "1000000000/s".to_owned(),
        burst: Some(u32::MAX),
    };
    let ask = Ask {
        method: "/etcdserverpb.KV/Put",
        peer: "10.0.0.7",
        metadata: &|_| None,
    };
    for (what, rules) in [
        ("no rules", vec![]),
        ("one rule per connection", vec![rule("a", Per::Connection)]),
        (
            "rules per connection, method and peer",
            vec![
                rule("a", Per::Connection),
                rule("b", Per::Method),
                rule("c", Per::Peer),
            ],
        ),
    ] {
        let limits = Limits::new();
        limits
            .replace(
                &Rules {
                    rules,
                    ..Rules::default()
                },
                Instant::now(),
            )
            .expect("rules that hold");
        let (scope, now) = (Scope::default(), Instant::now());
        let cost = nanos(ROUNDS, || {
            for n in 0..ROUNDS {
                let admitted = limits.admit(&ask, &scope, now + Duration::from_nanos(n));
                black_box(admitted).expect("room for all");
            }
        });
        println!("admit, {what}: {cost:.1} ns");
    }
}

fn nanos(rounds: u64, work: impl FnOnce()) -> f64 {
    let began = Instant::now();
    work();
    began.elapsed().as_nanos() as f64 / rounds as f64
}
