//! Metrics that are read off the store when somebody asks, under etcd's names: what dashboards and alerts written for
//! etcd look at. Those of a cluster have the one value they can have here. Beside them, who calls by version.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use http::HeaderValue;
use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use setpoint_telemetry::{DuplicateMetric, Metrics};

use super::maintenance::minor;
use super::{CLUSTER_VERSION, ETCD_VERSION};
use crate::Store;

/// A number that is read when somebody asks.
struct Reading {
    store: Store,
    kind: MetricType,
    read: fn(&Store) -> i64,
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reading")
    }
}

impl EncodeMetric for Reading {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let value = (self.read)(&self.store);
        match self.kind {
            MetricType::Counter => {
                encoder.encode_counter::<NoLabelSet, _, u64>(&u64::try_from(value).unwrap_or(0), None)
            }
            _ => encoder.encode_gauge(&value),
        }
    }

    fn metric_type(&self) -> MetricType {
        self.kind
    }
}

type Row = (&'static str, &'static str, MetricType, fn(&Store) -> i64);

const READINGS: &[Row] = &[
    (
        "etcd_server_has_leader",
        "Always 1: the one member leads",
        MetricType::Gauge,
        |_| 1,
    ),
    (
        "etcd_server_is_leader",
        "Always 1: the one member leads",
        MetricType::Gauge,
        |_| 1,
    ),
    ("etcd_server_is_learner", "Always 0", MetricType::Gauge, |_| 0),
    (
        "etcd_server_leader_changes_seen",
        "Always 1: the start",
        MetricType::Counter,
        |_| 1,
    ),
    (
        "etcd_server_heartbeat_send_failures",
        "Always 0: there are no peers",
        MetricType::Counter,
        |_| 0,
    ),
    (
        "etcd_server_learner_promote_successes",
        "Always 0",
        MetricType::Gauge,
        |_| 0,
    ),
    (
        "etcd_server_read_indexes_failed",
        "Always 0: reads ask nobody",
        MetricType::Counter,
        |_| 0,
    ),
    (
        "etcd_server_slow_read_indexes",
        "Always 0: reads ask nobody",
        MetricType::Counter,
        |_| 0,
    ),
    (
        "etcd_server_snapshot_apply_in_progress_total",
        "Always 0",
        MetricType::Gauge,
        |_| 0,
    ),
    (
        "etcd_disk_defrag_inflight",
        "Always 0: defragmentation never stops the store",
        MetricType::Gauge,
        |_| 0,
    ),
    ("etcd_network_known_peers", "Always 0", MetricType::Gauge, |_| 0),
    (
        "etcd_server_proposals_committed_total",
        "Records of the log",
        MetricType::Gauge,
        log_index,
    ),
    (
        "etcd_server_proposals_applied_total",
        "Records of the log",
        MetricType::Gauge,
        log_index,
    ),
    (
        "etcd_debugging_mvcc_watcher_total",
        "Watchers of all streams",
        MetricType::Gauge,
        |store| i64::try_from(store.status().watchers).unwrap_or(i64::MAX),
    ),
];

fn log_index(store: &Store) -> i64 {
    i64::try_from(store.status().log_index).unwrap_or(i64::MAX)
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServerId {
    server_id: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServerVersion {
    server_version: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClusterVersion {
    cluster_version: &'static str,
}

/// Adds all of them.
pub(super) fn register(store: &Store, metrics: &Metrics) -> Result<(), DuplicateMetric> {
    for (name, help, kind, read) in READINGS {
        let reading = Reading {
            store: store.clone(),
            kind: *kind,
            read: *read,
        };
        metrics.register(*name, *help, reading)?;
    }
    let id = Family::<ServerId, Gauge>::default();
    let server_id = format!("{:x}", store.status().member_id);
    id.get_or_create_owned(&ServerId { server_id }).set(1);
    metrics.register("etcd_server_id", "1 for this member's id", id)?;
    let version = Family::<ServerVersion, Gauge>::default();
    let server_version = ETCD_VERSION;
    version
        .get_or_create_owned(&ServerVersion { server_version })
        .set(1);
    metrics.register(
        "etcd_server_version",
        "1 for the etcd release whose API this is",
        version,
    )?;
    let version = Family::<ClusterVersion, Gauge>::default();
    let cluster_version = minor(CLUSTER_VERSION);
    version
        .get_or_create_owned(&ClusterVersion { cluster_version })
        .set(1);
    metrics.register("etcd_cluster_version", "1 for its minor release", version)?;
    metrics.register(
        "etcd_server_learner_promote_failures",
        "Always 0",
        ConstGauge::<i64>::new(0),
    )
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Requests {
    r#type: &'static str,
    client_api_version: String,
}

/// Versions counted by name: a client says what it likes, and each name is kept for good.
const VERSIONS_MAX: usize = 32;
const VERSION_BYTES_MAX: usize = 32;

/// Calls by the version their clients say they have.
#[derive(Clone, Debug, Default)]
pub(super) struct Versions {
    requests: Family<Requests, Counter>,
    known: Arc<Mutex<HashSet<String>>>,
}

/// The version a connection's calls had last, and where they are counted.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<Option<(Option<HeaderValue>, Counter, Counter)>>);

impl Versions {
    pub(super) fn register(&self, metrics: &Metrics) -> Result<(), DuplicateMetric> {
        metrics.register(
            "etcd_server_client_requests",
            "Calls by the version of their client",
            self.requests.clone(),
        )
    }

    /// Counts a call. A connection's calls have one version, so that the table is asked once.
    pub(super) fn count(&self, seen: &Seen, version: Option<&HeaderValue>, stream: bool) {
        let mut seen = seen.0.lock();
        let known = seen
            .as_ref()
            .filter(|(last, ..)| last.as_ref() == version)
            .map(|(_, unary, streams)| if stream { streams.inc() } else { unary.inc() });
        if known.is_some() {
            return;
        }
        let name = self.name(version);
        let counter = |kind| {
            let labels = Requests {
                r#type: kind,
                client_api_version: name.clone(),
            };
            self.requests.get_or_create_owned(&labels)
        };
        let (unary, streams) = (counter("unary"), counter("stream"));
        if stream {
            streams.inc()
        } else {
            unary.inc()
        };
        *seen = Some((version.cloned(), unary, streams));
    }

    fn name(&self, version: Option<&HeaderValue>) -> String {
        let Some(version) = version else {
            return "unknown".to_owned();
        };
        let plain = version
            .to_str()
            .ok()
            .filter(|text| text.len() <= VERSION_BYTES_MAX);
        let mut known = self.known.lock();
        match plain {
            Some(text) if known.contains(text) => text.to_owned(),
            Some(text) if known.len() < VERSIONS_MAX => {
                known.insert(text.to_owned());
                text.to_owned()
            }
            _ => "other".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_has_its_count_until_there_are_too_many() {
        let versions = Versions::default();
        let value = |text: &str| HeaderValue::from_str(text).unwrap();
        assert_eq!(versions.name(None), "unknown");
        for n in 0..VERSIONS_MAX {
            assert_eq!(versions.name(Some(&value(&format!("3.{n}")))), format!("3.{n}"));
        }
        assert_eq!(versions.name(Some(&value("4.0"))), "other");
        assert_eq!(versions.name(Some(&value("3.1"))), "3.1", "known ones stay");
        assert_eq!(Versions::default().name(Some(&value(&"9".repeat(40)))), "other");
    }
}
