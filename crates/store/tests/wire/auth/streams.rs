//! Permissions that are taken away while an answer is on its way.

use super::*;

#[tokio::test]
async fn a_stream_of_keys_ends_when_users_or_roles_change() {
    let server = Server::start(fast).await;
    let (_, root, alice) = server.secured().await;
    // More than any client takes before it is asked to read.
    let value = "v".repeat(500 << 10);
    for n in 0..50 {
        let put = put(&format!("a/{n}"), &value);
        root.kv().put(root.request(put)).await.unwrap();
    }
    let mut client = alice.kv().max_decoding_message_size(64 << 20);
    let stream = client.range_stream(alice.request(get("a/", "a0"))).await;
    let mut stream = stream.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    let request = pb::AuthUserRevokeRoleRequest {
        name: "alice".into(),
        role: "team".into(),
    };
    root.auth().user_revoke_role(root.request(request)).await.unwrap();
    let mut seen = 1;
    let ended = loop {
        match stream.message().await {
            Ok(Some(_)) => seen += 1,
            Ok(None) => panic!("{seen} parts: all of it"),
            Err(status) => break Err::<(), _>(status),
        }
    };
    refused(ended, Code::InvalidArgument, OLD);
    server.stop().await;
}
