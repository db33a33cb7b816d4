//! Snapshots as files: what comes back is what was there, and nothing else is taken for it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use setpoint_base::{Disk, SystemClock};
use setpoint_store::types::*;
use setpoint_store::{FileError, Options, Restore, RestoreError, Restored, SnapshotFile, Store};
use setpoint_testkit::SimDisk;

use crate::support::TempDir;

const EXACT: Restore = Restore { bump: 0 };

fn open_in(disk: &SimDisk, dir: &str) -> Store {
    let options = Options {
        segment_bytes: 256 << 10,
        request_bytes_max: 64 << 10,
        prefill: false,
        ..Options::new(dir)
    };
    Store::open(options, Arc::new(disk.clone()), SystemClock::shared()).unwrap()
}

/// Writes a snapshot with its checksum.
fn save(store: &Store, dir: &TempDir) -> PathBuf {
    let path = dir.path().join("snapshot.db");
    let mut file = std::fs::File::create(&path).unwrap();
    let snapshot = store.snapshot().unwrap();
    let bytes = snapshot.bytes();
    let sum = snapshot.write(&mut |bytes| file.write_all(bytes)).unwrap();
    file.write_all(&sum).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), bytes + 32);
    path
}

fn open_file(path: &Path) -> Result<SnapshotFile, FileError> {
    SnapshotFile::open(path, true, &mut |_, _| ())
}

fn restore(path: &Path, disk: &SimDisk, how: Restore) -> Result<Restored, RestoreError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    open_file(path)?.restore(&disk, Path::new("/restored"), how, &mut |_| ())
}

fn range_at(store: &Store, revision: i64) -> RangeResult {
    let mut range = Range::of(KeyRange::From(Bytes::new()));
    range.revision = Some(Revision(revision));
    let mut result = store.range(&range).unwrap();
    result.revision = Revision(0);
    result
}

/// A random history of puts, deletes of ranges, leases and compactions.
async fn write_some(store: &Store, random: &mut fastrand::Rng, steps: u32) {
    for _ in 0..steps {
        let key = format!("/key/{:02}", random.u8(..30));
        match random.u8(..20) {
            0 => {
                let keys = KeyRange::prefix(&key.as_bytes()[..6]);
                store.delete(Delete { keys, prev_kv: false }, None).await.unwrap();
            }
            1 => {
                let keys = KeyRange::Key(key.into());
                store.delete(Delete { keys, prev_kv: false }, None).await.unwrap();
            }
            2 => {
                let lease = store.lease_grant(None, 1_000).await.unwrap();
                let mut put = Put::new(key, "leased");
                put.lease = PutLease::Set(Some(lease.id));
                store.put(put, None).await.unwrap();
            }
            3 if random.u8(..10) == 0 => {
                let at = random.i64(1..=store.revision().0);
                let _ = store.compact(Revision(at), random.bool()).await;
            }
            4 => {
                let ops = (0..3)
                    .map(|n| Op::Put(Put::new(format!("{key}/{n}"), "txn")))
                    .collect();
                let txn = Txn {
                    success: ops,
                    ..Txn::default()
                };
                store.txn(txn, None).await.unwrap();
            }
            _ => {
                let value = vec![random.u8(..); random.usize(..3_000)];
                store.put(Put::new(key, value), None).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_restored_store_serves_every_revision_as_the_first_one_did() {
    for seed in 0..12 {
        let mut random = fastrand::Rng::with_seed(seed);
        let disk = SimDisk::default();
        let store = open_in(&disk, "/first");
        write_some(&store, &mut random, 40 + 60 * seed as u32).await;
        let user = MetaWrite::put(Table::AUTH_USERS, "alice", "secret");
        store.meta_write(MetaTxn::new(vec![user])).await.unwrap();
        let dir = TempDir::new();
        let path = save(&store, &dir);
        let restored = restore(&path, &disk, EXACT).unwrap();
        let again = open_in(&disk, "/restored");
        let (status, expect) = (again.status(), store.status());
        assert_eq!(restored.revision, store.revision(), "seed {seed}");
        assert_eq!(status.revision, expect.revision);
        assert_eq!(status.compact_revision, expect.compact_revision);
        assert_ne!(status.cluster_id, expect.cluster_id);
        for revision in expect.compact_revision.max(1)..=expect.revision.0 {
            assert_eq!(
                range_at(&again, revision),
                range_at(&store, revision),
                "seed {seed} at {revision}"
            );
        }
        let mut leases = [store.leases(), again.leases()];
        leases.iter_mut().for_each(|leases| leases.sort_unstable());
        assert_eq!(leases[0], leases[1]);
        for lease in &leases[0] {
            let keys = |store: &Store| store.lease(*lease, true).unwrap().keys;
            assert_eq!(keys(&again), keys(&store));
        }
        assert_eq!(again.meta(Table::AUTH_USERS), store.meta(Table::AUTH_USERS));
        assert_eq!(
            again.hash_kv(Revision(0)).unwrap(),
            store.hash_kv(Revision(0)).unwrap()
        );
        // The new log goes on, and survives a crash, a compaction and another snapshot.
        write_some(&again, &mut random, 50).await;
        let status = open_file(&save(&again, &dir)).unwrap().status().unwrap();
        assert_eq!(
            (status.revision, status.keys),
            (again.revision(), again.status().keys)
        );
        let (now, expect) = (again.revision().0, range_at(&again, again.revision().0));
        let crashed = disk.crash(&mut random);
        assert_eq!(
            range_at(&open_in(&crashed, "/restored"), now),
            expect,
            "seed {seed}"
        );
    }
}

#[tokio::test]
async fn a_jump_ahead_leaves_no_revision_that_anybody_could_have_seen() {
    let disk = SimDisk::default();
    let store = open_in(&disk, "/first");
    for n in 0..10 {
        store.put(Put::new("a", n.to_string()), None).await.unwrap();
    }
    let dir = TempDir::new();
    let restored = restore(&save(&store, &dir), &disk, Restore { bump: 1_000 }).unwrap();
    assert_eq!((restored.revision.0, restored.compact_revision), (1_011, 1_011));
    let again = open_in(&disk, "/restored");
    assert_eq!(again.revision(), Revision(1_011));
    let now = range_at(&again, 1_011);
    assert_eq!(
        (&now.kvs[0].value[..], now.kvs[0].mod_revision.0),
        (&b"9"[..], 11)
    );
    let mut before = Range::key("a");
    before.revision = Some(Revision(11));
    let refused = again.range(&before).unwrap_err();
    assert!(matches!(refused, setpoint_store::Error::Compacted { .. }));
    let put = again.put(Put::new("b", "1"), None).await.unwrap();
    assert_eq!(put.revision, Revision(1_012));
    // And once more, from the store that has jumped.
    let status = open_file(&save(&again, &dir)).unwrap().status().unwrap();
    assert_eq!(
        (status.revision.0, status.compact_revision, status.keys),
        (1_012, 1_011, 2)
    );
}

#[tokio::test]
async fn a_jump_too_far_is_the_jumps_fault_and_not_the_files() {
    let disk = SimDisk::default();
    let store = open_in(&disk, "/first");
    store.put(Put::new("a", "1"), None).await.unwrap();
    let dir = TempDir::new();
    let path = save(&store, &dir);
    for bump in [u64::MAX, i64::MAX as u64] {
        let refused = restore(&path, &SimDisk::default(), Restore { bump }).unwrap_err();
        assert!(
            matches!(refused, RestoreError::Bump { snapshot: 2, .. }),
            "{refused}"
        );
        assert!(refused.to_string().contains("--bump-revision"), "{refused}");
    }
}

#[test]
fn a_directory_is_no_snapshot() {
    let dir = TempDir::new();
    let refused = open_file(dir.path()).err().unwrap();
    assert!(refused.to_string().contains("is a directory"), "{refused}");
}

/// To open a pipe that nobody writes would be to wait for ever.
#[test]
fn a_pipe_or_a_device_is_no_snapshot() {
    let dir = TempDir::new();
    let socket = dir.path().join("socket");
    let _socket = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for path in [Path::new("/dev/null"), &socket] {
        let refused = open_file(path).err().unwrap();
        assert!(refused.to_string().contains("is a pipe or a device"), "{refused}");
    }
}

#[tokio::test]
async fn an_empty_store_comes_back_empty() {
    let disk = SimDisk::default();
    let store = open_in(&disk, "/first");
    let dir = TempDir::new();
    let restored = restore(&save(&store, &dir), &disk, EXACT).unwrap();
    assert_eq!(restored.revision, Revision(1));
    let again = open_in(&disk, "/restored");
    assert_eq!(
        again.put(Put::new("a", "1"), None).await.unwrap().revision,
        Revision(2)
    );
}

#[tokio::test]
async fn a_store_whose_last_keys_are_compacted_keeps_its_revision() {
    let disk = SimDisk::default();
    let store = open_in(&disk, "/first");
    store.put(Put::new("a", "1"), None).await.unwrap();
    let keys = KeyRange::Key("a".into());
    store.delete(Delete { keys, prev_kv: false }, None).await.unwrap();
    store.put(Put::new("b", "1"), None).await.unwrap();
    let keys = KeyRange::Key("b".into());
    store.delete(Delete { keys, prev_kv: false }, None).await.unwrap();
    store.compact(Revision(5), true).await.unwrap();
    let dir = TempDir::new();
    let restored = restore(&save(&store, &dir), &disk, EXACT).unwrap();
    assert_eq!((restored.revision.0, restored.compact_revision), (5, 5));
    assert_eq!(open_in(&disk, "/restored").revision(), Revision(5));
}

#[tokio::test]
async fn a_file_that_was_cut_or_altered_is_refused_with_the_reason() {
    let disk = SimDisk::default();
    let store = open_in(&disk, "/first");
    write_some(&store, &mut fastrand::Rng::with_seed(4), 200).await;
    let dir = TempDir::new();
    let path = save(&store, &dir);
    let whole = std::fs::read(&path).unwrap();
    for cut in [
        0,
        1,
        31,
        32,
        4_096,
        whole.len() / 2,
        whole.len() - 33,
        whole.len() - 32,
        whole.len() - 1,
    ] {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let error = open_file(&path).map(drop).unwrap_err();
        assert!(
            matches!(error, FileError::NoSum { .. } | FileError::Altered { .. }),
            "{cut}: {error}"
        );
    }
    for at in (0..whole.len()).step_by(whole.len() / 50) {
        let mut altered = whole.clone();
        altered[at] ^= 4;
        std::fs::write(&path, &altered).unwrap();
        let error = open_file(&path).map(drop).unwrap_err();
        assert!(matches!(error, FileError::Altered { .. }), "{at}: {error}");
    }
    let used = restore(&path, &disk, EXACT).unwrap_err();
    assert!(used.to_string().contains("altered"), "{used}");
}

#[tokio::test]
async fn a_file_made_to_harm_gives_an_error_or_a_store_that_opens() {
    let disk = SimDisk::default();
    let store = open_in(&disk, "/first");
    write_some(&store, &mut fastrand::Rng::with_seed(5), 60).await;
    let dir = TempDir::new();
    let path = save(&store, &dir);
    let mut whole = std::fs::read(&path).unwrap();
    whole.truncate(whole.len() - 32);
    let mut random = fastrand::Rng::with_seed(6);
    let mut outcomes = BTreeMap::new();
    for round in 0..400 {
        let mut hostile = whole.clone();
        for _ in 0..random.usize(1..4) {
            let page = random.usize(2..hostile.len() / 4_096) * 4_096;
            let at = page + random.usize(0..if round % 2 == 0 { 120 } else { 4_096 });
            hostile[at] = random.u8(..);
        }
        std::fs::write(&path, &hostile).unwrap();
        let into: Arc<dyn Disk> = Arc::new(disk.clone());
        let target = format!("/hostile/{round}");
        let restored = SnapshotFile::open(&path, false, &mut |_, _| ())
            .map_err(RestoreError::from)
            .and_then(|file| {
                file.status()?;
                file.restore(&into, Path::new(&target), EXACT, &mut |_| ())
            });
        if let Ok(restored) = &restored {
            assert_eq!(
                open_in(&disk, &target).revision(),
                restored.revision,
                "round {round}"
            );
        }
        *outcomes.entry(restored.is_ok()).or_insert(0) += 1;
    }
    assert!(outcomes.len() == 2, "both happen: {outcomes:?}");
}

#[tokio::test]
async fn nothing_is_restored_over_anything() {
    let disk = SimDisk::default();
    let store = open_in(&disk, "/restored");
    let dir = TempDir::new();
    let error = restore(&save(&store, &dir), &disk, EXACT).unwrap_err();
    assert!(matches!(error, RestoreError::NotEmpty { .. }));
}

#[tokio::test]
async fn half_a_restore_never_opens_as_a_store() {
    let disk = SimDisk::default();
    let store = open_in(&disk, "/first");
    write_some(&store, &mut fastrand::Rng::with_seed(8), 300).await;
    let dir = TempDir::new();
    let path = save(&store, &dir);
    let used: usize = disk
        .paths()
        .iter()
        .map(|path| disk.contents(path).unwrap().len())
        .sum();
    let mut refused = 0;
    for room in (0..600_000).step_by(20_000) {
        let small = disk.crash(&mut fastrand::Rng::with_seed(1));
        small.set_capacity(Some((used + room) as u64));
        if restore(&path, &small, EXACT).is_ok() {
            continue;
        }
        refused += 1;
        small.set_capacity(None);
        let options = Options {
            segment_bytes: 256 << 10,
            request_bytes_max: 64 << 10,
            ..Options::new("/restored")
        };
        let opened = Store::open(options, Arc::new(small.clone()), SystemClock::shared());
        // Nothing at all is an empty directory, which is a new store's.
        assert!(opened.is_err() || opened.is_ok_and(|store| store.revision() == Revision(1)));
    }
    assert!(refused > 3, "the disk was full {refused} times");
}
