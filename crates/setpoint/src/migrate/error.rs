//! Why a migration did not come to its end, and what to do.

use setpoint_store::Error;
use setpoint_store::types::Revision;

use super::Content;

/// A migration stopped. What is written stays; running it again goes on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// Both are the same store.
    #[error("source and target are the same store: give two different ones")]
    SameLog,
    /// The target has keys that are no part of an earlier run.
    #[error(
        "the target has {keys} keys that are not the source's: choose an empty target, or add --force to delete them"
    )]
    NotEmpty {
        /// How many.
        keys: usize,
    },
    /// Somebody wrote to the source meanwhile.
    #[error(
        "the source was written to meanwhile (revision {from}, then {to}): stop its servers and clients, then run this \
         again; only what changed is copied then"
    )]
    Written {
        /// The revision that was copied.
        from: Revision,
        /// The revision found at the end.
        to: Revision,
    },
    /// Another migration writes to the same target.
    #[error("another migration writes to this target: let it end, or stop it, and run this again")]
    Another,
    /// The two sides are not the same in the end.
    #[error(
        "the target does not hold what the source does ({ours} / {theirs}): stop whoever writes to it, run again with --force"
    )]
    Differs {
        /// The source's content.
        ours: Content,
        /// The target's.
        theirs: Content,
    },
    /// The source could not be read.
    #[error("read the source: {0}")]
    Source(Error),
    /// The target could not be read or written.
    #[error("write the target: {0}; run this again when that is mended, it goes on where it stopped")]
    Target(Error),
}

impl MigrateError {
    pub(super) fn source(error: Error) -> Self {
        Self::Source(error)
    }

    pub(super) fn target(error: Error) -> Self {
        Self::Target(error)
    }
}
