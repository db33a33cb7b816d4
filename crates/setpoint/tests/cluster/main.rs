//! Two API servers on three real etcd members, of which some die, freeze and come back under load.
//!
//! Not part of `cargo test`: it needs an etcd. `conformance/cluster/run` starts it.
//!
//! What must hold, whatever happens to the members:
//! - every create that was acknowledged is there, and nothing is there that nobody asked for;
//! - every counter has been counted up at least as often as it was acknowledged, and at most as often as it was asked;
//! - the watches of both servers, resumed where they broke, saw what a watch of the whole history sees: no gap, no
//!   repetition, the same order;
//! - while a majority is gone `/readyz` says so and requests end; afterwards all is well without anybody's help.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test program, told by its script where the binaries are"
)]

mod compacted;
#[allow(dead_code, reason = "shared with the other test binary")]
#[path = "../harness.rs"]
mod harness;
mod load;
mod members;
mod moving;
mod partition;
mod secure;
mod watching;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use setpoint::envtest::TempDir;
use setpoint_flow::impair::Proxy;
use tokio::time::{Instant, sleep, timeout};

use harness::Server;
use load::{Load, Outcome, send};
use members::Members;
use watching::{Watching, history};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A server of its own data directory; what it logs stays with it.
async fn server(dir: &TempDir, name: &str, endpoints: &str) -> Server {
    let engine = ["--engine=etcd", "--etcd-endpoints", endpoints];
    server_with(&dir.path().join(name), &engine).await
}

fn binary() -> String {
    std::env::var("SETPOINT").unwrap_or_else(|_| env!("CARGO_BIN_EXE_setpoint").to_owned())
}

async fn server_with(dir: &Path, args: &[&str]) -> Server {
    std::fs::create_dir_all(dir).unwrap();
    let command = harness::command(dir, &[&["server"], args].concat());
    let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let mut command = std::process::Command::new(binary());
    command
        .args(args)
        .env("SETPOINT_LOG", "warn")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(dir.join("log")).unwrap());
    Server::spawn(command, dir).await
}

/// Proxies in front of the members, and their addresses.
async fn behind_proxies(members: &Members) -> (Vec<Proxy>, String) {
    let mut proxies = Vec::new();
    for addr in members.clients() {
        proxies.push(Proxy::start(addr).await.unwrap());
    }
    let urls: Vec<_> = proxies
        .iter()
        .map(|proxy| format!("http://{}", proxy.addr()))
        .collect();
    (proxies, urls.join(","))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_stays_and_watches_miss_nothing_while_members_come_and_go() {
    let dir = TempDir::new().unwrap();
    let mut members = Members::start(dir.path(), 3).await;
    let (proxies, proxied) = behind_proxies(&members).await;
    let scene = Scene::start(&dir, [&members.endpoints(), &proxied]).await;
    let clients = &scene.clients;
    let calm = |seconds| sleep(Duration::from_secs(seconds));
    calm(3).await;

    println!("kill a member");
    members.kill(0);
    calm(4).await;
    members.restart(0).await;
    calm(3).await;

    println!("freeze the leader");
    let leader = members.leader().await;
    members.signal(leader, Signal::STOP);
    calm(6).await;
    members.signal(leader, Signal::CONT);
    calm(3).await;

    println!("cut, freeze and half-open the links of one server");
    proxies.iter().for_each(Proxy::cut);
    calm(2).await;
    proxies[0].freeze();
    calm(4).await;
    proxies[0].thaw();
    proxies.iter().for_each(Proxy::half_open);
    calm(2).await;
    proxies.iter().for_each(Proxy::thaw);
    // What was half said must not be believed: those connections are of no use.
    proxies.iter().for_each(Proxy::cut);
    calm(3).await;

    println!("freeze a majority");
    members.signal(0, Signal::STOP);
    members.signal(1, Signal::STOP);
    sleep(Duration::from_secs(1)).await;
    for client in clients {
        let started = Instant::now();
        let ready = send(client, "GET", "/readyz", None).await;
        assert!(ready.is_err(), "ready without a majority");
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "{:?}",
            started.elapsed()
        );
        let started = Instant::now();
        let read = send(client, "GET", &format!("{MAPS}/counter-0"), None).await;
        assert!(read.is_err(), "a read without a majority: {read:?}");
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "{:?}",
            started.elapsed()
        );
    }
    members.signal(0, Signal::CONT);
    members.signal(1, Signal::CONT);
    scene.ready_again().await;
    calm(3).await;

    println!("kill a majority");
    members.kill(1);
    members.kill(2);
    calm(3).await;
    members.restart(1).await;
    members.restart(2).await;
    scene.ready_again().await;
    calm(3).await;
    scene.end(100).await;
}

/// Two servers, clients that write through both, and a watch of each.
struct Scene {
    servers: [Server; 2],
    clients: [kube_client::Client; 2],
    begin: String,
    watches: Vec<Watching>,
    load: Load,
}

impl Scene {
    /// A server on each of these endpoints.
    async fn start(dir: &TempDir, endpoints: [&str; 2]) -> Self {
        let servers = [
            server(dir, "a", endpoints[0]).await,
            server(dir, "b", endpoints[1]).await,
        ];
        let clients = [
            load::client(servers[0].text("kubeconfig")).await,
            load::client(servers[1].text("kubeconfig")).await,
        ];
        let begin = send(&clients[0], "GET", MAPS, None).await.unwrap();
        let begin = begin["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
        let watches = clients
            .iter()
            .map(|client| Watching::start(client.clone(), &begin))
            .collect();
        let load = Load::start(&clients).await;
        Self {
            servers,
            clients,
            begin,
            watches,
            load,
        }
    }

    async fn ready_again(&self) {
        for client in &self.clients {
            harness::eventually("ready again", async || {
                send(client, "GET", "/readyz", None).await.ok()
            })
            .await;
        }
    }

    /// Stops the load and compares the books; at least so much must have happened of each kind.
    async fn end(self, least: u64) {
        let outcome = self.load.stop().await;
        check_objects(&self.clients, &outcome).await;
        check_watches(&self.clients, self.watches, &self.begin).await;
        println!("{outcome}");
        assert!(
            outcome.created.len() as u64 > least && outcome.counted > least,
            "too little happened: {outcome}"
        );
        for server in self.servers {
            assert!(server.stop().await.success());
        }
    }
}

async fn check_objects(clients: &[kube_client::Client; 2], outcome: &Outcome) {
    for client in clients {
        let list = send(client, "GET", MAPS, None).await.unwrap();
        let names: BTreeSet<String> = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
            .filter(|name| name.starts_with("made-"))
            .collect();
        let lost: Vec<_> = outcome.created.difference(&names).collect();
        assert!(lost.is_empty(), "acknowledged and not there: {lost:?}");
        let undead: Vec<_> = names.intersection(&outcome.deleted).collect();
        assert!(
            undead.is_empty(),
            "deletion acknowledged and still there: {undead:?}"
        );
        let known: BTreeSet<_> = outcome.created.union(&outcome.unknown).cloned().collect();
        let strange: Vec<_> = names.difference(&known).collect();
        assert!(strange.is_empty(), "refused and there: {strange:?}");
        let mut total = 0;
        for n in 0..load::COUNTERS {
            let counter = send(client, "GET", &format!("{MAPS}/counter-{n}"), None)
                .await
                .unwrap();
            total += load::value(&counter);
        }
        let (least, most) = (outcome.counted, outcome.counted + outcome.uncounted);
        assert!(
            (least..=most).contains(&total),
            "counted {least} to {most} times, the counters say {total}"
        );
    }
}

async fn check_watches(clients: &[kube_client::Client; 2], watches: Vec<Watching>, begin: &str) {
    let list = send(&clients[0], "GET", MAPS, None).await.unwrap();
    let end: u64 = list["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let truth = timeout(harness::PATIENCE, history(&clients[1], begin, end))
        .await
        .expect("the history in time");
    for watch in watches {
        let seen = watch.stop(truth.last().map_or(0, |event| event.revision)).await;
        let first = seen.iter().zip(&truth).position(|(seen, truth)| seen != truth);
        assert_eq!(seen.len(), truth.len(), "first difference at {first:?}");
        assert_eq!(
            first,
            None,
            "saw {:?}, there was {:?}",
            &seen[first.unwrap()],
            &truth[first.unwrap()]
        );
    }
    println!("{} events, all seen by both watches", truth.len());
}
