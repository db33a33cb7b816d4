//! The side-by-side benchmarks: us and the peers in one go on the same machine.
//!
//! Builds the release binary, which starts itself and, where it has been built (`conformance/bin/etcd`), a real etcd
//! for each scenario, on free ports and the same disk, and drives them in turns. Raw results go to `bench/results/` with
//! the machine's facts in them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::shell::{command, output, root, run, say, target_dir};

/// How long a server may take to answer, in tenths of a second.
const READY_TENTHS: u32 = 200;
/// What drives the API server, and what compares flow control; everything else is a scenario of `bench store`.
const API: &str = "api";
const FLOW: &str = "flow";

/// What was asked for.
#[derive(Default)]
struct Asked {
    /// Nothing is everything.
    only: Vec<String>,
    quick: bool,
    allow_load: bool,
}

impl Asked {
    fn read(args: &[String]) -> Result<Self> {
        let mut asked = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--quick" => asked.quick = true,
                "--allow-load" => asked.allow_load = true,
                "--only" => {
                    let names = args.next().context("--only needs names: --only puts,fanout")?;
                    asked.only.extend(names.split(',').map(str::to_owned));
                }
                other => bail!("{other} is no argument of bench: give --only NAME,…, --quick, --allow-load"),
            }
        }
        Ok(asked)
    }

    fn wants(&self, what: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == what)
    }

    /// The scenarios as `bench store` is told of them; `None` when none is wanted.
    fn scenarios(&self) -> Option<Vec<String>> {
        if self.only.is_empty() {
            return Some(vec!["--all".to_owned()]);
        }
        let names: Vec<&str> = self
            .only
            .iter()
            .map(String::as_str)
            .filter(|name| *name != API && *name != FLOW)
            .collect();
        (!names.is_empty()).then(|| vec!["--scenario".to_owned(), names.join(",")])
    }
}

/// Runs the scenarios of `bench store`, then `bench api` and `bench flow`.
pub(crate) fn run_all(args: &[String]) -> Result<()> {
    let asked = Asked::read(args)?;
    run("cargo", &["build", "--release"])?;
    let results = root().join("bench/results");
    fs::create_dir_all(&results).with_context(|| format!("make {}", results.display()))?;
    let commit = output("git", &["rev-parse", "--short", "HEAD"])?
        .trim()
        .to_owned();
    let scratch = Scratch::new()?;
    if let Some(scenarios) = asked.scenarios() {
        store(&asked, scenarios, &scratch.0, &results, &commit)?;
    }
    if asked.wants(API) {
        api(&asked, &scratch.0, &results.join(format!("api-{commit}.json")))?;
    }
    if asked.wants(FLOW) {
        flow(&asked, &results, &commit)?;
    }
    say(&format!("raw results: {}", results.display()));
    Ok(())
}

fn store(asked: &Asked, scenarios: Vec<String>, scratch: &Path, results: &Path, commit: &str) -> Result<()> {
    let mut bench = Command::new(binary());
    bench
        .args(["bench", "store", "--spawn", "--commit", commit])
        .args(scenarios);
    bench.arg("--scratch").arg(scratch.join("servers"));
    bench.arg("--json-dir").arg(results);
    let etcd = root().join("conformance/bin/etcd");
    if etcd.is_file() {
        bench.arg("--etcd").arg(etcd);
    } else {
        say("no peer: conformance/bin/etcd is missing (run `cargo xtask conformance etcdctl` once, with Go)");
    }
    if let Some(tool) = official() {
        bench.arg("--official").arg(tool);
    }
    if asked.quick {
        bench.arg("--quick");
    }
    if asked.allow_load {
        bench.arg("--allow-load");
    }
    succeed(&mut bench)
}

/// Builds etcd's own load generator; `None`, with a message, where that cannot be done.
fn official() -> Option<PathBuf> {
    go_program("benchmark", "bench/official", ".").or_else(|| {
        say("no second opinion: bench/official needs Go");
        None
    })
}

/// Builds a program of a folder with Go.
fn go_program(name: &str, folder: &str, package: &str) -> Option<PathBuf> {
    let program = root().join("conformance/bin").join(name);
    let mut go = command("go", &["build", "-trimpath", "-ldflags", "-s -w", "-o"]);
    go.arg(&program).arg(package).current_dir(root().join(folder));
    let built = go.status().is_ok_and(|status| status.success());
    built.then_some(program)
}

fn api(asked: &Asked, scratch: &Path, file: &Path) -> Result<()> {
    let plane = Plane::start(scratch)?;
    let mut bench = Command::new(binary());
    bench.args(["bench", "api", "--kubeconfig", &plane.kubeconfig]);
    bench.args(if asked.quick {
        ["--seconds", "1", "--rounds", "1"]
    } else {
        ["--seconds", "2", "--rounds", "3"]
    });
    bench.arg("--json-file").arg(file);
    succeed(&mut bench)
}

fn flow(asked: &Asked, results: &Path, commit: &str) -> Result<()> {
    let mut bench = Command::new(binary());
    bench.args(["bench", "flow", "--commit", commit]);
    bench
        .arg("--json-file")
        .arg(results.join(format!("flow-{commit}.json")));
    bench.arg("--svg").arg(results.join(format!("flow-{commit}.svg")));
    if let Some(program) = grpc_go() {
        bench.arg("--grpc-go").arg(program);
    }
    if asked.quick {
        bench.arg("--quick");
    }
    if asked.allow_load {
        bench.arg("--allow-load");
    }
    succeed(&mut bench)
}

/// Builds grpc-go's server; `None`, with a message, where that cannot be done.
fn grpc_go() -> Option<PathBuf> {
    go_program("flowpeer", "conformance/grpc-go", "./cmd/flowpeer").or_else(|| {
        say("no grpc-go: conformance/grpc-go needs Go");
        None
    })
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

fn binary() -> PathBuf {
    target_dir().join("release/setpoint")
}

/// A directory on the repository's disk (not a tmpfs: syncs have to cost what they cost), removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let dir = target_dir().join(format!("bench-{}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A child that is killed when the benchmark ends, however it ends.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A whole plane.
struct Plane {
    kubeconfig: String,
    _server: Server,
}

impl Plane {
    fn start(scratch: &Path) -> Result<Self> {
        let ready = scratch.join("ready.json");
        let mut command = Command::new(binary());
        let listen = ["--etcd-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0"];
        command.arg("server").args(listen).args(["--log", "warn"]);
        command.arg("--data-dir").arg(scratch.join("plane"));
        command.arg("--ready-file").arg(&ready);
        let server = command.stdin(Stdio::null()).spawn();
        let server = Server(server.context("start setpoint server")?);
        let text = wait_for("setpoint", || fs::read_to_string(&ready).ok())?;
        let facts: Value = serde_json::from_str(&text).context("read the ready file")?;
        Ok(Self {
            kubeconfig: facts["kubeconfig"].as_str().unwrap_or_default().to_owned(),
            _server: server,
        })
    }
}

fn wait_for<T>(name: &str, mut probe: impl FnMut() -> Option<T>) -> Result<T> {
    for _ in 0..READY_TENTHS {
        if let Some(found) = probe() {
            return Ok(found);
        }
        sleep(Duration::from_millis(100));
    }
    bail!("{name} was not ready after {} s", READY_TENTHS / 10)
}
