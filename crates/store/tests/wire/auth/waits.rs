//! Rights that change while a caller waits.

use super::*;

fn lock_of(name: &str) -> v3lockpb::LockRequest {
    v3lockpb::LockRequest {
        name: name.to_owned().into(),
        lease: 0,
    }
}

#[tokio::test]
async fn who_may_not_hold_a_lock_any_more_does_not_get_it() {
    let server = Server::start(fast).await;
    let (_, root, alice) = server.secured().await;
    let mut lock = LockClient::new(root.channel.clone());
    let held = lock.lock(root.request(lock_of("a/lock"))).await.unwrap();
    let mut also = lock.clone();
    let waiting = also.lock(alice.request(lock_of("a/lock")));
    let meanwhile = async {
        server.has_keys(b"a/lock/", 2).await;
        let revoke = pb::AuthRoleRevokePermissionRequest {
            role: "team".into(),
            key: "a/".into(),
            range_end: "a0".into(),
        };
        root.auth()
            .role_revoke_permission(root.request(revoke))
            .await
            .unwrap();
        let unlock = v3lockpb::UnlockRequest {
            key: held.into_inner().key,
        };
        lock.unlock(root.request(unlock)).await.unwrap();
    };
    let (waited, ()) = tokio::join!(waiting, meanwhile);
    refused(waited, Code::Unknown, DENIED);
    // Its place in line goes with it: others are not held up.
    server.has_keys(b"a/lock/", 0).await;
    server.stop().await;
}

#[tokio::test]
async fn a_lock_is_entered_under_the_key_that_is_checked() {
    let server = Server::start(fast).await;
    let (_, root, alice) = server.secured().await;
    // She may read all contenders, and write the key that a lock without a lease would have if there were such a thing.
    root.grant("team", Type::Read, "z/", "z0").await;
    root.grant("team", Type::Write, "z/0", "").await;
    let mut lock = LockClient::new(root.channel.clone());
    let denied = lock.lock(alice.request(lock_of("z"))).await;
    refused(denied, Code::Unknown, DENIED);
    server.stop().await;
}
