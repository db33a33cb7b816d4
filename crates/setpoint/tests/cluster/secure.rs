//! A cluster that wants TLS, a client certificate, a user and a password; and tokens that end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::json;
use setpoint::envtest::TempDir;
use tokio::time::sleep;

use crate::load::{self, send};
use crate::members::{Members, Security};
use crate::watching::Watching;
use crate::{MAPS, harness, server_with};

/// An authority, and a certificate for each side.
fn security(dir: &Path) -> Security {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "members");
    let key = KeyPair::generate().unwrap();
    let ca = dir.join("ca.crt");
    std::fs::write(&ca, params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    let sign = |name: &str, usage| -> (PathBuf, PathBuf) {
        let mut params =
            CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = usage;
        let key = KeyPair::generate().unwrap();
        let (cert, pem) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        std::fs::write(&cert, params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
        std::fs::write(&pem, key.serialize_pem()).unwrap();
        (cert, pem)
    };
    Security {
        ca,
        // etcd dials itself with its own certificate, for its gateway.
        server: sign(
            "member",
            vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
        ),
        client: sign("root", vec![ExtendedKeyUsagePurpose::ClientAuth]),
        token_ttl: 2,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plane_works_in_its_prefix_as_a_user_and_gets_new_tokens_by_itself() {
    let dir = TempDir::new().unwrap();
    let security = security(dir.path());
    let mut members = Members::start_secure(dir.path(), 3, security.clone()).await;
    members.ctl(&["user", "add", "root:toor"]);
    members.ctl(&["user", "grant-role", "root", "root"]);
    members.ctl(&["user", "add", "plane:secret"]);
    members.ctl(&["role", "add", "blue"]);
    members.ctl(&[
        "role",
        "grant-permission",
        "--prefix",
        "blue",
        "readwrite",
        "/blue/",
    ]);
    members.ctl(&["user", "grant-role", "plane", "blue"]);
    members.ctl(&["auth", "enable"]);

    let password = dir.path().join("password");
    std::fs::write(&password, "secret\n").unwrap();
    let endpoints = members.endpoints();
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let (ca, cert, key) = (
        path(&security.ca),
        path(&security.client.0),
        path(&security.client.1),
    );
    let password = path(&password);
    let args = [
        "--engine=etcd",
        "--etcd-endpoints",
        &endpoints,
        "--etcd-cacert",
        &ca,
        "--etcd-cert",
        &cert,
        "--etcd-key",
        &key,
        "--etcd-user=plane",
        "--etcd-password-file",
        &password,
        "--etcd-prefix=/blue",
    ];
    let plane = server_with(&dir.path().join("plane"), &args).await;
    let client = load::client(plane.text("kubeconfig")).await;
    let begin = send(&client, "GET", MAPS, None).await.unwrap();
    let begin = begin["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let watch = Watching::start(client.clone(), &begin);
    let make = async |n: usize| {
        let map = json!({"metadata": {"name": format!("m-{n}")}});
        // One whose answer was lost is there when it is made again.
        harness::eventually("a write", async || {
            match send(&client, "POST", MAPS, Some(map.clone())).await {
                Err(409) => send(&client, "GET", &format!("{MAPS}/m-{n}"), None).await.ok(),
                made => made.ok(),
            }
        })
        .await
    };
    make(0).await;
    // Longer than a token lasts that nobody uses.
    sleep(Duration::from_secs(6)).await;
    make(1).await;
    // Members keep tokens in memory: after this none of them is known to anybody.
    for index in 0..3 {
        members.kill(index);
        members.restart(index).await;
    }
    let last = make(2).await;
    // All of it lies under the prefix: the user may write nowhere else.
    let revision = last["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let seen = watch.stop(revision).await;
    let names: Vec<_> = seen.iter().map(|seen| seen.name.as_str()).collect();
    assert_eq!(
        names
            .iter()
            .filter(|name| name.starts_with("m-"))
            .collect::<Vec<_>>(),
        [&"m-0", &"m-1", &"m-2"]
    );
    assert!(plane.stop().await.success());
}
