//! What a peer sends on a stream, and how it is counted until it is read.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use tokio::time::timeout;

use super::pacing::Pace;

/// What is thrown away of a request that was answered unread.
pub(crate) const SPARED_BYTES: usize = 8 << 20;
/// For how long it is.
pub(crate) const SPARED_TIME: Duration = Duration::from_millis(500);

/// The receiving half of a stream. Bytes stay counted as unread, and the peer's windows closed by as much, until they are
/// [released](Receive::release).
#[derive(Debug)]
pub struct Receive {
    body: RecvStream,
    pace: Pace,
    /// It has come with a body, whose reader this is.
    reads: bool,
}

impl Receive {
    /// Counts what is read from `body`.
    #[must_use]
    pub fn new(body: RecvStream, pace: Pace) -> Self {
        let reads = !body.is_end_stream();
        if reads {
            pace.gauges.credit.has_reader(body.stream_id().as_u32());
        }
        Self { body, pace, reads }
    }

    /// The next bytes; `None` after the last. Cancel-safe.
    pub async fn data(&mut self) -> Option<Result<Bytes, h2::Error>> {
        poll_fn(|cx| self.poll_data(cx)).await
    }

    /// The next bytes; `None` after the last.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        self.body.poll_data(cx)
    }

    /// The trailers, if there are any. To be asked after the last bytes.
    pub fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>, h2::Error>> {
        self.body.poll_trailers(cx)
    }

    /// Whether the peer has said all, and all of it has been read.
    #[must_use]
    pub fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    /// Throws away what little is still to come, for a moment: for a request that has been answered unread. To leave at once is
    /// to say RST_STREAM beside the answer, which is right and which not all clients survive: curl 7.88 forgets the answer
    /// when both come before it has sent all of its request.
    pub async fn spare(mut self) {
        let reading = async {
            let mut spared = 0;
            while let Some(Ok(data)) = self.data().await {
                self.release(data.len());
                spared += data.len();
                if spared > SPARED_BYTES {
                    return;
                }
            }
        };
        // Who has more to say, or says nothing, is told to stop.
        let _ = timeout(SPARED_TIME, reading).await;
    }

    /// So many bytes need no more room here: the peer may send as many again.
    pub fn release(&mut self, bytes: usize) {
        if self.body.flow_control().release_capacity(bytes).is_ok() {
            let stream = self.body.stream_id().as_u32();
            self.pace.gauges.credit.read(stream, bytes as u64);
        }
    }
}

/// A client's stream, from its request until its answer has come: see the module's text. Dropping it gives up the answer.
#[derive(Debug)]
pub struct Expected {
    stream: u32,
    /// `None` once the answer has come.
    pace: Option<Pace>,
}

impl Expected {
    /// To be made as soon as the request has its stream.
    #[must_use]
    pub fn new(stream: &h2::SendStream<Bytes>, pace: Pace) -> Self {
        let stream = stream.stream_id().as_u32();
        pace.gauges.credit.has_reader(stream);
        Self {
            stream,
            pace: Some(pace),
        }
    }

    /// The answer's body.
    #[must_use]
    pub fn receive(mut self, body: RecvStream) -> Receive {
        let pace = self.pace.take().expect("an answer comes once");
        let reads = true;
        Receive { body, pace, reads }
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        if let Some(pace) = &self.pace {
            pace.gauges.credit.has_left(self.stream);
        }
    }
}

impl Drop for Receive {
    fn drop(&mut self) {
        if self.reads {
            // The protocol gives back what was not read.
            let stream = self.body.stream_id().as_u32();
            self.pace.gauges.credit.has_left(stream);
        }
    }
}

/// A request's or an answer's body; bytes are released as they are read.
#[derive(Debug)]
pub struct ReceivedBody {
    receive: Receive,
    /// What is still to come, where the headers said so.
    left: Option<u64>,
    data_over: bool,
}

impl ReceivedBody {
    /// The body of a message with these headers.
    #[must_use]
    pub fn new(receive: Receive, headers: &HeaderMap) -> Self {
        let length = headers.get(http::header::CONTENT_LENGTH);
        Self {
            left: length.and_then(|value| value.to_str().ok()?.parse().ok()),
            receive,
            data_over: false,
        }
    }

    /// Throws away what little is still to come: [`Receive::spare`].
    pub async fn spare(self) {
        self.receive.spare().await;
    }
}

impl http_body::Body for ReceivedBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.data_over {
            match ready!(self.receive.poll_data(cx)) {
                Some(Ok(data)) => {
                    self.receive.release(data.len());
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // A server that answered early may end the stream so; what it owed has come.
                Some(Err(error))
                    if error.reason() == Some(h2::Reason::NO_ERROR) && self.left.unwrap_or(0) == 0 =>
                {
                    return Poll::Ready(None);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_over = true,
            }
        }
        let trailers = ready!(self.receive.poll_trailers(cx));
        Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)).transpose())
    }

    fn is_end_stream(&self) -> bool {
        self.receive.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            _ if self.is_end_stream() => SizeHint::with_exact(0),
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::default(),
        }
    }
}
