//! The runtime's client, informer and reflector over the server in the same process: no scripted answers.

use std::time::Duration;

use serde_json::json;
use setpoint_apiserver::Identity;
use setpoint_base::{Stop, TaskGroup, TraceContext};
use setpoint_runtime::client::{DeleteParams, ListParams, PatchKind};
use setpoint_runtime::informer::{Event, SharedInformer};
use setpoint_runtime::reflector::ReflectorOptions;
use setpoint_runtime::{Client, Resource, finalizer, trace};
use tower::ServiceExt as _;

use crate::harness::{PATIENCE, Plane};

const MAPS: Resource = Resource::namespaced("", "v1", "ConfigMap", "configmaps");

fn client(plane: &Plane) -> Client {
    Client::from_service(
        plane
            .server
            .service()
            .map_request(|mut request: http::Request<_>| {
                request.extensions_mut().insert(Identity::loopback());
                request
            }),
    )
}

fn start(informer: &SharedInformer, tasks: &TaskGroup) {
    let (run, stop) = (informer.clone(), tasks.stop().clone());
    tasks.spawn(async move { run.run(stop).await });
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..2_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never came true: {what}");
}

#[tokio::test]
async fn an_informer_hears_of_a_write_with_its_trace() {
    if crate::harness::over_a_cluster() {
        // A cluster keeps keys and values, no traces.
        return;
    }
    let plane = Plane::start().await;
    let client = client(&plane);
    let api = client.api(&MAPS).namespace("default");
    let tasks = TaskGroup::new(&Stop::new());
    let informer = SharedInformer::builder(&client, &MAPS).build();
    start(&informer, &tasks);
    tokio::time::timeout(PATIENCE, informer.synced()).await.unwrap();
    let mut events = informer.subscribe().unwrap();
    let cause = TraceContext::random();
    let body =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}});
    let made = trace::scope(cause, api.create(&body)).await.unwrap();
    let event = tokio::time::timeout(PATIENCE, async {
        loop {
            let (key, event) = events.next().await.unwrap();
            if key.name() == "a" {
                return event;
            }
        }
    })
    .await
    .unwrap();
    let Event::Added {
        object,
        initial: false,
    } = event
    else {
        panic!("{event:?}");
    };
    assert_eq!(object.header().resource_version, made.header().resource_version);
    assert_eq!(
        object.header().trace.map(|trace| trace.trace_id),
        Some(cause.trace_id)
    );
    assert_eq!(tasks.shutdown(PATIENCE).await, 0);
}

#[tokio::test]
async fn a_watch_list_and_a_list_in_pages_fill_a_store_alike_and_follow() {
    let plane = Plane::start().await;
    let client = client(&plane);
    let api = client.api(&MAPS).namespace("default");
    for n in 0..25 {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m{n}")}});
        api.create(&body).await.unwrap();
    }
    let tasks = TaskGroup::new(&Stop::new());
    let paged = ReflectorOptions {
        watch_list: false,
        always_page: true,
        page_size: 7,
        ..ReflectorOptions::default()
    };
    let informers = [ReflectorOptions::default(), paged].map(|options| {
        SharedInformer::builder(&client, &MAPS)
            .namespace("default")
            .reflector(options)
            .build()
    });
    for informer in &informers {
        start(informer, &tasks);
        tokio::time::timeout(PATIENCE, informer.synced()).await.unwrap();
    }
    let listed = api
        .list_all(&ListParams {
            limit: 10,
            ..ListParams::default()
        })
        .await
        .unwrap();
    assert!(listed.items.len() >= 25);
    for informer in &informers {
        assert_eq!(informer.store().len(), listed.items.len());
    }
    api.patch("m0", PatchKind::Merge, &json!({"data": {"k": "w"}}))
        .await
        .unwrap();
    api.delete("m1", &DeleteParams::default()).await.unwrap();
    let version = api.list(&ListParams::default()).await.unwrap().resource_version;
    for informer in &informers {
        until("the deletion arrives", || {
            informer.store().len() + 1 == listed.items.len()
        })
        .await;
        assert!(informer.store().resource_version() <= version);
    }
    assert_eq!(tasks.shutdown(PATIENCE).await, 0);
}

#[tokio::test]
async fn the_finalizer_helper_holds_and_releases_an_object() {
    let plane = Plane::start().await;
    let api = client(&plane).api(&MAPS).namespace("default");
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    let made = api.create(&body).await.unwrap();
    let name = "demo.setpoint.dev/port";
    assert_eq!(
        finalizer::enter(&api, &made, name).await.unwrap(),
        finalizer::Phase::Live
    );
    assert!(
        finalizer::enter(&api, &made, name)
            .await
            .unwrap_err()
            .is_conflict(),
        "a stale read"
    );
    api.delete("a", &DeleteParams::default()).await.unwrap();
    let leaving = api.get("a").await.unwrap();
    assert_eq!(
        finalizer::enter(&api, &leaving, name).await.unwrap(),
        finalizer::Phase::Leaving
    );
    finalizer::leave(&api, &leaving, name).await.unwrap();
    assert!(api.find("a").await.unwrap().is_none());
    finalizer::leave(&api, &leaving, name).await.unwrap();
}
