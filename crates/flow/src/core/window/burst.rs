//! Notices at once that the way to here has become shorter: what was sent after that catches up with what was sent before.
//!
//! ```text
//! arrives   ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁█▁▁▁▁   a burst, and no pause before it: what was late is not late any more
//!           ▁▁▁▁▁▁▁▁▁▁▁▁     ██▁▁▁▁   after a pause: bytes that were held up, or had not been sent
//! ```
//!
//! A burst without a pause cannot come from the sender: the link passes no more than its rate. It is a way that lost so many
//! milliseconds as the burst has at that rate, or a link that became faster; the latter brings at once what queues before
//! it, and that is known to be little. So there is a queue now, as long as the way was shortened, and for as long as credit
//! is given for what comes.

use std::ops::Range;
use std::time::Duration;

use super::Estimator;

/// Slots of a round trip; and of a burst, the present one included.
const SLOTS: usize = 16;
const BURST_SLOTS: usize = 2;
const ALL: usize = SLOTS + BURST_SLOTS;
const QUARTER: usize = SLOTS / 4;
/// The shortest slot: on shorter paths, turns that come late look the same.
const SLOT_MIN: Duration = Duration::from_millis(1);
/// A burst has to be so much longer than what a window has too much: in seconds, and in parts of the round trip. Turns that
/// come late make small ones all the time.
const LATE: f64 = 0.005;
const LATE_SHARE: f64 = 0.0625;
/// The part of the round trip before in which nothing may have come: a burst has to be more than made up for.
const GAP_MAX: f64 = 0.5;
/// The part of what the link gives that has to have come in each quarter of it: where the window is the limit, each round trip is
/// a burst and a pause.
const EVEN_MIN: f64 = 0.5;
/// From one look after a burst to the next, and the longest pause if they teach nothing.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// What has come lately.
#[derive(Clone, Debug, Default)]
pub(super) struct Arrivals {
    slots: [u64; ALL],
    /// The present slot, when it began, and how long each is.
    at: usize,
    since: Duration,
    length: Duration,
    /// Slots that were counted from their beginning.
    counted: usize,
    /// No burst matters before.
    next: Duration,
    pause: Duration,
    /// Until when so many bytes of a gap are our own doing.
    excused: (Duration, u64),
}

impl Arrivals {
    /// What came is not to be compared with what comes: something else has changed.
    pub(super) fn forget(&mut self) {
        self.counted = 0;
    }

    /// The window has become much larger, and the link may give more than is known.
    pub(super) fn grows(&mut self, until: Duration) {
        self.next = self.next.max(until);
        self.forget();
    }

    /// So much less credit is given than before: who had no credit has nothing to make up for.
    pub(super) fn excuse(&mut self, bytes: u32, until: Duration) {
        self.excused = (until, bytes.into());
    }

    /// A burst has led to a look; whether it was worth it.
    pub(super) fn looked(&mut self, worth: bool, now: Duration) {
        self.pause = if worth {
            PAUSE_MIN
        } else {
            (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX)
        };
        self.next = now + self.pause;
    }

    fn begin(&mut self, length: Duration, now: Duration) {
        *self = Self {
            since: now,
            length,
            next: self.next,
            pause: self.pause,
            excused: self.excused,
            ..Self::default()
        };
    }

    fn advance(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.since).as_nanos() / self.length.as_nanos().max(1);
        if passed > ALL as u128 {
            return self.begin(self.length, now);
        }
        for _ in 0..passed {
            self.at = (self.at + 1) % ALL;
            self.slots[self.at] = 0;
            self.since += self.length;
            self.counted = (self.counted + 1).min(ALL);
        }
    }

    /// What came in the last slots, and since when.
    fn burst(&self, now: Duration) -> (u64, Duration) {
        let took = now.saturating_sub(self.since) + self.length * (BURST_SLOTS as u32 - 1);
        (self.sum(0..BURST_SLOTS), took)
    }

    /// What came in the round trip before.
    fn before(&self) -> u64 {
        self.sum(BURST_SLOTS..ALL)
    }

    /// The least that came in a quarter of it.
    fn least_quarter(&self) -> u64 {
        let quarters = (BURST_SLOTS..ALL).step_by(QUARTER);
        let sums = quarters.map(|from| self.sum(from..from + QUARTER));
        sums.min().unwrap_or(0)
    }

    /// Counted back from the present slot.
    fn sum(&self, slots: Range<usize>) -> u64 {
        slots.map(|back| self.slots[(self.at + ALL - back) % ALL]).sum()
    }
}

impl Estimator {
    /// Notes what has come. How far that is ahead of the link, in parts of what a burst needs: from 1 on, it is the burst of a
    /// way that became shorter.
    pub(super) fn ahead(&mut self, bytes: u64, now: Duration) -> f64 {
        let Some(rtt) = self.rtt.get() else {
            return 0.0;
        };
        let length = rtt / SLOTS as u32;
        let arrivals = &mut self.arrivals;
        if arrivals.length.abs_diff(length) > length / 8 {
            arrivals.begin(length, now);
        }
        arrivals.advance(now);
        arrivals.slots[arrivals.at] += bytes;
        if length < SLOT_MIN || arrivals.counted < ALL || now < arrivals.next || self.dip.is_some() {
            return 0.0;
        }
        let link = self.steady.get();
        let round = link * rtt.as_secs_f64();
        let (burst, took) = arrivals.burst(now);
        let (until, excused) = arrivals.excused;
        let excused = if now < until { excused as f64 } else { 0.0 };
        let gap = (round - arrivals.before() as f64 - excused).max(0.0);
        let even = arrivals.least_quarter() as f64 >= EVEN_MIN * round / 4.0;
        // What is much less than a window is no queue of ours.
        if !even || round < f64::from(self.window) / 2.0 || gap > GAP_MAX * round {
            return 0.0;
        }
        // A link that became faster brings at once what queued.
        let queue = (f64::from(self.window()) - round).max(0.0);
        let needed = queue + link * LATE + round * LATE_SHARE;
        (burst as f64 - link * took.as_secs_f64() - gap) / needed.max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Bounds;
    use super::super::link::Link;
    use super::*;

    /// 100 Mbit/s and 100 ms, known for long. Bytes come at the rate of the link for a while, then not at all for `pause`
    /// milliseconds, then those of `burst` milliseconds at once: what the window is after that, in parts of what it was.
    fn after(pause: u64, burst: u64) -> f64 {
        let mut link = Link::new(100.0, 100);
        link.run(Duration::from_millis(8_700));
        let (mut estimator, mut now) = (link.estimator.clone(), link.now);
        let before = estimator.window();
        for _ in 0..200 {
            now += Duration::from_millis(1);
            estimator.received(12_500, now);
        }
        now += Duration::from_millis(pause);
        estimator.received(12_500 * burst, now);
        f64::from(estimator.window()) / f64::from(before)
    }

    #[test]
    fn a_burst_without_a_pause_is_a_shorter_way() {
        assert!(after(1, 45) < 0.2, "{}", after(1, 45));
    }

    #[test]
    fn bytes_that_were_held_up_are_no_burst() {
        for pause in [5, 10, 20, 45] {
            assert!(after(pause, pause) > 0.8, "{pause} ms: {}", after(pause, pause));
        }
    }

    #[test]
    fn turns_that_come_late_are_no_burst() {
        assert!(after(1, 10) > 0.8, "{}", after(1, 10));
    }

    #[test]
    fn a_window_that_comes_all_at_once_each_round_trip_is_no_burst() {
        let bounds = Bounds {
            start: 1 << 20,
            cap: 1 << 20,
        };
        let (frames, frame) = (64_u32, 16 << 10);
        // What the PING says is a little more, or less, than from one window to the next.
        for rtt_ms in [28, 30, 32] {
            let mut estimator = Estimator::new(bounds, Duration::ZERO);
            let mut now = Duration::ZERO;
            for round in 0..40 {
                for _ in 0..frames {
                    now += Duration::from_millis(8) / frames;
                    estimator.received(frame, now);
                    assert_eq!(estimator.window(), bounds.cap, "{rtt_ms} ms, round {round}");
                }
                if round == 0 {
                    estimator.ping_sent(now);
                    estimator.ping_acked(now + Duration::from_millis(rtt_ms));
                }
                now += Duration::from_millis(22);
            }
        }
    }

    #[test]
    fn a_link_that_becomes_faster_stays_full_and_is_not_taken_for_a_shorter_one() {
        for (mbit, rtt_ms) in [(100.0, 30), (100.0, 150), (300.0, 100)] {
            let mut link = Link::new(mbit, rtt_ms);
            link.run(Duration::from_secs(8));
            link.rate *= 3.0;
            link.run(Duration::from_millis(rtt_ms * 30));
            let share = link.share(Duration::from_secs(5));
            assert!(share >= 0.9, "{share} of {mbit} Mbit/s at {rtt_ms} ms");
        }
    }
}
