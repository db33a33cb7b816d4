//! What a store makes of a disk that crashed, lies, rots or is full.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use setpoint_base::SystemClock;
use setpoint_store::types::*;
use setpoint_store::{Error, OpenError, Options, Store};
use setpoint_testkit::SimDisk;

use crate::support::options;

const HEADER: usize = 128;

fn dir() -> PathBuf {
    PathBuf::from("/data")
}

fn try_open(disk: &SimDisk) -> Result<Store, OpenError> {
    let options = Options {
        prefill: false,
        ..options(&dir())
    };
    Store::open(options, Arc::new(disk.clone()), SystemClock::shared())
}

fn open(disk: &SimDisk) -> Store {
    try_open(disk).unwrap()
}

fn copy(disk: &SimDisk) -> SimDisk {
    let copy = SimDisk::default();
    for path in disk.paths() {
        copy.replace(&path, &disk.contents(&path).unwrap());
    }
    copy
}

fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "seg");
    disk.paths().into_iter().filter(is_segment).collect()
}

async fn put(store: &Store, key: String, value: Vec<u8>) -> Result<Revision, Error> {
    store
        .put(Put::new(key, value), None)
        .await
        .map(|result| result.revision)
}

/// Everything there is, with history: what a reader at each revision above the floor sees.
fn contents(store: &Store) -> Vec<(i64, Vec<KeyValue>)> {
    let floor = store.status().compact_revision.max(1);
    let all = |revision| Range {
        revision: Some(Revision(revision)),
        ..Range::of(KeyRange::From(Bytes::new()))
    };
    (floor..=store.revision().0)
        .map(|at| (at, store.range(&all(at)).unwrap().kvs))
        .collect()
}

fn damaged(disk: &SimDisk) -> (PathBuf, u64, String) {
    match try_open(disk).map(|store| store.revision()) {
        Err(OpenError::Damaged { path, offset, detail }) => (path, offset, detail),
        other => panic!("expected damage, got {other:?}"),
    }
}

/// A crashed disk with one segment of a few commits; and where each begins.
async fn small_log() -> (SimDisk, PathBuf, Vec<usize>) {
    let disk = SimDisk::default();
    let store = open(&disk);
    let mut starts = vec![HEADER];
    for n in 0..5 {
        put(&store, format!("key{n}"), vec![b'v'; 20]).await.unwrap();
        starts.push(store.status().disk_bytes as usize);
    }
    let crashed = disk.crash(&mut fastrand::Rng::with_seed(1));
    drop(store);
    let path = segments(&crashed).remove(0);
    (crashed, path, starts)
}

#[tokio::test]
async fn a_flipped_bit_is_refused_with_its_offset_or_hits_only_the_last_commit() {
    let (disk, path, starts) = small_log().await;
    let end = *starts.last().unwrap();
    for offset in 0..end {
        let flipped = copy(&disk);
        flipped.flip_bit(&path, offset, (offset % 8) as u8).unwrap();
        let last = starts[starts.len() - 2];
        if offset >= last {
            // A length that reaches beyond the reserved space was never written.
            if (2..4).contains(&(offset - last)) {
                assert_eq!(damaged(&flipped).1, last as u64, "offset {offset}");
                continue;
            }
            // Otherwise it cannot be told from the disk alone whether the last commit was ever acknowledged.
            let revision = open(&flipped).revision();
            assert_eq!(revision, Revision(5), "offset {offset}");
            continue;
        }
        let (at, found, detail) = damaged(&flipped);
        let expect = if offset < HEADER {
            0
        } else {
            *starts.iter().rfind(|s| **s <= offset).unwrap()
        };
        assert_eq!(
            (at, found),
            (path.clone(), expect as u64),
            "offset {offset}: {detail}"
        );
    }
}

#[tokio::test]
async fn a_log_cut_within_a_record_is_damage_and_one_cut_between_records_cannot_be_told_from_a_short_one() {
    let (disk, path, starts) = small_log().await;
    let bytes = disk.contents(&path).unwrap();
    for cut in HEADER..*starts.last().unwrap() {
        let shorter = copy(&disk);
        shorter.replace(&path, &bytes[..cut]);
        let whole = starts.iter().filter(|start| **start <= cut).count();
        if starts.contains(&cut) {
            assert_eq!(open(&shorter).revision(), Revision(whole as i64), "cut at {cut}");
        } else {
            // Space is reserved before it is written, so no crash leaves this: a copy was cut, or the file was.
            let (at, offset, _) = damaged(&shorter);
            assert_eq!(
                (at, offset),
                (path.clone(), starts[whole - 1] as u64),
                "cut at {cut}"
            );
        }
    }
    let shorter = copy(&disk);
    shorter.replace(&path, &bytes[..HEADER - 1]);
    assert_eq!(damaged(&shorter).1, 0);
}

/// A disk with several segments.
async fn long_log(close: bool) -> SimDisk {
    let disk = SimDisk::default();
    let store = open(&disk);
    for n in 0..200 {
        put(&store, format!("key{:02}", n % 40), vec![n as u8; 4_000])
            .await
            .unwrap();
    }
    if close {
        store.close().await.unwrap();
    }
    let crashed = disk.crash(&mut fastrand::Rng::with_seed(1));
    drop(store);
    assert!(segments(&crashed).len() >= 3, "{:?}", segments(&crashed));
    crashed
}

#[tokio::test]
async fn a_shortened_missing_or_swapped_segment_is_damage() {
    for close in [false, true] {
        let disk = long_log(close).await;
        let paths = segments(&disk);
        let first = disk.contents(&paths[0]).unwrap();

        let shorter = copy(&disk);
        shorter.replace(&paths[0], &first[..first.len() / 2]);
        let (path, offset, _) = damaged(&shorter);
        assert_eq!(
            (path, offset),
            (paths[0].clone(), first.len() as u64 / 2),
            "checkpoint: {close}"
        );

        let missing = SimDisk::default();
        for path in disk.paths().iter().filter(|path| **path != paths[1]) {
            missing.replace(path, &disk.contents(path).unwrap());
        }
        assert_eq!(damaged(&missing).0, paths[1]);

        let swapped = copy(&disk);
        swapped.replace(&paths[0], &disk.contents(&paths[1]).unwrap());
        swapped.replace(&paths[1], &first);
        assert_eq!(damaged(&swapped).0, paths[0]);
    }
}

#[tokio::test]
async fn the_last_segment_cannot_vanish_unnoticed_after_a_clean_stop() {
    let disk = long_log(true).await;
    let last = segments(&disk).pop().unwrap();
    let shorter = copy(&disk);
    let bytes = disk.contents(&last).unwrap();
    shorter.replace(&last, &bytes[..HEADER + 10]);
    assert_eq!(damaged(&shorter).0, last);
    let without = SimDisk::default();
    for path in disk.paths().iter().filter(|path| **path != last) {
        without.replace(path, &disk.contents(path).unwrap());
    }
    assert_eq!(damaged(&without).0, last);
}

#[tokio::test]
async fn a_checkpoint_and_a_full_replay_give_the_same_store() {
    let disk = long_log(true).await;
    let path = dir().join("checkpoint");
    let size = disk.contents(&path).unwrap().len();
    let expect = contents(&open(&copy(&disk)));
    assert_eq!(expect.len(), 201);
    for offset in (0..size).step_by(size / 12) {
        let flipped = copy(&disk);
        flipped.flip_bit(&path, offset, 3).unwrap();
        assert_eq!(
            contents(&open(&flipped)),
            expect,
            "checkpoint damaged at {offset}"
        );
    }
}

/// A closed log in whose first segment the eighth value, of revision 9, has rotted.
async fn rotten_log() -> SimDisk {
    let disk = long_log(true).await;
    let path = segments(&disk).remove(0);
    let bytes = disk.contents(&path).unwrap();
    let value = bytes
        .windows(100)
        .position(|window| window.iter().all(|byte| *byte == 7))
        .unwrap();
    disk.flip_bit(&path, value + 50, 0).unwrap();
    disk
}

fn read_rotten(store: &Store) -> Result<RangeResult, Error> {
    store.range(&Range {
        revision: Some(Revision(20)),
        ..Range::key("key07")
    })
}

#[tokio::test]
async fn a_value_that_rots_under_a_checkpoint_is_an_error_and_never_a_wrong_value() {
    let store = open(&rotten_log().await);
    let read = read_rotten(&store);
    assert!(matches!(read, Err(Error::Read(_))), "{read:?}");
    assert!(
        store.range(&Range::key("key07")).is_ok(),
        "the newer version is sound"
    );
}

#[tokio::test]
async fn a_value_that_does_not_read_back_shows_as_corrupt_and_the_rest_is_served() {
    let store = open(&rotten_log().await);
    assert!(!store.status().corrupt, "nobody has read it");
    assert_eq!(store.alarms(), []);
    read_rotten(&store).unwrap_err();
    assert!(store.status().corrupt);
    let kinds: Vec<_> = store.alarms().iter().map(|alarm| alarm.kind.name()).collect();
    assert_eq!(kinds, ["CORRUPT"]);
    assert!(!store.is_corrupt(), "no alarm was raised that closes the store");
    assert_eq!(store.range(&Range::key("key08")).unwrap().count, 1);
    assert!(put(&store, "new".into(), vec![1]).await.is_ok());
}

#[tokio::test]
async fn a_watcher_that_needs_damaged_history_ends_alone() {
    let store = open(&rotten_log().await);
    let mut stream = store.watch();
    let all = || KeyRange::From(Bytes::new());
    let (old, _) = stream.create(WatchSpec::new(all(), Some(Revision(2)))).unwrap();
    let (sound, _) = stream.create(WatchSpec::new(all(), Some(Revision(150)))).unwrap();
    let (mut failed, mut seen) = (None, Revision(0));
    while failed.is_none() || seen < store.revision() {
        let update = tokio::time::timeout(Duration::from_secs(10), stream.next()).await;
        match update.expect("an update").expect("the stream goes on") {
            WatchUpdate::Failed { id, error } => failed = Some((id, error)),
            WatchUpdate::Events { id, events, .. } if id == sound => {
                seen = events.last().unwrap().kv.mod_revision;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(
        matches!(failed, Some((id, Error::Read(_))) if id == old),
        "{failed:?}"
    );
    assert!(store.status().corrupt);
    assert!(!stream.cancel(old), "it is gone");
}

#[tokio::test]
async fn a_failed_sync_is_final_and_nothing_acknowledged_is_lost() {
    let disk = SimDisk::default();
    let store = open(&disk);
    put(&store, "a".into(), vec![1]).await.unwrap();
    disk.fail_sync_after(0);
    assert!(matches!(
        put(&store, "b".into(), vec![1]).await,
        Err(Error::Poisoned(_))
    ));
    assert!(matches!(
        put(&store, "c".into(), vec![1]).await,
        Err(Error::Poisoned(_))
    ));
    assert_eq!(
        store.revision(),
        Revision(2),
        "what is not durable is not visible"
    );
    assert_eq!(store.range(&Range::key("a")).unwrap().count, 1);
    let crashed = disk.crash(&mut fastrand::Rng::with_seed(3));
    drop(store);
    let store = open(&crashed);
    assert_eq!(store.range(&Range::key("a")).unwrap().count, 1);
    assert_eq!(store.range(&Range::key("c")).unwrap().count, 0);
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..400 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("never happened: {what}");
}

#[tokio::test]
async fn a_full_disk_refuses_growth_serves_the_rest_and_heals_by_compaction() {
    let disk = SimDisk::default();
    let store = open(&disk);
    disk.set_capacity(Some(2 << 20));
    let mut written = 0;
    while let Ok(revision) = put(&store, format!("key{:04}", written % 500), vec![7; 4_000]).await {
        written += 1;
        assert_eq!(revision, Revision(written + 1));
        assert!(written < 1_000, "the disk never filled up");
    }
    assert!(written > 300, "only {written} writes fitted");
    assert_eq!(put(&store, "x".into(), vec![7; 10]).await, Err(Error::NoSpace));
    assert!(store.status().no_space);
    assert_eq!(store.lease_grant(None, 60).await, Err(Error::NoSpace));
    assert_eq!(store.range(&Range::key("key0001")).unwrap().count, 1);
    let all = Delete {
        keys: KeyRange::From(Bytes::new()),
        prev_kv: false,
    };
    let deleted = store.delete(all, None).await.unwrap();
    assert!(deleted.deleted > 300);
    let txn = Txn {
        success: vec![Op::Delete(Delete {
            keys: KeyRange::Key("x".into()),
            prev_kv: false,
        })],
        ..Txn::default()
    };
    assert!(store.txn(txn, None).await.is_ok());
    store.compact(store.revision(), true).await.unwrap();
    eventually("writes are accepted again", async || {
        put(&store, "x".into(), vec![1; 10]).await.is_ok()
    })
    .await;
    let crashed = disk.crash(&mut fastrand::Rng::with_seed(3));
    drop(store);
    assert_eq!(open(&crashed).range(&Range::key("x")).unwrap().count, 1);
}

#[tokio::test]
async fn what_did_not_fit_on_a_full_disk_is_removed_again() {
    let disk = SimDisk::default();
    let store = open(&disk);
    for n in 0..400 {
        // One key in three stays, so that segments are worth a rewrite but not empty.
        let key = if n % 3 == 0 {
            format!("stays{n:03}")
        } else {
            "goes".into()
        };
        put(&store, key, vec![7; 3_000]).await.unwrap();
    }
    let used: usize = disk
        .paths()
        .iter()
        .map(|path| disk.contents(path).unwrap().len())
        .sum();
    disk.set_capacity(Some(used as u64 + 1_000));
    store.compact(store.revision(), true).await.unwrap();
    let files = || {
        disk.paths()
            .into_iter()
            .filter(|path| path.ends_with("rewrite.tmp") || path.ends_with("checkpoint.tmp"))
    };
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    // The janitor may be at its next attempt.
    eventually("no leftover", async || files().next().is_none()).await;
    store.close().await.unwrap();
    assert_eq!(files().collect::<Vec<_>>(), Vec::<PathBuf>::new());
    disk.set_capacity(None);
    assert_eq!(open(&disk).range(&Range::key("stays399")).unwrap().count, 1);
}

fn spread(revision: i64) -> String {
    format!("key{:02}", revision % 37)
}

#[tokio::test]
async fn space_comes_back_after_compaction_and_no_way_of_opening_sees_a_difference() {
    let disk = SimDisk::default();
    let store = open(&disk);
    for n in 0..600_i64 {
        if n % 11 == 10 {
            store
                .delete(
                    Delete {
                        keys: KeyRange::Key(spread(n).into()),
                        prev_kv: false,
                    },
                    None,
                )
                .await
                .unwrap();
        } else {
            put(&store, spread(n * 7), vec![n as u8; 3_000]).await.unwrap();
        }
    }
    let before = store.status().disk_bytes;
    let floor = Revision(store.revision().0 - 10);
    let expect: Vec<_> = contents(&store)
        .into_iter()
        .filter(|(at, _)| *at >= floor.0)
        .collect();
    store.compact(floor, true).await.unwrap();
    eventually("space comes back", async || {
        store.status().disk_bytes * 2 < before
    })
    .await;
    assert_eq!(contents(&store), expect);
    let crashed = disk.crash(&mut fastrand::Rng::with_seed(5));
    drop(store);
    assert_eq!(contents(&open(&copy(&crashed))), expect, "from the checkpoint");
    let replayed = SimDisk::default();
    for path in crashed
        .paths()
        .iter()
        .filter(|path| !path.ends_with("checkpoint"))
    {
        replayed.replace(path, &crashed.contents(path).unwrap());
    }
    assert_eq!(contents(&open(&replayed)), expect, "from the log alone");
}

#[derive(Default)]
struct Model {
    /// What a reader sees, by revision.
    history: BTreeMap<i64, BTreeMap<String, Vec<u8>>>,
}

fn check(store: &Store, model: &Model, seed: u64) {
    for (at, kvs) in contents(store) {
        let seen: BTreeMap<_, _> = kvs
            .into_iter()
            .map(|kv| (String::from_utf8(kv.key.to_vec()).unwrap(), kv.value.to_vec()))
            .collect();
        let (_, expect) = model.history.range(..=at).next_back().unwrap();
        assert_eq!(&seen, expect, "seed {seed}, revision {at}");
    }
}

/// Deletes a key if it exists, in a nested transaction, and writes another one either way.
fn swap(key: &str, other: &str, value: &[u8]) -> Txn {
    let put = || Op::Put(Put::new(other.to_owned(), value.to_vec()));
    let keys = KeyRange::Key(key.to_owned().into());
    let delete = Op::Delete(Delete {
        keys: keys.clone(),
        prev_kv: false,
    });
    let exists = Compare {
        keys,
        relation: Relation::Greater,
        target: CompareTarget::Version(0),
    };
    let nested = Txn {
        compares: vec![exists.clone()],
        success: vec![delete],
        failure: vec![],
    };
    Txn {
        compares: vec![exists],
        success: vec![put(), Op::Txn(Box::new(nested))],
        failure: vec![put()],
    }
}

async fn life(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut disk = SimDisk::default();
    let mut model = Model::default();
    model.history.insert(1, BTreeMap::new());
    for _ in 0..4 {
        let store = open(&disk);
        let now = *model.history.last_key_value().unwrap().0;
        // The write that the crash interrupted may have survived.
        assert!(
            store.revision().0 == now,
            "seed {seed}: {} instead of {now}",
            store.revision()
        );
        check(&store, &model, seed);
        for _ in 0..rng.u32(20..200) {
            let key = format!("key{:02}", rng.u8(..20));
            let mut state = model.history.last_key_value().unwrap().1.clone();
            match rng.u8(..23) {
                19 => {
                    let (other, exists) = (format!("key{:02}", rng.u8(20..25)), state.contains_key(&key));
                    let value = vec![rng.u8(..); 50];
                    let result = store.txn(swap(&key, &other, &value), None).await.unwrap();
                    assert_eq!(result.succeeded, exists, "seed {seed}");
                    if exists {
                        state.remove(&key);
                    }
                    state.insert(other, value);
                    model.history.insert(result.revision.0, state);
                }
                20..22 => {
                    let lease = LeaseId(rng.i64(1..4));
                    if store.lease_grant(Some(lease), 1_000).await.is_ok() {
                        let put = Put {
                            lease: PutLease::Set(Some(lease)),
                            ..Put::new(key.clone(), "leased")
                        };
                        let revision = store.put(put, None).await.unwrap().revision;
                        state.insert(key, b"leased".to_vec());
                        model.history.insert(revision.0, state);
                    } else {
                        for key in store.lease(lease, true).unwrap().keys {
                            state.remove(std::str::from_utf8(&key).unwrap()).unwrap();
                        }
                        let revision = store.lease_revoke(lease).await.unwrap();
                        model.history.insert(revision.0, state);
                    }
                }
                0..14 => {
                    let value = vec![rng.u8(..); rng.usize(..6_000)];
                    let revision = put(&store, key.clone(), value.clone()).await.unwrap();
                    state.insert(key, value);
                    model.history.insert(revision.0, state);
                }
                14..19 => {
                    let keys = KeyRange::Span(key.clone().into(), format!("{key}~").into());
                    let result = store.delete(Delete { keys, prev_kv: false }, None).await.unwrap();
                    assert_eq!(result.deleted == 1, state.remove(&key).is_some(), "seed {seed}");
                    model.history.insert(result.revision.0, state);
                }
                _ => {
                    let at = Revision(store.revision().0 - rng.i64(0..20));
                    let _ = store.compact(at, rng.bool()).await;
                }
            }
        }
        if rng.bool() {
            tokio::time::sleep(Duration::from_millis(rng.u64(0..700))).await;
        }
        check(&store, &model, seed);
        if rng.u8(..3) == 0 {
            store.close().await.unwrap();
        }
        disk = disk.crash(&mut rng);
        if rng.u8(..4) == 0 && disk.paths().contains(&dir().join("checkpoint")) {
            disk.replace(&dir().join("checkpoint"), b"not one");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_that_crashes_again_and_again_agrees_with_its_model() {
    let mut lives = tokio::task::JoinSet::new();
    for seed in 0..40 {
        lives.spawn(life(seed));
    }
    lives.join_all().await;
}
