//! The ground floor: what every other crate needs and no one else owns.
//!
//! - [`WallClock`]: calendar time, handed in rather than read.
//! - [`TaskGroup`]: tasks that are stopped and awaited; nothing is detached.
//! - [`Backoff`]: bounded exponential waits with jitter.
//! - [`Disk`]: the seam under everything that must survive a crash.
//! - [`TraceContext`]: the trace a write belongs to; it travels with the revision.
//! - [`prefer_turns_of`]: threads that wake often and work shortly.
//! - [`sealed_key`]: what to say of a private key behind a passphrase.
//! - [`Chain`]: prints an error and its causes once each.
//!
//! There is no network, no configuration and no logging here.

mod backoff;
mod clock;
mod disk;
mod error;
mod sealed;
mod task;
mod trace;
mod turn;
mod unsynced;

pub use backoff::{Backoff, BackoffPolicy};
pub use clock::{FixedClock, SystemClock, WallClock};
pub use disk::{Disk, DiskFile, DiskLock, FsDisk};
pub use error::Chain;
pub use sealed::sealed_key;
pub use task::{Stop, TaskGroup};
pub use trace::{InvalidTraceparent, TraceContext};
pub use turn::prefer_turns_of;
pub use unsynced::UnsyncedDisk;
