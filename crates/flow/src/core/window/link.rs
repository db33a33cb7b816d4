//! A link and its two ends, for tests: a sender that always has more to say, a pipe with a rate and a delay, a receiver
//! that reads at once and gives credit back as [`Grants`](crate::core::grants) do. Time is a number; nothing waits. Each
//! direction delivers in order: what leaves after the path has become shorter catches up with what left before, and arrives
//! with it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use super::{Bounds, Estimator};

const FRAME: i64 = 16 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// DATA at the receiver.
    Data(i64),
    /// Credit at the sender.
    Credit(i64),
    /// A PING at the sender.
    Ping,
    /// Its answer at the receiver, behind all data that was queued before it.
    Pong,
    /// DATA, or the answer, has passed the bottleneck.
    Passed(Passed),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Passed {
    Data(i64),
    Pong,
}

/// A link under test.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) now: Duration,
    /// Bytes a second.
    pub(super) rate: f64,
    pub(super) rtt: Duration,
    /// By how much the way back is shorter than half of that.
    pub(super) sooner_back: Duration,
    /// Up to so much longer is each way: for a frame that comes, and for a thousand of what goes back.
    pub(super) jitter: Duration,
    rng: fastrand::Rng,
    /// How much longer the way back is now, and for how many more.
    longer_back: (Duration, u32),
    /// What the sender has to say a second, if less than the link takes.
    pub(super) demand: Option<f64>,
    pub(super) estimator: Estimator,
    pub(super) pings: usize,
    pub(super) received: u64,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    sequence: u64,
    /// When the pipe's entrance is free again.
    free: Duration,
    /// When the last thing on each way arrives.
    forth: Duration,
    back: Duration,
    credit: i64,
    said: f64,
    /// All credit so far, as seen from here.
    granted: i64,
    /// What new streams may send at once, if that is not more than the connection may have under way.
    begins_with: i64,
    /// All credit before some was given, and when.
    samples: VecDeque<(i64, Duration)>,
}

impl Link {
    pub(super) fn new(mbit: f64, rtt_ms: u64) -> Self {
        Self::begins_with(Bounds::default().start, mbit, rtt_ms)
    }

    /// Streams that have so much credit together when they begin, in bytes.
    pub(super) fn begins_with(credit: u32, mbit: f64, rtt_ms: u64) -> Self {
        let bounds = Bounds::default();
        let first = credit.min(bounds.start / 8 * 9);
        let mut link = Self {
            now: Duration::ZERO,
            rate: mbit * 1e6 / 8.0,
            rtt: Duration::from_millis(rtt_ms),
            sooner_back: Duration::ZERO,
            jitter: Duration::ZERO,
            rng: fastrand::Rng::with_seed(7),
            longer_back: (Duration::ZERO, 0),
            demand: None,
            estimator: Estimator::new(bounds, Duration::ZERO),
            pings: 0,
            received: 0,
            events: BinaryHeap::new(),
            sequence: 0,
            free: Duration::ZERO,
            forth: Duration::ZERO,
            back: Duration::ZERO,
            credit: 0,
            said: 0.0,
            granted: i64::from(first),
            begins_with: credit.into(),
            samples: VecDeque::new(),
        };
        link.at(Duration::ZERO, Event::Credit(i64::from(first)));
        link
    }

    fn at(&mut self, after: Duration, event: Event) {
        self.sequence += 1;
        self.events
            .push(Reverse((self.now + after, self.sequence, event)));
    }

    /// Half a round trip from now, and behind all that is on the way to the receiver already.
    fn forth(&mut self, event: Event) {
        let longer = self.jitter.mul_f64(self.rng.f64());
        self.forth = self.forth.max(self.now + self.rtt / 2 + longer);
        self.at(self.forth - self.now, event);
    }

    /// The same to the sender.
    fn back(&mut self, event: Event) {
        if self.longer_back.1 == 0 {
            self.longer_back = (self.jitter.mul_f64(self.rng.f64()), 1_000);
        }
        self.longer_back.1 -= 1;
        let takes = self.rtt / 2 + self.longer_back.0 - self.sooner_back;
        self.back = self.back.max(self.now + takes);
        self.at(self.back - self.now, event);
    }

    /// For `span`, nothing that has not passed the bottleneck yet arrives; then all of it at once.
    pub(super) fn hold(&mut self, span: Duration) {
        self.forth = self.forth.max(self.now + self.rtt / 2) + span;
    }

    /// Runs for `span`; how many bytes arrived.
    pub(super) fn run(&mut self, span: Duration) -> u64 {
        let (end, before) = (self.now + span, self.received);
        while let Some(Reverse((at, ..))) = self.events.peek()
            && *at <= end
            && let Some(Reverse((at, _, event))) = self.events.pop()
        {
            self.now = at;
            match event {
                Event::Data(bytes) => self.data(bytes),
                Event::Credit(bytes) => {
                    self.credit += bytes;
                    self.send();
                }
                Event::Ping => {
                    // Who has little to say keeps it, and has no queue.
                    let queued = match self.demand {
                        Some(_) => Duration::ZERO,
                        None => self.free.saturating_sub(self.now),
                    };
                    self.at(queued, Event::Passed(Passed::Pong));
                }
                Event::Pong => self.estimator.ping_acked(self.now),
                Event::Passed(Passed::Pong) => self.forth(Event::Pong),
                Event::Passed(Passed::Data(bytes)) => self.forth(Event::Data(bytes)),
            }
            self.grant();
        }
        self.now = end;
        self.received - before
    }

    /// What waits before the bottleneck: whoever comes now waits so long.
    pub(super) fn queue(&self) -> Duration {
        self.free.saturating_sub(self.now)
    }

    /// The part of the link that was used during `span`.
    pub(super) fn share(&mut self, span: Duration) -> f64 {
        self.run(span) as f64 / (self.rate * span.as_secs_f64())
    }

    /// The sender puts everything it may into the pipe: the worst queue there can be.
    fn send(&mut self) {
        while self.credit > 0 {
            let bytes = self.credit.min(FRAME);
            self.credit -= bytes;
            self.free = self.free.max(self.now) + Duration::from_secs_f64(bytes as f64 / self.rate);
            let mut leaves = self.free;
            if let Some(demand) = self.demand {
                self.said = self.said.max(self.now.as_secs_f64()) + bytes as f64 / demand;
                leaves = leaves.max(Duration::from_secs_f64(self.said));
            }
            self.at(leaves - self.now, Event::Passed(Passed::Data(bytes)));
        }
    }

    fn data(&mut self, bytes: i64) {
        self.received += bytes as u64;
        let received = self.received.cast_signed();
        let mut used = None;
        while let Some((_, since)) = self.samples.pop_front_if(|(before, _)| received > *before) {
            used = Some(since);
        }
        if let Some(since) = used {
            self.estimator.credit_used(since, self.now);
        }
        self.estimator.received(bytes as u64, self.now);
        if self.estimator.wants_ping(self.now) {
            self.pings += 1;
            self.estimator.ping_sent(self.now);
            self.back(Event::Ping);
        }
    }

    /// In steps of a sixty-fourth; a smaller window is one that nothing is added to for a while.
    fn grant(&mut self) {
        let window = i64::from(self.estimator.window());
        let received = self.received.cast_signed();
        let more = (received + window).max(self.begins_with.min(received + window * 9 / 8)) - self.granted;
        if more >= window / 64 {
            self.samples.push_back((self.granted, self.now));
            self.granted += more;
            self.back(Event::Credit(more));
        }
    }
}
