//! A shared informer: one reflector, one store, any number of handlers.
//!
//! ```text
//! server ─► reflector ─► delta queue ─► store + indexes ─► event ring ─► handler, handler, …
//! ```
//!
//! Each object's states reach the store and every handler in order; states in between may be skipped. There
//! is no order across objects. A handler is called after the store shows what it is told, one call at a
//! time, and cannot hold up or stop another one.

mod builder;
mod handler;
pub mod ring;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use setpoint_apimachinery::Encoded;
use setpoint_base::{Stop, TaskGroup};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

pub use self::builder::Builder;
pub use self::handler::{HandlerHandle, Subscription};
use self::ring::Ring;
use crate::client::{Client, Resource};
use crate::indexer::Indexer;
use crate::metrics::InformerMetrics;
use crate::queue::{Delta, DeltaQueue};
use crate::reflector::Reflector;

/// The store of an informer: read it, it is written by the informer alone.
pub type Store = Arc<Indexer<Encoded>>;

/// What a handler is told.
pub type Event = ring::Notice<Encoded>;

/// The informer has stopped, or was never to be started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the informer has stopped: build a new one")]
pub struct Stopped;

/// How long handlers may take to finish after the informer was stopped.
const HANDLER_GRACE: Duration = Duration::from_secs(10);
/// No handler is told everything again more often than this (client-go's minimum).
const RESYNC_MIN: Duration = Duration::from_secs(1);

/// A handle to an informer. Clones share it.
#[derive(Clone)]
pub struct SharedInformer {
    shared: Arc<Shared>,
}

struct Shared {
    resource: Resource,
    store: Store,
    queue: Arc<DeltaQueue<Encoded>>,
    ring: Mutex<Ring<Encoded>>,
    /// Something for the handlers: a record, the end, a new resync.
    changed: Notify,
    synced: watch::Sender<bool>,
    stopped: AtomicBool,
    /// Taken by the run; an informer runs once.
    reflector: Mutex<Option<Reflector>>,
    handlers: TaskGroup,
    metrics: InformerMetrics,
}

impl SharedInformer {
    /// Prepares an informer of all objects of `resource`; see [`Builder`] for what can be narrowed.
    pub fn builder(client: &Client, resource: &Resource) -> Builder {
        Builder::new(client, resource)
    }

    /// What it is about.
    #[must_use]
    pub fn resource(&self) -> &Resource {
        &self.shared.resource
    }

    /// Its store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// Runs until `stop`: reflector, store and handlers. Handlers are told what is in the ring, then end.
    ///
    /// # Errors
    /// [`Stopped`] when it was run before.
    pub async fn run(&self, stop: Stop) -> Result<(), Stopped> {
        let reflector = self.shared.reflector.lock().take().ok_or(Stopped)?;
        let tasks = TaskGroup::new(&stop);
        // Dropping this future must not leave them running.
        let _guard = tasks.stop().clone().drop_guard();
        tasks.spawn(reflector.run(tasks.stop().clone()));
        tasks.spawn(Arc::clone(&self.shared).resync(tasks.stop().clone()));
        let end = tasks.stop().clone();
        end.run_until_cancelled(self.shared.process()).await;
        tasks.shutdown(HANDLER_GRACE).await;
        self.shared.stopped.store(true, Ordering::Release);
        self.shared.changed.notify_waiters();
        let left = self.shared.handlers.shutdown(HANDLER_GRACE).await;
        if left > 0 {
            tracing::warn!(resource = %self.shared.resource, left, "handlers did not end in time");
        }
        Ok(())
    }

    /// Whether the store has everything that was there at first.
    #[must_use]
    pub fn has_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }

    /// Waits until [`SharedInformer::has_synced`]. The caller bounds the wait.
    pub async fn synced(&self) {
        let mut synced = self.shared.synced.subscribe();
        // The sender lives as long as `self`.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// Calls `handler` for every object that is there and every change, on a task of its own. It must not
    /// block: hand the key to a work queue. A panic costs this handler one event and a second's pause.
    ///
    /// Call it within a tokio runtime.
    ///
    /// # Errors
    /// [`Stopped`] when the informer has ended.
    pub fn add_handler(
        &self,
        handler: impl FnMut(&Event) + Send + 'static,
    ) -> Result<HandlerHandle, Stopped> {
        self.add_handler_with_resync(handler, None)
    }

    /// As [`SharedInformer::add_handler`]; every `resync` (at least 1 s) the handler is told of every object
    /// again, as an update from a state to itself.
    ///
    /// # Errors
    /// [`Stopped`] when the informer has ended.
    pub fn add_handler_with_resync(
        &self,
        handler: impl FnMut(&Event) + Send + 'static,
        resync: Option<Duration>,
    ) -> Result<HandlerHandle, Stopped> {
        let subscription = self.subscribe_with_resync(resync)?;
        Ok(handler::start(
            subscription,
            Box::new(handler),
            &self.shared.handlers,
        ))
    }

    /// A stream of the same events, to be read at the reader's pace.
    ///
    /// # Errors
    /// [`Stopped`] when the informer has ended.
    pub fn subscribe(&self) -> Result<Subscription, Stopped> {
        self.subscribe_with_resync(None)
    }

    fn subscribe_with_resync(&self, resync: Option<Duration>) -> Result<Subscription, Stopped> {
        if self.shared.stopped.load(Ordering::Acquire) {
            return Err(Stopped);
        }
        let resync = resync.map(|period| period.max(RESYNC_MIN));
        // Under the ring's lock nothing is applied to the store: snapshot and cursor belong together.
        let mut ring = self.shared.ring.lock();
        let id = ring.subscribe(self.shared.store.entries(), resync, Instant::now());
        drop(ring);
        self.shared.changed.notify_waiters();
        Ok(Subscription::new(Arc::clone(&self.shared), id))
    }
}

impl std::fmt::Debug for SharedInformer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedInformer")
            .field("resource", &self.shared.resource)
            .field("store", &self.shared.store)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Moves deltas into the store and tells the ring, batch by batch. Dropping it between batches is safe.
    async fn process(&self) {
        loop {
            let batch = self.queue.pop().await;
            self.apply(batch);
            self.changed.notify_waiters();
            // A long backlog must not keep the handlers of this thread waiting.
            tokio::task::yield_now().await;
        }
    }

    fn apply(&self, batch: Vec<Delta<Encoded>>) {
        let first = !*self.synced.borrow();
        let mut ring = self.ring.lock();
        if matches!(batch[..], [Delta::SyncAll]) {
            ring.resync(&self.store.entries(), Instant::now());
        } else {
            let notices = self.store.apply(batch, first);
            let behind = ring.publish(notices);
            if !first {
                self.metrics.lags.inc_by(behind as u64);
            }
        }
        if self.queue.processed() && first {
            ring.mark_synced();
            drop(ring);
            self.synced.send_replace(true);
        }
    }

    /// Queues a resync whenever one is due for some handler.
    async fn resync(self: Arc<Self>, stop: Stop) {
        loop {
            let changed = self.changed.notified();
            let next = self.ring.lock().next_resync();
            let due = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next).await,
                    None => changed.await,
                }
            };
            if stop.run_until_cancelled(due).await.is_none() {
                return;
            }
            if next.is_some() {
                self.queue.push(Delta::SyncAll).await;
                // The ring moves the time of the next one when it has seen this one.
                tokio::time::sleep(RESYNC_MIN).await;
            }
        }
    }
}
