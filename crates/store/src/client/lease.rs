//! Leases, and keeping one alive.

use std::time::Duration;

use setpoint_base::Stop;
use setpoint_flow::channel::CallOptions;
use setpoint_proto::etcdserverpb as pb;
use setpoint_proto::etcdserverpb::lease_client::LeaseClient;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};
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
        let renewal = move || {
            let links = links.clone();
            async move { renew(&links, id).await.map(|answer| answer.ttl) }
        };
        self.0.tasks.spawn(async move {
            tokio::select! {
                () = ended.cancelled() => (),
                () = keep(id, ttl, renewal) => (),
            }
            tell.send_replace(false);
        });
        LeaseKeeper { alive, stop }
    }
}

/// Renews every third of the time, until the lease is gone or its time has passed without an answer.
async fn keep<F>(id: i64, ttl: Duration, mut renewal: impl FnMut() -> F)
where
    F: Future<Output = Result<i64, ClientError>>,
{
    let mut expires = Instant::now() + ttl;
    loop {
        // An answer that comes later is of no use: the lease may be gone by then.
        match timeout_at(expires, renewal()).await {
            Ok(Ok(left)) if left <= 0 => return,
            Ok(Ok(_)) => {
                let now = Instant::now();
                expires = now + ttl;
                sleep_until(now + ttl / 3).await;
            }
            Ok(Err(error)) if Instant::now() < expires => {
                tracing::debug!(lease = id, %error, "lease not renewed yet");
                sleep_until(expires.min(Instant::now() + RETRY)).await;
            }
            _ => return,
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const TTL: Duration = Duration::from_secs(9);

    /// What becomes of a renewal.
    #[derive(Clone, Copy)]
    enum Comes {
        Granted,
        Gone,
        Error,
        Nothing,
    }

    /// Keeps a lease whose renewals go so, the last one ever after; when they were begun and when it ended, in milliseconds.
    async fn run(script: &[Comes]) -> (Vec<u128>, u128) {
        let (start, begun) = (Instant::now(), RefCell::new(Vec::new()));
        let renewal = || {
            let number = begun.borrow().len();
            begun.borrow_mut().push(start.elapsed().as_millis());
            let comes = script[number.min(script.len() - 1)];
            async move {
                match comes {
                    Comes::Granted => Ok(9),
                    Comes::Gone => Ok(0),
                    Comes::Error => Err(ClientError::Closed),
                    Comes::Nothing => std::future::pending().await,
                }
            }
        };
        keep(7, TTL, renewal).await;
        (begun.into_inner(), start.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_renewed_every_third_of_its_time_until_it_is_gone() {
        use Comes::{Gone, Granted};
        let (begun, ended) = run(&[Granted, Granted, Granted, Gone]).await;
        assert_eq!((&begun[..], ended), (&[0, 3_000, 6_000, 9_000][..], 9_000));
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_that_fails_is_tried_again_soon_and_a_success_begins_the_time_anew() {
        use Comes::{Error, Gone, Granted};
        let (begun, _) = run(&[Granted, Error, Error, Granted, Gone]).await;
        assert_eq!(begun, [0, 3_000, 3_500, 4_000, 7_000]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_not_renewed_within_its_time_is_lost_and_not_later() {
        use Comes::{Error, Granted, Nothing};
        for silence in [Error, Nothing] {
            let (_, ended) = run(&[Granted, silence]).await;
            assert_eq!(ended, 9_000);
            let (_, ended) = run(&[silence]).await;
            assert_eq!(ended, 9_000);
        }
    }
}
