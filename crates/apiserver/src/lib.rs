//! A Kubernetes API server over the store.
//!
//! Reading order: [`handle`](ApiServer) → `service` (the pipeline) → `request` → `resources` → `routes`.

mod body;
mod error;
mod handle;
mod options;
mod request;
mod resources;
mod routes;
mod server;
mod service;

pub use body::{ApiBody, BodyError};
pub use error::OpenError;
pub use handle::ApiServer;
pub use options::Options;
pub use request::Identity;
pub use service::ApiService;
