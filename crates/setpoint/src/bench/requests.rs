//! The calls a benchmark makes, as bytes.

use bytes::Bytes;
use prost::Message;
use setpoint_proto::etcdserverpb as pb;

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

/// A framed request whose key's digits are filled in for each use.
#[derive(Clone)]
pub(super) struct Template {
    bytes: Vec<u8>,
    /// Where the digits of each number begin; a range has two.
    digits: Vec<(usize, u64)>,
    /// Where the value begins.
    value: Option<usize>,
}

impl Template {
    /// The request of `op`, with a value of `value_bytes` that does not compress.
    pub(super) fn of(op: Op, value_bytes: usize) -> Self {
        let key = Bytes::from(key(0));
        match op {
            Op::Put => {
                let mut rng = fastrand::Rng::with_seed(7);
                let value: Vec<u8> = (0..value_bytes).map(|_| rng.u8(..)).collect();
                let request = pb::PutRequest {
                    key,
                    value: value.clone().into(),
                    ..Default::default()
                };
                let mut template = Self::new(framed(&request), &[0]);
                template.value = find(&template.bytes, &value);
                template
            }
            Op::Get | Op::GetLinearizable => {
                let request = pb::RangeRequest {
                    key,
                    serializable: op == Op::Get,
                    ..Default::default()
                };
                Self::new(framed(&request), &[0])
            }
            Op::Range => {
                let request = pb::RangeRequest {
                    key,
                    range_end: self::key(0).into(),
                    serializable: true,
                    ..Default::default()
                };
                Self::new(framed(&request), &[0, RANGE_KEYS])
            }
            Op::Watch => {
                let mut range_end = PREFIX.to_vec();
                if let Some(last) = range_end.last_mut() {
                    *last += 1;
                }
                let create = pb::WatchCreateRequest {
                    key: Bytes::from_static(PREFIX),
                    range_end: range_end.into(),
                    ..Default::default()
                };
                let request = pb::WatchRequest {
                    request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
                };
                Self::new(framed(&request), &[])
            }
        }
    }

    fn new(bytes: Vec<u8>, offsets: &[u64]) -> Self {
        let mut digits = Vec::new();
        let mut from = 0;
        for offset in offsets {
            if let Some(at) = find(&bytes[from..], &key(0)) {
                digits.push((from + at + PREFIX.len(), *offset));
                from += at + PREFIX.len() + DIGITS;
            }
        }
        Self {
            bytes,
            digits,
            value: None,
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
        out.extend_from_slice(&self.bytes);
    }

    /// Bytes of the framed request.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }
}

fn key(n: u64) -> Vec<u8> {
    let mut key = PREFIX.to_vec();
    key.extend_from_slice(format!("{n:0DIGITS$}").as_bytes());
    key
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

/// The stamps of the put events in a framed WatchResponse.
pub(super) fn stamps(message: &[u8]) -> Vec<u64> {
    let Ok(response) = pb::WatchResponse::decode(message) else {
        return Vec::new();
    };
    response
        .events
        .iter()
        .filter_map(|event| {
            let value = &event.kv.as_ref()?.value;
            Some(u64::from_be_bytes(value.get(..8)?.try_into().ok()?))
        })
        .collect()
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
}
