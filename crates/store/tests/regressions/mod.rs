//! Bugs that etcd had, and what its users complain of, as promises of this store.
//!
//! Each test is named by the behaviour; the number is that of the report upstream (`etcd-io/etcd`). The first
//! seventeen are the track record of etcd's own robustness tests (`tests/robustness/README.md`). Where the design
//! leaves no room for the bug, the property is asserted all the same.
//!
//! | Report | Where |
//! |---|---|
//! | 13766, 14370, 14685, 17780, 18055, 20271, 6368, 14140 | [`crashes`] |
//! | 15220, 15271, 17247, 17529, 18089, 19179, 20221 (twice), 16839, 20242, 22264, 13122 | [`watches`] |
//! | 18667, 20418, 12528, 9360, 19406 | [`requests`] |
//! | 14571, 16028, 14303 | [`restores`] |
//! | what surprises readers of etcd's sources | [`traps`] |

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use setpoint_base::SystemClock;
use setpoint_store::types::*;
use setpoint_store::{Error, Options, Store, WatchStream};
use setpoint_testkit::SimDisk;

mod crashes;
mod requests;
mod restores;
mod traps;
mod watches;

/// A wait that only a hang outlasts.
const PATIENCE: Duration = Duration::from_secs(20);

fn open_with(disk: &SimDisk, change: impl FnOnce(&mut Options)) -> Store {
    let mut options = Options {
        segment_bytes: 64 << 10,
        request_bytes_max: 16 << 10,
        hot_bytes: 32 << 10,
        prefill: false,
        ..Options::new(PathBuf::from("/data"))
    };
    change(&mut options);
    Store::open(options, Arc::new(disk.clone()), SystemClock::shared()).unwrap()
}

fn open(disk: &SimDisk) -> Store {
    open_with(disk, |_| ())
}

fn everything() -> KeyRange {
    KeyRange::From(Bytes::new())
}

fn key(key: &str) -> KeyRange {
    KeyRange::Key(Bytes::copy_from_slice(key.as_bytes()))
}

fn range_at(keys: KeyRange, revision: Revision) -> Range {
    Range {
        revision: Some(revision),
        ..Range::of(keys)
    }
}

async fn put(store: &Store, key: &str, value: impl Into<Bytes>) -> Revision {
    let put = Put::new(Bytes::copy_from_slice(key.as_bytes()), value);
    store.put(put, None).await.unwrap().revision
}

async fn delete(store: &Store, keys: KeyRange) -> Revision {
    let delete = Delete { keys, prev_kv: false };
    store.delete(delete, None).await.unwrap().revision
}

/// The next update; a stream that is silent or ends fails the test.
async fn next(stream: &mut WatchStream) -> WatchUpdate {
    tokio::time::timeout(PATIENCE, stream.next())
        .await
        .expect("the watcher is served")
        .expect("the stream goes on")
}

/// Asserts that nothing comes for a while.
async fn silence(stream: &mut WatchStream) {
    let update = tokio::time::timeout(Duration::from_millis(60), stream.next()).await;
    assert!(update.is_err(), "{update:?}");
}

/// What an event says, without what only some watchers ask for.
fn told(event: &Event) -> (i64, EventKind, String) {
    let key = String::from_utf8(event.kv.key.to_vec()).unwrap();
    (event.kv.mod_revision.0, event.kind, key)
}

/// Events until those of `until`, which has to be the last; progress is passed over.
async fn collect(stream: &mut WatchStream, until: Revision) -> Vec<Arc<Event>> {
    let mut seen: Vec<Arc<Event>> = Vec::new();
    while seen.last().is_none_or(|event| event.kv.mod_revision < until) {
        match next(stream).await {
            WatchUpdate::Events { events, .. } => seen.extend(events),
            WatchUpdate::Progress { .. } => (),
            WatchUpdate::Compacted { floor, .. } => panic!("compacted at {floor}"),
            WatchUpdate::Failed { error, .. } => panic!("{error}"),
        }
    }
    seen
}
