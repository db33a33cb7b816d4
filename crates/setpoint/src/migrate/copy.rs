//! Writing the source's keys to the target, in the order the source wrote them.
//!
//! Keys of one revision go in one transaction, as they came; each transaction also says in the note how far it is, on the
//! condition that the note is as the one before left it. So none happens twice or late, two runs at once stop each other,
//! and a run that is cut off leaves a beginning of the same history, where the next one goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use setpoint_store::types::{KeyValue, LeaseId, Op, Put, PutLease, Range, Revision, Txn};
use setpoint_store::{Error, Log};
use tokio::time::Instant;

use super::index::Index;
use super::note::{self, Note};
use super::{MigrateError, Migration, Progress};

/// Operations in one transaction, the note apart: etcd allows 128.
pub(super) const OPS_MAX: usize = 100;
/// Bytes of values in one transaction, where there is more than one: etcd allows 1.5 MiB.
const BYTES_MAX: usize = 1 << 20;
/// Values read ahead.
const READS_IN_FLIGHT: usize = 32;
/// Between reports, and between looks at leases.
const TELL: Duration = Duration::from_millis(250);
/// Tries of a write that has no known end; each may take as long as the log is patient.
const TRIES: usize = 10;

/// What was copied.
pub(super) struct Copied {
    pub(super) keys: usize,
    pub(super) leases: usize,
}

/// Copying.
pub(super) struct Copy<'a> {
    migration: &'a Migration,
    index: &'a Index,
    /// The note as the last write left it, and its revision; 0 when there is none.
    note: (Note, Revision),
    leases: BTreeMap<LeaseId, Renewal>,
    /// Leases of a source that only this process keeps alive: their seconds, as of the beginning.
    known: BTreeMap<LeaseId, i64>,
}

/// A lease in the target that must live until the end.
struct Renewal {
    every: Duration,
    due: Instant,
}

impl<'a> Copy<'a> {
    /// `note` and its revision are what the target has.
    pub(super) fn new(migration: &'a Migration, index: &'a Index, note: (Note, Revision)) -> Self {
        Self {
            migration,
            index,
            note,
            leases: BTreeMap::new(),
            known: BTreeMap::new(),
        }
    }

    pub(super) async fn run(mut self, tell: &mut impl FnMut(Progress)) -> Result<Copied, MigrateError> {
        self.know_leases().await?;
        let todo = self.index.after(self.note.0.copied);
        let before = self.index.len() - todo.len();
        let from = &self.migration.from;
        let at = self.index.revision;
        let mut reads =
            stream::iter(todo.iter().map(|(_, key)| read(from, key, at))).buffered(READS_IN_FLIGHT);
        let mut group: Vec<KeyValue> = Vec::new();
        let (mut done, mut told) = (0, Instant::now());
        tell(Progress::Copying(before, self.index.len()));
        while let Some(kv) = reads.next().await {
            let kv = kv?;
            if !fits(&group, &kv) {
                done += group.len();
                // A revision that is cut in two is copied when its last part is.
                let whole = group
                    .last()
                    .is_none_or(|last| last.mod_revision < kv.mod_revision);
                self.write(std::mem::take(&mut group), whole).await?;
            }
            group.push(kv);
            if told.elapsed() >= TELL {
                told = Instant::now();
                tell(Progress::Copying(before + done, self.index.len()));
                self.renew().await?;
            }
        }
        done += group.len();
        self.write(group, true).await?;
        tell(Progress::Copying(before + done, self.index.len()));
        // Time for the comparison.
        self.leases
            .values_mut()
            .for_each(|lease| lease.due = Instant::now());
        self.renew().await?;
        Ok(Copied {
            keys: done,
            leases: self.leases.len(),
        })
    }

    /// Writes keys of one revision; with `whole`, it is done with.
    async fn write(&mut self, group: Vec<KeyValue>, whole: bool) -> Result<(), MigrateError> {
        let Some(revision) = group.last().map(|kv| kv.mod_revision) else {
            return Ok(());
        };
        let mut ops = Vec::with_capacity(group.len() + 1);
        for kv in group {
            let lease = match kv.lease {
                Some(id) => self.lease(id).await?,
                None => None,
            };
            ops.push(Op::Put(Put {
                lease: PutLease::Set(lease),
                ..Put::new(kv.key, kv.value)
            }));
        }
        let note = Note {
            source: self.note.0.source,
            copied: if whole { revision } else { Revision(revision.0 - 1) },
        };
        self.commit(ops, note).await
    }

    /// Writes on the condition that the note is as it was left, together with the next note.
    async fn commit(&mut self, mut ops: Vec<Op>, note: Note) -> Result<(), MigrateError> {
        let to = &self.migration.to;
        ops.push(note.put());
        let txn = Txn {
            compares: vec![note::unchanged(self.note.1)],
            success: ops,
            failure: Vec::new(),
        };
        let mut last = Error::Stopped;
        for _ in 0..TRIES {
            match to.txn(txn.clone(), None).await {
                Ok(result) if result.succeeded => {
                    self.note = (note, result.revision);
                    return Ok(());
                }
                Ok(_) => (),
                Err(error) if passes(&error) => last = error,
                Err(error) => return Err(MigrateError::target(error)),
            }
            // It was us after all, or nobody yet, or somebody else.
            match note::read(to).await? {
                (now, at) if at != self.note.1 && now.as_ref() == Some(&note) => {
                    self.note = (note, at);
                    return Ok(());
                }
                (_, at) if at != self.note.1 => return Err(MigrateError::Another),
                _ => tokio::time::sleep(TELL).await,
            }
        }
        Err(MigrateError::target(last))
    }

    /// Opening an embedded store starts its leases; they may end before their keys are read.
    async fn know_leases(&mut self) -> Result<(), MigrateError> {
        let from = &self.migration.from;
        if !from.is_embedded() {
            return Ok(());
        }
        for id in from.leases().await.map_err(MigrateError::source)? {
            if let Some(ttl) = from.lease_ttl(id).await.map_err(MigrateError::source)? {
                self.known.insert(id, ttl);
            }
        }
        Ok(())
    }

    /// The lease in the target; its time begins anew, as after a restart.
    async fn lease(&mut self, id: LeaseId) -> Result<Option<LeaseId>, MigrateError> {
        if self.leases.contains_key(&id) {
            return Ok(Some(id));
        }
        let ttl = match self.known.get(&id) {
            Some(ttl) => Some(*ttl),
            None => self
                .migration
                .from
                .lease_ttl(id)
                .await
                .map_err(MigrateError::source)?,
        };
        let Some(ttl) = ttl else {
            // It ended since the revision that is copied, and took the key with it: the end of this run will say that
            // the source has changed.
            return Ok(None);
        };
        self.migration
            .to
            .lease_keep(id, ttl)
            .await
            .map_err(MigrateError::target)?;
        let every = Duration::from_secs(u64::try_from(ttl).unwrap_or(1).max(1)) / 3;
        let due = Instant::now() + every;
        self.leases.insert(id, Renewal { every, due });
        Ok(Some(id))
    }

    async fn renew(&mut self) -> Result<(), MigrateError> {
        for (id, lease) in &mut self.leases {
            if lease.due <= Instant::now() {
                self.migration
                    .to
                    .lease_renew(*id)
                    .await
                    .map_err(MigrateError::target)?;
                lease.due = Instant::now() + lease.every;
            }
        }
        Ok(())
    }
}

/// Whether a key goes in the same transaction as those before it.
fn fits(group: &[KeyValue], kv: &KeyValue) -> bool {
    let Some(last) = group.last() else { return true };
    let bytes: usize = group.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
    last.mod_revision == kv.mod_revision
        && group.len() < OPS_MAX
        && bytes + kv.key.len() + kv.value.len() <= BYTES_MAX
}

async fn read(log: &Log, key: &Bytes, at: Revision) -> Result<KeyValue, MigrateError> {
    let mut range = Range::key(key.clone());
    range.revision = Some(at);
    let found = log.range(&range).await.map_err(MigrateError::source)?;
    let kv = found.kvs.into_iter().next();
    kv.ok_or_else(|| {
        MigrateError::Source(Error::Read(format!(
            "{} is listed at revision {at} and not there",
            String::from_utf8_lossy(key)
        )))
    })
}

/// Whether another try may go well.
fn passes(error: &Error) -> bool {
    matches!(
        error,
        Error::Unavailable(_) | Error::OutcomeUnknown(_) | Error::TooManyRequests
    )
}

/// Writes until it is written, for what may be written twice or late.
pub(super) async fn insist(log: &Log, txn: Txn) -> Result<(), MigrateError> {
    let mut last = Error::Stopped;
    for _ in 0..TRIES {
        match log.txn(txn.clone(), None).await {
            Ok(_) => return Ok(()),
            Err(error) if passes(&error) => last = error,
            Err(error) => return Err(MigrateError::target(error)),
        }
        tokio::time::sleep(TELL).await;
    }
    Err(MigrateError::target(last))
}
