//! Whether anybody answers: when that ceases, and when it is over.
//!
//! One endpoint that fails while others answer is no outage, nor is a moment without a leader. An outage begins when no
//! call was answered for a while although some were tried, and ends with the next answer.
//!
//! ```text
//! well --missed--> failing --missed, PATIENCE later--> away   (Lost)
//!   ^---heard---------'                                  |
//!   '---------------------heard--------------------------'    (Back)
//! ```

use std::time::Duration;

use tokio::time::Instant;

/// How long nobody may answer before it counts: an election takes 1 to 2 s.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Contact {
    /// The last call was answered, or none was made.
    #[default]
    Well,
    /// Calls have failed since then.
    Failing(Instant),
    /// It has been said that nobody answers.
    Away(Instant),
}

/// What has become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// An outage has begun.
    Lost,
    /// It is over; it lasted so long, from the first call that failed.
    Back(Duration),
}

impl Contact {
    /// A call was answered, be it with a refusal.
    pub(crate) fn heard(&mut self, now: Instant) -> Option<Turn> {
        match std::mem::take(self) {
            Self::Away(since) => Some(Turn::Back(now.saturating_duration_since(since))),
            Self::Well | Self::Failing(_) => None,
        }
    }

    /// A call was not answered.
    pub(crate) fn missed(&mut self, now: Instant) -> Option<Turn> {
        match *self {
            Self::Well => {
                *self = Self::Failing(now);
                None
            }
            Self::Failing(since) if now.saturating_duration_since(since) >= PATIENCE => {
                *self = Self::Away(since);
                Some(Turn::Lost)
            }
            Self::Failing(_) | Self::Away(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each line is (milliseconds, whether it was answered, what is told).
    #[track_caller]
    fn check(calls: &[(u64, bool, Option<Turn>)]) {
        let (start, mut contact) = (Instant::now(), Contact::default());
        for &(at, answered, expected) in calls {
            let now = start + Duration::from_millis(at);
            let turn = if answered {
                contact.heard(now)
            } else {
                contact.missed(now)
            };
            assert_eq!(turn, expected, "at {at} ms");
        }
    }

    #[test]
    fn an_outage_is_told_once_when_it_begins_and_once_when_it_ends() {
        check(&[
            (0, true, None),
            (1_000, false, None),
            (3_999, false, None),
            (4_000, false, Some(Turn::Lost)),
            (4_001, false, None),
            (60_000, false, None),
            (61_000, true, Some(Turn::Back(Duration::from_secs(60)))),
            (61_001, true, None),
        ]);
    }

    #[test]
    fn calls_that_fail_between_others_that_are_answered_are_no_outage() {
        check(&[
            (0, false, None),
            (2_000, true, None),
            (2_001, false, None),
            (5_000, false, None),
            (5_000, true, None),
            (9_000, false, None),
        ]);
    }
}
