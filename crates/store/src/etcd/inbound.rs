//! The messages a client sends, out of their frames, within limits.
//!
//! The framing is gRPC over HTTP/2 (`grpc/doc/PROTOCOL-HTTP2.md`): each message is a flag byte, its length in four
//! bytes, and itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf, Bytes, BytesMut};
use h2::RecvStream;
use tonic::Status;

use super::gateway::Requests;
use super::server::Shared;
use super::status;

/// The flag byte and the length before each message.
pub(super) const FRAME_BYTES: usize = 5;
/// A message larger than this is counted while it is on its way.
const COUNTED_BYTES: usize = 64 << 10;

/// Where framed messages come from.
pub(super) enum Source {
    Http2(RecvStream),
    /// JSON, made into framed messages.
    Gateway(Box<Requests>),
}

/// The messages a client sends.
pub(super) struct Inbound {
    shared: Arc<Shared>,
    source: Source,
    /// What has arrived of messages not yet whole.
    waiting: BytesMut,
    /// How much of the front's budget this call holds.
    counted: usize,
}

impl Inbound {
    pub(super) fn new(shared: Arc<Shared>, source: Source) -> Self {
        Self {
            shared,
            source,
            waiting: BytesMut::new(),
            counted: 0,
        }
    }

    /// The next message, `None` once the client has said all. Cancel-safe.
    pub(super) async fn message(&mut self) -> Result<Option<Bytes>, Status> {
        self.uncount();
        loop {
            if self.waiting.len() >= FRAME_BYTES {
                let len = self.message_len(&self.waiting)?;
                if self.waiting.len() >= FRAME_BYTES + len {
                    self.waiting.advance(FRAME_BYTES);
                    return Ok(Some(self.waiting.split_to(len).freeze()));
                }
                self.count(len)?;
            }
            let Some(chunk) = self.chunk().await? else {
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
                    return Ok(Some(chunk.slice(FRAME_BYTES..)));
                }
            }
            self.waiting.extend_from_slice(&chunk);
        }
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
                let _ = body.flow_control().release_capacity(chunk.len());
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

    /// Takes a large message's bytes from the front's budget, once.
    fn count(&mut self, len: usize) -> Result<(), Status> {
        if self.counted > 0 || len <= COUNTED_BYTES {
            return Ok(());
        }
        self.counted = len;
        let before = self.shared.inbound_bytes.fetch_add(len, Ordering::Relaxed);
        if before + len > self.shared.options.inbound_bytes_max {
            return Err(status::overloaded());
        }
        self.waiting.reserve(FRAME_BYTES + len - self.waiting.len());
        Ok(())
    }

    fn uncount(&mut self) {
        self.shared
            .inbound_bytes
            .fetch_sub(std::mem::take(&mut self.counted), Ordering::Relaxed);
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        self.uncount();
    }
}
