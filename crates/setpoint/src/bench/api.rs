//! `setpoint bench api`: any Kubernetes API server, through the client that operators use.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use serde_json::json;
use setpoint_runtime::client::{Api, Client, ListParams, Resource};
use tokio::time::Instant;

use super::h2load::{Measured, histogram};
use super::machine::{self, Facts};
use super::report::{Cell, Report, Round, Server, name};

/// Connections at most; more clients share them.
const CONNECTIONS_MAX: usize = 16;
const NAMESPACE: &str = "default";

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
enum ApiOp {
    /// GET of one object
    Get,
    /// LIST of all objects
    List,
    /// PUT of one object
    Put,
}

/// Arguments of `bench api`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  \
    setpoint bench api --kubeconfig setpoint-data/admin.kubeconfig\n  \
    setpoint bench api --kubeconfig setpoint-data/admin.kubeconfig --ops list --objects 10000 --pid 4711\n\n\
    It makes ConfigMaps named setpoint-bench-* in the default namespace and leaves them there.")]
pub struct ApiBenchArgs {
    /// How to reach the API server
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// Clients that each have one request at a time
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1, 16, 64])]
    pub clients: Vec<usize>,
    /// Objects that are read and overwritten
    #[arg(long, default_value_t = 1_000)]
    pub objects: usize,
    /// Bytes of data in an object
    #[arg(long, default_value_t = 1_024)]
    pub object_size: usize,
    /// Seconds of a round
    #[arg(long, default_value_t = 5)]
    pub seconds: u64,
    /// Rounds of each measurement; the table shows medians
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// What to measure
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [ApiOp::Get, ApiOp::List, ApiOp::Put])]
    ops: Vec<ApiOp>,
    /// The server's process, for its CPU time and memory
    #[arg(long)]
    pub pid: Option<u32>,
    /// Print JSON instead of the table
    #[arg(long)]
    pub json: bool,
    /// Also write the JSON to a file
    #[arg(long, value_name = "FILE")]
    pub json_file: Option<PathBuf>,
}

/// Measures and prints. One thread generates all load.
///
/// # Errors
/// When the server cannot be reached or refuses a request.
pub fn run(args: &ApiBenchArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the load generator")?;
    runtime.block_on(measure(args))
}

async fn measure(args: &ApiBenchArgs) -> Result<()> {
    if args.rounds == 0 || args.seconds == 0 || args.objects == 0 || args.clients.contains(&0) {
        bail!("--rounds, --seconds, --objects and --clients must be at least 1");
    }
    let apis = connect(args).await?;
    fill(&apis, args).await?;
    let mut cells = Vec::new();
    for op in &args.ops {
        for clients in &args.clients {
            let mut rounds = Vec::new();
            for number in 0..args.rounds {
                rounds.push(round(&apis, args, *op, *clients, number).await?);
            }
            cells.push(Cell {
                op: name(op),
                value_bytes: args.object_size,
                clients: *clients,
                server: "a",
                rounds,
            });
        }
    }
    let report = Report {
        machine: Facts::read(),
        a: Server {
            endpoint: args.kubeconfig.display().to_string(),
            version: "Kubernetes API".to_owned(),
            pid: args.pid,
        },
        b: None,
        seconds: args.seconds,
        keys: args.objects as u64,
        cells,
    };
    report.write(args.json, args.json_file.as_deref())
}

/// A client a connection.
async fn connect(args: &ApiBenchArgs) -> Result<Vec<Api>> {
    let most = args
        .clients
        .iter()
        .copied()
        .max()
        .unwrap_or(1)
        .min(CONNECTIONS_MAX);
    let resource = Resource::dynamic("", "v1", "ConfigMap", "configmaps", true);
    let connections = (0..most).map(|_| async {
        let client = Client::from_kubeconfig_file(&args.kubeconfig, None).await;
        let client = client.with_context(|| format!("use {}", args.kubeconfig.display()))?;
        anyhow::Ok(client.api(&resource).namespace(NAMESPACE))
    });
    try_join_all(connections).await
}

fn object_name(n: usize) -> String {
    format!("setpoint-bench-{n:06}")
}

fn object(n: usize, bytes: usize, stamp: u64) -> serde_json::Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": object_name(n), "namespace": NAMESPACE, "labels": {"bench": "setpoint"}},
        "data": {"stamp": stamp.to_string(), "filler": "x".repeat(bytes)},
    })
}

/// Makes every object that is not there yet.
async fn fill(apis: &[Api], args: &ApiBenchArgs) -> Result<()> {
    let makers = apis.iter().enumerate().map(|(first, api)| async move {
        for n in (first..args.objects).step_by(apis.len()) {
            match api.create(&object(n, args.object_size, 0)).await {
                Err(error) if !error.is_already_exists() => {
                    return Err(error).with_context(|| format!("create {}", object_name(n)));
                }
                _ => (),
            }
        }
        Ok(())
    });
    try_join_all(makers).await.map(drop)
}

async fn round(apis: &[Api], args: &ApiBenchArgs, op: ApiOp, clients: usize, number: usize) -> Result<Round> {
    let start = Instant::now();
    let end = start + Duration::from_secs(args.seconds);
    let pids: Vec<u32> = args.pid.into_iter().collect();
    let callers = (0..clients).map(|index| {
        let seed = (number * clients + index) as u64;
        call(&apis[index % apis.len()], args, op, seed, end)
    });
    let (measured, cost) = tokio::join!(try_join_all(callers), machine::cost_between(&pids, start, end));
    let mut latency: Histogram<u64> = histogram()?;
    let mut failed = 0;
    for (other, failures) in measured? {
        latency.add(other).context("add histograms")?;
        failed += failures;
    }
    let rss_mib = args.pid.and_then(machine::rss_mib);
    let measured = Measured { latency, failed };
    Ok(Round::new(&measured, args.seconds as f64, &cost, rss_mib))
}

/// One client: a request after the other until `end`.
async fn call(
    api: &Api,
    args: &ApiBenchArgs,
    op: ApiOp,
    seed: u64,
    end: Instant,
) -> Result<(Histogram<u64>, u64)> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (mut latency, mut failed) = (histogram()?, 0);
    while Instant::now() < end {
        let n = rng.usize(..args.objects);
        let began = Instant::now();
        let result = match op {
            ApiOp::Get => api.get(&object_name(n)).await.map(drop),
            ApiOp::List => api.list(&ListParams::default()).await.map(drop),
            ApiOp::Put => {
                let object = object(n, args.object_size, rng.u64(..));
                api.replace(&object_name(n), &object).await.map(drop)
            }
        };
        let took = began.elapsed();
        match result {
            Ok(()) if Instant::now() <= end => latency.saturating_record(took.as_micros() as u64),
            Ok(()) => (),
            Err(_) => failed += 1,
        }
    }
    Ok((latency, failed))
}
