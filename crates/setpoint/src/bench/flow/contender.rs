//! Whose flow control is measured: servers in processes of their own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::bench::machine;
use crate::pages;

/// How long a server may take to listen, or to end.
const PATIENCE: Duration = Duration::from_secs(20);
/// What a server says first, and a client.
const LISTENING: &str = "listening ";
const FETCHING: &str = "fetching ";
/// What ours says of itself now and then.
const ESTIMATE: &str = "estimate ";

/// A server whose windows are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contender {
    /// Ours, with windows as large as the link needs
    Setpoint,
    /// The same library with windows that never change: 1 MiB a stream, 4 MiB a connection
    Fixed,
    /// tonic as it comes
    TonicDefault,
    /// tonic with http2_adaptive_window
    TonicAdaptive,
    /// grpc-go with static windows of 64 KiB
    GrpcGoStatic,
    /// grpc-go as it comes, with its estimator
    GrpcGoBdp,
}

impl Contender {
    /// All of them, ours first.
    pub(super) const ALL: [Self; 6] = [
        Self::Setpoint,
        Self::Fixed,
        Self::TonicDefault,
        Self::TonicAdaptive,
        Self::GrpcGoStatic,
        Self::GrpcGoBdp,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Setpoint => "setpoint",
            Self::Fixed => "fixed",
            Self::TonicDefault => "tonic-default",
            Self::TonicAdaptive => "tonic-adaptive",
            Self::GrpcGoStatic => "grpc-go-static",
            Self::GrpcGoBdp => "grpc-go-bdp",
        }
    }

    /// Whether there is a client of it that downloads.
    pub(super) fn has_client(self) -> bool {
        self != Self::Fixed
    }

    /// Whether it has a channel that is measured by itself.
    pub(super) fn has_channel(self) -> bool {
        matches!(self, Self::Setpoint | Self::TonicDefault)
    }

    /// How its client is started, but for the address at the end, which is what it is to read from; `None` where there
    /// is none.
    pub(super) fn client(self, grpc_go: &Path) -> Option<Start> {
        let arguments: &[&str] = match self {
            Self::Setpoint | Self::TonicDefault | Self::TonicAdaptive => {
                return Start::this(&["bench", "flow", "--fetch", self.name(), "--from"]).ok();
            }
            Self::Fixed => return None,
            Self::GrpcGoStatic => &["-windows", "static", "-fetch"],
            Self::GrpcGoBdp => &["-windows", "bdp", "-fetch"],
        };
        grpc_go.is_file().then(|| Start {
            program: grpc_go.to_path_buf(),
            arguments: arguments.iter().map(ToString::to_string).collect(),
        })
    }

    /// How its server is started; `None` where there is none.
    pub(super) fn server(self, grpc_go: &Path) -> Option<Start> {
        let arguments: &[&str] = match self {
            Self::GrpcGoStatic => &["-windows", "static"],
            Self::GrpcGoBdp => &["-windows", "bdp"],
            _ => &["bench", "flow", "--serve", self.name()],
        };
        let program = match self {
            Self::GrpcGoStatic | Self::GrpcGoBdp => grpc_go.is_file().then(|| grpc_go.to_path_buf())?,
            _ => std::env::current_exe().ok()?,
        };
        Some(Start {
            program,
            arguments: arguments.iter().map(ToString::to_string).collect(),
        })
    }
}

/// A program and its arguments.
#[derive(Clone)]
pub(super) struct Start {
    program: PathBuf,
    arguments: Vec<String>,
}

impl Start {
    /// This program again.
    pub(super) fn this(arguments: &[&str]) -> Result<Self> {
        Ok(Self {
            program: std::env::current_exe().context("find this program")?,
            arguments: arguments.iter().map(ToString::to_string).collect(),
        })
    }

    pub(super) fn with_argument(mut self, argument: String) -> Self {
        self.arguments.push(argument);
        self
    }
}

/// What our own server estimates of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Estimate {
    /// Round trip in milliseconds.
    pub(super) rtt_ms: f64,
    /// Megabits per second.
    pub(super) mbit: f64,
    /// Bytes that a stream may have on its way.
    pub(super) window_bytes: u64,
}

/// A server, or a client, that runs.
pub(super) struct Peer {
    /// Where it listens, or what it reads from.
    pub(super) addr: SocketAddr,
    /// What it last said of itself.
    pub(super) estimate: Arc<Mutex<Option<Estimate>>>,
    child: Child,
    reader: JoinHandle<()>,
}

impl Peer {
    pub(super) async fn start(start: &Start) -> Result<Self> {
        let name = start.program.display().to_string();
        let mut command = Command::new(&start.program);
        // It ends when its standard input does, so also when this program is killed.
        command.args(&start.arguments).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = pages::as_they_come(|| command.spawn()).with_context(|| format!("start {name}"))?;
        let output = child.stdout.take().context("the child has an output")?;
        let mut lines = BufReader::new(output).lines();
        let first = timeout(PATIENCE, lines.next_line())
            .await
            .with_context(|| format!("{name} did not listen in time"))?
            .with_context(|| format!("read from {name}"))?
            .unwrap_or_default();
        let greeting = first.strip_prefix(LISTENING).or(first.strip_prefix(FETCHING));
        let Some(addr) = greeting.and_then(|addr| addr.parse().ok()) else {
            bail!("{name} said {first:?} instead of where it listens");
        };
        let estimate = Arc::new(Mutex::new(None));
        let seen = estimate.clone();
        #[expect(clippy::disallowed_methods, reason = "awaited when the peer is stopped")]
        let reader = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(text) = line.strip_prefix(ESTIMATE) {
                    *seen.lock() = serde_json::from_str(text).ok();
                }
            }
        });
        Ok(Self {
            addr,
            estimate,
            child,
            reader,
        })
    }

    /// CPU seconds so far.
    pub(super) fn cpu_seconds(&self) -> Option<f64> {
        machine::cpu_seconds(self.child.id()?)
    }

    /// Resident memory, in MiB.
    pub(super) fn rss_mib(&self) -> Option<f64> {
        machine::rss_mib(self.child.id()?)
    }

    pub(super) async fn stop(mut self) {
        drop(self.child.stdin.take());
        if timeout(PATIENCE, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
        let _ = self.reader.await;
    }
}

/// Says where a server listens.
pub(super) fn say_listening(addr: SocketAddr) -> Result<()> {
    say(&format!("{LISTENING}{addr}"))
}

/// Says what a client reads from.
pub(super) fn say_fetching(addr: SocketAddr) -> Result<()> {
    say(&format!("{FETCHING}{addr}"))
}

/// Says what a server thinks of its link.
pub(super) fn say_estimate(estimate: &Estimate) -> Result<()> {
    say(&format!("{ESTIMATE}{}", serde_json::to_string(estimate)?))
}

fn say(line: &str) -> Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .context("say it")
}
