//! The embedded store without a network: durable puts per second, memory, restart.
//!
//! `cargo bench -p setpoint-store --bench engine [-- DIR]`. Writers are closed loops on one current-thread
//! runtime; each figure is the median of three rounds. `DIR` must lie on the disk to be measured.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench prints, and dies of errors"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use setpoint_base::{FsDisk, SystemClock};
use setpoint_store::types::{KeyRange, Put, Range, Revision};
use setpoint_store::{Options, Store};
use tokio::time::Instant;

const KEYS: usize = 1_000_000;

fn open(dir: &Path) -> Store {
    Store::open(Options::new(dir), Arc::new(FsDisk), SystemClock::shared()).unwrap()
}

fn key(n: usize) -> String {
    format!(
        "/registry/pods/namespace-{:04}/app-service-{n:07}-{:08x}",
        n % 1_000,
        n.wrapping_mul(0x9e37_79b9)
    )
}

fn resident_mb() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok())
        .unwrap_or(0)
        * 4
        / 1024
}

/// Processor time of this process in ms: comparable between runs even when the machine is busy.
fn cpu_ms() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    // User and system time, in ticks of 10 ms.
    fields
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<u64>().ok())
        .sum::<u64>()
        * 10
}

fn load_average() -> String {
    std::fs::read_to_string("/proc/loadavg")
        .unwrap_or_default()
        .split(' ')
        .next()
        .unwrap_or("?")
        .to_owned()
}

fn percentile(sorted: &[u64], part: f64) -> u64 {
    let at = (sorted.len() as f64 * part) as usize;
    sorted
        .get(at.min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(0)
}

/// Puts per second and latencies in µs.
fn puts(runtime: &tokio::runtime::Runtime, store: &Store, writers: usize, size: usize) -> (u64, u64, u64) {
    let until = Instant::now() + Duration::from_secs(2);
    let started = Instant::now();
    let mut latencies: Vec<u64> = runtime.block_on(async {
        let local = tokio::task::LocalSet::new();
        let tasks: Vec<_> = (0..writers)
            .map(|writer| {
                let store = store.clone();
                local.spawn_local(async move {
                    let (mut latencies, mut n) = (Vec::new(), writer);
                    let value = Bytes::from(vec![fastrand::u8(..); size]);
                    while Instant::now() < until {
                        let sent = Instant::now();
                        store
                            .put(Put::new(key(n % 100_000), value.clone()), None)
                            .await
                            .unwrap();
                        latencies.push(sent.elapsed().as_micros() as u64);
                        n += writers;
                    }
                    latencies
                })
            })
            .collect();
        local
            .run_until(async {
                let mut all = Vec::new();
                for task in tasks {
                    all.extend(task.await.unwrap());
                }
                all
            })
            .await
    });
    let rate = (latencies.len() as f64 / started.elapsed().as_secs_f64()) as u64;
    latencies.sort_unstable();
    (rate, percentile(&latencies, 0.5), percentile(&latencies, 0.99))
}

fn append(runtime: &tokio::runtime::Runtime, dir: &Path) {
    println!("durable puts           /s      p50 us   p99 us");
    for size in [1024, 256] {
        for writers in [1, 16, 256] {
            let store = open(&dir.join(format!("append-{size}-{writers}")));
            std::thread::sleep(Duration::from_millis(500));
            let cpu = cpu_ms();
            let mut rounds: Vec<_> = (0..3).map(|_| puts(runtime, &store, writers, size)).collect();
            rounds.sort_unstable();
            let (rate, p50, p99) = rounds[1];
            let puts = store.revision().0 as u64 - 1;
            let each = (cpu_ms() - cpu) * 1000 / puts.max(1);
            println!(
                "{writers:>4} writers {size:>5} B {rate:>9} {p50:>9} {p99:>8}   {each} us of processor each, load {}",
                load_average()
            );
        }
    }
}

fn fill(runtime: &tokio::runtime::Runtime, store: &Store) {
    runtime.block_on(async {
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..256 {
            let store = store.clone();
            writers.spawn(async move {
                let mut value = vec![0; 1024];
                for n in (writer..KEYS).step_by(256) {
                    fastrand::fill(&mut value);
                    let n = n.wrapping_mul(7_919) % KEYS;
                    store
                        .put(Put::new(key(n), Bytes::copy_from_slice(&value)), None)
                        .await
                        .unwrap();
                }
            });
        }
        writers.join_all().await;
    });
}

fn first_read(dir: &Path, what: &str) -> Store {
    let (started, cpu) = (Instant::now(), cpu_ms());
    let store = open(dir);
    assert_eq!(store.range(&Range::key(key(17))).unwrap().kvs.len(), 1);
    println!(
        "{what:<46} {:>8.0} ms, {:>5} ms of processor   rss {} MB",
        started.elapsed().as_secs_f64() * 1e3,
        cpu_ms() - cpu,
        resident_mb()
    );
    store
}

fn reads(store: &Store) {
    let started = Instant::now();
    let most = 200_000;
    for _ in 0..most {
        assert_eq!(
            store
                .range(&Range::key(key(fastrand::usize(..KEYS))))
                .unwrap()
                .kvs
                .len(),
            1
        );
    }
    println!(
        "get, values from the page cache {:>22.2} us",
        started.elapsed().as_secs_f64() * 1e6 / f64::from(most)
    );
    let range = Range {
        limit: 10_000,
        ..Range::of(KeyRange::prefix(b"/registry/pods/"))
    };
    let started = Instant::now();
    assert_eq!(store.range(&range).unwrap().count, KEYS as i64);
    println!(
        "range of 10,000 with values {:>26.2} ms",
        started.elapsed().as_secs_f64() * 1e3
    );
    let range = Range {
        keys_only: true,
        ..range
    };
    let started = Instant::now();
    assert_eq!(store.range(&range).unwrap().kvs.len(), 10_000);
    println!(
        "range of 10,000, keys only {:>27.2} ms",
        started.elapsed().as_secs_f64() * 1e3
    );
    let range = Range {
        count_only: true,
        ..range
    };
    let started = Instant::now();
    assert_eq!(store.range(&range).unwrap().count, KEYS as i64);
    println!(
        "count of 1,000,000 {:>35.2} us",
        started.elapsed().as_secs_f64() * 1e6
    );
}

fn restart(runtime: &tokio::runtime::Runtime, dir: &Path) {
    println!("\n1,000,000 keys of 64 B with 1 KB");
    let before = resident_mb();
    let store = open(dir);
    let started = Instant::now();
    fill(runtime, &store);
    println!(
        "filled by 256 writers in {:.1} s, rss {} MB (before {before})",
        started.elapsed().as_secs_f64(),
        resident_mb()
    );
    reads(&store);
    // Without a close: what a crash leaves, as far as recovery can tell.
    drop(store);
    let store = first_read(dir, "restart after a crash, newest checkpoint");
    runtime.block_on(store.close()).unwrap();
    drop(store);
    drop(first_read(dir, "restart after a clean stop"));
    std::fs::remove_file(dir.join("checkpoint")).unwrap();
    let store = first_read(dir, "restart without a checkpoint");
    runtime.block_on(async {
        let started = Instant::now();
        for n in 0..200_000 {
            if n % 256 == 0 {
                tokio::task::yield_now().await;
            }
            drop(store.range(&Range::key(key(n))));
        }
        let revision = store.revision();
        store.compact(Revision(revision.0), true).await.unwrap();
        println!(
            "200,000 gets, then a physical compaction {:>13.0} ms",
            started.elapsed().as_secs_f64() * 1e3
        );
    });
}

fn main() {
    let dir = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let dir = dir.map_or_else(|| std::env::temp_dir().join("setpoint-bench"), PathBuf::from);
    let _ = std::fs::remove_dir_all(&dir);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    println!(
        "load {}, {} cores",
        load_average(),
        std::thread::available_parallelism().map_or(0, usize::from)
    );
    append(&runtime, &dir);
    restart(&runtime, &dir.join("restart"));
    let _ = std::fs::remove_dir_all(&dir);
}
