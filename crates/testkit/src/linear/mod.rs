//! Is there an order in which everything could have happened one after the other?
//!
//! The search is that of Wing and Gong with Lowe's memory: take an operation that was called before any of
//! the rest had returned, apply it to the model, go on from there, go back when no operation fits, and never
//! look twice at the same set of operations with the same state. What nobody heard of again has no return
//! time: it may happen at any later moment, or never.
//!
//! ```text
//! a  |--put 1--|                      b was called before a returned: it may come first.
//! b       |--get--> none--|           c was called after both: it has to see 1.
//! c                       |--get--> 1--|
//! ```
//!
//! [`kv`] is the model of etcd; [`History`] records what clients do, and learns from the log what became of
//! requests without an answer.

use std::collections::HashSet;
use std::hash::Hash;

mod history;
pub mod kv;

pub use history::{Call, History};

/// What operations do, one at a time.
pub trait Sequential {
    /// What there is between two operations.
    type State: Clone + Eq + Hash;
    /// An operation, with its answer.
    type Op;

    /// The state before the first operation.
    fn initial(&self) -> Self::State;

    /// The state after the operation, or `None` when it cannot have had its answer here.
    fn step(&self, state: &Self::State, op: &Self::Op) -> Option<Self::State>;
}

/// One operation and the moments of its call and its return, on one clock without ties.
#[derive(Clone, Debug)]
pub struct Operation<O> {
    /// When it was called.
    pub call: u64,
    /// When its answer came; `None` when it never did.
    pub returned: Option<u64>,
    /// What it was.
    pub op: O,
}

/// What the search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order: the operations that happened, by their index.
    Linearizable(Vec<usize>),
    /// There is none.
    Impossible {
        /// The longest order found.
        longest: Vec<usize>,
        /// The operations of which one has to come next, and cannot.
        stuck: Vec<usize>,
    },
    /// The search was given up after so many steps.
    TooLong,
}

/// Looks for an order, in at most `steps_max` steps.
#[must_use]
pub fn check<M: Sequential>(model: &M, history: &[Operation<M::Op>], steps_max: usize) -> Verdict {
    Search::new(model, history).run(steps_max)
}

struct Search<'a, M: Sequential> {
    model: &'a M,
    history: &'a [Operation<M::Op>],
    /// Indices in the order of calls.
    by_call: Vec<usize>,
    /// By position in `by_call`: whether it has been placed.
    placed: Vec<u64>,
    order: Vec<Frame<M::State>>,
    seen: HashSet<(Box<[u64]>, M::State)>,
    longest: Vec<usize>,
    stuck: Vec<usize>,
}

/// One placed operation.
struct Frame<S> {
    /// Its position in the order of calls.
    at: usize,
    /// The state before it.
    before: S,
}

impl<'a, M: Sequential> Search<'a, M> {
    fn new(model: &'a M, history: &'a [Operation<M::Op>]) -> Self {
        let mut by_call: Vec<usize> = (0..history.len()).collect();
        by_call.sort_by_key(|index| history[*index].call);
        Self {
            model,
            history,
            placed: vec![0; history.len().div_ceil(64)],
            by_call,
            order: Vec::new(),
            seen: HashSet::new(),
            longest: Vec::new(),
            stuck: Vec::new(),
        }
    }

    fn run(mut self, steps_max: usize) -> Verdict {
        let mut state = self.model.initial();
        // Where to look for the next operation to place; behind the one that was taken back, after going back.
        let mut from = 0;
        for _ in 0..steps_max {
            if self.is_complete() {
                return Verdict::Linearizable(self.indices());
            }
            if let Some((at, after)) = self.next(&state, from) {
                self.order.push(Frame { at, before: state });
                (state, from) = (after, 0);
                continue;
            }
            if self.order.len() >= self.longest.len() {
                self.longest = self.indices();
                self.stuck = self.candidates(0).map(|at| self.by_call[at]).collect();
            }
            let Some(frame) = self.order.pop() else {
                return Verdict::Impossible {
                    longest: self.longest,
                    stuck: self.stuck,
                };
            };
            self.placed[frame.at / 64] &= !(1 << (frame.at % 64));
            (state, from) = (frame.before, frame.at + 1);
        }
        Verdict::TooLong
    }

    /// Whether everything that returned is placed.
    fn is_complete(&self) -> bool {
        let mut rest = (0..self.by_call.len()).filter(|at| !self.is_placed(*at));
        rest.all(|at| self.operation(at).returned.is_none())
    }

    /// Places the first operation from `from` on that fits and leads to something new.
    fn next(&mut self, state: &M::State, from: usize) -> Option<(usize, M::State)> {
        let candidates: Vec<usize> = self.candidates(from).collect();
        for at in candidates {
            let Some(after) = self.model.step(state, &self.operation(at).op) else {
                continue;
            };
            self.placed[at / 64] |= 1 << (at % 64);
            if self.seen.insert((self.placed.clone().into(), after.clone())) {
                return Some((at, after));
            }
            self.placed[at / 64] &= !(1 << (at % 64));
        }
        None
    }

    /// Positions of the operations that may come next: called before any of the rest returned.
    fn candidates(&self, from: usize) -> impl Iterator<Item = usize> {
        let mut first_return = u64::MAX;
        let open = (0..self.by_call.len())
            .filter(|at| !self.is_placed(*at))
            .take_while(move |at| {
                let operation = self.operation(*at);
                // Whoever is called later returns later still, so the rest need not be looked at.
                let open = operation.call < first_return;
                first_return = first_return.min(operation.returned.unwrap_or(u64::MAX));
                open
            });
        open.filter(move |at| *at >= from)
    }

    fn operation(&self, at: usize) -> &'a Operation<M::Op> {
        &self.history[self.by_call[at]]
    }

    fn is_placed(&self, at: usize) -> bool {
        self.placed[at / 64] & (1 << (at % 64)) != 0
    }

    fn indices(&self) -> Vec<usize> {
        self.order.iter().map(|frame| self.by_call[frame.at]).collect()
    }
}

#[cfg(test)]
mod tests;
