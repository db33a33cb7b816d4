//! How a client finds its servers and how patient it is.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::core::backoff::ReconnectPolicy;
use super::error::ClientError;
use super::outage::Outages;

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
            if let Err(error) = self.endpoint(endpoint) {
                problems.push(error.to_string());
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

    /// What tonic needs to know of an endpoint.
    pub(crate) fn endpoint(&self, text: &str) -> Result<Endpoint, ClientError> {
        let said = |what: String| ClientError::Options(what);
        let url = if text.contains("://") {
            text.to_owned()
        } else if self.tls.is_some() {
            format!("https://{text}")
        } else {
            format!("http://{text}")
        };
        let secure = url.starts_with("https://");
        if !secure && !url.starts_with("http://") {
            return Err(said(format!(
                "endpoint {text}: must begin with http:// or https://"
            )));
        }
        let endpoint =
            Endpoint::from_shared(url).map_err(|error| said(format!("endpoint {text}: {error}")))?;
        let endpoint = endpoint
            .connect_timeout(self.connect_timeout)
            .tcp_keepalive(Some(Duration::from_secs(5)))
            .tcp_nodelay(true);
        if !secure {
            return Ok(endpoint);
        }
        let Some(tls) = &self.tls else {
            return Err(said(format!(
                "endpoint {text}: https needs the certificate of the authority that signed the server's"
            )));
        };
        endpoint
            .tls_config(tls.config())
            .map_err(|error| said(format!("endpoint {text}: {error}")))
    }
}

impl ClientTls {
    fn config(&self) -> ClientTlsConfig {
        let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.ca));
        if let Some((certificate, key)) = &self.identity {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        if let Some(name) = &self.server_name {
            config = config.domain_name(name);
        }
        config
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
