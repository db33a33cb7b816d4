//! `setpoint bench store`: etcd's API, ours or anyone's.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::events;
use super::h2load::{Connection, Measured, histogram};
use super::machine::{self, FOREIGN_CORES_MAX, Facts};
use super::report::{Cell, Report, Round, name};
use super::requests::{Op, Template};
use super::scenario::{self, Given, ScenarioArgs};
use super::target::{CONNECTIONS_MAX, Target, WARM_UP};

/// Puts a second while watchers watch.
const WATCHED_PUTS: f64 = 200.0;

/// Arguments of `bench store`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  \
    setpoint bench store --endpoint http://127.0.0.1:2379\n  \
    setpoint bench store --endpoint http://127.0.0.1:2379 --vs http://127.0.0.1:12379 --ops put,get --clients 1,256\n  \
    setpoint bench store --spawn --etcd /usr/bin/etcd --scenario isolation,fanout\n\n\
    It writes keys under setpoint-… and leaves them there.")]
pub struct StoreBenchArgs {
    /// The server to measure
    #[arg(long, value_name = "URL", required_unless_present = "spawn")]
    pub endpoint: Option<String>,
    /// A second server, measured in turns with the first
    #[arg(long, value_name = "URL")]
    pub vs: Option<String>,
    /// Clients that each have one request at a time
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1, 16, 256])]
    pub clients: Vec<usize>,
    /// Bytes of a value
    #[arg(long, value_name = "BYTES,…", value_delimiter = ',', default_values_t = [256, 1024])]
    pub value_size: Vec<usize>,
    /// Seconds of a round
    #[arg(long, default_value_t = 5)]
    pub seconds: u64,
    /// Rounds of each measurement; the table shows medians
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// What to measure
    #[arg(long, value_delimiter = ',', value_enum,
          default_values_t = [Op::Put, Op::Get, Op::GetLinearizable, Op::Range, Op::Watch])]
    pub ops: Vec<Op>,
    /// Keys that are read and overwritten
    #[arg(long, default_value_t = 10_000)]
    pub keys: u64,
    /// Process of --endpoint, for its CPU time and memory; found by its port when it is local
    #[arg(long)]
    pub pid: Option<u32>,
    /// Process of --vs
    #[arg(long)]
    pub vs_pid: Option<u32>,
    /// Print JSON instead of the table
    #[arg(long)]
    pub json: bool,
    /// Also write the JSON to a file
    #[arg(long, value_name = "FILE")]
    pub json_file: Option<PathBuf>,
    /// Measure although other programs keep the machine busy
    #[arg(long)]
    pub allow_load: bool,
    #[command(flatten)]
    scenarios: ScenarioArgs,
}

/// Measures and prints. One thread generates all load, so that it never takes more than a core from the server.
///
/// # Errors
/// When a server cannot be reached, refuses a request, or the machine is busy with something else.
pub fn run(args: &StoreBenchArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the load generator")?;
    runtime.block_on(measure(args))
}

async fn measure(args: &StoreBenchArgs) -> Result<()> {
    if args.rounds == 0 || args.seconds == 0 || args.keys == 0 || args.clients.contains(&0) {
        bail!("--rounds, --seconds, --keys and --clients must be at least 1");
    }
    if args.scenarios.asked() {
        let given = Given {
            endpoint: args.endpoint.as_deref(),
            vs: args.vs.as_deref(),
            pids: [args.pid, args.vs_pid],
            rounds: args.rounds,
            allow_load: args.allow_load,
        };
        return scenario::run(&args.scenarios, &given).await;
    }
    let endpoint = args
        .endpoint
        .as_deref()
        .context("give --endpoint, or a --scenario with --spawn")?;
    let mut targets = vec![Target::find("a", endpoint, args.pid).await?];
    if let Some(vs) = &args.vs {
        targets.push(Target::find("b", vs, args.vs_pid).await?);
    }
    let foreign = scenario::foreign_cores(&targets).await;
    if foreign > FOREIGN_CORES_MAX && !args.allow_load {
        bail!(
            "other programs keep {foreign:.2} cores busy: stop them, or give --allow-load for a marked report"
        );
    }
    let mut cells = Vec::new();
    for value_bytes in &args.value_size {
        for target in &targets {
            target
                .fill(&Template::of(Op::Put, *value_bytes), args.keys)
                .await?;
        }
        for op in &args.ops {
            for clients in &args.clients {
                cells.extend(measure_cell(args, &targets, *op, *value_bytes, *clients).await?);
            }
        }
    }
    let mut servers = targets.into_iter().map(|target| target.server);
    let report = Report {
        machine: Facts::read(),
        a: servers.next().context("there is a first server")?,
        b: servers.next(),
        seconds: args.seconds,
        keys: args.keys,
        cells,
    };
    report.write(args.json, args.json_file.as_deref())
}

/// All rounds of one cell: a, b, a, b, …
async fn measure_cell(
    args: &StoreBenchArgs,
    targets: &[Target],
    op: Op,
    value_bytes: usize,
    clients: usize,
) -> Result<Vec<Cell>> {
    let mut cells: Vec<Cell> = targets
        .iter()
        .map(|target| Cell {
            op: name(&op),
            value_bytes,
            clients,
            server: target.name,
            rounds: Vec::new(),
        })
        .collect();
    for number in 0..args.rounds {
        for (target, cell) in targets.iter().zip(&mut cells) {
            let measured = round(target, args, (op, value_bytes, clients), number).await;
            let measured =
                measured.with_context(|| format!("measure {op:?} of {}", target.server.endpoint))?;
            cell.rounds.push(measured);
        }
    }
    Ok(cells)
}

/// One round of a cell.
async fn round(
    target: &Target,
    args: &StoreBenchArgs,
    (op, value_bytes, clients): (Op, usize, usize),
    number: usize,
) -> Result<Round> {
    let start = Instant::now() + WARM_UP;
    let end = start + Duration::from_secs(args.seconds);
    let load = async {
        if op == Op::Watch {
            watch(target, args.keys, value_bytes, clients, (start, end)).await
        } else {
            let template = Template::of(op, value_bytes);
            let call = (op.path(), &template);
            target.call(call, args.keys, clients, number, (start, end)).await
        }
    };
    let pids = target.pids();
    let (measured, cost) = tokio::join!(load, machine::cost_between(&pids, start, end));
    let measured = measured?;
    let rss_mib = target.server.pid.and_then(machine::rss_mib);
    Ok(Round::new(&measured, args.seconds as f64, &cost, rss_mib))
}

/// Watch streams that all see every put; latency is from the put's request to the event's arrival.
async fn watch(
    target: &Target,
    keys: u64,
    value_bytes: usize,
    streams: usize,
    (start, end): (Instant, Instant),
) -> Result<Measured> {
    let epoch = Instant::now();
    let connections = streams.min(CONNECTIONS_MAX);
    let watching = (0..connections).map(|index| async move {
        let streams = streams / connections + usize::from(index < streams % connections);
        let mut latency: Histogram<u64> = histogram()?;
        let connection = Connection::open(target.address, Op::Watch.path()).await?;
        let each = |message: &[u8]| {
            let now = Instant::now();
            let micros = (now - epoch).as_micros() as u64;
            events::read(message, |event| {
                if let Some(stamp) = event.stamp.filter(|_| now >= start) {
                    latency.saturating_record(micros.saturating_sub(stamp).max(1));
                }
            });
            true
        };
        connection
            .watch((streams, 1), Template::of(Op::Watch, 0), end, each)
            .await?;
        anyhow::Ok(latency)
    });
    let template = Template::of(Op::Put, value_bytes);
    let putting = target.paced(&template, keys, WATCHED_PUTS, 1, epoch, (start, end));
    let (latencies, put) = tokio::join!(try_join_all(watching), putting);
    let failed = put?.failed;
    let mut latency = histogram()?;
    for other in latencies? {
        latency.add(other).context("add histograms")?;
    }
    Ok(Measured { latency, failed })
}
