//! Clients that mean harm: each is bounded or cut, and others go on.

use std::time::Duration;

use setpoint_testkit::frames::{
    self, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame,
    hello,
};

use super::raw::framed;
use super::*;

pub(super) const RANGE: &str = "/etcdserverpb.KV/Range";
const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// The head of a gRPC request.
fn head(path: &str) -> Vec<u8> {
    let mut block = frames::head(path);
    frames::header(&mut block, "content-type", "application/grpc");
    block
}

pub(super) fn call(stream: u32, path: &str, message: &[u8]) -> Vec<u8> {
    let mut bytes = frame(HEADERS, END_HEADERS, stream, &head(path));
    bytes.extend(frame(DATA, END_STREAM, stream, &framed(message)));
    bytes
}

fn range_of(key: &str) -> Vec<u8> {
    prost::Message::encode_to_vec(&get(key, ""))
}

pub(super) async fn connect(server: &Server, window: u32) -> TcpStream {
    let mut socket = TcpStream::connect(server.addr).await.unwrap();
    socket.write_all(&hello(window)).await.unwrap();
    socket
}

/// Writes as much as the server takes; whether it took all.
async fn pour(socket: &mut TcpStream, bytes: &[u8], patience: Duration) -> bool {
    matches!(
        tokio::time::timeout(patience, socket.write_all(bytes)).await,
        Ok(Ok(()))
    )
}

/// Reads until the server closes; what it said.
async fn closed(socket: &mut TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), socket.read_to_end(&mut said));
    let _ = read.await.expect("the connection is cut");
    said
}

/// Kinds and payloads of the frames in what a server said.
pub(super) fn frames(mut said: &[u8]) -> Vec<(u8, u32, Vec<u8>)> {
    let mut frames = Vec::new();
    while let [a, b, c, kind, _, s0, s1, s2, s3, rest @ ..] = said {
        let len = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let stream = u32::from_be_bytes([*s0, *s1, *s2, *s3]);
        let Some((payload, rest)) = rest.split_at_checked(len) else {
            break;
        };
        frames.push((*kind, stream, payload.to_vec()));
        said = rest;
    }
    frames
}

/// Set in the process of one test alone.
const ALONE: &str = "SETPOINT_TEST_ALONE";

/// Whether this process runs that test and nothing else, so that its memory is the test's. Otherwise runs it in such a process.
#[track_caller]
fn is_alone(test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let name = format!("{}::{test}", module_path!().split_once("::").unwrap().1);
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    let child = child.args([&name, "--exact", "--nocapture"]).env(ALONE, "1");
    let output = child.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{name}, alone: {said}{failed}"
    );
    false
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

#[track_caller]
fn grew_at_most(before: usize, mib: usize) {
    let grown = resident().saturating_sub(before) >> 20;
    assert!(grown <= mib, "{grown} MiB more, {mib} are fine");
}

async fn others_are_served(server: &Server) {
    let put = async { server.kv().await.put(put("other", "1")).await };
    // Far more than it takes: a debug build on a busy machine.
    let put = tokio::time::timeout(Duration::from_secs(20), put).await;
    put.expect("others are not kept waiting").unwrap();
}

async fn with_value(bytes: usize, change: impl FnOnce(&mut FrontOptions)) -> Server {
    let server = Server::start(change).await;
    let request = pb::PutRequest {
        key: "large".into(),
        value: vec![7; bytes].into(),
        ..Default::default()
    };
    server.kv().await.put(request).await.unwrap();
    server
}

#[tokio::test]
async fn greetings_that_never_end_are_cut() {
    let server = Server::start(|options| options.hello_timeout = Duration::from_millis(200)).await;
    for start in [
        &b""[..],
        b"PRI * HTTP/2.0\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00",
    ] {
        let mut socket = TcpStream::connect(server.addr).await.unwrap();
        socket.write_all(start).await.unwrap();
        others_are_served(&server).await;
        if !start.ends_with(b"\0\0") {
            closed(&mut socket).await;
        }
    }
    server.stop().await;
}

/// A client that can read what it is told.
pub(super) async fn dial(server: &Server) -> (h2::client::SendRequest<Bytes>, TaskGroup) {
    let socket = TcpStream::connect(server.addr).await.unwrap();
    let (client, connection) = h2::client::handshake(socket).await.unwrap();
    let tasks = TaskGroup::new(&Stop::new());
    tasks.spawn(connection);
    (client.ready().await.unwrap(), tasks)
}

pub(super) fn request(path: &str) -> http::request::Builder {
    Request::post(format!("http://etcd{path}")).header("content-type", "application/grpc")
}

/// The code and text a call ends with.
pub(super) async fn ended(response: h2::client::ResponseFuture) -> (String, String) {
    let response = tokio::time::timeout(Duration::from_secs(10), response);
    let response = response.await.expect("an answer").unwrap();
    let mut headers = response.headers().clone();
    let mut body = response.into_body();
    while let Some(chunk) = body.data().await {
        let _ = body.flow_control().release_capacity(chunk.unwrap().len());
    }
    headers.extend(body.trailers().await.unwrap().unwrap_or_default());
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    (
        text("grpc-status").unwrap_or_default(),
        text("grpc-message").unwrap_or_default().replace("%20", " "),
    )
}

#[tokio::test]
async fn a_request_that_trickles_in_is_answered_when_its_time_is_over() {
    let server = Server::start(|options| options.request_timeout = Duration::from_millis(300)).await;
    for path in [RANGE, WATCH] {
        let (mut client, _tasks) = dial(&server).await;
        let (response, mut stream) = client
            .send_request(request(path).body(()).unwrap(), false)
            .unwrap();
        // A byte of an announced hundred every 20 ms.
        let trickle = async {
            for byte in [0, 0, 0, 0, 100].into_iter().chain([0; 95]) {
                let _ = stream.send_data(vec![byte].into(), false);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            "all of it was waited for"
        };
        tokio::select! {
            late = trickle => panic!("{path}: {late}"),
            ended = ended(response) => {
                assert_eq!(ended, ("14".to_owned(), "etcdserver: request timed out".to_owned()), "{path}");
            }
        }
        others_are_served(&server).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn half_messages_are_counted_by_what_arrived_and_refused_beyond_the_budget() {
    if !is_alone("half_messages_are_counted_by_what_arrived_and_refused_beyond_the_budget") {
        return;
    }
    let server = Server::start(|options| {
        options.inbound_bytes_max = 4 << 20;
        options.request_timeout = Duration::from_secs(5);
    })
    .await;
    let before = resident();
    let half = async |client: &mut h2::client::SendRequest<Bytes>, bytes: Vec<u8>| {
        let (response, mut stream) = client
            .send_request(request(RANGE).body(()).unwrap(), false)
            .unwrap();
        stream.send_data(bytes.into(), false).unwrap();
        (response, stream)
    };
    // Announcing costs nothing: 500 times 2 MB do not fill a budget of 4 MB.
    let (mut announces, _tasks) = dial(&server).await;
    let mut waiting = Vec::new();
    for _ in 0..500 {
        waiting.push(half(&mut announces, vec![0, 0, 31, 0, 0, 1]).await);
    }
    others_are_served(&server).await;
    let large = pb::PutRequest {
        key: "k".into(),
        value: vec![1; 1 << 20].into(),
        ..Default::default()
    };
    server.kv().await.put(large).await.unwrap();
    // Sending does: 500 times 30 KB.
    let (mut sends, _tasks) = dial(&server).await;
    for _ in 0..500 {
        let mut bytes = framed(&[0; 60_000]);
        bytes.truncate(30_000);
        waiting.push(half(&mut sends, bytes).await);
    }
    let (last, _stream) = waiting.pop().unwrap();
    assert_eq!(
        ended(last).await,
        ("2".to_owned(), "etcdserver: too many requests".to_owned())
    );
    others_are_served(&server).await;
    grew_at_most(before, 64);
    drop(waiting);
    server.stop().await;
}

#[tokio::test]
async fn a_flood_of_resets_ends_its_connection() {
    if !is_alone("a_flood_of_resets_ends_its_connection") {
        return;
    }
    let server = Server::plain().await;
    let before = resident();
    let mut socket = connect(&server, 65_535).await;
    let mut cut = false;
    'flood: for batch in 0..200_u32 {
        let mut bytes = Vec::new();
        for n in 0..100 {
            let stream = 2 * (100 * batch + n) + 1;
            bytes.extend(call(
                stream,
                RANGE,
                &prost::Message::encode_to_vec(&get("\0", "\0")),
            ));
            bytes.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        }
        if !pour(&mut socket, &bytes, Duration::from_secs(2)).await {
            cut = true;
            break 'flood;
        }
    }
    others_are_served(&server).await;
    if !cut {
        let said = closed(&mut socket).await;
        let goaway = frames(&said).into_iter().find(|(kind, ..)| *kind == GOAWAY);
        // ENHANCE_YOUR_CALM
        assert_eq!(goaway.unwrap().2[4..8], [0, 0, 0, 11]);
    }
    grew_at_most(before, 64);
    server.stop().await;
}

#[tokio::test]
async fn floods_of_pings_and_settings_that_nobody_reads_are_stopped_and_cut() {
    if !is_alone("floods_of_pings_and_settings_that_nobody_reads_are_stopped_and_cut") {
        return;
    }
    let server = Server::start(|options| options.stall_timeout = Duration::from_millis(500)).await;
    let before = resident();
    for flood in [
        frame(PING, 0, 0, &[0; 8]),
        frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]),
    ] {
        let flood = flood.repeat(10_000);
        let mut socket = connect(&server, 65_535).await;
        let mut poured = 0;
        // 64 MB, if they were taken.
        while poured < 400 && pour(&mut socket, &flood, Duration::from_secs(1)).await {
            poured += 1;
        }
        assert!(poured < 400, "the server answers without end");
        others_are_served(&server).await;
    }
    grew_at_most(before, 64);
    server.stop().await;
}

#[tokio::test]
async fn answers_into_closed_windows_take_bounded_room() {
    if !is_alone("answers_into_closed_windows_take_bounded_room") {
        return;
    }
    let server = with_value(10_000, |options| options.outbound_bytes_max = 2 << 20).await;
    let before = resident();
    let mut socket = connect(&server, 0).await;
    // 200 MB, if all were kept.
    let mut said = Vec::new();
    for n in 0..20_000 {
        let bytes = call(2 * n + 1, RANGE, &range_of("large"));
        assert!(pour(&mut socket, &bytes, Duration::from_secs(5)).await);
        let mut chunk = [0; 64 << 10];
        if let Ok(n) = socket.try_read(&mut chunk) {
            said.extend_from_slice(&chunk[..n]);
        }
    }
    others_are_served(&server).await;
    grew_at_most(before, 64);
    // Those without room are reset.
    let reset = |said: &[u8]| {
        frames(said)
            .iter()
            .filter(|(kind, ..)| *kind == RST_STREAM)
            .count()
    };
    while reset(&said) < 10_000 {
        let mut chunk = [0; 64 << 10];
        let read = tokio::time::timeout(Duration::from_secs(10), socket.read(&mut chunk)).await;
        let n = read.expect("more resets").unwrap();
        assert_ne!(n, 0);
        said.extend_from_slice(&chunk[..n]);
    }
    drop(socket);
    server.stop().await;
}

#[tokio::test]
async fn a_client_with_huge_windows_that_never_reads_is_slowed_and_cut() {
    if !is_alone("a_client_with_huge_windows_that_never_reads_is_slowed_and_cut") {
        return;
    }
    // Below the size from which values are shared instead of copied.
    let server = with_value(15_000, |options| options.stall_timeout = Duration::from_secs(4)).await;
    let before = resident();
    let mut socket = connect(&server, i32::MAX as u32).await;
    let widen = (i32::MAX as u32 - 65_535).to_be_bytes();
    socket
        .write_all(&frame(WINDOW_UPDATE, 0, 0, &widen))
        .await
        .unwrap();
    // 450 MB, if all were made.
    let bytes: Vec<u8> = (0..30_000)
        .flat_map(|n| call(2 * n + 1, RANGE, &range_of("large")))
        .collect();
    pour(&mut socket, &bytes, Duration::from_secs(3)).await;
    others_are_served(&server).await;
    grew_at_most(before, 128);
    // Cut, although it reads now. The time counts from the last byte that its kernel took.
    tokio::time::sleep(Duration::from_secs(9)).await;
    let said = closed(&mut socket).await;
    assert!(said.len() < 32 << 20, "{} bytes were on their way", said.len());
    server.stop().await;
}

#[tokio::test]
async fn ten_thousand_watches_of_one_client_are_held_and_harm_nobody() {
    if !is_alone("ten_thousand_watches_of_one_client_are_held_and_harm_nobody") {
        return;
    }
    let server = Server::plain().await;
    let before = resident();
    let mut socket = connect(&server, 65_535).await;
    let request = pb::WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(pb::WatchCreateRequest {
            key: "other".into(),
            ..Default::default()
        })),
    };
    let request = prost::Message::encode_to_vec(&request);
    let mut created = 0;
    let mut said = Vec::new();
    for n in 0..10_000 {
        let mut bytes = frame(HEADERS, END_HEADERS, 2 * n + 1, &head(WATCH));
        bytes.extend(frame(DATA, 0, 2 * n + 1, &framed(&request)));
        socket.write_all(&bytes).await.unwrap();
        let mut chunk = [0; 64 << 10];
        if let Ok(n) = socket.try_read(&mut chunk) {
            said.extend_from_slice(&chunk[..n]);
        }
    }
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    // The connection's window is 64 KiB and is never widened: what fits is answered, the others wait.
    while created < 1_000 && tokio::time::Instant::now() < deadline {
        let mut chunk = [0; 64 << 10];
        if let Ok(Ok(n)) = tokio::time::timeout(Duration::from_millis(50), socket.read(&mut chunk)).await {
            said.extend_from_slice(&chunk[..n]);
        }
        created = frames(&said).iter().filter(|(kind, ..)| *kind == DATA).count();
    }
    assert!(created >= 1_000, "{created}");
    others_are_served(&server).await;
    let each = resident().saturating_sub(before) / 10_000;
    assert!(each < 20 << 10, "{each} bytes a stream");
    drop(socket);
    others_are_served(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_client_version_that_is_no_text_is_refused() {
    let server = Server::plain().await;
    for (version, expect) in [
        (&b"3.7.3"[..], ("0", "")),
        (b"\xff\xfe", ("3", "etcdserver: invalid client api version")),
    ] {
        let (mut client, _tasks) = dial(&server).await;
        let request = request(RANGE)
            .header(
                "client-api-version",
                http::HeaderValue::from_bytes(version).unwrap(),
            )
            .header("hasleader", "true");
        let (response, mut stream) = client.send_request(request.body(()).unwrap(), false).unwrap();
        stream.send_data(framed(&range_of("a")).into(), true).unwrap();
        assert_eq!(ended(response).await, (expect.0.to_owned(), expect.1.to_owned()));
    }
    server.stop().await;
}

#[tokio::test]
async fn lease_ids_below_zero_are_ids_like_others() {
    let server = Server::plain().await;
    let mut lease = LeaseClient::new(server.channel().await);
    let granted = lease
        .lease_grant(pb::LeaseGrantRequest { ttl: 60, id: -7 })
        .await
        .unwrap();
    assert_eq!(granted.into_inner().id, -7);
    refused(
        lease.lease_revoke(pb::LeaseRevokeRequest { id: -8 }).await,
        Code::NotFound,
        "etcdserver: requested lease not found",
    );
    let attached = pb::PutRequest {
        lease: i64::MIN,
        ..put("a", "1")
    };
    refused(
        server.kv().await.put(attached).await,
        Code::NotFound,
        "etcdserver: requested lease not found",
    );
    server.stop().await;
}
