//! Informers, work queues and controllers for any Kubernetes API.

mod key;
pub mod metrics;
pub mod workqueue;

pub use key::{ObjectKey, Request};
