//! A Kubernetes API server over the store.
//!
//! Reading order: [`handle`](ApiServer) → `service` (the pipeline) → `request` → `resources` → `routes`.

mod authn;
mod body;
mod certs;
mod error;
mod handle;
mod options;
mod request;
mod resources;
mod routes;
mod serve;
mod server;
mod service;
#[cfg(test)]
mod testing;

pub use body::{ApiBody, BodyError};
pub use certs::{Pki, PkiError};
pub use error::OpenError;
pub use handle::ApiServer;
pub use options::Options;
pub use request::Identity;
pub use serve::{ServeOptions, Tls, serve};
pub use service::ApiService;
