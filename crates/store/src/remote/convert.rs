//! The store's vocabulary as etcd's messages, and back.
//!
//! What comes back is copied out of the buffer it was received in: a cache that keeps one object would otherwise keep
//! the answer of five hundred.

use std::sync::OnceLock;

use bytes::Bytes;
use pb::compare::{CompareResult, CompareTarget as Target, TargetUnion};
use pb::range_request::{SortOrder, SortTarget as By};
use pb::request_op::Request;
use pb::response_op::Response;
use setpoint_proto::{etcdserverpb as pb, mvccpb};

use super::keyspace::Keyspace;
use crate::types::*;

pub(super) fn revision(header: Option<&pb::ResponseHeader>) -> Revision {
    Revision(header.map_or(0, |header| header.revision))
}

pub(super) fn range(space: &Keyspace, range: &Range) -> pb::RangeRequest {
    let (key, range_end) = space.range(&range.keys);
    let (order, by) = match range.sort {
        None => (SortOrder::None, SortTarget::Key),
        Some((by, _)) if range.limit_first => (SortOrder::None, by),
        Some((by, true)) => (SortOrder::Descend, by),
        Some((by, false)) => (SortOrder::Ascend, by),
    };
    let by = match by {
        SortTarget::Key => By::Key,
        SortTarget::Version => By::Version,
        SortTarget::Create => By::Create,
        SortTarget::Mod => By::Mod,
        SortTarget::Value => By::Value,
    };
    pb::RangeRequest {
        key,
        range_end,
        limit: i64::try_from(range.limit).unwrap_or(i64::MAX),
        revision: range.revision.map_or(0, |revision| revision.0),
        sort_order: order.into(),
        sort_target: by.into(),
        serializable: false,
        keys_only: range.keys_only,
        count_only: range.count_only,
        min_mod_revision: range.mod_bounds.0,
        max_mod_revision: range.mod_bounds.1,
        min_create_revision: range.create_bounds.0,
        max_create_revision: range.create_bounds.1,
    }
}

pub(super) fn range_result(space: &Keyspace, answer: &pb::RangeResponse) -> RangeResult {
    RangeResult {
        revision: revision(answer.header.as_ref()),
        kvs: answer.kvs.iter().map(|kv| key_value(space, kv)).collect(),
        more: answer.more,
        count: answer.count,
    }
}

pub(super) fn key_value(space: &Keyspace, kv: &mvccpb::KeyValue) -> KeyValue {
    KeyValue {
        key: space.strip(&kv.key),
        value: Bytes::copy_from_slice(&kv.value),
        create_revision: Revision(kv.create_revision),
        mod_revision: Revision(kv.mod_revision),
        version: kv.version,
        lease: (kv.lease != 0).then_some(LeaseId(kv.lease)),
    }
}

pub(super) fn txn(space: &Keyspace, txn: Txn) -> pb::TxnRequest {
    let ops = |ops: Vec<Op>| ops.into_iter().map(|step| op(space, step)).collect();
    pb::TxnRequest {
        compare: txn.compares.iter().map(|one| compare(space, one)).collect(),
        success: ops(txn.success),
        failure: ops(txn.failure),
    }
}

fn op(space: &Keyspace, step: Op) -> pb::RequestOp {
    let request = match step {
        Op::Range(of) => Request::RequestRange(range(space, &of)),
        Op::Put(of) => Request::RequestPut(put(space, of)),
        Op::Delete(of) => {
            let (key, range_end) = space.range(&of.keys);
            Request::RequestDeleteRange(pb::DeleteRangeRequest {
                key,
                range_end,
                prev_kv: of.prev_kv,
            })
        }
        Op::Txn(inner) => Request::RequestTxn(txn(space, *inner)),
    };
    pb::RequestOp {
        request: Some(request),
    }
}

fn put(space: &Keyspace, put: Put) -> pb::PutRequest {
    pb::PutRequest {
        key: space.key(&put.key),
        ignore_value: put.value.is_none(),
        value: put.value.unwrap_or_default(),
        lease: match put.lease {
            PutLease::Set(lease) => lease.map_or(0, |lease| lease.0),
            PutLease::Keep => 0,
        },
        ignore_lease: put.lease == PutLease::Keep,
        prev_kv: put.prev_kv,
    }
}

fn compare(space: &Keyspace, compare: &Compare) -> pb::Compare {
    let (key, range_end) = space.range(&compare.keys);
    let result = match compare.relation {
        Relation::Equal => CompareResult::Equal,
        Relation::Greater => CompareResult::Greater,
        Relation::Less => CompareResult::Less,
        Relation::NotEqual => CompareResult::NotEqual,
    };
    let (target, operand) = match &compare.target {
        CompareTarget::Version(number) => (Target::Version, TargetUnion::Version(*number)),
        CompareTarget::Create(number) => (Target::Create, TargetUnion::CreateRevision(*number)),
        CompareTarget::Mod(number) => (Target::Mod, TargetUnion::ModRevision(*number)),
        CompareTarget::Value(value) => (Target::Value, TargetUnion::Value(value.clone())),
        CompareTarget::Lease(number) => (Target::Lease, TargetUnion::Lease(*number)),
    };
    pb::Compare {
        result: result.into(),
        target: target.into(),
        key,
        target_union: Some(operand),
        range_end,
    }
}

pub(super) fn txn_result(space: &Keyspace, answer: pb::TxnResponse) -> TxnResult {
    let results = answer.responses.into_iter().filter_map(|one| one.response);
    TxnResult {
        revision: revision(answer.header.as_ref()),
        succeeded: answer.succeeded,
        results: results.map(|one| op_result(space, one)).collect(),
    }
}

fn op_result(space: &Keyspace, answer: Response) -> OpResult {
    match answer {
        Response::ResponseRange(range) => OpResult::Range(range_result(space, &range)),
        Response::ResponsePut(put) => OpResult::Put(PutResult {
            revision: revision(put.header.as_ref()),
            prev_kv: put.prev_kv.as_ref().map(|kv| key_value(space, kv)),
        }),
        Response::ResponseDeleteRange(delete) => OpResult::Delete(DeleteResult {
            revision: revision(delete.header.as_ref()),
            deleted: delete.deleted,
            prev_kvs: delete.prev_kvs.iter().map(|kv| key_value(space, kv)).collect(),
        }),
        Response::ResponseTxn(txn) => OpResult::Txn(txn_result(space, txn)),
    }
}

/// An event; one without a key is none.
pub(super) fn event(space: &Keyspace, event: &mvccpb::Event) -> Option<Event> {
    let kind = match event.r#type() {
        mvccpb::event::EventType::Put => EventKind::Put,
        mvccpb::event::EventType::Delete => EventKind::Delete,
    };
    Some(Event {
        kind,
        kv: key_value(space, event.kv.as_ref()?),
        prev_kv: event.prev_kv.as_ref().map(|kv| key_value(space, kv)),
        // etcd has no place for it.
        trace: None,
        encoded: [OnceLock::new(), OnceLock::new()],
    })
}
