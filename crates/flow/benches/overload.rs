//! Three times the load a service can take, with no limit, a fixed one, and each that learns. In real time, in this
//! process: `cargo bench -p setpoint-flow --bench overload [-- SECONDS]`.
//!
//! The service has 16 workers and takes 10 ms of one for a call, asleep, so that the machine's cores do not matter. Calls
//! come at a rate, whatever becomes of them; their clients give up after a second, which the service does not know. Printed: calls a second
//! that were served in time, as a part of what the service can do; what the slowest of a hundred took, as a multiple of
//! what one takes at rest; and, after half of the workers have gone in the middle, how long until both are well again.
#![allow(clippy::print_stdout, reason = "a benchmark prints")]

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use setpoint_flow::core::limit::Law;
use setpoint_flow::{Concurrency, Find, Limits, Outcome, Per, Rules};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

const WORKERS: usize = 16;
const SERVICE: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(1);
const TIMES: f64 = 3.0;

/// When a call was done, and what it took from its client's view.
type Done = Arc<Mutex<Vec<(Duration, Duration)>>>;

fn main() {
    // cargo bench passes options of its own.
    let seconds = std::env::args().skip(1).find_map(|arg| arg.parse().ok());
    let seconds: u64 = seconds.unwrap_or(12);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("threads can be started");
    println!(
        "limit        goodput   p99/rest   after half of the workers went: goodput   p99/rest   well after"
    );
    for (name, find) in [
        ("none", None),
        ("fixed 64", Some(Find::fixed(64))),
        ("gradient2", Some(Find::by(Law::Gradient2))),
        ("vegas", Some(Find::by(Law::Vegas))),
        ("aimd", Some(Find::by(Law::Aimd))),
    ] {
        let done = runtime.block_on(run(find, seconds));
        print(name, &done, seconds);
    }
}

fn print(name: &str, done: &[(Duration, Duration)], seconds: u64) {
    let (first, second) = (WORKERS, WORKERS / 2);
    let half = Duration::from_secs(seconds);
    let settled = half / 2;
    let before = window(done, settled, half, first);
    let after = window(done, half + settled, half * 2, second);
    let step = Duration::from_millis(250);
    let recovery = (0..seconds as u32 * 4 - 4).map(|n| step * n).find(|from| {
        let (goodput, p99) = window(done, half + *from, half + *from + Duration::from_secs(1), second);
        goodput >= 0.95 && p99 <= 2.5
    });
    let recovery = recovery.map_or("never".to_owned(), |time| format!("{:.2} s", time.as_secs_f64()));
    println!(
        "{name:<12} {:>5.1} %   {:>8.1}                                         {:>5.1} %   {:>8.1}   {recovery:>10}",
        before.0 * 100.0,
        before.1,
        after.0 * 100.0,
        after.1,
    );
}

/// Goodput as a part of what can be done, and p99 as a multiple of the time at rest.
fn window(done: &[(Duration, Duration)], from: Duration, to: Duration, workers: usize) -> (f64, f64) {
    let within = done.iter().filter(|(at, _)| (from..to).contains(at));
    let mut took: Vec<_> = within.map(|(_, took)| *took).collect();
    took.sort_unstable();
    let can = workers as f64 / SERVICE.as_secs_f64() * (to - from).as_secs_f64();
    let p99 = took.get(took.len() * 99 / 100).copied().unwrap_or(PATIENCE);
    (took.len() as f64 / can, p99.as_secs_f64() / SERVICE.as_secs_f64())
}

async fn run(find: Option<Find>, seconds: u64) -> Vec<(Duration, Duration)> {
    let limits = Limits::new();
    let concurrency = find.map(|limit| Concurrency {
        name: "service".to_owned(),
        methods: Vec::new(),
        per: Per::Global,
        limit,
        min: None,
        max: None,
        queue: None,
        wait: None,
    });
    let rules = Rules {
        concurrency: concurrency.into_iter().collect(),
        ..Rules::default()
    };
    limits.replace(&rules, Instant::now()).expect("rules that hold");
    let (workers, done, began) = (Arc::new(Semaphore::new(WORKERS)), Done::default(), Instant::now());
    let rate = TIMES * WORKERS as f64 / SERVICE.as_secs_f64();
    let (mut calls, mut sent) = (JoinSet::new(), 0.0);
    let mut ticks = interval(Duration::from_millis(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut halved = false;
    while began.elapsed() < Duration::from_secs(seconds * 2) {
        ticks.tick().await;
        if !halved && began.elapsed() >= Duration::from_secs(seconds) {
            halved = true;
            // Those that are at work finish first.
            let (workers, half) = (Arc::clone(&workers), WORKERS as u32 / 2);
            calls.spawn(async move {
                for _ in 0..half {
                    workers.acquire().await.expect("it stays open").forget();
                }
            });
        }
        // As many as are due, also when this thread had to wait.
        while sent < rate * began.elapsed().as_secs_f64() {
            sent += 1.0;
            let (limits, workers, done) = (limits.clone(), Arc::clone(&workers), Arc::clone(&done));
            calls.spawn(async move {
                let came = Instant::now();
                if serve(&limits, &workers).await && came.elapsed() <= PATIENCE {
                    done.lock().push((began.elapsed(), came.elapsed()));
                }
            });
        }
        while calls.try_join_next().is_some() {}
    }
    calls.shutdown().await;
    std::mem::take(&mut *done.lock())
}

/// Whether the call was served.
async fn serve(limits: &Limits, workers: &Semaphore) -> bool {
    let Ok(permit) = limits.enter("/bench/Call").await else {
        return false;
    };
    let _worker = workers.acquire().await.expect("it stays open");
    sleep(SERVICE).await;
    permit.finish(Outcome::Served);
    true
}
