//! The binary called as etcd: started, waited for, used, stopped as programs that start etcd do it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use setpoint::envtest::TempDir;
use setpoint_proto::etcdserverpb as pb;
use setpoint_proto::etcdserverpb::cluster_client::ClusterClient;
use setpoint_proto::etcdserverpb::kv_client::KvClient;
use tonic::transport::Channel;

/// A link to the binary with etcd's name, in `dir`.
fn etcd(dir: &Path) -> Command {
    let link = dir.join("etcd");
    if !link.exists() {
        symlink(env!("CARGO_BIN_EXE_setpoint"), &link).unwrap();
    }
    let mut command = Command::new(link);
    command.current_dir(dir).stdin(Stdio::null());
    command
}

fn run(dir: &Path, args: &[&str]) -> Output {
    etcd(dir).args(args).output().unwrap()
}

/// The one line of a run that was refused, with its exit code.
fn refused(dir: &Path, args: &[&str]) -> (i32, String) {
    let output = run(dir, args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), stderr)
}

struct Member {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStderr>>,
    address: String,
    /// Messages up to the one that says where clients are served.
    said: Vec<Value>,
}

impl Member {
    fn start(dir: &Path, args: &[&str], vars: &[(&str, &str)]) -> Self {
        let mut command = etcd(dir);
        command.args(args).envs(vars.iter().copied());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut member = Self {
            child,
            lines,
            address: String::new(),
            said: Vec::new(),
        };
        while member.address.is_empty() {
            let line = member
                .lines
                .next()
                .expect("it serves before its log ends")
                .unwrap();
            let line: Value = serde_json::from_str(&line).unwrap();
            if line["msg"] == "serving client traffic insecurely; this is strongly discouraged!" {
                line["address"].as_str().unwrap().clone_into(&mut member.address);
            }
            member.said.push(line);
        }
        member
    }

    async fn channel(&self) -> Channel {
        let url = format!("http://{}", self.address);
        Channel::from_shared(url).unwrap().connect().await.unwrap()
    }

    fn has_said(&self, text: &str) -> bool {
        self.said.iter().any(|line| line.to_string().contains(text))
    }

    /// Asks it to stop; the signal it ended by, and the rest of its log.
    fn stop(mut self, signal: Signal) -> (Option<i32>, Vec<String>) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        let rest = self.lines.by_ref().map(Result::unwrap).collect();
        (self.child.wait().unwrap().signal(), rest)
    }
}

const FREE: &str = "--listen-client-urls=http://127.0.0.1:0";

fn data_dir(dir: &Path) -> PathBuf {
    dir.join("default.etcd")
}

#[tokio::test]
async fn it_serves_after_its_ready_line_and_ends_by_the_signal() {
    let dir = TempDir::new().unwrap();
    for (signal, number) in [(Signal::TERM, 15), (Signal::INT, 2)] {
        let member = Member::start(
            dir.path(),
            &[FREE, "-unsafe-no-fsync"],
            &[("ETCD_MAX_TXN_OPS", "1")],
        );
        assert!(member.has_said("ready to serve client requests"));
        assert!(member.has_said("writes are not synced"));
        let mut kv = KvClient::new(member.channel().await);
        let put = pb::PutRequest {
            key: "a".into(),
            value: "b".into(),
            ..Default::default()
        };
        kv.put(put.clone()).await.unwrap();
        let op = pb::RequestOp {
            request: Some(pb::request_op::Request::RequestPut(put)),
        };
        let status = kv
            .txn(pb::TxnRequest {
                success: vec![op.clone(), op],
                ..Default::default()
            })
            .await
            .unwrap_err();
        assert_eq!(status.message(), "etcdserver: too many operations in txn request");
        let (ended, rest) = member.stop(signal);
        assert_eq!(ended, Some(number));
        assert!(rest.last().unwrap().contains("closed etcd server"), "{rest:?}");
    }
}

#[test]
fn it_serves_on_a_socket_of_this_machine_and_nowhere_else() {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("etcd.sock");
    let url = format!("--listen-client-urls=unix://{}", socket.display());
    let member = Member::start(dir.path(), &[&url, "-unsafe-no-fsync"], &[]);
    assert_eq!(Path::new(&member.address), socket);
    let mut client = UnixStream::connect(&socket).unwrap();
    client
        .write_all(b"GET /version HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("etcdserver"), "{answer}");
    assert_eq!(member.stop(Signal::TERM).0, Some(15));
    assert!(!socket.exists(), "it takes its socket with it");
}

/// Two threads: while one waits for the end of the member, the other lets the client take leave of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_takes_longer_than_was_said_is_logged_by_its_name() {
    // Nothing is done in a nanosecond; nothing done here takes an hour; 0 is for those who do not want to know.
    for (limit, logged) in [("1ns", true), ("1h", false), ("0s", false)] {
        let dir = TempDir::new().unwrap();
        let flag = format!("--warning-unary-request-duration={limit}");
        let member = Member::start(dir.path(), &[FREE, "-unsafe-no-fsync", &flag], &[]);
        let mut kv = KvClient::new(member.channel().await);
        let put = pb::PutRequest {
            key: "a".into(),
            ..Default::default()
        };
        kv.put(put).await.unwrap();
        let range = pb::RangeRequest {
            key: "a".into(),
            ..Default::default()
        };
        kv.range(range.clone()).await.unwrap();
        let op = pb::RequestOp {
            request: Some(pb::request_op::Request::RequestRange(range)),
        };
        kv.txn(pb::TxnRequest {
            success: vec![op],
            ..Default::default()
        })
        .await
        .unwrap();
        drop(kv);
        let stopped = tokio::task::spawn_blocking(move || member.stop(Signal::TERM));
        let (_, rest) = stopped.await.unwrap();
        let slow = |line: &String| {
            let line: Value = serde_json::from_str(line).unwrap();
            (line["msg"] == "a call took too long").then_some(line)
        };
        let slow: Vec<_> = rest.iter().filter_map(slow).collect();
        let names: Vec<_> = slow.iter().map(|line| line["name"].as_str().unwrap()).collect();
        let all = ["Put", "Range", "Txn"];
        assert_eq!(names, if logged { &all[..] } else { &[] }, "{limit}: {rest:?}");
        for line in slow {
            assert_eq!(line["level"], "warn");
            assert_eq!(line["service"], "etcdserverpb.KV");
            assert!(line["took"].is_string() && line["expected"] == "1ns", "{line}");
        }
    }
}

#[tokio::test]
async fn the_member_list_shows_what_was_advertised() {
    let dir = TempDir::new().unwrap();
    let args = [
        "--name=m1",
        "--listen-client-urls=http://127.0.0.1:0,http://[::1]:0",
        "--advertise-client-urls=http://db.example:2379",
        "--initial-advertise-peer-urls=http://db.example:2380",
        "--initial-cluster=m1=http://db.example:2380",
    ];
    let member = Member::start(dir.path(), &args, &[]);
    let mut cluster = ClusterClient::new(member.channel().await);
    let members = cluster
        .member_list(pb::MemberListRequest::default())
        .await
        .unwrap();
    let [only] = &members.into_inner().members[..] else {
        panic!("one member");
    };
    assert_eq!(only.name, "m1");
    assert_eq!(only.client_ur_ls, ["http://db.example:2379"]);
    assert_eq!(only.peer_ur_ls, ["http://db.example:2380"]);
    member.stop(Signal::TERM);
    assert!(dir.path().join("m1.etcd").exists());
}

#[test]
fn a_file_outranks_everything_and_logs_go_where_it_says() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("etcd.yaml");
    let text = "name: fromfile\nlisten-client-urls: http://127.0.0.1:0\nlog-outputs: [stderr, copy.log]\n";
    std::fs::write(&file, text).unwrap();
    let args = ["--config-file", "etcd.yaml", "--name=fromflag"];
    let member = Member::start(dir.path(), &args, &[("ETCD_NAME", "fromenv")]);
    member.stop(Signal::TERM);
    assert!(dir.path().join("fromfile.etcd").exists());
    let copy = std::fs::read_to_string(dir.path().join("copy.log")).unwrap();
    assert!(copy.contains("ready to serve client requests"), "{copy}");
}

#[test]
fn version_and_help_are_etcds() {
    let dir = TempDir::new().unwrap();
    let version = String::from_utf8(run(dir.path(), &["--version"]).stdout).unwrap();
    assert!(version.starts_with("etcd Version: 3."), "{version}");
    let output = run(dir.path(), &["-h"]);
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(help.contains("\nMember:\n  --name 'default'\n"), "{help}");
    let setpoint = Command::new(env!("CARGO_BIN_EXE_setpoint"))
        .args(["etcd", "--version"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(setpoint.stdout).unwrap(), version);
}

#[test]
fn what_is_wrong_ends_with_etcds_exit_codes() {
    let dir = TempDir::new().unwrap();
    let (code, text) = refused(dir.path(), &["--nope"]);
    assert!(
        code == 2 && text.starts_with("flag provided but not defined: -nope\nUsage:"),
        "{text}"
    );
    for (args, expect) in [
        (&["server"][..], "is not a valid flag"),
        (&["gateway"], "there is no proxy here"),
        (
            &["--initial-cluster=default=http://1.1.1.1:1,b=http://2.2.2.2:1"],
            "names 2 members (b, default)",
        ),
        (&["--cipher-suites=x"], "--cipher-suites"),
        (&["--config-file=nowhere.yaml"], "nowhere.yaml"),
        (&["--log-outputs=/nowhere/log"], "/nowhere/log"),
        (&[FREE, "--cert-file=no.crt", "--key-file=no.key"], "no.crt"),
    ] {
        let (code, text) = refused(dir.path(), args);
        assert!(code == 1 && text.contains(expect), "{code} {text}");
    }
    assert!(!data_dir(dir.path()).exists());
}

#[test]
fn the_data_of_etcd_itself_is_refused_and_not_touched() {
    let dir = TempDir::new().unwrap();
    let db = data_dir(dir.path()).join("member/snap/db");
    std::fs::create_dir_all(db.parent().unwrap()).unwrap();
    std::fs::write(&db, "etcd's").unwrap();
    let (code, text) = refused(dir.path(), &[FREE]);
    assert!(code == 1 && text.contains("setpoint store import"), "{text}");
    assert_eq!(std::fs::read(&db).unwrap(), b"etcd's");
    assert_eq!(std::fs::read_dir(data_dir(dir.path())).unwrap().count(), 1);
}

#[test]
fn a_port_in_use_is_said_in_gos_words() {
    let dir = TempDir::new().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("--listen-client-urls=http://{}", taken.local_addr().unwrap());
    let (code, text) = refused(dir.path(), &[&url]);
    assert!(
        code == 1 && text.contains("bind: address already in use"),
        "{text}"
    );
}
