//! Random work on a disk that crashes, with watchers that have to be told the truth across restarts.
//!
//! A seed decides the work, when the power goes, and what the disk keeps. The store's threads are real, so a
//! seed does not fix their order: run alone, a seed that failed may have to be run more than once before it fails
//! again, and may not fail again. A failing seed prints the command that runs it alone.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use setpoint_base::SystemClock;
use setpoint_store::types::{
    Delete, EventKind, KeyRange, KeyValue, Op, Put, Range, Revision, Txn, WatchSpec, WatchUpdate,
};
use setpoint_store::{Error, Options, Store, WatchStream};
use setpoint_testkit::record::{Response, WatchRequest};
use setpoint_testkit::{Change, Event, Model, Recorder, SimDisk, Stored, WatchRecord, validate};

/// Seeds of one run of the tests; each is three or four lives of a store.
const SEEDS: u64 = 300;
/// A wait that only a hang outlasts.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn whatever_the_disk_keeps_no_promise_is_broken() {
    let chosen = std::env::var_os("SETPOINT_SIM_SEED");
    if let Some(seed) = chosen.and_then(|seed| seed.to_str()?.parse().ok()) {
        return run(seed);
    }
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= SEEDS {
                        return;
                    }
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed))) {
                        next.store(SEEDS, Ordering::Relaxed);
                        println!(
                            "replay: SETPOINT_SIM_SEED={seed} cargo test -p setpoint-store --test main sim -- --nocapture"
                        );
                        resume_unwind(panic);
                    }
                }
            });
        }
    });
}

fn run(seed: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(World::new(seed).run());
}

struct World {
    rng: fastrand::Rng,
    disk: SimDisk,
    model: Model,
    recorder: Recorder,
    watchers: Vec<WatchRecord>,
    values: u64,
}

/// What a task sends.
#[derive(Clone)]
enum Step {
    Write(Txn, u64),
    Delete(KeyRange, u64),
    Compact(i64),
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let watchers = (0..4).map(|_| WatchRecord::new(request(&mut rng, 2))).collect();
        Self {
            rng,
            disk: SimDisk::default(),
            model: Model::default(),
            recorder: Recorder::default(),
            watchers,
            values: 0,
        }
    }

    async fn run(mut self) {
        for _ in 0..3 {
            if self.rng.u8(..8) > 0 {
                let log_of_changes = self.rng.u32(1..9);
                self.disk.cut_power_after(self.rng.u64(..1 << log_of_changes));
            }
            self.live().await;
            self.disk = self.disk.crash(&mut self.rng);
        }
        let store = self.open().expect("the power is on");
        assert!(self.recover(&store).await);
        let mut streams = self.resume(&store);
        self.watch_until_synced(&store, &mut streams).await;
        for record in &self.watchers {
            check(&self.model, record);
        }
        store.close().await.unwrap();
    }

    /// One life of the store: until the power goes, or the work is done.
    async fn live(&mut self) {
        let Some(store) = self.open() else { return };
        if !self.recover(&store).await {
            return;
        }
        let mut streams = self.resume(&store);
        for _ in 0..self.rng.u32(5..40) {
            if !self.work(&store).await {
                return;
            }
            if self.rng.bool() {
                let patience = Duration::from_micros(self.rng.u64(..500));
                self.watch(&mut streams, patience).await;
            }
        }
        if !self.disk.power_is_off() {
            self.watch_until_synced(&store, &mut streams).await;
        }
        if self.rng.bool() {
            let _ = store.close().await;
        }
    }

    fn open(&self) -> Option<Store> {
        let options = Options {
            segment_bytes: 64 << 10,
            request_bytes_max: 16 << 10,
            hot_bytes: 16 << 10,
            stream_updates_max: 2,
            prefill: false,
            ..Options::new(PathBuf::from("/data"))
        };
        match Store::open(options, Arc::new(self.disk.clone()), SystemClock::shared()) {
            Ok(store) => Some(store),
            Err(error) => {
                assert!(
                    self.disk.power_is_off(),
                    "a crash must not damage the store: {error:?}"
                );
                None
            }
        }
    }

    // --- work ---

    /// Sends a few requests at once; whether the store still answers.
    async fn work(&mut self, store: &Store) -> bool {
        let steps: Vec<Step> = (0..self.rng.usize(1..5)).map(|_| self.step()).collect();
        let answers = join_all(steps.iter().map(|step| send(store, step.clone()))).await;
        let mut alive = true;
        for (step, answer) in steps.into_iter().zip(answers) {
            match (step, answer) {
                (Step::Write(_, ticket) | Step::Delete(_, ticket), Ok(Some(revision))) => {
                    self.recorder.acknowledged(ticket, revision.0);
                }
                (Step::Write(_, ticket) | Step::Delete(_, ticket), Ok(None)) => self.recorder.refused(ticket),
                (Step::Compact(to), Ok(_)) => self.model.compact(to),
                (Step::Compact(_), Err(Error::Compacted { .. })) => (),
                (_, Err(error)) => {
                    assert!(self.disk.power_is_off(), "{error:?}");
                    alive = false;
                }
            }
        }
        if alive {
            let (acknowledged, unanswered) = self.recorder.take();
            assert_eq!(unanswered, Vec::<Vec<Change>>::new());
            for (revision, changes) in acknowledged {
                assert_eq!(
                    self.model.commit(&changes),
                    revision,
                    "each commit has the next revision"
                );
            }
        }
        alive
    }

    fn step(&mut self) -> Step {
        match self.rng.u8(..20) {
            0 if self.model.revision() > 3 => Step::Compact(self.rng.i64(1..=self.model.revision())),
            0..=3 => {
                let (range, keys) = match self.rng.u8(..3) {
                    0 => (
                        KeyRange::prefix(b"a/"),
                        keys().filter(|key| key.starts_with(b"a/")).collect(),
                    ),
                    _ => {
                        let key = self.key();
                        (KeyRange::Key(key.clone().into()), vec![key])
                    }
                };
                Step::Delete(
                    range,
                    self.recorder.sent(keys.into_iter().map(Change::Delete).collect()),
                )
            }
            _ => {
                let mut changes: Vec<Change> = Vec::new();
                for _ in 0..self.rng.usize(1..4) {
                    let key = self.key();
                    let taken = |change: &Change| matches!(change, Change::Put(other, _) if *other == key);
                    if !changes.iter().any(taken) {
                        changes.push(Change::Put(key, self.value()));
                    }
                }
                let put = |change: &Change| match change {
                    Change::Put(key, value) => Op::Put(Put::new(key.clone(), value.clone())),
                    Change::Delete(_) => unreachable!("a transaction of these tests only puts"),
                };
                let txn = Txn {
                    success: changes.iter().map(put).collect(),
                    ..Txn::default()
                };
                Step::Write(txn, self.recorder.sent(changes))
            }
        }
    }

    fn key(&mut self) -> Vec<u8> {
        let n = self.rng.usize(..keys().count());
        keys().nth(n).expect("n is below the count")
    }

    /// A value never used before, so that it tells the commit it came from.
    fn value(&mut self) -> Vec<u8> {
        self.values += 1;
        let len = if self.rng.u8(..10) == 0 {
            self.rng.usize(..5_000)
        } else {
            self.rng.usize(..200)
        };
        let mut value = self.values.to_string().into_bytes();
        value.resize(value.len() + len, b'.');
        value
    }

    // --- recovery ---

    /// Brings the model up to what survived: all that was acknowledged, and any of the rest. `false` when the
    /// power went before all of it was read.
    async fn recover(&mut self, store: &Store) -> bool {
        let all = Range::of(KeyRange::From(b"\0"[..].into()));
        let (history, now) = (history(store, self.model.revision() + 1).await, store.range(&all));
        let (Some(history), Ok(now)) = (history, now) else {
            assert!(self.disk.power_is_off(), "what is there can be read");
            return false;
        };
        let (acknowledged, mut unanswered) = self.recorder.take();
        let mut acknowledged = acknowledged.into_iter().peekable();
        for (revision, events) in history {
            let was_acknowledged = acknowledged.next_if(|(acknowledged, _)| *acknowledged == revision);
            if let Some((_, changes)) = was_acknowledged {
                self.model.commit(&changes);
                assert_eq!(
                    happened(&self.model, revision),
                    events,
                    "an acknowledged commit is what it was"
                );
                continue;
            }
            let explains = |changes: &Vec<Change>| {
                let mut model = self.model.clone();
                model.commit(changes) == revision && happened(&model, revision) == events
            };
            let at = unanswered.iter().position(explains);
            let at = at.unwrap_or_else(|| panic!("nobody sent what is at revision {revision}: {events:?}"));
            self.model.commit(&unanswered.remove(at));
        }
        if let Some((revision, changes)) = acknowledged.next() {
            panic!("revision {revision} was acknowledged and is lost: {changes:?}");
        }
        assert_eq!(store.revision().0, self.model.revision());
        let floor = store.status().compact_revision;
        assert!(
            floor >= self.model.floor(),
            "an acknowledged compaction is lost: {floor}"
        );
        self.model.compact(floor);
        let now: Vec<_> = now.kvs.iter().map(stored).collect();
        let expected: Vec<_> = self
            .model
            .state()
            .iter()
            .map(|(key, stored)| (key.clone(), stored.clone()))
            .collect();
        assert_eq!(now, expected);
        true
    }

    // --- watchers ---

    /// Resumes all watchers as a client does, two to a stream; their index is their id.
    fn resume(&self, store: &Store) -> Vec<WatchStream> {
        let mut streams = vec![store.watch(), store.watch()];
        for (id, record) in self.watchers.iter().enumerate() {
            streams[id / 2].create(spec(record, id)).unwrap();
        }
        streams
    }

    /// Takes what comes within `patience` of the last update.
    async fn watch(&mut self, streams: &mut [WatchStream], patience: Duration) {
        for stream in streams {
            while let Ok(update) = tokio::time::timeout(patience, stream.next()).await {
                let Some(update) = update else { break };
                self.note(stream, update);
                if self.rng.u8(..4) == 0 {
                    break;
                }
            }
        }
    }

    /// Asks each stream for progress and takes all that comes before it.
    async fn watch_until_synced(&mut self, store: &Store, streams: &mut [WatchStream]) {
        // A watcher that resumes after the newest revision starts in the future: no progress before it is reached.
        let changes = vec![Change::Put(b"a/0".to_vec(), self.value())];
        let ticket = self.recorder.sent(changes.clone());
        let Change::Put(key, value) = &changes[0] else {
            unreachable!("it is a put")
        };
        let Ok(put) = store.put(Put::new(key.clone(), value.clone()), None).await else {
            assert!(self.disk.power_is_off(), "a write is refused");
            return;
        };
        self.recorder.refused(ticket);
        let revision = self.model.commit(&changes);
        assert_eq!(put.revision.0, revision);
        for stream in streams {
            stream.request_progress();
            loop {
                let update = tokio::time::timeout(PATIENCE, stream.next())
                    .await
                    .expect("progress comes");
                let Some(update) = update.filter(|update| !matches!(update, WatchUpdate::Failed { .. }))
                else {
                    assert!(self.disk.power_is_off(), "a stream or a watcher ended");
                    return;
                };
                let done = matches!(update, WatchUpdate::Progress { revision: at, .. } if at.0 >= revision);
                self.note(stream, update);
                if done {
                    break;
                }
            }
        }
    }

    fn note(&mut self, stream: &mut WatchStream, update: WatchUpdate) {
        match update {
            WatchUpdate::Events { id, events, .. } => {
                let events = events.iter().map(|event| event_of(event)).collect();
                self.watchers[index(id)].responses.push(Response::Events(events));
            }
            WatchUpdate::Progress {
                id: Some(id),
                revision,
            } => {
                self.watchers[index(id)]
                    .responses
                    .push(Response::Progress(revision.0));
            }
            WatchUpdate::Progress { id: None, revision } => {
                // It holds for those of this stream; cancel and create tell which these are.
                for id in 0..self.watchers.len() {
                    if stream.cancel(i64::try_from(id).expect("few watchers")) {
                        self.watchers[id].responses.push(Response::Progress(revision.0));
                        stream.create(spec(&self.watchers[id], id)).unwrap();
                    }
                }
            }
            WatchUpdate::Failed { error, .. } => assert!(self.disk.power_is_off(), "{error}"),
            WatchUpdate::Compacted { id, floor } => {
                // The record ends here and is judged; the client lists and starts anew.
                let request = request(&mut self.rng, floor.0);
                let mut ended = std::mem::replace(&mut self.watchers[index(id)], WatchRecord::new(request));
                ended.responses.push(Response::Compacted(floor.0));
                assert!(
                    ended.resume_from() < floor.0,
                    "told to be compacted at {floor}, was at {}",
                    ended.resume_from()
                );
                stream.create(spec(&self.watchers[index(id)], index(id))).unwrap();
                self.check_as_far_as_known(&ended);
            }
        }
    }

    /// Judges a record, but for what the model learns only later.
    fn check_as_far_as_known(&self, record: &WatchRecord) {
        if record.covered() <= self.model.revision() {
            check(&self.model, record);
        }
    }
}

#[track_caller]
fn check(model: &Model, record: &WatchRecord) {
    if let Err(violation) = validate::watch(model, record) {
        panic!("{violation}\nrequest: {:?}", record.request);
    }
}

async fn send(store: &Store, step: Step) -> Result<Option<Revision>, Error> {
    match step {
        Step::Write(txn, _) => Ok(Some(store.txn(txn, None).await?.revision)),
        Step::Delete(keys, _) => {
            let result = store.delete(Delete { keys, prev_kv: false }, None).await?;
            Ok((result.deleted > 0).then_some(result.revision))
        }
        Step::Compact(to) => store.compact(Revision(to), false).await.map(Some),
    }
}

/// What is in the log from a revision on, as a fresh watcher sees it; `None` when it cannot be read.
async fn history(store: &Store, from: i64) -> Option<Vec<(i64, Vec<Event>)>> {
    let mut revisions: Vec<(i64, Vec<Event>)> = Vec::new();
    let last = store.revision().0;
    let mut stream = store.watch();
    stream
        .create(WatchSpec::new(
            KeyRange::From(b"\0"[..].into()),
            Some(Revision(from)),
        ))
        .unwrap();
    while revisions.last().map_or(from - 1, |(revision, _)| *revision) < last {
        let update = tokio::time::timeout(PATIENCE, stream.next())
            .await
            .expect("history is told");
        let Some(WatchUpdate::Events { events, .. }) = update else {
            assert!(
                matches!(update, None | Some(WatchUpdate::Failed { .. })),
                "{update:?}"
            );
            return None;
        };
        for event in events {
            let event = Event {
                before: None,
                ..event_of(&event)
            };
            match revisions.last_mut() {
                Some((revision, events)) if *revision == event.revision => events.push(event),
                _ => revisions.push((event.revision, vec![event])),
            }
        }
    }
    Some(revisions)
}

fn happened(model: &Model, revision: i64) -> Vec<Event> {
    model
        .events(revision, revision)
        .map(|event| Event {
            before: None,
            ..event.clone()
        })
        .collect()
}

fn keys() -> impl Iterator<Item = Vec<u8>> {
    (0..9).map(|n| format!("{}/{n}", ["a", "b", "c"][n % 3]).into_bytes())
}

fn request(rng: &mut fastrand::Rng, revision: i64) -> WatchRequest {
    let (start, end): (&[u8], Option<&[u8]>) = match rng.u8(..4) {
        0 => (b"a/", Some(b"a0")),
        1 => (b"b/1", Some(b"b/1\0")),
        2 => (b"b", None),
        _ => (b"\0", None),
    };
    WatchRequest {
        start: start.to_vec(),
        end: end.map(<[u8]>::to_vec),
        revision,
        no_put: rng.u8(..8) == 0,
        no_delete: rng.u8(..8) == 0,
    }
}

fn spec(record: &WatchRecord, id: usize) -> WatchSpec {
    let request = &record.request;
    let keys = match &request.end {
        Some(end) if end[..] == *[&request.start[..], b"\0"].concat() => {
            KeyRange::Key(request.start.clone().into())
        }
        Some(end) => KeyRange::Span(request.start.clone().into(), end.clone().into()),
        None => KeyRange::From(request.start.clone().into()),
    };
    WatchSpec {
        id: Some(i64::try_from(id).expect("few watchers")),
        no_put: request.no_put,
        no_delete: request.no_delete,
        prev_kv: id.is_multiple_of(2),
        ..WatchSpec::new(keys, Some(Revision(record.resume_from())))
    }
}

fn index(id: i64) -> usize {
    usize::try_from(id).expect("ids are indices here")
}

fn event_of(event: &setpoint_store::types::Event) -> Event {
    let (key, now) = stored(&event.kv);
    Event {
        key,
        revision: event.kv.mod_revision.0,
        now: (event.kind == EventKind::Put).then_some(now),
        before: event.prev_kv.as_ref().map(|before| stored(before).1),
    }
}

fn stored(kv: &KeyValue) -> (Vec<u8>, Stored) {
    let stored = Stored {
        value: kv.value.to_vec(),
        create_revision: kv.create_revision.0,
        mod_revision: kv.mod_revision.0,
        version: kv.version,
        lease: kv.lease.map_or(0, |lease| lease.0),
    };
    (kv.key.to_vec(), stored)
}
