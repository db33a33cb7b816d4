//! What `setpoint store` asks of running servers, over every kind of connection, and what it says when there is none.

use std::net::TcpListener;
use std::process::Output;

use setpoint::envtest::TempDir;

use crate::harness::Server;

async fn store(args: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_setpoint"));
    command.arg("store").args(args);
    command.output().await.unwrap()
}

async fn asked(endpoint: &str, args: &[&str]) -> Output {
    store(&[args, &["--endpoint", endpoint]].concat()).await
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn success(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[track_caller]
fn fails(output: &Output, says: &[&str]) {
    assert!(!output.status.success(), "{}", text(&output.stdout));
    let said = text(&output.stderr);
    assert!(says.iter().all(|part| said.contains(part)), "{said}");
}

#[tokio::test]
async fn a_server_is_asked_over_tcp_and_over_a_socket_of_the_machine() {
    let dir = TempDir::new().unwrap();
    let socket = format!("unix://{}", dir.path().join("etcd.sock").display());
    let listen = format!("--etcd-listen=127.0.0.1:0,{socket}");
    let server = Server::start(dir.path(), &["--roles=store", &listen]).await;
    let url = server.text("etcd").to_owned();
    for endpoint in [url.as_str(), url.trim_start_matches("http://"), &socket] {
        let got = success(&asked(endpoint, &["get", "nothing"]).await);
        assert!(got.contains("count: 0"), "{endpoint}: {got}");
        let hash = success(&asked(endpoint, &["hashkv"]).await);
        assert!(hash.contains("hashRevision: 1"), "{endpoint}: {hash}");
        let file = dir.path().join("saved.db").display().to_string();
        let saved = success(&asked(endpoint, &["snapshot", "save", "--force", &file]).await);
        assert!(saved.contains("bytes: "), "{endpoint}: {saved}");
        success(&store(&["snapshot", "status", &file]).await);
        let refused = asked(endpoint, &["compact", "1000"]).await;
        fails(
            &refused,
            &["the server answered: ", "future revision", "(OutOfRange)"],
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn who_cannot_be_asked_is_named_with_what_may_be_the_matter() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let refused = store(&["hashkv", "--endpoint", &nobody]).await;
    fails(
        &refused,
        &[
            &format!("connect to {nobody}: "),
            "refused",
            "check that a server runs there",
        ],
    );
    let wrong = store(&["hashkv", "--endpoint", "ftp://x:1"]).await;
    fails(&wrong, &["--endpoint ftp://x:1: write http://HOST:PORT"]);
    let blind = store(&["hashkv", "--endpoint", "https://127.0.0.1:1"]).await;
    fails(&blind, &["name the authority", "--cacert"]);

    let dir = TempDir::new().unwrap();
    let listen = ["--roles=store", "--etcd-auto-tls"];
    let server = Server::start(dir.path(), &listen).await;
    let address = server.text("etcd").trim_start_matches("https://").to_owned();
    let plain = store(&["hashkv", "--endpoint", &format!("http://{address}")]).await;
    fails(
        &plain,
        &["connect to http://", "write https:// and give --cacert"],
    );
    server.stop().await;
}
