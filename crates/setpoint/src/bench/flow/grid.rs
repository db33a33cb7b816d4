//! One stream over links of every kind: how much of the link it fills, and how soon.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use setpoint_base::{Stop, TaskGroup};
use setpoint_flow::impair::Setting;

use super::contender::{Contender, Start};
use super::download::Download;
use super::meter::{Trace, Way};
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
    pub(super) direction: Way,
    pub(super) link_mbit: u64,
    pub(super) rtt_ms: u64,
    /// Up to this part of its delay is added each way.
    pub(super) jitter_percent: u32,
    /// Share of the link over the last 40 % of the time, in percent.
    pub(super) steady_percent: f64,
    /// Round trips until 90 % of the link was reached; none if it never was.
    pub(super) filled_after_rtts: Option<f64>,
    /// CPU seconds of the contender for each GB.
    pub(super) server_cpu_per_gb: Option<f64>,
    /// Milliseconds between the values of `series`.
    pub(super) step_ms: u64,
    /// Megabits per second over time.
    pub(super) series: Vec<f64>,
}

pub(super) async fn measure(
    contender: Contender,
    start: &Start,
    way: Way,
    jitter_percent: u32,
    quick: bool,
    cells: &mut Vec<Cell>,
) -> Result<()> {
    for link_mbit in RATES {
        for rtt_ms in ROUND_TRIPS {
            if !quick || rtt_ms == 30 {
                let round_trip = Duration::from_millis(rtt_ms);
                let link = Link {
                    link_mbit,
                    round_trip,
                    jitter_percent,
                };
                let (trace, cpu) = match way {
                    Way::Up => bounded(link.upload(start)).await?,
                    Way::Down => bounded(link.download(start)).await?,
                };
                cells.push(link.cell(contender, way, &trace, cpu));
            }
        }
    }
    Ok(())
}

/// The link of a cell.
#[derive(Clone, Copy)]
struct Link {
    link_mbit: u64,
    round_trip: Duration,
    jitter_percent: u32,
}

impl Link {
    fn setting(self) -> Setting {
        let mut setting = Setting::symmetric(self.round_trip, Some(self.link_mbit * 1_000_000));
        for way in [&mut setting.up, &mut setting.down] {
            way.jitter = way.delay * self.jitter_percent / 100;
        }
        setting
    }

    fn time(self) -> Duration {
        Duration::from_millis(1_500) + self.round_trip * 20
    }

    /// What passed, and CPU seconds of the contender.
    async fn upload(self, start: &Start) -> Result<(Trace, Option<f64>)> {
        let bench = Bench::start(start, self.setting()).await?;
        let before = bench.peer.cpu_seconds();
        let uploads = TaskGroup::new(&Stop::new());
        bench.sender.upload(&uploads).await?;
        let trace = Trace::watch(&bench.proxy, Way::Up, self.time()).await;
        let cpu = before.zip(bench.peer.cpu_seconds()).map(|(from, to)| to - from);
        uploads.shutdown(GRACE).await;
        bench.stop().await?;
        Ok((trace, cpu))
    }

    async fn download(self, start: &Start) -> Result<(Trace, Option<f64>)> {
        let bench = Download::start(start, self.setting()).await?;
        let before = bench.peer.cpu_seconds();
        let trace = Trace::watch(&bench.proxy, Way::Down, self.time()).await;
        let cpu = before.zip(bench.peer.cpu_seconds()).map(|(from, to)| to - from);
        bench.stop().await?;
        Ok((trace, cpu))
    }

    fn cell(self, contender: Contender, direction: Way, trace: &Trace, cpu: Option<f64>) -> Cell {
        let end = trace.length();
        let link = self.link_mbit as f64;
        let window = self.round_trip.max(WINDOW_MIN);
        let rtt_ms = self.round_trip.as_millis() as u64;
        let step_ms = (rtt_ms / 4).clamp(20, 50);
        let gigabytes = trace.mbit(Duration::ZERO, end) * end.as_secs_f64() / 8e3;
        Cell {
            contender,
            direction,
            link_mbit: self.link_mbit,
            rtt_ms,
            jitter_percent: self.jitter_percent,
            steady_percent: trace.mbit(end.mul_f64(0.6), end) / link * 100.0,
            filled_after_rtts: trace
                .reaches(link * FILLED, window)
                .map(|at| at.as_secs_f64() / self.round_trip.as_secs_f64()),
            server_cpu_per_gb: cpu.map(|cpu| cpu / gigabytes.max(1e-9)),
            step_ms,
            series: trace.series(Duration::from_millis(step_ms)),
        }
    }
}
