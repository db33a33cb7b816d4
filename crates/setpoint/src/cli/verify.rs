//! `setpoint verify`: does a server keep its promises?

use std::io::{self, Write};

use clap::{Args, Subcommand};
use setpoint_base::{Stop, TaskGroup};

use super::Failure;
use crate::signals::{self, Hangup};
use crate::verify::{self, Report, VerifyWatchArgs};

/// Arguments of `verify`.
#[derive(Args)]
#[command(after_help = "Examples:\n  setpoint verify watch --spawn setpoint\n  \
    setpoint verify watch --endpoint http://127.0.0.1:2379")]
pub(super) struct VerifyArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Break links and servers under load, and check what watchers are told
    Watch(VerifyWatchArgs),
}

pub(super) fn run(args: &VerifyArgs) -> Result<(), Failure> {
    let What::Watch(args) = &args.what;
    let problems = args.problems();
    if !problems.is_empty() {
        return Err(Failure::Usage(problems));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("verify")
        .build()
        .map_err(|error| Failure::Failed(format!("start the runtime's threads: {error}")))?;
    let report = runtime.block_on(async {
        let (stop, tasks) = (Stop::new(), TaskGroup::new(&Stop::new()));
        signals::listen(&tasks, stop.clone(), Hangup::Ends, || ())?;
        let report = verify::watch(args, stop).await;
        tasks.stop().cancel();
        report.map_err(|error| Failure::Failed(format!("{error:#}")))
    })?;
    print(&report, args.json)?;
    if report.kept {
        Ok(())
    } else {
        Err(Failure::Failed(
            "a guarantee was broken for the resumable client".to_owned(),
        ))
    }
}

fn print(report: &Report, json: bool) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    if json {
        let text = serde_json::to_string_pretty(report)?;
        writeln!(out, "{text}")?;
    } else {
        out.write_all(report.table().as_bytes())?;
    }
    Ok(())
}
