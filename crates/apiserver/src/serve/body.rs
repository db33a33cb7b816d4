//! A request's body, whichever protocol it came by.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use setpoint_flow::http1::{Lent, Rest};
use setpoint_flow::http2::ReceivedBody;
use tokio::sync::oneshot;

use crate::body::BodyError;

/// The body of a request to the HTTPS front.
#[derive(Debug)]
pub struct RequestBody(Source);

#[derive(Debug)]
enum Source {
    Http1(Lent<Incoming>),
    Http2(Kept),
}

/// A body of HTTP/2 that goes back to its connection when nobody wants more of it.
#[derive(Debug)]
struct Kept {
    /// It is here until it is dropped.
    body: Option<ReceivedBody>,
    back: Option<oneshot::Sender<ReceivedBody>>,
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

impl RequestBody {
    /// The body, and where what is left of it goes when the request has been answered.
    pub(super) fn kept(body: ReceivedBody) -> (Self, oneshot::Receiver<ReceivedBody>) {
        let (back, rest) = oneshot::channel();
        let (body, back) = (Some(body), Some(back));
        (Self(Source::Http2(Kept { body, back })), rest)
    }

    /// The body of a request over HTTP/1.1 with these headers, and what will be left of it.
    pub(super) fn lent(body: Incoming, headers: &HeaderMap) -> (Self, Rest<Incoming>) {
        let (lent, rest) = Lent::of(body, headers);
        (Self(Source::Http1(lent)), rest)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Source::Http1(lent) => match lent.read() {
                Some(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
                None => Poll::Ready(None),
            },
            Source::Http2(Kept { body: Some(body), .. }) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Source::Http2(Kept { body: None, .. }) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Http1(lent) => lent.peek().is_none_or(Body::is_end_stream),
            Source::Http2(kept) => kept.body.as_ref().is_none_or(Body::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Http1(lent) => lent.peek().map(Body::size_hint).unwrap_or_default(),
            Source::Http2(kept) => kept.body.as_ref().map(Body::size_hint).unwrap_or_default(),
        }
    }
}
