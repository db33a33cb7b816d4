//! A round trip that was measured before there was a queue.
//!
//! The first PING leaves when some data has come, and its answer waits behind all that the peer has handed to its socket by
//! then. Eight streams that begin at once may be megabytes ahead of it, and on a slow link what the answer takes is time in
//! that queue. But the peer has answered before: it has acknowledged our first SETTINGS, and had credit for 64 KiB until they
//! came. And a PING into silence met nothing at all. No answer comes sooner than the path allows, so the least is nearest.
//!
//! A path may have changed since. So a greeting counts for half a minute, and not at all where the first PING agrees with what
//! was [proven](super::proof) to have met no queue.

use std::time::Duration;

use super::proof::NEAR_PART;
use super::{Estimator, IDLE};

/// What an early answer took, and when it came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Greeting {
    took: Duration,
    at: Duration,
}

impl Greeting {
    fn is_fresh(&self, now: Duration) -> bool {
        now.saturating_sub(self.at) < IDLE
    }
}

impl Estimator {
    /// The peer has answered something, after so long, that was not sent for data: SETTINGS, or a PING into silence.
    pub fn also_took(&mut self, took: Duration, now: Duration) {
        let took = took.max(Duration::from_micros(1));
        match self.rtt.get() {
            Some(rtt) if took < rtt => self.rtt.is(took),
            Some(_) => (),
            None => {
                let before = self.greeting.filter(|before| before.is_fresh(now));
                let least = before.map_or(took, |before| before.took.min(took));
                self.greeting = Some(Greeting { took: least, at: now });
            }
        }
    }

    /// Whether an early answer took about as long.
    pub(super) fn was_greeted(&self, rtt: Duration, now: Duration) -> bool {
        let greeting = self.greeting.filter(|greeting| greeting.is_fresh(now));
        greeting.is_some_and(|greeting| greeting.took.abs_diff(rtt) <= rtt / NEAR_PART)
    }

    /// What the path takes, if the first PING took so long.
    pub(super) fn path(&self, took: Duration, now: Duration) -> Duration {
        let greeting = self.greeting.filter(|greeting| greeting.is_fresh(now));
        match greeting {
            Some(greeting) if !self.proof.covers(took) => greeting.took.min(took),
            _ => took,
        }
    }

    /// The first PING took so long, on a path that is known to be shorter: all else was a queue, as long as the answer was on
    /// its way. There is no reason to wait until the window that made it is seen to be too large.
    pub(super) fn queued(&mut self, took: Duration, now: Duration) {
        let path = self.rtt.get().unwrap_or(took);
        if took <= path * 5 / 4 {
            return;
        }
        self.queues = true;
        let wanted = self.wanted();
        if took >= path * 2 && wanted < self.window {
            self.tries(wanted, self.link(), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Bounds;
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// After early answers that took so long, at these times, and a first PING.
    fn pinged(early: &[(u64, u64)], sent: u64, took: u64) -> Estimator {
        let mut estimator = Estimator::new(Bounds::default(), Duration::ZERO);
        for (took, at) in early {
            estimator.also_took(ms(*took), ms(*at));
        }
        for _ in 0..8 {
            estimator.received(16 << 10, ms(sent));
        }
        assert!(estimator.wants_ping(ms(sent)));
        estimator.ping_sent(ms(sent));
        estimator.received(500_000, ms(sent + took));
        estimator.ping_acked(ms(sent + took));
        estimator
    }

    /// What the round trip is taken for then.
    fn taken_for(early: &[(u64, u64)], sent: u64, took: u64) -> Option<u128> {
        let estimate = pinged(early, sent, took).estimate();
        estimate.rtt.map(|rtt| rtt.as_millis())
    }

    #[test]
    fn the_least_early_answer_says_what_the_path_takes() {
        assert_eq!(taken_for(&[], 1_000, 90), Some(90));
        assert_eq!(taken_for(&[(20, 30)], 1_000, 90), Some(20));
        assert_eq!(taken_for(&[(24, 30), (20, 500), (31, 900)], 1_000, 90), Some(20));
        assert_eq!(taken_for(&[(95, 100)], 1_000, 90), Some(90));
    }

    #[test]
    fn a_path_that_was_seen_early_is_not_looked_for_again_so_soon() {
        let waits = |early: &[(u64, u64)]| pinged(early, 1_000, 90).next_nod - ms(1_090);
        assert_eq!(waits(&[]), Duration::from_secs(2));
        assert_eq!(waits(&[(20, 30)]), Duration::from_secs(8));
        assert_eq!(waits(&[(88, 30)]), Duration::from_secs(8));
        // Something was slow at first, and the PING was quicker than that.
        assert_eq!(waits(&[(120, 30)]), Duration::from_secs(2));
    }

    #[test]
    fn an_early_answer_is_forgotten_after_half_a_minute() {
        assert_eq!(taken_for(&[(20, 30)], 29_000, 90), Some(20));
        assert_eq!(taken_for(&[(20, 30)], 31_000, 90), Some(90));
        assert_eq!(taken_for(&[(20, 30), (40, 30_500)], 31_000, 90), Some(40));
    }

    #[test]
    fn what_met_no_queue_counts_for_more() {
        let mut estimator = Estimator::new(Bounds::default(), Duration::ZERO);
        estimator.also_took(ms(20), Duration::ZERO);
        estimator.received(1 << 19, ms(5));
        estimator.received(1 << 19, ms(10));
        estimator.ping_sent(ms(10));
        // Nothing came until credit was used: nothing was queued.
        estimator.credit_used(ms(12), ms(111));
        estimator.received(16 << 10, ms(111));
        estimator.ping_acked(ms(110));
        assert_eq!(estimator.estimate().rtt, Some(ms(100)));
    }
}
