//! What etcd means, one request at a time.
//!
//! A state holds no history: what a read of the past must show is the business of
//! [`validate::past`](crate::validate::past); here it only has to be allowed or refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Sequential;
use crate::model::{Model, Stored};

/// A span of keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Keys {
    /// The first.
    pub start: Vec<u8>,
    /// Keys before this; `None` has no end.
    pub end: Option<Vec<u8>>,
}

impl Keys {
    /// Exactly this key.
    #[must_use]
    pub fn one(key: &[u8]) -> Self {
        Self {
            start: key.to_vec(),
            end: Some([key, b"\0"].concat()),
        }
    }

    /// Whether the key is in the span.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        *self.start <= *key && self.end.as_ref().is_none_or(|end| *key < **end)
    }
}

/// One version of a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// The value.
    pub value: Vec<u8>,
    /// Revision that made the key exist.
    pub create: i64,
    /// Revision of this version.
    pub modified: i64,
    /// 1 at creation.
    pub version: i64,
    /// The lease, 0 for none.
    pub lease: i64,
}

/// A condition; of an absent key every number is 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key was last written at this revision.
    Modified(Vec<u8>, i64),
    /// The key has had so many versions since its creation.
    Version(Vec<u8>, i64),
    /// The key has this value; false for an absent one.
    Value(Vec<u8>, Vec<u8>),
}

/// A step of a transaction, or a request by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Reads at a revision; `None` is now.
    Range(Keys, Option<i64>),
    /// Writes key and value with a lease, 0 for none.
    Put(Vec<u8>, Vec<u8>, i64),
    /// Deletes.
    Delete(Keys),
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// One step.
    One(Step),
    /// Compares, then steps if all hold, then steps if not.
    Txn(Vec<Compare>, Vec<Step>, Vec<Step>),
    /// Forgets history below a revision.
    Compact(i64),
    /// Makes a lease.
    Grant(i64),
    /// Restarts a lease's time.
    KeepAlive(i64),
    /// Ends a lease.
    Revoke(i64),
    /// A lease's time may be over: not a client's request, and it may never happen.
    Expire(i64),
}

/// What one step gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gave {
    /// The keys that a range found. Of a read of the past only that it was allowed is compared.
    Range(Vec<(Vec<u8>, Version)>),
    /// A put.
    Put,
    /// How many keys a delete removed.
    Deleted(i64),
}

/// Why a request had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The revision is below the floor, or was compacted already.
    Compacted,
    /// The revision has not been written yet.
    Future,
    /// There is no such lease.
    NoLease,
    /// There is such a lease.
    LeaseExists,
    /// The server had no room for it, whatever it was.
    NoRoom,
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was done: the store's revision afterwards, whether the compares held, and what each step gave.
    Done(i64, bool, Vec<Gave>),
    /// It was done, and the answer names no revision.
    Granted,
    /// It had no effect.
    Refused(Refusal),
}

impl Answer {
    /// The store's revision when it was given.
    #[must_use]
    pub fn revision(&self) -> Option<i64> {
        match self {
            Self::Done(revision, ..) => Some(*revision),
            _ => None,
        }
    }
}

/// What is known of a request's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The client was told.
    Answered(Answer),
    /// Nobody was told, and the log has it at this revision.
    Written(i64),
    /// Nobody knows.
    Unknown,
}

/// A request and its end.
pub type Op = (Request, Outcome);

/// The store between two requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    revision: i64,
    floor: i64,
    keys: Arc<BTreeMap<Vec<u8>, Version>>,
    leases: Arc<BTreeSet<i64>>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            revision: 1,
            floor: -1,
            keys: Arc::default(),
            leases: Arc::default(),
        }
    }
}

/// The model of etcd.
#[derive(Clone, Copy, Debug, Default)]
pub struct Etcd;

impl Sequential for Etcd {
    type State = State;
    type Op = Op;

    fn initial(&self) -> State {
        State::default()
    }

    fn step(&self, state: &State, (request, outcome): &Op) -> Option<State> {
        let mut after = state.clone();
        let answer = after.apply(request);
        match outcome {
            Outcome::Answered(Answer::Refused(Refusal::NoRoom)) => Some(state.clone()),
            Outcome::Answered(told) => same(request, told, &answer).then_some(after),
            Outcome::Written(at) => (after.revision == *at && state.revision < *at).then_some(after),
            // Without an effect it is as if it never happened.
            Outcome::Unknown => (after != *state).then_some(after),
        }
    }

    fn is_too_late(&self, state: &State, (request, outcome): &Op) -> bool {
        // Revision and floor only grow.
        match outcome {
            Outcome::Answered(Answer::Done(at, held, _)) => {
                let compacted =
                    |step: &Step| matches!(step, Step::Range(_, Some(past)) if *past < state.floor);
                *at < state.revision || ran(request, *held).iter().any(compacted)
            }
            Outcome::Written(at) => *at <= state.revision,
            _ => false,
        }
    }
}

/// The model of an etcd whose log is known: a request that writes does what the log has at that revision.
#[derive(Clone, Copy, Debug)]
pub struct Logged<'a>(pub &'a Model);

impl Sequential for Logged<'_> {
    type State = State;
    type Op = Op;

    fn initial(&self) -> State {
        State::default()
    }

    fn step(&self, state: &State, op: &Op) -> Option<State> {
        let after = Etcd.step(state, op)?;
        (after.revision == state.revision || after.is_in(self.0)).then_some(after)
    }

    fn is_too_late(&self, state: &State, op: &Op) -> bool {
        Etcd.is_too_late(state, op)
    }
}

/// Whether what a client was told is what the model says; what the past held is not compared.
fn same(request: &Request, told: &Answer, model: &Answer) -> bool {
    let (Answer::Done(revision, held, gave), Answer::Done(model_revision, model_held, model_gave)) =
        (told, model)
    else {
        return told == model;
    };
    let steps = ran(request, *held);
    let is_past = |n: usize| matches!(steps.get(n), Some(Step::Range(_, Some(_))));
    revision == model_revision
        && held == model_held
        && gave.len() == model_gave.len()
        && (0..gave.len()).all(|n| is_past(n) || gave[n] == model_gave[n])
}

/// The steps of a request that ran.
fn ran(request: &Request, held: bool) -> &[Step] {
    match request {
        Request::One(step) => std::slice::from_ref(step),
        Request::Txn(_, then, _) if held => then,
        Request::Txn(_, _, otherwise) => otherwise,
        _ => &[],
    }
}

impl State {
    /// Runs a request; what is refused changes nothing.
    pub fn apply(&mut self, request: &Request) -> Answer {
        match request {
            Request::One(step) => self.steps(true, std::slice::from_ref(step)),
            Request::Txn(compares, then, otherwise) => {
                let held = compares.iter().all(|compare| self.holds(compare));
                self.steps(held, if held { then } else { otherwise })
            }
            Request::Compact(at) if *at <= self.floor => Answer::Refused(Refusal::Compacted),
            Request::Compact(at) if *at > self.revision => Answer::Refused(Refusal::Future),
            Request::Compact(at) => {
                self.floor = *at;
                Answer::Done(self.revision, true, Vec::new())
            }
            Request::Grant(id) if self.leases.contains(id) => Answer::Refused(Refusal::LeaseExists),
            Request::Grant(id) => {
                Arc::make_mut(&mut self.leases).insert(*id);
                Answer::Granted
            }
            Request::KeepAlive(id) if self.leases.contains(id) => Answer::Granted,
            Request::Revoke(id) | Request::Expire(id) if self.leases.contains(id) => {
                self.end_lease(*id);
                Answer::Done(self.revision, true, Vec::new())
            }
            Request::KeepAlive(_) | Request::Revoke(_) | Request::Expire(_) => {
                Answer::Refused(Refusal::NoLease)
            }
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Modified(key, at) => self.keys.get(key).map_or(0, |found| found.modified) == *at,
            Compare::Version(key, n) => self.keys.get(key).map_or(0, |found| found.version) == *n,
            Compare::Value(key, value) => self.keys.get(key).is_some_and(|found| found.value == *value),
        }
    }

    fn steps(&mut self, held: bool, steps: &[Step]) -> Answer {
        for step in steps {
            match step {
                Step::Range(_, Some(at)) if *at < self.floor => return Answer::Refused(Refusal::Compacted),
                Step::Range(_, Some(at)) if *at > self.revision => return Answer::Refused(Refusal::Future),
                Step::Put(_, _, lease) if *lease != 0 && !self.leases.contains(lease) => {
                    return Answer::Refused(Refusal::NoLease);
                }
                _ => (),
            }
        }
        let next = self.revision + 1;
        let mut wrote = false;
        let gave = steps
            .iter()
            .map(|step| match step {
                Step::Range(keys, _) => {
                    let found = self.keys.iter().filter(|(key, _)| keys.contains(key));
                    Gave::Range(
                        found
                            .map(|(key, version)| (key.clone(), version.clone()))
                            .collect(),
                    )
                }
                Step::Put(key, value, lease) => {
                    wrote = true;
                    self.put(key, value, *lease, next);
                    Gave::Put
                }
                Step::Delete(keys) => {
                    let deleted = self.delete(|key, _| keys.contains(key));
                    wrote |= deleted > 0;
                    Gave::Deleted(deleted)
                }
            })
            .collect();
        self.revision += i64::from(wrote);
        Answer::Done(self.revision, held, gave)
    }

    fn put(&mut self, key: &[u8], value: &[u8], lease: i64, revision: i64) {
        let keys = Arc::make_mut(&mut self.keys);
        let old = keys.get(key);
        let now = Version {
            value: value.to_vec(),
            create: old.map_or(revision, |old| old.create),
            modified: revision,
            version: old.map_or(1, |old| old.version + 1),
            lease,
        };
        keys.insert(key.to_vec(), now);
    }

    fn delete(&mut self, goes: impl Fn(&[u8], &Version) -> bool) -> i64 {
        let before = self.keys.len();
        Arc::make_mut(&mut self.keys).retain(|key, version| !goes(key, version));
        i64::try_from(before - self.keys.len()).unwrap_or(i64::MAX)
    }

    fn end_lease(&mut self, id: i64) {
        Arc::make_mut(&mut self.leases).remove(&id);
        let deleted = self.delete(|_, version| version.lease == id);
        self.revision += i64::from(deleted > 0);
    }

    /// Whether the keys are those of a log at this revision.
    fn is_in(&self, log: &Model) -> bool {
        let same = |(key, version): (&Vec<u8>, &Version), (other, stored): (&Vec<u8>, &Stored)| {
            (
                key,
                version.modified,
                version.create,
                version.version,
                version.lease,
            ) == (
                other,
                stored.mod_revision,
                stored.create_revision,
                stored.version,
                stored.lease,
            ) && version.value == stored.value
        };
        log.at(self.revision).is_some_and(|logged| {
            self.keys.len() == logged.len() && self.keys.iter().zip(logged).all(|(a, b)| same(a, b))
        })
    }

    /// The store's revision.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }
}
