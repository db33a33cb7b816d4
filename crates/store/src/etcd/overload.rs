//! A place among the calls that are served at a time, for calls with one answer.
//!
//! It is asked for when the request is there and its caller known, so that a client that trickles holds none, and given
//! back when the answer is, so that one that does not read holds none either. Streams, and calls that wait for others,
//! hold none at all.

use std::time::Duration;

use bytes::Bytes;
use setpoint_flow::{Limits, Outcome, Permit};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::kv;
use super::method::{METHODS, Method};
use super::server::Shared;

/// A call's place.
pub(super) struct Place {
    permit: Option<Permit>,
    began: Instant,
    /// Given up after this long, a call was too slow; before, its client had less patience than we.
    slow: Duration,
}

/// Asks the concurrency limits for a place, if there are any. Waits some milliseconds at most.
pub(super) async fn enter(shared: &Shared, method: Method, request: &Bytes) -> Result<Option<Place>, Status> {
    let Some(limits) = shared.options.limits.as_ref().filter(|_| has_door(shared)) else {
        return Ok(None);
    };
    let permit = limits.enter(&name(shared, method, request)).await;
    let permit = permit.map_err(|refused| refused.status())?;
    Ok(permit.is_limited().then(|| Place {
        permit: Some(permit),
        began: Instant::now(),
        slow: shared.options.request_timeout / 2,
    }))
}

/// Whether there are concurrency limits to ask.
pub(super) fn has_door(shared: &Shared) -> bool {
    shared.options.limits.as_ref().is_some_and(Limits::has_door)
}

/// What rules call it: a range of many keys has a name of its own.
fn name(shared: &Shared, method: Method, request: &Bytes) -> String {
    let (_, service, name) = METHODS[method as usize];
    let wide = method == Method::Range && kv::is_wide(shared, request);
    format!("/{service}/{name}{}", if wide { "?wide" } else { "" })
}

impl Place {
    /// The call is over.
    pub(super) fn end<T>(mut self, result: &Result<T, Status>) {
        let outcome = match result.as_ref().err().map(Status::code) {
            None => Outcome::Served,
            // A commit that did not come in time.
            Some(Code::Unavailable) => Outcome::Dropped,
            Some(_) => Outcome::Ignored,
        };
        if let Some(permit) = self.permit.take() {
            permit.finish(outcome);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take()
            && self.began.elapsed() >= self.slow
        {
            permit.finish(Outcome::Dropped);
        }
    }
}

/// Calls that a client may have open at a time on one connection.
pub(super) fn streams_max(shared: &Shared) -> u32 {
    let ruled = shared.options.limits.as_ref().and_then(Limits::streams_max);
    let max = shared.options.streams_max;
    ruled.map_or(max, |ruled| ruled.min(max))
}
