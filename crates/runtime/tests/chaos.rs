//! Whatever the server and the network do, the store ends equal to the server, and every handler saw a
//! legal subsequence of true states and no deletion less.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use setpoint_base::{Stop, TaskGroup};
use setpoint_runtime::informer::{Event, SharedInformer};
use setpoint_runtime::queue::DeltaLimits;
use setpoint_runtime::reflector::ReflectorOptions;

use crate::fake::{Fake, Fault, MAPS, On, eventually};

/// What one handler believes, and the rules it checks while it listens.
#[derive(Default)]
struct View {
    alive: BTreeMap<String, u64>,
    newest: HashMap<String, u64>,
    wrong: Vec<String>,
}

impl View {
    fn hear(&mut self, event: &Event) {
        let header = event.object().header();
        let (name, version) = (
            format!("{}/{}", header.namespace, header.name),
            header.resource_version,
        );
        let newest = self.newest.entry(name.clone()).or_default();
        if version < *newest {
            self.wrong
                .push(format!("{name} went back from {newest} to {version}"));
        }
        *newest = version;
        match event {
            Event::Added { .. } => {
                if self.alive.insert(name.clone(), version).is_some() {
                    self.wrong.push(format!("{name} added twice"));
                }
            }
            Event::Updated { old, .. } => {
                let told = self.alive.insert(name.clone(), version);
                // Of one that was deleted and made again unseen, the old state is the deleted one's last.
                if told.is_none_or(|told| told > old.header().resource_version) {
                    self.wrong.push(format!("{name} updated from a state never told"));
                }
            }
            Event::Deleted { .. } => {
                if self.alive.remove(&name).is_none() {
                    self.wrong.push(format!("{name} deleted but never told of"));
                }
            }
        }
    }
}

/// One random step of the world.
fn disturb(fake: &Fake, rng: &mut fastrand::Rng) {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
    let name = names[rng.usize(..names.len())];
    match rng.u8(..40) {
        0..20 => fake.put(&MAPS, "ns", name, json!({"data": {"n": rng.u32(..).to_string()}})),
        20..30 => fake.delete(&MAPS, "ns", name),
        30..32 => fake.drop_watches(),
        32 => {
            fake.compact();
            fake.drop_watches();
        }
        33 => fake.fail(
            On::Watch,
            Fault::Status(410, "Expired", "too old resource version"),
        ),
        34 => fake.fail(On::Watch, Fault::Event(410, "Expired")),
        35 => fake.fail(On::WatchList, Fault::Cut(rng.usize(..4))),
        36 => fake.fail(On::Watch, Fault::Cut(rng.usize(..4))),
        37 => fake.fail(On::Watch, Fault::Status(429, "TooManyRequests", "later")),
        38 => fake.fail(On::List, Fault::Refused),
        _ => fake.fail(On::WatchList, Fault::Event(500, "InternalError")),
    }
}

async fn run(seed: u64, steps: usize) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut fake = Fake::new().with_frames(1 + rng.usize(..200));
    if rng.bool() {
        fake = fake.without_watch_list();
    }
    let informer = SharedInformer::builder(&fake.client(), &MAPS)
        .reflector(ReflectorOptions {
            seed,
            page_size: 5,
            ..ReflectorOptions::default()
        })
        .limits(DeltaLimits {
            deltas_max: 2 + rng.usize(..20),
            batch_max: 1 + rng.usize(..10),
            ..DeltaLimits::default()
        })
        .ring_capacity(1 + rng.usize(..16))
        .build();
    let tasks = TaskGroup::new(&Stop::new());
    let (task, stop) = (informer.clone(), tasks.stop().clone());
    tasks.spawn(async move { task.run(stop).await });

    let mut views = Vec::new();
    let mut everything = BTreeSet::new();
    for step in 0..steps {
        disturb(&fake, &mut rng);
        everything.extend(fake.versions(&MAPS));
        if step % (steps / 4) == 0 {
            views.push(listen(&informer, &tasks, rng.bool()));
        }
        match rng.u8(..10) {
            0 => tokio::time::sleep(Duration::from_millis(rng.u64(..3000))).await,
            1..4 => tokio::task::yield_now().await,
            _ => (),
        }
    }
    fake.heal();
    let at = format!("seed {seed}");
    let same = || {
        let store: BTreeMap<String, u64> = informer
            .store()
            .list()
            .iter()
            .map(|object| {
                (
                    format!("ns/{}", object.header().name),
                    object.header().resource_version,
                )
            })
            .collect();
        store == fake.versions(&MAPS)
    };
    eventually(&format!("{at}: the store equals the server"), same).await;
    for view in &views {
        let end = || view.lock().alive == fake.versions(&MAPS);
        eventually(&format!("{at}: every handler equals the server"), end).await;
        let view = view.lock();
        assert!(view.wrong.is_empty(), "{at}: {:?}", view.wrong);
    }
    assert!(!everything.is_empty());
    assert_eq!(
        tasks.shutdown(Duration::from_secs(60)).await,
        0,
        "{at}: tasks left"
    );
}

/// A handler that is called, or a reader that dawdles.
fn listen(informer: &SharedInformer, tasks: &TaskGroup, slow: bool) -> Arc<Mutex<View>> {
    let view = Arc::new(Mutex::new(View::default()));
    let into = Arc::clone(&view);
    if slow {
        let mut events = informer.subscribe().unwrap();
        tasks.spawn(async move {
            while let Some((_, event)) = events.next().await {
                into.lock().hear(&event);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    } else {
        informer
            .add_handler(move |event| into.lock().hear(event))
            .unwrap();
    }
    view
}

#[tokio::test(start_paused = true)]
async fn the_store_converges_and_no_handler_misses_a_deletion() {
    for seed in 0..40 {
        run(seed, 300).await;
    }
}
