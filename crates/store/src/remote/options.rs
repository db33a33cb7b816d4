//! How a plane reaches the cluster that keeps its log.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use setpoint_flow::Flow;

/// Options of a log in an etcd cluster.
#[derive(Clone)]
pub struct ClusterOptions {
    /// `http://` or `https://` addresses of members; at least one. All must belong to one cluster.
    pub endpoints: Vec<String>,
    /// What every key begins with in the cluster (nothing): planes with different prefixes share a cluster.
    pub prefix: String,
    /// Certificate of the authority that signed the members', as PEM; `https://` needs it.
    pub ca: Option<Bytes>,
    /// Our certificate and its key, as PEM, where members ask for one.
    pub identity: Option<(Bytes, Bytes)>,
    /// A user of the cluster and the password.
    pub credentials: Option<(String, String)>,
    /// How long one attempt of a call may take, the connection included (3 s).
    pub attempt_timeout: Duration,
    /// How long a call is tried in all (10 s). Longer than an election: a member's death is not seen above.
    pub patience: Duration,
    /// The process's flow control, where connections to members are seen and share a receive budget (their own).
    pub flow: Option<Flow>,
}

impl ClusterOptions {
    /// The defaults, for these endpoints.
    #[must_use]
    pub fn new(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            prefix: String::new(),
            ca: None,
            identity: None,
            credentials: None,
            attempt_timeout: Duration::from_secs(3),
            patience: Duration::from_secs(10),
            flow: None,
        }
    }

    /// Every problem of the options.
    ///
    /// # Errors
    /// A text each.
    pub fn validate(&self) -> Result<(), Vec<String>> {
        let mut problems = Vec::new();
        if self.endpoints.is_empty() {
            problems.push("no endpoint: give at least one, such as http://127.0.0.1:2379".to_owned());
        }
        for endpoint in &self.endpoints {
            let uri = endpoint.parse::<http::Uri>().ok();
            let (scheme, host) = uri
                .as_ref()
                .map_or((None, None), |uri| (uri.scheme_str(), uri.host()));
            if !matches!(scheme, Some("http" | "https")) || host.is_none() {
                problems.push(format!(
                    "endpoint {endpoint:?}: write http://HOST:PORT or https://HOST:PORT"
                ));
            } else if scheme == Some("http") && (self.ca.is_some() || self.identity.is_some()) {
                problems.push(format!("endpoint {endpoint}: certificates need https://"));
            } else if scheme == Some("https") && self.ca.is_none() {
                problems.push(format!(
                    "endpoint {endpoint}: https:// needs the certificate of the authority that signed the member's"
                ));
            }
        }
        if self.attempt_timeout.is_zero() || self.patience < self.attempt_timeout {
            problems.push(
                "the patience must hold at least one attempt, which must be longer than 0 s".to_owned(),
            );
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(problems)
        }
    }
}

/// Without password and key.
impl fmt::Debug for ClusterOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterOptions")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .field("ca", &self.ca.is_some())
            .field("identity", &self.identity.is_some())
            .field("user", &self.credentials.as_ref().map(|(user, _)| user))
            .field("attempt_timeout", &self.attempt_timeout)
            .field("patience", &self.patience)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_named_together() {
        let mut options = ClusterOptions::new(vec!["127.0.0.1:2379".to_owned(), "http://a:1".to_owned()]);
        options.ca = Some(Bytes::new());
        options.attempt_timeout = Duration::ZERO;
        assert_eq!(options.validate().unwrap_err().len(), 3);
        assert_eq!(
            ClusterOptions::new(vec!["http://a:1".to_owned()]).validate(),
            Ok(())
        );
        assert_eq!(
            ClusterOptions::new(vec!["https://a:1".to_owned()])
                .validate()
                .unwrap_err()
                .len(),
            1
        );
        assert_eq!(ClusterOptions::new(Vec::new()).validate().unwrap_err().len(), 1);
    }

    #[test]
    fn secrets_are_not_printed() {
        let mut options = ClusterOptions::new(Vec::new());
        options.credentials = Some(("root".to_owned(), "hunter2".to_owned()));
        options.identity = Some(("cert".into(), "hunter2".into()));
        assert!(!format!("{options:?}").contains("hunter2"));
    }
}
