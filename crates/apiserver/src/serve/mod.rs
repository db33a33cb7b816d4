//! The HTTPS front: accepts connections, finds out who is there, and hands requests to the service.
//!
//! Bounds: a connection budget (when it is spent, accepting pauses and clients wait in the listen queue), a deadline for
//! the handshake and for a request's head, HTTP/2 limits on streams, windows and header lists. A stop closes the
//! listener, tells every connection to finish (`GOAWAY`, `Connection: close`) and cuts those that do not in time.
//! HTTP/2 is driven by `setpoint_flow::http2`, HTTP/1.1 by hyper.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::crypto::ring;
use setpoint_base::{Stop, TaskGroup, WallClock};
use setpoint_flow::http2::{self, Cork, Http2Options, KeepAlive, Pace};
use setpoint_flow::{Flow, Limits, Live, Tcp};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower::Service;

use crate::authn::{ClientCerts, Peer};
use crate::body::ApiBody;
use crate::certs::{Pki, PkiError};

mod body;
mod calls;

pub use body::RequestBody;
use calls::Calls;

/// Limits and times of the HTTPS front.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Connections open at once (10,000). With more, accepting pauses until one closes.
    pub connections_max: usize,
    /// Time for a TLS handshake (10 s).
    pub handshake_timeout: Duration,
    /// Time for a request's head on HTTP/1, also between two requests of one connection (kube-apiserver: 32 s).
    pub head_timeout: Duration,
    /// Requests open at once on one HTTP/2 connection (kube-apiserver: 1,000); the client is told, and more are refused.
    pub streams_max: u32,
    /// Limits, of which one may say less than `streams_max` to clients that connect from then on (none).
    pub limits: Option<Limits>,
    /// Largest header list on HTTP/2, in bytes (64 KiB); larger ones get 431.
    pub header_bytes_max: u32,
    /// Silence after which an HTTP/2 peer is pinged; it is cut when it stays silent for half as long (30 s).
    pub ping_interval: Duration,
    /// Time without progress after which an HTTP/2 client that does not read is cut (60 s).
    pub stall_timeout: Duration,
    /// The windows of connections and the receive budget (a budget of this front's own). Shared with other fronts it is
    /// one budget and one list of connections; whoever makes it registers its metrics.
    pub flow: Flow,
    /// Time for open requests after a stop (20 s), then connections are cut.
    pub grace: Duration,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            handshake_timeout: Duration::from_secs(10),
            head_timeout: Duration::from_secs(32),
            streams_max: 1000,
            limits: None,
            header_bytes_max: 64 << 10,
            ping_interval: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(60),
            flow: Flow::default(),
            grace: Duration::from_secs(20),
        }
    }
}

/// What of one response is buffered before the socket takes it.
const SEND_BUFFER: usize = 64 << 10;
/// Wait after the machine refused a connection (out of file descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How connections are secured: the serving certificate, and whose client certificates count.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    certs: ClientCerts,
    clock: Arc<dyn WallClock>,
}

impl Tls {
    /// From the plane's own certificates: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1, client certificates optional.
    ///
    /// # Errors
    /// When the TLS library refuses the certificates.
    pub fn new(pki: &Pki, clock: Arc<dyn WallClock>) -> Result<Self, PkiError> {
        let provider = Arc::new(ring::default_provider());
        let certs = ClientCerts::new(pki.roots()?, Arc::clone(&provider), Arc::clone(&clock))
            .map_err(|error| PkiError::Tls(rustls::Error::General(error.to_string())))?;
        let (chain, key) = pki.server_identity()?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(PkiError::Tls)?
            .with_client_cert_verifier(certs.handshake())
            .with_single_cert(chain, key)
            .map_err(PkiError::Tls)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            certs,
            clock,
        })
    }
}

/// Serves until `stop`, then lets open requests finish within the grace. Returns how many connections were cut.
pub async fn serve<S>(listener: TcpListener, tls: Tls, service: S, options: ServeOptions, stop: Stop) -> usize
where
    S: Service<Request<RequestBody>, Response = Response<ApiBody>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    let budget = Arc::new(Semaphore::new(options.connections_max));
    // Connections see the stop through `draining`; the group's own stop is the end of their grace.
    let connections = TaskGroup::new(&Stop::new());
    let streams = connections.clone();
    let front = Arc::new(Front {
        tls,
        options,
        streams,
    });
    let draining = Stop::new();
    while let Some((permit, stream, from)) = accept(&listener, &budget, &stop).await {
        let (front, service, draining) = (Arc::clone(&front), service.clone(), draining.clone());
        let cut = connections.stop().clone();
        connections.spawn(async move {
            let _permit = permit;
            let served = front.connection(stream, from, service, draining);
            cut.run_until_cancelled(served).await;
        });
    }
    drop(listener);
    draining.cancel();
    let grace = front.options.grace;
    let late = wait_empty(&connections, grace).await;
    connections.shutdown(Duration::from_secs(1)).await;
    late
}

/// Waits until the group has no tasks, at most `grace`; how many are left.
async fn wait_empty(group: &TaskGroup, grace: Duration) -> usize {
    let drained = async {
        while !group.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let _ = timeout(grace, drained).await;
    group.len()
}

/// The next connection within the budget; `None` after a stop.
async fn accept(
    listener: &TcpListener,
    budget: &Arc<Semaphore>,
    stop: &Stop,
) -> Option<(tokio::sync::OwnedSemaphorePermit, TcpStream, SocketAddr)> {
    let permit = stop
        .run_until_cancelled(Arc::clone(budget).acquire_owned())
        .await?
        .ok()?;
    loop {
        match stop.run_until_cancelled(listener.accept()).await? {
            Ok((stream, from)) => return Some((permit, stream, from)),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "accept a connection");
                stop.run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE)).await?;
            }
        }
    }
}

struct Front {
    tls: Tls,
    options: ServeOptions,
    /// Where requests over HTTP/2 run.
    streams: TaskGroup,
}

impl Front {
    async fn connection<S>(self: Arc<Self>, stream: TcpStream, from: SocketAddr, service: S, draining: Stop)
    where
        S: Service<Request<RequestBody>, Response = Response<ApiBody>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
    {
        let Some(stream) = self.handshake(stream, from).await else {
            return;
        };
        let (socket, session) = stream.get_ref();
        // The protocol is what ALPN said, so that no byte has to arrive before a deadline runs.
        let is_http2 = session.alpn_protocol() == Some(b"h2");
        let tcp = socket.info();
        let peer = Arc::new(self.tls.certs.accept(session.peer_certificates()));
        if let Peer::Refused(why) = &*peer {
            tracing::info!(%from, %why, "client certificate refused: requests get 401");
        }
        let live = self.options.flow.open("api", &from.to_string());
        live.is_over(tcp);
        let calls = Calls {
            front: Arc::clone(&self),
            peer,
            scope: Arc::default(),
            service,
            pace: Pace::of(&live),
        };
        if is_http2 {
            let cork = Cork::new(stream, Bytes::new());
            let end = http2::serve(cork, calls, live, &self.http2_options(), &draining).await;
            tracing::debug!(%from, ?end, "connection ended");
        } else {
            self.serve_http1(stream, from, calls, live, draining).await;
        }
    }

    async fn serve_http1<S>(
        &self,
        stream: TlsStream<Tcp>,
        from: SocketAddr,
        calls: Calls<S>,
        live: Live,
        draining: Stop,
    ) where
        S: Service<Request<RequestBody>, Response = Response<ApiBody>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
    {
        live.speaks("http/1.1");
        let answer = service_fn(move |request: Request<Incoming>| {
            let (head, body) = request.into_parts();
            let (body, rest) = RequestBody::lent(body, &head.headers);
            let mut request = Request::from_parts(head, body);
            request.extensions_mut().insert(Arc::clone(&calls.scope));
            let (front, peer) = (Arc::clone(&calls.front), Arc::clone(&calls.peer));
            let service = calls.service.clone();
            async move {
                let response = front.answer(&peer, request, service).await;
                // Not all clients look for an answer before they have sent all of their request.
                rest.spare().await;
                response
            }
        });
        let mut connection = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(self.options.head_timeout)
                .serve_connection(TokioIo::new(stream), answer)
        );
        let served = tokio::select! {
            served = connection.as_mut() => served,
            () = draining.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = served {
            tracing::debug!(%from, error = &error as &dyn std::error::Error, "connection ended");
        }
    }

    async fn handshake(&self, stream: TcpStream, from: SocketAddr) -> Option<TlsStream<Tcp>> {
        // Small frames (watch events) must not wait for an ACK; dead HTTP/1 watchers must be found.
        let socket = socket2::SockRef::from(&stream);
        let alive = socket2::TcpKeepalive::new().with_time(Duration::from_secs(60));
        let _ = socket
            .set_tcp_nodelay(true)
            .and_then(|()| socket.set_tcp_keepalive(&alive));
        let handshake = self.tls.acceptor.accept(Tcp::new(stream));
        match timeout(self.options.handshake_timeout, handshake).await {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(error)) => {
                tracing::debug!(%from, error = &error as &dyn std::error::Error, "TLS handshake failed");
                None
            }
            Err(_) => {
                tracing::debug!(%from, "TLS handshake not finished in time");
                None
            }
        }
    }

    fn http2_options(&self) -> Http2Options {
        let options = &self.options;
        let ruled = options.limits.as_ref().and_then(Limits::streams_max);
        let streams_max = options.streams_max;
        Http2Options {
            streams_max: ruled.map_or(streams_max, |ruled| ruled.min(streams_max)),
            header_bytes_max: options.header_bytes_max,
            send_buffer_bytes: SEND_BUFFER,
            hello_timeout: options.handshake_timeout,
            header_timeout: options.head_timeout,
            stall_timeout: options.stall_timeout,
            keep_alive: Some(KeepAlive {
                interval: options.ping_interval,
                timeout: options.ping_interval / 2,
            }),
        }
    }

    async fn answer<S>(
        &self,
        peer: &Peer,
        mut request: Request<RequestBody>,
        mut service: S,
    ) -> Result<Response<ApiBody>, Infallible>
    where
        S: Service<Request<RequestBody>, Response = Response<ApiBody>, Error = Infallible>,
    {
        match self.tls.certs.identify(peer, request.headers()) {
            Ok(identity) => {
                if let Some(identity) = identity {
                    request.extensions_mut().insert(identity);
                }
                service.call(request).await
            }
            Err(why) => {
                tracing::debug!(%why, "unauthenticated");
                Ok(unauthorized())
            }
        }
    }
}

/// kube-apiserver's answer to bad credentials, which says nothing about what is wrong with them.
fn unauthorized() -> Response<ApiBody> {
    const BODY: &str = "{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{},\"status\":\"Failure\",\
                        \"message\":\"Unauthorized\",\"reason\":\"Unauthorized\",\"code\":401}\n";
    let mut response = Response::new(ApiBody::full(BODY));
    *response.status_mut() = http::StatusCode::UNAUTHORIZED;
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    response
}

#[cfg(test)]
mod tests;
