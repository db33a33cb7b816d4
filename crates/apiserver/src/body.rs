//! The response body: shared bytes, or a stream of them that is pulled as the connection drains.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use http_body::{Body, Frame, SizeHint};

/// What ends a body early: the connection is cut, so that the client cannot take it for complete.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A stream of byte chunks.
pub(crate) type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send>>;

/// A response body. Chunks are shared, never copied to build one.
pub struct ApiBody(Inner);

enum Inner {
    Chunks(VecDeque<Bytes>, u64),
    Stream(ByteStream),
}

impl ApiBody {
    /// No bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self(Inner::Chunks(VecDeque::new(), 0))
    }

    /// These bytes.
    #[must_use]
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self::chunks([bytes.into()])
    }

    /// These chunks in order.
    #[must_use]
    pub fn chunks(chunks: impl IntoIterator<Item = Bytes>) -> Self {
        let chunks: VecDeque<_> = chunks.into_iter().filter(|c| !c.is_empty()).collect();
        let left = chunks.iter().map(|c| c.len() as u64).sum();
        Self(Inner::Chunks(chunks, left))
    }

    /// A stream, polled only as fast as the connection takes it.
    pub(crate) fn stream(stream: ByteStream) -> Self {
        Self(Inner::Stream(stream))
    }
}

impl Body for ApiBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Inner::Chunks(chunks, left) => Poll::Ready(chunks.pop_front().map(|chunk| {
                *left -= chunk.len() as u64;
                Ok(Frame::data(chunk))
            })),
            Inner::Stream(stream) => stream
                .as_mut()
                .poll_next(cx)
                .map(|item| item.map(|chunk| chunk.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.0, Inner::Chunks(chunks, _) if chunks.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Chunks(_, left) => SizeHint::with_exact(*left),
            Inner::Stream(_) => SizeHint::default(),
        }
    }
}
