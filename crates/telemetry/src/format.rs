//! One line per log event, for people or for machines.
//!
//! Both forms carry the trace and span id of the innermost span, so that a change can be followed from the
//! request through the commit to the reconciler by searching for one id.

use std::fmt::{self, Write as _};

use setpoint_base::{SystemClock, WallClock};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

use crate::trace;

/// `2026-11-21T10:03:19.123Z INFO  target: message key=value span{key=value} trace=4bf9…`.
pub(crate) struct Text;

/// One JSON object a line: `timestamp`, `level`, `target`, `message`, `fields`, `span`, `trace_id`, `span_id`.
pub(crate) struct Json;

fn timestamp(out: &mut impl fmt::Write) -> fmt::Result {
    write!(out, "{:.3}", SystemClock.now())
}

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let (dim, level, reset) = if out.has_ansi_escapes() {
            ("\x1b[2m", color(*metadata.level()), "\x1b[0m")
        } else {
            ("", "", "")
        };
        out.write_str(dim)?;
        timestamp(&mut out)?;
        write!(
            out,
            "{reset} {level}{:5}{reset} {dim}{}:{reset} ",
            metadata.level(),
            metadata.target()
        )?;
        ctx.format_fields(out.by_ref(), event)?;
        if let Some(span) = ctx.lookup_current() {
            write!(out, " {dim}{}", span.name())?;
            let extensions = span.extensions();
            match extensions.get::<FormattedFields<N>>() {
                Some(fields) if !fields.is_empty() => write!(out, "{{{fields}}}{reset}")?,
                _ => out.write_str(reset)?,
            }
        }
        if let Some(context) = trace::current() {
            write!(out, " {dim}trace={}{reset}", context.trace_id_hex())?;
        }
        out.write_char('\n')
    }
}

fn color(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        _ => "\x1b[34m",
    }
}

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        out.write_str("{\"timestamp\":\"")?;
        timestamp(&mut out)?;
        write!(
            out,
            "\",\"level\":\"{}\",\"target\":{}",
            metadata.level(),
            quoted(metadata.target())
        )?;
        let mut fields = JsonFields::default();
        event.record(&mut fields);
        write!(out, ",\"message\":{}", quoted(&fields.message))?;
        if !fields.rest.is_empty() {
            write!(out, ",\"fields\":{{{}}}", fields.rest)?;
        }
        if let Some(span) = ctx.lookup_current() {
            write!(out, ",\"span\":{{\"name\":{}", quoted(span.name()))?;
            let extensions = span.extensions();
            // The fields were formatted as a JSON object when the span was made: splice its inside.
            let inside = extensions
                .get::<FormattedFields<N>>()
                .and_then(|fields| fields.strip_prefix('{')?.strip_suffix('}'))
                .unwrap_or_default();
            if !inside.is_empty() {
                write!(out, ",{inside}")?;
            }
            out.write_char('}')?;
        }
        if let Some(context) = trace::current() {
            write!(
                out,
                ",\"trace_id\":\"{}\",\"span_id\":\"{:016x}\"",
                context.trace_id_hex(),
                u64::from_be_bytes(context.span_id)
            )?;
        }
        out.write_str("}\n")
    }
}

pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// An event's fields as the inside of a JSON object, its message aside.
#[derive(Default)]
pub(crate) struct JsonFields {
    pub(crate) message: String,
    pub(crate) rest: String,
}

impl JsonFields {
    fn put(&mut self, field: &Field, value: &serde_json::Value) {
        if field.name() == "message" {
            self.message = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            return;
        }
        self.add(field.name(), value);
    }

    pub(crate) fn add(&mut self, name: &str, value: &serde_json::Value) {
        if !self.rest.is_empty() {
            self.rest.push(',');
        }
        let _ = write!(self.rest, "{}:{value}", quoted(name));
    }
}

impl Visit for JsonFields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, &format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, &value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, &value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, &value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, &value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, &value.into());
    }
}
