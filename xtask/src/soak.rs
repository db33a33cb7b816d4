//! `cargo xtask soak`: what CI does for minutes, as long as one likes.
//!
//! Three parts, one after the other, each with a figure of how far it has come: seeds of the store's simulation,
//! kills of the released binary under load, random operations beside a real etcd. A part that fails has printed
//! the one command that repeats it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell::{command, root, run, run_command, say, target_dir};

/// Seeds between two lines of progress.
const BLOCK: u64 = 20_000;

const USAGE: &str = "soak takes --seeds A..B or --seeds 0, --minutes N, --crashes N, --differential OPS, --plant NAME, --binary PATH; see --help";

const HELP: &str = "\
cargo xtask soak: what CI does for minutes, as long as one likes

  --minutes N         simulate new seeds for so long (10)
  --seeds A..B        simulate these seeds instead; 0 leaves the simulation out
  --crashes N         kill the released binary so often under load (1000); 0 leaves it out
  --differential OPS  run so many random operations here and on a real etcd (0); needs `cargo xtask conformance etcdctl`
  --plant NAME        plant a bug and see that the simulation finds it, and nothing else; all: each of them in turn
  --binary PATH       kill and compare this program instead of building the released one

A part that fails prints the one command that repeats it.
";

/// What to do, and how much of it.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    first_seed: u64,
    /// Seeds before this; `None` goes on until the minutes are over.
    end_seed: Option<u64>,
    minutes: u64,
    crashes: u64,
    differential: u64,
    /// A planted bug to be found, or `all` of them.
    plant: Option<String>,
    /// The program to kill and to compare; `None` builds the released one.
    binary: Option<PathBuf>,
}

impl Plan {
    fn parse(args: &[String]) -> Result<Self> {
        // Beyond what CI has tried already.
        let mut plan = Self {
            first_seed: 1_000,
            end_seed: None,
            minutes: 10,
            crashes: 1_000,
            differential: 0,
            plant: None,
            binary: None,
        };
        let mut args = args.iter();
        while let Some(flag) = args.next() {
            let value = args
                .next()
                .with_context(|| format!("{flag} wants a value; {USAGE}"))?;
            let number = || {
                value
                    .parse::<u64>()
                    .with_context(|| format!("{flag} {value}: not a number; {USAGE}"))
            };
            match &flag[..] {
                "--minutes" => plan.minutes = number()?,
                "--crashes" => plan.crashes = number()?,
                "--differential" => plan.differential = number()?,
                "--plant" => plan.plant = Some(value.clone()),
                "--binary" => plan.binary = Some(PathBuf::from(value)),
                // An empty range: none.
                "--seeds" if value == "0" => plan.end_seed = Some(plan.first_seed),
                "--seeds" => {
                    let (from, to) = value
                        .split_once("..")
                        .with_context(|| format!("--seeds {value}: {USAGE}"))?;
                    plan.first_seed = from.parse::<u64>().with_context(|| format!("--seeds {value}"))?;
                    plan.end_seed = Some(to.parse::<u64>().with_context(|| format!("--seeds {value}"))?);
                }
                _ => bail!("{flag}: {USAGE}"),
            }
        }
        Ok(plan)
    }
}

/// Runs the parts.
pub(crate) fn soak(args: &[String]) -> Result<()> {
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        say(HELP.trim_end());
        return Ok(());
    }
    let plan = Plan::parse(args)?;
    if let Some(plant) = &plan.plant {
        return find(plant);
    }
    simulate(&plan)?;
    if plan.crashes == 0 && plan.differential == 0 {
        return Ok(());
    }
    let binary = match &plan.binary {
        // Tests run elsewhere.
        Some(binary) => fs::canonicalize(binary).with_context(|| format!("look at {}", binary.display()))?,
        None => {
            run("cargo", &["build", "--release", "--package", "setpoint"])?;
            target_dir().join("release/setpoint")
        }
    };
    crash(&binary, plan.crashes)?;
    differ(&binary, plan.differential)
}

#[expect(clippy::disallowed_methods, reason = "a build tool has no clock to pause")]
fn simulate(plan: &Plan) -> Result<()> {
    let started = std::time::Instant::now();
    let is_over = || started.elapsed().as_secs() >= plan.minutes * 60;
    let mut from = plan.first_seed;
    while plan.end_seed.map_or_else(|| !is_over(), |end| from < end) {
        let to = plan.end_seed.unwrap_or(u64::MAX).min(from + BLOCK);
        let mut command = simulation("whatever");
        run_command(command.env("SETPOINT_SEEDS", format!("{from}..{to}")))?;
        say(&format!(
            "soak: seeds {}..{to} fine after {:.0} s",
            plan.first_seed,
            started.elapsed().as_secs_f64()
        ));
        from = to;
    }
    Ok(())
}

/// Plants bugs and has them found.
fn find(plant: &str) -> Result<()> {
    let mut command = simulation("plants");
    if plant != "all" {
        command.env("SETPOINT_PLANT", plant);
    }
    run_command(&mut command)
}

/// Tests of the store's simulation whose names begin so.
fn simulation(name: &str) -> Command {
    let tests = format!("simulation::{name}");
    let test = [
        "test",
        "--release",
        "--quiet",
        "--package",
        "setpoint-store",
        "--test",
        "main",
        &tests,
        "--",
        "--nocapture",
    ];
    command("cargo", &test)
}

fn crash(binary: &Path, crashes: u64) -> Result<()> {
    if crashes == 0 {
        return Ok(());
    }
    let test = [
        "test",
        "--package",
        "setpoint",
        "--test",
        "main",
        "crash",
        "--",
        "--nocapture",
    ];
    let mut command = command("cargo", &test);
    command.env("SETPOINT_CRASHES", crashes.to_string());
    run_command(command.env("SETPOINT_BIN", binary))?;
    say(&format!("soak: {crashes} kills fine"));
    Ok(())
}

fn differ(binary: &Path, operations: u64) -> Result<()> {
    if operations == 0 {
        return Ok(());
    }
    let bin = root().join("conformance/bin");
    let conform = bin.join("conform");
    if !conform.is_file() {
        bail!(
            "{} is missing: run `cargo xtask conformance etcdctl` first",
            conform.display()
        );
    }
    let (operations, binary, bin) = (
        operations.to_string(),
        binary.to_string_lossy().into_owned(),
        bin.to_string_lossy().into_owned(),
    );
    run(
        &conform.to_string_lossy(),
        &[
            "-setpoint",
            &binary,
            "-bin",
            &bin,
            "-only",
            "random",
            "-pairs",
            "4",
            "-ops",
            &operations,
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Plan> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Plan::parse(&args)
    }

    #[test]
    fn a_plan_says_what_is_wrong_with_it() {
        assert_eq!(parse("--plant all").unwrap().plant.as_deref(), Some("all"));
        let plan = parse("--seeds 5..9 --crashes 0 --differential 1000000").unwrap();
        assert_eq!(
            (plan.first_seed, plan.end_seed, plan.crashes, plan.differential),
            (5, Some(9), 0, 1_000_000)
        );
        let plan = parse("--seeds 0 --differential 100").unwrap();
        assert_eq!(plan.end_seed, Some(plan.first_seed), "no seed is simulated");
        for wrong in ["--seeds 5", "--minutes", "--minutes x", "--days 2"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
