//! Leases: what is told of them, and what a restart leaves.

use std::time::Duration;

use setpoint_store::simulation::Worker;
use setpoint_store::types;

use super::*;
use crate::support::open;

async fn grant(server: &Server, id: i64, ttl: i64) {
    let mut lease = LeaseClient::new(server.channel().await);
    lease
        .lease_grant(pb::LeaseGrantRequest { ttl, id })
        .await
        .unwrap();
}

async fn remaining(server: &Server, id: i64) -> pb::LeaseTimeToLiveResponse {
    let mut lease = LeaseClient::new(server.channel().await);
    let ask = pb::LeaseTimeToLiveRequest { id, keys: true };
    lease.lease_time_to_live(ask).await.unwrap().into_inner()
}

#[tokio::test]
async fn leases_are_listed_by_when_they_end() {
    let server = Server::plain().await;
    for (id, ttl) in [(1, 30_000), (2, 10_000), (-3, 20_000), (4, 40_000)] {
        grant(&server, id, ttl).await;
    }
    let mut lease = LeaseClient::new(server.channel().await);
    let list = lease
        .lease_leases(pb::LeaseLeasesRequest {})
        .await
        .unwrap()
        .into_inner();
    let ids: Vec<i64> = list.leases.iter().map(|lease| lease.id).collect();
    assert_eq!(ids, [2, -3, 1, 4]);
    server.stop().await;
}

#[tokio::test]
async fn after_a_restart_a_lease_has_its_keys_and_its_whole_time_again() {
    let dir = TempDir::new();
    let start = async |dir: TempDir| {
        let store = open(dir.path());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        Server::over(dir, store, addr, |_| (), vec![Listener::tcp(listener)])
    };
    let server = start(dir).await;
    grant(&server, 7, 1_000).await;
    let leased = |key| pb::PutRequest {
        lease: 7,
        ..put(key, "1")
    };
    let mut kv = server.kv().await;
    for request in [leased("a"), leased("b"), leased("c"), put("c", "2")] {
        kv.put(request).await.unwrap();
    }
    // Time has to go by for there to be something that comes back.
    let before = loop {
        let answer = remaining(&server, 7).await;
        if answer.ttl < 997 {
            break answer;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let Server {
        store,
        tasks,
        _dir: dir,
        ..
    } = server;
    assert_eq!(tasks.shutdown(Duration::from_secs(10)).await, 0);
    store.close().await.unwrap();
    drop(store);
    let server = start(dir).await;
    let after = remaining(&server, 7).await;
    assert!(after.ttl > before.ttl, "{} after {}", after.ttl, before.ttl);
    assert_eq!(
        (after.granted_ttl, &after.keys[..]),
        (1_000, &[Bytes::from("a"), Bytes::from("b")][..])
    );
    server.stop().await;
}

/// A client that is told of the end goes on from the revision it is told with: the keys' deletion has to come after that.
#[tokio::test]
async fn who_renews_a_lease_whose_time_is_over_waits_for_its_end_and_is_told_the_revision_before() {
    let (server, sim) = Server::simulated(|_| ()).await;
    let step = async || {
        while sim.waiting() == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        sim.step(Worker::Sequencer);
    };
    let mut kv = server.kv().await;
    let leased = pb::PutRequest {
        lease: 7,
        ..put("a", "1")
    };
    tokio::join!(grant(&server, 7, 2), step());
    let (written, ()) = tokio::join!(kv.put(leased), step());
    assert_eq!(written.unwrap().into_inner().header.unwrap().revision, 2);
    while server
        .store
        .lease(types::LeaseId(7), false)
        .unwrap()
        .remaining_ttl
        > 0
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // What is left is less than a second.
    tokio::time::sleep(Duration::from_secs(1)).await;

    let mut lease = LeaseClient::new(server.channel().await);
    let (requests, receiver) = mpsc::channel(4);
    requests.send(pb::LeaseKeepAliveRequest { id: 7 }).await.unwrap();
    let mut first = Box::pin(async {
        let answers = lease.lease_keep_alive(ReceiverStream::new(receiver)).await;
        let mut answers = answers.unwrap().into_inner();
        (answers.message().await, answers)
    });
    let early = tokio::time::timeout(Duration::from_millis(50), &mut first).await;
    assert!(early.is_err(), "it is told before the keys are gone");
    let ((answer, mut answers), ()) = tokio::join!(first, step());
    let answer = answer.unwrap().unwrap();
    assert_eq!(
        (answer.id, answer.ttl, answer.header.unwrap().revision),
        (7, 0, 2)
    );
    assert_eq!(
        server.store.revision().0,
        3,
        "its end is a revision of its own, and a later one"
    );
    assert_eq!(
        server
            .store
            .range(&Range::of(KeyRange::Key("a".into())))
            .unwrap()
            .count,
        0
    );
    // The stream goes on for other leases, and says what they were granted.
    tokio::join!(grant(&server, 8, 60), step());
    requests.send(pb::LeaseKeepAliveRequest { id: 8 }).await.unwrap();
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!(
        (answer.id, answer.ttl, answer.header.unwrap().revision),
        (8, 60, 3)
    );
    drop((requests, answers));
    server.end_before(sim).await;
}
