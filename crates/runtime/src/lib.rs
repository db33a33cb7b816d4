//! Informers, work queues and controllers for any Kubernetes API.

pub mod client;
pub mod conditions;
pub mod controller;
pub mod events;
pub mod finalizer;
pub mod indexer;
pub mod informer;
mod key;
pub mod metrics;
mod object;
pub mod queue;
pub mod reflector;
pub mod trace;
pub mod workqueue;

pub use client::{Api, Client, Error, Resource};
pub use controller::{Context, Controller, Outcome, ReconcileError};
pub use informer::SharedInformer;
pub use key::{ObjectKey, Request};
pub use object::key_of;
