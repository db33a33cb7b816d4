//! A slot on a connection, held by one attempt of a call until its end, whatever end that is.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use super::endpoint::Endpoint;
use super::hub::Hub;
use super::link::Link;
use crate::core::latency::FAILURE_COSTS;

/// A slot. Dropping it frees it.
pub(super) struct Lease {
    hub: Arc<Hub>,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) link: Arc<Link>,
    began: Instant,
    /// The endpoint has shown how fast it is.
    timed: bool,
    /// The endpoint has shown whether it is of use.
    judged: bool,
}

impl Lease {
    /// For a slot that was taken.
    pub(super) fn new(hub: Arc<Hub>, endpoint: Arc<Endpoint>, link: Arc<Link>, now: Instant) -> Self {
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        endpoint.picks.inc();
        hub.meters.in_flight.inc();
        Self {
            hub,
            endpoint,
            link,
            began: now,
            timed: false,
            judged: false,
        }
    }

    /// The answer has begun.
    pub(super) fn answered(&mut self) {
        self.link.prove();
        self.observe(Duration::ZERO);
    }

    /// The call ended with this code.
    pub(super) fn ended(&mut self, code: Code) {
        if self.judged {
            return;
        }
        self.judged = true;
        let failed = is_endpoints_fault(code);
        if failed {
            self.observe(FAILURE_COSTS);
        }
        self.hub.record(&self.endpoint, !failed, Instant::now());
    }

    /// The call was not taken: it says nothing of the endpoint's speed or health.
    pub(super) fn not_taken(&mut self) {
        self.timed = true;
        self.judged = true;
    }

    fn observe(&mut self, at_least: Duration) {
        let now = Instant::now();
        let sample = (now - self.began).max(at_least);
        let decay = self.hub.options.latency_decay;
        let mut latency = self.endpoint.latency.lock();
        if self.timed {
            latency.observe_at_least(sample, now, decay);
        } else {
            latency.observe(sample, now, decay);
        }
        self.timed = true;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.timed {
            // Given up before there was an answer: it took at least so long.
            let now = Instant::now();
            let (decay, sample) = (self.hub.options.latency_decay, now - self.began);
            self.endpoint.latency.lock().observe_at_least(sample, now, decay);
        }
        self.link.give_slot_back();
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.hub.meters.in_flight.dec();
        self.hub.slot_freed();
    }
}

/// Whether an answer says that the endpoint, rather than the request, is at fault.
fn is_endpoints_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::DeadlineExceeded | Code::Internal | Code::Unknown | Code::DataLoss
    )
}
