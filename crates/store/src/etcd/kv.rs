//! The KV service.

use std::sync::Arc;

use bytes::Bytes;
use setpoint_base::TraceContext;
use setpoint_proto::etcdserverpb as pb;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tonic::Status;

use super::call::{Call, Gone};
use super::convert;
use super::server::Shared;
use super::status::{self, status as of};
use super::txn;
use super::wire::{self, Reply};
use crate::types::{KeyRange, Range, RangeResult, Revision};

/// A read that may return more keys than this leaves the worker thread, so that no other call waits for it.
const INLINE_KEYS_MAX: usize = 500;
/// Keys in the first part of a streamed range (etcd's `initialStreamChunkLimit`).
const FIRST_PART_KEYS: usize = 10;

const FAILED: &str = "the read failed: see the server's log";

/// Range: linearizable and serializable reads are the same here, as nothing is readable before it is durable.
pub(super) async fn range(shared: &Arc<Shared>, request: Bytes) -> Result<Reply, Status> {
    let range = convert::range(convert::decode(request)?)?;
    let (result, room) = read(shared, range).await?;
    let header = shared.header(result.revision);
    Ok(held(wire::range(&header, result)?, room))
}

fn held(reply: Reply, room: Option<OwnedSemaphorePermit>) -> Reply {
    match room {
        Some(room) => Reply::Held(Box::new(reply), room),
        None => reply,
    }
}

fn size(result: &RangeResult) -> usize {
    result.kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum()
}

/// Reads here, or on a thread for long reads, of which few run at a time. A large result comes with the room it
/// takes, which is kept until it has been sent: clients that do not read cannot fill the memory.
pub(super) async fn read(
    shared: &Arc<Shared>,
    range: Range,
) -> Result<(RangeResult, Option<OwnedSemaphorePermit>), Status> {
    let few = range.count_only || (range.limit > 0 && range.limit <= INLINE_KEYS_MAX && range.sort.is_none());
    if few || matches!(range.keys, KeyRange::Key(_)) {
        let result = shared.store.range(&range).map_err(|error| of(&error))?;
        let room = shared.room_now(size(&result))?;
        return Ok((result, room));
    }
    let permit = shared.large_reads.clone().acquire_owned().await;
    let store = shared.store.clone();
    let read = tokio::task::spawn_blocking(move || (store.range(&range), permit));
    let (result, permit) = read.await.map_err(|_| Status::internal(FAILED))?;
    let result = result.map_err(|error| of(&error))?;
    // Kept until there is room: so many results and no more wait for it.
    let room = shared.room(size(&result)).await;
    drop(permit);
    Ok((result, room))
}

/// RangeStream: the same answer in parts, all at the revision of the first.
pub(super) async fn range_stream(call: &mut Call) -> Result<(), Status> {
    let request = call
        .inbound
        .message()
        .await?
        .ok_or_else(|| Status::internal("unexpected EOF"))?;
    let mut range = convert::range(streamable(convert::decode(request)?)?)?;
    let total = if range.limit == 0 { usize::MAX } else { range.limit };
    let (mut sent, mut part_keys, mut pinned) = (0, FIRST_PART_KEYS, None);
    loop {
        range.limit = part_keys.min(total - sent);
        let (part, _room) = read(&call.shared, range.clone()).await?;
        let (revision, count) = *pinned.get_or_insert((part.revision, part.count));
        range.revision.get_or_insert(revision);
        sent += part.kvs.len();
        let next = part.kvs.last().map(|kv| after(&kv.key));
        let done = range.count_only || !part.more || sent >= total;
        let bytes: usize = part.kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
        let message = pb::RangeStreamResponse {
            range_response: Some(pb::RangeResponse {
                header: done.then(|| call.shared.header(revision)),
                more: done && part.more,
                count: if done { count } else { 0 },
                kvs: part.kvs.into_iter().map(wire::kv).collect(),
            }),
        };
        let message = wire::message(&message);
        let sent = timeout(call.shared.options.stall_timeout, call.outbound.send(message)).await;
        sent.unwrap_or(Err(Gone)).map_err(cancelled)?;
        let (false, Some(next)) = (done, next) else {
            return Ok(());
        };
        range.keys = beginning_at(range.keys, next);
        part_keys = next_part(part_keys, bytes, call.shared.options.request_bytes_max);
    }
}

/// Parts approach `bytes_max`, by doubling and halving.
fn next_part(keys: usize, bytes: usize, bytes_max: usize) -> usize {
    if bytes > bytes_max {
        (keys / 2).max(1)
    } else if bytes < bytes_max / 2 {
        keys.saturating_mul(2).min(1 << 20)
    } else {
        keys
    }
}

fn streamable(request: pb::RangeRequest) -> Result<pb::RangeRequest, Status> {
    convert::check_range(&request)?;
    // Ascending by key is what a stream is; etcd too lets that order be named.
    if request.sort_target != 0 || request.sort_order == pb::range_request::SortOrder::Descend as i32 {
        return Err(Status::unimplemented(
            "RangeStream does not support custom sort orders",
        ));
    }
    let bounds = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    if bounds != [0; 4] {
        return Err(Status::unimplemented(
            "RangeStream does not support revision filters",
        ));
    }
    Ok(request)
}

/// The key right after `key`.
fn after(key: &Bytes) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

fn beginning_at(keys: KeyRange, start: Bytes) -> KeyRange {
    match keys {
        KeyRange::Span(_, end) => KeyRange::Span(start, end),
        KeyRange::From(_) => KeyRange::From(start),
        KeyRange::Key(key) => KeyRange::Key(key),
    }
}

/// Put.
pub(super) async fn put(
    shared: &Arc<Shared>,
    request: Bytes,
    trace: Option<TraceContext>,
) -> Result<Reply, Status> {
    let size = request.clone();
    let put = convert::put(convert::decode(request)?)?;
    convert::check_size(&size, shared.options.request_bytes_max)?;
    shared.may_write(&KeyRange::Key(put.key.clone()))?;
    let result = shared.store.put(put, trace).await.map_err(|error| of(&error))?;
    let header = shared.header(result.revision);
    Ok(Reply::Whole(wire::put(&header, result.prev_kv.as_ref())))
}

/// DeleteRange.
pub(super) async fn delete(
    shared: &Arc<Shared>,
    request: Bytes,
    trace: Option<TraceContext>,
) -> Result<Reply, Status> {
    let size = request.clone();
    let delete = convert::delete(convert::decode(request)?)?;
    convert::check_size(&size, shared.options.request_bytes_max)?;
    shared.may_write(&delete.keys)?;
    let result = shared
        .store
        .delete(delete, trace)
        .await
        .map_err(|error| of(&error))?;
    let header = shared.header(result.revision);
    Ok(Reply::Whole(wire::message(&txn::delete_response(
        Some(header),
        result,
    ))))
}

/// Txn.
pub(super) async fn txn(
    shared: &Arc<Shared>,
    request: Bytes,
    trace: Option<TraceContext>,
) -> Result<Reply, Status> {
    let size = request.clone();
    let request: pb::TxnRequest = convert::decode(request)?;
    txn::check(&request, shared.options.txn_ops_max)?;
    let txn = txn::convert(request)?;
    if !txn::only_reads(&txn) {
        convert::check_size(&size, shared.options.request_bytes_max)?;
    }
    if let Some(prefix) = &shared.options.read_only_prefix
        && txn::writes(&txn, prefix)
    {
        return Err(status::read_only(prefix));
    }
    let mut permit = None;
    let result = if txn::reads_widely(&txn) {
        // As for ranges: it leaves the worker thread, and few run at a time.
        permit = shared.large_reads.clone().acquire_owned().await.ok();
        let (store, runtime) = (shared.store.clone(), tokio::runtime::Handle::current());
        let read = tokio::task::spawn_blocking(move || runtime.block_on(store.txn(txn, trace)));
        read.await.map_err(|_| Status::internal(FAILED))?
    } else {
        shared.store.txn(txn, trace).await
    };
    let result = result.map_err(|error| of(&error))?;
    let header = shared.header(result.revision);
    let message = wire::message(&txn::response(header, result));
    let room = shared.room(message.len()).await;
    drop(permit);
    Ok(held(Reply::Whole(message), room))
}

/// Compact.
pub(super) async fn compact(shared: &Arc<Shared>, request: Bytes) -> Result<Reply, Status> {
    let request: pb::CompactionRequest = convert::decode(request)?;
    let compacted = shared
        .store
        .compact(Revision(request.revision), request.physical)
        .await;
    let revision = compacted.map_err(|error| of(&error))?;
    Ok(Reply::Whole(wire::message(&pb::CompactionResponse {
        header: Some(shared.header(revision)),
    })))
}

fn cancelled(Gone: Gone) -> Status {
    Status::cancelled("context canceled")
}
