//! How a client finds its servers and how patient it is.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use setpoint_base::BackoffPolicy;
use setpoint_flow::channel::{ChannelBuilder, ChannelOptions, ChannelTls};
use setpoint_flow::core::keepalive::Pace;
use setpoint_flow::{Channel, Flow};

use super::core::backoff::ReconnectPolicy;
use super::error::ClientError;
use super::outage::Outages;

/// The largest message in either direction, in bytes: that of clientv3, which is gRPC's.
const MESSAGE_BYTES_MAX: usize = i32::MAX as usize;
/// Calls that wait at a time for a connection, or for a stream on it.
const WAITING_MAX: usize = 10_000;
/// Between attempts to connect to one endpoint.
const RECONNECT: BackoffPolicy = BackoffPolicy {
    base: Duration::from_millis(25),
    max: Duration::from_secs(1),
    factor: 2.0,
    jitter: 0.5,
};

/// Options of a [`super::Client`].
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Where the servers are: `http://host:port`, `https://host:port`, or `host:port` (the scheme follows `tls`).
    /// All of one cluster.
    pub endpoints: Vec<String>,
    /// Certificates for `https`.
    pub tls: Option<ClientTls>,
    /// A user of the store, when it asks for one.
    pub credentials: Option<Credentials>,
    /// How long a connection may take to be made (2 s).
    pub connect_timeout: Duration,
    /// How long a call may take, retries included (7 s: etcd's own limit).
    pub request_timeout: Duration,
    /// A link on which something is expected and nothing comes for so long is probed (1.5 s).
    pub probe_after: Duration,
    /// How long the probe may take until the link counts as dead (3 s).
    pub probe_timeout: Duration,
    /// Waits between attempts to open a watch stream ([`ReconnectPolicy::FAST`]).
    pub reconnect: ReconnectPolicy,
    /// Watchers end when no server could be reached for so long; none: they try for ever (none).
    pub give_up_after: Option<Duration>,
    /// Streams end at a member that has lost its leader, and go on at another (true).
    pub require_leader: bool,
    /// The process's flow control, where connections are seen and share a receive budget (their own).
    pub flow: Option<Flow>,
    /// Told whether anybody answers (nobody is).
    pub(crate) outages: Option<Arc<Outages>>,
}

/// Certificates in PEM.
#[derive(Clone, Default)]
pub struct ClientTls {
    /// Whom servers' certificates must be signed by. Nobody else is trusted.
    pub ca: Vec<u8>,
    /// The client's own certificate and key, when servers ask for one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name in the servers' certificates, when it is not the host of the endpoint.
    pub server_name: Option<String>,
}

/// A user and the password.
#[derive(Clone)]
pub struct Credentials {
    /// The user's name.
    pub user: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls")
            .field("identity", &self.identity.is_some())
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = &self.user;
        f.debug_struct("Credentials")
            .field("user", user)
            .finish_non_exhaustive()
    }
}

impl ClientOptions {
    /// Defaults, for servers at these places.
    pub fn new<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            tls: None,
            credentials: None,
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(7),
            probe_after: Duration::from_millis(1_500),
            probe_timeout: Duration::from_secs(3),
            reconnect: ReconnectPolicy::FAST,
            give_up_after: None,
            require_leader: true,
            flow: None,
            outages: None,
        }
    }

    /// Every problem with what was said.
    ///
    /// # Errors
    /// When there is one.
    pub fn validate(&self) -> Result<(), Vec<String>> {
        let mut problems = Vec::new();
        if self.endpoints.is_empty() {
            problems.push("no endpoints: name at least one, such as http://127.0.0.1:2379".to_owned());
        }
        for endpoint in &self.endpoints {
            match self.channel(endpoint, "") {
                Ok(_) => (),
                Err(ClientError::Options(problem)) => problems.push(problem),
                Err(error) => problems.push(error.to_string()),
            }
        }
        for (name, value) in [
            ("connect_timeout", self.connect_timeout),
            ("request_timeout", self.request_timeout),
            ("probe_after", self.probe_after),
            ("probe_timeout", self.probe_timeout),
        ] {
            if value.is_zero() {
                problems.push(format!("{name} is 0 s: nothing could ever be in time"));
            }
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(problems)
        }
    }

    /// A channel to one endpoint, not built yet. `what` it is for is in its name.
    pub(crate) fn channel(&self, text: &str, what: &str) -> Result<ChannelBuilder, ClientError> {
        let said = |what: String| ClientError::Options(format!("endpoint {text}: {what}"));
        let url = if text.contains("://") {
            text.to_owned()
        } else if self.tls.is_some() {
            format!("https://{text}")
        } else {
            format!("http://{text}")
        };
        if !url.starts_with("https://") && !url.starts_with("http://") {
            return Err(said("must begin with http:// or https://".to_owned()));
        }
        let mut builder = Channel::to(&url)
            .name(format!("{what} {url}"))
            .options(self.channel_options());
        if let Some(flow) = &self.flow {
            builder = builder.flow(flow);
        }
        builder.check().map_err(|error| said(error.to_string()))?;
        Ok(builder)
    }

    fn channel_options(&self) -> ChannelOptions {
        let defaults = ChannelOptions::default();
        ChannelOptions {
            timeout: self.request_timeout,
            timeout_max: self.request_timeout.max(defaults.timeout_max),
            connect_timeout: self.connect_timeout,
            reconnect: RECONNECT,
            // etcd takes pings of idle connections for abuse.
            keepalive: Pace {
                idle: false,
                ..defaults.keepalive
            },
            // Who waits with calls so that a crowd does not come back at once waits with connections as well.
            eager: false,
            // A probe has to go where the call went that it is about.
            connections_max: 1,
            queue_max: WAITING_MAX,
            queue_timeout: self.request_timeout,
            // Members have limits of their own, which only they know.
            send_bytes_max: MESSAGE_BYTES_MAX,
            receive_bytes_max: MESSAGE_BYTES_MAX,
            // There is one endpoint: who calls chooses among several.
            outlier: None,
            tls: self.tls.as_ref().map(ClientTls::of_channel),
            ..defaults
        }
    }
}

impl ClientTls {
    fn of_channel(&self) -> ChannelTls {
        ChannelTls::Pem {
            ca: self.ca.clone(),
            identity: self.identity.clone(),
            server_name: self.server_name.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_reported_and_a_bare_address_is_fine() {
        let mut options = ClientOptions::new(["ftp://x", "https://a:1", "127.0.0.1:2379"]);
        options.probe_after = Duration::ZERO;
        let problems = options.validate().unwrap_err();
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(ClientOptions::new(["127.0.0.1:2379"]).validate().is_ok());
        assert!(ClientOptions::new(Vec::<String>::new()).validate().is_err());
    }
}
