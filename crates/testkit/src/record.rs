//! What was asked and what was seen, as plain data.

use crate::model::{Change, Event};

/// What a watcher asked for.
#[derive(Clone, Debug)]
pub struct WatchRequest {
    /// The first key.
    pub start: Vec<u8>,
    /// Keys before this; `None` has no end.
    pub end: Option<Vec<u8>>,
    /// The first revision wanted: as asked, or one more than the revision it was created at.
    pub revision: i64,
    /// Leave puts out.
    pub no_put: bool,
    /// Leave deletes out.
    pub no_delete: bool,
}

impl WatchRequest {
    /// Whether the watcher should see the event.
    #[must_use]
    pub fn wants(&self, event: &Event) -> bool {
        let in_range = self.start <= event.key && self.end.as_ref().is_none_or(|end| event.key < *end);
        let kind = if event.now.is_some() {
            !self.no_put
        } else {
            !self.no_delete
        };
        in_range && kind && event.revision >= self.revision
    }
}

/// One answer to a watcher.
#[derive(Clone, Debug)]
pub enum Response {
    /// Events.
    Events(Vec<Event>),
    /// Nothing up to this revision is missing.
    Progress(i64),
    /// History up to this revision is gone; the watcher ends.
    Compacted(i64),
}

/// Everything one watcher was told.
#[derive(Clone, Debug)]
pub struct WatchRecord {
    /// What it asked for.
    pub request: WatchRequest,
    /// What it got, in order.
    pub responses: Vec<Response>,
}

impl WatchRecord {
    /// A watcher that has seen nothing.
    #[must_use]
    pub fn new(request: WatchRequest) -> Self {
        Self {
            request,
            responses: Vec::new(),
        }
    }

    /// All events, in order.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.responses.iter().flat_map(|response| match response {
            Response::Events(events) => &events[..],
            _ => &[],
        })
    }

    /// The revision up to which nothing may be missing.
    #[must_use]
    pub fn covered(&self) -> i64 {
        let progress = self.responses.iter().map(|response| match response {
            Response::Progress(revision) => *revision,
            Response::Events(events) => events.last().map_or(0, |event| event.revision),
            Response::Compacted(_) => 0,
        });
        progress.max().unwrap_or(0)
    }

    /// The revision to resume from, as a client would.
    #[must_use]
    pub fn resume_from(&self) -> i64 {
        self.request.revision.max(self.covered() + 1)
    }
}

/// Commits by revision, as a client was told, and commits that it never heard of again.
pub type Outcome = (Vec<(i64, Vec<Change>)>, Vec<Vec<Change>>);

/// Commits a client has sent, and which of them were acknowledged.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    unanswered: Vec<(u64, Vec<Change>)>,
    acknowledged: Vec<(i64, Vec<Change>)>,
    next: u64,
}

impl Recorder {
    /// Notes a commit that is about to be sent; returns its ticket.
    pub fn sent(&mut self, changes: Vec<Change>) -> u64 {
        self.next += 1;
        self.unanswered.push((self.next, changes));
        self.next
    }

    /// Notes that a commit was acknowledged with this revision.
    pub fn acknowledged(&mut self, ticket: u64, revision: i64) {
        if let Some(at) = self.unanswered.iter().position(|(other, _)| *other == ticket) {
            self.acknowledged
                .push((revision, self.unanswered.swap_remove(at).1));
        }
    }

    /// Notes that a commit was refused and had no effect.
    pub fn refused(&mut self, ticket: u64) {
        self.unanswered.retain(|(other, _)| *other != ticket);
    }

    /// Takes what was acknowledged, by revision, and what may or may not have happened.
    #[must_use]
    pub fn take(&mut self) -> Outcome {
        let mut acknowledged = std::mem::take(&mut self.acknowledged);
        acknowledged.sort_by_key(|(revision, _)| *revision);
        let unanswered = std::mem::take(&mut self.unanswered)
            .into_iter()
            .map(|(_, changes)| changes);
        (acknowledged, unanswered.collect())
    }
}
