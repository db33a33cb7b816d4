//! What clients match on: etcd's texts and codes for requests about users and roles, and of a store that is full.

use setpoint_proto::authpb::Permission;
use setpoint_proto::etcdserverpb::auth_client::AuthClient;

use super::*;

const FAILED: Code = Code::FailedPrecondition;

#[tokio::test]
async fn requests_about_users_and_roles_that_make_no_sense_get_etcds_errors() {
    let server = Server::start(|options| options.auth.bcrypt_cost = 4).await;
    let mut auth = AuthClient::new(server.channel().await);
    let user = |name: &str| pb::AuthUserAddRequest {
        name: name.into(),
        password: "pw".into(),
        ..Default::default()
    };
    let role = |name: &str| pb::AuthRoleAddRequest { name: name.into() };
    auth.user_add(user("alice")).await.unwrap();
    auth.role_add(role("team")).await.unwrap();

    refused(
        auth.user_add(user("")).await,
        INVALID,
        "etcdserver: user name is empty",
    );
    refused(
        auth.user_add(user("alice")).await,
        FAILED,
        "etcdserver: user name already exists",
    );
    let no_user = "etcdserver: user name not found";
    let name = || "bob".to_owned();
    refused(
        auth.user_get(pb::AuthUserGetRequest { name: name() }).await,
        FAILED,
        no_user,
    );
    refused(
        auth.user_delete(pb::AuthUserDeleteRequest { name: name() }).await,
        FAILED,
        no_user,
    );
    let change = pb::AuthUserChangePasswordRequest {
        name: name(),
        password: "new".into(),
        ..Default::default()
    };
    refused(auth.user_change_password(change).await, FAILED, no_user);
    let give = |user: &str, role: &str| pb::AuthUserGrantRoleRequest {
        user: user.into(),
        role: role.into(),
    };
    refused(auth.user_grant_role(give("bob", "team")).await, FAILED, no_user);

    let no_role = "etcdserver: role name not found";
    refused(auth.user_grant_role(give("alice", "none")).await, FAILED, no_role);
    let take = |user: &str, role: &str| pb::AuthUserRevokeRoleRequest {
        name: user.into(),
        role: role.into(),
    };
    refused(auth.user_revoke_role(take("bob", "team")).await, FAILED, no_user);
    let text = "etcdserver: role is not granted to the user";
    refused(auth.user_revoke_role(take("alice", "team")).await, FAILED, text);

    refused(
        auth.role_add(role("")).await,
        INVALID,
        "etcdserver: role name is empty",
    );
    refused(
        auth.role_add(role("team")).await,
        FAILED,
        "etcdserver: role name already exists",
    );
    let none = || "none".to_owned();
    refused(
        auth.role_get(pb::AuthRoleGetRequest { role: none() }).await,
        FAILED,
        no_role,
    );
    refused(
        auth.role_delete(pb::AuthRoleDeleteRequest { role: none() }).await,
        FAILED,
        no_role,
    );
    let allow = |name: &str, perm| pb::AuthRoleGrantPermissionRequest {
        name: name.into(),
        perm,
    };
    let some = Some(Permission {
        key: "a".into(),
        ..Default::default()
    });
    refused(
        auth.role_grant_permission(allow("none", some)).await,
        FAILED,
        no_role,
    );
    let text = "etcdserver: permission not given";
    refused(
        auth.role_grant_permission(allow("team", None)).await,
        INVALID,
        text,
    );
    let forbid = |role: &str| pb::AuthRoleRevokePermissionRequest {
        role: role.into(),
        key: "a".into(),
        ..Default::default()
    };
    refused(auth.role_revoke_permission(forbid("none")).await, FAILED, no_role);
    let text = "etcdserver: permission is not granted to the role";
    refused(auth.role_revoke_permission(forbid("team")).await, FAILED, text);

    let login = pb::AuthenticateRequest {
        name: "alice".into(),
        password: "pw".into(),
    };
    let text = "etcdserver: authentication is not enabled";
    refused(auth.authenticate(login).await, FAILED, text);
    let text = "etcdserver: root user does not exist";
    refused(auth.auth_enable(pb::AuthEnableRequest {}).await, FAILED, text);
    auth.user_add(user("root")).await.unwrap();
    let text = "etcdserver: root user does not have root role";
    refused(auth.auth_enable(pb::AuthEnableRequest {}).await, FAILED, text);
    server.stop().await;
}

#[tokio::test]
async fn a_full_store_refuses_what_grows_and_nothing_else() {
    use pb::alarm_request::AlarmAction::{Activate, Deactivate};
    let server = Server::plain().await;
    let mut kv = server.kv().await;
    let mut lease = LeaseClient::new(server.channel().await);
    let mut maintenance = MaintenanceClient::new(server.channel().await);
    let grant = |id| pb::LeaseGrantRequest { ttl: 600, id };
    lease.lease_grant(grant(7)).await.unwrap();
    for key in ["a", "b", "c"] {
        kv.put(put(key, "1")).await.unwrap();
    }
    let alarm = |action| pb::AlarmRequest {
        action: action as i32,
        member_id: 0,
        alarm: pb::AlarmType::Nospace as i32,
    };
    maintenance.alarm(alarm(Activate)).await.unwrap();

    let (full, text) = (
        Code::ResourceExhausted,
        "etcdserver: mvcc: database space exceeded",
    );
    refused(kv.put(put("a", "2")).await, full, text);
    refused(
        kv.txn(txn(vec![op(Op::RequestPut(put("a", "2")))])).await,
        full,
        text,
    );
    let nested = op(Op::RequestTxn(txn(vec![op(Op::RequestPut(put("a", "2")))])));
    refused(kv.txn(txn(vec![nested])).await, full, text);
    refused(lease.lease_grant(grant(8)).await, full, text);

    // Reads, deletions, leases that are there, and compaction go on.
    let delete = |key: &str| pb::DeleteRangeRequest {
        key: key.to_owned().into(),
        ..Default::default()
    };
    assert_eq!(kv.range(get("a", "z")).await.unwrap().into_inner().count, 3);
    kv.delete_range(delete("a")).await.unwrap();
    let ops = [
        Op::RequestDeleteRange(delete("b")),
        Op::RequestRange(get("c", "")),
    ];
    kv.txn(txn(ops.map(op).into())).await.unwrap();
    let renewed = tokio_stream::once(pb::LeaseKeepAliveRequest { id: 7 });
    let mut renewed = lease.lease_keep_alive(renewed).await.unwrap().into_inner();
    assert_eq!(renewed.message().await.unwrap().unwrap().ttl, 600);
    lease
        .lease_revoke(pb::LeaseRevokeRequest { id: 7 })
        .await
        .unwrap();
    let compaction = pb::CompactionRequest {
        revision: server.store.revision().0,
        physical: true,
    };
    kv.compact(compaction).await.unwrap();
    assert_eq!(kv.range(get("a", "z")).await.unwrap().into_inner().count, 1);

    maintenance.alarm(alarm(Deactivate)).await.unwrap();
    kv.put(put("a", "2")).await.unwrap();
    server.stop().await;
}
