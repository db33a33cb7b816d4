//! One record of the log, byte by byte (`docs/design/log.md` has a worked example).
//!
//! ```text
//! offset size
//!      0    4  length of the body, little endian
//!      4    4  crc32c(segment salt u64, record offset u32, length u32, body)
//!      8    1  kind: 1 revision, 2 compact, 3 grant, 4 revoke, 5 meta
//!      9    1  flags: bit 0 = a trace follows the revision
//!     10    4  offset of the first record of the same commit
//!     14    8  revision: the record's own, or the store's when the record made none
//!     22   25  trace context, if flagged
//!          …  payload
//! ```
//!
//! The salt is random per segment and the offset is part of the checksum, so neither stale bytes of a
//! recycled file nor a record that landed in the wrong place, nor one quoted inside a value, ever reads
//! as valid. The offset of the commit's first record tells a torn last commit (every record after the
//! damage belongs to the same commit) from damage to an acknowledged one (a later commit follows).
//!
//! Nothing here does I/O or panics on any input.

use setpoint_base::TraceContext;

use super::codec::{Reader, put_varint};
use super::meta::{self, MetaRef};

/// Length and checksum.
pub(crate) const FRAME: usize = 8;
/// Body without trace and payload.
const BODY_MIN: usize = 14;
/// Largest body that is ever written: a delete of tens of millions of keys.
pub(crate) const BODY_MAX: usize = 3 << 30;

const FLAG_TRACE: u8 = 1;
const OP_PUT: u8 = 1;
const OP_DELETE: u8 = 2;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A revision: its operations follow.
    Revision,
    /// History below `floor` is forgotten.
    Compact { floor: i64 },
    /// A lease begins.
    Grant { id: i64, ttl: i64 },
    /// A lease ends; deletions of its keys follow, and make a revision if there are any.
    Revoke { id: i64 },
    /// Side tables change, without a revision; the entries follow.
    Meta,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Revision => 1,
            Self::Compact { .. } => 2,
            Self::Grant { .. } => 3,
            Self::Revoke { .. } => 4,
            Self::Meta => 5,
        }
    }
}

/// One operation inside a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpRef<'a> {
    /// A key was written.
    Put {
        /// Position within the revision, from 0.
        sub: u32,
        key: &'a [u8],
        value: &'a [u8],
        /// Where the value begins, from the start of the record.
        value_at: usize,
        /// 0 is none.
        lease: i64,
        create: i64,
        version: i64,
    },
    /// A key was deleted.
    Delete { sub: u32, key: &'a [u8] },
}

impl<'a> OpRef<'a> {
    pub(crate) fn key(&self) -> &'a [u8] {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => key,
        }
    }
}

/// A record whose checksum holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) kind: Kind,
    #[cfg_attr(not(test), allow(dead_code, reason = "looked at before a record is parsed"))]
    pub(crate) batch_start: u32,
    pub(crate) revision: i64,
    pub(crate) trace: Option<TraceContext>,
    /// Bytes of the whole record with its frame.
    pub(crate) len: usize,
    ops: &'a [u8],
    ops_at: usize,
    ops_count: u32,
    meta: &'a [u8],
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// Length zero: space that was never written.
    Blank,
    /// The body would reach beyond the bytes there are.
    Short,
    /// The checksum does not hold.
    Checksum,
    /// The checksum holds, but the content makes no sense.
    Content,
}

impl Bad {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Blank => "zeros where a record should be",
            Self::Short => "a record that ends beyond its segment",
            Self::Checksum => "a record whose checksum does not match",
            Self::Content => "a record whose content is malformed",
        }
    }
}

/// Reads the record that begins at `bytes[0]`, which lies at `offset` of a segment salted with `salt`.
pub(crate) fn parse(bytes: &[u8], offset: u32, salt: u64) -> Result<Record<'_>, Bad> {
    let (body, crc) = frame(bytes)?;
    if checksum(salt, offset, body) != crc {
        return Err(Bad::Checksum);
    }
    content(body).ok_or(Bad::Content)
}

/// Whether a valid record of a commit that began after `after` may begin here; cheap, says yes too often.
pub(crate) fn plausible(bytes: &[u8], offset: u32, after: u32) -> bool {
    let Ok((body, _)) = frame(bytes) else { return false };
    let start = u32_at(body, 2).unwrap_or(0);
    matches!(body[0], 1..=5) && body[1] & !FLAG_TRACE == 0 && start > after && start <= offset
}

fn frame(bytes: &[u8]) -> Result<(&[u8], u32), Bad> {
    let (Some(len), Some(crc)) = (u32_at(bytes, 0), u32_at(bytes, 4)) else {
        return Err(if bytes.iter().all(|byte| *byte == 0) {
            Bad::Blank
        } else {
            Bad::Short
        });
    };
    if len == 0 && crc == 0 {
        return Err(Bad::Blank);
    }
    let len = len as usize;
    if len < BODY_MIN {
        return Err(Bad::Checksum);
    }
    let body = bytes.get(FRAME..FRAME + len).ok_or(Bad::Short)?;
    Ok((body, crc))
}

fn checksum(salt: u64, offset: u32, body: &[u8]) -> u32 {
    let mut head = [0; 16];
    head[..8].copy_from_slice(&salt.to_le_bytes());
    head[8..12].copy_from_slice(&offset.to_le_bytes());
    // Bounded by BODY_MAX on write; on read the length came from 32 bits.
    head[12..].copy_from_slice(&(body.len() as u32).to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&head), body)
}

/// Any bytes as the body of a record whose checksum holds, for fuzzers.
pub(crate) fn with_checksum(body: &[u8], offset: u32, salt: u64) -> Vec<u8> {
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
    [
        &len.to_le_bytes(),
        &checksum(salt, offset, body).to_le_bytes(),
        body,
    ]
    .concat()
}

fn content(body: &[u8]) -> Option<Record<'_>> {
    let mut rest = Reader { bytes: body, at: 0 };
    let code = rest.byte()?;
    let flags = rest.byte()?;
    let batch_start = rest.u32()?;
    let revision = rest.i64()?;
    if flags & !FLAG_TRACE != 0 || revision < 0 {
        return None;
    }
    let trace = if flags & FLAG_TRACE != 0 {
        TraceContext::from_bytes(rest.take(TraceContext::LEN)?.try_into().ok()?)
    } else {
        None
    };
    let kind = match code {
        1 => Kind::Revision,
        2 => Kind::Compact { floor: rest.i64()? },
        3 => Kind::Grant {
            id: rest.i64()?,
            ttl: rest.i64()?,
        },
        4 => Kind::Revoke { id: rest.i64()? },
        5 => Kind::Meta,
        _ => return None,
    };
    let ops_count = match kind {
        Kind::Revision | Kind::Revoke { .. } => rest.u32()?,
        Kind::Compact { .. } | Kind::Grant { .. } | Kind::Meta => 0,
    };
    let (ops, meta) = match kind {
        Kind::Meta => (&body[..0], &body[rest.at..]),
        _ => (&body[rest.at..], &body[..0]),
    };
    Some(Record {
        kind,
        batch_start,
        revision,
        trace,
        len: FRAME + body.len(),
        ops,
        ops_at: FRAME + rest.at,
        ops_count,
        meta,
    })
}

impl<'a> Record<'a> {
    /// The operations in order. Ends early, with an error, where the content is malformed.
    pub(crate) fn ops(&self) -> impl Iterator<Item = Result<OpRef<'a>, Bad>> + use<'a> {
        let mut rest = Reader {
            bytes: self.ops,
            at: 0,
        };
        let (base, mut left) = (self.ops_at, self.ops_count);
        std::iter::from_fn(move || {
            if left == 0 {
                return (rest.at < rest.bytes.len()).then(|| {
                    rest.at = rest.bytes.len();
                    Err(Bad::Content)
                });
            }
            left -= 1;
            let op = op(&mut rest, base).ok_or(Bad::Content);
            if op.is_err() {
                left = 0;
                rest.at = rest.bytes.len();
            }
            Some(op)
        })
    }

    /// The changes to side tables, in order. Ends early, with an error, where the content is malformed.
    pub(crate) fn meta(&self) -> impl Iterator<Item = Result<MetaRef<'a>, Bad>> + use<'a> {
        meta::entries(self.meta).map(|entry| entry.ok_or(Bad::Content))
    }

    /// Whether the record made a revision of its own.
    pub(crate) fn has_ops(&self) -> bool {
        self.ops_count > 0
    }
}

fn op<'a>(rest: &mut Reader<'a>, base: usize) -> Option<OpRef<'a>> {
    let tag = rest.byte()?;
    let sub = u32::try_from(rest.varint()?).ok()?;
    let key_len = usize::try_from(rest.varint()?).ok()?;
    let key = rest.take(key_len)?;
    match tag {
        OP_DELETE => Some(OpRef::Delete { sub, key }),
        OP_PUT => {
            let lease = rest.varint()? as i64;
            let create = i64::try_from(rest.varint()?).ok()?;
            let version = i64::try_from(rest.varint()?)
                .ok()
                .filter(|version| *version > 0)?;
            let value_len = usize::try_from(rest.varint()?).ok()?;
            let value_at = base + rest.at;
            let value = rest.take(value_len)?;
            Some(OpRef::Put {
                sub,
                key,
                value,
                value_at,
                lease,
                create,
                version,
            })
        }
        _ => None,
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Records of one commit, encoded one after the other; checksums are filled in once their place is known.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    buf: Vec<u8>,
    starts: Vec<usize>,
    count_at: usize,
    count: u32,
}

impl Encoder {
    /// An encoder into a buffer that was used before.
    pub(crate) fn over(mut buf: Vec<u8>) -> Self {
        buf.clear();
        Self {
            buf,
            ..Self::default()
        }
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.buf.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Begins a record; its operations follow, then [`Encoder::end`].
    pub(crate) fn begin(&mut self, kind: Kind, revision: i64, trace: Option<&TraceContext>) {
        self.starts.push(self.buf.len());
        self.buf.extend_from_slice(&[0; FRAME]);
        self.buf.push(kind.code());
        self.buf.push(if trace.is_some() { FLAG_TRACE } else { 0 });
        self.buf.extend_from_slice(&[0; 4]);
        self.buf.extend_from_slice(&revision.to_le_bytes());
        if let Some(trace) = trace {
            self.buf.extend_from_slice(&trace.to_bytes());
        }
        match kind {
            Kind::Revision | Kind::Meta => (),
            Kind::Compact { floor } => self.buf.extend_from_slice(&floor.to_le_bytes()),
            Kind::Grant { id, ttl } => {
                self.buf.extend_from_slice(&id.to_le_bytes());
                self.buf.extend_from_slice(&ttl.to_le_bytes());
            }
            Kind::Revoke { id } => self.buf.extend_from_slice(&id.to_le_bytes()),
        }
        self.count_at = self.buf.len();
        self.count = 0;
        if matches!(kind, Kind::Revision | Kind::Revoke { .. }) {
            self.buf.extend_from_slice(&[0; 4]);
        }
    }

    /// Adds a write; returns where its value begins, from the start of the buffer.
    pub(crate) fn put(
        &mut self,
        sub: u32,
        key: &[u8],
        value: &[u8],
        lease: i64,
        create: i64,
        version: i64,
    ) -> usize {
        self.count += 1;
        self.buf.push(OP_PUT);
        put_varint(&mut self.buf, u64::from(sub));
        put_varint(&mut self.buf, key.len() as u64);
        self.buf.extend_from_slice(key);
        for number in [lease, create, version] {
            put_varint(&mut self.buf, number as u64);
        }
        put_varint(&mut self.buf, value.len() as u64);
        let at = self.buf.len();
        self.buf.extend_from_slice(value);
        at
    }

    /// Adds a deletion.
    pub(crate) fn delete(&mut self, sub: u32, key: &[u8]) {
        self.count += 1;
        self.buf.push(OP_DELETE);
        put_varint(&mut self.buf, u64::from(sub));
        put_varint(&mut self.buf, key.len() as u64);
        self.buf.extend_from_slice(key);
    }

    /// Adds a change to a side table.
    pub(crate) fn meta(&mut self, entry: &MetaRef<'_>) {
        entry.encode(&mut self.buf);
    }

    /// Ends the record begun last.
    pub(crate) fn end(&mut self) {
        if self.count > 0 {
            self.buf[self.count_at..self.count_at + 4].copy_from_slice(&self.count.to_le_bytes());
        }
        let start = *self.starts.last().expect("a record was begun");
        let len = (self.buf.len() - start - FRAME) as u32;
        self.buf[start..start + 4].copy_from_slice(&len.to_le_bytes());
    }

    /// Fills in places and checksums for records that go to `base`, each its own commit if `apart`;
    /// returns the bytes.
    pub(crate) fn seal(mut self, base: u32, salt: u64, apart: bool) -> Vec<u8> {
        let ends = self.starts.iter().skip(1).copied().chain([self.buf.len()]);
        for (start, end) in self.starts.iter().copied().zip(ends.collect::<Vec<_>>()) {
            let offset = base + start as u32;
            let batch_start = if apart { offset } else { base };
            let record = &mut self.buf[start..end];
            record[10..14].copy_from_slice(&batch_start.to_le_bytes());
            let crc = checksum(salt, offset, &record[FRAME..]);
            record[4..8].copy_from_slice(&crc.to_le_bytes());
        }
        self.buf
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::meta::Table;

    const SALT: u64 = 0x1234_5678_9abc_def0;
    const META: [MetaRef<'_>; 2] = [
        MetaRef {
            table: Table::AUTH,
            key: b"enabled",
            value: Some(b"1"),
        },
        MetaRef {
            table: Table::AUTH_USERS,
            key: b"alice",
            value: None,
        },
    ];

    fn sample() -> Vec<u8> {
        let mut encoder = Encoder::default();
        let trace = TraceContext {
            trace_id: [7; 16],
            span_id: [8; 8],
            flags: 1,
        };
        encoder.begin(Kind::Revision, 2, Some(&trace));
        encoder.put(0, b"key", b"value", -1, 2, 1);
        encoder.delete(1, b"other");
        encoder.end();
        encoder.begin(Kind::Compact { floor: 2 }, 2, None);
        encoder.end();
        encoder.begin(Kind::Grant { id: 9, ttl: 60 }, 2, None);
        encoder.end();
        encoder.begin(Kind::Revoke { id: 9 }, 3, None);
        encoder.delete(0, b"key");
        encoder.end();
        encoder.begin(Kind::Meta, 3, None);
        META.iter().for_each(|entry| encoder.meta(entry));
        encoder.end();
        encoder.seal(128, SALT, false)
    }

    fn parse_all(bytes: &[u8]) -> Result<Vec<Kind>, Bad> {
        let (mut at, mut kinds) = (0, Vec::new());
        while at < bytes.len() {
            let record = parse(&bytes[at..], 128 + at as u32, SALT)?;
            record.ops().collect::<Result<Vec<_>, _>>()?;
            record.meta().collect::<Result<Vec<_>, _>>()?;
            kinds.push(record.kind);
            at += record.len;
        }
        Ok(kinds)
    }

    #[test]
    fn records_read_back_as_written() {
        let bytes = sample();
        let record = parse(&bytes, 128, SALT).unwrap();
        assert_eq!((record.revision, record.batch_start), (2, 128));
        assert!(record.trace.is_some());
        let ops: Vec<_> = record.ops().collect::<Result<_, _>>().unwrap();
        let OpRef::Put {
            key,
            value,
            value_at,
            lease,
            create,
            version,
            ..
        } = ops[0]
        else {
            panic!("{ops:?}")
        };
        assert_eq!(
            (key, value, lease, create, version),
            (&b"key"[..], &b"value"[..], -1, 2, 1)
        );
        assert_eq!(&bytes[value_at..value_at + 5], b"value");
        assert_eq!(
            ops[1],
            OpRef::Delete {
                sub: 1,
                key: b"other"
            }
        );
        let kinds = parse_all(&bytes).unwrap();
        assert_eq!(
            kinds[1..],
            [
                Kind::Compact { floor: 2 },
                Kind::Grant { id: 9, ttl: 60 },
                Kind::Revoke { id: 9 },
                Kind::Meta
            ]
        );
        let mut at = 0;
        while at < bytes.len() {
            let record = parse(&bytes[at..], 128 + at as u32, SALT).unwrap();
            if record.kind == Kind::Meta {
                assert_eq!(record.meta().collect::<Result<Vec<_>, _>>().unwrap(), META);
                assert!(!record.has_ops() && record.ops().next().is_none());
            }
            at += record.len;
        }
    }

    #[test]
    fn the_worked_example_of_the_format_is_what_is_written() {
        let mut encoder = Encoder::default();
        encoder.begin(Kind::Revision, 2, None);
        encoder.put(0, b"a", b"hi", 0, 2, 1);
        encoder.end();
        let bytes = encoder.seal(128, 0x0123_4567_89ab_cdef, false);
        let text: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let page = include_str!("../../../../docs/design/log.md");
        let example = page
            .split("```text")
            .nth(1)
            .and_then(|rest| rest.split("```").next())
            .unwrap();
        let is_byte = |word: &&str| word.len() == 2 && u8::from_str_radix(word, 16).is_ok();
        let expect: Vec<_> = example
            .lines()
            .flat_map(|line| line.split_whitespace().take_while(is_byte))
            .collect();
        assert_eq!(text, expect);
    }

    #[test]
    fn no_single_bit_flip_goes_unnoticed() {
        let bytes = sample();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(parse_all(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_record_is_valid_only_at_its_own_place_in_its_own_segment() {
        let bytes = sample();
        assert_eq!(parse(&bytes, 129, SALT).unwrap_err(), Bad::Checksum);
        assert_eq!(parse(&bytes, 128, SALT + 1).unwrap_err(), Bad::Checksum);
        assert_eq!(parse(&[0; 64], 128, SALT).unwrap_err(), Bad::Blank);
    }

    #[test]
    fn hostile_content_under_a_valid_checksum_is_refused_without_a_panic() {
        let bytes = sample();
        let body_len = u32_at(&bytes, 0).unwrap() as usize;
        for at in FRAME..FRAME + body_len {
            // A kind of 5 makes the operations entries of a table.
            for byte in [0, 1, 5, 0x7f, 0x80, 0xff] {
                let mut hostile = bytes[..FRAME + body_len].to_vec();
                hostile[at] = byte;
                let crc = checksum(SALT, 128, &hostile[FRAME..]);
                hostile[4..8].copy_from_slice(&crc.to_le_bytes());
                if let Ok(record) = parse(&hostile, 128, SALT) {
                    record.ops().for_each(drop);
                    record.meta().for_each(drop);
                }
            }
        }
    }
}
