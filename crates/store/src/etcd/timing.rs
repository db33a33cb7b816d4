//! How long calls take, for those who want to know: a histogram, and a warning of each that takes too long.

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
