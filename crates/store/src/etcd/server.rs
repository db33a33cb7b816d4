//! Listener, worker threads and drain.
//!
//! One task accepts and deals connections to the workers in turn; each worker is a thread with a runtime of its
//! own, so that a connection's calls, frames and buffers never change cores. Dealing in turn keeps few connections
//! balanced, which `SO_REUSEPORT` does not.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use setpoint_base::{Stop, TaskGroup};
use setpoint_telemetry::DuplicateMetric;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};

use setpoint_proto::etcdserverpb::ResponseHeader;
use tonic::Status;

use super::auth::Auth;
use super::connection;
use super::convert::touches;
use super::few::{Few, Hold};
use super::gateway::websocket::OPEN_MAX;
use super::listen::{Incoming, Listener, Serves, accept};
use super::metrics::FrontMetrics;
use super::options::FrontOptions;
use super::room::{self, Held, Room, Share, Turn};
use super::tls::Acceptor;
use super::waits::Waits;
use super::wire::RAFT_TERM;
use super::{readings, status};
use crate::Store;
use crate::types::{KeyRange, Revision};

/// Workers answer many in little time: they need not wait for threads that read wide ranges or compact.
const TURN: Duration = Duration::from_millis(1);
/// Connections that may wait for a busy worker; the acceptor waits when there are more.
const HANDOVER_MAX: usize = 64;
/// Reads of many keys that run at a time, off the worker threads.
const LARGE_READS_MAX: usize = 4;
/// Readings of the whole log (snapshots, hashes) that run at a time, off the worker threads.
const SCANS_MAX: usize = 2;
/// Connections of listeners that serve nothing but metrics and health.
const OBSERVERS_MAX: usize = 64;
/// Answers up to this size are counted only when they have to wait.
pub(super) const ROOM_FREE: usize = 64 << 10;
/// Answers up to this size are never counted: as many may wait as there are open calls.
pub(super) const SMALL_BYTES: usize = 2 << 10;

/// etcd's API in front of a store.
pub struct Front(Shared);

/// What every connection and call knows.
pub(super) struct Shared {
    pub(super) store: Store,
    pub(super) options: FrontOptions,
    pub(super) auth: Auth,
    pub(super) metrics: FrontMetrics,
    pub(super) cluster_id: u64,
    pub(super) member_id: u64,
    pub(super) client_urls: Vec<String>,
    /// Who may run a read of many keys now.
    pub(super) large_reads: Arc<Semaphore>,
    /// Who may read the whole log now.
    pub(super) scans: Arc<Semaphore>,
    /// Room for large answers.
    pub(super) room: Room,
    /// The same for answers of few keys, so that wide ones do not crowd them out.
    few: Few,
    connections: AtomicUsize,
    /// Those of listeners for metrics alone.
    observers: AtomicUsize,
    /// Who may have a WebSocket.
    pub(super) websockets: Arc<Semaphore>,
    /// Who waits for locks and leadership.
    pub(super) waits: Waits,
    /// Meets clients of secure listeners.
    pub(super) tls: Option<Arc<Acceptor>>,
}

impl Shared {
    /// Waits until there is room for an answer of `bytes`, first of the share of its connection; a small one needs none.
    pub(super) async fn room_of(&self, share: &Share, bytes: usize) -> Held {
        let Some(units) = self.room_units(bytes) else {
            return (None, None);
        };
        let without = self.room.is_without(share);
        let of_share = self.room.take_of(share, units).await;
        (of_share, self.room.take(units, without).await)
    }

    /// The same for an answer that was made in its turn.
    pub(super) async fn room_in_turn(&self, turn: Turn, share: &Share, bytes: usize) -> Held {
        match self.room_units(bytes) {
            Some(units) => self.room.take_in_turn(turn, share, units).await,
            None => (None, None),
        }
    }

    /// Room for an answer of few keys that waits for its client, if it is not very small; `None` when there is none.
    pub(super) fn room_to_wait(&self, share: &Share, bytes: usize) -> Option<Hold> {
        if bytes <= SMALL_BYTES {
            return Some(Hold::Nothing);
        }
        self.few.take(share, bytes).map(Hold::Few)
    }

    fn room_units(&self, bytes: usize) -> Option<u32> {
        let units = bytes.min(self.options.outbound_bytes_max / 2) / room::UNIT;
        u32::try_from(units).ok().filter(|_| bytes > ROOM_FREE)
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

/// Counts a connection while it lives.
pub(super) struct Counted {
    shared: Arc<Shared>,
    observes: bool,
}

impl Counted {
    /// `None` when there are too many. Who comes to look has room of his own: it is when clients are too many that somebody looks.
    pub(super) fn new(shared: &Arc<Shared>, serves: Serves) -> Option<Self> {
        let counted = Self {
            shared: shared.clone(),
            observes: serves == Serves::Metrics,
        };
        let most = Self::most(shared, serves);
        let before = counted.count().fetch_add(1, Ordering::Relaxed);
        shared.metrics.connections.inc();
        (before < most).then_some(counted)
    }

    /// How many connections listeners of this kind may have.
    pub(super) fn most(shared: &Shared, serves: Serves) -> usize {
        if serves == Serves::Metrics {
            OBSERVERS_MAX
        } else {
            shared.options.connections_max
        }
    }

    fn count(&self) -> &AtomicUsize {
        if self.observes {
            &self.shared.observers
        } else {
            &self.shared.connections
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.count().fetch_sub(1, Ordering::Relaxed);
        self.shared.metrics.connections.dec();
    }
}

impl Front {
    /// A front of `store` that serves nothing yet.
    #[must_use]
    pub fn new(store: Store, options: FrontOptions) -> Self {
        let status = store.status();
        Self(Shared {
            auth: Auth::new(store.clone(), &options.auth),
            store,
            metrics: FrontMetrics::new(options.call_times),
            cluster_id: status.cluster_id,
            member_id: status.member_id,
            client_urls: options.client_urls.clone(),
            large_reads: Arc::new(Semaphore::new(LARGE_READS_MAX)),
            scans: Arc::new(Semaphore::new(SCANS_MAX)),
            room: Room::new(options.outbound_bytes_max / 2),
            few: Few::new(options.outbound_bytes_max / 2),
            connections: AtomicUsize::new(0),
            observers: AtomicUsize::new(0),
            websockets: Arc::new(Semaphore::new(OPEN_MAX)),
            waits: Waits::new(options.waits_max),
            tls: None,
            options,
        })
    }

    /// Serves `listener` until `stop`; then calls in progress are answered, streams end with UNAVAILABLE, and
    /// what is still open after [`FrontOptions::drain_timeout`] is closed.
    ///
    /// # Errors
    /// When a worker thread cannot be started, a metric's name is taken, or TLS cannot be set up.
    pub async fn serve(self, listener: TcpListener, stop: Stop) -> io::Result<()> {
        self.serve_all(vec![Listener::tcp(listener)], stop).await
    }

    /// As [`Front::serve`], on several listeners.
    ///
    /// # Errors
    /// The same.
    pub async fn serve_all(self, listeners: Vec<Listener>, stop: Stop) -> io::Result<()> {
        let mut shared = self.0;
        if let Some(metrics) = &shared.options.metrics {
            let register = |error: DuplicateMetric| io::Error::new(io::ErrorKind::AlreadyExists, error);
            shared.metrics.register(metrics).map_err(register)?;
            readings::register(&shared.store, metrics).map_err(register)?;
            shared.store.register_metrics(metrics).map_err(register)?;
        }
        if let Some(options) = shared.options.tls.clone() {
            shared.tls = Some(Arc::new(Acceptor::new(options).map_err(io::Error::other)?));
        }
        if shared.client_urls.is_empty() {
            let tls = shared.tls.is_some();
            let urls = listeners.iter().map(|listener| listener.url(tls));
            shared.client_urls = urls.collect::<io::Result<_>>()?;
        }
        let shared = Arc::new(shared);
        let mut workers = Vec::new();
        for index in 0..shared.options.workers.max(1) {
            workers.push(Worker::start(index, shared.clone(), stop.clone())?);
        }
        let over = Stop::new();
        let serve = async {
            join_all(
                listeners
                    .iter()
                    .map(|listener| accept(listener, &shared, &workers, &stop)),
            )
            .await;
            drop(listeners);
            for worker in workers {
                worker.join().await;
            }
            over.cancel();
        };
        let follow = async {
            if let Some(tls) = &shared.tls {
                tls.clone().follow_files(&stop).await;
            }
        };
        tokio::join!(serve, follow, shared.waits.sweep(&shared.store, &over));
        Ok(())
    }
}

/// A thread that serves connections.
pub(super) struct Worker {
    connections: mpsc::Sender<Incoming>,
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
            .spawn(move || {
                setpoint_base::prefer_turns_of(TURN);
                runtime.block_on(work(receiver, shared, stop));
            })?;
        Ok(Self { connections, thread })
    }

    /// Hands a client over, waiting while too many wait.
    pub(super) async fn take(&self, incoming: Incoming) {
        // Refused only after the worker's end, which is the front's.
        let _ = self.connections.send(incoming).await;
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
async fn work(mut connections: mpsc::Receiver<Incoming>, shared: Arc<Shared>, stop: Stop) {
    let tasks = TaskGroup::new(&stop);
    loop {
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            next = connections.recv() => next,
        };
        let Some(incoming) = next else {
            break;
        };
        tasks.spawn(connection::serve(shared.clone(), incoming, tasks.stop().clone()));
    }
    let left = tasks.shutdown(shared.options.drain_timeout).await;
    if left > 0 {
        tracing::warn!(connections = left, "etcd clients closed before they drained");
    }
}
