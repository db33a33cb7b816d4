//! `setpoint bench flow`: how well flow control fills a link, beside others' and over the same bad network; what limits do
//! under overload; what channels cost.
//!
//! One sender (`sender`, over the `h2` crate) uploads through one proxy (`setpoint_flow::impair`) to each contender in
//! turn, or a server of its own (`download`) sends to each contender's client; every contender is a process of its own
//! (`contender`), whose windows alone decide how much may be on the way. Those of tonic and ours are this program again
//! (`serve`, `download::fetch`), grpc-go's is `conformance/grpc-go`.
//!
//! - `grid`: how much of the link one stream fills, and how soon. `step`: a round trip that grows and shrinks.
//! - `hoard`: streams that nobody reads beside one that is. `fair`: many equal streams, and a small call beside large ones.
//!   `rush`: that call while the large ones begin.
//! - `overload`: three times the load that a service can take, by limit. `channels`: connecting, calls, a dead peer.
//! - `meter`: what passes, over time. `chart`: drawn. `report`: the table and the raw result.
//!
//! What cannot be measured, also because an upload or a download ended early, is told at the end, and the run fails.

mod args;
mod channels;
mod chart;
mod contender;
mod download;
mod fair;
mod grid;
mod hoard;
mod meter;
mod overload;
mod report;
mod rush;
mod sender;
mod serve;
mod step;

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use setpoint_base::{Stop, TaskGroup};
use setpoint_flow::impair::{Proxy, ProxyOptions, Setting};
use tokio::time::Instant;

pub(crate) use self::args::FlowArgs;
use self::args::Scenario;
use self::contender::{Contender, Peer, Start};
use self::meter::Way;
use self::report::Report;
use self::sender::Sender;
use super::machine::{FOREIGN_CORES_MAX, Usage};

/// How long the machine is watched before the first measurement.
const CALM: Duration = Duration::from_millis(500);
/// Nothing here takes as long.
const CELL_TIMEOUT: Duration = Duration::from_secs(60);
/// How long tasks may take to end.
const GRACE: Duration = Duration::from_secs(5);

/// Measures and prints, until done or `stop`; or is a contender.
///
/// # Errors
/// When the machine is busy, or something could not be measured.
pub async fn run(args: &FlowArgs, stop: Stop) -> Result<()> {
    if let Some(contender) = args.serve {
        return serve::run(contender, stop).await;
    }
    if let Some(limit) = args.serve_limit {
        return overload::serve::run(limit).await;
    }
    if let Some((contender, from)) = args.fetch.zip(args.from) {
        return download::fetch::run(contender, from).await;
    }
    let foreign = foreign_cores().await;
    if let Some(cores) = foreign.filter(|cores| *cores > FOREIGN_CORES_MAX && !args.allow_load) {
        bail!("other programs keep {cores:.2} cores busy: wait for them, or give --allow-load");
    }
    let mut report = Report::new(args, foreign);
    tokio::select! {
        () = stop.cancelled() => bail!("interrupted"),
        () = measure_all(args, &mut report) => (),
    }
    report.write(args)?;
    report.verdict(args)
}

async fn measure_all(args: &FlowArgs, report: &mut Report) {
    for scenario in &args.scenario {
        match scenario {
            Scenario::Overload => {
                for limit in &args.limit {
                    let what = format!("overload, {}", limit.name());
                    let measured = async {
                        let start = Start::this(&["bench", "flow", "--serve-limit", limit.name()])?;
                        overload::measure(*limit, &start, args.seconds(), args.quick, &mut report.overload)
                            .await
                    };
                    let ended = told(&what, measured).await;
                    report.note(what, ended);
                }
            }
            Scenario::Channels => {
                for contender in args.contender.iter().filter(|contender| contender.has_channel()) {
                    let what = format!("channels, {}", contender.name());
                    let measured = async {
                        let start = Start::this(&["bench", "flow", "--serve", Contender::Setpoint.name()])?;
                        channels::measure(*contender, &start, args.calls(), args.quick, &mut report.channels)
                            .await
                    };
                    let ended = told(&what, measured).await;
                    report.note(what, ended);
                }
            }
            scenario => windows(args, *scenario, report).await,
        }
    }
}

/// The scenarios that are about windows.
async fn windows(args: &FlowArgs, scenario: Scenario, report: &mut Report) {
    let ways: &[Way] = match scenario {
        Scenario::Grid => args.direction.ways(),
        _ => &[Way::Up],
    };
    for way in ways {
        for contender in &args.contender {
            let start = match way {
                Way::Up => contender.server(&args.grpc_go),
                Way::Down if !contender.has_client() => continue,
                Way::Down => contender.client(&args.grpc_go),
            };
            let Some(start) = start else {
                report.skip(*contender, &args.grpc_go);
                continue;
            };
            let what = format!("{} {}, {}", scenario.name(), way.name(), contender.name());
            let measured = async {
                match scenario {
                    Scenario::Step => step::measure(*contender, &start, args.quick, &mut report.step).await,
                    Scenario::Hoard => {
                        hoard::measure(*contender, &start, args.quick, &mut report.hoard).await
                    }
                    Scenario::Fair => fair::measure(*contender, &start, args.quick, &mut report.fair).await,
                    Scenario::Rush => rush::measure(*contender, &start, args.quick, &mut report.rush).await,
                    _ => {
                        let cells = &mut report.grid;
                        grid::measure(*contender, &start, *way, args.jitter, args.quick, cells).await
                    }
                }
            };
            let ended = told(&what, measured).await;
            report.note(what, ended);
        }
    }
}

/// Says on standard error what is being measured, and how it went.
async fn told(what: &str, measured: impl Future<Output = Result<()>>) -> Result<()> {
    let began = Instant::now();
    progress(&format!("{what} ..."));
    let ended = measured.await;
    let seconds = began.elapsed().as_secs_f64();
    match &ended {
        Ok(()) => progress(&format!("{what}: {seconds:.1} s")),
        Err(error) => progress(&format!("{what}: failed after {seconds:.1} s: {error:#}")),
    }
    ended
}

fn progress(line: &str) {
    // Who has closed standard error does not want to know.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
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
    async fn start(command: &Start, setting: Setting) -> Result<Self> {
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

    /// Ends all of it.
    ///
    /// # Errors
    /// An upload had ended before.
    async fn stop(self) -> Result<()> {
        let failure = self.sender.failure.clone();
        self.tasks.shutdown(GRACE).await;
        self.proxy.stop().await;
        self.peer.stop().await;
        failure.check("an upload ended early: its figure is not one of flow control")
    }
}

/// A measurement must not hang.
async fn bounded<T>(what: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(CELL_TIMEOUT, what)
        .await
        .context("took longer than a minute")?
}
