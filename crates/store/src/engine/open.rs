//! Opens a store, and ends it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use setpoint_base::{Disk, DiskLock};

use super::janitor::Janitor;
use super::sequencer::Sequencer;
use super::shared::{Shared, Start, Tip};
use super::ticker::Ticker;
use crate::core::batch::History;
use crate::error::OpenError;
use crate::log::files::{Files, failed};
use crate::log::recover::recover;
use crate::log::spare::SpareSlot;
use crate::log::writer::Writer;
use crate::options::Options;
use crate::plant::{self, Plant};
use crate::watch::Hub;

/// The dispatcher hands out pointers: what it does is short, and watchers wait for it.
const DISPATCH_TURN: Duration = Duration::from_millis(1);
/// The name of the file that keeps a second process out.
const LOCK: &str = "lock";

/// A store with its threads. Dropping it stops and joins them.
pub(crate) struct Engine {
    pub(crate) shared: Arc<Shared>,
    pub(crate) hub: Hub,
    threads: Mutex<Vec<JoinHandle<()>>>,
    lock: Mutex<Option<DiskLock>>,
}

/// What the threads of a store run.
pub(crate) struct Workers {
    pub(crate) sequencer: Sequencer,
    pub(crate) ticker: Ticker,
    pub(crate) janitor: Janitor,
}

/// See [`Store::open`](crate::Store::open).
pub(crate) fn open(options: Options, disk: Arc<dyn Disk>) -> Result<Engine, OpenError> {
    let (engine, workers) = prepare(options, disk)?;
    let hub = engine.hub.clone();
    engine.spawn("store-sequencer", move || workers.sequencer.run())?;
    engine.spawn("watch-dispatch", move || {
        setpoint_base::prefer_turns_of(DISPATCH_TURN);
        hub.dispatch();
    })?;
    engine.spawn("store-ticker", move || workers.ticker.run())?;
    engine.spawn("store-janitor", move || workers.janitor.run())?;
    Ok(engine)
}

/// A store that is recovered and whose threads are not running yet.
pub(crate) fn prepare(options: Options, disk: Arc<dyn Disk>) -> Result<(Engine, Workers), OpenError> {
    options.validate().map_err(OpenError::Options)?;
    let dir = options.dir.clone();
    disk.create_dir_all(&dir).map_err(failed("make", &dir))?;
    let lock_path = dir.join(LOCK);
    let lock = disk.lock(&lock_path).map_err(|error| {
        if error.kind() == io::ErrorKind::WouldBlock {
            OpenError::Locked { dir: dir.clone() }
        } else {
            failed("lock", &lock_path)(error)
        }
    })?;
    let files = Arc::new(Files::new(disk, dir.clone()));
    let recovered = recover(&files)?;
    let state = recovered.state;
    let spare = Arc::new(SpareSlot::default());
    let segment_bytes = options.segment_bytes;
    let writer = Writer::begin(
        Arc::clone(&files),
        Arc::clone(&spare),
        segment_bytes,
        recovered.next,
    )
    .map_err(failed("begin a segment in", &dir))?;
    let (segment, offset) = writer.position();
    let again = i64::from(plant::has(Plant::DuplicateRevision) && state.revision > 1);
    let start = Start {
        index: state.index,
        leases: state.leases,
        tables: state.tables,
        tip: Tip {
            revision: state.revision - again,
            log_index: state.log_index,
            segment,
            offset,
        },
        floor: state.floor,
        cluster_id: writer.header().cluster_id,
        member_id: writer.header().member_id,
    };
    let shared = Arc::new(Shared::new(options, files, spare, start));
    let history: Arc<dyn History> = shared.clone();
    let hub = Hub::new(history, Arc::clone(&shared.feed), &shared.options);
    let engine = Engine {
        shared: Arc::clone(&shared),
        hub,
        threads: Mutex::default(),
        lock: Mutex::new(Some(lock)),
    };
    let workers = Workers {
        sequencer: Sequencer::new(Arc::clone(&shared), writer),
        ticker: Ticker::new(Arc::clone(&shared)),
        janitor: Janitor::new(shared, recovered.saved),
    };
    Ok((engine, workers))
}

impl Engine {
    fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), OpenError> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
        let thread = thread.map_err(failed("start a thread for", &self.shared.options.dir))?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// Refuses new writes, commits those that wait, ends the threads and lets the directory go. With
    /// `checkpoint`, the next start reads nothing but that. Blocks.
    pub(crate) fn stop(&self, checkpoint: bool) {
        self.shared.queue.close();
        let mut threads = std::mem::take(&mut *self.threads.lock()).into_iter();
        // The sequencer was started first. What it commits last belongs into the checkpoint.
        join(threads.next());
        self.shared.closing.store(checkpoint, Ordering::Release);
        self.shared.stop.stop();
        self.hub.close();
        threads.for_each(|thread| join(Some(thread)));
        if let Some(spare) = self.shared.spare.take() {
            // Reserved space is of no use to a store that is not running; the next start would delete it, too.
            let _ = self.shared.files.disk.remove(&spare.path);
        }
        drop(self.lock.lock().take());
    }
}

fn join(thread: Option<JoinHandle<()>>) {
    if thread.is_some_and(|thread| thread.join().is_err()) {
        tracing::error!("a thread of the store panicked");
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop(false);
    }
}
