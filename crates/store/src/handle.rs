//! The handle that everything above the store holds.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use setpoint_base::{Disk, TraceContext, WallClock};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::core::check;
use crate::core::index::Version;
use crate::engine::{self, Command, Engine, Found, Given, Proposal, Reply, Rests, Scan, Shared, Taker};
use crate::error::{Error, OpenError};
use crate::options::Options;
use crate::snapshot::{self, Dump, KvHash, Snapshot};
use crate::types::*;
use crate::watch::WatchStream;

/// A store. Cloning is cheap; all clones are the same store, and dropping the last one stops it.
#[derive(Clone)]
pub struct Store {
    engine: Arc<Engine>,
    /// See [`Store::expecting`].
    rests: Option<Rests>,
}

impl Store {
    /// Opens or makes the store in `options.dir`: takes its lock, recovers, starts its threads. Blocks.
    ///
    /// # Errors
    /// [`OpenError`]: wrong options, another process, no access, damage.
    pub fn open(options: Options, disk: Arc<dyn Disk>, clock: Arc<dyn WallClock>) -> Result<Self, OpenError> {
        // The log carries no calendar time: order is the revision's business.
        drop(clock);
        let engine = Arc::new(engine::open(options, disk)?);
        Ok(Self { engine, rests: None })
    }

    #[cfg(feature = "simulation")]
    pub(crate) fn over(engine: Engine) -> Self {
        let engine = Arc::new(engine);
        Self { engine, rests: None }
    }

    #[cfg(feature = "simulation")]
    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    fn shared(&self) -> &Shared {
        &self.engine.shared
    }

    /// The same store, for writes that rest on a fact of a side table: one whose turn comes when the fact is another
    /// is refused with [`Error::FactChanged`]. So a permission that was taken away is never used afterwards.
    #[must_use]
    pub fn expecting(&self, fact: MetaWrite) -> Self {
        self.resting(Rests::On(Arc::new(Found {
            fact,
            may_write: None,
        })))
    }

    /// As [`Store::expecting`], for writes that rest on more.
    pub(crate) fn resting(&self, rests: Rests) -> Self {
        Self {
            engine: Arc::clone(&self.engine),
            rests: Some(rests),
        }
    }

    /// Reads keys at one revision.
    ///
    /// Values may share memory with the commit they were written in, and keys with each other: whoever keeps one for long, and not
    /// its neighbours, should copy it.
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::FutureRevision`], [`Error::EmptyKey`], [`Error::Read`].
    pub fn range(&self, range: &Range) -> Result<RangeResult, Error> {
        engine::range(self.shared(), range)
    }

    /// A read of few keys for whoever makes an answer of them; see [`few`](engine::few).
    pub(crate) fn few<T: Taker>(
        &self,
        range: &Range,
        bytes_max: usize,
        begin: impl FnOnce(i64) -> T,
    ) -> Result<Option<(T, Given)>, Error> {
        let given = engine::few(self.shared(), range, bytes_max, begin)?;
        if given.is_some() {
            self.shared().metrics.ranges.inc();
        }
        Ok(given)
    }

    /// Whether a range holds at most `few` keys now; cheap.
    pub(crate) fn holds_few(&self, keys: &KeyRange, few: usize) -> bool {
        engine::holds_few(self.shared(), keys, few)
    }

    /// Begins a read whose answer is taken piece by piece; see [`Scan::begin`].
    pub(crate) fn scan(&self, range: Range, show: &mut dyn FnMut(usize, &Version)) -> Result<Scan, Error> {
        Scan::begin(&self.engine.shared, range, show)
    }

    /// Writes one key. Returns once the write is durable.
    ///
    /// # Errors
    /// The request is refused, the line or the disk is full, or the store stops. With [`Error::Poisoned`]
    /// the write may or may not be there after a restart.
    pub async fn put(&self, put: Put, trace: Option<TraceContext>) -> Result<PutResult, Error> {
        self.begin_put(put, trace)?.await
    }

    /// As [`Store::put`], for whoever waits for the answer by itself. The write is on its way when this returns.
    pub(crate) fn begin_put(
        &self,
        put: Put,
        trace: Option<TraceContext>,
    ) -> Result<Proposed<PutResult>, Error> {
        check::put(&put, self.shared().limits())?;
        let bytes = check::put_bytes(&put);
        self.begin(trace, bytes, |reply| Command::Put(put, reply))
    }

    /// Deletes a range of keys in one revision.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub async fn delete(&self, delete: Delete, trace: Option<TraceContext>) -> Result<DeleteResult, Error> {
        check::delete(&delete, self.shared().limits())?;
        self.propose(trace, 0, |reply| Command::Delete(delete, reply))
            .await
    }

    /// Runs a transaction. One that cannot write is answered from memory at once.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub async fn txn(&self, txn: Txn, trace: Option<TraceContext>) -> Result<TxnResult, Error> {
        check::txn(&txn, self.shared().limits())?;
        if !check::writes(&txn) {
            self.shared().metrics.txns.inc();
            return engine::read_only_txn(self.shared(), &txn);
        }
        let bytes = check::txn_bytes(&txn);
        self.propose(trace, bytes, |reply| Command::Txn(txn, reply)).await
    }

    /// Forgets history below `at`; with `physical`, returns as [`Store::pruned`] does. Returns the store's revision.
    ///
    /// # Errors
    /// [`Error::Compacted`] when that has happened already, [`Error::FutureRevision`]; as [`Store::pruned`].
    pub async fn compact(&self, at: Revision, physical: bool) -> Result<Revision, Error> {
        let revision = self.propose(None, 0, |reply| Command::Compact(at, reply)).await?;
        if physical {
            self.pruned(at).await?;
        }
        Ok(revision)
    }

    /// Waits until a compaction at `at` has removed what it made unreachable. What readers and snapshots that began before
    /// are still in the middle of goes when they are done, and is not waited for.
    ///
    /// # Errors
    /// [`Error::Stopped`] when the store ends before that.
    pub async fn pruned(&self, at: Revision) -> Result<(), Error> {
        let mut pruned = self.shared().pruned.subscribe();
        let reached = pruned.wait_for(|pruned| pruned.as_ref().map_or(true, |floor| *floor >= at.0));
        let reached = reached.await.map_err(|_| Error::Stopped)?;
        reached.as_ref().map(|_| ()).map_err(Error::clone)
    }

    /// A new watch stream.
    #[must_use]
    pub fn watch(&self) -> WatchStream {
        self.engine.hub.stream()
    }

    /// Grants a lease of `ttl` seconds (raised to the minimum of 2).
    ///
    /// # Errors
    /// [`Error::LeaseExists`], [`Error::LeaseTtlTooLarge`], or as [`Store::put`].
    pub async fn lease_grant(&self, id: Option<LeaseId>, ttl: i64) -> Result<LeaseInfo, Error> {
        let id = id.unwrap_or_else(|| LeaseId(fastrand::i64(1..)));
        self.propose(None, 0, |reply| Command::Grant(id, ttl, reply))
            .await?;
        self.shared().metrics.leases_granted.inc();
        self.lease(id, false).ok_or(Error::LeaseNotFound(id))
    }

    /// Ends a lease: deletes its keys in one revision. Returns the store's revision after it.
    ///
    /// # Errors
    /// [`Error::LeaseNotFound`], or as [`Store::put`].
    pub async fn lease_revoke(&self, id: LeaseId) -> Result<Revision, Error> {
        let revision = self.propose(None, 0, |reply| Command::Revoke(id, reply)).await?;
        self.shared().metrics.leases_revoked.inc();
        Ok(revision)
    }

    /// Restarts a lease's time; returns the granted TTL in seconds. A lease whose time is over cannot come
    /// back, even if it has not been revoked yet.
    ///
    /// # Errors
    /// [`Error::LeaseNotFound`], once its keys are gone; as [`Store::put`], when they cannot go now.
    pub async fn lease_keep_alive(&self, id: LeaseId) -> Result<i64, Error> {
        let renewed = self.shared().leases.lock().renew(id.0, Instant::now());
        if let Some(ttl) = renewed {
            self.shared().metrics.leases_renewed.inc();
            return Ok(ttl);
        }
        if self.shared().leases.lock().contains(id.0) {
            // Its end is on the way; whoever is told that it is gone must not find its keys any more.
            match self.propose(None, 0, |reply| Command::Revoke(id, reply)).await {
                Ok(_) | Err(Error::LeaseNotFound(_)) => (),
                Err(error) => return Err(error),
            }
        }
        Err(Error::LeaseNotFound(id))
    }

    /// One lease, with its keys if asked.
    #[must_use]
    pub fn lease(&self, id: LeaseId, with_keys: bool) -> Option<LeaseInfo> {
        let leases = self.shared().leases.lock();
        let left = leases.left(id.0, Instant::now())?;
        let keys = if with_keys {
            leases.keys(id.0).map(bytes::Bytes::copy_from_slice).collect()
        } else {
            Vec::new()
        };
        let remaining_ttl = i64::try_from(left.remaining.as_secs()).unwrap_or(i64::MAX);
        Some(LeaseInfo {
            id,
            granted_ttl: left.ttl,
            remaining_ttl,
            keys,
        })
    }

    /// All leases, soonest to expire first.
    #[must_use]
    pub fn leases(&self) -> Vec<LeaseId> {
        self.shared()
            .leases
            .lock()
            .by_deadline()
            .into_iter()
            .map(LeaseId)
            .collect()
    }

    /// A side table: its keys in order, with their values.
    #[must_use]
    pub fn meta(&self, table: Table) -> Vec<(bytes::Bytes, bytes::Bytes)> {
        let tables = self.shared().tables.read();
        let entries = tables.table(table);
        entries.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// The value of one key of a side table.
    #[must_use]
    pub fn meta_get(&self, table: Table, key: &[u8]) -> Option<bytes::Bytes> {
        self.shared().tables.read().get(table, key).cloned()
    }

    /// A number that grows whenever a side table changes, before the change is acknowledged.
    #[must_use]
    pub fn meta_version(&self) -> u64 {
        self.shared().tables_version.load(Ordering::Acquire)
    }

    /// Changes side tables, all or nothing, without a revision; `false`, and no change, if something is not as
    /// expected. Returns once the change is durable. Goes on when the disk is full.
    ///
    /// # Errors
    /// [`Error::NoSpace`] when the tables would be larger than 64 MiB, [`Error::RequestTooLarge`], or as
    /// [`Store::put`].
    pub async fn meta_write(&self, txn: MetaTxn) -> Result<bool, Error> {
        let bytes = txn.bytes();
        if bytes > self.shared().options.request_bytes_max {
            return Err(Error::RequestTooLarge);
        }
        self.propose(None, bytes, |reply| Command::Meta(txn, reply)).await
    }

    /// Raised alarms. A lack of room that ends by itself is among them while it lasts, and CORRUPT from when something
    /// on disk did not read back until the next start.
    #[must_use]
    pub fn alarms(&self) -> Vec<Alarm> {
        self.shared().alarms()
    }

    /// Raises an alarm, which stays until it is disarmed.
    ///
    /// # Errors
    /// As [`Store::meta_write`].
    pub async fn raise(&self, alarm: Alarm) -> Result<(), Error> {
        let write = MetaWrite::put(Table::ALARM, alarm.encode(), "");
        self.meta_write(MetaTxn::new(vec![write])).await.map(drop)
    }

    /// Disarms an alarm; whether it had been raised. A lack of room that ends by itself is none of these.
    ///
    /// # Errors
    /// As [`Store::meta_write`].
    pub async fn disarm(&self, alarm: Alarm) -> Result<bool, Error> {
        let raised = MetaWrite::put(Table::ALARM, alarm.encode(), "");
        let disarmed = MetaWrite::delete(Table::ALARM, alarm.encode());
        let txn = MetaTxn {
            expect: vec![raised],
            writes: vec![disarmed],
        };
        self.meta_write(txn).await
    }

    /// Whether a raised alarm says that the data is not to be trusted: then nothing is served. Damage that was read
    /// raises none, see [`Store::alarms`].
    #[must_use]
    pub fn is_corrupt(&self) -> bool {
        self.shared().room.is_corrupt()
    }

    /// Asks for space to be given back to the disk even where it is little. Returns at once; it happens in the
    /// background, beside everything else.
    pub fn defragment(&self) {
        self.shared().thorough.store(true, Ordering::Release);
    }

    /// The newest committed revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.shared().revision()
    }

    /// Sizes and positions.
    #[must_use]
    pub fn status(&self) -> StoreStatus {
        self.shared().status()
    }

    /// Takes a snapshot at the newest revision, in etcd's file format. Reads the log, so it blocks.
    ///
    /// # Errors
    /// [`Error::Read`] when the log does not read back.
    pub fn snapshot(&self) -> Result<Snapshot, Error> {
        Snapshot::take(Dump::begin(&self.engine.shared))
    }

    /// etcd's hash over the versions up to `at` (0 is now). Reads the log, so it blocks.
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::FutureRevision`], [`Error::Read`].
    pub fn hash_kv(&self, at: Revision) -> Result<KvHash, Error> {
        snapshot::hash_kv(&self.engine.shared, at)
    }

    /// Adds the store's metrics to a registry.
    ///
    /// # Errors
    /// A name is taken: each registry can have one store.
    pub fn register_metrics(
        &self,
        registry: &setpoint_telemetry::Metrics,
    ) -> Result<(), setpoint_telemetry::DuplicateMetric> {
        crate::metrics::register(&self.engine.shared, registry)
    }

    /// Refuses new writes, commits those that wait, writes a checkpoint, ends all watch streams and threads.
    ///
    /// # Errors
    /// [`Error::Poisoned`] when the log had failed before.
    pub async fn close(&self) -> Result<(), Error> {
        let engine = Arc::clone(&self.engine);
        let stopped = tokio::task::spawn_blocking(move || engine.stop(true)).await;
        stopped.map_err(|_| Error::Stopped)?;
        self.shared().poisoned().map_or(Ok(()), Err)
    }

    async fn propose<T>(
        &self,
        trace: Option<TraceContext>,
        bytes: usize,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, Error> {
        self.begin(trace, bytes, command)?.await
    }

    fn begin<T>(
        &self,
        trace: Option<TraceContext>,
        bytes: usize,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<Proposed<T>, Error> {
        if let Some(error) = self.shared().poisoned() {
            return Err(error);
        }
        let (reply, answer) = oneshot::channel();
        let proposal = Proposal {
            command: command(reply),
            trace,
            rests: self.rests.clone(),
            bytes,
        };
        self.shared().queue.push(proposal).inspect_err(|_| {
            self.shared().metrics.refused.inc();
        })?;
        Ok(Proposed(answer))
    }
}

/// A proposal that waits for its turn and its sync; the answer, in the end. Dropping it takes nothing back.
#[derive(Debug)]
pub(crate) struct Proposed<T>(oneshot::Receiver<Result<T, Error>>);

impl<T> Future for Proposed<T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.0).poll(cx));
        // The sequencer answers everything it takes; silence means that it is gone.
        Poll::Ready(answer.unwrap_or(Err(Error::Stopped)))
    }
}
