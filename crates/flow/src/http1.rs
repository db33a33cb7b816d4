//! Requests over HTTP/1.1 that are answered before all of them is read.
//!
//! A client that sends its whole request before it looks for the answer, as Python's does, finds a broken connection when the
//! server closes it with the rest unread, and has lost the answer. So the rest is thrown away first, as Go's server does;
//! how much and for how long has a bound. Over HTTP/2 [`Receive::spare`](crate::http2::Receive::spare) does the same.

use bytes::Buf;
use http::HeaderMap;
use http::header::EXPECT;
use http_body::Body;
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::http2::{SPARED_BYTES, SPARED_TIME};

/// A body that comes back when nobody wants more of it.
#[derive(Debug)]
pub struct Lent<B: Body + Unpin> {
    /// It is here until this is dropped.
    body: Option<B>,
    back: Option<oneshot::Sender<B>>,
    /// Whether the client waits to be asked for it.
    waits: bool,
}

/// What is left of a body.
#[derive(Debug)]
pub struct Rest<B>(oneshot::Receiver<B>);

impl<B: Body + Unpin> Lent<B> {
    /// The body of a request with these headers, and what will be left of it.
    #[must_use]
    pub fn of(body: B, headers: &HeaderMap) -> (Self, Rest<B>) {
        let (back, rest) = oneshot::channel();
        let lent = Self {
            body: Some(body),
            back: Some(back),
            waits: headers.contains_key(EXPECT),
        };
        (lent, Rest(rest))
    }

    /// To read from, which asks a client that waits.
    pub fn read(&mut self) -> Option<&mut B> {
        self.waits = false;
        self.body.as_mut()
    }

    /// To look at.
    #[must_use]
    pub fn peek(&self) -> Option<&B> {
        self.body.as_ref()
    }
}

impl<B: Body + Unpin> Drop for Lent<B> {
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

impl<B: Body + Unpin> Rest<B> {
    /// Throws away what nobody reads any more. Who has more to say than that, or says nothing, is cut off.
    pub async fn spare(mut self) {
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
