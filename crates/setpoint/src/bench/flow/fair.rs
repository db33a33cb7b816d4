//! Many equal streams on one connection; and a small call beside large ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde::Serialize;
use setpoint_base::{Stop, TaskGroup};
use setpoint_flow::impair::Setting;
use tokio::time::{Instant, interval_at, sleep};

use super::contender::{Contender, Estimate, Start};
use super::step::estimates;
use super::{Bench, GRACE, bounded};

const LINK_MBIT: u64 = 1_000;
pub(super) const RTT_MS: u64 = 20;
const EQUAL_STREAMS: usize = 100;
pub(super) const LARGE_STREAMS: usize = 8;
const CALL_BYTES: usize = 1_024;
/// From one call to the next, whether or not those before were answered: callers that waited for answers would all go on at the
/// same moment once they had waited for the same queue, and no longer see what is between.
const EVERY: Duration = Duration::from_micros(6_250);
/// Before anything counts.
const SETTLE: Duration = Duration::from_secs(1);
/// What waits before the link, in bytes: a call waits behind it whatever a server does.
pub(super) const BUFFER_BYTES: u64 = 128 << 10;

/// One contender.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Fair {
    pub(super) contender: Contender,
    pub(super) link_mbit: u64,
    pub(super) rtt_ms: u64,
    pub(super) streams: usize,
    /// Jain's index of what the streams sent: 1 is equal, 1/n is one that has all.
    pub(super) jain: f64,
    /// What they sent together, in percent of the link.
    pub(super) percent: f64,
    /// A small call alone, in milliseconds.
    pub(super) alone_p50_ms: f64,
    pub(super) alone_p99_ms: f64,
    /// The same beside large streams.
    pub(super) beside_p50_ms: f64,
    pub(super) beside_p99_ms: f64,
    pub(super) calls: usize,
    /// Calls that had no answer in the time there was.
    pub(super) stuck: usize,
    /// What the large streams sent meanwhile, in percent of the link.
    pub(super) beside_percent: f64,
    /// The calls beside them, by when they began: seconds, milliseconds.
    series: Vec<(f64, f64)>,
    /// What the server says of itself meanwhile, by milliseconds.
    estimates: Vec<(u64, Estimate)>,
}

pub(super) async fn measure(
    contender: Contender,
    start: &Start,
    quick: bool,
    fairs: &mut Vec<Fair>,
) -> Result<()> {
    let time = Duration::from_secs(if quick { 1 } else { 3 });
    fairs.push(bounded(fair(contender, start, time)).await?);
    Ok(())
}

async fn fair(contender: Contender, start: &Start, time: Duration) -> Result<Fair> {
    let mut setting = Setting::symmetric(Duration::from_millis(RTT_MS), Some(LINK_MBIT * 1_000_000));
    setting.up.buffer = Some(BUFFER_BYTES);
    let (jain, percent) = equal(start, setting, time).await?;
    let bench = Bench::start(start, setting).await?;
    let (alone, alone_stuck) = calls(&bench, time).await;
    let uploads = TaskGroup::new(&Stop::new());
    let counts = upload(&bench, LARGE_STREAMS, &uploads).await?;
    sleep(SETTLE).await;
    let (before, started) = (total(&counts), Instant::now());
    let ((beside, stuck), estimates) =
        tokio::join!(calls(&bench, time * 2), estimates(&bench.peer, time * 2));
    let beside_percent = share(total(&counts) - before, started.elapsed(), LINK_MBIT);
    uploads.shutdown(GRACE).await;
    bench.stop().await?;
    let (alone, times) = (in_order(&alone, |_| true), in_order(&beside, |_| true));
    Ok(Fair {
        contender,
        link_mbit: LINK_MBIT,
        rtt_ms: RTT_MS,
        streams: EQUAL_STREAMS,
        jain,
        percent,
        alone_p50_ms: quantile(&alone, 0.5),
        alone_p99_ms: quantile(&alone, 0.99),
        beside_p50_ms: quantile(&times, 0.5),
        beside_p99_ms: quantile(&times, 0.99),
        calls: beside.len(),
        stuck: alone_stuck + stuck,
        beside_percent,
        series: series(&beside),
        estimates,
    })
}

/// Jain's index and the share of the link of equal streams.
async fn equal(start: &Start, setting: Setting, time: Duration) -> Result<(f64, f64)> {
    let bench = Bench::start(start, setting).await?;
    let uploads = TaskGroup::new(&Stop::new());
    let counts = upload(&bench, EQUAL_STREAMS, &uploads).await?;
    sleep(SETTLE).await;
    let read = || -> Vec<u64> { counts.iter().map(|count| count.load(Ordering::Relaxed)).collect() };
    let (before, started) = (read(), Instant::now());
    sleep(time).await;
    let sent: Vec<f64> = read()
        .iter()
        .zip(&before)
        .map(|(to, from)| (to - from) as f64)
        .collect();
    let took = started.elapsed();
    uploads.shutdown(GRACE).await;
    bench.stop().await?;
    Ok((
        jain(&sent),
        share(sent.iter().sum::<f64>() as u64, took, LINK_MBIT),
    ))
}

pub(super) async fn upload(
    bench: &Bench,
    streams: usize,
    uploads: &TaskGroup,
) -> Result<Vec<Arc<AtomicU64>>> {
    let mut counts = Vec::new();
    for _ in 0..streams {
        counts.push(bench.sender.upload(uploads).await?);
    }
    Ok(counts)
}

pub(super) fn total(counts: &[Arc<AtomicU64>]) -> u64 {
    counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
}

/// Percent of the link.
pub(super) fn share(bytes: u64, time: Duration, link_mbit: u64) -> f64 {
    bytes as f64 * 8.0 / 1e6 / time.as_secs_f64().max(1e-9) / link_mbit as f64 * 100.0
}

/// A small call: when it began, in seconds, and how long it took, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) at_s: f64,
    pub(super) took_ms: f64,
}

/// Small calls at equal distances for `time`, and how many had no answer.
pub(super) async fn calls(bench: &Bench, time: Duration) -> (Vec<Call>, usize) {
    let start = Instant::now();
    let end = start + time;
    let mut ticks = interval_at(start, EVERY);
    let (mut flying, mut calls, mut stuck) = (FuturesUnordered::new(), Vec::new(), 0);
    let mut count = |ended: Option<Call>| match ended {
        Some(call) => calls.push(call),
        None => stuck += 1,
    };
    while Instant::now() < end {
        tokio::select! {
            Some(ended) = flying.next() => count(ended),
            _ = ticks.tick() => flying.push(call(bench, start, end + SETTLE)),
        }
    }
    while let Some(ended) = flying.next().await {
        count(ended);
    }
    (calls, stuck)
}

/// One small call. One that is not answered until `end` is stuck: it is not waited for.
async fn call(bench: &Bench, start: Instant, end: Instant) -> Option<Call> {
    let at_s = start.elapsed().as_secs_f64();
    let took = tokio::time::timeout_at(end, bench.sender.echo(CALL_BYTES)).await;
    Some(Call {
        at_s,
        took_ms: took.ok()?.ok()?.as_secs_f64() * 1e3,
    })
}

/// How long some of them took, in order.
pub(super) fn in_order(calls: &[Call], which: impl Fn(&Call) -> bool) -> Vec<f64> {
    let some = calls.iter().filter(|call| which(call));
    let mut times: Vec<f64> = some.map(|call| call.took_ms).collect();
    times.sort_by(f64::total_cmp);
    times
}

/// When they began, in seconds and in order, and how long they took.
pub(super) fn series(calls: &[Call]) -> Vec<(f64, f64)> {
    let mut series: Vec<_> = calls.iter().map(|call| (call.at_s, call.took_ms)).collect();
    series.sort_by(|one, other| one.0.total_cmp(&other.0));
    series
}

pub(super) fn quantile(sorted: &[f64], quantile: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let index = (last as f64 * quantile).ceil() as usize;
    sorted.get(index).copied().unwrap_or(f64::INFINITY)
}

/// Jain's fairness index.
fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    if squares > 0.0 {
        sum * sum / (shares.len() as f64 * squares)
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jains_index_is_one_for_equals_and_a_share_for_one_that_has_all() {
        assert!((jain(&[5.0; 10]) - 1.0).abs() < 1e-9);
        assert!((jain(&[1.0, 0.0, 0.0, 0.0]) - 0.25).abs() < 1e-9);
        assert_eq!(jain(&[0.0, 0.0]), 0.0);
    }

    #[test]
    fn quantiles_are_taken_from_above() {
        let times: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&times, 0.5), 51.0);
        assert_eq!(quantile(&times, 0.99), 100.0);
        assert!(quantile(&[], 0.99).is_infinite());
    }
}
