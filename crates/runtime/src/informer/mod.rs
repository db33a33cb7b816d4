//! Shared informers.
pub mod ring;
