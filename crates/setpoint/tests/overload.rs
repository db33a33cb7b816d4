//! More than can be done: places, classes, memory, and the page that shows them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use futures_util::future::join_all;
use setpoint::envtest::TempDir;
use setpoint_proto::etcdserverpb::auth_client::AuthClient;
use setpoint_proto::etcdserverpb::kv_client::KvClient;
use setpoint_proto::etcdserverpb::lease_client::LeaseClient;
use setpoint_proto::etcdserverpb::watch_client::WatchClient;
use setpoint_proto::etcdserverpb::{
    AuthEnableRequest, AuthRoleAddRequest, AuthUserAddRequest, AuthUserGrantRoleRequest, AuthenticateRequest,
    CompactionRequest, LeaseGrantRequest, PutRequest, RangeRequest, WatchCreateRequest, WatchRequest,
    watch_request,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::harness::{self, Server, call, channel, eventually};

async fn put(kv: &mut KvClient<Channel>, bytes: usize) -> Result<(), Status> {
    let put = PutRequest {
        key: "k".into(),
        value: vec![7; bytes].into(),
        ..Default::default()
    };
    kv.put(put).await.map(drop)
}

/// What the server's page says, over HTTP/1.
async fn page(server: &Server, query: &str) -> (u16, String) {
    page_as(server, query, "").await
}

/// The same with another header.
async fn page_as(server: &Server, query: &str, header: &str) -> (u16, String) {
    let address = server.text("etcd").trim_start_matches("http://").to_owned();
    let mut socket = TcpStream::connect(&address).await.unwrap();
    let request =
        format!("GET /debug/flow{query} HTTP/1.1\r\nHost: {address}\r\n{header}Connection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        !head.to_lowercase().contains("access-control-allow-origin"),
        "{head}"
    );
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, body.to_owned())
}

async fn state(server: &Server) -> serde_json::Value {
    let (code, body) = page(server, "?format=json").await;
    assert_eq!(code, 200);
    serde_json::from_str(&body).unwrap()
}

/// Calls of all classes that had a place.
fn admitted(limit: &serde_json::Value) -> u64 {
    let classes = limit["classes"].as_array().unwrap();
    classes
        .iter()
        .map(|class| class["admitted"].as_u64().unwrap())
        .sum()
}

const PLACES: &str = "
concurrency:
- {name: puts, methods: ['/etcdserverpb.KV/Put'], limit: 1, queue: 0}
- {name: rest, limit: 4}
";

#[tokio::test]
async fn calls_without_a_place_are_refused_and_those_that_stay_take_none() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("limits.yaml");
    fs::write(&file, PLACES).unwrap();
    let server = Server::start(dir.path(), &["--limits", &file.to_string_lossy()]).await;
    // More watches than there are places.
    let mut watches = Vec::new();
    for _ in 0..8 {
        let create = WatchRequest {
            request_union: Some(watch_request::RequestUnion::CreateRequest(WatchCreateRequest {
                key: "k".into(),
                ..Default::default()
            })),
        };
        let mut client = WatchClient::new(channel(server.text("etcd")));
        let stream = client.watch(tokio_stream::iter([create])).await.unwrap();
        watches.push((client, stream));
    }
    let mut kv = server.kv().await;
    let refused = eventually("a put without a place", async || {
        let floods = (0..64).map(|_| {
            let mut kv = kv.clone();
            async move { put(&mut kv, 64 << 10).await }
        });
        join_all(floods).await.into_iter().find_map(Result::err)
    })
    .await;
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("\"puts\""), "{refused}");
    let after = refused.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(after >= Duration::from_millis(50), "{after:?}");
    assert!(refused.metadata().contains_key("grpc-retry-pushback-ms"));
    put(&mut kv, 1).await.unwrap();
    let seen = state(&server).await;
    let puts = &seen["concurrency"][0];
    assert_eq!((&puts["name"], &puts["in_flight"]), (&"puts".into(), &0.into()));
    assert!(puts["classes"][1]["refused"].as_u64().unwrap() > 0, "{puts}");
    let rest = &seen["concurrency"][1];
    assert_eq!(rest["in_flight"], 0, "watches hold no place");
    let one = RangeRequest {
        key: "k".into(),
        ..Default::default()
    };
    kv.range(one).await.unwrap();
    let read = &state(&server).await["concurrency"][1];
    assert_eq!(
        admitted(read),
        admitted(rest) + 1,
        "a read of one key asks for a place"
    );
    let connections = seen["connections"].as_array().unwrap();
    assert!(connections.len() >= 9, "eight watches and the puts: {seen}");
    let (code, html) = page(&server, "").await;
    assert_eq!(code, 200);
    assert!(html.starts_with("<!doctype html>"), "{html}");

    // The same page and the same limits at the other door.
    let kube = server.kube().await;
    call(&kube, "GET", "/api/v1/namespaces", None).await.unwrap();
    let seen = call(&kube, "GET", "/debug/flow?format=json", None).await.unwrap();
    let batch = &seen["concurrency"][1]["classes"][2];
    assert!(batch["admitted"].as_u64().unwrap() > 0, "{batch}");
    drop(watches);
    assert_eq!(server.stop().await.code(), Some(0));
}

#[tokio::test]
async fn while_memory_is_short_leases_are_served_and_others_are_not() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("limits.yaml");
    fs::write(&file, "memory: {limit: 1MiB}").unwrap();
    let server = Server::start(dir.path(), &["--limits", &file.to_string_lossy()]).await;
    let mut kv = server.kv().await;
    let refused = eventually("memory is short", async || put(&mut kv, 1).await.err()).await;
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("memory is short"), "{refused}");
    let mut leases = LeaseClient::new(channel(server.text("etcd")));
    let grant = LeaseGrantRequest { ttl: 60, id: 0 };
    leases.lease_grant(grant).await.unwrap();
    let seen = state(&server).await;
    assert_eq!(seen["memory"]["pressure"], "interactive");
    assert_eq!(seen["memory"]["limit"], 1 << 20);
    fs::write(&file, "memory: {limit: off}").unwrap();
    eventually("there is enough", async || put(&mut kv, 1).await.ok()).await;
    assert_eq!(server.stop().await.code(), Some(0));
}

#[tokio::test]
async fn the_page_is_for_administrators_where_there_are_any() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path(), &[]).await;
    assert_eq!(
        page(&server, "").await.0,
        200,
        "whoever reaches the port can read every key"
    );
    let mut auth = AuthClient::new(channel(server.text("etcd")));
    for name in ["root", "somebody"] {
        let add = AuthUserAddRequest {
            name: name.into(),
            password: "secret".into(),
            ..Default::default()
        };
        auth.user_add(add).await.unwrap();
    }
    auth.role_add(AuthRoleAddRequest { name: "root".into() })
        .await
        .unwrap();
    let grant = AuthUserGrantRoleRequest {
        user: "root".into(),
        role: "root".into(),
    };
    auth.user_grant_role(grant).await.unwrap();
    auth.auth_enable(AuthEnableRequest::default()).await.unwrap();
    let mut tokens = Vec::new();
    for name in ["root", "somebody"] {
        let login = AuthenticateRequest {
            name: name.into(),
            password: "secret".into(),
        };
        tokens.push(auth.authenticate(login).await.unwrap().into_inner().token);
    }
    for (header, expect) in [
        (String::new(), 401),
        ("Authorization: nonsense\r\n".to_owned(), 401),
        (format!("Authorization: {}\r\n", tokens[1]), 403),
        (format!("Authorization: {}\r\n", tokens[0]), 200),
        (format!("Authorization: Bearer {}\r\n", tokens[0]), 200),
    ] {
        for query in ["", "?format=json"] {
            assert_eq!(
                page_as(&server, query, &header).await.0,
                expect,
                "{header}{query}"
            );
        }
    }
    // The API server's is for its administrators, whatever etcd's users are.
    let kube = server.kube().await;
    call(&kube, "GET", "/debug/flow?format=json", None).await.unwrap();
    assert_eq!(server.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_limit_for_each_connection_is_told_to_its_client() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("limits.yaml");
    fs::write(&file, "concurrency: [{name: streams, per: connection, limit: 3}]").unwrap();
    let server = Server::start(dir.path(), &["--limits", &file.to_string_lossy()]).await;
    let address = server.text("etcd").trim_start_matches("http://");
    let socket = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = h2::client::handshake(socket).await.unwrap();
    let mut connection = std::pin::pin!(connection);
    let told = async {
        let answered = async {
            let request = http::Request::get(format!("http://{address}/health"));
            let mut sender = sender.ready().await.unwrap();
            let (answer, _) = sender.send_request(request.body(()).unwrap(), true).unwrap();
            answer.await.unwrap()
        };
        tokio::select! {
            ended = connection.as_mut() => panic!("{ended:?}"),
            answer = answered => assert_eq!(answer.status(), 200),
        }
        connection.max_concurrent_send_streams()
    };
    assert_eq!(told.await, 3);
    assert_eq!(server.stop().await.code(), Some(0));
}

/// A control group of the test's own, and how its limit is set.
struct Group {
    dir: PathBuf,
    limit: &'static str,
    used: &'static str,
    stat: [&'static str; 2],
}

impl Group {
    /// `None` where this process may not make one.
    fn new() -> Option<Self> {
        let name = format!("setpoint-test-{}", std::process::id());
        let root = Path::new("/sys/fs/cgroup");
        let (parent, limit, used, stat) = if root.join("cgroup.controllers").exists() {
            let stat = ["inactive_file", "active_file"];
            (root.to_owned(), "memory.max", "memory.current", stat)
        } else {
            let stat = ["total_inactive_file", "total_active_file"];
            let parent = root.join("memory");
            (parent, "memory.limit_in_bytes", "memory.usage_in_bytes", stat)
        };
        let dir = parent.join(name);
        fs::create_dir(&dir).ok()?;
        let group = Self {
            dir,
            limit,
            used,
            stat,
        };
        // A group of version 2 has no memory unless its parent passes it on.
        (group.dir.join(limit).exists() && group.set(1 << 40)).then_some(group)
    }

    fn set(&self, bytes: u64) -> bool {
        fs::write(self.dir.join(self.limit), bytes.to_string()).is_ok()
    }

    fn used(&self) -> u64 {
        let read = |name: &str| fs::read_to_string(self.dir.join(name)).unwrap();
        let stat = read("memory.stat");
        let files = stat.lines().filter_map(|line| line.split_once(' '));
        let files = files.filter(|(name, _)| self.stat.contains(name));
        let files: u64 = files.map(|(_, bytes)| bytes.parse::<u64>().unwrap()).sum();
        read(self.used)
            .trim()
            .parse::<u64>()
            .unwrap()
            .saturating_sub(files)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its processes have ended, but the kernel may not have noticed yet.
        for _ in 0..200 {
            if fs::remove_dir(&self.dir).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[tokio::test]
async fn a_control_group_that_is_nearly_full_sheds_batch_calls_before_the_kernel_kills() {
    let Some(group) = Group::new() else {
        println!("skipped: this process may not make control groups");
        return;
    };
    let dir = TempDir::new().unwrap();
    let inner = harness::command(dir.path(), &["server"]);
    let mut command = Command::new("sh");
    let script = r#"echo $$ > "$0/cgroup.procs" && exec "$@""#;
    command.args(["-c", script]).arg(&group.dir);
    command.arg(inner.get_program()).args(inner.get_args());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let server = Server::spawn(command, dir.path()).await;
    let mut kv = server.kv().await;
    for _ in 0..3 {
        put(&mut kv, 1).await.unwrap();
    }
    // What it uses is from now on 92 % of what it may use; it may still grow a little.
    let refused = eventually("batch calls are refused", async || {
        assert!(group.set(group.used() * 100 / 92), "set the limit");
        tokio::time::sleep(Duration::from_millis(600)).await;
        kv.compact(CompactionRequest::default())
            .await
            .err()
            .filter(|status| {
                // Asked for revision 0, a server with memory to spare refuses for another reason.
                status.code() == Code::ResourceExhausted
            })
    })
    .await;
    assert!(refused.message().contains("memory is short"), "{refused}");
    let range = RangeRequest {
        key: "k".into(),
        ..Default::default()
    };
    kv.range(range).await.unwrap();
    let seen = state(&server).await;
    assert_eq!(seen["memory"]["pressure"], "batch");
    assert!(
        seen["memory"]["source"].as_str().unwrap().starts_with("cgroup"),
        "{seen}"
    );
    assert!(group.set(1 << 36), "lift the limit");
    eventually("batch calls are served", async || {
        let refused = kv.compact(CompactionRequest::default()).await.err();
        refused
            .is_none_or(|status| status.code() != Code::ResourceExhausted)
            .then_some(())
    })
    .await;
    assert_eq!(server.stop().await.code(), Some(0));
}
