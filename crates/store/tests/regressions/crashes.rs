//! Crashes at the worst moment.

use super::*;

/// Everything that was ever written, as a watcher from the beginning sees it.
async fn history(store: &Store) -> Vec<(i64, EventKind, String)> {
    let last = store.revision();
    if last == Revision::INITIAL {
        return Vec::new();
    }
    let mut stream = store.watch();
    stream
        .create(WatchSpec::new(everything(), Some(Revision(2))))
        .unwrap();
    collect(&mut stream, last)
        .await
        .iter()
        .map(|event| told(event))
        .collect()
}

// etcd 13766: under load, a crash let the index of applied entries run ahead of the data.
#[tokio::test]
async fn a_crash_under_load_leaves_each_revision_once_and_none_skipped() {
    for seed in 0..12 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let disk = SimDisk::default();
        let store = open(&disk);
        disk.cut_power_after(rng.u64(4..60));
        let writers = (0..40).map(|n| {
            let store = store.clone();
            async move {
                let mut acknowledged = Vec::new();
                for round in 0..4 {
                    let put = Put::new(format!("w{n}"), format!("{round}"));
                    match store.put(put, None).await {
                        Ok(put) => acknowledged.push((put.revision.0, EventKind::Put, format!("w{n}"))),
                        Err(_) => break,
                    }
                }
                acknowledged
            }
        });
        let acknowledged = futures_util::future::join_all(writers).await.concat();
        drop(store);
        let store = open(&disk.crash(&mut rng));
        let history = history(&store).await;
        let revisions: Vec<i64> = history.iter().map(|(revision, ..)| *revision).collect();
        let expect: Vec<i64> = (2..=store.revision().0).collect();
        assert_eq!(revisions, expect, "seed {seed}");
        for write in acknowledged {
            assert!(
                history.contains(&write),
                "seed {seed}: {write:?} was acknowledged"
            );
        }
    }
}

// etcd 14370, 14140: one member acknowledged what was not synced yet.
#[tokio::test]
async fn what_is_acknowledged_is_on_the_disk_already() {
    let mut disk = SimDisk::default();
    let mut rng = fastrand::Rng::with_seed(14_370);
    for n in 0..60 {
        let store = open(&disk);
        let revision = put(&store, "k", n.to_string()).await;
        // The store is not told to stop: the power goes with the answer still on the wire.
        disk = disk.crash(&mut rng);
        drop(store);
        let store = open(&disk);
        let found = store.range(&Range::key("k")).unwrap();
        assert_eq!(
            (store.revision(), &found.kvs[0].value[..]),
            (revision, n.to_string().as_bytes())
        );
        drop(store);
    }
}

// etcd 6368: a new file of the log was synced, its name in the directory was not.
#[tokio::test]
async fn a_segment_whose_name_is_not_synced_is_never_written_to() {
    let mut rng = fastrand::Rng::with_seed(6_368);
    for lives in 0..6 {
        let disk = SimDisk::default();
        let store = open(&disk);
        let mut last = Revision::INITIAL;
        // Each segment holds about seven of these; the crash is somewhere behind a change of segments.
        for n in 0..8 + lives {
            last = put(&store, &format!("k{n}"), vec![7; 8_000]).await;
        }
        let crashed = disk.crash(&mut rng);
        drop(store);
        let store = open(&crashed);
        assert_eq!(store.revision(), last);
        assert_eq!(store.range(&Range::of(everything())).unwrap().count, 8 + lives);
    }
}

/// A store with garbage, compacted, whose janitor is at work.
async fn compacted(disk: &SimDisk) -> (Store, RangeResult) {
    let store = open(disk);
    for n in 0..60 {
        put(&store, &format!("k{}", n % 5), vec![n; 3_000]).await;
    }
    delete(&store, key("k3")).await;
    let revision = store.revision();
    store.compact(revision, true).await.unwrap();
    let now = store.range(&Range::of(everything())).unwrap();
    (store, now)
}

// etcd 14685: a crash during defragmentation left the revision behind the data. Rewriting segments is what we do
// in its place.
#[tokio::test]
async fn a_crash_while_space_is_given_back_changes_nothing_that_can_be_read() {
    let mut rng = fastrand::Rng::with_seed(14_685);
    let mut cut = 0;
    for changes in [1, 2, 3, 4, 5, 6, 8, 11] {
        let disk = SimDisk::default();
        let (store, expect) = compacted(&disk).await;
        disk.cut_power_after(changes);
        let deadline = tokio::time::Instant::now() + Duration::from_millis(700);
        while !disk.power_is_off() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cut += usize::from(disk.power_is_off());
        let crashed = disk.crash(&mut rng);
        drop(store);
        let store = open(&crashed);
        assert_eq!(store.range(&Range::of(everything())).unwrap(), expect);
        assert_eq!(store.status().compact_revision, expect.revision.0);
    }
    assert!(cut >= 5, "the power went in the middle {cut} times");
}

// etcd 17780: everything below the newest revision compacted away, the restart began at an older one.
#[tokio::test]
async fn a_restart_after_compaction_of_everything_does_not_go_back() {
    let mut rng = fastrand::Rng::with_seed(17_780);
    for close in [true, false] {
        let disk = SimDisk::default();
        let store = open(&disk);
        put(&store, "a", "1").await;
        put(&store, "b", "1").await;
        let last = delete(&store, everything()).await;
        store.compact(last, true).await.unwrap();
        if close {
            store.close().await.unwrap();
        }
        let crashed = disk.crash(&mut rng);
        drop(store);
        let store = open(&crashed);
        assert_eq!(
            (store.revision(), store.status().compact_revision),
            (last, last.0)
        );
        assert_eq!(put(&store, "c", "1").await, last.next());
    }
}

// etcd 18055: two snapshots in a short time; the second found the first's file gone.
#[tokio::test]
async fn checkpoints_may_follow_each_other_at_once() {
    let disk = SimDisk::default();
    for n in 0..20 {
        let store = open(&disk);
        assert_eq!(store.revision(), Revision(n + 1));
        put(&store, "k", n.to_string()).await;
        store.close().await.unwrap();
        store.close().await.unwrap();
    }
    assert_eq!(open(&disk).range(&Range::key("k")).unwrap().kvs[0].version, 20);
}

// etcd 20271: a reader met a page of the file that was in use for something else by then.
#[tokio::test]
async fn a_reader_meets_no_file_that_was_given_back_meanwhile() {
    let disk = SimDisk::default();
    let (store, expect) = compacted(&disk).await;
    for round in 0..40 {
        // Nothing is kept in memory: each read goes to the segments that the janitor is moving.
        put(&store, "noise", vec![round; 9_000]).await;
        let now = store.range(&range_at(KeyRange::prefix(b"k"), expect.revision));
        match now {
            Ok(now) => assert_eq!(now.kvs, expect.kvs),
            Err(error) => assert!(matches!(error, Error::Compacted { .. }), "{error:?}"),
        }
        if round % 8 == 7 {
            tokio::time::sleep(Duration::from_millis(80)).await;
        }
    }
}
