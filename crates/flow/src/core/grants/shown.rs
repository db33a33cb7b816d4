//! Streams, as they are shown.

use super::{Grants, Stream};

/// One stream, as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamGrant {
    pub(crate) id: u32,
    pub(crate) received: u64,
    pub(crate) unread: u64,
    /// What its sender may still send, or has sent already; negative after a smaller initial window.
    pub(crate) left: i64,
}

impl Grants {
    /// The streams with the most unread, at most so many.
    pub(crate) fn largest(&self, most: usize) -> Vec<StreamGrant> {
        let all = self.streams.iter().filter(|(_, stream)| !stream.left);
        let mut all: Vec<_> = all.map(|(id, stream)| self.shown(*id, stream)).collect();
        let order = |it: &StreamGrant| std::cmp::Reverse((it.unread, it.received, it.id));
        if all.len() > most {
            all.select_nth_unstable_by_key(most, order);
            all.truncate(most);
        }
        all.sort_unstable_by_key(order);
        all
    }

    fn shown(&self, id: u32, stream: &Stream) -> StreamGrant {
        let granted = self.announced + stream.extra;
        StreamGrant {
            id,
            received: stream.received,
            unread: stream.received - stream.released,
            left: granted.cast_signed() - stream.received.cast_signed(),
        }
    }
}
