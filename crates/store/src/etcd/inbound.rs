//! The messages a client sends, out of their frames, within limits.
//!
//! The framing is gRPC over HTTP/2 (`grpc/doc/PROTOCOL-HTTP2.md`): each message is a flag byte, its length in four
//! bytes, and itself.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};
use setpoint_flow::http2::Receive;
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use super::arriving::{Arriving, OfOne};
use super::gateway::Requests;
use super::method::Method;
use super::server::Shared;
use super::status;

/// The flag byte and the length before each message.
pub(super) const FRAME_BYTES: usize = 5;
/// Bytes of a message on its way that are not counted.
const FREE_BYTES: usize = 1 << 10;

/// Where framed messages come from.
pub(super) enum Source {
    Http2(Receive),
    /// JSON, made into framed messages.
    Gateway(Box<Requests>),
}

/// What has been read of a call's messages.
pub(super) enum Begun {
    Nothing,
    /// The first message.
    Message(Bytes),
    /// Its beginning, or more than it.
    Part(Bytes),
}

impl Begun {
    /// What has arrived of a call, without waiting: the usual request is a message that fills one frame.
    pub(super) fn read(shared: &Shared, method: Method, body: &mut Receive) -> Self {
        let data = body.poll_data(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(Some(Ok(chunk))) = data else {
            // Who waits for it will see, errors too.
            return Self::Nothing;
        };
        body.release(chunk.len());
        shared.metrics.received_bytes.inc_by(chunk.len() as u64);
        let Some(([0, length @ ..], rest)) = chunk.split_first_chunk::<FRAME_BYTES>() else {
            return Self::Part(chunk);
        };
        let len = u32::from_be_bytes(*length) as usize;
        if rest.len() != len || len > shared.options.message_bytes_max() {
            return Self::Part(chunk);
        }
        shared.metrics.received(method);
        Self::Message(chunk.slice(FRAME_BYTES..))
    }
}

/// The messages a client sends.
pub(super) struct Inbound {
    shared: Arc<Shared>,
    method: Method,
    source: Source,
    /// A message that was given back.
    unread: Option<Bytes>,
    /// What has arrived of messages not yet whole.
    waiting: BytesMut,
    /// What of it counts.
    arriving: Arriving,
    /// When the message on its way has to be whole.
    due: Option<Instant>,
}

impl Inbound {
    pub(super) fn new(shared: Arc<Shared>, of_one: OfOne, method: Method, source: Source) -> Self {
        Self {
            shared,
            method,
            source,
            unread: None,
            waiting: BytesMut::new(),
            arriving: Arriving::new(of_one),
            due: None,
        }
    }

    /// The messages of a call of which this much was read and not used: a message, or bytes that are not a whole one.
    pub(super) fn behind(
        shared: Arc<Shared>,
        of_one: OfOne,
        method: Method,
        body: Receive,
        read: Begun,
    ) -> Self {
        let mut inbound = Self::new(shared, of_one, method, Source::Http2(body));
        match read {
            Begun::Nothing => (),
            Begun::Message(message) => inbound.unread = Some(message),
            Begun::Part(bytes) => {
                inbound.waiting.extend_from_slice(&bytes);
                // Counted is what matters here: above the budget the next bytes are refused.
                let _ = inbound.count();
            }
        }
        inbound
    }

    /// The next message, `None` once the client has said all. Cancel-safe.
    pub(super) async fn message(&mut self) -> Result<Option<Bytes>, Status> {
        if let Some(message) = self.unread.take() {
            return Ok(Some(message));
        }
        loop {
            if self.waiting.len() >= FRAME_BYTES {
                let len = self.message_len(&self.waiting)?;
                if self.waiting.len() >= FRAME_BYTES + len {
                    self.waiting.advance(FRAME_BYTES);
                    let message = self.waiting.split_to(len).freeze();
                    self.due = None;
                    self.shared.metrics.received(self.method);
                    self.arriving.over(&self.shared);
                    return Ok(Some(message));
                }
            }
            let Some(chunk) = self.chunk_in_time().await? else {
                return if self.waiting.is_empty() {
                    Ok(None)
                } else {
                    Err(Status::internal("unexpected EOF"))
                };
            };
            if self.waiting.is_empty() && chunk.len() >= FRAME_BYTES {
                // The usual case: the frame is the message, and is not copied.
                let len = self.message_len(&chunk)?;
                if chunk.len() == FRAME_BYTES + len {
                    self.shared.metrics.received(self.method);
                    return Ok(Some(chunk.slice(FRAME_BYTES..)));
                }
            }
            self.waiting.extend_from_slice(&chunk);
            self.count()?;
        }
    }

    /// A message that has begun has to come to its end: its bytes are others' budget.
    async fn chunk_in_time(&mut self) -> Result<Option<Bytes>, Status> {
        if self.waiting.is_empty() {
            return self.chunk().await;
        }
        let limit = self.shared.options.request_timeout;
        let due = *self.due.get_or_insert_with(|| Instant::now() + limit);
        timeout_at(due, self.chunk())
            .await
            .unwrap_or_else(|_| Err(status::timed_out()))
    }

    /// The next bytes, given back to the client's window at once: what they add up to is bounded by
    /// [`FrontOptions::inbound_bytes_max`](super::FrontOptions::inbound_bytes_max).
    async fn chunk(&mut self) -> Result<Option<Bytes>, Status> {
        let body = match &mut self.source {
            Source::Http2(body) => body,
            Source::Gateway(requests) => return requests.next().await,
        };
        match body.data().await {
            Some(Ok(chunk)) => {
                body.release(chunk.len());
                self.shared.metrics.received_bytes.inc_by(chunk.len() as u64);
                Ok(Some(chunk))
            }
            Some(Err(_)) => Err(Status::cancelled("context canceled")),
            None => Ok(None),
        }
    }

    fn message_len(&self, frame: &[u8]) -> Result<usize, Status> {
        let [flag, a, b, c, d, ..] = frame else {
            return Ok(0);
        };
        if *flag != 0 {
            return Err(Status::unimplemented(
                "grpc: Decompressor is not installed for grpc-encoding",
            ));
        }
        let len = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let max = self.shared.options.message_bytes_max();
        if len > max {
            return Err(Status::resource_exhausted(format!(
                "grpc: received message larger than max ({len} vs. {max})"
            )));
        }
        Ok(len)
    }

    /// Takes what has arrived from the front's budget: what a client sends counts, not what it announces.
    fn count(&mut self) -> Result<(), Status> {
        let more = self.waiting.len().saturating_sub(self.arriving.bytes());
        if self.waiting.len() <= FREE_BYTES || more == 0 {
            return Ok(());
        }
        self.arriving.more(&self.shared, more)
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        self.arriving.over(&self.shared);
    }
}
