//! One stream over links of every kind: how much of the link it fills, and how soon.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use setpoint_base::{Stop, TaskGroup};
use setpoint_flow::impair::Setting;

use super::contender::{Contender, Start};
use super::meter::Trace;
use super::{Bench, GRACE, bounded};

/// Megabits per second and round trips in milliseconds.
const RATES: [u64; 2] = [100, 1_000];
const ROUND_TRIPS: [u64; 4] = [2, 30, 100, 200];
/// The share of the link that counts as filled.
const FILLED: f64 = 0.9;
/// A rate holds when it holds for a round trip, and for at least this long.
const WINDOW_MIN: Duration = Duration::from_millis(20);

/// One link and one contender.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Cell {
    pub(super) contender: Contender,
    pub(super) link_mbit: u64,
    pub(super) rtt_ms: u64,
    /// Share of the link over the last 40 % of the time, in percent.
    pub(super) steady_percent: f64,
    /// Round trips until 90 % of the link was reached; none if it never was.
    pub(super) filled_after_rtts: Option<f64>,
    /// CPU seconds of the server for each GB.
    pub(super) server_cpu_per_gb: Option<f64>,
    /// Milliseconds between the values of `series`.
    pub(super) step_ms: u64,
    /// Megabits per second over time.
    pub(super) series: Vec<f64>,
}

pub(super) async fn measure(
    contender: Contender,
    start: &Start,
    quick: bool,
    cells: &mut Vec<Cell>,
) -> Result<()> {
    for link_mbit in RATES {
        for rtt_ms in ROUND_TRIPS {
            if !quick || rtt_ms == 30 {
                cells.push(bounded(cell(contender, start, link_mbit, rtt_ms)).await?);
            }
        }
    }
    Ok(())
}

async fn cell(contender: Contender, start: &Start, link_mbit: u64, rtt_ms: u64) -> Result<Cell> {
    let round_trip = Duration::from_millis(rtt_ms);
    let setting = Setting::symmetric(round_trip, Some(link_mbit * 1_000_000));
    let bench = Bench::start(start, setting).await?;
    let before = bench.peer.cpu_seconds();
    let uploads = TaskGroup::new(&Stop::new());
    bench.sender.upload(&uploads).await?;
    let time = Duration::from_millis(1_500) + round_trip * 20;
    let trace = Trace::watch(&bench.proxy, time).await;
    let cpu = before.zip(bench.peer.cpu_seconds()).map(|(from, to)| to - from);
    uploads.shutdown(GRACE).await;
    bench.stop().await;
    let end = trace.length();
    let link = link_mbit as f64;
    let window = round_trip.max(WINDOW_MIN);
    let step_ms = (rtt_ms / 4).clamp(20, 50);
    let gigabytes = trace.mbit(Duration::ZERO, end) * end.as_secs_f64() / 8e3;
    Ok(Cell {
        contender,
        link_mbit,
        rtt_ms,
        steady_percent: trace.mbit(end.mul_f64(0.6), end) / link * 100.0,
        filled_after_rtts: trace
            .reaches(link * FILLED, window)
            .map(|at| at.as_secs_f64() / round_trip.as_secs_f64()),
        server_cpu_per_gb: cpu.map(|cpu| cpu / gigabytes.max(1e-9)),
        step_ms,
        series: trace.series(Duration::from_millis(step_ms)),
    })
}
