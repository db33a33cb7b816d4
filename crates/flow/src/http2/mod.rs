//! HTTP/2 connections over the stock `h2` crate: the one driver that all fronts use, and its parts for clients.
//!
//! - [`serve`]: one connection, from its greeting to its end, with the calls that a [`Handler`] makes of its requests.
//! - [`Bypass`]: small calls that a connection asks again and again, answered before the protocol has seen them.
//! - [`Cork`]: few and large writes, frames counted. [`Pace`], [`Stall`]: peers that do not read.
//! - [`Controller`]: adaptive windows, for servers and clients alike. [`Pinger`]: the one PING a connection may have.
//! - [`Receive`], [`ReceivedBody`]: what a peer sends. [`send`]: an answer with its body. [`Expected`]: an answer to come.
//!
//! **Credit.** `h2` believes that all receive windows are as large as can be ([`ANNOUNCED`]). What the peer is told, and
//! held to, is ours: the cork lets all bytes pass by `Grants` (`core::grants`). A connection, a client's as well,
//!
//! 1. is in a [`Cork`] that is told to `govern` it, before `h2` writes or reads anything, and announces [`ANNOUNCED`] for
//!    both windows;
//! 2. has a [`Controller`], made before that as well, whose [`turn`](Controller::turn) it calls after it has polled `h2`;
//! 3. [drains](Cork::poll_drain) its cork at the end of each turn: that writes the WINDOW_UPDATEs that are due. Between
//!    `begin_turn` and `end_turn` of its credit nobody wakes it for those;
//! 4. ends with GOAWAY when the cork's wire has seen `harm`, an overrun or a flood: `h2` is then given nothing more to read;
//! 5. reads bodies by [`Receive`] alone; a client makes an [`Expected`] as soon as `send_request` returns, and a `Receive`
//!    of that when the answer has come.
//!
//! What `h2` bounds by itself is left to it: header lists, CONTINUATION chains, resets before a call has begun, small DATA
//! frames, streams beyond the announced maximum (refused, never parked). How many it resets so is counted here, by the second,
//! and so are frames of DATA without data: its own bounds of these are for the whole life of a connection.

mod cork;
mod credit;
mod end;
mod lent;
mod outbox;
mod pacing;
mod ping;
mod receive;
mod send;
mod turns;
mod windows;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use h2::server::{Builder, SendResponse};
use http::{HeaderMap, Request};
use setpoint_base::Stop;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};

pub(crate) use cork::Harm;
pub use cork::{Answer, Bypass, Cork};
pub use end::End;
pub(crate) use end::excess;
pub(crate) use lent::Lent;
pub use pacing::{Drained, Pace, Stall, drain};
pub use ping::{Pinger, Reason};
pub use receive::{Expected, Receive, ReceivedBody};
pub(crate) use receive::{SPARED_BYTES, SPARED_TIME};
pub use send::{Gone, send};
pub use windows::{ANNOUNCED, Announce, Controller};

use crate::core::grants::Role;
use crate::core::unfinished::Patience;
use crate::flow::Live;
use turns::{Counts, Turns};

/// What every HTTP/2 connection begins with (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Calls that may still be in memory after their client has reset them.
const RESET_CALLS_MAX: usize = 1024;

/// What unread DATA frames of less than 256 bytes may lack of that together, in bytes: each takes some 300 bytes of memory, and
/// windows count what is in it. So many that a whole initial window in messages of twenty bytes is let pass; by itself `h2`
/// would allow as much as the window it announces.
const SMALL_FRAMES_BYTES: usize = 16 << 20;

/// What becomes of a connection's requests.
pub trait Handler {
    /// A call in progress. Its connection polls it, and drops it at its end.
    type Call: Future<Output = ()>;

    /// Whether some calls may be answered below the protocol.
    const BYPASSES: bool = false;

    /// Who answers calls below the protocol from here on. Asked as a call with this head begins, until there is somebody.
    fn bypass(&mut self, _path: &str, _headers: &HeaderMap) -> Option<Box<dyn Bypass>> {
        None
    }

    /// Begins a call; `None` when that was all of it.
    fn begin(&mut self, request: Request<Receive>, respond: SendResponse<Bytes>) -> Option<Self::Call>;
}

/// A PING into silence, and the end of who does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Silence after which a PING is sent.
    pub interval: Duration,
    /// Time for anything to come after that.
    pub timeout: Duration,
}

/// Bounds of an HTTP/2 connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2Options {
    /// Calls open at a time; the peer is told, and what it opens beyond is refused (REFUSED_STREAM).
    pub streams_max: u32,
    /// Largest list of headers, in bytes.
    pub header_bytes_max: u32,
    /// Bytes a call may have queued before it waits for its client to read.
    pub send_buffer_bytes: usize,
    /// Time for the preface and the first SETTINGS.
    pub hello_timeout: Duration,
    /// Time for a list of headers, or another frame without DATA, from its first byte to its last. A frame of DATA has
    /// `stall_timeout`.
    pub header_timeout: Duration,
    /// Time without progress after which a peer that does not read is cut.
    pub stall_timeout: Duration,
    /// PINGs into silence (none).
    pub keep_alive: Option<KeepAlive>,
}

impl Default for Http2Options {
    fn default() -> Self {
        Self {
            streams_max: 1000,
            header_bytes_max: 16 << 10,
            send_buffer_bytes: 256 << 10,
            hello_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(60),
            keep_alive: None,
        }
    }
}

/// Serves one connection until it ends. A `stop` ends it gracefully: GOAWAY, and its calls go on to their ends; who cannot
/// wait drops this.
pub async fn serve<T, H>(cork: Cork<T>, handler: H, live: Live, options: &Http2Options, stop: &Stop) -> End
where
    T: AsyncRead + AsyncWrite + Unpin,
    H: Handler,
{
    live.speaks("h2");
    let (flow, front) = (live.flow().clone(), live.front);
    let (end, excess) = run(cork, handler, live, options, stop).await;
    flow.metrics().ended(front, end.how());
    if let Some(reason) = end.cut().map(|cut| excess.unwrap_or(cut)) {
        flow.metrics().cut(front, reason);
    }
    end
}

/// How it ended, and of what there was too much, where the end does not say that.
async fn run<T, H>(
    cork: Cork<T>,
    handler: H,
    live: Live,
    options: &Http2Options,
    stop: &Stop,
) -> (End, Option<&'static str>)
where
    T: AsyncRead + AsyncWrite + Unpin,
    H: Handler,
{
    let windows = Controller::new(&live);
    live.gauges().begun.store(0, Ordering::Relaxed);
    cork.govern(Role::Server, live.gauges().clone());
    if H::BYPASSES {
        cork.reserve();
    }
    let mut settings = Builder::new();
    settings
        .initial_window_size(ANNOUNCED)
        .initial_connection_window_size(ANNOUNCED)
        .max_concurrent_streams(options.streams_max)
        .max_header_list_size(options.header_bytes_max)
        // It counts over a connection's whole life, which may be long. `core::flood` counts what it resets by the second.
        .max_local_error_reset_streams(None)
        .data_frame_budget(SMALL_FRAMES_BYTES)
        .max_send_buffer_size(options.send_buffer_bytes);
    let mut handshake = pin!(settings.handshake::<_, Bytes>(cork.clone()));
    let greeted = poll_fn(|cx| {
        let greeted = handshake.as_mut().poll(cx);
        match cork.poll_drain(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(None),
            _ => greeted.map(Result::ok),
        }
    });
    let Ok(Some(mut protocol)) = timeout(options.hello_timeout, greeted).await else {
        return (End::NoGreeting, None);
    };
    let mut turns = Turns {
        handler,
        pace: Pace::of(&live),
        live,
        pinger: Pinger::new(protocol.ping_pong()),
        protocol,
        cork,
        calls: FuturesUnordered::new(),
        unasked: false,
        stall: Stall::new(options.stall_timeout),
        calls_max: options.streams_max as usize + RESET_CALLS_MAX,
        windows,
        keep_alive: options.keep_alive,
        patience: Patience::new(options.header_timeout, options.stall_timeout),
        heard: Instant::now(),
        timer: None,
        draining: false,
        refused: None,
        excess: None,
        end: None,
        frames: Counts::new(),
    };
    let mut stopped = pin!(stop.cancelled());
    let end = poll_fn(|cx| {
        if !turns.draining && stopped.as_mut().poll(cx).is_ready() {
            turns.drain();
        }
        turns.poll(cx)
    })
    .await;
    turns.report_all();
    let told = turns.cork.wire(|wire| excess(wire.sent.farewell())).flatten();
    (end, turns.excess.or(told))
}
