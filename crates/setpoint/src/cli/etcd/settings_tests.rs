//! What the flags come to, and what is refused.

use super::super::parse::parse;
use super::*;

fn settled(args: &[&str]) -> Result<Settings, Vec<String>> {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    settle(
        Said::here(&parse(&args).unwrap(), &[]).unwrap(),
        Path::new("/nowhere"),
    )
}

#[track_caller]
fn refused(args: &[&str], expect: &str) {
    let problems = settled(args).unwrap_err();
    assert!(
        problems.iter().any(|problem| problem.contains(expect)),
        "{problems:?}"
    );
}

#[test]
fn nothing_said_means_etcds_defaults() {
    let settings = settled(&[]).unwrap();
    assert_eq!(settings.plane.data_dir, Path::new("/nowhere/default.etcd"));
    assert_eq!(
        settings.plane.etcd_listen,
        [ListenOn {
            plain: true,
            ..ListenOn::tcp("127.0.0.1:2379".parse().unwrap())
        }]
    );
    assert_eq!(settings.plane.etcd.client_urls, ["http://localhost:2379"]);
    assert_eq!(settings.plane.etcd.member_name, "default");
    assert_eq!(settings.plane.auto_compaction, None);
    assert_eq!(settings.plane.etcd.slow_call, Some(Duration::from_millis(300)));
    assert!(!settings.plane.etcd.call_times);
    assert!(settings.remarks.is_empty());
}

#[test]
fn the_flags_of_kubeadm_are_understood() {
    let settings = settled(&[
        "--name=node1",
        "--data-dir=/var/lib/etcd",
        "--advertise-client-urls=https://10.0.0.1:2379",
        "--initial-advertise-peer-urls=https://10.0.0.1:2380",
        "--initial-cluster=node1=https://10.0.0.1:2380",
        "--listen-client-urls=https://127.0.0.1:2379,https://10.0.0.1:2379",
        "--listen-metrics-urls=http://127.0.0.1:2381",
        "--listen-peer-urls=https://10.0.0.1:2380",
        "--cert-file=/pki/server.crt",
        "--key-file=/pki/server.key",
        "--client-cert-auth=true",
        "--trusted-ca-file=/pki/ca.crt",
        "--peer-cert-file=/pki/peer.crt",
        "--peer-key-file=/pki/peer.key",
        "--peer-client-cert-auth=true",
        "--peer-trusted-ca-file=/pki/ca.crt",
        "--snapshot-count=10000",
        "--feature-gates=InitialCorruptCheck=true",
        "--watch-progress-notify-interval=5s",
        "--quota-backend-bytes=8589934592",
    ])
    .unwrap();
    let plane = &settings.plane;
    assert_eq!(plane.etcd.peer_urls, ["https://10.0.0.1:2380"]);
    let served: Vec<_> = plane.etcd_listen.iter().map(|on| (on.serves, on.plain)).collect();
    assert_eq!(
        served,
        [
            (Serves::All, false),
            (Serves::All, false),
            (Serves::Metrics, true)
        ]
    );
    assert!(plane.etcd.tls.as_ref().unwrap().client_cert_auth);
    assert_eq!(plane.store.quota_bytes, 8 << 30);
    assert_eq!(plane.store.progress_interval, Duration::from_secs(5));
    let about: Vec<&str> = settings.remarks.iter().map(|remark| &remark.about[..]).collect();
    assert_eq!(
        about,
        [
            "--listen-peer-urls",
            "--peer-cert-file",
            "--peer-key-file",
            "--peer-client-cert-auth",
            "--peer-trusted-ca-file"
        ]
    );
}

#[test]
fn a_cluster_of_three_is_refused_with_a_way_out() {
    refused(
        &[
            "--name=a",
            "--initial-cluster=a=http://1.1.1.1:1,b=http://2.2.2.2:1,c=http://3.3.3.3:1",
        ],
        "--initial-cluster names 3 members (a, b, c)",
    );
    refused(&["--initial-cluster-state=existing"], "holds no member");
    refused(
        &["--name=b", "--initial-cluster=a=http://1.1.1.1:1"],
        "couldn't find local name \"b\"",
    );
    refused(&["--discovery-endpoints=http://1.1.1.1:1"], "no other members");
    let two_urls = "--initial-cluster=a=http://1.1.1.1:1,a=http://1.1.1.1:2";
    assert!(settled(&["--name=a", two_urls]).is_ok());
}

#[test]
fn what_cannot_be_honoured_is_refused_and_its_default_is_not() {
    refused(
        &["--cipher-suites=TLS_RSA_WITH_AES_128_CBC_SHA"],
        "--cipher-suites",
    );
    refused(&["--auth-token=jwt,pub-key=a"], "--auth-token: read a");
    refused(&["--bcrypt-cost=3"], "--bcrypt-cost is 3: give one from 4 to 31");
    refused(&["--memory-mlock"], "without swap");
    refused(&["--cert-file=a"], "both --cert-file and --key-file");
    refused(&["--client-cert-auth"], "--trusted-ca-file");
    refused(&["--listen-client-urls=https://127.0.0.1:1"], "TLS key/cert");
    refused(
        &["--listen-client-urls=http://example.com:1"],
        "expected IP in URL",
    );
    refused(&["--log-outputs=default,a.log"], "multi logoutput");
    for max in ["0", "2147483647", "18446744073709551615"] {
        let flag = format!("--max-request-bytes={max}");
        refused(
            &[&flag],
            &format!("--max-request-bytes is {max}: give 1 to 1073741823"),
        );
    }
    refused(
        &["--auto-compaction-retention=soon"],
        "--auto-compaction-retention: ",
    );
    assert!(settled(&["--memory-mlock=false", "--cipher-suites=", "--cors=*"]).is_ok());
}

#[test]
fn extensive_metrics_have_how_long_calls_take() {
    let settings = settled(&["--metrics=extensive"]).unwrap();
    assert!(settings.plane.etcd.call_times);
    assert!(settings.remarks.is_empty());
}

#[test]
fn http_apart_leaves_grpc_alone() {
    let plane = settled(&["--listen-client-http-urls=http://127.0.0.1:8080"])
        .unwrap()
        .plane;
    let served: Vec<_> = plane.etcd_listen.iter().map(|on| on.serves).collect();
    assert_eq!(served, [Serves::Grpc, Serves::Http]);
}

#[test]
fn sockets_of_this_machine_are_enough_with_tls_and_without() {
    let plane = settled(&["--listen-client-urls=unix:///run/etcd.sock"])
        .unwrap()
        .plane;
    let on = |plain| ListenOn {
        place: crate::plane::Place::Unix("/run/etcd.sock".into()),
        plain,
        serves: Serves::All,
    };
    assert_eq!(plane.etcd_listen, [on(true)]);
    let secure = &["--listen-client-urls=unixs:///run/etcd.sock", "--auto-tls"];
    assert_eq!(settled(secure).unwrap().plane.etcd_listen, [on(false)]);
    let problems = settled(&["--listen-client-urls=unixs:///run/etcd.sock"]).unwrap_err();
    assert!(problems[0].contains("must be provided for client url unixs:///run/etcd.sock"));
}

#[test]
fn retention_is_hours_or_a_time_or_revisions() {
    let periodic = |seconds| Ok(Some(AutoCompaction::Periodic(Duration::from_secs(seconds))));
    assert_eq!(auto_compaction("periodic", "0"), Ok(None));
    assert_eq!(auto_compaction("periodic", "2"), periodic(7200));
    assert_eq!(auto_compaction("periodic", "30m"), periodic(1800));
    assert_eq!(
        auto_compaction("revision", "1000"),
        Ok(Some(AutoCompaction::Revisions(1000)))
    );
    assert!(auto_compaction("revision", "5m").is_err());
    assert!(auto_compaction("periodic", "soon").is_err());
}
