//! A store whose threads are steps: whoever drives it decides who runs, when, and how far.
//!
//! The steps are those of the product's threads; only the loops around them are missing. Together with a hook at
//! the [`Point`]s, a seeded driver on one thread makes every run repeatable: time is tokio's (pause it), chance is
//! `fastrand`'s (seed it), the disk is handed in.

use std::cell::RefCell;
use std::sync::Arc;

use setpoint_base::Disk;

use crate::core::batch::History;
use crate::engine::{self, Janitor, Sequencer, Ticker};
use crate::error::{Error, OpenError};
use crate::handle::Store;
use crate::options::Options;
pub use crate::plant::{Plant, plant};
pub use crate::point::{Hook, Point, set_hook};
use crate::types::{Event, Revision};

/// One of the store's threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Worker {
    /// Commits what waits.
    Sequencer,
    /// Hands one commit to the watchers.
    Dispatcher,
    /// Ends leases, prepares segments.
    Ticker,
    /// Prunes, rewrites, writes checkpoints.
    Janitor,
}

impl Worker {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sequencer, Self::Dispatcher, Self::Ticker, Self::Janitor];
}

/// A store that does nothing by itself.
pub struct Simulated {
    store: Store,
    sequencer: RefCell<Sequencer>,
    ticker: RefCell<Ticker>,
    janitor: RefCell<Janitor>,
}

impl Simulated {
    /// As [`Store::open`], without threads. Wants tokio's context, for the time.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open(options: Options, disk: Arc<dyn Disk>) -> Result<Self, OpenError> {
        let (engine, workers) = engine::prepare(options, disk)?;
        Ok(Self {
            store: Store::over(engine),
            sequencer: RefCell::new(workers.sequencer),
            ticker: RefCell::new(workers.ticker),
            janitor: RefCell::new(workers.janitor),
        })
    }

    /// The store, for its clients.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Lets a worker take one step; whether there was something to do. One that is in the middle of a step, at a
    /// point, takes no other.
    pub fn step(&self, worker: Worker) -> bool {
        match worker {
            Worker::Sequencer => {
                let Ok(mut sequencer) = self.sequencer.try_borrow_mut() else {
                    return false;
                };
                sequencer.step()
            }
            Worker::Dispatcher => self.store.engine().hub.dispatch_one(),
            Worker::Ticker => self.ticker.try_borrow_mut().is_ok_and(|mut ticker| {
                ticker.step();
                true
            }),
            Worker::Janitor => self.janitor.try_borrow_mut().is_ok_and(|mut janitor| {
                janitor.step();
                true
            }),
        }
    }

    /// Proposals that wait for the sequencer.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.store.engine().shared.queue.len()
    }

    /// All events from a revision on.
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::Read`].
    pub fn history(&self, from: Revision) -> Result<Vec<Arc<Event>>, Error> {
        let shared = &self.store.engine().shared;
        let (mut events, mut next) = (Vec::new(), from);
        while next <= shared.revision() {
            let (more, until) = History::read(&**shared, next, 1 << 20, true)?;
            events.extend(more);
            next = until;
        }
        Ok(events)
    }

    /// Commits what waits, writes a last checkpoint, ends all streams.
    pub fn close(self) {
        let engine = Arc::clone(self.store.engine());
        engine.shared.queue.close();
        while self.step(Worker::Sequencer) {}
        self.janitor.borrow_mut().finish();
        while self.step(Worker::Dispatcher) {}
        engine.stop(false);
        engine.hub.end_streams();
    }
}
