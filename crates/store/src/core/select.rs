//! From keys found to a range result: bounds, order, limit, values.
//!
//! The order of work is etcd's (`server/etcdserver/txn/range.go`): keys at the revision, then bounds, then sort,
//! then limit; `count` is taken before all of it. A target without an order is the exception: there the limit, and one
//! key more, is taken before the sort.

use std::cmp::Ordering;

use bytes::Bytes;

use super::index::{Location, Version};
use crate::error::Error;
use crate::types::{KeyValue, LeaseId, Range, RangeResult, Revision, SortTarget};

/// Where values are read from.
pub(crate) trait Values {
    /// The value at a place in the log.
    fn value(&self, at: Location) -> Result<Bytes, Error>;
}

/// A key that a read sees.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) key: Bytes,
    pub(crate) version: Version,
    /// The value, if it is at hand.
    pub(crate) value: Option<Bytes>,
}

impl Found {
    /// From an index's entry.
    pub(crate) fn new((key, version): (&[u8], &Version)) -> Self {
        Self {
            key: Bytes::copy_from_slice(key),
            version: *version,
            value: None,
        }
    }

    pub(crate) fn load(&mut self, values: &dyn Values) -> Result<Bytes, Error> {
        if self.value.is_none() {
            self.value = Some(values.value(self.version.at)?);
        }
        Ok(self.value.clone().unwrap_or_default())
    }

    /// The key with its value.
    pub(crate) fn into_kv(mut self, values: &dyn Values) -> Result<KeyValue, Error> {
        let value = self.load(values)?;
        Ok(kv(self.key, value, &self.version))
    }

    /// The key alone, as an answer to this range shows it.
    pub(crate) fn into_key(self, range: &Range) -> KeyValue {
        let lease = if shows_leases(range) {
            self.version.lease
        } else {
            0
        };
        let version = Version {
            lease,
            ..self.version
        };
        kv(self.key, Bytes::new(), &version)
    }
}

/// Whether an answer shows leases. Keys alone show none, as in etcd 3.7; but to order them by value it reads whole
/// pairs, and then they do.
pub(crate) fn shows_leases(range: &Range) -> bool {
    !range.keys_only || matches!(range.sort, Some((SortTarget::Value, _)))
}

/// A version in the words of the interface.
pub(crate) fn kv(key: Bytes, value: Bytes, version: &Version) -> KeyValue {
    KeyValue {
        key,
        value,
        create_revision: Revision(version.create),
        mod_revision: Revision(version.modified),
        version: version.version,
        lease: lease(version.lease),
    }
}

/// 0 is none.
pub(crate) fn lease(id: i64) -> Option<LeaseId> {
    (id != 0).then_some(LeaseId(id))
}

/// Whether the answer is a run of keys in their own order, so that a limit can be applied while looking.
pub(crate) fn is_plain(range: &Range) -> bool {
    matches!(range.sort, None | Some((SortTarget::Key, false))) && is_unbounded(range)
}

fn is_unbounded(range: &Range) -> bool {
    range.mod_bounds == (0, 0) && range.create_bounds == (0, 0)
}

/// How many keys have to be looked up: one more than the limit tells whether there are more.
pub(crate) fn wanted(range: &Range) -> usize {
    if range.count_only {
        0
    } else if range.limit > 0 && is_unbounded(range) && (range.limit_first || is_plain(range)) {
        range.limit.saturating_add(1)
    } else {
        usize::MAX
    }
}

/// Bytes that looking at a key costs beside the key.
pub(crate) const KEY_COST: usize = 64;
/// The largest answer: what a gRPC message can hold.
pub(crate) const RESULT_BYTES_MAX: usize = i32::MAX as usize;

/// Bytes of the keys found, and of their values as far as the answer or its order needs them.
pub(crate) fn weight(range: &Range, found: &[Found]) -> usize {
    let values = !range.count_only && !range.keys_only || matches!(range.sort, Some((SortTarget::Value, _)));
    let one = |found: &Found| {
        let value = if values { found.version.at.len as usize } else { 0 };
        KEY_COST + found.key.len() + value
    };
    found.iter().map(one).sum()
}

/// Makes the answer from the keys found (at least [`wanted`] of them) and the count of all.
pub(crate) fn finish(
    range: &Range,
    mut found: Vec<Found>,
    count: i64,
    revision: i64,
    values: &dyn Values,
) -> Result<RangeResult, Error> {
    let mut result = RangeResult {
        revision: Revision(revision),
        count,
        ..RangeResult::default()
    };
    if range.count_only {
        return Ok(result);
    }
    found.retain(|found| passes(range, &found.version));
    // Before any value is read: a sort may read more than is answered.
    if weight(range, &found) > RESULT_BYTES_MAX {
        return Err(Error::ResultTooLarge);
    }
    if let Some((target, descending)) = range.sort {
        sort(&mut found, target, descending, values)?;
    }
    if range.limit > 0 && found.len() > range.limit {
        found.truncate(range.limit);
        result.more = true;
    }
    result.kvs = if range.keys_only {
        found.into_iter().map(|found| found.into_key(range)).collect()
    } else {
        found
            .into_iter()
            .map(|found| found.into_kv(values))
            .collect::<Result<_, _>>()?
    };
    Ok(result)
}

/// Whether a version lies within the bounds that a range sets.
pub(crate) fn passes(range: &Range, version: &Version) -> bool {
    within(range.mod_bounds, version.modified) && within(range.create_bounds, version.create)
}

fn within((least, most): (i64, i64), revision: i64) -> bool {
    (least == 0 || revision >= least) && (most == 0 || revision <= most)
}

/// Puts keys in the order asked for; reads values only to order by them.
pub(crate) fn sort(
    found: &mut [Found],
    target: SortTarget,
    descending: bool,
    values: &dyn Values,
) -> Result<(), Error> {
    if target == SortTarget::Value {
        for found in &mut *found {
            found.load(values)?;
        }
    }
    let order = |a: &Found, b: &Found| match target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.version.cmp(&b.version.version),
        SortTarget::Create => a.version.create.cmp(&b.version.create),
        SortTarget::Mod => (a.version.modified, a.version.sub).cmp(&(b.version.modified, b.version.sub)),
        SortTarget::Value => a.value.cmp(&b.value),
    };
    let directed = |a: &Found, b: &Found| -> Ordering { if descending { order(b, a) } else { order(a, b) } };
    found.sort_by(directed);
    Ok(())
}
