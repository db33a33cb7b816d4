//! What a request has to satisfy before it is looked at, as in etcd (`server/etcdserver/api/v3rpc/key.go`).

use std::collections::HashSet;

use crate::core::spans::Spans;
use crate::error::Error;
use crate::types::{Compare, CompareTarget, Delete, KeyRange, Op, Put, PutLease, Range, Txn};

/// Limits that a request has to keep.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) request_bytes_max: usize,
    pub(crate) txn_ops_max: usize,
}

/// Checks a read.
pub(crate) fn range(range: &Range) -> Result<(), Error> {
    keys(&range.keys)
}

/// Checks a write.
pub(crate) fn put(put: &Put, limits: Limits) -> Result<(), Error> {
    put_alone(put)?;
    size(put_bytes(put), limits)
}

/// Checks a deletion.
pub(crate) fn delete(delete: &Delete, limits: Limits) -> Result<(), Error> {
    keys(&delete.keys)?;
    size(range_bytes(&delete.keys), limits)
}

/// Checks a transaction: counts, keys, duplicates, size.
pub(crate) fn txn(txn: &Txn, limits: Limits) -> Result<(), Error> {
    txn_ops(txn, limits.txn_ops_max)?;
    intervals(&txn.success)?;
    intervals(&txn.failure)?;
    size(txn_bytes(txn), limits)
}

/// Bytes that a transaction may add to the log at most, give or take its framing.
pub(crate) fn txn_bytes(txn: &Txn) -> usize {
    let compares: usize = txn.compares.iter().map(compare_bytes).sum();
    let ops = txn.success.iter().chain(&txn.failure).map(|op| match op {
        Op::Put(put) => put_bytes(put),
        Op::Range(range) => range_bytes(&range.keys),
        Op::Delete(delete) => range_bytes(&delete.keys),
        Op::Txn(txn) => txn_bytes(txn),
    });
    compares + ops.sum::<usize>()
}

/// Whether the transaction can write at all.
pub(crate) fn writes(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        Op::Put(_) | Op::Delete(_) => true,
        Op::Range(_) => false,
        Op::Txn(txn) => writes(txn),
    })
}

fn keys(range: &KeyRange) -> Result<(), Error> {
    // `From("")` is how "all keys" arrives; every other range names a key.
    match range {
        KeyRange::Key(key) | KeyRange::Span(key, _) if key.is_empty() => Err(Error::EmptyKey),
        _ => Ok(()),
    }
}

fn put_alone(put: &Put) -> Result<(), Error> {
    if put.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    Ok(())
}

fn size(bytes: usize, limits: Limits) -> Result<(), Error> {
    if bytes > limits.request_bytes_max {
        Err(Error::RequestTooLarge)
    } else {
        Ok(())
    }
}

/// Bytes of a write, for sizes and queues.
pub(crate) fn put_bytes(put: &Put) -> usize {
    put.key.len() + put.value.as_ref().map_or(0, |value| value.len())
}

/// What etcd's quota counts for a write beside its key and value (`server/storage/quota.go`).
const PUT_COST: u64 = 256;
/// What etcd's quota counts for a lease.
pub(crate) const LEASE_COST: u64 = 64;

/// What a write costs of the quota, in bytes.
pub(crate) fn put_cost(put: &Put) -> u64 {
    PUT_COST + put_bytes(put) as u64
}

/// What a transaction costs at most, by the larger of its branches; 0 if it cannot make the store grow.
pub(crate) fn txn_cost(txn: &Txn) -> u64 {
    let cost = |op: &Op| match op {
        Op::Put(put) => put_cost(put),
        Op::Range(_) | Op::Delete(_) => 0,
        Op::Txn(txn) => txn_cost(txn),
    };
    let branch = |ops: &[Op]| ops.iter().map(cost).sum::<u64>();
    branch(&txn.success).max(branch(&txn.failure))
}

fn range_bytes(range: &KeyRange) -> usize {
    match range {
        KeyRange::Key(key) | KeyRange::From(key) => key.len(),
        KeyRange::Span(start, end) => start.len() + end.len(),
    }
}

fn compare_bytes(compare: &Compare) -> usize {
    let operand = if let CompareTarget::Value(value) = &compare.target {
        value.len()
    } else {
        8
    };
    range_bytes(&compare.keys) + operand
}

/// Each level spends from the budget of the one around it, which also bounds the depth.
fn txn_ops(txn: &Txn, budget: usize) -> Result<(), Error> {
    let most = txn.compares.len().max(txn.success.len()).max(txn.failure.len());
    let Some(inner) = budget.checked_sub(most) else {
        return Err(Error::TooManyOps);
    };
    for compare in &txn.compares {
        keys(&compare.keys)?;
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            Op::Range(range) => keys(&range.keys)?,
            Op::Put(put) => put_alone(put)?,
            Op::Delete(delete) => keys(&delete.keys)?,
            // An empty nested transaction costs nothing, so an exhausted budget ends the nesting.
            Op::Txn(_) if inner == 0 => return Err(Error::TooManyOps),
            Op::Txn(txn) => txn_ops(txn, inner)?,
        }
    }
    Ok(())
}

type Written<'a> = (HashSet<&'a [u8]>, Spans);

/// A key may be put once, and not both put and deleted, on any path through the steps: so a revision never holds two
/// versions of a key. etcd's `checkIntervals` means the same but overlooks two cases, which are refused here: deletes
/// up to the end of the keys, and puts of a nested transaction that a later nested one deletes.
fn intervals(ops: &[Op]) -> Result<Written<'_>, Error> {
    let (mut puts, mut deletes): Written<'_> = (HashSet::new(), Spans::default());
    for op in ops {
        if let Op::Delete(delete) = op {
            deletes.insert(&delete.keys);
        }
    }
    for op in ops {
        let Op::Txn(txn) = op else { continue };
        let (then_puts, then_deletes) = intervals(&txn.success)?;
        let (else_puts, else_deletes) = intervals(&txn.failure)?;
        for gone in [&then_deletes, &else_deletes] {
            if !gone.is_empty() && puts.iter().any(|key| gone.contains(key)) {
                return Err(Error::DuplicateKey);
            }
        }
        for key in &then_puts {
            claim(&mut puts, &deletes, key)?;
        }
        // Only one branch of a nested transaction runs, so they may write the same key.
        for key in else_puts.iter().filter(|key| !then_puts.contains(*key)) {
            claim(&mut puts, &deletes, key)?;
        }
        deletes.merge(then_deletes);
        deletes.merge(else_deletes);
    }
    for op in ops {
        if let Op::Put(put) = op {
            claim(&mut puts, &deletes, &put.key)?;
        }
    }
    Ok((puts, deletes))
}

fn claim<'a>(puts: &mut HashSet<&'a [u8]>, deletes: &Spans, key: &'a [u8]) -> Result<(), Error> {
    if deletes.contains(key) || !puts.insert(key) {
        return Err(Error::DuplicateKey);
    }
    Ok(())
}

/// The lease a put asks for, if it names one.
pub(crate) fn lease_named(put: &Put) -> Option<i64> {
    match put.lease {
        PutLease::Set(Some(lease)) => Some(lease.0),
        PutLease::Set(None) | PutLease::Keep => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        request_bytes_max: 1000,
        txn_ops_max: 4,
    };

    fn put_op(key: &'static str) -> Op {
        Op::Put(Put::new(key, "v"))
    }

    fn delete_op(from: &'static str, to: &'static str) -> Op {
        Op::Delete(Delete {
            keys: KeyRange::Span(from.into(), to.into()),
            prev_kv: false,
        })
    }

    fn nested(success: Vec<Op>, failure: Vec<Op>) -> Op {
        Op::Txn(Box::new(Txn {
            compares: vec![],
            success,
            failure,
        }))
    }

    #[track_caller]
    #[allow(clippy::needless_pass_by_value, reason = "rows read better")]
    fn check(success: Vec<Op>, expect: Result<(), Error>) {
        let checked = txn(
            &Txn {
                compares: vec![],
                success,
                failure: vec![],
            },
            LIMITS,
        );
        assert_eq!(checked, expect);
    }

    #[test]
    fn a_key_may_be_written_once_on_any_path() {
        check(vec![put_op("a"), put_op("b")], Ok(()));
        check(vec![put_op("a"), put_op("a")], Err(Error::DuplicateKey));
        check(vec![put_op("b"), delete_op("a", "c")], Err(Error::DuplicateKey));
        check(vec![delete_op("a", "c"), delete_op("b", "d")], Ok(()));
        check(vec![nested(vec![put_op("a")], vec![put_op("a")])], Ok(()));
        check(
            vec![put_op("a"), nested(vec![], vec![put_op("a")])],
            Err(Error::DuplicateKey),
        );
        check(
            vec![delete_op("a", "b"), nested(vec![put_op("a")], vec![])],
            Err(Error::DuplicateKey),
        );
        check(
            vec![put_op("a"), nested(vec![delete_op("a", "b")], vec![])],
            Err(Error::DuplicateKey),
        );
    }

    #[test]
    fn nested_levels_share_one_budget() {
        check(vec![put_op("a"), put_op("b"), put_op("c"), put_op("d")], Ok(()));
        check(
            vec![put_op("a"), put_op("b"), put_op("c"), put_op("d"), put_op("e")],
            Err(Error::TooManyOps),
        );
        check(
            vec![nested(vec![put_op("a"), put_op("b"), put_op("c")], vec![])],
            Ok(()),
        );
        check(
            vec![nested(
                vec![put_op("a"), put_op("b"), put_op("c"), put_op("d")],
                vec![],
            )],
            Err(Error::TooManyOps),
        );
    }

    #[test]
    fn empty_keys_and_large_requests_are_refused() {
        check(vec![put_op("")], Err(Error::EmptyKey));
        let big = Op::Put(Put::new("a", vec![0; 1001]));
        check(vec![big], Err(Error::RequestTooLarge));
    }
}
