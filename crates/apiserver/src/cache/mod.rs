//! The object cache of one resource: everything it has now, and its recent past.
//!
//! [`feed`] keeps it equal to the store by one list and one watch. Readers take a frozen picture
//! ([`Cache::picture`]) in O(1) and never make the feed wait for more than that. Objects are encoded bytes
//! with a small header; nothing here decodes them.

pub(crate) mod feed;
pub(crate) mod map;
pub(crate) mod ring;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use setpoint_apimachinery::encoded::Encoded;
use setpoint_base::TraceContext;
use tokio::sync::{Notify, watch};

use map::{Key, Keyed, PagedMap};
use ring::{CacheEvent, Change, Ring};

impl Keyed for Encoded {
    fn key(&self) -> Key<'_> {
        let header = self.header();
        Key {
            namespace: &header.namespace,
            name: &header.name,
        }
    }
}

/// Objects that are merged from several label values while readers are locked; more are filtered by the reader.
const UNION_MAX: usize = 4096;

/// The cache of one resource.
#[derive(Debug)]
pub(crate) struct Cache {
    state: RwLock<State>,
    /// The ring's end: wakes watches.
    events: watch::Sender<u64>,
    /// The state's revision, 0 until the first list is in: wakes consistent reads.
    revision: watch::Sender<u64>,
    /// A reader needs to know that nothing up to now is missing.
    progress: Notify,
}

#[derive(Debug)]
struct State {
    revision: u64,
    objects: PagedMap<Encoded>,
    /// By label: `key=value`, and `key` for "has the key".
    labels: HashMap<Box<str>, PagedMap<Encoded>>,
    ring: Ring,
}

/// A frozen view of some objects at a revision.
#[derive(Clone, Debug)]
pub(crate) struct Picture {
    /// The revision it shows.
    pub(crate) revision: u64,
    /// The objects; a superset of what a selector matches when one was given.
    pub(crate) objects: PagedMap<Encoded>,
}

/// An exact condition on labels that an index answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LabelTerm {
    /// The object has this label with one of these values.
    In(String, Vec<String>),
    /// The object has this label.
    Has(String),
}

impl Cache {
    /// An empty cache; [`feed::run`] fills it.
    pub(crate) fn new(ring_events_max: usize, ring_bytes_max: usize) -> Self {
        Self {
            state: RwLock::new(State {
                revision: 0,
                objects: PagedMap::default(),
                labels: HashMap::new(),
                ring: Ring::new(u64::MAX, ring_events_max, ring_bytes_max),
            }),
            events: watch::Sender::new(0),
            revision: watch::Sender::new(0),
            progress: Notify::new(),
        }
    }

    /// Waits until the cache shows `revision` (0: anything at all). `false` when `wait` was not enough.
    pub(crate) async fn reach(&self, revision: u64, wait: Duration) -> bool {
        let target = revision.max(1);
        let mut seen = self.revision.subscribe();
        if *seen.borrow_and_update() >= target {
            return true;
        }
        self.progress.notify_one();
        matches!(
            tokio::time::timeout(wait, seen.wait_for(|now| *now >= target)).await,
            Ok(Ok(_))
        )
    }

    /// Everything, now.
    pub(crate) fn picture(&self) -> Picture {
        let state = self.state.read();
        Picture {
            revision: state.revision,
            objects: state.objects.clone(),
        }
    }

    /// A view that contains at least the objects which satisfy all `terms`: the smallest that an index has.
    pub(crate) fn picture_of(&self, terms: &[LabelTerm]) -> Picture {
        let state = self.state.read();
        let mut best = state.objects.clone();
        for term in terms {
            let found = match term {
                LabelTerm::Has(key) => state.labels.get(key.as_str()).cloned().unwrap_or_default(),
                LabelTerm::In(key, values) => union(&state.labels, key, values, best.len()),
            };
            if found.len() < best.len() {
                best = found;
            }
        }
        Picture {
            revision: state.revision,
            objects: best,
        }
    }

    /// The revision shown now; 0 before the first list is in.
    pub(crate) fn shown(&self) -> u64 {
        self.state.read().revision
    }

    /// Wakes when events are added. Subscribe before reading, so that none is missed.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.events.subscribe()
    }

    /// The revision shown and the ring's end, taken together.
    pub(crate) fn tip(&self) -> (u64, u64) {
        let state = self.state.read();
        (state.revision, state.ring.end())
    }

    /// See [`Ring::position`].
    pub(crate) fn position(&self, revision: u64) -> Option<u64> {
        self.state.read().ring.position(revision)
    }

    /// See [`Ring::read`].
    pub(crate) fn read(&self, from: u64, max: usize) -> Option<Vec<Arc<CacheEvent>>> {
        self.state.read().ring.read(from, max)
    }

    /// A picture together with the ring position that continues it.
    pub(crate) fn picture_and_position(&self) -> (Picture, u64) {
        let state = self.state.read();
        let picture = Picture {
            revision: state.revision,
            objects: state.objects.clone(),
        };
        (picture, state.ring.end())
    }

    /// Replaces everything with a list at `revision`.
    fn replace(&self, objects: Vec<Encoded>, revision: u64) {
        let mut state = self.state.write();
        state.objects = PagedMap::default();
        state.labels.clear();
        for object in objects {
            state.put(&object);
        }
        state.revision = revision;
        state.ring.reset(revision);
        let end = state.ring.end();
        drop(state);
        self.events.send_replace(end);
        self.revision.send_replace(revision);
    }

    /// Applies changes in order. `shown` is the revision that is complete afterwards.
    fn apply(&self, changes: Vec<(u64, Incoming)>, shown: u64) {
        let mut state = self.state.write();
        let before = state.ring.end();
        for (revision, change) in changes {
            if let Some(event) = state.change(revision, change) {
                state.ring.push(Arc::new(event));
            }
        }
        state.revision = state.revision.max(shown);
        let (end, revision) = (state.ring.end(), state.revision);
        drop(state);
        if end != before {
            self.events.send_replace(end);
        }
        self.revision.send_replace(revision);
    }
}

/// What the feed brings.
enum Incoming {
    /// The object as it is now.
    Put(Encoded),
    /// Namespace and name of an object that is gone, and the trace of who deleted it.
    Delete(String, String, Option<TraceContext>),
}

impl State {
    fn change(&mut self, revision: u64, change: Incoming) -> Option<CacheEvent> {
        match change {
            Incoming::Put(object) => {
                let prev = self.put(&object);
                let change = if prev.is_some() {
                    Change::Modified
                } else {
                    Change::Added
                };
                Some(CacheEvent::new(revision, change, object, prev))
            }
            Incoming::Delete(namespace, name, trace) => {
                let key = Key {
                    namespace: &namespace,
                    name: &name,
                };
                let prev = self.objects.remove(key)?;
                self.unindex(&prev);
                let object = at_revision(&prev, revision, trace)?;
                Some(CacheEvent::new(revision, Change::Deleted, object, Some(prev)))
            }
        }
    }

    fn put(&mut self, object: &Encoded) -> Option<Encoded> {
        let prev = self.objects.insert(object.clone());
        if let Some(prev) = &prev {
            self.unindex(prev);
        }
        for term in label_terms(object) {
            self.labels.entry(term).or_default().insert(object.clone());
        }
        prev
    }

    fn unindex(&mut self, object: &Encoded) {
        for term in label_terms(object) {
            remove_from(&mut self.labels, &term, object);
        }
    }
}

/// The same object at another revision: deletions carry the revision of the delete.
pub(crate) fn at_revision(object: &Encoded, revision: u64, trace: Option<TraceContext>) -> Option<Encoded> {
    Encoded::stored(object.body().clone(), revision, trace).ok()
}

fn remove_from(index: &mut HashMap<Box<str>, PagedMap<Encoded>>, term: &str, object: &Encoded) {
    if let Some(map) = index.get_mut(term) {
        map.remove(object.key());
        if map.is_empty() {
            index.remove(term);
        }
    }
}

fn label_terms(object: &Encoded) -> Vec<Box<str>> {
    let labels = &object.header().labels;
    labels
        .iter()
        .flat_map(|(key, value)| [Box::from(key), format!("{key}={value}").into_boxed_str()])
        .collect()
}

/// The union of the postings of some values, unless it would not be smaller than `bound`.
fn union(
    labels: &HashMap<Box<str>, PagedMap<Encoded>>,
    key: &str,
    values: &[String],
    bound: usize,
) -> PagedMap<Encoded> {
    let found: Vec<_> = values
        .iter()
        .filter_map(|v| labels.get(format!("{key}={v}").as_str()))
        .collect();
    match found[..] {
        [] => PagedMap::default(),
        [only] => only.clone(),
        _ if found.iter().map(|map| map.len()).sum::<usize>() >= bound.min(UNION_MAX) => {
            labels.get(key).cloned().unwrap_or_default()
        }
        _ => {
            let mut all = PagedMap::default();
            for map in found {
                let mut walk = map.walk();
                while let Some(object) = walk.step() {
                    all.insert(object.clone());
                }
            }
            all
        }
    }
}
