//! The side-by-side benchmarks: us and the peer in one go on the same machine.
//!
//! Starts the release binary and, where it has been built (`conformance/bin/etcd`), a real etcd, both on
//! free ports and on the same disk; `setpoint bench` drives them in turns. The raw result goes to
//! `bench/results/` with the machine's facts in it.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::shell::{root, run, say, target_dir};

/// How long a server may take to answer, in tenths of a second.
const READY_TENTHS: u32 = 200;

/// Runs `bench store` and `bench api`; `--quick` makes it a smoke test, other arguments are handed on.
pub(crate) fn run_all(args: &[String]) -> Result<()> {
    run("cargo", &["build", "--release"])?;
    let scratch = Scratch::new()?;
    let us = Setpoint::start(&scratch.0)?;
    let peer = Etcd::start(&scratch.0)?;
    let quick = args.iter().any(|arg| arg == "--quick");
    let rest: Vec<&str> = args
        .iter()
        .map(String::as_str)
        .filter(|arg| *arg != "--quick")
        .collect();

    let mut store = vec!["bench", "store", "--endpoint", &us.etcd];
    if let Some(peer) = &peer {
        store.extend(["--vs", &peer.endpoint]);
    }
    if quick {
        store.extend(["--clients", "1,64", "--seconds", "1", "--rounds", "1"]);
    }
    store.extend(&rest);
    measure("store", &store)?;

    let mut api = vec!["bench", "api", "--kubeconfig", &us.kubeconfig];
    if quick {
        api.extend(["--seconds", "1", "--rounds", "1"]);
    }
    measure("api", &api)
}

/// Shows the table, then keeps the JSON.
fn measure(name: &str, args: &[&str]) -> Result<()> {
    let results = root().join("bench/results");
    fs::create_dir_all(&results).with_context(|| format!("make {}", results.display()))?;
    let commit = crate::shell::output("git", &["rev-parse", "--short", "HEAD"])?;
    let file = results.join(format!("{name}-{}.json", commit.trim()));
    let status = Command::new(binary())
        .args(args)
        .arg("--json-file")
        .arg(&file)
        .status()
        .with_context(|| format!("start setpoint {args:?}"))?;
    if !status.success() {
        bail!("setpoint {args:?} ended with {status}");
    }
    say(&format!("raw result: {}", file.display()));
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

struct Setpoint {
    etcd: String,
    kubeconfig: String,
    _server: Server,
}

impl Setpoint {
    fn start(scratch: &Path) -> Result<Self> {
        let ready = scratch.join("ready.json");
        let mut command = Command::new(binary());
        command.args([
            "server",
            "--etcd-listen",
            "127.0.0.1:0",
            "--api-listen",
            "127.0.0.1:0",
        ]);
        command
            .arg("--data-dir")
            .arg(scratch.join("setpoint"))
            .arg("--ready-file")
            .arg(&ready);
        command.args(["--log", "warn"]);
        let server = Server(
            command
                .stdin(Stdio::null())
                .spawn()
                .context("start setpoint server")?,
        );
        let text = wait_for("setpoint", || fs::read_to_string(&ready).ok())?;
        let facts: Value = serde_json::from_str(&text).context("read the ready file")?;
        let field = |name: &str| facts[name].as_str().unwrap_or_default().to_owned();
        Ok(Self {
            etcd: field("etcd"),
            kubeconfig: field("kubeconfig"),
            _server: server,
        })
    }
}

struct Etcd {
    endpoint: String,
    _server: Server,
}

impl Etcd {
    /// `None`, with a message, where no etcd has been built.
    fn start(scratch: &Path) -> Result<Option<Self>> {
        let program = root().join("conformance/bin/etcd");
        if !program.is_file() {
            say(
                "no peer: conformance/bin/etcd is missing (run `cargo xtask conformance etcdctl` once, with Go)",
            );
            return Ok(None);
        }
        let (client, peer) = (free_url()?, free_url()?);
        let mut command = Command::new(program);
        command.arg("--data-dir").arg(scratch.join("etcd"));
        command.args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ]);
        command.args(["--listen-peer-urls", &peer, "--log-level", "error"]);
        let server = Server(command.stdin(Stdio::null()).spawn().context("start etcd")?);
        let address = client.trim_start_matches("http://").to_owned();
        wait_for("etcd", || std::net::TcpStream::connect(&address).ok())?;
        sleep(Duration::from_secs(1));
        Ok(Some(Self {
            endpoint: client,
            _server: server,
        }))
    }
}

fn free_url() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(format!("http://{}", listener.local_addr()?))
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
