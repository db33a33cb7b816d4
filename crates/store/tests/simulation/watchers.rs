//! Watchers that live through crashes, resuming where they were, some of them slowly.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use setpoint_store::types::{self, EventKind, KeyRange, Revision, WatchSpec, WatchUpdate};
use setpoint_store::{Store, WatchStream};
use setpoint_testkit::linear::kv::Keys;
use setpoint_testkit::record::{Response, WatchRequest};
use setpoint_testkit::{Event, Stored, WatchRecord};

use super::clients::key_range;

/// A stream and what its watchers were told; a watcher's index is its id.
pub(super) struct Watching {
    stream: Option<WatchStream>,
    pub(super) records: Vec<WatchRecord>,
    /// Records that ended with a compaction.
    pub(super) ended: Vec<WatchRecord>,
    /// Whether each wants previous versions and progress.
    wishes: Vec<(bool, bool)>,
}

impl Watching {
    pub(super) fn new(rng: &mut fastrand::Rng) -> Self {
        let watchers = rng.usize(1..4);
        Self {
            stream: None,
            records: (0..watchers).map(|_| record(rng, 2)).collect(),
            ended: Vec::new(),
            wishes: (0..watchers).map(|_| (rng.bool(), rng.bool())).collect(),
        }
    }

    /// The connection breaks.
    pub(super) fn disconnect(&mut self) {
        self.stream = None;
    }

    /// Connects if need be, and takes one update if there is one.
    pub(super) fn step(&mut self, store: &Store, rng: &mut fastrand::Rng) -> Option<String> {
        if self.stream.is_none() {
            self.connect(store, rng);
        }
        let stream = self.stream.as_mut()?;
        let next = pin!(stream.next()).poll(&mut Context::from_waker(Waker::noop()));
        match next {
            Poll::Pending => None,
            // A disk that is off reads nothing back.
            Poll::Ready(None | Some(WatchUpdate::Failed { .. })) => {
                self.stream = None;
                Some("ended".to_owned())
            }
            Poll::Ready(Some(update)) => {
                let text = described(&update);
                self.note(update, rng);
                Some(text)
            }
        }
    }

    fn connect(&mut self, store: &Store, rng: &mut fastrand::Rng) {
        let mut stream = store.watch();
        for id in 0..self.records.len() {
            self.create(&mut stream, id, rng);
        }
        self.stream = Some(stream);
    }

    fn create(&mut self, stream: &mut WatchStream, id: usize, rng: &mut fastrand::Rng) {
        let record = &mut self.records[id];
        // A watcher that has seen nothing may as well begin now.
        let fresh = record.responses.is_empty() && rng.u8(..4) == 0;
        let request = &record.request;
        let keys = Keys {
            start: request.start.clone(),
            end: request.end.clone(),
        };
        let spec = WatchSpec {
            id: Some(i64::try_from(id).unwrap()),
            no_put: request.no_put,
            no_delete: request.no_delete,
            prev_kv: self.wishes[id].0,
            progress: self.wishes[id].1,
            ..WatchSpec::new(key_range(&keys), (!fresh).then(|| Revision(record.resume_from())))
        };
        if let Ok((_, now)) = stream.create(spec)
            && fresh
        {
            record.request.revision = now.0 + 1;
        }
    }

    pub(super) fn ask_for_progress(&mut self) {
        if let Some(stream) = &mut self.stream {
            stream.request_progress();
        }
    }

    /// The revision up to which all watchers have everything.
    pub(super) fn covered(&self) -> i64 {
        let covered = self.records.iter().map(WatchRecord::covered);
        covered.min().unwrap_or(i64::MAX)
    }

    fn note(&mut self, update: WatchUpdate, rng: &mut fastrand::Rng) {
        match update {
            WatchUpdate::Events { id, events, revision } => {
                let events: Vec<Event> = events.iter().map(|event| event_of(event)).collect();
                assert!(events.last().is_some_and(|last| last.revision <= revision.0));
                self.record(id).responses.push(Response::Events(events));
            }
            WatchUpdate::Progress {
                id: Some(id),
                revision,
            } => {
                assert!(self.wishes[usize::try_from(id).unwrap()].1, "nobody asked");
                self.record(id).responses.push(Response::Progress(revision.0));
            }
            WatchUpdate::Progress { id: None, revision } => {
                for record in &mut self.records {
                    record.responses.push(Response::Progress(revision.0));
                }
            }
            WatchUpdate::Failed { error, .. } => panic!("{error}"),
            WatchUpdate::Compacted { id, floor } => {
                let resumed = self.record(id).resume_from();
                assert!(resumed < floor.0, "compacted at {floor}, was at {resumed}");
                let mut ended = std::mem::replace(self.record(id), record(rng, floor.0));
                ended.responses.push(Response::Compacted(floor.0));
                self.ended.push(ended);
                if let Some(mut stream) = self.stream.take() {
                    self.create(&mut stream, usize::try_from(id).unwrap(), rng);
                    self.stream = Some(stream);
                }
            }
        }
    }

    fn record(&mut self, id: i64) -> &mut WatchRecord {
        &mut self.records[usize::try_from(id).unwrap()]
    }
}

fn record(rng: &mut fastrand::Rng, from: i64) -> WatchRecord {
    let (start, end): (&[u8], Option<&[u8]>) = match rng.u8(..5) {
        0 => (b"a/", Some(b"a0")),
        1 => (b"b/2", Some(b"b/2\0")),
        2 => (b"b", None),
        _ => (b"\0", None),
    };
    WatchRecord::new(WatchRequest {
        start: start.to_vec(),
        end: end.map(<[u8]>::to_vec),
        // Sometimes in the future.
        revision: from + if rng.u8(..4) == 0 { rng.i64(0..12) } else { 0 },
        no_put: rng.u8(..8) == 0,
        no_delete: rng.u8(..8) == 0,
    })
}

fn described(update: &WatchUpdate) -> String {
    match update {
        WatchUpdate::Events { id, revision, events } => {
            let events: Vec<_> = events.iter().map(|event| event_of(event)).collect();
            format!("{id} {revision} {events:?}")
        }
        other => format!("{other:?}"),
    }
}

pub(super) fn event_of(event: &types::Event) -> Event {
    Event {
        key: event.kv.key.to_vec(),
        revision: event.kv.mod_revision.0,
        now: (event.kind == EventKind::Put).then(|| stored(&event.kv)),
        before: event.prev_kv.as_ref().map(stored),
    }
}

pub(super) fn stored(kv: &types::KeyValue) -> Stored {
    Stored {
        value: kv.value.to_vec(),
        create_revision: kv.create_revision.0,
        mod_revision: kv.mod_revision.0,
        version: kv.version,
        lease: kv.lease.map_or(0, |lease| lease.0),
    }
}

/// All keys.
pub(super) fn everything() -> KeyRange {
    KeyRange::From(b"\0"[..].into())
}
