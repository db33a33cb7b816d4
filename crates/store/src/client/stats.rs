//! What streams and watchers went through, as numbers.

use std::sync::atomic::{AtomicU64, Ordering};

use super::core::mailbox::Mailbox;
use super::core::watcher::WatcherCounters;

/// Counts of one stream; read while it runs.
#[derive(Debug, Default)]
pub(crate) struct StreamCounters {
    pub(crate) opens: AtomicU64,
    pub(crate) breaks: AtomicU64,
    pub(crate) dead_links: AtomicU64,
    pub(crate) probes: AtomicU64,
    pub(crate) messages: AtomicU64,
    pub(crate) watchers: AtomicU64,
}

/// Counts of one stream, since it exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamStats {
    /// Attempts to open it.
    pub opens: u64,
    /// Times it broke, or could not be opened.
    pub breaks: u64,
    /// Breaks of which the client had to find out by itself: the link was silent and did not answer a probe.
    pub dead_links: u64,
    /// Probes of a silent link.
    pub probes: u64,
    /// Answers received.
    pub messages: u64,
    /// Watchers on it now.
    pub watchers: u64,
}

impl StreamCounters {
    pub(crate) fn read(&self) -> StreamStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StreamStats {
            opens: read(&self.opens),
            breaks: read(&self.breaks),
            dead_links: read(&self.dead_links),
            probes: read(&self.probes),
            messages: read(&self.messages),
            watchers: read(&self.watchers),
        }
    }
}

/// Counts of one watcher, since it exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatcherStats {
    /// Events accepted.
    pub events: u64,
    /// Times it was made again on another stream, or after it was parked.
    pub reconnects: u64,
    /// Times its range was read again, the first listing included.
    pub resyncs: u64,
    /// Times the server said that the history it needed is compacted, or another cluster answered.
    pub compactions: u64,
    /// Events dropped because they had been seen.
    pub duplicates: u64,
    /// Times it left the server because its owner did not keep up.
    pub parked: u64,
    /// Revisions between what the server has said to exist and what this watcher has accepted.
    pub lag_revisions: u64,
    /// Events accepted and not taken yet.
    pub buffered_events: usize,
    /// Their bytes of keys and values.
    pub buffered_bytes: usize,
}

impl WatcherStats {
    pub(crate) fn read(counters: &WatcherCounters, mailbox: &Mailbox) -> Self {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let lag = counters.head.load(Ordering::Relaxed) - counters.seen.load(Ordering::Relaxed);
        Self {
            events: read(&counters.events),
            reconnects: read(&counters.reconnects),
            resyncs: read(&counters.resyncs),
            compactions: read(&counters.compactions),
            duplicates: read(&counters.duplicates),
            parked: read(&counters.parked),
            lag_revisions: u64::try_from(lag).unwrap_or(0),
            buffered_events: mailbox.events(),
            buffered_bytes: mailbox.bytes(),
        }
    }
}
