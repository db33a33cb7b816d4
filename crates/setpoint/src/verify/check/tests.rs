//! Each guarantee is seen to be kept when it is, and to be broken when it is not.

use setpoint_store::client::Tombstone;

use super::*;

fn layout() -> Layout {
    Layout {
        prefix: "p/".to_owned(),
        writers: 2,
    }
}

fn put(key: &str, value: &str, revision: i64, version: i64) -> mvccpb::Event {
    mvccpb::Event {
        r#type: 0,
        kv: Some(mvccpb::KeyValue {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            mod_revision: revision,
            version,
            ..Default::default()
        }),
        prev_kv: None,
    }
}

/// Write `number` of writer 0 at `revision`: one key, put for the `version`th time, and the cursor.
fn write(number: u64, revision: i64, version: i64) -> Vec<mvccpb::Event> {
    vec![
        put("p/w0000/k0001", "x", revision, version),
        put(
            "p/w0000/cursor",
            &format!("{number} 1 0"),
            revision,
            number as i64,
        ),
    ]
}

fn checked(batches: &[Vec<mvccpb::Event>]) -> Findings {
    let mut checker = Checker::new(layout(), true);
    for batch in batches {
        checker.batch(batch, |_| ());
    }
    checker.findings
}

/// What is counted, in the order of the fields, without what is no breach.
fn counts(findings: &Findings) -> [u64; 8] {
    [
        findings.lost,
        findings.gaps,
        findings.duplicated,
        findings.out_of_order,
        findings.torn,
        findings.bookmarks,
        findings.prev_kv,
        findings.versions,
    ]
}

#[test]
fn a_log_without_fault_has_no_findings_also_when_many_revisions_come_together() {
    let findings = checked(&[write(1, 10, 1), [write(2, 11, 2), write(3, 13, 3)].concat()]);
    assert_eq!(counts(&findings), [0; 8], "{:?}", findings.examples);
    assert_eq!((findings.events, findings.revisions), (6, 3));
    assert!(!findings.broken());
}

#[test]
fn a_missing_write_is_lost_once_and_confuses_nothing_after_it() {
    let findings = checked(&[write(1, 10, 1), write(4, 13, 4), write(5, 14, 5)]);
    assert_eq!(
        counts(&findings),
        [2, 1, 0, 0, 0, 0, 0, 0],
        "{:?}",
        findings.examples
    );
}

#[test]
fn a_repeated_write_is_a_duplicate() {
    let findings = checked(&[write(1, 10, 1), write(2, 11, 2), write(2, 11, 2)]);
    assert_eq!(findings.duplicated, 1, "{:?}", findings.examples);
    assert_eq!((findings.lost, findings.torn), (0, 0));
}

#[test]
fn an_older_revision_after_a_newer_one_is_out_of_order() {
    let findings = checked(&[write(2, 11, 2), write(1, 10, 1)]);
    assert_eq!((findings.out_of_order, findings.lost), (1, 1));
}

#[test]
fn a_revision_in_two_pieces_or_without_a_part_is_torn() {
    let whole = write(1, 10, 1);
    let findings = checked(&[whole[..1].to_vec(), whole[1..].to_vec()]);
    assert!(findings.torn > 0);
    let findings = checked(&[whole[1..].to_vec()]);
    assert_eq!(findings.torn, 1);
}

#[test]
fn a_wrong_version_or_previous_version_is_told() {
    let findings = checked(&[write(1, 10, 1), write(2, 11, 7)]);
    assert_eq!(findings.versions, 1);
    let mut second = write(2, 11, 2);
    second[0].prev_kv = put("p/w0000/k0001", "x", 9, 1).kv;
    let findings = checked(&[write(1, 10, 1), second]);
    assert_eq!(findings.prev_kv, 1);
}

#[test]
fn bookmarks_that_go_back_or_promise_too_much_are_wrong() {
    let mut checker = Checker::new(layout(), false);
    checker.progress(20);
    checker.progress(19);
    checker.batch(&write(1, 20, 1), |_| ());
    assert_eq!(checker.findings.bookmarks, 2);
}

fn snapshot(number: u64, revision: i64, keys: &[(&str, i64)]) -> Resync {
    let cursor = put(
        "p/w0000/cursor",
        &format!("{number} 1 0"),
        revision,
        number as i64,
    );
    let keys = keys.iter().map(|(key, at)| put(key, "x", *at, 1).kv);
    Resync {
        snapshot: keys.chain([cursor.kv]).map(Option::unwrap).collect(),
        revision,
        deleted: Vec::new(),
    }
}

#[test]
fn a_resync_tells_writes_without_losing_them_and_must_name_what_is_gone() {
    let mut checker = Checker::new(layout(), false);
    checker.batch(&write(1, 10, 1), |_| ());
    let mut resync = snapshot(5, 20, &[("p/w0000/k0002", 15)]);
    resync.deleted = vec![Tombstone {
        key: "p/w0000/k0001".into(),
        last_mod_revision: 10,
    }];
    checker.resync(&resync);
    assert_eq!(checker.findings.told_by_resync, 4);
    assert!(!checker.findings.broken(), "{:?}", checker.findings.examples);
    checker.batch(&write(6, 21, 1), |_| ());
    assert!(!checker.findings.broken(), "{:?}", checker.findings.examples);
    resync.deleted.clear();
    resync.revision = 22;
    resync.snapshot.retain(|kv| kv.key.ends_with(b"cursor"));
    checker.resync(&resync);
    assert_eq!(
        checker.findings.resyncs_wrong, 1,
        "gone keys untold, and an older number"
    );
}

#[test]
fn the_end_shows_what_never_came_and_what_differs() {
    let mut checker = Checker::new(layout(), false);
    checker.batch(&write(1, 10, 1), |_| ());
    let state: HashMap<Bytes, i64> = [("p/w0000/k0001".into(), 10), ("p/w0000/cursor".into(), 10)].into();
    checker.finish(&[1, 0], &state);
    assert!(!checker.findings.broken());
    checker.finish(&[1, 0], &HashMap::new());
    assert_eq!(checker.findings.state_wrong, 2);
    checker.finish(&[3, 0], &state);
    assert_eq!(checker.findings.lost, 2);
}
