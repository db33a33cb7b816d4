//! An HTTP/2 client that costs little: one connection, some callers, each with one call at a time.
//!
//! Requests are copied from a template; headers are indexed after the first call, as any gRPC client's are, so that
//! the server's work is the usual one. Responses are not decoded: a message followed by trailers is a success, headers
//! that end the stream are an error. It speaks as much of RFC 9113 as a gRPC server needs from a client: settings,
//! pings, both directions of flow control.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::requests::Template;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD: usize = 9;
/// The flag and the length before a gRPC message.
const MESSAGE_HEAD: usize = 5;
/// Frame types of RFC 9113 §6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
/// Flags: END_STREAM and ACK share a bit, on different frames.
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// The window a connection starts with.
const DEFAULT_WINDOW: i64 = 65_535;
/// Largest frame a peer has to take.
const FRAME_BYTES_MAX: usize = 16_384;
/// How long calls that were due may be late at the end before they count as failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Watchers of a stream that are asked for before the first is there.
const IN_FLIGHT: usize = 8;
/// What one read takes at most: much of an answer, and little enough to stay in a core's cache.
const READ_BYTES: usize = 128 << 10;
/// We let the server send this much before it hears from us again.
const OUR_WINDOW: u32 = 1 << 30;

/// What is known of each stream of a connection.
type Streams<T> = HashMap<u32, T, BuildHasherDefault<StreamHasher>>;

/// Stream numbers are our own and in a row, so that nobody can choose them to collide.
#[derive(Default)]
struct StreamHasher(u64);

impl Hasher for StreamHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        // 2^64 over the golden ratio: neighbours end far from each other.
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// What a connection measured.
pub(super) struct Measured {
    /// Latencies of successful calls, in microseconds.
    pub(super) latency: Histogram<u64>,
    /// Calls that failed.
    pub(super) failed: u64,
}

impl Measured {
    /// Counts a call, unless it began before `start`.
    fn count(&mut self, began: Instant, now: Instant, start: Instant) {
        if began >= start {
            let micros = now.saturating_duration_since(began).as_micros() as u64;
            self.latency.saturating_record(micros.max(1));
        }
    }
}

/// A new histogram: 1 µs to 100 s, three digits.
pub(super) fn histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, 100_000_000, 3).context("make a histogram")
}

/// One connection.
pub(super) struct Connection {
    socket: TcpStream,
    out: Vec<u8>,
    input: Vec<u8>,
    /// A DATA frame that has begun, with what is still to come of it.
    data: Option<Head>,
    path: &'static str,
    authority: String,
    /// Whether the server's table has our headers.
    indexed: bool,
    next_stream: u32,
    /// What the server lets us send.
    window: i64,
    /// What we received since we last told the server.
    received: u32,
}

/// What happened on a stream.
pub(super) enum Happened<'a> {
    /// A piece of a message.
    Data(u32, &'a [u8]),
    /// The stream ended; whether well.
    Ended(u32, bool),
}

impl Connection {
    /// Connects and says hello. All calls go to `path`.
    pub(super) async fn open(address: SocketAddr, path: &'static str) -> Result<Self> {
        let socket = TcpStream::connect(address)
            .await
            .with_context(|| format!("connect to {address}"))?;
        socket.set_nodelay(true)?;
        let mut out = PREFACE.to_vec();
        // SETTINGS_INITIAL_WINDOW_SIZE (4), then the connection's window.
        frame(
            &mut out,
            SETTINGS,
            0,
            0,
            &[&[0, 4], &OUR_WINDOW.to_be_bytes()[..]].concat(),
        );
        frame(&mut out, WINDOW_UPDATE, 0, 0, &OUR_WINDOW.to_be_bytes());
        Ok(Self {
            socket,
            out,
            input: Vec::with_capacity(READ_BYTES),
            data: None,
            path,
            authority: address.to_string(),
            indexed: false,
            next_stream: 1,
            window: DEFAULT_WINDOW,
            received: 0,
        })
    }

    /// Sends what a connection begins with and waits for the server's side of it.
    pub(super) async fn hello(&mut self) -> Result<()> {
        self.flush().await?;
        self.receive(|_| ()).await?;
        Ok(self.flush().await?)
    }

    /// Begins a call with the request in `body`; `end` when there is no more to say on it.
    fn begin(&mut self, body_len: usize, end: bool, body: impl FnOnce(&mut Vec<u8>)) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        self.head(stream);
        frame_head(
            &mut self.out,
            DATA,
            if end { END_STREAM } else { 0 },
            stream,
            body_len,
        );
        body(&mut self.out);
        self.window -= body_len as i64;
        stream
    }

    /// POST, http, and four headers of our own: literals that enter the server's table at first, their indices
    /// afterwards (RFC 7541; the newest entry is 62).
    fn head(&mut self, stream: u32) {
        if std::mem::replace(&mut self.indexed, true) {
            let block = [0x83, 0x86, 65 | 0x80, 64 | 0x80, 63 | 0x80, 62 | 0x80];
            return frame(&mut self.out, HEADERS, END_HEADERS, stream, &block);
        }
        let mut block = vec![0x83, 0x86];
        // Names from the static table: :path is 4, :authority 1, content-type 31, te has none.
        literal(&mut block, 4, self.path);
        literal(&mut block, 1, &self.authority);
        literal(&mut block, 31, "application/grpc");
        block.extend_from_slice(&[0x40, 2]);
        block.extend_from_slice(b"te");
        string(&mut block, "trailers");
        frame(&mut self.out, HEADERS, END_HEADERS, stream, &block);
    }

    async fn flush(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.socket.write_all(&self.out).await?;
            self.out.clear();
        }
        Ok(())
    }

    /// Reads once and tells what happened; the answers that HTTP/2 itself wants are queued.
    async fn receive(&mut self, mut each: impl FnMut(Happened<'_>)) -> Result<()> {
        if self.socket.read_buf(&mut self.input).await? == 0 {
            bail!("the server closed the connection");
        }
        let input = std::mem::take(&mut self.input);
        let mut rest = self.take_data(&input, &mut each);
        while let Some((head, later)) = split_head(rest) {
            if head.kind == DATA {
                self.data = Some(head);
                rest = self.take_data(later, &mut each);
                continue;
            }
            let Some((payload, later)) = later.split_at_checked(head.len) else {
                break;
            };
            self.handle(head, payload, &mut each)?;
            rest = later;
        }
        let (used, mut input) = (input.len() - rest.len(), input);
        input.drain(..used);
        self.input = input;
        if self.received >= OUR_WINDOW / 4 {
            let increment = std::mem::take(&mut self.received);
            frame(&mut self.out, WINDOW_UPDATE, 0, 0, &increment.to_be_bytes());
        }
        Ok(())
    }

    /// Takes what is there of a DATA frame that has begun, so that no piece of one is moved to where its rest will be;
    /// what comes behind it.
    fn take_data<'a>(&mut self, input: &'a [u8], each: &mut impl FnMut(Happened<'_>)) -> &'a [u8] {
        let Some(mut head) = self.data.take() else {
            return input;
        };
        let (piece, later) = input.split_at(head.len.min(input.len()));
        self.received += piece.len() as u32;
        head.len -= piece.len();
        if !piece.is_empty() {
            each(Happened::Data(head.stream, piece));
        }
        if head.len > 0 {
            self.data = Some(head);
        } else if head.flags & END_STREAM != 0 {
            each(Happened::Ended(head.stream, true));
        }
        later
    }

    fn handle(&mut self, head: Head, payload: &[u8], each: &mut impl FnMut(Happened<'_>)) -> Result<()> {
        match head.kind {
            HEADERS if head.flags & END_STREAM != 0 => each(Happened::Ended(head.stream, true)),
            RST_STREAM => each(Happened::Ended(head.stream, false)),
            SETTINGS if head.flags & ACK == 0 => frame(&mut self.out, SETTINGS, ACK, 0, &[]),
            PING if head.flags & ACK == 0 => frame(&mut self.out, PING, ACK, 0, payload),
            WINDOW_UPDATE if head.stream == 0 => {
                let increment = payload.try_into().map_or(0, u32::from_be_bytes);
                self.window += i64::from(increment);
            }
            GOAWAY => bail!("the server is going away"),
            _ => (),
        }
        Ok(())
    }

    /// Runs `callers` callers, each with one call at a time, until `end` or until there are no more keys; calls begun
    /// by then are awaited. What lies between `start` and `end` counts.
    pub(super) async fn run(
        mut self,
        callers: usize,
        mut template: Template,
        mut keys: impl Iterator<Item = u64>,
        (start, end): (Instant, Instant),
    ) -> Result<Measured> {
        let mut measured = Measured {
            latency: histogram()?,
            failed: 0,
        };
        // Calls in flight: when each began, and whether a message has come.
        let mut calls: Streams<(Instant, bool)> = Streams::default();
        let mut idle = callers;
        let mut no_more = false;
        let mut ended = Vec::with_capacity(callers);
        if template.len() > FRAME_BYTES_MAX {
            bail!(
                "a request of {} bytes does not fit a frame: use smaller values",
                template.len()
            );
        }
        loop {
            let now = Instant::now();
            while idle > 0 && now < end && self.window >= template.len() as i64 {
                let Some(n) = keys.next() else {
                    idle = 0;
                    no_more = true;
                    break;
                };
                idle -= 1;
                let stream = self.begin(template.len(), true, |out| template.write(n, 0, out));
                calls.insert(stream, (now, false));
            }
            if calls.is_empty() && (now >= end || no_more) {
                return Ok(measured);
            }
            self.flush().await?;
            self.receive(|happened| match happened {
                Happened::Data(stream, _) => {
                    if let Some((_, answered)) = calls.get_mut(&stream) {
                        *answered = true;
                    }
                }
                Happened::Ended(stream, well) => ended.push((stream, well)),
            })
            .await?;
            let now = Instant::now();
            for (stream, well) in ended.drain(..) {
                let Some((began, answered)) = calls.remove(&stream) else {
                    continue;
                };
                idle += 1;
                if !well || !answered {
                    measured.failed += 1;
                } else if began >= start && now <= end {
                    measured
                        .latency
                        .saturating_record((now - began).as_micros() as u64);
                }
            }
        }
    }

    /// Opens `streams` streams with `watchers` watchers each and hands every whole message to `each`, until `end` or
    /// until it says `false`.
    pub(super) async fn watch(
        mut self,
        (streams, watchers): (usize, usize),
        mut template: Template,
        end: Instant,
        mut each: impl FnMut(&[u8]) -> bool,
    ) -> Result<()> {
        // Of each stream: what is there of a message, and how many watchers are still to be asked for.
        let mut waiting: Streams<(Vec<u8>, usize)> = Streams::default();
        for _ in 0..streams {
            let stream = self.begin(template.len(), false, |out| template.write(0, 0, out));
            let more = IN_FLIGHT.min(watchers - 1);
            for _ in 0..more {
                self.more(stream, template.len(), |out| template.write(0, 0, out));
            }
            waiting.insert(stream, (Vec::new(), watchers - 1 - more));
        }
        let mut answered = Vec::new();
        let (mut broken, mut wanted) = (false, true);
        while Instant::now() < end && !broken && wanted {
            self.flush().await?;
            let received = self.receive(|happened| match happened {
                Happened::Data(stream, data) => {
                    if let Some((buffer, left)) = waiting.get_mut(&stream) {
                        whole_messages(buffer, data, &mut |message: &[u8]| wanted &= each(message));
                        // Much as etcd's client does it, which waits for each.
                        if *left > 0 && buffer.is_empty() {
                            *left -= 1;
                            answered.push(stream);
                        }
                    }
                }
                Happened::Ended(..) => broken = true,
            });
            match tokio::time::timeout_at(end, received).await {
                Ok(result) => result?,
                Err(_) => break,
            }
            for stream in answered.drain(..) {
                self.more(stream, template.len(), |out| template.write(0, 0, out));
            }
        }
        if broken {
            bail!("the server ended a watch stream");
        }
        Ok(())
    }

    /// Another message on a stream that is open.
    fn more(&mut self, stream: u32, body_len: usize, body: impl FnOnce(&mut Vec<u8>)) {
        frame_head(&mut self.out, DATA, 0, stream, body_len);
        body(&mut self.out);
        self.window -= body_len as i64;
    }

    /// Calls at a steady rate until `end`, each stamped with the microseconds since `epoch`. Calls go out whether
    /// or not those before were answered, so a server that stalls is charged for every call it keeps waiting, and for
    /// one that it never answers all the time until the end.
    pub(super) async fn pace(
        mut self,
        mut template: Template,
        keys: u64,
        per_second: f64,
        epoch: Instant,
        (start, end): (Instant, Instant),
    ) -> Result<Measured> {
        let mut measured = Measured {
            latency: histogram()?,
            failed: 0,
        };
        let mut rng = fastrand::Rng::with_seed(1);
        let gap = Duration::from_secs_f64(1.0 / per_second.max(1e-3));
        let mut due = Instant::now();
        let mut calls: Streams<Instant> = Streams::default();
        let mut ended = Vec::new();
        loop {
            let now = Instant::now();
            while due <= now && due < end && self.window >= template.len() as i64 {
                let stamp = now.saturating_duration_since(epoch).as_micros() as u64;
                let n = rng.u64(..keys);
                let stream = self.begin(template.len(), true, |out| template.write(n, stamp, out));
                calls.insert(stream, now);
                due += gap;
            }
            self.flush().await?;
            if now >= end && (calls.is_empty() || now >= end + PATIENCE) {
                break;
            }
            let wake = if now < end { due.min(end) } else { end + PATIENCE };
            let received = self.receive(|happened| {
                if let Happened::Ended(stream, well) = happened {
                    ended.push((stream, well));
                }
            });
            if let Ok(result) = tokio::time::timeout_at(wake, received).await {
                result?;
            }
            let now = Instant::now();
            for (stream, well) in ended.drain(..) {
                if let Some(began) = calls.remove(&stream) {
                    measured.failed += u64::from(!well);
                    measured.count(began, now, start);
                }
            }
        }
        let now = Instant::now();
        measured.failed += calls.len() as u64;
        calls
            .into_values()
            .for_each(|began| measured.count(began, now, start));
        Ok(measured)
    }
}

/// Cuts gRPC messages out of a stream's data; `buffer` keeps the beginning of one that is not whole yet.
fn whole_messages(buffer: &mut Vec<u8>, mut data: &[u8], each: &mut impl FnMut(&[u8])) {
    // Of what belongs to a message that has begun, its head tells how much is to come.
    while !buffer.is_empty() && !data.is_empty() {
        let whole = message_bytes(buffer).unwrap_or(MESSAGE_HEAD);
        let (part, rest) = data.split_at(data.len().min(whole - buffer.len()));
        buffer.extend_from_slice(part);
        data = rest;
        if message_bytes(buffer) == Some(buffer.len()) {
            each(&buffer[MESSAGE_HEAD..]);
            buffer.clear();
        }
    }
    let used = split_messages(data, each);
    buffer.extend_from_slice(&data[used..]);
}

/// Bytes of the framed message that begins here, once its head is whole.
fn message_bytes(bytes: &[u8]) -> Option<usize> {
    let [_, a, b, c, d, ..] = *bytes else {
        return None;
    };
    Some(MESSAGE_HEAD + u32::from_be_bytes([a, b, c, d]) as usize)
}

/// Hands over the whole messages at the beginning of `bytes`; how many bytes these are.
fn split_messages(bytes: &[u8], each: &mut impl FnMut(&[u8])) -> usize {
    let mut at = 0;
    while let Some(whole) = message_bytes(&bytes[at..]) {
        let Some(message) = bytes.get(at + MESSAGE_HEAD..at + whole) else {
            break;
        };
        each(message);
        at += whole;
    }
    at
}

#[derive(Clone, Copy)]
struct Head {
    /// Bytes that follow.
    len: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

fn split_head(input: &[u8]) -> Option<(Head, &[u8])> {
    let (head, later) = input.split_first_chunk::<FRAME_HEAD>()?;
    let parsed = Head {
        len: u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize,
        kind: head[3],
        flags: head[4],
        stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff,
    };
    Some((parsed, later))
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    frame_head(out, kind, flags, stream, payload.len());
    out.extend_from_slice(payload);
}

fn frame_head(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, len: usize) {
    out.extend_from_slice(&(len as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
}

/// A literal header that enters the table, its name from the static one.
fn literal(block: &mut Vec<u8>, name: u8, value: &str) {
    block.push(0x40 | name);
    string(block, value);
}

/// A string without Huffman coding; ours are shorter than 127 bytes.
fn string(block: &mut Vec<u8>, value: &str) {
    block.push(value.len().min(126) as u8);
    block.extend_from_slice(&value.as_bytes()[..value.len().min(126)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_whole_wherever_the_data_is_cut() {
        let messages = [&b"abc"[..], b"", b"0123456789", b"x"];
        let mut stream = Vec::new();
        for message in messages {
            stream.push(0);
            stream.extend_from_slice(&(message.len() as u32).to_be_bytes());
            stream.extend_from_slice(message);
        }
        for piece in 1..=stream.len() {
            let (mut buffer, mut seen) = (Vec::new(), Vec::new());
            for data in stream.chunks(piece) {
                whole_messages(&mut buffer, data, &mut |message: &[u8]| {
                    seen.push(message.to_vec());
                });
            }
            assert_eq!(seen, messages, "in pieces of {piece}");
            assert!(buffer.is_empty());
        }
    }

    #[tokio::test]
    async fn frames_are_understood_wherever_reads_cut_them() {
        let mut said = Vec::new();
        frame(&mut said, SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]);
        frame(&mut said, HEADERS, END_HEADERS, 1, &[0x88]);
        frame(&mut said, DATA, 0, 1, b"0123456789");
        frame(&mut said, DATA, 0, 3, b"");
        frame(&mut said, DATA, END_STREAM, 3, b"xyz");
        frame(&mut said, HEADERS, END_HEADERS | END_STREAM, 1, &[0x88]);
        frame(&mut said, DATA, END_STREAM, 5, b"");
        frame(&mut said, RST_STREAM, 0, 7, &[0, 0, 0, 2]);
        for piece in [1, 2, 7, 9, 12, 1_000] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (mut data, mut ended) = (HashMap::<u32, Vec<u8>>::new(), Vec::new());
            let speak = async {
                let (mut socket, _) = listener.accept().await.unwrap();
                socket.set_nodelay(true).unwrap();
                for piece in said.chunks(piece) {
                    socket.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
                socket
            };
            let listen = async {
                let mut connection = Connection::open(address, "/").await.unwrap();
                while ended.len() < 4 {
                    let heard = connection.receive(|happened| match happened {
                        Happened::Data(stream, bytes) => data.entry(stream).or_default().extend(bytes),
                        Happened::Ended(stream, well) => ended.push((stream, well)),
                    });
                    heard.await.unwrap();
                }
                (connection.received, connection.input.len())
            };
            let (_socket, counted) = tokio::join!(speak, listen);
            assert_eq!(ended, [(3, true), (1, true), (5, true), (7, false)], "{piece}");
            assert_eq!((&data[&1][..], &data[&3][..]), (&b"0123456789"[..], &b"xyz"[..]));
            assert_eq!(counted, (13, 0));
        }
    }
}
