//! Leases and upkeep: calls that may be made twice.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use setpoint_proto::etcdserverpb as pb;

use super::failure::{self, Asked, Failure};
use super::{Cluster, Tries};
use crate::client::ClientError;
use crate::error::Error;
use crate::types::{LeaseId, Range, Revision};

impl Cluster {
    /// Grants a lease under an id that the cluster chooses. One that was granted unheard ends by itself.
    pub(crate) async fn lease_grant(&self, ttl: i64) -> Result<LeaseId, Error> {
        let request = pb::LeaseGrantRequest { ttl, id: 0 };
        let grant = || self.0.client.lease_grant(request).boxed();
        Ok(LeaseId(self.again(Asked::default(), grant).await?.id))
    }

    pub(crate) async fn lease_grant_as(&self, id: LeaseId, ttl: i64) -> Result<(), Error> {
        let request = pb::LeaseGrantRequest { ttl, id: id.0 };
        let grant = || self.0.client.lease_grant(request).boxed();
        self.again(about(id), grant).await.map(drop)
    }

    pub(crate) async fn lease_renew(&self, id: LeaseId) -> Result<(), Error> {
        let renew = || self.0.client.lease_keep_alive_once(id.0).boxed();
        match self.again(about(id), renew).await?.ttl {
            ..=0 => Err(Error::LeaseNotFound(id)),
            _ => Ok(()),
        }
    }

    pub(crate) async fn lease_ttl(&self, id: LeaseId) -> Result<Option<i64>, Error> {
        let request = pb::LeaseTimeToLiveRequest {
            id: id.0,
            keys: false,
        };
        let ask = || self.0.client.lease_time_to_live(request).boxed();
        let answer = self.again(about(id), ask).await?;
        Ok((answer.ttl >= 0).then_some(answer.granted_ttl))
    }

    pub(crate) async fn leases(&self) -> Result<Vec<LeaseId>, Error> {
        let ask = || self.0.client.leases().boxed();
        let answer = self.again(Asked::default(), ask).await?;
        Ok(answer.leases.into_iter().map(|lease| LeaseId(lease.id)).collect())
    }

    pub(crate) async fn compact(&self, at: Revision) -> Result<(), Error> {
        let request = pb::CompactionRequest {
            revision: at.0,
            physical: false,
        };
        let asked = Asked {
            revision: Some(at),
            lease: None,
            seen: self.seen(),
        };
        let compact = || self.0.client.compact(request).boxed();
        self.again(asked, compact).await.map(drop)
    }

    pub(crate) async fn identity(&self) -> Result<u64, Error> {
        let request = super::convert::range(&self.0.space, &Range::key("\0"));
        let ask = || self.0.client.range(request.clone()).boxed();
        let answer = self.again(Asked::default(), ask).await?;
        Ok(answer.header.map_or(0, |header| header.cluster_id))
    }

    /// Makes a call that does no harm twice until it is answered.
    async fn again<'a, A>(
        &'a self,
        asked: Asked,
        call: impl Fn() -> BoxFuture<'a, Result<A, ClientError>>,
    ) -> Result<A, Error> {
        let mut tries = Tries::new(self.0.patience);
        loop {
            let error = match call().await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let why = match failure::of_read(&error, asked) {
                Failure::Final(error) => return Err(error),
                Failure::NotYet(why) | Failure::Unsure(why) => why,
            };
            if !tries.again().await {
                return Err(Error::Unavailable(why));
            }
        }
    }
}

fn about(id: LeaseId) -> Asked {
    Asked {
        lease: Some(id),
        ..Asked::default()
    }
}
