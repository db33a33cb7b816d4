//! What watchers must be told, and must not.

use super::*;

/// A watcher that gets two updates before it becomes a cursor into history.
fn narrow(disk: &SimDisk) -> Store {
    open_with(disk, |options| options.stream_updates_max = 2)
}

// etcd 15220: progress overtook events that were still on their way.
#[tokio::test]
async fn progress_never_overtakes_events() {
    let disk = SimDisk::default();
    let store = narrow(&disk);
    for n in 0..50 {
        put(&store, "k", n.to_string()).await;
    }
    let mut stream = store.watch();
    stream
        .create(WatchSpec::new(key("k"), Some(Revision(2))))
        .unwrap();
    stream.create(WatchSpec::new(everything(), None)).unwrap();
    for n in 0..50 {
        put(&store, "k", n.to_string()).await;
        stream.request_progress();
    }
    let mut last = [1, 51];
    loop {
        match next(&mut stream).await {
            WatchUpdate::Events { id, events, .. } => {
                for event in events {
                    let last = &mut last[usize::try_from(id).unwrap()];
                    assert_eq!(event.kv.mod_revision.0, *last + 1);
                    *last += 1;
                }
            }
            WatchUpdate::Progress { id: None, revision } => {
                assert!(
                    last.iter().all(|last| *last >= revision.0),
                    "{last:?} at {revision}"
                );
                if revision == store.revision() {
                    break;
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

// etcd 15271: after a partition a watcher was told of revisions before the one it resumed from.
#[tokio::test]
async fn a_watcher_that_resumes_is_not_taken_back_in_time() {
    let mut disk = SimDisk::default();
    let mut from = Revision(2);
    let mut rng = fastrand::Rng::with_seed(15_271);
    for round in 0..8 {
        let store = narrow(&disk);
        for n in 0..20 {
            put(&store, "k", format!("{round}.{n}")).await;
        }
        let mut stream = store.watch();
        stream.create(WatchSpec::new(everything(), Some(from))).unwrap();
        let seen = collect(&mut stream, Revision(from.0 + 11)).await;
        for event in &seen {
            assert_eq!(event.kv.mod_revision, from, "no step back, no gap");
            from = from.next();
        }
        disk = disk.crash(&mut rng);
    }
}

// etcd 17247: an event came twice because a transaction's writes were also taken from a cache.
#[tokio::test]
async fn a_transaction_tells_of_each_key_once_and_in_one_piece() {
    let disk = SimDisk::default();
    let store = open(&disk);
    put(&store, "old", "1").await;
    let mut stream = store.watch();
    stream
        .create(WatchSpec::new(everything(), Some(Revision(3))))
        .unwrap();
    let nested = Txn {
        success: vec![Op::Put(Put::new("b", "1")), Op::Put(Put::new("c", "1"))],
        ..Txn::default()
    };
    let delete = Delete {
        keys: key("old"),
        prev_kv: false,
    };
    let txn = Txn {
        success: vec![
            Op::Put(Put::new("a", "1")),
            Op::Txn(Box::new(nested)),
            Op::Range(Range::of(everything())),
            Op::Delete(delete),
        ],
        ..Txn::default()
    };
    store.txn(txn, None).await.unwrap();
    put(&store, "z", "1").await;
    let first = match next(&mut stream).await {
        WatchUpdate::Events { events, .. } => events,
        other => panic!("{other:?}"),
    };
    let of_txn: Vec<_> = first
        .iter()
        .map(|event| told(event))
        .filter(|(revision, ..)| *revision == 3)
        .collect();
    let expect = [
        (EventKind::Put, "a"),
        (EventKind::Put, "b"),
        (EventKind::Put, "c"),
        (EventKind::Delete, "old"),
    ];
    assert_eq!(of_txn, expect.map(|(kind, key)| (3, kind, key.to_owned())));
}

// etcd 17529, 11906: events were dropped when a slow stream's buffers were full.
#[tokio::test]
async fn a_slow_stream_loses_nothing_however_far_it_falls_behind() {
    let disk = SimDisk::default();
    let store = narrow(&disk);
    let mut stream = store.watch();
    for name in ["a", "b", "c"] {
        stream.create(WatchSpec::new(key(name), None)).unwrap();
    }
    for n in 0..900 {
        put(&store, ["a", "b", "c"][n % 3], vec![b'v'; 100 + n % 7]).await;
    }
    let mut seen: [Vec<i64>; 3] = Default::default();
    while seen.iter().map(Vec::len).sum::<usize>() < 900 {
        if let WatchUpdate::Events { id, events, .. } = next(&mut stream).await {
            let seen = &mut seen[usize::try_from(id).unwrap()];
            seen.extend(events.iter().map(|event| event.kv.mod_revision.0));
        }
    }
    for (n, seen) in (0..).zip(seen) {
        assert_eq!(seen, (0..300).map(|m| 2 + n + 3 * m).collect::<Vec<i64>>());
    }
}

// etcd 18089, 19179: the deletion at the very revision of a compaction was not told to a watcher from there, whether
// it was created before the compaction or after.
#[tokio::test]
async fn a_deletion_at_the_compacted_revision_is_told() {
    let disk = SimDisk::default();
    let store = narrow(&disk);
    put(&store, "k", "1").await;
    put(&store, "k", "2").await;
    let deleted = delete(&store, key("k")).await;
    let mut before = store.watch();
    before.create(WatchSpec::new(key("k"), Some(deleted))).unwrap();
    store.compact(deleted, true).await.unwrap();
    let mut after = store.watch();
    after.create(WatchSpec::new(key("k"), Some(deleted))).unwrap();
    let expect = [(deleted.0, EventKind::Delete, "k".to_owned())];
    for (name, stream) in [("before", &mut before), ("after", &mut after)] {
        let seen = collect(stream, deleted).await;
        assert_eq!(
            seen.iter().map(|event| told(event)).collect::<Vec<_>>(),
            expect,
            "{name}"
        );
    }
    store.close().await.unwrap();
    let store = narrow(&disk);
    let mut restarted = store.watch();
    restarted.create(WatchSpec::new(key("k"), Some(deleted))).unwrap();
    let seen = collect(&mut restarted, deleted).await;
    assert_eq!(seen.iter().map(|event| told(event)).collect::<Vec<_>>(), expect);
}

// etcd 20221, first half: a watcher of the future got progress of the present.
#[tokio::test]
async fn a_watcher_of_the_future_hears_of_no_progress_before_it() {
    let disk = SimDisk::default();
    let store = open_with(&disk, |options| {
        options.progress_interval = Duration::from_millis(100);
    });
    let mut stream = store.watch();
    let spec = WatchSpec {
        progress: true,
        ..WatchSpec::new(everything(), Some(Revision(4)))
    };
    stream.create(spec).unwrap();
    put(&store, "k", "1").await;
    stream.request_progress();
    // Four times the interval of progress.
    for _ in 0..8 {
        silence(&mut stream).await;
    }
    put(&store, "k", "2").await;
    put(&store, "k", "3").await;
    let update = next(&mut stream).await;
    let WatchUpdate::Events { events, .. } = update else {
        panic!("{update:?}")
    };
    assert_eq!(told(&events[0]).0, 4);
}

// etcd 20221, second half: and it got events from before its start.
#[tokio::test]
async fn a_watcher_of_the_future_hears_of_no_event_before_it() {
    let disk = SimDisk::default();
    let store = narrow(&disk);
    let mut stream = store.watch();
    stream
        .create(WatchSpec::new(everything(), Some(Revision(20))))
        .unwrap();
    for n in 0..30 {
        put(&store, "k", n.to_string()).await;
    }
    let seen = collect(&mut stream, store.revision()).await;
    let revisions: Vec<i64> = seen.iter().map(|event| event.kv.mod_revision.0).collect();
    assert_eq!(revisions, (20..=31).collect::<Vec<i64>>());
}

// etcd 16839: the previous value was read when the event was sent, and compaction had removed it by then.
#[tokio::test]
async fn a_compaction_takes_no_previous_value_from_a_watcher_that_keeps_up() {
    let disk = SimDisk::default();
    let store = open(&disk);
    let mut stream = store.watch();
    let spec = WatchSpec {
        prev_kv: true,
        ..WatchSpec::new(key("k"), Some(Revision(2)))
    };
    stream.create(spec).unwrap();
    put(&store, "k", "0").await;
    collect(&mut stream, Revision(2)).await;
    for n in 1..50 {
        let revision = put(&store, "k", n.to_string()).await;
        let seen = collect(&mut stream, revision).await;
        store.compact(revision, n % 5 == 0).await.unwrap();
        let before = seen[0].prev_kv.as_ref().expect("told what was before");
        assert_eq!(before.value, (n - 1).to_string());
        assert_eq!(before.mod_revision.0, revision.0 - 1);
    }
}

// etcd 20242: one watcher far behind kept its stream's progress back for ever.
#[tokio::test]
async fn a_stream_whose_watcher_was_far_behind_has_progress_again() {
    let disk = SimDisk::default();
    let store = narrow(&disk);
    for n in 0..500 {
        put(&store, "k", n.to_string()).await;
    }
    let mut stream = store.watch();
    stream
        .create(WatchSpec::new(everything(), Some(Revision(2))))
        .unwrap();
    stream.create(WatchSpec::new(key("quiet"), None)).unwrap();
    stream.request_progress();
    loop {
        if let WatchUpdate::Progress { id: None, revision } = next(&mut stream).await {
            assert_eq!(revision, store.revision());
            break;
        }
    }
}

// etcd 22264: a watcher far behind kept writers waiting while it caught up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_do_not_wait_for_watchers_that_never_read() {
    let disk = SimDisk::default();
    let store = narrow(&disk);
    for n in 0..1_000 {
        put(&store, "k", n.to_string()).await;
    }
    let mut streams: Vec<WatchStream> = (0..50).map(|_| store.watch()).collect();
    for stream in &mut streams {
        for _ in 0..20 {
            stream
                .create(WatchSpec::new(everything(), Some(Revision(2))))
                .unwrap();
        }
    }
    let writes = async {
        for n in 0..1_000 {
            put(&store, "k", n.to_string()).await;
        }
    };
    tokio::time::timeout(PATIENCE, writes)
        .await
        .expect("writes go on");
    assert_eq!(store.revision(), Revision(2_001));
}

// etcd 13122: streams that clients had left stayed with the server.
#[tokio::test]
async fn a_stream_that_is_dropped_leaves_nothing_behind() {
    let disk = SimDisk::default();
    let store = open(&disk);
    for _ in 0..20 {
        let mut streams: Vec<WatchStream> = (0..20).map(|_| store.watch()).collect();
        for stream in &mut streams {
            stream.create(WatchSpec::new(everything(), None)).unwrap();
        }
        assert_eq!(store.status().watchers, 20);
    }
    assert_eq!(store.status().watchers, 0);
    put(&store, "k", "1").await;
}
