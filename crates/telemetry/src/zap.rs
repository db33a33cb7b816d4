//! Log lines in the shapes that etcd's logger writes, for programs that read those.
//!
//! JSON: `level`, `ts`, `caller`, `msg`, then the fields of the event beside them. Console: the same, separated by
//! tabs, the fields as one JSON object. The caller is the source file with its folder, and the line.

use std::fmt;

use setpoint_base::{SystemClock, WallClock};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::format::{JsonFields, quoted};
use crate::trace;

/// `{"level":"info","ts":"2026-11-26T13:26:06.788657Z","caller":"etcd/serve.rs:12","msg":"…","key":"value"}`.
pub(crate) struct Zap;

/// The time, the level, the caller, the message and `{"key":"value"}`, with tabs between them.
pub(crate) struct ZapConsole;

fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        _ => "debug",
    }
}

/// The last two parts of the path, and the line.
fn caller(metadata: &Metadata<'_>) -> String {
    let file = metadata.file().unwrap_or_else(|| metadata.target());
    let from = file.rmatch_indices('/').nth(1).map_or(0, |(at, _)| at + 1);
    match metadata.line() {
        Some(line) => format!("{}:{line}", &file[from..]),
        None => file[from..].to_owned(),
    }
}

/// The event's message and fields, the trace among them.
fn fields(event: &Event<'_>) -> JsonFields {
    let mut fields = JsonFields::default();
    event.record(&mut fields);
    if let Some(context) = trace::current() {
        fields.add("trace_id", &context.trace_id_hex().into());
    }
    fields
}

impl<S, N> FormatEvent<S, N> for Zap
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        let fields = fields(event);
        write!(
            out,
            "{{\"level\":\"{}\",\"ts\":\"{:.6}\",\"caller\":{},\"msg\":{}",
            level(*metadata.level()),
            SystemClock.now(),
            quoted(&caller(metadata)),
            quoted(&fields.message)
        )?;
        if !fields.rest.is_empty() {
            write!(out, ",{}", fields.rest)?;
        }
        out.write_str("}\n")
    }
}

impl<S, N> FormatEvent<S, N> for ZapConsole
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        let fields = fields(event);
        write!(
            out,
            "{:.6}\t{}\t{}\t{}",
            SystemClock.now(),
            level(*metadata.level()),
            caller(metadata),
            fields.message
        )?;
        if !fields.rest.is_empty() {
            write!(out, "\t{{{}}}", fields.rest)?;
        }
        out.write_char('\n')
    }
}
