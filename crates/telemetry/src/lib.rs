//! Logs, metrics and traces: names, set-up, exporters.
//!
//! - [`Setup`]: installs the process's one subscriber; text or JSON lines on standard error or elsewhere, spans to an
//!   OpenTelemetry collector when [`Otlp`] says so.
//! - [`trace`]: which W3C trace a span belongs to. A [`TraceContext`](setpoint_base::TraceContext) comes in with
//!   a request, is stored with the revision it makes, and goes on to whoever reacts to that revision.
//! - [`Metrics`]: the process's metrics in the Prometheus text format, the `process_*` family included.
//!
//! Absent on purpose: nothing here reads the environment (the binary hands the variables in), and ids do not
//! depend on an exporter: a trace can be followed through the logs of a process that exports nothing.
//!
//! ```
//! use setpoint_base::TraceContext;
//! use setpoint_telemetry::{Metrics, trace};
//!
//! let caller = TraceContext::random();
//! let span = tracing::info_span!("request");
//! let own = trace::open(&span, Some(&caller));
//! assert_eq!(own.trace_id, caller.trace_id);
//! assert_ne!(own.span_id, caller.span_id);
//!
//! let metrics = Metrics::new();
//! assert!(metrics.encode().contains("process_start_time_seconds"));
//! ```
//!
//! Reading order: `trace`, `setup`, `format`, `zap`, `output`, `otlp`, `metrics`, `process`.

mod format;
mod metrics;
mod otlp;
mod output;
mod setup;
mod zap;

pub mod process;
pub mod trace;

pub use metrics::{DuplicateMetric, Metrics};
pub use otlp::Otlp;
pub use output::Output;
pub use setup::{Format, Guard, Setup, SetupError};
