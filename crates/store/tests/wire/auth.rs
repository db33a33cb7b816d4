//! Authentication as clients meet it.

use setpoint_proto::authpb::{Permission, permission::Type};
use setpoint_proto::etcdserverpb::auth_client::AuthClient;
use setpoint_proto::etcdserverpb::cluster_client::ClusterClient;
use setpoint_proto::v3lockpb;
use setpoint_proto::v3lockpb::lock_client::LockClient;
use tonic::Request;
use tonic::metadata::MetadataValue;

use super::*;

mod enabling;
mod streams;
mod waits;

const DENIED: &str = "etcdserver: permission denied";
const INVALID: &str = "etcdserver: invalid auth token";
const OLD: &str = "etcdserver: revision of auth store is old";
const EMPTY: &str = "etcdserver: user name is empty";

fn fast(options: &mut FrontOptions) {
    options.auth.bcrypt_cost = 4;
}

/// Who calls.
#[derive(Clone)]
struct As {
    channel: Channel,
    token: Option<String>,
}

impl As {
    fn request<T>(&self, message: T) -> Request<T> {
        self.carry(Request::new(message))
    }

    fn carry<T>(&self, mut request: Request<T>) -> Request<T> {
        if let Some(token) = &self.token {
            let value = MetadataValue::try_from(token.as_str()).unwrap();
            request.metadata_mut().insert("token", value);
        }
        request
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone())
    }

    fn auth(&self) -> AuthClient<Channel> {
        AuthClient::new(self.channel.clone())
    }

    async fn put(&self, key: &str) -> Result<(), Status> {
        self.kv().put(self.request(put(key, "v"))).await.map(drop)
    }

    async fn get(&self, key: &str, range_end: &str) -> Result<(), Status> {
        self.kv().range(self.request(get(key, range_end))).await.map(drop)
    }

    async fn txn(&self, txn: pb::TxnRequest) -> Result<(), Status> {
        self.kv().txn(self.request(txn)).await.map(drop)
    }

    /// The reason a watcher was refused for, if it was.
    async fn watch(&self, key: &str, range_end: &str) -> String {
        let create = pb::WatchCreateRequest {
            key: key.to_owned().into(),
            range_end: range_end.to_owned().into(),
            ..Default::default()
        };
        let request = pb::WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        };
        let (requests, receiver) = mpsc::channel(1);
        requests.send(request).await.unwrap();
        let mut client = WatchClient::new(self.channel.clone());
        let stream = self.carry(Request::new(ReceiverStream::new(receiver)));
        let created = client.watch(stream).await.unwrap().into_inner().message().await;
        let created = created.unwrap().unwrap();
        assert!(created.created && created.header.is_some());
        assert_eq!(created.canceled, created.watch_id == -1);
        assert_eq!(created.canceled, !created.cancel_reason.is_empty());
        let reason = created.cancel_reason.split_once(" desc = ");
        reason.map_or(String::new(), |(code, text)| {
            assert!(code.starts_with("rpc error: code = "), "{code}");
            text.to_owned()
        })
    }

    async fn grant(&self, role: &str, kind: Type, key: &str, range_end: &str) {
        let permission = Permission {
            perm_type: kind as i32,
            key: key.to_owned().into(),
            range_end: range_end.to_owned().into(),
        };
        let request = pb::AuthRoleGrantPermissionRequest {
            name: role.to_owned(),
            perm: Some(permission),
        };
        self.auth()
            .role_grant_permission(self.request(request))
            .await
            .unwrap();
    }

    async fn user_add(&self, name: &str, password: &str, roles: &[&str]) {
        let request = pb::AuthUserAddRequest {
            name: name.to_owned(),
            password: password.to_owned(),
            ..Default::default()
        };
        self.auth().user_add(self.request(request)).await.unwrap();
        for role in roles {
            let request = pb::AuthUserGrantRoleRequest {
                user: name.to_owned(),
                role: (*role).to_owned(),
            };
            self.auth().user_grant_role(self.request(request)).await.unwrap();
        }
    }

    async fn login(&self, name: &str, password: &str) -> Result<Self, Status> {
        let request = pb::AuthenticateRequest {
            name: name.to_owned(),
            password: password.to_owned(),
        };
        let token = self.auth().authenticate(request).await?.into_inner().token;
        Ok(Self {
            token: Some(token),
            ..self.clone()
        })
    }
}

impl Server {
    async fn nobody(&self) -> As {
        As {
            channel: self.channel().await,
            token: None,
        }
    }

    /// With authentication on: root, and alice, who may read and write `a/`, and read `b/1`.
    async fn secured(&self) -> (As, As, As) {
        let nobody = self.nobody().await;
        let role = pb::AuthRoleAddRequest { name: "team".into() };
        nobody.auth().role_add(role).await.unwrap();
        nobody.grant("team", Type::Readwrite, "a/", "a0").await;
        nobody.grant("team", Type::Read, "b/1", "").await;
        nobody.user_add("root", "rootpw", &["root"]).await;
        nobody.user_add("alice", "alicepw", &["team"]).await;
        nobody.auth().auth_enable(pb::AuthEnableRequest {}).await.unwrap();
        let root = nobody.login("root", "rootpw").await.unwrap();
        let alice = nobody.login("alice", "alicepw").await.unwrap();
        (nobody, root, alice)
    }
}

#[tokio::test]
async fn without_root_there_is_no_authentication_and_with_it_everybody_needs_a_name() {
    let server = Server::start(fast).await;
    let nobody = server.nobody().await;
    let enable = async || nobody.auth().auth_enable(pb::AuthEnableRequest {}).await;
    let text = "etcdserver: root user does not exist";
    refused(enable().await, Code::FailedPrecondition, text);
    nobody.user_add("root", "pw", &[]).await;
    let text = "etcdserver: root user does not have root role";
    refused(enable().await, Code::FailedPrecondition, text);
    let login = nobody.login("root", "pw").await.map(|_| ());
    let text = "etcdserver: authentication is not enabled";
    refused(login, Code::FailedPrecondition, text);
    let grant = pb::AuthUserGrantRoleRequest {
        user: "root".into(),
        role: "root".into(),
    };
    nobody.auth().user_grant_role(grant).await.unwrap();
    nobody.put("k").await.unwrap();
    enable().await.unwrap();
    let text = "etcdserver: authentication failed, invalid user ID or password";
    for (name, password) in [("root", "PW"), ("nobody", "pw"), ("", "")] {
        let login = nobody.login(name, password).await.map(|_| ());
        refused(login, Code::InvalidArgument, text);
    }
    refused(nobody.put("k").await, Code::InvalidArgument, EMPTY);
    refused(nobody.get("k", "").await, Code::InvalidArgument, EMPTY);
    assert_eq!(nobody.watch("k", "").await, EMPTY);
    let invalid = As {
        token: Some("abcdefghijklmnop.1".into()),
        ..nobody.clone()
    };
    refused(invalid.put("k").await, Code::Unauthenticated, INVALID);
    refused(invalid.get("k", "").await, Code::Unauthenticated, INVALID);
    assert_eq!(invalid.watch("k", "").await, INVALID);
    let ask = pb::AuthStatusRequest {};
    let status = invalid.auth().auth_status(invalid.request(ask)).await;
    refused(status, Code::Unauthenticated, INVALID);
    let status = nobody.auth().auth_status(pb::AuthStatusRequest {}).await.unwrap();
    let status = status.into_inner();
    assert_eq!((status.enabled, status.auth_revision), (true, 3));
    let root = nobody.login("root", "pw").await.unwrap();
    root.put("k").await.unwrap();
    root.auth()
        .auth_disable(root.request(pb::AuthDisableRequest {}))
        .await
        .unwrap();
    nobody.put("k").await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_user_reaches_the_keys_of_its_roles_and_no_others() {
    let server = Server::start(fast).await;
    let (_, root, alice) = server.secured().await;
    for key in ["a/1", "b/1", "c"] {
        root.put(key).await.unwrap();
    }
    alice.put("a/1").await.unwrap();
    alice.get("a/1", "").await.unwrap();
    alice.get("a/", "a0").await.unwrap();
    alice.get("b/1", "").await.unwrap();
    alice.get("a/1", "a/5").await.unwrap();
    for (key, range_end) in [
        ("a/", "a1"),
        ("a", "a0"),
        ("a/", "\0"),
        // GHSA-xg4h-6gfc-h4m8: whoever may read one key watched all from there on.
        ("b/1", "\0"),
        ("\0", "\0"),
        ("b/", "b0"),
    ] {
        refused(alice.get(key, range_end).await, Code::PermissionDenied, DENIED);
        assert_eq!(alice.watch(key, range_end).await, DENIED, "{key} {range_end}");
    }
    refused(alice.put("b/1").await, Code::PermissionDenied, DENIED);
    assert_eq!(alice.watch("a/", "a0").await, "");
    // An empty key is the smallest one: of a watcher with an open end, all keys.
    assert_eq!(alice.watch("", "\0").await, DENIED);
    let delete = |key: &str, prev_kv| pb::DeleteRangeRequest {
        key: key.to_owned().into(),
        prev_kv,
        ..Default::default()
    };
    let mut kv = alice.kv();
    let denied = kv.delete_range(alice.request(delete("b/1", false))).await;
    refused(denied, Code::PermissionDenied, DENIED);
    kv.delete_range(alice.request(delete("a/1", true))).await.unwrap();
    let stream = kv.range_stream(alice.request(get("a/", "\0"))).await;
    let denied = match stream {
        Ok(stream) => stream.into_inner().message().await.map(drop),
        Err(status) => Err(status),
    };
    refused(denied, Code::PermissionDenied, DENIED);
    server.stop().await;
}

#[tokio::test]
async fn writing_is_not_reading_and_a_previous_value_is_read() {
    let server = Server::start(fast).await;
    let (nobody, root, _) = server.secured().await;
    let role = pb::AuthRoleAddRequest { name: "w".into() };
    root.auth().role_add(root.request(role)).await.unwrap();
    root.grant("w", Type::Write, "w", "").await;
    root.user_add("bob", "pw", &["w"]).await;
    let bob = nobody.login("bob", "pw").await.unwrap();
    bob.put("w").await.unwrap();
    refused(bob.get("w", "").await, Code::PermissionDenied, DENIED);
    let put = pb::PutRequest {
        prev_kv: true,
        ..put("w", "")
    };
    let denied = bob.kv().put(bob.request(put.clone())).await;
    refused(denied, Code::PermissionDenied, DENIED);
    let delete = pb::DeleteRangeRequest {
        key: "w".into(),
        prev_kv: true,
        ..Default::default()
    };
    let denied = bob.kv().delete_range(bob.request(delete.clone())).await;
    refused(denied, Code::PermissionDenied, DENIED);
    for request in [Op::RequestPut(put), Op::RequestDeleteRange(delete)] {
        let denied = bob.txn(txn(vec![op(request)])).await;
        refused(denied, Code::PermissionDenied, DENIED);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_transaction_is_allowed_when_all_of_it_is_in_both_branches_at_every_depth() {
    let server = Server::start(fast).await;
    let (_, _, alice) = server.secured().await;
    let compare = |key: &str, range_end: &str| pb::Compare {
        key: key.to_owned().into(),
        range_end: range_end.to_owned().into(),
        ..Default::default()
    };
    let allowed = || op(Op::RequestPut(put("a/1", "v")));
    let read = |key: &str| op(Op::RequestRange(get(key, "")));
    let nested = |inner: pb::TxnRequest| op(Op::RequestTxn(inner));
    alice
        .txn(txn(vec![allowed(), read("a/2"), read("b/1")]))
        .await
        .unwrap();
    alice.txn(txn(vec![])).await.unwrap();
    let denied = [
        txn(vec![allowed(), read("c")]),
        pb::TxnRequest {
            failure: vec![read("c")],
            ..txn(vec![allowed()])
        },
        pb::TxnRequest {
            compare: vec![compare("c", "")],
            ..txn(vec![allowed()])
        },
        pb::TxnRequest {
            compare: vec![compare("a/", "\0")],
            ..txn(vec![])
        },
        txn(vec![nested(txn(vec![nested(txn(vec![read("c")]))]))]),
        txn(vec![nested(pb::TxnRequest {
            failure: vec![op(Op::RequestPut(put("b/1", "")))],
            ..Default::default()
        })]),
        txn(vec![nested(pb::TxnRequest {
            compare: vec![compare("c", "")],
            ..Default::default()
        })]),
    ];
    for request in denied {
        refused(alice.txn(request).await, Code::PermissionDenied, DENIED);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_lease_belongs_to_whoever_may_write_all_its_keys() {
    let server = Server::start(fast).await;
    let (nobody, root, alice) = server.secured().await;
    let mut lease = LeaseClient::new(nobody.channel.clone());
    let grant = pb::LeaseGrantRequest { id: 7, ttl: 100 };
    refused(lease.lease_grant(grant).await, Code::InvalidArgument, EMPTY);
    lease.lease_grant(alice.request(grant)).await.unwrap();
    let leased = |key: &str| pb::PutRequest {
        lease: 7,
        ..put(key, "v")
    };
    alice.kv().put(alice.request(leased("a/1"))).await.unwrap();
    let list = pb::LeaseLeasesRequest {};
    lease.lease_leases(alice.request(list)).await.unwrap();
    root.kv().put(root.request(leased("c"))).await.unwrap();
    // From here on the lease takes a key with it that is not alice's to delete.
    let denied = alice.kv().put(alice.request(leased("a/1"))).await;
    refused(denied, Code::PermissionDenied, DENIED);
    let denied = lease
        .lease_revoke(alice.request(pb::LeaseRevokeRequest { id: 7 }))
        .await;
    refused(denied, Code::PermissionDenied, DENIED);
    refused(
        lease.lease_leases(alice.request(list)).await,
        Code::PermissionDenied,
        DENIED,
    );
    let ask = |keys| pb::LeaseTimeToLiveRequest { id: 7, keys };
    lease.lease_time_to_live(alice.request(ask(false))).await.unwrap();
    let denied = lease.lease_time_to_live(alice.request(ask(true))).await;
    refused(denied, Code::PermissionDenied, DENIED);
    let renewal = tokio_stream::once(pb::LeaseKeepAliveRequest { id: 7 });
    let renewed = lease.lease_keep_alive(alice.carry(Request::new(renewal))).await;
    let denied = match renewed {
        Ok(stream) => stream.into_inner().message().await.map(drop),
        Err(status) => Err(status),
    };
    refused(denied, Code::PermissionDenied, DENIED);
    lease
        .lease_revoke(root.request(pb::LeaseRevokeRequest { id: 7 }))
        .await
        .unwrap();
    server.stop().await;
}

#[tokio::test]
async fn what_concerns_the_whole_store_is_for_administrators() {
    let server = Server::start(fast).await;
    let (nobody, root, alice) = server.secured().await;
    let compact = pb::CompactionRequest {
        revision: 1,
        physical: false,
    };
    let mut kv = nobody.kv();
    refused(kv.compact(compact).await, Code::InvalidArgument, EMPTY);
    let denied = kv.compact(alice.request(compact)).await;
    refused(denied, Code::PermissionDenied, DENIED);
    kv.compact(root.request(compact)).await.unwrap();
    let mut maintenance = MaintenanceClient::new(nobody.channel.clone());
    let denied = maintenance.hash(alice.request(pb::HashRequest {})).await;
    refused(denied, Code::PermissionDenied, DENIED);
    let snapshot = maintenance.snapshot(alice.request(pb::SnapshotRequest {})).await;
    let denied = match snapshot {
        Ok(stream) => stream.into_inner().message().await.map(drop),
        Err(status) => Err(status),
    };
    refused(denied, Code::PermissionDenied, DENIED);
    refused(
        maintenance.status(pb::StatusRequest {}).await,
        Code::InvalidArgument,
        EMPTY,
    );
    maintenance
        .status(alice.request(pb::StatusRequest {}))
        .await
        .unwrap();
    maintenance
        .alarm(alice.request(pb::AlarmRequest::default()))
        .await
        .unwrap();
    let disarm = pb::AlarmRequest {
        action: pb::alarm_request::AlarmAction::Deactivate as i32,
        ..Default::default()
    };
    let denied = maintenance.alarm(alice.request(disarm)).await;
    refused(denied, Code::PermissionDenied, DENIED);
    let mut cluster = ClusterClient::new(nobody.channel.clone());
    let list = pb::MemberListRequest::default();
    refused(cluster.member_list(list).await, Code::InvalidArgument, EMPTY);
    cluster.member_list(alice.request(list)).await.unwrap();
    let denied = cluster
        .member_remove(alice.request(pb::MemberRemoveRequest { id: 1 }))
        .await;
    refused(denied, Code::PermissionDenied, DENIED);
    let denied = alice
        .auth()
        .user_list(alice.request(pb::AuthUserListRequest {}))
        .await;
    refused(denied, Code::PermissionDenied, DENIED);
    let own = |name: &str| pb::AuthUserGetRequest { name: name.into() };
    let roles = alice.auth().user_get(alice.request(own("alice"))).await.unwrap();
    assert_eq!(roles.into_inner().roles, ["team"]);
    let denied = alice.auth().user_get(alice.request(own("root"))).await;
    refused(denied, Code::PermissionDenied, DENIED);
    let role = |role: &str| pb::AuthRoleGetRequest { role: role.into() };
    let perm = alice.auth().role_get(alice.request(role("team"))).await.unwrap();
    assert_eq!(perm.into_inner().perm.len(), 2);
    let denied = alice.auth().role_get(alice.request(role("root"))).await;
    refused(denied, Code::PermissionDenied, DENIED);
    let mut lock = LockClient::new(nobody.channel.clone());
    let mine = |name: &str| v3lockpb::LockRequest {
        name: name.to_owned().into(),
        lease: 0,
    };
    lock.lock(alice.request(mine("a/lock"))).await.unwrap();
    refused(lock.lock(alice.request(mine("c"))).await, Code::Unknown, DENIED);
    server.stop().await;
}

#[tokio::test]
async fn tokens_end_with_their_user_its_password_and_authentication_itself() {
    let server = Server::start(fast).await;
    let (nobody, root, alice) = server.secured().await;
    let change = pb::AuthUserChangePasswordRequest {
        name: "alice".into(),
        password: "new".into(),
        ..Default::default()
    };
    root.auth()
        .user_change_password(root.request(change))
        .await
        .unwrap();
    refused(alice.get("a/1", "").await, Code::Unauthenticated, INVALID);
    assert!(nobody.login("alice", "alicepw").await.is_err());
    let alice = nobody.login("alice", "new").await.unwrap();
    // Roles may change under a token.
    root.grant("team", Type::Read, "c", "").await;
    alice.get("c", "").await.unwrap();
    let revoke = pb::AuthRoleRevokePermissionRequest {
        role: "team".into(),
        key: "c".into(),
        range_end: "".into(),
    };
    root.auth()
        .role_revoke_permission(root.request(revoke))
        .await
        .unwrap();
    refused(alice.get("c", "").await, Code::PermissionDenied, DENIED);
    let delete = pb::AuthUserDeleteRequest { name: "alice".into() };
    root.auth().user_delete(root.request(delete)).await.unwrap();
    refused(alice.get("a/1", "").await, Code::Unauthenticated, INVALID);
    let delete = pb::AuthUserDeleteRequest { name: "root".into() };
    let text = "etcdserver: invalid auth management";
    let denied = root.auth().user_delete(root.request(delete)).await;
    refused(denied, Code::InvalidArgument, text);
    let disable = root.request(pb::AuthDisableRequest {});
    root.auth().auth_disable(disable).await.unwrap();
    nobody.auth().auth_enable(pb::AuthEnableRequest {}).await.unwrap();
    refused(root.get("c", "").await, Code::Unauthenticated, INVALID);
    server.stop().await;
}

#[tokio::test]
async fn users_and_roles_are_there_after_a_restart() {
    let server = Server::start(fast).await;
    let (_, root, _) = server.secured().await;
    root.put("a/1").await.unwrap();
    let contents = |store: &Store| {
        use setpoint_store::types::Table;
        [Table::AUTH, Table::AUTH_USERS, Table::AUTH_ROLES].map(|table| store.meta(table))
    };
    let expect = contents(&server.store);
    assert_eq!(expect.each_ref().map(Vec::len), [2, 2, 1]);
    let Server {
        store, tasks, _dir, ..
    } = server;
    tasks.shutdown(std::time::Duration::from_secs(10)).await;
    drop((root, store, tasks));
    let store = crate::support::open(_dir.path());
    assert_eq!(contents(&store), expect);
}

#[tokio::test]
async fn a_write_that_was_checked_under_an_older_policy_is_refused() {
    let server = Server::start(fast).await;
    let (_, _, alice) = server.secured().await;
    let fact = setpoint_store::types::MetaWrite::put(
        setpoint_store::types::Table::AUTH,
        "authRevision",
        9_u64.to_be_bytes().to_vec(),
    );
    let put = setpoint_store::types::Put::new("a/1", "v");
    let store = server.store.expecting(fact);
    let error = store.put(put, None).await.unwrap_err();
    assert_eq!(error, setpoint_store::Error::FactChanged);
    alice.put("a/1").await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_signed_token_is_too_old_once_users_or_roles_have_changed() {
    let server = Server::start(|options| {
        fast(options);
        let ttl = std::time::Duration::from_secs(60);
        let jwt = setpoint_store::etcd::Jwt::new("HS256", Some(b"secret"), None, ttl).unwrap();
        options.auth.token = setpoint_store::etcd::TokenOptions::Jwt(jwt);
    })
    .await;
    let (nobody, root, alice) = server.secured().await;
    assert_eq!(root.token.as_ref().unwrap().split('.').count(), 3);
    alice.put("a/1").await.unwrap();
    root.grant("team", Type::Read, "c", "").await;
    for caller in [&alice, &root] {
        refused(caller.put("a/1").await, Code::InvalidArgument, OLD);
        refused(caller.get("a/1", "").await, Code::InvalidArgument, OLD);
        assert_eq!(caller.watch("a/1", "").await, OLD);
    }
    // Who is an administrator does not depend on the revision.
    let list = root.request(pb::AuthUserListRequest {});
    root.auth().user_list(list).await.unwrap();
    let again = nobody.login("alice", "alicepw").await.unwrap();
    again.get("c", "").await.unwrap();
    let bearer = As {
        token: Some(format!("Bearer {}", again.token.unwrap())),
        ..nobody.clone()
    };
    bearer.get("c", "").await.unwrap();
    let forged = As {
        token: Some(root.token.unwrap().replace("eyJ", "eyK")),
        ..nobody
    };
    refused(forged.get("c", "").await, Code::Unauthenticated, INVALID);
    server.stop().await;
}
