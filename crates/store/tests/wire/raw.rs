//! Bytes that no client would send, HTTP beside gRPC, limits.

use std::task::Poll;

use setpoint_store::etcd::Serves;

use super::*;

#[tokio::test]
async fn status_names_the_etcd_release_whose_api_this_is() {
    let server = Server::plain().await;
    let mut maintenance = MaintenanceClient::new(server.channel().await);
    let status = maintenance
        .status(pb::StatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(status.version, setpoint_store::etcd::ETCD_VERSION);
    assert_eq!(status.leader, status.header.unwrap().member_id);
    server.stop().await;
}

/// Sends bytes as the body of a call; the code and text that come back.
async fn raw(server: &Server, body: &[u8]) -> (String, String) {
    let socket = TcpStream::connect(server.addr).await.unwrap();
    let (mut client, connection) = h2::client::handshake(socket).await.unwrap();
    let tasks = TaskGroup::new(&Stop::new());
    tasks.spawn(connection);
    let request = Request::post("http://etcd/etcdserverpb.KV/Txn").header("content-type", "application/grpc");
    let (response, mut stream) = client.send_request(request.body(()).unwrap(), false).unwrap();
    stream.send_data(Bytes::copy_from_slice(body), true).unwrap();
    let response = response.await.unwrap();
    let mut headers = response.headers().clone();
    let mut body = response.into_body();
    while body.data().await.is_some() {}
    headers.extend(body.trailers().await.unwrap().unwrap_or_default());
    let text = |name: &str| {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
            .unwrap_or_default()
    };
    (text("grpc-status"), text("grpc-message"))
}

/// A transaction inside a transaction, and so on, as its bytes: built from the inside, as no encoder goes that deep.
fn nested(depth: usize) -> Vec<u8> {
    let mut message = Vec::new();
    for _ in 0..depth {
        // RequestOp.request_txn is field 4, TxnRequest.success field 2.
        for tag in [0x22, 0x12] {
            let mut outer = vec![tag];
            prost::encode_length_delimiter(message.len(), &mut outer).unwrap();
            outer.append(&mut message);
            message = outer;
        }
    }
    framed(&message)
}

pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    let mut out = vec![0];
    out.extend_from_slice(&(message.len() as u32).to_be_bytes());
    out.extend_from_slice(message);
    out
}

#[tokio::test]
async fn hostile_bytes_end_the_call_and_nothing_else() {
    let server = Server::start(|options| options.metrics = Some(setpoint_telemetry::Metrics::new())).await;
    let (ok, unimplemented, exhausted, internal, invalid) = ("0", "12", "8", "13", "3");
    for (what, body, code) in [
        ("an empty transaction", framed(b""), ok),
        ("no message", vec![], internal),
        ("half a frame header", vec![0, 0, 0], internal),
        ("less than the length says", vec![0, 0, 0, 0, 9, 1, 2], internal),
        ("a length of 4 GiB", vec![0, 255, 255, 255, 255], exhausted),
        ("a compressed message", vec![1, 0, 0, 0, 1, 0], unimplemented),
        ("no protobuf", framed(&[0xff; 40]), internal),
        (
            "a field longer than its message",
            framed(&[0x0a, 0xff, 0xff, 0xff, 0x7f]),
            internal,
        ),
        ("nesting within the budget", nested(20), ok),
        ("nesting without end", nested(3_000), invalid),
        ("a step of nothing", framed(&[0x12, 0]), invalid),
    ] {
        assert_eq!(raw(&server, &body).await.0, code, "{what}");
    }
    let (_, counted) = http(&server, "GET /metrics").await;
    for (code, calls) in [("Unimplemented", 1), ("ResourceExhausted", 1), ("Internal", 5)] {
        let handled = "grpc_server_handled_total{grpc_service=\"etcdserverpb.KV\",grpc_method=\"Txn\",grpc_type=\"unary\"";
        let line = format!("{handled},grpc_code=\"{code}\"}} {calls}");
        assert!(counted.contains(&line), "{line} in {counted}");
    }
    let mut kv = server.kv().await;
    assert_eq!(
        kv.put(put("still", "here"))
            .await
            .unwrap()
            .into_inner()
            .header
            .unwrap()
            .revision,
        2
    );
    server.stop().await;
}

/// One HTTP/1 request; status line and body.
pub(super) async fn http(server: &Server, request: &str) -> (String, String) {
    let mut socket = TcpStream::connect(server.addr).await.unwrap();
    let request = format!("{request} HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    socket.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

#[tokio::test]
async fn the_http_endpoints_answer_on_the_same_port() {
    let server = Server::start(|options| options.metrics = Some(setpoint_telemetry::Metrics::new())).await;
    server.kv().await.put(put("a", "1")).await.unwrap();
    for (request, status, body) in [
        ("GET /health", "200", r#"{"health":"true","reason":""}"#),
        ("GET /health?exclude=NOSPACE&serializable=true", "200", "true"),
        ("POST /health", "405", "Method Not Allowed\n"),
        ("GET /livez?exclude=serializable_read&verbose", "200", "ok\n"),
        ("GET /readyz?verbose&exclude=nope", "200", "[+]non_learner ok\n"),
        ("GET /readyz/", "404", "404 page not found\n"),
        ("GET /debug/pprof/", "404", "404 page not found\n"),
        (
            "GET /metrics",
            "200",
            "grpc_server_msg_sent_total{grpc_service=\"etcdserverpb.KV\",grpc_method=\"Put\",grpc_type=\"unary\"} 1",
        ),
        ("GET /metrics", "200", "etcd_server_has_leader 1\n"),
        ("GET /metrics", "200", "etcd_mvcc_put_total 1\n"),
        ("GET /metrics", "200", "etcd_server_proposals_failed_total 0\n"),
        (
            "GET /metrics",
            "200",
            "etcd_server_quota_backend_bytes 2147483648\n",
        ),
        ("GET /metrics", "200", "setpoint_store_quota_used_percent 0\n"),
        (
            "GET /metrics",
            "200",
            "etcd_server_client_requests_total{type=\"unary\",client_api_version=\"unknown\"} 1",
        ),
        ("GET /livez", "200", "ok\n"),
        ("GET /livez?verbose", "200", "[+]serializable_read ok\nok\n"),
        (
            "GET /readyz/linearizable_read?verbose",
            "200",
            "[+]linearizable_read ok\nok\n",
        ),
        ("GET /readyz/nope", "404", "404 page not found\n"),
        ("GET /version", "200", r#"{"etcdserver":"3."#),
        ("GET /debug/vars", "200", r#""raftState": "StateLeader""#),
        ("GET /debug/vars", "200", r#""cmdline": []"#),
        (
            "GET /metrics",
            "200",
            "grpc_server_handled_total{grpc_service=\"etcdserverpb.KV\",grpc_method=\"Put\",grpc_type=\"unary\",grpc_code=\"OK\"} 1",
        ),
        ("GET /", "404", "404 page not found\n"),
    ] {
        let (line, text) = http(&server, request).await;
        assert!(
            line.contains(status) && text.contains(body),
            "{request}: {line} {text}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn alarms_show_in_the_health_endpoints() {
    use setpoint_store::types::{Alarm, AlarmKind};
    let server = Server::plain().await;
    let alarm = |kind| Alarm {
        member: server.store.status().member_id,
        kind,
    };
    server.store.raise(alarm(AlarmKind::NoSpace)).await.unwrap();
    let (line, body) = http(&server, "GET /health").await;
    assert!(line.contains("503"), "{line}");
    assert_eq!(body, "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n");
    assert!(
        http(&server, "GET /health?exclude=NOSPACE")
            .await
            .0
            .contains("200")
    );
    assert!(http(&server, "GET /readyz").await.0.contains("200"));
    server.store.raise(alarm(AlarmKind::Corrupt)).await.unwrap();
    let (line, body) = http(&server, "GET /readyz/data_corruption").await;
    assert!(line.contains("503"), "{line}");
    assert_eq!(body, "[-]data_corruption failed: alarm activated: CORRUPT\n\n");
    server.stop().await;
}

/// Warnings of this thread.
#[derive(Clone, Default)]
struct Warnings(Arc<parking_lot::Mutex<Vec<String>>>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = String::new();
        event.record(
            &mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
                line.push_str(&format!("{field}={value:?} "));
            },
        );
        self.0.lock().push(line);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_but_for_those_that_look() {
    let clients = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let metrics = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, looks) = (clients.local_addr().unwrap(), metrics.local_addr().unwrap());
    let listeners = vec![
        Listener::tcp(clients),
        Listener::tcp(metrics).only(Serves::Metrics),
    ];
    let server = Server::start_on(addr, |options| options.connections_max = 1, listeners).await;
    let warned = Warnings::default();
    let _listening = tracing::subscriber::set_default(warned.clone());
    let mut first = server.kv().await;
    first.range(get("a", "")).await.unwrap();
    for _ in 0..3 {
        let mut more = TcpStream::connect(server.addr).await.unwrap();
        assert!(matches!(more.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    }
    let lines = warned.0.lock().clone();
    assert!(
        lines.len() == 1 && lines[0].contains("as many connections as may be") && lines[0].contains("max=1"),
        "{lines:?}"
    );
    // Who comes to look at what is wrong is let in.
    let mut third = TcpStream::connect(looks).await.unwrap();
    let request = b"GET /debug/flow?format=json HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n\r\n";
    third.write_all(request).await.unwrap();
    let mut answer = String::new();
    third.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.contains("200") && answer.contains("\"connections_total\":2"),
        "{answer}"
    );
    first.range(get("a", "")).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn answers_that_nobody_reads_take_bounded_room_and_small_reads_go_on() {
    let server = Server::start(|options| {
        options.outbound_bytes_max = 2 << 20;
        options.request_timeout = std::time::Duration::from_millis(500);
    })
    .await;
    let mut kv = server.kv().await;
    for n in 0..6 {
        let value = vec![7; 300_000];
        let request = pb::PutRequest {
            key: format!("k{n}").into(),
            value: value.into(),
            ..Default::default()
        };
        kv.put(request).await.unwrap();
    }
    kv.put(put("small", "1")).await.unwrap();
    let socket = TcpStream::connect(server.addr).await.unwrap();
    let (mut client, connection) = h2::client::handshake(socket).await.unwrap();
    let tasks = TaskGroup::new(&Stop::new());
    tasks.spawn(connection);
    let request =
        Request::post("http://etcd/etcdserverpb.KV/Range").header("content-type", "application/grpc");
    let (response, mut stream) = client.send_request(request.body(()).unwrap(), false).unwrap();
    let message = prost::Message::encode_to_vec(&get("k", "l"));
    stream.send_data(framed(&message).into(), true).unwrap();
    // The answer has begun, and its client reads no more of it.
    let response = response.await.unwrap();
    refused(
        kv.range(get("k", "l")).await,
        Code::Unavailable,
        "etcdserver: request timed out",
    );
    assert_eq!(kv.range(get("small", "")).await.unwrap().into_inner().count, 1);
    // All handles of the call: only then is it reset.
    // Nor do they stand in the way of a large value.
    assert_eq!(kv.range(get("k1", "")).await.unwrap().into_inner().count, 1);
    drop((response, stream, client));
    assert_eq!(kv.range(get("k", "l")).await.unwrap().into_inner().kvs.len(), 6);
    drop(tasks);
    server.stop().await;
}

#[tokio::test]
async fn how_long_calls_take_is_told_to_who_wants_it_and_to_nobody_else() {
    for times in [false, true] {
        let server = Server::start(|options| {
            options.metrics = Some(setpoint_telemetry::Metrics::new());
            options.call_times = times;
        })
        .await;
        let mut kv = server.kv().await;
        kv.put(put("a", "1")).await.unwrap();
        kv.range(get("a", "")).await.unwrap();
        kv.put(put("", "1")).await.unwrap_err();
        let (_, page) = http(&server, "GET /metrics").await;
        for (method, calls) in [("Put", 2), ("Range", 1), ("Txn", 0)] {
            let count = format!(
                "grpc_server_handling_seconds_count{{grpc_service=\"etcdserverpb.KV\",grpc_method=\"{method}\",\
                 grpc_type=\"unary\"}} {calls}\n"
            );
            assert_eq!(page.contains(&count), times, "{count}{page}");
        }
        assert_eq!(page.contains("handling_seconds"), times);
        server.stop().await;
    }
}

/// Whether the rest of a request is taken that has been answered before it was sent.
async fn takes_the_rest(server: &Server) -> bool {
    let socket = TcpStream::connect(server.addr).await.unwrap();
    let (mut client, connection) = h2::client::handshake(socket).await.unwrap();
    let tasks = TaskGroup::new(&Stop::new());
    tasks.spawn(connection);
    let request = Request::post("http://etcd/v3/nowhere").body(()).unwrap();
    let (response, mut stream) = client.send_request(request, false).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 404);
    let mut body = response.into_body();
    while body.data().await.is_some() {}
    let sent = stream.send_data(Bytes::from_static(b"{}"), true).is_ok();
    // What was said before this is known when it has its answer.
    let again = Request::get("http://etcd/health").body(()).unwrap();
    client.send_request(again, true).unwrap().0.await.unwrap();
    let reset = std::future::poll_fn(|cx| Poll::Ready(stream.poll_reset(cx))).await;
    sent && reset.is_pending()
}

/// Curl 7.88 forgets an answer that comes together with RST_STREAM.
#[tokio::test]
async fn a_request_that_is_answered_unread_is_not_reset_at_once() {
    let server = Server::plain().await;
    // On a busy machine the client may be later than the server waits.
    for _ in 0..20 {
        if takes_the_rest(&server).await {
            return server.stop().await;
        }
    }
    panic!("every request was reset");
}
