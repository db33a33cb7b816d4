//! What may be said about the store beyond its quota: limits of requests, and history that is forgotten by itself.

use clap::Args;

use crate::cli::auto_compaction;
use crate::config::{Said, Setting};
use crate::plane::PlaneOptions;

const MODE: &str = "auto-compaction-mode";
const RETENTION: &str = "auto-compaction-retention";
const TXN_OPS: &str = "max-txn-ops";
const REQUEST_BYTES: &str = "max-request-bytes";
const NO_FSYNC: &str = "unsafe-no-fsync";

pub(crate) const SETTINGS: [Setting; 5] = [
    Setting::new(MODE, "SETPOINT_AUTO_COMPACTION_MODE"),
    Setting::new(RETENTION, "SETPOINT_AUTO_COMPACTION_RETENTION"),
    Setting::new(TXN_OPS, "SETPOINT_MAX_TXN_OPS"),
    Setting::new(REQUEST_BYTES, "SETPOINT_MAX_REQUEST_BYTES"),
    Setting::new(NO_FSYNC, "SETPOINT_UNSAFE_NO_FSYNC"),
];

/// The flags; names are etcd's.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Store")]
pub(crate) struct StoreArgs {
    /// What --auto-compaction-retention counts: periodic or revision [default: periodic]
    #[arg(long, value_name = "MODE", env = "SETPOINT_AUTO_COMPACTION_MODE")]
    auto_compaction_mode: Option<String>,
    /// History to keep: a time as in 30m (hours without a unit), or a number of revisions; 0 keeps all [default: 0]
    #[arg(long, value_name = "RETENTION", env = "SETPOINT_AUTO_COMPACTION_RETENTION")]
    auto_compaction_retention: Option<String>,
    /// Most operations in a transaction [default: 128]
    #[arg(long, value_name = "N", env = "SETPOINT_MAX_TXN_OPS")]
    max_txn_ops: Option<String>,
    /// Largest request of an etcd client, in bytes [default: 1572864]
    #[arg(long, value_name = "BYTES", env = "SETPOINT_MAX_REQUEST_BYTES")]
    max_request_bytes: Option<String>,
    /// Do not sync writes: a crash of the machine loses acknowledged ones; for tests
    #[arg(long, value_name = "BOOL", env = "SETPOINT_UNSAFE_NO_FSYNC", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    unsafe_no_fsync: Option<String>,
}

impl StoreArgs {
    /// In the order of [`SETTINGS`].
    pub(crate) fn values(&self) -> [&Option<String>; 5] {
        [
            &self.auto_compaction_mode,
            &self.auto_compaction_retention,
            &self.max_txn_ops,
            &self.max_request_bytes,
            &self.unsafe_no_fsync,
        ]
    }
}

/// Turns what was said about the store into options.
pub(crate) fn resolve(said: &mut Said, plane: &mut PlaneOptions, problems: &mut Vec<String>) {
    plane.unsafe_no_fsync = said.flag(NO_FSYNC, problems);
    if let Some(max) = number(said, TXN_OPS, problems) {
        (plane.store.txn_ops_max, plane.etcd.txn_ops_max) = (max, max);
    }
    if let Some(max) = number(said, REQUEST_BYTES, problems)
        && let Err(problem) = plane.request_bytes_max(max)
    {
        problems.push(format!("--{REQUEST_BYTES} {problem}"));
    }
    let mode = said.take(MODE);
    let retention = said.take(RETENTION);
    let mode = match mode {
        None => "periodic".to_owned(),
        Some((mode, _)) if matches!(mode.as_str(), "periodic" | "revision") => mode,
        Some((mode, source)) => {
            problems.push(format!("{source} is {mode:?}: write periodic or revision"));
            return;
        }
    };
    if let Some((retention, source)) = retention {
        match auto_compaction(&mode, &retention) {
            Ok(policy) => plane.auto_compaction = policy,
            Err(problem) => problems.push(format!("{source}: {problem}")),
        }
    }
    if let Err(wrong) = plane.store.validate() {
        problems.extend(wrong);
    }
}

fn number(said: &mut Said, name: &str, problems: &mut Vec<String>) -> Option<usize> {
    let (value, source) = said.take(name)?;
    match value.parse() {
        Ok(number) if number > 0 => Some(number),
        _ => {
            problems.push(format!("{source} is {value:?}: write a number above 0"));
            None
        }
    }
}
