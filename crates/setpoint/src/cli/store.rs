//! `setpoint store`: looking after stores.

mod file;
mod local;
mod migrate;
mod remote;
mod show;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Failure;
use file::Target;
use remote::RemoteArgs;
use show::Format;

/// Arguments of `store`.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    setpoint store snapshot save backup.db\n  \
    setpoint store snapshot save backup.db --endpoint https://10.0.0.1:2379 --cacert ca.crt\n  \
    setpoint store snapshot status backup.db --json\n  \
    setpoint store snapshot restore backup.db --data-dir restored\n  \
    setpoint store verify setpoint-data\n  \
    setpoint store export for-etcdutl.db --data-dir setpoint-data\n  \
    setpoint store import from-etcd.db --data-dir setpoint-data\n  \
    setpoint store hashkv --endpoint 127.0.0.1:2379\n  \
    setpoint store migrate --from setpoint-data --to http://a:2379,http://b:2379,http://c:2379")]
pub(super) struct StoreArgs {
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    /// How to print: simple or json
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value = "simple",
        value_name = "FORMAT"
    )]
    write_out: Format,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Snapshots: save one, look at one, make a store of one
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Read every record of a store that is not running, and say what is damaged
    Verify(Dir),
    /// Write a store as a snapshot file that etcdutl restores
    Export(ExportArgs),
    /// Make a store of a snapshot file that etcdctl or etcdutl made; the same as snapshot restore
    Import(RestoreArgs),
    /// etcd's hash over all versions of keys up to a revision
    Hashkv(HashArgs),
    /// Forget history before a revision
    Compact(CompactArgs),
    /// Read keys
    Get(GetArgs),
    /// Move a plane between a data directory and an etcd cluster
    Migrate(migrate::MigrateArgs),
}

#[derive(Subcommand)]
enum Snapshot {
    /// Fetch a snapshot from a running server, ours or etcd's
    Save(SaveArgs),
    /// Read a snapshot file to its end and say what it holds
    Status(StatusArgs),
    /// Make a store of a snapshot file
    Restore(RestoreArgs),
}

#[derive(Args)]
struct Dir {
    /// The data directory of a plane, or a store's own
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

#[derive(Args)]
struct SaveArgs {
    /// The file to write; it appears when it is complete and its checksum holds
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Replace a file that is there
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Args)]
struct StatusArgs {
    /// The snapshot
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Take a file without a checksum too, as a member's database is
    #[arg(long)]
    skip_hash_check: bool,
}

#[derive(Args)]
struct RestoreArgs {
    /// The snapshot
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where the new plane's data will be; a store must not be there
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// How far the revision jumps ahead, so that no client sees one twice with another meaning; what was before is
    /// compacted, so that watchers and caches start again
    #[arg(long, value_name = "N", default_value_t = setpoint_store::Restore::BUMP)]
    bump_revision: u64,
    /// Keep revisions and history as they are: for a store that nobody has seen newer revisions of
    #[arg(long, conflicts_with = "bump_revision")]
    no_bump: bool,
    /// Take a file without a checksum too, as a member's database is
    #[arg(long)]
    skip_hash_check: bool,
}

#[derive(Args)]
struct ExportArgs {
    /// The file to write
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Replace a file that is there
    #[arg(long)]
    force: bool,
    /// The data directory of a plane that is not running; without it, a running server is asked
    #[arg(long, value_name = "DIR", conflicts_with = "endpoint")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Args)]
struct HashArgs {
    /// Up to this revision; 0 is now
    #[arg(long, value_name = "REVISION", default_value_t = 0)]
    rev: i64,
    /// The data directory of a plane that is not running; without it, a running server is asked
    #[arg(long, value_name = "DIR", conflicts_with = "endpoint")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Args)]
struct CompactArgs {
    /// The oldest revision that can be read from now on
    #[arg(value_name = "REVISION")]
    revision: i64,
    /// Return when it has been done, not when it has been decided
    #[arg(long)]
    physical: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Args)]
struct GetArgs {
    /// The key
    #[arg(value_name = "KEY")]
    key: String,
    /// All keys that begin with it
    #[arg(long)]
    prefix: bool,
    /// At this revision; 0 is now
    #[arg(long, value_name = "REVISION", default_value_t = 0)]
    rev: i64,
    /// Not more keys than these; 0 is all
    #[arg(long, value_name = "N", default_value_t = 0)]
    limit: i64,
    #[command(flatten)]
    remote: RemoteArgs,
}

pub(super) fn run(args: &StoreArgs) -> Result<(), Failure> {
    let out = if args.json { Format::Json } else { args.write_out };
    match &args.what {
        What::Migrate(args) => migrate::run(args),
        What::Snapshot(Snapshot::Save(args)) => {
            remote::save(&args.remote, Target::new(&args.file, args.force), out)
        }
        What::Snapshot(Snapshot::Status(args)) => local::status(&args.file, !args.skip_hash_check, out),
        What::Snapshot(Snapshot::Restore(args)) | What::Import(args) => {
            let bump = if args.no_bump { 0 } else { args.bump_revision };
            local::restore(&args.file, &args.data_dir, bump, !args.skip_hash_check, out)
        }
        What::Verify(args) => local::verify(&args.dir, out),
        What::Export(args) => match &args.data_dir {
            Some(dir) => local::export(dir, Target::new(&args.file, args.force), out),
            None => remote::save(&args.remote, Target::new(&args.file, args.force), out),
        },
        What::Hashkv(args) => match &args.data_dir {
            Some(dir) => local::hash_kv(dir, args.rev, out),
            None => remote::hash_kv(&args.remote, args.rev, out),
        },
        What::Compact(args) => remote::compact(&args.remote, args.revision, args.physical, out),
        What::Get(args) => remote::get(&args.remote, &args.key, args.prefix, (args.rev, args.limit), out),
    }
}
