//! Servers that a benchmark starts, kills and starts again by itself: this program's store, and a real etcd.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal};
use tokio::time::{Instant, sleep};

use super::h2load::Connection;
use super::requests::{Op, Template};
use super::said::Said;
use super::target::Target;
use crate::pages;

/// How long a server may take to answer its first read.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// Between two attempts to read.
const ATTEMPT: Duration = Duration::from_millis(2);
/// How long one may take to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// As much room as etcd advises at most, so that no scenario meets its quota.
const QUOTA_BYTES: &str = "8589934592";

/// A server of our own, killed when it is dropped.
pub(crate) struct Spawned {
    kind: Kind,
    program: PathBuf,
    arguments: Vec<String>,
    address: SocketAddr,
    child: Option<Child>,
    /// In a process group of its own, where an interrupt at the terminal does not reach it.
    apart: bool,
}

/// Which server it is to be.
#[derive(Clone, Copy)]
enum Kind {
    Setpoint,
    Etcd,
}

impl Spawned {
    /// This program's store, with its data under `dir`. `apart` is for those who stop it themselves when interrupted.
    pub(crate) async fn setpoint(dir: &Path, apart: bool) -> Result<Self> {
        let address = free_address()?;
        let data = dir.join("a").display().to_string();
        let listen = address.to_string();
        let arguments = ["server", "--roles", "store", "--log", "warn", "--data-dir", &data];
        let arguments = arguments.into_iter().chain(["--etcd-listen", &listen]);
        let arguments = arguments.chain(["--quota-backend-bytes", QUOTA_BYTES]);
        let program = std::env::current_exe().context("find this program")?;
        Self::start(
            Kind::Setpoint,
            program,
            arguments.map(str::to_owned).collect(),
            (address, apart),
        )
        .await
    }

    /// The etcd at `program`.
    pub(crate) async fn etcd(program: &Path, dir: &Path, apart: bool) -> Result<Self> {
        let (address, peer) = (free_address()?, free_address()?);
        let client = format!("http://{address}");
        let peer = format!("http://{peer}");
        let data = dir.join("b").display().to_string();
        let arguments = ["--data-dir", &data, "--log-level", "fatal"].into_iter();
        let arguments = arguments.chain(["--quota-backend-bytes", QUOTA_BYTES]);
        let arguments = arguments.chain([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ]);
        let arguments = arguments.chain([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ]);
        let cluster = format!("default={peer}");
        let arguments = arguments.chain(["--initial-cluster", &cluster]);
        let arguments = arguments.map(str::to_owned).collect();
        Self::start(Kind::Etcd, program.to_path_buf(), arguments, (address, apart)).await
    }

    async fn start(
        kind: Kind,
        program: PathBuf,
        arguments: Vec<String>,
        (address, apart): (SocketAddr, bool),
    ) -> Result<Self> {
        let mut server = Self {
            kind,
            program,
            arguments,
            address,
            child: None,
            apart,
        };
        server.begin().await?;
        Ok(server)
    }

    /// Starts the process; how long it took until a read of key 0 was answered.
    pub(crate) async fn begin(&mut self) -> Result<Duration> {
        let started = Instant::now();
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if self.apart {
            command.process_group(0);
        }
        let child = pages::as_they_come(|| command.spawn());
        let child = child.with_context(|| format!("start {}", self.program.display()))?;
        let said = Said::by(self.child.insert(child)).context("listen to the server")?;
        while started.elapsed() < READY_TIMEOUT {
            if self.read_one().await.is_ok_and(|read| read) {
                return Ok(started.elapsed());
            }
            let child = self.child.as_mut().context("it was started")?;
            if let Some(status) = child.try_wait().context("look after the server")? {
                return Err(self.useless(&format!("it ended with {status}"), &said).await);
            }
            sleep(ATTEMPT).await;
        }
        let why = format!(
            "it did not answer a read at {} within {READY_TIMEOUT:?}",
            self.address
        );
        Err(self.useless(&why, &said).await)
    }

    /// An error for a program that does not serve.
    async fn useless(&self, why: &str, said: &Said) -> anyhow::Error {
        let words = match said.last_words().await {
            words if words.is_empty() => "It printed nothing.".to_owned(),
            words => format!("It printed last:\n{words}"),
        };
        let command = format!("{} {}", self.program.display(), self.arguments.join(" "));
        let remedy = match self.kind {
            Kind::Setpoint => "that is this program itself: run it by hand to see more",
            Kind::Etcd => {
                "give the path of an etcd, or of a program that takes these flags of etcd's and serves its API"
            }
        };
        anyhow!("{why}; it was started as\n{command}\n{words}\nRemedy: {remedy}")
    }

    async fn read_one(&self) -> Result<bool> {
        let connection = Connection::open(self.address, Op::GetLinearizable.path()).await?;
        let time = (Instant::now(), Instant::now() + READY_TIMEOUT);
        let template = Template::of(Op::GetLinearizable, 0);
        let measured = connection.run(1, template, std::iter::once(0), time).await?;
        Ok(measured.failed == 0 && !measured.latency.is_empty())
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process; another after every start.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The server as a target. Its process changes with every start.
    pub(super) async fn target(&self) -> Result<Target> {
        let pid = self.child.as_ref().map(Child::id);
        let name = match self.kind {
            Kind::Setpoint => "a",
            Kind::Etcd => "b",
        };
        Target::find(name, &format!("http://{}", self.address), pid).await
    }

    /// Ends the process, orderly or at once, and waits for it.
    pub(crate) async fn end(&mut self, orderly: bool) -> Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        if orderly && let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            rustix::process::kill_process(pid, Signal::TERM).context("stop the server")?;
            let asked = Instant::now();
            while asked.elapsed() < STOP_TIMEOUT {
                if child.try_wait().context("wait for the server")?.is_some() {
                    return Ok(());
                }
                sleep(ATTEMPT).await;
            }
        }
        let _ = child.kill();
        child.wait().context("wait for the server")?;
        if orderly {
            bail!("{} did not stop within {STOP_TIMEOUT:?}", self.program.display());
        }
        Ok(())
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    listener.local_addr().context("find a free port")
}

/// A directory that is removed at the end.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Makes `dir` anew.
    pub(crate) fn new(dir: PathBuf) -> Result<Self> {
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        Ok(Self(dir))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
