//! Watch streams: ids, order, ends.

use super::*;

#[tokio::test]
async fn watch_ids_begin_at_zero_and_are_used_once() {
    let server = Server::plain().await;
    let mut watch = server.watch().await;
    let on = |key: &'static str| pb::WatchCreateRequest {
        key: key.into(),
        ..Default::default()
    };
    for (request, id, reason) in [
        (on("a"), 0, ""),
        (on("b"), 1, ""),
        (
            pb::WatchCreateRequest {
                watch_id: 7,
                ..on("c")
            },
            7,
            "",
        ),
        (
            pb::WatchCreateRequest {
                watch_id: 7,
                ..on("c")
            },
            -1,
            "mvcc: duplicate watch ID provided on the WatchStream",
        ),
        (
            pb::WatchCreateRequest {
                range_end: "a".into(),
                ..on("b")
            },
            -1,
            "mvcc: watcher range is empty",
        ),
        (
            pb::WatchCreateRequest {
                start_revision: -1,
                ..on("a")
            },
            -1,
            "etcdserver: mvcc: required revision has been compacted",
        ),
    ] {
        let response = watch.create(request).await;
        assert!(response.created);
        assert_eq!(
            (response.watch_id, response.canceled, &response.cancel_reason[..]),
            (id, id < 0, reason)
        );
        assert_eq!(response.header.unwrap().revision, 1);
    }
    // An unknown id has no answer, so the next one is that of a known id.
    for watch_id in [99, 1] {
        watch
            .send(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id }))
            .await;
    }
    let canceled = watch.next().await;
    assert_eq!(
        (canceled.watch_id, canceled.canceled, canceled.created),
        (1, true, false)
    );
    server.stop().await;
}

#[tokio::test]
async fn a_watch_sees_each_revision_once_with_what_it_asked_for() {
    let server = Server::plain().await;
    let mut kv = server.kv().await;
    kv.put(put("a", "1")).await.unwrap();
    let mut watch = server.watch().await;
    let created = watch
        .create(pb::WatchCreateRequest {
            key: "a".into(),
            start_revision: 2,
            prev_kv: true,
            ..Default::default()
        })
        .await;
    assert!(
        created.created && created.events.is_empty(),
        "created comes before the first event"
    );
    kv.put(put("a", "2")).await.unwrap();
    kv.put(put("b", "x")).await.unwrap();
    kv.delete_range(pb::DeleteRangeRequest {
        key: "a".into(),
        ..Default::default()
    })
    .await
    .unwrap();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        for event in watch.next().await.events {
            let (kv, prev) = (event.kv.unwrap(), event.prev_kv.map(|kv| kv.value));
            seen.push((event.r#type, kv.mod_revision, kv.value, prev));
        }
    }
    let b = Bytes::from_static;
    assert_eq!(
        seen,
        [
            (0, 2, b(b"1"), None),
            (0, 3, b(b"2"), Some(b(b"1"))),
            (1, 5, b(b""), Some(b(b"2")))
        ]
    );
    watch
        .send(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}))
        .await;
    let progress = watch.next().await;
    assert_eq!((progress.watch_id, progress.header.unwrap().revision), (-1, 5));
    server.stop().await;
}

#[tokio::test]
async fn a_watch_below_the_floor_ends_with_the_floor_and_no_revision() {
    let server = Server::plain().await;
    let mut kv = server.kv().await;
    for n in 0..4 {
        kv.put(put("a", &n.to_string())).await.unwrap();
    }
    kv.compact(pb::CompactionRequest {
        revision: 4,
        physical: false,
    })
    .await
    .unwrap();
    let mut watch = server.watch().await;
    let from = pb::WatchCreateRequest {
        key: "a".into(),
        start_revision: 2,
        ..Default::default()
    };
    assert!(watch.create(from).await.created);
    let ended = watch.next().await;
    assert!(ended.canceled);
    assert_eq!(
        (
            ended.compact_revision,
            ended.header.unwrap().revision,
            &ended.cancel_reason[..]
        ),
        (4, 0, "")
    );
    server.stop().await;
}

#[tokio::test]
async fn answers_too_large_are_cut_for_watchers_that_allow_it() {
    let server = Server::start(|options| options.request_bytes_max = 10_000).await;
    let mut kv = server.kv().await;
    let puts = (0..4)
        .map(|n| op(Op::RequestPut(put(&format!("a{n}"), &"v".repeat(2_000)))))
        .collect();
    kv.txn(txn(puts)).await.unwrap();
    kv.put(put("a0", &"w".repeat(8_000))).await.unwrap();
    let mut watch = server.watch().await;
    let all = pb::WatchCreateRequest {
        key: "a".into(),
        range_end: "b".into(),
        start_revision: 2,
        fragment: true,
        ..Default::default()
    };
    watch.create(all).await;
    let (first, second) = (watch.next().await, watch.next().await);
    assert_eq!((first.events.len(), first.fragment), (4, true));
    assert_eq!((second.events.len(), second.fragment), (1, false));
    server.stop().await;
}

#[tokio::test]
async fn a_stop_ends_streams_with_unavailable() {
    let server = Server::plain().await;
    let mut watch = server.watch().await;
    watch
        .create(pb::WatchCreateRequest {
            key: "a".into(),
            ..Default::default()
        })
        .await;
    server.tasks.stop().cancel();
    refused(
        watch.responses.message().await,
        Code::Unavailable,
        "etcdserver: server stopped",
    );
    server.stop().await;
}
