//! The hub: takes commits from the writer, hands them to watchers on a thread of its own.
//!
//! The writer's part is [`Feed::publish`]: one short lock, one push, one wake-up if the dispatcher sleeps;
//! not even that while nobody watches. A dispatcher that falls [`RING_BATCHES`] behind loses the oldest
//! batches from the ring and reads them back from history.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::chorus::Texts;
use super::mailbox::{Mailbox, Name, Room};
use super::registry::{Filter, Registry};
use super::scan::Scans;
use super::slab::Slab;
use super::stream::WatchStream;
use crate::core::batch::{Batch, History};
use crate::error::Error;
use crate::options::Options;
use crate::point::{self, Point};
use crate::types::{Revision, WatchSpec};

/// Commits that may wait for the dispatcher.
const RING_BATCHES: usize = 256;
/// Bytes of events that may wait for one stream.
const STREAM_BYTES_MAX: usize = 4 << 20;
/// Bytes of history the dispatcher reads at once to fill a hole.
const HOLE_BYTES: usize = 1 << 20;

/// Where the writer leaves its commits. It knows neither watchers nor history, so that the engine can own it
/// while the hub's history is the engine.
#[derive(Default)]
pub(crate) struct Feed {
    ring: Mutex<Ring>,
    more: Condvar,
    watchers: AtomicU64,
}

/// Commits on their way to the dispatcher.
#[derive(Default)]
struct Ring {
    batches: VecDeque<Arc<Batch>>,
    /// Whether anybody watches.
    wanted: bool,
    asleep: bool,
    closed: bool,
}

impl Feed {
    /// Takes a commit. Called by the writer, in order, after [`History::committed`] covers it. O(1), and it
    /// never waits for a watcher.
    pub(crate) fn publish(&self, batch: Arc<Batch>) {
        let mut ring = self.ring.lock();
        if !ring.wanted {
            return;
        }
        // The dispatcher is far behind: it will miss the oldest and read it from history.
        let dropped = if ring.batches.len() >= RING_BATCHES {
            ring.batches.pop_front()
        } else {
            None
        };
        ring.batches.push_back(batch);
        let asleep = std::mem::take(&mut ring.asleep);
        drop(ring);
        if asleep {
            self.more.notify_one();
        }
        drop(dropped);
    }

    /// Watchers of all streams.
    pub(crate) fn watchers(&self) -> u64 {
        self.watchers.load(Ordering::Relaxed)
    }

    fn next(&self) -> Option<Arc<Batch>> {
        let mut ring = self.ring.lock();
        loop {
            if let Some(batch) = ring.batches.pop_front() {
                return Some(batch);
            }
            if ring.closed {
                return None;
            }
            ring.asleep = true;
            self.more.wait(&mut ring);
            ring.asleep = false;
        }
    }

    #[cfg(feature = "simulation")]
    fn try_next(&self) -> Option<Arc<Batch>> {
        self.ring.lock().batches.pop_front()
    }

    fn want(&self, wanted: bool) {
        let mut ring = self.ring.lock();
        ring.wanted = wanted;
        if !wanted {
            ring.batches.clear();
        }
    }

    fn close(&self) {
        self.ring.lock().closed = true;
        self.more.notify_one();
    }

    fn is_closed(&self) -> bool {
        self.ring.lock().closed
    }
}

/// How a hub behaves, from the store's [`Options`].
pub(super) struct Limits {
    pub(super) stream_watchers_max: usize,
    pub(super) progress_interval: Duration,
}

/// The watchers of one store. Cloning gives another handle.
#[derive(Clone)]
pub(crate) struct Hub(Arc<Inner>);

/// Lock order: registry, then a mailbox or the feed.
pub(super) struct Inner {
    pub(super) history: Arc<dyn History>,
    pub(super) scans: Scans,
    pub(super) texts: Texts,
    pub(super) limits: Limits,
    feed: Arc<Feed>,
    registry: Mutex<Registry>,
    streams: Mutex<Slab<Arc<Mailbox>>>,
}

/// Where a new watcher stands.
pub(super) struct Created {
    pub(super) key: u32,
    /// The store's revision.
    pub(super) now: Revision,
    /// The revision from which on its stream has to read history for it, if it is not listed.
    pub(super) cursor: Option<Revision>,
}

impl Hub {
    /// A hub over `history` that is told of commits by `feed`; its dispatcher is not running yet.
    pub(crate) fn new(history: Arc<dyn History>, feed: Arc<Feed>, options: &Options) -> Self {
        let room = Room {
            items_max: options.stream_updates_max.max(1),
            bytes_max: STREAM_BYTES_MAX,
        };
        Self(Arc::new(Inner {
            history,
            scans: Scans::default(),
            texts: Texts::default(),
            limits: Limits {
                stream_watchers_max: options.stream_watchers_max,
                progress_interval: options.progress_interval,
            },
            feed,
            registry: Mutex::new(Registry::new(room)),
            streams: Mutex::default(),
        }))
    }

    /// Hands out commits until [`Hub::close`], then what waits, then ends all streams. Runs on a thread of its
    /// own.
    pub(crate) fn dispatch(&self) {
        while let Some(batch) = self.0.feed.next() {
            self.0.dispatch(&batch);
        }
        self.end_streams();
    }

    /// Ends all streams: each when its mailbox is empty.
    pub(crate) fn end_streams(&self) {
        let streams = self.0.streams.lock();
        for mailbox in streams.keys().filter_map(|number| streams.get(number)) {
            mailbox.stop();
        }
    }

    /// Hands out the next commit, if there is one.
    #[cfg(feature = "simulation")]
    pub(crate) fn dispatch_one(&self) -> bool {
        let batch = self.0.feed.try_next();
        batch.as_ref().inspect(|batch| self.0.dispatch(batch)).is_some()
    }

    /// A new stream without watchers.
    pub(crate) fn stream(&self) -> WatchStream {
        let mailbox = Arc::new(Mailbox::default());
        // Held over the question, so that the dispatcher's end meets either the stream or its answer.
        let mut streams = self.0.streams.lock();
        let number = streams.insert(Arc::clone(&mailbox));
        if self.0.feed.is_closed() {
            mailbox.stop();
        }
        drop(streams);
        WatchStream::new(Arc::clone(&self.0), mailbox, number)
    }

    /// Refuses new watchers and ends the dispatcher; each stream ends when its mailbox is empty.
    pub(crate) fn close(&self) {
        self.0.feed.close();
    }
}

impl Inner {
    fn dispatch(&self, batch: &Batch) {
        loop {
            let next = {
                let registry = self.registry.lock();
                if registry.len() == 0 {
                    return;
                }
                registry.dispatched().next()
            };
            if batch.last < next {
                return;
            }
            if batch.first <= next {
                // May read previous values from disk, so before the lock is taken.
                let events = batch.events();
                point::hit(Point::Dispatching);
                return self.hand_out(|registry, wake| registry.dispatch(events, batch.last, wake));
            }
            self.fill_hole(next, batch.first);
        }
    }

    /// Dispatches from history what the ring has lost.
    fn fill_hole(&self, from: Revision, to: Revision) {
        match self.history.read(from, HOLE_BYTES, true) {
            Ok((events, until)) if until > from => {
                let last = Revision(until.0 - 1);
                self.hand_out(|registry, wake| registry.dispatch(&events, last, wake));
            }
            other => {
                if let Err(error) = other {
                    tracing::warn!(%from, %to, error = &error as &dyn std::error::Error, "watchers lost their place and read history by themselves");
                }
                self.hand_out(|registry, wake| registry.give_up(Revision(to.0 - 1), wake));
            }
        }
    }

    fn hand_out(&self, step: impl FnOnce(&mut Registry, &mut Vec<Arc<Mailbox>>)) {
        let mut wake = Vec::new();
        step(&mut self.registry.lock(), &mut wake);
        for mailbox in wake {
            mailbox.wake();
        }
    }

    /// Runs a step on the registry.
    pub(super) fn registry<T>(&self, step: impl FnOnce(&mut Registry) -> T) -> T {
        step(&mut self.registry.lock())
    }

    /// Adds a watcher to a stream.
    pub(super) fn create(
        &self,
        mailbox: &Arc<Mailbox>,
        name: Name,
        spec: &WatchSpec,
    ) -> Result<Created, Error> {
        if self.feed.is_closed() {
            return Err(Error::Stopped);
        }
        let filter = Filter {
            no_put: spec.no_put,
            no_delete: spec.no_delete,
        };
        let mut registry = self.registry.lock();
        if registry.len() == 0 {
            // From here on commits are published. One whose publication was left out was committed before, so
            // it is covered by what is read next; that is why the order matters.
            self.feed.want(true);
            registry.skip(self.history.committed());
        }
        let now = self.history.committed();
        let start = spec.start.filter(|start| start.0 > 0).unwrap_or(now.next());
        let key = registry.add(mailbox, name, spec.keys.clone(), filter);
        let cursor = (!registry.list(key, start)).then_some(start);
        self.count(&registry);
        Ok(Created { key, now, cursor })
    }

    /// Removes watchers.
    pub(super) fn remove(&self, keys: impl IntoIterator<Item = u32>) {
        let mut registry = self.registry.lock();
        for key in keys {
            registry.remove(key);
        }
        if registry.len() == 0 {
            self.feed.want(false);
            self.scans.clear();
        }
        self.count(&registry);
    }

    fn count(&self, registry: &Registry) {
        self.feed.watchers.store(registry.len() as u64, Ordering::Relaxed);
    }

    pub(super) fn close_stream(&self, number: u32) {
        self.streams.lock().remove(number);
    }
}
