//! A wide read in two passes, so that its answer is never in memory as a whole.
//!
//! The first pass walks the index and shows every key that belongs to the answer, which is how its length on the wire
//! becomes known; it reads no value. The second gives the answer in pieces. The revision is pinned from the first to
//! the last, so both see the same keys whatever is written or compacted meanwhile, unless the client takes so long that
//! what it reads is given up ([`Error::Compacted`]). Each pass takes the index's lock
//! for [`HELD_KEYS`] keys at a time, and both [rest](Courtesy) while there are writes.
//!
//! An order other than by key is the exception: the keys found (not their values, unless it is them one sorts by) are
//! kept as a list.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::vec::IntoIter;

use super::give::{Giver, HELD_KEYS, Most, TOGETHER, Taker, step};
use super::pace::Courtesy;
use super::pins::Pin;
use super::reader::{after, relocate};
use super::shared::Shared;
use crate::core::check;
use crate::core::eval::read_revision;
use crate::core::index::Version;
use crate::core::select::{Found, RESULT_BYTES_MAX, passes, sort, wanted, weight};
use crate::error::Error;
use crate::types::{KeyRange, Range, Revision, SortTarget};

/// What the first pass finds out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Measure {
    /// The store's revision when the read began.
    pub(crate) revision: Revision,
    /// Keys of the answer.
    pub(crate) keys: usize,
    /// Keys in the range, whatever the limit and the bounds.
    pub(crate) count: i64,
    /// Whether the limit cuts the answer.
    pub(crate) more: bool,
}

/// A read that has begun.
pub(crate) struct Scan {
    pin: Pin<Arc<Shared>>,
    range: Range,
    measure: Measure,
    /// Keys still to be given.
    left: usize,
    rest: Rest,
    courtesy: Courtesy,
}

enum Rest {
    /// Keys in their own order, from here on; `None` at the end.
    Walk(Option<KeyRange>),
    /// Keys in another order.
    List(IntoIter<Found>),
}

impl Scan {
    /// The first pass: shows the length of each key of the answer and its version, in any order.
    ///
    /// # Errors
    /// As [`Store::range`](crate::Store::range).
    pub(crate) fn begin(
        shared: &Arc<Shared>,
        range: Range,
        show: &mut dyn FnMut(usize, &Version),
    ) -> Result<Self, Error> {
        check::range(&range)?;
        shared.metrics.ranges.inc();
        let index = shared.index.read();
        let current = shared.committed();
        let revision = read_revision(&range, current, shared.floor())?.unwrap_or(current);
        let count = (revision == current).then(|| index.count(&range.keys) as i64);
        let pin = shared.pin_for_a_while(revision);
        drop(index);
        let mut scan = Self {
            pin,
            rest: Rest::Walk(Some(range.keys.clone())),
            range,
            measure: Measure::default(),
            left: 0,
            courtesy: Courtesy::new(shared),
        };
        scan.measure = if let Some((target, descending)) = scan.range.sort.filter(|_| !scan.range.count_only)
        {
            scan.list(target, descending, show)?
        } else {
            scan.survey(count.is_some(), show)
        };
        scan.measure.revision = Revision(current);
        scan.measure.count = count.unwrap_or(scan.measure.count);
        scan.left = scan.measure.keys;
        Ok(scan)
    }

    pub(crate) fn measure(&self) -> Measure {
        self.measure
    }

    /// Keys still to be given.
    pub(crate) fn left(&self) -> usize {
        self.left
    }

    /// The second pass: gives the next keys, at most `keys_max` (at least 1) of them, and no more after `bytes_max` bytes
    /// of values. Nothing at the end.
    ///
    /// # Errors
    /// [`Error::Read`] when a value does not read back; [`Error::Compacted`] when it has taken too long.
    pub(crate) fn give(
        &mut self,
        keys_max: usize,
        bytes_max: usize,
        taker: &mut impl Taker,
    ) -> Result<(), Error> {
        let mut most = Most {
            keys: keys_max.max(1).min(self.left),
            bytes: bytes_max.max(1),
        };
        while !most.is_reached() && self.left > 0 {
            let given = match &mut self.rest {
                Rest::List(list) => give_listed(&self.pin, &self.range, list, &mut most, taker)?,
                Rest::Walk(None) => return Err(Error::Read("a pinned revision lost keys".to_owned())),
                Rest::Walk(rest) => step(&self.pin, &self.range, rest, &mut most, taker)?,
            };
            self.left -= given;
            self.courtesy.breathe(self.pin.shared());
        }
        Ok(())
    }

    /// Walks the range; goes on counting behind the limit, unless the count is known.
    fn survey(&self, counted: bool, show: &mut dyn FnMut(usize, &Version)) -> Measure {
        let limit = match self.range.limit {
            0 => usize::MAX,
            limit => limit,
        };
        let mut measure = Measure::default();
        if counted && self.range.count_only {
            return measure;
        }
        self.walk(&mut |key, version| {
            measure.count += 1;
            if !self.range.count_only && passes(&self.range, version) {
                if measure.keys < limit {
                    measure.keys += 1;
                    show(key.len(), version);
                } else {
                    measure.more = true;
                }
            }
            if measure.more && counted {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        measure
    }

    /// Collects the keys of the answer and puts them in order.
    fn list(
        &mut self,
        target: SortTarget,
        descending: bool,
        show: &mut dyn FnMut(usize, &Version),
    ) -> Result<Measure, Error> {
        let (mut measure, mut found) = (Measure::default(), Vec::new());
        let wanted = wanted(&self.range);
        self.walk(&mut |key, version| {
            measure.count += 1;
            if found.len() < wanted && passes(&self.range, version) {
                found.push(Found::new((key, version)));
            }
            ControlFlow::Continue(())
        });
        let shared = Arc::clone(self.pin.shared());
        if target == SortTarget::Value && weight(&self.range, &found) > RESULT_BYTES_MAX {
            return Err(Error::ResultTooLarge);
        }
        let values = relocate(&shared, &mut found);
        sort(&mut found, target, descending, &values)?;
        if self.range.limit > 0 && found.len() > self.range.limit {
            found.truncate(self.range.limit);
            measure.more = true;
        }
        for found in &mut found {
            found.value = None;
            show(found.key.len(), &found.version);
        }
        measure.keys = found.len();
        self.rest = Rest::List(found.into_iter());
        Ok(measure)
    }

    /// Visits the keys that the read sees, in their own order.
    fn walk(&self, visit: &mut dyn FnMut(&[u8], &Version) -> ControlFlow<()>) {
        let shared = self.pin.shared();
        let mut courtesy = Courtesy::new(shared);
        let mut rest = Some(self.range.keys.clone());
        while let Some(keys) = rest.take() {
            courtesy.breathe(shared);
            let index = shared.index.read();
            let mut last: Option<&[u8]> = None;
            for (n, (key, version)) in index.scan(&keys, self.pin.revision()).enumerate() {
                if n == HELD_KEYS {
                    rest = last.and_then(|last| after(&keys, last));
                    break;
                }
                if visit(key, version).is_break() {
                    return;
                }
                last = Some(key);
            }
        }
    }
}

/// Gives the next keys of a list.
fn give_listed(
    pin: &Pin<Arc<Shared>>,
    range: &Range,
    list: &mut IntoIter<Found>,
    most: &mut Most,
    taker: &mut impl Taker,
) -> Result<usize, Error> {
    let mut found = Vec::new();
    while !most.is_reached() && found.len() < HELD_KEYS {
        let Some(next) = list.next() else { break };
        most.keys -= 1;
        most.bytes = most.bytes.saturating_sub(next.version.at.len as usize);
        found.push(next);
    }
    let shared = pin.shared();
    let index = shared.index.read();
    pin.check()?;
    let mut giver = Giver::<TOGETHER>::new(shared, range);
    for (left, found) in (0..found.len()).rev().zip(&found) {
        // It may lie in another file by now; its version is pinned.
        let version = index.exact(&found.key, found.version.modified);
        giver.give(&found.key, version.unwrap_or(&found.version), left, taker);
    }
    let unread = giver.end(taker);
    drop(index);
    unread.read(taker)?;
    Ok(found.len())
}
