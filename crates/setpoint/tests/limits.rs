//! Rate limits from a file: what refused clients are told, and that a change needs no restart.

use std::time::Duration;

use setpoint::envtest::TempDir;
use setpoint_proto::etcdserverpb::kv_client::KvClient;
use setpoint_proto::etcdserverpb::{PutRequest, RangeRequest};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::harness::{Server, call, command, eventually, run};

const RULES: &str = "
rules:
- {name: puts, methods: [/etcdserverpb.KV/Put], per: connection, rate: 1/h, burst: 5}
- {name: lists, methods: [list configmaps], per: peer, rate: 1/h, burst: 2}
";

async fn put(kv: &mut KvClient<Channel>) -> Result<(), Status> {
    let put = PutRequest {
        key: "k".into(),
        value: "v".into(),
        ..Default::default()
    };
    kv.put(put).await.map(drop)
}

/// How many of twenty puts are admitted, and what the last refused one was told.
async fn flood(kv: &mut KvClient<Channel>) -> (usize, Option<Status>) {
    let (mut admitted, mut last) = (0, None);
    for _ in 0..20 {
        match put(kv).await {
            Ok(()) => admitted += 1,
            Err(status) => last = Some(status),
        }
    }
    (admitted, last)
}

#[tokio::test]
async fn limits_refuse_with_a_time_to_come_again_and_change_without_a_restart() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("limits.yaml");
    std::fs::write(&file, RULES).unwrap();
    let server = Server::start(dir.path(), &["--limits", &file.to_string_lossy()]).await;
    let (mut noisy, mut quiet) = (server.kv().await, server.kv().await);
    let (admitted, refused) = flood(&mut noisy).await;
    let refused = refused.unwrap();
    assert_eq!((admitted, refused.code()), (5, Code::ResourceExhausted));
    assert!(refused.message().contains("\"puts\""), "{refused}");
    let told = refused.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(told.as_secs() > 3_000 && told.as_secs() <= 3_600, "{told:?}");
    let pushback = refused.metadata().get("grpc-retry-pushback-ms").unwrap();
    let pushback: u128 = pushback.to_str().unwrap().parse().unwrap();
    assert_eq!(pushback, told.as_nanos().div_ceil(1_000_000));
    // Other methods and other connections are not concerned.
    noisy
        .range(RangeRequest {
            key: "k".into(),
            ..Default::default()
        })
        .await
        .unwrap();
    assert_eq!(flood(&mut quiet).await.0, 5);

    let kube = server.kube().await;
    let path = "/api/v1/namespaces/default/configmaps";
    for _ in 0..2 {
        call(&kube, "GET", path, None).await.unwrap();
    }
    // A stock client does as it is told: it waits.
    let third = tokio::time::timeout(Duration::from_secs(1), call(&kube, "GET", path, None)).await;
    assert!(third.is_err(), "{third:?}");
    call(&kube, "GET", "/api/v1/namespaces/default/secrets", None)
        .await
        .unwrap();

    // A wrong file changes nothing; a right one acts on connections that are open.
    std::fs::write(&file, "rules: [{name: puts, rate: never}]").unwrap();
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert_eq!(flood(&mut noisy).await.0, 0);
    std::fs::write(&file, "").unwrap();
    eventually("the limits are lifted", async || put(&mut noisy).await.ok()).await;
    assert_eq!(flood(&mut noisy).await.0, 20);
    assert_eq!(server.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_change_of_what_open_connections_keep_is_said() {
    let dir = TempDir::new().unwrap();
    let (file, log) = (dir.path().join("limits.yaml"), dir.path().join("log"));
    std::fs::write(&file, "rules: [{name: puts, rate: 1000/s}]").unwrap();
    let flag = format!("--limits={}", file.display());
    let mut server = command(dir.path(), &["server", "--roles=store", &flag]);
    server.stderr(std::fs::File::create(&log).unwrap());
    let server = Server::spawn(server, dir.path()).await;
    let said = |what: &str| std::fs::read_to_string(&log).unwrap().matches(what).count();
    for (n, (text, open)) in [
        (
            "concurrency: [{name: c, per: connection, limit: 7}]",
            "calls=\"7\"",
        ),
        (
            "rules: [{name: puts, rate: 9/s}]",
            "calls=\"as many as without a rule\"",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        std::fs::write(&file, text).unwrap();
        eventually(text, async || {
            (said("rate limits changed") == n + 1).then_some(())
        })
        .await;
        assert_eq!((said("from now on"), said(open)), (n + 1, 1));
    }
    // What does not concern them says nothing of them.
    std::fs::write(&file, "rules: [{name: puts, rate: 8/s}]").unwrap();
    eventually("the rate", async || {
        (said("rate limits changed") == 3).then_some(())
    })
    .await;
    assert_eq!(said("from now on"), 2);
    assert_eq!(server.stop().await.code(), Some(0));
}

#[test]
fn a_wrong_file_at_the_start_is_refused_with_its_problems() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("limits.yaml");
    let flag = format!("--limits={}", file.display());
    for (text, problem) in [
        (None, "No such file"),
        (
            Some("rules: [{name: a, rate: 5}]"),
            "rules[0].rate: \"5\" is no rate",
        ),
        (Some("rules: [{name: a, rate: 1/s, per: planet}]"), "planet"),
        (Some("[]"), "limits.yaml"),
    ] {
        match text {
            Some(text) => std::fs::write(&file, text).unwrap(),
            None => assert!(!file.exists()),
        }
        let output = run(dir.path(), &["server", &flag]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && stderr.contains(problem), "{stderr}");
    }
}
