//! An HTTP/2 client that costs little: one connection, some callers, each with one call at a time.
//!
//! Requests are copied from a template; headers are indexed after the first call, as any gRPC client's are, so that
//! the server's work is the usual one. Responses are not decoded: a message followed by trailers is a success, headers
//! that end the stream are an error. It speaks as much of RFC 9113 as a gRPC server needs from a client: settings,
//! pings, both directions of flow control.
//!
//! [`Connection`] is the connection, `load` what is done with one, `wire` and `messages` how frames and gRPC messages lie in
//! bytes.

mod connection;
mod load;
mod messages;
mod wire;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use tokio::time::Instant;

pub(super) use connection::Connection;

/// What a connection measured.
pub(super) struct Measured {
    /// Latencies of successful calls, in microseconds.
    pub(super) latency: Histogram<u64>,
    /// Calls that failed.
    pub(super) failed: u64,
}

impl Measured {
    /// Counts a call, unless it began before `start`.
    fn count(&mut self, began: Instant, now: Instant, start: Instant) {
        if began >= start {
            let micros = now.saturating_duration_since(began).as_micros() as u64;
            self.latency.saturating_record(micros.max(1));
        }
    }
}

/// A new histogram: 1 µs to 100 s, three digits.
pub(super) fn histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, 100_000_000, 3).context("make a histogram")
}
