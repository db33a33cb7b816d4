//! Large streams that begin all at once on a new connection over a slow link, and a small call beside them: how long it waits
//! at first, and later.

use std::fmt::{self, Write as _};
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use setpoint_base::{Stop, TaskGroup};
use setpoint_flow::impair::Setting;
use tokio::time::Instant;

use super::contender::{Contender, Estimate, Start};
use super::fair::{
    BUFFER_BYTES, Call, LARGE_STREAMS, RTT_MS, calls, in_order, quantile, series, share, total, upload,
};
use super::step::estimates;
use super::{Bench, GRACE, bounded};

const LINK_MBIT: u64 = 100;
/// What counts as the beginning, in seconds.
const FIRST_S: f64 = 1.0;
/// A call that took longer waited behind a queue, in milliseconds.
const LATE_MS: f64 = 2.0 * RTT_MS as f64;

/// One contender.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Rush {
    pub(super) contender: Contender,
    link_mbit: u64,
    rtt_ms: u64,
    streams: usize,
    /// A small call in the first second, in milliseconds, and after it.
    first_p50_ms: f64,
    first_max_ms: f64,
    later_p50_ms: f64,
    later_p99_ms: f64,
    /// When the last call began that took more than twice the round trip; in seconds.
    late_until_s: f64,
    calls: usize,
    /// Calls that had no answer in the time there was.
    stuck: usize,
    /// What the large streams sent meanwhile, in percent of the link.
    percent: f64,
    /// Calls by when they began: seconds, milliseconds.
    series: Vec<(f64, f64)>,
    /// What the server says of itself, by milliseconds.
    estimates: Vec<(u64, Estimate)>,
}

pub(super) async fn measure(
    contender: Contender,
    start: &Start,
    quick: bool,
    rushes: &mut Vec<Rush>,
) -> Result<()> {
    let time = Duration::from_secs(if quick { 2 } else { 6 });
    rushes.push(bounded(rush(contender, start, time)).await?);
    Ok(())
}

async fn rush(contender: Contender, start: &Start, time: Duration) -> Result<Rush> {
    let mut setting = Setting::symmetric(Duration::from_millis(RTT_MS), Some(LINK_MBIT * 1_000_000));
    setting.up.buffer = Some(BUFFER_BYTES);
    let bench = Bench::start(start, setting).await?;
    let uploads = TaskGroup::new(&Stop::new());
    let started = Instant::now();
    let counts = upload(&bench, LARGE_STREAMS, &uploads).await?;
    let ((calls, stuck), estimates) = tokio::join!(calls(&bench, time), estimates(&bench.peer, time));
    let percent = share(total(&counts), started.elapsed(), LINK_MBIT);
    uploads.shutdown(GRACE).await;
    bench.stop().await?;
    Ok(Rush {
        estimates,
        ..seen(contender, &calls, stuck, percent)
    })
}

fn seen(contender: Contender, calls: &[Call], stuck: usize, percent: f64) -> Rush {
    let first = in_order(calls, |call| call.at_s < FIRST_S);
    let later = in_order(calls, |call| call.at_s >= FIRST_S);
    let late = calls.iter().filter(|call| call.took_ms > LATE_MS);
    Rush {
        contender,
        link_mbit: LINK_MBIT,
        rtt_ms: RTT_MS,
        streams: LARGE_STREAMS,
        first_p50_ms: quantile(&first, 0.5),
        first_max_ms: quantile(&first, 1.0),
        later_p50_ms: quantile(&later, 0.5),
        later_p99_ms: quantile(&later, 0.99),
        late_until_s: late.map(|call| call.at_s).fold(0.0, f64::max),
        calls: calls.len(),
        stuck,
        percent,
        series: series(calls),
        estimates: Vec::new(),
    }
}

pub(super) fn write(rushes: &[Rush], out: &mut String) -> fmt::Result {
    let Some(first) = rushes.first() else {
        return Ok(());
    };
    writeln!(
        out,
        "\nrush: {} Mbit/s, {} ms; {} streams begin at once, and a call of 1 KB beside them: in the first second, then",
        first.link_mbit, first.rtt_ms, first.streams
    )?;
    writeln!(
        out,
        "{:<16} {:>14} {:>14} {:>12} {:>7} {:>7} {:>6}",
        "", "first p50/max", "then p50/p99", "late until s", "% link", "calls", "stuck"
    )?;
    for rush in rushes {
        writeln!(
            out,
            "{:<16} {:>14} {:>14} {:>12.2} {:>7.1} {:>7} {:>6}",
            rush.contender.name(),
            format!("{:.1}/{:.1}", rush.first_p50_ms, rush.first_max_ms),
            format!("{:.1}/{:.1}", rush.later_p50_ms, rush.later_p99_ms),
            rush.late_until_s,
            rush.percent,
            rush.calls,
            rush.stuck
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_second_is_told_from_the_rest() {
        let call = |at_s, took_ms| Call { at_s, took_ms };
        let calls = [
            call(0.1, 90.0),
            call(0.9, 50.0),
            call(1.2, 41.0),
            call(1.5, 22.0),
            call(0.5, 70.0),
        ];
        let seen = seen(Contender::Setpoint, &calls, 0, 99.0);
        assert_eq!((seen.first_p50_ms, seen.first_max_ms), (70.0, 90.0));
        assert_eq!((seen.later_p50_ms, seen.later_p99_ms), (41.0, 41.0));
        assert_eq!(seen.late_until_s, 1.2);
        assert_eq!(seen.series.first(), Some(&(0.1, 90.0)));
    }
}
