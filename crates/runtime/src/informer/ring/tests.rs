//! What handlers are told, fast and slow.

use super::*;

type Event = (ObjectKey, Notice<u32>);

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("", name)
}
fn added(name: &str, object: u32) -> Event {
    (
        key(name),
        Notice::Added {
            object,
            initial: false,
        },
    )
}
fn updated(name: &str, old: u32, new: u32) -> Event {
    (key(name), Notice::Updated { old, new })
}
fn deleted(name: &str, object: u32) -> Event {
    let notice = Notice::Deleted {
        object,
        final_state_unknown: false,
    };
    (key(name), notice)
}

/// Takes everything, as `a+1 a~1>2 a-2`, `!` for the initial list.
fn told(ring: &mut Ring<u32>, id: CursorId) -> String {
    let mut words = Vec::new();
    loop {
        let records = ring.take(id, 2);
        if records.is_empty() {
            return words.join(" ");
        }
        words.extend(records.iter().map(|record| match &record.1 {
            Notice::Added { object, initial } => {
                format!("{}+{object}{}", record.0, if *initial { "!" } else { "" })
            }
            Notice::Updated { old, new } => format!("{}~{old}>{new}", record.0),
            Notice::Deleted { object, .. } => format!("{}-{object}", record.0),
        }));
    }
}

#[track_caller]
fn check(capacity: usize, events: Vec<Event>, expect: &str) {
    let mut ring = Ring::new(capacity);
    let id = ring.subscribe([], None, Instant::now());
    ring.publish(events);
    assert_eq!(told(&mut ring, id), expect);
    assert!(ring.is_empty());
}

#[test]
fn a_handler_that_keeps_up_sees_every_state() {
    check(
        10,
        vec![added("a", 1), updated("a", 1, 2), deleted("a", 2)],
        "a+1 a~1>2 a-2",
    );
}

#[test]
fn a_handler_that_fell_behind_is_told_the_latest_states_in_order_of_first_change() {
    check(
        2,
        vec![
            added("a", 1),
            added("b", 1),
            updated("a", 1, 2),
            updated("b", 1, 2),
        ],
        "a+2 b+2",
    );
}

#[test]
fn what_came_and_went_unseen_is_not_told() {
    check(1, vec![added("a", 1), deleted("a", 1), added("b", 1)], "b+1");
}

#[test]
fn a_deletion_of_something_seen_is_never_lost() {
    check(
        1,
        vec![updated("a", 1, 2), deleted("a", 2), added("b", 1)],
        "a-2 b+1",
    );
}

#[test]
fn deleted_and_made_again_while_behind_is_one_update() {
    check(
        1,
        vec![deleted("a", 1), added("a", 7), updated("a", 7, 8)],
        "a~1>8",
    );
}

#[test]
fn a_slow_handler_does_not_hold_up_or_thin_out_the_others() {
    let mut ring = Ring::new(2);
    let (slow, fast) = (
        ring.subscribe([], None, Instant::now()),
        ring.subscribe([], None, Instant::now()),
    );
    let mut seen = Vec::new();
    for state in 1..100 {
        ring.publish([updated("a", state - 1, state)]);
        seen.push(told(&mut ring, fast));
        assert!(ring.len() <= 2);
    }
    assert_eq!(seen.len(), 99);
    assert!(seen.iter().all(|text| text.starts_with("a~")));
    assert_eq!(told(&mut ring, slow), "a~0>99");
}

#[test]
fn a_late_handler_is_told_what_is_there_and_then_what_changes() {
    let mut ring = Ring::new(10);
    ring.mark_synced();
    let id = ring.subscribe([(key("a"), 1), (key("b"), 1)], None, Instant::now());
    ring.publish([updated("a", 1, 2)]);
    assert!(!ring.has_synced(id));
    assert_eq!(told(&mut ring, id), "a+2! b+1!");
    assert!(ring.has_synced(id));
    ring.publish([deleted("a", 2)]);
    assert_eq!(told(&mut ring, id), "a-2");
}

#[test]
fn synced_means_the_last_initial_notice_was_handled_not_just_taken() {
    let mut ring = Ring::new(10);
    let id = ring.subscribe([], None, Instant::now());
    ring.publish([added("a", 1), added("b", 1)]);
    ring.take(id, 10);
    ring.take(id, 10);
    assert!(!ring.has_synced(id), "the source has not said that this was all");
    ring.mark_synced();
    ring.take(id, 10);
    assert!(ring.has_synced(id));
}

// TestListenerResyncPeriods
#[test]
fn a_resync_repeats_the_objects_to_the_handlers_that_are_due() {
    let now = Instant::now();
    let minute = Duration::from_secs(60);
    let mut ring = Ring::new(10);
    let (often, never) = (
        ring.subscribe([], Some(minute), now),
        ring.subscribe([], None, now),
    );
    ring.publish([added("a", 1)]);
    ring.resync(&[(key("a"), 1)], now + minute / 2);
    assert_eq!(told(&mut ring, often), "a+1");
    ring.resync(&[(key("a"), 1)], now + minute);
    assert_eq!(told(&mut ring, often), "a~1>1");
    assert_eq!(told(&mut ring, never), "a+1");
    assert_eq!(ring.next_resync(), Some(now + minute * 2));
}

// TestRemovingRemovedSharedInformer
#[test]
fn removing_a_handler_twice_is_harmless_and_frees_its_records() {
    let mut ring = Ring::new(10);
    let id = ring.subscribe([], None, Instant::now());
    ring.publish([added("a", 1)]);
    ring.unsubscribe(id);
    ring.unsubscribe(id);
    assert!(ring.is_empty());
    assert!(ring.take(id, 1).is_empty());
}

#[test]
fn however_slow_a_handler_reads_it_ends_at_the_present_and_hears_of_every_deletion() {
    for seed in 0..300 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut ring = Ring::new(4);
        let id = ring.subscribe([], None, Instant::now());
        let mut store: BTreeMap<String, u32> = BTreeMap::new();
        let mut view: BTreeMap<String, u32> = BTreeMap::new();
        for state in 1..300 {
            let name = ["a", "b", "c", "d", "e", "f", "g"][rng.usize(..7)];
            let event = match (store.get(name).copied(), rng.bool()) {
                (None, _) => added(name, state),
                (Some(old), true) => updated(name, old, state),
                (Some(old), false) => deleted(name, old),
            };
            match &event.1 {
                Notice::Deleted { .. } => store.remove(name),
                other => store.insert(name.to_owned(), *other.object()),
            };
            ring.publish([event]);
            if rng.u8(..8) == 0 {
                apply(&mut view, ring.take(id, rng.usize(1..9)));
            }
        }
        loop {
            let records = ring.take(id, 3);
            if records.is_empty() {
                break;
            }
            apply(&mut view, records);
        }
        assert_eq!(view, store, "seed {seed}");
    }
}

fn apply(view: &mut BTreeMap<String, u32>, records: Vec<Record<u32>>) {
    for record in records {
        let name = record.0.to_string();
        match &record.1 {
            Notice::Added { object, .. } => assert!(view.insert(name, *object).is_none(), "added twice"),
            Notice::Updated { old, new } => assert_eq!(view.insert(name, *new), Some(*old)),
            Notice::Deleted { .. } => assert!(view.remove(&name).is_some(), "deleted but never told"),
        }
    }
}
