//! The stream against a server that a child could write, under random breaks, compactions and slow owners.
//!
//! Whatever happens: an owner is told every revision of its range once, in order and whole, except for those that a
//! resync jumps over; and then snapshot and synthetic deletes say exactly what a reader of the store would find.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use setpoint_proto::etcdserverpb as pb;
use setpoint_proto::mvccpb;
use tokio::time::Instant;

use super::mailbox::{Mailbox, Overflow, Room};
use super::stream::{Effect, Failure, Input, Stream};
use super::tests::{config, spec};
use super::watcher::{Item, WatcherCounters};
use crate::client::error::COMPACTED;

use pb::watch_request::RequestUnion;

/// One step of the world.
#[derive(Clone, Copy, Debug)]
enum Move {
    /// A write of one to three of the keys, or a delete of the first.
    Write {
        first: u8,
        keys: u8,
        delete: bool,
    },
    /// The server sends what it has, in pieces if asked; at most so many revisions.
    Send {
        revisions: usize,
        pieces: bool,
    },
    Break,
    Compact {
        back: i64,
    },
    /// The owner of a watcher takes so many items.
    Take {
        watcher: u64,
        items: usize,
    },
    Bookmark,
    /// Time passes; jobs (listings) come to their end.
    Wait,
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        6 => (0..12_u8, 1..4_u8, any::<bool>()).prop_map(|(first, keys, delete)| Move::Write { first, keys, delete }),
        6 => (1..5_usize, any::<bool>()).prop_map(|(revisions, pieces)| Move::Send { revisions, pieces }),
        2 => Just(Move::Break),
        1 => (0..8_i64).prop_map(|back| Move::Compact { back }),
        4 => (0..3_u64, 1..6_usize).prop_map(|(watcher, items)| Move::Take { watcher, items }),
        1 => Just(Move::Bookmark),
        3 => Just(Move::Wait),
    ]
}

/// A store with history, and one watch stream of it.
#[derive(Default)]
struct Server {
    revision: i64,
    floor: i64,
    history: Vec<mvccpb::Event>,
    state: BTreeMap<Bytes, i64>,
    /// Id to the next revision to send.
    watchers: BTreeMap<i64, i64>,
    /// Ended by compaction and not cancelled: as etcd does, nobody is told of progress meanwhile.
    ended: BTreeSet<i64>,
    next_id: i64,
    answers: VecDeque<pb::WatchResponse>,
}

impl Server {
    fn new() -> Self {
        Self {
            revision: 1,
            ..Self::default()
        }
    }

    fn header(&self) -> Option<pb::ResponseHeader> {
        Some(pb::ResponseHeader {
            cluster_id: 7,
            revision: self.revision,
            ..Default::default()
        })
    }

    fn write(&mut self, first: u8, keys: u8, delete: bool) {
        let name = |n: u8| Bytes::from(format!("a{:02}", n % 12));
        let at = self.revision + 1;
        let event = |key: Bytes, delete: bool| mvccpb::Event {
            r#type: i32::from(delete),
            kv: Some(mvccpb::KeyValue {
                key,
                mod_revision: at,
                ..Default::default()
            }),
            prev_kv: None,
        };
        if delete {
            if self.state.remove(&name(first)).is_some() {
                self.history.push(event(name(first), true));
                self.revision = at;
            }
            return;
        }
        for n in first..first + keys {
            self.state.insert(name(n), at);
            self.history.push(event(name(n), false));
        }
        self.revision = at;
    }

    fn hear(&mut self, request: &pb::WatchRequest) {
        match &request.request_union {
            Some(RequestUnion::CreateRequest(create)) => {
                let id = self.next_id;
                self.next_id += 1;
                let start = match create.start_revision {
                    0 => self.revision + 1,
                    start => start,
                };
                self.answers.push_back(pb::WatchResponse {
                    header: self.header(),
                    watch_id: id,
                    created: true,
                    ..Default::default()
                });
                self.watchers.insert(id, start);
            }
            Some(RequestUnion::CancelRequest(cancel)) => {
                let runs = self.watchers.remove(&cancel.watch_id).is_some();
                if self.ended.remove(&cancel.watch_id) || runs {
                    self.answers.push_back(pb::WatchResponse {
                        header: self.header(),
                        watch_id: cancel.watch_id,
                        canceled: true,
                        ..Default::default()
                    });
                }
            }
            _ => (),
        }
    }

    /// Answers for every watcher: compaction, or some revisions, whole.
    fn send(&mut self, revisions: usize, pieces: bool) {
        let ids: Vec<_> = self.watchers.keys().copied().collect();
        for id in ids {
            let next = self.watchers[&id];
            if next < self.floor {
                self.watchers.remove(&id);
                self.ended.insert(id);
                self.answers.push_back(pb::WatchResponse {
                    header: Some(pb::ResponseHeader::default()),
                    watch_id: id,
                    canceled: true,
                    compact_revision: self.floor,
                    ..Default::default()
                });
                continue;
            }
            let until = next + revisions as i64;
            let at = |event: &mvccpb::Event| event.kv.as_ref().unwrap().mod_revision;
            let events: Vec<_> = self
                .history
                .iter()
                .filter(|event| (next..until).contains(&at(event)))
                .cloned()
                .collect();
            self.watchers.insert(id, until.min(self.revision + 1).max(next));
            let parts: Vec<_> = if pieces {
                events.chunks(1).map(<[_]>::to_vec).collect()
            } else {
                vec![events]
            };
            let last = parts.len();
            for (number, events) in parts
                .into_iter()
                .enumerate()
                .filter(|(_, events)| !events.is_empty())
            {
                self.answers.push_back(pb::WatchResponse {
                    header: self.header(),
                    watch_id: id,
                    fragment: number + 1 < last,
                    events,
                    ..Default::default()
                });
            }
        }
    }

    fn bookmark(&mut self) {
        if self.ended.is_empty() && self.watchers.values().all(|next| *next > self.revision) {
            self.answers.push_back(pb::WatchResponse {
                header: self.header(),
                watch_id: -1,
                ..Default::default()
            });
        }
    }

    /// Two keys a page; the history says what was there.
    fn range(&self, request: &pb::RangeRequest) -> Result<pb::RangeResponse, Failure> {
        let at = if request.revision == 0 {
            self.revision
        } else {
            request.revision
        };
        if at < self.floor {
            return Err(Failure {
                code: tonic::Code::OutOfRange,
                message: COMPACTED.to_owned(),
            });
        }
        let all: Vec<_> = state_at(&self.history, at)
            .into_iter()
            .filter(|(key, _)| *key >= request.key && *key < request.range_end)
            .collect();
        Ok(pb::RangeResponse {
            header: self.header(),
            more: all.len() > 2,
            kvs: all
                .into_iter()
                .take(2)
                .map(|(key, mod_revision)| mvccpb::KeyValue {
                    key,
                    mod_revision,
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        })
    }
}

fn state_at(history: &[mvccpb::Event], at: i64) -> BTreeMap<Bytes, i64> {
    let mut state = BTreeMap::new();
    for event in history {
        let kv = event.kv.as_ref().unwrap();
        if kv.mod_revision > at {
            break;
        }
        if event.r#type == 1 {
            state.remove(&kv.key);
        } else {
            state.insert(kv.key.clone(), kv.mod_revision);
        }
    }
    state
}

/// An owner, who replays what it is told.
struct Owner {
    mailbox: Mailbox,
    overflow: Overflow,
    at: i64,
    state: BTreeMap<Bytes, i64>,
}

impl Owner {
    fn take(&mut self, item: Item, history: &[mvccpb::Event]) {
        match item {
            Item::Events(events) => {
                let last = events.last().unwrap().kv.as_ref().unwrap().mod_revision;
                if self.overflow == Overflow::Coalesce {
                    for event in &events {
                        self.apply(event);
                    }
                    assert_eq!(self.state, state_at(history, last));
                } else {
                    let expected: Vec<_> = history
                        .iter()
                        .filter(|event| {
                            (self.at + 1..=last).contains(&event.kv.as_ref().unwrap().mod_revision)
                        })
                        .cloned()
                        .collect();
                    assert_eq!(events, expected, "after {}", self.at);
                    for event in &events {
                        self.apply(event);
                    }
                }
                assert!(last > self.at);
                self.at = last;
            }
            Item::Progress(revision) => {
                assert!(revision >= self.at);
                assert_eq!(
                    state_at(history, revision),
                    self.state,
                    "bookmark {revision} after {}",
                    self.at
                );
                self.at = revision;
            }
            Item::Resync(resync) => {
                assert!(resync.revision >= self.at, "back in time");
                for gone in &resync.deleted {
                    assert_eq!(self.state.remove(&gone.key), Some(gone.last_mod_revision));
                }
                let now = resync.snapshot.iter().map(|kv| (kv.key.clone(), kv.mod_revision));
                let now: BTreeMap<_, _> = now.collect();
                assert!(
                    self.state.keys().all(|key| now.contains_key(key)),
                    "a delete untold"
                );
                assert_eq!(now, state_at(history, resync.revision));
                self.state = now;
                self.at = resync.revision;
            }
        }
    }

    fn apply(&mut self, event: &mvccpb::Event) {
        let kv = event.kv.as_ref().unwrap();
        if event.r#type == 1 {
            self.state.remove(&kv.key);
        } else {
            self.state.insert(kv.key.clone(), kv.mod_revision);
        }
    }
}

struct World {
    server: Server,
    stream: Stream,
    now: Instant,
    connected: bool,
    owners: HashMap<u64, Owner>,
    listings: Vec<(u64, u64, pb::RangeRequest)>,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let mut world = Self {
            server: Server::new(),
            stream: Stream::new(config(), Arc::default(), now),
            now,
            connected: false,
            owners: HashMap::new(),
            listings: Vec::new(),
        };
        for (id, overflow) in [Overflow::Pause, Overflow::Park, Overflow::Coalesce]
            .into_iter()
            .enumerate()
        {
            let owner = Owner {
                mailbox: Mailbox::new(Room {
                    events: 4,
                    bytes: usize::MAX,
                }),
                overflow,
                at: 1,
                state: BTreeMap::new(),
            };
            world.owners.insert(id as u64, owner);
            let mut wanted = spec(&Arc::new(WatcherCounters::default()));
            wanted.overflow = overflow;
            wanted.start = 2;
            world.step(Input::Add(id as u64, wanted));
        }
        world
    }

    fn step(&mut self, input: Input) {
        let mut effects = VecDeque::from(self.stream.step(input, self.now));
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Open => {
                    assert!(!self.connected, "opened twice");
                    self.connected = true;
                }
                Effect::Close => {
                    self.connected = false;
                    self.server.watchers.clear();
                    self.server.ended.clear();
                    self.server.answers.clear();
                    self.server.next_id = 0;
                }
                Effect::Send(request) => {
                    assert!(self.connected, "sent to nobody");
                    self.server.hear(&request);
                }
                Effect::List(id, number, request) => self.listings.push((id, number, request)),
                Effect::Deliver(id, item) => {
                    let owner = self.owners.get_mut(&id).unwrap();
                    if owner.mailbox.push(item, owner.overflow) {
                        effects.extend(self.stream.step(Input::Full(id), self.now));
                    }
                }
                Effect::Finish(id, error) => panic!("{id} ended: {error}"),
                Effect::Probe | Effect::RenewToken => (),
            }
        }
    }

    fn act(&mut self, act: Move) {
        match act {
            Move::Write { first, keys, delete } => self.server.write(first, keys, delete),
            Move::Send { revisions, pieces } => {
                self.server.send(revisions, pieces);
                self.deliver();
            }
            Move::Break => self.step(Input::Broken(Failure {
                code: tonic::Code::Unavailable,
                message: String::new(),
            })),
            Move::Compact { back } => {
                self.server.floor = self.server.floor.max(self.server.revision - back);
            }
            Move::Take { watcher, items } => {
                for _ in 0..items {
                    self.take(watcher);
                }
            }
            Move::Bookmark => {
                self.server.bookmark();
                self.deliver();
            }
            Move::Wait => {
                self.now += Duration::from_millis(10);
                self.step(Input::Tick);
                for (id, number, request) in std::mem::take(&mut self.listings) {
                    let input = match self.server.range(&request) {
                        Ok(page) => Input::Page(id, number, page),
                        Err(failure) => Input::PageFailed(id, number, failure),
                    };
                    self.step(input);
                }
            }
        }
    }

    /// Some answers may stay on the way: whoever pauses does not read them.
    fn deliver(&mut self) {
        while self.stream.reading()
            && let Some(answer) = self.server.answers.pop_front()
        {
            self.step(Input::Message(answer));
        }
    }

    fn take(&mut self, id: u64) -> bool {
        let owner = self.owners.get_mut(&id).unwrap();
        let Some((item, room)) = owner.mailbox.pop() else {
            return false;
        };
        owner.take(item, &self.server.history);
        if room {
            self.step(Input::Room(id));
        }
        true
    }

    /// Calm: everybody comes to the present, and is told so.
    fn settle(&mut self) {
        for _ in 0..200 {
            self.act(Move::Wait);
            self.act(Move::Send {
                revisions: 50,
                pieces: false,
            });
            for id in 0..3 {
                while self.take(id) {}
            }
        }
        for (id, owner) in &self.owners {
            assert_eq!(owner.state, self.server.state, "watcher {id} at {}", owner.at);
        }
        // Something that none of them watches.
        self.server.revision += 1;
        self.act(Move::Send {
            revisions: 1,
            pieces: false,
        });
        self.act(Move::Bookmark);
        for id in 0..3 {
            while self.take(id) {}
            assert_eq!(
                self.owners[&id].at, self.server.revision,
                "watcher {id} is not told of progress"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_owner_is_told_everything_once_in_order_and_whole(acts in prop::collection::vec(moves(), 0..160)) {
        let mut world = World::new();
        for act in acts {
            world.act(act);
        }
        world.settle();
    }
}
