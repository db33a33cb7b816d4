//! The one PING that `h2` lets a connection have on its way: to measure, and to find out whether anybody is there.

use std::task::{Context, Poll};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::Instant;

/// Why a PING was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The estimator asked for it.
    Probe,
    /// Nothing had been heard for long.
    KeepAlive,
}

impl Reason {
    /// In one word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::KeepAlive => "keepalive",
        }
    }
}

/// Sends PINGs and waits for their answers, one at a time.
#[derive(Debug)]
pub struct Pinger {
    ping_pong: Option<PingPong>,
    flying: Option<(Reason, Instant)>,
    answers: u64,
    took: Duration,
}

impl Pinger {
    /// `ping_pong` is what the connection gave out; without it nothing is ever sent.
    #[must_use]
    pub fn new(ping_pong: Option<PingPong>) -> Self {
        Self {
            ping_pong,
            flying: None,
            answers: 0,
            took: Duration::ZERO,
        }
    }

    /// When the PING on its way was sent.
    #[must_use]
    pub fn flying_since(&self) -> Option<Instant> {
        self.flying.map(|(_, since)| since)
    }

    /// How many PINGs have come back. Moments do not tell them apart: one may be sent in that in which another came back.
    #[must_use]
    pub fn answers(&self) -> u64 {
        self.answers
    }

    /// How long the last one that came back took.
    #[must_use]
    pub fn took(&self) -> Duration {
        self.took
    }

    /// Sends a PING unless there is one on its way; whether it did. The connection has to be polled to write it.
    pub fn send(&mut self, reason: Reason, now: Instant) -> bool {
        if self.flying.is_some() {
            return false;
        }
        let sent = self
            .ping_pong
            .as_mut()
            .is_some_and(|ping_pong| ping_pong.send_ping(Ping::opaque()).is_ok());
        if sent {
            self.flying = Some((reason, now));
        }
        sent
    }

    /// The PING that has come back: why it was sent, and how long it took.
    pub fn poll(
        &mut self,
        now: impl FnOnce() -> Instant,
        cx: &mut Context<'_>,
    ) -> Option<(Reason, Duration)> {
        let (reason, since) = self.flying?;
        match self.ping_pong.as_mut()?.poll_pong(cx) {
            Poll::Ready(Ok(_)) => {
                self.flying = None;
                self.answers += 1;
                self.took = now().saturating_duration_since(since);
                Some((reason, self.took))
            }
            // A broken connection is its driver's business.
            Poll::Ready(Err(_)) | Poll::Pending => None,
        }
    }
}
