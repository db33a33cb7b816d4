//! The one place where store errors become `Status`.

use setpoint_apimachinery::status::Status;
use setpoint_store::Error;

/// What a client is told about a store error.
pub(crate) fn store_status(error: &Error) -> Status {
    match error {
        Error::Compacted { asked, floor } => Status::expired(format!(
            "The provided resource version is too old: {asked} ({floor})"
        )),
        Error::FutureRevision { asked, current } => Status::resource_version_too_large(
            u64::try_from(asked.0).unwrap_or(0),
            u64::try_from(current.0).unwrap_or(0),
        ),
        Error::RequestTooLarge => {
            let mut status = Status::too_large(0);
            status.message = "etcdserver: request is too large".to_owned();
            status
        }
        Error::TooManyRequests => Status::too_many_requests(1),
        Error::NoSpace => Status::internal("etcdserver: mvcc: database space exceeded"),
        // Clients of all kinds send a request again when a 5xx says when: only what certainly did not happen says so.
        Error::Unavailable(_) => Status::unavailable(error.to_string()).retry_after(1),
        Error::OutcomeUnknown(_) => Status::timeout(&error.to_string()),
        other => Status::internal(other.to_string()),
    }
}
