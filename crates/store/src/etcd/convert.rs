//! Requests as the store understands them, and the checks etcd makes before it looks at its data.
//!
//! The order of checks is etcd's (`server/etcdserver/api/v3rpc/key.go`): a request wrong in two ways gets the same
//! error here as there.

use bytes::{Buf, Bytes};
use prost::Message;
use setpoint_proto::etcdserverpb as pb;
use tonic::Status;

use super::status::{self, status as of};
use crate::Error;
use crate::types::{Delete, KeyRange, LeaseId, Put, PutLease, Range, Revision, SortTarget};

/// What surrounds a request in etcd's replicated log, in bytes: its size limit counts that too.
const ENVELOPE_BYTES: usize = 20;

/// The longest that a text says of what cannot be decoded, in bytes.
const FLAW_BYTES_MAX: usize = 160;

/// Decodes a request; nested too deep or malformed is grpc-go's error for it.
pub(super) fn decode<M: Message + Default>(request: impl Buf) -> Result<M, Status> {
    M::decode(request).map_err(|error| {
        let text = error.to_string();
        Status::internal(format!("grpc: error unmarshalling request: {}", innermost(&text)))
    })
}

/// Decodes a transaction. Nested deeper than can be decoded is more than can be done, as etcd says of its own bound.
pub(super) fn decode_txn(request: Bytes) -> Result<pb::TxnRequest, Status> {
    decode(request).map_err(|status| {
        if status.message().ends_with("recursion limit reached") {
            return of(&Error::TooManyOps);
        }
        status
    })
}

/// The end of a text, where the flaw itself is named: a text has the names of all the messages around it, and how many
/// there are is the sender's choice.
fn innermost(text: &str) -> &str {
    let from = text.len().saturating_sub(FLAW_BYTES_MAX);
    let from = (from..text.len()).find(|at| text.is_char_boundary(*at));
    text.get(from.unwrap_or(0)..).unwrap_or(text)
}

/// Refuses a write request that is larger than `max` bytes.
pub(super) fn check_size(request: &Bytes, max: usize) -> Result<(), Status> {
    if request.len() + ENVELOPE_BYTES > max {
        return Err(of(&Error::RequestTooLarge));
    }
    Ok(())
}

/// No id is 0 on the wire.
pub(super) fn lease_id(id: i64) -> Option<LeaseId> {
    (id != 0).then_some(LeaseId(id))
}

/// Checks and converts a range.
pub(super) fn range(request: pb::RangeRequest) -> Result<Range, Status> {
    check_range(&request)?;
    use pb::range_request::{SortOrder, SortTarget as Target};
    let target = match request.sort_target() {
        Target::Key => SortTarget::Key,
        Target::Version => SortTarget::Version,
        Target::Create => SortTarget::Create,
        Target::Mod => SortTarget::Mod,
        Target::Value => SortTarget::Value,
    };
    let ordered = request.sort_order() != SortOrder::None;
    let sort = match (request.sort_order(), target) {
        // The store's own order; a target without an order is ascending.
        (SortOrder::None | SortOrder::Ascend, SortTarget::Key) => None,
        (order, target) => Some((target, order == SortOrder::Descend)),
    };
    Ok(Range {
        keys: KeyRange::from_wire(request.key, request.range_end),
        // Below 0 is "now" too, except inside a transaction: the store knows which this is.
        revision: (request.revision != 0).then_some(Revision(request.revision)),
        limit: usize::try_from(request.limit).unwrap_or(0),
        keys_only: request.keys_only,
        count_only: request.count_only,
        sort,
        limit_first: !ordered,
        mod_bounds: (request.min_mod_revision, request.max_mod_revision),
        create_bounds: (request.min_create_revision, request.max_create_revision),
    })
}

pub(super) fn check_range(request: &pb::RangeRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(of(&Error::EmptyKey));
    }
    let order = pb::range_request::SortOrder::try_from(request.sort_order);
    let target = pb::range_request::SortTarget::try_from(request.sort_target);
    if order.is_err() || target.is_err() {
        return Err(status::invalid_sort());
    }
    Ok(())
}

pub(super) fn check_put(request: &pb::PutRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(of(&Error::EmptyKey));
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(of(&Error::ValueProvided));
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(of(&Error::LeaseProvided));
    }
    Ok(())
}

/// Checks and converts a put.
pub(super) fn put(request: pb::PutRequest) -> Result<Put, Status> {
    check_put(&request)?;
    Ok(Put {
        key: request.key,
        value: (!request.ignore_value).then_some(request.value),
        lease: if request.ignore_lease {
            PutLease::Keep
        } else {
            PutLease::Set(lease_id(request.lease))
        },
        prev_kv: request.prev_kv,
    })
}

pub(super) fn check_delete(request: &pb::DeleteRangeRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(of(&Error::EmptyKey));
    }
    Ok(())
}

/// Checks and converts a deletion.
pub(super) fn delete(request: pb::DeleteRangeRequest) -> Result<Delete, Status> {
    check_delete(&request)?;
    Ok(Delete {
        keys: KeyRange::from_wire(request.key, request.range_end),
        prev_kv: request.prev_kv,
    })
}

/// Whether some key of `keys` begins with `prefix`.
pub(super) fn touches(keys: &KeyRange, prefix: &[u8]) -> bool {
    let all = KeyRange::prefix(prefix);
    let begins_before_end = |start: &[u8]| match &all {
        KeyRange::Span(_, end) => start < &end[..],
        KeyRange::Key(_) | KeyRange::From(_) => true,
    };
    match keys {
        KeyRange::Key(key) => key.starts_with(prefix),
        KeyRange::From(start) => begins_before_end(start),
        KeyRange::Span(start, end) => start < end && begins_before_end(start) && prefix < &end[..],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_about_a_flaw_does_not_grow_with_the_message() {
        // Transactions in steps of transactions; the innermost ends too early.
        let mut deep = vec![0x12, 5];
        for _ in 0..30 {
            for tag in [0x22, 0x12] {
                let mut outer = vec![tag, u8::try_from(deep.len()).unwrap()];
                outer.append(&mut deep);
                deep = outer;
            }
        }
        let status = decode::<pb::TxnRequest>(&deep[..]).unwrap_err();
        assert_eq!(status.code(), tonic::Code::Internal);
        let text = status.message();
        assert!(text.starts_with("grpc: error unmarshalling request: "), "{text}");
        assert!(text.len() < 250, "{text}");
    }

    #[test]
    fn a_range_touches_a_prefix_when_they_share_a_key() {
        let b = Bytes::from_static;
        for (keys, expect) in [
            (KeyRange::Key(b(b"/registry/pods")), true),
            (KeyRange::Key(b(b"/registr")), false),
            (KeyRange::From(b(b"/")), true),
            (KeyRange::From(b(b"/registry0")), false),
            (KeyRange::From(b(b"/registry/zzz")), true),
            (KeyRange::Span(b(b"/a"), b(b"/registry/")), false),
            (KeyRange::Span(b(b"/a"), b(b"/registry/a")), true),
            (KeyRange::Span(b(b"/registry/a"), b(b"/registry/b")), true),
            (KeyRange::Span(b(b"/registry/b"), b(b"/registry/a")), false),
            (KeyRange::Span(b(b"/registry0"), b(b"/z")), false),
            (KeyRange::Span(b(b"/z"), b(b"/a")), false),
        ] {
            assert_eq!(touches(&keys, b"/registry/"), expect, "{keys:?}");
        }
    }
}
