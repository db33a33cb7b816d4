//! What was measured: tables for people, JSON for keeping, pictures for both.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::FlowArgs;
use super::channels::{self, Channels};
use super::chart::{Line, Panel, Sheet};
use super::contender::Contender;
use super::fair::Fair;
use super::grid::Cell;
use super::hoard::Hoard;
use super::meter::Way;
use super::overload::{self, Overload};
use super::rush::{self, Rush};
use super::step::{LONG_MS, SHORT_MS, Step};
use crate::bench::machine::Facts;

/// What a call beside large streams may take longer than the round trip, in milliseconds.
const CALL_ALLOWANCE_MS: f64 = 5.0;

/// The whole result.
#[derive(Serialize)]
pub(super) struct Report {
    machine: Facts,
    commit: String,
    quick: bool,
    /// Cores that something else kept busy just before.
    foreign_cores_before: Option<f64>,
    /// Contenders that were not there, and why.
    skipped: Vec<(Contender, String)>,
    pub(super) grid: Vec<Cell>,
    pub(super) step: Vec<Step>,
    pub(super) hoard: Vec<Hoard>,
    pub(super) fair: Vec<Fair>,
    pub(super) rush: Vec<Rush>,
    pub(super) overload: Vec<Overload>,
    pub(super) channels: Vec<Channels>,
    /// What could not be measured, and why.
    failed: Vec<(String, String)>,
}

impl Report {
    pub(super) fn new(args: &FlowArgs, foreign_cores_before: Option<f64>) -> Self {
        Self {
            machine: Facts::read(),
            commit: args.commit.clone(),
            quick: args.quick,
            foreign_cores_before,
            skipped: Vec::new(),
            grid: Vec::new(),
            step: Vec::new(),
            hoard: Vec::new(),
            fair: Vec::new(),
            rush: Vec::new(),
            overload: Vec::new(),
            channels: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// Notes a contender that is not there.
    pub(super) fn skip(&mut self, contender: Contender, program: &Path) {
        if self.skipped.iter().all(|(skipped, _)| *skipped != contender) {
            let reason = format!(
                "{} is missing: cargo xtask conformance grpc-go builds it, with Go",
                program.display()
            );
            self.skipped.push((contender, reason));
        }
    }

    /// Notes how a measurement ended.
    pub(super) fn note(&mut self, what: String, ended: Result<()>) {
        if let Err(error) = ended {
            self.failed.push((what, format!("{error:#}")));
        }
    }

    /// # Errors
    /// Something could not be measured, or there was nothing to measure.
    pub(super) fn verdict(&self, args: &FlowArgs) -> Result<()> {
        if args
            .contender
            .iter()
            .all(|contender| self.skipped.iter().any(|(skipped, _)| skipped == contender))
        {
            bail!("not measured: no contender is there");
        }
        let what: Vec<&str> = self.failed.iter().map(|(what, _)| what.as_str()).collect();
        if !what.is_empty() {
            bail!("not measured: {}", what.join("; "));
        }
        Ok(())
    }

    /// Prints and keeps what the arguments ask for. Printed first: minutes of measuring are not lost to a file.
    pub(super) fn write(&self, args: &FlowArgs) -> Result<()> {
        let json = serde_json::to_string_pretty(self).context("write the report as JSON")?;
        let text = if args.json { &json } else { &self.table() };
        writeln!(std::io::stdout().lock(), "{text}").context("print the report")?;
        if let Some(file) = &args.json_file {
            std::fs::write(file, &json).with_context(|| format!("write {}", file.display()))?;
        }
        if let Some(file) = &args.svg {
            for (name, sheet) in self.sheets() {
                let file = named(file, name);
                std::fs::write(&file, sheet.svg()).with_context(|| format!("write {}", file.display()))?;
            }
        }
        Ok(())
    }

    fn table(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = self.write_table(&mut out);
        out
    }

    fn write_table(&self, out: &mut String) -> fmt::Result {
        let machine = &self.machine;
        writeln!(
            out,
            "{}, {} cores, {} MiB, Linux {}{}",
            machine.cpu,
            machine.cores,
            machine.memory_mib,
            machine.kernel,
            if self.quick { "; quick" } else { "" }
        )?;
        for (contender, why) in &self.skipped {
            writeln!(out, "skipped {}: {why}", contender.name())?;
        }
        for (what, why) in &self.failed {
            writeln!(out, "not measured: {what}: {why}")?;
        }
        self.write_grid(out, Way::Up)?;
        self.write_grid(out, Way::Down)?;
        self.write_step(out)?;
        self.write_hoard(out)?;
        self.write_fair(out)?;
        rush::write(&self.rush, out)?;
        overload::write(&self.overload, out)?;
        channels::write(&self.channels, out)
    }

    fn cells(&self, way: Way) -> Vec<&Cell> {
        self.grid.iter().filter(|cell| cell.direction == way).collect()
    }

    fn write_grid(&self, out: &mut String, way: Way) -> fmt::Result {
        let cells = self.cells(way);
        let Some(first) = cells.first() else {
            return Ok(());
        };
        let uneven = match first.jitter_percent {
            0 => String::new(),
            percent => format!(", delays up to {percent} % longer"),
        };
        writeln!(
            out,
            "\ngrid, {}{uneven}: % of the link in the end; round trips until 90 % (- is never)",
            match way {
                Way::Up => "up to a server",
                Way::Down => "down to a client",
            }
        )?;
        let names = contenders(&cells, |cell| cell.contender);
        write!(out, "{:<20}", "link")?;
        for name in &names {
            write!(out, " {:>18}", name.name())?;
        }
        writeln!(out, "   best")?;
        for (link, rtt) in links(&cells) {
            write!(out, "{link:>5} Mbit/s {rtt:>4} ms")?;
            let on = |cell: &&&Cell| (cell.link_mbit, cell.rtt_ms) == (link, rtt);
            let row: Vec<&Cell> = cells.iter().filter(on).copied().collect();
            for name in &names {
                // One that failed on the way has no figure here.
                let Some(cell) = row.iter().find(|cell| cell.contender == *name) else {
                    write!(out, " {:>18}", "?")?;
                    continue;
                };
                let filled = cell
                    .filled_after_rtts
                    .map_or("-".to_owned(), |n| format!("{n:.1}"));
                write!(out, " {:>10.1} {filled:>7}", cell.steady_percent)?;
            }
            let best = row
                .iter()
                .max_by(|a, b| a.steady_percent.total_cmp(&b.steady_percent));
            let (Some(first), Some(best)) = (row.first(), best) else {
                continue;
            };
            let ratio = first.steady_percent / best.steady_percent.max(1e-9);
            writeln!(
                out,
                "   {} ({} has {ratio:.2}x of it)",
                best.contender.name(),
                first.contender.name()
            )?;
        }
        Ok(())
    }

    fn write_step(&self, out: &mut String) -> fmt::Result {
        let Some(first) = self.step.first() else {
            return Ok(());
        };
        writeln!(
            out,
            "\nstep: {} Mbit/s, {SHORT_MS} -> {LONG_MS} -> {SHORT_MS} ms; % of the link in each; round trips until the estimate is right",
            first.link_mbit
        )?;
        for step in &self.step {
            let [a, b, c] = step.percent;
            let found = step
                .found_after_rtts
                .map(|found| found.map_or("-".to_owned(), |n| format!("{n:.1}")));
            writeln!(
                out,
                "{:<16} {a:>7.1} {b:>7.1} {c:>7.1}   up {:>5} down {:>5}",
                step.contender.name(),
                found[0],
                found[1]
            )?;
        }
        Ok(())
    }

    fn write_hoard(&self, out: &mut String) -> fmt::Result {
        let Some(first) = self.hoard.first() else {
            return Ok(());
        };
        writeln!(
            out,
            "\nhoard: {} Mbit/s, {} ms; a stream beside others that are not read",
            first.link_mbit, first.rtt_ms
        )?;
        writeln!(
            out,
            "{:<16} {:>7} {:>12} {:>12} {:>7} {:>12} {:>12}",
            "", "unread", "solo Mbit/s", "beside", "kept", "unread MiB", "grew MiB"
        )?;
        for hoard in &self.hoard {
            writeln!(
                out,
                "{:<16} {:>7} {:>12.1} {:>12.1} {:>6.1}% {:>12.1} {:>12.1}",
                hoard.contender.name(),
                hoard.unread,
                hoard.solo_mbit,
                hoard.beside_mbit,
                hoard.beside_mbit / hoard.solo_mbit.max(1e-9) * 100.0,
                hoard.unread_sent_mib,
                hoard.server_grew_mib.unwrap_or(f64::NAN),
            )?;
        }
        Ok(())
    }

    fn write_fair(&self, out: &mut String) -> fmt::Result {
        let Some(first) = self.fair.first() else {
            return Ok(());
        };
        let rtt = first.rtt_ms;
        writeln!(
            out,
            "\nfair: {} Mbit/s, {rtt} ms; {} equal streams; a call of 1 KB beside 8 streams (goal: p99 <= {} ms)",
            first.link_mbit,
            first.streams,
            rtt as f64 + CALL_ALLOWANCE_MS
        )?;
        writeln!(
            out,
            "{:<16} {:>7} {:>7} {:>14} {:>14} {:>7} {:>7} {:>6}",
            "", "Jain", "% link", "alone p50/p99", "beside p50/p99", "% link", "calls", "stuck"
        )?;
        for fair in &self.fair {
            writeln!(
                out,
                "{:<16} {:>7.4} {:>7.1} {:>14} {:>14} {:>7.1} {:>7} {:>6}",
                fair.contender.name(),
                fair.jain,
                fair.percent,
                format!("{:.1}/{:.1}", fair.alone_p50_ms, fair.alone_p99_ms),
                format!("{:.1}/{:.1}", fair.beside_p50_ms, fair.beside_p99_ms),
                fair.beside_percent,
                fair.calls,
                fair.stuck
            )?;
        }
        Ok(())
    }

    fn sheets(&self) -> Vec<(&'static str, Sheet)> {
        let mut sheets = Vec::new();
        for (name, way) in [("grid", Way::Up), ("grid-down", Way::Down)] {
            let cells = self.cells(way);
            if !cells.is_empty() {
                sheets.push((name, grid_sheet(&cells, way)));
            }
        }
        if !self.step.is_empty() {
            sheets.push(("step", self.step_sheet()));
        }
        sheets.extend(overload::sheet(&self.overload).map(|sheet| ("overload", sheet)));
        sheets
    }

    fn step_sheet(&self) -> Sheet {
        let names = contenders(&self.step, |step| step.contender);
        let lines: Vec<Line> = self
            .step
            .iter()
            .map(|step| line(&names, step.contender, &step.series, step.step_ms))
            .collect();
        let end = end_of(&lines);
        let first = &self.step[0];
        let link = first.link_mbit as f64;
        let mut panels = vec![Panel {
            title: "Throughput".to_owned(),
            labels: ("seconds", "Mbit/s"),
            lines,
            limit: vec![(0.0, link), (end, link)],
        }];
        let told = self.step.iter().filter(|step| !step.estimates.is_empty());
        let estimates: Vec<Line> = told.map(|step| estimate_line(&names, step)).collect();
        if !estimates.is_empty() {
            let (grew, shrank) = (first.grew_ms as f64 / 1e3, first.shrank_ms as f64 / 1e3);
            let (short, long) = (SHORT_MS as f64, LONG_MS as f64);
            panels.push(Panel {
                title: "Round trip, as estimated".to_owned(),
                labels: ("seconds", "ms"),
                lines: estimates,
                limit: vec![
                    (0.0, short),
                    (grew, short),
                    (grew, long),
                    (shrank, long),
                    (shrank, short),
                    (end, short),
                ],
            });
        }
        Sheet {
            title: format!("A round trip of {SHORT_MS}, {LONG_MS}, {SHORT_MS} ms"),
            names: names.iter().map(|name| name.name().to_owned()).collect(),
            limit: "link",
            columns: 2,
            panels,
        }
    }
}

/// Throughput over time on each link.
fn grid_sheet(cells: &[&Cell], way: Way) -> Sheet {
    let names = contenders(cells, |cell| cell.contender);
    let panels = links(cells).into_iter().map(|(link, rtt)| {
        let on = |cell: &&&Cell| (cell.link_mbit, cell.rtt_ms) == (link, rtt);
        let of = |cell: &&Cell| line(&names, cell.contender, &cell.series, cell.step_ms);
        let lines: Vec<Line> = cells.iter().filter(on).map(of).collect();
        let end = end_of(&lines);
        Panel {
            title: format!("{link} Mbit/s, {rtt} ms"),
            labels: ("seconds", "Mbit/s"),
            lines,
            limit: vec![(0.0, link as f64), (end, link as f64)],
        }
    });
    let what = match way {
        Way::Up => "upload",
        Way::Down => "download",
    };
    Sheet {
        title: format!("One {what}: throughput over time"),
        names: names.iter().map(|name| name.name().to_owned()).collect(),
        limit: "link",
        columns: 4,
        panels: panels.collect(),
    }
}

fn line(names: &[Contender], contender: Contender, series: &[f64], step_ms: u64) -> Line {
    let x = |index: usize| (index as f64 + 0.5) * step_ms as f64 / 1e3;
    Line {
        name: position(names, contender),
        points: series
            .iter()
            .enumerate()
            .map(|(index, value)| (x(index), *value))
            .collect(),
    }
}

fn estimate_line(names: &[Contender], step: &Step) -> Line {
    let points = step.estimates.iter();
    Line {
        name: position(names, step.contender),
        points: points
            .map(|(ms, estimate)| (*ms as f64 / 1e3, estimate.rtt_ms))
            .collect(),
    }
}

fn position(names: &[Contender], contender: Contender) -> usize {
    names
        .iter()
        .position(|name| *name == contender)
        .unwrap_or_default()
}

fn end_of(lines: &[Line]) -> f64 {
    let ends = lines.iter().filter_map(|line| line.points.last());
    ends.fold(0.0, |most, point| most.max(point.0))
}

/// Contenders in the order in which they were measured.
fn contenders<T>(results: &[T], of: impl Fn(&T) -> Contender) -> Vec<Contender> {
    let mut names = Vec::new();
    for result in results {
        if !names.contains(&of(result)) {
            names.push(of(result));
        }
    }
    names
}

/// The links that were measured, in order.
fn links(cells: &[&Cell]) -> Vec<(u64, u64)> {
    let mut links: Vec<_> = cells.iter().map(|cell| (cell.link_mbit, cell.rtt_ms)).collect();
    links.sort_unstable();
    links.dedup();
    links
}

/// `flow.svg` as `flow-grid.svg`.
fn named(file: &Path, name: &str) -> PathBuf {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!("{stem}-{name}.svg"))
}
