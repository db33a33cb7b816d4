//! What can go wrong, by the step that failed.

use std::io;
use std::path::PathBuf;

use crate::types::{LeaseId, Revision};

/// A request was refused or failed. Each variant has one etcd code and text (`store::etcd::status`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The revision asked for is below the compaction floor.
    #[error("revision {asked} is compacted, the oldest kept is {floor}: read again without a revision")]
    Compacted {
        /// What was asked for.
        asked: Revision,
        /// The oldest revision that can be read.
        floor: Revision,
    },
    /// The revision asked for has not been written yet.
    #[error("revision {asked} is in the future, the newest is {current}")]
    FutureRevision {
        /// What was asked for.
        asked: Revision,
        /// The newest.
        current: Revision,
    },
    /// An empty key.
    #[error("key is empty: give at least one byte")]
    EmptyKey,
    /// `ignore_value` or `ignore_lease` on a key that does not exist.
    #[error("key does not exist, so there is no value or lease to keep")]
    KeyNotFound,
    /// `ignore_value` together with a value.
    #[error("a value was given together with ignore_value: send one of them")]
    ValueProvided,
    /// `ignore_lease` together with a lease.
    #[error("a lease was given together with ignore_lease: send one of them")]
    LeaseProvided,
    /// The same key is written twice in one transaction.
    #[error("a key is written twice in one transaction")]
    DuplicateKey,
    /// More operations than [`Options::txn_ops_max`](crate::Options::txn_ops_max).
    #[error("too many operations in one transaction")]
    TooManyOps,
    /// Larger than [`Options::request_bytes_max`](crate::Options::request_bytes_max).
    #[error("request is larger than the limit")]
    RequestTooLarge,
    /// What was asked for is larger than one answer may be: 2 GiB for a range, 256 MiB for a transaction,
    /// 64 MiB for one that writes.
    #[error("the answer is too large: ask for fewer keys at a time")]
    ResultTooLarge,
    /// No such lease.
    #[error("lease {:016x} does not exist", .0.0)]
    LeaseNotFound(LeaseId),
    /// The lease id is taken.
    #[error("lease {:016x} already exists", .0.0)]
    LeaseExists(LeaseId),
    /// Longer than etcd's 9,000,000,000 s.
    #[error("lease TTL is too large")]
    LeaseTtlTooLarge,
    /// The disk is full: reads, watches, deletes and compaction go on.
    #[error("the disk is full: delete keys and compact, or free space")]
    NoSpace,
    /// The queue of proposals is full.
    #[error("too many requests are waiting to be committed: retry later")]
    TooManyRequests,
    /// The store is stopping.
    #[error("the store is stopping")]
    Stopped,
    /// A write or sync of the log failed; the store serves no more writes until it is restarted.
    #[error("the log failed and accepts no more writes: {0}; check the disk, then restart")]
    Poisoned(String),
    /// A fact on which the request rested has changed: see [`Store::expecting`](crate::Store::expecting).
    #[error("what the request rested on has changed: try again")]
    FactChanged,
    /// A record could not be read back.
    #[error("read the log: {0}")]
    Read(String),
    /// The cluster that keeps the log does not answer. What was asked for has not happened.
    #[error("the etcd cluster does not serve this now ({0}): nothing was written, try again")]
    Unavailable(String),
    /// The cluster did not answer, and what the log shows does not tell whether the write happened.
    #[error(
        "the etcd cluster did not answer ({0}): the write may or may not have happened, read before it is tried again"
    )]
    OutcomeUnknown(String),
    /// The cluster refused for reasons of its own, such as a user's rights.
    #[error("the etcd cluster refused: {0}")]
    Refused(String),
    /// A watch id that the stream already has.
    #[error("watch id {0} is in use on this stream")]
    DuplicateWatchId(i64),
    /// A watch on an empty span.
    #[error("the watched range is empty: range_end is not after key")]
    EmptyWatchRange,
    /// The stream has as many watchers as one may have.
    #[error("too many watchers on one stream")]
    TooManyWatchers,
}

/// The store could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The options contradict themselves.
    #[error("invalid store options: {}", .0.join("; "))]
    Options(Vec<String>),
    /// Another process has the directory.
    #[error("{} is in use by another process: stop it, or choose another --data-dir", .dir.display())]
    Locked {
        /// The data directory.
        dir: PathBuf,
    },
    /// A step on the file system failed.
    #[error("{step} {}", .path.display())]
    Io {
        /// What was tried, in the present tense.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Bytes that were once synced no longer read back as written.
    #[error(
        "{} is damaged at offset {offset} ({detail}): restore the directory from a backup; `setpoint store \
         verify` shows how far the damage goes", .path.display()
    )]
    Damaged {
        /// The damaged file.
        path: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// What was wrong there.
        detail: String,
    },
}
