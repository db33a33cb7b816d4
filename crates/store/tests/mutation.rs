//! Parsers of disk and network bytes, fed with valid inputs that were damaged: they may refuse, never panic.
//!
//! The same doors as `fuzz/`, without its search: a fixed number of mutations from a fixed seed.

use std::sync::Arc;

use prost::Message;
use setpoint_base::{FsDisk, SystemClock};
use setpoint_proto::etcdserverpb as pb;
use setpoint_store::types::Put;
use setpoint_store::{Options, Store, fuzzing};

use crate::support::TempDir;

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

#[test]
fn damaged_json_is_refused_without_a_panic() {
    let valid = [
        r#"{"key":"Zm9v","range_end":"AA==","limit":"10","sort_order":"DESCEND","sort_target":2}"#,
        r#"{"compare":[{"key":"a2V5","target":"VALUE","value":"dg=="}],"success":[{"request_put":{"key":"a2V5"}}]}"#,
        r#"{"create_request":{"key":"AA==","start_revision":"7","filters":["NOPUT"],"fragment":true}}"#,
    ];
    assert!(
        fuzzing::etcd_json(0, valid[0].as_bytes()),
        "the undamaged request is one"
    );
    let mut rng = fastrand::Rng::with_seed(3);
    for round in 0..MUTATIONS {
        let json = valid[usize::try_from(round % 3).expect("small")];
        for kind in [0, 4, 6] {
            fuzzing::etcd_json(kind, &mutate(json.as_bytes(), &mut rng));
        }
    }
}

#[test]
fn a_damaged_snapshot_is_refused_without_a_panic() {
    let dir = TempDir::new();
    let store = Store::open(Options::new(dir.path()), Arc::new(FsDisk), SystemClock::shared()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for n in 0..300 {
        let put = Put::new(format!("key{n}"), "value".repeat(n % 50));
        runtime.block_on(store.put(put, None)).unwrap();
    }
    let mut file = Vec::new();
    let snapshot = store.snapshot().unwrap();
    snapshot
        .write(&mut |bytes| {
            file.extend_from_slice(bytes);
            Ok(())
        })
        .unwrap();
    assert!(fuzzing::bolt(&file), "the undamaged file is one");
    let mut rng = fastrand::Rng::with_seed(4);
    for _ in 0..MUTATIONS / 10 {
        fuzzing::bolt(&mutate(&file, &mut rng));
    }
}
