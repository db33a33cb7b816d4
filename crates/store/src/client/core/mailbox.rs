//! What a watcher was told and its owner has not taken yet.
//!
//! The bound is on events and bytes; what is over it is the stream's decision ([`Overflow`]). One item may overshoot:
//! an answer is never cut, because a revision comes whole or not at all.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use setpoint_proto::mvccpb;

use super::watcher::Item;

/// What happens to a watcher whose owner does not keep up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// Its stream is not read until there is room: HTTP/2 holds the server back. Every watcher of the stream waits.
    #[default]
    Pause,
    /// It leaves the server and is made again at the revision it stopped at, once there is room. Other watchers go
    /// on. When history is compacted meanwhile it is a resync.
    Park,
    /// Only the newest event of a key is kept, with the previous version of the oldest one merged into it; when even
    /// that is too much, as [`Overflow::Park`].
    Coalesce,
}

/// How much a mailbox may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Events (10,000).
    pub events: usize,
    /// Bytes of keys and values (16 MiB).
    pub bytes: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            events: 10_000,
            bytes: 16 << 20,
        }
    }
}

/// The items between a stream and a watcher's owner.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    room: Room,
    items: VecDeque<Item>,
    events: usize,
    bytes: usize,
    /// The stream was told that this is full, and waits to hear that it is not.
    reported: bool,
}

impl Mailbox {
    pub(crate) fn new(room: Room) -> Self {
        Self {
            room,
            ..Self::default()
        }
    }

    /// Adds an item; says whether the mailbox is full now and the stream has not been told yet.
    pub(crate) fn push(&mut self, item: Item, overflow: Overflow) -> bool {
        if let (Item::Progress(_), Some(last @ Item::Progress(_))) = (&item, self.items.back_mut()) {
            // A later bookmark says all that the earlier one said.
            *last = item;
            return false;
        }
        let (events, bytes) = item.size();
        self.events += events;
        self.bytes += bytes;
        self.items.push_back(item);
        if overflow == Overflow::Coalesce && self.is_full() {
            self.coalesce();
        }
        let news = self.is_full() && !self.reported;
        self.reported |= news;
        news
    }

    /// The oldest item, and whether the stream has to hear that there is room again.
    pub(crate) fn pop(&mut self) -> Option<(Item, bool)> {
        let item = self.items.pop_front()?;
        let (events, bytes) = item.size();
        self.events -= events;
        self.bytes -= bytes;
        // Half: a mailbox at its limit would otherwise stop and start the stream with each item.
        let news = self.reported && self.events <= self.room.events / 2 && self.bytes <= self.room.bytes / 2;
        self.reported &= !news;
        Some((item, news))
    }

    pub(crate) fn events(&self) -> usize {
        self.events
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn is_full(&self) -> bool {
        self.events >= self.room.events || self.bytes >= self.room.bytes
    }

    /// Merges the events at the end of the mailbox, after whatever must not be passed.
    fn coalesce(&mut self) {
        let passable = |item: &Item| matches!(item, Item::Events(_) | Item::Progress(_));
        let from = self
            .items
            .iter()
            .rposition(|item| !passable(item))
            .map_or(0, |at| at + 1);
        let mut progress = None;
        let mut events = Vec::new();
        for item in self.items.drain(from..) {
            match item {
                Item::Events(batch) => {
                    progress = None;
                    events.extend(batch);
                }
                other => progress = Some(other),
            }
        }
        if !events.is_empty() {
            self.items.push_back(Item::Events(newest(events)));
        }
        self.items.extend(progress);
        let sizes = self.items.iter().map(Item::size);
        (self.events, self.bytes) = sizes.fold((0, 0), |sum, size| (sum.0 + size.0, sum.1 + size.1));
    }
}

/// The last event of each key, in order; each says what was before the first of its key.
fn newest(events: Vec<mvccpb::Event>) -> Vec<mvccpb::Event> {
    let mut before: HashMap<Bytes, Option<mvccpb::KeyValue>> = HashMap::new();
    let mut last: HashMap<Bytes, usize> = HashMap::new();
    for (at, event) in events.iter().enumerate() {
        let key = event.kv.as_ref().map(|kv| kv.key.clone()).unwrap_or_default();
        before.entry(key.clone()).or_insert_with(|| event.prev_kv.clone());
        last.insert(key, at);
    }
    let mut kept = Vec::with_capacity(last.len());
    for (at, mut event) in events.into_iter().enumerate() {
        let key = event.kv.as_ref().map_or(&[][..], |kv| &kv.key);
        if last.get(key) == Some(&at) {
            event.prev_kv = before.remove(key).flatten();
            kept.push(event);
        }
    }
    kept
}
