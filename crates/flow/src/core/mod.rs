//! Pure logic: no I/O, no clock of its own.

mod atomic;
pub mod bucket;
pub mod gate;
pub mod glob;
pub mod limit;
pub mod memory;
pub mod rate;

#[cfg(test)]
mod bucket_tests;
