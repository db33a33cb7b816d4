//! How connections end, and what metrics call it.

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both sides were done.
    Closed,
    /// The peer went away without a word.
    Gone,
    /// The peer did not greet in time, or not in this protocol.
    NoGreeting,
    /// The peer did not read for too long.
    Stalled,
    /// The peer did not answer a PING.
    Silent,
    /// The peer did not finish in time what it had begun to send.
    Unfinished,
    /// The peer ended it with an error.
    ByPeer(h2::Reason),
    /// The peer broke the protocol, or asked for too much.
    Refused(h2::Reason),
}

impl End {
    pub(crate) fn of(error: &h2::Error) -> Self {
        match error.reason() {
            Some(reason) if error.is_remote() => Self::ByPeer(reason),
            Some(reason) => Self::Refused(reason),
            None => Self::Gone,
        }
    }

    /// Whose doing it was, in one word for metrics.
    pub(crate) fn how(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Gone => "gone",
            Self::ByPeer(_) => "by_peer",
            _ => "cut",
        }
    }

    /// Why we ended it, if we did, in one word for metrics.
    #[must_use]
    pub fn cut(self) -> Option<&'static str> {
        match self {
            Self::Closed | Self::Gone | Self::ByPeer(_) => None,
            Self::NoGreeting => Some("greeting"),
            Self::Stalled => Some("stalled"),
            Self::Silent => Some("silent"),
            Self::Unfinished => Some("unfinished"),
            Self::Refused(h2::Reason::ENHANCE_YOUR_CALM) => Some("calm"),
            Self::Refused(h2::Reason::FLOW_CONTROL_ERROR) => Some("flow_control"),
            Self::Refused(h2::Reason::FRAME_SIZE_ERROR) => Some("frame_size"),
            Self::Refused(h2::Reason::COMPRESSION_ERROR) => Some("compression"),
            Self::Refused(_) => Some("protocol"),
        }
    }
}

/// Calls that their client resets faster than they are dropped.
pub(super) const RESETS: &str = "resets";

/// The text of `h2`'s GOAWAY beside ENHANCE_YOUR_CALM, and what metrics call it.
const EXCESSES: [(&str, &str); 4] = [
    ("too_many_continuations", "continuations"),
    ("header_list_way_too_large", "headers"),
    ("too_many_data_frames", "small_data"),
    ("too_many_resets", RESETS),
];

/// Of what there was too much, by the text of a GOAWAY, in one word for metrics. The errors that `h2` returns do not say it.
pub(crate) fn excess(farewell: &[u8]) -> Option<&'static str> {
    let (_, word) = EXCESSES.iter().find(|(told, _)| told.as_bytes() == farewell)?;
    Some(word)
}
