//! The JSON gateway: calls without gRPC, over both protocols.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;

/// One POST; status code and body.
pub(super) async fn post(server: &Server, path: &str, body: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(server.addr).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    // A body that is refused halfway is not read to its end.
    let _ = socket.write_all(body.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, body.to_owned())
}

async fn call(server: &Server, path: &str, body: Value) -> Value {
    let (code, text) = post(server, path, &body.to_string()).await;
    assert_eq!(code, 200, "{path}: {text}");
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn calls_are_made_with_json_and_answered_with_json() {
    let server = Server::plain().await;
    let put = call(&server, "/v3/kv/put", json!({"key": "Zm9v", "value": "YmFy"})).await;
    assert_eq!(put["header"]["revision"], "2");
    let range = call(&server, "/v3/kv/range", json!({"key": "Zm9v"})).await;
    assert_eq!(
        range["kvs"],
        json!([{"key": "Zm9v", "create_revision": "2", "mod_revision": "2", "version": "1", "value": "YmFy"}])
    );
    assert_eq!(range["count"], "1");
    assert_eq!(range.get("more"), None, "what is empty is left out");
    let txn = json!({
        "compare": [{"target": "VERSION", "key": "Zm9v", "version": "1", "result": "EQUAL"}],
        "success": [{"requestPut": {"key": "Zm9v", "value": "YmF6"}}, {"request_range": {"key": "Zm9v"}}],
    });
    let txn = call(&server, "/v3/kv/txn", txn).await;
    assert_eq!(txn["succeeded"], true);
    assert_eq!(txn["responses"][1]["response_range"]["kvs"][0]["value"], "YmF6");
    // Lease paths have two names.
    let granted = call(&server, "/v3/lease/grant", json!({"TTL": "60", "ID": 7})).await;
    assert_eq!((&granted["ID"], &granted["TTL"]), (&json!("7"), &json!("60")));
    let left = call(&server, "/v3/kv/lease/timetolive", json!({"ID": 7})).await;
    assert_eq!(left["grantedTTL"], "60");
    call(&server, "/v3beta/kv/lease/revoke", json!({"ID": "7"})).await;
    server.stop().await;
}

#[tokio::test]
async fn errors_have_etcds_code_text_and_http_status() {
    let server = Server::plain().await;
    for (path, body, status, expect) in [
        (
            "/v3/kv/range",
            "",
            400,
            r#"{"code":3,"message":"etcdserver: key is not provided"}"#,
        ),
        (
            "/v3/kv/range",
            "{}",
            400,
            r#"{"code":3,"message":"etcdserver: key is not provided"}"#,
        ),
        (
            "/v3/lease/revoke",
            r#"{"ID":77}"#,
            404,
            r#"{"code":5,"message":"etcdserver: requested lease not found"}"#,
        ),
        (
            "/v3/kv/range",
            r#"{"key":"Zm9v","revision":"9"}"#,
            400,
            r#"{"code":11,"message":"etcdserver: mvcc: required revision is a future revision"}"#,
        ),
        (
            "/v3/kv/range",
            r#"{"key":"#,
            400,
            r#"{"code":3,"message":"unexpected EOF"}"#,
        ),
        (
            "/v3/kv/range",
            "[]",
            400,
            r#"{"code":3,"message":"proto: syntax error (line 1:1): unexpected token ["}"#,
        ),
        (
            "/v3/kv/range",
            "null",
            400,
            r#"{"code":3,"message":"proto: syntax error (line 1:1): unexpected token null"}"#,
        ),
        (
            "/v3/kv/range",
            r#"{"key":"Zm9v","key":"Zm9v"}"#,
            400,
            r#"{"code":3,"message":"proto: (line 1:15): duplicate field \"key\""}"#,
        ),
        (
            "/v3/kv/range",
            r#"{"key":"Zm9v",}"#,
            400,
            r#"{"code":3,"message":"invalid character '}' looking for beginning of object key string"}"#,
        ),
        ("/v3/nope", "{}", 404, r#"{"code":5,"message":"Not Found"}"#),
    ] {
        assert_eq!(
            post(&server, path, body).await,
            (status, expect.to_owned()),
            "{path} {body}"
        );
    }
    server.stop().await;
}

/// Reads lines of a chunked answer as they come.
struct Lines {
    socket: TcpStream,
    seen: String,
}

impl Lines {
    async fn open(server: &Server, path: &str, body: &str) -> Self {
        let mut socket = TcpStream::connect(server.addr).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: etcd\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        socket.write_all(body.as_bytes()).await.unwrap();
        let seen = String::new();
        Self { socket, seen }
    }

    async fn next(&mut self) -> Value {
        loop {
            let line = self
                .seen
                .split_once('\n')
                .map(|(line, rest)| (line.to_owned(), rest.to_owned()));
            if let Some((line, rest)) = line {
                self.seen = rest;
                // Headers and chunk sizes are lines too.
                if line.starts_with('{') {
                    return serde_json::from_str(&line).unwrap();
                }
                continue;
            }
            let mut bytes = [0; 4096];
            let read = tokio::time::timeout(Duration::from_secs(10), self.socket.read(&mut bytes));
            let n = read.await.expect("a line comes").unwrap();
            assert_ne!(n, 0, "the answer ended");
            self.seen.push_str(std::str::from_utf8(&bytes[..n]).unwrap());
        }
    }
}

#[tokio::test]
async fn a_watch_is_a_line_for_each_message_and_ends_with_its_client() {
    let server = Server::start(|options| options.metrics = Some(setpoint_telemetry::Metrics::new())).await;
    let body = r#"{"create_request":{"key":"YQ=="}} {"create_request":{"key":"Yg=="}}"#;
    let mut lines = Lines::open(&server, "/v3/watch", body).await;
    assert_eq!(lines.next().await["result"]["created"], true);
    assert_eq!(lines.next().await["result"]["watch_id"], "1");
    server.kv().await.put(put("b", "1")).await.unwrap();
    let event = lines.next().await;
    assert_eq!(event["result"]["watch_id"], "1");
    assert_eq!(event["result"]["events"][0]["kv"]["value"], "MQ==");
    drop(lines);
    // The stream is gone with its client.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        let (_, text) = raw::http(&server, "GET /metrics").await;
        if text.contains("etcd_front_watch_streams 0") {
            break;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "the watch outlives its client"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_stop_ends_a_watch_with_an_error_line() {
    let server = Server::plain().await;
    let mut lines = Lines::open(&server, "/v3/watch", r#"{"create_request":{"key":"YQ=="}}"#).await;
    assert_eq!(lines.next().await["result"]["created"], true);
    let stopping = server.tasks.stop().clone();
    stopping.cancel();
    assert_eq!(
        lines.next().await,
        json!({"error": {"code": 14, "message": "etcdserver: server stopped"}})
    );
    server.stop().await;
}

#[tokio::test]
async fn keepalives_of_a_body_are_answered_in_order_and_then_the_answer_ends() {
    let server = Server::plain().await;
    call(&server, "/v3/lease/grant", json!({"TTL": 60, "ID": 7})).await;
    let (code, text) = post(&server, "/v3/lease/keepalive", "{\"ID\":7}{\"ID\":8}\n nope").await;
    assert_eq!(code, 200);
    let lines: Vec<Value> = text
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert_eq!(lines[0]["result"]["TTL"], "60");
    assert_eq!(
        (&lines[1]["result"]["ID"], lines[1]["result"].get("TTL")),
        (&json!("8"), None)
    );
    server.stop().await;
}

#[tokio::test]
async fn the_gateway_answers_over_http2_as_well() {
    let server = Server::plain().await;
    let socket = TcpStream::connect(server.addr).await.unwrap();
    let (client, connection) = h2::client::handshake(socket).await.unwrap();
    let tasks = TaskGroup::new(&Stop::new());
    tasks.spawn(connection);
    let post = async |path: &str, body: &str| {
        let request = Request::post(format!("http://etcd{path}")).body(()).unwrap();
        let (response, mut stream) = client.clone().send_request(request, false).unwrap();
        stream
            .send_data(Bytes::copy_from_slice(body.as_bytes()), true)
            .unwrap();
        let response = response.await.unwrap();
        let (code, mut body, mut text) = (response.status(), response.into_body(), Vec::new());
        while let Some(chunk) = body.data().await {
            text.extend_from_slice(&chunk.unwrap());
        }
        (code.as_u16(), String::from_utf8(text).unwrap())
    };
    assert_eq!(
        post("/v3/kv/put", r#"{"key":"YQ==","value":"MQ=="}"#).await.0,
        200
    );
    let (code, text) = post("/v3/lease/keepalive", r#"{"ID":9}"#).await;
    assert!(code == 200 && text.ends_with("\"ID\":\"9\"}}\n"), "{text}");
    assert_eq!(post("/v3/nope", "{}").await.0, 404);
    drop(client);
    drop(tasks);
    server.stop().await;
}

#[tokio::test]
async fn bodies_that_are_too_large_or_too_many_parts_are_refused() {
    let server = Server::plain().await;
    let large = json!({"key": "YQ==", "value": "QUFB".repeat(600_000)}).to_string();
    let (code, text) = post(&server, "/v3/kv/put", &large).await;
    assert_eq!(code, 400, "{text}");
    assert!(text.contains("etcdserver: request is too large"), "{text}");
    let larger = json!({"key": "YQ==", "value": "QUFB".repeat(2_000_000)}).to_string();
    let (code, text) = post(&server, "/v3/kv/put", &larger).await;
    assert!(code == 429 && text.contains("larger than max"), "{code} {text}");
    let parts = format!(r#"{{"success":[{}{{}}]}}"#, "{},".repeat(200_000));
    let (code, text) = post(&server, "/v3/kv/txn", &parts).await;
    assert!(
        code == 400 && text.contains("parts in a request"),
        "{code} {text}"
    );
    call(&server, "/v3/kv/put", json!({"key": "YQ==", "value": "MQ=="})).await;
    server.stop().await;
}

async fn revision(server: &Server) -> i64 {
    let answer = call(server, "/v3/kv/range", json!({"key": "YQ=="})).await;
    let revision = answer["header"]["revision"].as_str();
    revision.unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_transaction_is_refused_as_too_deep_before_it_is_done_or_has_its_answer() {
    let server = Server::plain().await;
    let nested = |levels: usize, inner: &str| {
        let (open, close) = (
            r#"{"success":[{"request_txn":"#.repeat(levels),
            "}]}".repeat(levels),
        );
        format!("{open}{inner}{close}")
    };
    let put = r#"{"success":[{"request_put":{"key":"YQ==","value":"MQ=="}}]}"#;
    let (mut done, mut refused) = (0, 0);
    for levels in 40..130 {
        for inner in ["{}", put] {
            let before = revision(&server).await;
            let (code, text) = post(&server, "/v3/kv/txn", &nested(levels, inner)).await;
            let written = revision(&server).await - before;
            if code == 200 {
                done += 1;
                assert_eq!(written, i64::from(inner == put), "{levels}");
            } else {
                refused += 1;
                let expect = r#"{"code":3,"message":"proto: exceeded max recursion depth"}"#;
                assert_eq!((code, text.as_str(), written), (400, expect, 0), "{levels}");
            }
        }
    }
    assert_eq!((done, refused), (10 + 9, 80 + 81));
    server.stop().await;
}

/// Sends all of a request before it looks for the answer, as Python's client does, and asks again on the same connection.
async fn both_answered(server: &Server, path: &str, code: u16) -> std::io::Result<bool> {
    let body = vec![b' '; 5_000_000];
    let mut socket = TcpStream::connect(server.addr).await?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: etcd\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).await?;
    socket.write_all(&body).await?;
    let again = b"GET /version HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n\r\n";
    socket.write_all(again).await?;
    let mut answers = String::new();
    socket.read_to_string(&mut answers).await?;
    Ok(answers.starts_with(&format!("HTTP/1.1 {code} ")) && answers.contains("HTTP/1.1 200 OK"))
}

#[tokio::test]
async fn who_sends_all_of_a_request_that_is_refused_unread_has_the_answer() {
    let server = Server::plain().await;
    for (path, code) in [("/v3/kv/put", 429), ("/v3/nope", 404), ("/nope", 404)] {
        let mut answered = false;
        // On a busy machine the client may be later than the server waits.
        for _ in 0..20 {
            answered = answered || both_answered(&server, path, code).await.unwrap_or(false);
        }
        assert!(answered, "{path}");
    }
    // Who asks first whether to send it is told not to.
    let mut socket = TcpStream::connect(server.addr).await.unwrap();
    let head = "POST /v3/nope HTTP/1.1\r\nHost: etcd\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 404");
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_never_ends_is_cut_by_the_request_timeout() {
    let server = Server::start(|options| options.request_timeout = Duration::from_millis(200)).await;
    for (header, expect) in [
        ("", ("503", "etcdserver: request timed out")),
        ("Grpc-Timeout: 50m\r\n", ("504", "context deadline exceeded")),
        ("Grpc-Timeout: 5\r\n", ("400", "invalid grpc-timeout: 5")),
    ] {
        let mut socket = TcpStream::connect(server.addr).await.unwrap();
        let head = format!(
            "POST /v3/kv/put HTTP/1.1\r\nHost: etcd\r\n{header}Content-Length: 100\r\n\r\n{{\"key\":"
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(10), socket.read_to_end(&mut answer));
        read.await.expect("it is answered and closed").unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.contains(expect.0) && answer.contains(expect.1), "{answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn every_answer_allows_every_origin_and_options_is_always_answered() {
    let server = Server::plain().await;
    for request in [
        "OPTIONS /v3/kv/range",
        "OPTIONS /nope",
        "GET /health",
        "GET /v3/kv/range",
        "HEAD /health",
    ] {
        let mut socket = TcpStream::connect(server.addr).await.unwrap();
        let request = format!("{request} HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("access-control-allow-origin: *"), "{answer}");
        let expected = match request.split(' ').next().unwrap() {
            "OPTIONS" => ("200", true),
            "HEAD" => ("405", true),
            _ if request.contains("/v3/") => ("501", false),
            _ => ("200", false),
        };
        assert!(answer.contains(expected.0), "{answer}");
        assert_eq!(answer.ends_with("\r\n\r\n"), expected.1, "{answer}");
    }
    server.stop().await;
}
