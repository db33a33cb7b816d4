//! The Election service: leadership that the server waits for on behalf of its client.

use std::sync::Arc;

use bytes::Bytes;
use setpoint_proto::v3electionpb as pb;
use tokio::time::timeout;
use tonic::Status;

use super::call::Call;
use super::contest::{self, Asker, told};
use super::outbound::Gone;
use super::server::Shared;
use super::waits::removal;
use super::wire::{self, Reply};
use super::{convert, status};
use crate::types::{
    EventKind, KeyRange, KeyValue, LeaseId, Op, Put, PutLease, Relation, Revision, Txn, WatchSpec,
    WatchUpdate,
};

/// Campaign: returns once elected. Dropping the call withdraws the candidate.
pub(super) async fn campaign(asker: Asker<'_>, request: Bytes) -> Result<Reply, Status> {
    let (request, shared): (pb::CampaignRequest, _) = (convert::decode(request)?, asker.shared);
    let mut place = shared.waits.place()?;
    let name = (&request.name[..], request.lease);
    let candidate = contest::enter(asker, &mut place, name, request.value.clone()).await?;
    if candidate
        .found
        .as_ref()
        .is_some_and(|value| *value != request.value)
    {
        let key = (candidate.key.clone(), candidate.created.0, candidate.lease);
        announce(asker, key, request.value).await?;
    }
    if candidate.turn(asker).await?.is_none() {
        return Err(not_leader());
    }
    place.settle();
    Ok(Reply::Whole(wire::message(&pb::CampaignResponse {
        header: Some(shared.header(candidate.entered)),
        leader: Some(pb::LeaderKey {
            name: request.name,
            key: candidate.key,
            rev: candidate.created.0,
            lease: candidate.lease.0,
        }),
    })))
}

/// Proclaim: the leader's new value, while it is the leader.
pub(super) async fn proclaim(asker: Asker<'_>, request: Bytes) -> Result<Reply, Status> {
    let (request, shared): (pb::ProclaimRequest, _) = (convert::decode(request)?, asker.shared);
    let leader = request.leader.ok_or_else(no_leader_key)?;
    let lease = contest::session(shared, convert::lease_id(leader.lease)).await?;
    let revision = announce(asker, (leader.key, leader.rev, lease), request.value).await?;
    Ok(Reply::Whole(wire::message(&pb::ProclaimResponse {
        header: Some(shared.header(revision)),
    })))
}

/// Writes a value, if the key is the one created at that revision.
async fn announce(
    asker: Asker<'_>,
    (key, created, lease): (Bytes, i64, LeaseId),
    value: Bytes,
) -> Result<Revision, Status> {
    asker.shared.may_write(&KeyRange::Key(key.clone()))?;
    let put = Put {
        lease: PutLease::Set(Some(lease)),
        ..Put::new(key.clone(), value)
    };
    let txn = Txn {
        compares: vec![contest::created(&key, created)],
        success: vec![Op::Put(put)],
        failure: Vec::new(),
    };
    let result = asker.txn(txn).await?;
    if result.succeeded {
        Ok(result.revision)
    } else {
        Err(not_leader())
    }
}

/// Resign: who is not the leader any more has nothing to give up, and no error.
pub(super) async fn resign(asker: Asker<'_>, request: Bytes) -> Result<Reply, Status> {
    let (request, shared): (pb::ResignRequest, _) = (convert::decode(request)?, asker.shared);
    let leader = request.leader.ok_or_else(no_leader_key)?;
    shared.may_write(&KeyRange::Key(leader.key.clone()))?;
    let txn = removal(&leader.key, Relation::Equal, Revision(leader.rev));
    let result = asker.txn(txn).await?;
    Ok(Reply::Whole(wire::message(&pb::ResignResponse {
        header: Some(shared.header(result.revision)),
    })))
}

/// Leader: who it is now.
pub(super) async fn leader(shared: &Arc<Shared>, request: Bytes) -> Result<Reply, Status> {
    let request: pb::LeaderRequest = convert::decode(request)?;
    let (revision, kv) = contest::holder(shared, &request.name).await?;
    let kv = kv.ok_or_else(|| Status::unknown("election: no leader"))?;
    Ok(Reply::Whole(response(shared, revision, kv)))
}

fn response(shared: &Arc<Shared>, revision: Revision, kv: KeyValue) -> Bytes {
    wire::message(&pb::LeaderResponse {
        header: Some(shared.header(revision)),
        kv: Some(wire::kv(kv)),
    })
}

/// Observe: the leader now, and from then on each new leader and each new value of one.
pub(super) async fn observe(call: &mut Call) -> Result<(), Status> {
    let request = call.inbound.message().await?;
    let request = request.ok_or_else(|| Status::internal("unexpected EOF"))?;
    call.access().gate(&call.shared.store, call.method, &request)?;
    let request: pb::LeaderRequest = convert::decode(request)?;
    call.outbound.greet().map_err(cancelled)?;
    loop {
        // It may go on for days, and rights change meanwhile.
        let may = call.access().range(&contest::rivals(&request.name));
        may.map_err(|error| contest::as_client(error.into()))?;
        let (mut revision, found) = contest::holder(&call.shared, &request.name).await?;
        let leader = match found {
            Some(leader) => leader,
            None => {
                let (candidates, from) = (contest::rivals(&request.name), revision.next());
                let Some(first) = first_of(call, candidates, from).await? else {
                    continue;
                };
                revision = first.mod_revision;
                first
            }
        };
        let key = leader.key.clone();
        tell(call, revision, leader).await?;
        follow(call, key, revision.next()).await?;
    }
}

/// The first put to one of these keys; `None` when history has to be looked at again.
async fn first_of(call: &mut Call, keys: KeyRange, from: Revision) -> Result<Option<KeyValue>, Status> {
    let mut changes = call.shared.store.watch();
    let spec = WatchSpec {
        no_delete: true,
        ..WatchSpec::new(keys, Some(from))
    };
    changes.create(spec).map_err(|error| told(&error))?;
    match next(call, &mut changes).await? {
        WatchUpdate::Events { events, .. } => Ok(events.first().map(|event| event.kv.clone())),
        _ => Ok(None),
    }
}

/// Tells each new value of a leader, until its key is deleted.
async fn follow(call: &mut Call, key: Bytes, from: Revision) -> Result<(), Status> {
    let mut changes = call.shared.store.watch();
    let spec = WatchSpec::new(KeyRange::Key(key), Some(from));
    changes.create(spec).map_err(|error| told(&error))?;
    while let WatchUpdate::Events { revision, events, .. } = next(call, &mut changes).await? {
        for event in events {
            match event.kind {
                EventKind::Delete => return Ok(()),
                EventKind::Put => tell(call, revision, event.kv.clone()).await?,
            }
        }
    }
    Ok(())
}

async fn next(call: &mut Call, changes: &mut crate::WatchStream) -> Result<WatchUpdate, Status> {
    tokio::select! {
        update = changes.next() => match update.ok_or_else(status::stopped)? {
            WatchUpdate::Failed { error, .. } => Err(told(&error)),
            update => Ok(update),
        },
        () = call.outbound.reset() => Err(cancelled(Gone)),
    }
}

async fn tell(call: &mut Call, revision: Revision, leader: KeyValue) -> Result<(), Status> {
    let message = response(&call.shared, revision, leader);
    let sent = timeout(call.shared.options.stall_timeout, call.outbound.send(message)).await;
    sent.unwrap_or(Err(Gone)).map_err(cancelled)
}

fn not_leader() -> Status {
    Status::unknown("election: not leader")
}

fn no_leader_key() -> Status {
    Status::unknown(r#""leader" field must be provided"#)
}

fn cancelled(Gone: Gone) -> Status {
    Status::cancelled("context canceled")
}
