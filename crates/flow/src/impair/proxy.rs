//! The TCP proxy.
//!
//! Ways in which links fail are not alike to a client:
//! - [`Proxy::cut`]: connections are reset; both sides know at once.
//! - [`Proxy::freeze`]: connections stay and nothing moves; TCP sees a healthy peer. Only the client's own probes tell.
//! - [`Proxy::half_open`]: what the client sends still arrives, what the server answers does not.
//! - [`Proxy::refuse`]: who is in is reset, and nobody gets in.
//! - [`Proxy::set`]: a link that works, and is slow, narrow or uneven.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::net::sockopt::{set_socket_linger, set_socket_recv_buffer_size};
use setpoint_base::{Stop, TaskGroup};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::core::{Action, Direction, Script, Setting, Shape};
use super::timer::Timer;
use super::wire::{self, Lane};

/// Connections at a time; more wait in the kernel's backlog.
const CONNECTIONS_MAX: u64 = 10_000;
/// Clients that may wait to be accepted, if the kernel allows as many.
const BACKLOG: u32 = 4096;
/// How long the server may take to let a connection in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long connections may take to end.
const GRACE: Duration = Duration::from_secs(5);
/// After an error of `accept`, such as too many open files.
const PAUSE: Duration = Duration::from_millis(50);
/// The kernel's own buffers are part of the queue that a sender meets: with a rate they are kept from growing. Segments on
/// the loopback have 64 KiB; a buffer of a few of them drops some, and the sender waits for retransmissions.
const RECEIVE_BYTES: usize = 512 << 10;

/// What a proxy is started with. The default is a clean link from a free port of the loopback.
#[derive(Clone, Debug)]
pub struct ProxyOptions {
    /// Where it listens; port 0 is any free one.
    pub listen: SocketAddr,
    /// What the link does at first.
    pub setting: Setting,
    /// Decides over jitter and losses.
    pub seed: u64,
}

impl Default for ProxyOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            setting: Setting::default(),
            seed: 0,
        }
    }
}

/// What has gone through a proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Connections accepted so far.
    pub accepted: u64,
    /// Connections there are.
    pub open: u64,
    /// Bytes that reached the server.
    pub up_bytes: u64,
    /// Bytes that reached the client.
    pub down_bytes: u64,
    /// Bytes on their way to the server.
    pub up_inside: u64,
    /// Bytes on their way to the client.
    pub down_inside: u64,
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
    setting: watch::Sender<Setting>,
    /// Cancelled to reset the connections that exist; replaced for those to come.
    connections: Mutex<Stop>,
    target: Mutex<SocketAddr>,
    seed: u64,
    accepted: AtomicU64,
    open: watch::Sender<u64>,
    up: Arc<wire::Shared>,
    down: Arc<wire::Shared>,
}

impl Proxy {
    /// A clean link to `target` from a free port of the loopback.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        Self::listen(target, ProxyOptions::default()).await
    }

    /// Listens and forwards to `target`.
    ///
    /// # Errors
    /// When the address cannot be listened at.
    pub async fn listen(target: SocketAddr, options: ProxyOptions) -> io::Result<Self> {
        let listener = backlogged(options.listen)?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            setting: watch::Sender::new(options.setting),
            connections: Mutex::new(Stop::new()),
            target: Mutex::new(target),
            seed: options.seed,
            accepted: AtomicU64::new(0),
            open: watch::Sender::new(0),
            up: Arc::default(),
            down: Arc::default(),
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

    /// What has gone through so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        let Shared { up, down, .. } = &*self.shared;
        Traffic {
            accepted: self.accepted(),
            open: *self.shared.open.borrow(),
            up_bytes: up.passed.load(Ordering::Relaxed),
            down_bytes: down.passed.load(Ordering::Relaxed),
            up_inside: up.inside.load(Ordering::Relaxed),
            down_inside: down.inside.load(Ordering::Relaxed),
        }
    }

    /// What the link does now.
    #[must_use]
    pub fn setting(&self) -> Setting {
        *self.shared.setting.borrow()
    }

    /// What the link does from now on, on old connections and new ones.
    pub fn set(&self, setting: Setting) {
        let refuses = setting.refusing && !self.setting().refusing;
        self.shared.setting.send_replace(setting);
        if refuses {
            self.cut();
        }
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
        self.change(&Action::Refuse(true));
    }

    /// Nothing moves any more, on old connections and new ones, until [`Proxy::thaw`].
    pub fn freeze(&self) {
        self.change(&Action::Hold(Direction::Both, true));
    }

    /// Nothing reaches the client any more, until [`Proxy::thaw`].
    pub fn half_open(&self) {
        self.change(&Action::Hold(Direction::Up, false));
        self.change(&Action::Hold(Direction::Down, true));
    }

    /// What was held goes on, and who was refused may come.
    pub fn thaw(&self) {
        self.change(&Action::Thaw);
    }

    /// Does one thing of a script.
    ///
    /// # Errors
    /// When the name of a new target has no address.
    pub async fn act(&self, action: &Action) -> io::Result<()> {
        match action {
            Action::Cut => self.cut(),
            Action::Retarget(target) => {
                let unknown = |why: String| io::Error::other(format!("retarget={target}: {why}"));
                let mut found = lookup_host(target.as_str())
                    .await
                    .map_err(|error| unknown(error.to_string()))?;
                let found = found
                    .next()
                    .ok_or_else(|| unknown("it has no address".to_owned()));
                self.retarget(found?);
            }
            action => self.change(action),
        }
        Ok(())
    }

    /// Does what a script says, when it says it. May be dropped at any time.
    ///
    /// # Errors
    /// When the name of a new target has no address.
    pub async fn play(&self, script: &Script) -> io::Result<()> {
        let start = Instant::now();
        for (at, action) in script.steps() {
            sleep_until(start + *at).await;
            self.act(action).await?;
        }
        Ok(())
    }

    /// Ends the proxy and all that goes through it.
    pub async fn stop(self) {
        self.cut();
        self.tasks.shutdown(GRACE).await;
    }

    fn change(&self, action: &Action) {
        let mut setting = self.setting();
        action.apply(&mut setting);
        self.set(setting);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.tasks.stop().cancel();
        self.shared.connections.lock().cancel();
    }
}

/// Listens with room for a crowd: what `TcpListener::bind` has is 128, and whom the kernel sends away knocks again after a second,
/// which no link was asked to do.
fn backlogged(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, tasks: TaskGroup) {
    let mut open = shared.open.subscribe();
    loop {
        let accepted = tokio::select! {
            () = tasks.stop().cancelled() => return,
            accepted = async {
                // The sender of the count is in `shared`.
                let _ = open.wait_for(|open| *open < CONNECTIONS_MAX).await;
                listener.accept().await
            } => accepted,
        };
        let Ok((client, _)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        // Whenever it ends, the other side sees a reset and not a farewell, unless it was told of an end before.
        let _ = client.set_zero_linger();
        if shared.setting.borrow().refusing {
            continue;
        }
        let number = shared.accepted.fetch_add(1, Ordering::Relaxed);
        let stop = shared.connections.lock().clone();
        let ended = tasks.stop().clone();
        let counted = Counted::new(shared.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = ended.cancelled() => (),
                () = stop.cancelled() => (),
                () = carry(client, number, &counted.0) => (),
            }
        });
    }
}

/// A connection that is counted while it is there.
struct Counted(Arc<Shared>);

impl Counted {
    fn new(shared: Arc<Shared>) -> Self {
        shared.open.send_modify(|open| *open += 1);
        Self(shared)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
    }
}

/// One connection, until both sides have ended or one breaks.
async fn carry(mut client: TcpStream, number: u64, shared: &Shared) {
    let target = *shared.target.lock();
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(target)).await;
    let Ok(Ok(mut server)) = connected else {
        return;
    };
    let _ = server.set_zero_linger();
    let setting = *shared.setting.borrow();
    for (socket, shape) in [(&client, &setting.up), (&server, &setting.down)] {
        let _ = socket.set_nodelay(true);
        narrow(socket, shape);
    }
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let lane = |direction, lanes: &Arc<wire::Shared>, seed| Lane {
        direction,
        setting: shared.setting.subscribe(),
        shared: lanes.clone(),
        seed,
        timer: Timer::exact(),
    };
    // Each direction of each connection has chances of its own.
    let seed = shared.seed.wrapping_add(number << 1);
    let up = lane(Direction::Up, &shared.up, seed);
    let down = lane(Direction::Down, &shared.down, seed | 1);
    // Whoever breaks, breaks the other as well.
    let ended = tokio::try_join!(
        wire::carry(from_client, to_server, up),
        wire::carry(from_server, to_client, down)
    );
    if ended.is_ok() {
        // Both have said farewell. What the kernel still has of it is not to be lost in a reset.
        for socket in [&client, &server] {
            let _ = set_socket_linger(socket, None);
        }
    }
}

/// Keeps the kernel from being a larger buffer than the link's own.
fn narrow(socket: &TcpStream, shape: &Shape) {
    if shape.rate.is_some() {
        let _ = set_socket_recv_buffer_size(socket, RECEIVE_BYTES);
    }
}
