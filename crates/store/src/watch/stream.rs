//! The consumer's side: many watchers, one sequence of updates.
//!
//! All state is in the stream and nothing is awaited but in [`WatchStream::next`], which is therefore
//! cancel-safe. Updates come from three places, taken in turns: the mailbox (what the dispatcher handed
//! over), history (for watchers that lag), and markers in the mailbox that become progress.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep_until};

use super::chorus::Manner;
use super::cursor::{CatchUp, Cursor};
use super::delivery::{Delivery, Step};
use super::hub::Inner;
use super::mailbox::{Item, Mailbox, Name};
use super::members::Members;
use super::scan::Chunk;
use crate::error::Error;
use crate::types::{Event, KeyRange, Revision, WatchSpec, WatchUpdate};

/// A chunk, or the revision from which on there is none.
type Read = Result<Arc<Chunk>, (Revision, Error)>;

type Scan = Pin<Box<dyn Future<Output = Result<Arc<Chunk>, Error>> + Send + Sync>>;

/// Many watchers that share one consumer. Dropping it removes them all.
pub struct WatchStream {
    hub: Arc<Inner>,
    mailbox: Arc<Mailbox>,
    number: u32,
    watchers: Members,
    next_id: i64,
    history: CatchUp,
    /// What is being read, and from which revision on.
    scan: Option<(Revision, Scan)>,
    /// Watchers that history has ended for, to be reported.
    ended: VecDeque<Step>,
    /// Whether history has the next turn.
    turn_of_history: bool,
    delivery: Delivery,
    progress: Progress,
    idle: Idle,
    /// The store has stopped while history was read.
    broken: bool,
}

/// The state of [`WatchStream::request_progress`].
#[derive(Default)]
struct Progress {
    /// Asked for, at this revision of the store.
    wanted: Option<Revision>,
    /// The answer is in the mailbox.
    marked: bool,
    /// The highest [`Member::quiet_below`](super::members::Member).
    quiet_below: Revision,
    /// The highest revision delivered from history.
    shown: Revision,
}

/// The state of progress on idle watchers.
struct Idle {
    /// Watchers that want it; whether nothing was sent to them since the last tick.
    quiet: BTreeMap<i64, bool>,
    interval: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// A tick is in the mailbox.
    marked: bool,
    /// Watchers to be told of a revision.
    due: (Revision, VecDeque<Name>),
}

impl WatchStream {
    pub(super) fn new(hub: Arc<Inner>, mailbox: Arc<Mailbox>, number: u32) -> Self {
        let interval = jittered(hub.limits.progress_interval, number);
        Self {
            hub,
            mailbox,
            number,
            watchers: Members::default(),
            next_id: 0,
            history: CatchUp::default(),
            scan: None,
            ended: VecDeque::new(),
            turn_of_history: false,
            delivery: Delivery::default(),
            progress: Progress::default(),
            idle: Idle {
                quiet: BTreeMap::new(),
                interval,
                timer: None,
                marked: false,
                due: Default::default(),
            },
            broken: false,
        }
    }

    /// Adds a watcher; returns its id and the store's revision at that moment (it sees what comes after,
    /// or from `spec.start` on). A start at 0 or below is no start.
    ///
    /// # Errors
    /// [`Error::EmptyWatchRange`], [`Error::DuplicateWatchId`], [`Error::TooManyWatchers`], [`Error::Stopped`].
    #[allow(clippy::needless_pass_by_value, reason = "a watcher owns its specification")]
    pub fn create(&mut self, spec: WatchSpec) -> Result<(i64, Revision), Error> {
        if matches!(&spec.keys, KeyRange::Span(start, end) if end <= start) {
            return Err(Error::EmptyWatchRange);
        }
        if self.watchers.len() >= self.hub.limits.stream_watchers_max {
            return Err(Error::TooManyWatchers);
        }
        let id = match spec.id {
            Some(id) if self.watchers.contains(id) => return Err(Error::DuplicateWatchId(id)),
            Some(id) => id,
            None => self.unused_id(),
        };
        let name = self.watchers.next_name(id);
        let created = self.hub.create(&self.mailbox, name, &spec)?;
        let quiet_below = spec.start.map_or(created.now, |start| start.max(created.now));
        self.progress.quiet_below = self.progress.quiet_below.max(quiet_below);
        self.watchers.add(id, created.key, quiet_below);
        if spec.progress {
            self.idle.quiet.insert(id, true);
        }
        if let Some(next) = created.cursor {
            self.add_cursor(name, created.key, next, 0, spec.prev_kv);
        }
        Ok((id, created.now))
    }

    /// Removes a watcher; nothing of it is delivered afterwards. Whether there was one.
    pub fn cancel(&mut self, id: i64) -> bool {
        let Some(name) = self.forget(id) else {
            return false;
        };
        self.history.remove(name);
        true
    }

    /// Asks for one [`WatchUpdate::Progress`] with id `None`, sent once every watcher has everything up to
    /// the store's present revision, and none is still to start. Asking again before the answer asks once.
    /// Without watchers there is no answer.
    pub fn request_progress(&mut self) {
        if !self.watchers.is_empty() {
            self.progress.wanted = Some(self.hub.history.committed());
        }
    }

    /// The next update; `None` once the store stops. Cancel-safe.
    pub async fn next(&mut self) -> Option<WatchUpdate> {
        let step = self.step().await?;
        Some(step.into_update(self.shown()))
    }

    /// As [`WatchStream::next`], for those who look at the events where they are.
    pub(crate) async fn step(&mut self) -> Option<Step> {
        poll_fn(|cx| self.poll_step(cx)).await
    }

    /// The next step without waiting; `None` when there is none at hand. Afterwards the stream has to be waited for
    /// anew.
    pub(crate) fn try_step(&mut self) -> Option<Option<Step>> {
        match self.poll_step(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready(step) => Some(step),
            Poll::Pending => None,
        }
    }

    /// The events of the newest step, if it was [`Step::Events`] and the next one has not been asked for.
    pub(crate) fn shown(&self) -> &[Arc<Event>] {
        self.delivery.events()
    }

    /// A number that stays as long as the same events are shown, and does not come again.
    pub(crate) fn showing(&self) -> u64 {
        self.delivery.number()
    }

    /// Watchers.
    pub(crate) fn len(&self) -> usize {
        self.watchers.len()
    }

    /// Watchers that get the events of the newest step, too, and get them next.
    pub(crate) fn alike(&self) -> usize {
        self.delivery.left()
    }

    /// What is said to the newest step's watcher and all that are alike, if it is worth sharing with other streams: `say`
    /// writes it, a message of `message_bytes` at most for each id, unless another stream has said the same in the same
    /// `manner`. All of them have been told then.
    pub(crate) fn in_chorus(
        &mut self,
        first: i64,
        (manner, message_bytes): (Manner, usize),
        say: impl FnOnce(&[Arc<Event>], &[i64]) -> Vec<u8>,
    ) -> Option<Bytes> {
        let (parcel, others) = self.delivery.crowd()?;
        if others.iter().any(|name| self.watchers.named(*name).is_none()) {
            return None;
        }
        let ids = std::iter::once(first).chain(others.iter().map(|name| name.id));
        let text = parcel
            .said
            .text(&self.hub.texts, ids, (manner, message_bytes), |ids| {
                say(&parcel.events, ids)
            })?;
        for name in others {
            if let Some(quiet) = self.idle.quiet.get_mut(&name.id) {
                *quiet = false;
            }
        }
        self.delivery.skip();
        Some(text)
    }

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Option<Step>> {
        let step = self.poll_any(cx);
        if !matches!(step, Poll::Ready(Some(Step::Events { .. }))) {
            self.delivery.hide();
        }
        step
    }

    fn poll_any(&mut self, cx: &mut Context<'_>) -> Poll<Option<Step>> {
        // Watchers of one parcel are served in one go: nothing that comes meanwhile may overtake.
        if let Some(step) = self.deliver() {
            return Poll::Ready(Some(step));
        }
        loop {
            let taken = self.look();
            self.poll_tick(cx);
            if self.turn_of_history
                && let Some(step) = self.take_past(cx, taken)
            {
                self.turn_of_history = false;
                return Poll::Ready(Some(step));
            }
            if let Some(step) = self.take_live() {
                self.turn_of_history = true;
                return Poll::Ready(Some(step));
            }
            // Taking what was left over may have let a cursor go on.
            let taken = self.look();
            if let Some(step) = self.take_past(cx, taken) {
                return Poll::Ready(Some(step));
            }
            if self.broken {
                return Poll::Ready(None);
            }
            if self.mark_all_synced() {
                continue;
            }
            let stopped = self.mailbox.is_stopped();
            match self.mailbox.poll(cx) {
                Poll::Ready(()) if stopped && !self.mailbox.has_items() => return Poll::Ready(None),
                Poll::Ready(()) => (),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Takes over watchers that the dispatcher had no room for.
    fn look(&mut self) -> u64 {
        let (lags, taken) = self.mailbox.look();
        for lag in lags {
            if let Some(key) = self.key(lag.name) {
                // Live events carry previous versions; from history they have to be asked for.
                self.add_cursor(lag.name, key, lag.next, lag.after, true);
            }
        }
        taken
    }

    fn add_cursor(&mut self, name: Name, key: u32, next: Revision, after: u64, prev_kv: bool) {
        if let Some((keys, filter)) = self.hub.registry(|registry| registry.wants(key)) {
            self.history.add(Cursor {
                name,
                key,
                keys,
                filter,
                prev_kv,
                next,
                after,
            });
        }
    }

    // --- from the mailbox ---

    fn take_live(&mut self) -> Option<Step> {
        loop {
            if let Some(step) = self.due() {
                return Some(step);
            }
            match self.mailbox.take()? {
                Item::Events(names, parcel) => {
                    let more = |names: &_, bytes_max| self.mailbox.take_more(names, bytes_max);
                    self.delivery.show(names, parcel, more);
                    if let Some(step) = self.deliver() {
                        return Some(step);
                    }
                }
                Item::AllSynced(revision) => {
                    self.progress.marked = false;
                    if self.holds_for_all(revision) {
                        return Some(Step::Progress { id: None, revision });
                    }
                    // A watcher made since then is not that far, or further.
                    self.progress.wanted = self.progress.wanted.max(Some(revision));
                }
                Item::Tick(revision) => self.tick(revision),
            }
        }
    }

    /// What is shown, for the next of those who are to see it.
    fn deliver(&mut self) -> Option<Step> {
        while let Some((name, revision)) = self.delivery.next() {
            // Unless it has been cancelled.
            if self.key(name).is_some() {
                return Some(self.seen_by(name, revision));
            }
        }
        None
    }

    fn seen_by(&mut self, name: Name, revision: Revision) -> Step {
        if let Some(quiet) = self.idle.quiet.get_mut(&name.id) {
            *quiet = false;
        }
        Step::Events {
            id: name.id,
            revision,
        }
    }

    // --- from history ---

    fn take_past(&mut self, cx: &mut Context<'_>, taken: u64) -> Option<Step> {
        while !self.broken {
            if let Some(step) = self.ended.pop_front() {
                return Some(step);
            }
            if let Some((name, events, revision)) = self.history.serve(taken) {
                self.progress.shown = self.progress.shown.max(revision);
                self.delivery.show_read(events);
                return Some(self.seen_by(name, revision));
            }
            self.list_those_who_caught_up();
            match self.poll_scan(cx, taken) {
                Poll::Ready(Some(Ok(chunk))) => self.history.offer(chunk),
                Poll::Ready(Some(Err((from, error)))) => self.failed(from, &error),
                Poll::Ready(None) | Poll::Pending => return None,
            }
        }
        None
    }

    /// Reads on, if there is a cursor that may go on. An error comes with the revision that was to be read.
    fn poll_scan(&mut self, cx: &mut Context<'_>, taken: u64) -> Poll<Option<Read>> {
        if self.scan.is_none() {
            let Some((from, prev_kv)) = self.history.choose(taken) else {
                return Poll::Ready(None);
            };
            let hub = Arc::clone(&self.hub);
            let history = Arc::clone(&hub.history);
            let scan = Box::pin(async move { hub.scans.read(history, from, prev_kv).await });
            self.scan = Some((from, scan));
        }
        let Some((from, scan)) = &mut self.scan else {
            return Poll::Ready(None);
        };
        let from = *from;
        let result = std::task::ready!(scan.as_mut().poll(cx)).map_err(|error| (from, error));
        self.scan = None;
        Poll::Ready(Some(result))
    }

    /// Ends the watchers that needed what could not be read. Those that are further on are served.
    fn failed(&mut self, from: Revision, error: &Error) {
        match error {
            Error::Stopped => self.broken = true,
            Error::Compacted { floor, .. } => {
                let floor = *floor;
                self.end(|cursor| cursor.next < floor, |id| Step::Compacted { id, floor });
            }
            _ => {
                let failed = |id| Step::Failed {
                    id,
                    error: error.clone(),
                };
                self.end(|cursor| cursor.next == from, failed);
            }
        }
    }

    fn end(&mut self, ends: impl Fn(&Cursor) -> bool, step: impl Fn(i64) -> Step) {
        for cursor in self.history.extract(ends) {
            let id = cursor.name.id;
            self.forget(id);
            self.ended.push_back(step(id));
        }
    }

    fn list_those_who_caught_up(&mut self) {
        if !self.history.is_empty() {
            let list = |cursors: &mut CatchUp| {
                self.hub
                    .registry(|registry| cursors.extract(|cursor| registry.list(cursor.key, cursor.next)))
            };
            list(&mut self.history);
        }
    }

    // --- progress ---

    /// Puts the answer to a request for progress in line, if all watchers are listed and far enough.
    fn mark_all_synced(&mut self) -> bool {
        let Some(wanted) = self.progress.wanted else {
            return false;
        };
        if self.progress.marked || !self.history.is_empty() || self.watchers.is_empty() {
            return false;
        }
        let enough = wanted.max(self.progress.quiet_below).max(self.progress.shown);
        let mailbox = &self.mailbox;
        // Under the registry's lock: what was dispatched so far is in the mailbox before the marker.
        let marked = self.hub.registry(|registry| {
            if registry.dispatched() >= enough {
                mailbox.mark(Item::AllSynced(registry.dispatched()));
                return true;
            }
            registry.wait(mailbox);
            false
        });
        if marked {
            self.progress.wanted = None;
            self.progress.marked = true;
        }
        marked
    }

    /// Whether progress at `revision` is true and new for every watcher.
    fn holds_for_all(&self, revision: Revision) -> bool {
        revision >= self.progress.quiet_below
            && revision >= self.progress.shown
            && self.history.behind(revision).next().is_none()
    }

    /// Puts a tick in line when it is time.
    fn poll_tick(&mut self, cx: &mut Context<'_>) {
        if self.idle.quiet.is_empty() {
            self.idle.timer = None;
            return;
        }
        let interval = self.idle.interval;
        let timer = self
            .idle
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + interval)));
        while timer.as_mut().poll(cx).is_ready() {
            timer.as_mut().reset(Instant::now() + interval);
            if !std::mem::replace(&mut self.idle.marked, true) {
                let mailbox = &self.mailbox;
                self.hub
                    .registry(|registry| mailbox.mark(Item::Tick(registry.dispatched())));
            }
        }
    }

    /// Finds the watchers that were idle until a tick and have everything up to its revision.
    fn tick(&mut self, revision: Revision) {
        self.idle.marked = false;
        let behind: HashSet<i64> = self.history.behind(revision).map(|name| name.id).collect();
        let watchers = &self.watchers;
        let due = self.idle.quiet.iter_mut().filter_map(|(id, quiet)| {
            let was_quiet = std::mem::replace(quiet, true);
            let member = watchers.get(*id)?;
            let tell = was_quiet && revision >= member.quiet_below && !behind.contains(id);
            watchers.name(*id).filter(|_| tell)
        });
        self.idle.due = (revision, due.collect());
    }

    fn due(&mut self) -> Option<Step> {
        let revision = self.idle.due.0;
        loop {
            let name = self.idle.due.1.pop_front()?;
            // A dispatcher that lags makes ticks of the past: history may have shown more since.
            if self.key(name).is_some() && revision >= self.progress.shown {
                return Some(Step::Progress {
                    id: Some(name.id),
                    revision,
                });
            }
        }
    }

    // --- watchers ---

    /// The next number that is not in use. Numbers are not given twice, as in etcd: an answer under way to a
    /// cancelled watcher would be taken for one to its successor.
    fn unused_id(&mut self) -> i64 {
        while self.watchers.contains(self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    /// The registry's key of a watcher, if it still is the one of that name.
    fn key(&self, name: Name) -> Option<u32> {
        self.watchers.named(name).map(|member| member.key)
    }

    fn forget(&mut self, id: i64) -> Option<Name> {
        let (name, member) = self.watchers.remove(id)?;
        self.hub.remove([member.key]);
        self.idle.quiet.remove(&id);
        if member.quiet_below == self.progress.quiet_below {
            let rest = self.watchers.iter().map(|member| member.quiet_below);
            self.progress.quiet_below = rest.max().unwrap_or_default();
        }
        Some(name)
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        self.hub.remove(self.watchers.iter().map(|member| member.key));
        self.hub.close_stream(self.number);
    }
}

impl std::fmt::Debug for WatchStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WatchStream")
            .field("watchers", &self.watchers.len())
            .finish_non_exhaustive()
    }
}

/// The interval and up to a tenth more, so that the streams of a store do not tick together.
fn jittered(interval: Duration, stream: u32) -> Duration {
    interval.mul_f64(1.0 + fastrand::Rng::with_seed(u64::from(stream)).f64() / 10.0)
}
