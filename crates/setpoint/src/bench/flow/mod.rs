//! `setpoint bench flow`: how well servers' flow control fills a link, beside each other and over the same bad network.
//!
//! One sender (`sender`, over the `h2` crate) uploads through one proxy (`setpoint_flow::impair`) to each contender in
//! turn; every contender is a process of its own (`contender`), whose windows alone decide how much may be on the way.
//! The tonic servers and ours are this program again (`serve`), grpc-go's is `conformance/grpc-go`.
//!
//! - `grid`: how much of the link one stream fills, and how soon. `step`: a round trip that grows and shrinks.
//! - `hoard`: streams that nobody reads beside one that is. `fair`: many equal streams, and a small call beside large ones.
//! - `meter`: what passes, over time. `chart`: drawn. `report`: the table and the raw result.

mod chart;
mod contender;
mod fair;
mod grid;
mod hoard;
mod meter;
mod report;
mod sender;
mod serve;
mod step;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use setpoint_base::{Stop, TaskGroup};
use setpoint_flow::impair::{Proxy, ProxyOptions, Setting};

use self::contender::{Contender, Peer};
use self::report::Report;
use self::sender::Sender;
use super::machine::{FOREIGN_CORES_MAX, Usage};

/// How long the machine is watched before the first measurement.
const CALM: Duration = Duration::from_millis(500);
/// Nothing here takes as long.
const CELL_TIMEOUT: Duration = Duration::from_secs(60);
/// How long tasks may take to end.
const GRACE: Duration = Duration::from_secs(5);

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
}

/// Arguments of `bench flow`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  \
    setpoint bench flow\n  \
    setpoint bench flow --scenario grid --contender setpoint,tonic-adaptive --svg grid.svg\n  \
    setpoint bench flow --quick --grpc-go conformance/bin/flowpeer\n\n\
    grpc-go takes part where its program has been built: cargo xtask conformance grpc-go.")]
pub struct FlowArgs {
    /// What to measure
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [Scenario::Grid, Scenario::Step, Scenario::Hoard, Scenario::Fair])]
    pub scenario: Vec<Scenario>,
    /// Whose flow control
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = Contender::ALL)]
    pub contender: Vec<Contender>,
    /// The program with grpc-go's server
    #[arg(long, value_name = "PROGRAM", default_value = "conformance/bin/flowpeer")]
    pub grpc_go: PathBuf,
    /// Fewer links and shorter measurements: to see that it works
    #[arg(long)]
    pub quick: bool,
    /// Measure although other programs keep the machine busy
    #[arg(long)]
    pub allow_load: bool,
    /// Draw throughput over time: the name gets the scenario before its end, as in flow-grid.svg
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
}

/// Measures and prints, until done or `stop`; or is a contender.
///
/// # Errors
/// When the machine is busy, or a server or the proxy cannot be started or used.
pub async fn run(args: &FlowArgs, stop: Stop) -> Result<()> {
    if let Some(contender) = args.serve {
        return serve::run(contender, stop).await;
    }
    let foreign = foreign_cores().await;
    if let Some(cores) = foreign.filter(|cores| *cores > FOREIGN_CORES_MAX && !args.allow_load) {
        bail!("other programs keep {cores:.2} cores busy: wait for them, or give --allow-load");
    }
    let mut report = Report::new(args, foreign);
    let measured = async {
        for scenario in &args.scenario {
            measure(args, *scenario, &mut report).await?;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        () = stop.cancelled() => bail!("interrupted"),
        measured = measured => measured?,
    }
    report.write(args)
}

async fn measure(args: &FlowArgs, scenario: Scenario, report: &mut Report) -> Result<()> {
    for contender in &args.contender {
        let Some(start) = contender.command(&args.grpc_go) else {
            report.skip(*contender, &args.grpc_go);
            continue;
        };
        let what = contender.name();
        match scenario {
            Scenario::Grid => grid::measure(*contender, &start, args.quick, &mut report.grid).await,
            Scenario::Step => step::measure(*contender, &start, args.quick, &mut report.step).await,
            Scenario::Hoard => hoard::measure(*contender, &start, args.quick, &mut report.hoard).await,
            Scenario::Fair => fair::measure(*contender, &start, args.quick, &mut report.fair).await,
        }
        .with_context(|| format!("measure {what}"))?;
    }
    Ok(())
}

async fn foreign_cores() -> Option<f64> {
    let usage = Usage::now(&[]);
    tokio::time::sleep(CALM).await;
    usage.foreign_cores()
}

/// A contender, the link to it and a sender on it.
struct Bench {
    peer: Peer,
    proxy: Proxy,
    sender: Sender,
    tasks: TaskGroup,
}

impl Bench {
    /// Starts a fresh server behind a fresh link.
    async fn start(command: &contender::Start, setting: Setting) -> Result<Self> {
        let peer = Peer::start(command).await?;
        let options = ProxyOptions {
            setting,
            ..ProxyOptions::default()
        };
        let proxy = Proxy::listen(peer.addr, options)
            .await
            .context("start the proxy")?;
        let tasks = TaskGroup::new(&Stop::new());
        let sender = Sender::connect(proxy.addr(), &tasks).await?;
        Ok(Self {
            peer,
            proxy,
            sender,
            tasks,
        })
    }

    async fn stop(self) {
        self.tasks.shutdown(GRACE).await;
        self.proxy.stop().await;
        self.peer.stop().await;
    }
}

/// A measurement must not hang.
async fn bounded<T>(what: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(CELL_TIMEOUT, what)
        .await
        .context("took longer than a minute")?
}
