//! Moving a plane from one log to another: embedded to cluster, and back.
//!
//! ```text
//!            source at R                          target
//!   keys in order of mod_revision      1. revision raised to R, so that no new version has an old number
//!     a@7  b@9  c@9  d@12 ... @R       2. a  {b c}  d ... written in that order, each with the note "copied up to 12"
//!                                      3. source still at R?  4. count and hash of both sides
//!                                      5. note taken away, history below compacted: old versions get 410 Gone
//! ```
//!
//! The note makes it resumable: a second run goes on after it. Whatever the source has below `/setpoint/` is a plane's own
//! and stays; the CA is moved by the caller.

mod copy;
mod error;
mod index;
mod note;
mod verify;

use setpoint_store::Log;
use setpoint_store::types::{Delete, KeyRange, Op, Revision, Txn};

pub use error::MigrateError;
pub use verify::Content;

use index::Index;
use note::Note;

/// Keys of planes themselves, which do not move.
const OWN: &str = "/setpoint/";

/// What a migration is told to do.
pub struct Migration {
    /// Where the keys are.
    pub from: Log,
    /// Where they shall be.
    pub to: Log,
    /// Whether keys that the target has may be deleted.
    pub force: bool,
}

/// How far it is; told a few times a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The target's revision is being raised: now, and to.
    Raising(i64, i64),
    /// Keys are being copied: done, and of how many.
    Copying(usize, usize),
    /// Both sides are being compared.
    Verifying,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What both sides hold now.
    pub content: Content,
    /// The source's revision.
    pub source: Revision,
    /// The target's revision; history below is compacted.
    pub target: Revision,
    /// Leases granted anew.
    pub leases: usize,
    /// Keys written by this run; fewer than the content has after a resumed one.
    pub copied: usize,
    /// Nothing was written: the target had it all.
    pub nothing_to_do: bool,
}

/// Whether a log is the target of a migration that has not come to its end: not all may be there.
///
/// # Errors
/// When it cannot be read.
pub async fn is_unfinished(log: &Log) -> Result<bool, setpoint_store::Error> {
    note::is_there(log).await
}

impl Migration {
    /// Runs it to its end, or to an error after which it can be run again.
    ///
    /// # Errors
    /// See [`MigrateError`].
    pub async fn run(&self, mut tell: impl FnMut(Progress)) -> Result<Report, MigrateError> {
        let identity = self.from.identity().await.map_err(MigrateError::source)?;
        let present = self.to.identity().await.map_err(MigrateError::target)?;
        if identity == present {
            return Err(MigrateError::SameLog);
        }
        let index = Index::read(&self.from).await?;
        let note = match self.begin(identity, &index, &mut tell).await? {
            Begin::Go(note) => note,
            Begin::Done(report) => return Ok(report),
        };
        self.raise(index.revision, &mut tell).await?;
        self.remove_strangers(&index, note.1).await?;
        let copied = copy::Copy::new(self, &index, note).run(&mut tell).await?;
        let now = self.from.revision().await.map_err(MigrateError::source)?;
        if now != index.revision && !self.from.is_embedded() {
            return Err(MigrateError::Written {
                from: index.revision,
                to: now,
            });
        }
        tell(Progress::Verifying);
        let content = self.verify(index.revision).await?;
        note::remove(&self.to).await?;
        let target = self.to.revision().await.map_err(MigrateError::target)?;
        self.to.compact(target).await.map_err(MigrateError::target)?;
        Ok(Report {
            content,
            source: index.revision,
            target,
            leases: copied.leases,
            copied: copied.keys,
            nothing_to_do: false,
        })
    }

    /// What there is in the target, and whether that is all right.
    async fn begin(
        &self,
        identity: u64,
        index: &Index,
        tell: &mut impl FnMut(Progress),
    ) -> Result<Begin, MigrateError> {
        let (note, at) = note::read(&self.to).await?;
        if let Some(note) = note.filter(|note| note.source == identity) {
            return Ok(Begin::Go((note, at)));
        }
        let fresh = Begin::Go((Note::new(identity), at));
        let there = Index::keys_of(&self.to).await?;
        if there.is_empty() {
            return Ok(fresh);
        }
        if there.len() == index.len() {
            tell(Progress::Verifying);
            let (ours, theirs) = self.contents(index.revision).await?;
            let target = self.to.revision().await.map_err(MigrateError::target)?;
            if ours == theirs && target >= index.revision {
                return Ok(Begin::Done(Report {
                    content: ours,
                    source: index.revision,
                    target,
                    leases: 0,
                    copied: 0,
                    nothing_to_do: true,
                }));
            }
        }
        if !self.force {
            return Err(MigrateError::NotEmpty { keys: there.len() });
        }
        // Their order is not ours: away with all of them.
        remove(&self.to, there, at).await?;
        Ok(fresh)
    }

    /// Writes until the target's revision is the source's: versions in old clients' hands are never its versions.
    async fn raise(&self, to: Revision, tell: &mut impl FnMut(Progress)) -> Result<(), MigrateError> {
        loop {
            let now = self.to.revision().await.map_err(MigrateError::target)?;
            tell(Progress::Raising(now.0, to.0));
            if now >= to {
                return Ok(());
            }
            let missing = usize::try_from(to.0 - now.0).unwrap_or(usize::MAX);
            note::bump(&self.to, missing.min(note::BUMPS_MAX)).await?;
        }
    }

    /// Deletes what the target has and the source has not: deleted there since an earlier run.
    async fn remove_strangers(&self, index: &Index, note: Revision) -> Result<(), MigrateError> {
        let known = index.names();
        let there = Index::keys_of(&self.to).await?;
        let strangers = there.into_iter().filter(|key| !known.contains(key)).collect();
        remove(&self.to, strangers, note).await
    }

    async fn verify(&self, at: Revision) -> Result<Content, MigrateError> {
        let (ours, theirs) = self.contents(at).await?;
        if ours == theirs {
            Ok(ours)
        } else {
            Err(MigrateError::Differs { ours, theirs })
        }
    }

    async fn contents(&self, at: Revision) -> Result<(Content, Content), MigrateError> {
        let source = Content::of(&self.from, Some(at))
            .await
            .map_err(MigrateError::source)?;
        let target = Content::of(&self.to, None).await.map_err(MigrateError::target)?;
        Ok((source, target))
    }
}

enum Begin {
    /// From the note on, which has this revision.
    Go((Note, Revision)),
    /// There is nothing to do.
    Done(Report),
}

/// Deletes keys. A deletion that comes late finds the note changed, and does nothing.
async fn remove(log: &Log, keys: Vec<bytes::Bytes>, note: Revision) -> Result<(), MigrateError> {
    for some in keys.chunks(copy::OPS_MAX) {
        let delete = |key: &bytes::Bytes| {
            Op::Delete(Delete {
                keys: KeyRange::Key(key.clone()),
                prev_kv: false,
            })
        };
        let txn = Txn {
            compares: vec![note::unchanged(note)],
            success: some.iter().map(delete).collect(),
            ..Txn::default()
        };
        copy::insist(log, txn).await?;
    }
    Ok(())
}

/// Everything that moves, in order of keys: all but a plane's own.
fn spans() -> [KeyRange; 2] {
    [
        KeyRange::Span("\0".into(), OWN.into()),
        // '0' follows '/': the first key after all of OWN.
        KeyRange::From("/setpoint0".into()),
    ]
}
