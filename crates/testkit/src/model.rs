//! What the store means: a map, and the list of everything that ever happened to it.
//!
//! No cleverness: a commit copies the map. Revision 1 is the empty store, each commit that changes something
//! makes the next one, as in etcd.

use std::collections::BTreeMap;

/// One version of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The value.
    pub value: Vec<u8>,
    /// Revision of the commit that made the key exist.
    pub create_revision: i64,
    /// Revision of this version.
    pub mod_revision: i64,
    /// 1 at creation, one more with each put.
    pub version: i64,
    /// The lease, 0 for none.
    pub lease: i64,
}

/// One step of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Writes a key.
    Put(Vec<u8>, Vec<u8>),
    /// Deletes a key, if it is there.
    Delete(Vec<u8>),
}

/// What a commit did to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The key.
    pub key: Vec<u8>,
    /// The revision of the commit.
    pub revision: i64,
    /// The new version; `None` is a deletion.
    pub now: Option<Stored>,
    /// The version before the commit; in what a watcher saw, `None` may also mean that it was not told.
    pub before: Option<Stored>,
}

impl Event {
    /// Whether the key did not exist before.
    #[must_use]
    pub fn is_create(&self) -> bool {
        self.now
            .as_ref()
            .is_some_and(|now| now.create_revision == self.revision)
    }
}

/// Live keys at some revision.
pub type State = BTreeMap<Vec<u8>, Stored>;

/// The truth about a store.
#[derive(Clone, Debug)]
pub struct Model {
    /// The state after each revision, from revision 1 on.
    states: Vec<State>,
    events: Vec<Event>,
    floor: i64,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            states: vec![State::new()],
            events: Vec::new(),
            floor: -1,
        }
    }
}

impl Model {
    /// The newest revision.
    #[must_use]
    pub fn revision(&self) -> i64 {
        i64::try_from(self.states.len()).expect("a test does not make 2^63 commits")
    }

    /// The compaction floor, -1 before the first compaction.
    #[must_use]
    pub fn floor(&self) -> i64 {
        self.floor
    }

    /// The present state.
    #[must_use]
    pub fn state(&self) -> &State {
        self.states.last().expect("there always is the empty state")
    }

    /// The state at a revision that has been reached; what was compacted is still known here.
    #[must_use]
    pub fn at(&self, revision: i64) -> Option<&State> {
        self.states.get(usize::try_from(revision - 1).ok()?)
    }

    /// All events of revisions in `from..=to`, in order.
    pub fn events(&self, from: i64, to: i64) -> impl Iterator<Item = &Event> {
        self.events
            .iter()
            .filter(move |event| from <= event.revision && event.revision <= to)
    }

    /// Applies the changes in one revision; returns the revision afterwards, which is the present one when
    /// nothing changed.
    pub fn commit(&mut self, changes: &[Change]) -> i64 {
        let revision = self.revision() + 1;
        let mut state = self.state().clone();
        let mut events = Vec::new();
        for change in changes {
            let (key, now) = match change {
                Change::Put(key, value) => (key, Some(put(state.get(key), value, revision))),
                Change::Delete(key) if state.contains_key(key) => (key, None),
                Change::Delete(_) => continue,
            };
            let before = match &now {
                Some(now) => state.insert(key.clone(), now.clone()),
                None => state.remove(key),
            };
            events.push(Event {
                key: key.clone(),
                revision,
                now,
                before,
            });
        }
        if events.is_empty() {
            return self.revision();
        }
        self.states.push(state);
        self.events.append(&mut events);
        revision
    }

    /// Adds the next revision as a log tells of it: no event is judged, only put where it belongs. Returns the
    /// revision.
    pub fn replay(&mut self, events: Vec<Event>) -> i64 {
        let mut state = self.state().clone();
        for event in &events {
            match &event.now {
                Some(now) => state.insert(event.key.clone(), now.clone()),
                None => state.remove(&event.key),
            };
        }
        self.states.push(state);
        self.events.extend(events);
        self.revision()
    }

    /// Moves the floor.
    pub fn compact(&mut self, to: i64) {
        self.floor = self.floor.max(to);
    }
}

fn put(old: Option<&Stored>, value: &[u8], revision: i64) -> Stored {
    Stored {
        value: value.to_vec(),
        create_revision: old.map_or(revision, |old| old.create_revision),
        mod_revision: revision,
        version: old.map_or(1, |old| old.version + 1),
        lease: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_starts_over_after_its_deletion() {
        let mut model = Model::default();
        let change = |value: &str| Change::Put(b"k".to_vec(), value.as_bytes().to_vec());
        assert_eq!(model.commit(&[change("a")]), 2);
        assert_eq!(model.commit(&[change("b")]), 3);
        assert_eq!(model.commit(&[Change::Delete(b"k".to_vec())]), 4);
        assert_eq!(
            model.commit(&[Change::Delete(b"k".to_vec())]),
            4,
            "nothing changed"
        );
        assert_eq!(model.commit(&[change("c")]), 5);
        let versions: Vec<_> = model
            .events(1, 9)
            .map(|event| event.now.as_ref().map(|now| now.version))
            .collect();
        assert_eq!(versions, [Some(1), Some(2), None, Some(1)]);
        assert_eq!(model.at(3).unwrap()[&b"k"[..]].create_revision, 2);
        assert!(model.at(4).unwrap().is_empty());
    }
}
