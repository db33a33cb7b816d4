//! Frames and headers, byte by byte.

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD: usize = 9;
/// Frame types of RFC 9113 §6.
pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
/// Flags: END_STREAM and ACK share a bit, on different frames.
pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// The head of a frame.
#[derive(Clone, Copy)]
pub(super) struct Head {
    /// Bytes that follow.
    pub(super) len: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

pub(super) fn split_head(input: &[u8]) -> Option<(Head, &[u8])> {
    let (head, later) = input.split_first_chunk::<FRAME_HEAD>()?;
    let parsed = Head {
        len: u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize,
        kind: head[3],
        flags: head[4],
        stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff,
    };
    Some((parsed, later))
}

pub(super) fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    frame_head(out, kind, flags, stream, payload.len());
    out.extend_from_slice(payload);
}

pub(super) fn frame_head(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, len: usize) {
    out.extend_from_slice(&(len as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
}

/// A literal header that enters the table, its name from the static one.
pub(super) fn literal(block: &mut Vec<u8>, name: u8, value: &str) {
    block.push(0x40 | name);
    string(block, value);
}

/// A string without Huffman coding; ours are shorter than 127 bytes.
pub(super) fn string(block: &mut Vec<u8>, value: &str) {
    block.push(value.len().min(126) as u8);
    block.extend_from_slice(&value.as_bytes()[..value.len().min(126)]);
}
