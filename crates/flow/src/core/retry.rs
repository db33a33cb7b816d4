//! Whether a failed call is made again, and when.
//!
//! | what became of it | made again |
//! |---|---|
//! | it never left, or the peer says that it did nothing | at once, whatever the policy: nobody has seen it |
//! | the peer answered with a code of the policy | after a wait, if the budget allows |
//! | nobody knows | as above, if the method is idempotent |
//!
//! A peer's pushback goes before the policy's wait, and a negative one ends it. The [`Budget`] is gRPC's throttling:
//! a failure takes a token, a success gives a fraction back, and with half of the tokens gone nothing is made again:
//! however many calls fail, few are added to them.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tonic::Code;

/// Transparent attempts of one call at most.
pub const TRANSPARENT_MAX: u32 = 8;

/// Tokens are counted in thousandths.
const TOKEN: u32 = 1_000;

/// What is done when a call of a method fails.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Attempts {
    /// Nothing: the caller hears of it.
    #[default]
    Once,
    /// It is made again.
    Retry(Retry),
    /// It is made several times at once, and the first answer counts.
    Hedge(Hedge),
}

/// One after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// Attempts in all, 2 to 5 (3).
    pub attempts_max: u32,
    /// The first wait is up to so long (100 ms).
    pub wait_first: Duration,
    /// No wait is longer (2 s).
    pub wait_max: Duration,
    /// Waits grow by this factor (2).
    pub factor: f64,
    /// Answers that are worth another attempt (`UNAVAILABLE`).
    pub codes: Vec<Code>,
    /// Whether doing it twice is as good as once (no): then a call is also made again when nobody knows what became
    /// of it.
    pub idempotent: bool,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts_max: 3,
            wait_first: Duration::from_millis(100),
            wait_max: Duration::from_secs(2),
            factor: 2.0,
            codes: vec![Code::Unavailable],
            idempotent: false,
        }
    }
}

/// Several at once: only for methods that may be done more than once.
#[derive(Clone, Debug, PartialEq)]
pub struct Hedge {
    /// Attempts in all, 2 to 5 (2).
    pub attempts_max: u32,
    /// After so long without an answer the next one is made (100 ms).
    pub delay: Duration,
    /// Answers after which the others go on and the next one is made at once (`UNAVAILABLE`).
    pub codes: Vec<Code>,
}

impl Default for Hedge {
    fn default() -> Self {
        Self {
            attempts_max: 2,
            delay: Duration::from_millis(100),
            codes: vec![Code::Unavailable],
        }
    }
}

/// What a peer says of when to come again (`grpc-retry-pushback-ms`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushback {
    /// After so long.
    After(Duration),
    /// Never.
    Never,
}

impl Pushback {
    /// Reads the header's value: what is no number from 0 on is a no.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        let millis = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
        millis.map_or(Self::Never, |millis: u32| {
            Self::After(Duration::from_millis(u64::from(millis)))
        })
    }
}

/// How an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody has acted on it.
    NotProcessed,
    /// The peer's answer.
    Answered(Code, Option<Pushback>),
    /// It may have been acted on; the code is ours.
    Unknown(Code),
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Make it again at once; it does not count as an attempt.
    Transparent,
    /// Make it again after the wait.
    Again(Duration),
    /// Tell the caller.
    Final,
}

impl Retry {
    /// Judges the failure of the `attempt`-th attempt (from 1). `random` is in `[0, 1)`.
    #[must_use]
    pub fn judge(&self, failure: Failure, attempt: u32, budget: &Budget, random: f64) -> Verdict {
        let (code, pushback) = match failure {
            Failure::NotProcessed => return Verdict::Transparent,
            Failure::Answered(code, pushback) => (code, pushback),
            Failure::Unknown(code) if self.idempotent => (code, None),
            Failure::Unknown(_) => return Verdict::Final,
        };
        let worth_it = self.codes.contains(&code);
        if worth_it || pushback == Some(Pushback::Never) {
            budget.failed();
        }
        if !worth_it || attempt >= self.attempts_max || !budget.allows() {
            return Verdict::Final;
        }
        match pushback {
            Some(Pushback::Never) => Verdict::Final,
            Some(Pushback::After(wait)) => Verdict::Again(wait),
            None => Verdict::Again(self.wait(attempt, random)),
        }
    }

    /// A random part of a wait that grows.
    fn wait(&self, attempt: u32, random: f64) -> Duration {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let grown = self.wait_first.as_secs_f64() * self.factor.powi(exponent);
        Duration::from_secs_f64(grown.min(self.wait_max.as_secs_f64()) * random)
    }
}

/// The budget of a channel.
#[derive(Debug)]
pub struct Budget {
    max: u32,
    ratio: u32,
    tokens: AtomicU32,
}

impl Budget {
    /// `tokens_max` tokens at first; a success gives `ratio` of one back.
    #[must_use]
    pub fn new(tokens_max: u32, ratio: f64) -> Self {
        let max = tokens_max.saturating_mul(TOKEN);
        Self {
            max,
            ratio: (ratio.clamp(0.0, 1.0) * f64::from(TOKEN)) as u32,
            tokens: AtomicU32::new(max),
        }
    }

    /// A call failed in a way that is worth another attempt.
    pub fn failed(&self) {
        self.change(|tokens| tokens.saturating_sub(TOKEN));
    }

    /// A call succeeded.
    pub fn succeeded(&self) {
        if self.tokens.load(Ordering::Relaxed) < self.max {
            self.change(|tokens| tokens.saturating_add(self.ratio).min(self.max));
        }
    }

    /// Whether more than half of the tokens are there.
    #[must_use]
    pub fn allows(&self) -> bool {
        self.tokens.load(Ordering::Relaxed) > self.max / 2
    }

    /// Tokens left.
    #[must_use]
    pub fn tokens(&self) -> f64 {
        f64::from(self.tokens.load(Ordering::Relaxed)) / f64::from(TOKEN)
    }

    fn change(&self, change: impl Fn(u32) -> u32) {
        // The closure never refuses; nothing else is published with the number.
        let _ = self
            .tokens
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tokens| {
                Some(change(tokens))
            });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(code: Code) -> Failure {
        Failure::Answered(code, None)
    }

    fn judge(retry: &Retry, failure: Failure, attempt: u32) -> Verdict {
        retry.judge(failure, attempt, &Budget::new(10, 0.1), 0.5)
    }

    #[test]
    fn only_what_is_safe_is_made_again() {
        let (write, read) = (
            Retry::default(),
            Retry {
                idempotent: true,
                ..Retry::default()
            },
        );
        let lost = Failure::Unknown(Code::Unavailable);
        assert_eq!(judge(&write, Failure::NotProcessed, 9), Verdict::Transparent);
        assert_eq!(judge(&write, lost, 1), Verdict::Final);
        assert_eq!(judge(&read, lost, 1), Verdict::Again(Duration::from_millis(50)));
        assert_eq!(
            judge(&write, answered(Code::Unavailable), 2),
            Verdict::Again(Duration::from_millis(100))
        );
        assert_eq!(judge(&write, answered(Code::Unavailable), 3), Verdict::Final);
        assert_eq!(judge(&read, answered(Code::NotFound), 1), Verdict::Final);
    }

    #[test]
    fn pushback_goes_before_the_policy() {
        let push = |pushback| Failure::Answered(Code::Unavailable, Some(pushback));
        let after = Pushback::parse(b"1500");
        assert_eq!(
            judge(&Retry::default(), push(after), 1),
            Verdict::Again(Duration::from_millis(1_500))
        );
        for never in ["-1", "soon", ""] {
            let never = Pushback::parse(never.as_bytes());
            assert_eq!(judge(&Retry::default(), push(never), 1), Verdict::Final);
        }
    }

    #[test]
    fn waits_grow_up_to_their_bound() {
        let retry = Retry {
            attempts_max: 5,
            ..Retry::default()
        };
        let waits: Vec<_> = (1..8)
            .map(|attempt| retry.wait(attempt, 1.0).as_millis())
            .collect();
        assert_eq!(waits, [100, 200, 400, 800, 1_600, 2_000, 2_000]);
    }

    #[test]
    fn with_half_of_the_tokens_gone_nothing_is_made_again() {
        let budget = Budget::new(10, 0.1);
        let retry = Retry::default();
        let again = (0..1_000)
            .filter(|_| retry.judge(answered(Code::Unavailable), 1, &budget, 0.5) != Verdict::Final)
            .count();
        assert_eq!(again, 4);
        for _ in 0..52 {
            budget.succeeded();
        }
        assert!(budget.allows(), "{}", budget.tokens());
        for _ in 0..1_000 {
            budget.succeeded();
        }
        assert_eq!(budget.tokens(), 10.0);
    }
}
