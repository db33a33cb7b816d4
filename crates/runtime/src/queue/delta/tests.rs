//! Upstream's RealFIFO behaviours, and what the bound adds to them.

use super::*;

impl Payload for &'static str {
    fn bytes(&self) -> usize {
        self.len()
    }
}

fn fifo(deltas_max: usize) -> RealFifo<&'static str> {
    RealFifo::new(DeltaLimits {
        deltas_max,
        ..DeltaLimits::default()
    })
}

fn object(change: Change, key: &str, object: &'static str) -> Delta<&'static str> {
    Delta::Object {
        key: ObjectKey::new("", key),
        change,
        object,
    }
}

fn replace(names: &[&'static str]) -> Delta<&'static str> {
    Delta::ReplacedAll {
        resource_version: 9,
        objects: names
            .iter()
            .map(|name| (ObjectKey::new("", name), *name))
            .collect(),
    }
}

/// Everything the queue gives, one line per batch: `+` added, `~` updated, `-` deleted.
fn drain(fifo: &mut RealFifo<&'static str>) -> Vec<String> {
    let mut batches = Vec::new();
    loop {
        let batch = fifo.pop_batch();
        if batch.is_empty() {
            return batches;
        }
        fifo.processed();
        let words: Vec<String> = batch
            .iter()
            .map(|delta| match delta {
                Delta::Object { key, change, object } => {
                    let sign = match change {
                        Added => '+',
                        Updated => '~',
                        Deleted => '-',
                    };
                    format!("{sign}{key}={object}")
                }
                Delta::ReplacedAll { objects, .. } => format!("all({})", objects.len()),
                Delta::SyncAll => "sync".to_owned(),
                Delta::Bookmark { resource_version } => format!("mark({resource_version})"),
            })
            .collect();
        batches.push(words.join(" "));
    }
}

#[track_caller]
fn check(deltas_max: usize, pushes: Vec<Delta<&'static str>>, expect: &[&str]) {
    let mut fifo = fifo(deltas_max);
    for delta in pushes {
        fifo.push(delta).unwrap();
    }
    assert_eq!(drain(&mut fifo), expect);
    assert_eq!((fifo.bytes(), fifo.len()), (0, 0));
}

use Change::{Added, Deleted, Updated};

// TestRealFIFO_addUpdate, TestRealFIFO_PopMultipleDeltaInBatch
#[test]
fn deltas_leave_in_order_and_a_batch_never_holds_a_key_twice() {
    check(
        1000,
        vec![
            object(Added, "a", "1"),
            object(Added, "b", "1"),
            object(Updated, "a", "2"),
            object(Deleted, "b", "2"),
        ],
        &["+a=1 +b=1", "~a=2 -b=2"],
    );
}

// TestRealFIFO_ReplaceAtomic, _ReplaceAtomicPop, _ResyncAtomic
#[test]
fn a_replace_a_sync_and_a_bookmark_are_batches_of_their_own() {
    check(
        1000,
        vec![
            object(Added, "a", "1"),
            replace(&["b"]),
            Delta::SyncAll,
            object(Updated, "b", "2"),
            Delta::Bookmark { resource_version: 3 },
        ],
        &["+a=1", "all(1)", "sync", "~b=2", "mark(3)"],
    );
}

// TestRealFIFO_DeleteExistingNonPropagated: the atomic queue delivers deletions of unknown keys too.
#[test]
fn a_deletion_of_an_unknown_key_is_delivered() {
    check(1000, vec![object(Deleted, "a", "1")], &["-a=1"]);
}

#[test]
fn bookmarks_and_syncs_in_a_row_are_one() {
    check(
        1000,
        vec![
            Delta::Bookmark { resource_version: 3 },
            Delta::Bookmark { resource_version: 4 },
            Delta::SyncAll,
            Delta::SyncAll,
        ],
        &["mark(4)", "sync"],
    );
}

#[test]
fn past_half_of_the_bound_only_the_newest_state_of_a_key_is_kept() {
    check(
        4,
        vec![
            object(Added, "a", "1"),
            object(Updated, "a", "2"),
            object(Added, "b", "1"),
            object(Deleted, "a", "3"),
            object(Updated, "b", "2"),
        ],
        &["-a=3 ~b=2"],
    );
}

#[test]
fn merging_never_moves_an_object_across_a_sync() {
    check(
        4,
        vec![
            object(Added, "a", "1"),
            Delta::SyncAll,
            object(Updated, "a", "2"),
            object(Updated, "a", "3"),
        ],
        &["+a=1", "sync", "~a=3"],
    );
}

#[test]
fn a_full_queue_refuses_new_keys_and_takes_newer_states_of_held_ones() {
    let mut fifo = fifo(2);
    fifo.push(object(Added, "a", "1")).unwrap();
    fifo.push(object(Added, "b", "1")).unwrap();
    assert!(fifo.push(object(Added, "c", "1")).is_err());
    fifo.push(object(Updated, "a", "2")).unwrap();
    assert_eq!(drain(&mut fifo), ["~a=2 +b=1"]);
    fifo.push(object(Added, "c", "1")).unwrap();
}

#[test]
fn a_replace_makes_what_a_full_queue_holds_superfluous() {
    let mut fifo = fifo(2);
    fifo.push(object(Added, "a", "1")).unwrap();
    fifo.push(object(Added, "b", "1")).unwrap();
    fifo.push(replace(&["c"])).unwrap();
    assert_eq!(drain(&mut fifo), ["all(1)"]);
}

#[test]
fn bytes_are_a_bound_of_their_own() {
    let mut fifo = RealFifo::new(DeltaLimits {
        bytes_max: 4,
        ..DeltaLimits::default()
    });
    fifo.push(object(Added, "a", "1234")).unwrap();
    assert!(fifo.push(object(Added, "b", "1")).is_err());
}

// TestRealFIFO_HasSynced
#[test]
fn synced_means_the_first_population_was_processed() {
    let mut started_by_replace = fifo(10);
    started_by_replace.push(replace(&[])).unwrap();
    assert!(!started_by_replace.has_synced());
    started_by_replace.pop_batch();
    assert!(!started_by_replace.has_synced());
    started_by_replace.processed();
    assert!(started_by_replace.has_synced());

    let mut started_by_add = fifo(10);
    started_by_add.push(object(Added, "a", "1")).unwrap();
    assert!(started_by_add.has_synced());
}

#[test]
fn under_any_load_the_last_delta_of_a_key_survives() {
    let names = ["a", "b", "c", "d", "e", "f"];
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut fifo = fifo(4);
        let (mut sent, mut got) = (HashMap::new(), HashMap::new());
        let consume = |fifo: &mut RealFifo<&'static str>, got: &mut HashMap<ObjectKey, _>| {
            for delta in fifo.pop_batch() {
                if let Delta::Object { key, object, .. } = delta {
                    got.insert(key, object);
                }
            }
        };
        for _ in 0..100 {
            let (key, state) = (names[rng.usize(..6)], ["1", "22", "333"][rng.usize(..3)]);
            let mut delta = object(Updated, key, state);
            while let Err(refused) = fifo.push(delta) {
                consume(&mut fifo, &mut got);
                delta = refused;
            }
            sent.insert(ObjectKey::new("", key), state);
            if rng.u8(..4) == 0 {
                consume(&mut fifo, &mut got);
            }
            assert!(fifo.len() <= 4);
        }
        while !fifo.is_empty() {
            consume(&mut fifo, &mut got);
        }
        assert_eq!(got, sent, "seed {seed}");
    }
}
