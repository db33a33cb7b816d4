//! One event ring for all handlers of an informer, with a cursor per handler.
//!
//! Every handler sees every object's states in order. A handler that keeps up reads the ring. One that
//! falls a whole ring behind is taken off it: from then on only the latest state of each key is kept for
//! it, until it has caught up:
//!
//! ```text
//! ring      [a+ b+ a~ a~ b-]  capacity 5, fast handler at the end, slow one at the start
//! publish c+ ──► slow handler's latest = {a: added, c: added}     (b was never seen: nothing to tell)
//!                ring keeps what the others have not read
//! ```
//!
//! So a stalled handler costs at most one entry per live key, never an endless queue, and it never
//! delays the others. A handler that joins late starts in the same way: the present objects are its
//! latest states.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::key::ObjectKey;

/// What a handler is told about one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice<O> {
    /// It exists now.
    Added {
        /// Its state.
        object: O,
        /// It was there before this handler began to look (client-go `isInInitialList`).
        initial: bool,
    },
    /// It changed, or a resync repeats it: then both have the same resource version.
    Updated {
        /// The state told last, or the last one of an object that was deleted and made again meanwhile.
        old: O,
        /// The present state. A different UID means that it was deleted and made again.
        new: O,
    },
    /// It is gone.
    Deleted {
        /// The last state that is known.
        object: O,
        /// The deletion itself was not seen, so that later states may have existed (client-go
        /// `DeletedFinalStateUnknown`).
        final_state_unknown: bool,
    },
}

impl<O> Notice<O> {
    /// The newest state it carries.
    pub fn object(&self) -> &O {
        match self {
            Self::Added { object, .. } | Self::Deleted { object, .. } | Self::Updated { new: object, .. } => {
                object
            }
        }
    }
}

/// A notice with the key it is about.
pub type Record<O> = Arc<(ObjectKey, Notice<O>)>;

/// The name of a handler's cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CursorId(u64);

/// The ring without lock or waking.
#[derive(Debug)]
pub struct Ring<O> {
    records: VecDeque<Record<O>>,
    /// Sequence number of the first record held.
    first: u64,
    capacity: usize,
    cursors: BTreeMap<CursorId, Cursor<O>>,
    next_id: u64,
    /// The sequence number after the last record of the first population.
    synced_at: Option<u64>,
}

#[derive(Debug)]
struct Cursor<O> {
    place: Place<O>,
    synced: bool,
    resync: Option<(Duration, Instant)>,
}

#[derive(Debug)]
enum Place<O> {
    Ring { next: u64 },
    Latest(Latest<O>),
}

impl<O: Clone> Ring<O> {
    /// A ring of at most `capacity` records.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            records: VecDeque::new(),
            first: 0,
            capacity: capacity.max(1),
            cursors: BTreeMap::new(),
            next_id: 0,
            synced_at: None,
        }
    }

    /// Adds a handler that is first told of every object of `present`.
    pub fn subscribe(
        &mut self,
        present: impl IntoIterator<Item = (ObjectKey, O)>,
        resync: Option<Duration>,
        now: Instant,
    ) -> CursorId {
        let mut latest = Latest::default();
        for (key, object) in present {
            latest.fold(
                &key,
                &Notice::Added {
                    object,
                    initial: true,
                },
            );
        }
        let place = if latest.is_empty() {
            Place::Ring { next: self.end() }
        } else {
            Place::Latest(latest)
        };
        let id = CursorId(self.next_id);
        self.next_id += 1;
        self.cursors.insert(
            id,
            Cursor {
                place,
                synced: false,
                resync: resync.map(|period| (period, now + period)),
            },
        );
        id
    }

    /// Removes a handler; one that is not there is ignored.
    pub fn unsubscribe(&mut self, id: CursorId) {
        self.cursors.remove(&id);
        self.trim();
    }

    /// Appends records for every handler. Returns how many handlers fell behind because of it.
    pub fn publish(&mut self, notices: impl IntoIterator<Item = (ObjectKey, Notice<O>)>) -> usize {
        let mut behind = 0;
        for (key, notice) in notices {
            let mut reader = false;
            for cursor in self.cursors.values_mut() {
                match &mut cursor.place {
                    Place::Ring { .. } => reader = true,
                    Place::Latest(latest) => latest.fold(&key, &notice),
                }
            }
            if reader {
                self.records.push_back(Arc::new((key, notice)));
                if self.records.len() > self.capacity {
                    behind += self.evict();
                }
            } else {
                debug_assert!(self.records.is_empty(), "records without a reader are trimmed");
                self.first += 1;
            }
        }
        behind
    }

    /// Everything there was at first has been published.
    pub fn mark_synced(&mut self) {
        if self.synced_at.is_none() {
            self.synced_at = Some(self.end());
        }
    }

    /// Repeats the present objects to the handlers whose resync is due.
    pub fn resync(&mut self, present: &[(ObjectKey, O)], now: Instant) {
        let due: Vec<CursorId> = self
            .cursors
            .iter()
            .filter(|(_, cursor)| cursor.resync.is_some_and(|(_, next)| next <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            self.fall_back(id);
            let Some(cursor) = self.cursors.get_mut(&id) else {
                continue;
            };
            if let Place::Latest(latest) = &mut cursor.place {
                for (key, object) in present {
                    latest.repeat(key, object);
                }
            }
            cursor.resync = cursor.resync.map(|(period, _)| (period, now + period));
        }
        self.trim();
    }

    /// When the next resync of any handler is due.
    #[must_use]
    pub fn next_resync(&self) -> Option<Instant> {
        self.cursors
            .values()
            .filter_map(|cursor| cursor.resync.map(|(_, next)| next))
            .min()
    }

    /// The next records of a handler, at most `max`; taking again says that the last ones are handled.
    /// Empty means: nothing yet.
    pub fn take(&mut self, id: CursorId, max: usize) -> Vec<Record<O>> {
        let end = self.end();
        let Some(cursor) = self.cursors.get_mut(&id) else {
            return Vec::new();
        };
        if let Some(synced_at) = self.synced_at
            && !cursor.synced
        {
            cursor.synced = match &cursor.place {
                Place::Ring { next } => *next >= synced_at,
                Place::Latest(latest) => latest.initial == 0,
            };
        }
        let taken = match &mut cursor.place {
            Place::Ring { next } => {
                let from = usize::try_from(*next - self.first).unwrap_or(usize::MAX);
                let taken: Vec<_> = self.records.iter().skip(from).take(max).cloned().collect();
                *next += taken.len() as u64;
                taken
            }
            Place::Latest(latest) => {
                let taken = latest.take(max);
                // An emptied one still counts as unhandled until the next take: see `synced` above.
                if taken.is_empty() {
                    cursor.place = Place::Ring { next: end };
                }
                taken
            }
        };
        self.trim();
        taken
    }

    /// Whether the handler has handled everything that was there at first.
    #[must_use]
    pub fn has_synced(&self, id: CursorId) -> bool {
        self.cursors.get(&id).is_some_and(|cursor| cursor.synced)
    }

    /// Handlers subscribed.
    #[must_use]
    pub fn handlers(&self) -> usize {
        self.cursors.len()
    }

    /// Records held for everybody.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether no record is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    fn end(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    /// Takes the slowest handlers off the ring. Returns how many.
    fn evict(&mut self) -> usize {
        let first = self.first;
        let slow: Vec<CursorId> = self
            .cursors
            .iter()
            .filter(|(_, cursor)| matches!(cursor.place, Place::Ring { next } if next == first))
            .map(|(id, _)| *id)
            .collect();
        for id in &slow {
            self.fall_back(*id);
        }
        self.trim();
        slow.len()
    }

    /// Makes a handler's unread records its latest states.
    fn fall_back(&mut self, id: CursorId) {
        let Some(cursor) = self.cursors.get_mut(&id) else {
            return;
        };
        if let Place::Ring { next } = cursor.place {
            let from = usize::try_from(next - self.first).unwrap_or(usize::MAX);
            let mut latest = Latest::default();
            for record in self.records.iter().skip(from) {
                latest.fold(&record.0, &record.1);
            }
            cursor.place = Place::Latest(latest);
        }
    }

    /// Drops the records that every reader has taken.
    fn trim(&mut self) {
        let end = self.end();
        let keep = self
            .cursors
            .values()
            .filter_map(|cursor| match cursor.place {
                Place::Ring { next } => Some(next),
                Place::Latest(_) => None,
            })
            .min()
            .unwrap_or(end);
        let gone = usize::try_from(keep - self.first).unwrap_or(usize::MAX);
        self.records.drain(..gone.min(self.records.len()));
        self.first = keep;
        if self.records.is_empty() {
            self.records.shrink_to(64);
        }
    }
}

/// The latest state of each key that a handler has not been told yet.
#[derive(Debug)]
struct Latest<O> {
    entries: HashMap<ObjectKey, (u64, Entry<O>)>,
    order: BTreeMap<u64, ObjectKey>,
    sequence: u64,
    /// Entries of the initial list that are still here.
    initial: usize,
}

#[derive(Debug)]
struct Entry<O> {
    /// What the handler was told last, if it knows of the object at all.
    told: Option<O>,
    now: Now<O>,
    initial: bool,
}

#[derive(Debug)]
enum Now<O> {
    Present(O),
    Gone { object: O, final_state_unknown: bool },
}

impl<O> Default for Latest<O> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            order: BTreeMap::new(),
            sequence: 0,
            initial: 0,
        }
    }
}

impl<O: Clone> Latest<O> {
    fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn fold(&mut self, key: &ObjectKey, notice: &Notice<O>) {
        let (told, now, initial) = match notice {
            Notice::Added { object, initial } => (None, Now::Present(object.clone()), *initial),
            Notice::Updated { old, new } => (Some(old.clone()), Now::Present(new.clone()), false),
            Notice::Deleted {
                object,
                final_state_unknown,
            } => {
                let gone = Now::Gone {
                    object: object.clone(),
                    final_state_unknown: *final_state_unknown,
                };
                (Some(object.clone()), gone, false)
            }
        };
        let Some((sequence, entry)) = self.entries.get_mut(key) else {
            self.insert(key.clone(), Entry { told, now, initial });
            return;
        };
        if entry.told.is_none() && matches!(now, Now::Gone { .. }) {
            // It came and went unseen: there is nothing to tell.
            self.initial -= usize::from(entry.initial);
            self.order.remove(sequence);
            self.entries.remove(key);
        } else {
            entry.now = now;
        }
    }

    fn repeat(&mut self, key: &ObjectKey, object: &O) {
        if !self.entries.contains_key(key) {
            let entry = Entry {
                told: Some(object.clone()),
                now: Now::Present(object.clone()),
                initial: false,
            };
            self.insert(key.clone(), entry);
        }
    }

    fn insert(&mut self, key: ObjectKey, entry: Entry<O>) {
        self.initial += usize::from(entry.initial);
        self.order.insert(self.sequence, key.clone());
        self.entries.insert(key, (self.sequence, entry));
        self.sequence += 1;
    }

    fn take(&mut self, max: usize) -> Vec<Record<O>> {
        let mut taken = Vec::with_capacity(max.min(self.entries.len()));
        while taken.len() < max
            && let Some((_, key)) = self.order.pop_first()
        {
            let (_, entry) = self
                .entries
                .remove(&key)
                .expect("order and entries are changed together");
            self.initial -= usize::from(entry.initial);
            let notice = match (entry.told, entry.now) {
                (None, Now::Present(object)) => Notice::Added {
                    object,
                    initial: entry.initial,
                },
                (Some(old), Now::Present(new)) => Notice::Updated { old, new },
                (
                    _,
                    Now::Gone {
                        object,
                        final_state_unknown,
                    },
                ) => Notice::Deleted {
                    object,
                    final_state_unknown,
                },
            };
            taken.push(Arc::new((key, notice)));
        }
        taken
    }
}

#[cfg(test)]
mod tests;
