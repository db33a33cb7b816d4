//! An answer's body: the stream, what it holds while it lasts, and the limits it keeps to.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;
use tonic::{Code, Status};

use super::Channel;
use super::attempt::Pump;
use super::error::{ChannelError, of_stream};
use super::lease::Lease;
use super::names;
use crate::core::message::{Messages, Violation};
use crate::http2::Receive;

/// The body of an answer. Dropping it before its end cancels the call. By default there is nothing in it.
#[derive(Default)]
pub struct ResponseBody(Option<Box<Open>>);

/// A body that has not ended.
struct Open {
    stream: Receive,
    lease: Lease,
    pump: Pump,
    deadline: Deadline,
    messages: Option<Messages>,
    bytes_max: usize,
    data_ended: bool,
    /// The channel lives as long as its calls.
    _channel: Channel,
}

/// Until when a call may last.
pub(super) struct Deadline {
    pub(super) timer: Pin<Box<Sleep>>,
    pub(super) timeout: Duration,
    /// What was called.
    pub(super) method: http::Uri,
}

impl Deadline {
    /// What the caller is told when it has passed.
    pub(super) fn error(&self, sent: bool, why: Option<std::sync::Arc<str>>) -> ChannelError {
        ChannelError::Deadline {
            method: self.method.path().to_owned(),
            timeout: self.timeout,
            sent,
            why,
        }
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody")
            .field("ended", &self.0.is_none())
            .finish()
    }
}

impl ResponseBody {
    pub(super) fn new(
        stream: Receive,
        lease: Lease,
        pump: Pump,
        deadline: Deadline,
        messages: Option<Messages>,
        channel: Channel,
        bytes_max: usize,
    ) -> Self {
        if stream.is_end_stream() {
            return Self(None);
        }
        Self(Some(Box::new(Open {
            stream,
            lease,
            pump,
            deadline,
            messages,
            bytes_max,
            data_ended: false,
            _channel: channel,
        })))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(open) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let next = ready!(open.poll_next(cx));
        let ended = !matches!(&next, Some(Ok(frame)) if frame.is_data());
        if ended {
            // Whatever is still open of the stream is reset with it.
            self.0 = None;
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Some(_) => SizeHint::default(),
            None => SizeHint::with_exact(0),
        }
    }
}

impl Open {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if !self.data_ended {
            match self.stream.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => return Poll::Ready(Some(self.pass(data))),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(self.failed(&error)))),
                Poll::Ready(None) => self.data_ended = true,
                Poll::Pending => return self.poll_deadline(cx),
            }
        }
        match self.stream.poll_trailers(cx) {
            Poll::Ready(Ok(Some(trailers))) => {
                self.lease.ended(code_of(&trailers));
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Poll::Ready(Ok(None)) => Poll::Ready(None),
            Poll::Ready(Err(error)) => Poll::Ready(Some(Err(self.failed(&error)))),
            Poll::Pending => self.poll_deadline(cx),
        }
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        ready!(self.deadline.timer.as_mut().poll(cx));
        self.lease.ended(Code::DeadlineExceeded);
        Poll::Ready(Some(Err(self.deadline.error(true, None).into())))
    }

    fn pass(&mut self, data: Bytes) -> Result<Frame<Bytes>, Status> {
        if let Some(messages) = &mut self.messages {
            messages.pass(&data).map_err(|violation| match violation {
                Violation::TooLong(bytes) => ChannelError::ReceiveTooLarge {
                    bytes,
                    bytes_max: self.bytes_max,
                },
                Violation::Compressed => ChannelError::Encoding {
                    endpoint: self.lease.endpoint.name.to_string(),
                    encoding: "compressed, unnamed".to_owned(),
                },
            })?;
        }
        // The caller has it, so the peer may send more.
        self.stream.release(data.len());
        Ok(Frame::data(data))
    }

    fn failed(&mut self, error: &h2::Error) -> Status {
        if let Some(failure) = self.pump.failure() {
            return failure;
        }
        let error = of_stream(error, &self.lease.endpoint.name, self.lease.link.why(), true);
        self.lease.ended(error.code());
        error.into()
    }
}

fn code_of(trailers: &HeaderMap) -> Code {
    let status = trailers.get(names::STATUS);
    // What is not gRPC has no status, and has come to its end.
    status.map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()))
}
