//! What clients did, when, and what became of it.
//!
//! Clients have one request in flight each, as etcd's checks assume; one whose request got no answer goes on as
//! another client. Time is a counter: each call and each return is a moment of its own.

use std::collections::BTreeMap;

use super::kv::{Answer, Op, Outcome, Request, Step};
use super::{Operation, Verdict, check, kv};
use crate::model::{Event, Model};

/// A request that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call(usize);

/// All requests of all clients, in the order of their calls.
#[derive(Clone, Debug, Default)]
pub struct History {
    now: u64,
    operations: Vec<Operation<Op>>,
    /// The request in flight of each client.
    in_flight: BTreeMap<u64, usize>,
}

impl History {
    /// Notes that a client sends a request.
    ///
    /// # Panics
    /// When it has one in flight: then the history would say less than it seems to.
    pub fn call(&mut self, client: u64, request: Request) -> Call {
        let index = self.push(request);
        let other = self.in_flight.insert(client, index);
        assert_eq!(other, None, "client {client} has a request in flight");
        Call(index)
    }

    /// Notes that something may happen from now on that no client asked for.
    pub fn may_happen(&mut self, request: Request) {
        self.push(request);
    }

    /// Notes the answer to a client's request.
    pub fn answered(&mut self, client: u64, call: Call, answer: Answer) {
        self.in_flight.remove(&client);
        let now = self.tick();
        let operation = &mut self.operations[call.0];
        operation.returned = Some(now);
        operation.op.1 = Outcome::Answered(answer);
    }

    /// Notes that a client waits for its answer no more; it must not call again under this name.
    pub fn gave_up(&mut self, client: u64) {
        self.in_flight.remove(&client);
    }

    /// Requests so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether nothing was asked for yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// The requests and their ends.
    #[must_use]
    pub fn operations(&self) -> &[Operation<Op>] {
        &self.operations
    }

    /// Learns from the log what became of requests without an answer, by the values they wrote (each value is
    /// written by one request only): what is not there did not happen, what is there happened before anybody was
    /// told of its revision.
    #[must_use]
    pub fn with_log(&self, log: &Model) -> Vec<Operation<Op>> {
        let written = written(log);
        let observed = self.observed();
        let patched = self.operations.iter().filter_map(|operation| {
            let (request, Outcome::Unknown) = &operation.op else {
                return Some(operation.clone());
            };
            let puts = puts(request);
            let at = puts.iter().find_map(|put| written.get(put));
            match at {
                Some(at) => Some(Operation {
                    returned: observed.range(*at..).map(|(_, when)| *when).min(),
                    op: (request.clone(), Outcome::Written(*at)),
                    ..operation.clone()
                }),
                // It may have deleted something, or been about something else than keys.
                None if puts.is_empty() || deletes(request) => Some(operation.clone()),
                None => None,
            }
        });
        patched.collect()
    }

    /// Whether all of it could have happened one after the other, and as the log says it did.
    ///
    /// # Errors
    /// What cannot be explained, in words.
    pub fn check(&self, log: &Model, steps_max: usize) -> Result<(), String> {
        let operations = self.with_log(log);
        let (what, longest, stuck) = match check(&kv::Logged(log), &operations, steps_max) {
            Verdict::Linearizable(_) => return Ok(()),
            Verdict::Impossible { longest, stuck } => ("not linearizable", longest, stuck),
            Verdict::TooLong { longest, stuck } => ("no order found", longest, stuck),
        };
        let mut state = kv::State::default();
        let mut text = format!("{what}; the longest order ends with\n");
        for (n, index) in longest.iter().enumerate() {
            state.apply(&operations[*index].op.0);
            if n + 6 >= longest.len() {
                text += &format!("  {:?}\n", operations[*index]);
            }
        }
        text += &format!("there: {state:?}\nand one of these has to come next:\n");
        for index in stuck {
            let fits = state.clone().apply(&operations[index].op.0);
            text += &format!("  {:?}\n    the model says {fits:?}\n", operations[index]);
        }
        Err(text)
    }

    /// By revision: when somebody was first told of it.
    fn observed(&self) -> BTreeMap<i64, u64> {
        let mut observed = BTreeMap::new();
        for operation in &self.operations {
            if let (Outcome::Answered(answer), Some(when)) = (&operation.op.1, operation.returned)
                && let Some(revision) = answer.revision()
            {
                let first = observed.entry(revision).or_insert(when);
                *first = when.min(*first);
            }
        }
        observed
    }

    fn push(&mut self, request: Request) -> usize {
        let call = self.tick();
        self.operations.push(Operation {
            call,
            returned: None,
            op: (request, Outcome::Unknown),
        });
        self.operations.len() - 1
    }

    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }
}

type Written<'a> = (&'a [u8], &'a [u8]);

fn written(log: &Model) -> BTreeMap<Written<'_>, i64> {
    fn put(event: &Event) -> Option<(Written<'_>, i64)> {
        let now = event.now.as_ref()?;
        Some(((&event.key, &now.value), event.revision))
    }
    log.events(0, i64::MAX).filter_map(put).collect()
}

fn steps(request: &Request) -> Vec<&Step> {
    match request {
        Request::One(step) => vec![step],
        Request::Txn(_, then, otherwise) => then.iter().chain(otherwise).collect(),
        _ => Vec::new(),
    }
}

fn puts(request: &Request) -> Vec<Written<'_>> {
    fn put(step: &Step) -> Option<Written<'_>> {
        match step {
            Step::Put(key, value, _) => Some((key, value)),
            _ => None,
        }
    }
    steps(request).into_iter().filter_map(put).collect()
}

fn deletes(request: &Request) -> bool {
    steps(request).iter().any(|step| matches!(step, Step::Delete(_)))
}
