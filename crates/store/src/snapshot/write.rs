//! A snapshot as a stream of bytes.

use std::io;

use ring::digest::{Context, Digest, SHA256};

use super::dump::Dump;
use super::schema::{self, Entries};
use crate::bolt::{Count, HEAD_PAGES, PAGE, Pages, Tree, head};
use crate::error::Error;
use crate::etcd::RAFT_TERM;
use crate::types::Revision;

/// A snapshot could not be written to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The log did not read back.
    #[error(transparent)]
    Store(#[from] Error),
    /// Whoever takes the bytes failed.
    #[error("write the snapshot")]
    Sink(#[source] io::Error),
}

impl From<std::convert::Infallible> for WriteError {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

/// A bucket: its name, and its entries unless they come from the log.
type Bucket = (&'static [u8], Option<Entries>);

/// A snapshot of a store, in the format of etcd's database file. It is taken at one revision; making it reads the
/// log once, writing it once more. Both block.
///
/// While it lives, the store goes on as ever, but cannot give space back.
pub struct Snapshot {
    dump: Dump,
    buckets: Vec<Bucket>,
    roots: Vec<Option<u64>>,
    pages: u64,
}

impl Snapshot {
    pub(crate) fn take(dump: Dump) -> Result<Self, Error> {
        let buckets = buckets(&dump);
        let mut snapshot = Self {
            dump,
            buckets,
            roots: Vec::new(),
            pages: HEAD_PAGES,
        };
        let mut next = HEAD_PAGES;
        for bucket in &snapshot.buckets {
            let (root, end) = snapshot
                .bucket(bucket, next, &mut Count)
                .map_err(|error| match error {
                    WriteError::Store(error) => error,
                    WriteError::Sink(error) => Error::Read(error.to_string()),
                })?;
            snapshot.roots.push(root);
            next = end;
        }
        snapshot.pages = next;
        Ok(snapshot)
    }

    /// The revision it was taken at.
    #[must_use]
    pub fn revision(&self) -> Revision {
        Revision(self.dump.revision)
    }

    /// Bytes of the file without the checksum behind it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pages * PAGE as u64
    }

    /// Writes the file in pieces to `sink`; returns the SHA-256 of all of it, which etcd's tools expect behind it.
    ///
    /// # Errors
    /// [`WriteError::Sink`] as soon as the sink fails, [`WriteError::Store`] when the log does not read back.
    pub fn write(self, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> Result<[u8; 32], WriteError> {
        let mut file = File {
            sink,
            sha: Context::new(&SHA256),
            pages: 0,
        };
        let names = self.buckets.iter().map(|(name, _)| *name);
        let roots: Vec<_> = names.zip(self.roots.iter().copied()).collect();
        file.page(&head(&roots, self.pages))?;
        let mut next = HEAD_PAGES;
        for (bucket, planned) in self.buckets.iter().zip(&self.roots) {
            let (root, end) = self.bucket(bucket, next, &mut file)?;
            if root != *planned {
                return Err(Error::Read("the log changed between two readings of it".to_owned()).into());
            }
            next = end;
        }
        if next != self.pages || file.pages != self.pages {
            return Err(Error::Read("the log changed between two readings of it".to_owned()).into());
        }
        Ok(sum(&file.sha.finish()))
    }

    fn bucket<P: Pages>(
        &self,
        (_, entries): &Bucket,
        page: u64,
        pages: &mut P,
    ) -> Result<(Option<u64>, u64), WriteError>
    where
        WriteError: From<P::Error>,
    {
        let mut tree = Tree::new(page);
        match entries {
            Some(entries) => {
                for (key, value) in entries {
                    tree.push(key, value.len(), |out| out.extend_from_slice(value), pages)?;
                }
            }
            None => self.dump.visit(&mut |revision, op| {
                let (key, len) = schema::revision_key(revision, op);
                let value_len = schema::version_len(revision, op);
                let write = |out: &mut Vec<u8>| schema::put_version(out, revision, op);
                tree.push(&key[..len], value_len, write, pages)?;
                Ok::<_, WriteError>(())
            })?,
        }
        Ok(tree.finish(pages)?)
    }
}

/// All buckets, in the order of their names.
fn buckets(dump: &Dump) -> Vec<Bucket> {
    let meta = schema::Meta {
        floor: dump.floor,
        log_index: dump.tip.log_index,
        term: RAFT_TERM,
        member_id: dump.shared.member_id,
    };
    let mut buckets: Vec<Bucket> = vec![
        (schema::KEY, None),
        (schema::LEASE, Some(schema::leases(&dump.leases))),
        (schema::META, Some(schema::meta(&meta))),
        (schema::MEMBERS_REMOVED, Some(Vec::new())),
    ];
    for (table, name) in schema::TABLES {
        buckets.push((name, Some(schema::table(&dump.tables, table))));
    }
    buckets.sort_unstable_by_key(|(name, _)| *name);
    buckets
}

/// Where pages go when they count, and what they add up to.
struct File<'a> {
    sink: &'a mut dyn FnMut(&[u8]) -> io::Result<()>,
    sha: Context,
    pages: u64,
}

impl Pages for File<'_> {
    type Error = WriteError;
    const KEEPS: bool = true;

    fn page(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.sha.update(bytes);
        self.pages += (bytes.len() / PAGE) as u64;
        (self.sink)(bytes).map_err(WriteError::Sink)
    }
}

pub(crate) fn sum(digest: &Digest) -> [u8; 32] {
    let mut sum = [0; 32];
    sum.copy_from_slice(digest.as_ref());
    sum
}
