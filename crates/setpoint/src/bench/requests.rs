//! The calls a benchmark makes, as bytes.

use bytes::Bytes;
use prost::Message;
use setpoint_proto::etcdserverpb as pb;
use tokio::time::Instant;

/// All keys of a benchmark begin so.
pub(super) const PREFIX: &[u8] = b"setpoint-bench/";
/// Digits of a key's number, zero-padded.
const DIGITS: usize = 12;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// Durable puts to random keys
    Put,
    /// Serializable reads of one key
    Get,
    /// Linearizable reads of one key
    GetLinearizable,
    /// Reads of 500 keys in a row
    Range,
    /// Watch streams over all keys, while puts come at a steady rate
    Watch,
}

/// Keys one `range` reads.
pub(super) const RANGE_KEYS: u64 = 500;

impl Op {
    /// The gRPC path of the call.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Put => "/etcdserverpb.KV/Put",
            Self::Get | Self::GetLinearizable | Self::Range => "/etcdserverpb.KV/Range",
            Self::Watch => "/etcdserverpb.Watch/Watch",
        }
    }
}

/// Lease number `n` has this id and `n` more; so all ids take equally many bytes on the wire.
pub(super) const LEASES: i64 = 1 << 35;
/// Bytes of such an id as a varint.
const LEASE_BYTES: usize = 6;

/// A framed request whose key's digits are filled in for each use.
#[derive(Clone)]
pub(super) struct Template {
    bytes: Vec<u8>,
    /// Where the digits of each number begin; a range has two.
    digits: Vec<(usize, u64)>,
    /// Where the value begins.
    value: Option<usize>,
    /// Where the number of a lease is.
    lease: Option<usize>,
    /// Where a time to live of less than 128 s is, and when the life has to end.
    until: Option<(usize, Instant)>,
}

impl Template {
    /// The request of `op`, with a value of `value_bytes` that does not compress.
    pub(super) fn of(op: Op, value_bytes: usize) -> Self {
        let key = Bytes::from(key(PREFIX, 0));
        match op {
            Op::Put => Self::put(PREFIX, value_bytes, false),
            Op::Get | Op::GetLinearizable => {
                let request = pb::RangeRequest {
                    key,
                    serializable: op == Op::Get,
                    ..Default::default()
                };
                Self::new(framed(&request), PREFIX, &[0])
            }
            Op::Range => Self::range(RANGE_KEYS),
            Op::Watch => Self::watch(PREFIX, 0),
        }
    }

    /// A put under `prefix`; with `lease`, on the lease of the key's number.
    pub(super) fn put(prefix: &[u8], value_bytes: usize, lease: bool) -> Self {
        let mut rng = fastrand::Rng::with_seed(7);
        let value: Vec<u8> = (0..value_bytes).map(|_| rng.u8(..)).collect();
        let request = pb::PutRequest {
            key: key(prefix, 0).into(),
            value: value.clone().into(),
            lease: if lease { LEASES } else { 0 },
            ..Default::default()
        };
        let mut template = Self::new(framed(&request), prefix, &[0]);
        template.value = find(&template.bytes, &value);
        // The lease is the last field that a put has.
        template.lease = lease.then(|| template.bytes.len() - LEASE_BYTES);
        template
    }

    /// A read of `keys` keys in a row.
    pub(super) fn range(keys: u64) -> Self {
        let request = pb::RangeRequest {
            key: key(PREFIX, 0).into(),
            range_end: key(PREFIX, 0).into(),
            serializable: true,
            ..Default::default()
        };
        Self::new(framed(&request), PREFIX, &[0, keys])
    }

    /// A read of every key under a prefix, or only of their number.
    pub(super) fn all(prefix: &'static [u8], count_only: bool) -> Self {
        let request = pb::RangeRequest {
            key: Bytes::from_static(prefix),
            range_end: prefix_end(prefix).into(),
            serializable: true,
            count_only,
            ..Default::default()
        };
        Self::new(framed(&request), prefix, &[])
    }

    /// A watcher of every key under a prefix from revision `start` on; 0 is now.
    pub(super) fn watch(prefix: &'static [u8], start: i64) -> Self {
        let create = pb::WatchCreateRequest {
            key: Bytes::from_static(prefix),
            range_end: prefix_end(prefix).into(),
            start_revision: start,
            ..Default::default()
        };
        let request = pb::WatchRequest {
            request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
        };
        Self::new(framed(&request), prefix, &[])
    }

    /// The grant of the lease of a number, such that it ends at `until`, less than 127 s away, or up to a second
    /// later: leases live for whole seconds.
    pub(super) fn grant(until: Instant) -> Self {
        let request = pb::LeaseGrantRequest { ttl: 1, id: LEASES };
        let bytes = framed(&request);
        // The time is the first field and the id the last one.
        let ttl = bytes.len() - LEASE_BYTES - 2;
        let lease = Some(bytes.len() - LEASE_BYTES);
        let mut template = Self::new(bytes, PREFIX, &[]);
        (template.until, template.lease) = (Some((ttl, until)), lease);
        template
    }

    fn new(bytes: Vec<u8>, prefix: &[u8], offsets: &[u64]) -> Self {
        let mut digits = Vec::new();
        let mut from = 0;
        for offset in offsets {
            if let Some(at) = find(&bytes[from..], &key(prefix, 0)) {
                digits.push((from + at + prefix.len(), *offset));
                from += at + prefix.len() + DIGITS;
            }
        }
        Self {
            bytes,
            digits,
            value: None,
            lease: None,
            until: None,
        }
    }

    /// Appends the request for key number `n`; a value begins with `stamp` where there is room.
    pub(super) fn write(&mut self, n: u64, stamp: u64, out: &mut Vec<u8>) {
        for (at, offset) in &self.digits {
            let mut n = n + offset;
            for digit in self.bytes[*at..*at + DIGITS].iter_mut().rev() {
                *digit = b'0' + (n % 10) as u8;
                n /= 10;
            }
        }
        if let Some(at) = self.value
            && let Some(place) = self.bytes.get_mut(at..at + 8)
        {
            place.copy_from_slice(&stamp.to_be_bytes());
        }
        if let Some(at) = self.lease {
            let mut id = LEASES as u64 + n;
            for byte in &mut self.bytes[at..at + LEASE_BYTES] {
                *byte = 0x80 | (id & 0x7f) as u8;
                id >>= 7;
            }
            self.bytes[at + LEASE_BYTES - 1] &= 0x7f;
        }
        if let Some((at, until)) = self.until {
            let left = until.saturating_duration_since(Instant::now());
            self.bytes[at] = left.as_millis().div_ceil(1000).clamp(1, 127) as u8;
        }
        out.extend_from_slice(&self.bytes);
    }

    /// Bytes of the framed request.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }
}

fn key(prefix: &[u8], n: u64) -> Vec<u8> {
    let mut key = prefix.to_vec();
    key.extend_from_slice(format!("{n:0DIGITS$}").as_bytes());
    key
}

/// The number of a key that a template made.
pub(super) fn number(key: &[u8]) -> Option<u64> {
    let digits = key.get(key.len().checked_sub(DIGITS)?..)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The first key behind all that begin with `prefix`.
fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

fn framed(message: &impl Message) -> Vec<u8> {
    let body = message.encode_to_vec();
    let mut out = vec![0];
    out.extend_from_slice(&(body.len() as u32).to_be_bytes());
    out.extend_from_slice(&body);
    out
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    if needle.is_empty() {
        return None;
    }
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_becomes_the_request_it_stands_for() {
        let mut out = Vec::new();
        Template::of(Op::Put, 64).write(1234, 99, &mut out);
        let put = pb::PutRequest::decode(&out[5..]).unwrap();
        assert_eq!(put.key, "setpoint-bench/000000001234");
        assert_eq!(put.value.len(), 64);
        assert_eq!(put.value[..8], 99u64.to_be_bytes());

        out.clear();
        Template::of(Op::Range, 0).write(7, 0, &mut out);
        let range = pb::RangeRequest::decode(&out[5..]).unwrap();
        assert_eq!(range.key, "setpoint-bench/000000000007");
        assert_eq!(range.range_end, "setpoint-bench/000000000507");
    }
    #[test]
    fn a_lease_has_the_number_of_its_key() {
        let until = Instant::now() + std::time::Duration::from_millis(9_500);
        for n in [0, 1, 300_000] {
            let mut out = Vec::new();
            Template::grant(until).write(n, 0, &mut out);
            let grant = pb::LeaseGrantRequest::decode(&out[5..]).unwrap();
            assert_eq!((grant.id, grant.ttl), (LEASES + n as i64, 10));
            out.clear();
            Template::put(b"lease/", 16, true).write(n, 0, &mut out);
            let put = pb::PutRequest::decode(&out[5..]).unwrap();
            assert_eq!((put.lease, number(&put.key)), (LEASES + n as i64, Some(n)));
        }
    }
}
