//! Maintenance: snapshots, hashes.

use super::*;

/// Takes a snapshot: the file, the checksum that came behind it, and what each message said was left.
async fn snapshot(server: &Server) -> (Vec<u8>, Vec<u8>, Vec<u64>) {
    let mut client = MaintenanceClient::new(server.channel().await);
    let mut stream = client
        .snapshot(pb::SnapshotRequest {})
        .await
        .unwrap()
        .into_inner();
    let (mut blobs, mut left) = (Vec::new(), Vec::new());
    while let Some(message) = stream.message().await.unwrap() {
        assert!(message.blob.len() <= 32 << 10);
        assert_eq!(message.version, "3.7.0");
        left.push(message.remaining_bytes);
        blobs.push(message.blob);
    }
    let sum = blobs.pop().unwrap().to_vec();
    (blobs.concat(), sum, left)
}

#[tokio::test]
async fn a_snapshot_is_whole_pages_with_their_sha256_behind_them() {
    let server = Server::plain().await;
    let mut kv = server.kv().await;
    for n in 0..300 {
        let value = "x".repeat(n * 10);
        kv.put(put(&format!("/key/{n}"), &value)).await.unwrap();
    }
    let (file, sum, left) = snapshot(&server).await;
    assert_eq!(file.len() % 4096, 0);
    let digest = ring::digest::digest(&ring::digest::SHA256, &file);
    assert_eq!(digest.as_ref(), sum);
    assert!(left.is_sorted_by(|a, b| a >= b), "{left:?}");
    assert_eq!(left[0], file.len() as u64 - (32 << 10));
    assert_eq!(left.last(), Some(&0));
    server.stop().await;
}

#[tokio::test]
async fn a_snapshot_that_nobody_reads_to_its_end_leaves_the_store_free_to_compact() {
    let server = Server::start(|options| options.stall_timeout = std::time::Duration::from_millis(50)).await;
    let mut kv = server.kv().await;
    for n in 0..250 {
        kv.put(put(&format!("/key/{n}"), &"x".repeat(30_000)))
            .await
            .unwrap();
        kv.put(put("/same", "1")).await.unwrap();
    }
    let mut client = MaintenanceClient::new(server.channel().await);
    let mut stream = client
        .snapshot(pb::SnapshotRequest {})
        .await
        .unwrap()
        .into_inner();
    stream.message().await.unwrap().unwrap();
    let request = pb::CompactionRequest {
        revision: 400,
        physical: true,
    };
    // Physical compaction waits for every reader of the past: it ends once the stalled stream is given up.
    kv.compact(request).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn hash_kv_names_the_revisions_it_was_made_for_and_refuses_those_it_cannot_see() {
    let server = Server::plain().await;
    let mut kv = server.kv().await;
    let mut client = MaintenanceClient::new(server.channel().await);
    for n in 0..5 {
        kv.put(put("/key", &n.to_string())).await.unwrap();
    }
    let mut hash = async |revision| client.hash_kv(pb::HashKvRequest { revision }).await;
    let now = hash(0).await.unwrap().into_inner();
    assert_eq!((now.compact_revision, now.hash_revision), (-1, 6));
    assert_eq!(hash(6).await.unwrap().into_inner().hash, now.hash);
    let before = hash(5).await.unwrap().into_inner();
    assert_ne!(before.hash, now.hash);
    let request = pb::CompactionRequest {
        revision: 4,
        physical: false,
    };
    kv.compact(request).await.unwrap();
    let compacted = hash(0).await.unwrap().into_inner();
    assert_eq!((compacted.compact_revision, compacted.hash_revision), (4, 6));
    let text = "etcdserver: mvcc: required revision has been compacted";
    refused(hash(3).await, Code::OutOfRange, text);
    let text = "etcdserver: mvcc: required revision is a future revision";
    refused(hash(7).await, Code::OutOfRange, text);
    server.stop().await;
}

async fn alarm(
    client: &mut MaintenanceClient<Channel>,
    action: pb::alarm_request::AlarmAction,
    alarm: pb::AlarmType,
) -> Vec<pb::AlarmMember> {
    let request = pb::AlarmRequest {
        action: action as i32,
        member_id: 42,
        alarm: alarm as i32,
    };
    client.alarm(request).await.unwrap().into_inner().alarms
}

#[tokio::test]
async fn a_corrupt_alarm_closes_keys_and_leases_until_it_is_disarmed() {
    use pb::alarm_request::AlarmAction::{Activate, Deactivate, Get};
    let server = Server::plain().await;
    let mut kv = server.kv().await;
    let mut client = MaintenanceClient::new(server.channel().await);
    let raised = alarm(&mut client, Activate, pb::AlarmType::Corrupt).await;
    assert_eq!(raised.len(), 1);
    assert_eq!((raised[0].member_id, raised[0].alarm), (42, 2));
    let text = "etcdserver: corrupt cluster";
    refused(kv.put(put("a", "1")).await, Code::DataLoss, text);
    refused(kv.range(get("a", "")).await, Code::DataLoss, text);
    let mut leases = LeaseClient::new(server.channel().await);
    let grant = pb::LeaseGrantRequest { ttl: 60, id: 0 };
    refused(leases.lease_grant(grant).await, Code::DataLoss, text);
    let status = client.status(pb::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.errors, ["memberID:42 alarm:CORRUPT "]);
    assert_eq!(alarm(&mut client, Get, pb::AlarmType::Nospace).await, []);
    assert_eq!(alarm(&mut client, Get, pb::AlarmType::None).await, raised);
    assert_eq!(
        alarm(&mut client, Deactivate, pb::AlarmType::Corrupt).await,
        raised
    );
    assert_eq!(alarm(&mut client, Deactivate, pb::AlarmType::Corrupt).await, []);
    kv.put(put("a", "1")).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_single_member_says_why_it_takes_no_others() {
    use pb::cluster_client::ClusterClient;
    let server = Server::plain().await;
    let mut client = ClusterClient::new(server.channel().await);
    let list = client
        .member_list(pb::MemberListRequest { linearizable: true })
        .await;
    let list = list.unwrap().into_inner();
    let id = list.members[0].id;
    assert_eq!(list.header.unwrap().member_id, id);
    let add = async |urls: &[&str]| {
        let request = pb::MemberAddRequest {
            peer_ur_ls: urls.iter().map(|url| (*url).to_owned()).collect(),
            is_learner: false,
        };
        ClusterClient::new(server.channel().await)
            .member_add(request)
            .await
    };
    for bad in [
        &[][..],
        &["localhost:2380"],
        &["http://localhost"],
        &["ftp://a:1"],
    ] {
        refused(
            add(bad).await,
            INVALID,
            "etcdserver: given member URLs are invalid",
        );
    }
    let status = add(&["http://10.0.0.2:2380"]).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    let unknown = "etcdserver: member not found";
    let remove = client.member_remove(pb::MemberRemoveRequest { id: 1 }).await;
    refused(remove, Code::NotFound, unknown);
    let remove = client.member_remove(pb::MemberRemoveRequest { id }).await;
    let text = "etcdserver: re-configuration failed due to not enough started members";
    refused(remove, Code::Unknown, text);
    let update = async |id, url: &str| {
        let peer_ur_ls = vec![url.to_owned()];
        ClusterClient::new(server.channel().await)
            .member_update(pb::MemberUpdateRequest { id, peer_ur_ls })
            .await
    };
    refused(update(1, "nowhere").await, Code::NotFound, unknown);
    let bad = "etcdserver: given member URLs are invalid";
    refused(update(id, "nowhere").await, INVALID, bad);
    let status = update(id, "http://10.0.0.1:2380").await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    let promote = client.member_promote(pb::MemberPromoteRequest { id: 1 }).await;
    refused(promote, Code::NotFound, unknown);
    let promote = client.member_promote(pb::MemberPromoteRequest { id }).await;
    let text = "etcdserver: can only promote a learner member";
    refused(promote, Code::FailedPrecondition, text);
    let mut client = MaintenanceClient::new(server.channel().await);
    client
        .move_leader(pb::MoveLeaderRequest { target_id: id })
        .await
        .unwrap();
    let moved = client.move_leader(pb::MoveLeaderRequest { target_id: 1 }).await;
    refused(
        moved,
        Code::FailedPrecondition,
        "etcdserver: bad leader transferee",
    );
    server.stop().await;
}

#[tokio::test]
async fn a_downgrade_has_nowhere_to_go_and_defragment_returns_at_once() {
    use pb::downgrade_request::DowngradeAction;
    let server = Server::plain().await;
    let mut client = MaintenanceClient::new(server.channel().await);
    let mut downgrade = async |action: DowngradeAction, version: &str| {
        let request = pb::DowngradeRequest {
            action: action as i32,
            version: version.to_owned(),
        };
        client.downgrade(request).await
    };
    let text = "etcdserver: wrong downgrade target version format";
    refused(downgrade(DowngradeAction::Validate, "three").await, INVALID, text);
    let text = "etcdserver: invalid downgrade target version";
    refused(downgrade(DowngradeAction::Enable, "3.6.0").await, INVALID, text);
    let cancelled = downgrade(DowngradeAction::Cancel, "").await.unwrap();
    assert_eq!(cancelled.into_inner().version, "3.7");
    client.defragment(pb::DefragmentRequest {}).await.unwrap();
    server.stop().await;
}
