//! The handle that everything above the store holds.
#![allow(clippy::unimplemented, clippy::unused_async, clippy::needless_pass_by_value)]

use std::sync::Arc;

use setpoint_base::{Disk, TraceContext, WallClock};

use crate::error::{Error, OpenError};
use crate::options::Options;
use crate::types::*;

/// A store. Cloning is cheap; all clones are the same store.
#[derive(Clone)]
pub struct Store(Arc<()>);

impl Store {
    /// Opens or makes the store in `options.dir`: takes its lock, recovers, starts its threads. Blocks.
    pub fn open(
        _options: Options,
        _disk: Arc<dyn Disk>,
        _clock: Arc<dyn WallClock>,
    ) -> Result<Self, OpenError> {
        unimplemented!()
    }
    /// Reads keys at one revision.
    pub fn range(&self, _range: &Range) -> Result<RangeResult, Error> {
        unimplemented!()
    }
    /// Writes one key. Returns once the write is durable.
    pub async fn put(&self, _put: Put, _trace: Option<TraceContext>) -> Result<PutResult, Error> {
        unimplemented!()
    }
    /// Deletes a range of keys in one revision.
    pub async fn delete(&self, _delete: Delete, _trace: Option<TraceContext>) -> Result<DeleteResult, Error> {
        unimplemented!()
    }
    /// Runs a transaction.
    pub async fn txn(&self, _txn: Txn, _trace: Option<TraceContext>) -> Result<TxnResult, Error> {
        unimplemented!()
    }
    /// Forgets history below `at`; with `physical`, returns once the index has been pruned.
    pub async fn compact(&self, _at: Revision, _physical: bool) -> Result<Revision, Error> {
        unimplemented!()
    }
    /// A new watch stream.
    pub fn watch(&self) -> WatchStream {
        unimplemented!()
    }
    /// Grants a lease of `ttl` seconds (raised to the minimum of 2).
    pub async fn lease_grant(&self, _id: Option<LeaseId>, _ttl: i64) -> Result<LeaseInfo, Error> {
        unimplemented!()
    }
    /// Ends a lease: deletes its keys in one revision. Returns the store's revision after it.
    pub async fn lease_revoke(&self, _id: LeaseId) -> Result<Revision, Error> {
        unimplemented!()
    }
    /// Restarts a lease's time; returns the granted TTL in seconds.
    pub async fn lease_keep_alive(&self, _id: LeaseId) -> Result<i64, Error> {
        unimplemented!()
    }
    /// One lease, with its keys if asked.
    pub fn lease(&self, _id: LeaseId, _with_keys: bool) -> Option<LeaseInfo> {
        unimplemented!()
    }
    /// All leases, soonest to expire first.
    pub fn leases(&self) -> Vec<LeaseId> {
        unimplemented!()
    }
    /// The newest committed revision.
    pub fn revision(&self) -> Revision {
        unimplemented!()
    }
    /// Sizes and positions.
    pub fn status(&self) -> StoreStatus {
        unimplemented!()
    }
    /// Refuses new writes, commits those that wait, writes a checkpoint, ends all watch streams and threads.
    pub async fn close(&self) -> Result<(), Error> {
        unimplemented!()
    }
}

/// Many watchers that share one consumer. Dropping it removes them all.
pub struct WatchStream(());

impl WatchStream {
    /// Adds a watcher; returns its id and the store's revision at that moment (it sees what comes after,
    /// or from `spec.start` on).
    pub fn create(&mut self, _spec: WatchSpec) -> Result<(i64, Revision), Error> {
        unimplemented!()
    }
    /// Removes a watcher; nothing of it is delivered afterwards. Whether there was one.
    pub fn cancel(&mut self, _id: i64) -> bool {
        unimplemented!()
    }
    /// Asks for one [`WatchUpdate::Progress`] with id `None`, sent once every watcher is synced.
    pub fn request_progress(&mut self) {
        unimplemented!()
    }
    /// The next update; `None` once the store stops. Cancel-safe.
    pub async fn next(&mut self) -> Option<WatchUpdate> {
        unimplemented!()
    }
}
