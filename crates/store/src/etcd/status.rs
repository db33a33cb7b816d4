//! The one place where an error becomes etcd's code and text.
//!
//! Clients match on the exact text: `api/v3rpc/rpctypes/error.go` turns it back into an error value, and
//! Kubernetes looks for "required revision has been compacted".

use tonic::{Code, Status};

use crate::Error;

/// The code and text etcd answers with in this situation.
#[must_use]
pub(super) fn status(error: &Error) -> Status {
    let (code, text) = code_and_text(error);
    Status::new(code, text)
}

fn code_and_text(error: &Error) -> (Code, &'static str) {
    match error {
        Error::Compacted { .. } => (Code::OutOfRange, COMPACTED),
        Error::FutureRevision { .. } => (
            Code::OutOfRange,
            "etcdserver: mvcc: required revision is a future revision",
        ),
        Error::EmptyKey => (Code::InvalidArgument, "etcdserver: key is not provided"),
        Error::KeyNotFound => (Code::InvalidArgument, "etcdserver: key not found"),
        Error::ValueProvided => (Code::InvalidArgument, "etcdserver: value is provided"),
        Error::LeaseProvided => (Code::InvalidArgument, "etcdserver: lease is provided"),
        Error::DuplicateKey => (
            Code::InvalidArgument,
            "etcdserver: duplicate key given in txn request",
        ),
        Error::TooManyOps => (
            Code::InvalidArgument,
            "etcdserver: too many operations in txn request",
        ),
        Error::RequestTooLarge => (Code::InvalidArgument, "etcdserver: request is too large"),
        Error::ResultTooLarge => (
            Code::ResourceExhausted,
            "etcdserver: the answer is too large: ask for fewer keys at a time",
        ),
        Error::LeaseNotFound(_) => (Code::NotFound, "etcdserver: requested lease not found"),
        Error::LeaseExists(_) => (Code::FailedPrecondition, "etcdserver: lease already exists"),
        Error::LeaseTtlTooLarge => (Code::OutOfRange, "etcdserver: too large lease TTL"),
        Error::NoSpace => (
            Code::ResourceExhausted,
            "etcdserver: mvcc: database space exceeded",
        ),
        // UNKNOWN is what etcd really sends: its map leads to the client's error type, which carries no code
        // (`server/etcdserver/api/v3rpc/util.go`). Clients go by the text.
        Error::TooManyRequests => (Code::Unknown, "etcdserver: too many requests"),
        Error::Stopped | Error::Poisoned(_) => (Code::Unavailable, STOPPED),
        Error::FactChanged => (Code::InvalidArgument, "etcdserver: revision of auth store is old"),
        // Not the embedded store's.
        Error::Unavailable(_) | Error::OutcomeUnknown(_) => {
            (Code::Unavailable, "etcdserver: request timed out")
        }
        Error::Refused(_) => (Code::PermissionDenied, "etcdserver: permission denied"),
        Error::Read(_) => (Code::DataLoss, "etcdserver: corrupt cluster"),
        Error::DuplicateWatchId(_) => (
            Code::InvalidArgument,
            "mvcc: duplicate watch ID provided on the WatchStream",
        ),
        Error::EmptyWatchRange => (Code::InvalidArgument, "mvcc: watcher range is empty"),
        Error::TooManyWatchers => (
            Code::ResourceExhausted,
            "mvcc: too many watchers on the WatchStream",
        ),
    }
}

/// Of a read or a watch below the compaction floor.
pub(super) const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const STOPPED: &str = "etcdserver: server stopped";

/// The front is draining; clients reconnect on this code alone (`client/v3/watch.go`).
pub(super) fn stopped() -> Status {
    Status::unavailable(STOPPED)
}

/// A write waited longer than the server allows. It may still happen.
pub(super) fn timed_out() -> Status {
    Status::unavailable("etcdserver: request timed out")
}

/// An alarm says that the data is not to be trusted.
pub(super) fn corrupt() -> Status {
    Status::data_loss("etcdserver: corrupt cluster")
}

/// The order of a range request is not one there is.
pub(super) fn invalid_sort() -> Status {
    Status::invalid_argument("etcdserver: invalid sort option")
}

/// The client's version, in its metadata, is no text.
pub(super) fn invalid_client_version() -> Status {
    Status::invalid_argument("etcdserver: invalid client api version")
}

/// Too much is in flight.
pub(super) fn overloaded() -> Status {
    status(&Error::TooManyRequests)
}

/// A write to keys that the API server owns.
pub(super) fn read_only(prefix: &[u8]) -> Status {
    Status::permission_denied(format!(
        "etcdserver: permission denied: keys under {} are written by the API server of this process; write \
         through it, or start with --etcd-writes-registry",
        prefix.escape_ascii()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_answers_with_etcds_text_and_its_odd_code() {
        let status = status(&Error::TooManyRequests);
        assert_eq!(status.code(), Code::Unknown);
        assert_eq!(status.message(), "etcdserver: too many requests");
    }
}
