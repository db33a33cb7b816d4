//! The API server's own controllers. They read through informers and write through the front door, over the loopback
//! service: what they do is validated, audited and traced like anybody's request.
//!
//! - `namespaces`: what every namespace has (`default` service account, root CA), and how one ends.

mod front;
mod namespaces;

use std::sync::Arc;

use setpoint_runtime::Client;

use crate::request::Identity;
use crate::server::Server;
use crate::service::ApiService;

/// Starts all loops as tasks of the server; they end with it. Call it within a tokio runtime.
pub(crate) fn start(server: &Arc<Server>) {
    let service = ApiService::new(Arc::clone(server), Identity::loopback());
    let client = Client::from_service(service.clone());
    let namespaces = namespaces::Namespaces::new(Arc::clone(server), front::Front::new(service), &client);
    server.tasks.spawn(namespaces.run(server.stop.clone()));
}
