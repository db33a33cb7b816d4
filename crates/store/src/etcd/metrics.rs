//! Every metric of the front.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use setpoint_telemetry::{DuplicateMetric, Metrics};
use tonic::Code;

use super::arriving::ArrivingMetrics;
use super::method::{METHODS, Method};
use super::readings::Versions;

/// Labels of grpc-ecosystem's server metrics, which etcd has.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    grpc_service: &'static str,
    grpc_method: &'static str,
    grpc_type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Handled {
    grpc_service: &'static str,
    grpc_method: &'static str,
    grpc_type: &'static str,
    grpc_code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Check {
    r#type: &'static str,
    name: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Checked {
    r#type: &'static str,
    name: &'static str,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    why: &'static str,
}

/// The counters of one method in the usual case, so that a call looks nothing up.
struct Usual {
    started: Counter,
    ok: Counter,
    received: Counter,
    sent: Counter,
    took: Option<Histogram>,
}

/// Upper bounds of how long calls took, in seconds: those of Prometheus's Go client, which etcd has.
const SECONDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The front's metrics; names are etcd's.
pub(super) struct FrontMetrics {
    started: Family<Call, Counter>,
    handled: Family<Handled, Counter>,
    received: Family<Call, Counter>,
    sent: Family<Call, Counter>,
    took: Option<Family<Call, Histogram>>,
    by_method: Vec<Usual>,
    /// Calls by their client's version.
    pub(super) versions: Versions,
    check: Family<Check, Gauge>,
    checks: Family<Checked, Counter>,
    /// `/health` asked and answered well.
    pub(super) health_success: Gauge,
    /// `/health` asked and answered with a problem.
    pub(super) health_failures: Gauge,
    /// Bytes of requests.
    pub(super) received_bytes: Counter,
    /// Bytes of responses.
    pub(super) sent_bytes: Counter,
    /// Connections open now.
    pub(super) connections: Gauge,
    /// Connections closed at once because there were too many.
    pub(super) connections_refused: Counter,
    /// TLS handshakes that came to nothing.
    pub(super) handshakes_failed: Counter,
    /// Watch streams open now.
    pub(super) watch_streams: Gauge,
    cut: Family<Why, Counter>,
    /// Requests that are not whole.
    pub(super) arriving: ArrivingMetrics,
}

impl FrontMetrics {
    /// With `times`, how long calls take is measured too.
    pub(super) fn new(times: bool) -> Self {
        let took =
            times.then(|| Family::new_with_constructor((|| Histogram::new(SECONDS)) as fn() -> Histogram));
        let started = Family::<Call, Counter>::default();
        let handled = Family::<Handled, Counter>::default();
        let received = Family::<Call, Counter>::default();
        let sent = Family::<Call, Counter>::default();
        let by_method = METHODS
            .iter()
            .map(|(method, ..)| Usual {
                started: started.get_or_create_owned(&call(*method)),
                ok: handled.get_or_create_owned(&with_code(*method, Code::Ok)),
                received: received.get_or_create_owned(&call(*method)),
                sent: sent.get_or_create_owned(&call(*method)),
                took: took
                    .as_ref()
                    .map(|took: &Family<_, _>| took.get_or_create_owned(&call(*method))),
            })
            .collect();
        Self {
            started,
            handled,
            received,
            sent,
            took,
            by_method,
            versions: Versions::default(),
            check: Family::default(),
            checks: Family::default(),
            health_success: Gauge::default(),
            health_failures: Gauge::default(),
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            handshakes_failed: Counter::default(),
            watch_streams: Gauge::default(),
            cut: Family::default(),
            arriving: ArrivingMetrics::default(),
        }
    }

    pub(super) fn register(&self, metrics: &Metrics) -> Result<(), DuplicateMetric> {
        metrics.register("grpc_server_started", "Calls begun", self.started.clone())?;
        metrics.register(
            "grpc_server_handled",
            "Calls ended, by code",
            self.handled.clone(),
        )?;
        metrics.register(
            "grpc_server_msg_received",
            "Messages received",
            self.received.clone(),
        )?;
        metrics.register("grpc_server_msg_sent", "Messages sent", self.sent.clone())?;
        if let Some(took) = &self.took {
            metrics.register(
                "grpc_server_handling_seconds",
                "How long calls took",
                took.clone(),
            )?;
        }
        self.versions.register(metrics)?;
        metrics.register(
            "etcd_server_healthcheck",
            "1 if the check was fine last time",
            self.check.clone(),
        )?;
        metrics.register("etcd_server_healthchecks", "Checks made", self.checks.clone())?;
        // Counters without the ending of counters, as etcd has them.
        metrics.register(
            "etcd_server_health_success",
            "/health answered with true",
            self.health_success.clone(),
        )?;
        metrics.register(
            "etcd_server_health_failures",
            "/health answered with false",
            self.health_failures.clone(),
        )?;
        metrics.register(
            "etcd_debugging_mvcc_watch_stream_total",
            "Watch streams open now",
            self.watch_streams.clone(),
        )?;
        metrics.register(
            "etcd_network_client_grpc_received_bytes",
            "Bytes of gRPC requests",
            self.received_bytes.clone(),
        )?;
        metrics.register(
            "etcd_network_client_grpc_sent_bytes",
            "Bytes of gRPC responses",
            self.sent_bytes.clone(),
        )?;
        metrics.register(
            "etcd_front_connections",
            "Client connections",
            self.connections.clone(),
        )?;
        metrics.register(
            "etcd_front_connections_refused",
            "Connections closed at once because there were too many",
            self.connections_refused.clone(),
        )?;
        metrics.register(
            "etcd_front_tls_handshakes_failed",
            "TLS handshakes that failed or took too long",
            self.handshakes_failed.clone(),
        )?;
        metrics.register(
            "etcd_front_watch_streams",
            "Watch streams open now",
            self.watch_streams.clone(),
        )?;
        metrics.register(
            "etcd_front_answers_cut",
            "Answers given up because their client did not take them, by what there was too little of",
            self.cut.clone(),
        )?;
        self.arriving.register(metrics)
    }

    pub(super) fn cut(&self, why: &'static str) {
        self.cut.get_or_create(&Why { why }).inc();
    }

    pub(super) fn began(&self, method: Method) {
        self.by_method[method as usize].started.inc();
    }

    pub(super) fn received(&self, method: Method) {
        self.by_method[method as usize].received.inc();
    }

    pub(super) fn sent(&self, method: Method, messages: u64) {
        self.by_method[method as usize].sent.inc_by(messages);
    }

    pub(super) fn checked(&self, kind: &'static str, name: &'static str, ok: bool) {
        self.check
            .get_or_create_owned(&Check { r#type: kind, name })
            .set(i64::from(ok));
        let status = if ok { "success" } else { "error" };
        self.checks
            .get_or_create_owned(&Checked {
                r#type: kind,
                name,
                status,
            })
            .inc();
    }

    /// Whether calls are timed.
    pub(super) fn times(&self) -> bool {
        self.took.is_some()
    }

    /// Notes how long a call took.
    pub(super) fn took(&self, method: Method, time: Duration) {
        if let Some(took) = &self.by_method[method as usize].took {
            took.observe(time.as_secs_f64());
        }
    }

    pub(super) fn ended(&self, method: Method, code: Code) {
        if code == Code::Ok {
            self.by_method[method as usize].ok.inc();
        } else {
            self.handled.get_or_create(&with_code(method, code)).inc();
        }
    }
}

fn call(method: Method) -> Call {
    let (_, grpc_service, grpc_method) = METHODS[method as usize];
    let grpc_type = match method {
        Method::Watch | Method::LeaseKeepAlive => "bidi_stream",
        Method::RangeStream | Method::Snapshot | Method::Observe | Method::HealthWatch => "server_stream",
        _ => "unary",
    };
    Call {
        grpc_service,
        grpc_method,
        grpc_type,
    }
}

fn with_code(method: Method, code: Code) -> Handled {
    let call = call(method);
    Handled {
        grpc_service: call.grpc_service,
        grpc_method: call.grpc_method,
        grpc_type: call.grpc_type,
        grpc_code: code_name(code),
    }
}

/// As grpc-go prints codes.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}
