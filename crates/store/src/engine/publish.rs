//! Makes a durable commit visible: memory, index, leases, side tables, watchers.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::shared::{Shared, Tip};
use crate::core::batch::Batch;
use crate::core::eval::Write;
use crate::core::index::{Location, Version};
use crate::core::meta::MetaWrite;
use crate::core::overlay::PENDING;
use crate::core::record::{self, OpRef};
use crate::core::select::kv;
use crate::log::hot::HotBatch;
use crate::log::writer::Appended;
use crate::plant::{self, Plant};
use crate::point::{self, Point};
use crate::types::{Event, EventKind, KeyValue, Revision};

/// Keys put into the index under one write lock, unless one revision has more.
const STEP: usize = 64;

/// What a record changes beside keys.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    None,
    Compact(i64),
    Grant { id: i64, ttl: i64 },
    Revoke(i64),
}

/// One record of a commit.
pub(crate) struct Commit {
    /// The store's revision after it.
    pub(crate) revision: i64,
    /// Where its record begins in the commit's buffer.
    pub(crate) start: u32,
    pub(crate) change: Change,
    pub(crate) writes: Vec<Write>,
    /// Changes to side tables.
    pub(crate) meta: Vec<MetaWrite>,
}

/// Publishes; the caller acknowledges afterwards.
pub(crate) fn publish(shared: &Arc<Shared>, mut commits: Vec<Commit>, appended: &Appended) {
    let file = appended.segment.number;
    for write in commits.iter_mut().flat_map(|commit| &mut commit.writes) {
        place(&mut write.version, file, appended.base);
        if let Some(prev) = &mut write.prev {
            place(prev, file, appended.base);
        }
    }
    let records = commits.len() as u64;
    // Exactly as large as it is: this copy is what stays in memory.
    let bytes = Bytes::copy_from_slice(&appended.bytes);
    let batch = batch(
        shared,
        &commits,
        &bytes,
        file,
        appended.base,
        appended.segment.header.salt,
    );
    for commit in commits.iter().filter(|commit| !commit.writes.is_empty()) {
        appended
            .segment
            .mark(commit.revision, appended.base + commit.start);
    }
    let offset = u64::from(appended.base) + bytes.len() as u64;
    let writes = || commits.iter().flat_map(|commit| &commit.writes);
    shared.hot.push(HotBatch {
        file,
        start: appended.base,
        bytes,
        batch: batch.clone(),
        events: writes().count(),
        prevs: writes().filter(|write| write.prev.is_some()).count(),
        watched: shared.feed.watchers() > 0,
    });
    apply(shared, &commits, &appended.segment);
    {
        let mut tip = shared.tip.lock();
        *tip = Tip {
            revision: shared.committed(),
            log_index: tip.log_index + records,
            segment: appended.segment.header.id,
            offset,
        };
    }
    point::hit(Point::Applied);
    // A new floor needs no announcement: cursors meet it when they read.
    if let Some(batch) = batch {
        shared.feed.publish(batch);
    }
}

fn place(version: &mut Version, file: u32, base: u32) {
    if version.at.file == PENDING {
        version.at.file = file;
        version.at.offset += base;
    }
}

/// Applies whole revisions, some at a time, so that readers get in between.
fn apply(shared: &Shared, commits: &[Commit], segment: &crate::log::files::Segment) {
    let mut rest = commits;
    while !rest.is_empty() {
        let mut keys = 0;
        let step = rest.iter().take_while(|commit| {
            let first = keys == 0;
            keys += commit.writes.len().max(1);
            first || keys <= STEP
        });
        let (now, later) = rest.split_at(step.count());
        let mut index = shared.index.write();
        let mut leases = shared.leases.lock();
        for commit in now {
            for write in &commit.writes {
                let before = write.prev.map_or(0, |prev| prev.lease);
                if before != write.version.lease {
                    leases.detach(before, &write.key);
                }
                if write.version.lease != 0 {
                    leases.attach(write.version.lease, &write.key);
                }
                index.apply_near(&write.key, write.version, write.near);
                segment.weigh(1, write.key.len(), write.version.at.len);
            }
            match commit.change {
                Change::None => (),
                Change::Compact(floor) => shared.floor.store(floor, Ordering::Release),
                Change::Grant { id, ttl } => leases.grant(id, ttl, tokio::time::Instant::now()),
                Change::Revoke(id) => drop(leases.revoke(id)),
            }
            if !commit.meta.is_empty() {
                let mut tables = shared.tables.write();
                commit.meta.iter().for_each(|write| tables.apply(&write.entry()));
                shared.tables_version.fetch_add(1, Ordering::Release);
                shared.room.read(&tables);
            }
            shared.committed.store(commit.revision, Ordering::Release);
        }
        shared.hot.beside(index.live());
        rest = later;
    }
}

/// What watchers get: made from the commit's own bytes when somebody wants it.
fn batch(
    shared: &Arc<Shared>,
    commits: &[Commit],
    bytes: &Bytes,
    file: u32,
    base: u32,
    salt: u64,
) -> Option<Arc<Batch>> {
    let mut with_events = commits.iter().filter(|commit| !commit.writes.is_empty());
    let first = with_events.next()?.revision;
    let last = with_events.next_back().map_or(first, |commit| commit.revision);
    let writes = commits.iter().flat_map(|commit| &commit.writes);
    // Of many writes, those of new keys have none.
    let prevs = (0..)
        .zip(writes)
        .filter_map(|(number, write)| Some((number, write.prev?)))
        .collect();
    let source = Source {
        shared: Arc::downgrade(shared),
        bytes: bytes.clone(),
        prevs,
        file,
        base,
        salt,
    };
    let make = Box::new(move || source.events());
    Some(Arc::new(Batch::deferred(Revision(first), Revision(last), make)))
}

/// A commit's bytes and where the previous versions lie.
struct Source {
    shared: std::sync::Weak<Shared>,
    bytes: Bytes,
    /// By the number of the write in the commit.
    prevs: Box<[(u32, Version)]>,
    file: u32,
    base: u32,
    salt: u64,
}

impl Source {
    fn events(&self) -> Vec<Arc<Event>> {
        let mut prevs = self.prevs.iter().peekable();
        let mut events = Vec::new();
        crate::log::scan::records(&self.bytes, self.base, self.salt, |offset, record| {
            for op in record.ops() {
                let number = events.len() as u32;
                let prev = prevs.next_if(|(of, _)| *of == number).map(|(_, prev)| *prev);
                let op = op?;
                let at = offset - self.base;
                let prev_kv = prev.and_then(|prev| self.prev(op.key(), &prev));
                events.push(Arc::new(event(&self.bytes, at as usize, record, &op, prev_kv)));
            }
            Ok(true)
        });
        if plant::has(Plant::ReorderedEvent) && events.len() > 1 {
            events.swap(0, 1);
        }
        events
    }

    fn prev(&self, key: &[u8], prev: &Version) -> Option<KeyValue> {
        let at = prev.at;
        let own = at.file == self.file && at.offset >= self.base;
        let value = if own {
            let from = (at.offset - self.base) as usize;
            self.bytes.slice(from..from + at.len as usize)
        } else {
            let shared = self.shared.upgrade()?;
            match shared.previous(key, prev)? {
                Ok(value) => value,
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "previous value not readable"
                    );
                    return None;
                }
            }
        };
        Some(kv(Bytes::copy_from_slice(key), value, prev))
    }
}

/// The event of one operation of a record that lies at `at` of `bytes`.
pub(crate) fn event(
    bytes: &Bytes,
    at: usize,
    record: &record::Record<'_>,
    op: &OpRef<'_>,
    prev_kv: Option<KeyValue>,
) -> Event {
    let modified = record.revision;
    let (kind, value, version) = match *op {
        OpRef::Delete { sub, .. } => (
            EventKind::Delete,
            Bytes::new(),
            Version {
                modified,
                sub,
                ..Version::default()
            },
        ),
        OpRef::Put {
            sub,
            value,
            value_at,
            lease,
            create,
            version,
            ..
        } => {
            let value = bytes.slice(at + value_at..at + value_at + value.len());
            let at = Location::default();
            (
                EventKind::Put,
                value,
                Version {
                    modified,
                    create,
                    version,
                    lease,
                    sub,
                    at,
                },
            )
        }
    };
    Event {
        kind,
        kv: kv(bytes.slice_ref(op.key()), value, &version),
        prev_kv,
        trace: record.trace,
        encoded: Default::default(),
    }
}
