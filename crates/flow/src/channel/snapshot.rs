//! What a channel looks like at a moment, to be shown or serialised.

use std::sync::atomic::Ordering;

use serde::Serialize;
use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::hub::Hub;
use super::link::Link;

/// Connections of an endpoint that are told of one by one. There are more only while many finish their last calls.
const LINKS_MAX: usize = 8;

/// Whether calls can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelState {
    /// An endpoint is up.
    Ready,
    /// The first connections are being made, or the target is being looked up.
    Connecting,
    /// There is no connection because no call has wanted one.
    Idle,
    /// No endpoint can be reached.
    Failing,
    /// It takes no more calls.
    Closed,
}

/// A channel as it is at a moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChannelSnapshot {
    /// The channel's name.
    pub name: String,
    /// Where it goes.
    pub target: String,
    /// Whether calls can be made.
    pub state: ChannelState,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Connections that are up, those that only finish their calls aside.
    pub connections: usize,
    /// Calls that have a stream.
    pub in_flight: usize,
    /// Calls that wait for a stream or a connection.
    pub waiting: usize,
    /// Connections that could not be made so far, or were lost at once.
    pub connect_failed: u64,
    /// Connections so far whose peer did not answer.
    pub keepalive_failures: u64,
    /// Times so far that a peer asked for fewer pings.
    pub calmed: u64,
    /// Connections so far that a peer drained.
    pub goaways: u64,
    /// Times so far that an endpoint was left out.
    pub ejections: u64,
    /// Attempts so far made because another had failed.
    pub retries: u64,
    /// Attempts so far made because no peer had taken the call.
    pub transparent_retries: u64,
    /// Attempts so far made because another was slow.
    pub hedges: u64,
    /// Tokens left in the retry budget.
    pub retry_tokens: f64,
    /// Tokens of a full budget; with half of them gone nothing is made again.
    pub retry_tokens_max: u32,
    /// Why the last look-up failed, if it did.
    pub lookup_failure: Option<String>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointSnapshot>,
}

/// What an endpoint is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointState {
    /// It takes calls.
    Up,
    /// It is up and left out: it fails more than the others.
    Ejected,
    /// A connection is being made.
    Connecting,
    /// There is no connection because no call has wanted one.
    Idle,
    /// It could not be reached, and is tried again later.
    Failing,
}

/// An endpoint as it is at a moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EndpointSnapshot {
    /// Its address.
    pub address: String,
    /// What it is good for.
    pub state: EndpointState,
    /// Connections that take new calls.
    pub connections: usize,
    /// Connections that only finish the calls they have.
    pub draining: usize,
    /// Connections made so far.
    pub connects: u64,
    /// Calls that have a stream.
    pub in_flight: usize,
    /// Streams that the peer allows over all connections; none: any number.
    pub streams_max: Option<usize>,
    /// Calls given to it so far.
    pub picks: u64,
    /// Its latency as it is believed to be, in seconds.
    pub latency_seconds: Option<f64>,
    /// Whether it is left out.
    pub ejected: bool,
    /// Silence after which it is asked by a PING, in seconds.
    pub keepalive_interval_seconds: f64,
    /// How long it may take to answer, in seconds.
    pub keepalive_timeout_seconds: f64,
    /// Whether it is asked while no call is in flight, too.
    pub keepalive_idle: bool,
    /// Why there is no connection, if it is known.
    pub failure: Option<String>,
    /// Its connections, 8 at most.
    pub links: Vec<LinkSnapshot>,
}

/// A connection as it is at a moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LinkSnapshot {
    /// Its number among the connections of the process, where its windows and bytes are.
    pub id: u64,
    /// Whether it only finishes the calls it has.
    pub draining: bool,
    /// Since it was made, in seconds.
    pub age_seconds: f64,
    /// Calls that have a stream on it.
    pub in_flight: usize,
    /// Streams that the peer allows on it; none: any number.
    pub streams_max: Option<usize>,
    /// The last round trip of a PING, in seconds.
    pub rtt_seconds: Option<f64>,
}

/// A limit of a peer's that is one.
fn bounded(limit: usize) -> Option<usize> {
    (limit < u32::MAX as usize).then_some(limit)
}

impl Hub {
    pub(super) fn snapshot(&self) -> ChannelSnapshot {
        let now = Instant::now();
        let endpoints: Vec<_> = self
            .endpoints
            .load()
            .iter()
            .map(|endpoint| self.snapshot_of(endpoint, now))
            .collect();
        ChannelSnapshot {
            name: self.name.clone(),
            target: self.target.text.clone(),
            state: self.state(&endpoints),
            tls: self.tls.is_some(),
            connections: endpoints.iter().map(|endpoint| endpoint.connections).sum(),
            in_flight: endpoints.iter().map(|endpoint| endpoint.in_flight).sum(),
            waiting: self.waiting.load(Ordering::SeqCst),
            connect_failed: self.meters.connect_failed.get(),
            keepalive_failures: self.meters.keepalive_failures.get(),
            calmed: self.meters.calmed.get(),
            goaways: self.meters.goaways.get(),
            ejections: self.meters.ejections.get(),
            retries: self.meters.retries.get(),
            transparent_retries: self.meters.transparent.get(),
            hedges: self.meters.hedges.get(),
            retry_tokens: self.budget.tokens(),
            retry_tokens_max: self.options.retry_tokens,
            lookup_failure: self.lookup_failure.lock().as_deref().map(str::to_owned),
            endpoints,
        }
    }

    fn state(&self, endpoints: &[EndpointSnapshot]) -> ChannelState {
        let any = |state| endpoints.iter().any(|endpoint| endpoint.state == state);
        if self.closing.load(Ordering::Relaxed) || self.tasks.stop().is_cancelled() {
            ChannelState::Closed
        } else if any(EndpointState::Up) || any(EndpointState::Ejected) {
            ChannelState::Ready
        } else if any(EndpointState::Connecting)
            || endpoints.is_empty() && self.lookup_failure.lock().is_none()
        {
            ChannelState::Connecting
        } else if any(EndpointState::Idle) {
            ChannelState::Idle
        } else {
            ChannelState::Failing
        }
    }

    fn snapshot_of(&self, endpoint: &Endpoint, now: Instant) -> EndpointSnapshot {
        let failure = endpoint.failure().as_deref().map(str::to_owned);
        let ejected = endpoint.health.lock().is_ejected(now);
        let (links, driven) = endpoint.driven(LINKS_MAX);
        let (connections, pace) = (endpoint.connections(), endpoint.pace());
        let state = match (connections, &failure) {
            (1.., _) if ejected => EndpointState::Ejected,
            (1.., _) => EndpointState::Up,
            (0, None) if !endpoint.is_wanted() => EndpointState::Idle,
            (0, None) => EndpointState::Connecting,
            (0, Some(_)) => EndpointState::Failing,
        };
        EndpointSnapshot {
            address: endpoint.name.to_string(),
            state,
            connections,
            draining: driven.saturating_sub(connections),
            connects: endpoint.connects.load(Ordering::Relaxed),
            in_flight: endpoint.in_flight.load(Ordering::Relaxed),
            streams_max: bounded(endpoint.limit()),
            picks: endpoint.picks.get(),
            latency_seconds: endpoint.latency.lock().seconds(now, self.options.latency_decay),
            ejected,
            keepalive_interval_seconds: pace.interval.as_secs_f64(),
            keepalive_timeout_seconds: pace.timeout.as_secs_f64(),
            keepalive_idle: pace.idle,
            failure,
            links: links.iter().map(|link| link.snapshot()).collect(),
        }
    }
}

impl Link {
    fn snapshot(&self) -> LinkSnapshot {
        LinkSnapshot {
            id: self.id(),
            draining: self.is_draining(),
            age_seconds: self.age().as_secs_f64(),
            in_flight: self.in_flight(),
            streams_max: bounded(self.limit()),
            rtt_seconds: self.rtt().map(|rtt| rtt.as_secs_f64()),
        }
    }
}
