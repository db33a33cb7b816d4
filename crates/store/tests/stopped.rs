//! A compaction that is waited for, and a store that ends in the middle of it.

use std::sync::Arc;
use std::time::Duration;

use setpoint_base::{Disk, SystemClock};
use setpoint_store::types::*;
use setpoint_store::{Error, Options, Store};
use setpoint_testkit::SimDisk;

/// So many that they are removed in hundreds of steps.
const KEYS: usize = 60_000;
const OPS: usize = 100;
/// A wait that only a hang outlasts.
const PATIENCE: Duration = Duration::from_secs(60);

fn open(disk: &SimDisk) -> Store {
    let options = Options {
        prefill: false,
        ..Options::new("/data")
    };
    Store::open(options, Arc::new(disk.clone()), SystemClock::shared()).unwrap()
}

async fn write_all(store: &Store, value: &'static str) {
    for from in (0..KEYS).step_by(OPS) {
        let put = |n: usize| Op::Put(Put::new(format!("k{n:05}"), value));
        let txn = Txn {
            success: (from..from + OPS).map(put).collect(),
            ..Txn::default()
        };
        store.txn(txn, None).await.unwrap();
    }
}

/// Closes a store once a compaction has removed something; what whoever waits for it is told, if that was before its end.
async fn stopped_halfway(disk: &SimDisk) -> Option<Error> {
    let store = open(disk);
    write_all(&store, "old").await;
    write_all(&store, "new").await;
    let (at, before) = (store.revision(), store.status().live_bytes);
    let begun = async {
        while store.status().live_bytes > before - before / 100 {
            tokio::task::yield_now().await;
        }
        store.close().await.unwrap();
    };
    let (compacted, ()) = tokio::join!(store.compact(at, true), begun);
    compacted.err()
}

#[tokio::test]
async fn a_compaction_that_a_stop_cuts_off_says_so_and_is_finished_after_the_next_start() {
    let mut halfway = None;
    // A test that was held up may come too late.
    for _ in 0..5 {
        let disk = SimDisk::default();
        if let Some(error) = stopped_halfway(&disk).await {
            assert_eq!(error, Error::Stopped);
            halfway = Some(disk);
            break;
        }
    }
    let disk = halfway.expect("it was never cut off");

    let store = open(&disk);
    let floor = Revision(store.status().compact_revision);
    assert_eq!(floor, store.revision(), "the compaction itself is kept");
    let pruned = tokio::time::timeout(PATIENCE, store.pruned(floor)).await;
    pruned.expect("it goes on by itself").unwrap();
    let mut old = Range::key("k00000");
    old.revision = Some(Revision(floor.0 - 1));
    assert!(matches!(store.range(&old), Err(Error::Compacted { .. })));
    let all = store.range(&Range::of(KeyRange::prefix(b"k"))).unwrap();
    assert_eq!(all.kvs.len(), KEYS);
    assert!(all.kvs.iter().all(|kv| kv.value == "new" && kv.version == 2));
    let live = store.status().live_bytes;
    store.close().await.unwrap();

    // Nothing of what was removed came back, nothing else is missing.
    let other = SimDisk::default();
    let once = open(&other);
    write_all(&once, "new").await;
    let expected = once.status().live_bytes;
    assert!(live.abs_diff(expected) < expected / 10, "{live} for {expected}");
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let found = setpoint_store::verify(&disk, "/data".as_ref(), &mut |_, _| ()).unwrap();
    assert!(found.problems.is_empty(), "{:?}", found.problems);
}
