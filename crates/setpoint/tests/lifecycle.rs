//! Start, ready file, stop, resume; and what is said when it cannot start.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::process::Signal;
use setpoint::envtest::TempDir;
use setpoint_proto::etcdserverpb::RangeRequest;

use crate::harness::{self, Server};

#[tokio::test]
async fn the_ready_file_says_where_everything_is_and_goes_with_a_clean_stop() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path(), &[]).await;
    assert_eq!(server.ready["version"], env!("CARGO_PKG_VERSION"));
    assert!(server.ready["pid"].as_u64().unwrap() > 1);
    assert!(server.text("etcd").starts_with("http://127.0.0.1:"));
    assert!(server.text("api").starts_with("https://127.0.0.1:"));
    let kubeconfig = Path::new(server.text("kubeconfig"));
    assert!(kubeconfig.is_absolute());
    let mode = std::fs::metadata(kubeconfig).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let data = std::fs::metadata(dir.path().join("data"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(data & 0o777, 0o700);
    assert_eq!(server.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_hangup_stops_no_server() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path(), &[]).await;
    server.signal(Signal::HUP);
    let mut kv = server.kv().await;
    kv.range(RangeRequest {
        key: b"a".as_slice().into(),
        ..RangeRequest::default()
    })
    .await
    .unwrap();
    assert_eq!(server.stop().await.code(), Some(0));
}

/// The message of a run that must fail with `code`.
fn refused(dir: &Path, args: &[&str], code: i32) -> String {
    let output = harness::run(dir, args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.lines().any(|line| line.starts_with("error: ")), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    stderr
}

/// What a server logs from its start to its stop.
async fn logged(dir: &Path, args: &[&str]) -> String {
    let log = dir.join("log");
    let mut command = harness::command(dir, &[&["server"], args].concat());
    command.stderr(std::fs::File::create(&log).unwrap());
    let server = Server::spawn(command, dir).await;
    assert_eq!(server.stop().await.code(), Some(0));
    std::fs::read_to_string(log).unwrap()
}

#[tokio::test]
async fn a_store_alone_says_that_it_does_not_heed_where_kubernetes_clients_were_to_connect() {
    let dir = TempDir::new().unwrap();
    let log = logged(dir.path(), &["--roles=store", "--api-listen=127.0.0.1:0"]).await;
    let said = |log: &str| {
        log.lines()
            .any(|line| line.contains("WARN") && line.contains("--api-listen does nothing"))
    };
    assert!(said(&log), "{log}");
    let log = logged(dir.path(), &["--api-listen=127.0.0.1:0"]).await;
    assert!(!said(&log), "{log}");
}

/// The place of a listener in the ready file, and what is served there.
fn listener(server: &Server, n: usize) -> (String, String) {
    let listener = &server.ready["etcdListeners"][n];
    let text = |name: &str| listener[name].as_str().unwrap().to_owned();
    (text("url"), text("serves"))
}

#[tokio::test]
async fn every_listener_that_took_a_free_port_says_which() {
    let dir = TempDir::new().unwrap();
    for roles in ["store", "store,api"] {
        let log = dir.path().join("log");
        let args = [
            "server",
            &format!("--roles={roles}"),
            "--etcd-listen-http=127.0.0.1:0",
            "--etcd-listen-metrics=http://0.0.0.0:0",
        ];
        let mut command = harness::command(dir.path(), &args);
        command.stderr(std::fs::File::create(&log).unwrap());
        let server = Server::spawn(command, dir.path()).await;
        assert_eq!(
            listener(&server, 0),
            (server.text("etcd").to_owned(), "grpc".to_owned())
        );
        let mut urls = Vec::new();
        for (n, serves, path) in [(1, "http", "/version"), (2, "metrics", "/metrics")] {
            let (url, said) = listener(&server, n);
            assert_eq!(said, serves);
            let answer = get(&url, path);
            assert!(answer.starts_with("HTTP/1.1 200"), "{url}{path}: {answer}");
            urls.push(url);
        }
        assert_eq!(server.stop().await.code(), Some(0));
        let log = std::fs::read_to_string(&log).unwrap();
        for url in urls {
            assert!(log.lines().any(|line| line.contains(&url)), "{url} in {log}");
        }
    }
}

/// The answer to a request, as it comes.
fn get(url: &str, path: &str) -> String {
    let addr = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(addr).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test]
async fn a_directory_in_use_is_refused_and_the_message_says_what_to_do() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path(), &[]).await;
    let text = refused(dir.path(), &["server", "--ready-file=/dev/null/x"], 1);
    assert!(text.contains("ready file"), "{text}");
    let other = format!("--ready-file={}", dir.path().join("other.json").display());
    let text = refused(dir.path(), &["server", &other], 1);
    assert!(
        text.contains("in use by another process") && text.contains("--data-dir"),
        "{text}"
    );
    assert_eq!(server.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_lock_left_by_a_killed_process_does_not_stop_the_next_one() {
    let dir = TempDir::new().unwrap();
    Server::start(dir.path(), &[]).await.kill();
    let server = Server::start(dir.path(), &[]).await;
    assert_eq!(server.stop().await.code(), Some(0));
}

#[test]
fn a_port_in_use_is_named_with_who_has_it() {
    let dir = TempDir::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    for flag in ["--etcd-listen", "--api-listen"] {
        let text = refused(dir.path(), &["server", &format!("{flag}={addr}")], 1);
        for expected in [
            addr.to_string(),
            flag.to_owned(),
            format!("(pid {})", std::process::id()),
        ] {
            assert!(text.contains(&expected), "{expected} in {text}");
        }
    }
}

#[test]
fn a_data_directory_that_cannot_be_made_is_named_with_a_remedy() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("data"), "a file").unwrap();
    let text = refused(dir.path(), &["server"], 1);
    assert!(
        text.contains("is in the way") && text.contains("--data-dir"),
        "{text}"
    );
}

#[test]
fn broken_certificates_are_named_with_a_remedy() {
    let dir = TempDir::new().unwrap();
    let pki = dir.path().join("data/pki");
    std::fs::create_dir_all(&pki).unwrap();
    std::fs::write(pki.join("ca.crt"), "not a certificate").unwrap();
    std::fs::write(pki.join("ca.key"), "not a key").unwrap();
    let text = refused(dir.path(), &["server"], 1);
    assert!(text.contains("ca."), "{text}");
}

#[test]
fn wrong_settings_are_all_reported_before_anything_starts() {
    let dir = TempDir::new().unwrap();
    let text = refused(dir.path(), &["server", "--etcd-listen=x", "--log-format=y"], 2);
    assert_eq!(text.lines().count(), 2, "{text}");
    let text = refused(dir.path(), &["up", "/nowhere/at/all"], 2);
    assert!(text.contains("is not a directory"), "{text}");
    let text = refused(dir.path(), &["server", "--log", "a=b=c"], 2);
    assert!(text.contains("log filter"), "{text}");
    assert!(!dir.path().join("data").exists());
}

#[tokio::test]
async fn a_signal_that_comes_twice_is_one_wish_and_stops_cleanly() {
    let dir = TempDir::new().unwrap();
    let mut server = Server::start(dir.path(), &[]).await;
    server.signal(Signal::INT);
    server.signal(Signal::TERM);
    assert_eq!(harness::wait(server.child()).await.code(), Some(0));
}
