//! Shared informers and their handlers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use setpoint_base::{Stop, TaskGroup};
use setpoint_runtime::ObjectKey;
use setpoint_runtime::informer::{Event, SharedInformer};

use crate::fake::{Fake, MAPS, eventually};

type Log = Arc<Mutex<Vec<String>>>;

/// A handler that writes what it is told, as `+name`, `+name!` (initial), `~name`, `-name` or `-name?`.
fn recorder() -> (Log, impl FnMut(&Event) + Send + 'static) {
    let log = Log::default();
    let into = Arc::clone(&log);
    let handler = move |event: &Event| {
        let name = event.object().header().name.to_string();
        into.lock().push(match event {
            Event::Added { initial, .. } => format!("+{name}{}", if *initial { "!" } else { "" }),
            Event::Updated { .. } => format!("~{name}"),
            Event::Deleted {
                final_state_unknown, ..
            } => format!("-{name}{}", if *final_state_unknown { "?" } else { "" }),
        });
    };
    (log, handler)
}

fn start(informer: &SharedInformer) -> TaskGroup {
    let tasks = TaskGroup::new(&Stop::new());
    let (run, stop) = (informer.clone(), tasks.stop().clone());
    tasks.spawn(async move { run.run(stop).await });
    tasks
}

fn fake(names: &[&str]) -> Fake {
    let fake = Fake::new();
    for name in names {
        fake.put(&MAPS, "ns", name, json!({"metadata": {"labels": {"app": name}}}));
    }
    fake
}

async fn told(log: &Log, expect: &[&str]) {
    let (at, expect): (Log, Vec<String>) = (
        Arc::clone(log),
        expect.iter().map(|word| (*word).to_owned()).collect(),
    );
    eventually(
        &format!("the handler is told {expect:?}, was told {:?}", log.lock()),
        || *at.lock() == expect,
    )
    .await;
}

// TestSharedInformerInitializationRace, TestAddWhileActive
#[tokio::test(start_paused = true)]
async fn early_and_late_handlers_are_told_the_same_and_each_knows_when_it_is_synced() {
    let fake = fake(&["a", "b"]);
    let informer = SharedInformer::builder(&fake.client(), &MAPS).build();
    let (early, handler) = recorder();
    let early_handle = informer.add_handler(handler).unwrap();
    assert!(!early_handle.has_synced());
    let tasks = start(&informer);
    assert!(early_handle.synced().await);
    told(&early, &["+a!", "+b!"]).await;
    fake.put(&MAPS, "ns", "a", json!({"data": {}}));
    told(&early, &["+a!", "+b!", "~a"]).await;

    let (late, handler) = recorder();
    let late_handle = informer.add_handler(handler).unwrap();
    assert!(late_handle.synced().await);
    late.lock().sort();
    assert_eq!(*late.lock(), ["+a!", "+b!"]);
    fake.delete(&MAPS, "ns", "b");
    told(&late, &["+a!", "+b!", "-b"]).await;
    tasks.shutdown(Duration::from_secs(5)).await;
    assert!(
        informer.add_handler(|_| ()).is_err(),
        "TestAddOnStoppedSharedInformer"
    );
}

// TestSharedInformerRemoveHandler, TestRemovingRemovedSharedInformer, TestRemoveWhileActive
#[tokio::test(start_paused = true)]
async fn a_removed_handler_is_told_nothing_more_and_the_others_go_on() {
    let fake = fake(&["a"]);
    let informer = SharedInformer::builder(&fake.client(), &MAPS).build();
    let ((one, first), (two, second)) = (recorder(), recorder());
    let handle = informer.add_handler(first).unwrap();
    informer.add_handler(second).unwrap();
    let tasks = start(&informer);
    told(&one, &["+a!"]).await;
    handle.remove();
    handle.remove();
    tokio::time::sleep(Duration::from_secs(1)).await;
    fake.put(&MAPS, "ns", "b", json!({}));
    told(&two, &["+a!", "+b"]).await;
    told(&one, &["+a!"]).await;
    assert_eq!(tasks.shutdown(Duration::from_secs(5)).await, 0);
}

// TestEventPanics
#[tokio::test(start_paused = true)]
async fn a_panic_costs_one_handler_one_event() {
    let fake = fake(&["a", "b"]);
    let informer = SharedInformer::builder(&fake.client(), &MAPS).build();
    let ((log, mut inner), (other, second)) = (recorder(), recorder());
    informer
        .add_handler(move |event| {
            assert_ne!(&*event.object().header().name, "a", "on purpose");
            inner(event);
        })
        .unwrap();
    informer.add_handler(second).unwrap();
    let tasks = start(&informer);
    told(&log, &["+b!"]).await;
    told(&other, &["+a!", "+b!"]).await;
    tasks.shutdown(Duration::from_secs(5)).await;
}

// TestSharedInformerWatchDisruption: what vanished unseen is told as a tombstone.
#[tokio::test(start_paused = true)]
async fn a_deletion_that_the_watch_never_showed_is_told_after_the_relist() {
    let fake = fake(&["a", "b"]);
    let informer = SharedInformer::builder(&fake.client(), &MAPS).build();
    let (log, handler) = recorder();
    informer.add_handler(handler).unwrap();
    let tasks = start(&informer);
    told(&log, &["+a!", "+b!"]).await;
    fake.delete_silently(&MAPS, "ns", "a");
    fake.put(&MAPS, "ns", "b", json!({"data": {}}));
    told(&log, &["+a!", "+b!", "~b"]).await;
    fake.put(&MAPS, "ns", "c", json!({}));
    fake.compact();
    fake.put(&MAPS, "ns", "d", json!({}));
    fake.compact();
    fake.drop_watches();
    eventually("the tombstone", || log.lock().contains(&"-a?".to_owned())).await;
    eventually("the store has b, c, d", || informer.store().len() == 3).await;
    tasks.shutdown(Duration::from_secs(5)).await;
}

// A stalled reader costs memory for the live keys only, and is told the latest states.
#[tokio::test(start_paused = true)]
async fn a_stalled_reader_catches_up_with_latest_states() {
    let fake = fake(&["a"]);
    let informer = SharedInformer::builder(&fake.client(), &MAPS)
        .ring_capacity(8)
        .build();
    let mut slow = informer.subscribe().unwrap();
    let (fast, handler) = recorder();
    informer.add_handler(handler).unwrap();
    let tasks = start(&informer);
    for round in 0..100 {
        fake.put(&MAPS, "ns", "a", json!({"data": {"round": round.to_string()}}));
        fake.put(&MAPS, "ns", &format!("gone{round}"), json!({}));
        fake.delete(&MAPS, "ns", &format!("gone{round}"));
        let want = fake.versions(&MAPS)["ns/a"];
        eventually("the store follows", || {
            informer
                .store()
                .get(&ObjectKey::new("ns", "a"))
                .is_some_and(|object| object.header().resource_version == want)
        })
        .await;
    }
    fake.put(&MAPS, "ns", "last", json!({}));
    let mut events = Vec::new();
    loop {
        let (key, _) = slow.next().await.unwrap();
        events.push(key.name().to_owned());
        if key.name() == "last" {
            break;
        }
    }
    assert!(events.len() <= 12, "{events:?}");
    eventually("the fast one saw each round", || {
        fast.lock().iter().filter(|word| *word == "~a").count() >= 99
    })
    .await;
    tasks.shutdown(Duration::from_secs(5)).await;
}

// TestListenerResyncPeriods
#[tokio::test(start_paused = true)]
async fn a_resync_tells_the_handler_that_asked_for_it() {
    let fake = fake(&["a"]);
    let informer = SharedInformer::builder(&fake.client(), &MAPS).build();
    let ((often, first), (never, second)) = (recorder(), recorder());
    informer
        .add_handler_with_resync(first, Some(Duration::from_secs(30)))
        .unwrap();
    informer.add_handler(second).unwrap();
    let tasks = start(&informer);
    told(&often, &["+a!"]).await;
    tokio::time::sleep(Duration::from_secs(65)).await;
    told(&often, &["+a!", "~a", "~a"]).await;
    told(&never, &["+a!"]).await;
    tasks.shutdown(Duration::from_secs(5)).await;
}

// TestIndexer
#[tokio::test(start_paused = true)]
async fn an_index_follows_the_objects() {
    let fake = fake(&["a", "b"]);
    let informer = SharedInformer::builder(&fake.client(), &MAPS)
        .index("app", |object| {
            object
                .header()
                .labels
                .get("app")
                .map(str::to_owned)
                .into_iter()
                .collect()
        })
        .unwrap()
        .build();
    let tasks = start(&informer);
    informer.synced().await;
    let found: BTreeMap<&str, usize> = ["a", "b", "c"]
        .map(|app| (app, informer.store().by_index("app", app).unwrap().len()))
        .into();
    assert_eq!(found, [("a", 1), ("b", 1), ("c", 0)].into());
    assert_eq!(informer.store().resource_version(), 102);
    tasks.shutdown(Duration::from_secs(5)).await;
}

// TestShutdown, TestStateSharedInformer
#[tokio::test(start_paused = true)]
async fn an_informer_runs_once_and_leaves_no_task_behind() {
    let fake = fake(&["a"]);
    let informer = SharedInformer::builder(&fake.client(), &MAPS).build();
    let (log, handler) = recorder();
    informer.add_handler(handler).unwrap();
    let tasks = start(&informer);
    told(&log, &["+a!"]).await;
    assert_eq!(tasks.shutdown(Duration::from_secs(5)).await, 0);
    assert!(informer.run(Stop::new()).await.is_err());
}
