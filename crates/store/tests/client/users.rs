//! Clients that have to say who they are.

use setpoint_proto::etcdserverpb::auth_client::AuthClient;
use setpoint_store::client::{Client, ClientError, Credentials, WatchError, WatchOptions, pb};
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::Channel;

use super::{PATIENCE, Rig, put, watch};

async fn auth(rig: &Rig) -> AuthClient<Channel> {
    let addr = rig.server.as_ref().unwrap().addr;
    AuthClient::connect(format!("http://{addr}")).await.unwrap()
}

fn user(name: &str) -> pb::AuthUserAddRequest {
    pb::AuthUserAddRequest {
        name: name.to_owned(),
        password: "secret".to_owned(),
        ..Default::default()
    }
}

/// A server that knows root.
async fn guarded() -> Rig {
    let rig = Rig::with(|options| options.auth.bcrypt_cost = 4).await;
    let mut auth = auth(&rig).await;
    auth.user_add(user("root")).await.unwrap();
    let role = pb::AuthUserGrantRoleRequest {
        user: "root".to_owned(),
        role: "root".to_owned(),
    };
    // The role may be there already: some releases make it.
    let _ = auth
        .role_add(pb::AuthRoleAddRequest {
            name: role.role.clone(),
        })
        .await;
    auth.user_grant_role(role).await.unwrap();
    rig
}

fn as_root(rig: &Rig, password: &str) -> Client {
    let mut options = rig.options();
    options.credentials = Some(Credentials {
        user: "root".to_owned(),
        password: password.to_owned(),
    });
    Client::new(options).unwrap()
}

#[tokio::test]
async fn a_client_with_a_user_works_before_authentication_is_enabled_and_after() {
    let rig = guarded().await;
    let client = as_root(&rig, "secret");
    // Authentication is not enabled yet: no token is needed, and that is fine.
    put(&client, "k", "0").await;
    auth(&rig)
        .await
        .auth_enable(pb::AuthEnableRequest {})
        .await
        .unwrap();
    put(&client, "k", "1").await;
    drop(watch(&client, WatchOptions::prefix("k")).await);
    rig.stop().await;
}

#[tokio::test]
async fn who_is_refused_hears_why_and_is_not_asked_again() {
    let rig = guarded().await;
    auth(&rig)
        .await
        .auth_enable(pb::AuthEnableRequest {})
        .await
        .unwrap();
    let nobody = rig.client();
    let refused = nobody
        .range(pb::RangeRequest {
            key: "k".into(),
            ..Default::default()
        })
        .await;
    assert!(
        matches!(
            refused,
            Err(ClientError::Refused {
                code: Code::InvalidArgument,
                ..
            })
        ),
        "{refused:?}"
    );
    let wrong = as_root(&rig, "guess");
    let refused = wrong
        .put(pb::PutRequest {
            key: "k".into(),
            ..Default::default()
        })
        .await;
    assert!(
        matches!(&refused, Err(ClientError::Refused { message, .. }) if message.contains("invalid user ID or password")),
        "{refused:?}"
    );
    let mut watcher = nobody.watch(WatchOptions::prefix("k"));
    let end = timeout(PATIENCE, watcher.next()).await.expect("it ends");
    assert!(matches!(end, Err(WatchError::Refused { .. })), "{end:?}");
    rig.stop().await;
}
