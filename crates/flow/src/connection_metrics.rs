//! Every metric of connections.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use setpoint_telemetry::{DuplicateMetric, Metrics};

use crate::core::frames::Kind;
use crate::core::window::Estimate;
use crate::gauges::Holder;
use crate::http2::Harm;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Front {
    front: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    front: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    front: &'static str,
    how: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Held {
    front: &'static str,
    holder: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    front: &'static str,
    kind: &'static str,
}

/// Round trips from a tenth of a millisecond to seconds.
#[derive(Clone)]
struct RoundTrips;

impl MetricConstructor<Histogram> for RoundTrips {
    fn new_metric(&self) -> Histogram {
        Histogram::new([
            0.0001, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0,
        ])
    }
}

/// Rates of links from 100 kB/s to 10 GB/s.
#[derive(Clone)]
struct Bandwidths;

impl MetricConstructor<Histogram> for Bandwidths {
    fn new_metric(&self) -> Histogram {
        Histogram::new([1e5, 3e5, 1e6, 3e6, 1e7, 3e7, 1e8, 3e8, 1e9, 3e9, 1e10])
    }
}

/// What links hold, from a KiB to a GiB.
#[derive(Clone)]
struct Products;

impl MetricConstructor<Histogram> for Products {
    fn new_metric(&self) -> Histogram {
        Histogram::new((0..11).map(|n| 1024.0 * 4_f64.powi(n)))
    }
}

/// Metrics of connections and of the receive budget.
pub(crate) struct ConnectionMetrics {
    connections: Family<Front, Gauge>,
    window: Family<Front, Gauge>,
    rtt: Family<Front, Histogram, RoundTrips>,
    bandwidth: Family<Front, Histogram, Bandwidths>,
    bdp: Family<Front, Histogram, Products>,
    pings: Family<Why, Counter>,
    stalls: Family<Held, Counter>,
    stalled: Family<Held, Counter<f64, std::sync::atomic::AtomicU64>>,
    frames: Family<OfKind, Counter>,
    ended: Family<Ended, Counter>,
    cut: Family<Why, Counter>,
    hoarding: Family<Front, Counter>,
    floods: Family<OfKind, Counter>,
    faults: Family<Why, Counter>,
    too_large: Family<Front, Counter>,
    bypassed: Family<Front, Counter>,
    budget: Gauge,
    wanted: Gauge,
    unread: Gauge,
}

impl ConnectionMetrics {
    pub(crate) fn new(budget: u64) -> Self {
        let metrics = Self {
            connections: Family::default(),
            window: Family::default(),
            rtt: Family::new_with_constructor(RoundTrips),
            bandwidth: Family::new_with_constructor(Bandwidths),
            bdp: Family::new_with_constructor(Products),
            pings: Family::default(),
            stalls: Family::default(),
            stalled: Family::default(),
            frames: Family::default(),
            ended: Family::default(),
            cut: Family::default(),
            hoarding: Family::default(),
            floods: Family::default(),
            faults: Family::default(),
            too_large: Family::default(),
            bypassed: Family::default(),
            budget: Gauge::default(),
            wanted: Gauge::default(),
            unread: Gauge::default(),
        };
        metrics.budget.set(signed(budget));
        metrics
    }

    #[rustfmt::skip]
    pub(crate) fn register(&self, metrics: &Metrics) -> Result<(), DuplicateMetric> {
        metrics.register("flow_connections", "Connections open now", self.connections.clone())?;
        metrics.register("flow_window_bytes", "Receive windows of all connections together", self.window.clone())?;
        metrics.register("flow_rtt_seconds", "Round trips that PINGs took", self.rtt.clone())?;
        metrics.register("flow_bandwidth_bytes_per_second", "What links were found to carry, at each round trip", self.bandwidth.clone())?;
        metrics.register("flow_bdp_bytes", "What links were found to hold, at each round trip", self.bdp.clone())?;
        metrics.register("flow_pings", "PINGs sent, by reason", self.pings.clone())?;
        metrics.register("flow_credit_stalls", "Waits for a peer's credit, by who held it", self.stalls.clone())?;
        metrics.register("flow_credit_stall_seconds", "Time streams waited for a peer's credit", self.stalled.clone())?;
        metrics.register("flow_frames_received", "HTTP/2 frames received, by kind", self.frames.clone())?;
        metrics.register("flow_connections_ended", "HTTP/2 connections that ended, by whose doing it was", self.ended.clone())?;
        metrics.register("flow_connections_cut", "Connections that were cut, by reason", self.cut.clone())?;
        metrics.register("flow_floods", "Connections that were cut for a flood of frames that bring nothing forward, by the kind of the last", self.floods.clone())?;
        metrics.register("flow_streams_reset", "Streams that were reset for a fault of their opener, by reason", self.faults.clone())?;
        metrics.register("flow_calls_bypassed", "Calls that were answered below the HTTP/2 library", self.bypassed.clone())?;
        metrics.register("flow_headers_too_large", "Calls that were answered 431 for the size of their headers", self.too_large.clone())?;
        metrics.register("flow_hoarding", "Times that half of what a connection may send was unread", self.hoarding.clone())?;
        metrics.register("flow_budget_bytes", "What peers may have us keep unread", self.budget.clone())?;
        metrics.register("flow_budget_wanted_bytes", "Receive windows that connections want of the budget", self.wanted.clone())?;
        metrics.register("flow_unread_bytes", "What has arrived and nobody has read", self.unread.clone())
    }

    pub(crate) fn opened(&self, front: &'static str) {
        self.connections.get_or_create(&Front { front }).inc();
    }

    pub(crate) fn closed(&self, front: &'static str) {
        self.connections.get_or_create(&Front { front }).dec();
    }

    pub(crate) fn window(&self, front: &'static str, before: u64, after: u64) {
        let change = signed(after) - signed(before);
        self.window.get_or_create(&Front { front }).inc_by(change);
    }

    pub(crate) fn round_trip(&self, front: &'static str, took: Duration) {
        self.rtt
            .get_or_create(&Front { front })
            .observe(took.as_secs_f64());
    }

    /// What is thought of a link after a round trip.
    pub(crate) fn estimated(&self, front: &'static str, estimate: Estimate) {
        if estimate.bandwidth > 0.0 && estimate.rtt.is_some() {
            let front = Front { front };
            self.bandwidth.get_or_create(&front).observe(estimate.bandwidth);
            self.bdp.get_or_create(&front).observe(estimate.bdp());
        }
    }

    pub(crate) fn pinged(&self, front: &'static str, reason: &'static str) {
        self.pings.get_or_create(&Why { front, reason }).inc();
    }

    pub(crate) fn stalled(&self, front: &'static str, holder: Holder, took: Duration) {
        let held = Held {
            front,
            holder: holder.name(),
        };
        self.stalls.get_or_create(&held).inc();
        self.stalled.get_or_create(&held).inc_by(took.as_secs_f64());
    }

    pub(crate) fn received(&self, front: &'static str, kind: Kind, frames: u64) {
        let kind = kind.name();
        self.frames.get_or_create(&OfKind { front, kind }).inc_by(frames);
    }

    pub(crate) fn ended(&self, front: &'static str, how: &'static str) {
        self.ended.get_or_create(&Ended { front, how }).inc();
    }

    pub(crate) fn cut(&self, front: &'static str, reason: &'static str) {
        self.cut.get_or_create(&Why { front, reason }).inc();
    }

    /// What is to be said of it besides that the connection was cut.
    pub(crate) fn harmed(&self, front: &'static str, harm: Harm) {
        if let Harm::Flood(kind) = harm {
            let kind = kind.name();
            self.floods.get_or_create(&OfKind { front, kind }).inc();
        }
    }

    /// So many streams were reset for this fault.
    pub(crate) fn reset(&self, front: &'static str, reason: &'static str, streams: u64) {
        self.faults.get_or_create(&Why { front, reason }).inc_by(streams);
    }

    /// So many calls were answered 431.
    pub(crate) fn too_large(&self, front: &'static str, calls: u64) {
        self.too_large.get_or_create(&Front { front }).inc_by(calls);
    }

    /// So many calls were answered below the protocol.
    pub(crate) fn bypassed(&self, front: &'static str, calls: u64) {
        self.bypassed.get_or_create(&Front { front }).inc_by(calls);
    }

    pub(crate) fn hoarding(&self, front: &'static str) {
        self.hoarding.get_or_create(&Front { front }).inc();
    }

    pub(crate) fn wanted(&self, bytes: u64) {
        self.wanted.set(signed(bytes));
    }

    pub(crate) fn unread(&self, bytes: i64) {
        self.unread.set(bytes);
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
