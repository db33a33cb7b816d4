//! The Lock service: locks that the server waits for on behalf of its client.

use bytes::Bytes;
use setpoint_proto::v3lockpb as pb;
use tonic::Status;

use super::contest::{self, Asker};
use super::convert;
use super::wire::{self, Reply};
use crate::types::{Delete, KeyRange, Op, Txn};

/// Lock: returns once the lock is held. Dropping the call gives its place in line up.
pub(super) async fn lock(asker: Asker<'_>, request: Bytes) -> Result<Reply, Status> {
    let (request, shared): (pb::LockRequest, _) = (convert::decode(request)?, asker.shared);
    let mut place = shared.waits.place()?;
    let name = (&request.name[..], request.lease);
    let contender = contest::enter(asker, &mut place, name, Bytes::new()).await?;
    let Some(held) = contender.turn(asker).await? else {
        return Err(Status::unknown("mutex: session is expired"));
    };
    place.settle();
    Ok(Reply::Whole(wire::message(&pb::LockResponse {
        header: Some(shared.header(held)),
        key: contender.key,
    })))
}

/// Unlock: deletes the key, whoever made it. One that is gone already is no error.
pub(super) async fn unlock(asker: Asker<'_>, request: Bytes) -> Result<Reply, Status> {
    let (request, shared): (pb::UnlockRequest, _) = (convert::decode(request)?, asker.shared);
    let keys = KeyRange::Key(request.key);
    shared.may_write(&keys)?;
    let delete = Delete { keys, prev_kv: false };
    let txn = Txn {
        success: vec![Op::Delete(delete)],
        ..Txn::default()
    };
    let revision = asker.txn(txn).await?.revision;
    Ok(Reply::Whole(wire::message(&pb::UnlockResponse {
        header: Some(shared.header(revision)),
    })))
}
