//! Informers, work queues and controllers for any Kubernetes API.

pub mod indexer;
pub mod informer;
mod key;
pub mod metrics;
pub mod queue;
pub mod workqueue;

pub use key::{ObjectKey, Request};
