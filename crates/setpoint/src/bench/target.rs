//! A server under measurement, and the load that is put on it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::future::try_join_all;
use setpoint_proto::etcdserverpb::StatusRequest;
use setpoint_proto::etcdserverpb::kv_client::KvClient;
use setpoint_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::h2load::{Connection, Measured, histogram};
use super::machine;
use super::report::Server;
use super::requests::{Op, Template};

/// Connections at most; more clients share them, as a busy server's clients do.
pub(super) const CONNECTIONS_MAX: usize = 50;
/// Connections that fill a store, and the callers on each.
const FILL: (u64, usize) = (8, 32);
/// What runs before a round counts.
pub(super) const WARM_UP: Duration = Duration::from_millis(300);

/// A server under measurement.
pub(super) struct Target {
    /// "a" or "b".
    pub(super) name: &'static str,
    pub(super) address: SocketAddr,
    pub(super) server: Server,
}

impl Target {
    pub(super) async fn find(name: &'static str, endpoint: &str, pid: Option<u32>) -> Result<Self> {
        let host = endpoint.trim_start_matches("http://").trim_end_matches('/');
        let address = tokio::net::lookup_host(host)
            .await
            .with_context(|| format!("resolve {endpoint} (give http://HOST:PORT)"))?
            .next()
            .with_context(|| format!("{endpoint} has no address"))?;
        let mut client = MaintenanceClient::connect(format!("http://{address}"))
            .await
            .with_context(|| format!("connect to {endpoint}"))?;
        let status = client
            .status(StatusRequest {})
            .await
            .with_context(|| format!("ask {endpoint} for its status"))?;
        Ok(Self {
            name,
            address,
            server: Server {
                endpoint: endpoint.to_owned(),
                version: format!("etcd API {}", status.into_inner().version),
                pid: pid.or_else(|| machine::listener(address)),
            },
        })
    }

    /// The server's process, as far as it is known.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.server.pid.into_iter().collect()
    }

    /// A client for what is not load.
    pub(super) async fn kv(&self) -> Result<KvClient<Channel>> {
        let client = KvClient::connect(format!("http://{}", self.address)).await;
        Ok(client
            .with_context(|| format!("connect to {}", self.server.endpoint))?
            .max_decoding_message_size(usize::MAX))
    }

    /// Puts keys 0 to `keys` once each, in no particular order.
    pub(super) async fn fill(&self, template: &Template, keys: u64) -> Result<()> {
        // The next prime after a million has no divisor in common with the number, unless it divides it.
        let step = if keys.is_multiple_of(1_000_003) {
            1
        } else {
            1_000_003
        };
        let numbers = (0..keys).map(|n| (u128::from(n) * step % u128::from(keys)) as u64);
        self.each(Op::Put.path(), template, numbers, FILL.1).await
    }

    /// One call for each number, over a few connections in turns.
    pub(super) async fn each(
        &self,
        path: &'static str,
        template: &Template,
        numbers: impl Iterator<Item = u64> + Clone,
        callers: usize,
    ) -> Result<()> {
        let (now, far) = (Instant::now(), Instant::now() + Duration::from_secs(3600));
        let runs = (0..FILL.0).map(|index| {
            let numbers = numbers.clone().skip(index as usize).step_by(FILL.0 as usize);
            async move {
                let connection = Connection::open(self.address, path).await?;
                connection
                    .run(callers, template.clone(), numbers, (now, far))
                    .await
            }
        });
        let failed: u64 = try_join_all(runs).await?.iter().map(|run| run.failed).sum();
        if failed > 0 {
            bail!(
                "{failed} calls of {path} failed while preparing {}",
                self.server.endpoint
            );
        }
        Ok(())
    }

    /// Unary calls in a closed loop, over at most [`CONNECTIONS_MAX`] connections.
    pub(super) async fn call(
        &self,
        (path, template): (&'static str, &Template),
        keys: u64,
        clients: usize,
        number: usize,
        time: (Instant, Instant),
    ) -> Result<Measured> {
        let connections = clients.min(CONNECTIONS_MAX);
        let runs = (0..connections).map(|index| async move {
            let callers = clients / connections + usize::from(index < clients % connections);
            let mut rng = fastrand::Rng::with_seed((number * CONNECTIONS_MAX + index) as u64);
            let keys = std::iter::repeat_with(move || rng.u64(..keys));
            let connection = Connection::open(self.address, path).await?;
            connection.run(callers, template.clone(), keys, time).await
        });
        sum(try_join_all(runs).await?)
    }

    /// Puts at a steady rate over a few connections.
    pub(super) async fn paced(
        &self,
        template: &Template,
        keys: u64,
        per_second: f64,
        connections: usize,
        epoch: Instant,
        time: (Instant, Instant),
    ) -> Result<Measured> {
        let runs = (0..connections).map(|_| async move {
            let connection = Connection::open(self.address, Op::Put.path()).await?;
            let rate = per_second / connections as f64;
            connection.pace(template.clone(), keys, rate, epoch, time).await
        });
        sum(try_join_all(runs).await?)
    }
}

fn sum(parts: Vec<Measured>) -> Result<Measured> {
    let mut sum = Measured {
        latency: histogram()?,
        failed: 0,
    };
    for measured in parts {
        sum.latency.add(measured.latency).context("add histograms")?;
        sum.failed += measured.failed;
    }
    Ok(sum)
}
