//! The command line.
//!
//! Exit codes: 0 done, 1 failed (the message says what to do), 2 wrong usage or configuration, 130 ended by a second
//! signal.

mod bench;
mod etcd;
mod server;
mod start;
mod store;
mod up;
mod verify;

pub(crate) use etcd::settings::auto_compaction;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use setpoint_base::Chain;

const FAILED: u8 = 1;
const MISUSED: u8 = 2;

#[derive(Parser)]
#[command(
    name = "setpoint",
    version,
    about = "A durable log, a Kubernetes API and the loops that act on it, in one program",
    after_help = "Examples:\n  \
        setpoint up examples/quickstart     everything on this machine, and watch it converge\n  \
        setpoint server --data-dir /var/lib/setpoint\n\n\
        `setpoint <COMMAND> --help` has examples for each command.",
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a plane here, apply a folder, run its programs and watch it converge
    Up(up::UpArgs),
    /// Start a plane and serve until stopped
    Server(server::ServerArgs),
    /// Be an etcd of one member, with etcd's own flags: `setpoint etcd --help`; also when called as `etcd`
    #[command(
        disable_help_flag = true,
        after_help = "Examples:\n  setpoint etcd --data-dir /var/lib/etcd\n  ln -s setpoint etcd && ./etcd --version"
    )]
    Etcd,
    /// Look after stores: snapshots, restore, verify, export and import, move to a cluster
    Store(store::StoreArgs),
    /// Measure a server's throughput, latency and cost
    Bench(bench::BenchArgs),
    /// Break links and servers under load, and check that every promise is kept
    Verify(verify::VerifyArgs),
    /// Print the version
    Version(VersionArgs),
}

/// Arguments of `version`.
#[derive(Args)]
#[command(after_help = "Examples:\n  setpoint version\n  setpoint version --json")]
struct VersionArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A command did not do what was asked.
pub(crate) enum Failure {
    /// What was said cannot be done: every problem.
    Usage(Vec<String>),
    /// It was tried and failed.
    Failed(String),
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(Chain(&error).to_string())
    }
}

/// Runs the command that the arguments ask for.
#[must_use]
pub fn main() -> ExitCode {
    let mut args: Vec<_> = std::env::args_os().collect();
    if let Some(first) = etcd::is_meant(&args) {
        return etcd::run(args.split_off(first));
    }
    let matches = match Cli::command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => error.exit(),
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let sub = matches.subcommand().map(|(_, matches)| matches);
    let result = match (cli.command, sub) {
        (Command::Up(args), Some(matches)) => up::run(&args, matches),
        (Command::Server(args), Some(matches)) => server::run(&args, matches),
        (Command::Bench(args), _) => bench::run(&args),
        (Command::Store(args), _) => store::run(&args),
        (Command::Verify(args), _) => verify::run(&args),
        (Command::Version(args), _) => version(&args),
        // Its own parser has had it.
        (Command::Etcd, _) | (Command::Up(_) | Command::Server(_), None) => Ok(()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Failed(message)) => {
            complain(&[message]);
            ExitCode::from(FAILED)
        }
        Err(Failure::Usage(problems)) => {
            complain(&problems);
            ExitCode::from(MISUSED)
        }
    }
}

fn version(args: &VersionArgs) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    let text = if args.json {
        serde_json::json!({
            "version": version,
            "etcd": setpoint_store::etcd::ETCD_VERSION,
        })
        .to_string()
    } else {
        format!(
            "setpoint {version} (etcd API {})",
            setpoint_store::etcd::ETCD_VERSION
        )
    };
    writeln!(io::stdout().lock(), "{text}")?;
    Ok(())
}

/// Every problem on a line of its own, on standard error.
fn complain(problems: &[String]) {
    let mut stderr = io::stderr().lock();
    let label = if stderr.is_terminal() {
        "\x1b[31merror:\x1b[0m"
    } else {
        "error:"
    };
    for problem in problems {
        // There is nobody to tell when standard error is closed.
        let _ = writeln!(stderr, "{label} {problem}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_examples() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands() {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(help.contains("Examples:"), "{}", command.get_name());
        }
    }
}
