//! What the threads and handles of one store have in common.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::watch;
use tokio::time::Instant;

use super::pins::{Pin, Pins};
use super::queue::Queue;
use super::room::{self, Room};
use crate::core::alarm::{Alarm, AlarmKind};
use crate::core::check::Limits;
use crate::core::index::{Index, Location, Version};
use crate::core::lease::Leases;
use crate::core::meta::Tables;
use crate::core::select::Values;
use crate::error::Error;
use crate::log::files::{Files, Segment, Table};
use crate::log::hot::Hot;
use crate::log::spare::SpareSlot;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::point::{self, Point};
use crate::types::{Revision, StoreStatus};
use crate::watch::Feed;

/// How far the log is durable and applied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tip {
    pub(crate) revision: i64,
    /// Records of the log.
    pub(crate) log_index: u64,
    /// Id of the segment.
    pub(crate) segment: u64,
    /// Where the next commit goes in it.
    pub(crate) offset: u64,
}

/// The store's insides. Lock order: `index`, then `leases`, then any of the rest.
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) files: Arc<Files>,
    pub(crate) hot: Hot,
    pub(crate) spare: Arc<SpareSlot>,
    pub(crate) queue: Queue,
    pub(crate) index: RwLock<Index>,
    pub(crate) leases: Mutex<Leases>,
    /// Side tables, as of the newest commit.
    pub(crate) tables: RwLock<Tables>,
    /// Commits that changed a side table since the start.
    pub(crate) tables_version: AtomicU64,
    /// Changes only under the write lock of `index`, so that a reader's view and its revision agree.
    pub(crate) committed: AtomicI64,
    pub(crate) floor: AtomicI64,
    pub(crate) tip: Mutex<Tip>,
    /// The floor down to which the index has been pruned of what no reader held then, or why there will be no other.
    pub(crate) pruned: watch::Sender<Result<i64, Error>>,
    /// Revisions that readers are in the middle of.
    pub(super) pins: Pins,
    /// The disk has no room for the next segment.
    pub(crate) no_space: AtomicBool,
    pub(crate) room: Room,
    /// Something on disk did not read back as it was written, since the start.
    damaged: AtomicBool,
    /// Space is to be given back even where it is little.
    pub(crate) thorough: AtomicBool,
    poisoned: OnceLock<String>,
    pub(crate) stop: Signal,
    /// Whether the end is an orderly one, with a checkpoint.
    pub(crate) closing: AtomicBool,
    pub(crate) checkpoint_bytes: AtomicU64,
    pub(crate) metrics: Metrics,
    /// Commits on their way to the watchers.
    pub(crate) feed: Arc<Feed>,
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
}

/// What recovery hands over.
pub(crate) struct Start {
    pub(crate) index: Index,
    pub(crate) leases: Leases,
    pub(crate) tables: Tables,
    pub(crate) tip: Tip,
    pub(crate) floor: i64,
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
}

impl Shared {
    pub(crate) fn new(options: Options, files: Arc<Files>, spare: Arc<SpareSlot>, start: Start) -> Self {
        Self {
            hot: Hot::new(options.hot_bytes),
            room: Room::new(&options, &start.tables),
            queue: Queue::new(options.proposals_max, options.proposal_bytes_max),
            options,
            files,
            spare,
            index: RwLock::new(start.index),
            leases: Mutex::new(start.leases),
            thorough: AtomicBool::new(false),
            tables: RwLock::new(start.tables),
            tables_version: AtomicU64::new(0),
            committed: AtomicI64::new(start.tip.revision),
            floor: AtomicI64::new(start.floor),
            tip: Mutex::new(start.tip),
            pruned: watch::Sender::new(Ok(-1)),
            pins: Pins::default(),
            no_space: AtomicBool::new(false),
            damaged: AtomicBool::new(false),
            poisoned: OnceLock::new(),
            stop: Signal::default(),
            closing: AtomicBool::new(false),
            checkpoint_bytes: AtomicU64::new(0),
            metrics: Metrics::default(),
            feed: Arc::default(),
            cluster_id: start.cluster_id,
            member_id: start.member_id,
        }
    }

    /// See [`Store::status`](crate::Store::status).
    pub(crate) fn status(&self) -> StoreStatus {
        let tip = *self.tip.lock();
        StoreStatus {
            revision: self.revision(),
            compact_revision: self.floor(),
            disk_bytes: self.files.bytes() + self.checkpoint_bytes.load(Ordering::Relaxed),
            live_bytes: self.files.live_bytes(),
            keys: self.index.read().live(),
            log_index: tip.log_index,
            no_space: self.is_full(),
            corrupt: self.is_untrusted(),
            quota_bytes: self.options.quota(),
            watchers: self.feed.watchers(),
            cluster_id: self.cluster_id,
            member_id: self.member_id,
        }
    }

    /// Whether what makes the store grow is refused.
    pub(crate) fn is_full(&self) -> bool {
        self.no_space.load(Ordering::Acquire) || self.room.is_full()
    }

    /// Whether an alarm says that the data is not to be trusted, or damage was read.
    pub(crate) fn is_untrusted(&self) -> bool {
        self.room.is_corrupt() || self.damaged.load(Ordering::Acquire)
    }

    /// Raised alarms, and those that stand for a lack of room which ends by itself, or for damage that was read.
    pub(crate) fn alarms(&self) -> Vec<Alarm> {
        let mut alarms: Vec<_> = room::alarms(&self.tables.read()).collect();
        let own = |kind| Alarm {
            member: self.member_id,
            kind,
        };
        if self.is_full() && !self.room.is_alarmed() {
            alarms.push(own(AlarmKind::NoSpace));
        }
        if self.is_untrusted() && !self.room.is_corrupt() {
            alarms.push(own(AlarmKind::Corrupt));
        }
        alarms
    }

    /// An error for what did not read back from a place in a segment. The first one of a store is written to the
    /// operator's log; what is not damaged goes on being served.
    #[cold]
    pub(crate) fn damage(&self, segment: &Segment, at: u32, why: &dyn Display) -> Error {
        let path = segment.path.display();
        if !self.damaged.swap(true, Ordering::AcqRel) {
            tracing::error!(
                %path,
                offset = at,
                reason = %why,
                "the log is damaged: what is stored there is answered with an error, the rest is served; stop the \
                 server, look how far it goes with `setpoint store verify`, and restore the directory from a backup"
            );
        }
        Error::Read(format!("{path} at {at}: {why}"))
    }

    /// The value of a version that was seen earlier; `None` when compaction has removed it since. It holds
    /// on to no file in between, so that a replaced one is really gone.
    pub(crate) fn previous(&self, key: &[u8], version: &Version) -> Option<Result<Bytes, Error>> {
        if let Some(bytes) = self.hot.get(version.at) {
            return Some(Ok(bytes));
        }
        let index = self.index.read();
        let table = self.files.table();
        let at = if table.by_number.contains_key(&version.at.file) {
            version.at
        } else {
            index.exact(key, version.modified)?.at
        };
        drop(index);
        Some(self.read_value(&table, at))
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            request_bytes_max: self.options.request_bytes_max,
            txn_ops_max: self.options.txn_ops_max,
        }
    }

    pub(crate) fn committed(&self) -> i64 {
        self.committed.load(Ordering::Acquire)
    }

    /// All leases, some at a time: those that were there at the beginning, unless they were revoked meanwhile, and maybe some
    /// that came.
    pub(crate) fn grants(&self) -> Vec<(i64, i64)> {
        let mut grants = Vec::new();
        while self.leases.lock().more_grants(&mut grants) {
            std::thread::yield_now();
        }
        grants
    }

    pub(crate) fn floor(&self) -> i64 {
        self.floor.load(Ordering::Acquire)
    }

    pub(crate) fn revision(&self) -> Revision {
        Revision(self.committed())
    }

    /// Accepts no more writes, for good.
    pub(crate) fn poison(&self, why: String) {
        tracing::error!(reason = %why, "the log failed, no more writes are accepted");
        let _ = self.poisoned.set(why);
    }

    pub(crate) fn poisoned(&self) -> Option<Error> {
        self.poisoned.get().map(|why| Error::Poisoned(why.clone()))
    }

    /// Keeps what a read at `revision` sees from being pruned. Take it under a lock of the index.
    pub(crate) fn pin(&self, revision: i64) -> Pin<&Self> {
        Pin::new(self, revision, None)
    }

    /// As [`Shared::pin`], for as long as it takes.
    pub(crate) fn pin_owned(self: &Arc<Self>, revision: i64) -> Pin<Arc<Self>> {
        Pin::new(Arc::clone(self), revision, None)
    }

    /// As [`Shared::pin`], for a read that goes as slowly as its client takes it: it has to [check](Pin::check).
    pub(crate) fn pin_for_a_while(self: &Arc<Self>, revision: i64) -> Pin<Arc<Self>> {
        let until = Instant::now() + self.options.read_holds;
        Pin::new(Arc::clone(self), revision, Some(until))
    }

    /// The floor down to which may be pruned while readers are busy. Take it under the index's write lock.
    pub(crate) fn prunable(&self) -> i64 {
        self.pins.prunable(self.floor(), Instant::now())
    }

    /// The same, without anything being taken to be pruned.
    pub(crate) fn would_be_prunable(&self) -> i64 {
        self.pins.would_be_prunable(self.floor(), Instant::now())
    }

    /// Values as of now. Take it under a lock of the index, so that places found there stay readable.
    pub(crate) fn values(&self) -> LogValues<'_> {
        LogValues {
            shared: self,
            table: self.files.table(),
        }
    }

    /// Reads one value.
    fn read_value(&self, table: &Table, at: Location) -> Result<Bytes, Error> {
        if at.len == 0 {
            return Ok(Bytes::new());
        }
        if let Some(bytes) = self.hot.get(at) {
            return Ok(bytes);
        }
        let mut bytes = vec![0; at.len as usize];
        self.read_into(table, at, &mut bytes)?;
        Ok(bytes.into())
    }

    /// Reads one value from its file to where it is wanted.
    pub(crate) fn read_into(&self, table: &Table, at: Location, room: &mut [u8]) -> Result<(), Error> {
        let Some(segment) = table.by_number.get(&at.file) else {
            return Err(Error::Read(format!("file {} of the log is not open", at.file)));
        };
        segment
            .file
            .read_exact_at(room, u64::from(at.offset))
            .map_err(|error| self.damage(segment, at.offset, &error))?;
        if crc32c::crc32c(room) != at.crc {
            return Err(self.damage(segment, at.offset, &"the value does not match its checksum"));
        }
        Ok(())
    }
}

/// Reads values from memory, else from the files that were open at one moment.
pub(crate) struct LogValues<'a> {
    shared: &'a Shared,
    table: Arc<Table>,
}

impl LogValues<'_> {
    /// Whether the file that a place names is open here.
    pub(crate) fn has(&self, at: Location) -> bool {
        self.table.by_number.contains_key(&at.file)
    }
}

impl Values for LogValues<'_> {
    fn value(&self, at: Location) -> Result<Bytes, Error> {
        self.shared.read_value(&self.table, at)
    }
}

/// Tells threads to stop, and wakes them for it.
#[derive(Default)]
pub(crate) struct Signal {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    pub(crate) fn stop(&self) {
        *self.stopped.lock() = true;
        self.changed.notify_all();
    }

    /// Waits, at most this long; whether it is time to stop.
    pub(crate) fn wait(&self, pause: Duration) -> bool {
        if point::is_simulated() {
            point::hit(Point::Waiting);
            return *self.stopped.lock();
        }
        let mut stopped = self.stopped.lock();
        if !*stopped {
            self.changed.wait_for(&mut stopped, pause);
        }
        *stopped
    }
}
