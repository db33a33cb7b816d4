//! What a controller looks at, how many at once, and its life from start to stop.

use std::sync::Arc;
use std::time::Duration;

use setpoint_apimachinery::Encoded;
use setpoint_base::{Stop, TaskGroup};

use super::causes::Causes;
use super::context::Shared;
use super::outcome::Reconciler;
use super::worker::{Pool, Settings};
use crate::client::{Client, Resource};
use crate::events::Recorder;
use crate::informer::{Event, SharedInformer};
use crate::key::{ObjectKey, Request};
use crate::metrics::RuntimeMetrics;
use crate::object::key_of;
use crate::workqueue::{LimiterOptions, WorkQueue};

type Mapper = Arc<dyn Fn(&Encoded) -> Vec<Request> + Send + Sync>;
type Filter = Arc<dyn Fn(&Event) -> bool + Send + Sync>;
type ValuesOf = Arc<dyn Fn(&Encoded) -> Vec<String> + Send + Sync>;

/// How long informers may take to end after the workers have.
const SOURCES_GRACE: Duration = Duration::from_secs(15);

/// Why a controller did not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// An informer could not list its resource in time.
    #[error(
        "{resource} was not listed within {after:?}: is the server reachable, does it serve this, may we list it?"
    )]
    NotSynced {
        /// What could not be listed.
        resource: String,
        /// How long was waited.
        after: Duration,
    },
    /// Two indexes of one resource have the same name.
    #[error("add an index to {resource}")]
    Index {
        /// The resource.
        resource: String,
        /// What is wrong.
        #[source]
        source: crate::indexer::DuplicateIndex,
    },
    /// An index was asked of a resource that has no cache here.
    #[error(
        "index {index:?} is of {resource}, which is neither reconciled, owned nor watched: add .owns or .watches"
    )]
    NoCache {
        /// The resource.
        resource: String,
        /// The name of the index.
        index: String,
    },
    /// An informer ended before the controller began.
    #[error("watch {resource}")]
    Stopped {
        /// The resource.
        resource: String,
        /// What is wrong.
        #[source]
        source: crate::informer::Stopped,
    },
}

/// Prepares a controller; made by [`Controller::builder`](super::Controller::builder).
#[must_use]
pub struct Builder {
    name: String,
    client: Client,
    primary: Resource,
    namespace: String,
    label_selector: String,
    sources: Vec<(Resource, Mapper)>,
    filter: Option<Filter>,
    indexes: Vec<(Resource, String, ValuesOf)>,
    settings: Settings,
    sync_timeout: Duration,
    resync: Duration,
    limits: LimiterOptions,
    metrics: RuntimeMetrics,
}

impl Builder {
    pub(super) fn new(name: &str, client: &Client, primary: &Resource) -> Self {
        Self {
            name: name.to_owned(),
            client: client.clone(),
            primary: primary.clone(),
            namespace: String::new(),
            label_selector: String::new(),
            sources: Vec::new(),
            filter: None,
            indexes: Vec::new(),
            settings: Settings::default(),
            sync_timeout: Duration::from_secs(120),
            resync: Duration::from_secs(10 * 3600),
            limits: LimiterOptions::default(),
            metrics: RuntimeMetrics::default(),
        }
    }

    /// Also reconcile the owner when an object of `child` that it controls changes or goes.
    pub fn owns(self, child: &Resource) -> Self {
        let primary = self.primary.clone();
        self.watches(child, move |object| {
            controlling_owner(object, &primary).into_iter().collect()
        })
    }

    /// Also reconcile what `mapper` names when an object of `resource` changes or goes.
    pub fn watches(
        mut self,
        resource: &Resource,
        mapper: impl Fn(&Encoded) -> Vec<Request> + Send + Sync + 'static,
    ) -> Self {
        self.sources.push((resource.clone(), Arc::new(mapper)));
        self
    }

    /// Adds an index to the cache of the primary resource or of one that is owned or watched; read it with
    /// `context.store(resource)`.
    pub fn index(
        mut self,
        resource: &Resource,
        name: &str,
        values_of: impl Fn(&Encoded) -> Vec<String> + Send + Sync + 'static,
    ) -> Self {
        self.indexes
            .push((resource.clone(), name.to_owned(), Arc::new(values_of)));
        self
    }

    /// Reconcile only for these events of the primary resource, for example [`spec_changed`].
    pub fn filter(mut self, filter: impl Fn(&Event) -> bool + Send + Sync + 'static) -> Self {
        self.filter = Some(Arc::new(filter));
        self
    }

    /// Look at one namespace only.
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// Look only at primary objects with these labels, in kubectl's notation.
    pub fn labels(mut self, selector: &str) -> Self {
        selector.clone_into(&mut self.label_selector);
        self
    }

    /// Objects reconciled at once. Default 1.
    pub fn workers(mut self, workers: usize) -> Self {
        self.settings.workers = workers.max(1);
        self
    }

    /// Deadline of one reconcile; past it the future is dropped and the object retried. Default 60 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = timeout;
        self
    }

    /// How long a stop waits for reconciles that have begun. Default 30 s.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.settings.grace = grace;
        self
    }

    /// Deadline of the first lists. Default 2 min.
    pub fn sync_timeout(mut self, timeout: Duration) -> Self {
        self.sync_timeout = timeout;
        self
    }

    /// Reconcile everything this often, just in case. Default 10 h.
    pub fn resync(mut self, period: Duration) -> Self {
        self.resync = period;
        self
    }

    /// Backoff of failed objects, and the limit on all retries together.
    pub fn retries(mut self, limits: LimiterOptions) -> Self {
        self.limits = limits;
        self
    }

    /// Where to count. By default nobody looks.
    pub fn metrics(mut self, metrics: &RuntimeMetrics) -> Self {
        self.metrics = metrics.clone();
        self
    }

    /// Runs until `stop`. Reconciles begin when everything was listed once. At the stop no reconcile is
    /// begun, those under way are finished within the grace, and what is queued is dropped: the next start
    /// looks at everything again.
    ///
    /// # Errors
    /// See [`RunError`]; a reconcile that fails is not one, it is retried.
    pub async fn run(self, reconciler: impl Reconciler, stop: Stop) -> Result<(), RunError> {
        let queue = WorkQueue::new(&self.name, self.limits.clone(), &self.metrics);
        let causes = Arc::new(Causes::default());
        let informers = self.informers(&queue, &causes)?;
        // Ends after the workers do, so that what they read stays true until then.
        let sources = TaskGroup::new(&Stop::new());
        // Dropping this future must not leave them running.
        let _guard = sources.stop().clone().drop_guard();
        for informer in &informers {
            let (informer, stop) = (informer.clone(), sources.stop().clone());
            sources.spawn(async move { informer.run(stop).await });
        }
        let result = stop.run_until_cancelled(self.synced(&informers)).await;
        if let Some(Ok(())) = result {
            let shared = self.shared(&informers, &sources);
            let metrics = self.metrics.controller(&self.name);
            Pool::new(shared, queue, causes, self.settings, metrics)
                .run(reconciler, stop)
                .await;
        }
        sources.shutdown(SOURCES_GRACE).await;
        result.unwrap_or(Ok(()))
    }

    fn shared(&self, informers: &[SharedInformer], sources: &TaskGroup) -> Arc<Shared> {
        Arc::new(Shared {
            name: self.name.clone(),
            client: self.client.clone(),
            primary: self.primary.clone(),
            stores: informers
                .iter()
                .map(|informer| (informer.resource().clone(), Arc::clone(informer.store())))
                .collect(),
            recorder: Recorder::start(&self.client, &self.name, &self.metrics, sources),
        })
    }

    /// One informer a resource, the primary's first.
    fn informers(
        &self,
        queue: &WorkQueue<Request>,
        causes: &Arc<Causes>,
    ) -> Result<Vec<SharedInformer>, RunError> {
        let primary = self.informer(&self.primary, &self.label_selector)?;
        let itself: Mapper = Arc::new(|object| vec![key_of(object)]);
        let sink = (queue.clone(), Arc::clone(causes));
        attach(&primary, &itself, self.filter.clone(), Some(self.resync), &sink)?;
        let mut informers = vec![primary];
        for (resource, mapper) in &self.sources {
            // The primary's informer may see less than everything: it is shared only when it does not.
            let known = informers
                .iter()
                .enumerate()
                .find(|(at, informer)| {
                    informer.resource() == resource && (*at > 0 || self.label_selector.is_empty())
                })
                .map(|(_, informer)| informer.clone());
            let informer = match known {
                Some(informer) => informer,
                None => {
                    let informer = self.informer(resource, "")?;
                    informers.push(informer.clone());
                    informer
                }
            };
            attach(&informer, mapper, None, None, &sink)?;
        }
        let cached = |resource| informers.iter().any(|informer| informer.resource() == resource);
        match self.indexes.iter().find(|(resource, ..)| !cached(resource)) {
            Some((resource, index, _)) => Err(RunError::NoCache {
                resource: resource.to_string(),
                index: index.clone(),
            }),
            None => Ok(informers),
        }
    }

    fn informer(&self, resource: &Resource, label_selector: &str) -> Result<SharedInformer, RunError> {
        let mut builder = SharedInformer::builder(&self.client, resource)
            .namespace(&self.namespace)
            .labels(label_selector)
            .metrics(&self.metrics);
        for (_, name, values_of) in self.indexes.iter().filter(|index| index.0 == *resource) {
            let values_of = Arc::clone(values_of);
            builder = builder
                .index(name, move |object| values_of(object))
                .map_err(|source| RunError::Index {
                    resource: resource.to_string(),
                    source,
                })?;
        }
        Ok(builder.build())
    }

    async fn synced(&self, informers: &[SharedInformer]) -> Result<(), RunError> {
        let deadline = tokio::time::Instant::now() + self.sync_timeout;
        for informer in informers {
            tokio::time::timeout_at(deadline, informer.synced())
                .await
                .map_err(|_| RunError::NotSynced {
                    resource: informer.resource().to_string(),
                    after: self.sync_timeout,
                })?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("name", &self.name)
            .field("primary", &self.primary)
            .finish_non_exhaustive()
    }
}

/// A filter for [`Builder::filter`]: not the updates in which only status or annotations changed. Generation,
/// labels, finalizers, deletion and identity count, and so does a resync.
#[must_use]
pub fn spec_changed(event: &Event) -> bool {
    let Event::Updated { old, new } = event else {
        return true;
    };
    let (old, new) = (old.header(), new.header());
    old.generation != new.generation
        || old.uid != new.uid
        || old.deleting != new.deleting
        || old.finalizers != new.finalizers
        || old.labels != new.labels
        || old.resource_version == new.resource_version
}

fn attach(
    informer: &SharedInformer,
    mapper: &Mapper,
    filter: Option<Filter>,
    resync: Option<Duration>,
    (queue, causes): &(WorkQueue<Request>, Arc<Causes>),
) -> Result<(), RunError> {
    let (queue, causes, mapper) = (queue.clone(), Arc::clone(causes), Arc::clone(mapper));
    let handler = move |event: &Event| {
        if filter.as_ref().is_none_or(|filter| filter(event)) {
            enqueue(event, &*mapper, &queue, &causes);
        }
    };
    informer
        .add_handler_with_resync(handler, resync)
        .map(drop)
        .map_err(|source| RunError::Stopped {
            resource: informer.resource().to_string(),
            source,
        })
}

/// Queues what an event concerns: of a change, what the old and the new state name.
fn enqueue(
    event: &Event,
    mapper: &(dyn Fn(&Encoded) -> Vec<Request> + Send + Sync),
    queue: &WorkQueue<Request>,
    causes: &Causes,
) {
    let object = event.object();
    let mut requests = mapper(object);
    if let Event::Updated { old, .. } = event {
        for request in mapper(old) {
            if !requests.contains(&request) {
                requests.push(request);
            }
        }
    }
    for request in requests {
        causes.note(&request, object.header().trace);
        queue.add(request);
    }
}

fn controlling_owner(object: &Encoded, primary: &Resource) -> Option<Request> {
    let header = object.header();
    let owner = header.owners.iter().find(|owner| {
        let group = owner.api_version.rsplit_once('/').map_or("", |(group, _)| group);
        owner.controller && &*owner.kind == primary.kind() && group == primary.group()
    })?;
    let namespace = if primary.is_namespaced() {
        &*header.namespace
    } else {
        ""
    };
    Some(ObjectKey::new(namespace, &owner.name))
}
