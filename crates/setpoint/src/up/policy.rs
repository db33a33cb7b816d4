//! When a program that ended is started again. No I/O: the supervisor asks.

use std::time::Duration;

use serde::Deserialize;
use setpoint_base::{Backoff, BackoffPolicy};

/// Which ends of a program lead to a new start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Restart {
    /// After an exit code other than 0 or a signal.
    #[default]
    OnFailure,
    /// After every end.
    Always,
    /// After none.
    Never,
}

impl Restart {
    /// As it is written in a project.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::OnFailure => "on-failure",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

/// What to do after an end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Next {
    StartAfter(Duration),
    Leave,
}

/// A program that ran this long was well: the waits start over.
const WELL: Duration = Duration::from_secs(10);

const WAITS: BackoffPolicy = BackoffPolicy {
    base: Duration::from_millis(250),
    max: Duration::from_secs(10),
    factor: 2.0,
    jitter: 0.1,
};

/// The history of one program.
#[derive(Debug)]
pub(crate) struct Policy {
    restart: Restart,
    backoff: Backoff,
}

impl Policy {
    pub(crate) fn new(restart: Restart, seed: u64) -> Self {
        Self {
            restart,
            backoff: Backoff::new(WAITS, seed),
        }
    }

    /// The program ended after `ran`.
    pub(crate) fn ended(&mut self, success: bool, ran: Duration) -> Next {
        let again = match self.restart {
            Restart::OnFailure => !success,
            Restart::Always => true,
            Restart::Never => false,
        };
        if !again {
            return Next::Leave;
        }
        if ran >= WELL {
            self.backoff.reset();
        }
        Next::StartAfter(self.backoff.next_wait())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_says_which_ends_lead_to_a_new_start() {
        for (restart, success, again) in [
            (Restart::OnFailure, true, false),
            (Restart::OnFailure, false, true),
            (Restart::Always, true, true),
            (Restart::Always, false, true),
            (Restart::Never, false, false),
        ] {
            let next = Policy::new(restart, 1).ended(success, Duration::ZERO);
            assert_eq!(next != Next::Leave, again, "{restart:?} {success}");
        }
    }

    #[test]
    fn a_program_that_keeps_failing_waits_longer_until_it_ran_well() {
        let mut policy = Policy::new(Restart::OnFailure, 1);
        let mut wait = |ran| match policy.ended(false, ran) {
            Next::StartAfter(wait) => wait,
            Next::Leave => panic!("left alone"),
        };
        let first = wait(Duration::ZERO);
        for _ in 0..10 {
            wait(Duration::ZERO);
        }
        assert!(first < Duration::from_millis(300));
        assert!(wait(Duration::from_secs(1)) >= Duration::from_secs(10));
        assert!(wait(WELL) < Duration::from_millis(300));
    }
}
