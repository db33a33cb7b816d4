//! Pure logic: no I/O, no clock of its own.

mod atomic;
pub mod bucket;
pub mod budget;
pub(crate) mod bypass;
pub(crate) mod flood;
pub mod frames;
pub mod gate;
pub mod glob;
pub(crate) mod grants;
pub(crate) mod hollow;
pub mod keepalive;
pub mod latency;
pub mod limit;
pub mod memory;
pub mod message;
pub mod outlier;
pub mod rate;
pub(crate) mod reserve;
pub mod retry;
pub mod timeout;
pub(crate) mod unfinished;
pub mod window;

#[cfg(test)]
mod bucket_tests;
