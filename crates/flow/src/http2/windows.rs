//! The receive windows of one connection: measures, asks the budget, announces.
//!
//! `h2` gives a stream's credit back together with the connection's, when the stream is read. So what streams leave
//! unread is missing from the connection's window, and enough of them stop all others. Hence
//!
//! ```text
//! connection window = what is unread + (streams that receive, at most 16, + 1) × stream window, within the budget's grant
//! stream window     = the estimate; while half of the connection's window is unread: half of the most the budget would
//!                     grant, divided by the streams that receive; while three quarters of the whole budget are unread:
//!                     a thirty-second of what is left, 16 KiB at least
//! ```
//!
//! There is one initial window for all streams of a connection: one that is read has the same as a thousand that are not.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::time::Duration;

use tokio::time::Instant;

use super::ping::{Pinger, Reason};
use crate::core::window::Estimator;
use crate::flow::{Flow, Lease, Live};
use crate::gauges::Gauges;
use crate::options::Windows;

/// A connection's window at first, in stream windows; more than that is asked of the budget.
const FIRST_STREAMS: u64 = 4;
/// Streams that each get a whole window of credit.
const STREAMS_MAX: u64 = 16;
/// The part of the budget's rest that a stream gets when little is left: one of so many.
const PRESSED_STREAMS: u64 = 32;
/// The smallest stream window that is announced, in bytes: a frame.
pub(super) const STREAM_MIN: u64 = 16 << 10;
/// The smallest connection window beyond what is unread, in bytes: what HTTP/2 begins with.
const CONNECTION_MIN: u64 = 64 << 10;
/// The largest window that HTTP/2 knows (RFC 9113 §6.9.1), in bytes.
const WINDOW_MAX: u64 = (1 << 31) - 1;
/// DATA is reported to the estimator in pieces of so many bytes at least, unless a PING is on its way.
const REPORT_BYTES: u64 = 16 << 10;

/// A connection whose windows can be set.
pub trait SetWindows {
    /// The connection's window, what is unread included.
    fn connection(&mut self, bytes: u32);
    /// Every stream's; `false` while the last change is not acknowledged.
    fn streams(&mut self, bytes: u32) -> bool;
}

impl<T, B> SetWindows for h2::server::Connection<T, B>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    B: bytes::Buf,
{
    fn connection(&mut self, bytes: u32) {
        self.set_target_window_size(bytes);
    }

    fn streams(&mut self, bytes: u32) -> bool {
        self.set_initial_window_size(bytes).is_ok()
    }
}

/// What has come on a connection so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    /// Bytes of DATA, padding included.
    pub data_bytes: u64,
    /// SETTINGS that acknowledge ours.
    pub settings_acks: u64,
}

/// The window controller of one connection.
#[derive(Debug)]
pub struct Controller {
    flow: Flow,
    gauges: Arc<Gauges>,
    lease: Lease,
    epoch: Instant,
    /// `None`: static windows.
    estimator: Option<Box<Estimator>>,
    /// What every connection has without asking, in bytes.
    base: u64,
    stream: u64,
    connection: u64,
    /// The estimator's window when windows were last set.
    estimated: u32,
    /// DATA so far, told to the estimator, and when windows were last looked at; in bytes.
    arrived: u64,
    reported: u64,
    looked_at: u64,
    /// SETTINGS sent and acknowledged; until they are, streams have the windows of before.
    announced: u64,
    acknowledged: u64,
    /// One of those that are not acknowledged made streams' windows smaller.
    shrinking: bool,
}

impl Controller {
    /// For a connection that has announced [`Controller::stream_window`] and [`Controller::connection_window`].
    #[must_use]
    pub fn new(live: &Live) -> Self {
        let flow = live.flow().clone();
        let (stream, estimator) = match flow.options().windows {
            Windows::Static(bytes) => (bytes, None),
            Windows::Adaptive(bounds) => {
                let estimator = Estimator::new(bounds, Duration::ZERO);
                (estimator.window(), Some(Box::new(estimator)))
            }
        };
        let base = (u64::from(stream) * FIRST_STREAMS).min(WINDOW_MAX);
        let gauges = live.gauges().clone();
        gauges.stream_window.store(stream.into(), Ordering::Relaxed);
        gauges.connection_window.store(base, Ordering::Relaxed);
        flow.metrics().window(gauges.front, 0, base);
        Self {
            lease: flow.lease(),
            flow,
            gauges,
            epoch: Instant::now(),
            estimator,
            base,
            stream: stream.into(),
            connection: base,
            estimated: stream,
            arrived: 0,
            reported: 0,
            looked_at: 0,
            announced: 1,
            acknowledged: 0,
            shrinking: false,
        }
    }

    /// The window that streams have, in bytes.
    #[must_use]
    pub fn stream_window(&self) -> u32 {
        narrow(self.stream)
    }

    /// The window that the connection has, in bytes.
    #[must_use]
    pub fn connection_window(&self) -> u32 {
        narrow(self.connection)
    }

    /// When to call [`Controller::rest`], if at all.
    #[must_use]
    pub fn rest_at(&self) -> Option<Instant> {
        let estimator = self.estimator.as_deref().filter(|estimator| estimator.knows())?;
        Some(self.epoch + estimator.rest_at())
    }

    /// Forgets what is old. Whether the connection has to be polled to say so.
    pub fn rest(&mut self, link: &mut impl SetWindows, now: Instant) -> bool {
        let Some(estimator) = &mut self.estimator else {
            return false;
        };
        estimator.rest(now.saturating_duration_since(self.epoch)) && self.look(link)
    }

    /// To be called after bytes were read and streams were served. Whether the connection has to be polled to say what has
    /// changed.
    pub fn turn(
        &mut self,
        arrived: Arrived,
        link: &mut impl SetWindows,
        pinger: &mut Pinger,
        cx: &mut Context<'_>,
    ) -> bool {
        self.acknowledged = arrived.settings_acks;
        let shrunk = self.shrinking && self.is_settled();
        if shrunk {
            self.shrinking = false;
            self.gauges.announce_credit();
        }
        if arrived.data_bytes != self.arrived {
            self.arrived = arrived.data_bytes;
            self.gauges.arrived.store(self.arrived, Ordering::Relaxed);
        }
        let pinged = self.estimate(pinger, cx);
        let grown = self
            .estimator
            .as_deref()
            .is_some_and(|estimator| estimator.window() != self.estimated);
        let hoarding = self.gauges.hoarding.load(Ordering::Relaxed);
        let moved = self.arrived - self.looked_at >= (self.connection / 8).max(1);
        (grown || hoarding || moved) && self.look(link) || pinged || shrunk
    }

    /// Feeds the estimator. Whether a PING was sent.
    fn estimate(&mut self, pinger: &mut Pinger, cx: &mut Context<'_>) -> bool {
        let flying = pinger.flying_since().is_some();
        let fresh = self.arrived - self.reported;
        if !flying && fresh < REPORT_BYTES {
            return false;
        }
        let now = Instant::now();
        if fresh > 0 {
            self.reported = self.arrived;
            if let Some(estimator) = &mut self.estimator {
                estimator.received(fresh, now.saturating_duration_since(self.epoch));
            }
        }
        if let Some((reason, took)) = pinger.poll(|| now, cx) {
            self.flow.metrics().round_trip(self.gauges.front, took);
            self.round_trip(reason, took, now);
        }
        let since = now.saturating_duration_since(self.epoch);
        let Some(estimator) = &mut self.estimator else {
            return false;
        };
        if !estimator.wants_ping(since) || !pinger.send(Reason::Probe, now) {
            return false;
        }
        estimator.ping_sent(since);
        self.flow
            .metrics()
            .pinged(self.gauges.front, Reason::Probe.name());
        // Registers for the answer.
        pinger.poll(|| now, cx);
        true
    }

    fn round_trip(&mut self, reason: Reason, took: Duration, now: Instant) {
        let since = now.saturating_duration_since(self.epoch);
        let Some(estimator) = &mut self.estimator else {
            return;
        };
        match reason {
            Reason::Probe => estimator.ping_acked(since),
            Reason::KeepAlive => estimator.also_took(took),
        }
        self.gauges.estimated(estimator.estimate(), estimator.window());
    }

    /// Sets the windows anew. Whether the connection has to be polled.
    fn look(&mut self, link: &mut impl SetWindows) -> bool {
        self.looked_at = self.arrived;
        let receiving = self.gauges.receiving.load(Ordering::Relaxed);
        if receiving == 0 {
            // Nobody is left to read anything: what was counted beyond that came for streams that were reset.
            self.gauges.released.store(self.arrived, Ordering::Relaxed);
        }
        let unread = self.gauges.unread();
        self.lease.unread(unread);
        let Some(estimator) = &self.estimator else {
            return false;
        };
        self.estimated = estimator.window();
        let window = u64::from(self.estimated);
        let pressed = self.flow.is_pressed();
        let hoarding = self.is_hoarding(unread, pressed);
        let stream = if hoarding {
            let share = if pressed {
                // Each stream that comes takes a part of what is left, so they never take all of it.
                self.flow.room() / PRESSED_STREAMS
            } else {
                self.lease.most() / 2 / (receiving + 1)
            };
            share.clamp(STREAM_MIN.min(window), window)
        } else {
            window
        };
        let wanted = unread + stream * (receiving.min(STREAMS_MAX) + 1);
        let granted = if pressed {
            unread + CONNECTION_MIN
        } else if wanted <= self.base {
            self.lease.rest();
            wanted.max(self.base)
        } else {
            self.lease.want(wanted).max(self.base)
        };
        self.announce(stream, granted.min(WINDOW_MAX), unread, link)
    }

    /// Whether streams have the windows that were announced.
    fn is_settled(&self) -> bool {
        self.announced <= self.acknowledged
    }

    /// Whether too much of the connection's window is unread for all streams to have a large one.
    fn is_hoarding(&self, unread: u64, pressed: bool) -> bool {
        let before = self.gauges.hoarding.load(Ordering::Relaxed);
        let limit = if before {
            self.connection / 8
        } else {
            self.connection / 2
        };
        let hoarding = pressed || unread > limit;
        if hoarding != before {
            self.gauges.hoarding.store(hoarding, Ordering::Relaxed);
            if hoarding {
                self.flow.metrics().hoarding(self.gauges.front);
            }
        }
        hoarding
    }

    fn announce(&mut self, stream: u64, connection: u64, unread: u64, link: &mut impl SetWindows) -> bool {
        let mut changed = false;
        if differs(self.stream, stream) && link.streams(narrow(stream)) {
            self.announced += 1;
            self.shrinking |= stream < self.stream;
            self.stream = stream;
            self.gauges.stream_window.store(stream, Ordering::Relaxed);
            changed = true;
        }
        // Streams that still have large windows would fill a larger connection at once.
        if !self.is_settled() && self.gauges.hoarding.load(Ordering::Relaxed) {
            return changed;
        }
        let credit = |window: u64| window.saturating_sub(unread);
        let scarce = credit(self.connection) < credit(connection) / 2;
        if scarce || differs(self.connection, connection) {
            link.connection(narrow(connection));
            let metrics = self.flow.metrics();
            metrics.window(self.gauges.front, self.connection, connection);
            self.connection = connection;
            self.gauges.connection_window.store(connection, Ordering::Relaxed);
            changed = true;
        }
        changed
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.flow.metrics().window(self.gauges.front, self.connection, 0);
    }
}

/// By an eighth or more: less is not worth a frame.
fn differs(before: u64, after: u64) -> bool {
    before.abs_diff(after) > before / 8
}

fn narrow(bytes: u64) -> u32 {
    // What is announced is below the protocol's maximum.
    bytes.min(WINDOW_MAX) as u32
}
