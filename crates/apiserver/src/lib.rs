//! A Kubernetes API server over the store.
//!
//! Reading order: [`handle`](ApiServer) → `service` (the pipeline) → `request` → `resources` → `routes`.

mod answer;
mod authn;
mod body;
mod certs;
mod discovery;
mod error;
mod handle;
mod health;
mod negotiate;
mod options;
mod request;
mod resources;
mod routes;
mod serve;
mod server;
mod service;
#[cfg(test)]
mod testing;
mod version;

pub use body::{ApiBody, BodyError};
pub use certs::{Pki, PkiError};
pub use error::OpenError;
pub use handle::ApiServer;
pub use options::Options;
pub use request::Identity;
pub use serve::{ServeOptions, Tls, serve};
pub use service::ApiService;
