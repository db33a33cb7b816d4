//! Side tables: durable, atomic, in order with everything else, and neither lost nor brought back by cleaning.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use setpoint_base::SystemClock;
use setpoint_store::types::*;
use setpoint_store::{Error, Options, Store};
use setpoint_testkit::SimDisk;

const TABLES: [Table; 3] = [Table::AUTH, Table::AUTH_USERS, Table::ALARM];

type Model = BTreeMap<(Table, Bytes), Bytes>;

fn open(disk: &SimDisk) -> Option<Store> {
    let options = Options {
        segment_bytes: 64 << 10,
        request_bytes_max: 16 << 10,
        hot_bytes: 16 << 10,
        prefill: false,
        ..Options::new(PathBuf::from("/data"))
    };
    match Store::open(options, Arc::new(disk.clone()), SystemClock::shared()) {
        Ok(store) => Some(store),
        Err(error) => {
            assert!(
                disk.power_is_off(),
                "a crash must not damage the store: {error:?}"
            );
            None
        }
    }
}

fn contents(store: &Store) -> Model {
    let table = |table: Table| {
        let entries = store.meta(table).into_iter();
        entries.map(move |(key, value)| ((table, key), value))
    };
    TABLES.into_iter().flat_map(table).collect()
}

fn apply(model: &mut Model, txn: &MetaTxn) {
    for write in &txn.writes {
        let key = (write.table, write.key.clone());
        match &write.value {
            Some(value) => model.insert(key, value.clone()),
            None => model.remove(&key),
        };
    }
}

fn random_txn(rng: &mut fastrand::Rng) -> MetaTxn {
    let write = |rng: &mut fastrand::Rng| MetaWrite {
        table: TABLES[rng.usize(..TABLES.len())],
        key: format!("key{}", rng.u8(..4)).into(),
        // Few values, so that a key often gets one that it had before.
        value: (rng.u8(..3) > 0).then(|| vec![b'0' + rng.u8(..3); 100].into()),
    };
    MetaTxn::new((0..rng.usize(1..4)).map(|_| write(rng)).collect())
}

/// Lives of a store, each ended by a crash; in between the log is filled, compacted and cleaned.
async fn lives(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut disk = SimDisk::default();
    let (mut model, mut unanswered) = (Model::new(), Vec::new());
    for _ in 0..5 {
        if rng.bool() {
            disk.cut_power_after(rng.u64(..200));
        }
        if let Some(store) = open(&disk) {
            settle(&store, &mut model, &mut unanswered, seed);
            live(&store, &mut rng, &mut model, &mut unanswered).await;
            if rng.u8(..3) == 0 {
                let _ = store.close().await;
            }
        }
        disk = disk.crash(&mut rng);
        let checkpoint = PathBuf::from("/data/checkpoint");
        if rng.u8(..3) == 0 && disk.paths().contains(&checkpoint) {
            disk.replace(&checkpoint, b"not one");
        }
    }
    settle(&open(&disk).unwrap(), &mut model, &mut unanswered, seed);
}

/// What was acknowledged is there; of what was not, the first few, each as a whole.
fn settle(store: &Store, model: &mut Model, unanswered: &mut Vec<MetaTxn>, seed: u64) {
    let seen = contents(store);
    let mut unanswered = std::mem::take(unanswered).into_iter();
    while *model != seen {
        let txn = unanswered.next();
        let txn = txn.unwrap_or_else(|| panic!("seed {seed}: {seen:?} instead of {model:?}"));
        apply(model, &txn);
    }
}

async fn live(store: &Store, rng: &mut fastrand::Rng, model: &mut Model, unanswered: &mut Vec<MetaTxn>) {
    for _ in 0..rng.u32(10..120) {
        match rng.u8(..10) {
            0 => {
                let _ = store.compact(store.revision(), rng.bool()).await;
            }
            1 => tokio::time::sleep(Duration::from_millis(rng.u64(..100))).await,
            2..6 => {
                let key = format!("key{}", rng.u8(..9));
                let put = Put::new(key, vec![7; rng.usize(..9_000)]);
                if store.put(put, None).await.is_err() {
                    return;
                }
            }
            _ => {
                let txns: Vec<_> = (0..rng.usize(1..4)).map(|_| random_txn(rng)).collect();
                let answers = join_all(txns.iter().map(|txn| store.meta_write(txn.clone()))).await;
                for (txn, answer) in txns.into_iter().zip(answers) {
                    match answer {
                        Ok(done) => {
                            assert!(done && unanswered.is_empty(), "in order");
                            apply(model, &txn);
                        }
                        Err(_) => unanswered.push(txn),
                    }
                }
                if !unanswered.is_empty() {
                    return;
                }
                assert_eq!(&contents(store), model);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tables_survive_crashes_cleaning_and_the_loss_of_the_checkpoint() {
    let mut running = tokio::task::JoinSet::new();
    for seed in 0..60 {
        running.spawn(lives(seed));
    }
    running.join_all().await;
}

#[tokio::test]
async fn what_was_deleted_stays_deleted_when_every_segment_around_it_is_rewritten() {
    let disk = SimDisk::default();
    let store = open(&disk).unwrap();
    let user = |n: usize| Bytes::from(format!("user{n}"));
    for n in 0..60 {
        // Each user is made in one segment and removed, or changed, in a later one.
        let mut writes = vec![MetaWrite::put(Table::AUTH_USERS, user(n), "first")];
        if let Some(n) = n.checked_sub(20) {
            writes.push(match n % 2 {
                0 => MetaWrite::delete(Table::AUTH_USERS, user(n)),
                _ => MetaWrite::put(Table::AUTH_USERS, user(n), "second"),
            });
        }
        store.meta_write(MetaTxn::new(writes)).await.unwrap();
        let put = Put::new("key", vec![0; 9_000]);
        store.put(put, None).await.unwrap();
    }
    let (expect, before) = (contents(&store), store.status().disk_bytes);
    assert_eq!(expect.len(), 40);
    store.compact(store.revision(), true).await.unwrap();
    for _ in 0..400 {
        if store.status().disk_bytes * 2 < before {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert!(store.status().disk_bytes * 2 < before, "space comes back");
    let crashed = disk.crash(&mut fastrand::Rng::with_seed(1));
    drop(store);
    for with_checkpoint in [true, false] {
        let copy = SimDisk::default();
        for path in crashed.paths() {
            if with_checkpoint || !path.ends_with("checkpoint") {
                copy.replace(&path, &crashed.contents(&path).unwrap());
            }
        }
        assert_eq!(contents(&open(&copy).unwrap()), expect, "{with_checkpoint}");
    }
}

#[tokio::test]
async fn changes_make_no_revision_and_are_refused_when_something_is_not_as_expected() {
    let store = open(&SimDisk::default()).unwrap();
    let put = |value: &'static str| MetaWrite::put(Table::AUTH, "k", value);
    let swap = |expect: MetaWrite, write: MetaWrite| MetaTxn {
        expect: vec![expect],
        writes: vec![write],
    };
    let absent = MetaWrite::delete(Table::AUTH, "k");
    let txns = [
        (swap(absent.clone(), put("1")), true),
        (swap(absent.clone(), put("2")), false),
        (swap(put("1"), put("3")), true),
        (swap(put("3"), absent.clone()), true),
        (swap(absent, put("4")), true),
    ];
    // All at once: they meet in one commit, each sees those before it.
    let answers = join_all(txns.iter().map(|(txn, _)| store.meta_write(txn.clone()))).await;
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers, txns.map(|(_, expect)| expect));
    assert_eq!(store.meta_get(Table::AUTH, b"k").as_deref(), Some(&b"4"[..]));
    assert_eq!(store.revision(), Revision::INITIAL);
    let large = MetaTxn::new(vec![MetaWrite::put(Table::AUTH, "k", vec![0; 17 << 10])]);
    assert_eq!(store.meta_write(large).await, Err(Error::RequestTooLarge));
}
