//! What `bench flow` is told.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};

use super::contender::Contender;
use super::meter::Way;
use super::overload::Limit;

/// Calls of a run of channels, and of a quick one.
const CALLS: usize = 100_000;
const CALLS_QUICK: usize = 10_000;
/// Seconds of overload, and of a quick one.
const SECONDS: u64 = 15;
const SECONDS_QUICK: u64 = 8;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// One stream over links of 100 Mbit/s and 1 Gbit/s with 2, 30, 100 and 200 ms: share of the link, time to 90 %
    Grid,
    /// A round trip that goes from 20 to 150 ms and back
    Step,
    /// 1,000 streams of which 999 are not read
    Hoard,
    /// 100 equal streams; a call of 1 KB beside 8 large streams
    Fair,
    /// 8 large streams that begin at once over 100 Mbit/s; a call of 1 KB beside them from the first moment
    Rush,
    /// Three times the load that a service can take, by limit
    Overload,
    /// Connecting, connections used again, many calls, a dead peer
    Channels,
}

impl Scenario {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Grid => "grid",
            Self::Step => "step",
            Self::Hoard => "hoard",
            Self::Fair => "fair",
            Self::Rush => "rush",
            Self::Overload => "overload",
            Self::Channels => "channels",
        }
    }
}

/// Which way the grid sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Direction {
    /// To the contenders' servers
    Up,
    /// To the contenders' clients
    Down,
    /// One after the other
    Both,
}

impl Direction {
    pub(super) fn ways(self) -> &'static [Way] {
        match self {
            Self::Up => &[Way::Up],
            Self::Down => &[Way::Down],
            Self::Both => &[Way::Up, Way::Down],
        }
    }
}

/// Arguments of `bench flow`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  \
    setpoint bench flow\n  \
    setpoint bench flow --scenario grid --direction both --contender setpoint,tonic-adaptive --svg grid.svg\n  \
    setpoint bench flow --scenario grid --jitter 20 --contender setpoint,grpc-go-bdp\n  \
    setpoint bench flow --scenario overload --limit gradient2,none --seconds 30 --svg overload.svg\n  \
    setpoint bench flow --scenario channels --calls 1000000\n  \
    setpoint bench flow --quick --grpc-go conformance/bin/flowpeer --json > flow.json\n\n\
    Progress goes to standard error. When something could not be measured the rest is printed, and the exit code is 1.\n\
    grpc-go takes part where its program has been built: cargo xtask conformance grpc-go.")]
pub struct FlowArgs {
    /// What to measure
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [Scenario::Grid, Scenario::Step, Scenario::Hoard, Scenario::Fair, Scenario::Rush])]
    pub scenario: Vec<Scenario>,
    /// Whose flow control; channels are ours and tonic's (tonic-default)
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = Contender::ALL)]
    pub contender: Vec<Contender>,
    /// Which way the grid sends: the receiver's windows decide
    #[arg(long, value_enum, default_value_t = Direction::Up)]
    pub direction: Direction,
    /// How uneven the links of the grid are: up to this part of its delay is added each way, in percent, for every 16 KiB
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = RangedU64ValueParser::<u32>::new().range(0..=100))]
    pub jitter: u32,
    /// How calls at a time are limited under overload
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = Limit::ALL)]
    pub limit: Vec<Limit>,
    /// Seconds of overload: more than 5, from then on everything has to be well (15; 8 with --quick)
    #[arg(long, value_name = "SECONDS", value_parser = RangedU64ValueParser::<u64>::new().range(6..=40))]
    pub seconds: Option<u64>,
    /// Calls that each kind of channel makes (100000; 10000 with --quick)
    #[arg(long, value_name = "CALLS", value_parser = RangedU64ValueParser::<u64>::new().range(1_000..=100_000_000))]
    pub calls: Option<u64>,
    /// The program with grpc-go's server and client
    #[arg(long, value_name = "PROGRAM", default_value = "conformance/bin/flowpeer")]
    pub grpc_go: PathBuf,
    /// Fewer links and shorter measurements: to see that it works
    #[arg(long)]
    pub quick: bool,
    /// Measure although other programs keep the machine busy
    #[arg(long)]
    pub allow_load: bool,
    /// Draw over time: the name gets the scenario before its end, as in flow-grid.svg
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Print JSON instead of the tables
    #[arg(long)]
    pub json: bool,
    /// Also write the JSON to a file
    #[arg(long, value_name = "FILE")]
    pub json_file: Option<PathBuf>,
    /// The commit under measurement, for the report
    #[arg(long, value_name = "COMMIT", default_value = "")]
    pub commit: String,
    /// Be a contender's server, until standard input ends
    #[arg(long, value_enum, hide = true)]
    pub serve: Option<Contender>,
    /// Be the server that is overloaded, until standard input ends
    #[arg(long, value_enum, hide = true)]
    pub serve_limit: Option<Limit>,
    /// Be a contender's client, until standard input ends
    #[arg(long, value_enum, hide = true, requires = "from")]
    pub fetch: Option<Contender>,
    /// What it reads from
    #[arg(long, hide = true, requires = "fetch")]
    pub from: Option<SocketAddr>,
}

impl FlowArgs {
    pub(super) fn calls(&self) -> usize {
        let default = if self.quick { CALLS_QUICK } else { CALLS };
        self.calls
            .and_then(|calls| usize::try_from(calls).ok())
            .unwrap_or(default)
    }

    pub(super) fn seconds(&self) -> u64 {
        self.seconds
            .unwrap_or(if self.quick { SECONDS_QUICK } else { SECONDS })
    }

    /// What the arguments ask for that cannot be had together.
    ///
    /// # Errors
    /// Why, and what could be given instead.
    pub(crate) fn check(&self) -> Result<(), Vec<String>> {
        let mut problems = Vec::new();
        let any = |able: fn(Contender) -> bool| self.contender.iter().any(|contender| able(*contender));
        if self.scenario.contains(&Scenario::Channels) && !any(Contender::has_channel) {
            problems.push(
                "--scenario channels is about setpoint and tonic-default: name one with --contender"
                    .to_owned(),
            );
        }
        if self.jitter > 0 && !self.scenario.contains(&Scenario::Grid) {
            problems.push("--jitter is about the grid: name it with --scenario".to_owned());
        }
        if self.scenario.contains(&Scenario::Grid)
            && self.direction == Direction::Down
            && !any(Contender::has_client)
        {
            problems.push(
                "--direction down is about clients, and fixed has none: name another --contender".to_owned(),
            );
        }
        for file in [&self.svg, &self.json_file].into_iter().flatten() {
            let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
            if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
                problems.push(format!("there is no folder {}: make it first", folder.display()));
            }
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(problems)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        flow: FlowArgs,
    }

    fn parse(words: &str) -> Result<(), String> {
        let words = ["flow"].into_iter().chain(words.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        cli.flow.check().map_err(|problems| problems.join("; "))
    }

    #[test]
    fn what_cannot_be_had_is_refused_before_anything_is_measured() {
        for (words, problem) in [
            (
                "--scenario channels --contender fixed",
                "setpoint and tonic-default",
            ),
            ("--direction down --contender fixed", "fixed has none"),
            ("--scenario overload --seconds 3", "6..=40"),
            ("--scenario fair --jitter 20", "about the grid"),
            ("--jitter 101", "0..=100"),
            ("--scenario chanels", "channels"),
            ("--limit gradient", "gradient2"),
            ("--fetch setpoint", "--from"),
            ("--svg /no/such/folder/flow.svg", "no folder /no/such/folder"),
        ] {
            let said = parse(words).unwrap_err();
            assert!(said.contains(problem), "{words}: {said}");
        }
        for words in [
            "",
            "--direction both",
            "--jitter 20 --scenario grid",
            "--scenario overload,channels --quick --svg flow.svg",
        ] {
            assert_eq!(parse(words), Ok(()), "{words}");
        }
    }
}
