//! `cargo xtask fuzz`: libfuzzer over every parser of bytes from a disk or a network, with the stable compiler.
//!
//! What `cargo fuzz` does without a sanitizer, by hand: the fuzz workspace is built with counters at every edge, and each
//! of its programs is run for its time. Inputs that led somewhere new are kept below `target/fuzz/corpus`; one that
//! panics, hangs or wants too much memory is kept as well, and the command that repeats it is printed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::shell::{command, output, root, run_command, say, target_dir};

/// What makes the compiler count edges, as libfuzzer wants them. All of it is in LLVM; no option is a nightly one.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing";

const HELP: &str = "\
cargo xtask fuzz [TARGET…|all]: feed parsers with what nobody would send; needs a C++ compiler, for libfuzzer

  --minutes N   each target for so long (2); 0 builds them only
  --replay FILE run one input, of one target

Without a target it lists them.
";

/// Runs the targets.
pub(crate) fn fuzz(args: &[String]) -> Result<()> {
    let plan = Plan::parse(args)?;
    let known = known()?;
    if plan.help || plan.targets.is_empty() {
        say(&format!("{}\nTargets: {}", HELP.trim_end(), known.join(", ")));
        return Ok(());
    }
    let targets = match &plan.targets[..] {
        [all] if all == "all" => known,
        some => {
            if let Some(other) = some.iter().find(|name| !known.contains(name)) {
                bail!("{other} is none of {}", known.join(", "));
            }
            some.to_vec()
        }
    };
    if let Some(file) = plan.replay.as_deref().filter(|file| !file.is_file()) {
        bail!("--replay {}: no such file", file.display());
    }
    compiler_for_libfuzzer(&std::env::var_os("CXX").unwrap_or_default().to_string_lossy())?;
    let programs = build(&targets)?;
    let mut failed = Vec::new();
    for target in targets {
        let program = programs.join(&target);
        let run = match &plan.replay {
            Some(file) => run_command(command(&program.to_string_lossy(), &[]).arg(file)),
            None if plan.minutes == 0 => Ok(()),
            None => feed(&target, &program, plan.minutes),
        };
        if let Err(error) = run {
            say(&format!("fuzz: {target}: {error:#}"));
            failed.push(target);
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!(
        "{} found something; `cargo xtask fuzz TARGET --replay FILE` repeats it",
        failed.join(", ")
    )
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    targets: Vec<String>,
    minutes: u64,
    replay: Option<PathBuf>,
    help: bool,
}

impl Plan {
    fn parse(args: &[String]) -> Result<Self> {
        let mut plan = Self {
            minutes: 2,
            ..Self::default()
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} wants a value"));
            match &arg[..] {
                "--help" | "-h" => plan.help = true,
                "--minutes" => {
                    let minutes = value()?;
                    plan.minutes = minutes
                        .parse()
                        .with_context(|| format!("--minutes {minutes}: not a number"))?;
                }
                "--replay" => {
                    // The programs run in the repository's root.
                    plan.replay = Some(std::path::absolute(value()?).context("--replay")?);
                }
                flag if flag.starts_with('-') => bail!("{flag} is no option; see --help"),
                target => plan.targets.push(target.to_owned()),
            }
        }
        if plan.replay.is_some() && plan.targets.len() != 1 {
            bail!("--replay wants the one target that the file is for");
        }
        Ok(plan)
    }
}

/// The targets, by their files.
fn known() -> Result<Vec<String>> {
    let dir = root().join("fuzz/fuzz_targets");
    let files = fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))?;
    let mut names = Vec::new();
    for file in files {
        let path = file.context("list the targets")?.path();
        names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// Fails, in words, where libfuzzer could not be compiled. `named` is what CXX says, if anything.
fn compiler_for_libfuzzer(named: &str) -> Result<()> {
    let program = named.split_whitespace().next().unwrap_or("c++");
    let started = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match started {
        Ok(status) if status.success() => Ok(()),
        _ => bail!(
            "{program} does not run: libfuzzer is written in C++, so fuzzing needs a C++ compiler (c++, or the one \
             that CXX names); nothing else in the repository does"
        ),
    }
}

/// Where the programs are. A target that is named keeps the flags from build scripts, which are not fuzzed.
fn build(targets: &[String]) -> Result<PathBuf> {
    let version = output("rustc", &["-vV"])?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("rustc -vV names no host")?;
    let mut build = command("cargo", &["build", "--release", "--quiet", "--target", host]);
    build
        .arg("--manifest-path")
        .arg(root().join("fuzz/Cargo.toml"))
        .arg("--target-dir")
        .arg(target_dir().join("fuzz"));
    for target in targets {
        build.args(["--bin", target]);
    }
    run_command(build.env("RUSTFLAGS", COVERAGE))?;
    Ok(target_dir().join("fuzz").join(host).join("release"))
}

fn feed(target: &str, program: &Path, minutes: u64) -> Result<()> {
    let corpus = target_dir().join("fuzz/corpus").join(target);
    let found = target_dir().join("fuzz/found").join(target);
    for dir in [&corpus, &found] {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    }
    say(&format!("\nfuzz: {target} for {minutes} min"));
    let mut run = command(&program.to_string_lossy(), &[]);
    run.arg(&corpus);
    let seeds = root().join("fuzz/seeds").join(target);
    if seeds.is_dir() {
        run.arg(seeds);
    }
    run.arg(format!("-artifact_prefix={}/", found.display()))
        .arg(format!("-max_total_time={}", minutes * 60))
        .args([
            "-timeout=10",
            "-rss_limit_mb=1024",
            "-verbosity=0",
            "-print_final_stats=1",
        ]);
    run_command(&mut run)?;
    let inputs = fs::read_dir(&corpus).map_or(0, Iterator::count);
    say(&format!(
        "fuzz: {target}: nothing found; {inputs} inputs in its corpus"
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Plan> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Plan::parse(&args)
    }

    #[test]
    fn every_target_is_a_program_of_the_fuzz_workspace() {
        let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
        for target in known().unwrap() {
            assert!(manifest.contains(&format!("name = \"{target}\"")), "{target}");
        }
    }

    #[test]
    fn without_a_compiler_for_libfuzzer_one_is_told_so() {
        let error = compiler_for_libfuzzer("no-such-compiler -O2").unwrap_err();
        assert!(error.to_string().contains("needs a C++ compiler"), "{error}");
    }

    #[test]
    fn a_plan_says_what_is_wrong_with_it() {
        let plan = parse("segment bolt --minutes 3").unwrap();
        assert_eq!(
            (&plan.targets[..], plan.minutes),
            (&["segment".to_owned(), "bolt".to_owned()][..], 3)
        );
        for wrong in [
            "--minutes",
            "--minutes x",
            "--days 3",
            "all --replay",
            "a b --replay f",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
