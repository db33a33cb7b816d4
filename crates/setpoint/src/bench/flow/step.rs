//! A round trip that grows and shrinks while a stream fills the link: who notices?

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use setpoint_base::{Stop, TaskGroup};
use setpoint_flow::impair::{Script, Setting};
use tokio::time::{Instant, sleep};

use super::contender::{Contender, Estimate, Peer, Start};
use super::meter::{Trace, Way};
use super::{Bench, GRACE, bounded};

const LINK_MBIT: u64 = 100;
/// Round trips in milliseconds.
pub(super) const SHORT_MS: u64 = 20;
pub(super) const LONG_MS: u64 = 150;
/// Milliseconds between the values of `series`.
const STEP_MS: u64 = 50;
/// Between two looks at what the server says of itself.
const LOOK: Duration = Duration::from_millis(5);
/// Milliseconds after which what it says is noted again, although it is the same.
const SAME_MS: u64 = 20;
/// An estimate is right when it is this near.
const NEAR: f64 = 0.25;

/// One contender.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Step {
    pub(super) contender: Contender,
    pub(super) link_mbit: u64,
    /// When the round trip grew and shrank, and the end, in milliseconds.
    pub(super) grew_ms: u64,
    pub(super) shrank_ms: u64,
    pub(super) end_ms: u64,
    /// Percent of the link over the second half of each phase.
    pub(super) percent: [f64; 3],
    /// Long and short round trips until the estimate was within a quarter of the truth; none if it never was, or if the
    /// server does not say what it estimates.
    pub(super) found_after_rtts: [Option<f64>; 2],
    pub(super) step_ms: u64,
    /// Megabits per second over time.
    pub(super) series: Vec<f64>,
    /// What the server says of itself, by milliseconds.
    pub(super) estimates: Vec<(u64, Estimate)>,
}

pub(super) async fn measure(
    contender: Contender,
    start: &Start,
    quick: bool,
    steps: &mut Vec<Step>,
) -> Result<()> {
    steps.push(bounded(step(contender, start, if quick { 2 } else { 5 })).await?);
    Ok(())
}

async fn step(contender: Contender, start: &Start, phase: u64) -> Result<Step> {
    let short = Duration::from_millis(SHORT_MS);
    let setting = Setting::symmetric(short, Some(LINK_MBIT * 1_000_000));
    let script = format!("{phase}s rtt={LONG_MS}ms; {}s rtt={SHORT_MS}ms", 2 * phase);
    let script = Script::parse(&script).context("write the script")?;
    let bench = Bench::start(start, setting).await?;
    let uploads = TaskGroup::new(&Stop::new());
    bench.sender.upload(&uploads).await?;
    let phase = Duration::from_secs(phase);
    let (trace, played, estimates) = tokio::join!(
        Trace::watch(&bench.proxy, Way::Up, phase * 3),
        bench.proxy.play(&script),
        estimates(&bench.peer, phase * 3),
    );
    played.context("play the script")?;
    uploads.shutdown(GRACE).await;
    bench.stop().await?;
    let percent = [1, 2, 3].map(|end| {
        let end = phase * end;
        trace.mbit(end - phase / 2, end) / LINK_MBIT as f64 * 100.0
    });
    let millis = |time: Duration| time.as_millis() as u64;
    let (grew_ms, shrank_ms, end_ms) = (millis(phase), millis(phase * 2), millis(phase * 3));
    Ok(Step {
        contender,
        link_mbit: LINK_MBIT,
        grew_ms,
        shrank_ms,
        end_ms,
        percent,
        found_after_rtts: [
            found(&estimates, grew_ms..shrank_ms, LONG_MS),
            found(&estimates, shrank_ms..end_ms, SHORT_MS),
        ],
        step_ms: STEP_MS,
        series: trace.series(Duration::from_millis(STEP_MS)),
        estimates,
    })
}

/// What the server says of itself.
pub(super) async fn estimates(peer: &Peer, time: Duration) -> Vec<(u64, Estimate)> {
    let start = Instant::now();
    let mut estimates: Vec<(u64, Estimate)> = Vec::new();
    while start.elapsed() < time {
        let at = start.elapsed().as_millis() as u64;
        if let Some(estimate) = *peer.estimate.lock() {
            let is_news = |(before, last): &(u64, Estimate)| *last != estimate || at >= before + SAME_MS;
            if estimates.last().is_none_or(is_news) {
                estimates.push((at, estimate));
            }
        }
        sleep(LOOK).await;
    }
    estimates
}

/// Round trips from the start of a phase until the estimate is right, and stays so for the rest of it.
fn found(estimates: &[(u64, Estimate)], phase: std::ops::Range<u64>, rtt_ms: u64) -> Option<f64> {
    let truth = rtt_ms as f64;
    let right = |estimate: &Estimate| (estimate.rtt_ms - truth).abs() <= truth * NEAR;
    let mut found = None;
    for (at, estimate) in estimates.iter().filter(|(at, _)| phase.contains(at)) {
        match (right(estimate), found) {
            (true, None) => found = Some(*at),
            (true, Some(_)) => (),
            (false, _) => found = None,
        }
    }
    found.map(|at| (at - phase.start) as f64 / truth)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64, rtt_ms: f64) -> (u64, Estimate) {
        let estimate = Estimate {
            rtt_ms,
            ..Estimate::default()
        };
        (ms, estimate)
    }

    #[test]
    fn an_estimate_is_found_when_it_is_right_and_stays_so() {
        let seen = [
            at(900, 20.0),
            at(1_100, 90.0),
            at(1_450, 140.0),
            at(1_900, 150.0),
            at(2_100, 150.0),
        ];
        assert_eq!(found(&seen, 1_000..2_000, 150), Some(3.0));
        let strays = [at(1_100, 150.0), at(1_600, 60.0)];
        assert_eq!(found(&strays, 1_000..2_000, 150), None);
        assert_eq!(found(&[], 1_000..2_000, 150), None);
    }
}
