//! What was found, as a table and as JSON.

use std::fmt::Write;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::fault::{Class, Faults};
use super::follow::{Kind, Log};

/// All of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// What was verified.
    pub server: String,
    /// The version it gives.
    pub version: String,
    /// Repeats the run.
    pub seed: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Whether it was ended before its time.
    pub interrupted: bool,
    /// Writes done, each exactly once.
    pub writes: u64,
    /// Attempts at writes beyond the first.
    pub attempts_again: u64,
    /// Faults, by class.
    pub faults: Vec<(&'static str, usize)>,
    /// Watchers, by class.
    pub classes: Vec<ClassReport>,
    /// Memory of this program, in MiB.
    pub memory_mib: Option<f64>,
    /// Memory of the server, in MiB, when it is ours.
    pub server_memory_mib: Option<f64>,
    /// Whether the resumable client kept every guarantee.
    pub kept: bool,
}

/// The watchers of one class together.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClassReport {
    /// Which.
    pub name: &'static str,
    /// How many there were.
    pub watchers: usize,
    /// Events they got.
    pub events: u64,
    /// Writes that never came.
    pub lost: u64,
    /// Times something was missing.
    pub gaps: u64,
    /// Writes that came again.
    pub duplicated: u64,
    /// Revisions that came after later ones.
    pub out_of_order: u64,
    /// Revisions that came in pieces.
    pub torn: u64,
    /// Wrong bookmarks.
    pub bookmarks_wrong: u64,
    /// Wrong previous versions.
    pub prev_kv_wrong: u64,
    /// Versions that do not count up.
    pub versions_wrong: u64,
    /// Resyncs that do not fit.
    pub resyncs_wrong: u64,
    /// Keys that differ from the store in the end.
    pub state_wrong: u64,
    /// Times connected again.
    pub reconnects: u64,
    /// Times the range was read again.
    pub resyncs: u64,
    /// Times the server said that history is compacted.
    pub compacted: u64,
    /// Links found dead by silence.
    pub timeouts: u64,
    /// Writes told by a resync instead of by their events.
    pub told_by_resync: u64,
    /// Events dropped by the client because it had seen them.
    pub duplicates_dropped: u64,
    /// Delivery without disturbance, from sending the write on.
    pub stable: Latency,
    /// Delivery of what was sent within half a second after a drop.
    pub after_drop: Latency,
    /// From the end of a fault to the first delivery of something sent after it.
    pub recovery: Vec<(&'static str, Latency)>,
    /// Watchers that ended, and why.
    pub ended: Vec<String>,
    /// Breaches, word by word.
    pub examples: Vec<String>,
}

/// Milliseconds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Latency {
    /// Measurements.
    pub count: u64,
    /// Median.
    pub p50: f64,
    /// 95 of 100 were faster.
    pub p95: f64,
    /// 99 of 100 were faster.
    pub p99: f64,
    /// The slowest.
    pub max: f64,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
        Self {
            count: histogram.len(),
            p50: at(0.5),
            p95: at(0.95),
            p99: at(0.99),
            max: at(1.0),
        }
    }

    fn text(&self) -> String {
        if self.count == 0 {
            return "-".to_owned();
        }
        format!("{:.1} / {:.1} / {:.1}", self.p50, self.p95, self.p99)
    }
}

impl ClassReport {
    /// What the watchers of one class found; `None` when there are none.
    pub(crate) fn of(name: &'static str, logs: &[&Log]) -> Option<Self> {
        let first = logs.first()?;
        let sum = |field: fn(&Log) -> u64| logs.iter().map(|log| field(log)).sum();
        let merged = |pick: &dyn Fn(&Log) -> Option<Histogram<u64>>| {
            let mut all = pick(first)?;
            for log in &logs[1..] {
                // Same bounds: it cannot fail.
                let _ = all.add(pick(log)?);
            }
            Some(Latency::of(&all))
        };
        let recovery = |class: Class| {
            let pick = move |log: &Log| {
                let mut all = log.timing.recovery.iter();
                all.find(|(other, _)| *other == class)
                    .map(|(_, times)| times.clone())
            };
            merged(&pick).filter(|latency| latency.count > 0)
        };
        let examples = logs.iter().flat_map(|log| log.checker.findings.examples.clone());
        Some(Self {
            name,
            watchers: logs.len(),
            events: sum(|log| log.checker.findings.events),
            lost: sum(|log| log.checker.findings.lost),
            gaps: sum(|log| log.checker.findings.gaps),
            duplicated: sum(|log| log.checker.findings.duplicated),
            out_of_order: sum(|log| log.checker.findings.out_of_order),
            torn: sum(|log| log.checker.findings.torn),
            bookmarks_wrong: sum(|log| log.checker.findings.bookmarks),
            prev_kv_wrong: sum(|log| log.checker.findings.prev_kv),
            versions_wrong: sum(|log| log.checker.findings.versions),
            resyncs_wrong: sum(|log| log.checker.findings.resyncs_wrong),
            state_wrong: sum(|log| log.checker.findings.state_wrong),
            reconnects: sum(|log| log.reconnects),
            resyncs: sum(|log| log.resyncs),
            compacted: sum(|log| log.compacted),
            timeouts: sum(|log| log.timeouts),
            told_by_resync: sum(|log| log.checker.findings.told_by_resync),
            duplicates_dropped: sum(|log| log.dropped),
            stable: merged(&|log| Some(log.timing.stable.clone()))?,
            after_drop: merged(&|log| Some(log.timing.after_drop.clone()))?,
            recovery: Class::ALL
                .into_iter()
                .filter_map(|class| Some((class.name(), recovery(class)?)))
                .collect(),
            ended: logs.iter().filter_map(|log| log.ended.clone()).collect(),
            examples: examples.take(8).collect(),
        })
    }
}

/// Whether watchers of this kind are promised anything.
pub(crate) fn promised(kind: Kind) -> bool {
    matches!(kind, Kind::Resumable | Kind::Slow)
}

pub(crate) fn faults(faults: &Faults) -> Vec<(&'static str, usize)> {
    let counts = Class::ALL
        .into_iter()
        .map(|class| (class.name(), faults.count(class)));
    counts.filter(|(_, count)| *count > 0).collect()
}

impl Report {
    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let faults: Vec<_> = self
            .faults
            .iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        writeln!(out, "{} ({}), seed {}", self.server, self.version, self.seed)?;
        writeln!(
            out,
            "{} writes in {:.1} s, {} attempts again; faults: {}",
            self.writes,
            self.seconds,
            self.attempts_again,
            if faults.is_empty() {
                "none, so nothing was tested but calm: give more --events or a lower --rate".to_owned()
            } else {
                faults.join(", ")
            }
        )?;
        let names: Vec<_> = self
            .classes
            .iter()
            .map(|class| format!("{} ×{}", class.name, class.watchers))
            .collect();
        row(out, "", names.into_iter())?;
        type Count = (&'static str, fn(&ClassReport) -> u64);
        let counts: [Count; 17] = [
            ("events", |class| class.events),
            ("lost", |class| class.lost),
            ("gaps", |class| class.gaps),
            ("duplicated", |class| class.duplicated),
            ("out of order", |class| class.out_of_order),
            ("torn revisions", |class| class.torn),
            ("wrong bookmarks", |class| class.bookmarks_wrong),
            ("wrong prev_kv", |class| class.prev_kv_wrong),
            ("wrong versions", |class| class.versions_wrong),
            ("wrong resyncs", |class| class.resyncs_wrong),
            ("wrong keys at the end", |class| class.state_wrong),
            ("reconnects", |class| class.reconnects),
            ("compacted", |class| class.compacted),
            ("resyncs", |class| class.resyncs),
            ("writes told by resync", |class| class.told_by_resync),
            ("dead links", |class| class.timeouts),
            ("duplicates dropped", |class| class.duplicates_dropped),
        ];
        for (name, count) in counts {
            row(
                out,
                name,
                self.classes.iter().map(|class| count(class).to_string()),
            )?;
        }
        row(
            out,
            "delivery p50/p95/p99 ms",
            self.classes.iter().map(|class| class.stable.text()),
        )?;
        row(
            out,
            "  after a drop",
            self.classes.iter().map(|class| class.after_drop.text()),
        )?;
        for (fault, _) in &self.faults {
            let of = |class: &ClassReport| {
                let found = class.recovery.iter().find(|(name, _)| name == fault);
                found.map_or("-".to_owned(), |(_, latency)| latency.text())
            };
            row(out, &format!("recovery: {fault}"), self.classes.iter().map(of))?;
        }
        let memory = |mib: Option<f64>| mib.map_or("unknown".to_owned(), |mib| format!("{mib:.0} MiB"));
        writeln!(
            out,
            "memory: this program {}, server {}",
            memory(self.memory_mib),
            memory(self.server_memory_mib)
        )?;
        for class in &self.classes {
            for text in class.ended.iter().chain(&class.examples) {
                writeln!(out, "{}: {text}", class.name)?;
            }
        }
        writeln!(
            out,
            "{}{}",
            if self.interrupted {
                "interrupted; so far: "
            } else {
                ""
            },
            if self.kept {
                "the resumable client kept every guarantee"
            } else {
                "A GUARANTEE WAS BROKEN for the resumable client"
            }
        )
    }
}

fn row(out: &mut String, name: &str, cells: impl Iterator<Item = String>) -> std::fmt::Result {
    write!(out, "{name:<26}")?;
    for cell in cells {
        write!(out, "{cell:>28}")?;
    }
    writeln!(out)
}
