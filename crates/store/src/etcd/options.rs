//! How the front behaves.

use std::sync::Arc;
use std::time::Duration;

use super::auth::AuthOptions;
use bytes::Bytes;
use setpoint_flow::{Flow, Limits};
use setpoint_telemetry::Metrics;

use super::pprof::Profiler;
use super::tls::TlsOptions;

/// Options of the etcd front.
#[derive(Clone, Debug)]
pub struct FrontOptions {
    /// Threads that serve connections, at least 1 (one per core).
    pub workers: usize,
    /// Connections at a time; more are closed at once (10,000).
    pub connections_max: usize,
    /// Calls one connection may have open, watches included; more wait at the client (65,536).
    pub streams_max: u32,
    /// Largest write request, in bytes (1.5 MiB, etcd's `--max-request-bytes`). A message may have 512 KiB more.
    pub request_bytes_max: usize,
    /// Bytes of half-received requests, all connections together; more are refused (256 MiB). A connection has an eighth of
    /// it, or one request however large, and beyond that no more than it leaves to others.
    pub inbound_bytes_max: usize,
    /// Bytes of large answers on their way to clients, all connections together (512 MiB): half of it for reads
    /// of at most 500 keys, which are refused when there is no room, half for wider ones, which wait and fail after
    /// `request_timeout`. One answer may be larger than its half, if it is alone. Of the first half a connection always has an
    /// eighth, and beyond it no more than it leaves to others. It has an eighth of the half for
    /// wide ones, a quarter of it is for connections that have none, and while somebody waits, who has some of it has to take 48 KiB a second.
    pub outbound_bytes_max: usize,
    /// Most operations in a level of a transaction (128, etcd's `--max-txn-ops`).
    pub txn_ops_max: usize,
    /// Calls that may wait for a lock or for leadership at a time; more are refused (10,000). They wait without a
    /// timeout.
    pub waits_max: usize,
    /// How long a request may wait for its commit (7 s: etcd's 5 s and two elections).
    pub request_timeout: Duration,
    /// How long a client may take for each step of its greeting: TLS handshake, preface, head of an HTTP/1 request
    /// (10 s).
    pub hello_timeout: Duration,
    /// How long a client may leave a response unread before its call is reset (60 s). Watches may wait forever.
    pub stall_timeout: Duration,
    /// How long open calls may take to end at a stop (3 s).
    pub drain_timeout: Duration,
    /// Writes to keys with this prefix are refused: an API server in the same process owns them.
    pub read_only_prefix: Option<Bytes>,
    /// The URLs members are told to reach this one by; empty: the listener's address.
    pub client_urls: Vec<String>,
    /// The member's name (`setpoint`).
    pub member_name: String,
    /// The peer URLs that the list of members shows (none). Nothing is served there.
    pub peer_urls: Vec<String>,
    /// Calls with one answer that take longer are logged (none).
    pub slow_call: Option<Duration>,
    /// Whether how long calls take is among the metrics (no: it costs every call two looks at the clock).
    pub call_times: bool,
    /// How secure listeners meet clients (none: without TLS).
    pub tls: Option<TlsOptions>,
    /// Tokens and passwords, for when authentication is switched on.
    pub auth: AuthOptions,
    /// Rate limits that calls are asked for (none). A peer is the user of a client certificate or an address.
    pub limits: Option<Limits>,
    /// The windows of connections and the receive budget (a budget of this front's own). Shared with other fronts it is
    /// one budget and one list of connections; whoever makes it registers its metrics.
    pub flow: Flow,
    /// What serves `/debug/pprof/` (nothing does).
    pub profiler: Option<Arc<dyn Profiler>>,
    /// What `/debug/vars` shows as the process's arguments (none).
    pub command_line: Vec<String>,
    /// Where `/metrics` comes from, and where the front's own metrics go.
    pub metrics: Option<Metrics>,
}

impl Default for FrontOptions {
    fn default() -> Self {
        Self {
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            connections_max: 10_000,
            streams_max: 65_536,
            request_bytes_max: 1536 << 10,
            inbound_bytes_max: 256 << 20,
            outbound_bytes_max: 512 << 20,
            txn_ops_max: 128,
            waits_max: 10_000,
            request_timeout: Duration::from_secs(7),
            hello_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(3),
            read_only_prefix: None,
            client_urls: Vec::new(),
            member_name: "setpoint".to_owned(),
            peer_urls: Vec::new(),
            slow_call: None,
            call_times: false,
            tls: None,
            auth: AuthOptions::default(),
            limits: None,
            flow: Flow::default(),
            profiler: None,
            command_line: Vec::new(),
            metrics: None,
        }
    }
}

impl FrontOptions {
    /// Largest gRPC message received: etcd leaves 512 KiB for what surrounds a request (`embed/config.go`).
    pub(super) fn message_bytes_max(&self) -> usize {
        self.request_bytes_max + (512 << 10)
    }
}
