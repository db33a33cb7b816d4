//! The front's decoders and converters, for fuzzers.

use bytes::Bytes;
use prost::Message;
use setpoint_proto::etcdserverpb as pb;

use super::method::METHODS;
use super::{auth, convert, gateway, txn, watch};

/// How many kinds of requests [`request`] knows.
pub const REQUESTS: u8 = 11;

/// Decodes bytes as the `kind`th request and converts it as the front would; whether it was a request.
pub fn request(kind: u8, bytes: &[u8]) -> bool {
    let bytes = Bytes::copy_from_slice(bytes);
    match kind % REQUESTS {
        0 => decode::<pb::RangeRequest>(bytes, |request| convert::range(request).is_ok()),
        1 => decode::<pb::PutRequest>(bytes, |request| {
            convert::check_put(&request).is_ok() && convert::put(request).is_ok()
        }),
        2 => decode::<pb::DeleteRangeRequest>(bytes, |request| {
            convert::check_delete(&request).is_ok() && convert::delete(request).is_ok()
        }),
        3 => decode::<pb::TxnRequest>(bytes, |request| {
            txn::check(&request, 128).is_ok() && txn::convert(request).is_ok()
        }),
        4 => decode::<pb::CompactionRequest>(bytes, |_| true),
        5 => decode::<pb::WatchRequest>(bytes, |request| {
            if let Some(pb::watch_request::RequestUnion::CreateRequest(create)) = request.request_union {
                let _ = watch::spec(&create);
            }
            true
        }),
        6 => decode::<pb::LeaseGrantRequest>(bytes, |_| true),
        7 => decode::<pb::LeaseRevokeRequest>(bytes, |_| true),
        8 => decode::<pb::LeaseKeepAliveRequest>(bytes, |_| true),
        9 => decode::<pb::LeaseTimeToLiveRequest>(bytes, |_| true),
        _ => decode::<pb::LeaseLeasesRequest>(bytes, |_| true),
    }
}

/// Reads bytes as the JSON of the `kind`th method's request; whether it was one.
pub fn json(kind: u8, bytes: &[u8]) -> bool {
    let (method, ..) = METHODS[usize::from(kind) % METHODS.len()];
    gateway::reads_as_request(method, bytes)
}

/// Reads a text as a token, as it comes and with the signature that its beginning ought to have.
pub fn token(text: &str) {
    auth::reads_token(text);
}

fn decode<M: Message + Default>(bytes: Bytes, convert: impl FnOnce(M) -> bool) -> bool {
    convert::decode::<M>(bytes).is_ok_and(convert)
}
