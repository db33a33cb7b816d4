//! The quickstart, as a stranger runs it: `up`, edits with a Kubernetes client, Ctrl-C, `up` again.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::Signal;
use serde_json::{Value, json};
use setpoint::envtest::TempDir;
use setpoint_base::{Stop, TaskGroup};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::harness::{self, PATIENCE, Server, call, eventually};

const SITES: &str = "/apis/demo.setpoint.dev/v1/namespaces/default/sites";
const MERGE: &str = "application/merge-patch+json";

/// What `up --log-format json` wrote, line by line.
type Lines = Arc<Mutex<Vec<Value>>>;

/// The operator, built as this test was.
fn operator() -> PathBuf {
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", "site-operator"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("run cargo");
    assert!(status.success(), "build the operator");
    Path::new(env!("CARGO_BIN_EXE_setpoint")).with_file_name("site-operator")
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// The example's folder with free ports, running the operator that is already built.
fn project(dir: &Path, ports: [u16; 2]) -> PathBuf {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/quickstart");
    let project = dir.join("project");
    std::fs::create_dir_all(&project).unwrap();
    for name in ["crd.yaml", "configmap.yaml", "sites.yaml"] {
        let text = std::fs::read_to_string(example.join(name)).unwrap();
        let text = text
            .replace("8081", &ports[0].to_string())
            .replace("8082", &ports[1].to_string());
        std::fs::write(project.join(name), text).unwrap();
    }
    let run = json!({"run": [{"name": "site-operator", "command": [operator()]}]});
    std::fs::write(project.join("setpoint.yaml"), run.to_string()).unwrap();
    project
}

async fn up(dir: &Path, project: &Path) -> (Server, Lines) {
    let mut command = harness::command(dir, &["up", &project.to_string_lossy(), "--log-format=json"]);
    command.stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut server = Server::spawn(command, dir).await;
    let lines = Lines::default();
    let (pipe, sink) = (server.child().stdout.take().expect("a pipe"), Arc::clone(&lines));
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            sink.lock()
                .push(serde_json::from_str(&line).expect("each line is an object"));
        }
    });
    (server, lines)
}

/// Waits for a line that `matches`.
async fn line(lines: &Lines, what: &str, matches: impl Fn(&Value) -> bool) -> Value {
    let find = async || lines.lock().iter().find(|line| matches(line)).cloned();
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(line) = find().await {
            return line;
        }
        assert!(
            Instant::now() < deadline,
            "no line: {what}; there are {:#?}",
            lines.lock()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn change(name: &str, state: &str) -> impl Fn(&Value) -> bool {
    move |line| line["type"] == "change" && line["name"] == name && line["state"] == state
}

/// The page on a port; `None` when it cannot be had.
async fn page(port: u16) -> Option<String> {
    let get = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let request = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        text.starts_with("HTTP/1.1 200").then_some(text)
    };
    tokio::time::timeout(Duration::from_secs(5), get).await.ok()?
}

async fn page_with(port: u16, text: &str) -> String {
    eventually(text, async || page(port).await.filter(|page| page.contains(text))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_brings_it_up_edits_breaks_mends_moves_deletes_and_starts_again() {
    let dir = TempDir::new().unwrap();
    let ports = [free_port(), free_port()];
    let project = project(dir.path(), ports);
    let (server, lines) = up(dir.path(), &project).await;
    let kube = server.kube().await;

    // It converges, and the trace of the write is the trace of the result.
    line(&lines, "hints", |line| {
        line["type"] == "hint" && line["command"] == format!("curl http://127.0.0.1:{}/", ports[1])
    })
    .await;
    let serving = line(&lines, "hello serves", change("default/hello", "Serving")).await;
    let added = line(&lines, "hello was added", |line| line["name"] == "default/hello").await;
    assert_eq!(added["trace"], serving["trace"], "{added} {serving}");
    assert_eq!(added["trace"].as_str().map(str::len), Some(32));
    assert!(added["revision"].as_u64() <= serving["revision"].as_u64());
    let hello = page_with(ports[0], "<h1").await;
    assert!(hello.contains("#1a5fb4") && hello.contains("Hello"), "{hello}");
    page_with(ports[1], "Plain").await;

    // Editing the ConfigMap changes the page within a second, and no request fails meanwhile.
    let asked = Requests::start(ports[0]);
    let edited = Instant::now();
    let data = json!({"data": {"footer": "edited"}});
    call(
        &kube,
        "PATCH",
        "/api/v1/namespaces/default/configmaps/shared",
        Some((MERGE, data)),
    )
    .await
    .unwrap();
    page_with(ports[0], "edited").await;
    let took = edited.elapsed();
    let site = format!("{SITES}/hello");
    let spec = json!({"spec": {"title": "Changed"}});
    call(&kube, "PATCH", &site, Some((MERGE, spec))).await.unwrap();
    page_with(ports[0], "Changed").await;
    let (good, failed) = asked.stop().await;
    assert_eq!(failed, 0, "of {good} requests");
    assert!(
        good > 0 && took < Duration::from_secs(1),
        "{good} requests, {took:?}"
    );

    // A bad edit keeps the last good page, and says why in a condition and an Event.
    let spec = json!({"spec": {"html": "{{ oops"}});
    call(&kube, "PATCH", &site, Some((MERGE, spec))).await.unwrap();
    let degraded = line(&lines, "degraded", change("default/hello", "Degraded")).await;
    assert!(
        degraded["message"]
            .as_str()
            .unwrap()
            .starts_with("InvalidTemplate: line 1"),
        "{degraded}"
    );
    line(&lines, "a warning", change("default/hello", "Warning")).await;
    assert!(page(ports[0]).await.unwrap().contains("Changed"));
    let status = call(&kube, "GET", &site, None).await.unwrap()["status"].clone();
    assert_eq!(status["conditions"][0]["reason"], "InvalidTemplate", "{status}");
    assert_eq!(status["observedGeneration"], 3, "{status}");
    let spec = json!({"spec": {"html": "mended {{ title }}"}});
    call(&kube, "PATCH", &site, Some((MERGE, spec))).await.unwrap();
    page_with(ports[0], "mended").await;

    // A port that is taken is said, the old one is still served; a free one is moved to.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let plain = format!("{SITES}/plain");
    let spec = json!({"spec": {"port": taken.local_addr().unwrap().port()}});
    call(&kube, "PATCH", &plain, Some((MERGE, spec))).await.unwrap();
    let degraded = line(&lines, "port taken", change("default/plain", "Degraded")).await;
    assert!(
        degraded["message"].as_str().unwrap().starts_with("PortTaken"),
        "{degraded}"
    );
    page_with(ports[1], "Plain").await;
    let moved = free_port();
    let spec = json!({"spec": {"port": moved}});
    call(&kube, "PATCH", &plain, Some((MERGE, spec))).await.unwrap();
    page_with(moved, "Plain").await;
    eventually("the old port is free", async || {
        TcpListener::bind(("127.0.0.1", ports[1])).ok()
    })
    .await;

    // Deleting runs the finalizer and frees the port.
    call(&kube, "DELETE", &plain, None).await.unwrap();
    eventually("plain is gone", async || {
        call(&kube, "GET", &plain, None).await.err()
    })
    .await;
    line(&lines, "plain was deleted", change("default/plain", "Deleted")).await;
    assert!(TcpListener::bind(("127.0.0.1", moved)).is_ok());

    // Ctrl-C stops everything.
    assert_eq!(server.stop_by(Signal::INT).await.code(), Some(0));
    assert!(TcpListener::bind(("127.0.0.1", ports[0])).is_ok());

    // Starting again resumes from disk: edits survive, what was deleted comes back with its file.
    let started = Instant::now();
    let (server, lines) = up(dir.path(), &project).await;
    line(&lines, "hello was found", |line| {
        line["what"] == "found" && line["name"] == "default/hello"
    })
    .await;
    line(&lines, "it converges", |line| {
        line["text"]
            .as_str()
            .is_some_and(|text| text.contains("converged"))
    })
    .await;
    println!(
        "warm: converged {:?} after the start (debug build)",
        started.elapsed()
    );
    page_with(ports[0], "mended Changed").await;
    page_with(ports[1], "Plain").await;
    assert_eq!(server.stop().await.code(), Some(0));
}

/// Asks for a page again and again.
struct Requests {
    tasks: TaskGroup,
    counts: Arc<Mutex<(u64, u64)>>,
    done: Arc<AtomicBool>,
}

impl Requests {
    fn start(port: u16) -> Self {
        let (counts, done) = (Arc::new(Mutex::new((0, 0))), Arc::new(AtomicBool::new(false)));
        let tasks = TaskGroup::new(&Stop::new());
        let (shared, ended) = (Arc::clone(&counts), Arc::clone(&done));
        tasks.spawn(async move {
            while !ended.load(Ordering::Relaxed) {
                let good = page(port).await.is_some();
                let mut counts = shared.lock();
                counts.0 += u64::from(good);
                counts.1 += u64::from(!good);
            }
        });
        Self { tasks, counts, done }
    }

    /// Requests answered, requests failed.
    async fn stop(self) -> (u64, u64) {
        self.done.store(true, Ordering::Relaxed);
        self.tasks.shutdown(PATIENCE).await;
        *self.counts.lock()
    }
}
