//! Ranges of many keys, read from the log as the client takes them.
//!
//! A unary answer has to say how long it is before its first key, so its length is measured in a first pass over the
//! index; the values are read in a second one, half a mebibyte at a time, and one such piece is read while the client
//! takes the one before. However much is asked for, and by however old a client, memory holds two pieces per answer. An
//! answer takes the room for them when it begins and keeps it to the end; all room together is
//! [`FrontOptions::outbound_bytes_max`](super::FrontOptions::outbound_bytes_max). RangeStream is the same read in
//! messages of its own.
//!
//! Few pieces are read at a time. One that rests beside writes keeps its place: the rest is no longer than what it has read
//! ([`Courtesy`](crate::engine::Courtesy)), a piece ends, and places go to who has waited longest, so a reader waits at most
//! twice as long as where nobody writes and is never passed over. Giving the place up meanwhile would have more than these few
//! between their turns, each with a thread that sleeps, and what the rests leave to writes would go to further readers.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use setpoint_proto::etcdserverpb as pb;
use tokio::task::JoinHandle;
use tonic::Status;

use super::call::Call;
use super::convert;
use super::kv::FAILED;
use super::listing::Listing;
use super::outbound::Gone;
use super::room::{Held, Share};
use super::server::Shared;
use super::status::status as of;
use super::wire::{self, Around, Reply};
use crate::Error;
use crate::core::select::shows_leases;
use crate::engine::{Kvs, Scan, Taker};
use crate::types::Range;

/// Bytes of values read at a time.
const PIECE_BYTES: usize = 512 << 10;
/// Keys read at a time.
const PIECE_KEYS: usize = 4 << 10;
/// Keys in the first part of a streamed range (etcd's `initialStreamChunkLimit`).
const FIRST_PART_KEYS: usize = 10;

/// A RangeResponse whose length is known and whose keys are still to be read.
pub(super) struct Wide {
    reader: Reader,
    head: BytesMut,
    around: Around,
    /// What is being read while the client takes what comes before it.
    ahead: Option<JoinHandle<Result<(Scan, Listing), Error>>>,
}

/// Begins a unary range.
pub(super) async fn range(shared: &Arc<Shared>, range: Range, share: &Share) -> Result<Reply, Status> {
    let (reader, kvs_len) = Reader::begin(shared, range, share).await?;
    let measure = reader.scan().measure();
    let around = Around::new(shared.header(measure.revision), measure.more, measure.count);
    let head = around.begin(kvs_len)?;
    Ok(Reply::Wide(Box::new(Wide {
        reader,
        head,
        around,
        ahead: None,
    })))
}

impl Wide {
    /// The next pieces; nothing at the end.
    ///
    /// # Errors
    /// A value does not read back: the answer cannot be ended well any more.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Bytes>>, Status> {
        let mut listing = if let Some(ahead) = self.ahead.take() {
            let read = ahead.await.map_err(|_| Status::internal(FAILED))?;
            let (scan, listing) = read.map_err(|error| of(&error))?;
            self.reader.scan = Some(scan);
            listing
        } else if self.head.is_empty() && self.reader.scan().left() == 0 {
            return Ok(None);
        } else {
            let listing = Listing::behind(std::mem::take(&mut self.head));
            self.reader.next(PIECE_KEYS, PIECE_BYTES, listing).await?
        };
        if self.reader.scan().left() == 0 {
            listing.end(&self.around);
        } else {
            self.ahead = self.reader.ahead();
        }
        Ok(Some(listing.into_pieces()))
    }
}

/// A read that goes on between the worker's thread and the threads for long reads.
struct Reader {
    shared: Arc<Shared>,
    /// Here, unless a thread has it.
    scan: Option<Scan>,
    /// Room for two pieces.
    _room: Held,
}

impl Reader {
    /// Measures, and waits for room; the length is that of the keys on the wire.
    async fn begin(shared: &Arc<Shared>, range: Range, share: &Share) -> Result<(Self, usize), Status> {
        let store = shared.store.clone();
        let (scan, kvs_len) = long(shared, move || {
            let (mut kvs_len, shown) = (0, (!range.keys_only, shows_leases(&range)));
            let scan = store.scan(range, &mut |key_len, version| {
                kvs_len += wire::listed_len(key_len, version, shown);
            })?;
            Ok((scan, kvs_len))
        })
        .await?;
        let reader = Self {
            shared: shared.clone(),
            scan: Some(scan),
            _room: shared.room_of(share, kvs_len.min(2 * PIECE_BYTES)).await,
        };
        Ok((reader, kvs_len))
    }

    fn scan(&self) -> &Scan {
        self.scan.as_ref().expect("a read that failed is not asked again")
    }

    /// Has the next keys given to `taker`.
    async fn next<T: Taker + Send + 'static>(
        &mut self,
        keys_max: usize,
        bytes_max: usize,
        mut taker: T,
    ) -> Result<T, Status> {
        let Some(mut scan) = self.scan.take() else {
            return Err(Status::internal(FAILED));
        };
        let (scan, taker) = long(&self.shared, move || {
            scan.give(keys_max, bytes_max, &mut taker)?;
            Ok((scan, taker))
        })
        .await?;
        self.scan = Some(scan);
        Ok(taker)
    }

    /// Begins to read the next piece, if another long read may run now.
    fn ahead(&mut self) -> Option<JoinHandle<Result<(Scan, Listing), Error>>> {
        let permit = self.shared.large_reads.clone().try_acquire_owned().ok()?;
        let mut scan = self.scan.take()?;
        Some(tokio::task::spawn_blocking(move || {
            // Until it is read, not until the client wants it.
            let _permit = permit;
            let mut listing = Listing::default();
            scan.give(PIECE_KEYS, PIECE_BYTES, &mut listing)?;
            Ok((scan, listing))
        }))
    }
}

/// Runs a part of a read on a thread for long reads, of which few run at a time.
pub(super) async fn long<T: Send + 'static>(
    shared: &Shared,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Status> {
    let permit = shared.large_reads.clone().acquire_owned().await;
    let done = tokio::task::spawn_blocking(move || (work(), permit));
    let (result, _permit) = done.await.map_err(|_| Status::internal(FAILED))?;
    result.map_err(|error| of(&error))
}

/// RangeStream: the same answer in messages, all at the revision of the first. As in etcd it ends when users or roles change.
pub(super) async fn range_stream(call: &mut Call) -> Result<(), Status> {
    let request = call
        .inbound
        .message()
        .await?
        .ok_or_else(|| Status::internal("unexpected EOF"))?;
    let range = convert::range(streamable(convert::decode(request)?)?)?;
    let access = call.access();
    access.range(&range.keys)?;
    let bytes_max = call.shared.options.request_bytes_max;
    let (mut reader, _) = Reader::begin(&call.shared, range, call.outbound.share()).await?;
    let measure = reader.scan().measure();
    let mut part_keys = FIRST_PART_KEYS;
    loop {
        let kvs = reader.next(part_keys, bytes_max, Kvs::default()).await?.kvs;
        let done = reader.scan().left() == 0;
        let bytes: usize = kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
        call.shared.auth.still(&access)?;
        let message = pb::RangeStreamResponse {
            range_response: Some(pb::RangeResponse {
                header: done.then(|| call.shared.header(measure.revision)),
                more: done && measure.more,
                count: if done { measure.count } else { 0 },
                kvs: kvs.into_iter().map(wire::kv).collect(),
            }),
        };
        let message = wire::message(&message);
        let sent = call.outbound.send_wide_part(message).await;
        sent.map_err(|Gone| Status::cancelled("context canceled"))?;
        if done {
            return Ok(());
        }
        part_keys = next_part(part_keys, bytes, bytes_max);
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
