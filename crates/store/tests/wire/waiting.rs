//! Locks, elections and health: who waits, who is told, and what is left of who goes away.

use std::time::Duration;

use setpoint_proto::v3electionpb::{self as epb, election_client::ElectionClient};
use setpoint_proto::v3lockpb::{self as lpb, lock_client::LockClient};
use setpoint_store::types::{KeyRange, LeaseId, Range};
use tokio::time::{sleep, timeout};

use super::*;

const SOON: Duration = Duration::from_secs(5);
/// Long enough for what must not happen to have happened.
const QUIET: Duration = Duration::from_millis(150);

impl Server {
    async fn lock(&self) -> LockClient<Channel> {
        LockClient::new(self.channel().await)
    }

    async fn election(&self) -> ElectionClient<Channel> {
        ElectionClient::new(self.channel().await)
    }

    async fn lease(&self, id: i64, ttl: i64) -> i64 {
        self.store.lease_grant(Some(LeaseId(id)), ttl).await.unwrap();
        id
    }

    fn keys(&self, prefix: &str) -> Vec<String> {
        let range = Range::of(KeyRange::prefix(prefix.as_bytes()));
        let kvs = self.store.range(&range).unwrap().kvs.into_iter();
        kvs.map(|kv| String::from_utf8(kv.key.to_vec()).unwrap())
            .collect()
    }

    /// Waits until exactly these keys begin with `prefix`.
    async fn until_keys(&self, prefix: &str, expect: &[&str]) {
        let deadline = tokio::time::Instant::now() + SOON;
        while self.keys(prefix) != expect {
            assert!(tokio::time::Instant::now() < deadline, "{:?}", self.keys(prefix));
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Where a call waits while the test goes on; each is awaited or aborted.
fn aside() -> TaskGroup {
    TaskGroup::new(&Stop::new())
}

fn lock(name: &str, lease: i64) -> lpb::LockRequest {
    lpb::LockRequest {
        name: name.to_owned().into(),
        lease,
    }
}

fn campaign(name: &str, lease: i64, value: &str) -> epb::CampaignRequest {
    epb::CampaignRequest {
        name: name.to_owned().into(),
        lease,
        value: value.to_owned().into(),
    }
}

fn leader_of(name: &str) -> epb::LeaderRequest {
    epb::LeaderRequest {
        name: name.to_owned().into(),
    }
}

#[tokio::test]
async fn a_lock_passes_to_who_came_next() {
    let server = Server::plain().await;
    let mut client = server.lock().await;
    let first = client.lock(lock("l", server.lease(1, 60).await)).await.unwrap();
    let first = first.into_inner();
    assert_eq!(first.key, "l/1");
    assert_eq!(first.header.unwrap().revision, 2);
    let mut waiting = Vec::new();
    for id in 2..=4 {
        let (mut client, lease) = (client.clone(), server.lease(id, 60).await);
        waiting.push(aside().spawn(async move { client.lock(lock("l", lease)).await }));
        while server.keys("l/").len() < id as usize {
            sleep(Duration::from_millis(1)).await;
        }
    }
    let mut held = first.key;
    for (id, waiting) in (2..=4).zip(&mut waiting) {
        assert!(
            timeout(QUIET, &mut *waiting).await.is_err(),
            "{id} came too early"
        );
        client.unlock(lpb::UnlockRequest { key: held }).await.unwrap();
        let next = timeout(SOON, waiting)
            .await
            .unwrap()
            .unwrap()
            .unwrap()
            .into_inner();
        held = next.key;
        assert_eq!(held, format!("l/{id}"));
        assert_eq!(next.header.unwrap().revision, server.store.revision().0);
    }
    server.stop().await;
}

#[tokio::test]
async fn the_same_lease_takes_the_same_lock_again() {
    let server = Server::plain().await;
    let mut client = server.lock().await;
    server.lease(0xab, 60).await;
    for _ in 0..2 {
        let held = client.lock(lock("l", 0xab)).await.unwrap().into_inner();
        assert_eq!(held.key, "l/ab");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_call_that_is_given_up_leaves_no_key() {
    let server = Server::plain().await;
    let mut client = server.lock().await;
    client.lock(lock("l", server.lease(1, 60).await)).await.unwrap();
    server.lease(2, 60).await;
    let impatient = timeout(QUIET, client.lock(lock("l", 2))).await;
    assert!(impatient.is_err());
    server.until_keys("l/", &["l/1"]).await;
    // Its own deadline, told to the server, ends it as well.
    let mut request = tonic::Request::new(lock("l", 2));
    request
        .metadata_mut()
        .insert("grpc-timeout", "50m".parse().unwrap());
    // Which of the two sides says so is a matter of microseconds.
    let status = client.lock(request).await.unwrap_err();
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled));
    server.until_keys("l/", &["l/1"]).await;
    server.stop().await;
}

#[tokio::test]
async fn a_lost_connection_takes_its_waiting_calls_with_it() {
    let server = Server::plain().await;
    let mut client = server.lock().await;
    client.lock(lock("l", server.lease(1, 60).await)).await.unwrap();
    for id in [2, 3] {
        server.lease(id, 60).await;
    }
    let (mut lost, mut election) = (server.lock().await, server.election().await);
    let mut leaseless = lost.clone();
    let waiting = aside().spawn(async move {
        tokio::join!(
            lost.lock(lock("l", 2)),
            leaseless.lock(lock("l", 0)),
            election.campaign(campaign("l", 3, "v")),
        )
    });
    while server.keys("l/").len() < 4 {
        sleep(Duration::from_millis(1)).await;
    }
    waiting.abort();
    server.until_keys("l/", &["l/1"]).await;
    // The lease that was made for the second is gone, those of callers are not.
    let mut leases: Vec<i64> = server.store.leases().iter().map(|lease| lease.0).collect();
    leases.sort_unstable();
    assert_eq!(leases, [1, 2, 3]);
    server.stop().await;
}

#[tokio::test]
async fn a_caller_without_a_lease_gets_one_of_a_minute() {
    let server = Server::plain().await;
    let mut client = server.lock().await;
    let key = client.lock(lock("l", 0)).await.unwrap().into_inner().key;
    let lease = server.store.leases()[0];
    assert_eq!(key, format!("l/{:x}", lease.0));
    assert_eq!(server.store.lease(lease, true).unwrap().granted_ttl, 60);
    server.stop().await;
}

#[tokio::test]
async fn the_end_of_a_lease_ends_the_wait() {
    let server = Server::plain().await;
    let mut client = server.lock().await;
    client.lock(lock("l", server.lease(1, 60).await)).await.unwrap();
    server.lease(2, 60).await;
    let mut other = client.clone();
    let waiting = aside().spawn(async move { other.lock(lock("l", 2)).await });
    server.until_keys("l/", &["l/1", "l/2"]).await;
    server.store.lease_revoke(LeaseId(2)).await.unwrap();
    let result = timeout(SOON, waiting).await.unwrap().unwrap();
    refused(result, Code::Unknown, "mutex: session is expired");
    server.stop().await;
}

#[tokio::test]
async fn a_stop_ends_waits_and_leaves_only_who_has_the_lock() {
    let server = Server::plain().await;
    let mut client = server.lock().await;
    client.lock(lock("l", server.lease(1, 60).await)).await.unwrap();
    server.lease(2, 60).await;
    let waiting = aside().spawn(async move { client.lock(lock("l", 2)).await });
    server.until_keys("l/", &["l/1", "l/2"]).await;
    assert_eq!(server.tasks.shutdown(SOON).await, 0);
    let result = timeout(SOON, waiting).await.unwrap().unwrap();
    refused(result, Code::Unavailable, "etcdserver: server stopped");
    assert_eq!(server.keys("l/"), ["l/1"]);
    server.stop().await;
}

#[tokio::test]
async fn waits_are_bounded() {
    let server = Server::start(|options| options.waits_max = 2).await;
    let mut client = server.lock().await;
    for id in 1..=4 {
        server.lease(id, 60).await;
    }
    client.lock(lock("l", 1)).await.unwrap();
    let mut waiting = Vec::new();
    for id in 2..=3 {
        let mut client = client.clone();
        waiting.push(aside().spawn(async move { client.lock(lock("l", id)).await }));
    }
    server.until_keys("l/", &["l/1", "l/2", "l/3"]).await;
    refused(
        client.lock(lock("l", 4)).await,
        Code::Unknown,
        "etcdserver: too many requests",
    );
    waiting.into_iter().for_each(|waiting| waiting.abort());
    server.until_keys("l/", &["l/1"]).await;
    // The places are free again.
    client.lock(lock("other", 4)).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn errors_have_etcds_text_and_no_code() {
    let server = Server::plain().await;
    let (mut client, mut election) = (server.lock().await, server.election().await);
    let no_lease = "etcdserver: requested lease not found";
    refused(client.lock(lock("l", 9)).await, Code::Unknown, no_lease);
    refused(client.lock(lock("l", -9)).await, Code::Unknown, no_lease);
    refused(
        client.unlock(lpb::UnlockRequest::default()).await,
        Code::Unknown,
        "etcdserver: key is not provided",
    );
    refused(
        election.campaign(campaign("e", 9, "v")).await,
        Code::Unknown,
        no_lease,
    );
    refused(
        election.leader(leader_of("e")).await,
        Code::Unknown,
        "election: no leader",
    );
    let no_leader_key = r#""leader" field must be provided"#;
    refused(
        election.proclaim(epb::ProclaimRequest::default()).await,
        Code::Unknown,
        no_leader_key,
    );
    refused(
        election.resign(epb::ResignRequest::default()).await,
        Code::Unknown,
        no_leader_key,
    );
    assert_eq!(server.keys(""), Vec::<String>::new());
    server.stop().await;
}

#[tokio::test]
async fn keys_that_belong_to_others_cannot_be_locked() {
    let server = Server::start(|options| options.read_only_prefix = Some("/registry/".into())).await;
    let mut client = server.lock().await;
    let status = client.lock(lock("/registry/pods", 0)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let key = "/registry/pods/1".into();
    let status = client.unlock(lpb::UnlockRequest { key }).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    server.stop().await;
}

#[tokio::test]
async fn leadership_is_observed_from_the_first_candidate_to_the_next() {
    let server = Server::plain().await;
    let mut client = server.election().await;
    let mut seen = client.observe(leader_of("e")).await.unwrap().into_inner();
    let first = campaign("e", server.lease(1, 60).await, "one");
    let first = client.campaign(first).await.unwrap().into_inner().leader.unwrap();
    assert_eq!((&first.key[..], first.rev, first.lease), (&b"e/1"[..], 2, 1));
    let second = campaign("e", server.lease(2, 60).await, "two");
    let mut other = client.clone();
    let mut second = aside().spawn(async move { other.campaign(second).await });
    server.until_keys("e/", &["e/1", "e/2"]).await;
    let proclaim = epb::ProclaimRequest {
        leader: Some(first.clone()),
        value: "one again".into(),
    };
    client.proclaim(proclaim.clone()).await.unwrap();
    let leader = client.leader(leader_of("e")).await.unwrap().into_inner();
    assert_eq!(leader.kv.unwrap().value, "one again");
    assert!(timeout(QUIET, &mut second).await.is_err());
    let resign = epb::ResignRequest { leader: Some(first) };
    client.resign(resign.clone()).await.unwrap();
    let second = timeout(SOON, second)
        .await
        .unwrap()
        .unwrap()
        .unwrap()
        .into_inner();
    assert_eq!(second.leader.unwrap().key, "e/2");
    // Of the transaction that entered the line, as in etcd.
    assert_eq!(second.header.unwrap().revision, 3);
    // Who is not the leader any more can say nothing in its name, but resign again.
    refused(
        client.proclaim(proclaim).await,
        Code::Unknown,
        "election: not leader",
    );
    client.resign(resign).await.unwrap();
    for value in ["one", "one again", "two"] {
        let leader = timeout(SOON, seen.message()).await.unwrap().unwrap().unwrap();
        assert_eq!(leader.kv.unwrap().value, value);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_new_campaign_of_the_leader_changes_its_value() {
    let server = Server::plain().await;
    let mut client = server.election().await;
    server.lease(1, 60).await;
    for value in ["one", "two"] {
        let leader = client
            .campaign(campaign("e", 1, value))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(leader.leader.unwrap().rev, 2);
        let leader = client.leader(leader_of("e")).await.unwrap().into_inner();
        assert_eq!(leader.kv.unwrap().value, value);
    }
    server.stop().await;
}

#[tokio::test]
async fn hundreds_of_contenders_get_their_turns_one_at_a_time() {
    let server = Server::plain().await;
    let channel = server.channel().await;
    let inside = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut all = Vec::new();
    for id in 1..=600 {
        server.lease(id, 60).await;
        let (mut client, inside) = (LockClient::new(channel.clone()), inside.clone());
        all.push(aside().spawn(async move {
            let key = client.lock(lock("l", id)).await.unwrap().into_inner().key;
            assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
            tokio::task::yield_now().await;
            inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
            client.unlock(lpb::UnlockRequest { key }).await.unwrap();
        }));
    }
    for contender in all {
        timeout(Duration::from_secs(60), contender)
            .await
            .unwrap()
            .unwrap();
    }
    assert_eq!(server.keys("l/"), Vec::<String>::new());
    server.stop().await;
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

type HealthCodec = tonic_prost::ProstCodec<HealthRequest, HealthResponse>;

fn health(service: &str) -> tonic::Request<HealthRequest> {
    tonic::Request::new(HealthRequest {
        service: service.to_owned(),
    })
}

#[tokio::test]
async fn the_server_is_healthy_and_knows_no_other_service() {
    let server = Server::plain().await;
    let mut client = tonic::client::Grpc::new(server.channel().await);
    let check = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    client.ready().await.unwrap();
    let serving = client
        .unary(health(""), check.clone(), HealthCodec::default())
        .await;
    assert_eq!(serving.unwrap().into_inner().status, 1);
    client.ready().await.unwrap();
    let unknown = client
        .unary(health("etcdserverpb.KV"), check, HealthCodec::default())
        .await;
    refused(unknown, Code::NotFound, "unknown service");
    for (service, status) in [("", 1), ("etcdserverpb.KV", 3)] {
        let watch = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Watch");
        client.ready().await.unwrap();
        let states = client
            .server_streaming(health(service), watch, HealthCodec::default())
            .await;
        let mut states = states.unwrap().into_inner();
        assert_eq!(states.message().await.unwrap().unwrap().status, status);
        assert!(timeout(QUIET, states.message()).await.is_err());
    }
    server.stop().await;
}

#[tokio::test]
async fn a_corrupt_alarm_closes_locks_and_elections_and_nothing_is_written_for_them() {
    let server = Server::plain().await;
    let lease = server.lease(7, 60).await;
    let before = server.store.revision();
    let mut maintenance = MaintenanceClient::new(server.channel().await);
    let raise = pb::AlarmRequest {
        action: pb::alarm_request::AlarmAction::Activate as i32,
        member_id: 1,
        alarm: pb::AlarmType::Corrupt as i32,
    };
    maintenance.alarm(raise).await.unwrap();
    let text = "etcdserver: corrupt cluster";
    let name = || "n".into();
    let (mut locks, mut elections) = (server.lock().await, server.election().await);
    let lock = locks.lock(lpb::LockRequest { name: name(), lease }).await;
    refused(lock, Code::Unknown, text);
    let unlock = locks.unlock(lpb::UnlockRequest { key: "n/7".into() }).await;
    refused(unlock, Code::Unknown, text);
    let campaign = epb::CampaignRequest {
        name: name(),
        lease,
        value: "v".into(),
    };
    refused(elections.campaign(campaign).await, Code::Unknown, text);
    let leader = Some(epb::LeaderKey {
        name: name(),
        key: "n/7".into(),
        rev: 1,
        lease,
    });
    let proclaim = epb::ProclaimRequest {
        leader: leader.clone(),
        value: "v".into(),
    };
    refused(elections.proclaim(proclaim).await, Code::Unknown, text);
    let resign = elections.resign(epb::ResignRequest { leader }).await;
    refused(resign, Code::Unknown, text);
    assert_eq!(server.store.revision(), before);
    server.stop().await;
}
