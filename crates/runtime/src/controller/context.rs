//! What a reconciler can see and use.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use setpoint_apimachinery::Encoded;
use setpoint_base::TraceContext;

use crate::client::{Api, Client, Error, Resource, decode};
use crate::events::Recorder;
use crate::informer::Store;
use crate::key::Request;

/// What all reconciles of a controller share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) name: String,
    pub(super) client: Client,
    pub(super) primary: Resource,
    /// The primary's store first.
    pub(super) stores: Vec<(Resource, Store)>,
    pub(super) recorder: Recorder,
}

/// The surroundings of one reconcile. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Context {
    pub(super) shared: Arc<Shared>,
    pub(super) request: Request,
    pub(super) trace: TraceContext,
    pub(super) attempt: u32,
    pub(super) reconcile_id: u64,
    pub(super) last_error: Option<Arc<str>>,
}

impl Context {
    /// The object asked for, from the cache; `None` when it does not exist.
    #[must_use]
    pub fn object(&self) -> Option<Encoded> {
        self.shared
            .stores
            .first()
            .and_then(|(_, store)| store.get(&self.request))
    }

    /// The object asked for as a type, from the cache.
    ///
    /// # Errors
    /// [`Error::Decode`] when the object does not fit the type: usually terminal.
    pub fn object_as<T: DeserializeOwned>(&self) -> Result<Option<T>, Error> {
        self.object().map(|object| decode(&object)).transpose()
    }

    /// The cache of the primary resource, or of one that the controller owns or watches; `None` when it
    /// does neither.
    #[must_use]
    pub fn store(&self, resource: &Resource) -> Option<&Store> {
        self.shared
            .stores
            .iter()
            .find(|(known, _)| known == resource)
            .map(|(_, store)| store)
    }

    /// Calls on the primary resource in the object's namespace.
    #[must_use]
    pub fn api(&self) -> Api {
        self.api_of(&self.shared.primary)
    }

    /// Calls on any resource in the object's namespace; writes are owned by the controller's name.
    #[must_use]
    pub fn api_of(&self, resource: &Resource) -> Api {
        self.shared
            .client
            .api(resource)
            .namespace(self.request.namespace())
            .field_manager(&self.shared.name)
    }

    /// The client.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.shared.client
    }

    /// Writes Events, without waiting.
    #[must_use]
    pub fn recorder(&self) -> &Recorder {
        &self.shared.recorder
    }

    /// The trace of the change that caused this reconcile, seen from this reconcile. Requests made within
    /// it carry it by themselves.
    #[must_use]
    pub fn trace(&self) -> TraceContext {
        self.trace
    }

    /// 1 for the first try since the last success, 2 for the first retry, and so on.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// What the last try failed with, when this is a retry.
    #[must_use]
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// Distinguishes this reconcile in logs.
    #[must_use]
    pub fn reconcile_id(&self) -> u64 {
        self.reconcile_id
    }
}
