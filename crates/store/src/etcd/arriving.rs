//! Requests that have begun to arrive and are not whole: what they may hold, all together and those of one connection.
//!
//! What has arrived counts, not what was announced. All have [`FrontOptions::inbound_bytes_max`]. A connection always has an
//! eighth of that, or one request however large, and beyond it no more than it leaves to others: alone it may have half, so
//! that a client that sends a hundred large values at a time over one connection is not refused while nobody else is there.
//!
//! ```text
//! of 256 MiB    one connection: 128 MiB     a second one: 64 MiB     those after them: 32 MiB, as long as there is some
//! ```
//!
//! [`FrontOptions::inbound_bytes_max`]: super::FrontOptions::inbound_bytes_max

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use setpoint_telemetry::{DuplicateMetric, Metrics};
use tonic::Status;

use super::gateway;
use super::server::Shared;
use super::status;

/// The part that a connection has in any case.
const SHARES: usize = 8;

/// What the requests of one connection hold, in bytes.
pub(super) type OfOne = Arc<AtomicUsize>;

/// Of which there was too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Bound {
    bound: &'static str,
}

const CONNECTION: Bound = Bound { bound: "connection" };
const ALL: Bound = Bound { bound: "all" };

/// What all hold, and how often there was too much.
#[derive(Default)]
pub(super) struct ArrivingMetrics {
    bytes: Gauge,
    refused: Family<Bound, Counter>,
}

impl ArrivingMetrics {
    pub(super) fn register(&self, metrics: &Metrics) -> Result<(), DuplicateMetric> {
        metrics.register(
            "etcd_front_arriving_bytes",
            "What has arrived of requests that are not whole",
            self.bytes.clone(),
        )?;
        metrics.register(
            "etcd_front_arriving_refused",
            "Requests refused before they were whole, by whose bound they exceeded",
            self.refused.clone(),
        )
    }
}

/// What one request holds. Its owner has to say when it is [over](Arriving::over).
pub(super) struct Arriving {
    of_one: OfOne,
    bytes: usize,
}

impl Arriving {
    /// Of a connection whose requests hold this.
    pub(super) fn new(of_one: OfOne) -> Self {
        Self { of_one, bytes: 0 }
    }

    /// What it holds, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// So many bytes more have arrived.
    ///
    /// # Errors
    /// There is too much: of its connection, or of all.
    pub(super) fn more(&mut self, shared: &Shared, bytes: usize) -> Result<(), Status> {
        let metrics = &shared.metrics.arriving;
        self.bytes += bytes;
        let of_one = bytes + self.of_one.fetch_add(bytes, Ordering::Relaxed);
        let before = metrics.bytes.inc_by(signed(bytes));
        let all = bytes + usize::try_from(before).unwrap_or(0);
        let max = shared.options.inbound_bytes_max;
        match exceeded(of_one, all, max, gateway::request_bytes_max(shared)) {
            None => Ok(()),
            Some(bound) => {
                metrics.refused.get_or_create(&bound).inc();
                Err(status::overloaded())
            }
        }
    }

    /// It holds nothing any more.
    pub(super) fn over(&mut self, shared: &Shared) {
        if self.bytes > 0 {
            let bytes = std::mem::take(&mut self.bytes);
            self.of_one.fetch_sub(bytes, Ordering::Relaxed);
            shared.metrics.arriving.bytes.dec_by(signed(bytes));
        }
    }
}

/// Which bound is exceeded, where one connection has so much of what all have. It may have `one_max` in any case.
pub(super) fn exceeded(of_one: usize, all: usize, max: usize, one_max: usize) -> Option<Bound> {
    let share = (max / SHARES).max(one_max);
    if all > max {
        Some(ALL)
    } else if of_one > share.max(max - all) {
        Some(CONNECTION)
    } else {
        None
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_has_an_eighth_and_beyond_it_what_it_leaves_to_others() {
        for (of_one, all, expect) in [
            (50, 50, None),
            (51, 51, Some(CONNECTION)),
            (30, 70, None),
            (31, 70, Some(CONNECTION)),
            // An eighth, whatever others have.
            (12, 100, None),
            (13, 100, Some(CONNECTION)),
            (1, 101, Some(ALL)),
        ] {
            assert_eq!(exceeded(of_one, all, 100, 5), expect, "{of_one} of {all}");
        }
        // One request, however large.
        assert_eq!(exceeded(40, 80, 100, 40), None);
        assert_eq!(exceeded(41, 80, 100, 40), Some(CONNECTION));
    }
}
