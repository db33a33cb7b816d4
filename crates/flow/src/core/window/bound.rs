//! What is known of the round trip before the first PING has come back: that it is no less than so much.
//!
//! TCP has measured a round trip by the time the first byte of HTTP/2 comes. Where something ends TCP on the way, it is only
//! a part of the path. Either way the path is no shorter. A window that was filled well within the bound was then
//! filled well within the round trip, and is too small whatever a PING will say: it grows a round trip earlier. A bound that is
//! too low, as a proxy's, only changes nothing.

use std::time::Duration;

use super::Estimator;
use super::growth::{GROWTH_MAX, GROWTH_MIN};

impl Estimator {
    /// Whether the window was filled while no round trip is known: a bound would be of use.
    #[must_use]
    pub fn wants_bound(&self) -> bool {
        self.rtt.get().is_none() && self.dip.is_none() && self.fill.full_after.is_some()
    }

    /// The round trip is no less than this. To be said when it is [wanted](Estimator::wants_bound).
    pub fn lower_bound(&mut self, bound: Duration, now: Duration) {
        let Some(took) = self.fill.full_after.filter(|_| self.wants_bound()) else {
            return;
        };
        if took >= bound * 4 / 5 {
            return;
        }
        let share = bound.as_secs_f64() / took.as_secs_f64().max(1e-6);
        let factor = share.clamp(GROWTH_MIN, GROWTH_MAX);
        self.set((f64::from(self.window) * factor) as u32, now);
        // What comes until then was sent under the window before.
        self.effective_from = now + bound;
    }
}

#[cfg(test)]
mod tests {
    use super::super::Bounds;
    use super::*;

    const FRAME: u64 = 16 << 10;
    const START: u32 = 1 << 20;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// The first window comes within 8 ms; a PING left after its first frames.
    fn filled() -> (Estimator, Duration) {
        let mut estimator = Estimator::new(Bounds::default(), Duration::ZERO);
        let mut now = Duration::ZERO;
        for _ in 0..64 {
            estimator.received(FRAME, now);
            if estimator.wants_ping(now) {
                estimator.ping_sent(now);
            }
            now += ms(8) / 64;
        }
        (estimator, now)
    }

    #[test]
    fn a_window_filled_within_the_bound_grows_before_the_ping_is_back() {
        let (mut estimator, now) = filled();
        assert!(estimator.wants_bound());
        assert_eq!(estimator.window(), START);
        estimator.lower_bound(ms(200), now);
        assert_eq!(estimator.window(), START * 8);
        assert!(estimator.estimate().rtt.is_none(), "a bound is no measurement");
        assert!(!estimator.wants_bound(), "and tells nothing twice");
        // The answer changes nothing for the worse.
        estimator.ping_acked(ms(200));
        assert_eq!(estimator.window(), START * 8);
        assert_eq!(estimator.estimate().rtt.map(|rtt| rtt.as_millis()), Some(199));
    }

    #[test]
    fn it_grows_by_no_more_than_the_bound_vouches_for() {
        let (mut estimator, now) = filled();
        // Four fifths came in 6.4 ms.
        estimator.lower_bound(ms(13), now);
        let window = estimator.window();
        assert!((START * 3 / 2..START * 9 / 4).contains(&window), "{window}");
    }

    #[test]
    fn a_bound_of_a_part_of_the_path_is_as_good_as_none() {
        let run = |bound: Option<Duration>| {
            let (mut estimator, now) = filled();
            if let Some(bound) = bound {
                estimator.lower_bound(bound, now);
                assert_eq!(estimator.window(), START);
            }
            estimator.ping_acked(ms(200));
            (estimator.window(), estimator.estimate())
        };
        assert_eq!(run(Some(Duration::from_micros(50))), run(None));
        assert_eq!(run(Some(Duration::ZERO)), run(None));
        assert_eq!(run(None).0, START * 8);
    }

    #[test]
    fn a_bound_that_comes_unasked_is_not_listened_to() {
        let mut estimator = Estimator::new(Bounds::default(), Duration::ZERO);
        estimator.lower_bound(ms(200), ms(1));
        assert_eq!(estimator.window(), START);
        let (mut estimator, _) = filled();
        estimator.ping_acked(ms(100));
        let window = estimator.window();
        estimator.lower_bound(ms(500), ms(101));
        assert_eq!(estimator.window(), window, "the round trip is known");
    }
}
