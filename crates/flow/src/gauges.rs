//! What is counted of one connection, written by its task and read by anybody.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::core::grants::StreamGrant;
use crate::core::window::Estimate;
use crate::credit::Credit;
use crate::http2::Lent;
use crate::snapshot::{
    ConnectionSnapshot, EstimatePoint, EstimateSnapshot, StallSnapshot, StreamSnapshot, WaitingStream,
};
use crate::tcp::TcpInfo;

/// Streams that are shown of a connection.
const STREAMS_MAX: usize = 16;
/// Estimates that are remembered.
const HISTORY_MAX: usize = 60;
/// Shorter waits are the ordinary course of a connection.
const STALL_MIN: Duration = Duration::from_millis(1);
/// Credit for a whole connection before any WINDOW_UPDATE (RFC 9113 §6.9.2), in bytes.
pub(crate) const FIRST_CREDIT: i64 = 65_535;

/// Who makes a stream wait that has something to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The peer has not given this stream credit.
    Stream,
    /// The peer has not given the connection credit: other streams have used it up.
    Connection,
    /// The peer does not take bytes off the socket.
    Socket,
}

impl Holder {
    pub(crate) const ALL: [Self; 3] = [Self::Stream, Self::Connection, Self::Socket];

    /// In one word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Connection => "connection",
            Self::Socket => "socket",
        }
    }
}

/// What is counted of one connection. All of it is approximate while the connection works.
#[derive(Debug)]
pub struct Gauges {
    pub(crate) id: u64,
    pub(crate) front: &'static str,
    pub(crate) peer: Box<str>,
    protocol: Mutex<&'static str>,
    opened: Instant,
    pub(crate) streams_open: AtomicU64,
    pub(crate) streams_total: AtomicU64,
    /// The last stream whose call has begun here; a client's streams all have.
    pub(crate) begun: AtomicU32,
    pub(crate) stream_window: AtomicU64,
    pub(crate) connection_window: AtomicU64,
    pub(crate) initial_window: AtomicU64,
    /// What the peer may send.
    pub(crate) credit: Credit,
    pub(crate) hoarding: AtomicBool,
    pub(crate) in_bytes: AtomicU64,
    pub(crate) out_bytes: AtomicU64,
    pub(crate) send_credit: AtomicI64,
    pub(crate) clogged: AtomicBool,
    /// Bytes handed to the protocol since it was last emptied.
    pub(crate) handed: AtomicUsize,
    pub(crate) lent: Lent,
    stalls: [(AtomicU64, AtomicU64); 3],
    waiting: Mutex<Vec<(u32, Instant)>>,
    estimates: Mutex<Option<Box<Estimates>>>,
    tcp: OnceLock<TcpInfo>,
}

#[derive(Debug, Default)]
struct Estimates {
    last: Estimate,
    history: VecDeque<EstimatePoint>,
}

impl Gauges {
    pub(crate) fn new(id: u64, front: &'static str, peer: &str) -> Self {
        Self {
            id,
            front,
            peer: peer.into(),
            protocol: Mutex::new(""),
            opened: Instant::now(),
            streams_open: AtomicU64::new(0),
            streams_total: AtomicU64::new(0),
            begun: AtomicU32::new(u32::MAX),
            stream_window: AtomicU64::new(0),
            connection_window: AtomicU64::new(0),
            initial_window: AtomicU64::new(0),
            credit: Credit::default(),
            hoarding: AtomicBool::new(false),
            in_bytes: AtomicU64::new(0),
            out_bytes: AtomicU64::new(0),
            send_credit: AtomicI64::new(FIRST_CREDIT),
            clogged: AtomicBool::new(false),
            handed: AtomicUsize::new(0),
            lent: Lent::default(),
            stalls: Default::default(),
            waiting: Mutex::new(Vec::new()),
            estimates: Mutex::new(None),
            tcp: OnceLock::new(),
        }
    }

    /// Which protocol it turned out to speak: `h2`, `http/1.1`.
    pub fn speaks(&self, protocol: &'static str) {
        *self.protocol.lock() = protocol;
    }

    /// Which socket it is over, to be asked when somebody looks. It stays the first that was said.
    pub fn is_over(&self, tcp: TcpInfo) {
        let _ = self.tcp.set(tcp);
    }

    /// The least round trip that TCP has measured: that of the path, or of a part of it.
    pub(crate) fn tcp_min_rtt(&self) -> Option<Duration> {
        let seconds = self.tcp.get()?.read()?.min_rtt_seconds?;
        Some(Duration::from_secs_f64(seconds))
    }

    /// What the peer has given to the whole connection and what we have used of it, in bytes.
    pub(crate) fn may_send(&self, given: u64, used: u64) {
        let left = FIRST_CREDIT
            .saturating_add_unsigned(given)
            .saturating_sub_unsigned(used);
        self.send_credit.store(left, Ordering::Relaxed);
    }

    /// Who makes streams wait at this moment.
    pub(crate) fn holder(&self) -> Holder {
        if self.clogged.load(Ordering::Relaxed) {
            Holder::Socket
        } else if self.send_credit.load(Ordering::Relaxed) <= 0 {
            Holder::Connection
        } else {
            Holder::Stream
        }
    }

    pub(crate) fn stall_begins(&self, stream: u32, now: Instant) {
        self.waiting.lock().push((stream, now));
    }

    /// Whether it was long enough to count.
    pub(crate) fn stall_ends(&self, stream: u32, holder: Holder, took: Duration) -> bool {
        let mut waiting = self.waiting.lock();
        if let Some(index) = waiting.iter().position(|(waiting, _)| *waiting == stream) {
            waiting.remove(index);
        }
        if waiting.is_empty() && waiting.capacity() > 64 {
            *waiting = Vec::new();
        }
        drop(waiting);
        if took < STALL_MIN {
            return false;
        }
        let (count, micros) = &self.stalls[holder as usize];
        count.fetch_add(1, Ordering::Relaxed);
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        micros.fetch_add(took, Ordering::Relaxed);
        true
    }

    pub(crate) fn estimated(&self, estimate: Estimate, window: u32) {
        let mut estimates = self.estimates.lock();
        if estimate.rtt.is_none() && estimates.is_none() {
            return;
        }
        let estimates = estimates.get_or_insert_default();
        estimates.last = estimate;
        if estimates.history.len() == HISTORY_MAX {
            estimates.history.pop_front();
        }
        estimates.history.push_back(EstimatePoint {
            at_seconds: self.opened.elapsed().as_secs_f64(),
            window_bytes: window.into(),
            bandwidth_bytes_per_second: estimate.bandwidth,
            rtt_seconds: estimate.rtt.unwrap_or_default().as_secs_f64(),
        });
    }

    /// How much it matters beside others: streams that wait, what is unread, and calls.
    pub(crate) fn weight(&self) -> (usize, u64, u64) {
        let unread = self.credit.with(|grants| grants.unread());
        let open = self.streams_open.load(Ordering::Relaxed);
        (self.waiting.lock().len(), unread, open)
    }

    pub(crate) fn snapshot(&self) -> ConnectionSnapshot {
        let count = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let (estimate, history) = match self.estimates.lock().as_deref() {
            Some(Estimates { last, history }) => {
                let estimate = last.rtt.map(|rtt| EstimateSnapshot {
                    bandwidth_bytes_per_second: last.bandwidth,
                    rtt_seconds: rtt.as_secs_f64(),
                    bdp_bytes: last.bdp(),
                });
                (estimate, history.iter().copied().collect())
            }
            None => (None, Vec::new()),
        };
        let (receiving, unread, streams) = self
            .credit
            .with(|grants| (grants.receiving(), grants.unread(), grants.largest(STREAMS_MAX)));
        ConnectionSnapshot {
            id: self.id,
            front: self.front,
            peer: self.peer.to_string(),
            protocol: *self.protocol.lock(),
            age_seconds: self.opened.elapsed().as_secs_f64(),
            streams_open: count(&self.streams_open),
            streams_total: count(&self.streams_total),
            streams_receiving: receiving,
            stream_window_bytes: count(&self.stream_window),
            connection_window_bytes: count(&self.connection_window),
            initial_window_bytes: count(&self.initial_window),
            unread_bytes: unread,
            streams: streams.into_iter().map(shown).collect(),
            hoarding: self.hoarding.load(Ordering::Relaxed),
            estimate,
            tcp: self.tcp.get().and_then(TcpInfo::read),
            in_bytes: count(&self.in_bytes),
            out_bytes: count(&self.out_bytes),
            send_credit_bytes: self.send_credit.load(Ordering::Relaxed),
            stalls: self.stall_snapshot(),
            history,
        }
    }

    fn stall_snapshot(&self) -> StallSnapshot {
        let now = Instant::now();
        let [stream, connection, socket] = Holder::ALL.map(|holder| {
            let (count, micros) = &self.stalls[holder as usize];
            let micros = micros.load(Ordering::Relaxed);
            (count.load(Ordering::Relaxed), micros as f64 / 1e6)
        });
        let holder = self.holder().name();
        let waiting = self.waiting.lock();
        StallSnapshot {
            stream_total: stream.0,
            stream_seconds: stream.1,
            connection_total: connection.0,
            connection_seconds: connection.1,
            socket_total: socket.0,
            socket_seconds: socket.1,
            waiting_now: waiting.len(),
            // Those that wait longest come first.
            waiting: waiting
                .iter()
                .take(STREAMS_MAX)
                .map(|(stream, since)| WaitingStream {
                    stream: *stream,
                    holder,
                    seconds: (now - *since).as_secs_f64(),
                })
                .collect(),
        }
    }
}

fn shown(stream: StreamGrant) -> StreamSnapshot {
    StreamSnapshot {
        stream: stream.id,
        received_bytes: stream.received,
        unread_bytes: stream.unread,
        credit_bytes: stream.left,
    }
}
