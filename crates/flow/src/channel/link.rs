//! One connection: its slots, and the driver that keeps it alive and notices its end.
//!
//! ```text
//! made ── first PONG ──> up ── GOAWAY ──> draining ── last stream ──> gone
//!                         └── silence, reset, end of file ─────────────┘
//! ```
//!
//! A connection counts as made when its peer has answered a PING: by then its SETTINGS are known, and a listener
//! behind which nobody serves has not passed for one.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::client::{Builder, Connection, SendRequest};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until};

use super::dial::{ByteStream, LastRead, Watched};
use super::options::ChannelOptions;
use crate::core::grants::Role;
use crate::core::keepalive::{Keepalive, Pace, Step};
use crate::flow::Live;
use crate::gauges::Gauges;
use crate::http2::{self, ANNOUNCED, Controller, Cork, End, Harm, Pinger};

/// A connection that lived for so long was one.
const PROBATION: Duration = Duration::from_secs(1);
/// What unread DATA frames of less than 256 bytes may lack of that together, in bytes. More than servers allow: an answer in
/// small messages whose reader is slow is nobody's fault, and windows of answers grow.
const SMALL_FRAMES_BYTES: usize = 64 << 20;
/// How long a peer that hears nothing more is listened to. Its last words have arrived by then, or it has fallen silent.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// How often a connection is looked at on which nothing happens.
const LOOK_ROUND: Duration = Duration::from_secs(10);

/// One connection, as calls see it.
pub(super) struct Link {
    send: Mutex<Option<SendRequest<Bytes>>>,
    in_flight: AtomicUsize,
    /// Streams that the peer allows, as it last said.
    limit: AtomicUsize,
    /// It takes no new streams.
    draining: AtomicBool,
    opened: Instant,
    /// A call was answered on it.
    proven: AtomicBool,
    /// The last round trip of a PING, in microseconds.
    rtt_micros: AtomicU64,
    /// What is counted of it, and the way there for calls.
    gauges: Arc<Gauges>,
    pub(super) pace: http2::Pace,
    /// Why it is gone, in our words.
    why: Mutex<Option<Arc<str>>>,
}

impl Link {
    fn new(send: SendRequest<Bytes>, live: &Live, now: Instant) -> Self {
        Self {
            send: Mutex::new(Some(send)),
            in_flight: AtomicUsize::new(0),
            limit: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            opened: now,
            proven: AtomicBool::new(false),
            rtt_micros: AtomicU64::new(0),
            gauges: Arc::clone(live.gauges()),
            pace: http2::Pace::of(live),
            why: Mutex::new(None),
        }
    }

    /// Takes a slot, if the peer allows one more stream.
    pub(super) fn take_slot(&self, streams_max: usize) -> bool {
        if self.draining.load(Ordering::Relaxed) {
            return false;
        }
        let limit = self.limit.load(Ordering::Relaxed).min(streams_max);
        let one_more = |count: usize| (count < limit).then_some(count + 1);
        let taken = self
            .in_flight
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more)
            .is_ok();
        if taken {
            self.gauges.streams_open.fetch_add(1, Ordering::Relaxed);
            self.gauges.streams_total.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    pub(super) fn give_slot_back(&self) {
        self.gauges.streams_open.fetch_sub(1, Ordering::Relaxed);
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether the peer lets no more streams begin until some end.
    pub(super) fn is_full(&self, streams_max: usize) -> bool {
        self.in_flight() >= self.limit().min(streams_max)
    }

    /// Whether a stream could begin.
    pub(super) fn has_room(&self, streams_max: usize) -> bool {
        !self.is_draining() && !self.is_full(streams_max)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// The way to send a request; none: the connection takes no more.
    pub(super) fn sender(&self) -> Option<SendRequest<Bytes>> {
        self.send.lock().clone()
    }

    /// No new streams; those in flight go on, and after the last one the connection closes itself.
    pub(super) fn retire(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.send.lock().take();
    }

    pub(super) fn prove(&self) {
        if !self.proven.load(Ordering::Relaxed) {
            self.proven.store(true, Ordering::Relaxed);
        }
    }

    /// Whether losing it is no failure to connect.
    pub(super) fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed) || self.opened.elapsed() >= PROBATION
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The last round trip that a PING took.
    pub(super) fn rtt(&self) -> Option<Duration> {
        let micros = self.rtt_micros.load(Ordering::Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros))
    }

    /// Its number among the connections of the process.
    pub(super) fn id(&self) -> u64 {
        self.gauges.id
    }

    pub(super) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    pub(super) fn why(&self) -> Option<Arc<str>> {
        self.why.lock().clone()
    }
}

/// What a driver has to report.
#[derive(Debug)]
pub(super) enum Event {
    /// The peer takes no more streams.
    Draining(Reason),
    /// The peer allows more streams than before.
    Roomier,
    /// Nothing was in flight for so long.
    Idle(Duration),
    /// It is over.
    Ended(Ended),
}

/// How a connection ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) why: Arc<str>,
    /// The peer did not answer.
    pub(super) dead: bool,
    /// The peer finds pings a nuisance.
    pub(super) calm: bool,
    /// It was known before that it would end: [`Event::Draining`].
    pub(super) drained: bool,
}

/// What moves a connection's bytes.
pub(super) struct Driver {
    connection: Connection<Cork<Watched>, Bytes>,
    cork: Cork<Watched>,
    pub(super) link: Arc<Link>,
    live: Live,
    pinger: Pinger,
    windows: Controller,
    keepalive: Keepalive,
    last_read: LastRead,
    timer: Pin<Box<Sleep>>,
    idle_since: Option<Instant>,
    /// The round trip of the first ping.
    pub(super) rtt: Option<Duration>,
    told_draining: bool,
    /// Why the peer hears nothing more, and until when it is listened to.
    deaf: Option<(Arc<str>, Instant)>,
    /// The protocol has something to say for which there was no room.
    unsaid: bool,
}

impl Driver {
    /// Begins HTTP/2 on a stream and waits until the peer has answered.
    pub(super) async fn open(
        stream: Box<dyn ByteStream>,
        options: &ChannelOptions,
        pace: Pace,
        live: Live,
    ) -> io::Result<Self> {
        live.speaks("h2");
        let (stream, last_read) = Watched::new(stream);
        let cork = Cork::new(stream, Bytes::new());
        let windows = Controller::new(&live);
        cork.govern(Role::Client, Arc::clone(live.gauges()));
        // Nothing is written by this but into the cork.
        let (send, mut connection) = Builder::new()
            .initial_window_size(ANNOUNCED)
            .initial_connection_window_size(ANNOUNCED)
            .max_header_list_size(options.header_list_bytes_max)
            // It counts over a connection's whole life. `core::flood` counts by the second.
            .max_local_error_reset_streams(None)
            .data_frame_budget(SMALL_FRAMES_BYTES)
            .enable_push(false)
            .initial_max_send_streams(0)
            .handshake::<_, Bytes>(cork.clone())
            .await
            .map_err(into_io)?;
        let pinger = Pinger::new(connection.ping_pong());
        let now = Instant::now();
        let mut driver = Self {
            connection,
            cork,
            link: Arc::new(Link::new(send, &live, now)),
            live,
            pinger,
            windows,
            keepalive: Keepalive::new(pace),
            last_read,
            timer: Box::pin(sleep_until(now)),
            idle_since: None,
            rtt: None,
            told_draining: false,
            deaf: None,
            unsaid: false,
        };
        // Its time is the connect timeout, not the keepalive's.
        driver.pinger.send(http2::Reason::KeepAlive, now);
        std::future::poll_fn(|cx| driver.poll_up(cx)).await?;
        Ok(driver)
    }

    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(Event::Ended(ended)) = self.poll(cx) {
            return Poll::Ready(Err(io::Error::other(ended.why.to_string())));
        }
        if self.rtt.is_some() {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    /// Moves bytes until there is something to report.
    pub(super) async fn next(&mut self) -> Event {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// One turn: what the protocol says goes out together at its end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        self.live.gauges().credit.begin_turn(cx.waker());
        let event = self.turn(cx);
        self.live.gauges().credit.end_turn();
        match self.cork.poll_drain(cx) {
            Poll::Ready(Err(error)) if self.deaf.is_none() => self.listen(error.to_string().into(), cx),
            Poll::Ready(Ok(())) if std::mem::take(&mut self.unsaid) => cx.waker().wake_by_ref(),
            // A peer that takes nothing is found by the keepalive.
            _ => (),
        }
        event
    }

    /// Nothing more can be said. Whether the peer has said something before that is known after another turn.
    fn listen(&mut self, why: Arc<str>, cx: &mut Context<'_>) {
        let now = Instant::now();
        *self.link.why.lock() = Some(Arc::clone(&why));
        self.deaf = Some((why, now + LAST_WORDS));
        self.timer.as_mut().reset(now);
        self.link.retire();
        cx.waker().wake_by_ref();
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            if let Some(ended) = self.poll_protocol(cx) {
                return Poll::Ready(Event::Ended(ended));
            }
            if let Some(event) = self.look_around(cx) {
                return Poll::Ready(event);
            }
            ready!(self.timer.as_mut().poll(cx));
            if let Some(event) = self.tick() {
                return Poll::Ready(event);
            }
        }
    }

    /// Reads and writes, and brings the windows up to date; the connection's end, if it has come.
    fn poll_protocol(&mut self, cx: &mut Context<'_>) -> Option<Ended> {
        loop {
            if let Poll::Ready(result) = Pin::new(&mut self.connection).poll(cx) {
                return Some(self.ended(result.err().as_ref()));
            }
            if let Some(harm) = self.account() {
                return Some(self.harmed(harm));
            }
            let before = self.pinger.answers();
            let say = self.windows.turn(&mut self.connection, &mut self.pinger, cx);
            if self.pinger.answers() != before {
                self.answered(self.pinger.took());
            }
            if !say {
                return None;
            }
            if self.cork.is_full() {
                self.unsaid = true;
                return None;
            }
        }
    }

    /// Counts what came and went. What the peer has done that ends the connection.
    fn account(&self) -> Option<Harm> {
        let gauges = self.live.gauges();
        let harm = self.cork.wire(|wire| {
            let (received, sent) = (&wire.received, &wire.sent);
            gauges.in_bytes.store(received.bytes, Ordering::Relaxed);
            gauges.out_bytes.store(sent.bytes, Ordering::Relaxed);
            gauges.may_send(received.connection_credit, sent.data_bytes);
            wire.harm
        });
        harm.flatten()
    }

    fn answered(&mut self, rtt: Duration) {
        self.keepalive.answered();
        self.rtt.get_or_insert(rtt);
        // Less than a microsecond is known, too.
        let micros = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX).max(1);
        self.link.rtt_micros.store(micros, Ordering::Relaxed);
    }

    /// What may have changed with what was read.
    fn look_around(&mut self, cx: &mut Context<'_>) -> Option<Event> {
        if !self.told_draining {
            let mut send = self.link.send.lock();
            if let Some(Poll::Ready(Err(error))) = send.as_mut().map(|send| send.poll_ready(cx)) {
                drop(send);
                self.told_draining = true;
                self.link.retire();
                return Some(Event::Draining(error.reason().unwrap_or(Reason::NO_ERROR)));
            }
        }
        // What the peer allows is known with its SETTINGS, which come before its first PONG.
        self.rtt?;
        let limit = self.connection.max_concurrent_send_streams();
        let before = self.link.limit.swap(limit, Ordering::Relaxed);
        (limit > before).then_some(Event::Roomier)
    }

    /// The timer has fired. The protocol is polled after it, which says what there is to say.
    fn tick(&mut self) -> Option<Event> {
        let now = Instant::now();
        if let Some((why, until)) = &self.deaf {
            self.timer.as_mut().reset(*until);
            let over = now >= *until;
            return over.then(|| Event::Ended(self.lost(Arc::clone(why))));
        }
        self.windows.rest(&mut self.connection, now);
        let busy = self.link.in_flight() > 0;
        // A connection that is to end may wait for a peer that does not take its farewell.
        let asks = busy || self.link.is_draining();
        let step = self.keepalive.step(self.last_read.at(), asks, now);
        let until = match step {
            Step::Wait(until) => until,
            Step::Ping => {
                self.ping(now);
                now
            }
            Step::Dead => {
                let ended = self.lost("no answer to a ping".into());
                return Some(Event::Ended(Ended { dead: true, ..ended }));
            }
        };
        let rest_at = self.windows.rest_at().unwrap_or(until);
        // Now and then in any case: the keepalive's waits can be long.
        let soonest = now + Duration::from_millis(1);
        let until = until.min(rest_at).min(now + LOOK_ROUND).max(soonest);
        self.timer.as_mut().reset(until);
        if busy {
            self.idle_since = None;
            return None;
        }
        let since = *self.idle_since.get_or_insert(now);
        Some(Event::Idle(now - since))
    }

    /// Asks the peer. One ping at a time: if one is on its way to measure the link, its answer is a sign of life as well.
    fn ping(&mut self, now: Instant) {
        if self.pinger.send(http2::Reason::KeepAlive, now) {
            let metrics = self.live.flow().metrics();
            metrics.pinged(self.live.front, http2::Reason::KeepAlive.name());
        }
        self.keepalive.sent(now);
    }

    fn ended(&self, error: Option<&h2::Error>) -> Ended {
        let why = match error {
            None => "closed by the peer".into(),
            Some(error) => error.to_string().into(),
        };
        if let Some(cut) = error.and_then(|error| End::of(error).cut()) {
            let told = self
                .cork
                .wire(|wire| http2::excess(wire.sent.farewell()))
                .flatten();
            self.live
                .flow()
                .metrics()
                .cut(self.live.front, told.unwrap_or(cut));
        }
        let calm = error.and_then(h2::Error::reason) == Some(Reason::ENHANCE_YOUR_CALM);
        Ended {
            calm,
            ..self.lost(why)
        }
    }

    /// The peer is told why, and nothing more of it is taken.
    fn harmed(&self, harm: Harm) -> Ended {
        let (metrics, reason) = (self.live.flow().metrics(), harm.reason());
        metrics.harmed(self.live.front, harm);
        if let Some(cut) = End::Refused(reason).cut() {
            metrics.cut(self.live.front, cut);
        }
        self.cork.farewell(reason);
        self.lost(match harm {
            Harm::Overrun => "the peer sent more than it was let".into(),
            Harm::Flood(kind) => format!("the peer sent far too many {} frames", kind.name()).into(),
            Harm::Closed => "the peer went on with a call that was over".into(),
        })
    }

    /// The connection is no more, for this reason or for the one for which nothing more could be said.
    fn lost(&self, why: Arc<str>) -> Ended {
        let why = self.deaf.as_ref().map_or(why, |(why, _)| Arc::clone(why));
        *self.link.why.lock() = Some(Arc::clone(&why));
        self.link.retire();
        Ended {
            why,
            dead: false,
            calm: false,
            drained: self.told_draining,
        }
    }
}

fn into_io(error: h2::Error) -> io::Error {
    if error.is_io() {
        error
            .into_io()
            .unwrap_or_else(|| io::Error::other("connection lost"))
    } else {
        io::Error::other(error)
    }
}
