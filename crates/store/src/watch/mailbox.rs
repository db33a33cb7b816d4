//! What the dispatcher leaves for one stream.
//!
//! Bounded in updates and bytes. Full means: the watcher concerned becomes a cursor into history, and what
//! waits for it here is only the revision to go on from. An update for many watchers of the stream is one item: what it
//! holds beside the first is their names, which count as bytes.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use super::chorus::Said;
use crate::types::{Event, Revision};

/// Events of whole revisions, shared by all watchers that want exactly these.
pub(super) struct Parcel {
    pub(super) events: Box<[Arc<Event>]>,
    /// Keys and values, in bytes.
    pub(super) bytes: usize,
    /// What was said of it to many, for others who say the same.
    pub(super) said: Said,
}

impl Parcel {
    pub(super) fn new(events: Vec<Arc<Event>>) -> Arc<Self> {
        let bytes = events
            .iter()
            .map(|event| event.kv.key.len() + event.kv.value.len())
            .sum();
        Arc::new(Self {
            events: events.into(),
            bytes,
            said: Said::default(),
        })
    }

    /// The first revision in it.
    pub(super) fn first(&self) -> Option<Revision> {
        self.events.first().map(|event| event.kv.mod_revision)
    }
}

/// A watcher, for as long as it lives: ids and places may be used again on the same stream, serials are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) id: i64,
    pub(super) serial: NonZeroU32,
    /// Where its stream keeps it.
    pub(super) place: u32,
}

/// Watchers that get the same parcel, in the order in which they are served. One is the usual number, and needs no
/// list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) first: Name,
    pub(super) others: Vec<Name>,
}

impl Names {
    fn bytes(&self) -> usize {
        size_of_val(&self.others[..])
    }
}

/// One thing to deliver.
pub(super) enum Item {
    Events(Names, Arc<Parcel>),
    /// All watchers of the stream have everything up to here before this item.
    AllSynced(Revision),
    /// As `AllSynced`, for those watchers that are not cursors; time for idle progress.
    Tick(Revision),
}

/// A watcher that did not fit any more.
pub(super) struct Lag {
    pub(super) name: Name,
    /// The first revision it has not been given.
    pub(super) next: Revision,
    /// It may go on once so many items have been taken: its earlier ones are among them.
    pub(super) after: u64,
}

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) items_max: usize,
    pub(super) bytes_max: usize,
}

#[derive(Default)]
struct Inbox {
    items: VecDeque<Item>,
    bytes: usize,
    /// Items ever put in, and ever taken out.
    put: u64,
    taken: u64,
    lagging: Vec<Lag>,
    /// The stream has been told and has not looked yet.
    signalled: bool,
    stopped: bool,
}

/// The meeting place of the dispatcher and one stream.
#[derive(Default)]
pub(super) struct Mailbox {
    inbox: Mutex<Inbox>,
    waker: AtomicWaker,
}

/// What came of a push.
pub(super) enum Pushed {
    /// It is in; whether the stream still has to be woken.
    In { wake: bool },
    /// It did not fit.
    Full,
}

impl Mailbox {
    pub(super) fn push(&self, name: Name, parcel: &Arc<Parcel>, room: Room) -> Pushed {
        let mut inbox = self.inbox.lock();
        if let Some(Item::Events(names, last)) = inbox.items.back_mut()
            && Arc::ptr_eq(last, parcel)
        {
            names.others.push(name);
            inbox.bytes += size_of::<Name>();
            return Pushed::In { wake: inbox.signal() };
        }
        let full = inbox.items.len() >= room.items_max || inbox.bytes >= room.bytes_max;
        if full {
            return Pushed::Full;
        }
        inbox.bytes += parcel.bytes;
        let names = Names {
            first: name,
            others: Vec::new(),
        };
        inbox.put(Item::Events(names, Arc::clone(parcel)));
        Pushed::In { wake: inbox.signal() }
    }

    /// Leaves word that a watcher is a cursor from `next` on. Whether the stream has to be woken.
    pub(super) fn lag(&self, name: Name, next: Revision) -> bool {
        let mut inbox = self.inbox.lock();
        let after = inbox.put;
        inbox.lagging.push(Lag { name, next, after });
        inbox.signal()
    }

    /// Puts a marker in line, whatever waits there: a stream has at most one of each kind.
    pub(super) fn mark(&self, marker: Item) {
        self.inbox.lock().put(marker);
    }

    /// The next item.
    pub(super) fn take(&self) -> Option<Item> {
        self.inbox.lock().take()
    }

    /// The next item if it is more events for the same watchers that are not too large.
    pub(super) fn take_more(&self, names: &Names, bytes_max: usize) -> Option<Arc<Parcel>> {
        let mut inbox = self.inbox.lock();
        match inbox.items.front() {
            Some(Item::Events(next, parcel)) if parcel.bytes <= bytes_max && next == names => {
                match inbox.take() {
                    Some(Item::Events(_, parcel)) => Some(parcel),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Watchers that have become cursors since the last look; how many items have ever been taken.
    pub(super) fn look(&self) -> (Vec<Lag>, u64) {
        let mut inbox = self.inbox.lock();
        inbox.signalled = false;
        (std::mem::take(&mut inbox.lagging), inbox.taken)
    }

    pub(super) fn has_items(&self) -> bool {
        !self.inbox.lock().items.is_empty()
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.inbox.lock().stopped
    }

    pub(super) fn stop(&self) {
        self.inbox.lock().stopped = true;
        self.wake();
    }

    /// Tells the stream to look even though nothing was put in.
    pub(super) fn signal(&self) -> bool {
        self.inbox.lock().signal()
    }

    pub(super) fn wake(&self) {
        self.waker.wake();
    }

    /// Ready when there is something to look at.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        let inbox = self.inbox.lock();
        let ready = inbox.signalled || inbox.stopped || !inbox.items.is_empty() || !inbox.lagging.is_empty();
        if ready { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Inbox {
    fn put(&mut self, item: Item) {
        self.items.push_back(item);
        self.put += 1;
    }

    fn take(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        self.taken += 1;
        if let Item::Events(names, parcel) = &item {
            self.bytes -= parcel.bytes + names.bytes();
        }
        if self.items.is_empty() {
            // An idle stream should not keep the memory of its busiest moment.
            self.items.shrink_to(4);
        }
        Some(item)
    }

    fn signal(&mut self) -> bool {
        !std::mem::replace(&mut self.signalled, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room {
        items_max: 2,
        bytes_max: 1 << 20,
    };

    fn name(id: i64) -> Name {
        Name {
            id,
            serial: NonZeroU32::MIN,
            place: 0,
        }
    }

    #[test]
    fn watchers_of_one_parcel_take_one_place() {
        let mailbox = Mailbox::default();
        let parcels = [Parcel::new(vec![]), Parcel::new(vec![]), Parcel::new(vec![])];
        for parcel in &parcels[..2] {
            for id in 0..100 {
                assert!(matches!(mailbox.push(name(id), parcel, ROOM), Pushed::In { .. }));
            }
        }
        assert!(matches!(mailbox.push(name(0), &parcels[2], ROOM), Pushed::Full));
        let Some(Item::Events(names, _)) = mailbox.take() else {
            panic!("the first parcel is in");
        };
        let ids = std::iter::once(&names.first).chain(&names.others);
        assert!(ids.map(|name| name.id).eq(0..100));
        assert!(
            mailbox.take_more(&names, 0).is_some(),
            "the second is for the same"
        );
        assert!(mailbox.take().is_none());
        assert_eq!(mailbox.inbox.lock().bytes, 0);
    }

    #[test]
    fn names_count_as_bytes() {
        let mailbox = Mailbox::default();
        let room = Room {
            items_max: 100,
            bytes_max: 16 * size_of::<Name>(),
        };
        let (one, other) = (Parcel::new(vec![]), Parcel::new(vec![]));
        for id in 0..=16 {
            assert!(matches!(mailbox.push(name(id), &one, room), Pushed::In { .. }));
        }
        assert!(matches!(mailbox.push(name(0), &other, room), Pushed::Full));
    }
}
