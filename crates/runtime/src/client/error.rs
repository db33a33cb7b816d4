//! Why a call failed, and what that means for whoever repeats it.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use setpoint_apimachinery::Status;

/// A failed call to an API server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server refused, and said why.
    #[error("{call}")]
    Status {
        /// Method and path.
        call: String,
        /// The server's answer.
        #[source]
        status: Box<Status>,
    },
    /// Something that is not an API server answered, or a proxy in between.
    #[error("{call}: HTTP status {code} without a Kubernetes Status: {body}")]
    Foreign {
        /// Method and path.
        call: String,
        /// The HTTP status.
        code: u16,
        /// The first bytes of the body.
        body: String,
    },
    /// The request or the answer did not get through.
    #[error("{call}: no answer from the server")]
    Transport {
        /// Method and path.
        call: String,
        /// What the connection says.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The deadline passed.
    #[error("{call}: not answered within {after:?}")]
    Timeout {
        /// Method and path.
        call: String,
        /// The deadline.
        after: Duration,
    },
    /// The answer is larger than this client takes.
    #[error("{call}: the answer is larger than {bytes_max} bytes, raise ClientOptions or list in pages")]
    TooLong {
        /// Method and path.
        call: String,
        /// The limit.
        bytes_max: usize,
    },
    /// The bytes are not what they should be.
    #[error("decode {what}")]
    Decode {
        /// What was being decoded.
        what: String,
        /// What is wrong with it.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// An object cannot be written as JSON.
    #[error("encode {what}")]
    Encode {
        /// What was being encoded.
        what: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The kubeconfig or the environment does not say how to reach a server.
    #[error("configure the client from {from}")]
    Config {
        /// The file, or where else it looked.
        from: String,
        /// What is wrong with it.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
}

/// What a failure means for a list or watch loop (client-go `reflector.go`, the `isXError` functions).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// 410: the resource version or continue token is no longer known.
    Expired,
    /// 504 with cause `ResourceVersionTooLarge`: the server is behind the version asked for.
    TooLarge,
    /// 429.
    TooManyRequests,
    /// Nobody listens there now.
    ConnectionRefused,
    /// 500.
    Internal,
    /// Anything else.
    Other,
}

impl Error {
    /// The server's answer, if it gave one.
    #[must_use]
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Status { status, .. } => Some(status),
            _ => None,
        }
    }

    /// The HTTP status code of the answer, if there was one.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(status.code),
            Self::Foreign { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// The object does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// Somebody else wrote the object since it was read: read again, then retry.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.status().is_some_and(Status::is_conflict)
    }

    /// The object to create is already there.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        self.status().is_some_and(Status::is_already_exists)
    }

    /// What this means for a list or watch loop.
    #[must_use]
    pub fn failure(&self) -> Failure {
        match self.code() {
            Some(410) => Failure::Expired,
            Some(429) => Failure::TooManyRequests,
            Some(500) => Failure::Internal,
            Some(504) if self.status().is_some_and(Status::is_resource_version_too_large) => {
                Failure::TooLarge
            }
            Some(_) => Failure::Other,
            None if self.is_connection_refused() => Failure::ConnectionRefused,
            None => Failure::Other,
        }
    }

    fn is_connection_refused(&self) -> bool {
        // Wrappers nest a handful deep; a cycle of sources must not hang us.
        let mut cause: Option<&(dyn StdError + 'static)> = Some(self);
        for _ in 0..16 {
            let Some(error) = cause else { return false };
            if let Some(io) = error.downcast_ref::<io::Error>()
                && io.kind() == io::ErrorKind::ConnectionRefused
            {
                return true;
            }
            cause = error.source();
        }
        false
    }
}
