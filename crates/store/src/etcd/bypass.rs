//! Reads of one key that a connection asks again and again, answered below HTTP/2 (`setpoint_flow::http2::Bypass`).
//!
//! What is answered here is what [`quick`](super::quick) would have answered at once, with the same counts; everything else
//! goes there.

use std::sync::Arc;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use setpoint_flow::http2::{Answer, Bypass};
use tonic::Code;

use super::call::{CLIENT_VERSION, is_grpc, is_text};
use super::connection::Client;
use super::inbound::FRAME_BYTES;
use super::kv;
use super::method::Method;
use super::quick;
use super::server::Shared;
use super::timing::Timing;

/// Reads that a connection makes before it is worth it.
const READS_BEFORE: u32 = 4;
/// `:status: 200` by the static table, and `content-type: application/grpc` with its name from there, in no table of the
/// connection's (RFC 7541 §6.1, §6.2.2).
const HEADERS: &[u8] = b"\x88\x0f\x10\x10application/grpc";
/// `grpc-status: 0`, likewise.
const TRAILERS: &[u8] = b"\x00\x0bgrpc-status\x010";

/// Whether a connection asks the same again.
#[derive(Default)]
pub(super) struct Repeats(u32);

impl Repeats {
    /// Counts a call; whether there were enough of the kind that can be bypassed.
    pub(super) fn saw(&mut self, path: &str) -> bool {
        if Method::of(path) == Some(Method::Range) {
            self.0 = self.0.saturating_add(1);
        }
        self.0 > READS_BEFORE
    }
}

/// Answers a connection's reads.
pub(super) struct Reads {
    shared: Arc<Shared>,
    client: Client,
    /// The versions that clients say they have, by the place of their headers.
    versions: Vec<Option<HeaderValue>>,
}

impl Reads {
    pub(super) fn new(shared: Arc<Shared>, client: Client) -> Self {
        Self {
            shared,
            client,
            versions: Vec::new(),
        }
    }

    /// The one message of a body, if it is all there is.
    fn message<'a>(&self, body: &'a [u8]) -> Option<&'a [u8]> {
        let ([0, length @ ..], message) = body.split_first_chunk::<FRAME_BYTES>()? else {
            return None;
        };
        let len = u32::from_be_bytes(*length) as usize;
        (message.len() == len && len <= self.shared.options.message_bytes_max()).then_some(message)
    }

    fn count(&self, place: usize, body: &[u8], answer: &[u8]) {
        let metrics = &self.shared.metrics;
        let version = self.versions.get(place).and_then(Option::as_ref);
        metrics.versions.count(&self.client.seen, version, false);
        metrics.received_bytes.inc_by(body.len() as u64);
        metrics.received(Method::Range);
        metrics.began(Method::Range);
        metrics.sent_bytes.inc_by(answer.len() as u64);
        metrics.sent(Method::Range, 1);
    }
}

impl Bypass for Reads {
    fn learn(&mut self, place: usize, path: &str, headers: &HeaderMap) -> bool {
        let knows = Method::of(path) == Some(Method::Range)
            && headers.get(CONTENT_TYPE).is_some_and(is_grpc)
            && self.client.serves.grpc()
            && is_text(headers, CLIENT_VERSION);
        if knows {
            let len = self.versions.len().max(place + 1);
            self.versions.resize(len, None);
            self.versions[place] = headers.get(CLIENT_VERSION).cloned();
        }
        knows
    }

    fn answer(&mut self, place: usize, body: &[u8], bytes_max: usize) -> Option<Answer> {
        let shared = &*self.shared;
        let limits = shared.options.limits.as_ref();
        if limits.is_some_and(|limits| !limits.is_idle()) || !quick::suits(shared, &self.client) {
            return None;
        }
        let timing = Timing::begin(shared);
        let message = self.message(body)?;
        let answer = kv::key_at_hand(shared, message, bytes_max)?;
        self.count(place, body, &answer);
        timing.answered(shared, Method::Range, Code::Ok);
        Some(Answer {
            headers: HEADERS,
            body: answer,
            trailers: TRAILERS,
        })
    }
}
