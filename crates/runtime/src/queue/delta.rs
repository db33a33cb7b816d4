//! The ordered, atomic delta queue between a watch and a store (client-go `the_real_fifo.go`, atomic mode).
//!
//! Deltas leave in the order they came, across keys. A relist is one [`Delta::ReplacedAll`], so that the
//! consumer swaps its store before anybody is told of a deletion; a resync is one [`Delta::SyncAll`]. The
//! queue never reads the store.
//!
//! Unlike upstream it is bounded. Past half of a bound it keeps only the newest delta of each key, in the
//! place of the oldest, which an informer's contract allows (intermediate states may be skipped):
//!
//! ```text
//! arrived    a:added  b:added  a:updated  b:deleted  c:added
//! kept       a:updated         b:deleted             c:added
//! ```
//!
//! At the bound it refuses, and the producer stops reading its watch.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::key::ObjectKey;

/// Something that occupies memory in a queue.
pub trait Payload {
    /// Bytes it holds, roughly.
    fn bytes(&self) -> usize;
}

/// What happened to one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The server says it is new.
    Added,
    /// The server says it changed.
    Updated,
    /// It is gone; the object is its last state.
    Deleted,
}

/// One entry of the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta<O> {
    /// A change of one object.
    Object {
        /// Which object.
        key: ObjectKey,
        /// What happened.
        change: Change,
        /// Its state, for a deletion the last one.
        object: O,
    },
    /// The whole set as of a resource version: what is not in it does not exist.
    ReplacedAll {
        /// The version of the list.
        resource_version: u64,
        /// Every object, in list order.
        objects: Vec<(ObjectKey, O)>,
    },
    /// Tell the handlers that are due about every object again.
    SyncAll,
    /// Nothing changed up to this resource version.
    Bookmark {
        /// The version reached.
        resource_version: u64,
    },
}

/// Bounds of a delta queue.
#[derive(Clone, Debug)]
pub struct DeltaLimits {
    /// Deltas held. From half of it on they are merged per key. Default 16,384.
    pub deltas_max: usize,
    /// Bytes of objects held, replaces aside. From half of it on they are merged. Default 64 MiB.
    pub bytes_max: usize,
    /// Deltas handed out at once. Default 1,000 (upstream's batch).
    pub batch_max: usize,
}

impl Default for DeltaLimits {
    fn default() -> Self {
        Self {
            deltas_max: 16_384,
            bytes_max: 64 << 20,
            batch_max: 1_000,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Population {
    /// No delta has come yet.
    Awaited,
    /// The first delta was a replace, which is not processed yet.
    Pending,
    /// Its replace is in a consumer's hands.
    InHand,
    /// Everything that was there at first has been processed.
    Complete,
}

/// The queue without lock or waiting.
#[derive(Debug)]
pub struct RealFifo<O> {
    deltas: VecDeque<Delta<O>>,
    /// Sequence number of the front.
    front: u64,
    /// While merging: where the delta of a key is, for those behind the last barrier.
    places: Option<HashMap<ObjectKey, u64>>,
    bytes: usize,
    limits: DeltaLimits,
    population: Population,
    merged: u64,
}

impl<O: Payload> RealFifo<O> {
    /// An empty queue.
    #[must_use]
    pub fn new(limits: DeltaLimits) -> Self {
        Self {
            deltas: VecDeque::new(),
            front: 0,
            places: None,
            bytes: 0,
            limits,
            population: Population::Awaited,
            merged: 0,
        }
    }

    /// Appends a delta, or gives it back when the queue is full: then stop producing until a pop.
    ///
    /// # Errors
    /// The delta, unchanged. A replace is never refused: its objects are in memory anyway, and it makes
    /// what a full queue holds superfluous.
    pub fn push(&mut self, delta: Delta<O>) -> Result<(), Delta<O>> {
        if self.places.is_none() && self.past_half() {
            self.begin_merging();
        }
        match delta {
            Delta::Object { key, change, object } => self.push_object(key, change, object)?,
            Delta::ReplacedAll { .. } => self.push_replace(delta),
            // Two of these in a row say no more than the last one.
            Delta::SyncAll => {
                if !matches!(self.deltas.back(), Some(Delta::SyncAll)) {
                    self.append(delta);
                    self.barrier();
                }
            }
            Delta::Bookmark { .. } => {
                if let Some(back @ Delta::Bookmark { .. }) = self.deltas.back_mut() {
                    *back = delta;
                } else {
                    self.append(delta);
                }
            }
        }
        Ok(())
    }

    /// The next deltas: many objects with distinct keys, or one of the other kinds. Empty when there is
    /// nothing. After processing them call [`RealFifo::processed`].
    pub fn pop_batch(&mut self) -> Vec<Delta<O>> {
        let mut batch = Vec::new();
        let mut keys = HashSet::new();
        while batch.len() < self.limits.batch_max {
            match self.deltas.front() {
                Some(Delta::Object { key, .. }) if keys.insert(key.clone()) => (),
                Some(Delta::ReplacedAll { .. } | Delta::SyncAll | Delta::Bookmark { .. })
                    if batch.is_empty() =>
                {
                    batch.extend(self.take_front());
                    break;
                }
                _ => break,
            }
            batch.extend(self.take_front());
        }
        if matches!(batch.first(), Some(Delta::ReplacedAll { .. })) && self.population == Population::Pending
        {
            self.population = Population::InHand;
        }
        if self.deltas.len() * 4 <= self.limits.deltas_max && self.bytes * 4 <= self.limits.bytes_max {
            self.places = None;
        }
        batch
    }

    /// The batch popped last is in the store and announced.
    pub fn processed(&mut self) {
        if self.population == Population::InHand {
            self.population = Population::Complete;
        }
    }

    /// Whether the first population has been processed (upstream `HasSynced`).
    #[must_use]
    pub fn has_synced(&self) -> bool {
        self.population == Population::Complete
    }

    /// Deltas held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.deltas.len()
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.deltas.is_empty()
    }

    /// Bytes of objects held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Deltas that were replaced by a newer one of the same key.
    #[must_use]
    pub fn merged(&self) -> u64 {
        self.merged
    }

    fn push_object(&mut self, key: ObjectKey, change: Change, object: O) -> Result<(), Delta<O>> {
        if self.population == Population::Awaited {
            self.population = Population::Complete;
        }
        if let Some(place) = self.places.as_ref().and_then(|places| places.get(&key)) {
            let index = usize::try_from(place - self.front).unwrap_or(usize::MAX);
            let slot = self
                .deltas
                .get_mut(index)
                .expect("a place is forgotten when its delta is popped");
            let delta = Delta::Object { key, change, object };
            self.bytes += size(&delta);
            self.bytes -= size(slot);
            *slot = delta;
            self.merged += 1;
            return Ok(());
        }
        let delta = Delta::Object { key, change, object };
        if self.full() {
            return Err(delta);
        }
        self.append(delta);
        Ok(())
    }

    fn push_replace(&mut self, delta: Delta<O>) {
        if self.population == Population::Awaited {
            self.population = Population::Pending;
        }
        if self.places.is_some() {
            self.merged += self.deltas.len() as u64;
            self.front += self.deltas.len() as u64;
            self.deltas.clear();
            self.bytes = 0;
        }
        self.append(delta);
        self.barrier();
    }

    fn append(&mut self, delta: Delta<O>) {
        if let (Some(places), Delta::Object { key, .. }) = (&mut self.places, &delta) {
            places.insert(key.clone(), self.front + self.deltas.len() as u64);
        }
        self.bytes += size(&delta);
        self.deltas.push_back(delta);
    }

    fn take_front(&mut self) -> Option<Delta<O>> {
        let delta = self.deltas.pop_front()?;
        if let (Some(places), Delta::Object { key, .. }) = (&mut self.places, &delta)
            && places.get(key) == Some(&self.front)
        {
            places.remove(key);
        }
        self.front += 1;
        self.bytes -= size(&delta);
        Some(delta)
    }

    /// Objects must not move across a replace or a sync.
    fn barrier(&mut self) {
        if let Some(places) = &mut self.places {
            places.clear();
        }
    }

    /// Merges what is held, once; from here on each push merges by itself.
    fn begin_merging(&mut self) {
        let held = std::mem::take(&mut self.deltas);
        self.front += held.len() as u64;
        self.bytes = 0;
        self.places = Some(HashMap::new());
        let count = held.len() as u64;
        for delta in held {
            let place = match &delta {
                Delta::Object { key, .. } => self.places.as_ref().and_then(|places| places.get(key)).copied(),
                _ => None,
            };
            if let Some(slot) = place
                .and_then(|place| usize::try_from(place - self.front).ok())
                .and_then(|index| self.deltas.get_mut(index))
            {
                self.bytes += size(&delta);
                self.bytes -= size(slot);
                *slot = delta;
                continue;
            }
            let barrier = matches!(delta, Delta::ReplacedAll { .. } | Delta::SyncAll);
            self.append(delta);
            if barrier {
                self.barrier();
            }
        }
        self.merged += count - self.deltas.len() as u64;
    }

    fn past_half(&self) -> bool {
        self.deltas.len() * 2 >= self.limits.deltas_max || self.bytes * 2 >= self.limits.bytes_max
    }

    fn full(&self) -> bool {
        self.deltas.len() >= self.limits.deltas_max || self.bytes >= self.limits.bytes_max
    }
}

/// A replace does not count: it is admitted whatever its size.
fn size<O: Payload>(delta: &Delta<O>) -> usize {
    match delta {
        Delta::Object { object, .. } => object.bytes(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
