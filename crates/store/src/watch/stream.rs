//! Many watchers with one consumer.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::cursor::{self, Cursor, Outcome};
use super::hub::{Inner, Ticket};
use crate::error::Error;
use crate::types::{Event, KeyRange, Revision, WatchSpec, WatchUpdate};

/// What the dispatcher has for one watcher.
pub(super) struct Queued {
    pub(super) id: i64,
    /// Tells a watcher from an earlier one with the same id.
    pub(super) serial: u64,
    pub(super) revision: Revision,
    pub(super) events: Vec<Arc<Event>>,
}

/// The dispatcher's word that a watcher has to read history from `next` on.
pub(super) struct Lagged {
    pub(super) serial: u64,
    pub(super) next: Revision,
    /// Its events before `next` are among the first `after` ever queued: they come first.
    pub(super) after: u64,
}

/// The part of a stream that the dispatcher sees.
#[derive(Default)]
pub(super) struct StreamShared {
    queue: Mutex<Queue>,
    news: Notify,
}

#[derive(Default)]
struct Queue {
    updates: VecDeque<Queued>,
    pushed: u64,
    lagged: Vec<Lagged>,
}

impl StreamShared {
    /// Queues an update and wakes the consumer; `false` when the queue is full.
    pub(super) fn push(&self, update: Queued, max: usize) -> bool {
        let mut queue = self.queue.lock();
        if queue.updates.len() >= max {
            return false;
        }
        queue.updates.push_back(update);
        queue.pushed += 1;
        drop(queue);
        self.wake();
        true
    }

    pub(super) fn lag(&self, mut lagged: Lagged) {
        let mut queue = self.queue.lock();
        lagged.after = queue.pushed;
        queue.lagged.push(lagged);
        drop(queue);
        self.wake();
    }

    pub(super) fn wake(&self) {
        self.news.notify_one();
    }
}

/// Many watchers that share one consumer. Dropping it removes them all.
///
/// ```no_run
/// # async fn example(store: setpoint_store::Store) -> Result<(), setpoint_store::Error> {
/// use setpoint_store::types::{KeyRange, WatchSpec, WatchUpdate};
/// let mut stream = store.watch();
/// let (id, now) = stream.create(WatchSpec::new(KeyRange::prefix(b"/registry/"), None))?;
/// while let Some(update) = stream.next().await {
///     if let WatchUpdate::Events { events, .. } = update {
///         // Everything after revision `now`, in order, each revision whole.
///         assert!(events.iter().all(|event| event.kv.mod_revision > now));
///     }
/// }
/// # let _ = id; Ok(()) }
/// ```
pub struct WatchStream {
    hub: Arc<Inner>,
    shared: Arc<StreamShared>,
    watchers: HashMap<i64, Watcher>,
    next_id: i64,
    /// Made here rather than by the dispatcher: from history, progress, compaction.
    ready: VecDeque<WatchUpdate>,
    /// Updates taken from the queue so far.
    popped: u64,
    /// Whether history has its turn before the queue: neither may starve the other.
    history_turn: bool,
    /// Answer a progress request once the head is above this.
    progress_above: Option<Revision>,
    tick: Option<Instant>,
}

struct Watcher {
    spec: WatchSpec,
    state: State,
    /// Whether anything was delivered since the last progress tick.
    active: bool,
}

enum State {
    Synced(Ticket),
    Lagging { next: Revision, after: u64 },
}

impl WatchStream {
    pub(super) fn new(hub: Arc<Inner>) -> Self {
        Self {
            hub,
            shared: Arc::default(),
            watchers: HashMap::new(),
            next_id: 0,
            ready: VecDeque::new(),
            popped: 0,
            history_turn: false,
            progress_above: None,
            tick: None,
        }
    }

    /// Adds a watcher; returns its id and the store's revision at that moment (it sees what comes after,
    /// or from `spec.start` on).
    ///
    /// # Errors
    /// [`Error::EmptyWatchRange`], [`Error::DuplicateWatchId`], [`Error::TooManyWatchers`],
    /// [`Error::Stopped`].
    pub fn create(&mut self, spec: WatchSpec) -> Result<(i64, Revision), Error> {
        if matches!(&spec.keys, KeyRange::Span(start, end) if end <= start) {
            return Err(Error::EmptyWatchRange);
        }
        if self.watchers.len() >= self.hub.stream_watchers_max {
            return Err(Error::TooManyWatchers);
        }
        let id = match spec.id {
            Some(id) if self.watchers.contains_key(&id) => return Err(Error::DuplicateWatchId(id)),
            Some(id) => id,
            None => self.unused_id(),
        };
        if spec.progress && self.tick.is_none() {
            self.tick = Some(self.next_tick());
        }
        let mut registry = self.hub.registry();
        // Under the registry's lock: the dispatcher has handed out nothing above what is committed now.
        let now = self.hub.history.committed();
        if self.hub.closed.load(Ordering::Acquire) {
            return Err(Error::Stopped);
        }
        let start = spec.start.unwrap_or(now.next());
        let state = if start > now {
            State::Synced(registry.attach(&self.shared, id, &spec, start))
        } else {
            State::Lagging {
                next: start,
                after: 0,
            }
        };
        drop(registry);
        self.hub.count_watchers(1, 0);
        self.watchers.insert(
            id,
            Watcher {
                spec,
                state,
                active: false,
            },
        );
        Ok((id, now))
    }

    /// Removes a watcher; nothing of it is delivered afterwards. Whether there was one.
    pub fn cancel(&mut self, id: i64) -> bool {
        let Some(watcher) = self.watchers.remove(&id) else {
            return false;
        };
        if let State::Synced(ticket) = watcher.state {
            self.hub.registry().detach(ticket);
        }
        self.ready.retain(|update| match update {
            WatchUpdate::Events { id: of, .. } | WatchUpdate::Compacted { id: of, .. } => *of != id,
            WatchUpdate::Progress { id: of, .. } => *of != Some(id),
        });
        self.hub.count_watchers(0, 1);
        true
    }

    /// Asks for one [`WatchUpdate::Progress`] with id `None`, at least at the present revision, once every
    /// watcher is synced. Not answered while a watcher starts in the future, as in etcd.
    pub fn request_progress(&mut self) {
        self.progress_above = Some(self.hub.history.committed());
    }

    /// Watchers on this stream.
    #[must_use]
    pub fn len(&self) -> usize {
        self.watchers.len()
    }

    /// Whether the stream has no watcher.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.watchers.is_empty()
    }

    /// The next update; `None` once the store stops, or can no longer read its log. Cancel-safe.
    pub async fn next(&mut self) -> Option<WatchUpdate> {
        let hub = Arc::clone(&self.hub);
        let shared = Arc::clone(&self.shared);
        let ended = hub.ended.notified();
        tokio::pin!(ended);
        ended.as_mut().enable();
        loop {
            if hub.closed.load(Ordering::Acquire) {
                return None;
            }
            match self.poll_once() {
                Ok(Some(update)) => return Some(update),
                Ok(None) => (),
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "watch stream ended");
                    return None;
                }
            }
            if self.has_work() {
                tokio::task::yield_now().await;
                continue;
            }
            let tick = self.tick;
            tokio::select! {
                () = shared.news.notified() => (),
                () = &mut ended => return None,
                () = sleep_until(tick.unwrap_or_else(Instant::now)), if tick.is_some() => (),
            }
        }
    }

    /// One step, without waiting.
    fn poll_once(&mut self) -> Result<Option<WatchUpdate>, Error> {
        self.absorb_lagged();
        if let Some(update) = self.ready.pop_front() {
            return Ok(Some(update));
        }
        if self.history_turn || self.queue_is_empty() {
            self.history_turn = false;
            self.read_history()?;
            if let Some(update) = self.ready.pop_front() {
                return Ok(Some(update));
            }
        }
        if let Some(update) = self.pop_queue() {
            self.history_turn = true;
            return Ok(Some(update));
        }
        self.send_progress();
        Ok(self.ready.pop_front())
    }

    /// Whether a further step could give something without news from outside.
    fn has_work(&self) -> bool {
        let cursors = self
            .watchers
            .values()
            .any(|watcher| matches!(watcher.state, State::Lagging { .. }));
        cursors || !self.queue_is_empty()
    }

    fn queue_is_empty(&self) -> bool {
        let queue = self.shared.queue.lock();
        queue.updates.is_empty() && queue.lagged.is_empty()
    }

    fn absorb_lagged(&mut self) {
        let lagged = std::mem::take(&mut self.shared.queue.lock().lagged);
        for Lagged { serial, next, after } in lagged {
            let watcher = self
                .watchers
                .values_mut()
                .find(|watcher| matches!(&watcher.state, State::Synced(ticket) if ticket.serial == serial));
            if let Some(watcher) = watcher {
                watcher.state = State::Lagging { next, after };
            }
        }
    }

    fn pop_queue(&mut self) -> Option<WatchUpdate> {
        loop {
            let queued = self.shared.queue.lock().updates.pop_front()?;
            self.popped += 1;
            // Of a cancelled watcher, or an earlier one with this id, nothing is delivered. A lagging one
            // takes what was queued before it fell behind.
            let Some(watcher) = self.watchers.get_mut(&queued.id) else {
                continue;
            };
            let current = match &watcher.state {
                State::Synced(ticket) => ticket.serial == queued.serial,
                State::Lagging { after, .. } => self.popped <= *after,
            };
            if current {
                watcher.active = true;
                let Queued {
                    id, revision, events, ..
                } = queued;
                return Some(WatchUpdate::Events { id, revision, events });
            }
        }
    }

    /// Moves the cursors by one chunk, then lets those that have arrived rejoin the head.
    fn read_history(&mut self) -> Result<(), Error> {
        let popped = self.popped;
        let mut cursors: Vec<Cursor<'_>> = Vec::new();
        for (id, watcher) in &self.watchers {
            if let State::Lagging { next, after } = watcher.state
                && after <= popped
            {
                cursors.push(Cursor {
                    id: *id,
                    spec: &watcher.spec,
                    next,
                    outcome: Outcome::Untouched,
                });
            }
        }
        if cursors.is_empty() {
            return Ok(());
        }
        cursor::step(&*self.hub.history, &mut cursors)?;
        let moved: Vec<_> = cursors
            .into_iter()
            .map(|cursor| (cursor.id, cursor.next, cursor.outcome))
            .collect();
        for (id, next, outcome) in moved {
            self.move_cursor(id, next, outcome);
        }
        self.rejoin();
        Ok(())
    }

    fn move_cursor(&mut self, id: i64, to: Revision, outcome: Outcome) {
        let Some(watcher) = self.watchers.get_mut(&id) else {
            return;
        };
        match outcome {
            Outcome::Untouched => (),
            Outcome::Moved(events) => {
                watcher.state = State::Lagging { next: to, after: 0 };
                if !events.is_empty() {
                    watcher.active = true;
                    self.ready.push_back(WatchUpdate::Events {
                        id,
                        revision: Revision(to.0 - 1),
                        events,
                    });
                }
            }
            Outcome::Compacted(floor) => {
                self.cancel(id);
                self.ready.push_back(WatchUpdate::Compacted { id, floor });
            }
        }
    }

    fn rejoin(&mut self) {
        let popped = self.popped;
        let committed = self.hub.history.committed();
        let mut registry = self.hub.registry();
        for (id, watcher) in &mut self.watchers {
            if let State::Lagging { next, after } = watcher.state
                && after <= popped
                && next > committed
                && next >= registry.head
            {
                watcher.state = State::Synced(registry.attach(&self.shared, *id, &watcher.spec, next));
            }
        }
    }

    /// Makes the progress updates that are due. Everything up to `head - 1` has then been taken from the
    /// queue: the dispatcher fills it under the lock that is held here.
    fn send_progress(&mut self) {
        let tick_due = self.tick.is_some_and(|tick| tick <= Instant::now());
        if self.progress_above.is_none() && !tick_due {
            return;
        }
        let mut registry = self.hub.registry();
        if self.has_work() {
            return;
        }
        let revision = Revision(registry.head.0 - 1);
        let started = |watcher: &Watcher| watcher.spec.start.is_none_or(|start| start <= revision);
        if let Some(above) = self.progress_above {
            if !self.watchers.values().all(started) {
                self.progress_above = None;
            } else if revision >= above {
                self.progress_above = None;
                self.ready.push_back(WatchUpdate::Progress { id: None, revision });
            } else {
                registry.await_head(&self.shared);
            }
        }
        drop(registry);
        if tick_due {
            for (id, watcher) in &mut self.watchers {
                let idle = !std::mem::take(&mut watcher.active);
                if idle && watcher.spec.progress && started(watcher) {
                    self.ready.push_back(WatchUpdate::Progress {
                        id: Some(*id),
                        revision,
                    });
                }
            }
            self.tick = Some(self.next_tick());
        }
    }

    fn next_tick(&self) -> Instant {
        Instant::now() + self.hub.progress_interval.mul_f64(1.0 + 0.1 * fastrand::f64())
    }

    fn unused_id(&mut self) -> i64 {
        while self.watchers.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        let mut registry = self.hub.registry();
        for watcher in self.watchers.values() {
            if let State::Synced(ticket) = watcher.state {
                registry.detach(ticket);
            }
        }
        drop(registry);
        self.hub.count_watchers(0, self.watchers.len() as u64);
    }
}
