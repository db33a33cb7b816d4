//! Every metric of this crate, under the names dashboards already know.
//!
//! Sources of the names: client-go `util/workqueue/metrics.go`, `tools/cache/reflector_metrics.go`,
//! controller-runtime `internal/controller/metrics`.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use setpoint_telemetry::{DuplicateMetric, Metrics};

/// The queue, informer or recorder a value belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Name {
    name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ControllerLabel {
    controller: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReconcileLabel {
    controller: String,
    result: &'static str,
}

#[derive(Clone, Debug)]
struct Buckets(&'static [f64]);

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

/// 10 ns to 1000 s in powers of ten, as upstream's work queue.
const QUEUE_BUCKETS: Buckets = Buckets(&[
    1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0,
]);
/// controller-runtime's buckets for the time of a reconcile, thinned.
const RECONCILE_BUCKETS: Buckets = Buckets(&[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
]);
const ITEM_BUCKETS: Buckets = Buckets(&[0.0, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6]);

type Histograms<L> = Family<L, Histogram, Buckets>;
type FloatGauge = Gauge<f64, AtomicU64>;

/// The metrics of all queues, informers and controllers that share it. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct RuntimeMetrics {
    queue_depth: Family<Name, Gauge>,
    queue_adds: Family<Name, Counter>,
    queue_latency: Histograms<Name>,
    queue_work: Histograms<Name>,
    queue_unfinished: Family<Name, FloatGauge>,
    queue_longest: Family<Name, FloatGauge>,
    queue_retries: Family<Name, Counter>,
    lists: Family<Name, Counter>,
    list_seconds: Histograms<Name>,
    list_items: Histograms<Name>,
    watches: Family<Name, Counter>,
    short_watches: Family<Name, Counter>,
    watch_errors: Family<Name, Counter>,
    resource_version: Family<Name, Gauge<i64, AtomicI64>>,
    deltas_queued: Family<Name, Gauge>,
    handlers_lagging: Family<Name, Counter>,
    handler_panics: Family<Name, Counter>,
    reconciles: Family<ReconcileLabel, Counter>,
    reconcile_errors: Family<ControllerLabel, Counter>,
    reconcile_terminal: Family<ControllerLabel, Counter>,
    reconcile_panics: Family<ControllerLabel, Counter>,
    reconcile_timeouts: Family<ControllerLabel, Counter>,
    reconcile_seconds: Histograms<ControllerLabel>,
    workers_max: Family<ControllerLabel, Gauge>,
    workers_active: Family<ControllerLabel, Gauge>,
    events_dropped: Family<Name, Counter>,
}

impl Default for RuntimeMetrics {
    fn default() -> Self {
        Self {
            queue_depth: Family::default(),
            queue_adds: Family::default(),
            queue_latency: Family::new_with_constructor(QUEUE_BUCKETS),
            queue_work: Family::new_with_constructor(QUEUE_BUCKETS),
            queue_unfinished: Family::default(),
            queue_longest: Family::default(),
            queue_retries: Family::default(),
            lists: Family::default(),
            list_seconds: Family::new_with_constructor(RECONCILE_BUCKETS),
            list_items: Family::new_with_constructor(ITEM_BUCKETS),
            watches: Family::default(),
            short_watches: Family::default(),
            watch_errors: Family::default(),
            resource_version: Family::default(),
            deltas_queued: Family::default(),
            handlers_lagging: Family::default(),
            handler_panics: Family::default(),
            reconciles: Family::default(),
            reconcile_errors: Family::default(),
            reconcile_terminal: Family::default(),
            reconcile_panics: Family::default(),
            reconcile_timeouts: Family::default(),
            reconcile_seconds: Family::new_with_constructor(RECONCILE_BUCKETS),
            workers_max: Family::default(),
            workers_active: Family::default(),
            events_dropped: Family::default(),
        }
    }
}

impl RuntimeMetrics {
    /// Makes the metrics visible among the process's.
    ///
    /// # Errors
    /// [`DuplicateMetric`] when this, or something else of the same name, is registered already.
    pub fn register(&self, metrics: &Metrics) -> Result<(), DuplicateMetric> {
        self.register_queue(metrics)?;
        self.register_informer(metrics)?;
        self.register_controller(metrics)
    }

    fn register_queue(&self, metrics: &Metrics) -> Result<(), DuplicateMetric> {
        metrics.register(
            "workqueue_depth",
            "Keys ready for a worker",
            self.queue_depth.clone(),
        )?;
        metrics.register("workqueue_adds", "Keys added", self.queue_adds.clone())?;
        metrics.register(
            "workqueue_queue_duration_seconds",
            "Seconds a key waited for a worker",
            self.queue_latency.clone(),
        )?;
        metrics.register(
            "workqueue_work_duration_seconds",
            "Seconds a worker had a key",
            self.queue_work.clone(),
        )?;
        metrics.register(
            "workqueue_unfinished_work_seconds",
            "Seconds of work in progress that work_duration does not show yet",
            self.queue_unfinished.clone(),
        )?;
        metrics.register(
            "workqueue_longest_running_processor_seconds",
            "Seconds the longest running worker has had its key",
            self.queue_longest.clone(),
        )?;
        metrics.register(
            "workqueue_retries",
            "Keys added with a delay or a backoff",
            self.queue_retries.clone(),
        )?;
        Ok(())
    }

    fn register_informer(&self, metrics: &Metrics) -> Result<(), DuplicateMetric> {
        metrics.register("reflector_lists", "Lists done", self.lists.clone())?;
        metrics.register(
            "reflector_list_duration_seconds",
            "Seconds a list took, watch-list included",
            self.list_seconds.clone(),
        )?;
        metrics.register(
            "reflector_items_per_list",
            "Items a list returned",
            self.list_items.clone(),
        )?;
        metrics.register("reflector_watches", "Watches opened", self.watches.clone())?;
        metrics.register(
            "reflector_short_watches",
            "Watches that ended within a second without an event",
            self.short_watches.clone(),
        )?;
        metrics.register(
            "reflector_watch_errors",
            "Lists and watches that failed",
            self.watch_errors.clone(),
        )?;
        metrics.register(
            "reflector_last_resource_version",
            "The resource version last seen",
            self.resource_version.clone(),
        )?;
        metrics.register(
            "informer_queued_items",
            "Deltas between the watch and the store",
            self.deltas_queued.clone(),
        )?;
        metrics.register(
            "informer_handler_lags",
            "Times a handler fell behind the ring and went over to latest states",
            self.handlers_lagging.clone(),
        )?;
        metrics.register(
            "informer_handler_panics",
            "Panics of handlers, each of which lost one notification",
            self.handler_panics.clone(),
        )?;
        Ok(())
    }

    fn register_controller(&self, metrics: &Metrics) -> Result<(), DuplicateMetric> {
        metrics.register(
            "controller_runtime_reconcile",
            "Reconciles by result: success, error, requeue_after or terminal",
            self.reconciles.clone(),
        )?;
        metrics.register(
            "controller_runtime_reconcile_errors",
            "Reconciles that failed",
            self.reconcile_errors.clone(),
        )?;
        metrics.register(
            "controller_runtime_terminal_reconcile_errors",
            "Reconciles that failed for good",
            self.reconcile_terminal.clone(),
        )?;
        metrics.register(
            "controller_runtime_reconcile_panics",
            "Reconciles that panicked",
            self.reconcile_panics.clone(),
        )?;
        metrics.register(
            "controller_runtime_reconcile_timeouts",
            "Reconciles cut off at their deadline",
            self.reconcile_timeouts.clone(),
        )?;
        metrics.register(
            "controller_runtime_reconcile_time_seconds",
            "Seconds a reconcile took",
            self.reconcile_seconds.clone(),
        )?;
        metrics.register(
            "controller_runtime_max_concurrent_reconciles",
            "Workers of the controller",
            self.workers_max.clone(),
        )?;
        metrics.register(
            "controller_runtime_active_workers",
            "Workers that are reconciling",
            self.workers_active.clone(),
        )?;
        metrics.register(
            "events_dropped",
            "Events not written: the queue was full, the spam filter closed or the server refused",
            self.events_dropped.clone(),
        )?;
        Ok(())
    }

    pub(crate) fn queue(&self, name: &str) -> QueueMetrics {
        let label = Name {
            name: name.to_owned(),
        };
        QueueMetrics {
            depth: self.queue_depth.get_or_create_owned(&label),
            adds: self.queue_adds.get_or_create_owned(&label),
            latency: self.queue_latency.get_or_create_owned(&label),
            work: self.queue_work.get_or_create_owned(&label),
            unfinished: self.queue_unfinished.get_or_create_owned(&label),
            longest: self.queue_longest.get_or_create_owned(&label),
            retries: self.queue_retries.get_or_create_owned(&label),
        }
    }

    pub(crate) fn informer(&self, name: &str) -> InformerMetrics {
        let label = Name {
            name: name.to_owned(),
        };
        InformerMetrics {
            lists: self.lists.get_or_create_owned(&label),
            list_seconds: self.list_seconds.get_or_create_owned(&label),
            list_items: self.list_items.get_or_create_owned(&label),
            watches: self.watches.get_or_create_owned(&label),
            short_watches: self.short_watches.get_or_create_owned(&label),
            watch_errors: self.watch_errors.get_or_create_owned(&label),
            resource_version: self.resource_version.get_or_create_owned(&label),
            queued: self.deltas_queued.get_or_create_owned(&label),
            lags: self.handlers_lagging.get_or_create_owned(&label),
            panics: self.handler_panics.get_or_create_owned(&label),
        }
    }

    pub(crate) fn controller(&self, name: &str) -> ControllerMetrics {
        let label = ControllerLabel {
            controller: name.to_owned(),
        };
        let result = |result| {
            self.reconciles.get_or_create_owned(&ReconcileLabel {
                controller: name.to_owned(),
                result,
            })
        };
        ControllerMetrics {
            success: result("success"),
            requeue_after: result("requeue_after"),
            error: result("error"),
            errors: self.reconcile_errors.get_or_create_owned(&label),
            terminal: self.reconcile_terminal.get_or_create_owned(&label),
            panics: self.reconcile_panics.get_or_create_owned(&label),
            timeouts: self.reconcile_timeouts.get_or_create_owned(&label),
            seconds: self.reconcile_seconds.get_or_create_owned(&label),
            workers_max: self.workers_max.get_or_create_owned(&label),
            workers_active: self.workers_active.get_or_create_owned(&label),
        }
    }

    pub(crate) fn events_dropped(&self, name: &str) -> Counter {
        self.events_dropped.get_or_create_owned(&Name {
            name: name.to_owned(),
        })
    }
}

/// The metrics of one queue.
#[derive(Clone, Debug)]
pub(crate) struct QueueMetrics {
    depth: Gauge,
    adds: Counter,
    latency: Histogram,
    work: Histogram,
    unfinished: FloatGauge,
    longest: FloatGauge,
    retries: Counter,
}

impl QueueMetrics {
    pub(crate) fn added(&self, depth: usize) {
        self.adds.inc();
        self.depth(depth);
    }

    pub(crate) fn retried(&self) {
        self.retries.inc();
    }

    pub(crate) fn got(&self, waited: Duration, depth: usize) {
        self.latency.observe(waited.as_secs_f64());
        self.depth(depth);
    }

    pub(crate) fn done(&self, took: Duration, depth: usize) {
        self.work.observe(took.as_secs_f64());
        self.depth(depth);
    }

    pub(crate) fn unfinished(&self, sum_seconds: f64, longest_seconds: f64) {
        self.unfinished.set(sum_seconds);
        self.longest.set(longest_seconds);
    }

    fn depth(&self, depth: usize) {
        self.depth.set(i64::try_from(depth).unwrap_or(i64::MAX));
    }
}

/// The metrics of one informer: its reflector, delta queue and handlers.
#[derive(Clone, Debug)]
pub(crate) struct InformerMetrics {
    pub(crate) lists: Counter,
    pub(crate) list_seconds: Histogram,
    pub(crate) list_items: Histogram,
    pub(crate) watches: Counter,
    pub(crate) short_watches: Counter,
    pub(crate) watch_errors: Counter,
    pub(crate) resource_version: Gauge<i64, AtomicI64>,
    pub(crate) queued: Gauge,
    pub(crate) lags: Counter,
    pub(crate) panics: Counter,
}

/// The metrics of one controller.
#[derive(Clone, Debug)]
pub(crate) struct ControllerMetrics {
    pub(crate) success: Counter,
    pub(crate) requeue_after: Counter,
    pub(crate) error: Counter,
    pub(crate) errors: Counter,
    pub(crate) terminal: Counter,
    pub(crate) panics: Counter,
    pub(crate) timeouts: Counter,
    pub(crate) seconds: Histogram,
    pub(crate) workers_max: Gauge,
    pub(crate) workers_active: Gauge,
}
