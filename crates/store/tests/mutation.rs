//! Parsers of disk and network bytes, fed with valid inputs that were damaged: they may refuse, never panic.
//!
//! The same doors as `fuzz/`, without its search: a fixed number of mutations from a fixed seed.

use prost::Message;
use setpoint_proto::etcdserverpb as pb;
use setpoint_store::fuzzing;

const MUTATIONS: u64 = 20_000;

/// Damages a valid input a few times over.
fn mutate(valid: &[u8], rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = valid.to_vec();
    for _ in 0..rng.usize(1..4) {
        let at = rng.usize(..=bytes.len());
        match rng.u8(..5) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(..8),
            1 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.usize(..5)],
            2 => bytes.truncate(at),
            3 => bytes.insert(at, rng.u8(..)),
            _ => {
                let end = rng.usize(at..=bytes.len());
                bytes.extend_from_within(at..end);
            }
        }
    }
    bytes
}

#[test]
fn damaged_segments_are_refused_without_a_panic() {
    let valid = fuzzing::valid_records();
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..MUTATIONS {
        // With its frame, and as content whose checksum is made to hold.
        fuzzing::segment(&mutate(&valid, &mut rng));
        fuzzing::segment(&mutate(&valid[8..], &mut rng));
    }
}

#[test]
fn damaged_checkpoints_are_refused_without_a_panic() {
    let valid = fuzzing::valid_checkpoint();
    assert!(fuzzing::is_checkpoint(&valid), "the undamaged one is one");
    let mut rng = fastrand::Rng::with_seed(3);
    for _ in 0..MUTATIONS {
        fuzzing::checkpoint(&mutate(&valid, &mut rng));
    }
}

#[test]
fn damaged_requests_are_refused_without_a_panic() {
    let put = pb::PutRequest {
        key: "key".into(),
        value: "value".into(),
        lease: 7,
        ..Default::default()
    };
    let range = pb::RangeRequest {
        key: "a".into(),
        range_end: "b".into(),
        limit: 3,
        ..Default::default()
    };
    let op = |request| pb::RequestOp {
        request: Some(request),
    };
    let inner = pb::TxnRequest {
        success: vec![op(pb::request_op::Request::RequestRange(range.clone()))],
        ..Default::default()
    };
    let txn = pb::TxnRequest {
        compare: vec![pb::Compare {
            key: "key".into(),
            ..Default::default()
        }],
        success: vec![op(pb::request_op::Request::RequestPut(put.clone()))],
        failure: vec![op(pb::request_op::Request::RequestTxn(inner))],
    };
    let create = pb::WatchCreateRequest {
        key: "a".into(),
        range_end: "b".into(),
        ..Default::default()
    };
    let watch = pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
    };
    let valid = [
        (0, range.encode_to_vec()),
        (1, put.encode_to_vec()),
        (3, txn.encode_to_vec()),
        (5, watch.encode_to_vec()),
    ];
    let mut rng = fastrand::Rng::with_seed(2);
    for (kind, bytes) in &valid {
        assert!(
            fuzzing::etcd_request(*kind, bytes),
            "the undamaged request is one"
        );
    }
    for round in 0..MUTATIONS {
        let (_, bytes) = &valid[usize::try_from(round % 4).expect("small")];
        for kind in 0..fuzzing::REQUESTS {
            fuzzing::etcd_request(kind, &mutate(bytes, &mut rng));
        }
    }
}
