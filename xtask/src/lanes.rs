//! The two lanes: `check` before each commit, `ci` before anything lands.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::shell::{root, run, run_command, say, target_dir};
use crate::{conformance, shell, tidy};

/// The product's goal for a stripped release binary, in bytes.
const BINARY_BYTES_MAX: u64 = 40 << 20;

type Step = (&'static str, fn() -> Result<()>);

/// Format, tidy, clippy, unit tests.
pub(crate) fn check() -> Result<()> {
    steps(&[
        ("format", format),
        ("tidy", tidy::run),
        ("clippy", clippy),
        ("unit tests", unit_tests),
    ])
}

/// Everything.
pub(crate) fn ci() -> Result<()> {
    steps(&[
        ("format", format),
        ("tidy", tidy::run),
        ("clippy", clippy),
        ("release build", release_build),
        ("tests", all_tests),
        ("every order of threads", loom),
        ("documentation", documentation),
        ("conformance", conformance_all),
    ])
}

fn steps(steps: &[Step]) -> Result<()> {
    let begin = now();
    let mut took = Vec::new();
    for (name, step) in steps {
        say(&format!("\n=== {name}"));
        let started = now();
        step().with_context(|| format!("step {name:?}"))?;
        took.push(format!("{name} {:.0} s", started.elapsed().as_secs_f64()));
    }
    say(&format!(
        "\nall green in {:.0} s ({})",
        begin.elapsed().as_secs_f64(),
        took.join(", ")
    ));
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a build tool has no clock to pause")]
fn now() -> Instant {
    Instant::now()
}

fn format() -> Result<()> {
    run("cargo", &["fmt", "--all", "--check"])
}

fn clippy() -> Result<()> {
    run(
        "cargo",
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ],
    )
}

fn unit_tests() -> Result<()> {
    run("cargo", &["test", "--workspace", "--lib", "--bins", "--quiet"])
}

/// Tests start the built binary by path, so that it is the released one that is tried.
fn all_tests() -> Result<()> {
    let mut command = shell::command(
        "cargo",
        &[
            "test",
            "--workspace",
            "--lib",
            "--bins",
            "--tests",
            "--examples",
            "--no-fail-fast",
        ],
    );
    // As many kills of the real binary as the product promises; a plain `cargo test` does fewer.
    command.env("SETPOINT_CRASHES", "200");
    run_command(command.env("SETPOINT_BIN", target_dir().join("release/setpoint")))?;
    run("cargo", &["test", "--workspace", "--doc"])
}

fn release_build() -> Result<()> {
    run(
        "cargo",
        &[
            "build",
            "--release",
            "--package",
            "setpoint",
            "--package",
            "site-operator",
        ],
    )?;
    let binary = target_dir().join("release/setpoint");
    let bytes = fs::metadata(&binary)
        .with_context(|| format!("look at {}", binary.display()))?
        .len();
    say(&format!(
        "release binary: {:.1} MiB",
        bytes as f64 / f64::from(1 << 20)
    ));
    if bytes > BINARY_BYTES_MAX {
        bail!(
            "the release binary has {bytes} bytes, the limit is {BINARY_BYTES_MAX}: look for a new dependency"
        );
    }
    Ok(())
}

/// A workspace of its own, so that nothing else is built with loom.
fn loom() -> Result<()> {
    let manifest = root().join("crates/flow/loom/Cargo.toml");
    let target = target_dir().join("loom");
    let mut command = shell::command("cargo", &["test", "--quiet"]);
    run_command(
        command
            .arg("--manifest-path")
            .arg(manifest)
            .arg("--target-dir")
            .arg(target),
    )
}

fn documentation() -> Result<()> {
    let mut command = shell::command("cargo", &["doc", "--workspace", "--no-deps", "--quiet"]);
    run_command(command.env("RUSTDOCFLAGS", "-D warnings"))
}

fn conformance_all() -> Result<()> {
    if !root().join("conformance").is_dir() {
        bail!("conformance/ is missing");
    }
    conformance::run(&[])
}
