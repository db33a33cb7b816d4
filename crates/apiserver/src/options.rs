//! How an API server behaves. Defaults are kube-apiserver's where it has the same knob.

use std::sync::Arc;
use std::time::Duration;

use setpoint_flow::{Flow, Limits};
use setpoint_telemetry::Metrics;

/// Options of an API server.
#[derive(Clone, Debug)]
pub struct Options {
    /// Largest request body, in bytes (kube-apiserver: 3 MiB). Larger ones get 413.
    pub body_bytes_max: usize,
    /// Time for one request that is not a watch (kube-apiserver `--request-timeout`: 60 s). Later is 504.
    pub request_timeout: Duration,
    /// Reads in flight before 429 (kube-apiserver `--max-requests-inflight`: 400).
    pub inflight_reads_max: usize,
    /// Writes in flight before 429 (kube-apiserver `--max-mutating-requests-inflight`: 200).
    pub inflight_writes_max: usize,
    /// Watches open at once before 429 (20,000). Each costs a task and a cursor.
    pub watches_max: usize,
    /// Shortest life of a watch whose client gave none; the longest is twice that
    /// (kube-apiserver `--min-request-timeout`: 1800 s).
    pub watch_timeout_min: Duration,
    /// How often an idle watch that allows bookmarks gets one (kube-apiserver: about 1 min).
    pub bookmark_interval: Duration,
    /// Recent events kept per resource for watches, in events (4,096). Watches behind it read the store.
    pub ring_events_max: usize,
    /// The same in bytes (8 MiB).
    pub ring_bytes_max: usize,
    /// How long a consistent read waits for the cache (kube-apiserver: 3 s). Later is 504.
    pub fresh_wait: Duration,
    /// Rate limits that requests for resources are asked for, by verb and resource as in `list secrets` (none). A peer
    /// is the user. Requests that come from within the process are not limited.
    pub limits: Option<Limits>,
    /// The connections that `/debug/flow` shows (none).
    pub flow: Option<Flow>,
    /// Where metrics are registered, and what `/metrics` shows.
    pub metrics: Metrics,
    /// The CA that signs the serving certificate, as PEM: published in every namespace as `kube-root-ca.crt`.
    pub root_ca: Option<Arc<str>>,
    /// Life of an Event object (kube-apiserver `--event-ttl`: 1 h).
    pub event_ttl: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            body_bytes_max: 3 << 20,
            request_timeout: Duration::from_secs(60),
            inflight_reads_max: 400,
            inflight_writes_max: 200,
            watches_max: 20_000,
            watch_timeout_min: Duration::from_secs(1800),
            bookmark_interval: Duration::from_secs(60),
            ring_events_max: 4096,
            ring_bytes_max: 8 << 20,
            fresh_wait: Duration::from_secs(3),
            limits: None,
            flow: None,
            metrics: Metrics::new(),
            root_ca: None,
            event_ttl: Duration::from_secs(3600),
        }
    }
}
