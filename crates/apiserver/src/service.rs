//! The server as a `tower::Service`: what fronts (TLS, loopback) call.
//!
//! The way of a request: its head is parsed, the caller authorised, a permit taken; only then is the body
//! read, bounded; then the verb runs, under a deadline. Every answer is counted and leaves one log line.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response};
use http_body::Body;
use http_body_util::BodyExt as _;
use setpoint_apimachinery::Status;
use setpoint_base::TraceContext;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::body::{ApiBody, BodyError};
use crate::metrics::RequestLabels;
use crate::request::{Identity, Query, ResourcePath, Target, verb};
use crate::server::{Head, Server};
use crate::{answer, authz, overload, routes, verbs};

/// Bytes of a refused body that are still read, so that its sender comes to see why.
const DRAINED_BYTES_MAX: usize = 16 << 20;

/// Answers requests. Cloning is cheap; all clones are the same server.
///
/// Identity comes as a request extension ([`Identity`]); absent is the service's own default, which is
/// anonymous for fronts and all-powerful for the plane's own loops.
#[derive(Clone)]
pub struct ApiService {
    server: Arc<Server>,
    default_identity: Arc<Identity>,
}

impl ApiService {
    pub(crate) fn new(server: Arc<Server>, default_identity: Identity) -> Self {
        Self {
            server,
            default_identity: Arc::new(default_identity),
        }
    }
}

impl<B> tower::Service<Request<B>> for ApiService
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BodyError>,
{
    type Response = Response<ApiBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<ApiBody>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let server = Arc::clone(&self.server);
        let (mut head, body) = split(request, &self.default_identity);
        let span = tracing::info_span!(
            "request",
            otel.kind = "server",
            http.method = %head.method,
            url.path = %head.path,
            user = %head.identity.user,
            flow.refused_by = tracing::field::Empty,
        );
        head.trace = setpoint_telemetry::trace::open(&span, Some(&head.trace));
        Box::pin(async move { Ok(answer(server, head, body).await) }.instrument(span))
    }
}

/// What a request is counted and logged as.
struct Account {
    labels: RequestLabels,
    started: Instant,
    method: Method,
    path: String,
    user: String,
    trace: TraceContext,
}

impl Account {
    fn open(server: &Server, head: &Head) -> Self {
        let mut labels = RequestLabels::default();
        match &head.target {
            Target::Path => labels.verb = head.method.as_str().to_owned(),
            Target::Resource(path) => {
                labels.verb = verb(&head.method, path, &head.query).to_ascii_uppercase();
                // Only names that are served become label values: clients cannot invent series.
                if let Some(info) =
                    server
                        .resources
                        .snapshot()
                        .get(&path.group, &path.version, &path.resource)
                {
                    labels.group = info.group.to_string();
                    labels.version = info.version.to_string();
                    labels.resource = info.plural.to_string();
                }
                let known = matches!(path.subresource.as_str(), "status" | "scale" | "finalize");
                labels.subresource = if known {
                    path.subresource.clone()
                } else {
                    String::new()
                };
            }
        }
        Self {
            labels,
            started: Instant::now(),
            method: head.method.clone(),
            path: head.path.clone(),
            user: head.identity.user.clone(),
            trace: head.trace,
        }
    }

    fn close(mut self, server: &Server, response: &Response<ApiBody>) {
        self.labels.code = response.status().as_u16();
        let took = self.started.elapsed();
        server.metrics.answered(&self.labels, took);
        tracing::debug!(
            method = %self.method,
            path = %self.path,
            code = self.labels.code,
            micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            user = %self.user,
            trace_id = %self.trace.trace_id_hex(),
            "answered"
        );
    }
}

async fn answer<B>(server: Arc<Server>, head: Head, body: B) -> Response<ApiBody>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BodyError>,
{
    let account = Account::open(&server, &head);
    let response = match &head.target {
        Target::Path => match authz::path(&head) {
            Ok(()) => routes::respond(&server, &head).await,
            Err(status) => answer::status(&status),
        },
        Target::Resource(path) => {
            let path = path.clone();
            let deadline = server.options.request_timeout;
            let run = resource(&server, head, path, body);
            let result = tokio::time::timeout(deadline, run).await;
            let late = || {
                Err(Status::timeout(
                    "request did not complete within the allotted timeout",
                ))
            };
            result
                .unwrap_or_else(|_| late())
                .unwrap_or_else(|status| answer::status(&status))
        }
    };
    account.close(&server, &response);
    response
}

async fn resource<B>(
    server: &Arc<Server>,
    head: Head,
    path: ResourcePath,
    body: B,
) -> Result<Response<ApiBody>, Status>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BodyError>,
{
    let verb = verb(&head.method, &path, &head.query);
    authz::resource(&head.identity, &path, verb)?;
    overload::admit(server, &head, &path, verb)?;
    let mutating = !matches!(verb, "get" | "list" | "watch" | "");
    let _permit = server.inflight.enter(mutating)?;
    let _count = server.metrics.entered(mutating);
    let body = if mutating {
        read(body, server.options.body_bytes_max).await?
    } else {
        Bytes::new()
    };
    let place = overload::enter(server, &head, &path, verb).await?;
    // A large verb future would be copied with every layer around it.
    let result = Box::pin(verbs::respond(Arc::clone(server), head, path, verb, body)).await;
    if let Some(place) = place {
        place.end(&result);
    }
    result
}

/// Reads away the rest of a refused body, up to a bound. Many clients look at the answer only once they have
/// sent everything; cut off in the middle, they would report a broken connection instead of the refusal.
async fn drain<B: Body<Data = Bytes>>(mut body: Pin<&mut B>) {
    let mut left = DRAINED_BYTES_MAX;
    while left > 0
        && let Some(Ok(frame)) = body.frame().await
    {
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
    }
}

/// Reads a body of at most `max` bytes.
async fn read<B>(body: B, max: usize) -> Result<Bytes, Status>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BodyError>,
{
    let mut body = std::pin::pin!(body);
    let mut over = body.size_hint().lower() > max as u64;
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    while !over && let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Status::bad_request(format!("read the body: {}", error.into())))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.as_ref().map_or(0, Bytes::len) + rest.len() + data.len() > max {
            over = true;
            continue;
        }
        match &first {
            None => first = Some(data),
            Some(_) => rest.extend_from_slice(&data),
        }
    }
    if over {
        drain(body).await;
        return Err(Status::too_large(max));
    }
    let first = first.unwrap_or_default();
    if rest.is_empty() {
        return Ok(first);
    }
    let mut all = BytesMut::with_capacity(first.len() + rest.len());
    all.extend_from_slice(&first);
    all.extend_from_slice(&rest);
    Ok(all.freeze())
}

fn split<B>(request: Request<B>, default_identity: &Identity) -> (Head, B) {
    let (mut parts, body) = request.into_parts();
    let identity = parts
        .extensions
        .remove::<Identity>()
        .unwrap_or_else(|| default_identity.clone());
    let trace = parts.headers.get("traceparent");
    let trace = trace.and_then(|value| value.to_str().ok()?.parse::<TraceContext>().ok());
    let path = parts.uri.path().to_owned();
    let head = Head {
        connection: parts.extensions.remove(),
        target: Target::parse(&path),
        path,
        method: parts.method,
        query: Query::parse(parts.uri.query().unwrap_or_default()),
        headers: parts.headers,
        identity,
        trace: trace.unwrap_or_else(TraceContext::random),
    };
    (head, body)
}
