//! WATCH: a cursor over a resource's events, written as an endless body.
//!
//! The cursor stands in the cache's ring; when it is older than the ring (a slow client, or a resume from
//! long ago) it reads the store's history and rejoins the ring once it has caught up. Only compaction cuts
//! it: then the body ends with an `ERROR` event, 410 Expired (apiserver `pkg/endpoints/handlers/watch.go`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use setpoint_apimachinery::encoded::Encoded;
use setpoint_apimachinery::status::Status;
use setpoint_base::Stop;
use setpoint_store::LogWatch;
use setpoint_store::types::{Event, EventKind, KeyRange, Revision, WatchSpec, WatchUpdate};
use tokio::time::{Instant, sleep_until};

use crate::cache::feed::revision_u64;
use crate::cache::map::Walk;
use crate::cache::ring::{CacheEvent, Change};
use crate::cache::{Cache, at_revision};
use crate::filter::Filter;
use crate::metrics::Gauge;
use crate::render::{Render, line};
use crate::server::Server;
use crate::storage::Storage;

/// Events taken from the ring at a time.
const BATCH: usize = 64;
/// Bytes of initial objects that are gathered into one frame.
const FRAME: usize = 32 << 10;
/// How long before its end a watch gets a last bookmark.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);

/// Where a watch begins.
pub(crate) enum Start {
    /// With the objects of a picture, then the events after it.
    Initial {
        /// The objects.
        objects: Walk<Encoded>,
        /// The picture's revision.
        revision: u64,
        /// The ring position after the picture.
        position: u64,
        /// Whether a bookmark says where the objects end (`sendInitialEvents`).
        mark_end: bool,
    },
    /// With the first event after a revision.
    After(u64),
}

/// What a watch is made of.
pub(crate) struct Setup {
    pub(crate) server: Arc<Server>,
    pub(crate) storage: Arc<Storage>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) filter: Filter,
    pub(crate) render: Box<dyn Render>,
    pub(crate) bookmarks: bool,
    pub(crate) timeout: Duration,
    /// Counts the watch while it is open.
    pub(crate) _open: Gauge,
}

enum Source {
    Initial {
        objects: Walk<Encoded>,
        mark_end: bool,
        position: u64,
    },
    Ring(u64),
    History(Box<LogWatch>),
    Done,
}

/// The body of a watch; [`Watch::next`] until `None`.
pub(crate) struct Watch {
    setup: Setup,
    source: Source,
    /// Everything up to here has been handed out or did not match.
    seen: u64,
    ready: VecDeque<Bytes>,
    scratch: BytesMut,
    news: tokio::sync::watch::Receiver<u64>,
    stop: Stop,
    retired: Stop,
    end: Instant,
    bookmark: Instant,
    last_bookmark_due: bool,
}

impl Watch {
    /// A watch that begins at `start`.
    pub(crate) fn new(setup: Setup, start: Start) -> Self {
        let now = Instant::now();
        let news = setup.cache.news();
        let (source, seen) = match start {
            Start::Initial {
                objects,
                revision,
                position,
                mark_end,
            } => (
                Source::Initial {
                    objects,
                    mark_end,
                    position,
                },
                revision,
            ),
            Start::After(revision) => (Self::resume(&setup, revision), revision),
        };
        Self {
            stop: setup.server.stop.clone(),
            retired: setup.storage.retired().clone(),
            end: now + setup.timeout,
            bookmark: now + jittered(setup.server.options.bookmark_interval),
            last_bookmark_due: setup.bookmarks && setup.timeout > LAST_BOOKMARK * 2,
            ready: VecDeque::new(),
            scratch: BytesMut::new(),
            setup,
            source,
            seen,
            news,
        }
    }

    /// The ring if it has everything after `revision`, else the store's history.
    fn resume(setup: &Setup, revision: u64) -> Source {
        if let Some(position) = setup.cache.position(revision) {
            return Source::Ring(position);
        }
        let from = Revision(i64::try_from(revision).unwrap_or(i64::MAX - 1)).next();
        let mut spec = WatchSpec::new(KeyRange::prefix(setup.storage.prefix()), Some(from));
        spec.prev_kv = true;
        let Ok(mut stream) = setup.server.store.watch(spec) else {
            return Source::Done;
        };
        // An answer that everything is delivered lets an idle watch leave the history again.
        stream.request_progress();
        Source::History(Box::new(stream))
    }

    /// The next bytes of the body; `None` at its end.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Some(bytes);
            }
            match &mut self.source {
                Source::Done => return None,
                Source::Initial { .. } => self.initial().await,
                Source::Ring(position) => {
                    let position = *position;
                    match self.setup.cache.read(position, BATCH) {
                        None => self.source = Self::resume(&self.setup, self.seen),
                        Some(events) if events.is_empty() => self.idle().await,
                        Some(events) => self.deliver(position, &events),
                    }
                }
                Source::History(_) => self.history().await,
            }
        }
    }

    /// One frame of initial objects, and the step into the ring after the last.
    async fn initial(&mut self) {
        let Source::Initial {
            objects,
            mark_end,
            position,
        } = &mut self.source
        else {
            return;
        };
        let (mut scanned, mut ended) = (0, false);
        while let Some(object) = objects.step() {
            scanned += 1;
            if self.setup.filter.beyond(object) {
                ended = true;
                break;
            }
            if self.setup.filter.matches(object)
                && self
                    .setup
                    .render
                    .event(Change::Added, object, &mut self.scratch)
                    .is_err()
            {
                self.source = Source::Done;
                return;
            }
            if self.scratch.len() >= FRAME || scanned >= 4096 {
                break;
            }
        }
        if ended || objects.peek().is_none() {
            if *mark_end {
                self.setup.render.bookmark(self.seen, true, &mut self.scratch);
            }
            self.source = Source::Ring(*position);
        } else if self.scratch.is_empty() {
            tokio::task::yield_now().await;
        }
        self.flush();
    }

    fn deliver(&mut self, position: u64, events: &[Arc<CacheEvent>]) {
        for event in events {
            self.send(event);
            self.seen = event.revision;
        }
        if !matches!(self.source, Source::Done) {
            self.source = Source::Ring(position + events.len() as u64);
        }
    }

    /// Writes an event as this watch sees it: an object that starts or stops to match appears or goes.
    fn send(&mut self, event: &CacheEvent) {
        let filter = &self.setup.filter;
        let now = event.change != Change::Deleted && filter.matches(&event.object);
        let before = event.prev.as_ref().is_some_and(|prev| filter.matches(prev));
        let render = self.setup.render.as_mut();
        let written = match (before, now) {
            (false, false) => return,
            (false, true) => line(render, event, Change::Added, &mut self.scratch),
            (true, true) => line(render, event, Change::Modified, &mut self.scratch),
            (true, false) if event.change == Change::Deleted => {
                line(render, event, Change::Deleted, &mut self.scratch)
            }
            (true, false) => {
                let trace = event.object.header().trace;
                let prev = event
                    .prev
                    .as_ref()
                    .and_then(|prev| at_revision(prev, event.revision, trace));
                let Some(prev) = prev else { return };
                render
                    .event(Change::Deleted, &prev, &mut self.scratch)
                    .map(|()| self.scratch.split().freeze())
            }
        };
        match written {
            Ok(bytes) => {
                self.setup.server.metrics.watch_events.inc();
                self.ready.push_back(bytes);
            }
            Err(status) => self.fail(&status),
        }
    }

    /// Waits for news in the ring, a bookmark's time, or the end.
    async fn idle(&mut self) {
        let bookmark = if self.last_bookmark_due {
            self.bookmark.min(self.end - LAST_BOOKMARK)
        } else {
            self.bookmark
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => self.source = Source::Done,
            () = self.retired.cancelled() => self.source = Source::Done,
            () = sleep_until(self.end) => self.source = Source::Done,
            () = sleep_until(bookmark), if self.setup.bookmarks => self.send_bookmark().await,
            changed = self.news.changed() => if changed.is_err() {
                self.source = Source::Done;
            },
        }
    }

    /// A bookmark at the newest revision that has nothing undelivered.
    async fn send_bookmark(&mut self) {
        let now = Instant::now();
        self.last_bookmark_due = self.last_bookmark_due && now + LAST_BOOKMARK < self.end;
        self.bookmark = now + jittered(self.setup.server.options.bookmark_interval);
        let current = revision_u64(self.setup.server.store.seen());
        self.setup.cache.reach(current, Duration::from_secs(1)).await;
        let (shown, end) = self.setup.cache.tip();
        if matches!(self.source, Source::Ring(position) if position == end) {
            self.seen = self.seen.max(shown);
        }
        self.setup.render.bookmark(self.seen, false, &mut self.scratch);
        self.flush();
    }

    /// One update of the store's history, and the step back into the ring when it is new enough.
    async fn history(&mut self) {
        let Source::History(stream) = &mut self.source else {
            return;
        };
        let update = tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            () = self.retired.cancelled() => None,
            () = sleep_until(self.end) => None,
            update = stream.next() => update.ok(),
        };
        match update {
            None | Some(WatchUpdate::Failed { .. }) => self.source = Source::Done,
            Some(WatchUpdate::Compacted { floor, .. }) => {
                self.fail(&Status::expired(format!(
                    "too old resource version: {} ({floor})",
                    self.seen
                )));
            }
            Some(WatchUpdate::Progress { revision, .. }) => self.rejoin(revision_u64(revision)).await,
            Some(WatchUpdate::Events { events, .. }) => {
                for event in &events {
                    match self.read_event(event) {
                        Some(event) => self.send(&event),
                        None => self.fail(&Status::expired(format!(
                            "too old resource version: {}: what was there before is compacted",
                            self.seen
                        ))),
                    }
                    if matches!(self.source, Source::Done) {
                        return;
                    }
                }
                if let Some(last) = events.last() {
                    self.rejoin(revision_u64(last.kv.mod_revision)).await;
                }
            }
        }
    }

    async fn rejoin(&mut self, revision: u64) {
        self.seen = self.seen.max(revision);
        // The ring may be a moment behind this stream; joining before it has come by would repeat events.
        let reached = self.setup.cache.reach(self.seen, Duration::from_secs(1)).await;
        if let (true, Source::History(_)) = (reached, &self.source)
            && let Some(position) = self.setup.cache.position(self.seen)
        {
            self.source = Source::Ring(position);
        }
    }

    /// A change read from history.
    fn read_event(&self, event: &Event) -> Option<CacheEvent> {
        let storage = &self.setup.storage;
        let revision = revision_u64(event.kv.mod_revision);
        let prev = event.prev_kv.as_ref().and_then(|kv| storage.read(kv, None));
        match event.kind {
            EventKind::Put => {
                let object = storage.read(&event.kv, event.trace)?;
                let change = if event.kv.version > 1 {
                    Change::Modified
                } else {
                    Change::Added
                };
                if prev.is_none() && change == Change::Modified && self.setup.filter.selects() {
                    return None; // Whether it matched before is not known any more.
                }
                let prev = prev.or_else(|| (change == Change::Modified).then(|| object.clone()));
                Some(CacheEvent::new(revision, change, object, prev))
            }
            EventKind::Delete => {
                let object = at_revision(prev.as_ref()?, revision, event.trace)?;
                Some(CacheEvent::new(revision, Change::Deleted, object, prev))
            }
        }
    }

    fn fail(&mut self, status: &Status) {
        self.setup.render.error(status, &mut self.scratch);
        self.flush();
        self.source = Source::Done;
    }

    fn flush(&mut self) {
        if !self.scratch.is_empty() {
            self.ready.push_back(self.scratch.split().freeze());
        }
    }
}

/// Spreads what many watches would do at the same moment.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.9 + 0.2 * fastrand::f64())
}
