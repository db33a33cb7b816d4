//! A request's body, kept up to a bound so that another attempt can send it again.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use parking_lot::Mutex;
use tonic::Status;

use super::error::ChannelError;
use crate::core::message::{Messages, Violation};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type BoxBody = UnsyncBoxBody<Bytes, BoxError>;

/// A body that several attempts read from its start.
#[derive(Clone)]
pub(super) struct Replay(Arc<Mutex<State>>);

struct State {
    /// None once it is read to its end.
    body: Option<BoxBody>,
    /// Chunks from the `first` one on.
    chunks: VecDeque<Bytes>,
    first: usize,
    trailers: Option<HeaderMap>,
    /// Bytes that may still be kept; none: what was sent is let go.
    room: Option<usize>,
    limit: Option<Limit>,
}

struct Limit {
    messages: Messages,
    bytes_max: usize,
}

/// What comes next.
pub(super) enum Part {
    /// Bytes; true: nothing comes after them.
    Data(Bytes, bool),
    /// The end, with trailers if there are any.
    End(Option<HeaderMap>),
}

impl Replay {
    /// Up to `room` bytes are kept; messages of a gRPC call may be `bytes_max` long.
    pub(super) fn new<B>(body: B, room: usize, bytes_max: Option<usize>) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let body: Option<BoxBody> = if body.is_end_stream() {
            None
        } else {
            Some(body.map_err(Into::into).boxed_unsync())
        };
        Self(Arc::new(Mutex::new(State {
            body,
            chunks: VecDeque::new(),
            first: 0,
            trailers: None,
            room: Some(room),
            limit: bytes_max.map(|bytes_max| Limit {
                messages: Messages::new(bytes_max, true),
                bytes_max,
            }),
        })))
    }

    /// Whether there is no body at all.
    pub(super) fn is_empty(&self) -> bool {
        let state = self.0.lock();
        state.body.is_none() && state.first == 0 && state.chunks.is_empty() && state.trailers.is_none()
    }

    /// Whether another attempt could send it from its start.
    pub(super) fn can_begin_again(&self) -> bool {
        self.0.lock().room.is_some()
    }

    /// Whether it is here as a whole, so that attempts can send it side by side.
    pub(super) fn is_whole(&self) -> bool {
        let state = self.0.lock();
        state.body.is_none() && state.room.is_some()
    }

    /// There will be no other attempt: what was sent is let go.
    pub(super) fn commit(&self) {
        self.0.lock().room = None;
    }

    /// The part at `index`, counted from the body's start.
    pub(super) fn poll_part(&self, cx: &mut Context<'_>, index: usize) -> Poll<Result<Part, Status>> {
        self.0.lock().poll_part(cx, index)
    }
}

impl State {
    fn poll_part(&mut self, cx: &mut Context<'_>, index: usize) -> Poll<Result<Part, Status>> {
        if self.room.is_none() {
            while self.first < index && self.chunks.pop_front().is_some() {
                self.first += 1;
            }
        }
        let Some(at) = index.checked_sub(self.first) else {
            let gone = ChannelError::Request("its body is not kept any more".to_owned());
            return Poll::Ready(Err(gone.into()));
        };
        if at >= self.chunks.len() {
            ready!(self.poll_read(cx))?;
        }
        if at >= self.chunks.len() {
            return Poll::Ready(Ok(Part::End(self.trailers.clone())));
        }
        // One ahead, so that the last bytes can say that they are.
        if at + 1 == self.chunks.len()
            && let Poll::Ready(result) = self.poll_read(cx)
        {
            result?;
        }
        let last = at + 1 == self.chunks.len() && self.body.is_none() && self.trailers.is_none();
        Poll::Ready(Ok(Part::Data(self.chunks[at].clone(), last)))
    }

    /// Reads one more chunk, or the end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(Ok(()));
        };
        let frame = match ready!(Pin::new(body).poll_frame(cx)) {
            None => {
                self.body = None;
                return Poll::Ready(Ok(()));
            }
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                self.give_up();
                return Poll::Ready(Err(Status::from_error(error)));
            }
        };
        match frame.into_data() {
            Ok(data) => {
                self.keep(&data)?;
                self.chunks.push_back(data);
                if body_ended(self.body.as_ref()) {
                    self.body = None;
                }
            }
            Err(frame) => {
                self.trailers = frame.into_trailers().ok();
                self.body = None;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The body failed: what there is of it must not pass for the whole.
    fn give_up(&mut self) {
        self.body = None;
        self.room = None;
    }

    fn keep(&mut self, data: &Bytes) -> Result<(), ChannelError> {
        if let Some(limit) = &mut self.limit
            && let Err(Violation::TooLong(bytes)) = limit.messages.pass(data)
        {
            let bytes_max = limit.bytes_max;
            self.give_up();
            return Err(ChannelError::SendTooLarge { bytes, bytes_max });
        }
        self.room = self.room.and_then(|room| room.checked_sub(data.len()));
        Ok(())
    }
}

fn body_ended(body: Option<&BoxBody>) -> bool {
    body.is_some_and(|body| body.is_end_stream())
}
