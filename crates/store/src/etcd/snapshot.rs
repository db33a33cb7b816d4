//! Maintenance.Snapshot, Hash and HashKV: what reads the whole log.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use setpoint_proto::etcdserverpb as pb;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;
use tonic::Status;

use super::call::Call;
use super::outbound::Gone;
use super::server::Shared;
use super::status::{self, status as of};
use super::wire::{self, Reply};
use super::{CLUSTER_VERSION, convert};
use crate::types::Revision;
use crate::{KvHash, Store, WriteError};

/// Bytes of the file in one message, as etcd sends them.
const BLOB_BYTES: usize = 32 << 10;
/// Messages between the thread that reads the log and the client.
const AHEAD: usize = 16;

/// Snapshot: the file, then the SHA-256 of it. A client that stops reading loses the call, so that it does not keep
/// the store from giving space back.
pub(super) async fn snapshot(call: &mut Call) -> Result<(), Status> {
    let request = call.inbound.message().await?;
    call.access().admin()?;
    let _: pb::SnapshotRequest = convert::decode(request.unwrap_or_default())?;
    let permit = permit(&call.shared).await?;
    let (messages, mut ready) = mpsc::channel(AHEAD);
    let store = call.shared.store.clone();
    let writer = tokio::task::spawn_blocking(move || {
        let written = write(&store, &messages);
        drop(permit);
        written
    });
    let stall = call.shared.options.stall_timeout;
    while let Some(message) = ready.recv().await {
        let sent = timeout(stall, call.outbound.send(message)).await;
        sent.unwrap_or(Err(Gone))
            .map_err(|Gone| Status::cancelled("context canceled"))?;
    }
    match writer.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(WriteError::Store(error))) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "a snapshot could not be read"
            );
            Err(of(&error))
        }
        Ok(Err(WriteError::Sink(_))) => Err(Status::cancelled("context canceled")),
        Err(_) => Err(Status::internal("the snapshot failed: see the server's log")),
    }
}

/// Few run at a time: each reads the whole log.
async fn permit(shared: &Arc<Shared>) -> Result<OwnedSemaphorePermit, Status> {
    let permit = shared.scans.clone().acquire_owned();
    match timeout(shared.options.request_timeout, permit).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(status::overloaded()),
    }
}

/// Reads the store and hands on messages until done, or until nobody takes them any more.
fn write(store: &Store, messages: &mpsc::Sender<Bytes>) -> Result<(), WriteError> {
    let snapshot = store.snapshot()?;
    let mut left = snapshot.bytes();
    tracing::info!(revision = snapshot.revision().0, bytes = left, "send a snapshot");
    let send = |blob: Bytes, remaining_bytes: u64| {
        let message = wire::message(&pb::SnapshotResponse {
            header: None,
            remaining_bytes,
            blob,
            version: CLUSTER_VERSION.to_owned(),
        });
        let sent = messages.blocking_send(message);
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    };
    let mut blob = Vec::with_capacity(BLOB_BYTES);
    let mut take = |mut bytes: &[u8], last: bool| {
        while !bytes.is_empty() || (last && !blob.is_empty()) {
            let (now, later) = bytes.split_at(bytes.len().min(BLOB_BYTES - blob.len()));
            blob.extend_from_slice(now);
            bytes = later;
            if blob.len() == BLOB_BYTES || last {
                left -= blob.len() as u64;
                send(
                    std::mem::replace(&mut blob, Vec::with_capacity(BLOB_BYTES)).into(),
                    left,
                )?;
            }
        }
        Ok(())
    };
    let sum = snapshot.write(&mut |bytes| take(bytes, false))?;
    take(&[], true).map_err(WriteError::Sink)?;
    send(Bytes::copy_from_slice(&sum), 0).map_err(WriteError::Sink)
}

/// HashKV.
pub(super) async fn hash_kv(shared: &Arc<Shared>, request: Bytes) -> Result<Reply, Status> {
    let request: pb::HashKvRequest = convert::decode(request)?;
    let hash = hash(shared, Revision(request.revision)).await?;
    Ok(Reply::Whole(wire::message(&pb::HashKvResponse {
        header: Some(shared.header(hash.revision)),
        hash: hash.hash,
        compact_revision: hash.compact_revision,
        hash_revision: hash.hash_revision.0,
    })))
}

async fn hash(shared: &Arc<Shared>, at: Revision) -> Result<KvHash, Status> {
    let permit = permit(shared).await?;
    let store = shared.store.clone();
    let hash = tokio::task::spawn_blocking(move || (store.hash_kv(at), permit)).await;
    let (hash, _) = hash.map_err(|_| Status::internal("the hash failed: see the server's log"))?;
    hash.map_err(|error| of(&error))
}

/// Hash: of the keys alone, for there is no other file whose bytes could differ. It means something only beside
/// another of the same server.
pub(super) async fn hash_all(shared: &Arc<Shared>) -> Result<Reply, Status> {
    let hash = hash(shared, Revision(0)).await?;
    Ok(Reply::Whole(wire::message(&pb::HashResponse {
        header: Some(shared.header(hash.revision)),
        hash: hash.hash,
    })))
}
