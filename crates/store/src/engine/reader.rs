//! Reads, on the caller's thread.
//!
//! A range of few keys in their own order is read under one lock (`give`). A long one, or one in another order, takes the
//! index's read lock for 512 keys at a time and goes on at the same revision, which is pinned meanwhile: the writer waits
//! for one step at most, and the reader still sees one moment.

use std::cell::Cell;

use bytes::{Bytes, BytesMut};

use super::give::few;
use super::kvs::Kvs;
use super::shared::Shared;
use crate::core::eval::{Eval, READ_BYTES_MAX, read_revision};
use crate::core::index::Index;
use crate::core::overlay::Overlay;
use crate::core::select::{Found, finish, wanted};
use crate::error::Error;
use crate::plant::{self, Plant};
use crate::point::{self, Point};
use crate::types::{KeyRange, Range, RangeResult, Revision, Txn, TxnResult};

/// Keys looked up under one lock.
pub(super) const STEP: usize = 512;

/// Serves a read at the newest durable state.
pub(crate) fn range(shared: &Shared, range: &Range) -> Result<RangeResult, Error> {
    shared.metrics.ranges.inc();
    if let Some((taken, given)) = few(shared, range, usize::MAX, |_| Kvs::default())? {
        return Ok(RangeResult {
            revision: Revision(given.revision),
            kvs: taken.kvs,
            more: given.more,
            count: given.count,
        });
    }
    let index = shared.index.read();
    let current = shared.committed();
    let floor = shared.floor();
    let asked = read_revision(range, current, floor)?;
    let stale = i64::from(plant::has(Plant::StaleRead));
    let revision = asked.unwrap_or((current - stale).max(floor));
    let wanted = wanted(range);
    let latest = revision == current;
    let mut count = latest.then(|| index.count(&range.keys) as i64);
    let mut found = collect(&index, &range.keys, revision, wanted.min(STEP));
    let values = shared.values();
    if found.len() < wanted.min(STEP) || (found.len() == wanted && count.is_some()) {
        drop(index);
        point::hit(Point::ReadLocated);
        let count = count.unwrap_or(found.len() as i64);
        return finish(range, found, count, current, &values);
    }
    let _pin = shared.pin(revision);
    drop(index);
    drop(values);
    walk_on(shared, range, revision, &mut found, &mut count, wanted);
    // Values are looked for under the table as it is now; the pin keeps their versions in the index, but a
    // rewrite may have moved them meanwhile.
    let values = relocate(shared, &mut found);
    finish(range, found, count.unwrap_or_default(), current, &values)
}

/// Whether a range of many keys holds few of them now.
pub(crate) fn holds_few(shared: &Shared, keys: &KeyRange, few: usize) -> bool {
    shared.index.read().count(keys) <= few as u64
}

/// Goes on after the first step; counts, too, unless the count is known.
fn walk_on(
    shared: &Shared,
    range: &Range,
    revision: i64,
    found: &mut Vec<Found>,
    count: &mut Option<i64>,
    wanted: usize,
) {
    let mut counted = found.len() as i64;
    let mut last = found.last().map(|found| found.key.clone());
    if wanted == 0 {
        last = None;
    }
    loop {
        let rest = match &last {
            Some(last) => after(&range.keys, last),
            None => Some(range.keys.clone()),
        };
        let Some(rest) = rest.filter(|_| found.len() < wanted || count.is_none()) else {
            break;
        };
        let step = collect(&shared.index.read(), &rest, revision, STEP);
        let more = step.len() == STEP;
        counted += step.len() as i64;
        last = step.last().map(|found| found.key.clone());
        let room = wanted - found.len();
        found.extend(step.into_iter().take(room));
        if !more {
            break;
        }
    }
    count.get_or_insert(counted);
}

fn collect(index: &Index, keys: &KeyRange, revision: i64, most: usize) -> Vec<Found> {
    let mut copies = Copies::default();
    let found = index.scan(keys, revision).take(most);
    found
        .map(|(key, version)| Found {
            key: copies.of(key),
            version: *version,
            value: None,
        })
        .collect()
}

/// Copies of keys that are made one after the other, many in one piece of memory.
pub(super) struct Copies {
    piece: BytesMut,
    /// Bytes of the next piece: the first are small, as most reads find few keys.
    next: usize,
}

impl Default for Copies {
    fn default() -> Self {
        Self {
            piece: BytesMut::new(),
            next: 128,
        }
    }
}

impl Copies {
    /// Whoever keeps one key for long keeps no more than so many bytes of others.
    const PIECE_MAX: usize = 4 << 10;

    pub(super) fn of(&mut self, key: &[u8]) -> Bytes {
        if self.piece.capacity() < key.len() {
            self.piece = BytesMut::with_capacity(self.next.max(key.len()));
            self.next = (2 * self.next).min(Self::PIECE_MAX);
        }
        self.piece.extend_from_slice(key);
        self.piece.split().freeze()
    }
}

/// The part of a range behind a key.
pub(super) fn after(range: &KeyRange, key: &[u8]) -> Option<KeyRange> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    match range {
        KeyRange::Key(_) => None,
        KeyRange::Span(_, end) => Some(KeyRange::Span(next.into(), end.clone())),
        KeyRange::From(_) => Some(KeyRange::From(next.into())),
    }
}

/// Takes the present files, and looks up again what is in a file that was replaced since.
pub(super) fn relocate<'a>(shared: &'a Shared, found: &mut [Found]) -> super::shared::LogValues<'a> {
    let index = shared.index.read();
    // One table for the question and for the reading: a file may leave the table even under the index's lock.
    let values = shared.values();
    for found in found {
        if !values.has(found.version.at)
            && let Some(version) = index.exact(&found.key, found.version.modified)
        {
            found.version.at = version.at;
        }
    }
    values
}

/// Serves a transaction that cannot write, at one durable state.
pub(crate) fn read_only_txn(shared: &Shared, txn: &Txn) -> Result<TxnResult, Error> {
    let index = shared.index.read();
    let mut eval = Eval {
        index: &index,
        values: &shared.values(),
        leases: None,
        overlay: &mut Overlay::default(),
        current: shared.committed(),
        floor: shared.floor(),
        full: false,
        writes: Vec::new(),
        left: Cell::new(READ_BYTES_MAX),
    };
    eval.txn(txn)
}
