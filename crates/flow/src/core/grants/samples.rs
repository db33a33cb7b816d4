//! How soon credit is used: from when it is given until the first byte comes that needed it.
//!
//! Several are timed at once, spread over a round trip, so that a way that becomes shorter is seen by the first that take it.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// How many are timed at once; the oldest makes room.
const SAMPLES: usize = 32;
/// From one to the next, as a part of a round trip: what is given in the last two round trips is timed.
const SPREAD: u32 = SAMPLES as u32 / 2;

/// Credit that was given to a stream.
#[derive(Clone, Copy, Debug)]
struct Sample {
    stream: u32,
    /// All that the stream could send before.
    before: u64,
    given: Instant,
}

/// Credit on its way.
#[derive(Debug, Default)]
pub(super) struct Samples {
    on_the_way: VecDeque<Sample>,
    every: Duration,
    /// When the latest was given of what has been used.
    used: Option<Instant>,
}

impl Samples {
    /// What a round trip takes, about.
    pub(super) fn round_is(&mut self, round: Duration) {
        self.every = round / SPREAD;
    }

    /// A stream that could send `before` bytes in all may send more.
    pub(super) fn given(&mut self, stream: u32, before: u64, now: Instant) {
        let last = self.on_the_way.back();
        if last.is_some_and(|last| now.saturating_duration_since(last.given) < self.every) {
            return;
        }
        if self.on_the_way.len() >= SAMPLES {
            self.on_the_way.pop_front();
        }
        let given = now;
        self.on_the_way.push_back(Sample {
            stream,
            before,
            given,
        });
    }

    /// A stream has sent `received` bytes in all.
    pub(super) fn received(&mut self, stream: u32, received: u64) {
        let used = &mut self.used;
        self.on_the_way.retain(|sample| {
            let is_used = sample.stream == stream && received > sample.before;
            if is_used {
                *used = (*used).max(Some(sample.given));
            }
            !is_used
        });
    }

    /// When the latest was given of what has been used since the last call.
    pub(super) fn used(&mut self) -> Option<Instant> {
        self.used.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_latest_that_was_used_counts() {
        let (mut samples, now) = (Samples::default(), Instant::now());
        samples.round_is(ms(160));
        for n in 0..10 {
            samples.given(1, n * 1_000, now + ms(n * 10));
        }
        samples.received(3, 1_000_000);
        samples.received(1, 0);
        assert_eq!(samples.used(), None);
        samples.received(1, 4_001);
        assert_eq!(samples.used(), Some(now + ms(40)));
        assert_eq!(samples.used(), None, "once");
        samples.received(1, 4_500);
        assert_eq!(samples.used(), None);
        samples.received(1, 100_000);
        assert_eq!(samples.used(), Some(now + ms(90)));
    }

    #[test]
    fn two_round_trips_of_them_are_kept_and_no_more() {
        let (mut samples, now) = (Samples::default(), Instant::now());
        samples.round_is(ms(160));
        for n in 0..400 {
            samples.given(1, n, now + ms(n));
        }
        assert_eq!(samples.on_the_way.len(), SAMPLES);
        let oldest = samples.on_the_way.front().map(|sample| sample.given);
        assert!(oldest.is_some_and(|given| given >= now + ms(400 - 330) && given <= now + ms(400 - 300)));
    }
}
