//! A body cut into objects, each a framed message: as they come, within limits.
//!
//! Objects are found by a scanner that remembers where it was, so that a body that trickles in is looked at once. It
//! also counts what an object holds: a few bytes of JSON make a message of hundreds in memory, and no request that etcd
//! accepts has that many parts.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use tonic::Status;

use super::super::arriving::{Arriving, OfOne};
use super::super::server::Shared;
use super::super::web::Body;
use super::json::Call;
use super::scan::Scan;

/// Bytes of the largest request: base64 is a third larger than what it says; names and digits are little beside a large
/// value.
pub(super) fn bytes_max(shared: &Shared) -> usize {
    shared.options.message_bytes_max() / 3 * 4 + (64 << 10)
}

/// The requests of a call.
pub(in super::super) struct Requests {
    shared: Arc<Shared>,
    body: Body,
    call: Call,
    /// Whether more than one object may come.
    many: bool,
    waiting: BytesMut,
    scan: Scan,
    /// What of it is here.
    arriving: Arriving,
    begun: bool,
    over: bool,
}

impl Requests {
    pub(super) fn new(shared: Arc<Shared>, of_one: OfOne, body: Body, call: Call, many: bool) -> Self {
        Self {
            shared,
            body,
            call,
            many,
            waiting: BytesMut::new(),
            scan: Scan::default(),
            arriving: Arriving::new(of_one),
            begun: false,
            over: false,
        }
    }

    /// The next request, framed; `None` after the last. An empty body is an empty request. Cancel-safe.
    pub(in super::super) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        if self.over {
            return Ok(None);
        }
        loop {
            match self.scan.find(&self.waiting) {
                Ok(Some(range)) => {
                    let object = self.take(range);
                    return self.made(&object);
                }
                Ok(None) => (),
                Err(status) => return self.broken(status),
            }
            let Some(chunk) = self.body.chunk().await? else {
                if let Some(range) = self.scan.finish() {
                    let last = self.take(range);
                    return self.made(&last);
                }
                let rest = std::mem::take(&mut self.waiting);
                if rest.iter().all(u8::is_ascii_whitespace) {
                    let empty = !self.begun && !self.many;
                    self.over = true;
                    self.begun = true;
                    return if empty {
                        self.call.request(b"{}").map(Some)
                    } else {
                        Ok(None)
                    };
                }
                return self.broken(Status::invalid_argument("unexpected EOF"));
            };
            self.shared.metrics.received_bytes.inc_by(chunk.len() as u64);
            self.count(chunk.len())?;
            self.waiting.extend_from_slice(&chunk);
        }
    }

    fn made(&mut self, object: &[u8]) -> Result<Option<Bytes>, Status> {
        self.begun = true;
        if !self.many {
            self.end();
        }
        match self.call.request(object) {
            Ok(framed) => Ok(Some(framed)),
            Err(status) => self.broken(status),
        }
    }

    /// What is no request ends a stream of them, and fails a call of one.
    fn broken(&mut self, status: Status) -> Result<Option<Bytes>, Status> {
        self.end();
        if self.many && self.begun {
            Ok(None)
        } else {
            Err(status)
        }
    }

    fn end(&mut self) {
        self.over = true;
        self.body.leave();
    }

    fn take(&mut self, range: Range<usize>) -> Bytes {
        self.scan = Scan::default();
        let object = self.waiting.split_to(range.end).freeze().slice(range.start..);
        if self.waiting.is_empty() {
            self.arriving.over(&self.shared);
        }
        object
    }

    fn count(&mut self, len: usize) -> Result<(), Status> {
        let message_max = self.shared.options.message_bytes_max();
        let max = bytes_max(&self.shared);
        if self.waiting.len() + len > max {
            return Err(Status::resource_exhausted(format!(
                "grpc: received message larger than max ({} vs. {message_max})",
                (self.waiting.len() + len) / 4 * 3
            )));
        }
        self.arriving.more(&self.shared, len)
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.waiting.advance(self.waiting.len());
        self.arriving.over(&self.shared);
    }
}
