//! HTTP that is not gRPC: requests of both protocols in, answers out.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_LENGTH,
};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use setpoint_base::Stop;
use setpoint_flow::http1::Lent;
use setpoint_flow::http2::Receive;
use setpoint_flow::page;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tonic::Status;

use super::connection::Client;
use super::debug;
use super::few::Hold;
use super::gateway::websocket::{self, Opening};
use super::gateway::{self, Lines};
use super::http as plain;
use super::listen::Serves;
use super::outbound::{Gone, Http2};
use super::pprof;
use super::server::Shared;

/// A certificate names no user to the gateway: refused, so that nobody believes it does.
const NO_USER: &str =
    "CommonName of client sending a request against gateway will be ignored and not used as expected\n";

/// Too many answers wait for their clients.
const BUSY: &str = "too many requests\n";

/// A request's body.
pub(super) enum Body {
    Http1(hyper::body::Incoming),
    /// The same, to be thrown away when it is answered unread.
    Lent(Lent<hyper::body::Incoming>),
    Http2(Kept),
    /// What came as messages, a line each.
    Messages(mpsc::Receiver<Bytes>),
}

impl Body {
    /// Nothing more is asked for.
    pub(super) fn leave(&mut self) {
        if let Self::Messages(messages) = self {
            messages.close();
        }
    }

    /// The next bytes; `None` after the last.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, Status> {
        let gone = || Status::cancelled("context canceled");
        match self {
            Self::Http1(body) => data(body).await.map_err(|_| gone()),
            Self::Lent(lent) => match lent.read() {
                Some(body) => data(body).await.map_err(|_| gone()),
                None => Ok(None),
            },
            Self::Http2(Kept { body: None, .. }) => Ok(None),
            Self::Http2(Kept { body: Some(body), .. }) => match body.data().await {
                Some(Ok(data)) => {
                    body.release(data.len());
                    Ok(Some(data))
                }
                Some(Err(_)) => Err(gone()),
                None => Ok(None),
            },
            Self::Messages(messages) => Ok(messages.recv().await),
        }
    }
}

/// The next bytes of a body of HTTP/1.1.
async fn data(body: &mut hyper::body::Incoming) -> Result<Option<Bytes>, hyper::Error> {
    while let Some(frame) = body.frame().await.transpose()? {
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// A body of HTTP/2 that goes back to its call when nobody wants more of it.
pub(super) struct Kept {
    body: Option<Receive>,
    back: Option<oneshot::Sender<Receive>>,
}

impl Kept {
    /// The body, and where it goes back to.
    pub(super) fn of(body: Receive) -> (Self, oneshot::Receiver<Receive>) {
        let (back, rest) = oneshot::channel();
        let (body, back) = (Some(body), Some(back));
        (Self { body, back }, rest)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some((body, back)) = self.body.take().zip(self.back.take())
            && !body.is_end_stream()
        {
            // Its call may be gone.
            let _ = back.send(body);
        }
    }
}

/// An answer's body.
pub(super) enum AnswerBody {
    /// All of it.
    Full {
        data: Option<Bytes>,
        /// The room it takes until it has been sent.
        _room: Hold,
    },
    /// A stream's messages, as they come.
    Lines(Box<Lines>),
}

impl AnswerBody {
    pub(super) fn full(data: impl Into<Bytes>, room: Hold) -> Self {
        let data: Bytes = data.into();
        Self::Full {
            data: (!data.is_empty()).then_some(data),
            _room: room,
        }
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = match self.get_mut() {
            Self::Full { data, .. } => Poll::Ready(data.take()),
            Self::Lines(lines) => lines.poll_line(cx),
        };
        data.map(|data| data.map(|data| Ok(Frame::data(data))))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full { data, .. } => SizeHint::with_exact(data.as_ref().map_or(0, Bytes::len) as u64),
            Self::Lines(_) => SizeHint::default(),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Full { data: None, .. })
    }
}

fn is_gateways(client: &Client, path: &str) -> bool {
    client.serves != Serves::Metrics && (path.starts_with("/v3/") || path.starts_with("/v3beta/"))
}

/// Refuses who believes that its certificate says who it is.
fn not_by_certificate(shared: &Shared, client: &Client) -> Option<Response<AnswerBody>> {
    let believes = client.common_name.is_some() && shared.auth.is_on();
    believes.then(|| {
        plain::text(StatusCode::BAD_REQUEST, NO_USER.to_owned())
            .map(|body| AnswerBody::full(body, Hold::Nothing))
    })
}

/// Answers a request for a WebSocket; `None` where there are none.
pub(super) fn upgrade(
    shared: &Shared,
    client: &Client,
    head: &mut Parts,
) -> Option<(Response<AnswerBody>, Option<Opening>)> {
    let asked = is_gateways(client, head.uri.path()) && websocket::is_asked(&head.headers);
    asked.then(|| match not_by_certificate(shared, client) {
        Some(refused) => (refused, None),
        None => websocket::accept(shared, head),
    })
}

/// Answers a request that is not gRPC. What is left of one over HTTP/1.1 is thrown away before it is answered.
pub(super) async fn respond(
    shared: &Arc<Shared>,
    client: &Client,
    head: &Parts,
    body: Body,
    stop: &Stop,
) -> Response<AnswerBody> {
    let Body::Http1(body) = body else {
        return answer(shared, client, head, body, stop).await;
    };
    let (lent, rest) = Lent::of(body, &head.headers);
    let response = answer(shared, client, head, Body::Lent(lent), stop).await;
    rest.spare().await;
    response
}

async fn answer(
    shared: &Arc<Shared>,
    client: &Client,
    head: &Parts,
    body: Body,
    stop: &Stop,
) -> Response<AnswerBody> {
    let path = head.uri.path();
    let mut response = if head.method == Method::OPTIONS {
        Response::new(AnswerBody::full("", Hold::Nothing))
    } else if is_gateways(client, path) {
        match not_by_certificate(shared, client) {
            Some(refused) => refused,
            None => gateway::respond(shared, client, head, body, stop).await,
        }
    } else {
        let mut response = match &shared.options.profiler {
            _ if path == page::PATH => debug::respond(shared, client, head),
            Some(profiler) if pprof::is_meant(path) && client.serves != Serves::Metrics => {
                let line = &shared.options.command_line;
                pprof::respond(&**profiler, &head.method, &head.uri, line).await
            }
            _ => plain::respond(shared, client.serves, &head.method, &head.uri),
        };
        if head.method == Method::HEAD {
            // The headers alone, as they would be.
            let len = std::mem::take(response.body_mut()).len();
            response.headers_mut().insert(CONTENT_LENGTH, len.into());
        }
        // The client may leave it unread, and ask for many.
        match shared.room_to_wait(&client.share, response.body().len()) {
            Some(room) => response.map(|body| AnswerBody::full(body, room)),
            None => plain::text(StatusCode::SERVICE_UNAVAILABLE, BUSY.to_owned())
                .map(|body| AnswerBody::full(body, Hold::Nothing)),
        }
    };
    // What a page of somebody else's may not ask for in its reader's name.
    if path != page::PATH {
        allow_origins(&mut response);
    }
    response
}

/// etcd's `--cors` allows every origin unless it is set.
fn allow_origins(response: &mut Response<AnswerBody>) {
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_METHODS, "POST, GET, OPTIONS, PUT, DELETE"),
        (ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (
            ACCESS_CONTROL_ALLOW_HEADERS,
            "accept, content-type, authorization",
        ),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
}

/// Sends an answer on an HTTP/2 stream. A client that does not read a whole one loses it; lines may wait.
pub(super) async fn send(shared: &Shared, response: Response<AnswerBody>, mut sink: Http2) {
    let (head, mut body) = response.into_parts();
    let end = http_body::Body::is_end_stream(&body);
    if sink.start(Response::from_parts(head, ()), end).is_err() || end {
        return;
    }
    let patient = matches!(body, AnswerBody::Lines(_));
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else {
            continue;
        };
        shared.metrics.sent_bytes.inc_by(data.len() as u64);
        let sent = if patient {
            sink.send(data).await
        } else {
            let sending = timeout(shared.options.stall_timeout, sink.send(data));
            sending.await.unwrap_or(Err(Gone))
        };
        if sent.is_err() {
            return sink.abandon();
        }
    }
    sink.finish();
}
