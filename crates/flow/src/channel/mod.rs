//! Client channels: calls to a set of peers over few, long-lived HTTP/2 connections.
//!
//! A [`Channel`] is a `tower::Service` that tonic's generated clients take in the place of tonic's own channel. It is
//! never "not ready": a call waits in a bounded queue for a bounded time, and every call has a deadline.
//!
//! ```text
//! call ── deadline ── attempts (retry, hedge) ── choice of endpoint ── slot on a connection ── h2
//! ```
//!
//! - [`core::latency`](crate::core::latency) chooses, [`core::outlier`](crate::core::outlier) leaves out,
//!   [`core::retry`](crate::core::retry) judges failures, [`core::keepalive`](crate::core::keepalive) finds the dead.
//! - `hub` holds the endpoints, `endpoint` keeps their connections, `link` drives one, `call` makes calls.
//!
//! What is absent: compression (only identity is offered), HTTP/1.1, proxies, xDS.

mod attempt;
mod body;
mod builder;
mod call;
mod dial;
mod endpoint;
mod error;
mod hub;
mod lease;
mod link;
mod metrics;
mod names;
mod options;
mod origin;
mod registry;
mod replay;
mod resolve;
mod snapshot;
mod target;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tonic::Status;
use tower::Service;

pub use body::ResponseBody;
pub use builder::{BuildError, ChannelBuilder, LimitedBuilder};
pub use call::CallOptions;
pub use dial::{ByteStream, Dialer, Dialled};
pub use error::ChannelError;
pub use metrics::ChannelMetrics;
pub use options::{ChannelOptions, ChannelTls, MethodPolicy};
pub use resolve::{Resolved, Resolver};
pub use snapshot::{ChannelSnapshot, ChannelState, EndpointSnapshot, EndpointState, LinkSnapshot};
pub use target::{Address, InvalidTarget};

pub(crate) use registry::Channels;

use hub::Hub;
use registry::Listed;

/// A channel. Cloning gives another handle to the same one; when the last handle and the last call are gone, its
/// connections are closed.
#[derive(Clone)]
pub struct Channel(Arc<Handle>);

struct Handle {
    hub: Arc<Hub>,
    _listed: Listed,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // No call is left: there is nothing to wait for but the farewell.
        self.hub.close(Duration::from_secs(1));
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Channel to {}", self.hub().target.text)
    }
}

impl Channel {
    /// A channel to a target: `dns:///host:port`, `http://host:port`, `https://host:port`, `static:a:1,b:2` or
    /// `unix:/path`.
    pub fn to(target: impl Into<String>) -> ChannelBuilder {
        ChannelBuilder::new(target.into())
    }

    /// Ends the channel: new calls fail, those in flight have `grace` to end, connections are closed. Returns how many
    /// tasks were still running when the grace had ended: 0 is a clean end.
    pub async fn close(&self, grace: Duration) -> usize {
        let hub = self.hub();
        hub.close(grace);
        // The tasks end by themselves at the end of the grace; a little later they are given up.
        hub.tasks.shutdown(grace + Duration::from_secs(1)).await
    }

    /// What the channel looks like at the moment.
    #[must_use]
    pub fn snapshot(&self) -> ChannelSnapshot {
        self.hub().snapshot()
    }

    /// Whether the other is a handle to the same channel.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn hub(&self) -> &Arc<Hub> {
        &self.0.hub
    }
}

/// A call on its way.
pub type ResponseFuture = Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Status>> + Send>>;

impl<B> Service<Request<B>> for Channel
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<ResponseBody>;
    type Error = Status;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        Box::pin(call::run(self.clone(), request))
    }
}
