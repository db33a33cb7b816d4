//! Every metric of the store, under etcd's names where etcd has one (`server/storage/mvcc/metrics.go`,
//! `server/storage/wal/metrics.go`).

use std::fmt;
use std::sync::Weak;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use setpoint_telemetry::{DuplicateMetric, Metrics as Registry};

use crate::engine::Shared;

/// What the store counts while it works.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) fsync_seconds: Histogram,
    pub(crate) puts: Counter,
    pub(crate) deletes: Counter,
    pub(crate) ranges: Counter,
    pub(crate) txns: Counter,
    pub(crate) leases_granted: Counter,
    pub(crate) leases_renewed: Counter,
    pub(crate) leases_revoked: Counter,
    pub(crate) leases_expired: Counter,
    pub(crate) checkpoints: Counter,
    pub(crate) rewrites: Counter,
    pub(crate) refused: Counter,
    pub(crate) reads_outlived: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            // etcd's buckets: 1 ms to 8 s, doubling; two more below, for disks of today.
            fsync_seconds: Histogram::new(exponential_buckets(0.00025, 2.0, 16)),
            puts: Counter::default(),
            deletes: Counter::default(),
            ranges: Counter::default(),
            txns: Counter::default(),
            leases_granted: Counter::default(),
            leases_renewed: Counter::default(),
            leases_revoked: Counter::default(),
            leases_expired: Counter::default(),
            checkpoints: Counter::default(),
            rewrites: Counter::default(),
            refused: Counter::default(),
            reads_outlived: Counter::default(),
        }
    }
}

/// A gauge that is read when somebody asks.
struct Reading(Weak<Shared>, fn(&Shared) -> i64);

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reading")
    }
}

impl EncodeMetric for Reading {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let value = self.0.upgrade().map_or(0, |shared| (self.1)(&shared));
        encoder.encode_gauge(&value)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}

type Gauge = (&'static str, &'static str, fn(&Shared) -> i64);

const GAUGES: &[Gauge] = &[
    (
        "etcd_debugging_mvcc_current_revision",
        "The newest revision",
        Shared::committed,
    ),
    (
        "etcd_debugging_mvcc_compact_revision",
        "The compaction floor",
        Shared::floor,
    ),
    ("etcd_debugging_mvcc_keys_total", "Live keys", |shared| {
        shared.status().keys as i64
    }),
    (
        "etcd_mvcc_db_total_size_in_bytes",
        "Bytes of the log and its checkpoint",
        |shared| shared.status().disk_bytes as i64,
    ),
    (
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "Bytes of the log that can be reached",
        |shared| shared.status().live_bytes as i64,
    ),
    (
        "etcd_server_proposals_pending",
        "Proposals that wait for the sequencer",
        |shared| shared.queue.len() as i64,
    ),
    ("etcd_debugging_lease_total", "Leases", |shared| {
        shared.leases.lock().len() as i64
    }),
    (
        "setpoint_store_no_space",
        "1 while what makes the store grow is refused: disk full, quota reached, or an alarm",
        |shared| i64::from(shared.is_full()),
    ),
    (
        "setpoint_store_corrupt",
        "1 while a CORRUPT alarm is raised, or since something on disk did not read back",
        |shared| i64::from(shared.is_untrusted()),
    ),
    (
        "etcd_server_quota_backend_bytes",
        "Live bytes from which on growth is refused; negative is no limit",
        |shared| shared.options.quota(),
    ),
    (
        "setpoint_store_quota_used_percent",
        "Live bytes in parts of a hundred of the quota; 0 without one. Worth an alert from 80 on",
        |shared| shared.room.used_percent(shared.files.live_bytes()) as i64,
    ),
];

/// Adds all of the store's metrics.
pub(crate) fn register(shared: &std::sync::Arc<Shared>, registry: &Registry) -> Result<(), DuplicateMetric> {
    let metrics = &shared.metrics;
    registry.register(
        "etcd_disk_wal_fsync_duration_seconds",
        "Time that one sync of the log takes",
        metrics.fsync_seconds.clone(),
    )?;
    // The log is the only place that is written: there is no second file to commit to.
    registry.register(
        "etcd_disk_backend_commit_duration_seconds",
        "Time that one sync of the log takes",
        metrics.fsync_seconds.clone(),
    )?;
    let counters = [
        ("etcd_mvcc_put", "Puts seen by the sequencer", &metrics.puts),
        (
            "etcd_mvcc_delete",
            "Deletes seen by the sequencer",
            &metrics.deletes,
        ),
        ("etcd_mvcc_range", "Ranges served", &metrics.ranges),
        ("etcd_mvcc_txn", "Transactions", &metrics.txns),
        (
            "etcd_debugging_lease_granted",
            "Leases granted",
            &metrics.leases_granted,
        ),
        (
            "etcd_debugging_lease_renewed",
            "Leases kept alive",
            &metrics.leases_renewed,
        ),
        (
            "etcd_debugging_lease_revoked",
            "Leases revoked by request",
            &metrics.leases_revoked,
        ),
        (
            "etcd_debugging_server_lease_expired",
            "Leases that ended by themselves",
            &metrics.leases_expired,
        ),
        (
            "setpoint_store_checkpoints",
            "Checkpoints written",
            &metrics.checkpoints,
        ),
        (
            "setpoint_store_segments_rewritten",
            "Segments rewritten without their dead records",
            &metrics.rewrites,
        ),
        (
            "setpoint_store_proposals_refused",
            "Proposals refused because the line was full",
            &metrics.refused,
        ),
        (
            "setpoint_store_reads_outlived",
            "Wide reads that ended because their clients took so long that what they read was given up",
            &metrics.reads_outlived,
        ),
        // The same under the name for which etcd's alerts ask.
        (
            "etcd_server_proposals_failed",
            "Proposals refused because the line was full",
            &metrics.refused,
        ),
    ];
    for (name, help, counter) in counters {
        registry.register(name, help, counter.clone())?;
    }
    for (name, help, read) in GAUGES {
        registry.register(*name, *help, Reading(std::sync::Arc::downgrade(shared), *read))?;
    }
    Ok(())
}
