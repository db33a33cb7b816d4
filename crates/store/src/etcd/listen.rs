//! Where clients arrive: listeners, what is served on each, and the budget of connections.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use setpoint_base::Stop;
use setpoint_flow::Tcp;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::Instant;

use super::server::{Counted, Shared, Worker};
use super::socket::Plain;

/// Pause after a failed accept: the usual reason is too many open files, which time cures.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Time between two log lines about clients beyond the limit: they come by the thousand.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// A socket that clients connect to.
#[derive(Debug)]
pub struct Listener {
    socket: Bound,
    secure: bool,
    serves: Serves,
}

#[derive(Debug)]
enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// What is served on a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Serves {
    /// gRPC and HTTP.
    #[default]
    All,
    /// gRPC alone.
    Grpc,
    /// HTTP alone: the JSON gateway, health, metrics.
    Http,
    /// `/metrics`, `/health`, `/livez` and `/readyz` alone (etcd's `--listen-metrics-urls`).
    Metrics,
}

impl Serves {
    pub(super) fn grpc(self) -> bool {
        matches!(self, Self::All | Self::Grpc)
    }
}

impl Listener {
    /// Serves everything on `socket`, over TLS when the front has TLS options.
    #[must_use]
    pub fn tcp(socket: TcpListener) -> Self {
        Self {
            socket: Bound::Tcp(socket),
            secure: true,
            serves: Serves::All,
        }
    }

    /// Serves everything on a socket of this machine, over TLS when the front has TLS options.
    #[must_use]
    pub fn unix(socket: UnixListener) -> Self {
        Self {
            socket: Bound::Unix(socket),
            secure: true,
            serves: Serves::All,
        }
    }

    /// Without TLS, also when the front has TLS options.
    #[must_use]
    pub fn plain(mut self) -> Self {
        self.secure = false;
        self
    }

    /// Serves only a part.
    #[must_use]
    pub fn only(mut self, serves: Serves) -> Self {
        self.serves = serves;
        self
    }

    /// `scheme://address` of the listener, as clients write it.
    pub(super) fn url(&self, tls: bool) -> io::Result<String> {
        Ok(match &self.socket {
            Bound::Tcp(socket) => {
                let scheme = if self.secure && tls { "https" } else { "http" };
                format!("{scheme}://{}", socket.local_addr()?)
            }
            Bound::Unix(socket) => {
                let addr = socket.local_addr()?;
                let path = addr.as_pathname().unwrap_or_else(|| "".as_ref());
                let scheme = if self.secure && tls { "unixs" } else { "unix" };
                format!("{scheme}://{}", path.display())
            }
        })
    }

    async fn accept(&self) -> io::Result<Arrived> {
        match &self.socket {
            Bound::Tcp(socket) => {
                let (socket, _) = socket.accept().await?;
                prepare(&socket)?;
                Ok(Arrived::Tcp(socket.into_std()?))
            }
            Bound::Unix(socket) => Ok(Arrived::Unix(socket.accept().await?.0.into_std()?)),
        }
    }
}

/// A socket between two runtimes: it has left the acceptor's reactor, the worker registers it with its own.
pub(super) enum Arrived {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Arrived {
    pub(super) fn register(self) -> io::Result<Plain> {
        Ok(match self {
            Self::Tcp(socket) => Plain::Tcp(Tcp::new(TcpStream::from_std(socket)?)),
            Self::Unix(socket) => Plain::Unix(UnixStream::from_std(socket)?),
        })
    }
}

/// A client at the door.
pub(super) struct Incoming {
    pub(super) socket: Arrived,
    /// Whether it has to speak TLS.
    pub(super) secure: bool,
    pub(super) serves: Serves,
    pub(super) counted: Counted,
}

/// Deals connections to the workers until `stop`.
pub(super) async fn accept(listener: &Listener, shared: &Arc<Shared>, workers: &[Worker], stop: &Stop) {
    let mut turns = workers.iter().cycle();
    let mut untold = Untold::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let socket = match accepted {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%error, "accept etcd client");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(ACCEPT_RETRY) => continue,
                }
            }
        };
        let Some(counted) = Counted::new(shared, listener.serves) else {
            shared.metrics.connections_refused.inc();
            if let Some(refused) = untold.one(Instant::now()) {
                let max = Counted::most(shared, listener.serves);
                tracing::warn!(
                    refused,
                    max,
                    "etcd clients are closed at once: there are as many connections as may be; /debug/flow shows whose"
                );
            }
            continue;
        };
        let Some(worker) = turns.next() else {
            continue;
        };
        let incoming = Incoming {
            socket,
            secure: listener.secure,
            serves: listener.serves,
            counted,
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = worker.take(incoming) => (),
        }
    }
}

/// Clients that were refused since it was last said.
#[derive(Default)]
struct Untold {
    clients: u64,
    next: Option<Instant>,
}

impl Untold {
    /// Counts one; how many are to be told of, if it is time.
    fn one(&mut self, now: Instant) -> Option<u64> {
        self.clients += 1;
        if self.next.is_some_and(|next| now < next) {
            return None;
        }
        self.next = Some(now + TELL_EVERY);
        Some(std::mem::take(&mut self.clients))
    }
}

/// Small answers leave at once; a peer that vanished is noticed within two minutes.
fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15))
        .with_retries(4);
    SockRef::from(socket).set_tcp_keepalive(&keepalive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_clients_are_told_of_at_once_and_then_together_once_a_minute() {
        let (mut untold, start) = (Untold::default(), Instant::now());
        let mut at = |seconds| untold.one(start + Duration::from_secs(seconds));
        let told: Vec<_> = [0, 1, 2, 59, 60, 61, 120].map(&mut at).into();
        assert_eq!(told, [Some(1), None, None, None, Some(4), None, Some(2)]);
    }
}
