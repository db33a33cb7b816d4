//! Finished spans to an OpenTelemetry collector, over OTLP gRPC.
//!
//! Spans are turned into export records when they close; a bounded queue (2,048 spans, more are dropped) and one
//! thread send them in batches. The settings are the standard variables
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>), which the binary reads and
//! hands in. Headers, time-outs and batch sizes are read from their variables by the exporter library itself.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    Event as SpanEvent, Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor};
use setpoint_base::{SystemClock, TraceContext, WallClock};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Record};
use tracing::{Event, Level};

use crate::setup::SetupError;
use crate::trace::SpanState;

/// Attributes one span or event may have (OpenTelemetry's default is 128).
const ATTRIBUTES_MAX: usize = 128;
/// Events one span may have (OpenTelemetry's default is 128).
const EVENTS_MAX: usize = 128;
/// How long the end of the process waits for the last batch.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// Where spans go, under which name, and which traces are sampled.
#[derive(Clone, Debug, PartialEq)]
pub struct Otlp {
    /// The collector's gRPC endpoint: `http://localhost:4317`.
    pub endpoint: String,
    /// `service.name` of the resource.
    pub service_name: String,
    /// Further attributes of the resource.
    pub resource: Vec<(String, String)>,
    /// Share of new traces that are sampled, 0 to 1. Traces that come from elsewhere keep their own decision.
    pub ratio: f64,
}

impl Otlp {
    /// Reads the standard variables through `var`; `None` when they do not ask for an export.
    ///
    /// # Errors
    /// Every problem, each with its remedy.
    pub fn from_vars(
        default_service: &str,
        var: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, Vec<String>> {
        let var = |name: &str| var(name).filter(|value| !value.trim().is_empty());
        let off = var("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
            || var("OTEL_TRACES_EXPORTER").as_deref() == Some("none");
        let said = [
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
        ];
        let Some((name, endpoint)) = said.iter().find_map(|name| Some((name, var(name)?))) else {
            return Ok(None);
        };
        if off {
            return Ok(None);
        }
        let mut problems = Vec::new();
        if !endpoint.starts_with("http://") {
            problems.push(format!(
                "{name} is {endpoint:?}: only http:// is supported, point it at a collector such as http://localhost:4317"
            ));
        }
        let protocol =
            var("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL").or_else(|| var("OTEL_EXPORTER_OTLP_PROTOCOL"));
        if let Some(protocol) = protocol.filter(|protocol| protocol != "grpc") {
            problems.push(format!(
                "OTEL_EXPORTER_OTLP_PROTOCOL is {protocol:?}: only grpc is supported, unset it and use the gRPC port (4317)"
            ));
        }
        let mut resource = pairs(
            &var("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default(),
            &mut problems,
        );
        let named = resource.iter().position(|(key, _)| key == "service.name");
        let named = named.map(|at| resource.remove(at).1);
        let ratio = sampler(
            var("OTEL_TRACES_SAMPLER").as_deref(),
            var("OTEL_TRACES_SAMPLER_ARG").as_deref(),
            &mut problems,
        );
        if problems.is_empty() {
            Ok(Some(Self {
                endpoint,
                service_name: var("OTEL_SERVICE_NAME")
                    .or(named)
                    .unwrap_or_else(|| default_service.to_owned()),
                resource,
                ratio,
            }))
        } else {
            Err(problems)
        }
    }
}

fn pairs(text: &str, problems: &mut Vec<String>) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for item in text.split(',').filter(|item| !item.trim().is_empty()) {
        match item.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                pairs.push((key.trim().to_owned(), value.trim().to_owned()));
            }
            _ => problems.push(format!(
                "OTEL_RESOURCE_ATTRIBUTES has {item:?}: write key=value,key=value"
            )),
        }
    }
    pairs
}

fn sampler(name: Option<&str>, arg: Option<&str>, problems: &mut Vec<String>) -> f64 {
    match name {
        None | Some("always_on" | "parentbased_always_on") => 1.0,
        Some("always_off" | "parentbased_always_off") => 0.0,
        Some("traceidratio" | "parentbased_traceidratio") => match arg.unwrap_or("1").parse() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => ratio,
            _ => {
                problems.push(format!(
                    "OTEL_TRACES_SAMPLER_ARG is {:?}: give a share from 0 to 1",
                    arg.unwrap_or_default()
                ));
                1.0
            }
        },
        Some(other) => {
            problems.push(format!(
                "OTEL_TRACES_SAMPLER is {other:?}: use always_on, always_off, traceidratio or their parentbased_ forms"
            ));
            1.0
        }
    }
}

/// The queue and the thread that sends.
pub(crate) struct Pipeline {
    processor: Arc<BatchSpanProcessor>,
    ratio: f64,
}

impl Pipeline {
    pub(crate) fn start(otlp: Otlp) -> Result<Self, SetupError> {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(otlp.endpoint.clone())
            .build()
            .map_err(|error| SetupError::Otlp {
                endpoint: otlp.endpoint.clone(),
                detail: error.to_string(),
            })?;
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        let attributes = otlp
            .resource
            .into_iter()
            .map(|(key, value)| KeyValue::new(key, value));
        processor.set_resource(
            &Resource::builder_empty()
                .with_service_name(otlp.service_name)
                .with_attributes(attributes)
                .build(),
        );
        Ok(Self {
            processor: Arc::new(processor),
            ratio: otlp.ratio,
        })
    }

    pub(crate) fn shutdown(self) {
        // A collector that is away must not keep the process from ending, and there is nobody left to tell.
        let _ = self.processor.shutdown_with_timeout(SHUTDOWN_GRACE);
    }
}

/// The layer's view of the pipeline.
pub(crate) struct Exporter {
    processor: Arc<BatchSpanProcessor>,
    scope: InstrumentationScope,
    ratio: f64,
}

/// What is noted of a span while it lives.
pub(crate) struct SpanRecord {
    started: SystemTime,
    kind: SpanKind,
    values: Values,
    events: SpanEvents,
    failed: Option<String>,
}

impl SpanRecord {
    pub(crate) fn record(&mut self, values: &Record<'_>) {
        values.record(&mut self.values);
    }
}

fn now() -> SystemTime {
    SystemClock.now().into()
}

impl Exporter {
    pub(crate) fn new(pipeline: &Pipeline) -> Self {
        Self {
            processor: Arc::clone(&pipeline.processor),
            scope: InstrumentationScope::builder("setpoint").build(),
            ratio: pipeline.ratio,
        }
    }

    /// The decision for a new trace: by its id, so that every process decides alike (OTel `TraceIdRatioBased`).
    pub(crate) fn samples_root(&self, context: &TraceContext) -> bool {
        sampled(self.ratio, context)
    }

    pub(crate) fn begin(&self, attributes: &Attributes<'_>) -> SpanRecord {
        let mut record = SpanRecord {
            started: now(),
            kind: SpanKind::Internal,
            values: Values::default(),
            events: SpanEvents::default(),
            failed: None,
        };
        attributes.record(&mut record.values);
        record.kind = record.values.take_kind();
        record
    }

    pub(crate) fn note(&self, record: &mut SpanRecord, event: &Event<'_>) {
        let mut values = Values::default();
        event.record(&mut values);
        let message = values.message.take().unwrap_or_default();
        if *event.metadata().level() == Level::ERROR {
            record.failed = Some(message.clone());
        }
        if record.events.events.len() >= EVENTS_MAX {
            record.events.dropped_count += 1;
            return;
        }
        record
            .events
            .events
            .push(SpanEvent::new(message, now(), values.attributes, values.dropped));
    }

    pub(crate) fn end(&self, name: &'static str, state: SpanState) {
        let Some(record) = state.record else { return };
        if state.context.flags & 1 == 0 {
            return;
        }
        let links = state.links.iter();
        let links = links.map(|context| Link::new(span_context(context, true), Vec::new(), 0));
        let mut span_links = SpanLinks::default();
        span_links.links = links.collect();
        self.processor.on_end(SpanData {
            span_context: span_context(&state.context, false),
            parent_span_id: state
                .parent
                .map_or(SpanId::INVALID, |parent| SpanId::from_bytes(parent.span_id)),
            parent_span_is_remote: state.parent.is_some_and(|parent| parent.remote),
            span_kind: record.kind,
            name: Cow::Borrowed(name),
            start_time: record.started,
            end_time: now(),
            attributes: record.values.attributes,
            dropped_attributes_count: record.values.dropped,
            events: record.events,
            links: span_links,
            status: record.failed.map_or(Status::Unset, Status::error),
            instrumentation_scope: self.scope.clone(),
        });
    }
}

fn sampled(ratio: f64, context: &TraceContext) -> bool {
    let low = u64::from_be_bytes(context.trace_id.last_chunk().copied().unwrap_or_default()) >> 1;
    #[allow(clippy::cast_precision_loss)]
    let position = low as f64 / (1_u64 << 63) as f64;
    position < ratio
}

fn span_context(context: &TraceContext, remote: bool) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(context.trace_id),
        SpanId::from_bytes(context.span_id),
        TraceFlags::new(context.flags),
        remote,
        TraceState::default(),
    )
}

/// Fields as attributes; the message apart.
#[derive(Default)]
struct Values {
    message: Option<String>,
    attributes: Vec<KeyValue>,
    dropped: u32,
}

impl Values {
    fn put(&mut self, field: &Field, value: impl Into<opentelemetry::Value>) {
        if self.attributes.len() >= ATTRIBUTES_MAX {
            self.dropped += 1;
            return;
        }
        self.attributes.push(KeyValue::new(field.name(), value));
    }

    /// Reads and removes `otel.kind`, the field name that the tracing ecosystem agreed on.
    fn take_kind(&mut self) -> SpanKind {
        let Some(at) = self
            .attributes
            .iter()
            .position(|pair| pair.key.as_str() == "otel.kind")
        else {
            return SpanKind::Internal;
        };
        match self.attributes.remove(at).value.as_str().as_ref() {
            "server" => SpanKind::Server,
            "client" => SpanKind::Client,
            "producer" => SpanKind::Producer,
            "consumer" => SpanKind::Consumer,
            _ => SpanKind::Internal,
        }
    }
}

impl Visit for Values {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        self.record_str(field, &text);
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message = Some(value.to_owned());
        } else {
            self.put(field, value.to_owned());
        }
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, i64::try_from(value).unwrap_or(i64::MAX));
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(vars: &[(&str, &str)]) -> Result<Option<Otlp>, Vec<String>> {
        Otlp::from_vars("setpoint", |name| {
            vars.iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317");

    #[test]
    fn without_an_endpoint_nothing_is_exported() {
        assert_eq!(from(&[]), Ok(None));
        assert_eq!(from(&[("OTEL_SERVICE_NAME", "x")]), Ok(None));
        assert_eq!(from(&[ENDPOINT, ("OTEL_SDK_DISABLED", "true")]), Ok(None));
        assert_eq!(from(&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")]), Ok(None));
    }

    #[test]
    fn the_standard_variables_name_the_service_its_resource_and_the_sampler() {
        let otlp = from(&[
            ENDPOINT,
            ("OTEL_SERVICE_NAME", "plane"),
            (
                "OTEL_RESOURCE_ATTRIBUTES",
                "service.name=other,host.name=a, zone = b",
            ),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ]);
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(
            otlp,
            Ok(Some(Otlp {
                endpoint: ENDPOINT.1.to_owned(),
                service_name: "plane".to_owned(),
                resource: vec![pair("host.name", "a"), pair("zone", "b")],
                ratio: 0.25,
            }))
        );
    }

    #[test]
    fn all_problems_are_reported_together() {
        let problems = from(&[
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://collector"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_RESOURCE_ATTRIBUTES", "novalue"),
            ("OTEL_TRACES_SAMPLER", "sometimes"),
        ])
        .unwrap_err();
        assert_eq!(problems.len(), 4, "{problems:?}");
    }

    #[test]
    fn a_ratio_keeps_about_that_share_of_traces() {
        let kept = |ratio| {
            (0..4000)
                .filter(|_| sampled(ratio, &TraceContext::random()))
                .count()
        };
        assert_eq!((kept(0.0), kept(1.0)), (0, 4000));
        assert!((800..1200).contains(&kept(0.25)));
    }
}
