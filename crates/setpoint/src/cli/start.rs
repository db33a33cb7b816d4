//! What `up` and `server` do before they differ: environment, telemetry, runtime, signals, plane.

use std::future::Future;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ArgMatches;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use setpoint_base::{Stop, TaskGroup};
use setpoint_telemetry::{Guard, Otlp, Setup};

use super::Failure;
use crate::config::{PlaneArgs, Resolved, Said};
use crate::plane::Plane;
use crate::ready;
use crate::signals::{self, Hangup};

/// How long the last tasks may take once the plane has stopped.
pub(super) const TASKS_GRACE: Duration = Duration::from_secs(1);

/// Reads one environment variable.
#[allow(
    clippy::disallowed_methods,
    reason = "the command line is the one place that reads the environment"
)]
pub(super) fn var(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// All environment variables that are text.
#[allow(
    clippy::disallowed_methods,
    reason = "the command line is the one place that reads the environment"
)]
pub(super) fn vars() -> Vec<(String, String)> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
}

/// The program's arguments, its own name first.
#[must_use]
pub(super) fn command_line() -> Vec<String> {
    std::env::args_os()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect()
}

/// Where relative paths begin.
pub(super) fn cwd() -> Result<PathBuf, Failure> {
    std::env::current_dir().map_err(|error| {
        Failure::Failed(format!(
            "find the current directory: {error}; change to one that exists"
        ))
    })
}

/// What was said on the command line and in the environment.
pub(super) fn said(args: &PlaneArgs, matches: &ArgMatches) -> Said {
    args.said(matches)
}

/// Sets telemetry up and runs `body` on a runtime until it ends or a signal asks for the end. A
/// second signal ends the process after `last`.
pub(super) fn run<F, Fut>(
    resolved: &Resolved,
    default_filter: &str,
    hangup: Hangup,
    last: impl Fn() + Send + 'static,
    body: F,
) -> Result<(), Failure>
where
    F: FnOnce(Stop) -> Fut,
    Fut: Future<Output = Result<(), Failure>>,
{
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("plane")
        .build()
        .map_err(|error| Failure::Failed(format!("start the runtime's threads: {error}")))?;
    let result = runtime.block_on(async {
        let _telemetry = telemetry(resolved, default_filter)?;
        let stop = Stop::new();
        let tasks = TaskGroup::new(&Stop::new());
        signals::listen(&tasks, stop.clone(), hangup, last)?;
        let result = body(stop).await;
        tasks.shutdown(TASKS_GRACE).await;
        result
    });
    // A blocking read that hangs (a dead disk) must not keep the process.
    runtime.shutdown_timeout(TASKS_GRACE);
    result
}

fn telemetry(resolved: &Resolved, default_filter: &str) -> Result<Guard, Failure> {
    let otlp = Otlp::from_vars("setpoint", var).map_err(Failure::Usage)?;
    let filter = match resolved.log_filter.as_str() {
        "" => default_filter,
        said => said,
    };
    let setup = Setup {
        format: resolved.log_format,
        filter: filter.to_owned(),
        color: io::stderr().is_terminal() && var("NO_COLOR").is_none(),
        outputs: Vec::new(),
        otlp,
    };
    setup
        .install()
        .map_err(|error| Failure::Usage(vec![setpoint_base::Chain(&error).to_string()]))
}

/// Connections and watches are files: take as many as the system lets this process have.
pub(super) fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum {
        // Refused in some sandboxes; the limit that is there still serves.
        let _ = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit.maximum,
                maximum: limit.maximum,
            },
        );
    }
}

/// Starts the plane and writes the ready file.
pub(super) async fn plane(resolved: &Resolved) -> Result<Plane, Failure> {
    if let Some(path) = &resolved.ready_file {
        ready::forget(path).map_err(|error| ready_file(path, &error))?;
    }
    let mut options = resolved.plane.clone();
    options.etcd.command_line = command_line();
    let plane = Plane::start(options).await?;
    if let Some(path) = &resolved.ready_file
        && let Err(error) = plane.ready().write(path)
    {
        plane.stop().await;
        return Err(ready_file(path, &error));
    }
    Ok(plane)
}

pub(super) fn ready_file(path: &Path, error: &io::Error) -> Failure {
    Failure::Failed(format!(
        "write the ready file {}: {error}; give --ready-file a path in a directory you may write",
        path.display()
    ))
}

/// Stops the plane and takes the ready file away.
pub(super) async fn stop(plane: Plane, resolved: &Resolved) {
    if let Some(path) = &resolved.ready_file {
        // A script that finds it stale can still see that the pid is gone.
        let _ = ready::forget(path);
    }
    let left = plane.stop().await;
    if left > 0 {
        tracing::warn!(tasks = left, "did not end in time");
    }
}
