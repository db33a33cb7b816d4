//! `setpoint bench`: load generators.

use clap::{Args, Subcommand};

use super::Failure;
use crate::bench::api::{self, ApiBenchArgs};
use crate::bench::store::{self, StoreBenchArgs};

/// Arguments of `bench`.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  setpoint bench store --endpoint http://127.0.0.1:2379 --ops put,get --clients 1,256"
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
}

pub(super) fn run(args: &BenchArgs) -> Result<(), Failure> {
    let result = match &args.what {
        What::Store(args) => store::run(args),
        What::Api(args) => api::run(args),
    };
    // The alternate form is the whole chain of causes.
    result.map_err(|error| Failure::Failed(format!("{error:#}")))
}
