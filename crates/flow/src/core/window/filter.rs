//! The largest of what was seen lately, in constant room.

use std::time::Duration;

/// A windowed maximum: the best value, and the best after it, and the best after that, so that one that grows too old
/// has a successor. (Kathleen Nichols' algorithm, as in Linux' `win_minmax`.)
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WindowedMax {
    best: [(Duration, f64); 3],
}

impl WindowedMax {
    /// The largest value within the window of the last [`WindowedMax::insert`]; 0 when there was none.
    pub(super) fn get(&self) -> f64 {
        self.best[0].1
    }

    /// Takes a value seen at `now`, and forgets what is older than `window`.
    pub(super) fn insert(&mut self, value: f64, now: Duration, window: Duration) {
        let new = (now, value);
        let age = |seen: (Duration, f64)| now.saturating_sub(seen.0);
        if value >= self.best[0].1 || age(self.best[2]) > window {
            self.best = [new; 3];
            return;
        }
        if value >= self.best[1].1 {
            self.best[1] = new;
            self.best[2] = new;
        } else if value >= self.best[2].1 {
            self.best[2] = new;
        }
        if age(self.best[0]) > window {
            self.best = [self.best[1], self.best[2], new];
            if age(self.best[0]) > window {
                self.best = [self.best[1], self.best[2], new];
            }
        } else if self.best[1].0 == self.best[0].0 && age(self.best[1]) > window / 4 {
            // A successor from the later part of the window, before the best is too old.
            self.best[1] = new;
            self.best[2] = new;
        } else if self.best[2].0 == self.best[1].0 && age(self.best[2]) > window / 2 {
            self.best[2] = new;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Never below what was seen in the last quarter of the window, never above what was seen in the whole of it.
        #[test]
        fn it_lies_between_the_newest_values_and_the_largest(
            steps in prop::collection::vec((1_u64..40, 0_u32..1000), 1..200),
        ) {
            let window = Duration::from_millis(100);
            let (mut filter, mut seen, mut now) = (WindowedMax::default(), Vec::new(), Duration::ZERO);
            for (after, value) in steps {
                now += Duration::from_millis(after);
                filter.insert(f64::from(value), now, window);
                seen.push((now, f64::from(value)));
                let within = |age: Duration| {
                    seen.iter().filter(move |(at, _)| now - *at <= age).map(|(_, value)| *value).fold(0.0, f64::max)
                };
                prop_assert!(filter.get() <= within(window + window / 2));
                prop_assert!(filter.get() >= f64::from(value));
            }
        }
    }

    #[test]
    fn it_falls_once_the_best_is_too_old() {
        let (mut filter, window) = (WindowedMax::default(), Duration::from_millis(100));
        filter.insert(9.0, Duration::ZERO, window);
        for ms in (10..=100).step_by(10) {
            filter.insert(3.0, Duration::from_millis(ms), window);
            assert_eq!(filter.get(), 9.0);
        }
        filter.insert(2.0, Duration::from_millis(110), window);
        assert_eq!(filter.get(), 3.0);
    }
}
