//! Watchers as their owners hold them.

mod task;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use setpoint_base::{Stop, TaskGroup};
use tokio::sync::Notify;

use super::core::mailbox::{Mailbox, Overflow, Room};
use super::core::stream::WatcherId;
use super::core::watcher::{Item, Spec, WatcherCounters};
use super::error::WatchError;
use super::link::Links;
use super::stats::{StreamCounters, StreamStats, WatcherStats};

/// What to watch and how.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    key: Bytes,
    range_end: Bytes,
    /// The first revision wanted; 0 is the next one (0).
    pub start_revision: i64,
    /// Begin with [`Item::Resync`] of what is there; `start_revision` is ignored then (false).
    pub list_first: bool,
    /// When history is compacted or the cluster is another: [`Item::Resync`] with synthetic deletes, which needs
    /// memory for every key; otherwise the watcher ends with [`WatchError::Compacted`] (true).
    pub resync: bool,
    /// Events say what was before (false).
    pub prev_kv: bool,
    /// The server sends bookmarks by itself. Without it there are bookmarks too when the link is quiet (false).
    pub progress: bool,
    /// No puts (false).
    pub no_put: bool,
    /// No deletes (false).
    pub no_delete: bool,
    /// What happens when the owner does not keep up ([`Overflow::Pause`]).
    pub overflow: Overflow,
    /// How far the owner may fall behind before that.
    pub room: Room,
}

impl WatchOptions {
    /// One key.
    pub fn key(key: impl Into<Bytes>) -> Self {
        Self::range(key, "")
    }

    /// Every key that begins with `prefix`; all keys when it is empty.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let prefix: Bytes = prefix.into();
        let end = prefix_end(&prefix);
        Self::range(prefix, end)
    }

    /// Keys from `key` up to before `range_end`, as etcd writes it: empty is one key, `"\0"` is all from `key`.
    pub fn range(key: impl Into<Bytes>, range_end: impl Into<Bytes>) -> Self {
        let mut key: Bytes = key.into();
        if key.is_empty() {
            key = Bytes::from_static(b"\0");
        }
        Self {
            key,
            range_end: range_end.into(),
            start_revision: 0,
            list_first: false,
            resync: true,
            prev_kv: false,
            progress: false,
            no_put: false,
            no_delete: false,
            overflow: Overflow::default(),
            room: Room::default(),
        }
    }

    /// From this revision on.
    #[must_use]
    pub fn from(mut self, revision: i64) -> Self {
        self.start_revision = revision;
        self
    }

    fn spec(self, counters: Arc<WatcherCounters>) -> Spec {
        Spec {
            start: if self.list_first { 0 } else { self.start_revision },
            key: self.key,
            range_end: self.range_end,
            list_first: self.list_first,
            resync: self.resync,
            prev_kv: self.prev_kv,
            progress: self.progress,
            no_put: self.no_put,
            no_delete: self.no_delete,
            overflow: self.overflow,
            counters,
        }
    }
}

/// The first key after all that begin with `prefix`.
fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end.into();
        }
    }
    // All keys, or all from a prefix of nothing but 0xff on.
    Bytes::from_static(b"\0")
}

/// One gRPC watch stream, with a connection of its own, shared by any number of watchers.
///
/// It is opened with the first watcher, closed with the last, and opened again after a failure.
#[derive(Clone, Debug)]
pub struct Watches {
    inbox: Arc<Inbox>,
    stop: Stop,
    counters: Arc<StreamCounters>,
}

impl Watches {
    pub(super) fn start(links: Arc<Links>, tasks: &TaskGroup) -> Self {
        let inbox = Arc::new(Inbox::default());
        let counters = Arc::new(StreamCounters::default());
        let stop = tasks.stop().clone();
        tasks.spawn(task::run(links, &inbox, counters.clone(), stop.clone()));
        Self {
            inbox,
            stop,
            counters,
        }
    }

    /// A watcher on this stream. It is being created when this returns: with `start_revision` 0 it sees what
    /// happens after its creation reached the server.
    #[must_use]
    pub fn watch(&self, options: WatchOptions) -> Watcher {
        let counters = Arc::new(WatcherCounters::default());
        let desk = Arc::new(Desk {
            mailbox: Mutex::new(Received {
                mailbox: Mailbox::new(options.room),
                end: None,
            }),
            overflow: options.overflow,
            news: Notify::new(),
            counters: counters.clone(),
        });
        let id = self.inbox.next.fetch_add(1, Ordering::Relaxed);
        self.inbox
            .tell(|said| said.added.push((id, options.spec(counters), desk.clone())));
        if self.stop.is_cancelled() {
            // The stream's task may have looked for the last time.
            desk.finish(WatchError::Closed);
        }
        Watcher {
            id,
            desk,
            inbox: self.inbox.clone(),
        }
    }

    /// What the stream went through.
    #[must_use]
    pub fn stats(&self) -> StreamStats {
        self.counters.read()
    }
}

/// What a watcher is told, in order; survives connections, servers and compactions.
///
/// Dropping it cancels it on the server.
#[derive(Debug)]
pub struct Watcher {
    id: WatcherId,
    desk: Arc<Desk>,
    inbox: Arc<Inbox>,
}

impl Watcher {
    /// The next thing to know. Safe to drop while waiting: nothing is lost.
    ///
    /// # Errors
    /// The watcher has ended; it says so again each time.
    pub async fn next(&mut self) -> Result<Item, WatchError> {
        loop {
            if let Some(next) = self.try_next() {
                return next;
            }
            self.desk.news.notified().await;
        }
    }

    /// The next thing to know, if it is known already.
    pub fn try_next(&mut self) -> Option<Result<Item, WatchError>> {
        let mut received = self.desk.mailbox.lock();
        let Some((item, room)) = received.mailbox.pop() else {
            return received.end.clone().map(Err);
        };
        drop(received);
        if room {
            self.inbox.tell(|said| said.room.push(self.id));
        }
        Some(Ok(item))
    }

    /// Asks the server how far it is; the answer is an [`Item::Progress`] of every watcher of the stream, if all of
    /// them have caught up.
    pub fn request_progress(&self) {
        self.inbox.tell(|said| said.ask_progress = true);
    }

    /// What it went through.
    #[must_use]
    pub fn stats(&self) -> WatcherStats {
        WatcherStats::read(&self.desk.counters, &self.desk.mailbox.lock().mailbox)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.inbox.tell(|said| said.gone.push(self.id));
    }
}

/// Between a stream and one owner.
#[derive(Debug)]
struct Desk {
    mailbox: Mutex<Received>,
    overflow: Overflow,
    news: Notify,
    counters: Arc<WatcherCounters>,
}

#[derive(Debug)]
struct Received {
    mailbox: Mailbox,
    end: Option<WatchError>,
}

impl Desk {
    /// Whether the mailbox is full now, and was not before.
    fn deliver(&self, item: Item) -> bool {
        let full = self.mailbox.lock().mailbox.push(item, self.overflow);
        self.news.notify_one();
        full
    }

    fn finish(&self, error: WatchError) {
        self.mailbox.lock().end = Some(error);
        self.news.notify_one();
    }
}

/// What owners say to their stream. Each watcher has at most one entry of a kind, so it cannot grow beyond them.
#[derive(Debug, Default)]
struct Inbox {
    next: AtomicU64,
    said: Mutex<Said>,
    news: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Said {
    added: Vec<(WatcherId, Spec, Arc<Desk>)>,
    gone: Vec<WatcherId>,
    room: Vec<WatcherId>,
    ask_progress: bool,
}

impl Inbox {
    fn tell(&self, say: impl FnOnce(&mut Said)) {
        say(&mut self.said.lock());
        self.news.notify_one();
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        // The stream's task looks, finds nobody, and ends.
        self.news.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::prefix_end;

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        for (prefix, end) in [
            (&b"a"[..], &b"b"[..]),
            (b"a\xff", b"b"),
            (b"\xff", b"\0"),
            (b"", b"\0"),
            (b"ab", b"ac"),
        ] {
            assert_eq!(prefix_end(prefix), end, "{prefix:?}");
        }
    }
}
