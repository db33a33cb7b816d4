//! Requests over HTTP/1.1 that are answered before all of them is read.
//!
//! A client that sends its whole request before it looks for the answer, as Python's does, finds a broken connection when the
//! server closes it with the rest unread, and has lost the answer. So the rest is thrown away first, as Go's server does;
//! how much and for how long has a bound.

use std::time::Duration;

use bytes::Buf;
use http::HeaderMap;
use http::header::EXPECT;
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// What is thrown away of a request, in bytes; over HTTP/2 it is as much.
const SPARED_BYTES: usize = 8 << 20;
/// And for how long.
const SPARED_TIME: Duration = Duration::from_millis(500);

/// A body that comes back when nobody wants more of it.
pub(super) struct Lent {
    body: Option<Incoming>,
    back: Option<oneshot::Sender<Incoming>>,
    /// Whether the client waits to be asked for it.
    waits: bool,
}

/// What is left of a body.
pub(super) struct Rest(oneshot::Receiver<Incoming>);

impl Lent {
    /// The body of a request with these headers, and what will be left of it.
    pub(super) fn of(body: Incoming, headers: &HeaderMap) -> (Self, Rest) {
        let (back, rest) = oneshot::channel();
        let lent = Self {
            body: Some(body),
            back: Some(back),
            waits: headers.contains_key(EXPECT),
        };
        (lent, Rest(rest))
    }

    /// To read from, which asks a client that waits.
    pub(super) fn read(&mut self) -> Option<&mut Incoming> {
        self.waits = false;
        self.body.as_mut()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some((body, back)) = self.body.take().zip(self.back.take())
            && !self.waits
            && !body.is_end_stream()
        {
            // Nobody may be left to throw it away.
            let _ = back.send(body);
        }
    }
}

impl Rest {
    /// Throws away what nobody reads any more. Who has more to say than that, or says nothing, is cut off.
    pub(super) async fn spare(mut self) {
        let Ok(mut body) = self.0.try_recv() else {
            return;
        };
        let reading = async {
            let mut spared = 0;
            while let Some(Ok(frame)) = body.frame().await {
                spared += frame.data_ref().map_or(0, Buf::remaining);
                if spared > SPARED_BYTES {
                    return;
                }
            }
        };
        let _ = timeout(SPARED_TIME, reading).await;
    }
}
