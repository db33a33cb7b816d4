//! The server as a `tower::Service`: what fronts (TLS, loopback) call.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use setpoint_base::TraceContext;

use crate::body::{ApiBody, BodyError};
use crate::request::{Identity, Query, Target};
use crate::routes;
use crate::server::{Head, Server};

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
        let (head, _body) = split(request, &self.default_identity);
        Box::pin(async move { Ok(routes::respond(&server, &head).await) })
    }
}

fn split<B>(request: Request<B>, default_identity: &Identity) -> (Head, B) {
    let (mut parts, body) = request.into_parts();
    let identity = parts
        .extensions
        .remove::<Identity>()
        .unwrap_or_else(|| default_identity.clone());
    let trace = parts
        .headers
        .get("traceparent")
        .and_then(|value| value.to_str().ok()?.parse::<TraceContext>().ok())
        .map_or_else(TraceContext::random, |parent| parent.child());
    let path = parts.uri.path().to_owned();
    let head = Head {
        target: Target::parse(&path),
        path,
        method: parts.method,
        query: Query::parse(parts.uri.query().unwrap_or_default()),
        headers: parts.headers,
        identity,
        trace,
    };
    (head, body)
}
