//! One run: several lives of a store on one disk, driven by one generator of chance.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use setpoint_base::Disk as _;
use setpoint_store::simulation::{Point, Simulated, Worker, set_hook};
use setpoint_store::types::{Range, Revision};
use setpoint_store::{OpenError, Options};
use setpoint_testkit::linear::History;
use setpoint_testkit::linear::kv::{Answer, Gave, Request, Step};
use setpoint_testkit::{Model, SimDisk, validate};
use tokio::time::Instant;

use super::clients::{self, Client, Fate, Inventor, Running, State, TTL};
use super::watchers::{Watching, event_of, everything, stored};
use super::{JUMP, Outcome};

mod verdict;

/// How many steps may be in the middle of each other.
const DEPTH: u32 = 2;

/// The payload of the panic that is a power cut.
struct PowerCut;

/// Requests whose client has gone on: not there yet, or running.
enum Orphan {
    Sent(Request),
    Running(Running),
}

/// When a life ends.
enum End {
    /// At so many points from now.
    Point,
    /// In the middle of a change of the disk, or when its turns are over.
    Disk,
    /// The store is told to stop.
    Closed,
}

pub(super) struct World {
    rng: RefCell<fastrand::Rng>,
    runtime: tokio::runtime::Runtime,
    disk: RefCell<SimDisk>,
    store: RefCell<Option<Rc<Simulated>>>,
    clients: Vec<RefCell<Client>>,
    orphans: RefCell<Vec<Orphan>>,
    watching: Vec<RefCell<Watching>>,
    inventor: RefCell<Inventor>,
    hoards: bool,
    history: RefCell<History>,
    /// What the log said, each revision as soon as it was visible.
    log: RefCell<Model>,
    /// The newest revision and floor that a client was told of.
    known: Cell<(i64, i64)>,
    /// By lease: before this its time cannot be over.
    leases: RefCell<BTreeMap<i64, Instant>>,
    /// Grants that were sent and not refused, in order: the lease, and before when its time cannot be over.
    grants: RefCell<Vec<(i64, Instant)>>,
    /// By request in flight: when it was called.
    called: RefCell<BTreeMap<u64, Instant>>,
    next_name: Cell<u64>,
    points: RefCell<BTreeMap<Point, (u64, u64)>>,
    /// Where the power goes: at one kind of point or at any, after so many more of these.
    points_left: Cell<Option<(Option<Point>, u64)>>,
    /// Steps within steps; see [`DEPTH`].
    depth: Cell<u32>,
    crashes: Cell<usize>,
    /// Whether the disk may fail in this life.
    faulty: Cell<bool>,
    digest: RefCell<DefaultHasher>,
}

/// Whether in this seed the oldest segment stays alive while later ones are rewritten (`Inventor::hoard`).
fn hoards(seed: u64) -> bool {
    seed % 8 == 5
}

impl World {
    /// Runs a seed; panics when a promise is broken.
    pub(super) fn run(seed: u64) -> Outcome {
        fastrand::seed(seed);
        let world = Rc::new(Self::new(seed));
        let _context = world.runtime.enter();
        let hook = Rc::downgrade(&world);
        set_hook(Some(Rc::new(move |point| {
            if let Some(world) = hook.upgrade() {
                world.at(point);
            }
        })));
        let result = catch_unwind(AssertUnwindSafe(|| world.lives()));
        set_hook(None);
        if let Err(panic) = result {
            world.store.take();
            resume_unwind(panic);
        }
        Outcome {
            digest: world.digest.borrow().finish(),
            requests: world.history.borrow().len(),
            crashes: world.crashes.get(),
            revision: world.log.borrow().revision(),
            points: world.points.take(),
        }
    }

    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let clients = rng.u64(2..6);
        let client = |name| {
            let state = State::Idle;
            RefCell::new(Client { name, state })
        };
        let streams = rng.usize(1..4);
        Self {
            runtime,
            disk: RefCell::default(),
            store: RefCell::default(),
            clients: (0..clients).map(client).collect(),
            orphans: RefCell::default(),
            watching: (0..streams)
                .map(|_| RefCell::new(Watching::new(&mut rng)))
                .collect(),
            inventor: RefCell::new(Inventor {
                values: 0,
                wasteful: rng.u8(..4) == 0 && !hoards(seed),
                hoard: hoards(seed).then_some(0),
            }),
            hoards: hoards(seed),
            history: RefCell::default(),
            log: RefCell::default(),
            known: Cell::new((1, -1)),
            leases: RefCell::default(),
            grants: RefCell::default(),
            called: RefCell::default(),
            next_name: Cell::new(clients),
            points: RefCell::default(),
            points_left: Cell::new(None),
            depth: Cell::new(0),
            crashes: Cell::new(0),
            faulty: Cell::new(false),
            digest: RefCell::new(DefaultHasher::new()),
            rng: RefCell::new(rng),
        }
    }

    fn chance<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut self.rng.borrow_mut())
    }

    fn see(&self, what: &str) {
        self.digest.borrow_mut().write(what.as_bytes());
        if std::env::var_os("SETPOINT_TRACE").is_some() {
            println!("{what}");
        }
    }

    // --- lives ---

    fn lives(&self) {
        for _ in 0..self.chance(|rng| rng.u32(1..4)) {
            let end = self.plan();
            let lived = catch_unwind(AssertUnwindSafe(|| self.live(&end)));
            self.points_left.set(None);
            self.end(lived, &end);
        }
        // From here on nobody acts but as told.
        self.depth.set(DEPTH);
        self.open();
        self.settle();
        self.judge();
        self.balance();
    }

    fn plan(&self) -> End {
        let disk = self.disk.borrow().clone();
        self.chance(|rng| {
            let fault = rng.u8(..10);
            self.faulty.set(fault < 2);
            match fault {
                0 => disk.fail_sync_after(rng.u64(..20)),
                1 => disk.set_capacity(Some(rng.u64(90 << 10..200 << 10))),
                _ => (),
            }
            match rng.u8(..10) {
                0 | 1 => {
                    let magnitude = rng.u32(2..10);
                    self.points_left.set(Some((None, rng.u64(..1 << magnitude))));
                    End::Point
                }
                2..=6 => {
                    let point = Point::ALL[rng.usize(..Point::ALL.len())];
                    self.points_left.set(Some((Some(point), rng.u64(..3))));
                    End::Point
                }
                7 | 8 => {
                    let magnitude = rng.u32(2..8);
                    disk.cut_power_after(rng.u64(..1 << magnitude));
                    End::Disk
                }
                _ => End::Closed,
            }
        })
    }

    fn live(&self, end: &End) {
        if !self.open() {
            return;
        }
        for _ in 0..self.chance(|rng| rng.u32(100..1_500)) {
            if self.disk.borrow().power_is_off() {
                return;
            }
            self.act();
        }
        if matches!(end, End::Closed) {
            let store = self.store.take().expect("it is open");
            self.leave();
            self.see("close");
            if let Ok(store) = Rc::try_unwrap(store) {
                store.close();
            }
        }
    }

    /// What is left of a life: nothing but the disk.
    fn end(&self, lived: Result<(), Box<dyn Any + Send>>, end: &End) {
        if let Err(panic) = lived
            && !panic.is::<PowerCut>()
        {
            resume_unwind(panic);
        }
        self.depth.set(0);
        // What a failed sync left unwritten can be read until the machine is started anew.
        if !matches!(end, End::Closed) || self.faulty.take() || self.disk.borrow().power_is_off() {
            self.cut_power();
        }
        self.leave();
        drop(self.store.take());
    }

    /// The power goes: from here on the store reaches its disk no more.
    fn cut_power(&self) {
        let crashed = self.chance(|rng| self.disk.borrow().crash(rng));
        *self.disk.borrow_mut() = crashed;
        self.crashes.set(self.crashes.get() + 1);
        self.see("the power goes");
    }

    /// All connections break; nobody hears of what is in flight.
    fn leave(&self) {
        for client in &self.clients {
            self.give_up(&mut client.borrow_mut());
        }
        self.orphans.borrow_mut().clear();
        for watching in &self.watching {
            watching.borrow_mut().disconnect();
        }
    }

    fn open(&self) -> bool {
        let options = Options {
            segment_bytes: 16 << 10,
            request_bytes_max: 4 << 10,
            hot_bytes: 4 << 10,
            stream_updates_max: 2,
            progress_interval: Duration::from_millis(400),
            prefill: self.chance(|rng| rng.bool()),
            ..Options::new(PathBuf::from("/data"))
        };
        let disk = self.disk.borrow().clone();
        let without = if self.hoards { 3 } else { 1 };
        if self.chance(|rng| rng.u8(..6) < without) {
            // The log alone says everything; often there is no checkpoint yet, or the power is off.
            let _ = disk.remove(&PathBuf::from("/data/checkpoint"));
        }
        match Simulated::open(options, Arc::new(disk.clone())) {
            Ok(store) => *self.store.borrow_mut() = Some(Rc::new(store)),
            Err(error) => {
                let failed =
                    disk.power_is_off() || self.faulty.get() && matches!(error, OpenError::Io { .. });
                assert!(failed, "a crash must not damage the store: {error:?}");
                return false;
            }
        }
        self.see("open");
        let depth = self.depth.replace(DEPTH);
        let readable = self.audit() && self.is_intact();
        self.depth.set(depth);
        readable
    }

    /// Compares what is there with what was acknowledged and with the log. Whether it could be read.
    fn is_intact(&self) -> bool {
        let disk = self.disk.borrow().clone();
        let store = self.store();
        let status = store.store().status();
        let (known, floor) = self.known.get();
        assert!(
            status.revision.0 >= known,
            "revision {known} was acknowledged, now {status:?}"
        );
        assert!(
            status.compact_revision >= floor,
            "floor {floor} was acknowledged, now {status:?}"
        );
        self.log.borrow_mut().compact(status.compact_revision);
        match store.store().range(&Range::of(everything())) {
            Ok(found) => self.is_what_the_log_says(&found.kvs),
            Err(error) => assert!(disk.power_is_off(), "{error:?}"),
        }
        !disk.power_is_off()
    }

    fn is_what_the_log_says(&self, found: &[setpoint_store::types::KeyValue]) {
        let found: Vec<_> = found.iter().map(|kv| (kv.key.to_vec(), stored(kv))).collect();
        let log = self.log.borrow();
        let expected: Vec<_> = log.state().clone().into_iter().collect();
        assert_eq!(found, expected, "at revision {}", log.revision());
    }

    fn store(&self) -> Rc<Simulated> {
        Rc::clone(self.store.borrow().as_ref().expect("the store is open"))
    }

    // --- one thing at a time ---

    /// A point in the middle of a step: the end, or everybody else's chance.
    fn at(&self, point: Point) {
        self.points.borrow_mut().entry(point).or_default().0 += 1;
        if matches!(point, Point::Applied | Point::Published) {
            self.audit();
        }
        if let Some((chosen, left)) = self.points_left.get()
            && chosen.is_none_or(|chosen| chosen == point)
        {
            if left == 0 {
                self.points_left.set(None);
                self.points.borrow_mut().entry(point).or_default().1 += 1;
                self.see(&format!("at {point:?}"));
                self.cut_power();
                resume_unwind(Box::new(PowerCut));
            }
            self.points_left.set(Some((chosen, left - 1)));
        }
        if self.depth.get() < DEPTH && self.store.borrow().is_some() && self.chance(|rng| rng.u8(..3) == 0) {
            self.depth.set(self.depth.get() + 1);
            for _ in 0..self.chance(|rng| rng.u32(1..6)) {
                self.act();
            }
            self.depth.set(self.depth.get() - 1);
        }
    }

    fn act(&self) {
        match self.chance(|rng| rng.u8(..100)) {
            0..=39 => self.client(),
            40..=54 => self.work(Worker::Sequencer),
            55..=64 => self.work(Worker::Dispatcher),
            65..=67 => self.work(Worker::Ticker),
            68..=70 => self.work(Worker::Janitor),
            71..=74 => self.orphan(),
            75..=89 => self.watcher(),
            90..=91 => self.watcher_whim(),
            _ => self.pass_time(),
        }
    }

    fn work(&self, worker: Worker) {
        let store = self.store();
        let worked = store.step(worker);
        self.see(&format!("{worker:?} {worked}"));
    }

    fn pass_time(&self) {
        let step = self.chance(|rng| match rng.u8(..40) {
            0 => Duration::from_millis(rng.u64(..3_000)),
            _ => Duration::from_millis(rng.u64(1..120)),
        });
        self.advance(step.min(JUMP));
    }

    fn advance(&self, step: Duration) {
        self.runtime.block_on(tokio::time::advance(step));
        let now = Instant::now();
        let (mut leases, mut grants) = (self.leases.borrow_mut(), self.grants.borrow_mut());
        while let Some((id, end)) = leases
            .iter()
            .find(|(_, end)| **end <= now)
            .map(|(id, end)| (*id, *end))
        {
            self.history.borrow_mut().may_happen(Request::Expire(id));
            leases.remove(&id);
            // A grant that arrived late began another life of that lease, which ends by itself too.
            grants.retain(|(of, bound)| *of != id || *bound > end);
            if let Some((_, bound)) = grants.iter().find(|(of, _)| *of == id) {
                leases.insert(id, *bound);
            }
        }
    }

    /// Takes down what became visible. Whether it could be read.
    fn audit(&self) -> bool {
        let store = self.store.borrow().clone();
        let Some(store) = store else { return true };
        let from = self.log.borrow().revision() + 1;
        let events = match store.history(Revision(from)) {
            Ok(events) => events,
            Err(error) => {
                assert!(self.disk.borrow().power_is_off(), "from {from}: {error:?}");
                return false;
            }
        };
        let mut by_revision: BTreeMap<i64, Vec<_>> = BTreeMap::new();
        for event in events {
            let event = event_of(&event);
            by_revision.entry(event.revision).or_default().push(event);
        }
        let mut log = self.log.borrow_mut();
        for (revision, events) in by_revision {
            assert_eq!(log.replay(events), revision, "each revision once, none left out");
        }
        true
    }

    // --- clients ---

    fn client(&self) {
        let n = self.chance(|rng| rng.usize(..self.clients.len()));
        let Ok(mut client) = self.clients[n].try_borrow_mut() else {
            return;
        };
        client.state = match std::mem::replace(&mut client.state, State::Idle) {
            State::Idle => self.send(client.name),
            State::Sent(_, _, Fate::RequestLost) => {
                self.give_up(&mut client);
                State::Idle
            }
            State::Sent(request, ..) if self.chance(|rng| rng.u8(..30) == 0) => {
                self.orphans.borrow_mut().push(Orphan::Sent(request));
                self.give_up(&mut client);
                State::Idle
            }
            State::Sent(request, call, fate) => {
                let running = clients::start(self.store().store(), &request);
                State::Running(request, call, fate, running)
            }
            State::Running(_, _, _, running) if self.chance(|rng| rng.u8(..40) == 0) => {
                self.orphans.borrow_mut().push(Orphan::Running(running));
                self.give_up(&mut client);
                State::Idle
            }
            State::Running(request, call, fate, mut running) => match clients::poll(&mut running) {
                Poll::Pending => State::Running(request, call, fate, running),
                Poll::Ready(answer) => State::Answered(request, call, fate, answer),
            },
            State::Answered(request, call, Fate::Arrives, Some(answer)) => {
                self.answered(client.name, &request, call, answer);
                State::Idle
            }
            State::Answered(..) => {
                self.give_up(&mut client);
                State::Idle
            }
        };
    }

    fn send(&self, name: u64) -> State {
        let known = self.known.get().0;
        let request = self.chance(|rng| self.inventor.borrow_mut().request(rng, known));
        let fate = self.chance(|rng| match rng.u8(..40) {
            0 => Fate::RequestLost,
            1 => Fate::AnswerLost,
            _ => Fate::Arrives,
        });
        let now = Instant::now();
        if let Request::Grant(id) = request {
            let mut leases = self.leases.borrow_mut();
            let end = leases.entry(id).or_insert(now + ttl());
            *end = (*end).min(now + ttl());
            self.grants.borrow_mut().push((id, now + ttl()));
        }
        self.called.borrow_mut().insert(name, now);
        let call = self.history.borrow_mut().call(name, request.clone());
        self.see(&format!("{name} sends {request:?} {fate:?}"));
        State::Sent(request, call, fate)
    }

    fn answered(&self, name: u64, request: &Request, call: setpoint_testkit::linear::Call, answer: Answer) {
        self.see(&format!("{name} is told {answer:?}"));
        let (known, floor) = self.known.get();
        let revision = answer.revision().unwrap_or(known).max(known);
        let floor = match (request, &answer) {
            (Request::Compact(at), Answer::Done(..)) => floor.max(*at),
            _ => floor,
        };
        self.known.set((revision, floor));
        if let (Request::KeepAlive(id), Answer::Granted) = (request, &answer) {
            let end = self.called.borrow()[&name] + ttl();
            let mut leases = self.leases.borrow_mut();
            let bound = leases.entry(*id).or_insert(end);
            *bound = (*bound).max(end);
        }
        if let (Request::Grant(id), Answer::Refused(_)) = (request, &answer) {
            let refused = (*id, self.called.borrow()[&name] + ttl());
            self.grants.borrow_mut().retain(|grant| *grant != refused);
        }
        self.check_past(request, &answer);
        self.history.borrow_mut().answered(name, call, answer);
    }

    /// A read of the past has to show it, whatever happened since.
    fn check_past(&self, request: &Request, answer: &Answer) {
        if let (Request::One(Step::Range(keys, Some(at))), Answer::Done(_, _, gave)) = (request, answer)
            && let [Gave::Range(found)] = &gave[..]
            && let Err(violation) = validate::past(&self.log.borrow(), keys, *at, found)
        {
            panic!("{violation}");
        }
    }

    /// The client waits no longer, and goes on as somebody else.
    fn give_up(&self, client: &mut Client) {
        self.see(&format!("{} gives up", client.name));
        self.history.borrow_mut().gave_up(client.name);
        client.state = State::Idle;
        client.name = self.next_name.get();
        self.next_name.set(client.name + 1);
    }

    fn orphan(&self) {
        let orphan = {
            let mut orphans = self.orphans.borrow_mut();
            if orphans.is_empty() {
                return;
            }
            let n = self.chance(|rng| rng.usize(..orphans.len()));
            orphans.swap_remove(n)
        };
        let mut running = match orphan {
            Orphan::Sent(request) => clients::start(self.store().store(), &request),
            Orphan::Running(running) => running,
        };
        if clients::poll(&mut running).is_pending() {
            self.orphans.borrow_mut().push(Orphan::Running(running));
        }
    }

    // --- watchers ---

    fn watcher(&self) {
        let n = self.chance(|rng| rng.usize(..self.watching.len()));
        let Ok(mut watching) = self.watching[n].try_borrow_mut() else {
            return;
        };
        // Chance of its own, as it may be asked while this one is at work.
        let mut rng = fastrand::Rng::with_seed(self.chance(|rng| rng.u64(..)));
        if let Some(told) = watching.step(self.store().store(), &mut rng) {
            self.see(&format!("stream {n} is told {told}"));
        }
    }

    fn watcher_whim(&self) {
        let n = self.chance(|rng| rng.usize(..self.watching.len()));
        let Ok(mut watching) = self.watching[n].try_borrow_mut() else {
            return;
        };
        if self.chance(|rng| rng.u8(..4) == 0) {
            watching.disconnect();
        } else {
            watching.ask_for_progress();
        }
    }
}

fn ttl() -> Duration {
    Duration::from_secs(TTL.unsigned_abs())
}
