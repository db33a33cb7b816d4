//! Whether the peer of a connection is alive.
//!
//! A connection on which nothing was read for an interval is asked by a PING; if then nothing at all is read within
//! the timeout, it is dead. Anything read counts as a sign of life: behind a big answer a PONG may be late.
//!
//! ```text
//! last read    +10 s PING    +13 s dead
//! ```
//!
//! A server may find pings a nuisance and says so (ENHANCE_YOUR_CALM): [`Pace`] is then slower for the connections
//! that come after, first without pings while no call is in flight, then with ever longer intervals.

use std::time::Duration;

use tokio::time::Instant;

/// Intervals are not doubled beyond this.
const INTERVAL_MAX: Duration = Duration::from_secs(300);

/// How often a peer is asked, and how patiently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Silence after which the peer is asked (10 s).
    pub interval: Duration,
    /// How long an answer may take (3 s).
    pub timeout: Duration,
    /// Whether it is asked while no call is in flight, too (true).
    pub idle: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(3),
            idle: true,
        }
    }
}

impl Pace {
    /// The peer wants fewer pings.
    #[must_use]
    pub fn calmer(self) -> Self {
        if self.idle {
            return Self { idle: false, ..self };
        }
        let interval = self
            .interval
            .saturating_mul(2)
            .min(INTERVAL_MAX.max(self.interval));
        Self { interval, ..self }
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing until then, whatever comes.
    Wait(Instant),
    /// Send a PING, then [`Keepalive::step`] again.
    Ping,
    /// Nobody is there.
    Dead,
}

/// One connection.
#[derive(Debug)]
pub struct Keepalive {
    pace: Pace,
    /// When the PING was sent that is not answered.
    asked: Option<Instant>,
}

impl Keepalive {
    /// A connection that has just been made.
    #[must_use]
    pub fn new(pace: Pace) -> Self {
        Self { pace, asked: None }
    }

    /// The PING was sent.
    pub fn sent(&mut self, now: Instant) {
        self.asked = Some(now);
    }

    /// The PING was answered.
    pub fn answered(&mut self) {
        self.asked = None;
    }

    /// What is to be done, by when something was last read and whether calls are in flight.
    pub fn step(&mut self, last_read: Instant, busy: bool, now: Instant) -> Step {
        if let Some(asked) = self.asked {
            let until = asked.max(last_read) + self.pace.timeout;
            // A peer that sends and never answers is alive, and cannot be asked again.
            return if now < until {
                Step::Wait(until)
            } else {
                Step::Dead
            };
        }
        let due = last_read + self.pace.interval;
        if now < due {
            Step::Wait(due)
        } else if busy || self.pace.idle {
            Step::Ping
        } else {
            // Looked at again later: a call that begins meanwhile is not asked about before it had its interval.
            Step::Wait(now + self.pace.interval.min(Duration::from_secs(1)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_silent_peer_is_dead_13_s_after_the_last_byte() {
        let start = Instant::now();
        let mut keepalive = Keepalive::new(Pace::default());
        assert_eq!(keepalive.step(start, false, start), Step::Wait(start + s(10)));
        assert_eq!(keepalive.step(start, false, start + s(10)), Step::Ping);
        keepalive.sent(start + s(10));
        assert_eq!(
            keepalive.step(start, false, start + s(10)),
            Step::Wait(start + s(13))
        );
        assert_eq!(keepalive.step(start, false, start + s(13)), Step::Dead);
    }

    #[test]
    fn whatever_is_read_is_a_sign_of_life() {
        let start = Instant::now();
        let mut keepalive = Keepalive::new(Pace::default());
        assert_eq!(keepalive.step(start, true, start + s(10)), Step::Ping);
        keepalive.sent(start + s(10));
        let read = start + s(12);
        assert_eq!(
            keepalive.step(read, true, start + s(13)),
            Step::Wait(start + s(15))
        );
        keepalive.answered();
        assert_eq!(
            keepalive.step(read, true, start + s(13)),
            Step::Wait(start + s(22))
        );
    }

    #[test]
    fn an_idle_connection_is_not_asked_when_that_is_not_welcome() {
        let start = Instant::now();
        let calm = Pace::default().calmer();
        let mut keepalive = Keepalive::new(calm);
        assert!(matches!(
            keepalive.step(start, false, start + s(60)),
            Step::Wait(_)
        ));
        assert_eq!(keepalive.step(start, true, start + s(60)), Step::Ping);
        assert_eq!(calm.calmer().interval, s(20));
        let slowest = (0..20).fold(calm, |pace, _| pace.calmer());
        assert_eq!(slowest.interval, s(300));
    }
}
