//! The HTTPS front: accepts connections, finds out who is there, and hands requests to the service.
//!
//! Bounds: a connection budget (when it is spent, accepting pauses and clients wait in the listen queue), a deadline for
//! the handshake and for a request's head, HTTP/2 limits on streams, windows and header lists. A stop closes the
//! listener, tells every connection to finish (`GOAWAY`, `Connection: close`) and cuts those that do not in time.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use rustls::crypto::ring;
use setpoint_base::{Stop, TaskGroup, WallClock};
use setpoint_flow::{Limits, Scope};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower::Service;

use crate::authn::{ClientCerts, Peer};
use crate::body::ApiBody;
use crate::certs::{Pki, PkiError};

/// Limits and times of the HTTPS front.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Connections open at once (10,000). With more, accepting pauses until one closes.
    pub connections_max: usize,
    /// Time for a TLS handshake (10 s).
    pub handshake_timeout: Duration,
    /// Time for a request's head on HTTP/1, also between two requests of one connection (kube-apiserver: 32 s).
    pub head_timeout: Duration,
    /// Requests open at once on one HTTP/2 connection (kube-apiserver: 1,000); clients queue beyond it.
    pub streams_max: u32,
    /// Limits, of which one may say less than `streams_max` to clients that connect from then on (none).
    pub limits: Option<Limits>,
    /// Largest header list on HTTP/2, in bytes (64 KiB); larger ones get 431.
    pub header_bytes_max: u32,
    /// Silence after which an HTTP/2 peer is pinged; it is cut when it stays silent for half as long (30 s).
    pub ping_interval: Duration,
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
            grace: Duration::from_secs(20),
        }
    }
}

/// What of one HTTP/2 stream is taken before the handler reads: bounds memory per upload.
const STREAM_WINDOW: u32 = 256 << 10;
/// The same for a whole connection.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// What of one response is buffered before the socket takes it.
const SEND_BUFFER: usize = 64 << 10;
/// Wait after the machine refused a connection (out of file descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How connections are secured: the serving certificate, and whose client certificates count.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    certs: ClientCerts,
}

impl Tls {
    /// From the plane's own certificates: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1, client certificates optional.
    ///
    /// # Errors
    /// When the TLS library refuses the certificates.
    pub fn new(pki: &Pki, clock: Arc<dyn WallClock>) -> Result<Self, PkiError> {
        let provider = Arc::new(ring::default_provider());
        let certs = ClientCerts::new(pki.roots()?, Arc::clone(&provider), clock)
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
        })
    }
}

/// Serves until `stop`, then lets open requests finish within the grace. Returns how many connections were cut.
pub async fn serve<S>(listener: TcpListener, tls: Tls, service: S, options: ServeOptions, stop: Stop) -> usize
where
    S: Service<Request<Incoming>, Response = Response<ApiBody>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let budget = Arc::new(Semaphore::new(options.connections_max));
    // Connections see the stop through `draining`; the group's own stop is the end of their grace.
    let connections = TaskGroup::new(&Stop::new());
    let streams = Streams(connections.clone());
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
    streams: Streams,
}

/// Runs the streams of HTTP/2 connections as tasks of the front's group.
#[derive(Clone)]
struct Streams(TaskGroup);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let cut = self.0.stop().clone();
        self.0.spawn(async move {
            cut.run_until_cancelled(stream).await;
        });
    }
}

impl Front {
    async fn connection<S>(self: Arc<Self>, stream: TcpStream, from: SocketAddr, service: S, draining: Stop)
    where
        S: Service<Request<Incoming>, Response = Response<ApiBody>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
    {
        let Some(stream) = self.handshake(stream, from).await else {
            return;
        };
        let (_, session) = stream.get_ref();
        let http2 = session.alpn_protocol() == Some(b"h2");
        let peer = Arc::new(self.tls.certs.accept(session.peer_certificates()));
        if let Peer::Refused(why) = &*peer {
            tracing::info!(%from, %why, "client certificate refused: requests get 401");
        }
        let front = Arc::clone(&self);
        let scope = Arc::<Scope>::default();
        let answer = service_fn(move |mut request: Request<Incoming>| {
            let (front, peer, service) = (Arc::clone(&front), Arc::clone(&peer), service.clone());
            request.extensions_mut().insert(Arc::clone(&scope));
            async move { front.answer(&peer, request, service).await }
        });
        let builder = self.builder(http2);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), answer));
        let served = tokio::select! {
            served = connection.as_mut() => served,
            () = draining.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = served {
            tracing::debug!(%from, error = &*error, "connection ended");
        }
    }

    async fn handshake(&self, stream: TcpStream, from: SocketAddr) -> Option<TlsStream<TcpStream>> {
        // Small frames (watch events) must not wait for an ACK; dead HTTP/1 watchers must be found.
        let socket = socket2::SockRef::from(&stream);
        let alive = socket2::TcpKeepalive::new().with_time(Duration::from_secs(60));
        let _ = socket
            .set_tcp_nodelay(true)
            .and_then(|()| socket.set_tcp_keepalive(&alive));
        let handshake = self.tls.acceptor.accept(stream);
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

    /// The protocol is what ALPN said, so that no byte has to arrive before a deadline runs.
    fn builder(&self, http2: bool) -> auto::Builder<Streams> {
        let ruled = self.options.limits.as_ref().and_then(Limits::streams_max);
        let streams_max = self.options.streams_max;
        let streams_max = ruled.map_or(streams_max, |ruled| ruled.min(streams_max));
        let mut builder = auto::Builder::new(self.streams.clone());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.options.head_timeout);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(streams_max)
            .max_header_list_size(self.options.header_bytes_max)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(self.options.ping_interval)
            .keep_alive_timeout(self.options.ping_interval / 2);
        if http2 {
            builder.http2_only()
        } else {
            builder.http1_only()
        }
    }

    async fn answer<S>(
        &self,
        peer: &Peer,
        mut request: Request<Incoming>,
        mut service: S,
    ) -> Result<Response<ApiBody>, Infallible>
    where
        S: Service<Request<Incoming>, Response = Response<ApiBody>, Error = Infallible>,
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
