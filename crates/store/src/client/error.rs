//! What can go wrong at a client, and what its user may conclude.

use tonic::{Code, Status};

/// etcd's texts that decide what happens next (`api/v3rpc/rpctypes/error.go`).
pub(crate) const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
pub(crate) const NO_LEADER: &str = "etcdserver: no leader";
pub(crate) const AUTH_NOT_ENABLED: &str = "etcdserver: authentication is not enabled";
const INVALID_TOKEN: &str = "etcdserver: invalid auth token";
const OLD_REVISION: &str = "etcdserver: revision of auth store is old";
const NO_USER: &str = "etcdserver: user name is empty";

/// Whether a new token may help.
pub(crate) fn token_refused(text: &str) -> bool {
    [INVALID_TOKEN, OLD_REVISION, NO_USER].contains(&text)
}

/// A call that did not give an answer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The options cannot work.
    #[error("client options: {0}")]
    Options(String),
    /// The server refused; nothing happened.
    #[error("{message}")]
    Refused {
        /// The gRPC code.
        code: Code,
        /// The server's text, etcd's for etcd's errors.
        message: String,
    },
    /// No endpoint could be reached; nothing was sent.
    #[error("no endpoint of {endpoints} can be reached: {last}")]
    Unreachable {
        /// All of them.
        endpoints: String,
        /// What the last one said.
        last: String,
    },
    /// It was sent, and no answer came: a write may or may not have happened.
    #[error("no answer to what was sent: {last}")]
    Unanswered {
        /// What is known of the cause.
        last: String,
    },
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

impl ClientError {
    /// Whether a write that failed with this may have been done all the same.
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        matches!(self, Self::Unanswered { .. })
    }

    /// Whether the revision asked for is compacted.
    #[must_use]
    pub fn is_compacted(&self) -> bool {
        matches!(self, Self::Refused { message, .. } if message == COMPACTED)
    }

    /// The gRPC code that fits.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Options(_) => Code::InvalidArgument,
            Self::Refused { code, .. } => *code,
            Self::Unreachable { .. } | Self::Unanswered { .. } => Code::Unavailable,
            Self::Closed => Code::Cancelled,
        }
    }

    pub(crate) fn refused(status: &Status) -> Self {
        Self::Refused {
            code: status.code(),
            message: status.message().to_owned(),
        }
    }
}

/// Why a watcher ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// History it needed is gone, and it did not want a resync.
    #[error(
        "revision {asked} is compacted, the oldest kept is {compacted}: list again, then watch from the listed revision"
    )]
    Compacted {
        /// The next revision it needed.
        asked: i64,
        /// The oldest revision that can be watched.
        compacted: i64,
    },
    /// The endpoints are another cluster now, and it did not want a resync.
    #[error("the endpoints belong to another cluster now: list again, then watch from the listed revision")]
    AnotherCluster,
    /// The server will not have it.
    #[error("watch refused: {reason}")]
    Refused {
        /// The server's text.
        reason: String,
    },
    /// No server could be reached for longer than was allowed.
    #[error("no endpoint can be reached: {last}")]
    Unreachable {
        /// What the last attempt said.
        last: String,
    },
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}
