//! HTTP/2 frames, byte by byte (RFC 9113 §4.1), as no library would send them.
//!
//! ```
//! use setpoint_testkit::frames::{PING, frame};
//!
//! assert_eq!(frame(PING, 0, 0, b"abcdefgh"), b"\0\0\x08\x06\0\0\0\0\0abcdefgh");
//! ```

/// What a client's connection begins with (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames, by their number on the wire.
pub const DATA: u8 = 0;
/// The head of a call or of an answer, or trailers.
pub const HEADERS: u8 = 1;
/// Of no use any more.
pub const PRIORITY: u8 = 2;
/// The end of a stream before its time.
pub const RST_STREAM: u8 = 3;
/// What one side wants of the other.
pub const SETTINGS: u8 = 4;
/// An answer to what was not asked.
pub const PUSH_PROMISE: u8 = 5;
/// To be sent back.
pub const PING: u8 = 6;
/// The end of a connection.
pub const GOAWAY: u8 = 7;
/// Credit.
pub const WINDOW_UPDATE: u8 = 8;
/// More of a head.
pub const CONTINUATION: u8 = 9;

/// The flag of a stream's last DATA or HEADERS.
pub const END_STREAM: u8 = 1;
/// The flag of HEADERS and CONTINUATION that are whole.
pub const END_HEADERS: u8 = 4;
/// The flag of SETTINGS and PING that answer.
pub const ACK: u8 = 1;

/// A frame of any kind. Nothing is checked.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut frame = vec![a, b, c, kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Credit of so many bytes; stream 0 is the connection.
#[must_use]
pub fn update(stream: u32, bytes: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
}

/// The end of a stream for this reason, by its number.
#[must_use]
pub fn reset(stream: u32, reason: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &reason.to_be_bytes())
}

/// A client's preface and settings; the window is that of each stream.
#[must_use]
pub fn hello(window: u32) -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    let mut setting = vec![0, 4];
    setting.extend_from_slice(&window.to_be_bytes());
    bytes.extend(frame(SETTINGS, 0, 0, &setting));
    bytes
}

/// The block of headers of a POST: literals that no table remembers. More may follow it.
///
/// # Panics
/// When the path has more than 126 bytes.
#[must_use]
pub fn head(path: &str) -> Vec<u8> {
    // ":method: POST" and ":scheme: http" are entries 3 and 6; the name ":path" is that of entry 4.
    let mut block = vec![0x83, 0x86, 0x04];
    literal(&mut block, path);
    block
}

/// Adds a header to a block, as a literal that no table remembers.
///
/// # Panics
/// When the name or the value has more than 126 bytes.
pub fn header(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    literal(block, name);
    literal(block, value);
}

fn literal(block: &mut Vec<u8>, text: &str) {
    let len = u8::try_from(text.len()).ok().filter(|len| *len < 127);
    block.push(len.expect("lengths of one byte are all that is made here"));
    block.extend_from_slice(text.as_bytes());
}

/// A POST without a body.
///
/// # Panics
/// When the path has more than 126 bytes.
#[must_use]
pub fn call(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &head(path))
}
