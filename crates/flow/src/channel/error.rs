//! Why a call failed on this side, and the status that its caller sees.
//!
//! Calls fail with a [`Status`], as those of tonic's own channel do; its source is a [`ChannelError`], which tells a
//! program whether the peer may have acted on the call.

use std::sync::Arc;
use std::time::Duration;

use h2::Reason;
use tonic::{Code, Status};

/// A call failed on this side, not by the peer's answer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// The channel is closed.
    #[error("the channel to {target} is closed")]
    Closed {
        /// Where the channel went.
        target: String,
    },
    /// No endpoint can be reached; nothing was sent.
    #[error("no connection to {target}: {why}")]
    NotConnected {
        /// Where the channel goes.
        target: String,
        /// The last thing that went wrong.
        why: Arc<str>,
    },
    /// Too many calls wait already; nothing was sent.
    #[error("{waiting} calls to {target} wait already")]
    QueueFull {
        /// Where the channel goes.
        target: String,
        /// Calls that wait.
        waiting: usize,
    },
    /// All connections are up and have all the streams that their peers allow; nothing was sent.
    #[error("no stream to {target} became free in {} ms", .waited.as_millis())]
    NoStream {
        /// Where the channel goes.
        target: String,
        /// How long the call has waited.
        waited: Duration,
    },
    /// The deadline has passed.
    #[error("deadline exceeded: {method} was given {} ms{}", .timeout.as_millis(), because(.why.as_deref()))]
    Deadline {
        /// The call's method.
        method: String,
        /// What it was given.
        timeout: Duration,
        /// Whether the peer may have acted on it.
        sent: bool,
        /// What it was kept waiting by, if that is known.
        why: Option<Arc<str>>,
    },
    /// The peer has not acted on the call: it said so, or the call never left.
    #[error("{endpoint} did not take the call: {why}")]
    NotTaken {
        /// Which peer.
        endpoint: String,
        /// What it said.
        why: String,
    },
    /// The connection broke; nobody knows whether the peer has acted on the call.
    #[error("connection to {endpoint} lost: {why}")]
    Lost {
        /// Which peer.
        endpoint: String,
        /// How.
        why: String,
    },
    /// The peer ended the stream without a status.
    #[error("stream reset by {endpoint}: {reason}")]
    Reset {
        /// Which peer.
        endpoint: String,
        /// Its reason.
        reason: Reason,
    },
    /// A message is larger than the channel sends.
    #[error("trying to send message larger than max ({bytes} vs. {bytes_max})")]
    SendTooLarge {
        /// The message's size.
        bytes: u32,
        /// The limit.
        bytes_max: usize,
    },
    /// A message is larger than the channel takes.
    #[error("received message larger than max ({bytes} vs. {bytes_max})")]
    ReceiveTooLarge {
        /// The message's size.
        bytes: u32,
        /// The limit.
        bytes_max: usize,
    },
    /// The peer compresses what it sends, unasked.
    #[error("{endpoint} answered in encoding {encoding:?}, only identity was offered")]
    Encoding {
        /// Which peer.
        endpoint: String,
        /// The encoding.
        encoding: String,
    },
    /// The request cannot be put on the wire.
    #[error("request: {0}")]
    Request(String),
}

fn because(why: Option<&str>) -> String {
    why.map_or_else(String::new, |why| format!(" (last: {why})"))
}

impl ChannelError {
    /// The code that callers see.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Closed { .. } | Self::NotConnected { .. } | Self::NotTaken { .. } | Self::Lost { .. } => {
                Code::Unavailable
            }
            Self::QueueFull { .. }
            | Self::NoStream { .. }
            | Self::SendTooLarge { .. }
            | Self::ReceiveTooLarge { .. } => Code::ResourceExhausted,
            Self::Deadline { .. } => Code::DeadlineExceeded,
            Self::Reset { reason, .. } => code_of(*reason),
            Self::Encoding { .. } | Self::Request(_) => Code::Internal,
        }
    }

    /// Whether the peer may have acted on the call.
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        match self {
            Self::Closed { .. }
            | Self::NotConnected { .. }
            | Self::QueueFull { .. }
            | Self::NoStream { .. }
            | Self::NotTaken { .. }
            | Self::SendTooLarge { .. }
            | Self::Request(_) => false,
            Self::Deadline { sent, .. } => *sent,
            Self::Lost { .. } | Self::Reset { .. } | Self::ReceiveTooLarge { .. } | Self::Encoding { .. } => {
                true
            }
        }
    }

    /// The error behind a status that a channel made; none: the peer made it.
    #[must_use]
    pub fn of(status: &Status) -> Option<&Self> {
        std::error::Error::source(status).and_then(|source| source.downcast_ref())
    }
}

impl From<ChannelError> for Status {
    fn from(error: ChannelError) -> Self {
        let mut status = Self::new(error.code(), error.to_string());
        status.set_source(Arc::new(error));
        status
    }
}

/// gRPC's codes for a stream that was reset (`PROTOCOL-HTTP2.md`, Errors).
fn code_of(reason: Reason) -> Code {
    match reason {
        Reason::REFUSED_STREAM => Code::Unavailable,
        Reason::CANCEL => Code::Cancelled,
        Reason::ENHANCE_YOUR_CALM => Code::ResourceExhausted,
        Reason::INADEQUATE_SECURITY => Code::PermissionDenied,
        _ => Code::Internal,
    }
}

/// What a failed stream means. `began`: the peer had begun to answer.
pub(super) fn of_stream(
    error: &h2::Error,
    endpoint: &str,
    lost: Option<Arc<str>>,
    began: bool,
) -> ChannelError {
    let endpoint = endpoint.to_owned();
    // h2 gives a GOAWAY of the peer only to streams that are beyond the last one that the peer acted on.
    let not_taken = (error.is_go_away() && error.is_remote())
        || (error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM));
    if not_taken && !began {
        let why = error.to_string();
        return ChannelError::NotTaken { endpoint, why };
    }
    match error.reason() {
        Some(reason) if error.is_reset() => ChannelError::Reset { endpoint, reason },
        _ => ChannelError::Lost {
            endpoint,
            why: lost.map_or_else(|| error.to_string(), |why| why.to_string()),
        },
    }
}

/// gRPC's codes for an answer that is none of gRPC's (`http-grpc-status-mapping.md`).
pub(super) fn code_of_http(status: http::StatusCode) -> Code {
    match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502 | 503 | 504 => Code::Unavailable,
        _ => Code::Unknown,
    }
}
