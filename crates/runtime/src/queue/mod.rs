//! What lies between the task that reads the watch and the task that writes the store.

pub mod delta;

use parking_lot::Mutex;
use tokio::sync::Notify;

pub use self::delta::{Change, Delta, DeltaLimits, Payload, RealFifo};

/// A [`RealFifo`] between one producer and one consumer.
#[derive(Debug)]
pub struct DeltaQueue<O> {
    fifo: Mutex<RealFifo<O>>,
    filled: Notify,
    drained: Notify,
}

impl<O: Payload> DeltaQueue<O> {
    /// An empty queue.
    #[must_use]
    pub fn new(limits: DeltaLimits) -> Self {
        Self {
            fifo: Mutex::new(RealFifo::new(limits)),
            filled: Notify::new(),
            drained: Notify::new(),
        }
    }

    /// Appends a delta; while the queue is full this waits, and the producer with it does not read its
    /// watch. Dropping the future while it waits loses the delta.
    pub async fn push(&self, mut delta: Delta<O>) {
        loop {
            let refused = self.fifo.lock().push(delta);
            match refused {
                Ok(()) => {
                    self.filled.notify_one();
                    return;
                }
                Err(back) => delta = back,
            }
            self.drained.notified().await;
        }
    }

    /// The next batch, never empty. Safe to drop while it waits.
    pub async fn pop(&self) -> Vec<Delta<O>> {
        loop {
            let batch = self.fifo.lock().pop_batch();
            if !batch.is_empty() {
                self.drained.notify_one();
                return batch;
            }
            self.filled.notified().await;
        }
    }

    /// The batch popped last is processed. Returns whether the first population is complete.
    pub fn processed(&self) -> bool {
        let mut fifo = self.fifo.lock();
        fifo.processed();
        fifo.has_synced()
    }

    /// Deltas held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fifo.lock().len()
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
