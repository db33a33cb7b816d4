//! The embedded store as its callers see it: etcd's rules, and what a restart keeps.

use std::path::Path;
use std::sync::Arc;

use setpoint_base::SystemClock;
use setpoint_store::types::*;
use setpoint_store::{Error, OpenError, Options, Store};
use setpoint_testkit::SimDisk;

use crate::support::{TempDir, open, try_open};

fn all() -> KeyRange {
    KeyRange::From(bytes::Bytes::new())
}

async fn put(store: &Store, key: &str, value: &str) -> Revision {
    store
        .put(Put::new(key.to_owned(), value.to_owned()), None)
        .await
        .unwrap()
        .revision
}

async fn delete(store: &Store, key: &str) -> DeleteResult {
    let keys = KeyRange::Key(key.to_owned().into());
    store.delete(Delete { keys, prev_kv: true }, None).await.unwrap()
}

fn values(result: &RangeResult) -> Vec<(String, String)> {
    let text = |bytes: &bytes::Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    result
        .kvs
        .iter()
        .map(|kv| (text(&kv.key), text(&kv.value)))
        .collect()
}

fn at(keys: KeyRange, revision: i64) -> Range {
    Range {
        revision: Some(Revision(revision)),
        ..Range::of(keys)
    }
}

#[tokio::test]
async fn the_first_write_makes_revision_two_and_versions_count_from_one() {
    let dir = TempDir::new();
    let store = open(dir.path());
    assert_eq!(store.revision(), Revision(1));
    assert_eq!(store.status().compact_revision, -1);
    assert_eq!(put(&store, "a", "1").await, Revision(2));
    assert_eq!(put(&store, "a", "2").await, Revision(3));
    let kv = store.range(&Range::key("a")).unwrap().kvs.remove(0);
    assert_eq!(
        (kv.create_revision, kv.mod_revision, kv.version),
        (Revision(2), Revision(3), 2)
    );
    let deleted = delete(&store, "a").await;
    assert_eq!(
        (deleted.deleted, deleted.revision, deleted.prev_kvs.len()),
        (1, Revision(4), 1)
    );
    assert_eq!(
        delete(&store, "a").await.revision,
        Revision(4),
        "nothing deleted, no revision"
    );
    put(&store, "a", "3").await;
    let kv = store.range(&Range::key("a")).unwrap().kvs.remove(0);
    assert_eq!((kv.create_revision, kv.version), (Revision(5), 1));
    assert_eq!(
        values(&store.range(&at(all(), 3)).unwrap()),
        [("a".into(), "2".into())]
    );
    assert!(store.range(&at(all(), 4)).unwrap().kvs.is_empty());
}

#[tokio::test]
async fn a_restart_keeps_everything_that_was_acknowledged() {
    let dir = TempDir::new();
    let (before, revision);
    {
        let store = open(dir.path());
        for n in 0..2_000 {
            put(&store, &format!("k{:03}", n % 300), &format!("{n:0400}")).await;
        }
        delete(&store, "k007").await;
        store.lease_grant(Some(LeaseId(5)), 100).await.unwrap();
        let leased = Put {
            lease: PutLease::Set(Some(LeaseId(5))),
            ..Put::new("leased", "x")
        };
        store.put(leased, None).await.unwrap();
        before = store.range(&Range::of(all())).unwrap();
        revision = store.revision();
        assert!(store.status().disk_bytes > 500_000, "several segments");
    }
    let store = open(dir.path());
    assert_eq!(store.revision(), revision);
    assert_eq!(store.range(&Range::of(all())).unwrap(), before);
    let historic = store.range(&at(KeyRange::Key("k001".into()), 4)).unwrap();
    assert_eq!(historic.kvs[0].mod_revision, Revision(3));
    assert_eq!(
        store.lease(LeaseId(5), true).unwrap().keys,
        [bytes::Bytes::from("leased")]
    );
    assert_eq!(put(&store, "next", "1").await, revision.next());
}

#[tokio::test]
async fn compaction_forgets_the_past_and_nothing_else() {
    let dir = TempDir::new();
    let store = open(dir.path());
    store.compact(Revision(0), true).await.unwrap();
    put(&store, "a", "1").await;
    put(&store, "a", "2").await;
    put(&store, "b", "1").await;
    delete(&store, "b").await;
    assert_eq!(
        store.compact(Revision(9), false).await,
        Err(Error::FutureRevision {
            asked: Revision(9),
            current: Revision(5)
        })
    );
    assert_eq!(store.compact(Revision(4), true).await, Ok(Revision(5)));
    let refused = Error::Compacted {
        asked: Revision(4),
        floor: Revision(4),
    };
    assert_eq!(store.compact(Revision(4), true).await, Err(refused));
    assert!(matches!(store.range(&at(all(), 3)), Err(Error::Compacted { .. })));
    assert_eq!(
        values(&store.range(&at(all(), 4)).unwrap()),
        [("a".into(), "2".into()), ("b".into(), "1".into())]
    );
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.status().compact_revision, 4);
    assert!(matches!(store.range(&at(all(), 3)), Err(Error::Compacted { .. })));
    assert_eq!(store.revision(), Revision(5));
}

#[tokio::test]
async fn a_transaction_compares_the_state_before_it_and_reads_its_own_writes() {
    let dir = TempDir::new();
    let store = open(dir.path());
    put(&store, "a", "1").await;
    let compare = |key: &'static str, target| Compare {
        keys: KeyRange::Key(key.into()),
        relation: Relation::Equal,
        target,
    };
    let inner = Txn {
        // Still the version before the outer put.
        compares: vec![compare("a", CompareTarget::Version(1))],
        success: vec![Op::Put(Put::new("b", "inner"))],
        failure: vec![],
    };
    let txn = Txn {
        compares: vec![
            compare("a", CompareTarget::Value("1".into())),
            compare("none", CompareTarget::Version(0)),
        ],
        success: vec![
            Op::Put(Put::new("a", "2")),
            Op::Range(Range::key("a")),
            Op::Txn(Box::new(inner)),
            Op::Range(at(KeyRange::Key("a".into()), 2)),
            Op::Delete(Delete {
                keys: KeyRange::Key("c".into()),
                prev_kv: false,
            }),
        ],
        failure: vec![],
    };
    let result = store.txn(txn, None).await.unwrap();
    assert!(result.succeeded);
    assert_eq!(result.revision, Revision(3));
    let OpResult::Range(seen) = &result.results[1] else {
        panic!("{result:?}")
    };
    assert_eq!(values(seen), [("a".into(), "2".into())]);
    let OpResult::Range(past) = &result.results[3] else {
        panic!("{result:?}")
    };
    assert_eq!(values(past), [("a".into(), "1".into())]);
    let b = store.range(&Range::key("b")).unwrap().kvs.remove(0);
    assert_eq!(b.mod_revision, Revision(3), "one revision for all writes");
}

#[tokio::test]
async fn a_transaction_that_fails_a_check_changes_nothing() {
    let dir = TempDir::new();
    let store = open(dir.path());
    let lease = PutLease::Set(Some(LeaseId(9)));
    let success = vec![
        Op::Put(Put::new("a", "1")),
        Op::Put(Put {
            lease,
            ..Put::new("b", "1")
        }),
    ];
    let refused = store
        .txn(
            Txn {
                compares: vec![],
                success,
                failure: vec![],
            },
            None,
        )
        .await;
    assert_eq!(refused, Err(Error::LeaseNotFound(LeaseId(9))));
    let keeps = Put {
        value: None,
        ..Put::new("a", "")
    };
    assert_eq!(store.put(keeps, None).await, Err(Error::KeyNotFound));
    assert_eq!(store.revision(), Revision(1));
    assert_eq!(store.range(&Range::of(all())).unwrap().count, 0);
}

#[tokio::test]
async fn limit_count_sort_and_bounds_work_in_etcds_order() {
    let dir = TempDir::new();
    let store = open(dir.path());
    for n in 0..1_500 {
        put(&store, &format!("k{n:04}"), &format!("{}", 9 - n % 10)).await;
    }
    let range = |limit| Range {
        limit,
        ..Range::of(KeyRange::prefix(b"k"))
    };
    for (limit, kvs, more) in [
        (0, 1_500, false),
        (3, 3, true),
        (1_499, 1_499, true),
        (1_500, 1_500, false),
    ] {
        let result = store.range(&range(limit)).unwrap();
        assert_eq!(
            (result.kvs.len(), result.more, result.count),
            (kvs, more, 1_500),
            "limit {limit}"
        );
        let past = store
            .range(&Range {
                revision: Some(Revision(1_400)),
                ..range(limit)
            })
            .unwrap();
        assert_eq!(past.count, 1_399);
        assert_eq!(past.kvs.len(), if limit == 3 { 3 } else { 1_399 });
    }
    let counted = store
        .range(&Range {
            count_only: true,
            ..range(0)
        })
        .unwrap();
    assert_eq!(
        (counted.kvs.len(), counted.count, counted.more),
        (0, 1_500, false)
    );
    let newest = Range {
        sort: Some((SortTarget::Mod, true)),
        ..range(1)
    };
    assert_eq!(&store.range(&newest).unwrap().kvs[0].key[..], b"k1499");
    let least = Range {
        sort: Some((SortTarget::Value, false)),
        mod_bounds: (2, 11),
        ..range(1)
    };
    let result = store.range(&least).unwrap();
    assert_eq!(
        (&result.kvs[0].key[..], result.count, result.more),
        (&b"k0009"[..], 1_500, true)
    );
}

#[tokio::test]
async fn a_lease_takes_its_keys_with_it_in_one_revision() {
    let dir = TempDir::new();
    let store = open(dir.path());
    let granted = store.lease_grant(Some(LeaseId(7)), 1).await.unwrap();
    assert_eq!(granted.granted_ttl, 2, "raised to the minimum");
    assert_eq!(
        store.lease_grant(Some(LeaseId(7)), 1).await,
        Err(Error::LeaseExists(LeaseId(7)))
    );
    for key in ["b", "a", "c"] {
        let lease = PutLease::Set(Some(LeaseId(7)));
        store
            .put(
                Put {
                    lease,
                    ..Put::new(key, "x")
                },
                None,
            )
            .await
            .unwrap();
    }
    put(&store, "c", "detached").await;
    let mut waited = 0;
    while store.lease(LeaseId(7), false).is_some() {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        waited += 1;
        assert!(waited < 200, "the lease never ended");
    }
    assert!(waited > 10, "ended early");
    assert_eq!(store.revision(), Revision(6), "both deletions in one revision");
    assert_eq!(
        values(&store.range(&Range::of(all())).unwrap()),
        [("c".into(), "detached".into())]
    );
    assert_eq!(
        store.lease_keep_alive(LeaseId(7)).await,
        Err(Error::LeaseNotFound(LeaseId(7)))
    );
    assert_eq!(
        store.lease_revoke(LeaseId(7)).await,
        Err(Error::LeaseNotFound(LeaseId(7)))
    );
}

#[tokio::test]
async fn a_second_opener_is_refused_until_the_first_is_gone() {
    let dir = TempDir::new();
    let store = open(dir.path());
    let Err(error) = try_open(dir.path()) else {
        panic!("opened twice")
    };
    assert!(error.to_string().contains("in use by another process"), "{error}");
    store.close().await.unwrap();
    assert_eq!(store.put(Put::new("a", "b"), None).await, Err(Error::Stopped));
    open(dir.path());
}

#[tokio::test]
async fn a_delete_larger_than_a_segment_is_one_revision() {
    let dir = TempDir::new();
    let store = open(dir.path());
    let long = "x".repeat(1_000);
    let mut puts = tokio::task::JoinSet::new();
    for n in 0..600 {
        let (store, key) = (store.clone(), format!("{long}{n:04}"));
        puts.spawn(async move { put(&store, &key, "v").await });
    }
    puts.join_all().await;
    let deleted = store
        .delete(
            Delete {
                keys: all(),
                prev_kv: false,
            },
            None,
        )
        .await
        .unwrap();
    assert_eq!((deleted.deleted, deleted.revision), (600, Revision(602)));
    drop(store);
    let store = open(dir.path());
    assert_eq!(
        (store.revision(), store.range(&Range::of(all())).unwrap().count),
        (Revision(602), 0)
    );
    assert_eq!(store.range(&at(all(), 601)).unwrap().count, 600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_that_follow_each_other_quickly_lose_nothing() {
    let dir = TempDir::new();
    let store = open(dir.path());
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..32 {
        let store = store.clone();
        writers.spawn(async move {
            for n in 0..60 {
                put(&store, &format!("w{writer:02}-{n:02}"), &"v".repeat(8_000)).await;
                // Give the next segment time to be prepared, now and then, while this one is taken.
                if (writer + n) % 16 == 0 {
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            }
        });
    }
    writers.join_all().await;
    drop(store);
    let store = open(dir.path());
    let all = store.range(&Range::of(all())).unwrap();
    assert_eq!((all.count, store.revision()), (32 * 60, Revision(1 + 32 * 60)));
    assert!(all.kvs.iter().all(|kv| kv.value.len() == 8_000));
}

#[tokio::test]
async fn a_transaction_that_reads_too_much_is_refused_and_changes_nothing() {
    let dir = TempDir::new();
    let store = open(dir.path());
    for n in 0..100 {
        put(&store, &format!("k{n:03}"), &"v".repeat(60_000)).await;
    }
    // About 6 MB each.
    let reads = |n: usize| vec![Op::Range(Range::of(all())); n];
    let txn = |success| Txn {
        success,
        ..Txn::default()
    };
    assert_eq!(store.txn(txn(reads(60)), None).await, Err(Error::ResultTooLarge));
    assert_eq!(store.txn(txn(reads(5)), None).await.unwrap().results.len(), 5);
    // One that writes holds up all other writes, so it may read less.
    let mut steps = reads(20);
    steps.insert(0, Op::Put(Put::new("new", "1")));
    let before = store.revision();
    assert_eq!(store.txn(txn(steps), None).await, Err(Error::ResultTooLarge));
    assert_eq!(store.revision(), before);
    assert_eq!(store.range(&Range::key("new")).unwrap().count, 0);
    assert_eq!(put(&store, "new", "2").await, before.next());
    // Keys that are only looked at count, too.
    let compare = Compare {
        keys: all(),
        relation: Relation::Greater,
        target: CompareTarget::Value("".into()),
    };
    let compares = Txn {
        compares: vec![compare; 60],
        ..Txn::default()
    };
    assert_eq!(store.txn(compares, None).await, Err(Error::ResultTooLarge));
}

#[test]
fn what_cannot_be_opened_says_which_step_failed_on_what() {
    let options = Options::new(Path::new("/proc/no-such-directory"));
    let Err(error) = Store::open(options, Arc::new(setpoint_base::FsDisk), SystemClock::shared()) else {
        panic!("opened a directory in /proc")
    };
    assert!(error.to_string().contains("/proc/no-such-directory"), "{error}");
    let options = Options {
        segment_bytes: 1,
        proposals_max: 0,
        ..Options::new("/data")
    };
    let Err(OpenError::Options(problems)) =
        Store::open(options, Arc::new(SimDisk::default()), SystemClock::shared())
    else {
        panic!("opened with impossible options")
    };
    assert_eq!(problems.len(), 2, "{problems:?}");
}
