//! Tells the log and the metrics about outages, for clients that were asked to.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use setpoint_telemetry::{DuplicateMetric, Metrics};
use tokio::time::Instant;

use super::core::contact::{Contact, Turn};

/// Whether the endpoints of one client answer, as its calls find out.
#[derive(Debug, Default)]
pub(crate) struct Outages {
    contact: Mutex<Contact>,
    /// Whether the last call failed: while all is well, an answer costs one look at this.
    troubled: AtomicBool,
    away: AtomicBool,
    begun: AtomicU64,
    ended_millis: AtomicU64,
}

impl Outages {
    /// A call was answered.
    pub(crate) fn heard(&self) {
        if !self.troubled.load(Ordering::Acquire) {
            return;
        }
        let turn = {
            let mut contact = self.contact.lock();
            self.troubled.store(false, Ordering::Release);
            contact.heard(Instant::now())
        };
        if let Some(Turn::Back(lasted)) = turn {
            self.away.store(false, Ordering::Release);
            self.ended_millis.fetch_add(millis(lasted), Ordering::Relaxed);
            tracing::warn!(seconds = lasted.as_secs_f32(), "the etcd cluster answers again");
        }
    }

    /// A call was not answered by any of `endpoints`.
    pub(crate) fn missed(&self, endpoints: &[String], why: &str) {
        let turn = {
            let mut contact = self.contact.lock();
            self.troubled.store(true, Ordering::Release);
            contact.missed(Instant::now())
        };
        if turn == Some(Turn::Lost) {
            self.away.store(true, Ordering::Release);
            self.begun.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                endpoints = endpoints.join(","),
                why,
                "the etcd cluster does not answer: reads are served from memory, writes fail until it does"
            );
        }
    }

    /// Adds the metrics of these outages.
    ///
    /// # Errors
    /// When another cluster has them in this registry.
    pub(crate) fn register(self: &Arc<Self>, metrics: &Metrics) -> Result<(), DuplicateMetric> {
        let reading = |kind| Reading(Arc::clone(self), kind);
        metrics.register(
            "setpoint_cluster_reachable",
            "Whether the etcd cluster that keeps the log answers",
            reading(Kind::Reachable),
        )?;
        metrics.register(
            "setpoint_cluster_outages",
            "Times the etcd cluster ceased to answer",
            reading(Kind::Outages),
        )?;
        metrics.register(
            "setpoint_cluster_outage_seconds",
            "Seconds that outages of the etcd cluster took, without one that goes on",
            reading(Kind::Seconds),
        )
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Reachable,
    Outages,
    Seconds,
}

/// A number that is read when somebody asks.
struct Reading(Arc<Outages>, Kind);

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.1)
    }
}

impl EncodeMetric for Reading {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let outages = &self.0;
        match self.1 {
            Kind::Reachable => encoder.encode_gauge(&i64::from(!outages.away.load(Ordering::Acquire))),
            Kind::Outages => {
                encoder.encode_counter::<NoLabelSet, _, u64>(&outages.begun.load(Ordering::Relaxed), None)
            }
            Kind::Seconds => {
                let seconds = Duration::from_millis(outages.ended_millis.load(Ordering::Relaxed));
                encoder.encode_counter::<NoLabelSet, _, u64>(&seconds.as_secs_f64(), None)
            }
        }
    }

    fn metric_type(&self) -> MetricType {
        match self.1 {
            Kind::Reachable => MetricType::Gauge,
            Kind::Outages | Kind::Seconds => MetricType::Counter,
        }
    }
}
