//! Unary calls: deadlines, failover, what is retried and what is not.

use std::time::Duration;

use setpoint_store::client::{Client, ClientError, ClientOptions, pb};
use tokio::time::Instant;

use super::{PATIENCE, Rig, put};

fn get(key: &'static str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: key.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn keys_leases_and_transactions_work_over_the_wire() {
    let rig = Rig::start().await;
    let client = rig.client();
    let revision = put(&client, "a", "1").await;
    let found = client.range(get("a")).await.unwrap();
    assert_eq!(found.kvs[0].mod_revision, revision);
    let lease = client
        .lease_grant(pb::LeaseGrantRequest { ttl: 60, id: 0 })
        .await
        .unwrap();
    let keeper = client.lease_keep_alive(lease.id, Duration::from_secs(60));
    assert_eq!(client.lease_keep_alive_once(lease.id).await.unwrap().ttl, 60);
    assert!(keeper.is_alive());
    client.lease_revoke(lease.id).await.unwrap();
    assert_eq!(client.lease_keep_alive_once(lease.id).await.unwrap().ttl, 0);
    let deleted = client
        .delete(pb::DeleteRangeRequest {
            key: "a".into(),
            ..Default::default()
        })
        .await
        .unwrap();
    assert_eq!(deleted.deleted, 1);
    assert!(!client.status().await.unwrap().version.is_empty());
    let refused = client.range(get("")).await.unwrap_err();
    assert!(
        matches!(&refused, ClientError::Refused { message, .. } if message.contains("key is not provided")),
        "{refused:?}"
    );
    client.close(PATIENCE).await;
    assert!(matches!(client.status().await, Err(ClientError::Closed)));
    rig.stop().await;
}

#[tokio::test]
async fn a_lease_that_is_gone_is_reported_by_its_keeper() {
    let rig = Rig::start().await;
    let client = rig.client();
    let lease = client
        .lease_grant(pb::LeaseGrantRequest { ttl: 2, id: 0 })
        .await
        .unwrap();
    let mut keeper = client.lease_keep_alive(lease.id, Duration::from_millis(300));
    client.lease_revoke(lease.id).await.unwrap();
    tokio::time::timeout(PATIENCE, keeper.lost()).await.unwrap();
    assert!(!keeper.is_alive());
    rig.stop().await;
}

#[tokio::test]
async fn calls_go_to_an_endpoint_that_answers() {
    let rig = Rig::start().await;
    let mut options = rig.options();
    // Nobody listens there.
    options.endpoints.insert(0, "http://127.0.0.1:1".to_owned());
    let client = Client::new(options).unwrap();
    for n in 0..6 {
        put(&client, "a", &n.to_string()).await;
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_write_that_was_never_sent_says_so_and_one_that_may_have_been_done_too() {
    let mut options = ClientOptions::new(["http://127.0.0.1:1"]);
    options.request_timeout = Duration::from_millis(300);
    let client = Client::new(options).unwrap();
    let error = client.put(pb::PutRequest::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
    assert!(!error.may_have_happened());

    let rig = Rig::start().await;
    let client = rig.client();
    put(&client, "a", "1").await;
    rig.proxy.half_open();
    let request = pb::PutRequest {
        key: "b".into(),
        ..Default::default()
    };
    let started = Instant::now();
    let error = client.put(request).await.unwrap_err();
    assert!(error.may_have_happened(), "{error:?}");
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    rig.proxy.thaw();
    assert_eq!(client.range(get("b")).await.unwrap().count, 1, "it was done");
    rig.stop().await;
}

#[tokio::test]
async fn a_read_outlives_a_cut_and_a_restart() {
    let mut rig = Rig::start().await;
    let client = rig.client();
    put(&client, "a", "1").await;
    rig.proxy.cut();
    assert_eq!(client.range(get("a")).await.unwrap().count, 1);
    rig.restart().await;
    assert_eq!(client.range(get("a")).await.unwrap().count, 1);
    rig.stop().await;
}
