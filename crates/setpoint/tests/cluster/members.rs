//! Real etcd members on free ports.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use setpoint_flow::impair::Proxy;
use setpoint_store::client::{Client, ClientOptions, ClientTls};
use tokio::time::{Instant, sleep};

/// The members of one cluster.
pub(crate) struct Members {
    binary: PathBuf,
    dir: PathBuf,
    /// Client and peer port.
    ports: Vec<(u16, u16)>,
    children: Vec<Option<Child>>,
    /// What stands before each member's peer port, if anything does.
    pub(crate) links: Vec<Proxy>,
    security: Option<Security>,
}

/// TLS on the client port, and users.
#[derive(Clone)]
pub(crate) struct Security {
    /// The authority of both sides.
    pub(crate) ca: PathBuf,
    pub(crate) server: (PathBuf, PathBuf),
    pub(crate) client: (PathBuf, PathBuf),
    /// Seconds that an unused token lasts.
    pub(crate) token_ttl: u32,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

impl Members {
    /// Starts them and waits until they have a leader.
    pub(crate) async fn start(dir: &Path, count: usize) -> Self {
        Self::new(dir, count).begin().await
    }

    /// As [`Members::start`], with a proxy before each peer port.
    pub(crate) async fn start_linked(dir: &Path, count: usize) -> Self {
        let mut members = Self::new(dir, count);
        for (_, peer) in members.ports.clone() {
            let proxy = Proxy::start(SocketAddr::from(([127, 0, 0, 1], peer))).await;
            members.links.push(proxy.unwrap());
        }
        members.begin().await
    }

    /// As [`Members::start`], with TLS.
    pub(crate) async fn start_secure(dir: &Path, count: usize, security: Security) -> Self {
        let mut members = Self::new(dir, count);
        members.security = Some(security);
        members.begin().await
    }

    fn new(dir: &Path, count: usize) -> Self {
        let binary = std::env::var("ETCD").expect("ETCD names an etcd binary: use conformance/cluster/run");
        Self {
            binary: PathBuf::from(binary),
            dir: dir.to_owned(),
            ports: (0..count).map(|_| (free_port(), free_port())).collect(),
            children: (0..count).map(|_| None).collect(),
            links: Vec::new(),
            security: None,
        }
    }

    async fn begin(mut self) -> Self {
        for index in 0..self.ports.len() {
            self.spawn(index);
        }
        self.leader().await;
        self
    }

    fn scheme(&self) -> &'static str {
        if self.security.is_some() { "https" } else { "http" }
    }

    pub(crate) fn endpoints(&self) -> String {
        let urls: Vec<_> = self
            .clients()
            .into_iter()
            .map(|addr| format!("{}://{addr}", self.scheme()))
            .collect();
        urls.join(",")
    }

    /// A client of one member, or of all.
    fn client(&self, endpoints: &[SocketAddr]) -> Client {
        let urls = endpoints.iter().map(|addr| format!("{}://{addr}", self.scheme()));
        let mut options = ClientOptions::new(urls);
        options.request_timeout = Duration::from_secs(1);
        options.tls = self.security.as_ref().map(|security| ClientTls {
            ca: std::fs::read(&security.ca).unwrap(),
            identity: Some((
                std::fs::read(&security.client.0).unwrap(),
                std::fs::read(&security.client.1).unwrap(),
            )),
            server_name: None,
        });
        Client::new(options).unwrap()
    }

    /// Runs etcdctl, which lies beside etcd, and has to succeed.
    pub(crate) fn ctl(&self, args: &[&str]) {
        let mut command = Command::new(self.binary.with_file_name("etcdctl"));
        command.args(["--endpoints", &self.endpoints()]).args(args);
        if let Some(security) = &self.security {
            for (flag, file) in [
                ("--cacert", &security.ca),
                ("--cert", &security.client.0),
                ("--key", &security.client.1),
            ] {
                command.arg(flag).arg(file);
            }
        }
        let output = command.output().expect("start etcdctl");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "etcdctl {args:?}: {text}");
    }

    pub(crate) fn clients(&self) -> Vec<SocketAddr> {
        let addr = |(client, _): &(u16, u16)| SocketAddr::from(([127, 0, 0, 1], *client));
        self.ports.iter().map(addr).collect()
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, index: usize) {
        if let Some(mut child) = self.children[index].take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) async fn restart(&mut self, index: usize) {
        self.spawn(index);
        self.leader().await;
    }

    pub(crate) fn signal(&self, index: usize, signal: Signal) {
        let child = self.children[index].as_ref().expect("a running member");
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.unwrap(), signal).unwrap();
    }

    /// Which member leads, once one does.
    pub(crate) async fn leader(&self) -> usize {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            for (index, addr) in self.clients().into_iter().enumerate() {
                let client = self.client(&[addr]);
                if let Ok(status) = client.status().await
                    && status
                        .header
                        .is_some_and(|header| header.member_id == status.leader)
                {
                    return index;
                }
            }
            assert!(Instant::now() < deadline, "no leader");
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn spawn(&mut self, index: usize) {
        let advertised = |n: usize| match self.links.get(n) {
            Some(link) => format!("http://{}", link.addr()),
            None => format!("http://127.0.0.1:{}", self.ports[n].1),
        };
        let all: Vec<_> = (0..self.ports.len())
            .map(|n| format!("m{n}={}", advertised(n)))
            .collect();
        let client = format!("{}://127.0.0.1:{}", self.scheme(), self.ports[index].0);
        let peer = format!("http://127.0.0.1:{}", self.ports[index].1);
        let log = self.dir.join(format!("etcd-{index}.log"));
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(log)
            .unwrap();
        let child = Command::new(&self.binary)
            .args(["--name", &format!("m{index}"), "--log-level", "warn"])
            .args([
                "--data-dir",
                &self.dir.join(format!("etcd-{index}")).to_string_lossy(),
            ])
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &advertised(index),
            ])
            .args(self.secure_args())
            .args([
                "--initial-cluster",
                &all.join(","),
                "--initial-cluster-state",
                "new",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("start etcd");
        self.children[index] = Some(child);
    }
}

impl Members {
    fn secure_args(&self) -> Vec<String> {
        let Some(security) = &self.security else {
            return Vec::new();
        };
        let file = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
        vec![
            file("cert-file", &security.server.0),
            file("key-file", &security.server.1),
            file("trusted-ca-file", &security.ca),
            "--client-cert-auth".to_owned(),
            format!("--auth-token-ttl={}", security.token_ttl),
        ]
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for index in 0..self.children.len() {
            // A frozen process dies of SIGKILL all the same.
            self.kill(index);
        }
    }
}
