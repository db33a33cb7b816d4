//! A body cut into objects, each a framed message: as they come, within limits.
//!
//! Objects are found by a scanner that remembers where it was, so that a body that trickles in is looked at once. It
//! also counts what an object holds: a few bytes of JSON make a message of hundreds in memory, and no request that etcd
//! accepts has that many parts.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf, Bytes, BytesMut};
use tonic::Status;

use super::super::server::Shared;
use super::super::status;
use super::super::web::Body;
use super::json::Call;

/// Most objects, lists and members in one request.
const PARTS_MAX: usize = 100_000;

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
    /// How much of the front's budget this call holds.
    counted: usize,
    begun: bool,
    over: bool,
}

impl Requests {
    pub(super) fn new(shared: Arc<Shared>, body: Body, call: Call, many: bool) -> Self {
        Self {
            shared,
            body,
            call,
            many,
            waiting: BytesMut::new(),
            scan: Scan::default(),
            counted: 0,
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
                Ok(Some(end)) => {
                    let object = self.take(end);
                    return self.made(&object);
                }
                Ok(None) => (),
                Err(status) => return self.broken(status),
            }
            let Some(chunk) = self.body.chunk().await? else {
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

    fn take(&mut self, end: usize) -> Bytes {
        self.scan = Scan::default();
        let object = self.waiting.split_to(end).freeze();
        if self.waiting.is_empty() {
            self.uncount();
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
        self.counted += len;
        let before = self.shared.inbound_bytes.fetch_add(len, Ordering::Relaxed);
        if before + len > self.shared.options.inbound_bytes_max {
            return Err(status::overloaded());
        }
        Ok(())
    }

    fn uncount(&mut self) {
        self.shared
            .inbound_bytes
            .fetch_sub(std::mem::take(&mut self.counted), Ordering::Relaxed);
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.waiting.advance(self.waiting.len());
        self.uncount();
    }
}

/// Looks for the end of an object.
#[derive(Default)]
struct Scan {
    /// How far it has looked.
    at: usize,
    depth: usize,
    parts: usize,
    in_text: bool,
    escaped: bool,
}

impl Scan {
    /// The end of the first object in `bytes`, of which it has seen the beginning before.
    fn find(&mut self, bytes: &[u8]) -> Result<Option<usize>, Status> {
        for byte in bytes.get(self.at..).unwrap_or_default() {
            self.at += 1;
            if self.in_text {
                self.step_in_text(*byte);
                continue;
            }
            match byte {
                b'"' if self.depth > 0 => self.in_text = true,
                b'{' | b'[' if self.depth > 0 || *byte == b'{' => {
                    self.depth += 1;
                    self.parts += 1;
                }
                b'}' | b']' if self.depth > 0 => self.depth -= 1,
                b',' if self.depth > 0 => self.parts += 1,
                byte if self.depth > 0 || byte.is_ascii_whitespace() => continue,
                byte => {
                    let token = char::from(*byte);
                    let text = format!(
                        "proto: syntax error (line 1:{}): unexpected token {token}",
                        self.at
                    );
                    return Err(Status::invalid_argument(text));
                }
            }
            if self.depth == 0 {
                return Ok(Some(self.at));
            }
            if self.parts > PARTS_MAX {
                return Err(Status::invalid_argument(format!(
                    "more than {PARTS_MAX} parts in a request"
                )));
            }
        }
        Ok(None)
    }

    fn step_in_text(&mut self, byte: u8) {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' => self.escaped = true,
            b'"' => self.in_text = false,
            _ => (),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds the text byte by byte; where the first object ends.
    fn end(text: &str) -> Result<Option<usize>, String> {
        let mut scan = Scan::default();
        for len in 0..=text.len() {
            let found = scan.find(&text.as_bytes()[..len]);
            match found.map_err(|status| status.message().to_owned())? {
                Some(end) => return Ok(Some(end)),
                None => continue,
            }
        }
        Ok(None)
    }

    #[test]
    fn the_end_of_an_object_is_found_wherever_the_body_is_cut() {
        for (text, expect) in [
            ("{}", Some(2)),
            ("  {\"a\":[{},{}]} {}", Some(15)),
            (r#"{"a":"}\"]{"}x"#, Some(13)),
            ("{\"a\":", None),
            ("", None),
        ] {
            assert_eq!(end(text), Ok(expect), "{text}");
        }
    }

    #[test]
    fn what_is_no_object_is_refused_at_its_first_byte() {
        for text in ["[]", "1", "\"a\"", "nope", " }"] {
            assert!(end(text).unwrap_err().contains("unexpected token"), "{text}");
        }
    }

    #[test]
    fn a_flood_of_parts_is_refused() {
        let flood = format!("{{\"success\":[{}", "{},".repeat(PARTS_MAX / 2 + 1));
        let refused = Scan::default().find(flood.as_bytes()).unwrap_err();
        assert!(refused.message().contains("parts in a request"));
    }
}
