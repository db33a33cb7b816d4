//! Many random drops and compactions under load, and nothing lost, doubled or out of order.

use std::collections::BTreeMap;
use std::time::Duration;

use setpoint_base::{Stop, TaskGroup};
use setpoint_store::client::{Client, Item, ReconnectPolicy, WatchOptions, Watcher, mvccpb};
use setpoint_store::types::{Delete, KeyRange, Put, Revision};
use tokio::time::timeout;

use super::{PATIENCE, Rig};

/// Drops and compactions; `SETPOINT_FAULTS` and `SETPOINT_SEED` ask for others.
const FAULTS: u64 = 1_000;
const SEED: u64 = 7;
const KEYS: u64 = 24;

#[allow(clippy::disallowed_methods, reason = "whoever runs the test says how long")]
fn setting(name: &str, default: u64) -> u64 {
    let said = std::env::var(name).ok();
    said.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Key and, unless it was deleted, the revision of its version: what happened at each revision from the first on.
type History = Vec<(i64, String, bool)>;

/// What a watcher has been told, replayed.
struct Follower {
    name: &'static str,
    watcher: Watcher,
    /// The last revision that was told.
    at: i64,
    state: BTreeMap<String, i64>,
    resyncs: u64,
}

impl Follower {
    /// Takes one item and checks it against the history.
    fn take(&mut self, item: Item, history: &History) {
        let first = history.first().map_or(0, |(revision, ..)| *revision);
        let at = |revision: i64| &history[usize::try_from(revision - first).unwrap()];
        match item {
            Item::Events(events) => {
                for event in events {
                    let kv = event.kv.unwrap();
                    assert_eq!(kv.mod_revision, self.at + 1, "{}: lost or doubled", self.name);
                    self.at = kv.mod_revision;
                    let (_, key, put) = at(self.at);
                    assert_eq!(kv.key, key.as_bytes());
                    let kind = mvccpb::event::EventType::try_from(event.r#type).unwrap();
                    assert_eq!(kind == mvccpb::event::EventType::Put, *put);
                    if *put {
                        self.state.insert(key.clone(), self.at);
                    } else {
                        self.state.remove(key);
                    }
                }
            }
            Item::Progress(revision) => {
                assert!(
                    revision <= self.at,
                    "{}: progress {revision} past {}",
                    self.name,
                    self.at
                );
            }
            Item::Resync(resync) => {
                assert!(resync.revision >= self.at, "{}: back in time", self.name);
                self.resyncs += 1;
                for gone in &resync.deleted {
                    let key = String::from_utf8_lossy(&gone.key).into_owned();
                    assert_eq!(self.state.remove(&key), Some(gone.last_mod_revision));
                }
                let name = |kv: &mvccpb::KeyValue| String::from_utf8_lossy(&kv.key).into_owned();
                let now: BTreeMap<_, _> = resync
                    .snapshot
                    .iter()
                    .map(|kv| (name(kv), kv.mod_revision))
                    .collect();
                assert!(
                    self.state.keys().all(|key| now.contains_key(key)),
                    "{}: a delete untold",
                    self.name
                );
                self.at = resync.revision;
                self.state = now;
            }
        }
    }
}

/// Writes until told to stop; every write makes one revision. Returns what happened.
async fn write(store: setpoint_store::Store, stop: Stop, seed: u64) -> History {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut history = History::new();
    let mut alive = std::collections::BTreeSet::new();
    while !stop.is_cancelled() {
        let key = format!("k{:02}", rng.u64(..KEYS));
        let delete = alive.contains(&key) && rng.u8(..4) == 0;
        let revision = if delete {
            alive.remove(&key);
            let keys = KeyRange::Key(key.clone().into());
            store
                .delete(Delete { keys, prev_kv: false }, None)
                .await
                .unwrap()
                .revision
        } else {
            alive.insert(key.clone());
            store
                .put(Put::new(key.clone(), "v"), None)
                .await
                .unwrap()
                .revision
        };
        history.push((revision.0, key, !delete));
        if rng.u8(..8) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    history
}

/// Breaks the link, or takes the history away, again and again.
async fn disturb(rig: &Rig, faults: u64, rng: &mut fastrand::Rng) {
    for _ in 0..faults {
        tokio::time::sleep(Duration::from_micros(rng.u64(..6_000))).await;
        match rng.u8(..10) {
            0..=5 => rig.proxy.cut(),
            6..=7 => {
                rig.proxy.refuse();
                tokio::time::sleep(Duration::from_micros(rng.u64(..4_000))).await;
                rig.proxy.thaw();
            }
            _ => {
                // Often at the head, where it hurts whoever is away.
                let back = if rng.bool() { 0 } else { rng.i64(..50) };
                let at = Revision(rig.store().revision().0 - back);
                let _ = rig.store().compact(at, rng.bool()).await;
            }
        }
    }
}

fn follower(name: &'static str, client: &Client, at: i64) -> Follower {
    Follower {
        name,
        watcher: client.watch(WatchOptions::prefix("k").from(at + 1)),
        at,
        state: BTreeMap::new(),
        resyncs: 0,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_over_a_thousand_drops_and_compactions() {
    let rig = Rig::start().await;
    let mut options = rig.options();
    options.reconnect = ReconnectPolicy::FullJitter {
        base: Duration::from_millis(2),
        max: Duration::from_millis(20),
    };
    let client = Client::new(options).unwrap();
    let at = rig.store().revision().0;
    let mut followers = [follower("eager", &client, at), follower("lazy", &client, at)];
    let (seed, faults) = (setting("SETPOINT_SEED", SEED), setting("SETPOINT_FAULTS", FAULTS));
    let (tasks, writing) = (TaskGroup::new(&Stop::new()), Stop::new());
    let writer = tasks.spawn(write(rig.store().clone(), writing.clone(), seed));
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut kept: [Vec<Item>; 2] = Default::default();
    {
        let [eager, lazy] = &mut followers;
        let [of_eager, of_lazy] = &mut kept;
        let disturbed = disturb(&rig, faults, &mut rng);
        tokio::pin!(disturbed);
        loop {
            tokio::select! {
                () = &mut disturbed => break,
                item = eager.watcher.next() => of_eager.push(item.unwrap()),
                () = tokio::time::sleep(Duration::from_millis(3)) => {
                    of_lazy.extend(lazy.watcher.try_next().map(Result::unwrap));
                }
            }
        }
    }
    writing.cancel();
    let history = writer.await.unwrap();
    let last = history.last().unwrap().0;
    for (follower, kept) in followers.iter_mut().zip(kept) {
        for item in kept {
            follower.take(item, &history);
        }
        while follower.at < last {
            let item = timeout(PATIENCE, follower.watcher.next()).await;
            follower.take(item.expect("the watcher is not served").unwrap(), &history);
        }
        let stats = follower.watcher.stats();
        assert!(stats.reconnects > faults / 20, "{stats:?}");
        assert_eq!(follower.resyncs, stats.resyncs);
        println!("seed {seed}: {}: {last} revisions, {stats:?}", follower.name);
    }
    let state = |follower: &Follower| follower.state.clone();
    assert_eq!(state(&followers[0]), state(&followers[1]));
    rig.stop().await;
}
