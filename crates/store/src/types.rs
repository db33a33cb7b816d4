//! The vocabulary of the store: what callers say and what they get back.
//!
//! Semantics are etcd's (`specs` name the upstream files); these types carry no wire format. The etcd
//! front converts at its edge.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use setpoint_base::TraceContext;

pub use crate::core::alarm::{Alarm, AlarmKind};
pub use crate::core::meta::{MetaTxn, MetaWrite, Table};
use crate::error::Error;

/// A position in the log: etcd's revision, Kubernetes' `resourceVersion`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub i64);

impl Revision {
    /// The revision of an empty store. The first write makes revision 2, as in etcd.
    pub const INITIAL: Self = Self(1);

    /// The revision after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A lease's name. 0 on the wire means "no lease" and is `None` here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// One version of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key, never empty.
    pub key: Bytes,
    /// The value; empty when only keys were asked for.
    pub value: Bytes,
    /// Revision of the write that made the key exist.
    pub create_revision: Revision,
    /// Revision of this version.
    pub mod_revision: Revision,
    /// 1 at creation, one more with each put, 1 again after a delete.
    pub version: i64,
    /// The lease that deletes the key when it ends.
    pub lease: Option<LeaseId>,
}

/// A span of keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyRange {
    /// Exactly this key.
    Key(Bytes),
    /// Keys in `[start, end)`; empty when `end <= start`.
    Span(Bytes, Bytes),
    /// All keys at or after this one.
    From(Bytes),
}

impl KeyRange {
    /// All keys that begin with `prefix`.
    #[must_use]
    pub fn prefix(prefix: &[u8]) -> Self {
        let start = Bytes::copy_from_slice(prefix);
        let mut end = prefix.to_vec();
        while let Some(last) = end.pop() {
            if last < 0xff {
                end.push(last + 1);
                return Self::Span(start, end.into());
            }
        }
        Self::From(start)
    }

    /// etcd's grammar: no `range_end` is one key, `"\0"` is "from here on" (`api/etcdserverpb/rpc.proto`).
    #[must_use]
    pub fn from_wire(key: Bytes, range_end: Bytes) -> Self {
        match &range_end[..] {
            [] => Self::Key(key),
            [0] => Self::From(key),
            _ => Self::Span(key, range_end),
        }
    }

    /// The first key that could be in the range.
    #[must_use]
    pub fn start(&self) -> &Bytes {
        match self {
            Self::Key(start) | Self::Span(start, _) | Self::From(start) => start,
        }
    }

    /// Whether the key lies in the range.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(only) => only == key,
            Self::Span(start, end) => &start[..] <= key && key < &end[..],
            Self::From(start) => &start[..] <= key,
        }
    }
}

/// What a range result is ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortTarget {
    /// The key's bytes.
    Key,
    /// [`KeyValue::version`].
    Version,
    /// [`KeyValue::create_revision`].
    Create,
    /// [`KeyValue::mod_revision`].
    Mod,
    /// The value's bytes.
    Value,
}

/// A read of some keys at one revision.
#[derive(Clone, Debug)]
pub struct Range {
    /// Which keys.
    pub keys: KeyRange,
    /// At which revision; `None` is now.
    pub revision: Option<Revision>,
    /// At most this many; 0 is no limit.
    pub limit: usize,
    /// Leave values out (served from the index alone; the lease reads as none, as in etcd 3.7).
    pub keys_only: bool,
    /// Only the count.
    pub count_only: bool,
    /// Order other than by ascending key: target and whether descending.
    pub sort: Option<(SortTarget, bool)>,
    /// Whether the limit takes keys in ascending order before they are put in the order of `sort`: what etcd does for a
    /// target without an order, unless there are bounds.
    pub limit_first: bool,
    /// Inclusive bounds on `mod_revision`, then on `create_revision`; 0 is no bound.
    pub mod_bounds: (i64, i64),
    /// Inclusive bounds on `create_revision`; 0 is no bound.
    pub create_bounds: (i64, i64),
}

impl Range {
    /// All of `keys`, now, ascending.
    #[must_use]
    pub fn of(keys: KeyRange) -> Self {
        Self {
            keys,
            revision: None,
            limit: 0,
            keys_only: false,
            count_only: false,
            sort: None,
            limit_first: false,
            mod_bounds: (0, 0),
            create_bounds: (0, 0),
        }
    }

    /// One key, now.
    #[must_use]
    pub fn key(key: impl Into<Bytes>) -> Self {
        Self::of(KeyRange::Key(key.into()))
    }
}

/// The answer to a [`Range`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeResult {
    /// The store's revision when the read was served (not the one asked for).
    pub revision: Revision,
    /// Matching keys, in the order asked for.
    pub kvs: Vec<KeyValue>,
    /// Whether the limit cut the answer.
    pub more: bool,
    /// Keys in the range at that revision, whatever the limit and the bounds.
    pub count: i64,
}

/// A write of one key.
#[derive(Clone, Debug)]
pub struct Put {
    /// The key, not empty.
    pub key: Bytes,
    /// The new value; `None` keeps the present one (`ignore_value`).
    pub value: Option<Bytes>,
    /// The lease to attach.
    pub lease: PutLease,
    /// Whether the previous version is wanted in the answer.
    pub prev_kv: bool,
}

/// What a put does to the key's lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutLease {
    /// The key has this lease (or none) from now on.
    Set(Option<LeaseId>),
    /// The present lease stays (`ignore_lease`).
    Keep,
}

impl Put {
    /// A plain put: no lease, previous version not wanted.
    #[must_use]
    pub fn new(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self {
            key: key.into(),
            value: Some(value.into()),
            lease: PutLease::Set(None),
            prev_kv: false,
        }
    }
}

/// A deletion of all keys in a range, in one revision.
#[derive(Clone, Debug)]
pub struct Delete {
    /// Which keys.
    pub keys: KeyRange,
    /// Whether the deleted versions are wanted in the answer.
    pub prev_kv: bool,
}

/// A condition of a transaction, on the state before it.
#[derive(Clone, Debug)]
pub struct Compare {
    /// All keys of the range have to satisfy it. Of an absent key, numbers read 0 and a value never matches.
    pub keys: KeyRange,
    /// The relation that must hold between the stored field and the operand.
    pub relation: Relation,
    /// The field and the operand.
    pub target: CompareTarget,
}

/// How a stored field relates to the operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Equal.
    Equal,
    /// Stored is greater.
    Greater,
    /// Stored is less.
    Less,
    /// Different.
    NotEqual,
}

/// The field a [`Compare`] looks at, with the operand.
#[derive(Clone, Debug)]
pub enum CompareTarget {
    /// [`KeyValue::version`].
    Version(i64),
    /// [`KeyValue::create_revision`].
    Create(i64),
    /// [`KeyValue::mod_revision`].
    Mod(i64),
    /// [`KeyValue::value`].
    Value(Bytes),
    /// [`KeyValue::lease`], 0 for none.
    Lease(i64),
}

/// One step of a transaction.
#[derive(Clone, Debug)]
pub enum Op {
    /// Read; sees earlier writes of the same transaction.
    Range(Range),
    /// Write.
    Put(Put),
    /// Delete.
    Delete(Delete),
    /// A nested transaction. Its compares too are evaluated on the state before the outermost one.
    Txn(Box<Txn>),
}

/// Compares, then one of two lists of steps; all writes share one revision.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    /// All must hold for `success` to run.
    pub compares: Vec<Compare>,
    /// Steps if they hold.
    pub success: Vec<Op>,
    /// Steps if they do not.
    pub failure: Vec<Op>,
}

/// The answer to a [`Put`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutResult {
    /// The revision of the write.
    pub revision: Revision,
    /// The version before, if asked for and there was one.
    pub prev_kv: Option<KeyValue>,
}

/// The answer to a [`Delete`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteResult {
    /// The revision of the write; the present one when nothing matched.
    pub revision: Revision,
    /// How many keys were deleted.
    pub deleted: i64,
    /// The versions before, if asked for.
    pub prev_kvs: Vec<KeyValue>,
}

/// The answer to one [`Op`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResult {
    /// Of a range.
    Range(RangeResult),
    /// Of a put.
    Put(PutResult),
    /// Of a delete.
    Delete(DeleteResult),
    /// Of a nested transaction.
    Txn(TxnResult),
}

/// The answer to a [`Txn`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnResult {
    /// The revision of its writes; the present one when it wrote nothing.
    pub revision: Revision,
    /// Whether the compares held.
    pub succeeded: bool,
    /// One answer per step that ran.
    pub results: Vec<OpResult>,
}

/// What a write did to one key. Shared by every watcher that sees it.
#[derive(Debug)]
pub struct Event {
    /// Put or delete.
    pub kind: EventKind,
    /// The new version. Of a delete: key and `mod_revision` alone.
    pub kv: KeyValue,
    /// The version before, captured when the write was committed or read from history; `None` for a
    /// creation, and when compaction has removed it.
    pub prev_kv: Option<KeyValue>,
    /// The trace of the request that wrote it.
    pub trace: Option<TraceContext>,
    /// The event's etcd encoding without and with `prev_kv`, made by the first front that needs it.
    pub encoded: [OnceLock<Bytes>; 2],
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was written.
    Put,
    /// It was deleted.
    Delete,
}

/// What a watcher wants to see.
#[derive(Clone, Debug)]
pub struct WatchSpec {
    /// Which keys.
    pub keys: KeyRange,
    /// The first revision to deliver; `None` is "from the next write on".
    pub start: Option<Revision>,
    /// The watcher's id; `None` lets the stream choose the next from 0 on that is not in use. A stream chooses no id
    /// twice.
    pub id: Option<i64>,
    /// Leave puts out.
    pub no_put: bool,
    /// Leave deletes out.
    pub no_delete: bool,
    /// Whether events should carry the previous version.
    pub prev_kv: bool,
    /// Whether to send progress when the watcher is synced and idle ([`Options::progress_interval`]).
    ///
    /// [`Options::progress_interval`]: crate::Options::progress_interval
    pub progress: bool,
}

impl WatchSpec {
    /// Everything that happens to `keys` from `start` on.
    #[must_use]
    pub fn new(keys: KeyRange, start: Option<Revision>) -> Self {
        Self {
            keys,
            start,
            id: None,
            no_put: false,
            no_delete: false,
            prev_kv: false,
            progress: false,
        }
    }
}

/// What a watch stream delivers. One revision never spans two updates of the same watcher.
#[derive(Clone, Debug)]
pub enum WatchUpdate {
    /// Events of one or more whole revisions, in order.
    Events {
        /// The watcher.
        id: i64,
        /// The store's revision when they were handed out, never below the last event's.
        revision: Revision,
        /// The events that match the watcher.
        events: Vec<Arc<Event>>,
    },
    /// Everything up to `revision` has been delivered: to one watcher, or (`None`) to all of the stream.
    Progress {
        /// The watcher, or `None` for an answer to [`WatchStream::request_progress`].
        ///
        /// [`WatchStream::request_progress`]: crate::WatchStream::request_progress
        id: Option<i64>,
        /// Nothing at or below it is undelivered.
        revision: Revision,
    },
    /// The watcher needed history that has been compacted; it is gone. List again, then watch.
    Compacted {
        /// The watcher.
        id: i64,
        /// The oldest revision that can still be watched.
        floor: Revision,
    },
    /// The watcher needed history that does not read back; it is gone. Watching from there again fails again.
    Failed {
        /// The watcher.
        id: i64,
        /// Why.
        error: Error,
    },
}

/// A lease as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Its name.
    pub id: LeaseId,
    /// Seconds it was granted for.
    pub granted_ttl: i64,
    /// Whole seconds left.
    pub remaining_ttl: i64,
    /// Keys attached to it, sorted; empty unless asked for.
    pub keys: Vec<Bytes>,
}

/// Sizes and positions for `Maintenance.Status`, metrics and doctors.
#[derive(Clone, Copy, Debug, Default)]
pub struct StoreStatus {
    /// The newest committed revision.
    pub revision: Revision,
    /// The compaction floor; -1 before the first compaction, as in etcd.
    pub compact_revision: i64,
    /// Bytes of segments and checkpoints on disk.
    pub disk_bytes: u64,
    /// Bytes of records that are still reachable.
    pub live_bytes: u64,
    /// Live keys.
    pub keys: u64,
    /// Committed log entries since the store was made, for `raftIndex`.
    pub log_index: u64,
    /// Whether what makes the store grow is refused: the disk is full, the quota is reached, or an alarm says so.
    pub no_space: bool,
    /// Whether an alarm says that the data is not to be trusted, or something on disk did not read back.
    pub corrupt: bool,
    /// The quota for `live_bytes`; negative is none.
    pub quota_bytes: i64,
    /// Watchers registered now.
    pub watchers: u64,
    /// Random, made with the store: `cluster_id` and `member_id` on the wire.
    pub cluster_id: u64,
    /// See `cluster_id`.
    pub member_id: u64,
}
