//! What must hold over a restart and a restore.

use std::io::Write;
use std::path::Path;

use setpoint_base::Disk;
use setpoint_store::{Restore, SnapshotFile};

use super::*;
use crate::support::TempDir;

/// etcd 14571: members did not agree on whether authentication was on, and each after its restart decided by what it
/// had read last. Here switching it on, the users and the writes around them are one log: whatever a crash leaves, keys and
/// side tables are those of one moment.
#[tokio::test]
async fn what_says_who_may_write_and_what_was_written_are_of_one_moment_after_a_crash_14571() {
    let mut rng = fastrand::Rng::with_seed(14571);
    for round in 0..40_u64 {
        let disk = SimDisk::default();
        let store = open(&disk);
        disk.cut_power_after(rng.u64(..60));
        // Each round of users is followed by a key that says so; the power goes somewhere in between.
        let mut told = (0, 0);
        for n in 1..20_i64 {
            let number = n.to_string();
            let user = MetaWrite::put(Table::AUTH_USERS, "alice", number.clone());
            let switch = MetaWrite::put(Table::AUTH, "authEnabled", number.clone());
            match store.meta_write(MetaTxn::new(vec![user, switch])).await {
                Ok(_) => told.0 = n,
                Err(_) => break,
            }
            match store.put(Put::new("round", number), None).await {
                Ok(_) => told.1 = n,
                Err(_) => break,
            }
        }
        drop(store);
        let store = open(&disk.crash(&mut rng));
        let number = |value: Option<Bytes>| {
            value.map_or(0, |value| String::from_utf8_lossy(&value).parse::<i64>().unwrap())
        };
        let entry = |table| number(store.meta(table).into_iter().next().map(|(_, value)| value));
        let (user, switch) = (entry(Table::AUTH_USERS), entry(Table::AUTH));
        let kvs = store.range(&Range::key("round")).unwrap().kvs;
        let key = number(kvs.first().map(|kv| kv.value.clone()));
        assert_eq!(user, switch, "one write in two tables (round {round})");
        assert!(
            user >= told.0 && key >= told.1,
            "acknowledged and gone (round {round})"
        );
        assert!(
            user == key || user == key + 1,
            "users {user} and keys {key} are of different moments (round {round})"
        );
    }
}

/// etcd 16028 and 14303: a restore took the revision back, and caches above, which had seen later revisions, went on with
/// what no longer was. Here a restore jumps ahead of everything anybody can have seen, and whoever comes with a revision of
/// before is told to list again.
#[tokio::test]
async fn after_a_restore_no_revision_means_two_things_16028_14303() {
    let disk = SimDisk::default();
    let store = open(&disk);
    put(&store, "a", "1").await;
    put(&store, "b", "1").await;
    let dir = TempDir::new();
    let path = dir.path().join("snapshot.db");
    let mut file = std::fs::File::create(&path).unwrap();
    let sum = store
        .snapshot()
        .unwrap()
        .write(&mut |bytes| file.write_all(bytes));
    file.write_all(&sum.unwrap()).unwrap();
    // All this is lost, and somebody has seen it.
    delete(&store, key("a")).await;
    let seen = put(&store, "c", "1").await;
    store.close().await.unwrap();

    let how = Restore { bump: Restore::BUMP };
    let onto: Arc<dyn Disk> = Arc::new(disk.clone());
    let snapshot = SnapshotFile::open(&path, true, &mut |_, _| ()).unwrap();
    snapshot
        .restore(&onto, Path::new("/restored"), how, &mut |_| ())
        .unwrap();
    let store = open_with(&disk, |options| options.dir = "/restored".into());
    assert!(store.revision() > seen);
    for at in 1..=seen.0 + 1 {
        let read = store.range(&range_at(everything(), Revision(at)));
        assert!(matches!(read, Err(Error::Compacted { .. })), "at {at}: {read:?}");
    }
    // A watcher that resumes where it was learns that it missed something; it is not kept waiting for revisions to come.
    let mut stream = store.watch();
    stream
        .create(WatchSpec::new(everything(), Some(seen.next())))
        .unwrap();
    let WatchUpdate::Compacted { floor, .. } = next(&mut stream).await else {
        panic!("it goes on as if nothing had happened");
    };
    // From the floor on it sees everything once.
    let listed = store.range(&Range::of(everything())).unwrap();
    assert_eq!((listed.kvs.len(), listed.revision >= floor), (2, true));
    let mut stream = store.watch();
    stream
        .create(WatchSpec::new(everything(), Some(listed.revision.next())))
        .unwrap();
    let written = put(&store, "c", "2").await;
    assert_eq!(written, listed.revision.next());
    let events = collect(&mut stream, written).await;
    assert_eq!(told(&events[0]), (written.0, EventKind::Put, "c".to_owned()));
}
