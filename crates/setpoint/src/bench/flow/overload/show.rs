//! The result for people: a table, and goodput and times over time.

use std::fmt::{self, Write};

use super::{CALM, GOODPUT, Overload, SLOWER, TIMES};
use crate::bench::flow::chart::{Line, Panel, Sheet};

/// Times are drawn up to this many times the one at rest.
const SLOWER_DRAWN: f64 = 8.0;

pub(in crate::bench::flow) fn write(all: &[Overload], out: &mut String) -> fmt::Result {
    let Some(first) = all.first() else {
        return Ok(());
    };
    writeln!(
        out,
        "\noverload: {} workers, {} ms a call; {CALM}, {TIMES}, {CALM} times the peak for {:.0}, {:.0}, {:.0} s \
         (goal: goodput >= {:.0} % of the peak, p99 <= {SLOWER} x rest, well in 5 s)",
        first.workers,
        first.service_ms,
        first.seconds[0],
        first.seconds[1],
        first.seconds[2],
        GOODPUT * 100.0
    )?;
    writeln!(
        out,
        "{:<10} {:>15} {:>9} {:>16} {:>8} {:>7} {:>7} {:>8} {:>8} {:>7} {:>12}",
        "limit",
        "peak/s",
        "goodput",
        "p50/p99 ms",
        "p99/rest",
        "well s",
        "calm s",
        "served",
        "refused",
        "late",
        "CPU ms/1000"
    )?;
    let seconds = |time: Option<f64>| time.map_or("never".to_owned(), |time| format!("{time:.2}"));
    for it in all {
        writeln!(
            out,
            "{:<10} {:>15} {:>7.1} % {:>16} {:>8.2} {:>7} {:>7} {:>8} {:>8} {:>7} {:>12.1}",
            it.limit.name(),
            format!("{:.0} .. {:.0}", it.peak[0], it.peak[1]),
            it.goodput_percent,
            format!("{:.1}/{:.1}", it.p50_ms, it.p99_ms),
            it.p99_ms / it.rest_p99_ms,
            seconds(it.well_after),
            seconds(it.calm_after),
            it.served,
            it.refused,
            it.late,
            it.server_cpu_per_1000.unwrap_or(f64::NAN) * 1e3,
        )?;
    }
    writeln!(
        out,
        "at rest: p50 {:.1} ms, p99 {:.1} ms; well and calm: seconds from each step until a second was well",
        first.rest_p50_ms, first.rest_p99_ms
    )
}

pub(in crate::bench::flow) fn sheet(all: &[Overload]) -> Option<Sheet> {
    let first = all.first()?;
    let x = |index: usize, it: &Overload| (index as f64 + 0.5) * it.step_ms as f64 / 1e3;
    let end: f64 = first.seconds.iter().sum();
    let peak = all.iter().map(|it| it.peak[0]).sum::<f64>() / all.len() as f64;
    let goodput = all.iter().enumerate().map(|(name, it)| Line {
        name,
        points: it
            .goodput
            .iter()
            .enumerate()
            .map(|(n, rate)| (x(n, it), *rate))
            .collect(),
    });
    let times = all.iter().enumerate().map(|(name, it)| {
        let slower = |p99: f64| (p99 / it.rest_p99_ms).min(SLOWER_DRAWN);
        let points = it
            .p99
            .iter()
            .enumerate()
            .filter_map(|(n, p99)| Some((x(n, it), slower((*p99)?))));
        Line {
            name,
            points: points.collect(),
        }
    });
    let panels = vec![
        Panel {
            title: "Served in time".to_owned(),
            labels: ("seconds", "calls a second"),
            lines: goodput.collect(),
            limit: vec![(0.0, peak), (end, peak)],
        },
        Panel {
            title: format!("p99 as times of rest ({SLOWER_DRAWN} and more)"),
            labels: ("seconds", "times"),
            lines: times.collect(),
            limit: vec![(0.0, SLOWER), (end, SLOWER)],
        },
    ];
    let (from, to) = (first.seconds[0], first.seconds[0] + first.seconds[1]);
    Some(Sheet {
        title: format!("{TIMES} times the load from {from} to {to} s"),
        names: all.iter().map(|it| it.limit.name().to_owned()).collect(),
        limit: "peak, goal",
        columns: 2,
        panels,
    })
}
