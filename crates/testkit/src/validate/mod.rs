//! etcd's guarantees to watchers, checked on records (after etcd's `tests/robustness/validate/watch.go`).
//!
//! | Check | What must hold |
//! |---|---|
//! | Filter | each event is one the watcher asked for |
//! | Ordered | revisions never decrease |
//! | Unique | no key twice in a revision |
//! | Atomic | a revision never spans two answers |
//! | Bookmarkable | progress never goes back, and nothing at or below it comes later |
//! | Resumable | the first event is the first that matches at or after the revision asked for |
//! | Reliable | up to the last event or progress, the events are exactly those that happened |
//! | PrevKV | the previous version, if given, is the state before |
//! | IsCreate | an event looks like a creation exactly if the key was not there before |
//! | Serializable | a read of the past shows the state at that revision ([`past`]) |
//!
//! Reliable is stricter than etcd's: progress too promises that nothing is missing.

use std::collections::HashSet;
use std::fmt;

use crate::linear::kv::{Keys, Version};
use crate::model::{Event, Model, Stored};
use crate::record::{Response, WatchRecord};

/// A broken guarantee.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which: etcd's name.
    pub guarantee: &'static str,
    /// How.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.guarantee, self.detail)
    }
}

type Check = fn(&Model, &WatchRecord) -> Result<(), String>;

/// All checks, the ones that explain most first.
const CHECKS: [(&str, Check); 9] = [
    ("Filter", filter),
    ("Ordered", ordered),
    ("Unique", unique),
    ("Atomic", atomic),
    ("Bookmarkable", bookmarkable),
    ("Resumable", resumable),
    ("Reliable", reliable),
    ("PrevKV", prev_kv),
    ("IsCreate", is_create),
];

/// Checks everything one watcher was told against what happened.
///
/// # Errors
/// The first guarantee that does not hold.
pub fn watch(model: &Model, record: &WatchRecord) -> Result<(), Violation> {
    for (guarantee, check) in CHECKS {
        check(model, record).map_err(|detail| Violation { guarantee, detail })?;
    }
    Ok(())
}

/// Checks a read at a revision, whenever it was made: it must show the state at that revision, and one that had not
/// been written cannot have been read.
///
/// # Errors
/// The violation.
pub fn past(
    model: &Model,
    keys: &Keys,
    revision: i64,
    found: &[(Vec<u8>, Version)],
) -> Result<(), Violation> {
    let violation = |detail| Violation {
        guarantee: "Serializable",
        detail,
    };
    let Some(state) = model.at(revision) else {
        return Err(violation(format!(
            "revision {revision} does not exist and was read"
        )));
    };
    let expected: Vec<(Vec<u8>, Version)> = state
        .iter()
        .filter(|(key, _)| keys.contains(key))
        .map(|(key, stored)| (key.clone(), version(stored)))
        .collect();
    if found == expected {
        Ok(())
    } else {
        Err(violation(format!(
            "revision {revision} read as {found:?}, it was {expected:?}"
        )))
    }
}

fn version(stored: &Stored) -> Version {
    Version {
        value: stored.value.clone(),
        create: stored.create_revision,
        modified: stored.mod_revision,
        version: stored.version,
        lease: stored.lease,
    }
}

fn filter(_: &Model, record: &WatchRecord) -> Result<(), String> {
    match record.events().find(|event| !record.request.wants(event)) {
        Some(event) => Err(format!("{} was not asked for", name(event))),
        None => Ok(()),
    }
}

fn ordered(_: &Model, record: &WatchRecord) -> Result<(), String> {
    let mut last = 0;
    for event in record.events() {
        if event.revision < last {
            return Err(format!("{} came after revision {last}", name(event)));
        }
        last = event.revision;
    }
    Ok(())
}

fn unique(_: &Model, record: &WatchRecord) -> Result<(), String> {
    let mut seen = HashSet::new();
    match record
        .events()
        .find(|event| !seen.insert((event.revision, &event.key)))
    {
        Some(event) => Err(format!("{} came twice", name(event))),
        None => Ok(()),
    }
}

fn atomic(_: &Model, record: &WatchRecord) -> Result<(), String> {
    let mut last = None;
    for response in &record.responses {
        let Response::Events(events) = response else {
            continue;
        };
        let first = events
            .first()
            .ok_or("an answer without events that is not progress")?;
        if last == Some(first.revision) {
            return Err(format!("revision {} came in two answers", first.revision));
        }
        last = events.last().map(|event| event.revision);
    }
    Ok(())
}

fn bookmarkable(_: &Model, record: &WatchRecord) -> Result<(), String> {
    let (mut progress, mut event) = (0, 0);
    for response in &record.responses {
        match response {
            Response::Progress(revision) if *revision < progress.max(event) => {
                return Err(format!(
                    "progress {revision} after progress {progress} and revision {event}"
                ));
            }
            Response::Progress(revision) => progress = *revision,
            Response::Events(events) => {
                if let Some(late) = events.iter().find(|event| event.revision <= progress) {
                    return Err(format!("{} came after progress {progress}", name(late)));
                }
                event = events.last().map_or(event, |last| last.revision);
            }
            Response::Compacted(_) => (),
        }
    }
    Ok(())
}

fn resumable(model: &Model, record: &WatchRecord) -> Result<(), String> {
    let Some(first) = record.events().next() else {
        return Ok(());
    };
    let expected = expected(model, record, i64::MAX).next();
    match expected {
        Some(event) if (event.revision, &event.key) == (first.revision, &first.key) => Ok(()),
        Some(event) => Err(format!("the first event is {}, not {}", name(first), name(event))),
        None => Err(format!("{} never happened", name(first))),
    }
}

fn reliable(model: &Model, record: &WatchRecord) -> Result<(), String> {
    let mut got = record.events();
    for expected in expected(model, record, record.covered()) {
        match got.next() {
            Some(event) if same(event, expected) => (),
            Some(event) => return Err(format!("got {event:?}, what happened is {expected:?}")),
            None => {
                return Err(format!(
                    "{} is missing, covered up to {}",
                    name(expected),
                    record.covered()
                ));
            }
        }
    }
    match got.next() {
        Some(event) => Err(format!("{} never happened", name(event))),
        None => Ok(()),
    }
}

fn prev_kv(model: &Model, record: &WatchRecord) -> Result<(), String> {
    for event in record.events().filter(|event| event.before.is_some()) {
        let before = model
            .at(event.revision - 1)
            .and_then(|state| state.get(&event.key));
        if event.before.as_ref() != before {
            return Err(format!(
                "{} says {:?} was before, it was {before:?}",
                name(event),
                event.before
            ));
        }
    }
    Ok(())
}

fn is_create(model: &Model, record: &WatchRecord) -> Result<(), String> {
    for event in record.events().filter(|event| event.now.is_some()) {
        let absent = model
            .at(event.revision - 1)
            .is_none_or(|state| !state.contains_key(&event.key));
        if event.is_create() != absent {
            return Err(format!(
                "{}: looks like a creation: {}, is one: {absent}",
                name(event),
                event.is_create()
            ));
        }
    }
    Ok(())
}

fn expected<'a>(model: &'a Model, record: &'a WatchRecord, to: i64) -> impl Iterator<Item = &'a Event> {
    model
        .events(record.request.revision, to)
        .filter(|event| record.request.wants(event))
}

fn same(got: &Event, expected: &Event) -> bool {
    (got.revision, &got.key, &got.now) == (expected.revision, &expected.key, &expected.now)
}

fn name(event: &Event) -> String {
    format!("{}@{}", String::from_utf8_lossy(&event.key), event.revision)
}

#[cfg(test)]
mod tests;
