//! The channels of a process, for whoever wants to see them, and their metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::hub::Hub;
use super::metrics::ChannelMetrics;
use super::snapshot::ChannelSnapshot;

/// All channels that were built with one [`Flow`](crate::Flow). Cloning gives another handle to the same list.
#[derive(Clone, Default)]
pub(crate) struct Channels {
    list: Arc<Mutex<List>>,
    pub(crate) metrics: ChannelMetrics,
}

#[derive(Default)]
struct List {
    next: u64,
    hubs: BTreeMap<u64, Weak<Hub>>,
}

impl Channels {
    /// Makes a channel known until what is returned is dropped.
    pub(super) fn list(&self, hub: &Arc<Hub>) -> Listed {
        let mut list = self.list.lock();
        let number = list.next;
        list.next += 1;
        list.hubs.insert(number, Arc::downgrade(hub));
        Listed {
            list: Arc::clone(&self.list),
            number,
        }
    }

    /// All of them at this moment, the oldest first.
    pub(crate) fn snapshot(&self) -> Vec<ChannelSnapshot> {
        // The lock is not held while they are looked at.
        let hubs: Vec<_> = self.list.lock().hubs.values().filter_map(Weak::upgrade).collect();
        hubs.iter().map(|hub| hub.snapshot()).collect()
    }
}

/// A channel that is known until this is dropped.
pub(super) struct Listed {
    list: Arc<Mutex<List>>,
    number: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.list.lock().hubs.remove(&self.number);
    }
}
