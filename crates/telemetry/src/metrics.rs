//! The process's metrics, in one registry.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::registry::{Metric, Registry};

use crate::process;

/// A name is taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("metric {0} is registered already: each metric has one owner")]
pub struct DuplicateMetric(pub String);

/// The metrics of this process. Cloning gives another handle to the same ones.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    registry: Registry,
    names: HashSet<String>,
}

impl Metrics {
    /// The content type of [`Metrics::encode`]'s text.
    pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

    /// A registry with nothing but the process's own metrics.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a metric. A counter's name is given without its `_total`, which the encoder appends.
    ///
    /// # Errors
    /// [`DuplicateMetric`] when the name is taken.
    pub fn register(
        &self,
        name: impl Into<String>,
        help: impl Into<String>,
        metric: impl Metric,
    ) -> Result<(), DuplicateMetric> {
        let name = name.into();
        let mut inner = self.0.lock();
        if name.starts_with("process_") || !inner.names.insert(name.clone()) {
            return Err(DuplicateMetric(name));
        }
        inner.registry.register(name, help, metric);
        Ok(())
    }

    /// All metrics in the Prometheus text format 0.0.4.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut open_metrics = String::new();
        // Writing to a string fails only if a metric's own encoder does: the rest is still worth reading.
        let _ = encode_registry(&mut open_metrics, &self.0.lock().registry);
        let mut text = String::with_capacity(open_metrics.len() + 1024);
        for line in open_metrics.lines() {
            plain(line, &open_metrics, &mut text);
        }
        process::encode(&mut text);
        text
    }
}

/// Turns one line of OpenMetrics into the older text format, which every scraper reads: a counter is declared under
/// the name its samples have, and there are no units.
fn plain(line: &str, all: &str, text: &mut String) {
    let mut words = line.splitn(4, ' ');
    let declared = match (words.next(), words.next(), words.next(), words.next()) {
        (Some("#"), Some("UNIT"), ..) => return,
        (Some("#"), Some(what @ ("HELP" | "TYPE")), Some(name), rest) => Some((what, name, rest)),
        _ => None,
    };
    match declared {
        Some((what, name, rest)) if all.contains(&format!("# TYPE {name} counter\n")) => {
            text.push_str(&format!("# {what} {name}_total {}", rest.unwrap_or_default()));
        }
        _ => text.push_str(line),
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::family::Family;
    use prometheus_client::metrics::gauge::Gauge;

    #[test]
    fn counters_are_declared_under_the_name_of_their_samples() {
        let metrics = Metrics::new();
        let requests = Family::<Vec<(String, String)>, Counter>::default();
        requests
            .get_or_create(&vec![("verb".to_owned(), "GET".to_owned())])
            .inc();
        metrics
            .register("apiserver_request", "Requests served", requests)
            .unwrap();
        metrics
            .register("workqueue_depth", "Keys that wait", Gauge::<i64>::default())
            .unwrap();
        let text = metrics.encode();
        for line in [
            "# HELP apiserver_request_total Requests served.\n",
            "# TYPE apiserver_request_total counter\n",
            "apiserver_request_total{verb=\"GET\"} 1\n",
            "# TYPE workqueue_depth gauge\nworkqueue_depth 0\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(!text.contains("# EOF"));
    }

    #[test]
    fn a_metric_has_one_owner() {
        let metrics = Metrics::new();
        let again = metrics.clone();
        metrics.register("a", "A", Counter::<u64>::default()).unwrap();
        assert_eq!(
            again.register("a", "A", Counter::<u64>::default()),
            Err(DuplicateMetric("a".to_owned()))
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_process_tells_its_memory_time_and_files() {
        let text = Metrics::new().encode();
        let value = |name: &str| -> f64 {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
                .unwrap_or_else(|| panic!("{name} in {text}"))
                .parse()
                .unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_virtual_memory_bytes") >= value("process_resident_memory_bytes"));
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_max_fds") >= value("process_open_fds"));
        assert!(value("process_cpu_seconds_total") >= 0.0);
        // After 2020 and before 2100.
        assert!((1.577e9..4.1e9).contains(&value("process_start_time_seconds")));
    }
}
