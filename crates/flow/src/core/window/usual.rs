//! What the path usually takes, which is more than its least where it is uneven: as long as credit takes while nothing of ours
//! queues, so after a nod.
//!
//! ```text
//! 30 ms at least, up to 6 ms more for each frame    a window for 30 ms: 88 % of the link, which then looks narrower
//! after a nod: credit takes 33 to 36 ms             a window for 35 ms: all of it, and no queue
//! ```

use std::time::Duration;

/// Samples after a nod, at most: two round trips have as many.
const SAMPLES: usize = 32;
/// Fewer say nothing.
const SAMPLES_MIN: usize = 4;
/// Nods that are remembered: one that met a late thread decides nothing.
const NODS: usize = 3;
/// What took more than so many times the least waited for a sender that had nothing to say.
const TIMES_MAX: u32 = 2;

/// What credit took after the last nods.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usual {
    /// The least round trip then, and the median.
    nods: [Option<(Duration, Duration)>; NODS],
    now: Option<Seen>,
}

/// After one nod.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Credit given from here on meets no queue.
    from: Duration,
    /// Until here, when that is known.
    until: Option<Duration>,
    took: [Duration; SAMPLES],
    count: usize,
}

impl Usual {
    /// A nod begins.
    pub(super) fn begins(&mut self, now: Duration) {
        self.now = Some(Seen {
            from: now,
            until: None,
            took: [Duration::ZERO; SAMPLES],
            count: 0,
        });
    }

    /// The window will be large enough for a queue again.
    pub(super) fn ends(&mut self, until: Duration) {
        if let Some(seen) = &mut self.now {
            seen.until = Some(until);
        }
    }

    /// The window has changed otherwise.
    pub(super) fn is_disturbed(&mut self) {
        self.now = None;
    }

    /// Credit given at `since` took so long to be used, and the least that any takes is `least`. Whether what a nod has shown is new.
    pub(super) fn credit_used(&mut self, since: Duration, took: Duration, least: Duration) -> bool {
        let Some(seen) = &mut self.now else {
            return false;
        };
        let over = seen.until.is_some_and(|until| since >= until);
        let counts = since >= seen.from && !over && took <= least * TIMES_MAX;
        if counts && seen.count < SAMPLES {
            seen.took[seen.count] = took;
            seen.count += 1;
        }
        if !over {
            return false;
        }
        let before = self.get(least);
        let Some(mut seen) = self.now.take().filter(|seen| seen.count >= SAMPLES_MIN) else {
            return false;
        };
        let took = &mut seen.took[..seen.count];
        took.sort_unstable();
        let median = took[seen.count / 2];
        self.nods.rotate_right(1);
        self.nods[0] = Some((least, median));
        median.abs_diff(before) > least / 16
    }

    /// As long as the path usually takes, if its least is `least`: the middle of what three nods showed, or the less of two.
    pub(super) fn get(&self, least: Duration) -> Duration {
        // What was seen on another path says nothing of this one.
        let same = |then: Duration| then.abs_diff(least) <= least / 4;
        let mut known = [least; NODS];
        for (known, nod) in known.iter_mut().zip(&self.nods) {
            *known = nod
                .filter(|(then, _)| same(*then))
                .map_or(least, |(_, median)| median);
        }
        known.sort_unstable();
        known[NODS / 2].max(least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A nod at `at`, after which credit takes so long.
    fn nods(usual: &mut Usual, at: u64, took: &[u64]) -> bool {
        usual.begins(ms(at));
        usual.credit_used(ms(at - 1), ms(90), ms(30));
        for took in took {
            usual.credit_used(ms(at + 1), ms(*took), ms(30));
        }
        usual.ends(ms(at + 30));
        usual.credit_used(ms(at + 30), ms(90), ms(30))
    }

    #[test]
    fn two_nods_have_to_agree_and_one_that_was_late_decides_nothing() {
        let mut usual = Usual::default();
        assert_eq!(usual.get(ms(30)), ms(30));
        assert!(nods(&mut usual, 1_000, &[33, 36, 34, 31, 35]));
        assert_eq!(usual.get(ms(30)), ms(30), "one nod");
        nods(&mut usual, 2_000, &[33, 33, 35, 36, 90]);
        assert_eq!(usual.get(ms(30)), ms(34), "the less of two");
        assert!(nods(&mut usual, 3_000, &[59, 59, 59, 59]));
        assert_eq!(usual.get(ms(30)), ms(35), "the middle of three");
    }

    #[test]
    fn few_samples_pauses_and_other_paths_say_nothing() {
        let mut usual = Usual::default();
        for at in [1_000, 2_000, 3_000] {
            assert!(!nods(&mut usual, at, &[40, 40, 40]));
        }
        assert_eq!(usual.get(ms(30)), ms(30), "few samples");
        usual.begins(ms(4_000));
        usual.is_disturbed();
        assert!(!nods(&mut usual, 5_000, &[]));
        for at in [6_000, 7_000, 8_000] {
            assert!(!nods(&mut usual, at, &[80; 40]));
        }
        assert_eq!(usual.get(ms(30)), ms(30), "pauses");
        for at in [9_000, 10_000, 11_000] {
            nods(&mut usual, at, &[50; 40]);
        }
        assert_eq!(usual.get(ms(30)), ms(50));
        assert_eq!(usual.get(ms(20)), ms(20), "a shorter path");
        assert_eq!(usual.get(ms(150)), ms(150), "a longer path");
    }
}
