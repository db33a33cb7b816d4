//! The Watch service: many watchers on one stream.
//!
//! One task reads requests and writes answers, so the order is what it looks like: "created" leaves before the first
//! event of its watcher, and nothing of a watcher leaves after its cancellation was answered. While the client does
//! not read, the task waits in `send`; the store's stream then falls behind by itself and catches up from history.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;
use setpoint_proto::etcdserverpb as pb;
use tonic::{Code, Status};

use super::auth::Caller;
use super::call::Call;
use super::gather::{Gathered, Same, fitting, most_bytes};
use super::outbound::Gone;
use super::server::Shared;
use super::{convert, status, wire};
use crate::types::{Event, KeyRange, Revision, WatchSpec};
use crate::watch::{Step, WatchStream};

use pb::watch_request::RequestUnion;

/// The id in answers that concern no watcher, or all.
const NO_ID: i64 = -1;

/// Serves the stream until the client ends it or the store stops.
pub(super) async fn serve(call: &mut Call) -> Result<(), Status> {
    // Clients wait for the headers before they send the first request.
    call.outbound.greet().map_err(cancelled)?;
    let _counted = Counted::new(call.shared.metrics.watch_streams.clone());
    let mut watchers = Watchers::new(call.shared.clone(), call.caller.clone());
    watchers.serve(call).await
}

/// Counts a stream while it lives, also one whose client goes away.
struct Counted(Gauge);

impl Counted {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The watchers of one stream.
struct Watchers {
    shared: Arc<Shared>,
    caller: Caller,
    updates: WatchStream,
    /// Watchers whose events carry the previous version.
    prev_kv: HashSet<i64>,
    /// Watchers whose answers may be cut.
    fragment: HashSet<i64>,
    /// What is being shown to many, without and with previous versions.
    same: [Same; 2],
}

enum Next {
    Request(Option<Bytes>),
    Step(Option<Step>),
    Reset,
}

impl Watchers {
    fn new(shared: Arc<Shared>, caller: Caller) -> Self {
        Self {
            updates: shared.store.watch(),
            shared,
            caller,
            prev_kv: HashSet::new(),
            fragment: HashSet::new(),
            same: Default::default(),
        }
    }

    async fn serve(&mut self, call: &mut Call) -> Result<(), Status> {
        // A client that has said all it will still wants its events.
        let mut all_said = false;
        loop {
            let next = tokio::select! {
                request = call.inbound.message(), if !all_said => Next::Request(request.map_err(watch_error)?),
                step = self.updates.step() => Next::Step(step),
                () = call.outbound.reset(), if all_said => Next::Reset,
            };
            match next {
                Next::Request(Some(request)) => {
                    let answer = self.request(convert::decode(request)?);
                    if let Some(message) = answer.map(|answer| wire::message(&answer)) {
                        call.outbound.send(message).await.map_err(cancelled)?;
                    }
                }
                Next::Request(None) => all_said = true,
                Next::Step(Some(step)) => {
                    let (pieces, stopped) = self.gather(step);
                    for piece in pieces {
                        call.outbound.send(piece).await.map_err(cancelled)?;
                    }
                    if stopped {
                        return Err(status::stopped());
                    }
                }
                Next::Step(None) => return Err(status::stopped()),
                Next::Reset => return Err(canceled()),
            }
        }
    }

    /// The messages of a step and of those that wait behind it; whether the store has stopped.
    fn gather(&mut self, mut step: Step) -> (Vec<Bytes>, bool) {
        let mut out = Gathered::default();
        loop {
            self.write(step, &mut out);
            if out.is_full() {
                return (out.into_pieces(), false);
            }
            match self.updates.try_step() {
                Some(Some(next)) => step = next,
                Some(None) => return (out.into_pieces(), true),
                None => return (out.into_pieces(), false),
            }
        }
    }

    /// Does what a request says, and the answer it has.
    fn request(&mut self, request: pb::WatchRequest) -> Option<pb::WatchResponse> {
        match request.request_union? {
            RequestUnion::CreateRequest(create) => Some(self.create(&create)),
            RequestUnion::CancelRequest(cancel) => self.cancel(cancel.watch_id),
            RequestUnion::ProgressRequest(_) => {
                self.updates.request_progress();
                None
            }
        }
    }

    fn create(&mut self, request: &pb::WatchCreateRequest) -> pb::WatchResponse {
        if request.start_revision < 0 {
            return self.refused(status::COMPACTED);
        }
        let spec = spec(request);
        // As in etcd, a watcher is asked for its permission when it is made, and keeps what it has.
        if let Err(error) = self.shared.auth.access(&self.caller).range(&spec.keys) {
            let status = Status::from(error);
            // etcd writes these with their code.
            let reason = format!(
                "rpc error: code = {:?} desc = {}",
                status.code(),
                status.message()
            );
            return self.refused(&reason);
        }
        let (prev_kv, fragment) = (request.prev_kv, request.fragment);
        match self.updates.create(spec) {
            Ok((id, revision)) => {
                if prev_kv {
                    self.prev_kv.insert(id);
                }
                if fragment {
                    self.fragment.insert(id);
                }
                pb::WatchResponse {
                    header: Some(self.shared.header(revision)),
                    watch_id: id,
                    created: true,
                    ..Default::default()
                }
            }
            Err(error) => self.refused(status::status(&error).message()),
        }
    }

    /// The answer to a watcher that was not made: created and canceled in one.
    fn refused(&self, reason: &str) -> pb::WatchResponse {
        pb::WatchResponse {
            header: Some(self.shared.header(self.shared.store.revision())),
            watch_id: NO_ID,
            created: true,
            canceled: true,
            cancel_reason: reason.to_owned(),
            ..Default::default()
        }
    }

    /// An id that is not there gets no answer.
    fn cancel(&mut self, id: i64) -> Option<pb::WatchResponse> {
        if !self.updates.cancel(id) {
            return None;
        }
        self.forget(id);
        Some(pb::WatchResponse {
            header: Some(self.shared.header(self.shared.store.revision())),
            watch_id: id,
            canceled: true,
            ..Default::default()
        })
    }

    fn forget(&mut self, id: i64) {
        self.prev_kv.remove(&id);
        self.fragment.remove(&id);
    }

    fn write(&mut self, step: Step, out: &mut Gathered) {
        match step {
            Step::Events { id, revision } => self.events(id, revision, out),
            Step::Progress { id, revision } => out.message(&pb::WatchResponse {
                header: Some(self.shared.header(revision)),
                watch_id: id.unwrap_or(NO_ID),
                ..Default::default()
            }),
            Step::Compacted { id, floor } => {
                self.forget(id);
                // Clients go by compact_revision; etcd's header carries no revision here.
                out.message(&pb::WatchResponse {
                    header: Some(self.shared.header(Revision(0))),
                    watch_id: id,
                    canceled: true,
                    compact_revision: floor.0,
                    ..Default::default()
                });
            }
            Step::Failed { id, error } => {
                self.forget(id);
                out.message(&pb::WatchResponse {
                    header: Some(self.shared.header(self.shared.store.revision())),
                    watch_id: id,
                    canceled: true,
                    cancel_reason: status::status(&error).message().to_owned(),
                    ..Default::default()
                });
            }
        }
    }

    /// One message, or several when the watcher allows it and one would be too large.
    fn events(&mut self, id: i64, revision: Revision, out: &mut Gathered) {
        let prev_kv = self.prev_kv.contains(&id);
        let header = self.shared.header(revision);
        if let Some(text) = self.in_chorus(id, prev_kv, &header) {
            return out.text(text);
        }
        let (shown, alike) = (self.updates.shown(), self.updates.alike());
        if !self.fragment.contains(&id) {
            let (showing, same) = (self.updates.showing(), &mut self.same[usize::from(prev_kv)]);
            if alike > 0 && !same.is(showing) {
                *same = Same::new(showing, &header, encoded(shown, prev_kv));
            }
            if same.is(showing) {
                out.same(same, id, alike);
            } else {
                out.events(&header, (id, false), encoded(shown, prev_kv), alike);
            }
            if alike == 0 {
                // An idle stream holds no events.
                self.same = Default::default();
            }
            return;
        }
        let mut rest = shown;
        while !rest.is_empty() {
            let max = self.shared.options.request_bytes_max;
            let (part, later) = rest.split_at(fitting(&header, encoded(rest, prev_kv), max));
            out.events(&header, (id, !later.is_empty()), encoded(part, prev_kv), alike);
            rest = later;
        }
    }

    /// The messages to all who are alike, if other streams are likely to say the same.
    fn in_chorus(&mut self, id: i64, prev_kv: bool, header: &pb::ResponseHeader) -> Option<Bytes> {
        // Those who want something of their own are told alone.
        let all_alike =
            self.fragment.is_empty() && (self.prev_kv.is_empty() || self.prev_kv.len() == self.updates.len());
        if !all_alike || self.updates.alike() == 0 {
            return None;
        }
        let (showing, shown) = (self.updates.showing(), self.updates.shown());
        let events_len = encoded(shown, prev_kv).map(Bytes::len).sum();
        self.updates
            .in_chorus(id, (prev_kv, most_bytes(events_len)), |shown, ids| {
                Same::new(showing, header, encoded(shown, prev_kv)).to_each(ids)
            })
    }
}

fn encoded(events: &[Arc<Event>], prev_kv: bool) -> impl Iterator<Item = &Bytes> + Clone {
    events.iter().map(move |event| wire::event(event, prev_kv))
}

pub(super) fn spec(request: &pb::WatchCreateRequest) -> WatchSpec {
    use pb::watch_create_request::FilterType;
    let filtered = |kind: FilterType| request.filters.contains(&(kind as i32));
    let (no_put, no_delete) = (filtered(FilterType::Noput), filtered(FilterType::Nodelete));
    let key = if request.key.is_empty() {
        Bytes::from_static(b"\0")
    } else {
        // The watcher keeps its keys for long; the buffer they came in is not kept for them.
        Bytes::copy_from_slice(&request.key)
    };
    let range_end = Bytes::copy_from_slice(&request.range_end);
    WatchSpec {
        keys: KeyRange::from_wire(key, range_end),
        start: (request.start_revision > 0).then_some(Revision(request.start_revision)),
        id: (request.watch_id != 0).then_some(request.watch_id),
        no_put,
        no_delete,
        prev_kv: request.prev_kv,
        progress: request.progress_notify,
    }
}

/// A client that gives up reads etcd's text for it; any other error is its own.
fn watch_error(error: Status) -> Status {
    if error.code() == Code::Cancelled {
        canceled()
    } else {
        error
    }
}

fn canceled() -> Status {
    Status::cancelled("etcdserver: watch canceled")
}

fn cancelled(Gone: Gone) -> Status {
    canceled()
}
