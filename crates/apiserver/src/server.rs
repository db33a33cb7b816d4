//! What all requests share, and what one request is before its body is read.

use std::sync::Arc;

use http::{HeaderMap, Method};
use setpoint_apimachinery::Status;
use setpoint_base::{Stop, TaskGroup, TraceContext, WallClock};
use setpoint_flow::Scope;
use setpoint_store::Log;
use setpoint_store::types::LeaseId;

use crate::crd::control::Definitions;
use crate::discovery::Discovery;
use crate::event_ttl::EventLeases;
use crate::inflight::Inflight;
use crate::metrics::ApiMetrics;
use crate::openapi::OpenApi;
use crate::options::Options;
use crate::request::{Identity, Query, Target};
use crate::resources::{ResourceInfo, Resources};
use crate::storage::Storage;

/// The state behind every clone of the service.
pub(crate) struct Server {
    /// The log everything is in.
    pub(crate) store: Log,
    /// Limits and times.
    pub(crate) options: Options,
    /// Calendar time for `creationTimestamp` and the like.
    pub(crate) clock: Arc<dyn WallClock>,
    /// What is served.
    pub(crate) resources: Resources,
    /// What discovery says about it.
    pub(crate) discovery: Discovery,
    /// What OpenAPI says about it.
    pub(crate) openapi: OpenApi,
    /// The custom resource definitions in force.
    pub(crate) definitions: Definitions,
    /// Leases of events.
    pub(crate) event_leases: EventLeases,
    /// Where namespaces live.
    pub(crate) namespaces: Arc<Storage>,
    /// Requests that are being answered.
    pub(crate) inflight: Inflight,
    /// What is counted.
    pub(crate) metrics: ApiMetrics,
    /// Tasks of the server: feeds and loops.
    pub(crate) tasks: TaskGroup,
    /// Set when the server should end its watches and refuse new ones.
    pub(crate) stop: Stop,
}

impl Server {
    /// The lease an object of this resource is created with: events end by themselves.
    ///
    /// # Errors
    /// What the store refuses.
    pub(crate) async fn event_lease(&self, info: &ResourceInfo) -> Result<Option<LeaseId>, Status> {
        if &*info.plural != "events" || !info.is_builtin() {
            return Ok(None);
        }
        self.event_leases
            .get(&self.store, self.options.event_ttl)
            .await
            .map(Some)
    }
}

/// A request without its body.
pub(crate) struct Head {
    /// HTTP method.
    pub(crate) method: Method,
    /// Path as sent.
    pub(crate) path: String,
    /// Decoded query.
    pub(crate) query: Query,
    /// Headers.
    pub(crate) headers: HeaderMap,
    /// Who asks.
    pub(crate) identity: Identity,
    /// The connection it came on, unless it came from within the process.
    pub(crate) connection: Option<Arc<Scope>>,
    /// What it is about.
    pub(crate) target: Target,
    /// The request's own span of the trace it belongs to.
    pub(crate) trace: TraceContext,
}
