//! The result of a scenario: one row for each thing that was measured, ours beside theirs, and the goal.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::machine::{FOREIGN_CORES_MAX, Facts};
use super::report::Server;

/// What a row should come to. Ratios are ours over theirs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Goal {
    /// None: for information.
    None,
    RatioAtLeast(f64),
    RatioAtMost(f64),
    AtLeast(f64),
    AtMost(f64),
}

/// One thing that was measured.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) what: String,
    /// What the numbers count.
    pub(super) unit: &'static str,
    pub(super) goal: Goal,
    /// One value a round, of the first server.
    pub(super) a: Vec<f64>,
    /// Of the second.
    pub(super) b: Vec<f64>,
}

/// A scenario's result.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Table {
    pub(super) scenario: String,
    pub(super) machine: Facts,
    /// The commit that was measured, where it is known.
    pub(super) commit: Option<String>,
    pub(super) a: Server,
    pub(super) b: Option<Server>,
    pub(super) quick: bool,
    pub(super) rows: Vec<Row>,
    /// What could not be measured, and why.
    pub(super) notes: Vec<String>,
    /// Cores that something else kept busy, one value for each measurement.
    pub(super) foreign_cores: Vec<f64>,
}

impl Table {
    /// Adds a round's value to the row of that name.
    pub(super) fn add(&mut self, server: &str, what: &str, unit: &'static str, goal: Goal, value: f64) {
        let at = self.rows.iter().position(|row| row.what == what);
        let at = at.unwrap_or_else(|| {
            self.rows.push(Row {
                what: what.to_owned(),
                unit,
                goal,
                a: Vec::new(),
                b: Vec::new(),
            });
            self.rows.len() - 1
        });
        let row = &mut self.rows[at];
        if server == "a" {
            row.a.push(value);
        } else {
            row.b.push(value);
        }
    }

    /// Says something once.
    pub(super) fn note(&mut self, text: String) {
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    /// Prints the table and keeps the JSON in `dir`, if there is one.
    pub(super) fn write(&self, dir: Option<&Path>) -> Result<()> {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.print(&mut text);
        writeln!(std::io::stdout().lock(), "{text}").context("print the table")?;
        let Some(dir) = dir else {
            return Ok(());
        };
        let commit = self.commit.as_deref().unwrap_or("unknown");
        let file = dir.join(format!("{}-{commit}.json", self.scenario));
        let json = serde_json::to_string_pretty(self).context("write the table as JSON")?;
        std::fs::write(&file, json + "\n").with_context(|| format!("write {}", file.display()))
    }

    fn print(&self, out: &mut String) -> std::fmt::Result {
        let machine = &self.machine;
        let quick = if self.quick {
            ", quick: too short to be quoted"
        } else {
            ""
        };
        writeln!(
            out,
            "## {}: {}, {} cores, Linux {}, commit {}{quick}",
            self.scenario,
            machine.cpu,
            machine.cores,
            machine.kernel,
            self.commit.as_deref().unwrap_or("unknown"),
        )?;
        let width = self.rows.iter().map(|row| row.what.chars().count()).max();
        let width = width.unwrap_or_default().max(10);
        writeln!(
            out,
            "{:width$} {:>6} {:>11} {:>4} {:>11} {:>4} {:>8}  goal",
            "what", "unit", "setpoint", "±%", "etcd", "±%", "ratio"
        )?;
        for row in &self.rows {
            row.print(out, width)?;
        }
        for note in &self.notes {
            writeln!(out, "- {note}")?;
        }
        let foreign = median(&self.foreign_cores);
        let most = self.foreign_cores.iter().copied().fold(0.0, f64::max);
        if most > FOREIGN_CORES_MAX {
            writeln!(
                out,
                "Disturbed: other programs kept {foreign:.2} cores busy (median; at most {most:.2}). Do not quote these numbers."
            )?;
        }
        Ok(())
    }
}

impl Row {
    /// Ours over theirs.
    fn ratio(&self) -> Option<f64> {
        let (a, b) = (median(&self.a), median(&self.b));
        (!self.a.is_empty() && !self.b.is_empty() && b.abs() > 1e-9).then(|| a / b)
    }

    /// Whether the goal is met; `None` without one, or when what it compares is missing.
    fn met(&self) -> Option<bool> {
        let value = (!self.a.is_empty()).then(|| median(&self.a));
        match self.goal {
            Goal::None => None,
            Goal::RatioAtLeast(goal) => self.ratio().map(|ratio| ratio >= goal),
            Goal::RatioAtMost(goal) => self.ratio().map(|ratio| ratio <= goal),
            Goal::AtLeast(goal) => value.map(|value| value >= goal),
            Goal::AtMost(goal) => value.map(|value| value <= goal),
        }
    }

    fn print(&self, out: &mut String, width: usize) -> std::fmt::Result {
        write!(out, "{:width$} {:>6}", self.what, self.unit)?;
        for values in [&self.a, &self.b] {
            if values.is_empty() {
                write!(out, " {:>11} {:>4}", "-", "")?;
            } else {
                write!(out, " {:>11} {:>4.0}", number(median(values)), spread(values))?;
            }
        }
        match self.ratio() {
            Some(ratio) => write!(out, " {ratio:>7.2}×")?,
            None => write!(out, " {:>8}", "")?,
        }
        let goal = match self.goal {
            Goal::None => String::new(),
            Goal::RatioAtLeast(goal) => format!("≥ {goal}×"),
            Goal::RatioAtMost(goal) => format!("≤ {goal:.2}×"),
            Goal::AtLeast(goal) => format!("≥ {goal}"),
            Goal::AtMost(goal) => format!("≤ {goal}"),
        };
        let met = match self.met() {
            Some(true) => " met",
            Some(false) => " MISSED",
            None => "",
        };
        writeln!(out, "  {goal}{met}")
    }
}

/// Digits as they mean something.
fn number(value: f64) -> String {
    if value.abs() >= 100.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

/// The middle value, or the mean of the two in the middle; 0 of nothing.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    match values.len().checked_sub(1) {
        Some(last) => (values[last / 2] + values[last.div_ceil(2)]) / 2.0,
        None => 0.0,
    }
}

/// Half the distance of the extremes, in percent of the median.
fn spread(values: &[f64]) -> f64 {
    let low = values.iter().copied().fold(f64::MAX, f64::min);
    let high = values.iter().copied().fold(f64::MIN, f64::max);
    (high - low) / 2.0 / median(values).abs().max(1e-9) * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(goal: Goal, a: &[f64], b: &[f64], met: Option<bool>) {
        let row = Row {
            what: "x".to_owned(),
            unit: "/s",
            goal,
            a: a.to_vec(),
            b: b.to_vec(),
        };
        assert_eq!(row.met(), met, "{goal:?} of {a:?} and {b:?}");
    }

    #[test]
    fn a_goal_is_met_or_missed_or_not_measured() {
        check(Goal::RatioAtLeast(3.0), &[30.0, 1.0, 31.0], &[10.0], Some(true));
        check(Goal::RatioAtLeast(3.0), &[29.0], &[10.0], Some(false));
        check(Goal::RatioAtLeast(3.0), &[29.0], &[], None);
        check(Goal::RatioAtMost(0.25), &[2.0], &[10.0], Some(true));
        check(Goal::AtMost(10.0), &[11.0], &[1.0], Some(false));
        check(Goal::AtMost(10.0), &[9.0, 11.0], &[], Some(true));
        check(Goal::AtLeast(10.0), &[], &[], None);
        check(Goal::None, &[1.0], &[1.0], None);
    }
}
