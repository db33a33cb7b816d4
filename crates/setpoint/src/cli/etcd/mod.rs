//! The drop-in: called as `etcd`, or as `setpoint etcd`, the program takes etcd's flags and behaves like one member.
//!
//! - `flags`: the one list. Everything else about flags comes from it, `docs/ops/drop-in.md` too.
//! - `parse` (arguments as Go reads them), `said` (environment and file), `values` (what words mean).
//! - `settings`: what will be done, or every reason why not. `serve`: doing it. `systemd`, `help`.
//!
//! Exit codes are etcd's: 2 for flags that are none, 1 for what is refused or fails, the signal's own end for SIGINT
//! and SIGTERM.
//!
//! Absent: `etcd gateway` and `etcd grpc-proxy`, discovery, peers.

mod flags;
mod help;
mod parse;
mod said;
mod serve;
pub(crate) mod settings;
mod systemd;
#[cfg(test)]
mod table;
mod values;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use setpoint_telemetry::{Otlp, Setup};

use super::start;
use crate::pages;
use parse::Parsed;
use said::{Remark, Said};
use settings::{Log, Settings, settle};

const FAILED: u8 = 1;
const MISUSED: u8 = 2;

/// How the program's own name asks for the drop-in, or its first argument does.
#[must_use]
pub(super) fn is_meant(args: &[OsString]) -> Option<usize> {
    let called = args.first().map(|arg| Path::new(arg).file_name().unwrap_or(arg));
    if called == Some(OsStr::new("etcd")) {
        Some(1)
    } else if args.get(1).is_some_and(|arg| arg == "etcd") {
        Some(2)
    } else {
        None
    }
}

/// Runs as etcd with these arguments.
#[must_use]
pub(super) fn run(args: Vec<OsString>) -> ExitCode {
    let args: Vec<String> = args
        .into_iter()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let parsed = match parse::parse(&args) {
        Ok(parsed) => parsed,
        Err(problem) => {
            print(&mut io::stderr(), &format!("{problem}\n{}", help::USAGE));
            return ExitCode::from(MISUSED);
        }
    };
    if parsed.help {
        print(&mut io::stderr(), help::USAGE);
        print(&mut io::stdout(), &help::flags());
        return ExitCode::SUCCESS;
    }
    if parsed
        .values
        .get("version")
        .and_then(|word| values::bool(&word.value))
        == Some(true)
        && parsed.stray.is_none()
    {
        print(&mut io::stdout(), &help::version());
        return ExitCode::SUCCESS;
    }
    pages::take_small();
    match start(&parsed, &args) {
        Ok(signal) => die_of(signal),
        Err(code) => code,
    }
}

/// There is nobody to tell when the output is closed.
fn print(out: &mut impl Write, text: &str) {
    let _ = out.write_all(text.as_bytes());
}

/// Reads the settings and serves.
fn start(parsed: &Parsed, args: &[String]) -> Result<serve::Signal, ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("etcd")
        .build()
        .map_err(|error| {
            print(
                &mut io::stderr(),
                &format!("start the runtime's threads: {error}\n"),
            );
            ExitCode::from(FAILED)
        })?;
    start::raise_file_limit();
    let result = runtime.block_on(async {
        let (log, settled) = match said(parsed) {
            Ok(said) => (Log::of(&said), cwd().and_then(|cwd| settle(said, &cwd))),
            Err(problem) => (Log::default(), Err(vec![problem])),
        };
        let _telemetry = open_log(log)?;
        tracing::info!(?args, "Running: ");
        live(settled).await
    });
    runtime.shutdown_timeout(start::TASKS_GRACE);
    result
}

fn cwd() -> Result<std::path::PathBuf, Vec<String>> {
    std::env::current_dir().map_err(|error| vec![format!("find the current directory: {error}")])
}

/// What arguments and environment say, or the file they name.
fn said(parsed: &Parsed) -> Result<Said, String> {
    if let Some(stray) = &parsed.stray {
        return Err(match stray.as_str() {
            "gateway" | "grpc-proxy" => format!("{stray:?}: there is no proxy here: use etcd's own"),
            _ => format!("{stray:?} is not a valid flag"),
        });
    }
    let file = parsed
        .values
        .get("config-file")
        .map(|word| word.value.clone())
        .or_else(|| start::var("ETCD_CONFIG_FILE"))
        .filter(|path| !path.is_empty());
    match file {
        Some(path) => Said::file(Path::new(&path)),
        None => Said::here(parsed, &start::vars()),
    }
}

fn open_log(log: Log) -> Result<setpoint_telemetry::Guard, ExitCode> {
    let otlp = Otlp::from_vars("etcd", start::var);
    let setup = otlp.map_err(|problems| problems.join("; ")).and_then(|otlp| {
        let setup = Setup {
            format: log.format,
            filter: log.filter.to_owned(),
            color: false,
            outputs: log.outputs,
            otlp,
        };
        setup
            .install()
            .map_err(|error| setpoint_base::Chain(&error).to_string())
    });
    setup.map_err(|problem| {
        print(&mut io::stderr(), &format!("{problem}\n"));
        ExitCode::from(FAILED)
    })
}

async fn live(settled: Result<Settings, Vec<String>>) -> Result<serve::Signal, ExitCode> {
    let failed = ExitCode::from(FAILED);
    let settings = settled.map_err(|problems| {
        for error in problems {
            tracing::warn!(error, "failed to verify flags");
        }
        failed
    })?;
    for Remark { warn, message, about } in &settings.remarks {
        if *warn {
            tracing::warn!(about, "{message}");
        } else {
            tracing::info!(about, "{message}");
        }
    }
    serve::serve(&settings).await.map_err(|error| {
        tracing::error!(error, "etcd server ended");
        failed
    })
}

/// Ends the process as the signal would have: whoever waits for it sees what stopped it. The first process of a
/// container is not killed by its own signal, and just ends.
fn die_of(signal: serve::Signal) -> ExitCode {
    if std::process::id() != 1 {
        let _ = signal_hook::low_level::emulate_default_handler(signal);
    }
    ExitCode::SUCCESS
}
