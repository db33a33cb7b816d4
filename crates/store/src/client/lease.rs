//! Leases, and keeping one alive.

use std::time::Duration;

use setpoint_base::Stop;
use setpoint_flow::channel::CallOptions;
use setpoint_proto::etcdserverpb as pb;
use setpoint_proto::etcdserverpb::lease_client::LeaseClient;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tonic::Status;

use super::call::Kind;
use super::error::ClientError;
use super::link::{left, signed};
use super::{Client, Links};

/// After a renewal that failed.
const RETRY: Duration = Duration::from_millis(500);

/// A lease that is renewed as long as this lives.
#[derive(Debug)]
pub struct LeaseKeeper {
    alive: watch::Receiver<bool>,
    stop: Stop,
}

impl LeaseKeeper {
    /// Whether the lease was alive when last heard of.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        *self.alive.borrow()
    }

    /// Waits until the lease is gone: expired, revoked, or not renewed within its time.
    pub async fn lost(&mut self) {
        // An error means that the keeper's task ended: nobody renews any more.
        let _ = self.alive.wait_for(|alive| !alive).await;
    }
}

impl Drop for LeaseKeeper {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Client {
    /// Makes a lease; id 0 lets the server choose.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn lease_grant(
        &self,
        request: pb::LeaseGrantRequest,
    ) -> Result<pb::LeaseGrantResponse, ClientError> {
        self.call("/etcdserverpb.Lease/LeaseGrant", Kind::Write, request)
            .await
    }

    /// Ends a lease and deletes its keys.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn lease_revoke(&self, id: i64) -> Result<pb::LeaseRevokeResponse, ClientError> {
        let request = pb::LeaseRevokeRequest { id };
        self.call("/etcdserverpb.Lease/LeaseRevoke", Kind::Write, request)
            .await
    }

    /// What is left of a lease; a TTL of -1 says that there is none.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn lease_time_to_live(
        &self,
        request: pb::LeaseTimeToLiveRequest,
    ) -> Result<pb::LeaseTimeToLiveResponse, ClientError> {
        self.call("/etcdserverpb.Lease/LeaseTimeToLive", Kind::Read, request)
            .await
    }

    /// All leases.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn leases(&self) -> Result<pb::LeaseLeasesResponse, ClientError> {
        let request = pb::LeaseLeasesRequest {};
        self.call("/etcdserverpb.Lease/LeaseLeases", Kind::Read, request)
            .await
    }

    /// Renews a lease once; the answer's TTL is 0 when it is gone.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn lease_keep_alive_once(&self, id: i64) -> Result<pb::LeaseKeepAliveResponse, ClientError> {
        renew(&self.0.links, id).await
    }

    /// Renews a lease of `ttl` every third of it, until the keeper is dropped or the lease is gone.
    #[must_use]
    pub fn lease_keep_alive(&self, id: i64, ttl: Duration) -> LeaseKeeper {
        let (tell, alive) = watch::channel(true);
        let links = self.0.links.clone();
        let stop = self.0.tasks.stop().child_token();
        let ended = stop.clone();
        self.0.tasks.spawn(async move {
            tokio::select! {
                () = ended.cancelled() => (),
                () = keep(&links, id, ttl) => (),
            }
            tell.send_replace(false);
        });
        LeaseKeeper { alive, stop }
    }
}

/// Renews until the lease is gone or its time passed without an answer.
async fn keep(links: &Links, id: i64, ttl: Duration) {
    let mut expires = Instant::now() + ttl;
    loop {
        match renew(links, id).await {
            Ok(answer) if answer.ttl <= 0 => return,
            Ok(_) => {
                expires = Instant::now() + ttl;
                sleep(ttl / 3).await;
            }
            Err(error) if Instant::now() < expires => {
                tracing::debug!(lease = id, %error, "lease not renewed yet");
                sleep(RETRY).await;
            }
            Err(_) => return,
        }
    }
}

async fn renew(links: &Links, id: i64) -> Result<pb::LeaseKeepAliveResponse, ClientError> {
    // Renewing twice is renewing: it may be tried again.
    links
        .call(Kind::Read, move |channel, metadata, until| async move {
            let options = CallOptions::new().timeout(left(until));
            let request = signed(
                tokio_stream::once(pb::LeaseKeepAliveRequest { id }),
                metadata,
                options,
            );
            let mut answers = LeaseClient::new(channel)
                .lease_keep_alive(request)
                .await?
                .into_inner();
            let answer = answers.message().await?;
            answer.ok_or_else(|| Status::unavailable("the server said nothing of the lease"))
        })
        .await
}
