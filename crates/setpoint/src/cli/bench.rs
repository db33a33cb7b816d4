//! `setpoint bench`: load generators, and a bad network.

use clap::{Args, Subcommand};
use setpoint_base::{Stop, TaskGroup};

use super::Failure;
use crate::bench::api::{self, ApiBenchArgs};
use crate::bench::flow::{self, FlowArgs};
use crate::bench::proxy::{self, ProxyArgs};
use crate::bench::store::{self, StoreBenchArgs};
use crate::pages;
use crate::signals::{self, Hangup};

/// Arguments of `bench`.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  setpoint bench store --endpoint http://127.0.0.1:2379 --ops put,get --clients 1,256\n  \
    setpoint bench flow --quick\n  setpoint bench proxy --to 127.0.0.1:2379 --rtt 30ms --rate 100mbit"
)]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Measure a store: ours, an etcd, or both in turns
    Store(StoreBenchArgs),
    /// Measure a Kubernetes API server
    Api(ApiBenchArgs),
    /// Measure flow control: links filled, limits under overload, channels; ours, tonic's, grpc-go's
    Flow(FlowArgs),
    /// Carry connections over a bad network: slow, narrow, uneven, frozen, cut
    Proxy(ProxyArgs),
}

pub(super) fn run(args: &BenchArgs) -> Result<(), Failure> {
    // What measures must not be late by itself. Who is measured has the pages that are usual for it.
    pages::take_small();
    let result = match &args.what {
        What::Store(args) => store::run(args),
        What::Api(args) => api::run(args),
        What::Flow(args) => {
            args.check().map_err(Failure::Usage)?;
            return until_signal(2, |stop| flow::run(args, stop));
        }
        What::Proxy(args) => {
            args.setting().map_err(Failure::Usage)?;
            return until_signal(1, |stop| proxy::run(args, stop));
        }
    };
    // The alternate form is the whole chain of causes.
    result.map_err(|error| Failure::Failed(format!("{error:#}")))
}

/// Runs on so many threads, until it ends or a signal asks it to.
fn until_signal<F>(threads: usize, what: impl FnOnce(Stop) -> F) -> Result<(), Failure>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .thread_name("bench")
        .build()
        .map_err(|error| Failure::Failed(format!("start the runtime's threads: {error}")))?;
    runtime.block_on(async {
        let (stop, tasks) = (Stop::new(), TaskGroup::new(&Stop::new()));
        signals::listen(&tasks, stop.clone(), Hangup::Ends, || ())?;
        let result = what(stop).await;
        tasks.stop().cancel();
        result.map_err(|error| Failure::Failed(format!("{error:#}")))
    })
}
