//! Builds a channel out of a target, options and what it is given to work with.

use std::collections::BTreeSet;
use std::sync::Arc;

use setpoint_base::{Stop, TaskGroup};
use tower::Layer;

use super::dial::{Dialer, Network, Tls};
use super::hub::{Hub, Surroundings};
use super::metrics::ChannelMetrics;
use super::options::ChannelOptions;
use super::origin::Origin;
use super::resolve::{self, Dns, Resolver};
use super::target::{InvalidTarget, Place, Target};
use super::{Channel, Handle};
use crate::flow::Flow;
use crate::layer::{LimitLayer, Limited};
use crate::limits::Limits;

/// A channel cannot be made of this.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The target is not written as it must be.
    #[error(transparent)]
    Target(#[from] InvalidTarget),
    /// The options are not possible.
    #[error("channel options: {}", .0.join("; "))]
    Options(Vec<String>),
    /// The certificates cannot be used.
    #[error("channel's TLS: {0}")]
    Tls(String),
    /// There is no tokio runtime here for the channel's tasks.
    #[error("a channel's tasks need a tokio runtime: build it inside one")]
    NoRuntime,
}

/// A channel behind limits, to be.
#[must_use]
pub struct LimitedBuilder {
    channel: ChannelBuilder,
    layer: LimitLayer,
}

impl LimitedBuilder {
    /// Builds the channel, which begins to connect at once.
    ///
    /// # Errors
    /// As those of [`ChannelBuilder::build`].
    pub fn build(self) -> Result<Limited<Channel>, BuildError> {
        self.channel.build().map(|channel| self.layer.layer(channel))
    }
}

/// A channel to be.
#[must_use]
pub struct ChannelBuilder {
    target: String,
    name: Option<String>,
    options: ChannelOptions,
    metrics: Option<ChannelMetrics>,
    flow: Option<Flow>,
    resolver: Option<Arc<dyn Resolver>>,
    dialer: Arc<dyn Dialer>,
    stop: Stop,
}

impl ChannelBuilder {
    pub(super) fn new(target: String) -> Self {
        Self {
            target,
            name: None,
            options: ChannelOptions::default(),
            metrics: None,
            flow: None,
            resolver: None,
            dialer: Arc::new(Network),
            stop: Stop::new(),
        }
    }

    /// The name in metrics and snapshots; the target, if there is none.
    pub fn name(self, name: impl Into<String>) -> Self {
        Self {
            name: Some(name.into()),
            ..self
        }
    }

    /// Options instead of the defaults.
    pub fn options(self, options: ChannelOptions) -> Self {
        Self { options, ..self }
    }

    /// Where the channel's metrics go.
    pub fn metrics(self, metrics: &ChannelMetrics) -> Self {
        Self {
            metrics: Some(metrics.clone()),
            ..self
        }
    }

    /// The process's flow control: its receive budget is shared, the channel and its connections are seen with the others,
    /// and its metrics are among the channels' there, unless others were named. Without it a channel is by itself.
    pub fn flow(self, flow: &Flow) -> Self {
        Self {
            flow: Some(flow.clone()),
            ..self
        }
    }

    /// Finds the addresses, instead of what the target says.
    pub fn resolver(self, resolver: impl Resolver) -> Self {
        Self {
            resolver: Some(Arc::new(resolver)),
            ..self
        }
    }

    /// Makes the byte streams, instead of the machine's own network.
    pub fn dialer(self, dialer: impl Dialer) -> Self {
        Self {
            dialer: Arc::new(dialer),
            ..self
        }
    }

    /// Ends the channel, too.
    pub fn stop(self, stop: &Stop) -> Self {
        Self {
            stop: stop.clone(),
            ..self
        }
    }

    /// Puts limits in front of the channel, so that calls are refused before anything is sent. To be said last.
    pub fn limits(self, limits: &Limits) -> LimitedBuilder {
        LimitedBuilder {
            channel: self,
            layer: limits.layer(),
        }
    }

    /// Whether it can be built; nothing is.
    ///
    /// # Errors
    /// What is wrong with the target, the options or the certificates.
    pub fn check(&self) -> Result<(), BuildError> {
        self.parts().map(drop)
    }

    fn parts(&self) -> Result<(Target, Option<Tls>, Origin), BuildError> {
        self.options.validate().map_err(BuildError::Options)?;
        let target: Target = self.target.parse()?;
        let tls = Tls::of(&target, &self.options).map_err(BuildError::Tls)?;
        let origin = Origin::of(&target, &self.options, tls.is_some()).map_err(BuildError::Options)?;
        Ok((target, tls, origin))
    }

    /// Builds the channel, which begins to connect at once.
    ///
    /// # Errors
    /// What is wrong with the target, the options or the certificates; there is no tokio runtime.
    pub fn build(self) -> Result<Channel, BuildError> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(BuildError::NoRuntime);
        }
        let (target, tls, origin) = self.parts()?;
        let name = self.name.unwrap_or_else(|| target.text.clone());
        let flow = self.flow.unwrap_or_default();
        let metrics = self.metrics.unwrap_or_else(|| flow.channels().metrics.clone());
        let meters = metrics.of(&name);
        let place = target.place.clone();
        let surroundings = Surroundings {
            dialer: self.dialer,
            tasks: TaskGroup::new(&self.stop),
            flow,
            meters,
            origin,
        };
        let hub = Arc::new(Hub::new(self.options, name, target, tls, surroundings));
        let resolver = match (self.resolver, place) {
            (Some(resolver), _) => Some(resolver),
            (None, Place::Name(host, port)) => Some(Arc::new(Dns { host, port }) as Arc<dyn Resolver>),
            (None, Place::Fixed(addresses)) => {
                hub.set_addresses(addresses.into_iter().collect::<BTreeSet<_>>());
                None
            }
        };
        hub.tasks.spawn(Arc::clone(&hub).end_with_surroundings());
        if let Some(resolver) = resolver {
            hub.tasks.spawn(resolve::keep(Arc::clone(&hub), resolver));
        }
        let listed = hub.flow.channels().list(&hub);
        Ok(Channel(Arc::new(Handle { hub, _listed: listed })))
    }
}
