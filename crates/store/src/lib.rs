//! The log is the database: an ordered, durable, watchable key-value store with etcd's semantics.
//!
//! Reading order: [`types`], `handle`, then `core/`.

pub mod client;
pub mod etcd;
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod types;

mod autocompact;
mod bolt;
mod core;
mod engine;
mod error;
mod handle;
mod log;
mod metrics;
mod options;
mod plant;
mod point;
mod remote;
mod seam;
mod snapshot;
mod watch;

pub use autocompact::AutoCompaction;
pub use error::{Error, OpenError};
pub use handle::Store;
pub use log::verify::{Damage, Verified, verify};
pub use options::Options;
pub use remote::ClusterOptions;
pub use seam::{Log, LogWatch};
pub use snapshot::{
    FileError, KvHash, Restore, RestoreError, Restored, Snapshot, SnapshotFile, SnapshotStatus, WriteError,
};
pub use watch::WatchStream;
