//! How long calls take, for those who want to know: a histogram, and a warning of each that takes too long.

use std::ops::Deref;

use tokio::time::Instant;
use tonic::Code;

use super::method::{METHODS, Method};
use super::server::Shared;

/// When a call began; the clock is not asked where nobody wants to know.
#[derive(Clone, Copy)]
pub(super) struct Timing(Option<Instant>);

impl Timing {
    pub(super) fn begin(shared: &Shared) -> Self {
        let wanted = shared.options.slow_call.is_some() || shared.metrics.times();
        Self(wanted.then(Instant::now))
    }

    /// Counts a call that is over, however long it was meant to take.
    pub(super) fn ended(self, shared: &Shared, method: Method, code: Code) {
        shared.metrics.ended(method, code);
        if let Some(began) = self.0 {
            shared.metrics.took(method, began.elapsed());
        }
    }

    /// Counts a call whose one answer is known, and warns if it took long (`--warning-unary-request-duration`).
    pub(super) fn answered(self, shared: &Shared, method: Method, code: Code) {
        if let (Some(expected), Some(began)) = (shared.options.slow_call, self.0)
            && began.elapsed() > expected
        {
            let (_, service, name) = METHODS[method as usize];
            let took = began.elapsed();
            tracing::warn!(service, name, ?took, ?expected, "a call took too long");
        }
        self.ended(shared, method, code);
    }
}

/// A call that others than itself may end: it is counted as cancelled when it is dropped, with its connection for one.
pub(super) struct Lasting<S: Deref<Target = Shared>> {
    shared: S,
    method: Method,
    timing: Option<Timing>,
}

impl<S: Deref<Target = Shared>> Lasting<S> {
    pub(super) fn new(shared: S, method: Method, timing: Timing) -> Self {
        let timing = Some(timing);
        Self {
            shared,
            method,
            timing,
        }
    }

    /// See [`Timing::ended`].
    pub(super) fn ended(mut self, code: Code) {
        if let Some(timing) = self.timing.take() {
            timing.ended(&self.shared, self.method, code);
        }
    }

    /// See [`Timing::answered`].
    pub(super) fn answered(mut self, code: Code) {
        if let Some(timing) = self.timing.take() {
            timing.answered(&self.shared, self.method, code);
        }
    }
}

impl<S: Deref<Target = Shared>> Drop for Lasting<S> {
    fn drop(&mut self) {
        if let Some(timing) = self.timing.take() {
            timing.ended(&self.shared, self.method, Code::Cancelled);
        }
    }
}
