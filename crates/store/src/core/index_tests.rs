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

fn key(n: u16) -> Vec<u8> {
    format!("/k/{n}").into_bytes()
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
