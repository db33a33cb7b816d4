//! How large a receive window should be: a little more than a link holds.
//!
//! A sender may have one window of bytes on the way. With a window below the link's *bandwidth × delay* it has to pause
//! until the receiver has given some back, and a long link stays half empty; far above it, bytes only queue somewhere.
//! The receiver can measure both factors: bytes that arrive in a round trip, and, with a PING, the round trip.
//!
//! ```text
//! 1 Gbit/s, 100 ms       arrives                                  window
//!   0 ms                 the first of 1 MiB                       1 MiB    PING
//! 100 ms  PONG: 100 ms   1 MiB came in 8 ms, then nothing         8 MiB    full in a twelfth of a round: much too small
//! 200 ms                 6.4 MiB of 8 came in 54 ms              16 MiB    full in half a round: twice as much, and a tenth
//! 800 ms                 12.5 MB a round, all the time           13 MiB    = 125 MB/s × 17/16 × 100 ms
//! ```
//!
//! - **Bandwidth** is the most that came in two round trips in a row (of a millisecond at least) of the last ten (a second at
//!   least): a burst does not count.
//! - **Round trip** is the least that PINGs took, and that credit took to be used. It falls at once. It rises when two rounds
//!   in a row took longer, credit that was given after the first had left did too, and our own window does not explain that:
//!   bytes of ours that queue make a PING late as well, but then the link is saturated, and the delay is at most a window at its rate.
//! - A window is for what the path **usually** takes: the median of what credit took after the last nods, when nothing of ours
//!   queued.
//! - What the peer answered **before** there was data to queue bounds the first of them.
//! - A queue of our own hides how short the path is. So now and then the window **nods**: a little less than the link holds,
//!   until some credit has been given. If that is used in less than a round trip, or once in a while when a PING was late, it
//!   **dips**: it is quartered until the queue is gone, a PING shows the path, and the window is set by what it showed.
//! - Credit that is used clearly **sooner** than a round trip went by a way that became shorter: the window dips at once.
//! - A window that was **filled** (four fifths of it came) much faster than a round trip is the limit, and grows up to
//!   eightfold; what it then turns out to need is known a round trip later. One that is too large for five round trips
//!   shrinks, **on trial**: if less comes then, the larger one is kept. After half a minute without data all is forgotten.
//! - **PINGs** are sent while data flows and either nothing is known, or much of a window comes per round trip, or the rate
//!   has changed. While rounds teach nothing, the pause between them doubles up to half a minute.
//!
//! `docs/design/flow.md` has the reasons and what this cannot know.

mod bound;
mod filter;
mod greeting;
mod growth;
mod look;
mod proof;
mod rtt;
mod trial;
mod usual;

#[cfg(test)]
mod clocks;
#[cfg(test)]
mod link;
#[cfg(test)]
mod tests;

use std::time::Duration;

use filter::WindowedMax;
use greeting::Greeting;
use growth::Fill;
use look::{Dip, FIRST_DIP_AFTER, Nod, Rise};
use proof::Proof;
use rtt::RoundTrip;
use trial::{KEEP_MIN, Trial};
use usual::Usual;

/// The windows that may be announced, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The window before anything is known (1 MiB), and the least that it shrinks to for longer than a few round trips,
    /// unless the link is seen to be full with less.
    pub start: u32,
    /// The largest window (64 MiB).
    pub cap: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            start: 1 << 20,
            cap: 64 << 20,
        }
    }
}

/// What is known of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    /// Bytes a second.
    pub bandwidth: f64,
    /// `None` until a PING has come back.
    pub rtt: Option<Duration>,
}

impl Estimate {
    /// Bandwidth × round trip, in bytes: what the link holds.
    #[must_use]
    pub fn bdp(&self) -> f64 {
        self.rtt.map_or(0.0, |rtt| self.bandwidth * rtt.as_secs_f64())
    }
}

/// Without data for so long, everything is forgotten.
pub const IDLE: Duration = Duration::from_secs(30);

/// Bytes that have to come in a row before the first PING is worth its while.
const FIRST_PROBE_BYTES: u64 = 64 << 10;
/// Longest pause between two PINGs that taught nothing, while data flows.
const PAUSE_MAX: Duration = Duration::from_secs(30);
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause between two PINGs that a change of the rate has caused in vain.
const CHANGE_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Shortest time over which a rate is taken.
const BUCKET_MIN: Duration = Duration::from_millis(1);
/// Shortest memory of the bandwidth.
const MEMORY_MIN: Duration = Duration::from_secs(1);
/// A window has to be too large for so long, at least, before it shrinks.
const SHRINK_AFTER_MIN: Duration = Duration::from_millis(250);
/// The smallest window that a dip makes.
const DIP_MIN: u32 = 64 << 10;
/// What a window has beyond a round trip of the link, to keep it full: this part of the round trip, or, for turns that come late,
/// these seconds if that is more.
const SPARE: f64 = 0.0625;
const SLACK: f64 = 0.001;
/// The least window of a link that is known to be full.
const FULL_MIN: u32 = 128 << 10;

/// Bytes from some time on.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    since: Duration,
    bytes: u64,
}

impl Span {
    fn at(since: Duration) -> Self {
        Self { since, bytes: 0 }
    }
}

/// A PING on its way.
#[derive(Clone, Copy, Debug)]
struct Round {
    span: Span,
    /// Whether a change of the rate was the reason.
    for_change: bool,
}

/// Measures one connection's link from the receiving end. Times count from any fixed point, the same for all calls.
#[derive(Clone, Debug)]
pub struct Estimator {
    bounds: Bounds,
    window: u32,
    rtt: RoundTrip,
    usual: Usual,
    proof: Proof,
    greeting: Option<Greeting>,
    bandwidth: WindowedMax,
    /// The same of what came in two round trips in a row: a burst does not move it.
    steady: WindowedMax,
    bucket: Span,
    fill: Fill,
    /// When a window was last filled in less than a round trip.
    filled_at: Option<Duration>,
    /// When the window last grew for no clear reason, and by what part of it.
    unclear: Option<(Duration, f64)>,
    /// What was sent under the present window arrives from here on.
    effective_from: Duration,
    round: Option<Round>,
    since_probe: u64,
    pause: Duration,
    next_probe: Duration,
    /// The rate has changed since the last PING.
    changed: bool,
    low_buckets: u8,
    change_pause: Duration,
    next_change_probe: Duration,
    /// The window has grown since the last PING came back.
    grown: bool,
    /// The rate of the last bucket.
    recent: f64,
    /// Bytes of ours have been seen to queue: the link is full.
    queues: bool,
    /// What has come since the window is too large.
    too_large: Option<Span>,
    trial: Option<Trial>,
    /// The window before the last trial, and until when what left by it comes.
    larger: (u32, Duration),
    /// A window that had to be kept, until when, and how long the next one will be.
    kept: (u32, Duration),
    keep_for: Duration,
    nod: Option<Nod>,
    rise: Option<Rise>,
    next_nod: Duration,
    /// Nods in a row that have shown a shorter round trip.
    nods_won: u8,
    /// The pause before the next one, as a multiple of the shortest.
    nod_pause: u32,
    dip: Option<Dip>,
    next_dip: Duration,
    next_change_dip: Duration,
    /// What the round trip was before credit was used sooner, and when that began.
    fell: Option<(Duration, Duration)>,
    /// When a shorter way may make the next one, and how long the pause was before.
    next_short_dip: Duration,
    short_pause: Duration,
    /// The rate has changed when there could be no dip yet.
    dip_due: bool,
    last_data: Duration,
}

impl Estimator {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(bounds: Bounds, now: Duration) -> Self {
        Self {
            bounds,
            window: bounds.start.min(bounds.cap),
            rtt: RoundTrip::default(),
            usual: Usual::default(),
            proof: Proof::default(),
            greeting: None,
            bandwidth: WindowedMax::default(),
            steady: WindowedMax::default(),
            bucket: Span::at(now),
            fill: Fill::default(),
            filled_at: None,
            unclear: None,
            effective_from: now,
            round: None,
            since_probe: 0,
            pause: Duration::ZERO,
            next_probe: now,
            changed: false,
            low_buckets: 0,
            change_pause: Duration::ZERO,
            next_change_probe: now,
            grown: false,
            recent: 0.0,
            queues: false,
            too_large: None,
            trial: None,
            larger: (0, now),
            kept: (0, now),
            keep_for: KEEP_MIN,
            nod: None,
            rise: None,
            next_nod: now,
            nods_won: 0,
            nod_pause: 1,
            dip: None,
            next_dip: now,
            next_change_dip: now,
            fell: None,
            next_short_dip: now,
            short_pause: Duration::ZERO,
            dip_due: false,
            last_data: now,
        }
    }

    /// The window that all streams which send much should have together, in bytes.
    #[must_use]
    pub fn window(&self) -> u32 {
        match (self.nod, self.rise) {
            (Some(nod), _) if nod.left > 0 => nod.window.min(self.window),
            (_, Some(rise)) => rise.window.min(self.window),
            _ => self.window,
        }
    }

    /// What is known.
    #[must_use]
    pub fn estimate(&self) -> Estimate {
        Estimate {
            bandwidth: self.bandwidth.get(),
            rtt: self.rtt.get(),
        }
    }

    /// Whether anything was learnt that [`Estimator::rest`] would forget.
    #[must_use]
    pub fn knows(&self) -> bool {
        self.window != self.bounds.start.min(self.bounds.cap) || self.rtt.get().is_some()
    }

    /// When to call [`Estimator::rest`], if no data comes before.
    #[must_use]
    pub fn rest_at(&self) -> Duration {
        self.last_data + IDLE
    }

    /// Forgets everything if there was no data for long. Whether it did.
    pub fn rest(&mut self, now: Duration) -> bool {
        if !self.knows() || now < self.rest_at() {
            return false;
        }
        // A PING on its way stays one: its answer is still to come.
        let round = self.round;
        *self = Self::new(self.bounds, now);
        self.round = round;
        true
    }

    /// `bytes` of DATA have arrived.
    pub fn received(&mut self, bytes: u64, now: Duration) {
        self.rest(now);
        self.last_data = now;
        self.proof.received(bytes, self.link(), now);
        if self.dip.is_some_and(|dip| now >= dip.over_at) {
            self.end_dip(now);
        }
        self.close_bucket(now);
        if let Some(large) = &mut self.too_large {
            large.bytes += bytes;
        }
        self.judge(bytes, now);
        if let Some(dip) = &mut self.dip {
            dip.left = dip.left.saturating_sub(bytes);
        }
        self.nods(bytes, now);
        self.bucket.bytes += bytes;
        self.since_probe += bytes;
        if let Some(round) = &mut self.round {
            round.span.bytes += bytes;
        }
        self.fill(bytes, now);
    }

    /// Whether to send a PING now. Asked after data has arrived.
    #[must_use]
    pub fn wants_ping(&self, now: Duration) -> bool {
        if self.round.is_some() {
            return false;
        }
        let Some(rtt) = self.rtt.get() else {
            return self.since_probe >= FIRST_PROBE_BYTES && now >= self.next_probe;
        };
        if let Some(dip) = self.dip {
            return now >= dip.drained_at || dip.left == 0;
        }
        let window = u64::from(self.window);
        if self.since_probe < (window / 8).max(FIRST_PROBE_BYTES) {
            return false;
        }
        let a_round = self.bandwidth.get() * rtt.as_secs_f64();
        let much = a_round >= f64::from(self.window) / 8.0;
        let dip_due = self.dip_due && now >= self.next_change_dip.max(self.effective_from);
        (much && now >= self.next_probe) || (self.changed && now >= self.next_change_probe) || dip_due
    }

    /// A PING leaves.
    pub fn ping_sent(&mut self, now: Duration) {
        self.rtt.leaves(now);
        self.round = Some(Round {
            span: Span::at(now),
            for_change: self.changed && now < self.next_probe,
        });
        self.since_probe = 0;
    }

    /// The PING has come back.
    pub fn ping_acked(&mut self, now: Duration) {
        let Some(Round { span, for_change }) = self.round.take() else {
            return;
        };
        // It may have changed while the PING was on its way.
        let for_change = for_change || self.changed;
        let took = now.saturating_sub(span.since).max(Duration::from_micros(1));
        let rate = span.bytes as f64 / took.as_secs_f64();
        let before = self.rtt.get();
        let link = self.link();
        // All that may be on the way: if that is what the PING waited behind, the link is not longer than before.
        let queue =
            (link > 0.0).then(|| Duration::from_secs_f64(f64::from(self.in_force(span.since)) / link));
        let queue = queue.filter(|_| rate >= 0.8 * link);
        if self.dip.is_some_and(|dip| span.since >= dip.since) {
            return self.dipped(took, queue, now);
        }
        if self.rtt.is_explained(took, queue) && before.is_some_and(|least| took > least * 5 / 4) {
            self.queues = true;
        }
        let path = match before {
            None => self.path(took, now),
            Some(_) => took,
        };
        let moved = self.rtt.sample(path, queue);
        if before.is_none() {
            self.bandwidth.insert(rate, now, self.memory());
            self.steady.insert(rate, now, self.memory());
            self.bucket = Span::at(now);
            self.next_dip = now + FIRST_DIP_AFTER;
            self.next_change_dip = self.next_dip;
            self.plan_first_nod(now);
            self.grow_if_full(now);
            self.queued(took, now);
        }
        self.changed = false;
        if moved {
            self.nod_pause = 1;
        }
        self.settle(now);
        self.pace_probes(moved || self.rtt.is_doubted(), for_change, now);
        // Who sends little makes no queue.
        if span.bytes < u64::from(self.window) / 4 || !self.rtt.is_explained(took, queue) {
            self.dip_due = false;
            return;
        }
        let for_change = for_change || self.dip_due;
        let next = if for_change {
            self.next_change_dip
        } else {
            self.next_dip
        };
        let may_dip = next.max(self.effective_from);
        if now >= may_dip {
            self.dip(now);
        } else if for_change {
            // There has just been one: look again when there may be another.
            self.dip_due = true;
        }
    }

    /// What the link gives, but for bursts that were held up somewhere; bytes a second.
    fn link(&self) -> f64 {
        self.steady.get()
    }

    /// A little more than the link holds, within the bounds.
    fn wanted(&self) -> u32 {
        let rtt = self.rtt.get().unwrap_or_default();
        let rtt = self.usual.get(rtt).as_secs_f64();
        let wanted = (self.link() * (rtt + (SPARE * rtt).max(SLACK))) as u32;
        let least = if self.queues { FULL_MIN } else { self.bounds.start };
        wanted.clamp(least.min(self.bounds.cap), self.bounds.cap)
    }

    /// The sooner the next PING, the more the last one taught.
    fn pace_probes(&mut self, learnt: bool, for_change: bool, now: Duration) {
        if learnt || std::mem::take(&mut self.grown) {
            self.pause = Duration::ZERO;
            self.change_pause = Duration::ZERO;
        } else if for_change {
            self.change_pause = (self.change_pause * 2).clamp(PAUSE_MIN, CHANGE_PAUSE_MAX);
        } else {
            self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        }
        self.next_probe = self.next_probe.max(now + self.pause);
        if self.pause.is_zero() {
            self.next_probe = now;
        }
        self.next_change_probe = now + self.change_pause;
    }

    fn memory(&self) -> Duration {
        self.rtt
            .get()
            .map_or(MEMORY_MIN, |rtt| (rtt * 10).max(MEMORY_MIN))
    }

    /// Takes the rate of the bucket, once it is a round trip long.
    fn close_bucket(&mut self, now: Duration) {
        let Some(rtt) = self.rtt.get() else {
            return;
        };
        let span = now.saturating_sub(self.bucket.since);
        if span < rtt.max(BUCKET_MIN) {
            return;
        }
        let rate = self.bucket.bytes as f64 / span.as_secs_f64();
        self.bucket = Span::at(now);
        let lesser = rate.min(std::mem::replace(&mut self.recent, rate));
        self.notice_change(rate, now);
        self.bandwidth.insert(rate, now, self.memory());
        self.steady.insert(lesser, now, self.memory());
        self.settle(now);
    }

    fn notice_change(&mut self, rate: f64, now: Duration) {
        if self.dip.is_some() || now < self.effective_from {
            return;
        }
        let best = self.bandwidth.get();
        self.low_buckets = if rate < 0.75 * best {
            self.low_buckets + 1
        } else {
            0
        };
        if rate < 0.6 * best || self.low_buckets >= 2 || rate > 1.12 * best {
            self.changed = true;
            self.low_buckets = 0;
            if rate > best && now >= self.effective_from + self.rtt.get().unwrap_or_default() * 4 {
                // Nothing of ours is new, and still it comes all at once: it was on a longer way before.
                self.next_nod = now;
            }
        }
    }

    /// Brings the window nearer to what the link needs.
    fn settle(&mut self, now: Duration) {
        let Some(rtt) = self.rtt.get() else {
            return;
        };
        if self.dip.is_some() {
            return;
        }
        let wanted = self.wanted();
        if wanted > self.window {
            self.too_large = None;
            if wanted - self.window > self.window / 32 || wanted == self.bounds.cap {
                self.set(wanted, now);
            }
            return;
        }
        let next = if now < self.kept.1 { self.kept.0 } else { 0 };
        let next = wanted.max(self.window / 2).max(next);
        if self.trial.is_some() || next > self.window - self.window / 16 {
            self.too_large = None;
            return;
        }
        let large = *self.too_large.get_or_insert(Span::at(now));
        let span = now.saturating_sub(large.since);
        if span >= (rtt * 5).max(SHRINK_AFTER_MIN) {
            self.too_large = None;
            // There may have been a burst.
            self.tries(
                next,
                self.recent.min(large.bytes as f64 / span.as_secs_f64()),
                now,
            );
        }
    }

    fn set(&mut self, window: u32, now: Duration) {
        let window = window.min(self.bounds.cap);
        if window <= self.window {
            return;
        }
        let rtt = self.rtt.get().unwrap_or_default();
        self.window = window;
        (self.trial, self.too_large) = (None, None);
        self.ends_nod();
        self.grown = true;
        self.fill = Fill::default();
        self.effective_from = now + rtt;
    }
}
