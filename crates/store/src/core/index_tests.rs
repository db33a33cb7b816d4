//! The index against a model that never forgets.

use super::*;
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// All versions ever made, never forgotten: (revision, live).
#[derive(Default)]
struct Model(BTreeMap<Vec<u8>, Vec<(i64, bool)>>);

impl Model {
    fn sees(&self, key: &[u8], revision: i64) -> Option<i64> {
        let versions = self.0.get(key)?;
        let (modified, live) = versions
            .iter()
            .rev()
            .find(|(modified, _)| *modified <= revision)?;
        live.then_some(*modified)
    }

    fn range(&self, range: &KeyRange, revision: i64) -> Vec<(Vec<u8>, i64)> {
        let keys = self.0.keys().filter(|key| range.contains(key));
        keys.filter_map(|key| Some((key.clone(), self.sees(key, revision)?)))
            .collect()
    }
}

fn version(modified: i64, live: bool) -> Version {
    Version {
        modified,
        create: modified,
        version: i64::from(live),
        ..Version::default()
    }
}

/// Keys of which some are the beginning of others, some are long, and some fill a page by themselves.
fn key(n: u16) -> Vec<u8> {
    let mut key = format!("/k/{}", n / 4).into_bytes();
    match n % 4 {
        0 => (),
        1 => key.push(0),
        2 => key.extend([0, 0, 1]),
        _ => key.extend(vec![b'y'; if n % 64 == 3 { 40_000 } else { 3_000 }]),
    }
    key
}

#[derive(Clone, Debug)]
enum Step {
    Put(u16),
    Delete(u16),
    Prune(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..600_u16).prop_map(Step::Put),
        3 => (0..600_u16).prop_map(Step::Delete),
        1 => any::<u8>().prop_map(Step::Prune),
    ]
}

fn compare(index: &Index, model: &Model, floor: i64, now: i64) -> Result<(), TestCaseError> {
    let mid = (floor + now) / 2;
    let spans = [
        KeyRange::From(Bytes::new()),
        KeyRange::Span(key(2).into(), key(5).into()),
        KeyRange::Span(key(5).into(), key(2).into()),
        KeyRange::Key(key(7).into()),
    ];
    for range in &spans {
        prop_assert_eq!(index.count(range), model.range(range, now).len() as u64);
        for revision in [floor, mid, now] {
            let seen: Vec<_> = index
                .scan(range, revision)
                .map(|(key, version)| (key.to_vec(), version.modified))
                .collect();
            prop_assert_eq!(seen, model.range(range, revision));
        }
    }
    prop_assert_eq!(index.live(), model.range(&spans[0], now).len() as u64);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn the_index_agrees_with_a_model_that_never_forgets(steps in prop::collection::vec(step(), 1..600)) {
        let (mut index, mut model) = (Index::default(), Model::default());
        let (mut now, mut floor) = (1, 1);
        for step in &steps {
            match step {
                Step::Prune(back) => {
                    floor = floor.max(now - i64::from(*back));
                    let mut from = None;
                    while let Some(next) = index.prune(from.as_deref(), floor, 100, &mut |_, _| ()) {
                        from = Some(next);
                    }
                    compare(&index, &model, floor, now)?;
                }
                Step::Put(n) | Step::Delete(n) => {
                    let live = matches!(step, Step::Put(_));
                    if !live && model.sees(&key(*n), now).is_none() {
                        continue;
                    }
                    now += 1;
                    index.apply(&key(*n), version(now, live));
                    model.0.entry(key(*n)).or_default().push((now, live));
                }
            }
        }
        compare(&index, &model, floor, now)?;
        let mut copy = Index::default();
        let mut after: Option<Box<[u8]>> = None;
        while let Some(last) = index.walk(after.as_deref(), 7, |key, older, newest| {
            let versions: Vec<_> = older.iter().chain([newest]).copied().collect();
            assert!(copy.push_sorted(key, &versions));
        }) {
            after = Some(last);
        }
        compare(&copy, &model, floor, now)?;
    }
}

#[track_caller]
fn pruned(floor: i64, expect: &[i64]) {
    let mut index = Index::default();
    for (modified, live) in [(2, true), (5, true), (7, false), (9, true)] {
        index.apply(b"key", version(modified, live));
    }
    index.prune(None, floor, 1, &mut |_, _| ());
    let mut left = Vec::new();
    index.walk(None, 1, |_, older, newest| {
        left.extend(older.iter().chain([newest]).map(|v| v.modified));
    });
    assert_eq!(left, expect);
}

#[test]
fn a_key_that_has_moved_since_it_was_located_is_searched_for() {
    let mut index = Index::default();
    for key in [b"b", b"d"] {
        index.apply(key, version(2, true));
    }
    let (b, d) = (index.locate(b"b"), index.locate(b"d"));
    assert!(index.locate(b"c").is_none());
    index.apply(b"a", version(3, true));
    // "a" is now where "b" was, "b" where "d" was, and a place that another key has is no place.
    index.apply_near(b"b", version(4, true), b);
    index.apply_near(b"d", version(5, true), d);
    index.apply_near(b"c", version(6, true), d);
    let now = [b"a", b"b", b"c", b"d"].map(|key| index.get(key, 9).map(|found| found.modified));
    assert_eq!(now, [3, 4, 6, 5].map(Some));
    assert_eq!((index.live(), index.versions()), (4, 6));
}

#[test]
fn a_walk_stops_after_some_versions_and_between_keys() {
    let mut index = Index::default();
    for revision in 2..12 {
        index.apply(if revision < 8 { b"a" } else { b"b" }, version(revision, true));
    }
    let mut seen = Vec::new();
    let mut step = |after: Option<&[u8]>, max| {
        seen.clear();
        let last = index.walk(after, max, |key, older, _| {
            seen.push((key.to_vec(), older.len() + 1));
        });
        (last, seen.clone())
    };
    let (a, b) = ((b"a".to_vec(), 6), (b"b".to_vec(), 4));
    assert_eq!(step(None, 3), (Some(b"a"[..].into()), vec![a.clone()]));
    assert_eq!(step(None, 7), (Some(b"b"[..].into()), vec![a, b.clone()]));
    assert_eq!(step(Some(b"a"), 1), (Some(b"b"[..].into()), vec![b]));
    assert_eq!(step(Some(b"b"), 1), (None, vec![]));
}

#[test]
fn pruning_keeps_the_newest_version_at_or_below_the_floor() {
    pruned(1, &[2, 5, 7, 9]);
    pruned(4, &[2, 5, 7, 9]);
    pruned(6, &[5, 7, 9]);
}

#[test]
fn a_tombstone_stays_exactly_at_the_floor_and_goes_below_it() {
    pruned(7, &[7, 9]);
    pruned(8, &[9]);
    pruned(9, &[9]);
}

#[test]
fn a_deleted_key_disappears_once_the_floor_has_passed_its_tombstone() {
    let mut index = Index::default();
    index.apply(b"key", version(2, true));
    index.apply(b"key", version(3, false));
    let mut dropped = Vec::new();
    index.prune(None, 4, 1, &mut |_, version| dropped.push(version.modified));
    assert_eq!((dropped, index.pages.len()), (vec![2, 3], 0));
}

#[test]
fn keys_are_found_in_whatever_order_they_came() {
    let keys = 2_000_u64;
    for step in [1, 7, 1_999, 1_234_567] {
        for name in [
            |n: u64| format!("same/{n:06}"),
            |n: u64| format!("{n}"),
            |n: u64| format!("{:x}/{n}", n % 16),
        ] {
            let mut index = Index::default();
            let numbers = || (0..keys).map(|n| n * step % keys);
            for (at, n) in (2..).zip(numbers()) {
                index.apply(name(n).as_bytes(), version(at, true));
            }
            for (at, n) in (2..).zip(numbers()) {
                let key = name(n);
                let found = index
                    .get(key.as_bytes(), i64::MAX)
                    .map(|version| version.modified);
                assert_eq!(found, Some(at), "{key}");
                assert!(index.get(format!("{key}~").as_bytes(), i64::MAX).is_none());
            }
            let all: Vec<_> = index
                .scan(&KeyRange::From(Bytes::new()), i64::MAX)
                .map(|(key, _)| key)
                .collect();
            assert!(all.is_sorted() && all.len() as u64 == index.live());
        }
    }
}
