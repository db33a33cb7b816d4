//! One direction of a link: bytes go in, and it says when which may come out.
//!
//! A link counts bytes and keeps none; its owner has them, in order.
//!
//! ```text
//! rate 8 Mbit/s (1,000 bytes a ms), delay 10 ms
//! 0 ms   accept 2,000      0 bytes due, ask again in 10 ms
//! 11 ms                    1,000 bytes due: those that passed the bottleneck in the first ms
//! 12 ms                    2,000 bytes due
//! ```
//!
//! What is due is found from the time that has passed, not from how often the link was asked, so a late owner loses
//! nothing. Losses and jitter are drawn per byte passed, so they do not depend on that either.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::shape::Shape;

/// What a lost packet is, in bytes: TCP's payload on Ethernet.
const PACKET_BYTES: u64 = 1_448;
/// Jitter is drawn anew after so many bytes.
const JITTER_BYTES: u64 = 16 << 10;
/// What the bottleneck passes in this time comes out together, in nanoseconds: more often nobody could be woken.
const TICK: u64 = 500_000;
/// Less room than this is no room, in bytes: small reads cost as much as large ones.
const ROOM_BYTES_MIN: u64 = 16 << 10;

/// Flights at most; past that the last one is smeared. Only whoever sends single bytes gets there.
const FLIGHTS_MAX: usize = 1 << 16;

const NANOS: u128 = 1_000_000_000;

/// Bytes behind the bottleneck that come out one after the other between two moments.
#[derive(Debug)]
struct Flight {
    bytes: u64,
    /// When the first and the last byte come out, in nanoseconds.
    first: u64,
    last: u64,
    /// Bits per second at which the bottleneck passed them; 0 is at once.
    rate: u64,
}

/// The model of one direction of a link, for one connection.
#[derive(Debug)]
pub struct Link {
    shape: Shape,
    rng: fastrand::Rng,
    epoch: Instant,
    /// Up to when the bottleneck has worked, in nanoseconds since `epoch`.
    clock: u64,
    /// Bytes before the bottleneck.
    queued: u64,
    flights: VecDeque<Flight>,
    /// Bytes behind the bottleneck.
    flying: u64,
    /// Nothing comes out before what went in before it.
    floor: u64,
    /// How many bytes may fly for how long, in nanoseconds, after the way has become shorter.
    longer: (u64, u64),
    /// The jitter of the bytes that pass now, in nanoseconds, and how many more have it.
    jitter: (u64, u64),
    /// Bytes until one is lost.
    until_loss: u64,
    /// Connections that share the rate at present.
    sharers: u64,
}

impl Link {
    /// An empty link; `seed` decides over losses and jitter.
    #[must_use]
    pub fn new(shape: Shape, seed: u64, now: Instant) -> Self {
        let mut link = Self {
            shape,
            rng: fastrand::Rng::with_seed(seed),
            epoch: now,
            clock: 0,
            queued: 0,
            flights: VecDeque::new(),
            flying: 0,
            floor: 0,
            longer: (0, 0),
            jitter: (0, 0),
            until_loss: u64::MAX,
            sharers: 1,
        };
        link.draw_loss();
        link
    }

    /// Another shape from now on. What flies already comes out when it would have, and takes no room on a shorter way: what
    /// follows catches up with it.
    pub fn reshape(&mut self, shape: Shape, now: Instant) {
        self.advance(now, self.sharers);
        let most = self.flight_bytes();
        if shape.flight_bytes() < most && self.flying > 0 {
            self.longer = (most, self.floor);
        }
        let losses = |shape: &Shape| shape.stall.map(|stall| stall.chance);
        let redraw = losses(&self.shape) != losses(&shape);
        self.shape = shape;
        self.jitter = (0, 0);
        if redraw {
            self.draw_loss();
        }
        self.transmit(self.clock);
    }

    /// Lets the bottleneck work until now, with its rate shared by as many connections.
    pub fn advance(&mut self, now: Instant, sharers: u64) {
        self.sharers = sharers.max(1);
        self.transmit(self.nanos(now));
    }

    /// Bytes that may go in now; 0 until there is room for a fair number.
    #[must_use]
    pub fn room(&self) -> u64 {
        let room = self.shape.buffer_bytes().saturating_sub(self.queued);
        let enough = ROOM_BYTES_MIN.min(self.shape.buffer_bytes() / 2);
        if room < enough { 0 } else { room }
    }

    /// Bytes go in.
    pub fn accept(&mut self, bytes: u64, now: Instant) {
        self.advance(now, self.sharers);
        self.queued += bytes;
        self.transmit(self.clock);
    }

    /// Bytes that may come out now.
    #[must_use]
    pub fn due(&self, now: Instant) -> u64 {
        if self.shape.held {
            return 0;
        }
        let (now, mut due) = (self.nanos(now), 0);
        for flight in &self.flights {
            if flight.last > now {
                let part = flight.out_by(now);
                return due + if part >= self.grain() { part } else { 0 };
            }
            due += flight.bytes;
        }
        due
    }

    /// Bytes have come out: as many as were due, or fewer.
    pub fn release(&mut self, mut bytes: u64) {
        self.flying = self.flying.saturating_sub(bytes);
        while let Some(flight) = self.flights.front_mut().filter(|_| bytes > 0) {
            if flight.bytes > bytes {
                let span = u128::from(flight.last - flight.first);
                flight.first += narrow(span * u128::from(bytes) / u128::from(flight.bytes));
                flight.bytes -= bytes;
                return;
            }
            bytes -= flight.bytes;
            self.flights.pop_front();
        }
    }

    /// When to ask again, if nothing goes in or out before; `None` is not at all.
    #[must_use]
    pub fn next(&self, now: Instant) -> Option<Instant> {
        let now = self.nanos(now);
        let works = self.queued > 0 && self.flying < self.flight_bytes();
        let works = works.then(|| now.max(self.clock) + self.tick());
        let flight = self.flights.front().filter(|_| !self.shape.held);
        let comes = flight.map(|flight| flight.when(self.grain()));
        // What is due already waits for its reader, not for the time.
        let comes = comes.filter(|at| *at > now);
        let at = [works, comes].into_iter().flatten().min()?;
        Some(self.epoch + Duration::from_nanos(at))
    }

    /// Whether it has something to send and could: then it takes its share of the rate.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.queued > 0 && self.flying < self.flight_bytes()
    }

    /// Bytes inside.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.queued + self.flying
    }

    fn nanos(&self, now: Instant) -> u64 {
        narrow(now.saturating_duration_since(self.epoch).as_nanos())
    }

    fn rate(&self) -> u64 {
        self.shape.rate.map_or(0, |rate| (rate / self.sharers).max(1))
    }

    /// Time between two looks at a bottleneck that works: short, but long enough for a packet.
    fn tick(&self) -> u64 {
        match self.rate() {
            0 => TICK,
            rate => TICK.max(narrow(u128::from(PACKET_BYTES) * 8 * NANOS / u128::from(rate))),
        }
    }

    /// What the bottleneck passes in a tick: less of a flight does not come out alone.
    fn grain(&self) -> u64 {
        match self.rate() {
            0 => 1,
            rate => narrow(u128::from(rate) * u128::from(self.tick()) / 8 / NANOS).max(1),
        }
    }

    /// Bytes that may be behind the bottleneck.
    fn flight_bytes(&self) -> u64 {
        let most = self.shape.flight_bytes();
        let (longer, until) = self.longer;
        if self.clock < until {
            most.max(longer)
        } else {
            most
        }
    }

    /// Passes what the rate allows until `now`.
    fn transmit(&mut self, now: u64) {
        let rate = self.rate();
        let most = self.flight_bytes();
        while self.queued > 0 {
            let possible = match rate {
                0 => u64::MAX,
                rate => narrow(u128::from(now.saturating_sub(self.clock)) * u128::from(rate) / 8 / NANOS),
            };
            let room = most.saturating_sub(self.flying);
            if room == 0 {
                // Nobody takes what is there: the bottleneck stands still.
                self.clock = self.clock.max(now);
                return;
            }
            if self.jitter.1 == 0 {
                self.draw_jitter();
            }
            let piece = self
                .queued
                .min(room)
                .min(possible)
                .min(self.jitter.1)
                .min(self.until_loss);
            if piece == 0 {
                return;
            }
            self.pass(piece, rate);
        }
        self.clock = self.clock.max(now);
    }

    /// One piece passes the bottleneck, from the clock on.
    fn pass(&mut self, bytes: u64, rate: u64) {
        let took = match rate {
            0 => 0,
            rate => narrow((u128::from(bytes) * 8 * NANOS).div_ceil(u128::from(rate))),
        };
        let late = narrow(self.shape.delay.as_nanos()).saturating_add(self.jitter.0);
        let first = self.clock.saturating_add(late).max(self.floor);
        let last = self.clock.saturating_add(took).saturating_add(late).max(first);
        self.clock += took;
        self.queued -= bytes;
        self.flying += bytes;
        self.floor = last;
        self.jitter.1 -= bytes;
        self.until_loss -= bytes;
        let full = self.flights.len() >= FLIGHTS_MAX;
        // What has caught up comes all at once, and not spread over the time in which what it caught up with comes.
        let alike = |before: &Flight| {
            let at_once = first == last;
            before.last == first && before.rate == rate && at_once == (before.first == before.last)
        };
        match self.flights.back_mut() {
            Some(before) if full || alike(before) => {
                before.bytes += bytes;
                before.last = last;
            }
            _ => self.flights.push_back(Flight {
                bytes,
                first,
                last,
                rate,
            }),
        }
        if self.until_loss == 0 {
            let pause = narrow(self.shape.pause().as_nanos());
            let arrives = self.clock.saturating_add(late).saturating_add(pause);
            self.floor = self.floor.max(arrives);
            self.draw_loss();
        }
    }

    fn draw_jitter(&mut self) {
        let most = narrow(self.shape.jitter.as_nanos());
        self.jitter = match most {
            0 => (0, u64::MAX),
            most => (self.rng.u64(..=most), JITTER_BYTES),
        };
    }

    /// How many bytes arrive before the next loss: packets are lost independently, so the gaps are geometric.
    fn draw_loss(&mut self) {
        let Some(stall) = self.shape.stall else {
            self.until_loss = u64::MAX;
            return;
        };
        let uniform = 1.0 - self.rng.f64();
        let packets = if stall.chance >= 1.0 {
            1.0
        } else {
            (uniform.ln() / (1.0 - stall.chance).ln()).ceil().max(1.0)
        };
        self.until_loss = (packets * PACKET_BYTES as f64).min(1e18) as u64;
    }
}

impl Flight {
    /// Bytes that have come out by then.
    fn out_by(&self, now: u64) -> u64 {
        if now <= self.first {
            return 0;
        }
        let span = u128::from(self.last - self.first).max(1);
        narrow(u128::from(self.bytes) * u128::from(now - self.first) / span).min(self.bytes)
    }

    /// When the first `bytes` have come out, or all there are.
    fn when(&self, bytes: u64) -> u64 {
        if bytes >= self.bytes {
            return self.last;
        }
        let span = u128::from(self.last - self.first);
        self.first + narrow((span * u128::from(bytes)).div_ceil(u128::from(self.bytes)))
    }
}

/// Nanoseconds and bytes of any run fit.
fn narrow(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::shape::Stall;
    use super::*;

    /// What happens to a link.
    #[derive(Clone, Debug)]
    enum Op {
        Wait(u64),
        Accept(u64),
        Release(u64),
        Reshape(Shape),
        Share(u64),
    }

    fn shapes() -> impl Strategy<Value = Shape> {
        let millis = || (0u64..300).prop_map(Duration::from_millis);
        let rate = proptest::option::of(1_000u64..10_000_000_000);
        let stall = proptest::option::of((0.0f64..=1.0, proptest::option::of(millis())));
        let buffer = proptest::option::of(1_448u64..1_000_000);
        (
            millis(),
            rate,
            millis(),
            stall,
            buffer,
            proptest::bool::weighted(0.1),
        )
            .prop_map(|(delay, rate, jitter, stall, buffer, held)| Shape {
                delay,
                rate,
                jitter,
                stall: stall.map(|(chance, pause)| Stall { chance, pause }),
                buffer,
                held,
            })
    }

    fn ops() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (0u64..50_000_000).prop_map(Op::Wait),
            4 => (0u64..2_000_000).prop_map(Op::Accept),
            4 => (0u64..2_000_000).prop_map(Op::Release),
            1 => shapes().prop_map(Op::Reshape),
            1 => (0u64..20).prop_map(Op::Share),
        ]
    }

    proptest! {
        #[test]
        fn nothing_is_lost_doubled_or_kept_whatever_happens(shape in shapes(), seed: u64, ops in prop::collection::vec(ops(), 0..80)) {
            let start = Instant::now();
            let (mut now, mut link) = (start, Link::new(shape, seed, start));
            let (mut accepted, mut released, mut sharers) = (0, 0, 1);
            for op in ops {
                match op {
                    Op::Wait(nanos) => now += Duration::from_nanos(nanos),
                    Op::Accept(bytes) => {
                        let bytes = bytes.min(link.room());
                        link.accept(bytes, now);
                        accepted += bytes;
                    }
                    Op::Release(bytes) => {
                        let bytes = bytes.min(link.due(now));
                        link.release(bytes);
                        released += bytes;
                    }
                    Op::Reshape(shape) => link.reshape(shape, now),
                    Op::Share(others) => sharers = others,
                }
                link.advance(now, sharers);
                prop_assert_eq!(link.held_bytes(), accepted - released);
                prop_assert!(link.due(now) <= accepted - released);
                prop_assert!(link.next(now).is_none_or(|at| at > now), "asking again takes time");
            }
            // On a clean link, all comes out as soon as what was lost or late before has come.
            link.reshape(Shape::default(), now);
            for _ in 0..1_000 {
                now += Duration::from_millis(100);
                link.advance(now, 1);
                let due = link.due(now);
                link.release(due);
                released += due;
            }
            prop_assert_eq!((released, link.held_bytes()), (accepted, 0));
        }

        #[test]
        fn no_link_is_faster_than_its_rate_or_its_delay(mut shape in shapes(), seed: u64, step in 100_000u64..20_000_000) {
            let rate = shape.rate.unwrap_or(5_000_000);
            shape = Shape { rate: Some(rate), held: false, ..shape };
            let start = Instant::now();
            let (mut now, mut link) = (start, Link::new(shape, seed, start));
            let mut released = 0;
            for _ in 0..200 {
                link.advance(now, 1);
                link.accept(link.room(), now);
                let due = link.due(now);
                link.release(due);
                released += due;
                let working = (now - start).saturating_sub(shape.delay).as_nanos();
                let most = working * u128::from(rate) / 8 / NANOS;
                prop_assert!(u128::from(released) <= most + 1, "{released} of {most}");
                now += Duration::from_nanos(step);
            }
        }
    }
}
