//! Controllers from change to reconcile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use setpoint_base::{Stop, TaskGroup, TraceContext};
use setpoint_runtime::controller::{OrTerminal, RunError, spec_changed};
use setpoint_runtime::events::EventKind;
use setpoint_runtime::metrics::RuntimeMetrics;
use setpoint_runtime::workqueue::LimiterOptions;
use setpoint_runtime::{Context, Controller, Outcome, ReconcileError, Request, Resource};
use tokio::time::Instant;

use crate::fake::{Fake, MAPS, SITES, eventually};

const EVENTS: Resource = Resource::namespaced("", "v1", "Event", "events");

type Seen = Arc<Mutex<Vec<String>>>;
type Result<T = Outcome> = std::result::Result<T, ReconcileError>;

struct Running {
    stop: Stop,
    tasks: TaskGroup,
}

impl Running {
    fn start<F>(builder: setpoint_runtime::controller::Builder, reconcile: F) -> Self
    where
        F: setpoint_runtime::controller::Reconciler,
    {
        let stop = Stop::new();
        let tasks = TaskGroup::new(&Stop::new());
        let run = builder.run(reconcile, stop.clone());
        tasks.spawn(async move { run.await.unwrap() });
        Self { stop, tasks }
    }

    async fn stop(self) {
        self.stop.cancel();
        assert_eq!(self.tasks.shutdown(Duration::from_secs(60)).await, 0);
    }
}

fn builder(fake: &Fake) -> setpoint_runtime::controller::Builder {
    Controller::builder("site", &fake.client(), &SITES)
}

async fn seen(log: &Seen, expect: &[&str]) {
    let (now, expect): (Seen, Vec<String>) = (
        Arc::clone(log),
        expect.iter().map(|word| (*word).to_owned()).collect(),
    );
    eventually(&format!("reconciles {expect:?}, were {:?}", log.lock()), || {
        *now.lock() == expect
    })
    .await;
}

fn child(owner: &str) -> serde_json::Value {
    json!({"metadata": {"ownerReferences": [{
        "apiVersion": "demo.setpoint.dev/v1", "kind": "Site", "name": owner, "uid": "u", "controller": true,
    }]}})
}

#[tokio::test(start_paused = true)]
async fn an_object_is_reconciled_for_itself_for_what_it_owns_and_for_what_it_watches() {
    let fake = Fake::new();
    fake.put(&SITES, "ns", "web", json!({}));
    fake.put(&MAPS, "ns", "page", json!({"data": {"site": "web"}}));
    let log = Seen::default();
    let into = Arc::clone(&log);
    let reconcile = move |request: Request, context: Context| {
        let into = Arc::clone(&into);
        async move {
            let there = if context.object().is_some() { "" } else { " gone" };
            into.lock().push(format!("{request}{there}"));
            Ok(Outcome::Done)
        }
    };
    let builder = builder(&fake).owns(&MAPS).watches(&MAPS, |map| {
        map.field_text("data.site")
            .map(|site| Request::new("ns", &site))
            .into_iter()
            .collect()
    });
    let running = Running::start(builder, reconcile);
    seen(&log, &["ns/web"]).await;
    fake.put(&MAPS, "ns", "child", child("web"));
    seen(&log, &["ns/web"; 2]).await;
    fake.delete(&MAPS, "ns", "child");
    seen(&log, &["ns/web"; 3]).await;
    fake.put(&MAPS, "ns", "page", json!({"data": {"site": "other"}}));
    eventually("both the old and the new one", || log.lock().len() == 5).await;
    assert!(log.lock().contains(&"ns/other gone".to_owned()));
    fake.delete(&SITES, "ns", "web");
    eventually("the deletion", || log.lock().contains(&"ns/web gone".to_owned())).await;
    running.stop().await;
}

// kube-rs misses this one: a child that vanished while nobody watched.
#[tokio::test(start_paused = true)]
async fn a_child_deleted_while_disconnected_brings_its_owner_back() {
    let fake = Fake::new();
    fake.put(&SITES, "ns", "web", json!({}));
    fake.put(&MAPS, "ns", "child", child("web"));
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let reconcile = move |_: Request, _: Context| {
        counter.fetch_add(1, Ordering::Relaxed);
        async { Ok(Outcome::Done) }
    };
    let running = Running::start(builder(&fake).owns(&MAPS), reconcile);
    eventually("the first reconcile", || count.load(Ordering::Relaxed) >= 1).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = count.load(Ordering::Relaxed);
    fake.delete_silently(&MAPS, "ns", "child");
    fake.put(&MAPS, "other", "x", json!({}));
    fake.compact();
    fake.put(&MAPS, "other", "y", json!({}));
    fake.compact();
    fake.drop_watches();
    eventually("the owner is reconciled", || {
        count.load(Ordering::Relaxed) > before
    })
    .await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_retried_with_history_and_the_trace_of_its_cause() {
    let fake = Fake::new();
    let cause = TraceContext::random();
    fake.put_traced(&SITES, "ns", "web", json!({}), None);
    let log = Seen::default();
    let into = Arc::clone(&log);
    let reconcile = move |_: Request, context: Context| {
        let into = Arc::clone(&into);
        async move {
            let same = context.trace().trace_id == cause.trace_id;
            let last = context.last_error().unwrap_or("-").to_owned();
            into.lock().push(format!("{} {same} {last}", context.attempt()));
            if same && context.attempt() < 3 {
                Err(std::io::Error::other("not yet"))?;
            }
            Ok(Outcome::Done)
        }
    };
    let running = Running::start(builder(&fake), reconcile);
    seen(&log, &["1 false -"]).await;
    fake.put_traced(&SITES, "ns", "web", json!({"spec": {}}), Some(cause.to_string()));
    seen(
        &log,
        &["1 false -", "1 true -", "2 true not yet", "3 true not yet"],
    )
    .await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_terminal_failure_waits_for_the_next_change() {
    let fake = Fake::new();
    fake.put(&SITES, "ns", "web", json!({}));
    let metrics = RuntimeMetrics::default();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let reconcile = move |_: Request, _: Context| {
        counter.fetch_add(1, Ordering::Relaxed);
        async { Err(std::io::Error::other("never")).or_terminal() }
    };
    let running = Running::start(builder(&fake).metrics(&metrics), reconcile);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(count.load(Ordering::Relaxed), 1);
    fake.put(&SITES, "ns", "web", json!({"spec": {}}));
    eventually("the second try", || count.load(Ordering::Relaxed) == 2).await;
    running.stop().await;
    let text = encode(&metrics);
    for line in [
        "controller_runtime_terminal_reconcile_errors_total{controller=\"site\"} 2",
        "controller_runtime_reconcile_total{controller=\"site\",result=\"error\"} 2",
        "controller_runtime_max_concurrent_reconciles{controller=\"site\"} 1",
        "controller_runtime_reconcile_time_seconds_count{controller=\"site\"} 2",
        "reflector_lists_total{name=\"sites.demo.setpoint.dev\"} 1",
    ] {
        assert!(text.contains(line), "{line} missing in\n{text}");
    }
}

fn encode(metrics: &RuntimeMetrics) -> String {
    let registry = setpoint_telemetry::Metrics::new();
    metrics.register(&registry).unwrap();
    registry.encode()
}

#[tokio::test(start_paused = true)]
async fn a_panic_or_a_hang_is_one_failed_try() {
    let fake = Fake::new();
    fake.put(&SITES, "ns", "web", json!({}));
    let log = Seen::default();
    let into = Arc::clone(&log);
    let reconcile = move |_: Request, context: Context| {
        let into = Arc::clone(&into);
        async move {
            into.lock().push(context.last_error().unwrap_or("-").to_owned());
            match context.attempt() {
                1 => panic!("on purpose"),
                2 => std::future::pending().await,
                _ => Ok(Outcome::Done),
            }
        }
    };
    let running = Running::start(builder(&fake).timeout(Duration::from_secs(7)), reconcile);
    seen(&log, &["-", "panic: on purpose", "not finished within 7s"]).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn requeue_after_brings_the_object_back_in_time() {
    let fake = Fake::new();
    fake.put(&SITES, "ns", "web", json!({}));
    let times: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let into = Arc::clone(&times);
    let reconcile = move |_: Request, _: Context| {
        into.lock().push(Instant::now());
        async { Ok(Outcome::RequeueAfter(Duration::from_secs(30))) }
    };
    let running = Running::start(builder(&fake), reconcile);
    eventually("three reconciles", || times.lock().len() == 3).await;
    let times = times.lock().clone();
    let gap = times[2] - times[1];
    assert!(
        gap >= Duration::from_secs(30) && gap < Duration::from_secs(31),
        "{gap:?}"
    );
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_finishes_what_has_begun_and_begins_nothing_else() {
    let fake = Fake::new();
    for n in 0..10 {
        fake.put(&SITES, "ns", &format!("web{n}"), json!({}));
    }
    let (begun, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (b, e) = (Arc::clone(&begun), Arc::clone(&ended));
    let reconcile = move |_: Request, _: Context| {
        let (b, e) = (Arc::clone(&b), Arc::clone(&e));
        async move {
            b.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(5)).await;
            e.fetch_add(1, Ordering::Relaxed);
            Ok(Outcome::Done)
        }
    };
    let running = Running::start(builder(&fake).workers(2), reconcile);
    eventually("two reconciles have begun", || begun.load(Ordering::Relaxed) == 2).await;
    running.stop().await;
    assert_eq!(
        (begun.load(Ordering::Relaxed), ended.load(Ordering::Relaxed)),
        (2, 2)
    );
}

#[tokio::test(start_paused = true)]
async fn one_object_is_never_in_two_hands() {
    let fake = Fake::new();
    fake.put(&SITES, "ns", "web", json!({}));
    let (active, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (a, m) = (Arc::clone(&active), Arc::clone(&most));
    let reconcile = move |_: Request, _: Context| {
        let (a, m) = (Arc::clone(&a), Arc::clone(&m));
        async move {
            m.fetch_max(a.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(50)).await;
            a.fetch_sub(1, Ordering::SeqCst);
            Ok(Outcome::Done)
        }
    };
    let running = Running::start(builder(&fake).workers(4), reconcile);
    for n in 0..50 {
        fake.put(&SITES, "ns", "web", json!({"spec": {"n": n}}));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.stop().await;
    assert_eq!(most.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_status_write_of_its_own_does_not_bring_the_object_back_when_filtered() {
    let fake = Fake::new();
    fake.put(&SITES, "ns", "web", json!({"metadata": {"generation": 1}}));
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let reconcile = move |request: Request, context: Context| {
        let counter = Arc::clone(&counter);
        async move {
            let n = counter.fetch_add(1, Ordering::Relaxed);
            let status = json!({"status": {"n": n}});
            context
                .api()
                .patch_status(
                    request.name(),
                    setpoint_runtime::client::PatchKind::Merge,
                    &status,
                )
                .await?;
            Result::Ok(Outcome::Done)
        }
    };
    let running = Running::start(builder(&fake).filter(spec_changed), reconcile);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(count.load(Ordering::Relaxed), 1);
    fake.put(&SITES, "ns", "web", json!({"metadata": {"generation": 2}}));
    eventually("the new generation", || count.load(Ordering::Relaxed) == 2).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn events_are_written_in_the_background_and_repeats_are_counted() {
    let fake = Fake::new();
    fake.put(&SITES, "ns", "web", json!({}));
    let reconcile = move |_: Request, context: Context| async move {
        let site = context.object().unwrap();
        context
            .recorder()
            .event(&site, EventKind::Warning, "PortTaken", "port 80 is taken");
        Result::Ok(Outcome::RequeueAfter(Duration::from_secs(10)))
    };
    let running = Running::start(builder(&fake), reconcile);
    let events = || -> Vec<serde_json::Value> {
        let names: Vec<String> = fake.versions(&EVENTS).into_keys().collect();
        names
            .iter()
            .filter_map(|name| fake.get(&EVENTS, "ns", name.split_once('/')?.1))
            .collect()
    };
    eventually("the third repeat", || {
        events().first().is_some_and(|event| event["count"] == 3)
    })
    .await;
    let all = events();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0]["involvedObject"]["name"], "web");
    assert_eq!(
        (&all[0]["type"], &all[0]["reason"]),
        (&json!("Warning"), &json!("PortTaken"))
    );
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_resource_that_cannot_be_listed_is_named() {
    let fake = Fake::new().without_watch_list();
    let client = fake.client();
    let nothing = Resource::namespaced("nope.dev", "v1", "Nope", "nopes");
    let run = Controller::builder("nope", &client, &nothing)
        .retries(LimiterOptions::default())
        .sync_timeout(Duration::from_secs(5))
        .run(|_: Request, _: Context| async { Ok(Outcome::Done) }, Stop::new());
    let error = run.await.unwrap_err();
    assert!(matches!(error, RunError::NotSynced { .. }));
    assert!(
        error
            .to_string()
            .starts_with("nopes.nope.dev was not listed within 5s"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_index_of_something_that_is_not_cached_is_refused_at_once() {
    let run = builder(&Fake::new())
        .index(&MAPS, "app", |_| Vec::new())
        .run(|_: Request, _: Context| async { Ok(Outcome::Done) }, Stop::new());
    let error = run.await.unwrap_err().to_string();
    assert!(error.contains("add .owns or .watches"), "{error}");
}
