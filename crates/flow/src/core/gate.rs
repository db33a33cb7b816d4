//! Who comes in: a number of places, and short queues by class in front of them.
//!
//! A place that becomes free goes to the highest class that waits and, within it, to whom came last: under overload not
//! all can be served, and the last to come has waited least, so those who are served are served quickly. A queue is
//! bounded over all classes; when it is full, who waits longest in the lowest class makes room, or the newcomer is refused
//! when there is nobody lower than itself.
//!
//! ```text
//! 2 places, queue of 2      batch A, B in     batch C, D wait     interactive E: C makes room     A leaves: E in
//! ```
//!
//! For [`Class::System`] there are a few places more: a lease that is not renewed costs more than a call that is late.

use std::collections::VecDeque;

use serde::Serialize;

/// How much a call matters, most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// What keeps others alive: leases, leader election, health, login.
    System,
    /// What somebody waits for.
    Interactive,
    /// What can come again later: lists, compaction, snapshots.
    Batch,
}

impl Class {
    /// All, most important first.
    pub const ALL: [Self; 3] = [Self::System, Self::Interactive, Self::Batch];

    /// What metrics and rules call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Interactive => "interactive",
            Self::Batch => "batch",
        }
    }
}

/// A place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    class: Class,
    number: u64,
}

/// What a newcomer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It has a place.
    In,
    /// It may wait.
    Queue,
    /// There is no room even to wait.
    Full,
}

/// Places and queues. `W` is whatever has to be told that it has a place.
#[derive(Debug)]
pub struct Gate<W> {
    limit: u32,
    in_flight: u32,
    queue_max: usize,
    waiting: [VecDeque<(u64, W)>; 3],
    next: u64,
}

impl<W> Gate<W> {
    /// With `limit` places, all free, and room for `queue_max` to wait.
    #[must_use]
    pub fn new(limit: u32, queue_max: usize) -> Self {
        Self {
            limit,
            in_flight: 0,
            queue_max,
            waiting: Default::default(),
            next: 0,
        }
    }

    /// Another number of places; whoever has one keeps it. Those who wait may have one now: see [`Gate::let_in`].
    pub fn resize(&mut self, limit: u32) {
        self.limit = limit;
    }

    /// Another length of the queue; whoever waits goes on.
    pub fn queue_max(&mut self, queue_max: usize) {
        self.queue_max = queue_max;
    }

    /// Places that are taken.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Who waits in a class.
    #[must_use]
    pub fn waiting(&self, class: Class) -> usize {
        self.waiting[class as usize].len()
    }

    fn queued(&self) -> usize {
        self.waiting.iter().map(VecDeque::len).sum()
    }

    fn has_place(&self, class: Class) -> bool {
        let reserve = match class {
            Class::System => self.limit / 8 + 1,
            Class::Interactive | Class::Batch => 0,
        };
        self.in_flight < self.limit.saturating_add(reserve)
    }

    /// Takes a place for a newcomer, or says whether it may wait.
    pub fn arrive(&mut self, class: Class) -> Arrival {
        if self.has_place(class) {
            self.in_flight += 1;
            return Arrival::In;
        }
        let lower = Class::ALL.iter().skip(class as usize + 1);
        let replaces = lower.into_iter().any(|lower| self.waiting(*lower) > 0);
        if self.queued() < self.queue_max || (replaces && self.queue_max > 0) {
            Arrival::Queue
        } else {
            Arrival::Full
        }
    }

    /// Lets somebody wait, after [`Arrival::Queue`]. Who had to make room for it comes back.
    pub fn queue(&mut self, class: Class, who: W) -> (Ticket, Option<W>) {
        let mut out = None;
        if self.queued() >= self.queue_max {
            let lowest = self.waiting.iter_mut().skip(class as usize + 1).rev();
            out = lowest
                .into_iter()
                .find_map(VecDeque::pop_front)
                .map(|(_, who)| who);
        }
        let number = self.next;
        self.next += 1;
        self.waiting[class as usize].push_back((number, who));
        (Ticket { class, number }, out)
    }

    /// Gives up waiting. False when it has a place already, or had to make room.
    pub fn give_up(&mut self, ticket: Ticket) -> bool {
        let queue = &mut self.waiting[ticket.class as usize];
        let at = queue.binary_search_by_key(&ticket.number, |(number, _)| *number);
        at.is_ok_and(|at| queue.remove(at).is_some())
    }

    /// A place becomes free.
    pub fn leave(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Takes a free place for who waits and is next, if there are both. To be asked until there is none.
    pub fn let_in(&mut self) -> Option<W> {
        let class = Class::ALL
            .into_iter()
            .find(|class| !self.waiting[*class as usize].is_empty())?;
        if !self.has_place(class) {
            return None;
        }
        let (_, who) = self.waiting[class as usize].pop_back()?;
        self.in_flight += 1;
        Some(who)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn full(limit: u32, queue_max: usize) -> Gate<u32> {
        let mut gate = Gate::new(limit, queue_max);
        while gate.arrive(Class::Batch) == Arrival::In {}
        gate
    }

    #[test]
    fn a_free_place_goes_to_the_highest_class_and_the_last_to_come() {
        let mut gate = full(2, 10);
        for (class, who) in [
            (Class::Batch, 1),
            (Class::Interactive, 2),
            (Class::Interactive, 3),
            (Class::Batch, 4),
        ] {
            assert_eq!(gate.arrive(class), Arrival::Queue);
            gate.queue(class, who);
        }
        assert_eq!(gate.let_in(), None);
        for expect in [3, 2, 4, 1] {
            gate.leave();
            assert_eq!(gate.let_in(), Some(expect));
            assert_eq!(gate.let_in(), None);
        }
    }

    #[test]
    fn a_full_queue_lets_go_whom_it_can_best_do_without() {
        let mut gate = full(1, 2);
        gate.queue(Class::Interactive, 1);
        gate.queue(Class::Batch, 2);
        assert_eq!(gate.arrive(Class::Batch), Arrival::Full);
        assert_eq!(gate.arrive(Class::Interactive), Arrival::Queue);
        assert_eq!(gate.queue(Class::Interactive, 3).1, Some(2));
        assert_eq!(gate.arrive(Class::Interactive), Arrival::Full);
    }

    #[test]
    fn the_system_has_a_few_places_more() {
        let mut gate = full(16, 0);
        for _ in 0..3 {
            assert_eq!(gate.arrive(Class::System), Arrival::In);
        }
        assert_eq!(gate.arrive(Class::System), Arrival::Full);
        gate.leave();
        assert_eq!(
            gate.arrive(Class::Interactive),
            Arrival::Full,
            "the limit is what others have"
        );
    }

    #[test]
    fn who_gives_up_is_not_let_in() {
        let mut gate = full(1, 3);
        let tickets: Vec<_> = (0..3).map(|n| gate.queue(Class::Batch, n).0).collect();
        assert!(gate.give_up(tickets[1]));
        assert!(!gate.give_up(tickets[1]));
        gate.leave();
        assert_eq!(gate.let_in(), Some(2));
        assert!(!gate.give_up(tickets[2]), "it has a place");
    }

    #[derive(Clone, Debug)]
    enum Event {
        Arrive(Class),
        Leave,
        GiveUp(usize),
        Resize(u32),
    }

    fn class() -> impl Strategy<Value = Class> {
        prop_oneof![Just(Class::System), Just(Class::Interactive), Just(Class::Batch)]
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => class().prop_map(Event::Arrive),
            3 => Just(Event::Leave),
            1 => (0_usize..8).prop_map(Event::GiveUp),
            1 => (1_u32..6).prop_map(Event::Resize),
        ]
    }

    /// Everybody who ever came, and what became of it.
    #[derive(Default)]
    struct Book {
        inside: usize,
        waiting: Vec<(u32, Class, Ticket)>,
    }

    impl Book {
        /// Whoever is next is of the highest class that waits.
        fn let_in(&mut self, gate: &mut Gate<u32>) -> Result<(), TestCaseError> {
            while let Some(who) = gate.let_in() {
                let at = self.waiting.iter().position(|(waits, ..)| *waits == who);
                let at = at.ok_or_else(|| TestCaseError::fail("let in without waiting"))?;
                let (_, class, _) = self.waiting.remove(at);
                prop_assert!(self.waiting.iter().all(|(_, other, _)| *other >= class));
                self.inside += 1;
            }
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn nobody_is_lost_and_no_bound_is_passed(events in prop::collection::vec(event(), 0..300)) {
            let (mut gate, mut book, mut limit, queue_max) = (Gate::new(3, 4), Book::default(), 3_u32, 4);
            for (who, event) in (0_u32..).zip(events) {
                match event {
                    Event::Arrive(class) => match gate.arrive(class) {
                        Arrival::In => book.inside += 1,
                        Arrival::Full => prop_assert_eq!(book.waiting.len(), queue_max),
                        Arrival::Queue => {
                            let (ticket, out) = gate.queue(class, who);
                            book.waiting.retain(|(waits, ..)| Some(*waits) != out);
                            book.waiting.push((who, class, ticket));
                        }
                    },
                    Event::Leave if book.inside > 0 => {
                        book.inside -= 1;
                        gate.leave();
                    }
                    Event::Leave => (),
                    Event::GiveUp(n) if n < book.waiting.len() => {
                        let (.., ticket) = book.waiting.remove(n);
                        prop_assert!(gate.give_up(ticket));
                    }
                    Event::GiveUp(_) => (),
                    Event::Resize(to) => {
                        limit = to;
                        gate.resize(to);
                    }
                }
                let before = book.inside;
                book.let_in(&mut gate)?;
                prop_assert!(book.inside == before || book.inside <= (limit + limit / 8 + 1) as usize);
                prop_assert_eq!(gate.in_flight() as usize, book.inside);
                prop_assert_eq!(gate.queued(), book.waiting.len());
                prop_assert!(book.waiting.len() <= queue_max);
                // Nobody waits in front of a free place.
                let free = book.inside < limit as usize;
                prop_assert!(!free || book.waiting.is_empty());
            }
        }
    }
}
