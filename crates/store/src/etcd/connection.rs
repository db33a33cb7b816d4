//! One connection: which protocol it speaks, and for HTTP/2 the turns of its calls.
//!
//! A turn reads and parses what has arrived, starts and polls calls, lets `h2` frame what they said, and drains the
//! cork: one write for all of it. Calls are polled by their connection's task, so that an answer costs one wake-up,
//! and dropped with it, so that none outlives its client.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::stream::{FuturesUnordered, StreamExt};
use h2::Reason;
use h2::server::{Builder, Connection};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use setpoint_base::Stop;
use setpoint_flow::Scope;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::call;
use super::cork::Cork;
use super::listen::{Incoming, Serves};
use super::overload;
use super::pacing::{Pace, Stall};
use super::readings::Seen;
use super::server::Shared;
use super::socket::Socket;
use super::web::{self, Body};

/// What every HTTP/2 connection begins with (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Receive windows: a call may have one large request on its way, a connection a few.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Bytes a call may have queued before it waits for its client to read.
const SEND_BUFFER_BYTES: usize = 256 << 10;
const HEADERS_BYTES_MAX: u32 = 16 << 10;
/// Calls that may still be in memory after their client has reset them.
const RESET_CALLS_MAX: usize = 1024;

/// Who is at the other end of a connection, and what it may ask for here.
#[derive(Clone)]
pub(super) struct Client {
    /// The common name of its certificate, where that names a user.
    pub(super) common_name: Option<Arc<str>>,
    pub(super) serves: Serves,
    /// What rate limits know of it, where there are any.
    pub(super) limited: Option<Arc<Limited>>,
    pub(super) pace: Pace,
    /// The version of the client's calls.
    pub(super) seen: Arc<Seen>,
}

/// Whom a connection's calls are counted for.
pub(super) struct Limited {
    pub(super) peer: Arc<str>,
    pub(super) scope: Scope,
}

/// Serves one client until it goes, or until `stop` and its calls have ended.
pub(super) async fn serve(shared: Arc<Shared>, incoming: Incoming, stop: Stop) {
    let Incoming {
        socket,
        secure,
        serves,
        counted: _counted,
    } = incoming;
    let socket = match socket.register() {
        Ok(socket) => socket,
        Err(error) => return tracing::warn!(%error, "register etcd client's socket"),
    };
    let address = socket.peer();
    let Some((mut socket, common_name)) = meet(&shared, socket, secure).await else {
        return;
    };
    let Ok(Some((is_http2, prefix))) = timeout(shared.options.hello_timeout, sniff(&mut socket)).await else {
        return;
    };
    let limited = shared.options.limits.is_some().then(|| {
        let peer = common_name.clone().unwrap_or_else(|| address.into());
        Arc::new(Limited {
            peer,
            scope: Scope::default(),
        })
    });
    let client = Client {
        common_name,
        serves,
        limited,
        pace: Pace::default(),
        seen: Arc::default(),
    };
    tracing::debug!(
        user = client.common_name.as_deref(),
        secure,
        is_http2,
        "etcd client"
    );
    let cork = Cork::new(socket, prefix);
    if is_http2 {
        serve_http2(shared, client, cork, stop).await;
    } else if serves != Serves::Grpc {
        serve_http1(shared, client, cork, stop).await;
    }
}

/// Speaks TLS where that is asked for; `None` when the client does not.
async fn meet(shared: &Shared, socket: Socket, secure: bool) -> Option<(Socket, Option<Arc<str>>)> {
    let (tls, socket) = match (&shared.tls, socket) {
        (Some(tls), Socket::Tcp(socket)) if secure => (tls, socket),
        (_, socket) => return Some((socket, None)),
    };
    match timeout(shared.options.hello_timeout, tls.accept(socket)).await {
        Ok(Ok(stream)) => {
            let user = tls.user(&stream);
            Some((Socket::Tls(Box::new(stream)), user))
        }
        Ok(Err(error)) => {
            shared.metrics.handshakes_failed.inc();
            tracing::debug!(%error, "etcd client's TLS handshake");
            None
        }
        Err(_) => {
            shared.metrics.handshakes_failed.inc();
            tracing::debug!("etcd client's TLS handshake not finished in time");
            None
        }
    }
}

/// Reads until the preface is whole or broken; `None` when the client leaves before.
async fn sniff(socket: &mut Socket) -> Option<(bool, Bytes)> {
    let mut start = BytesMut::with_capacity(PREFACE.len());
    loop {
        if !PREFACE.starts_with(&start) {
            return Some((false, start.freeze()));
        }
        if start.len() == PREFACE.len() {
            return Some((true, start.freeze()));
        }
        let n = (&mut *socket)
            .take((PREFACE.len() - start.len()) as u64)
            .read_buf(&mut start)
            .await
            .ok()?;
        if n == 0 {
            return None;
        }
    }
}

async fn serve_http1(shared: Arc<Shared>, client: Client, cork: Cork, stop: Stop) {
    let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        let (head, body) = request.into_parts();
        let (shared, client, stop) = (&shared, &client, &stop);
        async move {
            let response = web::respond(shared, client, &head, Body::Http1(body), stop).await;
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let io = TokioIo::new(cork.clone());
    let mut connection = pin!(
        hyper::server::conn::http1::Builder::new()
            .timer(hyper_util::rt::TokioTimer::new())
            .header_read_timeout(shared.options.hello_timeout)
            .serve_connection(io, service)
    );
    let mut stopped = pin!(stop.cancelled());
    let mut draining = false;
    let mut stall = Stall::new(shared.options.stall_timeout);
    poll_fn(|cx| {
        if !draining && stopped.as_mut().poll(cx).is_ready() {
            draining = true;
            connection.as_mut().graceful_shutdown();
        }
        let ended = connection.as_mut().poll(cx).is_ready();
        drain(&cork, &mut stall, ended, cx)
    })
    .await;
}

async fn serve_http2(shared: Arc<Shared>, client: Client, cork: Cork, stop: Stop) {
    let streams_max = overload::streams_max(&shared);
    let mut settings = Builder::new();
    settings
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(streams_max)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .max_send_buffer_size(SEND_BUFFER_BYTES);
    let mut handshake = pin!(settings.handshake::<_, Bytes>(cork.clone()));
    let greeted = poll_fn(|cx| {
        let greeted = handshake.as_mut().poll(cx);
        match cork.poll_drain(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(None),
            _ => greeted.map(Result::ok),
        }
    });
    let Ok(Some(protocol)) = timeout(shared.options.hello_timeout, greeted).await else {
        return;
    };
    let mut turns = Turns {
        stall: Stall::new(shared.options.stall_timeout),
        calls_max: streams_max as usize + RESET_CALLS_MAX,
        shared,
        client,
        protocol,
        cork,
        calls: FuturesUnordered::new(),
        stop: stop.clone(),
        draining: false,
        ended: false,
    };
    let mut stopped = pin!(stop.cancelled());
    poll_fn(|cx| {
        if !turns.draining && stopped.as_mut().poll(cx).is_ready() {
            turns.draining = true;
            turns.protocol.graceful_shutdown();
        }
        turns.poll(cx)
    })
    .await;
}

/// Writes what was collected. Ready once all is written that will be, or when nothing can be.
fn drain(cork: &Cork, stall: &mut Stall, ended: bool, cx: &mut Context<'_>) -> Poll<()> {
    match cork.poll_drain(cx) {
        Poll::Ready(Ok(())) => {
            stall.rest();
            if ended { Poll::Ready(()) } else { Poll::Pending }
        }
        Poll::Ready(Err(_)) => Poll::Ready(()),
        Poll::Pending if stall.is_over(cork.total(), cx) => {
            tracing::debug!("etcd client cut: it has not read for long");
            Poll::Ready(())
        }
        Poll::Pending => Poll::Pending,
    }
}

/// An HTTP/2 connection and its calls.
struct Turns {
    shared: Arc<Shared>,
    client: Client,
    protocol: Connection<Cork, Bytes>,
    cork: Cork,
    calls: FuturesUnordered<Pin<Box<dyn Future<Output = ()> + Send>>>,
    stop: Stop,
    draining: bool,
    ended: bool,
    stall: Stall,
    /// More calls than the protocol allows at a time: some have been reset and are not dropped yet.
    calls_max: usize,
}

impl Turns {
    /// One turn. Ready once the connection has ended and all that was said has been written.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // While the client does not take what was said, nothing is read and nothing more is said.
        if !self.ended && !self.is_clogged(cx) {
            self.poll_protocol(cx);
            // After the calls, the protocol again: it frames what they have said.
            while !self.ended && !self.calls.is_empty() {
                while let Poll::Ready(Some(())) = self.calls.poll_next_unpin(cx) {}
                if !self.poll_protocol(cx) {
                    break;
                }
            }
        }
        drain(&self.cork, &mut self.stall, self.ended, cx)
    }

    fn is_clogged(&mut self, cx: &mut Context<'_>) -> bool {
        self.cork.is_full() && self.cork.poll_drain(cx).is_pending()
    }

    /// Reads, writes and starts calls; whether it has started any, and there is room for what they say.
    fn poll_protocol(&mut self, cx: &mut Context<'_>) -> bool {
        let mut begun = false;
        loop {
            match self.protocol.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    begun = true;
                    if self.calls.len() >= self.calls_max {
                        // Calls that were reset are still being dropped: the client makes them faster than that.
                        self.protocol.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                        continue;
                    }
                    let call = call::begin(&self.shared, &self.client, request, respond, &self.stop);
                    self.calls.push(call);
                }
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(%error, "etcd client's connection");
                    self.ended = true;
                    return false;
                }
                Poll::Ready(None) => {
                    self.ended = true;
                    return false;
                }
                Poll::Pending => break,
            }
        }
        if self.cork.is_full() {
            return false;
        }
        self.client.pace.emptied();
        begun
    }
}
