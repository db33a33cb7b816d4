//! Every metric of this crate.

use std::collections::HashSet;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use setpoint_telemetry::{DuplicateMetric, Metrics};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RuleLabel {
    rule: String,
}

/// Metrics of the limits.
#[derive(Default)]
pub(crate) struct LimitMetrics {
    admitted: Family<RuleLabel, Counter>,
    refused: Family<RuleLabel, Counter>,
    names: Mutex<HashSet<String>>,
}

/// A rule's counters, so that a call looks nothing up.
pub(crate) struct RuleCounters {
    pub(crate) admitted: Counter,
    pub(crate) refused: Counter,
}

impl LimitMetrics {
    pub(crate) fn register(&self, metrics: &Metrics) -> Result<(), DuplicateMetric> {
        metrics.register(
            "flow_limit_admitted",
            "Calls that a rate limit admitted",
            self.admitted.clone(),
        )?;
        metrics.register(
            "flow_limit_refused",
            "Calls that a rate limit refused",
            self.refused.clone(),
        )
    }

    pub(crate) fn of_rule(&self, name: &str) -> RuleCounters {
        let label = RuleLabel {
            rule: name.to_owned(),
        };
        self.names.lock().insert(name.to_owned());
        RuleCounters {
            admitted: self.admitted.get_or_create_owned(&label),
            refused: self.refused.get_or_create_owned(&label),
        }
    }

    /// Forgets the rules that are gone.
    pub(crate) fn keep<'a>(&self, names: impl Iterator<Item = &'a str>) {
        let keep: HashSet<&str> = names.collect();
        self.names.lock().retain(|name| {
            let kept = keep.contains(name.as_str());
            if !kept {
                let label = RuleLabel { rule: name.clone() };
                self.admitted.remove(&label);
                self.refused.remove(&label);
            }
            kept
        });
    }
}
