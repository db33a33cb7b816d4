//! Answers as bytes: framed protobuf, written straight from the store's types.
//!
//! The answers of the hot calls (Range, Put, watch events) are encoded here by hand, so that a value is never copied
//! into an intermediate message, and a large one not at all: it leaves as a slice of the store's own buffer. The
//! rest goes through `prost`. Field numbers are those of `setpoint-proto`'s `rpc.proto` and `kv.proto`; a test
//! compares both encodings.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use prost::Message;
use setpoint_proto::etcdserverpb as pb;
use tonic::Status;

use super::few::Hold;
use super::inbound::FRAME_BYTES;
use super::listing::{MARGIN_BYTES, PIECE_BYTES};
use super::wide::Wide;
use crate::core::index::Version;
use crate::types::{Event, EventKind, KeyValue};

/// Values from this size on are not copied into a piece.
pub(super) const SHARE_BYTES: usize = 16 << 10;
/// The largest message a Go server sends, and so the largest a client expects.
const MESSAGE_BYTES_MAX: usize = i32::MAX as usize;
/// Any constant does: there is one member, and it leads. A new etcd of one member is in term 2.
pub(crate) const RAFT_TERM: u64 = 2;

/// What a unary call answers.
pub(super) enum Reply {
    /// One framed message.
    Whole(Bytes),
    /// One framed message in pieces.
    Pieces(VecDeque<Bytes>),
    /// One framed message, read as it is sent.
    Wide(Box<Wide>),
    /// A large one, with the room it takes until it has been sent.
    Held(Box<Reply>, Hold),
}

/// Frames a message made by `prost`.
pub(super) fn message(message: &impl Message) -> Bytes {
    let len = message.encoded_len();
    let mut out = frame(len);
    message
        .encode(&mut out)
        .expect("a BytesMut grows to hold every message");
    out.freeze()
}

/// The header of a gRPC message of `len` bytes, with room for the message.
fn frame(len: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(FRAME_BYTES + len);
    put_frame(&mut out, len);
    out
}

pub(super) fn put_frame(out: &mut BytesMut, len: usize) {
    let [a, b, c, d] = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
    out.extend_from_slice(&[0, a, b, c, d]);
}

/// Says how long the message is whose header was written without knowing it.
pub(super) fn set_frame(framed: &mut BytesMut, len: usize) {
    if let Some(place) = framed.get_mut(1..FRAME_BYTES) {
        place.copy_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
    }
}

fn varint_len(value: u64) -> usize {
    // Seven bits a byte; zero takes one.
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Bytes of an integer field with a one-byte tag; nothing when it is 0.
pub(super) fn int_len(value: i64) -> usize {
    if value == 0 {
        0
    } else {
        1 + varint_len(value as u64)
    }
}

pub(super) fn put_int(out: &mut BytesMut, field: u8, value: i64) {
    if value != 0 {
        let mut small = Small::new();
        small.int(field, value);
        small.flush(out);
    }
}

/// Bytes of a length-delimited field with a one-byte tag.
pub(super) fn delimited_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

fn put_delimiter(out: &mut BytesMut, field: u8, len: usize) {
    let mut small = Small::new();
    small.delimiter(field, len);
    small.flush(out);
}

/// Bytes of a field of so many bytes; nothing when it is empty.
fn bytes_len(len: usize) -> usize {
    if len == 0 { 0 } else { delimited_len(len) }
}

/// A key-value pair without the bytes of its value.
pub(super) struct Fields<'a> {
    pub(super) key: &'a [u8],
    pub(super) create: i64,
    pub(super) modified: i64,
    pub(super) version: i64,
    pub(super) value_len: usize,
    /// 0 is none.
    pub(super) lease: i64,
}

impl<'a> Fields<'a> {
    pub(super) fn of(kv: &'a KeyValue) -> Self {
        Self {
            key: &kv.key,
            create: kv.create_revision.0,
            modified: kv.mod_revision.0,
            version: kv.version,
            value_len: kv.value.len(),
            lease: lease(kv),
        }
    }

    /// Bytes of the pair.
    pub(super) fn len(&self) -> usize {
        bytes_len(self.key.len())
            + int_len(self.create)
            + int_len(self.modified)
            + int_len(self.version)
            + bytes_len(self.value_len)
            + int_len(self.lease)
    }

    /// All of it, which takes `len` bytes as a `field`, up to where the value's bytes follow. It is two tags and two
    /// numbers, then four of each: never more than fit.
    pub(super) fn put_head(&self, out: &mut BytesMut, field: u8, len: usize) {
        let mut small = Small::new();
        small.delimiter(field, len);
        if !self.key.is_empty() {
            small.delimiter(1, self.key.len());
            small.flush(out);
            out.extend_from_slice(self.key);
        }
        small.int(2, self.create);
        small.int(3, self.modified);
        small.int(4, self.version);
        if self.value_len > 0 {
            small.delimiter(5, self.value_len);
        }
        small.flush(out);
    }
}

fn kv_len(kv: &KeyValue) -> usize {
    Fields::of(kv).len()
}

fn lease(kv: &KeyValue) -> i64 {
    kv.lease.map_or(0, |lease| lease.0)
}

/// Tags and numbers on their way out: they are many and small, and go over together.
struct Small {
    bytes: [u8; 64],
    len: usize,
}

impl Small {
    fn new() -> Self {
        Self {
            bytes: [0; 64],
            len: 0,
        }
    }

    fn byte(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.byte((value as u8) | 0x80);
            value >>= 7;
        }
        self.byte(value as u8);
    }

    fn int(&mut self, field: u8, value: i64) {
        if value != 0 {
            self.byte(field << 3);
            self.varint(value as u64);
        }
    }

    fn delimiter(&mut self, field: u8, len: usize) {
        self.byte((field << 3) | 2);
        self.varint(len as u64);
    }

    fn flush(&mut self, out: &mut BytesMut) {
        out.extend_from_slice(&self.bytes[..self.len]);
        self.len = 0;
    }
}

fn put_kv(out: &mut BytesMut, field: u8, kv: &KeyValue) {
    let fields = Fields::of(kv);
    fields.put_head(out, field, fields.len());
    out.extend_from_slice(&kv.value);
    put_int(out, 6, fields.lease);
}

/// Bytes of a response header.
pub(super) fn header_len(header: &pb::ResponseHeader) -> usize {
    header.encoded_len()
}

/// Writes it as field 1: at most four numbers of ten bytes.
pub(super) fn put_header(out: &mut BytesMut, header: &pb::ResponseHeader) {
    let mut small = Small::new();
    small.delimiter(1, header.encoded_len());
    small.int(1, header.cluster_id as i64);
    small.int(2, header.member_id as i64);
    small.int(3, header.revision);
    small.int(4, header.raft_term as i64);
    small.flush(out);
}

/// Frames a PutResponse.
pub(super) fn put(header: &pb::ResponseHeader, prev_kv: Option<&KeyValue>) -> Bytes {
    let len = delimited_len(header.encoded_len()) + prev_kv.map_or(0, |kv| delimited_len(kv_len(kv)));
    let mut out = frame(len);
    put_header(&mut out, header);
    if let Some(kv) = prev_kv {
        put_kv(&mut out, 2, kv);
    }
    out.freeze()
}

/// What surrounds the keys of a RangeResponse.
#[derive(Clone, Copy, Debug)]
pub(super) struct Around {
    header: pb::ResponseHeader,
    more: bool,
    count: i64,
}

impl Around {
    pub(super) fn new(header: pb::ResponseHeader, more: bool, count: i64) -> Self {
        Self { header, more, count }
    }

    /// The length of the message, if its keys take `kvs_len` bytes.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when it is larger than a gRPC message may be.
    pub(super) fn len(&self, kvs_len: usize) -> Result<usize, Status> {
        let tail_len = int_len(self.more.into()) + int_len(self.count);
        let len = delimited_len(self.header.encoded_len()) + kvs_len + tail_len;
        if len > MESSAGE_BYTES_MAX {
            return Err(Status::resource_exhausted(format!(
                "grpc: trying to send message larger than max ({len} vs. {MESSAGE_BYTES_MAX})"
            )));
        }
        Ok(len)
    }

    /// Frame and header of a response whose keys take `kvs_len` bytes, with room for the first of them.
    ///
    /// # Errors
    /// As [`Around::len`].
    pub(super) fn begin(&self, kvs_len: usize) -> Result<BytesMut, Status> {
        let len = self.len(kvs_len)?;
        let mut head = BytesMut::with_capacity((FRAME_BYTES + len + MARGIN_BYTES).min(PIECE_BYTES));
        put_frame(&mut head, len);
        put_header(&mut head, &self.header);
        Ok(head)
    }

    pub(super) fn end(&self, out: &mut BytesMut) {
        put_int(out, 3, self.more.into());
        put_int(out, 4, self.count);
    }
}

/// Bytes that a key takes in a RangeResponse, without looking at its value; whether values and leases are
/// shown.
pub(super) fn listed_len(key_len: usize, version: &Version, (values, leases): (bool, bool)) -> usize {
    let value_len = if values { version.at.len as usize } else { 0 };
    let lease = if leases { version.lease } else { 0 };
    let numbers = [version.create, version.modified, version.version, lease];
    delimited_len(bytes_len(key_len) + bytes_len(value_len) + numbers.map(int_len).iter().sum::<usize>())
}

/// The event as one `events` field of a WatchResponse, encoded once for all watchers that see it.
pub(super) fn event(event: &Event, prev_kv: bool) -> &Bytes {
    event.encoded[usize::from(prev_kv)].get_or_init(|| {
        let prev = event.prev_kv.as_ref().filter(|_| prev_kv);
        let kind = match event.kind {
            EventKind::Put => 0,
            EventKind::Delete => 1,
        };
        let len =
            int_len(kind) + delimited_len(kv_len(&event.kv)) + prev.map_or(0, |kv| delimited_len(kv_len(kv)));
        let mut out = BytesMut::with_capacity(delimited_len(len));
        put_delimiter(&mut out, 11, len);
        put_int(&mut out, 1, kind);
        put_kv(&mut out, 2, &event.kv);
        if let Some(kv) = prev {
            put_kv(&mut out, 3, kv);
        }
        out.freeze()
    })
}

/// A key-value pair for the messages that `prost` encodes.
pub(super) fn kv(kv: KeyValue) -> setpoint_proto::mvccpb::KeyValue {
    setpoint_proto::mvccpb::KeyValue {
        lease: lease(&kv),
        key: kv.key,
        create_revision: kv.create_revision.0,
        mod_revision: kv.mod_revision.0,
        version: kv.version,
        value: kv.value,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::OnceLock;

    use setpoint_proto::mvccpb;

    use super::super::gather::Gathered;
    use super::*;
    use crate::types::{LeaseId, Revision};

    pub(in crate::etcd) fn sample(value_len: usize, lease: i64) -> KeyValue {
        KeyValue {
            key: Bytes::from_static(b"/registry/pods/default/a"),
            value: (0..value_len).map(|n| n as u8).collect(),
            create_revision: Revision(300),
            mod_revision: Revision(70_000),
            version: 2,
            lease: (lease != 0).then_some(LeaseId(lease)),
        }
    }

    pub(in crate::etcd) fn header() -> pb::ResponseHeader {
        pb::ResponseHeader {
            cluster_id: u64::MAX,
            member_id: 1,
            revision: 128,
            raft_term: RAFT_TERM,
        }
    }

    #[test]
    fn a_put_answer_is_what_prost_would_write() {
        for prev_kv in [None, Some(sample(300, 4))] {
            let expect = message(&pb::PutResponse {
                header: Some(header()),
                prev_kv: prev_kv.clone().map(kv),
            });
            assert_eq!(put(&header(), prev_kv.as_ref()), expect);
        }
    }

    #[test]
    fn events_are_what_prost_would_write() {
        for (kind, prev) in [
            (EventKind::Put, None),
            (EventKind::Delete, Some(sample(20_000, 4))),
        ] {
            let source = Event {
                kind,
                kv: sample(if kind == EventKind::Put { 50 } else { 0 }, 0),
                prev_kv: prev.clone(),
                trace: None,
                encoded: [OnceLock::new(), OnceLock::new()],
            };
            for with_prev in [false, true] {
                let expect = message(&pb::WatchResponse {
                    header: Some(header()),
                    watch_id: 3,
                    fragment: with_prev,
                    events: vec![
                        mvccpb::Event {
                            r#type: i32::from(kind == EventKind::Delete),
                            kv: Some(kv(source.kv.clone())),
                            prev_kv: prev.clone().filter(|_| with_prev).map(kv),
                        };
                        2
                    ],
                    ..Default::default()
                });
                let encoded = event(&source, with_prev);
                let mut gathered = Gathered::default();
                gathered.events(&header(), (3, with_prev), [encoded, encoded].into_iter(), 0);
                assert!(gathered.into_pieces().concat() == expect, "{kind:?} {with_prev}");
            }
        }
    }
}
