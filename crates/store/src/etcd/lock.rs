//! The Lock service: locks that the server waits for on behalf of its client.

use std::sync::Arc;

use bytes::Bytes;
use setpoint_base::TraceContext;
use setpoint_proto::v3lockpb as pb;
use tonic::Status;

use super::contest::{self, told};
use super::convert;
use super::server::Shared;
use super::wire::{self, Reply};
use crate::types::{Delete, KeyRange};

/// Lock: returns once the lock is held. Dropping the call gives its place in line up.
pub(super) async fn lock(
    shared: &Arc<Shared>,
    request: Bytes,
    trace: Option<TraceContext>,
) -> Result<Reply, Status> {
    let request: pb::LockRequest = convert::decode(request)?;
    let mut place = shared.waits.place()?;
    let name = (&request.name[..], request.lease);
    let contender = contest::enter(shared, &mut place, name, Bytes::new(), trace).await?;
    let Some(held) = contender.turn(shared).await? else {
        return Err(Status::unknown("mutex: session is expired"));
    };
    place.settle();
    Ok(Reply::Whole(wire::message(&pb::LockResponse {
        header: Some(shared.header(held)),
        key: contender.key,
    })))
}

/// Unlock: deletes the key, whoever made it. One that is gone already is no error.
pub(super) async fn unlock(
    shared: &Arc<Shared>,
    request: Bytes,
    trace: Option<TraceContext>,
) -> Result<Reply, Status> {
    let request: pb::UnlockRequest = convert::decode(request)?;
    let keys = KeyRange::Key(request.key);
    shared.may_write(&keys)?;
    let delete = Delete { keys, prev_kv: false };
    let deleted = shared.store.delete(delete, trace).await;
    let revision = deleted.map_err(|error| told(&error))?.revision;
    Ok(Reply::Whole(wire::message(&pb::UnlockResponse {
        header: Some(shared.header(revision)),
    })))
}
