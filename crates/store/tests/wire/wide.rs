//! Ranges of many keys: read as they are sent, and no different for it.

use super::*;
use pb::range_request::{SortOrder, SortTarget};

const KEYS: usize = 1_300;

/// A store whose keys have histories and leases, with some deleted; returns its revisions.
async fn with_history(server: &Server) -> i64 {
    let mut kv = server.kv().await;
    let lease = setpoint_store::types::LeaseId(7);
    server.store.lease_grant(Some(lease), 1000).await.unwrap();
    for round in 0..3 {
        for chunk in 0..KEYS / 100 {
            let puts = (0..100).filter(|n| (n + round) % 3 != 0).map(|n| {
                let n = chunk * 100 + n;
                let value = "v".repeat((n * 7919 + round * 31) % 900);
                op(Op::RequestPut(pb::PutRequest {
                    lease: if n % 5 == 0 { lease.0 } else { 0 },
                    ..put(&format!("k{n:05}"), &value)
                }))
            });
            kv.txn(txn(puts.collect())).await.unwrap();
        }
        let gone = pb::DeleteRangeRequest {
            key: format!("k{:05}", round * 100).into(),
            range_end: format!("k{:05}", round * 100 + 90).into(),
            ..Default::default()
        };
        kv.delete_range(gone).await.unwrap();
    }
    server.store.revision().0
}

/// What a range means, from all keys at its revision.
fn meant(request: &pb::RangeRequest, all: &[setpoint_proto::mvccpb::KeyValue]) -> pb::RangeResponse {
    let within = |least: i64, most: i64, n: i64| (least == 0 || n >= least) && (most == 0 || n <= most);
    let mut kvs: Vec<_> = all
        .iter()
        .filter(|kv| {
            within(
                request.min_mod_revision,
                request.max_mod_revision,
                kv.mod_revision,
            )
        })
        .cloned()
        .collect();
    let limit = usize::try_from(request.limit).unwrap();
    let in_order = request.sort_order() == SortOrder::None && request.sort_target() != SortTarget::Key;
    let more = limit > 0 && kvs.len() > limit;
    if more && in_order && (request.min_mod_revision, request.max_mod_revision) == (0, 0) {
        // A target without an order: the limit comes first, and leaves one key more for the sort.
        kvs.truncate(limit + 1);
    }
    match request.sort_target() {
        SortTarget::Value => kvs.sort_by(|a, b| a.value.cmp(&b.value)),
        SortTarget::Version => kvs.sort_by_key(|kv| kv.version),
        _ => (),
    }
    if request.sort_order() == SortOrder::Descend {
        match request.sort_target() {
            SortTarget::Value => kvs.sort_by(|a, b| b.value.cmp(&a.value)),
            _ => kvs.sort_by(|a, b| b.key.cmp(&a.key)),
        }
    }
    if more {
        kvs.truncate(limit);
    }
    if request.keys_only {
        for kv in &mut kvs {
            kv.value.clear();
            // To order by value etcd reads whole pairs.
            if request.sort_target() != SortTarget::Value {
                kv.lease = 0;
            }
        }
    }
    pb::RangeResponse {
        header: None,
        kvs,
        more,
        count: all.len() as i64,
    }
}

#[tokio::test]
async fn a_wide_range_is_what_its_keys_say_whatever_is_asked_of_it() {
    let server = Server::plain().await;
    let newest = with_history(&server).await;
    let mut kv = server.kv().await;
    for revision in [0, newest - 5, newest / 2] {
        let everything = pb::RangeRequest {
            revision,
            ..get("k", "l")
        };
        let all = kv.range(everything.clone()).await.unwrap().into_inner();
        assert!(all.kvs.len() > 700 && all.kvs.len() as i64 == all.count && !all.more);
        assert!(all.kvs.is_sorted_by(|a, b| a.key < b.key));
        for request in [
            pb::RangeRequest {
                limit: 501,
                ..everything.clone()
            },
            pb::RangeRequest {
                limit: 7,
                ..everything.clone()
            },
            pb::RangeRequest {
                limit: all.count,
                ..everything.clone()
            },
            pb::RangeRequest {
                keys_only: true,
                ..everything.clone()
            },
            pb::RangeRequest {
                min_mod_revision: 9,
                max_mod_revision: 20,
                limit: 30,
                ..everything.clone()
            },
            pb::RangeRequest {
                min_mod_revision: newest + 1,
                ..everything.clone()
            },
            pb::RangeRequest {
                sort_order: SortOrder::Descend as i32,
                limit: 600,
                ..everything.clone()
            },
            pb::RangeRequest {
                sort_target: SortTarget::Value as i32,
                sort_order: SortOrder::Descend as i32,
                ..everything.clone()
            },
            pb::RangeRequest {
                sort_target: SortTarget::Value as i32,
                keys_only: true,
                ..everything.clone()
            },
            pb::RangeRequest {
                sort_target: SortTarget::Version as i32,
                limit: 600,
                ..everything.clone()
            },
            pb::RangeRequest {
                sort_target: SortTarget::Version as i32,
                sort_order: SortOrder::Ascend as i32,
                limit: 600,
                ..everything.clone()
            },
            pb::RangeRequest {
                sort_target: SortTarget::Value as i32,
                min_mod_revision: 9,
                limit: 600,
                ..everything.clone()
            },
        ] {
            let mut answer = kv.range(request.clone()).await.unwrap().into_inner();
            assert_eq!(answer.header.take().unwrap().revision, newest);
            assert!(answer == meant(&request, &all.kvs), "{request:?}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_stream_is_the_unary_answer_in_parts_at_one_revision() {
    let server = Server::plain().await;
    with_history(&server).await;
    let (mut kv, mut writer) = (server.kv().await, server.kv().await);
    for limit in [0, 3, 10, 900] {
        let request = pb::RangeRequest {
            limit,
            ..get("k", "l")
        };
        let whole = kv.range(request.clone()).await.unwrap().into_inner();
        let mut parts = kv.range_stream(request).await.unwrap().into_inner();
        let mut kvs = Vec::new();
        let last = loop {
            let part = parts.message().await.unwrap().unwrap().range_response.unwrap();
            // What is written meanwhile is not seen.
            writer.put(put(&format!("k~{}", kvs.len()), "new")).await.unwrap();
            kvs.extend(part.kvs);
            if let Some(header) = part.header {
                break (header.revision, part.more, part.count);
            }
        };
        assert!(parts.message().await.unwrap().is_none());
        assert!(kvs == whole.kvs, "limit {limit}");
        let revision = whole.header.unwrap().revision;
        assert_eq!(last, (revision, whole.more, whole.count));
    }
    let mut parts = kv.range_stream(get("k", "l")).await.unwrap().into_inner();
    let first = parts.message().await.unwrap().unwrap().range_response.unwrap();
    assert_eq!(first.kvs.len(), 10, "a client that wants few has them soon");
    drop(parts);
    let count = pb::RangeRequest {
        count_only: true,
        ..get("k", "l")
    };
    let mut parts = kv.range_stream(count).await.unwrap().into_inner();
    let part = parts.message().await.unwrap().unwrap().range_response.unwrap();
    assert!(part.kvs.is_empty() && part.count > 700);
    assert!(parts.message().await.unwrap().is_none());
    server.stop().await;
}

#[tokio::test]
async fn a_compaction_during_a_wide_answer_does_not_disturb_it() {
    let server = Server::plain().await;
    let newest = with_history(&server).await;
    let mut reader = server.kv().await;
    let mut past = reader
        .range_stream(pb::RangeRequest {
            revision: newest / 2,
            ..get("k", "l")
        })
        .await
        .unwrap()
        .into_inner();
    let first = past.message().await.unwrap().unwrap();
    let mut writer = server.kv().await;
    let compaction = pb::CompactionRequest {
        revision: newest,
        physical: false,
    };
    writer.compact(compaction).await.unwrap();
    let mut kvs = first.range_response.unwrap().kvs.len();
    let mut count = 0;
    while let Some(part) = past.message().await.unwrap() {
        let part = part.range_response.unwrap();
        kvs += part.kvs.len();
        count = part.count;
    }
    assert_eq!(kvs as i64, count);
    server.stop().await;
}

/// Otherwise a client that takes a byte now and then has the store keep all that is overwritten, until there is no space.
#[tokio::test]
async fn a_stream_whose_client_dawdles_does_not_hold_history_for_ever() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let dir = TempDir::new();
    let options = Options {
        read_holds: std::time::Duration::ZERO,
        ..Options::new(dir.path())
    };
    let store = Store::open(options, Arc::new(FsDisk), SystemClock::shared()).unwrap();
    let server = Server::over(dir, store, addr, |_| (), vec![Listener::tcp(listener)]);
    let (mut reader, mut kv) = (server.kv().await, server.kv().await);
    // More than the client takes before it is asked to read.
    let value = "v".repeat(500 << 10);
    let overwrite = async |kv: &mut KvClient<Channel>| {
        for n in 0..50 {
            kv.put(put(&format!("k{n}"), &value)).await.unwrap();
        }
    };
    overwrite(&mut kv).await;
    let mut parts = reader.range_stream(get("k", "l")).await.unwrap().into_inner();
    parts.message().await.unwrap().unwrap();
    overwrite(&mut kv).await;
    let compaction = pb::CompactionRequest {
        revision: server.store.revision().0,
        physical: true,
    };
    kv.compact(compaction).await.unwrap();
    let ended = loop {
        match parts.message().await {
            Ok(Some(part)) => assert!(part.range_response.unwrap().header.is_none(), "all of it"),
            Ok(None) => panic!("all of it"),
            Err(status) => break Err::<(), _>(status),
        }
    };
    let text = "etcdserver: mvcc: required revision has been compacted";
    refused(ended, Code::OutOfRange, text);
    server.stop().await;
}
