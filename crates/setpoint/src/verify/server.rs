//! The server under test: somebody's, or one of our own that may be killed.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::bench::spawn::{Scratch, Spawned};

/// Who owns the server.
pub(crate) enum Host {
    /// Somebody else: it is only asked.
    Foreign,
    /// We started it, with its data in a directory that goes away with it.
    Ours { spawned: Box<Spawned>, _data: Scratch },
}

impl Host {
    /// Starts this program's store, or the etcd at a path.
    pub(crate) async fn spawn(program: &str) -> Result<(Self, SocketAddr)> {
        let name = format!("setpoint-verify-{}", std::process::id());
        let scratch = Scratch::new(std::env::temp_dir().join(name))?;
        let spawned = if program == "setpoint" {
            Spawned::setpoint(scratch.path(), true).await
        } else {
            Spawned::etcd(program.as_ref(), scratch.path(), true).await
        };
        let spawned = spawned.with_context(|| format!("start {program}"))?;
        let address = spawned.address();
        let ours = Self::Ours {
            spawned: Box::new(spawned),
            _data: scratch,
        };
        Ok((ours, address))
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        match self {
            Self::Foreign => None,
            Self::Ours { spawned, .. } => spawned.pid(),
        }
    }

    /// The process stands still.
    pub(crate) fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// And goes on.
    pub(crate) fn go_on(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Kills it and starts it again with the same data, at the same place.
    pub(crate) async fn restart(&mut self) -> Result<()> {
        let Self::Ours { spawned, .. } = self else {
            bail!("a server that we did not start is not restarted");
        };
        spawned.end(false).await?;
        spawned.begin().await?;
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self
            .pid()
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(Pid::from_raw);
        let pid = pid.context("the server has no process of ours")?;
        kill_process(pid, signal).context("signal the server")
    }
}
