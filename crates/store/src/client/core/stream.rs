//! One gRPC watch stream shared by many watchers.
//!
//! ```text
//!          Add            create sent       created            stream breaks
//!   (new) ─────▶ Queued ─────────────▶ Creating ─────▶ Active ───────────────▶ Queued
//!                  ▲                                     │ compacted     │ mailbox full (Park)
//!                  │ all pages read, Item::Resync        ▼               ▼
//!                  └───────────────────────────────── Listing         Parked ── room ──▶ Queued
//! ```
//!
//! Create requests are pipelined; the server answers them in order, so the oldest unanswered one is meant. A watcher
//! resumes at `next`: one after its last event or bookmark, one after its creation when it asked for "now". Events it
//! has seen are dropped all the same.
//!
//! A silent link is probed: a call that every server answers at once, and a progress request on the stream. Neither
//! answered in time means that the link is dead, whatever TCP believes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use setpoint_proto::etcdserverpb as pb;
use tokio::time::Instant;

use super::backoff::{Attempts, ReconnectPolicy};
use super::mailbox::Overflow;
use super::watcher::{Item, Phase, Spec, Watched, count};
use crate::client::error::WatchError;
use crate::client::stats::StreamCounters;

use pb::watch_request::RequestUnion;

mod answer;
mod list;

/// Create requests sent and not answered. Enough that round trips do not count, few enough to be fair to others.
const CREATES_IN_FLIGHT: usize = 64;
/// Refusals in a row, for reasons a new token may cure, until a watcher gives up.
const REFUSALS_MAX: u32 = 3;

/// Names a watcher within its stream, over all reconnects.
pub(crate) type WatcherId = u64;

/// What the stream may do and when.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) reconnect: ReconnectPolicy,
    /// A link silent for so long is probed.
    pub(crate) probe_after: Duration,
    /// How long the probe may take.
    pub(crate) probe_timeout: Duration,
    /// Watchers end when no server could be reached for so long.
    pub(crate) give_up_after: Option<Duration>,
    /// For the jitter.
    pub(crate) seed: u64,
}

/// Why a stream, or an attempt at one, ended.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) code: tonic::Code,
    pub(crate) message: String,
}

/// What happened.
#[derive(Debug)]
pub(crate) enum Input {
    Add(WatcherId, Spec),
    Remove(WatcherId),
    /// The owner's mailbox is over its bound.
    Full(WatcherId),
    /// There is room in it again.
    Room(WatcherId),
    /// Somebody wants to know how far the server is.
    AskProgress,
    /// The server answered the call.
    Opened,
    Message(pb::WatchResponse),
    Broken(Failure),
    ProbeAnswered,
    /// The answer to the listing of this number.
    Page(WatcherId, u64, pb::RangeResponse),
    PageFailed(WatcherId, u64, Failure),
    /// The deadline has come.
    Tick,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Open a stream, at another endpoint than the one that just failed.
    Open,
    /// Let go of the stream and its connection.
    Close,
    Send(pb::WatchRequest),
    /// Make a call on the stream's connection that any server answers at once.
    Probe,
    /// The token is not accepted any more: get another before the next stream.
    RenewToken,
    /// Read a page, of the watcher's listing of this number.
    List(WatcherId, u64, pb::RangeRequest),
    Deliver(WatcherId, Item),
    /// The last that the watcher hears.
    Finish(WatcherId, WatchError),
}

#[derive(Debug, PartialEq)]
enum Link {
    /// There is none; one may be opened from this time on.
    Down {
        retry_at: Instant,
    },
    /// Asked for, nothing heard yet.
    Opening,
    Open,
}

/// The state of a stream.
#[derive(Debug)]
pub(crate) struct Stream {
    config: Config,
    link: Link,
    attempts: Attempts,
    watchers: HashMap<WatcherId, Watched>,
    queue: VecDeque<WatcherId>,
    /// Creates sent and not answered, oldest first; `None` is one whose owner is gone.
    in_flight: VecDeque<Option<WatcherId>>,
    by_id: HashMap<i64, WatcherId>,
    /// Ids that were cancelled; the server may still speak of them for a while.
    cancelled: HashSet<i64>,
    /// Listings that wait before they are tried again.
    relists: HashMap<WatcherId, Instant>,
    heard: Instant,
    /// Until when an answer to the probe is waited for.
    probing: Option<Instant>,
    /// Since when no server answers.
    unreachable: Option<Instant>,
    /// The cluster that revisions are from.
    cluster: Option<u64>,
    /// Watchers whose full mailbox keeps the stream from being read.
    pausing: HashSet<WatcherId>,
    effects: Vec<Effect>,
    counters: Arc<StreamCounters>,
}

impl Stream {
    pub(crate) fn new(config: Config, counters: Arc<StreamCounters>, now: Instant) -> Self {
        Self {
            attempts: Attempts::new(config.reconnect, config.seed),
            config,
            link: Link::Down { retry_at: now },
            watchers: HashMap::new(),
            queue: VecDeque::new(),
            in_flight: VecDeque::new(),
            by_id: HashMap::new(),
            cancelled: HashSet::new(),
            relists: HashMap::new(),
            heard: now,
            probing: None,
            unreachable: None,
            cluster: None,
            pausing: HashSet::new(),
            effects: Vec::new(),
            counters,
        }
    }

    /// Takes what happened; what is to be done about it, in order.
    pub(crate) fn step(&mut self, input: Input, now: Instant) -> Vec<Effect> {
        match input {
            Input::Add(id, spec) => self.add(id, spec),
            Input::Remove(id) => self.remove(id),
            Input::Full(id) => self.full(id),
            Input::Room(id) => self.room(id),
            Input::AskProgress => self.ask_progress(),
            Input::Opened => self.opened(now),
            Input::Message(message) => self.message(message, now),
            Input::Broken(failure) => self.broken(&failure, now),
            Input::ProbeAnswered => self.hear(now),
            Input::Page(id, number, page) => self.page(id, number, page),
            Input::PageFailed(id, number, failure) => self.page_failed(id, number, &failure, now),
            Input::Tick => self.tick(now),
        }
        self.pump(now);
        std::mem::take(&mut self.effects)
    }

    /// When [`Input::Tick`] is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let link = match self.link {
            Link::Down { retry_at } => (!self.queue.is_empty()).then_some(retry_at),
            _ => Some(self.probing.unwrap_or(self.heard + self.config.probe_after)),
        };
        let relist = self.relists.values().copied().min();
        link.into_iter().chain(relist).min()
    }

    /// Whether answers may be taken from the stream now.
    pub(crate) fn reading(&self) -> bool {
        self.pausing.is_empty()
    }

    /// Everybody is told that there will be nothing more.
    pub(crate) fn finish_all(&mut self, error: &WatchError) -> Vec<Effect> {
        let mut ids: Vec<_> = self.watchers.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            self.finish(id, error.clone());
        }
        std::mem::take(&mut self.effects)
    }

    fn add(&mut self, id: WatcherId, spec: Spec) {
        let watched = Watched::new(spec);
        if !watched.spec.list_first {
            self.queue.push_back(id);
        }
        self.watchers.insert(id, watched);
        self.counters.watchers.fetch_add(1, Ordering::Relaxed);
        self.list(id);
    }

    fn remove(&mut self, id: WatcherId) {
        let Some(watched) = self.forget(id) else { return };
        match watched.phase {
            Phase::Active(server_id) => self.cancel(server_id),
            Phase::Creating => self.abandon(id),
            _ => (),
        }
        if self.watchers.is_empty() {
            self.close();
        }
    }

    fn forget(&mut self, id: WatcherId) -> Option<Watched> {
        let watched = self.watchers.remove(&id)?;
        self.counters.watchers.fetch_sub(1, Ordering::Relaxed);
        self.queue.retain(|queued| *queued != id);
        self.relists.remove(&id);
        self.pausing.remove(&id);
        Some(watched)
    }

    /// The answer to its create request will find nobody, and is cancelled then.
    fn abandon(&mut self, id: WatcherId) {
        for slot in &mut self.in_flight {
            if *slot == Some(id) {
                *slot = None;
            }
        }
    }

    fn cancel(&mut self, server_id: i64) {
        self.by_id.remove(&server_id);
        if self.cancelled.insert(server_id) {
            self.send(RequestUnion::CancelRequest(pb::WatchCancelRequest {
                watch_id: server_id,
            }));
        }
    }

    fn send(&mut self, union: RequestUnion) {
        self.effects.push(Effect::Send(pb::WatchRequest {
            request_union: Some(union),
        }));
    }

    fn finish(&mut self, id: WatcherId, error: WatchError) {
        if self.forget(id).is_some() {
            self.effects.push(Effect::Finish(id, error));
        }
    }

    fn full(&mut self, id: WatcherId) {
        let Some(watched) = self.watchers.get_mut(&id) else {
            return;
        };
        watched.full = true;
        if watched.spec.overflow == Overflow::Pause {
            self.pausing.insert(id);
            return;
        }
        let Phase::Active(server_id) = watched.phase else {
            return;
        };
        self.park(id, server_id);
    }

    fn park(&mut self, id: WatcherId, server_id: i64) {
        if let Some(watched) = self.watchers.get_mut(&id) {
            watched.phase = Phase::Parked;
            watched.partial = Vec::new();
            count(&watched.spec.counters.parked, 1);
        }
        self.cancel(server_id);
    }

    fn room(&mut self, id: WatcherId) {
        self.pausing.remove(&id);
        if let Some(watched) = self.watchers.get_mut(&id) {
            watched.full = false;
            if matches!(watched.phase, Phase::Parked) {
                watched.phase = Phase::Queued;
                self.queue.push_back(id);
            }
        }
    }

    fn ask_progress(&mut self) {
        if self.link == Link::Open && !self.by_id.is_empty() {
            self.send(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
        }
    }

    fn opened(&mut self, now: Instant) {
        self.link = Link::Open;
        self.hear(now);
    }

    fn hear(&mut self, now: Instant) {
        self.heard = now;
        self.probing = None;
    }

    fn tick(&mut self, now: Instant) {
        if !matches!(self.link, Link::Down { .. }) {
            self.watch_over_link(now);
        }
        let due = self.relists.iter().filter(|(_, at)| **at <= now);
        let mut due: Vec<_> = due.map(|(id, _)| *id).collect();
        due.sort_unstable();
        for id in due {
            self.relists.remove(&id);
            self.list(id);
        }
    }

    fn watch_over_link(&mut self, now: Instant) {
        match self.probing {
            Some(until) if until <= now => {
                count(&self.counters.dead_links, 1);
                let silent = now.duration_since(self.heard);
                self.broken(
                    &Failure {
                        code: tonic::Code::Unavailable,
                        message: format!("the link is dead: silent for {} ms", silent.as_millis()),
                    },
                    now,
                );
            }
            None if self.heard + self.config.probe_after <= now => {
                self.probing = Some(now + self.config.probe_timeout);
                count(&self.counters.probes, 1);
                self.effects.push(Effect::Probe);
                self.ask_progress();
            }
            _ => (),
        }
    }

    /// The link is gone: what was on it is queued, and all of it ends if there is no hope.
    fn broken(&mut self, failure: &Failure, now: Instant) {
        if matches!(self.link, Link::Down { .. }) {
            return;
        }
        count(&self.counters.breaks, 1);
        let wait = self.attempts.failed();
        self.drop_link(now + wait);
        let since = *self.unreachable.get_or_insert(now);
        if let Some(error) = self.hopeless(failure, now.duration_since(since)) {
            let effects = std::mem::take(&mut self.effects);
            self.effects = effects.into_iter().chain(self.finish_all(&error)).collect();
        }
    }

    /// Why nobody needs to try again.
    fn hopeless(&mut self, failure: &Failure, unreachable: Duration) -> Option<WatchError> {
        use tonic::Code;
        let refused = || WatchError::Refused {
            reason: failure.message.clone(),
        };
        match failure.code {
            Code::Unauthenticated if self.attempts_left() => {
                self.effects.push(Effect::RenewToken);
                None
            }
            Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented | Code::InvalidArgument => {
                Some(refused())
            }
            _ if self.config.give_up_after.is_some_and(|max| unreachable >= max) => {
                Some(WatchError::Unreachable {
                    last: failure.message.clone(),
                })
            }
            _ => None,
        }
    }

    fn attempts_left(&mut self) -> bool {
        for watched in self.watchers.values_mut() {
            watched.refusals += 1;
        }
        self.watchers
            .values()
            .all(|watched| watched.refusals <= REFUSALS_MAX)
    }

    fn drop_link(&mut self, retry_at: Instant) {
        self.effects.push(Effect::Close);
        self.link = Link::Down { retry_at };
        self.probing = None;
        self.in_flight.clear();
        self.by_id.clear();
        self.cancelled.clear();
        let mut lost: Vec<_> = self.watchers.iter_mut().collect();
        lost.sort_unstable_by_key(|(id, _)| **id);
        for (id, watched) in lost {
            if watched.lost() {
                self.queue.push_back(*id);
            }
        }
    }

    fn close(&mut self) {
        if !matches!(self.link, Link::Down { .. }) {
            let now = self.heard;
            self.drop_link(now);
        }
    }

    /// Opens the stream if somebody needs it; sends what may be sent.
    fn pump(&mut self, now: Instant) {
        if let Link::Down { retry_at } = self.link
            && retry_at <= now
            && !self.queue.is_empty()
        {
            self.link = Link::Opening;
            self.heard = now;
            count(&self.counters.opens, 1);
            self.effects.push(Effect::Open);
        }
        while !matches!(self.link, Link::Down { .. }) && self.in_flight.len() < CREATES_IN_FLIGHT {
            let Some(id) = self.queue.pop_front() else { break };
            if let Some(watched) = self.watchers.get_mut(&id) {
                watched.phase = Phase::Creating;
                self.in_flight.push_back(Some(id));
                self.effects.push(Effect::Send(watched.create_request()));
            }
        }
    }
}
