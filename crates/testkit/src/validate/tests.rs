//! Each check is shown a record that is right but for one planted fault, and must name the guarantee.

use super::*;
use crate::model::Change;
use crate::record::WatchRequest;

fn put(key: &str, value: &str) -> Change {
    Change::Put(key.into(), value.into())
}

/// 2: a. 3: a, b in one commit. 4: a deleted. 5: c outside the range. 6: a again.
fn model() -> Model {
    let mut model = Model::default();
    model.commit(&[put("a", "1")]);
    model.commit(&[put("a", "2"), put("b", "1")]);
    model.commit(&[Change::Delete("a".into())]);
    model.commit(&[put("c", "1")]);
    model.commit(&[put("a", "3")]);
    model
}

fn record(model: &Model) -> WatchRecord {
    let request = WatchRequest {
        start: "a".into(),
        end: Some("c".into()),
        revision: 3,
        no_put: false,
        no_delete: false,
    };
    let events = |from, to| {
        Response::Events(
            model
                .events(from, to)
                .filter(|event| event.key < b"c".to_vec())
                .cloned()
                .collect(),
        )
    };
    let responses = vec![events(3, 4), Response::Progress(5), events(6, 6)];
    WatchRecord { request, responses }
}

#[track_caller]
fn check(guarantee: &str, fault: impl FnOnce(&mut Vec<Response>)) {
    let model = model();
    let mut record = record(&model);
    assert_eq!(watch(&model, &record), Ok(()));
    fault(&mut record.responses);
    assert_eq!(watch(&model, &record).unwrap_err().guarantee, guarantee);
}

fn events(response: &mut Response) -> &mut Vec<Event> {
    match response {
        Response::Events(events) => events,
        other => panic!("{other:?} has no events"),
    }
}

#[test]
fn filter_catches_a_key_outside_the_range() {
    let foreign = model().events(5, 5).next().unwrap().clone();
    check("Filter", |responses| events(&mut responses[0]).push(foreign));
}

#[test]
fn filter_catches_an_event_before_the_start() {
    let early = model().events(2, 2).next().unwrap().clone();
    check("Filter", |responses| events(&mut responses[0]).insert(0, early));
}

#[test]
fn ordered_catches_revisions_that_go_back() {
    check("Ordered", |responses| events(&mut responses[0]).swap(1, 2));
}

#[test]
fn unique_catches_an_event_told_twice() {
    check("Unique", |responses| {
        let twice = events(&mut responses[0])[1].clone();
        events(&mut responses[0]).insert(1, twice);
    });
}

#[test]
fn atomic_catches_a_revision_in_two_answers() {
    check("Atomic", |responses| {
        let first = events(&mut responses[0]).remove(0);
        responses.insert(0, Response::Events(vec![first]));
    });
}

#[test]
fn bookmarkable_catches_progress_ahead_of_events() {
    check("Bookmarkable", |responses| responses[1] = Response::Progress(6));
}

#[test]
fn bookmarkable_catches_progress_that_goes_back() {
    check("Bookmarkable", |responses| responses.push(Response::Progress(5)));
}

#[test]
fn resumable_catches_a_late_beginning() {
    check("Resumable", |responses| {
        events(&mut responses[0]).remove(0);
    });
}

#[test]
fn reliable_catches_a_gap() {
    check("Reliable", |responses| {
        events(&mut responses[0]).remove(1);
    });
}

#[test]
fn reliable_catches_a_gap_below_progress() {
    check("Reliable", |responses| {
        responses.truncate(2);
        events(&mut responses[0]).pop();
    });
}

#[test]
fn reliable_catches_a_wrong_value() {
    check("Reliable", |responses| {
        let first = &mut events(&mut responses[0])[0];
        first.now.as_mut().unwrap().value = b"?".to_vec();
    });
}

#[test]
fn reliable_catches_an_event_that_never_happened() {
    check("Reliable", |responses| {
        let mut invented = events(&mut responses[2])[0].clone();
        invented.revision = 9;
        responses.push(Response::Events(vec![invented]));
    });
}

#[test]
fn prev_kv_catches_a_wrong_previous_version_and_tolerates_none() {
    check("PrevKV", |responses| {
        let deletion = &mut events(&mut responses[0])[2];
        deletion.before.as_mut().unwrap().value = b"1".to_vec();
    });
    let model = model();
    let mut record = record(&model);
    events(&mut record.responses[0])[2].before = None;
    assert_eq!(watch(&model, &record), Ok(()));
}

#[test]
fn is_create_catches_a_creation_that_is_none() {
    // Reliable compares whole versions, so the fault has to be in what both agree on.
    let model = model();
    let mut wrong = record(&model);
    let first = &mut events(&mut wrong.responses[0])[0];
    first.now.as_mut().unwrap().create_revision = first.revision;
    assert!(is_create(&model, &wrong).is_err());
    assert!(is_create(&model, &record(&model)).is_ok());
}

#[test]
fn a_read_of_the_past_shows_the_state_of_then() {
    use crate::linear::kv::{Keys, Version};
    let mut model = Model::default();
    model.commit(&[Change::Put(b"k".to_vec(), b"1".to_vec())]);
    model.commit(&[Change::Put(b"k".to_vec(), b"2".to_vec())]);
    let found = |value: &str, modified| {
        let version = Version {
            value: value.as_bytes().to_vec(),
            create: 2,
            modified,
            version: modified - 1,
            lease: 0,
        };
        vec![(b"k".to_vec(), version)]
    };
    let fine = |revision, found: &[_]| past(&model, &Keys::one(b"k"), revision, found).is_ok();
    assert!(fine(1, &[]) && fine(2, &found("1", 2)) && fine(3, &found("2", 3)));
    assert!(!fine(1, &found("1", 2)) && !fine(2, &found("2", 3)) && !fine(2, &[]));
    assert!(!fine(4, &found("2", 3)), "it has not been written");
}
