//! A TCP proxy that breaks what goes through it, on command.
//!
//! Three ways in which links fail, and they are not alike to a client:
//! - [`Proxy::cut`]: connections are reset; both sides know at once.
//! - [`Proxy::freeze`]: connections stay and nothing moves; TCP sees a healthy peer. Only the client's own probes tell.
//! - [`Proxy::half_open`]: what the client sends still arrives, what the server answers does not.
//!
//! New connections behave as the proxy is set now; [`Proxy::refuse`] lets none in.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use setpoint_base::{Stop, TaskGroup};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Read at once from either side.
const CHUNK: usize = 32 << 10;

/// What a link does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Open,
    /// Nothing moves, either way.
    Frozen,
    /// Nothing moves towards the client.
    HalfOpen,
    /// As [`Mode::Open`] for connections there are; there will be no new ones.
    Refusing,
}

/// A proxy in front of one server.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    tasks: TaskGroup,
}

#[derive(Debug)]
struct Shared {
    mode: watch::Sender<Mode>,
    /// Cancelled to reset the connections that exist; replaced for those to come.
    connections: Mutex<Stop>,
    target: Mutex<SocketAddr>,
    accepted: AtomicU64,
}

impl Proxy {
    /// Listens on a free port of the loopback and forwards to `target`.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            mode: watch::Sender::new(Mode::Open),
            connections: Mutex::new(Stop::new()),
            target: Mutex::new(target),
            accepted: AtomicU64::new(0),
        });
        let tasks = TaskGroup::new(&Stop::new());
        tasks.spawn(accept(listener, shared.clone(), tasks.clone()));
        Ok(Self { addr, shared, tasks })
    }

    /// Where clients connect.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Connections accepted so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// The server is here from now on; connections that exist stay where they are.
    pub fn retarget(&self, target: SocketAddr) {
        *self.shared.target.lock() = target;
    }

    /// Resets every connection; new ones are welcome.
    pub fn cut(&self) {
        std::mem::take(&mut *self.shared.connections.lock()).cancel();
    }

    /// Resets every connection and lets no new one in until [`Proxy::thaw`].
    pub fn refuse(&self) {
        self.shared.mode.send_replace(Mode::Refusing);
        self.cut();
    }

    /// Nothing moves any more, on old connections and new ones, until [`Proxy::thaw`].
    pub fn freeze(&self) {
        self.shared.mode.send_replace(Mode::Frozen);
    }

    /// Nothing reaches the client any more, until [`Proxy::thaw`].
    pub fn half_open(&self) {
        self.shared.mode.send_replace(Mode::HalfOpen);
    }

    /// All is well again; what was held goes on.
    pub fn thaw(&self) {
        self.shared.mode.send_replace(Mode::Open);
    }

    /// Ends the proxy and all that goes through it.
    pub async fn stop(self) {
        self.cut();
        self.tasks.shutdown(Duration::from_secs(5)).await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.tasks.stop().cancel();
        self.shared.connections.lock().cancel();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, tasks: TaskGroup) {
    loop {
        let accepted = tokio::select! {
            () = tasks.stop().cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((client, _)) = accepted else { continue };
        if *shared.mode.borrow() == Mode::Refusing {
            // A reset, not a farewell.
            let _ = client.set_zero_linger();
            continue;
        }
        shared.accepted.fetch_add(1, Ordering::Relaxed);
        let stop = shared.connections.lock().clone();
        let ended = tasks.stop().clone();
        let (target, mode) = (*shared.target.lock(), shared.mode.subscribe());
        tasks.spawn(async move {
            tokio::select! {
                () = ended.cancelled() => (),
                () = carry(client, target, mode, stop) => (),
            }
        });
    }
}

/// One connection, until one side ends or it is cut.
async fn carry(client: TcpStream, target: SocketAddr, mode: watch::Receiver<Mode>, stop: Stop) {
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    for socket in [&client, &server] {
        let _ = socket.set_nodelay(true);
        let _ = socket.set_zero_linger();
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = stop.cancelled() => (),
        () = copy(from_client, to_server, mode.clone(), &[Mode::Frozen]) => (),
        () = copy(from_server, to_client, mode, &[Mode::Frozen, Mode::HalfOpen]) => (),
    }
}

/// Forwards bytes, except in the modes that hold this direction.
async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    held: &[Mode],
) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else {
            // An end of one side is the end of the other as well: whoever asks finds out at once.
            return;
        };
        if mode.wait_for(|mode| !held.contains(mode)).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
