//! Metrics of channels, and what one looks like at the moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use setpoint_telemetry::{DuplicateMetric, Metrics};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ChannelLabel {
    channel: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabel {
    channel: String,
    endpoint: String,
}

type Gauges = Family<ChannelLabel, Gauge>;
type Counters = Family<ChannelLabel, Counter>;

/// The metrics of a process's channels. Cloning gives another handle to the same ones.
#[derive(Clone, Debug)]
pub struct ChannelMetrics(Arc<Families>);

#[derive(Debug)]
struct Families {
    connections: Gauges,
    in_flight: Gauges,
    waiting: Gauges,
    connect_seconds: Family<ChannelLabel, Histogram>,
    connect_failed: Counters,
    keepalive_failures: Counters,
    calmed: Counters,
    goaways: Counters,
    ejections: Counters,
    retries: Counters,
    transparent: Counters,
    hedges: Counters,
    picks: Family<EndpointLabel, Counter>,
    /// Who counts under a name: several channels may share one.
    users: Mutex<BTreeMap<String, Users>>,
}

/// The channels of one name.
#[derive(Debug, Default)]
struct Users {
    channels: usize,
    /// How many of them have an endpoint.
    endpoints: BTreeMap<String, usize>,
}

fn connect_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.000_25, 2.0, 16))
}

impl Default for ChannelMetrics {
    fn default() -> Self {
        Self(Arc::new(Families {
            connections: Family::default(),
            in_flight: Family::default(),
            waiting: Family::default(),
            connect_seconds: Family::new_with_constructor(connect_buckets),
            connect_failed: Family::default(),
            keepalive_failures: Family::default(),
            calmed: Family::default(),
            goaways: Family::default(),
            ejections: Family::default(),
            retries: Family::default(),
            transparent: Family::default(),
            hedges: Family::default(),
            picks: Family::default(),
            users: Mutex::default(),
        }))
    }
}

impl ChannelMetrics {
    /// Adds the metrics to a registry.
    ///
    /// # Errors
    /// A name is taken: each registry can have one of these, for all channels.
    pub fn register(&self, metrics: &Metrics) -> Result<(), DuplicateMetric> {
        let all = &*self.0;
        metrics.register(
            "flow_channel_connections",
            "Connections that are up",
            all.connections.clone(),
        )?;
        metrics.register(
            "flow_channel_in_flight",
            "Calls that have a stream",
            all.in_flight.clone(),
        )?;
        metrics.register(
            "flow_channel_waiting",
            "Calls that wait for a stream",
            all.waiting.clone(),
        )?;
        metrics.register(
            "flow_channel_connect_seconds",
            "Time to make a connection, until the peer has answered on it",
            all.connect_seconds.clone(),
        )?;
        for (name, help, counters) in [
            (
                "connect_failed",
                "Connections that could not be made, or were lost at once",
                &all.connect_failed,
            ),
            (
                "keepalive_failures",
                "Connections whose peer did not answer",
                &all.keepalive_failures,
            ),
            ("calmed", "Times that a peer asked for fewer pings", &all.calmed),
            ("goaways", "Connections that the peer drained", &all.goaways),
            ("ejections", "Times that an endpoint was left out", &all.ejections),
            (
                "retries",
                "Attempts made because another had failed",
                &all.retries,
            ),
            (
                "transparent_retries",
                "Attempts made because no peer had taken the call",
                &all.transparent,
            ),
            ("hedges", "Attempts made because another was slow", &all.hedges),
        ] {
            metrics.register(format!("flow_channel_{name}"), help, counters.clone())?;
        }
        metrics.register(
            "flow_channel_picks",
            "Calls given to an endpoint",
            all.picks.clone(),
        )
    }

    /// Those of one channel. They go with the last channel of that name.
    pub(super) fn of(&self, channel: &str) -> Meters {
        let label = ChannelLabel {
            channel: channel.to_owned(),
        };
        let all = &*self.0;
        // Held until all are there: the last one of that name may be going.
        let mut users = all.users.lock();
        users.entry(channel.to_owned()).or_default().channels += 1;
        Meters {
            connections: all.connections.get_or_create_owned(&label),
            in_flight: all.in_flight.get_or_create_owned(&label),
            waiting: all.waiting.get_or_create_owned(&label),
            connect_seconds: all.connect_seconds.get_or_create_owned(&label),
            connect_failed: all.connect_failed.get_or_create_owned(&label),
            keepalive_failures: all.keepalive_failures.get_or_create_owned(&label),
            calmed: all.calmed.get_or_create_owned(&label),
            goaways: all.goaways.get_or_create_owned(&label),
            ejections: all.ejections.get_or_create_owned(&label),
            retries: all.retries.get_or_create_owned(&label),
            transparent: all.transparent.get_or_create_owned(&label),
            hedges: all.hedges.get_or_create_owned(&label),
            families: self.clone(),
            channel: channel.to_owned(),
        }
    }
}

/// The metrics of one channel, so that a call looks nothing up.
pub(super) struct Meters {
    pub(super) connections: Gauge,
    pub(super) in_flight: Gauge,
    pub(super) waiting: Gauge,
    connect_seconds: Histogram,
    pub(super) connect_failed: Counter,
    pub(super) keepalive_failures: Counter,
    pub(super) calmed: Counter,
    pub(super) goaways: Counter,
    pub(super) ejections: Counter,
    pub(super) retries: Counter,
    pub(super) transparent: Counter,
    pub(super) hedges: Counter,
    families: ChannelMetrics,
    channel: String,
}

impl Meters {
    pub(super) fn connected(&self, took: Duration) {
        self.connect_seconds.observe(took.as_secs_f64());
    }

    /// The calls given to an endpoint, until it is [forgotten](Self::forget).
    pub(super) fn picks(&self, endpoint: &str) -> Counter {
        let all = &*self.families.0;
        let mut users = all.users.lock();
        if let Some(users) = users.get_mut(&self.channel) {
            *users.endpoints.entry(endpoint.to_owned()).or_default() += 1;
        }
        all.picks.get_or_create_owned(&self.label(endpoint))
    }

    /// The channel has the endpoint no more.
    pub(super) fn forget(&self, endpoint: &str) {
        let all = &*self.families.0;
        let mut users = all.users.lock();
        let Some(users) = users.get_mut(&self.channel) else {
            return;
        };
        let left = users.endpoints.get_mut(endpoint).map(|of| {
            *of -= 1;
            *of
        });
        if left == Some(0) {
            users.endpoints.remove(endpoint);
            all.picks.remove(&self.label(endpoint));
        }
    }

    fn label(&self, endpoint: &str) -> EndpointLabel {
        EndpointLabel {
            channel: self.channel.clone(),
            endpoint: endpoint.to_owned(),
        }
    }
}

impl Drop for Meters {
    fn drop(&mut self) {
        let all = &*self.families.0;
        let mut users = all.users.lock();
        let Some(of_name) = users.get_mut(&self.channel) else {
            return;
        };
        of_name.channels -= 1;
        if of_name.channels > 0 {
            return;
        }
        users.remove(&self.channel);
        let label = ChannelLabel {
            channel: self.channel.clone(),
        };
        for gauges in [&all.connections, &all.in_flight, &all.waiting] {
            gauges.remove(&label);
        }
        all.connect_seconds.remove(&label);
        for counters in [
            &all.connect_failed,
            &all.keepalive_failures,
            &all.calmed,
            &all.goaways,
            &all.ejections,
            &all.retries,
            &all.transparent,
            &all.hedges,
        ] {
            counters.remove(&label);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_shown_until_its_last_channel_is_gone() {
        let (metrics, registry) = (ChannelMetrics::default(), Metrics::new());
        metrics.register(&registry).unwrap();
        let shown = |text: &str| registry.encode().contains(text);
        let (one, two) = (metrics.of("kv"), metrics.of("kv"));
        let other = metrics.of("other");
        for meters in [&one, &two] {
            meters.picks("a:1").inc();
            meters.goaways.inc();
        }
        one.picks("b:1").inc();
        one.forget("a:1");
        assert!(shown(
            "flow_channel_picks_total{channel=\"kv\",endpoint=\"a:1\"} 2\n"
        ));
        one.forget("b:1");
        assert!(!shown("b:1"));
        drop(one);
        assert!(shown("flow_channel_goaways_total{channel=\"kv\"} 2\n"));
        two.forget("a:1");
        drop(two);
        assert!(!shown("\"kv\"") && shown("\"other\""), "{}", registry.encode());
        // It begins anew under its name.
        let again = metrics.of("kv");
        again.goaways.inc();
        assert!(shown("flow_channel_goaways_total{channel=\"kv\"} 1\n"));
        drop((again, other));
        assert!(!shown("channel="), "{}", registry.encode());
    }
}
