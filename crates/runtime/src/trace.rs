//! Which trace the running task belongs to, with or without a subscriber.

use std::future::Future;

use setpoint_base::TraceContext;

tokio::task_local! {
    static CURRENT: TraceContext;
}

/// The context to send with a request: of the innermost entered span, else of the enclosing [`scope`].
#[must_use]
pub fn current() -> Option<TraceContext> {
    setpoint_telemetry::trace::current().or_else(|| CURRENT.try_with(|context| *context).ok())
}

/// Runs a future whose requests carry `context`, unless a span says otherwise.
pub fn scope<F: Future>(context: TraceContext, future: F) -> impl Future<Output = F::Output> {
    CURRENT.scope(context, future)
}
