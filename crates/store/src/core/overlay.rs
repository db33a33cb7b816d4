//! Writes of the commit that is being put together: newer than the index, not yet durable.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use bytes::Bytes;

use super::index::{Index, Near, Version};
use super::select::Found;
use crate::types::KeyRange;

/// The file number of places in the commit that is being put together.
pub(crate) const PENDING: u32 = u32::MAX;

#[derive(Debug)]
struct Pending {
    version: Version,
    value: Bytes,
}

/// Uncommitted writes and leases, in order of keys.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    keys: BTreeMap<Bytes, Vec<Pending>>,
    /// Whether any of them ever hung on a lease.
    leased: bool,
    /// Granted (true) or revoked (false).
    leases: HashMap<i64, bool>,
}

impl Overlay {
    pub(crate) fn write(&mut self, key: Bytes, version: Version, value: Bytes) {
        self.leased |= version.lease != 0;
        // As a rule a commit writes a key once.
        let versions = self.keys.entry(key).or_insert_with(|| Vec::with_capacity(1));
        versions.push(Pending { version, value });
    }

    /// Takes back the newest write of a key.
    pub(crate) fn take_back(&mut self, key: &Bytes) {
        if let Some(versions) = self.keys.get_mut(key) {
            versions.pop();
            if versions.is_empty() {
                self.keys.remove(key);
            }
        }
    }

    /// Says where in the commit's buffer the newest value of a key went.
    pub(crate) fn place(&mut self, key: &Bytes, offset: u32) {
        if let Some(newest) = self.keys.get_mut(key).and_then(|versions| versions.last_mut()) {
            newest.version.at.offset = offset;
        }
    }

    pub(crate) fn set_lease(&mut self, id: i64, granted: bool) {
        self.leases.insert(id, granted);
    }

    pub(crate) fn lease(&self, id: i64) -> Option<bool> {
        self.leases.get(&id).copied()
    }

    /// Keys whose newest version hangs on the lease.
    pub(crate) fn keys_of_lease(&self, id: i64) -> impl Iterator<Item = &Bytes> {
        let newest = self
            .keys
            .iter()
            .filter_map(|(key, versions)| Some((key, versions.last()?)));
        // Most commits that end hundreds of leases set none.
        newest
            .take(if self.leased { usize::MAX } else { 0 })
            .filter(move |(_, newest)| newest.version.lease == id)
            .map(|(key, _)| key)
    }

    fn at<'a>(&'a self, key: &[u8], revision: i64) -> Option<&'a Pending> {
        visible(self.keys.get(key)?, revision)
    }

    fn range(&self, range: &KeyRange) -> impl Iterator<Item = (&Bytes, &Vec<Pending>)> {
        let empty = matches!(range, KeyRange::Span(start, end) if end <= start);
        let (start, end): (&[u8], Bound<&[u8]>) = match range {
            KeyRange::Key(key) => (key, Bound::Included(key)),
            KeyRange::Span(start, _) if empty => (start, Bound::Included(start)),
            KeyRange::Span(start, end) => (start, Bound::Excluded(end)),
            KeyRange::From(start) => (start, Bound::Unbounded),
        };
        let span = (Bound::Included(start), end);
        self.keys
            .range::<[u8], _>(span)
            .take(if empty { 0 } else { usize::MAX })
    }
}

fn visible(versions: &[Pending], revision: i64) -> Option<&Pending> {
    let n = versions.partition_point(|pending| pending.version.modified <= revision);
    versions[..n].last()
}

/// Index and overlay as one.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) index: &'a Index,
    pub(crate) overlay: &'a Overlay,
}

impl<'a> View<'a> {
    /// The version of a key that a read at `revision` sees.
    pub(crate) fn get(&self, key: &Bytes, revision: i64) -> Option<Found> {
        match self.overlay.at(key, revision) {
            Some(pending) => pending_found(key, pending),
            None => self
                .index
                .get(key, revision)
                .map(|version| index_found(key.clone(), version)),
        }
    }

    /// As [`View::get`], of a key that has been located in the index.
    pub(crate) fn get_at(&self, key: &Bytes, near: Option<Near>, revision: i64) -> Option<Found> {
        match self.overlay.at(key, revision) {
            Some(pending) => pending_found(key, pending),
            None => near
                .and_then(|near| self.index.get_at(near, revision))
                .map(|version| index_found(key.clone(), version)),
        }
    }

    /// Keys of the range that a read at `revision` sees, in order.
    pub(crate) fn scan(&self, range: &KeyRange, revision: i64) -> impl Iterator<Item = Found> + use<'a> {
        let overlay = self.overlay;
        let fresh: Vec<_> = overlay
            .range(range)
            .filter_map(|(key, versions)| Some((key, visible(versions, revision)?)))
            .collect();
        let mut fresh = fresh.into_iter().peekable();
        let mut old = self.index.scan(range, revision).peekable();
        std::iter::from_fn(move || {
            loop {
                let take_fresh = match (fresh.peek(), old.peek()) {
                    (None, None) => return None,
                    (Some(_), None) => true,
                    (None, Some(_)) => false,
                    (Some((new, _)), Some((key, _))) => &new[..] <= *key,
                };
                if !take_fresh {
                    let (key, version) = old.next()?;
                    return Some(index_found(Bytes::copy_from_slice(key), version));
                }
                let (key, pending) = fresh.next()?;
                if old.peek().is_some_and(|(old, _)| *old == &key[..]) {
                    old.next();
                }
                if let Some(found) = pending_found(key, pending) {
                    return Some(found);
                }
            }
        })
    }

    /// Live keys of the range now.
    pub(crate) fn count(&self, range: &KeyRange) -> i64 {
        let mut count = self.index.count(range) as i64;
        for (key, versions) in self.overlay.range(range) {
            let now = versions
                .last()
                .is_some_and(|pending| !pending.version.is_tombstone());
            let before = self.index.get(key, i64::MAX).is_some();
            count += i64::from(now) - i64::from(before);
        }
        count
    }
}

fn pending_found(key: &Bytes, pending: &Pending) -> Option<Found> {
    (!pending.version.is_tombstone()).then(|| Found {
        key: key.clone(),
        version: pending.version,
        value: Some(pending.value.clone()),
    })
}

fn index_found(key: Bytes, version: &Version) -> Found {
    Found {
        key,
        version: *version,
        value: None,
    }
}
