//! The store as a file of etcd's, and back: snapshots, restores, hashes.
//!
//! - `schema`: what etcd keeps in which bucket, and how a version of a key is written there.
//! - `dump`: every version a reader can see, in the order of the log, at one moment.
//! - `write`: a snapshot as a stream of bytes. It needs no room on the disk: where each page lies is found out by a
//!   first walk over the log, what is on it by a second one.
//! - `hash`: etcd's Hash and HashKV.
//! - `file`: a snapshot file, read without trust. `restore`: a store made from one.
//!
//! A walk reads the log's files, not the index, so it takes the index's lock only for versions below the compaction
//! floor. It holds a pin at the floor and the files as they were, so writes, compaction and rewriting go on; the
//! space that they would give back is given back when it ends.

mod dump;
mod file;
mod hash;
mod restore;
mod schema;
mod write;

pub(crate) use dump::Dump;
pub use file::{FileError, SnapshotFile, SnapshotStatus};
pub use hash::KvHash;
pub(crate) use hash::hash_kv;
pub use restore::{Restore, RestoreError, Restored};
pub use write::{Snapshot, WriteError};
