//! The work queue: keys to work on, each in one worker's hands at a time.
//!
//! [`core`] decides, this shell adds the lock, the clock and the waking. Not here: what a key means, and
//! how many workers there are ([`crate::controller`]).

pub mod core;
pub mod limiter;

use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::core::{Core, Pop};
pub use self::limiter::{Bucket, Limiter, LimiterOptions};
use crate::metrics::QueueMetrics;

/// A deduplicating queue with delays and backoff. Clones are handles to the same queue.
///
/// ```
/// # tokio_test_block_on(async {
/// use setpoint_runtime::workqueue::WorkQueue;
///
/// let queue = WorkQueue::new("sites", Default::default(), &Default::default());
/// queue.add("a");
/// queue.add("a");
/// assert_eq!(queue.get().await, Some("a"));
/// queue.done(&"a");
/// queue.shut_down();
/// assert_eq!(queue.get().await, None);
/// # });
/// # fn tokio_test_block_on(task: impl Future<Output = ()>) {
/// #     tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(task)
/// # }
/// ```
#[derive(Debug)]
pub struct WorkQueue<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

#[derive(Debug)]
struct Shared<K> {
    core: Mutex<Core<K>>,
    /// One permit per chance that a key is ready.
    ready: Notify,
    /// Tells a drain that a worker finished.
    finished: Notify,
    metrics: QueueMetrics,
}

impl<K: Clone + Eq + Hash> WorkQueue<K> {
    /// An open queue; `name` is the label of its metrics.
    #[must_use]
    pub fn new(name: &str, limits: LimiterOptions, metrics: &crate::metrics::RuntimeMetrics) -> Self {
        Self {
            shared: Arc::new(Shared {
                core: Mutex::new(Core::new(Limiter::new(limits))),
                ready: Notify::new(),
                finished: Notify::new(),
                metrics: metrics.queue(name),
            }),
        }
    }

    /// Marks a key as needing work; nothing happens when it is already waiting for a worker.
    pub fn add(&self, key: K) {
        let mut core = self.shared.core.lock();
        if core.add(key, Instant::now()) {
            self.shared.metrics.added(core.len());
            drop(core);
            self.shared.ready.notify_one();
        }
    }

    /// Adds the key after `delay`; of two delays of one key the earlier counts.
    pub fn add_after(&self, key: K, delay: Duration) {
        self.shared.metrics.retried();
        self.shared.core.lock().add_after(key, delay, Instant::now());
        self.shared.ready.notify_one();
    }

    /// Adds the key after its backoff and returns the wait.
    pub fn add_rate_limited(&self, key: K) -> Duration {
        self.shared.metrics.retried();
        let wait = self.shared.core.lock().add_rate_limited(key, Instant::now());
        self.shared.ready.notify_one();
        wait
    }

    /// A success: the key's backoff starts anew.
    pub fn forget(&self, key: &K) {
        self.shared.core.lock().forget(key);
    }

    /// Failures of the key since it was last forgotten.
    #[must_use]
    pub fn requeues(&self, key: &K) -> u32 {
        self.shared.core.lock().requeues(key)
    }

    /// Waits for a key; `None` when the queue is shut down and empty. Safe to drop while waiting.
    pub async fn get(&self) -> Option<K> {
        loop {
            let next = match self.try_get() {
                Pop::Ready { key, .. } => return Some(key),
                Pop::Closed => return None,
                Pop::Empty { next } => next,
            };
            match next {
                None => self.shared.ready.notified().await,
                Some(due) => {
                    let _ = tokio::time::timeout_at(due, self.shared.ready.notified()).await;
                }
            }
        }
    }

    /// The worker is finished with the key.
    pub fn done(&self, key: &K) {
        let mut core = self.shared.core.lock();
        if let Some(took) = core.done(key, Instant::now()) {
            self.shared.metrics.done(took, core.len());
        }
        let ready = !core.is_empty();
        drop(core);
        self.shared.finished.notify_waiters();
        if ready {
            self.shared.ready.notify_one();
        }
    }

    /// Keys ready for a worker.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.core.lock().len()
    }

    /// Whether no key is ready.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Refuses adds, drops delayed keys, hands out what is queued, then ends every [`WorkQueue::get`].
    pub fn shut_down(&self) {
        self.shared.core.lock().shut_down();
        self.shared.ready.notify_waiters();
        self.shared.ready.notify_one();
        self.shared.finished.notify_waiters();
    }

    /// As [`WorkQueue::shut_down`], and waits until every key handed out is done, or until somebody
    /// calls `shut_down`. The caller bounds the wait.
    pub async fn shut_down_with_drain(&self) {
        self.shared.core.lock().begin_drain();
        self.shared.ready.notify_waiters();
        self.shared.ready.notify_one();
        loop {
            let finished = self.shared.finished.notified();
            tokio::pin!(finished);
            finished.as_mut().enable();
            if self.shared.core.lock().drained() {
                return;
            }
            finished.await;
        }
    }

    /// Updates the metrics that change while nothing happens (`unfinished_work_seconds` and
    /// `longest_running_processor_seconds`). Upstream does so every 500 ms.
    pub fn observe(&self) {
        let (sum, longest) = self.shared.core.lock().unfinished(Instant::now());
        self.shared.metrics.unfinished(sum, longest);
    }

    fn try_get(&self) -> Pop<K> {
        let mut core = self.shared.core.lock();
        let pop = core.pop(Instant::now());
        match &pop {
            Pop::Ready { waited, .. } => self.shared.metrics.got(*waited, core.len()),
            // The next worker in line learns of the end the same way.
            Pop::Closed => self.shared.ready.notify_one(),
            Pop::Empty { .. } => (),
        }
        // A permit may have stood for several keys: pass it on.
        if !core.is_empty() {
            self.shared.ready.notify_one();
        }
        pop
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::RuntimeMetrics;
    use setpoint_base::{Stop, TaskGroup};

    fn queue() -> WorkQueue<u32> {
        let limits = LimiterOptions {
            bucket: None,
            ..LimiterOptions::default()
        };
        WorkQueue::new("test", limits, &RuntimeMetrics::default())
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_worker_is_woken_by_an_add_and_by_time() {
        let queue = queue();
        queue.add_after(1, Duration::from_secs(60));
        let began = Instant::now();
        let tasks = TaskGroup::new(&Stop::new());
        let adder = queue.clone();
        tasks.spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            adder.add(2);
        });
        assert_eq!(queue.get().await, Some(2));
        assert_eq!(began.elapsed(), Duration::from_secs(1));
        assert_eq!(queue.get().await, Some(1));
        assert!(began.elapsed() >= Duration::from_secs(60));
    }

    #[tokio::test(start_paused = true)]
    async fn every_key_reaches_exactly_one_of_many_workers() {
        let queue = queue();
        let tasks = TaskGroup::new(&Stop::new());
        let workers: Vec<_> = (0..8)
            .map(|_| {
                let queue = queue.clone();
                tasks.spawn(async move {
                    let mut got = Vec::new();
                    while let Some(key) = queue.get().await {
                        tokio::task::yield_now().await;
                        got.push(key);
                        queue.done(&key);
                    }
                    got
                })
            })
            .collect();
        for key in 0..1000 {
            queue.add(key);
            if key % 97 == 0 {
                tokio::task::yield_now().await;
            }
        }
        queue.shut_down_with_drain().await;
        let mut all = Vec::new();
        for worker in workers {
            all.extend(worker.await.unwrap());
        }
        all.sort_unstable();
        assert_eq!(all, (0..1000).collect::<Vec<_>>());
    }

    // TestMetrics (util/workqueue/metrics_test.go)
    #[tokio::test(start_paused = true)]
    async fn metrics_carry_upstream_names() {
        let metrics = RuntimeMetrics::default();
        let queue = WorkQueue::new("sites", LimiterOptions::default(), &metrics);
        queue.add(1);
        queue.add(2);
        queue.get().await;
        queue.observe();
        queue.done(&1);
        let registry = setpoint_telemetry::Metrics::new();
        metrics.register(&registry).unwrap();
        let text = registry.encode();
        for line in [
            "workqueue_depth{name=\"sites\"} 1",
            "workqueue_adds_total{name=\"sites\"} 2",
            "workqueue_queue_duration_seconds_count{name=\"sites\"} 1",
            "workqueue_work_duration_seconds_count{name=\"sites\"} 1",
            "workqueue_unfinished_work_seconds{name=\"sites\"} 0",
            "workqueue_longest_running_processor_seconds{name=\"sites\"} 0",
        ] {
            assert!(text.contains(line), "{line} missing in\n{text}");
        }
    }
}
