//! What clients of the two fronts wrote is there afterwards, and which of them may write what.

use bytes::Bytes;
use serde_json::json;
use setpoint::envtest::{Plane, TempDir};
use setpoint_proto::etcdserverpb::{PutRequest, RangeRequest};

use crate::harness::{Server, call, kube};

#[tokio::test]
async fn what_was_written_is_there_after_a_stop_and_after_a_kill() {
    let dir = TempDir::new().unwrap();
    for round in 0..3_u8 {
        let server = Server::start(dir.path(), &[]).await;
        let mut kv = server.kv().await;
        let kube = server.kube().await;
        let range = RangeRequest {
            key: Bytes::from_static(b"k"),
            range_end: Bytes::from_static(b"l"),
            ..Default::default()
        };
        let found = kv.range(range).await.unwrap().into_inner();
        assert_eq!(found.count, i64::from(round), "keys of the rounds before");
        let put = PutRequest {
            key: format!("k{round}").into(),
            value: "v".into(),
            ..Default::default()
        };
        kv.put(put).await.unwrap();
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m{round}")}, "data": {"a": "b"}});
        call(
            &kube,
            "POST",
            "/api/v1/namespaces/default/configmaps",
            Some(("application/json", map)),
        )
        .await
        .unwrap();
        for earlier in 0..=round {
            let path = format!("/api/v1/namespaces/default/configmaps/m{earlier}");
            assert_eq!(call(&kube, "GET", &path, None).await.unwrap()["data"]["a"], "b");
        }
        if round == 0 {
            assert_eq!(server.stop().await.code(), Some(0));
        } else {
            server.kill();
        }
    }
}

#[tokio::test]
async fn etcd_clients_read_the_registry_but_write_it_only_when_allowed() {
    for (args, allowed) in [(&[][..], false), (&["--etcd-writes-registry"][..], true)] {
        let dir = TempDir::new().unwrap();
        let server = Server::start(dir.path(), args).await;
        let mut kv = server.kv().await;
        let range = RangeRequest {
            key: Bytes::from_static(b"/registry/"),
            range_end: Bytes::from_static(b"/registry0"),
            keys_only: true,
            ..Default::default()
        };
        assert!(kv.range(range).await.unwrap().into_inner().count > 0);
        let put = PutRequest {
            key: "/registry/x".into(),
            value: "y".into(),
            ..Default::default()
        };
        let result = kv.put(put).await;
        assert_eq!(result.is_ok(), allowed);
        if let Err(status) = result {
            assert_eq!(status.code(), tonic::Code::PermissionDenied);
            assert!(status.message().contains("--etcd-writes-registry"), "{status}");
        }
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plane_in_a_test_serves_https_and_forgets_nothing_over_a_restart() {
    let mut plane = Plane::start().await.unwrap();
    let client = kube(plane.kubeconfig()).await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "b"}});
    let path = "/api/v1/namespaces/default/configmaps";
    call(&client, "POST", path, Some(("application/json", map)))
        .await
        .unwrap();
    plane.restart().await.unwrap();
    let client = kube(plane.kubeconfig()).await;
    let map = call(&client, "GET", &format!("{path}/m"), None).await.unwrap();
    assert_eq!(map["data"]["a"], "b");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metrics_of_every_part_are_on_the_api_port() {
    let plane = Plane::start().await.unwrap();
    let client = kube(plane.kubeconfig()).await;
    call(&client, "GET", "/api/v1/namespaces", None).await.unwrap();
    let request = http::Request::get("/metrics").body(Vec::new()).unwrap();
    let text = client.request_text(request).await.unwrap();
    for prefix in [
        "apiserver_request_total",
        "etcd_",
        "process_resident_memory_bytes",
    ] {
        assert!(
            text.lines().any(|line| line.starts_with(prefix)),
            "{prefix}: {text}"
        );
    }
    plane.stop().await;
}
