//! What tests need to be hard on the rest, written without using what it tests.
//!
//! - [`SimDisk`]: a disk in memory that loses, tears and reorders what was not synced, fills up, fails to sync.
//!
//! Everything takes its chance from a seeded generator, so a failure is a seed.

mod disk;

pub use disk::SimDisk;
