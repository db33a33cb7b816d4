//! Every metric of the API server, under kube-apiserver's names
//! (apiserver `pkg/endpoints/metrics/metrics.go`).

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge as PromGauge;
use prometheus_client::metrics::histogram::Histogram;
use setpoint_telemetry::Metrics;

use crate::resources::ResourceInfo;

/// What a request is counted under. Resources are those that are served, so that the number of series is bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    pub(crate) verb: String,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    verb: String,
    group: String,
    resource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    request_kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WatchLabels {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
}

fn seconds() -> Histogram {
    Histogram::new([
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    ])
}

/// The metrics.
#[derive(Debug)]
pub(crate) struct ApiMetrics {
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram, fn() -> Histogram>,
    inflight: Family<KindLabels, PromGauge>,
    longrunning: Family<WatchLabels, PromGauge>,
    open_watches: Arc<AtomicI64>,
    /// Events written to watches.
    pub(crate) watch_events: Counter,
}

impl ApiMetrics {
    /// Registers all of them. A name that is taken means that two servers share a registry: the second
    /// counts for itself alone.
    pub(crate) fn new(registry: &Metrics) -> Self {
        let this = Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(seconds),
            inflight: Family::default(),
            longrunning: Family::default(),
            open_watches: Arc::default(),
            watch_events: Counter::default(),
        };
        let registered = [
            registry.register(
                "apiserver_request",
                "Requests by verb, resource and HTTP code",
                this.requests.clone(),
            ),
            registry.register(
                "apiserver_request_duration_seconds",
                "Time to answer a request; of a watch, until it begins",
                this.durations.clone(),
            ),
            registry.register(
                "apiserver_current_inflight_requests",
                "Requests being answered",
                this.inflight.clone(),
            ),
            registry.register(
                "apiserver_longrunning_requests",
                "Watches that are open",
                this.longrunning.clone(),
            ),
            registry.register(
                "apiserver_watch_events",
                "Events written to watches",
                this.watch_events.clone(),
            ),
        ];
        for error in registered.into_iter().filter_map(Result::err) {
            tracing::warn!(%error, "metric is not exported");
        }
        this
    }

    /// Counts a finished request.
    pub(crate) fn answered(&self, labels: &RequestLabels, took: Duration) {
        self.requests.get_or_create(labels).inc();
        let duration = DurationLabels {
            verb: labels.verb.clone(),
            group: labels.group.clone(),
            resource: labels.resource.clone(),
        };
        self.durations
            .get_or_create(&duration)
            .observe(took.as_secs_f64());
    }

    /// Counts a request while the guard lives.
    pub(crate) fn entered(&self, mutating: bool) -> Gauge {
        let request_kind = if mutating { "mutating" } else { "readOnly" };
        let gauge = self.inflight.get_or_create(&KindLabels { request_kind }).clone();
        gauge.inc();
        Gauge { gauge, open: None }
    }

    /// Counts a watch while the guard lives; `None` when there are as many as may be.
    pub(crate) fn watch_opened(&self, info: &ResourceInfo, max: usize) -> Option<Gauge> {
        let open = Arc::clone(&self.open_watches);
        if open.fetch_add(1, Ordering::Relaxed) >= i64::try_from(max).unwrap_or(i64::MAX) {
            open.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let labels = WatchLabels {
            verb: "WATCH",
            group: info.group.to_string(),
            version: info.version.to_string(),
            resource: info.plural.to_string(),
        };
        let gauge = self.longrunning.get_or_create(&labels).clone();
        gauge.inc();
        Some(Gauge {
            gauge,
            open: Some(open),
        })
    }
}

/// One thing that is going on; uncounted when dropped.
#[derive(Debug)]
pub(crate) struct Gauge {
    gauge: PromGauge,
    open: Option<Arc<AtomicI64>>,
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.gauge.dec();
        if let Some(open) = &self.open {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
