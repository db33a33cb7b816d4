//! The workers: one object at a time each, with a deadline, a span and a net under it.

use std::any::Any;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;
use setpoint_base::{Chain, Stop, TaskGroup};
use tokio::time::Instant;
use tracing::Instrument;

use super::causes::{Cause, Causes};
use super::context::{Context, Shared};
use super::outcome::{Outcome, ReconcileError, Reconciler};
use crate::key::Request;
use crate::metrics::ControllerMetrics;
use crate::trace;
use crate::workqueue::WorkQueue;

/// How often the metrics of running work are renewed (upstream's period).
const OBSERVE_EVERY: Duration = Duration::from_millis(500);

/// How the workers work.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) workers: usize,
    pub(super) timeout: Duration,
    pub(super) grace: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            workers: 1,
            timeout: Duration::from_secs(60),
            grace: Duration::from_secs(30),
        }
    }
}

/// The workers of one controller.
pub(super) struct Pool {
    shared: Arc<Shared>,
    queue: WorkQueue<Request>,
    causes: Arc<Causes>,
    settings: Settings,
    metrics: ControllerMetrics,
    /// What the objects that are being retried failed with last. Holds failing objects only.
    history: Mutex<HashMap<Request, Arc<str>>>,
    next_id: AtomicU64,
}

/// How a reconcile ended.
enum End {
    Ok(Outcome),
    Failed(ReconcileError),
    Panicked(String),
    TimedOut,
}

impl Pool {
    pub(super) fn new(
        shared: Arc<Shared>,
        queue: WorkQueue<Request>,
        causes: Arc<Causes>,
        settings: Settings,
        metrics: ControllerMetrics,
    ) -> Arc<Self> {
        Arc::new(Self {
            shared,
            queue,
            causes,
            settings,
            metrics,
            history: Mutex::default(),
            next_id: AtomicU64::new(1),
        })
    }

    /// Works until `stop`, then finishes what has begun, within the grace.
    pub(super) async fn run(self: Arc<Self>, reconciler: impl Reconciler, stop: Stop) {
        let reconciler = Arc::new(reconciler);
        let tasks = TaskGroup::new(&stop);
        let _guard = tasks.stop().clone().drop_guard();
        let workers = i64::try_from(self.settings.workers).unwrap_or(i64::MAX);
        self.metrics.workers_max.set(workers);
        for _ in 0..self.settings.workers {
            let (pool, reconciler, stop) = (Arc::clone(&self), Arc::clone(&reconciler), tasks.stop().clone());
            tasks.spawn(async move { pool.work(&*reconciler, &stop).await });
        }
        let (pool, ticks) = (Arc::clone(&self), tasks.stop().clone());
        tasks.spawn(async move { ticks.run_until_cancelled(pool.observe()).await });
        stop.cancelled().await;
        self.queue.shut_down();
        let left = tasks.shutdown(self.settings.grace).await;
        if left > 0 {
            tracing::warn!(
                controller = self.shared.name,
                left,
                "reconciles did not end within the grace"
            );
        }
    }

    async fn observe(&self) {
        loop {
            self.queue.observe();
            tokio::time::sleep(OBSERVE_EVERY).await;
        }
    }

    async fn work(&self, reconciler: &impl Reconciler, stop: &Stop) {
        while let Some(Some(request)) = stop.run_until_cancelled(self.queue.get()).await {
            self.metrics.workers_active.inc();
            self.one(reconciler, &request).await;
            self.metrics.workers_active.dec();
            self.queue.done(&request);
            if stop.is_cancelled() {
                return;
            }
        }
    }

    async fn one(&self, reconciler: &impl Reconciler, request: &Request) {
        let cause = self.causes.take(request);
        let attempt = self.queue.requeues(request) + 1;
        let reconcile_id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let span = tracing::info_span!(
            "reconcile",
            controller = self.shared.name,
            object = %request,
            reconcile_id,
            attempt,
        );
        let trace = setpoint_telemetry::trace::open(&span, cause.as_ref().map(|cause| &cause.last));
        for earlier in cause.iter().flat_map(|cause| &cause.earlier) {
            setpoint_telemetry::trace::link(&span, earlier);
        }
        let context = Context {
            shared: Arc::clone(&self.shared),
            request: request.clone(),
            trace,
            attempt,
            reconcile_id,
            last_error: self.history.lock().get(request).cloned(),
        };
        let began = Instant::now();
        let run = async {
            let end = self.guarded(reconciler, request, context).await;
            self.metrics.seconds.observe(began.elapsed().as_secs_f64());
            self.settle(request, end, cause, attempt);
        };
        trace::scope(trace, run).instrument(span).await;
    }

    async fn guarded(&self, reconciler: &impl Reconciler, request: &Request, context: Context) -> End {
        let reconcile =
            AssertUnwindSafe(async { reconciler.reconcile(request.clone(), context).await }).catch_unwind();
        match tokio::time::timeout(self.settings.timeout, Box::pin(reconcile)).await {
            Ok(Ok(Ok(outcome))) => End::Ok(outcome),
            Ok(Ok(Err(error))) => End::Failed(error),
            Ok(Err(panic)) => End::Panicked(panic_text(&*panic)),
            Err(_) => End::TimedOut,
        }
    }

    /// Counts, logs and queues again, as the end demands.
    fn settle(&self, request: &Request, end: End, cause: Option<Cause>, attempt: u32) {
        match end {
            End::Ok(Outcome::Done) => {
                self.metrics.success.inc();
                self.succeeded(request);
            }
            End::Ok(Outcome::RequeueAfter(delay)) => {
                self.metrics.requeue_after.inc();
                self.succeeded(request);
                self.queue.add_after(request.clone(), delay);
            }
            End::Failed(error) if error.is_terminal() => {
                self.metrics.terminal.inc();
                self.metrics.error.inc();
                self.metrics.errors.inc();
                self.succeeded(request);
                tracing::error!(error = %Chain(error.source()), attempt, "reconcile failed for good");
            }
            End::Failed(error) => self.retry(request, &Chain(error.source()).to_string(), cause, attempt),
            End::Panicked(text) => {
                self.metrics.panics.inc();
                self.retry(request, &format!("panic: {text}"), cause, attempt);
            }
            End::TimedOut => {
                self.metrics.timeouts.inc();
                let text = format!("not finished within {:?}", self.settings.timeout);
                self.retry(request, &text, cause, attempt);
            }
        }
    }

    fn succeeded(&self, request: &Request) {
        self.queue.forget(request);
        self.history.lock().remove(request);
    }

    fn retry(&self, request: &Request, error: &str, cause: Option<Cause>, attempt: u32) {
        self.metrics.error.inc();
        self.metrics.errors.inc();
        self.history.lock().insert(request.clone(), error.into());
        self.causes.put_back(request, cause);
        let next_try = self.queue.add_rate_limited(request.clone());
        tracing::warn!(error, attempt, ?next_try, "reconcile failed");
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}
