//! Reads, transactions and leases.

use super::*;

// etcd 18667: a transaction that read a compacted revision was applied in part by some members.
#[tokio::test]
async fn a_transaction_with_a_compacted_read_fails_before_its_first_write() {
    let disk = SimDisk::default();
    let store = open(&disk);
    for n in 0..5 {
        put(&store, "a", n.to_string()).await;
    }
    store.compact(Revision(5), true).await.unwrap();
    let txn = Txn {
        success: vec![
            Op::Put(Put::new("b", "1")),
            Op::Range(range_at(key("a"), Revision(4))),
            Op::Put(Put::new("c", "1")),
        ],
        ..Txn::default()
    };
    let before = store.revision();
    assert!(matches!(store.txn(txn, None).await, Err(Error::Compacted { .. })));
    let crashed = disk.crash(&mut fastrand::Rng::with_seed(1));
    drop(store);
    let store = open(&crashed);
    assert_eq!(store.revision(), before);
    assert_eq!(store.range(&Range::of(everything())).unwrap().count, 1);
}

// etcd 20418: a member that was paused answered linearizable reads from before the pause.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_sees_every_write_that_was_acknowledged_before_it_began() {
    let disk = SimDisk::default();
    let store = open(&disk);
    let writer = |name: &'static str| {
        let store = store.clone();
        async move {
            for n in 0..300 {
                let written = put(&store, name, n.to_string()).await;
                let read = store.range(&Range::key(name)).unwrap();
                assert!(read.revision >= written);
                assert_eq!(
                    read.kvs[0].mod_revision, written,
                    "its own key has no other writer"
                );
            }
        }
    };
    let (a, b, c) = (writer("a"), writer("b"), writer("c"));
    futures_util::future::join3(a, b, c).await;
}

// etcd 12528, 15247: leases that had ended kept their keys, or came back with a restart.
#[tokio::test]
async fn an_ended_lease_and_its_keys_stay_gone_after_a_crash() {
    let disk = SimDisk::default();
    let store = open(&disk);
    for id in 1..=20 {
        store.lease_grant(Some(LeaseId(id)), 60).await.unwrap();
        let leased = Put {
            lease: PutLease::Set(Some(LeaseId(id))),
            ..Put::new(format!("k{id}"), "v")
        };
        store.put(leased, None).await.unwrap();
    }
    for id in 1..=10 {
        store.lease_revoke(LeaseId(id)).await.unwrap();
    }
    let crashed = disk.crash(&mut fastrand::Rng::with_seed(2));
    drop(store);
    let store = open(&crashed);
    let mut left: Vec<i64> = store.leases().iter().map(|lease| lease.0).collect();
    left.sort_unstable();
    assert_eq!(left, (11..=20).collect::<Vec<i64>>());
    assert_eq!(store.range(&Range::of(everything())).unwrap().count, 10);
    assert_eq!(
        store.lease_keep_alive(LeaseId(3)).await,
        Err(Error::LeaseNotFound(LeaseId(3)))
    );
}

// Found by the simulation: a keep-alive said "gone" although the end of the lease could not be written.
#[tokio::test]
async fn a_lease_is_not_said_to_be_gone_while_its_keys_are_there() {
    let disk = SimDisk::default();
    let store = open(&disk);
    store.lease_grant(Some(LeaseId(1)), 2).await.unwrap();
    let leased = Put {
        lease: PutLease::Set(Some(LeaseId(1))),
        ..Put::new("k", "v")
    };
    store.put(leased, None).await.unwrap();
    disk.fail_sync_after(0);
    let failed = store.put(Put::new("other", "v"), None).await;
    assert!(matches!(failed, Err(Error::Poisoned(_))));
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    assert_eq!(store.range(&Range::key("k")).unwrap().count, 1);
    assert!(matches!(
        store.lease_keep_alive(LeaseId(1)).await,
        Err(Error::Poisoned(_))
    ));
}

// etcd 9360, 11886: of many leases that end together, some ended minutes late.
#[tokio::test]
async fn many_leases_that_end_together_are_gone_within_two_seconds() {
    let disk = SimDisk::default();
    let store = open(&disk);
    let grants = (1..=3_000).map(|id| {
        let store = store.clone();
        async move {
            store.lease_grant(Some(LeaseId(id)), 2).await.unwrap();
            let leased = Put {
                lease: PutLease::Set(Some(LeaseId(id))),
                ..Put::new(format!("k{id}"), "v")
            };
            store.put(leased, None).await.unwrap();
        }
    });
    futures_util::future::join_all(grants).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(2 + 2);
    while store.range(&Range::of(everything())).unwrap().count > 0 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "{} are left",
            store.leases().len()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(store.leases().is_empty());
}

// etcd 19406, 9506: reads and writes stood still while a compaction went over the index.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compaction_answers_at_once_and_reads_see_one_moment_meanwhile() {
    let disk = SimDisk::default();
    let store = open_with(&disk, |options| options.segment_bytes = 8 << 20);
    for round in 0..4 {
        let puts = (0..3_000).map(|n| {
            let (store, round) = (store.clone(), round.to_string());
            async move { put(&store, &format!("k{n:05}"), round).await }
        });
        futures_util::future::join_all(puts).await;
    }
    let at = store.revision();
    let physical = store.compact(at, true);
    let reads = async {
        for n in 0..200 {
            put(&store, "other", n.to_string()).await;
            let read = store.range(&range_at(KeyRange::prefix(b"k"), at)).unwrap();
            assert_eq!(read.count, 3_000);
            assert!(read.kvs.iter().all(|kv| kv.value[..] == *b"3"));
        }
    };
    let (compacted, ()) = futures_util::future::join(physical, reads).await;
    assert!(compacted.is_ok());
}
