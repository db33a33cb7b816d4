//! Serving what the definitions say: one task follows them and swaps the resources that are served; another
//! per deleted definition empties it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use setpoint_apimachinery::{Encoded, Object, Status, encode};
use setpoint_base::TraceContext;
use setpoint_store::types::PutLease;
use tokio::sync::watch;

use super::definition::{CrdVersion, Definition};
use super::{FINALIZER, status};
use crate::commit::{self, Current, Written};
use crate::object::{self, meta_of};
use crate::resources::ResourceInfo;
use crate::server::Server;
use crate::storage::{Defaults, Storage};
use crate::strategy::timestamp;

/// How long a writer of a definition waits for it to be in force.
const APPLY_WAIT: Duration = Duration::from_secs(5);
/// Pause between two looks at what is left of a deleted definition.
const CLEANUP_PAUSE: Duration = Duration::from_millis(100);

/// All definitions, as last read.
#[derive(Debug)]
pub(crate) struct Definitions {
    all: ArcSwap<Vec<Arc<Definition>>>,
    /// Everything up to this revision is in force.
    applied: watch::Sender<u64>,
    /// Definitions whose objects are being deleted, by uid.
    emptying: Mutex<HashSet<String>>,
}

impl Definitions {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self {
            all: ArcSwap::default(),
            applied: watch::Sender::new(0),
            emptying: Mutex::default(),
        }
    }

    /// The present ones, in order of name.
    pub(crate) fn all(&self) -> Arc<Vec<Arc<Definition>>> {
        self.all.load_full()
    }

    /// Waits until a revision is in force, for a bounded time: the write itself is done.
    pub(crate) async fn reached(&self, revision: u64) {
        let mut applied = self.applied.subscribe();
        let _ = tokio::time::timeout(APPLY_WAIT, applied.wait_for(|now| *now >= revision)).await;
    }
}

/// What one definition serves, kept while its spec stays the same.
struct Served {
    generation: i64,
    established: bool,
    deleting: bool,
    revision: u64,
    definition: Arc<Definition>,
    infos: Vec<Arc<ResourceInfo>>,
}

/// The task that follows the definitions.
pub(crate) struct Controller {
    server: Arc<Server>,
    home: Arc<Storage>,
    builtins: Vec<Arc<ResourceInfo>>,
    /// By uid.
    served: HashMap<String, Served>,
}

impl Controller {
    /// A controller that adds to the built-in resources.
    pub(crate) fn new(server: Arc<Server>, home: Arc<Storage>, builtins: Vec<Arc<ResourceInfo>>) -> Self {
        Self {
            server,
            home,
            builtins,
            served: HashMap::new(),
        }
    }

    /// Runs until the server stops.
    pub(crate) async fn run(mut self) {
        let cache = self.home.cache(&self.server);
        let mut news = cache.news();
        let stop = self.server.tasks.stop().clone();
        loop {
            news.borrow_and_update();
            self.apply().await;
            tokio::select! {
                () = stop.cancelled() => return,
                changed = news.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Brings what is served up to the definitions in the cache.
    pub(crate) async fn apply(&mut self) {
        let cache = self.home.cache(&self.server);
        cache.reach(0, self.server.options.request_timeout).await;
        let picture = cache.picture();
        let mut walk = picture.objects.walk();
        let mut kept = HashMap::new();
        let mut changed = false;
        while let Some(object) = walk.step() {
            let header = object.header();
            let uid = header.uid.to_string();
            match self.served.remove(&uid) {
                Some(served) if served.revision == header.resource_version => {
                    kept.insert(uid, served);
                }
                before => {
                    changed = true;
                    if let Some(served) = self.serve(object, before) {
                        kept.insert(uid, served);
                    }
                }
            }
        }
        // What is left is gone: its watches end.
        let gone = std::mem::replace(&mut self.served, kept);
        changed |= !gone.is_empty();
        gone.values().for_each(retire);
        if changed {
            self.publish();
        }
        self.server.definitions.applied.send_replace(picture.revision);
        self.reconcile(&picture.objects).await;
    }

    /// One definition that is new or changed.
    fn serve(&self, object: &Encoded, before: Option<Served>) -> Option<Served> {
        let Some(definition) = Definition::read(object) else {
            tracing::error!(name = %object.header().name, "definition is not readable and is not served");
            before.iter().for_each(retire);
            return None;
        };
        let revision = object.header().resource_version;
        let same = |before: &Served| {
            before.generation == definition.generation
                && before.established == definition.established
                && before.deleting == definition.deleting
        };
        match before {
            Some(before) if same(&before) => Some(Served { revision, ..before }),
            before => {
                let definition = Arc::new(definition);
                let spec_same = before
                    .as_ref()
                    .filter(|b| b.generation == definition.generation || definition.deleting);
                // A deleted definition goes on serving its objects from the same place until they are gone.
                let home = spec_same
                    .and_then(|before| before.infos.first())
                    .map(|info| Arc::clone(&info.home));
                if home.is_none() {
                    before.iter().for_each(retire);
                }
                let infos = self.infos(&definition, home);
                Some(Served {
                    generation: definition.generation,
                    established: definition.established,
                    deleting: definition.deleting,
                    revision,
                    definition,
                    infos,
                })
            }
        }
    }

    fn infos(&self, definition: &Arc<Definition>, home: Option<Arc<Storage>>) -> Vec<Arc<ResourceInfo>> {
        let Some(stored) = definition.stored().filter(|_| definition.established) else {
            return Vec::new();
        };
        let home = home.unwrap_or_else(|| {
            let defaults: Arc<dyn Defaults> = Arc::<CrdVersion>::clone(stored);
            let (group, plural) = (&definition.group, &definition.names.plural);
            let stop = self.server.tasks.stop();
            Arc::new(Storage::new(
                group,
                plural,
                definition.namespaced,
                Some(defaults),
                stop,
            ))
        });
        let served = definition.versions.iter().filter(|version| version.served);
        served
            .map(|version| Arc::new(ResourceInfo::custom(definition, version, stored, &home)))
            .collect()
    }

    fn publish(&self) {
        let mut all: Vec<&Served> = self.served.values().collect();
        all.sort_by(|a, b| a.definition.name.cmp(&b.definition.name));
        let infos = all.iter().flat_map(|served| &served.infos).cloned();
        let infos = self.builtins.iter().cloned().chain(infos).collect();
        let definitions = all.iter().map(|served| Arc::clone(&served.definition)).collect();
        self.server.definitions.all.store(Arc::new(definitions));
        self.server.resources.replace(infos);
    }

    /// Gives names to definitions that had to wait for them, and empties deleted ones.
    async fn reconcile(&self, objects: &crate::cache::map::PagedMap<Encoded>) {
        let mut waiting: Vec<_> = self
            .served
            .values()
            .filter(|s| !s.established && !s.deleting)
            .collect();
        waiting.sort_by(|a, b| a.definition.created.cmp(&b.definition.created));
        for served in waiting {
            let key = crate::cache::map::Key {
                namespace: "",
                name: &served.definition.name,
            };
            if objects.get(key).is_some()
                && let Err(status) = self.refresh(&served.definition.name).await
            {
                tracing::warn!(name = %served.definition.name, error = %status.message, "definition keeps its status");
            }
        }
        for served in self.served.values().filter(|served| served.deleting) {
            let uid = &served.definition.uid;
            if self.server.definitions.emptying.lock().insert(uid.clone()) {
                let emptier = Emptier {
                    server: Arc::clone(&self.server),
                    home: Arc::clone(&self.home),
                    objects: served.infos.first().map(|info| Arc::clone(&info.home)),
                    definition: Arc::clone(&served.definition),
                };
                self.server.tasks.spawn(emptier.run());
            }
        }
    }

    /// Recomputes a definition's status; written only when it changes.
    async fn refresh(&self, name: &str) -> Result<(), Status> {
        let store = &self.server.store;
        let Some(current) = commit::load(store, &self.home, "", name).await? else {
            return Ok(());
        };
        let mut object = decode(&current)?;
        let now = timestamp(self.server.clock.now());
        let definitions = self.server.definitions.all();
        status::refresh(&mut object, &now, definitions.iter().map(AsRef::as_ref));
        write(&self.server, current, &object).await.map(|_| ())
    }
}

fn retire(served: &Served) {
    if let Some(info) = served.infos.first() {
        info.home.retired().cancel();
    }
}

fn decode(current: &Current) -> Result<Object, Status> {
    current.object.decode().map_err(Status::internal)
}

async fn write(server: &Server, current: Current, object: &Object) -> Result<Written, Status> {
    let body = encode(object);
    if body == *current.object.body() {
        return Ok(Written::At(current.object.header().resource_version));
    }
    let key = current.kv.key.clone();
    let condition = commit::unchanged(key.clone(), current.kv.mod_revision.0);
    let trace = TraceContext::random();
    commit::put(&server.store, vec![condition], key, body, PutLease::Keep, trace).await
}

/// Deletes the objects of a deleted definition, then lets it go.
struct Emptier {
    server: Arc<Server>,
    home: Arc<Storage>,
    objects: Option<Arc<Storage>>,
    definition: Arc<Definition>,
}

impl Emptier {
    async fn run(self) {
        let stop = self.server.tasks.stop().clone();
        loop {
            let done = match self.step().await {
                Ok(done) => done,
                Err(status) => {
                    tracing::warn!(name = %self.definition.name, error = %status.message, "definition is not empty yet");
                    false
                }
            };
            if done {
                break;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(CLEANUP_PAUSE) => (),
            }
        }
        self.server
            .definitions
            .emptying
            .lock()
            .remove(&self.definition.uid);
    }

    /// Whether the definition is gone.
    async fn step(&self) -> Result<bool, Status> {
        if let Some(objects) = &self.objects
            && !self.delete_objects(objects).await?
        {
            return Ok(false);
        }
        let store = &self.server.store;
        let Some(current) = commit::load(store, &self.home, "", &self.definition.name).await? else {
            return Ok(true);
        };
        let mut object = decode(&current)?;
        if object::meta_text(&object, "uid") != self.definition.uid {
            return Ok(true);
        }
        let left: Vec<_> = object::finalizers(&object)
            .into_iter()
            .filter(|f| *f != FINALIZER)
            .collect();
        let written = if left.is_empty() {
            commit::delete(store, &current.kv, TraceContext::random()).await?
        } else {
            let left = serde_json::Value::from(left);
            meta_of(&mut object).insert("finalizers".to_owned(), left);
            write(&self.server, current, &object).await?
        };
        Ok(matches!(written, Written::At(_)))
    }

    /// Whether no object is left. Objects with finalizers are marked and waited for.
    async fn delete_objects(&self, objects: &Arc<Storage>) -> Result<bool, Status> {
        let cache = objects.cache(&self.server);
        let now = self.server.store.revision().await;
        let now = now.map_err(|error| crate::store_error::store_status(&error))?;
        let now = crate::cache::feed::revision_u64(now);
        if !cache.reach(now, self.server.options.request_timeout).await {
            return Ok(false);
        }
        let mut walk = cache.picture().objects.walk();
        let mut left = false;
        while let Some(object) = walk.step() {
            left = true;
            let header = object.header();
            let found = commit::load(&self.server.store, objects, &header.namespace, &header.name).await?;
            let Some(current) = found else { continue };
            let trace = TraceContext::random();
            if current.object.header().finalizers == 0 {
                commit::delete(&self.server.store, &current.kv, trace).await?;
            } else if !current.object.header().deleting {
                let mut object = decode(&current)?;
                let now = timestamp(self.server.clock.now());
                object::set_meta(&mut object, "deletionTimestamp", now);
                object::set_meta(&mut object, "deletionGracePeriodSeconds", 0);
                write(&self.server, current, &object).await?;
            }
        }
        Ok(!left)
    }
}
