//! What a failed call means for whom made it.

use tonic::Code;

use crate::client::ClientError;
use crate::error::Error;
use crate::types::{LeaseId, Revision};

/// Texts of etcd for what certainly did not happen and may go well later, in whatever code they come.
const NOT_NOW: [&str; 4] = [
    "etcdserver: no leader",
    "etcdserver: not leader",
    "raft proposal dropped",
    "etcdserver: too many requests",
];

/// What may be concluded.
#[derive(Debug)]
pub(super) enum Failure {
    /// It did not happen; another try may go well.
    NotYet(String),
    /// It may have happened.
    Unsure(String),
    /// It did not happen and will not.
    Final(Error),
}

/// What was asked about, for errors that name it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked {
    pub(super) revision: Option<Revision>,
    pub(super) lease: Option<LeaseId>,
    pub(super) seen: Revision,
}

pub(super) fn of(error: &ClientError, asked: Asked) -> Failure {
    let text = error.to_string();
    match error {
        ClientError::Unreachable { .. } => Failure::NotYet(text),
        ClientError::Unanswered { last } if NOT_NOW.iter().any(|known| last.contains(known)) => {
            Failure::NotYet(text)
        }
        ClientError::Unanswered { .. } => Failure::Unsure(text),
        ClientError::Closed => Failure::Final(Error::Stopped),
        ClientError::Refused { message, .. } if NOT_NOW.iter().any(|known| message.contains(known)) => {
            Failure::NotYet(text)
        }
        ClientError::Refused { code, message } => refused(*code, message, asked),
        _ => Failure::Final(Error::Refused(text)),
    }
}

fn refused(code: Code, message: &str, asked: Asked) -> Failure {
    let revision = asked.revision.unwrap_or_default();
    Failure::Final(match message {
        "etcdserver: mvcc: required revision has been compacted" => Error::Compacted {
            asked: revision,
            floor: revision.next(),
        },
        "etcdserver: mvcc: required revision is a future revision" => Error::FutureRevision {
            asked: revision,
            current: asked.seen,
        },
        "etcdserver: mvcc: database space exceeded" => Error::NoSpace,
        "etcdserver: request is too large" => Error::RequestTooLarge,
        "etcdserver: requested lease not found" => Error::LeaseNotFound(asked.lease.unwrap_or(LeaseId(0))),
        "etcdserver: lease already exists" => Error::LeaseExists(asked.lease.unwrap_or(LeaseId(0))),
        "etcdserver: key not found" => Error::KeyNotFound,
        "etcdserver: key is not provided" => Error::EmptyKey,
        "etcdserver: too many operations in txn request" => Error::TooManyOps,
        "etcdserver: duplicate key given in txn request" => Error::DuplicateKey,
        // These come from a member that was asked and did not get its own answer in time.
        _ if matches!(
            code,
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Internal
        ) =>
        {
            return Failure::Unsure(message.to_owned());
        }
        _ => Error::Refused(message.to_owned()),
    })
}

/// Of something that changes nothing: another try is always right.
pub(super) fn of_read(error: &ClientError, asked: Asked) -> Failure {
    match of(error, asked) {
        Failure::Unsure(text) => Failure::NotYet(text),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(code: Code, message: &str) -> ClientError {
        ClientError::Refused {
            code,
            message: message.to_owned(),
        }
    }

    fn silence(last: &str) -> ClientError {
        ClientError::Unanswered {
            last: last.to_owned(),
        }
    }

    #[test]
    fn a_write_may_have_happened_unless_the_member_says_otherwise() {
        let asked = Asked::default();
        let timeout = "etcdserver: request timed out, possibly due to previous leader failure";
        assert!(matches!(of(&silence(timeout), asked), Failure::Unsure(_)));
        assert!(matches!(
            of(&silence("etcdserver: no leader"), asked),
            Failure::NotYet(_)
        ));
        let stopped = refusal(Code::Unavailable, "etcdserver: server stopped");
        assert!(matches!(of(&stopped, asked), Failure::Unsure(_)));
        let dropped = refusal(Code::Unknown, "raft proposal dropped");
        assert!(matches!(of(&dropped, asked), Failure::NotYet(_)));
        assert!(matches!(of_read(&silence(timeout), asked), Failure::NotYet(_)));
    }

    #[test]
    fn what_the_store_says_is_said_in_its_words() {
        let asked = Asked {
            revision: Some(Revision(5)),
            ..Asked::default()
        };
        let compacted = refusal(
            Code::OutOfRange,
            "etcdserver: mvcc: required revision has been compacted",
        );
        assert!(matches!(
            of(&compacted, asked),
            Failure::Final(Error::Compacted {
                asked: Revision(5),
                ..
            })
        ));
        let denied = refusal(Code::PermissionDenied, "etcdserver: permission denied");
        assert!(matches!(of(&denied, asked), Failure::Final(Error::Refused(_))));
    }
}
