//! Details of etcd that one gets wrong when reading its sources quickly. Those of the wire are in `wire::traps`.

use super::*;

fn compare(keys: KeyRange, target: CompareTarget) -> Compare {
    Compare {
        keys,
        relation: Relation::Equal,
        target,
    }
}

#[tokio::test]
async fn compares_of_a_nested_transaction_see_the_state_before_the_outer_one() {
    let disk = SimDisk::default();
    let store = open(&disk);
    put(&store, "a", "old").await;
    let nested = Txn {
        compares: vec![compare(key("a"), CompareTarget::Value("old".into()))],
        success: vec![Op::Range(Range::key("a"))],
        failure: vec![],
    };
    let txn = Txn {
        success: vec![Op::Put(Put::new("a", "new")), Op::Txn(Box::new(nested))],
        ..Txn::default()
    };
    let result = store.txn(txn, None).await.unwrap();
    let OpResult::Txn(nested) = &result.results[1] else {
        panic!("{result:?}")
    };
    assert!(nested.succeeded, "the compare saw the state before");
    let OpResult::Range(range) = &nested.results[0] else {
        panic!("{nested:?}")
    };
    assert_eq!(range.kvs[0].value, "new", "the step saw the write before it");
}

#[tokio::test]
async fn a_compare_over_no_keys_fails_for_values_and_reads_zero_otherwise() {
    let disk = SimDisk::default();
    let store = open(&disk);
    for (target, holds) in [
        (CompareTarget::Value(Bytes::new()), false),
        (CompareTarget::Version(0), true),
        (CompareTarget::Create(0), true),
        (CompareTarget::Mod(0), true),
        (CompareTarget::Lease(0), true),
    ] {
        let txn = Txn {
            compares: vec![compare(KeyRange::prefix(b"none"), target.clone())],
            ..Txn::default()
        };
        let result = store.txn(txn, None).await.unwrap();
        assert_eq!(result.succeeded, holds, "{target:?}");
    }
}

#[tokio::test]
async fn a_watcher_without_a_start_is_told_which_revision_to_resume_from() {
    let disk = SimDisk::default();
    let store = open(&disk);
    let written = put(&store, "k", "1").await;
    let mut stream = store.watch();
    let (_, now) = stream.create(WatchSpec::new(key("k"), None)).unwrap();
    assert_eq!(now, written);
    let next_write = put(&store, "k", "2").await;
    let seen = collect(&mut stream, next_write).await;
    assert_eq!(
        told(&seen[0]).0,
        next_write.0,
        "it begins behind the revision of its creation"
    );
    // A client that was cut off before the first event resumes at that revision, inclusively.
    let mut resumed = store.watch();
    resumed.create(WatchSpec::new(key("k"), Some(now))).unwrap();
    let seen = collect(&mut resumed, next_write).await;
    let revisions: Vec<i64> = seen.iter().map(|event| event.kv.mod_revision.0).collect();
    assert_eq!(revisions, [written.0, next_write.0]);
}

#[tokio::test]
async fn a_compaction_keeps_a_deletion_at_its_revision_and_drops_those_before() {
    let disk = SimDisk::default();
    let store = open(&disk);
    put(&store, "a", "1").await;
    put(&store, "b", "1").await;
    let first = delete(&store, key("a")).await;
    let second = delete(&store, key("b")).await;
    store.compact(second, true).await.unwrap();
    let mut stream = store.watch();
    stream.create(WatchSpec::new(everything(), Some(second))).unwrap();
    let seen = collect(&mut stream, second).await;
    assert_eq!(seen.len(), 1);
    let asked = range_at(everything(), first);
    assert!(matches!(store.range(&asked), Err(Error::Compacted { .. })));
    assert_eq!(store.range(&range_at(everything(), second)).unwrap().count, 0);
}

#[tokio::test]
async fn compaction_at_zero_is_fine_once_on_a_fresh_store() {
    let disk = SimDisk::default();
    let store = open(&disk);
    assert_eq!(store.compact(Revision(0), true).await, Ok(Revision(1)));
    assert!(matches!(
        store.compact(Revision(0), false).await,
        Err(Error::Compacted { .. })
    ));
    assert_eq!(store.status().compact_revision, 0);
    assert_eq!(put(&store, "k", "1").await, Revision(2));
}
