//! Registration, and the thread that hands commits to those who want them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::Notify;

use super::matcher::{Matcher, Slot};
use super::stream::{Lagged, Queued, StreamShared, WatchStream};
use crate::core::batch::{Batch, History};
use crate::error::Error;
use crate::options::Options;
use crate::types::{Event, EventKind, KeyRange, Revision, WatchSpec};

/// Commits that may wait for the dispatcher. When it is this far behind, the oldest are dropped and the
/// dispatcher reads them from history instead: the writer never waits.
const INBOX_BATCHES_MAX: usize = 256;
/// Bytes of history the dispatcher reads at once after it fell behind.
const CATCH_UP_BYTES: usize = 1 << 20;

/// The store's watchers. Cloning gives another handle.
#[derive(Clone)]
pub(crate) struct Hub(Arc<Inner>);

pub(super) struct Inner {
    pub(super) history: Arc<dyn History>,
    pub(super) stream_watchers_max: usize,
    pub(super) stream_updates_max: usize,
    pub(super) progress_interval: Duration,
    registry: Mutex<Registry>,
    feed: Arc<Feed>,
    pub(super) closed: AtomicBool,
    /// Told once, when the hub closes.
    pub(super) ended: Notify,
}

/// One registration. Slots are used again, so the serial tells whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    slot: Slot,
    pub(super) serial: u64,
}

/// Where the writer leaves its commits. It knows neither watchers nor history, so that the engine can own
/// it while the hub's history is the engine.
#[derive(Default)]
pub(crate) struct Feed {
    inbox: Mutex<Inbox>,
    arrived: Condvar,
    watchers: AtomicU64,
}

#[derive(Default)]
struct Inbox {
    batches: VecDeque<Arc<Batch>>,
    closed: bool,
}

impl Feed {
    /// Announces a commit. O(1), and never waits for a watcher.
    pub(crate) fn publish(&self, batch: Arc<Batch>) {
        let mut inbox = self.inbox.lock();
        if inbox.batches.len() >= INBOX_BATCHES_MAX {
            inbox.batches.pop_front();
        }
        inbox.batches.push_back(batch);
        drop(inbox);
        self.arrived.notify_one();
    }

    /// Watchers of all streams.
    pub(crate) fn watchers(&self) -> u64 {
        self.watchers.load(Ordering::Relaxed)
    }

    fn next(&self) -> Option<Arc<Batch>> {
        let mut inbox = self.inbox.lock();
        loop {
            if inbox.closed {
                return None;
            }
            if let Some(batch) = inbox.batches.pop_front() {
                return Some(batch);
            }
            self.arrived.wait(&mut inbox);
        }
    }

    fn close(&self) {
        self.inbox.lock().closed = true;
        self.arrived.notify_one();
    }
}

/// Who watches what. Locked by the dispatcher for one batch at a time, never by the writer.
pub(super) struct Registry {
    /// The next revision that the dispatcher will hand out: synced watchers have been given all below it.
    pub(super) head: Revision,
    serial: u64,
    matcher: Matcher,
    slots: Vec<Option<Registered>>,
    free: Vec<Slot>,
    /// Streams that wait for the head to pass a revision before they are told their progress.
    awaiting: Vec<Arc<StreamShared>>,
}

struct Registered {
    stream: Arc<StreamShared>,
    serial: u64,
    id: i64,
    keys: KeyRange,
    next: Revision,
    no_put: bool,
    no_delete: bool,
}

impl Hub {
    /// A hub over `history` that is told of commits by `feed`; its dispatcher is not running yet.
    pub(crate) fn new(history: Arc<dyn History>, feed: Arc<Feed>, options: &Options) -> Self {
        let head = history.committed().next();
        Self(Arc::new(Inner {
            history,
            stream_watchers_max: options.stream_watchers_max,
            stream_updates_max: options.stream_updates_max.max(1),
            progress_interval: options.progress_interval,
            registry: Mutex::new(Registry::new(head)),
            feed,
            closed: AtomicBool::new(false),
            ended: Notify::new(),
        }))
    }

    /// Hands out commits until [`Hub::close`]. Runs on a thread of its own.
    pub(crate) fn dispatch(&self) {
        self.0.dispatch();
    }

    /// A new stream without watchers.
    pub(crate) fn stream(&self) -> WatchStream {
        WatchStream::new(Arc::clone(&self.0))
    }

    /// Ends all streams and the dispatcher.
    pub(crate) fn close(&self) {
        self.0.feed.close();
        self.0.closed.store(true, Ordering::Release);
        self.0.ended.notify_waiters();
    }
}

impl Inner {
    pub(super) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock()
    }

    pub(super) fn count_watchers(&self, added: u64, removed: u64) {
        self.feed.watchers.fetch_add(added, Ordering::Relaxed);
        self.feed.watchers.fetch_sub(removed, Ordering::Relaxed);
    }

    fn dispatch(&self) {
        while let Some(batch) = self.feed.next() {
            // A closed store ends its streams, so an unreadable history ends the dispatcher's work too:
            // streams meet the same error when they read for themselves.
            if self.catch_up(batch.first).is_err() {
                tracing::error!(revision = %batch.first, "history cannot be read, watchers have to read for themselves");
                self.registry().detach_all(batch.last.next());
                continue;
            }
            let mut registry = self.registry();
            if batch.last < registry.head {
                continue;
            }
            if registry.is_empty() {
                registry.pass(batch.last.next()); // Nobody watches: the events are never made.
                continue;
            }
            registry.hand_out(batch.events(), batch.last.next(), self.stream_updates_max);
        }
    }

    /// Hands out what was dropped from the inbox, from history.
    fn catch_up(&self, until: Revision) -> Result<(), Error> {
        loop {
            let head = self.registry().head;
            if head >= until {
                return Ok(());
            }
            let (events, next) = match self.history.read(head, CATCH_UP_BYTES, true) {
                Ok(chunk) => chunk,
                // Nobody can be given these any more; those who needed them are told so.
                Err(Error::Compacted { floor, .. }) => {
                    self.registry().detach_all(floor.max(head.next()));
                    continue;
                }
                Err(error) => return Err(error),
            };
            if next <= head {
                return Ok(());
            }
            self.registry().hand_out(&events, next, self.stream_updates_max);
        }
    }
}

impl Registry {
    fn new(head: Revision) -> Self {
        Self {
            head,
            serial: 0,
            matcher: Matcher::default(),
            slots: Vec::new(),
            free: Vec::new(),
            awaiting: Vec::new(),
        }
    }

    /// Registers a synced watcher that wants everything from `next` on.
    pub(super) fn attach(
        &mut self,
        stream: &Arc<StreamShared>,
        id: i64,
        spec: &WatchSpec,
        next: Revision,
    ) -> Ticket {
        self.serial += 1;
        let serial = self.serial;
        let registered = Registered {
            stream: Arc::clone(stream),
            serial,
            id,
            keys: spec.keys.clone(),
            next,
            no_put: spec.no_put,
            no_delete: spec.no_delete,
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            Slot::try_from(self.slots.len() - 1).expect("fewer watchers than 4 billion fit in memory")
        });
        self.matcher.insert(&registered.keys, slot);
        self.slots[slot as usize] = Some(registered);
        Ticket { slot, serial }
    }

    /// Removes a synced watcher; one that the dispatcher has already made a cursor is not there any more.
    pub(super) fn detach(&mut self, ticket: Ticket) {
        let there = self.slots[ticket.slot as usize].as_ref();
        if there.is_some_and(|registered| registered.serial == ticket.serial) {
            self.free_slot(ticket.slot);
        }
    }

    fn free_slot(&mut self, slot: Slot) -> Option<Registered> {
        let registered = self.slots[slot as usize].take()?;
        self.matcher.remove(&registered.keys, slot);
        self.free.push(slot);
        Some(registered)
    }

    /// Makes a synced watcher a cursor that starts at `next`.
    fn lag(&mut self, slot: Slot, next: Revision) {
        if let Some(Registered { stream, serial, .. }) = self.free_slot(slot) {
            stream.lag(Lagged {
                serial,
                next,
                after: 0,
            });
        }
    }

    /// Promises to wake the stream when the head has passed a revision that it waits for.
    pub(super) fn await_head(&mut self, stream: &Arc<StreamShared>) {
        if !self.awaiting.iter().any(|waiting| Arc::ptr_eq(waiting, stream)) {
            self.awaiting.push(Arc::clone(stream));
        }
    }

    /// Gives the events of whole revisions to whom wants them; all revisions below `next` are then done.
    fn hand_out(&mut self, events: &[Arc<Event>], next: Revision, updates_max: usize) {
        let head = self.head;
        let mut matches: Vec<(Slot, Arc<Event>)> = Vec::new();
        for event in events.iter().filter(|event| event.kv.mod_revision >= head) {
            let slots = &self.slots;
            self.matcher.matching(&event.kv.key, &mut |slot| {
                if slots[slot as usize]
                    .as_ref()
                    .is_some_and(|registered| registered.wants(event))
                {
                    matches.push((slot, Arc::clone(event)));
                }
            });
        }
        // Stable: the events of one watcher stay in their order.
        matches.sort_by_key(|(slot, _)| *slot);
        let mut rest = &matches[..];
        while let Some((slot, _)) = rest.first() {
            let slot = *slot;
            let run = rest.partition_point(|(other, _)| *other == slot);
            self.give(
                slot,
                rest[..run].iter().map(|(_, event)| Arc::clone(event)).collect(),
                next,
                updates_max,
            );
            rest = &rest[run..];
        }
        self.pass(next);
    }

    fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Everything below `next` has been handed out.
    fn pass(&mut self, next: Revision) {
        self.head = next;
        for stream in self.awaiting.drain(..) {
            stream.wake();
        }
    }

    fn give(&mut self, slot: Slot, events: Vec<Arc<Event>>, next: Revision, updates_max: usize) {
        let Some(registered) = &self.slots[slot as usize] else {
            return; // Removed a moment ago; a slot is matched only while it is taken.
        };
        let first = events.first().map_or(next, |event| event.kv.mod_revision);
        let revision = Revision(next.0 - 1);
        let queued = Queued {
            id: registered.id,
            serial: registered.serial,
            revision,
            events,
        };
        if !registered.stream.push(queued, updates_max) {
            // Full: from here on this watcher is a cursor. Others of the stream follow when they have events.
            self.lag(slot, first);
        }
    }

    /// Turns every synced watcher into a cursor at the old head, which then meets the history's own answer.
    fn detach_all(&mut self, next: Revision) {
        for slot in 0..self.slots.len() {
            let slot = Slot::try_from(slot).expect("slots are numbered by Slot");
            if let Some(registered) = &self.slots[slot as usize] {
                self.lag(slot, registered.next.max(self.head));
            }
        }
        self.head = self.head.max(next);
    }
}

impl Registered {
    fn wants(&self, event: &Event) -> bool {
        let filtered = match event.kind {
            EventKind::Put => self.no_put,
            EventKind::Delete => self.no_delete,
        };
        !filtered && event.kv.mod_revision >= self.next
    }
}
