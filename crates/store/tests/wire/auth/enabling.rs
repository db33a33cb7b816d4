//! Authentication that is switched on while requests of callers without a name wait in line.

use std::sync::Arc;
use std::time::Duration;

use setpoint_store::simulation::{Simulated, Worker};
use setpoint_testkit::SimDisk;
use tokio::task::JoinHandle;

use super::*;

/// A front over a store whose commits are made by hand.
struct ByHand {
    server: Server,
    sim: Simulated,
}

impl ByHand {
    async fn start() -> Self {
        let options = Options {
            prefill: false,
            ..Options::new("/data")
        };
        let sim = Simulated::open(options, Arc::new(SimDisk::default())).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let listeners = vec![Listener::tcp(listener)];
        let server = Server::over(TempDir::new(), sim.store().clone(), addr, fast, listeners);
        Self { server, sim }
    }

    /// Lets everything commit until `calls` are over.
    async fn commit_until<T>(&self, calls: impl Future<Output = T>) -> T {
        let mut calls = std::pin::pin!(calls);
        loop {
            tokio::select! {
                done = &mut calls => return done,
                () = tokio::time::sleep(Duration::from_millis(1)) => { self.sim.step(Worker::Sequencer); }
            }
        }
    }

    /// Starts a call and waits until it is in line, behind those that are there.
    async fn in_line<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, Status>> + Send + 'static,
    ) -> JoinHandle<Result<(), Status>> {
        let before = self.sim.waiting();
        #[expect(clippy::disallowed_methods, reason = "a test's own call, which it awaits")]
        let call = tokio::spawn(async move { call.await.map(drop) });
        let arrived = async {
            while self.sim.waiting() == before {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let arrived = tokio::time::timeout(Duration::from_secs(20), arrived).await;
        arrived.expect("the call gets in line");
        call
    }
}

fn leased(key: &str, lease: i64) -> pb::PutRequest {
    pb::PutRequest {
        lease,
        ..put(key, "v")
    }
}

fn grant(id: i64) -> pb::LeaseGrantRequest {
    pb::LeaseGrantRequest { id, ttl: 600 }
}

fn revoke(id: i64) -> pb::LeaseRevokeRequest {
    pb::LeaseRevokeRequest { id }
}

fn delete(key: &str) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest {
        key: key.to_owned().into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn what_waits_in_line_without_a_name_is_refused_once_authentication_is_on() {
    let by_hand = ByHand::start().await;
    let nobody = by_hand.server.nobody().await;
    let (kv, auth) = (nobody.kv(), nobody.auth());
    let lease = LeaseClient::new(nobody.channel.clone());
    by_hand
        .commit_until(async {
            nobody.user_add("root", "rootpw", &["root"]).await;
            for id in [7, 8] {
                lease.clone().lease_grant(grant(id)).await.unwrap();
            }
            kv.clone().put(leased("leased", 7)).await.unwrap();
        })
        .await;

    let enable = {
        let mut auth = auth.clone();
        by_hand
            .in_line(async move { auth.auth_enable(pb::AuthEnableRequest {}).await })
            .await
    };
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut kv = kv.clone();
        let call = async move { kv.put(leased("late", 8)).await };
        waiting.push(by_hand.in_line(call).await);
    }
    let mut client = kv.clone();
    waiting.push(
        by_hand
            .in_line(async move { client.delete_range(delete("leased")).await })
            .await,
    );
    let mut client = kv.clone();
    let txn = pb::TxnRequest {
        success: vec![op(Op::RequestPut(put("late", "v")))],
        ..Default::default()
    };
    waiting.push(by_hand.in_line(async move { client.txn(txn).await }).await);
    let mut client = lease.clone();
    waiting.push(
        by_hand
            .in_line(async move { client.lease_revoke(revoke(7)).await })
            .await,
    );
    // What touches no key needs no right to one, in etcd as well.
    let mut client = lease.clone();
    let bare = by_hand
        .in_line(async move { client.lease_revoke(revoke(8)).await })
        .await;
    let mut client = lease.clone();
    let granted = by_hand
        .in_line(async move { client.lease_grant(grant(9)).await })
        .await;

    // All in one commit.
    assert!(by_hand.sim.step(Worker::Sequencer));
    enable.await.unwrap().unwrap();
    for call in waiting {
        refused(call.await.unwrap(), Code::InvalidArgument, EMPTY);
    }
    bare.await.unwrap().unwrap();
    granted.await.unwrap().unwrap();

    let root = nobody.login("root", "rootpw").await.unwrap();
    root.get("leased", "").await.unwrap();
    let late = root
        .kv()
        .range(root.request(get("late", "")))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(late.count, 0);
    let leased = root
        .kv()
        .range(root.request(get("leased", "")))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(leased.count, 1);
    // Off again: a name is not asked for, neither when it is checked nor when it is decided.
    let (mut off, request) = (root.auth(), root.request(pb::AuthDisableRequest {}));
    by_hand
        .commit_until(async { off.auth_disable(request).await.unwrap() })
        .await;
    by_hand
        .commit_until(async { nobody.put("late").await.unwrap() })
        .await;
    by_hand.server.tasks.shutdown(Duration::from_secs(10)).await;
    by_hand.sim.close();
}
