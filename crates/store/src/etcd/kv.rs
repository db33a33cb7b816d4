//! The KV service.

use std::sync::Arc;

use bytes::Bytes;
use setpoint_base::TraceContext;
use setpoint_proto::etcdserverpb as pb;
use tokio::time::timeout;
use tonic::Status;

use super::auth::Access;
use super::convert;
use super::few::Hold;
use super::listing::{Listing, MARGIN_BYTES};
use super::room::{Held, Share};
use super::server::Shared;
use super::status::{self, status as of};
use super::wire::{self, Reply};
use super::{txn, wide};
use crate::core::select::is_plain;
use crate::engine::Given;
use crate::handle::Proposed;
use crate::types::{KeyRange, Put, PutResult, Range, RangeResult, Revision};

/// A read that may return more keys than this leaves the worker thread, so that no other call waits for it.
const INLINE_KEYS_MAX: usize = 500;
/// And so does one of more bytes.
const INLINE_BYTES_MAX: usize = 512 << 10;

pub(super) const FAILED: &str = "the read failed: see the server's log";

/// Range: linearizable and serializable reads are the same here, as nothing is readable before it is durable.
pub(super) async fn range(
    shared: &Arc<Shared>,
    request: Bytes,
    access: &Access,
    share: &Share,
) -> Result<Reply, Status> {
    let range = convert::range(convert::decode(request)?)?;
    access.range(&range.keys)?;
    let reply = answer(shared, range, share).await?;
    shared.auth.still(access)?;
    Ok(reply)
}

async fn answer(shared: &Arc<Shared>, range: Range, share: &Share) -> Result<Reply, Status> {
    match now(shared, &range) {
        Some(reply) => reply,
        None => wide::range(shared, range, share).await,
    }
}

/// Answers a request whose caller needs no permission, unless it takes long; then nothing has happened.
pub(super) fn range_at_hand(shared: &Shared, request: Bytes) -> Option<Result<Reply, Status>> {
    match convert::decode(request).and_then(convert::range) {
        Ok(range) => now(shared, &range),
        Err(status) => Some(Err(status)),
    }
}

/// The framed answer to a request for one key whose caller needs no permission, if it has at most so many bytes; otherwise
/// nothing has happened.
pub(super) fn key_at_hand(shared: &Shared, request: &[u8], bytes_max: usize) -> Option<Bytes> {
    let range = convert::decode(request).and_then(convert::range).ok()?;
    if !matches!(range.keys, KeyRange::Key(_)) {
        return None;
    }
    let begin = |revision| Listing::begin(shared.header(Revision(revision)));
    // What is around the pair is not counted there.
    let pair_max = bytes_max.saturating_sub(2 * MARGIN_BYTES);
    let (listing, given) = shared.store.few(&range, pair_max, begin).ok()??;
    match listing.whole(shared.header(Revision(given.revision)), given) {
        Ok(Reply::Whole(answer)) if answer.len() <= bytes_max => Some(answer),
        _ => None,
    }
}

/// The answer of a read of few keys.
fn now(shared: &Shared, range: &Range) -> Option<Result<Reply, Status>> {
    let one = matches!(range.keys, KeyRange::Key(_));
    if !(range.count_only || one || of_few(shared, range)) {
        return None;
    }
    let bytes_max = if one { usize::MAX } else { INLINE_BYTES_MAX };
    let begin = |revision| Listing::begin(shared.header(Revision(revision)));
    match shared.store.few(range, bytes_max, begin) {
        Ok(Some((listing, given))) => Some(listing.whole(shared.header(Revision(given.revision)), given)),
        // A count of the past, or keys that have to be put in order first.
        Ok(None) if range.count_only || !is_plain(range) => ordered(shared, range),
        Ok(None) => None,
        Err(error) => Some(Err(of(&error))),
    }
}

/// The same, from a list.
fn ordered(shared: &Shared, range: &Range) -> Option<Result<Reply, Status>> {
    let result = match shared.store.range(range) {
        Ok(result) if size(&result) > INLINE_BYTES_MAX => return None,
        Ok(result) => result,
        Err(error) => return Some(Err(of(&error))),
    };
    let given = Given {
        revision: result.revision.0,
        more: result.more,
        count: result.count,
    };
    Some(Listing::of(shared.header(result.revision), &result.kvs, given))
}

fn held(reply: Reply, room: Held) -> Reply {
    match room {
        (_, None) => reply,
        room => Reply::Held(Box::new(reply), Hold::Wide(room)),
    }
}

fn size(result: &RangeResult) -> usize {
    result.kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum()
}

/// Whether few keys have to be looked at. The past may have had more than there are now.
fn of_few(shared: &Shared, range: &Range) -> bool {
    let limited = range.limit > 0 && range.limit <= INLINE_KEYS_MAX && range.sort.is_none();
    range
        .revision
        .is_none_or(|revision| revision == shared.store.revision())
        && (limited && range.mod_bounds == (0, 0) && range.create_bounds == (0, 0)
            || shared.store.holds_few(&range.keys, INLINE_KEYS_MAX))
}

/// Whether a Range request is for many keys, as far as one can tell without looking.
pub(super) fn is_wide(shared: &Shared, request: &Bytes) -> bool {
    let range = convert::decode(request.clone()).and_then(convert::range);
    let few =
        |range: &Range| range.count_only || matches!(range.keys, KeyRange::Key(_)) || of_few(shared, range);
    range.is_ok_and(|range| !few(&range))
}

/// Put.
pub(super) async fn put(
    shared: &Arc<Shared>,
    request: Bytes,
    trace: Option<TraceContext>,
    access: &Access,
) -> Result<Reply, Status> {
    let put = asked_put(shared, request, access)?;
    let store = access.store(shared);
    let result = store.put(put, trace).await.map_err(|error| access.told(&error))?;
    Ok(Reply::Whole(put_answer(shared, &result)))
}

/// A put that its caller may make.
fn asked_put(shared: &Shared, request: Bytes, access: &Access) -> Result<Put, Status> {
    let size = request.clone();
    let put = convert::put(convert::decode(request)?)?;
    convert::check_size(&size, shared.options.request_bytes_max)?;
    shared.may_write(&KeyRange::Key(put.key.clone()))?;
    access.put(&shared.store, &put)?;
    Ok(put)
}

/// The framed answer of a put.
pub(super) fn put_answer(shared: &Shared, result: &PutResult) -> Bytes {
    wire::put(&shared.header(result.revision), result.prev_kv.as_ref())
}

/// Has the store take a put whose caller needs no permission. What comes back is answered once it is durable.
pub(super) fn begin_put(
    shared: &Shared,
    request: Bytes,
    trace: Option<TraceContext>,
) -> Result<Proposed<PutResult>, Status> {
    let access = Access::Open;
    let put = asked_put(shared, request, &access)?;
    let begun = access.store(shared).begin_put(put, trace);
    begun.map_err(|error| access.told(&error))
}

/// DeleteRange.
pub(super) async fn delete(
    shared: &Arc<Shared>,
    request: Bytes,
    trace: Option<TraceContext>,
    access: &Access,
) -> Result<Reply, Status> {
    let size = request.clone();
    let delete = convert::delete(convert::decode(request)?)?;
    convert::check_size(&size, shared.options.request_bytes_max)?;
    shared.may_write(&delete.keys)?;
    access.delete(&delete)?;
    let store = access.store(shared);
    let result = store
        .delete(delete, trace)
        .await
        .map_err(|error| access.told(&error))?;
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
    access: &Access,
    share: &Share,
) -> Result<Reply, Status> {
    let size = request.clone();
    let request = convert::decode_txn(request)?;
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
    access.txn(&shared.store, &txn)?;
    let store = access.store(shared);
    let only_reads = txn::only_reads(&txn);
    let mut turn = None;
    let result = if txn::reads_widely(&txn) {
        turn = Some(shared.room.turn(share).await);
        // As for ranges: it leaves the worker thread, and few run at a time. None of them waits for its client meanwhile.
        let _reads = shared.large_reads.clone().acquire_owned().await;
        let (store, runtime) = (store.into_owned(), tokio::runtime::Handle::current());
        let read = tokio::task::spawn_blocking(move || runtime.block_on(store.txn(txn, trace)));
        read.await.map_err(|_| Status::internal(FAILED))?
    } else {
        store.txn(txn, trace).await
    };
    let result = result.map_err(|error| access.told(&error))?;
    if only_reads {
        shared.auth.still(access)?;
    }
    let header = shared.header(result.revision);
    let message = wire::message(&txn::response(header, result));
    let room = match turn {
        Some(turn) => shared.room_in_turn(turn, share, message.len()).await,
        None => shared.room_of(share, message.len()).await,
    };
    Ok(held(Reply::Whole(message), room))
}

/// Compact. That history is forgotten has to be known in time; until it is removed, a client may wait as long as it likes,
/// as with etcd.
pub(super) async fn compact(shared: &Arc<Shared>, request: Bytes) -> Result<Reply, Status> {
    let request: pb::CompactionRequest = convert::decode(request)?;
    let at = Revision(request.revision);
    let compacted = timeout(shared.options.request_timeout, shared.store.compact(at, false)).await;
    let compacted = compacted.map_err(|_| status::timed_out())?;
    let revision = compacted.map_err(|error| of(&error))?;
    if request.physical {
        shared.store.pruned(at).await.map_err(|error| of(&error))?;
    }
    Ok(Reply::Whole(wire::message(&pb::CompactionResponse {
        header: Some(shared.header(revision)),
    })))
}
