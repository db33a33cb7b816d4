//! Calls, and what is made of their answers.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;
use setpoint_base::TraceContext;
use setpoint_runtime::client::{ClientOptions, DeleteParams, ListParams, PatchKind, WatchEvent, WatchParams};
use setpoint_runtime::{Error, Resource, finalizer, trace};

use crate::fake::{Fake, Fault, MAPS, On, SITES};

#[tokio::test(start_paused = true)]
async fn an_object_can_be_created_read_changed_and_deleted() {
    let fake = Fake::new();
    let api = fake.client().api(&Resource::of::<ConfigMap>()).namespace("ns");
    let made = api
        .create(
            &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "ns"}}),
        )
        .await
        .unwrap();
    assert_eq!(made.header().resource_version, 101);
    let patched = api
        .patch("a", PatchKind::Merge, &json!({"data": {"k": "v"}}))
        .await
        .unwrap();
    assert_eq!(patched.field("data.k"), Some(&br#""v""#[..]));
    let typed: ConfigMap = api.get_as("a").await.unwrap();
    assert_eq!(typed.data.unwrap()["k"], "v");
    api.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(api.find("a").await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_list_in_pages_is_whole() {
    let fake = Fake::new();
    for n in 0..7 {
        fake.put(&MAPS, "ns", &format!("m{n}"), json!({}));
    }
    let params = ListParams {
        limit: 3,
        ..ListParams::default()
    };
    let list = fake.client().api(&MAPS).list_all(&params).await.unwrap();
    assert_eq!((list.items.len(), list.resource_version), (7, 107));
    assert_eq!(fake.reads().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_carries_the_servers_status() {
    let fake = Fake::new();
    let api = fake.client().api(&MAPS).namespace("ns");
    let error = api.get("nope").await.unwrap_err();
    assert!(error.is_not_found());
    assert_eq!(error.to_string(), "GET /api/v1/namespaces/ns/configmaps/nope");
    assert_eq!(error.status().unwrap().message, "not found");
}

#[tokio::test(start_paused = true)]
async fn every_call_has_a_deadline() {
    let fake = Fake::new();
    fake.fail(On::Get, Fault::Hang);
    fake.fail(On::List, Fault::Hang);
    fake.fail(On::Watch, Fault::Hang);
    let api = fake.client().api(&MAPS).namespace("ns");
    assert!(matches!(api.get("a").await, Err(Error::Timeout { .. })));
    assert!(matches!(
        api.list(&ListParams::default()).await,
        Err(Error::Timeout { .. })
    ));
    assert!(matches!(
        api.watch(&WatchParams::default()).await,
        Err(Error::Timeout { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn an_answer_over_the_limit_is_refused() {
    let fake = Fake::new();
    fake.put(&MAPS, "ns", "big", json!({"data": {"k": "x".repeat(1000)}}));
    let options = ClientOptions {
        answer_bytes_max: 500,
        line_bytes_max: 500,
        ..ClientOptions::default()
    };
    let api = fake.client().with_options(options).api(&MAPS).namespace("ns");
    assert!(matches!(
        api.get("big").await,
        Err(Error::TooLong { bytes_max: 500, .. })
    ));
    let from_start = WatchParams {
        resource_version: Some(100),
        ..WatchParams::default()
    };
    let mut stream = api.watch(&from_start).await.unwrap();
    assert!(matches!(stream.next().await, Some(Err(Error::TooLong { .. }))));
}

#[tokio::test(start_paused = true)]
async fn a_write_carries_the_trace_and_its_watch_event_brings_it_back() {
    let fake = Fake::new();
    let api = fake.client().api(&MAPS).namespace("ns");
    let from_start = WatchParams {
        resource_version: Some(100),
        ..WatchParams::default()
    };
    let mut stream = api.watch(&from_start).await.unwrap();
    let context = TraceContext::random();
    let body = json!({"metadata": {"name": "a", "namespace": "ns"}});
    trace::scope(context, api.create(&body)).await.unwrap();
    let Some(Ok(WatchEvent::Added(object))) = stream.next().await else {
        panic!("no event");
    };
    assert_eq!(object.header().trace, Some(context));
}

#[tokio::test(start_paused = true)]
async fn a_watch_on_a_dead_connection_ends_by_itself() {
    let fake = Fake::new();
    let params = WatchParams {
        timeout: Duration::from_secs(10),
        resource_version: Some(100),
        ..WatchParams::default()
    };
    let mut stream = fake.client().api(&MAPS).watch(&params).await.unwrap();
    assert!(stream.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_finalizer_is_entered_once_and_left_once_and_others_are_kept() {
    let fake = Fake::new();
    fake.put(
        &SITES,
        "ns",
        "a",
        json!({"metadata": {"finalizers": ["other/one"]}}),
    );
    let api = fake.client().api(&SITES).namespace("ns");
    let read = async || api.get("a").await.unwrap();
    let name = "demo/port";
    assert_eq!(
        finalizer::enter(&api, &read().await, name).await.unwrap(),
        finalizer::Phase::Live
    );
    assert_eq!(
        finalizer::enter(&api, &read().await, name).await.unwrap(),
        finalizer::Phase::Live
    );
    assert_eq!(
        fake.get(&SITES, "ns", "a").unwrap()["metadata"]["finalizers"],
        json!(["other/one", name])
    );
    let stale = read().await;
    api.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(
        finalizer::leave(&api, &stale, name)
            .await
            .unwrap_err()
            .is_conflict()
    );
    assert_eq!(
        finalizer::enter(&api, &read().await, name).await.unwrap(),
        finalizer::Phase::Leaving
    );
    finalizer::leave(&api, &read().await, name).await.unwrap();
    assert_eq!(
        finalizer::enter(&api, &read().await, name).await.unwrap(),
        finalizer::Phase::Left
    );
}
