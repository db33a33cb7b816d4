//! The range read again, all of it at one revision, in pages.

use bytes::Bytes;
use setpoint_proto::etcdserverpb::{RangeRequest, RangeResponse};
use setpoint_proto::mvccpb::KeyValue;

/// Keys in the first page; later ones follow the size of what came.
const FIRST_PAGE: i64 = 100;
/// The bytes a page should have: large enough to be few, small enough for memory and deadlines.
const PAGE_BYTES: usize = 4 << 20;
/// A page has at most so many keys.
const PAGE_KEYS_MAX: i64 = 10_000;

/// A listing under way.
#[derive(Debug)]
pub(crate) struct Listing {
    /// Tells the pages of this listing from those of one that was given up.
    pub(crate) number: u64,
    /// Failures in a row.
    pub(crate) failed: u32,
    range_end: Bytes,
    from: Bytes,
    limit: i64,
    /// 0 until the first page pins it.
    revision: i64,
    kvs: Vec<KeyValue>,
}

impl Listing {
    pub(crate) fn new(number: u64, key: &Bytes, range_end: &Bytes) -> Self {
        Self {
            number,
            failed: 0,
            range_end: range_end.clone(),
            from: key.clone(),
            limit: FIRST_PAGE,
            revision: 0,
            kvs: Vec::new(),
        }
    }

    /// The next page to ask for.
    pub(crate) fn request(&self) -> RangeRequest {
        RangeRequest {
            key: self.from.clone(),
            range_end: self.range_end.clone(),
            limit: self.limit,
            revision: self.revision,
            ..Default::default()
        }
    }

    /// Takes a page; the whole and its revision when it was the last.
    pub(crate) fn page(&mut self, page: RangeResponse) -> Option<(Vec<KeyValue>, i64)> {
        self.failed = 0;
        if self.revision == 0 {
            self.revision = page.header.map_or(0, |header| header.revision);
        }
        let bytes: usize = page.kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
        if bytes < PAGE_BYTES / 2 {
            self.limit = (self.limit * 2).min(PAGE_KEYS_MAX);
        } else if bytes > PAGE_BYTES {
            self.limit = (self.limit / 2).max(1);
        }
        // Without a last key there is nothing to go on from, whatever `more` says.
        let last = page.kvs.last().map(|kv| kv.key.clone());
        self.kvs.extend(page.kvs);
        match last {
            Some(last) if page.more => {
                self.from = [&last[..], b"\0"].concat().into();
                None
            }
            _ => Some((std::mem::take(&mut self.kvs), self.revision)),
        }
    }
}
