//! A service on virtual time: workers that take calls in turn, behind a gate whose limit learns.
//!
//! Calls arrive at a rate whatever becomes of them (an open loop), each takes its time of one worker, and calls that were
//! let in while all workers are busy wait inside, where the limit alone keeps them few.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use super::{Limit, Sample, Settings};
use crate::core::gate::{Arrival, Class, Gate, Ticket};

/// Calls that may wait to be let in, and for how long.
const QUEUE: usize = 64;
const PATIENCE: u64 = 5_000;

/// How things are for a while.
#[derive(Clone, Copy, Debug)]
pub(super) struct Phase {
    pub(super) seconds: u64,
    pub(super) workers: usize,
    /// What one call takes of a worker.
    pub(super) service: Duration,
    /// Calls a second.
    pub(super) rate: f64,
}

/// Whether all calls take the same time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Spread {
    /// All within a fifth.
    Even,
    /// Exponential, with the phase's time as the mean.
    Wide,
}

/// What happened. Times in microseconds.
#[derive(Default)]
pub(super) struct Record {
    /// When calls were done, and how long after they came.
    served: Vec<(u64, u64)>,
    refused: Vec<u64>,
}

impl Record {
    fn within<'a>(&'a self, seconds: &Range<u64>) -> impl Iterator<Item = u64> + 'a {
        let micros = seconds.start * 1_000_000..seconds.end * 1_000_000;
        let served = self.served.iter().filter(move |(at, _)| micros.contains(at));
        served.map(|(_, took)| *took)
    }

    /// Calls served in a second.
    pub(super) fn goodput(&self, seconds: Range<u64>) -> f64 {
        let long = seconds.end - seconds.start;
        self.within(&seconds).count() as f64 / long as f64
    }

    /// What all but one in a hundred took at most.
    pub(super) fn p99(&self, seconds: Range<u64>) -> Duration {
        let mut took: Vec<_> = self.within(&seconds).collect();
        took.sort_unstable();
        Duration::from_micros(took[took.len() * 99 / 100])
    }

    pub(super) fn refused(&self, seconds: Range<u64>) -> usize {
        let micros = seconds.start * 1_000_000..seconds.end * 1_000_000;
        self.refused.iter().filter(|at| micros.contains(at)).count()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive,
    Done { arrived: u64, let_in: u64 },
    Patience(u64),
}

pub(super) struct Model {
    random: fastrand::Rng,
    spread: Spread,
    limit: Limit,
    gate: Gate<u64>,
    /// When the one who waits came, by its ticket.
    tickets: Vec<Ticket>,
    arrivals: Vec<u64>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    number: u64,
    backlog: VecDeque<(u64, u64)>,
    busy: usize,
    phase: Phase,
    record: Record,
}

impl Model {
    /// Goes through the phases one after the other.
    pub(super) fn run(settings: Settings, spread: Spread, phases: &[Phase]) -> Record {
        let limit = Limit::new(settings);
        let mut model = Self {
            random: fastrand::Rng::with_seed(7),
            spread,
            gate: Gate::new(limit.limit(), QUEUE),
            limit,
            tickets: Vec::new(),
            arrivals: Vec::new(),
            events: BinaryHeap::new(),
            number: 0,
            backlog: VecDeque::new(),
            busy: 0,
            phase: phases[0],
            record: Record::default(),
        };
        model.after(0, Event::Arrive);
        let mut end = 0;
        for phase in phases {
            model.phase = *phase;
            end += phase.seconds * 1_000_000;
            while let Some(Reverse((at, _, event))) = model.events.peek().copied()
                && at < end
            {
                model.events.pop();
                model.step(at, event);
            }
        }
        model.record
    }

    fn after(&mut self, at: u64, event: Event) {
        self.number += 1;
        self.events.push(Reverse((at, self.number, event)));
    }

    fn step(&mut self, now: u64, event: Event) {
        match event {
            Event::Arrive => {
                let gap = 1e6 / self.phase.rate * (0.5 + self.random.f64());
                self.after(now + gap.max(1.0) as u64, Event::Arrive);
                self.arrive(now);
            }
            Event::Done { arrived, let_in } => self.done(now, arrived, let_in),
            Event::Patience(who) => {
                if self.gate.give_up(self.tickets[who as usize]) {
                    self.record.refused.push(now);
                }
            }
        }
        while self.busy < self.phase.workers
            && let Some((arrived, let_in)) = self.backlog.pop_front()
        {
            self.busy += 1;
            let takes = self.phase.service.as_secs_f64() * 1e6;
            let takes = match self.spread {
                Spread::Even => takes * (0.8 + 0.4 * self.random.f64()),
                Spread::Wide => -takes * (1.0 - self.random.f64()).ln(),
            };
            self.after(now + (takes as u64).max(1), Event::Done { arrived, let_in });
        }
    }

    fn arrive(&mut self, now: u64) {
        match self.gate.arrive(Class::Interactive) {
            Arrival::In => self.backlog.push_back((now, now)),
            Arrival::Full => self.record.refused.push(now),
            Arrival::Queue => {
                let who = self.tickets.len() as u64;
                let (ticket, out) = self.gate.queue(Class::Interactive, who);
                assert_eq!(out, None, "there is one class");
                self.tickets.push(ticket);
                self.arrivals.push(now);
                self.after(now + PATIENCE, Event::Patience(who));
            }
        }
    }

    fn done(&mut self, now: u64, arrived: u64, let_in: u64) {
        self.busy -= 1;
        self.record.served.push((now, now - arrived));
        let sample = Sample {
            rtt: Duration::from_micros(now - let_in),
            in_flight: self.gate.in_flight(),
            dropped: false,
        };
        self.gate.leave();
        self.limit.sample(sample, Duration::from_micros(now));
        self.gate.resize(self.limit.limit());
        while let Some(who) = self.gate.let_in() {
            self.backlog.push_back((self.arrivals[who as usize], now));
        }
    }
}
