//! What an informer can be told before it runs.

use std::sync::Arc;

use parking_lot::Mutex;
use setpoint_apimachinery::Encoded;
use setpoint_base::{Stop, TaskGroup};
use tokio::sync::{Notify, watch};

use super::ring::Ring;
use super::{Shared, SharedInformer};
use crate::client::{Client, Resource};
use crate::indexer::{DuplicateIndex, IndexFn, Indexer};
use crate::metrics::RuntimeMetrics;
use crate::queue::{DeltaLimits, DeltaQueue};
use crate::reflector::{Reflector, ReflectorOptions};

/// Prepares a [`SharedInformer`].
#[must_use]
pub struct Builder {
    client: Client,
    resource: Resource,
    namespace: String,
    label_selector: String,
    field_selector: String,
    store: Indexer<Encoded>,
    reflector: ReflectorOptions,
    limits: DeltaLimits,
    ring_capacity: usize,
    metrics: RuntimeMetrics,
}

impl Builder {
    pub(super) fn new(client: &Client, resource: &Resource) -> Self {
        Self {
            client: client.clone(),
            resource: resource.clone(),
            namespace: String::new(),
            label_selector: String::new(),
            field_selector: String::new(),
            store: Indexer::new(),
            reflector: ReflectorOptions {
                seed: fastrand::u64(..),
                ..ReflectorOptions::default()
            },
            limits: DeltaLimits::default(),
            ring_capacity: 4096,
            metrics: RuntimeMetrics::default(),
        }
    }

    /// Only objects of this namespace; empty means all.
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// Only objects with these labels, in kubectl's notation.
    pub fn labels(mut self, selector: &str) -> Self {
        selector.clone_into(&mut self.label_selector);
        self
    }

    /// Only objects with these fields.
    pub fn fields(mut self, selector: &str) -> Self {
        selector.clone_into(&mut self.field_selector);
        self
    }

    /// Adds an index to the store.
    ///
    /// # Errors
    /// [`DuplicateIndex`] when the name is taken.
    pub fn index(
        self,
        name: &str,
        values_of: impl Fn(&Encoded) -> Vec<String> + Send + Sync + 'static,
    ) -> Result<Self, DuplicateIndex> {
        let values_of: IndexFn<Encoded> = Arc::new(values_of);
        self.store.add_index(name, values_of)?;
        Ok(self)
    }

    /// Settings of the list-and-watch loop.
    pub fn reflector(mut self, options: ReflectorOptions) -> Self {
        self.reflector = options;
        self
    }

    /// Bounds of the queue between watch and store.
    pub fn limits(mut self, limits: DeltaLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Events kept for handlers that lag; beyond it they get latest states only. Default 4,096.
    pub fn ring_capacity(mut self, events: usize) -> Self {
        self.ring_capacity = events;
        self
    }

    /// Where to count. By default nobody looks.
    pub fn metrics(mut self, metrics: &RuntimeMetrics) -> Self {
        self.metrics = metrics.clone();
        self
    }

    /// The informer; nothing happens until it runs.
    #[must_use]
    pub fn build(self) -> SharedInformer {
        let metrics = self.metrics.informer(&self.resource.to_string());
        let queue = Arc::new(DeltaQueue::new(self.limits));
        let reflector = Reflector::new(
            self.client.api(&self.resource).namespace(&self.namespace),
            (self.label_selector, self.field_selector),
            self.reflector,
            Arc::clone(&queue),
            metrics.clone(),
        );
        SharedInformer {
            shared: Arc::new(Shared {
                resource: self.resource,
                store: Arc::new(self.store),
                queue,
                ring: Mutex::new(Ring::new(self.ring_capacity)),
                changed: Notify::new(),
                synced: watch::Sender::new(false),
                stopped: false.into(),
                reflector: Mutex::new(Some(reflector)),
                handlers: TaskGroup::new(&Stop::new()),
                metrics,
            }),
        }
    }
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("resource", &self.resource)
            .finish_non_exhaustive()
    }
}
