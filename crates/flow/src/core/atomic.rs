//! The atomics that the bucket is made of. `loom/` compiles the bucket with others, which try every order.

pub(super) use std::sync::atomic::AtomicU64;
