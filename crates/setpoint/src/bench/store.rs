//! `setpoint bench store`: etcd's API, ours or anyone's.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use setpoint_proto::etcdserverpb::StatusRequest;
use setpoint_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tokio::time::Instant;

use super::h2load::{Connection, Measured, histogram};
use super::machine::{self, FOREIGN_CORES_MAX, Facts, Usage};
use super::report::{Cell, Report, Round, Server, name};
use super::requests::{Op, Template, stamps};

/// Connections at most; more clients share them, as a busy server's clients do.
const CONNECTIONS_MAX: usize = 50;
/// Callers that fill the store before reads.
const FILL_CALLERS: usize = 128;
/// Puts a second while watchers watch.
const WATCHED_PUTS: u32 = 200;
/// What runs before a round counts.
const WARM_UP: Duration = Duration::from_millis(300);

/// Arguments of `bench store`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  \
    setpoint bench store --endpoint http://127.0.0.1:2379\n  \
    setpoint bench store --endpoint http://127.0.0.1:2379 --vs http://127.0.0.1:12379 --ops put,get --clients 1,256\n\n\
    It writes keys under setpoint-bench/ and leaves them there.")]
pub struct StoreBenchArgs {
    /// The server to measure
    #[arg(long, value_name = "URL")]
    pub endpoint: String,
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
    let mut targets = vec![Target::find("a", &args.endpoint, args.pid).await?];
    if let Some(vs) = &args.vs {
        targets.push(Target::find("b", vs, args.vs_pid).await?);
    }
    let foreign = foreign_cores_now(&targets).await;
    if foreign > FOREIGN_CORES_MAX && !args.allow_load {
        bail!(
            "other programs keep {foreign:.2} cores busy: stop them, or give --allow-load for a marked report"
        );
    }
    let mut cells = Vec::new();
    for value_bytes in &args.value_size {
        for target in &targets {
            target.fill(args.keys, *value_bytes).await?;
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
            let round = target.round(args, op, value_bytes, clients, number).await;
            let round = round.with_context(|| format!("measure {op:?} of {}", target.server.endpoint))?;
            cell.rounds.push(round);
        }
    }
    Ok(cells)
}

/// Cores busy with something else, looked at for half a second.
async fn foreign_cores_now(targets: &[Target]) -> f64 {
    let pids: Vec<u32> = targets.iter().filter_map(|target| target.server.pid).collect();
    let usage = Usage::now(&pids);
    tokio::time::sleep(Duration::from_millis(500)).await;
    usage.foreign_cores().unwrap_or(0.0)
}

/// A server under measurement.
struct Target {
    name: &'static str,
    address: SocketAddr,
    server: Server,
}

impl Target {
    async fn find(name: &'static str, endpoint: &str, pid: Option<u32>) -> Result<Self> {
        let host = endpoint.trim_start_matches("http://").trim_end_matches('/');
        let address = tokio::net::lookup_host(host)
            .await
            .with_context(|| format!("resolve {endpoint} (give http://HOST:PORT)"))?
            .next()
            .with_context(|| format!("{endpoint} has no address"))?;
        let mut client = MaintenanceClient::connect(format!("http://{address}"))
            .await
            .with_context(|| format!("connect to {endpoint}"))?;
        let status = client
            .status(StatusRequest {})
            .await
            .with_context(|| format!("ask {endpoint} for its status"))?;
        Ok(Self {
            name,
            address,
            server: Server {
                endpoint: endpoint.to_owned(),
                version: format!("etcd API {}", status.into_inner().version),
                pid: pid.or_else(|| machine::listener(address)),
            },
        })
    }

    /// Writes every key once.
    async fn fill(&self, keys: u64, value_bytes: usize) -> Result<()> {
        let (now, far) = (Instant::now(), Instant::now() + Duration::from_secs(3600));
        let connection = Connection::open(self.address, Op::Put.path()).await?;
        let template = Template::of(Op::Put, value_bytes);
        let measured = connection
            .run(FILL_CALLERS, template, 0..keys, (now, far))
            .await?;
        if measured.failed > 0 {
            bail!(
                "{} of {keys} puts failed while filling {}",
                measured.failed,
                self.server.endpoint
            );
        }
        Ok(())
    }

    async fn round(
        &self,
        args: &StoreBenchArgs,
        op: Op,
        value_bytes: usize,
        clients: usize,
        number: usize,
    ) -> Result<Round> {
        let start = Instant::now() + WARM_UP;
        let end = start + Duration::from_secs(args.seconds);
        let load = async {
            if op == Op::Watch {
                self.watch(args.keys, value_bytes, clients, (start, end)).await
            } else {
                self.call(op, args.keys, value_bytes, clients, number, (start, end))
                    .await
            }
        };
        let pids: Vec<u32> = self.server.pid.into_iter().collect();
        let (measured, cost) = tokio::join!(load, machine::cost_between(&pids, start, end));
        let measured = measured?;
        let rss_mib = self.server.pid.and_then(machine::rss_mib);
        let failed = measured.failed;
        Ok(Round::new(
            &measured.latency,
            failed,
            args.seconds,
            &cost,
            rss_mib,
        ))
    }

    /// Unary calls in a closed loop.
    async fn call(
        &self,
        op: Op,
        keys: u64,
        value_bytes: usize,
        clients: usize,
        number: usize,
        time: (Instant, Instant),
    ) -> Result<Measured> {
        let connections = clients.min(CONNECTIONS_MAX);
        let runs = (0..connections).map(|index| async move {
            let callers = clients / connections + usize::from(index < clients % connections);
            let mut rng = fastrand::Rng::with_seed((number * CONNECTIONS_MAX + index) as u64);
            let keys = std::iter::repeat_with(move || rng.u64(..keys));
            let connection = Connection::open(self.address, op.path()).await?;
            connection
                .run(callers, Template::of(op, value_bytes), keys, time)
                .await
        });
        let mut sum = Measured {
            latency: histogram()?,
            failed: 0,
        };
        for measured in try_join_all(runs).await? {
            sum.latency.add(measured.latency).context("add histograms")?;
            sum.failed += measured.failed;
        }
        Ok(sum)
    }

    /// Watch streams that all see every put; latency is from the put's request to the event's arrival.
    async fn watch(
        &self,
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
            let connection = Connection::open(self.address, Op::Watch.path()).await?;
            let each = |message: &[u8]| {
                let now = Instant::now();
                if now < start {
                    return;
                }
                let now = (now - epoch).as_micros() as u64;
                for stamp in stamps(message) {
                    latency.saturating_record(now.saturating_sub(stamp).max(1));
                }
            };
            connection
                .watch(streams, Template::of(Op::Watch, 0), end, each)
                .await?;
            anyhow::Ok(latency)
        });
        let putting = async {
            let connection = Connection::open(self.address, Op::Put.path()).await?;
            let template = Template::of(Op::Put, value_bytes);
            connection.pace(template, keys, WATCHED_PUTS, epoch, end).await
        };
        let (latencies, put) = tokio::join!(try_join_all(watching), putting);
        put?;
        let latencies: Vec<Histogram<u64>> = latencies?;
        let mut latency = histogram()?;
        for other in latencies {
            latency.add(other).context("add histograms")?;
        }
        Ok(Measured { latency, failed: 0 })
    }
}
