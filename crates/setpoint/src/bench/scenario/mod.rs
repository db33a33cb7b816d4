//! `setpoint bench store --scenario`: what a store does on a bad day, beside an etcd on the same day.
//!
//! Each scenario has a file, drives both servers in turns and fills one [`Table`]; each gets fresh servers when it
//! may start them (`--spawn`). Goals stand beside the results, so that a miss is seen.
//!
//! - `puts`, `reads`: closed loops. `isolation`: the latency of puts while something else goes on.
//! - `fanout`: many watchers of one stream of events. `idle`: what streams and watchers hold in memory.
//! - `size`: a million keys, and how long a start takes. `leases`: a hundred thousand that end at once.
//! - `drop`: the lag of watchers while connections are cut. `official`: etcd's own load generator.

mod disturb;
mod drop;
mod fanout;
mod idle;
mod isolation;
mod leases;
mod official;
mod puts;
mod reads;
mod size;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use tokio::time::Instant;

use super::h2load::Measured;
use super::machine::{self, Cost, FOREIGN_CORES_MAX, Facts, Usage};
use super::report::name;
use super::spawn::{Scratch, Spawned};
use super::table::{Goal, Table};
use super::target::{Target, WARM_UP};
use isolation::Beside;

/// A day to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Scenario {
    /// Durable puts at 1 to 1000 clients
    Puts,
    /// Reads of one key, of 500 and 10,000 keys, and the count of a million
    Reads,
    /// Puts while LISTs, a compaction, a watcher far behind, a snapshot, leases and reconnects go on
    Isolation,
    /// 1,000 and 10,000 watchers of one stream of events
    Fanout,
    /// What idle watch streams and watchers hold in memory
    Idle,
    /// A million keys: memory, and the time from start to first read (needs --spawn)
    Size,
    /// 100,000 leases that end at once
    Leases,
    /// The lag of watchers, undisturbed and while their connections are cut
    Drop,
    /// etcd's own load generator (needs --official)
    Official,
}

/// All of them, in the order in which they run.
const ALL: [Scenario; 9] = [
    Scenario::Puts,
    Scenario::Reads,
    Scenario::Isolation,
    Scenario::Fanout,
    Scenario::Idle,
    Scenario::Size,
    Scenario::Leases,
    Scenario::Drop,
    Scenario::Official,
];

/// Arguments that concern scenarios.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct ScenarioArgs {
    /// Run scenarios instead of single operations
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME,…")]
    scenario: Vec<Scenario>,
    /// Run every scenario
    #[arg(long)]
    all: bool,
    /// A smoke test: everything shorter and smaller
    #[arg(long)]
    quick: bool,
    /// Start a store of this program for each scenario instead of using --endpoint
    #[arg(long)]
    spawn: bool,
    /// With --spawn, an etcd to start beside it
    #[arg(long, value_name = "PROGRAM", requires = "spawn")]
    etcd: Option<PathBuf>,
    /// Of isolation, only these disturbances, in as many rounds as --rounds says
    #[arg(long, value_name = "NAME,…", value_enum, value_delimiter = ',')]
    beside: Vec<Beside>,
    /// Of fanout, only so many watchers, in as many rounds as --rounds says
    #[arg(long, value_name = "WATCHERS", value_parser = clap::value_parser!(u32).range(10..=100_000))]
    watchers: Option<u32>,
    /// etcd's own load generator, built from bench/official
    #[arg(long, value_name = "PROGRAM")]
    official: Option<PathBuf>,
    /// With --spawn, where data goes while it runs; it is emptied first
    #[arg(long, value_name = "DIR", default_value = "setpoint-bench-data")]
    scratch: PathBuf,
    /// Also write each result as JSON into this directory
    #[arg(long, value_name = "DIR")]
    json_dir: Option<PathBuf>,
    /// What to call the measured commit in the results
    #[arg(long)]
    commit: Option<String>,
}

impl ScenarioArgs {
    pub(super) fn asked(&self) -> bool {
        self.all || !self.scenario.is_empty()
    }
}

/// The servers to use when none are to be started.
pub(super) struct Given<'a> {
    pub(super) endpoint: Option<&'a str>,
    pub(super) vs: Option<&'a str>,
    pub(super) pids: [Option<u32>; 2],
    pub(super) rounds: usize,
    pub(super) allow_load: bool,
}

/// Runs what was asked for, one after the other.
pub(super) async fn run(args: &ScenarioArgs, given: &Given<'_>) -> Result<()> {
    let scenarios = if args.all { &ALL[..] } else { &args.scenario };
    // Before anything is measured, which takes minutes.
    if let Some(dir) = &args.json_dir {
        std::fs::create_dir_all(dir).with_context(|| format!("--json-dir {}", dir.display()))?;
    }
    for scenario in scenarios {
        let scratch = args
            .spawn
            .then(|| Scratch::new(args.scratch.clone()))
            .transpose()?;
        let mut bench = Bench::begin(*scenario, args, given, scratch).await?;
        let result = match scenario {
            Scenario::Puts => puts::run(&mut bench).await,
            Scenario::Reads => reads::run(&mut bench).await,
            Scenario::Isolation => {
                let some = (!args.beside.is_empty()).then_some((&args.beside[..], given.rounds));
                isolation::run(&mut bench, some).await
            }
            Scenario::Fanout => {
                let some = args.watchers.map(|watchers| (watchers as usize, given.rounds));
                fanout::run(&mut bench, some).await
            }
            Scenario::Idle => idle::run(&mut bench).await,
            Scenario::Size => size::run(&mut bench).await,
            Scenario::Leases => leases::run(&mut bench).await,
            Scenario::Drop => drop::run(&mut bench).await,
            Scenario::Official => official::run(&mut bench).await,
        };
        result.with_context(|| format!("scenario {}", name(scenario)))?;
        bench.table.write(args.json_dir.as_deref())?;
    }
    Ok(())
}

/// One scenario under way.
struct Bench {
    targets: Vec<Target>,
    table: Table,
    quick: bool,
    official: Option<PathBuf>,
    /// The servers, if they are ours to stop and start.
    servers: Vec<Spawned>,
    _scratch: Option<Scratch>,
}

impl Bench {
    async fn begin(
        scenario: Scenario,
        args: &ScenarioArgs,
        given: &Given<'_>,
        scratch: Option<Scratch>,
    ) -> Result<Self> {
        let (mut servers, mut targets) = (Vec::new(), Vec::new());
        if let Some(scratch) = &scratch {
            servers.push(Spawned::setpoint(scratch.path(), false).await?);
            if let Some(etcd) = &args.etcd {
                servers.push(Spawned::etcd(etcd, scratch.path(), false).await?);
            }
            for server in &servers {
                targets.push(server.target().await?);
            }
        } else {
            let endpoint = given.endpoint.context("give --endpoint, or --spawn")?;
            targets.push(Target::find("a", endpoint, given.pids[0]).await?);
            if let Some(vs) = given.vs {
                targets.push(Target::find("b", vs, given.pids[1]).await?);
            }
        }
        let foreign = foreign_cores(&targets).await;
        if foreign > FOREIGN_CORES_MAX && !given.allow_load {
            bail!(
                "other programs keep {foreign:.2} cores busy: stop them, or give --allow-load for a marked report"
            );
        }
        let table = Table {
            scenario: name(&scenario),
            machine: Facts::read(),
            commit: args.commit.clone(),
            a: targets[0].server.clone(),
            b: targets.get(1).map(|target| target.server.clone()),
            quick: args.quick,
            rows: Vec::new(),
            notes: Vec::new(),
            foreign_cores: vec![foreign],
        };
        Ok(Self {
            targets,
            table,
            quick: args.quick,
            official: args.official.clone(),
            servers,
            _scratch: scratch,
        })
    }

    /// One of two values: for a real run, or for a smoke test.
    fn pick<T>(&self, real: T, quick: T) -> T {
        if self.quick { quick } else { real }
    }
}

/// Cores busy with something else, looked at for half a second.
pub(super) async fn foreign_cores(targets: &[Target]) -> f64 {
    let pids: Vec<u32> = targets.iter().flat_map(Target::pids).collect();
    let usage = Usage::now(&pids);
    tokio::time::sleep(Duration::from_millis(500)).await;
    usage.foreign_cores().unwrap_or(0.0)
}

/// Runs a load that is told when it counts; what it measured, and what it cost.
async fn window<T>(
    target: &Target,
    seconds: f64,
    load: impl AsyncFnOnce((Instant, Instant)) -> Result<T>,
) -> Result<(T, Cost)> {
    let start = Instant::now() + WARM_UP;
    let end = start + Duration::from_secs_f64(seconds);
    let pids = target.pids();
    let (measured, cost) = tokio::join!(load((start, end)), machine::cost_between(&pids, start, end));
    Ok((measured?, cost))
}

impl Table {
    /// Notes how busy others were.
    fn foreign(&mut self, cost: &Cost) {
        self.foreign_cores.extend(cost.foreign);
    }

    /// Notes that calls failed, if any did.
    fn failures(&mut self, target: &Target, what: &str, measured: &Measured) {
        if measured.failed > 0 {
            self.note(format!(
                "{what}, server {}: {} calls failed",
                target.name, measured.failed
            ));
        }
    }

    /// The rows of a closed loop: rate, rate per CPU second of the server, p99.
    fn closed_loop(
        &mut self,
        target: &Target,
        what: &str,
        goals: [Goal; 3],
        (measured, cost): &(Measured, Cost),
        seconds: f64,
    ) {
        let calls = measured.latency.len() as f64;
        let server = target.name;
        self.add(server, what, "/s", goals[0], calls / seconds);
        if let Some(cpu) = cost.server.filter(|cpu| *cpu > 0.0) {
            self.add(
                server,
                &format!("{what}: per CPU s"),
                "/CPUs",
                goals[1],
                calls / cpu,
            );
        }
        let p99 = measured.latency.value_at_quantile(0.99) as f64 / 1000.0;
        self.add(server, &format!("{what}: p99"), "ms", goals[2], p99);
        self.failures(target, what, measured);
        self.foreign(cost);
    }
}
