//! Is there an order in which everything could have happened one after the other?
//!
//! The search is that of Wing and Gong with Lowe's memory: take an operation that was called before any of
//! the rest had returned, apply it to the model, go on from there, go back when no operation fits, and never
//! look twice at the same set of operations with the same state. What nobody heard of again has no return
//! time: it may happen at any later moment, or never. Such operations are tried last, and a state that was
//! reached with some of them is not looked at again with more of them.
//!
//! ```text
//! a  |--put 1--|                      b was called before a returned: it may come first.
//! b       |--get--> none--|           c was called after both: it has to see 1.
//! c                       |--get--> 1--|
//! ```
//!
//! [`kv`] is the model of etcd; [`History`] records what clients do, and learns from the log what became of
//! requests without an answer.

use std::collections::HashMap;
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

    /// Whether the operation can have had its answer neither here nor at any later state. Only saves time.
    fn is_too_late(&self, _state: &Self::State, _op: &Self::Op) -> bool {
        false
    }
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
    /// The search was given up after so many steps; what it had, as above.
    TooLong {
        /// The longest order found.
        longest: Vec<usize>,
        /// The operations that could come next there.
        stuck: Vec<usize>,
    },
}

/// Looks for an order, in at most `steps_max` steps.
#[must_use]
pub fn check<M: Sequential>(model: &M, history: &[Operation<M::Op>], steps_max: usize) -> Verdict {
    Search::new(model, history).run(steps_max)
}

/// Operations, a bit for each.
type Set = Box<[u64]>;

struct Search<'a, M: Sequential> {
    model: &'a M,
    history: &'a [Operation<M::Op>],
    /// Indices in the order of calls.
    by_call: Vec<usize>,
    /// By position in `by_call`: whether it has been placed.
    placed: Vec<u64>,
    order: Vec<Frame<M::State>>,
    /// By position in `by_call`: whether it returned.
    returned: Vec<u64>,
    /// What has been looked at: operations that returned, and the state; with what else had happened.
    seen: HashMap<(Set, M::State), Vec<Set>>,
    longest: Vec<usize>,
    stuck: Vec<usize>,
}

/// A state, what may come next there, and what does.
struct Frame<S> {
    state: S,
    /// Positions in the order of calls, the last to be tried first.
    candidates: Vec<usize>,
    placed: Option<usize>,
}

impl<'a, M: Sequential> Search<'a, M> {
    fn new(model: &'a M, history: &'a [Operation<M::Op>]) -> Self {
        let mut by_call: Vec<usize> = (0..history.len()).collect();
        by_call.sort_by_key(|index| history[*index].call);
        let mut returned = vec![0; history.len().div_ceil(64)];
        for (at, index) in by_call.iter().enumerate() {
            returned[at / 64] |= u64::from(history[*index].returned.is_some()) << (at % 64);
        }
        Self {
            model,
            history,
            placed: vec![0; returned.len()],
            by_call,
            order: Vec::new(),
            returned,
            seen: HashMap::new(),
            longest: Vec::new(),
            stuck: Vec::new(),
        }
    }

    fn run(mut self, steps_max: usize) -> Verdict {
        self.enter(self.model.initial());
        for _ in 0..steps_max {
            if self.is_complete() {
                return Verdict::Linearizable(self.indices());
            }
            let Some(frame) = self.order.last_mut() else {
                return Verdict::Impossible {
                    longest: self.longest,
                    stuck: self.stuck,
                };
            };
            let Some(at) = frame.candidates.pop() else {
                self.go_back();
                continue;
            };
            let operation = &self.history[self.by_call[at]];
            let after = self.model.step(&frame.state, &operation.op);
            let Some(after) = after else { continue };
            if operation.returned.is_some() && after == frame.state {
                // It changes nothing and has to be placed: whatever works with it later works with it now.
                frame.candidates.clear();
            }
            frame.placed = Some(at);
            self.placed[at / 64] |= 1 << (at % 64);
            if self.is_new(&after) {
                self.enter(after);
            } else {
                self.take_back();
            }
        }
        Verdict::TooLong {
            longest: self.longest,
            stuck: self.stuck,
        }
    }

    fn is_new(&mut self, state: &M::State) -> bool {
        let part = |keep: fn(u64, u64) -> u64| -> Set {
            let words = self.placed.iter().zip(&self.returned);
            words.map(|(placed, returned)| keep(*placed, *returned)).collect()
        };
        let needed = part(|placed, returned| placed & returned);
        let extra = part(|placed, returned| placed & !returned);
        let looked_at = self.seen.entry((needed, state.clone())).or_default();
        let has_all_of = |less: &[u64]| less.iter().zip(&extra).all(|(less, more)| less & !more == 0);
        let new = !looked_at.iter().any(|less| has_all_of(less));
        if new {
            looked_at.push(extra);
        }
        new
    }

    fn enter(&mut self, state: M::State) {
        let too_late = |at: usize| {
            let operation = self.operation(at);
            !self.is_placed(at)
                && operation.returned.is_some()
                && self.model.is_too_late(&state, &operation.op)
        };
        let candidates = if (0..self.by_call.len()).any(too_late) {
            Vec::new()
        } else {
            self.candidates()
        };
        self.order.push(Frame {
            state,
            candidates,
            placed: None,
        });
    }

    /// Nothing fits any more: leaves the newest state.
    fn go_back(&mut self) {
        if self.order.len() > self.longest.len() {
            self.longest = self.indices();
            self.stuck = self.candidates().iter().map(|at| self.by_call[*at]).collect();
        }
        self.order.pop();
        self.take_back();
    }

    fn take_back(&mut self) {
        if let Some(at) = self.order.last_mut().and_then(|frame| frame.placed.take()) {
            self.placed[at / 64] &= !(1 << (at % 64));
        }
    }

    /// Whether everything that returned is placed.
    fn is_complete(&self) -> bool {
        let mut rest = (0..self.by_call.len()).filter(|at| !self.is_placed(*at));
        rest.all(|at| self.operation(at).returned.is_none())
    }

    /// The operations that may come next: called before any of the rest returned. Who returns first is tried first,
    /// and what may never have happened when all else fails.
    fn candidates(&self) -> Vec<usize> {
        let mut first_return = u64::MAX;
        let rest = (0..self.by_call.len()).filter(|at| !self.is_placed(*at));
        let open = rest.take_while(|at| {
            let operation = self.operation(*at);
            // Whoever is called later returns later still, so the rest need not be looked at.
            let open = operation.call < first_return;
            first_return = first_return.min(operation.returned.unwrap_or(u64::MAX));
            open
        });
        let mut candidates: Vec<usize> = open.collect();
        candidates.sort_by_key(|at| std::cmp::Reverse(self.operation(*at).returned.unwrap_or(u64::MAX)));
        candidates
    }

    fn operation(&self, at: usize) -> &'a Operation<M::Op> {
        &self.history[self.by_call[at]]
    }

    fn is_placed(&self, at: usize) -> bool {
        self.placed[at / 64] & (1 << (at % 64)) != 0
    }

    fn indices(&self) -> Vec<usize> {
        let placed = self.order.iter().filter_map(|frame| frame.placed);
        placed.map(|at| self.by_call[at]).collect()
    }
}

#[cfg(test)]
mod tests;
