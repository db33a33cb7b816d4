//! What a stream is showing: events, and the watchers that are still to see them.
//!
//! Watchers of one stream that want the same events get them one after the other; the events are held once for all of
//! them, and looked at where they are.

use std::sync::Arc;
use std::vec::IntoIter;

use super::chorus::CROWD_MIN;
use super::mailbox::{Name, Names, Parcel};
use crate::error::Error;
use crate::types::{Event, Revision, WatchUpdate};

/// What waits in line for the same watchers is joined up to so many bytes.
const JOIN_BYTES: usize = 64 << 10;
/// The same for a crowd: what is joined differs from stream to stream, so that nothing of it is said alike.
const JOIN_BYTES_CROWD: usize = 512;

/// What a stream has to say next: a [`WatchUpdate`] whose events are still where they are,
/// in [`WatchStream::shown`](super::WatchStream::shown).
pub(crate) enum Step {
    Events { id: i64, revision: Revision },
    Progress { id: Option<i64>, revision: Revision },
    Compacted { id: i64, floor: Revision },
    Failed { id: i64, error: Error },
}

impl Step {
    pub(super) fn into_update(self, shown: &[Arc<Event>]) -> WatchUpdate {
        match self {
            Self::Events { id, revision } => WatchUpdate::Events {
                id,
                revision,
                events: shown.to_vec(),
            },
            Self::Progress { id, revision } => WatchUpdate::Progress { id, revision },
            Self::Compacted { id, floor } => WatchUpdate::Compacted { id, floor },
            Self::Failed { id, error } => WatchUpdate::Failed { id, error },
        }
    }
}

/// Events that are being delivered.
#[derive(Default)]
pub(super) struct Delivery {
    shown: Shown,
    /// Tells one showing from the next.
    number: u64,
    revision: Revision,
    first: Option<Name>,
    others: IntoIter<Name>,
}

#[derive(Default)]
enum Shown {
    #[default]
    Nothing,
    /// As the dispatcher made them: shared with all watchers that want exactly these.
    Parcel(Arc<Parcel>),
    Events(Vec<Arc<Event>>),
}

impl Delivery {
    /// Shows a parcel, with those behind it that `more` gives: it is told for whom, and how large they may be.
    pub(super) fn show(
        &mut self,
        names: Names,
        parcel: Arc<Parcel>,
        mut more: impl FnMut(&Names, usize) -> Option<Arc<Parcel>>,
    ) {
        let mut bytes = parcel.bytes;
        let mut joined = Vec::new();
        let is_crowd = names.others.len() + 1 >= CROWD_MIN;
        let most = if is_crowd { JOIN_BYTES_CROWD } else { JOIN_BYTES };
        while bytes <= most
            && let Some(next) = more(&names, most - bytes)
        {
            if joined.is_empty() {
                joined.extend_from_slice(&parcel.events);
            }
            bytes += next.bytes;
            joined.extend_from_slice(&next.events);
        }
        self.shown = if joined.is_empty() {
            Shown::Parcel(parcel)
        } else {
            Shown::Events(joined)
        };
        self.number += 1;
        let last = self.events().last();
        self.revision = last.map_or(Revision::default(), |event| event.kv.mod_revision);
        (self.first, self.others) = (Some(names.first), names.others.into_iter());
    }

    /// Shows what was read for one watcher.
    pub(super) fn show_read(&mut self, events: Vec<Arc<Event>>) {
        self.shown = Shown::Events(events);
        self.number += 1;
    }

    /// Shows nothing any more: an idle stream holds no events.
    pub(super) fn hide(&mut self) {
        self.shown = Shown::Nothing;
    }

    /// The next watcher that is to see what is shown, and the revision of that.
    pub(super) fn next(&mut self) -> Option<(Name, Revision)> {
        let name = self.first.take().or_else(|| self.others.next())?;
        Some((name, self.revision))
    }

    /// What is shown as the dispatcher made it, and those who are still to see it.
    pub(super) fn crowd(&self) -> Option<(&Arc<Parcel>, &[Name])> {
        match &self.shown {
            Shown::Parcel(parcel) => Some((parcel, self.others.as_slice())),
            Shown::Nothing | Shown::Events(_) => None,
        }
    }

    /// All have seen what is shown.
    pub(super) fn skip(&mut self) {
        (self.first, self.others) = (None, Vec::new().into_iter());
    }

    /// The number of what is shown.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Watchers still to come.
    pub(super) fn left(&self) -> usize {
        self.others.len()
    }

    /// What is shown.
    pub(super) fn events(&self) -> &[Arc<Event>] {
        match &self.shown {
            Shown::Nothing => &[],
            Shown::Parcel(parcel) => &parcel.events,
            Shown::Events(events) => events,
        }
    }
}
