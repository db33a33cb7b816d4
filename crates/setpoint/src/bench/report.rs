//! What was measured, as a table for people and as JSON for keeping.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::h2load::Measured;
use super::machine::{Cost, FOREIGN_CORES_MAX, Facts};

/// One round against one server.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Round {
    /// Calls, or delivered events, per second.
    pub(super) per_second: f64,
    /// Latency percentiles in microseconds.
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
    pub(super) p999_us: u64,
    pub(super) max_us: u64,
    /// Calls that failed.
    pub(super) failed: u64,
    /// CPU seconds of the server.
    pub(super) server_cpu_seconds: Option<f64>,
    /// CPU microseconds of the server per call.
    pub(super) server_cpu_us: Option<f64>,
    /// CPU seconds of the load generator.
    pub(super) client_cpu_seconds: f64,
    /// Resident memory of the server after the round, MiB.
    pub(super) rss_mib: Option<f64>,
    /// Cores that something else kept busy meanwhile.
    pub(super) foreign_cores: Option<f64>,
}

/// All rounds of one cell.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Cell {
    /// What was measured, as the command line names it.
    pub(super) op: String,
    pub(super) value_bytes: usize,
    pub(super) clients: usize,
    /// "a" is `--endpoint`, "b" is `--vs`.
    pub(super) server: &'static str,
    pub(super) rounds: Vec<Round>,
}

/// The whole result.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub(super) machine: Facts,
    pub(super) a: Server,
    pub(super) b: Option<Server>,
    pub(super) seconds: u64,
    pub(super) keys: u64,
    pub(super) cells: Vec<Cell>,
}

/// Who was measured.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Server {
    pub(super) endpoint: String,
    pub(super) version: String,
    pub(super) pid: Option<u32>,
}

impl Round {
    /// A round of `seconds` from its latencies and its cost.
    pub(super) fn new(measured: &Measured, seconds: f64, cost: &Cost, rss_mib: Option<f64>) -> Self {
        let Measured { latency, failed } = measured;
        let calls = latency.len();
        Self {
            per_second: calls as f64 / seconds,
            p50_us: latency.value_at_quantile(0.5),
            p99_us: latency.value_at_quantile(0.99),
            p999_us: latency.value_at_quantile(0.999),
            max_us: latency.max(),
            failed: *failed,
            server_cpu_seconds: cost.server,
            server_cpu_us: cost
                .server
                .filter(|_| calls > 0)
                .map(|cpu| cpu * 1e6 / calls as f64),
            client_cpu_seconds: cost.client,
            rss_mib,
            foreign_cores: cost.foreign,
        }
    }
}

/// The name of a value of the command line.
pub(super) fn name(value: &impl clap::ValueEnum) -> String {
    value
        .to_possible_value()
        .map_or_else(String::new, |value| value.get_name().to_owned())
}

impl Cell {
    fn values(&self, of: impl Fn(&Round) -> f64) -> Vec<f64> {
        let mut values: Vec<f64> = self.rounds.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values
    }

    fn median(&self, of: impl Fn(&Round) -> f64) -> f64 {
        let values = self.values(of);
        let Some(last) = values.len().checked_sub(1) else {
            return 0.0;
        };
        (values[last / 2] + values[last.div_ceil(2)]) / 2.0
    }

    /// Half the distance of the extremes from each other, as a share of the median.
    fn spread_percent(&self) -> f64 {
        let values = self.values(|round| round.per_second);
        match (values.first(), values.last()) {
            (Some(low), Some(high)) if *high > 0.0 => {
                (high - low) / 2.0 / self.median(|round| round.per_second).max(1e-9) * 100.0
            }
            _ => 0.0,
        }
    }

    fn foreign(&self) -> f64 {
        self.median(|round| round.foreign_cores.unwrap_or(0.0))
    }
}

/// The columns of a row after those that name it.
const COLUMNS: &str = "        /s   ±%    p50 µs    p99 µs  p99.9 µs  CPU µs/op  RSS MiB  foreign  failed";

impl Report {
    /// Prints the table or JSON, and keeps the JSON in a file if one is named.
    pub(super) fn write(&self, json: bool, file: Option<&Path>) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("write the report as JSON")?;
        if let Some(file) = file {
            std::fs::write(file, &text).with_context(|| format!("write {}", file.display()))?;
        }
        let text = if json { text } else { self.table() };
        writeln!(std::io::stdout().lock(), "{text}").context("print the report")
    }

    /// Whether something else ran during any round: then ratios are rough.
    fn disturbed(&self) -> bool {
        let mut rounds = self.cells.iter().flat_map(|cell| &cell.rounds);
        rounds.any(|round| round.foreign_cores.is_some_and(|cores| cores > FOREIGN_CORES_MAX))
    }

    /// The table: medians over the rounds.
    pub(super) fn table(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = self.write_table(&mut out);
        out
    }

    fn write_table(&self, out: &mut String) -> std::fmt::Result {
        let machine = &self.machine;
        writeln!(
            out,
            "{}, {} cores, {} MiB, Linux {}",
            machine.cpu, machine.cores, machine.memory_mib, machine.kernel
        )?;
        for (name, server) in [("a", Some(&self.a)), ("b", self.b.as_ref())] {
            if let Some(server) = server {
                writeln!(out, "{name}: {} ({})", server.endpoint, server.version)?;
            }
        }
        writeln!(
            out,
            "{} s a round, {} keys; medians; client and server share the machine\n",
            self.seconds, self.keys
        )?;
        writeln!(out, "{:<16} {:>6} {:>7}    {COLUMNS}", "op", "value", "clients")?;
        for cell in &self.cells {
            self.write_row(out, cell)?;
        }
        if self.disturbed() {
            writeln!(
                out,
                "\nDisturbed: other programs ran (column foreign, in cores). Do not quote these numbers."
            )?;
        }
        Ok(())
    }

    fn write_row(&self, out: &mut String, cell: &Cell) -> std::fmt::Result {
        write!(
            out,
            "{:<16} {:>6} {:>7}  {}",
            cell.op, cell.value_bytes, cell.clients, cell.server
        )?;
        writeln!(
            out,
            " {:>10.0} {:>4.0} {:>9.0} {:>9.0} {:>9.0} {:>10.1} {:>8.0} {:>8.2} {:>7.0}{}",
            cell.median(|round| round.per_second),
            cell.spread_percent(),
            cell.median(|round| round.p50_us as f64),
            cell.median(|round| round.p99_us as f64),
            cell.median(|round| round.p999_us as f64),
            cell.median(|round| round.server_cpu_us.unwrap_or(f64::NAN)),
            cell.median(|round| round.rss_mib.unwrap_or(f64::NAN)),
            cell.foreign(),
            cell.rounds.iter().map(|round| round.failed).sum::<u64>() as f64,
            self.ratio(cell),
        )
    }

    /// Of an "a" row: how it compares with its "b" row.
    fn ratio(&self, cell: &Cell) -> String {
        let peer = self.cells.iter().find(|peer| {
            cell.server == "a"
                && peer.server == "b"
                && (&peer.op, peer.value_bytes, peer.clients) == (&cell.op, cell.value_bytes, cell.clients)
        });
        let Some(peer) = peer else {
            return String::new();
        };
        let over = |of: fn(&Round) -> f64| cell.median(of) / peer.median(of).max(1e-9);
        format!(
            "   {:.2}× rate, {:.2}× p99 of b",
            over(|round| round.per_second),
            over(|round| round.p99_us as f64)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(rates: &[f64]) -> Cell {
        Cell {
            op: "put".to_owned(),
            value_bytes: 256,
            clients: 1,
            server: "a",
            rounds: rates
                .iter()
                .map(|rate| Round {
                    per_second: *rate,
                    p50_us: 1,
                    p99_us: 2,
                    p999_us: 3,
                    max_us: 4,
                    failed: 0,
                    server_cpu_seconds: None,
                    server_cpu_us: None,
                    client_cpu_seconds: 0.0,
                    rss_mib: None,
                    foreign_cores: None,
                })
                .collect(),
        }
    }

    #[test]
    fn a_median_is_the_middle_and_the_spread_half_the_extremes() {
        for (rates, median, spread) in [
            (&[3.0, 1.0, 2.0][..], 2.0, 50.0),
            (&[1.0, 3.0], 2.0, 50.0),
            (&[5.0], 5.0, 0.0),
            (&[], 0.0, 0.0),
        ] {
            assert_eq!(cell(rates).median(|round| round.per_second), median, "{rates:?}");
            assert_eq!(cell(rates).spread_percent(), spread, "{rates:?}");
        }
    }
}
