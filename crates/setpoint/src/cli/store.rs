//! `setpoint store`: looking after stores.

mod migrate;

use clap::{Args, Subcommand};

use super::Failure;

/// Arguments of `store`.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  setpoint store migrate --from setpoint-data --to http://a:2379,http://b:2379,http://c:2379"
)]
pub(super) struct StoreArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Move a plane between a data directory and an etcd cluster
    Migrate(migrate::MigrateArgs),
}

pub(super) fn run(args: &StoreArgs) -> Result<(), Failure> {
    match &args.what {
        What::Migrate(args) => migrate::run(args),
    }
}
