//! Whether two logs hold the same.

use std::fmt;

use ring::digest::{Context, SHA256};
use setpoint_store::types::{KeyValue, Range, Revision};
use setpoint_store::{Error, Log};

use super::index::after;
use super::spans;

/// Keys in one answer.
const PAGE: usize = 500;

/// What a log holds: keys, values and which lease each key has; not revisions and versions, which are its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Keys.
    pub keys: usize,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// SHA-256 over all of it in order of keys, in hexadecimal.
    pub sha256: String,
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} keys, {} bytes, sha256 {}",
            self.keys, self.bytes, self.sha256
        )
    }
}

impl Content {
    /// Reads all of a log at a revision; without one, now.
    pub(super) async fn of(log: &Log, revision: Option<Revision>) -> Result<Self, Error> {
        let mut hash = Context::new(&SHA256);
        let (mut keys, mut bytes) = (0, 0);
        let mut revision = revision;
        for span in spans() {
            let mut range = Range::of(span);
            range.limit = PAGE;
            loop {
                range.revision = revision;
                let page = log.range(&range).await?;
                revision = revision.or(Some(page.revision));
                for kv in &page.kvs {
                    add(&mut hash, kv);
                    keys += 1;
                    bytes += (kv.key.len() + kv.value.len()) as u64;
                }
                match page.kvs.last() {
                    Some(last) if page.more => range.keys = after(&range.keys, &last.key),
                    _ => break,
                }
            }
        }
        let digest = hash.finish();
        let sha256 = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { keys, bytes, sha256 })
    }
}

fn add(hash: &mut Context, kv: &KeyValue) {
    // Lengths in front: no two contents have the same bytes.
    for part in [&kv.key, &kv.value] {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.update(&kv.lease.map_or(0, |lease| lease.0).to_be_bytes());
}
