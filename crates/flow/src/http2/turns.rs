//! The turns of a connection.
//!
//! A turn reads and parses what has arrived, starts and polls calls, lets `h2` frame what they said, and drains the
//! cork: one write for all of it. Calls are polled by their connection's task, so that an answer costs one wake-up,
//! and dropped with it, so that none outlives its client.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use h2::server::Connection;
use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};

use super::cork::{Cork, Harm};
use super::end::RESETS;
use super::pacing::{Drained, Pace, Stall, drain};
use super::ping::{Pinger, Reason};
use super::receive::Receive;
use super::windows::Controller;
use super::{End, Handler, KeepAlive};
use crate::core::flood::{FAULTS, Faults};
use crate::core::frames::Kind;
use crate::core::unfinished::Patience;
use crate::flow::Live;

/// Frames after which their metrics are brought up to date.
const FRAMES_REPORTED: u64 = 256;

/// An HTTP/2 connection and its calls.
pub(super) struct Turns<T, H: Handler> {
    pub(super) handler: H,
    pub(super) live: Live,
    pub(super) pace: Pace,
    pub(super) protocol: Connection<Cork<T>, Bytes>,
    pub(super) cork: Cork<T>,
    pub(super) calls: FuturesUnordered<H::Call>,
    /// Calls have begun that were not polled yet.
    pub(super) unasked: bool,
    pub(super) stall: Stall,
    /// More calls than the protocol allows at a time: some have been reset and are not dropped yet.
    pub(super) calls_max: usize,
    pub(super) windows: Controller,
    pub(super) pinger: Pinger,
    pub(super) keep_alive: Option<KeepAlive>,
    pub(super) heard: Instant,
    pub(super) patience: Patience,
    pub(super) timer: Option<Pin<Box<Sleep>>>,
    pub(super) draining: bool,
    /// It asked for too much, or sent too much, and has been told.
    pub(super) refused: Option<h2::Reason>,
    /// Of what it was too much, where the reason does not say that.
    pub(super) excess: Option<&'static str>,
    /// How it ended, once it has: what is left is to write what was said.
    pub(super) end: Option<End>,
    pub(super) frames: Counts,
}

/// What was counted when it was last looked at.
pub(super) struct Counts {
    kinds: [u64; Kind::ALL.len()],
    bytes: u64,
    reported: u64,
    faults: Faults,
    too_large: u64,
    /// Calls answered below the protocol, and those of them that metrics know.
    answered: u64,
    bypassed: u64,
}

impl Counts {
    pub(super) fn new() -> Self {
        Self {
            kinds: [0; Kind::ALL.len()],
            bytes: 0,
            reported: 0,
            faults: Faults::default(),
            too_large: 0,
            answered: 0,
            bypassed: 0,
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin, H: Handler> Turns<T, H> {
    /// Lets calls end, and takes no new ones.
    pub(super) fn drain(&mut self) {
        if !std::mem::replace(&mut self.draining, true) {
            self.cork.stop_bypass();
            self.protocol.graceful_shutdown();
        }
    }

    /// One turn. Ready once the connection has ended and all that was said has been written.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.live.gauges().credit.begin_turn(cx.waker());
        // While the client does not take what was said, nothing is read and nothing more is said.
        let clogged = self.is_clogged(cx);
        if clogged {
            self.patience.rest();
        }
        if self.end.is_none() && !clogged {
            self.poll_protocol(cx);
            // After the calls, the protocol again: it frames what they have said.
            while self.end.is_none() && !self.calls.is_empty() {
                self.unasked = false;
                while let Poll::Ready(Some(())) = self.calls.poll_next_unpin(cx) {}
                if !self.poll_protocol(cx) {
                    break;
                }
            }
            if self.end.is_none() {
                self.settle(cx);
            }
        }
        if self.end.is_none() {
            self.poll_timer(cx);
        }
        self.live.gauges().credit.end_turn();
        let written = self.write(cx);
        if self.unasked && written.is_pending() && !self.live.clogged.load(Ordering::Relaxed) {
            // Calls that have begun since: nothing else would wake them.
            cx.waker().wake_by_ref();
        }
        written
    }

    fn is_clogged(&mut self, cx: &mut Context<'_>) -> bool {
        self.cork.is_full() && self.cork.poll_drain(cx).is_pending()
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let drained = drain(&self.cork, &mut self.stall, cx);
        let waits = matches!(drained, Drained::Waits);
        if waits != self.live.clogged.load(Ordering::Relaxed) {
            self.live.clogged.store(waits, Ordering::Relaxed);
        }
        match (drained, self.end) {
            (Drained::Stalled, _) => Poll::Ready(End::Stalled),
            (Drained::Broken, end) => Poll::Ready(end.unwrap_or(End::Gone)),
            // It is silent: it will not take the rest either.
            (Drained::Waits, Some(End::Silent)) => Poll::Ready(End::Silent),
            (Drained::Waits, _) | (Drained::All, None) => Poll::Pending,
            (Drained::All, Some(end)) => Poll::Ready(end),
        }
    }

    /// Reads, writes and starts calls; whether it has started any, and there is room for what they say.
    fn poll_protocol(&mut self, cx: &mut Context<'_>) -> bool {
        let mut begun = false;
        loop {
            match self.protocol.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    let stream = respond.stream_id().as_u32();
                    self.live.gauges().begun.store(stream, Ordering::Relaxed);
                    if self.calls.len() >= self.calls_max {
                        // Calls that were reset are still being dropped: the client makes them faster than that.
                        self.excess = self.excess.or(Some(RESETS));
                        self.refuse(h2::Reason::ENHANCE_YOUR_CALM);
                        begun = true;
                        continue;
                    }
                    if H::BYPASSES {
                        self.remember(stream, request.uri().path(), request.headers());
                    }
                    let request = request.map(|body| Receive::new(body, self.pace.clone()));
                    // One that is over has said all already, and is not asked again.
                    if let Some(call) = self.handler.begin(request, respond) {
                        self.calls.push(call);
                        (begun, self.unasked) = (true, true);
                    }
                    self.live.streams_total.fetch_add(1, Ordering::Relaxed);
                    if self.cork.is_full() {
                        // What calls say when they begin waits to be written: the others begin afterwards.
                        cx.waker().wake_by_ref();
                        return false;
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(front = self.live.front, peer = %self.live.peer, %error, "connection");
                    self.end = Some(End::of(&error));
                    return false;
                }
                Poll::Ready(None) => {
                    self.end = Some(self.refused.map_or(End::Closed, End::Refused));
                    return false;
                }
                Poll::Pending => break,
            }
        }
        if self.cork.is_full() {
            return false;
        }
        self.pace.emptied();
        begun
    }

    /// Lets the calls that begin like this one be answered below the protocol, if they can be.
    fn remember(&mut self, stream: u32, path: &str, headers: &HeaderMap) {
        if !self.cork.learn(stream, path, headers)
            && !self.draining
            && let Some(answers) = self.handler.bypass(path, headers)
        {
            self.cork.bypass(answers);
        }
    }

    fn refuse(&mut self, reason: h2::Reason) {
        if self.refused.is_none() {
            self.refused = Some(reason);
            self.cork.stop_bypass();
            self.protocol.abrupt_shutdown(reason);
        }
    }

    /// Lets the protocol say what there is to say at the end of a turn.
    fn settle(&mut self, cx: &mut Context<'_>) {
        if self.account(cx) {
            self.poll_protocol(cx);
        }
        // It may use up at once what it gets back; each time that is half of what is left at least.
        while H::BYPASSES && self.end.is_none() && !self.cork.is_full() && self.cork.gives_back() {
            self.poll_protocol(cx);
        }
    }

    /// Counts what came and went, and brings the windows up to date. Whether the protocol has something to say.
    fn account(&mut self, cx: &mut Context<'_>) -> bool {
        let open = self.calls.len() as u64;
        self.live.streams_open.store(open, Ordering::Relaxed);
        let counted = self.cork.wire(|wire| {
            let (received, sent) = (&wire.received, &wire.sent);
            self.live.in_bytes.store(received.bytes, Ordering::Relaxed);
            self.live.out_bytes.store(sent.bytes, Ordering::Relaxed);
            self.live.may_send(wire.credit(), sent.data_bytes);
            let frames: u64 = received.counts.iter().sum();
            let unfinished = received.unfinished();
            (received.bytes, frames, unfinished, wire.harm)
        });
        let Some((bytes, frames, unfinished, harm)) = counted else {
            return false;
        };
        self.report();
        if H::BYPASSES {
            self.report_answered(FRAMES_REPORTED);
        }
        if let Some(harm) = harm {
            self.harmed(harm, frames);
            return true;
        }
        self.patience.saw(unfinished, Instant::now);
        if bytes != self.frames.bytes {
            self.frames.bytes = bytes;
            if self.keep_alive.is_some() {
                self.heard = Instant::now();
            }
        }
        if frames - self.frames.reported >= FRAMES_REPORTED {
            self.report_frames(frames);
        }
        self.windows.turn(&mut self.protocol, &mut self.pinger, cx)
    }

    /// The peer is told, and nothing more of it is taken.
    fn harmed(&mut self, harm: Harm, frames: u64) {
        if self.refused.is_none() {
            self.report_frames(frames);
            self.live.flow().metrics().harmed(self.live.front, harm);
            self.refuse(harm.reason());
        }
    }

    /// Brings metrics up to date in the end.
    pub(super) fn report_all(&mut self) {
        self.report();
        self.report_answered(1);
    }

    /// Brings the metrics of calls that the protocol refused up to date.
    fn report(&mut self) {
        let refused = self.cork.wire(|wire| (wire.sent.faults, wire.sent.too_large));
        let Some((faults, too_large)) = refused else {
            return;
        };
        let (metrics, front) = (self.live.flow().metrics(), self.live.front);
        if faults != self.frames.faults {
            let before = std::mem::replace(&mut self.frames.faults, faults);
            for ((now, before), (_, reason)) in faults.into_iter().zip(before).zip(FAULTS) {
                if now > before {
                    metrics.reset(front, reason, now - before);
                }
            }
        }
        if too_large != self.frames.too_large {
            let before = std::mem::replace(&mut self.frames.too_large, too_large);
            metrics.too_large(front, too_large - before);
        }
    }

    /// Counts the calls that were answered below the protocol; for the metrics once there are so many.
    fn report_answered(&mut self, at_least: u64) {
        let answered = self.cork.answered();
        let seen = std::mem::replace(&mut self.frames.answered, answered);
        if answered > seen {
            self.live
                .streams_total
                .fetch_add(answered - seen, Ordering::Relaxed);
        }
        let more = answered - self.frames.bypassed;
        if more >= at_least.max(1) {
            self.frames.bypassed = answered;
            self.live.flow().metrics().bypassed(self.live.front, more);
        }
    }

    /// Brings the metrics of frames up to date.
    fn report_frames(&mut self, frames: u64) {
        self.frames.reported = frames;
        let Some(counts) = self.cork.wire(|wire| wire.received.counts) else {
            return;
        };
        let (metrics, front) = (self.live.flow().metrics(), self.live.front);
        for (kind, before) in Kind::ALL.into_iter().zip(&mut self.frames.kinds) {
            let more = counts[kind as usize] - std::mem::replace(before, counts[kind as usize]);
            if more > 0 {
                metrics.received(front, kind, more);
            }
        }
    }

    /// What is due by the clock: a PING into silence, the end of a silent peer, windows after a rest.
    fn poll_timer(&mut self, cx: &mut Context<'_>) {
        loop {
            let Some(due) = self.due() else {
                self.timer = None;
                return;
            };
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
            if timer.deadline() > due {
                timer.as_mut().reset(due);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return;
            }
            let now = Instant::now();
            if now >= due {
                self.act(now, cx);
            }
            match self.due().filter(|_| self.end.is_none()) {
                Some(due) => timer_at(&mut self.timer, due.max(now + Duration::from_millis(1))),
                None => {
                    self.timer = None;
                    return;
                }
            }
        }
    }

    fn due(&self) -> Option<Instant> {
        let alive = self.keep_alive.map(|keep| match self.pinger.flying_since() {
            Some(since) => since.max(self.heard) + keep.timeout,
            None => self.heard + keep.interval,
        });
        [alive, self.windows.rest_at(), self.patience.due()]
            .into_iter()
            .flatten()
            .min()
    }

    fn act(&mut self, now: Instant, cx: &mut Context<'_>) {
        if self.patience.due().is_some_and(|due| now >= due) {
            self.refuse(h2::Reason::ENHANCE_YOUR_CALM);
            self.poll_protocol(cx);
            self.end = Some(End::Unfinished);
            return;
        }
        let mut say = self.windows.rest(&mut self.protocol, now);
        if let Some(keep) = self.keep_alive {
            match self.pinger.flying_since() {
                Some(since) if now >= since.max(self.heard) + keep.timeout => {
                    self.end = Some(End::Silent);
                    return;
                }
                None if now >= self.heard + keep.interval && self.pinger.send(Reason::KeepAlive, now) => {
                    let front = self.live.front;
                    self.live.flow().metrics().pinged(front, Reason::KeepAlive.name());
                    say = true;
                }
                _ => (),
            }
        }
        if say && !self.cork.is_full() {
            self.poll_protocol(cx);
            // Registers for the answer; nothing else would have the protocol write what the windows say now.
            self.settle(cx);
        }
    }
}

fn timer_at(timer: &mut Option<Pin<Box<Sleep>>>, due: Instant) {
    match timer {
        Some(timer) => timer.as_mut().reset(due),
        None => *timer = Some(Box::pin(sleep_until(due))),
    }
}

impl<T, H: Handler> Drop for Turns<T, H> {
    fn drop(&mut self) {
        if let Some(end) = self.end {
            tracing::trace!(front = self.live.front, ?end, "connection ended");
        }
    }
}
