//! The Lease service.

use std::sync::Arc;

use bytes::Bytes;
use setpoint_proto::etcdserverpb as pb;
use tokio::time::timeout;
use tonic::Status;

use super::auth::Access;
use super::call::Call;
use super::convert;
use super::outbound::Gone;
use super::server::Shared;
use super::status::{self, status as of};
use super::wire::{self, Reply};
use crate::Error;
use crate::types::{KeyRange, LeaseId};

/// LeaseGrant: makes no revision.
pub(super) async fn grant(shared: &Arc<Shared>, request: Bytes) -> Result<Reply, Status> {
    let request: pb::LeaseGrantRequest = convert::decode(request)?;
    let granted = shared
        .store
        .lease_grant(convert::lease_id(request.id), request.ttl)
        .await;
    let lease = granted.map_err(|error| of(&error))?;
    Ok(Reply::Whole(wire::message(&pb::LeaseGrantResponse {
        header: Some(shared.header(shared.store.revision())),
        id: lease.id.0,
        ttl: lease.granted_ttl,
        error: String::new(),
    })))
}

/// LeaseRevoke: its keys go with it.
pub(super) async fn revoke(shared: &Arc<Shared>, request: Bytes, access: &Access) -> Result<Reply, Status> {
    let request: pb::LeaseRevokeRequest = convert::decode(request)?;
    let id = LeaseId(request.id);
    access.lease_writes(&shared.store, id)?;
    if shared.options.read_only_prefix.is_some() {
        let lease = shared.store.lease(id, true);
        for key in lease.into_iter().flat_map(|lease| lease.keys) {
            shared.may_write(&KeyRange::Key(key))?;
        }
    }
    let store = access.store(shared);
    let revision = store
        .lease_revoke(id)
        .await
        .map_err(|error| access.told(&error))?;
    Ok(Reply::Whole(wire::message(&pb::LeaseRevokeResponse {
        header: Some(shared.header(revision)),
    })))
}

/// LeaseTimeToLive: a lease that is gone is no error, its TTL is -1.
pub(super) fn time_to_live(shared: &Arc<Shared>, request: Bytes, access: &Access) -> Result<Reply, Status> {
    let request: pb::LeaseTimeToLiveRequest = convert::decode(request)?;
    let header = Some(shared.header(shared.store.revision()));
    let lease = shared.store.lease(LeaseId(request.id), request.keys);
    if request.keys {
        // The keys that are told, not those that it had a moment before.
        access.sees(lease.as_ref().map_or(&[], |lease| &lease.keys))?;
    }
    let response = match lease {
        Some(lease) => pb::LeaseTimeToLiveResponse {
            header,
            id: request.id,
            ttl: lease.remaining_ttl,
            granted_ttl: lease.granted_ttl,
            keys: lease.keys,
        },
        None => pb::LeaseTimeToLiveResponse {
            header,
            id: request.id,
            ttl: -1,
            granted_ttl: 0,
            keys: Vec::new(),
        },
    };
    Ok(Reply::Whole(wire::message(&response)))
}

/// LeaseLeases: soonest to expire first.
pub(super) fn leases(shared: &Arc<Shared>, access: &Access) -> Result<Reply, Status> {
    access.named()?;
    let leases = shared.store.leases().into_iter();
    if access.admin().is_err() {
        for lease in leases.clone() {
            access.lease_reads(&shared.store, lease)?;
        }
    }
    Ok(Reply::Whole(wire::message(&pb::LeaseLeasesResponse {
        header: Some(shared.header(shared.store.revision())),
        leases: leases.map(|id| pb::LeaseStatus { id: id.0 }).collect(),
    })))
}

/// LeaseKeepAlive: one answer per request, TTL 0 for a lease that is gone.
pub(super) async fn keep_alive(call: &mut Call) -> Result<(), Status> {
    while let Some(request) = call.inbound.message().await? {
        let request: pb::LeaseKeepAliveRequest = convert::decode(request)?;
        call.access()
            .lease_writes(&call.shared.store, LeaseId(request.id))?;
        // Read before the renewal: were the lease revoked in between, the revocation's revision is not below it.
        let header = call.shared.header(call.shared.store.revision());
        let renewed = call.shared.store.lease_keep_alive(LeaseId(request.id));
        let ttl = match timeout(call.shared.options.request_timeout, renewed).await {
            Ok(Ok(ttl)) => ttl,
            Ok(Err(Error::LeaseNotFound(_))) => 0,
            Ok(Err(error)) => return Err(of(&error)),
            Err(_) => return Err(status::timed_out()),
        };
        let response = wire::message(&pb::LeaseKeepAliveResponse {
            header: Some(header),
            id: request.id,
            ttl,
        });
        if let Err(Gone) = call.outbound.send(response).await {
            return Err(Status::cancelled("context canceled"));
        }
    }
    Ok(())
}
