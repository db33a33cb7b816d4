//! Real etcd members on free ports.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use setpoint_store::client::{Client, ClientOptions};
use tokio::time::{Instant, sleep};

/// The members of one cluster.
pub(crate) struct Members {
    binary: PathBuf,
    dir: PathBuf,
    /// Client and peer port.
    ports: Vec<(u16, u16)>,
    children: Vec<Option<Child>>,
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
        let binary = std::env::var("ETCD").expect("ETCD names an etcd binary: use conformance/cluster/run");
        let mut members = Self {
            binary: PathBuf::from(binary),
            dir: dir.to_owned(),
            ports: (0..count).map(|_| (free_port(), free_port())).collect(),
            children: (0..count).map(|_| None).collect(),
        };
        for index in 0..count {
            members.spawn(index);
        }
        members.leader().await;
        members
    }

    pub(crate) fn endpoints(&self) -> String {
        let urls: Vec<_> = self
            .clients()
            .into_iter()
            .map(|addr| format!("http://{addr}"))
            .collect();
        urls.join(",")
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
                let mut options = ClientOptions::new([format!("http://{addr}")]);
                options.request_timeout = Duration::from_secs(1);
                let client = Client::new(options).unwrap();
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
        let peer = |(_, peer): &(u16, u16)| format!("http://127.0.0.1:{peer}");
        let all: Vec<_> = self
            .ports
            .iter()
            .enumerate()
            .map(|(n, ports)| format!("m{n}={}", peer(ports)))
            .collect();
        let client = format!("http://127.0.0.1:{}", self.ports[index].0);
        let peer = peer(&self.ports[index]);
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
                &peer,
            ])
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

impl Drop for Members {
    fn drop(&mut self) {
        for index in 0..self.children.len() {
            // A frozen process dies of SIGKILL all the same.
            self.kill(index);
        }
    }
}
