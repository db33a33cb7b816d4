//! What tests need to be hard on the rest, written without using what it tests.
//!
//! - [`SimDisk`]: a disk in memory that loses, tears and reorders what was not synced, fills up, fails to sync.
//! - [`Model`]: a key-value store with history that a child could write: the truth to compare with.
//! - [`frames`]: HTTP/2, frame by frame, as no library would send it.
//! - [`linear`]: whether what clients were told could have happened one after the other.
//! - [`record`]: what was asked, what was acknowledged, what watchers saw.
//! - [`validate`]: etcd's watch guarantees, by etcd's names, checked on records alone.
//!
//! Everything takes its chance from a seeded generator, so a failure is a seed. Helpers that start real
//! servers do not belong here.

mod disk;
pub mod frames;
pub mod linear;
mod model;
pub mod record;
pub mod validate;

pub use disk::SimDisk;
pub use model::{Change, Event, Model, State, Stored};
pub use record::{Recorder, WatchRecord};
