//! A Kubernetes API server over the store.
//!
//! Reading order: [`handle`](ApiServer) → `service` (the pipeline) → `request` → `resources` → `routes`.

mod answer;
mod authn;
mod authz;
mod body;
mod bootstrap;
mod builtin;
mod cache;
mod certs;
mod commit;
mod crd;
mod discovery;
mod error;
mod event_ttl;
mod filter;
mod handle;
mod health;
mod inflight;
mod layout;
mod list;
mod listing;
mod loops;
mod metadata;
mod metrics;
mod negotiate;
mod object;
mod openapi;
mod options;
mod overload;
mod render;
mod request;
mod resources;
mod routes;
mod schema;
mod serve;
mod server;
mod service;
mod storage;
mod store_error;
mod strategy;
mod tables;
#[cfg(test)]
mod testing;
mod verbs;
mod version;
mod watch;
mod yaml;

pub use body::{ApiBody, BodyError};
pub use certs::{Pki, PkiError, SharedCa, self_signed};
pub use error::OpenError;
pub use handle::ApiServer;
pub use options::Options;
pub use request::Identity;
pub use serve::{RequestBody, ServeOptions, Tls, serve};
pub use service::ApiService;
