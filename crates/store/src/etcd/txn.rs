//! Transactions: etcd's checks, conversion both ways.

use bytes::Bytes;
use setpoint_proto::etcdserverpb as pb;
use tonic::Status;

use super::{convert, status, wire};
use crate::Error;
use crate::types::{Compare, CompareTarget, DeleteResult, KeyRange, Op, OpResult, Relation, Txn, TxnResult};

use pb::request_op::Request;
use pb::response_op::Response;

/// Checks what can only be seen on the wire: counts and fields of all levels. What is written twice, the store finds.
///
/// One level may have `ops_max` of each kind of step; what it uses is not there for the levels inside it.
///
/// # Errors
/// The status etcd answers with.
pub(super) fn check(request: &pb::TxnRequest, ops_max: usize) -> Result<(), Status> {
    let ops = request
        .compare
        .len()
        .max(request.success.len())
        .max(request.failure.len());
    if ops > ops_max {
        return Err(status::status(&Error::TooManyOps));
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(status::status(&Error::EmptyKey));
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(range)) => convert::check_range(range)?,
            Some(Request::RequestPut(put)) => convert::check_put(put)?,
            Some(Request::RequestDeleteRange(delete)) => convert::check_delete(delete)?,
            Some(Request::RequestTxn(txn)) => check(txn, ops_max - ops)?,
            None => return Err(status::status(&Error::KeyNotFound)),
        }
    }
    Ok(())
}

/// Converts a checked transaction.
pub(super) fn convert(request: pb::TxnRequest) -> Result<Txn, Status> {
    Ok(Txn {
        compares: request.compare.into_iter().filter_map(compare).collect(),
        success: ops(request.success)?,
        failure: ops(request.failure)?,
    })
}

fn ops(ops: Vec<pb::RequestOp>) -> Result<Vec<Op>, Status> {
    ops.into_iter()
        .map(|op| match op.request {
            Some(Request::RequestRange(range)) => convert::range(range).map(Op::Range),
            Some(Request::RequestPut(put)) => convert::put(put).map(Op::Put),
            Some(Request::RequestDeleteRange(delete)) => convert::delete(delete).map(Op::Delete),
            Some(Request::RequestTxn(txn)) => convert(txn).map(|txn| Op::Txn(Box::new(txn))),
            None => Err(status::status(&Error::KeyNotFound)),
        })
        .collect()
}

/// `None` for a condition that always holds: etcd takes an unknown relation as satisfied, and an unknown target as
/// equal to its operand (`server/etcdserver/txn/txn.go`, `compareKV`).
fn compare(compare: pb::Compare) -> Option<Compare> {
    use pb::compare::{CompareResult, CompareTarget as Target, TargetUnion};
    let relation = match CompareResult::try_from(compare.result).ok()? {
        CompareResult::Equal => Relation::Equal,
        CompareResult::Greater => Relation::Greater,
        CompareResult::Less => Relation::Less,
        CompareResult::NotEqual => Relation::NotEqual,
    };
    let keys = KeyRange::from_wire(compare.key, compare.range_end);
    let operand = compare.target_union;
    let target = match Target::try_from(compare.target) {
        // An operand of another kind than the target reads as the target's zero.
        Ok(Target::Version) => CompareTarget::Version(match operand {
            Some(TargetUnion::Version(n)) => n,
            _ => 0,
        }),
        Ok(Target::Create) => CompareTarget::Create(match operand {
            Some(TargetUnion::CreateRevision(n)) => n,
            _ => 0,
        }),
        Ok(Target::Mod) => CompareTarget::Mod(match operand {
            Some(TargetUnion::ModRevision(n)) => n,
            _ => 0,
        }),
        Ok(Target::Lease) => CompareTarget::Lease(match operand {
            Some(TargetUnion::Lease(n)) => n,
            _ => 0,
        }),
        Ok(Target::Value) => CompareTarget::Value(match operand {
            Some(TargetUnion::Value(value)) => value,
            _ => Bytes::new(),
        }),
        Err(_) if relation == Relation::Equal => return None,
        // Never holds: no version is below 0.
        Err(_) => {
            return Some(Compare {
                keys,
                relation: Relation::Less,
                target: CompareTarget::Version(0),
            });
        }
    };
    Some(Compare {
        keys,
        relation,
        target,
    })
}

/// The answer to a transaction. Headers inside it carry the revision alone.
pub(super) fn response(header: pb::ResponseHeader, result: TxnResult) -> pb::TxnResponse {
    pb::TxnResponse {
        header: Some(header),
        succeeded: result.succeeded,
        responses: result.results.into_iter().map(op_response).collect(),
    }
}

fn op_response(result: OpResult) -> pb::ResponseOp {
    let response = match result {
        OpResult::Range(range) => Response::ResponseRange(pb::RangeResponse {
            header: inner(range.revision),
            kvs: range.kvs.into_iter().map(wire::kv).collect(),
            more: range.more,
            count: range.count,
        }),
        OpResult::Put(put) => Response::ResponsePut(pb::PutResponse {
            header: inner(put.revision),
            prev_kv: put.prev_kv.map(wire::kv),
        }),
        OpResult::Delete(delete) => {
            let header = inner(delete.revision);
            Response::ResponseDeleteRange(delete_response(header, delete))
        }
        // Of a nested transaction not even that.
        OpResult::Txn(txn) => Response::ResponseTxn(response(pb::ResponseHeader::default(), txn)),
    };
    pb::ResponseOp {
        response: Some(response),
    }
}

/// The answer to a deletion.
pub(super) fn delete_response(
    header: Option<pb::ResponseHeader>,
    result: DeleteResult,
) -> pb::DeleteRangeResponse {
    pb::DeleteRangeResponse {
        header,
        deleted: result.deleted,
        prev_kvs: result.prev_kvs.into_iter().map(wire::kv).collect(),
    }
}

fn inner(revision: crate::types::Revision) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader {
        revision: revision.0,
        ..Default::default()
    })
}

/// Whether a transaction, whichever branches run, could write a key that begins with `prefix`.
pub(super) fn writes(txn: &Txn, prefix: &[u8]) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        Op::Range(_) => false,
        Op::Put(put) => put.key.starts_with(prefix),
        Op::Delete(delete) => convert::touches(&delete.keys, prefix),
        Op::Txn(txn) => writes(txn, prefix),
    })
}

/// Whether a transaction contains nothing but reads at its own level.
pub(super) fn only_reads(txn: &Txn) -> bool {
    txn.success
        .iter()
        .chain(&txn.failure)
        .all(|op| matches!(op, Op::Range(_)))
}

/// Whether a transaction only reads, on all levels, and more than single keys.
pub(super) fn reads_widely(txn: &Txn) -> bool {
    fn is_wide(txn: &Txn) -> bool {
        let wide = |keys: &KeyRange| !matches!(keys, KeyRange::Key(_));
        let mut steps = txn.success.iter().chain(&txn.failure);
        txn.compares.iter().any(|compare| wide(&compare.keys))
            || steps.any(|op| match op {
                Op::Range(range) => wide(&range.keys),
                Op::Txn(txn) => is_wide(txn),
                Op::Put(_) | Op::Delete(_) => false,
            })
    }
    is_wide(txn) && !crate::core::check::writes(txn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::check::{self as store_check, Limits};

    fn put(key: &'static str) -> pb::RequestOp {
        op(Request::RequestPut(pb::PutRequest {
            key: key.into(),
            ..Default::default()
        }))
    }

    fn delete(key: &'static str, range_end: &'static str) -> pb::RequestOp {
        op(Request::RequestDeleteRange(pb::DeleteRangeRequest {
            key: key.into(),
            range_end: range_end.into(),
            prev_kv: false,
        }))
    }

    fn nested(success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::RequestOp {
        op(Request::RequestTxn(pb::TxnRequest {
            compare: Vec::new(),
            success,
            failure,
        }))
    }

    fn op(request: Request) -> pb::RequestOp {
        pb::RequestOp {
            request: Some(request),
        }
    }

    #[track_caller]
    fn check_ops(success: Vec<pb::RequestOp>, expect: Result<(), &str>) {
        let request = pb::TxnRequest {
            success,
            ..Default::default()
        };
        // The front's checks, then the store's.
        let result = check(&request, 8).and_then(|()| {
            let limits = Limits {
                request_bytes_max: 1 << 20,
                txn_ops_max: 8,
            };
            store_check::txn(&convert(request)?, limits).map_err(|error| status::status(&error))
        });
        assert_eq!(result.as_ref().map(|&()| ()).map_err(Status::message), expect);
    }

    const DUPLICATE: Result<(), &str> = Err("etcdserver: duplicate key given in txn request");
    const TOO_MANY: Result<(), &str> = Err("etcdserver: too many operations in txn request");

    #[test]
    fn a_key_is_put_once() {
        check_ops(vec![put("a"), put("b")], Ok(()));
        check_ops(vec![put("a"), put("a")], DUPLICATE);
        check_ops(vec![put("a"), nested(vec![put("a")], vec![])], DUPLICATE);
        check_ops(
            vec![nested(vec![put("a")], vec![]), nested(vec![], vec![put("a")])],
            DUPLICATE,
        );
    }

    #[test]
    fn the_branches_of_one_nested_transaction_may_put_the_same_key() {
        check_ops(vec![nested(vec![put("a")], vec![put("a")])], Ok(()));
        check_ops(vec![nested(vec![put("a")], vec![put("a")]), put("a")], DUPLICATE);
    }

    #[test]
    fn a_key_is_not_put_and_deleted() {
        check_ops(vec![put("b"), delete("a", "c")], DUPLICATE);
        check_ops(vec![put("c"), delete("a", "c")], Ok(()));
        check_ops(vec![put("a"), delete("a", "")], DUPLICATE);
        check_ops(vec![put("a0"), delete("a", "")], Ok(()));
        check_ops(vec![delete("a", "c"), delete("b", "d"), put("d")], Ok(()));
        check_ops(vec![delete("a", "c"), delete("b", "d"), put("c")], DUPLICATE);
        check_ops(vec![delete("a", "c"), delete("a", "c")], Ok(()));
        check_ops(vec![nested(vec![delete("a", "")], vec![]), put("a")], DUPLICATE);
    }

    #[test]
    fn what_etcds_check_overlooks_is_refused() {
        check_ops(vec![put("b"), delete("a", "\0")], DUPLICATE);
        check_ops(vec![put("a"), delete("b", "\0")], Ok(()));
        let (puts, deletes) = (
            nested(vec![put("a")], vec![]),
            nested(vec![delete("a", "")], vec![]),
        );
        check_ops(vec![puts.clone(), deletes.clone()], DUPLICATE);
        check_ops(vec![deletes, puts], DUPLICATE);
    }

    #[test]
    fn one_branch_may_delete_what_the_other_puts() {
        check_ops(vec![nested(vec![put("a")], vec![delete("a", "")])], Ok(()));
    }

    #[test]
    fn nested_levels_share_the_budget_of_operations() {
        check_ops(vec![put("a"); 9], TOO_MANY);
        let four = || vec![put("w"), put("x"), put("y"), put("z")];
        check_ops(vec![put("a"), put("b"), put("c"), nested(four(), vec![])], Ok(()));
        check_ops(
            vec![put("a"), put("b"), put("c"), put("d"), nested(four(), vec![])],
            TOO_MANY,
        );
    }

    #[test]
    fn a_step_that_is_nothing_is_a_key_not_found() {
        check_ops(
            vec![pb::RequestOp { request: None }],
            Err("etcdserver: key not found"),
        );
        check_ops(vec![put("")], Err("etcdserver: key is not provided"));
    }
}
