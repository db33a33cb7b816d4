//! How a channel finds its peers, how patient it is, and what it does when they fail.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use setpoint_base::BackoffPolicy;

use crate::core::glob;
use crate::core::keepalive::Pace;
use crate::core::outlier::OutlierPolicy;
use crate::core::retry::Attempts;

/// Longest body kept for another attempt that can be asked for, in bytes.
const REPLAY_BYTES_LIMIT: usize = 64 << 20;

/// Options of a [`super::Channel`].
#[derive(Clone, Debug)]
pub struct ChannelOptions {
    /// How long a call takes at most that does not say it (20 s).
    pub timeout: Duration,
    /// The longest that a call may ask for, long streams aside (5 min). Longer ones are cut to it.
    pub timeout_max: Duration,
    /// Whether calls wait for an endpoint rather than fail while none can be reached (no). A call may say otherwise.
    pub wait_for_ready: bool,
    /// How long a connection may take until the peer has answered on it (5 s).
    pub connect_timeout: Duration,
    /// Waits between attempts to connect (gRPC's: 1 s, growing by 1.6 to 120 s, jitter 0.2).
    pub reconnect: BackoffPolicy,
    /// When a silent peer is asked, and given up (10 s, 3 s, idle ones too).
    pub keepalive: Pace,
    /// Whether connections are made before a call wants them, and again when they are lost (yes).
    pub eager: bool,
    /// Connections to each endpoint (1).
    pub connections: usize,
    /// Connections to an endpoint whose own limit of streams keeps calls waiting (4).
    pub connections_max: usize,
    /// A connection beyond `connections` is closed when it was idle for so long (60 s).
    pub connection_idle: Duration,
    /// Calls in flight on one connection, if the peer allows more (8,192).
    pub streams_max: usize,
    /// Calls that wait for a stream or a connection at a time (1,024). One more is answered `RESOURCE_EXHAUSTED`.
    pub queue_max: usize,
    /// How long a call waits for a stream on connections that are up (5 s), then it is answered `RESOURCE_EXHAUSTED`.
    pub queue_timeout: Duration,
    /// Largest message sent, in bytes (4 MiB).
    pub send_bytes_max: usize,
    /// Largest message received, in bytes (4 MiB).
    pub receive_bytes_max: usize,
    /// Largest set of headers or trailers received, in bytes (16 KiB).
    pub header_list_bytes_max: u32,
    /// Bodies up to so many bytes are kept until the answer begins, for another attempt (256 KiB).
    pub replay_bytes_max: usize,
    /// How often names are looked up again (30 s); sooner, and at most once a second, when a connection fails.
    pub resolve_interval: Duration,
    /// Endpoints used of those that a resolver finds (256).
    pub endpoints_max: usize,
    /// How long the latency of an endpoint takes to be forgotten by two thirds (10 s).
    pub latency_decay: Duration,
    /// When endpoints are left out; none: never.
    pub outlier: Option<OutlierPolicy>,
    /// What holds for some methods; the first that is about a method counts.
    pub methods: Vec<MethodPolicy>,
    /// Tokens of the retry budget (10): with half of them gone nothing is made again.
    pub retry_tokens: u32,
    /// What a success gives back (0.1 token).
    pub retry_token_ratio: f64,
    /// The `:authority` of calls; none: the target's host.
    pub authority: Option<String>,
    /// Sent when the call has none (`setpoint/<version>`).
    pub user_agent: String,
    /// Certificates; needed for `https`.
    pub tls: Option<ChannelTls>,
}

/// What holds for the calls of some methods.
#[derive(Clone, Debug, Default)]
pub struct MethodPolicy {
    /// Full names such as `/etcdserverpb.KV/Range`; `*` stands for anything. Empty: all.
    pub methods: Vec<String>,
    /// Instead of [`ChannelOptions::timeout`].
    pub timeout: Option<Duration>,
    /// Instead of [`ChannelOptions::wait_for_ready`].
    pub wait_for_ready: Option<bool>,
    /// What is done when a call fails.
    pub attempts: Attempts,
}

/// Certificates in PEM, or a configuration made elsewhere.
#[derive(Clone)]
pub enum ChannelTls {
    /// Certificates in PEM.
    Pem {
        /// Whom the peer's certificate must be signed by. Nobody else is trusted.
        ca: Vec<u8>,
        /// The client's own certificate and key, when peers ask for one.
        identity: Option<(Vec<u8>, Vec<u8>)>,
        /// The name in the peer's certificate, when it is not the target's host.
        server_name: Option<String>,
    },
    /// As it is; `h2` is offered to the peer whatever it says.
    Config {
        /// The configuration.
        config: Arc<rustls::ClientConfig>,
        /// The name in the peer's certificate, when it is not the target's host.
        server_name: Option<String>,
    },
}

impl fmt::Debug for ChannelTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelTls")
            .field("server_name", &self.server_name())
            .finish_non_exhaustive()
    }
}

impl ChannelTls {
    pub(super) fn server_name(&self) -> Option<&str> {
        match self {
            Self::Pem { server_name, .. } | Self::Config { server_name, .. } => server_name.as_deref(),
        }
    }
}

impl Default for ChannelOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(20),
            timeout_max: Duration::from_secs(300),
            wait_for_ready: false,
            connect_timeout: Duration::from_secs(5),
            reconnect: BackoffPolicy {
                base: Duration::from_secs(1),
                max: Duration::from_secs(120),
                factor: 1.6,
                jitter: 0.2,
            },
            keepalive: Pace::default(),
            eager: true,
            connections: 1,
            connections_max: 4,
            connection_idle: Duration::from_secs(60),
            streams_max: 8_192,
            queue_max: 1_024,
            queue_timeout: Duration::from_secs(5),
            send_bytes_max: 4 << 20,
            receive_bytes_max: 4 << 20,
            header_list_bytes_max: 16 << 10,
            replay_bytes_max: 256 << 10,
            resolve_interval: Duration::from_secs(30),
            endpoints_max: 256,
            latency_decay: Duration::from_secs(10),
            outlier: Some(OutlierPolicy::default()),
            methods: Vec::new(),
            retry_tokens: 10,
            retry_token_ratio: 0.1,
            authority: None,
            user_agent: concat!("setpoint/", env!("CARGO_PKG_VERSION")).to_owned(),
            tls: None,
        }
    }
}

impl ChannelOptions {
    /// Every problem with what was said.
    ///
    /// # Errors
    /// When there is one.
    pub fn validate(&self) -> Result<(), Vec<String>> {
        let mut problems = Vec::new();
        self.validate_numbers(&mut problems);
        for policy in &self.methods {
            policy.validate(&mut problems);
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(problems)
        }
    }

    fn validate_numbers(&self, problems: &mut Vec<String>) {
        for (name, value) in [
            ("timeout", self.timeout),
            ("timeout_max", self.timeout_max),
            ("connect_timeout", self.connect_timeout),
            ("reconnect.base", self.reconnect.base),
            ("keepalive.interval", self.keepalive.interval),
            ("keepalive.timeout", self.keepalive.timeout),
            ("queue_timeout", self.queue_timeout),
            ("resolve_interval", self.resolve_interval),
            ("latency_decay", self.latency_decay),
        ] {
            if value.is_zero() {
                problems.push(format!("{name} is 0 s: nothing could ever be in time"));
            }
        }
        for (name, value) in [
            ("connections", self.connections),
            ("streams_max", self.streams_max),
            ("queue_max", self.queue_max),
            ("endpoints_max", self.endpoints_max),
            ("send_bytes_max", self.send_bytes_max),
            ("receive_bytes_max", self.receive_bytes_max),
        ] {
            if value == 0 {
                problems.push(format!("{name} is 0: no call could ever be made"));
            }
        }
        if self.connections_max < self.connections {
            let (most, least) = (self.connections_max, self.connections);
            problems.push(format!(
                "connections_max is {most}, but there are to be {least} connections"
            ));
        }
        if self.replay_bytes_max > REPLAY_BYTES_LIMIT {
            problems.push(format!(
                "replay_bytes_max is over {REPLAY_BYTES_LIMIT}: it is held for each call"
            ));
        }
    }
}

impl MethodPolicy {
    pub(super) fn is_about(&self, method: &str) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|pattern| glob::matches(pattern, method))
    }

    fn validate(&self, problems: &mut Vec<String>) {
        let (attempts_max, codes) = match &self.attempts {
            Attempts::Once => return,
            Attempts::Retry(retry) => (retry.attempts_max, &retry.codes),
            Attempts::Hedge(hedge) => (hedge.attempts_max, &hedge.codes),
        };
        let methods = self.methods.join(", ");
        if !(2..=5).contains(&attempts_max) {
            problems.push(format!(
                "methods {methods:?}: attempts_max is {attempts_max}, it can be 2 to 5"
            ));
        }
        if codes.contains(&tonic::Code::Ok) {
            problems.push(format!("methods {methods:?}: OK is no failure"));
        }
        if let Attempts::Retry(retry) = &self.attempts
            && !(1.0..=100.0).contains(&retry.factor)
        {
            problems.push(format!(
                "methods {methods:?}: factor is {}, it can be 1 to 100",
                retry.factor
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::retry::{Hedge, Retry};

    #[test]
    fn the_defaults_are_fine_and_every_problem_is_reported() {
        assert_eq!(ChannelOptions::default().validate(), Ok(()));
        let retry = |attempts_max, factor| MethodPolicy {
            attempts: Attempts::Retry(Retry {
                attempts_max,
                factor,
                ..Retry::default()
            }),
            ..MethodPolicy::default()
        };
        let wrong = ChannelOptions {
            timeout: Duration::ZERO,
            connections: 9,
            replay_bytes_max: usize::MAX,
            methods: vec![
                retry(1, 2.0),
                retry(3, 0.0),
                MethodPolicy {
                    attempts: Attempts::Hedge(Hedge {
                        codes: vec![tonic::Code::Ok],
                        ..Hedge::default()
                    }),
                    ..MethodPolicy::default()
                },
            ],
            ..ChannelOptions::default()
        };
        let problems = wrong.validate().unwrap_err();
        assert_eq!(problems.len(), 6, "{problems:#?}");
    }
}
