//! Metrics of concurrency limits and of the memory budget.

use std::fmt;

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use setpoint_telemetry::{DuplicateMetric, Metrics};

use super::limiter::Now;
use crate::core::gate::Class;
use crate::limits::Limits;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    rule: String,
    class: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabel {
    class: String,
}

/// What is counted.
#[derive(Debug, Default)]
pub(crate) struct OverloadMetrics {
    admitted: Family<Label, Counter>,
    refused: Family<Label, Counter>,
    queued: Family<Label, Counter>,
    short: Family<ClassLabel, Counter>,
}

/// One limiter's counters, by class, so that a call looks nothing up.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    admitted: [Counter; 3],
    refused: [Counter; 3],
    queued: [Counter; 3],
}

impl Counters {
    pub(crate) fn admitted(&self, class: Class) {
        self.admitted[class as usize].inc();
    }

    pub(crate) fn refused(&self, class: Class) {
        self.refused[class as usize].inc();
    }

    pub(crate) fn queued(&self, class: Class) {
        self.queued[class as usize].inc();
    }

    /// Admitted, refused and queued, by class.
    pub(crate) fn read(&self) -> [[u64; 3]; 3] {
        [&self.admitted, &self.refused, &self.queued].map(|counters| counters.each_ref().map(Counter::get))
    }
}

impl OverloadMetrics {
    pub(crate) fn of_limiter(&self, rule: &str) -> Counters {
        let of = |family: &Family<Label, Counter>| {
            Class::ALL.map(|class| family.get_or_create_owned(&label(rule, class)))
        };
        Counters {
            admitted: of(&self.admitted),
            refused: of(&self.refused),
            queued: of(&self.queued),
        }
    }

    /// A limiter is gone.
    pub(crate) fn forget(&self, rule: &str) {
        for family in [&self.admitted, &self.refused, &self.queued] {
            for class in Class::ALL {
                family.remove(&label(rule, class));
            }
        }
    }

    /// A call was refused because memory is short.
    pub(crate) fn short(&self, class: Class) {
        let class = class.name().to_owned();
        self.short.get_or_create(&ClassLabel { class }).inc();
    }

    pub(crate) fn register(&self, limits: &Limits, metrics: &Metrics) -> Result<(), DuplicateMetric> {
        for (name, help, family) in [
            ("admitted", "Calls that got a place", &self.admitted),
            ("refused", "Calls that got no place in time", &self.refused),
            ("queued", "Calls that had to wait for a place", &self.queued),
        ] {
            metrics.register(format!("flow_concurrency_{name}"), help, family.clone())?;
        }
        metrics.register(
            "flow_memory_refused",
            "Calls refused because memory was short",
            self.short.clone(),
        )?;
        for (name, help, read) in GAUGES {
            let limits = limits.clone();
            metrics.register(*name, *help, Gauge { limits, read: *read })?;
        }
        Ok(())
    }
}

fn label(rule: &str, class: Class) -> Label {
    Label {
        rule: rule.to_owned(),
        class: class.name().to_owned(),
    }
}

/// A number that is read when somebody asks.
#[derive(Clone, Copy)]
enum Read {
    Limiter(fn(&Now) -> f64),
    Memory(fn(&Limits) -> Option<f64>),
}

const GAUGES: &[(&str, &str, Read)] = &[
    (
        "flow_concurrency_limit",
        "Calls that may be in flight",
        Read::Limiter(|now| f64::from(now.limit)),
    ),
    (
        "flow_concurrency_in_flight",
        "Calls that are in flight",
        Read::Limiter(|now| f64::from(now.in_flight)),
    ),
    (
        "flow_concurrency_waiting",
        "Calls that wait for a place",
        Read::Limiter(|now| now.waiting.iter().sum::<usize>() as f64),
    ),
    (
        "flow_concurrency_rtt_seconds",
        "What calls took lately, on average",
        Read::Limiter(|now| now.rtt.unwrap_or_default().as_secs_f64()),
    ),
    (
        "flow_concurrency_rest_seconds",
        "What calls take when the limit does not bind, as far as it is known",
        Read::Limiter(|now| now.rest.unwrap_or_default().as_secs_f64()),
    ),
    (
        "flow_memory_used_bytes",
        "Memory that is used and cannot be taken back",
        Read::Memory(|limits| Some(limits.reading()?.used as f64)),
    ),
    (
        "flow_memory_limit_bytes",
        "Memory there is; 0 when nothing limits it",
        Read::Memory(|limits| Some(limits.reading().map_or(0.0, |reading| reading.limit as f64))),
    ),
    (
        "flow_memory_pressure",
        "0: none, 1: calls of the class batch are refused, 2: all but those of the class system are",
        Read::Memory(|limits| Some(f64::from(limits.pressure() as u8))),
    ),
];

struct Gauge {
    limits: Limits,
    read: Read,
}

impl fmt::Debug for Gauge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gauge")
    }
}

impl EncodeMetric for Gauge {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        match self.read {
            Read::Memory(read) => encoder.encode_gauge(&read(&self.limits).unwrap_or_default()),
            Read::Limiter(read) => {
                for limiter in self.limits.limiters() {
                    let label = [("rule", limiter.name.to_string())];
                    encoder
                        .encode_family(&label)?
                        .encode_gauge(&read(&limiter.now()))?;
                }
                Ok(())
            }
        }
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}
