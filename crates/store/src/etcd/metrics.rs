//! Every metric of the front.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use setpoint_telemetry::{DuplicateMetric, Metrics};
use tonic::Code;

use super::method::{METHODS, Method};

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

/// The front's metrics; names are etcd's.
pub(super) struct FrontMetrics {
    started: Family<Call, Counter>,
    handled: Family<Handled, Counter>,
    /// Counters of the usual case by method, so that a call looks nothing up.
    by_method: Vec<(Counter, Counter)>,
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
}

impl FrontMetrics {
    pub(super) fn new() -> Self {
        let started = Family::<Call, Counter>::default();
        let handled = Family::<Handled, Counter>::default();
        let by_method = METHODS
            .iter()
            .map(|(method, ..)| {
                (
                    started.get_or_create_owned(&call(*method)),
                    handled.get_or_create_owned(&with_code(*method, Code::Ok)),
                )
            })
            .collect();
        Self {
            started,
            handled,
            by_method,
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            handshakes_failed: Counter::default(),
            watch_streams: Gauge::default(),
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
        )
    }

    pub(super) fn began(&self, method: Method) {
        self.by_method[method as usize].0.inc();
    }

    pub(super) fn ended(&self, method: Method, code: Code) {
        if code == Code::Ok {
            self.by_method[method as usize].1.inc();
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
