//! What a peer may send on one connection, by stream and altogether: the receiving half of HTTP/2's flow control
//! (RFC 9113 §5.2, §6.9), kept by ourselves.
//!
//! ```text
//! stream      initial window + WINDOW_UPDATEs − received = what its sender has left; negative after a smaller SETTINGS
//!             target: released + window; the window of a stream that nobody reads stays the initial one
//! connection  65,535 + WINDOW_UPDATEs − arrived          = what all have left
//!             target: released + window, and no more than arrived + what may be under way
//! ```
//!
//! *Released* is what was read, padding, what came for streams that nobody reads any more, and what a reader left behind.
//! A stream is known from its opening until its peer has ended it and its reader has left; whatever comes for others counts
//! as released. The frames that say all this are seen by whoever moves the bytes: [`Grants::received`] for what comes,
//! [`Outgoing`] for what goes. Windows are set by others; [`Grants::updates`] makes the frames that bring them about.

mod ids;
mod outgoing;
mod rounds;
mod samples;
mod shown;

#[cfg(test)]
mod beginning;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod sharing;
#[cfg(test)]
mod tests;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use self::ids::IdHasher;
pub(crate) use self::outgoing::Outgoing;
use self::samples::Samples;
pub(crate) use self::shown::StreamGrant;
use super::frames::{ACK, END_STREAM, Head, Kind};

/// Every window before anything is said (RFC 9113 §6.9.2), in bytes.
const FIRST_WINDOW: u64 = 65_535;
/// The largest window there is (RFC 9113 §6.9.1), in bytes.
pub(crate) const WINDOW_MAX: u64 = (1 << 31) - 1;
/// Streams that are remembered after their reader has left, so that a peer that goes on is held to its window.
const LEFT_MAX: usize = 64;
/// Updates are worth their frame from so many bytes on, or from half of a smaller window.
const UPDATE_MIN: u64 = 8 << 10;

/// Who opens the streams that are received on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Role {
    /// The peer, with its HEADERS.
    #[default]
    Server,
    /// We, with our HEADERS.
    Client,
}

/// A peer has sent more than it was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overrun;

#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    received: u64,
    released: u64,
    /// What WINDOW_UPDATEs have added to the initial window.
    extra: u64,
    /// Somebody may read it.
    has_reader: bool,
    /// Nobody will read any more.
    left: bool,
    /// The peer has said all.
    ended: bool,
    /// The peer was told that nothing more is wanted.
    reset: bool,
    /// It is among those that get an update.
    due: bool,
    /// The last round in which it sent something, and how much that was.
    round: u32,
    sent: u32,
    /// The most that it sent in a round, the less the longer ago that was.
    peak: u32,
    /// It had sent something before the last round.
    is_known: bool,
    /// What it may have by that, at most; 0 is as much as any.
    own: u32,
}

/// How far the first SETTINGS have come.
#[derive(Clone, Copy, Debug)]
enum Greeting {
    Unsaid,
    /// They are written from this moment on.
    Said(Instant),
    /// They were acknowledged, and somebody has asked.
    Over,
}

/// What the peer of one connection may send, and has.
#[derive(Debug)]
pub(crate) struct Grants {
    role: Role,
    streams: HashMap<u32, Stream, IdHasher>,
    /// The last stream that was opened, and the last that is served at all.
    opened: u32,
    served: u32,
    receiving: u64,
    left: VecDeque<u32>,
    /// The initial window that SETTINGS are to say, the one they said last, and the largest that the peer may still go by.
    initial: u64,
    announced: u64,
    in_force: u64,
    settings_sent: u64,
    settings_acked: u64,
    greeting: Greeting,
    /// The protocol has written its own update of the connection: until then it holds all streams to the first window, and
    /// reads what has come before it writes.
    is_open: bool,
    /// The window of streams that are read.
    share: u64,
    /// The same at the end of the last two rounds.
    shares: [u64; 2],
    /// The connection's, what is unread included.
    window: u64,
    /// What of that may have been sent and not have arrived.
    under_way: u64,
    arrived: u64,
    released: u64,
    granted: u64,
    due: Vec<u32>,
    /// Windows have changed for all.
    all_due: bool,
    in_turn: bool,
    woken: bool,
    round: u32,
    samples: Samples,
}

impl Default for Grants {
    fn default() -> Self {
        Self {
            role: Role::Server,
            streams: HashMap::default(),
            opened: 0,
            served: u32::MAX,
            receiving: 0,
            left: VecDeque::new(),
            initial: FIRST_WINDOW,
            announced: FIRST_WINDOW,
            in_force: FIRST_WINDOW,
            settings_sent: 0,
            settings_acked: 0,
            greeting: Greeting::Unsaid,
            is_open: false,
            share: FIRST_WINDOW,
            shares: [FIRST_WINDOW; 2],
            window: FIRST_WINDOW,
            under_way: WINDOW_MAX,
            arrived: 0,
            released: 0,
            granted: FIRST_WINDOW,
            due: Vec::new(),
            all_due: false,
            in_turn: false,
            woken: false,
            round: 0,
            samples: Samples::default(),
        }
    }
}

impl Grants {
    /// To be said before anything is sent or received.
    pub(crate) fn is_of(&mut self, role: Role) {
        self.role = role;
    }

    /// The last stream that was opened.
    pub(crate) fn opened(&self) -> u32 {
        self.opened
    }

    /// All DATA so far, in bytes, padding included.
    pub(crate) fn arrived(&self) -> u64 {
        self.arrived
    }

    /// What of it has not been released, in bytes.
    pub(crate) fn unread(&self) -> u64 {
        self.arrived - self.released
    }

    /// Streams whose peer has not said all, and that somebody may still read.
    pub(crate) fn receiving(&self) -> u64 {
        self.receiving
    }

    /// The initial window that was announced last, in bytes.
    pub(crate) fn announced(&self) -> u64 {
        self.announced
    }

    /// Whether the peer has acknowledged all SETTINGS.
    pub(crate) fn is_settled(&self) -> bool {
        self.settings_acked >= self.settings_sent
    }

    /// The initial window that the next SETTINGS announce, in bytes.
    pub(crate) fn set_initial(&mut self, bytes: u64) {
        self.initial = bytes.min(WINDOW_MAX);
    }

    /// The window of streams that are read, in bytes.
    pub(crate) fn set_share(&mut self, bytes: u64) {
        self.share = bytes.min(WINDOW_MAX);
    }

    /// The connection's window, what is unread included, in bytes.
    pub(crate) fn set_window(&mut self, bytes: u64) {
        self.window = bytes.min(WINDOW_MAX);
    }

    /// What all streams together may have under way, in bytes, whatever each may send by itself.
    pub(crate) fn set_under_way(&mut self, bytes: u64) {
        self.under_way = bytes.clamp(FIRST_WINDOW, WINDOW_MAX);
    }

    /// What a round trip takes, about.
    pub(crate) fn round_is(&mut self, round: Duration) {
        self.samples.round_is(round);
    }

    /// What was said until now is about to be written.
    pub(crate) fn leaves(&mut self, now: impl FnOnce() -> Instant) {
        if self.settings_sent > 0 && matches!(self.greeting, Greeting::Unsaid) {
            self.greeting = Greeting::Said(now());
        }
    }

    /// When the first SETTINGS were written, once they have been acknowledged: a round trip took no longer. Told once.
    pub(crate) fn greeted(&mut self) -> Option<Instant> {
        match self.greeting {
            Greeting::Said(at) if self.settings_acked > 0 => {
                self.greeting = Greeting::Over;
                Some(at)
            }
            _ => None,
        }
    }

    /// When credit was given that has been used just now, if that is known: a round trip took no longer.
    pub(crate) fn credit_used(&mut self) -> Option<Instant> {
        self.samples.used()
    }

    /// Takes a frame that has begun to arrive. Whether it may bring its stream forward: it opens one that is served, or its
    /// peer had not said all.
    ///
    /// # Errors
    /// [`Overrun`]: nothing of it, or of what follows, may be used.
    pub(crate) fn received(&mut self, head: &Head) -> Result<bool, Overrun> {
        let ends = head.flags & END_STREAM != 0;
        match head.kind {
            kind if kind == Kind::Data as u8 => return self.data(head, ends),
            kind if kind == Kind::Headers as u8 => return Ok(self.headers(head.stream, ends)),
            kind if kind == Kind::Reset as u8 => {
                self.ended(head.stream);
                self.is_orphaned(head.stream);
            }
            kind if kind == Kind::Settings as u8 && head.flags & ACK != 0 => self.acknowledged(),
            _ => (),
        }
        Ok(true)
    }

    fn headers(&mut self, id: u32, ends: bool) -> bool {
        if self.role == Role::Client {
            if ends {
                self.ended(id);
            }
            // Answers are counted beside calls.
            return true;
        }
        if id > self.opened && id <= self.served {
            self.opened = id;
            if !ends {
                self.open(id, Stream::default());
            }
            return true;
        }
        ends && self.ended(id)
    }

    /// Somebody may read the stream from here on. A client's may be said before its request is written.
    pub(crate) fn has_reader(&mut self, id: u32) {
        if self.role == Role::Client && id > self.opened {
            self.open(id, Stream::default());
        }
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.has_reader = true;
        }
    }

    /// So many bytes of the stream need no more room. Whether the connection has to be woken to say so.
    pub(crate) fn read(&mut self, id: u32, bytes: u64) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else {
            return false;
        };
        let bytes = bytes.min(stream.received - stream.released);
        stream.released += bytes;
        self.released += bytes;
        if !stream.due && update(stream, self.share, self.announced).is_some() && self.settings_acked > 0 {
            stream.due = true;
            self.due.push(id);
        }
        self.wakes()
    }

    /// Nobody will read the stream any more. Whether the connection has to be woken to say so.
    pub(crate) fn has_left(&mut self, id: u32) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else {
            return false;
        };
        self.released += stream.received - stream.released;
        stream.released = stream.received;
        if !std::mem::replace(&mut stream.left, true) && !stream.ended {
            self.receiving -= 1;
            self.left.push_back(id);
        }
        if stream.ended {
            self.streams.remove(&id);
        } else if self.left.len() > LEFT_MAX
            && let Some(oldest) = self.left.pop_front()
        {
            self.streams.remove(&oldest);
        }
        self.wakes()
    }

    /// A turn of the connection begins: what becomes due needs no wake-up until it ends.
    pub(crate) fn begin_turn(&mut self) {
        self.in_turn = true;
    }

    /// A turn ends; [`Grants::updates`] come after it.
    pub(crate) fn end_turn(&mut self) {
        self.in_turn = false;
    }

    /// Writes the WINDOW_UPDATEs that are due. Only between frames, and not within a block of headers. `now` is asked now and
    /// then.
    pub(crate) fn updates(&mut self, out: &mut Vec<u8>, now: impl FnOnce() -> Instant) {
        self.woken = false;
        if self.settings_sent == 0 {
            return;
        }
        let more = self.connection_update();
        if more > 0 {
            self.granted += more;
            window_update(0, more, out);
        }
        if self.settings_acked == 0 {
            // Until then the protocol's own are passed on.
            return;
        }
        if std::mem::take(&mut self.all_due) {
            let all = self.streams.iter_mut().filter(|(_, stream)| !stream.due);
            for (id, stream) in all {
                if update(stream, self.share, self.announced).is_some() {
                    stream.due = true;
                    self.due.push(*id);
                }
            }
        }
        let mut sample = None;
        for id in self.due.drain(..) {
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            stream.due = false;
            if let Some(more) = update(stream, self.share, self.announced) {
                sample = sample.or(Some((id, self.announced + stream.extra)));
                stream.extra += more;
                window_update(id, more, out);
            }
        }
        if let Some((stream, before)) = sample {
            self.samples.given(stream, before, now());
        }
        if self.due.capacity() > 256 {
            self.due = Vec::new();
        }
    }

    fn data(&mut self, head: &Head, ends: bool) -> Result<bool, Overrun> {
        let (bytes, mut free) = (head.bytes, head.padding);
        let mut awaited = false;
        if bytes > 0 && self.arrived + bytes > self.granted {
            return Err(Overrun);
        }
        match self.streams.get_mut(&head.stream) {
            None => free = bytes,
            Some(stream) => {
                if bytes > 0 && stream.received + bytes > self.in_force + stream.extra {
                    return Err(Overrun);
                }
                awaited = !stream.ended;
                if stream.left {
                    free = bytes;
                }
                stream.received += bytes;
                stream.released += free;
                if stream.round != self.round {
                    (stream.round, stream.sent) = (self.round, 0);
                }
                // A frame has less than 2^24 bytes.
                stream.sent = stream.sent.saturating_add(bytes as u32);
                self.samples.received(head.stream, stream.received);
            }
        }
        self.arrived += bytes;
        self.released += free;
        if ends {
            self.ended(head.stream);
        }
        Ok(awaited)
    }

    fn open(&mut self, id: u32, stream: Stream) {
        if let Entry::Vacant(vacant) = self.streams.entry(id) {
            vacant.insert(stream);
            self.receiving += 1;
        }
    }

    /// HEADERS leave.
    fn says(&mut self, id: u32) {
        if self.role == Role::Client && id > self.opened {
            self.open(id, Stream::default());
            self.opened = id;
        }
    }

    /// The peer says no more on it. Whether it could until now.
    fn ended(&mut self, id: u32) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else {
            return false;
        };
        let could = !std::mem::replace(&mut stream.ended, true);
        if could && !stream.left {
            self.receiving -= 1;
        }
        if stream.left || stream.received == stream.released {
            self.streams.remove(&id);
        }
        could
    }

    fn acknowledged(&mut self) {
        if self.settings_acked == self.settings_sent {
            // The protocol ends such a connection.
            return;
        }
        self.settings_acked += 1;
        if self.is_settled() {
            self.in_force = self.announced;
        }
        self.all_due |= self.settings_acked == 1;
    }

    /// SETTINGS leave; what they have to say of the initial window.
    fn settings(&mut self) -> u32 {
        self.settings_sent += 1;
        self.announced = self.initial;
        self.in_force = self.in_force.max(self.announced);
        self.all_due = true;
        // At most the largest window.
        self.announced as u32
    }

    /// A WINDOW_UPDATE of the protocol's own wants to leave; whether it may.
    fn passes(&mut self, id: u32, bytes: u64) -> bool {
        self.is_open |= id == 0;
        if self.settings_acked > 0 || id == 0 {
            return false;
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            return false;
        };
        stream.extra += bytes;
        true
    }

    /// RST_STREAM leaves.
    fn reset(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.reset = true;
        self.is_orphaned(id);
    }

    /// The stream is over. If it has no reader, it was refused, or will have one that finds nothing of it here.
    fn is_orphaned(&mut self, id: u32) {
        if self.streams.get(&id).is_some_and(|stream| !stream.has_reader) {
            self.has_left(id);
        }
    }

    /// GOAWAY leaves: streams after that one are not served, whatever comes on them.
    fn goes_away(&mut self, last: u32) {
        if self.role == Role::Client {
            return;
        }
        self.served = self.served.min(last);
        let unserved = |(id, stream): (&u32, &Stream)| (*id > last && !stream.has_reader).then_some(*id);
        let gone: Vec<u32> = self.streams.iter().filter_map(unserved).collect();
        for id in gone {
            self.has_left(id);
        }
    }

    /// Whether the connection's task has to be woken for what has become due.
    fn wakes(&mut self) -> bool {
        let due = !self.due.is_empty() || self.connection_update() > 0;
        due && !self.in_turn && !std::mem::replace(&mut self.woken, true)
    }

    /// What to add to the connection's credit; 0 if it is not worth it.
    fn connection_update(&self) -> u64 {
        if !self.is_open {
            return 0;
        }
        let target = (self.released + self.window).min(self.arrived + self.under_way);
        let more = target.saturating_sub(self.granted);
        let step = step(target.saturating_sub(self.arrived));
        if more >= step { more.min(WINDOW_MAX) } else { 0 }
    }
}

/// What to add to a stream's credit, if it is worth it.
fn update(stream: &Stream, share: u64, announced: u64) -> Option<u64> {
    if stream.left || stream.ended || stream.reset {
        return None;
    }
    let window = stream.window(share, announced);
    let target = stream.released + window;
    let more = target.saturating_sub(announced + stream.extra);
    (more >= step(window)).then(|| more.min(WINDOW_MAX))
}

/// How much credit has to be missing before it is given. Never more than half of the window, so that a sender that waits
/// has been given it.
fn step(window: u64) -> u64 {
    (window / 64).max(UPDATE_MIN).min(window / 2).max(1)
}

/// Writes a WINDOW_UPDATE.
pub(crate) fn window_update(stream: u32, bytes: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&[0, 0, 4, Kind::WindowUpdate as u8, 0]);
    out.extend_from_slice(&stream.to_be_bytes());
    // At most the largest window.
    out.extend_from_slice(&(bytes as u32).to_be_bytes());
}
