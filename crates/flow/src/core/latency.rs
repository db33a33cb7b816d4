//! How slow an endpoint is, and which of two to take: power of two choices over peak-EWMA latency × calls in flight.
//!
//! A sample above the average becomes the average at once, one below moves it gently: an endpoint that turns slow is
//! left within one call and is trusted again only bit by bit. An average without samples fades, so that an endpoint
//! that nobody asks any more gets a call now and then, and shows whether it is still slow.
//!
//! ```text
//! samples   1 ms, 1 ms, 51 ms, (left alone for 10 s), 1 ms
//! average   1     1     51      19                    …
//! ```

use std::time::Duration;

use tokio::time::Instant;

/// A failed call counts as one that took at least so long.
pub const FAILURE_COSTS: Duration = Duration::from_millis(500);

/// The cost of an endpoint of which nothing is known and on which calls are in flight: one call tries it out.
const UNKNOWN: f64 = 1e6;

/// The moving average of one endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latency {
    known: Option<Known>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    seconds: f64,
    at: Instant,
}

impl Latency {
    /// Takes a call's time into account. `decay` is how long it takes to forget two thirds.
    pub fn observe(&mut self, sample: Duration, now: Instant, decay: Duration) {
        let sample = sample.as_secs_f64();
        let seconds = match self.known {
            Some(known) if known.seconds > sample => {
                let weight = known.weight(now, decay);
                known.seconds * weight + sample * (1.0 - weight)
            }
            Some(_) | None => sample,
        };
        self.known = Some(Known { seconds, at: now });
    }

    /// Takes into account that a call took at least so long: only what makes the average worse counts.
    pub fn observe_at_least(&mut self, sample: Duration, now: Instant, decay: Duration) {
        if self
            .seconds(now, decay)
            .is_none_or(|seconds| seconds < sample.as_secs_f64())
        {
            self.observe(sample, now, decay);
        }
    }

    /// Begins anew with what a fresh connection has shown.
    pub fn restart(&mut self, sample: Duration, now: Instant) {
        self.known = Some(Known {
            seconds: sample.as_secs_f64(),
            at: now,
        });
    }

    /// The average in seconds, faded by the time without samples.
    #[must_use]
    pub fn seconds(&self, now: Instant, decay: Duration) -> Option<f64> {
        self.known.map(|known| known.seconds * known.weight(now, decay))
    }

    /// What one more call would cost. Smaller is better.
    #[must_use]
    pub fn cost(&self, in_flight: usize, now: Instant, decay: Duration) -> f64 {
        let calls = in_flight as f64;
        match self.seconds(now, decay) {
            // A clock may be too coarse for a fast peer: the calls in flight must count all the same.
            Some(seconds) => seconds.max(1e-6) * (calls + 1.0),
            None if in_flight == 0 => 0.0,
            None => UNKNOWN + calls,
        }
    }
}

impl Known {
    fn weight(&self, now: Instant, decay: Duration) -> f64 {
        let idle = now.saturating_duration_since(self.at).as_secs_f64();
        (-idle / decay.as_secs_f64()).exp()
    }
}

/// Two different indices below `len`, from one random number; the same one twice when there is only one. `None` for 0.
#[must_use]
pub fn two_of(len: usize, random: u64) -> Option<(usize, usize)> {
    match len {
        0 => None,
        1 => Some((0, 0)),
        _ => {
            let (high, low) = ((random >> 32) as usize, (random & 0xffff_ffff) as usize);
            let first = high % len;
            let second = (first + 1 + low % (len - 1)) % len;
            Some((first, second))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DECAY: Duration = Duration::from_secs(10);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_slow_call_counts_at_once_and_fast_ones_bit_by_bit() {
        let start = Instant::now();
        let mut latency = Latency::default();
        latency.observe(ms(1), start, DECAY);
        latency.observe(ms(51), start, DECAY);
        assert_eq!(latency.seconds(start, DECAY), Some(0.051));
        latency.observe(ms(1), start + ms(100), DECAY);
        assert!(latency.seconds(start + ms(100), DECAY).unwrap() > 0.050);
        let faded = latency.seconds(start + ms(40_000), DECAY).unwrap();
        assert!(faded < 0.001, "{faded}");
    }

    #[test]
    fn an_endpoint_nobody_knows_is_tried_by_one_call() {
        let now = Instant::now();
        let (unknown, mut known) = (Latency::default(), Latency::default());
        known.observe(ms(1), now, DECAY);
        assert!(unknown.cost(0, now, DECAY) < known.cost(0, now, DECAY));
        assert!(unknown.cost(1, now, DECAY) > known.cost(100, now, DECAY));
    }

    #[test]
    fn an_abandoned_call_can_only_make_it_worse() {
        let now = Instant::now();
        let mut latency = Latency::default();
        latency.observe(ms(20), now, DECAY);
        latency.observe_at_least(ms(3), now, DECAY);
        assert_eq!(latency.seconds(now, DECAY), Some(0.020));
        latency.observe_at_least(ms(300), now, DECAY);
        assert_eq!(latency.seconds(now, DECAY), Some(0.300));
    }

    proptest! {
        #[test]
        fn two_of_many_are_two_different_ones(len in 2_usize..50, random: u64) {
            let (first, second) = two_of(len, random).unwrap();
            prop_assert!(first < len && second < len && first != second);
        }
    }

    /// Endpoints in virtual time: each answers after its latency, calls come at a steady rate.
    struct Simulation {
        endpoints: Vec<(Latency, usize, Duration)>,
        /// When a call ends, where, and how long it took.
        ends: Vec<(Instant, usize, Duration)>,
        rng: fastrand::Rng,
        now: Instant,
    }

    impl Simulation {
        fn new(count: usize, latency: Duration, seed: u64) -> Self {
            Self {
                endpoints: vec![(Latency::default(), 0, latency); count],
                ends: Vec::new(),
                rng: fastrand::Rng::with_seed(seed),
                now: Instant::now(),
            }
        }

        /// Calls of one span of time by endpoint, one each `gap`.
        fn run(&mut self, span: Duration, gap: Duration) -> Vec<usize> {
            let mut calls = vec![0; self.endpoints.len()];
            let until = self.now + span;
            while self.now < until {
                self.now += gap;
                self.finish();
                let (a, b) = two_of(self.endpoints.len(), self.rng.u64(..)).unwrap();
                let cost = |n: usize| {
                    let (latency, in_flight, _) = &self.endpoints[n];
                    latency.cost(*in_flight, self.now, DECAY)
                };
                let chosen = if cost(a) <= cost(b) { a } else { b };
                calls[chosen] += 1;
                let took = self.endpoints[chosen].2;
                self.endpoints[chosen].1 += 1;
                self.ends.push((self.now + took, chosen, took));
            }
            calls
        }

        fn finish(&mut self) {
            let now = self.now;
            let endpoints = &mut self.endpoints;
            self.ends.retain(|(end, chosen, took)| {
                if *end <= now {
                    endpoints[*chosen].0.observe(*took, *end, DECAY);
                    endpoints[*chosen].1 -= 1;
                }
                *end > now
            });
        }
    }

    #[test]
    fn an_endpoint_slowed_by_50_ms_has_less_than_a_tenth_of_the_calls_within_10_s() {
        for (count, gap) in [(2, ms(1)), (3, ms(1)), (5, ms(2)), (10, ms(1)), (3, ms(20))] {
            for seed in 0..5 {
                let mut simulation = Simulation::new(count, ms(2), seed);
                let before = simulation.run(ms(10_000), gap);
                let fair = before.iter().sum::<usize>() / count;
                assert!(before[0] > fair / 3, "even before: {before:?}");
                simulation.endpoints[0].2 = ms(52);
                simulation.run(ms(10_000), gap);
                let after = simulation.run(ms(10_000), gap);
                let share = after[0] as f64 / after.iter().sum::<usize>() as f64;
                assert!(share < 0.1, "{count} endpoints: {share} {after:?}");
            }
        }
    }

    #[test]
    fn an_endpoint_that_recovers_gets_its_share_back() {
        let mut simulation = Simulation::new(3, ms(2), 7);
        simulation.endpoints[0].2 = ms(52);
        simulation.run(ms(20_000), ms(1));
        simulation.endpoints[0].2 = ms(2);
        simulation.run(ms(90_000), ms(1));
        let after = simulation.run(ms(10_000), ms(1));
        assert!(
            after[0] as f64 / after.iter().sum::<usize>() as f64 > 0.2,
            "{after:?}"
        );
    }
}
