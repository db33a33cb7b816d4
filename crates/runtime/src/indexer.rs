//! The store of an informer: objects by key, with indexes, always read as one snapshot.
//!
//! Behaviour of client-go `tools/cache/thread_safe_store.go`. Objects are immutable and cheap to clone, so
//! that a query answers with handles and holds the lock no longer than it takes to copy them.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::RwLock;

use crate::informer::ring::Notice;
use crate::key::ObjectKey;
use crate::queue::{Change, Delta};

/// An object that knows its version.
pub trait Versioned: Clone {
    /// `metadata.resourceVersion` as a number, 0 when it has none.
    fn resource_version(&self) -> u64;
}

/// The values under which an object is found in an index; none leaves it out.
pub type IndexFn<O> = Arc<dyn Fn(&O) -> Vec<String> + Send + Sync>;

/// A query named an index that was never added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no index is named {name:?}: add it with Informer::builder(..).index(..) or Indexer::add_index")]
pub struct UnknownIndex {
    /// The name asked for.
    pub name: String,
}

/// An index of this name is already there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an index named {name:?} is already there: choose another name")]
pub struct DuplicateIndex {
    /// The name given.
    pub name: String,
}

/// Objects by key and by declared indexes.
pub struct Indexer<O> {
    inner: RwLock<Inner<O>>,
}

struct Inner<O> {
    objects: HashMap<ObjectKey, O>,
    indexes: Vec<Index<O>>,
    resource_version: u64,
}

struct Index<O> {
    name: String,
    values_of: IndexFn<O>,
    keys: HashMap<String, BTreeSet<ObjectKey>>,
}

/// What a batch of deltas did.
pub(crate) type Notices<O> = Vec<(ObjectKey, Notice<O>)>;

impl<O: Versioned> Indexer<O> {
    /// An empty store without indexes.
    #[must_use]
    pub fn new() -> Self {
        Self {
            inner: RwLock::new(Inner {
                objects: HashMap::new(),
                indexes: Vec::new(),
                resource_version: 0,
            }),
        }
    }

    /// Adds an index, also when objects are already there.
    ///
    /// # Errors
    /// [`DuplicateIndex`] when the name is taken.
    pub fn add_index(&self, name: &str, values_of: IndexFn<O>) -> Result<(), DuplicateIndex> {
        let mut inner = self.inner.write();
        if inner.indexes.iter().any(|index| index.name == name) {
            return Err(DuplicateIndex {
                name: name.to_owned(),
            });
        }
        let mut index = Index {
            name: name.to_owned(),
            values_of,
            keys: HashMap::new(),
        };
        for (key, object) in &inner.objects {
            index.update(key, None, Some(object));
        }
        inner.indexes.push(index);
        Ok(())
    }

    /// The object of a key.
    #[must_use]
    pub fn get(&self, key: &ObjectKey) -> Option<O> {
        self.inner.read().objects.get(key).cloned()
    }

    /// Every object, in no order, as of one moment.
    #[must_use]
    pub fn list(&self) -> Vec<O> {
        self.inner.read().objects.values().cloned().collect()
    }

    /// Every key with its object, in no order, as of one moment.
    #[must_use]
    pub fn entries(&self) -> Vec<(ObjectKey, O)> {
        let inner = self.inner.read();
        inner
            .objects
            .iter()
            .map(|(key, object)| (key.clone(), object.clone()))
            .collect()
    }

    /// The objects that an index files under `value`, in key order.
    ///
    /// # Errors
    /// [`UnknownIndex`] when there is no such index.
    pub fn by_index(&self, name: &str, value: &str) -> Result<Vec<O>, UnknownIndex> {
        let inner = self.inner.read();
        let keys = inner.index(name)?.keys.get(value);
        Ok(keys
            .into_iter()
            .flatten()
            .filter_map(|key| inner.objects.get(key).cloned())
            .collect())
    }

    /// The keys that an index files under `value`, in order.
    ///
    /// # Errors
    /// [`UnknownIndex`] when there is no such index.
    pub fn index_keys(&self, name: &str, value: &str) -> Result<Vec<ObjectKey>, UnknownIndex> {
        let inner = self.inner.read();
        let keys = inner.index(name)?.keys.get(value);
        Ok(keys.into_iter().flatten().cloned().collect())
    }

    /// The values under which an index files anything, in no order.
    ///
    /// # Errors
    /// [`UnknownIndex`] when there is no such index.
    pub fn index_values(&self, name: &str) -> Result<Vec<String>, UnknownIndex> {
        Ok(self.inner.read().index(name)?.keys.keys().cloned().collect())
    }

    /// Objects held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.read().objects.len()
    }

    /// Whether no object is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The resource version up to which the store is complete: of the last object, list or bookmark
    /// applied. A write that returned a version not above it is visible here.
    #[must_use]
    pub fn resource_version(&self) -> u64 {
        self.inner.read().resource_version
    }

    /// Applies a batch in one step that readers see whole, and says what changed. `initial` marks
    /// additions as part of the first population.
    pub(crate) fn apply(&self, batch: Vec<Delta<O>>, initial: bool) -> Notices<O> {
        let mut notices = Vec::with_capacity(batch.len());
        let mut inner = self.inner.write();
        for delta in batch {
            match delta {
                Delta::Object { key, change, object } => {
                    inner.resource_version = inner.resource_version.max(object.resource_version());
                    let notice = match change {
                        Change::Deleted => inner.remove(&key).map(|_| Notice::Deleted {
                            object,
                            final_state_unknown: false,
                        }),
                        Change::Added | Change::Updated => Some(inner.put(key.clone(), object, initial)),
                    };
                    notices.extend(notice.map(|notice| (key, notice)));
                }
                Delta::ReplacedAll {
                    resource_version,
                    objects,
                } => inner.replace(resource_version, objects, initial, &mut notices),
                Delta::Bookmark { resource_version } => {
                    inner.resource_version = inner.resource_version.max(resource_version);
                }
                // A resync is told per handler, it changes nothing here.
                Delta::SyncAll => (),
            }
        }
        notices
    }
}

impl<O: Versioned> Default for Indexer<O> {
    fn default() -> Self {
        Self::new()
    }
}

impl<O> fmt::Debug for Indexer<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.inner.read();
        let indexes: Vec<_> = inner.indexes.iter().map(|index| &index.name).collect();
        f.debug_struct("Indexer")
            .field("objects", &inner.objects.len())
            .field("indexes", &indexes)
            .field("resource_version", &inner.resource_version)
            .finish()
    }
}

impl<O: Versioned> Inner<O> {
    fn index(&self, name: &str) -> Result<&Index<O>, UnknownIndex> {
        self.indexes
            .iter()
            .find(|index| index.name == name)
            .ok_or_else(|| UnknownIndex {
                name: name.to_owned(),
            })
    }

    fn put(&mut self, key: ObjectKey, object: O, initial: bool) -> Notice<O> {
        match self.objects.entry(key) {
            Entry::Occupied(mut slot) => {
                for index in &mut self.indexes {
                    index.update(slot.key(), Some(slot.get()), Some(&object));
                }
                let old = slot.insert(object.clone());
                Notice::Updated { old, new: object }
            }
            Entry::Vacant(slot) => {
                for index in &mut self.indexes {
                    index.update(slot.key(), None, Some(&object));
                }
                slot.insert(object.clone());
                Notice::Added { object, initial }
            }
        }
    }

    fn remove(&mut self, key: &ObjectKey) -> Option<O> {
        let object = self.objects.remove(key)?;
        for index in &mut self.indexes {
            index.update(key, Some(&object), None);
        }
        Some(object)
    }

    /// The store first, then the deletions, then the objects in list order (upstream's atomic replace).
    fn replace(
        &mut self,
        resource_version: u64,
        objects: Vec<(ObjectKey, O)>,
        initial: bool,
        notices: &mut Notices<O>,
    ) {
        // A list may come from a cache that lags: its version counts all the same, it is what we show now.
        self.resource_version = resource_version;
        let listed: std::collections::HashSet<&ObjectKey> = objects.iter().map(|(key, _)| key).collect();
        let vanished: Vec<ObjectKey> = self
            .objects
            .keys()
            .filter(|key| !listed.contains(key))
            .cloned()
            .collect();
        for key in vanished {
            if let Some(object) = self.remove(&key) {
                let notice = Notice::Deleted {
                    object,
                    final_state_unknown: true,
                };
                notices.push((key, notice));
            }
        }
        for (key, object) in objects {
            let notice = self.put(key.clone(), object, initial);
            // A relist mostly repeats what is known: saying so again would be a resync nobody asked for.
            if let Notice::Updated { old, new } = &notice
                && old.resource_version() == new.resource_version()
                && new.resource_version() != 0
            {
                continue;
            }
            notices.push((key, notice));
        }
    }
}

impl<O> Index<O> {
    fn update(&mut self, key: &ObjectKey, old: Option<&O>, new: Option<&O>) {
        let (before, after) = (self.values(key, old), self.values(key, new));
        if before == after {
            return;
        }
        for value in before.iter().filter(|value| !after.contains(value)) {
            if let Some(keys) = self.keys.get_mut(value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.keys.remove(value);
                }
            }
        }
        for value in after {
            if !before.contains(&value) {
                self.keys.entry(value).or_default().insert(key.clone());
            }
        }
    }

    /// An index function that panics leaves the object out of its index instead of stopping the informer.
    fn values(&self, key: &ObjectKey, object: Option<&O>) -> Vec<String> {
        let Some(object) = object else {
            return Vec::new();
        };
        catch_unwind(AssertUnwindSafe(|| (self.values_of)(object))).unwrap_or_else(|_| {
            tracing::error!(index = self.name, %key, "index function panicked, the object is not in the index");
            Vec::new()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An object of a version, filed under words.
    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Doc(u64, &'static str);

    impl Versioned for Doc {
        fn resource_version(&self) -> u64 {
            self.0
        }
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("ns", name)
    }

    fn put(name: &str, doc: Doc) -> Delta<Doc> {
        Delta::Object {
            key: key(name),
            change: Change::Updated,
            object: doc,
        }
    }

    fn delete(name: &str, doc: Doc) -> Delta<Doc> {
        Delta::Object {
            key: key(name),
            change: Change::Deleted,
            object: doc,
        }
    }

    fn by_word() -> Indexer<Doc> {
        let indexer = Indexer::new();
        let words: IndexFn<Doc> = Arc::new(|doc: &Doc| doc.1.split_whitespace().map(str::to_owned).collect());
        indexer.add_index("word", words).unwrap();
        indexer
    }

    #[track_caller]
    fn check(deltas: Vec<Delta<Doc>>, expect: &[(&str, &[&str])]) {
        let indexer = by_word();
        for delta in deltas {
            indexer.apply(vec![delta], false);
        }
        let mut values = indexer.index_values("word").unwrap();
        values.sort();
        let got: Vec<(String, Vec<String>)> = values
            .into_iter()
            .map(|value| {
                let keys = indexer.index_keys("word", &value).unwrap();
                (value, keys.iter().map(|key| key.name().to_owned()).collect())
            })
            .collect();
        let expect: Vec<(String, Vec<String>)> = expect
            .iter()
            .map(|(value, keys)| {
                (
                    (*value).to_owned(),
                    keys.iter().map(|key| (*key).to_owned()).collect(),
                )
            })
            .collect();
        assert_eq!(got, expect);
    }

    // TestThreadSafeStoreIndexingFunctionsWithMultipleValues, TestMultiIndexKeys
    #[test]
    fn an_object_is_filed_under_each_of_its_values() {
        check(
            vec![put("a", Doc(1, "red blue")), put("b", Doc(2, "blue"))],
            &[("blue", &["a", "b"]), ("red", &["a"])],
        );
    }

    // TestThreadSafeStoreDeleteRemovesEmptySetsFromIndex, ...AddKeepsNonEmptySetPostDeleteFromIndex
    #[test]
    fn a_value_without_objects_leaves_the_index() {
        check(
            vec![
                put("a", Doc(1, "red")),
                put("b", Doc(2, "red green")),
                delete("b", Doc(3, "red green")),
                put("a", Doc(4, "blue")),
            ],
            &[("blue", &["a"])],
        );
    }

    #[test]
    fn an_index_added_late_covers_what_is_there_and_its_name_is_taken_once() {
        let indexer = by_word();
        indexer.apply(vec![put("a", Doc(1, "red"))], false);
        let version: IndexFn<Doc> = Arc::new(|doc: &Doc| vec![doc.0.to_string()]);
        indexer.add_index("version", Arc::clone(&version)).unwrap();
        assert_eq!(indexer.by_index("version", "1").unwrap(), [Doc(1, "red")]);
        assert!(indexer.add_index("version", version).is_err());
        assert!(indexer.by_index("nope", "1").is_err());
    }

    // TestReplaceEvents (the_real_fifo_test.go)
    #[test]
    fn a_replace_tells_deletions_first_and_then_what_is_new_or_changed() {
        let indexer = by_word();
        indexer.apply(
            vec![
                put("gone", Doc(1, "")),
                put("same", Doc(2, "")),
                put("old", Doc(3, "")),
            ],
            false,
        );
        let notices = indexer.apply(
            vec![Delta::ReplacedAll {
                resource_version: 9,
                objects: vec![
                    (key("new"), Doc(8, "")),
                    (key("old"), Doc(9, "")),
                    (key("same"), Doc(2, "")),
                ],
            }],
            false,
        );
        let expect = [
            (
                key("gone"),
                Notice::Deleted {
                    object: Doc(1, ""),
                    final_state_unknown: true,
                },
            ),
            (
                key("new"),
                Notice::Added {
                    object: Doc(8, ""),
                    initial: false,
                },
            ),
            (
                key("old"),
                Notice::Updated {
                    old: Doc(3, ""),
                    new: Doc(9, ""),
                },
            ),
        ];
        assert_eq!(notices, expect);
        assert_eq!(indexer.resource_version(), 9);
    }

    // TestThreadSafeStoreRV
    #[test]
    fn the_store_version_follows_objects_and_bookmarks() {
        let indexer = by_word();
        indexer.apply(vec![put("a", Doc(5, ""))], false);
        assert_eq!(indexer.resource_version(), 5);
        indexer.apply(vec![Delta::Bookmark { resource_version: 8 }], false);
        assert_eq!(indexer.resource_version(), 8);
    }

    #[test]
    fn a_deletion_of_something_unknown_is_not_announced() {
        assert!(by_word().apply(vec![delete("a", Doc(1, ""))], false).is_empty());
    }

    // TestCacheTransactionShouldIndexErrors
    #[test]
    fn an_index_function_that_panics_costs_its_own_index_only() {
        let indexer = by_word();
        indexer
            .add_index("bad", Arc::new(|_: &Doc| panic!("no")))
            .unwrap();
        indexer.apply(vec![put("a", Doc(1, "red"))], false);
        assert_eq!(indexer.by_index("word", "red").unwrap().len(), 1);
    }
}
