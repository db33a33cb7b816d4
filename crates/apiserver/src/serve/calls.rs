//! The requests of one HTTP/2 connection, each answered by a task of its own: they are long, and some compute.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::SendResponse;
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, HeaderName, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body::Body;
use jiff::fmt::rfc2822::DateTimePrinter;
use setpoint_flow::Scope;
use setpoint_flow::http2::{self, Handler, Pace, Receive, ReceivedBody};
use tokio_util::task::AbortOnDropHandle;
use tower::Service;

use super::{Front, RequestBody};
use crate::authn::Peer;
use crate::body::ApiBody;

/// Headers that belong to a connection of HTTP/1.
const OF_HTTP1: [HeaderName; 5] = [
    CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// What every request of a connection is answered with.
pub(super) struct Calls<S> {
    pub(super) front: Arc<Front>,
    pub(super) peer: Arc<Peer>,
    pub(super) scope: Arc<Scope>,
    pub(super) service: S,
    pub(super) pace: Pace,
}

/// A request in progress; it ends with its connection.
pub(super) struct Running(AbortOnDropHandle<()>);

impl Future for Running {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // A panic was printed, and the stream is reset as its handles are gone.
        Pin::new(&mut self.0).poll(cx).map(drop)
    }
}

impl<S> Handler for Calls<S>
where
    S: Service<Request<RequestBody>, Response = Response<ApiBody>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    type Call = Running;

    fn begin(&mut self, request: Request<Receive>, mut respond: SendResponse<Bytes>) -> Option<Running> {
        let (head, body) = request.into_parts();
        let body = ReceivedBody::new(body, &head.headers);
        let (body, mut rest) = RequestBody::kept(body);
        let mut request = Request::from_parts(head, body);
        request.extensions_mut().insert(Arc::clone(&self.scope));
        let is_head = request.method() == Method::HEAD;
        let (front, peer) = (Arc::clone(&self.front), Arc::clone(&self.peer));
        let (service, pace) = (self.service.clone(), self.pace.clone());
        let cut = self.front.streams.stop().clone();
        let call = async move {
            let response = tokio::select! {
                biased;
                // The client has given up.
                _ = poll_fn(|cx| respond.poll_reset(cx)) => return,
                Ok(response) = front.answer(&peer, request, service) => response,
            };
            let response = front.finish(response, is_head);
            // Who went away needs no answer; a body that failed has reset its stream.
            let sent = http2::send(&pace, &mut respond, response).await;
            // Refused unread: not all clients survive being told to stop beside the answer.
            if let (Ok(()), Ok(rest)) = (sent, rest.try_recv()) {
                rest.spare().await;
            }
        };
        let task = self.front.streams.spawn(async move {
            cut.run_until_cancelled(call).await;
        });
        Some(Running(AbortOnDropHandle::new(task)))
    }
}

impl Front {
    /// Adds what every answer has: its date, and its length where that is known.
    fn finish(&self, mut response: Response<ApiBody>, is_head: bool) -> Response<ApiBody> {
        let length = response.body().size_hint().exact();
        let headers = response.headers_mut();
        for name in &OF_HTTP1 {
            headers.remove(name);
        }
        self.date(headers);
        if let Some(length) = length.filter(|length| *length > 0)
            && !headers.contains_key(CONTENT_LENGTH)
        {
            headers.insert(CONTENT_LENGTH, length.into());
        }
        if is_head {
            *response.body_mut() = ApiBody::empty();
        }
        response
    }

    fn date(&self, headers: &mut HeaderMap) {
        if headers.contains_key(DATE) {
            return;
        }
        let text = DateTimePrinter::new().timestamp_to_rfc9110_string(&self.tls.clock.now());
        if let Ok(Ok(date)) = text.map(HeaderValue::try_from) {
            headers.insert(DATE, date);
        }
    }
}
