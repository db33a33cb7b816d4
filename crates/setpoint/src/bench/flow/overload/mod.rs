//! Three times the load that a service can take: what is still done in time, how long it takes, how soon all is well.
//!
//! What the service can do is measured first and last in the same run, with callers that wait for their answers, enough to
//! keep all workers busy. Then calls come at a rate whatever becomes of them: a little less than that, three times as
//! many, and a little less again.

mod load;
pub(super) mod serve;
mod show;

use std::time::Duration;

use anyhow::{Result, bail};
use clap::ValueEnum;
use serde::Serialize;
use setpoint_base::{Stop, TaskGroup};
use setpoint_flow::Find;
use setpoint_flow::core::limit::Law;
use tokio::time::Instant;

use self::load::{Caller, Fate};
use self::serve::{FREE, SERVICE, WORK, WORKERS};
use super::contender::{Peer, Start};
use super::{GRACE, bounded};

pub(super) use self::show::{sheet, write};

/// Load before and after, and in between, in parts of what can be done.
const CALM: f64 = 0.8;
const TIMES: f64 = 3.0;
/// From then on after the step everything has to be well.
const RECOVERY: Duration = Duration::from_secs(5);
/// Goodput that is well, as a part of the peak; and p99, in times of the one at rest.
const GOODPUT: f64 = 0.95;
const SLOWER: f64 = 2.0;
/// Well is what is well over a second.
const WINDOW: Duration = Duration::from_secs(1);
/// Between two values of a series.
const STEP: Duration = Duration::from_millis(250);
/// Closed loops settle for so long.
const SETTLE: Duration = Duration::from_secs(1);

/// How the number of calls at a time is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// Found, in proportion to how much longer calls take than at rest
    Gradient2,
    /// Found, by how many calls seem to queue
    Vegas,
    /// Found, one more while calls are quick and a tenth less when they are not
    Aimd,
    /// Set by hand, to one and a half times the number of workers
    Fixed,
    /// Not at all
    None,
}

impl Limit {
    pub(super) const ALL: [Self; 5] = [Self::Gradient2, Self::Vegas, Self::Aimd, Self::Fixed, Self::None];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gradient2 => "gradient2",
            Self::Vegas => "vegas",
            Self::Aimd => "aimd",
            Self::Fixed => "fixed",
            Self::None => "none",
        }
    }

    fn find(self) -> Option<Find> {
        match self {
            Self::Gradient2 => Some(Find::by(Law::Gradient2)),
            Self::Vegas => Some(Find::by(Law::Vegas)),
            Self::Aimd => Some(Find::by(Law::Aimd)),
            Self::Fixed => Some(Find::fixed(WORKERS as u32 * 3 / 2)),
            Self::None => None,
        }
    }
}

/// One way to limit.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Overload {
    pub(super) limit: Limit,
    pub(super) workers: usize,
    pub(super) service_ms: f64,
    /// Calls a second that can be done, before and after; without a limit twice the one before.
    pub(super) peak: [f64; 2],
    /// What calls take of a service that has little to do, in milliseconds.
    pub(super) rest_p50_ms: f64,
    pub(super) rest_p99_ms: f64,
    /// Seconds of calm, overload and calm.
    pub(super) seconds: [f64; 3],
    /// Calls a second that came, by phase.
    pub(super) offered: [f64; 3],
    /// Under overload, from `RECOVERY` after the step on: calls served in time, in percent of the peak.
    pub(super) goodput_percent: f64,
    /// Their times, in milliseconds.
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    /// Seconds after the step until goodput and p99 were well over a second; none if they never were.
    pub(super) well_after: Option<f64>,
    /// Seconds after the end of the overload until everybody was served as at rest.
    pub(super) calm_after: Option<f64>,
    /// All calls of the run, by what became of them.
    pub(super) served: usize,
    pub(super) refused: usize,
    pub(super) late: usize,
    /// CPU seconds of the server for a thousand calls of all kinds.
    pub(super) server_cpu_per_1000: Option<f64>,
    pub(super) step_ms: u64,
    /// Calls served in time, a second, over time; and the p99 of those, in milliseconds.
    pub(super) goodput: Vec<f64>,
    pub(super) p99: Vec<Option<f64>>,
}

/// A call: when it was over, and what it took.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Duration,
    took: Duration,
    fate: Fate,
}

impl Sample {
    fn new(began: Instant, came: Instant, fate: Fate) -> Self {
        Self {
            at: began.elapsed(),
            took: came.elapsed(),
            fate,
        }
    }
}

pub(super) async fn measure(
    limit: Limit,
    start: &Start,
    seconds: u64,
    quick: bool,
    all: &mut Vec<Overload>,
) -> Result<()> {
    all.push(bounded(overload(limit, start, seconds, quick)).await?);
    Ok(())
}

async fn overload(limit: Limit, start: &Start, seconds: u64, quick: bool) -> Result<Overload> {
    let whole = |full: u64, quickly: u64| Duration::from_secs(if quick { quickly } else { full });
    let phases = [whole(5, 3), Duration::from_secs(seconds), whole(8, 4)];
    let peer = Peer::start(start).await?;
    let tasks = TaskGroup::new(&Stop::new());
    let caller = Caller::connect(peer.addr, &tasks).await?;
    let before = peak(&caller, whole(4, 2)).await?;
    let rest = load::closed(&caller, FREE, WORKERS / 4, whole(4, 2)).await;
    let rest = Window::of(&rest, SETTLE, whole(4, 2));
    let rates = [CALM * before, TIMES * before, CALM * before];
    let cpu = peer.cpu_seconds();
    let loads: Vec<_> = rates.into_iter().zip(phases).collect();
    let samples = load::open(&caller, WORK, &loads).await;
    let cpu = cpu.zip(peer.cpu_seconds()).map(|(from, to)| to - from);
    let after = match limit {
        // What has piled up is still being done.
        Limit::None => before,
        _ => peak(&caller, whole(4, 2)).await?,
    };
    tasks.shutdown(GRACE).await;
    peer.stop().await;
    let count = |fate| samples.iter().filter(|sample| sample.fate == fate).count();
    if count(Fate::Failed) > 0 {
        bail!("{} calls failed: the figures are none", count(Fate::Failed));
    }
    let yard = Yard {
        peak: (before + after) / 2.0,
        offered: rates[2],
        rest_p99: rest.p99,
    };
    let (began, ended) = (phases[0], phases[0] + phases[1]);
    let end = ended + phases[2];
    let settled = Window::of(&samples, began + RECOVERY.min(phases[1] / 2), ended);
    let steps = (end.as_millis() / STEP.as_millis()) as u32;
    let windows = (0..steps).map(|n| Window::of(&samples, STEP * n, STEP * (n + 1)));
    let (goodput, p99) = windows
        .map(|window| (round(window.rate), window.any().map(|it| it.p99)))
        .unzip();
    Ok(Overload {
        limit,
        workers: WORKERS,
        service_ms: SERVICE.as_secs_f64() * 1e3,
        peak: [before, after],
        rest_p50_ms: rest.p50,
        rest_p99_ms: rest.p99,
        seconds: phases.map(|phase| phase.as_secs_f64()),
        offered: rates,
        goodput_percent: settled.rate / yard.peak * 100.0,
        p50_ms: settled.p50,
        p99_ms: settled.p99,
        well_after: yard.well(&samples, began, ended, yard.peak),
        calm_after: yard.well(&samples, ended, end, yard.offered),
        served: count(Fate::Served),
        refused: count(Fate::Refused),
        late: count(Fate::Late),
        server_cpu_per_1000: cpu.map(|cpu| cpu * 1e3 / samples.len().max(1) as f64),
        step_ms: STEP.as_millis() as u64,
        goodput,
        p99,
    })
}

/// Calls a second with twice as many callers as workers.
async fn peak(caller: &Caller, time: Duration) -> Result<f64> {
    let samples = load::closed(caller, FREE, WORKERS * 2, time).await;
    let window = Window::of(&samples, SETTLE, time);
    if window.rate <= 0.0 {
        bail!("the service answered nothing");
    }
    Ok(window.rate)
}

/// What was served in a stretch of time.
#[derive(Clone, Copy, Debug)]
struct Window {
    /// Calls a second.
    rate: f64,
    /// Milliseconds.
    p50: f64,
    p99: f64,
}

impl Window {
    fn of(samples: &[Sample], from: Duration, to: Duration) -> Self {
        let within = samples
            .iter()
            .filter(|it| it.fate == Fate::Served && (from..to).contains(&it.at));
        let mut took: Vec<f64> = within.map(|it| it.took.as_secs_f64() * 1e3).collect();
        took.sort_by(f64::total_cmp);
        let quantile = |part: f64| {
            let index = (took.len().saturating_sub(1) as f64 * part).round() as usize;
            took.get(index).copied().unwrap_or(f64::INFINITY)
        };
        Self {
            rate: took.len() as f64 / (to.saturating_sub(from)).as_secs_f64().max(1e-9),
            p50: quantile(0.5),
            p99: quantile(0.99),
        }
    }

    fn any(self) -> Option<Self> {
        (self.rate > 0.0).then_some(self)
    }
}

/// What goodput and times are measured by.
struct Yard {
    peak: f64,
    offered: f64,
    rest_p99: f64,
}

impl Yard {
    /// Seconds from `from` until a window is well, where `rate` can be had.
    fn well(&self, samples: &[Sample], from: Duration, to: Duration, rate: f64) -> Option<f64> {
        let starts = (0..)
            .map(|n| from + STEP * n)
            .take_while(|start| *start + WINDOW <= to);
        let well = |start: &Duration| {
            let window = Window::of(samples, *start, *start + WINDOW);
            window.rate >= GOODPUT * rate && window.p99 <= SLOWER * self.rest_p99
        };
        starts
            .into_iter()
            .find(well)
            .map(|start| (start - from).as_secs_f64())
    }
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// 100 calls a second that take 20 ms; in the second second they take 200 ms.
    fn samples() -> Vec<Sample> {
        let sample = |n: u32| Sample {
            at: MS * 10 * n,
            took: if (100..200).contains(&n) {
                MS * 200
            } else {
                MS * 20
            },
            fate: if n % 50 == 49 { Fate::Refused } else { Fate::Served },
        };
        (0..400).map(sample).collect()
    }

    #[test]
    fn a_window_counts_what_was_served_in_it() {
        let window = Window::of(&samples(), MS * 1_000, MS * 2_000);
        assert!((window.rate - 98.0).abs() < 1e-9, "{window:?}");
        assert!((window.p99 - 200.0).abs() < 1e-9, "{window:?}");
        let nothing = Window::of(&samples(), MS * 9_000, MS * 10_000);
        assert!(nothing.any().is_none() && nothing.p99.is_infinite());
    }

    #[test]
    fn it_is_well_when_a_second_is() {
        let yard = Yard {
            peak: 100.0,
            offered: 100.0,
            rest_p99: 20.0,
        };
        let well = |from: u32, to: u32, rate| yard.well(&samples(), MS * from, MS * to, rate);
        assert_eq!(well(0, 4_000, 100.0), Some(0.0));
        assert_eq!(well(1_000, 4_000, 100.0), Some(1.0));
        assert_eq!(well(1_000, 2_500, 100.0), None);
        assert_eq!(well(0, 4_000, 200.0), None);
    }
}
