//! How events reach a handler: pulled through a cursor, so that nobody is pushed faster than they go.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use setpoint_apimachinery::Encoded;
use setpoint_base::{Stop, TaskGroup};
use tokio::sync::watch;

use super::ring::{CursorId, Record};
use super::{Event, Shared};
use crate::key::ObjectKey;

/// Records taken under one lock.
const BATCH: usize = 256;
/// Rest after a panic, so that one that repeats does not spin (client-go `HandleCrash` waits as long).
const PANIC_PAUSE: Duration = Duration::from_secs(1);

/// A reader of an informer's events. Dropping it ends it.
pub struct Subscription {
    shared: Arc<Shared>,
    id: CursorId,
    taken: VecDeque<Record<Encoded>>,
    synced: watch::Sender<bool>,
}

impl Subscription {
    pub(super) fn new(shared: Arc<Shared>, id: CursorId) -> Self {
        Self {
            shared,
            id,
            taken: VecDeque::new(),
            synced: watch::Sender::new(false),
        }
    }

    /// The next event; `None` when the informer has stopped and everything was read. Asking for the next
    /// says that the last one is handled. Safe to drop while it waits.
    pub async fn next(&mut self) -> Option<(ObjectKey, Event)> {
        let record = self.record().await?;
        Some(Arc::try_unwrap(record).unwrap_or_else(|shared| (*shared).clone()))
    }

    /// Whether everything that was there at first has been handled.
    #[must_use]
    pub fn has_synced(&self) -> bool {
        *self.synced.borrow()
    }

    async fn record(&mut self) -> Option<Record<Encoded>> {
        loop {
            if let Some(record) = self.taken.pop_front() {
                return Some(record);
            }
            let shared = Arc::clone(&self.shared);
            let changed = shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let stopped = shared.stopped.load(Ordering::Acquire);
            if self.take() && !self.has_synced() {
                self.synced.send_replace(true);
            }
            if self.taken.is_empty() {
                if stopped {
                    return None;
                }
                changed.await;
            }
        }
    }

    /// Takes what there is; says whether the first population is handled.
    fn take(&mut self) -> bool {
        let mut ring = self.shared.ring.lock();
        self.taken.extend(ring.take(self.id, BATCH));
        ring.has_synced(self.id)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.shared.ring.lock().unsubscribe(self.id);
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription")
            .field("resource", &self.shared.resource)
            .finish_non_exhaustive()
    }
}

/// A registered handler. Dropping the handle leaves the handler in place.
#[derive(Clone, Debug)]
pub struct HandlerHandle {
    stop: Stop,
    synced: watch::Receiver<bool>,
}

impl HandlerHandle {
    /// Removes the handler: a call under way ends, no other follows. Twice is harmless.
    pub fn remove(&self) {
        self.stop.cancel();
    }

    /// Whether the handler has been told everything that was there at first, and has returned from it.
    #[must_use]
    pub fn has_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Waits until [`HandlerHandle::has_synced`]; false when the handler ended before. The caller bounds it.
    pub async fn synced(&self) -> bool {
        self.synced.clone().wait_for(|synced| *synced).await.is_ok()
    }
}

pub(super) fn start(
    subscription: Subscription,
    handler: Box<dyn FnMut(&Event) + Send>,
    tasks: &TaskGroup,
) -> HandlerHandle {
    let handle = HandlerHandle {
        stop: Stop::new(),
        synced: subscription.synced.subscribe(),
    };
    tasks.spawn(drive(subscription, handler, handle.stop.clone()));
    handle
}

async fn drive(mut subscription: Subscription, mut handler: Box<dyn FnMut(&Event) + Send>, stop: Stop) {
    while let Some(Some(record)) = stop.run_until_cancelled(subscription.record()).await {
        if catch_unwind(AssertUnwindSafe(|| handler(&record.1))).is_err() {
            let shared = &subscription.shared;
            shared.metrics.panics.inc();
            tracing::error!(resource = %shared.resource, object = %record.0, "an event handler panicked");
            stop.run_until_cancelled(tokio::time::sleep(PANIC_PAUSE)).await;
        }
        // Records that are at hand make no await wait: leave the thread to others now and then.
        tokio::task::coop::consume_budget().await;
    }
}
