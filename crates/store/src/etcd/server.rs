//! Listener, worker threads and drain.
//!
//! One task accepts and deals connections to the workers in turn; each worker is a thread with a runtime of its
//! own, so that a connection's calls, frames and buffers never change cores. Dealing in turn keeps few connections
//! balanced, which `SO_REUSEPORT` does not.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use setpoint_base::{Stop, TaskGroup};
use setpoint_telemetry::DuplicateMetric;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use setpoint_proto::etcdserverpb::ResponseHeader;
use tonic::Status;

use super::convert::touches;
use super::metrics::FrontMetrics;
use super::options::FrontOptions;
use super::waits::Waits;
use super::wire::RAFT_TERM;
use super::{connection, status};
use crate::Store;
use crate::types::{KeyRange, Revision};

/// Connections that may wait for a busy worker; the acceptor waits when there are more.
const HANDOVER_MAX: usize = 64;
/// Reads of many keys that run at a time, off the worker threads.
const LARGE_READS_MAX: usize = 4;
/// Readings of the whole log (snapshots, hashes) that run at a time, off the worker threads.
const SCANS_MAX: usize = 2;
/// Room for answers is counted in these.
const ROOM_UNIT: usize = 4 << 10;
/// Answers up to this size are not counted.
const ROOM_FREE: usize = 64 << 10;
/// Pause after a failed accept: the usual reason is too many open files, which time cures.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// etcd's API in front of a store.
pub struct Front(Arc<Shared>);

/// What every connection and call knows.
pub(super) struct Shared {
    pub(super) store: Store,
    pub(super) options: FrontOptions,
    pub(super) metrics: FrontMetrics,
    pub(super) cluster_id: u64,
    pub(super) member_id: u64,
    pub(super) client_urls: Vec<String>,
    /// Bytes of half-received requests.
    pub(super) inbound_bytes: AtomicUsize,
    /// Who may run a read of many keys now.
    pub(super) large_reads: Arc<Semaphore>,
    /// Who may read the whole log now.
    pub(super) scans: Arc<Semaphore>,
    /// Room for large answers, in units of [`ROOM_UNIT`] bytes.
    room: Arc<Semaphore>,
    /// The same for answers of few keys, so that wide ones do not crowd them out.
    room_of_few: Arc<Semaphore>,
    connections: AtomicUsize,
    /// Who waits for locks and leadership.
    pub(super) waits: Waits,
}

impl Shared {
    /// Waits until there is room for an answer of `bytes`; a small one needs none.
    pub(super) async fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(self.room_units(bytes)?).ok()?;
        self.room.clone().acquire_many_owned(units).await.ok()
    }

    /// Takes room for an answer of few keys, which is in memory already, or refuses it.
    pub(super) fn room_now(&self, bytes: usize) -> Result<Option<OwnedSemaphorePermit>, Status> {
        let Some(units) = self.room_units(bytes).and_then(|units| u32::try_from(units).ok()) else {
            return Ok(None);
        };
        let room = self.room_of_few.clone().try_acquire_many_owned(units);
        room.map(Some).map_err(|_| status::overloaded())
    }

    fn room_units(&self, bytes: usize) -> Option<usize> {
        (bytes > ROOM_FREE).then(|| bytes.min(self.options.outbound_bytes_max / 2) / ROOM_UNIT)
    }

    /// A top-level response header at `revision`.
    pub(super) fn header(&self, revision: Revision) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.cluster_id,
            member_id: self.member_id,
            revision: revision.0,
            raft_term: RAFT_TERM,
        }
    }

    /// Refuses a write to keys that are not ours to write.
    pub(super) fn may_write(&self, keys: &KeyRange) -> Result<(), Status> {
        match &self.options.read_only_prefix {
            Some(prefix) if touches(keys, prefix) => Err(status::read_only(prefix)),
            _ => Ok(()),
        }
    }
}

/// Half of the room there is.
fn room(options: &FrontOptions) -> Arc<Semaphore> {
    let units = options.outbound_bytes_max / 2 / ROOM_UNIT;
    Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS)))
}

/// Counts a connection while it lives.
struct Counted(Arc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
        self.0.metrics.connections.dec();
    }
}

impl Front {
    /// A front of `store` that serves nothing yet.
    #[must_use]
    pub fn new(store: Store, options: FrontOptions) -> Self {
        let status = store.status();
        Self(Arc::new(Shared {
            store,
            metrics: FrontMetrics::new(),
            cluster_id: status.cluster_id,
            member_id: status.member_id,
            client_urls: options.client_urls.clone(),
            inbound_bytes: AtomicUsize::new(0),
            large_reads: Arc::new(Semaphore::new(LARGE_READS_MAX)),
            scans: Arc::new(Semaphore::new(SCANS_MAX)),
            room: room(&options),
            room_of_few: room(&options),
            connections: AtomicUsize::new(0),
            waits: Waits::new(options.waits_max),
            options,
        }))
    }

    /// Serves `listener` until `stop`; then calls in progress are answered, streams end with UNAVAILABLE, and
    /// what is still open after [`FrontOptions::drain_timeout`] is closed.
    ///
    /// # Errors
    /// When a worker thread cannot be started, or a metric's name is taken.
    pub async fn serve(self, listener: TcpListener, stop: Stop) -> io::Result<()> {
        let mut shared = self.0;
        if let Some(metrics) = &shared.options.metrics {
            let register = |error: DuplicateMetric| io::Error::new(io::ErrorKind::AlreadyExists, error);
            shared.metrics.register(metrics).map_err(register)?;
        }
        let addr = listener.local_addr()?;
        if let Some(shared) = Arc::get_mut(&mut shared)
            && shared.client_urls.is_empty()
        {
            shared.client_urls.push(format!("http://{addr}"));
        }
        let mut workers = Vec::new();
        for index in 0..shared.options.workers.max(1) {
            workers.push(Worker::start(index, shared.clone(), stop.clone())?);
        }
        let over = Stop::new();
        let serve = async {
            accept(&listener, &shared, &workers, &stop).await;
            drop(listener);
            for worker in workers {
                worker.join().await;
            }
            over.cancel();
        };
        tokio::join!(serve, shared.waits.sweep(&shared.store, &over));
        Ok(())
    }
}

/// Deals connections to the workers until `stop`.
async fn accept(listener: &TcpListener, shared: &Arc<Shared>, workers: &[Worker], stop: &Stop) {
    let mut turns = workers.iter().cycle();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!(%error, "accept etcd client");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(ACCEPT_RETRY) => continue,
                }
            }
        };
        let Some(counted) = count(shared) else {
            shared.metrics.connections_refused.inc();
            tracing::debug!(
                max = shared.options.connections_max,
                "etcd client refused: too many connections"
            );
            continue;
        };
        if let Err(error) = prepare(&socket) {
            tracing::debug!(%error, "prepare etcd client's socket");
            continue;
        }
        // The socket leaves this runtime's reactor; the worker registers it with its own.
        let (Some(worker), Ok(socket)) = (turns.next(), socket.into_std()) else {
            continue;
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = worker.connections.send((socket, counted)) => (),
        }
    }
}

fn count(shared: &Arc<Shared>) -> Option<Counted> {
    let before = shared.connections.fetch_add(1, Ordering::Relaxed);
    shared.metrics.connections.inc();
    let counted = Counted(shared.clone());
    (before < shared.options.connections_max).then_some(counted)
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

/// A thread that serves connections.
struct Worker {
    connections: mpsc::Sender<(std::net::TcpStream, Counted)>,
    thread: std::thread::JoinHandle<()>,
}

impl Worker {
    fn start(index: usize, shared: Arc<Shared>, stop: Stop) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(LARGE_READS_MAX + SCANS_MAX)
            .build()?;
        let (connections, receiver) = mpsc::channel(HANDOVER_MAX);
        let thread = std::thread::Builder::new()
            .name(format!("etcd-{index}"))
            .spawn(move || runtime.block_on(work(receiver, shared, stop)))?;
        Ok(Self { connections, thread })
    }

    async fn join(self) {
        drop(self.connections);
        let thread = self.thread;
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::error!("an etcd worker thread panicked");
        }
    }
}

/// A worker's life: takes connections until `stop`, then waits for them to drain.
async fn work(
    mut connections: mpsc::Receiver<(std::net::TcpStream, Counted)>,
    shared: Arc<Shared>,
    stop: Stop,
) {
    let tasks = TaskGroup::new(&stop);
    loop {
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            next = connections.recv() => next,
        };
        let Some((socket, counted)) = next else {
            break;
        };
        match TcpStream::from_std(socket) {
            Ok(socket) => {
                let connection = connection::serve(shared.clone(), socket, tasks.stop().clone());
                tasks.spawn(async move {
                    connection.await;
                    drop(counted);
                });
            }
            Err(error) => tracing::warn!(%error, "register etcd client's socket"),
        }
    }
    let left = tasks.shutdown(shared.options.drain_timeout).await;
    if left > 0 {
        tracing::warn!(connections = left, "etcd clients closed before they drained");
    }
}
