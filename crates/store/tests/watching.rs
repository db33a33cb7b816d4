//! Watching the embedded store: live, from history in memory, from segments, after a restart.

use std::time::Duration;

use bytes::Bytes;
use setpoint_store::types::*;
use setpoint_store::{Store, WatchStream};

use crate::support::{TempDir, open};

/// Revision, key, what happened, revision of the version before.
type Seen = (Revision, Bytes, EventKind, Option<Revision>);

fn everything(start: i64) -> WatchSpec {
    WatchSpec {
        prev_kv: true,
        ..WatchSpec::new(KeyRange::From(Bytes::new()), Some(Revision(start)))
    }
}

async fn collect(stream: &mut WatchStream, until: Revision) -> Vec<Seen> {
    let mut seen: Vec<Seen> = Vec::new();
    while seen.last().is_none_or(|(revision, ..)| *revision < until) {
        let update = tokio::time::timeout(Duration::from_secs(10), stream.next()).await;
        match update
            .expect("the watcher is not served")
            .expect("the store is open")
        {
            WatchUpdate::Events { events, .. } => seen.extend(events.iter().map(|event| {
                let prev = event.prev_kv.as_ref().map(|prev| prev.mod_revision);
                (event.kv.mod_revision, event.kv.key.clone(), event.kind, prev)
            })),
            WatchUpdate::Progress { .. } => (),
            WatchUpdate::Compacted { floor, .. } => panic!("compacted at {floor}"),
            WatchUpdate::Failed { error, .. } => panic!("{error}"),
        }
    }
    seen
}

/// One revision each: puts, every tenth deletes the key before; among them records without a revision.
async fn write(store: &Store, revisions: i64) {
    for n in 0..revisions {
        let key = Bytes::from(format!("key{:02}", (n - n % 10 / 9) % 40));
        if n % 10 == 9 {
            let keys = KeyRange::Key(key);
            store.delete(Delete { keys, prev_kv: false }, None).await.unwrap();
            store.lease_grant(None, 1_000).await.unwrap();
        } else {
            store
                .put(Put::new(key, vec![n as u8; 2_000]), None)
                .await
                .unwrap();
        }
    }
}

fn check(seen: &[Seen], from: i64) {
    let mut newest: std::collections::HashMap<&Bytes, Option<Revision>> = std::collections::HashMap::new();
    for ((revision, key, kind, prev), expect) in seen.iter().zip(from..) {
        assert_eq!(revision.0, expect, "no gap, no duplicate");
        if let Some(known) = newest.get(key) {
            assert_eq!(prev, known, "previous version of revision {revision}");
        }
        newest.insert(key, (*kind == EventKind::Put).then_some(*revision));
    }
}

#[tokio::test]
async fn watchers_see_the_same_from_memory_from_disk_and_after_a_restart() {
    let dir = TempDir::new();
    let store = open(dir.path());
    let mut live = store.watch();
    live.create(everything(2)).unwrap();
    write(&store, 400).await;
    let until = store.revision();
    let expect = collect(&mut live, until).await;
    check(&expect, 2);
    let mut late = store.watch();
    for from in [2, 57, 390] {
        late.create(everything(from)).unwrap();
        let seen = collect(&mut late, until).await;
        assert_eq!(seen, expect[from as usize - 2..], "from {from}");
        late = store.watch();
    }
    drop((store, live, late));
    let store = open(dir.path());
    let mut resumed = store.watch();
    resumed.create(everything(100)).unwrap();
    write(&store, 50).await;
    let seen = collect(&mut resumed, store.revision()).await;
    check(&seen, 100);
    assert_eq!(seen[..200], expect[98..298]);
}

#[tokio::test]
async fn a_watch_from_the_floor_sees_the_tombstone_there_and_one_below_is_compacted() {
    let dir = TempDir::new();
    let store = open(dir.path());
    write(&store, 30).await;
    // Revision 11 is a deletion.
    store.compact(Revision(11), true).await.unwrap();
    let mut stream = store.watch();
    stream.create(everything(11)).unwrap();
    let seen = collect(&mut stream, store.revision()).await;
    assert_eq!((seen[0].0, seen[0].2), (Revision(11), EventKind::Delete));
    let mut stream = store.watch();
    stream.create(everything(10)).unwrap();
    match stream.next().await {
        Some(WatchUpdate::Compacted { floor, .. }) => assert_eq!(floor, Revision(11)),
        other => panic!("{other:?}"),
    }
}
