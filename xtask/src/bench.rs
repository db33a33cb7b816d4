//! The side-by-side benchmarks: us and the peer in one go on the same machine.

use anyhow::{Result, bail};

use crate::shell::{command, root, run_command, target_dir};

/// Builds the release binary, then hands over to `bench/run`, which starts us and the peers.
pub(crate) fn run(args: &[String]) -> Result<()> {
    crate::shell::run("cargo", &["build", "--release", "--package", "setpoint"])?;
    let script = root().join("bench/run");
    if !script.is_file() {
        bail!("bench/run does not exist");
    }
    let binary = target_dir().join("release/setpoint");
    let mut bench = command(&script.to_string_lossy(), &[&binary.to_string_lossy()]);
    run_command(bench.args(args))
}
