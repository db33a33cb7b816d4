//! Turns requests into results and writes: the whole meaning of put, delete and transaction.
//!
//! Rules that are easy to get wrong, from etcd's `server/etcdserver/txn/txn.go`:
//! all compares, nested ones too, look at the state before the transaction; the chosen path is checked as a
//! whole (leases, revisions, keys that must exist) before anything is written; then steps run in order and
//! see earlier writes of the same transaction; all writes share one revision.

use std::cell::Cell;

use bytes::Bytes;

use super::check::lease_named;
use super::index::{Index, Location, Near, Version};
use super::lease::Leases;
use super::overlay::{Overlay, PENDING, View};
use super::select::{self, Found, KEY_COST, Values, finish, wanted, weight};
use crate::error::Error;
use crate::plant::{self, Plant};
use crate::types::{
    Compare, CompareTarget, Delete, DeleteResult, Op, OpResult, Put, PutLease, PutResult, Range, RangeResult,
    Relation, Revision, Txn, TxnResult,
};

/// Bytes a proposal may read; it holds up all others.
pub(crate) const PROPOSAL_READ_BYTES_MAX: usize = 64 << 20;
/// Bytes one transaction that only reads may read, all its ranges, compares and previous versions together: it reads under one
/// lock, and its whole answer is in memory at once.
pub(crate) const READ_BYTES_MAX: usize = 256 << 20;

/// One write of a revision; its position in the list is its sub-revision.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    /// The new version, a tombstone for a deletion. Its place is set when it is encoded.
    pub(crate) version: Version,
    /// The version before.
    pub(crate) prev: Option<Version>,
    /// Where the key was in the index: the commit comes back there.
    pub(crate) near: Option<Near>,
}

/// The state a proposal meets, and what it adds.
pub(crate) struct Eval<'a> {
    pub(crate) index: &'a Index,
    pub(crate) values: &'a dyn Values,
    /// Not needed where nothing is written.
    pub(crate) leases: Option<&'a Leases>,
    pub(crate) overlay: &'a mut Overlay,
    /// The newest revision, durable or in the overlay.
    pub(crate) current: i64,
    /// The compaction floor.
    pub(crate) floor: i64,
    /// Whether writes that make the store grow are refused.
    pub(crate) full: bool,
    pub(crate) writes: Vec<Write>,
    /// What this proposal may still read, in bytes; one of the constants above at first.
    pub(crate) left: Cell<usize>,
}

/// The keys of a lease at `now`, in order: those of the index, and what was written since.
pub(crate) fn keys_of_lease(view: View<'_>, leases: &Leases, now: i64, id: i64) -> Vec<Found> {
    let attached = leases.keys(id).map(Bytes::copy_from_slice);
    let mut keys: Vec<_> = attached
        .chain(view.overlay.keys_of_lease(id).cloned())
        .filter_map(|key| view.get(&key, now).filter(|found| found.version.lease == id))
        .collect();
    keys.sort_by(|a, b| a.key.cmp(&b.key));
    keys.dedup_by(|a, b| a.key == b.key);
    keys
}

impl Eval<'_> {
    fn view(&self) -> View<'_> {
        View {
            index: self.index,
            overlay: self.overlay,
        }
    }

    /// The revision that reads of this proposal see now.
    fn now(&self) -> i64 {
        self.current + i64::from(!self.writes.is_empty())
    }

    /// Takes what is about to be read from the budget.
    fn spend(&self, bytes: usize) -> Result<(), Error> {
        let left = self.left.get().checked_sub(bytes).ok_or(Error::ResultTooLarge)?;
        self.left.set(left);
        Ok(())
    }

    /// Takes all writes of this proposal back.
    pub(crate) fn undo(&mut self) {
        for write in self.writes.drain(..).rev() {
            self.overlay.take_back(&write.key);
        }
    }

    /// Bytes of this proposal's writes in the log, at most.
    pub(crate) fn bytes(&self) -> usize {
        self.writes
            .iter()
            .map(|write| write.key.len() + write.value.len() + 64)
            .sum()
    }

    /// A put on its own.
    pub(crate) fn put(&mut self, put: &Put) -> Result<PutResult, Error> {
        self.check_put(put)?;
        // A list that grows by itself begins with room for four.
        self.writes.reserve_exact(1);
        self.run_put(put).inspect_err(|_| self.undo())
    }

    /// A deletion on its own.
    pub(crate) fn delete(&mut self, delete: &Delete) -> Result<DeleteResult, Error> {
        self.run_delete(delete).inspect_err(|_| self.undo())
    }

    /// A transaction.
    pub(crate) fn txn(&mut self, txn: &Txn) -> Result<TxnResult, Error> {
        let path = self.path(txn)?;
        self.check_path(txn, &path)?;
        self.run_txn(txn, &path).inspect_err(|_| self.undo())
    }

    /// Deletes all keys of a lease.
    pub(crate) fn revoke(&mut self, id: i64) {
        let Some(leases) = self.leases else { return };
        for found in keys_of_lease(self.view(), leases, self.current, id) {
            self.write_tombstone(found.key, found.version);
        }
    }

    pub(crate) fn lease_exists(&self, id: i64) -> bool {
        let committed = || self.leases.is_some_and(|leases| leases.contains(id));
        self.overlay.lease(id).unwrap_or_else(committed)
    }

    fn path(&self, txn: &Txn) -> Result<Path, Error> {
        let mut succeeded = true;
        for compare in &txn.compares {
            if !self.holds(compare)? {
                succeeded = false;
                break;
            }
        }
        let nested = branch(txn, succeeded).iter().filter_map(|op| {
            if let Op::Txn(txn) = op {
                Some(self.path(txn))
            } else {
                None
            }
        });
        Ok(Path {
            succeeded,
            nested: nested.collect::<Result<_, _>>()?,
        })
    }

    fn holds(&self, compare: &Compare) -> Result<bool, Error> {
        let mut any = false;
        for found in self.view().scan(&compare.keys, self.current) {
            any = true;
            let value = matches!(compare.target, CompareTarget::Value(_));
            let value_len = if value { found.version.at.len as usize } else { 0 };
            self.spend(KEY_COST + found.key.len() + value_len)?;
            if !self.found_holds(compare, found)? {
                return Ok(false);
            }
        }
        if any {
            return Ok(true);
        }
        // An absent key has no value to match; its numbers read 0.
        Ok(match &compare.target {
            CompareTarget::Value(_) => false,
            target => relate(compare.relation, &0, &number(target)),
        })
    }

    fn found_holds(&self, compare: &Compare, mut found: Found) -> Result<bool, Error> {
        let version = found.version;
        let stored = match &compare.target {
            CompareTarget::Value(operand) => {
                return Ok(relate(compare.relation, &found.load(self.values)?, operand));
            }
            CompareTarget::Version(_) => version.version,
            CompareTarget::Create(_) => version.create,
            CompareTarget::Mod(_) => version.modified,
            CompareTarget::Lease(_) => version.lease,
        };
        Ok(relate(compare.relation, &stored, &number(&compare.target)))
    }

    fn check_path(&self, txn: &Txn, path: &Path) -> Result<(), Error> {
        let mut nested = path.nested.iter();
        for op in branch(txn, path.succeeded) {
            match op {
                Op::Put(put) => self.check_put(put)?,
                Op::Range(range) => {
                    // Here a negative revision is one below the floor, not "now" (etcd's `checkRange`).
                    let asked = range.revision.unwrap_or_default();
                    if asked.0 < self.floor.min(0) {
                        let floor = Revision(self.floor);
                        return Err(Error::Compacted { asked, floor });
                    }
                    read_revision(range, self.current, self.floor)?;
                }
                Op::Delete(_) => (),
                Op::Txn(txn) => {
                    let path = nested
                        .next()
                        .expect("the path has one entry per nested transaction");
                    self.check_path(txn, path)?;
                }
            }
        }
        Ok(())
    }

    fn check_put(&self, put: &Put) -> Result<(), Error> {
        if self.full {
            return Err(Error::NoSpace);
        }
        if let Some(lease) = lease_named(put).filter(|lease| !self.lease_exists(*lease)) {
            return Err(Error::LeaseNotFound(crate::types::LeaseId(lease)));
        }
        let keeps = put.value.is_none() || put.lease == PutLease::Keep;
        if keeps && self.view().get(&put.key, self.current).is_none() {
            return Err(Error::KeyNotFound);
        }
        Ok(())
    }

    fn run_txn(&mut self, txn: &Txn, path: &Path) -> Result<TxnResult, Error> {
        let mut nested = path.nested.iter();
        let mut results = Vec::with_capacity(branch(txn, path.succeeded).len());
        for op in branch(txn, path.succeeded) {
            results.push(match op {
                Op::Range(range) => OpResult::Range(self.run_range(range)?),
                Op::Put(put) => OpResult::Put(self.run_put(put)?),
                Op::Delete(delete) => OpResult::Delete(self.run_delete(delete)?),
                Op::Txn(txn) => {
                    let path = nested
                        .next()
                        .expect("the path has one entry per nested transaction");
                    OpResult::Txn(self.run_txn(txn, path)?)
                }
            });
        }
        Ok(TxnResult {
            revision: Revision(self.now()),
            succeeded: path.succeeded,
            results,
        })
    }

    fn run_range(&self, range: &Range) -> Result<RangeResult, Error> {
        let now = self.now();
        let revision = read_revision(range, self.current, self.floor)?.unwrap_or(now);
        let view = self.view();
        let found: Vec<_> = view.scan(&range.keys, revision).take(wanted(range)).collect();
        let count = if found.len() < wanted(range) {
            found.len() as i64
        } else if revision == now {
            view.count(&range.keys)
        } else {
            view.scan(&range.keys, revision).count() as i64
        };
        self.spend(weight(range, &found))?;
        if revision != now {
            // They were all looked at.
            self.spend(count as usize * KEY_COST)?;
        }
        finish(range, found, count, now, self.values)
    }

    fn run_put(&mut self, put: &Put) -> Result<PutResult, Error> {
        let near = self.index.locate(&put.key);
        let prev = self.view().get_at(&put.key, near, self.now());
        let value = match (&put.value, &prev) {
            (Some(value), _) => value.clone(),
            (None, Some(prev)) => prev.clone().load(self.values)?,
            (None, None) => return Err(Error::KeyNotFound),
        };
        let lease = match put.lease {
            PutLease::Set(lease) => lease.map_or(0, |lease| lease.0),
            PutLease::Keep => prev.as_ref().map_or(0, |prev| prev.version.lease),
        };
        let modified = self.current + 1;
        let before = prev.as_ref().map(|prev| prev.version);
        let version = Version {
            modified,
            create: before.map_or(modified, |before| before.create),
            version: before.map_or(1, |before| before.version + 1),
            lease,
            sub: self.writes.len() as u32,
            at: Location {
                file: PENDING,
                offset: 0,
                len: value.len() as u32,
                crc: crc32c::crc32c(&value),
            },
        };
        let prev_kv = prev
            .filter(|_| put.prev_kv)
            .map(|prev| prev.into_kv(self.values))
            .transpose()?;
        self.write(Write {
            key: put.key.clone(),
            value,
            version,
            prev: before,
            near,
        });
        Ok(PutResult {
            revision: Revision(modified),
            prev_kv,
        })
    }

    fn run_delete(&mut self, delete: &Delete) -> Result<DeleteResult, Error> {
        let found: Vec<_> = self.view().scan(&delete.keys, self.now()).collect();
        let mut result = DeleteResult {
            deleted: found.len() as i64,
            ..DeleteResult::default()
        };
        for found in found {
            if delete.prev_kv {
                self.spend(KEY_COST + found.key.len() + found.version.at.len as usize)?;
                result.prev_kvs.push(found.clone().into_kv(self.values)?);
            }
            self.write_tombstone(found.key, found.version);
        }
        result.revision = Revision(self.now());
        Ok(result)
    }

    fn write_tombstone(&mut self, key: Bytes, prev: Version) {
        let version = Version {
            modified: self.current + 1,
            sub: self.writes.len() as u32,
            at: Location {
                file: PENDING,
                ..Location::default()
            },
            ..Version::default()
        };
        self.write(Write {
            key,
            value: Bytes::new(),
            version,
            prev: Some(prev),
            near: None,
        });
    }

    fn write(&mut self, write: Write) {
        self.overlay
            .write(write.key.clone(), write.version, write.value.clone());
        self.writes.push(write);
    }
}

/// The revision a read asks for, if it asks for one that can be read.
pub(crate) fn read_revision(range: &Range, current: i64, floor: i64) -> Result<Option<i64>, Error> {
    let Some(asked) = range.revision.filter(|asked| asked.0 > 0) else {
        return Ok(None);
    };
    if asked.0 > current {
        return Err(Error::FutureRevision {
            asked,
            current: Revision(current),
        });
    }
    if asked.0 < floor && !plant::has(Plant::MissedCompaction) {
        return Err(Error::Compacted {
            asked,
            floor: Revision(floor),
        });
    }
    Ok(Some(asked.0))
}

/// Which branch of a transaction runs, and of the nested ones in it.
struct Path {
    succeeded: bool,
    nested: Vec<Path>,
}

fn branch(txn: &Txn, succeeded: bool) -> &[Op] {
    if succeeded { &txn.success } else { &txn.failure }
}

fn number(target: &CompareTarget) -> i64 {
    match target {
        CompareTarget::Version(n)
        | CompareTarget::Create(n)
        | CompareTarget::Mod(n)
        | CompareTarget::Lease(n) => *n,
        CompareTarget::Value(_) => 0,
    }
}

fn relate<T: Ord>(relation: Relation, stored: &T, operand: &T) -> bool {
    match relation {
        Relation::Equal => stored == operand,
        Relation::Greater => stored > operand,
        Relation::Less => stored < operand,
        Relation::NotEqual => stored != operand,
    }
}

/// A version in the words of the interface, with its value.
pub(crate) fn prev_kv(
    key: &Bytes,
    version: &Version,
    values: &dyn Values,
) -> Result<crate::types::KeyValue, Error> {
    Ok(select::kv(key.clone(), values.value(version.at)?, version))
}
