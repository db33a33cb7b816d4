//! The receive windows of one connection: measures, asks the budget, grants.
//!
//! ```text
//! stream that is read  an equal share of the estimate, which is at most half of what the budget has left for this
//!                      connection; shared by those that sent much in the last round trip
//! initial window       where windows start (1 MiB); with more streams than fit, or while much is unread: a quarter of
//!                      the most the budget would grant (unread bytes cost up to twice as much in memory), divided by
//!                      the streams that receive; while three quarters of the whole budget are unread: a
//!                      thirty-second of what is left, 16 KiB at least
//! connection           what is unread + what the link holds and half as much again + 4 MiB, within the budget's grant
//!                      and never more under way than the estimate and an eighth: streams that begin may each send an
//!                      initial window at once, and altogether far more than the link holds
//! ```
//!
//! `h2` believes that every window is as large as can be ([`ANNOUNCED`]). What the peer is told instead is the business of
//! [`Grants`](crate::core::grants::Grants), through which all bytes of the connection pass.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::time::Duration;

use tokio::time::Instant;

use super::ping::{Pinger, Reason};
use crate::core::grants::WINDOW_MAX;
use crate::core::window::Estimator;
use crate::flow::{Flow, Lease, Live};
use crate::gauges::Gauges;
use crate::options::Windows;

/// What `h2` is told to announce for streams and for the connection, in bytes: its own accounts are never short, and the
/// peer never sees it.
pub const ANNOUNCED: u32 = WINDOW_MAX as u32;
/// A connection's window at first, in stream windows; more than that is asked of the budget.
const FIRST_STREAMS: u64 = 4;
/// What may be under way, as a part of the estimate: (9, 8) is an eighth more. A PING that is late by that, and by a frame or
/// two, is no sign of a longer path yet; with a quarter it was.
const UNDER_WAY: (u64, u64) = (9, 8);
/// The part of the budget's rest that a stream gets when little is left: one of so many.
const PRESSED_STREAMS: u64 = 32;
/// The smallest stream window that is announced, in bytes: a frame.
const STREAM_MIN: u64 = 16 << 10;
/// The smallest connection window beyond what is unread, in bytes: what HTTP/2 begins with.
const CONNECTION_MIN: u64 = 64 << 10;
/// All of what is shared.
const WHOLE: u64 = 1 << 16;
/// A round, after which it is seen who sends how much, is a round trip, or this long as long as that is not known, and this at least.
const FIRST_ROUND: Duration = Duration::from_millis(50);
const ROUND_MIN: Duration = Duration::from_millis(5);
/// DATA is reported to the estimator in pieces of so many bytes at least, unless a PING is on its way.
const REPORT_BYTES: u64 = 16 << 10;

/// A connection that can send SETTINGS.
pub trait Announce {
    /// Sends them, with [`ANNOUNCED`] as the initial window; `false` while the last are not acknowledged.
    fn announce(&mut self) -> bool;
}

impl<T, B> Announce for h2::server::Connection<T, B>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    B: bytes::Buf,
{
    fn announce(&mut self) -> bool {
        self.set_initial_window_size(ANNOUNCED).is_ok()
    }
}

impl<T, B> Announce for h2::client::Connection<T, B>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    B: bytes::Buf,
{
    fn announce(&mut self) -> bool {
        self.set_initial_window_size(ANNOUNCED).is_ok()
    }
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
    /// The initial window of streams, where nothing is wrong.
    start: u64,
    /// What every connection has without asking, in bytes.
    base: u64,
    connection: u64,
    /// The estimator's window when windows were last set.
    estimated: u32,
    /// DATA so far, told to the estimator, and when windows were last looked at; in bytes.
    arrived: u64,
    reported: u64,
    looked_at: u64,
    /// What streams have together; in bytes. And of that, what each may have: so many of 2^16 parts.
    shared: u64,
    part: u64,
    round_ends: Instant,
}

/// What was counted when windows were last looked at.
struct Counted {
    unread: u64,
    receiving: u64,
    announced: u64,
    settled: bool,
}

impl Controller {
    /// Grants the windows that a connection begins with.
    #[must_use]
    pub fn new(live: &Live) -> Self {
        let flow = live.flow().clone();
        let (start, estimator) = match flow.options().windows {
            Windows::Static(bytes) => (bytes, None),
            Windows::Adaptive(bounds) => {
                let estimator = Estimator::new(bounds, Duration::ZERO);
                (estimator.window(), Some(Box::new(estimator)))
            }
        };
        let base = (u64::from(start) * FIRST_STREAMS).min(WINDOW_MAX);
        let gauges = live.gauges().clone();
        gauges.stream_window.store(start.into(), Ordering::Relaxed);
        gauges.initial_window.store(start.into(), Ordering::Relaxed);
        gauges.connection_window.store(base, Ordering::Relaxed);
        flow.metrics().window(gauges.front, 0, base);
        gauges.credit.with(|grants| {
            grants.set_initial(start.into());
            grants.set_share(start.into());
            grants.set_window(base);
            if estimator.is_some() {
                grants.set_under_way(under_way(start));
            }
        });
        Self {
            lease: flow.lease(),
            flow,
            gauges,
            epoch: Instant::now(),
            estimator,
            start: start.into(),
            base,
            connection: base,
            estimated: start,
            arrived: 0,
            reported: 0,
            looked_at: 0,
            shared: start.into(),
            part: WHOLE,
            round_ends: Instant::now(),
        }
    }

    /// When to call [`Controller::rest`], if at all.
    #[must_use]
    pub fn rest_at(&self) -> Option<Instant> {
        let estimator = self.estimator.as_deref().filter(|estimator| estimator.knows())?;
        Some(self.epoch + estimator.rest_at())
    }

    /// Forgets what is old. Whether the connection has to be polled to say so.
    pub fn rest(&mut self, link: &mut impl Announce, now: Instant) -> bool {
        let Some(estimator) = &mut self.estimator else {
            return false;
        };
        estimator.rest(now.saturating_duration_since(self.epoch)) && self.look(link)
    }

    /// To be called after bytes were read and streams were served. Whether the connection has to be polled to say what has
    /// changed.
    pub fn turn(&mut self, link: &mut impl Announce, pinger: &mut Pinger, cx: &mut Context<'_>) -> bool {
        let (arrived, receiving, announced, greeted) = self.gauges.credit.with(|grants| {
            let announced = grants.announced().max(1);
            (grants.arrived(), grants.receiving(), announced, grants.greeted())
        });
        self.arrived = arrived;
        if let Some(said) = greeted {
            self.greeted(said, Instant::now());
        }
        let pinged = self.estimate(pinger, cx);
        let grown = self
            .estimator
            .as_deref()
            .is_some_and(|estimator| estimator.window() != self.estimated);
        let hoarding = self.gauges.hoarding.load(Ordering::Relaxed);
        let moved = self.arrived - self.looked_at >= (self.connection / 8).max(1);
        // Without the budget's word on it: many that have not sent anything yet.
        let crowded = announced > STREAM_MIN && receiving > self.flow.options().budget_bytes / announced;
        let announces = (grown || hoarding || moved || crowded) && self.look(link);
        self.share();
        announces || pinged
    }

    /// Feeds the estimator. Whether a PING was sent.
    fn estimate(&mut self, pinger: &mut Pinger, cx: &mut Context<'_>) -> bool {
        let flying = pinger.flying_since().is_some();
        let fresh = self.arrived - self.reported;
        if !flying && fresh < REPORT_BYTES {
            return false;
        }
        let now = Instant::now();
        self.count_rounds(now);
        if fresh > 0 {
            self.reported = self.arrived;
            if let Some(estimator) = &mut self.estimator {
                let since = now.saturating_duration_since(self.epoch);
                let wanted = estimator.wants_bound();
                estimator.received(fresh, since);
                // Once: it would say the same until the PING is back.
                if !wanted
                    && estimator.wants_bound()
                    && let Some(bound) = self.gauges.tcp_min_rtt()
                {
                    estimator.lower_bound(bound, since);
                }
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

    /// The peer has acknowledged the SETTINGS that left at `said`: a round trip, and a little more.
    fn greeted(&mut self, said: Instant, now: Instant) {
        if let Some(estimator) = &mut self.estimator {
            let took = now.saturating_duration_since(said);
            estimator.also_took(took, now.saturating_duration_since(self.epoch));
        }
    }

    /// Tells the estimator how soon credit was used, and ends rounds.
    fn count_rounds(&mut self, now: Instant) {
        let Some(estimator) = &mut self.estimator else {
            return;
        };
        let ends = now >= self.round_ends;
        let round = estimator.estimate().rtt.unwrap_or(FIRST_ROUND);
        if ends {
            self.round_ends = now + round.max(ROUND_MIN);
        }
        let total = self.shared.max(1);
        let (level, used) = self.gauges.credit.with(|grants| {
            let level = ends.then(|| {
                grants.round_is(round);
                grants.next_round(total)
            });
            (level, grants.credit_used())
        });
        if let Some(level) = level {
            self.part = (level * WHOLE / total).min(WHOLE);
        }
        if let Some(since) = used {
            let since = since.saturating_duration_since(self.epoch);
            estimator.credit_used(since, now.saturating_duration_since(self.epoch));
            let estimate = estimator.estimate();
            // Whoever looks need not wait for the PING.
            if estimate.rtt.is_some_and(|rtt| rtt < round - round / 32) {
                self.flow.metrics().estimated(self.gauges.front, estimate);
                self.gauges.estimated(estimate, estimator.window());
            }
        }
    }

    fn round_trip(&mut self, reason: Reason, took: Duration, now: Instant) {
        let since = now.saturating_duration_since(self.epoch);
        let Some(estimator) = &mut self.estimator else {
            return;
        };
        match reason {
            Reason::Probe => estimator.ping_acked(since),
            Reason::KeepAlive => estimator.also_took(took, since),
        }
        let estimate = estimator.estimate();
        self.flow.metrics().estimated(self.gauges.front, estimate);
        self.gauges.estimated(estimate, estimator.window());
    }

    /// Sets the windows anew. Whether the connection has to be polled.
    fn look(&mut self, link: &mut impl Announce) -> bool {
        self.looked_at = self.arrived;
        let counted = self.gauges.credit.with(|grants| Counted {
            unread: grants.unread(),
            receiving: grants.receiving(),
            announced: grants.announced(),
            settled: grants.is_settled(),
        });
        self.lease.unread(counted.unread);
        let Some(estimator) = &self.estimator else {
            return false;
        };
        self.estimated = estimator.window();
        let estimated = u64::from(self.estimated);
        let pressed = self.flow.is_pressed();
        let hoarding = self.is_hoarding(counted.unread, pressed);
        let most = self.lease.most();
        let initial = self.initial(&counted, most, pressed, hoarding);
        let room = most.saturating_sub(counted.unread) / 2;
        self.shared = estimated.min(room);
        self.gauges
            .credit
            .with(|grants| grants.set_under_way(under_way(self.estimated)));
        self.share();
        let announces = self.announce(initial, counted.announced, link);
        // Streams that still have large windows would fill a larger connection at once.
        if !hoarding || counted.settled && !announces {
            let granted = self.connection_window(&counted, estimated, pressed);
            self.grant_connection(granted, counted.unread);
        }
        announces
    }

    /// The window that streams should begin with.
    fn initial(&self, counted: &Counted, most: u64, pressed: bool, hoarding: bool) -> u64 {
        let floor = STREAM_MIN.min(self.start);
        if pressed {
            // Each stream that comes takes a part of what is left, so they never take all of it.
            return (self.flow.room() / PRESSED_STREAMS).clamp(floor, self.start);
        }
        let fits = power_of_two(most / 4 / (counted.receiving + 1)).clamp(floor, self.start);
        if hoarding || counted.receiving * counted.announced > most {
            fits.min(counted.announced)
        } else if fits >= counted.announced * 2 {
            fits
        } else {
            counted.announced
        }
    }

    fn connection_window(&mut self, counted: &Counted, estimated: u64, pressed: bool) -> u64 {
        if pressed {
            return counted.unread + CONNECTION_MIN;
        }
        let under_way = if estimated > self.start {
            estimated * 3 / 2
        } else {
            0
        };
        let wanted = counted.unread + under_way + self.base;
        if wanted <= self.base * 2 {
            self.lease.rest();
            wanted
        } else {
            // Who has used up his share goes on in small steps.
            self.lease
                .want(wanted)
                .max(self.base)
                .max(counted.unread + CONNECTION_MIN)
        }
    }

    /// Whether too much of the connection's window is unread for all streams to begin with a large one.
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

    /// Divides what streams may have among those that send much.
    fn share(&self) {
        if self.estimator.is_none() {
            return;
        }
        let share = (self.shared * self.part / WHOLE).max(STREAM_MIN);
        let before = self.gauges.stream_window.load(Ordering::Relaxed);
        if share.abs_diff(before) > before / 32 {
            self.gauges.stream_window.store(share, Ordering::Relaxed);
            self.gauges.credit.with(|grants| grants.set_share(share));
        }
    }

    /// Whether SETTINGS are to be written.
    fn announce(&self, initial: u64, announced: u64, link: &mut impl Announce) -> bool {
        if !differs(announced, initial) || !link.announce() {
            return false;
        }
        self.gauges.credit.with(|grants| grants.set_initial(initial));
        self.gauges.initial_window.store(initial, Ordering::Relaxed);
        true
    }

    fn grant_connection(&mut self, window: u64, unread: u64) {
        let window = window.min(WINDOW_MAX);
        let credit = |window: u64| window.saturating_sub(unread);
        let scarce = credit(self.connection) < credit(window) / 2;
        if !scarce && !differs(self.connection, window) {
            return;
        }
        let metrics = self.flow.metrics();
        metrics.window(self.gauges.front, self.connection, window);
        self.connection = window;
        self.gauges.connection_window.store(window, Ordering::Relaxed);
        self.gauges.credit.with(|grants| grants.set_window(window));
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

/// The next one below.
fn power_of_two(bytes: u64) -> u64 {
    1 << bytes.max(1).ilog2()
}

/// What all streams of a connection may have under way, if that is the estimate.
fn under_way(estimated: u32) -> u64 {
    u64::from(estimated) * UNDER_WAY.0 / UNDER_WAY.1
}
