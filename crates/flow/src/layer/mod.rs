//! Limits in front of any tower service of HTTP: tonic's and axum's servers, hyper's, and under tonic's clients.
//!
//! A call is asked for its permits, then for a place; what is refused is *answered*, as gRPC or as HTTP, whichever it
//! spoke. `poll_ready` is the inner service's alone, so no call is parked behind another one: on an HTTP/2 connection that
//! would stop calls that could give places back. The place is free again when the head of the answer is there, or when
//! the call is dropped: a stream that goes on for hours holds none.
//!
//! ```
//! use setpoint_flow::core::limit::Law;
//! use setpoint_flow::{Concurrency, Find, Limits, Per, Rule, Rules};
//! # fn main() -> Result<(), Vec<String>> {
//! let limits = Limits::of(&Rules {
//!     rules: vec![
//!         Rule::new("each-client", "10/s").burst(5).per(Per::Connection),
//!         Rule::new("kv", "100/s").burst(200).methods(["/store.KV/*"]).per(Per::Method),
//!         Rule::new("tenants", "1000/s").burst(2_000).per(Per::Metadata("tenant".to_owned())),
//!     ],
//!     concurrency: vec![Concurrency::new("all", Find::by(Law::Gradient2))],
//!     ..Rules::default()
//! })?;
//!
//! // A server of tonic's. Sockets that are accepted as `Accepted` have buckets of their own.
//! let server = tonic::transport::Server::builder().layer(limits.layer());
//! // A client of tonic's: the same, before anything is sent.
//! # use setpoint_flow::Channel;
//! # let runtime = tokio::runtime::Runtime::new().unwrap();
//! # let _inside = runtime.enter();
//! let channel = Channel::to("dns:///kv.example:2379").limits(&limits).build().unwrap();
//!
//! // While they run.
//! limits.update("/store.KV/*", "200/s")?;
//! assert!(limits.update("/store.Watch/*", "200/s").is_err());
//! # Ok(())
//! # }
//! ```

mod connection;

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::{Either, Ready, ready};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use tokio::time::Instant;
use tonic::server::NamedService;
use tonic::transport::server::TcpConnectInfo;
use tonic::{Code, Status};
use tower::{Layer, Service};

pub use connection::{Accepted, Connection};

use crate::limits::{Ask, Limits, Refused};
use crate::overload::{Outcome, Permit};

/// Finds a word about a call.
type Word = Arc<dyn Fn(&Parts) -> String + Send + Sync>;

/// Puts limits in front of services. See the [module](self).
#[derive(Clone)]
pub struct LimitLayer {
    limits: Limits,
    /// Whose buckets calls take from that do not say which connection they came by.
    connection: Connection,
    name: Option<Word>,
    peer: Option<Word>,
}

/// A service behind limits.
#[derive(Clone)]
pub struct Limited<S> {
    inner: S,
    layer: LimitLayer,
}

impl Limits {
    /// These limits as a layer.
    #[must_use]
    pub fn layer(&self) -> LimitLayer {
        LimitLayer {
            limits: self.clone(),
            connection: Connection::of(""),
            name: None,
            peer: None,
        }
    }
}

impl LimitLayer {
    /// The layer for services that are made for one connection each, as with hyper: its calls have buckets of their own.
    #[must_use]
    pub fn on(&self, connection: &Connection) -> Self {
        Self {
            connection: connection.clone(),
            ..self.clone()
        }
    }

    /// What rules call a call, in place of the path of a gRPC call and the method and path of any other (`GET /items`).
    #[must_use]
    pub fn named_by(self, name: impl Fn(&Parts) -> String + Send + Sync + 'static) -> Self {
        Self {
            name: Some(Arc::new(name)),
            ..self
        }
    }

    /// Who calls, in place of the connection's peer: a user that a token was found to be of, say.
    #[must_use]
    pub fn peer_by(self, peer: impl Fn(&Parts) -> String + Send + Sync + 'static) -> Self {
        Self {
            peer: Some(Arc::new(peer)),
            ..self
        }
    }

    /// Whether the call has its permits; if it needs a place, too, the name to enter by.
    fn admit(&self, parts: &Parts) -> Result<Option<String>, Refused> {
        if self.limits.is_idle() {
            return Ok(None);
        }
        let name = match &self.name {
            Some(name) => name(parts),
            None if is_grpc(parts) => parts.uri.path().to_owned(),
            None => format!("{} {}", parts.method, parts.uri.path()),
        };
        let came_by = parts.extensions.get::<Connection>().unwrap_or(&self.connection);
        let address = || parts.extensions.get::<TcpConnectInfo>()?.remote_addr();
        let peer = match (&self.peer, came_by.peer(), address()) {
            (Some(peer), ..) => peer(parts),
            (None, "", Some(address)) => address.ip().to_string(),
            (None, peer, _) => peer.to_owned(),
        };
        let ask = Ask {
            method: &name,
            peer: &peer,
            metadata: &|key| parts.headers.get(key)?.to_str().ok(),
        };
        self.limits.admit(&ask, came_by.scope(), Instant::now())?;
        Ok(self.limits.has_door().then_some(name))
    }
}

impl fmt::Debug for LimitLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitLayer")
            .field("limits", &self.limits)
            .finish()
    }
}

impl<S: fmt::Debug> fmt::Debug for Limited<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Limited");
        out.field("inner", &self.inner)
            .field("limits", &self.layer.limits)
            .finish()
    }
}

impl<S> Layer<S> for LimitLayer {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Limited<S> {
        Limited {
            inner,
            layer: self.clone(),
        }
    }
}

impl<S: NamedService> NamedService for Limited<S> {
    const NAME: &'static str = S::NAME;
}

/// A call that is refused, one that needs no place, or one that asks for it.
pub type LimitedFuture<F, T, E> =
    Either<Ready<Result<T, E>>, Either<F, Pin<Box<dyn Future<Output = Result<T, E>> + Send>>>>;

impl<S, B, R> Service<Request<B>> for Limited<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: Send + 'static,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = LimitedFuture<S::Future, Response<R>, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let grpc = is_grpc(&parts);
        let admitted = self.layer.admit(&parts);
        let request = Request::from_parts(parts, body);
        match admitted {
            Err(refused) => Either::Left(ready(Ok(answer(&refused, grpc)))),
            Ok(None) => Either::Right(Either::Left(self.inner.call(request))),
            Ok(Some(name)) => {
                // The one that was found ready makes the call.
                let next = self.inner.clone();
                let mut inner = std::mem::replace(&mut self.inner, next);
                let limits = self.layer.limits.clone();
                Either::Right(Either::Right(Box::pin(async move {
                    match limits.enter(&name).await {
                        Err(refused) => Ok(answer(&refused, grpc)),
                        Ok(permit) => finish(permit, inner.call(request).await),
                    }
                })))
            }
        }
    }
}

/// Gives the place back with a word on how the call went.
fn finish<R, E: 'static>(permit: Permit, result: Result<Response<R>, E>) -> Result<Response<R>, E> {
    let outcome = match &result {
        Ok(response) => match Status::from_header_map(response.headers()) {
            Some(status) => of_code(status.code()),
            None => of_http(response.status()),
        },
        Err(error) => match (error as &dyn Any).downcast_ref::<Status>() {
            Some(status) => of_code(status.code()),
            None => Outcome::Ignored,
        },
    };
    permit.finish(outcome);
    result
}

fn of_code(code: Code) -> Outcome {
    match code {
        Code::Ok => Outcome::Served,
        Code::DeadlineExceeded | Code::Unavailable => Outcome::Dropped,
        _ => Outcome::Ignored,
    }
}

fn of_http(status: StatusCode) -> Outcome {
    match status {
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => Outcome::Dropped,
        status if status.is_client_error() || status.is_server_error() => Outcome::Ignored,
        _ => Outcome::Served,
    }
}

fn answer<R: Default>(refused: &Refused, grpc: bool) -> Response<R> {
    if grpc {
        refused.status().into_http()
    } else {
        refused.response()
    }
}

fn is_grpc(parts: &Parts) -> bool {
    let kind = parts.headers.get(http::header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}
