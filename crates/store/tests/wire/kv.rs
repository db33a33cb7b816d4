//! Keys, transactions, leases: answers, headers, errors.

use super::*;

#[tokio::test]
async fn reads_that_make_no_sense_get_etcds_errors() {
    let server = Server::plain().await;
    let mut kv = server.kv().await;
    kv.put(put("a", "1")).await.unwrap();
    for (request, code, text) in [
        (get("", ""), INVALID, "etcdserver: key is not provided"),
        (
            pb::RangeRequest {
                sort_order: 9,
                ..get("a", "")
            },
            INVALID,
            "etcdserver: invalid sort option",
        ),
        (
            pb::RangeRequest {
                sort_target: -1,
                ..get("a", "")
            },
            INVALID,
            "etcdserver: invalid sort option",
        ),
        (
            pb::RangeRequest {
                revision: 3,
                ..get("a", "")
            },
            Code::OutOfRange,
            "etcdserver: mvcc: required revision is a future revision",
        ),
    ] {
        refused(kv.range(request).await, code, text);
    }
    kv.put(put("a", "2")).await.unwrap();
    kv.compact(pb::CompactionRequest {
        revision: 3,
        physical: true,
    })
    .await
    .unwrap();
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    let past = pb::RangeRequest {
        revision: 2,
        ..get("a", "")
    };
    refused(kv.range(past).await, Code::OutOfRange, compacted);
    for (revision, text) in [
        (3, compacted),
        (4, "etcdserver: mvcc: required revision is a future revision"),
    ] {
        let request = pb::CompactionRequest {
            revision,
            physical: false,
        };
        refused(kv.compact(request).await, Code::OutOfRange, text);
    }
    server.stop().await;
}

#[tokio::test]
async fn writes_that_make_no_sense_get_etcds_errors() {
    let server = Server::plain().await;
    let mut kv = server.kv().await;
    for (request, code, text) in [
        (put("", "v"), INVALID, "etcdserver: key is not provided"),
        (
            pb::PutRequest {
                ignore_value: true,
                ..put("a", "v")
            },
            INVALID,
            "etcdserver: value is provided",
        ),
        (
            pb::PutRequest {
                ignore_lease: true,
                lease: 1,
                ..put("a", "v")
            },
            INVALID,
            "etcdserver: lease is provided",
        ),
        (
            pb::PutRequest {
                ignore_value: true,
                ..put("a", "")
            },
            INVALID,
            "etcdserver: key not found",
        ),
        (
            pb::PutRequest {
                ignore_lease: true,
                ..put("a", "v")
            },
            INVALID,
            "etcdserver: key not found",
        ),
        (
            pb::PutRequest {
                lease: 77,
                ..put("a", "v")
            },
            Code::NotFound,
            "etcdserver: requested lease not found",
        ),
        (
            put("a", &"v".repeat(1536 << 10)),
            INVALID,
            "etcdserver: request is too large",
        ),
        (
            put("a", &"v".repeat(2 << 20)),
            Code::ResourceExhausted,
            "grpc: received message larger than max (2097160 vs. 2097152)",
        ),
    ] {
        refused(kv.put(request).await, code, text);
    }
    let empty = pb::DeleteRangeRequest::default();
    refused(
        kv.delete_range(empty).await,
        INVALID,
        "etcdserver: key is not provided",
    );
    assert_eq!(server.store.revision().0, 1, "nothing was written");
    server.stop().await;
}

#[tokio::test]
async fn a_transaction_of_ten_thousand_steps_is_too_large_and_one_of_128_is_not() {
    let server = Server::plain().await;
    let mut kv = server.kv().await;
    let puts = |n: usize| {
        txn((0..n)
            .map(|i| op(Op::RequestPut(put(&format!("k{i}"), "v"))))
            .collect())
    };
    refused(
        kv.txn(puts(10_000)).await,
        INVALID,
        "etcdserver: too many operations in txn request",
    );
    let response = kv.txn(puts(128)).await.unwrap().into_inner();
    assert_eq!(
        (response.responses.len(), response.header.unwrap().revision),
        (128, 2)
    );
    let twice = txn(vec![
        op(Op::RequestPut(put("a", "1"))),
        op(Op::RequestPut(put("a", "2"))),
    ]);
    refused(
        kv.txn(twice).await,
        INVALID,
        "etcdserver: duplicate key given in txn request",
    );
    let nothing = txn(vec![pb::RequestOp { request: None }]);
    refused(kv.txn(nothing).await, INVALID, "etcdserver: key not found");
    server.stop().await;
}

#[tokio::test]
async fn headers_tell_who_answered_and_nested_ones_only_when() {
    let server = Server::plain().await;
    let mut kv = server.kv().await;
    let header = kv.range(get("a", "")).await.unwrap().into_inner().header.unwrap();
    assert_eq!(header.revision, 1, "of a store that is empty");
    assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term != 0);
    kv.put(put("a", "1")).await.unwrap();
    kv.put(put("a", "2")).await.unwrap();
    let old = pb::RangeRequest {
        revision: 2,
        ..get("a", "")
    };
    let old = kv.range(old).await.unwrap().into_inner();
    assert_eq!(
        (old.kvs[0].value.as_ref(), old.header.unwrap().revision),
        (&b"1"[..], 3)
    );
    let inner = op(Op::RequestTxn(txn(vec![op(Op::RequestRange(get("a", "")))])));
    let response = kv
        .txn(txn(vec![inner, op(Op::RequestPut(put("b", "")))]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(response.header.unwrap().revision, 4);
    let [nested, put] = &response.responses[..] else {
        panic!("{:?}", response.responses)
    };
    let only = |revision| pb::ResponseHeader {
        revision,
        ..Default::default()
    };
    match (&nested.response, &put.response) {
        (
            Some(pb::response_op::Response::ResponseTxn(nested)),
            Some(pb::response_op::Response::ResponsePut(put)),
        ) => {
            assert_eq!((nested.header, put.header), (Some(only(0)), Some(only(4))));
        }
        other => panic!("{other:?}"),
    }
    let gone = pb::DeleteRangeRequest {
        key: "nothing".into(),
        ..Default::default()
    };
    let gone = kv.delete_range(gone).await.unwrap().into_inner();
    assert_eq!((gone.deleted, gone.header.unwrap().revision), (0, 4));
    server.stop().await;
}

#[tokio::test]
async fn reversed_and_empty_ranges_hold_no_keys() {
    let server = Server::plain().await;
    let mut kv = server.kv().await;
    kv.put(put("b", "1")).await.unwrap();
    for (key, end, count) in [
        ("c", "a", 0),
        ("b", "b", 0),
        ("b", "c", 1),
        ("a", "\0", 1),
        ("\0", "\0", 1),
        ("c", "\0", 0),
    ] {
        let response = kv.range(get(key, end)).await.unwrap().into_inner();
        assert_eq!(
            (response.count, response.kvs.len() as i64),
            (count, count),
            "{key:?}..{end:?}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn large_answers_arrive_whole_as_one_message_and_as_a_stream() {
    let server = Server::plain().await;
    let mut kv = server.kv().await;
    for n in 0..300 {
        let len = [10, 5_000, 20_000, 60_000][n % 4];
        kv.put(put(&format!("k{n:03}"), &"v".repeat(len))).await.unwrap();
    }
    let whole = kv.range(get("k", "l")).await.unwrap().into_inner();
    assert_eq!((whole.count, whole.kvs.len()), (300, 300));
    let lens: usize = whole.kvs.iter().map(|kv| kv.value.len()).sum();
    assert_eq!(lens, 75 * (10 + 5_000 + 20_000 + 60_000));

    let mut parts = kv
        .range_stream(pb::RangeRequest {
            limit: 250,
            ..get("k", "l")
        })
        .await
        .unwrap()
        .into_inner();
    let mut joined = Vec::new();
    let mut last = None;
    while let Some(part) = parts.message().await.unwrap() {
        let part = part.range_response.unwrap();
        assert!(
            last.replace(part.header.is_some()) != Some(true),
            "the header comes last"
        );
        joined.extend(part.kvs);
        if part.header.is_some() {
            assert_eq!((part.count, part.more), (300, true));
        }
    }
    assert_eq!(last, Some(true));
    assert!(joined == whole.kvs[..250]);
    let sorted = pb::RangeRequest {
        sort_target: 3,
        ..get("k", "l")
    };
    refused(
        kv.range_stream(sorted).await,
        Code::Unimplemented,
        "RangeStream does not support custom sort orders",
    );
    server.stop().await;
}

#[tokio::test]
async fn a_lease_that_is_gone_is_told_in_band_and_revoked_with_an_error() {
    let server = Server::plain().await;
    let mut lease = LeaseClient::new(server.channel().await);
    let granted = lease
        .lease_grant(pb::LeaseGrantRequest { ttl: 1, id: 5 })
        .await
        .unwrap()
        .into_inner();
    assert_eq!((granted.id, granted.ttl), (5, 2), "raised to the minimum");
    let again = pb::LeaseGrantRequest { ttl: 60, id: 5 };
    refused(
        lease.lease_grant(again).await,
        Code::FailedPrecondition,
        "etcdserver: lease already exists",
    );
    let long = pb::LeaseGrantRequest {
        ttl: 9_000_000_001,
        id: 6,
    };
    refused(
        lease.lease_grant(long).await,
        Code::OutOfRange,
        "etcdserver: too large lease TTL",
    );
    let revoke = pb::LeaseRevokeRequest { id: 6 };
    refused(
        lease.lease_revoke(revoke).await,
        Code::NotFound,
        "etcdserver: requested lease not found",
    );
    let ask = pb::LeaseTimeToLiveRequest { id: 6, keys: true };
    let gone = lease.lease_time_to_live(ask).await.unwrap().into_inner();
    assert_eq!((gone.id, gone.ttl, gone.granted_ttl), (6, -1, 0));
    let requests = tokio_stream::iter([5, 6].map(|id| pb::LeaseKeepAliveRequest { id }));
    let mut answers = lease.lease_keep_alive(requests).await.unwrap().into_inner();
    for expect in [(5, 2), (6, 0)] {
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!((answer.id, answer.ttl), expect);
    }
    assert!(answers.message().await.unwrap().is_none());
    server.stop().await;
}

#[tokio::test]
async fn keys_that_an_api_server_owns_are_read_only() {
    let server = Server::start(|options| options.read_only_prefix = Some("/registry/".into())).await;
    let mut kv = server.kv().await;
    let text = "etcdserver: permission denied: keys under /registry/ are written by the API server of this process; \
                write through it, or start with --etcd-writes-registry";
    let denied = Code::PermissionDenied;
    refused(kv.put(put("/registry/pods/a", "v")).await, denied, text);
    let delete = pb::DeleteRangeRequest {
        key: "/".into(),
        range_end: "\0".into(),
        ..Default::default()
    };
    refused(kv.delete_range(delete.clone()).await, denied, text);
    let nested = op(Op::RequestTxn(pb::TxnRequest {
        failure: vec![op(Op::RequestDeleteRange(delete))],
        ..Default::default()
    }));
    refused(kv.txn(txn(vec![nested])).await, denied, text);
    kv.put(put("/registryx", "v")).await.unwrap();
    kv.range(get("/registry/", "/registry0")).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_transaction_nested_too_deep_is_one_of_too_many_operations() {
    let deep = |levels: usize| {
        (1..levels).fold(pb::TxnRequest::default(), |inner, _| pb::TxnRequest {
            success: vec![pb::RequestOp {
                request: Some(Op::RequestTxn(inner)),
            }],
            ..pb::TxnRequest::default()
        })
    };
    let server = Server::plain().await;
    let mut kv = server.kv().await;
    kv.txn(deep(50)).await.unwrap();
    let text = "etcdserver: too many operations in txn request";
    for levels in [52, 129, 1_000] {
        refused(kv.txn(deep(levels)).await, INVALID, text);
    }
    server.stop().await;
}
