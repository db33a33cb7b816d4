//! Quota and alarms: what a full store refuses, what it always accepts, and how that ends.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use setpoint_base::SystemClock;
use setpoint_store::types::*;
use setpoint_store::{Error, Options, Store};
use setpoint_testkit::SimDisk;

const QUOTA: u64 = 400_000;

fn options(change: impl FnOnce(&mut Options)) -> Options {
    let mut options = Options {
        segment_bytes: 256 << 10,
        request_bytes_max: 64 << 10,
        quota_bytes: QUOTA as i64,
        prefill: false,
        ..Options::new("/data")
    };
    change(&mut options);
    options
}

fn open(disk: &SimDisk, change: impl FnOnce(&mut Options)) -> Store {
    Store::open(options(change), Arc::new(disk.clone()), SystemClock::shared()).unwrap()
}

async fn put(store: &Store, key: &str, bytes: usize) -> Result<(), Error> {
    let put = Put::new(key.to_owned(), vec![7; bytes]);
    store.put(put, None).await.map(drop)
}

async fn fill(store: &Store) -> u32 {
    for n in 0..10_000 {
        match put(store, &format!("key{n:05}"), 2_000).await {
            Ok(()) => (),
            Err(error) => {
                assert_eq!(error, Error::NoSpace);
                return n;
            }
        }
    }
    panic!("it never filled up");
}

async fn delete_all(store: &Store) {
    let all = Delete {
        keys: KeyRange::From(Bytes::new()),
        prev_kv: false,
    };
    store.delete(all, None).await.unwrap();
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

fn own(store: &Store, kind: AlarmKind) -> Alarm {
    Alarm {
        member: store.status().member_id,
        kind,
    }
}

#[tokio::test]
async fn a_store_at_its_quota_refuses_growth_and_heals_by_deleting_and_compacting() {
    let disk = SimDisk::default();
    let store = open(&disk, |_| ());
    let written = fill(&store).await;
    assert!(
        (150..200).contains(&written),
        "{written} writes of about 2 KB fitted"
    );
    let status = store.status();
    assert!(status.no_space && status.live_bytes <= QUOTA && status.live_bytes > QUOTA * 9 / 10);
    assert_eq!(store.alarms(), [own(&store, AlarmKind::NoSpace)]);
    assert_eq!(put(&store, "small", 1).await, Err(Error::NoSpace));
    assert_eq!(store.lease_grant(None, 60).await, Err(Error::NoSpace));
    let put_if = |ops| Txn {
        success: ops,
        ..Txn::default()
    };
    let grows = put_if(vec![Op::Put(Put::new("k", "v"))]);
    assert_eq!(store.txn(grows, None).await, Err(Error::NoSpace));
    let shrinks = put_if(vec![Op::Delete(Delete {
        keys: KeyRange::Key("key00000".into()),
        prev_kv: false,
    })]);
    store.txn(shrinks, None).await.unwrap();
    assert_eq!(store.range(&Range::key("key00001")).unwrap().count, 1);
    delete_all(&store).await;
    // Deleted versions still are history: only compaction makes room.
    assert_eq!(put(&store, "small", 1).await, Err(Error::NoSpace));
    store.compact(store.revision(), true).await.unwrap();
    eventually("writes are accepted again", async || {
        put(&store, "small", 1).await.is_ok()
    })
    .await;
    assert_eq!(store.alarms(), []);
}

#[tokio::test]
async fn a_request_that_would_not_fit_is_refused_alone() {
    let store = open(&SimDisk::default(), |options| options.quota_bytes = 60_000);
    put(&store, "a", 30_000).await.unwrap();
    assert_eq!(put(&store, "b", 30_000).await, Err(Error::NoSpace));
    assert!(!store.status().no_space);
    put(&store, "c", 10_000).await.unwrap();
}

#[tokio::test]
async fn without_a_quota_nothing_but_the_disk_is_a_limit() {
    let store = open(&SimDisk::default(), |options| options.quota_bytes = -1);
    for n in 0..300 {
        put(&store, &format!("key{n:05}"), 2_000).await.unwrap();
    }
    assert!(store.status().live_bytes > QUOTA);
    assert_eq!(store.status().quota_bytes, -1);
}

#[tokio::test]
async fn in_manual_mode_the_alarm_outlives_its_reason_and_a_crash_and_ends_when_disarmed() {
    let disk = SimDisk::default();
    let manual = |options: &mut Options| options.no_space_manual = true;
    let store = open(&disk, manual);
    fill(&store).await;
    let alarm = own(&store, AlarmKind::NoSpace);
    eventually("the alarm is written", async || {
        store.meta(Table::ALARM).len() == 1
    })
    .await;
    delete_all(&store).await;
    store.compact(store.revision(), true).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(put(&store, "small", 1).await, Err(Error::NoSpace));
    let crashed = disk.crash(&mut fastrand::Rng::with_seed(3));
    drop(store);
    let store = open(&crashed, manual);
    assert_eq!(store.alarms(), [alarm]);
    assert_eq!(put(&store, "small", 1).await, Err(Error::NoSpace));
    // A start that reads the whole log counts what was compacted until it has pruned it once more.
    eventually("the index is pruned", async || {
        store.status().live_bytes < QUOTA / 2
    })
    .await;
    assert_eq!(store.disarm(alarm).await, Ok(true));
    assert_eq!(store.disarm(alarm).await, Ok(false));
    put(&store, "small", 1).await.unwrap();
    // What is still full is alarmed again by the next write.
    fill(&store).await;
    eventually("the alarm is back", async || store.meta(Table::ALARM).len() == 1).await;
}

#[tokio::test]
async fn in_manual_mode_a_full_disk_too_leaves_an_alarm_behind() {
    let disk = SimDisk::default();
    let store = open(&disk, |options| {
        options.no_space_manual = true;
        options.quota_bytes = -1;
    });
    disk.set_capacity(Some(1 << 20));
    fill(&store).await;
    eventually("the alarm is written", async || {
        store.meta(Table::ALARM).len() == 1
    })
    .await;
    disk.set_capacity(None);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(put(&store, "small", 1).await, Err(Error::NoSpace));
    store.disarm(own(&store, AlarmKind::NoSpace)).await.unwrap();
    put(&store, "small", 1).await.unwrap();
}

#[tokio::test]
async fn an_alarm_raised_by_hand_holds_in_either_mode() {
    let disk = SimDisk::default();
    let store = open(&disk, |_| ());
    let alarm = Alarm {
        member: 7,
        kind: AlarmKind::NoSpace,
    };
    store.raise(alarm).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(put(&store, "small", 1).await, Err(Error::NoSpace));
    store.close().await.unwrap();
    drop(store);
    let store = open(&disk, |_| ());
    assert_eq!(put(&store, "small", 1).await, Err(Error::NoSpace));
    assert_eq!(store.alarms(), [alarm]);
    store.disarm(alarm).await.unwrap();
    put(&store, "small", 1).await.unwrap();
}
