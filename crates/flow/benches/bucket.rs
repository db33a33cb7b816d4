//! What a permit costs: alone, and with 16 threads at one bucket; what a million connections cost, each with a bucket of its
//! own; and a minute's flood in real time with `-- flood`. `cargo bench -p setpoint-flow --bench bucket`.
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
        let limits = limits(rules);
        let (scope, now) = (Scope::default(), Instant::now());
        let cost = nanos(ROUNDS, || {
            for n in 0..ROUNDS {
                let admitted = limits.admit(&ask, &scope, now + Duration::from_nanos(n));
                black_box(admitted).expect("room for all");
            }
        });
        println!("admit, {what}: {cost:.1} ns");
    }
    connections(&rule("a", Per::Connection), &ask);
    if std::env::args().any(|word| word == "flood") {
        flood(&ask);
    }
}

/// A million connections that have all asked once.
fn connections(rule: &Rule, ask: &Ask<'_>) {
    const CONNECTIONS: usize = 1_000_000;
    let limits = limits(vec![rule.clone()]);
    let mut scopes = Vec::with_capacity(CONNECTIONS);
    let (before, now) = (memory_kib(), Instant::now());
    for _ in 0..CONNECTIONS {
        let scope = Scope::default();
        limits.admit(ask, &scope, now).expect("room for all");
        scopes.push(scope);
    }
    let grew = memory_kib().saturating_sub(before);
    println!(
        "{CONNECTIONS} connections with a bucket each: {} MiB, {} B each",
        grew / 1024,
        grew * 1024 / CONNECTIONS as u64
    );
}

/// A minute of calls as fast as they come, on one connection at 100/s with a burst of 200; beside it one at 10/s with 5.
fn flood(ask: &Ask<'_>) {
    let rule = |rate: &str, burst| Rule::new("r", rate).burst(burst).per(Per::Connection);
    let both = [limits(vec![rule("100/s", 200)]), limits(vec![rule("10/s", 5)])];
    let scopes = [Scope::default(), Scope::default()];
    let (mut admitted, mut asked, began) = ([0; 2], 0_u64, Instant::now());
    while began.elapsed() < Duration::from_secs(60) {
        asked += 1;
        for n in 0..2 {
            admitted[n] += u32::from(both[n].admit(ask, &scopes[n], Instant::now()).is_ok());
        }
    }
    println!(
        "a minute, {asked} calls: {} of 6,200 and {} of 605 admitted",
        admitted[0], admitted[1]
    );
}

fn limits(rules: Vec<Rule>) -> Limits {
    Limits::of(&Rules {
        rules,
        ..Rules::default()
    })
    .expect("rules that hold")
}

/// Resident memory of this process.
fn memory_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

fn nanos(rounds: u64, work: impl FnOnce()) -> f64 {
    let began = Instant::now();
    work();
    began.elapsed().as_nanos() as f64 / rounds as f64
}
