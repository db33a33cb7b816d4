//! One connection: who it is, which protocol it speaks, and what becomes of its requests. HTTP/2 itself is driven by
//! `setpoint_flow::http2`.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use http::{HeaderMap, Request};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use setpoint_base::Stop;
use setpoint_flow::http2::{
    self, Bypass, Cork, Drained, Handler, Http2Options, PREFACE, Pace, Receive, Stall, drain,
};
use setpoint_flow::{Live, Scope};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::arriving::OfOne;
use super::bypass::{Reads, Repeats};
use super::call::{self, Running};
use super::listen::{Incoming, Serves};
use super::overload;
use super::readings::Seen;
use super::room::Share;
use super::server::Shared;
use super::socket::{Plain, Socket};
use super::web::{self, Body};

/// Bytes a call may have queued before it waits for its client to read.
const SEND_BUFFER_BYTES: usize = 256 << 10;
const HEADERS_BYTES_MAX: u32 = 16 << 10;

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
    /// What it may have of the room for wide answers.
    pub(super) share: Share,
    /// What has arrived of its requests that are not whole.
    pub(super) arriving: OfOne,
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
    let shown = address.map_or_else(|| "unix".to_owned(), |address| address.to_string());
    let Some((mut socket, common_name)) = meet(&shared, socket, secure).await else {
        return;
    };
    let Ok(Some((is_http2, prefix))) = timeout(shared.options.hello_timeout, sniff(&mut socket)).await else {
        return;
    };
    let live = shared.options.flow.open("etcd", &shown);
    if let Some(tcp) = socket.info() {
        live.is_over(tcp);
    }
    let limited = shared.options.limits.is_some().then(|| {
        // Whoever has no name is known by his address, whatever port he comes from.
        let address = address.map_or_else(|| "unix".to_owned(), |address| address.ip().to_string());
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
        pace: Pace::of(&live),
        seen: Arc::default(),
        share: shared.room.share(),
        arriving: OfOne::default(),
    };
    tracing::debug!(
        user = client.common_name.as_deref(),
        secure,
        is_http2,
        "etcd client"
    );
    let cork = Cork::new(socket, prefix);
    if is_http2 {
        let options = http2_options(&shared);
        let handler = Calls {
            shared,
            client,
            stop: stop.clone(),
            repeats: Repeats::default(),
        };
        http2::serve(cork, handler, live, &options, &stop).await;
    } else if serves != Serves::Grpc {
        serve_http1(shared, client, cork, live, stop).await;
    }
}

/// Speaks TLS where that is asked for; `None` when the client does not.
async fn meet(shared: &Shared, socket: Plain, secure: bool) -> Option<(Socket, Option<Arc<str>>)> {
    let Some(tls) = shared.tls.as_ref().filter(|_| secure) else {
        return Some((Socket::Plain(socket), None));
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

async fn serve_http1(shared: Arc<Shared>, client: Client, cork: Cork<Socket>, live: Live, stop: Stop) {
    live.speaks("http/1.1");
    let opening = Mutex::new(None);
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let (mut head, body) = request.into_parts();
        let (shared, client, stop, opening) = (&shared, &client, &stop, &opening);
        async move {
            let response = match web::upgrade(shared, client, &mut head) {
                Some((response, opens)) => {
                    *opening.lock() = opens;
                    response
                }
                None => web::respond(shared, client, &head, Body::Http1(body), stop).await,
            };
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let io = TokioIo::new(cork.clone());
    let mut connection = pin!(
        hyper::server::conn::http1::Builder::new()
            .timer(hyper_util::rt::TokioTimer::new())
            .header_read_timeout(shared.options.hello_timeout)
            .serve_connection(io, service)
            .with_upgrades()
    );
    let mut stopped = pin!(stop.cancelled());
    let mut draining = false;
    let served = poll_fn(|cx| {
        if !draining && stopped.as_mut().poll(cx).is_ready() {
            draining = true;
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx)
    });
    drive(&shared, &cork, served).await;
    let opening = opening.lock().take();
    if let Some(opening) = opening {
        drive(&shared, &cork, opening.serve(&shared, &client, &stop)).await;
    }
}

/// Runs to the end, and writes what is said after each turn; stops when the client does not read.
async fn drive<T>(shared: &Shared, cork: &Cork<Socket>, run: impl Future<Output = T>) {
    let mut run = pin!(run);
    let mut ended = false;
    let mut stall = Stall::new(shared.options.stall_timeout);
    poll_fn(|cx| {
        ended = ended || run.as_mut().poll(cx).is_ready();
        match drain(cork, &mut stall, cx) {
            Drained::All if !ended => Poll::Pending,
            Drained::Waits => Poll::Pending,
            Drained::All | Drained::Stalled | Drained::Broken => Poll::Ready(()),
        }
    })
    .await;
}

/// The calls of an HTTP/2 connection.
struct Calls {
    shared: Arc<Shared>,
    client: Client,
    stop: Stop,
    repeats: Repeats,
}

impl Handler for Calls {
    type Call = Running;
    const BYPASSES: bool = true;

    fn bypass(&mut self, path: &str, _headers: &HeaderMap) -> Option<Box<dyn Bypass>> {
        let repeats = self.repeats.saw(path);
        repeats.then(|| Box::new(Reads::new(self.shared.clone(), self.client.clone())) as Box<dyn Bypass>)
    }

    fn begin(&mut self, request: Request<Receive>, respond: SendResponse<Bytes>) -> Option<Running> {
        call::begin(&self.shared, &self.client, request, respond, &self.stop)
    }
}

fn http2_options(shared: &Shared) -> Http2Options {
    Http2Options {
        streams_max: overload::streams_max(shared),
        header_bytes_max: HEADERS_BYTES_MAX,
        send_buffer_bytes: SEND_BUFFER_BYTES,
        hello_timeout: shared.options.hello_timeout,
        header_timeout: shared.options.hello_timeout,
        stall_timeout: shared.options.stall_timeout,
        keep_alive: None,
    }
}
