//! The JSON gateway over WebSockets.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

use super::*;

struct Socket(WebSocketStream<TcpStream>);

/// Asks for a WebSocket; what the server says to that, and the connection.
async fn ask(server: &Server, path: &str, headers: &str) -> (String, TcpStream) {
    let mut socket = TcpStream::connect(server.addr).await.unwrap();
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: etcd\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{headers}\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(socket.read_u8().await.unwrap());
    }
    (String::from_utf8(answer).unwrap().to_ascii_lowercase(), socket)
}

const KEY: &str = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

impl Socket {
    async fn open(server: &Server, path: &str, protocol: &str) -> Self {
        let (answer, socket) = ask(server, path, &format!("{KEY}{protocol}")).await;
        assert!(answer.starts_with("http/1.1 101 "), "{answer}");
        assert!(
            answer.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
            "{answer}"
        );
        assert_eq!(
            answer.contains("sec-websocket-protocol: bearer\r\n"),
            !protocol.is_empty()
        );
        Self(WebSocketStream::from_raw_socket(socket, Role::Client, None).await)
    }

    async fn say(&mut self, json: Value) {
        self.0.send(Message::text(json.to_string())).await.unwrap();
    }

    async fn hear(&mut self) -> Value {
        match self.next().await {
            Message::Text(text) => serde_json::from_str(&text).unwrap(),
            other => panic!("no text: {other:?}"),
        }
    }

    async fn next(&mut self) -> Message {
        let next = tokio::time::timeout(Duration::from_secs(20), self.0.next()).await;
        next.expect("something is said").unwrap().unwrap()
    }

    /// The code with which the server ends it.
    async fn code(&mut self) -> CloseCode {
        match self.next().await {
            Message::Close(Some(frame)) => frame.code,
            other => panic!("no end: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_watch_takes_messages_and_answers_with_messages_until_its_client_closes() {
    let server = Server::plain().await;
    let mut kv = server.kv().await;
    let mut watch = Socket::open(&server, "/v3/watch", "").await;
    watch.say(json!({"create_request": {"key": "Zm9v"}})).await;
    assert_eq!(watch.hear().await["result"]["created"], true);
    for n in 1..4 {
        kv.put(put("foo", "bar")).await.unwrap();
        let event = watch.hear().await;
        assert_eq!(event["result"]["events"][0]["kv"]["version"], n.to_string());
    }
    // Two requests in one message, and one in two.
    let second = json!({"create_request": {"key": "YQ==", "watch_id": "7"}}).to_string();
    let (first, rest) = second.split_at(18);
    watch
        .0
        .send(Message::text(format!("{{\"progress_request\":{{}}}}{first}")))
        .await
        .unwrap();
    assert_eq!(watch.hear().await["result"]["watch_id"], "-1");
    watch
        .0
        .send(Message::binary(rest.as_bytes().to_vec()))
        .await
        .unwrap();
    assert_eq!(watch.hear().await["result"]["watch_id"], "7");
    // A ping is answered though nothing is said to the call.
    watch.0.send(Message::Ping("there?".into())).await.unwrap();
    assert_eq!(watch.next().await, Message::Pong("there?".into()));
    watch.0.close(None).await.unwrap();
    assert!(matches!(watch.next().await, Message::Close(_)));
    assert!(watch.0.next().await.is_none_or(|end| end.is_err()));
    server.stop().await;
}

#[tokio::test]
async fn leases_are_kept_alive_and_calls_of_one_answer_are_served_and_ended() {
    let server = Server::plain().await;
    let mut put = Socket::open(&server, "/v3/kv/put", "").await;
    put.say(json!({"key": "Zm9v", "value": "YmFy"})).await;
    assert_eq!(put.hear().await["header"]["revision"], "2");
    assert_eq!(put.code().await, CloseCode::Normal);
    server
        .store
        .lease_grant(Some(setpoint_store::types::LeaseId(7)), 60)
        .await
        .unwrap();
    let mut keep = Socket::open(&server, "/v3/lease/keepalive", "").await;
    for _ in 0..3 {
        keep.say(json!({"ID": 7})).await;
        assert_eq!(keep.hear().await["result"]["TTL"], "60");
    }
    // There is no HTTP status left: an error is a message.
    let mut broken = Socket::open(&server, "/v3/kv/put", "").await;
    broken.say(json!({})).await;
    assert_eq!(broken.hear().await["message"], "etcdserver: key is not provided");
    assert_eq!(broken.code().await, CloseCode::Normal);
    let mut nowhere = Socket::open(&server, "/v3/nope", "").await;
    assert_eq!(nowhere.hear().await["code"], 5);
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_gives_its_place_in_line_for_a_lock_up() {
    let server = Server::plain().await;
    let mut holder = Socket::open(&server, "/v3/lock/lock", "").await;
    holder.say(json!({"name": "bA=="})).await;
    assert!(holder.hear().await["key"].is_string());
    let mut waits = Socket::open(&server, "/v3/lock/lock", "").await;
    waits.say(json!({"name": "bA=="})).await;
    // More than the call takes.
    for _ in 0..3 {
        waits.say(json!({})).await;
    }
    server.has_keys(b"l/", 2).await;
    drop(waits);
    server.has_keys(b"l/", 1).await;
    server.stop().await;
}

#[tokio::test]
async fn a_token_comes_as_a_subprotocol() {
    let server = Server::start(|options| options.auth.bcrypt_cost = 4).await;
    let mut auth = pb::auth_client::AuthClient::new(server.channel().await);
    let user = pb::AuthUserAddRequest {
        name: "root".into(),
        password: "pw".into(),
        ..Default::default()
    };
    auth.user_add(user).await.unwrap();
    let role = pb::AuthUserGrantRoleRequest {
        user: "root".into(),
        role: "root".into(),
    };
    auth.user_grant_role(role).await.unwrap();
    auth.auth_enable(pb::AuthEnableRequest {}).await.unwrap();
    let login = pb::AuthenticateRequest {
        name: "root".into(),
        password: "pw".into(),
    };
    let token = auth.authenticate(login).await.unwrap().into_inner().token;
    for (protocol, reason) in [
        (format!("Sec-WebSocket-Protocol: Bearer, {token}\r\n"), None),
        (
            "Sec-WebSocket-Protocol: Bearer, wrong\r\n".to_owned(),
            Some("etcdserver: invalid auth token"),
        ),
        (String::new(), Some("etcdserver: user name is empty")),
    ] {
        let mut range = Socket::open(&server, "/v3/kv/range", &protocol).await;
        range.say(json!({"key": "Zm9v"})).await;
        let answer = range.hear().await;
        assert_eq!(
            answer.get("message"),
            reason.map(Value::from).as_ref(),
            "{protocol}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_no_websocket_is_refused_and_what_it_may_not_say_ends_it() {
    let server = Server::start(|options| options.request_bytes_max = 4 << 10).await;
    for (headers, code) in [
        (
            "Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            "426",
        ),
        ("Sec-WebSocket-Version: 13\r\n", "400"),
        ("Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n", "400"),
    ] {
        let (answer, _) = ask(&server, "/v3/watch", headers).await;
        assert!(answer.starts_with(&format!("http/1.1 {code} ")), "{answer}");
    }
    // Elsewhere the headers mean nothing.
    let (answer, _) = ask(&server, "/version", KEY).await;
    assert!(answer.starts_with("http/1.1 200 "), "{answer}");
    let mut large = Socket::open(&server, "/v3/kv/put", "").await;
    let _ = large.0.send(Message::text("x".repeat(8 << 20))).await;
    assert_eq!(large.code().await, CloseCode::Size);
    let mut text = Socket::open(&server, "/v3/kv/put", "").await;
    // A text that is no UTF-8, masked with zeros.
    text.0
        .get_mut()
        .write_all(&[0x81, 0x81, 0, 0, 0, 0, 0xff])
        .await
        .unwrap();
    assert_eq!(text.code().await, CloseCode::Invalid);
    // The rest is served on.
    server.kv().await.put(put("k", "v")).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn more_websockets_than_there_may_be_are_refused_and_the_end_of_the_server_is_said() {
    let server = Server::plain().await;
    let mut open = Vec::new();
    for _ in 0..256 {
        open.push(Socket::open(&server, "/v3/watch", "").await);
    }
    let (answer, _) = ask(&server, "/v3/watch", KEY).await;
    assert!(answer.starts_with("http/1.1 503 "), "{answer}");
    let mut last = open.pop().unwrap();
    last.say(json!({"create_request": {"key": "Zm9v"}})).await;
    assert_eq!(last.hear().await["result"]["created"], true);
    drop(open);
    let stopping = server.stop();
    let told = async {
        assert_eq!(
            last.hear().await["error"]["message"],
            "etcdserver: server stopped"
        );
        assert_eq!(last.code().await, CloseCode::Away);
    };
    tokio::join!(stopping, told);
}
