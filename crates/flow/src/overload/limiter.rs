//! Places for calls at a time, with a short queue in front of them and a limit that learns.
//!
//! A call asks for a [`Permit`], waits for it a few milliseconds at most, and gives it back by dropping it, with a word on
//! how it went: what was served tells the limit how long calls take, what its client gave up tells nothing.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::metrics::Counters;
use super::rules::Concurrency;
use crate::core::gate::{Arrival, Class, Gate, Ticket};
use crate::core::limit::{Limit, Sample};
use crate::limits::{Cause, Refused};

/// Shortest and longest time after which who was refused may come again.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// It is as long as this many calls take.
const RETRY_CALLS: u32 = 4;

/// How a call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered: how long it took is what calls take.
    Served,
    /// The server gave it up because it took too long.
    Dropped,
    /// Its client gave it up, or it was refused for what it asked: it says nothing about the server.
    Ignored,
}

/// A place. Dropped, it is free again.
#[derive(Debug, Default)]
#[must_use = "the place is free again when this is dropped"]
pub struct Permit(Option<Held>);

#[derive(Debug)]
struct Held {
    limiter: Arc<Limiter>,
    began: Instant,
    outcome: Outcome,
}

impl Permit {
    /// Says how the call went, and gives the place back. A permit that is just dropped was [`Outcome::Ignored`].
    pub fn finish(mut self, outcome: Outcome) {
        if let Some(held) = &mut self.0 {
            held.outcome = outcome;
        }
    }

    /// Whether there is a limit behind it at all.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.0.is_some()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(held) = self.0.take() {
            held.limiter.release(held.began, held.outcome);
        }
    }
}

/// The limit of one rule at work.
#[derive(Debug)]
pub(crate) struct Limiter {
    pub(crate) name: Arc<str>,
    state: Mutex<State>,
    pub(crate) counters: Counters,
    /// What its limit counts time from.
    began: Instant,
}

#[derive(Debug)]
struct State {
    gate: Gate<oneshot::Sender<Permit>>,
    limit: Limit,
    patience: Duration,
}

/// A limiter as one sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) law: &'static str,
    pub(crate) limit: u32,
    pub(crate) in_flight: u32,
    /// By class.
    pub(crate) waiting: [usize; 3],
    pub(crate) rtt: Option<Duration>,
    pub(crate) rest: Option<Duration>,
}

impl Limiter {
    pub(crate) fn new(rule: &Concurrency, counters: Counters) -> Self {
        let limit = Limit::new(rule.settings());
        Self {
            name: rule.name.as_str().into(),
            state: Mutex::new(State {
                gate: Gate::new(limit.limit(), rule.queue_max()),
                limit,
                patience: rule.patience(),
            }),
            counters,
            began: Instant::now(),
        }
    }

    /// Goes on under a changed rule: whoever has a place keeps it, and what was learnt stays known.
    pub(crate) fn change(self: &Arc<Self>, rule: &Concurrency) {
        let mut state = self.state.lock();
        state.limit.change(rule.settings());
        let limit = state.limit.limit();
        state.gate.resize(limit);
        state.gate.queue_max(rule.queue_max());
        state.patience = rule.patience();
        let next = state.gate.let_in();
        drop(state);
        self.let_in(next);
    }

    pub(crate) fn now(&self) -> Now {
        let state = self.state.lock();
        Now {
            law: state.limit.law().name(),
            limit: state.limit.limit(),
            in_flight: state.gate.in_flight(),
            waiting: Class::ALL.map(|class| state.gate.waiting(class)),
            rtt: state.limit.rtt(),
            rest: state.limit.rest(),
        }
    }

    /// A place for a call, at once or after a short wait. Dropped while it waits, it waits no more.
    ///
    /// # Errors
    /// There was none in time, or no room to wait.
    pub(crate) async fn enter(self: &Arc<Self>, class: Class) -> Result<Permit, Refused> {
        let (queued, told, patience) = {
            let mut state = self.state.lock();
            match state.gate.arrive(class) {
                Arrival::In => {
                    self.counters.admitted(class);
                    return Ok(self.permit());
                }
                Arrival::Full => return Err(self.refuse(class, state)),
                Arrival::Queue => {
                    let (tell, told) = oneshot::channel();
                    // Who has to make room is told by the loss of its sender.
                    let (ticket, _out) = state.gate.queue(class, tell);
                    let queued = Queued {
                        limiter: self,
                        ticket,
                    };
                    (queued, told, state.patience)
                }
            }
        };
        self.counters.queued(class);
        let mut told = told;
        let permit = match timeout(patience, &mut told).await {
            Ok(told) => told.ok(),
            // It may have got one in the very last moment.
            Err(_) if queued.give_up() => None,
            Err(_) => told.try_recv().ok(),
        };
        let Some(permit) = permit else {
            return Err(self.refuse(class, self.state.lock()));
        };
        self.counters.admitted(class);
        Ok(permit)
    }

    fn refuse(&self, class: Class, state: parking_lot::MutexGuard<'_, State>) -> Refused {
        let call = state.limit.rtt().unwrap_or_default();
        drop(state);
        self.counters.refused(class);
        Refused {
            rule: Arc::clone(&self.name),
            retry_after: (call * RETRY_CALLS).clamp(RETRY_MIN, RETRY_MAX),
            cause: Cause::Concurrency,
        }
    }

    fn permit(self: &Arc<Self>) -> Permit {
        Permit(Some(Held {
            limiter: Arc::clone(self),
            began: Instant::now(),
            outcome: Outcome::Ignored,
        }))
    }

    fn release(self: &Arc<Self>, began: Instant, outcome: Outcome) {
        let now = Instant::now();
        let mut state = self.state.lock();
        if outcome != Outcome::Ignored {
            let sample = Sample {
                rtt: now.saturating_duration_since(began),
                in_flight: state.gate.in_flight(),
                dropped: outcome == Outcome::Dropped,
            };
            state
                .limit
                .sample(sample, now.saturating_duration_since(self.began));
        }
        state.gate.leave();
        let limit = state.limit.limit();
        state.gate.resize(limit);
        let next = state.gate.let_in();
        drop(state);
        self.let_in(next);
    }

    /// Tells those who have a place now. One who has gone meanwhile leaves its place to the next.
    fn let_in(self: &Arc<Self>, mut next: Option<oneshot::Sender<Permit>>) {
        while let Some(who) = next {
            let gone = who.send(self.permit()).err();
            let mut state = self.state.lock();
            if let Some(mut permit) = gone {
                permit.0 = None;
                state.gate.leave();
            }
            next = state.gate.let_in();
        }
    }
}

/// A call that waits, until it is dropped.
struct Queued<'a> {
    limiter: &'a Arc<Limiter>,
    ticket: Ticket,
}

impl Queued<'_> {
    fn give_up(&self) -> bool {
        self.limiter.state.lock().gate.give_up(self.ticket)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.give_up();
    }
}

#[cfg(test)]
mod tests;
