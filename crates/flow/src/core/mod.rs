//! Pure logic: no I/O, no clock of its own.

pub mod bucket;
pub mod glob;
pub mod rate;
