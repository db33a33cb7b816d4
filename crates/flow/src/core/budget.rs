//! Who may have how much of a common budget: everybody what they want, as long as there is enough; else those who want
//! little have it, and the others share the rest by weight.
//!
//! ```text
//! budget 64      wants 4, 20, 100      level 40:   4 + 20 + 40
//! budget 64      wants 4, 100, 100     level 30:   4 + 30 + 30
//! ```
//!
//! The *level* is the most that one with weight 1 may have; it is computed when what is wanted exceeds the budget, and
//! infinite otherwise.

/// One taker in a [`Ledger`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Taker(usize);

#[derive(Clone, Copy, Debug)]
struct Want {
    bytes: u64,
    weight: u32,
}

/// The takers and what they want, in bytes.
#[derive(Debug)]
pub struct Ledger {
    total: u64,
    wants: Vec<Option<Want>>,
    free: Vec<usize>,
    wanted: u64,
    /// Bytes for each unit of weight.
    level: u64,
}

impl Ledger {
    /// A budget of `total` bytes.
    #[must_use]
    pub fn new(total: u64) -> Self {
        Self {
            total,
            wants: Vec::new(),
            free: Vec::new(),
            wanted: 0,
            level: u64::MAX,
        }
    }

    /// The whole budget, in bytes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// What all want together, in bytes.
    #[must_use]
    pub fn wanted(&self) -> u64 {
        self.wanted
    }

    /// Whether somebody has less than they want.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.wanted > self.total
    }

    /// A new taker of that weight (at least 1), who wants nothing yet.
    pub fn join(&mut self, weight: u32) -> Taker {
        let want = Some(Want {
            bytes: 0,
            weight: weight.max(1),
        });
        match self.free.pop() {
            Some(index) => {
                self.wants[index] = want;
                Taker(index)
            }
            None => {
                self.wants.push(want);
                Taker(self.wants.len() - 1)
            }
        }
    }

    /// The taker is gone.
    pub fn leave(&mut self, taker: Taker) {
        self.want(taker, 0);
        if self.wants.get_mut(taker.0).and_then(Option::take).is_some() {
            self.free.push(taker.0);
        }
    }

    /// Sets what a taker wants; what it may have.
    pub fn want(&mut self, taker: Taker, bytes: u64) -> u64 {
        let Some(Some(want)) = self.wants.get_mut(taker.0) else {
            return 0;
        };
        if want.bytes != bytes {
            self.wanted = self.wanted - want.bytes + bytes;
            want.bytes = bytes;
            self.level = self.level();
        }
        self.granted(taker)
    }

    /// What a taker wants.
    #[must_use]
    pub fn wanted_by(&self, taker: Taker) -> u64 {
        self.wants
            .get(taker.0)
            .copied()
            .flatten()
            .map_or(0, |want| want.bytes)
    }

    /// What a taker may have at present.
    #[must_use]
    pub fn granted(&self, taker: Taker) -> u64 {
        let want = self.wants.get(taker.0).copied().flatten();
        want.map_or(0, |want| {
            want.bytes.min(self.level.saturating_mul(u64::from(want.weight)))
        })
    }

    /// The highest level at which all that is granted fits into the budget.
    fn level(&self) -> u64 {
        if !self.is_short() {
            return u64::MAX;
        }
        let mut wants: Vec<Want> = self
            .wants
            .iter()
            .flatten()
            .copied()
            .filter(|want| want.bytes > 0)
            .collect();
        // By the level at which each has enough.
        wants.sort_unstable_by_key(|want| want.bytes / u64::from(want.weight));
        let mut left = self.total;
        let mut weights: u64 = wants.iter().map(|want| u64::from(want.weight)).sum();
        for want in wants {
            let level = left / weights.max(1);
            if want.bytes > level.saturating_mul(u64::from(want.weight)) {
                return level;
            }
            left -= want.bytes;
            weights -= u64::from(want.weight);
        }
        u64::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shares(total: u64, wants: &[(u64, u32)]) -> Vec<u64> {
        let mut ledger = Ledger::new(total);
        let takers: Vec<_> = wants.iter().map(|(_, weight)| ledger.join(*weight)).collect();
        for (taker, (bytes, _)) in takers.iter().zip(wants) {
            ledger.want(*taker, *bytes);
        }
        takers.iter().map(|taker| ledger.granted(*taker)).collect()
    }

    #[test]
    fn the_modest_have_all_and_the_others_share_by_weight() {
        assert_eq!(shares(64, &[(4, 1), (20, 1), (30, 1)]), [4, 20, 30]);
        assert_eq!(shares(64, &[(4, 1), (20, 1), (100, 1)]), [4, 20, 40]);
        assert_eq!(shares(64, &[(4, 1), (100, 1), (100, 2)]), [4, 20, 40]);
        assert_eq!(shares(0, &[(4, 1)]), [0]);
    }

    #[test]
    fn what_one_gives_back_the_others_get() {
        let mut ledger = Ledger::new(100);
        let (a, b) = (ledger.join(1), ledger.join(1));
        assert_eq!((ledger.want(a, 80), ledger.want(b, 80)), (80, 50));
        assert_eq!(ledger.granted(a), 50);
        ledger.leave(b);
        assert_eq!((ledger.granted(a), ledger.granted(b)), (80, 0));
        assert_eq!(ledger.join(1), b);
    }

    proptest! {
        #[test]
        fn a_budget_is_never_exceeded_and_hardly_ever_left_unused(
            total in 0_u64..100_000,
            wants in prop::collection::vec((0_u64..50_000, 1_u32..5), 0..30),
        ) {
            let granted = shares(total, &wants);
            let sum: u64 = granted.iter().sum();
            let wanted: u64 = wants.iter().map(|(bytes, _)| bytes).sum();
            let weights: u64 = wants.iter().map(|(_, weight)| u64::from(*weight)).sum();
            prop_assert!(sum <= total.max(wanted.min(total)));
            // Whole bytes for each unit of weight: less than that is lost.
            prop_assert!(sum + weights >= wanted.min(total));
            for ((got, (want, weight)), (other, (_, other_weight))) in
                granted.iter().zip(&wants).flat_map(|a| granted.iter().zip(&wants).map(move |b| (a, b)))
            {
                prop_assert!(got <= want);
                // Who has less than they want has as much as any other of the same weight.
                if got < want && weight == other_weight {
                    prop_assert!(got >= other);
                }
            }
        }
    }
}
