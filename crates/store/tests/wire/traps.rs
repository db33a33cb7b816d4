//! Details of etcd's answers that one gets wrong when reading its sources quickly.

use super::*;

#[tokio::test]
async fn an_answer_of_keys_alone_names_no_lease() {
    // As in 3.7, which serves it from the index; 3.6 still named the lease (etcd 21791).
    let server = Server::plain().await;
    let mut lease = LeaseClient::new(server.channel().await);
    lease
        .lease_grant(pb::LeaseGrantRequest { ttl: 60, id: 5 })
        .await
        .unwrap();
    let mut kv = server.kv().await;
    let leased = pb::PutRequest {
        lease: 5,
        ..put("a", "1")
    };
    kv.put(leased).await.unwrap();
    let keys = pb::RangeRequest {
        keys_only: true,
        ..get("a", "")
    };
    let keys = kv.range(keys).await.unwrap().into_inner().kvs.remove(0);
    assert_eq!((keys.lease, &keys.value[..]), (0, &b""[..]));
    // Unless they are put in order by value: then etcd has read the whole pair.
    let sorted = pb::RangeRequest {
        keys_only: true,
        sort_target: pb::range_request::SortTarget::Value as i32,
        ..get("a", "")
    };
    let sorted = kv.range(sorted).await.unwrap().into_inner().kvs.remove(0);
    assert_eq!((sorted.lease, &sorted.value[..]), (5, &b""[..]));
    let whole = kv.range(get("a", "")).await.unwrap().into_inner().kvs.remove(0);
    assert_eq!(whole.lease, 5);
    server.stop().await;
}

#[tokio::test]
async fn a_target_without_an_order_is_put_in_order_after_the_limit_and_one_with_it_before() {
    use pb::range_request::{SortOrder, SortTarget};
    let server = Server::plain().await;
    let mut kv = server.kv().await;
    for (key, value) in [("a", "5"), ("b", "4"), ("c", "3"), ("d", "2"), ("e", "1")] {
        kv.put(put(key, value)).await.unwrap();
    }
    let sorted = |order: SortOrder| pb::RangeRequest {
        limit: 2,
        sort_target: SortTarget::Value as i32,
        sort_order: order as i32,
        ..get("a", "\0")
    };
    let bounded = pb::RangeRequest {
        min_mod_revision: 1,
        ..sorted(SortOrder::None)
    };
    for (request, keys) in [
        // The limit and one more of the keys as they lie: a, b, c.
        (sorted(SortOrder::None), ["c", "b"]),
        (bounded, ["e", "d"]),
        (sorted(SortOrder::Ascend), ["e", "d"]),
        (sorted(SortOrder::Descend), ["a", "b"]),
    ] {
        let in_txn = txn(vec![op(Op::RequestRange(request.clone()))]);
        let answer = kv.range(request).await.unwrap().into_inner();
        let said: Vec<_> = answer.kvs.iter().map(|kv| kv.key.clone()).collect();
        assert_eq!(said, keys);
        assert_eq!((answer.more, answer.count), (true, 5));
        let nested = kv.txn(in_txn).await.unwrap().into_inner().responses.remove(0);
        let Some(pb::response_op::Response::ResponseRange(nested)) = nested.response else {
            panic!("{nested:?}")
        };
        assert_eq!((nested.kvs, nested.more, nested.count), (answer.kvs, true, 5));
    }
    server.stop().await;
}

#[tokio::test]
async fn the_header_of_a_read_of_the_past_is_of_now() {
    let server = Server::plain().await;
    let mut kv = server.kv().await;
    for n in 0..4 {
        kv.put(put("a", &n.to_string())).await.unwrap();
    }
    let past = pb::RangeRequest {
        revision: 3,
        ..get("a", "")
    };
    let answer = kv.range(past).await.unwrap().into_inner();
    assert_eq!(
        (answer.header.unwrap().revision, answer.kvs[0].mod_revision),
        (5, 3)
    );
    server.stop().await;
}

#[tokio::test]
async fn compaction_at_zero_is_fine_on_a_fresh_store() {
    let server = Server::plain().await;
    let mut kv = server.kv().await;
    let compact = |revision| pb::CompactionRequest {
        revision,
        physical: false,
    };
    let answer = kv.compact(compact(0)).await.unwrap().into_inner();
    assert_eq!(answer.header.unwrap().revision, 1);
    refused(
        kv.compact(compact(0)).await,
        Code::OutOfRange,
        "etcdserver: mvcc: required revision has been compacted",
    );
    refused(
        kv.compact(compact(2)).await,
        Code::OutOfRange,
        "etcdserver: mvcc: required revision is a future revision",
    );
    server.stop().await;
}

#[tokio::test]
async fn the_first_watcher_is_number_zero_although_zero_asks_for_any() {
    let server = Server::plain().await;
    let mut watch = server.watch().await;
    for id in 0..3 {
        let created = watch
            .create(pb::WatchCreateRequest {
                key: "a".into(),
                watch_id: 0,
                ..Default::default()
            })
            .await;
        assert_eq!((created.created, created.watch_id), (true, id));
    }
    server.stop().await;
}

#[tokio::test]
async fn an_empty_key_is_refused_by_reads_and_means_everything_to_watchers() {
    let server = Server::plain().await;
    let mut kv = server.kv().await;
    refused(
        kv.range(get("", "")).await,
        INVALID,
        "etcdserver: key is not provided",
    );
    let mut watch = server.watch().await;
    let all = pb::WatchCreateRequest {
        range_end: "\0".into(),
        ..Default::default()
    };
    watch.create(all).await;
    kv.put(put("any", "1")).await.unwrap();
    assert_eq!(watch.next().await.events[0].kv.as_ref().unwrap().key, "any");
    server.stop().await;
}
