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
