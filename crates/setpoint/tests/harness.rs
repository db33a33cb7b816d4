//! Starts the built binary on free ports and tells where it is.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use setpoint_proto::etcdserverpb::kv_client::KvClient;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

/// How long anything may take before a test gives up. Debug builds on busy machines are slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A `setpoint server` (or `up`) process.
pub(crate) struct Server {
    child: Child,
    ready_file: PathBuf,
    /// The content of the ready file.
    pub(crate) ready: Value,
}

/// The command with free ports, a data directory and a ready file below `dir`.
pub(crate) fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_setpoint"));
    command
        .args(args)
        .args(["--data-dir", &dir.join("data").to_string_lossy()])
        .env_remove("KUBECONFIG")
        .stdin(Stdio::null());
    let ready = format!("--ready-file={}", dir.join("ready.json").display());
    // With a cluster there is no front of ours.
    let away = args.contains(&"--engine=etcd");
    for default in ["--etcd-listen=127.0.0.1:0", "--api-listen=127.0.0.1:0", &ready] {
        let flag = default.split('=').next().unwrap_or_default();
        if (flag != "--etcd-listen" || !away) && !args.iter().any(|arg| arg.starts_with(flag)) {
            command.arg(default);
        }
    }
    command
}

/// Runs the command to its end, which must come by itself.
pub(crate) fn run(dir: &Path, args: &[&str]) -> Output {
    let mut command = command(dir, args);
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the binary");
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().expect("ask for the status").is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("it should have refused to start: {}", stderr(&mut child));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().expect("read its output")
}

impl Server {
    /// Starts `setpoint server` and waits until it is ready.
    pub(crate) async fn start(dir: &Path, args: &[&str]) -> Self {
        let mut command = command(dir, &[&["server"], args].concat());
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        Self::spawn(command, dir).await
    }

    /// Starts a command that writes the ready file in `dir`, and waits for it.
    pub(crate) async fn spawn(mut command: Command, dir: &Path) -> Self {
        let ready_file = dir.join("ready.json");
        // A killed process leaves its file behind.
        let _ = std::fs::remove_file(&ready_file);
        let mut child = command.spawn().expect("start the binary");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(text) = std::fs::read(&ready_file) {
                let ready = serde_json::from_slice(&text).expect("the ready file is written in one step");
                return Self {
                    child,
                    ready_file,
                    ready,
                };
            }
            let ended = child.try_wait().expect("ask for the status");
            if ended.is_some() || Instant::now() > deadline {
                let _ = child.kill();
                panic!("not ready, status {ended:?}: {}", stderr(&mut child));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(crate) fn text(&self, field: &str) -> &str {
        self.ready[field].as_str().expect("a text in the ready file")
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// A client of its etcd front.
    pub(crate) async fn kv(&self) -> KvClient<Channel> {
        KvClient::new(channel(self.text("etcd")))
    }

    /// A client of its API server.
    pub(crate) async fn kube(&self) -> kube_client::Client {
        kube(Path::new(self.text("kubeconfig"))).await
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a pid"), signal).expect("send a signal");
    }

    /// `kill -9`, and no more of it.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// Asks it to stop, as a service manager does, and waits for the end.
    pub(crate) async fn stop(self) -> ExitStatus {
        self.stop_by(Signal::TERM).await
    }

    /// Asks it to stop with a signal and waits for the end.
    pub(crate) async fn stop_by(mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        let status = wait(&mut self.child).await;
        assert!(
            !self.ready_file.exists(),
            "a clean stop takes the ready file away"
        );
        status
    }
}

/// Waits for the end of a process.
pub(crate) async fn wait(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("ask for the status") {
            return status;
        }
        assert!(Instant::now() < deadline, "the process does not end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn stderr(child: &mut Child) -> String {
    let mut text = String::new();
    if let Some(pipe) = &mut child.stderr {
        let _ = pipe.read_to_string(&mut text);
    }
    text
}

/// A channel that connects when it is first used.
pub(crate) fn channel(url: &str) -> Channel {
    let endpoint = Endpoint::from_shared(url.to_owned()).expect("a URL");
    endpoint
        .connect_timeout(PATIENCE)
        .timeout(PATIENCE)
        .connect_lazy()
}

/// A Kubernetes client from a kubeconfig file.
pub(crate) async fn kube(path: &Path) -> kube_client::Client {
    use kube_client::config::{Config, KubeConfigOptions, Kubeconfig};
    let kubeconfig = Kubeconfig::read_from(path).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    kube_client::Client::try_from(config.expect("a usable kubeconfig")).expect("a client")
}

/// One request with a JSON body (or none) and its JSON answer.
pub(crate) async fn call(
    client: &kube_client::Client,
    method: &str,
    path: &str,
    body: Option<(&str, Value)>,
) -> Result<Value, kube_client::Error> {
    let mut request = http::Request::builder().method(method).uri(path);
    if let Some((content_type, _)) = &body {
        request = request.header("content-type", *content_type);
    }
    let body = body
        .map(|(_, value)| value.to_string().into_bytes())
        .unwrap_or_default();
    client.request(request.body(body).expect("a request")).await
}

/// Polls until `check` gives something.
pub(crate) async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
