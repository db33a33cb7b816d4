//! One watcher: what it asked for, how far it has come, what it has half received.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use bytes::Bytes;
use setpoint_proto::etcdserverpb as pb;
use setpoint_proto::mvccpb;

use super::listing::Listing;
use super::mailbox::Overflow;

use pb::watch_create_request::FilterType;
use pb::watch_request::RequestUnion;

/// What a watcher tells its owner.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// Events, in order, each revision whole and once.
    Events(Vec<mvccpb::Event>),
    /// Everything up to this revision has been delivered. The first item of a watcher that starts "now" is where
    /// that is.
    Progress(i64),
    /// History was lost between the last item and `revision`; this is what the range holds now.
    Resync(Resync),
}

/// A range read again, and what must have been deleted meanwhile.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resync {
    /// Every key of the range, in order, as it was at `revision`.
    pub snapshot: Vec<mvccpb::KeyValue>,
    /// The revision of the snapshot; events go on after it.
    pub revision: i64,
    /// Keys this watcher has reported that are gone: deletes that came with no event of their own, in key order.
    pub deleted: Vec<Tombstone>,
}

/// A key that went away while nobody looked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// The key.
    pub key: Bytes,
    /// The last revision of it that was reported.
    pub last_mod_revision: i64,
}

impl Item {
    /// Events, and bytes of keys and values.
    pub(crate) fn size(&self) -> (usize, usize) {
        let kv = |kv: &mvccpb::KeyValue| kv.key.len() + kv.value.len();
        match self {
            Self::Events(events) => {
                let bytes = |event: &mvccpb::Event| {
                    let parts = [&event.kv, &event.prev_kv];
                    parts.into_iter().flatten().map(kv).sum::<usize>()
                };
                (events.len(), events.iter().map(bytes).sum())
            }
            Self::Progress(_) => (0, 0),
            Self::Resync(resync) => {
                let deleted: usize = resync.deleted.iter().map(|gone| gone.key.len()).sum();
                (
                    resync.snapshot.len() + resync.deleted.len(),
                    resync.snapshot.iter().map(kv).sum::<usize>() + deleted,
                )
            }
        }
    }
}

/// What a watcher asks for.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) key: Bytes,
    pub(crate) range_end: Bytes,
    /// The first revision wanted; 0 is "from now".
    pub(crate) start: i64,
    /// Begin with a resync instead of with events.
    pub(crate) list_first: bool,
    /// After a compaction: read the range again, or end with an error.
    pub(crate) resync: bool,
    pub(crate) prev_kv: bool,
    pub(crate) progress: bool,
    pub(crate) no_put: bool,
    pub(crate) no_delete: bool,
    pub(crate) overflow: Overflow,
    pub(crate) counters: Arc<WatcherCounters>,
}

/// What one watcher went through; read while it runs.
#[derive(Debug, Default)]
pub(crate) struct WatcherCounters {
    pub(crate) events: AtomicU64,
    pub(crate) reconnects: AtomicU64,
    pub(crate) resyncs: AtomicU64,
    pub(crate) compactions: AtomicU64,
    pub(crate) duplicates: AtomicU64,
    pub(crate) parked: AtomicU64,
    pub(crate) head: AtomicI64,
    pub(crate) seen: AtomicI64,
}

pub(crate) fn count(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}

/// Where a watcher is.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Waits until its create request can be sent.
    Queued,
    /// The create request is sent, its answer has not come.
    Creating,
    /// The server knows it by this id.
    Active(i64),
    /// The range is being read again.
    Listing(Listing),
    /// The owner is behind: it is on no server until there is room.
    Parked,
}

/// A watcher as its stream sees it.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) spec: Spec,
    pub(crate) phase: Phase,
    pub(crate) position: Position,
    /// The parts of an answer whose end has not come.
    pub(crate) partial: Vec<mvccpb::Event>,
    /// Keys its owner believes to exist, with their revisions; kept only where a resync has to tell deletes.
    known: Option<HashMap<Bytes, i64>>,
    /// Its mailbox is full.
    pub(crate) full: bool,
    /// Refusals in a row for reasons of authentication, which a new token may cure.
    pub(crate) refusals: u32,
    /// It was on a server before: the next creation is a reconnect.
    pub(crate) resumed: bool,
    /// Its position is of the cluster that the stream was last on.
    pub(crate) has_past: bool,
    listings: u64,
}

impl Watched {
    pub(crate) fn new(spec: Spec) -> Self {
        let phase = if spec.list_first {
            Phase::Listing(Listing::new(0, &spec.key, &spec.range_end))
        } else {
            Phase::Queued
        };
        Self {
            position: Position::starting_at(spec.start),
            known: spec.resync.then(HashMap::new),
            phase,
            partial: Vec::new(),
            full: false,
            refusals: 0,
            resumed: false,
            has_past: false,
            listings: 0,
            spec,
        }
    }

    pub(crate) fn create_request(&self) -> pb::WatchRequest {
        let mut filters = Vec::new();
        if self.spec.no_put {
            filters.push(FilterType::Noput as i32);
        }
        if self.spec.no_delete {
            filters.push(FilterType::Nodelete as i32);
        }
        pb::WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(pb::WatchCreateRequest {
                key: self.spec.key.clone(),
                range_end: self.spec.range_end.clone(),
                start_revision: self.position.next,
                progress_notify: self.spec.progress,
                filters,
                prev_kv: self.spec.prev_kv,
                // The server chooses: answers come in the order of the requests.
                watch_id: 0,
                fragment: true,
            })),
        }
    }

    /// The stream is gone: what was on the server is not any more, a half-received answer is worth nothing.
    pub(crate) fn lost(&mut self) -> bool {
        self.partial = Vec::new();
        let was_there = matches!(self.phase, Phase::Creating | Phase::Active(_));
        if was_there {
            self.phase = Phase::Queued;
        }
        was_there
    }

    /// Reads the range again.
    pub(crate) fn relist(&mut self) {
        self.partial = Vec::new();
        self.listings += 1;
        let listing = Listing::new(self.listings, &self.spec.key, &self.spec.range_end);
        self.phase = Phase::Listing(listing);
    }

    /// What is new of a whole answer. Remembers it.
    pub(crate) fn admit(&mut self, events: Vec<mvccpb::Event>) -> Vec<mvccpb::Event> {
        let received = events.len();
        let fresh: Vec<_> = events
            .into_iter()
            .filter(|event| event.kv.as_ref().is_some_and(|kv| self.position.admit(kv)))
            .collect();
        let counters = &self.spec.counters;
        count(&counters.duplicates, received - fresh.len());
        count(&counters.events, fresh.len());
        counters.seen.store(self.position.next - 1, Ordering::Relaxed);
        self.remember(&fresh);
        fresh
    }

    fn remember(&mut self, events: &[mvccpb::Event]) {
        let Some(known) = &mut self.known else { return };
        for event in events {
            let Some(kv) = &event.kv else { continue };
            if event.r#type == mvccpb::event::EventType::Delete as i32 {
                known.remove(&kv.key);
            } else if let Some(revision) = known.get_mut(&kv.key) {
                *revision = kv.mod_revision;
            } else {
                // A copy: the key is kept for long, the message it came in is not.
                known.insert(Bytes::copy_from_slice(&kv.key), kv.mod_revision);
            }
        }
    }

    /// The range is this now: what the owner has to be told.
    pub(crate) fn resync(&mut self, snapshot: Vec<mvccpb::KeyValue>, revision: i64) -> Resync {
        let mut gone = self.known.take().unwrap_or_default();
        let mut known = HashMap::with_capacity(snapshot.len());
        for kv in &snapshot {
            gone.remove(&kv.key);
            known.insert(Bytes::copy_from_slice(&kv.key), kv.mod_revision);
        }
        let tombstone = |(key, last_mod_revision)| Tombstone {
            key,
            last_mod_revision,
        };
        let mut deleted: Vec<_> = gone.into_iter().map(tombstone).collect();
        deleted.sort_by(|a, b| a.key.cmp(&b.key));
        self.known = self.spec.resync.then_some(known);
        self.position = Position::starting_at(revision + 1);
        self.spec.counters.seen.store(revision, Ordering::Relaxed);
        self.phase = Phase::Queued;
        self.has_past = true;
        Resync {
            snapshot,
            revision,
            deleted,
        }
    }
}

/// How far a watcher has come.
#[derive(Debug)]
pub(crate) struct Position {
    /// The revision to resume at; 0: it has not been created yet and asked for "now".
    pub(crate) next: i64,
    /// Everything below is done with.
    floor: i64,
    /// Keys seen at the newest revision seen: a server that tells them again repeats itself.
    newest: (i64, HashSet<Bytes>),
}

impl Position {
    fn starting_at(next: i64) -> Self {
        Self {
            next,
            floor: next,
            newest: (0, HashSet::new()),
        }
    }

    /// The server created a watcher that asked for "now", at this revision: later events are its, this one is not.
    /// Says whether it did.
    pub(crate) fn pin(&mut self, revision: i64) -> bool {
        let from_now = self.next == 0;
        if from_now {
            *self = Self::starting_at(revision + 1);
        }
        from_now
    }

    /// Nothing up to `revision` is missing; says whether that is news.
    pub(crate) fn bookmark(&mut self, revision: i64) -> bool {
        let news = revision >= self.next;
        if news {
            *self = Self::starting_at(revision + 1);
        }
        news
    }

    /// Whether this version has not been seen before. Remembers it.
    fn admit(&mut self, kv: &mvccpb::KeyValue) -> bool {
        let (revision, keys) = &mut self.newest;
        if kv.mod_revision < self.floor || kv.mod_revision < *revision {
            return false;
        }
        if kv.mod_revision > *revision {
            *revision = kv.mod_revision;
            keys.clear();
        }
        self.next = kv.mod_revision + 1;
        keys.insert(kv.key.clone())
    }
}
