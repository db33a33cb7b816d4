//! Watch streams: ids, order, ends.

use setpoint_store::types;

use super::raw::http;
use super::*;
use crate::support::open;

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

/// Creates watchers of "a", numbered from 0, every so many of which wants previous versions, if any does.
async fn crowd(server: &Server, watchers: i64, prev_kv_every: Option<i64>) -> Watching {
    let mut watch = server.watch().await;
    for id in 0..watchers {
        let request = pb::WatchCreateRequest {
            key: "a".into(),
            prev_kv: prev_kv_every.is_some_and(|every| id % every == 0),
            ..Default::default()
        };
        assert_eq!(watch.create(request).await.watch_id, id);
    }
    watch
}

#[tokio::test]
async fn streams_of_crowds_are_told_what_each_of_their_watchers_asked_for() {
    let server = Server::plain().await;
    let mut kv = server.kv().await;
    kv.put(put("a", "0")).await.unwrap();
    // Some are alike, others not quite: in number, in what they want, or in who is still there.
    let mut streams = Vec::new();
    for (watchers, prev_kv_every, gone) in [
        (20, None, None),
        (20, None, None),
        (20, Some(1), None),
        (20, Some(3), None),
        (30, None, None),
        (20, None, Some(4)),
    ] {
        let mut watch = crowd(&server, watchers, prev_kv_every).await;
        if let Some(watch_id) = gone {
            watch
                .send(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id }))
                .await;
            assert!(watch.next().await.canceled);
        }
        streams.push((watch, watchers, prev_kv_every, gone));
    }
    let value = |n: i64| Bytes::from(n.to_string().repeat(2_000));
    for n in 1..=3 {
        let request = pb::PutRequest {
            key: "a".into(),
            value: value(n),
            ..Default::default()
        };
        kv.put(request).await.unwrap();
    }
    for (watch, watchers, prev_kv_every, gone) in &mut streams {
        let mut seen = vec![Vec::new(); *watchers as usize];
        let all = seen.len() - usize::from(gone.is_some());
        while seen.iter().map(Vec::len).sum::<usize>() < 3 * all {
            let response = watch.next().await;
            for event in response.events {
                let (kv, prev) = (event.kv.unwrap(), event.prev_kv);
                seen[response.watch_id as usize].push((
                    kv.mod_revision,
                    kv.value,
                    prev.map(|kv| kv.mod_revision),
                ));
            }
        }
        for (id, seen) in (0..).zip(seen) {
            let wants_prev = prev_kv_every.is_some_and(|every| id % every == 0);
            let told = |n: i64| (n + 2, value(n), wants_prev.then_some(n + 1));
            let expect = if *gone == Some(id) {
                vec![]
            } else {
                vec![told(1), told(2), told(3)]
            };
            assert!(seen == expect, "{id} of {watchers}");
        }
    }
    server.stop().await;
}

/// A front for a store in which the first of the values "v0", "v1" and so on has rotted, after the checkpoint.
async fn rotten() -> Server {
    let dir = TempDir::new();
    let store = open(dir.path());
    for n in 0..200 {
        let value = format!("v{n}-").repeat(1_000);
        let put = types::Put::new(format!("key{n}"), value);
        store.put(put, None).await.unwrap();
    }
    store.close().await.unwrap();
    drop(store);
    flip_first(dir.path(), b"v0-v0-");
    let store = open(dir.path());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let metrics = |options: &mut FrontOptions| options.metrics = Some(setpoint_telemetry::Metrics::new());
    Server::over(dir, store, addr, metrics, vec![Listener::tcp(listener)])
}

/// Changes the first byte of the first place where a segment holds `what`.
fn flip_first(dir: &std::path::Path, what: &[u8]) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "seg") {
            continue;
        }
        let mut bytes = std::fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(what.len()).position(|window| window == what) {
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            return;
        }
    }
    panic!("no segment holds it");
}

#[tokio::test]
async fn a_watch_over_damaged_history_is_cancelled_with_its_reason_and_the_front_says_corrupt() {
    let server = rotten().await;
    assert!(http(&server, "GET /readyz").await.0.contains("200"));
    let mut watch = server.watch().await;
    let from = |revision| pb::WatchCreateRequest {
        key: "key".into(),
        range_end: "kez".into(),
        start_revision: revision,
        ..Default::default()
    };
    assert!(watch.create(from(2)).await.created);
    let ended = watch.next().await;
    assert!(ended.canceled);
    assert_eq!(
        (
            ended.watch_id,
            ended.compact_revision,
            ended.cancel_reason.as_str()
        ),
        (0, 0, "etcdserver: corrupt cluster")
    );
    let revision = server.store.revision().0;
    assert!(watch.create(from(revision)).await.created, "the stream goes on");
    assert_eq!(watch.next().await.events.len(), 1);

    let mut kv = server.kv().await;
    let get = |key: &str| pb::RangeRequest {
        key: key.to_owned().into(),
        ..Default::default()
    };
    let refused = kv.range(get("key0")).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::DataLoss, "etcdserver: corrupt cluster")
    );
    assert_eq!(kv.range(get("key1")).await.unwrap().into_inner().count, 1);
    let (line, body) = http(&server, "GET /readyz/data_corruption").await;
    assert!(line.contains("503"), "{line} {body}");
    let (line, body) = http(&server, "GET /health").await;
    assert!(
        line.contains("503") && body.contains("ALARM CORRUPT"),
        "{line} {body}"
    );
    assert!(http(&server, "GET /livez").await.0.contains("200"));
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
